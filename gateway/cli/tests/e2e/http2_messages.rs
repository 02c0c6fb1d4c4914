//! Messages on HTTP/2 streams that say two things of their length, carry what HTTP/2 forbids, or come from a client that only ever
//! asks: over both drivers.

use super::http2::{DRIVERS, connect, request, send, whole};
use super::support::{Edge, edge};
use bytes::Bytes;
use portcullis_testkit::{Answer, Behaviour, Client, Upstream, frames, until, within};
use std::future::poll_fn;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;

const CONFIG: &str = r#"
listeners:
  - { name: direct, address: 127.0.0.1:0, h2c: true, limits: LIMITS }
  - { name: pingora, address: 127.0.0.1:0, h2c: true, driver: pingora, limits: LIMITS }
access_log: { path: access.jsonl }
pools: { web: { retries: 0, backends: [{ address: UPSTREAM }] } }
routes:
  - { name: own, match: { path: /own }, respond: { status: 200, body: own } }
  - { name: all, pool: web }
"#;

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const SETTINGS: u8 = 0x4;
const PING: u8 = 0x6;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

async fn start(limits: &str) -> (Upstream, Edge) {
    let upstream = Upstream::start().await.unwrap();
    let edge = edge(CONFIG).with("LIMITS", limits).with("UPSTREAM", upstream.address()).start().await;
    (upstream, edge)
}

/// The head of a POST to `path` on stream 1 of a fresh connection, with `fields` added.
fn post(path: &str, fields: &[(&[u8], &[u8])], ends: bool) -> Vec<u8> {
    let mut all = frames::get("a.test", path);
    all[0].1 = b"POST";
    all.extend_from_slice(fields);
    let head = frames::frame(HEADERS, if ends { 0x5 } else { 0x4 }, 1, &frames::block(&all));
    [PREFACE, &frames::frame(SETTINGS, 0, 0, &[]), &head].concat()
}

/// A body whose length is not what was said is never whole to a backend.
#[tokio::test]
async fn a_body_of_another_length_is_never_complete_at_the_backend() {
    let (upstream, edge) = start("{}").await;
    let trailers = frames::frame(HEADERS, 0x5, 1, &frames::block(&[(b"x-trailer", b"1")]));
    let data = |flags, data: &[u8]| frames::frame(DATA, flags, 1, data);
    for (name, body) in [
        ("longer", data(0x1, b"hello!")),
        ("longer, without an end", data(0, b"hello!")),
        ("shorter", data(0x1, b"hell")),
        ("shorter, then empty", [data(0, b"hell"), data(0x1, b"")].concat()),
        ("shorter, with trailers", [data(0, b"hell"), trailers.clone()].concat()),
        ("nothing but trailers", trailers.clone()),
    ] {
        for driver in DRIVERS {
            upstream.forget();
            let mut client = Client::connect(edge.listener(driver)).await.unwrap();
            let bytes = [post("/", &[(b"content-length", b"5")], false), body.clone()].concat();
            client.send(bytes).await.unwrap();
            let line = edge.logged(name, |line| line["listener"] == driver && line["path"] == "/").await;
            assert_ne!(line["status"], 200, "{driver} {name}");
            assert!(upstream.requests().iter().all(|seen| !seen.complete), "{driver} {name}");
            std::fs::write(edge.path().join("access.jsonl"), "").unwrap();
        }
    }
}

/// Trailer fields of a request are not forwarded over HTTP/1.1; the body is whole without them.
#[tokio::test]
async fn trailers_end_a_body() {
    let (upstream, edge) = start("{}").await;
    for driver in DRIVERS {
        for length in [&[("content-length", "5")][..], &[]] {
            let mut client = connect(&edge, driver).await;
            let (response, mut sender) = send(&mut client, request("POST", "/", length), false).await;
            sender.send_data(Bytes::from_static(b"hello"), false).unwrap();
            let mut trailers = http::HeaderMap::new();
            trailers.insert("x-trailer", "1".parse().unwrap());
            trailers.insert("content-length", "9".parse().unwrap());
            sender.send_trailers(trailers).unwrap();
            assert_eq!(within("the response", response).await.unwrap().unwrap().status(), 200, "{driver}");
            let seen = upstream.last().unwrap();
            assert_eq!((&seen.body[..], seen.complete), (&b"hello"[..], true), "{driver}");
            assert_eq!(seen.header("x-trailer"), None);
        }
    }
}

#[tokio::test]
async fn a_client_that_waits_for_100_is_told_to_go_on() {
    let (upstream, edge) = start("{}").await;
    for driver in DRIVERS {
        for length in [&[("expect", "100-continue"), ("content-length", "5")][..], &[("expect", "100-continue")]] {
            let mut client = connect(&edge, driver).await;
            let (mut response, mut sender) = send(&mut client, request("POST", "/", length), false).await;
            let interim = within("100", poll_fn(|context| response.poll_informational(context))).await.unwrap();
            assert_eq!(interim.unwrap().unwrap().status(), 100, "{driver}");
            sender.send_data(Bytes::from_static(b"hello"), true).unwrap();
            assert_eq!(within("the response", response).await.unwrap().unwrap().status(), 200, "{driver}");
            assert_eq!(upstream.last().unwrap().body, b"hello", "{driver}");
        }
        // Nobody waits for a body that is refused.
        let mut client = connect(&edge, driver).await;
        let (mut response, _sender) = send(&mut client, request("POST", "/own", &[("expect", "100-continue")]), false).await;
        let interim = within("the answer", poll_fn(|context| response.poll_informational(context))).await.unwrap();
        assert!(interim.is_none(), "{driver}");
        assert_eq!(within("the response", response).await.unwrap().unwrap().status(), 200, "{driver}");
    }
}

