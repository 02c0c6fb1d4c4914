//! Which certificate serves which server name.

use std::collections::HashMap;

/// A DNS name of a certificate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Name {
    /// Lower-case.
    Exact(String),
    /// What follows `*.`, lower-case.
    Wildcard(String),
}

impl Name {
    /// `None` for what no server name can match: an empty one, or a `*` anywhere but as the whole first label.
    pub(super) fn new(text: &str) -> Option<Self> {
        let lower = text.to_ascii_lowercase();
        let (wildcard, plain) = match lower.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, lower.as_str()),
        };
        let label =
            |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        // A wildcard right below the root would be for everybody's names.
        if !plain.split('.').all(label) || (wildcard && !plain.contains('.')) {
            return None;
        }
        Some(if wildcard { Self::Wildcard(plain.to_owned()) } else { Self::Exact(plain.to_owned()) })
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(rest) => write!(f, "*.{rest}"),
        }
    }
}

/// From names to certificates, by their index.
#[derive(Debug, Default)]
pub(super) struct NameMap {
    exact: HashMap<String, usize>,
    wildcard: HashMap<String, usize>,
}

impl NameMap {
    /// The certificate that has the name already, if one has.
    pub(super) fn insert(&mut self, name: &Name, certificate: usize) -> Option<usize> {
        let (map, key) = match name {
            Name::Exact(key) => (&mut self.exact, key),
            Name::Wildcard(key) => (&mut self.wildcard, key),
        };
        let holder = *map.entry(key.clone()).or_insert(certificate);
        (holder != certificate).then_some(holder)
    }

    /// The exact name first, then a wildcard for exactly the first label (RFC 6125, 6.4.3), then the first certificate.
    pub(super) fn find(&self, server_name: &str) -> usize {
        let lower;
        let name = if server_name.bytes().any(|b| b.is_ascii_uppercase()) {
            lower = server_name.to_ascii_lowercase();
            &lower
        } else {
            server_name
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        let wildcard = || name.split_once('.').and_then(|(_, rest)| self.wildcard.get(rest));
        self.exact.get(name).or_else(wildcard).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_before_wildcard_before_the_first() {
        let mut map = NameMap::default();
        for (name, certificate) in [("example.com", 1), ("*.example.com", 2), ("api.example.com", 3)] {
            assert_eq!(map.insert(&Name::new(name).unwrap(), certificate), None);
        }
        for (name, certificate) in [
            ("example.com", 1),
            ("EXAMPLE.com", 1),
            ("www.example.com", 2),
            ("api.example.com", 3),
            ("api.example.com.", 3),
            ("a.b.example.com", 0),
            ("badexample.com", 0),
            ("com", 0),
            (".example.com", 2),
            ("", 0),
        ] {
            assert_eq!(map.find(name), certificate, "{name}");
        }
        assert_eq!(map.insert(&Name::new("*.EXAMPLE.com").unwrap(), 4), Some(2));
    }

    #[test]
    fn odd_names_are_no_names() {
        for name in ["", "*", "*.com", "*.", "a*.example.com", "a.*.com", "*.*.com", "a..b", ".a.b", "a b.c", "a.b/"] {
            assert_eq!(Name::new(name), None, "{name}");
        }
        assert_eq!(Name::new("*.Example.com").unwrap().to_string(), "*.example.com");
    }
}
