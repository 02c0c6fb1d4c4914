//! An upstream that records, byte for byte, what a gateway sends it, and answers as the test wants: well, badly,
//! slowly, or not at all.

mod serve;

use crate::error::Error;
pub use crate::message::Field;
use crate::port::Port;
use crate::wait::until;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// Requests that are kept; older ones are only counted.
const KEPT: usize = 16_384;

/// What the upstream does with a request.
#[derive(Clone, Default)]
pub enum Behaviour {
    /// 200 with a JSON account of the request; a WebSocket handshake is accepted, and its frames are echoed.
    #[default]
    Echo,
    Answer(Answer),
    /// These bytes, HTTP or not; then the end of the connection if `close`.
    Raw {
        bytes: Vec<u8>,
        close: bool,
    },
    /// Closes the connection instead of answering.
    Close,
    /// Never answers.
    Hang,
    /// Decides by the request.
    Script(Arc<dyn Fn(&Recorded) -> Behaviour + Send + Sync>),
}

impl Behaviour {
    pub fn script(decide: impl Fn(&Recorded) -> Self + Send + Sync + 'static) -> Self {
        Self::Script(Arc::new(decide))
    }

    pub fn raw(bytes: impl AsRef<[u8]>) -> Self {
        Self::Raw { bytes: bytes.as_ref().to_owned(), close: true }
    }
}

impl From<Answer> for Behaviour {
    fn from(answer: Answer) -> Self {
        Self::Answer(answer)
    }
}

/// A response of the test's choice.
#[derive(Debug, Clone)]
pub struct Answer {
    status: u16,
    headers: Vec<Field>,
    content: Content,
    delay: Duration,
    early: bool,
    close: bool,
}

#[derive(Debug, Clone)]
enum Content {
    /// With `Content-Length`.
    Sized(Vec<u8>),
    /// So many bytes, with `Content-Length`, never held in memory at once.
    Filler(u64),
    /// Announces more than it sends, then ends the connection.
    Short {
        announced: u64,
        sent: Vec<u8>,
    },
    Chunked {
        chunks: Vec<Vec<u8>>,
        pause: Duration,
        trailers: Vec<Field>,
        finish: bool,
    },
    /// Until the end of the connection.
    UntilClose(Vec<u8>),
}

impl Answer {
    /// With an empty body.
    pub fn new(status: u16) -> Self {
        let content = Content::Sized(Vec::new());
        Self { status, headers: Vec::new(), content, delay: Duration::ZERO, early: false, close: false }
    }

    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    #[must_use]
    pub fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.content = Content::Sized(body.as_ref().to_owned());
        self
    }

    /// A body of so many bytes.
    #[must_use]
    pub fn filler(mut self, bytes: u64) -> Self {
        self.content = Content::Filler(bytes);
        self
    }

    /// Announces `announced` bytes, sends fewer, and ends the connection.
    #[must_use]
    pub fn short(mut self, announced: u64, sent: impl AsRef<[u8]>) -> Self {
        self.content = Content::Short { announced, sent: sent.as_ref().to_owned() };
        self
    }

    /// A chunked body, with a pause before each chunk but the first.
    #[must_use]
    pub fn chunks<C: AsRef<[u8]>>(mut self, chunks: impl IntoIterator<Item = C>, pause: Duration) -> Self {
        let chunks = chunks.into_iter().map(|chunk| chunk.as_ref().to_owned()).collect();
        self.content = Content::Chunked { chunks, pause, trailers: Vec::new(), finish: true };
        self
    }

    /// A field after the last chunk.
    #[must_use]
    pub fn trailer(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        if let Content::Chunked { trailers, .. } = &mut self.content {
            trailers.push((name.to_owned(), value.as_ref().to_owned()));
        }
        self
    }

    /// Ends the connection where the last chunk should come.
    #[must_use]
    pub fn unfinished(mut self) -> Self {
        if let Content::Chunked { finish, .. } = &mut self.content {
            *finish = false;
        }
        self
    }

    /// A body that ends with the connection.
    #[must_use]
    pub fn until_close(mut self, body: impl AsRef<[u8]>) -> Self {
        self.content = Content::UntilClose(body.as_ref().to_owned());
        self
    }

    /// Waits before the first byte.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Answers before it has read the request's body.
    #[must_use]
    pub fn early(mut self) -> Self {
        self.early = true;
        self
    }

    /// Says `Connection: close`, and does.
    #[must_use]
    pub fn closing(mut self) -> Self {
        self.close = true;
        self
    }
}

