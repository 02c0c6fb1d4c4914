//! Why a message is not taken.

use crate::access_log::redact;
use portcullis_plugin::reason::{
    METHOD_NOT_ALLOWED, REQUEST_AMBIGUOUS, REQUEST_HEADERS_TOO_LARGE, REQUEST_UPGRADE_REFUSED, UPSTREAM_INVALID,
};
use portcullis_plugin::{Finding, ReasonCode};

/// A message that is refused before any filter sees it.
///
/// The finding names the offending part. It never holds the value of a field that may carry a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: expected {}, observed {}", finding.expected, finding.observed)]
pub struct Refusal {
    /// What the client sees.
    pub status: u16,
    pub reason: ReasonCode,
    pub finding: Finding,
}

impl Refusal {
    /// 400: two parsers could read it differently, or it is not HTTP.
    pub(crate) fn ambiguous(expected: impl Into<String>, observed: impl Into<String>) -> Self {
        Self { status: 400, reason: REQUEST_AMBIGUOUS, finding: Finding::new(expected, observed) }
    }

    /// 431: more bytes or fields than a head may have.
    pub(crate) fn too_large(expected: impl Into<String>, observed: impl Into<String>) -> Self {
        Self { status: 431, reason: REQUEST_HEADERS_TOO_LARGE, finding: Finding::new(expected, observed) }
    }

    /// 405: a method that is served nowhere.
    pub(crate) fn method(method: &str) -> Self {
        let finding = Finding::new("a method other than CONNECT and TRACE", method).hint("these two are served nowhere");
        Self { status: 405, reason: METHOD_NOT_ALLOWED, finding }
    }

    /// 400: an upgrade that is asked for in a way that servers could read differently.
    pub(crate) fn upgrade(expected: impl Into<String>, observed: impl Into<String>) -> Self {
        Self { status: 400, reason: REQUEST_UPGRADE_REFUSED, finding: Finding::new(expected, observed) }
    }

    /// What is told of a message that is another's, where there is no room for both parts.
    pub(crate) fn told(&self) -> String {
        format!("{}, instead of {}", self.finding.observed, self.finding.expected)
    }

    /// 502: an upstream's response that two clients could read differently.
    pub(crate) fn upstream(expected: impl Into<String>, observed: impl Into<String>) -> Self {
        Self { status: 502, reason: UPSTREAM_INVALID, finding: Finding::new(expected, observed) }
    }
}

/// A path, or a target up to its query, without what may be a secret in it.
pub(crate) fn shown_path(path: &[u8]) -> String {
    shown(&redact::path(path))
}

/// Hostile bytes, made fit for a log line.
pub(crate) fn shown(bytes: &[u8]) -> String {
    const MOST: usize = 80;
    match bytes.get(..MOST) {
        Some(start) if bytes.len() > MOST => format!("`{}`… ({} bytes)", start.escape_ascii(), bytes.len()),
        _ => format!("`{}`", bytes.escape_ascii()),
    }
}
