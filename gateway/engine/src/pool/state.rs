//! What a pool keeps over reloads, found again by its name.
//!
//! A backend or a name lives as long as a pool, or a request, has it.

use super::Pool;
use super::backend::BackendState;
use super::resolve::Name;
use crate::weak_map::WeakMap;
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

#[derive(Default)]
pub(super) struct PoolState {
    /// How many choices were made: where the round robin stands.
    pub(super) position: AtomicU64,
    backends: WeakMap<(Arc<str>, SocketAddr), BackendState>,
    names: WeakMap<Arc<str>, Name>,
    /// Every pool that is started and in use, the newest last.
    pools: Mutex<Vec<Weak<Pool>>>,
    active: AtomicU64,
    swept: AtomicBool,
}

/// How often idle connections are looked through. One that is taken is looked at anyway.
const SWEEP: Duration = Duration::from_secs(2);

impl PoolState {
    pub(super) fn backend(&self, label: &Arc<str>, address: SocketAddr) -> Arc<BackendState> {
        let make = || BackendState::new(Arc::clone(label), address);
        self.backends.get((Arc::clone(label), address), make)
    }

    pub(super) fn name(&self, host: &Arc<str>) -> Arc<Name> {
        self.names.get(Arc::clone(host), || Name::new(Arc::clone(host)))
    }

    /// Makes `pool` the one in charge, and gives its generation.
    pub(super) fn take_over(&self, pool: &Arc<Pool>) -> u64 {
        let mut pools = self.pools.lock();
        let this = Arc::downgrade(pool);
        pools.retain(|other| other.strong_count() > 0 && !other.ptr_eq(&this));
        pools.push(this);
        self.active.fetch_add(1, Ordering::AcqRel) + 1
    }

    pub(super) fn active(&self) -> u64 {
        self.active.load(Ordering::Acquire)
    }

    /// Lets go of idle connections that have become useless.
    pub(super) fn sweep(&self) {
        for backend in self.backends.all() {
            backend.idle.sweep();
        }
    }

    /// Begins to sweep, if nobody does yet; ends when no pool has the state any more.
    pub(super) fn keep_swept(self: &Arc<Self>) {
        if self.swept.swap(true, Ordering::AcqRel) {
            return;
        }
        let state = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(SWEEP).await;
                let Some(state) = state.upgrade() else { return };
                state.sweep();
            }
        });
    }

    /// Health or addresses have changed: every pool in use looks again. Also those of older configurations, whose
    /// requests may still be retried.
    pub(super) fn changed(&self) {
        // Not under the lock: dropping the last reference to a pool does work of its own.
        let pools: Vec<_> = self.pools.lock().iter().filter_map(Weak::upgrade).collect();
        for pool in pools {
            pool.refresh();
        }
    }
}
