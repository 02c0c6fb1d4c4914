//! Clients that are slow, or say nothing: each has its deadline, and costs nobody else anything.

use super::support::{Edge, edge};
use portcullis_testkit::client::head;
use portcullis_testkit::pki::client_config;
use portcullis_testkit::{Answer, Client, Upstream};
use std::time::Duration;

const CONFIG: &str = r#"
listeners:
  - { name: http, address: 127.0.0.1:0, LIMITS }
  - name: https
    address: 127.0.0.1:0
    tls: { certificates: [{ cert: edge.pem, key: edge.key }] }
    LIMITS
  - { name: h2c, address: 127.0.0.1:0, h2c: true, LIMITS }
access_log: { path: access.jsonl }
pools: { web: { backends: [{ address: UPSTREAM }] } }
routes: [{ name: all, pool: web }]
"#;

/// The limit under test is short; all others are too long to end a test.
async fn start(limit: &str) -> (Upstream, Edge) {
    let upstream = Upstream::start().await.unwrap();
    let mut limits =
        vec!["header_timeout: 60s", "idle_timeout: 60s", "body_timeout: 60s", "write_timeout: 60s", "handshake_timeout: 60s"];
    limits.retain(|line| !limit.contains(line.split(':').next().unwrap()));
    let limits = format!("limits: {{ {limit}, {} }}", limits.join(", "));
    let edge = edge(CONFIG).with("LIMITS", limits).with("UPSTREAM", upstream.address()).tls().start().await;
    (upstream, edge)
}

const SLOW_HEAD: &str = "header_timeout: 300ms";

/// Sends a head without end, byte by byte, and gives the response that ends it.
async fn trickle(edge: &Edge, mut client: Client, upstream: &Upstream) {
    let before = upstream.count();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX: ").await.unwrap();
    // Until the gateway is done with it: each byte alone is well within the time of a read.
    let _ = client.send_slowly("y".repeat(150), 1, Duration::from_millis(10)).await;
    let response = client.response().await.unwrap();
    assert_eq!(response.status, 408);
    assert!(client.is_closed().await.unwrap());
    let line = edge.line(&response).await;
    assert_eq!((&line["reason"], &line["status"]), (&"request.timeout".into(), &408.into()));
    assert_eq!(upstream.count(), before);
}

#[tokio::test]
async fn a_trickled_first_head_ends_with_408() {
    let (upstream, edge) = start(SLOW_HEAD).await;
    trickle(&edge, edge.client().await, &upstream).await;
    trickle(&edge, edge.tls().await, &upstream).await;
}

#[tokio::test]
async fn a_trickled_later_head_ends_with_408() {
    let (upstream, edge) = start(SLOW_HEAD).await;
    for mut client in [edge.client().await, edge.tls().await] {
        for _ in 0..3 {
            assert_eq!(client.post("a", "/", &[], b"hello").await.unwrap().status, 200);
        }
        trickle(&edge, client, &upstream).await;
    }
    assert_eq!(edge.metric("portcullis_requests_refused_total", &[("reason", "request.timeout")]), 2.0);
}

#[tokio::test]
async fn a_head_that_stops_ends_with_408() {
    let (_upstream, edge) = start(SLOW_HEAD).await;
    for mut client in [edge.client().await, edge.tls().await] {
        client.send("GET / HT").await.unwrap();
        assert_eq!(client.response().await.unwrap().status, 408);
        assert!(client.is_closed().await.unwrap());
    }
}

