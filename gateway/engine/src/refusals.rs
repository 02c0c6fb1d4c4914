//! Requests that are refused before there is an exchange: not HTTP, ambiguous, too large, too slow. They are counted,
//! logged and answered like all others.

use crate::access_log::{Outcome, Record};
use crate::config::snapshot::{ListenerPlan, Snapshot};
use crate::normalise::Refusal;
use crate::rescue;
use portcullis_plugin::{Connection, DecisionId, Denial, Reply};
use std::time::{Duration, SystemTime};

/// A refusal on its way out.
pub struct Refused {
    pub id: DecisionId,
    pub reply: Reply,
}

/// Counts, logs and answers one refusal.
pub fn refuse(snapshot: &Snapshot, plan: &ListenerPlan, connection: &Connection, refusal: &Refusal) -> Refused {
    let id = DecisionId::random();
    let denial = Denial::new(refusal.reason).status(refusal.status);
    let mut reply = rescue::reply_for_denial(&denial, id);
    // A header of our own making: always valid.
    let _ = reply.headers.set("x-decision-id", id.as_str());
    plan.metrics.refused(refusal.reason);
    plan.unrouted.record(refusal.status, Duration::ZERO);
    tracing::info!(
        decision_id = %id, listener = &*connection.listener, client = %connection.source.ip(), reason = %refusal.reason,
        expected = refusal.finding.expected, observed = refusal.finding.observed, "request refused"
    );
    if let Some(log) = &snapshot.access_log {
        log.write(&Record {
            time: SystemTime::now(),
            decision_id: id,
            connection,
            client: Some(connection.source.ip().to_canonical()),
            certificate: None,
            request: None,
            status: refusal.status,
            route: None,
            outcome: Outcome::Deny,
            reason: Some(refusal.reason),
            principal: None,
            pool: None,
            backend: None,
            attempts: 0,
            duration: Duration::ZERO,
            upstream: None,
            bytes_in: 0,
            bytes_out: reply.body.len() as u64,
        });
    }
    Refused { id, reply }
}
