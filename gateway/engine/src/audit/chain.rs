//! What makes a chain of records: each holds its number, the hash of the one before, and its own.
//!
//! A record is one line of JSON. It begins with `seq` and `prev` and ends with `hash`, always in this spelling, and the
//! hash is over the bytes of the line before `,"hash"`. So there is one reading of what was sealed, and any tool that can
//! hash bytes can check it.

use aws_lc_rs::{constant_time, digest, hmac};
use portcullis_plugin::{ConfigError, Env};
use std::fmt;
use std::io::Write;
use std::path::Path;

/// What `hash` and `prev` hold, as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Hash([u8; 32]);

impl Hash {
    /// Of 64 lower-case hexadecimal digits, as a record has them.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let digit = |b: u8| match b {
            b'0'..=b'9' => Some(b - b'0'),
            b'a'..=b'f' => Some(b - b'a' + 10),
            _ => None,
        };
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?;
        }
        Some(Self(bytes))
    }

    /// SHA-256.
    pub fn of(bytes: &[u8]) -> Self {
        Self::from(digest::digest(&digest::SHA256, bytes).as_ref())
    }

    fn from(bytes: &[u8]) -> Self {
        let mut hash = [0; 32];
        hash.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        Self(hash)
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The last record of a chain. Before the first: number 0, and a hash of zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Head {
    pub seq: u64,
    pub hash: Hash,
}

/// How records are sealed: SHA-256, or HMAC-SHA256 with a key.
#[derive(Clone, Default)]
pub struct Seal(Option<hmac::Key>);

/// Characters of a key: fewer can be guessed.
const MIN_KEY: usize = 32;

impl Seal {
    /// With the key in the first line of a file.
    ///
    /// # Errors
    /// If there is none. The error never shows the line.
    pub fn read(path: &str, env: &Env) -> Result<Self, ConfigError> {
        Self::parse(&env.read(path)?).map_err(ConfigError::from)
    }

    /// As [`read`](Self::read), for a command.
    ///
    /// # Errors
    /// If the file cannot be read, or holds no key.
    pub fn read_file(path: &Path) -> Result<Self, String> {
        let content = std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        Self::parse(&content).map_err(|error| format!("{}: {error}", path.display()))
    }

    fn parse(content: &[u8]) -> Result<Self, BadKey> {
        let line = content.split(|b| *b == b'\n').next().unwrap_or_default().trim_ascii();
        if line.len() < MIN_KEY || !line.iter().all(u8::is_ascii_graphic) {
            return Err(BadKey);
        }
        Ok(Self(Some(hmac::Key::new(hmac::HMAC_SHA256, line))))
    }

    pub fn is_keyed(&self) -> bool {
        self.0.is_some()
    }

    /// Whether both seal alike.
    pub fn is(&self, other: &Self) -> bool {
        constant_time::verify_slices_are_equal(&self.hash(b"same key").0, &other.hash(b"same key").0).is_ok()
    }

    fn hash(&self, bytes: &[u8]) -> Hash {
        match &self.0 {
            Some(key) => Hash::from(hmac::sign(key, bytes).as_ref()),
            None => Hash::of(bytes),
        }
    }

    /// Appends the record that follows `head`, with its line feed. `members` are those between `prev` and `hash`.
    pub(super) fn append(&self, head: Head, members: &[u8], out: &mut Vec<u8>) -> Head {
        let (start, seq) = (out.len(), head.seq + 1);
        // Writing to memory cannot fail.
        let _ = write!(out, "{{\"seq\":{seq},\"prev\":\"{}\",", head.hash);
        out.extend_from_slice(members);
        let hash = self.hash(out.get(start..).unwrap_or_default());
        let _ = writeln!(out, ",\"hash\":\"{hash}\"}}");
        Head { seq, hash }
    }

    /// Takes a line apart, which comes without its line feed.
    pub(super) fn read_line(&self, line: &[u8]) -> Option<Link> {
        let text = std::str::from_utf8(line).ok()?;
        let rest = text.strip_prefix("{\"seq\":")?;
        let (seq, rest) = rest.split_once(",\"prev\":\"")?;
        // One spelling only.
        let seq = seq.parse().ok().filter(|number: &u64| number.to_string() == seq)?;
        let prev = Hash::parse(rest.get(..64)?)?;
        rest.get(64..)?.strip_prefix("\",")?;
        let sealed = text.len().checked_sub(TAIL)?;
        let hash = Hash::parse(text.get(sealed..)?.strip_prefix(",\"hash\":\"")?.strip_suffix("\"}")?)?;
        let holds = constant_time::verify_slices_are_equal(&self.hash(line.get(..sealed)?).0, &hash.0).is_ok();
        Some(Link { seq, prev, hash, holds })
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_keyed() { "HMAC-SHA256(..)" } else { "SHA-256" })
    }
}

/// Bytes of `,"hash":"…"}`.
const TAIL: usize = 9 + 64 + 2;

/// One line, as far as the chain is concerned.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    pub(super) seq: u64,
    pub(super) prev: Hash,
    pub(super) hash: Hash,
    /// Whether the hash is that of the line.
    pub(super) holds: bool,
}

impl Link {
    pub(super) fn head(self) -> Head {
        Head { seq: self.seq, hash: self.hash }
    }

    pub(super) fn follows(self, head: Head) -> bool {
        self.holds && self.seq == head.seq + 1 && self.prev == head.hash
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the first line is no key: it has at least {MIN_KEY} visible ASCII characters; make one with `openssl rand -hex 32`")]
struct BadKey;

impl From<BadKey> for ConfigError {
    fn from(error: BadKey) -> Self {
        ConfigError::new(error.to_string())
    }
}
