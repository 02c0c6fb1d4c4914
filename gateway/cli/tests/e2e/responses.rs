//! What comes back.

use crate::stage::{HOST, Stage};
use portcullis_testkit::{Behaviour, Client};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_has_the_gateways_http_version_and_not_the_backends() {
    let stage = Stage::start("routes: [{ name: all, pool: up }]\n").await;
    let mut client = Client::connect(stage.http()).await.unwrap();
    for old in ["HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.0 200 OK\r\n\r\nok"] {
        stage.upstream.behave(Behaviour::raw(old));
        let response = client.get(HOST, "/", &[]).await.unwrap();
        assert_eq!((response.status, &*response.text()), (200, "ok"), "{old:?}");
        assert!(response.version.ends_with("1.1"), "{old:?}: {}", response.version);
        assert!(!response.broken, "{old:?}");
    }
}
