//! Signing keys for tokens, and their public halves as JSON Web Keys (RFC 7517, RFC 8037).

use crate::error::Error;
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair};
use aws_lc_rs::{hmac, rsa};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// The algorithms that the test issuer signs with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Alg {
    Rs256,
    Ps256,
    Es256,
    Es384,
    EdDsa,
}

impl Alg {
    pub const ALL: &[Self] = &[Self::Rs256, Self::Ps256, Self::Es256, Self::Es384, Self::EdDsa];

    /// As `alg` names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Ps256 => "PS256",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
        }
    }

    /// The length of an ECDSA signature (RFC 7518, section 3.4).
    pub(crate) fn signature_len(self) -> usize {
        match self {
            Self::Rs256 | Self::Ps256 => 256,
            Self::Es256 | Self::EdDsa => 64,
            Self::Es384 => 96,
        }
    }
}

/// A private key.
pub(crate) enum Key {
    /// Serves both RS256 and PS256.
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Key {
    pub fn generate(alg: Alg) -> Result<Self, Error> {
        let failed = |_| Error::Key("generate one");
        Ok(match alg {
            Alg::Rs256 | Alg::Ps256 => Self::Rsa(RsaKeyPair::generate(rsa::KeySize::Rsa2048).map_err(failed)?),
            Alg::Es256 => Self::P256(EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).map_err(failed)?),
            Alg::Es384 => Self::P384(EcdsaKeyPair::generate(&signature::ECDSA_P384_SHA384_FIXED_SIGNING).map_err(failed)?),
            Alg::EdDsa => Self::Ed25519(Ed25519KeyPair::generate().map_err(failed)?),
        })
    }

    pub fn sign(&self, alg: Alg, message: &[u8]) -> Result<Vec<u8>, Error> {
        let failed = |_| Error::Key("sign");
        let random = SystemRandom::new();
        match self {
            Self::Rsa(key) => {
                let padding: &dyn signature::RsaEncoding =
                    if alg == Alg::Ps256 { &signature::RSA_PSS_SHA256 } else { &signature::RSA_PKCS1_SHA256 };
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(padding, &random, message, &mut signature).map_err(failed)?;
                Ok(signature)
            }
            Self::P256(key) | Self::P384(key) => Ok(key.sign(&random, message).map_err(failed)?.as_ref().to_owned()),
            Self::Ed25519(key) => Ok(key.sign(message).as_ref().to_owned()),
        }
    }

    /// The public half, as a provider publishes it.
    pub fn jwk(&self, alg: Alg, kid: &str) -> Value {
        let mut jwk = match self {
            Self::Rsa(key) => {
                let [n, e] = rsa_numbers(key.public_key().as_ref());
                json!({ "kty": "RSA", "n": URL_SAFE_NO_PAD.encode(n), "e": URL_SAFE_NO_PAD.encode(e) })
            }
            Self::P256(key) => ec_jwk("P-256", key),
            Self::P384(key) => ec_jwk("P-384", key),
            Self::Ed25519(key) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(key.public_key().as_ref()) })
            }
        };
        jwk["kid"] = kid.into();
        jwk["alg"] = alg.as_str().into();
        jwk["use"] = "sig".into();
        jwk
    }

    /// The public half as a SubjectPublicKeyInfo: what an attacker who confuses HS256 with RS256 uses as the secret.
    pub fn public_der(&self) -> Result<Vec<u8>, Error> {
        let failed = |_| Error::Key("encode the public half");
        fn der<K: AsDer<PublicKeyX509Der<'static>>>(key: &K) -> Result<Vec<u8>, aws_lc_rs::error::Unspecified> {
            Ok(key.as_der()?.as_ref().to_owned())
        }
        match self {
            Self::Rsa(key) => der(key.public_key()).map_err(failed),
            Self::P256(key) | Self::P384(key) => der(key.public_key()).map_err(failed),
            Self::Ed25519(key) => der(key.public_key()).map_err(failed),
        }
    }

    pub fn public_pem(&self) -> Result<String, Error> {
        let encoded = STANDARD.encode(self.public_der()?);
        let mut pem = String::from("-----BEGIN PUBLIC KEY-----\n");
        for line in encoded.as_bytes().chunks(64) {
            pem.extend(line.iter().map(|b| char::from(*b)));
            pem.push('\n');
        }
        pem.push_str("-----END PUBLIC KEY-----\n");
        Ok(pem)
    }
}

/// Modulus and exponent of an `RSAPublicKey` (RFC 8017, appendix A.1.1): a sequence of two integers.
fn rsa_numbers(der: &[u8]) -> [&[u8]; 2] {
    let (sequence, _) = der_content(der);
    let (modulus, rest) = der_content(sequence);
    let (exponent, _) = der_content(rest);
    let unsigned = |number: &[u8]| number.iter().take_while(|byte| **byte == 0).count();
    [modulus.get(unsigned(modulus)..).unwrap_or_default(), exponent.get(unsigned(exponent)..).unwrap_or_default()]
}

/// The content of the first element, and what follows it.
fn der_content(der: &[u8]) -> (&[u8], &[u8]) {
    let first = usize::from(der.get(1).copied().unwrap_or_default());
    let (start, len) = match first.checked_sub(0x80) {
        None => (2, first),
        Some(bytes) => {
            let digits = der.get(2..2 + bytes).unwrap_or_default();
            (2 + bytes, digits.iter().fold(0, |len, byte| (len << 8) | usize::from(*byte)))
        }
    };
    (der.get(start..start + len).unwrap_or_default(), der.get(start + len..).unwrap_or_default())
}

fn ec_jwk(curve: &str, key: &EcdsaKeyPair) -> Value {
    // The uncompressed point: a 4, then both coordinates in full length.
    let point = key.public_key().as_ref();
    let coordinates = point.get(1..).unwrap_or_default();
    let (x, y) = coordinates.split_at(coordinates.len() / 2);
    json!({ "kty": "EC", "crv": curve, "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y) })
}

pub(crate) fn hmac_sha256(secret: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message).as_ref().to_owned()
}
