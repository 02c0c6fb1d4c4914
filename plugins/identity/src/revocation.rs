//! Tokens that this gateway was told are revoked, and refuses until their end.
//!
//! The rules, in the order of what they protect:
//!
//! 1. What was revoked stays so over reloads, whatever a reload changes. Nothing is pushed out by something newer: at the
//!    bound, whoever tells is told that it was not taken.
//! 2. Of a token only a digest is kept. Of a JWT it is the digest of what is signed, without the signature: an ECDSA
//!    signature has a second form that anybody can compute, and the token with it would be another text.
//! 3. As long as nothing is revoked, a request pays for one load of a number.

use crate::jose;
use aws_lc_rs::digest::{Context, SHA256};
use parking_lot::{Mutex, RwLock};
use portcullis_plugin::{ConfigError, Env};
use prometheus::{IntCounter, IntGauge};
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A token may be accepted for so long after its `exp`: the largest leeway, and a clock that is set back meanwhile.
const AFTER_THE_END: Duration = Duration::from_secs(1800);

/// No end lies later: beyond it, times cannot be computed with.
const LATEST: f64 = 253_402_300_799.0;

/// What somebody says is revoked.
#[derive(Clone, Copy)]
pub enum Revoked<'a> {
    /// A token as clients send it.
    Token(&'a str),
    /// The token of this issuer with this id, and when it ends, in seconds since 1970, if that is known.
    Id { issuer: &'a str, jti: &'a str, exp: Option<u64> },
}

impl fmt::Debug for Revoked<'_> {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(_) => f.write_str("Token(..)"),
            Self::Id { issuer, jti, .. } => write!(f, "Id({issuer:?}, {jti:?})"),
        }
    }
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Until when the token is refused.
    pub until: SystemTime,
    /// SHA-256 of what is remembered of the token, in hexadecimal digits: of a JWT what is signed, of another all but `=` at its
    /// end. Nothing for an id.
    pub sha256: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotRevoked {
    #[error("{0} revocations are remembered already, and none is forgotten before its time")]
    Full(usize),
    #[error("no issuer of the configuration is `{0}`, to the letter")]
    UnknownIssuer(String),
}

type Digest = [u8; 32];

/// Short, so that a look-up is over before it is noticed; the digest then says for certain.
type Print = u64;

struct Entry {
    digest: Digest,
    until: SystemTime,
}

/// What is remembered of revocations: one memory for all issuers, over reloads.
pub struct Revocations {
    tokens: Memory,
    ids: Memory,
    hasher: ahash::RandomState,
    /// One at a time tells: the bound holds for all of them.
    telling: Mutex<()>,
    /// Whether the configuration lets anybody tell.
    open: AtomicBool,
    metrics: Option<Metrics>,
}

struct Metrics {
    remembered: IntCounter,
    full: IntCounter,
    held: IntGauge,
}

const SHARDS: usize = 16;

#[derive(Default)]
struct Memory {
    count: AtomicUsize,
    shards: [RwLock<HashMap<Print, Vec<Entry>>>; SHARDS],
}

impl Revocations {
    pub(crate) fn new() -> Self {
        Self {
            tokens: Memory::default(),
            ids: Memory::default(),
            hasher: ahash::RandomState::new(),
            telling: Mutex::new(()),
            open: AtomicBool::new(false),
            metrics: None,
        }
    }

    pub(crate) fn counted(env: &Env) -> Result<Self, ConfigError> {
        let told = env.counter(
            "portcullis_revocations_total",
            "Revocations that this gateway was told of, by outcome (remembered, or full: not taken).",
            &["outcome"],
        )?;
        let held = env.gauge("portcullis_revocations", "Revocations that are remembered.", &[])?;
        let metrics = Metrics {
            remembered: told.with_label_values(&["remembered"]),
            full: told.with_label_values(&["full"]),
            held: held.with_label_values::<&str>(&[]),
        };
        Ok(Self { metrics: Some(metrics), ..Self::new() })
    }

