//! For those who operate the gateway: the admin listener, the logs, and how it stops.

use portcullis_plugin::units::TimeSpan;
use schemars::JsonSchema;
use serde::Deserialize;
use std::net::SocketAddr;

/// The listener for operators: `/metrics`, `/decisions`, `/jwks`, `/revocations`, `/healthz`, `/readyz`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// A loopback address needs no authentication; any other needs `token_file`.
    pub address: SocketAddr,
    /// A file whose first line is the bearer token that everything but the probes asks for.
    pub token_file: Option<String>,
    /// How many of the latest refused requests are kept in memory, with the checks that refused them, for `/decisions`
    /// and `portcullis why`; and as many again of those that a filter in shadow mode would have refused. Each takes up to
    /// about 10KiB. 0 keeps none; at most 100000. Default: 1000.
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
    /// What each line says of the caller beside `sub`, `issuer` and `method`, in its member `principal`: `portcullis replay`
    /// can then decide by it. A list of more than 128 items or 2KiB is `null`, as groups are that the token leaves out.
    /// Default: nothing.
    #[serde(default)]
    pub principal: Vec<PrincipalMember>,
}

/// Of the caller, as the credential says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PrincipalMember {
    ClientId,
    Scopes,
    Roles,
    Groups,
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
