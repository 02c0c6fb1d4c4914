//! Connections of the direct driver to a backend: how they are made, and how idle ones are kept.
//!
//! What [`peer`](super::peer) says of verification holds here: a TLS connection is verified against the pool's CAs and a name,
//! or it is not made.

use super::spoken::Spoken;
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// An HTTP/1.1 connection to a backend.
pub struct Connection {
    transport: Transport,
    group: u64,
}

enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// How a backend is connected to over HTTP/1.1.
#[derive(Clone)]
pub(super) struct Dial {
    pub(super) tls: Option<DialTls>,
    /// As in [`Peers::group`](super::peer::Peers::group): a connection made under another one is not used.
    pub(super) group: u64,
    pub(super) connect: Duration,
}

#[derive(Clone)]
pub(super) struct DialTls {
    pub(super) name: ServerName<'static>,
    /// Offers HTTP/1.1 and nothing else.
    pub(super) config: Arc<ClientConfig>,
    /// Where the backend has the choice: offers both, and where the choice is remembered.
    pub(super) auto: Option<(Arc<ClientConfig>, Arc<Spoken>)>,
}

impl Dial {
    /// Connects, TLS included, within the pool's time for it or by `end`.
    pub(super) async fn connect(&self, address: SocketAddr, end: Option<Instant>) -> io::Result<Connection> {
        let due = Instant::now() + self.connect;
        let due = end.map_or(due, |end| end.min(due));
        let Some(DialTls { name, config, auto }) = &self.tls else {
            return Ok(self.carry(Transport::Plain(tcp(address, due).await?)));
        };
        if let Some((both, spoken)) = auto {
            let tls = handshake(tcp(address, due).await?, both, name, due).await?;
            let http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
            spoken.learn(http2);
            if !http2 {
                return Ok(self.carry(Transport::Tls(Box::new(tls))));
            }
            // From the next request on, the pool is left to Pingora's driver. This one is on its way already.
        }
        let tls = handshake(tcp(address, due).await?, config, name, due).await?;
        Ok(self.carry(Transport::Tls(Box::new(tls))))
    }

    fn carry(&self, transport: Transport) -> Connection {
        Connection { transport, group: self.group }
    }
}

async fn tcp(address: SocketAddr, due: Instant) -> io::Result<TcpStream> {
    let tcp = timeout_at(due, TcpStream::connect(address)).await.map_err(late("no connection in time"))??;
    tcp.set_nodelay(true)?;
    // Finds idle connections whose other end has vanished.
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(10)).with_retries(3);
    SockRef::from(&tcp).set_tcp_keepalive(&keepalive)?;
    Ok(tcp)
}

async fn handshake(
    tcp: TcpStream,
    config: &Arc<ClientConfig>,
    name: &ServerName<'static>,
    due: Instant,
) -> io::Result<TlsStream<TcpStream>> {
    let handshake = TlsConnector::from(Arc::clone(config)).connect(name.clone(), tcp);
    timeout_at(due, handshake).await.map_err(late("no TLS handshake in time"))?
}

fn late(missing: &'static str) -> impl FnOnce(Elapsed) -> io::Error {
    move |_| io::Error::new(io::ErrorKind::TimedOut, missing)
}

