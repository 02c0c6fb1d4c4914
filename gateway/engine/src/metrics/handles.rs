//! Handles: the series of one route, filter, listener, pool or backend, found once and then only added to.
//!
//! Two snapshots that name the same thing share one handle, so that a reload resets nothing.

use super::{Families, Family, Series};
use crate::weak_map::WeakMap;
use parking_lot::RwLock;
use portcullis_plugin::{ReasonCode, reason};
use prometheus::{Histogram, IntCounter, IntGauge};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Counters that differ in one label whose few values come from the program's text.
struct ByLabel<K> {
    known: RwLock<Vec<(K, Series<IntCounter>)>>,
}

impl<K: Copy + Eq> ByLabel<K> {
    fn new() -> Self {
        Self { known: RwLock::default() }
    }

    fn get(&self, key: K, make: impl FnOnce() -> Series<IntCounter>) -> Series<IntCounter> {
        let find = |known: &[(K, Series<IntCounter>)]| known.iter().find(|(k, _)| *k == key).map(|(_, series)| series.clone());
        if let Some(series) = find(&self.known.read()) {
            return series;
        }
        let mut known = self.known.write();
        find(&known).unwrap_or_else(|| {
            let series = make();
            known.push((key, series.clone()));
            series
        })
    }
}

/// The statuses that have a place of their own, so that counting them takes no lock.
const COMMON: [u16; 30] = [
    200, 101, 201, 202, 204, 206, 301, 302, 303, 304, 307, 308, 400, 401, 403, 404, 405, 408, 409, 413, 415, 421, 422, 429, 431,
    499, 500, 502, 503, 504,
];

/// Status to its place in [`COMMON`]; `COMMON.len()` for none.
const PLACE: [u8; 600] = {
    let mut table = [COMMON.len() as u8; 600];
    let mut i = 0;
    while i < COMMON.len() {
        table[COMMON[i] as usize] = i as u8;
        i += 1;
    }
    table
};

/// The requests of one route on one listener.
pub struct RouteMetrics {
    /// `portcullis_request_duration_seconds`, shared by all listeners of the route.
    pub duration: Series<Histogram>,
    family: Family<IntCounter>,
    listener: Box<str>,
    route: Box<str>,
    common: [OnceLock<Series<IntCounter>>; COMMON.len()],
    rare: ByLabel<u16>,
}

impl RouteMetrics {
    pub(super) fn new(families: &Families, listener: &str, route: &str) -> Self {
        Self {
            duration: families.request_duration.series(&[route]),
            family: families.requests.clone(),
            listener: listener.into(),
            route: route.into(),
            common: [const { OnceLock::new() }; COMMON.len()],
            rare: ByLabel::new(),
        }
    }

    /// Counts a request that ended with `status` after `duration`.
    pub fn finished(&self, status: u16, duration: Duration) {
        self.duration.observe(duration.as_secs_f64());
        let place = PLACE.get(usize::from(status)).map_or(COMMON.len(), |place| usize::from(*place));
        match self.common.get(place) {
            Some(common) => common.get_or_init(|| self.series(status)).inc(),
            None => self.requests(status).inc(),
        }
    }

    /// `portcullis_requests_total` for `status`. What is no HTTP status counts as `other`: a backend may send any three
    /// digits, and must not make up labels.
    pub fn requests(&self, status: u16) -> Series<IntCounter> {
        let place = PLACE.get(usize::from(status)).map_or(COMMON.len(), |place| usize::from(*place));
        match self.common.get(place) {
            Some(common) => common.get_or_init(|| self.series(status)).clone(),
            None => {
                let status = if (100..=599).contains(&status) { status } else { 0 };
                self.rare.get(status, || self.series(status))
            }
        }
    }

    fn series(&self, status: u16) -> Series<IntCounter> {
        let mut text = itoa::Buffer::new();
        let status = if status == 0 { "other" } else { text.format(status) };
        self.family.series(&[&self.listener, &self.route, status])
    }
}

/// The verdicts of one filter of one route, in one mode.
pub struct FilterMetrics {
    /// The filter let the request go on.
    pub allow: Series<IntCounter>,
    respond: OnceLock<Series<IntCounter>>,
    fault: OnceLock<Series<IntCounter>>,
    denied: ByLabel<ReasonCode>,
    panics: OnceLock<Series<IntCounter>>,
    verdicts: Family<IntCounter>,
    panic_family: Family<IntCounter>,
    route: Box<str>,
    filter: Box<str>,
    mode: &'static str,
}

impl FilterMetrics {
    pub(super) fn new(families: &Families, route: &str, filter: &str, mode: &'static str) -> Self {
        Self {
            allow: families.verdicts.series(&[route, filter, "allow", "", mode]),
            respond: OnceLock::new(),
            fault: OnceLock::new(),
            denied: ByLabel::new(),
            panics: OnceLock::new(),
            verdicts: families.verdicts.clone(),
            panic_family: families.filter_panics.clone(),
            route: route.into(),
            filter: filter.into(),
            mode,
        }
    }

    pub fn allow(&self) {
        self.allow.inc();
    }

