//! Chooses one backend of those that can serve.
//!
//! A [`View`] is made whenever addresses or health change, and read by every request without a lock.

pub mod hash;
pub mod least_requests;
pub mod random;
pub mod round_robin;

use super::backend::Backend;
use super::settings::Balance;
use hash::{HashKey, Ring};
use portcullis_plugin::{Exchange, RequestHead};
use random::Cumulative;
use round_robin::Rotation;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// The backends of a pool as they are now.
pub(super) struct View {
    /// All of them, those that are down or out of service too.
    members: Arc<[Arc<Backend>]>,
    /// Those that may be chosen: up, and with a weight.
    ready: Vec<Arc<Backend>>,
    chooser: Chooser,
}

enum Chooser {
    RoundRobin(Rotation),
    LeastRequests(Rotation, Cumulative),
    Random(Cumulative),
    Hash(Arc<Ring>, HashKey),
}

impl Default for View {
    fn default() -> Self {
        Self { members: Arc::new([]), ready: Vec::new(), chooser: Chooser::RoundRobin(Rotation::new(&[])) }
    }
}

impl View {
    pub(super) fn new(members: Arc<[Arc<Backend>]>, balance: &Balance, before: &Self) -> Self {
        let ready: Vec<_> = members.iter().filter(|backend| backend.weight() > 0 && backend.is_up()).cloned().collect();
        let weights: Vec<u32> = ready.iter().map(|backend| backend.weight()).collect();
        let chooser = match balance {
            Balance::RoundRobin => Chooser::RoundRobin(Rotation::new(&weights)),
            Balance::LeastRequests => Chooser::LeastRequests(Rotation::new(&weights), Cumulative::new(&weights)),
            Balance::Random => Chooser::Random(Cumulative::new(&weights)),
            Balance::Hash(key) => {
                let ring = match &before.chooser {
                    // The ring has the backends that are down too, so that health changes no key's place on it.
                    Chooser::Hash(ring, _) if same(&before.members, &members) => Arc::clone(ring),
                    _ => Arc::new(Ring::new(&members)),
                };
                Chooser::Hash(ring, key.clone())
            }
        };
        Self { members, ready, chooser }
    }

    pub(super) fn members(&self) -> &Arc<[Arc<Backend>]> {
        &self.members
    }

    pub(super) fn member(&self, label: &str, address: SocketAddr) -> Option<&Arc<Backend>> {
        self.members.iter().find(|backend| backend.address() == address && backend.label() == label)
    }

    pub(super) fn any_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The first in the order of the algorithm that `take` takes.
    pub(super) fn choose(
        &self,
        position: &AtomicU64,
        request: &RequestHead,
        exchange: &Exchange,
        take: impl Fn(&Backend) -> bool,
    ) -> Option<&Arc<Backend>> {
        if self.ready.is_empty() {
            return None;
        }
        match &self.chooser {
            Chooser::RoundRobin(rotation) => round_robin::choose(&self.ready, rotation, position, take),
            Chooser::LeastRequests(rotation, weights) => least_requests::choose(&self.ready, rotation, weights, position, take),
            Chooser::Random(weights) => random::choose(&self.ready, weights, take),
            Chooser::Hash(ring, key) => {
                key.with(request, exchange, |bytes| ring.choose(&self.members, bytes, |b| b.is_up() && take(b)))
            }
        }
    }
}

fn same(a: &[Arc<Backend>], b: &[Arc<Backend>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
}

/// When the first choices are taken: everyone once, from `start` on.
fn any_from(ready: &[Arc<Backend>], start: usize, take: impl Fn(&Backend) -> bool) -> Option<&Arc<Backend>> {
    let (before, after) = ready.split_at_checked(start)?;
    after.iter().chain(before).find(|backend| take(backend))
}
