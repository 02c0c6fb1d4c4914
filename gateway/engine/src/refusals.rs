//! Requests that are refused before there is an exchange: not HTTP, ambiguous, too large, too slow. They are counted,
//! logged and answered like all others.

use crate::access_log::Record;
use crate::config::snapshot::{ListenerPlan, Snapshot};
use crate::normalise::Refusal;
use crate::rescue::Cause;
use portcullis_plugin::headers::is_name;
use portcullis_plugin::{Check, Connection, DecisionId, Reply};
use std::time::{Duration, SystemTime};

/// The name under which what a request is refused for before it has an exchange is told, in the place of a filter's.
pub const CHECKED_BY: &str = "normalise";

/// What can be said of a request that has no head: for the log only, nothing is decided by it. What is not clearly a
/// method, a path or a host is left out.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Sketch<'a> {
    method: Option<&'a [u8]>,
    host: Option<&'a [u8]>,
    path: Option<&'a [u8]>,
    query: Option<&'a [u8]>,
    protocol: Option<&'static str>,
}

/// Longer ones are not written down.
const LONGEST_METHOD: usize = 32;
const LONGEST_HOST: usize = 255;
const LONGEST_TARGET: usize = 2048;

impl<'a> Sketch<'a> {
    /// Of the bytes that were received instead of an HTTP/1 head.
    pub fn http1(received: &'a [u8]) -> Self {
        let mut lines = received.split(|b| *b == b'\n').map(<[u8]>::trim_ascii_end);
        let mut words = lines.next().unwrap_or_default().split(|b| *b == b' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let host = lines.take_while(|line| !line.is_empty()).find_map(|line| {
            let (name, value) = line.split_at_checked(5)?;
            name.eq_ignore_ascii_case(b"host:").then(|| value.trim_ascii())
        });
        Self { protocol: None, ..Self::new(method, host.unwrap_or_default(), target, "") }
    }

    pub fn new(method: &'a [u8], host: &'a [u8], target: &'a [u8], protocol: &'static str) -> Self {
        if !is_name(method) || method.len() > LONGEST_METHOD {
            return Self::default();
        }
        // An absolute target may have a password in it, and a fragment is nobody's business.
        let target =
            target.split(|b| *b == b'#').next().filter(|target| target.starts_with(b"/") && target.len() <= LONGEST_TARGET);
        let mut halves = target.unwrap_or_default().splitn(2, |b| *b == b'?');
        Self {
            method: Some(method),
            host: Some(host).filter(|host| !host.is_empty() && host.len() <= LONGEST_HOST && !host.contains(&b'@')),
            path: halves.next().filter(|path| !path.is_empty()),
            query: halves.next(),
            protocol: Some(protocol),
        }
    }
}

/// Counts and logs one refusal, and gives the reply.
pub fn refuse(snapshot: &Snapshot, plan: &ListenerPlan, connection: &Connection, refusal: &Refusal, sketch: Sketch<'_>) -> Reply {
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
        method: sketch.method,
        host: sketch.host,
        path: sketch.path,
        query: sketch.query,
        protocol: sketch.protocol,
        status: reply.status,
        verdict: cause.verdict(),
        reason: Some(refusal.reason),
        bytes_out: reply.body.len() as u64,
        ..Record::new(SystemTime::now(), id.as_str(), &connection.listener, connection.peer)
    };
    let checks = [check(refusal.clone())];
    snapshot.decisions.record(id, &record, &checks);
    if snapshot.audit.wants(true) {
        snapshot.audit.decision(&record, &checks);
    }
    snapshot.access_log.log(&record);
    reply
}

/// The refusal as the one check that failed.
pub fn check(refusal: Refusal) -> Check {
    Check::failed(CHECKED_BY, "request", refusal.reason, refusal.finding)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(received: &[u8]) -> (Option<&str>, Option<&str>, Option<&str>, Option<&str>) {
        let Sketch { method, host, path, query, .. } = Sketch::http1(received);
        let text = |bytes| std::str::from_utf8(bytes).unwrap();
        (method.map(text), host.map(text), path.map(text), query.map(text))
    }

    #[test]
    fn what_looks_like_a_request_is_written_down() {
        let expected = (Some("GET"), Some("a.example"), Some("/a/..;/b"), Some("x=1"));
        assert_eq!(seen(b"GET /a/..;/b?x=1#y HTTP/1.1\r\nA: b\r\nHOST:  a.example \r\n\r\nhost: c"), expected);
        assert_eq!(seen(b"GET / HTTP/1.1"), (Some("GET"), None, Some("/"), None));
    }

    #[test]
    fn what_does_not_is_not() {
        for received in [&b""[..], b"\x16\x03\x01\x02\x00", b" / HTTP/1.1\r\nhost: a\r\n\r\n", &[b'A'; 5000]] {
            assert_eq!(seen(received), (None, None, None, None));
        }
        assert_eq!(seen(b"GET http://user:secret@a/ HTTP/1.1\r\nhost: u:p@a\r\n"), (Some("GET"), None, None, None));
        let long = [b"GET /", &[b'a'; 5000][..], b" HTTP/1.1"].concat();
        assert_eq!(seen(&long), (Some("GET"), None, None, None));
    }
}
