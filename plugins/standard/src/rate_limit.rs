//! Limits how often a caller may ask.
//!
//! ```yaml
//! - rate_limit: { key: principal.sub, rate: 100/s, burst: 200 }
//! - rate_limit:
//!     key: principal.client_id
//!     rate: 100/m
//!     quota: 100000/month
//!     tiers:
//!       - { name: gold, when: { claims: { plan: gold } }, rate: 1000/m, quota: 5000000/month }
//!     overrides:
//!       - { key: nightly-import, rate: 50/s }
//! ```
//!
//! **Rate.** Each key has a bucket of `burst` requests that fills again at `rate`; a request beyond it gets 429
//! (`rate.exceeded`) with `Retry-After` and costs nothing.
//!
//! **Quota.** Each key may ask so often in a day or month of the calendar, by UTC; beyond that it gets 429
//! (`rate.quota.exhausted`) until the period's end, which `Retry-After` says. What the rate refuses is not counted. A clock
//! that goes back ends no period.
//!
//! Clients see where they stand in the `RateLimit` and `RateLimit-Policy` fields (draft-ietf-httpapi-ratelimit-headers-10).
//! Each gateway counts for itself, in memory: a restart forgets, a reload does not. With `state`, quotas outlive a restart.
//!
//! **Tiers and overrides.** An override is for one value of the key; a tier for callers whose verified facts fulfil its
//! `when`. An override comes before every tier, the first tier that holds before the others, and what they leave out is as
//! for everybody else. A caller has one bucket and one count, whatever its tier: another token is no way to a fresh one.
//!
//! **Where the key has no value**, `missing` says what happens. By default, a request without a principal, or whose
//! principal lacks the fact, is refused (`identity.missing`), because it could not be counted; one without the header
//! counts for its client address, apart from those that have it.
//!
//! Buckets and counts survive a reload, also with another `rate`, `burst`, `quota` or tier. There is room for `max_keys` of
//! them. Beyond that, the bucket that is fullest again gives way, and if that was still in use,
//! `portcullis_rate_limit_evictions_total` counts it: its owner starts with a full bucket. Callers who have used up their
//! burst are the last to go. Of quotas, the lowest count gives way, `portcullis_quota_evictions_total` counts it, and the
//! new key goes on from that count: so nobody's quota ever begins anew before its time, and with more keys than `max_keys`
//! some are refused early.

use crate::calendar::{Account, CalendarQuota};
use crate::gcra::Standing;
use crate::quota_file::{self, QuotaFile};
use crate::rate_amount::{Amount, QuotaAmount, RateAmount, Written, seconds};
use crate::rate_key::Keys;
use crate::rate_state::{Clock, State};
use crate::rate_tiers::Amounts;
use crate::slots::Key;
use crate::text::{given, missing_fact};
use parking_lot::Mutex;
use portcullis_plugin::env::AtEnd;
use portcullis_plugin::prometheus::IntCounterVec;
use portcullis_plugin::units::{OneOrMany, TimeSpan};
use portcullis_plugin::{
    Build, ConfigError, Denial, Env, Exchange, Filter, FilterError, Finding, Headers, Needs, RequestHead, ResponseHead, Verdict,
    reason,
};
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub use crate::rate_amount::Rate;
pub use crate::rate_key::KeySource;
pub use crate::rate_tiers::{Override, Tier};
pub use crate::rate_who::{VerifiedBy, When};

const MAX_KEYS: usize = 10_000_000;

/// How often, and counted by what. At least one of `rate` and `quota` is needed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What is counted: `client` (the real client's address), `route` (all requests together), `principal.sub`,
    /// `principal.client_id` or another fact of the principal, `cert.sha256` or another fact of the client certificate,
    /// or `header.NAME`. A header is what the client says: count by one only if something before vouches for it. A list
    /// counts each combination by itself, such as `[principal.claims.tenant, principal.client_id]`.
    pub key: OneOrMany<KeySource>,
    /// Requests in a second, minute, hour or day: `100/s`, `30/m`, `1000/h`, `10000/d`. They may be spread over any such
    /// time; see `quota` for one of the calendar.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Rate")]
    pub rate: Option<Rate>,
    /// Requests at once. Default: the number in `rate`.
    pub burst: Option<u32>,
    /// Requests in a day or month of the calendar, by UTC: `5000/day`, `100000/month`. Default: no such quota.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "CalendarQuota")]
    pub quota: Option<CalendarQuota>,
    /// Callers with other limits, by what was verified of them. The first whose `when` holds counts. At most 64.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Vec<Tier>")]
    pub tiers: Option<Vec<Tier>>,
    /// Single keys with other limits. They come before `tiers`.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Vec<Override>")]
    pub overrides: Option<Vec<Override>>,
    /// What happens to a request for which the key has no value: `deny`, `client` (it counts for its client address) or
    /// `skip` (it is not limited here). Default: `deny`; for a header `client`, and it cannot be `skip`.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Missing")]
    pub missing: Option<Missing>,
    /// A folder in which the counts of quotas are kept, so that they outlive a restart; only this gateway's, and one that
    /// nobody else can write to. Made if it is not there. They are written within a second and when the gateway ends. A file
    /// that is damaged refuses the configuration: delete it, and its quotas begin anew. Adding or changing this begins anew
    /// too. Default: none; counts live in memory.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "String")]
    pub state: Option<String>,
    /// How many keys are remembered at a time; with `state` at most 1000000. Default: 100000.
    #[serde(default = "default_max_keys")]
    pub max_keys: usize,
    /// IPv6 clients are counted by this many leading bits, because one client usually has a whole /64. Only for
    /// keys with `client` or `header.NAME`, and with `missing: client`. Default: 64.
    pub ipv6_prefix: Option<u8>,
    /// Tell clients where they stand. Default: true.
    #[serde(default = "default_headers")]
    pub headers: bool,
}

