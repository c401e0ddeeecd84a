//! Results of several runtimes side by side, as markdown.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::outcome::{Outcome, Verdict};

/// One runtime's name and results.
pub type Column = (String, Vec<Outcome>);

#[derive(Default, Clone, Copy)]
struct Tally {
    ok: usize,
    not_ok: usize,
    skip: usize,
}

impl Tally {
    fn add(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Ok => self.ok += 1,
            Verdict::NotOk => self.not_ok += 1,
            Verdict::Skip => self.skip += 1,
        }
    }

    fn cell(self) -> String {
        let asked = self.ok + self.not_ok;
        let skipped =
            if self.skip > 0 { format!(" ({} skipped)", self.skip) } else { String::new() };
        format!("{}/{asked}{skipped}", self.ok)
    }
}

/// Sections as rows, runtimes as columns, passed of asked tests in the cells, totals last.
pub fn table(columns: &[Column]) -> String {
    let mut rows: BTreeMap<&str, Vec<Tally>> = BTreeMap::new();
    let mut totals = vec![Tally::default(); columns.len()];
    for (place, (_, outcomes)) in columns.iter().enumerate() {
        for outcome in outcomes {
            let row = rows
                .entry(outcome.section)
                .or_insert_with(|| vec![Tally::default(); columns.len()]);
            row[place].add(outcome.verdict);
            totals[place].add(outcome.verdict);
        }
    }
    let mut text = String::from("| section |");
    for (name, _) in columns {
        let _ = write!(text, " {} |", name.rsplit('/').next().unwrap_or(name));
    }
    let _ = writeln!(text, "\n|---|{}", "---|".repeat(columns.len()));
    for (section, tallies) in &rows {
        let cells: Vec<String> = tallies.iter().map(|tally| tally.cell()).collect();
        let _ = writeln!(text, "| {section} | {} |", cells.join(" | "));
    }
    let cells: Vec<String> = totals.iter().map(|tally| format!("**{}**", tally.cell())).collect();
    let _ = writeln!(text, "| **total** | {} |", cells.join(" | "));
    text
}

/// The tests that every runtime fails: each of them is suspect.
pub fn failed_by_all(columns: &[Column]) -> String {
    let Some((_, first)) = columns.first() else {
        return String::new();
    };
    let mut text = String::from("\nFailed by all:\n\n");
    for (place, outcome) in first.iter().enumerate() {
        let all = columns
            .iter()
            .all(|(_, outcomes)| outcomes.get(place).is_some_and(|o| o.verdict == Verdict::NotOk));
        if all {
            let _ = writeln!(text, "- {}", outcome.title);
        }
    }
    text
}
