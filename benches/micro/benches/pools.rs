//! The choice of a backend must not depend on how many there are.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use divan::{AllocProfiler, Bencher, black_box};
use portcullis_micro::{call, pool};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

const COUNTS: [usize; 2] = [2, 1_000];

#[divan::bench(args = COUNTS)]
fn round_robin(bencher: Bencher, count: usize) {
    select(bencher, "round_robin", count);
}

#[divan::bench(args = COUNTS)]
fn least_requests(bencher: Bencher, count: usize) {
    select(bencher, "least_requests", count);
}

#[divan::bench(args = COUNTS)]
fn random(bencher: Bencher, count: usize) {
    select(bencher, "random", count);
}

#[divan::bench(args = COUNTS)]
fn hash(bencher: Bencher, count: usize) {
    select(bencher, "hash", count);
}

fn select(bencher: Bencher, balance: &str, count: usize) {
    let (pool, (request, exchange)) = (pool(balance, count), call(None));
    bencher.bench_local(|| pool.select(black_box(&request), &exchange, &[]).expect("all are up"));
}
