//! The latest requests that were not answered as their route says, and why: what `GET /decisions/{id}` on the admin
//! listener and `portcullis why` show.
//!
//! They are kept in memory only, so many and each so large at most, whatever clients send; the oldest goes first. Of
//! allowed requests only those come here that a filter in shadow mode would have refused, and they have a place of their
//! own: a rule that is being tried out pushes no refusal out. No token and no secret is kept: of the request only what the
//! access log shows, and of the checks what filters say of them, which holds neither.

mod selection;
#[cfg(test)]
mod tests;

pub use selection::Selection;

use crate::access_log::{FinalVerdict, Record, redact, timestamp};
use parking_lot::Mutex;
use portcullis_plugin::{Check, DecisionId, ReasonCode, Shadowed};
use serde::Serialize;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

/// Decisions that a configuration may ask for. For more, there is the access log.
pub const MAX_KEPT: usize = 100_000;

/// Checks of one decision. Only failed ones are recorded, so that a real one has a few.
const MAX_CHECKS: usize = 16;

/// Filters in shadow mode that are named with one decision.
const MAX_SHADOWED: usize = 16;

/// Bytes of one text.
const MAX_TEXT: usize = 512;

/// Bytes of all the texts of one decision's checks.
const MAX_TEXTS: usize = 6 << 10;

/// Stands for what was cut off.
const CUT: &str = "…";

/// One decision. Serialised, it has the members of an explanation, and those that say which request it was.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decision {
    pub decision_id: String,
    #[serde(serialize_with = "rfc3339")]
    pub time: SystemTime,
    pub listener: String,
    pub route: Option<String>,
    /// `deny` or `error`; `allow` where only filters in shadow mode would have refused.
    pub verdict: &'static str,
    /// `None`: the client got no status.
    pub status: Option<u16>,
    pub reason: Option<&'static str>,
    pub client: IpAddr,
    /// `None`, as host and path may be, if the request could not be read.
    pub method: Option<String>,
    pub host: Option<String>,
    pub path: Option<String>,
    /// Secrets in it are replaced.
    pub query: Option<String>,
    pub principal: Option<Caller>,
    pub checks: Vec<KeptCheck>,
    /// How many earlier checks there were beside those.
    pub checks_left_out: usize,
    /// What filters in shadow mode would have done.
    pub shadow: Vec<Shadowed>,
    pub pool: Option<String>,
    pub backend: Option<String>,
}

/// Who was calling, as far as it was verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Caller {
    pub sub: String,
    pub issuer: Option<String>,
    pub method: String,
}

/// A check with its texts cut to size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeptCheck {
    pub filter: &'static str,
    pub check: &'static str,
    pub ok: bool,
    pub reason: &'static str,
    /// As in [`Check`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<Box<str>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub shadow: bool,
    pub expected: String,
    pub observed: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// The decisions that are kept. One for the life of a gateway: a reload changes how many, and loses none that fit.
#[derive(Default)]
pub struct Decisions {
    /// Of each of the two rings. 0: none are kept, and nothing is done for one.
    capacity: AtomicUsize,
    rings: Mutex<Rings>,
}

/// The oldest first in each. Looked through only by operators.
#[derive(Default)]
struct Rings {
    refused: VecDeque<Kept>,
    shadowed: VecDeque<Kept>,
    /// How many there ever were.
    count: u64,
}

#[derive(Clone)]
struct Kept {
    number: u64,
    id: DecisionId,
    decision: Arc<Decision>,
}

/// Whether one of those in shadow mode would have refused the request.
pub fn would_refuse(shadow: &[Shadowed]) -> bool {
    shadow.iter().any(|shadowed| shadowed.verdict != "respond")
}

impl Decisions {
    /// Keeps none until it is [resized](Self::resize).
    pub fn off() -> Arc<Self> {
        Arc::default()
    }

    pub fn capacity(&self) -> usize {
        self.capacity.load(Ordering::Relaxed)
    }

    /// From now on this many; what no longer fits goes.
    pub fn resize(&self, capacity: usize) {
        let mut rings = self.rings.lock();
        let capacity = capacity.min(MAX_KEPT);
        self.capacity.store(capacity, Ordering::Relaxed);
        let Rings { refused, shadowed, .. } = &mut *rings;
        let gone: Vec<_> = [refused, shadowed].map(|ring| shrink(ring, capacity)).into();
        drop(rings);
        drop(gone);
    }

