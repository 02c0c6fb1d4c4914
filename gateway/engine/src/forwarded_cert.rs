//! Client certificates that a trusted proxy hands on in a header, and whose word counts.
//!
//! On a connection of a trusted proxy the header alone says who the client is: the certificate of that connection's own
//! handshake, if there is one, is the proxy's, and never becomes an identity of clients. On every other connection it is the
//! other way round: the handshake counts, and the header is nothing. In no case does what a client sent under one of these
//! names go on to a filter or a backend; see [`owned`](crate::owned).

use crate::config::raw;
use crate::config::snapshot::ListenerPlan;
use crate::forwarded::TrustedProxies;
use crate::listen::{ListenerSettings, client_auth};
use portcullis_identity::certificate::{CertificateHeader, ForwardedCas};
use portcullis_plugin::units::Network;
use portcullis_plugin::{CertificateOrigin, CertificateStatus, ConfigError, Connection, Env, Headers};
use std::time::SystemTime;

/// A listener's `client_cert`.
pub struct ForwardedCertificates {
    cas: ForwardedCas,
    bound_tokens: bool,
}

impl ForwardedCertificates {
    /// # Errors
    /// If a file cannot be read or used. The error's path starts below `client_cert`.
    pub fn compile(raw: raw::ClientCert, env: &Env) -> Result<Self, ConfigError> {
        let raw::ClientCert { from_header, ca, crl, bound_tokens } = raw;
        let header = match from_header {
            raw::CertificateHeader::ClientCert => CertificateHeader::ClientCert,
            raw::CertificateHeader::Xfcc => CertificateHeader::Xfcc,
        };
        let (cas, _) = client_auth::read_cas(&ca, &crl, env, |ca, crls| ForwardedCas::new(header, ca, crls))?;
        Ok(Self { cas, bound_tokens })
    }

    /// The client certificate of a request on a trusted proxy's connection.
    fn judge(&self, headers: &Headers, now: SystemTime) -> (CertificateStatus, CertificateOrigin) {
        let origin = CertificateOrigin::Forwarded { header: self.cas.header().name(), proves_tokens: self.bound_tokens };
        (self.cas.judge(headers, now), origin)
    }
}

/// The client certificate of a request: that of the header where a trusted proxy speaks, else `handshake`.
pub fn client_certificate(
    plan: &ListenerPlan,
    proxies: &TrustedProxies,
    connection: &Connection,
    headers: &Headers,
    handshake: &CertificateStatus,
    now: SystemTime,
) -> (CertificateStatus, CertificateOrigin) {
    match &plan.forwarded {
        Some(forwarded) if is_proxy(proxies, &plan.settings, connection) => forwarded.judge(headers, now),
        _ => (handshake.clone(), CertificateOrigin::Handshake),
    }
}

/// Whether the connection is a trusted proxy's. A balancer that speaks the PROXY protocol and names no source relays
/// somebody whom nobody knows, and is not that somebody.
fn is_proxy(proxies: &TrustedProxies, settings: &ListenerSettings, connection: &Connection) -> bool {
    let relays = |trust: &[Network]| trust.iter().any(|network| network.contains(connection.peer.ip()));
    let nameless = connection.source == connection.peer && settings.proxy_trust.as_deref().is_some_and(relays);
    !nameless && proxies.trusts(connection.source.ip().to_canonical())
}
