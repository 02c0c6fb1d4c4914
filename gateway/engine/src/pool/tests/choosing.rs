use super::*;
use proptest::prelude::*;
use serde_json::json;
use std::collections::BTreeSet;

fn two(weights: [u32; 2], more: Value) -> Value {
    let mut pool = json!({ "backends": [
        { "address": "127.0.0.1:9001", "weight": weights[0] },
        { "address": "127.0.0.1:9002", "weight": weights[1] },
    ]});
    pool.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    pool
}

fn many(n: u16, more: Value) -> Value {
    let backends: Vec<_> = (0..n).map(|i| json!({ "address": format!("10.0.{}.{}:80", i / 250, i % 250) })).collect();
    let mut pool = json!({ "backends": backends });
    pool.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    pool
}

#[test]
fn round_robin_is_exact_and_interleaved() {
    let pool = Gateway::new().pool(two([3, 1], json!({})));
    assert_eq!(count(&pool, 4_000), counts([("127.0.0.1:9001", 3_000), ("127.0.0.1:9002", 1_000)]));
    for _ in 0..100 {
        assert_eq!(count(&pool, 4), counts([("127.0.0.1:9001", 3), ("127.0.0.1:9002", 1)]));
    }
}

#[test]
fn round_robin_is_exact_over_threads_and_nothing_stays_in_flight() {
    let pool = Gateway::new().pool(two([3, 1], json!({})));
    let total = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for (label, n) in count(&pool, 500) {
                    *total.lock().entry(label).or_insert(0) += n;
                }
            });
        }
    });
    assert_eq!(total.into_inner(), counts([("127.0.0.1:9001", 3_000), ("127.0.0.1:9002", 1_000)]));
    assert!(pool.view.load().members().iter().all(|backend| backend.in_flight() == 0));
}

#[test]
fn weight_zero_gets_nothing_under_any_algorithm() {
    for balance in ["round_robin", "least_requests", "random"] {
        let pool = Gateway::new().pool(two([1, 0], json!({ "balance": balance })));
        assert_eq!(count(&pool, 50), counts([("127.0.0.1:9001", 50)]), "{balance}");
    }
    let pool = Gateway::new().pool(two([1, 0], json!({ "balance": "hash", "hash_key": "client" })));
    assert_eq!(count(&pool, 50), counts([("127.0.0.1:9001", 50)]));
}

#[test]
fn a_retry_goes_to_another_backend_and_at_last_to_none() {
    for balance in ["round_robin", "least_requests", "random", "hash"] {
        let key = if balance == "hash" { json!("client") } else { Value::Null };
        for n in [3, 40] {
            let pool = Gateway::new().pool(many(n, json!({ "balance": balance, "hash_key": key })));
            let mut tried = Vec::new();
            let mut labels = BTreeSet::new();
            while let Some(selected) = pool.select(&request(&[]), &exchange("192.0.2.1"), &tried) {
                tried.push(selected.id());
                labels.insert(selected.label().to_owned());
            }
            assert_eq!((tried.len(), labels.len()), (n as usize, n as usize), "{balance}");
        }
    }
}

#[test]
fn max_requests_sends_elsewhere_and_then_refuses() {
    for balance in ["round_robin", "least_requests", "random", "hash"] {
        let key = if balance == "hash" { json!("client") } else { Value::Null };
        let pool = Gateway::new().pool(json!({ "balance": balance, "hash_key": key, "backends": [
            { "address": "127.0.0.1:9001", "weight": 1000, "max_requests": 2 },
            { "address": "127.0.0.1:9002", "max_requests": 1 },
        ]}));
        let held: Vec<_> = (0..4).map_while(|_| select(&pool)).collect();
        assert_eq!(held.len(), 3, "{balance}");
        assert_eq!(held.iter().filter(|s| s.label() == "127.0.0.1:9001").count(), 2, "{balance}");
        assert!(select(&pool).is_none() && pool.any_healthy(), "{balance}");
        drop(held);
        assert!(select(&pool).is_some(), "{balance}");
    }
}

