//! Pools under load, with backends that fail in every way a backend can.

use super::support::{Edge, edge};
use portcullis_testkit::client::{head, once};
use portcullis_testkit::{Answer, Behaviour, Client, Upstream, until};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const CONFIG: &str = r#"
listeners: [{ name: http, address: 127.0.0.1:0 }]
access_log: { path: access.jsonl }
pools: { web: { POOL } }
routes: [{ name: all, pool: web }]
"#;

async fn start(pool: &str, upstreams: &[&Upstream]) -> Edge {
    let mut pool = pool.to_owned();
    for (at, upstream) in upstreams.iter().enumerate() {
        pool = pool.replace(&format!("${at}"), &upstream.address().to_string());
    }
    edge(CONFIG).with("POOL", pool).start().await
}

async fn two() -> (Upstream, Upstream) {
    (Upstream::named("a").await.unwrap(), Upstream::named("b").await.unwrap())
}

fn up(edge: &Edge, upstream: &Upstream) -> bool {
    edge.metric("portcullis_backend_up", &[("backend", &upstream.address().to_string())]) == 1.0
}

/// Sends requests over connections of their own until `stop`; gives the number of each status.
async fn load(
    address: SocketAddr,
    workers: usize,
    request: String,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
) -> BTreeMap<u16, u64> {
    let mut set = tokio::task::JoinSet::new();
    for _ in 0..workers {
        let (request, stop, done) = (request.clone(), Arc::clone(&stop), Arc::clone(&done));
        set.spawn(async move {
            let mut statuses = BTreeMap::new();
            let mut client = Client::connect(address).await.unwrap();
            while !stop.load(Ordering::Relaxed) {
                let response = client.request(&request).await.unwrap();
                *statuses.entry(response.status).or_insert(0) += 1;
                done.fetch_add(1, Ordering::Relaxed);
                if response.status != 200 {
                    client = Client::connect(address).await.unwrap();
                }
            }
            statuses
        });
    }
    let mut all = BTreeMap::new();
    for statuses in set.join_all().await {
        statuses.into_iter().for_each(|(status, count)| *all.entry(status).or_insert(0) += count);
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weights_are_exact_over_four_thousand_requests() {
    let (a, b) = two().await;
    let edge = start("backends: [{ address: $0, weight: 3 }, { address: $1, weight: 1 }]", &[&a, &b]).await;
    let address = edge.address();
    let mut set = tokio::task::JoinSet::new();
    for _ in 0..8 {
        set.spawn(async move {
            let mut client = Client::connect(address).await.unwrap();
            for _ in 0..500 {
                assert_eq!(client.get("a", "/", &[]).await.unwrap().status, 200);
            }
        });
    }
    set.join_all().await;
    assert_eq!((a.count(), b.count()), (3000, 1000));
    let outcomes = [("outcome", "success")];
    assert_eq!(edge.metric("portcullis_backend_requests_total", &outcomes), 4000.0);
}

#[tokio::test]
async fn a_weight_of_zero_takes_a_backend_out() {
    let (a, b) = two().await;
    let edge = start("backends: [{ address: $0, weight: 0 }, { address: $1 }]", &[&a, &b]).await;
    for _ in 0..10 {
        assert_eq!(edge.client().await.get("a", "/", &[]).await.unwrap().status, 200);
    }
    assert_eq!((a.count(), b.count()), (0, 10));
}

#[tokio::test]
async fn least_requests_avoids_the_backend_that_is_busy() {
    let (a, b) = two().await;
    a.behave(Behaviour::script(|seen| if seen.target == "/slow" { Behaviour::Hang } else { Behaviour::Echo }));
    b.behave(Behaviour::script(|seen| if seen.target == "/slow" { Behaviour::Hang } else { Behaviour::Echo }));
    let edge = start("balance: least_requests, backends: [{ address: $0 }, { address: $1 }]", &[&a, &b]).await;
    let mut slow = edge.client().await;
    slow.send(head("GET", "a", "/slow", &[])).await.unwrap();
    until("the slow request", || a.in_flight() + b.in_flight() == 1).await.unwrap();
    let (busy, free) = if a.in_flight() == 1 { (&a, &b) } else { (&b, &a) };
    let (busy_before, free_before) = (busy.count(), free.count());
    for _ in 0..20 {
        assert_eq!(edge.client().await.get("a", "/", &[]).await.unwrap().status, 200);
    }
    assert_eq!((busy.count() - busy_before, free.count() - free_before), (0, 20));
}

#[tokio::test]
async fn max_requests_sends_the_rest_elsewhere_and_then_refuses() {
    let (a, b) = two().await;
    for upstream in [&a, &b] {
        upstream.behave(Behaviour::Hang);
    }
    let pool = "backends: [{ address: $0, max_requests: 1 }, { address: $1, max_requests: 2 }]";
    let edge = start(pool, &[&a, &b]).await;
    let mut held = Vec::new();
    for count in 1..=3 {
        let mut client = edge.client().await;
        client.send(head("GET", "a", "/", &[])).await.unwrap();
        until("the request", || a.in_flight() + b.in_flight() == count).await.unwrap();
        held.push(client);
    }
    assert_eq!((a.in_flight(), b.in_flight()), (1, 2));
    let response = edge.client().await.get("a", "/", &[]).await.unwrap();
    assert_eq!(response.status, 503);
    assert_eq!(edge.line(&response).await["reason"], "pool.no_healthy_backend");
}

#[tokio::test]
async fn a_hashed_key_keeps_its_backend_and_other_keys_spread() {
    let (a, b) = two().await;
    for (key, field) in [("header.x-user", "x-user"), ("cookie.session", "cookie")] {
        let pool = format!("balance: hash, hash_key: {key}, backends: [{{ address: $0 }}, {{ address: $1 }}]");
        let edge = start(&pool, &[&a, &b]).await;
        let mut used = BTreeMap::new();
        for user in 0..20 {
            let value = if field == "cookie" { format!("other=1; session=u{user}") } else { format!("u{user}") };
            let mut of_user = Vec::new();
            for _ in 0..5 {
                let response = edge.client().await.get("a", "/", &[(field, &value)]).await.unwrap();
                of_user.push(response.header("x-upstream").unwrap());
            }
            of_user.dedup();
            assert_eq!(of_user.len(), 1, "{key}: {value} moved");
            *used.entry(of_user.remove(0)).or_insert(0) += 1;
        }
        assert_eq!(used.len(), 2, "{key}: {used:?}");
    }
}

/// A connection that is refused was never a request; one that broke is repeated if it may be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_killed_under_load_fails_no_request_that_may_be_repeated() {
    let (a, b) = two().await;
    let edge = start("backends: [{ address: $0 }, { address: $1 }]", &[&a, &b]).await;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let request = head("GET", "a", "/", &[]);
    let running = tokio::spawn(load(edge.address(), 8, request, Arc::clone(&stop), Arc::clone(&done)));
    for _ in 0..5 {
        let more = |count| {
            let (done, before) = (Arc::clone(&done), done.load(Ordering::Relaxed));
            async move { until("more requests", || done.load(Ordering::Relaxed) >= before + count).await.unwrap() }
        };
        more(100).await;
        b.go_down().await;
        more(100).await;
        b.come_back().unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    let statuses = running.await.unwrap();
    assert_eq!(statuses.keys().copied().collect::<Vec<_>>(), [200], "{statuses:?}");
    assert!(edge.metric("portcullis_retries_total", &[("pool", "web")]) > 0.0);
}

#[tokio::test]
async fn a_refused_connection_is_retried_whatever_the_method_and_counted() {
    let (a, b) = two().await;
    a.go_down().await;
    let edge = start("backends: [{ address: $0 }, { address: $1 }]", &[&a, &b]).await;
    for _ in 0..4 {
        let response = edge.client().await.post("a", "/", &[], b"hello").await.unwrap();
        assert_eq!((response.status, response.header("x-upstream").unwrap().as_str()), (200, "b"));
    }
    assert_eq!(b.requests().iter().filter(|seen| seen.body == b"hello").count(), 4);
    let refused = edge.metric("portcullis_backend_requests_total", &[("outcome", "connect_failed")]);
    assert_eq!(refused, edge.metric("portcullis_retries_total", &[("pool", "web")]));
    assert!(refused >= 1.0);
    let lines = edge.logged("a request of two attempts", |line| line["attempts"] == 2).await;
    assert_eq!(lines["backend"], b.address().to_string());
}

#[tokio::test]
async fn a_post_that_a_backend_took_is_never_sent_twice() {
    let (a, b) = two().await;
    for upstream in [&a, &b] {
        upstream.behave(Behaviour::Close);
    }
    let edge = start("backends: [{ address: $0 }, { address: $1 }]", &[&a, &b]).await;
    let response = edge.client().await.post("a", "/", &[], b"pay").await.unwrap();
    assert_eq!(response.status, 502);
    assert_eq!(edge.line(&response).await["reason"], "upstream.reset");
    assert_eq!(a.count() + b.count(), 1);
}

#[tokio::test]
async fn a_get_that_a_backend_dropped_goes_to_another() {
    let (a, b) = two().await;
    a.behave(Behaviour::Close);
    let edge = start("backends: [{ address: $0 }, { address: $1 }]", &[&a, &b]).await;
    for _ in 0..4 {
        assert_eq!(edge.client().await.get("a", "/", &[]).await.unwrap().header("x-upstream").unwrap(), "b");
    }
    assert!(a.count() > 0);
    let put = head("PUT", "a", "/", &[("content-length", "5")]) + "hello";
    for _ in 0..2 {
        let response = edge.client().await.request(&put).await.unwrap();
        assert_eq!(response.json().unwrap()["body"], "hello");
        assert_eq!(edge.line(&response).await["bytes_in"], 5, "counted once");
    }
}

#[tokio::test]
async fn retries_zero_retries_nothing() {
    let (a, b) = two().await;
    a.go_down().await;
    b.go_down().await;
    let edge = start("retries: 0, backends: [{ address: $0 }, { address: $1 }]", &[&a, &b]).await;
    let response = edge.client().await.get("a", "/", &[]).await.unwrap();
    assert_eq!(response.status, 502);
    let line = edge.line(&response).await;
    assert_eq!((&line["reason"], &line["attempts"]), (&"upstream.connect".into(), &1.into()));
    assert_eq!(edge.metric("portcullis_retries_total", &[]), 0.0);
}

const CHECKED: &str = "health: { http: { path: /healthz }, interval: 50ms, timeout: 2s, healthy_after: 2, unhealthy_after: 2 }, \
                       backends: [{ address: $0 }, { address: $1 }]";

#[tokio::test]
async fn health_checks_take_backends_out_and_back_in() {
    let (a, b) = two().await;
    let edge = start(CHECKED, &[&a, &b]).await;
    assert!(up(&edge, &a) && up(&edge, &b));
    b.health(false);
    until("b taken out", || !up(&edge, &b)).await.unwrap();
    b.forget();
    for _ in 0..10 {
        assert_eq!(edge.client().await.get("a", "/", &[]).await.unwrap().header("x-upstream").unwrap(), "a");
    }
    assert_eq!(b.count(), 0);
    a.health(false);
    until("a taken out", || !up(&edge, &a)).await.unwrap();
    let response = edge.client().await.get("a", "/", &[]).await.unwrap();
    assert_eq!(response.status, 503);
    assert!(response.header("retry-after").is_some());
    assert_eq!(edge.line(&response).await["reason"], "pool.no_healthy_backend");
    b.health(true);
    until("b back", || up(&edge, &b)).await.unwrap();
    assert_eq!(edge.client().await.get("a", "/", &[]).await.unwrap().header("x-upstream").unwrap(), "b");
}

#[tokio::test]
async fn a_pool_that_starts_unhealthy_gets_no_request_before_its_checks_pass() {
    let (a, b) = two().await;
    a.health(false);
    b.health(false);
    let edge = start(&CHECKED.replace("unhealthy_after: 2", "unhealthy_after: 2, start: unhealthy"), &[&a, &b]).await;
    assert_eq!(edge.client().await.get("a", "/", &[]).await.unwrap().status, 503);
    until("checks", || a.health_checks() > 2).await.unwrap();
    assert_eq!(edge.client().await.get("a", "/", &[]).await.unwrap().status, 503);
    assert_eq!(a.count(), 0);
    a.health(true);
    until("a in", || up(&edge, &a)).await.unwrap();
    assert_eq!(edge.client().await.get("a", "/", &[]).await.unwrap().header("x-upstream").unwrap(), "a");
}

/// What a client sees of a backend that fails: a status and an id, and never what the backend said.
async fn fails(pool: &str, behaviour: impl Into<Behaviour>, status: u16, reason: &str, outcome: &str) {
    fails_for(reason, pool, behaviour, status, reason, outcome).await;
}

async fn fails_for(what: &str, pool: &str, behaviour: impl Into<Behaviour>, status: u16, reason: &str, outcome: &str) {
    let upstream = Upstream::start().await.unwrap();
    upstream.behave(behaviour);
    let edge = start(&format!("retries: 0, {pool} backends: [{{ address: $0 }}]"), &[&upstream]).await;
    let response = edge.client().await.get("a", "/", &[]).await.unwrap();
    assert_eq!(response.status, status, "{what:?}");
    assert_eq!(response.header("content-type").unwrap(), "application/problem+json");
    assert!(!response.text().contains(&upstream.address().to_string()) && !response.text().contains("evil"));
    let line = edge.line(&response).await;
    assert_eq!((&line["reason"], &line["status"], &line["verdict"]), (&reason.into(), &status.into(), &"error".into()));
    assert_eq!(edge.metric("portcullis_backend_requests_total", &[("outcome", outcome)]), 1.0, "{what:?}: {outcome}");
}

#[tokio::test]
async fn a_backend_that_is_too_slow_is_504() {
    fails("timeouts: { read: 200ms },", Behaviour::Hang, 504, "upstream.timeout", "timeout").await;
    fails("timeouts: { total: 200ms },", Behaviour::Hang, 504, "upstream.timeout", "timeout").await;
}

#[tokio::test]
async fn a_body_that_stalls_breaks_off_at_the_total_time() {
    let upstream = Upstream::start().await.unwrap();
    upstream.behave(Answer::new(200).chunks(vec!["x"; 1000], Duration::from_millis(50)));
    let edge = start("timeouts: { total: 300ms }, backends: [{ address: $0 }]", &[&upstream]).await;
    let response = edge.client().await.get("a", "/", &[]).await.unwrap();
    assert!(response.status == 200 && response.broken);
    assert_eq!(edge.line(&response).await["reason"], "upstream.timeout");
}

#[tokio::test]
async fn a_backend_that_cannot_be_connected_to_is_502() {
    // 192.0.2.0/24 is for documentation: nobody answers there, or nothing routes there. Either is no connection.
    let edge =
        edge(CONFIG).with("POOL", "retries: 0, timeouts: { connect: 200ms }, backends: [{ address: 192.0.2.1:9 }]").start().await;
    let response = edge.client().await.get("a", "/", &[]).await.unwrap();
    assert_eq!(response.status, 502);
    assert_eq!(edge.line(&response).await["reason"], "upstream.connect");
}

#[tokio::test]
async fn a_backend_that_closes_without_an_answer_is_502() {
    fails("", Behaviour::Close, 502, "upstream.reset", "reset").await;
}

#[tokio::test]
async fn responses_that_two_parsers_could_read_differently_are_502() {
    for raw in [
        "HTTP/1.1 200 OK\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\ncontent-length: 4\r\ncontent-length: 4\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\ncontent-length: 4, 4\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\ncontent-length: +4\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 4\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\nbad name: x\r\ncontent-length: 4\r\n\r\nevil",
        "HTTP/1.1 999999 OK\r\n\r\nevil",
        "evil evil evil\r\n\r\n",
        "SSH-2.0-OpenSSH_9.6\r\n\r\n",
    ] {
        fails_for(raw, "", Behaviour::raw(raw), 502, "upstream.invalid", "invalid").await;
    }
}

/// Pingora takes the length away before anybody can refuse it (RFC 9112, section 6.3): then there is one reading of it, for
/// the client and for the connection. The direct driver refuses it.
#[tokio::test]
async fn a_response_with_a_length_and_chunks_has_at_most_one_reading() {
    let raw = "HTTP/1.1 200 OK\r\ncontent-length: 30\r\ntransfer-encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\n\r\n";
    if std::env::var_os("PORTCULLIS_TEST_DRIVER").is_none() {
        fails_for(raw, "", Behaviour::raw(raw), 502, "upstream.invalid", "invalid").await;
    }
    let upstream = Upstream::start().await.unwrap();
    upstream.behave(Behaviour::Raw { bytes: raw.into(), close: false });
    let config = CONFIG.replace("name: http,", "name: http, driver: pingora,");
    let edge = edge(&config).with("POOL", format!("backends: [{{ address: {} }}]", upstream.address())).start().await;
    let mut client = edge.client().await;
    for _ in 0..3 {
        let response = client.get("a", "/", &[]).await.unwrap();
        assert_eq!((response.text().as_str(), response.header_all("content-length").len(), response.broken), ("good", 0, false));
    }
    assert_eq!(edge.metric("portcullis_driver_requests_total", &[("driver", "pingora")]), 3.0);
}

#[tokio::test]
async fn an_answer_that_ends_within_its_head_is_502() {
    fails("", Behaviour::raw("HTTP/1.1 200 OK\r\ncontent-le"), 502, "upstream.reset", "reset").await;
}

/// What an upstream says behind its answer is not the next client's answer.
#[tokio::test]
async fn what_stands_behind_a_response_reaches_nobody() {
    let upstream = Upstream::start().await.unwrap();
    let two = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngoodHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
    upstream.behave(Behaviour::Raw { bytes: two.into(), close: false });
    let edge = start("backends: [{ address: $0 }]", &[&upstream]).await;
    let mut client = edge.client().await;
    for _ in 0..5 {
        assert_eq!(client.get("a", "/", &[]).await.unwrap().text(), "good");
    }
    assert_eq!(once(edge.address(), head("GET", "b", "/", &[])).await.unwrap().text(), "good");
}

#[tokio::test]
async fn the_pools_host_is_sent_instead_of_the_clients() {
    let upstream = Upstream::start().await.unwrap();
    let edge = start("host: internal.test, backends: [{ address: $0 }]", &[&upstream]).await;
    assert_eq!(edge.client().await.get("outside.test", "/", &[]).await.unwrap().status, 200);
    assert_eq!(upstream.last().unwrap().header_all("host"), ["internal.test"]);
}

#[tokio::test]
async fn connections_to_backends_are_kept() {
    let upstream = Upstream::start().await.unwrap();
    let edge = start("backends: [{ address: $0 }]", &[&upstream]).await;
    for _ in 0..20 {
        assert_eq!(edge.client().await.get("a", "/", &[]).await.unwrap().status, 200);
    }
    assert_eq!(upstream.connections(), 1);
}
