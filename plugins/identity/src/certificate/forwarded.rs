//! Client certificates that a proxy in front hands on in a header: `Client-Cert` with `Client-Cert-Chain` (RFC 9440), or
//! `X-Forwarded-Client-Cert` of Envoy.
//!
//! The header says that the proxy has seen the client prove possession of the key. Nothing here can check that: whoever can
//! write the header can be anybody who has a certificate, and certificates are no secrets. So the caller of this module
//! asks it only about requests of proxies that are trusted. All else is judged here, as if the certificate had come in a
//! handshake: its chain, validity, revocation and use.
//!
//! What could be read in two ways is refused: a field that comes twice, base64 with other bits than it needs, a chain
//! without its certificate.

use super::{ClientCaError, ClientCas, FORWARDED, Judgement, LONGEST_CHAIN, MOST_CHAIN_BYTES, xfcc};
use aws_lc_rs::digest::{self, SHA256};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use portcullis_plugin::{CertificateRefusal, CertificateStatus, Headers, reason};
use quick_cache::sync::Cache;
use rustls_pki_types::CertificateDer;
use std::sync::Arc;
use std::time::SystemTime;

const CLIENT_CERT: &str = "client-cert";
const CLIENT_CERT_CHAIN: &str = "client-cert-chain";
const XFCC: &str = "x-forwarded-client-cert";

/// Judgements that are kept: one costs two or three signatures.
const KEPT: usize = 1024;
/// Of chains up to this size, which real ones have, so that what is kept stays within some 20 MiB.
const LARGEST_KEPT: usize = 8 << 10;

/// The header that certificates come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateHeader {
    /// RFC 9440.
    ClientCert,
    /// Envoy's.
    Xfcc,
}

impl CertificateHeader {
    /// Every header that hands certificates on, in lower case: none of them is a client's to send.
    pub const ALL: [&'static str; 3] = [CLIENT_CERT, CLIENT_CERT_CHAIN, XFCC];

    /// As people write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClientCert => "Client-Cert",
            Self::Xfcc => "X-Forwarded-Client-Cert",
        }
    }
}

/// Why a header cannot be read without doubt. It repeats nothing of what the header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Malformed {
    pub expected: &'static str,
    pub observed: String,
    pub hint: &'static str,
}

impl Malformed {
    pub fn new(expected: &'static str, observed: impl Into<String>) -> Self {
        let hint = "the proxy must replace what clients send under that name, and write it once";
        Self { expected, observed: observed.into(), hint }
    }

    pub fn hint(self, hint: &'static str) -> Self {
        Self { hint, ..self }
    }
}

/// The CAs that may issue the certificates which a trusted proxy hands on, and the header that they come in.
pub struct ForwardedCas {
    header: CertificateHeader,
    cas: ClientCas,
    /// By the SHA-256 of the fields: clients send the same with every request.
    judged: Cache<[u8; 32], Judgement>,
}

impl ForwardedCas {
    /// `ca_pem` and `crls` as for [`ClientCas::new`].
    ///
    /// # Errors
    /// As [`ClientCas::new`].
    pub fn new(header: CertificateHeader, ca_pem: &[u8], crls: &[Vec<u8>]) -> Result<Self, ClientCaError> {
        let cas = ClientCas::speaking(FORWARDED, ca_pem, crls)?;
        Ok(Self { header, cas, judged: Cache::new(KEPT) })
    }

    pub fn header(&self) -> CertificateHeader {
        self.header
    }

    /// What the certificate in `headers`, which a trusted proxy has sent, is worth at `now`.
    pub fn judge(&self, headers: &Headers, now: SystemTime) -> CertificateStatus {
        match self.try_judge(headers, now) {
            Ok(status) => status,
            Err(Malformed { expected, observed, hint }) => CertificateStatus::Refused(Arc::new(CertificateRefusal {
                reason: reason::CERT_FORWARDED_INVALID,
                expected: expected.to_owned(),
                observed: format!("{}: {observed}", self.header.name()),
                hint: Some(hint.to_owned()),
            })),
        }
    }

