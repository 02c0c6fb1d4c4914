//! A certificate authority for tests and the demo: server and client certificates, good and bad, and revocation lists.
//!
//! Keys are ECDSA P-256: fast to make, and what most deployments use.

mod leaf;
mod tls;

use crate::error::Error;
pub use leaf::Leaf;
use portcullis_plugin::CertificateFacts;
pub use tls::{client_config, client_config_for};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType, IsCa, Issuer, KeyIdMethod,
    KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;

const HOUR: Duration = Duration::from_secs(3600);
const ORGANISATION: &str = "Portcullis Test";

/// What a certificate may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    Client,
    Server,
    /// Code signing: neither of the two.
    Neither,
    /// No extended key usage at all, which allows any.
    Unstated,
}

/// A certificate authority: a root, or an intermediate below one.
pub struct Pki {
    subject: String,
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
    /// The intermediates between a leaf and the root, nearest first.
    chain: Vec<CertificateDer<'static>>,
}

impl Pki {
    /// A root, valid from an hour ago for ten years.
    ///
    /// # Errors
    /// If a certificate cannot be made.
    pub fn new() -> Result<Self, Error> {
        Self::named("Portcullis Test CA")
    }

    /// A root of that common name. Two roots of one name have different keys: a foreign CA that looks like ours.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn named(common_name: &str) -> Result<Self, Error> {
        let key = KeyPair::generate()?;
        let params = authority(common_name)?;
        let certificate = params.self_signed(&key)?;
        Ok(Self { subject: subject(common_name), issuer: Issuer::new(params, key), certificate, chain: Vec::new() })
    }

    /// An authority below this one. What it issues carries the intermediate in its chain.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn intermediate(&self, common_name: &str) -> Result<Self, Error> {
        let key = KeyPair::generate()?;
        let params = authority(common_name)?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let mut chain = vec![certificate.der().clone()];
        chain.extend(self.chain.iter().cloned());
        Ok(Self { subject: subject(common_name), issuer: Issuer::new(params, key), certificate, chain })
    }

    /// The authority's own certificate.
    pub fn ca_pem(&self) -> String {
        self.certificate.pem()
    }

    pub fn ca_der(&self) -> CertificateDer<'static> {
        self.certificate.der().clone()
    }

    /// Writes the authority's certificate to `path`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_ca(&self, path: impl AsRef<Path>) -> Result<PathBuf, Error> {
        write(path.as_ref(), self.ca_pem().as_bytes())
    }

    /// A server certificate for these names; a name may be an IP address.
    ///
    /// # Errors
    /// If a name is none.
    pub fn server(&self, names: &[&str]) -> Result<Identity, Error> {
        let common_name = names.first().copied().unwrap_or("server");
        let mut leaf = self.leaf(common_name).usage(Usage::Server);
        for name in names {
            leaf = match name.parse() {
                Ok(address) => leaf.ip(address),
                Err(_) => leaf.dns(name),
            };
        }
        leaf.issue()
    }

    /// A plain client certificate with nothing but a common name.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn client(&self, common_name: &str) -> Result<Identity, Error> {
        self.leaf(common_name).issue()
    }

    /// Starts a certificate; without more, a client's, valid from an hour ago for a day.
    pub fn leaf<'a>(&'a self, common_name: &'a str) -> Leaf<'a> {
        let now = SystemTime::now();
        let valid = (now - HOUR, now + 24 * HOUR);
        Leaf { authority: self, common_name, names: Vec::new(), usage: Usage::Client, valid }
    }

    /// A revocation list that names `revoked`, current for a day.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn crl(&self, revoked: &[&Identity]) -> Result<Crl, Error> {
        let now = SystemTime::now();
        self.crl_valid(revoked, now - HOUR, now + 24 * HOUR)
    }

    /// A revocation list with other dates: a stale one, or one from the future.
    ///
    /// # Errors
    /// As [`new`](Self::new), or if `next_update` is not after `this_update`.
    pub fn crl_valid(&self, revoked: &[&Identity], this_update: SystemTime, next_update: SystemTime) -> Result<Crl, Error> {
        let revoked_certs = revoked
            .iter()
            .map(|identity| RevokedCertParams {
                serial_number: SerialNumber::from_slice(&identity.serial),
                revocation_time: whole_seconds(this_update),
                reason_code: Some(rcgen::RevocationReason::KeyCompromise),
                invalidity_date: None,
            })
            .collect();
        let list = CertificateRevocationListParams {
            this_update: whole_seconds(this_update),
            next_update: whole_seconds(next_update),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        }
        .signed_by(&self.issuer)?;
        Ok(Crl { pem: list.pem()?, der: list.into() })
    }
}

