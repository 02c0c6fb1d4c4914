//! Address rules, tokens, and a chain of filters as a route has it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use divan::{AllocProfiler, Bencher, black_box};
use portcullis_identity::Verification;
use portcullis_micro::{Tokens, address_in, call, networks};
use portcullis_plugin::units::ByteSize;
use portcullis_plugin::{Filter, Verdict};
use portcullis_plugins::identity_headers::IdentityHeaders;
use portcullis_plugins::ip_allow::IpAllow;
use portcullis_plugins::oidc::Oidc;
use portcullis_testkit::{Alg, TestEnv, request};
use std::sync::Arc;

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

const NO_CACHE: ByteSize = ByteSize(0);
const CACHE: ByteSize = ByteSize(16 << 20);
/// Callers in turn: more than any processor's first caches hold the verified tokens of.
const CALLERS: usize = 1_000;

fn main() {
    divan::main();
}

fn ip_allow_of(env: &TestEnv, count: usize) -> IpAllow {
    env.file("allowed.txt", networks(count)).expect("a file");
    env.filter("{ list: allowed.txt }").expect("a filter")
}

/// Clients all over the list. Passing allocates nothing, so an exchange may serve again.
#[divan::bench(args = [10, 10_000, 1_000_000])]
fn ip_allow(bencher: Bencher, count: usize) {
    let filter = ip_allow_of(&TestEnv::new().expect("a folder"), count);
    let mut calls: Vec<_> = (0..256)
        .map(|turn| {
            request("GET", "http://api.bench.test/").client_ip(&address_in(turn * 7919 % count)).build().expect("a request")
        })
        .collect();
    let mut turn = 0;
    bencher.bench_local(|| {
        turn = (turn + 1) % calls.len();
        let (head, exchange) = &mut calls[turn];
        passes(filter.request(black_box(head), exchange));
    });
}

#[divan::bench(args = [Alg::Rs256, Alg::Es256])]
fn verify_uncached(bencher: Bencher, alg: Alg) {
    verify(bencher, &Tokens::new(alg, 16, NO_CACHE));
}

#[divan::bench]
fn verify_cached(bencher: Bencher) {
    verify(bencher, &Tokens::new(Alg::Rs256, CALLERS, CACHE));
}

fn verify(bencher: Bencher, made: &Tokens) {
    let (issuer, (_, mut exchange)) = (made.issuer(), call(None));
    // With a cache, the first time is not what is measured.
    for token in &made.tokens {
        assert!(matches!(issuer.verify(token, &mut exchange), Verification::Verified(_)));
    }
    let mut turn = made.tokens.iter().cycle();
    bencher.bench_local(|| {
        let token = turn.next().expect("a cycle does not end");
        assert!(matches!(issuer.verify(black_box(token), &mut exchange), Verification::Verified(_)));
    });
}

/// A route that accepts tokens of as many issuers, and callers whose tokens are known.
#[divan::bench(args = [1, 100])]
fn oidc_of_issuers(bencher: Bencher, count: usize) {
    let mut env = TestEnv::new().expect("a folder");
    let made = Tokens::among(count, Alg::Rs256, CALLERS, CACHE);
    env.offer(Arc::clone(&made.issuers));
    let names: Vec<_> = made.issuers.names().collect();
    let filter: Oidc = env.filter(&format!("{{ issuer: [{}], scopes: ['api:read'] }}", names.join(", "))).expect("a filter");
    for token in &made.tokens {
        let (mut head, mut exchange) = call(Some(token));
        passes(filter.request(&mut head, &mut exchange));
    }
    let mut turn = made.tokens.iter().cycle();
    bencher
        .with_inputs(|| call(turn.next().map(String::as_str)))
        .bench_local_refs(|(head, exchange)| passes(filter.request(head, exchange)));
}

/// 10,000 networks, a cached token of one of 1,000 callers, identity headers.
#[divan::bench]
fn chain(bencher: Bencher) {
    let mut env = TestEnv::new().expect("a folder");
    let made = Tokens::new(Alg::Rs256, CALLERS, CACHE);
    env.offer(Arc::clone(&made.issuers));
    let filters: [Box<dyn Filter>; 3] = [
        Box::new(ip_allow_of(&env, 10_000)),
        Box::new(env.filter::<Oidc>("{ issuer: main, scopes: ['api:read'] }").expect("a filter")),
        Box::new(env.filter::<IdentityHeaders>("{ headers: { x-user: sub, x-scope: scope } }").expect("a filter")),
    ];
    let run = |token: &str| {
        let (mut head, mut exchange) = call(Some(token));
        filters.iter().for_each(|filter| passes(filter.request(&mut head, &mut exchange)));
    };
    made.tokens.iter().for_each(|token| run(token));
    let mut turn = made.tokens.iter().cycle();
    bencher.with_inputs(|| call(turn.next().map(String::as_str))).bench_local_refs(|(head, exchange)| {
        for filter in &filters {
            passes(filter.request(head, exchange));
        }
    });
}

fn passes(verdict: Verdict) {
    assert!(verdict.is_continue(), "the call is allowed");
}
