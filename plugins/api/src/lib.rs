//! The filter API of Portcullis: everything a filter needs, and nothing of the gateway that runs it.
//!
//! A filter looks at a request on its way in and at the response on its way out, and answers each with a
//! [`Verdict`]. It knows neither sockets nor the proxy library, so it is tested without either (see
//! `portcullis-testkit`).
//!
//! In the order in which a request meets them:
//!
//! - [`connection`]: what is known before the first byte of HTTP: peer, client address, TLS, certificate
//! - [`head`] and [`headers`]: the request and the response head, already normalised
//! - [`exchange`]: the facts that cross stages, and the checks made so far
//! - [`principal`] and [`attribute`]: who is calling, and how configuration names a fact about them
//! - [`filter`]: the [`Filter`] and [`Build`] traits, and the table entry made from them
//! - [`verdict`] and [`reason`]: what a filter answers, and the stable code that says why
//! - [`env`](mod@env): what a filter may ask for while it is built
//! - [`error`]: what is wrong with a configuration, and where
//! - [`units`]: quantities as configurations write them
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod attribute;
pub mod body;
pub mod connection;
pub mod env;
pub mod error;
pub mod exchange;
pub mod filter;
pub mod head;
pub mod headers;
pub mod id;
pub mod principal;
pub mod reason;
mod recycle;
pub mod units;
pub mod verdict;

pub use attribute::Attribute;
pub use body::{Body, BodyAccess};
pub use connection::{CertificateFacts, CertificateOrigin, CertificateRefusal, CertificateStatus, Connection, TlsFacts};
pub use env::Env;
pub use error::ConfigError;
pub use exchange::{Check, Exchange, Finding, Shadowed};
pub use filter::{Build, Credential, Filter, FilterFactory, FilterTable, Mode, Needs};
pub use head::{Method, RequestHead, ResponseHead, Scheme, Version};
pub use headers::{HeaderError, Headers};
pub use id::DecisionId;
pub use principal::Principal;
pub use reason::ReasonCode;
pub use recycle::driver_text;
pub use verdict::{Denial, FilterError, Reply, Resume, Verdict};

/// The metrics library whose handles [`Env`] gives out, re-exported so that a filter uses the same version.
pub use prometheus;
/// Derives the part of the JSON Schema and of the reference that describes a filter's configuration.
pub use schemars;
/// Reads a filter's configuration; with `#[serde(crate = "…")]` a filter needs no dependency of its own for it.
pub use serde;
