//! Ordinary messages in all their shapes: pipelined, half-closed, large, without a body, with interim responses.

use super::support::{Edge, edge};
use portcullis_testkit::client::head;
use portcullis_testkit::{Answer, Behaviour, Client, Upstream, within};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const CONFIG: &str = r#"
listeners:
  - { name: http, address: 127.0.0.1:0 }
  - name: https
    address: 127.0.0.1:0
    tls: { certificates: [{ cert: edge.pem, key: edge.key }] }
  - name: small
    address: 127.0.0.1:0
    limits: { body: 1KiB, header_bytes: 1KiB, header_fields: 10 }
access_log: { path: access.jsonl }
pools: { web: { backends: [{ address: UPSTREAM }] } }
routes:
  - { name: all, match: { path: / }, pool: web }
  - { name: get, match: { path: /get, methods: [GET] }, pool: web }
  - { name: elsewhere, match: { host: only.test, path: /only }, respond: { status: 200, body: hi } }
"#;

/// The route without which there is nothing for most requests.
const ALL: &str = "  - { name: all, match: { path: / }, pool: web }\n";

async fn start() -> (Upstream, Edge) {
    start_with(CONFIG).await
}

async fn start_with(config: &str) -> (Upstream, Edge) {
    let upstream = Upstream::start().await.unwrap();
    let edge = edge(config).with("UPSTREAM", upstream.address()).tls().start().await;
    (upstream, edge)
}

