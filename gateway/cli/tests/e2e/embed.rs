//! The gateway as a library: several in one process, ports that are freed, starts that fail cleanly.

use super::support::edge;
use portcullis::{Gateway, StartError};
use portcullis_testkit::client::{head, once};
use portcullis_testkit::{Client, Port, Upstream, until};

const CONFIG: &str = r#"
listeners: [{ name: http, address: "LISTEN" }]
routes: [{ name: all, respond: { status: 200, body: "BODY" } }]
"#;

fn config(listen: impl ToString, body: &str) -> String {
    CONFIG.replace("LISTEN", &listen.to_string()).replace("BODY", body)
}

async fn text(address: std::net::SocketAddr) -> String {
    once(address, head("GET", "a", "/", &[("connection", "close")])).await.unwrap().text()
}

#[tokio::test]
async fn several_gateways_live_in_one_process() {
    let mut gateways = Vec::new();
    for at in 0..4 {
        gateways.push(Gateway::builder().config_text(config("127.0.0.1:0", &format!("number {at}"))).start().await.unwrap());
    }
    for (at, gateway) in gateways.iter().enumerate() {
        let address = gateway.address("http").unwrap();
        assert_ne!(address.port(), 0);
        assert_eq!(gateway.addresses(), [("http".to_owned(), address)]);
        assert_eq!(text(address).await, format!("number {at}"));
    }
    // Each counts for itself, and stops for itself.
    let first = gateways.remove(0);
    let address = first.address("http").unwrap();
    text(address).await;
    let count = |metrics: &str| super::support::metric(metrics, "portcullis_requests_total", &[("route", "all")]);
    assert_eq!((count(&first.metrics()), count(&gateways[0].metrics())), (2.0, 1.0));
    first.stop().await;
    assert!(std::net::TcpStream::connect(address).is_err());
    assert_eq!(text(gateways[0].address("http").unwrap()).await, "number 1");
}

#[tokio::test]
async fn stopping_draining_and_dropping_free_the_port() {
    let port = Port::reserve().unwrap();
    for round in 0..9 {
        let gateway = Gateway::builder().config_text(config(port.address(), "here")).start().await.unwrap();
        assert_eq!(text(port.address()).await, "here");
        match round % 3 {
            0 => gateway.stop().await,
            1 => assert!(gateway.drain().await),
            _ => drop(gateway),
        }
        until("a free port", || std::net::TcpStream::connect(port.address()).is_err()).await.unwrap();
    }
}

#[tokio::test]
async fn stop_breaks_off_what_drain_would_wait_for() {
    let upstream = Upstream::builder().behaviour(portcullis_testkit::Behaviour::Hang).start().await.unwrap();
    let config = "listeners: [{ name: http, address: 127.0.0.1:0 }]\npools: { web: { backends: [{ address: UPSTREAM }] } }\n\
                  routes: [{ name: all, pool: web }]\nshutdown: { drain: 200ms }";
    for drains in [true, false] {
        let edge = edge(config).with("UPSTREAM", upstream.address()).start().await;
        let mut client = edge.client().await;
        let before = upstream.count();
        client.send(head("GET", "a", "/", &[])).await.unwrap();
        until("the request", || upstream.count() > before).await.unwrap();
        if drains {
            assert!(!edge.handle.drain().await, "the request did not end in time");
        } else {
            edge.handle.stop().await;
        }
    }
}

#[tokio::test]
async fn a_start_that_fails_says_why_and_leaves_nothing_running() {
    let port = Port::reserve().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let both = format!(
        "listeners: [{{ name: free, address: \"{}\" }}, {{ name: taken, address: \"{}\" }}]\nroutes: [{{ name: all, respond: {{ status: 200 }} }}]",
        port.address(),
        taken.local_addr().unwrap()
    );
    match Gateway::builder().config_text(both).start().await {
        Err(StartError::Bind { listener, address, .. }) => {
            assert_eq!((listener.as_str(), address), ("taken", taken.local_addr().unwrap()))
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it started"),
    }
    until("the other port freed", || std::net::TcpStream::connect(port.address()).is_err()).await.unwrap();

    let error = Gateway::builder().config_text("listners: []").start().await.err().unwrap();
    assert!(matches!(error, StartError::Configuration(_)) && error.to_string().contains("listeners"), "{error}");
    assert!(matches!(Gateway::builder().start().await.err().unwrap(), StartError::NoConfiguration));
    let missing = Gateway::builder().config_file("/nowhere/edge.yaml").start().await.err().unwrap();
    assert!(missing.to_string().contains("/nowhere/edge.yaml"), "{missing}");
}

#[test]
fn a_start_outside_of_a_runtime_is_an_error_and_no_panic() {
    let mut start = std::pin::pin!(Gateway::builder().config_text(config("127.0.0.1:0", "x")).start());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match start.as_mut().poll(&mut context) {
        std::task::Poll::Ready(Err(StartError::NoRuntime)) => {}
        _ => panic!("it should say that there is no runtime"),
    }
}

#[tokio::test]
async fn a_handle_that_is_dropped_ends_idle_connections() {
    let gateway = Gateway::builder().config_text(config("127.0.0.1:0", "x")).start().await.unwrap();
    let mut client = Client::connect(gateway.address("http").unwrap()).await.unwrap();
    assert_eq!(client.get("a", "/", &[]).await.unwrap().status, 200);
    drop(gateway);
    assert!(client.is_closed().await.unwrap());
}
