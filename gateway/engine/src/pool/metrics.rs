//! The series of backends. They appear with the first pool that has the backend and go with the last.

use super::backend::BackendOutcome;
use parking_lot::Mutex;
use portcullis_plugin::prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, Result};
use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};

type Live = Mutex<HashMap<(Arc<str>, Arc<str>), Weak<Series>>>;

/// Where pools count. Cheap to clone; one per registry.
#[derive(Clone)]
pub struct PoolMetrics {
    up: IntGaugeVec,
    requests: IntCounterVec,
    live: Arc<Live>,
}

impl PoolMetrics {
    /// # Errors
    /// If the registry has one of the names already.
    pub fn register(registry: &Registry) -> Result<Self> {
        let up = IntGaugeVec::new(
            Opts::new("portcullis_backend_up", "Whether a backend gets requests: 1 if it is healthy, or not checked."),
            &["pool", "backend"],
        )?;
        let requests = IntCounterVec::new(
            Opts::new("portcullis_backend_requests_total", "Attempts on a backend, by how they ended."),
            &["pool", "backend", "outcome"],
        )?;
        registry.register(Box::new(up.clone()))?;
        registry.register(Box::new(requests.clone()))?;
        Ok(Self { up, requests, live: Arc::default() })
    }

    /// The series of one backend; the same as long as anybody has it.
    pub(super) fn series(&self, pool: &str, backend: &str) -> Arc<Series> {
        let key: (Arc<str>, Arc<str>) = (pool.into(), backend.into());
        let mut live = self.live.lock();
        if let Some(series) = live.get(&key).and_then(Weak::upgrade) {
            return series;
        }
        let counters = BackendOutcome::ALL.map(|outcome| self.requests.with_label_values(&[&*key.0, &*key.1, outcome.as_str()]));
        let series = Arc::new(Series { key: key.clone(), counters, up: OnceLock::new(), metrics: self.clone() });
        live.insert(key, Arc::downgrade(&series));
        series
    }
}

/// The handles of one backend of one pool.
pub(super) struct Series {
    key: (Arc<str>, Arc<str>),
    counters: [IntCounter; BackendOutcome::ALL.len()],
    /// Made when the pool starts: a configuration that is only checked has no health to show.
    up: OnceLock<IntGauge>,
    metrics: PoolMetrics,
}

impl Series {
    pub(super) fn count(&self, outcome: BackendOutcome) {
        if let Some(counter) = self.counters.get(outcome as usize) {
            counter.inc();
        }
    }

    pub(super) fn set_up(&self, up: bool) {
        self.up.get_or_init(|| self.metrics.up.with_label_values(&[&*self.key.0, &*self.key.1])).set(i64::from(up));
    }
}

impl Drop for Series {
    fn drop(&mut self) {
        // Under the lock, and only if nobody has made the series anew since: else theirs would vanish.
        let mut live = self.metrics.live.lock();
        if live.get(&self.key).is_some_and(|successor| successor.strong_count() > 0) {
            return;
        }
        live.remove(&self.key);
        let (pool, backend) = (&*self.key.0, &*self.key.1);
        // An error here means that the series is gone already.
        let _ = self.metrics.up.remove_label_values(&[pool, backend]);
        for outcome in BackendOutcome::ALL {
            let _ = self.metrics.requests.remove_label_values(&[pool, backend, outcome.as_str()]);
        }
    }
}
