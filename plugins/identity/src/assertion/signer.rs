//! What the gateway signs its assertions with.

use super::keys::{AssertionKey, Schedule};
use super::reuse::Reuse;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis_plugin::units::TimeSpan;
use portcullis_plugin::{CertificateFacts, ConfigError, DecisionId, Env, Method, Principal};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A token that is about to end, or lives on leeway, still gives a service this long.
const SHORTEST: u64 = 5;

/// How the gateway signs who is calling, for routes with `signed_identity`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AssertionConfig {
    /// What stands in `iss`, and what services expect there: a URL of this gateway.
    pub issuer: String,
    /// Private keys, each a file with PKCS#8 in PEM: EC P-256 (ES256) or Ed25519 (EdDSA). Of those whose time it is, the
    /// first signs; all are published, but for those whose `until` is longer ago than `overlap`. To change keys, put the new
    /// one first, with a `from` that leaves services the time to fetch it. The files are watched.
    pub keys: Vec<AssertionKey>,
    /// How long a key is published after its `until`: at least `lifetime` and 5s, for assertions that it has signed.
    /// Default: 10m.
    #[serde(default = "default_overlap")]
    pub overlap: TimeSpan,
    /// How long an assertion is good for, from 5s to 5m. Never longer than the caller's credential. Default: 60s.
    #[serde(default = "default_lifetime")]
    pub lifetime: TimeSpan,
    /// How long an assertion may be sent again, with further requests of the same token or API key to the same service,
    /// route and method: from 1s to half of `lifetime`. Its `jti` and `iat` are then those of the first request, so a
    /// service must not use `jti` to tell a repeated request. Default: each request has one of its own.
    pub reuse: Option<TimeSpan>,
}

fn default_overlap() -> TimeSpan {
    TimeSpan::secs(600)
}

fn default_lifetime() -> TimeSpan {
    TimeSpan::secs(60)
}

/// Between the clocks of two machines that are looked after.
const LEEWAY: u64 = 5;

/// Signs assertions, and says with which keys they are verified.
pub struct AssertionSigner {
    issuer: Box<str>,
    lifetime: u64,
    keys: Schedule,
    reuse: Option<Reuse>,
    purposes: AtomicU32,
}

/// What a route makes assertions for.
pub struct Purpose {
    pub(super) number: u32,
    audience: Box<str>,
    claims: Vec<String>,
}

/// What an assertion states of one request.
pub struct Statement<'a> {
    pub purpose: &'a Purpose,
    pub route: Option<&'a Arc<str>>,
    pub method: &'a Method,
    pub decision: DecisionId,
    pub now: SystemTime,
    pub principal: &'a Arc<Principal>,
    pub certificate: Option<&'a CertificateFacts>,
}

/// An assertion for one request: made for it, or for one before.
#[derive(Debug)]
pub enum Signed {
    New(String),
    Again(Arc<str>),
}

impl std::ops::Deref for Signed {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::New(text) => text,
            Self::Again(text) => text,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the assertion could not be signed")]
pub struct SigningFailed;

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
    /// If a key cannot be read or used, or none signs at some time. The path of an error starts with `assertion`.
    pub fn compile(config: &AssertionConfig, env: &Env) -> Result<Self, ConfigError> {
        Self::compile_at(config, env, SystemTime::now())
    }

    /// As [`compile`](Self::compile), at another time.
    ///
    /// # Errors
    /// As [`compile`](Self::compile).
    pub fn compile_at(config: &AssertionConfig, env: &Env, now: SystemTime) -> Result<Self, ConfigError> {
        Self::read(config, env, now).map_err(|error| error.at("assertion"))
    }

