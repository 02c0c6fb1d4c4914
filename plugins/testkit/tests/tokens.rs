//! Good tokens verify with an independent library, and each hostile one is hostile in the way it says.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use portcullis_testkit::{Alg, Rotation, SignWith, Tamper, TokenIssuer, TokenSpec};
use serde_json::{Value, json};
use std::collections::HashSet;

const ISSUER: &str = "https://sso.example.test/realms/acme";

/// As strict as the library can be told to be.
fn verify(issuer: &TokenIssuer, token: &str) -> Result<Value, String> {
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    let set: JwkSet = serde_json::from_value(issuer.jwks().unwrap()).unwrap();
    let header = decode_header(token).map_err(|error| error.to_string())?;
    let kid = header.kid.ok_or("no kid")?;
    let jwk = set.find(&kid).ok_or("unknown kid")?;
    let algorithm: Algorithm = jwk.common.key_algorithm.unwrap().to_string().parse().unwrap();
    let mut validation = Validation::new(algorithm);
    validation.set_issuer(&[issuer.issuer()]);
    validation.set_audience(&[issuer.audience()]);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    validation.validate_nbf = true;
    validation.leeway = 30;
    let key = DecodingKey::from_jwk(jwk).map_err(|error| error.to_string())?;
    decode::<Value>(token, &key, &validation).map(|data| data.claims).map_err(|error| error.to_string())
}

#[test]
fn good_tokens_of_every_algorithm_verify() {
    let issuer = TokenIssuer::new(ISSUER);
    for alg in Alg::ALL {
        let spec = TokenSpec::new().alg(*alg).subject("bob").scope("api:read api:write").roles(&["admin"]).groups(&["staff"]);
        let token = issuer.issue(&spec.claim("tenant", json!({ "id": 7 }))).unwrap();
        let claims = verify(&issuer, &token).unwrap_or_else(|error| panic!("{alg:?}: {error}"));
        assert_eq!((&claims["sub"], &claims["scope"]), (&json!("bob"), &json!("api:read api:write")));
        assert_eq!((&claims["roles"], &claims["tenant"]["id"]), (&json!(["admin"]), &json!(7)));
        assert_eq!(decode_header(&token).unwrap().kid, Some(issuer.kid(*alg)));
    }
}

#[test]
fn rotation_publishes_what_it_says() {
    let issuer = TokenIssuer::new(ISSUER);
    let old = issuer.issue(&TokenSpec::new().alg(Alg::Es256)).unwrap();
    issuer.rotate(Rotation::Overlap);
    let new = issuer.issue(&TokenSpec::new().alg(Alg::Es256)).unwrap();
    assert!(verify(&issuer, &old).is_ok() && verify(&issuer, &new).is_ok());
    issuer.rotate(Rotation::HardCut);
    assert_eq!(verify(&issuer, &old), Err("unknown kid".to_owned()));
    assert_eq!(verify(&issuer, &new), Err("unknown kid".to_owned()));
    let newest = issuer.issue(&TokenSpec::new().alg(Alg::Es256)).unwrap();
    verify(&issuer, &newest).unwrap();
    issuer.rotate(Rotation::SameKid);
    assert_eq!(verify(&issuer, &newest), Err("InvalidSignature".to_owned()), "same id, another key");
    let late = TokenSpec::new().alg(Alg::Es256).sign_with(SignWith::Generation(0));
    assert_eq!(verify(&issuer, &issuer.issue(&late).unwrap()), Err("unknown kid".to_owned()));
    assert!(issuer.issue(&late.sign_with(SignWith::Generation(9))).is_err());
}

#[test]
fn a_set_has_no_private_half() {
    for key in TokenIssuer::new(ISSUER).jwks().unwrap()["keys"].as_array().unwrap() {
        for private in ["d", "p", "q", "dp", "dq", "qi", "k"] {
            assert!(key.get(private).is_none(), "{private} in {key}");
        }
        assert_eq!(key["use"], "sig");
    }
}

#[test]
fn no_hostile_token_is_good_and_all_differ() {
    let issuer = TokenIssuer::new(ISSUER);
    for alg in [Alg::Rs256, Alg::Es256, Alg::EdDsa] {
        let good = TokenSpec::new().alg(alg);
        verify(&issuer, &issuer.issue(&good).unwrap()).unwrap();
        let (mut names, mut tokens) = (HashSet::new(), HashSet::new());
        for hostile in issuer.hostile(&good).unwrap() {
            assert!(!hostile.reasons.is_empty());
            assert!(names.insert(hostile.name.clone()), "{} twice", hostile.name);
            assert!(tokens.insert(hostile.token.clone()), "{} is no variant of its own", hostile.name);
            // What an RFC-abiding library does not look at is ours to refuse; the rest it refuses too.
            let unseen =
                ["crit", "b64", "typ", "bound to", "jku", "x5u", "x5c", "issued in the future", "list with ours", "nbf is text"];
            if !unseen.iter().any(|part| hostile.name.contains(part)) {
                assert!(verify(&issuer, &hostile.token).is_err(), "{} verifies", hostile.name);
            }
        }
        assert!(names.len() > 60);
    }
}

#[test]
fn hostile_tokens_are_hostile_in_the_way_they_say() {
    let issuer = TokenIssuer::new(ISSUER);
    let all = issuer.hostile(&TokenSpec::new()).unwrap();
    let part = |name: &str, at: usize| {
        let hostile = all.iter().find(|hostile| hostile.name == name).unwrap();
        let part = hostile.token.split('.').nth(at).unwrap_or_default();
        serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    };
    assert_eq!(part("alg none", 0)["alg"], "none");
    assert_eq!(part("changed claims", 1)["sub"], "admin");
    assert_eq!(part("no exp", 1).get("exp"), None);
    assert_eq!(part("its own key in jwk", 0)["jwk"]["kty"], "RSA");

    // The confusion really is one: a verifier that believes `alg` and takes the key's text for a secret accepts it.
    let confused = all.iter().find(|hostile| hostile.name == "HS256 with the public key as PEM").unwrap();
    let mut careless = Validation::new(Algorithm::HS256);
    careless.set_audience(&[issuer.audience()]);
    let pem = issuer.public_pem(Alg::Rs256).unwrap();
    assert!(decode::<Value>(&confused.token, &DecodingKey::from_secret(pem.as_bytes()), &careless).is_ok());
}

#[test]
fn times_count_from_the_time_given() {
    let issuer = TokenIssuer::new(ISSUER);
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
    let spec = TokenSpec::new().alg(Alg::EdDsa).at(at).expires_in(-41).not_before_in(5).issued_in(-60);
    let token = issuer.issue(&spec.tamper(Tamper::SignatureEmpty)).unwrap();
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap();
    assert_eq!((&claims["exp"], &claims["nbf"], &claims["iat"]), (&json!(999_959), &json!(1_000_005), &json!(999_940)));
    assert!(token.ends_with('.'));
}
