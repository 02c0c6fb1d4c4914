//! The corpus of hostile requests against the whole gateway: what is refused never reaches an upstream, and what is
//! accepted reaches it as exactly what was judged.

use super::corpus::{Case, Outcome};
use super::support::{Edge, edge};
use portcullis_testkit::upstream::Recorded;
use portcullis_testkit::{Client, Response, Upstream, frames};
use std::collections::BTreeMap;

const CONFIG: &str = r#"
listeners:
  - { name: http, address: 127.0.0.1:0 }
  - name: https
    address: 127.0.0.1:0
    tls: { certificates: [{ cert: edge.pem, key: edge.key }] }
  - { name: h2c, address: 127.0.0.1:0, h2c: true }
access_log: { path: access.jsonl }
pools: { web: { backends: [{ address: UPSTREAM }] } }
routes: [{ name: all, pool: web }]
"#;

async fn start() -> (Upstream, Edge) {
    let upstream = Upstream::start().await.unwrap();
    let edge = edge(CONFIG).with("UPSTREAM", upstream.address()).tls().start().await;
    (upstream, edge)
}

/// The body of an accepted case, as the upstream must get it.
fn body(raw: &[u8]) -> Vec<u8> {
    let at = raw.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let (head, body) = (String::from_utf8_lossy(&raw[..at]).to_ascii_lowercase(), &raw[at + 4..]);
    if head.contains("transfer-encoding") {
        let mut lines = body.split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        return match lines.next() {
            Some(b"0") => Vec::new(),
            Some(_) => lines.next().unwrap().to_owned(),
            None => Vec::new(),
        };
    }
    body.to_owned()
}

fn check_forwarded(case: &Case, target: &str, host: &str, response: &Response, seen: &[Recorded]) -> Result<(), String> {
    let expected = if case.raw.windows(17).any(|window| window == b"Sec-WebSocket-Key") { 101 } else { 200 };
    if response.status != expected {
        return Err(format!("status {} {}", response.status, response.text()));
    }
    let [seen] = seen else { return Err(format!("the upstream saw {} requests", seen.len())) };
    let hosts = seen.header_all("host");
    let expected_hosts: &[&str] = if host.is_empty() { &[] } else { &[host] };
    if seen.target != target || hosts != expected_hosts {
        return Err(format!("the upstream saw {} of {hosts:?}", seen.target));
    }
    if seen.body != body(&case.raw) || !seen.complete {
        return Err(format!("the upstream got the body {:?}", seen.body.escape_ascii().to_string()));
    }
    if String::from_utf8_lossy(&seen.head).lines().filter(|line| line.contains("HTTP/1.")).count() != 1 {
        return Err("the head has two request lines".to_owned());
    }
    Ok(())
}

async fn run(
    case: &Case,
    client: &mut Client,
    upstream: &Upstream,
    edge: &Edge,
    listener: &str,
) -> Result<Option<String>, String> {
    upstream.forget();
    client.send(&case.raw).await.map_err(|error| error.to_string())?;
    if case.outcome == Outcome::Partial {
        client.finish().await.map_err(|error| error.to_string())?;
    }
    let response = client.response().await.map_err(|error| error.to_string())?;
    let (status, reason) = match &case.outcome {
        Outcome::Forwarded { target, host } => {
            return check_forwarded(case, target, host, &response, &upstream.requests()).map(|()| None);
        }
        Outcome::Refused { status, reason } => (*status, reason.as_str()),
        Outcome::Partial => (400, "request.ambiguous"),
    };
    if response.status != status || !client.is_closed().await.unwrap() {
        return Err(format!("status {}, or the connection stays open", response.status));
    }
    if upstream.count() > 0 {
        return Err(format!("the upstream saw {:?}", upstream.last().unwrap().head.escape_ascii().to_string()));
    }
    let line = edge.line(&response).await;
    if line["status"] != status || line["reason"] != reason || line["listener"] != listener || line["verdict"] != "deny" {
        return Err(format!("the log says {line}"));
    }
    Ok(Some(reason.to_owned()))
}

