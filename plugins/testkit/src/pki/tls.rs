//! rustls configurations from test certificates.

use super::{Identity, Pki};
use crate::error::Error;
use std::sync::Arc;

impl Identity {
    /// For a server that shows this certificate, asks clients for one of `client_ca` if that is given (and insists), and
    /// offers `alpn`.
    ///
    /// # Errors
    /// If rustls does not take the certificate.
    pub fn server_config(&self, client_ca: Option<&Pki>, alpn: &[&str]) -> Result<Arc<rustls::ServerConfig>, Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let roots = Arc::new(roots(&[authority])?);
                let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots, provider)
                    .build()
                    .map_err(|error| rustls::Error::General(error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_single_cert(self.chain.clone(), self.key())?;
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_owned()).collect();
        Ok(Arc::new(config))
    }
}

/// For a client that trusts `authorities`, presents `identity` when asked, and offers `alpn`.
///
/// # Errors
/// If rustls does not take a certificate.
pub fn client_config(
    authorities: &[&Pki],
    identity: Option<&Identity>,
    alpn: &[&str],
) -> Result<Arc<rustls::ClientConfig>, Error> {
    client_config_for(authorities, identity, alpn, rustls::ALL_VERSIONS)
}

/// As [`client_config`], with only some versions of TLS.
///
/// # Errors
/// As [`client_config`].
pub fn client_config_for(
    authorities: &[&Pki],
    identity: Option<&Identity>,
    alpn: &[&str],
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Result<Arc<rustls::ClientConfig>, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_root_certificates(roots(authorities)?);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => builder.with_client_auth_cert(identity.chain.clone(), identity.key())?,
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_owned()).collect();
    Ok(Arc::new(config))
}

fn roots(authorities: &[&Pki]) -> Result<rustls::RootCertStore, Error> {
    let mut store = rustls::RootCertStore::empty();
    for authority in authorities {
        store.add(authority.ca_der())?;
    }
    Ok(store)
}
