//! The TLS settings of a listener, as they run: one rustls configuration for each certificate.
//!
//! A configuration of its own for each certificate keeps session tickets apart: a ticket of one name opens nothing
//! under another. 0-RTT data is never accepted: it can be replayed.

use super::certificates::{self, OwnCertificate};
use super::client_auth::{self, ClientChain, PossessionVerifier};
use super::names::NameMap;
use crate::config::raw;
use portcullis_identity::certificate::ClientCas;
use portcullis_plugin::{CertificateStatus, ConfigError, Env, TlsFacts};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{NoClientAuth, ProducesTickets, ServerConnection};
use rustls::sign::SingleCertAndKey;
use rustls::{CipherSuite, ProtocolVersion, ServerConfig, SupportedProtocolVersion, version};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::SystemTime;

/// A listener's certificates, client CAs, versions and protocols. A reload makes a new one; connections keep theirs.
pub struct TlsSettings {
    certificates: Vec<Served>,
    names: NameMap,
    client_auth: Option<ClientAuth>,
    /// Whether a client that negotiates no protocol is served; it will speak HTTP/1.1.
    http1: bool,
    warnings: Vec<ConfigError>,
}

struct Served {
    config: Arc<ServerConfig>,
    summary: CertificateSummary,
}

/// What `check` shows of a certificate.
#[derive(Debug, Clone)]
pub struct CertificateSummary {
    /// As the configuration writes it.
    pub file: String,
    /// The names that choose it.
    pub names: Vec<String>,
    pub not_after: SystemTime,
}

struct ClientAuth {
    cas: Arc<ClientCas>,
    required: bool,
    /// The files' content, for the name of the tickets' keys.
    source: Vec<u8>,
}

impl TlsSettings {
    /// Reads and checks every file that `raw` names, through `env`, so that a change of one makes new settings.
    ///
    /// # Errors
    /// If a file cannot be read or used, a key is not its certificate's, or a name or protocol is given twice. The
    /// error's path starts below the listener's `tls`.
    pub fn compile(raw: raw::Tls, env: &Env) -> Result<Arc<Self>, ConfigError> {
        let raw::Tls { certificates, client_auth, min_version, alpn } = raw;
        let provider = Arc::new(aws_lc_rs::default_provider());
        if certificates.is_empty() {
            return Err(ConfigError::new("a TLS listener needs at least one certificate").at("certificates"));
        }
        let client_auth =
            client_auth.map(|raw| ClientAuth::compile(raw, env).map_err(|error| error.at("client_auth"))).transpose()?;
        let versions: &[&SupportedProtocolVersion] = match min_version {
            raw::TlsVersion::Tls12 => &[&version::TLS13, &version::TLS12],
            raw::TlsVersion::Tls13 => &[&version::TLS13],
        };
        let protocols = protocols(&alpn).map_err(|error| error.at("alpn"))?;

        let (mut served, mut names, mut warnings) = (Vec::new(), NameMap::default(), Vec::new());
        for (index, raw::Certificate { cert, key }) in certificates.into_iter().enumerate() {
            let place = |error: ConfigError| error.at(index).at("certificates");
            let own = certificates::read(&cert, &key, env, &provider).map_err(place)?;
            claim_names(&mut names, index, &own, &cert, &served).map_err(place)?;
            let config = server_config(&own, &provider, versions, &protocols, client_auth.as_ref(), env).map_err(place)?;
            warnings.extend(own.warnings.into_iter().map(place));
            let names = own.names.iter().map(ToString::to_string).collect();
            let summary = CertificateSummary { file: cert, names, not_after: own.not_after };
            served.push(Served { config: Arc::new(config), summary });
        }
        let http1 = alpn.contains(&raw::Alpn::Http11);
        Ok(Arc::new(Self { certificates: served, names, client_auth, http1, warnings }))
    }

    /// What is not wrong enough to refuse the configuration: a certificate that expires soon, a key everybody can read.
    pub fn warnings(&self) -> &[ConfigError] {
        &self.warnings
    }

    pub fn certificates(&self) -> impl Iterator<Item = &CertificateSummary> {
        self.certificates.iter().map(|served| &served.summary)
    }

    /// Which certificate serves `name`: the one that has it, or has a wildcard for it, else the first.
    ///
    /// A request for a host whose certificate is another than that of its connection's server name came over a
    /// connection that was made for somebody else's policy.
    pub fn certificate_index_for(&self, name: &str) -> usize {
        self.names.find(name)
    }

    /// The CAs that judge client certificates. `None` if the listener does not ask for any.
    pub fn client_cas(&self) -> Option<&Arc<ClientCas>> {
        self.client_auth.as_ref().map(|auth| &auth.cas)
    }

    /// Whether a client without a valid certificate fails the handshake.
    pub fn requires_client_certificate(&self) -> bool {
        self.client_auth.as_ref().is_some_and(|auth| auth.required)
    }

    /// What a connection's chain is worth at `now` by these settings. Without `client_auth` nothing is worth anything.
    pub fn certificate_status(&self, chain: Option<&ClientChain>, now: SystemTime) -> CertificateStatus {
        match (self.client_cas(), chain) {
            (Some(cas), Some(chain)) => chain.status(cas, now),
            _ => CertificateStatus::Missing,
        }
    }

