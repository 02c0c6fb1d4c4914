//! API keys, and what their owners may do.

use crate::support::edge;
use portcullis_plugins::api_key::hash;
use portcullis_testkit::{Upstream, until};

const KEY: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f00123456789abcdeffedcba9876543210";

const CONFIG: &str = r#"
listeners: [{ name: http, address: "127.0.0.1:0" }]
access_log: { path: access.jsonl }
pools: { up: { backends: [{ address: "UPSTREAM" }] } }
routes:
  - name: keyed
    filters:
      - api_key: { header: x-api-key, file: keys.txt }
      - authorize: { expression: '"writer" in principal.roles || request.method == "GET"' }
      - identity_headers: { headers: { x-user: sub } }
    pool: up
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_an_identity_until_it_is_revoked() {
    let upstream = Upstream::start().await.unwrap();
    let keys = format!("ci sha256:{} owner=acme roles=reader\n", hash(KEY).unwrap().trim_start_matches("sha256:"));
    let edge = edge(CONFIG).with("UPSTREAM", upstream.address()).file("keys.txt", keys).start().await;
    let mut client = edge.client().await;
    let with_key = [("x-api-key", KEY)];

    assert_eq!(client.get("a.test", "/", &with_key).await.unwrap().status, 200);
    let seen = upstream.last().unwrap();
    assert_eq!(seen.header_all("x-user"), ["acme/ci"]);
    assert!(seen.header("x-api-key").is_none(), "the key went on to the upstream");

    let denied = client.post("a.test", "/", &with_key, b"order").await.unwrap();
    assert_eq!(denied.status, 403, "{}", denied.text());
    assert_eq!(client.get("a.test", "/", &[]).await.unwrap().status, 401);
    let stranger = KEY.replace('0', "1");
    assert_eq!(client.get("a.test", "/", &[("x-api-key", &stranger)]).await.unwrap().status, 401);

    std::fs::write(edge.path().join("keys.txt"), "# all revoked\n").unwrap();
    edge.handle.reload().await.unwrap();
    assert_eq!(client.get("a.test", "/", &with_key).await.unwrap().status, 401, "a revoked key");
    assert_eq!(upstream.count(), 1);

    for (reason, count) in [("authorize.denied", 1.0), ("api_key.missing", 1.0), ("api_key.unknown", 2.0)] {
        assert_eq!(edge.metric("portcullis_verdicts_total", &[("reason", reason)]), count, "{reason}");
    }
    until("a line for each request", || edge.log().len() == 5).await.unwrap();
    let log = std::fs::read_to_string(edge.path().join("access.jsonl")).unwrap();
    assert!(!log.contains(KEY) && !edge.handle.metrics().contains(KEY));
}
