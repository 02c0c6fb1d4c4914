//! The PROXY protocol on connections: who may send it, who must, and slowly.

use super::harness::{BOTH, Listening, Trickle, client, closes, echoes, impatient, patiently, plain, tls_over, with_tls};
use super::pki::{Ca, Files, tls};
use crate::listen::ListenerSettings;
use proxy_header::{ProxiedAddress, ProxyHeader};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n";

fn real() -> SocketAddr {
    "192.0.2.7:56324".parse().unwrap()
}

fn v2() -> Vec<u8> {
    let mut bytes = Vec::new();
    ProxyHeader::with_address(ProxiedAddress::stream(real(), "198.51.100.1:443".parse().unwrap())).encode_v2(&mut bytes).unwrap();
    bytes
}

fn local() -> Vec<u8> {
    let mut bytes = Vec::new();
    ProxyHeader::with_local().encode_v2(&mut bytes).unwrap();
    bytes
}

/// Trusts the peers of this test, which are all on this machine.
fn trusting(settings: ListenerSettings) -> ListenerSettings {
    ListenerSettings { proxy_trust: Some(vec!["192.0.2.0/24".parse().unwrap(), "127.0.0.0/8".parse().unwrap()]), ..settings }
}

/// Trusts somebody else.
fn distrusting(settings: ListenerSettings) -> ListenerSettings {
    ListenerSettings { proxy_trust: Some(vec!["192.0.2.0/24".parse().unwrap()]), ..settings }
}

#[tokio::test]
async fn a_trusted_header_names_the_client_and_leaves_the_rest() {
    let mut listening = Listening::new(trusting(plain()));
    for (header, expected) in
        [(V1.to_vec(), Some(real())), (v2(), Some(real())), (local(), None), (b"PROXY UNKNOWN\r\n".to_vec(), None)]
    {
        // In one piece with what follows; and each byte on its own.
        let mut together = listening.connect().await;
        together.write_all(&[&header[..], b"ping"].concat()).await.unwrap();
        let mut answer = [0; 4];
        patiently(together.read_exact(&mut answer)).await.unwrap();
        assert_eq!(&answer, b"ping");
        let own = together.local_addr().unwrap();
        let seen = listening.seen().await.connection;
        assert_eq!((seen.source, seen.peer), (expected.unwrap_or(own), own));

        let mut apart = Trickle::new(listening.connect().await);
        apart.write_all(&header).await.unwrap();
        echoes(&mut apart).await.unwrap();
        let own = apart.0.local_addr().unwrap();
        let seen = listening.seen().await.connection;
        assert_eq!((seen.source, seen.peer), (expected.unwrap_or(own), own));
        assert_eq!(seen.local, listening.address);
    }
    assert!(listening.finish().await.is_empty());
}

#[tokio::test]
async fn a_header_comes_before_tls() {
    let files = Files::new();
    let settings = files.compile(tls(vec![files.identity("edge", &Ca::new("ca").server(&["a.test"]))])).unwrap();
    let mut listening = Listening::new(trusting(with_tls(settings)));
    let config = Arc::new(client(BOTH, None));
    for header in [V1.to_vec(), v2()] {
        let mut tcp = listening.connect().await;
        tcp.write_all(&header).await.unwrap();
        let mut stream = tls_over(tcp, &config, "a.test").await.unwrap();
        echoes(&mut stream).await.unwrap();
        assert_eq!(listening.seen().await.connection.source, real());

        let mut apart = Trickle::new(listening.connect().await);
        apart.write_all(&header).await.unwrap();
        let mut stream = tls_over(apart, &config, "a.test").await.unwrap();
        echoes(&mut stream).await.unwrap();
        assert_eq!(listening.seen().await.connection.source, real());
    }
    // Without a header the ClientHello is not one.
    assert!(listening.tls(&config, "a.test").await.is_err());
    assert_eq!(listening.failure().await, "proxy_header.missing");
    // A second header is no ClientHello either: it cannot override the first.
    let mut tcp = listening.connect().await;
    tcp.write_all(&[V1, V1].concat()).await.unwrap();
    closes(&mut tcp).await;
    assert_eq!(listening.failure().await, "proxy_header.untrusted");
}

