//! `portcullis replay`, on the log of a real gateway.

use crate::stage::{Call, Stage};
use assert_cmd::Command;
use portcullis_testkit::token::{Alg, TokenSpec};
use serde_json::Value;
use std::path::Path;

const CONFIG: &str = r#"
issuers:
  main: { issuer: "{ISSUER}", audiences: [https://api.example.test], algorithms: [ES256] }
routes:
  - name: orders
    match: { path: /orders }
    filters:
      - ip_allow: { allow: [127.0.0.0/8] }
      - oidc: { issuer: main }
      - identity_headers: { headers: { x-user: sub } }
    pool: up
  - name: partners
    match: { path: /partners }
    filters: [{ client_cert: { san_dns: ["*.partner.example"] } }]
    pool: up
  - name: ping
    match: { path_exact: /ping }
    respond: { status: 200, body: "ok\n" }
"#;

fn replay(log: &Path, config: &Path, more: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    let output = command.arg("replay").arg(log).arg("-c").arg(config).args(more).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

fn json(log: &Path, config: &Path) -> Value {
    serde_json::from_str(&replay(log, config, &["--json"]).1).unwrap()
}

/// A replay by the very configuration that the gateway runs finds nothing decided otherwise.
pub fn assert_unchanged(stage: &Stage) {
    let (code, shown) = replay(&stage.file("access.jsonl"), &stage.file("edge.yaml"), &[]);
    assert!(code == 0 && !shown.contains("otherwise,"), "{shown}");
}

/// A gateway that has served one of each, and the token that it has seen.
async fn served() -> (Stage, String) {
    let stage = Stage::builder().algs(&[Alg::Es256]).start(CONFIG).await;
    let token = stage.provider.issue(&TokenSpec::new().alg(Alg::Es256)).unwrap();
    let partner = stage.clients.leaf("Acme").dns("acme.partner.example").issue().unwrap();
    for call in [
        Call::get("/orders/1").bearer(&token),
        Call::get("/orders/1"),
        Call::get("/orders/2").bearer("no.token.atall"),
        Call::get("/partners/1").over_tls(Some(&partner)),
        Call::get("/partners/1").over_tls(None),
        Call::get("/ping"),
        Call::get("/nowhere?token=secret-of-a-query"),
        Call::get("/orders/..;/x"),
    ] {
        stage.log(&call).await;
    }
    (stage, token)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_by_the_same_configuration_finds_nothing_and_says_what_it_took_for_granted() {
    let (stage, token) = served().await;
    let (code, shown) = replay(&stage.file("access.jsonl"), &stage.file("edge.yaml"), &[]);
    assert_eq!(code, 0, "{shown}");
    assert!(!shown.contains("otherwise,"), "{shown}");
    for part in token.split('.').skip(1).chain(["secret-of-a-query"]) {
        assert!(!shown.contains(part), "{shown}");
    }
    let all = json(&stage.file("access.jsonl"), &stage.file("edge.yaml"));
    let counts =
        ["requests", "same", "same_if_assumed", "changed", "unknown", "unreadable"].map(|name| all[name].as_u64().unwrap());
    // Nobody can repeat an ambiguous request from its log line.
    assert_eq!(counts, [8, 2, 5, 0, 1, 0], "{all:#}");
    let assumed = [("oidc", 3), ("identity_headers", 1), ("client_cert", 2)];
    for (filter, count) in assumed {
        assert_eq!(all["assumptions"][filter], count, "{all:#}");
    }
    assert!(all["cannot_tell"][0]["cause"].as_str().unwrap().contains("request.ambiguous"), "{all:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_names_every_request_that_is_decided_otherwise_and_guesses_none() {
    let (stage, _) = served().await;
    let log = stage.file("access.jsonl");
    let changed = CONFIG.replace("allow: [127.0.0.0/8]", "allow: [10.0.0.0/8]");
    stage.rewrite(&changed.replace(r#"{ status: 200, body: "ok\n" }"#, "{ status: 204 }"));
    let (code, shown) = replay(&log, &stage.file("edge.yaml"), &[]);
    assert_eq!(code, 1, "{shown}");
    for part in [
        "then  allow, route orders, pool up\n  now   deny ip.denied, route orders",
        "then  deny token.missing, route orders\n  now   deny ip.denied, route orders",
        "then  deny token.malformed, route orders\n  now   deny ip.denied, route orders",
        "then  allow, route ping, answered 200\n  now   allow, route ping, answered 204",
    ] {
        assert!(shown.contains(part), "{part}\n{shown}");
    }

    // A header may lead to another route, and headers are not logged.
    stage.rewrite(&format!("{CONFIG}  - {{ name: beta, match: {{ path: /orders, headers: {{ x-beta: \"1\" }} }}, pool: up }}\n"));
    let all = json(&log, &stage.file("edge.yaml"));
    let causes: Vec<_> = all["cannot_tell"].as_array().unwrap().iter().map(|one| one["cause"].as_str().unwrap()).collect();
    assert!(causes.iter().any(|cause| cause.contains("a route asks for a header")), "{causes:?}");
    assert_eq!(all["changed"], 0, "{all:#}");
}

fn causes(replayed: &Value) -> Vec<&str> {
    replayed["cannot_tell"].as_array().unwrap().iter().map(|one| one["cause"].as_str().unwrap()).collect()
}

/// The configuration with this rule for the orders.
fn ruled(rule: &str) -> String {
    CONFIG.replace("      - identity_headers", &format!("      - authorize: {rule}\n      - identity_headers"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_is_judged_by_what_is_logged_and_what_is_not_is_named() {
    let (stage, _) = served().await;
    let log = stage.file("access.jsonl");
    let by = |rule: &str| {
        stage.rewrite(&ruled(rule));
        json(&log, &stage.file("edge.yaml"))
    };
    // One request has a caller; the others never come to the rule.
    for rule in [
        "{ expression: \"request.method == 'GET' && request.path.startsWith('/orders/')\" }",
        "{ expression: \"principal.method == 'bearer' && principal.sub != 'mallory' && route == 'orders'\" }",
        "{ expression: \"connection.client_ip.startsWith('127.') && connection.cert == null && now > 0\" }",
        "{ allow: [{ methods: [GET], paths: [/orders] }, { roles: [admin] }] }",
    ] {
        let all = by(rule);
        assert_eq!((&all["changed"], &all["unknown"]), (&0.into(), &1.into()), "{rule} {all:#}");
    }
    for rule in [
        "{ expression: \"request.path != '/orders/1'\" }",
        "{ expression: \"principal == null\" }",
        "{ expression: \"request.query.tenant == 'acme'\" }",
        "{ allow: [{ methods: [POST] }, { roles: [admin], paths: [/admin] }] }",
    ] {
        let all = by(rule);
        assert_eq!((&all["changed"], &all["unknown"]), (&1.into(), &1.into()), "{rule} {all:#}");
        assert_eq!(all["changes"][0]["now"]["reason"], "authorize.denied", "{rule} {all:#}");
    }
    // Who asked is known, but not with which groups: a rule about them is not judged on a guess.
    for (rule, missing) in [
        (
            "{ expression: '\"a\" in principal.groups' }",
            "principal.groups, which is not in the log: `access_log.principal: [groups]`",
        ),
        ("{ expression: \"request.method == 'GET' || principal.client_id == 'x'\" }", "`access_log.principal: [client_id]`"),
        ("{ expression: \"principal.claims.tenant == 'acme'\" }", "principal.claims.tenant, which is never in the log"),
        ("{ expression: \"request.headers['x-a'] == 'b'\" }", "request.headers.x-a, which is not in the log"),
        ("{ allow: [{ scopes: [orders] }] }", "`access_log.principal: [scopes]`"),
        ("{ allow: [{ roles: [admin] }] }", "`access_log.principal: [roles]`"),
    ] {
        let all = by(rule);
        assert_eq!((&all["changed"], &all["unknown"]), (&0.into(), &2.into()), "{rule} {all:#}");
        assert!(causes(&all).iter().any(|cause| cause.starts_with("`authorize`") && cause.contains(missing)), "{all:#}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_log_has_roles_and_scopes_rules_about_them_are_judged() {
    let stage = Stage::builder().algs(&[Alg::Es256]).logged("[client_id, scopes, roles, groups]").start(CONFIG).await;
    let issue = |spec: TokenSpec| stage.provider.issue(&spec.alg(Alg::Es256)).unwrap();
    let reader = issue(TokenSpec::new().scope("orders:read").roles(&["clerk"]));
    let huge: Vec<String> = (0..200).map(|n| format!("role-{n}")).collect();
    let huge = issue(TokenSpec::new().scope("orders:read").roles(&huge.iter().map(String::as_str).collect::<Vec<_>>()));
    let partner = stage.clients.leaf("Acme").dns("acme.partner.example").issue().unwrap();
    for call in [
        Call::get("/orders/1").bearer(&reader),
        Call::get("/orders/2").bearer(&huge),
        Call::get("/partners/1").over_tls(Some(&partner)),
    ] {
        assert_eq!(stage.log(&call).await.0.status, 200);
    }
    let log = stage.file("access.jsonl");
    let by = |config: &str| {
        stage.rewrite(config);
        json(&log, &stage.file("edge.yaml"))
    };
    let all = by(&ruled("{ allow: [{ scopes: [\"orders:read\"] }] }"));
    assert_eq!((&all["changed"], &all["unknown"]), (&0.into(), &0.into()), "{all:#}");
    let all = by(&ruled("{ expression: '!(\"orders:read\" in principal.scopes)' }"));
    assert_eq!((&all["changed"], &all["unknown"]), (&2.into(), &0.into()), "{all:#}");
    // Of very many roles the log has none, rather than some.
    let all = by(&ruled("{ allow: [{ roles: [role-199, clerk] }] }"));
    assert_eq!((&all["changed"], &all["unknown"]), (&0.into(), &1.into()), "{all:#}");
    assert!(causes(&all)[0].contains("not known as a whole"), "{all:#}");
    // A certificate is known by its hash, and by what it made of its bearer.
    let rule = |rule: &str| {
        CONFIG.replace("[\"*.partner.example\"] } }]", &format!("[\"*.partner.example\"] }} }}, {{ authorize: {rule} }}]"))
    };
    let all = by(&rule("{ expression: \"connection.cert.sha256 != '' && principal.method == 'certificate'\" }"));
    assert_eq!(
        (&all["changed"], &all["unknown"], &all["assumptions"]["client_auth"]),
        (&0.into(), &0.into(), &1.into()),
        "{all:#}"
    );
    let all = by(&rule("{ expression: \"connection.cert.subject == 'CN=Acme'\" }"));
    assert!(all["unknown"] == 1 && causes(&all)[0].contains("connection.cert.subject"), "{all:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_that_cannot_be_read_are_named_and_not_shown() {
    let (stage, _) = served().await;
    let log = stage.file("other.jsonl");
    let good = std::fs::read_to_string(stage.file("access.jsonl")).unwrap();
    std::fs::write(&log, format!("{good}{{\"password\": \"hunter2\"}}\n{{\"time\": \"hunter3")).unwrap();
    let (code, shown) = replay(&log, &stage.file("edge.yaml"), &[]);
    assert_eq!(code, 1, "{shown}");
    assert!(shown.contains("line 9: not a line of the access log") && shown.contains("line 10: not whole JSON"), "{shown}");
    assert!(!shown.contains("hunter"), "{shown}");
    assert!(shown.contains(": 8 requests\n") && shown.contains("2  lines that cannot be read"), "{shown}");
    std::fs::write(&log, format!("{}\nhunter2\n", good.lines().next().unwrap())).unwrap();
    let (_, shown) = replay(&log, &stage.file("edge.yaml"), &[]);
    assert!(shown.contains(": 1 request\n") && shown.contains("1  line that cannot be read"), "{shown}");
    assert_eq!(replay(&stage.file("none.jsonl"), &stage.file("edge.yaml"), &[]).0, 2);
    assert_eq!(replay(&log, &stage.file("access.jsonl"), &[]).0, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_refused_for_want_of_an_identity_is_so_again_unless_nobody_asks_for_it_any_more() {
    const ASKING: &str = r#"
issuers:
  main: { issuer: "{ISSUER}", audiences: [https://api.example.test], algorithms: [ES256] }
routes:
  - { name: handed, match: { path: /handed }, filters: [{ client_cert_header: { require: true } }], pool: up }
  - { name: counted, match: { path: /counted }, filters: [{ rate_limit: { key: principal.sub, rate: 5/s } }], pool: up }
  - name: tenant
    match: { path: /tenant }
    filters: [{ oidc: { issuer: main } }, { rate_limit: { key: principal.claims.tenant, rate: 1/m } }]
    pool: up
  - name: named
    match: { path: /named }
    filters: [{ oidc: { issuer: main } }, { identity_headers: { headers: { x-tenant: claims.tenant }, on_missing: deny } }]
    pool: up
  - name: either
    match: { path: /either }
    filters:
      - rate_limit: { key: client, rate: 5/s }
      - identity_headers: { headers: { x-user: sub }, on_missing: deny }
    pool: up
"#;
    let stage = Stage::builder().algs(&[Alg::Es256]).start(ASKING).await;
    let token = stage.provider.issue(&TokenSpec::new().alg(Alg::Es256)).unwrap();
    for path in ["/handed", "/counted", "/tenant", "/named", "/either"] {
        stage.judge(&Call::get(path).bearer(&token)).await.refused(403, "identity.missing");
    }
    assert_unchanged(&stage);
    // A filter that cannot refuse for this is not taken to have done it.
    for (asking, no_more) in [
        ("client_cert_header: { require: true }", "client_cert_header: { require: false }"),
        ("key: principal.sub", "key: client"),
        ("key: principal.claims.tenant", "missing: skip, key: principal.claims.tenant"),
        ("      - identity_headers: { headers: { x-user: sub }, on_missing: deny }\n", ""),
    ] {
        assert!(ASKING.contains(asking), "{asking}");
        stage.rewrite(&ASKING.replace(asking, no_more));
        let all = json(&stage.file("access.jsonl"), &stage.file("edge.yaml"));
        assert_eq!((&all["changed"], &all["unknown"]), (&1.into(), &0.into()), "{no_more} {all:#}");
    }
}
