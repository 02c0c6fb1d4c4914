//! Pools: which backend gets a request, and whether it can.
//!
//! In the order in which a backend comes to serve:
//!
//! - [`address`]: what `host:port` says
//! - [`settings`]: what the rest of a pool's configuration says
//! - [`resolve`]: names become addresses, in the background
//! - [`health`]: each address is asked whether it can serve
//! - [`balance`]: one of those that can is chosen
//! - [`backend`]: what is known of one address, and the guard that counts a request in flight
//! - [`peer`]: the only place that makes an `HttpPeer`
//! - [`connection`]: the direct driver's connections, and the idle ones among them
//! - [`spoken`]: what backends have chosen to speak, where TLS leaves it to them
//! - [`split`]: shares requests out between pools
//! - [`state`]: what outlives a reload
//!
//! There is no panic mode: when every backend is down, nothing is chosen, and the request is refused with
//! `pool.no_healthy_backend`.

pub mod address;
pub mod backend;
pub mod balance;
pub mod connection;
pub mod health;
pub mod peer;
pub mod resolve;
pub mod settings;
pub mod split;
mod spoken;
mod state;

#[cfg(test)]
mod tests;

pub use backend::{BackendId, BackendOutcome, Selected};
pub use connection::Connection;
pub use peer::PeerError;
pub use settings::Timeouts;
pub use split::Split;

use crate::config::raw;
use crate::metrics::{BackendMetrics, Metrics, PoolMetrics};
use address::Host;
use arc_swap::ArcSwap;
use backend::Backend;
use balance::View;
use parking_lot::Mutex;
use portcullis_plugin::{ConfigError, Env, Exchange, RequestHead};
use resolve::{Name, Resolve, SystemResolver};
use settings::Settings;
use state::PoolState;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A group of backends that serve the same thing, as one configuration describes it.
///
/// A reload makes a new `Pool`; requests that started with the old one keep it. Both share the [`PoolState`]: position,
/// health and requests in flight go on as if nothing had happened.
pub struct Pool {
    name: Arc<str>,
    settings: Settings,
    entries: Vec<Entry>,
    view: ArcSwap<View>,
    /// Held while a view is made, so that an older one never replaces a newer one.
    refreshing: Mutex<()>,
    state: Arc<PoolState>,
    /// 0 until started.
    generation: AtomicU64,
    metrics: Arc<PoolMetrics>,
    resolver: Arc<dyn Resolve>,
}

/// One line of `backends`.
struct Entry {
    /// As configured: `host:port`.
    label: Arc<str>,
    /// What TLS asks for and checks, unless `tls.server_name` says otherwise.
    host: String,
    place: Place,
    weight: u32,
    max_requests: Option<usize>,
    series: Arc<BackendMetrics>,
}

enum Place {
    Address(SocketAddr),
    Name(Arc<Name>, u16),
}

impl Pool {
    /// Checks and compiles one pool. `metrics` gets its series; nothing runs before [`start`](Self::start).
    ///
    /// # Errors
    /// With the path inside of the pool; the caller puts the pool's name in front.
    pub fn compile(name: &str, raw: raw::Pool, env: &Env, metrics: &Metrics) -> Result<Arc<Self>, ConfigError> {
        Self::compile_with(name, raw, env, metrics, Arc::new(SystemResolver))
    }

    pub(crate) fn compile_with(
        name: &str,
        raw: raw::Pool,
        env: &Env,
        metrics: &Metrics,
        resolver: Arc<dyn Resolve>,
    ) -> Result<Arc<Self>, ConfigError> {
        let (settings, backends) = Settings::compile(name, raw, env)?;
        let metrics = metrics.pool(name);
        let state = env.keep(&format!("pool/{name}"), PoolState::default);
        let entries = backends
            .into_iter()
            .map(|line| Entry {
                host: line.address.host.to_string(),
                place: match line.address.host {
                    Host::Ip(ip) => Place::Address(SocketAddr::new(ip, line.address.port)),
                    Host::Name(host) => Place::Name(state.name(&host), line.address.port),
                },
                weight: line.weight,
                max_requests: line.max_requests,
                series: metrics.backend(&line.address.label),
                label: line.address.label,
            })
            .collect();
        let pool = Self {
            name: name.into(),
            settings,
            entries,
            view: ArcSwap::from_pointee(View::default()),
            refreshing: Mutex::new(()),
            state,
            generation: AtomicU64::new(0),
            metrics,
            resolver,
        };
        pool.refresh();
        Ok(Arc::new(pool))
    }

    /// Starts health checks and the resolution of names on the current tokio runtime. They end when no pool has the
    /// backend or the name any more. A pool of the same name that was started before is no longer in charge.
    pub fn start(self: &Arc<Self>) {
        self.generation.store(self.state.take_over(self), Ordering::Release);
        for entry in &self.entries {
            if let Place::Name(name, _) = &entry.place {
                resolve::ensure(name, self.settings.resolve_interval, &self.resolver, &self.name, &self.state);
            }
        }
        self.state.keep_swept();
        self.refresh();
    }

