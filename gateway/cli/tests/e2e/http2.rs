//! HTTP/2 clients over both drivers: streams that are slow, given up, refused or unusual, frame by frame.

use super::support::{Edge, edge};
use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use portcullis_testkit::{Answer, Behaviour, Upstream, until, within};
use std::time::Duration;
use tokio::net::TcpStream;

const CONFIG: &str = r#"
listeners:
  - { name: direct, address: 127.0.0.1:0, h2c: true, limits: LIMITS }
  - { name: pingora, address: 127.0.0.1:0, h2c: true, driver: pingora, limits: LIMITS }
access_log: { path: access.jsonl }
pools: { web: { backends: [{ address: UPSTREAM }] } }
routes:
  - { name: own, match: { path: /own }, respond: { status: 200, body: own } }
  - { name: all, pool: web }
"#;

pub const DRIVERS: [&str; 2] = ["direct", "pingora"];

async fn start(limits: &str) -> (Upstream, Edge) {
    let upstream = Upstream::start().await.unwrap();
    let edge = edge(CONFIG).with("LIMITS", limits).with("UPSTREAM", upstream.address()).start().await;
    (upstream, edge)
}

pub async fn connect(edge: &Edge, listener: &str) -> SendRequest<Bytes> {
    connect_with(edge, listener, &Builder::new()).await
}

pub async fn connect_with(edge: &Edge, listener: &str, builder: &Builder) -> SendRequest<Bytes> {
    let tcp = TcpStream::connect(edge.listener(listener)).await.unwrap();
    let (client, connection) = within("the handshake", builder.handshake(tcp)).await.unwrap().unwrap();
    tokio::spawn(connection);
    client
}

