//! A running gateway: started from a configuration, reloaded, drained and stopped through its [`Handle`].
//!
//! - [`builder`]: what it is made of, and its start
//! - [`compiler`]: its configuration, read again with each reload
//! - [`handle`]: what the embedding program holds
//! - this file: what runs

mod builder;
mod compiler;
mod handle;

pub use builder::Builder;
pub use handle::Handle;

use crate::admin::{Admin, Readiness, Shown};
use crate::audit::{Configuration, Event};
use crate::config::snapshot::{ListenerPlan, Snapshot};
use crate::config::{Diagnostic, Diagnostics};
use crate::connection::Client;
use crate::drive::connection::Serving;
use crate::listen;
use crate::metrics::{ListenerMetrics, Metrics};
use arc_swap::{ArcSwap, ArcSwapOption};
use compiler::{Compiler, Source};
use parking_lot::Mutex;
use pingora::apps::HttpServerApp;
use portcullis_identity::assertion::AssertionSigner;
use portcullis_plugin::ConfigError;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long the last lines of the access log may take at the end.
const LAST_LINES: Duration = Duration::from_secs(5);

/// How long connections may take to end that are broken off.
const BREAK_OFF: Duration = Duration::from_secs(1);

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("no configuration: give `config_file` or `config_text`")]
    NoConfiguration,
    #[error("{0}")]
    Configuration(Diagnostics),
    #[error("listener `{listener}` cannot listen on {address}: {cause}")]
    Bind { listener: String, address: SocketAddr, cause: std::io::Error },
    #[error("{0}")]
    Admin(ConfigError),
    #[error("no tokio runtime: call `start` within one")]
    NoRuntime,
}

impl StartError {
    /// In one line: a configuration's first error, without the lines of the file that it shows.
    fn summary(&self) -> String {
        match self {
            Self::Configuration(diagnostics) => {
                let first = diagnostics.errors().next().map(Diagnostic::summary).unwrap_or_default();
                match diagnostics.errors().count() {
                    0 | 1 => first,
                    more => format!("{first} (and {} more)", more - 1),
                }
            }
            other => other.to_string(),
        }
    }
}

/// The configuration that runs now. Read once per request.
pub struct Current(ArcSwap<Snapshot>);

impl Current {
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.0.load_full()
    }
}

/// An open listening socket.
struct Socket {
    name: Arc<str>,
    configured: SocketAddr,
    bound: SocketAddr,
    close: watch::Sender<bool>,
}

/// It closes when this is dropped.
struct OpenAdmin {
    admin: Admin,
    _close: watch::Sender<bool>,
}

pub(crate) struct Inner {
    current: Arc<Current>,
    compiler: Compiler,
    serving: Arc<Serving>,
    shutdown: watch::Sender<bool>,
    sockets: Mutex<Vec<Socket>>,
    admin: Mutex<Option<OpenAdmin>>,
    /// One reload at a time.
    reloading: tokio::sync::Mutex<()>,
    /// The files that the last reload failed over: none once one succeeds.
    failed: Mutex<Vec<PathBuf>>,
    /// True when open connections are to be broken off.
    broken: watch::Sender<bool>,
    readiness: Readiness,
    metrics: Arc<Metrics>,
    /// That of the running configuration, for the admin listener.
    assertion: Arc<ArcSwapOption<AssertionSigner>>,
}

type Bound = (Arc<ListenerPlan>, std::net::TcpListener, SocketAddr);

impl Inner {
    /// Binds the listeners of `snapshot` that have no socket yet. All or nothing.
    fn bind_missing(&self, snapshot: &Snapshot) -> Result<Vec<Bound>, StartError> {
        let sockets = self.sockets.lock();
        let mut bound = Vec::new();
        for plan in &snapshot.listeners {
            let name = &plan.settings.name;
            if sockets.iter().any(|socket| socket.name == *name && socket.configured == plan.address) {
                continue;
            }
            let refuse = |cause| StartError::Bind { listener: name.to_string(), address: plan.address, cause };
            let listener = listen::bind(plan.address).map_err(refuse)?;
            let address = listener.local_addr().map_err(refuse)?;
            bound.push((Arc::clone(plan), listener, address));
        }
        Ok(bound)
    }

