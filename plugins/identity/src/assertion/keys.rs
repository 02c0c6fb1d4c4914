//! The keys that assertions are signed with: which is when.

use super::TYPE;
use crate::jwks;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis_plugin::{ConfigError, Env};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A private key, and when it signs: the path of its file, or a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssertionKey {
    pub file: String,
    pub from: Option<Moment>,
    pub until: Option<Moment>,
}

/// A key with its time.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DatedKey {
    /// The path of its file.
    file: String,
    /// It signs from then on, and is published before. Default: it may always.
    from: Option<Moment>,
    /// It signs until then, and is published for `overlap` more. Default: it may always.
    until: Option<Moment>,
}

impl From<&str> for AssertionKey {
    fn from(file: &str) -> Self {
        Self { file: file.to_owned(), from: None, until: None }
    }
}

impl<'de> Deserialize<'de> for AssertionKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = AssertionKey;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the path of a key's file, or `{ file: PATH, from: TIME, until: TIME }`")
            }

            fn visit_str<E: de::Error>(self, file: &str) -> Result<AssertionKey, E> {
                Ok(file.into())
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<AssertionKey, A::Error> {
                let DatedKey { file, from, until } = DatedKey::deserialize(MapAccessDeserializer::new(map))?;
                Ok(AssertionKey { file, from, until })
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for AssertionKey {
    fn schema_name() -> Cow<'static, str> {
        "AssertionKey".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let dated = generator.subschema_for::<DatedKey>();
        schemars::json_schema!({ "anyOf": [{ "type": "string" }, dated] })
    }
}

/// A point in time, in UTC to the second: `2026-12-01T00:00:00Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub SystemTime);

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_rfc3339_seconds(self.0).fmt(f)
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        let refuse = |_| de::Error::custom(format!("`{text}` is not a time in UTC; write one such as 2026-12-01T00:00:00Z"));
        humantime::parse_rfc3339(&text).map(Self).map_err(refuse)
    }
}

impl JsonSchema for Moment {
    fn schema_name() -> Cow<'static, str> {
        "Moment".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "format": "date-time", "description": "A time in UTC: 2026-12-01T00:00:00Z." })
    }
}

/// All keys, the ones to be preferred first.
pub(super) struct Schedule {
    keys: Vec<Key>,
    /// From when on which key set is published. The first holds since ever.
    published: Vec<(SystemTime, Arc<[u8]>)>,
}

pub(super) struct Key {
    signing: SigningKey,
    /// The header of its assertions, encoded, with the dot.
    pub header: String,
    jwk: Value,
    from: Option<Moment>,
    until: Option<Moment>,
}

impl Key {
    fn signs(&self, now: SystemTime) -> bool {
        self.from.is_none_or(|from| from.0 <= now) && self.until.is_none_or(|until| now < until.0)
    }

    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, super::SigningFailed> {
        self.signing.sign(message)
    }
}

impl Schedule {
    /// `overlap`: how long a key is published after it has signed for the last time.
    ///
    /// # Errors
    /// If a key cannot be used, or there is or will be a time at which none signs. Its path starts with the key's place in
    /// the list.
    pub fn load(keys: &[AssertionKey], overlap: Duration, now: SystemTime, env: &Env) -> Result<Self, ConfigError> {
        let mut loaded: Vec<Key> = Vec::new();
        for (at, AssertionKey { file, from, until }) in keys.iter().enumerate() {
            let key = Key::load(file, *from, *until, env).map_err(|error| error.at(at))?;
            if loaded.iter().any(|known| known.jwk["kid"] == key.jwk["kid"]) {
                return Err(ConfigError::new(format!("{file} holds a key that is listed before")).at(at));
            }
            loaded.push(key);
        }
        if loaded.is_empty() {
            return Err(ConfigError::new("no key to sign with").help(MAKE));
        }
        covered(&loaded, now)?;
        // A time past what the clock can say is never.
        let end = |key: &Key| key.until.and_then(|until| until.0.checked_add(overlap));
        let mut ends: Vec<SystemTime> = loaded.iter().filter_map(end).collect();
        ends.sort_unstable();
        ends.dedup();
        let published = std::iter::once(SystemTime::UNIX_EPOCH).chain(ends).map(|start| {
            let there: Vec<&Value> =
                loaded.iter().filter(|key| end(key).is_none_or(|end| end > start)).map(|key| &key.jwk).collect();
            (start, json!({ "keys": there }).to_string().into_bytes().into())
        });
        Ok(Self { published: published.collect(), keys: loaded })
    }

