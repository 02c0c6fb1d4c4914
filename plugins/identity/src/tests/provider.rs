//! An identity provider on a real socket that misbehaves as told, and counts what it is asked.

use super::signer::{Signer, jwks};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

#[derive(Clone)]
pub(crate) enum Answer {
    Json(String),
    /// With an ETag: `304` to whoever has it.
    Tagged(String, &'static str),
    Typed(String, &'static str),
    Status(u16),
    Redirect(String),
    Hang,
}

#[derive(Default)]
pub(crate) struct Asked {
    pub documents: usize,
    pub keys: usize,
    pub not_modified: usize,
    /// The `Authorization` header and the form of each question about a token.
    pub tokens: Vec<(String, String)>,
}

struct Script {
    document: Answer,
    keys: Answer,
    token: Answer,
    asked: Asked,
}

pub(crate) struct Provider {
    pub address: SocketAddr,
    script: Arc<Mutex<Script>>,
    /// While closed, requests for keys and about tokens wait: a test can see who piles up behind one fetch.
    gate: watch::Sender<bool>,
    server: Option<tokio::task::JoinHandle<()>>,
    tls: Option<TlsAcceptor>,
}

impl Provider {
    pub async fn start(signers: &[&Signer]) -> Self {
        Self::start_with(signers, None).await
    }

    /// As `https://localhost`.
    pub async fn start_tls(signers: &[&Signer], certificate: CertificateDer<'static>, key: Vec<u8>) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], PrivatePkcs8KeyDer::from(key).into())
            .unwrap();
        Self::start_with(signers, Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn start_with(signers: &[&Signer], tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let issuer = issuer_of(address, tls.is_some());
        let document =
            format!(r#"{{"issuer":"{issuer}","jwks_uri":"{issuer}/keys","introspection_endpoint":"{issuer}/introspect"}}"#);
        let keys: Vec<_> = signers.iter().map(|signer| signer.jwk()).collect();
        let script = Script {
            document: Answer::Json(document),
            keys: Answer::Json(jwks(&keys)),
            token: Answer::Status(404),
            asked: Asked::default(),
        };
        let (gate, _) = watch::channel(true);
        let mut provider = Self { address, script: Arc::new(Mutex::new(script)), gate, server: None, tls };
        provider.serve(listener);
        provider
    }

    pub fn issuer(&self) -> String {
        issuer_of(self.address, self.tls.is_some())
    }

    fn serve(&mut self, listener: TcpListener) {
        let (script, gate, tls) = (Arc::clone(&self.script), self.gate.subscribe(), self.tls.clone());
        self.server = Some(tokio::spawn(async move {
            // Connections end with the server.
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let (script, gate, tls) = (Arc::clone(&script), gate.clone(), tls.clone());
                connections.spawn(async move {
                    let service = service_fn(move |request| answer(Arc::clone(&script), gate.clone(), request));
                    let http = hyper::server::conn::http1::Builder::new();
                    match tls {
                        None => drop(http.serve_connection(TokioIo::new(stream), service).await),
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                let _ = http.serve_connection(TokioIo::new(stream), service).await;
                            }
                        }
                    }
                });
            }
        }));
    }

    /// Nothing listens any more.
    pub async fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
            let _ = server.await;
        }
    }

    pub async fn restart(&mut self) {
        self.stop().await;
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.address).unwrap();
        self.serve(socket.listen(16).unwrap());
    }

    pub fn publish(&self, signers: &[&Signer]) {
        let keys: Vec<_> = signers.iter().map(|signer| signer.jwk()).collect();
        self.answer_keys(Answer::Json(jwks(&keys)));
    }

    pub fn answer_keys(&self, answer: Answer) {
        self.script.lock().keys = answer;
    }

    /// About any token.
    pub fn answer_token(&self, answer: Answer) {
        self.script.lock().token = answer;
    }

    pub fn questions(&self) -> Vec<(String, String)> {
        self.script.lock().asked.tokens.clone()
    }

    pub fn answer_document(&self, answer: Answer) {
        self.script.lock().document = answer;
    }

    pub fn close_gate(&self) {
        self.gate.send_replace(false);
    }

    pub fn open_gate(&self) {
        self.gate.send_replace(true);
    }

    pub fn key_fetches(&self) -> usize {
        self.script.lock().asked.keys
    }

    pub fn document_fetches(&self) -> usize {
        self.script.lock().asked.documents
    }

    pub fn not_modified(&self) -> usize {
        self.script.lock().asked.not_modified
    }
}

fn issuer_of(address: SocketAddr, tls: bool) -> String {
    if tls { format!("https://localhost:{}", address.port()) } else { format!("http://{address}") }
}

impl Drop for Provider {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
        }
    }
}

async fn answer(
    script: Arc<Mutex<Script>>,
    mut gate: watch::Receiver<bool>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (for_keys, for_token) = (request.uri().path() == "/keys", request.uri().path() == "/introspect");
    let headers = request.headers().clone();
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let answer = {
        let mut script = script.lock();
        if for_token {
            let authorization = headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
            script.asked.tokens.push((authorization.unwrap_or_default(), String::from_utf8(body.to_vec()).unwrap()));
            script.token.clone()
        } else if for_keys {
            script.asked.keys += 1;
            script.keys.clone()
        } else {
            script.asked.documents += 1;
            script.document.clone()
        }
    };
    if for_keys || for_token {
        let _ = gate.wait_for(|open| *open).await;
    }
    let builder = Response::builder();
    Ok(match answer {
        Answer::Json(body) => builder.header("content-type", "application/json").body(Full::from(body)),
        Answer::Typed(body, content_type) => builder.header("content-type", content_type).body(Full::from(body)),
        Answer::Tagged(body, tag) => {
            if headers.get("if-none-match").is_some_and(|given| given == tag) {
                script.lock().asked.not_modified += 1;
                builder.status(304).body(Full::default())
            } else {
                builder.header("etag", tag).body(Full::from(body))
            }
        }
        Answer::Status(status) => builder.status(status).body(Full::from("<html>oops</html>")),
        Answer::Redirect(to) => builder.status(302).header("location", to).body(Full::default()),
        Answer::Hang => std::future::pending().await,
    }
    .unwrap())
}
