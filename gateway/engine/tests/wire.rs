//! A gateway without any filter, on the wire: what it owes its clients whatever is configured.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use portcullis_engine::config::inspect::inspect;
use portcullis_engine::explain::{Query, explain};
use portcullis_engine::gateway::{Builder, Handle};
use portcullis_plugin::{
    Body, BodyAccess, Build, ConfigError, Env, Exchange, Filter, FilterFactory, FilterTable, Needs, Verdict, reason,
};
use portcullis_testkit::frames::{Answered, exchange};
use portcullis_testkit::pki::{Pki, client_config};
use portcullis_testkit::{Answer, Behaviour, Client, Http2Client, Upstream, until};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

const WIRE: &str = "
listeners: [{ name: web, address: 127.0.0.1:0, LIMITS }]
pools: { app: { backends: [{ address: 'BACKEND' }], retries: 0 } }
routes: [{ name: app, pool: app }]
";

async fn gateway(limits: &str, backend: SocketAddr) -> (Handle, SocketAddr) {
    let config = WIRE.replace("LIMITS", limits).replace("BACKEND", &backend.to_string());
    let gateway = Builder::new(FilterTable::default()).config_text(config).start().await.unwrap();
    let address = gateway.address("web").unwrap();
    (gateway, address)
}

/// The value of a counter, summed over its series that have all of `labels`.
fn count(gateway: &Handle, name: &str, labels: &[&str]) -> f64 {
    let metrics = gateway.metrics();
    let series = metrics.lines().filter(|line| line.starts_with(name) && labels.iter().all(|label| line.contains(label)));
    series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backends_connection_fields_do_not_reach_the_client() {
    let upstream = Upstream::start().await.unwrap();
    upstream.behave(Behaviour::raw(
        "HTTP/1.1 200 OK\r\nConnection: X-Internal, close\r\nKeep-Alive: timeout=1\r\nX-Internal: 1\r\n\
         Upgrade: h2c\r\nProxy-Authenticate: Basic\r\nX-Kept: 1\r\nContent-Length: 2\r\n\r\nok",
    ));
    let (_gateway, address) = gateway("h2c: true", upstream.address()).await;
    let http1 = Client::connect(address).await.unwrap().get("a.test", "/", &[]).await.unwrap();
    let http2 = Http2Client::connect(address).await.unwrap().get("a.test", "/", &[]).await.unwrap();
    for response in [&http1, &http2] {
        assert_eq!((response.status, response.text().as_str()), (200, "ok"));
        for name in ["keep-alive", "x-internal", "upgrade", "proxy-authenticate"] {
            assert_eq!(response.header(name), None, "{name}");
        }
        assert!(response.header("x-kept").is_some());
    }
    assert_eq!(http1.header("connection"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interim_response_says_no_more_than_it_may() {
    let upstream = Upstream::start().await.unwrap();
    upstream.behave(Behaviour::raw(
        "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nX-Decision-Id: forged\r\nKeep-Alive: timeout=1\r\n\r\n\
         HTTP/1.1 200 OK\r\nX-Decision-Id: forged\r\nContent-Length: 2\r\n\r\nok",
    ));
    let (_gateway, address) = gateway("", upstream.address()).await;
    for (version, hints) in [("1.1", true), ("1.0", false)] {
        let mut client = Client::connect(address).await.unwrap();
        client.send(format!("GET / HTTP/{version}\r\nHost: a.test\r\nConnection: close\r\n\r\n")).await.unwrap();
        let response = String::from_utf8(client.rest().await.unwrap()).unwrap().to_ascii_lowercase();
        assert_eq!(response.starts_with("http/1.1 103"), hints, "{response}");
        assert!(!response.contains("forged") && !response.contains("keep-alive"), "{response}");
        assert!(response.ends_with("\r\n\r\nok"), "{response}");
    }
}

/// It closes kept connections just as they are used, which is no failure of its own and none of the pool's retries; the next one
/// is not another kept connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_is_closed_as_it_is_used_fails_no_request() {
    for driver in ["auto", "pingora"] {
        let upstream = Upstream::start().await.unwrap();
        let (gateway, address) = gateway(&format!("driver: {driver}"), upstream.address()).await;
        // Three at the same time: each has a connection of its own, and all of them are kept.
        let mut clients = Vec::new();
        for _ in 0..3 {
            let mut client = Client::connect(address).await.unwrap();
            client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\n").await.unwrap();
            clients.push(client);
        }
        until("three connections", || upstream.connections() == 3).await.unwrap();
        for client in &mut clients {
            client.send("hi").await.unwrap();
            assert_eq!(client.response().await.unwrap().status, 200);
        }
        upstream.behave(Behaviour::script(|seen| if seen.connection <= 3 { Behaviour::Close } else { Behaviour::Echo }));
        let put = "PUT / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nhi";
        let response = Client::connect(address).await.unwrap().request(put).await.unwrap();
        assert_eq!((response.status, upstream.connections(), upstream.count()), (200, 4, 5), "{driver}");
        assert_eq!(upstream.last().unwrap().body, b"hi");
        assert_eq!(count(&gateway, "portcullis_retries_total", &[]), 0.0);
        assert_eq!(count(&gateway, "portcullis_backend_requests_total", &["outcome=\"reset\""]), 0.0);

        // One that also closes a new connection has failed, and is asked no third time.
        upstream.behave(Behaviour::Close);
        let response = Client::connect(address).await.unwrap().get("a.test", "/", &[]).await.unwrap();
        assert_eq!((response.status, upstream.count()), (502, 7), "{driver}");
        assert_eq!(count(&gateway, "portcullis_backend_requests_total", &["outcome=\"reset\""]), 1.0);

        // What may not be done twice is not sent twice: nobody knows how far it came.
        let post = "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nhi";
        let response = Client::connect(address).await.unwrap().request(post).await.unwrap();
        assert_eq!((response.status, upstream.count()), (502, 8), "{driver}");
        gateway.stop().await;
    }
}

/// A backend that had begun to answer has failed, whichever connection it was.
#[tokio::test(flavor = "multi_thread")]
async fn half_an_answer_on_a_kept_connection_is_a_failure() {
    let upstream = Upstream::start().await.unwrap();
    let (gateway, address) = gateway("", upstream.address()).await;
    let get = async || Client::connect(address).await.unwrap().get("a.test", "/", &[]).await.unwrap().status;
    assert_eq!(get().await, 200);
    upstream.behave(Behaviour::raw("HTTP/1.1 200 OK\r\nContent-Le"));
    assert_eq!((get().await, upstream.count()), (502, 2));
    assert_eq!(count(&gateway, "portcullis_backend_requests_total", &["outcome=\"reset\""]), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_http_1_0_gets_no_chunks() {
    let upstream = Upstream::start().await.unwrap();
    upstream.behave(Answer::new(200).chunks(["one", "two"], Duration::ZERO));
    let (_gateway, address) = gateway("", upstream.address()).await;
    let mut client = Client::connect(address).await.unwrap();
    client.send("GET / HTTP/1.0\r\nHost: a.test\r\nConnection: keep-alive\r\n\r\n").await.unwrap();
    let response = String::from_utf8(client.rest().await.unwrap()).unwrap().to_ascii_lowercase();
    assert!(!response.contains("transfer-encoding"), "{response}");
    assert!(response.contains("connection: close"), "{response}");
    assert!(response.ends_with("\r\n\r\nonetwo"), "{response}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_of_http_1_0_needs_no_host() {
    let upstream = Upstream::start().await.unwrap();
    let (_gateway, address) = gateway("", upstream.address()).await;
    let response = Client::connect(address).await.unwrap().request("GET / HTTP/1.0\r\n\r\n").await.unwrap();
    assert_eq!(response.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn head_is_answered_when_no_backend_is() {
    let upstream = Upstream::start().await.unwrap();
    upstream.go_down().await;
    let (_gateway, address) = gateway("", upstream.address()).await;
    let mut client = Client::connect(address).await.unwrap();
    client.send("HEAD / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.unwrap();
    let response = client.response_to("HEAD").await.unwrap();
    assert_eq!(response.status, 502);
    assert!(response.header("x-decision-id").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_gets_its_answer_while_more_of_it_is_on_the_way() {
    let upstream = Upstream::start().await.unwrap();
    let (gateway, address) = gateway("limits: { body: 1KiB }", upstream.address()).await;
    for _ in 0..5 {
        let mut client = Client::connect(address).await.unwrap();
        client.send("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
        client.send(format!("800\r\n{}\r\n10000\r\n{}", "x".repeat(0x800), "x".repeat(0x8000))).await.unwrap();
        let response = client.response().await.unwrap();
        assert_eq!(response.status, 413);
        assert!(response.header("x-decision-id").is_some());
        // More comes after the answer: that must not cost the client the answer, nor be a request.
        let _ = client.send("x".repeat(0x8000)).await;
        assert_eq!(client.rest().await.unwrap_or_default(), b"");
    }
    // The backend had no part in it.
    assert_eq!(count(&gateway, "portcullis_backend_requests_total", &["outcome=\"reset\""]), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_body_limit_does_not_end_a_tunnel() {
    let upstream = Upstream::start().await.unwrap();
    let (_gateway, address) = gateway("limits: { body: 64B }", upstream.address()).await;
    let mut client = Client::connect(address).await.unwrap();
    assert_eq!(client.websocket("a.test", "/", &[]).await.unwrap().status, 101);
    for _ in 0..5 {
        let message = "m".repeat(60);
        assert_eq!(client.echo(&message).await.unwrap(), message);
    }
}

/// Refuses the body that comes after the first piece.
struct Tripwire;

#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Nothing {}

impl Build for Tripwire {
    const NAME: &'static str = "tripwire";
    const EXAMPLE: &'static str = "{}";
    type Config = Nothing;

    fn build(_: Nothing, _: &Env) -> Result<Self, ConfigError> {
        Ok(Self)
    }
}

impl Filter for Tripwire {
    fn request_body(&self, body: &mut Body<'_>, exchange: &mut Exchange) -> Verdict {
        if body.data().is_empty() {
            return Verdict::Continue;
        }
        if exchange.extension::<()>().is_some() {
            return Verdict::deny(reason::REQUEST_TOO_LARGE);
        }
        exchange.insert_extension(());
        Verdict::Continue
    }

    fn needs(&self) -> Needs {
        Needs { request_body: BodyAccess::Read, ..Needs::default() }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_not_written_into_a_tunnel() {
    let upstream = Upstream::start().await.unwrap();
    let config = WIRE.replace("LIMITS", "filters: [{ tripwire: {} }]").replace("BACKEND", &upstream.address().to_string());
    let table = FilterTable::new([FilterFactory::of::<Tripwire>()]);
    let gateway = Builder::new(table).config_text(config).start().await.unwrap();
    let mut client = Client::connect(gateway.address("web").unwrap()).await.unwrap();
    assert_eq!(client.websocket("a.test", "/", &[]).await.unwrap().status, 101);
    assert_eq!(client.echo("first").await.unwrap(), "first");
    client.send([0x81, 0x81, 0, 0, 0, 0, b'x']).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&client.rest().await.unwrap_or_default()), "");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_http2_itself_refuses_is_counted_too() {
    let upstream = Upstream::start().await.unwrap();
    let (gateway, address) = gateway("h2c: true, limits: { header_bytes: 2KiB }", upstream.address()).await;
    let mut client = Client::connect(address).await.unwrap();
    let connect: [(&[u8], &[u8]); 2] = [(b":method", b"CONNECT"), (b":authority", b"a.test:443")];
    assert_eq!(exchange(&mut client, &connect, None).await.unwrap(), Answered::Status(405));
    assert_eq!(count(&gateway, "portcullis_requests_total", &["405"]), 1.0);

    // As many bytes as fit the limit by its letter, and not by the library's count.
    let mut client = Http2Client::connect(address).await.unwrap();
    let fields: Vec<(String, String)> = (0..90).map(|n| (format!("x-{n:02}"), "0123456789".into())).collect();
    let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(client.get("a.test", "/", &fields).await.unwrap().status, 200);
    let response = client.get("a.test", "/", &[("x-large", &"x".repeat(2_100))]).await.unwrap();
    assert_eq!(response.status, 431);
    assert!(response.header("x-decision-id").is_some());
    assert_eq!(count(&gateway, "portcullis_requests_total", &["431"]), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_breaks_open_connections_off() {
    let upstream = Upstream::start().await.unwrap();
    upstream.behave(Behaviour::Hang);
    let (gateway, address) = gateway("h2c: true", upstream.address()).await;
    let mut client = Client::connect(address).await.unwrap();
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.unwrap();
    upstream.wait_for(1).await.unwrap();
    gateway.stop().await;
    assert!(client.is_closed().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_reload_is_tried_again_when_what_it_missed_is_there() {
    let upstream = Upstream::start().await.unwrap();
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = folder.path().join("edge.yaml");
    let config = WIRE.replace("LIMITS", "").replace("BACKEND", &upstream.address().to_string());
    std::fs::write(&path, &config).unwrap();
    let gateway = Builder::new(FilterTable::default()).config_file(&path).start().await.unwrap();

    let missing = elsewhere.path().join("more.yaml");
    std::fs::write(&path, format!("include: ['{}']\n{config}", missing.display())).unwrap();
    until("the failed reload", || count(&gateway, "portcullis_reloads_total", &["result=\"failure\""]) >= 1.0).await.unwrap();
    assert_eq!(gateway.generation(), 1);
    std::fs::write(&missing, "shutdown: { drain: 1s }\n").unwrap();
    until("the reload", || gateway.generation() == 2).await.unwrap();
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_certificate_ends_what_its_open_connection_may() {
    let upstream = Upstream::start().await.unwrap();
    let (pki, folder) = (Pki::new().unwrap(), tempfile::tempdir().unwrap());
    let at = |name: &str| folder.path().join(name);
    pki.server(&["edge.test"]).unwrap().write_to(folder.path(), "edge").unwrap();
    pki.write_ca(at("ca.pem")).unwrap();
    let client = pki.client("laptop").unwrap();
    pki.crl(&[]).unwrap().write_to(at("list.crl")).unwrap();
    let tls = "tls: { certificates: [{ cert: edge.pem, key: edge.key }], \
               client_auth: { ca: ca.pem, crl: list.crl, mode: require } }";
    let config = WIRE.replace("LIMITS", tls).replace("BACKEND", &upstream.address().to_string());
    std::fs::write(at("edge.yaml"), config).unwrap();
    let gateway = Builder::new(FilterTable::default()).config_file(at("edge.yaml")).watch_files(false).start().await.unwrap();

    let tls = client_config(&[&pki], Some(&client), &["http/1.1"]).unwrap();
    let mut connection = Client::connect_tls(gateway.address("web").unwrap(), "edge.test", tls).await.unwrap();
    assert_eq!(connection.get("edge.test", "/", &[]).await.unwrap().status, 200);
    pki.crl(&[&client]).unwrap().write_to(at("list.crl")).unwrap();
    gateway.reload().await.unwrap();
    let response = connection.get("edge.test", "/", &[]).await.unwrap();
    assert_eq!(response.status, 403);
    assert_eq!(upstream.count(), 1);

    // `explain` says the same of a client that could not even connect.
    let inspection = inspect(&at("edge.yaml"), &FilterTable::default(), None).unwrap();
    let query = Query {
        url: "https://edge.test/".into(),
        method: "GET".into(),
        headers: Vec::new(),
        certificate: Vec::new(),
        client: "192.0.2.1".parse().unwrap(),
        at: SystemTime::now(),
        listener: None,
    };
    let explanation = explain(inspection.snapshot(), &query).await.unwrap();
    assert_eq!((explanation.verdict, explanation.reason), ("deny", Some("cert.missing")));
    gateway.stop().await;
}
