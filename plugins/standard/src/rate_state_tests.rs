//! Quotas over a restart.

use crate::rate_limit::RateLimit;
use crate::test_support::{Call, build_in, env, error, now};
use portcullis_plugin::env::Kept;
use portcullis_plugin::prometheus::Registry;
use portcullis_plugin::{Env, Principal};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

const CONFIG: &str = "{ key: principal.sub, quota: 3/month, state: quotas }";

/// A process: what it keeps is gone with it.
fn process(folder: &TempDir, scope: &str) -> (Env, Registry) {
    let registry = Registry::new();
    (Env::new(folder.path(), registry.clone(), Arc::new(Kept::default())).scoped(scope), registry)
}

fn alice() -> Call {
    Call::get("/").principal(Principal::new("bearer", "alice"))
}

/// How often a caller may still ask, in a process of its own.
fn asked(folder: &TempDir, scope: &str, yaml: &str, times: usize, call: impl Fn() -> Call) -> usize {
    let (env, _) = process(folder, scope);
    let filter: RateLimit = build_in(&env, yaml).unwrap();
    (0..times).filter(|_| call().run(&filter).is_continue()).count()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).map(|entries| entries.map(|entry| entry.unwrap().path()).collect()).unwrap_or_default()
}

#[test]
fn a_quota_goes_on_after_a_restart_until_its_period_ends() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(asked(&folder, "route a", CONFIG, 2, alice), 2);
    assert_eq!(asked(&folder, "route a", CONFIG, 9, alice), 1);
    assert_eq!(asked(&folder, "route a", CONFIG, 9, alice), 0);
    assert_eq!(asked(&folder, "route a", &CONFIG.replace("3/", "5/"), 9, alice), 2, "a larger quota");
    assert_eq!(asked(&folder, "route a", &CONFIG.replace("state", "max_keys: 1, state"), 9, alice), 0, "a smaller table");
    let next_month = || Call::get("/").at(now() + Duration::from_secs(20 * 86_400)).principal(Principal::new("bearer", "alice"));
    assert_eq!(asked(&folder, "route a", CONFIG, 9, next_month), 3);
    assert_eq!(asked(&folder, "route a", CONFIG, 9, alice), 0, "and the clock goes back over the restart");
    // Another place, or something else that is counted, has its own.
    assert_eq!(asked(&folder, "route b", CONFIG, 9, alice), 3);
    assert_eq!(asked(&folder, "route a", &CONFIG.replace("principal.sub", "principal.method"), 9, alice), 3);
    let found = files(&folder.path().join("quotas"));
    assert_eq!(found.len(), 3, "and nothing is left over: {found:?}");
    assert!(found.iter().all(|file| !fs::read(file).unwrap().windows(5).any(|part| part == b"alice")));
}

#[test]
fn without_a_folder_a_restart_forgets() {
    let folder = tempfile::tempdir().unwrap();
    let yaml = "{ key: principal.sub, quota: 3/month }";
    assert_eq!((asked(&folder, "a", yaml, 9, alice), asked(&folder, "a", yaml, 9, alice)), (3, 3));
    assert!(files(folder.path()).is_empty());
}

#[test]
fn whoever_only_looks_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let explained = || {
        let mut call = alice();
        call.exchange.driver_explain();
        call
    };
    assert_eq!(asked(&folder, "a", CONFIG, 9, explained), 3);
    assert_eq!(asked(&folder, "a", CONFIG, 0, alice), 0);
    assert!(files(folder.path()).is_empty());
    // It reads, though, and says where callers stand.
    assert_eq!(asked(&folder, "a", CONFIG, 2, alice), 2);
    assert_eq!(asked(&folder, "a", CONFIG, 9, explained), 1);
    assert_eq!(asked(&folder, "a", CONFIG, 9, alice), 1);
}

