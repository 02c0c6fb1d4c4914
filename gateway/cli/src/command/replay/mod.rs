//! `portcullis replay`: which requests of an access log would now be decided otherwise.

mod facts;
mod line;
mod recorded;
mod summary;

use super::{FINDING, GOOD, USAGE, colours, exit, fail, input, print};
use facts::Facts;
use line::{Decision, Line};
use portcullis::config::inspect::{self, Inspection};
use portcullis::config::snapshot::{Action, ListenerPlan};
use portcullis::explain::{ExplainError, Explanation, Query, rehearse};
use portcullis::plugin::Exchange;
use recorded::{Found, Then, UNKNOWN, Unknown};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use summary::{Outcome, Summary};

/// A longer line is none of the gateway's.
const MAX_LINE: u64 = 1 << 20;

/// What the log shows in the place of a secret.
pub const REDACTED: &str = "[redacted]";

#[derive(clap::Args)]
pub struct Arguments {
    /// The access log; `-` for standard input.
    log: PathBuf,
    /// The configuration to decide by: a YAML file, or a directory whose `*.yaml` files are merged in name order.
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// How many requests to name for each kind of change.
    #[arg(long, value_name = "N", default_value_t = 3)]
    examples: usize,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: Arguments) -> ExitCode {
    let log = match open(&arguments.log) {
        Ok(log) => log,
        Err(message) => return fail(USAGE, message),
    };
    let inspection = match inspect::inspect(&arguments.config, &recorded::table(), None) {
        Ok(inspection) => inspection,
        Err(diagnostics) => {
            eprint!("{}", diagnostics.render(colours(&std::io::stderr())));
            return exit(USAGE);
        }
    };
    let runtime = match super::runtime(Some(1)) {
        Ok(runtime) => runtime,
        Err(error) => return fail(USAGE, error),
    };
    let summary = runtime.block_on(replay(log, &inspection, arguments.examples));
    runtime.shutdown_background();
    let summary = match summary {
        Ok(summary) => summary,
        Err(message) => return fail(USAGE, format!("{}: {message}", arguments.log.display())),
    };
    if arguments.json {
        print(&format!("{:#}\n", summary.to_json()));
    } else {
        let name = if arguments.log.as_os_str() == "-" { "standard input".into() } else { arguments.log.display().to_string() };
        print(&summary.render(&name));
    }
    exit(if summary.has_findings() { FINDING } else { GOOD })
}

fn open(path: &Path) -> Result<Box<dyn BufRead>, String> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(std::io::stdin().lock()));
    }
    let file = std::fs::File::open(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    Ok(Box::new(BufReader::new(file)))
}

/// Line by line, so that a log may be of any size.
async fn replay(mut log: Box<dyn BufRead>, inspection: &Inspection, examples: usize) -> Result<Summary, String> {
    let mut summary = Summary::new(examples);
    let mut text = Vec::new();
    for number in 1_u64.. {
        text.clear();
        let read = log.by_ref().take(MAX_LINE).read_until(b'\n', &mut text).map_err(|error| error.to_string())?;
        if read == 0 {
            break;
        }
        if text.last() != Some(&b'\n') && read as u64 == MAX_LINE {
            return Err(format!("line {number} is longer than {MAX_LINE} bytes: this is no access log of the gateway's"));
        }
        if text.trim_ascii().is_empty() {
            continue;
        }
        match serde_json::from_slice::<Line>(&text) {
            Ok(line) => {
                let outcome = again(inspection, &line).await;
                summary.add(number, &line, outcome);
            }
            // Never the text: a line that is not ours may hold anything.
            Err(error) => summary.unreadable(number, &error),
        }
    }
    Ok(summary)
}

