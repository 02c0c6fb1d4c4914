//! Tokens that have been verified, so that each is verified once.
//!
//! The key is the whole token: no digest that costs more than the look-up, and nothing that two tokens could share. An
//! entry holds everything that can end it (expiry, start, the generation of the keys), and all of it is checked on
//! every read.

use crate::verify::VerifiedToken;
use quick_cache::Weighter;
use quick_cache::sync::{Cache, DefaultLifecycle};
use std::sync::Arc;
use std::time::SystemTime;

pub(crate) struct TokenCache {
    entries: Cache<Box<str>, Entry, Weight, ahash::RandomState>,
}

#[derive(Clone)]
struct Entry {
    token: Arc<VerifiedToken>,
    /// The store's removals when it was verified; one more, and its key may be gone.
    removals: u64,
}

#[derive(Clone)]
struct Weight;

impl Weighter<Box<str>, Entry> for Weight {
    fn weight(&self, token: &Box<str>, _: &Entry) -> u64 {
        // Claims are held as JSON values and as the principal's lists: about three times their text, by measuring.
        (token.len() * 4 + 512) as u64
    }
}

/// A token of ordinary size, for the first guess at how many there will be.
const ORDINARY: u64 = 4 << 10;

impl TokenCache {
    /// `None` for no bytes: nothing is kept.
    pub fn new(bytes: u64) -> Option<Self> {
        if bytes == 0 {
            return None;
        }
        let items = usize::try_from(bytes / ORDINARY).unwrap_or(usize::MAX).clamp(32, 1 << 20);
        Some(Self { entries: Cache::with(items, bytes, Weight, ahash::RandomState::new(), DefaultLifecycle::default()) })
    }

    /// Only what would still be accepted without the leeway, and with the keys of now.
    pub fn get(&self, token: &str, removals: u64, now: SystemTime) -> Option<Arc<VerifiedToken>> {
        let entry = self.entries.get(token)?;
        let started = entry.token.not_before().is_none_or(|start| start <= now);
        if entry.removals == removals && started && now < entry.token.expires_at() {
            return Some(entry.token);
        }
        if entry.removals != removals || now >= entry.token.expires_at() {
            self.entries.remove(token);
        }
        None
    }

    pub fn insert(&self, token: &str, verified: &Arc<VerifiedToken>, removals: u64) {
        self.entries.insert(token.into(), Entry { token: Arc::clone(verified), removals });
    }

    pub fn remove(&self, token: &str) {
        self.entries.remove(token);
    }

    #[cfg(test)]
    pub fn weight(&self) -> u64 {
        self.entries.weight()
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.entries.len()
    }
}
