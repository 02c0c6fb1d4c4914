//! Times as a finding tells them.

use std::time::Duration;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
/// Nobody counts the days of three years.
const YEAR: u64 = 365 * DAY;

/// In its two largest units: `41 s`, `2 h 5 min`, `3 years 13 days`.
pub(crate) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let many = |count: u64, unit: &str| format!("{count} {unit}{}", if count == 1 { "" } else { "s" });
    let two = |large: String, rest: u64, small: String| if rest == 0 { large } else { format!("{large} {small}") };
    match seconds {
        // Beside a leeway, which is written in seconds.
        0..120 => format!("{seconds} s"),
        120..HOUR => two(format!("{} min", seconds / MINUTE), seconds % MINUTE, format!("{} s", seconds % MINUTE)),
        HOUR..DAY => {
            let minutes = seconds % HOUR / MINUTE;
            two(format!("{} h", seconds / HOUR), minutes, format!("{minutes} min"))
        }
        DAY..YEAR => {
            let hours = seconds % DAY / HOUR;
            two(many(seconds / DAY, "day"), hours, format!("{hours} h"))
        }
        _ => {
            let days = seconds % YEAR / DAY;
            two(many(seconds / YEAR, "year"), days, many(days, "day"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_units_are_enough() {
        for (seconds, expected) in [
            (0, "0 s"),
            (119, "119 s"),
            (120, "2 min"),
            (5 * MINUTE + 7, "5 min 7 s"),
            (HOUR, "1 h"),
            (2 * HOUR + 5 * MINUTE + 59, "2 h 5 min"),
            (DAY, "1 day"),
            (2 * DAY + 3 * HOUR + 59, "2 days 3 h"),
            (3 * YEAR + 13 * DAY + 11 * HOUR, "3 years 13 days"),
            (YEAR + DAY, "1 year 1 day"),
        ] {
            assert_eq!(span(Duration::from_secs(seconds)), expected);
        }
        assert!(span(Duration::MAX).contains("years"));
    }
}
