//! The configuration as it is written. These types *are* the reference: their doc comments become the schema's.
//!
//! Nothing is decided here. `compile` takes every struct apart field by field, so that a key added here and not
//! enforced there does not compile.

use super::filter_entry::FilterEntry;
use portcullis_identity::IssuerConfig;
use portcullis_identity::assertion::AssertionConfig;
use portcullis_plugin::units::{ByteSize, Network, OneOrMany, TimeSpan};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// The configuration of a Portcullis gateway.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// More files, read as if their content stood here. Relative to this file; `*` matches within a name.
    pub include: Vec<String>,
    /// Where clients connect.
    pub listeners: Vec<Listener>,
    /// Metrics and health for operators.
    pub admin: Option<Admin>,
    /// Networks of proxies in front. Their `X-Forwarded-For` is believed, walked from the right to the first address outside of
    /// them; and, on a listener with `client_cert`, the client certificates that they hand on. They must hold no clients.
    pub trusted_proxies: Vec<Network>,
    /// One JSON object a line for each request. Without it, no access log is written.
    pub access_log: Option<AccessLog>,
    /// Every refusal and every change of the gateway, as a chain of records that shows what was done to it. Without it, no
    /// audit log is written.
    pub audit_log: Option<AuditLog>,
    /// Who issues the tokens that routes accept, by a name of your choice.
    pub issuers: BTreeMap<String, IssuerConfig>,
    /// What the gateway signs with when it tells services who is calling (`signed_identity`).
    pub assertion: Option<AssertionConfig>,
    /// Groups of backends, by a name of your choice.
    pub pools: BTreeMap<String, Pool>,
    /// Which requests go where, and what is asked of them.
    pub routes: Vec<Route>,
    /// How the gateway stops.
    pub shutdown: Shutdown,
}

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

/// Bounds that protect the gateway from one client.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections at once. Default: 20000.
    pub connections: usize,
    /// Bytes of a request head. Default: 32KiB.
    pub header_bytes: ByteSize,
    /// Fields of a request head. Default: 100.
    pub header_fields: usize,
    /// Bytes of a request body; larger is 413. Default: no limit, bodies stream in constant memory.
    pub body: Option<ByteSize>,
    /// From the connection to the end of the TLS handshake, PROXY header included. Default: 10s.
    pub handshake_timeout: TimeSpan,
    /// From the first byte of a request head to its last; then 408. Default: 10s.
    pub header_timeout: TimeSpan,
    /// Between two requests of a connection. Default: 60s.
    pub idle_timeout: TimeSpan,
    /// Between two reads of a request body; then 408, or the end of the stream on HTTP/2. Also the longest silence of a
    /// client that streams (gRPC): raise it where such streams are idle. Default: 30s.
    pub body_timeout: TimeSpan,
    /// For one write of a response to a client that does not read. Default: 30s.
    pub write_timeout: TimeSpan,
    /// HTTP/2 streams at once on a connection. Default: 128.
    pub h2_streams: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            header_bytes: ByteSize(32 << 10),
            header_fields: 100,
            body: None,
            handshake_timeout: TimeSpan::secs(10),
            header_timeout: TimeSpan::secs(10),
            idle_timeout: TimeSpan::secs(60),
            body_timeout: TimeSpan::secs(30),
            write_timeout: TimeSpan::secs(30),
            h2_streams: 128,
        }
    }
}

/// What is done with spellings of a path that servers read differently. What remains is matched, and sent upstream.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Normalise {
    /// `/a/../b`. Default: `resolve`.
    pub dot_segments: DotSegments,
    /// `/a//b`. Default: `merge`.
    pub duplicate_slashes: DuplicateSlashes,
    /// `%2F` and `%5C`. Default: `refuse`.
    pub encoded_slashes: EncodedSlashes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DotSegments {
    #[default]
    Resolve,
    Refuse,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DuplicateSlashes {
    #[default]
    Merge,
    Keep,
    Refuse,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EncodedSlashes {
    #[default]
    Refuse,
    /// Sent on as they are, and never taken for a slash.
    Keep,
}

/// The listener for operators: `/metrics`, `/decisions`, `/revocations`, `/healthz`, `/readyz`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// A loopback address needs no authentication; any other needs `token_file`.
    pub address: SocketAddr,
    /// A file whose first line is the bearer token that everything but the probes asks for.
    pub token_file: Option<String>,
    /// How many of the latest refused requests are kept in memory, with the checks that refused them, for `/decisions`
    /// and `portcullis why`. Each takes up to about 10KiB. 0 keeps none; at most 100000. Default: 1000.
    #[serde(default = "default_decisions")]
    pub decisions: usize,
    /// Lets somebody say which tokens are revoked, with `POST /revocations`. Default: nobody may.
    pub revocations: Option<Revocations>,
}

/// Who may say that a token is revoked, and how much of that is remembered.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Revocations {
    /// A file whose first line is the secret, of at least 16 characters (`openssl rand -hex 32`), that whoever tells sends as
    /// the bearer token. It opens nothing else, and `token_file` does not open this.
    pub secret_file: String,
    /// How long a revocation is remembered whose token has no end that is known here: that of an opaque token, or one by
    /// `iss` and `jti` without `exp`. No shorter than such tokens live; 1h to 366d. Default: 24h.
    #[serde(default = "default_keep")]
    pub keep: TimeSpan,
    /// Revocations that are remembered. One more is not taken, and whoever tells is told so. Each takes about 150 bytes.
    /// 1 to 10000000. Default: 100000.
    #[serde(default = "default_max_entries")]
    pub max_entries: usize,
}

