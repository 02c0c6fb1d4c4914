//! Hostile bytes, against the parser and the normaliser.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod corpus;
mod reading;

use corpus::Outcome;
use proptest::prelude::*;
use reading::{check, fields, read};
use std::collections::HashSet;
use std::path::Path;

#[test]
fn every_case_of_the_corpus_ends_as_it_says() {
    let cases = corpus::load();
    assert!(cases.len() > 150, "the corpus is there");
    let mut wrong = Vec::new();
    for case in &cases {
        let outcome = match read(&case.raw) {
            Ok(None) => Outcome::Partial,
            Ok(Some((head, _, _))) => Outcome::Forwarded { target: head.target().to_owned(), host: head.authority().to_owned() },
            Err(refusal) => Outcome::Refused { status: refusal.status, reason: refusal.reason.to_string() },
        };
        if outcome != case.outcome {
            wrong.push(format!("{}: {outcome:?} instead of {:?}", case.name, case.outcome));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn names_in_the_corpus_are_unique() {
    let mut names = HashSet::new();
    for case in corpus::load() {
        assert!(names.insert(case.name.clone()), "{}", case.name);
    }
}

#[test]
fn what_holds_for_all_bytes_holds_for_the_corpus() {
    corpus::load().iter().for_each(|case| check(&case.raw));
}

/// What the fuzzer starts from, and what it once found.
#[test]
fn what_holds_for_all_bytes_holds_for_the_fuzz_corpus() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/http1");
    let mut count = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        check(&std::fs::read(file.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 0);
}

#[test]
fn a_refusal_shows_no_secret() {
    for raw in [
        "GET /?access_token=hush%20 hush HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /?access_token=hush#x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nAuthorization: hush\r\nAuthorization: hush\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nAuthorization: hush\0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nAuthorization: a\r\n hush\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nhush\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nCookie: hush\x7f\r\n\r\n",
    ] {
        let refusal = read(raw.as_bytes()).unwrap_err();
        assert!(!format!("{refusal:?} {refusal}").contains("hush"), "{refusal:?}");
    }
}

#[test]
fn what_belongs_to_this_hop_goes() {
    let raw = b"GET / HTTP/1.1\r\nHost: a\r\nX-Private: 1\r\nKeep-Alive: 5\r\nConnection: X-Private, keep-alive\r\n\
        Proxy-Connection: close\r\nTE: trailers\r\nTrailer: x\r\nProxy-Authorization: Basic x\r\nProxy-Authenticate: x\r\n\
        Accept: */*\r\nX-PRIVATE: 2\r\nConnection: other\r\nOther: y\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n";
    let (head, _, _) = read(raw).unwrap().unwrap();
    assert_eq!(fields(&head), [("accept".to_owned(), b"*/*".to_vec())]);
}

#[test]
fn several_cookie_lines_are_one_to_the_upstream() {
    let raw = b"GET / HTTP/1.1\r\nHost: a\r\nCookie: a=1\r\nAccept: x\r\ncookie:\r\nCookie: b=2; c=3\r\n\r\n";
    let (head, _, _) = read(raw).unwrap().unwrap();
    assert_eq!(head.headers().get_all("cookie").collect::<Vec<_>>(), [b"a=1; b=2; c=3"]);
}

/// Pieces of heads, so that random ones are nearly right.
fn piece() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "GET ",
        "POST ",
        "OPTIONS ",
        "get ",
        "/",
        "*",
        "/a/../b",
        "/%2e%2e/",
        "http://a/",
        "?x=1",
        "//",
        " HTTP/1.1",
        " HTTP/1.0",
        "\r\n",
        "\r\n",
        "\r\n\r\n",
        "\n",
        "\r",
        " ",
        "\t",
        "Host: a\r\n",
        "Host: b",
        "host:a\r\n",
        "Content-Length: 5\r\n",
        "Content-Length: 0",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip",
        "Connection: close\r\n",
        "Connection: x-a, upgrade\r\n",
        "Connection: ",
        "Upgrade: websocket\r\n",
        "Upgrade: h2c\r\n",
        "Sec-WebSocket-Version: 13\r\n",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        "Expect: 100-continue\r\n",
        "Cookie: a=b\r\n",
        "X-A: b\r\n",
        "X_A: \u{e9}\r\n",
        "Authorization: Bearer x\r\n",
        "te: trailers\r\n",
        ":",
        "\0",
        ",",
        ";",
        "%00",
    ])
}

fn near_head() -> impl Strategy<Value = Vec<u8>> {
    let start = prop::sample::select(vec![
        "",
        "\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n",
        "POST /a HTTP/1.1\r\nHost: a:80\r\n",
        "GET /x?y HTTP/1.0\r\n",
    ]);
    let end = prop::sample::select(vec!["", "\r\n", "\r\n\r\n", "\r\n\r\nGET / HTTP/1.1\r\n\r\n"]);
    (start, prop::collection::vec(piece(), 0..12), end)
        .prop_map(|(start, middle, end)| format!("{start}{}{end}", middle.concat()).into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nearly_right_heads_fool_nobody(raw in near_head()) {
        check(&raw);
    }

    #[test]
    fn random_bytes_fool_nobody(raw in prop::collection::vec(any::<u8>(), 0..300)) {
        check(&raw);
    }

    /// One byte changed in a case of the corpus.
    #[test]
    fn changed_cases_fool_nobody(which in any::<prop::sample::Index>(), place in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let cases = corpus::load();
        let mut raw = which.get(&cases).raw.clone();
        if raw.len() < 2000 {
            let place = place.index(raw.len());
            raw[place] = byte;
            check(&raw);
        }
    }
}
