//! The words that the command lines of all suites have, and which runtimes they name.

use std::path::{Path, PathBuf};

/// What is asked for.
#[derive(Default)]
pub struct Options {
    /// Whether the first word is `compare`.
    pub compare: bool,
    /// `--runtime`.
    pub runtime: Option<PathBuf>,
    /// `--filter`: words that a title must have.
    pub filter: Vec<String>,
    /// `--jobs`.
    pub jobs: Option<usize>,
    /// `--list`.
    pub list: bool,
    /// What is not an option.
    pub others: Vec<String>,
}

impl Options {
    /// Reads the words; `own` is asked for options that only this suite has, with the value behind them,
    /// and answers whether it has this one.
    ///
    /// # Errors
    /// What is wrong with the words; an empty text is a call for help.
    pub fn parse(
        words: &[String],
        mut own: impl FnMut(&str, &mut dyn FnMut() -> Result<String, String>) -> Result<bool, String>,
    ) -> Result<Self, String> {
        let compare = words.first().is_some_and(|word| word == "compare");
        let mut options = Self { compare, ..Self::default() };
        let mut words = words.iter().skip(usize::from(compare));
        while let Some(word) = words.next() {
            let mut value = || words.next().cloned().ok_or(format!("{word} needs a value"));
            match word.as_str() {
                "--runtime" => options.runtime = Some(value()?.into()),
                "--filter" => options.filter.extend(value()?.split_whitespace().map(str::to_owned)),
                "--jobs" => {
                    options.jobs = Some(value()?.parse().map_err(|_| "--jobs needs a number")?)
                }
                "--list" => options.list = true,
                "--help" | "-h" => return Err(String::new()),
                other if !other.starts_with('-') => options.others.push(other.to_owned()),
                other if own(other, &mut value)? => {}
                other => return Err(format!("{other} is not an option")),
            }
        }
        match options.others.first() {
            None if compare && !options.list => Err("compare needs runtimes".into()),
            Some(word) if !compare => Err(format!("{word} is not a command")),
            _ => Ok(options),
        }
    }

    /// Whether the filter lets a title through.
    pub fn wants(&self, title: &str) -> bool {
        self.filter.iter().all(|word| title.contains(word.as_str()))
    }

    /// The runtime that is asked alone: `--runtime`, `$RUNTIME`, or the workspace's own.
    ///
    /// # Errors
    /// There is no such program.
    pub fn one(&self) -> Result<PathBuf, String> {
        let named = self.runtime.clone().or_else(|| std::env::var_os("RUNTIME").map(Into::into));
        named.map_or_else(own_runtime, |path| find(&path))
    }
}

/// What to print when words are wrong, or help is called for, and the exit code.
pub fn refusal(reason: &str, usage: &str) -> (String, i32) {
    match reason {
        "" => (usage.to_owned(), 0),
        reason => (format!("{reason}\n{usage}"), 2),
    }
}

/// The absolute path of a program given as a path or a name in PATH.
///
/// # Errors
/// There is none.
pub fn find(program: &Path) -> Result<PathBuf, String> {
    if program.components().count() > 1 || program.exists() {
        return program
            .canonicalize()
            .map_err(|error| format!("runtime {}: {error}", program.display()));
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let found =
        path.split(':').map(|dir| PathBuf::from(dir).join(program)).find(|file| file.is_file());
    found.ok_or(format!("runtime {} is not in PATH", program.display()))
}

/// `bulkhead` beside this program, else in the release directory, else in the debug one.
///
/// # Errors
/// There is none.
pub fn own_runtime() -> Result<PathBuf, String> {
    let own = std::env::current_exe().unwrap_or_default();
    let profile = own.parent().map(PathBuf::from).unwrap_or_default();
    let target = profile.parent().map(PathBuf::from).unwrap_or_default();
    let places =
        [target.join("release/bulkhead"), profile.join("bulkhead"), target.join("debug/bulkhead")];
    find(places.iter().find(|path| path.exists()).unwrap_or(&places[0]))
}
