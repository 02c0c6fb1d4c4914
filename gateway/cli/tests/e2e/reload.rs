//! Configurations that change under load.

use super::support::{Edge, edge};
use portcullis::StartError;
use portcullis_testkit::client::head;
use portcullis_testkit::pki::client_config;
use portcullis_testkit::{Client, Pki, Port, Upstream, until};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const CONFIG: &str = r#"
listeners:
  - { name: http, address: 127.0.0.1:0 }
  - name: https
    address: 127.0.0.1:0
    tls: { certificates: [{ cert: edge.pem, key: edge.key }] }
access_log: { path: access.jsonl }
pools: { web: { backends: [{ address: "UPSTREAM" }] } }
routes:
  - { name: all, pool: web }
  - { name: version, match: { path: /version }, respond: { status: 200, body: "one" } }
  - name: limited
    match: { path: /limited }
    filters: [{ rate_limit: { key: client, rate: 2/h, burst: 2 } }]
    respond: { status: 200 }
  - name: listed
    match: { path: /listed }
    filters: [{ ip_allow: { list: allowed.txt } }]
    respond: { status: 200 }
"#;

struct Stage {
    upstream: Upstream,
    edge: Edge,
    config: String,
}

async fn start(watched: bool) -> Stage {
    let upstream = Upstream::start().await.unwrap();
    let config = CONFIG.replace("UPSTREAM", &upstream.address().to_string());
    let setup = edge(&config).tls().file("allowed.txt", "10.0.0.0/8\n");
    let edge = if watched { setup.watched() } else { setup }.start().await;
    Stage { upstream, edge, config }
}

