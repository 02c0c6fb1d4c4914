//! TLS to backends: verified always, with their own CA, name and client certificate, by both drivers.

use super::support::{Edge, edge};
use portcullis_testkit::{Http2Upstream, Pki, Upstream};

const CONFIG: &str = r#"
listeners: [{ name: http, driver: auto, address: 127.0.0.1:0 }]
access_log: { path: access.jsonl }
pools: { web: { retries: 0, protocol: PROTOCOL, tls: { TLS }, backends: [{ address: UPSTREAM }] } }
routes: [{ name: all, pool: web }]
"#;

/// The first request to a pool that may speak HTTP/2 is Pingora's; one that may not is the direct driver's.
const DRIVERS: [(&str, &str); 2] = [("auto", "pingora"), ("http/1.1", "direct")];

struct Stage {
    pki: Pki,
    clients: Pki,
    upstream: Upstream,
}

/// A backend for `backend.test` that insists on a client certificate if `mutual`.
async fn stage(mutual: bool) -> Stage {
    let (pki, clients) = (Pki::new().unwrap(), Pki::named("clients").unwrap());
    let config = pki.server(&["backend.test"]).unwrap().server_config(mutual.then_some(&clients), &["http/1.1"]).unwrap();
    let upstream = Upstream::builder().tls(config).start().await.unwrap();
    Stage { pki, clients, upstream }
}

impl Stage {
    async fn edge(&self, protocol: &str, tls: &str) -> Edge {
        let client = self.clients.client("edge").unwrap();
        let stranger = Pki::named("strangers").unwrap();
        edge(CONFIG)
            .with("PROTOCOL", protocol)
            .with("TLS", tls)
            .with("UPSTREAM", self.upstream.address())
            .file("ca.pem", self.pki.ca_pem())
            .file("other-ca.pem", stranger.ca_pem())
            .identity("client", &client)
            .identity("stranger", &stranger.client("stranger").unwrap())
            .start()
            .await
    }

    async fn refused(&self, tls: &str) {
        for (protocol, driver) in DRIVERS {
            let edge = self.edge(protocol, tls).await;
            let response = edge.client().await.get("a", "/", &[]).await.unwrap();
            assert_eq!(response.status, 502, "{driver}: {tls}");
            assert_eq!(edge.line(&response).await["reason"], "upstream.connect", "{driver}: {tls}");
            assert_eq!(self.upstream.count(), 0, "{driver}: {tls}");
        }
    }

    async fn served(&self, tls: &str) {
        for (protocol, driver) in DRIVERS {
            let edge = self.edge(protocol, tls).await;
            assert_eq!(edge.client().await.get("a", "/", &[]).await.unwrap().status, 200, "{driver}");
            edge.metric_reaches("portcullis_driver_requests_total", &[("driver", driver)], 1.0).await;
        }
    }
}

#[tokio::test]
async fn a_backend_with_the_right_ca_and_name_is_served() {
    let stage = stage(false).await;
    stage.served("ca: ca.pem, server_name: backend.test").await;
    assert_eq!(stage.upstream.last().unwrap().sni.as_deref(), Some("backend.test"));
}

#[tokio::test]
async fn a_backend_of_another_ca_or_name_gets_no_request() {
    let stage = stage(false).await;
    stage.refused("ca: other-ca.pem, server_name: backend.test").await;
    stage.refused("ca: ca.pem, server_name: other.test").await;
    // Without a name, the certificate must be for the address itself.
    stage.refused("ca: ca.pem").await;
    // Without a CA, for the public ones.
    stage.refused("server_name: backend.test").await;
}

#[tokio::test]
async fn a_client_certificate_is_presented_to_the_backend() {
    let stage = stage(true).await;
    stage.served("ca: ca.pem, server_name: backend.test, client_certificate: { cert: client.pem, key: client.key }").await;
    assert!(stage.upstream.last().unwrap().client_certificate.is_some());
}

