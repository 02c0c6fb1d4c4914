use super::chain::Hash;
use super::verify::{Anchors, Problem, Report, verify};
use super::*;
use crate::access_log::FinalVerdict;
use portcullis_plugin::Finding;
use serde_json::Value;
use std::io::Write;
use std::net::SocketAddr;
use std::time::SystemTime;

const KEY: &str = "0123456789abcdef0123456789abcdef";
const LONG: Duration = Duration::from_secs(10);

struct Place {
    folder: tempfile::TempDir,
    metrics: Arc<Metrics>,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("key"), KEY).unwrap();
        std::fs::write(folder.path().join("other-key"), KEY.to_uppercase()).unwrap();
        Self { folder, metrics: Metrics::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn compile(&self, yaml: &str, running: &AuditLog) -> Result<AuditLog, ConfigError> {
        let env = Env::new(self.folder.path(), prometheus::Registry::new(), Arc::default());
        let raw = settings_of(yaml);
        AuditLog::compile(Some(raw), &env, running, &self.metrics)
    }

    fn open(&self, more: &[(&str, &str)]) -> AuditLog {
        let log = self.compile(&settings(more), &AuditLog::off()).unwrap();
        log.begin();
        log
    }

    /// `count` refusals, written by a gateway that then ends.
    fn write(&self, count: usize, more: &[(&str, &str)]) {
        let log = self.open(more);
        (0..count).for_each(|n| refuse(&log, &format!("/{n}")));
        assert!(log.flush(LONG));
        drop(log);
        self.unlocked("audit.jsonl");
    }

    /// The writer's thread has ended.
    fn unlocked(&self, name: &str) {
        let file = std::fs::File::open(self.path(name)).unwrap();
        file.lock().unwrap();
    }

    fn lines(&self) -> Vec<String> {
        std::fs::read_to_string(self.path("audit.jsonl")).unwrap().lines().map(str::to_owned).collect()
    }

    fn rewrite(&self, lines: &[String]) {
        let text: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
        std::fs::write(self.path("audit.jsonl"), text).unwrap();
    }

    fn verify(&self, seal: &Seal, anchors: Anchors) -> Report {
        verify(&[self.path("audit.jsonl")], seal, anchors).unwrap()
    }

    fn problems(&self) -> Vec<(u64, Problem)> {
        let report = self.verify(&Seal::default(), Anchors::default());
        report.findings.into_iter().map(|finding| (finding.line, finding.problem)).collect()
    }

    fn kinds(&self) -> Vec<String> {
        let kind = |line: &String| serde_json::from_str::<Value>(line).unwrap()["kind"].as_str().unwrap().to_owned();
        self.lines().iter().map(kind).collect()
    }
}

fn settings(more: &[(&str, &str)]) -> String {
    let mut object = serde_json::json!({ "path": "audit.jsonl" });
    more.iter().for_each(|(key, value)| object[*key] = serde_json::from_str(value).unwrap_or_else(|_| Value::from(*value)));
    object.to_string()
}

fn settings_of(json: &str) -> raw::AuditLog {
    serde_json::from_str(json).unwrap()
}

fn refuse(log: &AuditLog, path: &str) {
    let peer: SocketAddr = "192.0.2.7:1234".parse().unwrap();
    let record = Record {
        verdict: FinalVerdict::Deny,
        status: 403,
        reason: Some(reason::IP_DENIED),
        path: Some(path.as_bytes()),
        query: Some(b"access_token=hunter2hunter2"),
        ..Record::new(SystemTime::now(), "0123456789abcdef01234567", "https", peer)
    };
    let finding = Finding::new("one of 10.0.0.0/8", "192.0.2.7");
    log.decision(&record, &[Check::failed("ip_allow", "allow", reason::IP_DENIED, finding)]);
}

/// Replaces a line's content and seals it again without a key, as somebody who can write the file would.
fn forge(line: &str, from: &str, to: &str) -> String {
    let changed = line.replace(from, to);
    assert_ne!(changed, line);
    let body = &changed[..changed.len() - 75];
    format!("{body},\"hash\":\"{}\"}}", Hash::of(body.as_bytes()))
}

