//! A JSON Web Key Set (RFC 7517): which of its keys may verify a signature, each parsed once.

use crate::algorithm::{Algorithm, Family};
use crate::jose::{self, StrictJson};
use crate::weak_rsa;
use aws_lc_rs::digest;
use aws_lc_rs::signature::{self as crypto, ParsedPublicKey, RsaPublicKeyComponents};
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;

/// More keys than any issuer has.
const MOST_KEYS: usize = 256;

/// A public key, ready for each algorithm that it may be used with.
pub(crate) struct Key {
    kid: Option<Box<str>>,
    family: Family,
    /// The one algorithm that the issuer published it for, if it said so.
    only: Option<Algorithm>,
    verifiers: Vec<(Algorithm, ParsedPublicKey)>,
    fingerprint: [u8; 32],
}

/// The usable keys of a set, and why the others are not used.
pub(crate) struct Parsed {
    pub keys: Vec<Arc<Key>>,
    pub dropped: Vec<Dropped>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dropped {
    pub kid: String,
    pub why: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JwksError {
    #[error("not a key set: {0}")]
    NotAKeySet(String),
    #[error("the key set is empty")]
    Empty,
    #[error("more than {MOST_KEYS} keys")]
    TooMany,
    #[error("none of its keys can verify signatures: {0}")]
    NoneUsable(String),
}

#[derive(Deserialize)]
struct RawKey {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    n: Option<String>,
    e: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    d: Option<Value>,
    /// Entra's: whose tokens the key signs.
    issuer: Option<String>,
}

impl Key {
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    pub fn family(&self) -> Family {
        self.family
    }

    pub fn only(&self) -> Option<Algorithm> {
        self.only
    }

    pub fn allows(&self, algorithm: Algorithm) -> bool {
        algorithm.family() == self.family && self.only.is_none_or(|only| only == algorithm)
    }

    /// The same material under the same name for the same use.
    pub fn is(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }

    pub fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        self.allows(algorithm)
            && self
                .verifiers
                .iter()
                .find(|(known, _)| *known == algorithm)
                .is_some_and(|(_, key)| key.verify_sig(message, signature).is_ok())
    }
}

/// Reads a key set. A key that cannot or must not be used is left out; a set without any usable key is an error, so
/// that it never takes the place of a good one. `issuer` is whose keys are wanted.
pub(crate) fn parse(bytes: &[u8], issuer: &str) -> Result<Parsed, JwksError> {
    let StrictJson(document) =
        serde_json::from_slice(bytes).map_err(|error| JwksError::NotAKeySet(jose::safe(&error.to_string())))?;
    let Some(Value::Array(raw_keys)) = document.get("keys") else {
        return Err(JwksError::NotAKeySet("no list `keys`".to_owned()));
    };
    if raw_keys.is_empty() {
        return Err(JwksError::Empty);
    }
    if raw_keys.len() > MOST_KEYS {
        return Err(JwksError::TooMany);
    }
    let mut parsed = Parsed { keys: Vec::with_capacity(raw_keys.len()), dropped: Vec::new() };
    for raw in raw_keys {
        let kid = raw.get("kid").and_then(Value::as_str).unwrap_or("(no kid)");
        match RawKey::deserialize(raw).map_err(|_| "a member has the wrong type").and_then(|raw| read(raw, issuer)) {
            Ok(key) => parsed.keys.push(Arc::new(key)),
            Err(why) => parsed.dropped.push(Dropped { kid: jose::safe(kid), why }),
        }
    }
    drop_ambiguous(&mut parsed);
    if parsed.keys.is_empty() {
        let reasons: Vec<String> = parsed.dropped.iter().take(5).map(|key| format!("{}: {}", key.kid, key.why)).collect();
        return Err(JwksError::NoneUsable(reasons.join("; ")));
    }
    Ok(parsed)
}

/// The public key that a DPoP proof brings along (RFC 9449, section 4.2), with its thumbprint (RFC 7638).
pub(crate) fn embedded(jwk: &Value) -> Result<(Key, [u8; 32]), &'static str> {
    const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];
    let members = jwk.as_object().ok_or("`jwk` is not an object")?;
    if PRIVATE.iter().any(|name| members.contains_key(*name)) {
        return Err("it has a private or symmetric part, which is now known to others");
    }
    let text = |name: &'static str| members.get(name).and_then(Value::as_str).unwrap_or_default();
    let required: &[&'static str] = match text("kty") {
        "RSA" => &["e", "kty", "n"],
        "EC" => &["crv", "kty", "x", "y"],
        "OKP" => &["crv", "kty", "x"],
        _ => return Err("its `kty` is not supported"),
    };
    let key = read(RawKey::deserialize(jwk).map_err(|_| "a member has the wrong type")?, "")?;
    // In the order of their names, without spaces. `read` has seen that each is of characters that JSON does not escape.
    let canonical: Vec<String> = required.iter().map(|name| format!("\"{name}\":\"{}\"", text(name))).collect();
    let hash = digest::digest(&digest::SHA256, format!("{{{}}}", canonical.join(",")).as_bytes());
    let mut thumbprint = [0; 32];
    thumbprint.iter_mut().zip(hash.as_ref()).for_each(|(to, from)| *to = *from);
    Ok((key, thumbprint))
}

