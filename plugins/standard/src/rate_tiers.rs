//! Which callers have other limits than the rest: those of a tier, and single keys.

use crate::calendar::CalendarQuota;
use crate::rate_amount::{Amount, Rate, Written};
use crate::rate_key::{KeySource, Keys};
use crate::rate_who::{Condition, VerifiedBy, Voucher, When};
use crate::text::given;
use portcullis_plugin::attribute::{AttributeValue, CertificateAttribute};
use portcullis_plugin::units::OneOrMany;
use portcullis_plugin::{Attribute, ConfigError, Env, Exchange};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

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
                    ConfigError::new(format!("`{text}` is not an address"))
                        .help("this part of the key is `client`: write one such as 192.0.2.7")
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
        let about =
            |source: &KeySource| matches!(source, KeySource::Identity(fact) if !matches!(fact, Attribute::Certificate(_)));
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
            single.voucher.holds(principal) && single.rest.iter().zip(rest).all(|(part, source)| part.is(source, keys, exchange))
        };
        among?.iter().find(is).map(|single| single.at)
    }

    pub(crate) fn get(&self, at: usize) -> Option<&Amount> {
        self.all.get(at)
    }

    pub(crate) fn has_quota(&self) -> bool {
        self.all.iter().any(|amount| amount.quota.is_some())
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
