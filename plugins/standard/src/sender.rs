//! Whether a token was sent by whom it was issued to: by client certificate (RFC 8705) and by proof of possession
//! (DPoP, RFC 9449).

use crate::bearer::{Challenge, TokenScheme, VerifiedToken};
use crate::text::given;
use portcullis_identity::dpop::{Asked, Nonces, ProofRules, normalised_url};
use portcullis_identity::{Algorithm, Binding, Issuers};
use portcullis_plugin::units::{OneOrMany, TimeSpan};
use portcullis_plugin::{ConfigError, Denial, Env, Exchange, Finding, ReasonCode, RequestHead, reason};
use schemars::JsonSchema;
use serde::Deserialize;
use std::time::{Duration, SystemTime};

/// Clients' clocks that are ahead by more make proofs that are refused.
const LEEWAY: Duration = Duration::from_secs(5);
const MOST_AGE: Duration = Duration::from_secs(300);
const LEAST_SECRET: usize = 32;

/// How a token must be bound to its sender, and how the proof is checked.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BindingConfig {
    /// Refuse tokens that are not bound in this way. Default: a token that is not bound is accepted.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Require")]
    pub require: Option<Require>,
    /// Accept tokens that are bound to a key, with a proof of it in the header `DPoP` (RFC 9449); `{}` takes the defaults.
    /// Default: such tokens are refused.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "DpopConfig")]
    pub dpop: Option<DpopConfig>,
}

/// A kind of binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Require {
    /// To a key or to a client certificate.
    Any,
    /// To a key.
    Dpop,
    /// To a client certificate.
    Certificate,
}

/// What a DPoP proof is held against.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DpopConfig {
    /// Algorithms that a proof may be signed with. Default: ES256, ES384, EdDSA, PS256, RS256.
    #[serde(default = "default_algorithms")]
    pub algorithms: Vec<Algorithm>,
    /// How old a proof may be by its `iat`, at most 5m. Every proof is remembered for as long, over all routes of this
    /// process, and accepted once. A proof may be 5s ahead. Default: 60s.
    #[serde(default = "default_max_age")]
    pub max_age: TimeSpan,
    /// Where clients believe they are: `https://api.example.com`, or several. For a gateway behind a proxy that changes
    /// scheme, host or port. Default: the scheme and host of the request as it came here.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "OneOrMany<String>")]
    pub origin: Option<OneOrMany<String>>,
    /// Proofs must hold a nonce that this gateway gave out; `{}` takes the defaults. Default: none is asked for.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "NonceConfig")]
    pub nonce: Option<NonceConfig>,
}

/// Nonces for DPoP proofs (RFC 9449, section 9): a proof cannot be made long before it is used.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NonceConfig {
    /// The longest time for which a nonce is accepted, from 10s to 1h. Clients are given the next one after half of it.
    /// Default: 5m.
    #[serde(default = "default_lifetime")]
    pub lifetime: TimeSpan,
    /// A file of at least 32 random bytes, the same for all replicas behind one address. Default: a secret of this process
    /// alone, so that a client which meets another replica is asked once more.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "String")]
    pub secret_file: Option<String>,
}

fn default_algorithms() -> Vec<Algorithm> {
    vec![Algorithm::Es256, Algorithm::Es384, Algorithm::EdDsa, Algorithm::Ps256, Algorithm::Rs256]
}

fn default_max_age() -> TimeSpan {
    TimeSpan::secs(60)
}

fn default_lifetime() -> TimeSpan {
    TimeSpan::secs(300)
}

/// What a route asks of the sender of a token.
pub(crate) struct Sender {
    require: Option<Require>,
    dpop: Option<Dpop>,
}

pub(crate) struct Dpop {
    rules: ProofRules,
    /// As a challenge names them.
    algs: String,
    /// Normalised, without a slash at the end; empty for those of the request.
    origins: Vec<String>,
}

/// The nonce for the response's header.
pub(crate) struct NonceDue(pub(crate) String);

impl Sender {
    pub(crate) fn compile(config: BindingConfig, issuers: Option<&Issuers>, env: &Env) -> Result<Self, ConfigError> {
        let BindingConfig { require, dpop } = config;
        if require == Some(Require::Dpop) && dpop.is_none() {
            return Err(ConfigError::new("no token could be accepted: proofs are not checked")
                .help("add `dpop: {}` beside it")
                .at("require"));
        }
        let dpop = dpop.map(|dpop| Dpop::compile(dpop, issuers, env)).transpose().map_err(|error| error.at("dpop"))?;
        Ok(Self { require, dpop })
    }

    pub(crate) fn dpop(&self) -> Option<&Dpop> {
        self.dpop.as_ref()
    }

    pub(crate) fn gives_nonces(&self) -> bool {
        self.dpop.as_ref().is_some_and(|dpop| dpop.rules.nonces().is_some())
    }

    pub(crate) fn requires_certificate(&self) -> bool {
        matches!(self.require, Some(Require::Certificate))
    }

