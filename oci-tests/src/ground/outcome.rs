//! How tests end.

use std::time::Duration;

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
