//! Tokens: the good ones of a test issuer, and every bad one that an attacker or a broken client would send.

mod issuer;

pub use crate::keys::Alg;
pub use issuer::TokenIssuer;
use serde_json::{Map, Value};
use std::time::{SystemTime, UNIX_EPOCH};

/// The audience of a token that names no other.
pub const AUDIENCE: &str = "https://api.example.test";

/// How the issuer changes its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// New keys sign from now on; the old ones stay published.
    Overlap,
    /// The old keys are gone at once.
    HardCut,
    /// The old keys are gone, and the new ones have their ids.
    SameKid,
}

/// Who signs a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignWith {
    /// The issuer's newest key.
    Current,
    /// The issuer's key of an earlier generation, counted from 0.
    Generation(usize),
    /// A key that the issuer has never seen.
    Foreign,
    /// Nobody: the third part is empty.
    Nobody,
    /// HMAC-SHA256 with the issuer's public key as PEM for a secret. Says `HS256`.
    PublicKeyPem,
    /// HMAC-SHA256 with the issuer's public key as DER for a secret. Says `HS256`.
    PublicKeyDer,
    /// HMAC-SHA256 with this secret. Says `HS256`.
    Secret(Vec<u8>),
}

/// What happens to a token after it was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tamper {
    /// `sub` becomes `admin` under the old signature.
    Subject,
    /// One bit of the signature flips.
    SignatureBit,
    /// The signature loses its last byte.
    SignatureShort,
    /// The third part is empty.
    SignatureEmpty,
    /// The signature is all zeros, which a careless ECDSA verifier accepts for every message.
    SignatureZero,
    /// A fourth part is appended.
    ExtraPart,
    /// Everything after the second part is cut off, the dot too.
    NoSignaturePart,
    /// The parts carry `=` padding.
    Padded,
    /// These bytes instead of the claims, under a valid signature.
    Payload(Vec<u8>),
    /// These bytes instead of the header, under a valid signature.
    Header(Vec<u8>),
}

/// A token to be issued. Without more: RS256, `sub` alice, valid from now for five minutes.
#[derive(Debug, Clone)]
pub struct TokenSpec {
    alg: Alg,
    at: SystemTime,
    expires_in: i64,
    not_before_in: i64,
    issued_in: i64,
    claims: Map<String, Value>,
    header: Map<String, Value>,
    sign_with: SignWith,
    tamper: Option<Tamper>,
}

impl Default for TokenSpec {
    fn default() -> Self {
        Self::new()
    }
}

impl TokenSpec {
    pub fn new() -> Self {
        Self {
            alg: Alg::Rs256,
            at: SystemTime::now(),
            expires_in: 300,
            not_before_in: 0,
            issued_in: 0,
            claims: Map::new(),
            header: Map::new(),
            sign_with: SignWith::Current,
            tamper: None,
        }
    }

    #[must_use]
    pub fn alg(mut self, alg: Alg) -> Self {
        self.alg = alg;
        self
    }

    /// The time that the offsets count from. Default: now.
    #[must_use]
    pub fn at(mut self, at: SystemTime) -> Self {
        self.at = at;
        self
    }

    #[must_use]
    pub fn subject(self, subject: &str) -> Self {
        self.claim("sub", subject)
    }

    #[must_use]
    pub fn audience(self, audience: &str) -> Self {
        self.claim("aud", audience)
    }

    /// Scopes, separated by spaces.
    #[must_use]
    pub fn scope(self, scope: &str) -> Self {
        self.claim("scope", scope)
    }

    #[must_use]
    pub fn roles(self, roles: &[&str]) -> Self {
        self.claim("roles", roles)
    }

    #[must_use]
    pub fn groups(self, groups: &[&str]) -> Self {
        self.claim("groups", groups)
    }

    /// Sets a claim, whichever.
    #[must_use]
    pub fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.claims.insert(name.to_owned(), value.into());
        self
    }

    /// Leaves a claim out.
    #[must_use]
    pub fn without(self, name: &str) -> Self {
        self.claim(name, Value::Null)
    }

    /// Sets a member of the header, whichever.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.header.insert(name.to_owned(), value.into());
        self
    }

    /// Leaves a member of the header out.
    #[must_use]
    pub fn without_header(self, name: &str) -> Self {
        self.header(name, Value::Null)
    }

    #[must_use]
    pub fn kid(self, kid: &str) -> Self {
        self.header("kid", kid)
    }

    /// `exp`, in seconds from [`at`](Self::at); negative for the past.
    #[must_use]
    pub fn expires_in(mut self, seconds: i64) -> Self {
        self.expires_in = seconds;
        self
    }

    /// `nbf`, likewise.
    #[must_use]
    pub fn not_before_in(mut self, seconds: i64) -> Self {
        self.not_before_in = seconds;
        self
    }

    /// `iat`, likewise.
    #[must_use]
    pub fn issued_in(mut self, seconds: i64) -> Self {
        self.issued_in = seconds;
        self
    }

    #[must_use]
    pub fn sign_with(mut self, signer: SignWith) -> Self {
        self.sign_with = signer;
        self
    }

    #[must_use]
    pub fn tamper(mut self, tamper: Tamper) -> Self {
        self.tamper = Some(tamper);
        self
    }

    fn payload(&self, issuer: &str, audience: &str) -> Map<String, Value> {
        let at = self.at.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
        let mut claims = Map::new();
        claims.insert("iss".to_owned(), issuer.into());
        claims.insert("sub".to_owned(), "alice".into());
        claims.insert("aud".to_owned(), audience.into());
        claims.insert("iat".to_owned(), at.saturating_add(self.issued_in).into());
        claims.insert("nbf".to_owned(), at.saturating_add(self.not_before_in).into());
        claims.insert("exp".to_owned(), at.saturating_add(self.expires_in).into());
        overlay(claims, &self.claims)
    }
}

/// Null takes a member away.
fn overlay(mut base: Map<String, Value>, over: &Map<String, Value>) -> Map<String, Value> {
    for (name, value) in over {
        base.insert(name.clone(), value.clone());
    }
    base.retain(|_, value| !value.is_null());
    base
}
