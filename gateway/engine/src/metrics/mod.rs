//! Metrics in the Prometheus text format: one registry for each gateway, never the process's.
//!
//! Handles are resolved when a configuration is loaded; a request only adds to atomics. A handle keeps its series: what a
//! reload removed disappears from the exposition once its last request has ended. What it kept goes on counting, because
//! the new snapshot asks for its handles while the old one still holds them.
//!
//! `portcullis_issuer_keys` and `portcullis_issuer_keys_age_seconds` are registered by the identity crate, through
//! [`Env`](portcullis_plugin::Env), in this same registry.

mod family;
mod handles;
#[cfg(test)]
mod tests;

pub use family::{Family, Member, Series};
pub use handles::{BackendMetrics, FilterMetrics, ListenerMetrics, PoolMetrics, RouteMetrics};

use crate::weak_map::WeakMap;
use portcullis_plugin::Mode;
use prometheus::core::Collector;
use prometheus::{Encoder, Gauge, Histogram, IntCounter, IntGauge, Opts, Registry, TextEncoder};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Everything one gateway counts.
pub struct Metrics {
    registry: Registry,
    families: Families,
    /// Lines of the access log that were lost: the queue was full, or the write failed.
    pub access_log_dropped: IntCounter,
    /// Failed attempts to write to or to open the access log.
    pub access_log_errors: IntCounter,
    pub audit: AuditMetrics,
    /// Client connections that are parked.
    pub parked: IntGauge,
    config_generation: IntGauge,
    reload_success: IntGauge,
    reload_success_time: Gauge,
    reloads_ok: Series<IntCounter>,
    reloads_failed: Series<IntCounter>,
    _build: Series<IntGauge>,
    routes: WeakMap<(Box<str>, Box<str>), RouteMetrics>,
    filters: WeakMap<(Box<str>, Box<str>, &'static str), FilterMetrics>,
    listeners: WeakMap<Box<str>, ListenerMetrics>,
    pools: WeakMap<Box<str>, PoolMetrics>,
}

/// What an audit log counts.
#[derive(Clone)]
pub struct AuditMetrics {
    pub records: IntCounter,
    pub lost: IntCounter,
    pub errors: IntCounter,
    pub failing: IntGauge,
}

/// The labelled metrics, by what they are about.
pub(crate) struct Families {
    requests: Family<IntCounter>,
    request_duration: Family<Histogram>,
    upstream_duration: Family<Histogram>,
    verdicts: Family<IntCounter>,
    filter_panics: Family<IntCounter>,
    refused: Family<IntCounter>,
    driver_requests: Family<IntCounter>,
    connections: Family<IntGauge>,
    handshake_failures: Family<IntCounter>,
    backend_up: Family<IntGauge>,
    backend_requests: Family<IntCounter>,
    retries: Family<IntCounter>,
    reloads: Family<IntCounter>,
    build: Family<IntGauge>,
}

impl Metrics {
    #[expect(clippy::expect_used, reason = "the names are constants, each registered once in a fresh registry")]
    pub fn new() -> Arc<Self> {
        Arc::new(Self::register(Registry::new()).expect("the names are valid and differ"))
    }

    fn register(registry: Registry) -> prometheus::Result<Self> {
        // Only Linux tells a process about itself the way this collector asks.
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let families = Families::register(&registry)?;
        let counter = |name, help| IntCounter::with_opts(Opts::new(name, help)).and_then(|metric| known(&registry, metric));
        let gauge = |name, help| IntGauge::with_opts(Opts::new(name, help)).and_then(|metric| known(&registry, metric));
        let build = families.build.series(&[env!("CARGO_PKG_VERSION")]);
        build.set(1);
        let success_time = Gauge::with_opts(Opts::new(
            "portcullis_config_last_reload_success_timestamp_seconds",
            "When the running configuration took effect, in seconds since 1970.",
        ))?;
        Ok(Self {
            access_log_dropped: counter(
                "portcullis_access_log_dropped_total",
                "Access log lines that were lost because the queue was full or the write failed.",
            )?,
            access_log_errors: counter(
                "portcullis_access_log_errors_total",
                "Failed attempts to write to or to open the access log.",
            )?,
            audit: AuditMetrics {
                records: counter("portcullis_audit_records_total", "Records of the audit log that are on the disk.")?,
                lost: counter(
                    "portcullis_audit_lost_total",
                    "Records of the audit log that were lost because the queue was full or the gateway ended before the disk took them.",
                )?,
                errors: counter("portcullis_audit_errors_total", "Failed attempts to write to or to open the audit log.")?,
                failing: gauge(
                    "portcullis_audit_failing",
                    "Whether the audit log cannot be written now (1). Requests are then refused, unless on_failure is drop.",
                )?,
            },
            parked: gauge(
                "portcullis_connections_parked",
                "Client connections that have waited for a while and hold next to no memory, of all that are open.",
            )?,
            config_generation: gauge(
                "portcullis_config_generation",
                "The number of the running configuration; each one that takes effect gets the next.",
            )?,
            reload_success: gauge(
                "portcullis_config_last_reload_success",
                "Whether the last configuration that was read took effect (1), or was refused and the one before kept (0).",
            )?,
            reload_success_time: known(&registry, success_time)?,
            reloads_ok: families.reloads.series(&["success"]),
            reloads_failed: families.reloads.series(&["failure"]),
            _build: build,
            families,
            registry,
            routes: WeakMap::default(),
            filters: WeakMap::default(),
            listeners: WeakMap::default(),
            pools: WeakMap::default(),
        })
    }

