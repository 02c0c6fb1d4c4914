//! The fewest requests in flight for its weight.
//!
//! Among equals, the next in the weighted round robin: an idle pool shares as exactly as `round_robin` does. A small pool
//! is looked at as a whole; of a large one, two backends drawn by weight are compared, which is nearly as good and costs
//! the same at any size.

use super::any_from;
use super::random::Cumulative;
use super::round_robin::Rotation;
use crate::pool::backend::Backend;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Up to here, every backend is looked at.
const SMALL: usize = 32;

pub(super) fn choose<'a>(
    ready: &'a [Arc<Backend>],
    rotation: &Rotation,
    weights: &Cumulative,
    position: &AtomicU64,
    take: impl Fn(&Backend) -> bool,
) -> Option<&'a Arc<Backend>> {
    let start = rotation.next(position).unwrap_or(0);
    let best = if ready.len() <= SMALL {
        let (before, after) = ready.split_at_checked(start)?;
        after.iter().chain(before).reduce(|best, other| if busier(best, other) { other } else { best })?
    } else {
        let (one, other) = (ready.get(weights.draw())?, ready.get(weights.draw())?);
        if busier(one, other) { other } else { one }
    };
    if take(best) {
        return Some(best);
    }
    // Full, tried before, or taken in between: the next best that can be had.
    let mut rest: Vec<&Arc<Backend>> = ready.iter().filter(|other| !Arc::ptr_eq(other, best)).collect();
    rest.sort_by(|a, b| load(a, b).cmp(&load(b, a)));
    rest.into_iter().find(|backend| take(backend)).or_else(|| any_from(ready, start, take))
}

/// `a`'s requests, scaled so that they compare with `load(b, a)`.
fn load(a: &Backend, b: &Backend) -> u128 {
    a.in_flight() as u128 * u128::from(b.weight())
}

fn busier(a: &Backend, b: &Backend) -> bool {
    load(a, b) > load(b, a)
}