#[test]
fn least_requests_prefers_the_idle_for_its_weight() {
    let pool = Gateway::new().pool(two([3, 1], json!({ "balance": "least_requests" })));
    let held: Vec<_> = (0..400).map(|_| select(&pool).unwrap()).collect();
    assert_eq!(held.iter().filter(|s| s.label() == "127.0.0.1:9001").count(), 300);
    drop(held);
    // Idle, it shares like round robin.
    assert_eq!(count(&pool, 400), counts([("127.0.0.1:9001", 300), ("127.0.0.1:9002", 100)]));
}

#[test]
fn threads_that_crowd_a_full_pool_neither_fail_nor_exceed_its_limits() {
    for balance in ["round_robin", "least_requests", "random", "hash"] {
        let key = if balance == "hash" { json!("client") } else { Value::Null };
        let backends: Vec<_> =
            (1..41).map(|i| json!({ "address": format!("10.0.0.{i}:80"), "weight": i, "max_requests": 1 })).collect();
        let pool = Gateway::new().pool(json!({ "backends": backends, "balance": balance, "hash_key": key }));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let held: Vec<_> = (0..8).map_while(|_| select(&pool)).collect();
                        assert!(held.iter().all(|one| pool.view.load().members().iter().any(|b| b.id() == one.id())));
                        assert!(pool.view.load().members().iter().all(|backend| backend.in_flight() <= 1));
                    }
                });
            }
        });
        assert!(pool.view.load().members().iter().all(|backend| backend.in_flight() == 0), "{balance}");
    }
}

#[test]
fn least_requests_keeps_a_large_pool_even() {
    let pool = Gateway::new().pool(many(100, json!({ "balance": "least_requests" })));
    let held: Vec<_> = (0..1_000).map(|_| select(&pool).unwrap()).collect();
    let busiest = pool.view.load().members().iter().map(|backend| backend.in_flight()).max().unwrap();
    // Two choices keep the fullest within a few of the mean of 10; one choice would give about 20.
    assert!(busiest <= 15, "{busiest}");
    drop(held);
}

#[test]
fn random_follows_the_weights() {
    let pool = Gateway::new().pool(two([3, 1], json!({ "balance": "random" })));
    let first = count(&pool, 8_000)["127.0.0.1:9001"];
    // 6,000 expected, standard deviation 39.
    assert!((5_700..6_300).contains(&first), "{first}");
}

fn by_hash(pool: &Pool, user: &str) -> String {
    let selected = pool.select(&request(&[("x-user", user)]), &exchange("192.0.2.1"), &[]).unwrap();
    selected.label().to_owned()
}

#[test]
fn a_hashed_key_stays_and_few_move_when_a_backend_goes() {
    let hash = json!({ "balance": "hash", "hash_key": "header.x-user" });
    let before = Gateway::new().pool(many(10, hash.clone()));
    let after = Gateway::new().pool(many(9, hash));
    let gone = "10.0.0.9:80";
    let keys: Vec<String> = (0..2_000).map(|i| format!("user-{i}")).collect();
    let mut used = BTreeSet::new();
    for key in &keys {
        let (was, is) = (by_hash(&before, key), by_hash(&after, key));
        assert_eq!(was, by_hash(&before, key));
        // Only the keys of the backend that went have moved.
        assert!(was == is || was == gone, "{key}: {was} → {is}");
        used.insert(was);
    }
    assert_eq!(used.len(), 10);
}

#[test]
fn the_hash_of_a_header_a_cookie_or_else_the_client() {
    let pool = |key: &str| Gateway::new().pool(many(50, json!({ "balance": "hash", "hash_key": key })));
    let label = |pool: &Pool, headers: &[(&str, &str)], client: &str| {
        pool.select(&request(headers), &exchange(client), &[]).unwrap().label().to_owned()
    };
    let cookie = pool("cookie.sid");
    let one = label(&cookie, &[("cookie", "a=b; sid=one; c=d")], "192.0.2.1");
    assert_eq!(label(&cookie, &[("cookie", "sid=one")], "192.0.2.9"), one);
    assert_eq!(label(&cookie, &[("cookie", "x=y"), ("cookie", "sid=one")], "192.0.2.9"), one);
    let clients: BTreeSet<_> = (1..50).map(|i| label(&cookie, &[("cookie", "xsid=one")], &format!("192.0.2.{i}"))).collect();
    assert!(clients.len() > 10, "without the cookie it is the client's address: {clients:?}");
    let header = pool("header.x-user");
    assert_eq!(label(&header, &[], "192.0.2.7"), label(&pool("client"), &[("x-user", "u")], "192.0.2.7"));
    assert_eq!(label(&header, &[("x-user", "")], "192.0.2.7"), label(&header, &[], "192.0.2.7"));
}