    /// For `check`'s table.
    pub(crate) fn summary(&self) -> Option<String> {
        match (self.require, &self.dpop) {
            (Some(Require::Any), _) => Some("bound".to_owned()),
            (Some(Require::Dpop), _) => Some("bound by DPoP".to_owned()),
            (Some(Require::Certificate), _) => Some("bound to the certificate".to_owned()),
            (None, Some(_)) => Some("DPoP".to_owned()),
            (None, None) => None,
        }
    }

    /// A verified token is here; may whoever sent it use it? All is looked at but for the proof, which costs more and is
    /// looked at last.
    pub(crate) fn judge(
        &self,
        binding: Option<&Binding>,
        token: &VerifiedToken,
        request: &RequestHead,
        exchange: &mut Exchange,
    ) -> Result<(), ReasonCode> {
        let key = binding.and_then(Binding::key);
        let mut good = self.judge_required(binding, exchange);
        good &= self.judge_scheme(key.is_some(), token.scheme(), exchange);
        if let Some(binding) = binding {
            good &= binding.judge_certificate(exchange);
        }
        if !good {
            return Err(reason::TOKEN_BINDING_MISMATCH);
        }
        match (key, &self.dpop) {
            (None, _) => Ok(()),
            (Some(key), Some(dpop)) => dpop.judge(key, token, request, exchange),
            // `judge_scheme` has refused it; it stays refused.
            (Some(_), None) => Err(reason::TOKEN_BINDING_MISMATCH),
        }
    }

    fn judge_required(&self, binding: Option<&Binding>, exchange: &mut Exchange) -> bool {
        let Some(require) = self.require else { return true };
        let (ok, expected) = match require {
            Require::Any => (binding.is_some(), "a token bound to a key or client certificate (`cnf`)"),
            Require::Dpop => (binding.is_some_and(|b| b.key().is_some()), "a token bound to a key (`cnf.jkt`)"),
            Require::Certificate => {
                (binding.is_some_and(|b| b.certificate().is_some()), "a token bound to a client certificate (`cnf.x5t#S256`)")
            }
        };
        exchange.check("binding", reason::TOKEN_BINDING_MISMATCH, ok, || {
            let observed = binding.map_or("one that is not bound".to_owned(), |binding| format!("one bound to {binding}"));
            let finding = Finding::new(expected, observed);
            if ok { finding } else { finding.hint("have the client ask the issuer for a bound token") }
        })
    }

    /// A bound token as `Bearer` is what a thief would send; `DPoP` with a token that is not bound pretends to more than
    /// there is (RFC 9449, sections 7.1 and 7.2).
    fn judge_scheme(&self, wants_proof: bool, scheme: TokenScheme, exchange: &mut Exchange) -> bool {
        let fits = wants_proof == (scheme == TokenScheme::Dpop);
        let checked = !wants_proof || self.dpop.is_some();
        if !wants_proof && scheme == TokenScheme::Bearer {
            return true;
        }
        exchange.check("scheme", reason::TOKEN_BINDING_MISMATCH, fits && checked, || {
            if !wants_proof {
                return Finding::new("a token bound to a key (`cnf.jkt`), after `DPoP`", "one that is not bound to a key")
                    .hint("have the client send a proof to the issuer's token endpoint too, or use `Bearer`");
            }
            let finding = Finding::new("`Authorization: DPoP` for a token that is bound to a key", scheme.name());
            match (checked, fits) {
                (false, _) => finding
                    .hint("this route checks no proofs, and without one the token may be stolen; set `binding: { dpop: {} }`"),
                (true, false) => finding.hint(
                    "the client must send a DPoP proof with each request (RFC 9449); a token that was stolen comes without",
                ),
                (true, true) => finding,
            }
        })
    }

    /// The challenges of a 401 or 403: the one for the scheme that was used tells the error; without an error, each scheme
    /// that would do.
    pub(crate) fn challenge(&self, denial: Denial, challenge: Challenge<'_>, now: SystemTime) -> Denial {
        const NAME: &str = "www-authenticate";
        let Some(dpop) = &self.dpop else { return denial.header(NAME, challenge.to_string()) };
        let (realm, used, error) = (challenge.realm, challenge.scheme, challenge.error);
        let proof = Challenge { scheme: TokenScheme::Dpop, realm, error: None, scope: None, algs: Some(&dpop.algs) };
        let denial = if used == TokenScheme::Dpop {
            denial.header(NAME, Challenge { algs: Some(&dpop.algs), ..challenge }.to_string())
        } else if error.is_none() && self.require == Some(Require::Dpop) {
            denial.header(NAME, proof.to_string())
        } else {
            denial.header(NAME, challenge.to_string()).header(NAME, proof.to_string())
        };
        match dpop.rules.nonces() {
            Some(nonces) => denial.header("dpop-nonce", nonces.current(now)).header("cache-control", "no-store"),
            None => denial,
        }
    }
}

