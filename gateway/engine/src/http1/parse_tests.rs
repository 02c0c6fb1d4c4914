use super::*;

const LIMITS: HeadLimits = HeadLimits { bytes: 1000, fields: 5 };

fn complete(raw: &str) -> (RawHead, usize) {
    match parse(raw.as_bytes(), &LIMITS) {
        Ok(Parsed::Complete { head, len }) => (head, len),
        other => panic!("{raw:?}: {other:?}"),
    }
}

fn status(raw: &[u8], limits: &HeadLimits) -> Option<u16> {
    match parse(raw, limits) {
        Ok(Parsed::Complete { .. }) => Some(200),
        Ok(Parsed::Partial) => None,
        Err(refusal) => Some(refusal.status),
    }
}

#[test]
fn a_head_is_taken_as_received() {
    let raw = "PUT /a?b HTTP/1.1\r\nHost: x\r\nX-Two:one\r\nx-two: \t two \r\n\r\nbody";
    let (head, len) = complete(raw);
    assert_eq!((head.method, head.target.as_str(), head.version), (Method::Put, "/a?b", Version::Http11));
    assert_eq!(&raw[len..], "body");
    let fields: Vec<_> = head.headers.iter().map(|(name, value)| (name.to_owned(), value.to_vec())).collect();
    assert_eq!(fields, [("Host".into(), b"x".to_vec()), ("X-Two".into(), b"one".to_vec()), ("x-two".into(), b"two".to_vec())]);
}

#[test]
fn a_head_may_have_no_field() {
    let (head, len) = complete("GET / HTTP/1.0\r\n\r\n");
    assert_eq!((head.headers.len(), head.version, len), (0, Version::Http10, 18));
}

#[test]
fn limits_are_exact() {
    let raw = b"GET / HTTP/1.1\r\nA: b\r\nC: d\r\n\r\n";
    let limits = |bytes, fields| HeadLimits { bytes, fields };
    assert_eq!(status(raw, &limits(raw.len(), 2)), Some(200));
    assert_eq!(status(raw, &limits(raw.len() - 1, 2)), Some(431));
    assert_eq!(status(raw, &limits(raw.len(), 1)), Some(431));
    assert_eq!(status(raw, &limits(0, 0)), Some(431));
    // What follows the head does not count.
    assert_eq!(status(&[&raw[..], &[b'x'; 500]].concat(), &limits(raw.len(), 2)), Some(200));
    // Without an end, it is said as soon as it can be known.
    assert_eq!(status(&raw[..20], &limits(21, 2)), None);
    assert_eq!(status(&raw[..20], &limits(20, 2)), Some(431));
    assert_eq!(status(b"GET / HTTP/1.1\r\nA: b\r\nC: d\r\n", &limits(1000, 1)), Some(431));
}

#[test]
fn a_full_head_leaves_room_for_the_gateway() {
    let limits = HeadLimits { bytes: 1000, fields: 1 };
    let Ok(Parsed::Complete { mut head, .. }) = parse(b"GET / HTTP/1.1\r\nA: b\r\n\r\n", &limits) else { panic!("refused") };
    head.headers.set("x-user", "alice").unwrap();
}

#[test]
fn faults_are_said_before_the_head_is_whole() {
    for raw in [
        &b"\x16\x03\x01"[..],
        b" G",
        b"GET / HTTP/1.1\n",
        b"GET /\r\n",
        b"GET / HTTP/3\r\n",
        b"GET / HTTP/1.1\r\nA: b\n",
        b"GET / HTTP/1.1\r\nA: b\rc\r\n",
        b"GET / HTTP/1.1\r\n\r\r\n",
        b"\r\n\r\n",
    ] {
        assert_eq!(status(raw, &LIMITS), Some(400), "{}", raw.escape_ascii());
    }
}

#[test]
fn a_parser_is_ready_for_the_next_head() {
    let mut parser = Parser::default();
    let raw = b"GET /one HTTP/1.1\r\nA: b\r\n\r\nGET /two HTTP/1.1\r\n\r\n";
    assert!(matches!(parser.parse(&raw[..20], &LIMITS), Ok(Parsed::Partial)));
    let Ok(Parsed::Complete { head, len }) = parser.parse(raw, &LIMITS) else { panic!("one") };
    assert_eq!(head.target, "/one");
    let Ok(Parsed::Complete { head, .. }) = parser.parse(&raw[len..], &LIMITS) else { panic!("two") };
    assert_eq!(head.target, "/two");
    assert!(parser.parse(b"\x00", &LIMITS).is_err());
    assert!(matches!(parser.parse(raw, &LIMITS), Ok(Parsed::Complete { .. })));
}

#[test]
fn a_target_is_no_longer_than_what_lies_behind_can_hold() {
    let raw = format!("GET /{} HTTP/1.1\r\n", "a".repeat(LONGEST_TARGET));
    assert_eq!(status(raw.as_bytes(), &HeadLimits { bytes: 1 << 20, fields: 10 }), Some(431));
}
