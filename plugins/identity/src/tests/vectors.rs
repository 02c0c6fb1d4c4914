//! Published vectors: Wycheproof's for JWS and JWK, and RFC 7520's.

use super::{AUDIENCE, IssuerConfig, exchange, shared};
use crate::algorithm::Algorithm;
use crate::jose::Token;
use crate::keyset::{Lookup, Wanted};
use crate::store::KeyStore;
use crate::{Issuers, Verification, jwks};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The signature alone: a key of the set, chosen as for a bearer token, verifies it.
fn signature_is_good(set: &Value, token: &str) -> bool {
    let Ok(parsed) = jwks::parse(set.to_string().as_bytes(), "") else { return false };
    let Ok(token) = Token::parse(token) else { return false };
    if !token.header.forbidden.is_empty() {
        return false;
    }
    let Some(algorithm) = Algorithm::from_name(&token.header.alg) else { return false };
    let store = KeyStore::given("test".into(), Some(parsed));
    let pace = super::super::settings::compile(&IssuerConfig::new("https://a.example", ["x"]), &super::World::default().env())
        .unwrap()
        .settings
        .pace;
    let wanted = Wanted { kid: token.header.kid.as_deref().map(Box::from), algorithm };
    match store.find(&wanted, &pace) {
        Lookup::Found(key) => key.verify(algorithm, token.signed.as_bytes(), &token.signature),
        _ => false,
    }
}

/// As it would arrive over HTTP, at an issuer that has exactly this key set.
fn is_accepted_as_bearer(set: &Value, token: &str) -> bool {
    let mut config = IssuerConfig::new("https://a.example", [AUDIENCE]);
    config.algorithms = Algorithm::ALL.to_vec();
    let configs = BTreeMap::from([("main".to_owned(), config)]);
    let env = super::World::default().env();
    let issuers = Issuers::offline(&configs, &env, Some(set.to_string().as_bytes()))
        .or_else(|_| Issuers::offline(&configs, &env, None))
        .unwrap();
    let issuer = issuers.get("main").unwrap();
    assert_eq!(Arc::strong_count(&issuer), 2);
    !matches!(issuer.verify(token, &mut exchange()), Verification::Refused(_))
}

/// Where this gateway is stricter than the vectors, and why.
fn stricter(vector: &Value) -> Option<&'static str> {
    if vector["symmetric"] == true {
        return Some("symmetric keys are never accepted");
    }
    match vector["why"].as_str() {
        Some("Figure27") => Some("the key is published for ES521, which there is not; RFC 7520's own text verifies"),
        Some("Figure20") => Some("the key is published for PS256 and the token uses PS384"),
        _ => None,
    }
}

#[test]
fn wycheproof() {
    let Some(text) = shared("jose/wycheproof-raw.jsonl") else { return };
    let (mut accepted, mut count) = (0, 0);
    for line in text.lines() {
        let vector: Value = serde_json::from_str(line).unwrap();
        let token = vector["token"].as_str().unwrap_or_default();
        let good = signature_is_good(&vector["jwks"], token);
        let expected = vector["signature_verdict"] == "valid" && stricter(&vector).is_none();
        assert_eq!(good, expected, "{} {}", vector["id"], vector["why"]);
        assert!(!is_accepted_as_bearer(&vector["jwks"], token), "{} {}", vector["id"], vector["why"]);
        accepted += usize::from(good);
        count += 1;
    }
    assert!(count > 400 && accepted > 30, "{accepted} of {count}");
}

#[test]
fn rfc_7520() {
    let Some(text) = shared("jose/rfc7520.jsonl") else { return };
    let mut verified = Vec::new();
    for line in text.lines() {
        let vector: Value = serde_json::from_str(line).unwrap();
        // The RFC prints the private keys; an issuer publishes the public part.
        let mut key = vector["key"].clone();
        if let Some(members) = key.as_object_mut() {
            ["d", "p", "q", "dp", "dq", "qi"].iter().for_each(|private| drop(members.remove(*private)));
        }
        let set = json!({ "keys": [key] });
        let mut tokens = vec![vector["json"].to_string()];
        tokens.extend(vector["compact"].as_str().map(str::to_owned));
        for token in tokens {
            if signature_is_good(&set, &token) {
                verified.push(vector["id"].as_str().unwrap().to_owned());
            }
            assert!(!is_accepted_as_bearer(&set, &token), "{}", vector["id"]);
        }
    }
    assert_eq!(verified, ["jws", "4_1.rsa_v15_signature", "4_2.rsa-pss_signature", "4_3.ecdsa_signature"]);
}
