//! Tokens: the good ones of a test issuer, and every bad one that an attacker or a broken client would send.

use crate::error::Error;
pub use crate::keys::Alg;
use crate::keys::{Key, hmac_sha256};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
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
    pub fn sub(self, subject: &str) -> Self {
        self.claim("sub", subject)
    }

    #[must_use]
    pub fn aud(self, audience: &str) -> Self {
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

/// A key per family, made when first needed.
struct Generation {
    /// What the key ids end in.
    label: usize,
    keys: BTreeMap<Family, std::sync::Arc<Key>>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    Rsa,
    P256,
    P384,
    Ed25519,
}

impl From<Alg> for Family {
    fn from(alg: Alg) -> Self {
        match alg {
            Alg::Rs256 | Alg::Ps256 => Self::Rsa,
            Alg::Es256 => Self::P256,
            Alg::Es384 => Self::P384,
            Alg::EdDsa => Self::Ed25519,
        }
    }
}

impl Generation {
    fn new(label: usize) -> Self {
        Self { label, keys: BTreeMap::new() }
    }

    fn key(&mut self, alg: Alg) -> Result<std::sync::Arc<Key>, Error> {
        if let Some(key) = self.keys.get(&alg.into()) {
            return Ok(std::sync::Arc::clone(key));
        }
        let key = std::sync::Arc::new(Key::generate(alg)?);
        self.keys.insert(alg.into(), std::sync::Arc::clone(&key));
        Ok(key)
    }

    fn kid(&self, alg: Alg) -> String {
        format!("{}-{}", alg.as_str().to_ascii_lowercase(), self.label)
    }
}

struct Keys {
    generations: Vec<Generation>,
    /// The oldest generation that is still published.
    oldest: usize,
    foreign: Generation,
}

/// Issues tokens and knows its own keys. No socket: [`Provider`](crate::Provider) puts one in front.
pub struct TokenIssuer {
    issuer: String,
    audience: String,
    algs: Vec<Alg>,
    keys: Mutex<Keys>,
}

impl TokenIssuer {
    /// With keys for every algorithm.
    pub fn new(issuer: &str) -> Self {
        Self::with(issuer, AUDIENCE, Alg::ALL)
    }

    /// `audience` is what tokens have that name none; `algs` is what it publishes keys for.
    pub fn with(issuer: &str, audience: &str, algs: &[Alg]) -> Self {
        let keys = Keys { generations: vec![Generation::new(0)], oldest: 0, foreign: Generation::new(0) };
        Self { issuer: issuer.to_owned(), audience: audience.to_owned(), algs: algs.to_vec(), keys: Mutex::new(keys) }
    }

    /// The issuer's identifier.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    pub fn audience(&self) -> &str {
        &self.audience
    }

    pub fn algs(&self) -> &[Alg] {
        &self.algs
    }

    /// The key id that tokens of this algorithm have at present.
    pub fn kid(&self, alg: Alg) -> String {
        self.lock().generations.last().map_or_else(String::new, |newest| newest.kid(alg))
    }

    /// Changes the keys.
    pub fn rotate(&self, rotation: Rotation) {
        let mut keys = self.lock();
        let next = keys.generations.len();
        let label = match rotation {
            Rotation::SameKid => keys.generations.last().map_or(0, |newest| newest.label),
            Rotation::Overlap | Rotation::HardCut => next,
        };
        keys.generations.push(Generation::new(label));
        if rotation != Rotation::Overlap {
            keys.oldest = next;
        }
    }

    /// The JSON Web Key Set, newest keys first.
    ///
    /// # Errors
    /// If a key cannot be made.
    pub fn jwks(&self) -> Result<Value, Error> {
        let mut keys = self.lock();
        let oldest = keys.oldest;
        let mut set = Vec::new();
        for generation in keys.generations.iter_mut().skip(oldest).rev() {
            for alg in &self.algs {
                let kid = generation.kid(*alg);
                set.push(generation.key(*alg)?.jwk(*alg, &kid));
            }
        }
        Ok(json!({ "keys": set }))
    }

    /// The public half of the key that [`SignWith::Foreign`] signs with.
    ///
    /// # Errors
    /// If a key cannot be made.
    pub fn foreign_jwk(&self, alg: Alg) -> Result<Value, Error> {
        Ok(self.lock().foreign.key(alg)?.jwk(alg, "foreign"))
    }

    /// The public half of the key that signs at present, as PEM.
    ///
    /// # Errors
    /// If a key cannot be made.
    pub fn public_pem(&self, alg: Alg) -> Result<String, Error> {
        let (key, _) = self.signer(&TokenSpec::new().alg(alg))?;
        key.public_pem()
    }

    /// Makes the token, however wrong.
    ///
    /// # Errors
    /// If a key cannot be made, or there is no such generation.
    pub fn issue(&self, spec: &TokenSpec) -> Result<String, Error> {
        let (key, kid) = self.signer(spec)?;
        let says = match spec.sign_with {
            SignWith::Current | SignWith::Generation(_) | SignWith::Foreign => spec.alg.as_str(),
            SignWith::Nobody => "none",
            SignWith::PublicKeyPem | SignWith::PublicKeyDer | SignWith::Secret(_) => "HS256",
        };
        let mut header = Map::new();
        header.insert("alg".to_owned(), says.into());
        header.insert("typ".to_owned(), "at+jwt".into());
        header.insert("kid".to_owned(), kid.into());
        let mut header = Value::Object(overlay(header, &spec.header)).to_string().into_bytes();
        let mut payload = Value::Object(spec.payload(&self.issuer, &self.audience)).to_string().into_bytes();
        match &spec.tamper {
            Some(Tamper::Header(bytes)) => header.clone_from(bytes),
            Some(Tamper::Payload(bytes)) => payload.clone_from(bytes),
            _ => {}
        }

        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(&header), URL_SAFE_NO_PAD.encode(&payload));
        let signature = match &spec.sign_with {
            SignWith::Current | SignWith::Generation(_) | SignWith::Foreign => key.sign(spec.alg, message.as_bytes())?,
            SignWith::Nobody => Vec::new(),
            SignWith::PublicKeyPem => hmac_sha256(key.public_pem()?.as_bytes(), message.as_bytes()),
            SignWith::PublicKeyDer => hmac_sha256(&key.public_der()?, message.as_bytes()),
            SignWith::Secret(secret) => hmac_sha256(secret, message.as_bytes()),
        };
        Ok(assemble(spec, message, &payload, signature))
    }

    fn signer(&self, spec: &TokenSpec) -> Result<(std::sync::Arc<Key>, String), Error> {
        let mut keys = self.lock();
        let newest = keys.generations.len().saturating_sub(1);
        let at = if let SignWith::Generation(at) = spec.sign_with { at } else { newest };
        let generation = keys.generations.get_mut(at).ok_or(Error::Key("find one of that generation"))?;
        let kid = generation.kid(spec.alg);
        let key = match spec.sign_with {
            SignWith::Foreign => keys.foreign.key(spec.alg)?,
            _ => generation.key(spec.alg)?,
        };
        Ok((key, kid))
    }

    fn lock(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn assemble(spec: &TokenSpec, message: String, payload: &[u8], mut signature: Vec<u8>) -> String {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    match &spec.tamper {
        Some(Tamper::Subject) => {
            let mut claims: Value = serde_json::from_slice(payload).unwrap_or_default();
            claims["sub"] = "admin".into();
            let header = message.split('.').next().unwrap_or_default();
            return format!("{header}.{}.{}", encode(claims.to_string().as_bytes()), encode(&signature));
        }
        Some(Tamper::SignatureBit) => {
            if let Some(middle) = signature.len().checked_div(2).and_then(|at| signature.get_mut(at)) {
                *middle ^= 1;
            }
        }
        Some(Tamper::SignatureShort) => {
            signature.pop();
        }
        Some(Tamper::SignatureEmpty) => signature.clear(),
        Some(Tamper::SignatureZero) => signature = vec![0; spec.alg.signature_len()],
        Some(Tamper::ExtraPart) => return format!("{message}.{}.{}", encode(&signature), encode(b"more")),
        Some(Tamper::NoSignaturePart) => return message,
        Some(Tamper::Padded) => return format!("{message}=.{}==", encode(&signature)),
        Some(Tamper::Payload(_) | Tamper::Header(_)) | None => {}
    }
    format!("{message}.{}", encode(&signature))
}
