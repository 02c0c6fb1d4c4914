//! The provider is away, slow, or talks nonsense.

use super::provider::{Answer, Provider};
use super::signer::{Signer, jwks};
use super::{World, exchange_at, now, until, verdict};
use crate::{Issuer, IssuerConfig, Issuers, Verification};
use portcullis_plugin::reason;
use portcullis_plugin::units::{ByteSize, TimeSpan};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

fn config(provider: &Provider) -> IssuerConfig {
    let mut config = IssuerConfig::new(provider.issuer(), [super::AUDIENCE]);
    config.timeout = Some(TimeSpan::millis(300));
    config
}

fn token(signer: &Signer, provider: &Provider) -> String {
    signer.token(&json!({ "iss": provider.issuer() }))
}

fn nonsense() -> Vec<(&'static str, Answer)> {
    let private =
        json!({ "kty": "OKP", "crv": "Ed25519", "kid": "a", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "d": "nWGxne" });
    vec![
        ("500", Answer::Status(500)),
        ("404", Answer::Status(404)),
        ("204", Answer::Status(204)),
        ("304 unasked", Answer::Status(304)),
        ("html", Answer::Typed("<html>maintenance</html>".into(), "text/html")),
        ("empty set", Answer::Json(r#"{"keys":[]}"#.into())),
        ("no set", Answer::Json("{}".into())),
        ("null", Answer::Json("null".into())),
        ("half", Answer::Json(r#"{"keys":[{"kty":"RSA""#.into())),
        ("symmetric only", Answer::Json(r#"{"keys":[{"kty":"oct","kid":"a","k":"AAAA"}]}"#.into())),
        ("private key", Answer::Json(jwks(&[private]))),
        ("two sets", Answer::Json(r#"{"keys":[],"keys":[]}"#.into())),
        // A good set but for its size.
        ("huge", Answer::Json(jwks(&[Signer::new("huge").jwk()]) + &" ".repeat(crate::fetch::MOST_BYTES))),
        ("redirect", Answer::Redirect("https://keys.example.com/".into())),
        ("hang", Answer::Hang),
    ]
}

#[tokio::test]
async fn nonsense_never_takes_the_place_of_good_keys() {
    let key = Signer::new("a");
    let provider = Provider::start(&[&key]).await;
    let mut config = config(&provider);
    config.cache = ByteSize(0);
    let issuer = World::default().load(config).get("main").unwrap();
    let token = token(&key, &provider);
    verdict(&issuer, &token).await.unwrap();
    for (name, answer) in nonsense() {
        provider.answer_keys(answer);
        issuer.store().clock().advance(Duration::from_secs(301));
        let before = provider.key_fetches();
        issuer.store().refresh_if_due(&issuer.settings().pace).expect(name).await;
        assert_eq!(provider.key_fetches(), before + 1, "{name}");
        assert!(issuer.store().is_away(), "{name} counts as a failure");
        verdict(&issuer, &token).await.unwrap_or_else(|reason| panic!("after {name}: {reason}"));
    }
}

#[tokio::test]
async fn nonsense_at_the_start_is_an_outage_and_not_a_bad_token() {
    let key = Signer::new("a");
    for (name, answer) in nonsense() {
        let provider = Provider::start(&[]).await;
        provider.answer_keys(answer);
        let issuer = World::default().load(config(&provider)).get("main").unwrap();
        assert_eq!(verdict(&issuer, &token(&key, &provider)).await.unwrap_err(), reason::ISSUER_UNAVAILABLE, "{name}");
        // A token that no key could save is still its sender's fault.
        let expired = key.token(&json!({ "iss": provider.issuer(), "exp": 1 }));
        assert_eq!(verdict(&issuer, &expired).await.unwrap_err(), reason::TOKEN_EXPIRED, "{name}");
    }
}

#[tokio::test]
async fn a_document_of_another_issuer_or_nonsense_gives_no_keys() {
    let key = Signer::new("a");
    let provider = Provider::start(&[&key]).await;
    let address = provider.address;
    for (name, answer) in [
        ("other issuer", Answer::Json(format!(r#"{{"issuer":"http://{address}/","jwks_uri":"http://{address}/keys"}}"#))),
        (
            "keys elsewhere in plain",
            Answer::Json(format!(r#"{{"issuer":"http://{address}","jwks_uri":"http://192.0.2.1/keys"}}"#)),
        ),
        ("html", Answer::Typed("<html>".into(), "text/html")),
        ("500", Answer::Status(500)),
        ("redirect", Answer::Redirect(format!("http://{address}/elsewhere"))),
    ] {
        provider.answer_document(answer);
        let issuer = World::default().load(config(&provider)).get("main").unwrap();
        assert_eq!(verdict(&issuer, &token(&key, &provider)).await.unwrap_err(), reason::ISSUER_UNAVAILABLE, "{name}");
    }
    assert_eq!(provider.key_fetches(), 0);
}

#[tokio::test]
async fn odd_content_types_are_fine() {
    let key = Signer::new("a");
    let provider = Provider::start(&[&key]).await;
    provider.answer_keys(Answer::Typed(jwks(&[key.jwk()]), "text/plain; charset=x"));
    let issuer = World::default().load(config(&provider)).get("main").unwrap();
    verdict(&issuer, &token(&key, &provider)).await.unwrap();
}

#[tokio::test]
async fn known_keys_are_used_while_the_issuer_is_away_and_no_longer_than_configured() {
    let (key, new) = (Signer::new("a"), Signer::new("new"));
    let mut provider = Provider::start(&[&key]).await;
    let mut config = config(&provider);
    config.max_stale = Some(TimeSpan::secs(3600));
    let issuer = World::default().load(config).get("main").unwrap();
    let (known, unknown) = (token(&key, &provider), token(&new, &provider));
    verdict(&issuer, &known).await.unwrap();
    provider.stop().await;

    issuer.store().clock().advance(Duration::from_secs(3500));
    verdict(&issuer, &known).await.expect("stale, and still good");
    assert_eq!(
        verdict(&issuer, &unknown).await.unwrap_err(),
        reason::ISSUER_UNAVAILABLE,
        "its key may have been published since"
    );

    issuer.store().clock().advance(Duration::from_secs(200));
    assert_eq!(verdict(&issuer, &known).await.unwrap_err(), reason::ISSUER_UNAVAILABLE, "also not from the cache");

    provider.publish(&[&new]);
    provider.restart().await;
    issuer.store().clock().advance(Duration::from_secs(11));
    verdict(&issuer, &unknown).await.expect("the next token after the back-off heals it");
    assert_eq!(verdict(&issuer, &known).await.unwrap_err(), reason::TOKEN_KID_UNKNOWN);
}

#[tokio::test]
async fn failed_fetches_back_off() {
    let key = Signer::new("a");
    let provider = Provider::start(&[]).await;
    provider.answer_document(Answer::Status(503));
    let issuer = World::default().load(config(&provider)).get("main").unwrap();
    for _ in 0..100 {
        assert_eq!(verdict(&issuer, &token(&key, &provider)).await.unwrap_err(), reason::ISSUER_UNAVAILABLE);
    }
    let first = provider.document_fetches();
    assert!(first <= 3, "{first} fetches for 100 requests");
    issuer.store().clock().advance(Duration::from_secs(11));
    assert_eq!(verdict(&issuer, &token(&key, &provider)).await.unwrap_err(), reason::ISSUER_UNAVAILABLE);
    assert_eq!(provider.document_fetches(), first + 1);
}

#[tokio::test]
async fn a_request_waits_no_longer_than_max_wait() {
    let key = Signer::new("a");
    let provider = Provider::start(&[&key]).await;
    let mut config = config(&provider);
    config.timeout = Some(TimeSpan::secs(3600));
    config.max_wait = Some(TimeSpan::millis(50));
    let issuer = World::default().load(config).get("main").unwrap();
    provider.close_gate();
    // With the fetch still under way: this ends only if the wait is bounded.
    assert_eq!(verdict(&issuer, &token(&key, &provider)).await.unwrap_err(), reason::ISSUER_UNAVAILABLE);
    assert_eq!(verdict(&issuer, &token(&key, &provider)).await.unwrap_err(), reason::ISSUER_UNAVAILABLE);
    assert_eq!(provider.key_fetches(), 1);
    provider.open_gate();
}

#[tokio::test]
async fn a_client_that_goes_away_does_not_end_the_fetch_of_others() {
    let key = Signer::new("a");
    let provider = Provider::start(&[&key]).await;
    let issuer = World::default().load(config(&provider)).get("main").unwrap();
    provider.close_gate();
    let token = token(&key, &provider);
    let Verification::Wait(first) = issuer.verify(&token, &mut exchange_at(now())) else { panic!("there are no keys yet") };
    let first = tokio::spawn(first);
    until("the fetch", || provider.key_fetches() > 0).await;
    first.abort();
    let second = {
        let (issuer, token) = (Arc::clone(&issuer), token.clone());
        tokio::spawn(async move { verdict(&issuer, &token).await })
    };
    provider.open_gate();
    second.await.unwrap().unwrap();
    assert_eq!(provider.key_fetches(), 1);
}

#[tokio::test]
async fn a_reload_while_the_provider_is_down_keeps_the_keys() {
    let key = Signer::new("a");
    let mut provider = Provider::start(&[&key]).await;
    let world = World::default();
    let before = world.load(config(&provider));
    verdict(&before.get("main").unwrap(), &token(&key, &provider)).await.unwrap();
    provider.stop().await;
    let mut changed = config(&provider);
    changed.leeway = TimeSpan::secs(1);
    changed.audiences.push("another".into());
    let after = world.load(changed);
    drop(before);
    verdict(&after.get("main").unwrap(), &token(&key, &provider)).await.expect("the keys of before");
    // A reload that takes keys from elsewhere must not use those of before.
    let mut elsewhere = config(&provider);
    elsewhere.jwks_uri = Some(format!("{}/other", provider.issuer()));
    let elsewhere = world.load(elsewhere);
    assert_eq!(verdict(&elsewhere.get("main").unwrap(), &token(&key, &provider)).await.unwrap_err(), reason::ISSUER_UNAVAILABLE);
}

#[tokio::test]
async fn started_issuers_fetch_by_themselves_show_it_in_metrics_and_end_with_their_configuration() {
    let key = Signer::new("a");
    let provider = Provider::start(&[&key]).await;
    let world = World::default();
    let issuers = world.load(config(&provider));
    issuers.start();
    issuers.start();
    until("the key", || world.metric("portcullis_issuer_keys") == Some(1.0)).await;
    assert_eq!(provider.key_fetches(), 1, "nobody had to ask");
    issuers.get("main").unwrap().store().clock().advance(Duration::from_secs(100));
    until("the age", || world.metric("portcullis_issuer_keys_age_seconds").is_some_and(|age| age >= 100.0)).await;
    assert!(issuers.get("main").unwrap().is_ready());
    let task_holds = Arc::downgrade(&issuers.get("main").unwrap());
    drop(issuers);
    until("the end of the issuer", || task_holds.strong_count() == 0).await;
    world.kept.begin();
    world.kept.sweep();
    until("the end of the metric", || world.metric("portcullis_issuer_keys").is_none()).await;
}

/// The hint of the check of the key.
async fn told(issuer: &Arc<Issuer>, token: &str) -> portcullis_plugin::Finding {
    let mut exchange = exchange_at(now());
    let reason = match issuer.verify(token, &mut exchange) {
        Verification::Verified(_) => panic!("it is good"),
        Verification::Refused(reason) => reason,
        Verification::Wait(keys) => issuer.verify_after_wait(token, keys.await, &mut exchange).unwrap_err(),
    };
    let check = exchange.checks().iter().find(|check| check.reason == reason).unwrap();
    assert_eq!(check.check, "key");
    check.finding.clone()
}

#[tokio::test]
async fn a_slow_provider_is_told_as_slow_and_whoever_explains_waits_for_it() {
    let (key, later) = (Signer::new("a"), Signer::new("b"));
    let provider = Provider::start(&[&key]).await;
    let mut slow = config(&provider);
    (slow.timeout, slow.max_wait) = (Some(TimeSpan::secs(30)), Some(TimeSpan::millis(50)));
    let issuer = World::default().load(slow.clone()).get("main").unwrap();
    provider.close_gate();
    let none = told(&issuer, &token(&key, &provider)).await;
    assert!(none.hint.as_ref().is_some_and(|hint| hint.contains("not answered within `max_wait` (50ms)")), "{none:?}");
    provider.open_gate();
    until("the keys", || issuer.is_ready()).await;
    provider.publish(&[&later, &key]);
    provider.close_gate();
    // A key that is not known, while others are.
    let unknown = told(&issuer, &token(&later, &provider)).await;
    assert!(unknown.hint.as_ref().is_some_and(|hint| hint.contains("`max_wait`")), "{unknown:?}");
    provider.open_gate();

    let configs = std::collections::BTreeMap::from([("main".to_owned(), slow)]);
    let patient = Issuers::patient(&configs, &World::default().env()).unwrap().get("main").unwrap();
    provider.close_gate();
    let (waiting, asked) = (Arc::clone(&patient), token(&later, &provider));
    let before = provider.key_fetches();
    let waiting = tokio::spawn(async move { verdict(&waiting, &asked).await });
    until("the question", || provider.key_fetches() > before).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished(), "longer than `max_wait`");
    provider.open_gate();
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_unknown_key_is_told_beside_those_that_are_published_and_how_old_they_are() {
    let (key, other, enc) = (Signer::new("a"), Signer::new("zz"), Signer::new("enc"));
    let provider = Provider::start(&[&key]).await;
    let mut encryption = enc.jwk();
    encryption["use"] = "enc".into();
    provider.answer_keys(Answer::Json(jwks(&[key.jwk(), encryption])));
    let issuer = World::default().load(config(&provider)).get("main").unwrap();
    let unknown = told(&issuer, &token(&other, &provider)).await;
    assert!(
        unknown.expected.starts_with("a key that the issuer publishes: a, fetched ") && unknown.observed.contains("zz"),
        "{unknown:?}"
    );
    assert!(unknown.hint.as_ref().is_some_and(|hint| hint.contains("comes from another issuer")), "{unknown:?}");
    let named = told(&issuer, &token(&enc, &provider)).await;
    assert!(named.hint.as_ref().is_some_and(|hint| hint.contains("verifies nothing: ")), "{named:?}");

    // The document says something else by now, and the keys are still where it said before.
    provider.answer_document(Answer::Json(r#"{"issuer":"https://evil.example","jwks_uri":"https://evil.example/k"}"#.into()));
    issuer.store().clock().advance(Duration::from_secs(7200));
    issuer.store().refresh_if_due(&issuer.settings().pace).unwrap().await;
    let moved = told(&issuer, &token(&other, &provider)).await;
    assert!(moved.hint.as_ref().is_some_and(|hint| hint.contains("its issuer is `https://evil.example`")), "{moved:?}");
}

#[tokio::test]
async fn keys_that_are_too_old_are_told_with_how_old_they_may_be() {
    let key = Signer::new("a");
    let mut provider = Provider::start(&[&key]).await;
    let mut configured = config(&provider);
    (configured.refresh, configured.max_stale) = (Some(TimeSpan::secs(60)), Some(TimeSpan::secs(3600)));
    let issuer = World::default().load(configured).get("main").unwrap();
    let token = token(&key, &provider);
    verdict(&issuer, &token).await.unwrap();
    provider.stop().await;
    issuer.store().clock().advance(Duration::from_secs(7260));
    let stale = told(&issuer, &token).await;
    assert!(stale.observed.contains("2 h 1 min old, more than `max_stale` (1 h) allows"), "{stale:?}");
    assert!(stale.hint.as_ref().is_some_and(|hint| hint.starts_with("the last attempt failed: cannot reach")), "{stale:?}");
}
