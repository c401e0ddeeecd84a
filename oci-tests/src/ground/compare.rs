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
        if asked + self.skip == 0 {
            return "–".to_owned();
        }
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
        let _ = write!(text, " {} |", short(name));
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
    let mut text = String::from("\nFailed by all:\n\n");
    for (title, verdicts) in by_title(columns) {
        if verdicts.iter().all(|o| o.is_some_and(|o| o.verdict == Verdict::NotOk)) {
            let _ = writeln!(text, "- {title}");
        }
    }
    text
}

/// The tests whose ends are not the same in all columns that have them, and how they ended otherwise.
pub fn differing(columns: &[Column]) -> String {
    let mut text = String::from("\nNot the same:\n\n");
    for (title, ends) in by_title(columns) {
        let asked: Vec<(&str, &Outcome)> = columns
            .iter()
            .zip(&ends)
            .filter_map(|((name, _), outcome)| Some((short(name), (*outcome)?)))
            .collect();
        if asked.iter().all(|(_, outcome)| outcome.verdict == asked[0].1.verdict) {
            continue;
        }
        let _ = writeln!(text, "- {title}");
        for (name, outcome) in asked {
            match outcome.verdict {
                Verdict::Ok => {}
                Verdict::NotOk => _ = writeln!(text, "  - {name} failed: {}", outcome.reason),
                Verdict::Skip => _ = writeln!(text, "  - {name} skipped: {}", outcome.reason),
            }
        }
    }
    text
}

/// Every test in the order in which the columns have them, with its result in each column.
fn by_title(columns: &[Column]) -> Vec<(&str, Vec<Option<&Outcome>>)> {
    let mut rows: Vec<(&str, Vec<Option<&Outcome>>)> = Vec::new();
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for (column, (_, outcomes)) in columns.iter().enumerate() {
        for outcome in outcomes {
            let place = *places.entry(&outcome.title).or_insert_with(|| {
                rows.push((&outcome.title, vec![None; columns.len()]));
                rows.len() - 1
            });
            rows[place].1[column] = Some(outcome);
        }
    }
    rows
}

/// A runtime's name without its directory.
fn short(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}
