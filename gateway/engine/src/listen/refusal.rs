//! Why a connection ended before its first request, each with one stable label for metrics and logs.

use super::proxy_protocol::HeaderError;
use portcullis_plugin::ReasonCode;
use rustls::{PeerIncompatible, PeerMisbehaved};
use std::io;

/// A connection that is not served.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("the connection was not set up in time")]
    Timeout,
    #[error("the listener has as many connections as it may")]
    Limit,
    #[error(transparent)]
    ProxyHeader(#[from] HeaderError),
    #[error("not a TLS ClientHello: {0}")]
    ClientHello(rustls::Error),
    #[error("the ClientHello is larger than {0} bytes")]
    ClientHelloTooLarge(usize),
    #[error("plain HTTP on a TLS listener")]
    PlainHttp,
    #[error("TLS: {0}")]
    Tls(rustls::Error),
    #[error("the client speaks none of the listener's protocols")]
    NoSharedProtocol,
    #[error("the listener requires a client certificate that verifies: {0}")]
    ClientCertificate(ReasonCode),
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
}

/// The labels of `portcullis_handshake_failures_total`, and what each means.
pub const REASONS: &[(&str, &str)] = &[
    ("timeout", "The client did not finish the PROXY header and the handshake within `limits.handshake_timeout`."),
    ("limit", "The listener had `limits.connections` connections already."),
    ("proxy_header.missing", "A peer of `proxy_protocol.trust` sent no PROXY header."),
    ("proxy_header.malformed", "A trusted peer's PROXY header cannot be read."),
    ("proxy_header.too_long", "A trusted peer's PROXY header is longer than any real one."),
    ("proxy_header.checksum", "The checksum of a trusted peer's PROXY header does not hold."),
    ("proxy_header.untrusted", "A peer outside of `proxy_protocol.trust` sent a PROXY header."),
    ("client_hello.malformed", "What the client sent is not TLS."),
    ("client_hello.too_large", "The ClientHello is larger than any real one."),
    ("client_hello.plain_http", "The client spoke plain HTTP to a TLS listener."),
    ("tls.no_shared_version", "The client's TLS versions are all below `min_version`."),
    ("tls.no_shared_cipher", "Client and listener share no cipher suite, key exchange or signature scheme."),
    ("tls.no_shared_protocol", "The client offers none of the listener's `alpn`."),
    (
        "tls.client_certificate",
        "The client did not prove its certificate; or `client_auth` requires a valid one and it has none.",
    ),
    ("tls.alert", "The client broke the handshake off with an alert; mostly it does not trust the listener's certificate."),
    ("tls.protocol", "The client broke the rules of TLS."),
    ("io", "The client closed the connection, or the network did."),
];

impl Refusal {
    /// The error of a handshake, from what tokio-rustls wrapped it in.
    pub(super) fn handshake(error: io::Error) -> Self {
        match error.downcast::<rustls::Error>() {
            Ok(error) => Self::Tls(error),
            Err(error) => Self::Io(error),
        }
    }

    /// The label; one of [`REASONS`].
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Limit => "limit",
            Self::ProxyHeader(error) => error.reason(),
            Self::ClientHello(_) => "client_hello.malformed",
            Self::ClientHelloTooLarge(_) => "client_hello.too_large",
            Self::PlainHttp => "client_hello.plain_http",
            Self::Tls(error) => tls_reason(error),
            Self::NoSharedProtocol => "tls.no_shared_protocol",
            Self::ClientCertificate(_) => "tls.client_certificate",
            Self::Io(_) => "io",
        }
    }
}

fn tls_reason(error: &rustls::Error) -> &'static str {
    match error {
        rustls::Error::AlertReceived(_) => "tls.alert",
        rustls::Error::NoApplicationProtocol => "tls.no_shared_protocol",
        rustls::Error::NoCertificatesPresented
        | rustls::Error::InvalidCertificate(_)
        | rustls::Error::PeerMisbehaved(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme) => "tls.client_certificate",
        rustls::Error::PeerIncompatible(
            PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled,
        ) => "tls.no_shared_version",
        rustls::Error::PeerIncompatible(_) => "tls.no_shared_cipher",
        _ => "tls.protocol",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_label_is_in_the_table() {
        let listed = |reason: &str| REASONS.iter().any(|(name, _)| *name == reason);
        let tls = |error| Refusal::Tls(error).reason();
        for reason in [
            Refusal::Timeout.reason(),
            Refusal::Limit.reason(),
            Refusal::ClientHello(rustls::Error::DecryptError).reason(),
            Refusal::ClientHelloTooLarge(1).reason(),
            Refusal::PlainHttp.reason(),
            Refusal::NoSharedProtocol.reason(),
            Refusal::ClientCertificate(portcullis_plugin::reason::CERT_MISSING).reason(),
            Refusal::Io(io::ErrorKind::UnexpectedEof.into()).reason(),
            tls(rustls::Error::AlertReceived(rustls::AlertDescription::UnknownCA)),
            tls(rustls::Error::NoCertificatesPresented),
            tls(rustls::Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered)),
            tls(rustls::Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon)),
            tls(rustls::Error::DecryptError),
        ]
        .into_iter()
        .chain(HeaderError::ALL.iter().map(HeaderError::reason))
        {
            assert!(listed(reason), "{reason}");
        }
    }
}
