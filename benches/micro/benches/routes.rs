//! The choice of a route must not depend on how many there are.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use divan::{AllocProfiler, Bencher, black_box};
use portcullis_engine::route::{Lookup, Router};
use portcullis_micro::{request_for, routes};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

const COUNTS: [usize; 2] = [10, 10_000];

fn router(count: usize) -> Router {
    Router::new(routes(count).iter().enumerate().collect()).expect("routes")
}

#[divan::bench(args = COUNTS)]
fn find(bencher: Bencher, count: usize) {
    let router = router(count);
    // All over the table, so that nothing is found because it was just found.
    let requests: Vec<_> = (0..64).map(|turn| request_for(turn * 7919 % count)).collect();
    assert!(requests.iter().all(|request| matches!(router.find(request), Lookup::Found(_))));
    let mut turn = requests.iter().cycle();
    bencher.bench_local(|| router.find(black_box(turn.next().expect("a cycle does not end"))));
}

#[divan::bench(args = COUNTS)]
fn find_none(bencher: Bencher, count: usize) {
    let (router, request) = (router(count), request_for(count + 10));
    assert!(matches!(router.find(&request), Lookup::None));
    bencher.bench_local(|| router.find(black_box(&request)));
}
