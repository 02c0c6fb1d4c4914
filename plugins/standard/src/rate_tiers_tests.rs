//! Tiers, overrides, quotas, and keys that are missing.

use super::tests::{allowed, forward, manual, manual_in};
use super::*;
use crate::api_key::{ApiKey, hash};
use crate::oidc::Oidc;
use crate::rate_amount::SECOND;
use crate::test_support::{Call, Folder, Signer, build, build_in, env, error, facts, now, values};
use portcullis_plugin::{Principal, ReasonCode};
use serde_json::{Value, json};

const MAIN: &str = "https://main.example.test";
const OTHER: &str = "https://other.example.test/";
/// The month of the tests' time, 2027-01-15T08:00:00Z, has as many seconds left.
const LEFT: u64 = 16 * 86_400 + 16 * 3_600;

fn bearer(issuer: &str, subject: &str, claims: &Value) -> Principal {
    let mut principal = Principal::new("bearer", subject);
    principal.issuer = Some(issuer.into());
    principal.client_id = claims["client_id"].as_str().map(Into::into);
    principal.scopes = claims["scope"].as_str().into_iter().flat_map(str::split_whitespace).map(Into::into).collect();
    principal.roles = claims["roles"].as_array().into_iter().flatten().filter_map(Value::as_str).map(Into::into).collect();
    principal.claims = Arc::new(claims.as_object().unwrap().clone());
    principal
}

fn alice(claims: &Value) -> Call {
    Call::get("/").principal(bearer(MAIN, "alice", claims))
}

/// How often a caller may ask at once.
fn at_once(filter: &RateLimit, call: impl Fn() -> Call) -> usize {
    (0..200).take_while(|_| allowed(filter, call())).count()
}

/// A key of the tests' file, and the principal that it becomes.
fn keyed(folder: &Folder, owner: &str) -> Principal {
    let key = format!("{owner}-3f1c9a77d2e84b06a5d0c4e19b8f7263");
    folder.write("keys.txt", &format!("one {} owner={owner}\n", hash(&key).unwrap()));
    let filter: ApiKey = folder.build("{ authorization: true, file: keys.txt }").unwrap();
    let mut call = Call::get("/").header("authorization", format!("ApiKey {key}"));
    assert!(call.run(&filter).is_continue());
    Principal::clone(call.exchange.principal().unwrap())
}

const TIERS: &str = "{ key: principal.sub, rate: 2/m, tiers: [\
    { name: gold, when: { issuer: main, claims: { plan: gold } }, rate: 9/m, burst: 7 }, \
    { name: batch, when: { verified_by: api_key, owner: billing }, rate: 5/m }, \
    { name: app, when: { issuer: [main, other], client_id: [reports, exports], scopes: [a, b] }, rate: 4/m }, \
    { name: admin, when: { issuer: main, roles: [root, admin] }, rate: 3/m } ] }";

#[test]
fn a_tier_is_for_whom_its_condition_holds_and_everybody_else_has_the_rest() {
    let folder = Folder::new();
    for (principal, count) in [
        (bearer(MAIN, "a", &json!({ "plan": "gold" })), 7),
        (bearer(MAIN, "b", &json!({ "plan": ["silver", "gold"] })), 7),
        (bearer(MAIN, "c", &json!({ "plan": "gold", "roles": ["admin"] })), 7),
        (bearer(MAIN, "d", &json!({ "roles": ["admin"] })), 3),
        (bearer(OTHER, "e", &json!({ "client_id": "exports", "scope": "b a" })), 4),
        (keyed(&folder, "billing"), 5),
        // Another case, another form, a part of it, or of another issuer: none.
        (bearer(MAIN, "f", &json!({ "plan": "Gold" })), 2),
        (bearer(MAIN, "g", &json!({ "plan": "gold " })), 2),
        (bearer(MAIN, "h", &json!({ "PLAN": "gold" })), 2),
        (bearer(MAIN, "i", &json!({ "plan": { "gold": true } })), 2),
        (bearer(OTHER, "j", &json!({ "plan": "gold" })), 2),
        (bearer(OTHER, "k", &json!({ "roles": ["admin"] })), 2),
        (bearer(MAIN, "l", &json!({ "client_id": "exports", "scope": "a" })), 2),
        (bearer(MAIN, "m", &json!({ "owner": "billing", "client_id": "billing" })), 2),
        (keyed(&folder, "reports"), 2),
        (Principal::new("certificate", "n"), 2),
    ] {
        let filter = manual(TIERS);
        assert_eq!(at_once(&filter, || Call::get("/").principal(principal.clone())), count, "{principal:?}");
    }
    assert_eq!(manual(TIERS).needs().summary.as_deref(), Some("rate(principal.sub 2/m; 4 tiers)"));
    assert!(manual(TIERS).needs().reads_identity);
}

