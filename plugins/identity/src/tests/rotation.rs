//! Keys change while tokens come in.

use super::provider::{Answer, Provider};
use super::signer::{Signer, b64, jwks};
use super::{World, exchange, until, verdict};
use crate::{Issuer, IssuerConfig, Verification};
use portcullis_plugin::reason;
use portcullis_plugin::units::TimeSpan;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

fn config(provider: &Provider) -> IssuerConfig {
    IssuerConfig::new(provider.issuer(), [super::AUDIENCE])
}

fn token(signer: &Signer, provider: &Provider) -> String {
    signer.token(&json!({ "iss": provider.issuer() }))
}

async fn issuer(world: &World, provider: &Provider) -> Arc<Issuer> {
    world.load(config(provider)).get("main").unwrap()
}

#[tokio::test]
async fn the_first_token_fetches_and_later_ones_do_not() {
    let key = Signer::new("a");
    let provider = Provider::start(&[&key]).await;
    let issuer = issuer(&World::default(), &provider).await;
    for _ in 0..3 {
        let verified = verdict(&issuer, &token(&key, &provider)).await.unwrap();
        assert_eq!(&*verified.principal().subject, "alice");
        assert_eq!(verified.principal().issuer.as_deref(), Some(provider.issuer().as_str()));
    }
    assert_eq!((provider.document_fetches(), provider.key_fetches()), (1, 1));
}

#[tokio::test]
async fn a_rotation_with_overlap_refuses_nobody() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let provider = Provider::start(&[&old]).await;
    let issuer = issuer(&World::default(), &provider).await;
    verdict(&issuer, &token(&old, &provider)).await.unwrap();
    provider.publish(&[&new, &old]);
    verdict(&issuer, &token(&new, &provider)).await.unwrap();
    verdict(&issuer, &token(&old, &provider)).await.unwrap();
    assert_eq!(provider.key_fetches(), 2);
}

#[tokio::test]
async fn a_hard_rotation_heals_with_the_first_new_token_and_ends_the_old_ones_even_from_the_cache() {
    let old = Signer::new("k0");
    let provider = Provider::start(&[&old]).await;
    let issuer = issuer(&World::default(), &provider).await;
    let old_token = token(&old, &provider);
    verdict(&issuer, &old_token).await.unwrap();
    verdict(&issuer, &old_token).await.unwrap();
    // More rotations in a row than the budget has fetches: useful ones are free.
    for generation in 1..8 {
        let new = Signer::new(&format!("k{generation}"));
        provider.publish(&[&new]);
        verdict(&issuer, &token(&new, &provider)).await.unwrap_or_else(|reason| panic!("rotation {generation}: {reason}"));
    }
    assert_eq!(verdict(&issuer, &old_token).await.unwrap_err(), reason::TOKEN_KID_UNKNOWN);
}

