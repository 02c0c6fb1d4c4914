use super::*;
use serde_json::json;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A backend that answers with the status it is told, and remembers the last request.
pub struct Server {
    pub address: SocketAddr,
    status: Arc<AtomicU16>,
    pub asked: Arc<AtomicUsize>,
    last: Arc<Mutex<String>>,
    task: JoinHandle<()>,
}

impl Server {
    pub async fn start(status: u16) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), status)
    }

    fn on(listener: TcpListener, status: u16) -> Self {
        let (status, asked) = (Arc::new(AtomicU16::new(status)), Arc::new(AtomicUsize::new(0)));
        let last = Arc::new(Mutex::new(String::new()));
        let address = listener.local_addr().unwrap();
        let (status_now, count, seen) = (Arc::clone(&status), Arc::clone(&asked), Arc::clone(&last));
        let task = tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let status = status_now.load(Ordering::SeqCst);
                count.fetch_add(1, Ordering::SeqCst);
                let seen = Arc::clone(&seen);
                tokio::spawn(async move {
                    let mut head = vec![0; 4096];
                    let mut len = 0;
                    while let Ok(n @ 1..) = socket.read(&mut head[len..]).await {
                        len += n;
                        if head[..len].ends_with(b"\r\n\r\n") {
                            break;
                        }
                    }
                    *seen.lock() = String::from_utf8_lossy(&head[..len]).to_lowercase();
                    // 0 is a server that accepts and never answers.
                    if status == 0 {
                        std::future::pending::<()>().await;
                    }
                    let (interim, status) = if status == 103 { ("HTTP/1.1 103 Early Hints\r\n\r\n", 200) } else { ("", status) };
                    let answer = format!("{interim}HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\nok");
                    let _ = socket.write_all(answer.as_bytes()).await;
                    let _ = socket.shutdown().await;
                });
            }
        });
        Self { address, status, asked, last, task }
    }

    pub fn say(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    pub fn last(&self) -> String {
        self.last.lock().clone()
    }

    pub async fn stop(self) -> SocketAddr {
        self.task.abort();
        let _ = self.task.await;
        self.address
    }
}

fn checked(backends: &[SocketAddr], health: Value) -> Value {
    let backends: Vec<_> = backends.iter().map(|address| json!({ "address": address.to_string() })).collect();
    let mut all = json!({ "interval": "5ms", "timeout": "2s" });
    all.as_object_mut().unwrap().extend(health.as_object().unwrap().clone());
    json!({ "backends": backends, "health": all })
}

#[tokio::test]
async fn a_backend_that_fails_its_http_check_gets_nothing_until_it_passes_again() {
    let gateway = Gateway::new();
    let (good, bad) = (Server::start(200).await, Server::start(200).await);
    let pool = gateway.pool(checked(&[good.address, bad.address], json!({ "http": { "path": "/healthz" } })));
    pool.start();
    assert_eq!(count(&pool, 10).len(), 2, "healthy before the first check, by default");
    bad.say(503);
    let label = bad.address.to_string();
    until("the bad one is out", || gateway.up(&label) == Some(0.0)).await;
    assert_eq!(count(&pool, 10), counts([(good.address.to_string().as_str(), 10)]));
    assert!(pool.any_healthy());
    good.say(500);
    until("both are out", || !pool.any_healthy()).await;
    assert!(select(&pool).is_none(), "no backend is chosen that is down");
    bad.say(204);
    until("the bad one is back", || pool.any_healthy()).await;
    assert_eq!(count(&pool, 10), counts([(label.as_str(), 10)]));
    assert_eq!(gateway.up(&label), Some(1.0));
}

#[tokio::test]
async fn the_http_check_asks_as_configured() {
    let gateway = Gateway::new();
    let (server, other) = (Server::start(401).await, Server::start(200).await);
    let check = json!({ "http": { "path": "/live?full=1", "host": "check.example", "status": [401], "port": server.address.port() },
        "start": "unhealthy" });
    let pool = gateway.pool(checked(&[other.address], check));
    pool.start();
    until("it is up", || pool.any_healthy()).await;
    assert_eq!(other.asked.load(Ordering::SeqCst), 0, "the port is the check's");
    let seen = server.last();
    assert!(seen.starts_with("get /live?full=1 http/1.1\r\n"), "{seen}");
    assert!(seen.contains("\r\nhost: check.example\r\n"), "{seen}");
    server.say(200);
    until("200 does not pass", || !pool.any_healthy()).await;
}

#[tokio::test]
async fn an_interim_response_is_not_the_answer() {
    let server = Server::start(103).await;
    let pool = Gateway::new().pool(checked(&[server.address], json!({ "http": { "path": "/" }, "start": "unhealthy" })));
    pool.start();
    until("it is up", || pool.any_healthy()).await;
}