/// A revocation list.
#[derive(Debug, Clone)]
pub struct Crl {
    pub pem: String,
    pub der: CertificateRevocationListDer<'static>,
}

impl Crl {
    /// Writes the list to `path`, as PEM.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_to(&self, path: impl AsRef<Path>) -> Result<PathBuf, Error> {
        write(path.as_ref(), self.pem.as_bytes())
    }
}

/// A certificate with its chain and its private key.
pub struct Identity {
    cert_pem: String,
    key_pem: String,
    key_der: Vec<u8>,
    chain: Vec<CertificateDer<'static>>,
    serial: Vec<u8>,
    facts: CertificateFacts,
}

impl Identity {
    /// The chain, leaf first, without the root.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key_der.clone()).into()
    }

    /// What a gateway that verified the certificate would know of it.
    pub fn facts(&self) -> &CertificateFacts {
        &self.facts
    }

    /// Writes `<stem>.pem` (the chain) and `<stem>.key` into `folder`, the key for the owner's eyes only.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn write_to(&self, folder: impl AsRef<Path>, stem: &str) -> Result<(PathBuf, PathBuf), Error> {
        let folder = folder.as_ref();
        let cert = write(&folder.join(format!("{stem}.pem")), self.cert_pem.as_bytes())?;
        let key = folder.join(format!("{stem}.key"));
        write_private(&key, self.key_pem.as_bytes())?;
        Ok((cert, key))
    }
}

fn authority(common_name: &str) -> Result<CertificateParams, Error> {
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name(common_name);
    params.serial_number = Some(SerialNumber::from_slice(&serial()?));
    params.not_before = whole_seconds(now - HOUR);
    params.not_after = whole_seconds(now + 10 * 365 * 24 * HOUR);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn distinguished_name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, ORGANISATION);
    name.push(DnType::CommonName, common_name);
    name
}

/// The name as RFC 4514 writes it, the last part first.
fn subject(common_name: &str) -> String {
    let mut escaped = String::new();
    let last = common_name.chars().count().saturating_sub(1);
    for (at, c) in common_name.chars().enumerate() {
        let edge = (c == ' ' && (at == 0 || at == last)) || (c == '#' && at == 0);
        if edge || matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    format!("CN={escaped},O={ORGANISATION}")
}

/// 16 random bytes that make a positive number with no leading zero.
fn serial() -> Result<Vec<u8>, Error> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Error::Key("get random bytes"))?;
    bytes[0] = (bytes[0] & 0x3F) | 0x40;
    Ok(bytes.to_vec())
}

/// Certificates count whole seconds.
fn whole_seconds(time: SystemTime) -> OffsetDateTime {
    let time = OffsetDateTime::from(time);
    time.replace_nanosecond(0).unwrap_or(time)
}

fn pem(chain: &[CertificateDer<'_>]) -> String {
    use base64::Engine;
    let mut text = String::new();
    for certificate in chain {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let encoded = base64::engine::general_purpose::STANDARD.encode(certificate);
        for line in encoded.as_bytes().chunks(64) {
            text.extend(line.iter().map(|b| char::from(*b)));
            text.push('\n');
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn write(path: &Path, content: &[u8]) -> Result<PathBuf, Error> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(Error::file(parent))?;
    }
    std::fs::write(path, content).map_err(Error::file(path))?;
    Ok(path.to_owned())
}

fn write_private(path: &Path, content: &[u8]) -> Result<(), Error> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).map_err(Error::file(path))?;
    file.write_all(content).map_err(Error::file(path))
}
