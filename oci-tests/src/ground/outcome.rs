//! How tests end.

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
}

impl Outcome {
    /// What a worker has printed of a test.
    pub fn read(section: &'static str, title: String, answer: &Value) -> Self {
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
        }
    }
}

/// How many ended so.
pub fn count(outcomes: &[Outcome], verdict: Verdict) -> usize {
    outcomes.iter().filter(|outcome| outcome.verdict == verdict).count()
}