#[test]
fn a_hash_pool_with_huge_weights_stays_small_and_fair() {
    let pool =
        Gateway::new().pool(two([4_000_000_000, 1_999_999_999], json!({ "balance": "hash", "hash_key": "header.x-user" })));
    let first = (0..3_000).filter(|i| by_hash(&pool, &format!("u{i}")) == "127.0.0.1:9001").count();
    assert!((1_700..2_300).contains(&first), "{first}");
}

#[test]
fn a_split_is_exact() {
    let (gateway, other) = (Gateway::new(), Gateway::new());
    let pools = || [gateway.pool(many(1, json!({}))), other.pool(many(2, json!({})))];
    let [a, b] = pools();
    let split = crate::pool::Split::compile(vec![(Arc::clone(&a), 95), (b, 5)]).unwrap();
    let first = (0..1_000).filter(|_| Arc::ptr_eq(split.choose(), &a)).count();
    assert_eq!(first, 950);
    let [a, b] = pools();
    let split = crate::pool::Split::compile(vec![(a, 0), (Arc::clone(&b), 1)]).unwrap();
    assert!((0..10).all(|_| Arc::ptr_eq(split.choose(), &b)));
    assert!(crate::pool::Split::compile(vec![]).is_err());
    assert!(crate::pool::Split::compile(vec![(b, 0)]).is_err());
}

#[test]
fn outcomes_are_counted_by_backend() {
    let gateway = Gateway::new();
    let pool = gateway.pool(two([1, 0], json!({})));
    let selected = select(&pool).unwrap();
    selected.record(crate::pool::BackendOutcome::ConnectFailed);
    selected.record(crate::pool::BackendOutcome::Success);
    let samples = gateway.samples("portcullis_backend_requests_total");
    assert_eq!(samples["127.0.0.1:9001 connect_failed web"], 1.0);
    assert_eq!(samples["127.0.0.1:9001 success web"], 1.0);
    assert!(!samples.contains_key("127.0.0.1:9002 success web"), "{samples:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the weights, limits and exclusions: never an excluded, drained or full backend, and none in flight after.
    #[test]
    fn what_is_chosen_may_be_chosen(
        balance in prop::sample::select(vec!["round_robin", "least_requests", "random", "hash"]),
        backends in prop::collection::vec((0u32..6, prop::option::of(1usize..4)), 1..40),
        requests in 1usize..80,
        exclude in 0usize..40,
    ) {
        prop_assume!(backends.iter().any(|(weight, _)| *weight > 0));
        let lines: Vec<_> = (1..).zip(&backends).map(|(i, (weight, max))| {
            json!({ "address": format!("10.0.0.{i}:80"), "weight": weight, "max_requests": max })
        }).collect();
        let key = if balance == "hash" { json!("client") } else { Value::Null };
        let pool = Gateway::new().pool(json!({ "backends": lines, "balance": balance, "hash_key": key }));
        let excluded: Vec<_> = pool.view.load().members().iter().take(exclude).map(|b| b.id()).collect();
        let room = backends.iter().skip(exclude).filter(|(weight, _)| *weight > 0)
            .map(|(_, max)| max.unwrap_or(usize::MAX)).fold(0usize, usize::saturating_add);
        let held: Vec<_> = (0..requests)
            .map_while(|_| pool.select(&request(&[]), &exchange("192.0.2.1"), &excluded))
            .collect();
        prop_assert_eq!(held.len(), requests.min(room));
        prop_assert!(held.iter().all(|selected| !excluded.contains(&selected.id())));
        for (backend, (weight, max)) in pool.view.load().members().iter().zip(&backends) {
            prop_assert!(*weight > 0 || backend.in_flight() == 0);
            prop_assert!(max.is_none_or(|max| backend.in_flight() <= max));
        }
        drop(held);
        prop_assert!(pool.view.load().members().iter().all(|backend| backend.in_flight() == 0));
    }
}
