use super::*;
use crate::test_support::{Call, build, error, facts};
use portcullis_plugin::Principal;
use serde_json::json;
use std::sync::Arc;

fn alice() -> Principal {
    let mut principal = Principal::new("bearer", "alice");
    principal.roles = vec!["admin".into(), "ops".into()];
    principal.scopes = vec!["api:read".into(), "api:write".into()];
    principal.claims = Arc::new(json!({ "tenant": { "id": 7 }, "name": "Älice", "aud": [] }).as_object().unwrap().clone());
    principal
}

#[test]
fn facts_become_headers() {
    let filter = build::<IdentityHeaders>(
        "{ headers: { x-user: sub, x-roles: roles, x-scope: scope, x-tenant: claims.tenant.id, x-name: name, x-cert: cert.subject } }",
    );
    let mut call = Call::get("/").principal(alice()).certificate(facts());
    assert!(call.run(&filter).is_continue());
    for (name, value) in [
        ("x-user", "alice"),
        ("x-roles", "admin,ops"),
        ("x-scope", "api:read api:write"),
        ("x-tenant", "7"),
        ("x-name", "%C3%84lice"),
        ("x-cert", "CN=billing,OU=Payments,O=Partner\\, Inc.,C=DE"),
    ] {
        assert_eq!(call.sent(name), [value], "{name}");
    }
}

#[test]
fn a_spoofed_header_never_goes_on() {
    let filter = build::<IdentityHeaders>("{ headers: { x-user: sub, x-roles: roles } }");
    let spoofed = || {
        Call::get("/")
            .header("X-User", "root")
            .header("x-user", b"root\xA0".as_slice())
            .header("x-roles", "admin")
            .header("X-ROLES", "ops")
    };
    let mut anonymous = spoofed();
    assert!(anonymous.run(&filter).is_continue());
    assert!(anonymous.request.headers().is_empty(), "{:?}", anonymous.request.headers());

    let mut named = spoofed().principal(Principal::new("bearer", "bob"));
    assert!(named.run(&filter).is_continue());
    assert_eq!(
        (named.sent("x-user"), named.sent("x-roles")),
        (vec!["bob".to_owned()], vec![]),
        "no roles is not somebody's roles"
    );
    assert_eq!(filter.needs().owned_headers, ["x-roles", "x-user"]);
}

#[test]
fn a_certificate_that_did_not_verify_has_no_facts() {
    let filter = build::<IdentityHeaders>("{ headers: { x-cert: cert.subject, x-sha: cert.sha256 } }");
    let mut call = Call::get("/").refused_certificate(reason::CERT_UNTRUSTED).header("x-cert", "CN=root");
    assert!(call.run(&filter).is_continue());
    assert!(call.sent("x-cert").is_empty() && call.sent("x-sha").is_empty());
}

#[test]
fn a_missing_fact_refuses_if_the_route_says_so() {
    let yaml = "{ headers: { x-user: sub, x-roles: roles, x-groups: groups }, on_missing: deny, optional: [X-Roles] }";
    let filter = build::<IdentityHeaders>(yaml);
    let mut call = Call::get("/").principal(Principal::new("bearer", "bob")).header("x-groups", "admin");
    assert_eq!(call.denied(&filter).reason(), reason::IDENTITY_MISSING);
    let finding = &call.exchange.checks()[0].finding;
    assert_eq!((finding.expected.as_str(), call.exchange.checks().len()), ("groups for x-groups", 1));
    assert!(finding.hint.as_ref().is_some_and(|hint| hint.starts_with("the caller is known, by bearer")), "{finding:?}");
    assert!(call.sent("x-groups").is_empty(), "also on a refusal, in case it only counts in shadow mode");

    let mut principal = alice();
    principal.groups = vec!["staff".into()];
    principal.roles.clear();
    assert!(Call::get("/").principal(principal).run(&filter).is_continue());
}

#[test]
fn no_value_can_pose_as_two_or_break_out() {
    let filter = build::<IdentityHeaders>("{ headers: { x-user: sub, x-roles: roles } }");
    let mut principal = Principal::new("bearer", "a\r\nx-roles: admin\0%0d");
    principal.roles = vec!["a,admin".into(), " b c ".into(), "100%".into(), "ü".into(), "".into()];
    let mut call = Call::get("/").principal(principal);
    assert!(call.run(&filter).is_continue());
    assert_eq!(call.sent("x-user"), ["a%0D%0Ax-roles: admin%00%250d"]);
    assert_eq!(call.sent("x-roles"), ["a%2Cadmin,%20b c%20,100%25,%C3%BC,"]);
}

