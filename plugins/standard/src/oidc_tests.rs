use super::*;
use crate::identity_headers::IdentityHeaders;
use crate::test_support::{Call, Signer, build, build_in, env, error, facts, try_build, values};
use portcullis_identity::IssuerConfig;
use serde_json::{Value, json};
use std::io::{Read, Write};

fn bearing(token: &str) -> Call {
    Call::get("/").header("Authorization", format!("Bearer {token}"))
}

fn good() -> Call {
    bearing(&Signer::main().token(json!({})))
}

/// The reason, the status and the challenge.
fn refusal(mut call: Call, filter: &Oidc) -> (ReasonCode, u16, String) {
    let denial = call.denied(filter);
    assert!(call.exchange.principal().is_none(), "nobody is known after a refusal");
    (denial.reason(), denial.status_code(), values(denial.headers(), "www-authenticate").join("|"))
}

#[test]
fn a_good_token_makes_the_principal_and_goes_no_further() {
    let filter = build::<Oidc>("{ issuer: main, scopes: ['api:read'] }");
    let mut call = good();
    assert!(call.run(&filter).is_continue());
    let principal = call.exchange.principal().unwrap();
    assert_eq!((principal.method, &*principal.subject), ("bearer", "alice"));
    assert_eq!(principal.issuer.as_deref(), Some("https://main.example.test"));
    assert!(call.sent("authorization").is_empty(), "also on a route without identity_headers");
}

#[test]
fn the_token_goes_on_if_identity_headers_says_so() {
    let filter = build::<Oidc>("{ issuer: main }");
    let token = Signer::main().token(json!({}));
    for (forward, expected) in [(true, vec![format!("Bearer {token}")]), (false, vec![])] {
        let headers = build::<IdentityHeaders>(&format!("{{ headers: {{ x-user: sub }}, forward_token: {forward} }}"));
        let mut call = bearing(&token);
        assert!(call.run(&filter).is_continue() && call.run(&headers).is_continue());
        assert_eq!((call.sent("authorization"), call.sent("x-user")), (expected, vec!["alice".to_owned()]));
    }
}

#[test]
fn a_second_oidc_sees_the_token_that_the_first_took_out() {
    let (listener, route) = (build::<Oidc>("{ issuer: main }"), build::<Oidc>("{ issuer: main, scopes: [admin] }"));
    let mut call = good();
    assert!(call.run(&listener).is_continue());
    assert_eq!(call.denied(&route).reason(), reason::TOKEN_SCOPE_MISSING);
    let mut call = good();
    assert!(call.run(&listener).is_continue() && call.run(&listener).is_continue());
}

#[test]
fn no_credentials_get_a_challenge_without_error() {
    let filter = build::<Oidc>("{ issuer: main, scopes: ['api:read'] }");
    for call in [Call::get("/"), Call::get("/").header("authorization", "Basic dTpw")] {
        assert_eq!(refusal(call, &filter), (reason::TOKEN_MISSING, 401, "Bearer realm=\"api.example.test\"".into()));
    }
}

#[test]
fn a_token_anywhere_else_is_missing_and_the_hint_says_where_it_was() {
    let filter = build::<Oidc>("{ issuer: main }");
    let token = Signer::main().token(json!({}));
    for (mut call, place) in [
        (Call::get(&format!("/?access_token={token}")), "the query parameter `access_token`"),
        (Call::get("/").header("cookie", format!("access_token={token}")), "the cookie `access_token`"),
        (Call::get("/").header("x-access-token", &token), "the header `x-access-token`"),
        (Call::get("/").header("x_authorization", format!("Bearer {token}")), "the header `x_authorization`"),
        (Call::get("/").header("proxy-authorization", format!("Bearer {token}")), "the header `proxy-authorization`"),
    ] {
        assert_eq!(call.denied(&filter).reason(), reason::TOKEN_MISSING);
        let finding = &call.exchange.checks()[0].finding;
        assert!(finding.hint.as_deref().is_some_and(|hint| hint.contains(place)), "{finding:?}");
        assert!(!format!("{:?}", call.exchange.checks()).contains(&token));
    }
}

#[test]
fn an_api_key_in_the_place_of_a_token_is_told_as_one() {
    let filter = build::<Oidc>("{ issuer: main }");
    let key = "pc_9nXygT3vK8sQ1bWc7RzLmPq4HdJ6fYtUaXeN2oVgCi5BkES0wZ";
    for (scheme, expected) in [("ApiKey", reason::TOKEN_MISSING), ("Bearer", reason::TOKEN_MALFORMED)] {
        let mut call = Call::get("/").header("authorization", format!("{scheme} {key}"));
        assert_eq!(call.denied(&filter).reason(), expected);
        let finding = &call.exchange.checks()[0].finding;
        assert!(finding.hint.as_ref().is_some_and(|hint| hint.starts_with("an API key is no token")), "{finding:?}");
        assert!(!format!("{finding:?}").contains("9nXyg"));
    }
}

