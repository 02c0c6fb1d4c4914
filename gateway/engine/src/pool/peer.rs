//! The only place that makes an `HttpPeer`.
//!
//! Pingora's defaults are not safe to be left alone: no timeout is set, one HTTP/2 stream is allowed on a connection, a
//! host name is resolved with a blocking call, and an empty server name turns verification off in silence. So every
//! option that matters is set here, and a TLS peer without a name to verify is an error.

use super::address::{Host, check_name};
use super::backend::Reach;
use super::connection::{Dial, DialTls};
use super::settings::Timeouts;
use super::spoken::Spoken;
use crate::config::raw;
use pingora::protocols::TcpKeepalive;
use pingora::protocols::tls::{ALPN, CaType};
use pingora::tls::load_platform_certs_incl_env_into_store;
use pingora::upstreams::peer::HttpPeer;
use pingora::utils::tls::{CertKey, WrappedX509, parse_x509};
use portcullis_plugin::{ConfigError, Env};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Requests at once on one HTTP/2 connection; a backend may allow fewer.
const H2_STREAMS: usize = 128;

/// A backend that cannot be connected to as configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    #[error("there is no name to verify the backend's certificate against")]
    NoServerName,
}

/// How a pool's backends are connected to.
pub(super) struct Peers {
    tls: Option<PeerTls>,
    protocol: raw::Protocol,
    timeouts: Timeouts,
    keepalive: Duration,
    /// With `auto` on TLS.
    spoken: Arc<Spoken>,
    /// Connections are shared only among peers with the same key. Pingora's own key leaves out CA, protocol and pool.
    group: u64,
}

struct PeerTls {
    /// The same for the direct driver, which offers HTTP/1.1 and nothing else; and what it offers with `auto`.
    config: Arc<ClientConfig>,
    config_auto: Arc<ClientConfig>,
    ca: Option<Arc<CaType>>,
    client: Option<Arc<CertKey>>,
    server_name: Option<String>,
}

impl Peers {
    pub(super) fn compile(
        pool: &str,
        tls: Option<raw::UpstreamTls>,
        protocol: raw::Protocol,
        timeouts: &Timeouts,
        keepalive: Duration,
        env: &Env,
    ) -> Result<Self, ConfigError> {
        // Hashing the content makes a new group when a file has changed, and only then: a reload that changes nothing
        // keeps its connections.
        let mut group = DefaultHasher::new();
        (pool, format!("{protocol:?}")).hash(&mut group);
        let tls = tls.map(|tls| PeerTls::compile(tls, env, &mut group)).transpose().map_err(|error| error.at("tls"))?;
        Ok(Self { tls, protocol, timeouts: timeouts.clone(), keepalive, spoken: Arc::default(), group: group.finish() })
    }

    /// Whether a backend at `host` can be verified.
    pub(super) fn check(&self, host: &Host) -> Result<(), ConfigError> {
        match (&self.tls, host) {
            (Some(PeerTls { server_name: None, .. }), Host::Name(name)) => check_server_name(name),
            _ => Ok(()),
        }
    }

    /// The group of connections: it differs when anything of TLS or the protocol does.
    pub(super) fn group(&self) -> u64 {
        self.group
    }

    pub(super) fn needs_http2(&self) -> bool {
        self.protocol == raw::Protocol::H2
    }

    pub(super) fn speaks_http1(&self) -> bool {
        match self.protocol {
            raw::Protocol::Http11 => true,
            raw::Protocol::Auto => self.tls.is_none() || self.spoken.is_http1(),
            raw::Protocol::H2 => false,
        }
    }

    /// A backend that had the choice has made it.
    pub(super) fn learn(&self, http2: bool) {
        if self.protocol == raw::Protocol::Auto && self.tls.is_some() {
            self.spoken.learn(http2);
        }
    }

    pub(super) fn keepalive(&self) -> Duration {
        self.keepalive
    }

    /// How both drivers connect. `host` is the backend's, as configured.
    pub(super) fn reach(&self, address: SocketAddr, host: &str) -> Result<Reach, PeerError> {
        Ok(Reach { peer: self.peer(address, host)?, dial: self.dial(host)? })
    }

    /// How the direct driver connects. `host` is the backend's, as configured.
    fn dial(&self, host: &str) -> Result<Dial, PeerError> {
        let tls = match &self.tls {
            None => None,
            Some(tls) => {
                let name = tls.server_name.as_deref().unwrap_or(host).to_owned();
                let name = ServerName::try_from(name).map_err(|_| PeerError::NoServerName)?;
                let config = Arc::clone(&tls.config);
                let auto =
                    (self.protocol == raw::Protocol::Auto).then(|| (Arc::clone(&tls.config_auto), Arc::clone(&self.spoken)));
                Some(DialTls { name, config, auto })
            }
        };
        Ok(Dial { tls, group: self.group, connect: self.timeouts.connect })
    }

