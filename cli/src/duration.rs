//! Durations as Go writes them: `1m30s`, `1.5h`, `100ms`.

use std::time::Duration;

/// Units and their nanoseconds, longer names first.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Parses a duration. A number needs a unit; only `0` may stand alone. There are no negative ones.
pub fn parse(text: &str) -> Result<Duration, String> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err("is not a duration such as 5s or 1m30s".into());
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(end);
        let (unit, tail) = UNITS
            .iter()
            .find_map(|&(name, nanoseconds)| Some((nanoseconds, tail.strip_prefix(name)?)))
            .ok_or("is not a duration such as 5s or 1m30s")?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        total = nanoseconds(whole, fraction, unit)
            .and_then(|n| total.checked_add(n))
            .ok_or("is not a duration such as 5s or 1m30s")?;
        rest = tail;
    }
    u64::try_from(total).map(Duration::from_nanos).map_err(|_| "is too long".into())
}

fn nanoseconds(whole: &str, fraction: &str, unit: u64) -> Option<u128> {
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut total = whole.checked_mul(u128::from(unit))?;
    let mut scale = u128::from(unit);
    // Digits below a nanosecond count for nothing, however many there are.
    for digit in fraction.bytes() {
        scale /= 10;
        total = total.checked_add(u128::from(digit - b'0') * scale)?;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, nanoseconds) in [
            ("0", 0),
            ("0s", 0),
            ("5s", 5_000_000_000),
            ("+5s", 5_000_000_000),
            ("100ms", 100_000_000),
            ("1m30s", 90_000_000_000),
            ("1.5h", 5_400_000_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("2us", 2_000),
            ("2µs", 2_000),
            ("7ns", 7),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_nanos(nanoseconds)), "{text}");
        }
    }

    #[test]
    fn refused() {
        for text in
            ["", "5", "s", ".s", "5x", "-5s", "1.2.3s", "5s3", " 5s", "99999999999h", "+", "5 s"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