/// Decides one request again.
async fn again(inspection: &Inspection, line: &Line) -> Outcome {
    let cannot_tell = |cause: String| Outcome::CannotTell(cause);
    let then = match line.decision() {
        Ok(then) => then,
        Err(cause) => return cannot_tell(cause),
    };
    let query = match request(inspection, line) {
        Ok(query) => query,
        Err(cause) => return cannot_tell(cause),
    };
    let found = Arc::new(Mutex::new(Found::default()));
    // Where certificates come in a header, that of the connection may be the proxy's own.
    let forwards = inspection.snapshot().listener(&line.listener).is_some_and(|plan| plan.forwarded.is_some());
    let known = Then { refused: line.refused_for(), facts: Facts::of(line, forwards), found: Arc::clone(&found) };
    let certified = known.facts.has_certificate();
    let prepare = |exchange: &mut Exchange| {
        if let Some(certificate) = known.facts.certificate() {
            exchange.driver_set_certificate(certificate);
        }
        exchange.insert_extension(known);
    };
    let explanation = match rehearse(inspection.snapshot(), &query, prepare).await {
        Ok(explanation) => explanation,
        Err(ExplainError::UnknownListener(name)) => return cannot_tell(format!("there is no listener `{name}` any more")),
        Err(error) => return cannot_tell(error.to_string()),
    };
    let required = |plan: &ListenerPlan| plan.settings.tls.as_ref().is_some_and(|tls| tls.requires_client_certificate());
    if certified && inspection.snapshot().listener(&line.listener).is_some_and(|plan| required(plan)) {
        found.lock().unwrap_or_else(PoisonError::into_inner).assumed.push("client_auth");
    }
    let found = std::mem::take(&mut *found.lock().unwrap_or_else(PoisonError::into_inner));
    if let Some(cause) = unknown(&explanation, &found, line) {
        return cannot_tell(cause);
    }
    let now = decision(inspection, &explanation);
    if same(&then, &now) {
        Outcome::Same { assumed: found.assumed }
    } else {
        Outcome::Changed { then, now, assumed: found.assumed }
    }
}

/// The request as far as the line tells.
fn request(inspection: &Inspection, line: &Line) -> Result<Query, String> {
    let (Some(method), Some(host), Some(path)) = (&line.method, &line.host, &line.path) else {
        return Err("it never was a whole request".to_owned());
    };
    if path.contains(REDACTED) {
        return Err("its path held a secret, which is not in the log".to_owned());
    }
    if [Some(host), Some(path), line.query.as_ref()].into_iter().flatten().any(|text| line::is_cut(text)) {
        return Err("its host, path or query is longer than the log keeps".to_owned());
    }
    let tls = inspection.snapshot().listener(&line.listener).is_some_and(|plan| plan.settings.tls.is_some());
    let scheme = if tls { "https" } else { "http" };
    let query = line.query.as_ref().map_or(String::new(), |query| format!("?{}", query.replace(REDACTED, "")));
    Ok(Query {
        url: format!("{scheme}://{host}{path}{query}"),
        method: method.clone(),
        headers: Vec::new(),
        certificate: Vec::new(),
        client: line.client,
        at: input::time(&line.time)?,
        listener: Some(line.listener.clone()),
    })
}

/// Why what came out is no answer, if it is none.
fn unknown(explanation: &Explanation, found: &Found, line: &Line) -> Option<String> {
    if explanation.hinges.headers {
        return Some("a route asks for a header, and headers are not in the log".to_owned());
    }
    if explanation.hinges.query && line.query.as_ref().is_some_and(|query| query.contains(REDACTED)) {
        return Some("a route asks for a query parameter, and the log has its query only in part".to_owned());
    }
    if let (Some(Unknown { filter, lacks }), Some(UNKNOWN)) = (&found.unknown, explanation.reason.and_then(reason_code)) {
        return Some(match lacks {
            Some(lacks) => format!("`{filter}` judges by {lacks}"),
            None => format!("`{filter}` judges by what is not in the log"),
        });
    }
    // The listener's own demand, which no filter makes.
    let of_listener = |check: &portcullis_plugin::Check| check.filter == "client_auth" && !check.ok;
    explanation
        .checks
        .iter()
        .any(of_listener)
        .then(|| "its listener requires a client certificate, and the log has none".to_owned())
}

fn reason_code(name: &str) -> Option<portcullis_plugin::ReasonCode> {
    if name == UNKNOWN.as_str() { Some(UNKNOWN) } else { recorded::reason_named(name) }
}

fn decision(inspection: &Inspection, explanation: &Explanation) -> Decision {
    let allowed = explanation.is_allowed();
    // A split chooses by chance: which pool it was is no decision.
    let splits = |name: &str| {
        inspection.snapshot().routes.iter().any(|route| &*route.name == name && matches!(route.action, Action::Split(_)))
    };
    let split = explanation.route.as_deref().is_some_and(splits);
    Decision {
        allowed,
        reason: if allowed { None } else { explanation.reason.map(str::to_owned) },
        route: explanation.route.clone(),
        pool: explanation.pool.clone().map(|pool| if split { "(a split)".to_owned() } else { pool }),
        status: explanation.status.filter(|_| allowed),
    }
}

fn same(then: &Decision, now: &Decision) -> bool {
    let pools = match (&then.pool, &now.pool) {
        (Some(_), Some(now)) if now == "(a split)" => true,
        (then, now) => then == now,
    };
    pools && (then.allowed, &then.reason, &then.route, then.status) == (now.allowed, &now.reason, &now.route, now.status)
}
