//! Client certificates: possession is proven in the handshake, the verdict is given per request.
//!
//! The two are apart for three reasons. A chain that does not verify must not disturb routes that need none. A resumed
//! session brings its chain back without asking the verifier. And a connection lives on while certificates expire and
//! revocation lists change. So the handshake proves the key and keeps the chain, and [`ClientChain::status`] judges the
//! chain by the CAs and lists of the moment.

use parking_lot::Mutex;
use portcullis_identity::certificate::ClientCas;
use portcullis_plugin::{CertificateStatus, reason};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use x509_parser::prelude::{FromDer, X509Certificate};

/// The most a client may send as its chain. It is kept for the connection's life and travels in session tickets; real
/// chains have 2 to 6 KiB.
const MAX_CHAIN_BYTES: usize = 32 << 10;

/// The chain a client presented, leaf first, whose key it has proven to hold. Nothing else is known of it until it is
/// judged.
pub struct ClientChain {
    certificates: Vec<CertificateDer<'static>>,
    judged: Mutex<Option<Judged>>,
}

/// A verdict, and for how long it stands.
struct Judged {
    generation: u64,
    during: Range<SystemTime>,
    status: CertificateStatus,
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

    /// What the chain is worth at `now` by `cas`. Judged again only when `cas` is another, or when a certificate of the
    /// chain has begun or ended to be valid since.
    pub fn status(&self, cas: &ClientCas, now: SystemTime) -> CertificateStatus {
        let mut judged = self.judged.lock();
        if let Some(known) = &*judged
            && known.generation == cas.generation()
            && known.during.contains(&now)
        {
            return known.status.clone();
        }
        let status = cas.judge(&self.certificates, now);
        *judged =
            steady(&self.certificates, now).map(|during| Judged { generation: cas.generation(), during, status: status.clone() });
        status
    }
}

impl fmt::Debug for ClientChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientChain").field("certificates", &self.certificates.len()).finish_non_exhaustive()
    }
}

/// The time around `now` in which no certificate's validity begins or ends, so that a verdict stands. `None` if a
/// certificate's dates cannot be read: its verdict is not kept at all.
fn steady(certificates: &[CertificateDer<'_>], now: SystemTime) -> Option<Range<SystemTime>> {
    let mut during = SystemTime::UNIX_EPOCH..SystemTime::UNIX_EPOCH + Duration::from_secs(u32::MAX.into());
    for certificate in certificates {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let begin = seconds(parsed.validity().not_before.timestamp());
        // The last second is part of the validity.
        let end = seconds(parsed.validity().not_after.timestamp().saturating_add(1));
        for border in [begin, end] {
            if border <= now {
                during.start = during.start.max(border);
            } else {
                during.end = during.end.min(border);
            }
        }
    }
    Some(during)
}

fn seconds(since_epoch: i64) -> SystemTime {
    let since_epoch = u64::try_from(since_epoch).unwrap_or(0);
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(since_epoch)).unwrap_or(SystemTime::UNIX_EPOCH)
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
        if bytes > MAX_CHAIN_BYTES {
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