    fn read(config: &AssertionConfig, env: &Env, now: SystemTime) -> Result<Self, ConfigError> {
        let AssertionConfig { issuer, keys, overlap, lifetime, reuse } = config;
        if issuer.trim() != issuer || issuer.is_empty() {
            return Err(ConfigError::new("the issuer is empty, or has spaces around it").at("issuer"));
        }
        let span = lifetime.get();
        if span < Duration::from_secs(SHORTEST) || span > Duration::from_secs(300) {
            return Err(ConfigError::new(format!("an assertion is good for 5s to 5m, not for {lifetime}")).at("lifetime"));
        }
        if overlap.get() < span + Duration::from_secs(LEEWAY) {
            let text = format!("assertions are good for {lifetime}, and their key would be published for {overlap} only");
            let help = format!("at least {}s: `lifetime`, and {LEEWAY}s for clocks that differ", span.as_secs() + LEEWAY);
            return Err(ConfigError::new(text).help(help).at("overlap"));
        }
        if let Some(reuse) = reuse
            && (reuse.get() < Duration::from_secs(1) || reuse.get() > span / 2)
        {
            let text = format!("an assertion is sent again for 1s to half of its {lifetime}, not for {reuse}");
            return Err(ConfigError::new(text).help("without the key, each request has one of its own").at("reuse"));
        }
        Ok(Self {
            issuer: issuer.as_str().into(),
            lifetime: span.as_secs(),
            keys: Schedule::load(keys, overlap.get(), now, env).map_err(|error| error.at("keys"))?,
            reuse: reuse.map(|span| Reuse::new(span.get())),
            purposes: AtomicU32::default(),
        })
    }

    /// For assertions to `audience`, with those claims of the caller's credential that it is to have.
    pub fn purpose(&self, audience: &str, claims: Vec<String>) -> Purpose {
        Purpose { number: self.purposes.fetch_add(1, Ordering::Relaxed), audience: audience.into(), claims }
    }

    /// The public halves of the keys as a JWK Set (RFC 7517), and from when on each set is the one to be published. The
    /// first is so since ever.
    pub fn published(&self) -> &[(SystemTime, Arc<[u8]>)] {
        self.keys.published()
    }

    /// The set to be published at this time.
    pub fn jwks(&self, now: SystemTime) -> Arc<[u8]> {
        at(self.published(), now).cloned().unwrap_or_default()
    }

    /// The compact JWT: a new one, or one that a request before of the same credential had.
    ///
    /// # Errors
    /// If the system gives no random bytes, or no key signs at this time.
    pub fn sign(&self, statement: &Statement<'_>) -> Result<Signed, SigningFailed> {
        let Some(reuse) = &self.reuse else { return self.sign_anew(statement).map(|(text, _)| Signed::New(text)) };
        if let Some(text) = reuse.get(statement) {
            return Ok(Signed::Again(text));
        }
        let (text, ends) = self.sign_anew(statement)?;
        reuse.keep(statement, &text, UNIX_EPOCH + Duration::from_secs(ends));
        Ok(Signed::New(text))
    }

    /// With its `exp`.
    fn sign_anew(&self, statement: &Statement<'_>) -> Result<(String, u64), SigningFailed> {
        let Statement { purpose, route, method, decision, now, principal, certificate } = statement;
        let key = self.keys.signs(*now).ok_or(SigningFailed)?;
        let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let now = seconds(*now);
        let ends = principal.expires_at.map_or(u64::MAX, seconds);
        let exp = ends.clamp(now + SHORTEST, now + self.lifetime);
        let chosen = purpose.claims.iter().filter_map(|name| Some((name.clone(), principal.claims.get(name)?.clone())));
        let payload = Payload {
            iss: &self.issuer,
            aud: &purpose.audience,
            sub: &principal.subject,
            iat: now,
            exp,
            jti: decision.as_str(),
            route: route.map_or("", |route| route),
            method: method.as_str(),
            auth: principal.method,
            idp: principal.issuer.as_deref(),
            client_id: principal.client_id.as_deref(),
            scope: principal.scopes.join(" "),
            roles: &principal.roles,
            groups: &principal.groups,
            cert_sha256: certificate.map(|facts| facts.sha256.as_str()),
            claims: chosen.collect(),
        };
        let payload = serde_json::to_vec(&payload).map_err(|_| SigningFailed)?;
        let mut token = key.header.clone();
        URL_SAFE_NO_PAD.encode_string(payload, &mut token);
        let signature = key.sign(token.as_bytes())?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok((token, exp))
    }
}

/// Of what begins at a time each, in order, the one that holds now.
pub fn at<T>(phases: &[(SystemTime, T)], now: SystemTime) -> Option<&T> {
    let begun = phases.partition_point(|(start, _)| *start <= now);
    phases.get(begun.saturating_sub(1)).map(|(_, phase)| phase)
}