pub fn request(method: &str, target: &str, fields: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder().method(method).uri(format!("http://a.test{target}"));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

pub async fn send(
    client: &mut SendRequest<Bytes>,
    request: Request<()>,
    ends: bool,
) -> (h2::client::ResponseFuture, SendStream<Bytes>) {
    std::future::poll_fn(|context| client.poll_ready(context)).await.unwrap();
    client.send_request(request, ends).unwrap()
}

/// Reads a body as it comes, and whether it was complete.
pub async fn whole(mut body: RecvStream) -> (Vec<u8>, Option<HeaderMap>, bool) {
    let mut all = Vec::new();
    while let Some(data) = within("a piece of the body", body.data()).await.unwrap() {
        let Ok(data) = data else { return (all, None, false) };
        all.extend_from_slice(&data);
        let _ = body.flow_control().release_capacity(data.len());
    }
    let trailers = body.trailers().await.unwrap_or_default();
    (all, trailers, true)
}

/// What the client is told, but for what differs from request to request.
async fn told(response: Result<Response<RecvStream>, h2::Error>) -> String {
    let response = match response {
        Ok(response) => response,
        Err(error) => return format!("reset {:?}", error.reason()),
    };
    let (parts, body) = response.into_parts();
    let mut fields: Vec<_> = parts
        .headers
        .iter()
        .filter(|(name, _)| !["x-decision-id", "date", "x-request-id"].contains(&name.as_str()))
        .map(|(name, value)| format!("{name}: {value:?}"))
        .collect();
    fields.sort();
    let (body, _, complete) = whole(body).await;
    let body =
        if parts.status.as_u16() < 400 { format!("{} bytes {:.20}", body.len(), body.escape_ascii()) } else { String::new() };
    format!("{} {fields:?} {body} {complete}", parts.status)
}

#[tokio::test]
async fn the_same_streams_come_to_the_same_through_both_drivers() {
    let (upstream, edge) = start("{ body: 100KiB }").await;
    upstream.behave(Answer::new(200).header("x-backend", "1").body("hello"));
    let cases: Vec<(Request<()>, Option<Vec<u8>>)> = vec![
        (request("GET", "/", &[]), None),
        (request("GET", "/own", &[]), None),
        (request("HEAD", "/own", &[]), None),
        (request("HEAD", "/", &[]), None),
        (request("GET", "/a/../b?c=d", &[("cookie", "a=1"), ("cookie", "b=2"), ("te", "trailers")]), None),
        (request("POST", "/", &[("content-length", "5")]), Some(b"hello".to_vec())),
        (request("POST", "/", &[]), Some(b"hello".to_vec())),
        (request("POST", "/", &[]), Some(Vec::new())),
        (request("POST", "/", &[("content-length", "0")]), None),
        (request("PUT", "/", &[]), Some(vec![b'x'; 70_000])),
        (request("PUT", "/", &[("content-length", "70000")]), Some(vec![b'x'; 70_000])),
        (request("PUT", "/", &[]), Some(vec![b'x'; 300_000])),
        (request("PUT", "/", &[("content-length", "300000")]), Some(vec![b'x'; 300_000])),
        (request("POST", "/own", &[]), Some(b"hello".to_vec())),
        (request("TRACE", "/", &[]), None),
        (request("GET", "/", &[("host", "b.test")]), None),
        (request("GET", "/%2e%2e/%2e%2e", &[]), None),
        (request("GET", "/", &[("content_length", "5")]), None),
    ];
    let mut wrong = Vec::new();
    for (request, body) in cases {
        let mut outcomes = Vec::new();
        for driver in DRIVERS {
            upstream.forget();
            let mut client = connect(&edge, driver).await;
            let (response, mut sender) = send(&mut client, request.clone(), body.is_none()).await;
            if let Some(body) = body.clone() {
                // Refused early, it need not be taken whole.
                let _ = sender.send_data(body.into(), true);
            }
            let told = told(within("the response", response).await.unwrap()).await;
            let seen: Vec<_> = upstream
                .requests()
                .iter()
                .filter(|seen| seen.complete)
                .map(|seen| {
                    let mut fields: Vec<_> = seen
                        .headers
                        .iter()
                        .map(|(name, value)| format!("{}: {}", name.to_ascii_lowercase(), value.escape_ascii()))
                        .filter(|field| !field.starts_with("x-decision-id"))
                        .collect();
                    fields.sort();
                    format!("{} {} {fields:?} {}", seen.method, seen.target, seen.body_len)
                })
                .collect();
            let again = send(&mut client, self::request("GET", "/own", &[]), true).await.0;
            outcomes.push((told, seen, within("another", again).await.unwrap().unwrap().status()));
        }
        if outcomes[0] != outcomes[1] {
            wrong.push(format!("{} {}\n  {:?}\n  {:?}", request.method(), request.uri(), outcomes[0], outcomes[1]));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(edge.metric("portcullis_driver_requests_total", &[("listener", "direct"), ("driver", "direct")]) > 20.0);
    assert_eq!(edge.metric("portcullis_driver_requests_total", &[("listener", "pingora"), ("driver", "direct")]), 0.0);
}

#[tokio::test]
async fn the_same_responses_come_to_the_same_over_http2() {
    let (upstream, edge) = start("{}").await;
    let mut wrong = Vec::new();
    for raw in [
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;x\r\nhello\r\n1\r\n!\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\ncontent-length: 10\r\netag: x\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nlink: a\r\nx-decision-id: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 426 Upgrade Required\r\ncontent-length: 0\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
        "HTTP/1.1 500 Oops\r\ncontent-length: 2\r\nconnection: x-hop, close\r\nx-hop: 1\r\nkeep-alive: 1\r\n\r\nno",
        // Cut off: the client must not take it for the whole.
        "HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\ncontent-le",
        // Not to be read at all.
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nhello",
        "HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    ] {
        upstream.behave(Behaviour::raw(raw));
        for method in ["GET", "POST", "HEAD"] {
            let mut outcomes = Vec::new();
            for driver in DRIVERS {
                let mut client = connect(&edge, driver).await;
                let (response, _) = send(&mut client, request(method, "/", &[]), true).await;
                outcomes.push(told(within("the response", response).await.unwrap()).await);
            }
            if outcomes[0] != outcomes[1] {
                wrong.push(format!("{method} {raw:?}\n  {}\n  {}", outcomes[0], outcomes[1]));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn large_bodies_pass_through_small_windows() {
    let (upstream, edge) = start("{}").await;
    upstream.behave(Answer::new(200).filler(1 << 20));
    for driver in DRIVERS {
        let mut builder = Builder::new();
        builder.initial_window_size(1000).initial_connection_window_size(70_000);
        let mut client = connect_with(&edge, driver, &builder).await;
        let (first, _) = send(&mut client, request("GET", "/", &[]), true).await;
        let (second, _) = send(&mut client, request("GET", "/", &[]), true).await;
        let (first, second) = tokio::join!(async { whole(first.await.unwrap().into_body()).await }, async {
            whole(second.await.unwrap().into_body()).await
        });
        for (body, _, complete) in [first, second] {
            assert_eq!((body.len(), complete), (1 << 20, true), "{driver}");
        }
    }
}

/// One that does not read has its stream reset, the others of the connection go on, and the backend is not blamed.
#[tokio::test]
async fn a_client_that_reads_nothing_of_one_stream_loses_that_stream() {
    let (upstream, edge) = start("{ write_timeout: 300ms }").await;
    for driver in DRIVERS {
        upstream.behave(Answer::new(200).filler(8 << 20));
        let mut builder = Builder::new();
        builder.initial_window_size(10_000).initial_connection_window_size(1 << 20);
        let mut client = connect_with(&edge, driver, &builder).await;
        let (response, _) = send(&mut client, request("GET", "/unread", &[]), true).await;
        let mut unread = response.await.unwrap().into_body();
        until("the backend's sending to end", || upstream.in_flight() == 0).await.unwrap();
        let mut ended = false;
        while let Some(data) = within("the end", unread.data()).await.unwrap() {
            ended = data.is_err();
            if ended {
                break;
            }
        }
        assert!(ended, "{driver}: the stream is reset");
        upstream.behave(Answer::new(200).body("ok"));
        let (other, _) = send(&mut client, request("GET", "/", &[]), true).await;
        assert_eq!(whole(other.await.unwrap().into_body()).await.0, b"ok");
        let line = edge.logged("the unread one", |line| line["path"] == "/unread" && line["listener"] == driver).await;
        assert_eq!(line["reason"], "client.gone", "{driver}");
    }
    assert_eq!(edge.metric("portcullis_backend_requests_total", &[("outcome", "timeout")]), 0.0);
}

#[tokio::test]
async fn a_stream_that_is_given_up_cancels_the_request_to_the_backend() {
    let (upstream, edge) = start("{}").await;
    for driver in DRIVERS {
        for (path, behaviour) in
            [("/waiting", Answer::new(200).after(Duration::from_secs(60))), ("/reading", Answer::new(200).filler(256 << 20))]
        {
            let before = upstream.connections();
            upstream.behave(behaviour);
            let mut client = connect(&edge, driver).await;
            let (response, mut sender) = send(&mut client, request("GET", path, &[]), true).await;
            until("the backend to be asked", || upstream.connections() > before).await.unwrap();
            sender.send_reset(Reason::CANCEL);
            drop(response);
            let line = edge.logged("the one given up", |line| line["path"] == path && line["listener"] == driver).await;
            assert_eq!(line["reason"], "client.gone", "{driver} {path}");
            let (other, _) = send(&mut client, request("GET", "/own", &[]), true).await;
            assert_eq!(other.await.unwrap().status(), 200, "{driver}: the connection goes on");
        }
    }
    assert_eq!(edge.metric("portcullis_backend_requests_total", &[("outcome", "timeout")]), 0.0);
}

#[tokio::test]
async fn a_body_that_stops_ends_its_stream_with_408() {
    let (upstream, edge) = start("{ body_timeout: 300ms }").await;
    for driver in DRIVERS {
        for length in [&[("content-length", "10")][..], &[]] {
            let mut client = connect(&edge, driver).await;
            let (response, mut sender) = send(&mut client, request("POST", "/stalled", length), false).await;
            sender.send_data(Bytes::from_static(b"hello"), false).unwrap();
            let response = within("the response", response).await.unwrap().unwrap();
            assert_eq!(response.status(), 408, "{driver}");
            let (again, _) = send(&mut client, request("GET", "/own", &[]), true).await;
            assert_eq!(again.await.unwrap().status(), 200, "{driver}: the connection goes on");
        }
        let line = edge.logged("the stalled one", |line| line["path"] == "/stalled" && line["listener"] == driver).await;
        assert_eq!(line["reason"], "request.timeout");
    }
    assert_eq!(edge.metric("portcullis_backend_requests_total", &[("outcome", "timeout")]), 0.0);
    assert!(upstream.requests().iter().all(|seen| !seen.complete));
}

/// A backend must never take the half of a body for the whole.
#[tokio::test]
async fn a_body_that_breaks_off_is_never_complete_at_the_backend() {
    let (upstream, edge) = start("{}").await;
    for driver in DRIVERS {
        for length in [&[("content-length", "10")][..], &[]] {
            let mut client = connect(&edge, driver).await;
            let (_response, mut sender) = send(&mut client, request("POST", "/", length), false).await;
            sender.send_data(Bytes::from_static(b"hello"), false).unwrap();
            until("the backend to be asked", || upstream.in_flight() > 0).await.unwrap();
            sender.send_reset(Reason::CANCEL);
            until("the backend to be let go", || upstream.in_flight() == 0).await.unwrap();
        }
    }
    assert!(upstream.requests().iter().all(|seen| !seen.complete));
}

/// The library answers none of these by itself: each is counted, logged, and has an id.
#[tokio::test]
async fn malformed_heads_are_refused_with_an_id() {
    let (upstream, edge) = start("{}").await;
    for driver in DRIVERS {
        let mut client = connect(&edge, driver).await;
        for (method, uri, fields, status) in [
            ("GET", "http://user:secret@a.test/", &[][..], 400),
            ("GET", "http://a.test:0x50/", &[], 400),
            ("GET", "http://a.test/", &[("host", "b.test")], 400),
            ("POST", "http://a.test/", &[("content-length", "5, 5")], 400),
            ("GET", "http://a.test/", &[("transfer-encoding", "chunked")], 400),
            ("CONNECT", "a.test:443", &[], 405),
            ("TRACE", "http://a.test/", &[], 405),
        ] {
            let Ok(uri) = uri.parse::<http::Uri>() else { continue };
            let mut request = Request::builder().method(method).uri(uri.clone());
            for (name, value) in fields {
                request = request.header(*name, *value);
            }
            std::future::poll_fn(|context| client.poll_ready(context)).await.unwrap();
            let Ok((response, _)) = client.send_request(request.body(()).unwrap(), true) else { continue };
            match within("the response", response).await.unwrap() {
                Ok(response) => {
                    assert_eq!(response.status(), status, "{driver} {method} {uri}");
                    let id = response.headers()["x-decision-id"].to_str().unwrap().to_owned();
                    let line = edge.logged("the refusal", |line| line["decision_id"] == id.as_str()).await;
                    assert!(!line.to_string().contains("secret"));
                }
                // What the library itself cannot read.
                Err(error) => assert_eq!(error.reason(), Some(Reason::PROTOCOL_ERROR), "{driver} {method} {uri}"),
            }
        }
        let (again, _) = send(&mut client, request("GET", "/own", &[]), true).await;
        assert_eq!(again.await.unwrap().status(), 200, "{driver}: the connection goes on");
    }
    assert_eq!(upstream.count(), 0);
}

/// CVE-2023-44487: streams that are opened and reset at once.
#[tokio::test]
async fn rapid_resets_do_not_keep_others_from_being_served() {
    let (_upstream, edge) = start("{}").await;
    for driver in DRIVERS {
        let mut attacker = connect(&edge, driver).await;
        for _ in 0..5000 {
            if std::future::poll_fn(|context| attacker.poll_ready(context)).await.is_err() {
                break;
            }
            let Ok((_, mut sender)) = attacker.send_request(request("GET", "/", &[]), true) else { break };
            sender.send_reset(Reason::CANCEL);
        }
        let mut client = connect(&edge, driver).await;
        let (response, _) = send(&mut client, request("GET", "/own", &[]), true).await;
        assert_eq!(within("the response", response).await.unwrap().unwrap().status(), 200);
    }
}

#[tokio::test]
async fn an_interim_response_comes_before_the_final_one() {
    let (upstream, edge) = start("{}").await;
    let early = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    upstream.behave(Behaviour::raw(early));
    let mut client = connect(&edge, "direct").await;
    let (mut response, _) = send(&mut client, request("GET", "/", &[]), true).await;
    let interim = std::future::poll_fn(|context| response.poll_informational(context)).await.unwrap().unwrap();
    assert_eq!((interim.status().as_u16(), &interim.headers()["link"]), (103, &"</a>".parse().unwrap()));
    assert_eq!(whole(response.await.unwrap().into_body()).await.0, b"ok");
}

/// Full duplex: the response is read while the request is still being written.
#[tokio::test]
async fn an_answer_before_the_end_of_the_body_is_brought_at_once() {
    let (upstream, edge) = start("{}").await;
    upstream.behave(Answer::new(200).body("early").early());
    for driver in DRIVERS {
        let mut client = connect(&edge, driver).await;
        let (response, mut sender) = send(&mut client, request("POST", "/", &[]), false).await;
        sender.send_data(Bytes::from_static(b"hello"), false).unwrap();
        let response = within("the response", response).await.unwrap().unwrap();
        assert_eq!(whole(response.into_body()).await.0, b"early", "{driver}");
        let (again, _) = send(&mut client, request("GET", "/own", &[]), true).await;
        assert_eq!(again.await.unwrap().status(), 200, "{driver}: the connection goes on");
    }
}

/// As gRPC streams do: each piece is answered before the next one is sent, to a backend that speaks HTTP/2.
#[tokio::test]
async fn pieces_go_both_ways_in_turn() {
    let backend = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = backend.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = backend.accept().await.unwrap();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(tcp).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    tokio::spawn(async move {
                        let mut body = request.into_body();
                        let mut sender = respond.send_response(Response::new(()), false).unwrap();
                        while let Some(Ok(data)) = body.data().await {
                            let _ = body.flow_control().release_capacity(data.len());
                            sender.send_data(data, false).unwrap();
                        }
                        let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
                        sender.send_trailers(trailers).unwrap();
                    });
                }
            });
        }
    });
    let config = CONFIG.replace("web: { ", "web: { protocol: h2, ");
    let edge = edge(&config).with("LIMITS", "{}").with("UPSTREAM", address).start().await;
    let mut client = connect(&edge, "direct").await;
    let (response, mut sender) = send(&mut client, request("POST", "/", &[("te", "trailers")]), false).await;
    sender.send_data(Bytes::from_static(b"piece 0"), false).unwrap();
    let mut body = within("the response", response).await.unwrap().unwrap().into_body();
    for at in 1..20 {
        let echoed = within("the echo", body.data()).await.unwrap().unwrap().unwrap();
        assert_eq!(echoed, format!("piece {}", at - 1).as_bytes());
        let _ = body.flow_control().release_capacity(echoed.len());
        sender.send_data(format!("piece {at}").into(), at == 19).unwrap();
    }
    let (rest, trailers, complete) = whole(body).await;
    assert_eq!((rest.as_slice(), complete), (&b"piece 19"[..], true));
    assert_eq!(trailers.unwrap()["grpc-status"], "0");
}