#[test]
fn what_a_caller_says_of_itself_is_no_tier() {
    let filter = manual(TIERS);
    let pleading = || {
        alice(&json!({}))
            .header("plan", "gold")
            .header("x-plan", "gold")
            .header("x-tier", "gold")
            .header("authorization", "Bearer gold")
    };
    assert_eq!(at_once(&filter, pleading), 2);
    for when in ["{ header: x-plan }", "{ headers: { x-plan: gold } }", "{ claims: { plan: gold }, query: plan }"] {
        let error = error::<RateLimit>(&format!("{{ key: client, rate: 1/s, tiers: [{{ name: a, when: {when}, rate: 2/s }}] }}"));
        assert!(error.contains("would let it choose its tier"), "{when}: {error}");
    }
    let error = error::<RateLimit>("{ key: header.x-api-key, rate: 1/s, overrides: [{ key: a, rate: 2/s }] }");
    assert!(error.contains("overrides[0].key: a header is what the caller says"), "{error}");
}

#[test]
fn a_claim_of_an_issuer_that_the_route_does_not_trust_is_no_tier() {
    let env = env();
    let filter = manual(TIERS);
    for yaml in ["{ issuer: main }", "{ issuer: main, optional: true }"] {
        let oidc: Oidc = build_in(&env, yaml).unwrap();
        let with = |token: String| Call::get("/").header("authorization", format!("Bearer {token}"));
        let claims = json!({ "plan": "gold" });
        for forged in [Signer::other().token(claims.clone()), Signer::stranger().token(claims.clone())] {
            let mut call = with(forged);
            assert_eq!(call.denied(&oidc).status_code(), 401);
            assert!(call.exchange.principal().is_none());
            // Even on a chain that went on, it would have no key to be counted by.
            assert_eq!(call.denied(&filter).reason(), reason::IDENTITY_MISSING);
        }
        let mut good = with(Signer::main().token(claims));
        assert!(good.run(&oidc).is_continue() && good.run(&filter).is_continue());
        assert!(values(&good.response(&filter, &[]), "ratelimit")[0].contains("9/m"));
    }
    // Where both are trusted, the one that gives out plans is named.
    let both: Oidc = build("{ issuer: [main, other] }");
    let token = Signer::other().token(json!({ "plan": "gold", "sub": "mallory" }));
    let mut call = Call::get("/").header("authorization", format!("Bearer {token}"));
    assert!(call.run(&both).is_continue() && call.run(&filter).is_continue());
    assert_eq!(values(&call.response(&filter, &[]), "ratelimit"), ["\"principal.sub 2/m\";r=1;t=30"]);
}

#[test]
fn with_several_issuers_it_is_said_whose_word_counts() {
    for part in [
        "tiers: [{ name: a, when: { claims: { plan: gold } }, rate: 2/s }]",
        "tiers: [{ name: a, when: { roles: [x], verified_by: bearer }, rate: 2/s }]",
        "overrides: [{ key: alice, rate: 2/s }]",
    ] {
        let yaml = format!("{{ key: principal.sub, rate: 1/s, {part} }}");
        let error = error::<RateLimit>(&yaml);
        assert!(error.contains("there are several issuers") && error.contains("`issuer: main` of main, other"), "{error}");
        assert!(Folder::new().build::<RateLimit>(&yaml).is_ok(), "with one or none there is no question");
    }
    for part in [
        "tiers: [{ name: a, when: { owner: billing }, rate: 2/s }]",
        "tiers: [{ name: a, when: { roles: [x], verified_by: certificate }, rate: 2/s }]",
        "overrides: [{ key: billing/one, verified_by: api_key, rate: 2/s }]",
    ] {
        build::<RateLimit>(&format!("{{ key: principal.sub, rate: 1/s, {part} }}"));
    }
    build::<RateLimit>("{ key: client, rate: 1/s, overrides: [{ key: 192.0.2.7, rate: 2/s }] }");
    build::<RateLimit>("{ key: cert.sha256, rate: 1/s, overrides: [{ key: abab, rate: 2/s }] }");
}

