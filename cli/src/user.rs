//! `--user UID[:GID]`.
//!
//! Ids parse strictly. A runtime that took `4294967296`, `-1` or `1x` for some number ran the
//! process as root (CVE-2026-30892).

/// Parses an id: digits only, and not the number that means "no id" to the kernel.
pub fn parse_id(text: &str) -> Result<u32, String> {
    let number = (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()))
        .then(|| text.parse::<u32>().ok())
        .flatten()
        .filter(|&id| id != u32::MAX);
    number.ok_or_else(|| "is not an id from 0 to 4294967294".to_owned())
}

/// Parses a user and, when given, a group.
pub fn parse(text: &str) -> Result<(u32, Option<u32>), String> {
    match text.split_once(':') {
        None => Ok((parse_id(text)?, None)),
        Some((uid, gid)) => Ok((parse_id(uid)?, Some(parse_id(gid)?))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        assert_eq!(parse("0"), Ok((0, None)));
        assert_eq!(parse("1000:100"), Ok((1000, Some(100))));
        assert_eq!(parse("4294967294"), Ok((u32::MAX - 1, None)));
        for text in [
            "",
            ":",
            "1:",
            ":1",
            "-1",
            "+1",
            "1x",
            "x",
            "0x1",
            " 1",
            "1 ",
            "4294967295",
            "4294967296",
            "18446744073709551616",
            "1:-1",
            "1:4294967296",
            "1:2:3",
            "root",
            "1\n",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
