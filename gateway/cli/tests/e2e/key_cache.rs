//! A gateway that starts while its issuer is down.

use crate::stage::line_in;
use crate::support::{Edge, edge};
use portcullis_testkit::{Client, RealProvider, Upstream};

const CONFIG: &str = r#"
listeners: [{ name: http, address: 127.0.0.1:0 }]
access_log: { path: access.jsonl }
issuers:
  main: { issuer: "ISSUER", audiences: ["https://api.example.test/es256"], CACHE }
pools:
  up: { backends: [{ address: "BACKEND" }] }
routes:
  - name: orders
    filters: [{ oidc: { issuer: main } }]
    pool: up
"#;

async fn send(gateway: &Edge, token: &str) -> (u16, String) {
    let mut client = Client::connect(gateway.address()).await.unwrap();
    let response = client.get("api.example.test", "/", &[("authorization", &format!("Bearer {token}"))]).await.unwrap();
    let line = line_in(&gateway.path().join("access.jsonl"), &response).await;
    (response.status, line["reason"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_while_the_provider_is_down_goes_on_with_the_keys_of_before() {
    let Some(provider) = RealProvider::start().await else { return };
    let upstream = Upstream::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    let start = async |cache: String| {
        edge(CONFIG).with("ISSUER", provider.issuer()).with("BACKEND", upstream.address()).with("CACHE", cache).start().await
    };
    let cache = |max_stale: &str| format!("key_cache: {}, max_stale: {max_stale}, refresh: 1s", keys.display());
    let token = provider.token("es256", "api:read").await.unwrap();
    let first = start(cache("24h")).await;
    assert_eq!(send(&first, &token).await, (200, String::new()));
    let written = || std::fs::read_dir(&keys).is_ok_and(|files| files.flatten().any(|file| file.path().extension().is_some()));
    portcullis_testkit::until("the key cache", written).await.unwrap();
    first.handle.stop().await;
    provider.fail("/", 503, 1_000_000).await.unwrap();

    let second = start(cache("24h")).await;
    assert_eq!(send(&second, &token).await, (200, String::new()));
    second.handle.stop().await;
    let without = start("refresh: 5m".to_owned()).await;
    assert_eq!(send(&without, &token).await, (503, "issuer.unavailable".to_owned()), "the provider is down indeed");
}
