//! The stream that Pingora reads a request from: it ends where the request ends.
//!
//! Our own loop reads and judges each head. What follows on the same connection belongs to the body only as far as the
//! head's framing says; the gate hands on exactly that much, checks chunked coding strictly, and keeps whatever comes
//! after it for the next head. So neither a pipelining client nor a smuggler decides what Pingora takes for a body.

use super::chunked::{ChunkError, Scanner};
use crate::listen::ClientStream;
use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::{SslDigest, TlsRef};
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType,
};
use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

/// Bytes of later requests that are kept while one is being served. A client that sends more waits for its answers.
const STASH: usize = 64 << 10;

/// How long, and for how many bytes, a closed connection is read on so that the client gets the last response.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 1 << 20;

/// Bytes that are read at once where most reads bring few, or none.
const SCRATCH: usize = 8 << 10;

/// Larger than most heads.
const COMMON_HEAD: usize = 1 << 10;

/// Buffers that a thread keeps.
const SPARE: usize = 64;

thread_local! {
    /// Where they are read to: a connection that waits holds no buffer.
    static SPACE: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH]);
    /// Buffers of connections that wait now.
    static SPARES: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// The end of a chunked body (RFC 9112, section 7.1).
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// What may be read from the gate.
#[derive(Debug)]
enum Allowance {
    /// Everything: HTTP/2, and what follows an upgrade.
    Open,
    /// The body has ended, or there is none.
    Spent,
    /// An upgrade was asked for, and Pingora was told of a chunked body (see [`Gate::allow_after_upgrade`]). What the client
    /// sends already is kept until the answer is known.
    Upgrade,
    /// The upgrade was refused: so many bytes of [`LAST_CHUNK`] have been read.
    Refused(usize),
    Exact(u64),
    Chunked(Scanner),
}

pub struct Gate {
    inner: ClientStream,
    http2: bool,
    buffer: BytesMut,
    allowance: Allowance,
    broken: Option<ChunkError>,
}

impl Gate {
    pub fn new(inner: ClientStream, http2: bool) -> Self {
        let allowance = if http2 { Allowance::Open } else { Allowance::Spent };
        Self { inner, http2, buffer: BytesMut::new(), allowance, broken: None }
    }

    pub fn is_http2(&self) -> bool {
        self.http2
    }

    /// What has been read and is not yet used.
    pub fn buffered(&self) -> &[u8] {
        &self.buffer
    }

    /// Drops `len` bytes from the front of what is buffered.
    pub fn consume(&mut self, len: usize) {
        self.buffer.advance(len.min(self.buffer.len()));
    }

    /// Lets go of the buffer, while nothing is in it.
    pub fn rest(&mut self) {
        if self.buffer.is_empty() && self.buffer.capacity() > 0 {
            let buffer = std::mem::take(&mut self.buffer);
            SPARES.with_borrow_mut(|spares| {
                if spares.len() < SPARE && buffer.capacity() <= SCRATCH {
                    spares.push(buffer);
                }
            });
        }
    }

    /// Takes the socket away from the runtime while a request is waited for, if nothing of one is there.
    pub fn park(&mut self) -> Option<std::net::TcpStream> {
        if self.http2 || !self.buffer.is_empty() || !self.is_spent() {
            return None;
        }
        self.rest();
        self.inner.park()
    }

    /// Takes back what [`park`](Self::park) took away.
    ///
    /// # Errors
    /// If the runtime cannot watch the socket.
    pub fn resume(&mut self, socket: std::net::TcpStream) -> io::Result<()> {
        self.inner.resume(socket)
    }

    /// Reads more into the buffer. 0 is the end of the stream.
    ///
    /// # Errors
    /// As the stream below.
    pub async fn fill(&mut self) -> io::Result<usize> {
        poll_fn(|context| self.poll_fill(context, SCRATCH)).await
    }

