//! Keys, and tokens signed with them, in any form a test wants.

use super::{AUDIENCE, ISSUER, NOW};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair,
    Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384,
    RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use std::sync::OnceLock;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::RSAPublicKey;

pub(crate) fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

enum Pair {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    P521(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

pub(crate) struct Signer {
    pub kid: String,
    pair: Pair,
}

impl Signer {
    /// The cheapest kind to make.
    pub fn new(kid: &str) -> Self {
        Self { kid: kid.to_owned(), pair: Pair::P256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()) }
    }

    pub fn p384(kid: &str) -> Self {
        Self { kid: kid.to_owned(), pair: Pair::P384(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap()) }
    }

    pub fn p521(kid: &str) -> Self {
        Self { kid: kid.to_owned(), pair: Pair::P521(EcdsaKeyPair::generate(&ECDSA_P521_SHA512_FIXED_SIGNING).unwrap()) }
    }

    pub fn ed25519(kid: &str) -> Self {
        Self { kid: kid.to_owned(), pair: Pair::Ed(Ed25519KeyPair::generate().unwrap()) }
    }

    pub fn rsa(kid: &str) -> Self {
        Self { kid: kid.to_owned(), pair: Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()) }
    }

    /// One RSA key for all tests of a process that do not care which.
    pub fn shared_rsa() -> &'static Self {
        static KEY: OnceLock<Signer> = OnceLock::new();
        KEY.get_or_init(|| Self::rsa("rsa"))
    }

    pub fn default_alg(&self) -> &'static str {
        match self.pair {
            Pair::Rsa(_) => "RS256",
            Pair::P256(_) => "ES256",
            Pair::P384(_) => "ES384",
            Pair::P521(_) => "ES512",
            Pair::Ed(_) => "EdDSA",
        }
    }

    pub fn pkcs8(&self) -> Vec<u8> {
        match &self.pair {
            Pair::P256(pair) | Pair::P384(pair) | Pair::P521(pair) => pair.to_pkcs8v1().unwrap().as_ref().to_vec(),
            Pair::Ed(pair) => pair.to_pkcs8v1().unwrap().as_ref().to_vec(),
            Pair::Rsa(pair) => {
                use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
                let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
                der.as_ref().to_vec()
            }
        }
    }

    /// Without `alg` and `use`, as Entra publishes.
    pub fn bare_jwk(&self) -> Value {
        let mut jwk = match &self.pair {
            Pair::Rsa(pair) => {
                let (_, key) = RSAPublicKey::from_der(pair.public_key().as_ref()).unwrap();
                // With DER's leading zero byte, as some issuers write it.
                json!({ "kty": "RSA", "n": b64(key.modulus), "e": b64(key.exponent) })
            }
            Pair::P256(pair) => point("P-256", pair.public_key().as_ref(), 32),
            Pair::P384(pair) => point("P-384", pair.public_key().as_ref(), 48),
            Pair::P521(pair) => point("P-521", pair.public_key().as_ref(), 66),
            Pair::Ed(pair) => json!({ "kty": "OKP", "crv": "Ed25519", "x": b64(pair.public_key()) }),
        };
        jwk["kid"] = self.kid.as_str().into();
        jwk
    }

    pub fn jwk(&self) -> Value {
        let mut jwk = self.bare_jwk();
        jwk["use"] = "sig".into();
        jwk["alg"] = self.default_alg().into();
        jwk
    }

    pub fn sign(&self, alg: &str, message: &[u8]) -> Vec<u8> {
        let rng = SystemRandom::new();
        match &self.pair {
            Pair::P256(pair) | Pair::P384(pair) | Pair::P521(pair) => pair.sign(&rng, message).unwrap().as_ref().to_vec(),
            Pair::Ed(pair) => pair.sign(message).as_ref().to_vec(),
            Pair::Rsa(pair) => {
                let scheme: &'static dyn RsaEncoding = match alg {
                    "RS384" => &RSA_PKCS1_SHA384,
                    "RS512" => &RSA_PKCS1_SHA512,
                    "PS256" => &RSA_PSS_SHA256,
                    "PS384" => &RSA_PSS_SHA384,
                    "PS512" => &RSA_PSS_SHA512,
                    _ => &RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(scheme, &rng, message, &mut signature).unwrap();
                signature
            }
        }
    }

    /// Header and payload as they are given, correctly signed.
    pub fn raw(&self, header: &str, payload: &str) -> String {
        let signed = format!("{}.{}", b64(header), b64(payload));
        let alg = serde_json::from_str::<Value>(header).ok().and_then(|header| header["alg"].as_str().map(str::to_owned));
        let signature = self.sign(alg.as_deref().unwrap_or_default(), signed.as_bytes());
        format!("{signed}.{}", b64(signature))
    }

    pub fn header(&self) -> Value {
        json!({ "alg": self.default_alg(), "kid": self.kid, "typ": "at+jwt" })
    }

    pub fn token_with(&self, header: &Value, claims: &Value) -> String {
        self.raw(&header.to_string(), &claims.to_string())
    }

    /// A good token but for `changes`; `null` takes a claim away.
    pub fn token(&self, changes: &Value) -> String {
        self.token_with(&self.header(), &merged(claims(), changes))
    }

    /// A good token but for `changes` in its header.
    pub fn token_headed(&self, changes: &Value) -> String {
        self.token_with(&merged(self.header(), changes), &claims())
    }
}

fn point(curve: &str, point: &[u8], size: usize) -> Value {
    json!({ "kty": "EC", "crv": curve, "x": b64(&point[1..=size]), "y": b64(&point[size + 1..]) })
}

pub(crate) fn claims() -> Value {
    json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "iat": NOW - 10, "exp": NOW + 300, "scope": "orders.read" })
}

pub(crate) fn merged(mut base: Value, changes: &Value) -> Value {
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(base.as_object_mut().unwrap().remove(name)),
            value => base[name] = value.clone(),
        }
    }
    base
}

pub(crate) fn jwks(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}
