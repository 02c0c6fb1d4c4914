//! Where the gateway asks others, and whom it believes there: one rule for issuers and for every other service.
//!
//! Plain HTTP stays on this machine unless asked for, certificates are always verified, and redirects are followed by nobody.

use bytes::Bytes;
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::sync::Arc;
use std::time::Duration;
use url::{Host, Url};

/// How long a connection is kept for the next question. Servers close idle ones after five seconds and more.
const IDLE: Duration = Duration::from_secs(4);

/// To which hosts plain HTTP may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    LoopbackHttp,
    AnyHttp,
}

/// Why an address may not be asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AddressError {
    #[error("{} is plain HTTP to another machine", shown(.0))]
    Insecure(Url),
    #[error("{} is neither http nor https", shown(.0))]
    Scheme(Url),
    #[error("an address with a user or a password in it, at {}", shown(.0))]
    User(Url),
}

/// An address as it may stand in a log, a finding or an error: without what in it may be a secret.
pub fn shown(url: &Url) -> String {
    match url.host_str() {
        None => format!("{}:…", url.scheme()),
        Some(host) => {
            let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
            let query = if url.query().is_some() { "?…" } else { "" };
            format!("{}://{host}{port}{}{query}", url.scheme(), url.path())
        }
    }
}

/// Why a bundle of CAs cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TrustError {
    #[error("no certificate in it")]
    Empty,
    #[error("{0}")]
    Unreadable(String),
}

/// A client that follows no redirects and has no deadline of its own. Cheap to clone.
pub type HttpClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Whether `url` may be asked at all.
///
/// # Errors
/// If not; the error names the address, without user and query.
pub fn allowed(url: &Url, trust: Trust) -> Result<(), AddressError> {
    // It would be sent to nobody, for the client that asks leaves it out; and addresses are told in hints and logs.
    if !url.username().is_empty() || url.password().is_some() {
        return Err(AddressError::User(url.clone()));
    }
    match url.scheme() {
        "https" => Ok(()),
        "http" if trust == Trust::AnyHttp || is_loopback(url) => Ok(()),
        "http" => Err(AddressError::Insecure(url.clone())),
        _ => Err(AddressError::Scheme(url.clone())),
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.to_canonical().is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// With HTTP/2 where the server offers it, and up to `idle` connections kept for the next question. `roots` is a PEM
/// bundle; without it, the public CAs.
///
/// # Errors
/// If `roots` gives no certificates.
pub fn client(idle: usize, roots: Option<&[u8]>) -> Result<HttpClient, TrustError> {
    let connector = secure(roots)?.https_or_http().enable_http1().enable_http2().build();
    Ok(Client::builder(TokioExecutor::new()).pool_max_idle_per_host(idle).pool_idle_timeout(IDLE).build(connector))
}

/// As [`client`], with HTTP/1.1 alone, one question at a time on each connection, and heads of answers up to `head` bytes.
///
/// # Errors
/// As [`client`].
pub fn http1_client(idle: usize, roots: Option<&[u8]>, head: usize) -> Result<HttpClient, TrustError> {
    let connector = secure(roots)?.https_or_http().enable_http1().build();
    let mut builder = Client::builder(TokioExecutor::new());
    builder.pool_max_idle_per_host(idle).pool_idle_timeout(IDLE).http1_max_buf_size(head);
    Ok(builder.build(connector))
}

/// As [`client`], with HTTP/2 alone, and heads of answers up to `head` bytes: over TLS the server has to agree to it, without
/// TLS it has to know. Questions share a connection.
///
/// # Errors
/// As [`client`].
pub fn http2_client(roots: Option<&[u8]>, head: u32) -> Result<HttpClient, TrustError> {
    let mut connector = HttpConnector::new();
    // For the https that is built upon it.
    connector.enforce_http(false);
    // A question is several small frames, and none of them waits for the other side to acknowledge the one before.
    connector.set_nodelay(true);
    let connector = secure(roots)?.https_or_http().enable_http2().wrap_connector(connector);
    let mut builder = Client::builder(TokioExecutor::new());
    builder.http2_only(true).pool_idle_timeout(IDLE).http2_max_header_list_size(head);
    Ok(builder.build(connector))
}

fn secure(roots: Option<&[u8]>) -> Result<HttpsConnectorBuilder<hyper_rustls::builderstates::WantsSchemes>, TrustError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let unreadable = |error: rustls::Error| TrustError::Unreadable(error.to_string());
    match roots {
        None => HttpsConnectorBuilder::new().with_provider_and_webpki_roots(provider).map_err(unreadable),
        Some(pem) => {
            let config = rustls::ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .map_err(unreadable)?
                .with_root_certificates(root_store(pem)?)
                .with_no_client_auth();
            Ok(HttpsConnectorBuilder::new().with_tls_config(config))
        }
    }
}

fn root_store(pem: &[u8]) -> Result<rustls::RootCertStore, TrustError> {
    let mut store = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| TrustError::Unreadable(error.to_string()))?;
        store.add(certificate).map_err(|error| TrustError::Unreadable(error.to_string()))?;
    }
    if store.is_empty() { Err(TrustError::Empty) } else { Ok(store) }
}

/// The cause that says something: hyper's outer errors only say "client error (Connect)".
pub fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_address_has_a_user_and_none_is_shown_with_what_may_be_a_secret() {
        for url in ["https://bob:s3cret@sso.example.com/a", "https://bob@a.example/", "http://:s3cret@127.0.0.1/?k=s3cret"] {
            let refused = allowed(&url.parse().unwrap(), Trust::AnyHttp).unwrap_err();
            assert!(matches!(refused, AddressError::User(_)) && !refused.to_string().contains("s3cret"), "{refused}");
        }
        for (url, expected) in [
            ("https://bob:s3cret@a.example:8443/jwks?api_key=s3cret#s3cret", "https://a.example:8443/jwks?…"),
            ("http://[::1]:80/jwks", "http://[::1]/jwks"),
            ("data:s3cret", "data:…"),
        ] {
            assert_eq!(shown(&url.parse().unwrap()), expected);
        }
    }

    #[test]
    fn plain_http_stays_on_this_machine() {
        for url in
            ["https://sso.example.com/", "http://127.0.0.1:9400", "http://[::1]/", "http://localhost:80/x", "http://127.8.8.8/"]
        {
            assert!(allowed(&url.parse().unwrap(), Trust::LoopbackHttp).is_ok(), "{url}");
        }
        for url in [
            "http://sso.example.com/",
            "http://10.0.0.1/",
            "http://localhost.example.com/",
            "ftp://localhost/",
            "file:///etc/passwd",
        ] {
            assert!(allowed(&url.parse().unwrap(), Trust::LoopbackHttp).is_err(), "{url}");
        }
        assert!(allowed(&"http://10.0.0.1/".parse().unwrap(), Trust::AnyHttp).is_ok());
        assert!(allowed(&"file:///etc/passwd".parse().unwrap(), Trust::AnyHttp).is_err());
    }
}
