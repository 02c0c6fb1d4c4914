//! Hands the verified client certificate on to the upstream: as RFC 9440 says, or as Envoy does.
//!
//! ```yaml
//! - client_cert_header: {}
//! - client_cert_header: { format: xfcc, by: "spiffe://example.org/edge", chain: true }
//! ```
//!
//! `Client-Cert` is the certificate's DER as a byte sequence (RFC 8941, section 3.3.5): base64 between two colons, so
//! whatever stands in the certificate, nothing of it can pose as another header. With `chain`, `Client-Cert-Chain` is the list
//! of the certificates that came with it, without itself. `X-Forwarded-Client-Cert` is one element: `By` if it is given,
//! `Hash`, `Cert` and `Chain` if they are asked for, `Subject`, and each `URI` and `DNS` name.
//!
//! Only a certificate that verified, by the CAs and lists of now, is handed on; without one the field is absent. Of its
//! chain, some certificates lead to a CA, and of the others nothing is known: whoever reads it must judge it again.
//!
//! In `Subject`, the distinguished name of RFC 4514, every character that is special there, a quote, a backslash, and all
//! that is not visible ASCII is a backslash and two hexadecimal digits for each of its bytes (RFC 4514, section 2.4). So no
//! quote stands in it, and it ends at the same place for readers that differ in what a backslash does. URI and DNS names
//! have no such spelling: a certificate with a quote or a backslash in one is not handed on, and the request is refused.
//!
//! The gateway owns all of these names: what a client sends under them, in any spelling, is removed from every request of
//! every route (RFC 9440, section 4), also where no route has this filter.

use crate::header_rules::is_look_alike;
use crate::text::given;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use portcullis_identity::certificate::CertificateHeader;
use portcullis_plugin::{
    Build, CertificateFacts, ConfigError, Env, Exchange, Filter, Finding, HeaderError, Needs, RequestHead, Verdict, reason,
};
use schemars::JsonSchema;
use serde::Deserialize;

const FIELD: &str = "client-cert";
const CHAIN: &str = "client-cert-chain";
const XFCC: &str = "x-forwarded-client-cert";
const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// How the certificate is handed on.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Refuse requests without a verified certificate, instead of sending them on without the field. Default: false.
    #[serde(default)]
    pub require: bool,
    /// Default: `rfc9440`.
    #[serde(default)]
    pub format: Format,
    /// Also send the certificates that came with it: as `Client-Cert-Chain`, or as `Chain` of the element. Default: false.
    #[serde(default)]
    pub chain: bool,
    /// With `format: xfcc`: send the certificate itself, as `Cert` of the element. Default: false.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "bool")]
    pub cert: Option<bool>,
    /// With `format: xfcc`: the URI of this gateway, as `By` of the element. Default: no `By`.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "String")]
    pub by: Option<String>,
}

/// The header and what stands in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `Client-Cert`: the certificate (RFC 9440).
    #[default]
    Rfc9440,
    /// `X-Forwarded-Client-Cert`, as Envoy writes it: one element, with names and hash.
    Xfcc,
}

pub struct ClientCertHeader {
    require: bool,
    format: Format,
    chain: bool,
    cert: bool,
    by: Option<String>,
}

impl Build for ClientCertHeader {
    const NAME: &'static str = "client_cert_header";
    const EXAMPLE: &'static str = "{ require: true, chain: true }";
    type Config = Config;

    fn build(config: Config, _env: &Env) -> Result<Self, ConfigError> {
        let Config { require, format, chain, cert, by } = config;
        for (key, given) in [("cert", cert.is_some()), ("by", by.is_some())] {
            if given && format != Format::Xfcc {
                let error = ConfigError::new(format!("`{key}` is part of `X-Forwarded-Client-Cert` alone"));
                return Err(error.help("leave it out, or set `format: xfcc`").at(key));
            }
        }
        if let Some(uri) = &by
            && (!is_name(uri) || uri.is_empty() || uri.contains([',', ';']))
        {
            return Err(ConfigError::new(format!("`{uri}` is not a URI")).help("such as spiffe://example.org/edge").at("by"));
        }
        Ok(Self { require, format, chain, cert: cert.unwrap_or_default(), by })
    }
}

impl Filter for ClientCertHeader {
    fn request(&self, request: &mut RequestHead, exchange: &mut Exchange) -> Verdict {
        // The gateway has done the same before, on every route; this holds wherever else the filter is run.
        request.headers_mut().retain(|name, _| !CertificateHeader::ALL.iter().any(|own| is_look_alike(name, own)));
        let Some(facts) = exchange.certificate().verified().cloned() else {
            let ok = exchange.check("present", reason::IDENTITY_MISSING, !self.require, || {
                Finding::new("a verified client certificate to hand on", "none")
            });
            return if ok { Verdict::Continue } else { Verdict::deny(reason::IDENTITY_MISSING) };
        };
        if self.format == Format::Xfcc && !facts.san_uri.iter().chain(&facts.san_dns).all(|name| is_name(name)) {
            exchange.check("names", reason::IDENTITY_MISSING, false, || {
                Finding::new(
                    "URI and DNS names that can be written in X-Forwarded-Client-Cert",
                    "one with a quote or a backslash",
                )
                .hint("issue a certificate with other names, or hand it on with `format: rfc9440`")
            });
            return Verdict::deny(reason::IDENTITY_MISSING);
        }
        if let Err(error) = self.hand_on(&facts, request) {
            exchange.check("fields", reason::REQUEST_HEADERS_TOO_LARGE, false, || {
                Finding::new("room for the client certificate", error.to_string())
            });
            return Verdict::deny(reason::REQUEST_HEADERS_TOO_LARGE);
        }
        Verdict::Continue
    }

