//! Signed assertions of a real gateway: which keys are published where, and that one is reused only for whom it was made.

use crate::support::{Edge, edge};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis_testkit::{Client, Upstream};
use serde_json::Value;

const CONFIG: &str = r#"
listeners: [{ name: http, address: 127.0.0.1:0 }]
admin: { address: 127.0.0.1:0 }
access_log: { path: access.jsonl }
assertion:
  issuer: https://edge.example.com
  keys: KEYS
  reuse: 30s
pools:
  up: { backends: [{ address: "UPSTREAM" }] }
routes:
  - { name: keys, match: { path_exact: /keys }, filters: [{ assertion_keys: {} }], respond: { status: 404 } }
  - name: orders
    match: { path: /orders }
    filters: [{ api_key: { header: x-api-key, file: keys.txt } }, { signed_identity: { audience: orders } }]
    pool: up
"#;

const ALICE: &str = "0123456789abcdef0123456789abcdea";
const BOB: &str = "0123456789abcdef0123456789abcdeb";

fn pem(seed: &str) -> &'static str {
    match seed {
        "a" => include_str!("../../../../plugins/standard/testdata/assertion-p256.pem"),
        _ => include_str!("../../../../plugins/standard/testdata/assertion-ed25519.pem"),
    }
}

async fn start(upstream: &Upstream, keys: &str) -> Edge {
    let owner = |name: &str, key: &str| format!("{name} sha256:{key} owner={name}\n");
    let owners = owner("alice", "60eb5e72ad489c76c22f5a2fd2e0055c15ccd209205e1b1b95d40d4fdda525bd")
        + &owner("bob", "15ec68b57f225aeeb8c170f15f4a49d74919d7fc6c30677b879e3cbc2584f392");
    let setup = edge(CONFIG).with("KEYS", keys).with("UPSTREAM", upstream.address());
    setup.file("a.pem", pem("a")).file("b.pem", pem("b")).file("keys.txt", owners).start().await
}

async fn json(client: Client, path: &str) -> Value {
    let mut client = client;
    client.get("a", path, &[]).await.unwrap().json().unwrap()
}

async fn assertion(edge: &Edge, upstream: &Upstream, key: &str) -> String {
    let response = edge.client().await.get("a", "/orders", &[("x-api-key", key)]).await.unwrap();
    assert_eq!(response.status, 200);
    upstream.last().unwrap().header("x-portcullis-assertion").unwrap()
}

fn part(assertion: &str, at: usize) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(assertion.split('.').nth(at).unwrap()).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_to_come_is_published_on_the_route_and_for_operators_and_does_not_sign() {
    let upstream = Upstream::start().await.unwrap();
    let edge =
        start(&upstream, "[{ file: b.pem, from: 2999-01-01T00:00:00Z }, { file: a.pem, until: 2999-01-01T00:00:00Z }]").await;
    let published = json(edge.client().await, "/keys").await;
    assert_eq!(published["keys"].as_array().unwrap().len(), 2);
    let admin = edge.handle.admin_address().unwrap();
    assert_eq!(json(Client::connect(admin).await.unwrap(), "/jwks").await, published);
    let header = part(&assertion(&edge, &upstream, ALICE).await, 0);
    assert_eq!((&header["alg"], &header["kid"]), (&"ES256".into(), &published["keys"][1]["kid"]));

    // One that ended long ago is not; a reload says so at once.
    let keys = "[{ file: b.pem, until: 2001-01-01T00:00:00Z }, a.pem]";
    edge.rewrite(&CONFIG.replace("KEYS", keys).replace("UPSTREAM", &upstream.address().to_string()));
    edge.handle.reload().await.unwrap();
    let published = json(Client::connect(admin).await.unwrap(), "/jwks").await;
    assert_eq!((published["keys"].as_array().unwrap().len(), &published["keys"][0]["kid"]), (1, &header["kid"]));

    // A time without a key is refused, with its place.
    let keys = "[{ file: a.pem, until: 2999-01-01T00:00:00Z }]";
    edge.rewrite(&CONFIG.replace("KEYS", keys).replace("UPSTREAM", &upstream.address().to_string()));
    let error = edge.handle.reload().await.unwrap_err().to_string();
    assert!(error.contains("no key signs from 2999-01-01T00:00:00Z on") && error.contains("edge.yaml:7"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_assertion_is_reused_for_the_same_key_alone() {
    let upstream = Upstream::start().await.unwrap();
    let edge = start(&upstream, "[a.pem]").await;
    let first = assertion(&edge, &upstream, ALICE).await;
    let bob = assertion(&edge, &upstream, BOB).await;
    assert_eq!((part(&first, 1)["sub"].as_str(), part(&bob, 1)["sub"].as_str()), (Some("alice/alice"), Some("bob/bob")));
    assert_eq!(assertion(&edge, &upstream, ALICE).await, first);
    assert_eq!(assertion(&edge, &upstream, BOB).await, bob);
    let posted = edge.client().await.post("a", "/orders", &[("x-api-key", ALICE)], b"x").await.unwrap();
    assert_eq!(posted.status, 200);
    let posted = upstream.last().unwrap().header("x-portcullis-assertion").unwrap();
    assert_eq!(part(&posted, 1)["method"], "POST");
    // A reload begins anew: what the new configuration says is what services get.
    edge.handle.reload().await.unwrap();
    assert_ne!(assertion(&edge, &upstream, ALICE).await, first);
}
