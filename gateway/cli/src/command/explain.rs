//! `portcullis explain`

use super::report::Report;
use super::{FINDING, GOOD, USAGE, colours, exit, fail, input, print};
use portcullis::config::inspect;
use portcullis::explain::{Explanation, Query, explain};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

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
    // One token in 64 begins with a `-`.
    #[arg(long, conflicts_with = "token_file", allow_hyphen_values = true)]
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
    let mut headers = Vec::new();
    for header in &arguments.headers {
        let (name, value) = header.split_once(':').ok_or_else(|| format!("`{header}` is not a header; write `Name: value`"))?;
        headers.push((name.to_owned(), value.trim().as_bytes().to_vec()));
    }
    let token = match (&arguments.token, &arguments.token_file) {
        (Some(token), _) => Some(token.clone()),
        (None, Some(path)) => Some(input::token(path)?),
        (None, None) => None,
    };
    headers.extend(token.map(|token| input::bearer(&token)));
    let certificate = arguments.client_cert.as_deref().map(input::certificates).transpose()?.unwrap_or_default();
    let at = arguments.at.as_deref().map(input::time).transpose()?.unwrap_or_else(SystemTime::now);
    let keys = arguments.jwks.as_deref().map(input::read).transpose()?;
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

/// For people.
pub fn render(explanation: &Explanation, colour: bool) -> String {
    Report::from(explanation).render(colour)
}
