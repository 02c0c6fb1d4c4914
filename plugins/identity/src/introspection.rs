//! Asking the issuer about a token (RFC 7662): for tokens that only the issuer can read, and for those that it may have
//! revoked.
//!
//! The rules, in the order of what they protect:
//!
//! 1. Only a good answer decides. Whatever else comes back is an outage of the issuer, never a verdict on the token.
//! 2. An answer is used again for a bounded time, and memory for answers is bounded. The key is the whole token.
//! 3. For one token at most one question is under way, and of all tokens together a bounded number.
//! 4. Whether a question is asked again after a failure is decided by time alone: an issuer that does not answer is not
//!    asked for every request. Only silence counts; a token that makes the issuer answer nonsense keeps no other out.

use crate::discovery;
use crate::fetch::{Client, FetchError};
use crate::jose;
use crate::mapping::Mapping;
use crate::pace::{self, Clock};
use crate::verify::VerifiedToken;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use http::HeaderValue;
use parking_lot::Mutex;
use prometheus::IntCounter;
use quick_cache::Weighter;
use quick_cache::sync::{Cache, DefaultLifecycle};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, oneshot};
use url::Url;
use url::form_urlencoded::Serializer;

/// No answer about one token is larger.
const MOST_BYTES: usize = 64 << 10;
/// Questions that are asked or wait to be. More can only be a flood.
const MOST_FLIGHTS: usize = 1024;
/// The address in a discovery document is read again after this time.
const DISCOVERY_AGE: Duration = Duration::from_secs(3600);

/// How the issuer is asked, compiled.
pub(crate) struct Settings {
    pub endpoint: Endpoint,
    pub client: Client,
    pub credentials: Credentials,
    /// JWTs too, once they are verified here.
    pub all: bool,
    pub ttl: Duration,
    pub inactive_ttl: Duration,
    pub cache: u64,
    pub concurrent: usize,
    pub require_audience: bool,
    /// Where facts stand in an answer.
    pub mapping: Mapping,
    /// For one question, and for how long a request waits.
    pub timeout: Duration,
    pub max_wait: Duration,
}

pub(crate) enum Endpoint {
    Known(Url),
    /// It stands in the issuer's discovery document.
    Discovered {
        document: Url,
        issuer: Arc<str>,
    },
}

/// What shows the issuer who asks. It has no `Debug`.
pub(crate) enum Credentials {
    /// The `Authorization` header (RFC 6749, section 2.3.1), marked as sensitive.
    Basic(HeaderValue),
    Post {
        client_id: String,
        secret: String,
    },
}

impl Credentials {
    /// The header and the form (RFC 7662, section 2.1).
    fn question(&self, token: &str) -> (Option<&HeaderValue>, String) {
        let mut form = Serializer::new(String::new());
        form.append_pair("token", token).append_pair("token_type_hint", "access_token");
        match self {
            Self::Basic(value) => (Some(value), form.finish()),
            Self::Post { client_id, secret } => {
                (None, form.append_pair("client_id", client_id).append_pair("client_secret", secret).finish())
            }
        }
    }
}

/// What the issuer said about a token.
pub(crate) struct Answer {
    /// `None`: it is not active.
    pub claims: Option<Map<String, Value>>,
    /// What it came to, once it was judged good.
    pub verified: OnceLock<Arc<VerifiedToken>>,
    bytes: usize,
}

/// An answer, or why there is none.
pub(crate) type Told = Result<Arc<Answer>, Arc<str>>;

type Flight = Shared<BoxFuture<'static, Told>>;

/// Questions, counted by what came of them.
pub(crate) struct Outcomes {
    pub active: IntCounter,
    pub inactive: IntCounter,
    pub failed: IntCounter,
}

/// Asks, and remembers what it was told.
pub(crate) struct Introspector {
    settings: Settings,
    name: Arc<str>,
    answers: Option<Cache<Box<str>, Entry, Weight, ahash::RandomState>>,
    flights: Mutex<HashMap<Box<str>, Flight>>,
    permits: Semaphore,
    state: Mutex<State>,
    clock: Clock,
    outcomes: Option<Outcomes>,
    offline: bool,
}

