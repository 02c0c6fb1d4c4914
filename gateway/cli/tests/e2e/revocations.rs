//! Tokens that the gateway is told are revoked.

use crate::stage::line_in;
use crate::support::{Edge, edge};
use portcullis_testkit::token::TokenSpec;
use portcullis_testkit::{Alg, Client, Http2Client, Provider, RealProvider, Response, Upstream, until};
use serde_json::{Value, json};

pub const CONFIG: &str = r#"
listeners: [{ name: http, address: 127.0.0.1:0, h2c: true }]
admin: { address: 127.0.0.1:0, revocations: { secret_file: revocation-secret, max_entries: 4 } }
access_log: { path: access.jsonl }
audit_log: { path: audit.jsonl }
issuers:
  main: { issuer: "ISSUER", audiences: [AUDIENCES], algorithms: [ALGORITHM] INTROSPECTION }
pools:
  up: { backends: [{ address: "BACKEND" }] }
routes:
  - name: orders
    match: { path: /orders }
    filters: [{ oidc: { issuer: main } }]
    pool: up
"#;

pub const SECRET: &str = "revoke-0123456789abcdef";
const ASKS: &str = ", introspection: { client_id: rs, client_secret_file: secret, tokens: opaque, ttl: 1h, inactive_ttl: 0s }";

async fn send(gateway: &Edge, token: &str) -> (u16, String) {
    let mut client = Client::connect(gateway.address()).await.unwrap();
    let bearer = format!("Bearer {token}");
    let response = client.get("api.example.test", "/orders", &[("authorization", &bearer)]).await.unwrap();
    let line = line_in(&gateway.path().join("access.jsonl"), &response).await;
    (response.status, line["reason"].as_str().unwrap_or_default().to_owned())
}

async fn tell(gateway: &Edge, secret: &str, form: &str) -> Response {
    let mut client = Client::connect(gateway.handle.admin_address().unwrap()).await.unwrap();
    let bearer = format!("Bearer {secret}");
    let fields = [("authorization", &*bearer), ("content-type", "application/x-www-form-urlencoded")];
    client.post("admin", "/revocations", &fields, form.as_bytes()).await.unwrap()
}

pub async fn revoke(gateway: &Edge, form: &str) {
    let response = tell(gateway, SECRET, form).await;
    assert_eq!(response.status, 200, "{}", response.text());
}

/// What was recorded of revocations, once there are so many.
async fn recorded(gateway: &Edge, count: usize) -> Vec<Value> {
    of_kind(gateway, "token.revoked", count).await
}

async fn of_kind(gateway: &Edge, kind: &str, count: usize) -> Vec<Value> {
    let path = gateway.path().join("audit.jsonl");
    let read = || -> Vec<Value> {
        let records = crate::support::log(&path);
        records.into_iter().filter(|record| record["kind"] == kind).collect()
    };
    until("the records", || read().len() >= count).await.unwrap();
    read()
}

