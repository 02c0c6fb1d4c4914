//! Connections that wait for their next request are parked, and nobody can tell.

use super::support::{Edge, edge};
use portcullis_testkit::{Client, Upstream, until};
use std::time::Duration;

const CONFIG: &str = r#"
listeners:
  - { name: http, address: 127.0.0.1:0, LIMITS }
  - { name: other, address: 127.0.0.1:0 }
  - name: https
    address: 127.0.0.1:0
    tls: { certificates: [{ cert: edge.pem, key: edge.key }] }
    LIMITS
pools: { web: { backends: [{ address: UPSTREAM }] } }
routes:
  - { name: all, pool: web }
"#;

const PARKED: &str = "portcullis_connections_parked";

async fn start_with(limits: &str) -> (Upstream, Edge) {
    let upstream = Upstream::start().await.unwrap();
    let setup = edge(CONFIG).with("LIMITS", format!("limits: {{ {limits} }}")).with("UPSTREAM", upstream.address()).tls();
    (upstream, setup.start_with(|builder| builder.park_after(Duration::ZERO)).await)
}

async fn start() -> (Upstream, Edge) {
    start_with("idle_timeout: 600s").await
}

async fn parked(edge: &Edge, count: usize) {
    let what = format!("{count} parked connections");
    #[expect(clippy::cast_precision_loss, reason = "small")]
    let count = count as f64;
    let is = || edge.metric(PARKED, &[]) == count;
    until(&what, is).await.unwrap_or_else(|_| panic!("{what}, but {}", edge.metric(PARKED, &[])));
}

async fn connect(edge: &Edge, tls: bool) -> Client {
    if tls { edge.tls().await } else { edge.client().await }
}

fn open(edge: &Edge) -> f64 {
    edge.metric("portcullis_connections", &[])
}

async fn is_served(client: &mut Client) {
    assert_eq!(client.post("a", "/", &[], b"hello").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_parked_connection_goes_on_as_if_nothing_was() {
    let (upstream, edge) = start().await;
    let mut clients = [edge.client().await, edge.tls().await];
    // Before the first request too.
    parked(&edge, 2).await;
    for _ in 0..5 {
        for client in &mut clients {
            is_served(client).await;
        }
        parked(&edge, 2).await;
        assert_eq!(open(&edge), 2.0);
    }
    assert_eq!(upstream.count(), 10);
}

#[tokio::test]
async fn a_head_that_comes_in_pieces_wakes_it_once_and_has_its_own_deadline() {
    let (_upstream, edge) = start_with("idle_timeout: 600s, header_timeout: 300ms").await;
    for tls in [false, true] {
        let mut client = connect(&edge, tls).await;
        is_served(&mut client).await;
        parked(&edge, 1).await;
        client.send("GET / HTTP/1.1\r\n").await.unwrap();
        assert_eq!(client.response().await.unwrap().status, 408);
        assert!(client.is_closed().await.unwrap());
    }
}

#[tokio::test]
async fn what_is_pipelined_is_served_before_it_parks_again() {
    let (_upstream, edge) = start().await;
    for tls in [false, true] {
        let mut client = connect(&edge, tls).await;
        parked(&edge, 1).await;
        client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n".repeat(20)).await.unwrap();
        for _ in 0..20 {
            assert_eq!(client.response().await.unwrap().status, 200);
        }
        parked(&edge, 1).await;
        drop(client);
        parked(&edge, 0).await;
    }
}

#[tokio::test]
async fn clients_that_leave_are_noticed() {
    let (_upstream, edge) = start().await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(edge.client().await);
        clients.push(edge.tls().await);
    }
    parked(&edge, 40).await;
    clients.truncate(3);
    parked(&edge, 3).await;
    until("all others closed", || open(&edge) == 3.0).await.unwrap();
    for client in &mut clients {
        is_served(client).await;
    }
}

#[tokio::test]
async fn all_at_once_wake_up() {
    let (upstream, edge) = start().await;
    let mut clients = Vec::new();
    for _ in 0..300 {
        clients.push(edge.client().await);
    }
    parked(&edge, 300).await;
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    }
    for client in &mut clients {
        assert_eq!(client.response().await.unwrap().status, 200);
    }
    assert_eq!(upstream.count(), 300);
}

#[tokio::test]
async fn idle_timeout_goes_on_counting() {
    let (_upstream, edge) = start_with("idle_timeout: 1500ms, header_timeout: 100ms").await;
    for tls in [false, true] {
        let mut client = connect(&edge, tls).await;
        is_served(&mut client).await;
        parked(&edge, 1).await;
        // Of TLS too: it ends with the message that says so, or this was an error.
        assert!(client.is_closed().await.unwrap());
        parked(&edge, 0).await;
    }
    assert_eq!(open(&edge), 0.0);
}

#[tokio::test]
async fn a_parked_connection_keeps_its_place_among_those_that_are_allowed() {
    let (_upstream, edge) = start_with("connections: 1, idle_timeout: 600s").await;
    let mut first = edge.client().await;
    parked(&edge, 1).await;
    assert!(edge.client().await.is_closed().await.unwrap());
    is_served(&mut first).await;
    drop(first);
    until("a free place", || open(&edge) == 0.0).await.unwrap();
    is_served(&mut edge.client().await).await;
}

#[tokio::test]
async fn a_reload_is_in_force_for_the_next_request() {
    let (upstream, edge) = start().await;
    let config = std::fs::read_to_string(edge.path().join("edge.yaml")).unwrap();
    let mut client = edge.client().await;
    let mut other = Client::connect(edge.listener("other")).await.unwrap();
    is_served(&mut client).await;
    is_served(&mut other).await;
    parked(&edge, 2).await;
    let without = config.lines().filter(|line| !line.contains("name: other")).collect::<Vec<_>>().join("\n");
    edge.rewrite(&without.replace("{ name: all, pool: web }", "{ name: all, respond: { status: 204 } }"));
    edge.handle.reload().await.unwrap();
    assert_eq!(client.get("a", "/", &[]).await.unwrap().status, 204);
    // Its listener is gone: served once more, as it was, and then closed.
    is_served(&mut other).await;
    assert!(other.is_closed().await.unwrap());
    assert_eq!(upstream.count(), 3);
}

#[tokio::test]
async fn parked_connections_do_not_hold_up_the_end() {
    let (_upstream, edge) = start().await;
    let mut clients = [edge.client().await, edge.tls().await];
    parked(&edge, 2).await;
    let (handle, _folder) = edge.into_parts();
    assert!(handle.drain().await);
    for client in &mut clients {
        // TLS may call it an error that nobody said goodbye.
        assert!(client.is_closed().await.unwrap_or(true));
    }
}

#[tokio::test]
async fn a_gateway_that_is_dropped_closes_them() {
    let (_upstream, edge) = start().await;
    let mut client = edge.client().await;
    parked(&edge, 1).await;
    drop(edge);
    assert!(client.is_closed().await.unwrap());
}