#[test]
fn an_override_is_for_one_key_and_comes_before_every_tier() {
    let filter = manual(
        "{ key: principal.sub, rate: 2/m, tiers: [{ name: gold, when: { issuer: main, claims: { plan: gold } }, rate: 9/m }], \
         overrides: [{ key: alice, issuer: main, rate: 4/m }, { key: alice, issuer: other, rate: 3/m }] }",
    );
    assert_eq!(at_once(&filter, || alice(&json!({ "plan": "gold" }))), 4);
    assert_eq!(at_once(&filter, || Call::get("/").principal(bearer(OTHER, "alice", &json!({})))), 3);
    for subject in ["Alice", "alice ", "alic", "alice2"] {
        let call = || Call::get("/").principal(bearer(MAIN, subject, &json!({})));
        assert_eq!(at_once(&filter, call), 2, "{subject}");
    }
    assert_eq!(at_once(&filter, || Call::get("/").principal(Principal::new("api_key", "alice"))), 2);
    assert_eq!(filter.needs().summary.as_deref(), Some("rate(principal.sub 2/m; 1 tier; 2 overrides)"));

    let networks = manual(
        "{ key: client, rate: 1/m, overrides: [{ key: 192.0.2.7, rate: 3/m }, { key: '2001:db8::7', rate: 2/m }, \
         { key: '::ffff:192.0.2.9', rate: 4/m }] }",
    );
    for (client, count) in [("192.0.2.7", 3), ("::ffff:192.0.2.7", 0), ("192.0.2.8", 1), ("192.0.2.9", 4), ("2001:db8::1:2", 2)] {
        assert_eq!(at_once(&networks, || Call::get("/").client(client)), count, "{client}");
    }

    let pairs = manual(
        "{ key: [principal.claims.tenant, principal.client_id, client], rate: 1/m, \
         overrides: [{ key: [acme, batch, 192.0.2.1], issuer: main, rate: 3/m }, { key: [acme, web, 192.0.2.1], issuer: main, rate: 2/m }] }",
    );
    for (tenant, client, count) in
        [("acme", "batch", 3), ("acme", "web", 2), ("acme", "other", 1), ("other", "batch", 1), ("batch", "acme", 1)]
    {
        assert_eq!(at_once(&pairs, || alice(&json!({ "tenant": tenant, "client_id": client }))), count, "{tenant} {client}");
    }
    // A list is not the one value that an override names.
    let listed = json!({ "tenant": ["acme"], "client_id": "batch" });
    assert_eq!(at_once(&pairs, || alice(&listed)), 1);
}

#[test]
fn a_check_names_the_tier_and_the_client_sees_its_limit() {
    let expected = |claims: Value| {
        let filter = manual(TIERS);
        let mut call = alice(&claims);
        call.exchange.driver_explain();
        assert!(call.run(&filter).is_continue());
        let seen = values(&call.response(&filter, &[]), "ratelimit-policy").join(", ");
        (call.exchange.checks()[0].finding.expected.clone(), seen)
    };
    let (gold, seen) = expected(json!({ "plan": "gold" }));
    assert_eq!((&*gold, &*seen), ("at most 9/m by principal.sub, 7 at once (tier gold)", "\"principal.sub 9/m\";q=7;w=47"));
    let (none, seen) = expected(json!({}));
    assert_eq!((&*none, &*seen), ("at most 2/m by principal.sub, 2 at once (no tier)", "\"principal.sub 2/m\";q=2;w=60"));
    let single = manual("{ key: principal.sub, rate: 2/m, overrides: [{ key: alice, issuer: main, quota: 1/day }] }");
    assert!(allowed(&single, alice(&json!({}))));
    let mut call = alice(&json!({}));
    call.denied(&single);
    assert_eq!(call.exchange.checks()[0].finding.expected, "at most 1/day by principal.sub (override for alice)");
}