fn refused() -> (u16, String) {
    (401, "token.revoked".to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opaque_tokens_and_jwts_of_a_real_provider_are_refused_at_once() {
    let Some(provider) = RealProvider::start().await else { return };
    let upstream = Upstream::start().await.unwrap();
    let audiences = r#""https://api.example.test/opaque", "https://api.example.test/es512""#;
    let setup = edge(CONFIG).with("ISSUER", provider.issuer()).with("AUDIENCES", audiences).with("ALGORITHM", "ES512");
    let setup = setup.with("INTROSPECTION", ASKS).with("BACKEND", upstream.address());
    let gateway = setup.file("secret", "rs-secret\n").file("revocation-secret", SECRET).start().await;
    for resource in ["opaque", "es512"] {
        let token = provider.token(resource, "api:read").await.unwrap();
        let other = provider.token(resource, "api:read").await.unwrap();
        for token in [&token, &other] {
            assert_eq!(send(&gateway, token).await, (200, String::new()), "{resource}");
        }
        // The issuer itself goes on to stand by it.
        revoke(&gateway, &format!("token={token}&token_type_hint=access_token")).await;
        assert_eq!(send(&gateway, &token).await, refused(), "{resource}");
        assert_eq!(send(&gateway, &other).await, (200, String::new()), "{resource}");
        gateway.handle.reload().await.unwrap();
        assert_eq!(send(&gateway, &token).await, refused(), "{resource}");
        let kept = ["access.jsonl", "audit.jsonl"].map(|name| std::fs::read_to_string(gateway.path().join(name)).unwrap());
        let kept = kept.concat() + &gateway.handle.metrics();
        let secret = token.rsplit('.').next().unwrap();
        assert!(!kept.contains(secret) && !kept.contains(SECRET), "{resource}");
    }
    assert_eq!(recorded(&gateway, 2).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_jwt_is_refused_by_itself_and_by_its_id_until_nothing_more_can_be_remembered() {
    let provider = Provider::builder().algs(&[Alg::Es256]).start().await.unwrap();
    let upstream = Upstream::start().await.unwrap();
    let setup = edge(CONFIG).with("ISSUER", provider.issuer()).with("AUDIENCES", "https://api.example.test");
    let setup = setup.with("ALGORITHM", "ES256").with("INTROSPECTION", "").with("BACKEND", upstream.address());
    let gateway = setup.file("revocation-secret", SECRET).start().await;
    let token = |jti: &str| provider.issue(&TokenSpec::new().alg(Alg::Es256).claim("jti", jti)).unwrap();
    let tokens = ["a", "b", "c"].map(token);
    for token in &tokens {
        assert_eq!(send(&gateway, token).await, (200, String::new()));
    }
    // Nobody else may tell.
    for secret in ["", "revoke-0123456789abcdee"] {
        assert_eq!(tell(&gateway, secret, &format!("token={}", tokens[0])).await.status, 401);
    }
    let mut nobody = Client::connect(gateway.handle.admin_address().unwrap()).await.unwrap();
    assert_eq!(nobody.post("admin", "/revocations", &[], b"token=a").await.unwrap().status, 401);
    let turned_away = of_kind(&gateway, "admin.refused", 3).await;
    for (record, secret) in turned_away.iter().zip(["wrong", "wrong", "none"]) {
        assert_eq!((&record["path"], &record["method"]), (&json!("/revocations"), &json!("POST")), "{record:#}");
        assert_eq!((&record["secret"], &record["client"]), (&json!(secret), &json!("127.0.0.1")), "{record:#}");
        assert!(!record.to_string().contains("revoke-0123456789abcdee"), "{record:#}");
    }
    assert_eq!(send(&gateway, &tokens[0]).await.0, 200);

    revoke(&gateway, &format!("token={}", tokens[0])).await;
    let issuer = provider.issuer().replace(':', "%3A").replace('/', "%2F");
    revoke(&gateway, &format!("iss={issuer}&jti=b")).await;
    for token in &tokens[..2] {
        assert_eq!(send(&gateway, token).await, refused());
    }
    assert_eq!(send(&gateway, &tokens[2]).await.0, 200);
    // Over HTTP/2 it is no other token.
    let mut h2 = Http2Client::connect(gateway.address()).await.unwrap();
    let bearer = format!("Bearer {}", tokens[0]);
    assert_eq!(h2.get("api.example.test", "/orders", &[("authorization", &bearer)]).await.unwrap().status, 401);

    let records = recorded(&gateway, 2).await;
    assert_eq!(records[0]["token_sha256"].as_str().map(str::len), Some(64), "{:#?}", records[0]);
    assert_eq!((&records[0]["jti"], &records[0]["error"]), (&Value::Null, &Value::Null));
    assert_eq!((&records[1]["iss"], &records[1]["jti"]), (&json!(provider.issuer()), &json!("b")));

    revoke(&gateway, "token=one").await;
    revoke(&gateway, "token=two").await;
    let full = tell(&gateway, SECRET, &format!("token={}", tokens[2])).await;
    assert_eq!(full.status, 503);
    assert!(full.text().contains("max_entries") && !full.text().contains(&tokens[2]));
    assert_eq!(send(&gateway, &tokens[2]).await.0, 200, "it was not taken, and whoever told knows");
    assert_eq!(send(&gateway, &tokens[0]).await, refused(), "nothing was pushed out");
    assert!(recorded(&gateway, 5).await[4]["error"].as_str().unwrap().contains("4 revocations are remembered already"));
    assert_eq!(gateway.metric("portcullis_revocations", &[]), 4.0);
    assert_eq!(gateway.metric("portcullis_revocations_total", &[("outcome", "full")]), 1.0);

    // A reload closes the door for whoever tells, and opens none for what was revoked.
    let config = std::fs::read_to_string(gateway.path().join("edge.yaml")).unwrap();
    gateway.rewrite(&config.replace(", revocations: { secret_file: revocation-secret, max_entries: 4 }", ""));
    gateway.handle.reload().await.unwrap();
    assert_eq!(tell(&gateway, SECRET, "token=three").await.status, 404);
    assert_eq!(send(&gateway, &tokens[0]).await, refused());
}