impl Connection {
    /// Whether the backend has closed an idle connection, or said something on it that nobody asked for. TLS may have read
    /// its own messages, which count for nothing.
    fn is_spoilt(&mut self) -> bool {
        let mut byte = [0; 1];
        let mut read = ReadBuf::new(&mut byte);
        // Nobody waits for it: the next user will.
        let mut context = Context::from_waker(Waker::noop());
        Pin::new(self).poll_read(&mut context, &mut read).is_ready()
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Transport::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().transport {
            Transport::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Transport::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Transport::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Transport::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

/// Shards of a backend's idle connections: a thread looks into its own first.
const SHARDS: usize = 8;

/// Idle connections to one backend, in one shard.
const MOST_IDLE: usize = 256;

/// The idle connections to one backend. They outlive a reload, and those made under other TLS settings do not.
#[derive(Default)]
pub(super) struct Idle {
    shards: [Mutex<Vec<Kept>>; SHARDS],
}

struct Kept {
    connection: Connection,
    until: Instant,
}

impl Idle {
    /// The connection used last, if there is one made as `group` says that is still good.
    pub(super) fn take(&self, group: u64, now: Instant) -> Option<Connection> {
        let mine = shard();
        // Another thread's is better than a new one.
        let shards = self.shards.iter().cycle().skip(mine).take(SHARDS);
        for shard in shards {
            while let Some(Kept { mut connection, until }) = { shard.lock().pop() } {
                // The sweep comes only now and then.
                if connection.group == group && until > now && !connection.is_spoilt() {
                    return Some(connection);
                }
            }
        }
        None
    }

    pub(super) fn keep(&self, connection: Connection, until: Instant) {
        let Some(shard) = self.shards.get(shard()) else { return };
        let kept = Kept { connection, until };
        let mut kept_here = shard.lock();
        if kept_here.len() < MOST_IDLE {
            kept_here.push(kept);
        }
    }

    /// Lets go of those that were idle for too long or that the backend has closed.
    pub(super) fn sweep(&self) {
        let now = Instant::now();
        for shard in &self.shards {
            let mut gone = Vec::new();
            let mut kept = shard.lock();
            let mut at = 0;
            while let Some(one) = kept.get_mut(at) {
                if one.until <= now || one.connection.is_spoilt() {
                    gone.push(kept.remove(at));
                } else {
                    at += 1;
                }
            }
            // Closed without the lock.
            drop(kept);
            drop(gone);
        }
    }
}

/// This thread's shard.
fn shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: Cell<usize> = Cell::new(NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS);
    }
    MINE.with(Cell::get)
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_testkit::until;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    const LONG: Duration = Duration::from_secs(3600);

    async fn pair() -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dial = Dial { tls: None, group: 1, connect: LONG };
        let connection = dial.connect(listener.local_addr().unwrap(), None).await.unwrap();
        (connection, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn an_idle_connection_is_used_again_and_only_by_its_own_group() {
        let idle = Idle::default();
        let (connection, _backend) = pair().await;
        idle.keep(connection, Instant::now() + LONG);
        let connection = idle.take(1, Instant::now()).unwrap();
        assert!(idle.take(1, Instant::now()).is_none());
        idle.keep(connection, Instant::now() + LONG);
        assert!(idle.take(2, Instant::now()).is_none());
        assert!(idle.take(1, Instant::now()).is_none(), "what another group cannot use is closed");
    }

    #[tokio::test]
    async fn a_connection_that_was_idle_for_too_long_is_not_used_again_though_nobody_has_swept() {
        let idle = Idle::default();
        let (connection, _backend) = pair().await;
        idle.keep(connection, Instant::now());
        assert!(idle.take(1, Instant::now()).is_none());
    }

    /// Bytes that came unasked would be taken for the answer to the next request.
    #[tokio::test]
    async fn a_connection_with_unasked_bytes_or_its_end_is_not_used_again() {
        for said in [&b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"[..], b""] {
            let idle = Idle::default();
            let (connection, mut backend) = pair().await;
            idle.keep(connection, Instant::now() + LONG);
            backend.write_all(said).await.unwrap();
            if said.is_empty() {
                drop(backend);
            }
            until("the connection to be seen as spoilt", || {
                idle.sweep();
                idle.shards.iter().all(|shard| shard.lock().is_empty())
            })
            .await
            .unwrap();
            assert!(idle.take(1, Instant::now()).is_none());
        }
    }

    #[tokio::test]
    async fn idle_connections_have_an_end() {
        let idle = Idle::default();
        let (connection, _backend) = pair().await;
        idle.keep(connection, Instant::now());
        idle.sweep();
        assert!(idle.take(1, Instant::now()).is_none());
    }

    #[tokio::test]
    async fn a_backend_that_does_not_answer_in_time_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let name = ServerName::try_from("a.test").unwrap();
        let tls = DialTls { name, config: Arc::new(config), auto: None };
        let dial = Dial { tls: Some(tls), group: 1, connect: Duration::from_millis(50) };
        // It accepts, and says nothing of TLS.
        let error = dial.connect(listener.local_addr().unwrap(), None).await.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
