//! What the specification demands of runtimes, and which tests ask it: `requirements.txt`.
//!
//! The one place where tests and demands meet. The file's head says how it is written.

use crate::chapters;
use crate::check::Test;

const TEXT: &str = include_str!("../requirements.txt");

const LEVELS: [&str; 5] = ["MUST", "MUST NOT", "SHOULD", "SHOULD NOT", "REQUIRED"];

/// One demand.
pub struct Requirement {
    /// Document and anchor, as `config-linux#namespaces`.
    pub section: String,
    /// The word of RFC 2119.
    pub level: String,
    /// What is demanded, in our words.
    pub text: String,
    /// Titles of tests without the rows behind them; `*` stands for anything.
    pub tests: Vec<String>,
    /// Why no test asks it, or not all of it.
    pub reason: Option<String>,
}

impl Requirement {
    /// Whether the test with this title asks it.
    pub fn names(&self, title: &str) -> bool {
        self.tests.iter().any(|pattern| fits(pattern, title))
    }
}

/// The list.
///
/// # Errors
/// The line that is not written as the file's head says.
pub fn list() -> Result<Vec<Requirement>, String> {
    let mut list: Vec<Requirement> = Vec::new();
    let mut section = None;
    for (place, line) in TEXT.lines().enumerate() {
        let wrong = |what: &str| format!("requirements.txt line {}: {what}", place + 1);
        let line = line.trim();
        if line.is_empty() || line.starts_with("//") {
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            let name = name.strip_suffix(']').ok_or_else(|| wrong("no ] at the end"))?;
            section = Some(name.to_owned());
            continue;
        }
        let Some(section) = &section else { return Err(wrong("no section before it")) };
        let (mark, rest) = line.split_once(' ').unwrap_or((line, ""));
        if let ("=" | "@" | "!", Some(last)) = (mark, list.last_mut()) {
            match mark {
                "=" => last.tests.push(format!("{section}: {rest}")),
                "@" => last.tests.push(rest.to_owned()),
                _ => last.reason = Some(rest.to_owned()),
            }
            continue;
        }
        let (level, text) = line.split_once(" | ").ok_or_else(|| wrong("no level and text"))?;
        if !LEVELS.contains(&level) {
            return Err(wrong("an unknown level"));
        }
        list.push(Requirement {
            section: section.clone(),
            level: level.to_owned(),
            text: text.to_owned(),
            tests: Vec::new(),
            reason: None,
        });
    }
    Ok(list)
}

/// What is wrong with the list itself: demands without test or reason, tests that do not exist.
pub fn holes(list: &[Requirement]) -> Vec<String> {
    let titles: Vec<String> = chapters::all().iter().map(Test::title).collect();
    let mut holes = Vec::new();
    for entry in list {
        let name = format!("{}: {}", entry.section, entry.text);
        if entry.tests.is_empty() && entry.reason.is_none() {
            holes.push(format!("{name}: neither a test nor a reason"));
        }
        let missing = |pattern: &&String| !titles.iter().any(|title| fits(pattern, title));
        for pattern in entry.tests.iter().filter(missing) {
            holes.push(format!("{name}: there is no test {pattern:?}"));
        }
    }
    holes
}

/// Whether a title, without the rows of the feature list at its end, is what the pattern says.
pub fn fits(pattern: &str, title: &str) -> bool {
    let title = title.rsplit_once(" [").map_or(title, |(title, _)| title);
    let mut parts = pattern.split('*');
    let Some(mut rest) = title.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    true
}
