//! Tokens that somebody hopes will pass.

use super::signer::{Signer, b64, claims, jwks, merged};
use super::{AUDIENCE, ISSUER, NOW, exchange, exchange_at, explained, now, offline, verdict};
use crate::{Algorithm, Issuer, IssuerConfig, IssuerKind, Verification};
use portcullis_plugin::reason::{self, ReasonCode};
use portcullis_plugin::units::ByteSize;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

fn config() -> IssuerConfig {
    IssuerConfig::new(ISSUER, [AUDIENCE])
}

fn issuer(key: &Signer) -> Arc<Issuer> {
    offline(config(), &jwks(&[key.jwk()]))
}

fn refused(issuer: &Arc<Issuer>, name: &str, token: &str, expected: ReasonCode) {
    let mut exchange = exchange();
    match issuer.verify(token, &mut exchange) {
        Verification::Refused(got) => assert_eq!(got, expected, "{name}: {:?}", exchange.checks()),
        Verification::Verified(_) => panic!("{name} was accepted"),
        Verification::Wait(_) => panic!("{name} waits"),
    }
    assert!(
        exchange.checks().iter().any(|check| !check.ok && check.reason == expected),
        "{name}: the reason is among the checks"
    );
    assert!(exchange.principal().is_none());
    for check in exchange.checks() {
        let text = format!("{} {} {:?}", check.finding.expected, check.finding.observed, check.finding.hint);
        assert!(token.len() < 40 || !text.contains(token), "{name}: the token is shown");
        assert!(token.rsplit('.').next().is_none_or(|signature| signature.len() < 20 || !text.contains(signature)), "{name}");
        assert!(!text.chars().any(char::is_control) && text.len() < 1000, "{name}: {text}");
    }
}

