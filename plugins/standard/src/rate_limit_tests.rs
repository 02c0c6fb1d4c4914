use super::*;
use crate::rate_amount::SECOND;
use crate::test_support::{Call, build_in, env, error, facts, try_build, values};
use portcullis_plugin::Principal;

/// Puts the filter's time into the test's hands.
pub(super) fn manual(yaml: &str) -> RateLimit {
    manual_in(&env(), yaml)
}

pub(super) fn manual_in(env: &Env, yaml: &str) -> RateLimit {
    let filter = build_in::<RateLimit>(env, yaml).unwrap_or_else(|error| panic!("{yaml}: {error}"));
    let state = State::new(1_000, Clock::Manual(AtomicU64::new(SECOND)));
    RateLimit { state: Arc::new(state), ..filter }
}

pub(super) fn forward(filter: &RateLimit, nanoseconds: u64) {
    if let Clock::Manual(now) = &filter.state.clock {
        now.fetch_add(nanoseconds, Ordering::Relaxed);
    }
}

pub(super) fn allowed(filter: &RateLimit, mut call: Call) -> bool {
    call.run(filter).is_continue()
}

#[test]
fn beyond_the_burst_is_429_with_the_time_to_wait() {
    let filter = manual("{ key: client, rate: 2/m, burst: 2 }");
    assert!(allowed(&filter, Call::get("/")) && allowed(&filter, Call::get("/")));
    let mut call = Call::get("/");
    let denial = call.denied(&filter);
    assert_eq!((denial.reason(), denial.status_code()), (reason::RATE_EXCEEDED, 429));
    assert_eq!(values(denial.headers(), "retry-after"), ["30"]);
    let finding = &call.exchange.checks()[0].finding;
    assert_eq!(finding.expected, "at most 2/m by client, 2 at once");
    assert_eq!(finding.observed, "none left; the next in 30s");
    forward(&filter, 30 * SECOND);
    assert!(allowed(&filter, Call::get("/")) && !allowed(&filter, Call::get("/")));
}

#[test]
fn clients_see_where_they_stand() {
    let filter = manual("{ key: client, rate: 100/s, burst: 200 }");
    let mut call = Call::get("/");
    assert!(call.run(&filter).is_continue());
    let headers = call.response(&filter, &[]);
    assert_eq!(values(&headers, "RateLimit-Policy"), ["\"client 100/s\";q=200;w=2"]);
    assert_eq!(values(&headers, "RateLimit"), ["\"client 100/s\";r=199;t=1"]);

    let slow = manual("{ key: route, rate: 1/h }");
    assert!(allowed(&slow, Call::get("/")));
    let mut call = Call::get("/");
    call.denied(&slow);
    assert_eq!(values(&call.response(&slow, &[]), "RateLimit"), ["\"route 1/h\";r=0;t=3600"]);
}

#[test]
fn two_limits_on_one_request_are_two_members() {
    let (fast, slow) = (manual("{ key: client, rate: 10/s }"), manual("{ key: client, rate: 1000/h }"));
    let mut call = Call::get("/");
    assert!(call.run(&fast).is_continue() && call.run(&slow).is_continue());
    let headers = call.response(&slow, &[]);
    assert_eq!(values(&headers, "RateLimit"), ["\"client 1000/h\";r=999;t=4"]);
    let headers = call.response(&fast, &[("RateLimit", "\"client 1000/h\";r=999;t=4")]);
    assert_eq!(values(&headers, "RateLimit"), ["\"client 1000/h\";r=999;t=4", "\"client 10/s\";r=9;t=1"]);
}

#[test]
fn clients_are_not_told_if_the_route_says_so() {
    let filter = manual("{ key: client, rate: 1/s, headers: false }");
    let mut call = Call::get("/");
    assert!(call.run(&filter).is_continue());
    assert!(call.response(&filter, &[]).is_empty());
}

