//! One timer for a connection: set when something is waited for, and moved as seldom as can be.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

/// Waiting costs a reading of the clock; only a deadline that comes before the one that was set costs more.
#[derive(Default)]
pub struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// When the wait is over; `None` while nothing is waited for.
    due: Option<Instant>,
}

impl Timer {
    /// What was waited for has come: the next wait has its whole time.
    pub fn restart(&mut self) {
        self.due = None;
    }

    /// Ready when the wait has lasted for `limit`, or `end` has come.
    pub fn poll(&mut self, context: &mut Context<'_>, limit: Duration, end: Option<Instant>) -> Poll<()> {
        let due = *self.due.get_or_insert_with(|| {
            let due = Instant::now() + limit;
            end.map_or(due, |end| end.min(due))
        });
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(due)));
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
    async fn one_that_was_set_to_an_earlier_time_does_not_end_a_later_wait() {
        let mut timer = Timer::default();
        let first = tokio::time::timeout(SECOND, wait(&mut timer, SECOND * 2, None)).await;
        assert!(first.is_err());
        assert_eq!(wait(&mut timer, SECOND * 5, None).await.as_secs(), 5);
    }
}
