//! Opaque tokens of a real provider, which the gateway asks it about (RFC 7662).

use crate::stage::line_in;
use crate::support::{Edge, Setup, edge};
use portcullis_testkit::{Client, RealProvider, Upstream};

const CONFIG: &str = r#"
listeners: [{ name: http, address: 127.0.0.1:0 }]
admin: { address: 127.0.0.1:0 }
access_log: { path: access.jsonl }
issuers:
  main:
    issuer: "ISSUER"
    audiences: ["https://api.example.test/opaque", "https://api.example.test/es512"]
    algorithms: [ES512]
    introspection: { client_id: rs, client_secret_file: secret, tokens: all, ttl: TTL, inactive_ttl: 0s }
pools:
  up: { backends: [{ address: "BACKEND" }] }
routes:
  - name: orders
    match: { path: /orders }
    filters:
      - oidc: { issuer: main, scopes: ["api:read"] }
      - identity_headers: { headers: { x-user: sub, x-client: client_id, x-scope: scope } }
    pool: up
"#;

fn setup(provider: &RealProvider, upstream: &Upstream, ttl: &str) -> Setup {
    edge(CONFIG).with("ISSUER", provider.issuer()).with("BACKEND", upstream.address()).with("TTL", ttl)
}

async fn send(gateway: &Edge, token: &str) -> (u16, String) {
    let mut client = Client::connect(gateway.address()).await.unwrap();
    let bearer = format!("Bearer {token}");
    let response = client.get("api.example.test", "/orders", &[("authorization", &bearer)]).await.unwrap();
    let line = line_in(&gateway.path().join("access.jsonl"), &response).await;
    (response.status, line["reason"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_opaque_token_is_good_until_its_issuer_says_otherwise() {
    let Some(provider) = RealProvider::start().await else { return };
    let upstream = Upstream::start().await.unwrap();
    let gateway = setup(&provider, &upstream, "0s").file("secret", "rs-secret\n").start().await;
    let token = provider.token("opaque", "api:read").await.unwrap();
    assert!(!token.contains('.'), "it is opaque");
    assert_eq!(send(&gateway, &token).await, (200, String::new()));
    let seen = upstream.last().unwrap();
    let sent = ["x-user", "x-client", "x-scope", "authorization"].map(|name| seen.header_all(name).join(","));
    assert_eq!(sent, ["m2m", "m2m", "api:read", ""]);

    let narrow = provider.token("opaque", "api:write").await.unwrap();
    assert_eq!(send(&gateway, &narrow).await, (403, "token.scope.missing".to_owned()));
    assert_eq!(send(&gateway, "made-up").await, (401, "token.inactive".to_owned()));

    let before = upstream.count();
    provider.revoke(&token).await.unwrap();
    assert_eq!(send(&gateway, &token).await, (401, "token.inactive".to_owned()));
    provider.fail("/token/introspection", 503, 1_000_000).await.unwrap();
    assert_eq!(send(&gateway, &token).await, (503, "issuer.unavailable".to_owned()));
    assert_eq!(upstream.count(), before);
    provider.heal().await.unwrap();
    assert_eq!(send(&gateway, &provider.token("opaque", "api:read").await.unwrap()).await, (200, String::new()));
    // An outage is told with its cause, and neither the secret nor a token is told with it.
    let kept = std::fs::read_to_string(gateway.path().join("access.jsonl")).unwrap() + &gateway.handle.metrics();
    assert!(!kept.contains("rs-secret") && !kept.contains(&token));
    let outcomes = ["active", "inactive", "error"]
        .map(|outcome| gateway.metric("portcullis_issuer_introspections_total", &[("issuer", "main"), ("outcome", outcome)]));
    assert_eq!(outcomes, [3.0, 2.0, 1.0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_serves_many_requests_and_wrong_credentials_of_the_gateway_are_no_fault_of_the_client() {
    let Some(provider) = RealProvider::start().await else { return };
    let upstream = Upstream::start().await.unwrap();
    let gateway = setup(&provider, &upstream, "1h").file("secret", "rs-secret\n").start().await;
    let token = provider.token("opaque", "api:read").await.unwrap();
    for _ in 0..5 {
        assert_eq!(send(&gateway, &token).await, (200, String::new()));
    }
    assert_eq!(provider.requests("/token/introspection").await.unwrap(), 1);
    let wrong = setup(&provider, &upstream, "1h").file("secret", "not-the-secret\n").start().await;
    assert_eq!(send(&wrong, &token).await, (503, "issuer.unavailable".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_es512_jwt_that_its_issuer_does_not_stand_by_is_refused() {
    // oidc-provider answers 400 to questions about JWTs: the signature alone must not be enough then.
    let Some(provider) = RealProvider::start().await else { return };
    let upstream = Upstream::start().await.unwrap();
    let gateway = setup(&provider, &upstream, "0s").file("secret", "rs-secret\n").start().await;
    let token = provider.token("es512", "api:read").await.unwrap();
    assert_eq!(send(&gateway, &token).await, (503, "issuer.unavailable".to_owned()));
    let here = CONFIG.replace("tokens: all", "tokens: opaque");
    let here = edge(&here).with("ISSUER", provider.issuer()).with("BACKEND", upstream.address()).with("TTL", "0s");
    let here = here.file("secret", "rs-secret\n").start().await;
    assert_eq!(send(&here, &token).await, (200, String::new()));
}
