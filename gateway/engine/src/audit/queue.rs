//! From a request to the disk: a bounded queue of records, and a thread that seals and writes them.
//!
//! What cannot be written is tried again until it can; meanwhile the log is *failing*, and so it is while the queue is
//! nearly full: records that would not fit are to have been refused before.

use super::chain::{Head, Seal};
use super::event;
use super::file::{Store, Torn};
use crate::metrics::AuditMetrics;
use crate::spool::{Asked, Complaints, GATHER, KEEP_BYTES, Progress, Spool};
use parking_lot::MutexGuard;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// Until what failed is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// Bytes that may wait for each record that may.
const BYTES_PER_RECORD: usize = 2048;

pub(super) struct Queue {
    spool: Spool<State>,
    limit: AtomicUsize,
    failing: AtomicBool,
    metrics: AuditMetrics,
}

#[derive(Default)]
struct State {
    /// Records without their places in the chain, each with a line feed.
    pending: Vec<u8>,
    /// Records that are pending or being written.
    waiting: usize,
    /// Bytes being written.
    writing: usize,
    accepted: u64,
    done: u64,
    missing: Missing,
    /// The thread waits for the first record, and is to be called when it comes.
    idle: bool,
    asked: Asked,
    /// The last record on the disk.
    head: Head,
    error: Option<String>,
}

/// Records that will never be written. What is missing is itself recorded.
#[derive(Default)]
pub(super) struct Missing {
    /// They found the queue full.
    pub(super) lost: u64,
    /// Requests that were refused because the log was failing.
    pub(super) refused: u64,
    pub(super) since: Option<SystemTime>,
}

impl Queue {
    pub(super) fn start(
        file: Box<dyn Store>,
        seal: Seal,
        head: Head,
        limit: usize,
        metrics: AuditMetrics,
    ) -> std::io::Result<Arc<Self>> {
        metrics.failing.set(0);
        let queue = Arc::new(Self {
            spool: Spool::new(State { head, ..State::default() }),
            limit: AtomicUsize::new(limit),
            failing: AtomicBool::new(false),
            metrics,
        });
        let writer = Writer { queue: Arc::clone(&queue), file, seal, head, complaints: Complaints::default() };
        thread::Builder::new().name("audit-log".to_owned()).spawn(move || writer.run())?;
        Ok(queue)
    }

    pub(super) fn resize(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Whether records cannot be written now, or soon will find no room.
    pub(super) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Why it fails.
    pub(super) fn error(&self) -> Option<String> {
        self.is_failing().then(|| self.spool.lock().error.clone().unwrap_or_else(|| "the queue is full: the disk is slow".into()))
    }

    pub(super) fn head(&self) -> Head {
        self.spool.lock().head
    }

    /// `record` is one JSON object, without a line feed.
    pub(super) fn push(&self, record: &[u8]) {
        let limit = self.limit.load(Ordering::Relaxed);
        let mut state = self.spool.lock();
        let bytes = state.pending.len() + state.writing + record.len();
        if state.asked.closing || state.waiting >= limit || bytes > limit.saturating_mul(BYTES_PER_RECORD) {
            state.missing.lost += 1;
            state.missing.since.get_or_insert_with(SystemTime::now);
            self.metrics.lost.inc();
            self.fails(true);
            return;
        }
        state.pending.extend_from_slice(record);
        state.pending.push(b'\n');
        state.waiting += 1;
        state.accepted += 1;
        // Requests in flight still have their records to bring.
        if state.waiting > limit - limit / 8 {
            self.fails(true);
        }
        let call = std::mem::take(&mut state.idle);
        drop(state);
        if call {
            self.spool.call();
        }
    }

    /// A request was refused because the log is failing: it is counted, for a record of its own would find no room.
    pub(super) fn refused(&self) {
        let mut state = self.spool.lock();
        state.missing.refused += 1;
        state.missing.since.get_or_insert_with(SystemTime::now);
        drop(state);
        self.spool.call();
    }

    fn fails(&self, failing: bool) {
        if self.failing.swap(failing, Ordering::Relaxed) != failing {
            self.metrics.failing.set(failing.into());
        }
    }

    pub(super) fn reopen(&self) {
        self.spool.reopen();
    }

    /// Takes no more records; the thread ends once what waits is written, or cannot be.
    pub(super) fn close(&self) {
        self.spool.close();
    }

    /// Waits until every record handed over before is on the disk, at most `limit`. Says whether that came about.
    pub(super) fn flush(&self, limit: Duration) -> bool {
        self.spool.flush(limit)
    }
}

impl State {
    fn is_missing_some(&self) -> bool {
        self.missing.since.is_some()
    }
}

impl Progress for State {
    fn asked(&mut self) -> &mut Asked {
        &mut self.asked
    }

    fn accepted(&self) -> u64 {
        self.accepted
    }