#[tokio::test]
async fn a_backend_that_refuses_our_certificate_gets_no_request() {
    let stage = stage(true).await;
    let tls = "ca: ca.pem, server_name: backend.test, client_certificate: { cert: stranger.pem, key: stranger.key }";
    for tls in [tls, "ca: ca.pem, server_name: backend.test"] {
        for (protocol, driver) in DRIVERS {
            let edge = stage.edge(protocol, tls).await;
            let response = edge.client().await.get("a", "/", &[]).await.unwrap();
            assert_eq!(response.status, 502, "{driver}: {tls}");
            assert_eq!(stage.upstream.count(), 0, "{driver}: {tls}");
        }
    }
}

/// Backends for `backend.test`, each of which offers some of the protocols, behind one pool; which backend was asked by each of
/// so many requests, and in which version.
async fn chosen(offers: &[&[&str]], requests: usize) -> (Vec<String>, Edge) {
    let pki = Pki::new().unwrap();
    let (mut http1, mut http2, mut addresses) = (Vec::new(), Vec::new(), Vec::new());
    for offer in offers {
        let config = pki.server(&["backend.test"]).unwrap().server_config(None, offer).unwrap();
        if offer.contains(&"h2") {
            http2.push(Http2Upstream::start_tls(config).await.unwrap());
            addresses.extend(http2.last().map(Http2Upstream::address));
        } else {
            http1.push(Upstream::builder().tls(config).start().await.unwrap());
            addresses.extend(http1.last().map(Upstream::address));
        }
    }
    let backends: Vec<_> = addresses.iter().map(|address| format!("{{ address: \"{address}\" }}")).collect();
    let edge = edge(CONFIG)
        .with("PROTOCOL", "auto")
        .with("TLS", "ca: ca.pem, server_name: backend.test")
        .with("{ address: UPSTREAM }", backends.join(", "))
        .file("ca.pem", pki.ca_pem())
        .start()
        .await;
    let mut client = edge.client().await;
    let mut asked = Vec::new();
    for _ in 0..requests {
        let response = client.post("a", "/", &[], b"hello").await.unwrap();
        assert_eq!(response.status, 200);
        let account = response.json().unwrap();
        assert_eq!(account["body"], "hello");
        let line = edge.line(&response).await;
        let at = addresses.iter().position(|address| line["backend"] == address.to_string()).unwrap_or_else(|| panic!("{line}"));
        asked.push(format!("{at} {}", account["version"].as_str().unwrap()));
    }
    (asked, edge)
}

fn carried(edge: &Edge) -> [f64; 2] {
    ["pingora", "direct"].map(|driver| edge.metric("portcullis_driver_requests_total", &[("driver", driver)]))
}

#[tokio::test]
async fn a_backend_that_chooses_http1_is_the_direct_drivers_from_the_second_request_on() {
    for offer in [&["http/1.1"][..], &[]] {
        let (asked, edge) = chosen(&[offer], 5).await;
        assert_eq!(asked, ["0 HTTP/1.1"; 5], "{offer:?}");
        assert_eq!(carried(&edge), [1.0, 4.0], "{offer:?}");
    }
}

#[tokio::test]
async fn a_backend_that_chooses_http2_gets_http2() {
    for offer in [&["h2", "http/1.1"][..], &["h2"]] {
        let (asked, edge) = chosen(&[offer], 5).await;
        assert_eq!(asked, ["0 HTTP/2"; 5], "{offer:?}");
        assert_eq!(carried(&edge), [5.0, 0.0], "{offer:?}");
    }
}

/// One shows that it speaks HTTP/1.1, and then the direct driver finds that another would rather not.
#[tokio::test]
async fn backends_that_choose_differently_are_all_served() {
    let (asked, edge) = chosen(&[&["http/1.1"], &["h2", "http/1.1"]], 8).await;
    let of = |backend| asked.iter().filter_map(|one| one.strip_prefix(backend)).collect::<Vec<_>>();
    assert_eq!(of("0 "), ["HTTP/1.1"; 4]);
    let second = of("1 ");
    assert_eq!((second.len(), &second[1..]), (4, &["HTTP/2"; 3][..]));
    // If the first was asked first, the one request that was on its way when it was found out.
    let found_out = if second[0] == "HTTP/2" { 0.0 } else { 1.0 };
    assert_eq!(carried(&edge), [8.0 - found_out, found_out]);
}
