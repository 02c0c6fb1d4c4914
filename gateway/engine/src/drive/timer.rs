//! One timer for a connection: set when something is waited for, and moved as seldom as can be.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::runtime::{Handle, Id};
use tokio::time::{Instant, Sleep, sleep_until};

/// Timers that a thread keeps for the next connection or stream, each of which is good in its own runtime only.
const SPARE: usize = 64;

/// Longer than any wait.
const FAR: Duration = Duration::from_secs(24 * 3600);

thread_local! {
    static SPARES: RefCell<Vec<(Id, Pin<Box<Sleep>>)>> = const { RefCell::new(Vec::new()) };
}

/// Waiting costs a reading of the clock; only a deadline that comes before the one that was set costs more.
#[derive(Default)]
pub struct Timer {
    sleep: Option<(Id, Pin<Box<Sleep>>)>,
    /// When the wait is over; `None` while nothing is waited for.
    due: Option<Instant>,
    /// When the next wait begins; `None` for when it is first polled.
    since: Option<Instant>,
}

impl Timer {
    /// What was waited for has come: the next wait has its whole time.
    pub fn restart(&mut self) {
        (self.due, self.since) = (None, None);
    }

    /// As [`restart`](Self::restart), by a clock that was read just now.
    pub fn restart_at(&mut self, now: Instant) {
        (self.due, self.since) = (None, Some(now));
    }

    /// Ready when the wait has lasted for `limit`, or `end` has come.
    pub fn poll(&mut self, context: &mut Context<'_>, limit: Duration, end: Option<Instant>) -> Poll<()> {
        let due = *self.due.get_or_insert_with(|| {
            let since = self.since.take().unwrap_or_else(Instant::now);
            // A limit may be longer than the clock goes: who sets it means that there is none.
            let due = since.checked_add(limit).unwrap_or_else(|| since + FAR);
            end.map_or(due, |end| end.min(due))
        });
        let (_, sleep) = self.sleep.get_or_insert_with(|| spare(due));
        // One that is set to an earlier time wakes us for nothing, once: cheaper than moving it for each wait.
        if sleep.deadline() > due {
            sleep.as_mut().reset(due);
        }
        while sleep.as_mut().poll(context).is_ready() {
            if Instant::now() >= due {
                self.due = None;
                return Poll::Ready(());
            }
            sleep.as_mut().reset(due);
        }
        Poll::Pending
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(sleep) = self.sleep.take() {
            // A thread that ends has no spares any more.
            let _ = SPARES.try_with(|spares| {
                let mut spares = spares.borrow_mut();
                if spares.len() < SPARE {
                    spares.push(sleep);
                }
            });
        }
    }
}

/// One that was used before, or a new one.
fn spare(due: Instant) -> (Id, Pin<Box<Sleep>>) {
    let here = Handle::current().id();
    match SPARES.with_borrow_mut(Vec::pop) {
        Some((id, sleep)) if id == here => (id, sleep),
        _ => (here, Box::pin(sleep_until(due))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    const SECOND: Duration = Duration::from_secs(1);

    async fn wait(timer: &mut Timer, limit: Duration, end: Option<Instant>) -> Duration {
        let start = Instant::now();
        timer.restart();
        poll_fn(|cx| timer.poll(cx, limit, end)).await;
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn each_wait_has_its_own_length() {
        let mut timer = Timer::default();
        for seconds in [5, 1, 3, 3, 60, 2] {
            assert_eq!(wait(&mut timer, SECOND * seconds, None).await.as_secs(), u64::from(seconds));
        }
        assert_eq!(wait(&mut timer, SECOND * 9, Some(Instant::now() + SECOND * 4)).await.as_secs(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_without_a_limit_has_its_end() {
        let mut timer = Timer::default();
        assert_eq!(wait(&mut timer, Duration::MAX, Some(Instant::now() + SECOND)).await.as_secs(), 1);
        assert_eq!(wait(&mut timer, Duration::MAX, None).await, FAR);
    }

    #[test]
    fn a_spare_of_a_runtime_that_is_gone_is_not_used() {
        for _ in 0..3 {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                for seconds in [3, 1, 2] {
                    assert_eq!(wait(&mut Timer::default(), SECOND * seconds, None).await.as_secs(), u64::from(seconds));
                }
            });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_was_set_to_an_earlier_time_does_not_end_a_later_wait() {
        let mut timer = Timer::default();
        let first = tokio::time::timeout(SECOND, wait(&mut timer, SECOND * 2, None)).await;
        assert!(first.is_err());
        assert_eq!(wait(&mut timer, SECOND * 5, None).await.as_secs(), 5);
    }
}
