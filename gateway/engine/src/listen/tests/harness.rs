//! A listener that echoes, and clients for it.

use super::pki::Identity;
use crate::config::raw;
use crate::listen::{Accepted, ClientChain, ListenerSettings, Observer, TlsSettings, bind, run};
use arc_swap::ArcSwap;
use portcullis_plugin::Connection;
use portcullis_plugin::units::TimeSpan;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme, SupportedProtocolVersion, version};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::task::TaskTracker;

/// Fails a test that would hang. Nothing is measured by it.
pub async fn patiently<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("it came to nothing")
}

/// What a connection was when it was served.
pub struct Seen {
    pub connection: Arc<Connection>,
    pub certificate: Option<Arc<ClientChain>>,
    pub http2: bool,
}

pub struct Recorder {
    failures: mpsc::UnboundedSender<&'static str>,
    open: watch::Sender<usize>,
}

impl Observer for Recorder {
    fn opened(&self, listener: &str) {
        assert_eq!(listener, "test");
        self.open.send_modify(|open| *open += 1);
    }

    fn closed(&self, _: &str) {
        self.open.send_modify(|open| *open -= 1);
    }

    fn handshake_failed(&self, listener: &str, reason: &'static str) {
        assert_eq!(listener, "test");
        let _ = self.failures.send(reason);
    }
}

/// A running listener whose connections give back what they get.
pub struct Listening {
    pub address: SocketAddr,
    pub stop: watch::Sender<bool>,
    pub tracker: TaskTracker,
    pub running: JoinHandle<()>,
    settings: Arc<ArcSwap<ListenerSettings>>,
    seen: mpsc::UnboundedReceiver<Seen>,
    failures: mpsc::UnboundedReceiver<&'static str>,
    open: watch::Receiver<usize>,
}

pub fn plain() -> ListenerSettings {
    ListenerSettings { name: "test".into(), tls: None, proxy_trust: None, h2c: false, limits: raw::Limits::default() }
}

pub fn with_tls(tls: Arc<TlsSettings>) -> ListenerSettings {
    ListenerSettings { tls: Some(tls), ..plain() }
}

/// So short that a test need not wait, where the deadline is what it waits for.
pub fn impatient(settings: ListenerSettings) -> ListenerSettings {
    let limits =
        raw::Limits { handshake_timeout: TimeSpan::millis(150), header_timeout: TimeSpan::millis(150), ..settings.limits };
    ListenerSettings { limits, ..settings }
}

impl Listening {
    pub fn new(settings: ListenerSettings) -> Self {
        let listener = TcpListener::from_std(bind("127.0.0.1:0".parse().unwrap()).unwrap()).unwrap();
        Self::on(listener, settings)
    }

    pub fn on(listener: TcpListener, settings: ListenerSettings) -> Self {
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let (seen_in, seen) = mpsc::unbounded_channel();
        let (failures_in, failures) = mpsc::unbounded_channel();
        let (open_in, open) = watch::channel(0);
        let settings = Arc::new(ArcSwap::from_pointee(settings));
        let (current, tracker) = (Arc::clone(&settings), TaskTracker::new());
        let serve = move |accepted: Accepted| {
            let Accepted { stream, connection, certificate, http2, settings: _, permit } = accepted;
            let _ = seen_in.send(Seen { connection, certificate, http2 });
            async move {
                let (mut read, mut write) = tokio::io::split(stream);
                let mut buffer = [0; 1024];
                while let Ok(n @ 1..) = read.read(&mut buffer).await {
                    if write.write_all(&buffer[..n]).await.is_err() || write.flush().await.is_err() {
                        break;
                    }
                }
                drop(permit);
            }
        };
        let observer = Arc::new(Recorder { failures: failures_in, open: open_in });
        let running = tokio::spawn(run(listener, move || current.load_full(), observer, stopped, tracker.clone(), serve));
        Self { address, stop, tracker, running, settings, seen, failures, open }
    }

    pub fn reload(&self, settings: ListenerSettings) {
        self.settings.store(Arc::new(settings));
    }

    pub async fn seen(&mut self) -> Seen {
        patiently(self.seen.recv()).await.unwrap()
    }

    pub async fn failure(&mut self) -> &'static str {
        patiently(self.failures.recv()).await.unwrap()
    }

    /// Until this many connections are open.
    pub async fn open(&mut self, count: usize) {
        patiently(self.open.wait_for(|open| *open == count)).await.unwrap();
    }

    /// Ends, and says which failures nobody asked for.
    pub async fn finish(mut self) -> Vec<&'static str> {
        self.stop.send(true).unwrap();
        self.tracker.close();
        patiently(self.tracker.wait()).await;
        let mut failures = Vec::new();
        while let Ok(failure) = self.failures.try_recv() {
            failures.push(failure);
        }
        failures
    }

    pub async fn connect(&self) -> TcpStream {
        patiently(TcpStream::connect(self.address)).await.unwrap()
    }

    pub async fn tls(&self, config: &Arc<ClientConfig>, name: &str) -> io::Result<TlsStream<TcpStream>> {
        tls_over(self.connect().await, config, name).await
    }
}

pub async fn tls_over<T: AsyncRead + AsyncWrite + Unpin>(
    io: T,
    config: &Arc<ClientConfig>,
    name: &str,
) -> io::Result<TlsStream<T>> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    patiently(TlsConnector::from(Arc::clone(config)).connect(name, io)).await
}

/// Sends and gets back.
pub async fn echoes<T: AsyncRead + AsyncWrite + Unpin>(stream: &mut T) -> io::Result<()> {
    patiently(async {
        stream.write_all(b"ping").await?;
        stream.flush().await?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await?;
        assert_eq!(&answer, b"ping");
        Ok(())
    })
    .await
}

/// Waits until the other side has closed the connection; whatever it still says, says so.
pub async fn closes<T: AsyncRead + Unpin>(stream: &mut T) {
    let mut rest = Vec::new();
    // A reset closes too.
    let _ = patiently(stream.read_to_end(&mut rest)).await;
}

/// A client of these versions, which takes any server certificate.
pub fn client(versions: &[&'static SupportedProtocolVersion], identity: Option<&Identity>) -> ClientConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer(provider)));
    match identity {
        Some(identity) => builder.with_client_auth_cert(identity.chain(), identity.private()).unwrap(),
        None => builder.with_no_client_auth(),
    }
}

pub const BOTH: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];
pub const EACH: [&[&SupportedProtocolVersion]; 2] = [&[&version::TLS12], &[&version::TLS13]];

#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Sends one byte at a time.
pub struct Trickle(pub TcpStream);

impl Trickle {
    pub fn new(tcp: TcpStream) -> Self {
        tcp.set_nodelay(true).unwrap();
        Self(tcp)
    }
}

impl AsyncRead for Trickle {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Trickle {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, &buf[..buf.len().min(1)])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
