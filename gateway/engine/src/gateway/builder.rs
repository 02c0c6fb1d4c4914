//! What a gateway is made of, and its start.

use super::compiler::{Compiler, Source};
use super::{Current, Handle, Inner, StartError};
use crate::admin::Readiness;
use crate::audit::{Configuration, Event};
use crate::drive::connection::Serving;
use crate::drive::lot::{Lot, PARK_AFTER};
use crate::drive::pingora::Driver;
use crate::metrics::Metrics;
use crate::watch::Watcher;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use pingora::server::configuration::ServerConf;
use pingora_proxy::http_proxy;
use portcullis_plugin::{Build, FilterFactory, FilterTable};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

/// Connections to backends that are kept open for the next request, over all pools. A pool smaller than the peak of
/// concurrent requests opens connections all the time.
const UPSTREAM_CONNECTIONS: usize = 4096;

/// Says what a gateway is made of, and starts it.
pub struct Builder {
    source: Option<Source>,
    table: FilterTable,
    watch: bool,
    park_after: Duration,
}

impl Builder {
    /// `table` has the filters that a configuration may name.
    pub fn new(table: FilterTable) -> Self {
        Self { source: None, table, watch: true, park_after: PARK_AFTER }
    }

    /// A file, or a directory whose `*.yaml` files are merged in name order.
    #[must_use]
    pub fn config_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.source = Some(Source::File(path.into()));
        self
    }

    /// The configuration itself. Relative paths in it start from the current folder.
    #[must_use]
    pub fn config_text(self, text: impl Into<String>) -> Self {
        self.config_text_in(text, ".")
    }

    /// The configuration itself, with the folder that relative paths in it start from.
    #[must_use]
    pub fn config_text_in(mut self, text: impl Into<String>, base: impl Into<PathBuf>) -> Self {
        self.source = Some(Source::Text { text: text.into(), base: base.into() });
        self
    }

    /// Adds a filter of your own, or replaces a built-in one of the same name.
    #[must_use]
    pub fn filter<F: Build>(mut self) -> Self {
        self.table.add(FilterFactory::of::<F>());
        self
    }

    /// Whether a change of a file that the configuration was made from reloads it. Default: yes.
    #[must_use]
    pub fn watch_files(mut self, watch: bool) -> Self {
        self.watch = watch;
        self
    }

    /// How long an HTTP/1 connection waits for its next request before it is parked. A parked one holds a quarter of the memory;
    /// the request that ends its wait costs a few microseconds more. With more than 500 connections that are not parked, a sixteenth of
    /// that time is enough. Default: 1 second.
    #[must_use]
    pub fn park_after(mut self, wait: Duration) -> Self {
        self.park_after = wait;
        self
    }

    /// Compiles the configuration, binds every listener, and serves.
    ///
    /// # Errors
    /// If the configuration does not compile or an address cannot be bound. Nothing is left running then.
    pub async fn start(self) -> Result<Handle, StartError> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(StartError::NoRuntime);
        }
        // Before Pingora installs its own choice. A second call, or the embedding program's own choice, is fine.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let source = self.source.ok_or(StartError::NoConfiguration)?;
        let metrics = Metrics::new();
        let compiler = Compiler::new(source, self.table, Arc::clone(&metrics));
        let snapshot = compiler.compile(1).map_err(StartError::Configuration)?;
        compiler.audit.store(Arc::new(snapshot.audit.clone()));
        let (shutdown, stopping) = watch::channel(false);
        let conf = ServerConf { upstream_keepalive_pool_size: UPSTREAM_CONNECTIONS, max_retries: 64, ..ServerConf::default() };
        let tracker = TaskTracker::new();
        let proxy = Arc::new(http_proxy(&Arc::new(conf), Driver));
        let readiness = Readiness::new();
        let (broken, breaking) = watch::channel(false);
        let (lot, attendant) = match Lot::new(self.park_after, metrics.parked.clone()) {
            Ok((lot, attendant)) => (Some(lot), Some(attendant)),
            Err(error) => {
                tracing::warn!(%error, "connections that wait cannot be parked, and take more memory");
                (None, None)
            }
        };
        let serving = Arc::new(Serving { proxy, shutdown: stopping.clone(), broken: breaking, tracker, lot });
        if let Some(attendant) = attendant {
            let resumed = Arc::clone(&serving);
            // The gateway waits for it when it stops, and so for the connections that it closes then.
            serving.tracker.spawn(attendant.attend(stopping.clone(), move |waiting| resumed.resume(waiting)));
        }
        let inner = Arc::new(Inner {
            current: Arc::new(Current(ArcSwap::from_pointee(snapshot))),
            compiler,
            serving,
            shutdown,
            sockets: Mutex::new(Vec::new()),
            admin: Mutex::new(None),
            reloading: tokio::sync::Mutex::new(()),
            failed: Mutex::default(),
            broken,
            readiness,
            metrics,
            assertion: Arc::default(),
        });
        let snapshot = inner.current.snapshot();
        let bound = inner.bind_missing(&snapshot)?;
        inner.assertion.store(snapshot.assertion.clone());
        inner.open_admin(&snapshot).await?;
        // From here on nothing fails, and requests may come.
        snapshot.start();
        inner.open(&snapshot, bound);
        inner.compiler.settle();
        inner.metrics.config_started(1);
        let listeners = inner.listeners();
        snapshot.audit.event(&Event::Started(Configuration {
            generation: 1,
            sha256: &snapshot.sha256,
            listeners: &listeners,
            files_changed: &[],
        }));
        inner.readiness.serving();
        let watcher = self.watch.then(|| Watcher::start(Arc::downgrade(&inner), stopping));
        Ok(Handle { inner, _watcher: watcher.flatten() })
    }
}
