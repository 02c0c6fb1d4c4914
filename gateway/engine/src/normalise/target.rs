//! The request target (RFC 9112, section 3.2): which form it has, and its path and query in the spelling that is matched
//! and sent.
//!
//! A query is kept as it came. Broken escapes in it pass: only the application decodes it, and links with a bare `%` are
//! common. Spaces, control characters, non-ASCII bytes and `#` are refused; `"`, `<` and `>` are encoded, as browsers do.

use super::refusal::{Refusal, shown, shown_path};
use super::{Policy, host, path};
use crate::config::raw::DuplicateSlashes;
use portcullis_plugin::Method;
use std::borrow::Cow;

/// The longest target that the header types downstream can hold.
pub(crate) const LONGEST: usize = 65_000;

/// What a request line says of where the request goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Of the absolute form only, in its one spelling.
    pub authority: Option<String>,
    /// Path and query; or `*`.
    pub path_and_query: String,
}

/// Any form but the authority form, which only CONNECT has.
pub(super) fn parse(method: &Method, raw: String, policy: &Policy) -> Result<Target, Refusal> {
    if raw.starts_with('/') || raw == "*" {
        return Ok(Target { authority: None, path_and_query: origin(method, raw, policy)? });
    }
    let refuse = || {
        // Neither the query nor who is named before an `@`: either may hold a secret.
        let told = raw.split(['?', '#']).next().unwrap_or_default();
        let observed = match told.contains('@') {
            true => "a target with user information".to_owned(),
            false => format!("target {}", shown_path(told.as_bytes())),
        };
        Refusal::ambiguous("a target that starts with `/`, or `http://` or `https://` and a host", observed)
    };
    let (scheme, rest) = raw.split_once("://").ok_or_else(refuse)?;
    if !is_scheme(scheme) {
        return Err(refuse());
    }
    let authority_len = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(authority_len);
    let authority = host::normalise(authority.as_bytes())?;
    let path_and_query = match rest.as_bytes().first() {
        // RFC 9112, section 3.2.4: how a proxy is asked about the server as a whole.
        None if *method == Method::Options => "*".to_owned(),
        None => "/".to_owned(),
        Some(b'/') => origin(method, rest.to_owned(), policy)?,
        Some(_) => origin(method, format!("/{rest}"), policy)?,
    };
    Ok(Target { authority: Some(authority), path_and_query })
}

/// The scheme of the target says nothing that the connection does not say better, so either will do.
pub(super) fn is_scheme(scheme: &str) -> bool {
    scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")
}

/// Path and query, or `*` with OPTIONS. `raw` comes back as it is if nothing had to change.
pub(super) fn origin(method: &Method, raw: String, policy: &Policy) -> Result<String, Refusal> {
    if raw.len() > LONGEST {
        return Err(Refusal::too_large(format!("a target of at most {LONGEST} bytes"), format!("{} bytes", raw.len())));
    }
    if raw == "*" {
        return if *method == Method::Options {
            Ok(raw)
        } else {
            Err(Refusal::ambiguous("`*` with OPTIONS only", method.as_str()))
        };
    }
    let (raw_path, raw_query) = match raw.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (raw.as_str(), None),
    };
    let path = path::normalise(raw_path, policy)?;
    let query = raw_query.map(query).transpose()?;
    if matches!((&path, &query), (Cow::Borrowed(_), None | Some(Cow::Borrowed(_)))) {
        return Ok(raw);
    }
    let mut target = path.into_owned();
    if let Some(query) = query {
        target.push('?');
        target.push_str(&query);
    }
    Ok(target)
}

/// Whether slashes of the path are merged.
pub(super) fn merges_slashes(raw: &str, policy: &Policy) -> bool {
    let path = raw.split('?').next().unwrap_or_default();
    // The absolute form has two slashes of its own.
    let path = if path.starts_with('/') { path } else { path.split_once("://").map_or("", |(_, rest)| rest) };
    policy.duplicate_slashes == DuplicateSlashes::Merge && memchr::memmem::find(path.as_bytes(), b"//").is_some()
}

