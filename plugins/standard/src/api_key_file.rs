//! The file of API keys: one key a line, of which only the SHA-256 is stored.
//!
//! ```text
//! # id       SHA-256 of the key        and what it stands for
//! billing-1  sha256:5e88…64 digits…d8  owner=billing scopes=orders:read,orders:write roles=batch expires=2027-01-31T00:00:00Z
//! ```
//!
//! Why SHA-256, and not bcrypt or Argon2: those are slow so that guessing the few bits of a password takes long. A key is
//! random and has 128 bits or more, which nobody guesses at any speed; a slow hash would only let a client spend our time.
//! That holds for random keys alone, so a short key is refused when it is made and, whatever the file says, when it is
//! presented.

use aws_lc_rs::digest::{SHA256, digest};
use portcullis_plugin::Principal;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::SystemTime;
use subtle::ConstantTimeEq;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Characters of a key: 32 hexadecimal digits are 128 bits.
pub const MIN_LENGTH: usize = 32;
pub const MAX_LENGTH: usize = 256;

/// The SHA-256 of a key.
///
/// It is looked up in a hash table, with a secret seed, and compared in constant time. Even a comparison that leaked where
/// two digests differ would tell nothing of use: a client cannot choose a key so that its digest begins in a wanted way.
#[derive(Clone, Copy, Eq)]
pub(crate) struct KeyDigest([u8; 32]);

impl PartialEq for KeyDigest {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Hash for KeyDigest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

/// Why a text cannot be an API key. It does not say what the text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyTextError {
    #[error("shorter than {MIN_LENGTH} characters")]
    Short,
    #[error("longer than {MAX_LENGTH} characters")]
    Long,
    #[error("characters that are no visible ASCII")]
    Characters,
    #[error("too few different characters to be random")]
    NotRandom,
}

impl KeyDigest {
    pub(crate) fn of(key: &[u8]) -> Result<Self, KeyTextError> {
        match key.len() {
            length if length < MIN_LENGTH => return Err(KeyTextError::Short),
            length if length > MAX_LENGTH => return Err(KeyTextError::Long),
            _ => {}
        }
        if !key.iter().all(u8::is_ascii_graphic) {
            return Err(KeyTextError::Characters);
        }
        let mut bytes = [0; 32];
        // SHA-256 has 32 bytes; were it not so, no key would match.
        bytes.iter_mut().zip(digest(&SHA256, key).as_ref()).for_each(|(to, from)| *to = *from);
        Ok(Self(bytes))
    }

    fn parse(hex: &str) -> Option<Self> {
        let (pairs, []) = hex.as_bytes().as_chunks::<2>() else { return None };
        let digit = |b: u8| char::from(b).to_digit(16);
        let bytes: Option<Vec<u8>> =
            pairs.iter().map(|[high, low]| u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()).collect();
        bytes?.try_into().ok().map(Self)
    }
}

/// The hash of a new key as a line of the file has it, `sha256:…`. For tools that make keys.
///
/// # Errors
/// If the key is too short or too plain to be random, or could not be sent in a header.
pub fn hash(key: &str) -> Result<String, KeyTextError> {
    let KeyDigest(bytes) = KeyDigest::of(key.as_bytes())?;
    let mut seen = [false; 256];
    key.bytes().for_each(|b| seen.iter_mut().skip(usize::from(b)).take(1).for_each(|seen| *seen = true));
    // Of 32 random hexadecimal digits, fewer than 6 different ones come once in about 10^13 keys.
    if seen.iter().filter(|seen| **seen).count() < 6 {
        return Err(KeyTextError::NotRandom);
    }
    Ok(bytes.iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}")))
}

/// What a key stands for.
pub(crate) struct Key {
    pub(crate) principal: Arc<Principal>,
    pub(crate) expires: Option<SystemTime>,
}

/// All keys of a file. An empty one is a file whose last key was revoked, and lets nobody pass.
pub(crate) struct Keys(HashMap<KeyDigest, Key, ahash::RandomState>);

