//! What is written down of every request: its id, its metrics, its line in the access log.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use divan::counter::BytesCount;
use divan::{AllocProfiler, Bencher, black_box};
use portcullis_engine::access_log::{AccessLog, Sink, Tells};
use portcullis_engine::metrics::Metrics;
use portcullis_micro::log_record;
use portcullis_plugin::{DecisionId, Mode};
use std::time::Duration;

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

#[divan::bench]
fn decision_id() -> DecisionId {
    DecisionId::random()
}

#[divan::bench]
fn metrics_of_a_request(bencher: Bencher) {
    let metrics = Metrics::new();
    let (route, filter, pool) =
        (metrics.route("edge", "orders"), metrics.filter("orders", "oidc", Mode::Enforce), metrics.pool("orders"));
    let backend = pool.backend("10.0.0.1:80");
    bencher.bench_local(|| {
        filter.allow();
        backend.outcome("success");
        pool.upstream_duration.observe(black_box(0.0012));
        route.finished(black_box(200), black_box(Duration::from_micros(1500)));
    });
}

#[divan::bench]
fn log_line(bencher: Bencher) {
    let (record, mut line) = (log_record(), Vec::with_capacity(1024));
    record.write(&mut line, Tells::default());
    bencher.counter(BytesCount::of_slice(&line)).bench_local(|| {
        line.clear();
        black_box(&record).write(&mut line, Tells::default());
        line.len()
    });
}

/// The line, and its hand-over to the thread that writes.
#[divan::bench]
fn log(bencher: Bencher) {
    struct Nowhere;
    impl Sink for Nowhere {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            Ok(bytes.len())
        }
        fn name(&self) -> String {
            "nowhere".to_owned()
        }
    }
    let log = AccessLog::to_sink(Nowhere, 1 << 16, &Metrics::new()).expect("a log");
    let record = log_record();
    bencher.bench_local(|| log.log(black_box(&record)));
}
