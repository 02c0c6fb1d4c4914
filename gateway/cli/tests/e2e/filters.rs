//! Filters of one's own in a running gateway: their order, their bodies, their panics, and what the modes make of them.

use super::support::{Edge, edge};
use bytes::Bytes;
use portcullis::plugin::{
    Body, BodyAccess, Build, ConfigError, Env, Exchange, Filter, Needs, ReasonCode, Reply, RequestHead, ResponseHead, Verdict,
    schemars::JsonSchema, serde, serde::Deserialize,
};
use portcullis_testkit::client::head;
use portcullis_testkit::{Answer, Upstream};
use std::time::Duration;

const CLOSED: ReasonCode = ReasonCode::new("acme.closed");

/// Does to a request what its configuration says, and signs what passes.
struct Probe(ProbeConfig);

#[derive(Deserialize, JsonSchema)]
#[serde(crate = "serde", deny_unknown_fields)]
#[schemars(crate = "portcullis::plugin::schemars")]
struct ProbeConfig {
    /// Signs with this.
    name: String,
    /// `pass`, `deny`, `respond`, `panic`, `panic_later`, `panic_waiting`, or a status for the response.
    #[serde(default)]
    does: String,
}

fn sign(headers: &mut portcullis::plugin::Headers, field: &str, name: &str) {
    let before = headers.get_str(field).map(|before| format!("{before},")).unwrap_or_default();
    headers.set(field, format!("{before}{name}")).unwrap();
}

impl Filter for Probe {
    fn request(&self, request: &mut RequestHead, _: &mut Exchange) -> Verdict {
        sign(request.headers_mut(), "x-trace", &self.0.name);
        match self.0.does.as_str() {
            "deny" => Verdict::deny(CLOSED),
            "respond" => Verdict::Respond(Reply::new(200).body("text/plain", "mine")),
            "panic" => panic!("the probe was told to"),
            "panic_waiting" => Verdict::wait(async { panic!("the probe was told to, later") }),
            _ => Verdict::Continue,
        }
    }

    fn response(&self, response: &mut ResponseHead, _: &mut Exchange) -> Verdict {
        assert!(self.0.does != "panic_later", "the probe was told to, on the way back");
        sign(response.headers_mut(), "x-trace", &self.0.name);
        if let Ok(status) = self.0.does.parse() {
            response.set_status(status);
        }
        Verdict::Continue
    }
}

impl Build for Probe {
    const NAME: &'static str = "probe";
    const EXAMPLE: &'static str = "{ name: a }";
    type Config = ProbeConfig;

    fn build(config: ProbeConfig, _: &Env) -> Result<Self, ConfigError> {
        Ok(Self(config))
    }
}

/// Writes both bodies in capital letters, and a word behind each.
struct Shout;

#[derive(Deserialize, JsonSchema)]
#[serde(crate = "serde", deny_unknown_fields)]
#[schemars(crate = "portcullis::plugin::schemars")]
struct ShoutConfig {}

fn shout(body: &mut Body<'_>) -> Verdict {
    let mut data = body.data().to_ascii_uppercase();
    if body.is_last() {
        data.extend_from_slice(b" - END");
    }
    body.replace(Bytes::from(data));
    Verdict::Continue
}

impl Filter for Shout {
    fn request_body(&self, body: &mut Body<'_>, _: &mut Exchange) -> Verdict {
        if body.data().starts_with(b"secret") { Verdict::deny(CLOSED) } else { shout(body) }
    }

    fn response_body(&self, body: &mut Body<'_>, _: &mut Exchange) -> Verdict {
        shout(body)
    }

    fn needs(&self) -> Needs {
        Needs { request_body: BodyAccess::Rewrite, response_body: BodyAccess::Rewrite, ..Needs::default() }
    }
}

impl Build for Shout {
    const NAME: &'static str = "shout";
    const EXAMPLE: &'static str = "{}";
    type Config = ShoutConfig;

