//! The command as a service: signals, draining, logs that are moved away.

use super::support::{edge, log};
use portcullis_testkit::client::{head, once};
use portcullis_testkit::{Answer, Client, Port, Upstream, until};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const CONFIG: &str = r#"
listeners: [{ name: http, address: "LISTEN" }]
admin: { address: "ADMIN" }
access_log: { path: access.jsonl }
pools: { web: { backends: [{ address: "UPSTREAM" }] } }
routes:
  - { name: all, pool: web }
  - { name: version, match: { path: /version }, respond: { status: 200, body: "one" } }
shutdown: { drain: 15s }
"#;

/// `portcullis run` in a process of its own. It is killed when this is dropped.
struct Service {
    child: Child,
    http: Port,
    admin: Port,
    folder: TempDir,
    config: PathBuf,
}

impl Service {
    async fn start(upstream: &Upstream) -> Self {
        let (http, admin) = (Port::reserve().unwrap(), Port::reserve().unwrap());
        let setup =
            edge(CONFIG).with("LISTEN", http.address()).with("ADMIN", admin.address()).with("UPSTREAM", upstream.address());
        let (folder, config) = setup.written();
        let child = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(["run", "--no-watch", "--threads", "2", "--config"])
            .arg(&config)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let service = Self { child, http, admin, folder, config };
        service.answers("/readyz", 200).await;
        service
    }

    fn address(&self) -> SocketAddr {
        self.http.address()
    }

    fn access_log(&self) -> PathBuf {
        self.folder.path().join("access.jsonl")
    }

    async fn admin(&self, path: &str) -> Option<(u16, String)> {
        let response = once(self.admin.address(), head("GET", "localhost", path, &[("connection", "close")])).await.ok()?;
        Some((response.status, response.text()))
    }

