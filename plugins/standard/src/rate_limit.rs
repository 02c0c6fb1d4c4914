//! Limits how often a caller may ask.
//!
//! ```yaml
//! - rate_limit: { key: principal.sub, rate: 100/s, burst: 200 }
//! ```
//!
//! Each key has a bucket of `burst` requests that fills again at `rate`; a request beyond it gets 429 with
//! `Retry-After` and costs nothing. Clients see where they stand in the `RateLimit` and `RateLimit-Policy` fields
//! (draft-ietf-httpapi-ratelimit-headers-10). Each gateway counts for itself.
//!
//! Where the key has no value: a request without a principal, or whose principal lacks the fact, is refused
//! (`identity.missing`), because it could not be counted; one without the header counts for its client address, apart
//! from those that have it.
//!
//! Buckets survive a reload, also with another `rate` or `burst`. There is room for `max_keys` of them: beyond that, the
//! bucket that is fullest again gives way, and if that was still in use, `portcullis_rate_limit_evictions_total` counts
//! it: its owner starts with a full bucket. Callers who have used up their quota are the last to go.

use crate::gcra::{Buckets, Key, Quota, Standing};
use crate::text::{TextError, textual};
use portcullis_plugin::attribute::AttributeValue;
use portcullis_plugin::prometheus::IntCounterVec;
use portcullis_plugin::units::{OneOrMany, TimeSpan};
use portcullis_plugin::{
    Attribute, Build, ConfigError, Denial, Env, Exchange, Filter, FilterError, Finding, Needs, RequestHead, ResponseHead,
    Verdict, reason,
};
use schemars::JsonSchema;
use serde::Deserialize;
use std::cell::Cell;
use std::fmt;
use std::hash::Hasher;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

const SECOND: u64 = 1_000_000_000;
const MAX_KEYS: usize = 10_000_000;

/// How often, and counted by what.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What is counted: `client` (the real client's address), `route` (all requests together), `principal.sub`,
    /// `principal.client_id` or another fact of the principal, `cert.sha256` or another fact of the client certificate,
    /// or `header.NAME`. A header is what the client says: count by one only if something before vouches for it. A list
    /// counts each combination by itself, such as `[principal.claims.tenant, principal.client_id]`.
    pub key: OneOrMany<KeySource>,
    /// Requests in a second, minute, hour or day: `100/s`, `30/m`, `1000/h`, `10000/d`.
    pub rate: Rate,
    /// Requests at once. Default: the number in `rate`.
    pub burst: Option<u32>,
    /// How many keys are remembered at a time. Default: 100000.
    #[serde(default = "default_max_keys")]
    pub max_keys: usize,
    /// IPv6 clients are counted by this many leading bits, because one client usually has a whole /64. Only for
    /// keys with `client` or `header.NAME`. Default: 64.
    pub ipv6_prefix: Option<u8>,
    /// Tell clients where they stand. Default: true.
    #[serde(default = "default_headers")]
    pub headers: bool,
}

fn default_max_keys() -> usize {
    100_000
}

fn default_headers() -> bool {
    true
}

/// What requests are counted by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    Client,
    Route,
    Identity(Attribute),
    Header(String),
}

impl FromStr for KeySource {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let refuse = || {
            TextError::new(format!(
                "`{text}` is nothing to count by; use client, route, principal.sub (or another fact), cert.sha256 or header.NAME"
            ))
        };
        if let Some(name) = text.strip_prefix("header.") {
            return if portcullis_plugin::headers::is_name(name.as_bytes()) {
                Ok(Self::Header(name.to_ascii_lowercase()))
            } else {
                Err(refuse())
            };
        }
        match text {
            "client" => Ok(Self::Client),
            "route" => Ok(Self::Route),
            _ => {
                let attribute = match text.strip_prefix("principal.") {
                    Some(name) => name.parse().ok().filter(|attribute| !matches!(attribute, Attribute::Certificate(_))),
                    None => text.parse().ok().filter(|attribute| matches!(attribute, Attribute::Certificate(_))),
                };
                attribute.filter(Attribute::is_identity).map(Self::Identity).ok_or_else(refuse)
            }
        }
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client => f.write_str("client"),
            Self::Route => f.write_str("route"),
            Self::Identity(attribute @ Attribute::Certificate(_)) => attribute.fmt(f),
            Self::Identity(attribute) => write!(f, "principal.{attribute}"),
            Self::Header(name) => write!(f, "header.{name}"),
        }
    }
}

