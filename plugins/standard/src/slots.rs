//! A table for a bounded number of keys, in sets of 16 slots: a key can only be in one set.
//!
//! So a look-up touches one lock and 256 bytes, memory has a bound however many keys come, and making room means choosing
//! among 16 and not walking through all.

use ahash::RandomState;
use parking_lot::Mutex;
use std::hash::{BuildHasher, Hasher};

pub const WAYS: usize = 16;
/// More shards than cores, so that two requests rarely want the same lock.
const SHARDS: usize = 64;
/// Keys spread unevenly over the sets: at half the slots on average, hardly any set overflows.
const KEYS_PER_SET: usize = WAYS / 2;

/// A key's hash: where it is kept, and what it is known by there, which is never 0. The key itself is not kept.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    place: u64,
    pub tag: u64,
}

/// Makes keys. Seeded at random, so that nobody outside can choose keys that meet.
pub struct Keyed {
    place: RandomState,
    tag: RandomState,
}

impl Keyed {
    pub fn new() -> Self {
        Self { place: RandomState::new(), tag: RandomState::new() }
    }

    /// `feed` writes the key's parts; it is called twice.
    pub fn key(&self, feed: impl Fn(&mut dyn Hasher)) -> Key {
        let hash = |state: &RandomState| {
            let mut hasher = state.build_hasher();
            feed(&mut hasher);
            hasher.finish()
        };
        Key { place: hash(&self.place), tag: hash(&self.tag).max(1) }
    }
}

type Set<S> = Box<[S; WAYS]>;
/// Sets are made when first needed.
type Shard<S> = Mutex<Vec<Option<Set<S>>>>;

pub struct Slots<S> {
    shards: Box<[Shard<S>]>,
    sets_per_shard: u64,
}

impl<S: Copy + Default> Slots<S> {
    /// Room for about `max_keys` keys at a time.
    pub fn new(max_keys: usize) -> Self {
        let sets_per_shard = max_keys.div_ceil(KEYS_PER_SET).div_ceil(SHARDS).max(1);
        Self::with_shape(SHARDS, sets_per_shard)
    }

    pub fn with_shape(shards: usize, sets_per_shard: usize) -> Self {
        Self {
            shards: (0..shards).map(|_| Mutex::new(vec![None; sets_per_shard])).collect(),
            sets_per_shard: sets_per_shard as u64,
        }
    }

    /// The set in which `key` is or may be. `None` for a table without sets.
    pub fn with<T>(&self, key: Key, look: impl FnOnce(&mut [S; WAYS]) -> T) -> Option<T> {
        let shards = self.shards.len() as u64;
        let (shard, set) = (key.place.checked_rem(shards)?, (key.place / shards).checked_rem(self.sets_per_shard)?);
        let mut sets = self.shards.get(shard as usize)?.lock();
        let slots = sets.get_mut(set as usize)?.get_or_insert_with(|| Box::new([S::default(); WAYS]));
        Some(look(slots))
    }
}
