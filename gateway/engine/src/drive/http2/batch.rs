//! Writes to an HTTP/2 connection, put together: the library flushes after every frame of data, and each flush would be a
//! system call and a TLS record of its own. The connection's loop sends when there is nothing more to be had.

use crate::drive::gate::Gate;
use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is put together at most before it is sent.
const BATCH: usize = 64 << 10;

/// The connection as the library sees it. All clones are one; only the task of the connection uses them.
#[derive(Clone)]
pub struct Batch(Arc<Mutex<Inner>>);

struct Inner {
    gate: Box<Gate>,
    out: BytesMut,
    unflushed: bool,
    sent: u64,
}

impl Batch {
    pub fn new(gate: Box<Gate>) -> Self {
        Self(Arc::new(Mutex::new(Inner { gate, out: BytesMut::new(), unflushed: false, sent: 0 })))
    }

    /// Whether all that was written is sent.
    pub fn is_empty(&self) -> bool {
        let inner = self.0.lock();
        inner.out.is_empty() && !inner.unflushed
    }

    /// Grows whenever the client has taken something.
    pub fn sent(&self) -> u64 {
        self.0.lock().sent
    }

    /// Sends all that was written.
    pub fn poll_send(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_send(context)
    }
}

impl Inner {
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_out(context))?;
        if self.unflushed {
            ready!(Pin::new(&mut *self.gate).poll_flush(context))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_out(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.out.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while !self.out.is_empty() {
            match ready!(Pin::new(&mut *self.gate).poll_write(context, &self.out))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                len => {
                    self.out.advance(len);
                    self.sent += len as u64;
                }
            }
            self.unflushed = true;
        }
        // Idle connections hold no buffer.
        self.out = BytesMut::new();
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Batch {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock().gate).poll_read(context, out)
    }
}

impl AsyncWrite for Batch {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let mut inner = self.0.lock();
        if inner.out.len() >= BATCH {
            ready!(inner.poll_write_out(context))?;
        }
        let len = data.len().min(BATCH - inner.out.len());
        inner.out.extend_from_slice(&data[..len]);
        Poll::Ready(Ok(len))
    }

    /// Too early: see [`Batch::poll_send`].
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        ready!(inner.poll_send(context))?;
        Pin::new(&mut *inner.gate).poll_shutdown(context)
    }
}
