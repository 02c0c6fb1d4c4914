//! Client certificates: whom to believe, and what a believed one says.
//!
//! The TLS handshake proves that the client has the key. Whether the certificate means anything is judged here, for
//! each request, because it may expire or be revoked while its connection lives.
//!
//! Revocation: a CA of the bundle that has a list is checked against it, one without is not. A list that is past its
//! `nextUpdate` says nothing any more, so certificates of its CA are refused (`cert.untrusted`) until it is renewed.
//! Where one CA has several lists, a certificate must be on none of them.
//!
//! A certificate that a trusted proxy handed on in a header ([`forwarded`]) is judged by the same code; its refusals have
//! reasons of their own, which say where it came from.

mod distinguished_name;
mod facts;
pub mod forwarded;
mod xfcc;

pub use facts::facts_from_der;
pub use forwarded::{CertificateHeader, ForwardedCas};

use crate::jose::safe;
use distinguished_name::rfc4514;
use facts::system_time;
use portcullis_plugin::reason::{self, ReasonCode};
use portcullis_plugin::{CertificateFacts, CertificateRefusal, CertificateStatus};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{CertificateError, DistinguishedName, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;

/// Longer chains are not looked at.
const LONGEST_CHAIN: usize = 10;
/// The most a chain may have in DER, whoever sends it. It is kept for a connection's life and travels in session tickets;
/// real chains have 2 to 6 KiB.
pub const MOST_CHAIN_BYTES: usize = 32 << 10;
/// A judgement holds no longer than this, so that whatever ends it in the meantime (a list, an intermediate) takes
/// effect soon.
const LONGEST_JUDGEMENT: Duration = Duration::from_secs(60);

/// The CAs that may issue client certificates, and what they have revoked.
pub struct ClientCas {
    /// More than one only where a CA has several lists: each verifier knows one list of each CA.
    verifiers: Vec<Arc<dyn ClientCertVerifier>>,
    subjects: Vec<DistinguishedName>,
    /// When the first of the lists ends that have not yet ended.
    list_ends: Vec<SystemTime>,
    generation: u64,
    words: &'static Words,
}

/// How refusals speak of where certificates come from.
struct Words {
    /// The key of the listener's configuration that has the CAs.
    key: &'static str,
    /// Who has to send the intermediate certificates.
    sender: &'static str,
    untrusted: ReasonCode,
    expired: ReasonCode,
    revoked: ReasonCode,
}

const HANDSHAKE: &Words = &Words {
    key: "client_auth",
    sender: "the client",
    untrusted: reason::CERT_UNTRUSTED,
    expired: reason::CERT_EXPIRED,
    revoked: reason::CERT_REVOKED,
};

const FORWARDED: &Words = &Words {
    key: "client_cert",
    sender: "the proxy",
    untrusted: reason::CERT_FORWARDED_UNTRUSTED,
    expired: reason::CERT_FORWARDED_EXPIRED,
    revoked: reason::CERT_FORWARDED_REVOKED,
};

/// Why a bundle or a list cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientCaError {
    #[error("the CA bundle has no certificate in PEM")]
    NoCa,
    #[error("certificate {0} of the CA bundle cannot be read: {1}")]
    Ca(usize, String),
    /// The number is that of the list's file in the configuration, from 0.
    #[error("revocation list {0} cannot be read: {1}")]
    Crl(usize, String),
    #[error("the certificate cannot be read: {0}")]
    Certificate(&'static str),
    #[error("the CAs and revocation lists cannot be used together: {0}")]
    Unusable(String),
}

/// A verdict on a certificate, and how long it may be kept.
#[derive(Debug, Clone)]
pub struct Judgement {
    pub status: CertificateStatus,
    generation: u64,
    from: SystemTime,
    until: SystemTime,
}

impl Judgement {
    /// Whether it is still what `cas` would say at `now`. If not, judge again.
    pub fn holds(&self, cas: &ClientCas, now: SystemTime) -> bool {
        self.generation == cas.generation && self.from <= now && now < self.until && !self.has_ended(now)
    }

    /// A judgement made in the very last second of a certificate may be kept for longer than that second.
    fn has_ended(&self, now: SystemTime) -> bool {
        self.status.verified().is_some_and(|facts| now >= facts.not_after + Duration::from_secs(1))
    }
}

impl ClientCas {
    /// `ca_pem` is a bundle in PEM. Each of `crls` is one list in DER, or any number in PEM.
    ///
    /// # Errors
    /// If any part cannot be read: half a bundle would trust others than meant, half a list would trust the revoked.
    pub fn new(ca_pem: &[u8], crls: &[Vec<u8>]) -> Result<Self, ClientCaError> {
        Self::speaking(HANDSHAKE, ca_pem, crls)
    }

    fn speaking(words: &'static Words, ca_pem: &[u8], crls: &[Vec<u8>]) -> Result<Self, ClientCaError> {
        let roots = Arc::new(read_roots(ca_pem)?);
        let subjects = roots.subjects();
        let mut layers: Vec<Vec<(Vec<u8>, CertificateRevocationListDer<'static>)>> = vec![Vec::new()];
        let mut list_ends = Vec::new();
        for (index, bytes) in crls.iter().enumerate() {
            for list in read_lists(index, bytes)? {
                let facts = list_facts(index, &list)?;
                list_ends.extend(facts.ends);
                let free = layers.iter_mut().find(|layer| layer.iter().all(|(issuer, _)| *issuer != facts.issuer));
                match free {
                    Some(layer) => layer.push((facts.issuer, list)),
                    None => layers.push(vec![(facts.issuer, list)]),
                }
            }
        }
        let verifiers = layers
            .into_iter()
            .map(|layer| {
                let lists = layer.into_iter().map(|(_, list)| list).collect::<Vec<_>>();
                let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
                WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider)
                    .with_crls(lists)
                    .allow_unknown_revocation_status()
                    .enforce_revocation_expiration()
                    .build()
                    .map(|verifier| verifier as Arc<dyn ClientCertVerifier>)
                    .map_err(|error| ClientCaError::Unusable(error.to_string()))
            })
            .collect::<Result<Vec<_>, _>>()?;
        static GENERATION: AtomicU64 = AtomicU64::new(1);
        let generation = GENERATION.fetch_add(1, Ordering::Relaxed);
        Ok(Self { verifiers, subjects, list_ends, generation, words })
    }

    /// Different for every set of CAs and lists ever read by this process.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// To name in the handshake's request for a certificate.
    pub fn root_subjects(&self) -> &[DistinguishedName] {
        &self.subjects
    }

    /// Judges a chain as the client presented it, leaf first: signatures up to a CA of the bundle, validity at `now`,
    /// revocation, and use for client authentication.
    pub fn judge(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> CertificateStatus {
        let Some((leaf, intermediates)) = chain.split_first() else { return CertificateStatus::Missing };
        let refuse = |refusal: CertificateRefusal| CertificateStatus::Refused(Arc::new(refusal));
        if chain.len() > LONGEST_CHAIN {
            let observed = format!("{} certificates", chain.len());
            return refuse(self.words.untrusted(format!("at most {LONGEST_CHAIN} certificates"), observed));
        }
        // The facts come before the chain only so that a refusal can name the certificate.
        let mut facts = match facts_from_der(leaf) {
            Ok(facts) => facts,
            Err(error) => return refuse(self.words.untrusted("a certificate".into(), error.to_string())),
        };
        let time = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
        for verifier in &self.verifiers {
            if let Err(error) = verifier.verify_client_cert(leaf, intermediates, time) {
                return refuse(refusal(self.words, &error, &facts, now));
            }
        }
        facts.chain = intermediates.iter().map(|certificate| Arc::from(certificate.as_ref())).collect();
        CertificateStatus::Verified(Arc::new(facts))
    }

    /// As [`judge`](Self::judge), with the time for which the answer may be kept: at most a minute, and not beyond the
    /// end of a certificate of the chain or of a list.
    pub fn judgement(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Judgement {
        let status = self.judge(chain, now);
        let ends = chain.iter().filter_map(|der| X509Certificate::from_der(der).ok()).flat_map(|(_, certificate)| {
            let validity = certificate.validity();
            [system_time(validity.not_after.timestamp()), system_time(validity.not_before.timestamp())]
        });
        let until = ends
            .flatten()
            .chain(self.list_ends.iter().copied())
            .filter(|end| *end > now)
            .fold(now + LONGEST_JUDGEMENT, SystemTime::min);
        Judgement { status, generation: self.generation, from: now, until }
    }
}

fn read_roots(pem: &[u8]) -> Result<RootCertStore, ClientCaError> {
    let mut roots = RootCertStore::empty();
    for (index, certificate) in CertificateDer::pem_slice_iter(pem).enumerate() {
        let certificate = certificate.map_err(|error| ClientCaError::Ca(index, error.to_string()))?;
        roots.add(certificate).map_err(|error| ClientCaError::Ca(index, error.to_string()))?;
    }
    if roots.is_empty() { Err(ClientCaError::NoCa) } else { Ok(roots) }
}

fn read_lists(index: usize, bytes: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, ClientCaError> {
    if !bytes.windows(11).any(|window| window == b"-----BEGIN ") {
        return Ok(vec![CertificateRevocationListDer::from(bytes.to_vec())]);
    }
    let lists = CertificateRevocationListDer::pem_slice_iter(bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| ClientCaError::Crl(index, error.to_string()))?;
    if lists.is_empty() { Err(ClientCaError::Crl(index, "no revocation list in it".to_owned())) } else { Ok(lists) }
}

struct ListFacts {
    issuer: Vec<u8>,
    ends: Option<SystemTime>,
}

fn list_facts(index: usize, list: &CertificateRevocationListDer<'_>) -> Result<ListFacts, ClientCaError> {
    let (rest, parsed) = CertificateRevocationList::from_der(list)
        .map_err(|_| ClientCaError::Crl(index, "not a revocation list in DER or PEM".to_owned()))?;
    if !rest.is_empty() {
        return Err(ClientCaError::Crl(index, "data behind the list".to_owned()));
    }
    let ends = parsed.next_update().and_then(|time| system_time(time.timestamp()));
    if ends.is_none_or(|ends| ends <= SystemTime::now()) {
        tracing::warn!(issuer = %safe(&rfc4514(parsed.issuer())), "a revocation list is past its nextUpdate: certificates of its CA are refused until it is renewed");
    }
    Ok(ListFacts { issuer: parsed.issuer().as_raw().to_vec(), ends })
}

impl Words {
    fn untrusted(&self, expected: String, observed: String) -> CertificateRefusal {
        CertificateRefusal { reason: self.untrusted, expected, observed, hint: None }
    }

    fn chain(&self) -> String {
        format!("a chain to a CA of `{}.ca`", self.key)
    }
}

/// What webpki says, in the words of this gateway.
fn refusal(words: &Words, error: &rustls::Error, facts: &CertificateFacts, now: SystemTime) -> CertificateRefusal {
    let time = |time: SystemTime| humantime::format_rfc3339_seconds(time).to_string();
    let make = |reason: ReasonCode, expected: &str, observed: String, hint: &str| CertificateRefusal {
        reason,
        expected: expected.to_owned(),
        observed,
        hint: Some(hint.to_owned()),
    };
    let Words { key, sender, untrusted, expired, revoked } = *words;
    let issuer = || format!("issued by {}", safe(&facts.issuer));
    let rustls::Error::InvalidCertificate(error) = error else {
        return match error {
            rustls::Error::InvalidCertRevocationList(_) => make(
                untrusted,
                "a revocation list signed by its CA",
                issuer(),
                "the list of `crl` is not signed by the CA that it names, or that CA may not sign lists",
            ),
            _ => words.untrusted(words.chain(), issuer()),
        };
    };
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            let observed = if now > facts.not_after {
                format!("{}: expired {} ago", time(facts.not_after), since(facts.not_after, now))
            } else {
                "a certificate of its chain has expired".to_owned()
            };
            make(expired, &format!("valid at {}", time(now)), observed, "renew the certificate, or check the clocks")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            let observed = if now < facts.not_before {
                format!("{}: begins in {}", time(facts.not_before), since(now, facts.not_before))
            } else {
                "a certificate of its chain is not yet valid".to_owned()
            };
            make(expired, &format!("valid at {}", time(now)), observed, "check the clocks")
        }
        CertificateError::Revoked => {
            let observed = format!("serial {}, {}, or a CA above it, is revoked", facts.serial, issuer());
            make(revoked, "not on the CA's revocation list", observed, "issue a new certificate")
        }
        CertificateError::ExpiredRevocationList | CertificateError::ExpiredRevocationListContext { .. } => make(
            untrusted,
            "a current revocation list",
            "the CA's list is past its nextUpdate".to_owned(),
            &format!("renew the file named in `{key}.crl`: until then it cannot be known who is revoked"),
        ),
        CertificateError::UnknownIssuer => make(
            untrusted,
            &words.chain(),
            issuer(),
            &format!(
                "add its CA to the bundle if it is to be trusted; if the CA is there, {sender} must send the intermediate certificates"
            ),
        ),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => make(
            untrusted,
            "extended key usage clientAuth",
            "a certificate for other uses, probably a server's".to_owned(),
            "issue a certificate with extended key usage clientAuth",
        ),
        CertificateError::BadSignature => make(
            untrusted,
            &words.chain(),
            format!("{}, but not signed with that CA's key", issuer()),
            "another CA of the same name issued it, or the CA has a new key that the bundle does not have",
        ),
        other => {
            words.untrusted(format!("a valid chain to a CA of `{key}.ca`"), format!("{}: {}", issuer(), safe(&other.to_string())))
        }
    }
}

fn since(earlier: SystemTime, later: SystemTime) -> String {
    let whole = later.duration_since(earlier).unwrap_or_default().as_secs();
    crate::spoken::span(Duration::from_secs(whole))
}