    /// The configuration lets somebody tell: explanations then say that they do not know what a gateway was told.
    pub fn open(&self) {
        self.open.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// `keep`: how long to remember what has no end of its own. `known_end`: what else is known of the end.
    pub(crate) fn revoke(
        &self,
        revoked: Revoked<'_>,
        now: SystemTime,
        keep: Duration,
        known_end: Option<SystemTime>,
        most: usize,
    ) -> Result<Told, NotRevoked> {
        let kept = now.checked_add(keep).unwrap_or(now);
        let (memory, print, digest, until) = match revoked {
            Revoked::Token(token) => {
                let part = decisive(token);
                let until = end_of_jwt(token).unwrap_or_else(|| known_end.map_or(kept, |end| kept.max(end)));
                (&self.tokens, self.hasher.hash_one(part), digest(&[part]), until)
            }
            Revoked::Id { issuer, jti, exp } => {
                let until = exp.and_then(|exp| after_the_end(exp as f64)).unwrap_or(kept);
                (&self.ids, self.hasher.hash_one((issuer, jti)), digest(&[issuer, jti]), until)
            }
        };
        let sha256 = matches!(revoked, Revoked::Token(_)).then(|| digest.iter().map(|byte| format!("{byte:02x}")).collect());
        let told = Told { until, sha256 };
        // It has ended by itself.
        if until <= now {
            return Ok(told);
        }
        let _one = self.telling.lock();
        if self.held() >= most {
            self.tokens.forget(now);
            self.ids.forget(now);
        }
        let taken = memory.insert(print, Entry { digest, until }, self.held() < most);
        if let Some(metrics) = &self.metrics {
            if taken { &metrics.remembered } else { &metrics.full }.inc();
            metrics.held.set(i64::try_from(self.held()).unwrap_or(i64::MAX));
        }
        if taken { Ok(told) } else { Err(NotRevoked::Full(most)) }
    }

    /// Until when this token is refused, if it was revoked.
    pub(crate) fn of_token(&self, token: &str, now: SystemTime) -> Option<SystemTime> {
        if self.tokens.is_empty() {
            return None;
        }
        let part = decisive(token);
        self.tokens.find(self.hasher.hash_one(part), now, || digest(&[part]))
    }

    /// Whether an id is worth being looked for.
    pub(crate) fn has_ids(&self) -> bool {
        !self.ids.is_empty()
    }

    pub(crate) fn of_id(&self, issuer: &str, jti: &str, now: SystemTime) -> Option<SystemTime> {
        self.ids.find(self.hasher.hash_one((issuer, jti)), now, || digest(&[issuer, jti]))
    }

    fn held(&self) -> usize {
        self.tokens.count.load(Ordering::Acquire) + self.ids.count.load(Ordering::Acquire)
    }
}

impl Memory {
    fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    fn shard(&self, print: Print) -> Option<&RwLock<HashMap<Print, Vec<Entry>>>> {
        self.shards.get(print as usize % SHARDS)
    }

    fn find(&self, print: Print, now: SystemTime, digest: impl FnOnce() -> Digest) -> Option<SystemTime> {
        let shard = self.shard(print)?.read();
        let entries = shard.get(&print)?;
        let digest = digest();
        entries.iter().find(|entry| entry.digest == digest && now < entry.until).map(|entry| entry.until)
    }

    /// Says whether it is remembered now. With no `room`, only what was there already is.
    fn insert(&self, print: Print, new: Entry, room: bool) -> bool {
        let Some(shard) = self.shard(print) else { return false };
        let mut shard = shard.write();
        if let Some(known) = shard.get_mut(&print).and_then(|all| all.iter_mut().find(|known| known.digest == new.digest)) {
            known.until = known.until.max(new.until);
            return true;
        }
        if room {
            shard.entry(print).or_default().push(new);
            self.count.fetch_add(1, Ordering::AcqRel);
        }
        room
    }

