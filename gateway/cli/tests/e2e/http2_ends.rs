//! How HTTP/2 connections and their streams end: idle, at the gateway's end, when a reload removes the listener; and with clients
//! that answer nothing of it, read slowly, or give up one request after the other.

use super::http2::{DRIVERS, connect, connect_with, request, send, whole};
use super::support::edge;
use bytes::Bytes;
use h2::Reason;
use h2::client::Builder;
use portcullis_testkit::frames::{DATA, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE};
use portcullis_testkit::{Answer, Behaviour, Client, Upstream, frames, until, within};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;

const CONFIG: &str = r#"
listeners:
  - { name: direct, address: 127.0.0.1:0, h2c: true, limits: LIMITS }
  - { name: pingora, address: 127.0.0.1:0, h2c: true, driver: pingora, limits: LIMITS }
access_log: { path: access.jsonl }
pools: { web: { backends: [{ address: UPSTREAM }] } }
routes:
  - { name: own, match: { path: /own }, respond: { status: 200, body: own } }
  - { name: all, pool: web }
shutdown: { drain: 20s }
"#;

const LISTENER: &str = "  - { name: pingora";

/// A client that answers neither SETTINGS nor PING.
struct Silent(Client);

impl Silent {
    async fn connect(address: std::net::SocketAddr) -> Self {
        let mut client = Client::connect(address).await.unwrap();
        client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        client.send(frames::frame(SETTINGS, 0, 0, &[])).await.unwrap();
        Self(client)
    }

    async fn ask(&mut self, stream: u32, path: &str) {
        let block = frames::block(&frames::get("a.test", path));
        self.0.send(frames::frame(HEADERS, 0x5, stream, &block)).await.unwrap();
    }

    /// The next frame of this kind: its stream, and the error code in an RST_STREAM.
    async fn next(&mut self, kinds: &[u8]) -> (u8, u32, Option<u32>) {
        loop {
            let head = within("a frame", self.0.bytes(9)).await.unwrap().unwrap();
            let len = u64::from(u32::from_be_bytes([0, head[0], head[1], head[2]]));
            let payload = self.0.bytes(len).await.unwrap();
            if kinds.contains(&head[3]) {
                let stream = u32::from_be_bytes(head[5..9].try_into().unwrap());
                let code = payload.get(..4).map(|code| u32::from_be_bytes(code.try_into().unwrap()));
                return (head[3], stream, code);
            }
        }
    }
}

/// The rest of a response that the client takes slowly is not cut off because nobody asks for anything else meanwhile.
#[tokio::test]
async fn a_slow_client_gets_all_of_a_response_however_idle_the_connection_is() {
    let upstream = Upstream::start().await.unwrap();
    upstream.behave(Answer::new(200).filler(3000));
    let edge = edge(CONFIG).with("LIMITS", "{ idle_timeout: 300ms }").with("UPSTREAM", upstream.address()).start().await;
    for driver in DRIVERS {
        let mut builder = Builder::new();
        builder.initial_window_size(100);
        let mut client = connect_with(&edge, driver, &builder).await;
        let (response, _) = send(&mut client, request("GET", "/", &[]), true).await;
        let mut body = response.await.unwrap().into_body();
        let mut taken = 0;
        while let Some(data) = within("a piece", body.data()).await.unwrap() {
            let data = data.unwrap_or_else(|error| panic!("{driver}: cut off after {taken}: {error}"));
            taken += data.len();
            tokio::time::sleep(Duration::from_millis(50)).await;
            body.flow_control().release_capacity(data.len()).unwrap();
        }
        assert_eq!(taken, 3000, "{driver}");
    }
}

/// One that takes nothing at all does not keep it for ever.
#[tokio::test]
async fn a_response_that_nobody_takes_ends_with_its_connection() {
    let upstream = Upstream::start().await.unwrap();
    upstream.behave(Answer::new(200).body("hello"));
    let edge = edge(CONFIG).with("LIMITS", "{ idle_timeout: 200ms }").with("UPSTREAM", upstream.address()).start().await;
    let mut builder = Builder::new();
    builder.initial_window_size(0);
    let mut client = connect_with(&edge, "direct", &builder).await;
    let (response, _) = send(&mut client, request("GET", "/", &[]), true).await;
    let mut body = within("the head", response).await.unwrap().unwrap().into_body();
    assert!(within("the end", body.data()).await.unwrap().unwrap().is_err(), "it was not taken, and is not complete");
    let connections = || edge.metric("portcullis_connections", &[("listener", "direct")]);
    until("the end of the connection", || connections() == 0.0).await.unwrap();
}

