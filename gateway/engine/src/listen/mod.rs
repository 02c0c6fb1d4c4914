//! Listening: from a socket to connections that speak HTTP, in the order in which a connection meets them.
//!
//! - [`bind`](mod@bind): a listening socket
//! - [`run`]: the accept loop
//! - `limits`: a place among the connections that may be open at once
//! - [`proxy_protocol`]: where the connection really comes from
//! - `client_hello`: the server name that the client asks for
//! - [`tls`], `certificates`, `names`: the certificate and settings for that name
//! - [`client_auth`]: the client's certificate
//! - `establish`: the steps above, in their order and under their deadlines
//! - [`stream`]: what Pingora reads from and writes to
//! - [`refusal`]: why a connection was not served

pub mod bind;
mod certificates;
pub mod client_auth;
mod client_hello;
mod early;
mod establish;
mod limits;
mod names;
pub mod proxy_protocol;
pub mod refusal;
pub mod stream;
pub mod tls;

pub use bind::bind;
pub use client_auth::ClientChain;
pub use limits::Permit;
pub use stream::ClientStream;
pub use tls::TlsSettings;

use crate::config::raw;
use limits::Permits;
use portcullis_plugin::units::Network;
use portcullis_plugin::{CertificateStatus, Connection};
use refusal::Refusal;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;

/// What a listener does with a connection. Asked for anew for each one, so that a reload serves the next.
#[derive(Clone)]
pub struct ListenerSettings {
    pub name: Arc<str>,
    /// `None` for plain HTTP.
    pub tls: Option<Arc<TlsSettings>>,
    /// `None` if no PROXY header is expected. Peers in these networks must send one; others must not.
    pub proxy_trust: Option<Vec<Network>>,
    /// HTTP/2 by prior knowledge on a plain listener.
    pub h2c: bool,
    pub limits: raw::Limits,
}

impl ListenerSettings {
    /// What a connection's client certificate is worth at `now`. To be asked for each request, with the settings of
    /// that request's snapshot.
    pub fn certificate_status(&self, chain: Option<&ClientChain>, now: SystemTime) -> CertificateStatus {
        self.tls.as_ref().map_or(CertificateStatus::Missing, |tls| tls.certificate_status(chain, now))
    }
}

/// A connection that is ready for HTTP.
pub struct Accepted {
    pub stream: ClientStream,
    pub connection: Arc<Connection>,
    /// The chain the client presented; judge it with [`ListenerSettings::certificate_status`].
    pub certificate: Option<Arc<ClientChain>>,
    /// HTTP/2, by ALPN or by its preface; else HTTP/1.
    pub http2: bool,
    /// The settings it was accepted with.
    pub settings: Arc<ListenerSettings>,
    /// To be held until the connection is closed.
    pub permit: Permit,
}

/// Who wants to know: metrics.
pub trait Observer: Send + Sync + 'static {
    /// A connection has taken its place; [`closed`](Self::closed) follows exactly once.
    fn opened(&self, listener: &str);
    fn closed(&self, listener: &str);
    /// A connection ended before its first request. `reason` is one of [`refusal::REASONS`].
    fn handshake_failed(&self, listener: &str, reason: &'static str);
}

/// Accepts connections until `shutdown` becomes true (or its sender is dropped), and serves each in a task of `tracker`.
///
/// When it returns, the socket is closed. Connections that are being set up then go on to their own deadline, and
/// those that are served are the caller's to end: close the tracker and wait.
pub async fn run<S, F, Fut>(
    listener: TcpListener,
    settings: S,
    observer: Arc<dyn Observer>,
    mut shutdown: watch::Receiver<bool>,
    tracker: TaskTracker,
    serve: F,
) where
    S: Fn() -> Arc<ListenerSettings>,
    F: Fn(Accepted) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let permits = Permits::new(Arc::clone(&observer));
    let mut door =
        Door { settings, permits, observer, shutdown: shutdown.clone(), tracker, serve: Arc::new(serve), warned: None };
    let mut backoff = Backoff::default();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stopped(&mut shutdown) => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((tcp, peer)) => {
                backoff = Backoff::default();
                door.admit(tcp, peer);
            }
            Err(error) if is_the_clients(&error) => {}
            // Out of descriptors or memory. That passes when connections end; a loop that ended would not come back.
            Err(error) => {
                let pause = backoff.next();
                tracing::warn!(listener = &*(door.settings)().name, %error, ?pause, "cannot accept connections");
                tokio::select! {
                    biased;
                    () = stopped(&mut shutdown) => break,
                    () = sleep(pause) => {}
                }
            }
        }
    }
    door.admit_waiting(listener);
}

