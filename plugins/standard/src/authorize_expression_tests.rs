//! What expressions may say, what they read, and what is told when they do not hold.

use super::*;
use proptest::prelude::*;

#[test]
fn every_variable_can_be_read() {
    for source in [
        "request.method == 'GET' && request.scheme == 'https' && request.host == 'api.example.test' && request.path == '/a/b'",
        "request.query.x == '1 2' && request.query['y'] == 'é' && has(request.query.empty) && request.query.empty == ''",
        "!has(request.query.absent) && !('absent' in request.query) && 'x' in request.query && size(request.query) == 3",
        "request.headers['x-env'] == 'prod' && 'x-env' in request.headers && request.headers.exists(h, h == 'x-env')",
        "principal != null && principal.method == 'bearer' && principal.sub == 'alice' && principal.client_id == null",
        "principal.issuer.startsWith('https://') && 'user' in principal.roles && 'orders:read' in principal.scopes",
        "principal.claims.level >= 5 && principal.claims.admin && principal.claims.realm.tier in ['gold', 'silver']",
        "principal.claims.exp > now && principal.claims.list.exists(item, item == 'b') && principal.claims.none == null",
        "has(principal.claims.tenant) && !has(principal.claims.other) && principal.claims['tenant'].matches('^ac(me)+$')",
        "connection.client_ip == '192.0.2.1' && connection.listener == 'https' && connection.tls == null",
        "connection.cert.subject.contains('O=Partner') && connection.cert.spiffe_id.startsWith('spiffe://partner.example/')",
        "connection.cert.san_dns.all(name, name.endsWith('.partner.example')) && connection.cert.sha256.size() == 64",
        "route == 'orders' && now == 1800000000",
        "principal.roles.exists_one(r, r == 'user') ? true : false",
        "string(principal.claims.level) == '7' && int('7') == principal.claims.level",
    ] {
        let call = call("/a/b?x=1+2&y=%C3%A9&empty").header("X-Env", "prod").certificate(facts());
        let mut call = call;
        let verdict = call.run(&expression(source));
        assert!(verdict.is_continue(), "{source}: {:?}", last(&call));
    }
    let mut connection = (**Call::get("/").exchange.connection()).clone();
    connection.tls = Some(TlsFacts { version: "TLSv1.3", cipher: "TLS_AES_128_GCM_SHA256", sni: None });
    let mut over_tls = Call::get("/");
    over_tls.exchange = Exchange::new(
        Arc::new(connection),
        over_tls.exchange.client(),
        portcullis_plugin::CertificateStatus::Missing,
        over_tls.exchange.now(),
    );
    let source = "connection.tls.version == 'TLSv1.3' && connection.tls.sni == null && connection.cert == null && route == null";
    assert!(holds(source, over_tls));
}

#[test]
fn whatever_is_not_exactly_true_denies() {
    for (source, observed) in [
        ("principal.claims.tenant == 'other'", "false"),
        ("principal.claims.text_true", "string, and not true or false"),
        ("principal.claims.level", "int, and not true or false"),
        ("principal.claims.absent == 'x'", "an error: there is no `absent`"),
        ("principal.claims.absent != 'x'", "an error: there is no `absent`"),
        ("!(principal.claims.absent == 'x')", "an error: there is no `absent`"),
        ("principal.claims.tenant > 5", "does not take (string, int)"),
        ("principal.claims.level / 0 == 1", "an error: a division by zero"),
        ("principal.claims.level * 9223372036854775807 > 0", "an error: a number became too large"),
        ("principal.claims.list[5] == 'a'", "an error"),
        ("int(principal.claims.tenant) == 1", "an error: `int` cannot be applied"),
        ("principal.claims.level.matches('7')", "an error"),
        ("connection.cert.subject != 'x'", "an error"),
        ("!('banned' in principal.claims.tenant)", "an error"),
    ] {
        let mut call = call("/");
        assert_eq!(call.denied(&expression(source)).reason(), reason::AUTHORIZE_DENIED, "{source}");
        let finding = &last(&call).finding;
        assert!(finding.observed.contains(observed), "{source}: {}", finding.observed);
        assert!(finding.expected.contains("is true"), "{}", finding.expected);
    }
}

