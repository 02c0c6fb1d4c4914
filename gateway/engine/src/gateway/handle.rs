//! What whoever started a gateway holds of it.

use super::{Inner, StartError};
use crate::watch::Watcher;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// A running gateway. Dropping it stops it at once; [`drain`](Self::drain) is the polite way.
pub struct Handle {
    pub(super) inner: Arc<Inner>,
    pub(super) _watcher: Option<Watcher>,
}

impl Handle {
    /// Every listener's name and the address it is really bound to.
    pub fn addresses(&self) -> Vec<(String, SocketAddr)> {
        self.inner.listeners()
    }

    /// The bound address of one listener.
    pub fn address(&self, listener: &str) -> Option<SocketAddr> {
        self.inner.sockets.lock().iter().find(|socket| &*socket.name == listener).map(|socket| socket.bound)
    }

    /// The bound address of the admin listener, if there is one.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.inner.admin.lock().as_ref().map(|open| open.admin.address())
    }

    /// The generation of the configuration that runs: 1 at start, one more with each reload that succeeded.
    pub fn generation(&self) -> u64 {
        self.inner.current.snapshot().generation
    }

    /// Reads the configuration again, and everything it names. Requests in flight keep the one they started with.
    ///
    /// # Errors
    /// If it does not compile or an address cannot be bound; the running configuration then stays.
    pub async fn reload(&self) -> Result<u64, StartError> {
        self.inner.reload().await
    }

    /// Opens the files of the access log and the audit log anew, after they were moved away.
    pub fn reopen_logs(&self) {
        let snapshot = self.inner.current.snapshot();
        snapshot.access_log.reopen();
        snapshot.audit.reopen();
    }

    /// The metrics as Prometheus reads them.
    pub fn metrics(&self) -> String {
        self.inner.metrics.render()
    }

    /// How long [`drain`](Self::drain) is to take, by the configuration.
    pub fn drain_time(&self) -> Duration {
        self.inner.current.snapshot().drain
    }

    /// Stops accepting, lets requests in flight finish for up to the configured time, and ends. Says whether all of
    /// them did.
    pub async fn drain(self) -> bool {
        let within = self.drain_time();
        self.inner.drain(within).await
    }

    /// Ends at once: open connections are broken off.
    pub async fn stop(self) {
        self.inner.drain(Duration::ZERO).await;
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.inner.stop_accepting();
        self.inner.broken.send_replace(true);
    }
}
