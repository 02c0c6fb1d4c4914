use super::*;
use crate::test_support::{Call, build, error, headers, values};

const APP: &str = "{ origins: [https://app.example.com, 'https://*.shop.example'], methods: [GET, PUT], headers: [Content-Type, x-a], \
                   expose: [x-total], credentials: true, max_age: 10m }";

fn preflight(origin: &str, method: &str, headers: &str) -> Call {
    let call = Call::new(Method::Options, "/").header("origin", origin).header("access-control-request-method", method);
    if headers.is_empty() { call } else { call.header("access-control-request-headers", headers) }
}

/// The response stage also runs on a reply of this filter's own.
fn answered(call: &mut Call, filter: &Cors) -> Headers {
    let reply = call.replied(filter);
    assert_eq!(reply.status, 204);
    let mut response = ResponseHead::new(reply.status, reply.headers);
    assert!(filter.response(&mut response, &mut call.exchange).is_continue());
    response.headers().clone()
}

#[test]
fn a_preflight_is_answered() {
    let filter = build::<Cors>(APP);
    let headers = answered(&mut preflight("https://app.example.com", "PUT", "content-type,X-A"), &filter);
    for (name, value) in [
        ("access-control-allow-origin", "https://app.example.com"),
        ("access-control-allow-methods", "GET, PUT"),
        ("access-control-allow-headers", "content-type, x-a"),
        ("access-control-allow-credentials", "true"),
        ("access-control-max-age", "600"),
        ("vary", "Origin"),
    ] {
        assert_eq!(values(&headers, name), [value], "{name}");
    }
}

#[test]
fn a_preflight_that_asks_for_more_is_refused_and_says_which() {
    let filter = build::<Cors>(APP);
    for (origin, method, headers, failed) in [
        ("https://evil.example", "GET", "", vec!["origin"]),
        ("https://app.example.com", "DELETE", "", vec!["method"]),
        ("https://app.example.com", "put", "", vec!["method"]),
        ("https://app.example.com", "GET", "x-a, x-b", vec!["headers"]),
        ("null", "PATCH", "x-b", vec!["origin", "method", "headers"]),
    ] {
        let mut call = preflight(origin, method, headers);
        let denial = call.denied(&filter);
        assert_eq!((denial.reason(), denial.status_code()), (reason::CORS_DENIED, 403));
        assert_eq!(call.failed_checks().into_iter().map(|(check, _)| check).collect::<Vec<_>>(), failed);
        let refusal = call.response(&filter, &[]);
        assert_eq!(values(&refusal, "vary"), ["Origin"]);
        assert_eq!(refusal.contains("access-control-allow-origin"), !failed.contains(&"origin"));
    }
}

#[test]
fn origins_compare_to_the_letter() {
    let filter = build::<Cors>(APP);
    let granted = |origin: &str| {
        let mut call = Call::get("/").header("origin", origin);
        assert!(call.run(&filter).is_continue(), "a request that is no preflight goes on");
        let response = call.response(&filter, &[]);
        assert_eq!(values(&response, "vary"), ["Origin"]);
        let origins = values(&response, "access-control-allow-origin");
        assert!(origins.is_empty() || origins == [origin]);
        assert_eq!(response.contains("access-control-allow-credentials"), !origins.is_empty());
        !origins.is_empty()
    };
    for origin in ["https://app.example.com", "https://a.shop.example"] {
        assert!(granted(origin), "{origin}");
    }
    for origin in [
        "null",
        "",
        "http://app.example.com",
        "https://app.example.com:8443",
        "https://app.example.com.evil.test",
        "https://evilapp.example.com",
        "https://APP.example.com",
        "https://app.example.com/",
        "https://shop.example",
        "https://.shop.example",
        "https://a.b.shop.example",
        "https://evil.test/.shop.example",
        "https://evil.test#.shop.example",
        "https://a@b.shop.example",
    ] {
        assert!(!granted(origin), "{origin}");
    }
}

#[test]
fn two_origins_are_none() {
    let filter = build::<Cors>(APP);
    let mut call = Call::get("/").header("origin", "https://app.example.com").header("Origin", "https://evil.test");
    assert!(call.run(&filter).is_continue());
    assert!(!call.response(&filter, &[]).contains("access-control-allow-origin"));
}