/// RFC 9113, section 6.8: so that a client knows that a request it sends at that moment was not served.
#[tokio::test]
async fn an_idle_connection_is_told_before_it_is_closed() {
    let upstream = Upstream::start().await.unwrap();
    let edge = edge(CONFIG).with("LIMITS", "{ idle_timeout: 200ms }").with("UPSTREAM", upstream.address()).start().await;
    let mut silent = Silent::connect(edge.listener("direct")).await;
    silent.ask(1, "/own").await;
    assert_eq!(silent.next(&[HEADERS, GOAWAY]).await.0, HEADERS);
    assert_eq!(silent.next(&[GOAWAY]).await.0, GOAWAY);
    // It does not answer, and the connection ends all the same.
    within("the end", silent.0.rest()).await.unwrap().unwrap();
}

#[tokio::test]
async fn clients_that_answer_nothing_do_not_hold_up_the_end() {
    let upstream = Upstream::start().await.unwrap();
    upstream.behave(Answer::new(200).chunks(vec!["part "; 20], Duration::from_millis(20)));
    let edge = edge(CONFIG).with("LIMITS", "{}").with("UPSTREAM", upstream.address()).start().await;
    let mut silent = Silent::connect(edge.listener("direct")).await;
    silent.ask(1, "/own").await;
    silent.next(&[HEADERS]).await;
    let mut bodies = Vec::new();
    let mut clients = Vec::new();
    for driver in DRIVERS {
        let mut client = connect(&edge, driver).await;
        let (response, _) = send(&mut client, request("GET", "/", &[]), true).await;
        bodies.push(response.await.unwrap().into_body());
        clients.push(client);
    }
    let (handle, _folder) = edge.into_parts();
    let drained = tokio::spawn(handle.drain());
    for body in bodies {
        let (body, _, complete) = whole(body).await;
        assert_eq!((body.len(), complete), (100, true), "what was begun is finished");
    }
    for client in &mut clients {
        let refused = within("the end", std::future::poll_fn(|context| client.poll_ready(context))).await.unwrap();
        assert!(refused.is_err() || client.send_request(request("GET", "/own", &[]), true).is_err());
    }
    assert!(drained.await.unwrap(), "all connections have ended by themselves");
}

