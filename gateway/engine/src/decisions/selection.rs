//! Which decisions are asked for: the query of `GET /decisions`.

use super::{Decision, clip};
use percent_encoding::percent_decode_str;
use portcullis_plugin::error::closest;
use portcullis_plugin::reason;
use portcullis_plugin::units::{Network, TimeSpan};
use std::time::SystemTime;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Decisions in one listing, unless it says otherwise, and at most.
const LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;

/// The parameters, for whoever misspells one.
const KNOWN: &str = "reason, route, listener, client, since, shadow, limit";

/// Bytes of what an error repeats.
const REPEATED: usize = 80;

/// Every part that is there must hold.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Selection {
    /// A whole code, or the beginning of some, with the dot at its end.
    reason: Option<String>,
    route: Option<String>,
    listener: Option<String>,
    client: Option<Network>,
    since: Option<SystemTime>,
    /// Only requests that were let through by shadow mode, or only others.
    shadow: Option<bool>,
    limit: Option<usize>,
}

impl Selection {
    /// Reads a query, without its `?`. `now` is what a length of time in `since` is counted back from.
    ///
    /// # Errors
    /// If a parameter is unknown, there twice, or cannot be read: an answer that left it out would mislead.
    pub fn parse(query: &str, now: SystemTime) -> Result<Self, String> {
        let mut selection = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            // A `+` is a plus: it stands in times, and nothing that is asked for has spaces.
            let text = |text: &str| percent_decode_str(text).decode_utf8().map(String::from);
            let (Ok(name), Ok(value)) = (text(name), text(value)) else {
                return Err(format!("`{}` is not UTF-8", clip(pair, REPEATED)));
            };
            selection.set(&name, value, now)?;
        }
        Ok(selection)
    }

    fn set(&mut self, name: &str, value: String, now: SystemTime) -> Result<(), String> {
        let told = clip(&value, REPEATED);
        if value.is_empty() && KNOWN.split(", ").any(|known| known == name) {
            return Err(format!("`{name}` has no value"));
        }
        let new = match name {
            "reason" => {
                let odd = |b: u8| !(b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'.'));
                if value.bytes().any(odd) || !value.contains('.') {
                    return Err(format!(
                        "`reason` is a reason code or the beginning of some, with a dot: token.expired, token.; `{told}` is neither"
                    ));
                }
                // A code of a filter that is not ours is in no table; the beginning of some that are would find nothing.
                let codes = || reason::TABLE.iter().map(|row| row.code.as_str());
                let begun = |code: &str| code.strip_prefix(&*value).is_some_and(|rest| rest.starts_with('.'));
                if codes().any(begun) && !codes().any(|code| code == value) {
                    return Err(format!("`{told}` is no reason code, but the beginning of some: write `{told}.`, with a dot"));
                }
                known(&value, &told)?;
                self.reason.replace(value).is_none()
            }
            "route" => self.route.replace(value).is_none(),
            "listener" => self.listener.replace(value).is_none(),
            "client" => {
                let network = value.parse().map_err(|error| format!("`client`: {error}"))?;
                self.client.replace(network).is_none()
            }
            "since" => self
                .since
                .replace(since(&value, now).ok_or_else(|| {
                    format!("`since` is a time or how long ago: 2026-01-31T12:00:00Z, 15m; `{told}` is neither")
                })?)
                .is_none(),
            "shadow" => {
                let only = value.parse().map_err(|_| format!("`shadow` is true or false, not `{told}`"))?;
                self.shadow.replace(only).is_none()
            }
            "limit" => {
                let limit = value.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
                let limit = limit.ok_or_else(|| format!("`limit` is from 1 to {MAX_LIMIT}, not `{told}`"))?;
                self.limit.replace(limit).is_none()
            }
            other => return Err(format!("there is no parameter `{}`, but these: {KNOWN}", clip(other, REPEATED))),
        };
        if new { Ok(()) } else { Err(format!("`{name}` is there twice")) }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit.unwrap_or(LIMIT)
    }

    pub(super) fn takes(&self, decision: &Decision) -> bool {
        let Self { reason, route, listener, client, since, shadow, limit: _ } = self;
        let mut reasons =
            decision.reason.into_iter().chain(decision.shadow.iter().filter_map(|shadow| Some(shadow.reason?.as_str())));
        reason.as_ref().is_none_or(|wanted| reasons.any(|reason| begins(reason, wanted)))
            && route.as_ref().is_none_or(|wanted| decision.route.as_ref() == Some(wanted))
            && listener.as_ref().is_none_or(|wanted| decision.listener == *wanted)
            && client.as_ref().is_none_or(|network| network.contains(decision.client))
            && since.is_none_or(|since| decision.time >= since)
            && shadow.is_none_or(|only| (decision.verdict == "allow") == only)
    }
}