#[test]
fn each_client_has_its_own_and_an_ipv6_client_one_per_network() {
    let filter = manual("{ key: client, rate: 1/h }");
    assert!(allowed(&filter, Call::get("/").client("192.0.2.1")) && allowed(&filter, Call::get("/").client("192.0.2.2")));
    assert!(!allowed(&filter, Call::get("/").client("::ffff:192.0.2.1")), "the same address in another spelling");
    assert!(allowed(&filter, Call::get("/").client("2001:db8::1")));
    assert!(!allowed(&filter, Call::get("/").client("2001:db8::ffff:2")), "another address of the same /64");
    assert!(allowed(&filter, Call::get("/").client("2001:db8:0:1::1")));

    let single = manual("{ key: client, rate: 1/h, ipv6_prefix: 128 }");
    assert!(allowed(&single, Call::get("/").client("2001:db8::1")) && allowed(&single, Call::get("/").client("2001:db8::2")));
}

#[test]
fn a_subject_is_counted_per_issuer() {
    let of = |issuer: &str| {
        let mut principal = Principal::new("bearer", "alice");
        principal.issuer = Some(issuer.into());
        Call::get("/").principal(principal)
    };
    let filter = manual("{ key: principal.sub, rate: 1/h }");
    assert!(allowed(&filter, of("https://a")) && allowed(&filter, of("https://b")) && !allowed(&filter, of("https://a")));
}

#[test]
fn without_an_identity_to_count_by_it_is_refused() {
    let filter = manual("{ key: principal.sub, rate: 1/h }");
    assert_eq!(Call::get("/").denied(&filter).reason(), reason::IDENTITY_MISSING);
    let by_claim = manual("{ key: principal.claims.tenant, rate: 1/h }");
    assert_eq!(Call::get("/").principal(Principal::new("bearer", "a")).denied(&by_claim).reason(), reason::IDENTITY_MISSING);
    let hint = |mut call: Call, filter: &RateLimit| {
        call.denied(filter);
        call.exchange.checks()[0].finding.hint.clone().unwrap_or_default()
    };
    assert!(hint(Call::get("/"), &filter).starts_with("nobody is known: put a filter that authenticates before"));
    let known = hint(Call::get("/").principal(Principal::new("bearer", "a")), &by_claim);
    assert!(known.starts_with("the caller is known, by bearer") && !known.contains("before this one"), "{known}");
    let by_certificate = manual("{ key: cert.sha256, rate: 1/h }");
    assert!(hint(Call::get("/").principal(Principal::new("bearer", "a")), &by_certificate).contains("`client_cert` before"));
    assert_eq!(
        Call::get("/").refused_certificate(reason::CERT_EXPIRED).denied(&by_certificate).reason(),
        reason::IDENTITY_MISSING
    );
    assert!(allowed(&by_certificate, Call::get("/").certificate(facts())));
    assert!(!allowed(&by_certificate, Call::get("/").certificate(facts())));
}

#[test]
fn leaving_the_header_out_is_no_way_around() {
    let filter = manual("{ key: header.X-Api-Key, rate: 1/h }");
    assert!(
        allowed(&filter, Call::get("/").header("x-api-key", "a")) && !allowed(&filter, Call::get("/").header("X-API-KEY", "a"))
    );
    assert!(allowed(&filter, Call::get("/").header("x-api-key", "b")));
    assert!(allowed(&filter, Call::get("/")) && !allowed(&filter, Call::get("/")), "counted by address then");
    assert!(allowed(&filter, Call::get("/").client("192.0.2.2")));
}

#[test]
fn a_reload_forgives_nobody_even_with_another_rate() {
    let env = env().scoped("route orders/0");
    let first = build_in::<RateLimit>(&env, "{ key: route, rate: 1/h }").unwrap();
    assert!(allowed(&first, Call::get("/")));
    for yaml in ["{ key: route, rate: 1/h }", "{ key: route, rate: 2/h, burst: 1 }"] {
        let reloaded = build_in::<RateLimit>(&env, yaml).unwrap();
        assert!(!allowed(&reloaded, Call::get("/")), "{yaml}");
    }
    let elsewhere = build_in::<RateLimit>(&env.scoped("route other/0"), "{ key: route, rate: 1/h }").unwrap();
    assert!(allowed(&elsewhere, Call::get("/")));
}

