//! An OpenID provider in the test's own process: discovery, keys, and a token endpoint for client credentials. It can
//! rotate its keys, fail, go away and come back.

mod serve;

use crate::error::Error;
use crate::port::Port;
use crate::token::{AUDIENCE, Alg, Rotation, TokenIssuer, TokenSpec};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// The client that the token endpoint knows, with its secret.
pub const CLIENT: (&str, &str) = ("m2m", "m2m-secret");

/// What the provider is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Endpoint {
    Discovery,
    Jwks,
    Token,
}

/// What it does instead of answering properly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// An error status with a short body.
    Status(u16),
    /// 200 and an HTML page, as a captive portal or a wrongly routed proxy answers.
    Html,
    /// 200, `application/json`, and cut off in the middle.
    CutOff,
    /// 200 and an empty JSON object.
    EmptyObject,
    /// 200 and a key set without keys.
    NoKeys,
    /// 200 and so many bytes.
    Huge(usize),
    /// 302 to this address.
    Redirect(String),
    /// Never answers.
    Hang,
    /// The right answer as `text/plain`, as some real providers do.
    PlainText,
}

/// How a provider is to be.
#[derive(Clone)]
pub struct Builder {
    path: String,
    audience: String,
    algs: Vec<Alg>,
    port: Option<Port>,
}

impl Builder {
    /// A path for the issuer, such as `/realms/acme`. Default: none.
    #[must_use]
    pub fn path(mut self, path: &str) -> Self {
        self.path = path.to_owned();
        self
    }

    /// The audience of tokens that name no other. Default: [`AUDIENCE`].
    #[must_use]
    pub fn audience(mut self, audience: &str) -> Self {
        self.audience = audience.to_owned();
        self
    }

    /// What it publishes keys for. Default: every algorithm.
    #[must_use]
    pub fn algs(mut self, algs: &[Alg]) -> Self {
        self.algs = algs.to_vec();
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
    pub async fn start(self) -> Result<Provider, Error> {
        let port = self.port.map_or_else(Port::reserve, Ok)?;
        let tokens = TokenIssuer::with(&format!("http://{}{}", port.address(), self.path), &self.audience, &self.algs);
        let shared = Arc::new(Shared { tokens, path: self.path, state: Mutex::default() });
        let provider = Provider { shared, port, handle: Handle::current(), server: Mutex::new(None) };
        provider.come_back()?;
        Ok(provider)
    }
}

/// A running provider. It stops when it is dropped.
pub struct Provider {
    shared: Arc<Shared>,
    port: Port,
    handle: Handle,
    server: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    tokens: TokenIssuer,
    path: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What to do, and how often still; `None` for always.
    faults: HashMap<Endpoint, (Fault, Option<usize>)>,
    delay: Duration,
    cache_control: Option<String>,
    discovery: Map<String, Value>,
    seen: HashMap<Endpoint, usize>,
    not_modified: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Provider {
    /// Starts one with keys for every algorithm.
    ///
    /// # Errors
    /// If there is no free port.
    pub async fn start() -> Result<Self, Error> {
        Self::builder().start().await
    }

    pub fn builder() -> Builder {
        Builder { path: String::new(), audience: AUDIENCE.to_owned(), algs: Alg::ALL.to_vec(), port: None }
    }

    /// The issuer's identifier: what a configuration names, and what tokens carry as `iss`.
    pub fn issuer(&self) -> &str {
        self.shared.tokens.issuer()
    }

    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    pub fn jwks_uri(&self) -> String {
        format!("{}/jwks", self.issuer())
    }

    pub fn token_endpoint(&self) -> String {
        format!("{}/token", self.issuer())
    }

    /// The issuer behind the server: tokens, key ids, the key set.
    pub fn tokens(&self) -> &TokenIssuer {
        &self.shared.tokens
    }

    /// Makes a token, without asking over the network.
    ///
    /// # Errors
    /// As [`TokenIssuer::issue`].
    pub fn issue(&self, spec: &TokenSpec) -> Result<String, Error> {
        self.shared.tokens.issue(spec)
    }

    /// A good token of this algorithm, for `alice`, with these scopes.
    ///
    /// # Errors
    /// As [`TokenIssuer::issue`].
    pub fn token(&self, alg: Alg, scope: &str) -> Result<String, Error> {
        self.issue(&TokenSpec::new().alg(alg).scope(scope))
    }

    pub fn rotate(&self, rotation: Rotation) {
        self.shared.tokens.rotate(rotation);
    }
}

/// Making it misbehave.
impl Provider {
    /// The next `times` requests for the keys and for the discovery document get this status each.
    pub fn fail(&self, status: u16, times: usize) {
        self.fault(Endpoint::Jwks, Fault::Status(status), Some(times));
        self.fault(Endpoint::Discovery, Fault::Status(status), Some(times));
    }

    /// The key set is this from now on, whatever it is.
    pub fn serve_garbage(&self, garbage: Fault) {
        self.fault(Endpoint::Jwks, garbage, None);
    }

    /// `fault` for the next `times` requests of an endpoint; for `None`, until [`heal`](Self::heal).
    pub fn fault(&self, endpoint: Endpoint, fault: Fault, times: Option<usize>) {
        self.state().faults.insert(endpoint, (fault, times));
    }

    /// Every answer takes this long from now on.
    pub fn delay(&self, delay: Duration) {
        self.state().delay = delay;
    }

    /// `Cache-Control` of the keys and of the discovery document.
    pub fn cache_control(&self, value: &str) {
        self.state().cache_control = Some(value.to_owned());
    }

    /// Sets a member of the discovery document; null leaves it out.
    pub fn discovery(&self, name: &str, value: impl Into<Value>) {
        self.state().discovery.insert(name.to_owned(), value.into());
    }

    /// Ends faults, delays and changes of the discovery document. Not an absence.
    pub fn heal(&self) {
        let mut state = self.state();
        state.faults.clear();
        state.delay = Duration::ZERO;
        state.discovery.clear();
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

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.shared.state)
    }
}

/// What it was asked.
impl Provider {
    /// Requests for the discovery document, failed ones too.
    pub fn discovery_fetches(&self) -> usize {
        self.seen(Endpoint::Discovery)
    }

    /// Requests for the keys, failed ones too.
    pub fn jwks_fetches(&self) -> usize {
        self.seen(Endpoint::Jwks)
    }

    pub fn token_requests(&self) -> usize {
        self.seen(Endpoint::Token)
    }

    /// Requests answered with 304.
    pub fn not_modified(&self) -> usize {
        self.state().not_modified
    }

    fn seen(&self, endpoint: Endpoint) -> usize {
        self.state().seen.get(&endpoint).copied().unwrap_or_default()
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        if let Some(server) = lock(&self.server).take() {
            server.abort();
        }
    }
}