#[test]
fn a_token_of_another_tier_is_no_way_to_a_fresh_bucket_or_count() {
    let yaml = "{ key: principal.sub, rate: 9/m, quota: 3/month, \
        tiers: [{ name: gold, when: { issuer: main, claims: { plan: gold } }, quota: 5/month }] }";
    let filter = manual(yaml);
    assert_eq!(at_once(&filter, || alice(&json!({}))), 3);
    assert_eq!(at_once(&filter, || alice(&json!({ "plan": "gold" }))), 2, "what was used counts in each tier");
    assert_eq!(at_once(&filter, || alice(&json!({}))), 0);
    let refused = error::<RateLimit>(&yaml.replace("5/month", "5/day"));
    assert!(refused.contains("tiers[0].quota: the other quotas of this filter are by month"), "{refused}");
}

#[test]
fn quotas_by_subject_application_owner_and_tenant() {
    let folder = Folder::new();
    let (ours, theirs) = (keyed(&folder, "billing"), keyed(&folder, "shipping"));
    let of = |claims: Value| bearer(MAIN, "alice", &claims);
    for (key, one, same, another) in [
        ("principal.sub", of(json!({ "a": 1 })), of(json!({ "a": 2 })), bearer(MAIN, "Alice", &json!({}))),
        ("principal.sub", of(json!({})), of(json!({})), bearer(OTHER, "alice", &json!({}))),
        (
            "principal.client_id",
            of(json!({ "client_id": "web" })),
            bearer(MAIN, "bob", &json!({ "client_id": "web" })),
            of(json!({ "client_id": "Web" })),
        ),
        ("principal.client_id", ours.clone(), ours.clone(), theirs.clone()),
        ("principal.claims.owner", ours.clone(), ours.clone(), theirs),
        ("principal.client_id", ours, keyed(&folder, "billing"), of(json!({ "client_id": "billing" }))),
        (
            "principal.claims.tenant",
            of(json!({ "tenant": "acme" })),
            bearer(MAIN, "bob", &json!({ "tenant": "acme" })),
            of(json!({ "tenant": "ACME" })),
        ),
    ] {
        let filter = manual(&format!("{{ key: {key}, quota: 2/month }}"));
        let call = |principal: &Principal| Call::get("/").principal(principal.clone());
        assert!(allowed(&filter, call(&one)) && allowed(&filter, call(&same)), "{key}");
        for spent in [&one, &same] {
            let mut call = call(spent);
            let denial = call.denied(&filter);
            assert_eq!((denial.reason(), denial.status_code()), (reason::RATE_QUOTA_EXHAUSTED, 429), "{key}");
            assert_eq!(values(denial.headers(), "retry-after"), [LEFT.to_string()]);
            let finding = &call.exchange.checks()[0].finding;
            assert_eq!(finding.expected, format!("at most 2/month by {key}"));
            assert_eq!(finding.observed, "none left until 2027-02-01T00:00:00Z");
            assert!(finding.hint.as_deref().is_some_and(|hint| hint.contains("raise `quota`")), "{finding:?}");
        }
        assert_eq!(at_once(&filter, || call(&another)), 2, "{key}: another has its own");
    }
}

fn later(call: Call, seconds: u64) -> Call {
    let principal = call.exchange.principal().cloned().unwrap();
    call.at(now() + Duration::from_secs(seconds)).principal(Principal::clone(&principal))
}

#[test]
fn a_quota_begins_anew_with_the_period_and_not_before() {
    let filter = manual("{ key: principal.sub, quota: 2/month }");
    let mut first = alice(&json!({}));
    assert!(first.run(&filter).is_continue());
    let told = first.response(&filter, &[]);
    assert_eq!(values(&told, "ratelimit-policy"), ["\"principal.sub 2/month\";q=2"]);
    assert_eq!(values(&told, "ratelimit"), [format!("\"principal.sub 2/month\";r=1;t={LEFT}")]);
    assert!(allowed(&filter, later(alice(&json!({})), LEFT - 1)));
    assert!(!allowed(&filter, later(alice(&json!({})), LEFT - 1)));
    assert_eq!(at_once(&filter, || later(alice(&json!({})), LEFT)), 2);
    // The clock goes back over the end of the month, twice.
    for seconds in [0, LEFT - 1, LEFT + 5, 0] {
        let mut call = later(alice(&json!({})), seconds);
        let denial = call.denied(&filter);
        let wait = LEFT + 28 * 86_400 - seconds;
        assert_eq!(values(denial.headers(), "retry-after"), [wait.to_string()], "{seconds}");
    }
}

