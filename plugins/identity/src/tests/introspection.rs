//! Tokens that the issuer is asked about.

use super::provider::{Answer, Provider};
use super::signer::{Signer, merged};
use super::{AUDIENCE, NOW, World, until, verdict};
use crate::introspection::Introspector;
use crate::{IntrospectionConfig, Issuer, IssuerConfig, Issuers};
use portcullis_plugin::env::Kept;
use portcullis_plugin::prometheus::Registry;
use portcullis_plugin::units::TimeSpan;
use portcullis_plugin::{Env, reason};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const SECRET: &str = "s3cret/with:odd characters";

pub(super) struct Asking {
    pub provider: Provider,
    pub issuer: Arc<Issuer>,
    pub issuers: Arc<Issuers>,
}

impl Asking {
    pub async fn start(changes: &Value) -> Self {
        Self::with(&[], changes, |_| {}).await
    }

    pub async fn with(signers: &[&Signer], changes: &Value, and: impl FnOnce(&mut IssuerConfig)) -> Self {
        let provider = Provider::start(signers).await;
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("secret"), format!("{SECRET}\nnot this")).unwrap();
        let base = json!({ "client_id": "edge:1", "client_secret_file": "secret" });
        let asking: IntrospectionConfig = serde_json::from_value(merged(base, changes)).unwrap();
        let mut config = IssuerConfig::new(provider.issuer(), [AUDIENCE]);
        config.introspection = Some(asking);
        config.timeout = Some(TimeSpan::millis(300));
        and(&mut config);
        let env = Env::new(folder.path(), Registry::new(), Arc::new(Kept::default()));
        let issuers = Issuers::compile(&BTreeMap::from([("main".to_owned(), config)]), &env).unwrap();
        let issuer = issuers.get("main").unwrap();
        let asking = Self { provider, issuer, issuers };
        asking.say(&json!({}));
        asking
    }

    /// The issuer's answer from now on; `null` takes a member away.
    pub fn say(&self, changes: &Value) {
        self.provider.answer_token(Answer::Json(merged(active(), changes).to_string()));
    }

    fn asked(&self) -> &Arc<Introspector> {
        self.issuer.introspector().unwrap()
    }

    pub fn count(&self) -> usize {
        self.provider.questions().len()
    }
}

fn active() -> Value {
    json!({ "active": true, "aud": AUDIENCE, "sub": "alice", "client_id": "web", "scope": "orders.read orders.write",
        "exp": NOW + 300, "token_type": "Bearer" })
}

#[tokio::test]
async fn an_active_token_becomes_a_principal_and_is_asked_about_once() {
    let asking = Asking::start(&json!({})).await;
    for _ in 0..3 {
        let verified = verdict(&asking.issuer, "opaque+/=").await.unwrap();
        let principal = verified.principal();
        assert_eq!((&*principal.subject, principal.client_id.as_deref()), ("alice", Some("web")));
        assert_eq!(principal.scopes.len(), 2);
    }
    let (authorization, form) = asking.provider.questions().pop().unwrap();
    // RFC 6749, section 2.3.1: each part is encoded as a form before they are joined.
    assert_eq!(authorization, "Basic ZWRnZSUzQTE6czNjcmV0JTJGd2l0aCUzQW9kZCtjaGFyYWN0ZXJz");
    assert_eq!(form, "token=opaque%2B%2F%3D&token_type_hint=access_token");
    assert_eq!((asking.count(), asking.provider.key_fetches()), (1, 0));
    verdict(&asking.issuer, "another").await.unwrap();
    asking.asked().clock().advance(Duration::from_secs(31));
    verdict(&asking.issuer, "another").await.unwrap();
    assert_eq!(asking.count(), 3, "again after the ttl");
}

