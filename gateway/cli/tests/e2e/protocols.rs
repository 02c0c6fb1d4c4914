//! HTTP/2 on either side, gRPC, and WebSockets.

use super::support::{Edge, NAME, Setup, edge};
use portcullis_testkit::client::head;
use portcullis_testkit::pki::client_config;
use portcullis_testkit::{Client, Http2Client, Http2Upstream, Pki, Upstream};

const CONFIG: &str = r#"
listeners:
  - { name: http, address: 127.0.0.1:0 }
  - { name: h2c, address: 127.0.0.1:0, h2c: true }
  - name: https
    address: 127.0.0.1:0
    tls: { certificates: [{ cert: edge.pem, key: edge.key }] }
access_log: { path: access.jsonl }
pools: { web: { backends: [{ address: "UPSTREAM" }], POOL } }
routes:
  - { name: all, pool: web }
  - name: denied
    match: { path: /denied }
    filters: [{ ip_allow: { deny: [127.0.0.0/8] } }]
    pool: web
"#;

fn setup(upstream: impl ToString, pool: &str) -> Setup {
    edge(CONFIG).with("UPSTREAM", upstream).with("POOL", pool).tls()
}

async fn start() -> (Upstream, Edge) {
    let upstream = Upstream::start().await.unwrap();
    let edge = setup(upstream.address(), "retries: 1").start().await;
    (upstream, edge)
}

#[tokio::test]
async fn http2_over_tls_is_agreed_on_and_served() {
    let (upstream, edge) = start().await;
    let mut client = edge.h2().await;
    let response = client
        .request("POST", "api.test", "/a?b=c", &[("x-a", "1"), ("cookie", "a=1"), ("cookie", "b=2")], "hello")
        .await
        .unwrap();
    assert_eq!((response.status, response.version.as_str()), (200, "HTTP/2"));
    let seen = upstream.last().unwrap();
    assert_eq!((seen.target.as_str(), seen.version.as_str(), seen.body.as_slice()), ("/a?b=c", "HTTP/1.1", &b"hello"[..]));
    assert_eq!(seen.header_all("host"), ["api.test"]);
    assert_eq!(seen.header_all("cookie"), ["a=1; b=2"]);
    let line = edge.line(&response).await;
    assert_eq!((&line["protocol"], &line["host"], &line["tls"]["sni"]), (&"HTTP/2".into(), &"api.test".into(), &NAME.into()));
}

#[tokio::test]
async fn many_streams_of_one_connection_are_served_at_once() {
    let (upstream, edge) = start().await;
    let client = edge.h2().await;
    let mut streams = tokio::task::JoinSet::new();
    for at in 0..100 {
        let mut client = client.clone();
        streams.spawn(async move { client.get("a", &format!("/{at}"), &[]).await.unwrap().status });
    }
    assert!(streams.join_all().await.iter().all(|status| *status == 200));
    assert_eq!(upstream.count(), 100);
}

