use super::*;
use portcullis_plugin::units::OneOrMany;
use portcullis_plugin::{Headers, Method, Scheme, Version};
use proptest::prelude::*;

fn request(method: &str, authority: &str, target: &str, headers: &[(&str, &str)]) -> RequestHead {
    let mut fields = Headers::new();
    for (name, value) in headers {
        fields.append(name, value).unwrap();
    }
    let method = Method::parse(method.as_bytes()).unwrap();
    RequestHead::new(method, Scheme::Http, Version::Http11, authority.into(), target.into(), fields)
}

fn rule(host: &[&str], edit: impl FnOnce(&mut raw::Match)) -> raw::Match {
    let mut rule = raw::Match { host: OneOrMany(host.iter().map(|host| (*host).to_owned()).collect()), ..raw::Match::default() };
    edit(&mut rule);
    rule
}

fn prefix(path: &str) -> raw::Match {
    rule(&[], |rule| rule.path = Some(path.into()))
}

fn exact(path: &str) -> raw::Match {
    rule(&[], |rule| rule.path_exact = Some(path.into()))
}

fn pattern(path: &str) -> raw::Match {
    rule(&[], |rule| rule.path_regex = Some(path.into()))
}

fn router(rules: &[raw::Match]) -> Router {
    Router::new(rules.iter().enumerate().collect()).unwrap()
}

fn get(router: &Router, authority: &str, target: &str) -> Option<usize> {
    match router.find(&request("GET", authority, target, &[])) {
        Lookup::Found(route) => Some(route),
        _ => None,
    }
}

fn refused(rule: &raw::Match) -> ConfigError {
    Router::new(vec![(0, &raw::Match::default()), (7, rule)]).unwrap_err()
}

#[test]
fn a_prefix_is_of_whole_segments() {
    let router = router(&[prefix("/orders")]);
    for path in ["/orders", "/orders/", "/orders/1", "/orders/1/2", "/orders?x=/y"] {
        assert_eq!(get(&router, "a", path), Some(0), "{path}");
    }
    for path in ["/", "/order", "/ordersX", "/orders.json", "/x/orders", "/Orders", "*"] {
        assert_eq!(get(&router, "a", path), None, "{path}");
    }
}

#[test]
fn a_slash_at_the_end_is_asked_for() {
    let router = router(&[prefix("/orders/"), prefix("/")]);
    assert_eq!(get(&router, "a", "/orders/"), Some(0));
    assert_eq!(get(&router, "a", "/orders/1"), Some(0));
    assert_eq!(get(&router, "a", "/orders"), Some(1));
    assert_eq!(get(&router, "a", "*"), None);
}

#[test]
fn the_host_decides_first() {
    let any = |host: &str| rule(&[host], |_| ());
    let router = router(&[
        rule(&[], |rule| rule.path_exact = Some("/x".into())),
        any("*.example"),
        any("*.a.example"),
        any("B.a.example"),
        any("[::1]"),
    ]);
    for (host, route) in [
        ("b.a.example", Some(3)),
        ("b.a.example:8443", Some(3)),
        ("c.a.example", Some(2)),
        ("c.b.a.example", Some(2)),
        ("a.example", Some(1)),
        ("example", Some(0)),
        ("xa.example.org", Some(0)),
        ("[::1]:80", Some(4)),
        ("", Some(0)),
    ] {
        assert_eq!(get(&router, host, "/x"), route, "{host}");
    }
    assert_eq!(get(&router, "other", "/y"), None);
}

#[test]
fn a_host_that_holds_only_in_part_leaves_the_request_to_the_next() {
    let router =
        router(&[rule(&["a.example"], |rule| rule.path = Some("/only".into())), rule(&["*.example"], |_| ()), prefix("/")]);
    assert_eq!(get(&router, "a.example", "/only/x"), Some(0));
    assert_eq!(get(&router, "a.example", "/else"), Some(1));
    assert_eq!(get(&router, "b", "/else"), Some(2));
}

