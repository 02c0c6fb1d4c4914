//! Client certificates: possession is proven in the handshake, the verdict is given per request.
//!
//! The two are apart for three reasons. A chain that does not verify must not disturb routes that need none. A resumed
//! session brings its chain back without asking the verifier. And a connection lives on while certificates expire and
//! revocation lists change. So the handshake proves the key and keeps the chain, and [`ClientChain::status`] judges the
//! chain by the CAs and lists of the moment.

use parking_lot::Mutex;
use portcullis_identity::certificate::{ClientCaError, ClientCas, Judgement, MOST_CHAIN_BYTES};
use portcullis_plugin::units::OneOrMany;
use portcullis_plugin::{CertificateStatus, ConfigError, Env, reason};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The chain a client presented, leaf first, whose key it has proven to hold. Nothing else is known of it until it is
/// judged.
pub struct ClientChain {
    certificates: Vec<CertificateDer<'static>>,
    judged: Mutex<Option<Judgement>>,
}

impl ClientChain {
    /// `None` for an empty chain, which is no certificate.
    pub fn new(certificates: Vec<CertificateDer<'static>>) -> Option<Self> {
        (!certificates.is_empty()).then(|| Self { certificates, judged: Mutex::new(None) })
    }

    /// The certificates as they were sent.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// What the chain is worth at `now` by `cas`. Judged again when `cas` is another, when a certificate of the chain or
    /// a revocation list has ended since, and at the latest after a minute.
    pub fn status(&self, cas: &ClientCas, now: SystemTime) -> CertificateStatus {
        let mut judged = self.judged.lock();
        if let Some(known) = &*judged
            && known.holds(cas, now)
        {
            return known.status.clone();
        }
        judged.insert(cas.judgement(&self.certificates, now)).status.clone()
    }
}

impl fmt::Debug for ClientChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientChain").field("certificates", &self.certificates.len()).finish_non_exhaustive()
    }
}

/// Reads a bundle of CAs and the lists that go with it, and gives what `make` makes of them, and the bundle's bytes. The
/// error's path is `ca` or `crl`.
///
/// # Errors
/// If a file cannot be read, or `make` cannot use one.
pub fn read_cas<T>(
    ca: &str,
    crl: &OneOrMany<String>,
    env: &Env,
    make: impl FnOnce(&[u8], &[Vec<u8>]) -> Result<T, ClientCaError>,
) -> Result<(T, Vec<u8>), ConfigError> {
    let ca_pem = env.read(ca).map_err(|error| error.at("ca"))?;
    // One list may be written without the brackets, and then it has no index.
    let at_crl = |index: usize, error: ConfigError| match crl.len() {
        1 => error.at("crl"),
        _ => error.at(index).at("crl"),
    };
    let lists = crl.iter().enumerate().map(|(index, file)| env.read(file).map_err(|error| at_crl(index, error)));
    let made = make(&ca_pem, &lists.collect::<Result<Vec<_>, _>>()?).map_err(|error| match &error {
        ClientCaError::Crl(index, cause) => {
            let file = crl.get(*index).map_or("the revocation list", String::as_str);
            at_crl(*index, ConfigError::new(format!("{file} cannot be used: {cause}")))
        }
        _ => ConfigError::new(format!("{ca} cannot be used: {error}")).at("ca"),
    })?;
    Ok((made, ca_pem))
}

/// Lets every chain whose key is proven through; or, where a certificate is required, only one that verifies.
pub(super) struct PossessionVerifier {
    /// `Some` where a valid certificate is required.
    required: Option<Arc<ClientCas>>,
    subjects: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PossessionVerifier {
    pub(super) fn new(cas: &Arc<ClientCas>, required: bool, algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self { required: required.then(|| Arc::clone(cas)), subjects: cas.root_subjects().to_vec(), algorithms }
    }
}

impl ClientCertVerifier for PossessionVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.required.is_some()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.subjects
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let bytes: usize = intermediates.iter().chain([end_entity]).map(|certificate| certificate.len()).sum();
        if bytes > MOST_CHAIN_BYTES {
            return Err(CertificateError::BadEncoding.into());
        }
        if let Some(cas) = &self.required {
            let chain: Vec<CertificateDer<'_>> =
                [end_entity].into_iter().chain(intermediates).map(|certificate| CertificateDer::from(&**certificate)).collect();
            let now = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(now.as_secs()));
            let status = cas.judge(&chain, now.ok_or(rustls::Error::FailedToGetCurrentTime)?);
            refuse_unless_verified(&status)?;
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl fmt::Debug for PossessionVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PossessionVerifier").field("required", &self.required.is_some()).finish_non_exhaustive()
    }
}

/// The verdict as the alert that the client gets.
fn refuse_unless_verified(status: &CertificateStatus) -> Result<(), rustls::Error> {
    match status {
        CertificateStatus::Verified(_) => Ok(()),
        CertificateStatus::Missing => Err(rustls::Error::NoCertificatesPresented),
        CertificateStatus::Refused(refusal) if refusal.reason == reason::CERT_EXPIRED => Err(CertificateError::Expired.into()),
        CertificateStatus::Refused(refusal) if refusal.reason == reason::CERT_REVOKED => Err(CertificateError::Revoked.into()),
        CertificateStatus::Refused(_) => Err(CertificateError::UnknownIssuer.into()),
    }
}
