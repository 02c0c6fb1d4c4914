//! From a request to the file: a bounded queue, and a thread that empties it.
//!
//! Lines are appended to one buffer under a short lock; the thread swaps it for an empty one and writes it in one call. The
//! lock is never held while the disk is waited for.

use crate::spool::{Asked, Complaints, GATHER, KEEP_BYTES, Progress, Spool};
use parking_lot::MutexGuard;
use prometheus::IntCounter;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Bytes that may wait for each line that may: an ordinary line is half of it, and lines that an attacker made long must
/// not take all memory while the disk is slow.
const BYTES_PER_LINE: usize = 1024;

/// With very few lines allowed, the longest one still fits.
const MIN_BYTES: usize = 256 << 10;

/// Where lines end up. May block as long as it likes: only its own thread waits.
pub trait Sink: Send {
    /// As [`Write::write`].
    ///
    /// # Errors
    /// If nothing could be written.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Opens the place again under its name.
    ///
    /// # Errors
    /// If that fails; writing then goes on to the old place.
    fn reopen(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Whether what is there already ends within a line.
    fn starts_torn(&self) -> bool {
        false
    }

    /// For messages.
    fn name(&self) -> String;
}

/// A file, opened for appending.
pub(super) struct FileSink {
    path: PathBuf,
    file: File,
    torn: bool,
}

impl FileSink {
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let (file, torn) = open_for_append(&path)?;
        Ok(Self { path, file, torn })
    }
}

fn open_for_append(path: &std::path::Path) -> io::Result<(File, bool)> {
    #[cfg(unix)]
    if std::fs::metadata(path).is_ok_and(|metadata| std::os::unix::fs::FileTypeExt::is_fifo(&metadata.file_type())) {
        // Opening one waits until somebody reads it.
        return Err(io::Error::new(io::ErrorKind::Unsupported, "it is a named pipe"));
    }
    let mut options = File::options();
    options.append(true).create(true);
    #[cfg(unix)]
    // Who called what is not for everybody on this machine.
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o640);
    let file = options.open(path)?;
    Ok((file, ends_within_a_line(path).unwrap_or(false)))
}

/// A crash, or a full disk, may have left half a line at the end: the first new one must not continue it.
fn ends_within_a_line(path: &std::path::Path) -> io::Result<bool> {
    if !std::fs::metadata(path)?.is_file() {
        return Ok(false);
    }
    let mut file = File::open(path)?;
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(false);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

impl Sink for FileSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn reopen(&mut self) -> io::Result<()> {
        (self.file, self.torn) = open_for_append(&self.path)?;
        Ok(())
    }

    fn starts_torn(&self) -> bool {
        self.torn
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }
}

pub(super) struct StdoutSink;

impl Sink for StdoutSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()?;
        Ok(bytes.len())
    }

    fn name(&self) -> String {
        "standard output".to_owned()
    }
}

/// Where losses are counted.
pub(super) struct Loss {
    pub(super) dropped: IntCounter,
    pub(super) errors: IntCounter,
}

pub(super) struct Queue {
    spool: Spool<State>,
    max_lines: u64,
    max_bytes: usize,
    dropped: IntCounter,
}

#[derive(Default)]
struct State {
    pending: Vec<u8>,
    /// Bytes that the thread is writing now.
    writing: usize,
    /// Lines ever taken in, and of these the ones written or lost. The difference is what waits.
    accepted: u64,
    settled: u64,
    thread: Thread,
    asked: Asked,
}

impl Progress for State {
    fn asked(&mut self) -> &mut Asked {
        &mut self.asked
    }

    fn accepted(&self) -> u64 {
        self.accepted
    }

    fn settled(&self) -> u64 {
        self.settled
    }
}

/// What the thread is doing, so that a request wakes it only when it must.
#[derive(Default, PartialEq)]
enum Thread {
    /// Busy, or already called.
    #[default]
    Awake,
    /// Waiting for the first line.
    Idle,
    /// Waiting for more lines.
    Gathering,
}

impl State {
    fn waiting(&self) -> u64 {
        self.accepted - self.settled
    }
}

