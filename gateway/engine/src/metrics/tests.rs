use super::*;
use portcullis_plugin::reason;
use std::collections::BTreeMap;
use std::time::Duration;

/// Sample (name with labels) to value, from the text format.
fn samples(metrics: &Metrics) -> BTreeMap<String, f64> {
    let text = metrics.render();
    let mut samples = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        let value = value.parse().unwrap();
        assert!(samples.insert(name.to_owned(), value).is_none(), "twice: {name}");
    }
    samples
}

/// One of everything.
fn exercise(metrics: &Metrics) -> impl Sized {
    let route = metrics.route("https", "orders");
    route.finished(200, Duration::from_millis(3));
    route.finished(200, Duration::from_millis(70));
    route.finished(418, Duration::from_secs(60));
    route.finished(999, Duration::ZERO);
    let enforced = metrics.filter("orders", "oidc", Mode::Enforce);
    enforced.allow();
    enforced.deny(reason::TOKEN_EXPIRED);
    enforced.deny(reason::TOKEN_EXPIRED);
    enforced.respond();
    enforced.panicked();
    let shadow = metrics.filter("orders", "oidc", Mode::Shadow);
    shadow.deny(reason::TOKEN_EXPIRED);
    let listener = metrics.listener("https");
    listener.handshake_failure("timeout");
    listener.refused(reason::REQUEST_AMBIGUOUS);
    listener.opened();
    let pool = metrics.pool("orders");
    pool.upstream_duration.observe(0.2);
    pool.retries.inc();
    let backend = pool.backend("127.0.0.1:9001");
    backend.set_up(true);
    backend.outcome("success");
    metrics.config_started(1);
    metrics.reload_succeeded(2);
    metrics.reload_failed();
    (route, enforced, shadow, listener, pool, backend)
}

