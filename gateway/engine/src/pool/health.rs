//! Active health checks: a task for each backend.
//!
//! A check connects as requests do, with the same peer: same TLS, same verification. A backend changes sides only after
//! as many results in a row as configured; the change is logged with its cause and takes effect at once. The task
//! belongs to the backend, not to the configuration: a reload that leaves the check as it is does not interrupt it.

use super::backend::{Backend, BackendState, Checker};
use super::peer::{self, Peers};
use super::settings::{check_authority, positive};
use super::state::PoolState;
use crate::config::raw;
use futures::FutureExt;
use pingora::connectors::TransportConnector;
use pingora::connectors::http::Connector as HttpConnector;
use pingora::protocols::http::client::HttpSession;
use pingora::upstreams::peer::HttpPeer;
use pingora_http::RequestHeader;
use portcullis_plugin::ConfigError;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, LazyLock, Weak};
use std::time::Duration;
use tokio_util::task::AbortOnDropHandle;

/// Of the body of a health response, no more is read: the status has said it all.
const MOST_BODY: usize = 64 << 10;
/// Interim responses (1xx) before the final one.
const MOST_INTERIM: usize = 8;
/// The first check of a new backend comes within this, so that a thousand do not start in the same instant.
const FIRST_WITHIN: Duration = Duration::from_millis(100);

/// How the backends of a pool are checked.
pub(super) struct Check {
    http: Option<Http>,
    interval: Duration,
    timeout: Duration,
    thresholds: Thresholds,
    starts_healthy: bool,
    /// Two checks with the same fingerprint are the same.
    fingerprint: u64,
}

struct Http {
    path: String,
    /// `None`: the backend's address.
    host: Option<String>,
    /// Empty: 200 to 399.
    status: Vec<u16>,
    port: Option<u16>,
}

#[derive(Debug, Clone, Copy)]
struct Thresholds {
    healthy_after: u32,
    unhealthy_after: u32,
}

impl Check {
    /// `host` is the pool's.
    pub(super) fn compile(raw: raw::Health, host: Option<&str>, peers: &Peers) -> Result<Self, ConfigError> {
        let mut fingerprint = DefaultHasher::new();
        (format!("{raw:?}"), host, peers.group()).hash(&mut fingerprint);
        let raw::Health { http, interval, timeout, healthy_after, unhealthy_after, start } = raw;
        let at_least_one = |value: u32, key: &'static str| match value {
            0 => Err(ConfigError::new("a threshold is at least 1").at(key)),
            value => Ok(value),
        };
        let http = http.map(|http| Http::compile(http, host)).transpose().map_err(|error| error.at("http"))?;
        Ok(Self {
            http,
            interval: positive(interval).map_err(|error| error.at("interval"))?,
            timeout: positive(timeout).map_err(|error| error.at("timeout"))?,
            thresholds: Thresholds {
                healthy_after: at_least_one(healthy_after, "healthy_after")?,
                unhealthy_after: at_least_one(unhealthy_after, "unhealthy_after")?,
            },
            starts_healthy: match start {
                raw::HealthStart::Healthy => true,
                raw::HealthStart::Unhealthy => false,
            },
            fingerprint: fingerprint.finish(),
        })
    }

    pub(super) fn starts_healthy(&self) -> bool {
        self.starts_healthy
    }

    /// One check.
    async fn run(&self, target: &Target) -> Result<(), Failure> {
        let port = self.http.as_ref().and_then(|http| http.port);
        let peer = peer::for_check(&target.peer, port, self.timeout).map_err(|error| Failure::Error(error.to_string()))?;
        let asked = async {
            match &self.http {
                Some(http) => http.ask(&peer, &target.label).await,
                None => CONNECT.new_stream(&peer).await.map(|_| ()).map_err(Failure::from),
            }
        };
        // A panic in a check is a failed check, and not the end of checking.
        match tokio::time::timeout(self.timeout, AssertUnwindSafe(asked).catch_unwind()).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Failure::Error("the check panicked".into())),
            Err(_) => Err(Failure::Timeout(self.timeout)),
        }
    }
}

impl Http {
    fn compile(raw: raw::HttpCheck, pool_host: Option<&str>) -> Result<Self, ConfigError> {
        let raw::HttpCheck { path, host, status, port } = raw;
        if !path.starts_with('/') || path.bytes().any(|b| !b.is_ascii_graphic() || b == b'#') {
            return Err(ConfigError::new(format!("`{path}` is not a path")).help("write one such as /healthz").at("path"));
        }
        if let Some(host) = &host {
            check_authority(host).map_err(|error| error.at("host"))?;
        }
        if let Some(index) = status.iter().position(|status| !(200..=599).contains(status)) {
            return Err(ConfigError::new("a status that passes is 200 to 599").at(index).at("status"));
        }
        if port == Some(0) {
            return Err(ConfigError::new("a port is 1 to 65535").at("port"));
        }
        Ok(Self { path, host: host.or_else(|| pool_host.map(str::to_owned)), status, port })
    }

    async fn ask(&self, peer: &HttpPeer, label: &str) -> Result<(), Failure> {
        let mut head = RequestHeader::build("GET", self.path.as_bytes(), None)?;
        head.insert_header("Host", self.host.as_deref().unwrap_or(label))?;
        head.insert_header("User-Agent", "portcullis-health")?;
        head.insert_header("Accept", "*/*")?;
        let (mut session, _) = HTTP.get_http_session(peer).await?;
        session.set_read_timeout(peer.options.read_timeout);
        session.set_write_timeout(peer.options.write_timeout);
        session.write_request_header(Box::new(head)).await?;
        session.finish_request_body().await?;
        let status = final_status(&mut session).await?;
        if !self.passes(status) {
            return Err(Failure::Status(status));
        }
        // Closing with bytes unread would look like a broken connection in the backend's log.
        let mut read = 0;
        while read < MOST_BODY {
            match session.read_response_body().await? {
                Some(bytes) => read += bytes.len(),
                None => break,
            }
        }
        session.shutdown().await;
        Ok(())
    }

