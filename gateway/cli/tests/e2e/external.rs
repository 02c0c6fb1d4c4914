//! A service that is asked whether a request may pass.

use crate::stage::assert_refusal;
use crate::support::{Edge, Setup, edge};
use portcullis::config::inspect::inspect;
use portcullis::explain::{Query, explain};
use portcullis_testkit::{Answer, Behaviour, Client, Http2Client, Pki, Response, Upstream, until};
use std::time::SystemTime;

const CONFIG: &str = r#"
listeners: [{ name: http, address: 127.0.0.1:0, h2c: true }]
admin: { address: 127.0.0.1:0 }
access_log: { path: access.jsonl }
pools:
  up: { backends: [{ address: "BACKEND" }] }
routes:
  - name: asked
    match: { path: /asked }
    filters:
      - external_authorize: { url: "SERVICE", timeout: 10s, request_headers: [x-tenant], response_headers: [x-plan], deny_headers: [x-why] }
    pool: up
  - name: open
    match: { path: /fail-open }
    filters:
      - external_authorize: { url: "SERVICE", timeout: 10s, response_headers: [x-open], on_failure: allow }
    pool: up
  - name: shadow
    match: { path: /shadow }
    filters:
      - external_authorize: { url: "SERVICE", timeout: 10s, response_headers: [x-shadow] }
        mode: shadow
    pool: up
  - { name: free, match: { path: /free }, pool: up }
"#;

fn setup(service: &Upstream, upstream: &Upstream) -> Setup {
    edge(CONFIG).with("SERVICE", format!("http://{}/check", service.address())).with("BACKEND", upstream.address())
}

async fn service(behaviour: impl Into<Behaviour>) -> Upstream {
    Upstream::builder().behaviour(behaviour).start().await.unwrap()
}

