//! Real refusals, one for each reason: `portcullis why` alone says what was expected, what was seen and what to do.

use crate::replay_cli::assert_unchanged;
use crate::stage::{Call, HOST, Stage};
use assert_cmd::Command;
use portcullis::plugin::reason;
use portcullis_testkit::pki::{Pki, Usage};
use portcullis_testkit::token::{Alg, SignWith, Tamper, TokenSpec};
use portcullis_testkit::{Client, Prover, Response};
use std::net::SocketAddr;

/// What no test here refuses for, with the reason.
const ELSEWHERE: &str = "
    client.gone: nobody asks, and it is not kept
    gateway.fault: it would need a bug
    audit.unavailable: it would need a disk that fails; gateway/engine/src/audit/tests.rs has one
    dpop.replay.full: it would need a hundred thousand proofs; plugins/identity tests it with less room
";

#[test]
fn no_reason_is_left_out() {
    let here = [include_str!("why_catalogue.rs"), include_str!("why_backends.rs"), include_str!("why_told.rs")].concat();
    for row in reason::TABLE {
        let code = row.code.as_str();
        assert!(here.contains(&format!("\"{code}\"")) != ELSEWHERE.contains(&format!("    {code}: ")), "{code}");
    }
}

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
  - { name: bound, match: { path: /bound }, filters: [{ oidc: { issuer: main, binding: { dpop: {} } } }], pool: up }
  - { name: nonce, match: { path: /nonce }, filters: [{ oidc: { issuer: main, binding: { require: dpop, dpop: { nonce: {} } } } }], pool: up }
  - { name: pages, match: { path: /pages }, filters: [{ cors: { origins: ["https://app.example"], methods: [GET, PUT] } }], pool: up }
  - { name: rate, match: { path: /rate }, filters: [{ rate_limit: { key: client, rate: 1/h, burst: 1 } }], pool: up }
  - { name: quota, match: { path: /quota }, filters: [{ rate_limit: { key: client, quota: 1/month } }], pool: up }
"#;

const LISTENERS: &str = "
listeners:
  - { name: http, address: 127.0.0.1:0, limits: { body: 10, header_bytes: 4KiB } }
  - name: https
    address: 127.0.0.1:0
    tls:
      certificates: [{ cert: edge.pem, key: edge.key }, { cert: other.pem, key: other.key }]
      client_auth: { ca: clients-ca.pem, crl: clients.crl }
  - { name: slow, address: 127.0.0.1:0, limits: { header_timeout: 200ms, body_timeout: 200ms } }
";

/// One that has expired.
const KEYS: &str =
    "old sha256:40fb5749bc150b2dd1cb35fd9e8a93eb15b3e8292baddbe3ec4742b0b79f08f4 owner=a expires=2020-01-01T00:00:00Z\n";
const OLD_KEY: &str = "0123456789abcdef0123456789abcdee";

async fn start() -> Stage {
    let other = Pki::new().unwrap().server(&["other.example.test"]).unwrap();
    let files = [("keys.txt", KEYS), ("other.pem", other.cert_pem()), ("other.key", other.key_pem())];
    Stage::builder().listeners(LISTENERS).algs(&[Alg::Es256]).start_with_files(CONFIG, &files).await
}

/// What `why` says of a response, which must have been refused for this reason.
pub async fn why(stage: &Stage, response: &Response, reason: &str) -> String {
    let line = stage.line(response).await;
    assert_eq!(line["reason"], reason, "{line}");
    asked(stage.gateway.admin_address().unwrap(), response).await
}

