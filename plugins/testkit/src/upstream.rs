//! An upstream that records, byte for byte, what a gateway sends it, and answers as the test wants: well, badly,
//! slowly, or not at all.

mod answer;
mod serve;

use crate::error::Error;
pub use crate::message::Field;
use crate::port::Port;
use crate::wait::until;
pub use answer::Answer;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    port: Option<Port>,
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
    pub fn port(mut self, port: &Port) -> Self {
        self.port = Some(port.clone());
        self
    }

    /// Starts it on the current runtime.
    ///
    /// # Errors
    /// If there is no free port, or somebody listens on the port given.
    pub async fn start(self) -> Result<Upstream, Error> {
        let port = self.port.map_or_else(Port::reserve, Ok)?;
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
    port: Port,
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
