//! CORS preflights come as `OPTIONS` and ask for another method: the route of that method answers.

use super::support::{Edge, edge};
use portcullis_testkit::client::head;
use portcullis_testkit::{Response, Upstream};

const CONFIG: &str = r#"
listeners: [{ name: http, address: 127.0.0.1:0 }]
access_log: { path: access.jsonl }
pools: { web: { backends: [{ address: UPSTREAM }] } }
routes:
  - name: api
    match: { path: /api, methods: [GET, PUT] }
    filters: [{ cors: { origins: ["https://app.example.com"], methods: [GET, PUT] } }]
    pool: web
  - name: shadowed
    match: { path: /shadowed, methods: [GET] }
    filters: [{ cors: { origins: ["https://app.example.com"] }, mode: shadow }]
    pool: web
  - name: closed
    match: { path: /closed, methods: [GET] }
    pool: web
  - name: own
    match: { path: /own, methods: [GET, OPTIONS] }
    pool: web
"#;

async fn start() -> (Upstream, Edge) {
    let upstream = Upstream::start().await.unwrap();
    let edge = edge(CONFIG).with("UPSTREAM", upstream.address()).start().await;
    (upstream, edge)
}

async fn preflight(edge: &Edge, path: &str, method: &str) -> Response {
    let fields = [("origin", "https://app.example.com"), ("access-control-request-method", method)];
    edge.client().await.request(head("OPTIONS", "a", path, &fields)).await.unwrap()
}

#[tokio::test]
async fn a_preflight_is_answered_by_the_filter_of_the_route_it_asks_for() {
    let (upstream, edge) = start().await;
    for method in ["GET", "PUT"] {
        let response = preflight(&edge, "/api", method).await;
        assert_eq!(response.status, 204);
        assert_eq!(response.header("access-control-allow-origin").unwrap(), "https://app.example.com");
        assert_eq!(edge.line(&response).await["route"], "api");
    }
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn a_preflight_from_a_strange_origin_is_refused_by_the_filter() {
    let (upstream, edge) = start().await;
    let fields = [("origin", "https://evil.example"), ("access-control-request-method", "GET")];
    let response = edge.client().await.request(head("OPTIONS", "a", "/api", &fields)).await.unwrap();
    assert_eq!(response.status, 403);
    assert_eq!(edge.line(&response).await["reason"], "cors.denied");
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn a_preflight_that_no_filter_answers_is_still_a_method_not_allowed() {
    let (upstream, edge) = start().await;
    // Another method than the route's; no such filter; a filter that does not count.
    for (path, method, allow) in
        [("/api", "DELETE", "GET, HEAD, PUT"), ("/closed", "GET", "GET, HEAD"), ("/shadowed", "GET", "GET, HEAD")]
    {
        let response = preflight(&edge, path, method).await;
        assert_eq!((response.status, response.header("allow").unwrap().as_str()), (405, allow), "{path}");
        assert_eq!(edge.line(&response).await["reason"], "route.method", "{path}");
    }
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn options_that_is_no_preflight_is_a_method_not_allowed() {
    let (upstream, edge) = start().await;
    let origin = ("origin", "https://app.example.com");
    for fields in [vec![], vec![origin], vec![("access-control-request-method", "GET")]] {
        let response = edge.client().await.request(head("OPTIONS", "a", "/api", &fields)).await.unwrap();
        assert_eq!(response.status, 405, "{fields:?}");
    }
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn a_route_that_serves_options_itself_gets_its_preflights() {
    let (upstream, edge) = start().await;
    assert_eq!(preflight(&edge, "/own", "GET").await.status, 200);
    assert_eq!(upstream.last().unwrap().method, "OPTIONS");
}

/// A page can read the answer to the request itself, too.
#[tokio::test]
async fn the_request_behind_a_preflight_is_served() {
    let (_upstream, edge) = start().await;
    let response = edge.client().await.get("a", "/api", &[("origin", "https://app.example.com")]).await.unwrap();
    assert_eq!(response.status, 200);
    assert_eq!(response.header("access-control-allow-origin").unwrap(), "https://app.example.com");
}