#[test]
fn bad_tokens_are_refused_for_their_reason_and_the_client_learns_no_value() {
    let filter = build::<Oidc>("{ issuer: main, scopes: ['api:read'] }");
    let past = |seconds: u64| 1_800_000_000 - seconds;
    for (token, expected, description) in [
        (Signer::main().token(json!({ "exp": past(41) })), reason::TOKEN_EXPIRED, "The token has expired"),
        (Signer::main().token(json!({ "aud": "other-api" })), reason::TOKEN_AUDIENCE_MISMATCH, "The token is not valid here"),
        (
            Signer::main().token(json!({ "iss": "https://evil.test" })),
            reason::TOKEN_ISSUER_MISMATCH,
            "The token is not valid here",
        ),
        (Signer::main().token(json!({ "nbf": 1_800_000_600 })), reason::TOKEN_NOT_YET_VALID, "The token is not valid here"),
        (Signer::stranger().token(json!({})), reason::TOKEN_SIGNATURE_INVALID, "The token is not valid here"),
        ("opaque".to_owned(), reason::TOKEN_MALFORMED, "The token is not valid here"),
        ("a,b".to_owned(), reason::TOKEN_MALFORMED, "The token is not valid here"),
    ] {
        let challenge =
            format!("Bearer realm=\"api.example.test\", error=\"invalid_token\", error_description=\"{description}\"");
        assert_eq!(refusal(bearing(&token), &filter), (expected, 401, challenge));
    }
    let two = good().header("authorization", "Bearer second");
    assert_eq!(refusal(two, &filter).0, reason::TOKEN_MALFORMED);
}

#[test]
fn a_route_that_accepts_id_tokens_opens_no_other() {
    let env = env();
    let [plain, open, shut] = ["", ", accept_id_tokens: true", ", accept_id_tokens: false"]
        .map(|more| build_in::<Oidc>(&env, &format!("{{ issuer: main{more} }}")).unwrap());
    // With a role that Entra and others put into ID tokens, too.
    let id = Signer::main().token(json!({ "token_use": "id", "roles": ["admin"] }));
    let refused = |filter: &Oidc| {
        let mut call = bearing(&id);
        assert_eq!(call.denied(filter).reason(), reason::TOKEN_TYP_REFUSED);
        assert_eq!(call.failed_checks(), [("kind", reason::TOKEN_TYP_REFUSED)]);
    };
    refused(&plain);
    // Twice, for the second comes from the memory of what was verified.
    for _ in 0..2 {
        assert!(bearing(&id).run(&open).is_continue());
        refused(&plain);
        refused(&shut);
    }
    let never = Signer::main().token(json!({ "typ": "Refresh" }));
    assert_eq!(bearing(&never).denied(&open).reason(), reason::TOKEN_TYP_REFUSED);
}

#[test]
fn too_little_is_403_with_the_scopes_needed() {
    let filter = build::<Oidc>("{ issuer: main, scopes: ['api:read', 'api:write'] }");
    let (reason, status, challenge) = refusal(good(), &filter);
    assert_eq!((reason, status), (reason::TOKEN_SCOPE_MISSING, 403));
    assert_eq!(
        challenge,
        "Bearer realm=\"api.example.test\", error=\"insufficient_scope\", \
         error_description=\"The token does not grant access to this\", scope=\"api:read api:write\""
    );
}

#[test]
fn what_was_granted_elsewhere_is_found() {
    let filter = build::<Oidc>("{ issuer: main, scopes: ['api:read', 'api:write'], roles: [admin] }");
    let hint = |claims: Value, check: &str| {
        let mut call = bearing(&Signer::main().token(claims));
        call.denied(&filter);
        let found = call.exchange.checks().iter().find(|one| one.check == check).unwrap();
        found.finding.hint.clone().unwrap_or_default()
    };
    let other = json!({ "resource_access": { "other": { "roles": ["admin"] } } });
    assert_eq!(
        hint(other, "role"),
        "`admin` is a role of the client `other`, whose roles say nothing about this service; roles are read from roles, see the issuer's `kind` and `claims.roles`"
    );
    assert!(hint(json!({ "groups": ["admin"] }), "role").starts_with("`admin` stands in `groups`; roles are read from roles,"));
    assert!(hint(json!({}), "role").starts_with("the token has no roles; "));
    assert_eq!(hint(json!({ "roles": ["user"] }), "role"), "", "the remedy of the reason");
    assert!(hint(json!({ "scope": "" }), "scope").starts_with("the token has no scopes; scopes are read from scope or scp,"));
    let permissions = json!({ "scope": "api:read", "permissions": ["api:write"] });
    assert!(hint(permissions, "scope").starts_with("`api:write` stands in `permissions`; "));
    assert_eq!(hint(json!({ "scope": "api:read" }), "scope"), "");
}