#[tokio::test]
async fn a_trusted_peer_must_send_a_good_header() {
    let mut listening = Listening::new(trusting(plain()));
    let too_long = [&b"PROXY UNKNOWN "[..], &[b'x'; 200]].concat();
    let mut huge = v2();
    huge[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
    let mut spoiled = v2();
    spoiled[12] = 0x31;
    for (bytes, reason) in [
        (&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], "proxy_header.missing"),
        (b"POST / HTTP/1.1\r\nHost: a\r\n\r\n", "proxy_header.missing"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "proxy_header.missing"),
        (b"\r\nGET / HTTP/1.1\r\n\r\n", "proxy_header.missing"),
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 56324\r\n", "proxy_header.malformed"),
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\n", "proxy_header.malformed"),
        (&spoiled, "proxy_header.malformed"),
        (&too_long, "proxy_header.too_long"),
        (&huge, "proxy_header.too_long"),
    ] {
        let mut tcp = listening.connect().await;
        tcp.write_all(bytes).await.unwrap();
        closes(&mut tcp).await;
        assert_eq!(listening.failure().await, reason, "{}", String::from_utf8_lossy(bytes));
    }
}

#[tokio::test]
async fn a_header_has_the_deadline_of_the_handshake() {
    let mut listening = Listening::new(impatient(trusting(plain())));
    let version_2 = v2();
    for part in [&V1[..3], &V1[..V1.len() - 1], &version_2[..15], &version_2[..version_2.len() - 1], b""] {
        let mut tcp = listening.connect().await;
        tcp.write_all(part).await.unwrap();
        closes(&mut tcp).await;
        assert_eq!(listening.failure().await, "timeout");
    }
    let mut tcp = listening.connect().await;
    tcp.write_all(&V1[..10]).await.unwrap();
    drop(tcp);
    // It leaves before the deadline, or after: not served either way.
    assert!(["io", "timeout"].contains(&listening.failure().await));
}

#[tokio::test]
async fn an_untrusted_peer_is_served_by_its_own_address_or_refused() {
    let mut listening = Listening::new(distrusting(plain()));
    for header in [V1.to_vec(), v2(), local()] {
        let mut tcp = Trickle::new(listening.connect().await);
        // It may be closed before all is sent.
        let _ = tcp.write_all(&header).await;
        closes(&mut tcp).await;
        assert_eq!(listening.failure().await, "proxy_header.untrusted");
    }
    // What begins like a header and is none is for the HTTP parser to judge, to the last byte.
    for request in [&b"GET / HTTP/1.1\r\n"[..], b"POST / HTTP/1.1\r\n", b"PROXY", b"PROX / HTTP/1.1\r\n", b"\r\n\r\n\0\r\nQUIT"] {
        let mut tcp = Trickle::new(listening.connect().await);
        tcp.write_all(request).await.unwrap();
        tcp.shutdown().await.unwrap();
        let mut answer = Vec::new();
        patiently(tcp.read_to_end(&mut answer)).await.unwrap();
        assert_eq!(answer, request);
        let seen = listening.seen().await.connection;
        assert_eq!((seen.source, seen.peer), (tcp.0.local_addr().unwrap(), tcp.0.local_addr().unwrap()));
    }
    assert!(listening.finish().await.is_empty());
}

#[tokio::test]
async fn a_listener_without_the_protocol_looks_at_nothing() {
    let mut listening = Listening::new(plain());
    let mut tcp = listening.connect().await;
    tcp.write_all(V1).await.unwrap();
    let mut answer = vec![0; V1.len()];
    patiently(tcp.read_exact(&mut answer)).await.unwrap();
    assert_eq!(answer, V1);
    assert_eq!(listening.seen().await.connection.source, tcp.local_addr().unwrap());
}