    /// As [`fill`](Self::fill); with more `room`, for bodies.
    pub fn poll_fill(&mut self, context: &mut Context<'_>, room: usize) -> Poll<io::Result<usize>> {
        if room > SCRATCH {
            self.buffer.reserve(room);
            return poll_read_buf(Pin::new(&mut self.inner), context, &mut self.buffer);
        }
        SPACE.with_borrow_mut(|space| {
            let mut read = ReadBuf::new(space.as_mut_slice());
            ready!(Pin::new(&mut self.inner).poll_read(context, &mut read))?;
            if self.buffer.capacity() == 0 && !read.filled().is_empty() {
                self.buffer = SPARES.with_borrow_mut(Vec::pop).unwrap_or_default();
                // More than a head that comes at once takes, so that what is left of the buffer shows that there is one.
                self.buffer.reserve(COMMON_HEAD.max(read.filled().len() + 1));
            }
            self.buffer.extend_from_slice(read.filled());
            Poll::Ready(Ok(read.filled().len()))
        })
    }

    /// What has been read and is not yet used, to be taken from its front.
    pub fn buffer_mut(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Whether as much of later requests is kept as may be.
    pub fn is_full(&self) -> bool {
        self.buffer.len() >= STASH
    }

    /// A body was not read to its end: [`shutdown`](Shutdown::shutdown) gives the client time to.
    pub fn leave_unread(&mut self) {
        self.allow_exact(1);
    }

    pub fn allow_none(&mut self) {
        self.allowance = Allowance::Spent;
    }

    pub fn allow_exact(&mut self, len: u64) {
        self.allowance = if len == 0 { Allowance::Spent } else { Allowance::Exact(len) };
    }

    pub fn allow_chunked(&mut self) {
        self.allowance = Allowance::Chunked(Scanner::default());
    }

    /// Nothing until the answer is written; then everything if it says 101, and the end of an empty chunked body if not.
    ///
    /// Pingora takes the end of a request without a body for the end of the tunnel if the upstream says 101 before it has
    /// looked at that end. A body whose end is not there yet leaves it nothing to mistake.
    pub fn allow_after_upgrade(&mut self) {
        self.allowance = Allowance::Upgrade;
    }

    /// Sees the start of what is written to the client.
    fn note_written(&mut self, data: &[u8]) {
        if matches!(self.allowance, Allowance::Upgrade) {
            self.allowance = match data.strip_prefix(b"HTTP/1.1 ") {
                Some(rest) if rest.starts_with(b"101 ") => Allowance::Open,
                // An interim response decides nothing.
                Some(rest) if rest.starts_with(b"1") => return,
                _ => Allowance::Refused(0),
            };
        }
    }

    /// Whether the whole body was read, so that what comes next is a head.
    pub fn is_spent(&self) -> bool {
        matches!(self.allowance, Allowance::Spent | Allowance::Upgrade | Allowance::Refused(_))
    }

    /// Reads only to learn whether the client is still there; its bytes are kept.
    fn poll_beyond(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut space = [0; 4096];
        while self.buffer.len() < STASH {
            let mut read = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut self.inner).poll_read(context, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.buffer.extend_from_slice(read.filled());
        }
        Poll::Pending
    }

    /// Takes up to `most` bytes from the buffer, or else from the stream.
    fn poll_some(&mut self, context: &mut Context<'_>, out: &mut ReadBuf<'_>, most: usize) -> Poll<io::Result<usize>> {
        let most = most.min(out.remaining());
        if !self.buffer.is_empty() {
            let len = most.min(self.buffer.len());
            out.put_slice(&self.buffer[..len]);
            self.buffer.advance(len);
            return Poll::Ready(Ok(len));
        }
        let space = out.initialize_unfilled_to(most);
        let mut read = ReadBuf::new(space);
        ready!(Pin::new(&mut self.inner).poll_read(context, &mut read))?;
        let len = read.filled().len();
        out.advance(len);
        Poll::Ready(Ok(len))
    }

    fn poll_chunked(&mut self, context: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        let len = ready!(self.poll_some(context, out, usize::MAX))?;
        let Allowance::Chunked(scanner) = &mut self.allowance else { return Poll::Ready(Ok(())) };
        let fresh = &out.filled()[before..before + len];
        match scanner.scan(fresh) {
            Ok(None) => {}
            Ok(Some(end)) => {
                // What stands behind the body belongs to the next request, in front of what is already buffered.
                let mut rest = BytesMut::from(&fresh[end..]);
                rest.extend_from_slice(&self.buffer);
                self.buffer = rest;
                out.set_filled(before + end);
                self.allowance = Allowance::Spent;
            }
            Err(error) => {
                self.broken = Some(error);
                out.set_filled(before);
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Gate {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let gate = self.get_mut();
        if let Some(error) = gate.broken {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
        }
        match gate.allowance {
            Allowance::Open if gate.buffer.is_empty() => Pin::new(&mut gate.inner).poll_read(context, out),
            Allowance::Open => gate.poll_some(context, out, usize::MAX).map_ok(|_| ()),
            Allowance::Spent | Allowance::Upgrade => gate.poll_beyond(context),
            Allowance::Refused(read) => {
                let rest = LAST_CHUNK.get(read..).unwrap_or_default();
                if rest.is_empty() {
                    return gate.poll_beyond(context);
                }
                let len = rest.len().min(out.remaining());
                out.put_slice(&rest[..len]);
                gate.allowance = Allowance::Refused(read + len);
                Poll::Ready(Ok(()))
            }
            Allowance::Exact(left) => {
                let len = ready!(gate.poll_some(context, out, usize::try_from(left).unwrap_or(usize::MAX)))?;
                gate.allow_exact(left - len as u64);
                Poll::Ready(Ok(()))
            }
            Allowance::Chunked(_) => gate.poll_chunked(context, out),
        }
    }
}

impl AsyncWrite for Gate {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.note_written(data);
        Pin::new(&mut self.inner).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(first) = data.first() {
            self.note_written(first);
        }
        Pin::new(&mut self.inner).poll_write_vectored(context, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[async_trait]
impl Shutdown for Gate {
    async fn shutdown(&mut self) {
        // Closing while the client is still sending makes its kernel throw our last response away (RFC 9112, section
        // 9.6): say that we are done, then let it finish within bounds.
        if self.is_spent() && self.buffer.is_empty() || self.http2 {
            // The end of TLS is written too, and a client that does not read could make that last.
            let _ = tokio::time::timeout(LINGER, self.inner.shutdown()).await;
            return;
        }
        let _ = tokio::time::timeout(LINGER, async {
            tokio::io::AsyncWriteExt::shutdown(&mut self.inner).await?;
            let mut space = [0; 4096];
            let mut seen = 0;
            while seen < LINGER_BYTES {
                match self.inner.read(&mut space).await? {
                    0 => break,
                    len => seen += len,
                }
            }
            io::Result::Ok(())
        })
        .await;
    }
}

impl UniqueID for Gate {
    fn id(&self) -> UniqueIDType {
        self.inner.id()
    }
}

impl Ssl for Gate {
    fn get_ssl(&self) -> Option<&TlsRef> {
        self.inner.get_ssl()
    }

    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.inner.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        // Prior knowledge counts as much as ALPN: the connection loop has seen the preface.
        self.http2.then_some(ALPN::H2)
    }
}

impl GetTimingDigest for Gate {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.inner.get_timing_digest()
    }
}

impl GetProxyDigest for Gate {
    /// What the driver needs to know of the connection comes with each request.
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Gate {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.inner.get_socket_digest()
    }
}

impl Peek for Gate {}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("http2", &self.http2).field("allowance", &self.allowance).finish_non_exhaustive()
    }
}
