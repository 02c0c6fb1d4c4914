use super::*;
use serde_json::json;
use std::sync::atomic::Ordering;

fn three_to_one() -> Value {
    json!({ "backends": [{ "address": "127.0.0.1:9001", "weight": 3 }, { "address": "127.0.0.1:9002" }] })
}

#[test]
fn a_reload_between_any_two_requests_leaves_the_shares_exact() {
    let gateway = Gateway::new();
    let mut total = BTreeMap::new();
    for _ in 0..400 {
        let pool = gateway.pool(three_to_one());
        for (label, n) in count(&pool, 1) {
            *total.entry(label).or_insert(0) += n;
        }
    }
    assert_eq!(total, counts([("127.0.0.1:9001", 300), ("127.0.0.1:9002", 100)]));
}

#[test]
fn requests_in_flight_are_counted_over_a_reload() {
    let gateway = Gateway::new();
    let config = json!({ "backends": [{ "address": "127.0.0.1:9001", "max_requests": 1 }] });
    let old = gateway.pool(config.clone());
    let held = select(&old).unwrap();
    let new = gateway.pool(config);
    assert!(select(&new).is_none());
    let id = held.id();
    drop((held, old));
    assert_eq!(select(&new).unwrap().id(), id);
}

#[tokio::test]
async fn health_is_known_over_a_reload_and_a_check_that_stays_goes_on() {
    let gateway = Gateway::new();
    let server = health::Server::start(500).await;
    let config = json!({
        "backends": [{ "address": server.address.to_string() }],
        "health": { "interval": "5ms", "http": { "path": "/" } },
    });
    let old = gateway.pool(config.clone());
    old.start();
    until("it is down", || !old.any_healthy()).await;
    let new = gateway.pool(config);
    assert!(!new.any_healthy(), "known at once");
    new.start();
    drop(old);
    server.say(200);
    until("it is up", || new.any_healthy()).await;
}

#[tokio::test]
async fn reloads_faster_than_the_checks_do_not_hide_a_dead_backend() {
    let gateway = Gateway::new();
    let server = health::Server::start(500).await;
    let config = json!({
        "backends": [{ "address": server.address.to_string() }],
        "health": { "interval": "50ms", "http": { "path": "/" }, "unhealthy_after": 3 },
    });
    let mut pool = gateway.pool(config.clone());
    pool.start();
    until("it is down", || {
        let new = gateway.pool(config.clone());
        new.start();
        pool = new;
        !pool.any_healthy()
    })
    .await;
}

#[tokio::test]
async fn a_reload_that_drops_the_checks_takes_the_backend_for_healthy() {
    let gateway = Gateway::new();
    let server = health::Server::start(500).await;
    let backends = json!([{ "address": server.address.to_string() }]);
    let old = gateway.pool(json!({ "backends": backends, "health": { "interval": "5ms", "http": { "path": "/" } } }));
    old.start();
    until("it is down", || !old.any_healthy()).await;
    let new = gateway.pool(json!({ "backends": backends }));
    new.start();
    assert!(new.any_healthy());
    assert_eq!(gateway.up(&server.address.to_string()), Some(1.0));
    let asked = server.asked.load(Ordering::SeqCst);
    drop(old);
    // The check is aborted; at most the one under way still arrives.
    tokio::task::yield_now().await;
    assert!(server.asked.load(Ordering::SeqCst) <= asked + 1);
}

#[tokio::test]
async fn a_configuration_that_never_starts_changes_nothing() {
    let gateway = Gateway::new();
    let running = gateway.pool(three_to_one());
    running.start();
    let rejected = gateway.pool(json!({ "backends": [{ "address": "127.0.0.1:9009" }] }));
    assert_eq!(gateway.up("127.0.0.1:9009"), None);
    drop(rejected);
    assert_eq!(gateway.samples("portcullis_backend_up").len(), 2);
    assert_eq!(count(&running, 4), counts([("127.0.0.1:9001", 3), ("127.0.0.1:9002", 1)]));
}

#[tokio::test]
async fn the_series_of_a_removed_backend_go_and_those_that_stay_keep_their_count() {
    let gateway = Gateway::new();
    let old = gateway.pool(three_to_one());
    old.start();
    for _ in 0..4 {
        select(&old).unwrap().record(crate::pool::BackendOutcome::Success);
    }
    let new = gateway.pool(json!({ "backends": [{ "address": "127.0.0.1:9001" }] }));
    new.start();
    drop(old);
    let samples = gateway.samples("portcullis_backend_requests_total");
    assert_eq!(samples["127.0.0.1:9001 success web"], 3.0);
    assert!(samples.keys().all(|labels| !labels.contains("9002")), "{samples:?}");
    assert_eq!(gateway.samples("portcullis_backend_up").len(), 1);
}