#[test]
fn a_damaged_file_refuses_the_configuration_until_it_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(asked(&folder, "a", CONFIG, 9, alice), 3);
    let file = files(&folder.path().join("quotas")).remove(0);
    let good = fs::read(&file).unwrap();
    let mut changed = good.clone();
    changed[60] ^= 1;
    for bad in [&[][..], b"{}", &good[..good.len() - 1], &changed, &[good.as_slice(), &good].concat()] {
        fs::write(&file, bad).unwrap();
        let (env, _) = process(&folder, "a");
        for _ in 0..2 {
            let error = build_in::<RateLimit>(&env, CONFIG).err().unwrap();
            assert!(error.starts_with("state: cannot use ") && error.contains("damaged"), "{error}");
            assert!(error.contains(file.to_str().unwrap()) && error.contains("has to be deleted"), "{error}");
        }
        assert_eq!(fs::read(&file).unwrap(), bad, "it is left as evidence");
        // Mended, the same process goes on with it.
        fs::write(&file, &good).unwrap();
        assert!(!alice().run(&build_in::<RateLimit>(&env, CONFIG).unwrap()).is_continue());
    }
    fs::remove_file(&file).unwrap();
    assert_eq!(asked(&folder, "a", CONFIG, 9, alice), 3);
}

#[cfg(unix)]
#[test]
fn what_others_can_write_to_is_not_believed() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(asked(&folder, "a", CONFIG, 9, alice), 3);
    let quotas = folder.path().join("quotas");
    let file = files(&quotas).remove(0);
    assert_eq!(fs::metadata(&quotas).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    for (path, open, shut) in [(&file, 0o620, 0o600), (&quotas, 0o777, 0o700)] {
        fs::set_permissions(path, fs::Permissions::from_mode(open)).unwrap();
        let error = build_in::<RateLimit>(&process(&folder, "a").0, CONFIG).err().unwrap();
        assert!(error.contains("others than its owner can write to it"), "{error}");
        fs::set_permissions(path, fs::Permissions::from_mode(shut)).unwrap();
    }
    assert_eq!(asked(&folder, "a", CONFIG, 9, alice), 0);
}

#[test]
fn a_write_that_fails_is_counted_and_refuses_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let (env, registry) = process(&folder, "a");
    let filter: RateLimit = build_in(&env, CONFIG).unwrap();
    // In the place of the folder, a file.
    fs::write(folder.path().join("quotas"), "").unwrap();
    assert!((0..3).all(|_| alice().run(&filter).is_continue()) && !alice().run(&filter).is_continue());
    drop((filter, env));
    let failed = registry.gather().iter().any(|family| {
        family.name() == "portcullis_quota_state_errors_total" && family.get_metric()[0].get_counter().get_value() >= 1.0
    });
    assert!(failed);
    let error = build_in::<RateLimit>(&process(&folder, "a").0, CONFIG).err().unwrap();
    assert!(error.contains("cannot use "), "{error}");
}

#[test]
fn a_reload_keeps_counts_also_while_nothing_is_written_yet() {
    let folder = tempfile::tempdir().unwrap();
    let (env, _) = process(&folder, "a");
    let first: RateLimit = build_in(&env, CONFIG).unwrap();
    assert!((0..3).all(|_| alice().run(&first).is_continue()));
    let second: RateLimit = build_in(&env, &CONFIG.replace("3/", "4/")).unwrap();
    assert!(alice().run(&second).is_continue() && !alice().run(&second).is_continue());
}

#[test]
fn settings_that_keep_nothing_or_too_much_are_refused() {
    for (yaml, problem) in [
        ("{ key: client, rate: 1/s, state: quotas }", "state: only quotas are kept"),
        ("{ key: client, quota: 1/day, state: '' }", "state: an empty path"),
        ("{ key: client, quota: 1/day, state: }", "null"),
        ("{ key: client, quota: 1/day, state: quotas, max_keys: 1000001 }", "state: with `state`, `max_keys` is at most 1000000"),
    ] {
        let error = error::<RateLimit>(yaml);
        assert!(error.contains(problem), "{yaml}: {error}");
    }
    let tier = "{ key: client, rate: 1/s, state: quotas, tiers: [{ name: a, when: { owner: a }, quota: 9/day }] }";
    assert!(build_in::<RateLimit>(&env(), tier).is_ok(), "a tier's quota is one");
}