/// The deadline is of one head, not of what comes before or after it.
#[tokio::test]
async fn many_heads_within_their_time_each_are_served() {
    let (_upstream, edge) = start(SLOW_HEAD).await;
    let mut client = edge.client().await;
    for _ in 0..5 {
        client.send_slowly(head("GET", "a", "/", &[]), 8, Duration::from_millis(20)).await.unwrap();
        assert_eq!(client.response().await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_without_a_word() {
    let (_upstream, edge) = start("idle_timeout: 200ms, header_timeout: 100ms").await;
    for tls in [false, true] {
        let mut client = if tls { edge.tls().await } else { edge.client().await };
        assert_eq!(client.get("a", "/", &[]).await.unwrap().status, 200);
        assert!(client.is_closed().await.unwrap());
    }
    for mut client in [edge.client().await, edge.tls().await] {
        assert!(client.is_closed().await.unwrap(), "one that never asked");
    }
}

#[tokio::test]
async fn a_body_that_stops_ends_with_408_and_blames_no_backend() {
    let (upstream, edge) = start("body_timeout: 200ms").await;
    for (mut client, framing, part) in [
        (edge.client().await, ("content-length", "10"), "hello"),
        (edge.tls().await, ("content-length", "10"), "hello"),
        (edge.client().await, ("transfer-encoding", "chunked"), "5\r\nhel"),
    ] {
        client.send(head("POST", "a", "/", &[framing])).await.unwrap();
        client.send(part).await.unwrap();
        let response = client.response().await.unwrap();
        assert_eq!(response.status, 408);
        assert!(client.is_closed().await.unwrap());
        let line = edge.line(&response).await;
        assert_eq!((&line["reason"], &line["verdict"]), (&"request.timeout".into(), &"deny".into()));
    }
    assert!(upstream.requests().iter().all(|seen| !seen.complete));
    edge.metric_reaches("portcullis_backend_requests_total", &[("outcome", "cancelled")], 3.0).await;
    assert_eq!(edge.metric("portcullis_backend_requests_total", &[]), 3.0);
}

#[tokio::test]
async fn a_slow_body_that_keeps_coming_is_served() {
    let (upstream, edge) = start("body_timeout: 1s").await;
    let mut client = edge.client().await;
    client.send(head("POST", "a", "/", &[("content-length", "30")])).await.unwrap();
    client.send_slowly("x".repeat(30), 1, Duration::from_millis(50)).await.unwrap();
    assert_eq!(client.response().await.unwrap().status, 200);
    assert_eq!(upstream.last().unwrap().body_len, 30);
}

#[tokio::test]
async fn a_client_that_does_not_read_its_response_is_dropped() {
    let (upstream, edge) = start("write_timeout: 300ms").await;
    upstream.behave(Answer::new(200).filler(256 << 20));
    let mut client = edge.client().await;
    client.send(head("GET", "a", "/", &[])).await.unwrap();
    let line = edge.logged("the download nobody read", |line| line["verdict"] == "error").await;
    assert_eq!(line["reason"], "client.gone");
    portcullis_testkit::until("the end of the upstream's sending", || upstream.in_flight() == 0).await.unwrap();
    assert_eq!(edge.metric("portcullis_backend_requests_total", &[("outcome", "cancelled")]), 1.0);
}

#[tokio::test]
async fn an_http2_client_that_never_sends_its_preface_is_closed() {
    let (_upstream, edge) = start("header_timeout: 200ms, idle_timeout: 300ms").await;
    let authority = edge.authority();
    let config = client_config(&[authority], None, &["h2"]).unwrap();
    for sent in ["", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut client = Client::connect_tls(edge.listener("https"), super::support::NAME, config.clone()).await.unwrap();
        assert_eq!(client.alpn().as_deref(), Some("h2"));
        client.send(sent).await.unwrap();
        client.rest().await.unwrap();
    }
    for sent in ["", "PRI * HT", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut client = Client::connect(edge.listener("h2c")).await.unwrap();
        client.send(sent).await.unwrap();
        client.rest().await.unwrap();
    }
}

#[tokio::test]
async fn an_http2_connection_without_streams_is_closed_when_idle() {
    let (_upstream, edge) = start("idle_timeout: 300ms").await;
    let mut client = edge.h2().await;
    assert_eq!(client.get("a", "/", &[]).await.unwrap().status, 200);
    portcullis_testkit::until("the end of the connection", || {
        edge.metric("portcullis_connections", &[("listener", "https")]) == 0.0
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_tls_client_that_says_nothing_is_closed_and_counted() {
    let (_upstream, edge) = start("handshake_timeout: 200ms").await;
    for sent in ["", "\u{16}\u{3}"] {
        let mut client = Client::connect(edge.listener("https")).await.unwrap();
        client.send(sent).await.unwrap();
        client.rest().await.unwrap();
    }
    edge.metric_reaches("portcullis_handshake_failures_total", &[("listener", "https")], 2.0).await;
}