#[test]
fn then_the_path_decides() {
    let router = router(&[pattern("/a/.*"), prefix("/a"), prefix("/a/b"), exact("/a/b/c"), rule(&[], |_| ()), pattern("/r+")]);
    for (path, route) in [("/a/b/c", 3), ("/a/b/d", 2), ("/a/b", 2), ("/a/x", 1), ("/rrr", 5), ("/z", 4), ("*", 4)] {
        assert_eq!(get(&router, "h", path), Some(route), "{path}");
    }
}

#[test]
fn then_conditions_then_order() {
    let with = |edit: fn(&mut raw::Match)| rule(&[], edit);
    let router = router(&[
        with(|_| ()),
        with(|rule| rule.methods = vec!["GET".into()]),
        with(|rule| rule.headers = [("x-a".into(), "1".into())].into()),
        with(|rule| {
            rule.headers = [("x-a".into(), "*".into())].into();
            rule.query = [("q".into(), "*".into())].into();
        }),
    ]);
    let found = |target: &str, headers: &[(&str, &str)]| router.find(&request("GET", "a", target, headers));
    assert_eq!(found("/?q", &[("x-a", "1")]), Lookup::Found(3));
    assert_eq!(found("/", &[("x-a", "1")]), Lookup::Found(1));
    assert_eq!(router.find(&request("PUT", "a", "/", &[("x-a", "1")])), Lookup::Found(2));
    assert_eq!(router.find(&request("PUT", "a", "/", &[])), Lookup::Found(0));
}

#[test]
fn an_expression_is_for_the_whole_path() {
    let router = router(&[pattern("/v[0-9]|/w"), pattern("/x|/xy")]);
    for (path, route) in [("/v1", Some(0)), ("/w", Some(0)), ("/v12", None), ("/a/v1", None), ("/w/", None), ("/xy", Some(1))] {
        assert_eq!(get(&router, "a", path), route, "{path}");
    }
    assert_eq!(get(&router, "a", "/v1?x"), Some(0));
}

#[test]
fn all_path_conditions_hold() {
    let both = rule(&[], |rule| {
        rule.path = Some("/a".into());
        rule.path_regex = Some(".*[0-9]".into());
    });
    let router = router(&[both, prefix("/")]);
    assert_eq!(get(&router, "h", "/a/1"), Some(0));
    assert_eq!(get(&router, "h", "/a/b"), Some(1));
    let error = refused(&rule(&[], |rule| {
        rule.path = Some("/a".into());
        rule.path_exact = Some("/b".into());
    }));
    assert_eq!(error.dotted_path(), "routes[7].match.path_exact");
}

#[test]
fn get_includes_head_and_nothing_else() {
    let router = router(&[rule(&[], |rule| rule.methods = vec!["GET".into(), "PURGE".into()])]);
    let find = |method: &str| router.find(&request(method, "a", "/", &[]));
    for method in ["GET", "HEAD", "PURGE"] {
        assert_eq!(find(method), Lookup::Found(0));
    }
    for method in ["POST", "OPTIONS", "PURG", "purge"] {
        assert_eq!(find(method), Lookup::MethodNotAllowed { allow: "GET, HEAD, PURGE".into() });
    }
}

#[test]
fn a_wrong_method_is_said_only_if_all_else_holds() {
    let methods = |path: &str, method: &str| {
        rule(&[], |rule| {
            rule.path = Some(path.into());
            rule.methods = vec![method.into()];
        })
    };
    let mut conditional = methods("/a", "DELETE");
    conditional.headers = [("x-a".into(), "1".into())].into();
    let router = router(&[methods("/a", "POST"), methods("/a/b", "PUT"), methods("/", "POST"), conditional]);
    assert_eq!(router.find(&request("GET", "h", "/a/b", &[])), Lookup::MethodNotAllowed { allow: "PUT, POST".into() });
    assert_eq!(
        router.find(&request("GET", "h", "/a", &[("x-a", "1")])),
        Lookup::MethodNotAllowed { allow: "DELETE, POST".into() }
    );
    assert_eq!(router.find(&request("POST", "h", "/a/b", &[])), Lookup::Found(0));
    assert_eq!(router.find(&request("GET", "h", "*", &[])), Lookup::None);
}