#[tokio::test]
async fn the_host_of_a_check_is_the_pools_or_the_backends() {
    let gateway = Gateway::new();
    let server = Server::start(200).await;
    let mut config = checked(&[server.address], json!({ "http": { "path": "/" }, "start": "unhealthy" }));
    let pool = gateway.pool(config.clone());
    pool.start();
    until("it is asked", || server.last().contains(&format!("\r\nhost: {}\r\n", server.address))).await;
    config["host"] = json!("inner.example");
    gateway.pool(config).start();
    until("it is asked by the pool's host", || server.last().contains("\r\nhost: inner.example\r\n")).await;
}

#[tokio::test]
async fn a_backend_may_start_unhealthy() {
    let gateway = Gateway::new();
    let server = Server::start(500).await;
    let pool = gateway.pool(checked(&[server.address], json!({ "http": { "path": "/" }, "start": "unhealthy" })));
    assert!(!pool.any_healthy() && select(&pool).is_none());
    pool.start();
    until("it is asked", || server.asked.load(Ordering::SeqCst) > 2).await;
    assert!(!pool.any_healthy());
    server.say(200);
    until("it is up", || pool.any_healthy()).await;
}

#[tokio::test]
async fn a_tcp_check_follows_the_socket() {
    let gateway = Gateway::new();
    let server = Server::start(200).await;
    let pool = gateway.pool(checked(&[server.address], json!({})));
    pool.start();
    let address = server.stop().await;
    until("it is down", || !pool.any_healthy()).await;
    let _server = Server::on(TcpListener::bind(address).await.unwrap(), 200);
    until("it is up", || pool.any_healthy()).await;
}

#[tokio::test]
async fn a_backend_that_accepts_and_never_answers_is_down() {
    let gateway = Gateway::new();
    let server = Server::start(0).await;
    let health = json!({ "http": { "path": "/" }, "timeout": "50ms", "unhealthy_after": 1 });
    let pool = gateway.pool(checked(&[server.address], health));
    pool.start();
    until("it is down", || !pool.any_healthy()).await;
}

#[tokio::test]
async fn a_drained_backend_is_checked_and_chosen_never() {
    let gateway = Gateway::new();
    let (server, drained) = (Server::start(200).await, Server::start(200).await);
    let pool = gateway.pool(json!({
        "backends": [{ "address": server.address.to_string() }, { "address": drained.address.to_string(), "weight": 0 }],
        "health": { "interval": "5ms", "http": { "path": "/" } },
    }));
    pool.start();
    until("it is checked", || drained.asked.load(Ordering::SeqCst) > 3).await;
    assert_eq!(gateway.up(&drained.address.to_string()), Some(1.0));
    assert_eq!(count(&pool, 10), counts([(server.address.to_string().as_str(), 10)]));
    server.say(500);
    until("nothing is left", || !pool.any_healthy()).await;
}

#[tokio::test]
async fn checks_end_with_the_pool() {
    let gateway = Gateway::new();
    let server = Server::start(200).await;
    let pool = gateway.pool(checked(&[server.address], json!({ "http": { "path": "/" } })));
    pool.start();
    until("it is checked", || server.asked.load(Ordering::SeqCst) > 2).await;
    let state = Arc::downgrade(pool.view.load().members()[0].state());
    drop(pool);
    until("the state is gone", || state.strong_count() == 0).await;
    assert!(gateway.samples("portcullis_backend_up").is_empty());
    assert!(gateway.samples("portcullis_backend_requests_total").is_empty());
}

#[tokio::test]
async fn an_h2c_backend_is_checked_over_http2() {
    use http_body_util::Empty;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let authority = Arc::new(Mutex::new(String::new()));
    let seen = Arc::clone(&authority);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let seen = Arc::clone(&seen);
            let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                *seen.lock() = format!("{:?} {}", request.version(), request.uri());
                async { Ok::<_, std::convert::Infallible>(hyper::Response::new(Empty::<bytes::Bytes>::new())) }
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(socket), service));
        }
    });
    let gateway = Gateway::new();
    let mut config = checked(&[address], json!({ "http": { "path": "/h", "host": "grpc.example" }, "start": "unhealthy" }));
    config["protocol"] = json!("h2");
    let pool = gateway.pool(config);
    pool.start();
    until("it is up", || pool.any_healthy()).await;
    let seen = authority.lock().clone();
    assert!(seen.starts_with("HTTP/2.0") && seen.ends_with("://grpc.example/h"), "{seen}");
}