/// With its reason in the log.
async fn get(gateway: &Edge, path: &str, fields: &[(&str, &str)]) -> (Response, String) {
    let mut client = Client::connect(gateway.address()).await.unwrap();
    let response = client.get("api.example.test", path, fields).await.unwrap();
    let line = gateway.line(&response).await;
    (response, line["reason"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_lets_pass_and_says_what_the_upstream_learns() {
    let service = service(Answer::new(200).header("x-plan", "gold").header("x-shadow", "told").body("ignored")).await;
    let upstream = Upstream::start().await.unwrap();
    let gateway = setup(&service, &upstream).start().await;
    let forged = [
        ("X-Plan", "forged"),
        ("x_plan", "forged"),
        ("x.PLAN", "forged"),
        ("x-shadow", "forged"),
        ("X_Open", "forged"),
        ("Connection", "x-plan"),
        ("Authorization", "Bearer secret"),
        ("Cookie", "session=secret"),
        ("X-Tenant", "acme"),
    ];
    // A line break in a path is refused before anybody is asked; in a query it stays encoded.
    let (response, reason) = get(&gateway, "/asked/a%0D%0Ax-admin:1", &forged).await;
    assert_eq!((response.status, &*reason, service.count()), (400, "request.ambiguous", 0));
    let (response, _) = get(&gateway, "/asked/a?q=%0D%0Ax-admin:1", &forged).await;
    assert_eq!(response.status, 200);
    let asked = service.last().unwrap();
    assert!(!String::from_utf8_lossy(&asked.head).contains("secret"), "{asked:?}");
    assert_eq!(asked.header("x-tenant").as_deref(), Some("acme"));
    assert_eq!(asked.header("x-decision-id"), response.header("x-decision-id"));
    assert_eq!(asked.header("x-forwarded-uri").as_deref(), Some("/asked/a?q=%0D%0Ax-admin:1"));
    assert!(asked.header("x-admin").is_none());
    // The same names are nobody's on every other route, and in shadow mode not even the service's.
    for (path, plan) in [("/asked", vec!["gold"]), ("/free", vec![]), ("/shadow", vec![])] {
        assert_eq!(get(&gateway, path, &forged).await.0.status, 200);
        let seen = upstream.last().unwrap();
        assert_eq!(seen.header_all("x-plan"), plan, "{path}");
        for name in ["x_plan", "x.plan", "x-shadow", "x_shadow", "x-open", "x_open"] {
            assert!(seen.header(name).is_none(), "{path} {name}");
        }
        assert_eq!(seen.header("authorization").as_deref(), Some("Bearer secret"), "it is the client's to send");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_refuses_and_whatever_is_no_answer_refuses_too() {
    let service = service(Answer::new(403).header("x-why", "plan").header("set-cookie", "a=b").body("internal")).await;
    let upstream = Upstream::start().await.unwrap();
    let gateway = setup(&service, &upstream).start().await;
    let (response, reason) = get(&gateway, "/asked", &[]).await;
    assert_eq!((response.status, &*reason), (403, "authorize.external.denied"));
    assert_eq!((response.header("x-why").as_deref(), response.header("set-cookie")), (Some("plan"), None));
    assert!(!response.text().contains("internal"));
    assert_refusal(&response);
    // A refusal is one where failures let pass, too.
    assert_eq!(get(&gateway, "/fail-open", &[]).await.1, "authorize.external.denied");
    service.behave(Answer::new(401));
    let (response, reason) = get(&gateway, "/asked", &[]).await;
    assert_eq!((response.status, &*reason), (401, "authorize.external.denied"));
    assert_refusal(&response);
    // A shadowed one changes nothing, and is on the record.
    let (response, _) = get(&gateway, "/shadow", &[]).await;
    assert_eq!((response.status, upstream.count()), (200, 1));
    let line = gateway.line(&response).await;
    assert_eq!(line["shadow"][0]["reason"], "authorize.external.denied", "{line}");

    let target = format!("http://{}/free", gateway.address());
    for behaviour in [
        Answer::new(302).header("location", &target).into(),
        Answer::new(500).into(),
        Behaviour::raw("SSH-2.0-OpenSSH\r\n"),
        Behaviour::Close,
    ] {
        service.behave(behaviour);
        let (response, reason) = get(&gateway, "/asked", &[]).await;
        assert_eq!((response.status, &*reason), (503, "authorize.external.unavailable"));
        assert_refusal(&response);
    }
    assert_eq!(upstream.count(), 1, "no redirect was followed, and nothing passed");
    service.go_down().await;
    assert_eq!(get(&gateway, "/asked", &[]).await.1, "authorize.external.unavailable");
    let before = upstream.count();
    let (response, _) = get(&gateway, "/fail-open", &[("x-open", "forged")]).await;
    assert_eq!((response.status, upstream.count()), (200, before + 1));
    assert!(upstream.last().unwrap().header("x-open").is_none());
    let name = service.address().to_string();
    let counts = ["deny", "unavailable", "fail_open"]
        .map(|outcome| gateway.metric("portcullis_external_authorizations_total", &[("service", &name), ("outcome", outcome)]));
    assert_eq!(counts, [4.0, 5.0, 1.0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_requests_ask_no_more_than_allowed_at_the_same_time() {
    let service = service(Behaviour::Hang).await;
    let upstream = Upstream::start().await.unwrap();
    let config = CONFIG.replace("timeout: 10s, request_headers", "timeout: 10s, max_concurrent: 5, request_headers");
    let gateway = edge(&config).with("SERVICE", format!("http://{}/", service.address())).with("BACKEND", upstream.address());
    let gateway = gateway.start().await;
    let address = gateway.address();
    let mut waiting = tokio::task::JoinSet::new();
    let asking = |waiting: &mut tokio::task::JoinSet<u16>| {
        waiting.spawn(async move {
            let mut client = Client::connect(address).await.unwrap();
            client.get("api.example.test", "/asked", &[]).await.unwrap().status
        });
    };
    (0..5).for_each(|_| asking(&mut waiting));
    service.wait_for(5).await.unwrap();
    let mut refused = tokio::task::JoinSet::new();
    for _ in 0..10 {
        (0..100).for_each(|_| asking(&mut refused));
        while let Some(status) = refused.join_next().await {
            assert_eq!(status.unwrap(), 503);
        }
    }
    assert_eq!(service.most_in_flight(), 5);
    // What waits ends with the service, and the places are free again.
    service.go_down().await;
    while let Some(status) = waiting.join_next().await {
        assert_eq!(status.unwrap(), 503);
    }
    service.behave(Answer::new(200));
    service.come_back().unwrap();
    assert_eq!(get(&gateway, "/asked", &[]).await.0.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_resets_its_stream_ends_its_question() {
    let service = service(Behaviour::Hang).await;
    let upstream = Upstream::start().await.unwrap();
    let gateway = setup(&service, &upstream).start().await;
    let address = gateway.address();
    // One resets its stream, one ends its connection.
    for (asked, ends) in [(1, false), (2, true)] {
        let mut client = Http2Client::connect(address).await.unwrap();
        tokio::select! {
            response = client.get("api.example.test", "/asked", &[]) => panic!("answered with {}", response.unwrap().status),
            recorded = service.wait_for(asked) => assert_eq!(recorded.unwrap().len() as u64, asked),
        }
        let kept = (!ends).then_some(client);
        until("the question to end", || service.open_connections() == 0).await.unwrap();
        gateway.logged("the one that has gone", |line| line["reason"] == "client.gone" && line["route"] == "asked").await;
        drop(kept);
    }
    let gone = || gateway.log().iter().filter(|line| line["reason"] == "client.gone").count();
    until("both in the log", || gone() == 2).await.unwrap();
    assert_eq!(upstream.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_is_who_its_certificate_says() {
    let pki = Pki::new().unwrap();
    let config = pki.server(&["localhost"]).unwrap().server_config(None, &["http/1.1"]).unwrap();
    let service = Upstream::builder().tls(config).behaviour(Answer::new(200)).start().await.unwrap();
    let upstream = Upstream::start().await.unwrap();
    let at = |host: &str| format!("https://{host}:{}/check", service.address().port());
    for (host, ca, status) in [("localhost", true, 200), ("localhost", false, 503), ("127.0.0.1", true, 503)] {
        let ca = if ca { "SERVICE\", ca: ca.pem" } else { "SERVICE\"" };
        let config = CONFIG.replace("SERVICE\"", ca);
        let gateway = edge(&config).with("SERVICE", at(host)).with("BACKEND", upstream.address());
        let gateway = gateway.file("ca.pem", pki.ca_pem()).start().await;
        assert_eq!(get(&gateway, "/asked", &[]).await.0.status, status, "{host}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_explanation_asks_nobody() {
    let (service, upstream) = (service(Answer::new(200)).await, Upstream::start().await.unwrap());
    let (_folder, path) = setup(&service, &upstream).written();
    let inspection = inspect(&path, &portcullis::filters(), None).unwrap();
    let security: Vec<_> = inspection.routes().iter().map(|route| route.security.join(", ")).collect();
    let name = service.address();
    let external = |more: &str| format!("external({name}{more})");
    assert_eq!(security, [external(""), external("; fail-open"), external("") + " (shadow: not enforced)", String::new()]);
    let query = Query {
        url: "http://api.example.test/asked".to_owned(),
        method: "GET".to_owned(),
        headers: Vec::new(),
        certificate: Vec::new(),
        client: [127, 0, 0, 1].into(),
        at: SystemTime::now(),
        listener: None,
    };
    let explanation = explain(inspection.snapshot(), &query).await.unwrap();
    assert_eq!((explanation.status, explanation.reason), (Some(503), Some("authorize.external.unavailable")));
    assert_eq!(explanation.checks[0].finding.observed, "not asked");
    assert_eq!(service.connections(), 0);
}