/// What is counted by, together. At least one.
struct Keys(Vec<KeySource>);

impl fmt::Display for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, key) in self.0.iter().enumerate() {
            write!(f, "{}{key}", if at > 0 { "+" } else { "" })?;
        }
        Ok(())
    }
}

/// A number of requests in a unit of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    count: u32,
    unit: char,
}

impl Rate {
    fn period(self) -> u64 {
        SECOND
            * match self.unit {
                's' => 1,
                'm' => 60,
                'h' => 3600,
                _ => 86_400,
            }
    }
}

impl FromStr for Rate {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let parsed = text.split_once('/').and_then(|(count, unit)| {
            let digits = !count.is_empty() && count.bytes().all(|b| b.is_ascii_digit());
            let unit = match unit {
                "s" => 's',
                "m" => 'm',
                "h" => 'h',
                "d" => 'd',
                _ => return None,
            };
            count.parse().ok().filter(|count| digits && *count > 0).map(|count| Self { count, unit })
        });
        parsed.ok_or_else(|| {
            TextError::new(format!(
                "`{text}` is not a rate; write a whole number above 0 and a unit: 100/s, 30/m, 1000/h, 10000/d"
            ))
        })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, self.unit)
    }
}

textual!(KeySource, "What is counted: client, route, principal.NAME, cert.NAME or header.NAME.");
textual!(Rate, "A number of requests in a second, minute, hour or day: 100/s, 30/m, 1000/h, 10000/d.");

/// What outlives a reload.
struct State {
    buckets: Buckets,
    clock: Clock,
}

/// Nanoseconds that only go forward: the wall clock may be set back, and would then refuse or open for a while.
enum Clock {
    Monotonic(Instant),
    #[cfg(test)]
    Manual(AtomicU64),
}

impl Clock {
    fn now(&self) -> u64 {
        match self {
            Self::Monotonic(origin) => u64::try_from(origin.elapsed().as_nanos()).unwrap_or(u64::MAX),
            #[cfg(test)]
            Self::Manual(now) => now.load(Ordering::Relaxed),
        }
    }
}

pub struct RateLimit {
    /// Tells this filter's standing from that of another rate limit of the same request.
    id: u64,
    key: Keys,
    rate: Rate,
    quota: Quota,
    ipv6_mask: u128,
    state: Arc<State>,
    /// The `RateLimit-Policy` item and its name; `None` if clients are not told.
    policy: Option<Policy>,
    evictions: IntCounterVec,
}

struct Policy {
    name: String,
    item: String,
}

/// Where the caller stands with each rate limit of this request.
#[derive(Default)]
struct Standings(Vec<(u64, Standing)>);

impl Build for RateLimit {
    const NAME: &'static str = "rate_limit";
    const EXAMPLE: &'static str = "{ key: principal.sub, rate: 100/s, burst: 200 }";
    type Config = Config;