#[test]
fn a_rule_that_says_who_may_not_pass_is_not_met_by_nobody() {
    for source in ["!('banned' in principal.groups)", "principal.sub != 'mallory'", "!principal.roles.exists(r, r == 'x')"] {
        assert!(!holds(source, Call::get("/")), "{source}");
        assert!(holds(source, call("/")), "{source}");
    }
}

#[test]
fn a_finding_holds_nothing_that_a_client_wrote() {
    for source in [
        "principal.claims.tenant > 5",
        "principal.claims[request.headers['x-name']] == 'a'",
        "int(request.headers['x-name']) == 1",
        "principal.claims.list[int(request.query.n)] == request.headers['x-name']",
        "request.headers['x-name'] == 'other'",
    ] {
        let mut call = call("/?n=77").header("x-name", "s3cret-value");
        call.denied(&expression(source));
        let shown = format!("{:?}", call.exchange.checks());
        assert!(!shown.contains("s3cret-value") && !shown.contains("77"), "{shown}");
    }
    let mut call = call("/p4th?n=77&n=78").header("x-name", "s3cret-value");
    call.denied(&expression("request.query.n == '1' && request.headers['x-name'] == '2' && request.path == '/'"));
    let observed = &last(&call).finding.observed;
    assert!(!observed.contains("s3cret-value") && !observed.contains("7") && !observed.contains("p4th"), "{observed}");
}

#[test]
fn a_refusal_by_an_expression_names_the_part_that_failed_and_what_it_read() {
    let observed = |source: &str, mut call: Call| {
        call.denied(&expression(source));
        last(&call).finding.observed.clone()
    };
    let both = "principal.claims.tenant == 'acme' && request.method == 'POST'";
    assert_eq!(observed(both, call("/")), "`request.method == 'POST'` is false; request.method = \"GET\"");
    let mut many = alice();
    many.claims = Arc::new(json!({ "tenant": ["acme", "other"] }).as_object().unwrap().clone());
    assert_eq!(
        observed(both, Call::get("/").principal(many.clone())),
        "`principal.claims.tenant == 'acme'` is false; `request.method == 'POST'` is false; \
         principal.claims.tenant = [\"acme\",\"other\"], request.method = \"GET\""
    );
    // Where an `||` stands above, no part decides alone.
    for whole in ["principal.sub == 'x' || principal.sub == 'y' && route == 'a'", "(principal.sub == 'x' && true) || false"] {
        let told = observed(whole, call("/"));
        assert!(told.starts_with("false; ") && told.contains("principal.sub = \"alice\""), "{told}");
    }
    // A comment or a raw text hides an `&&` from whoever does not parse; then nothing is taken apart.
    assert_eq!(observed("principal.sub == r'\\' && 'x && y' == principal.sub", call("/")), "false; principal.sub = \"alice\"");
    assert_eq!(
        observed("request.query.tenant == principal.claims.tenant && has(request.headers.x)", call("/?tenant=s3cret")),
        "`request.query.tenant == principal.claims.tenant` is false; `has(request.headers.x)` is false; \
         request.query.tenant is there, principal.claims.tenant = \"acme\", request.headers.x is absent"
    );
    assert_eq!(observed("principal.sub == 'alice'", Call::get("/")), "an error: what is null has no members; principal = null");
    assert_eq!(
        observed("connection.cert.subject == 'x'", call("/")),
        "an error: what is null has no members; connection.cert = null"
    );
}

#[test]
fn a_refusal_by_an_expression_has_an_end() {
    let mut rich = alice();
    let claims: serde_json::Map<_, _> = (0..20).map(|n| (format!("c{n:02}"), "x".repeat(10_000).into())).collect();
    rich.claims = Arc::new(claims);
    let source = (0..20).map(|n| format!("principal.claims.c{n:02} == 'a'")).collect::<Vec<_>>().join(" || ");
    let mut call = Call::get("/").principal(rich);
    call.denied(&expression(&source));
    let observed = &last(&call).finding.observed;
    assert!(observed.len() < 2000 && observed.ends_with(" and 12 more"), "{observed}");
}

