//! One decision for people to read: what `explain` finds out, and what a running gateway remembers.

use owo_colors::OwoColorize;
use portcullis::explain::Explanation;
use portcullis::plugin::reason;
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write;

/// A decision. The last part is known of a request that was really made, and what its upstream would get of one that
/// was not.
#[derive(Debug, Deserialize)]
pub struct Report {
    listener: String,
    route: Option<String>,
    verdict: String,
    status: Option<u16>,
    reason: Option<String>,
    checks: Vec<Check>,
    #[serde(default)]
    checks_left_out: usize,
    #[serde(default)]
    shadow: Vec<Shadowed>,
    pool: Option<String>,
    #[serde(default)]
    upstream_headers: BTreeMap<String, serde_json::Value>,
    #[serde(flatten)]
    made: Option<Made>,
}

/// Which request it was.
#[derive(Debug, Deserialize)]
struct Made {
    decision_id: String,
    time: String,
    client: String,
    method: Option<String>,
    host: Option<String>,
    path: Option<String>,
    query: Option<String>,
    principal: Option<Principal>,
    backend: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Principal {
    sub: String,
    issuer: Option<String>,
    method: String,
}

#[derive(Debug, Deserialize)]
struct Check {
    filter: String,
    check: String,
    ok: bool,
    reason: String,
    group: Option<String>,
    #[serde(default)]
    shadow: bool,
    expected: String,
    observed: String,
    hint: Option<String>,
}

impl Check {
    /// `oidc expiry`, `any_of/1/oidc expiry`, `oidc scope (in shadow mode)`
    fn name(&self) -> String {
        let group = self.group.as_ref().map_or(String::new(), |group| format!("{group}/"));
        let shadow = if self.shadow { " (in shadow mode)" } else { "" };
        format!("{group}{} {}{shadow}", self.filter, self.check)
    }
}

/// What a filter in shadow mode would have done.
#[derive(Debug, Deserialize)]
struct Shadowed {
    filter: String,
    verdict: String,
    reason: Option<String>,
}

impl From<&portcullis::plugin::Shadowed> for Shadowed {
    fn from(shadowed: &portcullis::plugin::Shadowed) -> Self {
        let reason = shadowed.reason.map(|reason| reason.to_string());
        Self { filter: shadowed.filter.to_owned(), verdict: shadowed.verdict.to_owned(), reason }
    }
}

impl From<&Explanation> for Report {
    fn from(explanation: &Explanation) -> Self {
        let checks = explanation.checks.iter().map(|check| Check {
            filter: check.filter.to_owned(),
            check: check.check.to_owned(),
            ok: check.ok,
            reason: check.reason.to_string(),
            group: check.group.as_deref().map(str::to_owned),
            shadow: check.shadow,
            expected: check.finding.expected.clone(),
            observed: check.finding.observed.clone(),
            hint: check.finding.hint.clone(),
        });
        Self {
            listener: explanation.listener.clone(),
            route: explanation.route.clone(),
            verdict: explanation.verdict.to_owned(),
            status: explanation.status,
            reason: explanation.reason.map(str::to_owned),
            checks: checks.collect(),
            checks_left_out: 0,
            shadow: explanation.shadow.iter().map(Shadowed::from).collect(),
            pool: explanation.pool.clone(),
            upstream_headers: explanation.upstream_headers.clone(),
            made: None,
        }
    }
}

impl Report {
    /// The verdict first, then each check, then what goes on.
    pub fn render(&self, colour: bool) -> String {
        let mut out = self.verdict(colour);
        if let Some(made) = &self.made {
            made.render(&mut out);
        }
        let route = self.route.as_deref().unwrap_or("none");
        line(&mut out, 2, &format!("listener {}, route {route}", self.listener));
        for Shadowed { filter, verdict, reason } in &self.shadow {
            let would = match verdict.as_str() {
                "respond" => "would have answered it".to_owned(),
                "fault" => "would have failed".to_owned(),
                _ => format!("would have refused it: {}", reason.as_deref().unwrap_or("no reason")),
            };
            line(&mut out, 2, &format!("{filter}, in shadow mode, {would}"));
        }
        self.checks(&mut out, colour);
        self.meaning(&mut out);
        match (&self.pool, self.made.as_ref().map(|made| &made.backend)) {
            (None, _) => {}
            (Some(pool), Some(backend)) => {
                line(&mut out, 2, &format!("pool {pool}, backend {}", backend.as_deref().unwrap_or("none")));
            }
            (Some(pool), None) => {
                line(&mut out, 2, &format!("to pool {pool}, with"));
                for (name, value) in &self.upstream_headers {
                    let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    line(&mut out, 6, &format!("{name}: {value}"));
                }
            }
        }
        out
    }

    fn verdict(&self, colour: bool) -> String {
        let allowed = self.verdict == "allow";
        let verdict = match (allowed, &self.reason) {
            (true, _) => "allowed".to_owned(),
            // It was let through, and what came after went wrong.
            (false, Some(reason)) if self.verdict == "error" && self.pool.is_some() => format!("failed: {reason}"),
            (false, reason) => format!("refused: {}", reason.as_deref().unwrap_or("no reason")),
        };
        let seen = match (self.status, &self.made) {
            (Some(status), None) => format!(", the client sees {status}"),
            (Some(status), Some(_)) => format!(", the client got {status}"),
            (None, Some(_)) => ", the client got no response".to_owned(),
            (None, None) => String::new(),
        };
        format!("{}{seen}\n", paint(&printable(&verdict), allowed, colour))
    }

