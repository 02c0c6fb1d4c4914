//! What the micro benchmarks measure with: requests, routes, address lists and tokens.
//!
//! - `benches/http.rs`: a request head in and out, and the headers in between
//! - `benches/routes.rs`: the choice of a route
//! - `benches/filters.rs`: address rules, tokens, and a chain of filters
//!
//! Each counts allocations too: unlike times, they are the same on every machine.
// A benchmark that cannot be set up can only stop; there is nobody to answer.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use portcullis_engine::config::raw;
use portcullis_identity::{Algorithm, Issuer, IssuerConfig, Issuers};
use portcullis_plugin::units::{ByteSize, OneOrMany};
use portcullis_plugin::{Exchange, RequestHead};
use portcullis_testkit::{Alg, TestEnv, TokenIssuer, TokenSpec, request};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

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

/// An issuer whose keys are there, and tokens of it for as many callers.
pub struct Tokens {
    pub issuers: Arc<Issuers>,
    pub tokens: Vec<String>,
}

impl Tokens {
    /// `cache` is the memory for verified tokens; with none, each is verified each time.
    pub fn new(alg: Alg, count: usize, cache: ByteSize) -> Self {
        let signer = TokenIssuer::with(ISSUER, AUDIENCE, &[alg]);
        let mut config = IssuerConfig::new(ISSUER, [AUDIENCE]);
        config.algorithms = vec![Algorithm::Rs256, Algorithm::Es256];
        config.cache = cache;
        let env = TestEnv::new().expect("a folder");
        let jwks = serde_json::to_vec(&signer.jwks().expect("keys")).expect("JSON");
        let configs = BTreeMap::from([("main".to_owned(), config)]);
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