    /// The filter refused; in shadow mode, it would have.
    pub fn deny(&self, reason: ReasonCode) {
        self.denied.get(reason, || self.verdict("deny", reason.as_str())).inc();
    }

    /// The filter answered by itself.
    pub fn respond(&self) {
        self.respond.get_or_init(|| self.verdict("respond", "")).inc();
    }

    /// The filter failed.
    pub fn fault(&self) {
        self.fault.get_or_init(|| self.verdict("fault", reason::FILTER_FAULT.as_str())).inc();
    }

    /// The filter panicked: a fault, and counted as a panic too.
    pub fn panicked(&self) {
        self.panics.get_or_init(|| self.panic_family.series(&[&self.route, &self.filter])).inc();
        self.fault();
    }

    fn verdict(&self, verdict: &str, reason: &str) -> Series<IntCounter> {
        self.verdicts.series(&[&self.route, &self.filter, verdict, reason, self.mode])
    }
}

/// The connections of one listener.
pub struct ListenerMetrics {
    /// Requests that the direct driver served.
    pub direct: Series<IntCounter>,
    /// Requests that Pingora's driver served.
    pub pingora: Series<IntCounter>,
    connections: Series<IntGauge>,
    handshake_failures: ByLabel<&'static str>,
    refused: ByLabel<ReasonCode>,
    handshake_family: Family<IntCounter>,
    refused_family: Family<IntCounter>,
    listener: Box<str>,
}

impl ListenerMetrics {
    pub(super) fn new(families: &Families, listener: &str) -> Self {
        Self {
            direct: families.driver_requests.series(&[listener, "direct"]),
            pingora: families.driver_requests.series(&[listener, "pingora"]),
            connections: families.connections.series(&[listener]),
            handshake_failures: ByLabel::new(),
            refused: ByLabel::new(),
            handshake_family: families.handshake_failures.clone(),
            refused_family: families.refused.clone(),
            listener: listener.into(),
        }
    }

    /// A connection is open; [`closed`](Self::closed) follows.
    pub fn opened(&self) {
        self.connections.inc();
    }

    pub fn closed(&self) {
        self.connections.dec();
    }

    /// A connection that ended before HTTP could begin. `reason` is one of a few words, never what a client sent.
    pub fn handshake_failure(&self, reason: &'static str) {
        self.handshake_failures.get(reason, || self.handshake_family.series(&[&self.listener, reason])).inc();
    }

    /// A request that was refused before there was a route.
    pub fn refused(&self, reason: ReasonCode) {
        self.refused.get(reason, || self.refused_family.series(&[&self.listener, reason.as_str()])).inc();
    }
}

/// One pool and its backends.
pub struct PoolMetrics {
    /// `portcullis_upstream_duration_seconds`.
    pub upstream_duration: Series<Histogram>,
    /// `portcullis_retries_total`.
    pub retries: Series<IntCounter>,
    backends: WeakMap<Box<str>, BackendMetrics>,
    up: Family<IntGauge>,
    requests: Family<IntCounter>,
    pool: Box<str>,
}

impl PoolMetrics {
    pub(super) fn new(families: &Families, pool: &str) -> Self {
        Self {
            upstream_duration: families.upstream_duration.series(&[pool]),
            retries: families.retries.series(&[pool]),
            backends: WeakMap::default(),
            up: families.backend_up.clone(),
            requests: families.backend_requests.clone(),
            pool: pool.into(),
        }
    }

    /// `label` is the backend's address as configured. The series go when the last handle goes.
    pub fn backend(&self, label: &str) -> Arc<BackendMetrics> {
        self.backends.get(label.into(), || BackendMetrics {
            up: OnceLock::new(),
            up_family: self.up.clone(),
            success: OnceLock::new(),
            other_outcomes: ByLabel::new(),
            requests: self.requests.clone(),
            pool: self.pool.clone(),
            backend: label.into(),
        })
    }
}

/// The outcome of an attempt that a backend answered as it should.
const SUCCESS: &str = "success";

/// One backend of a pool.
pub struct BackendMetrics {
    /// Made when it is first set: a configuration that is only checked, or refused, must not show a backend as down.
    up: OnceLock<Series<IntGauge>>,
    up_family: Family<IntGauge>,
    /// Has a place of its own, so that counting what nearly every request is takes no lock.
    success: OnceLock<Series<IntCounter>>,
    other_outcomes: ByLabel<&'static str>,
    requests: Family<IntCounter>,
    pool: Box<str>,
    backend: Box<str>,
}

impl BackendMetrics {
    pub fn set_up(&self, up: bool) {
        self.up.get_or_init(|| self.up_family.series(&[&self.pool, &self.backend])).set(i64::from(up));
    }

    /// Counts an attempt by how it ended: one of a few words such as `success`.
    pub fn outcome(&self, outcome: &'static str) {
        let series = || self.requests.series(&[&self.pool, &self.backend, outcome]);
        match outcome {
            SUCCESS => self.success.get_or_init(series).inc(),
            _ => self.other_outcomes.get(outcome, series).inc(),
        }
    }
}
