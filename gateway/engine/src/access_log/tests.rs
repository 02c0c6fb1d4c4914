use super::*;
use parking_lot::{Condvar, Mutex};
use portcullis_plugin::{Principal, reason};
use proptest::prelude::*;
use std::io;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const LONG: Duration = Duration::from_secs(60);

static ALICE: LazyLock<Principal> = LazyLock::new(|| {
    let mut alice = Principal::new("bearer", "alice");
    alice.issuer = Some("https://sso.example".into());
    alice.scopes = vec!["read".into(), "a \"b\"\n".into()];
    alice.roles = vec!["admin".into()];
    alice
});

fn peer() -> SocketAddr {
    "[::ffff:192.0.2.7]:4711".parse().unwrap()
}

fn record(id: &str) -> Record<'_> {
    Record::new(UNIX_EPOCH + Duration::from_millis(1_763_766_907_042), id, "https", peer())
}

fn full() -> Record<'static> {
    Record {
        client: "2001:db8::1".parse().unwrap(),
        tls: Some(RecordTls {
            version: "TLSv1.3",
            cipher: "TLS_AES_128_GCM_SHA256",
            sni: Some("api.example.test"),
            client_cert_sha256: Some("ab12"),
        }),
        method: Some(b"GET"),
        host: Some(b"api.example.test"),
        path: Some(b"/orders/1"),
        query: Some(b"page=2&access_token=abc"),
        protocol: Some("HTTP/2"),
        status: 401,
        route: Some("orders"),
        verdict: FinalVerdict::Deny,
        reason: Some(reason::TOKEN_EXPIRED),
        principal: Some(&ALICE),
        pool: Some("orders"),
        backend: Some("127.0.0.1:9001"),
        attempts: 2,
        duration: Duration::from_nanos(1_234_567),
        upstream: Some(Duration::from_micros(900)),
        bytes_in: 7,
        bytes_out: u64::MAX,
        ..record("0123456789abcdef01234567")
    }
}

fn line(record: &Record<'_>) -> String {
    let mut out = Vec::new();
    record.write(&mut out, Tells::default());
    String::from_utf8(out).unwrap()
}

#[test]
fn a_line_has_every_field_of_the_contract_in_its_order() {
    assert_eq!(
        line(&full()),
        concat!(
            r#"{"time":"2025-11-21T23:15:07.042Z","decision_id":"0123456789abcdef01234567","listener":"https","#,
            r#""client":"2001:db8::1","peer":"192.0.2.7:4711","tls":{"version":"TLSv1.3","cipher":"TLS_AES_128_GCM_SHA256","#,
            r#""sni":"api.example.test","client_cert_sha256":"ab12"},"method":"GET","host":"api.example.test","#,
            r#""path":"/orders/1","query":"page=2&access_token=[redacted]","protocol":"HTTP/2","status":401,"route":"orders","#,
            r#""verdict":"deny","reason":"token.expired","principal":{"sub":"alice","issuer":"https://sso.example","#,
            r#""method":"bearer"},"pool":"orders","backend":"127.0.0.1:9001","attempts":2,"duration_us":1234,"#,
            r#""upstream_us":900,"bytes_in":7,"bytes_out":18446744073709551615,"shadow":[]}"#,
            "\n"
        )
    );
}

#[test]
fn what_is_not_known_is_null_and_never_left_out() {
    let keys = |line: &str| -> Vec<String> {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        value.as_object().unwrap().keys().cloned().collect()
    };
    let empty = line(&record("id"));
    assert_eq!(keys(&empty), keys(&line(&full())));
    for key in ["tls", "method", "host", "path", "query", "route", "reason", "principal", "pool", "backend", "upstream_us"] {
        assert!(empty.contains(&format!("\"{key}\":null")), "{key}: {empty}");
    }
}

#[test]
fn a_token_that_would_be_cut_is_removed_before() {
    let path = [b"/".repeat(2_030), b"eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxMjM0NSJ9.c2ln".to_vec()].concat();
    assert!(!line(&Record { path: Some(&path), ..full() }).contains("eyJ"));
}

