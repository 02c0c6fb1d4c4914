use super::*;
use crate::test_support::{Call, build, error, facts, headers, try_build};
use portcullis_plugin::{Check, TlsFacts};
use serde_json::json;

#[path = "authorize_expression_tests.rs"]
mod expressions;

fn alice() -> Principal {
    let mut principal = Principal::new("bearer", "alice");
    principal.issuer = Some("https://main.example.test".into());
    principal.scopes = vec!["orders:read".into(), "openid".into()];
    principal.roles = vec!["user".into()];
    principal.groups = vec!["eu".into()];
    let claims = json!({ "tenant": "acme", "level": 7, "admin": true, "text_true": "true", "realm": { "tier": "gold" },
        "exp": 1_800_000_300, "list": ["a", "b"], "big": u64::MAX, "rate": 0.5, "none": null });
    principal.claims = Arc::new(claims.as_object().unwrap().clone());
    principal
}

fn expression(source: &str) -> Authorize {
    let config = Config { allow: None, expression: Some(source.to_owned()) };
    Authorize::build(config, &crate::test_support::env()).unwrap_or_else(|error| panic!("{source}: {error}"))
}

fn refused(source: &str) -> String {
    let config = Config { allow: None, expression: Some(source.to_owned()) };
    match Authorize::build(config, &crate::test_support::env()) {
        Ok(_) => panic!("{source}: accepted"),
        Err(error) => error.to_string(),
    }
}

fn call(target: &str) -> Call {
    Call::get(target).principal(alice())
}

fn holds(source: &str, mut call: Call) -> bool {
    call.run(&expression(source)).is_continue()
}

fn last(call: &Call) -> &Check {
    call.exchange.checks().last().unwrap()
}

#[test]
fn an_entry_holds_if_each_of_its_keys_does() {
    let passes = |yaml: &str, mut call: Call| call.run(&build::<Authorize>(yaml)).is_continue();
    assert!(passes("{ allow: [{ roles: [admin, user] }] }", call("/")), "one of the roles is enough");
    assert!(passes("{ allow: [{ scopes: ['orders:read', openid] }] }", call("/")));
    assert!(!passes("{ allow: [{ scopes: ['orders:read', 'orders:write'] }] }", call("/")), "all scopes are needed");
    assert!(passes("{ allow: [{ groups: eu }] }", call("/")) && !passes("{ allow: [{ groups: us }] }", call("/")));
    assert!(!passes("{ allow: [{ roles: user, groups: us }] }", call("/")), "every key must hold");
    assert!(passes("{ allow: [{ roles: admin }, { roles: user, methods: [GET] }] }", call("/")), "one entry is enough");
    assert!(!passes("{ allow: [{ roles: user, methods: [POST] }] }", call("/")));
    for near in ["USER", "use", "users", "user "] {
        assert!(!holds(&format!("'{near}' in principal.roles"), call("/")), "{near}");
    }
}

#[test]
fn table_and_expression_must_both_hold() {
    for (yaml, passes) in [
        ("{ allow: [{ roles: user }], expression: \"principal.claims.tenant == 'acme'\" }", true),
        ("{ allow: [{ roles: user }], expression: \"principal.claims.tenant == 'other'\" }", false),
        ("{ allow: [{ roles: admin }], expression: \"principal.claims.tenant == 'acme'\" }", false),
    ] {
        assert_eq!(call("/").run(&build::<Authorize>(yaml)).is_continue(), passes, "{yaml}");
    }
}

#[test]
fn a_known_caller_gets_403_and_nobody_gets_401_where_credentials_would_help() {
    let by_role = build::<Authorize>("{ allow: [{ roles: admin }] }");
    let denial = call("/").denied(&by_role);
    assert_eq!((denial.reason(), denial.status_code()), (reason::AUTHORIZE_DENIED, 403));
    assert!(!denial.headers().contains("www-authenticate"));
    let denial = Call::get("/").denied(&by_role);
    assert_eq!((denial.reason(), denial.status_code()), (reason::AUTHORIZE_DENIED, 401));
    assert_eq!(denial.headers().get_str("www-authenticate"), Some("Bearer realm=\"api.example.test\""));
    assert_eq!(Call::get("/").denied(&expression("principal.sub == 'alice'")).status_code(), 401);
    for nobody in
        ["{ allow: [{ methods: POST }] }", "{ expression: \"request.path == '/b'\" }", "{ expression: connection.cert != null }"]
    {
        assert_eq!(Call::get("/").denied(&build::<Authorize>(nobody)).status_code(), 403, "{nobody}");
    }
    assert!(Call::get("/").run(&build::<Authorize>("{ allow: [{ methods: GET }] }")).is_continue());
}

#[test]
fn mistakes_in_the_table_are_refused() {
    for (yaml, says) in [
        ("{}", "says nothing of who may pass"),
        ("{ allow: [] }", "allow: the list is empty"),
        ("{ allow: [{}] }", "allow[0]: the entry asks for nothing"),
        ("{ allow: [{ roles: [] }] }", "allow[0].roles: the list is empty"),
        ("{ allow: [{ roles: [''] }] }", "allow[0].roles[0]: a name is empty"),
        ("{ allow: [{ methods: [get] }] }", "write `GET`"),
        ("{ allow: [{ methods: ['G T'] }] }", "is not a method"),
        ("{ allow: [{ role: [a] }] }", "role"),
        ("{ allow: }", "allow"),
        ("{ expression: }", "expression"),
    ] {
        let error = error::<Authorize>(yaml);
        assert!(error.contains(says), "{yaml}: {error}");
    }
}

