//! Verifies bearer tokens, and asks for scopes, roles and claims.
//!
//! ```yaml
//! - oidc: { issuer: main, scopes: ["api:read"], roles: [orders-admin, orders-user], claims: { tenant: acme } }
//! ```
//!
//! The token is taken from `Authorization: Bearer` (with `binding.dpop` from `Authorization: DPoP` too) and from nowhere else: one in the query, a cookie or another header
//! is not looked at, and the refusal's hint says where it was found. With several issuers, the token's `iss` says which
//! of them judges it; nothing else of a token is believed before its signature is verified. An opaque token goes to the
//! one issuer that has `introspection`.
//!
//! Once verified, the token is taken out of the request, so that upstreams do not get it; a route that needs it there
//! says `identity_headers: { forward_token: true }`. The caller becomes the principal (method `bearer`).
//!
//! With `optional: true`, a request without an `Authorization` header passes without a principal. Any header that is
//! there must hold a good token.
//!
//! A token that only its sender may use (`cnf`) needs the proof. One that is bound to a client certificate (RFC 8705) is
//! good over a connection with that certificate, on every route; one in a trusted proxy's header counts only if the listener's
//! `client_cert` says `bound_tokens`. One that is bound to a key needs a DPoP proof (RFC 9449),
//! which a route with `binding: { dpop: {} }` checks; other routes refuse it. See [`BindingConfig`].
//!
//! An issuer whose keys cannot be had gives 503 with `Retry-After`, never 401.

use crate::bearer::{self, Challenge, Presented, TokenScheme, VerifiedToken};
use crate::claim_rule::{AnyOf, ClaimRule};
use crate::grants::{self, Grant};
pub use crate::sender::{BindingConfig, DpopConfig, NonceConfig, Require};
use crate::sender::{NonceDue, Sender};
use crate::text::given;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis_identity::{IdTokens, Issuer, Issuers, Verification, nearest_issuer};
use portcullis_plugin::error::unknown_name;
use portcullis_plugin::units::OneOrMany;
use portcullis_plugin::{
    Build, ConfigError, Credential, Denial, Env, Exchange, Filter, FilterError, Finding, Needs, Principal, ReasonCode,
    RequestHead, ResponseHead, Resume, Verdict, reason,
};
use schemars::JsonSchema;
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a client is told to wait when an issuer is away: about the time in which its keys are asked for again.
const RETRY_AFTER: &str = "5";

/// Whose tokens are accepted, and what they must grant.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The name of an issuer in `issuers`, or of several.
    pub issuer: OneOrMany<String>,
    /// Scopes that a token must have, all of them. Default: none.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "OneOrMany<String>")]
    pub scopes: Option<OneOrMany<String>>,
    /// Roles of which a token must have at least one. Default: none.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "OneOrMany<String>")]
    pub roles: Option<OneOrMany<String>>,
    /// Claims that a token must have: the name of a claim, or the way to a member of it (`realm.level`), to a value or a
    /// list of values of which any will do. A claim that is a list needs one of them. Texts, whole numbers, true and
    /// false; a text is not the number that it spells.
    #[serde(default)]
    pub claims: BTreeMap<String, AnyOf>,
    /// Audiences of which a token must name at least one, beyond those that the issuer asks for. Default: none.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "OneOrMany<String>")]
    pub audiences: Option<OneOrMany<String>>,
    /// Whether ID tokens are accepted on this route. Default: as `accept_id_tokens` of the issuer says.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "bool")]
    pub accept_id_tokens: Option<bool>,
    /// Let requests without any `Authorization` header pass, without a principal. Default: false.
    #[serde(default)]
    pub optional: bool,
    /// Tokens that only their sender may use. Default: those bound to a client certificate are checked, those bound to a
    /// key are refused, those not bound are accepted.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "BindingConfig")]
    pub binding: Option<BindingConfig>,
}

pub struct Oidc(Arc<Rules>);

/// Shared with the requests that wait for keys.
struct Rules {
    /// At least one, and no two with the same identifier.
    issuers: Vec<Arc<Issuer>>,
    /// Those of the whole configuration, who together remember whose a token was.
    known: Option<Arc<Issuers>>,
    scopes: Vec<String>,
    /// The scopes as a challenge names them.
    scope: String,
    roles: Vec<String>,
    claims: Vec<ClaimRule>,
    audiences: Vec<String>,
    id_tokens: IdTokens,
    optional: bool,
    sender: Sender,
}