/// What a backend says in HTTP/1 becomes what HTTP/2 allows, or is the backend's failure.
#[tokio::test]
async fn no_field_of_a_backend_breaks_the_rules_of_http2() {
    let (upstream, edge) = start("{}").await;
    for (field, expected) in [
        ("X-UPPER: 1", 200),
        ("TE: gzip", 200),
        ("Proxy-Connection: close", 200),
        ("Connection: x-secret", 200),
        ("Upgrade: h2c", 200),
        ("x-high: \u{fc}", 200),
        ("x-tab: a\tb", 200),
        ("x-empty:", 200),
        (":status: 500", 502),
        (":path: /", 502),
        ("x y: 1", 502),
        ("x\u{1}y: 1", 502),
        ("x: a\u{1}b", 502),
        ("x: a\u{7f}b", 502),
        ("x: a\0b", 502),
        ("x: a\rb", 502),
    ] {
        for interim in [false, true] {
            let early = if interim { format!("HTTP/1.1 103 Early Hints\r\n{field}\r\n\r\n") } else { String::new() };
            let late = if interim { String::new() } else { format!("{field}\r\n") };
            upstream.behave(Behaviour::raw(format!("{early}HTTP/1.1 200 OK\r\n{late}content-length: 2\r\n\r\nok")));
            for driver in DRIVERS {
                let mut client = connect(&edge, driver).await;
                let (response, _) = send(&mut client, request("GET", "/", &[]), true).await;
                let response = within("the response", response).await.unwrap();
                let response = response.unwrap_or_else(|error| panic!("{driver} {interim} {field:?}: {error}"));
                let connection = ["te", "connection", "proxy-connection", "upgrade", "keep-alive"];
                assert!(connection.iter().all(|name| !response.headers().contains_key(*name)), "{driver} {field:?}");
                assert_eq!(response.status(), expected, "{driver} {interim} {field:?}");
                assert!(whole(response.into_body()).await.2, "{driver} {interim} {field:?}");
            }
        }
    }
}

/// A stream that is opened and reset in one breath is nobody's request, and no backend's.
#[tokio::test]
async fn a_stream_that_is_reset_at_once_reaches_no_backend() {
    let (upstream, edge) = start("{}").await;
    // So that there is a connection to the backend, and nothing has to be waited for.
    let mut first = connect(&edge, "direct").await;
    assert_eq!(send(&mut first, request("GET", "/first", &[]), true).await.0.await.unwrap().status(), 200);
    let mut client = Client::connect(edge.listener("direct")).await.unwrap();
    let mut bytes = [PREFACE, &frames::frame(SETTINGS, 0, 0, &[])].concat();
    let block = frames::block(&frames::get("a.test", "/reset"));
    for stream in (1..30).step_by(2) {
        bytes.extend(frames::frame(HEADERS, 0x5, stream, &block));
        bytes.extend(frames::frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    }
    client.send(bytes).await.unwrap();
    until("a line for each", || edge.log().iter().filter(|line| line["path"] == "/reset").count() == 15).await.unwrap();
    assert!(edge.log().iter().filter(|line| line["path"] == "/reset").all(|line| line["reason"] == "client.gone"));
    assert_eq!((upstream.count(), upstream.connections()), (1, 1));
}

/// Whatever is asked over and over, what is not read is not answered without end.
#[tokio::test]
async fn a_client_that_asks_and_never_reads_is_dropped() {
    let (upstream, edge) = start("{ write_timeout: 500ms }").await;
    upstream.behave(Answer::new(200).filler(3000));
    let block = frames::block(&frames::get("a.test", "/own"));
    for driver in DRIVERS {
        for kind in [PING, SETTINGS, HEADERS] {
            // Its own system keeps little for it.
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_recv_buffer_size(4096).unwrap();
            let mut client = socket.connect(edge.listener(driver)).await.unwrap();
            client.write_all(&[PREFACE, &frames::frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
            let mut stream = 1;
            let flood = async {
                loop {
                    let mut bytes = Vec::new();
                    for _ in 0..100 {
                        bytes.extend(match kind {
                            PING => frames::frame(PING, 0, 0, &[0; 8]),
                            SETTINGS => frames::frame(SETTINGS, 0, 0, &[]),
                            _ => frames::frame(HEADERS, 0x5, stream, &block),
                        });
                        stream += 2;
                    }
                    if client.write_all(&bytes).await.is_err() {
                        break;
                    }
                }
            };
            within("the end of the connection", flood).await.unwrap();
        }
        until("the end of it all", || edge.metric("portcullis_connections", &[("listener", driver)]) == 0.0).await.unwrap();
    }
}
