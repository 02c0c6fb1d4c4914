//! Tells the upstream who is calling in a signed assertion, which it verifies with the gateway's own keys.
//!
//! ```yaml
//! - signed_identity: { audience: orders, claims: [tenant] }
//! ```
//!
//! The assertion is a JWT of the type `portcullis-assertion+jwt`, signed as the configuration's `assertion` says, good for
//! a minute and for this audience, route and method. Its `jti` is the decision id, so each request has one of its own,
//! unless `assertion.reuse` lets further requests of the same credential have it again.
//! An upstream that others can reach too can so tell who comes through the gateway, which a plain header cannot say.
//!
//! The gateway owns the header: a client's own, in any spelling, is removed from every request of every route.

use crate::header_rules::{check_name, is_look_alike};
use portcullis_identity::assertion::{AssertionSigner, HEADER, Purpose, Statement};
use portcullis_plugin::{Build, ConfigError, Env, Exchange, Filter, FilterError, Finding, Needs, RequestHead, Verdict, reason};
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;

/// More do not fit into the heads that upstreams take.
const LONGEST: usize = 8 << 10;

/// For whom the assertion is, and what it says beside the ordinary.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The service's name, which it expects in `aud`. Another for each service: one that is asked could else pass the
    /// assertion on to the next in the caller's name.
    pub audience: String,
    /// The request header. Default: `x-portcullis-assertion`.
    #[serde(default = "default_header")]
    pub header: String,
    /// Claims of the caller's credential that the service is to have too, in the assertion's `claims`. Default: none.
    #[serde(default)]
    pub claims: Vec<String>,
    /// Let requests without a principal pass, without an assertion. Default: false.
    #[serde(default)]
    pub optional: bool,
}

fn default_header() -> String {
    HEADER.to_owned()
}

pub struct SignedIdentity {
    signer: Arc<AssertionSigner>,
    purpose: Purpose,
    audience: String,
    header: String,
    optional: bool,
}

impl Build for SignedIdentity {
    const NAME: &'static str = "signed_identity";
    const EXAMPLE: &'static str = "{ audience: orders, claims: [tenant] }";
    type Config = Config;

    fn build(config: Config, env: &Env) -> Result<Self, ConfigError> {
        let Config { audience, header, claims, optional } = config;
        if audience.is_empty() {
            return Err(ConfigError::new("an empty audience").at("audience"));
        }
        check_name(&header).map_err(|error| error.at("header"))?;
        if !header.to_ascii_lowercase().starts_with("x-") {
            return Err(ConfigError::new(format!("`{header}` may have another meaning"))
                .help("choose a name that starts with x-, such as x-portcullis-assertion")
                .at("header"));
        }
        let signer = signer(env)?;
        let purpose = signer.purpose(&audience, claims);
        Ok(Self { signer, purpose, audience, header, optional })
    }
}

/// The gateway's signer, or what to write to have one.
pub(crate) fn signer(env: &Env) -> Result<Arc<AssertionSigner>, ConfigError> {
    env.service::<AssertionSigner>().ok_or_else(|| {
        ConfigError::new("there is nothing to sign with")
            .help("add `assertion: { issuer: https://edge.example.com, keys: [assertion.pem] }` to the configuration")
            .follows("assertion")
    })
}

impl Filter for SignedIdentity {
    fn request(&self, request: &mut RequestHead, exchange: &mut Exchange) -> Verdict {
        // First: no way out of here may leave a client's own in place.
        request.headers_mut().retain(|name, _| !is_look_alike(name, &self.header));
        let principal = exchange.principal().cloned();
        let known = exchange.check("principal", reason::IDENTITY_MISSING, principal.is_some() || self.optional, || {
            let observed = if principal.is_some() { "a principal" } else { "nobody" };
            Finding::new("a verified caller", observed).hint("put an authenticating filter, such as oidc, before this one")
        });
        let Some(principal) = principal else {
            return if known { Verdict::Continue } else { Verdict::deny(reason::IDENTITY_MISSING) };
        };
        let route = exchange.route().cloned();
        let certificate = exchange.certificate().verified().cloned();
        let signed = self.signer.sign(&Statement {
            purpose: &self.purpose,
            route: route.as_ref(),
            method: request.method(),
            decision: exchange.decision_id(),
            now: exchange.now(),
            principal: &principal,
            certificate: certificate.as_deref(),
        });
        let assertion = match signed {
            Ok(assertion) => assertion,
            Err(error) => return Verdict::Fault(FilterError::new(error.to_string())),
        };
        let fits = exchange.check("length", reason::IDENTITY_MISSING, assertion.len() <= LONGEST, || {
            Finding::new(format!("an assertion of at most {LONGEST} bytes"), format!("{} bytes", assertion.len()))
                .hint("name fewer `claims`, or have the issuer say less")
        });
        if !fits {
            return Verdict::deny(reason::IDENTITY_MISSING);
        }
        match request.headers_mut().set(&self.header, &*assertion) {
            Ok(()) => Verdict::Continue,
            Err(error) => {
                exchange.check("fields", reason::REQUEST_HEADERS_TOO_LARGE, false, || {
                    Finding::new("room for the assertion", error.to_string())
                });
                Verdict::deny(reason::REQUEST_HEADERS_TOO_LARGE)
            }
        }
    }

    fn needs(&self) -> Needs {
        Needs {
            summary: Some(format!("assertion({} for {})", self.header, self.audience)),
            owned_headers: vec![self.header.clone()],
            reads_identity: true,
            requires_principal: !self.optional,
            ..Needs::default()
        }
    }
}

#[cfg(test)]
#[path = "signed_identity_tests.rs"]
mod tests;