    fn settled(&self) -> u64 {
        self.done
    }
}

struct Writer {
    queue: Arc<Queue>,
    file: Box<dyn Store>,
    seal: Seal,
    head: Head,
    complaints: Complaints,
}

impl Writer {
    fn run(mut self) {
        let (mut batch, mut sealed) = (Vec::new(), Vec::new());
        let queue = Arc::clone(&self.queue);
        loop {
            let mut state = queue.spool.lock();
            wait_for_work(&queue, &mut state);
            std::mem::swap(&mut state.pending, &mut batch);
            state.writing = batch.len();
            state.asked.flush = false;
            let (records, reopen) = (state.waiting, std::mem::take(&mut state.asked.reopen));
            let missing = std::mem::take(&mut state.missing);
            let last = state.asked.closing && batch.is_empty() && missing.since.is_none();
            drop(state);
            if last {
                return;
            }
            if reopen {
                self.reopen();
            }
            // They came after what waited.
            if missing.since.is_some() {
                event::missing(&mut batch, &missing);
            }
            let mut head = self.head;
            for record in batch.split(|b| *b == b'\n').filter_map(|line| line.strip_prefix(b"{")?.strip_suffix(b"}")) {
                head = self.seal.append(head, record, &mut sealed);
            }
            let written = self.write(&sealed);
            if written {
                queue.metrics.records.inc_by(head.seq - self.head.seq);
                self.head = head;
            } else {
                queue.metrics.lost.inc_by(records as u64);
            }
            batch.clear();
            batch.shrink_to(KEEP_BYTES);
            sealed.clear();
            sealed.shrink_to(KEEP_BYTES);
            let mut state = queue.spool.lock();
            state.writing = 0;
            state.waiting -= records;
            state.done += records as u64;
            state.head = self.head;
            if written && state.waiting <= queue.limit.load(Ordering::Relaxed) / 2 {
                state.error = None;
                queue.fails(false);
            }
            queue.spool.settle(state);
        }
    }

    /// Tries until it is done. `false`: the log is closed, and that was the last try.
    fn write(&mut self, bytes: &[u8]) -> bool {
        loop {
            let error = match self.file.append(bytes) {
                Ok(()) => return true,
                Err(error) => error,
            };
            let closing = self.fail("written", &error);
            if closing {
                return false;
            }
            // A batch that cannot be written may still go to where the file is opened anew.
            let until = Instant::now() + AGAIN;
            let mut state = self.queue.spool.lock();
            while !state.asked.reopen && !state.asked.closing && self.queue.spool.wait_until(&mut state, until) {}
            let reopen = std::mem::take(&mut state.asked.reopen);
            drop(state);
            if reopen {
                self.reopen_for_retry();
            }
        }
    }

    /// Before a batch is sealed: the new file begins with a record of its own.
    fn reopen(&mut self) {
        match self.file.reopen(&self.seal, self.head) {
            Ok(false) => {}
            Ok(true) => {
                let (mut record, mut sealed) = (Vec::new(), Vec::new());
                event::rotated(&mut record);
                let members = record.strip_prefix(b"{").and_then(|record| record.strip_suffix(b"}\n")).unwrap_or_default();
                let head = self.seal.append(self.head, members, &mut sealed);
                tracing::info!(seq = head.seq, previous = %self.head.hash, "the audit log goes on in a new file");
                if self.write(&sealed) {
                    self.head = head;
                    self.queue.metrics.records.inc();
                }
            }
            Err(error) => {
                self.fail("reopened", &error);
            }
        }
    }

    /// Between two tries: the batch is sealed already, and begins the new file.
    fn reopen_for_retry(&mut self) {
        if let Err(error) = self.file.reopen(&self.seal, self.head) {
            self.fail("reopened", &error);
        }
    }

    /// Says whether the log is being closed.
    fn fail(&mut self, what: &str, error: &dyn std::fmt::Display) -> bool {
        self.queue.metrics.errors.inc();
        let mut state = self.queue.spool.lock();
        if what == "written" {
            state.error = Some(error.to_string());
            self.queue.fails(true);
        }
        let closing = state.asked.closing;
        drop(state);
        if self.complaints.due() {
            tracing::error!(%error, "the audit log cannot be {what}");
        }
        closing
    }
}

fn wait_for_work(queue: &Queue, state: &mut MutexGuard<'_, State>) {
    while state.pending.is_empty() && !state.is_missing_some() && !state.asked.urgent() {
        state.idle = true;
        queue.spool.wait(state);
    }
    state.idle = false;
    if !state.asked.urgent() {
        let until = Instant::now() + GATHER;
        while !state.asked.urgent() && queue.spool.wait_until(state, until) {}
    }
}

/// For the gateway's own log: what was found at the end of a file.
pub(super) fn warn_of(torn: &Torn, path: &Path) {
    tracing::warn!(
        path = %path.display(), bytes = torn.bytes.len(), sha256 = %torn.sha256,
        "the audit log ended within a line: it was taken out, and recorded"
    );
}
