//! Which callers have other limits than the rest: those of a tier, and single keys.
//!
//! Only what was verified decides: facts of the principal, never what a request says of itself. Names are unique for their
//! issuer alone, and each issuer may give its own callers any claim. So where a configuration has several issuers, a tier
//! or an override says whose word counts.

use crate::calendar::CalendarQuota;
use crate::claim_rule::{AnyOf, ClaimRule};
use crate::rate_amount::{Amount, Rate, Written};
use crate::rate_key::{KeySource, Keys};
use crate::text::{first_few, given};
use portcullis_identity::{Issuer, Issuers};
use portcullis_plugin::attribute::{AttributeValue, CertificateAttribute};
use portcullis_plugin::error::unknown_name;
use portcullis_plugin::units::OneOrMany;
use portcullis_plugin::{Attribute, ConfigError, Env, Exchange, Principal};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

const MAX_TIERS: usize = 64;
const MAX_OVERRIDES: usize = 100_000;

/// Callers with limits of their own.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tier {
    /// What it is called in findings.
    pub name: String,
    /// Whose tier it is.
    pub when: When,
    /// As `rate` outside of `tiers`. Default: that one.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Rate")]
    pub rate: Option<Rate>,
    /// As `burst` outside of `tiers`, for the `rate` beside it.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "u32")]
    pub burst: Option<u32>,
    /// As `quota` outside of `tiers`. Default: that one.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "CalendarQuota")]
    pub quota: Option<CalendarQuota>,
}

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

/// One key with limits of its own.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// The value of the filter's `key`, to the letter; if that is a list, as many values in its order.
    pub key: OneOrMany<String>,
    /// As in a tier's `when`.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "OneOrMany<String>")]
    pub issuer: Option<OneOrMany<String>>,
    /// As in a tier's `when`.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "VerifiedBy")]
    pub verified_by: Option<VerifiedBy>,
    /// As in a tier.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Rate")]
    pub rate: Option<Rate>,
    /// As in a tier.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "u32")]
    pub burst: Option<u32>,
    /// As in a tier.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "CalendarQuota")]
    pub quota: Option<CalendarQuota>,
}

/// Who vouches for a caller. Empty: whoever the route trusts.
#[derive(Default)]
struct Voucher {
    issuers: Vec<Arc<Issuer>>,
    verified_by: Option<VerifiedBy>,
}

impl Voucher {
    /// `about_principal`: whether it matters who says it.
    fn compile(
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
                return Err(ConfigError::new("there are several issuers, and each may say this of its own callers").help(format!(
                    "say whose word counts, such as `issuer: {}` of {}; or `verified_by: api_key` or `certificate`",
                    names.first().unwrap_or(&""),
                    first_few(&names, names.len())
                )));
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
                if names.len() > 1 { error.at(at).at("issuer") } else { error.at("issuer") }
            })
        };
        let issuers = names.iter().enumerate().map(find).collect::<Result<_, _>>()?;
        Ok(Self { issuers, verified_by: Some(VerifiedBy::Bearer) })
    }

    fn holds(&self, principal: Option<&Principal>) -> bool {
        let Some(verified_by) = self.verified_by else { return true };
        let Some(principal) = principal.filter(|principal| verified_by.is(principal)) else { return false };
        let named = |issuer: &Arc<Issuer>| principal.issuer.as_deref().is_some_and(|iss| issuer.is_named(iss));
        self.issuers.is_empty() || self.issuers.iter().any(named)
    }

    /// Whether some caller could be of both.
    fn meets(&self, other: &Self) -> bool {
        let methods = self.verified_by.is_none() || other.verified_by.is_none() || self.verified_by == other.verified_by;
        let same = |a: &Arc<Issuer>| other.issuers.iter().any(|b| a.identifier() == b.identifier());
        methods && (self.issuers.is_empty() || other.issuers.is_empty() || self.issuers.iter().any(same))
    }
}

/// A tier's condition.
struct Condition {
    voucher: Voucher,
    claims: Vec<ClaimRule>,
    scopes: Vec<String>,
    roles: Vec<String>,
    groups: Vec<String>,
    client_ids: Vec<String>,
}

