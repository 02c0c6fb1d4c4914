//! Whose tier or override it is.
//!
//! Only what was verified decides: facts of the principal, never what a request says of itself. Names are unique for their
//! issuer alone, and each issuer may give its own callers any claim. So where a configuration has several issuers, a tier
//! or an override says whose word counts.

use crate::claim_rule::{AnyOf, ClaimRule};
use crate::text::{first_few, given};
use portcullis_identity::{Issuer, Issuers};
use portcullis_plugin::error::unknown_name;
use portcullis_plugin::units::OneOrMany;
use portcullis_plugin::{ConfigError, Env, Principal};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What must be true of a verified caller: every key that is there.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct When {
    /// Issuers, by their names in `issuers`, of which one must have issued the caller's token. Needed where several issuers
    /// are configured, unless `owner` or `verified_by` leaves tokens out.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "OneOrMany<String>")]
    pub issuer: Option<OneOrMany<String>>,
    /// By what the caller was verified: `bearer`, `certificate` or `api_key`.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "VerifiedBy")]
    pub verified_by: Option<VerifiedBy>,
    /// Claims, each with a value or a list of which one must be there, such as `plan: gold`; `a.b` is the member `b` of `a`.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "BTreeMap<String, AnyOf>")]
    pub claims: Option<BTreeMap<String, AnyOf>>,
    /// Scopes that the caller must have, all of them.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "OneOrMany<String>")]
    pub scopes: Option<OneOrMany<String>>,
    /// Roles of which the caller must have at least one.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "OneOrMany<String>")]
    pub roles: Option<OneOrMany<String>>,
    /// Groups of which the caller must be in at least one.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "OneOrMany<String>")]
    pub groups: Option<OneOrMany<String>>,
    /// Client applications of which the caller must be one.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "OneOrMany<String>")]
    pub client_id: Option<OneOrMany<String>>,
    /// Owners of API keys, of which the key must have one.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "OneOrMany<String>")]
    pub owner: Option<OneOrMany<String>>,
    /// Only there to be refused with a reason.
    #[serde(default, rename = "header", alias = "headers", alias = "query", deserialize_with = "unverified")]
    #[schemars(skip)]
    pub unverified: (),
}

fn unverified<'de, D: serde::Deserializer<'de>>(_: D) -> Result<(), D::Error> {
    Err(serde::de::Error::custom(
        "a header or parameter is what the caller says, and would let it choose its tier; use what is verified: claims, scopes, \
         roles, groups, client_id, owner",
    ))
}

/// How a caller was verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum VerifiedBy {
    /// By a token.
    Bearer,
    /// By a client certificate.
    Certificate,
    /// By an API key.
    ApiKey,
}

impl VerifiedBy {
    fn is(self, principal: &Principal) -> bool {
        principal.method
            == match self {
                Self::Bearer => "bearer",
                Self::Certificate => "certificate",
                Self::ApiKey => "api_key",
            }
    }
}

/// Who vouches for a caller. Empty: whoever the route trusts.
#[derive(Default)]
pub(crate) struct Voucher {
    issuers: Vec<Arc<Issuer>>,
    verified_by: Option<VerifiedBy>,
}

impl Voucher {
    /// `about_principal`: whether it matters who says it.
    pub(crate) fn compile(
        issuer: Option<OneOrMany<String>>,
        verified_by: Option<VerifiedBy>,
        about_principal: bool,
        env: &Env,
    ) -> Result<Self, ConfigError> {
        let all = env.service::<Issuers>();
        let tokens = matches!(verified_by, None | Some(VerifiedBy::Bearer));
        let Some(OneOrMany(names)) = issuer else {
            let known: BTreeSet<&str> = all.iter().flat_map(|all| all.iter()).map(|issuer| &**issuer.identifier()).collect();
            if about_principal && tokens && known.len() > 1 {
                let names: Vec<&str> = all.iter().flat_map(|all| all.names()).collect();
                return Err(ConfigError::new("there are several issuers, and each may say this of its own callers").help(
                    format!(
                        "say whose word counts, such as `issuer: {}` of {}; or `verified_by: api_key` or `certificate`",
                        names.first().unwrap_or(&""),
                        first_few(&names, names.len())
                    ),
                ));
            }
            return Ok(Self { issuers: Vec::new(), verified_by });
        };
        if !tokens {
            return Err(ConfigError::new("only tokens have an issuer").help("leave `issuer` out, or the rest").at("issuer"));
        }
        if names.is_empty() {
            return Err(ConfigError::new("the list is empty, so nobody could vouch").at("issuer"));
        }
        let find = |(at, name): (usize, &String)| {
            let found = all.as_ref().and_then(|all| all.get(name));
            found.ok_or_else(|| {
                let error = unknown_name("issuer", name, all.iter().flat_map(|all| all.names()));
                let error = if all.is_none() { error.follows("issuers") } else { error };
                if names.len() > 1 { error.at(at).at("issuer") } else { error.at("issuer") }
            })
        };
        let issuers = names.iter().enumerate().map(find).collect::<Result<_, _>>()?;
        Ok(Self { issuers, verified_by: Some(VerifiedBy::Bearer) })
    }

