//! Names of backends become addresses in the background, never on the way of a request.
//!
//! Until a name is resolved for the first time, the pool has no backend from it. Afterwards the last addresses stay when
//! a name server fails or answers nothing: a backend is more likely to be where it was than nowhere.

use super::state::PoolState;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio_util::task::AbortOnDropHandle;

/// For one resolution, all its attempts included.
const TIMEOUT: Duration = Duration::from_secs(15);
/// After a failure, the first wait; it doubles up to the pool's interval.
const RETRY: Duration = Duration::from_secs(1);
/// More are not used: no answer of a sane name server has them.
const MOST_ADDRESSES: usize = 1_000;

/// A name that does not resolve.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ResolveError {
    #[error("{0}")]
    Failed(String),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("it has no addresses")]
    Empty,
}

/// Where addresses come from.
#[async_trait]
pub(crate) trait Resolve: Send + Sync {
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError>;
}

/// The system's name servers, its search domains and its hosts file. A name with IPv4 addresses is reached by these; one
/// without, by its IPv6 addresses.
pub(crate) struct SystemResolver;

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        // Made anew each time, so that a change of resolv.conf or the hosts file counts. Without a resolv.conf, the C
        // library knows what to do (on a thread of its own: it blocks).
        let Ok(mut builder) = TokioResolver::builder_tokio() else { return from_libc(host).await };
        let options = builder.options_mut();
        options.ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
        // The pool's interval says how old an answer may be.
        options.cache_size = 0;
        let Ok(resolver) = builder.build() else { return from_libc(host).await };
        let found = resolver.lookup_ip(host).await.map_err(|error| ResolveError::Failed(error.to_string()))?;
        Ok(found.iter().collect())
    }
}

async fn from_libc(host: &str) -> Result<Vec<IpAddr>, ResolveError> {
    let found = tokio::net::lookup_host((host, 0)).await.map_err(|error| ResolveError::Failed(error.to_string()))?;
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = found.map(|address| address.ip()).partition(IpAddr::is_ipv4);
    Ok(if v4.is_empty() { v6 } else { v4 })
}

/// A name that backends have, with what is known of it. Shared by the pools of one name over reloads.
pub(super) struct Name {
    host: Arc<str>,
    /// Sorted; empty until first resolved.
    addresses: ArcSwap<Vec<IpAddr>>,
    task: Mutex<Option<(Duration, AbortOnDropHandle<()>)>>,
}

impl Name {
    pub(super) fn new(host: Arc<str>) -> Self {
        Self { host, addresses: ArcSwap::default(), task: Mutex::new(None) }
    }

    pub(super) fn addresses(&self) -> Arc<Vec<IpAddr>> {
        self.addresses.load_full()
    }
}

/// Sees to it that `name` is resolved every `interval`: a task that does so already goes on.
pub(super) fn ensure(name: &Arc<Name>, interval: Duration, resolver: &Arc<dyn Resolve>, pool: &Arc<str>, state: &Arc<PoolState>) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    let mut task = name.task.lock();
    if task.as_ref().is_some_and(|(running, task)| *running == interval && !task.is_finished()) {
        return;
    }
    let watch = watch(
        Arc::clone(&name.host),
        Arc::downgrade(name),
        interval,
        Arc::clone(resolver),
        Arc::clone(pool),
        Arc::downgrade(state),
    );
    *task = Some((interval, AbortOnDropHandle::new(runtime.spawn(watch))));
}

async fn watch(
    host: Arc<str>,
    name: Weak<Name>,
    interval: Duration,
    resolver: Arc<dyn Resolve>,
    pool: Arc<str>,
    state: Weak<PoolState>,
) {
    let mut failures = 0;
    loop {
        let found = addresses(&*resolver, &host).await;
        let (Some(name), Some(state)) = (name.upgrade(), state.upgrade()) else { return };
        match found {
            Ok(found) => {
                failures = 0;
                if *name.addresses() != found {
                    tracing::info!(%pool, name = %host, addresses = ?found, "name resolved");
                    name.addresses.store(Arc::new(found));
                    state.changed();
                }
            }
            Err(cause) => {
                // Once when it begins: it is repeated every second.
                if failures == 0 {
                    let kept = name.addresses().len();
                    tracing::warn!(%pool, name = %host, %cause, kept, "name not resolved; its last addresses stay");
                }
                failures += 1;
            }
        }
        drop((name, state));
        tokio::time::sleep(pause(interval, failures)).await;
    }
}

/// Sorted and without duplicates, so that an answer in another order is no change.
async fn addresses(resolver: &dyn Resolve, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
    let found = tokio::time::timeout(TIMEOUT, resolver.resolve(host)).await.map_err(|_| ResolveError::Timeout(TIMEOUT))??;
    let sorted: BTreeSet<IpAddr> = found.into_iter().map(|ip| ip.to_canonical()).collect();
    if sorted.is_empty() {
        return Err(ResolveError::Empty);
    }
    Ok(sorted.into_iter().take(MOST_ADDRESSES).collect())
}

fn pause(interval: Duration, failures: u32) -> Duration {
    match failures {
        0 => interval.mul_f64(0.9 + 0.2 * fastrand::f64()),
        _ => interval.min(RETRY.saturating_mul(1 << (failures - 1).min(16))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_retried_soon_and_then_less_often() {
        let pauses: Vec<u64> = (1..8).map(|n| pause(Duration::from_secs(30), n).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(pause(Duration::from_millis(200), 1), Duration::from_millis(200));
        assert_eq!(pause(Duration::from_secs(30), u32::MAX), Duration::from_secs(30));
    }

    #[tokio::test]
    async fn localhost_needs_no_name_server() {
        let found = SystemResolver.resolve("localhost").await.unwrap();
        assert!(!found.is_empty() && found.iter().all(IpAddr::is_loopback), "{found:?}");
    }
}