#[test]
fn headers_hold_only_without_doubt() {
    let router = router(&[rule(&[], |rule| rule.headers = [("X-Tier".into(), "gold".into())].into())]);
    let find = |headers: &[(&str, &str)]| router.find(&request("GET", "a", "/", headers)) == Lookup::Found(0);
    assert!(find(&[("x-tier", "gold")]));
    assert!(find(&[("x-tier", "gold"), ("X-TIER", "gold")]));
    assert!(!find(&[("x-tier", "gold"), ("x-tier", "iron")]));
    assert!(!find(&[("x-tier", "Gold")]));
    assert!(!find(&[("x-tier", "gold, iron")]));
    assert!(!find(&[("x_tier", "gold")]));
    assert!(!find(&[]));
}

#[test]
fn query_parameters_are_compared_decoded() {
    let router = router(&[rule(&[], |rule| rule.query = [("a b".into(), "x&y".into()), ("flag".into(), "*".into())].into())]);
    let find = |query: &str| get(&router, "h", &format!("/{query}")) == Some(0);
    assert!(find("?a%20b=x%26y&flag"));
    assert!(find("?flag=&%61%20b=%78%26y"));
    assert!(find("?flag=1&flag=2&a%20b=x%26y&a%20b=x%26%79"));
    for query in [
        "",
        "?",
        "?flag",
        "?a%20b=x%26y",
        "?a%20b=x&y&flag",
        "?a%20b=x%26y&a%20b=z&flag",
        "?a+b=x%26y&flag",
        "?a%20b=x%26y%&flag",
        "?a%20b=x%26y%2&flag",
        "?a%20b=x%26yy&flag",
        "?a%20b&flag",
        "?A%20b=x%26y&flag",
        "?a%20b=x%26y;flag",
        "?a%20b=x%26y&flagged",
    ] {
        assert!(!find(query), "{query}");
    }
}

#[test]
fn what_could_never_match_is_refused() {
    let field = |rule: raw::Match| refused(&rule).dotted_path();
    for host in [
        "",
        "*",
        "a b",
        "a/b",
        "*a.example",
        "a.*.example",
        "a:80",
        "[::1]:80",
        "*.[::1]",
        "\u{e4}.example",
        "a..b",
        "u@a",
        "*.",
        "http://a",
    ] {
        assert_eq!(field(rule(&[host], |_| ())), "routes[7].match.host", "{host}");
        assert_eq!(field(rule(&["ok", host], |_| ())), "routes[7].match.host[1]", "{host}");
    }
    for path in [
        "", "a", "*", "/a/../b", "/a/./b", "/%61", "/a%2e", "/a%2fb", "/a?b", "/a b", "/a#b", "/a\\b", "/%zz", "/%00", "//a",
        "/..", "/a[1]", "/\u{e4}", "/..;x",
    ] {
        assert_eq!(field(prefix(path)), "routes[7].match.path", "{path}");
        assert_eq!(field(exact(path)), "routes[7].match.path_exact", "{path}");
    }
    for regex in ["(", "a)|(b", "[", "a{99999}{99999}", "(?<n>", "\\"] {
        assert_eq!(field(pattern(regex)), "routes[7].match.path_regex", "{regex}");
    }
    for method in ["", "get", "Post", "G T", "CONNECT", "TRACE", "PRI", "*"] {
        assert_eq!(
            field(rule(&[], |rule| rule.methods = vec!["GET".into(), method.into()])),
            "routes[7].match.methods[1]",
            "{method}"
        );
    }
    for (name, value) in [
        ("a b", "x"),
        ("", "x"),
        ("Host", "x"),
        ("connection", "*"),
        ("te", "*"),
        ("x", " y"),
        ("x", "a\nb"),
        ("upgrade", "websocket"),
    ] {
        let path = field(rule(&[], |rule| rule.headers = [(name.into(), value.into())].into()));
        assert_eq!(path, format!("routes[7].match.headers.{name}"), "{name}: {value}");
    }
    assert_eq!(field(rule(&[], |rule| rule.query = [(String::new(), "x".into())].into())), "routes[7].match.query");
}

