//! How a configuration writes the names that a client certificate may carry, and how they are compared.
//!
//! Each kind of name has its own small language. Whatever would look like a pattern and not be one is refused when the
//! configuration is read.

use crate::text::{TextError, textual};
use std::fmt;
use std::str::FromStr;

/// A DNS name; a leading `*.` stands for exactly one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsPattern {
    /// Lower-case; without the `*` but with its dot, if there was one.
    name: String,
    wildcard: bool,
}

fn is_label(label: &str) -> bool {
    !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

fn is_dns_name(name: &str) -> bool {
    !name.is_empty() && name.split('.').all(is_label)
}

impl FromStr for DnsPattern {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let (name, wildcard) = match text.strip_prefix("*.") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        if !is_dns_name(name) {
            return Err(TextError::new(format!(
                "`{text}` is not a DNS name; write billing.partner.example or *.partner.example (one label, leftmost), and \
                 international names in their xn-- form"
            )));
        }
        let dot = if wildcard { "." } else { "" };
        Ok(Self { name: format!("{dot}{}", name.to_ascii_lowercase()), wildcard })
    }
}

impl DnsPattern {
    pub fn matches(&self, name: &str) -> bool {
        if !self.wildcard {
            return name.eq_ignore_ascii_case(&self.name);
        }
        let Some(at) = name.len().checked_sub(self.name.len()) else { return false };
        // A certificate's own `*` is not a label, nor is anything with a NUL or a space in it.
        name.is_char_boundary(at) && name[at..].eq_ignore_ascii_case(&self.name) && is_label(&name[..at])
    }
}

impl fmt::Display for DnsPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.wildcard { "*" } else { "" }, self.name)
    }
}

/// A mail address; `*@` stands for any mailbox of the domain. The mailbox is compared to the letter, the domain
/// without regard to case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmailPattern {
    /// `None` for any.
    mailbox: Option<String>,
    domain: String,
}

impl FromStr for EmailPattern {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let refuse =
            || TextError::new(format!("`{text}` is not a mail address; write billing@partner.example or *@partner.example"));
        let (mailbox, domain) = text.split_once('@').ok_or_else(refuse)?;
        if mailbox.is_empty() || (mailbox != "*" && mailbox.contains('*')) || !is_dns_name(domain) {
            return Err(refuse());
        }
        Ok(Self { mailbox: (mailbox != "*").then(|| mailbox.to_owned()), domain: domain.to_owned() })
    }
}

impl EmailPattern {
    pub fn matches(&self, address: &str) -> bool {
        match address.split_once('@') {
            Some((mailbox, domain)) => {
                domain.eq_ignore_ascii_case(&self.domain)
                    && !mailbox.is_empty()
                    && self.mailbox.as_ref().is_none_or(|expected| mailbox == expected)
            }
            None => false,
        }
    }
}

impl fmt::Display for EmailPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.mailbox.as_deref().unwrap_or("*"), self.domain)
    }
}

/// A URI, compared to the letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UriName(String);

impl FromStr for UriName {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let scheme = text.split_once(':').map_or("", |(scheme, _)| scheme);
        if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(TextError::new(format!("`{text}` is not a URI; write it with its scheme, as in the certificate")));
        }
        if text.contains('*') {
            return Err(TextError::new(format!(
                "`{text}` has a `*`, and URIs are compared to the letter; for SPIFFE ids, `spiffe_id` takes a trailing `/*`"
            )));
        }
        Ok(Self(text.to_owned()))
    }
}

impl UriName {
    pub fn matches(&self, uri: &str) -> bool {
        self.0 == uri
    }
}

impl fmt::Display for UriName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A SPIFFE id; a trailing `/*` stands for one or more path segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpiffePattern {
    /// With its last `/`, if there was a `*` after it.
    id: String,
    below: bool,
}

/// SPIFFE-ID, section 2: letters, digits, `.`, `-`, `_`; no `.` or `..`.
fn is_spiffe_path(path: &str) -> bool {
    let good = |segment: &str| {
        !matches!(segment, "" | "." | "..")
            && segment.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
    };
    path.split('/').all(good)
}

