//! For services behind the gateway: who is calling, or why that cannot be believed.
//!
//! ```no_run
//! # async fn example(header: &str) -> Result<(), Box<dyn std::error::Error>> {
//! use portcullis_identity::assertion::AssertionVerifier;
//!
//! let verifier = AssertionVerifier::builder("https://edge.example.com", "orders")
//!     .jwks_uri("https://edge.example.com/.well-known/portcullis-keys.json")
//!     .build()?;
//! let caller = verifier.verify(header, "GET").await?;
//! println!("{} of {}", caller.subject(), caller.idp().unwrap_or("nobody"));
//! # Ok(())
//! # }
//! ```

use super::TYPE;
use crate::algorithm::Algorithm;
use crate::config::{IssuerConfig, TokenType};
use crate::issuers::{Issuer, Issuers};
use crate::verify::{Verification, VerifiedToken};
use portcullis_plugin::env::Kept;
use portcullis_plugin::prometheus::Registry;
use portcullis_plugin::reason::{self, ReasonCode};
use portcullis_plugin::units::TimeSpan;
use portcullis_plugin::{CertificateStatus, ConfigError, Connection, Env, Exchange, Principal};
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

const NAME: &str = "gateway";
/// Between the clocks of two machines that are looked after.
const LEEWAY: TimeSpan = TimeSpan::secs(5);

/// Verifies assertions. Make one and keep it: it keeps the gateway's keys, fetches them again when they change, and
/// remembers what it has verified.
pub struct AssertionVerifier {
    issuers: Arc<Issuers>,
    issuer: Arc<Issuer>,
    connection: Arc<Connection>,
    route: Option<String>,
}

/// Which assertions are accepted. See [`AssertionVerifier::builder`].
pub struct AssertionVerifierBuilder {
    config: IssuerConfig,
    route: Option<String>,
}

/// Who is calling, as the gateway has verified.
#[derive(Debug, Clone)]
pub struct Assertion(Arc<VerifiedToken>);

/// Why an assertion is not believed. For the log of the service; a caller learns nothing but 401, or 503 if
/// [`is_unavailable`](Self::is_unavailable).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssertionError {
    #[error("{reason}: expected {expected}, observed {observed}")]
    Refused { reason: ReasonCode, expected: String, observed: String },
    #[error("it was made for {expected} {wanted}, not for {observed}")]
    OtherRequest { wanted: &'static str, expected: String, observed: String },
}

impl AssertionVerifier {
    /// `issuer` is the gateway's `assertion.issuer`, `audience` the route's `signed_identity.audience`: a name of this
    /// service. Keys come from exactly one of [`jwks_uri`](AssertionVerifierBuilder::jwks_uri) and
    /// [`jwks_file`](AssertionVerifierBuilder::jwks_file).
    pub fn builder(issuer: &str, audience: &str) -> AssertionVerifierBuilder {
        let mut config = IssuerConfig::new(issuer, [audience]);
        config.algorithms = vec![Algorithm::Es256, Algorithm::EdDsa];
        config.token_types = vec![TokenType(TYPE.to_owned())];
        config.leeway = LEEWAY;
        AssertionVerifierBuilder { config, route: None }
    }

    /// Verifies the value of the header `x-portcullis-assertion`. `method` is that of the request at hand, such as `GET`: an
    /// assertion is good for one method only. A request with two such headers is to be refused before.
    ///
    /// # Errors
    /// If anything about it is not as expected. It waits for keys no longer than 2 s.
    pub async fn verify(&self, assertion: &str, method: &str) -> Result<Assertion, AssertionError> {
        let address = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let exchange = || Exchange::new(Arc::clone(&self.connection), address, CertificateStatus::Missing, SystemTime::now());
        let mut first = exchange();
        let verified = match self.issuer.verify(assertion, &mut first) {
            Verification::Verified(verified) => verified,
            Verification::Refused(reason) => return Err(refusal(reason, &first)),
            Verification::Wait(keys) => {
                let obtained = keys.await;
                let mut second = exchange();
                self.issuer.verify_after_wait(assertion, obtained, &mut second).map_err(|reason| refusal(reason, &second))?
            }
        };
        let assertion = Assertion(verified);
        same("method", assertion.text("method"), method)?;
        if let Some(route) = &self.route {
            same("route", assertion.text("route"), route)?;
        }
        Ok(assertion)
    }

    /// Whether there are keys: for a readiness probe.
    pub fn is_ready(&self) -> bool {
        self.issuers.iter().all(|issuer| issuer.is_ready())
    }
}

fn same(wanted: &'static str, expected: Option<&str>, observed: &str) -> Result<(), AssertionError> {
    let expected = expected.unwrap_or_default();
    if expected == observed {
        return Ok(());
    }
    Err(AssertionError::OtherRequest { wanted, expected: expected.to_owned(), observed: observed.to_owned() })
}

