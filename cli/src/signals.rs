//! Signal names.

use nix::sys::signal::Signal;

/// First and last real-time signal for programs, as glibc counts them: the two below are its own.
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;
/// Second names of signal(7).
const ALIASES: [(&str, Signal); 4] = [
    ("IOT", Signal::SIGABRT),
    ("CLD", Signal::SIGCHLD),
    ("POLL", Signal::SIGIO),
    ("UNUSED", Signal::SIGSYS),
];

/// The number of a signal given by number or by name, with or without `SIG`, in any case. 0 sends
/// nothing and asks whether there is somebody to receive.
pub fn parse(text: &str) -> Option<i32> {
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().ok().filter(|number| (0..=*REAL_TIME.end()).contains(number));
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    real_time(name).or_else(|| {
        let alias = ALIASES.iter().find(|(alias, _)| *alias == name).map(|&(_, signal)| signal);
        let signal = alias.or_else(|| format!("SIG{name}").parse().ok())?;
        Some(signal as i32)
    })
}

/// `RTMIN`, `RTMIN+n`, `RTMAX`, `RTMAX-n`.
fn real_time(name: &str) -> Option<i32> {
    let offset = |text: &str, sign: char| {
        if text.is_empty() {
            return Some(0);
        }
        let digits = text.strip_prefix(sign)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
    };
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        REAL_TIME.start().checked_add(offset(rest, '+')?)?
    } else {
        REAL_TIME.end().checked_sub(offset(name.strip_prefix("RTMAX")?, '-')?)?
    };
    REAL_TIME.contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, number) in [
            ("TERM", 15),
            ("SIGTERM", 15),
            ("sigterm", 15),
            ("Kill", 9),
            ("9", 9),
            ("0", 0),
            ("64", 64),
            ("CHLD", 17),
            ("cld", 17),
            ("SIGPOLL", 29),
            ("winch", 28),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("rtmax-1", 63),
            ("RTMAX", 64),
        ] {
            assert_eq!(parse(text), Some(number), "{text}");
        }
        for text in [
            "",
            "FOO",
            "65",
            "-1",
            "+9",
            "SIG",
            "SIG9",
            "RTMIN+31",
            "RTMIN-1",
            "RTMAX-31",
            "RTMIN+",
            "RTMIN++1",
            "4294967305",
            " 9",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
