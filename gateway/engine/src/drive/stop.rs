//! The end of the gateway, as a connection waits for it: beside whatever else it waits for, and many times.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use tokio::sync::watch;
use tokio::task::unconstrained;

/// Asked once, the future wakes the connection's task by itself, so that every further wait costs a look at one number. All
/// of them have to be of the same task.
pub struct Stop<'a, F> {
    shutdown: &'a watch::Receiver<bool>,
    future: Pin<&'a mut F>,
    asked: bool,
}

impl<'a, F: Future> Stop<'a, F> {
    /// `future` ends when `shutdown`, which was never looked at, says so.
    pub fn new(shutdown: &'a watch::Receiver<bool>, future: Pin<&'a mut F>) -> Self {
        Self { shutdown, future, asked: false }
    }

    /// Not to be asked again once it was ready.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.asked && !is_stopping(self.shutdown) {
            return Poll::Pending;
        }
        self.asked = true;
        // A task that has used up its turn is put off by tokio before the future is asked, and nothing would ask it again.
        pin!(unconstrained(self.future.as_mut())).poll(context).map(drop)
    }
}

/// Whether the gateway stops. The value only ever changes once, so that its version is enough.
pub fn is_stopping(shutdown: &watch::Receiver<bool>) -> bool {
    shutdown.has_changed().unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::sync::Arc;
    use tokio::task::coop::{consume_budget, has_budget_remaining};

    #[tokio::test]
    async fn a_wait_that_was_begun_earlier_ends_too() {
        let (sender, receiver) = watch::channel(false);
        let sender = Arc::new(sender);
        let waits = tokio::spawn(async move {
            let mut own = receiver.clone();
            let wait = pin!(own.wait_for(|stop| *stop));
            let mut stop = Stop::new(&receiver, wait);
            for _ in 0..3 {
                assert!(poll_fn(|context| Poll::Ready(stop.poll(context))).await.is_pending());
                tokio::task::yield_now().await;
            }
            assert!(!is_stopping(&receiver));
            poll_fn(|context| stop.poll(context)).await;
            is_stopping(&receiver)
        });
        tokio::task::yield_now().await;
        let late = Arc::clone(&sender);
        tokio::task::spawn_blocking(move || late.send_replace(true)).await.unwrap();
        assert!(waits.await.unwrap());
    }
    /// A connection that has just read all that one turn of a task allows waits for the end like any other.
    #[tokio::test]
    async fn a_wait_that_begins_at_the_end_of_a_turn_ends_too() {
        let (sender, receiver) = watch::channel(false);
        let (began, begun) = tokio::sync::oneshot::channel();
        let waits = tokio::spawn(async move {
            let mut own = receiver.clone();
            let wait = pin!(own.wait_for(|stop| *stop));
            let mut stop = Stop::new(&receiver, wait);
            let mut began = Some(began);
            let mut turns = 0;
            poll_fn(|context| {
                turns += 1;
                while turns == 1 && has_budget_remaining() {
                    let _ = pin!(consume_budget()).poll(context);
                }
                let stopped = stop.poll(context);
                if let Some(began) = began.take() {
                    began.send(()).unwrap();
                }
                stopped
            })
            .await;
        });
        begun.await.unwrap();
        // A turn that was put off comes in between.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        sender.send_replace(true);
        tokio::time::timeout(std::time::Duration::from_secs(10), waits).await.unwrap().unwrap();
    }
}