#[test]
fn the_upstreams_own_policy_is_replaced() {
    let filter = build::<Cors>(APP);
    let upstream = [
        ("Access-Control-Allow-Origin", "https://evil.test"),
        ("Access-Control-Allow-Credentials", "true"),
        ("Access-Control-Allow-Methods", "DELETE"),
        ("Vary", "Accept"),
    ];
    for (origin, expected) in [("https://evil.test", vec![]), ("https://app.example.com", vec!["https://app.example.com"])] {
        let mut call = Call::get("/").header("origin", origin);
        assert!(call.run(&filter).is_continue());
        let response = call.response(&filter, &upstream);
        assert_eq!(values(&response, "access-control-allow-origin"), expected);
        assert_eq!(response.contains("access-control-allow-credentials"), !expected.is_empty());
        assert!(!response.contains("access-control-allow-methods"));
        assert_eq!(values(&response, "vary"), ["Accept", "Origin"]);
    }
}

#[test]
fn a_request_without_origin_is_no_concern_but_still_varies() {
    let filter = build::<Cors>(APP);
    let mut call = Call::get("/");
    assert!(call.run(&filter).is_continue());
    assert_eq!(values(&call.response(&filter, &[("vary", "origin")]), "vary"), ["origin"], "and is not listed twice");
    assert!(Call::new(Method::Options, "/").header("origin", "https://evil.test").run(&filter).is_continue(), "no preflight");
}

#[test]
fn every_origin_and_null_only_if_listed() {
    let any = build::<Cors>("{ origins: '*' }");
    let mut call = Call::get("/").header("origin", "https://a.test");
    assert!(call.run(&any).is_continue());
    let response = call.response(&any, &[]);
    assert_eq!(values(&response, "access-control-allow-origin"), ["*"]);
    assert!(!response.contains("vary") && !response.contains("access-control-allow-credentials"));

    let null = build::<Cors>("{ origins: ['null'] }");
    let mut call = Call::get("/").header("origin", "null");
    assert!(call.run(&null).is_continue());
    assert_eq!(values(&call.response(&null, &[]), "access-control-allow-origin"), ["null"]);
}

#[test]
fn vary_with_a_star_needs_no_more() {
    let mut fields = headers(&[("vary", "*")]);
    vary(&mut fields, "Origin").unwrap();
    assert_eq!(values(&fields, "vary"), ["*"]);
}

#[test]
fn configurations_that_would_open_too_much_or_mean_nothing_are_refused() {
    for (yaml, problem) in [
        ("{ origins: '*', credentials: true }", "origins: "),
        ("{ origins: ['null'], credentials: true }", "origins: "),
        ("{ origins: ['*', 'https://a.test'] }", "mean nothing"),
        ("{ origins: [] }", "no origin is allowed"),
        ("{ origins: ['app.example.com'] }", "no scheme"),
        ("{ origins: ['https://app.example.com/'] }", "slash at its end"),
        ("{ origins: ['https://App.example.com'] }", "lower-case"),
        ("{ origins: ['HTTPS://app.example.com'] }", "lower-case"),
        ("{ origins: ['https://app.example.com:443'] }", "leave the port 443 out"),
        ("{ origins: ['https://app.example.com:080'] }", "not a number"),
        ("{ origins: ['https://a.*.example.com'] }", "leftmost"),
        ("{ origins: ['https://*'] }", "leftmost"),
        ("{ origins: ['https://*example.com'] }", "leftmost"),
        ("{ origins: ['https://a.test'], methods: [get] }", "methods[0]: "),
        ("{ origins: ['https://a.test'], methods: ['*'] }", "methods[0]: "),
        ("{ origins: ['https://a.test'], methods: [] }", "methods: "),
        ("{ origins: ['https://a.test'], headers: ['*'] }", "headers[0]: "),
        ("{ origins: ['https://a.test'], expose: ['a b'] }", "expose[0]: "),
        ("{}", "missing field"),
    ] {
        let error = error::<Cors>(yaml);
        assert!(error.contains(problem), "{yaml}: {error}");
    }
    for good in ["http://localhost:3000", "https://[2001:db8::1]:8443", "https://*.example.com:8443", "chrome-extension://abcdef"]
    {
        build::<Cors>(&format!("{{ origins: ['{good}'] }}"));
    }
}