/// What happens to a request for which the key has no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Missing {
    /// It is refused (`identity.missing`).
    Deny,
    /// It counts for its client address, apart from those that have a value.
    Client,
    /// It is not limited by this filter.
    Skip,
}

fn default_max_keys() -> usize {
    100_000
}

fn default_headers() -> bool {
    true
}

/// What outlives a reload.
#[derive(Default)]
struct Kept(Mutex<Option<Arc<State>>>);

pub struct RateLimit {
    /// Tells this filter's standing from that of another rate limit of the same request.
    id: u64,
    key: Keys,
    missing: Option<Missing>,
    amounts: Amounts,
    state: Arc<State>,
    /// Clients are told where they stand.
    headers: bool,
    evictions: IntCounterVec,
    quota_evictions: IntCounterVec,
}

/// Where the caller stands with each rate limit of this request.
#[derive(Default)]
struct Standings(Vec<Stand>);

#[derive(Clone, Copy)]
struct Stand {
    id: u64,
    amount: usize,
    rate: Option<Standing>,
    quota: Option<Account>,
}

impl Build for RateLimit {
    const NAME: &'static str = "rate_limit";
    const EXAMPLE: &'static str = "{ key: principal.sub, rate: 100/s, burst: 200 }";
    type Config = Config;

    fn build(config: Config, env: &Env) -> Result<Self, ConfigError> {
        let Config { key, rate, burst, quota, tiers, overrides, missing, state, max_keys, ipv6_prefix, headers } = config;
        if !(1..=MAX_KEYS).contains(&max_keys) {
            return Err(ConfigError::new(format!("`max_keys` is 1 to {MAX_KEYS}")).at("max_keys"));
        }
        let key = Keys::compile(key.0).map_err(|error| error.at("key"))?;
        check_missing(missing, &key).map_err(|error| error.at("missing"))?;
        let by_address = key.has_address() || missing == Some(Missing::Client);
        let prefix = match ipv6_prefix {
            Some(_) if !by_address => {
                return Err(ConfigError::new("no address is counted by this key")
                    .help("leave `ipv6_prefix` out")
                    .at("ipv6_prefix"));
            }
            Some(bits) if !(1..=128).contains(&bits) => return Err(ConfigError::new("a prefix is 1 to 128").at("ipv6_prefix")),
            bits => bits.unwrap_or(64),
        };
        let key = key.with_ipv6_prefix(prefix);
        let amounts = Amounts::compile(Written { rate, burst, quota }, tiers, overrides, &key, env)?;
        check_state(state.as_ref(), max_keys, &amounts).map_err(|error| error.at("state"))?;
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Ok(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            state: open_state(&key, prefix, max_keys, state, env)?,
            amounts,
            missing,
            headers,
            evictions: env.counter(
                "portcullis_rate_limit_evictions_total",
                "Callers whose count was dropped before its time, because more keys came than max_keys.",
                &["route"],
            )?,
            quota_evictions: env.counter(
                "portcullis_quota_evictions_total",
                "Callers whose quota's count was taken over by another, because more keys came than max_keys.",
                &["route"],
            )?,
            key,
        })
    }
}

fn check_state(state: Option<&String>, max_keys: usize, amounts: &Amounts) -> Result<(), ConfigError> {
    match state {
        Some(folder) if folder.is_empty() => Err(ConfigError::new("an empty path")),
        Some(_) if !amounts.has_quota() => {
            Err(ConfigError::new("only quotas are kept, and there is none here").help("leave it out"))
        }
        Some(_) if max_keys > quota_file::MAX_KEYS => {
            Err(ConfigError::new(format!("with `state`, `max_keys` is at most {}", quota_file::MAX_KEYS)))
        }
        _ => Ok(()),
    }
}