impl Condition {
    fn compile(when: When, env: &Env) -> Result<Self, ConfigError> {
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
            return Err(ConfigError::new("the client id of an API key is its owner").help("leave one of both out").at("client_id"));
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

    fn holds(&self, principal: &Principal) -> bool {
        let has = |all: &[Arc<str>], wanted: &String| all.iter().any(|one| **one == **wanted);
        let one_of = |all: &[Arc<str>], wanted: &[String]| wanted.is_empty() || wanted.iter().any(|wanted| has(all, wanted));
        self.voucher.holds(Some(principal))
            && self.claims.iter().all(|rule| rule.holds(&principal.claims))
            && self.scopes.iter().all(|scope| has(&principal.scopes, scope))
            && one_of(&principal.roles, &self.roles)
            && one_of(&principal.groups, &self.groups)
            && (self.client_ids.is_empty() || principal.client_id.as_deref().is_some_and(|id| self.client_ids.iter().any(|one| one == id)))
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

/// One part of a key that has limits of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    Network(IpAddr),
}

impl Part {
    fn compile(source: &KeySource, text: String, keys: &Keys) -> Result<Self, ConfigError> {
        use Attribute::{Groups, Roles};
        use CertificateAttribute::{SanDns, SanEmail, SanUri};
        match source {
            KeySource::Client => {
                let address: IpAddr = text.parse().map_err(|_| {
                    ConfigError::new(format!("`{text}` is not an address")).help("this part of the key is `client`: write one such as 192.0.2.7")
                })?;
                Ok(Self::Network(keys.network(address.to_canonical())))
            }
            KeySource::Header(_) => Err(ConfigError::new("a header is what the caller says, and would let it choose its limits")
                .help("count by something that is verified, such as principal.client_id")),
            KeySource::Route => Err(ConfigError::new("`route` has no values: all requests are counted together")),
            KeySource::Identity(Roles | Groups | Attribute::Certificate(SanDns | SanUri | SanEmail)) => {
                Err(ConfigError::new(format!("`{source}` is a list, and has no single value")))
            }
            KeySource::Identity(_) if text.is_empty() => Err(ConfigError::new("an empty value")),
            KeySource::Identity(_) => Ok(Self::Text(text.into())),
        }
    }

    fn is(&self, source: &KeySource, keys: &Keys, exchange: &Exchange) -> bool {
        match (self, source) {
            (Self::Network(network), KeySource::Client) => keys.network(exchange.client()) == *network,
            (Self::Text(text), KeySource::Identity(attribute)) => {
                matches!(attribute.read(exchange), Some(AttributeValue::One(value)) if *value == **text)
            }
            _ => false,
        }
    }
}

struct Single {
    /// All parts but the first, which led here.
    rest: Vec<Part>,
    voucher: Voucher,
    at: usize,
}

/// By the first part of the key: found without making anything for it.
#[derive(Default)]
struct Singles {
    texts: HashMap<Box<str>, Vec<Single>, ahash::RandomState>,
    networks: HashMap<IpAddr, Vec<Single>, ahash::RandomState>,
}

/// All limits of a filter, and whose they are.
pub(crate) struct Amounts {
    /// That of everybody else is the first.
    all: Vec<Amount>,
    singles: Singles,
    tiers: Vec<(Condition, usize)>,
}

impl Amounts {
    pub(crate) fn compile(
        written: Written,
        tiers: Option<Vec<Tier>>,
        overrides: Option<Vec<Override>>,
        keys: &Keys,
        env: &Env,
    ) -> Result<Self, ConfigError> {
        let alone = tiers.is_none() && overrides.is_none();
        let default = Amount::compile(written, None, keys, if alone { "" } else { " (no tier)" }.to_owned())?;
        let mut amounts = Self { all: vec![default], singles: Singles::default(), tiers: Vec::new() };
        for (key, length, most) in
            [("tiers", tiers.as_ref().map(Vec::len), MAX_TIERS), ("overrides", overrides.as_ref().map(Vec::len), MAX_OVERRIDES)]
        {
            match length {
                Some(0) => return Err(ConfigError::new("the list is empty").help("leave the key out").at(key)),
                Some(length) if length > most => return Err(ConfigError::new(format!("more than {most}")).at(key)),
                _ => {}
            }
        }
        let mut known = BTreeSet::new();
        for (at, tier) in tiers.into_iter().flatten().enumerate() {
            let here = |error: ConfigError| error.at(at).at("tiers");
            if tier.name.is_empty() || tier.name.len() > 64 || tier.name.chars().any(char::is_control) {
                return Err(here(ConfigError::new("a tier's name has 1 to 64 characters").at("name")));
            }
            if !known.insert(tier.name.clone()) {
                return Err(here(ConfigError::new(format!("another tier is called `{}` too", tier.name)).at("name")));
            }
            amounts.add_tier(tier, keys, env).map_err(here)?;
        }
        for (at, single) in overrides.into_iter().flatten().enumerate() {
            amounts.add_single(single, keys, env).map_err(|error| error.at(at).at("overrides"))?;
        }
        Ok(amounts)
    }

    fn add_tier(&mut self, tier: Tier, keys: &Keys, env: &Env) -> Result<(), ConfigError> {
        let Tier { name, when, rate, burst, quota } = tier;
        let condition = Condition::compile(when, env).map_err(|error| error.at("when"))?;
        let at = self.add(Written { rate, burst, quota }, keys, format!(" (tier {name})"))?;
        self.tiers.push((condition, at));
        Ok(())
    }

    fn add_single(&mut self, single: Override, keys: &Keys, env: &Env) -> Result<(), ConfigError> {
        let Override { key: OneOrMany(texts), issuer, verified_by, rate, burst, quota } = single;
        let sources = keys.sources();
        if texts.len() != sources.len() {
            let error = ConfigError::new(format!("the key `{keys}` has {} parts, and this has {}", sources.len(), texts.len()));
            return Err(error.at("key"));
        }
        let shown = texts.join("+");
        let mut parts = Vec::new();
        for (at, (text, source)) in texts.into_iter().zip(sources).enumerate() {
            let here = |error: ConfigError| if sources.len() > 1 { error.at(at).at("key") } else { error.at("key") };
            parts.push(Part::compile(source, text, keys).map_err(here)?);
        }
        let about = |source: &KeySource| matches!(source, KeySource::Identity(fact) if !matches!(fact, Attribute::Certificate(_)));
        let voucher = Voucher::compile(issuer, verified_by, sources.iter().any(about), env)?;
        let first = parts.remove(0);
        let at = self.all.len();
        let (among, of) = match first {
            Part::Text(text) => (self.singles.texts.entry(text).or_default(), Single { rest: parts, voucher, at }),
            Part::Network(network) => (self.singles.networks.entry(network).or_default(), Single { rest: parts, voucher, at }),
        };
        if among.iter().any(|other| other.rest == of.rest && other.voucher.meets(&of.voucher)) {
            return Err(ConfigError::new(format!("`{shown}` has an override already")).at("key"));
        }
        among.push(of);
        self.add(Written { rate, burst, quota }, keys, format!(" (override for {shown})"))?;
        Ok(())
    }

    fn add(&mut self, written: Written, keys: &Keys, whose: String) -> Result<usize, ConfigError> {
        let amount = Amount::compile(written, self.all.first(), keys, whose)?;
        // A count belongs to a period: two in one filter would be two counts, and changing tier a way to a fresh one.
        let period = self.all.iter().find_map(|amount| amount.quota.as_ref()).map(|quota| quota.quota.period);
        if let (Some(period), Some(quota)) = (period, &amount.quota)
            && quota.quota.period != period
        {
            return Err(ConfigError::new(format!("the other quotas of this filter are by {}", period.name()))
                .help("put quotas of another period into a second rate_limit")
                .at("quota"));
        }
        self.all.push(amount);
        Ok(self.all.len() - 1)
    }

    /// What holds for a request: of its key alone, of the first tier whose condition holds, or of everybody else.
    pub(crate) fn choose(&self, keys: &Keys, exchange: &Exchange) -> (usize, &Amount) {
        let at = self.single(keys, exchange).or_else(|| {
            let principal = exchange.principal()?;
            self.tiers.iter().find(|(condition, _)| condition.holds(principal)).map(|(_, at)| *at)
        });
        let at = at.unwrap_or(0);
        // `compile` made one of each number.
        (at, &self.all[at])
    }

    fn single(&self, keys: &Keys, exchange: &Exchange) -> Option<usize> {
        let (first, rest) = keys.sources().split_first()?;
        let among = match first {
            KeySource::Client if !self.singles.networks.is_empty() => self.singles.networks.get(&keys.network(exchange.client())),
            KeySource::Identity(attribute) if !self.singles.texts.is_empty() => match attribute.read(exchange)? {
                AttributeValue::One(text) => self.singles.texts.get(&*text),
                AttributeValue::Many(_) => None,
            },
            _ => None,
        };
        let principal = exchange.principal().map(|principal| &**principal);
        let is = |single: &&Single| {
            single.voucher.holds(principal)
                && single.rest.iter().zip(rest).all(|(part, source)| part.is(source, keys, exchange))
        };
        among?.iter().find(is).map(|single| single.at)
    }

    pub(crate) fn get(&self, at: usize) -> Option<&Amount> {
        self.all.get(at)
    }

    /// Whether some of it depends on who is calling.
    pub(crate) fn reads_identity(&self) -> bool {
        !self.tiers.is_empty()
    }

    /// What everybody has who has nothing else, and how many have.
    pub(crate) fn summary(&self) -> String {
        let mut text = self.all.first().map(ToString::to_string).unwrap_or_default();
        let tiers = self.tiers.len();
        let singles = self.all.len().saturating_sub(tiers + 1);
        for (count, one, many) in [(tiers, "tier", "tiers"), (singles, "override", "overrides")] {
            match count {
                0 => {}
                1 => text.push_str(&format!("; 1 {one}")),
                count => text.push_str(&format!("; {count} {many}")),
            }
        }
        text
    }
}
