//! The stream of a client's connection as Pingora sees it: plain or TLS, with the bounds that Pingora lacks.
//!
//! It is our own rather than Pingora's streams, because those neither say why a handshake failed nor bound a client
//! that stops reading or never sends its HTTP/2 preface.

use async_trait::async_trait;
use bytes::{Buf, Bytes};
use pingora::protocols::l4::socket::SocketAddr as PingoraAddr;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::SslDigest;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType,
};
use portcullis_plugin::{Connection, TlsFacts};
use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_rustls::server::TlsStream;

/// What every HTTP/2 connection begins with (RFC 9113, 3.4).
pub(super) const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a polite end may take: TLS wants to say goodbye, also to a client that reads nothing any more.
const GOODBYE: Duration = Duration::from_secs(2);

/// A TCP connection on which no write may stand still for longer than `limits.write_timeout`.
///
/// It lies below TLS, where every byte the client's machine took counts as progress.
pub(super) struct Socket {
    /// `None` while the connection is parked.
    tcp: Option<TcpStream>,
    write_timeout: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

impl Socket {
    pub(super) fn new(tcp: TcpStream, write_timeout: Duration) -> Self {
        Self { tcp: Some(tcp), write_timeout, stalled: None, waiting: false }
    }

    fn poll_with<T>(&mut self, poll: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match &mut self.tcp {
            Some(tcp) => poll(Pin::new(tcp)),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn descriptor(&self) -> UniqueIDType {
        self.tcp.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// Passes on what a write came to; one that waits for too long fails.
    fn bounded<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waiting = false;
            return written;
        }
        let deadline = Instant::now() + self.write_timeout;
        let sleep = self.stalled.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if !self.waiting {
            self.waiting = true;
            sleep.as_mut().reset(deadline);
        }
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_with(|tcp| tcp.poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = this.poll_with(|tcp| tcp.poll_write(cx, buf));
        this.bounded(cx, written)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = this.poll_with(|tcp| tcp.poll_write_vectored(cx, bufs));
        this.bounded(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_with(|tcp| tcp.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_with(|tcp| tcp.poll_shutdown(cx))
    }
}

enum Transport {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

impl Transport {
    fn socket(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }

    fn socket_mut(&mut self) -> &mut Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => tls.get_mut().0,
        }
    }
}

/// An HTTP/2 client owes its preface by then. Pingora's own reading of it has no end.
struct Preface {
    missing: usize,
    due: Pin<Box<Sleep>>,
}

/// A client's connection, ready for HTTP.
pub struct ClientStream {
    transport: Transport,
    /// What was read from a plain connection to see what it speaks; read again first.
    ahead: Bytes,
    http2: bool,
    preface: Option<Preface>,
    ssl: Option<Arc<SslDigest>>,
    /// What Pingora wants to know of the socket, made when it asks: most connections are none of Pingora's.
    socket: OnceLock<Arc<SocketDigest>>,
    /// Who the client really is, and where it came to.
    connection: Option<Arc<Connection>>,
    established: SystemTime,
}

impl ClientStream {
    pub(super) fn plain(socket: Socket, ahead: Bytes) -> Self {
        Self::new(Transport::Plain(socket), ahead, None)
    }

    pub(super) fn tls(stream: TlsStream<Socket>, facts: &TlsFacts) -> Self {
        let digest = SslDigest::new(facts.cipher, facts.version, None, None, Vec::new());
        Self::new(Transport::Tls(Box::new(stream)), Bytes::new(), Some(Arc::new(digest)))
    }

    fn new(transport: Transport, ahead: Bytes, ssl: Option<Arc<SslDigest>>) -> Self {
        Self {
            transport,
            ahead,
            http2: false,
            preface: None,
            ssl,
            socket: OnceLock::new(),
            connection: None,
            established: SystemTime::now(),
        }
    }

    /// Pingora reports its addresses, so that it need not ask the kernel, and reports the real client.
    pub(super) fn of(mut self, connection: Arc<Connection>) -> Self {
        self.connection = Some(connection);
        self
    }

    /// Takes the socket away from the runtime, for as long as the client is waited for. `None` if something is on its way.
    pub fn park(&mut self) -> Option<std::net::TcpStream> {
        if self.preface.is_some() || self.ahead.has_remaining() {
            return None;
        }
        if let Transport::Tls(tls) = &self.transport
            && tls.get_ref().1.wants_write()
        {
            return None;
        }
        let socket = self.transport.socket_mut();
        (socket.stalled, socket.waiting) = (None, false);
        socket.tcp.take()?.into_std().ok()
    }

    /// Takes back what [`park`](Self::park) took away.
    ///
    /// # Errors
    /// If the runtime cannot watch the socket.
    pub fn resume(&mut self, socket: std::net::TcpStream) -> io::Result<()> {
        self.transport.socket_mut().tcp = Some(TcpStream::from_std(socket)?);
        Ok(())
    }

    fn make_digest(&self) -> Arc<SocketDigest> {
        let digest = SocketDigest::from_raw_fd(self.transport.socket().descriptor());
        if let Some(connection) = &self.connection {
            // The cells are new, so setting them cannot fail.
            let _ = digest.peer_addr.set(Some(PingoraAddr::Inet(connection.source)));
            let _ = digest.local_addr.set(Some(PingoraAddr::Inet(connection.local)));
        }
        Arc::new(digest)
    }

    /// The client speaks HTTP/2 and owes the preface by `due`.
    pub(super) fn http2(mut self, due: Instant) -> Self {
        self.http2 = true;
        self.preface = Some(Preface { missing: H2_PREFACE.len(), due: Box::pin(sleep_until(due)) });
        self
    }

    fn poll_transport(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.has_remaining() {
            let take = self.ahead.len().min(buf.remaining());
            buf.put_slice(&self.ahead.split_to(take));
            return Poll::Ready(Ok(()));
        }
        match &mut self.transport {
            Transport::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Transport::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = this.poll_transport(cx, buf);
        let Some(preface) = &mut this.preface else {
            return read;
        };
        if read.is_ready() {
            preface.missing = preface.missing.saturating_sub(buf.filled().len() - before);
            if preface.missing == 0 {
                this.preface = None;
            }
            return read;
        }
        ready!(preface.due.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client sends no HTTP/2 preface")))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().transport {
            Transport::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Transport::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().transport {
            Transport::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Transport::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(socket) => socket.is_write_vectored(),
            Transport::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Transport::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Transport::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

#[async_trait]
impl Shutdown for ClientStream {
    async fn shutdown(&mut self) {
        // A client that is gone, or does not read, misses the goodbye; the connection ends all the same.
        let _ = timeout(GOODBYE, AsyncWriteExt::shutdown(self)).await;
    }
}

impl UniqueID for ClientStream {
    fn id(&self) -> UniqueIDType {
        self.transport.socket().descriptor()
    }
}

impl Ssl for ClientStream {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.ssl.clone()
    }

    /// Also for HTTP/2 without TLS: Pingora asks this to choose what it speaks.
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        Some(if self.http2 { ALPN::H2 } else { ALPN::H1 })
    }
}

impl Peek for ClientStream {}

impl GetTimingDigest for ClientStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        vec![Some(TimingDigest { established_ts: self.established, ..TimingDigest::default() })]
    }
}

impl GetProxyDigest for ClientStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for ClientStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(Arc::clone(self.socket.get_or_init(|| self.make_digest())))
    }

    fn set_socket_digest(&mut self, socket_digest: SocketDigest) {
        self.socket = OnceLock::from(Arc::new(socket_digest));
    }
}

impl fmt::Debug for ClientStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientStream").field("tls", &self.ssl.is_some()).field("http2", &self.http2).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pingora::protocols::Stream;
    use std::net::SocketAddr;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    async fn pair(write_timeout: Duration) -> (TcpStream, Socket) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, Socket::new(listener.accept().await.unwrap().0, write_timeout))
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(50)
    }

