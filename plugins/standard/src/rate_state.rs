//! What a rate limit remembers: over requests, over reloads, and of quotas over restarts if there is a folder for it.

use crate::calendar::{Account, CalendarQuota, Counts};
use crate::gcra::Buckets;
use crate::quota_file::{FileError, QuotaFile};
use crate::slots::{Key, Keyed};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use parking_lot::Mutex;
use portcullis_plugin::env::AtEnd;
use portcullis_plugin::prometheus::IntCounter;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant, SystemTime};

/// Between two writes of a file: what a crash may lose.
const PAUSE: Duration = Duration::from_secs(1);

/// Nanoseconds that only go forward: the wall clock may be set back, and would then refuse or open for a while. Quotas are
/// by the calendar, and so by the wall clock.
pub(crate) enum Clock {
    Monotonic(Instant),
    #[cfg(test)]
    Manual(std::sync::atomic::AtomicU64),
}

impl Clock {
    pub(crate) fn now(&self) -> u64 {
        match self {
            Self::Monotonic(origin) => u64::try_from(origin.elapsed().as_nanos()).unwrap_or(u64::MAX),
            #[cfg(test)]
            Self::Manual(now) => now.load(Ordering::Relaxed),
        }
    }
}

pub(crate) struct State {
    pub(crate) keyed: Keyed,
    pub(crate) buckets: Buckets,
    /// Made when there first is a quota by the day, or by the month.
    days: OnceLock<Counts>,
    months: OnceLock<Counts>,
    max_keys: usize,
    pub(crate) clock: Clock,
    lasting: Option<Lasting>,
}

struct Lasting {
    file: QuotaFile,
    seed: [u8; 32],
    /// There are counts that the file does not have.
    dirty: AtomicBool,
    writing: Mutex<()>,
    /// Wakes the thread that writes. There is one from the first real request on, so that whoever only looks at a
    /// configuration writes nothing.
    wake: OnceLock<SyncSender<()>>,
    errors: IntCounter,
}

impl State {
    pub(crate) fn new(max_keys: usize, clock: Clock) -> Self {
        let (days, months) = (OnceLock::new(), OnceLock::new());
        Self { keyed: Keyed::new(), buckets: Buckets::new(max_keys), days, months, max_keys, clock, lasting: None }
    }

    /// With the counts of the file, if it is there.
    ///
    /// # Errors
    /// If it cannot be read: nobody's quota is to begin anew because of that.
    pub(crate) fn lasting(max_keys: usize, clock: Clock, file: QuotaFile, errors: IntCounter) -> Result<Self, FileError> {
        let (seed, entries) = match file.read()? {
            Some(found) => found,
            None => {
                let mut seed = [0; 32];
                SystemRandom::new().fill(&mut seed).map_err(|_| io::Error::other("no random numbers"))?;
                (seed, Vec::new())
            }
        };
        let lasting =
            Lasting { file, seed, dirty: AtomicBool::new(false), writing: Mutex::new(()), wake: OnceLock::new(), errors };
        let mut state = Self::new(max_keys, clock);
        (state.keyed, state.lasting) = (Keyed::lasting(seed), Some(lasting));
        for entry in entries {
            let counts = if entry.by_month { &state.months } else { &state.days };
            counts.get_or_init(|| Counts::new(max_keys)).restore(entry);
        }
        Ok(state)
    }

    /// Counts one request of `key` against `quota`. The second value says whether another key lost its place for it.
    pub(crate) fn take(self: &Arc<Self>, key: Key, now: SystemTime, quota: CalendarQuota, rehearsed: bool) -> (Account, bool) {
        let counts = quota.period.of(&self.days, &self.months).get_or_init(|| Counts::new(self.max_keys));
        let taken = counts.take(key, now, quota);
        if let Some(lasting) = &self.lasting
            && taken.0.allowed
            && !rehearsed
            && !lasting.dirty.load(Ordering::Relaxed)
            && !lasting.dirty.swap(true, Ordering::AcqRel)
        {
            let wake = lasting.wake.get_or_init(|| {
                let (wake, woken) = sync_channel(1);
                let state = Arc::downgrade(self);
                let thread = std::thread::Builder::new().name("quotas".into()).spawn(move || keep_writing(&woken, &state));
                if thread.is_err() {
                    lasting.errors.inc();
                }
                wake
            });
            // If it is full, the thread is about to look anyway.
            let _ = wake.try_send(());
        }
        taken
    }

    /// Writes what the file does not have. Whether it has all counts now.
    fn save(&self) -> bool {
        let Some(lasting) = &self.lasting else { return true };
        // One at a time: an older file must not take the place of a newer one, and who waits here waits for the disk.
        let _writing = lasting.writing.lock();
        // Before the counts are read: what changes from here on is for the next time.
        if !lasting.dirty.swap(false, Ordering::AcqRel) {
            return true;
        }
        let mut entries = Vec::new();
        for (by_month, counts) in [(false, &self.days), (true, &self.months)] {
            counts.get().into_iter().for_each(|counts| counts.each(|entry| entries.push(entry(by_month))));
        }
        let saved = lasting.file.write(&lasting.seed, &entries).is_ok();
        if !saved {
            lasting.errors.inc();
            lasting.dirty.store(true, Ordering::Release);
        }
        saved
    }
}

impl AtEnd for State {
    fn at_end(&self) {
        self.save();
    }
}

/// When a reload has left it out.
impl Drop for State {
    fn drop(&mut self) {
        self.save();
    }
}

fn keep_writing(woken: &Receiver<()>, state: &Weak<State>) {
    while woken.recv().is_ok() {
        loop {
            std::thread::sleep(PAUSE);
            match state.upgrade() {
                Some(state) if state.save() => break,
                Some(_) => {}
                None => return,
            }
        }
    }
}

#[cfg(test)]
#[path = "rate_state_tests.rs"]
mod tests;
