//! The header names that only the gateway may send to an upstream.
//!
//! What a client sent under such a name goes, on every route, before any filter runs. So does what an upstream could take
//! for it: another case, duplicates, and any punctuation in the place of `-`, because CGI-like servers turn all of it into
//! `_` (`X-User`, `x_user` and `X.User` are one variable there).

use portcullis_plugin::Headers;
use portcullis_plugin::headers::{FRAMING, Lengths};
use std::collections::HashSet;

/// A name up to this long is compared without allocating.
const SHORT: usize = 64;

/// The names, folded. Made once per configuration.
#[derive(Debug, Clone)]
pub struct OwnedHeaders {
    names: HashSet<Box<[u8]>, ahash::RandomState>,
    lengths: Lengths,
}

impl Default for OwnedHeaders {
    fn default() -> Self {
        Self { names: HashSet::default(), lengths: Lengths::NONE }
    }
}

fn fold(b: u8) -> u8 {
    if b.is_ascii_alphanumeric() { b.to_ascii_lowercase() } else { b'-' }
}

impl OwnedHeaders {
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        let mut owned = Self::default();
        // What frames a message is the driver's, whoever claims it.
        for name in names.into_iter().filter(|name| !FRAMING.contains(&&*name.to_ascii_lowercase())) {
            owned.lengths = owned.lengths.and(name.len());
            owned.names.insert(name.bytes().map(fold).collect());
        }
        owned
    }

    /// Removes every field with an owned name or a look-alike of one, and says how many there were.
    pub fn strip(&self, headers: &mut Headers) -> usize {
        if self.lengths == Lengths::NONE {
            return 0;
        }
        let before = headers.len();
        headers.driver_strip(self.lengths, |name| self.owns_bytes(name));
        before - headers.len()
    }

    /// Whether a field of that name would be stripped.
    pub fn owns(&self, name: &str) -> bool {
        self.owns_bytes(name.as_bytes())
    }

    fn owns_bytes(&self, name: &[u8]) -> bool {
        if !self.lengths.has(name.len()) {
            return false;
        }
        let mut short = [0u8; SHORT];
        match short.get_mut(..name.len()) {
            Some(folded) => {
                folded.iter_mut().zip(name).for_each(|(to, from)| *to = fold(*from));
                self.names.contains(&*folded)
            }
            None => self.names.contains(name.iter().map(|b| fold(*b)).collect::<Vec<_>>().as_slice()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strip(names: &[&str], fields: &[(&str, &[u8])]) -> (usize, Vec<String>) {
        let mut headers = Headers::new();
        for (name, value) in fields {
            headers.append(name, value).unwrap();
        }
        let stripped = OwnedHeaders::new(names.iter().map(|name| (*name).to_owned())).strip(&mut headers);
        (stripped, headers.iter().map(|(name, _)| name.to_owned()).collect())
    }

    #[test]
    fn every_spelling_goes() {
        let fields: Vec<(&str, &[u8])> =
            ["X-User-Id", "x-user-id", "X_USER_ID", "x-user_id", "X.User.Id", "x~user+id", "X-User-Id"]
                .map(|name| (name, &b"admin"[..]))
                .into_iter()
                .chain([("X-User", &b"stays"[..]), ("X-User-Ids", b"stays"), ("XUserId", b"stays")])
                .collect();
        let (stripped, left) = strip(&["X-User-Id"], &fields);
        assert_eq!(stripped, 7);
        assert_eq!(left, ["X-User", "X-User-Ids", "XUserId"]);
    }

    #[test]
    fn an_owner_with_underscores_owns_hyphens_too() {
        assert_eq!(strip(&["X_Roles"], &[("x-roles", b"a")]).0, 1);
    }

    #[test]
    fn value_bytes_do_not_save_a_field() {
        for value in [&b""[..], b"admin\xA0", b"\xff\xfe", b"a\tb", "\u{e9}".as_bytes()] {
            assert_eq!(strip(&["x-auth-role"], &[("X-Auth-Role", value)]).0, 1, "{value:?}");
        }
    }

    #[test]
    fn long_names_are_compared_in_full() {
        let long = "x-".to_owned() + &"a".repeat(100);
        let longer = long.clone() + "b";
        let (stripped, left) = strip(&[&long], &[(&long.to_uppercase(), b"1"), (&longer, b"2")]);
        assert_eq!((stripped, left), (1, vec![longer]));
    }

    #[test]
    fn nothing_owned_strips_nothing() {
        assert_eq!(strip(&[], &[("x-user", b"a")]).0, 0);
    }
}
