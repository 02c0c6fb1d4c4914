use super::*;
use proptest::prelude::*;

fn policy() -> Policy {
    Policy::default()
}

fn keep() -> Policy {
    Policy {
        dot_segments: DotSegments::Resolve,
        duplicate_slashes: DuplicateSlashes::Keep,
        encoded_slashes: EncodedSlashes::Keep,
    }
}

fn strict() -> Policy {
    Policy {
        dot_segments: DotSegments::Refuse,
        duplicate_slashes: DuplicateSlashes::Refuse,
        encoded_slashes: EncodedSlashes::Refuse,
    }
}

#[test]
fn every_path_has_one_spelling() {
    for (raw, spelling) in [
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("/a/b/", "/a/b/"),
        ("//", "/"),
        ("/a//b", "/a/b"),
        ("///a///b///", "/a/b/"),
        ("/.", "/"),
        ("/./a", "/a"),
        ("/a/.", "/a/"),
        ("/a/..", "/"),
        ("/a/b/..", "/a/"),
        ("/a/../b", "/b"),
        ("/a/b/../../c", "/c"),
        ("/a//../b", "/b"),
        ("/a/%2e%2e/b", "/b"),
        ("/a/.%2E/b", "/b"),
        ("/%61%7e%5f", "/a~_"),
        ("/a%3fb%3d", "/a%3Fb%3D"),
        ("/%252e%252e/a", "/%252e%252e/a"),
        ("/%25zz", "/%25zz"),
        ("/.well-known/x", "/.well-known/x"),
        ("/...", "/..."),
        ("/..a", "/..a"),
        ("/a..", "/a.."),
        ("/a;b=c/d", "/a;b=c/d"),
        ("/a;b/../c", "/c"),
        ("/a[1]{2}|\"<>^`", "/a%5B1%5D%7B2%7D%7C%22%3C%3E%5E%60"),
        ("/a;../b", "/a;../b"),
        ("/%e2%82%ac", "/%E2%82%AC"),
        ("/%e9", "/%E9"),
        ("/a:b@c!$&'()*+,=", "/a:b@c!$&'()*+,="),
        ("/%20", "/%20"),
    ] {
        assert_eq!(normalise(raw, &policy()).unwrap(), spelling, "{raw}");
        assert_eq!(normalise(spelling, &policy()).unwrap(), spelling, "{raw}");
    }
}

#[test]
fn what_servers_read_differently_is_refused() {
    for raw in [
        "",
        "a",
        "*",
        "/..",
        "/../a",
        "/a/../../b",
        "/%2e%2e/",
        "/a/%2E%2E/%2e./b",
        "//../a",
        "/%",
        "/%2",
        "/%zz",
        "/%0g",
        "/%+1",
        "/% 1",
        "/%00",
        "/a%00.png",
        "/%0d%0a",
        "/%1f",
        "/%7f",
        "/a\\b",
        "/..\\",
        "/a%5cb",
        "/a%5Cb",
        "/a%2fb",
        "/a%2F..",
        "/..;/a",
        "/a/..;x=y/b",
        "/.;/a",
        "/a/..%3b/b",
        "/a/%2e%2e;x/b",
        "/%c0%ae%c0%ae/",
        "/%c1%9c",
        "/%e0%80%af",
        "/%f0%80%80%af",
        "/a b",
        "/a\tb",
        "/a\u{e4}",
        "/a#b",
        "/a?b",
        "/a\0",
    ] {
        assert!(normalise(raw, &policy()).is_err(), "{raw:?}");
    }
}

#[test]
fn slashes_may_be_kept() {
    for (raw, spelling) in [
        ("/a//b", "/a//b"),
        ("/a//", "/a//"),
        ("/a//../b", "/a/b"),
        ("/a%2fb", "/a%2Fb"),
        ("/a%5cb", "/a%5Cb"),
        ("/a%2f...", "/a%2F..."),
    ] {
        assert_eq!(normalise(raw, &keep()).unwrap(), spelling, "{raw}");
    }
    // A host to some, and dots that only appear once the slash is decoded.
    for raw in ["//a", "//", "/a/..//b", "/.//b", "/a%2f..%2fb", "/a%5c..", "/..%2fa", "/.%2fa", "/a%2f%2e%2e"] {
        assert!(normalise(raw, &keep()).is_err(), "{raw}");
    }
}

#[test]
fn everything_may_be_refused() {
    for raw in ["/a//b", "//", "/a/./b", "/a/../b", "/a/..", "/%2e/a", "/a%2fb"] {
        assert!(normalise(raw, &strict()).is_err(), "{raw}");
    }
    assert_eq!(normalise("/%61/.b/", &strict()).unwrap(), "/a/.b/");
}

#[test]
fn a_plain_path_is_not_copied() {
    assert!(matches!(normalise("/orders/1;v=2/x.y", &policy()).unwrap(), Cow::Borrowed(_)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_result_is_stable_and_safe(raw in "(/|[.]|%2e|%2E|%2f|%5c|;|%3b|a|%61|%25|\\\\|%c0|%ae|\\[|:){0,24}", which in 0..3) {
        let policy = [policy(), keep(), strict()][which as usize];
        if let Ok(path) = normalise(&format!("/{raw}"), &policy) {
            prop_assert_eq!(normalise(&path, &policy).unwrap(), path.as_ref());
            prop_assert!(path.starts_with('/') && !path.starts_with("//"));
            prop_assert!(path.split('/').all(|segment| segment != "." && segment != ".."));
            prop_assert!(!path.to_ascii_lowercase().contains("%2e"));
            prop_assert!(policy.duplicate_slashes == DuplicateSlashes::Keep || !path.contains("//"));
            // Also for a server that decodes slashes and cuts off parameters.
            let decoded = path.replace("%2F", "/").replace("%5C", "/").replace("%3B", ";");
            prop_assert!(decoded.split('/').all(|segment| !matches!(segment.split(';').next(), Some("." | ".."))));
        }
    }

    #[test]
    fn nothing_panics(raw in any::<String>()) {
        let _ = normalise(&raw, &policy());
        let _ = normalise(&format!("/{raw}"), &keep());
    }
}
