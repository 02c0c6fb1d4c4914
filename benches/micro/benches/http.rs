//! A request head from the wire to the wire, and the headers in between.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use divan::counter::BytesCount;
use divan::{AllocProfiler, Bencher, black_box};
use portcullis_engine::http1::{self, HeadLimits, Parsed, RawHead};
use portcullis_engine::normalise::{self, Policy};
use portcullis_engine::owned::OwnedHeaders;
use portcullis_micro::browser_head;
use portcullis_plugin::{Headers, Scheme};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

const LIMITS: HeadLimits = HeadLimits { bytes: 32 << 10, fields: 100 };

fn main() {
    divan::main();
}

fn parsed(bytes: &[u8]) -> RawHead {
    match http1::parse(bytes, &LIMITS) {
        Ok(Parsed::Complete { head, .. }) => head,
        _ => panic!("the head is whole and good"),
    }
}

fn headers() -> Headers {
    parsed(&browser_head()).headers
}

#[divan::bench]
fn parse(bencher: Bencher) {
    let bytes = browser_head();
    bencher.counter(BytesCount::of_slice(&bytes)).bench_local(|| parsed(black_box(&bytes)));
}

/// All that happens to a head on its way to the upstream, filters aside. The buffer is used again, as on a connection.
#[divan::bench]
fn parse_normalise_write(bencher: Bencher) {
    let (bytes, policy, mut out) = (browser_head(), Policy::default(), Vec::with_capacity(4096));
    bencher.counter(BytesCount::of_slice(&bytes)).bench_local(|| {
        let (head, framing) = normalise::http1(parsed(black_box(&bytes)), Scheme::Https, &policy).expect("a good head");
        out.clear();
        http1::write_head(&head, &framing, &mut out);
        out.len()
    });
}

#[divan::bench(args = ["host", "cookie", "x-absent"])]
fn headers_get(bencher: Bencher, name: &str) {
    let headers = headers();
    bencher.bench_local(|| headers.get(black_box(name)).map(<[u8]>::len));
}

#[divan::bench]
fn headers_set_new(bencher: Bencher) {
    bencher.with_inputs(headers).bench_local_refs(|headers| headers.set(black_box("x-user"), black_box("user-17")));
}

#[divan::bench]
fn headers_replace(bencher: Bencher) {
    bencher.with_inputs(headers).bench_local_refs(|headers| headers.set(black_box("accept"), black_box("text/html")));
}

/// The names that the gateway owns, taken out of a head that has none of them: what every request pays.
#[divan::bench]
fn strip_owned(bencher: Bencher) {
    let owned = OwnedHeaders::new(["x-user", "x-roles", "x-client"].map(str::to_owned));
    bencher.with_inputs(headers).bench_local_refs(|headers| owned.strip(headers));
}