#[tokio::test]
async fn pipelined_requests_are_answered_each_and_in_order() {
    let (upstream, edge) = start().await;
    for mut client in [edge.client().await, edge.tls().await] {
        upstream.forget();
        let mut requests = String::new();
        for at in 0..50 {
            requests.push_str(&match at % 3 {
                0 => format!("GET /{at} HTTP/1.1\r\nHost: a\r\n\r\n"),
                1 => format!("POST /{at} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"),
                _ => format!("POST /{at} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
            });
        }
        client.send(requests).await.unwrap();
        for at in 0..50 {
            let account = client.response().await.unwrap().json().unwrap();
            assert_eq!(account["target"], format!("/{at}"));
            assert_eq!(account["body"], if at % 3 == 0 { "" } else { "hello" });
        }
        assert_eq!(upstream.count(), 50);
    }
}

#[tokio::test]
async fn pipelined_requests_in_single_bytes_are_answered_in_order() {
    let (_upstream, edge) = start().await;
    let mut client = edge.client().await;
    let requests = "POST /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n";
    client.send_slowly(requests, 1, Duration::ZERO).await.unwrap();
    for target in ["/1", "/2"] {
        assert_eq!(client.response().await.unwrap().json().unwrap()["target"], target);
    }
}

/// RFC 9112, section 9.6: a client may close its sending side once its request is out.
#[tokio::test]
async fn a_half_closed_client_gets_its_whole_response() {
    let (upstream, edge) = start().await;
    upstream.behave(Answer::new(200).filler(3 << 20).after(Duration::from_millis(50)));
    for mut client in [edge.client().await, edge.tls().await] {
        client.send(head("GET", "a", "/", &[])).await.unwrap();
        client.finish().await.unwrap();
        let response = client.response().await.unwrap();
        assert_eq!((response.status, response.body_len, response.broken), (200, 3 << 20, false));
        assert!(client.is_closed().await.unwrap());
    }
}

#[tokio::test]
async fn a_client_that_waits_for_100_gets_it_before_it_sends() {
    let (upstream, edge) = start().await;
    for mut client in [edge.client().await, edge.tls().await] {
        client.send(head("PUT", "a", "/", &[("expect", "100-continue"), ("content-length", "5")])).await.unwrap();
        let interim = b"HTTP/1.1 100 Continue\r\n\r\n";
        assert_eq!(client.bytes(interim.len() as u64).await.unwrap(), interim);
        client.send("hello").await.unwrap();
        let response = client.response().await.unwrap();
        assert_eq!((response.status, response.interim.as_slice()), (200, &[][..]));
        assert_eq!(upstream.last().unwrap().body, b"hello");
        assert_eq!(client.get("a", "/again", &[]).await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn a_client_that_waits_for_100_and_is_refused_is_told_at_once() {
    let (upstream, edge) = start_with(&CONFIG.replace(ALL, "")).await;
    let mut client = edge.client().await;
    client.send(head("PUT", "a", "/get", &[("expect", "100-continue"), ("content-length", "5")])).await.unwrap();
    let response = client.response().await.unwrap();
    assert_eq!((response.status, response.interim.as_slice()), (405, &[][..]));
    // Whether the body will still come, nobody knows.
    assert!(client.is_closed().await.unwrap());
    assert_eq!(upstream.count(), 0);
}

/// A block of a length that fits no buffer, so that a piece lost, doubled or moved shows.
fn block() -> Vec<u8> {
    (0..65_521_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// The most memory this process ever had.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

const BLOCKS: u64 = 1025; // A little over 64 MiB.

/// An upstream that checks every byte it gets, then answers with as many.
async fn serve_blocks(listener: TcpListener, block: Vec<u8>) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let length = BLOCKS * block.len() as u64;
    assert!(String::from_utf8(head).unwrap().to_ascii_lowercase().contains(&format!("content-length: {length}\r\n")));
    let mut got = vec![0; block.len()];
    for at in 0..BLOCKS {
        stream.read_exact(&mut got).await.unwrap();
        assert!(got == block, "block {at} arrived changed");
    }
    stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").as_bytes()).await.unwrap();
    for _ in 0..BLOCKS {
        stream.write_all(&block).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_stream_both_ways_in_constant_memory() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let edge = edge(CONFIG).with("UPSTREAM", listener.local_addr().unwrap()).tls().start().await;
    let block = block();
    let server = tokio::spawn(serve_blocks(listener, block.clone()));
    let length = BLOCKS * block.len() as u64;
    let before = peak();
    let mut stream = TcpStream::connect(edge.address()).await.unwrap();
    stream.write_all(head("POST", "a", "/", &[("content-length", &length.to_string())]).as_bytes()).await.unwrap();
    for at in 0..BLOCKS {
        within(&format!("sending block {at}"), stream.write_all(&block)).await.unwrap().unwrap();
    }
    let mut response = Vec::new();
    while !response.ends_with(b"\r\n\r\n") {
        response.push(stream.read_u8().await.unwrap());
    }
    assert!(response.starts_with(b"HTTP/1.1 200"), "{}", response.escape_ascii());
    let mut got = vec![0; block.len()];
    for at in 0..BLOCKS {
        within(&format!("block {at}"), stream.read_exact(&mut got)).await.unwrap().unwrap();
        assert!(got == block, "block {at} came back changed");
    }
    server.await.unwrap();
    let grown = peak() - before;
    assert!(grown < 24 << 20, "{} MiB for a body of {} MiB", grown >> 20, length >> 20);
}

/// What the client does not read must wait at the upstream, not in the gateway.
#[tokio::test]
async fn a_client_that_does_not_read_slows_the_upstream_down() {
    let (upstream, edge) = start().await;
    let large = 256 << 20;
    upstream.behave(Answer::new(200).filler(large));
    let mut stream = TcpStream::connect(edge.address()).await.unwrap();
    stream.write_all(head("GET", "a", "/", &[]).as_bytes()).await.unwrap();
    stream.readable().await.unwrap();
    let before = peak();
    // Other requests are served meanwhile, many more than would let 256 MiB through unnoticed.
    for _ in 0..50 {
        upstream.behave(Behaviour::Echo);
        assert_eq!(edge.client().await.get("a", "/other", &[]).await.unwrap().status, 200);
    }
    assert_eq!(upstream.in_flight(), 1, "the large response is still being sent");
    assert!(peak() - before < 32 << 20);
    drop(stream);
    edge.logged("the broken download", |line| line["reason"] == "client.gone").await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_by_its_announced_length() {
    let (upstream, edge) = start().await;
    let mut client = Client::connect(edge.listener("small")).await.unwrap();
    assert_eq!(client.post("a", "/", &[], &[b'x'; 1024]).await.unwrap().status, 200);
    upstream.forget();
    let response = client.post("a", "/", &[], &[b'x'; 1025]).await.unwrap();
    assert_eq!(response.status, 413);
    assert_eq!(edge.line(&response).await["reason"], "request.too_large");
    assert_eq!(upstream.count(), 0);
    assert!(client.is_closed().await.unwrap());
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_by_counting() {
    let (upstream, edge) = start().await;
    let mut client = Client::connect(edge.listener("small")).await.unwrap();
    client.send(head("POST", "a", "/", &[("transfer-encoding", "chunked")])).await.unwrap();
    // Piece by piece, and never ended: only counting can tell.
    let chunk = format!("200\r\n{}\r\n", "x".repeat(0x200));
    for _ in 0..3 {
        client.send(&chunk).await.unwrap();
    }
    let response = client.response().await.unwrap();
    assert_eq!(response.status, 413);
    assert_eq!(edge.line(&response).await["reason"], "request.too_large");
    assert!(upstream.requests().iter().all(|seen| !seen.complete));
    assert!(client.is_closed().await.unwrap());
}

#[tokio::test]
async fn a_head_over_the_limits_is_431() {
    let (upstream, edge) = start().await;
    let long = "x".repeat(1024);
    let many: Vec<_> = (0..10).map(|_| ("x", "y")).collect();
    for fields in [vec![("x", long.as_str())], many] {
        let mut client = Client::connect(edge.listener("small")).await.unwrap();
        let response = client.get("a", "/", &fields).await.unwrap();
        assert_eq!(response.status, 431);
        assert_eq!(edge.line(&response).await["reason"], "request.headers.too_large");
        assert!(client.is_closed().await.unwrap());
    }
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn no_route_is_404_and_a_wrong_method_405_and_both_keep_the_connection() {
    let (upstream, edge) = start_with(&CONFIG.replace(ALL, "")).await;
    let mut client = edge.client().await;
    let response = client.get("a", "/nowhere", &[]).await.unwrap();
    assert_eq!((response.status, response.header("content-type").unwrap().as_str()), (404, "application/problem+json"));
    assert_eq!(edge.line(&response).await["reason"], "route.none");
    let response = client.post("a", "/get", &[], b"hello").await.unwrap();
    assert_eq!((response.status, response.header("allow").unwrap().as_str()), (405, "GET, HEAD"));
    assert_eq!(edge.line(&response).await["reason"], "route.method");
    assert_eq!(client.get("ONLY.test:80", "/only/x", &[]).await.unwrap().text(), "hi");
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn responses_without_a_body_have_none_and_keep_the_connection() {
    let (upstream, edge) = start().await;
    for mut client in [edge.client().await, edge.tls().await] {
        upstream.behave(Answer::new(200).body("12345"));
        let response = client.request(head("HEAD", "a", "/", &[])).await.unwrap();
        assert_eq!((response.status, response.header("content-length").unwrap().as_str()), (200, "5"));
        for status in [204, 304] {
            upstream.behave(Answer::new(status).header("etag", "\"x\""));
            let response = client.get("a", "/", &[]).await.unwrap();
            assert_eq!((response.status, response.header("etag").unwrap().as_str()), (status, "\"x\""));
            assert_eq!(client.unread(), b"");
        }
        // HEAD for the gateway's own replies.
        let response = client.request(head("HEAD", "a", "//../x", &[])).await;
        assert_eq!(response.unwrap().status, 400);
    }
    let mut client = edge.client().await;
    let response = client.request(head("HEAD", "only.test", "/only", &[])).await.unwrap();
    assert_eq!((response.status, response.header("content-length").unwrap().as_str()), (200, "2"));
    assert_eq!(client.get("only.test", "/only", &[]).await.unwrap().text(), "hi");
}

#[tokio::test]
async fn interim_responses_of_an_upstream_pass() {
    let (upstream, edge) = start().await;
    upstream
        .behave(Behaviour::raw("HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"));
    let response = edge.client().await.get("a", "/", &[]).await.unwrap();
    assert_eq!((response.status, response.text().as_str(), response.interim.as_slice()), (200, "ok", &[103][..]));
    assert!(response.header("x-decision-id").is_some());
}

/// HTTP/1.0 knows neither chunks nor interim responses (RFC 9112, section 6.1; RFC 9110, section 15.2).
#[tokio::test]
async fn an_http_1_0_client_gets_neither_chunks_nor_interim_responses() {
    let (upstream, edge) = start().await;
    let request = "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n";
    upstream.behave(Answer::new(200).chunks(["hello ", "world"], Duration::ZERO));
    let response = edge.client().await.request(request).await.unwrap();
    assert_eq!((response.header("transfer-encoding"), response.text().as_str()), (None, "hello world"));
    upstream.behave(Behaviour::raw("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"));
    let response = edge.client().await.request(request).await.unwrap();
    assert_eq!((response.text().as_str(), response.interim.as_slice()), ("ok", &[][..]));
    upstream.behave(Behaviour::Echo);
    let mut client = edge.client().await;
    for _ in 0..2 {
        assert_eq!(client.request(request).await.unwrap().status, 200, "a body of known length keeps the connection");
    }
}

#[tokio::test]
async fn every_framing_of_an_upstream_body_arrives() {
    let (upstream, edge) = start().await;
    for mut client in [edge.client().await, edge.tls().await] {
        upstream.behave(Answer::new(200).chunks(["a", "bc", "def"], Duration::ZERO).trailer("x-sum", "1"));
        assert_eq!(client.get("a", "/", &[]).await.unwrap().text(), "abcdef");
        upstream.behave(Answer::new(200).until_close("to the end"));
        let response = client.get("a", "/", &[]).await.unwrap();
        assert_eq!((response.text().as_str(), response.broken), ("to the end", false));
    }
    upstream.behave(Answer::new(200).body(""));
    assert_eq!(edge.client().await.get("a", "/", &[]).await.unwrap().body_len, 0);
}

/// The client must be able to tell half an answer from a whole one.
#[tokio::test]
async fn a_response_that_breaks_off_breaks_off_for_the_client() {
    let (upstream, edge) = start().await;
    for answer in [Answer::new(200).short(100, "half"), Answer::new(200).chunks(["half"], Duration::ZERO).unfinished()] {
        upstream.behave(answer);
        let response = edge.client().await.get("a", "/", &[]).await.unwrap();
        assert!(response.broken, "{}", response.text());
        let line = edge.line(&response).await;
        assert_eq!((&line["reason"], &line["verdict"]), (&"upstream.reset".into(), &"error".into()));
    }
}

/// An upstream that answers before it has read the request, as for a refused upload.
#[tokio::test]
async fn an_early_answer_to_a_large_upload_arrives() {
    let (upstream, edge) = start().await;
    upstream.behave(Answer::new(403).body("no").early().closing());
    let response = edge.client().await.post("a", "/", &[], &vec![b'x'; 1 << 20]).await.unwrap();
    assert_eq!((response.status, response.text().as_str()), (403, "no"));
}
