//! Connections to backends for WebSockets.
//!
//! Pingora ends a tunnel that is just being made if the backend answers 101 so fast that the answer is seen before the
//! end of the request's (empty) body: of the two, whichever it happens to look at first (cloudflare/pingora#946). So a
//! connection for an upgrade holds the answer back for one turn: after each write, the first read has to come again.
//! The end of the body is waiting by then, and is what is looked at in between.

use async_trait::async_trait;
use pingora::connectors::l4::Connect;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora::{Error, ErrorType, OrErr, Result};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connection that was not upgraded after all is not used again: it has no descriptor that Pingora could check.
pub(super) const KEPT: Duration = Duration::from_secs(1);

/// Makes the connections, each within `timeout`.
#[derive(Debug)]
pub(super) struct Connector {
    pub timeout: Duration,
}

#[async_trait]
impl Connect for Connector {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        let SocketAddr::Inet(address) = address else {
            return Error::e_explain(ErrorType::SocketError, "a backend is an internet address");
        };
        let stream = match tokio::time::timeout(self.timeout, TcpStream::connect(address)).await {
            Err(_) => return Error::e_explain(ErrorType::ConnectTimedout, format!("timeout connecting to {address}")),
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                return Error::e_because(ErrorType::ConnectRefused, format!("connect to {address}"), error);
            }
            Ok(connected) => connected.or_err_with(ErrorType::ConnectError, || format!("connect to {address}"))?,
        };
        let socket = Box::new(Patient { stream, written: false });
        Ok(VirtualSocketStream::new(socket).into())
    }
}

/// What makes a connection's group one that no later request is in.
pub(super) fn group() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[derive(Debug)]
struct Patient {
    stream: TcpStream,
    /// Something was written since the last read.
    written: bool,
}

impl VirtualSocket for Patient {
    fn set_socket_option(&self, option: VirtualSockOpt) -> io::Result<()> {
        let socket = socket2::SockRef::from(&self.stream);
        match option {
            VirtualSockOpt::NoDelay => self.stream.set_nodelay(true),
            VirtualSockOpt::KeepAlive(keep) => socket.set_tcp_keepalive(
                &socket2::TcpKeepalive::new()
                    .with_time(keep.idle)
                    .with_interval(keep.interval)
                    .with_retries(u32::try_from(keep.count).unwrap_or(u32::MAX)),
            ),
            // None that a gateway sets.
            _ => Ok(()),
        }
    }
}

impl AsyncRead for Patient {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.written) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(context, out)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.written = true;
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
