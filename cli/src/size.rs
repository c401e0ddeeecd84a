//! Sizes in bytes with binary units: `512m`, `1.5GiB`.

/// Letters of units, each 1024 of the one before.
const UNITS: &str = "kmgtp";

/// Parses a size; `-1` means no limit.
pub fn parse(text: &str) -> Result<i64, String> {
    if text == "-1" {
        return Ok(-1);
    }
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let refuse = || "is not a size such as 1048576, 512k or 1.5g".to_owned();
    let factor = factor(unit.strip_prefix(' ').unwrap_or(unit)).ok_or_else(refuse)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if fraction.is_empty() || fraction.contains('.') {
        return Err(refuse());
    }
    let whole: i64 = whole.parse().map_err(|_| refuse())?;
    // A fraction is a convenience: fifteen digits are exact in the arithmetic below.
    let digits = &fraction[..fraction.len().min(15)];
    let part: i128 = digits.parse().map_err(|_| refuse())?;
    let bytes = i128::from(whole) * factor + part * factor / 10i128.pow(digits.len() as u32);
    i64::try_from(bytes).map_err(|_| "is too large".to_owned())
}

/// Factor of a unit: nothing, `b`, or a letter with `i`, `b` or both behind it, in any case.
fn factor(unit: &str) -> Option<i128> {
    let unit = unit.to_ascii_lowercase();
    let rest = unit.strip_suffix('b').unwrap_or(&unit);
    let rest = rest.strip_suffix('i').unwrap_or(rest);
    let mut letters = rest.chars();
    match (letters.next(), letters.next()) {
        (None, _) => Some(1),
        (Some(letter), None) => Some(1 << (10 * (UNITS.find(letter)? + 1))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("-1", -1),
            ("0", 0),
            ("4096", 4096),
            ("4096b", 4096),
            ("32k", 32 << 10),
            ("32KB", 32 << 10),
            ("32KiB", 32 << 10),
            ("32 mb", 32 << 20),
            ("1.5g", 3 << 29),
            ("2T", 2 << 40),
            ("1p", 1 << 50),
            ("9223372036854775807", i64::MAX),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn refused() {
        for text in [
            "",
            "-2",
            "k",
            "1.",
            ".5k",
            "1.2.3",
            "10x",
            "10kk",
            "1e3",
            "0x10",
            " 1",
            "1  k",
            "9223372036854775808",
            "9000000p",
            "ten",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
