//! What is known of a connection before the first byte of HTTP.

use crate::reason::ReasonCode;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

/// One accepted connection. Shared by all its requests.
#[derive(Debug, Clone)]
pub struct Connection {
    /// The listener's name.
    pub listener: Arc<str>,
    /// The other end of the socket.
    pub peer: SocketAddr,
    /// The address the connection really comes from: what a trusted PROXY protocol header said, else `peer`.
    pub source: SocketAddr,
    /// Our end of the socket, with the port that was really bound.
    pub local: SocketAddr,
    /// `None` on a plain listener.
    pub tls: Option<TlsFacts>,
}

/// What the TLS handshake settled.
#[derive(Debug, Clone)]
pub struct TlsFacts {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// The IANA name of the cipher suite.
    pub cipher: &'static str,
    /// The server name the client asked for, lower-case.
    pub sni: Option<Arc<str>>,
}

/// What a client certificate says, once its chain, validity, revocation and use have been verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// The subject's distinguished name as RFC 4514 writes it, most specific part first.
    pub subject: String,
    /// The issuer's distinguished name, written likewise.
    pub issuer: String,
    /// Upper-case hexadecimal, no separators.
    pub serial: String,
    /// SHA-256 of the DER certificate, lower-case hexadecimal.
    pub sha256: String,
    pub san_dns: Vec<String>,
    pub san_uri: Vec<String>,
    pub san_email: Vec<String>,
    pub san_ip: Vec<IpAddr>,
    /// The SPIFFE id, if the certificate has exactly one URI name and it is one.
    pub spiffe_id: Option<String>,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    /// The certificate itself.
    pub der: Arc<[u8]>,
    /// What was sent with it, in its order and without the certificate itself. Some of these lead to a CA; of the others
    /// nothing is known.
    pub chain: Vec<Arc<[u8]>>,
}

/// Why a presented certificate gives no identity. It carries no name from the certificate into a decision: only what
/// `explain` and the log show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRefusal {
    /// `cert.untrusted`, `cert.expired` or `cert.revoked`; of a certificate that a trusted proxy handed on,
    /// `cert.forwarded.…`.
    pub reason: ReasonCode,
    pub expected: String,
    pub observed: String,
    pub hint: Option<String>,
}

/// The client certificate of a request, judged at the time of the request.
#[derive(Debug, Clone, Default)]
pub enum CertificateStatus {
    /// None was presented, or the listener does not ask.
    #[default]
    Missing,
    Verified(Arc<CertificateFacts>),
    Refused(Arc<CertificateRefusal>),
}

impl CertificateStatus {
    /// The certificate, if it is verified. Nothing else may be used as an identity.
    pub fn verified(&self) -> Option<&Arc<CertificateFacts>> {
        match self {
            Self::Verified(facts) => Some(facts),
            Self::Missing | Self::Refused(_) => None,
        }
    }
}

/// How a client certificate came here, and so who knows that the client has its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CertificateOrigin {
    /// In the TLS handshake: the gateway itself has seen the proof.
    #[default]
    Handshake,
    /// In a header of the request, from a trusted proxy that has seen the proof. Only its word says so.
    Forwarded {
        /// The header, as people write it.
        header: &'static str,
        /// By the configuration, that is proof enough for a token bound to the certificate (RFC 8705).
        proves_tokens: bool,
    },
}

/// `::ffff:a.b.c.d` as `a.b.c.d`, so that an address has one spelling in every rule, log and key.
pub fn canonical_ip(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}
