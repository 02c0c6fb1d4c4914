//! One line of an access log: which request it was, and what was decided.

use super::recorded::reason_named;
use portcullis_plugin::ReasonCode;
use serde::Deserialize;
use std::fmt;
use std::net::IpAddr;

/// What a replay reads of a line. Members that it has no use for are left alone.
#[derive(Debug, Deserialize)]
pub struct Line {
    pub time: String,
    pub decision_id: String,
    pub listener: String,
    pub client: IpAddr,
    pub tls: Option<Tls>,
    pub method: Option<String>,
    pub host: Option<String>,
    pub path: Option<String>,
    #[serde(default)]
    pub query: Option<String>,
    pub status: u16,
    pub route: Option<String>,
    pub verdict: String,
    pub reason: Option<String>,
    pub principal: Option<Principal>,
    pub pool: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct Tls {
    pub client_cert_sha256: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Principal {
    pub sub: String,
    pub issuer: Option<String>,
    pub method: String,
    #[serde(default, deserialize_with = "there")]
    pub client_id: Told<String>,
    #[serde(default, deserialize_with = "there")]
    pub scopes: Told<Vec<String>>,
    #[serde(default, deserialize_with = "there")]
    pub roles: Told<Vec<String>>,
    #[serde(default, deserialize_with = "there")]
    pub groups: Told<Vec<String>>,
}

/// A member that is there only if the log was to have it. `Some(None)`: it is `null`.
pub type Told<T> = Option<Option<T>>;

fn there<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Told<T>, D::Error> {
    Option::<T>::deserialize(deserializer).map(Some)
}

/// Whether a text of the log is only the beginning of what it was.
pub fn is_cut(text: &str) -> bool {
    text.len() > LONGEST && text.ends_with('…')
}

/// Bytes of one text, without the sign that there was more: it may be cut before a character of four bytes.
const LONGEST: usize = 2048 - 4;

/// What the gateway decided. What became of an allowed request upstream is no decision.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Decision {
    pub allowed: bool,
    pub reason: Option<String>,
    pub route: Option<String>,
    pub pool: Option<String>,
    /// Of an answer that the route itself gives.
    pub status: Option<u16>,
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.reason, self.allowed) {
            (Some(reason), false) => write!(f, "deny {reason}")?,
            (None, false) => f.write_str("deny")?,
            (_, true) => f.write_str("allow")?,
        }
        match &self.route {
            Some(route) => write!(f, ", route {route}")?,
            None => f.write_str(", no route")?,
        }
        if let Some(pool) = &self.pool {
            write!(f, ", pool {pool}")?;
        }
        if let Some(status) = self.status {
            write!(f, ", answered {status}")?;
        }
        Ok(())
    }
}

/// Refusals for how a request arrived, which no log line can repeat: its bytes, its body, its connection, its time.
const UNREPEATABLE: &[&str] = &["request.", "connection.", "gateway.", "filter.", "issuer."];

impl Line {
    /// What was decided then. `Err` says why a replay cannot know.
    pub fn decision(&self) -> Result<Decision, String> {
        let reason = self.reason.as_deref();
        if let Some(reason) = reason
            && UNREPEATABLE.iter().any(|prefix| reason.starts_with(prefix))
        {
            return Err(format!("it was refused for {reason}, which its log line cannot repeat"));
        }
        // Nobody's fault but the gateway's, or of whom it asks: how that would end now is not in the log.
        if self.verdict == "error" && self.pool.is_none() {
            let reason = reason.unwrap_or("no reason");
            return Err(format!("it failed before it had a pool, for {reason}, which its log line cannot repeat"));
        }
        let allowed = match self.verdict.as_str() {
            "allow" | "error" => true,
            "deny" => false,
            other => return Err(format!("its verdict is `{other}`")),
        };
        // Without a pool, the route itself gave the answer.
        let status = (allowed && self.pool.is_none()).then_some(self.status);
        let reason = if allowed { None } else { reason.map(str::to_owned) };
        let pool = if allowed { self.pool.clone() } else { None };
        Ok(Decision { allowed, reason, route: self.route.clone(), pool, status })
    }

    /// Why it was refused, if by a code of the gateway's own.
    pub fn refused_for(&self) -> Option<ReasonCode> {
        self.reason.as_deref().filter(|_| self.verdict == "deny").and_then(reason_named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_the_gateway_failed_at_before_it_had_a_pool_was_no_decision() {
        let line = |reason: &str, pool: Option<&str>| -> Line {
            serde_json::from_value(json!({
                "time": "2026-01-31T12:00:00Z", "decision_id": "0", "listener": "http", "client": "192.0.2.1", "status": 503,
                "route": "a", "verdict": "error", "reason": reason, "pool": pool,
            }))
            .unwrap()
        };
        for reason in ["audit.unavailable", "dpop.replay.full", "authorize.external.unavailable", "client.gone"] {
            assert!(line(reason, None).decision().unwrap_err().contains(reason));
        }
        assert!(line("upstream.reset", Some("up")).decision().unwrap().allowed);
    }
}
