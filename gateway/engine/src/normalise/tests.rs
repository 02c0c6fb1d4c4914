use super::*;
use crate::http1::{self, Parsed};

const LIMITS: HeadLimits = HeadLimits { bytes: 4096, fields: 20 };

fn h1(raw: &str) -> Result<(RequestHead, Framing), Refusal> {
    match http1::parse(raw.as_bytes(), &LIMITS)? {
        Parsed::Complete { head, .. } => http1(head, Scheme::Https, &Policy::default()),
        Parsed::Partial => panic!("not whole: {raw:?}"),
    }
}

fn h2_to(authority: Option<&str>, path: &str, fields: &[(&str, &str)]) -> Result<(RequestHead, Framing), Refusal> {
    let fields = fields.iter().map(|(name, value)| (*name, value.as_bytes()));
    http2("GET", Some("https"), authority, path, fields, &LIMITS, Scheme::Https, &Policy::default())
}

fn h2(fields: &[(&str, &str)]) -> Result<(RequestHead, Framing), Refusal> {
    h2_to(Some("a"), "/", fields)
}

fn framing(raw: &str) -> Framing {
    h1(raw).unwrap().1
}

#[test]
fn the_end_of_a_request() {
    let body = |fields: &str| framing(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).body;
    assert_eq!(body(""), BodyLength::None);
    assert_eq!(body("Content-Length: 0\r\n"), BodyLength::Exact(0));
    assert_eq!(body("Content-Length: 9223372036854775807\r\n"), BodyLength::Exact(i64::MAX as u64));
    assert_eq!(body("Transfer-Encoding: CHUNKED\r\n"), BodyLength::Chunked);
}

