//! The latest requests that were not answered as their route says, and why: what `GET /decisions/{id}` on the admin
//! listener and `portcullis why` show.
//!
//! They are kept in memory only, so many and each so large at most, whatever clients send; the oldest goes first. An
//! allowed request never comes here. No token and no secret is kept: of the request only what the access log shows, and
//! of the checks what filters say of them, which holds neither.

use crate::access_log::{FinalVerdict, Record, redact, timestamp};
use parking_lot::Mutex;
use portcullis_plugin::{Check, DecisionId};
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
    /// `deny` or `error`.
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
    pub expected: String,
    pub observed: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// The decisions that are kept. One for the life of a gateway: a reload changes how many, and loses none that fit.
#[derive(Default)]
pub struct Decisions {
    /// 0: none are kept, and nothing is done for one.
    capacity: AtomicUsize,
    /// The oldest first. Looked through only by operators.
    ring: Mutex<VecDeque<(DecisionId, Arc<Decision>)>>,
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
        let mut ring = self.ring.lock();
        self.capacity.store(capacity.min(MAX_KEPT), Ordering::Relaxed);
        let excess = ring.len().saturating_sub(self.capacity());
        let gone: Vec<_> = ring.drain(..excess).collect();
        ring.shrink_to(self.capacity());
        drop(ring);
        drop(gone);
    }

    /// Keeps a decision, unless it allowed the request.
    pub fn record(&self, id: DecisionId, record: &Record<'_>, checks: &[Check]) {
        if record.verdict == FinalVerdict::Allow || self.capacity() == 0 {
            return;
        }
        // Made before the lock is taken, and what it displaces is freed after it is given back.
        let decision = Arc::new(Decision::new(id, record, checks));
        let gone = {
            let mut ring = self.ring.lock();
            // Read under the lock, so that a change of size meanwhile is not overrun.
            let capacity = self.capacity();
            ring.push_back((id, decision));
            let excess = ring.len().saturating_sub(capacity);
            if excess == 1 { ring.pop_front() } else { None }
        };
        drop(gone);
    }

    pub fn find(&self, id: &str) -> Option<Arc<Decision>> {
        // From the newest: that is what people ask for.
        self.ring.lock().iter().rev().find(|(known, _)| known.as_str() == id).map(|(_, decision)| Arc::clone(decision))
    }

    /// The newest first.
    pub fn newest(&self, count: usize) -> Vec<Arc<Decision>> {
        self.ring.lock().iter().rev().take(count).map(|(_, decision)| Arc::clone(decision)).collect()
    }
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
            reason: record.reason.map(portcullis_plugin::ReasonCode::as_str),
            client: record.client,
            method: record.method.map(bytes),
            host: record.host.map(bytes),
            path: record.path.map(|path| bytes(&redact::path(path))),
            query: record.query.map(|query| bytes(&redact::query(query))),
            principal: record.principal.map(|principal| Caller {
                sub: owned(principal.sub),
                issuer: principal.issuer.map(owned),
                method: owned(principal.method),
            }),
            checks,
            checks_left_out,
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

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_plugin::{Finding, reason};

    fn record<'a>(id: &'a str, verdict: FinalVerdict) -> Record<'a> {
        let peer = "192.0.2.7:1234".parse().unwrap();
        Record {
            verdict,
            status: 401,
            reason: Some(reason::TOKEN_EXPIRED),
            ..Record::new(SystemTime::UNIX_EPOCH, id, "https", peer)
        }
    }

    fn check(name: &'static str, text: &str) -> Check {
        let finding = Finding::new(text, text).hint(text);
        Check { filter: "oidc", check: name, ok: false, reason: reason::TOKEN_EXPIRED, finding }
    }

    fn decisions(capacity: usize) -> Arc<Decisions> {
        let decisions = Decisions::off();
        decisions.resize(capacity);
        decisions
    }

    fn refuse(decisions: &Decisions) -> DecisionId {
        let id = DecisionId::random();
        decisions.record(id, &record(id.as_str(), FinalVerdict::Deny), &[check("expiry", "x")]);
        id
    }

    #[test]
    fn the_oldest_goes_first() {
        let decisions = decisions(3);
        let ids: Vec<_> = (0..5).map(|_| refuse(&decisions)).collect();
        let kept: Vec<_> = decisions.newest(10).iter().map(|decision| decision.decision_id.clone()).collect();
        assert_eq!(kept, [&ids[4], &ids[3], &ids[2]].map(ToString::to_string));
        assert!(decisions.find(ids[1].as_str()).is_none());
        assert_eq!(decisions.find(ids[2].as_str()).unwrap().decision_id, ids[2].as_str());
        assert_eq!(decisions.newest(1).len(), 1);
    }

    #[test]
    fn allowed_requests_are_not_kept_and_errors_are() {
        let decisions = decisions(3);
        for (verdict, len) in [(FinalVerdict::Allow, 0), (FinalVerdict::Error, 1), (FinalVerdict::Deny, 2)] {
            let id = DecisionId::random();
            decisions.record(id, &record(id.as_str(), verdict), &[]);
            assert_eq!(decisions.newest(9).len(), len);
        }
    }

    #[test]
    fn another_size_keeps_the_newest_and_none_is_off() {
        let decisions = decisions(4);
        let ids: Vec<_> = (0..4).map(|_| refuse(&decisions)).collect();
        decisions.resize(2);
        assert!(decisions.find(ids[1].as_str()).is_none() && decisions.find(ids[2].as_str()).is_some());
        decisions.resize(3);
        refuse(&decisions);
        assert!(decisions.find(ids[2].as_str()).is_some());
        decisions.resize(0);
        refuse(&decisions);
        assert!(decisions.newest(9).is_empty());
        decisions.resize(usize::MAX);
        assert_eq!(decisions.capacity(), MAX_KEPT);
    }

    #[test]
    fn whatever_a_client_sends_a_decision_has_a_bounded_size() {
        let decisions = decisions(1);
        let (id, long) = (DecisionId::random(), "ü".repeat(50_000));
        let text = Some(long.as_bytes());
        let checks: Vec<_> = (0..40).map(|_| check("many", &long)).chain([check("last", "short")]).collect();
        let full = Record { method: text, host: text, path: text, query: text, ..record(id.as_str(), FinalVerdict::Deny) };
        decisions.record(id, &full, &checks);
        let kept = decisions.find(id.as_str()).unwrap();
        assert!(serde_json::to_string(&*kept).unwrap().len() < 12 << 10);
        // The one that decided is there, whole, and the others are counted.
        let last = kept.checks.last().unwrap();
        assert_eq!((last.check, last.observed.as_str()), ("last", "short"));
        assert_eq!(kept.checks.len() + kept.checks_left_out, checks.len());
        assert!(kept.host.as_ref().unwrap().len() <= MAX_TEXT && kept.host.as_ref().unwrap().ends_with(CUT));
    }

    #[test]
    fn secrets_in_the_target_are_replaced_and_any_bytes_are_text() {
        let decisions = decisions(1);
        let id = DecisionId::random();
        let target = Record {
            path: Some(b"/a/\xff"),
            query: Some(b"access_token=hunter2hunter2&page=2"),
            ..record(id.as_str(), FinalVerdict::Deny)
        };
        decisions.record(id, &target, &[]);
        let json = serde_json::to_value(&*decisions.find(id.as_str()).unwrap()).unwrap();
        assert!(!json.to_string().contains("hunter2") && json["query"].as_str().unwrap().contains("page=2"), "{json}");
        assert_eq!((&json["path"], &json["time"]), (&"/a/\u{fffd}".into(), &"1970-01-01T00:00:00.000Z".into()));
        assert_eq!((&json["method"], &json["reason"], &json["status"]), (&().into(), &"token.expired".into(), &401.into()));
    }
}