/// Two different keys of one family under one id: which is meant cannot be known, so neither is used. The same key
/// twice is one key.
fn drop_ambiguous(parsed: &mut Parsed) {
    let keys = std::mem::take(&mut parsed.keys);
    for (index, key) in keys.iter().enumerate() {
        let same_name = |other: &&Arc<Key>| other.kid.is_some() && other.kid == key.kid && other.family == key.family;
        if keys.iter().filter(same_name).any(|other| !other.is(key)) {
            let kid = jose::safe(key.kid().unwrap_or_default());
            parsed.dropped.push(Dropped { kid, why: "several different keys have this kid" });
        } else if !keys.iter().take(index).any(|earlier| earlier.is(key)) {
            parsed.keys.push(Arc::clone(key));
        }
    }
}

fn read(raw: RawKey, issuer: &str) -> Result<Key, &'static str> {
    // One address gives the keys of all of Entra's tenants; most are for any (`{tenantid}`), some for one.
    if raw.issuer.as_deref().is_some_and(|owner| !owner.contains('{') && owner != issuer) {
        return Err("it is for another issuer");
    }
    if raw.d.is_some() {
        return Err("its private part is published: anybody can sign with it");
    }
    if raw.usage.as_deref().is_some_and(|usage| usage != "sig") {
        return Err("`use` is not sig");
    }
    if raw.key_ops.as_ref().is_some_and(|ops| !ops.iter().any(|op| op == "verify")) {
        return Err("`key_ops` has no verify");
    }
    let only = match raw.alg.as_deref() {
        None => None,
        Some(name) => Some(Algorithm::from_name(name).ok_or("`alg` is not a supported signature algorithm")?),
    };
    let (family, material) = match (raw.kty.as_str(), raw.crv.as_deref()) {
        ("RSA", _) => rsa(raw.n.as_deref(), raw.e.as_deref())?,
        ("EC", Some("P-256")) => (Family::P256, Material::Point(point(&raw.x, &raw.y, 32)?)),
        ("EC", Some("P-384")) => (Family::P384, Material::Point(point(&raw.x, &raw.y, 48)?)),
        ("EC", Some("P-521")) => (Family::P521, Material::Point(point(&raw.x, &raw.y, 66)?)),
        ("OKP", Some("Ed25519")) => (Family::Ed25519, Material::Point(octets(&raw.x)?)),
        ("EC" | "OKP", _) => return Err("its curve is not supported"),
        ("oct", _) => return Err("it is symmetric"),
        _ => return Err("its `kty` is not supported"),
    };
    if only.is_some_and(|algorithm| algorithm.family() != family) {
        return Err("`alg` does not fit the kind of key");
    }
    let verifiers = Algorithm::ALL
        .into_iter()
        .filter(|algorithm| algorithm.family() == family && only.is_none_or(|only| only == *algorithm))
        .map(|algorithm| Ok((algorithm, material.verifier(algorithm)?)))
        .collect::<Result<Vec<_>, &'static str>>()?;
    let fingerprint = fingerprint(raw.kid.as_deref(), only, &material);
    Ok(Key { kid: raw.kid.map(String::into_boxed_str), family, only, verifiers, fingerprint })
}

