use super::*;
use crate::test_support::{Call, Folder, build, build_in, env, error, facts, now};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis_identity::assertion::{AssertionConfig, AssertionError, AssertionVerifier};
use portcullis_plugin::units::TimeSpan;
use portcullis_plugin::{Method, Principal};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const NAME: &str = "x-portcullis-assertion";

fn alice() -> Principal {
    let mut alice = Principal::new("bearer", "alice");
    alice.issuer = Some("https://idp.example".into());
    alice.scopes = vec!["read".into(), "write".into()];
    alice.roles = vec!["admin".into()];
    alice.client_id = Some("shop".into());
    alice.claims = Arc::new(serde_json::from_value(json!({ "tenant": "acme", "email": "a@example", "aud": "evil" })).unwrap());
    alice
}

/// At the real time, because a verifier reads the clock.
fn call() -> Call {
    Call::get("/orders").at(SystemTime::now()).routed("orders").principal(alice())
}

fn payload(assertion: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(assertion.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

/// A service that knows the keys of `env`'s signer.
fn service(env: &Env, audience: &str) -> portcullis_identity::assertion::AssertionVerifierBuilder {
    let file = tempfile::NamedTempFile::new().unwrap().into_temp_path().keep().unwrap();
    std::fs::write(&file, signer(env).unwrap().jwks(SystemTime::now())).unwrap();
    AssertionVerifier::builder("https://edge.example.test", audience).jwks_file(&file.display().to_string())
}

#[tokio::test]
async fn a_service_learns_who_is_calling() {
    let env = env();
    let filter = build_in::<SignedIdentity>(&env, "{ audience: orders, claims: [tenant, aud, nothing] }").unwrap();
    let mut call = call().certificate(facts()).header(NAME, "mine").header("X_Portcullis_Assertion", "mine");
    assert!(call.run(&filter).is_continue());
    let [assertion] = &call.sent(NAME)[..] else { panic!("not one") };
    assert!(call.sent("X_Portcullis_Assertion").is_empty());
    let verifier = service(&env, "orders").route("orders").build().unwrap();
    for _ in 0..2 {
        let caller = verifier.verify(assertion, "GET").await.unwrap();
        assert_eq!((caller.subject(), caller.idp(), caller.client_id()), ("alice", Some("https://idp.example"), Some("shop")));
        assert_eq!(
            (caller.scopes().collect::<Vec<_>>(), caller.roles().collect::<Vec<_>>()),
            (vec!["read", "write"], vec!["admin"])
        );
        assert_eq!((caller.verified_by(), caller.route()), (Some("bearer"), Some("orders")));
        assert_eq!(caller.certificate_sha256(), Some("ab".repeat(32).as_str()));
        assert_eq!(caller.decision_id(), Some(call.exchange.decision_id().as_str()));
        assert_eq!((caller.claim("tenant"), caller.claim("email")), (Some(&json!("acme")), None));
    }
    // A claim of the token cannot pose as one of the gateway.
    assert_eq!((&payload(assertion)["aud"], &payload(assertion)["claims"]["aud"]), (&json!("orders"), &json!("evil")));
}

#[tokio::test]
async fn an_assertion_is_good_for_one_service_route_method_and_minute() {
    let env = env();
    let filter = build_in::<SignedIdentity>(&env, "{ audience: orders }").unwrap();
    let made = |mut call: Call| {
        assert!(call.run(&filter).is_continue());
        call.sent(NAME).remove(0)
    };
    let good = made(call());
    let reason = |error: AssertionError| match error {
        AssertionError::Refused { reason, .. } => reason.as_str(),
        AssertionError::OtherRequest { wanted, .. } => wanted,
    };
    let refused =
        async |verifier: &AssertionVerifier, text: &str, method: &str| reason(verifier.verify(text, method).await.unwrap_err());
    let orders = service(&env, "orders").build().unwrap();
    assert!(orders.verify(&good, "GET").await.is_ok());
    assert_eq!(refused(&orders, &good, "DELETE").await, "method");
    assert_eq!(refused(&service(&env, "orders").route("admin").build().unwrap(), &good, "GET").await, "route");
    assert_eq!(refused(&service(&env, "billing").build().unwrap(), &good, "GET").await, "token.audience.mismatch");
    let old = made(call().at(SystemTime::now() - Duration::from_secs(66)).routed("orders").principal(alice()));
    assert_eq!(refused(&orders, &old, "GET").await, "token.expired");
    let forged = format!("{}x.{}", &good[..good.rfind('.').unwrap() - 1], &good[good.rfind('.').unwrap() + 1..]);
    assert!(["token.malformed", "token.signature.invalid"].contains(&refused(&orders, &forged, "GET").await));
    // An access token, though the same key signed it, and an assertion of another gateway.
    for (header, claims, expected) in [
        (json!({ "typ": "at+jwt" }), json!({}), "token.signature.invalid"),
        (json!({}), json!({ "sub": "admin" }), "token.signature.invalid"),
        (json!({ "alg": "none" }), json!({}), "token.alg.refused"),
        (json!({ "alg": "HS256" }), json!({}), "token.alg.refused"),
    ] {
        let mut parts: Vec<String> = good.split('.').map(str::to_owned).collect();
        for (part, over) in parts.iter_mut().zip([&header, &claims]) {
            let mut value: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(&*part).unwrap()).unwrap();
            over.as_object().unwrap().iter().for_each(|(name, to)| value[name] = to.clone());
            *part = URL_SAFE_NO_PAD.encode(value.to_string());
        }
        let result = refused(&orders, &parts.join("."), "GET").await;
        assert!(result == expected || result == "token.typ.refused", "{header} {claims}: {result}");
    }
}

#[test]
fn it_lives_no_longer_than_the_credential() {
    let filter = build::<SignedIdentity>("{ audience: orders }");
    let start = now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    for (expires, expected) in [(None, 60), (Some(3600), 60), (Some(20), 20), (Some(0), 5)] {
        let mut alice = alice();
        alice.expires_at = expires.map(|after| now() + Duration::from_secs(after));
        let mut call = Call::get("/").principal(alice);
        assert!(call.run(&filter).is_continue());
        assert_eq!(payload(&call.sent(NAME)[0])["exp"], start + expected, "{expires:?}");
    }
}

#[test]
fn without_a_caller_there_is_no_assertion() {
    let mut call = Call::get("/").header(NAME, "mine").header("x_portcullis-assertion", "mine");
    let filter = build::<SignedIdentity>("{ audience: orders }");
    assert_eq!(call.denied(&filter).reason(), reason::IDENTITY_MISSING);
    assert!(call.sent(NAME).is_empty() && call.sent("x_portcullis-assertion").is_empty());
    let mut call = Call::new(Method::Get, "/").header(NAME, "mine");
    assert!(call.run(&build::<SignedIdentity>("{ audience: orders, optional: true }")).is_continue());
    assert!(call.sent(NAME).is_empty());
    let mut huge = alice();
    huge.groups = (0..2000).map(|n| format!("group-{n}").into()).collect();
    assert_eq!(Call::get("/").principal(huge).denied(&filter).reason(), reason::IDENTITY_MISSING);
}

#[test]
fn keys_that_cannot_sign_are_refused() {
    for (yaml, part) in [
        ("{ audience: '' }", "empty"),
        ("{ audience: a, header: authorization }", "another meaning"),
        ("{ audience: a, header: 'x y' }", "not a header name"),
    ] {
        assert!(error::<SignedIdentity>(yaml).contains(part), "{yaml}");
    }
    let folder = Folder::new();
    assert!(folder.build::<SignedIdentity>("{ audience: a }").err().unwrap().contains("assertion:"));
    folder.write("no.pem", "secret");
    folder.write_bytes("a.pem", include_bytes!("../testdata/assertion-p256.pem"));
    let config = |keys: &[&str], lifetime| AssertionConfig {
        issuer: "https://edge.example.test".into(),
        keys: keys.iter().map(|key| (*key).into()).collect(),
        overlap: TimeSpan::secs(600),
        lifetime: TimeSpan::secs(lifetime),
        reuse: None,
    };
    for (keys, lifetime, part) in [
        (&["no.pem"][..], 60, "no private key"),
        (&[], 60, "no key"),
        (&["missing.pem"], 60, "cannot read"),
        (&["a.pem", "a.pem"], 60, "listed before"),
        (&["a.pem"], 4, "5s to 5m"),
        (&["a.pem"], 301, "5s to 5m"),
    ] {
        let error = AssertionSigner::compile(&config(keys, lifetime), folder.env()).err().unwrap().to_string();
        assert!(error.starts_with("assertion.") && error.contains(part) && !error.contains("secret"), "{error}");
    }
}