    /// The configuration for a client that asks for `server_name`.
    pub(super) fn choose(&self, server_name: Option<&str>) -> &Arc<ServerConfig> {
        let index = server_name.map_or(0, |name| self.names.find(name));
        // The map holds indexes of this list only, and `compile` makes no empty one.
        &self.certificates[index].config
    }

    /// Whether a client that negotiated no protocol may go on, with HTTP/1.1.
    pub(super) fn serves_http1(&self) -> bool {
        self.http1
    }
}

impl ClientAuth {
    fn compile(raw: raw::ClientAuth, env: &Env) -> Result<Self, ConfigError> {
        let raw::ClientAuth { ca, crl, mode } = raw;
        let (cas, source) = client_auth::read_cas(&ca, &crl, env, ClientCas::new)?;
        Ok(Self { cas: Arc::new(cas), required: mode == raw::ClientAuthMode::Require, source })
    }
}

fn protocols(alpn: &[raw::Alpn]) -> Result<Vec<Vec<u8>>, ConfigError> {
    if alpn.is_empty() {
        return Err(ConfigError::new("no protocol is left to speak").help("leave the key out for [h2, http/1.1]"));
    }
    let mut protocols: Vec<Vec<u8>> = Vec::new();
    for (index, protocol) in alpn.iter().enumerate() {
        let name = match protocol {
            raw::Alpn::H2 => b"h2".to_vec(),
            raw::Alpn::Http11 => b"http/1.1".to_vec(),
        };
        if protocols.contains(&name) {
            return Err(ConfigError::new("the protocol is in the list already").at(index));
        }
        protocols.push(name);
    }
    Ok(protocols)
}

/// Enters the names of certificate `index`. Errors are at its `cert`.
fn claim_names(map: &mut NameMap, index: usize, own: &OwnCertificate, file: &str, before: &[Served]) -> Result<(), ConfigError> {
    // The first one is the fallback and needs no name; another without one would never be served.
    if own.names.is_empty() && index > 0 {
        return Err(ConfigError::new(format!("{file} has no DNS name, so no client can choose it"))
            .help("only the first certificate is served without its name being asked for")
            .at("cert"));
    }
    for name in &own.names {
        if let Some(holder) = map.insert(name, index) {
            let holder = before.get(holder).map_or("another certificate", |served| &served.summary.file);
            return Err(ConfigError::new(format!("{file} is for `{name}`, and so is {holder}"))
                .help("each name has one certificate")
                .at("cert"));
        }
    }
    Ok(())
}

fn server_config(
    own: &OwnCertificate,
    provider: &Arc<CryptoProvider>,
    versions: &[&'static SupportedProtocolVersion],
    protocols: &[Vec<u8>],
    client_auth: Option<&ClientAuth>,
    env: &Env,
) -> Result<ServerConfig, ConfigError> {
    let fault = |error: rustls::Error| ConfigError::new(format!("TLS cannot be set up: {error}"));
    let verifier: Arc<dyn rustls::server::danger::ClientCertVerifier> = match client_auth {
        Some(auth) => Arc::new(PossessionVerifier::new(&auth.cas, auth.required, provider.signature_verification_algorithms)),
        None => Arc::new(NoClientAuth),
    };
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(versions)
        .map_err(fault)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&own.key))));
    config.alpn_protocols = protocols.to_vec();
    config.ticketer = ticketer(own, client_auth, env).map_err(fault)?;
    Ok(config)
}

/// The keys of session tickets. They outlive reloads, so that a reload does not cost every client a full handshake;
/// another certificate, or other client CAs, have other keys.
fn ticketer(
    own: &OwnCertificate,
    client_auth: Option<&ClientAuth>,
    env: &Env,
) -> Result<Arc<dyn ProducesTickets>, rustls::Error> {
    let mut digest = aws_lc_rs_digest();
    for part in [own.key.end_entity_cert()?.as_ref(), client_auth.map_or(&[][..], |auth| &auth.source)] {
        digest.update(&part.len().to_be_bytes());
        digest.update(part);
    }
    digest.update(&[client_auth.map_or(0, |auth| 1 + u8::from(auth.required))]);
    let mut key = String::from("tls tickets ");
    for byte in digest.finish().as_ref() {
        // Writing to a string cannot fail.
        let _ = write!(key, "{byte:02x}");
    }
    let fresh = aws_lc_rs::Ticketer::new()?;
    let kept = env.keep::<Arc<dyn ProducesTickets>>(&key, || fresh);
    Ok(Arc::clone(&kept))
}

fn aws_lc_rs_digest() -> ::aws_lc_rs::digest::Context {
    ::aws_lc_rs::digest::Context::new(&::aws_lc_rs::digest::SHA256)
}

/// What a finished handshake settled.
pub(super) fn facts(connection: &ServerConnection) -> TlsFacts {
    let version = match connection.protocol_version() {
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        // `compile` enables no other.
        _ => "unknown",
    };
    let cipher = connection.negotiated_cipher_suite().map_or("unknown", |suite| cipher_name(suite.suite()));
    let sni = connection.server_name().map(|name| Arc::from(name.to_ascii_lowercase()));
    TlsFacts { version, cipher, sni }
}

/// rustls writes the suites of TLS 1.3 in its own way (`TLS13_…`); logs have the IANA's.
fn cipher_name(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        other => other.as_str().unwrap_or("unknown"),
    }
}