#[test]
fn errors_say_what_to_write() {
    let help = |rule: raw::Match| refused(&rule).help_text().unwrap_or_default().to_owned();
    assert_eq!(help(prefix("/a/../b")), "write `/b`");
    assert_eq!(help(exact("/%7euser")), "write `/~user`");
    assert_eq!(help(rule(&[], |rule| rule.methods = vec!["get".into()])), "write `GET`");
    assert!(help(rule(&["a:80"], |_| ())).contains("leave the port out"));
    assert!(refused(&pattern("(")).message().contains("unclosed group"), "{}", refused(&pattern("(")));
}

#[test]
fn ten_thousand_routes_are_told_apart() {
    let rules: Vec<_> = (0..10_000)
        .map(|n| match n % 4 {
            0 => rule(&[&format!("h{n}.example")], |_| ()),
            1 => prefix(&format!("/p/{n}")),
            2 => exact(&format!("/e/{n}")),
            _ => rule(&[&format!("*.w{n}.example")], |rule| rule.path = Some("/x".into())),
        })
        .collect();
    let router = router(&rules);
    for n in 0..10_000 {
        let (host, path) = match n % 4 {
            0 => (format!("h{n}.example"), "/".to_owned()),
            1 => ("h".to_owned(), format!("/p/{n}/below")),
            2 => ("h".to_owned(), format!("/e/{n}")),
            _ => (format!("a.b.w{n}.example"), "/x/y".to_owned()),
        };
        assert_eq!(get(&router, &host, &path), Some(n));
    }
}

#[test]
fn a_deep_path_costs_no_more_than_the_deepest_prefix() {
    // Would take minutes if every segment of the request were looked up.
    let router = router(&[prefix("/a/b"), prefix("/")]);
    let deep = "/x".repeat(2_000_000);
    assert_eq!(get(&router, "h", &deep), Some(1));
}

/// The contract's words, one route after the other.
fn by_scanning(rules: &[raw::Match], request: &RequestHead) -> Option<usize> {
    let path = request.path();
    let covers = |prefix: &str| match prefix.strip_suffix('/') {
        Some(_) => path.starts_with(prefix),
        None => path == prefix || path.starts_with(&format!("{prefix}/")),
    };
    let holding = rules.iter().enumerate().filter_map(|(index, rule)| {
        let host = request.host();
        let host_rank = if rule.host.0.is_empty() {
            0
        } else {
            let rank = |pattern: &String| match pattern.strip_prefix('*') {
                Some(suffix) => (host.len() > suffix.len() && host.ends_with(suffix)).then_some(suffix.len()),
                None => (host == pattern).then_some(usize::MAX),
            };
            rule.host.0.iter().filter_map(rank).max()?
        };
        let path_rank = match (&rule.path_exact, &rule.path, &rule.path_regex) {
            (Some(exact), _, _) if exact != path => return None,
            (Some(_), _, _) => (3, 0),
            (None, Some(prefix), _) => (2, prefix.len()),
            (None, None, Some(_)) => (1, 0),
            (None, None, None) => (0, 0),
        };
        if rule.path.as_deref().is_some_and(|prefix| !covers(prefix)) {
            return None;
        }
        if rule.path_regex.as_ref().is_some_and(|regex| !regex::Regex::new(&format!("^(?:{regex})$")).unwrap().is_match(path)) {
            return None;
        }
        let method = request.method().as_str();
        if !rule.methods.is_empty() && !rule.methods.iter().any(|known| known == method || (known == "GET" && method == "HEAD")) {
            return None;
        }
        let header = |(name, value): (&String, &String)| request.headers().get_str(name) == Some(value.as_str());
        if !rule.headers.iter().all(header) {
            return None;
        }
        let others = rule.path_regex.is_some() && path_rank.0 > 1;
        let others = usize::from(others) + usize::from(rule.path.is_some() && path_rank.0 > 2);
        let conditions = others + usize::from(!rule.methods.is_empty()) + rule.headers.len();
        Some(((host_rank, path_rank, conditions, std::cmp::Reverse(index)), index))
    });
    holding.max().map(|(_, index)| index)
}

