//! Tokens of real providers of other makes than the one that most tests use.

use crate::stage::line_in;
use crate::support::edge;
use portcullis_testkit::{Client, OtherProvider, Upstream, until, within};

const AUDIENCE: &str = "https://api.example.test/rs256";

const JWT: &str = r#"
listeners: [{ name: http, address: 127.0.0.1:0 }]
admin: { address: 127.0.0.1:0 }
access_log: { path: access.jsonl }
issuers:
  main: { issuer: "ISSUER", audiences: ["https://api.example.test/rs256"], refetch_interval: 1s }
pools:
  up: { backends: [{ address: "BACKEND" }] }
routes:
  - name: orders
    match: { path: /orders }
    filters:
      - oidc: { issuer: main, scopes: ["api:read"] }
      - identity_headers: { headers: { x-user: sub, x-client: client_id, x-scope: scope } }
    pool: up
  - name: writes
    match: { path: /writes }
    filters: [{ oidc: { issuer: main, scopes: ["api:write"] } }]
    pool: up
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn glewlwyds_tokens_are_verified_over_a_change_of_its_key_and_while_it_is_away() {
    let Some(mut provider) = OtherProvider::glewlwyd().await else { return };
    let upstream = Upstream::start().await.unwrap();
    let gateway = edge(JWT).with("ISSUER", provider.issuer()).with("BACKEND", upstream.address()).start().await;
    let send = async |path: &str, token: &str| {
        let mut client = Client::connect(gateway.address()).await.unwrap();
        let response = client.get("api.example.test", path, &[("authorization", &format!("Bearer {token}"))]).await.unwrap();
        let line = line_in(&gateway.path().join("access.jsonl"), &response).await;
        (response.status, line["reason"].as_str().unwrap_or_default().to_owned())
    };
    let token = provider.token("api:read", AUDIENCE).await.unwrap();
    assert_eq!(send("/orders", &token).await, (200, String::new()));
    let seen = upstream.last().unwrap();
    let sent = ["x-user", "x-client", "x-scope"].map(|name| seen.header_all(name).join(","));
    assert_eq!(sent, ["m2m", "m2m", "api:read"]);
    assert_eq!(send("/writes", &token).await, (403, "token.scope.missing".to_owned()));

    provider.rotate().unwrap();
    let fresh = provider.token("api:read", AUDIENCE).await.unwrap();
    // An unknown key is asked for at once, within the budget of an issuer that was asked just now.
    let accepted = async {
        loop {
            match send("/orders", &fresh).await {
                (200, _) => return,
                refused => assert_eq!(refused, (401, "token.kid.unknown".to_owned())),
            }
        }
    };
    within("the new key is asked for", accepted).await.unwrap();
    assert_eq!(send("/orders", &token).await, (401, "token.kid.unknown".to_owned()), "its key is gone");

    let address = provider.issuer().trim_start_matches("http://").split('/').next().unwrap().to_owned();
    drop(provider);
    until("the end of the provider", || std::net::TcpStream::connect(&address).is_err()).await.unwrap();
    assert_eq!(send("/orders", &fresh).await, (200, String::new()), "known keys decide");
}

/// The provider names its endpoint nowhere, and its answers have neither `iss` nor `sub`.
const OPAQUE: &str = r#"
listeners: [{ name: http, address: 127.0.0.1:0 }]
admin: { address: 127.0.0.1:0 }
access_log: { path: access.jsonl }
issuers:
  main:
    issuer: "ISSUER"
    audiences: ["https://api.example.test/rs256"]
    introspection: { endpoint: "ENDPOINT", client_id: rs, client_secret_file: secret, ttl: 0s, inactive_ttl: 0s }
pools:
  up: { backends: [{ address: "BACKEND" }] }
routes:
  - name: orders
    match: { path: /orders }
    filters:
      - oidc: { issuer: main, scopes: ["api:read"] }
      - identity_headers: { headers: { x-user: sub, x-scope: scope } }
    pool: up
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn djangos_opaque_tokens_are_asked_about_and_refused_from_the_moment_they_are_revoked() {
    let Some(provider) = OtherProvider::django().await else { return };
    let upstream = Upstream::start().await.unwrap();
    let gateway = edge(OPAQUE)
        .with("ISSUER", provider.issuer())
        .with("ENDPOINT", provider.introspection_endpoint())
        .with("BACKEND", upstream.address())
        .file("secret", "rs-secret\n")
        .start()
        .await;
    let send = async |token: &str| {
        let mut client = Client::connect(gateway.address()).await.unwrap();
        let bearer = format!("Bearer {token}");
        let response = client.get("api.example.test", "/orders", &[("authorization", &bearer)]).await.unwrap();
        let line = line_in(&gateway.path().join("access.jsonl"), &response).await;
        assert!(!line.to_string().contains(token), "a token in the log");
        (response.status, line["reason"].as_str().unwrap_or_default().to_owned())
    };
    let token = provider.token("api:read", AUDIENCE).await.unwrap();
    assert_eq!(send(&token).await, (200, String::new()));
    let seen = upstream.last().unwrap();
    assert_eq!(["x-user", "x-scope"].map(|name| seen.header_all(name).join(",")), ["m2m", "api:read"]);

    let elsewhere = provider.token("api:read", "https://other.example.test").await.unwrap();
    assert_eq!(send(&elsewhere).await, (401, "token.audience.mismatch".to_owned()));
    let weak = provider.token("introspection", AUDIENCE).await.unwrap();
    assert_eq!(send(&weak).await, (403, "token.scope.missing".to_owned()));
    assert_eq!(send("neverissued0123456789abcdef").await, (401, "token.inactive".to_owned()));

    provider.revoke(&token).await.unwrap();
    assert_eq!(send(&token).await, (401, "token.inactive".to_owned()));
    drop(provider);
    // An outage is no verdict on anybody's token.
    assert_eq!(send(&weak).await, (503, "issuer.unavailable".to_owned()));
}
