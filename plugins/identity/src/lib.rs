//! Who is calling: issuers of tokens, their keys, the verification of tokens, and client certificates.
//!
//! In the order in which a token meets them:
//!
//! - [`config`]: what a configuration says about an issuer
//! - [`issuers`]: the issuers of a configuration, and the tasks that keep their keys fresh
//! - `jose`: a token's three parts, read strictly
//! - `tenants`: an issuer that stands for many
//! - `kind`: access tokens and others
//! - `claims`: each check of what a token says, and `hints`: what probably went wrong
//! - [`binding`] and [`dpop`]: tokens that only their sender may use (RFC 8705, RFC 9449)
//! - `store`: an issuer's keys, when to ask for them again, and how old they may be; on top of `fetch` (the one HTTP
//!   client of issuers, by the rules of [`outbound`]), `discovery`, `jwks` and `keyset` (what was answered), `keyfile` (for a restart), and `pace` (budgets and
//!   back-off)
//! - `introspection`: asking the issuer about a token, and `opaque`: the verdict on its answer
//! - [`verify`]: the verdict on a token, with the cache of verified ones, and `guesses`: whose they probably are
//! - [`revocation`]: tokens that are refused because somebody said so
//! - `mapping`: from claims to a principal
//! - `spoken`: times as findings tell them
//! - [`certificate`]: the verdict on a client certificate, with the names in it as RFC 4514 writes them
//!
//! And in the other direction: [`assertion`], with which the gateway tells services who is calling.
//!
//! Nothing here knows of the proxy. Nothing needs a process-wide TLS provider either: aws-lc-rs is named wherever one
//! is used.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod algorithm;
mod asking;
pub mod assertion;
pub mod binding;
mod cache;
pub mod certificate;
mod claims;
pub mod config;
mod discovery;
pub mod dpop;
mod fetch;
mod guesses;
mod hints;
mod introspection;
mod issuer_forms;
pub mod issuers;
mod jose;
mod jwks;
mod keyfile;
mod keyset;
mod kind;
mod mapping;
mod opaque;
pub mod outbound;
mod pace;
pub mod revocation;
mod settings;
mod spoken;
mod store;
mod tenants;
pub mod verify;
mod weak_rsa;

#[cfg(test)]
mod tests;

pub use algorithm::Algorithm;
pub use binding::Binding;
pub use config::{ClaimPaths, IntrospectionConfig, IssuerConfig, IssuerKind, TokenType};
pub use hints::nearest_issuer;
pub use issuer_forms::doubt;
pub use issuers::{Issuer, Issuers};
pub use kind::IdTokens;
pub use mapping::groups_unknown;
pub use revocation::{NotRevoked, Revocations, Revoked};
pub use verify::{Obtained, Verification, VerifiedToken};
