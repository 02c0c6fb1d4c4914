//! The audit log: every refusal and every change of the gateway, as a chain of records that shows what was done to it.
//!
//! [`chain`] says what a record is, `event` what it tells, `queue` and `file` bring it to the disk, and [`verify`] reads
//! it again. Records are sealed by the thread that writes them: a request pays for its text alone.

pub mod chain;
mod event;
mod file;
mod queue;
#[cfg(test)]
mod tests;
pub mod verify;

pub use event::{Configuration, Event};

use crate::access_log::Record;
use crate::config::raw;
use crate::metrics::Metrics;
use chain::{Head, Seal};
use file::{ChainFile, Opened, Torn, Unusable};
use parking_lot::Mutex;
use portcullis_plugin::{Check, ConfigError, Env, reason};
use queue::Queue;
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Records that may wait, at most and at least.
const BUFFER: std::ops::RangeInclusive<usize> = 64..=1 << 20;

/// The audit log of one configuration, or none. Those that name the same file share it.
#[derive(Clone, Default)]
pub struct AuditLog(Option<Arc<Plan>>);

struct Plan {
    open: Arc<Open>,
    all: bool,
    refuse: bool,
}

struct Open {
    path: PathBuf,
    seal: Seal,
    queue: Arc<Queue>,
    /// Until the configuration that asks for it takes effect.
    unbegun: Mutex<Option<Unbegun>>,
}

/// What was found when the file was opened.
struct Unbegun {
    torn: Option<Torn>,
    created: bool,
}

impl Drop for Open {
    fn drop(&mut self) {
        match self.unbegun.get_mut().take() {
            // An empty file would be taken for one that was emptied.
            Some(Unbegun { created: true, .. }) => file::withdraw(&self.path),
            // What was taken out of the file is in no other place.
            Some(Unbegun { torn: Some(torn), .. }) => {
                self.push(|out| event::opened(out, self.seal.is_keyed(), Some(&torn)));
                self.queue.flush(LAST_WORD);
            }
            _ => {}
        }
        self.queue.close();
    }
}

/// For the one record of a log that never began.
const LAST_WORD: Duration = Duration::from_secs(2);

