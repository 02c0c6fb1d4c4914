//! Tokens that this gateway was told are revoked.

use super::introspection::Asking;
use super::signer::{Signer, b64, jwks};
use super::{AUDIENCE, ISSUER, NOW, World, exchange, explained, now, until, verdict};
use crate::revocation::Told;
use crate::{IssuerConfig, Issuers, NotRevoked, Revoked, Verification};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis_plugin::reason;
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

const KEEP: Duration = Duration::from_secs(3600);

fn revoke(issuers: &Issuers, revoked: Revoked<'_>) -> Result<Told, NotRevoked> {
    issuers.revoke(revoked, now(), KEEP, 100)
}

/// Keys from a file: nothing is fetched.
fn load(world: &World, signer: &Signer, changes: impl FnOnce(&mut IssuerConfig)) -> Arc<Issuers> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    std::fs::write(&file, jwks(&[signer.jwk()])).unwrap();
    let mut config = IssuerConfig::new(ISSUER, [AUDIENCE]);
    config.jwks_file = Some(file.display().to_string());
    config.algorithms = vec![crate::Algorithm::Es256];
    changes(&mut config);
    world.load(config)
}

/// The other signature that is good for the same text: `(r, n - s)`.
fn other_signature(token: &str) -> String {
    const N: &str = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
    let n: Vec<u8> = (0..32).map(|at| u8::from_str_radix(&N[2 * at..2 * at + 2], 16).unwrap()).collect();
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let mut bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let mut borrow = 0;
    for at in (0..32).rev() {
        let digit = i32::from(n[at]) - i32::from(bytes[32 + at]) - borrow;
        borrow = i32::from(digit < 0);
        bytes[32 + at] = u8::try_from(digit.rem_euclid(256)).unwrap();
    }
    format!("{signed}.{}", b64(bytes))
}

#[tokio::test]
async fn a_jwt_is_refused_at_once_in_every_form_that_its_signature_has() {
    let (world, signer) = (World::default(), Signer::new("1"));
    let issuers = load(&world, &signer, |_| {});
    let issuer = issuers.get("main").unwrap();
    let (token, other) = (signer.token(&json!({})), signer.token(&json!({ "sub": "bob" })));
    let twin = other_signature(&token);
    assert_ne!(token, twin);
    for good in [&token, &twin, &other] {
        verdict(&issuer, good).await.unwrap();
    }
    let told = revoke(&issuers, Revoked::Token(&token)).unwrap();
    // Until it has ended for the largest leeway too, and no longer.
    assert_eq!(told.until, UNIX_EPOCH + Duration::from_secs(NOW + 300 + 1800));
    assert_eq!(told.sha256.as_deref().map(str::len), Some(64));
    for revoked in [&token, &twin] {
        assert_eq!(verdict(&issuer, revoked).await.unwrap_err(), reason::TOKEN_REVOKED);
    }
    verdict(&issuer, &other).await.unwrap();
    let (result, checks) = explained(&issuer, &token);
    assert_eq!(result.unwrap_err(), reason::TOKEN_REVOKED);
    let check = checks.iter().find(|check| check.check == "revoked").unwrap();
    assert!(!check.ok && check.finding.hint.as_deref().unwrap().contains("refused until 2027-"), "{check:?}");
    assert!(!format!("{checks:?}").contains(token.rsplit('.').next().unwrap()));
}

#[tokio::test]
async fn a_jwt_is_refused_by_its_issuer_and_id() {
    let (world, signer) = (World::default(), Signer::new("1"));
    let issuers = load(&world, &signer, |_| {});
    let issuer = issuers.get("main").unwrap();
    let token = |jti: &str| signer.token(&json!({ "jti": jti }));
    verdict(&issuer, &token("a")).await.unwrap();
    let id = |issuer, jti, exp| Revoked::Id { issuer, jti, exp };
    assert_eq!(
        revoke(&issuers, id("https://sso.example.com/realms/acme/", "a", None)),
        Err(NotRevoked::UnknownIssuer("https://sso.example.com/realms/acme/".to_owned()))
    );
    verdict(&issuer, &token("a")).await.unwrap();
    assert_eq!(revoke(&issuers, id(ISSUER, "a", None)).unwrap().until, now() + KEEP);
    assert_eq!(revoke(&issuers, id(ISSUER, "b", Some(NOW + 9))).unwrap().until, now() + Duration::from_secs(1809));
    for jti in ["a", "b"] {
        assert_eq!(verdict(&issuer, &token(jti)).await.unwrap_err(), reason::TOKEN_REVOKED, "{jti}");
    }
    verdict(&issuer, &token("c")).await.unwrap();
    verdict(&issuer, &signer.token(&json!({}))).await.unwrap();
    // An id does not save a token that is bad anyway, and is not told to who cannot show the token.
    assert_eq!(
        verdict(&issuer, &Signer::new("1").token(&json!({ "jti": "a" }))).await.unwrap_err(),
        reason::TOKEN_SIGNATURE_INVALID
    );
}

