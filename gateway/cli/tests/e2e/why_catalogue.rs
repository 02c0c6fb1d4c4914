//! Real refusals, one for each reason: `portcullis why` alone says what was expected, what was seen and what to do.

use crate::stage::{Call, Stage};
use assert_cmd::Command;
use portcullis_testkit::token::{Alg, SignWith, Tamper, TokenSpec};
use portcullis_testkit::{Answer, Behaviour, Client, Response};

const CONFIG: &str = r#"
issuers:
  main: { issuer: "{ISSUER}", audiences: [https://api.example.test], algorithms: [ES256] }
routes:
  - { name: open, match: { path: /open, methods: [GET, POST] }, pool: up }
  - { name: ip, match: { path: /ip }, filters: [{ ip_allow: { allow: [192.0.2.0/24] } }], pool: up }
  - { name: cert, match: { path: /cert }, filters: [{ client_cert: { san_dns: ["*.partner.example"] } }], pool: up }
  - { name: token, match: { path: /token }, filters: [{ oidc: { issuer: main } }], pool: up }
  - { name: scope, match: { path: /scope }, filters: [{ oidc: { issuer: main, scopes: ["orders:write"] } }], pool: up }
  - { name: role, match: { path: /role }, filters: [{ oidc: { issuer: main, roles: [admin] } }], pool: up }
  - { name: claim, match: { path: /claim }, filters: [{ oidc: { issuer: main, claims: { tenant: acme } } }], pool: up }
  - { name: key, match: { path: /key }, filters: [{ api_key: { header: x-api-key, file: keys.txt } }], pool: up }
  - { name: rule, match: { path: /rule }, filters: [{ authorize: { expression: "request.method == 'PUT'" } }], pool: up }
  - { name: external, match: { path: /external }, filters: [{ external_authorize: { url: "http://127.0.0.1:1/" } }], pool: up }
  - { name: identity, match: { path: /identity }, filters: [{ identity_headers: { headers: { x-user: sub }, on_missing: deny } }], pool: up }
  - { name: rate, match: { path: /rate }, filters: [{ rate_limit: { key: client, rate: 1/h, burst: 1 } }], pool: up }
  - { name: quota, match: { path: /quota }, filters: [{ rate_limit: { key: client, quota: 1/month } }], pool: up }
"#;

const LISTENERS: &str = "
listeners:
  - { name: http, address: 127.0.0.1:0, limits: { body: 10, header_bytes: 4KiB } }
  - name: https
    address: 127.0.0.1:0
    tls:
      certificates: [{ cert: edge.pem, key: edge.key }]
      client_auth: { ca: clients-ca.pem }
";

/// What `why` says of a response, which must have been refused for this reason.
async fn why(stage: &Stage, response: &Response, reason: &str) -> String {
    let line = stage.line(response).await;
    assert_eq!(line["reason"], reason, "{line}");
    let id = response.header("x-decision-id").unwrap();
    let admin = format!("http://{}", stage.gateway.admin_address().unwrap());
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(["why", &id, "--admin", &admin]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The failing check of this reason is there with all three parts.
fn assert_clear(text: &str, reason: &str) {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let at = lines.iter().position(|line| *line == format!("reason: {reason}"));
    let at = at.unwrap_or_else(|| panic!("no failed check of {reason}:\n{text}"));
    let expected = lines[at - 1].strip_prefix("expected: ").unwrap_or_else(|| panic!("nothing expected:\n{text}"));
    let observed = lines[at - 2].strip_prefix("no  ").unwrap_or_else(|| panic!("nothing observed:\n{text}"));
    let hint = lines.get(at + 1).and_then(|line| line.strip_prefix("hint: ")).unwrap_or_else(|| panic!("nothing to do:\n{text}"));
    // The check's own name is two words: what was seen comes after.
    assert!(observed.split_whitespace().count() > 2 && !expected.is_empty() && hint.len() > 10, "{text}");
}

fn token() -> TokenSpec {
    TokenSpec::new().alg(Alg::Es256)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_reads_why_a_token_was_refused_knows_what_to_do() {
    let stage =
        Stage::builder().listeners(LISTENERS).algs(&[Alg::Es256]).start_with_files(CONFIG, &[("keys.txt", "# none\n")]).await;
    let issue = |spec: TokenSpec| stage.provider.issue(&spec).unwrap();
    let cases = [
        ("token.malformed", "/token", "not-a-token".to_owned()),
        ("token.alg.refused", "/token", issue(token().sign_with(SignWith::PublicKeyPem))),
        ("token.crit.refused", "/token", issue(token().header("crit", serde_json::json!(["b64"])))),
        ("token.typ.refused", "/token", issue(token().header("typ", "logout+jwt"))),
        ("token.kid.unknown", "/token", issue(token().kid("another"))),
        ("token.signature.invalid", "/token", issue(token().tamper(Tamper::SignatureBit))),
        ("token.issuer.mismatch", "/token", issue(token().claim("iss", "https://other.example"))),
        ("token.audience.mismatch", "/token", issue(token().audience("https://other.example"))),
        ("token.expired", "/token", issue(token().expires_in(-3600))),
        ("token.not_yet_valid", "/token", issue(token().not_before_in(3600))),
        ("token.binding.mismatch", "/token", issue(token().claim("cnf", serde_json::json!({ "jkt": "x" })))),
        ("token.scope.missing", "/scope", issue(token().scope("orders:read"))),
        ("token.role.missing", "/role", issue(token().roles(&["user"]))),
        ("token.claim.mismatch", "/claim", issue(token().claim("tenant", "other"))),
    ];
    for (reason, path, token) in &cases {
        let response = stage.send(&Call::get(path).bearer(token)).await;
        let text = why(&stage, &response, reason).await;
        assert_clear(&text, reason);
        let secret = token.split('.').next_back().unwrap_or_default();
        assert!(secret.is_empty() || !text.contains(secret), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_reads_why_a_request_was_refused_knows_what_to_do() {
    let stage =
        Stage::builder().listeners(LISTENERS).algs(&[Alg::Es256]).start_with_files(CONFIG, &[("keys.txt", "# none\n")]).await;
    stage.send(&Call::get("/rate")).await;
    stage.send(&Call::get("/quota")).await;
    let stranger = stage.clients.client("stranger.example").unwrap();
    let cases = [
        ("route.none", Call::get("/nowhere")),
        ("ip.denied", Call::get("/ip")),
        ("cert.missing", Call::get("/cert").over_tls(None)),
        ("cert.name.mismatch", Call::get("/cert").over_tls(Some(&stranger))),
        ("token.missing", Call::get("/token")),
        ("api_key.missing", Call::get("/key")),
        ("api_key.unknown", Call::get("/key").field("x-api-key", "0123456789abcdef0123456789abcdef")),
        ("authorize.denied", Call::get("/rule")),
        ("authorize.external.unavailable", Call::get("/external")),
        ("identity.missing", Call::get("/identity")),
        ("rate.exceeded", Call::get("/rate")),
        ("rate.quota.exhausted", Call::get("/quota")),
        ("request.ambiguous", Call::get("/a/..;/b")),
        ("request.headers.too_large", Call::get("/open").field("x-long", "x".repeat(5000))),
    ];
    for (reason, call) in &cases {
        let response = stage.send(call).await;
        assert_clear(&why(&stage, &response, reason).await, reason);
    }
    for (reason, request) in [
        ("route.method", "DELETE /open HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("request.too_large", "POST /open HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n"),
    ] {
        let response = Client::connect(stage.http()).await.unwrap().request(request).await.unwrap();
        assert_clear(&why(&stage, &response, reason).await, reason);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_reads_why_a_backend_did_not_answer_knows_what_to_do() {
    let stage =
        Stage::builder().listeners(LISTENERS).algs(&[Alg::Es256]).start_with_files(CONFIG, &[("keys.txt", "# none\n")]).await;
    stage.upstream.behave(Behaviour::raw("nonsense\r\n\r\n"));
    let response = stage.send(&Call::get("/open")).await;
    assert_clear(&why(&stage, &response, "upstream.invalid").await, "upstream.invalid");
    stage.upstream.behave(Answer::new(200));
    let backend = stage.upstream.address().to_string();
    stage.upstream.go_down().await;
    let response = stage.send(&Call::get("/open")).await;
    let text = why(&stage, &response, "upstream.connect").await;
    assert_clear(&text, "upstream.connect");
    assert!(text.contains(&format!("a connection to {backend}")), "{text}");
}
