//! A future in a place that its thread keeps for the next one. What serves a request takes some kilobytes; so a connection that
//! waits holds none of them, and a request needs no allocation.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::thread::LocalKey;
use tokio_util::sync::ReusableBoxFuture;

/// Places that a thread keeps.
const SPARE: usize = 64;

pub type Spares<T> = RefCell<Vec<ReusableBoxFuture<'static, T>>>;

/// Not to be polled again once it was ready.
pub struct Lent<T: 'static> {
    spares: &'static LocalKey<Spares<T>>,
    place: Option<ReusableBoxFuture<'static, T>>,
}

impl<T: 'static> Lent<T> {
    /// `spares` are all of one kind of future.
    pub fn new(spares: &'static LocalKey<Spares<T>>, future: impl Future<Output = T> + Send + 'static) -> Self {
        let place = match spares.with_borrow_mut(Vec::pop) {
            Some(mut place) => {
                place.set(future);
                place
            }
            None => ReusableBoxFuture::new(future),
        };
        Self { spares, place: Some(place) }
    }
}

impl<T: 'static> Future for Lent<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let Some(place) = &mut self.place else { unreachable!("polled after it was ready") };
        let output = ready!(place.poll(context));
        // Only now: one that is dropped earlier has to let go of what it holds at once. What is left in it here is nothing.
        if let Some(place) = self.place.take() {
            // A thread that ends keeps nothing.
            let _ = self.spares.try_with(|spares| {
                let mut spares = spares.borrow_mut();
                if spares.len() < SPARE {
                    spares.push(place);
                }
            });
        }
        Poll::Ready(output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    thread_local! {
        static SPARES: Spares<usize> = const { RefCell::new(Vec::new()) };
    }

    async fn count(held: Arc<()>) -> usize {
        tokio::task::yield_now().await;
        Arc::strong_count(&held)
    }

    #[tokio::test]
    async fn a_place_is_used_again_and_holds_nothing_meanwhile() {
        let held = Arc::new(());
        for _ in 0..3 {
            assert_eq!(Lent::new(&SPARES, count(Arc::clone(&held))).await, 2);
            assert_eq!((Arc::strong_count(&held), SPARES.with_borrow(Vec::len)), (1, 1));
        }
    }

    #[tokio::test]
    async fn what_is_given_up_lets_go_at_once() {
        let held = Arc::new(());
        let mut given_up = Box::pin(Lent::new(&SPARES, count(Arc::clone(&held))));
        assert!(std::future::poll_fn(|context| Poll::Ready(given_up.as_mut().poll(context))).await.is_pending());
        drop(given_up);
        assert_eq!((Arc::strong_count(&held), SPARES.with_borrow(Vec::len)), (1, 0));
    }
}