    fn passes(&self, status: u16) -> bool {
        if self.status.is_empty() { (200..400).contains(&status) } else { self.status.contains(&status) }
    }
}

/// The status of the response that counts, after those such as 103 Early Hints.
async fn final_status(session: &mut HttpSession) -> Result<u16, Failure> {
    for _ in 0..MOST_INTERIM {
        session.read_response_header().await?;
        match session.response_header().map(|head| head.status.as_u16()) {
            Some(100..=199) => {}
            Some(status) => return Ok(status),
            None => break,
        }
    }
    Err(Failure::Error("no final response".into()))
}

/// For checks only; their connections are never reused. Shared, because each loads the system's CAs.
static HTTP: LazyLock<HttpConnector> = LazyLock::new(|| {
    install_provider();
    HttpConnector::new(None)
});
static CONNECT: LazyLock<TransportConnector> = LazyLock::new(|| {
    install_provider();
    TransportConnector::new(None)
});

/// Before Pingora installs its own. A gateway has done so at its start; then this does nothing.
fn install_provider() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// Why a check failed, for the log.
#[derive(Debug)]
enum Failure {
    Timeout(Duration),
    Status(u16),
    Error(String),
}

impl From<Box<pingora::Error>> for Failure {
    fn from(error: Box<pingora::Error>) -> Self {
        Self::Error(error.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout(limit) => write!(f, "no answer within {limit:?}"),
            Self::Status(status) => write!(f, "status {status}"),
            Self::Error(text) => f.write_str(text),
        }
    }
}

/// What one task checks.
struct Target {
    pool: Arc<str>,
    label: Arc<str>,
    peer: HttpPeer,
    backend: Weak<BackendState>,
    state: Weak<PoolState>,
}

/// Sees to it that `backend` is checked as `check` says: a task that does so already goes on, another is replaced.
pub(super) fn ensure(check: &Arc<Check>, backend: &Backend, pool: &Arc<str>, state: &Arc<PoolState>) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    let mut checker = backend.state().checker.lock();
    if checker.as_ref().is_some_and(|running| running.fingerprint == check.fingerprint && !running.task.is_finished()) {
        return;
    }
    let target = Target {
        pool: Arc::clone(pool),
        label: Arc::clone(backend.state().label()),
        peer: backend.peer().clone(),
        backend: Arc::downgrade(backend.state()),
        state: Arc::downgrade(state),
    };
    let task = AbortOnDropHandle::new(runtime.spawn(watch(Arc::clone(check), target)));
    *checker = Some(Checker { fingerprint: check.fingerprint, task });
}

async fn watch(check: Arc<Check>, target: Target) {
    let mut streak = Streak::default();
    tokio::time::sleep(check.interval.min(FIRST_WITHIN).mul_f64(fastrand::f64())).await;
    loop {
        let result = check.run(&target).await;
        let (Some(backend), Some(state)) = (target.backend.upgrade(), target.state.upgrade()) else { return };
        let was_up = backend.verdict().unwrap_or(check.starts_healthy);
        let is_up = streak.note(result.is_ok(), was_up, check.thresholds);
        let address = backend.address();
        if is_up != was_up || backend.verdict().is_none() {
            backend.set_verdict(is_up);
        }
        if is_up != was_up {
            match &result {
                Ok(()) => tracing::info!(pool = %target.pool, backend = %target.label, %address, "backend is up"),
                Err(cause) => {
                    tracing::warn!(pool = %target.pool, backend = %target.label, %address, %cause, "backend is down");
                }
            }
            state.changed();
        } else if let Err(cause) = &result {
            tracing::debug!(pool = %target.pool, backend = %target.label, %address, %cause, "health check failed");
        }
        // Nothing is held while waiting: when the last pool drops the backend, this task ends with it.
        drop((backend, state));
        tokio::time::sleep(check.interval.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
    }
}

/// Results in a row that speak against what a backend is taken for.
#[derive(Default)]
struct Streak(u32);

impl Streak {
    /// What the backend is to be taken for after this result.
    fn note(&mut self, passed: bool, up: bool, thresholds: Thresholds) -> bool {
        if passed == up {
            self.0 = 0;
            return up;
        }
        self.0 = self.0.saturating_add(1);
        let needed = if passed { thresholds.healthy_after } else { thresholds.unhealthy_after };
        if self.0 < needed {
            return up;
        }
        self.0 = 0;
        passed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_streak_flips_at_its_threshold_and_starts_anew() {
        let thresholds = Thresholds { healthy_after: 2, unhealthy_after: 3 };
        let mut streak = Streak::default();
        let mut up = true;
        let mut seen = Vec::new();
        for passed in [false, false, true, false, false, false, true, false, true, true] {
            up = streak.note(passed, up, thresholds);
            seen.push(up);
        }
        assert_eq!(seen, [true, true, true, true, true, false, false, false, false, true]);
    }

    #[test]
    fn statuses_that_pass() {
        let http = |status| Http { path: "/".into(), host: None, status, port: None };
        let default: Vec<u16> = [199, 200, 399, 400].into_iter().filter(|s| http(vec![]).passes(*s)).collect();
        assert_eq!(default, [200, 399]);
        assert!(http(vec![418]).passes(418) && !http(vec![418]).passes(200));
    }
}
