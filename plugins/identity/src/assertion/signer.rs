//! What the gateway signs its assertions with.

use super::TYPE;
use crate::jwks;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis_plugin::units::TimeSpan;
use portcullis_plugin::{CertificateFacts, ConfigError, DecisionId, Env, Principal};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A token that is about to end, or lives on leeway, still gives a service this long.
const SHORTEST: u64 = 5;

/// How the gateway signs who is calling, for routes with `signed_identity`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AssertionConfig {
    /// What stands in `iss`, and what services expect there: a URL of this gateway.
    pub issuer: String,
    /// Private keys, each a file with PKCS#8 in PEM: EC P-256 (ES256) or Ed25519 (EdDSA). The first signs; all are published.
    /// To change keys, add the new one at the end, put it first once services have fetched it, and remove the old one when
    /// its last assertion has ended. The files are watched.
    pub keys: Vec<String>,
    /// How long an assertion is good for, from 5s to 5m. Never longer than the caller's credential. Default: 60s.
    #[serde(default = "default_lifetime")]
    pub lifetime: TimeSpan,
}

fn default_lifetime() -> TimeSpan {
    TimeSpan::secs(60)
}

/// Signs assertions, and says with which keys they are verified.
pub struct AssertionSigner {
    issuer: Box<str>,
    lifetime: u64,
    key: SigningKey,
    /// The header of every assertion, encoded, with the dot.
    header: String,
    jwks: Arc<[u8]>,
}

/// What an assertion states of one request.
pub struct Statement<'a> {
    pub audience: &'a str,
    pub route: &'a str,
    pub method: &'a str,
    pub decision: DecisionId,
    pub now: SystemTime,
    pub principal: &'a Principal,
    pub certificate: Option<&'a CertificateFacts>,
    /// The claims of the caller's credential that the service is to have.
    pub claims: &'a [String],
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the assertion could not be signed")]
pub struct SigningFailed;

enum SigningKey {
    Es256(EcdsaKeyPair),
    EdDsa(Ed25519KeyPair),
}

#[derive(Serialize)]
struct Payload<'a> {
    iss: &'a str,
    aud: &'a str,
    sub: &'a str,
    iat: u64,
    exp: u64,
    jti: &'a str,
    route: &'a str,
    method: &'a str,
    /// How the caller was verified.
    auth: &'a str,
    /// Who vouches for `sub`: it is unique only together with this.
    #[serde(skip_serializing_if = "Option::is_none")]
    idp: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<&'a str>,
    #[serde(skip_serializing_if = "String::is_empty")]
    scope: String,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    roles: &'a [Arc<str>],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    groups: &'a [Arc<str>],
    #[serde(skip_serializing_if = "Option::is_none")]
    cert_sha256: Option<&'a str>,
    /// In an object of its own, so that no claim of a credential can pose as one of the gateway.
    #[serde(skip_serializing_if = "Map::is_empty")]
    claims: Map<String, Value>,
}

impl AssertionSigner {
    /// # Errors
    /// If a key cannot be read or used. The path of an error starts with `assertion`.
    pub fn compile(config: &AssertionConfig, env: &Env) -> Result<Self, ConfigError> {
        Self::read(config, env).map_err(|error| error.at("assertion"))
    }

    fn read(config: &AssertionConfig, env: &Env) -> Result<Self, ConfigError> {
        let AssertionConfig { issuer, keys, lifetime } = config;
        if issuer.trim() != issuer || issuer.is_empty() {
            return Err(ConfigError::new("the issuer is empty, or has spaces around it").at("issuer"));
        }
        let span = lifetime.get();
        if span < Duration::from_secs(SHORTEST) || span > Duration::from_secs(300) {
            return Err(ConfigError::new(format!("an assertion is good for 5s to 5m, not for {lifetime}")).at("lifetime"));
        }
        let mut loaded = Vec::new();
        for (at, path) in keys.iter().enumerate() {
            let (key, jwk) = SigningKey::load(path, env).map_err(|error| error.at(at).at("keys"))?;
            if loaded.iter().any(|(_, known): &(SigningKey, Value)| known["kid"] == jwk["kid"]) {
                return Err(ConfigError::new(format!("{path} holds a key that is listed before")).at(at).at("keys"));
            }
            loaded.push((key, jwk));
        }
        let published: Vec<Value> = loaded.iter().map(|(_, jwk)| jwk.clone()).collect();
        let (key, jwk) = loaded.into_iter().next().ok_or_else(|| {
            ConfigError::new("no key to sign with")
                .help("make one: openssl genpkey -algorithm ed25519 -out assertion.pem")
                .at("keys")
        })?;
        let header = json!({ "alg": jwk["alg"], "kid": jwk["kid"], "typ": TYPE }).to_string();
        Ok(Self {
            issuer: issuer.as_str().into(),
            lifetime: span.as_secs(),
            key,
            header: format!("{}.", URL_SAFE_NO_PAD.encode(header)),
            jwks: json!({ "keys": published }).to_string().into_bytes().into(),
        })
    }

    /// The public halves of all keys, as a JWK Set (RFC 7517).
    pub fn jwks(&self) -> &Arc<[u8]> {
        &self.jwks
    }

    /// The compact JWT.
    ///
    /// # Errors
    /// If the system gives no random bytes.
    pub fn sign(&self, statement: &Statement<'_>) -> Result<String, SigningFailed> {
        let principal = statement.principal;
        let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let now = seconds(statement.now);
        let ends = principal.expires_at.map_or(u64::MAX, seconds);
        let chosen = statement.claims.iter().filter_map(|name| Some((name.clone(), principal.claims.get(name)?.clone())));
        let payload = Payload {
            iss: &self.issuer,
            aud: statement.audience,
            sub: &principal.subject,
            iat: now,
            exp: ends.clamp(now + SHORTEST, now + self.lifetime),
            jti: statement.decision.as_str(),
            route: statement.route,
            method: statement.method,
            auth: principal.method,
            idp: principal.issuer.as_deref(),
            client_id: principal.client_id.as_deref(),
            scope: principal.scopes.join(" "),
            roles: &principal.roles,
            groups: &principal.groups,
            cert_sha256: statement.certificate.map(|facts| facts.sha256.as_str()),
            claims: chosen.collect(),
        };
        let payload = serde_json::to_vec(&payload).map_err(|_| SigningFailed)?;
        let mut token = self.header.clone();
        URL_SAFE_NO_PAD.encode_string(payload, &mut token);
        let signature = self.key.sign(token.as_bytes())?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
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

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SigningFailed> {
        match self {
            Self::EdDsa(key) => Ok(key.sign(message).as_ref().to_vec()),
            Self::Es256(key) => {
                key.sign(&SystemRandom::new(), message).map(|signature| signature.as_ref().to_vec()).map_err(|_| SigningFailed)
            }
        }
    }
}