impl FromStr for SpiffePattern {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let (id, below) = match text.strip_suffix("/*") {
            Some(id) => (id, true),
            None => (text, false),
        };
        let refuse = || {
            TextError::new(format!(
                "`{text}` is not a SPIFFE id; write spiffe://domain/path, or spiffe://domain/path/* for all below it"
            ))
        };
        let rest = id.strip_prefix("spiffe://").ok_or_else(refuse)?;
        let domain = rest.split('/').next().unwrap_or_default();
        if !is_spiffe_path(rest) || domain.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(refuse());
        }
        Ok(Self { id: if below { format!("{id}/") } else { id.to_owned() }, below })
    }
}

impl SpiffePattern {
    pub fn matches(&self, id: &str) -> bool {
        if self.below { id.strip_prefix(&self.id).is_some_and(is_spiffe_path) } else { id == self.id }
    }
}

impl fmt::Display for SpiffePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.id, if self.below { "*" } else { "" })
    }
}

/// The SHA-256 of a DER certificate: 64 hexadecimal digits, with or without colons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint(String);

impl FromStr for Fingerprint {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let digits: String = text.chars().filter(|c| *c != ':').map(|c| c.to_ascii_lowercase()).collect();
        let colons = text.len() - text.replace(':', "").len();
        let pairs = text.split(':').all(|pair| pair.len() == 2);
        if digits.len() != 64 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) || !(colons == 0 || (colons == 31 && pairs)) {
            return Err(TextError::new(format!(
                "`{text}` is not a SHA-256 fingerprint; write 64 hexadecimal digits, with or without colons, as \
                 `openssl x509 -noout -fingerprint -sha256` prints them"
            )));
        }
        Ok(Self(digits))
    }
}

impl Fingerprint {
    pub fn matches(&self, sha256: &str) -> bool {
        self.0 == sha256
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A distinguished name as RFC 4514 writes it, most specific part first: `CN=billing,O=Partner,C=DE`. The value `*`
/// stands for any one value of that attribute; a star itself is written `\2A`. Blanks around commas do not matter,
/// nor does the case of attribute names; values are compared to the letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnPattern {
    text: String,
    parts: Vec<DnPart>,
}

/// One attribute, and what separates it from the next: `+` within a relative name, `,` between two.
#[derive(Debug, Clone, PartialEq, Eq)]
struct DnPart {
    name: String,
    value: Vec<u8>,
    form: Form,
    joined: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    /// `#` and the DER in hexadecimal: not the same as a text that begins with `#`.
    Der,
    /// A bare `*`.
    Any,
}

impl FromStr for DnPattern {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let parts = parse_dn(text).filter(|parts| !parts.is_empty()).ok_or_else(|| {
            TextError::new(format!(
                "`{text}` is not a distinguished name; write CN=billing,O=Partner,C=DE as in RFC 4514, most specific part first"
            ))
        })?;
        Ok(Self { text: text.to_owned(), parts })
    }
}

impl DnPattern {
    pub fn matches(&self, dn: &str) -> bool {
        let Some(parts) = parse_dn(dn) else { return false };
        parts.len() == self.parts.len()
            && self.parts.iter().zip(&parts).all(|(pattern, part)| {
                pattern.name == part.name
                    && pattern.joined == part.joined
                    && match pattern.form {
                        Form::Any => !part.value.is_empty(),
                        form => form == part.form && pattern.value == part.value,
                    }
            })
    }
}

impl fmt::Display for DnPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// `None` if it is not RFC 4514. Escapes are undone, so that `\,` and `\2C` are the same and no value can pose as two.
fn parse_dn(text: &str) -> Option<Vec<DnPart>> {
    let mut parts = Vec::new();
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        let equals = rest.iter().position(|b| *b == b'=')?;
        let name = std::str::from_utf8(rest.get(..equals)?).ok()?.trim_matches(' ').to_ascii_uppercase();
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.') {
            return None;
        }
        let (value, form, end) = parse_dn_value(rest.get(equals + 1..)?)?;
        let separator = rest.get(equals + 1 + end).copied();
        rest = rest.get(equals + 2 + end..).unwrap_or_default();
        if separator.is_some() && rest.is_empty() {
            return None;
        }
        parts.push(DnPart { name, value, form, joined: separator == Some(b'+') });
    }
    Some(parts)
}

