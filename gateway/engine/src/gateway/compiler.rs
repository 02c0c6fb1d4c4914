//! From the source of a configuration to snapshots of it, again and again.

use crate::access_log::AccessLog;
use crate::audit::AuditLog;
use crate::config::snapshot::Snapshot;
use crate::config::{Diagnostics, Loader, compile};
use crate::decisions::Decisions;
use crate::metrics::Metrics;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use portcullis_plugin::FilterTable;
use portcullis_plugin::env::Kept;
use std::path::PathBuf;
use std::sync::Arc;

/// Where a configuration comes from.
#[derive(Debug, Clone)]
pub(super) enum Source {
    File(PathBuf),
    Text { text: String, base: PathBuf },
}

/// Turns the source into snapshots, and holds what outlives them.
pub(super) struct Compiler {
    pub(super) source: Source,
    table: FilterTable,
    metrics: Arc<Metrics>,
    pub(super) kept: Arc<Kept>,
    /// The open access log, kept over reloads that do not move it.
    log: Mutex<AccessLog>,
    /// That of the running configuration. The admin listener says where it stands.
    pub(super) audit: Arc<ArcSwap<AuditLog>>,
    /// The hash of the last configuration that was read, whether it holds or not.
    pub(super) attempted: Mutex<Option<String>>,
    pub(super) decisions: Arc<Decisions>,
}

impl Compiler {
    pub(super) fn new(source: Source, table: FilterTable, metrics: Arc<Metrics>) -> Self {
        Self {
            source,
            table,
            metrics,
            kept: Arc::default(),
            log: Mutex::new(AccessLog::off()),
            audit: Arc::default(),
            attempted: Mutex::default(),
            decisions: Decisions::off(),
        }
    }

    /// Reads the source anew. What was compiled before stays as it is.
    pub(super) fn compile(&self, generation: u64) -> Result<Snapshot, Diagnostics> {
        *self.attempted.lock() = None;
        let environment = |name: &str| std::env::var(name).ok();
        let loaded = match &self.source {
            Source::File(path) => Loader::new(&environment).filters(&self.table).load(path)?,
            Source::Text { text, base } => {
                Loader::new(&environment).filters(&self.table).load_str("configuration", text, base)?
            }
        };
        *self.attempted.lock() = Some(loaded.sources.sha256());
        self.kept.begin();
        let mut log = self.log.lock();
        let (snapshot, warnings) = compile::compile(
            loaded,
            &compile::Context {
                table: &self.table,
                metrics: &self.metrics,
                kept: &self.kept,
                generation,
                purpose: compile::Purpose::Serve { log: &log, audit: &self.audit.load(), decisions: &self.decisions },
            },
        )?;
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        *log = snapshot.access_log.clone();
        Ok(snapshot)
    }

    /// What the running configuration no longer uses is let go.
    pub(super) fn settle(&self) {
        self.kept.sweep();
    }
}
