//! The Test Anything Protocol, version 13: what `prove` of Perl 5.36 reads.
//!
//! Version 14 changes nothing that is used here, and that `prove` refuses it.

use std::fmt::Write;

use crate::format::flat;
use crate::outcome::{Outcome, Verdict};

/// The version and the plan.
pub fn head(count: usize) -> String {
    format!("TAP version 13\n1..{count}\n")
}

/// One test with its block of details.
pub fn result(number: usize, outcome: &Outcome) -> String {
    let title = description(&outcome.title);
    let mut text = match outcome.verdict {
        Verdict::Ok => format!("ok {number} - {title}\n"),
        Verdict::NotOk => format!("not ok {number} - {title}\n"),
        Verdict::Skip => format!("ok {number} - {title} # SKIP {}\n", flat(&outcome.reason)),
    };
    text.push_str("  ---\n");
    let _ = writeln!(text, "  duration_ms: {}", outcome.took.as_millis());
    if outcome.verdict == Verdict::NotOk {
        let _ = writeln!(text, "  message: {}", quoted(&outcome.reason));
    }
    if !outcome.notes.is_empty() {
        text.push_str("  notes:\n");
    }
    for note in &outcome.notes {
        let _ = writeln!(text, "    - {}", quoted(note));
    }
    text.push_str("  ...\n");
    text
}

/// A title, in which `#` would begin a directive.
fn description(title: &str) -> String {
    flat(title).replace('\\', r"\\").replace('#', r"\#")
}

/// A double-quoted scalar, with the escapes that YAML and Perl's reader of a part of it share.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            letter if u32::from(letter) < 0x80 && letter.is_control() => {
                let _ = write!(quoted, "\\x{:02x}", u32::from(letter));
            }
            letter if letter.is_control() => quoted.push('\u{fffd}'),
            letter => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}