fn breaks_a_line(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

proptest! {
    #[test]
    fn any_bytes_anywhere_give_one_line_of_json(
        method in proptest::collection::vec(any::<u8>(), 0..40),
        host in proptest::collection::vec(any::<u8>(), 0..40),
        path in proptest::collection::vec(any::<u8>(), 0..3000),
        query in "[\\PC\\r\\n\\t\"\\\\\u{2028}]{0,60}",
        text in any::<String>(),
    ) {
        let mut principal = Principal::new("bearer", &*text);
        principal.issuer = Some(text.as_str().into());
        principal.roles = vec![text.as_str().into(); 2];
        let record = Record {
            decision_id: &text,
            listener: &text,
            tls: Some(RecordTls { version: &text, cipher: &text, sni: Some(&text), client_cert_sha256: Some(&text) }),
            method: Some(&method),
            host: Some(&host),
            path: Some(&path),
            query: Some(query.as_bytes()),
            protocol: Some(&text),
            route: Some(&text),
            principal: Some(&principal),
            pool: Some(&text),
            backend: Some(&text),
            ..full()
        };
        let line = line(&record);
        let body = line.strip_suffix('\n').unwrap();
        prop_assert!(!body.chars().any(breaks_a_line));
        let value: serde_json::Value = serde_json::from_str(body).unwrap();
        prop_assert_eq!(value.as_object().unwrap().len(), 24);
        prop_assert_eq!(value["principal"]["sub"].as_str(), Some(&*text));
    }
}

/// A disk of the test's own: blocks, fails and takes pieces as told.
#[derive(Default)]
struct Disk {
    state: Mutex<DiskState>,
    changed: Condvar,
}

#[derive(Default)]
struct DiskState {
    written: Vec<u8>,
    blocked: bool,
    /// Writes that have begun.
    begun: usize,
    /// What the next writes do: take so many bytes, or fail.
    script: Vec<Result<usize, io::ErrorKind>>,
    reopened: usize,
}

#[derive(Clone)]
struct DiskSink(Arc<Disk>);

impl Sink for DiskSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.0.state.lock();
        state.begun += 1;
        self.0.changed.notify_all();
        self.0.changed.wait_while(&mut state, |state| state.blocked);
        let take = if state.script.is_empty() { bytes.len() } else { state.script.remove(0)?.min(bytes.len()) };
        state.written.extend_from_slice(&bytes[..take]);
        Ok(take)
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.0.state.lock().reopened += 1;
        self.0.changed.notify_all();
        Ok(())
    }

    fn name(&self) -> String {
        "a test's disk".to_owned()
    }
}

impl Disk {
    fn log(self: &Arc<Self>, buffer: usize, metrics: &Metrics) -> AccessLog {
        AccessLog::to_sink(DiskSink(Arc::clone(self)), buffer, metrics).unwrap()
    }

    fn block(&self, blocked: bool) {
        self.state.lock().blocked = blocked;
        self.changed.notify_all();
    }

    fn wait_until(&self, mut holds: impl FnMut(&DiskState) -> bool) {
        let mut state = self.state.lock();
        self.changed.wait_while(&mut state, |state| !holds(state));
    }

    fn text(&self) -> String {
        String::from_utf8(self.state.lock().written.clone()).unwrap()
    }
}

fn ids(text: &str) -> Vec<String> {
    let id = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["decision_id"].as_str().unwrap().to_owned();
    text.lines().map(id).collect()
}

#[test]
fn requests_go_on_while_the_disk_hangs_and_what_does_not_fit_is_counted() {
    let (disk, metrics) = (Arc::new(Disk::default()), Metrics::new());
    disk.block(true);
    let log = disk.log(100, &metrics);
    // Ends only if no call waits for the disk.
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let log = &log;
            scope.spawn(move || (0..1_000).for_each(|i| log.log(&record(&format!("{thread}-{i}")))));
        }
    });
    disk.wait_until(|state| state.begun > 0);
    assert_eq!(metrics.access_log_dropped.get(), 3_900);
    assert!(!log.flush(Duration::from_millis(1)));
    assert!(!log.close(Duration::from_millis(1)));
    disk.block(false);
    assert!(log.flush(LONG));
    assert_eq!(ids(&disk.text()).len(), 100);
    assert_eq!(metrics.access_log_errors.get(), 0);
}

#[test]
fn long_lines_cannot_take_all_memory() {
    let (disk, metrics) = (Arc::new(Disk::default()), Metrics::new());
    disk.block(true);
    let log = disk.log(1024, &metrics);
    let text = "\u{1}".repeat(4_000);
    let long = Record { path: Some(b"/"), host: Some(text.as_bytes()), method: Some(text.as_bytes()), ..full() };
    (0..1024).for_each(|_| log.log(&long));
    let taken = 1024 - metrics.access_log_dropped.get();
    assert!(taken > 0 && taken * line(&long).len() as u64 <= 1024 * 1024, "{taken}");
    disk.block(false);
    assert!(log.flush(LONG));
}