    /// A peer to clone for each attempt. `host` is the backend's, as configured.
    pub(super) fn peer(&self, address: SocketAddr, host: &str) -> Result<HttpPeer, PeerError> {
        let name = self.tls.as_ref().map(|tls| tls.server_name.as_deref().unwrap_or(host));
        // A `SocketAddr` is not resolved.
        let mut peer = HttpPeer::new(address, name.is_some(), name.unwrap_or_default().to_owned());
        peer.group_key = self.group;
        if let Some(tls) = &self.tls {
            peer.client_cert_key.clone_from(&tls.client);
            peer.options.ca.clone_from(&tls.ca);
        }
        let options = &mut peer.options;
        options.verify_cert = true;
        options.verify_hostname = true;
        options.connection_timeout = Some(self.timeouts.connect);
        options.total_connection_timeout = Some(self.timeouts.connect);
        options.read_timeout = Some(self.timeouts.read);
        options.write_timeout = Some(self.timeouts.write);
        options.idle_timeout = Some(self.keepalive);
        options.max_h2_streams = H2_STREAMS;
        options.alpn = match (self.protocol, &self.tls) {
            (raw::Protocol::Auto, Some(_)) => ALPN::H2H1,
            (raw::Protocol::Auto, None) | (raw::Protocol::Http11, _) => ALPN::H1,
            (raw::Protocol::H2, _) => ALPN::H2,
        };
        // Finds idle connections whose other end has vanished. No HTTP/2 pings: gRPC servers close on them.
        options.tcp_keepalive = Some(TcpKeepalive {
            idle: Duration::from_secs(60),
            interval: Duration::from_secs(10),
            count: 3,
            #[cfg(target_os = "linux")]
            user_timeout: Duration::ZERO,
        });
        verifiable(&peer)?;
        Ok(peer)
    }
}

/// The peer of one attempt. `upgrade` asks for HTTP/1.1, the only version that upgrades.
pub(super) fn for_attempt(template: &HttpPeer, upgrade: bool) -> Result<HttpPeer, PeerError> {
    verifiable(template)?;
    let mut peer = template.clone();
    if upgrade {
        peer.options.alpn = ALPN::H1;
    }
    Ok(peer)
}

/// The peer of a health check: the backend's own, on its own connection and within the check's time.
pub(super) fn for_check(template: &HttpPeer, port: Option<u16>, timeout: Duration) -> Result<HttpPeer, PeerError> {
    verifiable(template)?;
    let mut peer = template.clone();
    if let Some(port) = port {
        peer._address.set_port(port);
    }
    let options = &mut peer.options;
    for limit in [
        &mut options.connection_timeout,
        &mut options.total_connection_timeout,
        &mut options.read_timeout,
        &mut options.write_timeout,
    ] {
        *limit = Some(timeout);
    }
    // A connection with room for one stream is not kept: each check proves that the backend still accepts.
    options.max_h2_streams = 1;
    Ok(peer)
}

/// Pingora would connect without verifying anything.
fn verifiable(peer: &HttpPeer) -> Result<(), PeerError> {
    if peer.is_tls() && ServerName::try_from(peer.sni.as_str()).is_err() { Err(PeerError::NoServerName) } else { Ok(()) }
}

impl PeerTls {
    fn compile(raw: raw::UpstreamTls, env: &Env, group: &mut DefaultHasher) -> Result<Self, ConfigError> {
        let raw::UpstreamTls { ca, server_name, client_certificate } = raw;
        if let Some(name) = &server_name
            && name.parse::<IpAddr>().is_err()
        {
            check_server_name(name).map_err(|error| error.at("server_name"))?;
        }
        server_name.hash(group);
        let (ca, roots) = match ca {
            Some(path) => {
                let (ca, roots) = bundle(&path, env, group).map_err(|error| error.at("ca"))?;
                (Some(ca), Arc::new(roots))
            }
            None => (None, public_cas()?),
        };
        let client = client_certificate
            .map(|certificate| client_certificate_of(certificate, env, group))
            .transpose()
            .map_err(|error| error.at("client_certificate"))?;
        let config = client_config(roots, client.as_deref())?;
        let mut both = (*config).clone();
        both.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { config, config_auto: Arc::new(both), ca, client, server_name })
    }
}

