//! New API keys, and their lines for the file.
//!
//! A key is `pc_`, 43 characters of `0-9A-Za-z` (256 random bits) and a checksum of 6: scanners for secrets find it by
//! `pc_[0-9A-Za-z]{49}` and tell it from other text by the checksum, and somebody who has cut one off when copying it is
//! told so. The checksum is made of the first 32 bits of the SHA-256 of what stands before it, as six digits to base 62.

use crate::api_key_file::{KeyTextError, Keys, check_word, hash, list};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use std::time::SystemTime;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const PREFIX: &str = "pc_";
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// log2(62) * 43 > 256.
const RANDOM: usize = 43;
const CHECKSUM: usize = 6;

/// A key that nobody has seen yet. It has neither `Debug` nor `Display`, so that it ends up in no log.
pub struct NewKey(String);

impl NewKey {
    /// From the cryptographic generator, which the operating system seeds. `None` if that fails.
    pub fn random() -> Option<Self> {
        let mut text = PREFIX.to_owned();
        let mut bytes = [0; 64];
        while text.len() < PREFIX.len() + RANDOM {
            SystemRandom::new().fill(&mut bytes).ok()?;
            // 248 is four times 62: a rest would make some digits likelier.
            let digits = bytes.iter().filter(|byte| **byte < 248).map(|byte| digit(u32::from(*byte)));
            text.extend(digits.take(PREFIX.len() + RANDOM - text.len()));
        }
        let checksum = checksum(text.as_bytes());
        text.push_str(&checksum);
        Some(Self(text))
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

fn digit(number: u32) -> char {
    DIGITS.get((number % 62) as usize).map_or('0', |digit| char::from(*digit))
}

fn checksum(text: &[u8]) -> String {
    let mut rest = digest(&SHA256, text).as_ref().iter().take(4).fold(0_u32, |all, byte| all << 8 | u32::from(*byte));
    let mut digits = ['0'; CHECKSUM];
    for place in digits.iter_mut().rev() {
        *place = digit(rest);
        rest /= 62;
    }
    digits.iter().collect()
}

/// Whether it looks like a key of [`NewKey`], but for its checksum.
pub(crate) fn is_mistyped(key: &[u8]) -> bool {
    let Some(rest) = key.strip_prefix(PREFIX.as_bytes()).filter(|rest| rest.iter().all(u8::is_ascii_alphanumeric)) else {
        return false;
    };
    if rest.len() != RANDOM + CHECKSUM {
        return true;
    }
    key.split_at_checked(key.len() - CHECKSUM).is_none_or(|(body, end)| checksum(body).as_bytes() != end)
}

/// What a line of the file says of a key, beside its hash.
#[derive(Debug, Clone, Default)]
pub struct Entry {
    /// Default: of the hash's first digits, so that the same key has the same.
    pub id: Option<String>,
    pub owner: String,
    pub scopes: Vec<String>,
    pub roles: Vec<String>,
    /// To the second.
    pub expires: Option<SystemTime>,
}

/// A line of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub id: String,
    pub expires: Option<String>,
    /// As the file has it, without a line break.
    pub text: String,
}

/// Why there is no line; it says nothing of the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoLine {
    #[error("this can be no API key: {0}")]
    Key(#[from] KeyTextError),
    #[error("it begins as keys made here do, and its checksum is wrong: it was cut off or mistyped")]
    Mistyped,
    #[error("{0}")]
    Entry(String),
}

impl Entry {
    /// The line of `key`, which the filter reads.
    ///
    /// # Errors
    /// If the key is none, or if something of the entry cannot stand in a line.
    pub fn line(&self, key: &str) -> Result<Line, NoLine> {
        if is_mistyped(key.as_bytes()) {
            return Err(NoLine::Mistyped);
        }
        let hash = hash(key)?;
        let digits: String = hash.trim_start_matches("sha256:").chars().take(12).collect();
        let id = self.id.clone().unwrap_or_else(|| format!("key-{digits}"));
        check_word("id", &id).map_err(NoLine::Entry)?;
        check_word("owner", &self.owner).map_err(NoLine::Entry)?;
        let mut text = format!("{id} {hash} owner={}", self.owner);
        for (name, items) in [("scopes", &self.scopes), ("roles", &self.roles)] {
            if !items.is_empty() {
                // One that holds a comma is two.
                let items = items.join(",");
                list(name, &items).map_err(NoLine::Entry)?;
                text.push_str(&format!(" {name}={items}"));
            }
        }
        let expires = self.expires.map(written).transpose()?;
        if let Some(expires) = &expires {
            text.push_str(&format!(" expires={expires}"));
        }
        // It is what the filter will do with it.
        Keys::parse(text.as_bytes()).map_err(|(_, problem)| NoLine::Entry(problem))?;
        Ok(Line { id, expires, text })
    }
}

fn written(expires: SystemTime) -> Result<String, NoLine> {
    let refuse = || NoLine::Entry("the key's end is beyond what can be written".to_owned());
    let seconds = expires.duration_since(SystemTime::UNIX_EPOCH).map_err(|_| refuse())?.as_secs();
    let time = i64::try_from(seconds).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    time.and_then(|time| time.format(&Rfc3339).ok()).ok_or_else(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api_key::ApiKey;
    use crate::test_support::{Call, Folder, now};
    use portcullis_plugin::{Filter, reason};
    use std::collections::HashSet;
    use std::time::Duration;

    fn entry() -> Entry {
        Entry {
            owner: "billing".into(),
            scopes: vec!["orders:read".into(), "orders:write".into()],
            roles: vec!["batch".into()],
            expires: Some(now() + Duration::from_millis(3_600_900)),
            ..Entry::default()
        }
    }

    #[test]
    fn a_new_keys_line_opens_the_door_to_it_and_says_what_it_stands_for() {
        let key = NewKey::random().unwrap();
        let line = entry().line(key.expose()).unwrap();
        assert!(!line.text.contains(key.expose()) && !line.text.contains('\n'));
        assert_eq!(line.expires.as_deref(), Some("2027-01-15T09:00:00Z"));
        let folder = Folder::new();
        folder.write("keys.txt", &line.text);
        let filter: ApiKey = folder.build("{ file: keys.txt }").unwrap();
        let mut call = Call::get("/").header("x-api-key", key.expose());
        assert!(call.run(&filter).is_continue());
        let principal = call.exchange.principal().unwrap();
        assert_eq!(*principal.subject, format!("billing/{}", line.id));
        assert_eq!((principal.scopes.len(), &*principal.roles[0]), (2, "batch"));
        let mut late = Call::get("/").header("x-api-key", key.expose()).at(now() + Duration::from_secs(3_600));
        assert_eq!(late.denied(&filter).reason(), reason::API_KEY_EXPIRED);
        assert_eq!(filter.needs().summary.as_deref(), Some("api_key(header x-api-key; 1 keys)"));
    }

    #[test]
    fn keys_have_a_form_that_scanners_know_and_none_comes_twice() {
        let mut seen = HashSet::new();
        for _ in 0..200 {
            let key = NewKey::random().unwrap();
            let text = key.expose();
            let rest = text.strip_prefix("pc_").unwrap();
            assert!(rest.len() == 49 && rest.bytes().all(|b| b.is_ascii_alphanumeric()), "{text}");
            assert!(!is_mistyped(text.as_bytes()));
            assert!(seen.insert(text.to_owned()));
        }
        let used: HashSet<char> = seen.iter().flat_map(|key| key.chars().skip(3).take(RANDOM)).collect();
        assert_eq!(used.len(), 62, "every digit occurs");
    }

    #[test]
    fn the_checksum_is_as_written_down() {
        // The first 32 bits of SHA-256("abc") are ba7816bf, 3128432319: to base 62 the digits 3 25 44 36 9 49.
        assert_eq!(checksum(b"abc"), "3Pia9n");
    }

    #[test]
    fn a_key_that_was_mistyped_gets_no_line_and_says_so() {
        let key = NewKey::random().unwrap();
        let text = key.expose();
        let other = if text.ends_with('0') { '1' } else { '0' };
        for bad in
            [&text[..51], &format!("{}{other}", &text[..51]), &format!("{text}0"), &text.to_uppercase().replace("PC_", "pc_")]
        {
            assert_eq!(entry().line(bad), Err(NoLine::Mistyped), "{bad}");
        }
        for other in ["pc_live-3f1c9a77d2e84b06a5d0c4e19b8f7263", "3f1c9a77d2e84b06a5d0c4e19b8f7263"] {
            assert!(entry().line(other).is_ok(), "a key of another make: {other}");
        }
        let folder = Folder::new();
        folder.write("keys.txt", "");
        let filter: ApiKey = folder.build("{ file: keys.txt }").unwrap();
        let mut call = Call::get("/").header("x-api-key", &text[..51]);
        call.denied(&filter);
        assert!(call.exchange.checks()[0].finding.observed.contains("checksum is wrong"));
        assert!(!format!("{:?}", call.exchange.checks()).contains(&text[..51]));
    }

    #[test]
    fn nothing_of_an_entry_can_become_another_word_or_line() {
        let key = "3f1c9a77d2e84b06a5d0c4e19b8f7263";
        let with = |change: fn(&mut Entry)| {
            let mut entry = entry();
            change(&mut entry);
            entry.line(key)
        };
        for (bad, says) in [
            (with(|entry| entry.owner = "a roles=admin".into()), "the owner is not"),
            (with(|entry| entry.owner = "a\nb".into()), "the owner is not"),
            (with(|entry| entry.owner = String::new()), "the owner is not"),
            (with(|entry| entry.id = Some("a b".into())), "the id is not"),
            (with(|entry| entry.id = Some("#a".into())), "the id is not"),
            (with(|entry| entry.scopes = vec!["a roles=admin".into()]), "`scopes` has"),
            (with(|entry| entry.scopes = vec![String::new()]), "`scopes` has"),
            (with(|entry| entry.roles = vec!["a\tb".into()]), "`roles` has"),
        ] {
            assert!(bad.as_ref().is_err_and(|error| error.to_string().starts_with(says)), "{bad:?}");
        }
        assert_eq!(entry().line("hunter2").unwrap_err().to_string(), "this can be no API key: shorter than 32 characters");
        assert_eq!(with(|entry| entry.id = Some("ci".into())).unwrap().id, "ci");
        assert_eq!(entry().line(key), entry().line(key), "the same key has the same line");
    }
}