thread_local! {
    /// Where a record is put together.
    static RECORD: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn placed(error: ConfigError, key: &'static str) -> ConfigError {
    error.at(key).at("audit_log")
}

/// What a configuration asks for.
struct Settings {
    path: PathBuf,
    seal: Seal,
    all: bool,
    refuse: bool,
    buffer: usize,
}

impl Settings {
    fn compile(raw: raw::AuditLog, env: &Env) -> Result<Self, ConfigError> {
        let raw::AuditLog { path, decisions, on_failure, key_file, buffer } = raw;
        if !BUFFER.contains(&buffer) {
            let text = format!("{buffer} records cannot wait; from {} to {} can", BUFFER.start(), BUFFER.end());
            return Err(placed(ConfigError::new(text), "buffer"));
        }
        if path.is_empty() || path == "-" {
            let error =
                ConfigError::new("the audit log needs a file").help("give a path: it is read again when the gateway starts");
            return Err(placed(error, "path"));
        }
        let seal = match key_file {
            Some(file) => Seal::read(&file, env).map_err(|error| placed(error, "key_file"))?,
            None => Seal::default(),
        };
        let all = match decisions {
            raw::AuditDecisions::Denials => false,
            raw::AuditDecisions::All => true,
        };
        let refuse = match on_failure {
            raw::AuditFailure::Refuse => true,
            raw::AuditFailure::Drop => false,
        };
        Ok(Self { path: env.resolve(path), seal, all, refuse, buffer })
    }
}

impl AuditLog {
    /// Nothing is recorded.
    pub fn off() -> Self {
        Self(None)
    }

    /// The log that a configuration asks for. If `running` writes to the same file, it goes on.
    ///
    /// # Errors
    /// If the file cannot be opened, is another gateway's, or ends in what this configuration would not have written.
    pub fn compile(raw: Option<raw::AuditLog>, env: &Env, running: &AuditLog, metrics: &Metrics) -> Result<Self, ConfigError> {
        let Some(raw) = raw else { return Ok(Self::off()) };
        let Settings { path, seal, all, refuse, buffer } = Settings::compile(raw, env)?;
        let open = match running.0.as_ref().filter(|plan| plan.open.path == path) {
            Some(plan) if plan.open.seal.is(&seal) => {
                plan.open.queue.resize(buffer);
                Arc::clone(&plan.open)
            }
            Some(_) => {
                let error = ConfigError::new("the key differs from the one that the running audit log is sealed with")
                    .help("give the log another `path` with it: one file has one key");
                return Err(placed(error, "key_file"));
            }
            None => Arc::new(Open::at(&path, seal, buffer, metrics).map_err(|error| placed(error, "path"))?),
        };
        Ok(Self(Some(Arc::new(Plan { open, all, refuse }))))
    }

    /// The configuration takes effect: the first record says that the log is open. Before, nothing is to be handed over, and
    /// of a log that never begins no file is left that was not there.
    pub fn begin(&self) {
        let Some(open) = self.0.as_ref().map(|plan| &plan.open) else { return };
        if let Some(Unbegun { torn, created: _ }) = open.unbegun.lock().take() {
            open.push(|out| event::opened(out, open.seal.is_keyed(), torn.as_ref()));
        }
    }

    /// For `check`: what can be said of a configuration without opening anything.
    ///
    /// # Errors
    /// If it names no file, or its key cannot be read.
    pub fn inspect(raw: Option<raw::AuditLog>, env: &Env) -> Result<Self, ConfigError> {
        raw.map(|raw| Settings::compile(raw, env)).transpose().map(|_| Self::off())
    }

    /// Whether a decision is to be recorded that is, or is not, a refusal.
    pub fn wants(&self, refusal: bool) -> bool {
        self.0.as_ref().is_some_and(|plan| refusal || plan.all)
    }

    /// Why requests are to be refused now: records cannot be written, and the configuration does not say to go on without.
    pub fn unavailable(&self) -> Option<String> {
        self.0.as_ref().filter(|plan| plan.refuse && plan.open.queue.is_failing())?.open.queue.error()
    }

    /// Hands a decision over. Never waits for the disk.
    pub fn decision(&self, record: &Record<'_>, checks: &[Check]) {
        let Some(plan) = &self.0 else { return };
        if record.reason == Some(reason::AUDIT_UNAVAILABLE) {
            return plan.open.queue.refused();
        }
        plan.open.push(|out| event::decision(out, record, checks));
    }

    /// Hands over what happened to the gateway.
    pub fn event(&self, event: &Event<'_>) {
        if let Some(plan) = &self.0 {
            plan.open.push(|out| event.write(out));
        }
    }

    /// Goes on in a new file, if the present one was moved away. Returns at once.
    pub fn reopen(&self) {
        if let Some(plan) = &self.0 {
            plan.open.queue.reopen();
        }
    }

    /// Waits until every record handed over before is on the disk, at most `limit`. Says whether that came about.
    ///
    /// Blocks the thread: not for an async task.
    pub fn flush(&self, limit: Duration) -> bool {
        self.0.as_ref().is_none_or(|plan| plan.open.queue.flush(limit))
    }

    pub fn path(&self) -> Option<&Path> {
        self.0.as_ref().map(|plan| &*plan.open.path)
    }

    /// For the admin listener: where the log stands.
    pub fn status(&self) -> Option<Status> {
        let open = &self.0.as_ref()?.open;
        let Head { seq, hash } = open.queue.head();
        let path = open.path.display().to_string();
        Some(Status { path, keyed: open.seal.is_keyed(), seq, hash: hash.to_string(), failing: open.queue.error() })
    }
}

/// The last record on the disk, and whether the next will follow it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Status {
    pub path: String,
    pub keyed: bool,
    pub seq: u64,
    pub hash: String,
    /// Why records cannot be written now.
    pub failing: Option<String>,
}

impl Open {
    fn at(path: &Path, seal: Seal, buffer: usize, metrics: &Metrics) -> Result<Self, ConfigError> {
        let refuse = |error: Unusable| {
            let help = match &error {
                Unusable::Locked => "each gateway has a file of its own",
                Unusable::Foreign | Unusable::OtherChain => {
                    "look at it with `portcullis audit verify`, then move it away: a new file begins a new chain"
                }
                Unusable::NotAFile => "give the path of a file, or of one that does not exist yet",
                Unusable::Io(_) => "its folder must exist, and the gateway's user must be allowed to write there",
            };
            ConfigError::new(format!("cannot use the audit log {}: {error}", path.display())).help(help)
        };
        let Opened { file, head, torn, created } = ChainFile::open(path, &seal).map_err(refuse)?;
        if let Some(torn) = &torn {
            queue::warn_of(torn, path);
        }
        // Elsewhere than in the file itself: whoever cuts its end has this to contradict them.
        tracing::info!(path = %path.display(), seq = head.seq, hash = %head.hash, "audit log opened");
        let queue = Queue::start(Box::new(file), seal.clone(), head, buffer, metrics.audit.clone())
            .map_err(|error| refuse(Unusable::Io(error)))?;
        Ok(Self { path: path.to_owned(), seal, queue, unbegun: Mutex::new(Some(Unbegun { torn, created })) })
    }

    fn push(&self, write: impl FnOnce(&mut Vec<u8>)) {
        RECORD.with_borrow_mut(|record| {
            record.clear();
            write(record);
            self.queue.push(record);
        });
    }
}
