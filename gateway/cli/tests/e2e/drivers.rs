//! Two drivers, one behaviour: the same bytes through both come to the same request at the upstream and the same answer.

use super::support::{Edge, edge};
use portcullis_testkit::client::head;
use portcullis_testkit::upstream::Recorded;
use portcullis_testkit::{Answer, Behaviour, Client, Response, Upstream, until, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const CONFIG: &str = r#"
listeners:
  - { name: http, address: 127.0.0.1:0, limits: { body: 100KiB } }
  - { name: pingora, address: 127.0.0.1:0, driver: pingora, limits: { body: 100KiB } }
  - name: https
    address: 127.0.0.1:0
    tls: { certificates: [{ cert: edge.pem, key: edge.key }] }
access_log: { path: access.jsonl }
pools: { web: { backends: [{ address: UPSTREAM }] } }
routes:
  - { name: own, match: { path: /own }, respond: { status: 200, body: own } }
  - { name: all, pool: web }
"#;

async fn start() -> (Upstream, Edge) {
    let upstream = Upstream::start().await.unwrap();
    let edge = edge(CONFIG).with("UPSTREAM", upstream.address()).tls().start().await;
    (upstream, edge)
}

/// What the drivers may differ in: the gateway's own ids, the date, and what is said of the connection.
fn lines<'a>(fields: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Vec<String> {
    const OF_ONE_REQUEST: [&str; 5] = ["x-decision-id", "x-request-id", "date", "connection", "keep-alive"];
    let mut lines: Vec<_> = fields
        .into_iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.escape_ascii().to_string()))
        .filter(|(name, _)| !OF_ONE_REQUEST.contains(&name.as_str()))
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    lines.sort();
    lines
}

fn seen(request: &Recorded) -> String {
    let fields = request.headers.iter().map(|(name, value)| (name.as_ref(), value.as_ref()));
    format!("{} {} {:?} {} bytes {:?}", request.method, request.target, lines(fields), request.body_len, request.body)
}

fn told(response: &Response) -> String {
    let fields = response.headers.iter().map(|(name, value)| (name.as_ref(), value.as_ref()));
    // A refusal's body has the decision id.
    let body = if response.status < 400 { response.body.escape_ascii().to_string() } else { String::new() };
    format!("{} {} {:?} {:?} {body} {}", response.version, response.status, response.interim, lines(fields), response.broken)
}

/// One request over one listener: what the client was told, what the upstream saw, and whether the connection stays.
async fn outcome(upstream: &Upstream, edge: &Edge, listener: &str, raw: &[u8]) -> (String, Vec<String>, bool) {
    upstream.forget();
    let mut client = Client::connect(edge.listener(listener)).await.unwrap();
    client.send(raw).await.unwrap();
    let method = String::from_utf8_lossy(raw.split(|b| *b == b' ').next().unwrap()).into_owned();
    let response = client.response_to(&method).await.unwrap_or_default();
    let again = client.get("again", "/own", &[]).await.is_ok_and(|response| response.text() == "own");
    // One that was broken off may be recorded at any time.
    let requests = upstream.requests();
    (told(&response), requests.iter().filter(|request| request.complete).map(seen).collect(), again)
}

async fn same(upstream: &Upstream, edge: &Edge, name: &str, raw: &[u8]) -> Result<(), String> {
    let direct = outcome(upstream, edge, "http", raw).await;
    let pingora = outcome(upstream, edge, "pingora", raw).await;
    if direct == pingora { Ok(()) } else { Err(format!("{name}:\n  direct  {direct:?}\n  pingora {pingora:?}")) }
}

