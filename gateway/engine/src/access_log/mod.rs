//! The access log: one JSON object a line for each request, written by a thread of its own.
//!
//! A request hands its line over and goes on, whatever the disk does. Lines that find the queue full are dropped and
//! counted in `portcullis_access_log_dropped_total`; a disk that is full or gone is counted, said in the log at most once a
//! minute, and never waited for.
//!
//! In the order a line takes: [`record`] holds the facts of one request, [`redact`] removes what looks like a secret,
//! `json` and `timestamp` write it, `writer` takes it to the file.

pub(crate) mod json;
pub mod record;
pub mod redact;
#[cfg(test)]
mod tests;
pub(crate) mod timestamp;
mod writer;

pub use record::{FinalVerdict, Record, RecordTls, Tells};
pub use writer::Sink;

use crate::config::raw;
use crate::metrics::Metrics;
use portcullis_plugin::{ConfigError, Env};
use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use writer::{FileSink, Loss, Queue, StdoutSink};

/// Lines that may wait, at most.
const MAX_BUFFER: usize = 1 << 20;

/// Where the lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Stdout,
    File(PathBuf),
    /// Only for writers given by the program.
    Sink,
}

/// The running log, or none. A clone is a handle to the same log; when the last one goes, what waits is still written.
#[derive(Clone, Default)]
pub struct AccessLog {
    open: Option<Arc<Open>>,
    tells: Tells,
}

struct Open {
    target: Target,
    buffer: usize,
    queue: Arc<Queue>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.queue.close();
    }
}

thread_local! {
    /// Where a line is put together, so that a request allocates nothing for it.
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl AccessLog {
    /// No log: every line goes nowhere, and none is put together.
    pub fn off() -> Self {
        Self::default()
    }

    /// The log that a configuration asks for. If `running` already writes there, it is that: a reload loses no line.
    ///
    /// # Errors
    /// If the file cannot be opened; the error names its path.
    pub fn compile(
        raw: Option<raw::AccessLog>,
        env: &Env,
        running: Option<&AccessLog>,
        metrics: &Metrics,
    ) -> Result<Self, ConfigError> {
        let Some(raw::AccessLog { path, buffer, principal }) = raw else { return Ok(Self::off()) };
        let path = if path == "-" || path.is_empty() { PathBuf::from(path) } else { env.resolve(path) };
        let same = |open: &&Arc<Open>| open.target == Target::of(path.clone()) && open.buffer == buffer;
        let open = match running.and_then(|log| log.open.as_ref()).filter(same) {
            Some(open) => Some(Arc::clone(open)),
            None => Self::open(path, buffer, metrics).map_err(|error| error.at("access_log"))?.open,
        };
        Ok(Self { open, tells: Tells::new(&principal) })
    }

    /// Opens a file for appending, or standard output for `-`. At most `buffer` lines wait for it.
    ///
    /// # Errors
    /// If the file cannot be opened or `buffer` is out of range. The error's path starts below `access_log`.
    pub fn open(path: impl Into<PathBuf>, buffer: usize, metrics: &Metrics) -> Result<Self, ConfigError> {
        let path = path.into();
        if path.as_os_str().is_empty() {
            return Err(ConfigError::new("the access log has no path").help("a file, or `-` for standard output").at("path"));
        }
        match Target::of(path) {
            Target::File(path) => {
                let sink = FileSink::open(path.clone()).map_err(|error| {
                    ConfigError::new(format!("cannot open the access log {}: {error}", path.display()))
                        .help("its folder must exist, and the gateway's user must be allowed to write there")
                        .at("path")
                })?;
                Self::start(Target::File(path), Box::new(sink), buffer, metrics)
            }
            other => Self::start(other, Box::new(StdoutSink), buffer, metrics),
        }
    }

    /// Writes to a sink of the program's own.
    ///
    /// # Errors
    /// If `buffer` is out of range.
    pub fn to_sink(sink: impl Sink + 'static, buffer: usize, metrics: &Metrics) -> Result<Self, ConfigError> {
        Self::start(Target::Sink, Box::new(sink), buffer, metrics)
    }

    fn start(target: Target, sink: Box<dyn Sink>, buffer: usize, metrics: &Metrics) -> Result<Self, ConfigError> {
        if !(1..=MAX_BUFFER).contains(&buffer) {
            return Err(ConfigError::new(format!("{buffer} lines cannot wait; from 1 to {MAX_BUFFER} can")).at("buffer"));
        }
        let loss = Loss { dropped: metrics.access_log_dropped.clone(), errors: metrics.access_log_errors.clone() };
        let queue = Queue::start(sink, buffer, loss)
            .map_err(|error| ConfigError::new(format!("cannot start the access log's writer: {error}")).at("path"))?;
        Ok(Self { open: Some(Arc::new(Open { target, buffer, queue })), tells: Tells::default() })
    }

    /// Whether it is worth collecting the facts of a record.
    pub fn is_on(&self) -> bool {
        self.open.is_some()
    }

    /// Hands a line over. Never waits for the disk.
    pub fn log(&self, record: &Record<'_>) {
        let Some(open) = &self.open else { return };
        LINE.with_borrow_mut(|line| {
            line.clear();
            record.write(line, self.tells);
            open.queue.push(line);
        });
    }

    /// Opens the file again under its name, after another program has moved it away. Returns at once; the writer does it
    /// after the lines that wait now. If it fails, the old file stays in use, and the failure is counted and logged.
    pub fn reopen(&self) {
        if let Some(open) = &self.open {
            open.queue.reopen();
        }
    }

    /// Waits until every line handed over before has been written or lost, at most `limit`. Says whether that came about.
    ///
    /// Blocks the thread: not for an async task.
    pub fn flush(&self, limit: Duration) -> bool {
        self.open.as_ref().is_none_or(|open| open.queue.flush(limit))
    }

    /// Takes no more lines, and waits until the others have been written or lost, at most `limit`. Says whether that came
    /// about. Lines logged afterwards are dropped and counted.
    ///
    /// Blocks the thread: not for an async task.
    pub fn close(&self, limit: Duration) -> bool {
        let Some(open) = &self.open else { return true };
        open.queue.close();
        open.queue.flush(limit)
    }
}

impl Target {
    fn of(path: PathBuf) -> Self {
        if path.as_os_str() == "-" { Self::Stdout } else { Self::File(path) }
    }
}