#[tokio::test]
async fn it_stays_so_over_a_reload_that_changes_everything_about_the_issuer() {
    let (world, signer) = (World::default(), Signer::new("1"));
    let (token, by_id) = (signer.token(&json!({})), signer.token(&json!({ "jti": "a" })));
    let before = load(&world, &signer, |_| {});
    revoke(&before, Revoked::Token(&token)).unwrap();
    revoke(&before, Revoked::Id { issuer: ISSUER, jti: "a", exp: None }).unwrap();
    let after = load(&world, &signer, |config| config.audiences.push("another".to_owned()));
    for issuers in [&after, &before] {
        let issuer = issuers.get("main").unwrap();
        for token in [&token, &by_id] {
            assert_eq!(verdict(&issuer, token).await.unwrap_err(), reason::TOKEN_REVOKED);
        }
    }
    assert_eq!(world.metric("portcullis_revocations"), Some(2.0));
    // And one that comes while requests of the earlier configuration still run.
    let other = signer.token(&json!({ "sub": "bob" }));
    verdict(&before.get("main").unwrap(), &other).await.unwrap();
    revoke(&after, Revoked::Token(&other)).unwrap();
    assert_eq!(verdict(&before.get("main").unwrap(), &other).await.unwrap_err(), reason::TOKEN_REVOKED);
}

#[tokio::test]
async fn an_opaque_token_is_refused_though_its_issuer_was_just_asked() {
    let asking = Asking::start(&json!({ "ttl": "1h" })).await;
    verdict(&asking.issuer, "opaque").await.unwrap();
    let told = revoke(&asking.issuers, Revoked::Token("opaque")).unwrap();
    assert_eq!(told.until, now() + KEEP);
    assert_eq!(verdict(&asking.issuer, "opaque").await.unwrap_err(), reason::TOKEN_REVOKED);
    assert_eq!(asking.count(), 1, "the issuer is not asked either");
    verdict(&asking.issuer, "another").await.unwrap();
    // One that lives longer than what is kept is refused to its own end, if that is known.
    asking.say(&json!({ "exp": NOW + 100_000 }));
    verdict(&asking.issuer, "long").await.unwrap();
    assert_eq!(revoke(&asking.issuers, Revoked::Token("long")).unwrap().until, UNIX_EPOCH + Duration::from_secs(NOW + 101_800));
    // By its id too, where the issuer names one.
    asking.say(&json!({ "jti": "a" }));
    verdict(&asking.issuer, "with-id").await.unwrap();
    let issuer = asking.provider.issuer();
    revoke(&asking.issuers, Revoked::Id { issuer: &issuer, jti: "a", exp: None }).unwrap();
    assert_eq!(verdict(&asking.issuer, "with-id").await.unwrap_err(), reason::TOKEN_REVOKED);
}

#[tokio::test]
async fn what_is_revoked_while_the_issuer_is_asked_about_it_does_not_pass() {
    let asking = Asking::with(&[], &json!({ "ttl": "1h" }), |config| {
        config.timeout = Some(portcullis_plugin::units::TimeSpan::secs(60));
        config.max_wait = Some(portcullis_plugin::units::TimeSpan::secs(60));
    })
    .await;
    asking.provider.close_gate();
    let mut exchange = exchange();
    let Verification::Wait(obtained) = asking.issuer.verify("opaque", &mut exchange) else { panic!("it did not ask") };
    let obtained = tokio::spawn(obtained);
    until("the question", || asking.count() == 1).await;
    revoke(&asking.issuers, Revoked::Token("opaque")).unwrap();
    asking.provider.open_gate();
    let obtained = obtained.await.unwrap();
    assert_eq!(asking.issuer.verify_after_wait("opaque", obtained, &mut exchange).unwrap_err(), reason::TOKEN_REVOKED);
    assert_eq!(verdict(&asking.issuer, "opaque").await.unwrap_err(), reason::TOKEN_REVOKED);
}

#[tokio::test]
async fn with_no_room_the_verdict_is_forgotten_all_the_same() {
    let asking = Asking::start(&json!({ "ttl": "1h" })).await;
    verdict(&asking.issuer, "opaque").await.unwrap();
    let full = asking.issuers.revoke(Revoked::Token("opaque"), now(), KEEP, 0);
    assert_eq!(full, Err(NotRevoked::Full(0)));
    asking.say(&json!({ "active": false }));
    assert_eq!(verdict(&asking.issuer, "opaque").await.unwrap_err(), reason::TOKEN_INACTIVE);
    assert_eq!(asking.count(), 2, "it was asked about anew");
}

#[tokio::test]
async fn an_explanation_says_that_it_does_not_know() {
    let (world, signer) = (World::default(), Signer::new("1"));
    let issuers = load(&world, &signer, |_| {});
    let issuer = issuers.get("main").unwrap();
    let told = || explained(&issuer, &signer.token(&json!({}))).1.into_iter().find(|check| check.check == "revoked");
    assert!(told().is_none());
    issuers.revocations().open();
    assert!(told().is_some_and(|check| check.ok && check.finding.observed == "not known here"));
}