#[test]
fn a_chain_begins_is_continued_and_holds() {
    let place = Place::new();
    place.write(3, &[]);
    place.write(2, &[]);
    let report = place.verify(&Seal::default(), Anchors::default());
    assert!(report.holds(), "{report:?}");
    assert_eq!((report.records, report.first, report.last), (7, Some(1), Some(7)));
    assert_eq!(place.kinds()[..2], ["log.opened", "decision"]);
    let record: Value = serde_json::from_str(&place.lines()[1]).unwrap();
    assert_eq!((&record["seq"], &record["reason"], &record["path"]), (&2.into(), &"ip.denied".into(), &"/0".into()));
    assert_eq!(record["checks"][0]["expected"], "one of 10.0.0.0/8");
    assert!(!place.lines()[1].contains("hunter2"));
    assert_eq!(place.metrics.audit.records.get(), 7);
}

#[test]
fn every_way_to_tamper_is_found_at_its_line() {
    type Case = (&'static str, fn(&mut Vec<String>), &'static [(u64, Problem)]);
    let place = Place::new();
    place.write(7, &[]);
    let good = place.lines();
    let cases: [Case; 9] = [
        ("changed", |lines| lines[3] = lines[3].replace("/2", "/x"), &[(4, Problem::Changed { seq: 4 })]),
        ("removed", |lines| drop(lines.remove(3)), &[(4, Problem::Removed { from: 4, seq: 5 })]),
        ("several removed", |lines| drop(lines.drain(2..5)), &[(3, Problem::Removed { from: 3, seq: 6 })]),
        (
            "reordered",
            |lines| lines.swap(3, 4),
            &[(4, Problem::Removed { from: 4, seq: 5 }), (5, Problem::Misplaced { seq: 4, due: 6 })],
        ),
        ("repeated", |lines| lines.insert(4, lines[3].clone()), &[(5, Problem::Misplaced { seq: 4, due: 5 })]),
        ("inserted", |lines| lines.insert(4, "{\"seq\":5}".to_owned()), &[(5, Problem::NoRecord)]),
        ("the first removed", |lines| drop(lines.remove(0)), &[(1, Problem::NoBeginning { seq: 2 })]),
        ("changed and sealed again", |lines| lines[3] = forge(&lines[3], "/2", "/x"), &[(5, Problem::Unlinked { seq: 5 })]),
        ("emptied", Vec::clear, &[(0, Problem::Empty)]),
    ];
    for (what, tamper, expected) in cases {
        let mut lines = good.clone();
        tamper(&mut lines);
        place.rewrite(&lines);
        assert_eq!(place.problems(), expected, "{what}");
    }
    let whole = good.join("\n");
    std::fs::write(place.path("audit.jsonl"), &whole[..whole.len() - 20]).unwrap();
    assert_eq!(place.problems(), [(8, Problem::CutOff)]);
}

#[test]
fn a_cut_end_is_seen_by_what_is_known_of_it() {
    let place = Place::new();
    place.write(5, &[]);
    let lines = place.lines();
    let hash = |line: &str| Hash::parse(&line[line.len() - 66..line.len() - 2]);
    let known = Anchors { last: hash(&lines[5]), ..Anchors::default() };
    assert!(place.verify(&Seal::default(), known).holds());
    place.rewrite(&lines[..4]);
    assert!(place.verify(&Seal::default(), Anchors::default()).holds(), "nothing in the file itself can show it");
    let report = place.verify(&Seal::default(), known);
    assert_eq!(report.findings[0].problem, Problem::OtherEnd { seq: 4 });
    let contains = |at: usize| Anchors { contains: hash(&lines[at]), ..Anchors::default() };
    assert!(place.verify(&Seal::default(), contains(2)).holds());
    assert_eq!(place.verify(&Seal::default(), contains(4)).findings[0].problem, Problem::NotContained);
    place.rewrite(&lines[2..]);
    let after = |hash| Anchors { after: hash, ..Anchors::default() };
    assert!(place.verify(&Seal::default(), after(hash(&lines[1]))).holds());
    assert_eq!(place.verify(&Seal::default(), after(hash(&lines[0]))).findings[0].problem, Problem::OtherBeginning);
}