    fn try_judge(&self, headers: &Headers, now: SystemTime) -> Result<CertificateStatus, Malformed> {
        let (first, second) = match self.header {
            CertificateHeader::ClientCert => (one(headers, CLIENT_CERT)?, one(headers, CLIENT_CERT_CHAIN)?),
            CertificateHeader::Xfcc => (one(headers, XFCC)?, None),
        };
        let Some(first) = first else {
            return match second {
                None => Ok(CertificateStatus::Missing),
                Some(_) => Err(Malformed::new("Client-Cert-Chain beside Client-Cert only", "a chain without a certificate")),
            };
        };
        let key = key(first, second);
        if let Some(known) = self.judged.get(&key).filter(|known| known.holds(&self.cas, now)) {
            return Ok(known.status);
        }
        let chain = match self.header {
            CertificateHeader::ClientCert => client_cert(first, second)?,
            CertificateHeader::Xfcc => xfcc::chain(first)?,
        };
        let judgement = self.cas.judgement(&chain, now);
        let status = judgement.status.clone();
        if chain.iter().map(|certificate| certificate.len()).sum::<usize>() <= LARGEST_KEPT {
            self.judged.insert(key, judgement);
        }
        Ok(status)
    }
}

/// The field of that name, if there is one and no other.
fn one<'a>(headers: &'a Headers, name: &'a str) -> Result<Option<&'a [u8]>, Malformed> {
    let mut all = headers.get_all(name);
    let first = all.next();
    match all.count() {
        0 => Ok(first),
        // The first may be the client's own.
        more => Err(Malformed::new("the header once", format!("{} lines of it", more + 1))),
    }
}

fn key(first: &[u8], second: Option<&[u8]>) -> [u8; 32] {
    let mut digest = digest::Context::new(&SHA256);
    digest.update(&first.len().to_be_bytes());
    digest.update(first);
    digest.update(&[u8::from(second.is_some())]);
    digest.update(second.unwrap_or_default());
    let mut key = [0; 32];
    // The lengths are equal.
    key.copy_from_slice(digest.finish().as_ref());
    key
}

fn client_cert(leaf: &[u8], chain: Option<&[u8]>) -> Result<Vec<CertificateDer<'static>>, Malformed> {
    let mut found = Vec::new();
    let mut room = MOST_CHAIN_BYTES;
    let items = chain.into_iter().flat_map(|chain| chain.split(|b| *b == b',').map(<[u8]>::trim_ascii));
    for item in [leaf].into_iter().chain(items) {
        found.push(byte_sequence(item, &mut room)?);
        check_length(found.len())?;
    }
    Ok(found)
}

pub(super) fn check_length(certificates: usize) -> Result<(), Malformed> {
    if certificates > LONGEST_CHAIN {
        return Err(Malformed::new("at most 10 certificates", "more"));
    }
    Ok(())
}

pub(super) fn too_large() -> Malformed {
    Malformed::new("at most 32 KiB of certificates", "more")
}

const AS_RFC9440: &str = "the proxy must write the DER in base64 between two colons (RFC 9440), and nothing where there is no certificate; \
                          a PEM that is percent-encoded goes into X-Forwarded-Client-Cert";

/// A byte sequence of RFC 8941, section 3.3.5, without parameters.
fn byte_sequence(item: &[u8], room: &mut usize) -> Result<CertificateDer<'static>, Malformed> {
    const EXPECTED: &str = "byte sequences: base64 between two colons";
    let inner = item.strip_prefix(b":").and_then(|rest| rest.strip_suffix(b":"));
    let inner = inner.filter(|inner| !inner.is_empty());
    let malformed = |observed: &str| Malformed::new(EXPECTED, observed).hint(AS_RFC9440);
    let inner = inner.ok_or_else(|| malformed(if matches!(item, b"" | b"::") { "an empty one" } else { "something else" }))?;
    if inner.len() / 4 * 3 > *room + 2 {
        return Err(too_large());
    }
    let der = STANDARD.decode(inner).map_err(|_| malformed("base64 that cannot be decoded"))?;
    *room = room.checked_sub(der.len()).ok_or_else(too_large)?;
    Ok(der.into())
}