fn open_state(key: &Keys, prefix: u8, max_keys: usize, folder: Option<String>, env: &Env) -> Result<Arc<State>, ConfigError> {
    // What the keys mean is part of the name; the limits are not, so that changing them forgives nobody.
    let name = format!("rate_limit {key} /{prefix} {max_keys}");
    let clock = Clock::Monotonic(Instant::now());
    let Some(folder) = folder else {
        let kept = env.keep(&name, Kept::default);
        return Ok(Arc::clone(kept.0.lock().get_or_insert_with(|| Arc::new(State::new(max_keys, clock)))));
    };
    let kept = env.keep(&format!("{name} {folder}"), Kept::default);
    let mut kept = kept.0.lock();
    if let Some(state) = &*kept {
        return Ok(Arc::clone(state));
    }
    let errors = env.counter("portcullis_quota_state_errors_total", "Writes of the counts of quotas that failed.", &[])?;
    // However many keys there are: a larger table takes the counts of a smaller one.
    let file = QuotaFile::new(env.resolve(&folder), &format!("{} {key} /{prefix}", env.scope()));
    let path = file.path().display().to_string();
    let state = State::lasting(max_keys, clock, file, errors.with_label_values::<&str>(&[])).map_err(|error| {
        let error = ConfigError::new(format!("cannot use {path}: {error}"));
        error.help("a file that is damaged has to be deleted, and its quotas begin anew").at("state")
    })?;
    let state = Arc::new(state);
    let ending: Weak<dyn AtEnd> = Arc::<State>::downgrade(&state);
    env.at_end(ending);
    Ok(Arc::clone(kept.insert(state)))
}

fn check_missing(missing: Option<Missing>, key: &Keys) -> Result<(), ConfigError> {
    match missing {
        Some(_) if !key.may_be_missing() => {
            Err(ConfigError::new("every request has a value for this key").help("leave `missing` out"))
        }
        Some(Missing::Skip) if key.has_header() => {
            Err(ConfigError::new("whoever leaves the header out would not be limited").help("`client` or `deny`"))
        }
        _ => Ok(()),
    }
}

impl Filter for RateLimit {
    fn request(&self, request: &mut RequestHead, exchange: &mut Exchange) -> Verdict {
        let headers_needed = self.missing == Some(Missing::Deny);
        let key = match (self.key.of(&self.state.keyed, headers_needed, request, exchange), self.missing) {
            (Ok(key), _) => key,
            (Err(source), Some(Missing::Client)) => {
                let found = || Finding::new(format!("a value for {source}"), "none: it counts for its client address");
                exchange.check("key", reason::IDENTITY_MISSING, true, found);
                self.key.of_client(&self.state.keyed, exchange)
            }
            (Err(source), Some(Missing::Skip)) => {
                let found = || Finding::new(format!("a value for {source}"), "none: it is not limited here");
                exchange.check("key", reason::IDENTITY_MISSING, true, found);
                return Verdict::Continue;
            }
            (Err(source), None | Some(Missing::Deny)) => {
                let what = match source {
                    KeySource::Identity(fact) => missing_fact(fact, exchange),
                    _ => "the client has to send it".to_owned(),
                };
                exchange.check("key", reason::IDENTITY_MISSING, false, || {
                    let finding = Finding::new(format!("a value for {source}"), "none");
                    finding.hint(format!("{what}; or count such requests by client (`missing: client`)"))
                });
                return Verdict::deny(reason::IDENTITY_MISSING);
            }
        };
        let (at, amount) = self.amounts.choose(&self.key, exchange);
        let mut stand = Stand { id: self.id, amount: at, rate: None, quota: None };
        let verdict = self.take(key, amount, &mut stand, exchange);
        if self.headers {
            match exchange.extension_mut::<Standings>() {
                Some(Standings(all)) => all.push(stand),
                None => exchange.insert_extension(Standings(vec![stand])),
            }
        }
        verdict
    }

    fn response(&self, response: &mut ResponseHead, exchange: &mut Exchange) -> Verdict {
        let stand = exchange.extension::<Standings>().and_then(|Standings(all)| all.iter().find(|stand| stand.id == self.id));
        let Some((stand, amount)) = stand.and_then(|stand| Some((stand, self.amounts.get(stand.amount)?))) else {
            return Verdict::Continue;
        };
        match tell(stand, amount, response.headers_mut()) {
            Ok(()) => Verdict::Continue,
            Err(error) => Verdict::Fault(FilterError::new(format!("cannot add RateLimit: {error}"))),
        }
    }

