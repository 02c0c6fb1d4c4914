//! Hands the verified client certificate on to the upstream, as RFC 9440 says.
//!
//! ```yaml
//! - client_cert_header: {}
//! ```
//!
//! `Client-Cert` is the certificate's DER as a byte sequence (RFC 8941, section 3.3.5): base64 between two colons, so
//! whatever stands in the certificate, nothing of it can pose as another header. Only a certificate that verified, by the CAs and lists
//! of now, is handed on; without one the field is absent. `Client-Cert-Chain` is not sent: an upstream has no need to judge
//! again what has been judged here.
//!
//! The gateway owns both names: what a client sends under them, in any spelling, is removed from every request of every
//! route (RFC 9440, section 4).

use crate::header_rules::is_look_alike;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use portcullis_plugin::{Build, ConfigError, Env, Exchange, Filter, Finding, Needs, RequestHead, Verdict, reason};
use schemars::JsonSchema;
use serde::Deserialize;

const FIELD: &str = "client-cert";
const CHAIN: &str = "client-cert-chain";

/// How the certificate is handed on.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Refuse requests without a verified certificate, instead of sending them on without the field. Default: false.
    #[serde(default)]
    pub require: bool,
}

pub struct ClientCertHeader {
    require: bool,
}

impl Build for ClientCertHeader {
    const NAME: &'static str = "client_cert_header";
    const EXAMPLE: &'static str = "{ require: true }";
    type Config = Config;

    fn build(config: Config, _env: &Env) -> Result<Self, ConfigError> {
        let Config { require } = config;
        Ok(Self { require })
    }
}

impl Filter for ClientCertHeader {
    fn request(&self, request: &mut RequestHead, exchange: &mut Exchange) -> Verdict {
        // The gateway has done the same before, on every route; this holds wherever else the filter is run.
        request.headers_mut().retain(|name, _| !is_look_alike(name, FIELD) && !is_look_alike(name, CHAIN));
        let Some(facts) = exchange.certificate().verified() else {
            let ok = exchange.check("present", reason::IDENTITY_MISSING, !self.require, || {
                Finding::new("a verified client certificate to hand on", "none")
            });
            return if ok { Verdict::Continue } else { Verdict::deny(reason::IDENTITY_MISSING) };
        };
        let value = format!(":{}:", STANDARD.encode(&facts.der));
        if let Err(error) = request.headers_mut().set(FIELD, value) {
            exchange.check("fields", reason::REQUEST_HEADERS_TOO_LARGE, false, || {
                Finding::new("room for the client certificate", error.to_string())
            });
            return Verdict::deny(reason::REQUEST_HEADERS_TOO_LARGE);
        }
        Verdict::Continue
    }

    fn needs(&self) -> Needs {
        Needs {
            owned_headers: vec![FIELD.to_owned(), CHAIN.to_owned()],
            reads_identity: true,
            summary: self.require.then(|| "cert handed on".to_owned()),
            ..Needs::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{Call, build, facts};
    use portcullis_plugin::CertificateFacts;

    fn posing() -> Call {
        Call::get("/").header("Client-Cert", ":AAAA:").header("client_cert", ":BBBB:").header("Client-Cert-Chain", ":CCCC:")
    }

    #[test]
    fn a_verified_certificate_is_one_byte_sequence_whatever_is_in_it() {
        let der: std::sync::Arc<[u8]> = (0..=255).collect::<Vec<u8>>().into();
        let mut call = posing().certificate(CertificateFacts { der: std::sync::Arc::clone(&der), ..facts() });
        assert!(call.run(&build::<ClientCertHeader>("{}")).is_continue());
        let sent = call.sent("client-cert");
        assert_eq!(sent.len(), 1);
        let inner = sent[0].strip_prefix(':').and_then(|rest| rest.strip_suffix(':')).unwrap();
        assert_eq!(STANDARD.decode(inner).unwrap(), *der);
        assert!(call.sent("client_cert").is_empty() && call.sent("client-cert-chain").is_empty());
    }

    #[test]
    fn one_that_did_not_verify_is_none_and_the_clients_own_word_goes() {
        for (yaml, passes) in [("{}", true), ("{ require: true }", false)] {
            for mut call in [posing(), posing().refused_certificate(reason::CERT_REVOKED)] {
                assert_eq!(call.run(&build::<ClientCertHeader>(yaml)).is_continue(), passes, "{yaml}");
                for name in ["client-cert", "client_cert", "client-cert-chain"] {
                    assert!(call.sent(name).is_empty(), "{name}");
                }
            }
        }
        assert_eq!(posing().denied(&build::<ClientCertHeader>("{ require: true }")).reason(), reason::IDENTITY_MISSING);
    }
}