#[test]
fn every_line_of_many_threads_is_whole_and_in_order() {
    let (disk, metrics) = (Arc::new(Disk::default()), Metrics::new());
    let log = disk.log(100_000, &metrics);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let log = log.clone();
            scope.spawn(move || (0..2_000).for_each(|i| log.log(&record(&format!("{thread}-{i}")))));
        }
    });
    assert!(log.close(LONG));
    let ids = ids(&disk.text());
    for thread in 0..4 {
        let prefix = format!("{thread}-");
        let of_thread: Vec<_> = ids.iter().filter_map(|id| id.strip_prefix(&prefix)).collect();
        assert_eq!(of_thread, (0..2_000).map(|i| i.to_string()).collect::<Vec<_>>());
    }
    assert_eq!(metrics.access_log_dropped.get(), 0);
}

#[test]
fn a_full_disk_is_counted_and_half_a_line_does_not_spoil_the_next() {
    let (disk, metrics) = (Arc::new(Disk::default()), Metrics::new());
    disk.block(true);
    let log = disk.log(100, &metrics);
    log.log(&record("first"));
    disk.wait_until(|state| state.begun == 1);
    disk.state.lock().script = vec![Ok(10), Err(io::ErrorKind::Interrupted), Err(io::ErrorKind::StorageFull)];
    disk.block(false);
    assert!(log.flush(LONG));
    assert_eq!((metrics.access_log_dropped.get(), metrics.access_log_errors.get()), (1, 1));
    log.log(&record("second"));
    assert!(log.flush(LONG));
    let text = disk.text();
    let (half, rest) = text.split_once('\n').unwrap();
    assert_eq!((half.len(), ids(rest)), (10, vec!["second".to_owned()]));
}

#[test]
fn a_line_that_was_written_before_the_disk_filled_is_not_counted_as_lost() {
    let (disk, metrics) = (Arc::new(Disk::default()), Metrics::new());
    disk.block(true);
    let log = disk.log(100, &metrics);
    log.log(&record("gate"));
    disk.wait_until(|state| state.begun == 1);
    ["one", "two", "three"].iter().for_each(|id| log.log(&record(id)));
    let whole = line(&record("gate")).len();
    disk.state.lock().script = vec![Ok(whole), Ok(line(&record("one")).len()), Err(io::ErrorKind::StorageFull)];
    disk.block(false);
    assert!(log.flush(LONG));
    assert_eq!(ids(&disk.text()), ["gate", "one"]);
    assert_eq!(metrics.access_log_dropped.get(), 2);
    log.log(&record("four"));
    assert!(log.flush(LONG));
    assert_eq!(ids(&disk.text()), ["gate", "one", "four"]);
}

#[test]
fn closing_writes_what_waits_and_takes_no_more() {
    let (disk, metrics) = (Arc::new(Disk::default()), Metrics::new());
    let log = disk.log(100, &metrics);
    log.log(&record("one"));
    assert!(log.close(LONG) && log.close(LONG));
    log.log(&record("late"));
    assert_eq!(ids(&disk.text()), ["one"]);
    assert_eq!(metrics.access_log_dropped.get(), 1);
}

#[test]
fn the_last_handle_leaves_no_line_behind() {
    let (disk, metrics) = (Arc::new(Disk::default()), Metrics::new());
    let log = disk.log(100, &metrics);
    log.log(&record("one"));
    drop(log);
    disk.wait_until(|state| state.written.ends_with(b"\n"));
}

#[test]
fn reopening_reaches_an_idle_writer() {
    let (disk, metrics) = (Arc::new(Disk::default()), Metrics::new());
    let log = disk.log(100, &metrics);
    log.reopen();
    disk.wait_until(|state| state.reopened == 1);
    assert!(log.close(LONG));
}

#[test]
fn a_rotated_file_gets_the_lines_after_the_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let (path, old) = (folder.path().join("access.jsonl"), folder.path().join("access.jsonl.1"));
    let metrics = Metrics::new();
    let log = AccessLog::open(&path, 100, &metrics).unwrap();
    log.log(&record("one"));
    assert!(log.flush(LONG));
    std::fs::rename(&path, &old).unwrap();
    log.log(&record("two"));
    log.reopen();
    assert!(log.flush(LONG));
    while !path.exists() {
        std::thread::yield_now();
    }
    log.log(&record("three"));
    assert!(log.close(LONG));
    let read = |path| ids(&std::fs::read_to_string(path).unwrap());
    let (old, new) = (read(&old), read(&path));
    assert_eq!(old, ["one", "two"]);
    assert_eq!(new, ["three"]);
}

