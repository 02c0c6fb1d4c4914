use super::*;
use serde_json::json;

fn named() -> Value {
    json!({ "resolve_interval": "5ms", "backends": [{ "address": "app.internal:80", "weight": 2 }] })
}

fn addresses(pool: &Pool) -> Vec<String> {
    pool.view.load().members().iter().map(|backend| backend.address().to_string()).collect()
}

#[tokio::test]
async fn a_name_has_no_backend_until_it_is_resolved_and_then_each_address_is_one() {
    let (gateway, names) = (Gateway::new(), Arc::new(Told::default()));
    let pool = gateway.pool_with(named(), Arc::clone(&names) as _);
    pool.start();
    until("it is asked", || names.asked() > 1).await;
    assert!(select(&pool).is_none() && !pool.any_healthy());
    assert_eq!(gateway.up("app.internal:80"), Some(0.0));
    names.say(Some(&["10.0.0.2", "10.0.0.1", "10.0.0.2"]));
    until("it is up", || pool.any_healthy()).await;
    assert_eq!(addresses(&pool), ["10.0.0.1:80", "10.0.0.2:80"]);
    assert_eq!(count(&pool, 10), counts([("app.internal:80", 10)]));
    assert_eq!(gateway.up("app.internal:80"), Some(1.0));
}

#[tokio::test]
async fn the_last_addresses_stay_when_a_name_server_fails_or_has_none() {
    let (gateway, names) = (Gateway::new(), Arc::new(Told::default()));
    names.say(Some(&["10.0.0.1"]));
    let pool = gateway.pool_with(named(), Arc::clone(&names) as _);
    pool.start();
    until("it is up", || pool.any_healthy()).await;
    for answer in [None, Some(&[] as &[&str])] {
        names.say(answer);
        let asked = names.asked();
        until("it is asked again", || names.asked() > asked + 2).await;
        assert_eq!(addresses(&pool), ["10.0.0.1:80"]);
    }
}

#[tokio::test]
async fn a_change_of_addresses_keeps_what_stays() {
    let (gateway, names) = (Gateway::new(), Arc::new(Told::default()));
    names.say(Some(&["10.0.0.1", "10.0.0.2"]));
    let pool = gateway.pool_with(named(), Arc::clone(&names) as _);
    pool.start();
    until("it is up", || pool.any_healthy()).await;
    let stays = pool.view.load().members()[1].id();
    let going = select(&pool).unwrap();
    names.say(Some(&["10.0.0.2", "10.0.0.3"]));
    until("it has moved", || addresses(&pool) == ["10.0.0.2:80", "10.0.0.3:80"]).await;
    assert_eq!(pool.view.load().members()[0].id(), stays);
    assert_eq!(going.address().port(), 80, "a request in flight keeps its backend");
}

#[tokio::test]
async fn a_reload_does_not_forget_addresses() {
    let (gateway, names) = (Gateway::new(), Arc::new(Told::default()));
    names.say(Some(&["10.0.0.1"]));
    let old = gateway.pool_with(named(), Arc::clone(&names) as _);
    old.start();
    until("it is up", || old.any_healthy()).await;
    names.say(None);
    let new = gateway.pool_with(named(), Arc::clone(&names) as _);
    assert!(new.any_healthy(), "known before it starts");
    new.start();
    drop(old);
    let asked = names.asked();
    until("it is asked again", || names.asked() > asked + 2).await;
    assert_eq!(addresses(&new), ["10.0.0.1:80"]);
}

#[tokio::test]
async fn resolution_ends_with_the_pool() {
    let (gateway, names) = (Gateway::new(), Arc::new(Told::default()));
    let pool = gateway.pool_with(named(), Arc::clone(&names) as _);
    pool.start();
    until("it is asked", || names.asked() > 1).await;
    drop(pool);
    // The task holds the resolver; when it is gone, so is that.
    until("the task is gone", || Arc::strong_count(&names) == 1).await;
}

#[tokio::test]
async fn localhost_is_served() {
    let server = health::Server::start(200).await;
    let pool = Gateway::new().pool(json!({ "backends": [{ "address": format!("localhost:{}", server.address.port()) }] }));
    pool.start();
    until("it is resolved", || pool.any_healthy()).await;
    assert!(select(&pool).unwrap().address().ip().is_loopback());
}
