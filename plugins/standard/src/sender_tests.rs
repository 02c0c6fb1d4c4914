use crate::bearer::TokenScheme;
use crate::identity_headers::IdentityHeaders;
use crate::oidc::Oidc;
use crate::test_support::{Call, Prover, Signer, build, build_in, env, error, facts, now, values};
use portcullis_plugin::{CertificateOrigin, Denial, Filter, Method, ReasonCode, ResponseHead, Verdict, reason};
use serde_json::{Value, json};
use std::time::{Duration, UNIX_EPOCH};

const ROUTE: &str = "{ issuer: main, binding: { dpop: {} } }";
const URL: &str = "https://api.example.test/orders";

fn seconds() -> u64 {
    now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn bound(prover: &Prover) -> String {
    Signer::main().token(json!({ "cnf": { "jkt": prover.thumbprint() } }))
}

fn call(scheme: TokenScheme, token: &str, proof: &str) -> Call {
    Call::get("/orders").header("Authorization", format!("{} {token}", scheme.name())).header("DPoP", proof)
}

fn dpop(token: &str, proof: &str) -> Call {
    call(TokenScheme::Dpop, token, proof)
}

/// The reason, and the checks that failed.
fn refused(mut call: Call, filter: &Oidc) -> (ReasonCode, Vec<&'static str>) {
    let denial = call.denied(filter);
    assert!(call.exchange.principal().is_none());
    (denial.reason(), call.failed_checks().into_iter().map(|(check, _)| check).collect())
}

fn challenges(denial: &Denial) -> String {
    values(denial.headers(), "www-authenticate").join(" | ")
}

#[test]
fn a_bound_token_with_a_good_proof_passes_and_neither_goes_on() {
    let filter = build::<Oidc>(ROUTE);
    for prover in [Prover::es256(), Prover::ed25519()] {
        let token = bound(&prover);
        for url in [URL, "HTTPS://API.example.test:443/./%6Frders?x=1#y"] {
            let mut call = dpop(&token, &prover.proof(&token, json!({ "htu": url })));
            assert!(call.run(&filter).is_continue(), "{url}: {:?}", call.exchange.checks());
            assert_eq!(&*call.exchange.principal().unwrap().subject, "alice");
            assert!(call.sent("authorization").is_empty() && call.sent("dpop").is_empty());
        }
    }
}

#[test]
fn a_proof_names_the_address_as_it_was_sent_where_slashes_were_merged() {
    let filter = build::<Oidc>(ROUTE);
    let prover = Prover::es256();
    let token = bound(&prover);
    let proof = |htu: &str| prover.proof(&token, json!({ "htu": htu }));
    let merged = |proof: &str| {
        let mut call = dpop(&token, proof);
        call.request = call.request.without_headers().driver_merged_slashes(true);
        call.header("authorization", format!("DPoP {token}")).header("dpop", proof)
    };
    assert!(merged(&proof("https://api.example.test//orders")).run(&filter).is_continue());
    assert!(merged(&proof(URL)).run(&filter).is_continue());
    // Sent as it is, it is another address.
    assert_eq!(refused(dpop(&token, &proof("https://api.example.test///orders")), &filter).1, ["proof_url"]);
    assert_eq!(refused(merged(&proof("https://api.example.test//other")), &filter).1, ["proof_url"]);
}

#[test]
fn a_proof_is_good_once_over_all_routes_and_reloads() {
    let env = env();
    let (one, other) = (build_in::<Oidc>(&env, ROUTE).unwrap(), build_in::<Oidc>(&env.scoped("route other"), ROUTE).unwrap());
    let prover = Prover::es256();
    let token = bound(&prover);
    let proof = prover.proof(&token, json!({}));
    assert!(dpop(&token, &proof).run(&one).is_continue());
    for filter in [&one, &other, &build_in::<Oidc>(&env, ROUTE).unwrap()] {
        assert_eq!(refused(dpop(&token, &proof), filter), (reason::DPOP_REPLAY, vec!["proof_replay"]));
    }
    // Another signature over the same is the same proof: an ECDSA signature has a twin that anybody can compute.
    assert_eq!(refused(dpop(&token, &prover.proof(&token, json!({}))), &one).0, reason::DPOP_REPLAY);
    assert!(dpop(&token, &prover.proof(&token, json!({ "jti": "another" }))).run(&one).is_continue());
}

#[test]
fn a_listeners_filter_and_the_routes_share_one_proof() {
    let env = env();
    let (listener, route) = (build_in::<Oidc>(&env, ROUTE).unwrap(), build_in::<Oidc>(&env, ROUTE).unwrap());
    let prover = Prover::es256();
    let token = bound(&prover);
    let mut call = dpop(&token, &prover.proof(&token, json!({})));
    assert!(call.run(&listener).is_continue() && call.run(&route).is_continue());
    // A route that checks no proofs does not take the listener's word for it.
    let mut call = dpop(&token, &prover.proof(&token, json!({ "jti": "2" })));
    assert!(call.run(&listener).is_continue());
    assert_eq!(call.denied(&build::<Oidc>("{ issuer: main }")).reason(), reason::TOKEN_BINDING_MISMATCH);
}

#[test]
fn a_stolen_token_is_worth_nothing() {
    let filter = build::<Oidc>(ROUTE);
    let (owner, thief) = (Prover::es256(), Prover::es256());
    let token = bound(&owner);
    // As a bearer token, with and without a proof of the thief's own.
    for (call, failed) in [
        (Call::get("/orders").header("Authorization", format!("Bearer {token}")), "scheme"),
        (call(TokenScheme::Bearer, &token, &owner.proof(&token, json!({}))), "scheme"),
        (dpop(&token, &thief.proof(&token, json!({}))), "proof_binding"),
    ] {
        assert_eq!(refused(call, &filter), (reason::TOKEN_BINDING_MISMATCH, vec![failed]));
    }
    // The owner's public key over the thief's signature.
    let forged = thief.proof_headed(&token, json!({ "jwk": owner.jwk() }), json!({}));
    assert_eq!(refused(dpop(&token, &forged), &filter), (reason::DPOP_PROOF_INVALID, vec!["proof_signature"]));
    let mut bare = Call::get("/orders").header("Authorization", format!("DPoP {token}"));
    let denial = bare.denied(&filter);
    assert_eq!(denial.reason(), reason::DPOP_PROOF_INVALID);
    assert!(
        challenges(&denial).starts_with("DPoP realm=\"api.example.test\", error=\"invalid_dpop_proof\""),
        "{}",
        challenges(&denial)
    );
    // A proof that was overheard, for another token of the same client.
    let other = Signer::main().token(json!({ "sub": "admin", "cnf": { "jkt": owner.thumbprint() } }));
    assert_eq!(
        refused(dpop(&other, &owner.proof(&token, json!({}))), &filter),
        (reason::DPOP_PROOF_INVALID, vec!["proof_token"])
    );
}

#[test]
fn a_proof_for_anything_else_is_refused_and_says_what_was_wrong() {
    let filter = build::<Oidc>(ROUTE);
    let prover = Prover::es256();
    let token = bound(&prover);
    for (changes, failed) in [
        (json!({ "htm": "POST" }), "proof_method"),
        (json!({ "htm": "get" }), "proof_method"),
        (json!({ "htu": "https://api.example.test/other" }), "proof_url"),
        (json!({ "htu": "http://api.example.test/orders" }), "proof_url"),
        (json!({ "htu": "https://api.example.test:8443/orders" }), "proof_url"),
        (json!({ "htu": "https://api.example.test.evil.test/orders" }), "proof_url"),
        (json!({ "htu": "https://api.example.test@evil.test/orders" }), "proof_url"),
        (json!({ "htu": "/orders" }), "proof_url"),
        (json!({ "iat": seconds() - 61 }), "proof_time"),
        (json!({ "iat": seconds() + 6 }), "proof_time"),
        (json!({ "ath": "" }), "proof_token"),
        (json!({ "ath": null }), "proof_form"),
        (json!({ "jti": "" }), "proof_form"),
        (json!({ "jti": "x".repeat(257) }), "proof_form"),
        (json!({ "jti": 1 }), "proof_form"),
        (json!({ "iat": "now" }), "proof_form"),
        (json!({ "iat": -1 }), "proof_form"),
        (json!({ "x": "y".repeat(8000) }), "proof_form"),
    ] {
        let result = refused(dpop(&token, &prover.proof(&token, changes.clone())), &filter);
        assert_eq!(result, (reason::DPOP_PROOF_INVALID, vec![failed]), "{changes}");
    }
    for (changes, failed) in [
        (json!({ "typ": "jwt" }), "proof_type"),
        (json!({ "typ": null }), "proof_form"),
        (json!({ "alg": "none" }), "proof_algorithm"),
        (json!({ "alg": "HS256" }), "proof_algorithm"),
        (json!({ "alg": "RS256" }), "proof_signature"),
        (json!({ "jwk": null }), "proof_form"),
        (json!({ "jwk": { "kty": "oct", "k": "AAAA" } }), "proof_form"),
        (json!({ "jwk": with(prover.jwk(), "d", "AAAA") }), "proof_form"),
        (json!({ "jwk": with(prover.jwk(), "k", "AAAA") }), "proof_form"),
        (json!({ "jwk": with(prover.jwk(), "crv", "P-521") }), "proof_form"),
        (json!({ "jku": "https://evil.test/keys" }), "proof_form"),
        (json!({ "crit": ["x"] }), "proof_form"),
    ] {
        let result = refused(dpop(&token, &prover.proof_headed(&token, changes.clone(), json!({}))), &filter);
        assert_eq!(result, (reason::DPOP_PROOF_INVALID, vec![failed]), "{changes}");
    }
    for text in ["", "a.b.c", "a.b", &"x".repeat(20_000)] {
        assert_eq!(refused(dpop(&token, text), &filter), (reason::DPOP_PROOF_INVALID, vec!["proof_form"]));
    }
    let two = dpop(&token, &prover.proof(&token, json!({}))).header("dpop", prover.proof(&token, json!({ "jti": "2" })));
    assert_eq!(refused(two, &filter), (reason::DPOP_PROOF_INVALID, vec!["proof"]));
    // Everything about it is told at once; no part of a proof is.
    let mut call = dpop(
        &token,
        &prover.proof(&token, json!({ "htm": "PUT", "iat": 5, "jti": "secret-id", "htu": "https://a.test/?secret" })),
    );
    call.denied(&filter);
    assert_eq!(call.failed_checks().len(), 3);
    assert!(!format!("{:?}", call.exchange.checks()).contains("secret"));
}

fn with(mut object: Value, name: &str, value: &str) -> Value {
    object[name] = value.into();
    object
}

#[test]
fn the_scheme_says_what_the_token_is() {
    let filter = build::<Oidc>(ROUTE);
    let (prover, plain) = (Prover::es256(), Signer::main().token(json!({})));
    let with_proof = dpop(&plain, &prover.proof(&plain, json!({})));
    assert_eq!(refused(with_proof, &filter), (reason::TOKEN_BINDING_MISMATCH, vec!["scheme"]));
    // A token that is not bound is a bearer token, unless the route wants more; then no proof header goes on either.
    let mut call = call(TokenScheme::Bearer, &plain, "anything");
    assert!(call.run(&filter).is_continue() && call.sent("dpop").is_empty());
    for require in ["any", "dpop", "certificate"] {
        let strict = build::<Oidc>(&format!("{{ issuer: main, binding: {{ require: {require}, dpop: {{}} }} }}"));
        let call = Call::get("/").header("authorization", format!("Bearer {plain}"));
        assert_eq!(refused(call, &strict), (reason::TOKEN_BINDING_MISMATCH, vec!["binding"]));
    }
    // Without `dpop`, the route checks no proof and takes no such token.
    let simple = build::<Oidc>("{ issuer: main }");
    let token = bound(&prover);
    let bearer = Call::get("/").header("authorization", format!("Bearer {token}"));
    assert_eq!(refused(bearer, &simple), (reason::TOKEN_BINDING_MISMATCH, vec!["scheme"]));
    assert_eq!(refused(dpop(&token, &prover.proof(&token, json!({}))), &simple).0, reason::TOKEN_MISSING);
}

#[test]
fn challenges_name_the_schemes_that_would_do() {
    let algs = "algs=\"ES256 ES384 EdDSA PS256 RS256\"";
    for (yaml, expected) in [
        (ROUTE, format!("Bearer realm=\"api.example.test\" | DPoP realm=\"api.example.test\", {algs}")),
        ("{ issuer: main, binding: { require: dpop, dpop: {} } }", format!("DPoP realm=\"api.example.test\", {algs}")),
    ] {
        assert_eq!(challenges(&Call::get("/").denied(&build::<Oidc>(yaml))), expected);
    }
    let expired = Signer::main().token(json!({ "exp": seconds() - 100, "cnf": { "jkt": Prover::es256().thumbprint() } }));
    let denial = dpop(&expired, "x").denied(&build::<Oidc>(ROUTE));
    assert_eq!(
        challenges(&denial),
        format!("DPoP realm=\"api.example.test\", error=\"invalid_token\", error_description=\"The token has expired\", {algs}")
    );
}

#[test]
fn a_nonce_is_asked_for_given_and_renewed() {
    let env = env();
    let filter = build_in::<Oidc>(&env, "{ issuer: main, binding: { dpop: { nonce: { lifetime: 60s } } } }").unwrap();
    let prover = Prover::es256();
    let token = bound(&prover);
    let mut call = dpop(&token, &prover.proof(&token, json!({})));
    let denial = call.denied(&filter);
    assert_eq!(denial.reason(), reason::DPOP_NONCE_REQUIRED);
    assert!(challenges(&denial).contains("error=\"use_dpop_nonce\""));
    let nonce = values(denial.headers(), "dpop-nonce").remove(0);

    let at = |after: u64, jti: &str| {
        let proof = prover.proof(&token, json!({ "nonce": nonce, "jti": jti, "iat": seconds() + after }));
        let mut call = dpop(&token, &proof).at(now() + Duration::from_secs(after));
        let verdict = call.run(&filter);
        let mut response = ResponseHead::new(200, Default::default());
        assert!(filter.response(&mut response, &mut call.exchange).is_continue());
        (verdict, values(response.headers(), "dpop-nonce"))
    };
    let (verdict, given) = at(0, "a");
    assert!(verdict.is_continue() && given.is_empty());
    let (verdict, given) = at(31, "b");
    assert!(verdict.is_continue() && given.len() == 1 && given[0] != nonce);
    assert!(matches!(at(60, "c").0, Verdict::Deny(denial) if denial.reason() == reason::DPOP_NONCE_REQUIRED));
    let foreign = prover.proof(&token, json!({ "nonce": "AAAAAAAAAAAAAAAAAAAAAA" }));
    assert_eq!(refused(dpop(&token, &foreign), &filter), (reason::DPOP_NONCE_REQUIRED, vec!["proof_nonce"]));
}

#[test]
fn behind_a_proxy_the_configuration_says_where_clients_believe_they_are() {
    let filter = build::<Oidc>(
        "{ issuer: main, binding: { dpop: { origin: ['https://public.example.test', 'https://alt.example.test:8443/'] } } }",
    );
    let prover = Prover::es256();
    let token = bound(&prover);
    for url in ["https://public.example.test/orders", "https://alt.example.test:8443/orders"] {
        assert!(dpop(&token, &prover.proof(&token, json!({ "htu": url, "jti": url }))).run(&filter).is_continue());
    }
    let spoofed =
        dpop(&token, &prover.proof(&token, json!({ "htu": "https://evil.test/orders" }))).header("x-forwarded-host", "evil.test");
    assert_eq!(refused(spoofed, &filter).1, ["proof_url"]);
    assert_eq!(refused(dpop(&token, &prover.proof(&token, json!({ "htu": URL, "jti": "x" }))), &filter).1, ["proof_url"]);
}

#[test]
fn a_token_bound_to_a_certificate_needs_that_certificate() {
    let filter = build::<Oidc>("{ issuer: main }");
    // SHA-256 `abab…`, as the test's certificate has it.
    let hash = "q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s";
    let token = Signer::main().token(json!({ "cnf": { "x5t#S256": hash } }));
    let with = || Call::get("/").header("authorization", format!("Bearer {token}"));
    for _ in 0..2 {
        assert!(with().certificate(facts()).run(&filter).is_continue());
        // The token is verified, and cached, by now: another connection still needs the certificate.
        assert_eq!(refused(with(), &filter), (reason::TOKEN_BINDING_MISMATCH, vec!["certificate_binding"]));
        let mut other = facts();
        other.sha256 = "ac".repeat(32);
        assert_eq!(refused(with().certificate(other), &filter).0, reason::TOKEN_BINDING_MISMATCH);
        assert_eq!(refused(with().refused_certificate(reason::CERT_UNTRUSTED), &filter).0, reason::TOKEN_BINDING_MISMATCH);
    }
    let strict = build::<Oidc>("{ issuer: main, binding: { require: certificate } }");
    assert!(with().certificate(facts()).run(&strict).is_continue());
    // One that a proxy handed on counts only where the configuration says so.
    for proves_tokens in [false, true] {
        for filter in [&filter, &strict] {
            let mut call = with().certificate(facts());
            call.exchange.driver_set_certificate_origin(CertificateOrigin::Forwarded { header: "Client-Cert", proves_tokens });
            assert_eq!(call.run(filter).is_continue(), proves_tokens);
        }
    }
    // With both, both.
    let prover = Prover::es256();
    let token = Signer::main().token(json!({ "cnf": { "x5t#S256": hash, "jkt": prover.thumbprint() } }));
    let both = build::<Oidc>(ROUTE);
    let proof = |jti: &str| dpop(&token, &prover.proof(&token, json!({ "jti": jti })));
    assert!(proof("1").certificate(facts()).run(&both).is_continue());
    assert_eq!(refused(proof("2"), &both).1, ["certificate_binding"]);
    assert_eq!(
        refused(Call::get("/orders").header("authorization", format!("Bearer {token}")).certificate(facts()), &both).1,
        ["scheme"]
    );
}

#[test]
fn a_forwarded_token_keeps_its_scheme() {
    let filter = build::<Oidc>(ROUTE);
    let headers = build::<IdentityHeaders>("{ headers: { x-user: sub }, forward_token: true }");
    let prover = Prover::es256();
    let token = bound(&prover);
    let mut call = dpop(&token, &prover.proof(&token, json!({})));
    assert!(call.run(&filter).is_continue() && call.run(&headers).is_continue());
    assert_eq!(call.sent("authorization"), [format!("DPoP {token}")]);
    // One that nobody verified goes nowhere.
    let headers = build::<IdentityHeaders>("{ headers: { x-user: sub } }");
    let mut call = dpop(&token, "x");
    assert!(call.run(&headers).is_continue() && call.sent("authorization").is_empty());
}

#[test]
fn another_method_needs_another_proof() {
    let filter = build::<Oidc>(ROUTE);
    let prover = Prover::es256();
    let token = bound(&prover);
    let delete =
        |proof: &str| Call::new(Method::Delete, "/orders").header("Authorization", format!("DPoP {token}")).header("DPoP", proof);
    assert_eq!(refused(delete(&prover.proof(&token, json!({}))), &filter).1, ["proof_method"]);
    assert!(delete(&prover.proof(&token, json!({ "htm": "DELETE" }))).run(&filter).is_continue());
}

#[test]
fn settings_that_could_accept_nothing_or_too_much_are_refused() {
    for (binding, part) in [
        ("{ require: dpop }", "dpop"),
        ("{ require: yes }", ""),
        ("{ dpop: { algorithms: [] } }", "no algorithm"),
        ("{ dpop: { algorithms: [HS256] } }", "symmetric"),
        ("{ dpop: { max_age: 0s } }", "1s to 5m"),
        ("{ dpop: { max_age: 10m } }", "1s to 5m"),
        ("{ dpop: { origin: [] } }", "empty"),
        ("{ dpop: { origin: 'api.example.com' } }", "not an origin"),
        ("{ dpop: { origin: 'https://api.example.com/v1' } }", "not an origin"),
        ("{ dpop: { origin: 'https://api.example.com?x' } }", "not an origin"),
        ("{ dpop: { nonce: { lifetime: 1s } } }", "10s to 1h"),
        ("{ dpop: { nonce: { secret_file: missing } } }", "missing"),
        ("{ dpop: }", ""),
    ] {
        let error = error::<Oidc>(&format!("{{ issuer: main, binding: {binding} }}"));
        assert!(error.contains(part), "{binding}: {error}");
    }
}