#[test]
fn without_the_key_nobody_makes_a_record() {
    let place = Place::new();
    place.write(4, &[("key_file", "key")]);
    let seal = Seal::read_file(&place.path("key")).unwrap();
    assert!(place.verify(&seal, Anchors::default()).holds());
    let mut lines = place.lines();
    lines[2] = forge(&lines[2], "/1", "/x");
    place.rewrite(&lines);
    let report = place.verify(&seal, Anchors::default());
    assert_eq!(report.findings[0].problem, Problem::Changed { seq: 3 });
    let other = Seal::read_file(&place.path("other-key")).unwrap();
    assert!(place.verify(&other, Anchors::default()).looks_like_another_key());
    assert!(!format!("{seal:?}").contains(KEY));
    // Nor does a gateway with another key, or none, go on in its file.
    for more in [&[("key_file", "other-key")][..], &[]] {
        let error = place.compile(&settings(more), &AuditLog::off()).err().unwrap();
        assert!(error.message().contains("another key"), "{error}");
    }
}

#[test]
fn half_a_line_is_taken_out_and_recorded() {
    let place = Place::new();
    place.write(2, &[]);
    let torn = "{\"seq\":4,\"prev\":\"00";
    std::fs::File::options().append(true).open(place.path("audit.jsonl")).unwrap().write_all(torn.as_bytes()).unwrap();
    assert_eq!(place.problems(), [(4, Problem::CutOff)]);
    place.write(1, &[]);
    assert!(place.problems().is_empty());
    let record: Value = serde_json::from_str(&place.lines()[3]).unwrap();
    assert_eq!((&record["kind"], &record["torn"]["bytes"]), (&"log.opened".into(), &torn.len().into()));
    assert_eq!(record["torn"]["text"], torn);
    assert_eq!(record["torn"]["sha256"], Hash::of(torn.as_bytes()).to_string());
}

#[test]
fn a_whole_record_that_lacks_its_line_feed_is_kept() {
    let place = Place::new();
    place.write(2, &[]);
    let text = std::fs::read_to_string(place.path("audit.jsonl")).unwrap();
    std::fs::write(place.path("audit.jsonl"), text.trim_end()).unwrap();
    place.write(1, &[]);
    assert!(place.problems().is_empty());
    assert_eq!(place.kinds(), ["log.opened", "decision", "decision", "log.opened", "decision"]);
}

#[test]
fn a_changed_end_is_not_continued() {
    let place = Place::new();
    place.write(2, &[]);
    let mut lines = place.lines();
    lines[2] = lines[2].replace("/1", "/x");
    for content in [lines.join("\n") + "\n", "hello\n".to_owned(), "\n".to_owned()] {
        std::fs::write(place.path("audit.jsonl"), &content).unwrap();
        let error = place.compile(&settings(&[]), &AuditLog::off()).err().unwrap();
        assert_eq!(error.dotted_path(), "audit_log.path");
        assert_eq!(std::fs::read_to_string(place.path("audit.jsonl")).unwrap(), content, "and nothing is written");
    }
}

#[test]
fn two_gateways_do_not_share_a_file_and_a_reload_does() {
    let place = Place::new();
    let log = place.open(&[]);
    let error = place.compile(&settings(&[]), &AuditLog::off()).err().unwrap();
    assert!(error.message().contains("another gateway writes to it"), "{error}");
    let reloaded = place.compile(&settings(&[("decisions", "all"), ("on_failure", "drop")]), &log).unwrap();
    drop(log);
    refuse(&reloaded, "/after");
    assert!(reloaded.flush(LONG) && reloaded.wants(false));
    assert_eq!(place.kinds(), ["log.opened", "decision"]);
    let error = place.compile(&settings(&[("key_file", "key")]), &reloaded).err().unwrap();
    assert_eq!(error.dotted_path(), "audit_log.key_file");
}

