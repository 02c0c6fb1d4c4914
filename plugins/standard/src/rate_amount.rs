//! How much a caller may ask: a rate, a quota, or both.

use crate::calendar::CalendarQuota;
use crate::gcra::Pace;
use crate::rate_key::Keys;
use crate::text::{TextError, textual};
use portcullis_plugin::ConfigError;
use std::fmt;
use std::str::FromStr;

pub(crate) const SECOND: u64 = 1_000_000_000;

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

textual!(Rate, "A number of requests in a second, minute, hour or day: 100/s, 30/m, 1000/h, 10000/d.");

/// As a configuration writes it, in one place.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Written {
    pub(crate) rate: Option<Rate>,
    pub(crate) burst: Option<u32>,
    pub(crate) quota: Option<CalendarQuota>,
}

/// What holds for some callers. At least one of the two is there.
pub(crate) struct Amount {
    pub(crate) rate: Option<RateAmount>,
    pub(crate) quota: Option<QuotaAmount>,
    /// Whose it is, for findings: nothing, or such as ` (tier gold)`.
    pub(crate) whose: String,
}

#[derive(Clone)]
pub(crate) struct RateAmount {
    pub(crate) rate: Rate,
    pub(crate) pace: Pace,
    pub(crate) policy: Policy,
}

#[derive(Clone)]
pub(crate) struct QuotaAmount {
    pub(crate) quota: CalendarQuota,
    pub(crate) policy: Policy,
}

/// How clients are told of it: the item of `RateLimit-Policy`, and the name by which `RateLimit` refers to it.
#[derive(Clone)]
pub(crate) struct Policy {
    pub(crate) name: String,
    pub(crate) item: String,
}

impl Policy {
    fn new(keys: &Keys, amount: &dyn fmt::Display, quota: u64, window: Option<u64>) -> Self {
        // A string of RFC 9651 is visible ASCII and spaces; quotes and backslashes would end it or need escaping.
        let inside: String = format!("{keys} {amount}");
        let inside: String = inside.chars().filter(|c| (' '..='~').contains(c) && !matches!(c, '"' | '\\')).collect();
        let name = format!("\"{inside}\"");
        let window = window.map(|seconds| format!(";w={seconds}")).unwrap_or_default();
        Self { item: format!("{name};q={quota}{window}"), name }
    }
}

impl Amount {
    /// What `written` does not say is as in `rest`.
    pub(crate) fn compile(written: Written, rest: Option<&Self>, keys: &Keys, whose: String) -> Result<Self, ConfigError> {
        let Written { rate, burst, quota } = written;
        if rate.is_none() && quota.is_none() {
            return Err(
                ConfigError::new("neither `rate` nor `quota` is given").help("such as `rate: 100/s` or `quota: 100000/month`")
            );
        }
        if rate.is_none() && burst.is_some() {
            return Err(ConfigError::new("a burst belongs to a `rate`, which is not given here").at("burst"));
        }
        let rate = rate.map(|rate| RateAmount::new(rate, burst, keys)).transpose()?;
        let quota = quota
            .map(|quota| QuotaAmount { policy: Policy::new(keys, &quota, quota.count.into(), quota.period.length()), quota });
        Ok(Self {
            rate: rate.or_else(|| rest.and_then(|rest| rest.rate.clone())),
            quota: quota.or_else(|| rest.and_then(|rest| rest.quota.clone())),
            whose,
        })
    }
}

impl RateAmount {
    fn new(rate: Rate, burst: Option<u32>, keys: &Keys) -> Result<Self, ConfigError> {
        let burst = u64::from(burst.unwrap_or(rate.count));
        let pace = Pace::new(u64::from(rate.count), rate.period(), burst).ok_or_else(|| {
            ConfigError::new("a burst is at least 1, and the rate must fill it again within a century").at("burst")
        })?;
        Ok(Self { rate, pace, policy: Policy::new(keys, &rate, burst, Some(seconds(pace.capacity()).max(1))) })
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.rate, &self.quota) {
            (Some(rate), Some(quota)) => write!(f, "{}, {}", rate.rate, quota.quota),
            (Some(rate), None) => rate.rate.fmt(f),
            (None, Some(quota)) => quota.quota.fmt(f),
            (None, None) => Ok(()),
        }
    }
}

/// Rounded up: a client that waits as long as it is told is not told again.
pub(crate) fn seconds(nanoseconds: u64) -> u64 {
    nanoseconds.div_ceil(SECOND)
}