#[test]
fn malformed_tokens() {
    let key = Signer::new("a");
    let issuer = issuer(&key);
    let good = key.token(&json!({}));
    let (header, payload) = (key.header().to_string(), claims().to_string());
    let parts: Vec<&str> = good.split('.').collect();
    let long = key.token(&json!({ "filler": "x".repeat(20_000) }));
    let deep = format!("{}{}{}", r#"{"a":"#, "[".repeat(5000), "]".repeat(5000));
    for (name, token) in [
        ("nothing", String::new()),
        ("dots", "..".into()),
        ("many dots", ".".repeat(5000)),
        ("opaque", "2YotnFZFEjr1zCsicMWpAA".into()),
        ("two parts", format!("{}.{}", parts[0], parts[1])),
        ("four parts", format!("{good}.")),
        ("five parts", "a.b.c.d.e".into()),
        ("leading space", format!(" {good}")),
        ("trailing space", format!("{good} ")),
        ("trailing newline", format!("{good}\n")),
        ("with its scheme", format!("Bearer {good}")),
        ("two tokens", format!("{good},{good}")),
        ("padding", format!("{}=.{}.{}", parts[0], parts[1], parts[2])),
        ("padding of the signature", format!("{good}==")),
        ("another alphabet", good.replace(parts[2], &"+".repeat(86))),
        ("percent encoding", good.replacen('.', "%2e", 1)),
        ("not ASCII", good.replace(parts[2], "ääää")),
        ("NUL", good.replacen('.', "\0.", 1)),
        ("JSON serialisation", json!({ "payload": parts[1], "protected": parts[0], "signature": parts[2] }).to_string()),
        ("header is a list", key.raw("[]", &payload)),
        ("header is a text", key.raw("\"alg\"", &payload)),
        ("header is nothing", key.raw("", &payload)),
        ("header is not UTF-8", format!("{}.{}.{}", b64([0xff, 0xfe]), parts[1], parts[2])),
        ("header with a BOM", key.raw(&format!("\u{feff}{header}"), &payload)),
        ("header with something behind", key.raw(&format!("{header}{{}}"), &payload)),
        ("alg twice", key.raw(r#"{"alg":"none","alg":"ES256","kid":"a"}"#, &payload)),
        ("alg twice, escaped", key.raw(r#"{"alg":"ES256","\u0061lg":"none","kid":"a"}"#, &payload)),
        ("kid twice", key.raw(r#"{"alg":"ES256","kid":"b","kid":"a"}"#, &payload)),
        ("no alg", key.raw(r#"{"kid":"a"}"#, &payload)),
        ("alg is a list", key.raw(r#"{"alg":["ES256"],"kid":"a"}"#, &payload)),
        ("alg is null", key.raw(r#"{"alg":null,"kid":"a"}"#, &payload)),
        ("kid is a number", key.raw(r#"{"alg":"ES256","kid":1}"#, &payload)),
        ("kid is null", key.raw(r#"{"alg":"ES256","kid":null}"#, &payload)),
        ("typ is a number", key.raw(r#"{"alg":"ES256","kid":"a","typ":1}"#, &payload)),
        ("payload is empty", key.raw(&header, "")),
        ("payload is text", key.raw(&header, "hello")),
        ("payload is a list", key.raw(&header, "[1]")),
        ("payload is null", key.raw(&header, "null")),
        ("payload is a token", key.raw(&header, &good)),
        ("payload with a comment", key.raw(&header, "{/*x*/}")),
        ("payload with a trailing comma", key.raw(&header, &payload.replace('}', ",}"))),
        ("payload with NaN", key.raw(&header, &payload.replace(&(NOW + 300).to_string(), "NaN"))),
        ("payload very deep", key.raw(&header, &deep)),
        ("sub twice", key.raw(&header, &payload.replace('}', r#","sub":"root"}"#))),
        ("aud twice", key.raw(&header, &payload.replace('}', r#","aud":"other"}"#))),
        ("claim twice, deep", key.raw(&header, &payload.replace('}', r#","a":{"b":1,"b":2}}"#))),
        ("too long", long),
    ] {
        refused(&issuer, name, &token, reason::TOKEN_MALFORMED);
    }
}

#[test]
fn headers_that_choose_their_own_rules() {
    let (key, own) = (Signer::new("a"), Signer::new("a"));
    let issuer = issuer(&key);
    let unsigned = |alg: &str| format!("{}.{}.", b64(json!({ "alg": alg, "kid": "a" }).to_string()), b64(claims().to_string()));
    for alg in [
        "none", "None", "NONE", "nOnE", "", " ES256", "es256", "HS256", "HS512", "ES512", "ES256K", "RS1", "dir", "RSA-OAEP",
        "ES256\0",
    ] {
        refused(&issuer, alg, &key.token_headed(&json!({ "alg": alg })), reason::TOKEN_ALG_REFUSED);
        refused(&issuer, alg, &unsigned(alg), reason::TOKEN_ALG_REFUSED);
    }
    // The public key as an HMAC secret, the classic confusion.
    let header = json!({ "alg": "HS256", "kid": "a" });
    refused(&issuer, "HMAC confusion", &own.token_with(&header, &claims()), reason::TOKEN_ALG_REFUSED);
    // An algorithm that is allowed, with a key that is not of its kind.
    for alg in ["RS256", "ES384", "EdDSA"] {
        refused(&issuer, alg, &key.token_headed(&json!({ "alg": alg })), reason::TOKEN_KID_UNKNOWN);
    }
    for (name, value) in [
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("crit", json!(null)),
        ("jwk", own.jwk()),
        ("jku", json!("https://evil.example/keys")),
        ("x5u", json!("https://evil.example/cert")),
        ("x5c", json!(["MIIB"])),
        ("b64", json!(false)),
        ("b64", json!(true)),
        ("zip", json!("DEF")),
    ] {
        let mut header = key.header();
        header[name] = value;
        refused(&issuer, name, &key.token_with(&header, &claims()), reason::TOKEN_CRIT_REFUSED);
        // Not even before its signature was found to be the attacker's own.
        refused(&issuer, name, &own.token_with(&header, &claims()), reason::TOKEN_CRIT_REFUSED);
    }
    for kid in ["", "b", "A", "a\0", "a ", "../../etc/passwd", "' OR 1=1 --", "\r\nx-user: root", &"k".repeat(4000)] {
        refused(&issuer, kid, &key.token_headed(&json!({ "kid": kid })), reason::TOKEN_KID_UNKNOWN);
    }
}

#[test]
fn signatures_that_are_not() {
    let (key, other) = (Signer::new("a"), Signer::new("a"));
    let issuer = issuer(&key);
    let good = key.token(&json!({}));
    let parts: Vec<&str> = good.split('.').collect();
    let altered = b64(merged(claims(), &json!({ "sub": "root" })).to_string());
    for (name, token) in [
        ("another key", other.token(&json!({}))),
        ("altered payload", format!("{}.{altered}.{}", parts[0], parts[2])),
        ("altered header", format!("{}.{}.{}", b64(r#"{"alg":"ES256","kid":"a"}"#), parts[1], parts[2])),
        ("no signature", format!("{}.{}.", parts[0], parts[1])),
        ("zeros", format!("{}.{}.{}", parts[0], parts[1], b64([0; 64]))),
        ("ones", format!("{}.{}.{}", parts[0], parts[1], b64([0xff; 64]))),
        ("short", format!("{}.{}.{}", parts[0], parts[1], b64([1; 63]))),
        ("long", format!("{}{}", good, b64([0; 3]))),
        (
            "of another token",
            format!("{}.{}.{}", parts[0], parts[1], key.token(&json!({ "sub": "bob" })).rsplit('.').next().unwrap()),
        ),
        ("DER instead of r and s", format!("{}.{}.{}", parts[0], parts[1], b64([0x30, 0x06, 2, 1, 1, 2, 1, 1]))),
    ] {
        refused(&issuer, name, &token, reason::TOKEN_SIGNATURE_INVALID);
    }
}

#[test]
fn a_key_is_used_for_what_it_was_published_for() {
    let rsa = Signer::shared_rsa();
    let mut configured = config();
    configured.algorithms = Algorithm::ALL.to_vec();
    let issuer = offline(configured, &jwks(&[rsa.jwk()]));
    refused(&issuer, "PS256 with an RS256 key", &rsa.token_headed(&json!({ "alg": "PS256" })), reason::TOKEN_ALG_REFUSED);
}

#[test]
fn claims_of_the_wrong_kind_or_value() {
    let key = Signer::new("a");
    let issuer = issuer(&key);
    let (malformed, issuer_mismatch, audience) =
        (reason::TOKEN_MALFORMED, reason::TOKEN_ISSUER_MISMATCH, reason::TOKEN_AUDIENCE_MISMATCH);
    for (changes, expected) in [
        (json!({ "iss": null }), issuer_mismatch),
        (json!({ "iss": [ISSUER] }), malformed),
        (json!({ "iss": { "a": ISSUER } }), malformed),
        (json!({ "iss": 1 }), malformed),
        (json!({ "iss": "" }), issuer_mismatch),
        (json!({ "iss": format!("{ISSUER}/") }), issuer_mismatch),
        (json!({ "iss": ISSUER.replace("https", "http") }), issuer_mismatch),
        (json!({ "iss": ISSUER.to_uppercase() }), issuer_mismatch),
        (json!({ "iss": format!("{ISSUER}\0") }), issuer_mismatch),
        (json!({ "aud": null }), audience),
        (json!({ "aud": "" }), audience),
        (json!({ "aud": [] }), audience),
        (json!({ "aud": "orders" }), audience),
        (json!({ "aud": "orders-api,other" }), audience),
        (json!({ "aud": "orders-api other" }), audience),
        (json!({ "aud": ["other", "orders-api "] }), audience),
        (json!({ "aud": ["orders-api", 1] }), malformed),
        (json!({ "aud": [["orders-api"]] }), malformed),
        (json!({ "aud": { "orders-api": true } }), malformed),
        (json!({ "aud": true }), malformed),
        (json!({ "exp": null }), malformed),
        (json!({ "exp": (NOW + 300).to_string() }), malformed),
        (json!({ "exp": true }), malformed),
        (json!({ "exp": [NOW + 300] }), malformed),
        (json!({ "exp": -1 }), malformed),
        (json!({ "exp": 1e300 }), malformed),
        (json!({ "exp": u64::MAX }), malformed),
        (json!({ "exp": (NOW + 300) * 1000 }), malformed),
        (json!({ "exp": 0 }), reason::TOKEN_EXPIRED),
        (json!({ "exp": NOW - 31 }), reason::TOKEN_EXPIRED),
        (json!({ "exp": NOW - 30 }), reason::TOKEN_EXPIRED),
        (json!({ "exp": NOW as f64 - 30.5 }), reason::TOKEN_EXPIRED),
        (json!({ "nbf": NOW + 31 }), reason::TOKEN_NOT_YET_VALID),
        (json!({ "nbf": NOW + 3600 }), reason::TOKEN_NOT_YET_VALID),
        (json!({ "nbf": "soon" }), malformed),
        (json!({ "iat": NOW + 31 }), reason::TOKEN_NOT_YET_VALID),
        (json!({ "iat": "today" }), malformed),
        (json!({ "cnf": { "jkt": "x" } }), reason::TOKEN_BINDING_MISMATCH),
        (json!({ "cnf": {} }), reason::TOKEN_BINDING_MISMATCH),
        (json!({ "cnf": "x" }), reason::TOKEN_BINDING_MISMATCH),
        (json!({ "sub": null }), malformed),
        (json!({ "sub": "" }), malformed),
        (json!({ "sub": 1 }), malformed),
        (json!({ "sub": ["alice"] }), malformed),
        (json!({ "sub": "alice\r\nx-role: admin" }), malformed),
        (json!({ "typ": "ID" }), reason::TOKEN_TYP_REFUSED),
        (json!({ "typ": "Refresh" }), reason::TOKEN_TYP_REFUSED),
        (json!({ "token_use": "id" }), reason::TOKEN_TYP_REFUSED),
        (json!({ "events": { "http://schemas.openid.net/event/backchannel-logout": {} } }), reason::TOKEN_TYP_REFUSED),
    ] {
        refused(&issuer, &changes.to_string(), &key.token(&changes), expected);
    }
    // A claim that is there and null is not the same as one that is not there.
    let payload = claims().to_string();
    for (claim, expected) in [("cnf", reason::TOKEN_BINDING_MISMATCH), ("nbf", malformed), ("iat", malformed)] {
        let without = serde_json::to_string(&merged(claims(), &json!({ claim: null }))).unwrap();
        let token = key.raw(&key.header().to_string(), &without.replace('}', &format!(r#","{claim}":null}}"#)));
        refused(&issuer, claim, &token, expected);
    }
    assert!(payload.contains("alice"));
}

#[test]
fn other_tokens_of_the_issuer_are_not_access_tokens() {
    let key = Signer::new("a");
    let issuer = issuer(&key);
    for typ in ["logout+jwt", "id+jwt", "dpop+jwt", "JOSE", "", "application/logout+jwt", "secevent+jwt"] {
        refused(&issuer, typ, &key.token_headed(&json!({ "typ": typ })), reason::TOKEN_TYP_REFUSED);
    }
    for typ in ["at+jwt", "AT+JWT", "application/at+jwt", "JWT", "jwt"] {
        assert!(
            matches!(issuer.verify(&key.token_headed(&json!({ "typ": typ })), &mut exchange()), Verification::Verified(_)),
            "{typ}"
        );
    }
    // Without `at+jwt`, the marks of an ID token count.
    let mut header = key.header();
    header["typ"] = "JWT".into();
    for changes in [json!({ "at_hash": "x" }), json!({ "c_hash": "x" }), json!({ "nonce": "n", "scope": null })] {
        refused(&issuer, &changes.to_string(), &key.token_with(&header, &merged(claims(), &changes)), reason::TOKEN_TYP_REFUSED);
    }
    // Access tokens of older Keycloaks have a nonce, too.
    let old = merged(claims(), &json!({ "nonce": "n", "typ": "Bearer" }));
    assert!(matches!(issuer.verify(&key.token_with(&header, &old), &mut exchange()), Verification::Verified(_)));
}

#[test]
fn borders_of_time_are_where_they_should_be() {
    let key = Signer::new("a");
    let mut config = config();
    config.cache = ByteSize(0);
    let issuer = offline(config, &jwks(&[key.jwk()]));
    for changes in [
        json!({ "exp": NOW - 29 }),
        json!({ "exp": NOW as f64 - 29.5 }),
        json!({ "exp": 253_402_300_799u64 }),
        json!({ "nbf": NOW + 30 }),
        json!({ "iat": NOW + 30 }),
        json!({ "iat": null }),
        json!({ "nbf": 0 }),
    ] {
        let result = explained(&issuer, &key.token(&changes)).0;
        assert!(result.is_ok(), "{changes}: {:?}", result.unwrap_err());
    }
}

#[test]
fn every_check_is_made_and_the_most_fundamental_gives_the_reason() {
    let key = Signer::new("a");
    let issuer = issuer(&key);
    let bad = json!({ "iss": "https://sso.example.com/realms/acme/", "aud": "x", "exp": NOW - 41, "nbf": NOW + 90, "cnf": {}, "typ": "ID" });
    let (result, checks) = explained(&issuer, &key.token(&bad));
    assert_eq!(result.unwrap_err(), reason::TOKEN_ISSUER_MISMATCH);
    let failed: Vec<&str> = checks.iter().filter(|check| !check.ok).map(|check| check.check).collect();
    assert_eq!(failed, ["issuer", "kind", "audience", "expiry", "not_before", "binding"]);
    let passed: Vec<&str> = checks.iter().filter(|check| check.ok).map(|check| check.check).collect();
    assert_eq!(passed, ["algorithm", "header", "form", "key", "signature", "type", "issued_at", "subject"]);
    let finding = |name: &str| &checks.iter().find(|check| check.check == name && !check.ok).unwrap().finding;
    assert!(finding("expiry").observed.ends_with("expired 41 s ago, leeway 30 s"), "{}", finding("expiry").observed);
    assert!(finding("issuer").hint.as_deref().unwrap().contains("trailing slash"));
    assert!(finding("not_before").observed.contains("in 90 s"));
}

#[test]
fn an_explained_request_lists_its_checks_though_the_token_is_cached() {
    let key = Signer::new("a");
    let issuer = issuer(&key);
    let token = key.token(&json!({}));
    assert!(matches!(issuer.verify(&token, &mut exchange()), Verification::Verified(_)));
    let (result, checks) = explained(&issuer, &token);
    assert!(result.is_ok() && checks.len() >= 9 && checks.iter().all(|check| check.ok), "{checks:?}");
}

#[tokio::test]
async fn without_keys_only_the_keys_are_missing() {
    let key = Signer::new("a");
    let configs = std::collections::BTreeMap::from([("main".to_owned(), config())]);
    let none = crate::Issuers::offline(&configs, &super::World::default().env(), None).unwrap().get("main").unwrap();
    assert!(!none.is_ready());
    let (result, checks) = explained(&none, &key.token(&json!({})));
    assert_eq!(result.unwrap_err(), reason::ISSUER_UNAVAILABLE);
    assert!(checks.iter().any(|check| check.finding.hint.as_deref().is_some_and(|hint| hint.contains("--jwks"))));
    assert_eq!(verdict(&none, &key.token(&json!({ "exp": 5 }))).await.unwrap_err(), reason::TOKEN_EXPIRED);
}

#[test]
fn the_cache_never_outlives_a_token_and_never_mixes_two() {
    let key = Signer::new("a");
    let issuer = issuer(&key);
    let cache = issuer.cache().unwrap();
    let (alice, bob) = (key.token(&json!({})), key.token(&json!({ "sub": "bob" })));
    let at = |token: &str, after: u64| match issuer.verify(token, &mut exchange_at(now() + Duration::from_secs(after))) {
        Verification::Verified(verified) => Ok(verified),
        Verification::Refused(reason) => Err(reason),
        Verification::Wait(_) => panic!("waits"),
    };
    let first = at(&alice, 0).unwrap();
    assert!(Arc::ptr_eq(&first, &at(&alice, 299).unwrap()), "taken from the cache");
    assert_eq!(&*at(&bob, 0).unwrap().principal().subject, "bob");
    let late = at(&alice, 310).unwrap();
    assert!(!Arc::ptr_eq(&first, &late), "within the leeway it is good, but verified again");
    assert!(!Arc::ptr_eq(&late, &at(&alice, 310).unwrap()), "and not kept");
    assert_eq!(at(&alice, 330).unwrap_err(), reason::TOKEN_EXPIRED);
    // One changed character is another token.
    let mut altered = bob.clone();
    let last = if altered.pop() == Some('A') { 'Q' } else { 'A' };
    altered.push(last);
    assert!(at(&altered, 0).is_err());
    assert_eq!(cache.len(), 1, "bob's");
}

#[test]
fn the_cache_is_bounded_in_bytes_and_holds_no_refusals() {
    let key = Signer::new("a");
    let mut configured = config();
    configured.cache = ByteSize(64 << 10);
    let issuer = offline(configured, &jwks(&[key.jwk()]));
    for number in 0..200 {
        let verified = issuer.verify(&key.token(&json!({ "sub": format!("user-{number}") })), &mut exchange());
        assert!(matches!(verified, Verification::Verified(_)));
        assert!(matches!(
            issuer.verify(&key.token(&json!({ "aud": format!("x{number}") })), &mut exchange()),
            Verification::Refused(_)
        ));
    }
    let cache = issuer.cache().unwrap();
    assert!(cache.weight() <= 64 << 10 && cache.len() > 5, "{} bytes, {} tokens", cache.weight(), cache.len());
    assert!(
        offline(
            {
                let mut none = config();
                none.cache = ByteSize(0);
                none
            },
            &jwks(&[key.jwk()])
        )
        .cache()
        .is_none()
    );
}

#[test]
fn cognito_access_tokens_have_their_own_audience_and_mark() {
    let key = Signer::new("a");
    let mut configured = config();
    configured.kind = IssuerKind::Cognito;
    let issuer = offline(configured, &jwks(&[key.jwk()]));
    let access = json!({ "aud": null, "client_id": AUDIENCE, "token_use": "access", "cognito:groups": ["staff"] });
    let verified = explained(&issuer, &key.token(&access)).0.unwrap();
    assert_eq!(verified.principal().client_id.as_deref(), Some(AUDIENCE));
    assert_eq!(&*verified.principal().groups[0], "staff");
    refused(&issuer, "ID token", &key.token(&json!({ "token_use": "id" })), reason::TOKEN_TYP_REFUSED);
    refused(&issuer, "no mark", &key.token(&json!({})), reason::TOKEN_TYP_REFUSED);
    let foreign = merged(access, &json!({ "client_id": "other" }));
    refused(&issuer, "another client", &key.token(&foreign), reason::TOKEN_AUDIENCE_MISMATCH);
}