#[test]
fn what_the_rate_refuses_is_not_counted_and_both_are_told() {
    let filter = manual("{ key: principal.sub, rate: 1/s, quota: 3/day }");
    assert!(allowed(&filter, alice(&json!({}))));
    for _ in 0..50 {
        assert_eq!(alice(&json!({})).denied(&filter).reason(), reason::RATE_EXCEEDED);
    }
    forward(&filter, SECOND);
    let mut call = alice(&json!({}));
    assert!(call.run(&filter).is_continue());
    let told = call.response(&filter, &[]);
    assert_eq!(values(&told, "ratelimit-policy"), ["\"principal.sub 1/s\";q=1;w=1", "\"principal.sub 3/day\";q=3;w=86400"]);
    assert_eq!(values(&told, "ratelimit"), ["\"principal.sub 1/s\";r=0;t=1", "\"principal.sub 3/day\";r=1;t=57600"]);
}

#[test]
fn a_reload_forgives_no_quota_even_with_another_one_or_tiers() {
    let env = env().scoped("route orders/0");
    let first = build_in::<RateLimit>(&env, "{ key: principal.sub, quota: 3/month }").unwrap();
    assert_eq!(at_once(&first, || alice(&json!({}))), 3);
    for yaml in [
        "{ key: principal.sub, quota: 3/month }",
        "{ key: principal.sub, quota: 2/month, rate: 9/s }",
        "{ key: principal.sub, quota: 2/month, tiers: [{ name: a, when: { issuer: main }, quota: 3/month }] }",
    ] {
        let reloaded = build_in::<RateLimit>(&env, yaml).unwrap();
        assert_eq!(alice(&json!({})).denied(&reloaded).reason(), reason::RATE_QUOTA_EXHAUSTED, "{yaml}");
    }
    let larger = build_in::<RateLimit>(&env, "{ key: principal.sub, quota: 4/month }").unwrap();
    assert_eq!(at_once(&larger, || alice(&json!({}))), 1);
}

#[test]
fn a_flood_of_other_keys_gives_no_new_quota_and_is_counted() {
    let env = env();
    let filter = build_in::<RateLimit>(&env, "{ key: principal.sub, quota: 4/month, max_keys: 1 }").unwrap();
    assert_eq!(at_once(&filter, || alice(&json!({}))), 4);
    for n in 0..5_000 {
        let _ = Call::get("/").principal(bearer(MAIN, &format!("sybil-{n}"), &json!({}))).run(&filter);
        if n % 100 == 0 {
            assert!(!allowed(&filter, alice(&json!({}))), "after {n}");
        }
    }
    assert!(filter.quota_evictions.with_label_values(&["orders"]).get() > 1_000);
    assert_eq!(filter.evictions.with_label_values(&["orders"]).get(), 0);
}

#[test]
fn a_claim_of_any_length_is_a_key_and_is_repeated_nowhere() {
    let filter = manual(
        "{ key: principal.claims.tenant, rate: 2/h, quota: 9/day, tiers: [{ name: gold, when: { issuer: main, claims: { tenant: gold } }, rate: 9/h }] }",
    );
    let long = "gold".repeat(2_048);
    let mut other = long.clone();
    other.push('x');
    assert_eq!(at_once(&filter, || alice(&json!({ "tenant": long }))), 2);
    assert_eq!(at_once(&filter, || alice(&json!({ "tenant": other }))), 2, "told apart by the last letter");
    let mut call = alice(&json!({ "tenant": long }));
    call.exchange.driver_explain();
    let denial = call.denied(&filter);
    let told = call.response(&filter, &[]);
    let shown = format!("{:?} {denial:?} {told:?}", call.exchange.checks());
    assert!(shown.len() < 2_000 && !shown.contains("goldgold"), "{shown}");
}

