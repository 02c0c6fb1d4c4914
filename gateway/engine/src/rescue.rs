//! Turns refusals and faults into what the client sees. Nothing else in the gateway writes a response of its own.
//!
//! The client gets the status, a title that says no more than the status does, and the decision id. Claims, keys, internal
//! addresses and expected values stay inside: this file never sees them.

use crate::access_log::FinalVerdict;
use portcullis_plugin::reason::{self, ReasonCode};
use portcullis_plugin::{DecisionId, Denial, Headers, Reply};
use std::time::SystemTime;

/// On every response, refused or not.
pub const DECISION_ID: &str = "x-decision-id";

/// RFC 9457.
const PROBLEM: &str = "application/problem+json";

/// For a client that may try again soon: seconds.
const RETRY_AFTER: &str = "5";

/// Why the gateway itself ends a request, where no filter does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// The parser or the normaliser refused the request.
    Refused {
        status: u16,
        reason: ReasonCode,
    },
    /// The client did not send its request in time.
    RequestTimeout,
    /// The request body is larger than allowed.
    BodyTooLarge,
    NoRoute,
    /// A route matches but for the method. `allow` is the value of the `Allow` header.
    MethodNotAllowed {
        allow: String,
    },
    /// The host does not belong to the connection's TLS name.
    Misdirected,
    NoHealthyBackend,
    /// No connection to a backend.
    Connect,
    UpstreamTimeout,
    UpstreamReset,
    /// The backend's response is ambiguous or not HTTP.
    UpstreamInvalid,
    /// The client went away. For the record only: nobody is left to read the reply.
    ClientGone,
    FilterFault,
    GatewayFault,
    /// What is decided could not be recorded.
    AuditUnavailable,
}

impl Cause {
    pub fn reason(&self) -> ReasonCode {
        match self {
            Self::Refused { reason, .. } => *reason,
            Self::RequestTimeout => reason::REQUEST_TIMEOUT,
            Self::BodyTooLarge => reason::REQUEST_TOO_LARGE,
            Self::NoRoute => reason::ROUTE_NONE,
            Self::MethodNotAllowed { .. } => reason::METHOD_NOT_ALLOWED,
            Self::Misdirected => reason::REQUEST_MISDIRECTED,
            Self::NoHealthyBackend => reason::POOL_NO_HEALTHY_BACKEND,
            Self::Connect => reason::UPSTREAM_CONNECT,
            Self::UpstreamTimeout => reason::UPSTREAM_TIMEOUT,
            Self::UpstreamReset => reason::UPSTREAM_RESET,
            Self::UpstreamInvalid => reason::UPSTREAM_INVALID,
            Self::ClientGone => reason::CLIENT_GONE,
            Self::FilterFault => reason::FILTER_FAULT,
            Self::GatewayFault => reason::GATEWAY_FAULT,
            Self::AuditUnavailable => reason::AUDIT_UNAVAILABLE,
        }
    }

    /// The status of the reason's row in the table, but for a refusal that brings its own.
    pub fn status(&self) -> u16 {
        match self {
            Self::Refused { status, .. } => error_status(*status),
            other => reason::info(other.reason()).map_or(500, |info| info.status),
        }
    }

    /// As the access log puts it: what a client may not is denied, what we or a backend could not is an error.
    pub fn verdict(&self) -> FinalVerdict {
        match self {
            Self::Refused { .. }
            | Self::RequestTimeout
            | Self::BodyTooLarge
            | Self::NoRoute
            | Self::MethodNotAllowed { .. }
            | Self::Misdirected => FinalVerdict::Deny,
            Self::NoHealthyBackend
            | Self::Connect
            | Self::UpstreamTimeout
            | Self::UpstreamReset
            | Self::UpstreamInvalid
            | Self::ClientGone
            | Self::FilterFault
            | Self::GatewayFault
            | Self::AuditUnavailable => FinalVerdict::Error,
        }
    }

    pub fn reply(&self, decision_id: DecisionId) -> Reply {
        let mut reply = problem(self.status(), decision_id);
        if let Self::MethodNotAllowed { allow } = self {
            // RFC 9110, section 15.5.6: a 405 says what is allowed. A list that is no header value is left empty.
            if reply.headers.set("allow", allow).is_err() {
                let _ = reply.headers.set("allow", "");
            }
        }
        reply
    }
}

/// The response to what a filter refused: its status and headers, and nothing of its checks.
pub fn reply_for_denial(denial: &Denial, decision_id: DecisionId) -> Reply {
    let mut reply = problem(denial.status_code(), decision_id);
    // Our own fields are in first, so that a filter with very many headers cannot crowd them out, nor replace them.
    let ours = [DECISION_ID, "content-type", "cache-control"];
    if denial.headers().contains("retry-after") {
        reply.headers.remove("retry-after");
    }
    for (name, value) in denial.headers().iter() {
        if !ours.iter().any(|own| own.eq_ignore_ascii_case(name)) {
            let _ = reply.headers.append(name, value);
        }
    }
    if reply.status == 401 && !reply.headers.contains("www-authenticate") {
        // RFC 9110, section 15.5.2: a 401 has a challenge, also where a filter forgot it.
        let _ = reply.headers.set("www-authenticate", "Bearer");
    }
    reply
}

