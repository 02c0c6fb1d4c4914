use super::*;
use crate::identity_headers::IdentityHeaders;
use crate::test_support::{Call, build, error, facts};
use portcullis_plugin::{Principal, reason};
use serde_json::json;
use std::sync::Arc;

fn alice() -> Principal {
    let mut principal = Principal::new("bearer", "alice");
    principal.issuer = Some("https://idp.example".into());
    principal.roles = vec!["admin".into(), "a,b".into()];
    principal.scopes = vec!["api:read".into(), "api:write".into()];
    principal.claims = Arc::new(json!({ "tenant": { "id": 7 }, "name": "Älice", "list": ["x", 2] }).as_object().unwrap().clone());
    principal
}

fn header(template: &str, principal: Principal) -> Vec<String> {
    let filter = build::<IdentityHeaders>(&format!("{{ headers: {{ x-user: {template:?} }} }}"));
    let mut call = Call::get("/").principal(principal).certificate(facts()).header("X-User", "root").header("x_user", "root");
    assert!(call.run(&filter).is_continue());
    assert!(call.sent("x_user").is_empty());
    call.sent("x-user")
}

#[test]
fn facts_stand_in_a_text() {
    for (template, value) in [
        ("user:{sub}@{iss}", "user:alice@https%3A%2F%2Fidp.example"),
        ("{sub}", "alice"),
        ("tenant/{claims.tenant.id}/user/{sub}", "tenant/7/user/alice"),
        ("{{{sub}}}", "{alice}"),
        ("{{sub}} is {sub}", "{sub} is alice"),
        ("roles=[{roles}]", "roles=[admin,a%2Cb]"),
        ("list={list}", "list=x,2"),
        ("scope={scope}", "scope=api%3Aread%20api%3Awrite"),
        ("name={name}", "name=%C3%84lice"),
        ("cert;{cert.san_dns}", "cert;billing.partner.example"),
        ("id-{iss}", "id-https%3A%2F%2Fidp.example"),
        ("host.{iss}", "host.https%3A%2F%2Fidp%2Eexample"),
    ] {
        assert_eq!(header(template, alice()), [value], "{template}");
    }
}

#[test]
fn no_claim_can_inject_a_header_or_pose_as_the_text() {
    let hostile = |subject: &str| header("user:{sub}@{iss}", Principal { subject: subject.into(), ..alice() });
    for (subject, encoded) in [
        ("root@https://evil.example", "root%40https%3A%2F%2Fevil.example"),
        ("a\r\nx-roles: admin", "a%0D%0Ax-roles%3A%20admin"),
        ("a\0b\u{7f}\t", "a%00b%7F%09"),
        ("%40", "%2540"),
        (" a ", "%20a%20"),
        ("a,b;c=\"d\\", "a%2Cb%3Bc%3D%22d%5C"),
        ("{iss}", "%7Biss%7D"),
        ("\u{2028}\u{ff20}", "%E2%80%A8%EF%BC%A0"),
        ("", ""),
    ] {
        assert_eq!(hostile(subject), [format!("user:{encoded}@https%3A%2F%2Fidp.example")], "{subject:?}");
    }
}

proptest::proptest! {
    /// A reader splits at the text's own characters, and gets back what went in: also if the value is made of them.
    #[test]
    fn every_value_comes_back(subject in ".*", issuer in "[-._~:@%a-c]*", separator in "[-._~:@;=/?&|]") {
        let principal = Principal { subject: subject.as_str().into(), issuer: Some(issuer.as_str().into()), ..alice() };
        let value = header(&format!("{{sub}}{separator}{{iss}}"), principal).remove(0);
        let (first, second) = value.split_once(&*separator).unwrap();
        proptest::prop_assert!(value.bytes().all(|b| b.is_ascii_graphic()) && !second.contains(&*separator));
        let decode = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8().unwrap().into_owned();
        proptest::prop_assert_eq!((decode(first), decode(second)), (subject, issuer));
    }
}

#[test]
fn a_template_with_a_fact_that_is_missing_is_no_header() {
    let anonymous = Principal { issuer: None, ..alice() };
    assert!(header("user:{sub}@{iss}", anonymous.clone()).is_empty());
    assert!(header("{sub}:{claims.tenant.none}", alice()).is_empty());
    assert!(header("{sub}:{tenant}", alice()).is_empty(), "an object has no form that every reader would agree on");
    let filter = build::<IdentityHeaders>("{ headers: { x-user: 'user:{sub}@{iss}' }, on_missing: deny }");
    let mut call = Call::get("/").principal(anonymous).header("x-user", "user:root@https://idp.example");
    assert_eq!(call.denied(&filter).reason(), reason::IDENTITY_MISSING);
    assert_eq!(call.exchange.checks()[0].finding.expected, "iss for x-user in `user:{sub}@{iss}`");
    assert!(call.sent("x-user").is_empty());
}

#[test]
fn a_long_value_is_refused_and_counts_with_its_text() {
    let filter = build::<IdentityHeaders>("{ headers: { x-user: 'user:{sub}' }, max_value: 10B }");
    let mut call = Call::get("/").principal(Principal::new("bearer", "12345"));
    assert!(call.run(&filter).is_continue());
    for subject in ["123456", "@@"] {
        let mut call = Call::get("/").principal(Principal::new("bearer", subject));
        assert_eq!(call.denied(&filter).reason(), reason::IDENTITY_MISSING);
        assert!(call.sent("x-user").is_empty());
    }
}

#[test]
fn what_is_wrong_with_a_template_is_said_at_load() {
    let many = "{sub}:".repeat(17);
    let long = format!("{{sub}}{}", "x".repeat(LONGEST));
    for (template, problem) in [
        ("user:{sub", "the `{` at byte 6 of `user:{sub` is not closed"),
        ("user:{sub{iss}", "the `{` at byte 6"),
        ("user:sub}", "the `}` at byte 9"),
        ("{sub}}", "the `}` at byte 6"),
        ("{{sub}", "the `}` at byte 6"),
        ("{}", "`` names no fact about a caller"),
        ("{ sub }", "` sub ` names no fact"),
        ("{cert.subjekt}", "in `{cert.subjekt}`, at byte 1: `cert.subjekt` names no fact"),
        ("{{no fact}}", "no fact about the caller stands in it"),
        ("{sub}{iss}", "between two facts"),
        ("{sub}x1{iss}", "between two facts"),
        ("{sub},{roles}", "`roles` may be a list"),
        ("{sub},{claims.tenant}", "`claims.tenant` may be a list"),
        ("50%{sub}", "'%' cannot stand in the text"),
        ("\u{e4}{sub}", "cannot stand in the text"),
        ("a\tb{sub}", "'\\t' cannot stand in the text"),
        (" {sub}", "loses spaces at its ends"),
        ("{sub}: ", "loses spaces at its ends"),
        (&many, "at most 16 facts, not 17"),
        (&long, "at most 1024 bytes"),
    ] {
        let error = error::<IdentityHeaders>(&format!("{{ headers: {{ x-user: {} }} }}", serde_json::Value::from(template)));
        assert!(error.contains(problem), "{template}: {error}");
    }
    assert!(HeaderValue::from_str("{sub},{iss}").is_ok(), "neither can be a list");
    assert!(HeaderValue::from_str("a b {sub}").is_ok());
}
