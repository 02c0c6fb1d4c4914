//! Instants as RFC 3339 writes them, in UTC with milliseconds: `2026-11-21T23:15:07.042Z`.

use std::time::{SystemTime, UNIX_EPOCH};

/// 9999-12-31T23:59:59.999Z, the last that has a four-digit year.
const LAST_MILLISECOND: u128 = 253_402_300_799_999;

/// Instants before 1970 or after 9999 become the nearest one within: a clock that wrong is shown, and breaks no line.
pub(crate) fn write(out: &mut Vec<u8>, time: SystemTime) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let milliseconds = since.as_millis().min(LAST_MILLISECOND) as u64;
    let (days, in_day) = (milliseconds / 86_400_000, milliseconds % 86_400_000);
    let (year, month, day) = date(days);
    let mut text = *b"0000-00-00T00:00:00.000Z";
    let (seconds, milliseconds) = (in_day / 1_000, in_day % 1_000);
    for (at, len, value) in [
        (0, 4, year),
        (5, 2, month),
        (8, 2, day),
        (11, 2, seconds / 3_600),
        (14, 2, seconds / 60 % 60),
        (17, 2, seconds % 60),
        (20, 3, milliseconds),
    ] {
        let mut value = value;
        for digit in text[at..at + len].iter_mut().rev() {
            *digit = b'0' + (value % 10) as u8;
            value /= 10;
        }
    }
    out.extend_from_slice(&text);
}

/// Year, month and day of the `days`th day after 1970-01-01, in the Gregorian calendar.
///
/// Years are counted from the 1st of March, so that the leap day comes last, in eras of 400 years, which all have the same
/// length (Howard Hinnant, `chrono`-compatible low-level date algorithms).
fn date(days: u64) -> (u64, u64, u64) {
    const ERA: u64 = 146_097;
    // From 0000-03-01.
    let days = days + 719_468;
    let (era, day_of_era) = (days / ERA, days % ERA);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    // March is 0: January and February belong to the next year.
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year_of_era + next, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;
    use time::OffsetDateTime;
    use time::macros::format_description;

    fn text(time: SystemTime) -> String {
        let mut out = Vec::new();
        write(&mut out, time);
        String::from_utf8(out).unwrap()
    }

    fn oracle(time: SystemTime) -> String {
        let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
        OffsetDateTime::from(time).format(&format).unwrap()
    }

    #[test]
    fn known_instants() {
        for (milliseconds, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
            (253_402_300_800_000, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(text(UNIX_EPOCH + Duration::from_millis(milliseconds)), expected);
        }
        assert_eq!(text(UNIX_EPOCH - Duration::from_secs(1)), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn every_day_for_three_centuries_is_what_the_library_says() {
        for day in 0..110_000 {
            let time = UNIX_EPOCH + Duration::from_secs(day * 86_400 + 86_399);
            assert_eq!(text(time), oracle(time));
        }
    }

    proptest! {
        #[test]
        fn any_instant_is_what_the_library_says(milliseconds in 0..=253_402_300_799_999u64, nanoseconds in 0..1_000_000u64) {
            let time = UNIX_EPOCH + Duration::from_millis(milliseconds) + Duration::from_nanos(nanoseconds);
            prop_assert_eq!(text(time), oracle(time));
        }
    }
}