#[test]
fn scopes_all_roles_any_claims_each() {
    let filter = build::<Oidc>(
        "{ issuer: main, scopes: [a, b], roles: [admin, ops], claims: { tenant: [acme, beta], level.is: 3, ok: true }, audiences: [orders] }",
    );
    let full = json!({
        "aud": ["api", "orders"], "scope": "b x a", "roles": ["ops"], "tenant": "beta", "level": { "is": 3 }, "ok": true
    });
    assert!(bearing(&Signer::main().token(full.clone())).run(&filter).is_continue());
    for (name, value, expected) in [
        ("aud", json!(["api"]), reason::TOKEN_AUDIENCE_MISMATCH),
        ("scope", json!("a bb"), reason::TOKEN_SCOPE_MISSING),
        ("roles", json!(["op", "Admin"]), reason::TOKEN_ROLE_MISSING),
        ("roles", json!([]), reason::TOKEN_ROLE_MISSING),
        ("tenant", json!("acme,beta"), reason::TOKEN_CLAIM_MISMATCH),
        ("level", json!({ "is": "3" }), reason::TOKEN_CLAIM_MISMATCH),
        ("ok", Value::Null, reason::TOKEN_CLAIM_MISMATCH),
    ] {
        let mut claims = full.clone();
        claims[name] = value;
        assert_eq!(refusal(bearing(&Signer::main().token(claims)), &filter).0, expected, "{name}");
    }
}

#[test]
fn everything_that_is_missing_is_told_at_once() {
    let filter =
        build::<Oidc>("{ issuer: main, scopes: [admin], roles: [admin], claims: { tenant: acme }, audiences: [orders] }");
    let mut call = good();
    assert_eq!(call.denied(&filter).reason(), reason::TOKEN_AUDIENCE_MISMATCH);
    let failed: Vec<_> = call.failed_checks().into_iter().map(|(check, _)| check).collect();
    assert_eq!(failed, ["route_audience", "scope", "role", "claim"]);
}

#[test]
fn optional_lets_nothing_pass_but_nothing() {
    let filter = build::<Oidc>("{ issuer: main, optional: true, scopes: ['api:read'] }");
    let mut anonymous = Call::get("/");
    assert!(anonymous.run(&filter).is_continue() && anonymous.exchange.principal().is_none());
    assert!(good().run(&filter).is_continue());
    for (call, expected) in [
        (bearing(&Signer::stranger().token(json!({}))), reason::TOKEN_SIGNATURE_INVALID),
        (bearing(&Signer::main().token(json!({ "scope": "" }))), reason::TOKEN_SCOPE_MISSING),
        (bearing("x"), reason::TOKEN_MALFORMED),
        (Call::get("/").header("authorization", "Bearer"), reason::TOKEN_MALFORMED),
        (Call::get("/").header("authorization", "Basic dTpw"), reason::TOKEN_MISSING),
    ] {
        assert_eq!(refusal(call, &filter).0, expected);
    }
    assert!(!filter.needs().authenticates && build::<Oidc>("{ issuer: main }").needs().authenticates);
}

