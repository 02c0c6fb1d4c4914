//! At random, by weight.

use super::any_from;
use crate::pool::backend::Backend;
use std::sync::Arc;

/// Draws before everyone is asked in turn.
const DRAWS: usize = 8;

/// Indexes drawn in proportion to weights.
pub(super) struct Cumulative {
    /// The sum of the weights up to and with each index.
    sums: Vec<u64>,
}

impl Cumulative {
    pub(super) fn new(weights: &[u32]) -> Self {
        let mut sum = 0;
        let sums = weights.iter().map(|weight| {
            sum += u64::from(*weight);
            sum
        });
        Self { sums: sums.collect() }
    }

    pub(super) fn draw(&self) -> usize {
        match self.sums.last() {
            Some(&total) if total > 0 => self.index(fastrand::u64(..total)),
            _ => 0,
        }
    }

    fn index(&self, ticket: u64) -> usize {
        self.sums.partition_point(|sum| *sum <= ticket)
    }
}

pub(super) fn choose<'a>(
    ready: &'a [Arc<Backend>],
    weights: &Cumulative,
    take: impl Fn(&Backend) -> bool,
) -> Option<&'a Arc<Backend>> {
    let drawn = (0..DRAWS).filter_map(|_| ready.get(weights.draw()));
    drawn.into_iter().find(|backend| take(backend)).or_else(|| any_from(ready, fastrand::usize(..ready.len().max(1)), take))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ticket_belongs_to_one_index_and_shares_are_exact() {
        let weights = [3, 0, 1, 4];
        let cumulative = Cumulative::new(&weights);
        let mut counts = [0; 4];
        for ticket in 0..8 {
            counts[cumulative.index(ticket)] += 1;
        }
        assert_eq!(counts, weights);
    }

    #[test]
    fn nothing_to_draw_from() {
        assert_eq!(Cumulative::new(&[]).draw(), 0);
        assert_eq!(Cumulative::new(&[0]).draw(), 0);
    }
}
