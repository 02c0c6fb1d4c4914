//! `portcullis explain`

use super::{FINDING, GOOD, USAGE, colours, exit, fail, print};
use owo_colors::OwoColorize;
use portcullis::config::inspect;
use portcullis::explain::{Explanation, Query, explain};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

#[derive(clap::Args)]
pub struct Arguments {
    /// A YAML file, or a directory whose `*.yaml` files are merged in name order.
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// The request's URL.
    #[arg(long)]
    url: String,
    #[arg(long, default_value = "GET", value_name = "M")]
    method: String,
    /// A header, as `Name: value`. May be given several times.
    #[arg(long = "header", short = 'H', value_name = "K: V")]
    headers: Vec<String>,
    /// A bearer token. Other users of this machine can see it: `--token-file` is safer.
    #[arg(long, conflicts_with = "token_file")]
    token: Option<String>,
    /// A file with the bearer token; `-` for standard input.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The client's certificate, and its chain, as PEM.
    #[arg(long, value_name = "PEM")]
    client_cert: Option<PathBuf>,
    /// The client's address.
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    client_ip: IpAddr,
    /// Keys to verify tokens with, instead of asking the issuer: a JWKS file.
    #[arg(long, value_name = "FILE")]
    jwks: Option<PathBuf>,
    /// The time to judge by, such as 2026-01-31T12:00:00Z. Default: now.
    #[arg(long, value_name = "RFC3339")]
    at: Option<String>,
    /// The listener the request arrives at. Default: the first that speaks the URL's scheme.
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: Arguments) -> ExitCode {
    match prepare(&arguments) {
        Err(message) => fail(USAGE, message),
        Ok((query, keys)) => answer(&arguments, &query, keys.as_deref()),
    }
}

fn prepare(arguments: &Arguments) -> Result<(Query, Option<Vec<u8>>), String> {
    let read = |path: &PathBuf| std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()));
    let mut headers = Vec::new();
    for header in &arguments.headers {
        let (name, value) = header.split_once(':').ok_or_else(|| format!("`{header}` is not a header; write `Name: value`"))?;
        headers.push((name.to_owned(), value.trim().as_bytes().to_vec()));
    }
    let token = match (&arguments.token, &arguments.token_file) {
        (Some(token), _) => Some(token.clone()),
        (None, Some(path)) if path.as_os_str() == "-" => {
            Some(std::io::read_to_string(std::io::stdin()).map_err(|error| format!("cannot read the token: {error}"))?)
        }
        (None, Some(path)) => Some(String::from_utf8(read(path)?).map_err(|_| format!("{} is not text", path.display()))?),
        (None, None) => None,
    };
    if let Some(token) = token {
        headers.push(("Authorization".into(), format!("Bearer {}", token.trim()).into_bytes()));
    }
    let certificate = match &arguments.client_cert {
        None => Vec::new(),
        Some(path) => {
            let refuse = || format!("{} has no PEM certificate", path.display());
            let chain: Vec<CertificateDer<'static>> =
                CertificateDer::pem_slice_iter(&read(path)?).collect::<Result<_, _>>().map_err(|_| refuse())?;
            if chain.is_empty() {
                return Err(refuse());
            }
            chain
        }
    };
    let at = match &arguments.at {
        None => SystemTime::now(),
        Some(text) => OffsetDateTime::parse(text, &Rfc3339)
            .map_err(|_| format!("`{text}` is not a time; write one such as 2026-01-31T12:00:00Z"))?
            .into(),
    };
    let keys = arguments.jwks.as_ref().map(read).transpose()?;
    let query = Query {
        url: arguments.url.clone(),
        method: arguments.method.clone(),
        headers,
        certificate,
        client: arguments.client_ip,
        at,
        listener: arguments.listener.clone(),
    };
    Ok((query, keys))
}

fn answer(arguments: &Arguments, query: &Query, keys: Option<&[u8]>) -> ExitCode {
    let runtime = match super::runtime(Some(1)) {
        Ok(runtime) => runtime,
        Err(error) => return fail(USAGE, error),
    };
    let explained = runtime.block_on(async {
        let inspection = match inspect::inspect(&arguments.config, &portcullis_plugins::table(), keys) {
            Ok(inspection) => inspection,
            Err(diagnostics) => {
                eprint!("{}", diagnostics.render(colours(&std::io::stderr())));
                return Err(exit(USAGE));
            }
        };
        explain(inspection.snapshot(), query).await.map_err(|error| fail(USAGE, error))
    });
    runtime.shutdown_background();
    let explanation = match explained {
        Ok(explanation) => explanation,
        Err(code) => return code,
    };
    if arguments.json {
        match serde_json::to_string_pretty(&explanation) {
            Ok(text) => print(&format!("{text}\n")),
            Err(error) => return fail(USAGE, error),
        }
    } else {
        print(&render(&explanation, colours(&std::io::stdout())));
    }
    exit(if explanation.is_allowed() { GOOD } else { FINDING })
}

/// For people: the verdict first, then each check, then what goes on.
pub fn render(explanation: &Explanation, colour: bool) -> String {
    let paint = |text: String, good: bool| match (colour, good) {
        (false, _) => text,
        (true, true) => text.green().to_string(),
        (true, false) => text.red().to_string(),
    };
    let mut out = String::new();
    let verdict = match (explanation.is_allowed(), explanation.reason) {
        (true, _) => "allowed".to_owned(),
        (false, reason) => format!("refused: {}", reason.unwrap_or("no reason")),
    };
    out.push_str(&paint(verdict, explanation.is_allowed()));
    if let Some(status) = explanation.status {
        out.push_str(&format!(", the client sees {status}"));
    }
    out.push('\n');
    out.push_str(&format!("  listener {}, route {}\n", explanation.listener, explanation.route.as_deref().unwrap_or("none")));
    let width = explanation.checks.iter().map(|check| check.filter.len() + check.check.len() + 1).max().unwrap_or(0);
    for check in &explanation.checks {
        let mark = paint(if check.ok { "ok" } else { "no" }.to_owned(), check.ok);
        let name = format!("{} {}", check.filter, check.check);
        out.push_str(&format!("  {mark}  {name:width$}  {}\n", check.finding.observed));
        if !check.ok {
            out.push_str(&format!("      {:width$}  expected: {}\n", "", check.finding.expected));
            out.push_str(&format!("      {:width$}  reason: {}\n", "", check.reason));
            if let Some(hint) = &check.finding.hint {
                out.push_str(&format!("      {:width$}  hint: {hint}\n", ""));
            }
        }
    }
    if let Some(pool) = &explanation.pool {
        out.push_str(&format!("  to pool {pool}, with\n"));
        for (name, value) in &explanation.upstream_headers {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            out.push_str(&format!("      {name}: {value}\n"));
        }
    }
    out
}