fn refusal(reason: ReasonCode, exchange: &Exchange) -> AssertionError {
    let check = exchange.checks().iter().find(|check| !check.ok && check.reason == reason);
    let finding = check.map(|check| check.finding.clone()).unwrap_or_default();
    AssertionError::Refused { reason, expected: finding.expected, observed: finding.observed }
}

impl AssertionError {
    /// The gateway's keys cannot be had: nobody's fault who is calling.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Refused { reason, .. } if *reason == reason::ISSUER_UNAVAILABLE)
    }
}

impl AssertionVerifierBuilder {
    /// Where the gateway publishes its keys. Plain `http` only on this machine, or with
    /// [`insecure_http`](Self::insecure_http).
    #[must_use]
    pub fn jwks_uri(mut self, uri: &str) -> Self {
        self.config.jwks_uri = Some(uri.to_owned());
        self
    }

    /// A file with the keys, read once.
    #[must_use]
    pub fn jwks_file(mut self, path: &str) -> Self {
        self.config.jwks_file = Some(path.to_owned());
        self
    }

    /// A PEM file with the CAs that `jwks_uri` is verified against. Default: the public ones.
    #[must_use]
    pub fn ca(mut self, path: &str) -> Self {
        self.config.ca = Some(path.to_owned());
        self
    }

    /// Fetch keys over plain HTTP from another machine. Whoever is on the way there can be anybody to this service.
    #[must_use]
    pub fn insecure_http(mut self) -> Self {
        self.config.insecure_http = true;
        self
    }

    /// Accept assertions of this route of the gateway only. Default: of every route with the audience.
    #[must_use]
    pub fn route(mut self, route: &str) -> Self {
        self.route = Some(route.to_owned());
        self
    }

    /// Starts fetching keys, if they come from the network; then a tokio runtime is needed.
    ///
    /// # Errors
    /// If a setting cannot be used. Keys that cannot be had yet are no error.
    pub fn build(self) -> Result<AssertionVerifier, ConfigError> {
        let Self { config, route } = self;
        if config.jwks_uri.is_none() && config.jwks_file.is_none() {
            return Err(ConfigError::new("no keys").help("give `jwks_uri` or `jwks_file`"));
        }
        let fetches = config.jwks_uri.is_some();
        let env = Env::new(".", Registry::new(), Arc::new(Kept::default()));
        let issuers = Issuers::compile(&[(NAME.to_owned(), config)].into(), &env)?;
        let issuer = issuers.get(NAME).ok_or_else(|| ConfigError::new("no issuer"))?;
        if fetches {
            issuers.start();
        }
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let connection = Connection { listener: NAME.into(), peer: nowhere, source: nowhere, local: nowhere, tls: None };
        Ok(AssertionVerifier { issuers, issuer, connection: Arc::new(connection), route })
    }
}

impl Assertion {
    fn principal(&self) -> &Principal {
        self.0.principal()
    }

    fn text(&self, claim: &str) -> Option<&str> {
        self.principal().claims.get(claim).and_then(Value::as_str)
    }

    /// Unique only together with [`idp`](Self::idp).
    pub fn subject(&self) -> &str {
        &self.principal().subject
    }

    /// Who vouches for the subject: the issuer of the caller's token, or the CA of its certificate.
    pub fn idp(&self) -> Option<&str> {
        self.text("idp")
    }

    /// How the gateway verified the caller: `bearer`, `api_key`, `certificate`.
    pub fn verified_by(&self) -> Option<&str> {
        self.text("auth")
    }

    /// The application that acts.
    pub fn client_id(&self) -> Option<&str> {
        self.principal().client_id.as_deref()
    }

    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        self.principal().scopes.iter().map(|scope| &**scope)
    }

    pub fn roles(&self) -> impl Iterator<Item = &str> {
        self.principal().roles.iter().map(|role| &**role)
    }

    pub fn groups(&self) -> impl Iterator<Item = &str> {
        self.principal().groups.iter().map(|group| &**group)
    }

    /// SHA-256 of the verified client certificate, lower-case hexadecimal.
    pub fn certificate_sha256(&self) -> Option<&str> {
        self.text("cert_sha256")
    }

    /// The gateway's route.
    pub fn route(&self) -> Option<&str> {
        self.text("route")
    }

    /// Names this request in the gateway's log, and is different for each: a service that must not take a request
    /// twice remembers it for as long as the assertion lives.
    pub fn decision_id(&self) -> Option<&str> {
        self.text("jti")
    }

    /// A claim of the caller's credential, if the route's `signed_identity.claims` names it.
    pub fn claim(&self, name: &str) -> Option<&Value> {
        self.principal().claims.get("claims").and_then(|claims| claims.get(name))
    }
}
