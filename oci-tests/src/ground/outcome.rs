//! How tests end.

use std::time::Duration;

use serde_json::Value;

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As the specification says.
    Ok,
    /// Not so.
    NotOk,
    /// Could not be asked.
    Skip,
}

impl Verdict {
    /// The word for it in reports.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NotOk => "not ok",
            Self::Skip => "skip",
        }
    }

    /// The verdict that has this word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Ok, Self::NotOk, Self::Skip].into_iter().find(|verdict| verdict.word() == word)
    }
}

/// One test's result.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its section.
    pub section: &'static str,
    /// Its whole title.
    pub title: String,
    /// How it ended.
    pub verdict: Verdict,
    /// Why.
    pub reason: String,
    /// Comments.
    pub notes: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

impl Outcome {
    /// What a worker has printed of a test, and how long that took.
    pub fn read(section: &'static str, title: String, answer: &Value, took: Duration) -> Self {
        let verdict = match answer["result"].as_str() {
            Some("ok") => Verdict::Ok,
            Some("skip") => Verdict::Skip,
            _ => Verdict::NotOk,
        };
        let notes = answer["notes"].as_array().into_iter().flatten();
        Self {
            section,
            title,
            verdict,
            reason: answer["reason"].as_str().unwrap_or_default().to_owned(),
            notes: notes.filter_map(|note| note.as_str().map(str::to_owned)).collect(),
            took,
        }
    }
}

/// How many ended so.
pub fn count(outcomes: &[Outcome], verdict: Verdict) -> usize {
    outcomes.iter().filter(|outcome| outcome.verdict == verdict).count()
}