#[test]
fn conditions_of_one_entry_and_alternatives_are_told_apart() {
    let yaml = "{ allow: [{ roles: [admin] }, { scopes: ['orders:read'], methods: [GET, HEAD], paths: [/ro] }] }";
    let filter = build::<Authorize>(yaml);
    let told = "role admin; or scope orders:read and (method GET or HEAD) and path /ro/*";
    assert_eq!(filter.needs().summary.unwrap(), format!("authorize({told})"));
    let mut call = Call::get("/").principal(alice());
    call.denied(&filter);
    assert_eq!(last(&call).finding.expected, format!("one of: {told}"));
    call.denied(&build::<Authorize>("{ allow: [{ groups: [a, b] }] }"));
    assert_eq!(last(&call).finding.expected, "group a or b");
}

#[test]
fn what_a_client_doubles_has_no_value() {
    let source = "request.query.tenant == principal.claims.tenant";
    assert!(holds(source, call("/?tenant=acme")));
    for query in [
        "tenant=acme&tenant=other",
        "tenant=other&tenant=acme",
        "tenant=acme&%74enant=other",
        "tenant=acme&tenant",
        "tenant=acme&tenant=acme",
    ] {
        assert!(!holds(source, call(&format!("/?{query}"))), "{query}");
    }
    assert!(holds(source, call("/?tenant=acme&other=1&other=2")), "others do not matter");
    assert!(!holds("request.query.all(name, name != 'admin')", call("/?a=1&a=2")), "unless any may be read");
    assert!(!holds("!has(request.query.admin)", call("/?%61dmin")), "a name may be encoded");
    let env = "request.headers['x-env'] == 'prod'";
    assert!(holds(env, call("/").header("X-Env", "prod")));
    assert!(!holds(env, call("/").header("x-env", "prod").header("X-ENV", "dev")));
    assert!(!holds(env, call("/").header("x_env", "prod")), "a look-alike is another header");
    assert!(
        !holds("!('x-debug' in request.headers)", call("/").header("x-debug", b"\xff")),
        "bytes that are no text are still there"
    );
}

#[test]
fn a_map_that_is_read_in_a_roundabout_way_is_whole() {
    for source in [
        "has((true ? request.query : request.headers).admin)",
        "[request.query][0]['admin'] == '1'",
        "request.query[request.headers['x-name']] == '1'",
        "'admin' in (request.query)",
        "request.headers['x-name'] in request.query",
        "request.query.exists(name, name == 'admin')",
        "request.query != null && size(request.query) == 1",
    ] {
        assert!(holds(source, call("/?admin=1").header("x-name", "admin")), "{source}");
    }
}

#[test]
fn credentials_are_out_of_sight() {
    for source in ["request.headers.authorization == 'x'", "'cookie' in request.headers", "has(request.headers.cookie)"] {
        assert!(refused(source).contains("cannot read"), "{source}");
    }
    let call = || call("/").header("Authorization", "Basic x").header("cookie", "a=b").header("proxy-authorization", "Basic x");
    assert!(holds("size(request.headers) == 0", call()));
    assert!(!holds("request.headers[request.path.size() == 1 ? 'authorization' : 'x'] == 'Basic x'", call()));
}