/// A client that takes no notice of it is not served on a listener that is no more.
#[tokio::test]
async fn a_listener_that_is_removed_serves_nothing_for_long() {
    let upstream = Upstream::start().await.unwrap();
    upstream.behave(Answer::new(200).chunks(vec!["part "; 100], Duration::from_millis(50)));
    let edge = edge(CONFIG).with("LIMITS", "{}").with("UPSTREAM", upstream.address()).start().await;
    let mut silent = Silent::connect(edge.listener("pingora")).await;
    silent.ask(1, "/own").await;
    assert_eq!(silent.next(&[HEADERS, RST_STREAM]).await.0, HEADERS);
    let config = std::fs::read_to_string(edge.path().join("edge.yaml")).unwrap();
    let left: String = config.lines().filter(|line| !line.starts_with(LISTENER)).map(|line| format!("{line}\n")).collect();
    edge.rewrite(&left);
    edge.handle.reload().await.unwrap();
    silent.ask(3, "/long").await;
    assert_eq!(silent.next(&[HEADERS, GOAWAY]).await.0, GOAWAY);
    let refused = async {
        for stream in (5..).step_by(2) {
            silent.ask(stream, "/own").await;
            loop {
                let (kind, of, code) = silent.next(&[HEADERS, RST_STREAM]).await;
                if (kind, of) == (RST_STREAM, stream) {
                    return code;
                }
                if of == stream {
                    break;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        unreachable!()
    };
    assert_eq!(within("a refused stream", refused).await.unwrap(), Some(Reason::REFUSED_STREAM.into()));
    within("the end", silent.0.rest()).await.unwrap().unwrap();
    let line = edge.logged("the one that was begun", |line| line["path"] == "/long").await;
    assert_eq!((&line["status"], &line["verdict"]), (&200.into(), &"allow".into()));
}

const UNREACHABLE: &str = r#"
listeners:
  - { name: direct, address: 127.0.0.1:0, h2c: true, limits: { h2_streams: 4 } }
  - { name: pingora, address: 127.0.0.1:0, h2c: true, driver: pingora, limits: { h2_streams: 4 } }
access_log: { path: access.jsonl }
pools:
  web:
    protocol: http/1.1
    tls: { server_name: backend.test }
    timeouts: { connect: 60s }
    backends: [{ address: UPSTREAM }]
  good: { backends: [{ address: GOOD }] }
routes:
  - { name: good, match: { path: /good }, pool: good }
  - { name: all, pool: web }
"#;

/// A backend that accepts connections and says nothing, so that TLS with it never comes about.
async fn mute() -> (std::net::SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&accepted);
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((tcp, _)) = listener.accept().await {
            kept.push(tcp);
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    (address, accepted)
}

/// Given up while there is no connection to the backend yet, a request is over: it is logged, and the connection is not made.
#[tokio::test]
async fn a_stream_that_is_given_up_while_the_backend_is_connected_to_is_over() {
    let (address, accepted) = mute().await;
    let edge = edge(UNREACHABLE).with("UPSTREAM", address).with("GOOD", address).start().await;
    let mut client = connect(&edge, "direct").await;
    for round in 1..=20 {
        let (response, mut sender) = send(&mut client, request("GET", "/", &[]), true).await;
        until("a connection", || accepted.load(Ordering::Relaxed) == round).await.unwrap();
        sender.send_reset(Reason::CANCEL);
        drop(response);
        until("its line", || edge.log().len() as u64 == round).await.unwrap();
    }
    assert!(edge.log().iter().all(|line| line["reason"] == "client.gone"));
    assert_eq!(edge.metric("portcullis_backend_requests_total", &[("outcome", "cancelled")]), 20.0);
    assert_eq!(edge.metric("portcullis_backend_requests_total", &[]), 20.0);
}

/// CVE-2023-44487 once more: what Pingora does not let go of while it connects does not grow without bound.
#[tokio::test]
async fn streams_that_were_given_up_and_are_not_over_yet_are_bounded() {
    let (address, accepted) = mute().await;
    let edge = edge(UNREACHABLE).with("UPSTREAM", address).with("GOOD", address).start().await;
    let mut client = connect(&edge, "pingora").await;
    let mut refused = 0;
    for _ in 0..40 {
        let before = accepted.load(Ordering::Relaxed);
        let (response, mut sender) = send(&mut client, request("GET", "/", &[]), true).await;
        let mut response = tokio::spawn(response);
        let asked = until("a connection", || accepted.load(Ordering::Relaxed) > before);
        tokio::select! {
            asked = asked => asked.unwrap(),
            response = &mut response => {
                assert_eq!(response.unwrap().unwrap_err().reason(), Some(Reason::REFUSED_STREAM));
                refused += 1;
            }
        }
        sender.send_reset(Reason::CANCEL);
        response.abort();
    }
    assert!(refused > 0);
    let accepted = accepted.load(Ordering::Relaxed);
    assert!(accepted <= 8, "{accepted} connections for a client that may have 4 streams");
}

/// What is refused unread is not held against the connection's window.
#[tokio::test]
async fn bodies_that_nobody_reads_take_nothing_of_the_connection() {
    let upstream = Upstream::start().await.unwrap();
    let edge = edge(CONFIG).with("LIMITS", "{}").with("UPSTREAM", upstream.address()).start().await;
    for driver in DRIVERS {
        let mut client = connect(&edge, driver).await;
        for _ in 0..20 {
            let (response, mut sender) = send(&mut client, request("POST", "/own", &[]), false).await;
            let _ = sender.send_data(vec![b'x'; 16_000].into(), true);
            // Refused or answered, either is well.
            let _ = within("the response", response).await.unwrap();
        }
        let (response, mut sender) = send(&mut client, request("PUT", "/", &[]), false).await;
        sender.send_data(vec![b'x'; 300_000].into(), true).unwrap();
        assert_eq!(within("the response", response).await.unwrap().unwrap().status(), 200, "{driver}");
        assert_eq!(upstream.last().unwrap().body_len, 300_000, "{driver}");
    }
}

/// Only what is complete ends with END_STREAM.
#[tokio::test]
async fn a_response_that_breaks_off_is_never_complete() {
    let upstream = Upstream::start().await.unwrap();
    let edge = edge(CONFIG).with("LIMITS", "{}").with("UPSTREAM", upstream.address()).start().await;
    for raw in [
        "HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\nx\r\n",
    ] {
        upstream.behave(Behaviour::raw(raw));
        for driver in DRIVERS {
            let mut client = connect(&edge, driver).await;
            let (response, _) = send(&mut client, request("GET", "/", &[]), true).await;
            if let Ok(response) = within("the response", response).await.unwrap() {
                let complete = response.status() == 200 && whole(response.into_body()).await.2;
                assert!(!complete, "{driver} {raw:?}");
            }
        }
    }
}

/// A kept connection that breaks as it is used again: the body was read already, and is sent again as a whole.
#[tokio::test]
async fn a_body_is_sent_again_whole_after_a_kept_connection_broke() {
    let upstream = Upstream::start().await.unwrap();
    let edge = edge(CONFIG).with("LIMITS", "{}").with("UPSTREAM", upstream.address()).start().await;
    for driver in DRIVERS {
        for length in [&[("content-length", "30000")][..], &[]] {
            let mut client = connect(&edge, driver).await;
            upstream.behave(Behaviour::Echo);
            let (first, _) = send(&mut client, request("GET", "/", &[]), true).await;
            assert!(whole(first.await.unwrap().into_body()).await.2);
            upstream.forget();
            let broke = AtomicU64::new(0);
            upstream.behave(Behaviour::script(move |_| match broke.fetch_add(1, Ordering::Relaxed) {
                0 => Behaviour::Close,
                _ => Behaviour::Echo,
            }));
            let (response, mut sender) = send(&mut client, request("PUT", "/", length), false).await;
            sender.send_data(Bytes::from(vec![b'x'; 30_000]), true).unwrap();
            assert_eq!(within("the response", response).await.unwrap().unwrap().status(), 200, "{driver}");
            let seen = upstream.requests();
            assert_eq!(seen.len(), 2, "{driver}");
            assert!(seen.iter().all(|seen| seen.body_len == 30_000 && seen.complete), "{driver}");
        }
    }
}

/// One body that no backend takes leaves room for the others of its connection.
#[tokio::test]
async fn a_body_that_waits_does_not_hold_up_the_others() {
    let upstream = Upstream::start().await.unwrap();
    let (address, accepted) = mute().await;
    let edge = edge(UNREACHABLE).with("UPSTREAM", address).with("GOOD", upstream.address()).start().await;
    for driver in DRIVERS {
        let before = accepted.load(Ordering::Relaxed);
        let mut client = connect(&edge, driver).await;
        let (_waiting, mut sender) = send(&mut client, request("PUT", "/", &[]), false).await;
        sender.send_data(vec![b'x'; 300_000].into(), true).unwrap();
        until("a connection", || accepted.load(Ordering::Relaxed) > before).await.unwrap();
        let (response, mut sender) = send(&mut client, request("PUT", "/good", &[]), false).await;
        sender.send_data(vec![b'x'; 300_000].into(), true).unwrap();
        assert_eq!(within("the response", response).await.unwrap().unwrap().status(), 200, "{driver}");
        assert_eq!(upstream.last().unwrap().body_len, 300_000, "{driver}");
    }
}

/// What the library's GOAWAY is followed by, and the answer to it ends the connection (RFC 9113, section 6.8).
const LAST_PING: [u8; 8] = [0x0b, 0x7b, 0xa2, 0xf0, 0x8b, 0x9b, 0xfe, 0x54];

/// A client opens windows as it reads. Sent to a connection that is closed already, that must not cost it what it has not read.
#[tokio::test]
async fn the_last_response_arrives_whole_though_the_client_goes_on_sending() {
    const LENGTH: usize = 700_000;
    let upstream = Upstream::start().await.unwrap();
    upstream.behave(Answer::new(200).filler(LENGTH as u64));
    let edge = edge(CONFIG).with("LIMITS", "{}").with("UPSTREAM", upstream.address()).start().await;
    let address = edge.listener("direct");
    let mut client = Client::connect(address).await.unwrap();
    client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    // SETTINGS_INITIAL_WINDOW_SIZE, and as much for the connection.
    let window = 1_000_000_u32.to_be_bytes();
    client.send(frames::frame(SETTINGS, 0, 0, &[&[0, 4], &window[..]].concat())).await.unwrap();
    client.send(frames::frame(WINDOW_UPDATE, 0, 0, &window)).await.unwrap();
    let block = frames::block(&frames::get("a.test", "/large"));
    client.send(frames::frame(HEADERS, 0x5, 1, &block)).await.unwrap();
    edge.logged("the response", |line| line["path"] == "/large").await;
    let (handle, _folder) = edge.into_parts();
    let drained = tokio::spawn(handle.drain());
    until("the end of accepting", || std::net::TcpStream::connect(address).is_err()).await.unwrap();
    client.send(frames::frame(PING, 0x1, 0, &LAST_PING)).await.unwrap();
    // Time to make the mistake in.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut taken = 0;
    let mut ended = false;
    while !ended {
        let head = within("a frame", client.bytes(9)).await.unwrap().unwrap_or_else(|error| panic!("after {taken}: {error}"));
        let len = u64::from(u32::from_be_bytes([0, head[0], head[1], head[2]]));
        client.bytes(len).await.unwrap_or_else(|error| panic!("after {taken}: {error}"));
        if head[3] == DATA {
            taken += len as usize;
            ended = head[4] & 0x1 != 0;
            let _ = client.send(frames::frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())).await;
        }
    }
    assert_eq!(taken, LENGTH);
    drop(client);
    assert!(drained.await.unwrap());
}