    fn build(config: Config, env: &Env) -> Result<Self, ConfigError> {
        let Config { key, rate, burst, max_keys, ipv6_prefix, headers } = config;
        if !(1..=MAX_KEYS).contains(&max_keys) {
            return Err(ConfigError::new(format!("`max_keys` is 1 to {MAX_KEYS}")).at("max_keys"));
        }
        let key = keys(key.0).map_err(|error| error.at("key"))?;
        let by_address = key.0.iter().any(|key| matches!(key, KeySource::Client | KeySource::Header(_)));
        let prefix = match ipv6_prefix {
            Some(_) if !by_address => {
                return Err(ConfigError::new("no address is counted by this key")
                    .help("leave `ipv6_prefix` out")
                    .at("ipv6_prefix"));
            }
            Some(bits) if !(1..=128).contains(&bits) => return Err(ConfigError::new("a prefix is 1 to 128").at("ipv6_prefix")),
            bits => bits.unwrap_or(64),
        };
        let burst = u64::from(burst.unwrap_or(rate.count));
        let quota = Quota::new(u64::from(rate.count), rate.period(), burst).ok_or_else(|| {
            ConfigError::new("a burst is at least 1, and the rate must fill it again within a century").at("burst")
        })?;
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Ok(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            ipv6_mask: u128::MAX << (128 - u32::from(prefix)),
            // What the keys mean is part of the name; the rate is not, so that changing it forgives nobody.
            state: env.keep(&format!("rate_limit {key} /{prefix} {max_keys}"), || State {
                buckets: Buckets::new(max_keys),
                clock: Clock::Monotonic(Instant::now()),
            }),
            policy: headers.then(|| {
                let name = format!("\"{key} {rate}\"").replace('\\', "");
                let item = format!("{name};q={};w={}", quota.burst(), seconds(quota.capacity()).max(1));
                Policy { name, item }
            }),
            evictions: env.counter(
                "portcullis_rate_limit_evictions_total",
                "Callers whose count was dropped before its time, because more keys came than max_keys.",
                &["route"],
            )?,
            key,
            rate,
            quota,
        })
    }
}

fn keys(keys: Vec<KeySource>) -> Result<Keys, ConfigError> {
    if keys.is_empty() {
        return Err(ConfigError::new("the list is empty").help("name what is counted, such as `client`"));
    }
    if let Some(at) = keys.iter().enumerate().position(|(at, key)| keys.iter().take(at).any(|earlier| earlier == key)) {
        return Err(ConfigError::new("the same is named twice").at(at));
    }
    if keys.len() > 1
        && let Some(at) = keys.iter().position(|key| *key == KeySource::Route)
    {
        return Err(ConfigError::new("`route` adds nothing to other keys: each filter counts for its route alone").at(at));
    }
    Ok(Keys(keys))
}

impl Filter for RateLimit {
    fn request(&self, request: &mut RequestHead, exchange: &mut Exchange) -> Verdict {
        let key = match self.key(request, exchange) {
            Ok(key) => key,
            Err(missing) => {
                exchange.check("key", reason::IDENTITY_MISSING, false, || {
                    Finding::new(format!("a value for {missing}"), "none")
                        .hint("put a filter that authenticates before this one, or count by client")
                });
                return Verdict::deny(reason::IDENTITY_MISSING);
            }
        };
        let (standing, evicted) = self.state.buckets.take(key, self.state.clock.now(), &self.quota);
        if evicted {
            self.evictions.with_label_values(&[exchange.route().map_or("", |route| &**route)]).inc();
        }
        if self.policy.is_some() {
            match exchange.extension_mut::<Standings>() {
                Some(Standings(all)) => all.push((self.id, standing)),
                None => exchange.insert_extension(Standings(vec![(self.id, standing)])),
            }
        }
        let allowed = exchange.check("rate", reason::RATE_EXCEEDED, standing.allowed, || {
            let expected = format!("at most {} by {}, {} at once", self.rate, self.key, self.quota.burst());
            let observed = if standing.allowed {
                format!("{} left", standing.remaining)
            } else {
                format!("none left; the next in {}", TimeSpan::secs(seconds(standing.retry_in).max(1)))
            };
            Finding::new(expected, observed)
                .hint("the client waits as `Retry-After` says; raise `rate` or `burst`, if so many are meant")
        });
        if allowed {
            return Verdict::Continue;
        }
        let after = seconds(standing.retry_in).max(1).to_string();
        Verdict::Deny(Denial::new(reason::RATE_EXCEEDED).header("retry-after", after))
    }

