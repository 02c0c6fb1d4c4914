//! A DPoP proof (RFC 9449, section 4.2), read strictly. Nothing of it is believed here.

use crate::algorithm::Algorithm;
use crate::config::TokenType;
use crate::jose::{self, Parts};
use crate::jwks::{self, Key};
use aws_lc_rs::digest;
use serde_json::{Map, Value};

/// An RSA key of 4096 bits and its signature take 1.5 KiB; a long URL some more.
const MOST_BYTES: usize = 6 << 10;
const LONGEST_ID: usize = 256;
/// They would change how the proof is verified, or bring another key along.
const FORBIDDEN: [&str; 6] = ["crit", "jku", "x5u", "x5c", "b64", "zip"];

pub(super) struct Proof<'t> {
    pub typ: String,
    pub alg: String,
    pub algorithm: Option<Algorithm>,
    pub claims: Claims,
    /// Of the key in it (RFC 7638).
    pub thumbprint: [u8; 32],
    key: Key,
    signed: &'t str,
    signature: Vec<u8>,
}

pub(super) struct Claims {
    pub jti: String,
    pub htm: String,
    pub htu: String,
    pub iat: f64,
    pub ath: Vec<u8>,
    pub nonce: Option<String>,
}

impl<'t> Proof<'t> {
    /// The error names the part that is wrong, and shows nothing of it.
    pub fn parse(text: &'t str) -> Result<Self, String> {
        if text.len() > MOST_BYTES {
            return Err(format!("{} bytes, more than {MOST_BYTES}", text.len()));
        }
        let Parts { header, signed, payload, signature } = Parts::split(text).map_err(|malformed| malformed.to_string())?;
        let header = jose::object("header", &header).map_err(|malformed| malformed.to_string())?;
        if let Some(name) = FORBIDDEN.into_iter().find(|name| header.contains_key(*name)) {
            return Err(format!("a header with `{name}`"));
        }
        let alg = text_of(&header, "alg")?;
        let typ = TokenType::normalised(&text_of(&header, "typ")?);
        let jwk = header.get("jwk").ok_or("a header without `jwk`")?;
        let (key, thumbprint) = jwks::embedded(jwk).map_err(|why| format!("a `jwk` that cannot be used: {why}"))?;
        let claims = Claims::read(&jose::object("payload", &payload).map_err(|malformed| malformed.to_string())?)?;
        Ok(Self { typ, algorithm: Algorithm::from_name(&alg), alg, claims, thumbprint, key, signed, signature })
    }

    pub fn verify(&self) -> bool {
        self.algorithm.is_some_and(|algorithm| self.key.verify(algorithm, self.signed.as_bytes(), &self.signature))
    }

    /// What makes it unique: `jti` within its key. Not the signature, of which an ECDSA proof has two good ones.
    pub fn id(&self) -> [u8; 16] {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&self.thumbprint);
        context.update(self.claims.jti.as_bytes());
        let mut id = [0; 16];
        id.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
        id
    }
}

impl Claims {
    fn read(claims: &Map<String, Value>) -> Result<Self, String> {
        let jti = text_of(claims, "jti")?;
        if jti.is_empty() || jti.len() > LONGEST_ID {
            return Err(format!("a `jti` that is empty, or longer than {LONGEST_ID} bytes"));
        }
        let iat = claims.get("iat").and_then(Value::as_f64).filter(|iat| (0.0..=1e12).contains(iat));
        let nonce = claims.get("nonce").map(|nonce| nonce.as_str().map(str::to_owned).ok_or("a `nonce` that is no text"));
        Ok(Self {
            jti,
            htm: text_of(claims, "htm")?,
            htu: text_of(claims, "htu")?,
            iat: iat.ok_or("no `iat`, or one that is no time")?,
            ath: jose::base64url(&text_of(claims, "ath")?).map_err(|_| "an `ath` that is not base64url")?,
            nonce: nonce.transpose()?,
        })
    }
}

fn text_of(members: &Map<String, Value>, name: &'static str) -> Result<String, String> {
    match members.get(name) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(format!("a `{name}` that is no text")),
        None => Err(format!("no `{name}`")),
    }
}
