//! Buffers that a thread keeps, and lends for as long as something is in them: the one that was used last is the one that is used
//! next, and still in the processor's cache then. A request that waits holds none.

use bytes::BytesMut;
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::thread::LocalKey;

/// Buffers of each kind that a thread keeps.
const SPARE: usize = 64;
/// Larger ones are let go.
const LARGEST: usize = 80 << 10;

pub trait Buffer: Default + 'static {
    fn spares() -> &'static LocalKey<RefCell<Vec<Self>>>;
    fn capacity(&self) -> usize;
    fn clear(&mut self);
}

thread_local! {
    static VECS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static BYTES: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

impl Buffer for Vec<u8> {
    fn spares() -> &'static LocalKey<RefCell<Vec<Self>>> {
        &VECS
    }

    fn capacity(&self) -> usize {
        self.capacity()
    }

    fn clear(&mut self) {
        self.clear();
    }
}

impl Buffer for BytesMut {
    fn spares() -> &'static LocalKey<RefCell<Vec<Self>>> {
        &BYTES
    }

    fn capacity(&self) -> usize {
        self.capacity()
    }

    fn clear(&mut self) {
        self.clear();
    }
}

/// A buffer, or the want of one: empty then. Dropping it gives the buffer back.
#[derive(Default)]
pub struct Spare<B: Buffer>(B);

impl<B: Buffer> Spare<B> {
    /// Has one from now on.
    pub fn lend(&mut self) {
        if self.0.capacity() == 0 {
            self.0 = B::spares().with_borrow_mut(Vec::pop).unwrap_or_default();
        }
    }

    pub fn lent() -> Self {
        let mut spare = Self::default();
        spare.lend();
        spare
    }

    /// Has none from now on, nor what was in it.
    pub fn give_back(&mut self) {
        let mut buffer = std::mem::take(&mut self.0);
        if buffer.capacity() == 0 || buffer.capacity() > LARGEST {
            return;
        }
        buffer.clear();
        // A thread that ends keeps nothing.
        let _ = B::spares().try_with(|spares| {
            let mut spares = spares.borrow_mut();
            if spares.len() < SPARE {
                spares.push(buffer);
            }
        });
    }
}

impl<B: Buffer> Drop for Spare<B> {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl<B: Buffer> Deref for Spare<B> {
    type Target = B;

    fn deref(&self) -> &B {
        &self.0
    }
}

impl<B: Buffer> DerefMut for Spare<B> {
    fn deref_mut(&mut self) -> &mut B {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_last_is_used_next_and_nothing_is_in_it() {
        let mut first = Spare::<Vec<u8>>::lent();
        first.extend_from_slice(b"secret");
        let place = first.as_ptr();
        drop(Spare::<Vec<u8>>::lent());
        first.give_back();
        assert_eq!(first.capacity(), 0);
        let next = Spare::<Vec<u8>>::lent();
        assert!(next.is_empty() && next.as_ptr() == place);
    }

    #[test]
    fn a_thread_keeps_few_and_small_ones() {
        let held: Vec<_> = (0..2 * SPARE)
            .map(|_| {
                let mut spare = Spare::<BytesMut>::lent();
                spare.reserve(10);
                spare
            })
            .collect();
        drop(held);
        assert_eq!(BYTES.with_borrow(Vec::len), SPARE);
        let mut large = Spare::<BytesMut>::lent();
        large.reserve(LARGEST + 1);
        drop(large);
        assert_eq!(BYTES.with_borrow(Vec::len), SPARE - 1);
    }
}
