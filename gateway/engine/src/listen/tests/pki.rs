//! A certificate authority for tests, and the files a listener reads.

use crate::config::raw;
use crate::listen::TlsSettings;
use portcullis_plugin::env::Kept;
use portcullis_plugin::prometheus::Registry;
use portcullis_plugin::units::OneOrMany;
use portcullis_plugin::{ConfigError, Env};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;
use tempfile::TempDir;

pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

/// A certificate with its key.
pub struct Identity {
    pub cert: rcgen::Certificate,
    pub key: KeyPair,
}

impl Identity {
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.cert.der().clone()]
    }

    pub fn private(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key.serialize_der()).unwrap()
    }
}

impl Ca {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn issue(&self, names: &[&str], usage: ExtendedKeyUsagePurpose, edit: impl FnOnce(&mut CertificateParams)) -> Identity {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names.clone()).unwrap();
        params.distinguished_name.push(DnType::CommonName, names.first().cloned().unwrap_or_default());
        params.extended_key_usages = vec![usage];
        edit(&mut params);
        let key = KeyPair::generate().unwrap();
        Identity { cert: params.signed_by(&key, &self.issuer).unwrap(), key }
    }

    pub fn server(&self, names: &[&str]) -> Identity {
        self.issue(names, ExtendedKeyUsagePurpose::ServerAuth, |_| {})
    }

    pub fn expired_server(&self, names: &[&str]) -> Identity {
        self.issue(names, ExtendedKeyUsagePurpose::ServerAuth, expired)
    }

    pub fn client(&self, serial: u64) -> Identity {
        self.issue(&["client.test"], ExtendedKeyUsagePurpose::ClientAuth, |params| {
            params.serial_number = Some(SerialNumber::from(serial));
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2090, 1, 1);
        })
    }

    pub fn expired_client(&self) -> Identity {
        self.issue(&["client.test"], ExtendedKeyUsagePurpose::ClientAuth, expired)
    }

    /// A list that revokes these serial numbers.
    pub fn crl(&self, serials: &[u64]) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2090, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

fn expired(params: &mut CertificateParams) {
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2021, 1, 1);
}

/// A configuration's folder, and what it keeps over reloads.
pub struct Files {
    folder: TempDir,
    kept: Arc<Kept>,
}

impl Files {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), kept: Arc::default() }
    }

    pub fn env(&self) -> Env {
        Env::new(self.folder.path(), Registry::new(), Arc::clone(&self.kept))
    }

    /// Nobody but the owner reads it, as it should be for keys.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    pub fn mode(&self, name: &str, mode: u32) {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(self.folder.path().join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Writes `NAME.pem` and `NAME.key`.
    pub fn identity(&self, name: &str, identity: &Identity) -> raw::Certificate {
        self.write(&format!("{name}.pem"), identity.cert.pem());
        self.write(&format!("{name}.key"), identity.key.serialize_pem());
        certificate(name)
    }

    /// Writes the CA's bundle and the list of what it revoked.
    pub fn client_auth(&self, ca: &Ca, revoked: &[u64], mode: raw::ClientAuthMode) -> raw::ClientAuth {
        self.write("clients.pem", &ca.pem);
        self.write("clients.crl", ca.crl(revoked));
        raw::ClientAuth { ca: "clients.pem".into(), crl: OneOrMany(vec!["clients.crl".into()]), mode }
    }

    pub fn compile(&self, raw: raw::Tls) -> Result<Arc<TlsSettings>, ConfigError> {
        TlsSettings::compile(raw, &self.env())
    }
}

pub fn certificate(name: &str) -> raw::Certificate {
    raw::Certificate { cert: format!("{name}.pem"), key: format!("{name}.key") }
}

/// The defaults of a listener with these certificates.
pub fn tls(certificates: Vec<raw::Certificate>) -> raw::Tls {
    raw::Tls {
        certificates,
        client_auth: None,
        min_version: raw::TlsVersion::default(),
        alpn: vec![raw::Alpn::H2, raw::Alpn::Http11],
    }
}
