//! Upstreams record what they get and answer as told; the raw clients read what really came.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use portcullis_testkit::client::{head, once};
use portcullis_testkit::frames::{self, Answered};
use portcullis_testkit::pki::client_config;
use portcullis_testkit::{Answer, Behaviour, Client, Http2Client, Http2Upstream, Pki, Port, Upstream, until};
use serde_json::json;
use std::time::Duration;

#[tokio::test]
async fn every_byte_is_recorded() {
    let upstream = Upstream::named("a").await.unwrap();
    let mut client = Client::connect(upstream.address()).await.unwrap();
    let raw = "POST /x?y=1 HTTP/1.1\r\nhost: h\r\nX-Odd:  Va lue \r\nX-Odd: 2\r\nTransfer-Encoding: chunked\r\n\r\n";
    let body = "3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nx-trailer: t\r\n\r\n";
    let response = client.request(format!("{raw}{body}")).await.unwrap();
    let account = response.json().unwrap();
    assert_eq!((&account["upstream"], &account["target"], &account["body"]), (&json!("a"), &json!("/x?y=1"), &json!("abcde")));
    assert_eq!(response.header("X-UPSTREAM").as_deref(), Some("a"));

    let seen = upstream.last().unwrap();
    assert_eq!((seen.head.as_slice(), seen.raw_body.as_slice()), (raw.as_bytes(), body.as_bytes()));
    assert_eq!(seen.header_all("x-odd"), ["Va lue", "2"]);
    assert_eq!((seen.body_len, seen.complete, seen.trailers.len()), (5, true, 1));

    // The same connection, and a health check that is not recorded.
    assert_eq!(client.get("h", "/healthz", &[]).await.unwrap().status, 200);
    upstream.health(false);
    assert_eq!(client.get("h", "/healthz", &[]).await.unwrap().status, 503);
    assert_eq!(client.request(head("HEAD", "h", "/", &[])).await.unwrap().body, b"");
    assert_eq!(client.post("h", "/", &[("expect", "100-continue")], b"abc").await.unwrap().interim, [100]);
    assert_eq!((upstream.count(), upstream.health_checks(), upstream.connections()), (3, 2, 1));
    upstream.forget();
    assert_eq!((upstream.count(), upstream.requests().len()), (0, 0));
}

#[tokio::test]
async fn an_unfinished_body_is_recorded_as_such() {
    let upstream = Upstream::start().await.unwrap();
    let mut client = Client::connect(upstream.address()).await.unwrap();
    client.send("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 10\r\n\r\nabc").await.unwrap();
    drop(client);
    until("the fragment", || upstream.last().is_some_and(|seen| seen.body == b"abc")).await.unwrap();
    assert!(!upstream.last().unwrap().complete);
}

#[tokio::test]
async fn answers_are_what_the_test_wants() {
    let upstream = Upstream::start().await.unwrap();
    let ask = async |behaviour: Behaviour| {
        upstream.behave(behaviour);
        once(upstream.address(), head("GET", "h", "/", &[])).await
    };
    let response = ask(Answer::new(418).header("x-a", "1").body("tea").into()).await.unwrap();
    assert_eq!((response.status, response.text().as_str(), response.broken), (418, "tea", false));
    let chunked = Answer::new(200).chunks(["a", "b"], Duration::from_millis(1)).trailer("x-t", "end");
    let response = ask(chunked.clone().into()).await.unwrap();
    assert_eq!((response.text().as_str(), response.trailer("x-t").as_deref()), ("ab", Some("end")));
    assert!(ask(chunked.unfinished().into()).await.unwrap().broken);
    let response = ask(Answer::new(200).short(100, "abc").into()).await.unwrap();
    assert_eq!((response.text().as_str(), response.broken), ("abc", true));
    assert_eq!(ask(Answer::new(200).until_close("abc").into()).await.unwrap().text(), "abc");
    assert_eq!(ask(Answer::new(200).filler(5_000_000).into()).await.unwrap().body_len, 5_000_000);
    assert_eq!(ask(Answer::new(204).into()).await.unwrap().header("content-length"), None);
    assert_eq!(ask(Behaviour::raw("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")).await.unwrap().text(), "ok");
    assert!(ask(Behaviour::raw("SSH-2.0\r\n\r\n")).await.is_err());
    assert!(ask(Behaviour::Close).await.is_err());
    let script = Behaviour::script(|seen| Answer::new(if seen.target == "/" { 201 } else { 202 }).into());
    assert_eq!(ask(script).await.unwrap().status, 201);
}

#[tokio::test]
async fn an_early_answer_does_not_wait_for_the_body() {
    let upstream = Upstream::builder().behaviour(Answer::new(413).early()).start().await.unwrap();
    let mut client = Client::connect(upstream.address()).await.unwrap();
    let response = client.request("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\n").await.unwrap();
    assert_eq!(response.status, 413);
    client.send("abc").await.unwrap();
    upstream.wait_for(1).await.unwrap();
}

