//! What a pool's backends speak, where TLS leaves it to them: seen on connections, and remembered for as long as the pool lasts.

use std::sync::atomic::{AtomicU8, Ordering};

const UNKNOWN: u8 = 0;
const HTTP1: u8 = 1;
const HTTP2: u8 = 2;

/// One backend that has chosen HTTP/2 decides for all: only Pingora's driver can then speak to each as it likes.
#[derive(Debug, Default)]
pub struct Spoken(AtomicU8);

impl Spoken {
    /// A backend has chosen, of both.
    pub fn learn(&self, http2: bool) {
        if http2 {
            self.0.store(HTTP2, Ordering::Relaxed);
        } else {
            let _ = self.0.compare_exchange(UNKNOWN, HTTP1, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Whether all that have chosen so far, and at least one, have chosen HTTP/1.1.
    pub fn is_http1(&self) -> bool {
        self.0.load(Ordering::Relaxed) == HTTP1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_taken_for_http1_before_a_backend_says_so_nor_after_one_says_otherwise() {
        let spoken = Spoken::default();
        assert!(!spoken.is_http1());
        spoken.learn(false);
        assert!(spoken.is_http1());
        spoken.learn(true);
        assert!(!spoken.is_http1());
        spoken.learn(false);
        assert!(!spoken.is_http1());
    }
}