    fn build(_: ShoutConfig, _: &Env) -> Result<Self, ConfigError> {
        Ok(Self)
    }
}

const CONFIG: &str = r#"
listeners:
  - name: http
    address: 127.0.0.1:0
    filters: [{ probe: { name: listener } }]
  - name: https
    address: 127.0.0.1:0
    tls: { certificates: [{ cert: edge.pem, key: edge.key }] }
access_log: { path: access.jsonl }
pools: { web: { backends: [{ address: UPSTREAM }] } }
routes:
  - { name: order, match: { path: /order }, filters: [{ probe: { name: a } }, { probe: { name: b } }], pool: web }
  - { name: own, match: { path: /own }, filters: [{ probe: { name: a } }, { probe: { name: b } }], respond: { status: 200 } }
  - { name: deny, match: { path: /deny }, filters: [{ probe: { name: a } }, { probe: { name: b, does: deny } }, { probe: { name: c } }], pool: web }
  - { name: reply, match: { path: /reply }, filters: [{ probe: { name: a } }, { probe: { name: b, does: respond } }, { probe: { name: c } }], pool: web }
  - { name: shadow, match: { path: /shadow }, filters: [{ probe: { name: a }, mode: shadow }, { probe: { name: b, does: deny }, mode: shadow }, { probe: { name: c, does: panic }, mode: shadow }, { shout: {}, mode: shadow }], pool: web }
  - { name: off, match: { path: /off }, filters: [{ probe: { name: a, does: deny }, mode: off }], pool: web }
  - { name: panic, match: { path: /panic }, filters: [{ probe: { name: a } }, { probe: { name: b, does: panic } }], pool: web }
  - { name: panic_later, match: { path: /panic-later }, filters: [{ probe: { name: b, does: panic_later } }], pool: web }
  - { name: panic_waiting, match: { path: /panic-waiting }, filters: [{ probe: { name: b, does: panic_waiting } }], pool: web }
  - { name: empty, match: { path: /empty }, filters: [{ probe: { name: a, does: "204" } }], pool: web }
  - { name: full, match: { path: /full }, filters: [{ probe: { name: a, does: "200" } }], pool: web }
  - { name: body, match: { path: /body }, filters: [{ shout: {} }], pool: web }
"#;

async fn start() -> (Upstream, Edge) {
    let upstream = Upstream::start().await.unwrap();
    let setup = edge(CONFIG).with("UPSTREAM", upstream.address()).tls();
    let edge = setup.start_with(|builder| builder.filter::<Probe>().filter::<Shout>()).await;
    (upstream, edge)
}

#[tokio::test]
async fn filters_run_in_order_on_the_request_and_in_reverse_on_the_response() {
    let (upstream, edge) = start().await;
    let response = edge.client().await.get("a", "/order", &[]).await.unwrap();
    assert_eq!(upstream.last().unwrap().header("x-trace").unwrap(), "listener,a,b");
    assert_eq!(response.header("x-trace").unwrap(), "b,a,listener");
}

/// Security headers belong on refusals too: the gateway's own replies pass the same filters.
#[tokio::test]
async fn replies_of_the_gateway_pass_the_filters_that_have_run() {
    let (upstream, edge) = start().await;
    for (path, status, trace) in [
        ("/own", 200, "b,a,listener"),
        ("/deny", 403, "b,a,listener"),
        ("/reply", 200, "b,a,listener"),
        ("/nowhere", 404, "listener"),
    ] {
        let response = edge.client().await.get("a", path, &[]).await.unwrap();
        assert_eq!((response.status, response.header("x-trace").unwrap().as_str()), (status, trace), "{path}");
        assert!(response.header("x-decision-id").is_some());
    }
    assert_eq!(upstream.count(), 0);
    let verdicts =
        |route, verdict| edge.metric("portcullis_verdicts_total", &[("route", route), ("filter", "probe"), ("verdict", verdict)]);
    assert_eq!((verdicts("deny", "deny"), verdicts("reply", "respond")), (1.0, 1.0));
    let line = edge.logged("the denial", |line| line["route"] == "deny").await;
    assert_eq!((&line["reason"], &line["verdict"], &line["status"]), (&"acme.closed".into(), &"deny".into(), &403.into()));
}