/// The value at the beginning of `text`, its form, and where it ends.
fn parse_dn_value(text: &[u8]) -> Option<(Vec<u8>, Form, usize)> {
    let mut value = Vec::new();
    // Blanks at the end are the writer's, unless they are escaped.
    let (mut at, mut keep) = (text.iter().take_while(|b| **b == b' ').count(), 0);
    let start = at;
    while let Some(byte) = text.get(at).copied() {
        match byte {
            b',' | b'+' | b';' => break,
            b'"' | b'<' | b'>' => return None,
            b'\\' => {
                let (first, second) = (*text.get(at + 1)?, text.get(at + 2).copied());
                let hex = |b: u8| (b as char).to_digit(16);
                match (hex(first), second.and_then(hex)) {
                    (Some(high), Some(low)) => {
                        value.push((high * 16 + low) as u8);
                        at += 3;
                    }
                    _ if first.is_ascii_punctuation() || first == b' ' => {
                        value.push(first);
                        at += 2;
                    }
                    _ => return None,
                }
                keep = value.len();
            }
            _ => {
                value.push(byte);
                at += 1;
                if byte != b' ' {
                    keep = value.len();
                }
            }
        }
    }
    value.truncate(keep);
    let form = match text.get(start..at).unwrap_or_default().trim_ascii_end() {
        b"*" => Form::Any,
        [b'#', ..] => Form::Der,
        _ => Form::Text,
    };
    // A semicolon separated names before RFC 4514, and means something else to other readers.
    (text.get(at) != Some(&b';')).then_some((value, form, at))
}

textual!(DnsPattern, "A DNS name; a leading `*.` stands for exactly one label.");
textual!(EmailPattern, "A mail address; `*@` stands for any mailbox of the domain.");
textual!(UriName, "A URI, compared to the letter.");
textual!(SpiffePattern, "A SPIFFE id; a trailing `/*` stands for one or more path segments.");
textual!(Fingerprint, "SHA-256 of the DER certificate: 64 hexadecimal digits, with or without colons.");
textual!(
    DnPattern,
    "A distinguished name as RFC 4514 writes it, most specific part first; the value `*` stands for any one value."
);

#[cfg(test)]
mod tests {
    use super::*;

    fn matches<P: FromStr<Err = TextError>>(test: fn(&P, &str) -> bool, pattern: &str, name: &str) -> bool {
        test(&pattern.parse().unwrap_or_else(|error| panic!("{error}")), name)
    }

    #[test]
    fn a_wildcard_is_one_whole_label() {
        let dns = |pattern, name| matches(DnsPattern::matches, pattern, name);
        assert!(dns("*.partner.example", "a.partner.example") && dns("*.Partner.example", "A.partner.EXAMPLE"));
        for name in [
            "partner.example",
            ".partner.example",
            "a.b.partner.example",
            "*.partner.example",
            "apartner.example",
            "a.partner.example.evil.test",
            "a.partner.example.",
            "evil.test\0.partner.example",
            "é.partner.example",
            "",
        ] {
            assert!(!dns("*.partner.example", name), "{name}");
        }
        assert!(dns("a.partner.example", "A.Partner.Example") && !dns("a.partner.example", "b.partner.example"));
    }

