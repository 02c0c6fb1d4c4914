//! Where clients connect.

use super::{Limits, Normalise};
use crate::config::filter_entry::FilterEntry;
use portcullis_plugin::units::{Network, OneOrMany};
use schemars::JsonSchema;
use serde::Deserialize;
use std::net::SocketAddr;

/// A socket that accepts connections.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Unique; appears in metrics and logs.
    pub name: String,
    /// Address and port, such as `0.0.0.0:8443`. Port 0 takes a free one.
    pub address: SocketAddr,
    /// Without it, the listener speaks plain HTTP.
    pub tls: Option<Tls>,
    /// Take clients' certificates from a header, on connections of `trusted_proxies` and on no others.
    pub client_cert: Option<ClientCert>,
    /// Expect a PROXY protocol header (version 1 or 2) from trusted peers.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// HTTP/2 without TLS, by prior knowledge. Default: false.
    #[serde(default)]
    pub h2c: bool,
    /// Which code carries requests to backends. Default: `auto`.
    #[serde(default)]
    pub driver: Driver,
    /// Filters for every request of this listener, before its route is chosen.
    #[serde(default)]
    pub filters: Vec<FilterEntry>,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub normalise: Normalise,
}

/// Two drivers carry requests to backends; what happens to a request is the same with both. There is no value that forces the
/// direct one: `auto` uses it for all that it can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Driver {
    /// The direct driver, which costs less, where the backend speaks HTTP/1; Pingora's for backends that may speak HTTP/2, upgrades
    /// and filters that look at bodies.
    #[default]
    Auto,
    /// Pingora's for everything.
    Pingora,
}

/// TLS of a listener: versions 1.2 and 1.3.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// At least one. The certificate is chosen by the server name the client asks for; the first is the fallback.
    pub certificates: Vec<Certificate>,
    /// Ask clients for a certificate.
    pub client_auth: Option<ClientAuth>,
    /// The lowest TLS version. Default: `1.2`.
    #[serde(default)]
    pub min_version: TlsVersion,
    /// The protocols offered, in order of preference. Default: `[h2, http/1.1]`.
    #[serde(default = "default_alpn")]
    pub alpn: Vec<Alpn>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
pub enum TlsVersion {
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    #[serde(rename = "1.3")]
    Tls13,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Alpn {
    #[serde(rename = "h2")]
    H2,
    #[serde(rename = "http/1.1")]
    Http11,
}

fn default_alpn() -> Vec<Alpn> {
    vec![Alpn::H2, Alpn::Http11]
}

/// A certificate chain and its private key, both PEM files. They are read again when they change.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// The chain, leaf first.
    pub cert: String,
    /// PKCS#8, PKCS#1 or SEC1.
    pub key: String,
}

/// Client certificates: whom to believe.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientAuth {
    /// PEM bundle of the CAs that may issue client certificates.
    pub ca: String,
    /// PEM or DER revocation lists. A CA of the bundle without a list is not checked for revocation.
    #[serde(default)]
    pub crl: OneOrMany<String>,
    #[serde(default)]
    pub mode: ClientAuthMode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuthMode {
    /// Ask every client. One without a certificate, or with one that does not verify, has no certificate identity; a
    /// route that needs one refuses with the reason.
    #[default]
    Request,
    /// A client without a valid certificate fails the handshake.
    Require,
}

/// Client certificates that a trusted proxy hands on. The proxy has ended TLS and says with the header that the client has
/// proven possession of the key; this gateway judges all else: chain, validity, revocation and names.
///
/// On a connection of a trusted proxy the header alone says who the client is. The certificate of that connection itself is the
/// proxy's, and is asked for by `tls.client_auth`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientCert {
    /// The header. The proxy must replace what clients send under that name, or append to it.
    pub from_header: CertificateHeader,
    /// PEM bundle of the CAs that may issue client certificates.
    pub ca: String,
    /// PEM or DER revocation lists. A CA of the bundle without a list is not checked for revocation.
    #[serde(default)]
    pub crl: OneOrMany<String>,
    /// Let such a certificate prove a token that is bound to it (`cnf`, RFC 8705): the proxy's word then stands for the
    /// handshake. Default: false, such tokens are refused.
    #[serde(default)]
    pub bound_tokens: bool,
}

/// How a proxy writes a client's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum CertificateHeader {
    /// `Client-Cert`, and `Client-Cert-Chain` for the intermediate certificates (RFC 9440).
    #[serde(rename = "client-cert")]
    ClientCert,
    /// Envoy's `X-Forwarded-Client-Cert`: `Cert` or `Chain` of its last element.
    #[serde(rename = "x-forwarded-client-cert")]
    Xfcc,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProxyProtocol {
    /// The peers that must send the header; every other peer is refused if it sends one, and served by its own address
    /// if not.
    pub trust: Vec<Network>,
}