    /// What has ended.
    fn forget(&self, now: SystemTime) {
        for shard in &self.shards {
            let mut gone = 0;
            shard.write().retain(|_, entries| {
                let before = entries.len();
                entries.retain(|entry| now < entry.until);
                gone += before - entries.len();
                !entries.is_empty()
            });
            self.count.fetch_sub(gone, Ordering::AcqRel);
        }
    }
}

/// The part of a token that nobody but its issuer can write. An issuer may read `t` and `t=` as the same.
fn decisive(token: &str) -> &str {
    match token.rsplit_once('.') {
        Some((signed, _)) if jose::is_like_a_jwt(token) => signed,
        _ => token.trim_end_matches('='),
    }
}

fn digest(parts: &[&str]) -> Digest {
    let mut context = Context::new(&SHA256);
    if let [whole] = parts {
        context.update(whole.as_bytes());
    } else {
        // With their lengths: two parts are not two others with the border elsewhere.
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

/// What a JWT says of its own end. Nobody has verified it, and nobody needs to: a token with another end is another token.
fn end_of_jwt(token: &str) -> Option<SystemTime> {
    let claims = jose::is_like_a_jwt(token).then(|| jose::Token::parse(token).ok())??.claims().ok()?;
    after_the_end(claims.get("exp")?.as_f64()?)
}

/// When a token with this `exp` is accepted no more.
pub(crate) fn after_the_end(exp: f64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_secs_f64(exp.clamp(0.0, LATEST)))?.checked_add(AFTER_THE_END)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Duration = Duration::from_secs(3600);

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn tell(memory: &Revocations, revoked: Revoked<'_>, now: u64, most: usize) -> Result<SystemTime, NotRevoked> {
        memory.revoke(revoked, at(now), KEEP, None, most).map(|told| told.until)
    }

    #[test]
    fn an_opaque_token_is_revoked_for_as_long_as_it_is_kept() {
        let memory = Revocations::new();
        assert_eq!(memory.of_token("a", at(0)), None);
        assert_eq!(tell(&memory, Revoked::Token("a"), 100, 10), Ok(at(3700)));
        assert_eq!((memory.of_token("a", at(3699)), memory.of_token("a", at(3700))), (Some(at(3700)), None));
        assert_eq!((memory.of_token("b", at(100)), memory.of_token("a.", at(100))), (None, None));
        assert_eq!(memory.of_token("a==", at(100)), Some(at(3700)), "it may be the same to its issuer");
        // Told again, the later end counts; and never the earlier.
        assert_eq!(tell(&memory, Revoked::Token("a"), 200, 10), Ok(at(3800)));
        tell(&memory, Revoked::Token("a"), 50, 10).unwrap();
        assert_eq!((memory.of_token("a", at(3799)), memory.held()), (Some(at(3800)), 1));
    }

    #[test]
    fn two_parts_are_not_two_others_and_an_id_is_no_token() {
        let memory = Revocations::new();
        tell(&memory, Revoked::Id { issuer: "ab", jti: "c", exp: None }, 0, 10).unwrap();
        assert!(memory.of_id("ab", "c", at(1)).is_some());
        assert!(memory.of_id("a", "bc", at(1)).is_none() && memory.of_id("abc", "", at(1)).is_none());
        assert!(memory.of_token("abc", at(1)).is_none());
    }

    #[test]
    fn at_the_bound_nothing_is_pushed_out_and_what_has_ended_makes_room() {
        let memory = Revocations::new();
        for n in 0..100 {
            tell(&memory, Revoked::Token(&format!("t{n}")), n, 100).unwrap();
        }
        assert_eq!(tell(&memory, Revoked::Id { issuer: "i", jti: "j", exp: None }, 100, 100), Err(NotRevoked::Full(100)));
        assert_eq!(tell(&memory, Revoked::Token("more"), 100, 100), Err(NotRevoked::Full(100)));
        assert!(memory.of_token("more", at(100)).is_none());
        assert!(tell(&memory, Revoked::Token("t5"), 100, 100).is_ok(), "it is there already");
        assert!((0..100).all(|n| memory.of_token(&format!("t{n}"), at(100)).is_some()));
        // The first has ended.
        assert!(tell(&memory, Revoked::Token("more"), 3600, 100).is_ok());
        assert!(memory.of_token("more", at(3600)).is_some() && memory.of_token("t1", at(3600)).is_some());
        assert_eq!(memory.held(), 100);
    }

    #[test]
    fn an_end_beyond_all_time_and_one_before_now_do_no_harm() {
        let memory = Revocations::new();
        let id = |exp| Revoked::Id { issuer: "i", jti: "j", exp: Some(exp) };
        assert!(tell(&memory, id(u64::MAX), 0, 10).unwrap() > at(100_000_000_000));
        assert!(memory.of_id("i", "j", at(100_000_000_000)).is_some());
        let ended = Revocations::new();
        assert!(tell(&ended, id(0), 10_000, 10).unwrap() < at(10_000));
        assert_eq!(ended.held(), 0, "it has ended by itself");
    }
}
