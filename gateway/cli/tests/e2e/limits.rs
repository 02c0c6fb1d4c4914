//! Rates and addresses.

use crate::stage::{Call, Stage};
use portcullis_testkit::{Client, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hole_the_state_of_rate_limits_is_reset_by_every_reload() {
    const CONFIG: &str = r"
routes:
  - name: limited
    filters: [{ rate_limit: { key: client, rate: 3/h } }]
    pool: up
";
    let stage = Stage::start(CONFIG).await;
    for _ in 0..3 {
        assert_eq!(stage.send(&Call::get("/")).await.status, 200);
    }
    let (response, line) = stage.log(&Call::get("/")).await;
    assert_eq!((response.status, &line["reason"]), (429, &"rate.exceeded".into()));
    crate::stage::assert_refusal(&response);
    stage.gateway.reload().await.unwrap();
    assert_eq!(stage.send(&Call::get("/")).await.status, 429, "a reload with nothing changed");
    stage.rewrite(&CONFIG.replace("    pool: up", "    pool: up\n  - { name: other, match: { path: /other }, pool: up }"));
    stage.gateway.reload().await.unwrap();
    assert_eq!(stage.send(&Call::get("/")).await.status, 429, "a reload with another route");
    assert_eq!(stage.send(&Call::get("/").from("127.0.0.9")).await.status, 200, "another client");
    let labels = [("route", "limited"), ("filter", "rate_limit"), ("verdict", "deny"), ("reason", "rate.exceeded")];
    assert_eq!(stage.metric("portcullis_verdicts_total", &labels), 3.0);
    assert_eq!(stage.upstream.count(), 4);
}

const PROXY: &str = r"
listeners:
  - { name: http, address: 127.0.0.1:0, proxy_protocol: { trust: [127.0.0.1] } }
";

const ADDRESSES: &str = r"
trusted_proxies: [127.0.0.1, 192.0.2.0/24]
routes:
  - name: inside
    filters: [{ ip_allow: { allow: [198.51.100.7, 2001:db8::/32], deny: [198.51.100.66] } }]
    pool: up
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hole_ip_rules_see_only_the_tcp_peer() {
    let stage = Stage::start(ADDRESSES).await;
    let inspection = stage.inspect();
    let via = |forwarded: &str| Call::get("/").field("X-Forwarded-For", forwarded);
    for (call, client, allowed) in [
        (via("198.51.100.7"), "198.51.100.7", true),
        (via("6.6.6.6, 198.51.100.7"), "198.51.100.7", true),
        (via("198.51.100.7, 192.0.2.1"), "198.51.100.7", true),
        (via("2001:db8::5"), "2001:db8::5", true),
        (via("198.51.100.8"), "198.51.100.8", false),
        (via("198.51.100.66"), "198.51.100.66", false),
        // What stands left of the first stranger is his own invention.
        (via("198.51.100.7, 203.0.113.9"), "203.0.113.9", false),
        (via("198.51.100.7, unknown"), "127.0.0.1", false),
        (Call::get("/"), "127.0.0.1", false),
        // A peer that is not trusted is taken by its own address, whatever it says.
        (via("198.51.100.7").from("127.0.0.2"), "127.0.0.2", false),
        (Call::get("/").field("X-Real-IP", "198.51.100.7").field("Forwarded", "for=198.51.100.7"), "127.0.0.1", false),
    ] {
        let judged = stage.judge_by(&inspection, &call).await;
        if allowed {
            judged.allowed(200)
        } else {
            judged.refused(403, "ip.denied")
        };
        assert_eq!(judged.line["client"], client);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hole_client_addresses_are_compared_as_text_with_their_port() {
    let stage = Stage::start(ADDRESSES).await;
    for forwarded in ["198.51.100.7:4711", "::ffff:198.51.100.7", "[::ffff:198.51.100.7]:1", "[2001:db8::5]:443", "2001:DB8:0::5"]
    {
        stage.judge(&Call::get("/").field("X-Forwarded-For", forwarded)).await.allowed(200);
    }
    for forwarded in ["198.51.100.70", "198.51.100.7.example", "0198.51.100.7", "198.51.100.66:80", "::ffff:198.51.100.66"] {
        stage.judge(&Call::get("/").field("X-Forwarded-For", forwarded)).await.refused(403, "ip.denied");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ip_rules_judge_the_address_in_the_proxy_header() {
    let stage = Stage::builder().listeners(PROXY).start(ADDRESSES).await;
    for (source, status) in [("198.51.100.7", 200), ("198.51.100.66", 403), ("203.0.113.9", 403)] {
        let mut client = Client::connect(stage.http()).await.unwrap();
        client.send(format!("PROXY TCP4 {source} 127.0.0.1 4711 80\r\n")).await.unwrap();
        let response = client.request(Call::get("/").bytes()).await.unwrap();
        assert_eq!(response.status, status);
        let line = stage.line(&response).await;
        assert_eq!(line["client"], source);
        assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
        if status == 200 {
            assert_eq!(stage.upstream.last().unwrap().header_all("x-forwarded-for"), [source]);
        }
    }
    // One who is not trusted with a PROXY header and sends one gets nothing at all.
    let mut client = Client::connect_from("127.0.0.3".parse().unwrap(), stage.http()).await.unwrap();
    client.send("PROXY TCP4 198.51.100.7 127.0.0.1 4711 80\r\n").await.unwrap();
    let _ = client.send(Call::get("/").bytes()).await;
    assert!(client.is_closed().await.unwrap());
    let failures = || stage.metric("portcullis_handshake_failures_total", &[("listener", "http")]);
    until("the failure is counted", || failures() >= 1.0).await.unwrap();
    assert_eq!(stage.upstream.count(), 1);
}
