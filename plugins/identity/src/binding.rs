//! What a token asks its sender to prove (`cnf`, RFC 7800), and the proof by client certificate (RFC 8705, section 3).

use crate::jose;
use portcullis_plugin::{CertificateOrigin, CertificateStatus, Exchange, Finding, reason};
use serde_json::Value;
use std::fmt;

/// What the sender of a token has to prove with each request. At least one of the two; if both, both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    key: Option<[u8; 32]>,
    certificate: Option<[u8; 32]>,
}

impl Binding {
    /// Reads `cnf`. A member that is not understood makes all of it unusable: it may ask for more than was checked.
    pub(crate) fn read(cnf: &Value) -> Result<Self, &'static str> {
        let members = cnf.as_object().ok_or("`cnf` is not an object")?;
        let mut binding = Self { key: None, certificate: None };
        for (name, value) in members {
            let place = match name.as_str() {
                "jkt" => &mut binding.key,
                "x5t#S256" => &mut binding.certificate,
                _ => return Err("a `cnf` with a member of another kind"),
            };
            let hash = value.as_str().and_then(|text| jose::base64url(text).ok()).and_then(|bytes| bytes.try_into().ok());
            *place = Some(hash.ok_or("a `cnf` whose hash is not 32 bytes in base64url")?);
        }
        if members.is_empty() { Err("an empty `cnf`") } else { Ok(binding) }
    }

    /// The thumbprint (RFC 7638) of the key that a DPoP proof must be signed with.
    pub fn key(&self) -> Option<&[u8; 32]> {
        self.key.as_ref()
    }

    /// The SHA-256 of the client certificate, in DER.
    pub fn certificate(&self) -> Option<&[u8; 32]> {
        self.certificate.as_ref()
    }

    /// Whether the client certificate of this request is the one that the token is bound to, if it is bound to one.
    /// Only a verified certificate counts.
    pub fn judge_certificate(&self, exchange: &mut Exchange) -> bool {
        let Some(wanted) = &self.certificate else { return true };
        let status = exchange.certificate().clone();
        let origin = exchange.certificate_origin();
        let counts = !matches!(origin, CertificateOrigin::Forwarded { proves_tokens: false, .. });
        let ok = status
            .verified()
            .filter(|_| counts)
            .and_then(|facts| unhex(&facts.sha256))
            .is_some_and(|presented| aws_lc_rs::constant_time::verify_slices_are_equal(&presented, wanted).is_ok());
        let plain = exchange.connection().tls.is_none();
        exchange.check("certificate_binding", reason::TOKEN_BINDING_MISMATCH, ok, || {
            certificate_finding(wanted, &status, origin, plain)
        })
    }
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.key.is_some(), self.certificate.is_some()) {
            (true, true) => "a key and a client certificate",
            (true, false) => "a key (DPoP)",
            (false, _) => "a client certificate",
        })
    }
}

fn certificate_finding(wanted: &[u8; 32], status: &CertificateStatus, origin: CertificateOrigin, plain: bool) -> Finding {
    let expected = format!("the client certificate with SHA-256 {}", hex(wanted));
    if let CertificateOrigin::Forwarded { header, proves_tokens } = origin {
        let observed = match status {
            CertificateStatus::Verified(facts) => format!("{}, {}, by a proxy's word in {header}", facts.sha256, facts.subject),
            CertificateStatus::Missing => format!("a proxy that handed none on in {header}"),
            CertificateStatus::Refused(refusal) => format!("one in {header} that is not accepted: {}", refusal.observed),
        };
        return Finding::new(expected, observed).hint(if proves_tokens {
            "the proxy must hand on the certificate that the token was issued to, and it must be of a CA in `client_cert.ca`"
        } else {
            "only the proxy has seen the proof; if its word is to do for bound tokens, set `bound_tokens: true` in the listener's `client_cert`"
        });
    }
    match status {
        CertificateStatus::Verified(facts) => Finding::new(expected, format!("{}, {}", facts.sha256, facts.subject))
            .hint("the token was issued to a holder of another certificate; after a renewal the client must get a new token"),
        CertificateStatus::Missing if plain => Finding::new(expected, "a connection without TLS").hint(
            "the proof is made in the TLS handshake with this gateway; a certificate that another proxy has seen counts only if the listener's `client_cert` says so",
        ),
        CertificateStatus::Missing => Finding::new(expected, "no client certificate")
            .hint("have the client send its certificate; check that the listener has `client_auth`"),
        CertificateStatus::Refused(refusal) => {
            Finding::new(expected, format!("a client certificate that is not accepted: {}", refusal.observed))
                .hint("a bound token needs a certificate of a CA in `client_auth`; self-signed ones are not accepted")
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    let mut out = [0; 32];
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_not_understood_makes_the_whole_unusable() {
        let hash = "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2";
        let canonical = "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dgI";
        assert!(Binding::read(&json!({ "jkt": canonical, "x5t#S256": canonical })).is_ok());
        for cnf in [
            json!({}),
            json!(null),
            json!("jkt"),
            json!({ "jkt": hash }),
            json!({ "jkt": canonical, "jwk": {} }),
            json!({ "kid": "a" }),
            json!({ "JKT": canonical }),
            json!({ "jkt": null }),
            json!({ "jkt": [canonical] }),
            json!({ "x5t#S256": "" }),
            json!({ "x5t#S256": format!("{canonical}=") }),
        ] {
            assert!(Binding::read(&cnf).is_err(), "{cnf}");
        }
    }

    #[test]
    fn hashes_are_read_as_they_are_written() {
        let bytes = [0xab; 32];
        assert_eq!(unhex(&hex(&bytes)), Some(bytes));
        for text in ["", "ab", &"zz".repeat(32), &"a".repeat(63)] {
            assert_eq!(unhex(text), None, "{text}");
        }
    }
}