#[test]
fn rotation_goes_on_with_the_same_chain() {
    let place = Place::new();
    let log = place.open(&[]);
    refuse(&log, "/old");
    assert!(log.flush(LONG));
    // A signal without a rotation is nothing to record.
    log.reopen();
    std::fs::rename(place.path("audit.jsonl"), place.path("audit.1")).unwrap();
    log.reopen();
    refuse(&log, "/new");
    assert!(log.flush(LONG));
    let files = [place.path("audit.1"), place.path("audit.jsonl")];
    let report = verify(&files, &Seal::default(), Anchors::default()).unwrap();
    assert!(report.holds(), "{report:?}");
    assert_eq!(report.records, 4);
    assert_eq!(place.kinds(), ["log.rotated", "decision"]);
    let reversed: Vec<_> = files.into_iter().rev().collect();
    assert!(!verify(&reversed, &Seal::default(), Anchors::default()).unwrap().holds());
}

#[test]
fn a_file_that_is_another_chain_does_not_take_the_place() {
    let place = Place::new();
    place.write(1, &[]);
    std::fs::rename(place.path("audit.jsonl"), place.path("other")).unwrap();
    let log = place.open(&[]);
    std::fs::rename(place.path("audit.jsonl"), place.path("mine")).unwrap();
    std::fs::rename(place.path("other"), place.path("audit.jsonl")).unwrap();
    log.reopen();
    refuse(&log, "/still-mine");
    assert!(log.flush(LONG));
    assert!(std::fs::read_to_string(place.path("mine")).unwrap().contains("/still-mine"));
    assert!(place.metrics.audit.errors.get() >= 1);
}

/// A disk that is full as long as the test says so.
struct Disk {
    full: Arc<std::sync::atomic::AtomicBool>,
    content: Arc<parking_lot::Mutex<Vec<u8>>>,
}

impl file::Store for Disk {
    fn append(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if self.full.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.content.lock().extend_from_slice(bytes);
        Ok(())
    }

    fn reopen(&mut self, _: &Seal, _: Head) -> Result<bool, Unusable> {
        Ok(false)
    }
}

