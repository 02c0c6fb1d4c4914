//! Buffers of heads that are done, kept by their thread for the next ones: a request then asks the allocator for none.
//!
//! Dropping a head gives its buffers back. A thread keeps few and small ones, so that a flood leaves nothing behind.

use std::cell::RefCell;

/// Buffers of each kind that a thread keeps.
const SPARE: usize = 64;
/// Larger ones are let go.
const LARGEST: usize = 16 << 10;

/// A stack of buffers.
pub(crate) struct Spares<T>(RefCell<Vec<Vec<T>>>);

impl<T> Spares<T> {
    pub(crate) const fn new() -> Self {
        Self(RefCell::new(Vec::new()))
    }

    /// An empty one with room for `room`.
    pub(crate) fn take(&self, room: usize) -> Vec<T> {
        let mut buffer = self.0.borrow_mut().pop().unwrap_or_default();
        buffer.reserve(room);
        buffer
    }

    pub(crate) fn give(&self, mut buffer: Vec<T>) {
        let bytes = buffer.capacity() * size_of::<T>();
        if bytes == 0 || bytes > LARGEST {
            return;
        }
        buffer.clear();
        let mut spares = self.0.borrow_mut();
        if spares.len() < SPARE {
            spares.push(buffer);
        }
    }
}

thread_local! {
    pub(crate) static BYTES: Spares<u8> = const { Spares::new() };
}

/// A text in a buffer that was used before, if there is one. For the code that makes heads.
pub fn driver_text(text: &str) -> String {
    // Empty, which is a text.
    let mut copy = String::from_utf8(BYTES.with(|spares| spares.take(text.len()))).unwrap_or_default();
    copy.push_str(text);
    copy
}

/// Keeps the buffer of a text that is not needed any more.
pub(crate) fn give_text(text: String) {
    // A thread that ends keeps nothing.
    let _ = BYTES.try_with(|spares| spares.give(text.into_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_empty_and_no_large_one_is_kept() {
        let spares = Spares::<u8>::new();
        let mut buffer = spares.take(10);
        buffer.extend_from_slice(b"secret");
        let place = buffer.as_ptr();
        spares.give(buffer);
        let again = spares.take(5);
        assert!(again.is_empty() && again.as_ptr() == place);
        spares.give(Vec::with_capacity(LARGEST + 1));
        assert_eq!(spares.take(0).capacity(), 0);
    }

    #[test]
    fn a_thread_keeps_so_many_and_no_more() {
        let spares = Spares::<u8>::new();
        for _ in 0..2 * SPARE {
            spares.give(Vec::with_capacity(10));
        }
        assert_eq!(spares.0.borrow().len(), SPARE);
    }
}
