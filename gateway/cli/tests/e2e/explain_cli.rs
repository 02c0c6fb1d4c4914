//! `portcullis explain`: exit codes, the JSON of the contract, and what people read.

use crate::stage::members;
use assert_cmd::Command;
use portcullis_testkit::TokenIssuer;
use portcullis_testkit::pki::{Identity, Pki};
use portcullis_testkit::token::{Alg, SignWith, TokenSpec};
use serde_json::Value;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const CONFIG: &str = r#"listeners:
  - name: https
    address: 127.0.0.1:0
    tls:
      certificates: [{ cert: edge.pem, key: edge.key }]
      client_auth: { ca: clients-ca.pem, crl: clients.crl }
issuers:
  main:
    issuer: https://sso.example.test
    audiences: [https://api.example.test]
    algorithms: [ES256]
pools:
  orders: { backends: [{ address: 127.0.0.1:9 }] }
routes:
  - name: orders
    match: { host: api.example.test, path: /orders, methods: [GET, POST] }
    filters:
      - ip_allow: { allow: [10.0.0.0/8] }
      - oidc: { issuer: main, scopes: ["orders:read"] }
      - identity_headers: { headers: { x-user: sub, x-scope: scope } }
    pool: orders
  - name: partners
    match: { path: /partners }
    filters:
      - client_cert: { san_dns: ["*.partner.example"] }
      - identity_headers: { headers: { x-cert: cert.sha256 } }
    pool: orders
  - name: health
    match: { path_exact: /healthz }
    respond: { status: 200, body: "ok\n" }
"#;

/// 2026-01-31T12:00:00Z
const NOON: Duration = Duration::from_secs(1_769_860_800);

struct Offline {
    folder: tempfile::TempDir,
    issuer: TokenIssuer,
    clients: Pki,
}

impl Offline {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let issuer = TokenIssuer::new("https://sso.example.test");
        let (servers, clients) = (Pki::new().unwrap(), Pki::new().unwrap());
        servers.server(&["api.example.test"]).unwrap().write_to(&folder, "edge").unwrap();
        clients.write_ca(folder.path().join("clients-ca.pem")).unwrap();
        clients.crl(&[]).unwrap().write_to(folder.path().join("clients.crl")).unwrap();
        std::fs::write(folder.path().join("edge.yaml"), CONFIG).unwrap();
        std::fs::write(folder.path().join("jwks.json"), issuer.jwks().unwrap().to_string()).unwrap();
        Self { folder, issuer, clients }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.current_dir(&self.folder).args(["explain", "-c", "edge.yaml", "--jwks", "jwks.json"]);
        command
    }

    /// A request to the orders route from where it is allowed.
    fn orders(&self, token: &str) -> Command {
        let mut command = self.command();
        command.args(["--url", "https://api.example.test/orders/1", "--client-ip", "10.1.2.3", "--token", token]);
        command
    }

    /// Valid for five minutes from noon.
    fn token(&self, change: impl FnOnce(TokenSpec) -> TokenSpec) -> String {
        let spec = TokenSpec::new().alg(Alg::Es256).scope("orders:read").at(UNIX_EPOCH + NOON);
        self.issuer.issue(&change(spec)).unwrap()
    }
}

