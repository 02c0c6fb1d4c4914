//! The audit log of a real gateway, and `portcullis audit verify` over it.

use crate::support::{Edge, edge, log};
use assert_cmd::Command;
use portcullis_testkit::{Client, Response, until};
use serde_json::Value;
use std::path::Path;
use std::process::Output;

const CONFIG: &str = "
listeners: [{ name: http, address: 127.0.0.1:0 }]
admin: { address: 127.0.0.1:0 }
access_log: { path: access.jsonl }
audit_log: { path: audit.jsonl, key_file: key, buffer: 64 }
routes:
  - { name: open, match: { path: /open }, respond: { status: 200, body: hello } }
  - name: shut
    match: { path: /shut }
    filters: [{ ip_allow: { allow: [192.0.2.0/24] } }]
    respond: { status: 200 }
";

const KEY: &str = "0123456789abcdef0123456789abcdef\n";

async fn start(config: &str) -> Edge {
    edge(config).file("key", KEY).start().await
}

async fn get(edge: &Edge, path: &str) -> Response {
    edge.client().await.request(format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n\r\n")).await.unwrap()
}

fn records(folder: &Path) -> Vec<Value> {
    log(&folder.join("audit.jsonl"))
}

/// Sends a request, and waits for its record: the next one's is to come after it.
async fn refused(edge: &Edge, path: &str) -> Response {
    let response = get(edge, path).await;
    let id = response.header("x-decision-id").unwrap();
    let is = |record: &Value| record["decision_id"] == id.as_str();
    until("the record of the decision", || records(edge.path()).iter().any(is)).await.unwrap();
    response
}

async fn recorded(edge: &Edge, kind: &str) -> Value {
    let mut found = None;
    let mut look = || {
        found = records(edge.path()).into_iter().rfind(|record| record["kind"] == kind);
        found.is_some()
    };
    until(&format!("a record of kind {kind}"), &mut look).await.unwrap();
    found.unwrap()
}

async fn verify(folder: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.current_dir(folder).args(["audit", "verify", "audit.jsonl"]).args(more);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

async fn head(edge: &Edge) -> Value {
    let mut operator = Client::connect(edge.handle.admin_address().unwrap()).await.unwrap();
    operator.request("GET /audit/head HTTP/1.1\r\nHost: admin\r\n\r\n").await.unwrap().json().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_and_changes_are_recorded_from_start_to_stop() {
    let edge = start(CONFIG).await;
    assert_eq!(get(&edge, "/open?token=hunter2hunter2").await.status, 200);
    let shut = refused(&edge, "/shut?access_token=hunter2hunter2").await;
    let nowhere = refused(&edge, "/nowhere").await;
    let ambiguous = refused(&edge, "/a/..;/b").await;
    assert_eq!([shut.status, nowhere.status, ambiguous.status], [403, 404, 400]);
    edge.rewrite(&CONFIG.replace("path: /open", "path: /opened"));
    edge.handle.reload().await.unwrap();
    edge.rewrite(&CONFIG.replace("respond: { status: 200, body: hello }", "pool: nowhere"));
    edge.handle.reload().await.unwrap_err();
    let rejected = recorded(&edge, "config.rejected").await;
    assert!(rejected["error"].as_str().unwrap().contains("nowhere") && rejected["generation"] == 2, "{rejected}");

    let folder = edge.path().to_owned();
    let (handle, _folder) = edge.into_parts();
    assert!(handle.drain().await);
    let all = records(&folder);
    let kinds: Vec<&str> = all.iter().map(|record| record["kind"].as_str().unwrap()).collect();
    assert_eq!(
        kinds,
        [
            "log.opened",
            "gateway.started",
            "decision",
            "decision",
            "decision",
            "config.reloaded",
            "config.rejected",
            "gateway.stopping",
            "gateway.stopped"
        ]
    );
    let decided = &all[2];
    assert_eq!((&decided["reason"], &decided["route"]), (&"ip.denied".into(), &"shut".into()));
    assert!(decided["checks"][0]["expected"].as_str().unwrap().contains("192.0.2.0"), "{decided}");
    assert_eq!((&all[3]["reason"], &all[4]["reason"]), (&"route.none".into(), &"request.ambiguous".into()));
    assert_ne!(all[1]["config_sha256"], all[5]["config_sha256"]);
    assert_eq!(all[8]["drained"], true);
    assert!(!std::fs::read_to_string(folder.join("audit.jsonl")).unwrap().contains("hunter2"));

    let good = verify(&folder, &["--key-file", "key"]).await;
    assert_eq!(good.status.code(), Some(0), "{good:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_names_the_line_and_the_head_on_the_admin_listener_finds_a_cut_end() {
    let edge = start(CONFIG).await;
    let mut seen = Vec::new();
    for _ in 0..5 {
        seen.push(get(&edge, "/shut").await.header("x-decision-id").unwrap());
    }
    let complete = || records(edge.path()).iter().any(|record| record["decision_id"] == seen[4].as_str());
    until("the last decision in the audit log", complete).await.unwrap();
    until("the head", || records(edge.path()).len() == 7).await.unwrap();
    let head = loop {
        let head = head(&edge).await;
        if head["seq"] == 7 {
            break head;
        }
    };
    assert_eq!((&head["keyed"], &head["failing"]), (&true.into(), &Value::Null));
    let hash = head["hash"].as_str().unwrap();
    let anchored = verify(edge.path(), &["--key-file", "key", "--expect-last", hash]).await;
    assert_eq!(anchored.status.code(), Some(0), "{anchored:?}");
    assert!(String::from_utf8_lossy(&anchored.stdout).contains("ends where it should"), "{anchored:?}");

    let path = edge.path().join("audit.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    std::fs::write(&path, lines[..5].concat()).unwrap();
    let cut = verify(edge.path(), &["--key-file", "key", "--expect-last", hash]).await;
    assert_eq!(cut.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&cut.stdout).contains("the end was cut off"), "{cut:?}");
    std::fs::write(&path, text.replacen("ip.denied", "ip.allowed", 1)).unwrap();
    let changed = verify(edge.path(), &["--key-file", "key", "--json"]).await;
    let report: Value = serde_json::from_slice(&changed.stdout).unwrap();
    assert_eq!((changed.status.code(), &report["ok"]), (Some(1), &false.into()));
    let finding = &report["findings"][0];
    assert_eq!((&finding["line"], &finding["problem"], &finding["seq"]), (&3.into(), &"changed".into(), &3.into()));

    std::fs::write(&path, &text).unwrap();
    let keyless = verify(edge.path(), &[]).await;
    assert_eq!(keyless.status.code(), Some(1));
    let told = String::from_utf8_lossy(&keyless.stdout);
    // What is wrong, how many records there are, and the verdict: no line for each record.
    assert!(told.starts_with("no record at all has the seal it should") && told.contains("Give --key-file"), "{told}");
    assert_eq!(told.lines().count(), 3, "{told}");
    for more in [&["--key-file", "missing"][..], &["--expect-last", "abc"], &["more.jsonl"]] {
        assert_eq!(verify(edge.path(), more).await.status.code(), Some(2), "{more:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leaving_the_audit_log_is_itself_recorded_and_a_second_gateway_is_refused() {
    let edge = start(CONFIG).await;
    let text = CONFIG.replace("name: http, address: 127.0.0.1:0", "name: second, address: 127.0.0.1:0");
    let second = portcullis::Gateway::builder().config_text_in(text, edge.path()).watch_files(false).start().await;
    let error = second.err().expect("the file is locked").to_string();
    assert!(error.contains("another gateway writes to it") && error.contains("audit.jsonl"), "{error}");
    edge.rewrite(&CONFIG.replace("audit_log: { path: audit.jsonl, key_file: key, buffer: 64 }", ""));
    edge.handle.reload().await.unwrap();
    assert_eq!(recorded(&edge, "log.moved").await["to"], Value::Null);
    assert_eq!(head(&edge).await["error"], "the configuration has no `audit_log`");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_leaves_no_audit_log_behind() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("key"), KEY).unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for broken in [
        CONFIG.replace("respond: { status: 200, body: hello }", "pool: nowhere"),
        // What only shows when everything has been compiled.
        CONFIG.replacen("127.0.0.1:0", &taken, 1),
        CONFIG.replace("admin: { address: 127.0.0.1:0 }", &format!("admin: {{ address: \"{taken}\" }}")),
    ] {
        let path = folder.path().join("edge.yaml");
        std::fs::write(&path, broken).unwrap();
        let start = portcullis::Gateway::builder().config_file(&path).watch_files(false).start().await;
        assert!(start.is_err());
        assert!(!folder.path().join("audit.jsonl").exists(), "{}", start.err().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_names_the_files_that_changed_and_says_nothing_of_what_is_in_them() {
    let one = "ci sha256:40fb5749bc150b2dd1cb35fd9e8a93eb15b3e8292baddbe3ec4742b0b79f08f4 owner=a\n";
    let two = "cj sha256:50fb5749bc150b2dd1cb35fd9e8a93eb15b3e8292baddbe3ec4742b0b79f08f4 owner=a\n";
    let config = CONFIG.replace("ip_allow: { allow: [192.0.2.0/24] }", "api_key: { file: keys.txt }");
    let edge = edge(&config).file("key", KEY).file("keys.txt", format!("{one}{two}")).start().await;
    edge.handle.reload().await.unwrap();
    assert_eq!(recorded(&edge, "config.reloaded").await["files_changed"], serde_json::json!([]));
    // The key `cj` is taken away.
    std::fs::write(edge.path().join("keys.txt"), one).unwrap();
    let before = records(edge.path()).len();
    edge.handle.reload().await.unwrap();
    until("the record of the reload", || records(edge.path()).len() > before).await.unwrap();
    let record = recorded(&edge, "config.reloaded").await;
    let changed: Vec<_> = record["files_changed"].as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap()).collect();
    assert!(matches!(changed[..], [path] if path.ends_with("/keys.txt")), "{record:#}");
    assert!(!record.to_string().contains("fb5749bc"), "{record:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_tries_admin_tokens_is_on_the_record() {
    let config = CONFIG.replace("admin: { address: 127.0.0.1:0 }", "admin: { address: 127.0.0.1:0, token_file: token }");
    let edge = edge(&config).file("key", KEY).file("token", "an-admin-token-0123456789\n").start().await;
    let ask = async |fields: &str| {
        let mut operator = Client::connect(edge.handle.admin_address().unwrap()).await.unwrap();
        operator.request(format!("GET /decisions?x=y HTTP/1.1\r\nHost: admin\r\n{fields}\r\n")).await.unwrap().status
    };
    assert_eq!(ask("Authorization: Bearer hunter2hunter2\r\n").await, 401);
    let record = recorded(&edge, "admin.refused").await;
    assert_eq!((&record["path"], &record["secret"]), (&"/decisions".into(), &"wrong".into()));
    assert_eq!((&record["client"], &record["method"]), (&"127.0.0.1".into(), &"GET".into()));
    assert!(!std::fs::read_to_string(edge.path().join("audit.jsonl")).unwrap().contains("hunter2"));
    assert_eq!(ask("Authorization: Bearer an-admin-token-0123456789\r\n").await, 400, "who may is not");
    assert_eq!(records(edge.path()).iter().filter(|record| record["kind"] == "admin.refused").count(), 1);
}
