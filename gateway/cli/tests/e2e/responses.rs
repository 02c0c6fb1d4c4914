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

/// What has come with the head is known to be good before the client is told of a success.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_broken_from_its_start_is_a_502() {
    if std::env::var_os("PORTCULLIS_TEST_DRIVER").is_some() {
        // Pingora's driver finds out when the head is on its way, and breaks off.
        return;
    }
    let stage = Stage::start("routes: [{ name: all, pool: up }]\n").await;
    let mut client = Client::connect(stage.http()).await.unwrap();
    stage.upstream.behave(Behaviour::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n"));
    let response = client.get(HOST, "/", &[]).await.unwrap();
    assert_eq!((response.status, response.broken), (502, false));
    assert!(response.header("x-decision-id").is_some());
}