async fn corpus_over(listener: &str) {
    let (upstream, edge) = start().await;
    let mut wrong = Vec::new();
    let mut refused = BTreeMap::<String, f64>::new();
    for case in super::corpus::load() {
        let mut client = if listener == "https" { edge.tls().await } else { edge.client().await };
        match run(&case, &mut client, &upstream, &edge, listener).await {
            Ok(reason) => reason.into_iter().for_each(|reason| *refused.entry(reason).or_default() += 1.0),
            Err(what) => wrong.push(format!("{}: {what}", case.name)),
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(refused.values().sum::<f64>() > 100.0, "the corpus is there");
    for (reason, count) in refused {
        let labels = [("listener", listener), ("reason", reason.as_str())];
        assert_eq!(edge.metric("portcullis_requests_refused_total", &labels), count, "{reason}");
    }
}

#[tokio::test]
async fn the_corpus_ends_as_it_says_on_plain_connections() {
    corpus_over("http").await;
}

#[tokio::test]
async fn the_corpus_ends_as_it_says_on_tls_connections() {
    corpus_over("https").await;
}

/// What stands behind a broken chunk must never be taken for a request.
#[tokio::test]
async fn a_broken_chunked_body_smuggles_nothing() {
    let (upstream, edge) = start().await;
    let smuggled = "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n";
    for broken in [
        "5\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "5;a\nx\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "FFFFFFFFFFFFFFFF\r\nhello",
        "8000000000000000\r\nhello",
        "5\r\nhello\r\n0\n\n",
        "5\r\nhello\r\n0\r\nX: y\n\r\n",
        "5\r\nhello\r\n0\r\n\rX",
        "-1\r\n\r\n",
        "\r\n0\r\n\r\n",
    ] {
        upstream.forget();
        let mut client = edge.client().await;
        let raw = format!("POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{broken}{smuggled}");
        let response = client.request(raw).await.unwrap_or_else(|error| panic!("{broken:?}: {error}"));
        assert_eq!(response.status, 400, "{broken:?}");
        assert!(client.is_closed().await.unwrap(), "{broken:?}");
        let line = edge.line(&response).await;
        assert_eq!((&line["reason"], &line["status"]), (&"request.ambiguous".into(), &400.into()), "{broken:?}");
        for seen in upstream.requests() {
            assert!(seen.target == "/p" && !seen.complete, "{broken:?}: the upstream took {} for whole", seen.target);
        }
    }
}

/// A body that looks like a request is a body, for the one before it and the one behind.
#[tokio::test]
async fn a_request_inside_a_body_stays_a_body() {
    let (upstream, edge) = start().await;
    let inner = "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n";
    let sized = format!("POST /one HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{inner}", inner.len());
    let chunked =
        format!("POST /two HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len());
    for mut client in [edge.client().await, edge.tls().await] {
        upstream.forget();
        client.send(format!("{sized}{chunked}GET /three HTTP/1.1\r\nHost: a\r\n\r\n")).await.unwrap();
        for target in ["/one", "/two", "/three"] {
            let response = client.response().await.unwrap();
            assert_eq!((response.status, response.json().unwrap()["target"].as_str().unwrap()), (200, target));
        }
        let targets: Vec<_> = upstream.requests().into_iter().map(|seen| seen.target).collect();
        assert_eq!(targets, ["/one", "/two", "/three"]);
    }
}

#[tokio::test]
async fn no_field_of_the_connection_and_no_private_one_passes() {
    let (upstream, edge) = start().await;
    let fields = [
        ("connection", "x-private, keep-alive"),
        ("x-private", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "close"),
        ("te", "trailers"),
        ("upgrade", "h2c"),
        ("accept", "*/*"),
    ];
    assert_eq!(edge.client().await.get("a", "/", &fields).await.unwrap().status, 200);
    let seen = upstream.last().unwrap();
    for name in ["x-private", "keep-alive", "proxy-connection", "te", "upgrade"] {
        assert!(seen.header_all(name).is_empty(), "{name}");
    }
    assert_eq!(seen.header("accept").unwrap(), "*/*");
}

/// Name and value.
type Field = (&'static [u8], &'static [u8]);

/// HTTP/2 has its own ways to say what HTTP/1 cannot.
#[tokio::test]
async fn http2_requests_that_could_become_two_are_refused() {
    let (upstream, edge) = start().await;
    let cases: &[(&str, &[Field])] = &[
        ("line break in a value", &[(b"x", b"1\r\nhost: b")]),
        ("line break in a name", &[(b"x\r\ny", b"1")]),
        ("nul in a value", &[(b"x", b"a\0b")]),
        ("upper case", &[(b"X-Upper", b"1")]),
        ("connection", &[(b"connection", b"close")]),
        ("transfer-encoding", &[(b"transfer-encoding", b"chunked")]),
        ("upgrade", &[(b"upgrade", b"websocket")]),
        ("te", &[(b"te", b"gzip")]),
        ("another host", &[(b"host", b"b")]),
        ("two hosts", &[(b"host", b"a"), (b"host", b"a")]),
        ("length without a body", &[(b"content-length", b"5")]),
        ("two lengths", &[(b"content-length", b"0"), (b"content-length", b"0")]),
        ("pseudo-field behind", &[(b":path", b"/admin")]),
        ("unknown pseudo-field", &[(b":x", b"1")]),
        ("two authorizations", &[(b"authorization", b"Bearer a"), (b"authorization", b"Bearer b")]),
        ("length look-alike", &[(b"content_length", b"5")]),
    ];
    for (name, more) in cases {
        let mut client = Client::connect(edge.listener("h2c")).await.unwrap();
        let fields = [frames::get("a", "/"), more.to_vec()].concat();
        let answered = frames::exchange(&mut client, &fields, None).await.unwrap();
        assert!(answered.is_refusal(), "{name}: {answered:?}");
        assert_eq!(upstream.count(), 0, "{name}");
    }
    for (path, name) in [
        ("/a b", "space"),
        ("*", "asterisk"),
        ("a", "no slash"),
        ("http://a/", "absolute"),
        ("/%00", "nul"),
        ("/../x", "above the root"),
    ] {
        let mut client = Client::connect(edge.listener("h2c")).await.unwrap();
        let answered = frames::exchange(&mut client, &frames::get("a", path), None).await.unwrap();
        assert!(answered.is_refusal(), "{name}: {answered:?}");
        assert_eq!(upstream.count(), 0, "{name}");
    }
    // The HTTP/2 library cuts a fragment off before anybody reads the path: there is one reading of it, for all.
    let mut client = Client::connect(edge.listener("h2c")).await.unwrap();
    let cut = frames::exchange(&mut client, &frames::get("a", "/a#b"), None).await.unwrap();
    assert_eq!((cut, upstream.last().unwrap().target.as_str()), (frames::Answered::Status(200), "/a"));
    let mut client = Client::connect(edge.listener("h2c")).await.unwrap();
    let good = frames::exchange(&mut client, &frames::get("a", "/good"), None).await.unwrap();
    assert_eq!((good, upstream.last().unwrap().target.as_str()), (frames::Answered::Status(200), "/good"));
}
