//! Requests that are refused before there is an exchange: not HTTP, ambiguous, too large, too slow. They are counted,
//! logged and answered like all others.

use crate::access_log::Record;
use crate::config::snapshot::{ListenerPlan, Snapshot};
use crate::normalise::Refusal;
use crate::rescue::Cause;
use portcullis_plugin::{Check, Connection, DecisionId, Reply};
use std::time::{Duration, SystemTime};

/// The name under which what a request is refused for before it has an exchange is told, in the place of a filter's.
pub const CHECKED_BY: &str = "normalise";

/// Counts and logs one refusal, and gives the reply.
pub fn refuse(snapshot: &Snapshot, plan: &ListenerPlan, connection: &Connection, refusal: &Refusal) -> Reply {
    let id = DecisionId::random();
    let cause = Cause::Refused { status: refusal.status, reason: refusal.reason };
    let reply = cause.reply(id);
    plan.metrics.refused(refusal.reason);
    plan.unrouted.finished(reply.status, Duration::ZERO);
    tracing::info!(
        decision_id = %id, listener = &*connection.listener, client = %connection.source.ip(), reason = %refusal.reason,
        expected = refusal.finding.expected, observed = refusal.finding.observed, "request refused"
    );
    let record = Record {
        client: connection.source.ip().to_canonical(),
        status: reply.status,
        verdict: cause.verdict(),
        reason: Some(refusal.reason),
        bytes_out: reply.body.len() as u64,
        ..Record::new(SystemTime::now(), id.as_str(), &connection.listener, connection.peer)
    };
    snapshot.decisions.record(id, &record, &[check(refusal.clone())]);
    snapshot.access_log.log(&record);
    reply
}

/// The refusal as the one check that failed.
pub fn check(refusal: Refusal) -> Check {
    Check { filter: CHECKED_BY, check: "request", ok: false, reason: refusal.reason, finding: refusal.finding }
}
