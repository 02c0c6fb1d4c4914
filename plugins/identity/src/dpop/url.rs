//! When two addresses are the same (RFC 9449, section 4.3: RFC 3986, sections 6.2.2 and 6.2.3).

use url::Url;

/// Scheme, host, port and path of an address in one spelling: lower-case host, no default port, no dot segments,
/// percent-encoding only where it is needed. Query and fragment are left out. `None` if it is not an http or https address,
/// or one that clients and servers could read differently.
pub fn normalised(text: &str) -> Option<String> {
    // The parser for browsers drops tabs and turns `\` into `/`; nothing honest has them.
    if !text.bytes().all(|b| b.is_ascii_graphic() && b != b'\\') {
        return None;
    }
    let url = Url::parse(text).ok()?;
    if !matches!(url.scheme(), "http" | "https") || !url.username().is_empty() || url.password().is_some() {
        return None;
    }
    let mut out = format!("{}://{}", url.scheme(), url.host_str()?);
    if let Some(port) = url.port() {
        out.push_str(&format!(":{port}"));
    }
    plain_escapes(url.path(), &mut out);
    Some(out)
}

/// A normalised address with one slash in its path wherever there are more.
pub(super) fn with_merged_slashes(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or_default();
    let mut out = format!("{scheme}://");
    for c in rest.chars() {
        if c != '/' || !out.ends_with('/') {
            out.push(c);
        }
    }
    out
}

/// Escapes of characters that need none are resolved, and the others are written in upper case.
fn plain_escapes(path: &str, out: &mut String) {
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let digits = rest.get(at + 1..at + 3).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        let Some(digits) = digits else {
            out.push('%');
            rest = &rest[at + 1..];
            continue;
        };
        match u8::from_str_radix(digits, 16) {
            Ok(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => out.push(char::from(byte)),
            _ => {
                out.push('%');
                out.push_str(&digits.to_ascii_uppercase());
            }
        }
        rest = &rest[at + 3..];
    }
    out.push_str(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_address_are_one() {
        for text in [
            "https://api.example.test/a~b",
            "HTTPS://API.example.test:443/a~b?x=1#y",
            "https://api.example.test/./a%7eb",
            "https://api.example.test/c/../a%7Eb",
        ] {
            assert_eq!(normalised(text).as_deref(), Some("https://api.example.test/a~b"), "{text}");
        }
        assert_eq!(normalised("http://[::1]:8080").as_deref(), Some("http://[::1]:8080/"));
    }

    #[test]
    fn slashes_are_merged_in_the_path_alone() {
        for (url, expected) in [
            ("https://a.test//b///c/", "https://a.test/b/c/"),
            ("https://a.test/", "https://a.test/"),
            ("http://a.test:1//", "http://a.test:1/"),
        ] {
            assert_eq!(with_merged_slashes(url), expected);
        }
    }

    #[test]
    fn different_addresses_stay_different() {
        let one = normalised("https://a.test/x%2fy");
        assert_eq!(one.as_deref(), Some("https://a.test/x%2Fy"));
        for text in [
            "https://a.test/x/y",
            "http://a.test/x%2fy",
            "https://a.test:8443/x%2fy",
            "https://b.test/x%2fy",
            "https://a.test/X%2fy",
        ] {
            assert_ne!(normalised(text), one, "{text}");
        }
        for text in [
            "",
            "/x",
            "a.test/x",
            "ftp://a.test/",
            "https://u@a.test/",
            "https://a.test/\\x",
            "https://a.test/ ",
            "https:///",
            "https://a\t.test/",
        ] {
            assert_eq!(normalised(text).filter(|url| url != "https://x/"), None, "{text}");
        }
    }
}
