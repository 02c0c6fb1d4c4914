//! From a request to the file: a bounded queue, and a thread that empties it.
//!
//! Lines are appended to one buffer under a short lock; the thread swaps it for an empty one and writes it in one call. The
//! lock is never held while the disk is waited for.

use parking_lot::{Condvar, Mutex};
use prometheus::IntCounter;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// How long the thread gathers lines once the first has come: fewer writes, and fewer wake-ups that a request pays for.
const GATHER: Duration = Duration::from_millis(5);

/// Bytes that may wait for each line that may: an ordinary line is half of it, and lines that an attacker made long must
/// not take all memory while the disk is slow.
const BYTES_PER_LINE: usize = 1024;

/// With very few lines allowed, the longest one still fits.
const MIN_BYTES: usize = 256 << 10;

/// A buffer that a burst made larger than this is given back.
const KEEP_BYTES: usize = 1 << 20;

/// How often a disk that fails is talked about.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

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
    state: Mutex<State>,
    /// Wakes the thread.
    work: Condvar,
    /// Wakes those who wait in `flush`.
    settled: Condvar,
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
    reopen: bool,
    flush: bool,
    closing: bool,
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

    fn urgent(&self) -> bool {
        self.reopen || self.flush || self.closing
    }
}

impl Queue {
    pub(super) fn start(sink: Box<dyn Sink>, max_lines: usize, loss: Loss) -> io::Result<Arc<Self>> {
        let queue = Arc::new(Self {
            state: Mutex::default(),
            work: Condvar::new(),
            settled: Condvar::new(),
            max_lines: max_lines as u64,
            max_bytes: max_lines.saturating_mul(BYTES_PER_LINE).max(MIN_BYTES),
            dropped: loss.dropped.clone(),
        });
        let writer = Writer { torn: sink.starts_torn(), sink, loss, complained: None, unsaid: 0 };
        let thread_queue = Arc::clone(&queue);
        thread::Builder::new().name("access-log".to_owned()).spawn(move || thread_queue.run(writer))?;
        Ok(queue)
    }

    /// `line` ends with its only line feed.
    pub(super) fn push(&self, line: &[u8]) {
        let mut state = self.state.lock();
        let full = state.waiting() >= self.max_lines || state.pending.len() + state.writing + line.len() > self.max_bytes;
        if full || state.closing {
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
            self.work.notify_one();
        }
    }

    fn is_half_full(&self, state: &State) -> bool {
        state.waiting() * 2 >= self.max_lines || state.pending.len() * 2 >= self.max_bytes
    }

    pub(super) fn reopen(&self) {
        self.state.lock().reopen = true;
        self.work.notify_one();
    }

    pub(super) fn close(&self) {
        self.state.lock().closing = true;
        self.work.notify_one();
    }

    pub(super) fn flush(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut state = self.state.lock();
        let target = state.accepted;
        while state.settled < target {
            state.flush = true;
            self.work.notify_one();
            if self.settled.wait_until(&mut state, deadline).timed_out() {
                return state.settled >= target;
            }
        }
        true
    }

    fn run(&self, mut writer: Writer) {
        let mut batch = Vec::new();
        loop {
            let mut state = self.state.lock();
            self.wait_for_work(&mut state);
            std::mem::swap(&mut state.pending, &mut batch);
            let (lines, reopen) = (state.waiting(), std::mem::take(&mut state.reopen));
            state.writing = batch.len();
            state.flush = false;
            let last = state.closing && batch.is_empty();
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
            let mut state = self.state.lock();
            state.writing = 0;
            state.settled += lines;
            drop(state);
            self.settled.notify_all();
        }
    }

    fn wait_for_work(&self, state: &mut parking_lot::MutexGuard<'_, State>) {
        while state.pending.is_empty() && !state.urgent() {
            state.thread = Thread::Idle;
            self.work.wait(state);
        }
        if !state.urgent() && !self.is_half_full(state) {
            state.thread = Thread::Gathering;
            // However it ends, there is something to write.
            let _ = self.work.wait_for(state, GATHER);
        }
        state.thread = Thread::Awake;
    }
}

struct Writer {
    sink: Box<dyn Sink>,
    /// What is in the file ends within a line.
    torn: bool,
    loss: Loss,
    complained: Option<Instant>,
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
        if self.complained.is_none_or(|when| when.elapsed() >= COMPLAIN_EVERY) {
            tracing::error!(log = self.sink.name(), doing, %error, lines_lost = self.unsaid, "the access log cannot be written");
            self.complained = Some(Instant::now());
            self.unsaid = 0;
        }
    }
}