#[test]
fn of_several_issuers_the_named_one_judges() {
    let filter = build::<Oidc>("{ issuer: [main, other] }");
    for signer in [Signer::main(), Signer::other()] {
        assert!(bearing(&signer.token(json!({}))).run(&filter).is_continue());
    }
    for (token, expected) in [
        // Signed by one configured issuer in the name of the other.
        (Signer::other().token(json!({ "iss": "https://main.example.test" })), reason::TOKEN_SIGNATURE_INVALID),
        // To the letter: `other` has a slash at its end.
        (Signer::other().token(json!({ "iss": "https://other.example.test" })), reason::TOKEN_ISSUER_MISMATCH),
        (Signer::main().token(json!({ "iss": "https://evil.test" })), reason::TOKEN_ISSUER_MISMATCH),
        (Signer::main().token(json!({ "iss": ["https://main.example.test"] })), reason::TOKEN_MALFORMED),
        ("a.b.c".to_owned(), reason::TOKEN_MALFORMED),
    ] {
        assert_eq!(refusal(bearing(&token), &filter).0, expected);
    }
    for (iss, hint) in [
        (
            "https://other.example.test",
            "it is nearly that of `other`, https://other.example.test/: they differ by a trailing slash",
        ),
        (
            "http://main.example.test/",
            "it is nearly that of `main`, https://main.example.test: they differ by http and https, and by",
        ),
    ] {
        let mut call = bearing(&Signer::main().token(json!({ "iss": iss })));
        call.denied(&filter);
        let told = call.exchange.checks()[0].finding.hint.clone();
        assert!(told.as_ref().is_some_and(|told| told.starts_with(hint)), "{told:?}");
    }
    // A token of an issuer that this route does not accept, though the gateway knows it.
    let one = build::<Oidc>("{ issuer: main }");
    assert_eq!(refusal(bearing(&Signer::other().token(json!({}))), &one).0, reason::TOKEN_ISSUER_MISMATCH);
}

#[test]
fn a_token_that_came_before_is_judged_as_it_was_then() {
    let env = env();
    let (both, one) =
        (build_in::<Oidc>(&env, "{ issuer: [main, other] }").unwrap(), build_in::<Oidc>(&env, "{ issuer: main }").unwrap());
    let issuers = env.service::<Issuers>().unwrap();
    for (signer, name) in [(Signer::main(), "main"), (Signer::other(), "other")] {
        let token = signer.token(json!({}));
        let mut call = bearing(&token);
        assert!(issuers.who_knows(&token, &call.exchange).is_none(), "nobody has verified it yet");
        assert!(call.run(&both).is_continue());
        assert_eq!(issuers.who_knows(&token, &call.exchange).map(|issuer| &**issuer.name()), Some(name));
        let mut again = bearing(&token);
        assert!(again.run(&both).is_continue());
        assert_eq!(again.exchange.principal().unwrap().issuer, call.exchange.principal().unwrap().issuer);
        // The end of a verified token, and with it the guess, under other claims.
        let other_claims = signer.token(json!({ "sub": "mallory" }));
        let (signed, _) = other_claims.rsplit_once('.').unwrap();
        let (_, signature) = token.rsplit_once('.').unwrap();
        assert_eq!(refusal(bearing(&format!("{signed}.{signature}")), &both).0, reason::TOKEN_SIGNATURE_INVALID);
    }
    // What another route of the gateway accepts is no guess for this one.
    assert_eq!(refusal(bearing(&Signer::other().token(json!({}))), &one).0, reason::TOKEN_ISSUER_MISMATCH);
}

#[test]
fn the_token_comes_before_the_certificate_as_principal() {
    let filter = build::<Oidc>("{ issuer: main }");
    let mut call = good().certificate(facts());
    assert!(call.run(&build::<crate::client_cert::ClientCert>("{}")).is_continue() && call.run(&filter).is_continue());
    assert_eq!(call.exchange.principal().unwrap().method, "bearer");
}

#[test]
fn an_explanation_shows_what_passed_and_no_token() {
    let filter = build::<Oidc>("{ issuer: main, scopes: ['api:read'] }");
    let token = Signer::main().token(json!({}));
    let mut call = bearing(&token);
    call.exchange.driver_explain();
    assert!(call.run(&filter).is_continue());
    let checks = call.exchange.checks();
    assert!(checks.iter().all(|check| check.ok && check.filter == "oidc"));
    assert!(checks.iter().any(|check| check.check == "signature") && checks.iter().any(|check| check.check == "scope"));
    assert!(!format!("{checks:?}").contains(token.rsplit('.').next().unwrap()));
}

/// The filter with an issuer whose keys are fetched from `address`.
fn fetching(address: std::net::SocketAddr) -> Oidc {
    let mut config = IssuerConfig::new("https://main.example.test", ["api"]);
    config.jwks_uri = Some(format!("http://{address}/jwks"));
    let mut env = env();
    let issuers = Issuers::compile(&[("main".to_owned(), config)].into(), &env).unwrap();
    env.offer(issuers);
    build_in::<Oidc>(&env, "{ issuer: main }").unwrap()
}

/// Runs the request stage to its end, waiting as a driver does.
async fn finished(mut call: Call, filter: &Oidc) -> (Call, Verdict) {
    let mut verdict = call.run(filter);
    while let Verdict::Wait(future) = verdict {
        verdict = future.await(&mut call.request, &mut call.exchange);
    }
    (call, verdict)
}