enum Material {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    Point(Vec<u8>),
}

impl Material {
    fn verifier(&self, algorithm: Algorithm) -> Result<ParsedPublicKey, &'static str> {
        match self {
            Self::Rsa { n, e } => algorithm
                .rsa_parameters()
                .and_then(|parameters| RsaPublicKeyComponents { n, e }.to_parsed_public_key(parameters).ok())
                .ok_or("it is not a valid RSA key"),
            Self::Point(point) => {
                let scheme: &'static dyn crypto::VerificationAlgorithm = match algorithm {
                    Algorithm::Es256 => &crypto::ECDSA_P256_SHA256_FIXED,
                    Algorithm::Es384 => &crypto::ECDSA_P384_SHA384_FIXED,
                    Algorithm::Es512 => &crypto::ECDSA_P521_SHA512_FIXED,
                    _ => &crypto::ED25519,
                };
                ParsedPublicKey::new(scheme, point).map_err(|_| "it is not a point on its curve")
            }
        }
    }
}

fn rsa(n: Option<&str>, e: Option<&str>) -> Result<(Family, Material), &'static str> {
    let number = |text: Option<&str>| {
        let bytes = jose::base64url(text.ok_or("`n` or `e` is missing")?).map_err(|_| "`n` or `e` is not base64url")?;
        // Some issuers write a leading zero byte; the number is the same.
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Ok::<_, &'static str>(bytes.into_iter().skip(zeros).collect::<Vec<u8>>())
    };
    let (n, e) = (number(n)?, number(e)?);
    let bits = n.len() * 8 - n.first().map_or(0, |byte| byte.leading_zeros() as usize);
    if !(2048..=8192).contains(&bits) {
        return Err("its modulus is not of 2048 to 8192 bits");
    }
    // e = 1 makes every message its own signature; even numbers and giants are no exponents.
    let odd = e.last().is_some_and(|byte| byte % 2 == 1);
    if !odd || e.len() > 4 || e.as_slice() == [1] {
        return Err("its exponent is not usable");
    }
    if weak_rsa::has_roca_fingerprint(&n) {
        return Err("it was made by a flawed generator (ROCA, CVE-2017-15361)");
    }
    Ok((Family::Rsa, Material::Rsa { n, e }))
}

fn octets(text: &Option<String>) -> Result<Vec<u8>, &'static str> {
    jose::base64url(text.as_deref().ok_or("a coordinate is missing")?).map_err(|_| "a coordinate is not base64url")
}

/// The uncompressed form. Some issuers drop leading zero bytes of a coordinate; they are put back.
fn point(x: &Option<String>, y: &Option<String>, size: usize) -> Result<Vec<u8>, &'static str> {
    let mut point = vec![4];
    for coordinate in [octets(x)?, octets(y)?] {
        let missing = size.checked_sub(coordinate.len()).ok_or("a coordinate is too long")?;
        point.extend(std::iter::repeat_n(0, missing));
        point.extend(coordinate);
    }
    Ok(point)
}

