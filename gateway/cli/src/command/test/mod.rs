//! `portcullis test`: a table of requests and what is to become of each, run through the same code as `explain`.
//!
//! ```yaml
//! config: edge.yaml
//! jwks: jwks.json
//! at: 2026-01-31T12:00:00Z
//! cases:
//!   - name: orders need a token
//!     request: { url: "https://api.example.com/orders" }
//!     expect: { verdict: deny, status: 401, reason: token.missing }
//! ```

mod table;

use super::report::{Report, printable};
use super::{FINDING, GOOD, USAGE, colours, exit, fail, print};
use owo_colors::OwoColorize;
use portcullis::config::{Diagnostics, inspect};
use portcullis::explain::{Explanation, explain};
use serde::Serialize;
use serde_json::Value;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use table::{Expect, Plan, Planned};

#[derive(clap::Args)]
pub struct Arguments {
    /// The table: a YAML file with `config` and `cases`.
    #[arg(value_name = "FILE")]
    table: PathBuf,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: Arguments) -> ExitCode {
    let runtime = match super::runtime(Some(1)) {
        Ok(runtime) => runtime,
        Err(error) => return fail(USAGE, error),
    };
    let outcomes = Plan::read(&arguments.table).and_then(|plan| runtime.block_on(judge(plan)));
    runtime.shutdown_background();
    let outcomes = match outcomes {
        Ok(outcomes) => outcomes,
        Err(diagnostics) => {
            if arguments.json {
                print(&format!("{:#}\n", serde_json::json!({ "ok": false, "findings": diagnostics.to_json() })));
            } else {
                eprint!("{}", diagnostics.render(colours(&std::io::stderr())));
            }
            return exit(USAGE);
        }
    };
    let failed = outcomes.iter().filter(|outcome| !outcome.ok).count();
    if arguments.json {
        let all =
            serde_json::json!({ "ok": failed == 0, "passed": outcomes.len() - failed, "failed": failed, "cases": outcomes });
        print(&format!("{all:#}\n"));
    } else {
        print(&render(&outcomes, colours(&std::io::stdout())));
    }
    exit(if failed == 0 { GOOD } else { FINDING })
}

/// What became of one case.
#[derive(Serialize)]
struct Outcome {
    name: String,
    ok: bool,
    mismatches: Vec<Mismatch>,
    explanation: Explanation,
}

/// Where what happened is not what was expected. `null`: there is none.
#[derive(Debug, PartialEq, Serialize)]
struct Mismatch {
    what: String,
    expected: Value,
    observed: Value,
}

async fn judge(plan: Plan) -> Result<Vec<Outcome>, Diagnostics> {
    let table = portcullis_plugins::table();
    let mut outcomes = Vec::with_capacity(plan.cases.len());
    for (index, Planned { name, query, expect }) in plan.cases.iter().enumerate() {
        // A gateway of its own for each case: none uses up another's rate limit, and their order does not matter.
        let inspection = inspect::inspect(&plan.config, &table, plan.keys.as_deref())?;
        let explanation = explain(inspection.snapshot(), query).await.map_err(|error| plan.error(index, error.to_string()))?;
        let mismatches = compare(expect, &explanation);
        outcomes.push(Outcome { name: name.clone(), ok: mismatches.is_empty(), mismatches, explanation });
    }
    Ok(outcomes)
}

fn compare(expect: &Expect, explanation: &Explanation) -> Vec<Mismatch> {
    let Expect { verdict, status, reason, route, pool, upstream_headers } = expect;
    let mut mismatches = Vec::new();
    let mut judge = |what: &str, expected: Option<Value>, observed: Value| {
        if let Some(expected) = expected.filter(|expected| *expected != observed) {
            mismatches.push(Mismatch { what: what.to_owned(), expected, observed });
        }
    };
    judge("verdict", verdict.map(|verdict| verdict.as_str().into()), explanation.verdict.into());
    judge("status", status.map(Value::from), explanation.status.into());
    judge("reason", reason.clone().map(Value::from), explanation.reason.into());
    judge("route", route.clone().map(Value::from), explanation.route.clone().into());
    judge("pool", pool.clone().map(Value::from), explanation.pool.clone().into());
    for (name, value) in upstream_headers {
        let observed = explanation.upstream_headers.get(&name.to_ascii_lowercase()).cloned().unwrap_or_default();
        judge(&format!("upstream header {name}"), Some(value.clone().into()), observed);
    }
    mismatches
}

/// A line for each case; for one that failed, what was expected, and then the decision as `explain` tells it.
fn render(outcomes: &[Outcome], colour: bool) -> String {
    let mut out = String::new();
    for outcome in outcomes {
        let mark = match (outcome.ok, colour) {
            (true, false) => "ok  ".to_owned(),
            (false, false) => "FAIL".to_owned(),
            (true, true) => "ok  ".green().to_string(),
            (false, true) => "FAIL".red().to_string(),
        };
        let _ = writeln!(out, "{mark}  {}", printable(&outcome.name));
        for Mismatch { what, expected, observed } in &outcome.mismatches {
            let _ = writeln!(out, "      {}: expected {}, observed {}", printable(what), plain(expected), plain(observed));
        }
        if !outcome.ok {
            let report = Report::from(&outcome.explanation).render(colour);
            for line in report.lines() {
                let _ = writeln!(out, "      | {line}");
            }
        }
    }
    let failed = outcomes.iter().filter(|outcome| !outcome.ok).count();
    let _ = writeln!(out, "{} passed, {failed} failed", outcomes.len() - failed);
    out
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => printable(text).into_owned(),
        other => printable(&other.to_string()).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use table::Verdict;

    fn explanation() -> Explanation {
        Explanation {
            listener: "https".into(),
            route: Some("orders".into()),
            verdict: "allow",
            status: None,
            reason: None,
            checks: Vec::new(),
            shadow: Vec::new(),
            upstream_headers: BTreeMap::from([
                ("x-user".into(), "alice".into()),
                ("x-two".into(), serde_json::json!(["a", "b"])),
            ]),
            pool: Some("blue".into()),
            hinges: Default::default(),
        }
    }

    fn headers(rows: &[(&str, Option<&str>)]) -> Expect {
        let upstream_headers = rows.iter().map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned))).collect();
        Expect { upstream_headers, ..Expect::default() }
    }

    #[test]
    fn what_is_not_written_is_not_judged_and_null_is_written() {
        let whole = Expect {
            verdict: Some(Verdict::Allow),
            status: Some(None),
            reason: Some(None),
            route: Some(Some("orders".into())),
            pool: Some(Some("blue".into())),
            ..headers(&[("X-User", Some("alice")), ("x-none", None)])
        };
        assert_eq!(compare(&whole, &explanation()), []);
        let wrong = Expect { route: Some(None), pool: Some(Some("green".into())), status: Some(Some(200)), ..Expect::default() };
        let found: Vec<_> = compare(&wrong, &explanation()).into_iter().map(|mismatch| mismatch.what).collect();
        assert_eq!(found, ["status", "route", "pool"]);
    }

    #[test]
    fn a_header_must_be_there_once_with_the_value_or_not_at_all() {
        for rows in [
            [("x-user", Some("bob"))],
            [("x-user", None)],
            [("x-none", Some(""))],
            // One of two values is not the value.
            [("x-two", Some("a"))],
        ] {
            assert_eq!(compare(&headers(&rows), &explanation()).len(), 1, "{rows:?}");
        }
    }
}