#[tokio::test]
async fn the_same_requests_come_to_the_same_through_both_drivers() {
    let (upstream, edge) = start().await;
    // An account of the request would tell of its id.
    upstream.behave(Answer::new(200).header("x-backend", "1").body("hello"));
    let body = "x".repeat(70_000);
    let mut cases: Vec<(String, Vec<u8>)> = [
        head("GET", "a", "/", &[]),
        head("HEAD", "a", "/", &[]),
        head("OPTIONS", "a", "*", &[]),
        head("GET", "a", "/own", &[]),
        head("HEAD", "a", "/own", &[]),
        head("GET", "a", "/a/../b?c=d", &[("cookie", "a=1"), ("cookie", "b=2"), ("te", "trailers"), ("x-A", "b")]),
        head("GET", "a", "/", &[("connection", "x-secret"), ("x-secret", "1"), ("upgrade", "h2c")]),
        head("POST", "a", "/", &[("content-length", "5")]) + "hello",
        head("POST", "a", "/", &[("content-length", "0")]),
        head("PUT", "a", "/", &[("content-length", "70000")]) + &body,
        head("POST", "a", "/", &[("content-length", "200000")]),
        head("POST", "a", "/", &[("transfer-encoding", "chunked")]) + "5;a=b\r\nhello\r\n1\r\n!\r\n0\r\nX-T: 1\r\n\r\n",
        head("POST", "a", "/", &[("transfer-encoding", "chunked")]) + "5\nhello",
        head("POST", "a", "/own", &[("transfer-encoding", "chunked")]) + "5\r\nhello\r\n0\r\n\r\n",
        head("POST", "a", "/", &[("content-length", "5"), ("expect", "100-continue")]) + "hello",
        head("POST", "a", "/own", &[("content-length", "5"), ("expect", "100-continue")]),
        head("GET", "a", "/", &[("connection", "close")]),
        "GET / HTTP/1.0\r\n\r\n".to_owned(),
        "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n".to_owned(),
    ]
    .into_iter()
    .map(|raw| (raw.lines().next().unwrap().to_owned() + " …", raw.into_bytes()))
    .collect();
    // A WebSocket is Pingora's either way, and a head that never ends has no answer to compare.
    let hostile = super::corpus::load().into_iter().filter(|case| !case.name.contains("websocket"));
    cases.extend(hostile.filter(|case| case.outcome != super::corpus::Outcome::Partial).map(|case| (case.name, case.raw)));
    let mut wrong = Vec::new();
    for (name, raw) in &cases {
        wrong.extend(same(&upstream, &edge, name, raw).await.err());
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(edge.metric("portcullis_driver_requests_total", &[("listener", "http"), ("driver", "direct")]) > 30.0);
    assert_eq!(edge.metric("portcullis_driver_requests_total", &[("listener", "pingora"), ("driver", "direct")]), 0.0);
}

#[tokio::test]
async fn the_same_responses_come_to_the_same_through_both_drivers() {
    let (upstream, edge) = start().await;
    let mut wrong = Vec::new();
    for raw in [
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nDate: then\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;x\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\nhello",
        "HTTP/1.0 200 OK\r\n\r\nhello",
        "HTTP/1.0 200\r\nconnection: keep-alive\r\ncontent-length: 5\r\n\r\nhello",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\ncontent-length: 10\r\netag: x\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nlink: a\r\nx-decision-id: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 500 Oops\r\ncontent-length: 2\r\nconnection: x-hop, close\r\nx-hop: 1\r\n\r\nno",
        // Cut off: the client must not take it for the whole.
        "HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel",
        "HTTP/1.1 200 OK\r\ncontent-le",
        // Not to be read at all.
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 5\r\n\r\nhello",
        "HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n",
        "220 mail.test ESMTP\r\n",
    ] {
        upstream.behave(Behaviour::raw(raw));
        for request in ["GET / HTTP/1.1\r\nHost: a\r\n\r\n", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"] {
            wrong.extend(same(&upstream, &edge, raw, request.as_bytes()).await.err());
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// Whoever keeps the connection for the next client gives it the second answer.
#[tokio::test]
async fn a_connection_with_more_than_the_answer_is_not_used_again() {
    let (upstream, edge) = start().await;
    let two = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngoodHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
    upstream.behave(Behaviour::Raw { bytes: two.into(), close: false });
    for at in 1..=5 {
        let response = edge.client().await.get("a", "/", &[]).await.unwrap();
        assert_eq!((response.text().as_str(), upstream.connections()), ("good", at));
    }
}

#[tokio::test]
async fn connections_to_backends_are_used_again_and_closed_ones_are_not() {
    let (upstream, edge) = start().await;
    for mut client in [edge.client().await, edge.tls().await] {
        for _ in 0..10 {
            assert_eq!(client.get("a", "/", &[]).await.unwrap().status, 200);
        }
    }
    assert_eq!(upstream.connections(), 1);
    upstream.go_down().await;
    upstream.come_back().unwrap();
    // The kept connection is gone, which is nobody's failure.
    assert_eq!(edge.client().await.get("a", "/", &[]).await.unwrap().status, 200);
    assert_eq!(edge.metric("portcullis_backend_requests_total", &[("outcome", "success")]), 21.0);
}

/// The rest of a body that was refused is not the next request.
#[tokio::test]
async fn a_refused_body_does_not_become_a_request() {
    let (upstream, edge) = start().await;
    let hidden = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";
    for listener in ["http", "pingora"] {
        let mut client = Client::connect(edge.listener(listener)).await.unwrap();
        let body = format!("{hidden}{}", " ".repeat(200_000 - hidden.len()));
        client.send(head("POST", "a", "/", &[("content-length", "200000")]) + &body).await.unwrap();
        assert_eq!(client.response().await.unwrap().status, 413);
        assert!(client.is_closed().await.unwrap());
        let mut client = Client::connect(edge.listener(listener)).await.unwrap();
        let length = hidden.len().to_string();
        client
            .send(head("POST", "a", "/own", &[("content-length", &length)]) + hidden + &head("GET", "a", "/own", &[]))
            .await
            .unwrap();
        for _ in 0..2 {
            assert_eq!(client.response().await.unwrap().text(), "own");
        }
    }
    assert_eq!(upstream.count(), 0);
}

/// A backend that answers the head, and reads nothing of the body.
#[tokio::test]
async fn an_answer_before_the_body_is_the_answer_and_the_last() {
    let backend = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let edge = edge(CONFIG).with("UPSTREAM", backend.local_addr().unwrap()).tls().start().await;
    for listener in ["http", "pingora"] {
        let mut client = Client::connect(edge.listener(listener)).await.unwrap();
        client.send(head("POST", "a", "/", &[("content-length", "90000")]) + "only this").await.unwrap();
        let (mut stream, _) = within("the request", backend.accept()).await.unwrap().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
        let response = client.response().await.unwrap();
        assert_eq!((response.status, response.text().as_str(), response.broken), (403, "no", false), "{listener}");
        assert_eq!(response.header("connection").as_deref(), Some("close"), "{listener}");
        if listener == "http" {
            assert!(client.is_closed().await.unwrap());
        }
    }
}

/// Nobody asked for another protocol, and whoever talks it to the client decides what the next answer is.
#[tokio::test]
async fn a_switch_of_protocols_nobody_asked_for_is_502() {
    let (upstream, edge) = start().await;
    upstream.behave(Behaviour::raw("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nhello"));
    let response = edge.client().await.get("a", "/", &[]).await.unwrap();
    assert_eq!((response.status, edge.line(&response).await["reason"].as_str()), (502, Some("upstream.invalid")));
}

#[tokio::test]
async fn a_client_that_leaves_cancels_the_request_to_the_backend() {
    let (upstream, edge) = start().await;
    upstream.behave(Answer::new(200).filler(256 << 20));
    let mut client = edge.client().await;
    client.send(head("GET", "a", "/", &[])).await.unwrap();
    until("the backend to be asked", || upstream.in_flight() == 1).await.unwrap();
    drop(client);
    until("the end of the upstream's sending", || upstream.in_flight() == 0).await.unwrap();
    let line = edge.logged("the broken download", |line| line["verdict"] == "error").await;
    assert_eq!(line["reason"], "client.gone");
}

#[tokio::test]
async fn a_driver_that_does_not_exist_is_refused() {
    let config = CONFIG.replace("driver: pingora", "driver: direct").replace("UPSTREAM", "127.0.0.1:1");
    let error = portcullis::Gateway::builder().config_text(config).start().await.err().unwrap().to_string();
    assert!(error.contains("direct") && error.contains("auto") && error.contains("pingora"), "{error}");
}