#[test]
fn without_a_key_it_goes_as_the_configuration_says() {
    let denied = |yaml: &str, call: Call| -> ReasonCode { { call }.denied(&manual(yaml)).reason() };
    for yaml in ["{ key: principal.claims.plan, rate: 1/h }", "{ key: principal.claims.plan, rate: 1/h, missing: deny }"] {
        assert_eq!(denied(yaml, alice(&json!({}))), reason::IDENTITY_MISSING);
    }
    let skip = manual("{ key: principal.claims.plan, quota: 1/day, missing: skip }");
    assert_eq!(at_once(&skip, || alice(&json!({}))), 200);
    let mut call = alice(&json!({}));
    assert!(call.run(&skip).is_continue() && call.response(&skip, &[]).is_empty());
    assert_eq!(at_once(&skip, || alice(&json!({ "plan": "a" }))), 1);

    let client = manual("{ key: [principal.claims.plan, principal.sub], rate: 2/h, missing: client }");
    let from = |address: &str| Call::get("/").client(address);
    assert_eq!(at_once(&client, || from("192.0.2.1")), 2);
    assert_eq!(at_once(&client, || from("192.0.2.2").principal(bearer(MAIN, "alice", &json!({})))), 2, "half a key is none");
    assert_eq!(at_once(&client, || from("192.0.2.2")), 0);
    assert_eq!(at_once(&client, || from("2001:db8::1")), 2);
    assert_eq!(at_once(&client, || from("2001:db8::2")), 0, "one network");
    assert_eq!(at_once(&client, || alice(&json!({ "plan": "a" }))), 2, "apart from those that have one");
    let mut explained = from("192.0.2.3");
    explained.exchange.driver_explain();
    assert!(explained.run(&client).is_continue());
    assert_eq!(explained.exchange.checks()[0].finding.observed, "none: it counts for its client address");

    let header = manual("{ key: header.x, rate: 1/h, missing: deny }");
    assert_eq!(Call::get("/").denied(&header).reason(), reason::IDENTITY_MISSING);
    assert!(allowed(&header, Call::get("/").header("x", "")));
    for yaml in ["{ key: header.x, rate: 1/h }", "{ key: header.x, rate: 1/h, missing: client }"] {
        assert_eq!(at_once(&manual(yaml), || Call::get("/")), 1, "{yaml}");
    }
    let certificate = manual("{ key: cert.sha256, rate: 1/h, missing: client }");
    assert!(allowed(&certificate, Call::get("/").certificate(facts())) && allowed(&certificate, Call::get("/")));
}

#[test]
fn an_application_and_a_tenant_may_each_have_a_limit_on_one_route() {
    let folder = Folder::new();
    let tenant = manual_in(folder.env(), "{ key: principal.claims.tenant, quota: 5/month }");
    let app = manual_in(folder.env(), "{ key: principal.client_id, quota: 2/day }");
    let mut refused = Vec::new();
    for client in ["a", "a", "a", "b", "b", "b", "c", "c"] {
        let mut call = alice(&json!({ "tenant": "acme", "client_id": client }));
        let verdict = if call.run(&app).is_continue() { call.run(&tenant) } else { continue };
        if !verdict.is_continue() {
            refused.push(client);
        }
    }
    assert_eq!(refused, ["c"], "five of the six that their applications could ask");
}