#[tokio::test]
async fn another_key_under_the_same_id_is_found_after_a_bad_signature() {
    let (old, new) = (Signer::new("default"), Signer::new("default"));
    let provider = Provider::start(&[&old]).await;
    let issuer = issuer(&World::default(), &provider).await;
    let old_token = token(&old, &provider);
    verdict(&issuer, &old_token).await.unwrap();
    provider.publish(&[&new]);
    assert_eq!(verdict(&issuer, &token(&new, &provider)).await.unwrap_err(), reason::TOKEN_SIGNATURE_INVALID);
    // Asked in the background; the first token went without.
    let mut tries = 0;
    while verdict(&issuer, &token(&new, &provider)).await.is_err() {
        tries += 1;
        assert!(tries < 1_000);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(verdict(&issuer, &old_token).await.unwrap_err(), reason::TOKEN_SIGNATURE_INVALID, "not from the cache");
    assert!(provider.key_fetches() <= 4, "bad signatures have a budget: {}", provider.key_fetches());
}

#[tokio::test]
async fn many_waiting_requests_make_one_fetch() {
    let key = Signer::new("a");
    let provider = Provider::start(&[&key]).await;
    let issuer = issuer(&World::default(), &provider).await;
    provider.close_gate();
    let token = token(&key, &provider);
    let waiting: Vec<_> = (0..50)
        .map(|_| {
            let (issuer, token) = (Arc::clone(&issuer), token.clone());
            tokio::spawn(async move { verdict(&issuer, &token).await.is_ok() })
        })
        .collect();
    until("the fetch", || provider.key_fetches() > 0).await;
    provider.open_gate();
    for request in waiting {
        assert!(request.await.unwrap());
    }
    assert_eq!((provider.document_fetches(), provider.key_fetches()), (1, 1));
}

#[tokio::test]
async fn made_up_key_ids_cannot_hammer_the_issuer() {
    let (key, foreign) = (Signer::new("a"), Signer::new("x"));
    let provider = Provider::start(&[&key]).await;
    let issuer = issuer(&World::default(), &provider).await;
    verdict(&issuer, &token(&key, &provider)).await.unwrap();
    let made_up = |number: u32| {
        let header = json!({ "alg": "ES256", "kid": format!("random-{number}"), "typ": "at+jwt" });
        foreign.token_with(&header, &super::signer::merged(super::signer::claims(), &json!({ "iss": provider.issuer() })))
    };
    for number in 0..200 {
        assert_eq!(verdict(&issuer, &made_up(number)).await.unwrap_err(), reason::TOKEN_KID_UNKNOWN);
    }
    assert_eq!(provider.key_fetches(), 1 + 3, "a burst of three");
    issuer.store().clock().advance(Duration::from_secs(60));
    for number in 200..400 {
        assert_eq!(verdict(&issuer, &made_up(number)).await.unwrap_err(), reason::TOKEN_KID_UNKNOWN);
    }
    assert_eq!(provider.key_fetches(), 1 + 3 + 3, "and a burst after a minute");
    verdict(&issuer, &token(&key, &provider)).await.expect("known keys go on");
}

#[tokio::test]
async fn one_wrong_client_does_not_use_up_the_budget() {
    let (key, foreign, new) = (Signer::new("a"), Signer::new("x"), Signer::new("new"));
    let provider = Provider::start(&[&key]).await;
    let issuer = issuer(&World::default(), &provider).await;
    verdict(&issuer, &token(&key, &provider)).await.unwrap();
    for _ in 0..50 {
        assert_eq!(verdict(&issuer, &token(&foreign, &provider)).await.unwrap_err(), reason::TOKEN_KID_UNKNOWN);
    }
    assert_eq!(provider.key_fetches(), 2, "the same unknown id is asked for once");
    provider.publish(&[&new]);
    verdict(&issuer, &token(&new, &provider)).await.unwrap();
}

#[tokio::test]
async fn a_token_that_no_key_could_save_asks_for_none() {
    let (key, foreign) = (Signer::new("a"), Signer::new("gone"));
    let provider = Provider::start(&[&key]).await;
    let issuer = issuer(&World::default(), &provider).await;
    for (changes, reason) in [
        (json!({ "iss": provider.issuer(), "exp": super::NOW - 3600 }), reason::TOKEN_EXPIRED),
        (json!({ "iss": "https://other.example" }), reason::TOKEN_ISSUER_MISMATCH),
        (json!({ "iss": provider.issuer(), "aud": "other" }), reason::TOKEN_AUDIENCE_MISMATCH),
    ] {
        assert!(matches!(issuer.verify(&foreign.token(&changes), &mut exchange()), Verification::Refused(got) if got == reason));
    }
    assert_eq!(provider.document_fetches(), 0);
}

#[tokio::test]
async fn an_unchanged_set_is_confirmed_without_a_body() {
    let key = Signer::new("a");
    let provider = Provider::start(&[&key]).await;
    provider.answer_keys(Answer::Tagged(jwks(&[key.jwk()]), "\"v1\""));
    let issuer = issuer(&World::default(), &provider).await;
    let token = token(&key, &provider);
    verdict(&issuer, &token).await.unwrap();
    issuer.store().clock().advance(Duration::from_secs(301));
    let fetch = issuer.store().refresh_if_due(&issuer.settings().pace).expect("due after `refresh`");
    fetch.await;
    assert_eq!(provider.not_modified(), 1);
    assert!(issuer.store().age().unwrap() < Duration::from_secs(301), "a confirmation is a good answer");
    verdict(&issuer, &token).await.unwrap();
    assert!(issuer.store().refresh_if_due(&issuer.settings().pace).is_none());
}

#[tokio::test]
async fn keys_that_flap_are_kept_for_as_long_as_configured() {
    let (a, b) = (Signer::new("a"), Signer::new("b"));
    let provider = Provider::start(&[&a]).await;
    let mut config = config(&provider);
    config.retire_after = Some(TimeSpan::secs(900));
    let issuer = World::default().load(config).get("main").unwrap();
    verdict(&issuer, &token(&a, &provider)).await.unwrap();
    provider.publish(&[&b]);
    verdict(&issuer, &token(&b, &provider)).await.unwrap();
    verdict(&issuer, &token(&a, &provider)).await.expect("within retire_after");
    issuer.store().clock().advance(Duration::from_secs(901));
    issuer.store().refresh_if_due(&issuer.settings().pace).unwrap().await;
    assert_eq!(verdict(&issuer, &token(&a, &provider)).await.unwrap_err(), reason::TOKEN_KID_UNKNOWN);
}

#[tokio::test]
async fn every_algorithm_of_the_configuration_verifies_and_no_other() {
    let (p256, p384, p521, ed) = (Signer::new("p256"), Signer::p384("p384"), Signer::p521("p521"), Signer::ed25519("ed"));
    let rsa = Signer::shared_rsa();
    let all = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"];
    let keys = jwks(&[p256.bare_jwk(), p384.bare_jwk(), p521.bare_jwk(), ed.bare_jwk(), rsa.bare_jwk()]);
    for configured in &all[..10] {
        let mut config = IssuerConfig::new(super::ISSUER, [super::AUDIENCE]);
        config.algorithms = vec![crate::Algorithm::from_name(configured).unwrap()];
        let issuer = super::offline(config, &keys);
        for alg in all {
            let signer = match alg {
                "ES256" => &p256,
                "ES384" => &p384,
                "ES512" => &p521,
                "EdDSA" | "Ed25519" => &ed,
                _ => rsa,
            };
            let result = verdict(&issuer, &signer.token_headed(&json!({ "alg": alg }))).await;
            let same = alg == *configured || (alg == "Ed25519" && *configured == "EdDSA");
            match result {
                Ok(_) => assert!(same, "{alg} with {configured}"),
                Err(got) => assert!(!same && got == reason::TOKEN_ALG_REFUSED, "{alg} with {configured}: {got}"),
            }
        }
    }
}

#[tokio::test]
async fn another_implementation_signs_what_this_one_verifies() {
    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
    let (p256, p384, ed) = (Signer::new("p256"), Signer::p384("p384"), Signer::ed25519("ed"));
    let keys = jwks(&[p256.jwk(), p384.jwk(), ed.jwk()]);
    let issuer = super::offline(IssuerConfig::new(super::ISSUER, [super::AUDIENCE]), &keys);
    for (signer, alg, key) in [
        (&p256, Algorithm::ES256, EncodingKey::from_ec_der(&p256.pkcs8())),
        (&p384, Algorithm::ES384, EncodingKey::from_ec_der(&p384.pkcs8())),
        (&ed, Algorithm::EdDSA, EncodingKey::from_ed_der(&ed.pkcs8())),
    ] {
        let mut header = Header::new(alg);
        header.kid = Some(signer.kid.clone());
        let token = encode(&header, &super::signer::claims(), &key).unwrap();
        verdict(&issuer, &token).await.unwrap_or_else(|reason| panic!("{alg:?}: {reason}"));
    }
}

#[tokio::test]
async fn a_token_without_key_id_needs_a_set_without_choice() {
    let (a, b) = (Signer::new("a"), Signer::new("b"));
    let token = a.token_headed(&json!({ "kid": null }));
    let config = || IssuerConfig::new(super::ISSUER, [super::AUDIENCE]);
    // A key of another kind, or one for encryption, is no choice.
    let encryption = json!({ "kty": "EC", "crv": "P-256", "use": "enc", "kid": "e", "x": b64([1; 32]), "y": b64([1; 32]) });
    let one = super::offline(config(), &jwks(&[a.jwk(), Signer::ed25519("ed").jwk(), encryption]));
    verdict(&one, &token).await.unwrap();
    let two = super::offline(config(), &jwks(&[a.jwk(), b.jwk()]));
    assert_eq!(verdict(&two, &token).await.unwrap_err(), reason::TOKEN_KID_UNKNOWN);
}

#[tokio::test]
async fn a_fetch_that_began_before_the_rotation_is_followed_by_another() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let provider = Provider::start(&[&old]).await;
    let issuer = issuer(&World::default(), &provider).await;
    verdict(&issuer, &token(&old, &provider)).await.unwrap();
    provider.close_gate();
    issuer.store().clock().advance(Duration::from_secs(301));
    let regular = issuer.store().refresh_if_due(&issuer.settings().pace).unwrap();
    until("the regular fetch", || provider.key_fetches() == 2).await;
    // Its answer is already made, with the old key.
    provider.publish(&[&new]);
    let new_token = token(&new, &provider);
    let Verification::Wait(keys) = issuer.verify(&new_token, &mut exchange()) else { panic!("the key is not known yet") };
    provider.open_gate();
    keys.await;
    regular.await;
    issuer.verify_after_wait(&new_token, crate::Obtained::default(), &mut exchange()).expect("asked once more");
    assert_eq!(provider.key_fetches(), 3);
}