#[test]
fn while_the_disk_is_full_requests_are_to_be_refused_and_afterwards_nothing_is_missing_in_silence() {
    let (place, full) = (Place::new(), Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let content = Arc::default();
    let disk = Disk { full: Arc::clone(&full), content: Arc::clone(&content) };
    let queue = Queue::start(Box::new(disk), Seal::default(), Head::default(), 64, place.metrics.audit.clone()).unwrap();
    let open = Arc::new(Open { path: place.path("audit.jsonl"), seal: Seal::default(), queue, unbegun: Mutex::default() });
    let strict = AuditLog(Some(Arc::new(Plan { open: Arc::clone(&open), all: false, refuse: true })));
    let lenient = AuditLog(Some(Arc::new(Plan { open, all: false, refuse: false })));
    refuse(&strict, "/before");
    assert!(strict.flush(LONG) && strict.unavailable().is_none());

    full.store(true, std::sync::atomic::Ordering::SeqCst);
    refuse(&strict, "/kept-and-tried-again");
    until(|| strict.unavailable().is_some_and(|error| error.contains("no storage space")));
    assert!(lenient.unavailable().is_none(), "that configuration says to go on");
    assert_eq!(place.metrics.audit.failing.get(), 1);
    let peer: SocketAddr = "192.0.2.7:1234".parse().unwrap();
    let unavailable = Record {
        reason: Some(reason::AUDIT_UNAVAILABLE),
        ..Record::new(SystemTime::now(), "0123456789abcdef01234567", "https", peer)
    };
    (0..5).for_each(|_| strict.decision(&unavailable, &[]));
    (0..100).for_each(|_| refuse(&lenient, "/flood"));
    assert!(place.metrics.audit.lost.get() > 0);

    full.store(false, std::sync::atomic::Ordering::SeqCst);
    until(|| strict.unavailable().is_none());
    assert!(strict.flush(LONG));
    let missing = || String::from_utf8_lossy(&content.lock()).lines().any(|line| line.contains("log.missing"));
    until(missing);
    std::fs::write(place.path("audit.jsonl"), &*content.lock()).unwrap();
    let report = place.verify(&Seal::default(), Anchors::default());
    assert!(report.holds(), "{report:?}");
    assert_eq!(report.missing, place.metrics.audit.lost.get() + 5);
    assert!(place.lines().iter().any(|line| line.contains("/kept-and-tried-again")));
    assert_eq!(place.metrics.audit.failing.get(), 0);
}

#[test]
fn a_flood_is_written_or_counted_in_the_log_itself() {
    let place = Place::new();
    let log = place.open(&[("buffer", "64")]);
    assert!(log.flush(LONG) && log.unavailable().is_none());
    // Refusals beyond what may wait, faster than a disk could take them.
    (0..10_000).for_each(|_| refuse(&log, "/flood"));
    assert!(log.flush(LONG));
    until(|| log.unavailable().is_none());
    refuse(&log, "/after");
    assert!(log.flush(LONG));
    let report = place.verify(&Seal::default(), Anchors::default());
    assert!(report.holds(), "{report:?}");
    let records = report.records - place.kinds().iter().filter(|kind| *kind == "log.missing").count() as u64;
    assert_eq!(records + report.missing, 10_002, "each is written, or counted in the log itself");
    assert_eq!(report.missing, place.metrics.audit.lost.get());
}

fn until(mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + LONG;
    while !holds() {
        assert!(std::time::Instant::now() < deadline);
        std::thread::yield_now();
    }
}

#[test]
fn what_is_no_file_is_refused() {
    let place = Place::new();
    for path in ["-", "", ".", "missing/audit.jsonl", "/dev/null"] {
        let error = place.compile(&settings(&[("path", path)]), &AuditLog::off()).err().unwrap();
        assert_eq!(error.dotted_path(), "audit_log.path", "{path}");
    }
    for (key, value) in [("key_file", "missing"), ("buffer", "1")] {
        let error = place.compile(&settings(&[(key, value)]), &AuditLog::off()).err().unwrap();
        assert_eq!(error.dotted_path(), format!("audit_log.{key}"));
    }
    std::fs::write(place.path("short"), "too-short").unwrap();
    let error = place.compile(&settings(&[("key_file", "short")]), &AuditLog::off()).err().unwrap();
    assert!(!error.to_string().contains("too-short") && error.to_string().contains("openssl"), "{error}");
}

#[test]
fn a_log_that_never_begins_leaves_no_file_that_was_not_there() {
    let place = Place::new();
    let failed = |yaml: &str| drop(place.compile(yaml, &AuditLog::off()).unwrap());
    failed(&settings(&[]));
    assert!(!place.path("audit.jsonl").exists());
    // An empty one that was there before is somebody's.
    std::fs::write(place.path("audit.jsonl"), "").unwrap();
    failed(&settings(&[]));
    assert!(place.path("audit.jsonl").exists());
    std::fs::remove_file(place.path("audit.jsonl")).unwrap();
    // One that goes on is left as it is, and can be opened again.
    place.write(2, &[]);
    let before = place.lines();
    failed(&settings(&[]));
    place.unlocked("audit.jsonl");
    assert_eq!(place.lines(), before);
    // What a crash left behind is taken out by the first that opens the file, so that one must record it.
    let torn = format!("{}\n{}", before.join("\n"), r#"{"time":"2026-"#);
    std::fs::write(place.path("audit.jsonl"), torn).unwrap();
    failed(&settings(&[]));
    place.unlocked("audit.jsonl");
    assert_eq!(place.lines().len(), before.len() + 1);
    assert!(place.lines().last().unwrap().contains("log.opened") && place.lines().last().unwrap().contains("torn"));
    assert!(place.problems().is_empty(), "{:?}", place.problems());
}