    #[test]
    fn what_looks_like_a_pattern_and_is_none_is_refused() {
        for text in
            ["", "*", "*.", "a.*.example", "a*.example", "*.*.example", "*a.example", "a..b", "https://a.b", "bücher.example"]
        {
            assert!(text.parse::<DnsPattern>().is_err(), "{text}");
        }
        for text in ["", "a", "@b.example", "a*@b.example", "a@*.example", "a@"] {
            assert!(text.parse::<EmailPattern>().is_err(), "{text}");
        }
        for text in ["", "a/b", "https://a/*", "spiffe://*/x", "a b:c"] {
            assert!(text.parse::<UriName>().is_err(), "{text}");
        }
        for text in [
            "",
            "*",
            "spiffe://",
            "spiffe:///a",
            "spiffe://*",
            "spiffe://A/b",
            "spiffe://a/*/b",
            "spiffe://a/b*",
            "spiffe://a//b",
            "spiffe://a/../b",
        ] {
            assert!(text.parse::<SpiffePattern>().is_err(), "{text}");
        }
        for text in [
            "",
            "ab",
            &"ab".repeat(31),
            &"ag".repeat(32),
            &"a:b:".repeat(16),
            &format!("{}:{}", "ab".repeat(16), "ab".repeat(16)),
        ] {
            assert!(text.parse::<Fingerprint>().is_err(), "{text}");
        }
        for text in ["", "billing", "CN", "=x", "CN=a,", "CN=a,b", "CN=\"a\"", "CN=a;O=b", "CN=a\\", "CN=a\\x", "/CN=a/O=b"] {
            assert!(text.parse::<DnPattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn mail_addresses() {
        let email = |pattern, name| matches(EmailPattern::matches, pattern, name);
        assert!(email("a@Partner.example", "a@partner.EXAMPLE") && email("*@partner.example", "any@partner.example"));
        assert!(!email("a@partner.example", "A@partner.example"), "mailboxes have case");
        for name in ["a@evil.test", "a@b@partner.example", "@partner.example", "partner.example", "a@sub.partner.example"] {
            assert!(!email("*@partner.example", name), "{name}");
        }
    }

    #[test]
    fn spiffe_ids_below_a_path() {
        let spiffe = |pattern, name| matches(SpiffePattern::matches, pattern, name);
        assert!(spiffe("spiffe://td/ns/prod/*", "spiffe://td/ns/prod/sa/billing") && spiffe("spiffe://td/*", "spiffe://td/a"));
        for name in [
            "spiffe://td/ns/prod",
            "spiffe://td/ns/prod/",
            "spiffe://td/ns/production/x",
            "spiffe://td/ns/prod/../x",
            "spiffe://td.evil/ns/prod/x",
            "spiffe://td/ns/prod/a?b",
        ] {
            assert!(!spiffe("spiffe://td/ns/prod/*", name), "{name}");
        }
        assert!(!spiffe("spiffe://td/a", "spiffe://td/a/b") && spiffe("spiffe://td/a", "spiffe://td/a"));
    }

    #[test]
    fn fingerprints_as_tools_print_them() {
        let plain = "ab".repeat(32);
        let colons = vec!["AB"; 32].join(":");
        for text in [&plain, &colons, &plain.to_uppercase()] {
            assert!(matches(Fingerprint::matches, text, &plain), "{text}");
        }
    }

    #[test]
    fn distinguished_names() {
        let dn = |pattern, name| matches(DnPattern::matches, pattern, name);
        assert!(dn("CN=billing, O=Partner, C=DE", "CN=billing,O=Partner,C=DE"));
        assert!(dn("cn=billing,o=Partner\\2c Inc.", "CN=billing,O=Partner\\, Inc."));
        assert!(
            dn("CN=*,O=Partner", "CN=anyone\\, at all,O=Partner") && dn("CN=\\2A", "CN=\\2A") && dn("CN=a+UID=7", "CN=a+UID=7")
        );
        assert!(dn("CN=a b ", "CN=a b") && !dn("CN=a", "CN=a\\ "));
        for (pattern, name) in [
            ("CN=billing,O=Partner", "CN=billing,O=Partner,C=DE"),
            ("CN=billing,O=Partner", "O=Partner,CN=billing"),
            ("CN=billing,O=Partner", "CN=billing\\,O=Partner"),
            ("CN=billing,O=Partner", "CN=billing+O=Partner"),
            ("CN=billing", "CN=Billing"),
            ("CN=*,O=Partner", "CN=x\\,O=Partner"),
            ("CN=*,O=Partner", "CN=,O=Partner"),
            ("CN=*", "CN=a,O=b"),
            ("CN=\\2A", "CN=a"),
            ("CN=#0401", "CN=\\#0401"),
            ("CN=\\#0401", "CN=#0401"),
            ("CN=a", ""),
        ] {
            assert!(!dn(pattern, name), "{pattern} against {name}");
        }
    }
}