#[tokio::test]
async fn a_shadowed_filter_is_counted_and_changes_nothing() {
    let (upstream, edge) = start().await;
    let response = edge.client().await.post("a", "/shadow", &[], b"hello").await.unwrap();
    assert_eq!(response.status, 200);
    let seen = upstream.last().unwrap();
    assert_eq!((seen.header("x-trace").unwrap().as_str(), seen.body.as_slice()), ("listener", &b"hello"[..]));
    assert_eq!(seen.header("content-length").unwrap(), "5");
    assert_eq!(response.header("x-trace").unwrap(), "listener");
    assert!(response.header("content-length").is_some());
    assert_eq!(response.json().unwrap()["target"], "/shadow");
    let verdicts =
        |verdict| edge.metric("portcullis_verdicts_total", &[("route", "shadow"), ("verdict", verdict), ("mode", "shadow")]);
    assert_eq!(verdicts("deny"), 1.0);
    assert!(verdicts("allow") >= 1.0);
    assert_eq!(edge.metric("portcullis_filter_panics_total", &[("route", "shadow")]), 1.0);
    assert_eq!(edge.line(&response).await["verdict"], "allow");
}

#[tokio::test]
async fn a_filter_that_is_off_is_not_there() {
    let (upstream, edge) = start().await;
    let response = edge.client().await.get("a", "/off", &[]).await.unwrap();
    assert_eq!((response.status, response.header("x-trace").unwrap().as_str()), (200, "listener"));
    assert_eq!(upstream.last().unwrap().header("x-trace").unwrap(), "listener");
}

#[tokio::test]
async fn a_panic_is_a_500_that_is_counted_and_logged_and_the_gateway_lives() {
    let (upstream, edge) = start().await;
    for (path, route) in [("/panic", "panic"), ("/panic-waiting", "panic_waiting"), ("/panic-later", "panic_later")] {
        let mut client = edge.client().await;
        let response = client.get("a", path, &[]).await.unwrap();
        assert_eq!((response.status, response.header("content-type").unwrap().as_str()), (500, "application/problem+json"));
        assert!(!response.text().contains("told"), "{}", response.text());
        let line = edge.line(&response).await;
        assert_eq!((&line["reason"], &line["verdict"], &line["route"]), (&"filter.fault".into(), &"error".into(), &route.into()));
        assert_eq!(edge.metric("portcullis_filter_panics_total", &[("route", route), ("filter", "probe")]), 1.0);
    }
    assert!(upstream.requests().iter().all(|seen| seen.target == "/panic-later"), "the door was closed");
    let mut h2 = edge.h2().await;
    assert_eq!(h2.get("a", "/panic", &[]).await.unwrap().status, 500);
    assert_eq!(h2.get("a", "/order", &[]).await.unwrap().status, 200);
    assert_eq!(edge.client().await.get("a", "/order", &[]).await.unwrap().status, 200);
}

#[tokio::test]
async fn both_bodies_are_rewritten_and_framed_anew() {
    let (upstream, edge) = start().await;
    upstream.behave(Answer::new(200).body("answer"));
    let sized = head("POST", "a", "/body", &[("content-length", "5")]) + "hello";
    let chunked = head("POST", "a", "/body", &[("transfer-encoding", "chunked")]) + "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n";
    for mut client in [edge.client().await, edge.tls().await] {
        for request in [&sized, &chunked] {
            let response = client.request(request).await.unwrap();
            assert_eq!((response.text().as_str(), response.broken), ("ANSWER - END", false));
            assert_eq!(
                (response.header("content-length"), response.header("transfer-encoding").as_deref()),
                (None, Some("chunked"))
            );
            let seen = upstream.last().unwrap();
            assert_eq!((seen.body.as_slice(), seen.complete), (&b"HELLO - END"[..], true));
            assert_eq!((seen.header("content-length"), seen.header("transfer-encoding").as_deref()), (None, Some("chunked")));
        }
    }
    upstream.behave(Answer::new(200).chunks(["an", "swer"], Duration::ZERO));
    let response = edge.h2().await.request("POST", "a", "/body", &[], "hello").await.unwrap();
    assert_eq!((response.text().as_str(), upstream.last().unwrap().body.as_slice()), ("ANSWER - END", &b"HELLO - END"[..]));
}