impl Stage {
    async fn version(&self) -> String {
        self.edge.client().await.get("a", "/version", &[]).await.unwrap().text()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_reloads_under_load_fail_no_request() {
    let stage = start(false).await;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut load = tokio::task::JoinSet::new();
    for worker in 0..6 {
        let (address, stop, done) = (stage.edge.address(), Arc::clone(&stop), Arc::clone(&done));
        load.spawn(async move {
            let mut client = Client::connect(address).await.unwrap();
            while !stop.load(Ordering::Relaxed) {
                let response =
                    if worker % 2 == 0 { client.get("a", "/", &[]).await } else { client.post("a", "/", &[], b"hello").await };
                assert_eq!(response.unwrap().status, 200);
                if worker == 0 {
                    client = Client::connect(address).await.unwrap();
                }
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let mut tls = stage.edge.tls().await;
    let mut h2 = stage.edge.h2().await;
    for at in 0..200 {
        let version = format!("\"v{at}\"");
        stage.edge.rewrite(&stage.config.replace("\"one\"", &version));
        stage.edge.handle.reload().await.unwrap();
        assert_eq!(format!("\"{}\"", stage.version().await), version);
        assert_eq!(tls.get("a", "/", &[]).await.unwrap().status, 200);
        assert_eq!(h2.get("a", "/", &[]).await.unwrap().status, 200);
    }
    assert_eq!(stage.edge.handle.generation(), 201);
    let now = done.load(Ordering::Relaxed);
    until("load after the last reload", || done.load(Ordering::Relaxed) > now + 10).await.unwrap();
    stop.store(true, Ordering::Relaxed);
    // A request that failed has ended its worker with a panic.
    load.join_all().await;
    assert_eq!(stage.edge.metric("portcullis_config_generation", &[]), 201.0);
}

#[tokio::test]
async fn a_broken_configuration_is_refused_with_its_place_and_the_running_one_stays() {
    let stage = start(false).await;
    assert_eq!(stage.edge.metric("portcullis_config_last_reload_success", &[]), 1.0);
    stage.edge.rewrite(&stage.config.replace("body: \"one\"", "boddy: \"two\""));
    let error = stage.edge.handle.reload().await.unwrap_err();
    assert!(matches!(error, StartError::Configuration(_)));
    let written = std::fs::read_to_string(stage.edge.path().join("edge.yaml")).unwrap();
    let line = written.lines().position(|line| line.contains("name: version")).unwrap() + 1;
    let column = written.lines().nth(line - 1).unwrap().find("boddy:").unwrap() + 1;
    let text = error.to_string();
    assert!(text.contains(&format!("edge.yaml:{line}:{column}")), "{text}");
    assert!(text.contains("body"), "it says what was meant: {text}");
    assert_eq!(stage.version().await, "one");
    assert_eq!(stage.edge.handle.generation(), 1);
    assert_eq!(stage.edge.metric("portcullis_config_last_reload_success", &[]), 0.0);
    assert_eq!(stage.edge.metric("portcullis_config_generation", &[]), 1.0);

    stage.edge.rewrite(&stage.config.replace("\"one\"", "\"two\""));
    assert_eq!(stage.edge.handle.reload().await.unwrap(), 2);
    assert_eq!(stage.version().await, "two");
    assert_eq!(stage.edge.metric("portcullis_config_last_reload_success", &[]), 1.0);
}

#[tokio::test]
async fn a_file_that_is_missing_or_broken_keeps_the_running_configuration() {
    let stage = start(false).await;
    for (file, broken) in [("edge.pem", "no certificate"), ("allowed.txt", "10.0.0.0/99\n")] {
        let path = stage.edge.path().join(file);
        let good = std::fs::read(&path).unwrap();
        std::fs::write(&path, broken).unwrap();
        assert!(stage.edge.handle.reload().await.is_err(), "{file} broken");
        std::fs::remove_file(&path).unwrap();
        assert!(stage.edge.handle.reload().await.is_err(), "{file} missing");
        assert_eq!(stage.edge.tls().await.get("a", "/version", &[]).await.unwrap().text(), "one");
        std::fs::write(&path, good).unwrap();
        stage.edge.handle.reload().await.unwrap();
    }
}

#[tokio::test]
async fn a_changed_file_reloads_by_itself() {
    let stage = start(true).await;
    stage.edge.rewrite(&stage.config.replace("\"one\"", "\"two\""));
    until("the new configuration", || stage.edge.handle.generation() == 2).await.unwrap();
    assert_eq!(stage.version().await, "two");
}

#[tokio::test]
async fn a_changed_ip_list_takes_effect() {
    let stage = start(true).await;
    let mut client = stage.edge.client().await;
    assert_eq!(client.get("a", "/listed", &[]).await.unwrap().status, 403);
    std::fs::write(stage.edge.path().join("allowed.txt"), "# us\n127.0.0.0/8\n").unwrap();
    until("the new list", || stage.edge.handle.generation() >= 2).await.unwrap();
    assert_eq!(client.get("a", "/listed", &[]).await.unwrap().status, 200, "also on a connection that was open before");
}

#[tokio::test]
async fn a_changed_certificate_is_served_to_new_connections() {
    let stage = start(true).await;
    let mut open = stage.edge.tls().await;
    let before = open.server_chain().to_vec();
    let next = Pki::named("the next CA").unwrap();
    next.server(&[super::support::NAME]).unwrap().write_to(stage.edge.path(), "edge").unwrap();
    until("the new certificate", || stage.edge.handle.generation() >= 2).await.unwrap();
    let config = client_config(&[&next], None, &[]).unwrap();
    let address = stage.edge.listener("https");
    let mut client = Client::connect_tls(address, super::support::NAME, config).await.unwrap();
    assert_ne!(client.server_chain(), before);
    assert_eq!(client.get("a", "/", &[]).await.unwrap().status, 200);
    assert_eq!(open.get("a", "/", &[]).await.unwrap().status, 200, "the open connection goes on");
}

/// Until both are there, a new certificate does not fit the old key; nobody may notice.
#[tokio::test]
async fn a_certificate_whose_key_is_not_there_yet_changes_nothing() {
    let stage = start(false).await;
    let next = Pki::named("the next CA").unwrap().server(&[super::support::NAME]).unwrap();
    std::fs::write(stage.edge.path().join("edge.pem"), next.cert_pem()).unwrap();
    let error = stage.edge.handle.reload().await.unwrap_err().to_string();
    assert!(!error.contains("PRIVATE"), "{error}");
    assert_eq!(stage.edge.tls().await.get("a", "/", &[]).await.unwrap().status, 200);
}

#[tokio::test]
async fn listeners_are_added_moved_and_removed() {
    let stage = start(false).await;
    let (first, second) = (Port::reserve().unwrap(), Port::reserve().unwrap());
    let with = |port: &Port| {
        let extra = format!("listeners:\n  - {{ name: extra, address: \"{}\" }}", port.address());
        stage.config.replace("listeners:", &extra)
    };
    let http = stage.edge.address();
    let mut open = stage.edge.client().await;

    stage.edge.rewrite(&with(&first));
    stage.edge.handle.reload().await.unwrap();
    assert_eq!(stage.edge.listener("extra"), first.address());
    let mut on_first = Client::connect(first.address()).await.unwrap();
    assert_eq!(on_first.get("a", "/version", &[]).await.unwrap().text(), "one");

    stage.edge.rewrite(&with(&second));
    stage.edge.handle.reload().await.unwrap();
    assert_eq!(stage.edge.listener("extra"), second.address());
    let mut on_second = Client::connect(second.address()).await.unwrap();
    assert_eq!(on_second.get("a", "/version", &[]).await.unwrap().text(), "one");
    closes(first.address()).await;

    stage.edge.rewrite(&stage.config);
    stage.edge.handle.reload().await.unwrap();
    assert_eq!(stage.edge.handle.address("extra"), None);
    closes(second.address()).await;

    assert_eq!(stage.edge.address(), http, "the others stay where they were");
    assert_eq!(open.get("a", "/", &[]).await.unwrap().status, 200);
}

async fn closes(address: std::net::SocketAddr) {
    for _ in 0..1000 {
        if std::net::TcpStream::connect(address).is_err() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{address} still accepts");
}

#[tokio::test]
async fn a_listener_that_cannot_be_bound_keeps_the_running_configuration() {
    let stage = start(false).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let extra = format!("listeners:\n  - {{ name: extra, address: \"{}\" }}", taken.local_addr().unwrap());
    stage.edge.rewrite(&stage.config.replace("listeners:", &extra).replace("\"one\"", "\"two\""));
    let error = stage.edge.handle.reload().await.unwrap_err();
    assert!(matches!(error, StartError::Bind { .. }), "{error}");
    assert_eq!(stage.version().await, "one");
    assert_eq!(stage.edge.metric("portcullis_config_last_reload_success", &[]), 0.0);
}

#[tokio::test]
async fn what_a_caller_has_used_up_stays_used_up() {
    let stage = start(false).await;
    let mut client = stage.edge.client().await;
    for status in [200, 200, 429] {
        assert_eq!(client.get("a", "/limited", &[]).await.unwrap().status, status);
    }
    stage.edge.rewrite(&stage.config.replace("\"one\"", "\"two\""));
    stage.edge.handle.reload().await.unwrap();
    assert_eq!(stage.version().await, "two");
    assert_eq!(client.get("a", "/limited", &[]).await.unwrap().status, 429);
    assert_eq!(stage.edge.client().await.get("a", "/limited", &[]).await.unwrap().status, 429);
}

#[tokio::test]
async fn counters_go_on_over_a_reload() {
    let stage = start(false).await;
    for _ in 0..3 {
        stage.version().await;
    }
    stage.edge.handle.reload().await.unwrap();
    stage.version().await;
    let labels = [("route", "version"), ("listener", "http"), ("status", "200")];
    stage.edge.metric_reaches("portcullis_requests_total", &labels, 4.0).await;
}

/// A request keeps the configuration it started with.
#[tokio::test]
async fn a_request_in_flight_ends_as_it_began() {
    let stage = start(false).await;
    let mut client = stage.edge.client().await;
    client.send(head("POST", "a", "/", &[("content-length", "5")])).await.unwrap();
    until("the request's start", || stage.upstream.in_flight() == 1).await.unwrap();
    let elsewhere = Upstream::named("elsewhere").await.unwrap();
    stage.edge.rewrite(&CONFIG.replace("UPSTREAM", &elsewhere.address().to_string()));
    stage.edge.handle.reload().await.unwrap();
    client.send("hello").await.unwrap();
    let response = client.response().await.unwrap();
    assert_eq!((response.status, response.header("x-upstream").unwrap().as_str()), (200, "upstream"));
    assert_eq!(client.get("a", "/", &[]).await.unwrap().header("x-upstream").unwrap(), "elsewhere");
}