    const LONG: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn an_http2_client_without_preface_is_cut() {
        let (mut client, socket) = pair(LONG).await;
        let mut stream = ClientStream::plain(socket, Bytes::new()).http2(soon());
        // All but the last byte is as bad as nothing.
        client.write_all(&H2_PREFACE[..23]).await.unwrap();
        let mut bytes = Vec::new();
        assert_eq!(stream.read_to_end(&mut bytes).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(bytes, &H2_PREFACE[..23]);
    }

    #[tokio::test]
    async fn pingora_does_not_wait_for_a_preface_that_never_comes() {
        let (_client, socket) = pair(LONG).await;
        let stream = ClientStream::plain(socket, Bytes::new()).http2(soon());
        assert!(pingora::protocols::http::v2::server::handshake(Box::new(stream), None).await.is_err());
    }

    fn from(source: SocketAddr) -> Arc<Connection> {
        let local = "127.0.0.1:80".parse().unwrap();
        Arc::new(Connection { listener: "edge".into(), peer: source, source, local, tls: None })
    }

    #[tokio::test]
    async fn pingora_reads_requests_and_the_real_client_from_it() {
        let (_client, socket) = pair(LONG).await;
        let source = "192.0.2.7:1234".parse().unwrap();
        let ahead = Bytes::from_static(b"GET /a HTTP/1.1\r\nHost: a.test\r\n\r\n");
        let stream: Stream = Box::new(ClientStream::plain(socket, ahead).of(from(source)));
        let mut session = pingora::protocols::http::ServerSession::new_http1(stream);
        assert!(session.read_request().await.unwrap());
        assert_eq!(session.req_header().uri.path(), "/a");
        assert_eq!(session.client_addr(), Some(&PingoraAddr::Inet(source)));
    }

    #[tokio::test]
    async fn a_parked_stream_fails_and_goes_on_where_it_was() {
        let (mut client, socket) = pair(LONG).await;
        let mut stream = ClientStream::plain(socket, Bytes::new());
        let parked = stream.park().unwrap();
        assert_eq!(stream.read_u8().await.unwrap_err().kind(), io::ErrorKind::NotConnected);
        client.write_all(b"x").await.unwrap();
        stream.resume(parked).unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
        stream.write_all(b"y").await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'y');
    }

