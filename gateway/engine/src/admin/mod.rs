//! The listener for operators: `/metrics`, `/decisions`, `/audit/head`, `/jwks`, `/healthz` and `/readyz`.
//!
//! It stands apart from the data plane: its own socket, a bounded number of connections, one request each under a
//! deadline, so that whoever reaches it can exhaust neither it nor the gateway. The two probes answer everybody; everything
//! else asks for the bearer token, if one is configured, and off the loopback one must be.
//!
//! A new endpoint is one line in `routes::protected` and a handler that takes the shared state.

mod readiness;
mod routes;
mod serve;
#[cfg(test)]
mod tests;
mod token;

pub use readiness::{Phase, Readiness};
pub use token::AdminToken;

use crate::audit::AuditLog;
use crate::config::raw;
use crate::decisions::Decisions;
use crate::metrics::Metrics;
use arc_swap::{ArcSwap, ArcSwapOption};
use portcullis_identity::assertion::AssertionSigner;
use portcullis_plugin::{ConfigError, Env};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Where the admin listener is, and whom it answers.
#[derive(Debug, Clone)]
pub struct AdminSettings {
    address: SocketAddr,
    token: Option<Arc<AdminToken>>,
    decisions: usize,
}

impl AdminSettings {
    /// # Errors
    /// If others than this machine could reach it without a token, or the token cannot be used.
    pub fn compile(raw: raw::Admin, env: &Env) -> Result<Self, ConfigError> {
        let raw::Admin { address, token_file, decisions } = raw;
        let token = match token_file {
            Some(file) => Some(Arc::new(AdminToken::read(&file, env).map_err(|error| error.at("token_file").at("admin"))?)),
            None => None,
        };
        if token.is_none() && !address.ip().to_canonical().is_loopback() {
            return Err(ConfigError::new(format!("{address} can be reached from other machines, and nothing protects it"))
                .help("set `token_file`, or use a loopback address such as 127.0.0.1")
                .at("address")
                .at("admin"));
        }
        Ok(Self { address, token, decisions })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many decisions are to be kept for it to show.
    pub fn decisions(&self) -> usize {
        self.decisions
    }

    pub fn needs_token(&self) -> bool {
        self.token.is_some()
    }
}

/// What there is to be shown.
#[derive(Clone)]
pub struct Shown {
    pub metrics: Arc<Metrics>,
    pub readiness: Readiness,
    pub decisions: Arc<Decisions>,
    /// That of the running configuration.
    pub audit: Arc<ArcSwap<AuditLog>>,
    pub assertion: Arc<ArcSwapOption<AssertionSigner>>,
}

/// What the handlers share.
struct Shared {
    shown: Shown,
    /// Replaced by a reload.
    token: ArcSwapOption<AdminToken>,
}

/// The running admin listener.
pub struct Admin {
    configured: SocketAddr,
    bound: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Admin {
    /// Binds the address and serves it on the current runtime until `stop` becomes true or its sender is gone.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub async fn start(settings: &AdminSettings, shown: Shown, stop: watch::Receiver<bool>) -> Result<Self, ConfigError> {
        let refuse = |error: std::io::Error| {
            ConfigError::new(format!("cannot listen on {}: {error}", settings.address)).at("address").at("admin")
        };
        let listener = TcpListener::bind(settings.address).await.map_err(refuse)?;
        let bound = listener.local_addr().map_err(refuse)?;
        let shared = Arc::new(Shared { shown, token: ArcSwapOption::new(settings.token.clone()) });
        let task = tokio::spawn(serve::run(listener, routes::router(Arc::clone(&shared)), stop));
        Ok(Self { configured: settings.address, bound, shared, task })
    }

    /// The address that was really bound.
    pub fn address(&self) -> SocketAddr {
        self.bound
    }

    /// Takes over a reloaded token. Says whether that was all: another address needs a new listener, and this one then
    /// stays as it is.
    #[must_use]
    pub fn update(&self, settings: &AdminSettings) -> bool {
        if settings.address != self.configured {
            return false;
        }
        self.shared.token.store(settings.token.clone());
        true
    }

    /// Waits until the listener has stopped and its last response is written or its deadline has passed.
    pub async fn stopped(self) {
        // It cannot be cancelled by others, and a panic in it is the runtime's to report.
        let _ = self.task.await;
    }
}