fn default_keep() -> TimeSpan {
    TimeSpan::secs(24 * 3600)
}

fn default_max_entries() -> usize {
    100_000
}

fn default_decisions() -> usize {
    1000
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AccessLog {
    /// A file, opened for appending and again on SIGHUP; or `-` for standard output.
    pub path: String,
    /// Lines that may wait for the disk. When it is full, lines are dropped and counted; requests never wait.
    /// Default: 8192.
    #[serde(default = "default_log_buffer")]
    pub buffer: usize,
}

fn default_log_buffer() -> usize {
    8192
}

/// The audit log: JSON lines, each with the hash of the one before. `portcullis audit verify` finds what was changed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditLog {
    /// A file, this gateway's alone: it is locked, and continued after a restart. On SIGHUP, one that was moved away is
    /// followed by a new one of the same chain.
    pub path: String,
    #[serde(default)]
    pub decisions: AuditDecisions,
    #[serde(default)]
    pub on_failure: AuditFailure,
    /// A file whose first line is a key of at least 32 characters (`openssl rand -hex 32`): records are sealed with
    /// HMAC-SHA256, so that whoever can write the log and not read the key cannot make a chain anew. Default: SHA-256
    /// without a key.
    pub key_file: Option<String>,
    /// Records that may wait for the disk, from 64 to 1048576. Default: 8192.
    #[serde(default = "default_log_buffer")]
    pub buffer: usize,
}

/// Which decisions are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AuditDecisions {
    /// Requests that were refused or failed.
    #[default]
    Denials,
    /// Every request.
    All,
}

/// What happens while records cannot be written: the disk is full, gone or too slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AuditFailure {
    /// Requests are refused with 503, `audit.unavailable`.
    #[default]
    Refuse,
    /// Requests go on; records that find no room are lost, and counted in the log and in `portcullis_audit_lost_total`.
    Drop,
}

/// A group of backends that serve the same thing.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    pub backends: Vec<Backend>,
    /// How a backend is chosen. Default: `round_robin`.
    #[serde(default)]
    pub balance: Balance,
    /// What `hash` hashes; required for it: `client`, `header.NAME` or `cookie.NAME`.
    pub hash_key: Option<String>,
    /// Active health checks. Without them a backend is taken for healthy.
    pub health: Option<Health>,
    #[serde(default)]
    pub timeouts: Timeouts,
    /// How often a request is tried on another backend: any request that could not be sent, and one that may be repeated
    /// (GET, HEAD, PUT, DELETE, OPTIONS) whose backend broke the connection before it answered. Default: 2.
    #[serde(default = "default_retries")]
    pub retries: usize,
    /// TLS to the backends. Without it, plain.
    pub tls: Option<UpstreamTls>,
    /// What is spoken to the backends. Default: `http/1.1`, with TLS whichever the backend prefers.
    #[serde(default)]
    pub protocol: Protocol,
    /// The `Host` sent to backends. Default: the client's.
    pub host: Option<String>,
    /// How often names of backends are resolved again. Default: 30s.
    #[serde(default = "default_resolve")]
    pub resolve_interval: TimeSpan,
    /// Idle connections are closed after this. Default: 60s.
    #[serde(default = "default_keepalive")]
    pub keepalive: TimeSpan,
}

fn default_retries() -> usize {
    2
}

fn default_resolve() -> TimeSpan {
    TimeSpan::secs(30)
}

fn default_keepalive() -> TimeSpan {
    TimeSpan::secs(60)
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    /// `host:port`. A name is resolved in the background; each of its addresses is a backend of this weight.
    pub address: String,
    /// Share of the requests, in proportion to the others'. 0 takes it out of service. Default: 1.
    #[serde(default = "default_weight")]
    pub weight: u32,
    /// Requests at once; more go elsewhere. Default: no limit.
    pub max_requests: Option<usize>,
}

fn default_weight() -> u32 {
    1
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// Smooth weighted round robin: exact shares, evenly interleaved.
    #[default]
    RoundRobin,
    /// The fewest requests in flight for its weight.
    LeastRequests,
    /// At random, by weight.
    Random,
    /// Consistent hashing (Ketama): the same key goes to the same backend; a change of backends moves few keys.
    Hash,
}

