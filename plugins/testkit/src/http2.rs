//! HTTP/2, with and without TLS: an upstream that echoes and speaks as much gRPC as a gateway can see, and a client.

use crate::client::{Client, Response};
use crate::error::Error;
use crate::message::Field;
use crate::port::Port;
use crate::wait::{PATIENCE, until, within};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// A request as the HTTP/2 upstream got it.
#[derive(Debug, Clone, Default)]
pub struct Recorded {
    pub method: String,
    pub scheme: Option<String>,
    pub authority: Option<String>,
    pub path: String,
    pub headers: Vec<Field>,
    pub body: Vec<u8>,
    pub trailers: Vec<Field>,
    pub complete: bool,
}

impl Recorded {
    /// Every field of that name.
    pub fn header_all(&self, name: &str) -> Vec<String> {
        let named = self.headers.iter().filter(|(field, _)| field.eq_ignore_ascii_case(name));
        named.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
    }

    /// The first field of that name.
    pub fn header(&self, name: &str) -> Option<String> {
        self.header_all(name).into_iter().next()
    }
}

/// An HTTP/2 upstream on 127.0.0.1: by prior knowledge, or over TLS with ALPN `h2`. A client that agrees on `http/1.1` gets
/// that. It stops when it is dropped.
///
/// A request of `application/grpc` is answered piece by piece with its own body, and `grpc-status` as a trailer, which is
/// the request's `x-grpc-status` or 0. Any other gets a JSON account of itself. `/healthz` answers 200, unrecorded.
pub struct Http2Upstream {
    address: SocketAddr,
    recorded: Arc<Mutex<Vec<Recorded>>>,
    server: AbortHandle,
}

impl Http2Upstream {
    /// # Errors
    /// If there is no free port.
    pub async fn start() -> Result<Self, Error> {
        Self::serve(None)
    }

    /// With `h2` among the ALPN names of [`Identity::server_config`](crate::Identity::server_config).
    ///
    /// # Errors
    /// If there is no free port.
    pub async fn start_tls(config: Arc<rustls::ServerConfig>) -> Result<Self, Error> {
        Self::serve(Some(config))
    }

    fn serve(tls: Option<Arc<rustls::ServerConfig>>) -> Result<Self, Error> {
        let port = Port::reserve()?;
        let recorded = Arc::new(Mutex::default());
        let server = tokio::spawn(accept(port.listen()?, tls, Arc::clone(&recorded))).abort_handle();
        Ok(Self { address: port.address(), recorded, server })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn requests(&self) -> Vec<Recorded> {
        lock(&self.recorded).clone()
    }

    /// Waits until `count` requests have arrived, bodies included.
    ///
    /// # Errors
    /// If they don't come.
    pub async fn wait_for(&self, count: usize) -> Result<Vec<Recorded>, Error> {
        let complete = || lock(&self.recorded).iter().filter(|seen| seen.complete).count() >= count;
        until(&format!("HTTP/2 request {count}"), complete).await?;
        Ok(self.requests())
    }
}

impl Drop for Http2Upstream {
    fn drop(&mut self) {
        self.server.abort();
    }
}

type Recordings = Arc<Mutex<Vec<Recorded>>>;
type Reply = http::Response<BoxBody<Bytes, hyper::Error>>;

fn lock(recorded: &Mutex<Vec<Recorded>>) -> MutexGuard<'_, Vec<Recorded>> {
    recorded.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, tls: Option<Arc<rustls::ServerConfig>>, recorded: Recordings) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        while connections.try_join_next().is_some() {}
        let (tls, recorded) = (tls.clone(), Arc::clone(&recorded));
        connections.spawn(async move {
            match tls {
                None => connection(stream, true, recorded).await,
                Some(config) => {
                    let handshake = tokio_rustls::TlsAcceptor::from(config).accept(stream);
                    if let Ok(Ok(stream)) = tokio::time::timeout(PATIENCE, handshake).await {
                        let http2 = stream.get_ref().1.alpn_protocol() != Some(b"http/1.1");
                        connection(stream, http2, recorded).await;
                    }
                }
            }
        });
    }
}

async fn connection(stream: impl crate::message::Io + 'static, http2: bool, recorded: Recordings) {
    let service = service_fn(move |request| {
        let recorded = Arc::clone(&recorded);
        async move { Ok::<_, Infallible>(respond(request, recorded).await) }
    });
    let stream = TokioIo::new(stream);
    // A peer that goes away in the middle is the peer's business.
    let _ = match http2 {
        true => hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(stream, service).await,
        false => hyper::server::conn::http1::Builder::new().serve_connection(stream, service).await,
    };
}

async fn respond(request: Request<Incoming>, recorded: Recordings) -> Reply {
    if request.uri().path() == "/healthz" {
        return http::Response::new(Full::default().map_err(|never: Infallible| match never {}).boxed());
    }
    let (head, body) = request.into_parts();
    let seen = Recorded {
        method: head.method.to_string(),
        scheme: head.uri.scheme_str().map(str::to_owned),
        authority: head.uri.authority().map(ToString::to_string),
        path: head.uri.path_and_query().map_or_else(String::new, ToString::to_string),
        headers: fields(&head.headers),
        ..Recorded::default()
    };
    let at = {
        let mut all = lock(&recorded);
        all.push(seen);
        all.len() - 1
    };
    let is_grpc = head.headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if is_grpc { grpc(&head, body, at, recorded) } else { account(head.version, body, at, &recorded).await }
}

