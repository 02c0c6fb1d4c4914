//! Which proofs were seen (RFC 9449, section 11.1). Bounded: when it is full, a new proof is refused, and never an old
//! one forgotten while it would still be accepted.

use parking_lot::Mutex;
use portcullis_plugin::DecisionId;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};

/// Proofs that are remembered at once, over all routes: at most about 96 MiB.
pub const MOST: usize = 1 << 20;
const SHARDS: usize = 16;
/// Proofs of so many seconds are forgotten together.
const SLOT: u64 = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    New,
    Again,
    Full,
}

pub struct Replays {
    shards: [Mutex<Shard>; SHARDS],
    most: usize,
    /// The longest time for which any route accepts a proof, in seconds. Only grows: a request of before a reload may
    /// still ask.
    window: AtomicU64,
}

#[derive(Default)]
struct Shard {
    /// By `iat`, which is part of what is signed: who repeats a proof cannot move it to another slot.
    slots: BTreeMap<u64, HashMap<[u8; 16], DecisionId, ahash::RandomState>>,
    count: usize,
    /// The latest time seen: a clock that is set back brings no forgotten proof to life.
    latest: u64,
}

impl Replays {
    pub fn new(most: usize) -> Self {
        Self { shards: Default::default(), most: most.div_ceil(SHARDS), window: AtomicU64::new(0) }
    }

    /// Proofs are accepted for `max_age` from now on.
    pub fn cover(&self, max_age: std::time::Duration) {
        self.window.fetch_max(max_age.as_secs() + 1, Ordering::AcqRel);
    }

    /// Whether the proof is new; from now on it is not, but for the request of `decision`, whose filters may ask again.
    pub fn see(&self, id: [u8; 16], issued_at: u64, decision: DecisionId, now: u64) -> Seen {
        let [first, ..] = id;
        // The index is below the number of shards, so there is always one.
        let Some(shard) = self.shards.get(usize::from(first) % SHARDS) else { return Seen::Full };
        let window = self.window.load(Ordering::Acquire);
        let ended = |slot: u64, now: u64| (slot + 1) * SLOT + window < now;
        let slot = issued_at / SLOT;
        let mut shard = shard.lock();
        shard.latest = shard.latest.max(now);
        let latest = shard.latest;
        while let Some(first) = shard.slots.first_entry().filter(|first| ended(*first.key(), latest)) {
            let forgotten = first.remove().len();
            shard.count -= forgotten;
        }
        if ended(slot, latest) {
            return Seen::Again;
        }
        if let Some(by) = shard.slots.get(&slot).and_then(|seen| seen.get(&id)) {
            return if *by == decision { Seen::New } else { Seen::Again };
        }
        if shard.count >= self.most {
            return Seen::Full;
        }
        shard.count += 1;
        shard.slots.entry(slot).or_default().insert(id, decision);
        Seen::New
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const NOW: u64 = 1_800_000_000;

    fn replays(most: usize) -> Replays {
        let replays = Replays::new(most);
        replays.cover(Duration::from_secs(60));
        replays
    }

    #[test]
    fn a_proof_is_new_once_for_as_long_as_it_is_accepted() {
        let replays = replays(100);
        let ask = |at: u64| replays.see([1; 16], NOW, DecisionId::random(), at);
        assert_eq!(ask(NOW), Seen::New);
        for at in [NOW, NOW - 5, NOW + 60, NOW + 61] {
            assert_eq!(ask(at), Seen::Again, "{at}");
        }
        assert_eq!(ask(NOW + 3600), Seen::Again, "forgotten, and too old to be taken for new");
        assert_eq!(ask(NOW), Seen::Again, "also when the clock is set back");
    }

    #[test]
    fn one_request_may_ask_twice() {
        let (replays, id) = (replays(100), DecisionId::random());
        assert_eq!([(); 2].map(|()| replays.see([1; 16], NOW, id, NOW)), [Seen::New; 2]);
    }

    #[test]
    fn when_full_it_refuses_and_forgets_only_what_is_over() {
        let replays = replays(SHARDS);
        let see = |n: u8, at: u64| replays.see([16, n, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], at, DecisionId::random(), at);
        assert_eq!((see(1, NOW), see(2, NOW), see(1, NOW)), (Seen::New, Seen::Full, Seen::Again));
        assert_eq!((see(2, NOW + 200), see(3, NOW + 200)), (Seen::New, Seen::Full));
    }
}
