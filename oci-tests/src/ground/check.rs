//! How a test judges what it saw.

use std::fmt::Debug;
use std::io;

use serde_json::{Value, json};

/// Why a test did not pass.
#[derive(Clone, Debug)]
pub enum Stop {
    /// The runtime does not do what the specification says.
    Fail(String),
    /// This machine, or this runtime, cannot be asked the question.
    Skip(String),
}

/// The result of a test and of everything it calls.
pub type Res<T = ()> = Result<T, Stop>;

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Fail(format!("suite: {error}"))
    }
}

impl From<nix::Error> for Stop {
    fn from(error: nix::Error) -> Self {
        Self::Fail(format!("suite: {error}"))
    }
}

/// A failure with a reason.
pub fn fail<T>(reason: impl Into<String>) -> Res<T> {
    Err(Stop::Fail(reason.into()))
}

/// A skip with a reason.
pub fn skip<T>(reason: impl Into<String>) -> Res<T> {
    Err(Stop::Skip(reason.into()))
}

/// Fails with `reason` unless `fact` holds.
pub fn ensure(fact: bool, reason: impl Into<String>) -> Res {
    if fact { Ok(()) } else { fail(reason) }
}

/// Fails unless the two are equal.
pub fn eq<T: PartialEq + Debug>(what: &str, seen: &T, wanted: &T) -> Res {
    ensure(seen == wanted, format!("{what}: wanted {wanted:?}, saw {seen:?}"))
}

/// Fails unless a JSON value is the wanted one.
pub fn same(what: &str, seen: &Value, wanted: Value) -> Res {
    ensure(*seen == wanted, format!("{what}: wanted {wanted}, saw {}", brief(seen)))
}

/// Fails unless a step of the probe was refused with one of the errnos.
pub fn refused_with(what: &str, seen: &Value, errnos: &[&str]) -> Res {
    let errno = seen["errno"].as_str();
    ensure(
        errno.is_some_and(|errno| errnos.contains(&errno)),
        format!("{what}: wanted {}, saw {}", errnos.join(" or "), brief(seen)),
    )
}

/// Fails unless a step of the probe went well.
pub fn allowed(what: &str, seen: &Value) -> Res {
    ensure(
        !seen.is_null() && seen["errno"].is_null(),
        format!("{what}: wanted success, saw {}", brief(seen)),
    )
}

/// Fails unless the text has the words.
pub fn has(what: &str, text: &str, words: &str) -> Res {
    ensure(text.contains(words), format!("{what}: wanted {words:?} in {:?}", cut(text)))
}

/// A step's answer of success.
pub fn ok() -> Value {
    json!("ok")
}

/// At most one screen line of a JSON value.
pub fn brief(value: &Value) -> String {
    cut(&value.to_string())
}

/// At most 300 characters of a text, on one line.
pub fn cut(text: &str) -> String {
    let flat = text.trim().replace('\n', " | ");
    match flat.char_indices().nth(300) {
        Some((end, _)) => format!("{}...", &flat[..end]),
        None => flat,
    }
}

/// The entry of a probe's mount table at `point`; the last one wins, as in the kernel.
pub fn mount_at<'v>(report: &'v Value, point: &str) -> Res<&'v Value> {
    let table = report["mounts"].as_array();
    match table.and_then(|table| table.iter().rev().find(|mount| mount["point"] == point)) {
        Some(mount) => Ok(mount),
        None => fail(format!("no mount at {point}")),
    }
}

/// Whether a comma-separated list has a word.
pub fn has_option(list: &Value, word: &str) -> bool {
    list.as_str().is_some_and(|list| list.split(',').any(|option| option == word))
}