    /// Where filters and the identity crate register metrics of their own.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// For the requests of one route on one listener.
    pub fn route(&self, listener: &str, route: &str) -> Arc<RouteMetrics> {
        self.routes.get((listener.into(), route.into()), || RouteMetrics::new(&self.families, listener, route))
    }

    /// For one filter of one route; `route` is empty for a filter of a listener, which runs before there is one. A member of
    /// a group has the group before its name: `any_of/oidc`.
    pub fn filter(&self, route: &str, filter: &str, mode: Mode) -> Arc<FilterMetrics> {
        let mode = mode.as_str();
        self.filters.get((route.into(), filter.into(), mode), || FilterMetrics::new(&self.families, route, filter, mode))
    }

    pub fn listener(&self, name: &str) -> Arc<ListenerMetrics> {
        self.listeners.get(name.into(), || ListenerMetrics::new(&self.families, name))
    }

    pub fn pool(&self, name: &str) -> Arc<PoolMetrics> {
        self.pools.get(name.into(), || PoolMetrics::new(&self.families, name))
    }

    /// The first configuration runs. It counts as no reload.
    pub fn config_started(&self, generation: u64) {
        self.config_generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
        self.reload_success.set(1);
        self.reload_success_time.set(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
    }

    /// A changed configuration has taken effect.
    pub fn reload_succeeded(&self, generation: u64) {
        self.config_started(generation);
        self.reloads_ok.inc();
    }

    /// A changed configuration was refused; the running one stays.
    pub fn reload_failed(&self) {
        self.reload_success.set(0);
        self.reloads_failed.inc();
    }

    /// All metrics as [`CONTENT_TYPE`]. Reads `/proc`, and takes a while where there are many routes: not for an async task.
    pub fn render(&self) -> String {
        let mut out = Vec::new();
        for family in self.registry.gather() {
            let start = out.len();
            // One family that cannot be written, of a filter's own collector, must not hide all the others.
            if let Err(error) = TextEncoder::new().encode(std::slice::from_ref(&family), &mut out) {
                out.truncate(start);
                tracing::warn!(metric = family.name(), %error, "a metric cannot be exposed");
            }
        }
        String::from_utf8(out).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }
}

fn known<M: Collector + Clone + 'static>(registry: &Registry, metric: M) -> prometheus::Result<M> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

impl Families {
    fn register(registry: &Registry) -> prometheus::Result<Self> {
        fn family<M: Member>(
            registry: &Registry,
            name: &'static str,
            labels: &'static [&'static str],
            help: &'static str,
        ) -> prometheus::Result<Family<M>> {
            known(registry, Family::new(name, help, labels)?)
        }
        let r = registry;
        Ok(Self {
            requests: family(
                r,
                "portcullis_requests_total",
                &["listener", "route", "status"],
                "Requests, by the status the client got. The route is empty if none matched or the request was malformed.",
            )?,
            request_duration: family(
                r,
                "portcullis_request_duration_seconds",
                &["route"],
                "From a request's head to the end of its response.",
            )?,
            upstream_duration: family(
                r,
                "portcullis_upstream_duration_seconds",
                &["pool"],
                "From the choice of the backend that answered to the head of its response.",
            )?,
            verdicts: family(
                r,
                "portcullis_verdicts_total",
                &["route", "filter", "verdict", "reason", "mode"],
                "Verdicts of filters. With mode=shadow they had no effect. The route is empty for a listener's filters.",
            )?,
            filter_panics: family(
                r,
                "portcullis_filter_panics_total",
                &["route", "filter"],
                "Panics in filters. Each refused one request.",
            )?,
            refused: family(
                r,
                "portcullis_requests_refused_total",
                &["listener", "reason"],
                "Requests and connections that were refused before there was a route.",
            )?,
            driver_requests: family(
                r,
                "portcullis_driver_requests_total",
                &["listener", "driver"],
                "Requests by the driver that served them: direct or pingora.",
            )?,
            connections: family(r, "portcullis_connections", &["listener"], "Client connections that are open.")?,
            handshake_failures: family(
                r,
                "portcullis_handshake_failures_total",
                &["listener", "reason"],
                "Connections that ended before their TLS handshake or PROXY header was complete.",
            )?,
            backend_up: family(
                r,
                "portcullis_backend_up",
                &["pool", "backend"],
                "Whether a backend gets requests (1) or is taken for down (0).",
            )?,
            backend_requests: family(
                r,
                "portcullis_backend_requests_total",
                &["pool", "backend", "outcome"],
                "Attempts to have a backend answer a request, by how they ended.",
            )?,
            retries: family(r, "portcullis_retries_total", &["pool"], "Attempts after the first, on another backend.")?,
            reloads: family(r, "portcullis_reloads_total", &["result"], "Configurations that were read after the first.")?,
            build: family(r, "portcullis_build_info", &["version"], "Always 1; the version is the label.")?,
        })
    }
}
