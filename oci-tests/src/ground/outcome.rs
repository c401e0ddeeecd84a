//! How tests end.

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
