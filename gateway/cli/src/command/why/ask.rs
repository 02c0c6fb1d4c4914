//! A question to a running gateway, by its admin listener.

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use portcullis::config::Loader;
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use tokio::net::TcpStream;

pub const DEFAULT_ADMIN: &str = "http://127.0.0.1:9090";

/// Of an answer: the longest listing, with room. More is not from a gateway.
const MAX_ANSWER: usize = 8 << 20;

pub enum Answer {
    Known(Value),
    /// There is none; with what the gateway says of it.
    Unknown(String),
    /// The question is none; with what is wrong with it.
    Unreadable(String),
}

pub fn place(url: &str) -> Result<String, String> {
    let refuse = || format!("`{url}` is not the address of an admin listener; write one such as {DEFAULT_ADMIN}");
    let uri: Uri = url.parse().map_err(|_| refuse())?;
    let authority = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(refuse)?;
    if uri.scheme_str() != Some("http") || uri.path() != "/" || uri.query().is_some() {
        return Err(refuse());
    }
    Ok(format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80)))
}

pub fn configured(path: &Path) -> Result<(String, Option<PathBuf>), String> {
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

pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What the gateway says of a path: the status and the JSON, if it is that.
pub async fn ask(place: &str, path: &str, token: Option<&str>) -> Result<Answer, Failure> {
    let stream = TcpStream::connect(place).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut request = Request::get(path).header(header::HOST, place);
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
        (StatusCode::OK, Some(value)) => Ok(Answer::Known(value)),
        // Anything may answer so; only a gateway says why.
        (StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST, Some(value)) if value["error"].is_string() => {
            let message = value["error"].as_str().unwrap_or_default().to_owned();
            Ok(if status == StatusCode::NOT_FOUND { Answer::Unknown(message) } else { Answer::Unreadable(message) })
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
