//! What the writers of the access log and of the audit log have in common: those who hand something over, and the thread
//! that takes it to the disk.

use parking_lot::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How long the thread gathers once the first has come: fewer writes, and fewer wake-ups that a request pays for.
pub const GATHER: Duration = Duration::from_millis(5);

/// A buffer that a burst made larger than this is given back.
pub const KEEP_BYTES: usize = 1 << 20;

/// How often a disk that fails is talked about.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// What the thread is asked for beside writing.
#[derive(Debug, Default)]
pub struct Asked {
    pub reopen: bool,
    pub flush: bool,
    pub closing: bool,
}

impl Asked {
    pub fn urgent(&self) -> bool {
        self.reopen || self.flush || self.closing
    }
}

/// What waits, and how far it has come.
pub trait Progress {
    fn asked(&mut self) -> &mut Asked;

    /// How many were ever taken in.
    fn accepted(&self) -> u64;

    /// How many of these are written, or lost.
    fn settled(&self) -> u64;
}

/// Between requests and the thread. Never locked while the disk is waited for.
#[derive(Debug, Default)]
pub struct Spool<S> {
    state: Mutex<S>,
    /// Wakes the thread.
    work: Condvar,
    /// Wakes those who wait in `flush`.
    settled: Condvar,
}

impl<S: Progress> Spool<S> {
    pub fn new(state: S) -> Self {
        Self { state: Mutex::new(state), work: Condvar::new(), settled: Condvar::new() }
    }

    pub fn lock(&self) -> MutexGuard<'_, S> {
        self.state.lock()
    }

    pub fn call(&self) {
        self.work.notify_one();
    }

    /// Gives the state back, and tells those who wait for it.
    pub fn settle(&self, state: MutexGuard<'_, S>) {
        drop(state);
        self.settled.notify_all();
    }

    /// For the thread: until it is called.
    pub fn wait(&self, state: &mut MutexGuard<'_, S>) {
        self.work.wait(state);
    }

    /// For the thread: until it is called or that time has come. Says whether it was called.
    pub fn wait_until(&self, state: &mut MutexGuard<'_, S>, until: Instant) -> bool {
        !self.work.wait_until(state, until).timed_out()
    }

    pub fn reopen(&self) {
        self.lock().asked().reopen = true;
        self.call();
    }

    /// Takes no more; the thread ends once what waits is written, or cannot be.
    pub fn close(&self) {
        self.lock().asked().closing = true;
        self.call();
    }

    /// Waits until all that was handed over before is settled, at most `limit`. Says whether that came about.
    pub fn flush(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut state = self.lock();
        let target = state.accepted();
        while state.settled() < target {
            state.asked().flush = true;
            self.call();
            if self.settled.wait_until(&mut state, deadline).timed_out() {
                return state.settled() >= target;
            }
        }
        true
    }
}

/// When the gateway's own log was last told of a disk that fails.
#[derive(Debug, Default)]
pub struct Complaints(Option<Instant>);

impl Complaints {
    /// Whether it is time for another one, which is then taken as made.
    pub fn due(&mut self) -> bool {
        let due = self.0.is_none_or(|when| when.elapsed() >= COMPLAIN_EVERY);
        if due {
            self.0 = Some(Instant::now());
        }
        due
    }
}