#[test]
fn mistakes_are_found_when_the_configuration_is_loaded() {
    for (source, says) in [
        ("", "the expression is empty"),
        ("request.path ==", "cannot be read"),
        ("request.path == '/a' &&\n  request.metod == 'GET'", "`request` has no member `metod`, at line 2, column"),
        ("request.metod == 'GET'", "at line 1, column 9 of the expression (did you mean `method`?)"),
        ("reqest.path == '/'", "unknown variable `reqest`, at line 1, column 1 of the expression (did you mean `request`?)"),
        ("true || undefined // so be it", "unknown variable `undefined`, at line 1, column 9 of"),
        ("request.path == '/' && principal.roles.exists(r, r == 5)", "a text never equals a whole number, at line 1, column 52"),
        ("request.headers.x-env == 'prod'", "unknown variable `env`"),
        ("request.headers['X-Env'] == 'prod'", "names are lower-case: `x-env`"),
        ("request.headers.host == 'a'", "write request.host"),
        ("request.path.startswith('/a')", "did you mean `startsWith`?"),
        ("frobnicate(request.path)", "unknown function `frobnicate`"),
        ("request.path.startsWith(5)", "`startsWith` does not take a text and a whole number"),
        ("startsWith(request.path, '/')", "`startsWith` does not take"),
        ("request.method == 5", "a text never equals a whole number"),
        ("principal.roles == 'admin'", "a list never equals a text"),
        ("5 in principal.roles", "never in a list"),
        ("'a' in request.path", "text.contains(part)"),
        ("request.path && true", "`&&` does not take a text and a truth value"),
        ("!request.path", "`!` does not take a text"),
        ("request.path > 5", "`>` does not take"),
        ("principal", "and not true or false"),
        ("request.path", "the expression is a text, and not true or false"),
        ("principal == 'alice'", "`principal` is no value"),
        ("request == principal", "is no value"),
        ("has(principal.issuer)", "is always there"),
        ("principal.claims.exists(c, c.matches(c))", "the pattern of `matches` is not a literal"),
        ("request.path.matches(request.query.re)", "the pattern of `matches` is not a literal"),
        ("request.path.matches('a' + 'b')", "the pattern of `matches` is not a literal"),
        ("request.path.matches('(')", "`(` is no regular expression: unclosed group"),
        ("request.path.matches('a{1000}{1000}{1000}')", "is no regular expression"),
        ("principal.roles.map(r, r + r).exists(r, true)", "make lists as long as a client likes"),
        ("size(principal.roles.filter(r, true)) > 0", "make lists as long as a client likes"),
        ("principal.roles.exists(a, principal.groups.exists(b, a == b))", "a loop within a loop"),
        ("principal.roles.exists(request, request == 'a')", "already has a meaning"),
        ("principal.roles.exists(r, r)", "the loop's condition is a text"),
        ("request.path.exists(c, true)", "a text has no items"),
        ("{'a': 1}.exists(k, true)", "a map cannot be written here"),
        ("request{a: 1} == null", "no messages"),
        ("request.path == b'/a'", "leave the `b` out"),
        ("request.?path == '/'", "cannot be read"),
        ("now == 'x'", "a whole number never equals a text"),
        ("now + 1.5 > 2", "`+` does not take"),
        ("type(request.path) == string", "unknown"),
        ("optional.none() == 1", "unknown"),
    ] {
        let error = refused(source);
        assert!(error.contains(says), "{source}: {error}");
        if !source.is_empty() {
            assert!(error.starts_with("expression: "), "{error}");
        }
    }
    let error = refused("'é' == request.path && request.metod == 'x'");
    assert!(error.contains("at line 1, column 32"), "a column counts characters: {error}");
}