fn fingerprint(kid: Option<&str>, only: Option<Algorithm>, material: &Material) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut part = |bytes: &[u8]| {
        context.update(&(bytes.len() as u64).to_be_bytes());
        context.update(bytes);
    };
    part(&[u8::from(kid.is_some())]);
    part(kid.unwrap_or_default().as_bytes());
    part(only.map_or("", Algorithm::name).as_bytes());
    match material {
        Material::Rsa { n, e } => [n, e].into_iter().for_each(|bytes| part(bytes)),
        Material::Point(bytes) => part(bytes),
    }
    let mut out = [0; 32];
    out.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::signer::{Signer, b64, jwks, merged};
    use serde_json::json;

    fn read(keys: &[Value]) -> Result<(usize, Vec<&'static str>), JwksError> {
        let parsed = parse(jwks(keys).as_bytes(), "https://a.example")?;
        Ok((parsed.keys.len(), parsed.dropped.iter().map(|key| key.why).collect()))
    }

    #[test]
    fn two_different_keys_of_one_name_are_both_dropped_and_the_same_key_twice_is_one() {
        let (a, b, other) = (Signer::new("same").jwk(), Signer::new("same").jwk(), Signer::new("other").jwk());
        let why = "several different keys have this kid";
        assert_eq!(read(&[a.clone(), b, other.clone()]), Ok((1, vec![why, why])));
        assert_eq!(read(&[a.clone(), a.clone(), other.clone()]), Ok((2, vec![])));
        // Keys of two kinds may share a name: a token's algorithm tells them apart.
        assert_eq!(read(&[a, Signer::ed25519("same").jwk(), other]), Ok((3, vec![])));
    }

    #[test]
    fn a_key_that_must_not_verify_is_left_out_with_the_reason() {
        let (ec, rsa) = (Signer::new("a").jwk(), Signer::shared_rsa().jwk());
        for (base, changes, part) in [
            (&ec, json!({ "use": "enc" }), "`use`"),
            (&ec, json!({ "key_ops": ["sign"] }), "`key_ops`"),
            (&ec, json!({ "alg": "ES384" }), "does not fit"),
            (&ec, json!({ "alg": "HS256" }), "not a supported"),
            (&ec, json!({ "d": "AA" }), "private"),
            (&ec, json!({ "crv": "P-521" }), "does not fit"),
            (&ec, json!({ "crv": "secp256k1" }), "curve"),
            (&ec, json!({ "x": b64([1; 32]) }), "not a point"),
            (&ec, json!({ "x": b64([1; 33]) }), "too long"),
            (&ec, json!({ "x": "!" }), "base64url"),
            (&ec, json!({ "x": null }), "missing"),
            (&ec, json!({ "kty": "oct", "k": "AAAA" }), "symmetric"),
            (&ec, json!({ "kty": 1 }), "wrong type"),
            (&ec, json!({ "issuer": "https://b.example" }), "another issuer"),
            (&rsa, json!({ "n": b64([0xc1; 128]) }), "2048"),
            (&rsa, json!({ "n": b64([0xc1; 1025]) }), "8192"),
            (&rsa, json!({ "e": "AQ" }), "exponent"),
            (&rsa, json!({ "e": "AAAA" }), "exponent"),
            (&rsa, json!({ "e": "AQAC" }), "exponent"),
            (&rsa, json!({ "e": "AQAAAAAB" }), "exponent"),
        ] {
            let good = Signer::new("good").jwk();
            let (count, dropped) = read(&[merged(base.clone(), &changes), good]).unwrap();
            assert!(count == 1 && dropped.len() == 1 && dropped[0].contains(part), "{changes}: {dropped:?}");
        }
    }

    #[test]
    fn dropped_leading_zeros_of_a_coordinate_are_put_back() {
        // One key in 128 has one; make keys until it comes.
        let (signer, x) = (0..100_000)
            .map(|_| Signer::new("a"))
            .map(|signer| (jose::base64url(signer.jwk()["x"].as_str().unwrap()).unwrap(), signer))
            .find_map(|(x, signer)| (x[0] == 0).then_some((signer, x)))
            .unwrap();
        let short = merged(signer.jwk(), &json!({ "x": b64(&x[1..]) }));
        let parsed = parse(jwks(&[short]).as_bytes(), "").unwrap();
        assert!(parsed.keys[0].verify(Algorithm::Es256, b"m", &signer.sign("ES256", b"m")));
    }

    #[test]
    fn a_set_without_usable_keys_is_none() {
        for text in
            ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[]}"#, r#"{"keys":[1]}"#, r#"{"keys":[{"kty":"oct","k":"AA"}]}"#]
        {
            assert!(parse(text.as_bytes(), "").is_err(), "{text}");
        }
        assert_eq!(parse(jwks(&vec![json!({}); MOST_KEYS + 1]).as_bytes(), "").err(), Some(JwksError::TooMany));
    }
}