#[tokio::test]
async fn a_client_that_offers_no_http2_gets_http1() {
    let (_upstream, edge) = start().await;
    for offer in [&["http/1.1"][..], &[]] {
        let config = client_config(&[edge.authority()], None, offer).unwrap();
        let mut client = Client::connect_tls(edge.listener("https"), NAME, config).await.unwrap();
        assert_eq!(client.alpn().as_deref(), offer.first().copied());
        assert_eq!(client.get("a", "/", &[]).await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn an_h2c_listener_takes_prior_knowledge_and_http1() {
    let (_upstream, edge) = start().await;
    let mut http2 = Http2Client::connect(edge.listener("h2c")).await.unwrap();
    assert_eq!(http2.get("a", "/", &[]).await.unwrap().status, 200);
    let mut http1 = Client::connect(edge.listener("h2c")).await.unwrap();
    assert_eq!(http1.get("a", "/", &[]).await.unwrap().status, 200);
    // Where it is not asked for, it is not there.
    let mut refused = Client::connect(edge.address()).await.unwrap();
    assert_eq!(refused.request("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap().status, 400);
}

#[tokio::test]
async fn refusals_over_http2_have_their_status_id_and_log_line() {
    let (upstream, edge) = start().await;
    let mut client = edge.h2().await;
    for (target, status, reason) in [("/denied", 403, "ip.denied"), ("/../x", 400, "request.ambiguous")] {
        let response = client.get("a", target, &[]).await.unwrap();
        assert_eq!(response.status, status);
        let line = edge.line(&response).await;
        assert_eq!((&line["reason"], &line["status"]), (&reason.into(), &status.into()));
    }
    assert_eq!(upstream.count(), 0);
    assert_eq!(client.get("a", "/", &[]).await.unwrap().status, 200, "the connection goes on");
}

#[tokio::test]
async fn an_upstream_by_prior_knowledge_gets_http2() {
    let upstream = Http2Upstream::start().await.unwrap();
    let edge = setup(upstream.address(), "protocol: h2").start().await;
    assert_eq!(edge.client().await.post("api.test", "/a?b", &[], b"hello").await.unwrap().status, 200);
    assert_eq!(edge.h2().await.request("POST", "api.test", "/a?b", &[], "hello").await.unwrap().status, 200);
    for seen in upstream.wait_for(2).await.unwrap() {
        assert_eq!((seen.method.as_str(), seen.path.as_str(), seen.body.as_slice()), ("POST", "/a?b", &b"hello"[..]));
        assert_eq!(seen.authority.as_deref(), Some("api.test"));
        assert!(seen.header("host").is_none() && seen.header("connection").is_none());
    }
}

/// Pingora takes `te` out of what came over HTTP/1; gRPC servers do not answer without.
#[tokio::test]
async fn grpc_passes_with_its_trailers() {
    let pki = Pki::new().unwrap();
    let config = pki.server(&["backend.test"]).unwrap().server_config(None, &["h2"]).unwrap();
    let plain = Http2Upstream::start().await.unwrap();
    let tls = Http2Upstream::start_tls(config).await.unwrap();
    let pool = "protocol: h2, tls: { ca: ca.pem, server_name: backend.test }";
    for (upstream, pool) in [(plain, "protocol: h2"), (tls, pool)] {
        let edge = setup(upstream.address(), pool).file("ca.pem", pki.ca_pem()).start().await;
        for mut client in [edge.h2().await, Http2Client::connect(edge.listener("h2c")).await.unwrap()] {
            let response = client.grpc("api.test", "/echo.Echo/Say", &[("x-grpc-status", "5")], b"hello").await.unwrap();
            assert_eq!(response.status, 200);
            assert_eq!(response.trailer("grpc-status").as_deref(), Some("5"));
            assert_eq!(response.trailer("grpc-message").as_deref(), Some("echo"));
            assert!(response.body.ends_with(b"hello"));
            assert_eq!(upstream.requests().last().unwrap().header_all("te"), ["trailers"]);
        }
    }
}

#[tokio::test]
async fn te_stops_where_trailers_do() {
    let (upstream, edge) = start().await;
    assert_eq!(edge.h2().await.get("a", "/", &[("te", "trailers")]).await.unwrap().status, 200);
    assert!(upstream.last().unwrap().header("te").is_none());
}

#[tokio::test]
async fn tls_to_an_upstream_speaks_what_both_can() {
    let pki = Pki::new().unwrap();
    let identity = pki.server(&["backend.test"]).unwrap();
    let http2 = Http2Upstream::start_tls(identity.server_config(None, &["h2"]).unwrap()).await.unwrap();
    let http1 = Upstream::builder().tls(identity.server_config(None, &["http/1.1"]).unwrap()).start().await.unwrap();
    let pool = "tls: { ca: ca.pem, server_name: backend.test }";
    for (address, version) in [(http2.address(), "HTTP/2"), (http1.address(), "HTTP/1.1")] {
        let edge = setup(address, pool).file("ca.pem", pki.ca_pem()).start().await;
        let response = edge.client().await.get("a", "/", &[]).await.unwrap();
        assert_eq!(response.json().unwrap()["version"], version);
    }
}

/// Pingora falls back to HTTP/1.1 without a word.
#[tokio::test]
async fn a_pool_of_http2_refuses_a_backend_that_agrees_on_less() {
    let pki = Pki::new().unwrap();
    let identity = pki.server(&["backend.test"]).unwrap();
    for offer in [&["http/1.1"][..], &[]] {
        let upstream = Upstream::builder().tls(identity.server_config(None, offer).unwrap()).start().await.unwrap();
        let pool = "protocol: h2, tls: { ca: ca.pem, server_name: backend.test }";
        let edge = setup(upstream.address(), pool).file("ca.pem", pki.ca_pem()).start().await;
        for _ in 0..2 {
            let response = edge.client().await.get("a", "/", &[]).await.unwrap();
            assert_eq!(response.status, 502);
            assert_eq!(edge.line(&response).await["reason"], "upstream.connect");
        }
        assert_eq!(upstream.count(), 0);
        assert_eq!(edge.metric("portcullis_backend_requests_total", &[("outcome", "connect_failed")]), 2.0);
    }
}

/// Pingora's issue 946: with a fast upstream, now and then a 101 and then the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websockets_pass_hundreds_of_times() {
    let (upstream, edge) = start().await;
    let address = edge.address();
    let mut rounds = tokio::task::JoinSet::new();
    for worker in 0..8 {
        rounds.spawn(async move {
            for at in 0..40 {
                let mut client = Client::connect(address).await.unwrap();
                let response = client.websocket("a", "/ws", &[]).await.unwrap();
                assert_eq!(response.status, 101);
                for text in [format!("{worker}/{at}"), "x".repeat(7_000)] {
                    let echoed = client.echo(&text).await.unwrap_or_else(|error| panic!("round {at}: {error}"));
                    assert!(echoed == text);
                }
            }
        });
    }
    rounds.join_all().await;
    assert_eq!(upstream.count(), 320);
}

#[tokio::test]
async fn a_websocket_passes_over_tls_and_is_logged_when_it_ends() {
    let (upstream, edge) = start().await;
    let mut client = edge.tls().await;
    let response = client.websocket("a", "/ws", &[("sec-websocket-protocol", "chat")]).await.unwrap();
    assert_eq!((response.status, response.header("upgrade").unwrap().as_str()), (101, "websocket"));
    assert_eq!(client.echo("hello").await.unwrap(), "hello");
    let seen = upstream.last().unwrap();
    assert_eq!(seen.header("sec-websocket-protocol").unwrap(), "chat");
    assert_eq!(seen.header("connection").unwrap().to_ascii_lowercase(), "upgrade");
    drop(client);
    let line = edge.line(&response).await;
    assert_eq!((&line["status"], &line["verdict"]), (&101.into(), &"allow".into()));
}

/// The first frame may come right behind the handshake.
#[tokio::test]
async fn a_frame_sent_with_the_handshake_is_not_lost() {
    let (_upstream, edge) = start().await;
    for _ in 0..20 {
        let mut client = edge.client().await;
        let fields = [
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let mut bytes = head("GET", "a", "/ws", &fields).into_bytes();
        bytes.extend(portcullis_testkit::websocket::masked(1, b"early"));
        client.send(bytes).await.unwrap();
        assert_eq!(client.response().await.unwrap().status, 101);
        assert_eq!(client.bytes(7).await.unwrap(), b"\x81\x05early");
    }
}

#[tokio::test]
async fn an_upgrade_skips_no_filter() {
    let (upstream, edge) = start().await;
    let response = edge.client().await.websocket("a", "/denied/ws", &[]).await.unwrap();
    assert_eq!(response.status, 403);
    assert_eq!(edge.line(&response).await["reason"], "ip.denied");
    // Not even for an upgrade that the upstream would never be asked for.
    let fields = [("connection", "upgrade"), ("upgrade", "h2c")];
    assert_eq!(edge.client().await.get("a", "/denied", &fields).await.unwrap().status, 403);
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn an_upgrade_that_the_upstream_refuses_is_an_ordinary_response() {
    let (upstream, edge) = start().await;
    upstream.behave(portcullis_testkit::Answer::new(403).body("no"));
    let mut client = edge.client().await;
    let response = client.websocket("a", "/ws", &[]).await.unwrap();
    assert_eq!((response.status, response.text().as_str()), (403, "no"));
}