/// A request as it arrived.
#[derive(Debug, Clone, Default)]
pub struct Recorded {
    /// Which connection it came on, counted from 1.
    pub connection: u64,
    /// The head's exact bytes, the empty line included.
    pub head: Vec<u8>,
    pub method: String,
    pub target: String,
    pub version: String,
    /// In the order and case of the wire.
    pub headers: Vec<Field>,
    /// Without framing; of a very long body, the first part.
    pub body: Vec<u8>,
    /// Of the whole body.
    pub body_len: u64,
    /// With framing.
    pub raw_body: Vec<u8>,
    pub trailers: Vec<Field>,
    /// Whether the body arrived to its end.
    pub complete: bool,
    /// The server name of the TLS handshake.
    pub sni: Option<String>,
    /// The client certificate of the TLS handshake, DER.
    pub client_certificate: Option<Vec<u8>>,
    sequence: u64,
}

impl Recorded {
    /// The first field of that name.
    pub fn header(&self, name: &str) -> Option<String> {
        self.header_all(name).into_iter().next()
    }

    /// Every field of that name.
    pub fn header_all(&self, name: &str) -> Vec<String> {
        let named = self.headers.iter().filter(|(field, _)| field.eq_ignore_ascii_case(name));
        named.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
    }
}

/// How an upstream is to be.
#[derive(Clone)]
pub struct Builder {
    name: String,
    health_path: String,
    tls: Option<Arc<rustls::ServerConfig>>,
    behaviour: Behaviour,
    port: Option<Arc<Port>>,
}

impl Builder {
    /// Sent back as `x-upstream`. Default: `upstream`.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.name = name.to_owned();
        self
    }

    /// The path that answers for [`Upstream::health`] and is not recorded. Default: `/healthz`.
    #[must_use]
    pub fn health_path(mut self, path: &str) -> Self {
        self.health_path = path.to_owned();
        self
    }

    /// Speaks TLS: see [`Identity::server_config`](crate::Identity::server_config).
    #[must_use]
    pub fn tls(mut self, config: Arc<rustls::ServerConfig>) -> Self {
        self.tls = Some(config);
        self
    }

    #[must_use]
    pub fn behaviour(mut self, behaviour: impl Into<Behaviour>) -> Self {
        self.behaviour = behaviour.into();
        self
    }

    /// On this port. Default: a free one.
    #[must_use]
    pub fn port(mut self, port: Arc<Port>) -> Self {
        self.port = Some(port);
        self
    }

    /// Starts it on the current runtime.
    ///
    /// # Errors
    /// If there is no free port.
    pub async fn start(self) -> Result<Upstream, Error> {
        let port = match self.port {
            Some(port) => port,
            None => Arc::new(Port::reserve()?),
        };
        let shared = Arc::new(Shared {
            name: self.name,
            health_path: self.health_path,
            tls: self.tls,
            healthy: AtomicBool::new(true),
            behaviour: Mutex::new(self.behaviour),
            recorded: Mutex::default(),
            counters: Counters::default(),
        });
        let upstream = Upstream { shared, port, handle: Handle::current(), server: Mutex::new(None) };
        upstream.come_back()?;
        Ok(upstream)
    }
}

/// A running HTTP/1.1 upstream on 127.0.0.1. It stops when it is dropped.
pub struct Upstream {
    shared: Arc<Shared>,
    port: Arc<Port>,
    handle: Handle,
    server: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    name: String,
    health_path: String,
    tls: Option<Arc<rustls::ServerConfig>>,
    healthy: AtomicBool,
    behaviour: Mutex<Behaviour>,
    recorded: Mutex<VecDeque<Recorded>>,
    counters: Counters,
}