    fn needs(&self) -> Needs {
        Needs {
            owned_headers: CertificateHeader::ALL.map(str::to_owned).to_vec(),
            reads_identity: true,
            requires_certificate: self.require,
            summary: Some(if self.require { "cert handed on" } else { "cert handed on; optional" }.to_owned()),
            ..Needs::default()
        }
    }
}

impl ClientCertHeader {
    /// Whether it can refuse for want of a certificate, or of one that it can write.
    pub fn asks_for_identity(&self) -> bool {
        self.require || self.format == Format::Xfcc
    }

    fn hand_on(&self, facts: &CertificateFacts, request: &mut RequestHead) -> Result<(), HeaderError> {
        let headers = request.headers_mut();
        if self.format == Format::Xfcc {
            return headers.set(XFCC, self.element(facts));
        }
        headers.set(FIELD, byte_sequences([&*facts.der]))?;
        if self.chain && !facts.chain.is_empty() {
            headers.set(CHAIN, byte_sequences(facts.chain.iter().map(|der| &**der)))?;
        }
        Ok(())
    }

    fn element(&self, facts: &CertificateFacts) -> String {
        let mut out = String::new();
        if let Some(by) = &self.by {
            pair(&mut out, "By", by);
        }
        pair(&mut out, "Hash", &facts.sha256);
        let leaf = [&*facts.der];
        if self.cert {
            pem(&mut out, ";Cert=\"", leaf.into_iter());
        }
        if self.chain {
            pem(&mut out, ";Chain=\"", leaf.into_iter().chain(facts.chain.iter().map(|der| &**der)));
        }
        out.push_str(";Subject=\"");
        push_subject(&mut out, &facts.subject);
        out.push('"');
        facts.san_uri.iter().for_each(|uri| pair(&mut out, "URI", uri));
        facts.san_dns.iter().for_each(|dns| pair(&mut out, "DNS", dns));
        out
    }
}

/// A list of RFC 8941; of one, that is the item itself.
fn byte_sequences<'a>(items: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut out = String::new();
    for der in items {
        out.push_str(if out.is_empty() { ":" } else { ", :" });
        STANDARD.encode_string(der, &mut out);
        out.push(':');
    }
    out
}

/// Visible ASCII that stands in quotes as it is.
fn is_name(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\')
}

/// `key=value`, in quotes if the value has what separates values. It has no quotes of its own.
fn pair(out: &mut String, key: &str, value: &str) {
    if !out.is_empty() {
        out.push(';');
    }
    let quote = if value.contains([',', ';', '=']) { "\"" } else { "" };
    for part in [key, "=", quote, value, quote] {
        out.push_str(part);
    }
}

/// PEM, URL-encoded as Envoy does it.
fn pem<'a>(out: &mut String, begin: &str, certificates: impl Iterator<Item = &'a [u8]>) {
    out.push_str(begin);
    for der in certificates {
        out.push_str("-----BEGIN%20CERTIFICATE-----%0A");
        for line in STANDARD.encode(der).as_bytes().chunks(64) {
            for byte in line {
                match byte {
                    b'+' => out.push_str("%2B"),
                    b'/' => out.push_str("%2F"),
                    b'=' => out.push_str("%3D"),
                    other => out.push(char::from(*other)),
                }
            }
            out.push_str("%0A");
        }
        out.push_str("-----END%20CERTIFICATE-----%0A");
    }
    out.push('"');
}

/// A distinguished name of RFC 4514, in the spelling that has no quote and no backslash but before two digits.
fn push_subject(out: &mut String, subject: &str) {
    let hex = |out: &mut String, c: char| {
        for byte in c.encode_utf8(&mut [0; 4]).bytes() {
            out.push('\\');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    };
    let mut chars = subject.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                let rest = chars.as_str().as_bytes();
                if rest.len() > 1 && rest[..2].iter().all(u8::is_ascii_hexdigit) {
                    out.push('\\');
                } else {
                    hex(out, chars.next().unwrap_or('\\'));
                }
            }
            ' ' => out.push(' '),
            '"' => hex(out, '"'),
            c if c.is_ascii_graphic() => out.push(c),
            c => hex(out, c),
        }
    }
}

#[cfg(test)]
#[path = "client_cert_header_tests.rs"]
mod tests;
