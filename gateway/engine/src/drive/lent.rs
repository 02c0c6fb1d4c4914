//! Workers that a thread lends to one piece of work after the other.
//!
//! A worker is a future that never ends: it takes its work from the desk of its thread, leaves the result there, and waits. What it
//! needs meanwhile takes some kilobytes; so a connection that waits holds none of them, a piece of work needs no allocation, and
//! nothing is copied to begin one.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread::LocalKey;

/// Workers that a thread keeps.
const SPARE: usize = 64;

type Worker = Pin<Box<dyn Future<Output = Infallible> + Send>>;

/// Where a thread's workers, all of one kind, find work and leave what came of it. Both only pass through: they are on the desk
/// while a worker is being polled, and never longer.
pub struct Desk<W, R> {
    work: Cell<Option<W>>,
    result: Cell<Option<R>>,
    idle: RefCell<Vec<Worker>>,
}

impl<W, R> Desk<W, R> {
    pub const fn new() -> Self {
        Self { work: Cell::new(None), result: Cell::new(None), idle: RefCell::new(Vec::new()) }
    }
}

/// For a worker: waits for its next work.
pub async fn take<W, R>(desk: &'static LocalKey<Desk<W, R>>) -> W {
    poll_fn(|_| desk.with(|desk| desk.work.take()).map_or(Poll::Pending, Poll::Ready)).await
}

/// For a worker: hands its result over. It has to [`take`] next.
pub fn hand_over<W, R>(desk: &'static LocalKey<Desk<W, R>>, result: R) {
    desk.with(|desk| desk.result.set(Some(result)));
}

/// One piece of work. Dropping it ends it, and its worker.
pub struct Lent<W: 'static, R: 'static> {
    desk: &'static LocalKey<Desk<W, R>>,
    work: Option<W>,
    worker: Option<Worker>,
}

impl<W, R> Lent<W, R> {
    /// `hire` makes a worker where none is idle.
    pub fn new<F>(desk: &'static LocalKey<Desk<W, R>>, work: W, hire: impl FnOnce() -> F) -> Self
    where
        F: Future<Output = Infallible> + Send + 'static,
    {
        let worker = desk.with(|desk| desk.idle.borrow_mut().pop()).unwrap_or_else(|| Box::pin(hire()));
        Self { desk, work: Some(work), worker: Some(worker) }
    }
}

impl<W: Unpin, R> Future for Lent<W, R> {
    type Output = R;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<R> {
        let Self { desk, work, worker: place } = &mut *self;
        let Some(mut worker) = place.take() else { unreachable!("polled after it was ready") };
        if let Some(work) = work.take() {
            // A worker that panicked right after it handed over may have left something.
            desk.with(|desk| (desk.work.set(Some(work)), desk.result.set(None)));
        }
        let Poll::Pending = worker.as_mut().poll(context);
        let Some(result) = desk.with(|desk| desk.result.take()) else {
            *place = Some(worker);
            return Poll::Pending;
        };
        // Only now: one that is dropped earlier has to let go of what it holds at once.
        desk.with(|desk| {
            let mut idle = desk.idle.borrow_mut();
            if idle.len() < SPARE {
                idle.push(worker);
            }
        });
        Poll::Ready(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    thread_local! {
        static DESK: Desk<Arc<()>, usize> = const { Desk::new() };
    }

    async fn count() -> Infallible {
        loop {
            let held = take(&DESK).await;
            tokio::task::yield_now().await;
            hand_over(&DESK, Arc::strong_count(&held));
        }
    }

    fn idle() -> usize {
        DESK.with(|desk| desk.idle.borrow().len())
    }

    #[tokio::test]
    async fn a_worker_is_used_again_and_holds_nothing_meanwhile() {
        let held = Arc::new(());
        for _ in 0..3 {
            assert_eq!(Lent::new(&DESK, Arc::clone(&held), count).await, 2);
            assert_eq!((Arc::strong_count(&held), idle()), (1, 1));
        }
    }

    #[tokio::test]
    async fn two_at_a_time_do_not_mix() {
        let (one, other) = (Arc::new(()), Arc::new(()));
        let more = Arc::clone(&other);
        let both = futures::future::join(Lent::new(&DESK, Arc::clone(&one), count), Lent::new(&DESK, other, count));
        assert_eq!(both.await, (2, 2));
        assert_eq!((Arc::strong_count(&one), Arc::strong_count(&more), idle()), (1, 1, 2));
    }

    #[tokio::test]
    async fn what_is_given_up_lets_go_at_once() {
        let held = Arc::new(());
        let mut given_up = Box::pin(Lent::new(&DESK, Arc::clone(&held), count));
        assert!(poll_fn(|context| Poll::Ready(given_up.as_mut().poll(context))).await.is_pending());
        drop(given_up);
        assert_eq!((Arc::strong_count(&held), idle()), (1, 0));
    }

    #[tokio::test]
    async fn one_that_panics_is_not_used_again_and_leaves_nothing_behind() {
        thread_local! {
            static FRAGILE: Desk<u8, u8> = const { Desk::new() };
        }
        let work = |number| {
            Lent::new(&FRAGILE, number, || async {
                loop {
                    let number = take(&FRAGILE).await;
                    assert!(number != 13, "unlucky");
                    hand_over(&FRAGILE, number);
                }
            })
        };
        assert_eq!(work(1).await, 1);
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut context = Context::from_waker(std::task::Waker::noop());
            Pin::new(&mut work(13)).poll(&mut context).is_ready()
        }));
        assert!(caught.is_err());
        assert_eq!(work(2).await, 2);
    }
}