#[tokio::test]
async fn requests_at_once_are_counted() {
    let upstream = Upstream::builder().behaviour(Behaviour::Hang).start().await.unwrap();
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = Client::connect(upstream.address()).await.unwrap();
        client.send(head("GET", "h", "/", &[])).await.unwrap();
        clients.push(client);
    }
    until("three requests", || upstream.in_flight() == 3).await.unwrap();
    clients.clear();
    until("their end", || upstream.in_flight() == 0 && upstream.open_connections() == 0).await.unwrap();
    assert_eq!(upstream.most_in_flight(), 3);
}

#[tokio::test]
async fn it_goes_away_and_comes_back() {
    let upstream = Upstream::start().await.unwrap();
    upstream.go_down().await;
    assert!(Client::connect(upstream.address()).await.is_err());
    upstream.come_back().unwrap();
    assert_eq!(once(upstream.address(), head("GET", "h", "/", &[])).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_port_is_handed_from_one_to_the_next() {
    let port = Port::reserve().unwrap();
    let blue = Upstream::builder().name("blue").port(&port).start().await.unwrap();
    assert!(Upstream::builder().port(&port).start().await.is_err(), "somebody listens");
    assert!(Port::of(port.address().port()).is_err());
    blue.go_down().await;
    let green = Upstream::builder().name("green").port(&port).start().await.unwrap();
    let response = once(green.address(), head("GET", "h", "/", &[])).await.unwrap();
    assert_eq!(response.header("x-upstream").as_deref(), Some("green"));
}

#[tokio::test]
async fn websockets_echo() {
    let upstream = Upstream::start().await.unwrap();
    let mut client = Client::connect(upstream.address()).await.unwrap();
    let response = client.websocket("h", "/ws", &[]).await.unwrap();
    // The example of RFC 6455, section 1.3.
    assert_eq!(response.header("sec-websocket-accept").as_deref(), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    for message in ["hello".to_owned(), "x".repeat(200), "y".repeat(70_000)] {
        assert_eq!(client.echo(&message).await.unwrap(), message);
    }
}

#[tokio::test]
async fn http2_by_prior_knowledge_and_over_tls() {
    let upstream = Http2Upstream::start().await.unwrap();
    let mut client = Http2Client::connect(upstream.address()).await.unwrap();
    let response = client.request("POST", "h", "/x?y", &[("x-a", "1")], "body").await.unwrap();
    assert_eq!((response.status, response.json().unwrap()["body"].clone()), (200, json!("body")));
    let seen = upstream.wait_for(1).await.unwrap().remove(0);
    assert_eq!((seen.path.as_str(), seen.authority.as_deref(), seen.header("x-a").as_deref()), ("/x?y", Some("h"), Some("1")));

    let response = client.grpc("h", "/orders.Orders/Get", &[], b"message").await.unwrap();
    assert_eq!(response.body, b"\0\0\0\0\x07message");
    assert_eq!(response.trailer("grpc-status").as_deref(), Some("0"));
    let response = client.grpc("h", "/orders.Orders/Get", &[("x-grpc-status", "5")], b"").await.unwrap();
    assert_eq!(response.trailer("grpc-status").as_deref(), Some("5"));
    assert_eq!(upstream.wait_for(3).await.unwrap()[1].body, b"\0\0\0\0\x07message");

    let ca = Pki::new().unwrap();
    let config = ca.server(&["localhost"]).unwrap().server_config(None, &["h2"]).unwrap();
    let upstream = Http2Upstream::start_tls(config).await.unwrap();
    let trusting = client_config(&[&ca], None, &["h2"]).unwrap();
    let mut client = Http2Client::connect_tls(upstream.address(), "localhost", trusting).await.unwrap();
    assert_eq!(client.get("localhost", "/healthz", &[]).await.unwrap().status, 200);
    assert_eq!(upstream.requests().len(), 0);
}

#[tokio::test]
async fn frames_made_by_hand_reach_an_http2_server() {
    let upstream = Http2Upstream::start().await.unwrap();
    let send = async |fields: &[(&[u8], &[u8])], body: Option<&[u8]>| {
        let mut client = Client::connect(upstream.address()).await.unwrap();
        frames::exchange(&mut client, fields, body).await.unwrap()
    };
    let mut fields = frames::get("h", "/hand-made");
    let long = [b'v'; 300];
    fields.push((b"x-long", &long));
    assert_eq!(send(&fields, None).await, Answered::Status(200));
    assert_eq!(upstream.requests()[0].header("x-long").unwrap().len(), 300);
    assert_eq!(send(&fields, Some(b"body")).await, Answered::Status(200));
    assert_eq!(upstream.requests()[1].body, b"body");
    // A strict HTTP/2 library resets these; whatever it does, it must not hang.
    for (name, value) in [(b"connection".as_slice(), b"x-user".as_slice()), (b"X-Upper", b"1"), (b":path", b"/twice")] {
        let mut fields = frames::get("h", "/hostile");
        fields.push((name, value));
        assert!(send(&fields, None).await.is_refusal(), "{}", name.escape_ascii());
    }
}
