//! `portcullis why`: asks a running gateway about one decision.

use super::report::Report;
use super::{FINDING, GOOD, USAGE, colours, exit, fail, input, print};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use portcullis::config::Loader;
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::net::TcpStream;

const DEFAULT_ADMIN: &str = "http://127.0.0.1:9090";

/// For the whole question.
const PATIENCE: Duration = Duration::from_secs(10);

/// Of an answer. A decision is far smaller: more is not from a gateway.
const MAX_ANSWER: usize = 1 << 20;

#[derive(clap::Args)]
pub struct Arguments {
    /// The decision id, as in the response's `x-decision-id` and in the access log.
    id: String,
    /// The gateway's admin listener. Default: http://127.0.0.1:9090
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    admin: Option<String>,
    /// The gateway's configuration, to find its admin listener and token in.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A file with the admin listener's bearer token; `-` for standard input. Default: what the configuration names.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: Arguments) -> ExitCode {
    let asked = prepare(&arguments).and_then(|(place, token)| {
        let runtime = super::runtime(Some(1)).map_err(|error| error.to_string())?;
        let answer = runtime.block_on(async {
            let question = ask(&place, &arguments.id, token.as_deref());
            tokio::time::timeout(PATIENCE, question).await.unwrap_or_else(|_| Err("it did not answer in time".into()))
        });
        runtime.shutdown_background();
        answer.map_err(|error| format!("cannot ask the gateway at http://{place}: {error}"))
    });
    let answer = match asked {
        Ok(answer) => answer,
        Err(message) => return fail(USAGE, message),
    };
    match answer {
        Answer::Unknown(message) => {
            if arguments.json {
                print(&format!("{:#}\n", serde_json::json!({ "error": message })));
            }
            fail(FINDING, super::report::printable(&message))
        }
        Answer::Known(decision) if arguments.json => {
            print(&format!("{decision:#}\n"));
            exit(GOOD)
        }
        Answer::Known(decision) => match serde_json::from_value::<Report>(decision) {
            Ok(report) => {
                print(&report.render(colours(&std::io::stdout())));
                exit(GOOD)
            }
            Err(error) => fail(USAGE, format!("the gateway's answer is not a decision of this version: {error}")),
        },
    }
}

enum Answer {
    Known(Value),
    /// With what the gateway says of it.
    Unknown(String),
}

/// `host:port` of the admin listener, and the token it asks for.
fn prepare(arguments: &Arguments) -> Result<(String, Option<String>), String> {
    let id = &arguments.id;
    if id.len() != 24 || !id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return Err("a decision id is 24 digits of 0-9 and a-f, as in the response's `x-decision-id`".into());
    }
    let (place, configured) = match &arguments.config {
        Some(path) => configured(path)?,
        None => (place(arguments.admin.as_deref().unwrap_or(DEFAULT_ADMIN))?, None),
    };
    let file = arguments.token_file.as_ref().or(configured.as_ref());
    // The first line, as the gateway reads it.
    let first = |text: String| text.lines().next().unwrap_or_default().trim().to_owned();
    Ok((place, file.map(|file| input::token(file).map(first)).transpose()?))
}

fn place(url: &str) -> Result<String, String> {
    let refuse = || format!("`{url}` is not the address of an admin listener; write one such as {DEFAULT_ADMIN}");
    let uri: Uri = url.parse().map_err(|_| refuse())?;
    let authority = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(refuse)?;
    if uri.scheme_str() != Some("http") || uri.path() != "/" || uri.query().is_some() {
        return Err(refuse());
    }
    Ok(format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80)))
}

fn configured(path: &Path) -> Result<(String, Option<PathBuf>), String> {
    let loaded = Loader::new(&|name| std::env::var(name).ok()).load(path).map_err(|errors| errors.to_string())?;
    let Some(admin) = &loaded.raw.admin else {
        return Err(format!("{} has no `admin` listener to ask", path.display()));
    };
    if admin.address.port() == 0 {
        return Err("the configuration leaves the admin port open: give `--admin`".into());
    }
    let token_file = admin.token_file.as_ref().map(|file| loaded.base.join(file));
    Ok((reachable(admin.address).to_string(), token_file))
}

/// A socket on all addresses is reached by this machine's own.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn ask(place: &str, id: &str, token: Option<&str>) -> Result<Answer, Failure> {
    let stream = TcpStream::connect(place).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut request = Request::get(format!("/decisions/{id}")).header(header::HOST, place);
    if let Some(token) = token {
        let mut value = header::HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| "the token has characters that no header can have")?;
        value.set_sensitive(true);
        request = request.header(header::AUTHORIZATION, value);
    }
    let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
    let status = response.status();
    if status == StatusCode::UNAUTHORIZED {
        return Err(match token {
            Some(_) => "it does not accept this token".into(),
            None => "it asks for a token: give `--token-file`".into(),
        });
    }
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await?.to_bytes();
    let value: Option<Value> = serde_json::from_slice(&body).ok();
    match (status, value) {
        (StatusCode::OK, Some(decision)) => Ok(Answer::Known(decision)),
        // Anything may answer 404; only a gateway says what it does not know.
        (StatusCode::NOT_FOUND, Some(value)) if value["error"].is_string() => {
            Ok(Answer::Unknown(value["error"].as_str().unwrap_or_default().to_owned()))
        }
        _ => Err(format!("the answer is {status}, and not a gateway's; is this its admin listener?").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admin_url_is_http_and_nothing_but_a_place() {
        assert_eq!(place("http://127.0.0.1:9090").unwrap(), "127.0.0.1:9090");
        assert_eq!(place("http://[::1]:9090/").unwrap(), "[::1]:9090");
        assert_eq!(place("http://edge").unwrap(), "edge:80");
        for url in
            ["", "127.0.0.1:9090", "https://edge:9090", "http://edge/decisions", "http://u:p@edge", "http://edge?x", "file:///x"]
        {
            assert!(place(url).is_err(), "{url}");
        }
    }

    #[test]
    fn a_socket_on_all_addresses_is_asked_on_the_loopback() {
        for (address, reached) in
            [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("10.0.0.1:1", "10.0.0.1:1"), ("127.0.0.1:1", "127.0.0.1:1")]
        {
            assert_eq!(reachable(address.parse().unwrap()).to_string(), reached);
        }
    }
}
