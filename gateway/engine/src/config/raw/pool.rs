//! Where requests are sent.

use super::Certificate;
use portcullis_plugin::units::TimeSpan;
use schemars::JsonSchema;
use serde::Deserialize;

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
    /// (GET, HEAD, PUT, DELETE, OPTIONS) whose backend broke the connection before it answered. A kept connection that a backend closed just as it was
    /// used is no failure, and not counted. Default: 2.
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