/// HTTP/1.0 has no chunks: a body of unknown length ends with the connection.
#[tokio::test]
async fn a_rewritten_body_reaches_an_http_1_0_client_whole() {
    let (upstream, edge) = start().await;
    upstream.behave(Answer::new(200).body("answer"));
    let response = edge.client().await.request("GET /body HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n").await.unwrap();
    assert_eq!((response.text().as_str(), response.header("transfer-encoding"), response.broken), ("ANSWER - END", None, false));
}

#[tokio::test]
async fn a_response_without_a_body_gets_none() {
    let (upstream, edge) = start().await;
    let mut client = edge.client().await;
    upstream.behave(Answer::new(200).body("answer"));
    assert_eq!(client.request(head("HEAD", "a", "/body", &[])).await.unwrap().status, 200);
    upstream.behave(Answer::new(204));
    assert_eq!(client.get("a", "/body", &[]).await.unwrap().status, 204);
    upstream.behave(Answer::new(200).body("answer"));
    assert_eq!(client.get("a", "/body", &[]).await.unwrap().text(), "ANSWER - END");
}

#[tokio::test]
async fn a_body_that_a_filter_refuses_never_arrives_whole() {
    let (upstream, edge) = start().await;
    let response = edge.client().await.post("a", "/body", &[], b"secret words").await.unwrap();
    assert_eq!(response.status, 403);
    assert_eq!(edge.line(&response).await["reason"], "acme.closed");
    assert!(upstream.requests().iter().all(|seen| !seen.complete && seen.body.is_empty()));
}

/// What is left of a body that the client does not get is nobody's answer.
#[tokio::test]
async fn a_filter_may_give_a_response_a_status_that_has_no_body() {
    let (upstream, edge) = start().await;
    let smuggled = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled";
    let mut h2 = edge.h2().await;
    for mut client in [edge.client().await, edge.tls().await] {
        for _ in 0..3 {
            upstream.behave(Answer::new(200).chunks([smuggled], Duration::from_millis(50)));
            let empty = client.get("a", "/empty", &[]).await.unwrap();
            assert_eq!((empty.status, empty.body_len, empty.header("content-length")), (204, 0, None));
            upstream.behave(Answer::new(200).body(smuggled));
            let empty = client.get("a", "/empty", &[]).await.unwrap();
            assert_eq!((empty.status, empty.body_len, empty.header("content-length")), (204, 0, None));
            assert_eq!(h2.get("a", "/empty", &[]).await.unwrap().status, 204);
            upstream.behave(Answer::new(200).body("mine"));
            assert_eq!(client.get("a", "/order", &[]).await.unwrap().text(), "mine");
        }
    }
}

#[tokio::test]
async fn a_filter_may_give_a_response_without_a_body_a_status_that_has_one() {
    let (upstream, edge) = start().await;
    let mut client = edge.client().await;
    for _ in 0..3 {
        upstream.behave(Answer::new(304).header("etag", "\"a\""));
        let full = client.get("a", "/full", &[]).await.unwrap();
        assert_eq!((full.status, full.body_len, full.broken), (200, 0, false));
        upstream.behave(Answer::new(200).body("mine"));
        assert_eq!(client.get("a", "/order", &[]).await.unwrap().text(), "mine");
    }
}
