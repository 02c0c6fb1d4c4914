//! What the micro benchmarks measure with: requests, routes, address lists and tokens.
//!
//! - `benches/request.rs`: whole requests
//! - `benches/http.rs`: a request head in and out, and the headers in between
//! - `benches/routes.rs`: the choice of a route
//! - `benches/filters.rs`: address rules, tokens, and a chain of filters
//! - `benches/pools.rs`: the choice of a backend
//! - `benches/record.rs`: metrics and the access log
//!
//! Each counts allocations too: unlike times, they are the same on every machine.
// A benchmark that cannot be set up can only stop; there is nobody to answer.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use portcullis_engine::access_log::{FinalVerdict, Record, RecordTls};
use portcullis_engine::config::raw;
use portcullis_engine::metrics::Metrics;
use portcullis_engine::pool::Pool;
use portcullis_identity::{Algorithm, Issuer, IssuerConfig, Issuers};
use portcullis_plugin::units::{ByteSize, OneOrMany};
use portcullis_plugin::{Exchange, Principal, RequestHead};
use portcullis_testkit::{Alg, TestEnv, TokenIssuer, TokenSpec, request};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

pub const HOST: &str = "api.bench.test";
const ISSUER: &str = "https://issuer.bench.test";
const AUDIENCE: &str = "https://api.bench.test";
/// Long enough for every run.
const LIFETIME: i64 = 86_400;

/// A head of 794 bytes and 20 fields, as a browser sends it with a call to an API.
pub fn browser_head() -> Vec<u8> {
    let mut head = format!(
        "GET /orders/2024/list?page=3&sort=created HTTP/1.1\r\n\
         Host: {HOST}\r\n\
         User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0 Safari/537.36\r\n\
         Accept: */*\r\n\
         Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n\
         Accept-Encoding: gzip, deflate, br\r\n\
         Cache-Control: no-cache\r\n\
         Pragma: no-cache\r\n\
         DNT: 1\r\n\
         Origin: https://app.bench.test\r\n\
         Referer: https://app.bench.test/orders\r\n\
         Sec-CH-UA: \"Chromium\";v=\"130\"\r\n\
         Sec-CH-UA-Mobile: ?0\r\n\
         Sec-CH-UA-Platform: \"Linux\"\r\n\
         Sec-Fetch-Dest: empty\r\n\
         Sec-Fetch-Mode: cors\r\n\
         Sec-Fetch-Site: same-site\r\n\
         X-Requested-With: XMLHttpRequest\r\n\
         X-Correlation-Id: 5f1b7c0e-6a62-4f0e-9a3f-0d6a3a1f7b11\r\n\
         Priority: u=1, i\r\n\
         Cookie: session="
    );
    while head.len() < 790 {
        head.push('c');
    }
    head.push_str("\r\n\r\n");
    head.into_bytes()
}

/// As many routes, each with a host and a path of its own.
pub fn routes(count: usize) -> Vec<raw::Match> {
    (0..count)
        .map(|index| raw::Match {
            host: OneOrMany(vec![format!("host-{}.bench.test", index / 10)]),
            path: Some(format!("/area-{}/orders", index % 10)),
            ..raw::Match::default()
        })
        .collect()
}

/// A request for the route of this index among [`routes`].
pub fn request_for(index: usize) -> RequestHead {
    let url = format!("https://host-{}.bench.test/area-{}/orders/7", index / 10, index % 10);
    request("GET", &url).build().expect("a request").0
}

/// Networks that do not touch, so that nothing can merge them: one a line, as `ip_allow` reads them from a file.
pub fn networks(count: usize) -> String {
    let mut list = String::new();
    for third in (0..count as u32).map(|index| index * 2) {
        let _ = writeln!(list, "{}.{}.{}.0/24", 20 + (third >> 16), (third >> 8) & 255, third & 255);
    }
    list
}

/// An address in the network of this index among [`networks`].
pub fn address_in(index: usize) -> String {
    let third = index as u32 * 2;
    format!("{}.{}.{}.9", 20 + (third >> 16), (third >> 8) & 255, third & 255)
}

/// A request with a token, or without one, from a client in the first network.
pub fn call(token: Option<&str>) -> (RequestHead, Exchange) {
    let mut described = request("GET", &format!("https://{HOST}/orders/7"))
        .header("accept", "*/*")
        .header("user-agent", "bench")
        .header("x-user", "spoofed")
        .client_ip(&address_in(0));
    if let Some(token) = token {
        described = described.bearer(token);
    }
    described.build().expect("a request")
}