/// Sends each piece of the request back as it comes.
fn grpc(head: &http::request::Parts, body: Incoming, at: usize, recorded: Recordings) -> Reply {
    let status = head.headers.get("x-grpc-status").cloned().unwrap_or_else(|| HeaderValue::from_static("0"));
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", status);
    trailers.insert("grpc-message", HeaderValue::from_static("echo"));
    let end = Arc::clone(&recorded);
    let echo = body.map_frame(move |frame| {
        if let (Some(data), Some(seen)) = (frame.data_ref(), lock(&recorded).get_mut(at)) {
            seen.body.extend_from_slice(data);
        }
        frame
    });
    let finish = async move {
        if let Some(seen) = lock(&end).get_mut(at) {
            seen.complete = true;
        }
        Some(Ok(trailers))
    };
    let mut reply = http::Response::new(echo.with_trailers(finish).boxed());
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    reply
}

async fn account(version: http::Version, body: Incoming, at: usize, recorded: &Recordings) -> Reply {
    let collected = body.collect().await;
    let mut all = lock(recorded);
    let mut text = String::new();
    if let (Ok(body), Some(seen)) = (collected, all.get_mut(at)) {
        seen.trailers = body.trailers().map(fields).unwrap_or_default();
        seen.body = body.to_bytes().to_vec();
        seen.complete = true;
        let headers: Vec<Value> =
            seen.headers.iter().map(|(name, value)| json!([name, String::from_utf8_lossy(value)])).collect();
        text = json!({
            "method": seen.method,
            "authority": seen.authority,
            "target": seen.path,
            "version": if version == http::Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" },
            "headers": headers,
            "body": String::from_utf8_lossy(&seen.body),
        })
        .to_string();
    }
    let mut reply = http::Response::new(Full::from(text).map_err(|never: Infallible| match never {}).boxed());
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}

fn fields(headers: &HeaderMap) -> Vec<Field> {
    headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_owned())).collect()
}

/// A well-behaved HTTP/2 client. For what a well-behaved client cannot send, see [`frames`](crate::frames).
#[derive(Clone)]
pub struct Http2Client {
    sender: SendRequest<Full<Bytes>>,
    scheme: &'static str,
}

impl Http2Client {
    /// By prior knowledge, without TLS.
    ///
    /// # Errors
    /// If there is no connection.
    pub async fn connect(address: SocketAddr) -> Result<Self, Error> {
        let stream = within("connect", TcpStream::connect(address)).await?.map_err(Error::io(format!("connect to {address}")))?;
        Self::handshake(stream, "http").await
    }

    /// Over TLS. The configuration should offer `h2` by ALPN.
    ///
    /// # Errors
    /// If there is no connection, or the server does not choose `h2`.
    pub async fn connect_tls(address: SocketAddr, server_name: &str, config: Arc<rustls::ClientConfig>) -> Result<Self, Error> {
        let client = Client::connect_tls(address, server_name, config).await?;
        if client.alpn().as_deref() != Some("h2") {
            return Err(Error::Http(format!("the server chose {:?}, not h2", client.alpn())));
        }
        Self::handshake(client.into_stream(), "https").await
    }

    async fn handshake(stream: impl crate::message::Io + 'static, scheme: &'static str) -> Result<Self, Error> {
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (sender, connection) =
            within("the HTTP/2 handshake", handshake).await?.map_err(|error| Error::Http(error.to_string()))?;
        // Ends with the last sender.
        tokio::spawn(connection);
        Ok(Self { sender, scheme })
    }

    /// A request with these fields; its response with body and trailers.
    ///
    /// # Errors
    /// If it cannot be sent, or the stream is reset.
    pub async fn request(
        &mut self,
        method: &str,
        authority: &str,
        target: &str,
        fields: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Response, Error> {
        let refuse = |error: http::Error| Error::Request(error.to_string());
        let uri = format!("{}://{authority}{target}", self.scheme);
        let mut request = Request::builder().method(method).uri(uri).version(Version::HTTP_2);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::from(body.into())).map_err(refuse)?;
        within("an HTTP/2 response", self.exchange(request)).await?
    }

    /// # Errors
    /// As [`request`](Self::request).
    pub async fn get(&mut self, authority: &str, target: &str, fields: &[(&str, &str)]) -> Result<Response, Error> {
        self.request("GET", authority, target, fields, Bytes::new()).await
    }

    /// A unary gRPC call of one message.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub async fn grpc(
        &mut self,
        authority: &str,
        target: &str,
        fields: &[(&str, &str)],
        message: &[u8],
    ) -> Result<Response, Error> {
        let mut all = vec![("content-type", "application/grpc"), ("te", "trailers")];
        all.extend_from_slice(fields);
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
        let mut framed = vec![0];
        framed.extend_from_slice(&length.to_be_bytes());
        framed.extend_from_slice(message);
        self.request("POST", authority, target, &all, framed).await
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<Response, Error> {
        let broken = |error: hyper::Error| {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            Error::Http(format!("{error}{cause}"))
        };
        self.sender.ready().await.map_err(broken)?;
        let response = self.sender.send_request(request).await.map_err(broken)?;
        let (head, body) = response.into_parts();
        let mut reply = Response {
            status: head.status.as_u16(),
            version: "HTTP/2".to_owned(),
            headers: fields(&head.headers),
            ..Response::default()
        };
        match body.collect().await {
            Ok(body) => {
                reply.trailers = body.trailers().map(fields).unwrap_or_default();
                reply.body = body.to_bytes().to_vec();
                reply.body_len = reply.body.len() as u64;
            }
            Err(_) => reply.broken = true,
        }
        Ok(reply)
    }
}
