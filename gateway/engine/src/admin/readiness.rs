//! Whether the gateway should get requests: what `/readyz` says.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// Where the gateway stands between start and end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not all listeners accept yet.
    Starting,
    Serving,
    /// No new connection is accepted; requests in flight are finished.
    Draining,
}

impl Phase {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Draining => "draining",
        }
    }
}

/// The gateway's phase, shared by those who change it and those who ask. A clone is a handle to the same.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<AtomicU8>);

const STARTING: u8 = 0;
const SERVING: u8 = 1;
const DRAINING: u8 = 2;

impl Readiness {
    /// Starting.
    pub fn new() -> Self {
        Self::default()
    }

    /// Every listener accepts. A gateway that already drains goes on draining.
    pub fn serving(&self) {
        self.0.fetch_max(SERVING, Ordering::Release);
    }

    /// The end has begun, and there is no way back.
    pub fn draining(&self) {
        self.0.fetch_max(DRAINING, Ordering::Release);
    }

    pub fn phase(&self) -> Phase {
        match self.0.load(Ordering::Acquire) {
            STARTING => Phase::Starting,
            SERVING => Phase::Serving,
            _ => Phase::Draining,
        }
    }
}