fn any_rule() -> impl Strategy<Value = raw::Match> {
    let hosts = prop::collection::vec(prop::sample::select(vec!["a.x", "b.a.x", "*.x", "*.a.x", "c"]), 0..3);
    let paths = || prop::option::of(prop::sample::select(vec!["/", "/a", "/a/", "/a/b", "/a/b/", "/a/b/c", "/ab"]));
    let regex = prop::option::weighted(0.3, prop::sample::select(vec!["/a.*", ".*c", "/[ab]+", "/|/ab"]));
    let methods = prop::collection::vec(prop::sample::select(vec!["GET", "PUT"]), 0..3);
    let header = prop::option::weighted(0.3, prop::sample::select(vec!["1", "2"]));
    (hosts, paths(), paths(), regex, methods, header, 0..4).prop_map(|(hosts, prefix, exact, regex, methods, header, kind)| {
        rule(&hosts, |rule| {
            rule.path = prefix.filter(|_| kind != 0).map(str::to_owned);
            rule.path_exact = exact.filter(|_| kind == 0).map(str::to_owned);
            rule.path_regex = regex.filter(|_| kind != 0).map(str::to_owned);
            rule.methods = methods.into_iter().map(str::to_owned).collect();
            rule.headers = header.map(|value| ("x-a".to_owned(), value.to_owned())).into_iter().collect();
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_router_agrees_with_a_scan(
        rules in prop::collection::vec(any_rule(), 1..12),
        requests in prop::collection::vec((
            prop::sample::select(vec!["GET", "HEAD", "PUT", "POST"]),
            prop::sample::select(vec!["a.x", "b.a.x", "c.b.a.x", "x", "c", "a.x:80", ""]),
            prop::sample::select(vec!["/", "/a", "/a/", "/ab", "/a/b", "/a/b/", "/a/b/c", "/a/b/c/d", "/abc", "*", "/c?/a"]),
            prop::option::of(prop::sample::select(vec!["1", "2", "3"])),
        ), 1..12),
    ) {
        let router = router(&rules);
        for (method, host, target, header) in requests {
            let headers: Vec<_> = header.map(|value| ("X-A", value)).into_iter().collect();
            let request = request(method, host, target, &headers);
            let found = match router.find(&request) {
                Lookup::Found(route) => Some(route),
                Lookup::MethodNotAllowed { allow } => {
                    // Asked with a method that is allowed, it must be served.
                    let method = allow.split(", ").next().unwrap();
                    let again = self::request(method, host, target, &headers);
                    prop_assert!(by_scanning(&rules, &again).is_some());
                    None
                }
                // None of the methods asked with is OPTIONS.
                preflight @ Lookup::Preflight { .. } => {
                    prop_assert!(false, "{preflight:?}");
                    None
                }
                Lookup::None => None,
            };
            prop_assert_eq!(found, by_scanning(&rules, &request), "{} {} {}", method, host, target);
        }
    }
}
