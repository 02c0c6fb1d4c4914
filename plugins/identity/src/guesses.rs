//! Which issuer has verified a token before: a guess, so that of many issuers the right one is asked without reading the
//! token again.
//!
//! A guess decides nothing. Whoever takes it looks the whole token up among those that the issuer has verified; a wrong
//! or a missing one only costs the reading that it would have saved.

use std::sync::atomic::{AtomicU16, Ordering};

/// 128 KiB. Two tokens in one place take it from each other.
const PLACES: usize = 1 << 16;

/// A token ends with its signature, which is as good as random; no need to hash all of it.
const LOOKED_AT: usize = 16;

pub(crate) struct Guesses {
    hasher: ahash::RandomState,
    /// 0 for none, else the place of the issuer, from 1.
    places: Box<[AtomicU16]>,
}

impl Guesses {
    pub fn new() -> Self {
        Self { hasher: ahash::RandomState::new(), places: (0..PLACES).map(|_| AtomicU16::new(0)).collect() }
    }

    /// The issuer with this index has verified the token. Indexes beyond what fits are never guessed.
    pub fn note(&self, token: &str, issuer: usize) {
        if let (Ok(number), Some(place)) = (u16::try_from(issuer + 1), self.place(token)) {
            place.store(number, Ordering::Relaxed);
        }
    }

    /// The index of the issuer that probably has.
    pub fn guess(&self, token: &str) -> Option<usize> {
        usize::from(self.place(token)?.load(Ordering::Relaxed)).checked_sub(1)
    }

    fn place(&self, token: &str) -> Option<&AtomicU16> {
        let bytes = token.as_bytes();
        let end = bytes.get(bytes.len().saturating_sub(LOOKED_AT)..).unwrap_or_default();
        self.places.get(self.hasher.hash_one(end) as usize % PLACES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_note_of_a_token_is_guessed_and_short_texts_do_no_harm() {
        let guesses = Guesses::new();
        assert_eq!(guesses.guess("a.b.c"), None);
        guesses.note("a.b.c", 0);
        guesses.note("a.b.c", 99);
        assert_eq!(guesses.guess("a.b.c"), Some(99));
        guesses.note("", 3);
        assert_eq!(guesses.guess(""), Some(3));
        guesses.note("x", usize::from(u16::MAX));
        assert_eq!(guesses.guess("x"), None);
    }
}
