//! The listener for operators: `/metrics`, `/decisions`, `/audit/head`, `/jwks`, `/revocations`, `/healthz` and `/readyz`.
//!
//! It stands apart from the data plane: its own socket, a bounded number of connections, one request each under a
//! deadline, so that whoever reaches it can exhaust neither it nor the gateway. The two probes answer everybody; everything
//! else asks for the bearer token, if one is configured, and off the loopback one must be. `/revocations`, which alone changes
//! anything, is closed unless it has a secret of its own.
//!
//! A new endpoint is one line in `routes::protected` and a handler that takes the shared state.

mod readiness;
mod revocations;
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
use axum::http::HeaderMap;
use portcullis_identity::Issuers;
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
    revocations: Option<Arc<revocations::Settings>>,
}

impl AdminSettings {
    /// # Errors
    /// If others than this machine could reach it without a token, or the token cannot be used.
    pub fn compile(raw: raw::Admin, env: &Env) -> Result<Self, ConfigError> {
        let raw::Admin { address, token_file, decisions, revocations } = raw;
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
        let revocations = match revocations {
            Some(raw) => {
                let settings = revocations::Settings::compile(raw, env);
                Some(Arc::new(settings.map_err(|error| error.at("revocations").at("admin"))?))
            }
            None => None,
        };
        Ok(Self { address, token, decisions, revocations })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many decisions are to be kept for it to show.
    pub fn decisions(&self) -> usize {
        self.decisions
    }

    /// Whether somebody may tell of revocations.
    pub fn takes_revocations(&self) -> bool {
        self.revocations.is_some()
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
    /// Those of the running configuration: they are told of revocations.
    pub issuers: Arc<dyn Fn() -> Arc<Issuers> + Send + Sync>,
    pub assertion: Arc<ArcSwapOption<AssertionSigner>>,
}

/// What the handlers share.
struct Shared {
    shown: Shown,
    /// Replaced by a reload.
    token: ArcSwapOption<AdminToken>,
    /// Replaced by a reload. Without them nobody may tell of a revocation.
    revocations: ArcSwapOption<revocations::Settings>,
}

impl Shared {
    /// Whether a request with these fields brings the listener's token, if there is one.
    fn is_open_to(&self, headers: &HeaderMap) -> bool {
        match &*self.token.load() {
            Some(token) => routes::bearer(headers).is_some_and(|only| token.is_in(only)),
            None => true,
        }
    }
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
        let shared = Arc::new(Shared {
            shown,
            token: ArcSwapOption::new(settings.token.clone()),
            revocations: ArcSwapOption::new(settings.revocations.clone()),
        });
        let task = tokio::spawn(serve::run(listener, routes::router(Arc::clone(&shared)), stop));
        Ok(Self { configured: settings.address, bound, shared, task })
    }

    /// The address that was really bound.
    pub fn address(&self) -> SocketAddr {
        self.bound
    }

    /// Takes over reloaded secrets. Says whether that was all: another address needs a new listener, and this one then
    /// stays as it is.
    #[must_use]
    pub fn update(&self, settings: &AdminSettings) -> bool {
        if settings.address != self.configured {
            return false;
        }
        self.shared.token.store(settings.token.clone());
        self.shared.revocations.store(settings.revocations.clone());
        true
    }

    /// Waits until the listener has stopped and its last response is written or its deadline has passed.
    pub async fn stopped(self) {
        // It cannot be cancelled by others, and a panic in it is the runtime's to report.
        let _ = self.task.await;
    }
}