#[test]
fn everything_the_contract_names_is_there() {
    let metrics = Metrics::new();
    let _held = exercise(&metrics);
    let samples = samples(&metrics);
    for (name, value) in [
        (r#"portcullis_requests_total{listener="https",route="orders",status="200"}"#, 2.0),
        (r#"portcullis_requests_total{listener="https",route="orders",status="418"}"#, 1.0),
        (r#"portcullis_requests_total{listener="https",route="orders",status="other"}"#, 1.0),
        (r#"portcullis_request_duration_seconds_count{route="orders"}"#, 4.0),
        (r#"portcullis_request_duration_seconds_bucket{route="orders",le="0.0005"}"#, 1.0),
        (r#"portcullis_request_duration_seconds_bucket{route="orders",le="0.1"}"#, 3.0),
        (r#"portcullis_request_duration_seconds_bucket{route="orders",le="30"}"#, 3.0),
        (r#"portcullis_request_duration_seconds_bucket{route="orders",le="+Inf"}"#, 4.0),
        (r#"portcullis_upstream_duration_seconds_count{pool="orders"}"#, 1.0),
        (r#"portcullis_verdicts_total{filter="oidc",mode="enforce",reason="",route="orders",verdict="allow"}"#, 1.0),
        (r#"portcullis_verdicts_total{filter="oidc",mode="enforce",reason="token.expired",route="orders",verdict="deny"}"#, 2.0),
        (r#"portcullis_verdicts_total{filter="oidc",mode="shadow",reason="token.expired",route="orders",verdict="deny"}"#, 1.0),
        (r#"portcullis_verdicts_total{filter="oidc",mode="enforce",reason="",route="orders",verdict="respond"}"#, 1.0),
        (r#"portcullis_verdicts_total{filter="oidc",mode="enforce",reason="filter.fault",route="orders",verdict="fault"}"#, 1.0),
        (r#"portcullis_filter_panics_total{filter="oidc",route="orders"}"#, 1.0),
        (r#"portcullis_backend_up{backend="127.0.0.1:9001",pool="orders"}"#, 1.0),
        (r#"portcullis_backend_requests_total{backend="127.0.0.1:9001",outcome="success",pool="orders"}"#, 1.0),
        (r#"portcullis_retries_total{pool="orders"}"#, 1.0),
        (r#"portcullis_connections{listener="https"}"#, 1.0),
        (r#"portcullis_handshake_failures_total{listener="https",reason="timeout"}"#, 1.0),
        (r#"portcullis_requests_refused_total{listener="https",reason="request.ambiguous"}"#, 1.0),
        ("portcullis_config_generation", 2.0),
        ("portcullis_config_last_reload_success", 0.0),
        (r#"portcullis_reloads_total{result="success"}"#, 1.0),
        (r#"portcullis_reloads_total{result="failure"}"#, 1.0),
        ("portcullis_access_log_dropped_total", 0.0),
        ("portcullis_access_log_errors_total", 0.0),
        ("portcullis_audit_records_total", 0.0),
        ("portcullis_audit_lost_total", 0.0),
        ("portcullis_audit_errors_total", 0.0),
        ("portcullis_audit_failing", 0.0),
        (concat!(r#"portcullis_build_info{version=""#, env!("CARGO_PKG_VERSION"), r#""}"#), 1.0),
    ] {
        assert_eq!(samples.get(name), Some(&value), "{name}");
    }
    assert!(samples["portcullis_config_last_reload_success_timestamp_seconds"] > 1.7e9);
    if cfg!(target_os = "linux") {
        assert!(samples["process_resident_memory_bytes"] > 0.0);
    }
}

#[test]
fn every_family_says_what_it_is_and_follows_the_naming_rules() {
    let metrics = Metrics::new();
    let _held = exercise(&metrics);
    for family in metrics.registry().gather() {
        let (name, help) = (family.name(), family.help());
        assert!(help.ends_with('.'), "{name}: {help}");
        let counter = family.get_field_type() == prometheus::proto::MetricType::COUNTER;
        assert_eq!(counter, name.ends_with("_total"), "{name}");
    }
}

/// The judge the contract names; skipped where it is not installed.
#[test]
fn promtool_has_nothing_to_say() {
    use std::process::{Command, Stdio};
    let Ok(mut promtool) = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
    else {
        println!("skipped: promtool is not installed");
        return;
    };
    let metrics = Metrics::new();
    let _held = exercise(&metrics);
    std::io::Write::write_all(promtool.stdin.as_mut().unwrap(), metrics.render().as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}

#[test]
fn what_a_reload_removes_disappears_and_what_it_keeps_goes_on() {
    let metrics = Metrics::new();
    let generation = || {
        let pool = metrics.pool("web");
        (metrics.route("http", "stays"), metrics.filter("stays", "oidc", Mode::Enforce), pool.backend("a:1"), pool)
    };
    let old = generation();
    let (gone, gone_backend) = (metrics.route("http", "gone"), old.3.backend("b:1"));
    old.0.finished(200, Duration::ZERO);
    old.0.finished(299, Duration::ZERO);
    old.1.deny(reason::TOKEN_EXPIRED);
    old.2.outcome("success");
    gone.finished(200, Duration::ZERO);
    gone_backend.outcome("success");

    let new = generation();
    drop((old, gone, gone_backend));
    let text = metrics.render();
    assert!(!text.contains("gone") && !text.contains("b:1"), "{text}");
    assert!(text.contains(r#"portcullis_requests_total{listener="http",route="stays",status="200"} 1"#), "{text}");
    assert!(text.contains(r#"portcullis_requests_total{listener="http",route="stays",status="299"} 1"#), "{text}");
    assert!(text.contains(r#"reason="token.expired",route="stays",verdict="deny"} 1"#), "{text}");
    assert!(text.contains(r#"portcullis_backend_requests_total{backend="a:1",outcome="success",pool="web"} 1"#), "{text}");
    drop(new);
    assert!(!metrics.render().contains("stays"));
}

#[test]
fn open_connections_are_counted_by_whoever_holds_the_handle() {
    let metrics = Metrics::new();
    let listener = metrics.listener("http");
    let open = || samples(&metrics)[r#"portcullis_connections{listener="http"}"#];
    listener.opened();
    listener.opened();
    listener.closed();
    assert_eq!(open(), 1.0);
    // A reload asks for the same handle again.
    metrics.listener("http").closed();
    assert_eq!(open(), 0.0);
}

#[test]
fn a_name_cannot_break_out_of_its_label() {
    let metrics = Metrics::new();
    let route = metrics.route("http", "a\"} 1\nportcullis_forged 1\\");
    route.finished(200, Duration::ZERO);
    let text = metrics.render();
    assert!(!text.lines().any(|line| line.starts_with("portcullis_forged")), "{text}");
    assert!(text.contains(r#"route="a\"} 1\nportcullis_forged 1\\""#), "{text}");
}

#[test]
fn two_gateways_in_one_process_count_apart() {
    let (one, two) = (Metrics::new(), Metrics::new());
    let (a, b) = (one.route("http", "r"), two.route("http", "r"));
    a.finished(200, Duration::ZERO);
    assert_eq!((a.requests(200).get(), b.requests(200).get()), (1, 0));
}

#[test]
fn counting_from_many_threads_loses_nothing() {
    let metrics = Metrics::new();
    let held = (metrics.route("http", "r"), metrics.filter("r", "oidc", Mode::Enforce));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let (route, filter) = (metrics.route("http", "r"), metrics.filter("r", "oidc", Mode::Enforce));
                for status in (0..1_000).map(|i| [200, 299, 418, 999][i % 4]) {
                    route.finished(status, Duration::ZERO);
                    filter.deny(reason::IP_DENIED);
                }
            });
        }
    });
    let samples = samples(&metrics);
    for status in ["200", "299", "418", "other"] {
        assert_eq!(samples[&format!(r#"portcullis_requests_total{{listener="http",route="r",status="{status}"}}"#)], 1_000.0);
    }
    assert_eq!(
        samples[r#"portcullis_verdicts_total{filter="oidc",mode="enforce",reason="ip.denied",route="r",verdict="deny"}"#],
        4_000.0
    );
    drop(held);
}
