//! Smooth weighted round robin: exact shares, as evenly interleaved as can be.
//!
//! With W the sum of the weights, a backend of weight w is chosen exactly w times in any W choices in a row, and after
//! any number of choices n it is less than one away from its share n·w/W. The order that does it is that of jobs with
//! deadlines: the k-th turn of a backend may come from choice ⌊k·W/w⌋ on and is due before choice ⌈(k+1)·W/w⌉; of those
//! that may come, the one that is due first is taken.

use super::any_from;
use crate::pool::backend::Backend;
use parking_lot::Mutex;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Longer orders are computed as they are used, under a lock, and not kept.
const LONGEST_TABLE: u64 = 1 << 16;
/// How far to look along the order when the first choice is taken.
const LOOK_AHEAD: usize = 64;

/// An order of indexes in proportion to weights, repeated without end.
pub(in crate::pool) struct Rotation(Order);

enum Order {
    /// One round. Who is next depends on the position alone, so threads share nothing but a counter.
    Table(Box<[u32]>),
    Live(Mutex<Schedule>),
}

impl Rotation {
    /// An index whose weight is 0 never comes up.
    pub(in crate::pool) fn new(weights: &[u32]) -> Self {
        let schedule = Schedule::new(weights);
        if schedule.round > LONGEST_TABLE {
            return Self(Order::Live(Mutex::new(schedule)));
        }
        let round = usize::try_from(schedule.round).unwrap_or(0);
        Self(Order::Table(schedule.take(round).collect()))
    }

    /// The next index. `None` if there are no weights.
    pub(in crate::pool) fn next(&self, position: &AtomicU64) -> Option<usize> {
        self.take(position).next()
    }

    /// The next index, then those that would follow. The position moves on by one, however many are read.
    fn take(&self, position: &AtomicU64) -> impl Iterator<Item = usize> {
        let now = position.fetch_add(1, Ordering::Relaxed);
        let (first, table): (Option<u32>, &[u32]) = match &self.0 {
            Order::Live(schedule) => (schedule.lock().next(), &[]),
            Order::Table(table) => (None, table),
        };
        let start = if table.is_empty() { 0 } else { usize::try_from(now % table.len() as u64).unwrap_or(0) };
        let (before, after) = table.split_at(start);
        first.into_iter().chain(after.iter().chain(before).copied()).map(|index| index as usize)
    }
}

pub(super) fn choose<'a>(
    ready: &'a [Arc<Backend>],
    rotation: &Rotation,
    position: &AtomicU64,
    take: impl Fn(&Backend) -> bool,
) -> Option<&'a Arc<Backend>> {
    let mut last = None;
    for index in rotation.take(position).take(LOOK_AHEAD) {
        if last == Some(index) {
            continue;
        }
        last = Some(index);
        if let Some(backend) = ready.get(index)
            && take(backend)
        {
            return Some(backend);
        }
    }
    any_from(ready, last.map_or(0, |index| (index + 1) % ready.len().max(1)), take)
}

/// One turn of one index. Sorted by when it is due, then by index.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    due: u128,
    index: u32,
    count: u128,
}

/// Makes the order. All numbers are of weights reduced by their greatest common divisor.
struct Schedule {
    weights: Vec<u64>,
    round: u64,
    now: u128,
    /// Turns that may come, the first due on top.
    open: BinaryHeap<Reverse<Turn>>,
    /// Turns that may not come yet, with the choice they may come from.
    later: BinaryHeap<Reverse<(u128, u32, u128)>>,
}

impl Schedule {
    fn new(weights: &[u32]) -> Self {
        let divisor = weights.iter().fold(0, |a, b| gcd(a, *b)).max(1);
        let weights: Vec<u64> = weights.iter().map(|weight| u64::from(weight / divisor)).collect();
        let round = weights.iter().sum();
        let indexes = (0..).zip(&weights).filter(|(_, weight)| **weight > 0);
        let later = indexes.map(|(index, _)| Reverse((0, index, 0))).collect();
        Self { weights, round, now: 0, open: BinaryHeap::new(), later }
    }

    fn weight(&self, index: u32) -> u128 {
        // Every index in the heaps has a weight above 0.
        self.weights.get(index as usize).map_or(1, |weight| u128::from(*weight)).max(1)
    }
}

