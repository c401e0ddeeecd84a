//! Times as RFC 3339 in UTC, as state files and logs carry them.

use std::time::{SystemTime, UNIX_EPOCH};

/// `time` as `2006-01-02T15:04:05.999999999Z`, trailing zeros of the fraction cut as Go's
/// `RFC3339Nano` does.
pub fn rfc3339_nano(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = format_seconds(since.as_secs());
    match since.subsec_nanos() {
        0 => format!("{seconds}Z"),
        nanos => format!("{seconds}.{}Z", format!("{nanos:09}").trim_end_matches('0')),
    }
}

/// `time` as `2006-01-02T15:04:05Z`.
pub fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}Z", format_seconds(since.as_secs()))
}

fn format_seconds(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
}

/// The Gregorian date of a day after 1970-01-01. Years are counted from March, so that the leap day
/// ends a year and month lengths follow the 153-days-in-five-months rule.
fn civil(days: u64) -> (u64, u64, u64) {
    const FROM_MARCH_OF_YEAR_0: u64 = 719_468;
    const DAYS_IN_400_YEARS: u64 = 146_097;
    let days = days + FROM_MARCH_OF_YEAR_0;
    let (era, day) = (days / DAYS_IN_400_YEARS, days % DAYS_IN_400_YEARS);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + carry, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn known_times() {
        let at = |s, n| UNIX_EPOCH + Duration::new(s, n);
        #[rustfmt::skip]
        let table = [
            (at(0, 0), "1970-01-01T00:00:00Z"),
            (at(951_782_400, 0), "2000-02-29T00:00:00Z"),
            (at(951_868_800, 5), "2000-03-01T00:00:00.000000005Z"),
            (at(1_709_164_799, 120_000_000), "2024-02-28T23:59:59.12Z"),
            (at(4_107_542_400, 0), "2100-03-01T00:00:00Z"),
            (at(1_136_214_245, 999_999_999), "2006-01-02T15:04:05.999999999Z"),
        ];
        for (time, text) in table {
            assert_eq!(rfc3339_nano(time), text);
        }
        assert_eq!(rfc3339(at(951_868_800, 5)), "2000-03-01T00:00:00Z");
    }
}
