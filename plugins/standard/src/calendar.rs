//! Quotas by the calendar: so many requests in a day or a month of UTC, for a bounded number of keys.
//!
//! A count is kept for each key, with the period it belongs to. When all slots that a key may have are taken by others of
//! the same period, it gets the one with the lowest count and goes on from there (the space-saving algorithm: Metwally,
//! Agrawal, El Abbadi, 2005). So whoever lost its place and comes again has at least what it had used before: no flood of
//! new keys makes anybody's quota begin anew. The price is that those new keys are counted for more than they have used.

use crate::quota_file::Entry;
use crate::slots::{Key, Slots, WAYS};
use crate::text::{TextError, textual};
use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;
use time::{Date, Month, OffsetDateTime, Time};

const DAY: u64 = 86_400;
/// 9999-12-31T23:59:59Z, the last second that has a date here.
const LAST: u64 = 253_402_300_799;

/// A length of the calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    Day,
    Month,
}

impl Period {
    /// Which one it is: they are numbered in the order of time, from 1970 or before.
    pub(crate) fn at(self, now: SystemTime) -> u32 {
        let seconds = since_epoch(now);
        let number = match self {
            Self::Day => seconds / DAY,
            Self::Month => {
                let date = date(seconds);
                u64::from(date.year().unsigned_abs()) * 12 + u64::from(u8::from(date.month())) - 1
            }
        };
        u32::try_from(number).unwrap_or(u32::MAX)
    }

    /// The first second after it, since 1970.
    fn end(self, number: u32) -> u64 {
        let next = u64::from(number) + 1;
        match self {
            Self::Day => next * DAY,
            Self::Month => {
                let year = i32::try_from(next / 12).unwrap_or(i32::MAX);
                let month = u8::try_from(next % 12 + 1).ok().and_then(|month| Month::try_from(month).ok());
                let first = month.and_then(|month| Date::from_calendar_date(year, month, 1).ok());
                first.map_or(LAST, |first| {
                    u64::try_from(first.with_time(Time::MIDNIGHT).assume_utc().unix_timestamp()).unwrap_or(0)
                })
            }
        }
    }

    /// What belongs to this one, of something for each.
    pub(crate) fn of<'a, T>(self, days: &'a T, months: &'a T) -> &'a T {
        match self {
            Self::Day => days,
            Self::Month => months,
        }
    }

    /// In seconds, where it is always the same.
    pub(crate) fn length(self) -> Option<u64> {
        match self {
            Self::Day => Some(DAY),
            Self::Month => None,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
        }
    }
}

fn since_epoch(now: SystemTime) -> u64 {
    now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()).min(LAST)
}

fn date(seconds: u64) -> Date {
    // It is between 1970 and 9999, which all have dates.
    let time = i64::try_from(seconds).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    time.unwrap_or(OffsetDateTime::UNIX_EPOCH).date()
}

/// A number of requests in a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CalendarQuota {
    pub(crate) count: u32,
    pub(crate) period: Period,
}

impl FromStr for CalendarQuota {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let parsed = text.split_once('/').and_then(|(count, period)| {
            let digits = !count.is_empty() && count.bytes().all(|b| b.is_ascii_digit());
            let period = match period {
                "day" => Period::Day,
                "month" => Period::Month,
                _ => return None,
            };
            count.parse().ok().filter(|count| digits && *count > 0).map(|count| Self { count, period })
        });
        parsed.ok_or_else(|| {
            TextError::new(format!(
                "`{text}` is not a quota; write a whole number above 0 and a period of the calendar: 5000/day, 100000/month"
            ))
        })
    }
}

impl fmt::Display for CalendarQuota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, self.period.name())
    }
}

textual!(CalendarQuota, "A number of requests in a day or month of the calendar, by UTC: 5000/day, 100000/month.");

/// Where a key stands after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    pub allowed: bool,
    pub remaining: u32,
    /// Seconds until the quota begins anew.
    pub ends_in: u64,
    /// When that is, in seconds since 1970.
    pub ends_at: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// 0 if the slot is free.
    tag: u64,
    period: u32,
    used: u32,
}

/// Counts of one kind of period.
pub struct Counts(Slots<Slot>);

impl Counts {
    /// Room for about `max_keys` keys at a time.
    pub fn new(max_keys: usize) -> Self {
        Self(Slots::new(max_keys))
    }