/// A name that can be asked for and verified.
fn check_server_name(name: &str) -> Result<(), ConfigError> {
    let refuse = |what: &str| {
        ConfigError::new(format!("`{name}` cannot be verified as a server name: {what}"))
            .help("`tls.server_name` gives the name that is in the backends' certificates")
    };
    // Pingora would verify against the same name with hyphens: another name.
    if name.contains('_') {
        return Err(refuse("it has an underscore"));
    }
    check_name(name).map_err(refuse)?;
    ServerName::try_from(name).map(|_| ()).map_err(|_| refuse("it is not a host name"))
}

/// What the direct driver's TLS is made with: the same CAs and client certificate as Pingora's, HTTP/1.1 and nothing else.
fn client_config(roots: Arc<RootCertStore>, client: Option<&CertKey>) -> Result<Arc<ClientConfig>, ConfigError> {
    let unusable = |_| ConfigError::new("TLS to the backends cannot be set up with this certificate");
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_root_certificates(roots);
    let mut config = match client {
        None => builder.with_no_client_auth(),
        Some(client) => {
            let chain = std::iter::once(client.leaf())
                .chain(client.intermediates())
                .map(|certificate| CertificateDer::from(certificate.borrow_raw_cert().clone()))
                .collect();
            let key = PrivateKeyDer::try_from(client.key().clone())
                .map_err(|_| ConfigError::new("the client certificate's key cannot be used").at("client_certificate"))?;
            builder.with_client_auth_cert(chain, key).map_err(unusable)?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The CAs of a PEM bundle.
fn bundle(path: &str, env: &Env, group: &mut DefaultHasher) -> Result<(Arc<CaType>, RootCertStore), ConfigError> {
    let mut roots = RootCertStore::empty();
    let mut wrapped = Vec::new();
    for der in certificates(path, env)? {
        roots.add(der.clone()).map_err(|error| ConfigError::new(format!("{path} has a certificate that is no CA: {error}")))?;
        der.as_ref().hash(group);
        wrapped.push(WrappedX509::new(der.to_vec(), parse_x509));
    }
    Ok((wrapped.into(), roots))
}

/// The certificates of a PEM file, each of them readable; at least one.
fn certificates(path: &str, env: &Env) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let pem = env.read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found = found.map_err(|_| ConfigError::new(format!("{path} is not well-formed PEM")))?;
    if found.is_empty() {
        return Err(ConfigError::new(format!("{path} has no certificate")).help("it should hold `BEGIN CERTIFICATE` blocks"));
    }
    // Pingora panics on one that it cannot parse.
    if found.iter().any(|der| !X509Certificate::from_der(der).is_ok_and(|(rest, _)| rest.is_empty())) {
        return Err(ConfigError::new(format!("{path} has a certificate that cannot be read")));
    }
    Ok(found)
}

fn client_certificate_of(raw: raw::Certificate, env: &Env, group: &mut DefaultHasher) -> Result<Arc<CertKey>, ConfigError> {
    let raw::Certificate { cert, key } = raw;
    let chain = certificates(&cert, env).map_err(|error| error.at("cert"))?;
    let pem = env.read(&key).map_err(|error| error.at("key"))?;
    // Never the cause: it could quote the key.
    let no_key = || {
        ConfigError::new(format!("{key} has no private key that can be used"))
            .help("it should hold one PKCS#8, PKCS#1 or SEC1 key in PEM, not encrypted")
            .at("key")
    };
    let private = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| no_key())?;
    // Pingora guesses the kind from the bytes, and panics if it cannot.
    let guessed = PrivateKeyDer::try_from(private.secret_der().to_vec()).map_err(|_| no_key())?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    CertifiedKey::from_der(chain.clone(), guessed, &provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            ConfigError::new(format!("the key of {key} is not the one of the certificate {cert}")).at("key")
        }
        _ => no_key(),
    })?;
    let chain: Vec<Vec<u8>> = chain.into_iter().map(|der| der.to_vec()).collect();
    chain.hash(group);
    private.secret_der().hash(group);
    Ok(Arc::new(CertKey::new(chain, private.secret_der().to_vec())))
}

/// The public CAs of this system, which Pingora loads by itself. Read once.
pub(super) fn public_cas() -> Result<Arc<RootCertStore>, ConfigError> {
    static FOUND: OnceLock<Result<Arc<RootCertStore>, String>> = OnceLock::new();
    let look = || {
        let mut roots = RootCertStore::empty();
        match load_platform_certs_incl_env_into_store(&mut roots) {
            Ok(()) if roots.is_empty() => Err("there are none".to_owned()),
            Ok(()) => Ok(Arc::new(roots)),
            Err(error) => Err(error.to_string()),
        }
    };
    FOUND.get_or_init(look).clone().map_err(|cause| {
        ConfigError::new(format!("the public CAs of this system cannot be used: {cause}"))
            .help("install them (`ca-certificates`), or name a bundle in `ca`")
    })
}
