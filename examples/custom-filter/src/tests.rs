//! The whole program on free ports: a gateway with the filter, an upstream that records what it gets, and a client.

use crate::tenant::Tenant;
use portcullis::config::inspect::inspect;
use portcullis::explain::{Query, explain};
use portcullis::plugin::FilterFactory;
use portcullis::{Gateway, Handle};
use portcullis_testkit::{Client, Error, Upstream};
use std::net::SocketAddr;
use std::path::Path;
use std::time::SystemTime;

/// The example's own configuration, but for its addresses.
fn config(upstream: SocketAddr) -> String {
    include_str!("../edge.yaml")
        .replace("127.0.0.1:8080", "127.0.0.1:0")
        .replace("127.0.0.1:9090", "127.0.0.1:0")
        .replace("127.0.0.1:9001", &upstream.to_string())
}

async fn start(upstream: &Upstream) -> Handle {
    let builder = Gateway::builder().config_text(config(upstream.address())).filter::<Tenant>();
    builder.start().await.unwrap_or_else(|error| panic!("{error}"))
}

async fn client(gateway: &Handle) -> Result<Client, Error> {
    let Some(address) = gateway.address("http") else { panic!("the listener has no address") };
    Client::connect(address).await
}

#[tokio::test]
async fn a_known_tenant_reaches_the_upstream_with_its_plan() -> Result<(), Error> {
    let upstream = Upstream::start().await?;
    let gateway = start(&upstream).await;
    let fields = [("x-tenant", "acme"), ("X-Tenant-Plan", "platinum")];
    let response = client(&gateway).await?.get("api.example.test", "/orders/1", &fields).await?;
    assert_eq!(response.status, 200);
    let Some(received) = upstream.last() else { panic!("the upstream got nothing") };
    assert_eq!(received.header_all("x-tenant-plan"), ["gold"]);
    assert!(gateway.metrics().contains("acme_tenant_requests_total{tenant=\"acme\"} 1\n"));
    gateway.stop().await;
    Ok(())
}

#[tokio::test]
async fn anybody_else_is_refused_with_a_reason_in_the_metrics_and_a_decision_id() -> Result<(), Error> {
    let upstream = Upstream::start().await?;
    let gateway = start(&upstream).await;
    let response = client(&gateway).await?.get("api.example.test", "/orders/1", &[("x-tenant", "initech")]).await?;
    assert_eq!(response.status, 403);
    assert_eq!(response.json()?["decision_id"].as_str(), response.header("x-decision-id").as_deref());
    assert!(!response.text().contains("initech"), "the client learns no more than the status");
    assert_eq!(upstream.count(), 0);
    let metrics = gateway.metrics();
    let counted =
        metrics.lines().find(|line| line.starts_with("portcullis_verdicts_total") && line.contains("acme.tenant.unknown"));
    assert!(counted.is_some_and(|line| line.ends_with(" 1")), "{metrics}");
    gateway.stop().await;
    Ok(())
}

#[tokio::test]
async fn the_filter_explains_itself_offline() {
    let mut table = portcullis::filters();
    table.add(FilterFactory::of::<Tenant>());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("edge.yaml");
    let inspection = inspect(&path, &table, None).unwrap_or_else(|found| panic!("{found}"));
    assert_eq!(inspection.routes().first().map(|route| route.security.join(" ")).as_deref(), Some("tenant(acme, globex)"));
    let query = Query {
        url: "http://api.example.test/orders/1".to_owned(),
        method: "GET".to_owned(),
        headers: vec![("x-tenant".to_owned(), b"initech".to_vec())],
        certificate: Vec::new(),
        client: [127, 0, 0, 1].into(),
        at: SystemTime::now(),
        listener: None,
    };
    let explained = explain(inspection.snapshot(), &query).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((explained.status, explained.reason), (Some(403), Some("acme.tenant.unknown")));
    let failed: Vec<_> = explained.checks.iter().filter(|check| !check.ok).collect();
    assert_eq!(failed.len(), 1);
    assert_eq!((failed[0].filter, failed[0].check, failed[0].finding.observed.as_str()), ("tenant", "plan", "initech"));
}
