//! What `portcullis why` says of requests that failed at a backend, at an issuer or in a filter.

use crate::support::{Edge, Setup, edge};
use crate::why_catalogue::{asked, assert_clear};
use portcullis::plugin::schemars::JsonSchema;
use portcullis::plugin::{Build, ConfigError, Env, Exchange, Filter, RequestHead, Verdict};
use portcullis_testkit::{Answer, Behaviour, Upstream};
use serde::Deserialize;

/// A backend, a gateway in front of it, and what is behind each path.
const BACKENDS: &str = r#"
listeners: [{ name: http, address: 127.0.0.1:0, driver: DRIVER }]
admin: { address: 127.0.0.1:0 }
access_log: { path: access.jsonl }
issuers:
  asked:
    issuer: "http://UPSTREAM"
    audiences: [a]
    introspection: { endpoint: "http://UPSTREAM/introspect", client_id: gateway, client_secret_file: secret, inactive_ttl: 0s }
pools:
  up: { backends: [{ address: "UPSTREAM" }], retries: 0, timeouts: { read: 200ms } }
  whole: { backends: [{ address: "UPSTREAM" }], retries: 0, timeouts: { total: 200ms } }
  tls: { backends: [{ address: "UPSTREAM" }], retries: 0, protocol: http/1.1, tls: { server_name: backend.example }, timeouts: { connect: 300ms } }
  closed: { backends: [{ address: "CLOSED" }], retries: 0 }
  down: { backends: [{ address: "CLOSED" }], health: { start: unhealthy } }
routes:
  - { name: whole, match: { path: /whole }, pool: whole }
  - { name: tls, match: { path: /tls }, pool: tls }
  - { name: closed, match: { path: /closed }, pool: closed }
  - { name: down, match: { path: /down }, pool: down }
  - { name: opaque, match: { path: /opaque }, filters: [{ oidc: { issuer: asked } }], pool: up }
  - { name: faulty, match: { path: /faulty }, filters: [{ faulty: {} }], pool: up }
  - { name: up, pool: up }
"#;

/// A filter with a bug.
struct Faulty;

#[derive(Deserialize, JsonSchema)]
#[serde(crate = "serde", deny_unknown_fields)]
#[schemars(crate = "portcullis::plugin::schemars")]
struct Nothing {}

impl Build for Faulty {
    const NAME: &'static str = "faulty";
    const EXAMPLE: &'static str = "{}";
    type Config = Nothing;

    fn build(_: Nothing, _: &Env) -> Result<Self, ConfigError> {
        Ok(Self)
    }
}

impl Filter for Faulty {
    fn request(&self, _: &mut RequestHead, _: &mut Exchange) -> Verdict {
        panic!("hunter2")
    }
}

struct Backends {
    upstream: Upstream,
    edge: Edge,
}

impl Backends {
    async fn start(driver: &str) -> Self {
        let upstream = Upstream::start().await.unwrap();
        // A port that nobody listens at: it was ours.
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let setup: Setup = edge(BACKENDS).with("DRIVER", driver).with("UPSTREAM", upstream.address()).with("CLOSED", closed);
        let edge = setup.file("secret", "hunter2\n").start_with(|builder| builder.filter::<Faulty>()).await;
        Self { upstream, edge }
    }

    /// What `why` says of a request, which must have failed for this reason.
    async fn why(&self, path: &str, reason: &str) -> String {
        let response = self.edge.client().await.get("a", path, &[("authorization", "Bearer opaque-token")]).await.unwrap();
        assert_eq!(self.edge.line(&response).await["reason"], reason, "{path}");
        let text = asked(self.edge.handle.admin_address().unwrap(), &response).await;
        assert_clear(&text, reason);
        assert!(!text.contains("hunter2") && !text.contains("opaque-token"), "{text}");
        text
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_reads_why_a_backend_did_not_answer_knows_what_to_do() {
    for driver in ["auto", "pingora"] {
        let backends = Backends::start(driver).await;
        let address = backends.upstream.address().to_string();
        let tell = |text: String, parts: &[&str]| assert!(parts.iter().all(|part| text.contains(part)), "{parts:?}\n{text}");
        tell(backends.why("/closed", "upstream.connect").await, &["a connection to 127.0.0.1:", "refused"]);
        tell(backends.why("/down", "pool.no_healthy_backend").await, &["pool down", "portcullis_backend_up"]);
        for (behaviour, path, reason, parts) in [
            (Behaviour::raw("nonsense\r\n\r\n"), "/", "upstream.invalid", ["one HTTP response", &address]),
            (
                Behaviour::raw("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx"),
                "/",
                "upstream.invalid",
                ["one HTTP response", if driver == "auto" { "instead of Content-Length once" } else { "cannot be read" }],
            ),
            (Behaviour::Close, "/", "upstream.reset", ["a whole response from", &address]),
            (Behaviour::Hang, "/", "upstream.timeout", ["each read within 200ms", "nothing came"]),
            (Behaviour::Hang, "/whole", "upstream.timeout", ["all of it within 200ms", "the time for all of it was over"]),
        ] {
            backends.upstream.behave(behaviour);
            tell(backends.why(path, reason).await, &parts);
        }
        // It waits for a request, and gets a handshake.
        let text = backends.why("/tls", "upstream.connect").await;
        tell(text, &["a connection to", if driver == "auto" { "no TLS handshake in time" } else { "no connection in time" }]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_reads_of_a_filter_that_failed_or_an_issuer_that_says_no_knows_what_to_do() {
    let backends = Backends::start("auto").await;
    let text = backends.why("/faulty", "filter.fault").await;
    assert!(text.contains("faulty verdict") && text.contains("log"), "{text}");
    backends.upstream.behave(Answer::new(200).header("content-type", "application/json").body(r#"{"active":false}"#));
    let text = backends.why("/opaque", "token.inactive").await;
    assert!(text.contains("the issuer says it is not"), "{text}");
    backends.upstream.behave(Answer::new(401));
    let text = backends.why("/opaque?again", "issuer.unavailable").await;
    assert!(text.contains("check the credentials"), "{text}");
}
