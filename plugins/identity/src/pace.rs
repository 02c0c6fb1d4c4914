//! How often an issuer may be asked, and a clock that tests can move.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The durations that an issuer's keys live by; see [`IssuerConfig`](crate::IssuerConfig).
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pace {
    pub refresh: Duration,
    pub max_stale: Duration,
    pub retire_after: Duration,
    pub timeout: Duration,
    pub max_wait: Duration,
    pub refetch_interval: Duration,
}

/// No answer is fetched again sooner than this, whatever its `max-age` says.
const SHORTEST_REFRESH: Duration = Duration::from_secs(30);
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(10);

impl Pace {
    /// When to ask again after a good answer. Up to a tenth earlier, so that a fleet does not ask in step.
    pub fn next_refresh(&self, max_age: Option<Duration>) -> Duration {
        let wanted = match max_age {
            Some(age) => self.refresh.min(age.max(SHORTEST_REFRESH)),
            None => self.refresh,
        };
        wanted.mul_f64(0.9 + 0.1 * fastrand::f64())
    }
}

/// When to ask again after `failures` bad answers in a row: doubling from half a second to ten, up to a quarter earlier.
pub(crate) fn retry_after(failures: u32) -> Duration {
    let doubled = FIRST_RETRY.saturating_mul(1 << failures.saturating_sub(1).min(8));
    doubled.min(LAST_RETRY).mul_f64(0.75 + 0.25 * fastrand::f64())
}

/// Fetches that callers can cause: a few at once, then one each interval.
pub(crate) struct Budget {
    left: f64,
    counted_at: Instant,
}

/// Enough for a rotation in steps; little enough that a flood of made-up key ids costs the issuer nothing.
const BURST: f64 = 3.0;

impl Budget {
    pub fn full(now: Instant) -> Self {
        Self { left: BURST, counted_at: now }
    }

    pub fn has_one(&self, now: Instant, interval: Duration) -> bool {
        self.at(now, interval) >= 1.0
    }

    pub fn take(&mut self, now: Instant, interval: Duration) -> bool {
        let left = self.at(now, interval);
        let granted = left >= 1.0;
        self.left = if granted { left - 1.0 } else { left };
        self.counted_at = now;
        granted
    }

    /// A fetch that brought news was worth it.
    pub fn refund(&mut self) {
        self.left = (self.left + 1.0).min(BURST);
    }

    fn at(&self, now: Instant, interval: Duration) -> f64 {
        let earned = now.saturating_duration_since(self.counted_at).as_secs_f64() / interval.as_secs_f64().max(0.001);
        (self.left + earned).min(BURST)
    }
}

/// The monotonic clock. A test moves it forward instead of waiting.
#[derive(Clone, Default)]
pub(crate) struct Clock {
    ahead_ms: Arc<AtomicU64>,
}

impl Clock {
    pub fn now(&self) -> Instant {
        Instant::now() + Duration::from_millis(self.ahead_ms.load(Ordering::Relaxed))
    }

    #[cfg(test)]
    pub fn advance(&self, by: Duration) {
        self.ahead_ms.fetch_add(by.as_millis() as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_gets_a_burst_and_then_one_each_interval() {
        let interval = Duration::from_secs(10);
        let mut now = Instant::now();
        let mut budget = Budget::full(now);
        assert_eq!((0..100).filter(|_| budget.take(now, interval)).count(), 3);
        now += Duration::from_secs(9);
        assert!(!budget.has_one(now, interval) && !budget.take(now, interval));
        now += Duration::from_secs(1);
        assert!(budget.take(now, interval));
        now += Duration::from_secs(86_400);
        assert_eq!((0..100).filter(|_| budget.take(now, interval)).count(), 3, "a quiet day saves nothing up");
    }

    #[test]
    fn retries_slow_down_but_not_for_ever() {
        assert!(retry_after(1) <= Duration::from_millis(500));
        assert!(retry_after(u32::MAX) <= Duration::from_secs(10));
        assert!(retry_after(50) >= Duration::from_secs(7));
    }

    #[test]
    fn max_age_shortens_and_never_lengthens() {
        let pace = Pace {
            refresh: Duration::from_secs(300),
            max_stale: Duration::from_secs(600),
            retire_after: Duration::ZERO,
            timeout: Duration::from_secs(5),
            max_wait: Duration::from_secs(2),
            refetch_interval: Duration::from_secs(10),
        };
        for (age, most) in [(None, 300), (Some(86_400), 300), (Some(60), 60), (Some(0), 30)] {
            let next = pace.next_refresh(age.map(Duration::from_secs));
            assert!(next <= Duration::from_secs(most) && next >= Duration::from_secs(most * 9 / 10), "{age:?}: {next:?}");
        }
    }
}
