//! Pools as a whole: real sockets on port 0, no name servers.

mod choosing;
mod compiling;
mod health;
mod names;
mod reload;
mod tls;

use super::resolve::{Resolve, ResolveError};
use super::{Pool, Selected};
use crate::config::raw;
use crate::metrics::Metrics;
use async_trait::async_trait;
use parking_lot::Mutex;
use portcullis_plugin::env::Kept;
use portcullis_plugin::{
    CertificateStatus, ConfigError, Connection, Env, Exchange, Headers, Method, RequestHead, Scheme, Version,
};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// A gateway's surroundings, over several configurations.
pub struct Gateway {
    kept: Arc<Kept>,
    metrics: Arc<Metrics>,
    folder: tempfile::TempDir,
}

impl Gateway {
    pub fn new() -> Self {
        Self { kept: Arc::default(), metrics: Metrics::new(), folder: tempfile::tempdir().unwrap() }
    }

    fn env(&self) -> Env {
        Env::new(self.folder.path(), self.metrics.registry().clone(), Arc::clone(&self.kept))
    }

    pub fn file(&self, name: &str, content: &str) {
        std::fs::write(self.folder.path().join(name), content).unwrap();
    }

    pub fn compile(&self, pool: Value) -> Result<Arc<Pool>, ConfigError> {
        let raw: raw::Pool = serde_json::from_value(pool).unwrap();
        Pool::compile("web", raw, &self.env(), &self.metrics)
    }

    pub fn pool(&self, pool: Value) -> Arc<Pool> {
        self.compile(pool).unwrap()
    }

    pub fn pool_with(&self, pool: Value, resolver: Arc<dyn Resolve>) -> Arc<Pool> {
        let raw: raw::Pool = serde_json::from_value(pool).unwrap();
        Pool::compile_with("web", raw, &self.env(), &self.metrics, resolver).unwrap()
    }

    /// The samples of one metric: label values in the order of label names, joined by a space.
    pub fn samples(&self, name: &str) -> BTreeMap<String, f64> {
        let families = self.metrics.registry().gather();
        let family = families.iter().find(|family| family.name() == name);
        let samples = family.map(|family| family.get_metric()).unwrap_or_default();
        samples
            .iter()
            .map(|sample| {
                let labels: Vec<&str> = sample.get_label().iter().map(|pair| pair.value()).collect();
                // A sample has one of the two; the other reads as 0.
                let value = sample.get_gauge().get_value() + sample.get_counter().get_value();
                (labels.join(" "), value)
            })
            .collect()
    }

    pub fn up(&self, backend: &str) -> Option<f64> {
        self.samples("portcullis_backend_up").get(&format!("{backend} web")).copied()
    }
}

pub fn request(headers: &[(&str, &str)]) -> RequestHead {
    let mut all = Headers::new();
    for (name, value) in headers {
        all.append(name, value).unwrap();
    }
    RequestHead::new(Method::Get, Scheme::Http, Version::Http11, "a.example".into(), "/".into(), all)
}

pub fn exchange(client: &str) -> Exchange {
    let client: IpAddr = client.parse().unwrap();
    let peer = SocketAddr::new(client, 1);
    let connection = Connection { listener: "l".into(), peer, source: peer, local: peer, tls: None };
    Exchange::new(Arc::new(connection), client, CertificateStatus::Missing, SystemTime::now())
}

pub fn select(pool: &Pool) -> Option<Selected> {
    pool.select(&request(&[]), &exchange("192.0.2.1"), &[])
}

/// How often each backend comes up in `n` requests that do not overlap.
pub fn count(pool: &Pool, n: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..n {
        let label = select(pool).map_or_else(|| "none".to_owned(), |selected| selected.label().to_owned());
        *counts.entry(label).or_default() += 1;
    }
    counts
}

pub fn counts<const N: usize>(expected: [(&str, usize); N]) -> BTreeMap<String, usize> {
    expected.into_iter().map(|(label, n)| (label.to_owned(), n)).collect()
}

/// Waits for a condition. The limit is for a test that would hang, not a measure.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(30), "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A name server that answers what it is told.
#[derive(Default)]
pub struct Told {
    answer: Mutex<Option<Vec<IpAddr>>>,
    asked: Mutex<usize>,
}

impl Told {
    pub fn say(&self, addresses: Option<&[&str]>) {
        *self.answer.lock() = addresses.map(|all| all.iter().map(|a| a.parse().unwrap()).collect());
    }

    pub fn asked(&self) -> usize {
        *self.asked.lock()
    }
}

#[async_trait]
impl Resolve for Told {
    async fn resolve(&self, _: &str) -> Result<Vec<IpAddr>, ResolveError> {
        *self.asked.lock() += 1;
        self.answer.lock().clone().ok_or_else(|| ResolveError::Failed("told so".into()))
    }
}
