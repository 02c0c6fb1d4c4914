//! Assertions of the gateway: who is calling, as a short-lived JWT that services verify with the gateway's own keys.
//!
//! - [`signer`]: what the gateway signs with, and its key set
//! - [`verifier`]: ten lines for a service

pub mod signer;
pub mod verifier;

pub use signer::{AssertionConfig, AssertionSigner, Statement};
pub use verifier::{Assertion, AssertionError, AssertionVerifier, AssertionVerifierBuilder};

/// The `typ` of an assertion: it can never pass for an access token, nor one for it.
pub const TYPE: &str = "portcullis-assertion+jwt";

/// The header that assertions are sent in, unless a route names another.
pub const HEADER: &str = "x-portcullis-assertion";