#[test]
fn a_refusal_by_the_table_says_what_would_have_done() {
    let mut call = call("/");
    call.denied(&build::<Authorize>("{ allow: [{ roles: [admin, chief] }, { scopes: ['orders:write'], methods: [PUT] }] }"));
    let finding = &last(&call).finding;
    assert_eq!(finding.expected, "one of: role admin or chief; or scope orders:write and method PUT");
    assert_eq!(finding.observed, "GET with roles user; groups eu; scopes orders:read, openid");
}

#[test]
fn what_it_needs_is_known() {
    assert!(build::<Authorize>("{ allow: [{ roles: a }] }").needs().reads_identity);
    assert!(expression("connection.cert != null").needs().reads_identity);
    assert!(!expression("request.path == '/'").needs().reads_identity);
    assert_eq!(expression("now  >\n 5").needs().summary.as_deref(), Some("authorize(cel: now > 5)"));
}

#[test]
fn groups_that_the_token_leaves_out_satisfy_no_rule_and_escape_none() {
    let overage = || {
        let mut principal = alice();
        principal.groups = Vec::new();
        let claims = json!({ "_claim_names": { "groups": "src1" }, "tenant": "acme" });
        principal.claims = Arc::new(claims.as_object().unwrap().clone());
        Call::get("/").principal(principal)
    };
    // She may well be banned; that her groups are not in the token must not let her in.
    for source in ["!('banned' in principal.groups)", "'eu' in principal.groups", "principal.groups.size() == 0"] {
        let mut call = overage();
        assert_eq!(call.denied(&expression(source)).reason(), reason::AUTHORIZE_DENIED, "{source}");
        assert!(format!("{:?}", last(&call)).contains("Entra left the groups out"), "{:?}", last(&call));
    }
    assert!(holds("principal.claims.tenant == 'acme'", overage()), "what asks for no group is not concerned");
    let mut call = overage();
    call.denied(&build::<Authorize>("{ allow: [{ groups: eu }] }"));
    assert!(last(&call).finding.hint.as_deref().is_some_and(|hint| hint.contains("application roles")));
    assert!(overage().run(&build::<Authorize>("{ allow: [{ groups: eu }, { roles: user }] }")).is_continue());
}

#[test]
fn a_path_is_itself_and_what_is_below_it() {
    let filter = build::<Authorize>("{ allow: [{ paths: [/orders/, /health], methods: GET }, { roles: admin, paths: / }] }");
    for (target, ok) in [
        ("/orders", true),
        ("/orders/1?x=/health", true),
        ("/health", true),
        ("/orders-old", false),
        ("/order", false),
        ("/Orders", false),
        ("/?/orders", false),
        ("/admin/orders", false),
    ] {
        assert_eq!(Call::get(target).principal(alice()).run(&filter).is_continue(), ok, "{target}");
    }
    let mut admin = alice();
    admin.roles = vec!["admin".into()];
    assert!(Call::get("/anything").principal(admin).run(&filter).is_continue());
    let mut call = Call::get("/secret").principal(alice());
    assert_eq!(call.denied(&filter).status_code(), 403);
    let finding = &call.exchange.checks()[0].finding;
    assert_eq!(finding.expected, "one of: method GET and (path /orders/* or /health/*); or role admin and path /*");
    assert!(finding.observed.starts_with("GET with roles user"), "{}", finding.observed);
    for path in ["orders", "/a//b", "/a?b", "/a/*", "/a/../b", "'/a b'", "''"] {
        assert!(error::<Authorize>(&format!("{{ allow: [{{ paths: {path} }}] }}")).starts_with("allow[0].paths[0]: "), "{path}");
    }
}

#[test]
fn it_says_by_which_facts_it_judges_a_request() {
    let read = |yaml: &str, path: &str| {
        let call = Call::get(path);
        build::<Authorize>(yaml).reads(&call.request)
    };
    let table = "{ allow: [{ roles: [a], paths: [/a] }, { scopes: [b], groups: [c], paths: [/b] }, { paths: [/open] }] }";
    assert_eq!(read(table, "/a/1"), ["principal.roles"]);
    assert_eq!(read(table, "/b"), ["principal.scopes", "principal.groups"]);
    assert!(read(table, "/open").is_empty() && read(table, "/other").is_empty());
    let expression = "{ expression: \"request.headers['x-a'] == 'b' || (principal != null && principal.claims.tenant == request.query.t && connection.cert.sha256 == 'x') || size(request.headers) > 3\" }";
    let mut facts = read(expression, "/");
    facts.sort_unstable();
    assert_eq!(
        facts,
        [
            "connection",
            "connection.cert",
            "connection.cert.sha256",
            "principal",
            "principal.claims.tenant",
            "request",
            "request.headers",
            "request.headers.x-a",
            "request.query.t",
        ]
    );
}