    /// What the requests sent to this pool are counted with.
    pub fn metrics(&self) -> &PoolMetrics {
        &self.metrics
    }

    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Chooses a backend and counts a request in flight on it until the answer is dropped. `tried` are those that this
    /// request has failed on. `None` if no healthy backend is left that has room.
    pub fn select(&self, request: &RequestHead, exchange: &Exchange, tried: &[BackendId]) -> Option<Selected> {
        let view = self.view.load();
        let take = |backend: &Backend| !tried.contains(&backend.id()) && backend.acquire();
        view.choose(&self.state.position, request, exchange, take).map(|backend| Selected::acquired(Arc::clone(backend)))
    }

    pub fn timeouts(&self) -> &Timeouts {
        &self.settings.timeouts
    }

    /// How often a request that could not be sent is tried on another backend.
    pub fn retries(&self) -> usize {
        self.settings.retries
    }

    /// Whether its backends are spoken to over HTTP/2 and nothing else.
    pub fn needs_http2(&self) -> bool {
        self.settings.peers.needs_http2()
    }

    /// Whether its backends are spoken to over HTTP/1.1: with `auto` on TLS, if that is what they have chosen so far.
    pub fn speaks_http1(&self) -> bool {
        self.settings.peers.speaks_http1()
    }

    /// A connection of Pingora's has come to this version. Of no account where the backend had no choice.
    pub fn learn_version(&self, http2: bool) {
        self.settings.peers.learn(http2);
    }

    /// How long an idle connection is kept.
    pub fn keepalive(&self) -> Duration {
        self.settings.peers.keepalive()
    }

    /// The `Host` sent to backends, if it is not the client's.
    pub fn host(&self) -> Option<&str> {
        self.settings.host.as_deref()
    }

    /// Whether a backend is up that may get requests.
    pub fn any_healthy(&self) -> bool {
        self.view.load().any_ready()
    }

    /// Makes a new view from what is known now: addresses, then health.
    fn refresh(&self) {
        let _one_at_a_time = self.refreshing.lock();
        let before = self.view.load_full();
        let members = self.members(&before);
        let view = View::new(members, &self.settings.balance, &before);
        self.view.store(Arc::new(view));
        if self.in_charge() {
            self.report();
        }
    }

    /// Every address of every entry. What `before` had and is still meant stays the very same object.
    fn members(&self, before: &View) -> Arc<[Arc<Backend>]> {
        if !before.members().is_empty() && self.entries.iter().all(|entry| matches!(entry.place, Place::Address(_))) {
            return Arc::clone(before.members());
        }
        let known: HashMap<_, _> = before.members().iter().map(|b| ((b.label(), b.address()), b)).collect();
        let mut members = Vec::with_capacity(known.len().max(self.entries.len()));
        for entry in &self.entries {
            let mut add = |address: SocketAddr| {
                let same = known.get(&(&*entry.label, address)).map(|backend| Arc::clone(backend));
                members.extend(same.or_else(|| self.member(entry, address)));
            };
            match &entry.place {
                Place::Address(address) => add(*address),
                Place::Name(name, port) => name.addresses().iter().for_each(|ip| add(SocketAddr::new(*ip, *port))),
            }
        }
        members.into()
    }

    fn member(&self, entry: &Entry, address: SocketAddr) -> Option<Arc<Backend>> {
        let peers = &self.settings.peers;
        let reach = match peers.reach(address, &entry.host) {
            Ok(reach) => reach,
            Err(error) => {
                // A backend that cannot be spoken to as configured gets no requests.
                tracing::error!(pool = %self.name, backend = %entry.label, %address, %error, "backend left out");
                return None;
            }
        };
        Some(Arc::new(Backend::new(
            self.state.backend(&entry.label, address),
            Arc::clone(&entry.series),
            entry.weight,
            entry.max_requests,
            self.settings.health.as_ref().is_none_or(|check| check.starts_healthy()),
            self.settings.health.is_some(),
            reach,
        )))
    }

    /// Only the pool started last speaks for the name: it sets the gauges and decides what is checked, and how.
    fn in_charge(&self) -> bool {
        let generation = self.generation.load(Ordering::Acquire);
        generation != 0 && self.state.active() == generation
    }

    fn report(&self) {
        let view = self.view.load();
        for backend in view.members().iter() {
            match &self.settings.health {
                Some(check) => health::ensure(check, backend, &self.name, &self.state),
                None => backend.state().forget_health(),
            }
        }
        // A name stands for its addresses: it is up while one of them is.
        let up: HashSet<_> = view.members().iter().filter(|backend| backend.is_up()).map(|backend| backend.label()).collect();
        for entry in &self.entries {
            entry.series.set_up(up.contains(&*entry.label));
        }
    }
}