    /// Accepts on new sockets, and closes those that `snapshot` no longer has.
    fn open(self: &Arc<Self>, snapshot: &Snapshot, bound: Vec<Bound>) {
        let mut sockets = self.sockets.lock();
        sockets.retain(|socket| {
            let keep =
                snapshot.listeners.iter().any(|plan| plan.settings.name == socket.name && plan.address == socket.configured);
            if !keep {
                socket.close.send_replace(true);
            }
            keep
        });
        for (plan, listener, address) in bound {
            let listener = match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => listener,
                Err(error) => {
                    tracing::error!(listener = &*plan.settings.name, %error, "the socket cannot be used");
                    continue;
                }
            };
            let (close, closing) = watch::channel(false);
            tracing::info!(listener = &*plan.settings.name, %address, tls = plan.settings.tls.is_some(), "listening");
            sockets.push(Socket { name: Arc::clone(&plan.settings.name), configured: plan.address, bound: address, close });
            self.accept(plan, listener, closing);
        }
    }

    fn accept(&self, plan: Arc<ListenerPlan>, listener: tokio::net::TcpListener, closing: watch::Receiver<bool>) {
        let (current, serving) = (Arc::clone(&self.current), Arc::clone(&self.serving));
        let latest = {
            let (current, plan) = (Arc::clone(&current), Arc::clone(&plan));
            move || Arc::clone(current.snapshot().listener(&plan.settings.name).unwrap_or(&plan))
        };
        let settings = {
            let latest = latest.clone();
            move || Arc::clone(&latest().settings)
        };
        let serve = move |accepted: listen::Accepted| {
            let (connection, chain) = (Arc::clone(&accepted.connection), accepted.certificate.clone());
            let client = Arc::new(Client::new(connection, chain, Arc::clone(&current), latest()));
            let serving = Arc::clone(&serving);
            async move { serving.serve(accepted, client).await }
        };
        let stop = either(closing, self.serving.shutdown.clone());
        let tracker = self.serving.tracker.clone();
        tokio::spawn(listen::run(listener, settings, Arc::new(Counted(Arc::clone(&plan.metrics))), stop, tracker, serve));
    }

    /// Opens, moves, updates or closes the admin listener, as the snapshot says.
    async fn open_admin(&self, snapshot: &Snapshot) -> Result<(), StartError> {
        let Some(settings) = &snapshot.admin else {
            *self.admin.lock() = None;
            return Ok(());
        };
        if self.admin.lock().as_ref().is_some_and(|open| open.admin.update(settings)) {
            return Ok(());
        }
        let (close, closing) = watch::channel(false);
        let admin = Admin::start(settings, self.shown(), closing).await.map_err(StartError::Admin)?;
        tracing::info!(address = %admin.address(), "admin listening");
        *self.admin.lock() = Some(OpenAdmin { admin, _close: close });
        Ok(())
    }

    /// Compiles the configuration anew and swaps it in. What runs stays untouched if anything is wrong.
    pub(crate) async fn reload(self: &Arc<Self>) -> Result<u64, StartError> {
        let _one = self.reloading.lock().await;
        let generation = self.current.snapshot().generation + 1;
        let result = self.replace(generation).await;
        match &result {
            Ok(()) => {
                tracing::info!(generation, "configuration reloaded");
                self.metrics.reload_succeeded(generation);
            }
            Err(error) => {
                tracing::error!("configuration not reloaded, the running one stays: {error}");
                let attempted = self.compiler.attempted.lock().clone();
                let (generation, sha256) = (generation - 1, attempted.as_deref());
                self.compiler.audit.load().event(&Event::Rejected { generation, sha256, error: &error.summary() });
                self.metrics.reload_failed();
            }
        }
        *self.failed.lock() = match &result {
            Err(StartError::Configuration(diagnostics)) => diagnostics.files().to_vec(),
            _ => Vec::new(),
        };
        result.map(|()| generation)
    }

    async fn replace(self: &Arc<Self>, generation: u64) -> Result<(), StartError> {
        let snapshot = {
            let inner = Arc::clone(self);
            // Reading files and parsing thousands of networks is no work for a thread that serves requests.
            let compiled = tokio::task::spawn_blocking(move || inner.compiler.compile(generation)).await;
            let panicked = |_| {
                StartError::Configuration(Diagnostics::from(Diagnostic::error(
                    "the configuration could not be compiled: this is a bug",
                )))
            };
            Arc::new(compiled.map_err(panicked)?.map_err(StartError::Configuration)?)
        };
        let bound = self.bind_missing(&snapshot)?;
        self.open_admin(&snapshot).await?;
        snapshot.start();
        let files_changed = snapshot.contents.changed_since(&self.current.snapshot().contents);
        self.current.0.store(Arc::clone(&snapshot));
        self.assertion.store(snapshot.assertion.clone());
        self.open(&snapshot, bound);
        self.compiler.settle();
        self.account(&snapshot, &files_changed);
        Ok(())
    }

    /// Records that `snapshot` has taken effect: in the audit log that it replaces too, if it names another.
    fn account(&self, snapshot: &Snapshot, files_changed: &[PathBuf]) {
        let before = self.compiler.audit.swap(Arc::new(snapshot.audit.clone()));
        let listeners = self.listeners();
        let (generation, sha256) = (snapshot.generation, &*snapshot.sha256);
        let event = Event::Reloaded(Configuration { generation, sha256, listeners: &listeners, files_changed });
        if before.path() != snapshot.audit.path() {
            before.event(&event);
            before.event(&Event::Moved { to: snapshot.audit.path() });
        }
        snapshot.audit.event(&event);
    }

    /// Names and addresses of the open sockets.
    fn listeners(&self) -> Vec<(String, SocketAddr)> {
        self.sockets.lock().iter().map(|socket| (socket.name.to_string(), socket.bound)).collect()
    }

    fn shown(&self) -> Shown {
        let current = Arc::clone(&self.current);
        Shown {
            issuers: Arc::new(move || Arc::clone(&current.snapshot().issuers)),
            metrics: Arc::clone(&self.metrics),
            readiness: self.readiness.clone(),
            decisions: Arc::clone(&self.compiler.decisions),
            audit: Arc::clone(&self.compiler.audit),
            assertion: Arc::clone(&self.assertion),
        }
    }

    /// What to watch: the files of the running configuration, and those whose change may mend one that failed.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let mut files = self.current.snapshot().files.clone();
        files.extend(self.failed.lock().iter().cloned());
        files
    }

    pub(crate) fn config_path(&self) -> Option<&Path> {
        match &self.compiler.source {
            Source::File(path) => Some(path),
            Source::Text { .. } => None,
        }
    }

    fn stop_accepting(&self) {
        self.readiness.draining();
        if !self.shutdown.send_replace(true) {
            self.compiler.audit.load().event(&Event::Stopping);
        }
    }

    async fn drain(&self, within: Duration) -> bool {
        self.stop_accepting();
        self.serving.proxy.http_cleanup().await;
        self.serving.tracker.close();
        let ended = tokio::time::timeout(within, self.serving.tracker.wait()).await.is_ok();
        if !ended {
            self.broken.send_replace(true);
            // They end at once, and their last lines are still to be written.
            let _ = tokio::time::timeout(BREAK_OFF, self.serving.tracker.wait()).await;
        }
        // Writing may wait for a disk: not on a thread that serves.
        let snapshot = self.current.snapshot();
        snapshot.audit.event(&Event::Stopped { drained: ended });
        let kept = Arc::clone(&self.compiler.kept);
        let flush = move || {
            kept.end();
            snapshot.access_log.flush(LAST_LINES);
            snapshot.audit.flush(LAST_LINES);
            if let Some(status) = snapshot.audit.status() {
                tracing::info!(path = status.path, seq = status.seq, hash = status.hash, "audit log ends");
            }
        };
        let _ = tokio::task::spawn_blocking(flush).await;
        ended
    }
}

/// Counts a listener's connections in its metrics.
struct Counted(Arc<ListenerMetrics>);

impl listen::Observer for Counted {
    fn opened(&self, _: &str) {
        self.0.opened();
    }

    fn closed(&self, _: &str) {
        self.0.closed();
    }

    fn handshake_failed(&self, _: &str, reason: &'static str) {
        self.0.handshake_failure(reason);
    }
}

/// Fires when either does.
fn either(mut a: watch::Receiver<bool>, mut b: watch::Receiver<bool>) -> watch::Receiver<bool> {
    let (both, receiver) = watch::channel(*a.borrow() || *b.borrow());
    tokio::spawn(async move {
        tokio::select! {
            _ = a.wait_for(|stop| *stop) => {}
            _ = b.wait_for(|stop| *stop) => {}
            () = both.closed() => {}
        }
        both.send_replace(true);
    });
    receiver
}
