//! A gRPC server for tests that does what a script says, sound or not.

use bytes::{BufMut, Bytes, BytesMut};
use envoy_types::ext_authz::v3::pb::CheckRequest;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use parking_lot::Mutex;
use portcullis_testkit::Port;
use prost::Message;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::task::{AbortHandle, JoinSet};

pub type Fields = Vec<(&'static str, &'static str)>;

/// What becomes of a question.
#[derive(Clone)]
pub enum Act {
    /// A whole answer, with this message.
    Message(Bytes),
    /// A head, some of a body, and trailers; without these, the stream ends with the body.
    Pieces {
        status: u16,
        head: Fields,
        body: Bytes,
        trailers: Option<Fields>,
    },
    /// A head that ends the stream.
    Head(Fields),
    Reset(Reason),
    /// Half of an answer, and a reset.
    HalfAndReset(Reason),
    Silence,
    /// Half of an answer, and silence.
    HalfAndSilence,
    /// The connection is closed at once, without an answer.
    GoAway(Reason),
    Close,
}

/// A question as it came.
#[derive(Clone)]
pub struct Asked {
    pub method: String,
    pub uri: String,
    pub fields: HeaderMap,
    pub message: CheckRequest,
}

/// By the numbers of the connection and of the question, from 1.
type Script = Arc<dyn Fn(usize, usize) -> Act + Send + Sync>;

pub struct Scripted {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: AbortHandle,
}

struct Shared {
    script: Mutex<Script>,
    asked: Mutex<Vec<Asked>>,
    questions: AtomicUsize,
    connections: AtomicUsize,
    resets: Mutex<Vec<Reason>>,
    open: AtomicUsize,
}

pub const GRPC: (&str, &str) = ("content-type", "application/grpc");

pub fn framed(message: &[u8]) -> Bytes {
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(u32::try_from(message.len()).unwrap());
    body.put_slice(message);
    body.freeze()
}

impl Scripted {
    pub fn start(script: impl Fn(usize, usize) -> Act + Send + Sync + 'static) -> Self {
        let port = Port::reserve().unwrap();
        let shared = Arc::new(Shared {
            script: Mutex::new(Arc::new(script)),
            asked: Mutex::default(),
            questions: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            resets: Mutex::default(),
            open: AtomicUsize::new(0),
        });
        let (address, listener, all) = (port.address(), port.listen().unwrap(), Arc::clone(&shared));
        let server = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&all);
                let number = shared.connections.fetch_add(1, Ordering::SeqCst) + 1;
                connections.spawn(async move {
                    shared.open.fetch_add(1, Ordering::SeqCst);
                    connection(stream, number, &shared).await;
                    shared.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, shared, server: server.abort_handle() }
    }

    /// Does the same with every question.
    pub fn always(act: Act) -> Self {
        Self::start(move |_, _| act.clone())
    }

    pub fn script(&self, script: impl Fn(usize, usize) -> Act + Send + Sync + 'static) {
        *self.shared.script.lock() = Arc::new(script);
    }

    pub fn act(&self, act: Act) {
        self.script(move |_, _| act.clone());
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().clone()
    }

    pub fn last(&self) -> Asked {
        self.asked().pop().unwrap()
    }

    pub fn questions(&self) -> usize {
        self.shared.questions.load(Ordering::SeqCst)
    }

    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    pub fn open_connections(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// With which questions that got no answer were ended by who asked.
    pub fn resets(&self) -> Vec<Reason> {
        self.shared.resets.lock().clone()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn connection(stream: tokio::net::TcpStream, number: usize, shared: &Arc<Shared>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    let mut streams = JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        let question = shared.questions.fetch_add(1, Ordering::SeqCst) + 1;
        let act = Arc::clone(&shared.script.lock())(number, question);
        match act {
            Act::Close => return,
            Act::GoAway(reason) => connection.abrupt_shutdown(reason),
            act => drop(streams.spawn(answer(request, respond, act, Arc::clone(shared)))),
        }
    }
}

async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, act: Act, shared: Arc<Shared>) {
    let (head, mut body) = request.into_parts();
    let mut bytes = Vec::new();
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        bytes.extend_from_slice(&data);
    }
    let message = CheckRequest::decode(&bytes[5..]).unwrap();
    let asked = Asked { method: head.method.to_string(), uri: head.uri.to_string(), fields: head.headers, message };
    shared.asked.lock().push(asked);
    let half = || (framed(b"\x0a\x00").slice(..6), Response::builder().header(GRPC.0, GRPC.1).body(()).unwrap());
    match act {
        Act::Message(message) => pieces(&mut respond, 200, vec![GRPC], framed(&message), Some(vec![("grpc-status", "0")])),
        Act::Pieces { status, head, body, trailers } => pieces(&mut respond, status, head, body, trailers),
        Act::Head(fields) => drop(respond.send_response(head_of(200, fields), true)),
        Act::Reset(reason) => respond.send_reset(reason),
        Act::HalfAndReset(reason) => {
            let (body, head) = half();
            let mut stream = respond.send_response(head, false).unwrap();
            let _ = stream.send_data(body, false);
            stream.send_reset(reason);
        }
        Act::Silence => {
            if let Ok(reason) = std::future::poll_fn(|context| respond.poll_reset(context)).await {
                shared.resets.lock().push(reason);
            }
        }
        Act::HalfAndSilence => {
            let (body, head) = half();
            let mut stream = respond.send_response(head, false).unwrap();
            let _ = stream.send_data(body, false);
            if let Ok(reason) = std::future::poll_fn(|context| stream.poll_reset(context)).await {
                shared.resets.lock().push(reason);
            }
        }
        Act::GoAway(_) | Act::Close => {}
    }
}

fn head_of(status: u16, fields: Fields) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
    *response.headers_mut() = map(fields);
    response
}

fn map(fields: Fields) -> HeaderMap {
    fields.into_iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

fn pieces(respond: &mut SendResponse<Bytes>, status: u16, head: Fields, body: Bytes, trailers: Option<Fields>) {
    // Whoever asked may be gone.
    let Ok(mut stream) = respond.send_response(head_of(status, head), false) else { return };
    let _ = stream.send_data(body, trailers.is_none());
    if let Some(trailers) = trailers {
        let _ = stream.send_trailers(map(trailers));
    }
}