/// A whole HTTP/1.1 response for a request that was refused before there is a session to write one. The connection ends
/// with it: what follows on it cannot be told apart from the request.
pub fn raw_refusal(status: u16, decision_id: DecisionId) -> Vec<u8> {
    raw(&problem(error_status(status), decision_id), SystemTime::now())
}

/// `reply` as the last response of an HTTP/1.1 connection.
pub fn raw_reply(reply: &Reply) -> Vec<u8> {
    raw(reply, SystemTime::now())
}

fn raw(reply: &Reply, now: SystemTime) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    let mut number = itoa::Buffer::new();
    let mut line = |parts: [&[u8]; 3]| {
        parts.iter().for_each(|part| out.extend_from_slice(part));
        out.extend_from_slice(b"\r\n");
    };
    line([b"HTTP/1.1 ", number.format(reply.status).as_bytes(), &[b" ", title(reply.status).as_bytes()].concat()]);
    line([b"date", b": ", http_date(now).as_bytes()]);
    for (name, value) in reply.headers.iter() {
        line([name.as_bytes(), b": ", value]);
    }
    line([b"content-length", b": ", number.format(reply.body.len()).as_bytes()]);
    line([b"connection", b": ", b"close"]);
    line([b"", b"", b""]);
    out.extend_from_slice(&reply.body);
    out
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, section 5.6.7).
pub(crate) fn http_date(now: SystemTime) -> String {
    use time::macros::format_description;
    let format = format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");
    time::OffsetDateTime::from(now).format(&format).unwrap_or_default()
}

fn problem(status: u16, decision_id: DecisionId) -> Reply {
    // The title is one of ours and the id is hexadecimal: nothing in here needs escaping.
    let body = format!("{{\"title\":\"{}\",\"status\":{status},\"decision_id\":\"{decision_id}\"}}\n", title(status));
    let mut reply = Reply { headers: Headers::new(), ..Reply::new(status) }.body(PROBLEM, body);
    // The names and values are constants and a hexadecimal id, and the list is new: none can be refused.
    let _ = reply.headers.set(DECISION_ID, decision_id.as_str());
    let _ = reply.headers.set("cache-control", "no-store");
    if status == 503 {
        let _ = reply.headers.set("retry-after", RETRY_AFTER);
    }
    reply
}

/// A refusal never looks like a success, whatever it was built with.
fn error_status(status: u16) -> u16 {
    if (400..=599).contains(&status) { status } else { 500 }
}