#[test]
fn the_content_length_stays_only_if_it_is_the_length() {
    let (head, _) = h1("POST / HTTP/1.1\r\nHost: a\r\ncontent-LENGTH: 5\r\n\r\n").unwrap();
    assert_eq!(head.headers().get_all("content-length").collect::<Vec<_>>(), [b"5"]);
    let (head, _) = h1("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    assert!(head.headers().is_empty());
}

#[test]
fn the_connection_after_the_request() {
    let keep_alive =
        |version: &str, connection: &str| framing(&format!("GET / HTTP/{version}\r\nHost: a\r\n{connection}\r\n")).keep_alive;
    assert!(keep_alive("1.1", ""));
    assert!(!keep_alive("1.1", "Connection: x, Close\r\n"));
    assert!(!keep_alive("1.0", ""));
    assert!(keep_alive("1.0", "Connection: Keep-Alive\r\n"));
    assert!(!keep_alive("1.0", "Connection: keep-alive\r\nConnection: close\r\n"));
}

#[test]
fn only_a_client_that_waits_is_told_to_continue() {
    let expects = |head: &str| framing(&format!("{head}Host: a\r\nExpect: 100-Continue\r\n\r\n")).expect_continue;
    assert!(expects("POST / HTTP/1.1\r\nContent-Length: 3\r\n"));
    assert!(expects("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n"));
    assert!(!expects("POST / HTTP/1.0\r\nContent-Length: 3\r\n"));
    assert!(!expects("POST / HTTP/1.1\r\nContent-Length: 0\r\n"));
    assert!(!expects("GET / HTTP/1.1\r\n"));
}

#[test]
fn a_websocket_is_upgraded_and_written_as_such() {
    let raw = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: WEBSOCKET\r\nContent-Length: 0\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let (head, framing) = h1(raw).unwrap();
    assert!(framing.upgrade);
    let mut out = Vec::new();
    http1::write_head(&head, &framing, &mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "GET /ws HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    );
}

#[test]
fn a_head_is_written_in_one_form() {
    let raw = "POST http://A:80/x/../y?z HTTP/1.1\r\nX-Nominated: 1\r\nConnection: close, x-nominated\r\nhost:  A:80\r\n\
        transfer-encoding: Chunked\r\nx-Odd:\tv \r\nexpect: 100-Continue\r\n\r\n";
    let (head, framing) = h1(raw).unwrap();
    let mut out = Vec::new();
    http1::write_head(&head, &framing, &mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "POST /y?z HTTP/1.1\r\nHost: a:80\r\nx-Odd: v\r\nTransfer-Encoding: chunked\r\nConnection: close\r\nExpect: 100-continue\r\n\r\n"
    );
}

#[test]
fn every_single_field_is_refused_twice_on_both_versions() {
    for name in [
        "authorization",
        "content-type",
        "dpop",
        "origin",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-real-ip",
        "x-original-url",
    ] {
        assert!(h1(&format!("GET / HTTP/1.1\r\nHost: a\r\n{name}: x\r\n\r\n")).is_ok(), "{name}");
        assert!(h1(&format!("GET / HTTP/1.1\r\nHost: a\r\n{name}: x\r\n{}: x\r\n\r\n", name.to_uppercase())).is_err(), "{name}");
        assert!(h2(&[(name, "x"), (name, "x")]).is_err(), "{name}");
        let look_alike = name.replace('-', "_");
        assert!(look_alike == name || h2(&[(&look_alike, "x")]).is_err(), "{name}");
    }
}

#[test]
fn http2_comes_out_as_http1_does() {
    let fields = [("cookie", "a=1"), ("accept", "*/*"), ("cookie", "b=2"), ("te", "trailers"), ("content-length", "3")];
    let (head, framing) = h2_to(Some("A.Example:8443"), "/x/%2e%2e/y?z", &fields).unwrap();
    assert_eq!((head.authority(), head.target(), head.version()), ("a.example:8443", "/y?z", Version::Http2));
    let fields: Vec<_> = head.headers().iter().map(|(name, value)| (name, value.to_vec())).collect();
    assert_eq!(
        fields,
        [
            ("accept", b"*/*".to_vec()),
            ("cookie", b"a=1; b=2".to_vec()),
            ("content-length", b"3".to_vec()),
            ("te", b"trailers".to_vec()),
        ]
    );
    assert_eq!(framing, Framing { body: BodyLength::Exact(3), keep_alive: true, upgrade: false, expect_continue: false });
    assert_eq!(h2(&[]).unwrap().1.body, BodyLength::Chunked);
}

#[test]
fn http2_refuses_what_http1_could_not_say() {
    for (name, value) in [
        ("connection", "close"),
        ("connection", "x-user"),
        ("keep-alive", "5"),
        ("proxy-connection", "close"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
        ("te", "trailers, deflate"),
        ("Accept", "*/*"),
        ("x-User", "a"),
        (":path", "/x"),
        ("", "a"),
        ("a b", "c"),
        ("a\r\nb", "c"),
        ("a:b", "c"),
        ("x", "a\r\ny: z"),
        ("x", "a\nb"),
        ("x", "a\0b"),
        ("x", " a"),
        ("x", "a "),
        ("x", "\ta"),
        ("host", "b"),
        ("host", "a:80"),
        ("content-length", "+3"),
        ("content-length", "3,3"),
        ("content_length", "3"),
        ("transfer_encoding", "chunked"),
        ("expect", "x"),
    ] {
        assert_eq!(h2(&[(name, value)]).expect_err(&format!("{name}: {value}")).status, 400, "{name}: {value}");
    }
    assert!(h2(&[("content-length", "3"), ("content-length", "3")]).is_err());
    assert!(h2(&[("te", "trailers"), ("te", "trailers")]).is_err());
}

#[test]
fn http2_names_one_host() {
    assert_eq!(h2_to(None, "/", &[("host", "A")]).unwrap().0.authority(), "a");
    assert_eq!(h2_to(Some("a"), "/", &[("host", "A")]).unwrap().0.authority(), "a");
    assert!(h2(&[("host", "a"), ("host", "a")]).is_err());
    for authority in [None, Some(""), Some("u@a"), Some("a, b"), Some("a b"), Some("a/b")] {
        assert!(h2_to(authority, "/", &[]).is_err(), "{authority:?}");
    }
}

#[test]
fn http2_paths_are_paths() {
    for path in ["", "x", "*", "http://a/", "/..", "/a b", "/a\r\nb", "/%00", "/a#b", "/\u{e9}", "/a?b c", "?x"] {
        assert!(h2_to(Some("a"), path, &[]).is_err(), "{path:?}");
    }
}

#[test]
fn http2_methods_and_schemes() {
    let request = |method: &str, scheme: Option<&str>| {
        http2(method, scheme, Some("a"), "/", [], &LIMITS, Scheme::Http, &Policy::default())
            .map_or_else(|refusal| refusal.status, |_| 200)
    };
    assert_eq!(request("QUERY", None), 200);
    assert_eq!(request("GET", Some("HTTP")), 200);
    assert_eq!(request("CONNECT", Some("https")), 405);
    assert_eq!(request("TRACE", None), 405);
    for (method, scheme) in [
        ("get", None),
        ("G T", None),
        ("", None),
        ("GET\r\n", None),
        ("GET", Some("ftp")),
        ("GET", Some("https://a/")),
        ("GET", Some("")),
    ] {
        assert_eq!(request(method, scheme), 400, "{method} {scheme:?}");
    }
    let options = http2("OPTIONS", None, Some("a"), "*", [], &LIMITS, Scheme::Http, &Policy::default()).unwrap().0;
    assert_eq!((options.path(), options.scheme()), ("*", Scheme::Http));
}

#[test]
fn http2_heads_have_the_same_limits() {
    let many = vec![("x", "y"); LIMITS.fields + 1];
    assert!(h2(&many[1..]).is_ok());
    assert_eq!(h2(&many).unwrap_err().status, 431);
    assert_eq!(h2(&[("x", &"y".repeat(LIMITS.bytes))]).unwrap_err().status, 431);
    assert_eq!(h2_to(Some("a"), &format!("/{}", "y".repeat(LIMITS.bytes)), &[("x", "y")]).unwrap_err().status, 431);
}

#[test]
fn a_full_http2_head_leaves_room_for_the_gateway() {
    let (mut head, _) = h2(&vec![("x", "y"); LIMITS.fields]).unwrap();
    head.headers_mut().set("x-user", "alice").unwrap();
}

#[test]
fn nomination_takes_every_copy_in_any_case() {
    let (head, _) = h1("GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nConnection: x-A\r\nx-a: 2\r\nX-AB: 3\r\n\r\n").unwrap();
    assert_eq!(head.headers().iter().map(|(name, _)| name).collect::<Vec<_>>(), ["X-AB"]);
}