#[tokio::test]
async fn an_issuer_that_is_away_is_503_and_never_401() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let (call, verdict) = finished(good(), &fetching(address)).await;
    let Verdict::Deny(denial) = verdict else { panic!("{verdict:?}") };
    assert_eq!((denial.reason(), denial.status_code()), (reason::ISSUER_UNAVAILABLE, 503));
    assert_eq!(values(denial.headers(), "retry-after"), ["5"]);
    assert!(!denial.headers().contains("www-authenticate") && call.exchange.principal().is_none());
}

#[tokio::test]
async fn a_request_that_waited_for_keys_goes_on() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let body = Signer::main().jwks();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
    });
    let (call, verdict) = finished(good(), &fetching(address)).await;
    assert!(verdict.is_continue(), "{verdict:?}");
    assert_eq!(&*call.exchange.principal().unwrap().subject, "alice");
    assert!(call.sent("authorization").is_empty());
    server.join().unwrap();
}

#[test]
fn configurations_that_could_not_be_enforced_are_refused() {
    for (yaml, problem) in [
        ("{ issuer: mian }", "issuer: unknown issuer `mian` (did you mean `main`?)"),
        ("{ issuer: [main, nobody] }", "issuer[1]: unknown issuer"),
        ("{ issuer: [main, main] }", "the same issuer"),
        ("{ issuer: [] }", "issuer: "),
        ("{ issuer: main, scopes: [] }", "scopes: the list is empty"),
        ("{ issuer: main, roles: [] }", "roles: the list is empty"),
        ("{ issuer: main, audiences: [] }", "audiences: the list is empty"),
        ("{ issuer: main, scopes: 'a b' }", "scopes[0]: "),
        ("{ issuer: main, scopes: ['a\"b'] }", "scopes[0]: "),
        ("{ issuer: main, claims: { tenant: [] } }", "claims.tenant: the list is empty"),
        ("{ issuer: main, claims: { '': a } }", "an empty claim name"),
        ("{ issuer: main, claims: { tenant: 1.5 } }", "claims"),
        // The typo of another gateway, which then took tokens of any issuer.
        ("{ issuers: main }", "unknown field"),
        ("{}", "missing field"),
    ] {
        let error = error::<Oidc>(yaml);
        assert!(error.contains(problem), "{yaml}: {error}");
    }
    assert!(try_build::<Oidc>("{ issuer: main, scopes: }").is_err());
    let bare = portcullis_plugin::Env::new(".", portcullis_plugin::prometheus::Registry::new(), Arc::default());
    assert!(build_in::<Oidc>(&bare, "{ issuer: main }").err().unwrap().contains("no issuer is configured"));
}

#[test]
fn a_rule_on_groups_that_the_token_leaves_out_refuses_and_says_why() {
    let filter = build::<Oidc>("{ issuer: main, claims: { groups: eu } }");
    for (claims, hinted) in [(json!({ "hasgroups": true }), true), (json!({ "groups": ["us"] }), false)] {
        let mut call = bearing(&Signer::main().token(claims));
        assert_eq!(call.denied(&filter).reason(), reason::TOKEN_CLAIM_MISMATCH);
        let shown = format!("{:?}", call.exchange.checks());
        assert_eq!(shown.contains("Entra left the groups out"), hinted, "{shown}");
    }
}

#[test]
fn an_opaque_token_goes_to_the_one_issuer_that_can_be_asked_about_it() {
    let asking = json!({ "client_id": "edge", "client_secret_env": "CARGO_PKG_NAME", "endpoint": "https://b.example.test/i" });
    let config = |issuer: &str, asks: bool| {
        let mut config = IssuerConfig::new(issuer, ["api"]);
        config.introspection = asks.then(|| serde_json::from_value(asking.clone()).unwrap());
        config
    };
    let mut env = env();
    let configs = [
        ("a".to_owned(), config("https://a.example.test", false)),
        ("b".to_owned(), config("https://b.example.test", true)),
        ("c".to_owned(), config("https://c.example.test", true)),
    ];
    // Offline: nothing is asked, and that is told instead of a verdict.
    env.offer(Issuers::offline(&configs.into(), &env, None).unwrap());
    let filter = build_in::<Oidc>(&env, "{ issuer: [a, b] }").unwrap();
    let denial = bearing("opaque-token").denied(&filter);
    assert_eq!((denial.reason(), denial.status_code()), (reason::ISSUER_UNAVAILABLE, 503));
    let error = build_in::<Oidc>(&env, "{ issuer: [b, a, c] }").err().unwrap();
    assert!(error.contains("both have `introspection`"), "{error}");
}