#[test]
fn a_file_that_ends_within_a_line_is_continued_on_a_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.jsonl");
    std::fs::write(&path, "{\"time\":\"20").unwrap();
    let metrics = Metrics::new();
    let log = AccessLog::open(&path, 100, &metrics).unwrap();
    log.log(&record("one"));
    assert!(log.close(LONG));
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(ids(text.split_once('\n').unwrap().1), ["one"]);
}

fn env(folder: &std::path::Path, metrics: &Metrics) -> Env {
    Env::new(folder, metrics.registry().clone(), Arc::default())
}

fn raw(path: &str, buffer: usize) -> Option<raw::AccessLog> {
    Some(raw::AccessLog { path: path.to_owned(), buffer, principal: Vec::new() })
}

#[test]
fn what_cannot_be_opened_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let metrics = Metrics::new();
    let env = env(folder.path(), &metrics);
    let refused = |path: &str, buffer| AccessLog::compile(raw(path, buffer), &env, None, &metrics).err().unwrap();
    let error = refused("missing/access.jsonl", 10);
    assert_eq!(error.dotted_path(), "access_log.path");
    assert!(error.message().contains("missing/access.jsonl"), "{error}");
    assert_eq!(refused(".", 10).dotted_path(), "access_log.path");
    assert_eq!(refused("", 10).dotted_path(), "access_log.path");
    assert_eq!(refused("-", 0).dotted_path(), "access_log.buffer");
    assert_eq!(refused("-", MAX_BUFFER + 1).dotted_path(), "access_log.buffer");
}

#[test]
fn a_reload_with_the_same_file_keeps_the_writer() {
    let folder = tempfile::tempdir().unwrap();
    let metrics = Metrics::new();
    let env = env(folder.path(), &metrics);
    let compile = |raw, running: Option<&AccessLog>| AccessLog::compile(raw, &env, running, &metrics).unwrap();
    let same = |a: &AccessLog, b: &AccessLog| Arc::ptr_eq(a.open.as_ref().unwrap(), b.open.as_ref().unwrap());
    let first = compile(raw("a.jsonl", 10), None);
    let again = compile(raw("a.jsonl", 10), Some(&first));
    assert!(same(&first, &again));
    assert!(!same(&first, &compile(raw("b.jsonl", 10), Some(&first))));
    assert!(!same(&first, &compile(raw("a.jsonl", 11), Some(&first))));
    assert!(!compile(None, Some(&first)).is_on());
    drop(first);
    again.log(&record("one"));
    assert!(again.close(LONG));
    assert_eq!(ids(&std::fs::read_to_string(folder.path().join("a.jsonl")).unwrap()), ["one"]);
}

#[test]
fn of_the_principal_a_line_says_what_was_asked_for_and_nothing_by_halves() {
    let told = |principal: &Principal, members: &[raw::PrincipalMember]| {
        let mut out = Vec::new();
        Record { principal: Some(principal), ..full() }.write(&mut out, Tells::new(members));
        serde_json::from_slice::<serde_json::Value>(&out).unwrap()["principal"].clone()
    };
    use raw::PrincipalMember::{ClientId, Groups, Roles, Scopes};
    let who = serde_json::json!({ "sub": "alice", "issuer": "https://sso.example", "method": "bearer" });
    assert_eq!(told(&ALICE, &[]), who);
    let mut all = who.clone();
    for (name, value) in [
        ("client_id", serde_json::Value::Null),
        ("scopes", serde_json::json!(["read", "a \"b\"\n"])),
        ("roles", serde_json::json!(["admin"])),
        ("groups", serde_json::json!([])),
    ] {
        all[name] = value;
    }
    assert_eq!(told(&ALICE, &[Groups, Roles, Scopes, ClientId]), all);
    // A part of a list would be taken for the whole.
    let mut large = ALICE.clone();
    large.roles = (0..129).map(|n| n.to_string().into()).collect();
    large.scopes = vec!["x".repeat(2049).into()];
    large.claims = Arc::new(serde_json::json!({ "hasgroups": true }).as_object().unwrap().clone());
    let told = told(&large, &[Roles, Scopes, Groups]);
    assert!(["roles", "scopes", "groups"].iter().all(|name| told.get(name).is_some_and(serde_json::Value::is_null)), "{told}");
}

#[test]
fn no_log_is_no_work() {
    let log = AccessLog::off();
    log.log(&record("one"));
    log.reopen();
    assert!(!log.is_on() && log.flush(LONG) && log.close(LONG));
}

#[test]
fn a_clock_before_1970_breaks_no_line() {
    let record = Record { time: SystemTime::UNIX_EPOCH - LONG, ..full() };
    assert!(line(&record).starts_with(r#"{"time":"1970-01-01T00:00:00.000Z""#));
}
