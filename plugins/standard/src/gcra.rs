//! Rate limits by the generic cell rate algorithm (GCRA), for a bounded number of keys.
//!
//! One number is kept per key: the time at which its bucket will be empty again. The table has sets of 16 slots, and a
//! key can only be in one set. So a look-up touches one lock and 256 bytes, memory has a bound however many keys come,
//! and making room means choosing among 16 and not walking through all.

use ahash::RandomState;
use parking_lot::Mutex;
use std::hash::{BuildHasher, Hasher};

const WAYS: usize = 16;
/// More shards than cores, so that two requests rarely want the same lock.
const SHARDS: usize = 64;
/// Keys spread unevenly over the sets: at half the slots on average, hardly any set overflows.
const KEYS_PER_SET: usize = WAYS / 2;

/// How much is allowed. All times in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// The time that one request takes up.
    interval: u64,
    burst: u64,
    /// `interval * burst`.
    capacity: u64,
}

impl Quota {
    /// `count` requests in `period` nanoseconds, `burst` of them at once. `None` if one of them is zero, or if the
    /// numbers are beyond what can be counted (the burst lasts longer than a century, or a request takes no time).
    pub fn new(count: u64, period: u64, burst: u64) -> Option<Self> {
        // Rounded up: never more than asked for.
        let interval = if count == 0 { return None } else { period.div_ceil(count) };
        let capacity = interval.checked_mul(burst)?;
        (interval > 0 && count <= period && capacity > 0 && capacity < u64::MAX / 4).then_some(Self { interval, burst, capacity })
    }

    pub fn burst(&self) -> u64 {
        self.burst
    }

    /// How long an empty bucket takes to be full.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }
}

/// Where a key stands after a request. Times in nanoseconds from now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub allowed: bool,
    /// Requests that would be allowed right now.
    pub remaining: u64,
    /// Until the whole quota is there again.
    pub full_in: u64,
    /// Until one request is allowed; 0 if one is.
    pub retry_in: u64,
}

/// A key's hash: where it is kept, and what it is known by there. The key itself is not kept.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    place: u64,
    tag: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// 0 if the slot is free.
    tag: u64,
    /// When the bucket will be full again: GCRA's theoretical arrival time.
    tat: u64,
}

type Set = Box<[Slot; WAYS]>;

pub struct Buckets {
    /// Sets are made when first needed.
    shards: Box<[Mutex<Vec<Option<Set>>>]>,
    sets_per_shard: u64,
    /// Seeded at random, so that nobody outside can choose keys that meet.
    place: RandomState,
    tag: RandomState,
}

impl Buckets {
    /// Room for about `max_keys` keys at a time.
    pub fn new(max_keys: usize) -> Self {
        let sets_per_shard = max_keys.div_ceil(KEYS_PER_SET).div_ceil(SHARDS).max(1);
        Self::with_shape(SHARDS, sets_per_shard)
    }