    /// The first of those whose time it is.
    pub fn signs(&self, now: SystemTime) -> Option<&Key> {
        self.keys.iter().find(|key| key.signs(now))
    }

    pub fn published(&self) -> &[(SystemTime, Arc<[u8]>)] {
        &self.published
    }
}

/// Sees to it that from now on some key signs at any time.
fn covered(keys: &[Key], now: SystemTime) -> Result<(), ConfigError> {
    let mut time = now;
    loop {
        let mut latest = time;
        let mut ends = keys.iter().filter(|key| key.signs(time)).map(|key| key.until);
        loop {
            match ends.next() {
                Some(None) => return Ok(()),
                Some(Some(until)) => latest = latest.max(until.0),
                None => break,
            }
        }
        if latest > time {
            time = latest;
            continue;
        }
        let next = keys.iter().filter_map(|key| key.from).filter(|from| from.0 > time).min();
        let when = if time == now { "now".to_owned() } else { format!("from {} on", Moment(time)) };
        return Err(match next {
            Some(next) => ConfigError::new(format!("no key signs {when}: the next does from {next}"))
                .help("let the key before sign until then, or later: give it another `until`, or none"),
            None => ConfigError::new(format!("no key signs {when}"))
                .help("the last key needs no `until`: it signs until another one takes its place"),
        });
    }
}

/// What to do about a key that cannot be used.
const MAKE: &str = "make one: openssl genpkey -algorithm ed25519 -out assertion.pem";

enum SigningKey {
    Es256(EcdsaKeyPair),
    EdDsa(Ed25519KeyPair),
}

impl Key {
    fn load(path: &str, from: Option<Moment>, until: Option<Moment>, env: &Env) -> Result<Self, ConfigError> {
        if let (Some(from), Some(until)) = (from, until)
            && until <= from
        {
            return Err(ConfigError::new(format!("it would sign until {until}, before it begins at {from}")).at("until"));
        }
        let (signing, jwk) = SigningKey::load(path, env)?;
        let header = json!({ "alg": jwk["alg"], "kid": jwk["kid"], "typ": TYPE }).to_string();
        Ok(Self { signing, header: format!("{}.", URL_SAFE_NO_PAD.encode(header)), jwk, from, until })
    }
}

impl SigningKey {
    fn load(path: &str, env: &Env) -> Result<(Self, Value), ConfigError> {
        let pem = env.read(path)?;
        let unusable = |what: &str| {
            ConfigError::new(format!("{path} {what}"))
                .help("a PKCS#8 key, P-256 or Ed25519: openssl genpkey -algorithm ed25519 -out FILE")
        };
        let der = PrivatePkcs8KeyDer::from_pem_slice(&pem)
            .map_err(|_| unusable("holds no private key in PEM (`BEGIN PRIVATE KEY`)"))?;
        let der = der.secret_pkcs8_der();
        let b64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let (key, mut jwk) = if let Ok(key) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
            let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": b64(key.public_key().as_ref()), "alg": "EdDSA" });
            (Self::EdDsa(key), jwk)
        } else if let Ok(key) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der) {
            // The uncompressed point: a 4, then both coordinates.
            let point = key.public_key().as_ref();
            let (x, y) =
                point.get(1..).and_then(|both| both.split_at_checked(32)).ok_or_else(|| unusable("is not a P-256 key"))?;
            let jwk = json!({ "kty": "EC", "crv": "P-256", "x": b64(x), "y": b64(y), "alg": "ES256" });
            (Self::Es256(key), jwk)
        } else {
            return Err(unusable("is neither a P-256 nor an Ed25519 key"));
        };
        let (_, thumbprint) = jwks::embedded(&jwk).map_err(unusable)?;
        jwk["kid"] = b64(&thumbprint).into();
        jwk["use"] = "sig".into();
        Ok((key, jwk))
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, super::SigningFailed> {
        match self {
            Self::EdDsa(key) => Ok(key.sign(message).as_ref().to_vec()),
            Self::Es256(key) => key
                .sign(&SystemRandom::new(), message)
                .map(|signature| signature.as_ref().to_vec())
                .map_err(|_| super::SigningFailed),
        }
    }
}
