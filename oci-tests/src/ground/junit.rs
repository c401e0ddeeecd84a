//! JUnit's XML, as CI systems read it: a suite per section, a case per test.
//!
//! Written by hand: what is hard about it is text that XML cannot hold at all, and that a library's
//! escaping passes on.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use crate::outcome::{Outcome, Verdict};

/// The whole document.
pub fn document(runtime: &str, outcomes: &[Outcome], took: Duration) -> String {
    let mut suites: BTreeMap<&str, Vec<&Outcome>> = BTreeMap::new();
    for outcome in outcomes {
        suites.entry(outcome.section).or_default().push(outcome);
    }
    let all: Vec<&Outcome> = outcomes.iter().collect();
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let _ = writeln!(text, "<testsuites {}>", counts(runtime, &all, took));
    for (section, cases) in &suites {
        let took = cases.iter().map(|outcome| outcome.took).sum();
        let _ = writeln!(text, "  <testsuite {}>", counts(section, cases, took));
        for outcome in cases {
            case(&mut text, outcome);
        }
        text.push_str("  </testsuite>\n");
    }
    text.push_str("</testsuites>\n");
    text
}

fn counts(name: &str, outcomes: &[&Outcome], took: Duration) -> String {
    let count = |verdict| outcomes.iter().filter(|outcome| outcome.verdict == verdict).count();
    format!(
        "name=\"{}\" tests=\"{}\" failures=\"{}\" errors=\"0\" skipped=\"{}\" time=\"{:.3}\"",
        escape(name),
        outcomes.len(),
        count(Verdict::NotOk),
        count(Verdict::Skip),
        took.as_secs_f64()
    )
}

fn case(text: &mut String, outcome: &Outcome) {
    let name = outcome.title.strip_prefix(outcome.section).unwrap_or(&outcome.title);
    let _ = writeln!(
        text,
        "    <testcase classname=\"{}\" name=\"{}\" time=\"{:.3}\">",
        escape(outcome.section),
        escape(name.trim_start_matches(": ")),
        outcome.took.as_secs_f64()
    );
    let reason = escape(&outcome.reason);
    match outcome.verdict {
        Verdict::Ok => {}
        Verdict::NotOk => {
            let first = escape(outcome.reason.lines().next().unwrap_or_default());
            let _ = writeln!(text, "      <failure message=\"{first}\">{reason}</failure>");
        }
        Verdict::Skip => _ = writeln!(text, "      <skipped message=\"{reason}\"/>"),
    }
    if !outcome.notes.is_empty() {
        let notes = escape(&outcome.notes.join("\n"));
        let _ = writeln!(text, "      <system-out>{notes}</system-out>");
    }
    text.push_str("    </testcase>\n");
}

/// Text for content and attributes. Characters that XML 1.0 has no way to write become `\u{...}`.
fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            // As references: a reader makes spaces of them in attributes otherwise.
            '\n' | '\r' | '\t' => _ = write!(safe, "&#{};", u32::from(letter)),
            '\u{fffe}' | '\u{ffff}' => safe.extend(letter.escape_unicode()),
            letter if letter.is_control() => safe.extend(letter.escape_unicode()),
            letter => safe.push(letter),
        }
    }
    safe
}