#[derive(Clone)]
struct Entry {
    answer: Arc<Answer>,
    until: Instant,
}

#[derive(Clone)]
struct Weight;

impl Weighter<Box<str>, Entry> for Weight {
    fn weight(&self, token: &Box<str>, entry: &Entry) -> u64 {
        // As in the cache of verified tokens: what was text is held as values and as lists.
        (token.len() + entry.answer.bytes * 4 + 512) as u64
    }
}

#[derive(Default)]
struct State {
    failures: u32,
    not_before: Option<Instant>,
    last_error: Option<Arc<str>>,
    discovered: Option<(Url, Instant)>,
}

impl Introspector {
    pub fn new(name: Arc<str>, settings: Settings, outcomes: Option<Outcomes>) -> Self {
        let items = usize::try_from(settings.cache >> 11).unwrap_or(usize::MAX).clamp(32, 1 << 20);
        let answers = (settings.cache > 0)
            .then(|| Cache::with(items, settings.cache, Weight, ahash::RandomState::new(), DefaultLifecycle::default()));
        Self {
            permits: Semaphore::new(settings.concurrent),
            name,
            settings,
            answers,
            flights: Mutex::default(),
            state: Mutex::default(),
            clock: Clock::default(),
            outcomes,
            offline: false,
        }
    }