    fn with_shape(shards: usize, sets_per_shard: usize) -> Self {
        Self {
            shards: (0..shards).map(|_| Mutex::new(vec![None; sets_per_shard])).collect(),
            sets_per_shard: sets_per_shard as u64,
            place: RandomState::new(),
            tag: RandomState::new(),
        }
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

    /// Counts one request of `key` at `now`, unless that is more than `quota` allows. The second value says whether
    /// another key that was not yet back at its full quota lost its place for it.
    pub fn take(&self, key: Key, now: u64, quota: &Quota) -> (Standing, bool) {
        let shards = self.shards.len() as u64;
        let (shard, set) = (key.place % shards, (key.place / shards) % self.sets_per_shard);
        // Both are remainders, so both exist; a table without them would refuse.
        let Some(shard) = self.shards.get(shard as usize) else { return (REFUSED, false) };
        let mut sets = shard.lock();
        let Some(set) = sets.get_mut(set as usize) else { return (REFUSED, false) };
        let slots = set.get_or_insert_with(|| Box::new([Slot::default(); WAYS]));
        let (slot, evicted) = find(slots, key.tag, now);
        let standing = spend(&mut slot.tat, now, quota);
        (standing, evicted)
    }
}

const REFUSED: Standing = Standing { allowed: false, remaining: 0, full_in: 0, retry_in: 0 };

/// The slot of `tag`; if it has none, the one that is given up: free, or the stalest. A bucket that is full again
/// (`tat` in the past) says no more than a free one; one that is not was the least used of its set.
fn find(slots: &mut [Slot; WAYS], tag: u64, now: u64) -> (&mut Slot, bool) {
    let known = slots.iter().position(|slot| slot.tag == tag);
    let stalest =
        || slots.iter().enumerate().min_by_key(|(_, slot)| if slot.tag == 0 { 0 } else { slot.tat }).map_or(0, |(at, _)| at);
    let at = known.unwrap_or_else(stalest);
    // `at` is an index of `slots` by construction.
    let slot = &mut slots[at];
    let evicted = slot.tag != tag && slot.tag != 0 && slot.tat > now;
    if slot.tag != tag {
        *slot = Slot { tag, tat: 0 };
    }
    (slot, evicted)
}

fn spend(tat: &mut u64, now: u64, quota: &Quota) -> Standing {
    // What is owed is cut to what this quota can owe: it may be smaller than the one before a reload.
    let owed = tat.saturating_sub(now).min(quota.capacity);
    let after = owed + quota.interval;
    let allowed = after <= quota.capacity;
    let owed = if allowed { after } else { owed };
    *tat = now.saturating_add(owed);
    let free = quota.capacity - owed;
    Standing { allowed, remaining: free / quota.interval, full_in: owed, retry_in: quota.interval.saturating_sub(free) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    fn key(buckets: &Buckets, name: u64) -> Key {
        buckets.key(|hasher| hasher.write_u64(name))
    }

    fn take(buckets: &Buckets, name: u64, now: u64, quota: &Quota) -> Standing {
        buckets.take(key(buckets, name), now, quota).0
    }

    #[test]
    fn a_burst_then_the_rate() {
        let (buckets, quota) = (Buckets::new(100), Quota::new(10, SECOND, 3).unwrap());
        let start = 5 * SECOND;
        for remaining in [2, 1, 0] {
            let standing = take(&buckets, 1, start, &quota);
            assert_eq!((standing.allowed, standing.remaining), (true, remaining));
        }
        let refused = take(&buckets, 1, start, &quota);
        assert_eq!(refused, Standing { allowed: false, remaining: 0, full_in: 3 * SECOND / 10, retry_in: SECOND / 10 });
        // A refusal costs nothing: exactly after `retry_in`, and not before, there is one more.
        assert!(!take(&buckets, 1, start + refused.retry_in - 1, &quota).allowed);
        assert!(take(&buckets, 1, start + refused.retry_in, &quota).allowed);
        assert!(!take(&buckets, 1, start + refused.retry_in, &quota).allowed);
        assert!(take(&buckets, 2, start, &quota).allowed, "another key has its own bucket");
        assert_eq!(take(&buckets, 1, start + 9 * SECOND, &quota).remaining, 2, "a rest fills the bucket and no more");
    }

    #[test]
    fn a_clock_that_stands_still_or_goes_back_opens_nothing() {
        let (buckets, quota) = (Buckets::new(100), Quota::new(1, SECOND, 1).unwrap());
        assert!(take(&buckets, 1, 10 * SECOND, &quota).allowed);
        assert!(!take(&buckets, 1, 10 * SECOND, &quota).allowed);
        assert!(!take(&buckets, 1, 0, &quota).allowed);
    }

    #[test]
    fn quotas_that_mean_nothing_are_none() {
        for (count, period, burst) in [(0, SECOND, 1), (1, 0, 1), (1, SECOND, 0), (2 * SECOND, SECOND, 1), (1, u64::MAX / 8, 100)]
        {
            assert_eq!(Quota::new(count, period, burst), None);
        }
        assert_eq!(Quota::new(3, SECOND, 1).unwrap().interval, 333_333_334, "never faster than asked for");
    }

    #[test]
    fn a_smaller_quota_after_a_reload_is_not_kept_waiting_by_the_larger_one() {
        let (buckets, slow) = (Buckets::new(10), Quota::new(1, 3600 * SECOND, 10).unwrap());
        while take(&buckets, 1, 0, &slow).allowed {}
        let fast = Quota::new(10, SECOND, 10).unwrap();
        assert!(!take(&buckets, 1, 0, &fast).allowed, "what was used stays used");
        assert!(take(&buckets, 1, SECOND / 10, &fast).allowed, "at the new rate");
    }

    #[test]
    fn memory_is_bounded_and_only_the_least_used_lose_their_place() {
        let buckets = Buckets::with_shape(1, 1);
        let quota = Quota::new(1, SECOND, 5).unwrap();
        for _ in 0..5 {
            assert!(take(&buckets, 7, 0, &quota).allowed);
        }
        // A flood of new keys: some lose their place, which is reported; the one that has used up its quota does not.
        let evictions = (1_000..2_000).filter(|name| buckets.take(key(&buckets, *name), 1, &quota).1).count();
        assert_eq!(evictions, 1_000 - (WAYS - 1));
        assert!(!take(&buckets, 7, 1, &quota).allowed);
        // Once they are full again, their places are free and giving them up loses nothing.
        assert!(!buckets.take(key(&buckets, 1), 10 * SECOND, &quota).1);
    }

    #[test]
    fn the_promised_number_of_keys_fits() {
        let buckets = Buckets::new(10_000);
        let quota = Quota::new(1, 3600 * SECOND, 2).unwrap();
        let evictions = (0..10_000).filter(|name| buckets.take(key(&buckets, *name), 0, &quota).1).count();
        assert!(evictions < 200, "{evictions} of 10,000 lost their place");
    }

    #[test]
    fn threads_together_get_no_more_than_one_alone() {
        let (buckets, quota) = (Buckets::new(100), Quota::new(1, SECOND, 1_000).unwrap());
        let allowed: usize = std::thread::scope(|scope| {
            let count = || (0..1_000).filter(|_| take(&buckets, 1, 0, &quota).allowed).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(count)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(allowed, 1_000);
    }

    proptest! {
        #[test]
        fn never_more_than_burst_and_rate_together(
            count in 1_u64..50, burst in 1_u64..20, steps in prop::collection::vec(0_u64..SECOND / 5, 1..300),
        ) {
            let (buckets, quota) = (Buckets::new(10), Quota::new(count, SECOND, burst).unwrap());
            let (mut now, mut allowed) = (0, 0);
            for step in steps {
                now += step;
                let standing = take(&buckets, 1, now, &quota);
                allowed += u64::from(standing.allowed);
                prop_assert_eq!(standing.retry_in > 0, standing.remaining == 0);
                prop_assert!(allowed <= burst + now / quota.interval);
            }
        }
    }
}
