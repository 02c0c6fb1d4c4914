//! Verifies bearer tokens, and asks for scopes, roles and claims.
//!
//! ```yaml
//! - oidc: { issuer: main, scopes: ["api:read"], roles: [orders-admin, orders-user], claims: { tenant: acme } }
//! ```
//!
//! The token is taken from `Authorization: Bearer` and from nowhere else: one in the query, a cookie or another header
//! is not looked at, and the refusal's hint says where it was found. With several issuers, the token's `iss` says which
//! of them judges it; nothing else of a token is believed before its signature is verified.
//!
//! Once verified, the token is taken out of the request, so that upstreams do not get it; a route that needs it there
//! says `identity_headers: { forward_token: true }`. The caller becomes the principal (method `bearer`).
//!
//! With `optional: true`, a request without an `Authorization` header passes without a principal. Any header that is
//! there must hold a good token.
//!
//! An issuer whose keys cannot be had gives 503 with `Retry-After`, never 401.

use crate::bearer::{self, Challenge, Presented, VerifiedToken};
use crate::claim_rule::{AnyOf, ClaimRule};
use crate::text::given;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis_identity::{Issuer, Issuers, Verification};
use portcullis_plugin::error::unknown_name;
use portcullis_plugin::units::OneOrMany;
use portcullis_plugin::{
    Build, ConfigError, Credential, Denial, Env, Exchange, Filter, FilterError, Finding, Needs, Principal, ReasonCode,
    RequestHead, Resume, Verdict, reason,
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
    /// Let requests without any `Authorization` header pass, without a principal. Default: false.
    #[serde(default)]
    pub optional: bool,
}

pub struct Oidc(Arc<Rules>);

/// Shared with the requests that wait for keys.
struct Rules {
    /// At least one, and no two with the same identifier.
    issuers: Vec<Arc<Issuer>>,
    scopes: Vec<String>,
    /// The scopes as a challenge names them.
    scope: String,
    roles: Vec<String>,
    claims: Vec<ClaimRule>,
    audiences: Vec<String>,
    optional: bool,
}

impl Build for Oidc {
    const NAME: &'static str = "oidc";
    const EXAMPLE: &'static str = "{ issuer: main, scopes: [\"api:read\"] }";
    type Config = Config;

    fn build(config: Config, env: &Env) -> Result<Self, ConfigError> {
        let Config { issuer, scopes, roles, claims, audiences, optional } = config;
        let issuers = find_issuers(&issuer, env.service::<Issuers>().as_deref())?;
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
            scope: scopes.join(" "),
            scopes,
            roles: list("roles", roles)?,
            claims: rules,
            audiences: list("audiences", audiences)?,
            optional,
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
        let issuer = issuers
            .and_then(|issuers| issuers.get(name))
            .ok_or_else(|| here(unknown_name("issuer", name, issuers.into_iter().flat_map(Issuers::names))))?;
        if let Some(twin) = found.iter().find(|other| other.identifier() == issuer.identifier()) {
            return Err(here(
                ConfigError::new(format!("`{name}` and `{}` are the same issuer, {}", twin.name(), issuer.identifier()))
                    .help("a token's `iss` could not tell which of them should judge it"),
            ));
        }
        found.push(issuer);
    }
    Ok(found)
}

impl Filter for Oidc {
    fn request(&self, request: &mut RequestHead, exchange: &mut Exchange) -> Verdict {
        let rules = &self.0;
        let token = match bearer::read(request.headers()) {
            Presented::Token(token) => Cow::Borrowed(token),
            Presented::Malformed(what) => {
                exchange.check("form", reason::TOKEN_MALFORMED, false, || {
                    Finding::new("one `Authorization: Bearer` with one token", what)
                });
                return rules.deny(reason::TOKEN_MALFORMED, request);
            }
            Presented::OtherScheme(what) => return rules.missing(what, request, exchange),
            // A filter of the listener may have verified the token already, and taken it out.
            Presented::Nothing => match exchange.extension::<VerifiedToken>() {
                Some(token) => Cow::Owned(token.expose().to_owned()),
                None if rules.optional => return Verdict::Continue,
                None => return rules.missing("no Authorization header", request, exchange),
            },
        };
        let Some(issuer) = rules.choose(&token, exchange) else { return rules.deny(reason::TOKEN_ISSUER_MISMATCH, request) };
        let issuer = Arc::clone(issuer);
        match issuer.verify(&token, exchange) {
            Verification::Verified(verified) => {
                let token = token.into_owned();
                rules.finish(&verified, token, request, exchange)
            }
            Verification::Refused(reason) => rules.deny(reason, request),
            Verification::Wait(keys) => {
                let (rules, token) = (Arc::clone(rules), token.into_owned());
                Verdict::wait(async move {
                    keys.await;
                    let resume: Resume = Box::new(move |request, exchange| match issuer.verify_after_wait(&token, exchange) {
                        Ok(verified) => rules.finish(&verified, token, request, exchange),
                        Err(reason) => rules.deny(reason, request),
                    });
                    resume
                })
            }
        }
    }

    fn credential(&self, request: &RequestHead, exchange: &Exchange) -> Credential {
        match bearer::read(request.headers()) {
            Presented::Token(_) | Presented::Malformed(_) => Credential::Present,
            Presented::Nothing if exchange.extension::<VerifiedToken>().is_some() => Credential::Present,
            Presented::Nothing | Presented::OtherScheme(_) => Credential::Absent,
        }
    }