    #[tokio::test]
    async fn what_has_bytes_or_a_preface_to_come_is_not_parked() {
        let (_client, socket) = pair(LONG).await;
        assert!(ClientStream::plain(socket, Bytes::from_static(b"x")).park().is_none());
        let (_client, socket) = pair(LONG).await;
        assert!(ClientStream::plain(socket, Bytes::new()).http2(Instant::now() + LONG).park().is_none());
    }

    #[tokio::test]
    async fn after_the_preface_the_deadline_is_gone() {
        let (mut client, socket) = pair(LONG).await;
        let due = soon();
        let mut stream = ClientStream::plain(socket, Bytes::from_static(&H2_PREFACE[..10])).http2(due);
        client.write_all(&H2_PREFACE[10..]).await.unwrap();
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.unwrap();
        assert_eq!(preface, H2_PREFACE);
        let reading = tokio::spawn(async move { stream.read_u8().await });
        tokio::time::sleep_until(due).await;
        client.write_all(b"x").await.unwrap();
        assert_eq!(reading.await.unwrap().unwrap(), b'x');
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_is_cut() {
        let (_client, socket) = pair(Duration::from_millis(50)).await;
        let mut stream = ClientStream::plain(socket, Bytes::new());
        let error = loop {
            if let Err(error) = stream.write_all(&[0; 1 << 20]).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
