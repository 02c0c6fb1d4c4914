//! The configuration as it is written. These types *are* the reference: their doc comments become the schema's.
//!
//! Nothing is decided here. `compile` takes every struct apart field by field, so that a key added here and not
//! enforced there does not compile.

mod listener;
mod operate;
mod pool;
mod request;
mod route;

pub use listener::{
    Alpn, Certificate, CertificateHeader, ClientAuth, ClientAuthMode, ClientCert, Driver, Listener, ProxyProtocol, Tls,
    TlsVersion,
};
pub use operate::{AccessLog, Admin, AuditDecisions, AuditFailure, AuditLog, PrincipalMember, Revocations, Shutdown};
pub use pool::{Backend, Balance, Health, HealthStart, HttpCheck, Pool, Protocol, Timeouts, UpstreamTls};
pub use request::{DotSegments, DuplicateSlashes, EncodedSlashes, Limits, Normalise};
pub use route::{Match, Redirect, RedirectScheme, Respond, Route, Share};

use portcullis_identity::IssuerConfig;
use portcullis_identity::assertion::AssertionConfig;
use portcullis_plugin::units::Network;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;

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
