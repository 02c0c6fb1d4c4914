//! A service that is asked over gRPC whether a request may pass.

use crate::authorization_service::{Service, allow, deny, http_of, source_of};
use crate::stage::assert_refusal;
use crate::support::{Edge, NAME, Setup, edge};
use envoy_types::ext_authz::v3::CheckResponseExt;
use envoy_types::ext_authz::v3::pb::{CheckResponse, HttpStatusCode};
use portcullis::config::inspect::inspect;
use portcullis::explain::{Query, explain};
use portcullis_testkit::pki::client_config;
use portcullis_testkit::{Client, Http2Client, Pki, Response, Upstream, until};
use std::time::SystemTime;
use tokio::task::JoinHandle;
use tonic::Status;

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
      - external_authorize: { url: "SERVICE", protocol: grpc, timeout: 10s, request_headers: [x-tenant], response_headers: [x-plan], deny_headers: [x-why, retry-after] }
    pool: up
  - name: open
    match: { path: /fail-open }
    filters:
      - external_authorize: { url: "SERVICE", protocol: grpc, timeout: 10s, response_headers: [x-open], on_failure: allow }
    pool: up
  - name: shadow
    match: { path: /shadow }
    filters:
      - external_authorize: { url: "SERVICE", protocol: grpc, timeout: 10s, response_headers: [x-shadow] }
        mode: shadow
    pool: up
  - { name: free, match: { path: /free }, pool: up }
"#;