/// Active health checks of each backend.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// Ask over HTTP. Without it, a TCP connection (with TLS if the pool has it) is enough.
    pub http: Option<HttpCheck>,
    /// Default: 5s.
    #[serde(default = "default_check_interval")]
    pub interval: TimeSpan,
    /// For one check. Default: 2s.
    #[serde(default = "default_check_timeout")]
    pub timeout: TimeSpan,
    /// Passes in a row before a backend gets requests again. Default: 2.
    #[serde(default = "default_threshold")]
    pub healthy_after: u32,
    /// Failures in a row before it gets none. Default: 2.
    #[serde(default = "default_threshold")]
    pub unhealthy_after: u32,
    /// Whether a backend counts as healthy before its first check. Default: `healthy`.
    #[serde(default)]
    pub start: HealthStart,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HealthStart {
    #[default]
    Healthy,
    Unhealthy,
}

fn default_check_interval() -> TimeSpan {
    TimeSpan::secs(5)
}

fn default_check_timeout() -> TimeSpan {
    TimeSpan::secs(2)
}

fn default_threshold() -> u32 {
    2
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpCheck {
    /// Sent as `GET`. Any status from 200 to 399 passes, unless `status` says otherwise.
    pub path: String,
    /// The `Host` of the check. Default: the pool's `host`, else the backend's address.
    pub host: Option<String>,
    /// The statuses that pass. Default: 200 to 399.
    #[serde(default)]
    pub status: Vec<u16>,
    /// Another port than the backend's.
    pub port: Option<u16>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// For a connection to a backend, TLS included. Default: 2s.
    pub connect: TimeSpan,
    /// For one read from a backend. Default: 30s.
    pub read: TimeSpan,
    /// For one write to a backend. Default: 30s.
    pub write: TimeSpan,
    /// From the choice of a backend to the end of its response, retries included; not for WebSockets. Default: none.
    pub total: Option<TimeSpan>,
    /// For silence on a WebSocket connection, and for the answer to the request that asks for one; in place of `read`.
    /// Default: 1h.
    pub tunnel: TimeSpan,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: TimeSpan::secs(2),
            read: TimeSpan::secs(30),
            write: TimeSpan::secs(30),
            total: None,
            tunnel: TimeSpan::secs(3600),
        }
    }
}

/// TLS to backends. Their certificates are always verified.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamTls {
    /// PEM bundle of the CAs that backends' certificates must lead to. Default: the public CAs.
    pub ca: Option<String>,
    /// The name to ask for and to find in the certificate. Default: the host of the backend's address.
    pub server_name: Option<String>,
    /// A certificate for the gateway to present.
    pub client_certificate: Option<Certificate>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
pub enum Protocol {
    /// HTTP/1.1 on plain connections; on TLS, HTTP/2 if the backend offers it.
    #[default]
    #[serde(rename = "auto")]
    Auto,
    #[serde(rename = "http/1.1")]
    Http11,
    /// Also without TLS (h2c). gRPC needs it.
    #[serde(rename = "h2")]
    H2,
}

/// Which requests, what is asked of them, and where they go: exactly one of `pool`, `split`, `redirect` and `respond`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Unique; appears in metrics and logs.
    pub name: String,
    /// Without it, every request.
    #[serde(default, rename = "match")]
    pub matches: Match,
    /// The listeners it serves. Default: all.
    #[serde(default)]
    pub listeners: Vec<String>,
    /// Run in this order on the request, and in reverse on the response.
    #[serde(default)]
    pub filters: Vec<FilterEntry>,
    /// Send to this pool.
    pub pool: Option<String>,
    /// Share out between pools by weight.
    pub split: Option<Vec<Share>>,
    pub redirect: Option<Redirect>,
    pub respond: Option<Respond>,
}

/// All that are given must hold.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Match {
    /// Exact, or with a leading `*.` for one or more labels. Case and port do not matter.
    pub host: OneOrMany<String>,
    /// A prefix by whole segments: `/orders` matches `/orders` and `/orders/1`, not `/ordersX`.
    pub path: Option<String>,
    /// The whole path.
    pub path_exact: Option<String>,
    /// A regular expression for the whole path.
    pub path_regex: Option<String>,
    /// `GET` includes `HEAD`.
    pub methods: Vec<String>,
    /// Header name to exact value; `*` for any value.
    pub headers: BTreeMap<String, String>,
    /// Query parameter to exact value; `*` for any value.
    pub query: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Share {
    pub pool: String,
    pub weight: u32,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308. Default: 308.
    #[serde(default = "default_redirect")]
    pub status: u16,
    /// Default: the request's.
    pub scheme: Option<RedirectScheme>,
    /// Default: the request's.
    pub host: Option<String>,
    /// Default: none for `scheme`'s own port.
    pub port: Option<u16>,
    /// The whole path. Default: the request's.
    pub path: Option<String>,
    /// Default: true.
    #[serde(default = "default_true")]
    pub keep_query: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RedirectScheme {
    Http,
    Https,
}

fn default_redirect() -> u16 {
    308
}

fn default_true() -> bool {
    true
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Respond {
    /// 200 to 599.
    pub status: u16,
    #[serde(default)]
    pub body: String,
    /// Default: `text/plain; charset=utf-8`.
    pub content_type: Option<String>,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Shutdown {
    /// How long requests in flight may take after SIGTERM. Default: 30s.
    pub drain: TimeSpan,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { drain: TimeSpan::secs(30) }
    }
}