    fn response(&self, response: &mut ResponseHead, exchange: &mut Exchange) -> Verdict {
        let Some(policy) = &self.policy else { return Verdict::Continue };
        let standing = exchange
            .extension::<Standings>()
            .and_then(|Standings(all)| all.iter().find(|(id, _)| *id == self.id))
            .map(|(_, standing)| *standing);
        let Some(standing) = standing else { return Verdict::Continue };
        let until = if standing.allowed { standing.full_in } else { standing.retry_in };
        let state = format!("{};r={};t={}", policy.name, standing.remaining, seconds(until));
        // Two limits on one request give two members of the same list.
        let headers = response.headers_mut();
        match headers.append("ratelimit-policy", &policy.item).and_then(|()| headers.append("ratelimit", state)) {
            Ok(()) => Verdict::Continue,
            Err(error) => Verdict::Fault(FilterError::new(format!("cannot add RateLimit: {error}"))),
        }
    }

    fn needs(&self) -> Needs {
        Needs {
            reads_identity: self.key.0.iter().any(|key| matches!(key, KeySource::Identity(_))),
            summary: Some(format!("rate({} {})", self.key, self.rate)),
            ..Needs::default()
        }
    }
}

impl RateLimit {
    /// `Err`: what has no value, so that the request cannot be counted.
    fn key(&self, request: &RequestHead, exchange: &Exchange) -> Result<Key, &KeySource> {
        let missing = Cell::new(None);
        let key = self.state.buckets.key(|hasher| {
            for source in &self.key.0 {
                if self.feed(source, request, exchange, hasher).is_none() {
                    missing.set(Some(source));
                }
            }
        });
        missing.get().map_or(Ok(key), Err)
    }

    fn feed(&self, source: &KeySource, request: &RequestHead, exchange: &Exchange, hasher: &mut dyn Hasher) -> Option<()> {
        match source {
            // The buckets belong to one place of the configuration, so this is all that the route's key has to say.
            KeySource::Route => {}
            KeySource::Client => self.feed_address(exchange.client(), hasher),
            KeySource::Header(name) if request.headers().contains(name) => {
                // All of them: the upstream may look at another than we do.
                hasher.write_usize(request.headers().get_all(name).count());
                request.headers().get_all(name).for_each(|value| feed_bytes(value, hasher));
            }
            KeySource::Header(_) => {
                hasher.write_usize(0);
                self.feed_address(exchange.client(), hasher);
            }
            KeySource::Identity(attribute) => {
                let value = attribute.read(exchange)?;
                // A subject is unique for its issuer only; the same goes for whatever else an issuer says.
                let issuer = match attribute {
                    Attribute::Certificate(_) => exchange.certificate().verified().map(|facts| facts.issuer.as_str()),
                    _ => exchange.principal().and_then(|principal| principal.issuer.as_deref()),
                };
                feed_bytes(issuer.unwrap_or_default().as_bytes(), hasher);
                match &value {
                    AttributeValue::One(text) => feed_bytes(text.as_bytes(), hasher),
                    AttributeValue::Many(items) => {
                        hasher.write_usize(items.len());
                        items.iter().for_each(|item| feed_bytes(item.as_bytes(), hasher));
                    }
                }
            }
        }
        Some(())
    }

    fn feed_address(&self, client: IpAddr, hasher: &mut dyn Hasher) {
        match client {
            IpAddr::V4(v4) => hasher.write_u32(v4.to_bits()),
            IpAddr::V6(v6) => hasher.write_u128(v6.to_bits() & self.ipv6_mask),
        }
    }
}

/// With its length, so that `ab` and `c` are not `a` and `bc`.
fn feed_bytes(bytes: &[u8], hasher: &mut dyn Hasher) {
    hasher.write_usize(bytes.len());
    hasher.write(bytes);
}

/// Rounded up: a client that waits as long as it is told is not told again.
fn seconds(nanoseconds: u64) -> u64 {
    nanoseconds.div_ceil(SECOND)
}

#[cfg(test)]
#[path = "rate_limit_tests.rs"]
mod tests;