fn setup(service: &Service, upstream: &Upstream) -> Setup {
    edge(CONFIG).with("SERVICE", format!("http://{}", service.address())).with("BACKEND", upstream.address())
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
    let service = Service::start(|_| allow(&[("X-Plan", "gold"), ("x-shadow", "told"), ("x-internal", "a")])).await;
    let upstream = Upstream::start().await.unwrap();
    let gateway = setup(&service, &upstream).start().await;
    let forged = [
        ("X-Plan", "forged"),
        ("x_plan", "forged"),
        ("x.PLAN", "forged"),
        ("x-shadow", "forged"),
        ("X_Open", "forged"),
        ("Authorization", "Bearer secret"),
        ("Cookie", "session=secret"),
        ("X-Tenant", "acme"),
        ("X-Principal-Subject", "admin"),
    ];
    let (response, _) = get(&gateway, "/asked/a?q=%0D%0Ax-admin:1", &forged).await;
    assert_eq!(response.status, 200);
    let asked = service.asked().pop().unwrap();
    assert!(!format!("{asked:?}").contains("secret"), "{asked:?}");
    let http = http_of(&asked);
    let decision_id = response.header("x-decision-id").unwrap();
    assert_eq!(http.headers, [("x-tenant".into(), "acme".into()), ("x-decision-id".into(), decision_id.clone())].into());
    assert_eq!((&*http.path, &*http.method, http.id), ("/asked/a?q=%0D%0Ax-admin:1", "GET", decision_id));
    assert_eq!((&*http.host, &*http.scheme, &*http.protocol), ("api.example.test", "http", "HTTP/1.1"));
    assert!(format!("{:?}", source_of(&asked).address).contains("\"127.0.0.1\""));
    for (path, plan) in [("/asked", vec!["gold"]), ("/free", vec![]), ("/shadow", vec![])] {
        // The service says `x-shadow` too, and who does not take it must not have one from the client.
        assert_eq!(get(&gateway, path, &forged).await.0.status, 200, "{path}");
        let seen = upstream.last().unwrap();
        assert_eq!(seen.header_all("x-plan"), plan, "{path}");
        for name in ["x_plan", "x.plan", "x-shadow", "x_shadow", "x-open", "x_open", "x-internal"] {
            assert!(seen.header(name).is_none(), "{path} {name}");
        }
    }
    assert_eq!(gateway.metric("portcullis_external_authorizations_total", &[("outcome", "allow")]), 3.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_refuses_and_whatever_is_no_answer_refuses_too() {
    let service = Service::start(|http| match http.headers.get("x-tenant").map(String::as_str) {
        Some("401") => deny(HttpStatusCode::Unauthorized, &[("x-why", "who")]),
        Some("429") => deny(HttpStatusCode::TooManyRequests, &[("retry-after", "7")]),
        Some("200") => deny(HttpStatusCode::Ok, &[]),
        Some("302") => deny(HttpStatusCode::Found, &[("location", "/login")]),
        Some("plain") => Some(Ok(CheckResponse::with_status(Status::unauthenticated("internal")))),
        Some("error") => Some(Err(Status::unavailable("internal"))),
        Some("refused") => Some(Err(Status::permission_denied("internal"))),
        Some("empty") => Some(Ok(CheckResponse::new())),
        _ => deny(HttpStatusCode::Forbidden, &[("x-why", "plan"), ("set-cookie", "a=b")]),
    })
    .await;
    let upstream = Upstream::start().await.unwrap();
    let gateway = setup(&service, &upstream).start().await;
    for (tenant, status, reason, name, value) in [
        ("403", 403, "denied", "x-why", Some("plan")),
        ("401", 401, "denied", "x-why", Some("who")),
        ("429", 429, "denied", "retry-after", Some("7")),
        ("200", 403, "denied", "x-why", None),
        ("302", 403, "denied", "location", None),
        ("plain", 403, "denied", "x-why", None),
        ("error", 503, "unavailable", "x-why", None),
        ("refused", 503, "unavailable", "x-why", None),
        ("empty", 503, "unavailable", "x-why", None),
    ] {
        let (response, seen) = get(&gateway, "/asked", &[("x-tenant", tenant)]).await;
        assert_eq!((response.status, seen), (status, format!("authorize.external.{reason}")), "{tenant}");
        assert_eq!(response.header(name).as_deref(), value, "{tenant}");
        assert!(response.header("set-cookie").is_none() && !response.text().contains("internal"));
        assert_refusal(&response);
    }
    // A refusal is one where failures let pass, too.
    assert_eq!(get(&gateway, "/fail-open", &[]).await.1, "authorize.external.denied");
    let (response, _) = get(&gateway, "/shadow", &[]).await;
    assert_eq!((response.status, upstream.count()), (200, 1));
    assert_eq!(gateway.line(&response).await["shadow"][0]["reason"], "authorize.external.denied");

    service.judge(|_| Some(Err(Status::internal("internal"))));
    let (response, _) = get(&gateway, "/fail-open", &[("x-open", "forged")]).await;
    assert_eq!((response.status, upstream.count()), (200, 2));
    assert!(upstream.last().unwrap().header("x-open").is_none());
    let name = service.address().to_string();
    let counts = ["deny", "unavailable", "fail_open"]
        .map(|outcome| gateway.metric("portcullis_external_authorizations_total", &[("service", &name), ("outcome", outcome)]));
    assert_eq!(counts, [8.0, 3.0, 1.0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_goes_and_comes_back_is_asked_again() {
    let service = Service::start(|_| allow(&[])).await;
    let upstream = Upstream::start().await.unwrap();
    let gateway = setup(&service, &upstream).start().await;
    assert_eq!(get(&gateway, "/asked", &[]).await.0.status, 200);
    // Between two questions, and back before the second.
    service.go_down().await;
    service.come_back(None);
    assert_eq!(get(&gateway, "/asked", &[]).await.0.status, 200);
    assert_eq!((service.asked().len(), service.connections()), (2, 2));
    service.go_down().await;
    assert_eq!(get(&gateway, "/asked", &[]).await.1, "authorize.external.unavailable");
    service.come_back(None);
    assert_eq!(get(&gateway, "/asked", &[]).await.0.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_requests_share_a_connection_and_each_gets_its_own_answer() {
    let service = Service::start(|http| match http.path.ends_with('3') {
        true => deny(HttpStatusCode::Forbidden, &[]),
        false => allow(&[("x-plan", &http.path)]),
    })
    .await;
    let upstream = Upstream::start().await.unwrap();
    let gateway = setup(&service, &upstream).start().await;
    let address = gateway.address();
    let mut all = tokio::task::JoinSet::new();
    for client in 0..20 {
        all.spawn(async move {
            let mut connection = Client::connect(address).await.unwrap();
            for number in 0..20 {
                let path = format!("/asked/{client}/{number}");
                let response = connection.get("api.example.test", &path, &[]).await.unwrap();
                assert_eq!(response.status, if path.ends_with('3') { 403 } else { 200 }, "{path}");
            }
        });
    }
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
    assert_eq!((service.asked().len(), service.connections()), (400, 1));
    assert_eq!(upstream.count(), 360);
    for seen in upstream.requests() {
        assert_eq!(seen.header("x-plan").as_deref(), Some(&*seen.target));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_is_asked_than_allowed_and_a_client_that_goes_ends_its_question() {
    let service = Service::start(|_| None).await;
    let upstream = Upstream::start().await.unwrap();
    let config = CONFIG.replace("timeout: 10s, request_headers", "timeout: 10s, max_concurrent: 2, request_headers");
    let gateway = edge(&config).with("SERVICE", format!("http://{}", service.address())).with("BACKEND", upstream.address());
    let gateway = gateway.start().await;
    let address = gateway.address();
    let ask = || {
        tokio::spawn(async move {
            let mut client = Http2Client::connect(address).await.unwrap();
            client.get("api.example.test", "/asked", &[]).await.map(|response| response.status)
        })
    };
    let clients = [ask(), ask()];
    until("two questions", || service.waiting() == 2).await.unwrap();
    assert_eq!(get(&gateway, "/asked", &[]).await.1, "authorize.external.unavailable");
    clients.iter().for_each(JoinHandle::abort);
    until("the questions to end", || service.waiting() == 0).await.unwrap();
    service.judge(|_| allow(&[]));
    assert_eq!(get(&gateway, "/asked", &[]).await.0.status, 200);
    assert_eq!((service.connections(), service.asked().len(), upstream.count()), (1, 3, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_too_slow_lets_nobody_pass() {
    let service = Service::start(|_| None).await;
    let upstream = Upstream::start().await.unwrap();
    let config = CONFIG.replace("timeout: 10s, request_headers", "timeout: 50ms, request_headers");
    let gateway = edge(&config).with("SERVICE", format!("http://{}", service.address())).with("BACKEND", upstream.address());
    let gateway = gateway.start().await;
    assert_eq!(get(&gateway, "/asked", &[]).await.1, "authorize.external.unavailable");
    until("the question to end", || service.waiting() == 0).await.unwrap();
    assert_eq!(upstream.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_is_who_its_certificate_says_and_speaks_http2() {
    let pki = Pki::new().unwrap();
    let identity = pki.server(&["localhost"]).unwrap();
    let upstream = Upstream::start().await.unwrap();
    let of = |alpn: &[&str]| Some(identity.server_config(None, alpn).unwrap());
    for (alpn, host, ca, status) in [
        (&["h2"][..], "localhost", true, 200),
        (&["http/1.1", "h2"], "localhost", true, 200),
        (&["h2"], "localhost", false, 503),
        (&["h2"], "127.0.0.1", true, 503),
        (&["http/1.1"], "localhost", true, 503),
    ] {
        let service = Service::start_at(of(alpn), |_| allow(&[]));
        let ca = if ca { "SERVICE\", ca: ca.pem" } else { "SERVICE\"" };
        let config = CONFIG.replace("SERVICE\"", ca);
        let gateway = edge(&config).with("SERVICE", format!("https://{host}:{}", service.address().port()));
        let gateway = gateway.with("BACKEND", upstream.address()).file("ca.pem", pki.ca_pem()).start().await;
        assert_eq!(get(&gateway, "/asked", &[]).await.0.status, status, "{alpn:?} {host}");
        assert_eq!(service.asked().len(), usize::from(status == 200));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_is_told_who_is_calling() {
    let service = Service::start(|_| allow(&[])).await;
    let clients = Pki::named("Clients").unwrap();
    let config = r#"
listeners:
  - { name: https, address: 127.0.0.1:0, tls: { certificates: [{ cert: edge.pem, key: edge.key }], client_auth: { mode: request, ca: clients.pem } } }
access_log: { path: access.jsonl }
routes:
  - name: asked
    filters:
      - client_cert: { require: true }
      - external_authorize: { url: "SERVICE", protocol: grpc, timeout: 10s }
    respond: { status: 200 }
"#;
    let gateway = edge(config).with("SERVICE", format!("http://{}", service.address()));
    let gateway = gateway.tls().file("clients.pem", clients.ca_pem()).start().await;
    let device = clients.leaf("device").uri("spiffe://example.test/device").issue().unwrap();
    let config = client_config(&[gateway.authority()], Some(&device), &["http/1.1"]).unwrap();
    let mut client = Client::connect_tls(gateway.listener("https"), NAME, config).await.unwrap();
    assert_eq!(client.get(NAME, "/", &[]).await.unwrap().status, 200);
    let asked = service.asked().pop().unwrap();
    assert_eq!(source_of(&asked).principal, "spiffe://example.test/device");
    let headers = http_of(&asked).headers;
    assert_eq!(headers["x-principal-method"], "certificate");
    assert!(headers.contains_key("x-principal-subject"), "{headers:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_explanation_asks_nobody() {
    let (service, upstream) = (Service::start(|_| allow(&[])).await, Upstream::start().await.unwrap());
    let (_folder, path) = setup(&service, &upstream).written();
    let inspection = inspect(&path, &portcullis::filters(), None).unwrap();
    let security: Vec<_> = inspection.routes().iter().map(|route| route.security.join(", ")).collect();
    let name = service.address();
    let external = |more: &str| format!("external(grpc {name}{more})");
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