/// Returns when `shutdown` is true, or nobody is left who could make it so.
async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    let _ = shutdown.wait_for(|stop| *stop).await;
}

/// The kernel's news of one client that has already left, not of the listener.
fn is_the_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// Pauses that double from 5 ms to 1 s.
#[derive(Default)]
struct Backoff(u32);

impl Backoff {
    fn next(&mut self) -> Duration {
        let pause = Duration::from_millis(5 << self.0).min(Duration::from_secs(1));
        self.0 = (self.0 + 1).min(8);
        pause
    }
}

/// Between two warnings that a listener is full.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// What each accepted socket goes through.
struct Door<S, F> {
    settings: S,
    permits: Permits,
    observer: Arc<dyn Observer>,
    shutdown: watch::Receiver<bool>,
    tracker: TaskTracker,
    serve: Arc<F>,
    /// When the last warning about the limit was given.
    warned: Option<Instant>,
}

impl<S, F, Fut> Door<S, F>
where
    S: Fn() -> Arc<ListenerSettings>,
    F: Fn(Accepted) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    fn admit(&mut self, tcp: TcpStream, peer: SocketAddr) {
        let settings = (self.settings)();
        // Before anything is read or spawned: a flood must cost as little as it can.
        let Some(permit) = self.permits.take(&settings.name, settings.limits.connections) else {
            self.full(&settings);
            return;
        };
        let (observer, shutdown, serve) = (Arc::clone(&self.observer), self.shutdown.clone(), Arc::clone(&self.serve));
        self.tracker.spawn(async move {
            let listener = Arc::clone(&settings.name);
            // Each in a place of its own, or the connection would have the room of both for as long as it lasts.
            let established = Box::pin(establish::establish(tcp, peer, settings, permit, shutdown)).await;
            match established {
                Ok(Some(accepted)) => Box::pin(serve(accepted)).await,
                Ok(None) => {}
                Err(refusal) => {
                    let reason = refusal.reason();
                    tracing::debug!(listener = &*listener, %peer, reason, error = %refusal, "connection refused");
                    observer.handshake_failed(&listener, reason);
                }
            }
        });
    }

    fn full(&mut self, settings: &ListenerSettings) {
        self.observer.handshake_failed(&settings.name, Refusal::Limit.reason());
        let now = Instant::now();
        if self.warned.is_none_or(|last| now - last >= WARN_EVERY) {
            self.warned = Some(now);
            let limit = settings.limits.connections;
            tracing::warn!(listener = &*settings.name, limit, "the listener is full; connections are closed at once");
        }
    }

    /// Takes in those whom the kernel has already connected. They would be reset when the socket is closed, and to them
    /// the gateway was still open.
    fn admit_waiting(&mut self, listener: TcpListener) {
        let Ok(listener) = listener.into_std() else {
            return;
        };
        // Bounded, so that a flood cannot keep the socket open.
        for _ in 0..bind::BACKLOG {
            let Ok((tcp, peer)) = listener.accept() else {
                return;
            };
            if tcp.set_nonblocking(true).is_ok()
                && let Ok(tcp) = TcpStream::from_std(tcp)
            {
                self.admit(tcp, peer);
            }
        }
    }
}

#[cfg(test)]
mod tests;