    /// Waits for that status of an admin endpoint.
    async fn answers(&self, path: &str, status: u16) {
        for _ in 0..1000 {
            if self.admin(path).await.is_some_and(|(got, _)| got == status) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{path} does not answer {status}");
    }

    fn signal(&self, name: &str) {
        assert!(Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap().success());
    }

    async fn exit_code(&mut self) -> Option<i32> {
        let mut status = None;
        until("the end of the process", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await
        .unwrap();
        status.and_then(|status| status.code())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn lines(path: &Path, least: usize) -> Vec<serde_json::Value> {
    until(&format!("{least} lines in {}", path.display()), || log(path).len() >= least).await.unwrap();
    log(path)
}

#[tokio::test]
async fn sigterm_lets_requests_in_flight_finish_and_ends_with_0() {
    let upstream = Upstream::start().await.unwrap();
    let mut service = Service::start(&upstream).await;
    let mut idle = Client::connect(service.address()).await.unwrap();
    assert_eq!(idle.get("a", "/version", &[]).await.unwrap().text(), "one");
    // Requests in every state: the body is still coming, the answer is still to come, the answer is on its way.
    upstream.behave(Answer::new(200).body("late").after(Duration::from_millis(800)));
    let mut sending = Client::connect(service.address()).await.unwrap();
    sending.send(head("POST", "a", "/", &[("content-length", "5")])).await.unwrap();
    let mut waiting = Client::connect(service.address()).await.unwrap();
    waiting.send(head("GET", "a", "/", &[])).await.unwrap();
    until("both", || upstream.in_flight() == 2).await.unwrap();
    upstream.behave(Answer::new(200).chunks(vec!["part "; 20], Duration::from_millis(50)));
    let mut receiving = Client::connect(service.address()).await.unwrap();
    receiving.send(head("GET", "a", "/", &[])).await.unwrap();
    until("the third", || upstream.in_flight() == 3).await.unwrap();

    service.signal("TERM");
    service.answers("/readyz", 503).await;
    service.answers("/healthz", 200).await;
    // New connections are refused, and idle ones closed.
    until("refused connections", || std::net::TcpStream::connect(service.address()).is_err()).await.unwrap();
    assert!(idle.is_closed().await.unwrap());

    sending.send("hello").await.unwrap();
    assert_eq!(sending.response().await.unwrap().status, 200);
    assert_eq!(waiting.response().await.unwrap().text(), "late");
    let response = receiving.response().await.unwrap();
    assert_eq!((response.status, response.body_len, response.broken), (200, 100, false));
    assert_eq!(service.exit_code().await, Some(0));
    // Nothing is lost of the log either.
    assert_eq!(log(&service.access_log()).len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_load_breaks_no_request() {
    let upstream = Upstream::start().await.unwrap();
    let mut service = Service::start(&upstream).await;
    let address = service.address();
    let mut load = tokio::task::JoinSet::new();
    for _ in 0..8 {
        load.spawn(async move {
            let mut answered = 0_u32;
            // Each on a connection of its own: one that was made is served, or was never accepted.
            while let Ok(mut client) = Client::connect(address).await {
                if client.send(head("GET", "a", "/", &[("connection", "close")])).await.is_err() {
                    break;
                }
                match client.response().await {
                    Ok(response) => assert!(response.status == 200 && !response.broken, "{}", response.status),
                    Err(_) => break,
                }
                answered += 1;
            }
            answered
        });
    }
    until("load", || upstream.count() > 200).await.unwrap();
    service.signal("TERM");
    let answered: u32 = load.join_all().await.into_iter().sum();
    assert_eq!(service.exit_code().await, Some(0));
    let lines = log(&service.access_log());
    assert!(lines.iter().all(|line| line["status"] == 200), "every request that was begun was answered");
    assert!(answered as usize >= lines.len() && upstream.count() as usize == lines.len());
}

#[tokio::test]
async fn sighup_reloads_and_a_broken_file_changes_nothing() {
    let upstream = Upstream::start().await.unwrap();
    let service = Service::start(&upstream).await;
    let config = std::fs::read_to_string(&service.config).unwrap();
    let mut client = Client::connect(service.address()).await.unwrap();
    std::fs::write(&service.config, config.replace("\"one\"", "\"two\"")).unwrap();
    assert_eq!(client.get("a", "/version", &[]).await.unwrap().text(), "one", "nothing without the signal");
    service.signal("HUP");
    let generation = |number: u32| format!("portcullis_config_generation {number}\n");
    reported(&service, &generation(2)).await;
    assert_eq!(client.get("a", "/version", &[]).await.unwrap().text(), "two");

    std::fs::write(&service.config, "listeners: [{ name: x }]").unwrap();
    service.signal("HUP");
    reported(&service, "portcullis_config_last_reload_success 0\n").await;
    reported(&service, &generation(2)).await;
    assert_eq!(client.get("a", "/version", &[]).await.unwrap().text(), "two");
}

async fn reported(service: &Service, line: &str) {
    for _ in 0..1000 {
        if service.admin("/metrics").await.is_some_and(|(_, text)| text.contains(line)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the metrics never say {line}");
}

#[tokio::test]
async fn sighup_writes_on_in_a_new_file_after_the_log_was_moved() {
    let upstream = Upstream::start().await.unwrap();
    let service = Service::start(&upstream).await;
    let mut client = Client::connect(service.address()).await.unwrap();
    assert_eq!(client.get("a", "/1", &[]).await.unwrap().status, 200);
    lines(&service.access_log(), 1).await;
    let moved = service.folder.path().join("access.jsonl.1");
    std::fs::rename(service.access_log(), &moved).unwrap();
    assert_eq!(client.get("a", "/2", &[]).await.unwrap().status, 200);
    assert_eq!(lines(&moved, 2).await[1]["path"], "/2");
    service.signal("HUP");
    until("the new file", || service.access_log().exists()).await.unwrap();
    assert_eq!(client.get("a", "/3", &[]).await.unwrap().status, 200);
    let new = lines(&service.access_log(), 1).await;
    assert_eq!((new[0]["path"].as_str(), log(&moved).len()), (Some("/3"), 2));
}

#[tokio::test]
async fn a_configuration_that_does_not_compile_ends_with_2() {
    let (folder, config) = edge("listeners: [{ name: http, address: nowhere }]").written();
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis")).args(["run", "--config"]).arg(&config).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("edge.yaml:1:"), "{text}");
    drop(folder);
}
