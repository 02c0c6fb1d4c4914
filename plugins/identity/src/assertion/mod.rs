//! Assertions of the gateway: who is calling, as a short-lived JWT that services verify with the gateway's own keys.
//!
//! - [`signer`]: what the gateway signs with, and its key sets; [`keys`]: which key signs when; `reuse`: assertions that are
//!   sent again
//! - [`verifier`]: ten lines for a service

pub mod keys;
mod reuse;
pub mod signer;
#[cfg(test)]
mod tests;
pub mod verifier;

pub use keys::{AssertionKey, Moment};
pub use signer::{AssertionConfig, AssertionSigner, Purpose, Signed, SigningFailed, Statement};
pub use verifier::{Assertion, AssertionError, AssertionVerifier, AssertionVerifierBuilder};

/// The `typ` of an assertion: it can never pass for an access token, nor one for it.
pub const TYPE: &str = "portcullis-assertion+jwt";

/// The header that assertions are sent in, unless a route names another.
pub const HEADER: &str = "x-portcullis-assertion";