#[test]
fn an_expression_has_a_largest_size() {
    assert!(refused(&format!("'{}' == request.path", "a".repeat(4096))).contains("longer than 4096 bytes"));
    let many = |part: &str, join: &str, times: usize| vec![part; times].join(join);
    assert!(refused(&many("true", "||", 600)).contains("parts"));
    assert!(refused(&format!("{} > 0", many("1", "+", 200))).contains("deep"));
    let body = many("r == 'a'", "||", 60);
    assert!(refused(&format!("principal.roles.exists(r, {body})")).contains("the loop's condition has more than"));
    for nested in [
        format!("{}true{}", "(".repeat(2000), ")".repeat(2000)),
        format!("{}1{} == 1", "[".repeat(2000), "]".repeat(2000)),
        format!("{}true", "!".repeat(4001)),
        "(".repeat(4000),
        format!("{}1 == 1", "- ".repeat(2000)),
        format!("request{}", ".a".repeat(2000)),
        format!("request.path{} == 'a'", "[0]".repeat(1300)),
        format!("{}true", "true?true:".repeat(400)),
        format!("principal.roles{}", ".exists(r, true)".repeat(200)),
        format!("{}true{}", "size(".repeat(800), ")".repeat(800)),
    ] {
        // Some of them mean something shorter and are allowed; none may break the gateway.
        let _ = try_build::<Authorize>(&serde_json::to_string(&json!({ "expression": nested })).unwrap());
    }
    assert!(holds(&many("request.path == '/a'", "||", 60), call("/a")), "long, but plain");
    assert!(holds(&format!("{} > 0", many("1", "+", 37)), call("/")), "as deep as it may be");
    assert!(holds(&format!("{}1{} != null", "[".repeat(30), "]".repeat(30)), call("/")), "in brackets too");
}

#[test]
fn what_a_client_brings_is_bounded() {
    let mut crowd = alice();
    crowd.roles = (0..2000).map(|n| format!("role-{n}").into()).collect();
    let mut call = Call::get("/").principal(crowd);
    // Cut off instead, the list would hold no such role.
    call.denied(&expression("!('role-1999' in principal.roles)"));
    assert_eq!(last(&call).finding.observed, "more than 1024 items to look at");
    assert!(call.run(&expression("principal.sub == 'alice'")).is_continue(), "what is not read costs nothing");
    let mut deep = alice();
    deep.claims = Arc::new(json!({ "a": vec![vec![0; 100]; 100] }).as_object().unwrap().clone());
    assert!(!holds("principal.claims.a != null", Call::get("/").principal(deep)));
}

#[test]
fn patterns_are_compiled_once_and_take_linear_time() {
    let source = "request.path.matches('^/(a+)+$')";
    assert!(holds(source, call("/aaaa")));
    assert!(!holds(source, call(&format!("/{}!", "a".repeat(8000)))), "a backtracking matcher would not come back");
}

/// Pieces that make it past the parser more often than letters do.
fn soup() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "request",
        "principal",
        "connection",
        ".path",
        ".query",
        ".headers",
        ".claims",
        ".roles",
        ".cert",
        ".a",
        "['a']",
        "[0]",
        "now",
        "route",
        " == ",
        " != ",
        " in ",
        " && ",
        " || ",
        "!",
        "-",
        " + ",
        " * ",
        " / ",
        " % ",
        " ? ",
        " : ",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ",",
        "'a'",
        "'é'",
        "\"",
        "'",
        "1",
        "2u",
        "1.5",
        "0x",
        "9223372036854775807",
        "true",
        "null",
        "has(",
        ".exists(x, ",
        ".all(x, ",
        ".map(x, ",
        ".exists_one(x, ",
        ".filter(x, ",
        "x",
        ".matches('a')",
        ".size()",
        "size(",
        "int(",
        "string(",
        "//",
        "\n",
        "b'a'",
        "r'\\'",
        "\\",
        "`a`",
        ".?",
    ]);
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_text_breaks_the_compiler(source in prop_oneof![soup(), any::<String>()]) {
        let config = Config { allow: None, expression: Some(source) };
        if let Ok(filter) = Authorize::build(config, &crate::test_support::env()) {
            for mut call in [call("/?a=1").header("a", "b").certificate(facts()), Call::get("/")] {
                let _ = call.run(&filter);
            }
        }
    }

    #[test]
    fn no_request_breaks_an_expression(query in "[a-c=&%+0-9;]{0,40}", value in any::<Vec<u8>>()) {
        let filter = expression(
            "request.query.exists(n, request.query[n] == 'b') || request.headers['x-a'].matches('b+') || request.query.a == request.headers['x-a']",
        );
        let mut call = call(&format!("/?{query}"));
        if call.request.headers_mut().append("x-a", &value).is_ok() {
            let _ = call.run(&filter);
        }
        prop_assert!(headers(&[]).is_empty());
    }
}
