//! The host: one spelling for every way to write it.
//!
//! What servers disagree on is refused: user information, spaces, percent-encoding, more than one colon, empty labels.
//! What they agree on gets one spelling: lower case, IPv6 addresses as RFC 5952 writes them, and no dot at the end.
//! `example.com.` is the same DNS name as `example.com`, so it meets the same routes and rules.

use super::refusal::{Refusal, shown};
use portcullis_plugin::{Version, driver_text};
use std::net::Ipv6Addr;

/// The longest name that DNS knows, in text (RFC 1035, section 3.1).
const LONGEST_NAME: usize = 253;
const LONGEST_LABEL: usize = 63;

const EXPECTED: &str = "a host name of letters, digits, `-`, `_` and `.`, or an address, with or without a port from 1 to 65535";

/// `host[:port]` in its one spelling.
pub(crate) fn normalise(raw: &[u8]) -> Result<String, Refusal> {
    spell(raw).ok_or_else(|| {
        // What stands before an `@` may hold a password.
        let observed = if raw.contains(&b'@') { "host with user information".to_owned() } else { format!("host {}", shown(raw)) };
        Refusal::ambiguous(EXPECTED, observed)
    })
}

fn spell(raw: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(raw).ok()?;
    if is_spelling(raw) {
        return Some(driver_text(text));
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']')?;
        let address: Ipv6Addr = address.parse().ok()?;
        let port = if rest.is_empty() { None } else { Some(port(rest.strip_prefix(':')?)?) };
        return Some(match port {
            Some(port) => format!("[{address}]:{port}"),
            None => format!("[{address}]"),
        });
    }
    let (name, given_port) = match text.split_once(':') {
        Some((name, digits)) => (name, Some(port(digits)?)),
        None => (text, None),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.len() > LONGEST_NAME || !name.split('.').all(is_label) {
        return None;
    }
    let mut spelling = String::with_capacity(text.len());
    spelling.push_str(name);
    spelling.make_ascii_lowercase();
    if let Some(port) = given_port {
        spelling.push(':');
        spelling.push_str(itoa::Buffer::new().format(port));
    }
    Some(spelling)
}

/// Whether a name, with a port or without, is in its one spelling already, as nearly all are. What is in doubt is not.
fn is_spelling(raw: &[u8]) -> bool {
    let mut label = 0;
    for (at, b) in raw.iter().enumerate() {
        match b {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' if label < LONGEST_LABEL => label += 1,
            b'.' if label > 0 => label = 0,
            // What begins with a 6 may be too large: that is looked at below.
            b':' => {
                let port = raw.get(at + 1..).unwrap_or_default();
                let digits = matches!(port.len(), 1..=4) && port.iter().all(u8::is_ascii_digit) && port.first() != Some(&b'0');
                let five = port.len() == 5 && matches!(port.first(), Some(b'1'..=b'5')) && port.iter().all(u8::is_ascii_digit);
                return label > 0 && at <= LONGEST_NAME && (digits || five);
            }
            _ => return false,
        }
    }
    label > 0 && raw.len() <= LONGEST_NAME
}

fn is_label(label: &str) -> bool {
    // Names inside of networks do have underscores, so they pass.
    (1..=LONGEST_LABEL).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// Digits as everyone reads them: no sign, no leading zero.
fn port(digits: &str) -> Option<u16> {
    if digits.starts_with('0') || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// The one authority of a request that may name it in the target and in a field. Both must say the same.
pub(super) fn reconcile(target: Option<String>, field: Option<String>, version: Version) -> Result<String, Refusal> {
    match (target, field) {
        (Some(target), Some(field)) if target != field => Err(Refusal::ambiguous(
            "the same host in the target and in `Host`",
            format!("{} and {}", shown(target.as_bytes()), shown(field.as_bytes())),
        )),
        // RFC 9112, section 3.2: a request of HTTP/1.1 has the field, whatever its target says.
        (_, None) if version == Version::Http11 => Err(Refusal::ambiguous("one `Host`", "none")),
        (Some(authority), _) | (None, Some(authority)) => Ok(authority),
        (None, None) if version == Version::Http10 => Ok(String::new()),
        (None, None) => Err(Refusal::ambiguous("`:authority` or `host`", "neither")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_has_one_spelling() {
        for (raw, spelling) in [
            ("API.Example.COM", "api.example.com"),
            ("api.example.com.", "api.example.com"),
            ("api.example.com.:8080", "api.example.com:8080"),
            ("a_b-c", "a_b-c"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("a.b:59999", "a.b:59999"),
            ("a.b:65535", "a.b:65535"),
            ("a.b.:5", "a.b:5"),
            ("[::1]", "[::1]"),
            ("[0:0:0:0:0:0:0:1]:443", "[::1]:443"),
            ("[2001:DB8::A]", "[2001:db8::a]"),
        ] {
            assert_eq!(normalise(raw.as_bytes()).unwrap(), spelling, "{raw}");
            assert_eq!(normalise(spelling.as_bytes()).unwrap(), spelling, "{raw}");
        }
    }

    #[test]
    fn what_servers_disagree_on_is_refused() {
        for raw in [
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "a..",
            "a b",
            "a/b",
            "a?b",
            "a#b",
            "a\\b",
            "u@a",
            "u:p@a",
            "a:",
            "a:0",
            "a:080",
            "a:+80",
            "a:65536",
            "a:80:80",
            "a:x",
            "a,b",
            "a%2eb",
            "::1",
            "[::1",
            "[::1]x",
            "[::1]:",
            "[fe80::1%25eth0]",
            "[v1.a]",
            "[1.2.3.4]",
            "a\u{e4}",
            "a\0",
            "a\t",
            "*.a",
        ] {
            assert!(normalise(raw.as_bytes()).is_err(), "{raw:?}");
        }
        assert!(normalise(b"a\xff").is_err());
        assert!(normalise("a".repeat(64).as_bytes()).is_err());
        assert!(normalise("a.".repeat(130).as_bytes()).is_err());
    }

    #[test]
    fn target_and_field_say_the_same() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(reconcile(some("a"), some("a"), Version::Http11).unwrap(), "a");
        assert!(reconcile(some("a"), some("b"), Version::Http11).is_err());
        assert!(reconcile(some("a:80"), some("a"), Version::Http11).is_err());
        assert!(reconcile(some("a"), None, Version::Http11).is_err());
        assert!(reconcile(None, None, Version::Http11).is_err());
        assert_eq!(reconcile(None, None, Version::Http10).unwrap(), "");
        assert_eq!(reconcile(some("a"), None, Version::Http2).unwrap(), "a");
        assert_eq!(reconcile(None, some("a"), Version::Http2).unwrap(), "a");
        assert!(reconcile(None, None, Version::Http2).is_err());
    }
}