#[test]
fn tiers_overrides_and_quotas_that_mean_nothing_are_refused() {
    let tier = |tier: &str| format!("{{ key: principal.sub, rate: 1/s, tiers: [{tier}] }}");
    let single = |single: &str| format!("{{ key: principal.sub, rate: 1/s, overrides: [{single}] }}");
    for (yaml, problem) in [
        ("{ key: client }".to_owned(), "neither `rate` nor `quota`"),
        ("{ key: client, rate: }".to_owned(), "null"),
        ("{ key: client, quota: 5/day, burst: 2 }".to_owned(), "burst: a burst belongs to a `rate`"),
        ("{ key: client, quota: 5/d }".to_owned(), "is not a quota"),
        ("{ key: client, quota: }".to_owned(), "null"),
        ("{ key: client, rate: 1/s, missing: deny }".to_owned(), "missing: every request has a value"),
        ("{ key: header.x, rate: 1/s, missing: skip }".to_owned(), "missing: whoever leaves the header out"),
        ("{ key: [header.x, principal.sub], rate: 1/s, missing: skip }".to_owned(), "missing: whoever leaves the header out"),
        ("{ key: principal.sub, rate: 1/s, missing: ip }".to_owned(), "missing"),
        ("{ key: principal.sub, rate: 1/s, missing: deny, ipv6_prefix: 64 }".to_owned(), "ipv6_prefix: no address"),
        ("{ key: principal.sub, rate: 1/s, tiers: [] }".to_owned(), "tiers: the list is empty"),
        ("{ key: principal.sub, rate: 1/s, overrides: [] }".to_owned(), "overrides: the list is empty"),
        (tier("{ name: a, when: {}, rate: 2/s }"), "tiers[0].when: the condition asks for nothing"),
        (tier("{ name: a, rate: 2/s }"), "missing field"),
        (tier("{ name: a, when: { issuer: main } }"), "tiers[0]: neither `rate` nor `quota`"),
        (tier("{ name: '', when: { issuer: main }, rate: 2/s }"), "tiers[0].name: "),
        (
            tier("{ name: a, when: { issuer: main }, rate: 2/s }, { name: a, when: { issuer: other }, rate: 2/s }"),
            "tiers[1].name: another tier",
        ),
        (
            tier("{ name: a, when: { issuer: mian }, rate: 2/s }"),
            "tiers[0].when.issuer: unknown issuer `mian` (did you mean `main`?)",
        ),
        (tier("{ name: a, when: { issuer: [main, no] }, rate: 2/s }"), "tiers[0].when.issuer[1]: unknown issuer"),
        (tier("{ name: a, when: { issuer: [] }, rate: 2/s }"), "tiers[0].when.issuer: the list is empty"),
        (
            tier("{ name: a, when: { issuer: main, claims: { plan: [] } }, rate: 2/s }"),
            "tiers[0].when.claims.plan: the list is empty",
        ),
        (tier("{ name: a, when: { issuer: main, roles: [] }, rate: 2/s }"), "tiers[0].when.roles: the list is empty"),
        (tier("{ name: a, when: { issuer: main, owner: a }, rate: 2/s }"), "tiers[0].when.issuer: only tokens have an issuer"),
        (tier("{ name: a, when: { verified_by: bearer, owner: a }, rate: 2/s }"), "tiers[0].when.owner: only API keys"),
        (
            tier("{ name: a, when: { client_id: a, owner: a }, rate: 2/s }"),
            "tiers[0].when.client_id: the client id of an API key",
        ),
        (tier("{ name: a, when: { verified_by: password }, rate: 2/s }"), "password"),
        (tier("{ name: a, when: { issuer: main }, rate: 1/h, burst: 4000000000 }"), "tiers[0].burst: "),
        (tier("{ name: a, when: { issuer: main }, quota: 5/day, burst: 4 }"), "tiers[0].burst: a burst belongs"),
        (tier("{ name: a, when: { issuer: main }, rates: 2/s }"), "unknown field"),
        (single("{ key: a, issuer: main }"), "overrides[0]: neither `rate` nor `quota`"),
        (
            single("{ key: [a, b], issuer: main, rate: 2/s }"),
            "overrides[0].key: the key `principal.sub` has 1 parts, and this has 2",
        ),
        (single("{ key: '', issuer: main, rate: 2/s }"), "overrides[0].key: an empty value"),
        (
            single("{ key: a, issuer: main, rate: 2/s }, { key: a, issuer: [other, main], rate: 3/s }"),
            "overrides[1].key: `a` has an override already",
        ),
        ("{ key: client, rate: 1/s, overrides: [{ key: localhost, rate: 2/s }] }".to_owned(), "is not an address"),
        (
            "{ key: client, rate: 1/s, overrides: [{ key: '2001:db8::1', rate: 2/s }, { key: '2001:db8::2', rate: 3/s }] }"
                .to_owned(),
            "has an override already",
        ),
        ("{ key: route, rate: 1/s, overrides: [{ key: a, rate: 2/s }] }".to_owned(), "`route` has no values"),
        (
            "{ key: principal.roles, rate: 1/s, overrides: [{ key: a, issuer: main, rate: 2/s }] }".to_owned(),
            "`principal.roles` is a list",
        ),
    ] {
        let error = error::<RateLimit>(&yaml);
        assert!(error.contains(problem), "{yaml}: {error}");
    }
}