impl Build for Oidc {
    const NAME: &'static str = "oidc";
    const EXAMPLE: &'static str = "{ issuer: main, scopes: [\"api:read\"] }";
    type Config = Config;

    fn build(config: Config, env: &Env) -> Result<Self, ConfigError> {
        let Config { issuer, scopes, roles, claims, audiences, accept_id_tokens, optional, binding } = config;
        let known = env.service::<Issuers>();
        let issuers = find_issuers(&issuer, known.as_deref())?;
        let sender = Sender::compile(binding.unwrap_or_default(), known.as_deref(), env).map_err(|error| error.at("binding"))?;
        let scopes = list("scopes", scopes)?;
        for (at, scope) in scopes.iter().enumerate() {
            // RFC 6749, section 3.3. What is left can stand in a challenge as it is.
            if scope.is_empty() || !scope.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\') {
                let error =
                    ConfigError::new(format!("`{scope}` is not a scope")).help("a scope has no spaces; write several as a list");
                return Err(error.at(at).at("scopes"));
            }
        }
        let mut rules = Vec::new();
        for (name, values) in claims {
            let here = |error: ConfigError| error.at(name.as_str()).at("claims");
            if values.is_empty() {
                return Err(here(ConfigError::new("the list is empty, so no token could match").help("name at least one value")));
            }
            rules.push(ClaimRule::new(name.clone(), values).ok_or_else(|| here(ConfigError::new("an empty claim name")))?);
        }
        Ok(Self(Arc::new(Rules {
            issuers,
            known,
            scope: scopes.join(" "),
            scopes,
            roles: list("roles", roles)?,
            claims: rules,
            audiences: list("audiences", audiences)?,
            id_tokens: match accept_id_tokens {
                None => IdTokens::AsIssuer,
                Some(true) => IdTokens::Accepted,
                Some(false) => IdTokens::Refused,
            },
            optional,
            sender,
        })))
    }
}

fn list(key: &'static str, values: Option<OneOrMany<String>>) -> Result<Vec<String>, ConfigError> {
    match values {
        Some(OneOrMany(values)) if values.is_empty() => {
            Err(ConfigError::new("the list is empty").help("name at least one, or leave the key out").at(key))
        }
        Some(OneOrMany(values)) => Ok(values),
        None => Ok(Vec::new()),
    }
}

fn find_issuers(names: &[String], issuers: Option<&Issuers>) -> Result<Vec<Arc<Issuer>>, ConfigError> {
    if names.is_empty() {
        return Err(ConfigError::new("no issuer is named, so no token could be accepted").at("issuer"));
    }
    let mut found: Vec<Arc<Issuer>> = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let here = |error: ConfigError| if names.len() > 1 { error.at(at).at("issuer") } else { error.at("issuer") };
        let issuer = issuers.and_then(|issuers| issuers.get(name)).ok_or_else(|| {
            let error = unknown_name("issuer", name, issuers.into_iter().flat_map(Issuers::names));
            here(if issuers.is_none() { error.follows("issuers") } else { error })
        })?;
        if let Some(twin) = found.iter().find(|other| other.identifier() == issuer.identifier()) {
            return Err(here(
                ConfigError::new(format!("`{name}` and `{}` are the same issuer, {}", twin.name(), issuer.identifier()))
                    .help("a token's `iss` could not tell which of them should judge it"),
            ));
        }
        if let Some(other) = found.iter().find(|other| other.introspects() && issuer.introspects()) {
            return Err(here(ConfigError::new(format!("`{name}` and `{}` both have `introspection`", other.name())).help(
                "an opaque token does not say whose it is, and it is shown to no other issuer than its own: use two routes",
            )));
        }
        found.push(issuer);
    }
    Ok(found)
}

