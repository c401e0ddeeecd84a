//! Results of a run in a file, a JSON object per line, for reports that need several runs.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::outcome::{Outcome, Verdict};

/// One result that was read back.
#[derive(Clone, Debug)]
pub struct Told {
    /// How it ended.
    pub verdict: Verdict,
    /// Why.
    pub reason: String,
}

/// The results of one run, by title.
#[derive(Clone, Debug)]
pub struct Run {
    /// The runtime, as `--version` named it, in one line.
    pub runtime: String,
    /// How each test ended.
    pub tests: BTreeMap<String, Told>,
}

/// The first line of a file.
pub fn head(runtime: &str, count: usize) -> String {
    format!("{}\n", json!({ "runtime": runtime, "tests": count }))
}

/// The line of one test.
pub fn line(outcome: &Outcome) -> String {
    let value = json!({
        "title": outcome.title,
        "result": outcome.verdict.word(),
        "reason": outcome.reason,
        "notes": outcome.notes,
        "ms": u64::try_from(outcome.took.as_millis()).unwrap_or(u64::MAX),
    });
    format!("{value}\n")
}

impl Run {
    /// The results that a run in this process has had.
    pub fn of(runtime: &str, outcomes: &[Outcome]) -> Self {
        let told = |o: &Outcome| Told { verdict: o.verdict, reason: o.reason.clone() };
        let tests = outcomes.iter().map(|outcome| (outcome.title.clone(), told(outcome)));
        Self { runtime: runtime.to_owned(), tests: tests.collect() }
    }

    /// Reads the file's text.
    ///
    /// # Errors
    /// The line that is not what `head` and `line` write, or that the run was cut short.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut values = Vec::new();
        for (place, line) in text.lines().enumerate() {
            let value: Value = serde_json::from_str(line)
                .map_err(|error| format!("line {}: {error}", place + 1))?;
            values.push(value);
        }
        let Some((head, rest)) = values.split_first() else { return Err("no results".into()) };
        let runtime = head["runtime"].as_str().ok_or("line 1 names no runtime")?.to_owned();
        let mut tests = BTreeMap::new();
        for (place, value) in rest.iter().enumerate() {
            let verdict = value["result"].as_str().and_then(Verdict::parse);
            let (Some(verdict), Some(title)) = (verdict, value["title"].as_str()) else {
                return Err(format!("line {} is no result", place + 2));
            };
            let reason = value["reason"].as_str().unwrap_or_default().to_owned();
            tests.insert(title.to_owned(), Told { verdict, reason });
        }
        if head["tests"].as_u64() != u64::try_from(rest.len()).ok() {
            return Err(format!("{} results of {}", rest.len(), head["tests"]));
        }
        Ok(Self { runtime, tests })
    }
}
