//! The deadline between two pieces of an HTTP/2 request body. On HTTP/1 Pingora's read timeout does this; on HTTP/2 that
//! timeout does nothing, and a client that stops sending would hold its stream, and a backend, for ever.

use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Shared by a stream's driver, which says when something came, and its task, which gives up.
#[derive(Default)]
pub struct BodyWatch {
    /// `None` while nothing is awaited.
    since: Mutex<Option<Instant>>,
    expired: AtomicBool,
}

impl BodyWatch {
    /// The client owes a piece of its body from now on.
    pub fn awaits(&self) {
        *self.since.lock() = Some(Instant::now());
    }

    /// The body is complete.
    pub fn ends(&self) {
        *self.since.lock() = None;
    }

    pub fn is_expired(&self) -> bool {
        self.expired.load(Ordering::Acquire)
    }

    /// Returns when the client has owed for longer than `limit`.
    pub async fn expires(&self, limit: Duration) {
        loop {
            let since = *self.since.lock();
            let due = since.unwrap_or_else(Instant::now) + limit;
            tokio::time::sleep_until(due).await;
            if since.is_some() && *self.since.lock() == since {
                self.expired.store(true, Ordering::Release);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn it_expires_only_while_something_is_owed() {
        let watch = BodyWatch::default();
        assert!(tokio::time::timeout(LIMIT * 5, watch.expires(LIMIT)).await.is_err());
        watch.awaits();
        assert!(tokio::time::timeout(LIMIT * 3, watch.expires(LIMIT)).await.is_ok());
        assert!(watch.is_expired());
    }

    #[tokio::test(start_paused = true)]
    async fn each_piece_gives_new_time() {
        let watch = BodyWatch::default();
        watch.awaits();
        let pieces = async {
            for _ in 0..5 {
                tokio::time::sleep(LIMIT / 2).await;
                watch.awaits();
            }
            watch.ends();
            tokio::time::sleep(LIMIT * 3).await;
        };
        tokio::select! {
            () = watch.expires(LIMIT) => panic!("the client kept sending"),
            () = pieces => {}
        }
    }
}