/// The reason phrase of a status, and nothing more.
fn title(status: u16) -> &'static str {
    match status {
        499 => "Client Closed Request",
        other => match http::StatusCode::from_u16(other).ok().and_then(|status| status.canonical_reason()) {
            Some(reason) => reason,
            None if other < 500 => "Request Refused",
            None => "Server Error",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn every_cause() -> Vec<Cause> {
        vec![
            Cause::Refused { status: 431, reason: reason::REQUEST_HEADERS_TOO_LARGE },
            Cause::RequestTimeout,
            Cause::BodyTooLarge,
            Cause::NoRoute,
            Cause::MethodNotAllowed { allow: "GET, HEAD".into() },
            Cause::Misdirected,
            Cause::NoHealthyBackend,
            Cause::Connect,
            Cause::UpstreamTimeout,
            Cause::UpstreamReset,
            Cause::UpstreamInvalid,
            Cause::ClientGone,
            Cause::FilterFault,
            Cause::GatewayFault,
            Cause::AuditUnavailable,
        ]
    }

    fn header<'a>(reply: &'a Reply, name: &str) -> Option<&'a str> {
        reply.headers.get_str(name)
    }

    fn json(body: &[u8]) -> serde_json::Value {
        serde_json::from_slice(body).unwrap()
    }

    #[test]
    fn each_cause_has_the_status_of_the_table() {
        let statuses: Vec<u16> = every_cause().iter().map(Cause::status).collect();
        assert_eq!(statuses, [431, 408, 413, 404, 405, 421, 503, 502, 504, 502, 502, 499, 500, 500, 503]);
        for cause in every_cause() {
            assert_eq!(reason::info(cause.reason()).unwrap().status, cause.status(), "{cause:?}");
        }
    }

    #[test]
    fn every_reply_is_a_problem_with_title_status_and_id_and_nothing_else() {
        for cause in every_cause() {
            let id = DecisionId::random();
            let reply = cause.reply(id);
            assert_eq!(header(&reply, "content-type"), Some("application/problem+json"));
            assert_eq!(header(&reply, "cache-control"), Some("no-store"));
            assert_eq!(header(&reply, "x-decision-id"), Some(id.as_str()));
            assert_eq!(header(&reply, "retry-after").is_some(), reply.status == 503, "{cause:?}");
            let body = json(&reply.body);
            assert_eq!(body["status"], reply.status);
            assert_eq!(body["decision_id"], id.as_str());
            assert!(!body["title"].as_str().unwrap().is_empty());
            assert_eq!(body.as_object().unwrap().len(), 3, "{body}");
        }
    }

    #[test]
    fn a_405_says_what_is_allowed() {
        let reply = Cause::MethodNotAllowed { allow: "GET, HEAD".into() }.reply(DecisionId::random());
        assert_eq!(header(&reply, "allow"), Some("GET, HEAD"));
        let forged = Cause::MethodNotAllowed { allow: "GET\r\nset-cookie: a=b".into() }.reply(DecisionId::random());
        assert_eq!((header(&forged, "allow"), header(&forged, "set-cookie")), (Some(""), None));
    }

    #[test]
    fn a_denial_keeps_its_challenge_and_cannot_replace_what_is_ours() {
        let id = DecisionId::random();
        let denial = Denial::new(reason::TOKEN_EXPIRED)
            .header("WWW-Authenticate", "Bearer error=\"invalid_token\"")
            .header("WWW-Authenticate", "DPoP")
            .header("X-Decision-Id", "forged")
            .header("Content-Type", "text/html")
            .header("Cache-Control", "public");
        let reply = reply_for_denial(&denial, id);
        assert_eq!(reply.status, 401);
        let challenges: Vec<_> = reply.headers.get_all("www-authenticate").collect();
        assert_eq!(challenges, [&b"Bearer error=\"invalid_token\""[..], b"DPoP"]);
        for (name, value) in [(DECISION_ID, id.as_str()), ("content-type", PROBLEM), ("cache-control", "no-store")] {
            assert_eq!(reply.headers.get_all(name).collect::<Vec<_>>(), [value.as_bytes()]);
        }
        assert!(!String::from_utf8_lossy(&reply.body).contains("token"));
    }

    #[test]
    fn a_denial_with_very_many_headers_keeps_the_decision_id() {
        let mut denial = Denial::new(reason::IP_DENIED);
        for i in 0..200 {
            denial = denial.header("x-many", i.to_string());
        }
        assert!(reply_for_denial(&denial, DecisionId::random()).headers.contains(DECISION_ID));
    }

    #[test]
    fn a_401_without_a_challenge_gets_one_and_a_retry_after_stays_the_filters() {
        let id = DecisionId::random();
        assert_eq!(header(&reply_for_denial(&Denial::new(reason::TOKEN_MISSING), id), "www-authenticate"), Some("Bearer"));
        let away = Denial::new(reason::ISSUER_UNAVAILABLE).header("retry-after", "30");
        let reply = reply_for_denial(&away, id);
        assert_eq!(reply.headers.get_all("retry-after").collect::<Vec<_>>(), [b"30"]);
        assert_eq!(header(&reply_for_denial(&Denial::new(reason::ISSUER_UNAVAILABLE), id), "retry-after"), Some("5"));
    }

    #[test]
    fn a_raw_refusal_is_a_whole_response_that_ends_the_connection() {
        let id = DecisionId::random();
        let bytes = raw_refusal(400, id);
        let text = std::str::from_utf8(&bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let mut lines = head.split("\r\n");
        assert_eq!(lines.next(), Some("HTTP/1.1 400 Bad Request"));
        let fields: Vec<_> = lines.map(|line| line.split_once(": ").unwrap()).collect();
        let field = |name: &str| fields.iter().filter(|(key, _)| *key == name).map(|(_, value)| *value).collect::<Vec<_>>();
        assert_eq!(field("connection"), ["close"]);
        assert_eq!(field("content-length"), [body.len().to_string()]);
        assert_eq!(field("x-decision-id"), [id.as_str()]);
        assert_eq!(field("date").len(), 1);
        assert_eq!(json(body.as_bytes())["status"], 400);
    }

    #[test]
    fn a_refusal_never_looks_like_a_success() {
        for status in [0, 100, 200, 302, 399, 600, 999] {
            assert!(raw_refusal(status, DecisionId::random()).starts_with(b"HTTP/1.1 500 "), "{status}");
            let cause = Cause::Refused { status, reason: reason::REQUEST_AMBIGUOUS };
            assert_eq!(cause.reply(DecisionId::random()).status, 500);
        }
        assert!(raw_refusal(418, DecisionId::random()).starts_with(b"HTTP/1.1 418 I'm a teapot\r\n"));
        assert!(raw_refusal(599, DecisionId::random()).starts_with(b"HTTP/1.1 599 Server Error\r\n"));
    }

    #[test]
    fn dates_are_as_rfc_9110_writes_them() {
        assert_eq!(http_date(UNIX_EPOCH + Duration::from_secs(784_111_777)), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(http_date(UNIX_EPOCH + Duration::from_secs(1_709_164_800)), "Thu, 29 Feb 2024 00:00:00 GMT");
    }
}
