//! Which decisions a running gateway keeps: the question, and the answer for people.

use crate::command::report::printable;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use std::fmt::Write;

/// What the gateway is to select by. It judges the values: it is the one to say what it understands.
#[derive(Debug, Default, clap::Args)]
pub struct Selection {
    /// Only refused for this reason code; one that ends with a dot, such as `token.`, is the beginning of some
    #[arg(long, value_name = "CODE", conflicts_with = "id")]
    reason: Option<String>,
    /// Only of this route.
    #[arg(long, value_name = "NAME", conflicts_with = "id")]
    route: Option<String>,
    /// Only of this listener.
    #[arg(long, value_name = "NAME", conflicts_with = "id")]
    listener: Option<String>,
    /// Only from this network or address: 10.0.0.0/8
    #[arg(long, value_name = "NETWORK", conflicts_with = "id")]
    client: Option<String>,
    /// Only since this time, or for so long: 2026-01-31T12:00:00Z, 15m
    #[arg(long, value_name = "TIME", conflicts_with = "id")]
    since: Option<String>,
    /// Only requests that were let through, and that a filter in shadow mode would have refused; or only others.
    #[arg(long, value_name = "BOOL", conflicts_with = "id", num_args = 0..=1, default_missing_value = "true")]
    shadow: Option<String>,
    /// How many, at most 1000. Default: 100.
    #[arg(long, value_name = "N", conflicts_with = "id")]
    limit: Option<String>,
}

impl Selection {
    /// With its `?`, if there is anything to ask for.
    pub fn query(&self) -> String {
        let Self { reason, route, listener, client, since, shadow, limit } = self;
        let pairs = [
            ("reason", reason),
            ("route", route),
            ("listener", listener),
            ("client", client),
            ("since", since),
            ("shadow", shadow),
            ("limit", limit),
        ];
        let mut query = String::new();
        for (name, value) in pairs {
            if let Some(value) = value {
                let begin = if query.is_empty() { '?' } else { '&' };
                let _ = write!(query, "{begin}{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC));
            }
        }
        query
    }
}

#[derive(Debug, Deserialize)]
pub struct Listing {
    decisions: Vec<Row>,
}

#[derive(Debug, Deserialize)]
struct Row {
    decision_id: String,
    time: String,
    listener: String,
    route: Option<String>,
    status: Option<u16>,
    reason: Option<String>,
    client: String,
    method: Option<String>,
    host: Option<String>,
    path: Option<String>,
    shadow: Vec<Shadowed>,
}

#[derive(Debug, Deserialize)]
struct Shadowed {
    filter: String,
    reason: Option<String>,
}

impl Listing {
    /// A line for each.
    pub fn render(&self) -> String {
        if self.decisions.is_empty() {
            return "no such decision is kept\n".to_owned();
        }
        let lines: Vec<_> = self.decisions.iter().map(Row::parts).collect();
        let widest =
            |part: fn(&Parts) -> &String| lines.iter().map(|line| part(line).chars().count().min(WIDEST)).max().unwrap_or(0);
        let (why, request) = (widest(|parts| &parts.why), widest(|parts| &parts.request));
        lines.iter().fold(String::new(), |mut out, parts| {
            let Parts { begin, why: reason, request: asked, end } = parts;
            let _ = writeln!(out, "{begin}  {reason:why$}  {asked:request$}  {end}");
            out
        })
    }
}

/// A column is no wider than this for the sake of others; a longer text stands whole, and moves what is behind it.
const WIDEST: usize = 48;

/// A line, in columns that are as wide as the widest of them.
struct Parts {
    begin: String,
    why: String,
    request: String,
    end: String,
}

impl Row {
    fn parts(&self) -> Parts {
        let Self { decision_id, time, listener, route, status, reason, client, method, host, path, shadow } = self;
        let text = |part: &Option<String>| part.clone().unwrap_or_default();
        let status = status.map_or("-".to_owned(), |status| status.to_string());
        let why = match (reason, shadow.first()) {
            (Some(reason), _) => reason.clone(),
            (None, Some(first)) => {
                format!("shadow: {} of {}", first.reason.as_deref().unwrap_or("no reason"), first.filter)
            }
            (None, None) => "no reason".to_owned(),
        };
        let request = match method {
            Some(method) => format!("{method} {}{}", text(host), text(path)),
            None => "(not read)".to_owned(),
        };
        let place = route.as_ref().map_or_else(|| format!("listener {listener}"), |route| format!("route {route}"));
        Parts {
            begin: printable(&format!("{decision_id}  {time}  {status:>3}")).to_string(),
            why: printable(&why).to_string(),
            request: printable(&request).to_string(),
            end: printable(&format!("{place}, from {client}")).to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_encoded_and_those_not_given_are_not_asked_for() {
        assert_eq!(Selection::default().query(), "");
        let selection = Selection {
            reason: Some("token.".into()),
            route: Some("a&limit=1 b".into()),
            client: Some("10.0.0.0/8".into()),
            ..Selection::default()
        };
        assert_eq!(selection.query(), "?reason=token%2E&route=a%26limit%3D1%20b&client=10%2E0%2E0%2E0%2F8");
    }

    #[test]
    fn a_line_for_each_and_nothing_in_it_steers_the_terminal() {
        let row = |reason: Option<&str>, path: &str| {
            json!({
                "decision_id": "0123456789abcdef01234567", "time": "2026-01-31T12:00:00.000Z", "listener": "https",
                "route": "orders", "verdict": "deny", "status": 401, "reason": reason, "client": "192.0.2.1",
                "method": "GET", "host": "api.test", "path": path,
                "shadow": [{ "filter": "oidc", "verdict": "deny", "reason": "token.missing" }],
            })
        };
        let listing = json!({ "decisions": [row(Some("token.expired"), "/a\u{1b}[2J\n"), row(None, "/b")] });
        let text = serde_json::from_value::<Listing>(listing).unwrap().render();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(
            lines[0].contains("  401  token.expired  ") && lines[0].contains("GET api.test/a\\u{1b}[2J\\u{a}  route"),
            "{text}"
        );
        assert!(lines[1].contains("  shadow: token.missing of oidc  GET api.test/b  "), "{text}");
        let columns = |line: &str| ["GET ", "route orders, from 192.0.2.1"].map(|part| line.find(part));
        assert_eq!(columns(lines[0]), columns(lines[1]), "{text}");
    }
}