    fn checks(&self, out: &mut String, colour: bool) {
        let names: Vec<String> = self.checks.iter().map(|check| printable(&check.name()).into_owned()).collect();
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
        if self.checks_left_out > 0 {
            line(out, 2, &format!("({} earlier checks are not kept)", self.checks_left_out));
        }
        for (check, name) in self.checks.iter().zip(&names) {
            let mark = paint(if check.ok { "ok" } else { "no" }, check.ok, colour);
            let _ = writeln!(out, "  {mark}  {name:width$}  {}", printable(&check.observed));
            if !check.ok {
                line(out, width + 8, &format!("expected: {}", check.expected));
                line(out, width + 8, &format!("reason: {}", check.reason));
                // What this check knows to do is better than what the table says of its reason.
                let remedy = || reason::TABLE.iter().find(|info| info.code.as_str() == check.reason).map(|info| info.remedy);
                if let Some(hint) = check.hint.as_deref().or_else(remedy) {
                    line(out, width + 8, &format!("hint: {hint}"));
                }
            }
        }
    }

    /// Where no check says why, the table of reasons does.
    fn meaning(&self, out: &mut String) {
        let Some(reason) = &self.reason else { return };
        if self.checks.iter().any(|check| !check.ok && !check.shadow && check.reason == *reason) {
            return;
        }
        if let Some(info) = reason::TABLE.iter().find(|info| info.code.as_str() == reason) {
            line(out, 2, info.meaning);
            line(out, 2, info.remedy);
        }
    }
}

impl Made {
    fn render(&self, out: &mut String) {
        line(out, 2, &format!("decision {} at {}", self.decision_id, self.time));
        let request = match &self.method {
            Some(method) => {
                let text = |part: &Option<String>| part.clone().unwrap_or_default();
                let query = self.query.as_ref().map_or(String::new(), |query| format!("?{query}"));
                format!("{method} {}{}{query}", text(&self.host), text(&self.path))
            }
            None => "a request that could not be read".to_owned(),
        };
        line(out, 2, &format!("{request}, from {}", self.client));
        if let Some(Principal { sub, issuer, method }) = &self.principal {
            let issuer = issuer.as_ref().map_or(String::new(), |issuer| format!(" of {issuer}"));
            line(out, 2, &format!("by {sub}{issuer}, verified by {method}"));
        }
    }
}

fn line(out: &mut String, indent: usize, text: &str) {
    let _ = writeln!(out, "{:indent$}{}", "", printable(text));
}

fn paint(text: &str, good: bool, colour: bool) -> String {
    match (colour, good) {
        (false, _) => text.to_owned(),
        (true, true) => text.green().to_string(),
        (true, false) => text.red().to_string(),
    }
}

/// What clients sent ends up here, and must not steer the terminal it is shown on: no control characters, and none that
/// turn the direction of the text.
pub fn printable(text: &str) -> Cow<'_, str> {
    let steers =
        |c: char| c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    text.chars().map(|c| if steers(c) { c.escape_unicode().to_string() } else { c.to_string() }).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused() -> serde_json::Value {
        json!({
            "decision_id": "0123456789abcdef01234567", "time": "2026-01-31T12:00:00.000Z", "listener": "https",
            "route": "orders", "verdict": "deny", "status": 401, "reason": "token.expired", "client": "192.0.2.1",
            "method": "GET", "host": "api.test", "path": "/orders", "query": "page=2",
            "principal": { "sub": "alice", "issuer": "https://idp.test", "method": "bearer" },
            "checks": [{ "filter": "oidc", "check": "expiry", "ok": false, "reason": "token.expired",
                         "expected": "later", "observed": "earlier", "hint": "renew it" }],
            "checks_left_out": 3, "pool": null, "backend": null,
        })
    }

    fn render(value: serde_json::Value) -> String {
        serde_json::from_value::<Report>(value).unwrap().render(false)
    }

    #[test]
    fn a_refusal_is_told_with_its_request_and_its_failing_check() {
        let text = render(refused());
        for part in [
            "refused: token.expired, the client got 401\n",
            "decision 0123456789abcdef01234567 at 2026-01-31T12:00:00.000Z\n",
            "GET api.test/orders?page=2, from 192.0.2.1\n",
            "by alice of https://idp.test, verified by bearer\n",
            "listener https, route orders\n",
            "(3 earlier checks are not kept)\n",
            "no  oidc expiry  earlier\n",
            "expected: later\n",
            "hint: renew it\n",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn where_no_check_failed_the_reason_is_explained() {
        let mut value = refused();
        value["checks"] = json!([]);
        value["reason"] = "route.none".into();
        let info = reason::info(reason::ROUTE_NONE).unwrap();
        let text = render(value);
        assert!(text.contains(info.meaning) && text.contains(info.remedy), "{text}");
    }

    #[test]
    fn what_a_backend_did_is_a_failure_and_not_a_refusal() {
        let mut value = refused();
        for (name, with) in [("verdict", "error"), ("reason", "upstream.reset"), ("pool", "blue"), ("backend", "10.0.0.1:80")] {
            value[name] = with.into();
        }
        let text = render(value);
        assert!(text.starts_with("failed: upstream.reset") && text.contains("pool blue, backend 10.0.0.1:80"), "{text}");
    }

    #[test]
    fn nothing_a_client_sent_steers_the_terminal() {
        let mut value = refused();
        for name in ["method", "host", "path", "query"] {
            value[name] = "a\u{1b}[2Jb\r\nc\u{202e}d\u{9b}".into();
        }
        value["checks"][0]["observed"] = "x\u{1b}]0;y\u{7}".into();
        let text = render(value);
        assert!(!text.contains(['\u{1b}', '\r', '\u{202e}', '\u{9b}', '\u{7}']), "{text:?}");
        assert!(text.contains("a\\u{1b}[2Jb"), "{text}");
    }
}
