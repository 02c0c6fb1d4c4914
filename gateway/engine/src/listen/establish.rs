//! From an accepted socket to a connection that speaks HTTP.
//!
//! The order is fixed by what each layer wraps: the PROXY header says who the client is and comes before everything;
//! the ClientHello says which certificate and CAs apply; then the handshake; then HTTP. Up to the end of the handshake
//! one deadline covers all of it, so that a client gains nothing by being slow in each part.

use super::client_auth::ClientChain;
use super::early::Early;
use super::limits::Permit;
use super::proxy_protocol::{self, HeaderError, Start, looks_like_header, starts};
use super::refusal::Refusal;
use super::stream::{ClientStream, H2_PREFACE, Socket};
use super::tls::{self, TlsSettings};
use super::{Accepted, ListenerSettings, client_hello, stopped};
use portcullis_plugin::{CertificateStatus, Connection, reason};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::StartHandshake;

/// Sets a connection up. `None` if the client left without having said anything: port scans and the TCP checks of load
/// balancers do that, and it is nobody's failure.
pub(super) async fn establish(
    tcp: TcpStream,
    peer: SocketAddr,
    settings: Arc<ListenerSettings>,
    permit: Permit,
    shutdown: watch::Receiver<bool>,
) -> Result<Option<Accepted>, Refusal> {
    let deadline = Instant::now() + settings.limits.handshake_timeout.get();
    tcp.set_nodelay(true)?;
    let local = canonical(tcp.local_addr()?);
    let peer = canonical(peer);
    let mut early = Early::new(tcp);

    let origin = match &settings.proxy_trust {
        None => Origin::Peer,
        Some(trust) if trust.iter().any(|network| network.contains(peer.ip())) => {
            match within(deadline, proxy_header(&mut early)).await? {
                Some(source) => Origin::Header(source),
                None => return Ok(None),
            }
        }
        Some(_) => Origin::Untrusted,
    };
    let source = match origin {
        Origin::Header(Some(source)) => source,
        Origin::Header(None) | Origin::Peer | Origin::Untrusted => peer,
    };

    let set_up = match &settings.tls {
        Some(tls) => within(deadline, handshake(early, tls, &settings)).await?,
        None => plain(early, origin, &settings, shutdown).await?,
    };
    let Some(SetUp { stream, tls, certificate, http2 }) = set_up else {
        return Ok(None);
    };
    let connection = Arc::new(Connection { listener: Arc::clone(&settings.name), peer, source, local, tls });
    let mut stream = stream.of(Arc::clone(&connection));
    if http2 {
        stream = stream.http2(Instant::now() + settings.limits.header_timeout.get());
    }
    Ok(Some(Accepted { stream, connection, certificate: certificate.map(Arc::new), http2, settings, permit }))
}

/// Who says where the connection comes from.
#[derive(Clone, Copy)]
enum Origin {
    /// The listener expects no PROXY header.
    Peer,
    /// A trusted peer's header.
    Header(Option<SocketAddr>),
    /// The listener expects headers, but not from this peer.
    Untrusted,
}

struct SetUp {
    stream: ClientStream,
    tls: Option<portcullis_plugin::TlsFacts>,
    certificate: Option<ClientChain>,
    http2: bool,
}

