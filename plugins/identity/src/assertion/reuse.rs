//! Assertions that are sent again, where the configuration says so: for further requests of the very same credential, to
//! the same service, route and method.

use super::signer::{Purpose, Statement};
use portcullis_plugin::{Method, Principal};
use quick_cache::Weighter;
use quick_cache::sync::{Cache, DefaultLifecycle};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Bytes of all that are kept, with the principals they are about.
const BYTES: u64 = 16 << 20;

/// For the first guess at how many there will be.
const ORDINARY: u64 = 4 << 10;

pub(super) struct Reuse {
    span: Duration,
    kept: Cache<About, Kept, Weight, ahash::RandomState>,
}

/// Everything that an assertion states, but for its time and the decision.
#[derive(Clone, PartialEq, Eq, Hash)]
struct About {
    /// Audience, and the claims to be told.
    purpose: u32,
    /// The principal's address: one is made for each credential that was verified, and the entry keeps it from being used
    /// for another.
    principal: usize,
    route: Option<Arc<str>>,
    method: Method,
    certificate: Option<String>,
}

#[derive(Clone)]
struct Kept {
    principal: Arc<Principal>,
    assertion: Arc<str>,
    made: SystemTime,
    until: SystemTime,
}

#[derive(Clone)]
struct Weight;

impl Weighter<About, Kept> for Weight {
    fn weight(&self, _: &About, kept: &Kept) -> u64 {
        // The credential's claims are kept alive too. They are not told by the assertion, and at most some times as large.
        (kept.assertion.len() * 4 + 1024) as u64
    }
}

impl Reuse {
    pub fn new(span: Duration) -> Self {
        let items = usize::try_from(BYTES / ORDINARY).unwrap_or(usize::MAX);
        Self { span, kept: Cache::with(items, BYTES, Weight, ahash::RandomState::new(), DefaultLifecycle::default()) }
    }

    pub fn get(&self, statement: &Statement<'_>) -> Option<Arc<str>> {
        let kept = self.kept.get(&About::of(statement))?;
        let good = Arc::ptr_eq(&kept.principal, statement.principal) && (kept.made..kept.until).contains(&statement.now);
        good.then_some(kept.assertion)
    }

    /// `ends`: the assertion's `exp`. Half of its life is left to whoever gets it for the last time.
    pub fn keep(&self, statement: &Statement<'_>, assertion: &str, ends: SystemTime) {
        let made = statement.now;
        let half = ends.duration_since(made).unwrap_or_default() / 2;
        let Some(until) = made.checked_add(self.span.min(half)) else { return };
        let kept = Kept { principal: Arc::clone(statement.principal), assertion: assertion.into(), made, until };
        self.kept.insert(About::of(statement), kept);
    }

    #[cfg(test)]
    pub fn weight(&self) -> u64 {
        self.kept.weight()
    }
}

impl About {
    fn of(statement: &Statement<'_>) -> Self {
        let Statement { purpose: Purpose { number, .. }, route, method, decision: _, now: _, principal, certificate } = statement;
        Self {
            purpose: *number,
            principal: Arc::as_ptr(principal).addr(),
            route: route.cloned(),
            method: (*method).clone(),
            certificate: certificate.map(|facts| facts.sha256.clone()),
        }
    }
}
