//! A table for a bounded number of keys, in sets of 16 slots: a key can only be in one set.
//!
//! So a look-up touches one lock and 256 bytes, memory has a bound however many keys come, and making room means choosing
//! among 16 and not walking through all.

use ahash::RandomState;
use aws_lc_rs::digest::{Context, SHA256};
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

impl Key {
    /// The key of that tag, where places follow from tags: see [`Keyed::lasting`].
    pub fn of_tag(tag: u64) -> Self {
        let tag = tag.max(1);
        Self { place: tag.rotate_left(32), tag }
    }
}

/// Makes keys. Seeded at random, so that nobody outside can choose keys that meet.
pub enum Keyed {
    Passing {
        place: RandomState,
        tag: RandomState,
    },
    /// The same in another process and another version, at the price of a SHA-256 for each key.
    Lasting([u8; 32]),
}

impl Keyed {
    pub fn new() -> Self {
        Self::Passing { place: RandomState::new(), tag: RandomState::new() }
    }

    pub fn lasting(seed: [u8; 32]) -> Self {
        Self::Lasting(seed)
    }

    /// `feed` writes the key's parts; it may be called twice.
    pub fn key(&self, feed: impl Fn(&mut dyn Hasher)) -> Key {
        let (place, tag) = match self {
            Self::Passing { place, tag } => (place, tag),
            Self::Lasting(seed) => {
                let mut hasher = Lasting(Context::new(&SHA256));
                hasher.write(seed);
                feed(&mut hasher);
                return Key::of_tag(hasher.finish());
            }
        };
        let hash = |state: &RandomState| {
            let mut hasher = state.build_hasher();
            feed(&mut hasher);
            hasher.finish()
        };
        Key { place: hash(place), tag: hash(tag).max(1) }
    }
}

struct Lasting(Context);

impl Hasher for Lasting {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    // On every machine the same.
    fn write_usize(&mut self, number: usize) {
        self.write(&(number as u64).to_le_bytes());
    }

    fn write_u32(&mut self, number: u32) {
        self.write(&number.to_le_bytes());
    }

    fn write_u128(&mut self, number: u128) {
        self.write(&number.to_le_bytes());
    }

    fn finish(&self) -> u64 {
        let sum = self.0.clone().finish();
        sum.as_ref().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
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

    /// Every slot of every set that was made, one shard after the other.
    pub fn each(&self, mut look: impl FnMut(&S)) {
        for shard in &self.shards {
            shard.lock().iter().flatten().flat_map(|set| set.iter()).for_each(&mut look);
        }
    }
}