async fn within<T>(deadline: Instant, work: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
    timeout_at(deadline, work).await.map_err(|_| Refusal::Timeout)?
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn broke_off() -> Refusal {
    io::Error::from(io::ErrorKind::UnexpectedEof).into()
}

/// Reads a trusted peer's header and leaves what follows it. `None` if the peer left without a byte.
async fn proxy_header(early: &mut Early) -> Result<Option<Option<SocketAddr>>, Refusal> {
    loop {
        if !early.more(proxy_protocol::V2_MAX).await? {
            return if early.ahead().is_empty() { Ok(None) } else { Err(broke_off()) };
        }
        if let Some(header) = proxy_protocol::parse(early.ahead())? {
            early.consume(header.length);
            return Ok(Some(header.source));
        }
    }
}

async fn handshake(mut early: Early, tls: &TlsSettings, settings: &ListenerSettings) -> Result<Option<SetUp>, Refusal> {
    let Some(hello) = client_hello::read(&mut early).await? else {
        return Ok(None);
    };
    let config = Arc::clone(tls.choose(hello.client_hello().server_name()));
    let (tcp, _) = early.into_parts();
    let socket = Socket::new(tcp, settings.limits.write_timeout.get());
    let stream = StartHandshake::from_parts(hello, socket).into_stream(config).await.map_err(Refusal::handshake)?;

    let connection = stream.get_ref().1;
    let http2 = match connection.alpn_protocol() {
        Some(protocol) => protocol == b"h2",
        // A client without ALPN speaks HTTP/1.1, which this listener may not.
        None if !tls.serves_http1() => return Err(Refusal::NoSharedProtocol),
        None => false,
    };
    let certificate = connection.peer_certificates().and_then(|chain| ClientChain::new(chain.to_vec()));
    if tls.requires_client_certificate() {
        // A resumed session has not been through the verifier.
        match tls.certificate_status(certificate.as_ref(), SystemTime::now()) {
            CertificateStatus::Verified(_) => {}
            CertificateStatus::Refused(refusal) => return Err(Refusal::ClientCertificate(refusal.reason)),
            CertificateStatus::Missing => return Err(Refusal::ClientCertificate(reason::CERT_MISSING)),
        }
    }
    let facts = tls::facts(connection);
    Ok(Some(SetUp { stream: ClientStream::tls(stream, &facts), tls: Some(facts), certificate, http2 }))
}

/// A plain connection is ready at once, unless its first bytes must be seen: to tell HTTP/2 from HTTP/1, or to refuse a
/// PROXY header from a peer that may not send one.
async fn plain(
    mut early: Early,
    origin: Origin,
    settings: &ListenerSettings,
    shutdown: watch::Receiver<bool>,
) -> Result<Option<SetUp>, Refusal> {
    let (look_for_header, look_for_http2) = (matches!(origin, Origin::Untrusted), settings.h2c);
    let mut http2 = false;
    if look_for_header || look_for_http2 {
        if early.ahead().is_empty() && !first_byte(&mut early, settings.limits.idle_timeout.get(), shutdown).await? {
            return Ok(None);
        }
        let due = Instant::now() + settings.limits.header_timeout.get();
        loop {
            let header = if look_for_header { looks_like_header(early.ahead()) } else { Start::No };
            let preface = if look_for_http2 { starts(early.ahead(), H2_PREFACE) } else { Start::No };
            match (header, preface) {
                (Start::Yes, _) => return Err(HeaderError::Untrusted.into()),
                (_, Start::Yes) => http2 = true,
                (Start::No, Start::No) => {}
                (Start::SoFar, _) | (_, Start::SoFar) => {
                    if within(due, async { Ok(early.more(H2_PREFACE.len()).await?) }).await? {
                        continue;
                    }
                    // It ends within what may become either; the HTTP parser will say what is wrong.
                }
            }
            break;
        }
    }
    let (tcp, ahead) = early.into_parts();
    let socket = Socket::new(tcp, settings.limits.write_timeout.get());
    Ok(Some(SetUp { stream: ClientStream::plain(socket, ahead), tls: None, certificate: None, http2 }))
}

/// Waits for the client to begin: as long as between two requests, and no longer once the gateway stops. False if it
/// does not.
async fn first_byte(early: &mut Early, idle: Duration, mut shutdown: watch::Receiver<bool>) -> Result<bool, Refusal> {
    tokio::select! {
        biased;
        read = early.more(H2_PREFACE.len()) => Ok(read?),
        () = stopped(&mut shutdown) => Ok(false),
        () = tokio::time::sleep(idle) => Ok(false),
    }
}