    pub(crate) fn holds(&self, principal: Option<&Principal>) -> bool {
        let Some(verified_by) = self.verified_by else { return true };
        let Some(principal) = principal.filter(|principal| verified_by.is(principal)) else { return false };
        let named = |issuer: &Arc<Issuer>| principal.issuer.as_deref().is_some_and(|iss| issuer.is_named(iss));
        self.issuers.is_empty() || self.issuers.iter().any(named)
    }

    /// Whether some caller could be of both.
    pub(crate) fn meets(&self, other: &Self) -> bool {
        let methods = self.verified_by.is_none() || other.verified_by.is_none() || self.verified_by == other.verified_by;
        let same = |a: &Arc<Issuer>| other.issuers.iter().any(|b| a.identifier() == b.identifier());
        methods && (self.issuers.is_empty() || other.issuers.is_empty() || self.issuers.iter().any(same))
    }
}

/// A tier's condition.
pub(crate) struct Condition {
    voucher: Voucher,
    claims: Vec<ClaimRule>,
    scopes: Vec<String>,
    roles: Vec<String>,
    groups: Vec<String>,
    client_ids: Vec<String>,
}

impl Condition {
    pub(crate) fn compile(when: When, env: &Env) -> Result<Self, ConfigError> {
        let When { issuer, verified_by, claims, scopes, roles, groups, client_id, owner, unverified: () } = when;
        let asks_nothing = claims.is_none() && scopes.is_none() && roles.is_none() && groups.is_none();
        if asks_nothing && client_id.is_none() && owner.is_none() && issuer.is_none() && verified_by.is_none() {
            return Err(ConfigError::new("the condition asks for nothing, so it would hold for everybody")
                .help("the limits of everybody else stand outside of `tiers`"));
        }
        let verified_by = match (&owner, verified_by) {
            (Some(_), None | Some(VerifiedBy::ApiKey)) => Some(VerifiedBy::ApiKey),
            (Some(_), Some(_)) => return Err(ConfigError::new("only API keys have an owner").at("owner")),
            (None, verified_by) => verified_by,
        };
        if owner.is_some() && client_id.is_some() {
            return Err(ConfigError::new("the client id of an API key is its owner")
                .help("leave one of both out")
                .at("client_id"));
        }
        let mut rules = Vec::new();
        for (name, values) in claims.unwrap_or_default() {
            let here = |error: ConfigError| error.at(name.as_str()).at("claims");
            if values.is_empty() {
                return Err(here(ConfigError::new("the list is empty, so no claim could match").help("name at least one value")));
            }
            rules.push(ClaimRule::new(name.clone(), values).ok_or_else(|| here(ConfigError::new("an empty claim name")))?);
        }
        Ok(Self {
            voucher: Voucher::compile(issuer, verified_by, true, env)?,
            claims: rules,
            scopes: names("scopes", scopes)?,
            roles: names("roles", roles)?,
            groups: names("groups", groups)?,
            // The owner of an API key is its client id, and nothing else can be: see the voucher.
            client_ids: match owner.is_some() {
                true => names("owner", owner)?,
                false => names("client_id", client_id)?,
            },
        })
    }

    pub(crate) fn holds(&self, principal: &Principal) -> bool {
        let has = |all: &[Arc<str>], wanted: &String| all.iter().any(|one| **one == **wanted);
        let one_of = |all: &[Arc<str>], wanted: &[String]| wanted.is_empty() || wanted.iter().any(|wanted| has(all, wanted));
        self.voucher.holds(Some(principal))
            && self.claims.iter().all(|rule| rule.holds(&principal.claims))
            && self.scopes.iter().all(|scope| has(&principal.scopes, scope))
            && one_of(&principal.roles, &self.roles)
            && one_of(&principal.groups, &self.groups)
            && (self.client_ids.is_empty()
                || principal.client_id.as_deref().is_some_and(|id| self.client_ids.iter().any(|one| one == id)))
    }
}

fn names(key: &'static str, values: Option<OneOrMany<String>>) -> Result<Vec<String>, ConfigError> {
    match values {
        Some(OneOrMany(values)) if values.is_empty() => {
            Err(ConfigError::new("the list is empty").help("name at least one, or leave the key out").at(key))
        }
        Some(OneOrMany(values)) => Ok(values),
        None => Ok(Vec::new()),
    }
}