    /// Keeps a decision, unless the request was allowed and would have been without shadow mode.
    pub fn record(&self, id: DecisionId, record: &Record<'_>, checks: &[Check]) {
        let allowed = record.verdict == FinalVerdict::Allow;
        if self.capacity() == 0 || (allowed && !would_refuse(record.shadow)) {
            return;
        }
        // Made before the lock is taken, and what it displaces is freed after it is given back.
        let decision = Arc::new(Decision::new(id, record, checks));
        let gone = {
            let mut rings = self.rings.lock();
            // Read under the lock, so that a change of size meanwhile is not overrun.
            let capacity = self.capacity();
            rings.count += 1;
            let number = rings.count;
            let ring = if allowed { &mut rings.shadowed } else { &mut rings.refused };
            ring.push_back(Kept { number, id, decision });
            let excess = ring.len().saturating_sub(capacity);
            if excess == 1 { ring.pop_front() } else { None }
        };
        drop(gone);
    }

    pub fn find(&self, id: &str) -> Option<Arc<Decision>> {
        let rings = self.rings.lock();
        // From the newest: that is what people ask for.
        let find =
            |ring: &VecDeque<Kept>| ring.iter().rev().find(|kept| kept.id.as_str() == id).map(|kept| Arc::clone(&kept.decision));
        find(&rings.refused).or_else(|| find(&rings.shadowed))
    }

    /// Those that were selected, the newest first.
    pub fn select(&self, selection: &Selection) -> Vec<Arc<Decision>> {
        // Only pointers are copied under the lock that refusals wait for.
        let mut kept: Vec<Kept> = {
            let rings = self.rings.lock();
            rings.refused.iter().chain(&rings.shadowed).cloned().collect()
        };
        kept.sort_unstable_by_key(|kept| std::cmp::Reverse(kept.number));
        let chosen = kept.into_iter().map(|kept| kept.decision).filter(|decision| selection.takes(decision));
        chosen.take(selection.limit()).collect()
    }
}

fn shrink(ring: &mut VecDeque<Kept>, capacity: usize) -> Vec<Kept> {
    let excess = ring.len().saturating_sub(capacity);
    let gone = ring.drain(..excess).collect();
    ring.shrink_to(capacity);
    gone
}

impl Decision {
    fn new(id: DecisionId, record: &Record<'_>, checks: &[Check]) -> Self {
        let owned = |text: &str| clip(text, MAX_TEXT);
        let bytes = |text: &[u8]| clip(&String::from_utf8_lossy(text), MAX_TEXT);
        let (checks, checks_left_out) = keep(checks);
        Self {
            decision_id: id.to_string(),
            time: record.time,
            listener: owned(record.listener),
            route: record.route.map(owned),
            verdict: record.verdict.as_str(),
            status: (record.status != 0).then_some(record.status),
            reason: record.reason.map(ReasonCode::as_str),
            client: record.client,
            method: record.method.map(bytes),
            host: record.host.map(bytes),
            path: record.path.map(|path| bytes(&redact::path(path))),
            query: record.query.map(|query| bytes(&redact::query(query))),
            principal: record.principal.map(|principal| Caller {
                sub: owned(&principal.subject),
                issuer: principal.issuer.as_deref().map(owned),
                method: owned(principal.method),
            }),
            checks,
            checks_left_out,
            shadow: record.shadow.iter().take(MAX_SHADOWED).copied().collect(),
            pool: record.pool.map(owned),
            backend: record.backend.map(owned),
        }
    }
}

/// The last checks that fit, since the last one decided, and how many do not.
pub(crate) fn keep(checks: &[Check]) -> (Vec<KeptCheck>, usize) {
    let mut left = MAX_TEXTS;
    let mut text = |text: &str| {
        let text = clip(text, MAX_TEXT.min(left));
        left -= text.len();
        text
    };
    let mut kept: Vec<_> = checks
        .iter()
        .rev()
        .take(MAX_CHECKS)
        .map(|check| KeptCheck {
            filter: check.filter,
            check: check.check,
            ok: check.ok,
            reason: check.reason.as_str(),
            group: check.group.clone(),
            shadow: check.shadow,
            expected: text(&check.finding.expected),
            observed: text(&check.finding.observed),
            hint: check.finding.hint.as_deref().map(&mut text),
        })
        .collect();
    kept.reverse();
    let left_out = checks.len() - kept.len();
    (kept, left_out)
}

/// At most `max` bytes of a text, with a sign that there was more.
fn clip(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    match max.checked_sub(CUT.len()) {
        Some(room) => [text.get(..text.floor_char_boundary(room)).unwrap_or_default(), CUT].concat(),
        None => String::new(),
    }
}

fn rfc3339<S: serde::Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let mut text = Vec::with_capacity(24);
    timestamp::write(&mut text, *time);
    serializer.collect_str(&String::from_utf8_lossy(&text))
}