impl Filter for Oidc {
    fn request(&self, request: &mut RequestHead, exchange: &mut Exchange) -> Verdict {
        let rules = &self.0;
        let (scheme, token) = match bearer::read(request.headers()) {
            Presented::Token(TokenScheme::Dpop, _) if rules.sender.dpop().is_none() => {
                return rules.missing("an Authorization header with the DPoP scheme", request, exchange);
            }
            Presented::Token(scheme, token) => (scheme, Cow::Borrowed(token)),
            Presented::Malformed(what) => {
                exchange.check("form", reason::TOKEN_MALFORMED, false, || {
                    Finding::new("one `Authorization: Bearer` with one token", what)
                });
                return rules.deny(reason::TOKEN_MALFORMED, TokenScheme::Bearer, request, exchange);
            }
            Presented::OtherScheme(what) => return rules.missing(what, request, exchange),
            // A filter of the listener may have verified the token already, and taken it out.
            Presented::Nothing => match exchange.extension::<VerifiedToken>() {
                Some(token) => (token.scheme(), Cow::Owned(token.expose().to_owned())),
                None if rules.optional => return Verdict::Continue,
                None => return rules.missing("no Authorization header", request, exchange),
            },
        };
        let Some(issuer) = rules.choose(&token, exchange) else {
            return rules.deny(reason::TOKEN_ISSUER_MISMATCH, scheme, request, exchange);
        };
        let issuer = Arc::clone(issuer);
        match issuer.verify_bound(&token, rules.id_tokens, exchange) {
            Verification::Verified(verified) => {
                let token = VerifiedToken::new(token.into_owned(), scheme);
                rules.finish(&verified, token, request, exchange)
            }
            Verification::Refused(reason) => rules.deny(reason, scheme, request, exchange),
            Verification::Wait(keys) => {
                let (rules, token) = (Arc::clone(rules), VerifiedToken::new(token.into_owned(), scheme));
                Verdict::wait(async move {
                    let obtained = keys.await;
                    let resume: Resume = Box::new(move |request, exchange| {
                        match issuer.verify_bound_after_wait(token.expose(), rules.id_tokens, obtained, exchange) {
                            Ok(verified) => rules.finish(&verified, token, request, exchange),
                            Err(reason) => rules.deny(reason, scheme, request, exchange),
                        }
                    });
                    resume
                })
            }
        }
    }

    /// The next nonce, once the client's is about to end (RFC 9449, section 8.2).
    fn response(&self, response: &mut ResponseHead, exchange: &mut Exchange) -> Verdict {
        if self.0.sender.gives_nonces()
            && let Some(NonceDue(nonce)) = exchange.extension::<NonceDue>()
        {
            // A response without room for it goes out without: the client is told again with its next request.
            let _ = response.headers_mut().set("dpop-nonce", nonce);
        }
        Verdict::Continue
    }

    fn credential(&self, request: &RequestHead, exchange: &Exchange) -> Credential {
        match bearer::read(request.headers()) {
            // With a proof that is not looked at here, it is nothing this filter can judge.
            Presented::Token(TokenScheme::Dpop, _) if self.0.sender.dpop().is_none() => Credential::Absent,
            Presented::Token(..) | Presented::Malformed(_) => Credential::Present,
            Presented::Nothing if exchange.extension::<VerifiedToken>().is_some() => Credential::Present,
            Presented::Nothing | Presented::OtherScheme(_) => Credential::Absent,
        }
    }

    fn withhold(&self, request: &mut RequestHead) -> Result<(), FilterError> {
        bearer::remove(request.headers_mut());
        if self.0.sender.dpop().is_some() {
            request.headers_mut().remove("dpop");
        }
        Ok(())
    }

    fn needs(&self) -> Needs {
        let rules = &self.0;
        let names: Vec<&str> = rules.issuers.iter().map(|issuer| &**issuer.name()).collect();
        let mut parts = vec![names.join(", ")];
        parts.extend((!rules.scope.is_empty()).then(|| rules.scope.clone()));
        parts.extend((!rules.roles.is_empty()).then(|| format!("role {}", rules.roles.join(" or "))));
        parts.extend((!rules.claims.is_empty()).then(|| format!("{} claims", rules.claims.len())));
        parts.extend(rules.sender.summary());
        parts.extend((rules.id_tokens == IdTokens::Accepted).then(|| "ID tokens too".to_owned()));
        parts.extend(rules.optional.then(|| "optional".to_owned()));
        Needs {
            authenticates: !rules.optional,
            may_authenticate: true,
            requires_certificate: !rules.optional && rules.sender.requires_certificate(),
            combines: !rules.optional && !rules.sender.gives_nonces(),
            summary: Some(format!("token({})", parts.join("; "))),
            ..Needs::default()
        }
    }
}