#[test]
fn a_place_that_is_taken_early_is_counted() {
    let env = env();
    let filter = build_in::<RateLimit>(&env, "{ key: header.x, rate: 1/h, max_keys: 1 }").unwrap();
    for n in 0..5_000 {
        assert!(allowed(&filter, Call::get("/").header("x", n.to_string())));
    }
    let evictions = filter.evictions.with_label_values(&["orders"]).get();
    assert!((1..5_000).contains(&evictions), "{evictions}");
}

#[test]
fn configurations_that_mean_nothing_are_refused() {
    for (yaml, problem) in [
        ("{ key: client, rate: 0/s }", "is not a rate"),
        ("{ key: client, rate: 10 }", "is not a rate"),
        ("{ key: client, rate: +5/s }", "is not a rate"),
        ("{ key: client, rate: 5/w }", "is not a rate"),
        ("{ key: [], rate: 1/s }", "key: the list is empty"),
        ("{ key: [client, client], rate: 1/s }", "key[1]: the same"),
        ("{ key: [client, route], rate: 1/s }", "key[1]: `route` adds nothing"),
        ("{ key: client, rate: 99999999999/s }", "is not a rate"),
        ("{ key: client, rate: 1/s, burst: 0 }", "burst: "),
        ("{ key: client, rate: 1/h, burst: 4000000000 }", "burst: "),
        ("{ key: client, rate: 1/s, max_keys: 0 }", "max_keys: "),
        ("{ key: client, rate: 1/s, max_keys: 99999999 }", "max_keys: "),
        ("{ key: client, rate: 1/s, ipv6_prefix: 0 }", "ipv6_prefix: "),
        ("{ key: route, rate: 1/s, ipv6_prefix: 64 }", "ipv6_prefix: "),
        ("{ key: sub, rate: 1/s }", "nothing to count by"),
        ("{ key: principal.client.ip, rate: 1/s }", "nothing to count by"),
        ("{ key: principal.cert.subject, rate: 1/s }", "nothing to count by"),
        ("{ key: decision.id, rate: 1/s }", "nothing to count by"),
        ("{ key: 'header.a b', rate: 1/s }", "nothing to count by"),
        ("{ rate: 1/s }", "missing field"),
        ("{ key: client, rate: 1/s, brust: 2 }", "unknown field"),
    ] {
        let error = match try_build::<RateLimit>(yaml) {
            Ok(_) => panic!("{yaml}: accepted"),
            Err(error) => error,
        };
        assert!(error.contains(problem), "{yaml}: {error}");
    }
    assert!(error::<RateLimit>("{ key: client, rate: '10/s ' }").contains("is not a rate"));
}

#[test]
fn a_list_counts_each_combination_by_itself_and_a_day_is_a_quota() {
    let filter = manual("{ key: [principal.claims.tenant, principal.client_id], rate: 1/d }");
    let caller = |tenant: &str, client: Option<&str>| {
        let mut principal = Principal::new("bearer", "alice");
        principal.issuer = Some("https://main.example.test".into());
        principal.client_id = client.map(Into::into);
        principal.claims = Arc::new([("tenant".to_owned(), tenant.into())].into_iter().collect());
        Call::get("/").principal(principal)
    };
    for (tenant, client) in [("acme", "a"), ("acme", "b"), ("other", "a"), ("acmea", "")] {
        assert!(allowed(&filter, caller(tenant, Some(client))), "{tenant} {client}");
        assert!(!allowed(&filter, caller(tenant, Some(client))), "{tenant} {client}");
    }
    // Half a key counts for nobody, so it does not pass.
    let mut call = caller("acme", None);
    assert_eq!(call.denied(&filter).reason(), reason::IDENTITY_MISSING);
    assert_eq!(call.exchange.checks()[0].finding.expected, "a value for principal.client_id");
    forward(&filter, 86_399 * SECOND);
    assert!(!allowed(&filter, caller("acme", Some("a"))));
    forward(&filter, SECOND);
    assert!(allowed(&filter, caller("acme", Some("a"))));
}
