//! An authorization service as others write one: tonic's server, with messages generated from Envoy's own files. Nothing in it
//! is the gateway's.

use envoy_types::ext_authz::v3::pb::{
    Authorization, AuthorizationServer, CheckRequest, CheckResponse, HeaderAppendAction, HttpStatusCode,
};
use envoy_types::ext_authz::v3::{CheckResponseExt, DeniedHttpResponseBuilder, OkHttpResponseBuilder};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer};
use futures::stream::unfold;
use portcullis_testkit::Port;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tonic::Status;

pub type Answer = Result<CheckResponse, Status>;
type Judge = Arc<dyn Fn(&HttpRequest) -> Option<Answer> + Send + Sync>;

/// What stops it, and itself.
type Server = (oneshot::Sender<()>, JoinHandle<Result<(), tonic::transport::Error>>);

/// Judges each question, or lets it wait for ever.
#[derive(Clone)]
pub struct Service(Arc<Shared>);

struct Shared {
    port: Port,
    judge: Mutex<Judge>,
    asked: Mutex<Vec<CheckRequest>>,
    connections: Arc<AtomicUsize>,
    /// Questions without an answer.
    waiting: AtomicUsize,
    server: Mutex<Option<Server>>,
}

#[tonic::async_trait]
impl Authorization for Service {
    async fn check(&self, request: tonic::Request<CheckRequest>) -> Result<tonic::Response<CheckResponse>, Status> {
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        let message = request.into_inner();
        let http = http_of(&message);
        self.0.asked.lock().unwrap().push(message);
        let judge = Arc::clone(&self.0.judge.lock().unwrap());
        match judge(&http) {
            Some(answer) => answer.map(tonic::Response::new),
            None => {
                self.0.waiting.fetch_add(1, Ordering::SeqCst);
                let _waiting = Waiting(&self.0.waiting);
                std::future::pending().await
            }
        }
    }
}

impl Service {
    pub async fn start(judge: impl Fn(&HttpRequest) -> Option<Answer> + Send + Sync + 'static) -> Self {
        Self::start_at(None, judge)
    }

    pub fn start_at(
        tls: Option<Arc<rustls::ServerConfig>>,
        judge: impl Fn(&HttpRequest) -> Option<Answer> + Send + Sync + 'static,
    ) -> Self {
        let service = Self(Arc::new(Shared {
            port: Port::reserve().unwrap(),
            judge: Mutex::new(Arc::new(judge)),
            asked: Mutex::default(),
            connections: Arc::default(),
            waiting: AtomicUsize::new(0),
            server: Mutex::default(),
        }));
        service.come_back(tls);
        service
    }

    pub fn come_back(&self, tls: Option<Arc<rustls::ServerConfig>>) {
        let listener = self.0.port.listen().unwrap();
        let router = tonic::transport::Server::builder().add_service(AuthorizationServer::new(self.clone()));
        let connections = Arc::clone(&self.0.connections);
        let (stop, stopped) = oneshot::channel();
        let stopped = async { drop(stopped.await) };
        let server = match tls {
            None => tokio::spawn(router.serve_with_incoming_shutdown(plain(listener, connections), stopped)),
            Some(config) => {
                let incoming = secure(listener, TlsAcceptor::from(config), connections);
                tokio::spawn(router.serve_with_incoming_shutdown(incoming, stopped))
            }
        };
        *self.0.server.lock().unwrap() = Some((stop, server));
    }

    /// Stops to listen, and ends every connection with GOAWAY.
    pub async fn go_down(&self) {
        let (stop, server) = self.0.server.lock().unwrap().take().unwrap();
        stop.send(()).unwrap();
        server.await.unwrap().unwrap();
    }

    pub fn judge(&self, judge: impl Fn(&HttpRequest) -> Option<Answer> + Send + Sync + 'static) {
        *self.0.judge.lock().unwrap() = Arc::new(judge);
    }

    pub fn address(&self) -> SocketAddr {
        self.0.port.address()
    }

    pub fn asked(&self) -> Vec<CheckRequest> {
        self.0.asked.lock().unwrap().clone()
    }

    pub fn connections(&self) -> usize {
        self.0.connections.load(Ordering::SeqCst)
    }

    pub fn waiting(&self) -> usize {
        self.0.waiting.load(Ordering::SeqCst)
    }
}

fn plain(listener: TcpListener, connections: Arc<AtomicUsize>) -> impl futures::Stream<Item = io::Result<TcpStream>> {
    unfold((listener, connections), |(listener, connections)| async move {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        connections.fetch_add(1, Ordering::SeqCst);
        Some((accepted, (listener, connections)))
    })
}

fn secure(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    connections: Arc<AtomicUsize>,
) -> impl futures::Stream<Item = io::Result<tokio_rustls::server::TlsStream<TcpStream>>> {
    unfold((listener, acceptor, connections), |(listener, acceptor, connections)| async move {
        loop {
            let (stream, _) = listener.accept().await.ok()?;
            connections.fetch_add(1, Ordering::SeqCst);
            if let Ok(stream) = acceptor.accept(stream).await {
                return Some((Ok(stream), (listener, acceptor, connections)));
            }
        }
    })
}

pub fn http_of(message: &CheckRequest) -> HttpRequest {
    message.attributes.clone().unwrap().request.unwrap().http.unwrap()
}

pub fn source_of(message: &CheckRequest) -> Peer {
    message.attributes.clone().unwrap().source.unwrap()
}

pub fn allow(fields: &[(&str, &str)]) -> Option<Answer> {
    let mut ok = OkHttpResponseBuilder::new();
    for (name, value) in fields {
        ok.add_header(*name, *value, Some(HeaderAppendAction::OverwriteIfExistsOrAdd), false);
    }
    let mut answer = CheckResponse::with_status(Status::ok("fine"));
    answer.set_http_response(ok);
    Some(Ok(answer))
}

pub fn deny(status: HttpStatusCode, fields: &[(&str, &str)]) -> Option<Answer> {
    let mut denied = DeniedHttpResponseBuilder::new();
    denied.set_http_status(status).set_body("internal");
    for (name, value) in fields {
        denied.add_header(*name, *value, None, false);
    }
    let mut answer = CheckResponse::with_status(Status::permission_denied("internal"));
    answer.set_http_response(denied);
    Some(Ok(answer))
}