impl Queue {
    pub(super) fn start(sink: Box<dyn Sink>, max_lines: usize, loss: Loss) -> io::Result<Arc<Self>> {
        let queue = Arc::new(Self {
            spool: Spool::default(),
            max_lines: max_lines as u64,
            max_bytes: max_lines.saturating_mul(BYTES_PER_LINE).max(MIN_BYTES),
            dropped: loss.dropped.clone(),
        });
        let writer = Writer { torn: sink.starts_torn(), sink, loss, complaints: Complaints::default(), unsaid: 0 };
        let thread_queue = Arc::clone(&queue);
        thread::Builder::new().name("access-log".to_owned()).spawn(move || thread_queue.run(writer))?;
        Ok(queue)
    }

    /// `line` ends with its only line feed.
    pub(super) fn push(&self, line: &[u8]) {
        let mut state = self.spool.lock();
        let full = state.waiting() >= self.max_lines || state.pending.len() + state.writing + line.len() > self.max_bytes;
        if full || state.asked.closing {
            drop(state);
            self.dropped.inc();
            return;
        }
        state.pending.extend_from_slice(line);
        state.accepted += 1;
        let call = match state.thread {
            Thread::Awake => false,
            Thread::Idle => true,
            Thread::Gathering => self.is_half_full(&state),
        };
        if call {
            state.thread = Thread::Awake;
            drop(state);
            self.spool.call();
        }
    }

    fn is_half_full(&self, state: &State) -> bool {
        state.waiting() * 2 >= self.max_lines || state.pending.len() * 2 >= self.max_bytes
    }

    pub(super) fn reopen(&self) {
        self.spool.reopen();
    }

    pub(super) fn close(&self) {
        self.spool.close();
    }

    pub(super) fn flush(&self, limit: Duration) -> bool {
        self.spool.flush(limit)
    }

    fn run(&self, mut writer: Writer) {
        let mut batch = Vec::new();
        loop {
            let mut state = self.spool.lock();
            self.wait_for_work(&mut state);
            std::mem::swap(&mut state.pending, &mut batch);
            let (lines, reopen) = (state.waiting(), std::mem::take(&mut state.asked.reopen));
            state.writing = batch.len();
            state.asked.flush = false;
            let last = state.asked.closing && batch.is_empty();
            drop(state);
            if last {
                return;
            }
            writer.write(&batch, lines);
            if reopen {
                writer.reopen();
            }
            batch.clear();
            batch.shrink_to(KEEP_BYTES);
            let mut state = self.spool.lock();
            state.writing = 0;
            state.settled += lines;
            self.spool.settle(state);
        }
    }

    fn wait_for_work(&self, state: &mut MutexGuard<'_, State>) {
        while state.pending.is_empty() && !state.asked.urgent() {
            state.thread = Thread::Idle;
            self.spool.wait(state);
        }
        if !state.asked.urgent() && !self.is_half_full(state) {
            state.thread = Thread::Gathering;
            // However it ends, there is something to write.
            let _ = self.spool.wait_until(state, Instant::now() + GATHER);
        }
        state.thread = Thread::Awake;
    }
}

struct Writer {
    sink: Box<dyn Sink>,
    /// What is in the file ends within a line.
    torn: bool,
    loss: Loss,
    complaints: Complaints,
    /// Lines lost since the last complaint.
    unsaid: u64,
}

impl Writer {
    fn write(&mut self, batch: &[u8], lines: u64) {
        let mut rest = batch;
        if let Err(error) = self.try_write(&mut rest) {
            if rest.len() < batch.len() {
                self.torn = batch.get(batch.len() - rest.len() - 1) != Some(&b'\n');
            }
            // A line whose end is not written is lost.
            let lost = (memchr::memchr_iter(b'\n', rest).count() as u64).min(lines);
            self.loss.dropped.inc_by(lost);
            self.complain("write", &error, lost);
        }
    }

    fn try_write(&mut self, rest: &mut &[u8]) -> io::Result<()> {
        if rest.is_empty() {
            return Ok(());
        }
        if self.torn {
            self.write_some(b"\n")?;
            self.torn = false;
        }
        while !rest.is_empty() {
            let written = self.write_some(rest)?;
            *rest = rest.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.sink.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn reopen(&mut self) {
        match self.sink.reopen() {
            Ok(()) => self.torn = self.sink.starts_torn(),
            Err(error) => self.complain("reopen", &error, 0),
        }
    }

    fn complain(&mut self, doing: &str, error: &io::Error, lost: u64) {
        self.loss.errors.inc();
        self.unsaid += lost;
        if self.complaints.due() {
            tracing::error!(log = self.sink.name(), doing, %error, lines_lost = self.unsaid, "the access log cannot be written");
            self.unsaid = 0;
        }
    }
}
