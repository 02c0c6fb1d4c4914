//! TLS to backends: verified always, with their own CA, name and client certificate, by both drivers.

use super::support::{Edge, edge};
use portcullis_testkit::{Pki, Upstream};

const CONFIG: &str = r#"
listeners: [{ name: http, driver: auto, address: 127.0.0.1:0 }]
access_log: { path: access.jsonl }
pools: { web: { retries: 0, protocol: PROTOCOL, tls: { TLS }, backends: [{ address: UPSTREAM }] } }
routes: [{ name: all, pool: web }]
"#;

/// A pool that may speak HTTP/2 is Pingora's; the other one is the direct driver's.
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