/// Whether it may be a code. Those of filters that are not ours are in no table; but their first segment is one of their own.
fn known(value: &str, told: &str) -> Result<(), String> {
    let codes = || reason::TABLE.iter().map(|row| row.code.as_str());
    if codes().any(|code| begins(code, value)) {
        return Ok(());
    }
    let first = value.split('.').next().unwrap_or_default();
    if !codes().any(|code| code.split('.').next() == Some(first)) {
        return Ok(());
    }
    match closest(value, &codes().collect::<Vec<_>>()) {
        Some(meant) => Err(format!("`reason`: `{told}` is no reason code; did you mean `{meant}`?")),
        None => Err(format!("`reason`: `{told}` is no reason code; `{first}.`, with a dot, finds all that begin so")),
    }
}

fn begins(reason: &str, wanted: &str) -> bool {
    if wanted.ends_with('.') { reason.starts_with(wanted) } else { reason == wanted }
}

fn since(text: &str, now: SystemTime) -> Option<SystemTime> {
    match text.parse::<TimeSpan>() {
        Ok(ago) => Some(now.checked_sub(ago.get()).unwrap_or(SystemTime::UNIX_EPOCH)),
        Err(_) => OffsetDateTime::parse(text, &Rfc3339).ok().map(SystemTime::from),
    }
}

#[cfg(test)]
mod tests {
    use super::super::CUT;
    use super::*;
    use portcullis_plugin::Shadowed;
    use std::time::Duration;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)
    }

    fn decision() -> Decision {
        Decision {
            decision_id: "0123456789abcdef01234567".into(),
            time: now() - Duration::from_secs(60),
            listener: "https".into(),
            route: Some("api".into()),
            verdict: "deny",
            status: Some(401),
            reason: Some("token.expired"),
            client: "10.1.2.3".parse().unwrap(),
            method: None,
            host: None,
            path: None,
            query: None,
            principal: None,
            checks: Vec::new(),
            checks_left_out: 0,
            shadow: Vec::new(),
            pool: None,
            backend: None,
        }
    }

    fn takes(query: &str, decision: &Decision) -> bool {
        Selection::parse(query, now()).unwrap().takes(decision)
    }

    #[test]
    fn every_part_must_hold() {
        let decision = decision();
        for query in [
            "",
            "&",
            "reason=token.expired",
            "reason=token.",
            "route=api",
            "route=%61pi",
            "listener=https",
            "client=10.0.0.0/8",
            "client=10.1.2.3",
            "client=10.0.0.0%2F8",
            "since=1m",
            "since=1970-01-12T13:00:00Z",
            "since=1970-01-12T14:00:00+01:00",
            "since=999999d",
            "shadow=false",
            "limit=1",
            "reason=token.&route=api&client=10.0.0.0/8&since=1h&shadow=false&listener=https",
        ] {
            assert!(takes(query, &decision), "{query}");
        }
        for query in [
            "reason=token.missing",
            "reason=api_key.",
            "reason=acme.quota.exceeded",
            "reason=tokens.expired",
            "route=ap",
            "route=API",
            "listener=http",
            "client=11.0.0.0/8",
            "since=59s",
            "since=2026-01-31T12:00:00Z",
            "shadow=true",
            "reason=token.&route=other",
        ] {
            assert!(!takes(query, &decision), "{query}");
        }
    }

    #[test]
    fn shadowed_refusals_are_found_by_their_reason() {
        let shadowed = Shadowed { filter: "oidc", verdict: "deny", reason: Some(reason::TOKEN_EXPIRED) };
        let decision = Decision { verdict: "allow", reason: None, shadow: vec![shadowed], ..decision() };
        assert!(takes("reason=token.", &decision) && takes("shadow=true", &decision));
        assert!(!takes("reason=cert.", &decision) && !takes("shadow=false", &decision));
    }

    #[test]
    fn what_cannot_be_read_is_said_and_never_left_out() {
        let long = format!("{}=1", "x".repeat(10_000));
        for (query, part) in [
            ("reson=token.", "no parameter `reson`"),
            ("Route=api", "no parameter `Route`"),
            ("=", "no parameter ``"),
            ("route=a&route=a", "`route` is there twice"),
            ("route=a&%72oute=b", "`route` is there twice"),
            ("route", "`route` has no value"),
            ("reason=", "`reason` has no value"),
            ("reason=token", "with a dot"),
            ("reason=token.*", "with a dot"),
            ("reason=token.expird", "did you mean `token.expired`"),
            ("reason=token.expire", "did you mean `token.expired`"),
            ("reason=token.expired.", "did you mean `token.expired`"),
            ("reason=token.exp.", "no reason code"),
            ("reason=token.nothing.of.the.kind", "`token.`, with a dot"),
            ("reason=rate.quota", "write `rate.quota.`, with a dot"),
            ("reason=authorize.external", "write `authorize.external.`, with a dot"),
            ("client=10.0.0.1/8", "bits set"),
            ("client=here", "not a network"),
            ("since=yesterday", "how long ago"),
            ("shadow=1", "true or false"),
            ("limit=0", "from 1 to 1000"),
            ("limit=1001", "from 1 to 1000"),
            ("limit=-1", "from 1 to 1000"),
            ("route=%ff", "UTF-8"),
            (&long, CUT),
        ] {
            let error = Selection::parse(query, now()).unwrap_err();
            assert!(error.contains(part) && error.len() < 300, "{query}: {error}");
        }
    }
}