    /// Counts one request of `key` at `now`, unless that is more than `quota` allows. The second value says whether another
    /// key lost its place for it.
    pub fn take(&self, key: Key, now: SystemTime, quota: CalendarQuota) -> (Account, bool) {
        let current = quota.period.at(now);
        let taken = self.0.with(key, |slots| {
            let (slot, evicted) = find(slots, key.tag, current);
            let allowed = slot.used < quota.count;
            slot.used += u32::from(allowed);
            (allowed, *slot, evicted)
        });
        // A table without a place for it would refuse.
        let (allowed, slot, evicted) = taken.unwrap_or((false, Slot { tag: 0, period: current, used: u32::MAX }, false));
        let ends_at = quota.period.end(slot.period);
        let remaining = quota.count.saturating_sub(slot.used);
        (Account { allowed, remaining, ends_in: ends_at.saturating_sub(since_epoch(now)), ends_at }, evicted)
    }
}

impl Counts {
    /// Every count, as an entry once it is said of which kind of period.
    pub(crate) fn each(&self, mut look: impl FnMut(&dyn Fn(bool) -> Entry)) {
        self.0.each(|Slot { tag, period, used }| {
            if *tag != 0 && *used > 0 {
                look(&|by_month| Entry { by_month, tag: *tag, period: *period, used: *used });
            }
        });
    }

    /// Puts back what [`each`](Self::each) gave. Where there is no more room, the lowest count is left out, as when new keys
    /// come: what stays is as high.
    pub(crate) fn restore(&self, entry: Entry) {
        self.0.with(Key::of_tag(entry.tag), |slots| {
            let rank = |slot: &Slot| if slot.tag == 0 { (0, 0) } else { (slot.period, slot.used) };
            let lowest = slots.iter_mut().min_by_key(|slot| rank(slot));
            if let Some(slot) = lowest.filter(|slot| slot.tag == 0 || rank(slot) < (entry.period, entry.used)) {
                *slot = Slot { tag: entry.tag, period: entry.period, used: entry.used };
            }
        });
    }
}

