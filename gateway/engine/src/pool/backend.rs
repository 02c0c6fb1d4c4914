//! One backend: what is known of it, and the guard that counts a request in flight.

use super::connection::{Connection, Dial, Idle};
use super::peer::{self, PeerError};
use crate::metrics::BackendMetrics;
use parking_lot::Mutex;
use pingora::upstreams::peer::HttpPeer;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

/// Names a backend within this process, over reloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BackendId(u64);

impl BackendId {
    fn next() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed))
    }
}

/// How one attempt on a backend ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendOutcome {
    /// A response with a status below 500.
    Success,
    /// A response with a status of 500 or more.
    ServerError,
    /// No connection, or no TLS.
    ConnectFailed,
    /// The connection stood, but the response did not come in time.
    Timeout,
    /// The backend closed or broke the connection before the response was complete.
    Reset,
    /// The response was ambiguous or not HTTP.
    Invalid,
    /// The client went away first; the backend is not to blame.
    Cancelled,
}

impl BackendOutcome {
    pub const ALL: [Self; 7] =
        [Self::Success, Self::ServerError, Self::ConnectFailed, Self::Timeout, Self::Reset, Self::Invalid, Self::Cancelled];

    /// The value of the label `outcome`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::ServerError => "server_error",
            Self::ConnectFailed => "connect_failed",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::Invalid => "invalid",
            Self::Cancelled => "cancelled",
        }
    }
}

/// The health check that runs for a backend, and what it checks.
pub(super) struct Checker {
    pub(super) fingerprint: u64,
    pub(super) task: AbortOnDropHandle<()>,
}

/// What outlives a reload: requests in flight and health belong to the address, not to the configuration.
pub(super) struct BackendState {
    id: BackendId,
    label: Arc<str>,
    address: SocketAddr,
    in_flight: AtomicUsize,
    verdict: AtomicU8,
    pub(super) checker: Mutex<Option<Checker>>,
    /// The direct driver's; Pingora has its own.
    pub(super) idle: Idle,
}

const UNKNOWN: u8 = 0;
const UP: u8 = 1;
const DOWN: u8 = 2;

impl BackendState {
    pub(super) fn new(label: Arc<str>, address: SocketAddr) -> Self {
        Self {
            id: BackendId::next(),
            label,
            address,
            in_flight: AtomicUsize::new(0),
            verdict: AtomicU8::new(UNKNOWN),
            checker: Mutex::new(None),
            idle: Idle::default(),
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn label(&self) -> &Arc<str> {
        &self.label
    }

    /// What the checks have found; `None` before they have.
    pub(super) fn verdict(&self) -> Option<bool> {
        match self.verdict.load(Ordering::Acquire) {
            UP => Some(true),
            DOWN => Some(false),
            _ => None,
        }
    }

    pub(super) fn set_verdict(&self, up: bool) {
        self.verdict.store(if up { UP } else { DOWN }, Ordering::Release);
    }

    /// The pool checks no more: what was found is not to be held against the backend should it check again.
    pub(super) fn forget_health(&self) {
        *self.checker.lock() = None;
        self.verdict.store(UNKNOWN, Ordering::Release);
    }
}

/// A backend as one configuration describes it.
pub(super) struct Backend {
    state: Arc<BackendState>,
    series: Arc<BackendMetrics>,
    weight: u32,
    max_requests: Option<usize>,
    starts_healthy: bool,
    checked: bool,
    reach: Reach,
}

/// How a backend is connected to, by each driver.
pub(super) struct Reach {
    /// Cloned for every attempt.
    pub(super) peer: HttpPeer,
    pub(super) dial: Dial,
}

impl Backend {
    pub(super) fn new(
        state: Arc<BackendState>,
        series: Arc<BackendMetrics>,
        weight: u32,
        max_requests: Option<usize>,
        starts_healthy: bool,
        checked: bool,
        reach: Reach,
    ) -> Self {
        Self { state, series, weight, max_requests, starts_healthy, checked, reach }
    }

    pub(super) fn id(&self) -> BackendId {
        self.state.id
    }

    pub(super) fn state(&self) -> &Arc<BackendState> {
        &self.state
    }

    pub(super) fn label(&self) -> &str {
        &self.state.label
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.state.address
    }

    pub(super) fn weight(&self) -> u32 {
        self.weight
    }

    pub(super) fn peer(&self) -> &HttpPeer {
        &self.reach.peer
    }

    pub(super) fn in_flight(&self) -> usize {
        self.state.in_flight.load(Ordering::Relaxed)
    }

    /// Without checks a backend is taken for healthy, whatever an earlier configuration found.
    pub(super) fn is_up(&self) -> bool {
        !self.checked || self.state.verdict().unwrap_or(self.starts_healthy)
    }

    /// Takes a place, if there is one. Whoever gets it makes a [`Selected`] of it.
    pub(super) fn acquire(&self) -> bool {
        let in_flight = &self.state.in_flight;
        match self.max_requests {
            None => {
                in_flight.fetch_add(1, Ordering::Relaxed);
                true
            }
            Some(max) => {
                let take = |now: usize| (now < max).then_some(now + 1);
                in_flight.fetch_update(Ordering::AcqRel, Ordering::Relaxed, take).is_ok()
            }
        }
    }
}

/// The backend of one attempt. While it exists, the backend has one more request in flight.
pub struct Selected {
    backend: Arc<Backend>,
}

impl Selected {
    /// `backend` was acquired for this.
    pub(super) fn acquired(backend: Arc<Backend>) -> Self {
        Self { backend }
    }

    /// For `tried` of the next choice.
    pub fn id(&self) -> BackendId {
        self.backend.id()
    }

    pub fn address(&self) -> SocketAddr {
        self.backend.address()
    }

    /// `host:port` as configured, for the log and the metrics.
    pub fn label(&self) -> &str {
        self.backend.label()
    }

    /// The same, to be kept.
    pub fn shared_label(&self) -> Arc<str> {
        Arc::clone(self.backend.state.label())
    }

    /// Where and how to connect. `upgrade` asks for HTTP/1.1, which WebSocket needs.
    ///
    /// # Errors
    /// If the backend cannot be verified: then it is not spoken to.
    pub fn peer(&self, upgrade: bool) -> Result<HttpPeer, PeerError> {
        peer::for_attempt(&self.backend.reach.peer, upgrade)
    }

    /// An idle HTTP/1.1 connection, if there is one that is still good.
    pub fn idle(&self, now: Instant) -> Option<Connection> {
        self.backend.state.idle.take(self.backend.reach.dial.group, now)
    }

    /// A new HTTP/1.1 connection, verified if the pool speaks TLS.
    ///
    /// # Errors
    /// If there is none within the pool's time for it, or by `end`.
    pub async fn connect(&self, end: Option<Instant>) -> io::Result<Connection> {
        self.backend.reach.dial.connect(self.address(), end).await
    }

    /// Keeps a connection for another request, until then: see the pool's `keepalive`. On it nothing may be outstanding.
    pub fn keep(&self, connection: Connection, until: Instant) {
        self.backend.state.idle.keep(connection, until);
    }

    /// Counts how the attempt ended.
    pub fn record(&self, outcome: BackendOutcome) {
        self.backend.series.outcome(outcome.as_str());
    }
}

impl Drop for Selected {
    fn drop(&mut self) {
        self.backend.state.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

impl std::fmt::Debug for Selected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Selected").field("label", &self.label()).field("address", &self.address()).finish()
    }
}