impl Iterator for Schedule {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let round = u128::from(self.round);
        while let Some(Reverse((from, index, count))) = self.later.pop() {
            if from > self.now {
                self.later.push(Reverse((from, index, count)));
                break;
            }
            let due = ((count + 1) * round).div_ceil(self.weight(index));
            self.open.push(Reverse(Turn { due, index, count }));
        }
        // By the time of choice n, at least n + 1 turns have opened and n were taken: one is always there.
        let Reverse(Turn { index, count, .. }) = self.open.pop()?;
        let from = (count + 1) * round / self.weight(index);
        self.later.push(Reverse((from, index, count + 1)));
        self.now += 1;
        Some(index)
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn order(weights: &[u32], n: usize) -> Vec<usize> {
        let (rotation, position) = (Rotation::new(weights), AtomicU64::new(0));
        (0..n).map_while(|_| rotation.next(&position)).collect()
    }

    #[test]
    fn three_to_one_over_four_thousand_is_exact() {
        let order = order(&[3, 1], 4_000);
        assert_eq!(order.iter().filter(|i| **i == 0).count(), 3_000);
        assert_eq!(order.iter().filter(|i| **i == 1).count(), 1_000);
    }

    #[test]
    fn a_heavy_backend_alternates_with_the_light_ones_together() {
        let mut weights = vec![100];
        weights.extend([1; 100]);
        let order = order(&weights, 200);
        assert!(order.windows(3).all(|w| w.iter().filter(|i| **i == 0).count() <= 2), "{order:?}");
        assert!(order.windows(3).all(|w| w.contains(&0)), "{order:?}");
    }

    #[test]
    fn no_weights_and_zero_weights() {
        assert!(order(&[], 3).is_empty());
        assert!(order(&[0, 0], 3).is_empty());
        assert_eq!(order(&[0, 7], 3), [1, 1, 1]);
    }

    #[test]
    fn weights_too_large_for_a_table_are_exact_too() {
        let weights = [u32::MAX, u32::MAX - 1, 1];
        let rotation = Rotation::new(&weights);
        assert!(matches!(rotation.0, Order::Live(_)));
        let order = order(&weights, 1_001);
        let first = order.iter().filter(|i| **i == 0).count();
        assert!((500..=501).contains(&first), "{first}");
    }

    #[test]
    fn a_thousand_equal_backends_come_once_each() {
        let mut order = order(&[1_000_000; 1_000], 1_000);
        order.sort_unstable();
        assert_eq!(order, (0..1_000).collect::<Vec<_>>());
    }

    #[test]
    fn threads_share_exactly() {
        let (rotation, position) = (Rotation::new(&[5, 2, 1]), AtomicU64::new(0));
        let counts: [AtomicU64; 3] = Default::default();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..1_000 {
                        counts[rotation.next(&position).unwrap()].fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(counts.map(AtomicU64::into_inner), [5_000, 2_000, 1_000]);
    }

    proptest! {
        #[test]
        fn never_a_whole_request_away_from_the_share(weights in prop::collection::vec(0u32..40, 1..12)) {
            let sum: u64 = weights.iter().map(|w| u64::from(*w)).sum();
            prop_assume!(sum > 0);
            let mut counts = vec![0i64; weights.len()];
            for (n, index) in (1..).zip(order(&weights, 3 * usize::try_from(sum).unwrap())) {
                counts[index] += 1;
                for (count, weight) in counts.iter().zip(&weights) {
                    let away = count * i64::try_from(sum).unwrap() - n * i64::from(*weight);
                    prop_assert!(away.unsigned_abs() < sum, "after {n}: {counts:?}");
                }
            }
        }

        #[test]
        fn any_round_is_exact(weights in prop::collection::vec(1u32..30, 1..8), skip in 0usize..50) {
            let sum: u32 = weights.iter().sum();
            let order = order(&weights, skip + sum as usize);
            for (index, weight) in weights.iter().enumerate() {
                let count = order.iter().skip(skip).filter(|i| **i == index).count();
                prop_assert_eq!(count, *weight as usize);
            }
        }
    }
}
