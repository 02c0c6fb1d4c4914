//! Accepts connections for the admin listener, with a bound on everything a client could hold.

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

/// Connections at once. Further ones wait to be accepted; none is held for longer than [`LIFE`].
const CONNECTIONS: usize = 64;

/// For the request's head.
const HEAD: Duration = Duration::from_secs(5);

/// For a whole connection: one request, and a response that the client must read.
const LIFE: Duration = Duration::from_secs(15);

/// Bytes of a request's head.
const HEAD_BYTES: usize = 16 << 10;

/// After an accept that failed: when no file descriptor is free, the next would fail at once too.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn run(listener: TcpListener, router: Router, mut stop: watch::Receiver<bool>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let connections = TaskTracker::new();
    loop {
        // First the permit: what is not accepted costs nothing.
        let accepted = tokio::select! {
            // The sender's end is the gateway's end.
            _ = stop.wait_for(|stop| *stop) => break,
            accepted = async {
                let permit = Arc::clone(&permits).acquire_owned().await.ok()?;
                Some((permit, listener.accept().await))
            } => accepted,
        };
        match accepted {
            Some((permit, Ok((stream, peer)))) => {
                let (router, stop) = (router.clone().layer(Extension(Peer(peer))), stop.clone());
                connections.spawn(async move {
                    connection(stream, router, stop).await;
                    drop(permit);
                });
            }
            Some((_, Err(error))) => {
                tracing::warn!(%error, "the admin listener cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
            }
            // Nobody closes the semaphore.
            None => break,
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn connection(stream: TcpStream, router: Router, mut stop: watch::Receiver<bool>) {
    let mut http = http1::Builder::new();
    // One request for each connection: an idle one would hold a place, and scrapes are seconds apart.
    http.keep_alive(false).timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_BYTES);
    let serving = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut serving = std::pin::pin!(serving);
    let end = tokio::time::sleep(LIFE);
    let mut end = std::pin::pin!(end);
    let mut stopping = false;
    loop {
        tokio::select! {
            // What goes wrong here is the client's: it went away, was too slow, or sent no HTTP.
            _ = serving.as_mut() => return,
            () = end.as_mut() => return,
            _ = stop.wait_for(|stop| *stop), if !stopping => {
                stopping = true;
                serving.as_mut().graceful_shutdown();
            }
        }
    }
}