impl Rules {
    /// Who judges the token. A single issuer judges every token. A token whose `iss` cannot be read goes to the one that
    /// can be asked about it, or to the first, which says what is wrong with it.
    fn choose(&self, token: &str, exchange: &mut Exchange) -> Option<&Arc<Issuer>> {
        let first = self.issuers.first()?;
        if self.issuers.len() == 1 {
            return Some(first);
        }
        // Of a token that comes again, its issuer has the whole text: reading it once more would find the same one.
        if let Some(known) = self.known.as_ref().and_then(|issuers| issuers.who_knows(token, exchange))
            // One that stands for many tenants comes after a tenant's own, which it knows nothing of.
            && !known.is_template()
            && let Some(mine) = self.issuers.iter().find(|issuer| Arc::ptr_eq(issuer, known))
        {
            return Some(mine);
        }
        let Some(named) = unverified_issuer(token) else {
            return self.issuers.iter().find(|issuer| issuer.introspects()).or(Some(first));
        };
        // One tenant's own issuer comes before one that stands for many.
        let exact = self.issuers.iter().find(|issuer| **issuer.identifier() == *named);
        let chosen = exact.or_else(|| self.issuers.iter().find(|issuer| issuer.is_named(&named)));
        exchange.check("issuer", reason::TOKEN_ISSUER_MISMATCH, chosen.is_some(), || {
            let known = self.issuers.iter().map(|issuer| issuer.identifier());
            let observed: String = named.chars().filter(|c| !c.is_control()).take(200).collect();
            let finding = Finding::new(format!("one of {}", crate::text::first_few(known, self.issuers.len())), observed);
            match chosen.is_none().then(|| nearest_issuer(&self.issuers, &named)).flatten() {
                Some(hint) => finding.hint(hint),
                None => finding,
            }
        });
        chosen
    }

    /// The token is good; is it good enough for this route? Everything is looked at, and the first that fails is the
    /// reason.
    fn finish(
        &self,
        verified: &portcullis_identity::VerifiedToken,
        token: VerifiedToken,
        request: &mut RequestHead,
        exchange: &mut Exchange,
    ) -> Verdict {
        // Who cannot prove that the token is theirs learns nothing of what it grants.
        if let Err(reason) = self.sender.judge(verified.binding(), &token, request, exchange) {
            return self.deny(reason, token.scheme(), request, exchange);
        }
        let principal = verified.principal();
        let mut first: Option<ReasonCode> = None;
        let mut ask = |check, reason, ok, finding: &dyn Fn() -> Finding| {
            if !exchange.check(check, reason, ok, finding) {
                first.get_or_insert(reason);
            }
        };
        if !self.audiences.is_empty() {
            let ok = verified.audiences().any(|audience| self.audiences.iter().any(|expected| expected == audience));
            ask("route_audience", reason::TOKEN_AUDIENCE_MISMATCH, ok, &|| {
                let named: Vec<&str> = verified.audiences().collect();
                let expected = crate::text::first_few(&self.audiences, self.audiences.len());
                Finding::new(format!("`aud` one of {expected}"), crate::text::first_few(&named, named.len()))
            });
        }
        if !self.scopes.is_empty() {
            let missing: Vec<&String> = self.scopes.iter().filter(|scope| !has(&principal.scopes, scope)).collect();
            ask("scope", reason::TOKEN_SCOPE_MISSING, missing.is_empty(), &|| {
                grants::missing(Grant::Scope, format!("all of {}", self.scope), &missing, principal, self.issuer_of(principal))
            });
        }
        if !self.roles.is_empty() {
            let ok = self.roles.iter().any(|role| has(&principal.roles, role));
            ask("role", reason::TOKEN_ROLE_MISSING, ok, &|| {
                let expected = format!("one of {}", crate::text::first_few(&self.roles, self.roles.len()));
                let wanted: Vec<&String> = if ok { Vec::new() } else { self.roles.iter().collect() };
                grants::missing(Grant::Role, expected, &wanted, principal, self.issuer_of(principal))
            });
        }
        for rule in &self.claims {
            ask("claim", reason::TOKEN_CLAIM_MISMATCH, rule.holds(&principal.claims), &|| {
                let finding = Finding::new(rule.expected.as_str(), rule.observed(&principal.claims));
                match rule.is_of("groups") && verified.groups_unknown() {
                    true => finding.hint(crate::text::GROUPS_UNKNOWN),
                    false => finding,
                }
            });
        }
        if let Some(reason) = first {
            return self.deny(reason, token.scheme(), request, exchange);
        }
        exchange.set_principal(Arc::clone(principal));
        // From here on nobody sees the token but who is given it: see `identity_headers.forward_token`.
        request.headers_mut().remove("authorization");
        if self.sender.dpop().is_some() {
            request.headers_mut().remove("dpop");
        }
        exchange.insert_extension(token);
        Verdict::Continue
    }

