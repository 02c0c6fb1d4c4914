//! The issuer behind a provider: its keys, their rotation, and tokens made with them.

use super::{AUDIENCE, Alg, Rotation, SignWith, Tamper, TokenSpec, overlay};
use crate::error::Error;
use crate::keys::{Key, hmac_sha256};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A key per family, made when first needed.
struct Generation {
    /// What the key ids end in.
    label: usize,
    keys: BTreeMap<Family, Arc<Key>>,
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

    fn key(&mut self, alg: Alg) -> Result<Arc<Key>, Error> {
        if let Some(key) = self.keys.get(&alg.into()) {
            return Ok(Arc::clone(key));
        }
        let key = Arc::new(Key::generate(alg)?);
        self.keys.insert(alg.into(), Arc::clone(&key));
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

    fn signer(&self, spec: &TokenSpec) -> Result<(Arc<Key>, String), Error> {
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