    fn needs(&self) -> Needs {
        Needs {
            requires_principal: self.asks_for_identity() && self.key.reads_principal(),
            reads_identity: self.key.reads_identity() || self.amounts.reads_identity(),
            summary: Some(format!("rate({} {})", self.key, self.amounts.summary())),
            ..Needs::default()
        }
    }
}

impl RateLimit {
    /// Whether it can refuse for want of a value to count by.
    pub fn asks_for_identity(&self) -> bool {
        self.key.may_be_missing() && matches!(self.missing, None | Some(Missing::Deny))
    }
}

/// Two limits on one request give two members of the same list.
fn tell(stand: &Stand, amount: &Amount, headers: &mut Headers) -> Result<(), portcullis_plugin::headers::HeaderError> {
    if let (Some(standing), Some(rate)) = (&stand.rate, &amount.rate) {
        let until = seconds(if standing.allowed { standing.full_in } else { standing.retry_in });
        headers.append("ratelimit-policy", &rate.policy.item)?;
        headers.append("ratelimit", format!("{};r={};t={until}", rate.policy.name, standing.remaining))?;
    }
    if let (Some(account), Some(quota)) = (&stand.quota, &amount.quota) {
        headers.append("ratelimit-policy", &quota.policy.item)?;
        headers.append("ratelimit", format!("{};r={};t={}", quota.policy.name, account.remaining, account.ends_in))?;
    }
    Ok(())
}

impl RateLimit {
    /// First the rate: what it refuses does not count against the quota.
    fn take(&self, key: Key, amount: &Amount, stand: &mut Stand, exchange: &mut Exchange) -> Verdict {
        if let Some(rate) = &amount.rate {
            let standing = self.take_rate(key, rate, exchange);
            stand.rate = Some(standing);
            if !exchange.check("rate", reason::RATE_EXCEEDED, standing.allowed, || self.rate_finding(rate, amount, standing)) {
                let after = seconds(standing.retry_in).max(1).to_string();
                return Verdict::Deny(Denial::new(reason::RATE_EXCEEDED).header("retry-after", after));
            }
        }
        if let Some(quota) = &amount.quota {
            let account = self.take_quota(key, quota, exchange);
            stand.quota = Some(account);
            let exhausted = reason::RATE_QUOTA_EXHAUSTED;
            if !exchange.check("quota", exhausted, account.allowed, || self.quota_finding(quota, amount, account)) {
                return Verdict::Deny(Denial::new(exhausted).header("retry-after", account.ends_in.max(1).to_string()));
            }
        }
        Verdict::Continue
    }

    fn take_rate(&self, key: Key, rate: &RateAmount, exchange: &Exchange) -> Standing {
        let (standing, evicted) = self.state.buckets.take(key, self.state.clock.now(), &rate.pace);
        if evicted {
            count(&self.evictions, exchange);
        }
        standing
    }

    fn take_quota(&self, key: Key, quota: &QuotaAmount, exchange: &Exchange) -> Account {
        let (account, evicted) = self.state.take(key, exchange.now(), quota.quota, exchange.explaining());
        if evicted {
            count(&self.quota_evictions, exchange);
        }
        account
    }

    fn rate_finding(&self, rate: &RateAmount, amount: &Amount, standing: Standing) -> Finding {
        let RateAmount { rate, pace, .. } = rate;
        let observed = if standing.allowed {
            format!("{} left{}", standing.remaining, amount.whose)
        } else {
            format!("none left; the next in {}", TimeSpan::secs(seconds(standing.retry_in).max(1)))
        };
        Finding::new(format!("at most {rate} by {}, {} at once{}", self.key, pace.burst(), amount.whose), observed)
            .hint("the client waits as `Retry-After` says; raise `rate` or `burst`, if so many are meant")
    }

    fn quota_finding(&self, quota: &QuotaAmount, amount: &Amount, account: Account) -> Finding {
        let until = SystemTime::UNIX_EPOCH + Duration::from_secs(account.ends_at);
        let until = OffsetDateTime::from(until).format(&Rfc3339).unwrap_or_default();
        let observed = match account.allowed {
            true => format!("{} left until {until}{}", account.remaining, amount.whose),
            false => format!("none left until {until}"),
        };
        let finding = Finding::new(format!("at most {} by {}{}", quota.quota, self.key, amount.whose), observed);
        match account.allowed {
            true => finding,
            false => finding.hint(
                "the client waits until then, as `Retry-After` says; raise `quota`, or give the caller one of `tiers` or `overrides`",
            ),
        }
    }
}

fn count(evictions: &IntCounterVec, exchange: &Exchange) {
    evictions.with_label_values(&[exchange.route().map_or("", |route| &**route)]).inc();
}

#[cfg(test)]
#[path = "rate_limit_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "rate_tiers_tests.rs"]
mod tier_tests;