fn json(command: &mut Command, code: i32) -> Value {
    let output = command.arg("--json").assert().code(code).get_output().clone();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

fn text(command: &mut Command, code: i32) -> String {
    String::from_utf8(command.assert().code(code).get_output().stdout.clone()).unwrap()
}

#[test]
fn an_allowed_request_is_0_and_its_json_has_the_members_of_the_contract() {
    let offline = Offline::new();
    let token = offline.token(|spec| spec);
    let spoofed = ["--at", "2026-01-31T12:01:00Z", "--header", "X-User: root", "--header", "Cookie: a=b"];
    let answer = json(offline.orders(&token).args(spoofed), 0);
    assert_eq!(members(&answer), ["checks", "pool", "reason", "route", "status", "upstream_headers", "verdict"]);
    assert_eq!((&answer["route"], &answer["verdict"], &answer["pool"]), (&"orders".into(), &"allow".into(), &"orders".into()));
    assert_eq!((&answer["reason"], &answer["status"]), (&Value::Null, &Value::Null));
    let checks = answer["checks"].as_array().unwrap();
    for check in checks {
        assert_eq!(members(check), ["check", "expected", "filter", "hint", "observed", "ok", "reason"]);
        assert_eq!(check["ok"], true, "{check}");
    }
    for filter in ["ip_allow", "oidc"] {
        assert!(checks.iter().any(|check| check["filter"] == filter), "{filter}: {checks:#?}");
    }
    assert_eq!(answer["upstream_headers"]["x-user"], "alice");
    assert_eq!(answer["upstream_headers"]["x-scope"], "orders:read");
    assert_eq!(answer["upstream_headers"].get("authorization"), None);
    assert!(!answer.to_string().contains(token.rsplit('.').next().unwrap()));
}

#[test]
fn a_refused_request_is_1_and_says_what_was_expected_and_what_was_observed() {
    let offline = Offline::new();
    let at = ["--at", "2026-01-31T12:01:00Z"];
    let cases = [
        (
            offline.token(|spec| spec.audience("https://other.example.test")),
            401,
            "token.audience.mismatch",
            "https://other.example.test",
        ),
        (offline.token(|spec| spec.scope("orders:write")), 403, "token.scope.missing", "orders:write"),
        (offline.token(|spec| spec.alg(Alg::Rs256)), 401, "token.alg.refused", "RS256"),
        (
            offline.token(|spec| spec.claim("iss", "https://sso.example.test/")),
            401,
            "token.issuer.mismatch",
            "https://sso.example.test/",
        ),
        (offline.token(|spec| spec.sign_with(SignWith::Foreign)), 401, "token.signature.invalid", ""),
        (offline.token(|spec| spec.kid("else")), 401, "token.kid.unknown", "else"),
        ("nonsense".to_owned(), 401, "token.malformed", ""),
    ];
    for (token, status, reason, observed) in cases {
        let answer = json(offline.orders(&token).args(at), 1);
        assert_eq!((&answer["verdict"], &answer["status"], &answer["reason"]), (&"deny".into(), &status.into(), &reason.into()));
        assert_eq!(members(&answer), ["checks", "pool", "reason", "route", "status", "upstream_headers", "verdict"]);
        let checks = answer["checks"].as_array().unwrap();
        let failed = checks.iter().find(|check| check["ok"] == false && check["reason"] == reason).unwrap();
        assert!(failed["observed"].as_str().unwrap().contains(observed), "{failed}");
        assert_eq!((&answer["pool"], members(&answer["upstream_headers"]).len()), (&Value::Null, 0));
    }
    // Every check that can be made is made: this token is wrong in three ways, and all three are told.
    let token = offline.token(|spec| spec.audience("https://other.example.test").scope("none").expires_in(10));
    let answer = json(offline.orders(&token).args(at), 1);
    let failed = answer["checks"].as_array().unwrap().iter().filter(|check| check["ok"] == false);
    let reasons: Vec<_> = failed.map(|check| check["reason"].as_str().unwrap()).collect();
    assert!(reasons.contains(&"token.audience.mismatch") && reasons.contains(&"token.expired"), "{reasons:?}");
}

#[test]
fn the_time_is_what_at_says() {
    let offline = Offline::new();
    let token = offline.token(|spec| spec);
    for (at, code, reason) in [
        ("2026-01-31T11:59:00Z", 1, "token.not_yet_valid".into()),
        ("2026-01-31T11:59:31Z", 0, Value::Null),
        ("2026-01-31T12:04:59Z", 0, Value::Null),
        ("2026-01-31T13:05:29+01:00", 0, Value::Null),
        ("2026-01-31T12:05:31Z", 1, "token.expired".into()),
        ("2027-01-31T12:05:31Z", 1, "token.expired".into()),
    ] {
        assert_eq!(json(offline.orders(&token).args(["--at", at]), code)["reason"], reason, "{at}");
    }
    assert_eq!(json(&mut offline.orders(&token), 1)["reason"], "token.expired", "by default it is now");
}

#[test]
fn people_read_the_verdict_first_and_by_how_much_it_was_missed() {
    let offline = Offline::new();
    let token = offline.token(|spec| spec.expires_in(60));
    let said = text(offline.orders(&token).args(["--at", "2026-01-31T12:01:41Z"]), 1);
    let mut lines = said.lines();
    assert_eq!(lines.next(), Some("refused: token.expired, the client sees 401"), "{said}");
    assert_eq!(lines.next(), Some("  listener https, route orders"), "{said}");
    assert!(said.contains("expired 41"), "{said}");
    assert!(said.contains("reason: token.expired"), "{said}");
    assert!(said.contains("30"), "the leeway is told: {said}");
    assert!(!said.contains('\u{1b}'), "no colours into a pipe");

    let said = text(offline.orders(&token).args(["--at", "2026-01-31T12:00:30Z"]), 0);
    assert!(said.starts_with("allowed\n  listener https, route orders\n"), "{said}");
    assert!(said.contains("  to pool orders, with\n"), "{said}");
    assert!(said.contains("      x-user: alice\n"), "{said}");

    let said = text(offline.command().args(["--url", "https://api.example.test/healthz"]), 0);
    assert!(said.starts_with("allowed, the client sees 200\n  listener https, route health\n"), "{said}");
}

#[test]
fn addresses_methods_and_routes_are_explained() {
    let offline = Offline::new();
    let url = ["--url", "https://api.example.test/orders/1"];
    let answer = json(offline.command().args(url).args(["--client-ip", "203.0.113.9"]), 1);
    assert_eq!((&answer["status"], &answer["reason"]), (&403.into(), &"ip.denied".into()));
    assert_eq!(answer["checks"][0]["observed"].as_str().map(|observed| observed.contains("203.0.113.9")), Some(true));
    let answer = json(offline.command().args(url).args(["--method", "DELETE"]), 1);
    assert_eq!((&answer["status"], &answer["route"]), (&405.into(), &Value::Null));
    let answer = json(offline.command().args(["--url", "https://api.example.test/ordersX"]), 1);
    assert_eq!((&answer["status"], &answer["reason"], &answer["route"]), (&404.into(), &"route.none".into(), &Value::Null));
    let answer = json(offline.command().args(["--url", "https://api.example.test/orders/..;/x"]), 1);
    assert_eq!((&answer["status"], &answer["reason"]), (&400.into(), &"request.ambiguous".into()));
}

#[test]
fn certificates_are_judged_by_the_time_of_at_and_by_the_list() {
    let offline = Offline::new();
    let now = SystemTime::now();
    let good = offline.clients.leaf("Acme").dns("acme.partner.example").issue().unwrap();
    let ask = |identity: &Identity, more: &[&str], code| {
        identity.write_to(&offline.folder, "client").unwrap();
        let url = ["--url", "https://api.example.test/partners", "--client-cert", "client.pem"];
        json(offline.command().args(url).args(more), code)
    };
    let answer = ask(&good, &[], 0);
    assert_eq!(answer["upstream_headers"]["x-cert"], good.facts().sha256);
    assert_eq!(ask(&good, &["--at", "2050-01-01T00:00:00Z"], 1)["reason"], "cert.expired");
    let nameless = offline.clients.leaf("Acme").valid(now - NOON / 1000, now + NOON / 1000).issue().unwrap();
    assert_eq!(ask(&nameless, &[], 1)["reason"], "cert.name.mismatch");
    offline.clients.crl(&[&good]).unwrap().write_to(offline.folder.path().join("clients.crl")).unwrap();
    assert_eq!(ask(&good, &[], 1)["reason"], "cert.revoked");
    let answer = json(offline.command().args(["--url", "https://api.example.test/partners"]), 1);
    assert_eq!(answer["reason"], "cert.missing");
}

#[test]
fn a_token_may_come_from_a_file_or_from_standard_input() {
    let offline = Offline::new();
    let token = offline.token(|spec| spec);
    std::fs::write(offline.folder.path().join("token"), format!("{token}\n")).unwrap();
    let base = ["--url", "https://api.example.test/orders/1", "--client-ip", "10.1.2.3", "--at", "2026-01-31T12:01:00Z"];
    offline.command().args(base).args(["--token-file", "token"]).assert().code(0);
    offline.command().args(base).args(["--token-file", "-"]).write_stdin(token.as_str()).assert().code(0);
    offline.command().args(base).args(["--header", &format!("Authorization: Bearer {token}")]).assert().code(0);
    offline.command().args(base).assert().code(1);
}

#[test]
fn wrong_usage_is_2_and_says_what_is_wrong() {
    let offline = Offline::new();
    let url = ["--url", "https://api.example.test/orders/1"];
    let cases: &[(&[&str], &str)] = &[
        (&[], "--url"),
        (&["--url", "ftp://api.example.test/"], "ftp://api.example.test/"),
        (&["--url", "api.example.test/orders"], "api.example.test/orders"),
        (&[url[0], url[1], "--at", "yesterday"], "yesterday"),
        (&[url[0], url[1], "--header", "no-colon"], "no-colon"),
        (&[url[0], url[1], "--client-ip", "10.0.0.300"], "10.0.0.300"),
        (&[url[0], url[1], "--token", "a", "--token-file", "b"], "--token-file"),
        (&[url[0], url[1], "--token-file", "nowhere"], "nowhere"),
        (&[url[0], url[1], "--client-cert", "edge.yaml"], "edge.yaml"),
        (&[url[0], url[1], "--listener", "nobody"], "nobody"),
        (&[url[0], url[1], "--frobnicate"], "--frobnicate"),
    ];
    for (arguments, named) in cases {
        let output = offline.command().args(*arguments).assert().code(2).get_output().clone();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(named), "{arguments:?}: {said}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
    std::fs::write(offline.folder.path().join("edge.yaml"), CONFIG.replace("pool: orders", "pool: order")).unwrap();
    let output = offline.command().args(url).assert().code(2).get_output().clone();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("edge.yaml:21:11"), "{said}");
    std::fs::write(offline.folder.path().join("edge.yaml"), CONFIG).unwrap();
    std::fs::write(offline.folder.path().join("jwks.json"), "<html>").unwrap();
    let output = offline.command().args(url).assert().code(2).get_output().clone();
    let said = String::from_utf8(output.stderr).unwrap();
    // Once, at the issuer, and no word of what only follows from it.
    assert!(
        said.contains("(`--jwks`) cannot be used") && said.contains("edge.yaml:8") && !said.contains("unknown issuer"),
        "{said}"
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(["explain", "-c", "/nowhere/edge.yaml"]).args(url).assert().code(2);
}

/// As one opaque token in 64 does.
#[test]
fn a_token_may_begin_with_a_hyphen() {
    let offline = Offline::new();
    let answer = json(&mut offline.orders("-Pq3x"), 1);
    assert_eq!((&answer["reason"], &answer["status"]), (&"token.malformed".into(), &401.into()));
}

#[test]
fn a_token_that_was_given_with_its_scheme_is_told_as_such() {
    let offline = Offline::new();
    let token = offline.token(|spec| spec);
    let answer = json(&mut offline.orders(&format!("Bearer {token}")), 1);
    assert_eq!(answer["reason"], "token.malformed");
    assert!(answer.to_string().contains("the scheme twice") && !answer.to_string().contains(&token), "{answer}");
}

/// As `offline`, with these filters of `orders`.
fn with_filters(offline: &Offline, filters: &str) {
    let written = CONFIG.replace(r#"      - oidc: { issuer: main, scopes: ["orders:read"] }"#, filters);
    assert_ne!(written, CONFIG);
    std::fs::write(offline.folder.path().join("edge.yaml"), written).unwrap();
}

#[test]
fn what_a_filter_in_shadow_mode_found_is_not_taken_for_a_refusal() {
    let offline = Offline::new();
    let token = offline.token(|spec| spec);
    let at = ["--at", "2026-01-31T12:01:00Z"];
    with_filters(
        &offline,
        "      - { any_of: [{ oidc: { issuer: main, scopes: [other] } }, { client_cert: {} }], mode: shadow }\n      - oidc: { issuer: main }",
    );
    let answer = json(offline.orders(&token).args(at), 0);
    let checks = answer["checks"].as_array().unwrap();
    let failed: Vec<_> = checks.iter().filter(|check| check["ok"] == false).collect();
    assert_eq!(failed.len(), 3, "{answer:#}");
    assert!(failed.iter().all(|check| check["shadow"] == true), "{answer:#}");
    let counts = |check: &&Value| check["filter"] == "oidc" && check["group"].is_null();
    assert!(checks.iter().filter(counts).all(|check| check["ok"] == true && check["shadow"].is_null()), "{answer:#}");
    assert_eq!(
        answer["shadow"][0],
        serde_json::json!({ "filter": "any_of", "verdict": "deny", "reason": "token.scope.missing" })
    );
    let told = text(offline.orders(&token).args(at), 0);
    for part in [
        "any_of, in shadow mode, would have refused it: token.scope.missing",
        "no  any_of/0/oidc scope (in shadow mode)",
        "no  any_of alternatives (in shadow mode)",
        "ok  oidc signature",
    ] {
        assert!(told.contains(part), "{part}\n{told}");
    }
}

#[test]
fn the_checks_of_a_group_say_which_member_made_them() {
    let offline = Offline::new();
    let token = offline.token(|spec| spec.expires_in(-3600));
    let twice = "{ oidc: { issuer: main } }";
    with_filters(
        &offline,
        &format!("      - any_of: [{twice}, {{ all_of: [{twice}, {{ any_of: [{twice}, {{ client_cert: {{}} }}] }}] }}]"),
    );
    let at = ["--at", "2026-01-31T12:01:00Z"];
    let told = text(offline.orders(&token).args(at), 1);
    for place in ["any_of/0/oidc expiry", "any_of/1/all_of/0/oidc expiry"] {
        assert_eq!(told.matches(&format!("no  {place} ")).count(), 1, "{place}\n{told}");
    }
    let good = text(offline.orders(&offline.token(|spec| spec.scope("orders:read"))).args(at), 0);
    assert!(good.contains("ok  any_of/0/oidc expiry") && good.contains("ok  any_of alternatives"), "{good}");
}
