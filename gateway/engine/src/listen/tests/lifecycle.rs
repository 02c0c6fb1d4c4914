//! Limits, the end of a listener, and HTTP/2 without TLS.

use super::harness::{Listening, Trickle, closes, echoes, impatient, patiently, plain};
use crate::config::raw;
use crate::listen::stream::H2_PREFACE;
use crate::listen::{ListenerSettings, bind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

fn at_most(connections: usize) -> ListenerSettings {
    ListenerSettings { limits: raw::Limits { connections, ..raw::Limits::default() }, ..plain() }
}

#[tokio::test]
async fn a_full_listener_closes_at_once_until_a_place_is_free() {
    let mut listening = Listening::new(at_most(2));
    let (mut first, mut second) = (listening.connect().await, listening.connect().await);
    echoes(&mut first).await.unwrap();
    echoes(&mut second).await.unwrap();
    let mut third = listening.connect().await;
    closes(&mut third).await;
    assert_eq!(listening.failure().await, "limit");
    echoes(&mut first).await.unwrap();

    drop(second);
    listening.open(1).await;
    let mut fourth = listening.connect().await;
    echoes(&mut fourth).await.unwrap();

    // A lower limit closes nobody, and lets nobody in until there is room below it.
    listening.reload(at_most(1));
    echoes(&mut first).await.unwrap();
    drop(fourth);
    listening.open(1).await;
    closes(&mut listening.connect().await).await;
    assert_eq!(listening.failure().await, "limit");
    drop(first);
    listening.open(0).await;
    echoes(&mut listening.connect().await).await.unwrap();
}

#[tokio::test]
async fn clients_that_say_nothing_hold_a_place_no_longer_than_the_deadline() {
    let mut settings = impatient(at_most(1));
    settings.proxy_trust = Some(vec!["127.0.0.0/8".parse().unwrap()]);
    let mut listening = Listening::new(settings);
    let mut silent = listening.connect().await;
    listening.open(1).await;
    closes(&mut silent).await;
    assert_eq!(listening.failure().await, "timeout");
    listening.open(0).await;
}

#[tokio::test]
async fn stopping_closes_the_socket_and_no_connection() {
    let listening = Listening::new(plain());
    let mut before = listening.connect().await;
    echoes(&mut before).await.unwrap();
    let Listening { address, stop, running, tracker, .. } = listening;
    stop.send(true).unwrap();
    patiently(running).await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
    echoes(&mut before).await.unwrap();
    assert_eq!(tracker.len(), 1);
    drop(before);
    tracker.close();
    patiently(tracker.wait()).await;
}

#[tokio::test]
async fn the_end_of_whoever_could_stop_it_stops_it() {
    let Listening { stop, running, .. } = Listening::new(plain());
    drop(stop);
    patiently(running).await.unwrap();
}

#[tokio::test]
async fn who_was_connected_before_the_stop_is_served() {
    let listener = TcpListener::from_std(bind("127.0.0.1:0".parse().unwrap()).unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    // The kernel has connected them; nobody has accepted them yet.
    let mut waiting = Vec::new();
    for _ in 0..20 {
        waiting.push(TcpStream::connect(address).await.unwrap());
    }
    let listening = Listening::on(listener, plain());
    listening.stop.send(true).unwrap();
    let Listening { running, tracker, .. } = listening;
    patiently(running).await.unwrap();
    assert_eq!(tracker.len(), 20);
    for stream in &mut waiting {
        echoes(stream).await.unwrap();
    }
    assert!(TcpStream::connect(address).await.is_err());
}

fn h2c() -> ListenerSettings {
    ListenerSettings { h2c: true, ..plain() }
}

#[tokio::test]
async fn http2_without_tls_is_known_by_its_preface() {
    let mut listening = Listening::new(h2c());
    for (bytes, http2) in [
        (H2_PREFACE, true),
        (b"PRI * HTTP/2.0\r\n\r\nSN\r\n\r\n", false),
        (b"PRI", false),
        (b"PUT / HTTP/1.1\r\n", false),
        (b"GET / HTTP/1.1\r\n", false),
    ] {
        let mut tcp = Trickle::new(listening.connect().await);
        tcp.write_all(bytes).await.unwrap();
        tcp.shutdown().await.unwrap();
        let mut answer = Vec::new();
        patiently(tcp.read_to_end(&mut answer)).await.unwrap();
        assert_eq!(answer, bytes, "no byte is lost in looking");
        assert_eq!(listening.seen().await.http2, http2);
    }
    listening.reload(plain());
    let mut tcp = listening.connect().await;
    tcp.write_all(H2_PREFACE).await.unwrap();
    assert!(!listening.seen().await.http2, "not on a listener without h2c");
}

#[tokio::test]
async fn half_a_preface_does_not_hold_a_connection() {
    let mut listening = Listening::new(impatient(h2c()));
    let mut tcp = listening.connect().await;
    tcp.write_all(&H2_PREFACE[..10]).await.unwrap();
    closes(&mut tcp).await;
    assert_eq!(listening.failure().await, "timeout");
}

#[tokio::test]
async fn a_silent_client_does_not_hold_up_the_stop() {
    let mut listening = Listening::new(h2c());
    let mut silent = listening.connect().await;
    listening.open(1).await;
    assert!(listening.finish().await.is_empty());
    closes(&mut silent).await;
}