pub async fn asked(admin: SocketAddr, response: &Response) -> String {
    let id = response.header("x-decision-id").unwrap();
    let admin = format!("http://{admin}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(["why", &id, "--admin", &admin]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The failing check of this reason is there with all three parts.
pub fn assert_clear(text: &str, reason: &str) {
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
    let stage = start().await;
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
    assert_unchanged(&stage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_reads_why_a_request_was_refused_knows_what_to_do() {
    let stage = start().await;
    stage.send(&Call::get("/rate")).await;
    stage.send(&Call::get("/quota")).await;
    let stranger = stage.clients.client("stranger.example").unwrap();
    let partner = || stage.clients.leaf("Acme").dns("acme.partner.example");
    let (expired, server) = (partner().expired().issue().unwrap(), partner().usage(Usage::Server).issue().unwrap());
    let foreign = Pki::named("Others").unwrap().leaf("Acme").dns("acme.partner.example").issue().unwrap();
    let cases = [
        ("route.none", Call::get("/nowhere")),
        ("ip.denied", Call::get("/ip")),
        ("cert.missing", Call::get("/cert").over_tls(None)),
        ("cert.name.mismatch", Call::get("/cert").over_tls(Some(&stranger))),
        ("cert.expired", Call::get("/cert").over_tls(Some(&expired))),
        ("cert.untrusted", Call::get("/cert").over_tls(Some(&foreign))),
        ("cert.untrusted", Call::get("/cert").over_tls(Some(&server))),
        ("token.missing", Call::get("/token")),
        ("api_key.missing", Call::get("/key")),
        ("api_key.unknown", Call::get("/key").field("x-api-key", "0123456789abcdef0123456789abcdef")),
        ("api_key.expired", Call::get("/key").field("x-api-key", OLD_KEY)),
        ("authorize.denied", Call::get("/rule")),
        ("authorize.external.unavailable", Call::get("/external")),
        ("identity.missing", Call::get("/identity")),
        ("rate.exceeded", Call::get("/rate")),
        ("rate.quota.exhausted", Call::get("/quota")),
        ("request.ambiguous", Call::get("/a/..;/b")),
        ("request.headers.too_large", Call::get("/open").field("x-long", "x".repeat(5000))),
        ("request.headers.too_large", (0..101).fold(Call::get("/open"), |call, n| call.field(&format!("x-{n}"), "x"))),
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
    assert_unchanged(&stage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_reads_why_a_certificate_is_no_longer_good_knows_what_to_do() {
    let stage = start().await;
    let revoked = stage.clients.leaf("Acme").dns("acme.partner.example").issue().unwrap();
    stage.clients.crl(&[&revoked]).unwrap().write_to(stage.file("clients.crl")).unwrap();
    stage.gateway.reload().await.unwrap();
    let response = stage.send(&Call::get("/cert").over_tls(Some(&revoked))).await;
    let text = why(&stage, &response, "cert.revoked").await;
    assert_clear(&text, "cert.revoked");
    assert!(text.contains(&revoked.facts().serial), "{text}");
    assert_unchanged(&stage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_reads_why_a_message_was_not_taken_knows_what_to_do() {
    let stage = start().await;
    let call = Call::get("/open").over_tls(None);
    let host = "GET /open HTTP/1.1\r\nHost: other.example.test\r\n\r\n";
    let response = stage.connect(&call).await.request(host).await.unwrap();
    let text = why(&stage, &response, "request.misdirected").await;
    assert_clear(&text, "request.misdirected");
    assert!(text.contains(HOST) && text.contains("other.example.test"), "{text}");

    let slow = stage.gateway.address("slow").unwrap();
    for (request, part) in [
        ("GET /open HTTP/1.1\r\nHost: a\r\n", "header_timeout"),
        ("POST /open HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab", "body_timeout"),
    ] {
        let mut client = Client::connect(slow).await.unwrap();
        client.send(request).await.unwrap();
        let text = why(&stage, &client.response().await.unwrap(), "request.timeout").await;
        assert_clear(&text, "request.timeout");
        assert!(text.contains(part), "{text}");
    }
    for (reason, request, part) in [
        (
            "request.too_large",
            "POST /open HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nb\r\nhello world\r\n0\r\n\r\n",
            "at most 10 bytes",
        ),
        (
            "request.upgrade.refused",
            "GET /open HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            "WebSocket",
        ),
        ("route.method", "TRACE /open HTTP/1.1\r\nHost: a\r\n\r\n", "served nowhere"),
        (
            "cors.denied",
            "OPTIONS /pages HTTP/1.1\r\nHost: a\r\nOrigin: https://evil.example\r\nAccess-Control-Request-Method: PUT\r\n\r\n",
            "`origins`",
        ),
        (
            "cors.denied",
            "OPTIONS /pages HTTP/1.1\r\nHost: a\r\nOrigin: https://app.example\r\nAccess-Control-Request-Method: DELETE\r\n\r\n",
            "`methods`",
        ),
    ] {
        let response = Client::connect(stage.http()).await.unwrap().request(request).await.unwrap();
        let text = why(&stage, &response, reason).await;
        assert_clear(&text, reason);
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert_unchanged(&stage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_reads_why_a_proof_was_refused_knows_what_to_do() {
    let stage = start().await;
    let prover = Prover::new().unwrap();
    let cnf = serde_json::json!({ "jkt": prover.thumbprint() });
    let token = stage.provider.issue(&token().claim("cnf", cnf)).unwrap();
    let proof = |path: &str| prover.proof(&token, "GET", &format!("http://{HOST}{path}")).unwrap();
    let send = async |path: &str, proof: &str| {
        let call = Call::get(path).field("Authorization", format!("DPoP {token}")).field("DPoP", proof);
        stage.send(&call).await
    };
    let once = proof("/bound");
    assert_eq!(send("/bound", &once).await.status, 200);
    for (reason, path, proof) in [
        ("dpop.replay", "/bound", once),
        ("dpop.proof.invalid", "/bound", proof("/elsewhere")),
        ("dpop.nonce.required", "/nonce", proof("/nonce")),
    ] {
        let response = send(path, &proof).await;
        let text = why(&stage, &response, reason).await;
        assert_clear(&text, reason);
        assert!(!text.contains(proof.rsplit('.').next().unwrap()), "{text}");
    }
    assert_unchanged(&stage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_reads_why_an_issuer_could_not_be_asked_knows_what_to_do() {
    let config = CONFIG.lines().filter(|line| !line.contains("keys.txt")).collect::<Vec<_>>().join("\n");
    let stage = Stage::builder().algs(&[Alg::Es256]).issuer_down().start(&config).await;
    let token = stage.provider.issue(&token()).unwrap();
    let response = stage.send(&Call::get("/token").bearer(&token)).await;
    let text = why(&stage, &response, "issuer.unavailable").await;
    assert_clear(&text, "issuer.unavailable");
    assert_unchanged(&stage);
}
