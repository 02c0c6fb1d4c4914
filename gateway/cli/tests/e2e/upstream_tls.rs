//! TLS to backends: verified always, with their own CA, name and client certificate.

use super::support::{Edge, edge};
use portcullis_testkit::{Pki, Upstream};

const CONFIG: &str = r#"
listeners: [{ name: http, address: 127.0.0.1:0 }]
access_log: { path: access.jsonl }
pools: { web: { retries: 0, tls: { TLS }, backends: [{ address: UPSTREAM }] } }
routes: [{ name: all, pool: web }]
"#;

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
    async fn edge(&self, tls: &str) -> Edge {
        let client = self.clients.client("edge").unwrap();
        let stranger = Pki::named("strangers").unwrap();
        edge(CONFIG)
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
        let edge = self.edge(tls).await;
        let response = edge.client().await.get("a", "/", &[]).await.unwrap();
        assert_eq!(response.status, 502, "{tls}");
        assert_eq!(edge.line(&response).await["reason"], "upstream.connect", "{tls}");
        assert_eq!(self.upstream.count(), 0, "{tls}");
    }
}

#[tokio::test]
async fn a_backend_with_the_right_ca_and_name_is_served() {
    let stage = stage(false).await;
    let edge = stage.edge("ca: ca.pem, server_name: backend.test").await;
    assert_eq!(edge.client().await.get("a", "/", &[]).await.unwrap().status, 200);
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
    let edge =
        stage.edge("ca: ca.pem, server_name: backend.test, client_certificate: { cert: client.pem, key: client.key }").await;
    assert_eq!(edge.client().await.get("a", "/", &[]).await.unwrap().status, 200);
    assert!(stage.upstream.last().unwrap().client_certificate.is_some());
}

#[tokio::test]
async fn a_backend_that_refuses_our_certificate_gets_no_request() {
    let stage = stage(true).await;
    let tls = "ca: ca.pem, server_name: backend.test, client_certificate: { cert: stranger.pem, key: stranger.key }";
    for tls in [tls, "ca: ca.pem, server_name: backend.test"] {
        let edge = stage.edge(tls).await;
        let response = edge.client().await.get("a", "/", &[]).await.unwrap();
        assert_eq!(response.status, 502, "{tls}");
        assert_eq!(stage.upstream.count(), 0, "{tls}");
    }
}