    fn issuer_of(&self, principal: &Principal) -> Option<&Arc<Issuer>> {
        let named = principal.issuer.as_deref()?;
        self.issuers.iter().find(|issuer| issuer.is_named(named))
    }

    fn missing(&self, observed: &'static str, request: &RequestHead, exchange: &mut Exchange) -> Verdict {
        exchange.check("token", reason::TOKEN_MISSING, false, || {
            let finding = Finding::new("`Authorization: Bearer` with a token", observed);
            match bearer::elsewhere(request) {
                Some(place) => {
                    finding.hint(format!("a token was found in {place}; it is read from `Authorization: Bearer` only"))
                }
                None if observed == bearer::API_KEY_SCHEME => {
                    finding.hint("an API key is no token: the client sends a token, or the route has an `api_key` filter")
                }
                None if request.headers().contains("dpop") && self.sender.dpop().is_none() => {
                    finding.hint("this route checks no DPoP proofs; set `binding: { dpop: {} }` on its oidc filter")
                }
                None => finding,
            }
        });
        self.deny(reason::TOKEN_MISSING, TokenScheme::Bearer, request, exchange)
    }

    /// What the client learns of a refusal. `scheme` is how it sent its token.
    fn deny(&self, reason: ReasonCode, scheme: TokenScheme, request: &RequestHead, exchange: &Exchange) -> Verdict {
        let denial = Denial::new(reason);
        let (error, scope) = match denial.status_code() {
            503 => return Verdict::Deny(denial.header("retry-after", RETRY_AFTER)),
            403 => {
                let scope = (reason == reason::TOKEN_SCOPE_MISSING).then_some(self.scope.as_str());
                (Some(("insufficient_scope", "The token does not grant access to this")), scope)
            }
            _ if reason == reason::TOKEN_MISSING => (None, None),
            _ if reason == reason::TOKEN_EXPIRED => (Some(("invalid_token", "The token has expired")), None),
            _ if reason == reason::DPOP_NONCE_REQUIRED => (Some(("use_dpop_nonce", "The proof needs a nonce from here")), None),
            _ if reason == reason::DPOP_PROOF_INVALID || reason == reason::DPOP_REPLAY => {
                (Some(("invalid_dpop_proof", "The proof is not valid for this request")), None)
            }
            _ => (Some(("invalid_token", "The token is not valid here")), None),
        };
        let challenge = Challenge { scheme, realm: request.host(), error, scope, algs: None };
        Verdict::Deny(self.sender.challenge(denial, challenge, exchange.now()))
    }
}

fn has(granted: &[Arc<str>], wanted: &str) -> bool {
    granted.iter().any(|granted| **granted == *wanted)
}

/// The `iss` of a token nobody has verified: only good for choosing who verifies it.
fn unverified_issuer(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Claims {
        iss: String,
    }
    let payload = token.split('.').nth(1)?;
    let bytes = URL_SAFE_NO_PAD.decode(payload).ok()?;
    serde_json::from_slice::<Claims>(&bytes).ok().map(|claims| claims.iss)
}

#[cfg(test)]
#[path = "oidc_tests.rs"]
mod tests;
