//! How many connections a listener holds at once.

use super::Observer;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the open connections of one listening socket.
pub(super) struct Permits {
    open: Arc<AtomicUsize>,
    observer: Arc<dyn Observer>,
}

impl Permits {
    pub(super) fn new(observer: Arc<dyn Observer>) -> Self {
        Self { open: Arc::default(), observer }
    }

    /// A place for one more connection, if there are fewer than `limit`. The limit may differ from call to call: a
    /// reload that lowers it closes nothing, and lets nobody in until enough have left.
    pub(super) fn take(&self, listener: &Arc<str>, limit: usize) -> Option<Permit> {
        self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| (open < limit).then_some(open + 1)).ok()?;
        self.observer.opened(listener);
        Some(Permit { open: Arc::clone(&self.open), observer: Arc::clone(&self.observer), listener: Arc::clone(listener) })
    }
}

/// The place of one open connection. Whoever serves the connection holds it until the connection is closed.
#[must_use = "dropping it gives the connection's place to another"]
pub struct Permit {
    open: Arc<AtomicUsize>,
    observer: Arc<dyn Observer>,
    listener: Arc<str>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.observer.closed(&self.listener);
    }
}
