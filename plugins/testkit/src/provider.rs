//! An OpenID provider in the test's own process: discovery, keys, and a token endpoint for client credentials. It can
//! rotate its keys, fail, go away and come back.

use crate::error::Error;
use crate::port::Port;
use crate::token::{AUDIENCE, Alg, Rotation, TokenIssuer, TokenSpec};
use base64::Engine;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LOCATION};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, JoinSet};

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
#[derive(Debug, Clone)]
pub struct Builder {
    path: String,
    audience: String,
    algs: Vec<Alg>,
    port: u16,
}

impl Builder {
    /// The port of 127.0.0.1. Default: a free one.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

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

    /// Starts it on 127.0.0.1, on the current runtime.
    ///
    /// # Errors
    /// If there is no free port, or the chosen one is taken.
    pub async fn start(self) -> Result<Provider, Error> {
        let port = Port::at(self.port)?;
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
        Builder { path: String::new(), audience: AUDIENCE.to_owned(), algs: Alg::ALL.to_vec(), port: 0 }
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
            *server = Some(self.handle.spawn(accept(listener, Arc::clone(&self.shared))));
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

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Connections end with the set, and the set with this task.
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        while connections.try_join_next().is_some() {}
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let shared = Arc::clone(&shared);
                async move { Ok::<_, Infallible>(shared.respond(request).await) }
            });
            // A client that goes away in the middle is the client's business.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

type Reply = Response<Full<Bytes>>;

impl Shared {
    async fn respond(&self, request: Request<Incoming>) -> Reply {
        let path = request.uri().path().strip_prefix(self.path.as_str()).unwrap_or_default();
        let endpoint = match path {
            "/.well-known/openid-configuration" => Endpoint::Discovery,
            "/jwks" => Endpoint::Jwks,
            "/token" => Endpoint::Token,
            _ => return status(StatusCode::NOT_FOUND),
        };
        let (fault, delay) = self.arrived(endpoint);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        match fault {
            None => self.answer(endpoint, request).await,
            Some(Fault::PlainText) => {
                let mut reply = self.answer(endpoint, request).await;
                reply.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
                reply
            }
            Some(fault) => misbehave(fault).await,
        }
    }

    /// Counts the request and says what to do with it.
    fn arrived(&self, endpoint: Endpoint) -> (Option<Fault>, Duration) {
        let mut state = lock(&self.state);
        *state.seen.entry(endpoint).or_default() += 1;
        let delay = state.delay;
        let fault = match state.faults.get_mut(&endpoint) {
            Some((_, Some(0))) | None => None,
            Some((fault, None)) => Some(fault.clone()),
            Some((fault, Some(times))) => {
                *times -= 1;
                Some(fault.clone())
            }
        };
        (fault, delay)
    }

    async fn answer(&self, endpoint: Endpoint, request: Request<Incoming>) -> Reply {
        match endpoint {
            Endpoint::Discovery => self.document(&request, &self.discovery()),
            Endpoint::Jwks => match self.tokens.jwks() {
                Ok(set) => self.document(&request, &set),
                Err(_) => status(StatusCode::INTERNAL_SERVER_ERROR),
            },
            Endpoint::Token => self.grant(request).await,
        }
    }

    fn discovery(&self) -> Value {
        let issuer = self.tokens.issuer();
        let algs: Vec<&str> = self.tokens.algs().iter().map(|alg| alg.as_str()).collect();
        let mut document = json!({
            "issuer": issuer,
            "authorization_endpoint": format!("{issuer}/auth"),
            "token_endpoint": format!("{issuer}/token"),
            "jwks_uri": format!("{issuer}/jwks"),
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algs,
            "grant_types_supported": ["client_credentials"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        });
        for (name, value) in &lock(&self.state).discovery {
            document[name.as_str()] = value.clone();
        }
        if let Some(members) = document.as_object_mut() {
            members.retain(|_, value| !value.is_null());
        }
        document
    }

    /// A document that can be asked for conditionally.
    fn document(&self, request: &Request<Incoming>, document: &Value) -> Reply {
        if request.method() != Method::GET {
            return status(StatusCode::METHOD_NOT_ALLOWED);
        }
        let body = document.to_string();
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, body.as_bytes());
        let tag = format!("\"{}\"", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(digest.as_ref()));
        let unchanged = request.headers().get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
        let mut state = lock(&self.state);
        let mut reply = if unchanged {
            state.not_modified += 1;
            status(StatusCode::NOT_MODIFIED)
        } else {
            json_reply(StatusCode::OK, body)
        };
        let mut set = |name, value: &str| {
            if let Ok(value) = value.parse() {
                reply.headers_mut().insert(name, value);
            }
        };
        set(ETAG, &tag);
        if let Some(value) = &state.cache_control {
            set(CACHE_CONTROL, value);
        }
        reply
    }