    fn withhold(&self, request: &mut RequestHead) -> Result<(), FilterError> {
        bearer::remove(request.headers_mut());
        Ok(())
    }

    fn needs(&self) -> Needs {
        let rules = &self.0;
        let names: Vec<&str> = rules.issuers.iter().map(|issuer| &**issuer.name()).collect();
        let mut parts = vec![names.join(", ")];
        parts.extend((!rules.scope.is_empty()).then(|| rules.scope.clone()));
        parts.extend((!rules.roles.is_empty()).then(|| format!("role {}", rules.roles.join(" or "))));
        parts.extend((!rules.claims.is_empty()).then(|| format!("{} claims", rules.claims.len())));
        parts.extend(rules.optional.then(|| "optional".to_owned()));
        Needs {
            authenticates: !rules.optional,
            combines: !rules.optional,
            summary: Some(format!("token({})", parts.join("; "))),
            ..Needs::default()
        }
    }
}

impl Rules {
    /// Who judges the token. A single issuer judges every token. A token whose `iss` cannot be read goes to the first,
    /// which says what is wrong with it.
    fn choose(&self, token: &str, exchange: &mut Exchange) -> Option<&Arc<Issuer>> {
        let first = self.issuers.first()?;
        if self.issuers.len() == 1 {
            return Some(first);
        }
        let Some(named) = unverified_issuer(token) else { return Some(first) };
        let chosen = self.issuers.iter().find(|issuer| **issuer.identifier() == *named);
        exchange.check("issuer", reason::TOKEN_ISSUER_MISMATCH, chosen.is_some(), || {
            let known = self.issuers.iter().map(|issuer| issuer.identifier());
            let observed: String = named.chars().filter(|c| !c.is_control()).take(200).collect();
            Finding::new(format!("one of {}", crate::text::first_few(known, self.issuers.len())), observed)
        });
        chosen
    }

    /// The token is good; is it good enough for this route? Everything is looked at, and the first that fails is the
    /// reason.
    fn finish(
        &self,
        verified: &portcullis_identity::VerifiedToken,
        token: String,
        request: &mut RequestHead,
        exchange: &mut Exchange,
    ) -> Verdict {
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
                let observed = crate::text::first_few(&principal.scopes, principal.scopes.len());
                Finding::new(format!("all of {}", self.scope), observed)
            });
        }
        if !self.roles.is_empty() {
            let ok = self.roles.iter().any(|role| has(&principal.roles, role));
            ask("role", reason::TOKEN_ROLE_MISSING, ok, &|| role_finding(&self.roles, principal));
        }
        for rule in &self.claims {
            ask("claim", reason::TOKEN_CLAIM_MISMATCH, rule.holds(&principal.claims), &|| {
                Finding::new(rule.expected.as_str(), rule.observed(&principal.claims))
            });
        }
        if let Some(reason) = first {
            return self.deny(reason, request);
        }
        exchange.set_principal(Arc::clone(principal));
        // From here on nobody sees the token but who is given it: see `identity_headers.forward_token`.
        request.headers_mut().remove("authorization");
        exchange.insert_extension(VerifiedToken::new(token));
        Verdict::Continue
    }

    fn missing(&self, observed: &'static str, request: &RequestHead, exchange: &mut Exchange) -> Verdict {
        exchange.check("token", reason::TOKEN_MISSING, false, || {
            let finding = Finding::new("`Authorization: Bearer` with a token", observed);
            match bearer::elsewhere(request) {
                Some(place) => {
                    finding.hint(format!("a token was found in {place}; it is read from `Authorization: Bearer` only"))
                }
                None => finding,
            }
        });
        self.deny(reason::TOKEN_MISSING, request)
    }

    /// What the client learns of a refusal.
    fn deny(&self, reason: ReasonCode, request: &RequestHead) -> Verdict {
        let denial = Denial::new(reason);
        let realm = request.host();
        let challenge = match denial.status_code() {
            503 => return Verdict::Deny(denial.header("retry-after", RETRY_AFTER)),
            403 => {
                let scope = (reason == reason::TOKEN_SCOPE_MISSING).then_some(self.scope.as_str());
                Challenge { realm, error: Some(("insufficient_scope", "The token does not grant access to this")), scope }
            }
            _ if reason == reason::TOKEN_MISSING => Challenge { realm, error: None, scope: None },
            _ if reason == reason::TOKEN_EXPIRED => {
                Challenge { realm, error: Some(("invalid_token", "The token has expired")), scope: None }
            }
            _ => Challenge { realm, error: Some(("invalid_token", "The token is not valid here")), scope: None },
        };
        Verdict::Deny(denial.header("www-authenticate", challenge.to_string()))
    }
}

fn has(granted: &[Arc<str>], wanted: &str) -> bool {
    granted.iter().any(|granted| **granted == *wanted)
}

fn role_finding(roles: &[String], principal: &Principal) -> Finding {
    let finding = Finding::new(
        format!("one of {}", crate::text::first_few(roles, roles.len())),
        crate::text::first_few(&principal.roles, principal.roles.len()),
    );
    if principal.roles.is_empty() {
        finding.hint("the token has no roles; see the issuer's `kind` and `claims.roles`")
    } else {
        finding
    }
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