fn query(raw: &str) -> Result<Cow<'_, str>, Refusal> {
    if let Some(byte) = raw.bytes().find(|b| !b.is_ascii_graphic() || *b == b'#') {
        // The byte, not the query: that may hold a secret.
        return Err(Refusal::ambiguous("a query of visible ASCII without `#`", format!("{} in the query", shown(&[byte]))));
    }
    let odd = |b: u8| matches!(b, b'"' | b'<' | b'>');
    if !raw.bytes().any(odd) {
        return Ok(Cow::Borrowed(raw));
    }
    let mut out = String::with_capacity(raw.len() + 16);
    for byte in raw.bytes() {
        if odd(byte) { path::push_escape(&mut out, byte) } else { out.push(char::from(byte)) }
    }
    Ok(Cow::Owned(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(raw: &str) -> Result<Target, Refusal> {
        parse(&Method::Get, raw.to_owned(), &Policy::default())
    }

    fn is(authority: Option<&str>, path_and_query: &str) -> Result<Target, Refusal> {
        Ok(Target { authority: authority.map(str::to_owned), path_and_query: path_and_query.to_owned() })
    }

    #[test]
    fn merged_slashes_are_those_of_the_path() {
        let policy = |duplicate_slashes| Policy { duplicate_slashes, ..Policy::default() };
        for (raw, merged) in [
            ("/a//b", true),
            ("//", true),
            ("http://a//b?c", true),
            ("/a/b", false),
            ("/a?b=//", false),
            ("http://a/b", false),
            ("*", false),
        ] {
            assert_eq!(merges_slashes(raw, &policy(DuplicateSlashes::Merge)), merged, "{raw}");
            assert!(!merges_slashes(raw, &policy(DuplicateSlashes::Keep)), "{raw}");
        }
    }

    #[test]
    fn the_forms() {
        assert_eq!(get("/a?b=c"), is(None, "/a?b=c"));
        assert_eq!(get("HTTP://A.example:80/b/../c?d"), is(Some("a.example:80"), "/c?d"));
        assert_eq!(get("https://a"), is(Some("a"), "/"));
        assert_eq!(get("http://a?b"), is(Some("a"), "/?b"));
        let options = |raw: &str| parse(&Method::Options, raw.to_owned(), &Policy::default());
        assert_eq!(options("*"), is(None, "*"));
        assert_eq!(options("http://a"), is(Some("a"), "*"));
        assert_eq!(options("http://a/"), is(Some("a"), "/"));
        for raw in [
            "*",
            "",
            "a",
            "a/b",
            "?a",
            "#",
            "ftp://a/",
            "http:/a",
            "http:a",
            "http://",
            "http:///a",
            "http://u@a/",
            "http://a:b:c/",
            "http://a\\b/",
            "//a:80@b",
            "a:443",
            "javascript://a/",
            "://a",
            "**",
            "*/a",
        ] {
            if raw != "//a:80@b" {
                assert!(get(raw).is_err(), "{raw}");
            }
        }
        // Two slashes at the start are a path, and merged.
        assert_eq!(get("//a:80@b"), is(None, "/a:80@b"));
    }

    #[test]
    fn a_query_is_kept() {
        for query in ["", "a=%zz", "100%", "a=/../b", "a=//", "?", "a;b", "%00", "a=\\", "[]{}|^`"] {
            assert_eq!(get(&format!("/?{query}")), is(None, &format!("/?{query}")));
        }
        assert_eq!(get("/?a=\"<>"), is(None, "/?a=%22%3C%3E"));
        for query in ["a#b", "a b", "a\tb", "a\u{e4}", "a\0", "a\x7f"] {
            assert!(get(&format!("/?{query}")).is_err(), "{query:?}");
        }
    }

    #[test]
    fn a_query_is_not_shown() {
        for target in [
            "/?token=secret\u{e4}",
            "foo?token=secret",
            "foo#token=secret",
            "ftp://a.test/?token=secret",
            "//?token=secret#",
            "http://a..test/?token=secret",
        ] {
            let refusal = get(target).unwrap_err();
            assert!(!format!("{refusal:?}").contains("secret"), "{refusal:?}");
        }
    }

    /// The process' own log and `why` tell what is refused.
    #[test]
    fn nor_is_what_is_secret_elsewhere() {
        for target in [
            "/pc_abcdefghijklmnopqrstuvwxSECRET/%2e%2e%2f",
            "/reset/eyJhbGciOiJIUzI1NiJ9.e30.SECRET/%00",
            "/x;jsessionid=SECRET/%5c",
            "/token=SECRET/%5c",
            "http://user:SECRET@a.test/",
            "ftp://user:SECRET@a.test/",
            "user:SECRET@a.test",
        ] {
            let refusal = get(target).unwrap_err();
            assert!(!format!("{refusal:?}").contains("SECRET"), "{refusal:?}");
        }
    }

    #[test]
    fn a_target_has_a_longest() {
        let refusal = get(&format!("/{}", "a".repeat(LONGEST))).unwrap_err();
        assert_eq!(refusal.status, 431);
    }
}