/// As many backends, all of them up.
pub fn pool(balance: &str, count: usize) -> Arc<Pool> {
    let backends: Vec<_> =
        (0..count).map(|n| serde_json::json!({ "address": format!("10.0.{}.{}:80", n / 250, n % 250 + 1) })).collect();
    let mut pool = serde_json::json!({ "balance": balance, "backends": backends });
    if balance == "hash" {
        pool["hash_key"] = "header.user-agent".into();
    }
    let env = TestEnv::new().expect("a folder");
    Pool::compile("bench", serde_json::from_value(pool).expect("a pool"), env.env(), &Metrics::new()).expect("a pool")
}

static CALLER: LazyLock<Principal> = LazyLock::new(|| {
    let mut caller = Principal::new("bearer", "user-17");
    caller.issuer = Some(ISSUER.into());
    caller
});

/// What the access log says of an ordinary allowed request.
pub fn log_record() -> Record<'static> {
    let peer = SocketAddr::from(([203, 0, 113, 7], 50_123));
    Record {
        tls: Some(RecordTls {
            version: "TLSv1.3",
            cipher: "TLS13_AES_128_GCM_SHA256",
            sni: Some(HOST),
            client_cert_sha256: None,
        }),
        method: Some(b"GET"),
        host: Some(HOST.as_bytes()),
        path: Some(b"/orders/2024/list"),
        query: Some(b"page=3&sort=created"),
        protocol: Some("HTTP/1.1"),
        status: 200,
        route: Some("orders"),
        verdict: FinalVerdict::Allow,
        principal: Some(&CALLER),
        pool: Some("orders"),
        backend: Some("10.0.1.10:8080"),
        attempts: 1,
        duration: Duration::from_micros(1_534),
        upstream: Some(Duration::from_micros(1_211)),
        bytes_out: 1_024,
        ..Record::new(
            SystemTime::UNIX_EPOCH + Duration::from_millis(1_790_000_000_123),
            "268ae64b8b5a8ee23d99eb0a",
            "https",
            peer,
        )
    }
}

/// An issuer whose keys are there, and tokens of it for as many callers.
pub struct Tokens {
    pub issuers: Arc<Issuers>,
    pub tokens: Vec<String>,
}

impl Tokens {
    /// `cache` is the memory for verified tokens; with none, each is verified each time.
    pub fn new(alg: Alg, count: usize, cache: ByteSize) -> Self {
        Self::among(1, alg, count, cache)
    }

    /// The same with other issuers beside it, `issuers` in all: `other-0`, `other-1`…
    pub fn among(issuers: usize, alg: Alg, count: usize, cache: ByteSize) -> Self {
        let signer = TokenIssuer::with(ISSUER, AUDIENCE, &[alg]);
        let config = |issuer: &str| {
            let mut config = IssuerConfig::new(issuer, [AUDIENCE]);
            config.algorithms = vec![Algorithm::Rs256, Algorithm::Es256];
            config.cache = cache;
            config
        };
        let env = TestEnv::new().expect("a folder");
        let jwks = serde_json::to_vec(&signer.jwks().expect("keys")).expect("JSON");
        let others = (1..issuers).map(|n| (format!("other-{}", n - 1), config(&format!("https://other-{n}.bench.test"))));
        let configs: BTreeMap<_, _> = others.chain([("main".to_owned(), config(ISSUER))]).collect();
        let issuers = Issuers::offline(&configs, env.env(), Some(&jwks)).expect("an issuer");
        let tokens = (0..count)
            .map(|index| {
                let spec = TokenSpec::new().alg(alg).subject(&format!("user-{index}")).scope("api:read").expires_in(LIFETIME);
                signer.issue(&spec).expect("a token")
            })
            .collect();
        Self { issuers, tokens }
    }

    pub fn issuer(&self) -> Arc<Issuer> {
        self.issuers.get("main").expect("the one issuer")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_has_the_size_and_the_fields_that_the_page_speaks_of() {
        let head = browser_head();
        assert_eq!(head.len(), 794);
        assert_eq!(head.windows(2).filter(|pair| pair == b"\r\n").count(), 22, "request line, 20 fields, empty line");
    }
}