impl Keys {
    pub(crate) fn get(&self, digest: &KeyDigest) -> Option<&Key> {
        self.0.get(digest)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// A line that cannot be read makes the whole file unusable: it may be the one that limits a key.
    ///
    /// # Errors
    /// The number of the line, and what is wrong with it, without the hash.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, (usize, String)> {
        let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
        let mut keys = HashMap::with_hasher(ahash::RandomState::new());
        let mut ids: HashMap<String, usize> = HashMap::new();
        let mut lines: HashMap<KeyDigest, usize> = HashMap::new();
        for (line, text) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
            let text = std::str::from_utf8(text).map_err(|_| (line, "the line is not UTF-8 text".to_owned()))?.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let (id, digest, key) = parse_line(text).map_err(|problem| (line, problem))?;
            if let Some(other) = ids.insert(id.to_owned(), line) {
                return Err((line, format!("the id `{id}` is that of line {other} too")));
            }
            if let Some(other) = lines.insert(digest, line) {
                return Err((line, format!("the key is that of line {other} too")));
            }
            keys.insert(digest, key);
        }
        Ok(Self(keys))
    }
}

fn parse_line(text: &str) -> Result<(&str, KeyDigest, Key), String> {
    let mut words = text.split_ascii_whitespace();
    let id = words.next().unwrap_or_default();
    check_word("id", id)?;
    let digest = words
        .next()
        .and_then(|word| word.strip_prefix("sha256:"))
        .and_then(KeyDigest::parse)
        .ok_or("the second word is not `sha256:` and 64 hexadecimal digits; the key itself does not belong here")?;
    let (mut owner, mut scopes, mut roles, mut expires) = (None, None, None, None);
    for word in words {
        let (name, value) = word.split_once('=').ok_or("a word after the hash is not `name=value`")?;
        let twice = match name {
            "owner" => {
                check_word("owner", value)?;
                owner.replace(value).is_some()
            }
            "scopes" => scopes.replace(list(name, value)?).is_some(),
            "roles" => roles.replace(list(name, value)?).is_some(),
            "expires" => {
                let time = OffsetDateTime::parse(value, &Rfc3339)
                    .map_err(|_| format!("`{value}` is no time such as 2027-01-31T00:00:00Z (RFC 3339)"))?;
                expires.replace(SystemTime::from(time)).is_some()
            }
            _ => return Err("a name after the hash is not one of owner, scopes, roles, expires".to_owned()),
        };
        if twice {
            return Err(format!("`{name}` is given twice"));
        }
    }
    let owner = owner.ok_or("`owner=` is missing: somebody must answer for a key")?;
    let mut principal = Principal::new("api_key", format!("{owner}/{id}"));
    principal.client_id = Some(owner.into());
    principal.scopes = scopes.unwrap_or_default();
    principal.roles = roles.unwrap_or_default();
    principal.expires_at = expires;
    let claims = [("owner", owner), ("key_id", id)].map(|(name, value)| (name.to_owned(), Value::from(value)));
    principal.claims = Arc::new(Map::from_iter(claims));
    Ok((id, digest, Key { principal: Arc::new(principal), expires }))
}

/// Ids and owners make up the subject, `owner/id`, so that neither may hold the slash.
pub(crate) fn check_word(what: &str, word: &str) -> Result<(), String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'@');
    // Whoever writes a key where its id belongs must not read it in a log.
    match !word.is_empty() && word.len() <= 64 && word.bytes().all(good) {
        true => Ok(()),
        false => Err(format!("the {what} is not 1 to 64 letters, digits, -, _, . or @")),
    }
}

pub(crate) fn list(name: &str, value: &str) -> Result<Vec<Arc<str>>, String> {
    // RFC 6749, section 3.3, but for the comma that separates them here.
    let good = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
    value
        .split(',')
        .map(|item| match !item.is_empty() && item.bytes().all(good) {
            true => Ok(Arc::from(item)),
            false => Err(format!("`{name}` has an empty item, or one with characters it cannot have")),
        })
        .collect()
}