#[test]
fn spaces_at_the_ends_survive() {
    for (text, encoded) in
        [(" a b ", "%20a b%20"), ("  ", "%20%20"), ("", ""), ("a\tb", "a%09b"), ("a,b", "a,b"), ("\u{7f}", "%7F")]
    {
        assert_eq!(encode(&AttributeValue::One(text.into())), encoded);
    }
}

/// What a reader of a list does.
fn decode_list(value: &str) -> Vec<String> {
    let byte = |text: &str| u8::from_str_radix(text, 16).unwrap();
    let decode = |item: &str| {
        let mut pieces = item.split('%');
        let mut bytes = pieces.next().unwrap().as_bytes().to_vec();
        for piece in pieces {
            bytes.push(byte(&piece[..2]));
            bytes.extend(piece[2..].bytes());
        }
        String::from_utf8(bytes).unwrap()
    };
    value.split(',').map(decode).collect()
}

proptest::proptest! {
    #[test]
    fn every_list_comes_back_as_it_was(items in proptest::collection::vec(".*", 1..5)) {
        let value = encode(&AttributeValue::Many(items.iter().map(|item| item.into()).collect()));
        // A header keeps neither spaces at its ends nor control characters.
        proptest::prop_assert!(value.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) && value.trim() == value);
        proptest::prop_assert_eq!(decode_list(&value), items);
    }
}

#[test]
fn a_value_that_is_too_long_is_refused_and_never_cut() {
    let filter = build::<IdentityHeaders>("{ headers: { x-user: sub }, max_value: 8B }");
    assert!(Call::get("/").principal(Principal::new("bearer", "12345678")).run(&filter).is_continue());
    for subject in ["123456789", "üüü"] {
        let mut call = Call::get("/").principal(Principal::new("bearer", subject)).header("x-user", "root");
        assert_eq!(call.denied(&filter).reason(), reason::IDENTITY_MISSING);
        assert_eq!(call.sent("x-user"), Vec::<String>::new());
    }
}

#[test]
fn a_full_head_cannot_keep_the_identity_out() {
    let filter = build::<IdentityHeaders>("{ headers: { x-user: sub } }");
    let mut call = Call::get("/").principal(alice());
    for n in 0..portcullis_plugin::headers::DEFAULT_MAX_FIELDS {
        call = call.header(&format!("h{n}"), "v");
    }
    assert_eq!(call.denied(&filter).status_code(), 431);
}

#[test]
fn the_token_goes_on_only_if_asked_and_only_the_verified_one() {
    let keep = build::<IdentityHeaders>("{ headers: {}, forward_token: true }");
    let drop = build::<IdentityHeaders>("{ headers: { x-user: sub } }");
    let after_oidc = || {
        let mut call = Call::get("/").principal(alice());
        call.exchange.insert_extension(VerifiedToken::new("abc.def.ghi".to_owned(), bearer::TokenScheme::Bearer));
        call
    };
    let mut call = after_oidc();
    assert!(call.run(&keep).is_continue());
    assert_eq!(call.sent("authorization"), ["Bearer abc.def.ghi"]);
    let mut call = after_oidc();
    assert!(call.run(&drop).is_continue());
    assert!(call.sent("authorization").is_empty());

    // A route that verifies no token: what nobody looked at does not stand beside a verified identity.
    let mut call =
        Call::get("/").certificate(facts()).header("Authorization", "bearer unverified").header("authorization", "Basic dTpw");
    assert!(call.run(&drop).is_continue());
    assert_eq!(call.sent("authorization"), ["Basic dTpw"]);
}

#[test]
fn names_that_mean_something_else_are_refused() {
    for name in [
        "Authorization",
        "cookie",
        "Host",
        "content-length",
        "connection",
        "te",
        "x-forwarded-for",
        "X_Forwarded_Proto",
        "x-decision-id",
        "a b",
        "",
    ] {
        let error = error::<IdentityHeaders>(&format!("{{ headers: {{ '{name}': sub }} }}"));
        assert!(error.starts_with(&format!("headers.{name}: ")), "{error}");
    }
    for (yaml, problem) in [
        ("{ headers: { x-user: sub, X_User: iss } }", "is named twice"),
        ("{ headers: {} }", "no header is named"),
        ("{ headers: { x-user: cert.subjekt } }", "cert.subjekt"),
        ("{ headers: { x-user: sub }, optional: [x-user] }", "every header is optional already"),
        ("{ headers: { x-user: sub }, on_missing: deny, optional: [x-usr] }", "did you mean `x-user`"),
        ("{ headers: { x-user: sub }, max_value: 0B }", "max_value: "),
        ("{ headers: { x-user: sub }, forward-token: true }", "unknown field"),
    ] {
        let error = error::<IdentityHeaders>(yaml);
        assert!(error.contains(problem), "{yaml}: {error}");
    }
}