    /// RFC 6749, section 4.4. `resource` (RFC 8707) or `audience` names the audience.
    async fn grant(&self, request: Request<Incoming>) -> Reply {
        let refuse = |code: StatusCode, error: &str| json_reply(code, json!({ "error": error }).to_string());
        if request.method() != Method::POST {
            return status(StatusCode::METHOD_NOT_ALLOWED);
        }
        let basic = request.headers().get(AUTHORIZATION).and_then(|value| basic_credentials(value.to_str().ok()?));
        let Ok(body) = request.into_body().collect().await else { return status(StatusCode::BAD_REQUEST) };
        let form = parse_form(&body.to_bytes());
        let field = |name: &str| form.get(name).cloned();
        let (id, secret) = basic.or_else(|| Some((field("client_id")?, field("client_secret")?))).unwrap_or_default();
        if (id.as_str(), secret.as_str()) != CLIENT {
            return refuse(StatusCode::UNAUTHORIZED, "invalid_client");
        }
        if field("grant_type").as_deref() != Some("client_credentials") {
            return refuse(StatusCode::BAD_REQUEST, "unsupported_grant_type");
        }
        let alg = field("alg").and_then(|name| Alg::ALL.iter().copied().find(|alg| alg.as_str() == name)).unwrap_or(Alg::Rs256);
        let mut spec = TokenSpec::new().alg(alg).sub(&id).claim("client_id", id.as_str());
        if let Some(audience) = field("resource").or_else(|| field("audience")) {
            spec = spec.aud(&audience);
        }
        if let Some(scope) = field("scope") {
            spec = spec.scope(&scope);
        }
        match self.tokens.issue(&spec) {
            Ok(token) => {
                let body = json!({ "access_token": token, "token_type": "Bearer", "expires_in": 300, "scope": field("scope") });
                json_reply(StatusCode::OK, body.to_string())
            }
            Err(_) => status(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }
}

async fn misbehave(fault: Fault) -> Reply {
    match fault {
        Fault::Status(code) => status(StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)),
        Fault::Html => {
            let mut reply = Response::new(Full::from("<!doctype html><title>Sign in</title>"));
            reply.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("text/html"));
            reply
        }
        Fault::CutOff => json_reply(StatusCode::OK, "{\"keys\":[{\"kty\":\"RS".to_owned()),
        Fault::EmptyObject => json_reply(StatusCode::OK, "{}".to_owned()),
        Fault::NoKeys => json_reply(StatusCode::OK, "{\"keys\":[]}".to_owned()),
        Fault::Huge(bytes) => json_reply(StatusCode::OK, format!("{{\"keys\":[],\"x\":\"{}\"}}", "x".repeat(bytes))),
        Fault::Redirect(to) => {
            let mut reply = status(StatusCode::FOUND);
            if let Ok(to) = to.parse() {
                reply.headers_mut().insert(LOCATION, to);
            }
            reply
        }
        Fault::Hang | Fault::PlainText => std::future::pending().await,
    }
}

fn status(code: StatusCode) -> Reply {
    let mut reply = Response::new(Full::default());
    *reply.status_mut() = code;
    reply
}

fn json_reply(code: StatusCode, body: String) -> Reply {
    let mut reply = Response::new(Full::from(body));
    *reply.status_mut() = code;
    reply.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    reply
}

fn basic_credentials(header: &str) -> Option<(String, String)> {
    let (scheme, encoded) = header.split_once(' ')?;
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (id, secret) = text.split_once(':')?;
    scheme.eq_ignore_ascii_case("basic").then(|| (id.to_owned(), secret.to_owned()))
}

/// `application/x-www-form-urlencoded`.
fn parse_form(body: &[u8]) -> HashMap<String, String> {
    let text = String::from_utf8_lossy(body);
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decode(name), decode(value))).collect()
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digits: Vec<u8> = rest.by_ref().take(2).collect();
                let value = std::str::from_utf8(&digits).ok().and_then(|digits| u8::from_str_radix(digits, 16).ok());
                bytes.push(value.unwrap_or(b'?'));
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
