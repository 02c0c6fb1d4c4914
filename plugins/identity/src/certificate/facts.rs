//! What a certificate says of itself.

use super::ClientCaError;
use super::distinguished_name::rfc4514;
use aws_lc_rs::digest;
use portcullis_plugin::CertificateFacts;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

pub(super) fn system_time(seconds: i64) -> Option<SystemTime> {
    match u64::try_from(seconds) {
        Ok(seconds) => UNIX_EPOCH.checked_add(Duration::from_secs(seconds)),
        Err(_) => UNIX_EPOCH.checked_sub(Duration::from_secs(seconds.unsigned_abs())),
    }
}

/// What a certificate says of itself. **Says**: nothing is verified here; `ClientCas::judge` does that.
///
/// # Errors
/// If it is not one X.509 certificate, or has names that readers could take for something else.
pub fn facts_from_der(der: &[u8]) -> Result<CertificateFacts, ClientCaError> {
    let bad = ClientCaError::Certificate;
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| bad("not an X.509 certificate"))?;
    if !rest.is_empty() {
        return Err(bad("data behind the certificate"));
    }
    let names = Names::read(&certificate)?;
    let validity = certificate.validity();
    let out_of_range = || bad("its validity is out of range");
    let digest = digest::digest(&digest::SHA256, der);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    Ok(CertificateFacts {
        subject: rfc4514(certificate.subject()),
        issuer: rfc4514(certificate.issuer()),
        serial: serial(certificate.raw_serial()),
        sha256: hex(digest.as_ref()),
        spiffe_id: names.spiffe_id(),
        san_dns: names.dns,
        san_uri: names.uri,
        san_email: names.email,
        san_ip: names.ip,
        not_before: system_time(validity.not_before.timestamp()).ok_or_else(out_of_range)?,
        not_after: system_time(validity.not_after.timestamp()).ok_or_else(out_of_range)?,
        der: der.into(),
        chain: Vec::new(),
    })
}

/// Without the zero byte that DER puts before a number whose first bit is set.
fn serial(raw: &[u8]) -> String {
    let zeros = raw.iter().take_while(|byte| **byte == 0).count().min(raw.len().saturating_sub(1));
    raw.iter().skip(zeros).map(|byte| format!("{byte:02X}")).collect()
}

#[derive(Default)]
struct Names {
    dns: Vec<String>,
    uri: Vec<String>,
    email: Vec<String>,
    ip: Vec<IpAddr>,
}

impl Names {
    fn read(certificate: &X509Certificate<'_>) -> Result<Self, ClientCaError> {
        let bad = ClientCaError::Certificate;
        let mut names = Self::default();
        let Some(extension) = certificate.subject_alternative_name().map_err(|_| bad("its alternative names cannot be read"))?
        else {
            return Ok(names);
        };
        for name in &extension.value.general_names {
            match name {
                GeneralName::DNSName(text) => names.dns.push(plain(text)?),
                GeneralName::URI(text) => names.uri.push(plain(text)?),
                GeneralName::RFC822Name(text) => names.email.push(plain(text)?),
                GeneralName::IPAddress(bytes) => {
                    names.ip.push(address(bytes).ok_or(bad("an alternative name is no IP address"))?)
                }
                // No rule can be about the others.
                GeneralName::OtherName(..)
                | GeneralName::X400Address(_)
                | GeneralName::DirectoryName(_)
                | GeneralName::EDIPartyName(_)
                | GeneralName::RegisteredID(_) => {}
            }
        }
        Ok(names)
    }

    /// SPIFFE's X509-SVID: exactly one URI name, and that a SPIFFE id.
    fn spiffe_id(&self) -> Option<String> {
        match self.uri.as_slice() {
            [one] if is_spiffe_id(one) => Some(one.clone()),
            _ => None,
        }
    }
}

/// IA5 without control characters and spaces: `a.example\0.evil.example` is no name.
fn plain(text: &str) -> Result<String, ClientCaError> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        Err(ClientCaError::Certificate("an alternative name has characters that no name has"))
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(|bytes| IpAddr::from(bytes).to_canonical()),
        _ => None,
    }
}

/// As the SPIFFE-ID standard, section 2 says.
fn is_spiffe_id(uri: &str) -> bool {
    let Some(rest) = uri.strip_prefix("spiffe://") else { return false };
    let (domain, path) = rest.split_once('/').map_or((rest, None), |(domain, path)| (domain, Some(path)));
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let domain_ok =
        !domain.is_empty() && domain.len() <= 255 && domain.bytes().all(|byte| allowed(byte) && !byte.is_ascii_uppercase());
    let path_ok = path.is_none_or(|path| {
        path.split('/').all(|segment| !segment.is_empty() && segment != "." && segment != ".." && segment.bytes().all(allowed))
    });
    uri.len() <= 2048 && domain_ok && path_ok
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spiffe_ids_are_judged_by_the_standard() {
        for id in ["spiffe://example.org", "spiffe://example.org/ns/prod/sa/web", "spiffe://a-b.c_d/x.y"] {
            assert!(is_spiffe_id(id), "{id}");
        }
        for id in [
            "spiffe://",
            "spiffe:///x",
            "spiffe://Example.org/x",
            "spiffe://example.org/",
            "spiffe://example.org/a//b",
            "spiffe://example.org/../a",
            "spiffe://example.org/a?b",
            "spiffe://u@example.org/a",
            "spiffe://example.org:1/a",
            "SPIFFE://example.org/a",
            "https://example.org/a",
        ] {
            assert!(!is_spiffe_id(id), "{id}");
        }
    }

    #[test]
    fn serials_have_one_spelling() {
        assert_eq!(serial(&[0, 0xab, 1]), "AB01");
        assert_eq!(serial(&[0]), "00");
        assert_eq!(serial(&[]), "");
    }

    #[test]
    fn names_with_tricks_are_no_names() {
        for name in ["", "a.example\0.evil", "a b", "a\n", "ä.example"] {
            assert!(plain(name).is_err(), "{name:?}");
        }
        assert!(plain("*.partner.example").is_ok());
    }
}
