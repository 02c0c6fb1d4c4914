//! Rate limits by the generic cell rate algorithm (GCRA), for a bounded number of keys.
//!
//! One number is kept per key: the time at which its bucket will be empty again.

use crate::slots::{Key, Slots, WAYS};

/// How much is allowed. All times in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// The time that one request takes up.
    interval: u64,
    burst: u64,
    /// `interval * burst`.
    capacity: u64,
}

impl Pace {
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
    /// Until the whole burst is there again.
    pub full_in: u64,
    /// Until one request is allowed; 0 if one is.
    pub retry_in: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// 0 if the slot is free.
    tag: u64,
    /// When the bucket will be full again: GCRA's theoretical arrival time.
    tat: u64,
}

pub struct Buckets(Slots<Slot>);

impl Buckets {
    /// Room for about `max_keys` keys at a time.
    pub fn new(max_keys: usize) -> Self {
        Self(Slots::new(max_keys))
    }

    /// Counts one request of `key` at `now`, unless that is more than `pace` allows. The second value says whether
    /// another key that was not yet back at its full burst lost its place for it.
    pub fn take(&self, key: Key, now: u64, pace: &Pace) -> (Standing, bool) {
        // A table without a place for it would refuse.
        self.0
            .with(key, |slots| {
                let (slot, evicted) = find(slots, key.tag, now);
                (spend(&mut slot.tat, now, pace), evicted)
            })
            .unwrap_or((REFUSED, false))
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

fn spend(tat: &mut u64, now: u64, pace: &Pace) -> Standing {
    // What is owed is cut to what this pace can owe: that may be less than the one before a reload.
    let owed = tat.saturating_sub(now).min(pace.capacity);
    let after = owed + pace.interval;
    let allowed = after <= pace.capacity;
    let owed = if allowed { after } else { owed };
    *tat = now.saturating_add(owed);
    let free = pace.capacity - owed;
    Standing { allowed, remaining: free / pace.interval, full_in: owed, retry_in: pace.interval.saturating_sub(free) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slots::Keyed;
    use proptest::prelude::*;
    use std::sync::LazyLock;

    const SECOND: u64 = 1_000_000_000;

    /// The same for all of a test.
    fn key(name: u64) -> Key {
        static KEYED: LazyLock<Keyed> = LazyLock::new(Keyed::new);
        KEYED.key(|hasher| hasher.write_u64(name))
    }

    fn take(buckets: &Buckets, name: u64, now: u64, pace: &Pace) -> Standing {
        buckets.take(key(name), now, pace).0
    }

    #[test]
    fn a_burst_then_the_rate() {
        let (buckets, pace) = (Buckets::new(100), Pace::new(10, SECOND, 3).unwrap());
        let start = 5 * SECOND;
        for remaining in [2, 1, 0] {
            let standing = take(&buckets, 1, start, &pace);
            assert_eq!((standing.allowed, standing.remaining), (true, remaining));
        }
        let refused = take(&buckets, 1, start, &pace);
        assert_eq!(refused, Standing { allowed: false, remaining: 0, full_in: 3 * SECOND / 10, retry_in: SECOND / 10 });
        // A refusal costs nothing: exactly after `retry_in`, and not before, there is one more.
        assert!(!take(&buckets, 1, start + refused.retry_in - 1, &pace).allowed);
        assert!(take(&buckets, 1, start + refused.retry_in, &pace).allowed);
        assert!(!take(&buckets, 1, start + refused.retry_in, &pace).allowed);
        assert!(take(&buckets, 2, start, &pace).allowed, "another key has its own bucket");
        assert_eq!(take(&buckets, 1, start + 9 * SECOND, &pace).remaining, 2, "a rest fills the bucket and no more");
    }

    #[test]
    fn a_clock_that_stands_still_or_goes_back_opens_nothing() {
        let (buckets, pace) = (Buckets::new(100), Pace::new(1, SECOND, 1).unwrap());
        assert!(take(&buckets, 1, 10 * SECOND, &pace).allowed);
        assert!(!take(&buckets, 1, 10 * SECOND, &pace).allowed);
        assert!(!take(&buckets, 1, 0, &pace).allowed);
    }

    #[test]
    fn paces_that_mean_nothing_are_none() {
        for (count, period, burst) in [(0, SECOND, 1), (1, 0, 1), (1, SECOND, 0), (2 * SECOND, SECOND, 1), (1, u64::MAX / 8, 100)]
        {
            assert_eq!(Pace::new(count, period, burst), None);
        }
        assert_eq!(Pace::new(3, SECOND, 1).unwrap().interval, 333_333_334, "never faster than asked for");
    }

    #[test]
    fn a_slower_pace_after_a_reload_is_not_kept_waiting_by_the_one_before() {
        let (buckets, slow) = (Buckets::new(10), Pace::new(1, 3600 * SECOND, 10).unwrap());
        while take(&buckets, 1, 0, &slow).allowed {}
        let fast = Pace::new(10, SECOND, 10).unwrap();
        assert!(!take(&buckets, 1, 0, &fast).allowed, "what was used stays used");
        assert!(take(&buckets, 1, SECOND / 10, &fast).allowed, "at the new rate");
    }

    #[test]
    fn memory_is_bounded_and_only_the_least_used_lose_their_place() {
        let buckets = Buckets(Slots::with_shape(1, 1));
        let pace = Pace::new(1, SECOND, 5).unwrap();
        for _ in 0..5 {
            assert!(take(&buckets, 7, 0, &pace).allowed);
        }
        // A flood of new keys: some lose their place, which is reported; the one that has used up its burst does not.
        let evictions = (1_000..2_000).filter(|name| buckets.take(key(*name), 1, &pace).1).count();
        assert_eq!(evictions, 1_000 - (WAYS - 1));
        assert!(!take(&buckets, 7, 1, &pace).allowed);
        // Once they are full again, their places are free and giving them up loses nothing.
        assert!(!buckets.take(key(1), 10 * SECOND, &pace).1);
    }

    #[test]
    fn the_promised_number_of_keys_fits() {
        let buckets = Buckets::new(10_000);
        let pace = Pace::new(1, 3600 * SECOND, 2).unwrap();
        let evictions = (0..10_000).filter(|name| buckets.take(key(*name), 0, &pace).1).count();
        assert!(evictions < 200, "{evictions} of 10,000 lost their place");
    }

    #[test]
    fn threads_together_get_no_more_than_one_alone() {
        let (buckets, pace) = (Buckets::new(100), Pace::new(1, SECOND, 1_000).unwrap());
        let allowed: usize = std::thread::scope(|scope| {
            let count = || (0..1_000).filter(|_| take(&buckets, 1, 0, &pace).allowed).count();
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
            let (buckets, pace) = (Buckets::new(10), Pace::new(count, SECOND, burst).unwrap());
            let (mut now, mut allowed) = (0, 0);
            for step in steps {
                now += step;
                let standing = take(&buckets, 1, now, &pace);
                allowed += u64::from(standing.allowed);
                prop_assert_eq!(standing.retry_in > 0, standing.remaining == 0);
                prop_assert!(allowed <= burst + now / pace.interval);
            }
        }
    }
}