#[tokio::test]
async fn a_revoked_token_is_refused_at_once_with_no_ttl_and_after_it_with_one() {
    for (ttl, tokens, token) in
        [("0s", "opaque", None), ("30s", "opaque", None), ("0s", "all", Some(())), ("30s", "all", Some(()))]
    {
        let key = Signer::new("a");
        let asking = Asking::with(&[&key], &json!({ "ttl": ttl, "tokens": tokens }), |_| {}).await;
        let jwt = key.token(&json!({ "iss": asking.provider.issuer() }));
        let token = if token.is_some() { jwt.as_str() } else { "opaque" };
        verdict(&asking.issuer, token).await.unwrap();
        asking.provider.answer_token(Answer::Json(r#"{"active":false,"sub":"alice"}"#.into()));
        if ttl == "30s" {
            verdict(&asking.issuer, token).await.expect("what was told is still believed");
            asking.asked().clock().advance(Duration::from_secs(31));
        }
        assert_eq!(verdict(&asking.issuer, token).await.unwrap_err(), reason::TOKEN_INACTIVE, "{ttl} {tokens}");
        let before = asking.count();
        assert_eq!(verdict(&asking.issuer, token).await.unwrap_err(), reason::TOKEN_INACTIVE);
        assert_eq!(asking.count(), before, "remembered for a moment");
    }
}

#[tokio::test]
async fn a_jwt_is_verified_here_before_anybody_is_asked() {
    let (key, stranger) = (Signer::new("a"), Signer::new("a"));
    for (tokens, questions) in [("opaque", 0), ("all", 1)] {
        let asking = Asking::with(&[&key], &json!({ "tokens": tokens }), |_| {}).await;
        let issuer = asking.provider.issuer();
        verdict(&asking.issuer, &key.token(&json!({ "iss": issuer }))).await.unwrap();
        assert_eq!(asking.count(), questions);
        // The issuer calls everything active: a forged token must not get that far.
        for (token, why) in [
            (stranger.token(&json!({ "iss": issuer })), reason::TOKEN_SIGNATURE_INVALID),
            (key.token(&json!({ "iss": issuer, "aud": "other" })), reason::TOKEN_AUDIENCE_MISMATCH),
            (key.token(&json!({ "iss": issuer, "exp": 1 })), reason::TOKEN_EXPIRED),
        ] {
            assert_eq!(verdict(&asking.issuer, &token).await.unwrap_err(), why);
        }
        assert_eq!(asking.count(), questions);
    }
}

#[tokio::test]
async fn an_answer_is_judged_like_the_claims_of_a_jwt() {
    for (changes, why) in [
        (json!({ "aud": "other" }), reason::TOKEN_AUDIENCE_MISMATCH),
        (json!({ "aud": null }), reason::TOKEN_AUDIENCE_MISMATCH),
        (json!({ "iss": "https://other.example" }), reason::TOKEN_ISSUER_MISMATCH),
        (json!({ "exp": NOW - 31 }), reason::TOKEN_EXPIRED),
        (json!({ "exp": "soon" }), reason::TOKEN_MALFORMED),
        (json!({ "nbf": NOW + 31 }), reason::TOKEN_NOT_YET_VALID),
        (json!({ "cnf": { "jkt": "x" } }), reason::TOKEN_BINDING_MISMATCH),
        (json!({ "cnf": { "jkt": "x" }, "token_type": "DPoP" }), reason::TOKEN_BINDING_MISMATCH),
        (json!({ "token_type": "DPoP" }), reason::TOKEN_TYP_REFUSED),
        (json!({ "token_type": "refresh_token" }), reason::TOKEN_TYP_REFUSED),
        (json!({ "token_type": ["Bearer"] }), reason::TOKEN_TYP_REFUSED),
        // Keycloak's refresh tokens are active too.
        (json!({ "token_type": null, "typ": "Refresh" }), reason::TOKEN_TYP_REFUSED),
        (json!({ "sub": 7 }), reason::TOKEN_MALFORMED),
        // Whose it is cannot be guessed: a user name may change hands.
        (json!({ "sub": null, "username": "alice" }), reason::TOKEN_MALFORMED),
    ] {
        let asking = Asking::start(&json!({})).await;
        asking.say(&changes);
        assert_eq!(verdict(&asking.issuer, "opaque").await.map(|_| ()).unwrap_err(), why, "{changes}");
        assert_eq!(verdict(&asking.issuer, "opaque").await.map(|_| ()).unwrap_err(), why, "{changes}, remembered");
    }
}

#[tokio::test]
async fn what_rfc_7662_lets_an_issuer_leave_out_may_be_missing() {
    let asking = Asking::start(&json!({})).await;
    asking.say(&json!({ "sub": null, "token_type": null, "exp": null }));
    let verified = verdict(&asking.issuer, "of a client").await.unwrap();
    assert_eq!((&*verified.principal().subject, verified.principal().expires_at), ("web", None));
    let asking = Asking::start(&json!({ "require_audience": false })).await;
    asking.say(&json!({ "aud": null }));
    verdict(&asking.issuer, "without audience").await.unwrap();
    asking.say(&json!({ "aud": "other" }));
    assert_eq!(verdict(&asking.issuer, "of another").await.unwrap_err(), reason::TOKEN_AUDIENCE_MISMATCH);
}

#[tokio::test]
async fn an_expired_answer_is_not_used_again() {
    let asking = Asking::start(&json!({ "ttl": "1h" })).await;
    asking.say(&json!({ "exp": NOW + 1 }));
    verdict(&asking.issuer, "opaque").await.unwrap();
    let mut exchange = super::exchange_at(super::now() + Duration::from_secs(60));
    let crate::Verification::Refused(why) = asking.issuer.verify("opaque", &mut exchange) else {
        panic!("accepted after its end")
    };
    assert_eq!(why, reason::TOKEN_EXPIRED);
}

#[tokio::test]
async fn nonsense_and_silence_are_an_outage_and_never_a_verdict() {
    let fixed = |text: &str| Answer::Json(text.to_owned());
    for (name, answer) in [
        ("401", Answer::Status(401)),
        ("500", Answer::Status(500)),
        ("204", Answer::Status(204)),
        ("redirect", Answer::Redirect("https://elsewhere.example".into())),
        ("html", Answer::Typed("<html>".into(), "text/html")),
        ("empty", fixed("")),
        ("no active", fixed("{}")),
        ("active as text", fixed(r#"{"active":"true","aud":"orders-api","sub":"a"}"#)),
        ("active twice", fixed(r#"{"active":false,"active":true,"aud":"orders-api","sub":"a"}"#)),
        ("subject twice", fixed(r#"{"active":true,"aud":"orders-api","sub":"a","sub":"root"}"#)),
        ("a list", fixed("[true]")),
        ("huge", Answer::Json(active().to_string() + &" ".repeat(70_000))),
        ("endless", Answer::Json(" ".repeat(crate::fetch::MOST_BYTES + 1))),
        ("hang", Answer::Hang),
    ] {
        let asking = Asking::start(&json!({})).await;
        asking.provider.answer_token(answer);
        assert_eq!(verdict(&asking.issuer, "opaque").await.map(|_| ()).unwrap_err(), reason::ISSUER_UNAVAILABLE, "{name}");
        // What the issuer said about one token keeps no other out; only its silence does, for a moment.
        asking.say(&json!({}));
        let (expected, before) = (name != "hang", asking.count());
        assert_eq!(verdict(&asking.issuer, "another").await.is_ok(), expected, "{name}");
        assert_eq!(asking.count() - before, usize::from(expected), "{name}");
        asking.asked().clock().advance(Duration::from_secs(11));
        verdict(&asking.issuer, "opaque").await.unwrap_or_else(|reason| panic!("{name}: {reason}"));
    }
}

#[tokio::test]
async fn what_was_told_outlives_a_short_outage() {
    let mut asking = Asking::start(&json!({})).await;
    verdict(&asking.issuer, "known").await.unwrap();
    asking.provider.stop().await;
    verdict(&asking.issuer, "known").await.unwrap();
    assert_eq!(verdict(&asking.issuer, "unknown").await.unwrap_err(), reason::ISSUER_UNAVAILABLE);
    asking.asked().clock().advance(Duration::from_secs(31));
    assert_eq!(verdict(&asking.issuer, "known").await.unwrap_err(), reason::ISSUER_UNAVAILABLE, "but not its ttl");
}

#[tokio::test]
async fn a_crowd_with_one_token_asks_once_and_waits_no_longer_than_max_wait() {
    let asking = Asking::with(&[], &json!({ "ttl": "0s" }), |config| {
        config.timeout = Some(TimeSpan::secs(3600));
        config.max_wait = Some(TimeSpan::millis(100));
    })
    .await;
    asking.provider.close_gate();
    let crowd: Vec<_> = (0..50)
        .map(|_| {
            let issuer = Arc::clone(&asking.issuer);
            tokio::spawn(async move { verdict(&issuer, "opaque").await.map(|_| ()) })
        })
        .collect();
    until("the question", || asking.count() == 1).await;
    for one in crowd {
        // With the question still open: this ends only if the wait is bounded.
        assert_eq!(one.await.unwrap().unwrap_err(), reason::ISSUER_UNAVAILABLE);
    }
    assert_eq!(asking.count(), 1);
    asking.provider.open_gate();
}

#[tokio::test]
async fn no_more_questions_at_once_than_configured() {
    let asking = Asking::with(&[], &json!({ "concurrent": 2 }), |config| config.timeout = Some(TimeSpan::secs(60))).await;
    asking.provider.close_gate();
    let crowd: Vec<_> = (0..6)
        .map(|at| {
            let issuer = Arc::clone(&asking.issuer);
            tokio::spawn(async move { verdict(&issuer, &format!("token{at}")).await.map(|_| ()) })
        })
        .collect();
    until("two questions", || asking.count() == 2).await;
    // A third would come now, if it could.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(asking.count(), 2);
    asking.provider.open_gate();
    for one in crowd {
        one.await.unwrap().unwrap();
    }
    assert_eq!(asking.count(), 6);
}

#[tokio::test]
async fn the_memory_for_answers_is_bounded() {
    let asking = Asking::start(&json!({ "cache": "64KiB" })).await;
    for at in 0..200 {
        verdict(&asking.issuer, &format!("token{at}")).await.unwrap();
    }
    assert!(asking.asked().weight() <= 64 << 10);
    assert_eq!(asking.issuers.names().count(), 1);
}

#[tokio::test]
async fn the_secret_can_be_sent_in_the_body_and_is_shown_nowhere() {
    let asking = Asking::start(&json!({ "auth": "post" })).await;
    asking.provider.answer_token(Answer::Status(401));
    let mut exchange = super::exchange();
    let crate::Verification::Wait(wait) = asking.issuer.verify("opaque-secret-token", &mut exchange) else { panic!() };
    let obtained = wait.await;
    assert!(asking.issuer.verify_after_wait("opaque-secret-token", obtained, &mut exchange).is_err());
    let shown = format!("{:?} {:?}", exchange.checks(), asking.asked().silent());
    assert!(shown.contains("401") && shown.contains("credentials"), "{shown}");
    assert!(!shown.contains("s3cret") && !shown.contains("opaque-secret-token"), "{shown}");
    let (authorization, form) = asking.provider.questions().pop().unwrap();
    assert_eq!(authorization, "");
    assert!(form.ends_with("&client_id=edge%3A1&client_secret=s3cret%2Fwith%3Aodd+characters"), "{form}");
}

#[test]
fn what_could_not_ask_is_refused() {
    let base = json!({ "client_id": "edge", "client_secret_env": "CARGO_PKG_NAME" });
    let compile = |issuer: &Value, changes: &Value| {
        let mut whole = merged(json!({ "issuer": "https://a.example", "audiences": ["x"] }), issuer);
        whole["introspection"] = merged(base.clone(), changes);
        let config: IssuerConfig = serde_json::from_value(whole).unwrap();
        Issuers::compile(&BTreeMap::from([("main".to_owned(), config)]), &World::default().env())
    };
    compile(&json!({}), &json!({})).unwrap();
    for (issuer, changes, path, part) in [
        (json!({}), json!({ "client_secret_env": null }), "introspection", "no secret"),
        (json!({}), json!({ "client_secret_env": "NOT_SET_ANYWHERE" }), "introspection.client_secret_env", "not set"),
        (json!({}), json!({ "client_secret_file": "nowhere" }), "introspection.client_secret_env", "twice"),
        (json!({}), json!({ "client_id": "" }), "introspection.client_id", "empty"),
        (json!({}), json!({ "ttl": "2h" }), "introspection.ttl", "at most 1h"),
        (json!({}), json!({ "inactive_ttl": "2h" }), "introspection.inactive_ttl", "at most 1h"),
        (json!({}), json!({ "concurrent": 0 }), "introspection.concurrent", "1 to 1000"),
        (json!({}), json!({ "endpoint": "http://10.0.0.1/introspect" }), "introspection.endpoint", "plain HTTP"),
        (json!({ "issuer": "urn:acme", "jwks_uri": "https://a.example/k" }), json!({}), "introspection", "`endpoint`"),
    ] {
        let error = compile(&issuer, &changes).err().unwrap_or_else(|| panic!("{changes} is accepted"));
        assert_eq!(error.dotted_path(), format!("issuers.main.{path}"), "{changes}: {error}");
        assert!(error.to_string().contains(part), "{changes}: {error}");
    }
    assert!(serde_json::from_value::<IntrospectionConfig>(json!({ "client_id": "a", "client_secret": "b" })).is_err());
}