/// The slot of `tag` in the current period. A clock that went back ends no period: what was counted for a later one goes on
/// being counted there.
fn find(slots: &mut [Slot; WAYS], tag: u64, current: u32) -> (&mut Slot, bool) {
    let known = slots.iter().position(|slot| slot.tag == tag);
    let is_over = |slot: &Slot| slot.tag == 0 || slot.period < current;
    let least = || slots.iter().enumerate().min_by_key(|(_, slot)| if is_over(slot) { 0 } else { u64::from(slot.used) + 1 });
    let at = known.or_else(|| least().map(|(at, _)| at)).unwrap_or(0);
    // `at` is an index of `slots` by construction.
    let slot = &mut slots[at];
    if is_over(slot) {
        *slot = Slot { tag, period: current, used: 0 };
        return (slot, false);
    }
    let evicted = slot.tag != tag;
    slot.tag = tag;
    (slot, evicted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slots::Keyed;
    use proptest::prelude::*;
    use std::sync::LazyLock;
    use std::time::Duration;
    use time::macros::datetime;

    /// The same for all of a test.
    fn key(name: u64) -> Key {
        static KEYED: LazyLock<Keyed> = LazyLock::new(Keyed::new);
        KEYED.key(|hasher| hasher.write_u64(name))
    }

    fn quota(text: &str) -> CalendarQuota {
        text.parse().unwrap()
    }

    fn take(counts: &Counts, name: u64, now: OffsetDateTime, text: &str) -> Account {
        counts.take(key(name), now.into(), quota(text)).0
    }

    #[test]
    fn a_period_ends_with_the_calendar() {
        for (now, text, seconds) in [
            (datetime!(2027-01-31 23:59:59 UTC), "2/month", 1),
            (datetime!(2027-02-01 00:00:00 UTC), "2/month", 28 * DAY),
            (datetime!(2028-02-29 12:00:00 UTC), "2/month", DAY / 2),
            (datetime!(2027-12-01 00:00:00 UTC), "2/month", 31 * DAY),
            (datetime!(2027-12-31 23:00:00 UTC), "2/month", 3_600),
            (datetime!(2027-12-31 23:00:00 UTC), "2/day", 3_600),
            (datetime!(1970-01-01 00:00:00 UTC), "2/day", DAY),
            (datetime!(1969-01-01 00:00:00 UTC), "2/month", 31 * DAY),
        ] {
            let counts = Counts::new(10);
            let first = take(&counts, 1, now, text);
            assert_eq!((first.allowed, first.remaining, first.ends_in), (true, 1, seconds), "{now} {text}");
            assert!(take(&counts, 1, now, text).allowed);
            let refused = take(&counts, 1, now, text);
            assert_eq!((refused.allowed, refused.remaining, refused.ends_in), (false, 0, seconds));
            // What is refused costs nothing, and the last second belongs to the period.
            let last = now.max(datetime!(1970-01-01 00:00:00 UTC)) + Duration::from_secs(seconds - 1);
            assert!(!take(&counts, 1, last, text).allowed, "{now} {text}");
            let next = take(&counts, 1, last + Duration::from_secs(1), text);
            assert_eq!((next.allowed, next.remaining), (true, 1), "{now} {text}");
        }
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing_back() {
        let counts = Counts::new(10);
        let (january, february) = (datetime!(2027-01-31 23:59:59 UTC), datetime!(2027-02-01 00:00:05 UTC));
        assert!(take(&counts, 1, january, "1/month").allowed && take(&counts, 1, february, "1/month").allowed);
        let back = take(&counts, 1, january, "1/month");
        assert_eq!((back.allowed, back.ends_in), (false, 28 * DAY + 1), "February is what counts, and its end");
        assert!(!take(&counts, 1, february, "1/month").allowed, "and going forth again gives nothing either");
        assert!(!take(&counts, 1, datetime!(2026-01-01 00:00:00 UTC), "1/month").allowed);
        assert!(take(&counts, 1, datetime!(2027-03-01 00:00:00 UTC), "1/month").allowed);
    }

    #[test]
    fn a_flood_of_new_keys_gives_nobody_a_new_quota() {
        let counts = Counts(Slots::with_shape(1, 1));
        let now = datetime!(2027-01-15 08:00:00 UTC);
        for _ in 0..5 {
            assert!(take(&counts, 7, now, "5/month").allowed);
        }
        let evictions = (1_000..1_500).filter(|name| counts.take(key(*name), now.into(), quota("5/month")).1).count();
        assert!(evictions > 400, "{evictions}");
        assert!(!take(&counts, 7, now, "5/month").allowed, "whether it still has its place or not");
        assert!(take(&counts, 7, datetime!(2027-02-01 00:00:00 UTC), "5/month").allowed);
    }

    #[test]
    fn the_next_period_needs_no_room_of_the_last_and_takes_over_nothing() {
        let counts = Counts(Slots::with_shape(1, 1));
        for name in 0..40 {
            take(&counts, name, datetime!(2027-01-15 08:00:00 UTC), "1/day");
        }
        for name in 100..116 {
            let (account, evicted) = counts.take(key(name), datetime!(2027-01-16 08:00:00 UTC).into(), quota("1/day"));
            assert!(account.allowed && !evicted);
        }
    }

    #[test]
    fn another_quota_counts_what_was_used_before() {
        let counts = Counts::new(10);
        let now = datetime!(2027-01-15 08:00:00 UTC);
        assert!((0..4).all(|_| take(&counts, 1, now, "10/month").allowed));
        assert_eq!(take(&counts, 1, now, "3/month"), Account { allowed: false, ..take(&counts, 1, now, "4/month") });
        assert_eq!(take(&counts, 1, now, "6/month").remaining, 1);
    }

    #[test]
    fn texts_that_are_no_quota_are_refused() {
        assert_eq!(quota("100000/month").to_string(), "100000/month");
        for text in ["", "5", "0/day", "+5/day", "5/d", "5/Month", "5 /day", "5/day ", "5/week", "99999999999/day", "/day"] {
            assert!(text.parse::<CalendarQuota>().is_err_and(|error| error.to_string().contains("5000/day")), "{text}");
        }
    }

    proptest! {
        /// However keys come and lose their places: nobody is ever allowed more than the quota, and a period has an end.
        #[test]
        fn never_more_than_the_quota_whoever_comes(
            names in prop::collection::vec(0_u64..60, 1..600), count in 1_u32..6, seconds in 0..LAST * 2,
        ) {
            let counts = Counts(Slots::with_shape(1, 2));
            let quota = CalendarQuota { count, period: Period::Month };
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            let mut allowed = std::collections::HashMap::new();
            for name in names {
                let (account, _) = counts.take(key(name), now, quota);
                let total = allowed.entry(name).or_insert(0);
                *total += u32::from(account.allowed);
                prop_assert!(*total <= count);
                prop_assert!(account.ends_in <= 31 * DAY);
            }
        }
    }
}