#[derive(Default)]
struct Counters {
    requests: AtomicU64,
    complete: AtomicU64,
    health_checks: AtomicU64,
    connections: AtomicU64,
    open: AtomicU64,
    in_flight: AtomicU64,
    most_in_flight: AtomicU64,
    handshake_failures: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Upstream {
    /// Starts one that echoes.
    ///
    /// # Errors
    /// If there is no free port.
    pub async fn start() -> Result<Self, Error> {
        Self::builder().start().await
    }

    /// Starts one that echoes under a name.
    ///
    /// # Errors
    /// If there is no free port.
    pub async fn named(name: &str) -> Result<Self, Error> {
        Self::builder().name(name).start().await
    }

    pub fn builder() -> Builder {
        Builder {
            name: "upstream".to_owned(),
            health_path: "/healthz".to_owned(),
            tls: None,
            behaviour: Behaviour::Echo,
            port: None,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// What it does from the next request on.
    pub fn behave(&self, behaviour: impl Into<Behaviour>) {
        *lock(&self.shared.behaviour) = behaviour.into();
    }

    /// Whether its health path answers 200, or 503.
    pub fn health(&self, healthy: bool) {
        self.shared.healthy.store(healthy, Ordering::SeqCst);
    }

    /// Ends every connection and refuses new ones.
    pub async fn go_down(&self) {
        let server = lock(&self.server).take();
        if let Some(server) = server {
            server.abort();
            // Ended by the abort; only then is the socket closed.
            let _ = server.await;
        }
    }

    /// Serves again, on the same port.
    ///
    /// # Errors
    /// If another program took the port.
    pub fn come_back(&self) -> Result<(), Error> {
        let mut server = lock(&self.server);
        if server.is_none() {
            let _entered = self.handle.enter();
            let listener = self.port.listen()?;
            *server = Some(self.handle.spawn(serve::accept(listener, Arc::clone(&self.shared))));
        }
        Ok(())
    }
}

/// What it saw. Health checks are counted apart.
impl Upstream {
    /// The requests since the start or [`forget`](Self::forget), oldest first.
    pub fn requests(&self) -> Vec<Recorded> {
        lock(&self.shared.recorded).iter().cloned().collect()
    }

    pub fn last(&self) -> Option<Recorded> {
        lock(&self.shared.recorded).back().cloned()
    }

    /// How many request heads arrived.
    pub fn count(&self) -> u64 {
        self.shared.counters.requests.load(Ordering::SeqCst)
    }

    pub fn health_checks(&self) -> u64 {
        self.shared.counters.health_checks.load(Ordering::SeqCst)
    }

    /// How many connections were ever made.
    pub fn connections(&self) -> u64 {
        self.shared.counters.connections.load(Ordering::SeqCst)
    }

    /// How many are open.
    pub fn open_connections(&self) -> u64 {
        self.shared.counters.open.load(Ordering::SeqCst)
    }

    /// How many requests are being answered.
    pub fn in_flight(&self) -> u64 {
        self.shared.counters.in_flight.load(Ordering::SeqCst)
    }

    /// The most that ever were at once.
    pub fn most_in_flight(&self) -> u64 {
        self.shared.counters.most_in_flight.load(Ordering::SeqCst)
    }

    /// TLS handshakes that failed.
    pub fn handshake_failures(&self) -> u64 {
        self.shared.counters.handshake_failures.load(Ordering::SeqCst)
    }

    /// Forgets requests and their count.
    pub fn forget(&self) {
        lock(&self.shared.recorded).clear();
        self.shared.counters.requests.store(0, Ordering::SeqCst);
        self.shared.counters.complete.store(0, Ordering::SeqCst);
    }

    /// Waits until `count` requests have arrived, bodies included.
    ///
    /// # Errors
    /// If they don't come.
    pub async fn wait_for(&self, count: u64) -> Result<Vec<Recorded>, Error> {
        let complete = &self.shared.counters.complete;
        until(&format!("request {count} to `{}`", self.shared.name), || complete.load(Ordering::SeqCst) >= count).await?;
        Ok(self.requests())
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        if let Some(server) = lock(&self.server).take() {
            server.abort();
        }
    }
}