    /// One that never asks. For `explain`.
    pub fn offline(name: Arc<str>, settings: Settings) -> Self {
        Self { offline: true, ..Self::new(name, settings, None) }
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What was told not too long ago.
    pub fn remembered(&self, token: &str) -> Option<Arc<Answer>> {
        let answers = self.answers.as_ref()?;
        let entry = answers.get(token)?;
        if self.clock.now() < entry.until {
            return Some(entry.answer);
        }
        answers.remove(token);
        None
    }

    /// The next to bring it is asked about again. Gives the end that the issuer named.
    pub fn forget(&self, token: &str) -> Option<f64> {
        let (_, entry) = self.answers.as_ref()?.remove(token)?;
        entry.answer.claims.as_ref()?.get("exp")?.as_f64()
    }

    /// Why there is no use in asking now.
    pub fn silent(&self) -> Option<Arc<str>> {
        if self.offline || tokio::runtime::Handle::try_current().is_err() {
            return Some("nothing is asked: given keys (--jwks) mean that there is no network".into());
        }
        let state = self.state.lock();
        let waiting = state.not_before.is_some_and(|at| self.clock.now() < at);
        waiting.then(|| state.last_error.clone().unwrap_or_else(|| "the last attempt failed".into()))
    }

    /// Asks, or joins who is asking. Ends within `max_wait`.
    pub async fn ask(self: Arc<Self>, token: Box<str>) -> Told {
        let within = self.settings.max_wait;
        let flight = self.flight(token)?;
        match tokio::time::timeout(within, flight).await {
            Ok(told) => told,
            Err(_) => Err(format!("no answer within {within:?} (`max_wait`)").into()),
        }
    }

    fn flight(self: &Arc<Self>, token: Box<str>) -> Result<Flight, Arc<str>> {
        let (tell, told) = oneshot::channel();
        let flight = {
            let mut flights = self.flights.lock();
            if let Some(flight) = flights.get(&token) {
                return Ok(flight.clone());
            }
            if flights.len() >= MOST_FLIGHTS {
                return Err("too many tokens are being asked about at once".into());
            }
            let flight: Flight =
                told.map(|told| told.unwrap_or_else(|_| Err("the question was broken off".into()))).boxed().shared();
            flights.insert(token.clone(), flight.clone());
            flight
        };
        // A task of its own: a client that goes away does not end what others wait for. And without the lock: a runtime
        // that is ending drops the task at once, and that lands it.
        let landing = Landing { introspector: Arc::clone(self), token };
        tokio::spawn(async move {
            let told = landing.introspector.fetch(&landing.token).await;
            drop(landing);
            let _ = tell.send(told);
        });
        Ok(flight)
    }

    async fn fetch(&self, token: &str) -> Told {
        let permit = tokio::time::timeout(self.settings.max_wait, self.permits.acquire()).await;
        let Ok(Ok(_permit)) = permit else {
            return Err(format!("{} questions are under way already (`concurrent`)", self.settings.concurrent).into());
        };
        let result = self.exchange(token).await;
        self.land(token, result)
    }

    async fn exchange(&self, token: &str) -> Result<Answer, FetchError> {
        let url = self.address().await?;
        let (authorization, form) = self.settings.credentials.question(token);
        let body = self.settings.client.post(&url, authorization, form, self.settings.timeout).await?;
        read(&body).map_err(|cause| FetchError::Unusable { url, cause })
    }

    async fn address(&self) -> Result<Url, FetchError> {
        let (document, issuer) = match &self.settings.endpoint {
            Endpoint::Known(url) => return Ok(url.clone()),
            Endpoint::Discovered { document, issuer } => (document, issuer),
        };
        if let Some((url, at)) = &self.state.lock().discovered
            && self.clock.now().saturating_duration_since(*at) < DISCOVERY_AGE
        {
            return Ok(url.clone());
        }
        let body = self.settings.client.get(document, None, self.settings.timeout).await?.body(document)?;
        let url = discovery::introspection_address(&body, document, issuer, self.settings.client.trust())?;
        self.state.lock().discovered = Some((url.clone(), self.clock.now()));
        Ok(url)
    }

    fn land(&self, token: &str, result: Result<Answer, FetchError>) -> Told {
        let mut state = self.state.lock();
        match result {
            Ok(answer) => {
                if state.failures > 0 {
                    tracing::info!(issuer = %self.name, failures = state.failures, "the issuer answers about tokens again");
                }
                (state.failures, state.not_before, state.last_error) = (0, None, None);
                drop(state);
                let ttl = if answer.claims.is_some() { self.settings.ttl } else { self.settings.inactive_ttl };
                if let Some(outcomes) = &self.outcomes {
                    let counter = if answer.claims.is_some() { &outcomes.active } else { &outcomes.inactive };
                    counter.inc();
                }
                let answer = Arc::new(answer);
                if let Some(answers) = self.answers.as_ref().filter(|_| !ttl.is_zero()) {
                    answers.insert(token.into(), Entry { answer: Arc::clone(&answer), until: self.clock.now() + ttl });
                }
                Ok(answer)
            }
            Err(error) => {
                if let Some(outcomes) = &self.outcomes {
                    outcomes.failed.inc();
                }
                let text: Arc<str> = error.to_string().into();
                state.failures = state.failures.saturating_add(1);
                if matches!(error, FetchError::Connect { .. } | FetchError::Timeout { .. }) {
                    state.not_before = Some(self.clock.now() + pace::retry_after(state.failures));
                }
                // One line for each outage, not for each request.
                if state.last_error.as_ref() != Some(&text) {
                    tracing::warn!(issuer = %self.name, %error, "the issuer cannot be asked about a token");
                }
                state.last_error = Some(Arc::clone(&text));
                Err(text)
            }
        }
    }

    #[cfg(test)]
    pub fn weight(&self) -> u64 {
        self.answers.as_ref().map_or(0, Cache::weight)
    }

    #[cfg(test)]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }
}

/// However the task ends, the token may be asked about again.
struct Landing {
    introspector: Arc<Introspector>,
    token: Box<str>,
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.introspector.flights.lock().remove(&self.token);
    }
}

/// RFC 7662, section 2.2. Of an inactive token nothing else is believed.
fn read(body: &[u8]) -> Result<Answer, String> {
    if body.len() > MOST_BYTES {
        return Err(format!("more than {MOST_BYTES} bytes about one token"));
    }
    let mut claims = jose::object("answer", body).map_err(|error| error.to_string())?;
    let claims = match claims.remove("active") {
        Some(Value::Bool(true)) => Some(claims),
        Some(Value::Bool(false)) => None,
        _ => return Err("no `active` that is true or false".to_owned()),
    };
    let bytes = if claims.is_some() { body.len() } else { 0 };
    Ok(Answer { claims, verified: OnceLock::new(), bytes })
}