impl Dpop {
    fn compile(config: DpopConfig, issuers: Option<&Issuers>, env: &Env) -> Result<Self, ConfigError> {
        let DpopConfig { algorithms, max_age, origin, nonce } = config;
        if algorithms.is_empty() {
            return Err(ConfigError::new("no algorithm: no proof could be accepted").at("algorithms"));
        }
        if max_age.get() < Duration::from_secs(1) || max_age.get() > MOST_AGE {
            return Err(ConfigError::new(format!("a proof is accepted for 1s to 5m, not for {max_age}")).at("max_age"));
        }
        let state = issuers.map(Issuers::proofs).ok_or_else(|| ConfigError::new("there are no issuers"))?;
        let nonces = match nonce {
            None => None,
            Some(NonceConfig { lifetime, secret_file }) => {
                let span = lifetime.get();
                if span < Duration::from_secs(10) || span > Duration::from_secs(3600) {
                    return Err(ConfigError::new(format!("a nonce lives for 10s to 1h, not for {lifetime}"))
                        .at("lifetime")
                        .at("nonce"));
                }
                Some(match secret_file {
                    None => Nonces::new(state.nonce_key(), span),
                    Some(path) => {
                        secret(&path, env).map(|secret| Nonces::with_secret(&secret, span)).map_err(|error| error.at("nonce"))?
                    }
                })
            }
        };
        let algs = algorithms.iter().map(|algorithm| algorithm.name()).collect::<Vec<_>>().join(" ");
        let rules = ProofRules::new(algorithms, max_age.get(), LEEWAY, nonces, state.clone());
        Ok(Self { rules, algs, origins: origins(origin)? })
    }

    fn judge(
        &self,
        key: &[u8; 32],
        token: &VerifiedToken,
        request: &RequestHead,
        exchange: &mut Exchange,
    ) -> Result<(), ReasonCode> {
        // A filter of the listener has judged the proof of this very request, and taken it out.
        if exchange.extension::<Proven>().is_some_and(|Proven(proven)| proven == key) {
            return Ok(());
        }
        let mut all = request.headers().get_all("dpop");
        let (Some(proof), None) = (all.next(), all.next()) else {
            let observed = if request.headers().contains("dpop") { "more than one" } else { "none" };
            exchange.check("proof", reason::DPOP_PROOF_INVALID, false, || {
                Finding::new("one header `DPoP` with a proof", observed)
                    .hint("the client makes a proof for each request (RFC 9449)")
            });
            return Err(reason::DPOP_PROOF_INVALID);
        };
        let urls = self.urls(request);
        let asked = Asked {
            method: request.method().as_str(),
            urls: &urls,
            merged_slashes: request.has_merged_slashes(),
            token: token.expose(),
            key,
        };
        let renew = self.rules.judge(proof, &asked, exchange)?;
        exchange.insert_extension(Proven(*key));
        if let Some(nonces) = self.rules.nonces().filter(|_| renew) {
            exchange.insert_extension(NonceDue(nonces.current(exchange.now())));
        }
        Ok(())
    }

    /// The addresses that a proof for this request may name. Only what the gateway itself has seen, or was told by its
    /// configuration: a client could say anything in X-Forwarded-Host.
    fn urls(&self, request: &RequestHead) -> Vec<String> {
        let own = (self.origins.is_empty() && !request.authority().is_empty())
            .then(|| format!("{}://{}", request.scheme().as_str(), request.authority()));
        let origins = self.origins.iter().chain(&own);
        origins.filter_map(|origin| normalised_url(&format!("{origin}{}", request.path()))).collect()
    }
}

/// The key of which this request has proven possession.
struct Proven([u8; 32]);

fn secret(path: &str, env: &Env) -> Result<Vec<u8>, ConfigError> {
    let secret = env.read(path).map_err(|error| error.at("secret_file"))?;
    if secret.trim_ascii().len() < LEAST_SECRET {
        return Err(ConfigError::new(format!("{path} has {} bytes, too few for a secret", secret.len()))
            .help("make one with `openssl rand -out FILE 64`")
            .at("secret_file"));
    }
    Ok(secret)
}

fn origins(given: Option<OneOrMany<String>>) -> Result<Vec<String>, ConfigError> {
    let Some(OneOrMany(texts)) = given else { return Ok(Vec::new()) };
    if texts.is_empty() {
        return Err(ConfigError::new("the list is empty").help("name at least one, or leave the key out").at("origin"));
    }
    let one = |text: &String| {
        let normal = normalised_url(text)?;
        let origin = normal.strip_suffix('/')?;
        (origin.matches('/').count() == 2 && !text.contains(['?', '#'])).then(|| origin.to_owned())
    };
    texts
        .iter()
        .map(|text| {
            one(text).ok_or_else(|| {
                ConfigError::new(format!("`{text}` is not an origin"))
                    .help("write scheme and host, such as https://api.example.com")
                    .at("origin")
            })
        })
        .collect()
}

#[cfg(test)]
#[path = "sender_tests.rs"]
mod tests;
