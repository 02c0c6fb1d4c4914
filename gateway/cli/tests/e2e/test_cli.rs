//! `portcullis test`: tables of expected decisions.

use assert_cmd::Command;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Output;

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/policy")
}

fn run(table: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_portcullis")).arg("test").arg(table).args(more).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The example in a folder of its own, with one part of its table replaced.
fn changed(from: &str, to: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("tokens")).unwrap();
    for name in ["edge.yaml", "policy.yaml", "jwks.json", "tokens/alice.jwt", "tokens/bob.jwt"] {
        std::fs::copy(example().join(name), folder.path().join(name)).unwrap();
    }
    let table = folder.path().join("policy.yaml");
    let policy = std::fs::read_to_string(&table).unwrap();
    assert!(policy.contains(from), "{from}");
    std::fs::write(&table, policy.replacen(from, to, 1)).unwrap();
    (folder, table)
}

#[test]
fn the_example_passes_from_any_folder_and_its_cases_do_not_use_up_each_others_rate() {
    let output = run(&example().join("policy.yaml"), &[]);
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
    assert!(text(&output.stdout).ends_with("8 passed, 0 failed\n"));
}

#[test]
fn a_case_that_fails_says_what_was_expected_what_was_observed_and_which_check_decided() {
    let (_folder, table) = changed(
        "expect: { verdict: allow, route: orders, pool: orders, upstream_headers: { x-user: alice, authorization: null } }",
        "expect: { verdict: deny, reason: token.expired, status: 401, pool: null, upstream_headers: { x-user: bob, x-none: a } }",
    );
    let output = run(&table, &[]);
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{shown}");
    for part in [
        "FAIL  Alice reads",
        "verdict: expected deny, observed allow",
        "reason: expected token.expired, observed none",
        "status: expected 401, observed none",
        "pool: expected none, observed orders",
        "upstream header x-user: expected bob, observed alice",
        "upstream header x-none: expected a, observed none",
        "| allowed",
        "7 passed, 1 failed",
    ] {
        assert!(shown.contains(part), "{part}\n{shown}");
    }

    let (_folder, table) = changed("status: 403, reason: token.scope.missing }", "status: 401, reason: token.expired }");
    let output = run(&table, &["--json"]);
    assert_eq!(output.status.code(), Some(1));
    let all: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&all["ok"], &all["passed"], &all["failed"]), (&false.into(), &7.into(), &1.into()));
    let bob = all["cases"].as_array().unwrap().iter().find(|case| case["ok"] == false).unwrap();
    assert_eq!(bob["mismatches"][1]["observed"], "token.scope.missing");
    let checks = bob["explanation"]["checks"].as_array().unwrap();
    assert!(checks.iter().any(|check| check["ok"] == false && check["reason"] == "token.scope.missing"), "{bob}");
    // Tokens of test users are tokens too.
    for name in ["alice", "bob"] {
        let token = std::fs::read_to_string(example().join(format!("tokens/{name}.jwt"))).unwrap();
        for part in token.trim().split('.').skip(1) {
            assert!(!text(&output.stdout).contains(part));
        }
    }
}

#[test]
fn what_is_wrong_with_the_table_is_2_and_said_with_its_place() {
    for (from, to, expected) in [
        ("verdict: allow, route", "verdct: allow, route", "policy.yaml:9:15"),
        ("verdict: allow, route", "verdict: allowed, route", "policy.yaml:9:24"),
        ("client_ip: 10.1.2.3", "client_ip: 10.1.2", "policy.yaml:8:"),
        ("at: 2026-01-31T12:00:00Z", "at: noon", "`noon` is not a time"),
        ("jwks: jwks.json", "jwks: nowhere.json", "policy.yaml:3:7"),
        ("tokens/alice.jwt", "tokens/carol.jwt", "tokens/carol.jwt"),
        ("token_file: tokens/alice.jwt }", "token_file: tokens/alice.jwt, token: x }", "not both"),
        ("config: edge.yaml", "config: none.yaml", "none.yaml"),
        ("\ncases:", "\nother:", "`other`"),
        ("http://api.example.com/orders/1", "ftp://api.example.com/orders/1", "policy.yaml:8:"),
        ("url: \"http://", "listener: none, url: \"http://", "no listener is called `none`"),
        ("name: without a token there are no orders", "name: nobody tells the backend who they are", "two cases named"),
        ("{ verdict: deny, status: 403, reason: ip.denied }", "{}", "expects nothing"),
        ("authorization: null", "authorization: Bearer x", "cannot be compared"),
    ] {
        let (_folder, table) = changed(from, to);
        let output = run(&table, &[]);
        let shown = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{to}: {}{shown}", text(&output.stdout));
        assert!(shown.contains(expected), "{to}: {expected}\n{shown}");
        let json = run(&table, &["--json"]);
        let json: Value = serde_json::from_slice(&json.stdout).unwrap();
        assert!(json["ok"] == false && json["findings"][0]["message"].is_string(), "{json}");
    }
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.yaml");
    std::fs::write(&empty, "config: edge.yaml\ncases: []\n").unwrap();
    assert!(text(&run(&empty, &[]).stderr).contains("no case"));
    assert_eq!(run(Path::new("/nowhere/policy.yaml"), &[]).status.code(), Some(2));
}
