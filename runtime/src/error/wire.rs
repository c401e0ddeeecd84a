//! The error as host and guest of a virtual machine send it to each other.
//!
//! What comes from a guest is its own choice: texts are bounded and have no control characters, which a
//! terminal would obey, and of names of system calls only so many distinct ones are kept.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;

use super::{Cause, Described, Error, ErrorKind, Failure};

/// The longest text that is taken from the other side, in characters.
const LONGEST_TEXT: usize = 8192;
/// The longest name of a system call.
const LONGEST_CALL: usize = 48;
/// How many of them live as long as the process.
const MOST_CALLS: usize = 256;

const KINDS: [(ErrorKind, wire::ErrorKind); 8] = [
    (ErrorKind::NotFound, wire::ErrorKind::NotFound),
    (ErrorKind::Exists, wire::ErrorKind::Exists),
    (ErrorKind::WrongState, wire::ErrorKind::WrongState),
    (ErrorKind::NotRunning, wire::ErrorKind::NotRunning),
    (ErrorKind::Invalid, wire::ErrorKind::Invalid),
    (ErrorKind::Unsupported, wire::ErrorKind::Unsupported),
    (ErrorKind::Exec, wire::ErrorKind::Exec),
    (ErrorKind::System, wire::ErrorKind::System),
];

impl From<&Error> for wire::Error {
    fn from(error: &Error) -> Self {
        let kind = KINDS.iter().find(|(ours, _)| *ours == error.kind);
        let (call, reason) = match &error.cause {
            Cause::Call(Failure { call, errno }) => {
                (Some(((*call).to_owned(), *errno as i32)), String::new())
            }
            Cause::Reason(reason) => (None, reason.clone()),
        };
        Self {
            kind: kind.map_or(wire::ErrorKind::System, |&(_, theirs)| theirs),
            operation: error.operation.clone(),
            subject: error.subject.clone(),
            call,
            reason,
        }
    }
}

impl From<wire::Error> for Error {
    fn from(error: wire::Error) -> Self {
        let kind = KINDS.iter().find(|(_, theirs)| *theirs == error.kind);
        let cause = match error.call {
            Some((call, errno)) => {
                let errno = Errno::from_raw(errno);
                match kept(&call) {
                    Some(call) => Cause::Call(Failure { call, errno }),
                    None => Cause::Reason(format!("{}: {}", clean(&call), Described(errno))),
                }
            }
            None => Cause::Reason(clean(&error.reason)),
        };
        Self {
            kind: kind.map_or(ErrorKind::System, |&(ours, _)| ours),
            operation: clean(&error.operation),
            subject: clean(&error.subject),
            cause,
        }
    }
}

/// The text, bounded, with control characters escaped.
pub(crate) fn clean(text: &str) -> String {
    let mut cleaned = String::new();
    for character in text.chars().take(LONGEST_TEXT) {
        match character.is_control() {
            true => cleaned.extend(character.escape_default()),
            false => cleaned.push(character),
        }
    }
    cleaned
}

/// The name for as long as the process lives; nothing when it is not like one, or there are too many.
fn kept(call: &str) -> Option<&'static str> {
    static KEPT: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let like_one = |b: u8| b.is_ascii_alphanumeric() || b"_()".contains(&b);
    if call.is_empty() || call.len() > LONGEST_CALL || !call.bytes().all(like_one) {
        return None;
    }
    let mut names = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(name) = names.get(call) {
        return Some(name);
    }
    if names.len() >= MOST_CALLS {
        return None;
    }
    let name: &'static str = call.to_owned().leak();
    names.insert(name);
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Context;

    /// In this order: what the second does to the names that are kept would be in the first one's way.
    #[test]
    fn errors_of_a_friendly_and_of_a_hostile_guest() {
        an_error_comes_back_as_it_went();
        a_hostile_guest_can_neither_fill_memory_nor_write_to_the_terminal();
    }

    fn an_error_comes_back_as_it_went() {
        let failure = Failure { call: "prctl(PR_SET_NAME)", errno: Errno::EBUSY };
        let call = Err::<(), _>(failure).context("mount", "\"/proc\"").unwrap_err();
        for error in [
            call.with_kind(ErrorKind::Exec),
            Error::invalid("linux.namespaces[0]", "is not known"),
            Error::new(ErrorKind::NotFound, "load", "", "there is none"),
        ] {
            assert_eq!(Error::from(wire::Error::from(&error)), error);
        }
        for (ours, theirs) in KINDS {
            let error = Error::new(ours, "a", "b", "c");
            assert_eq!(wire::Error::from(&error).kind, theirs);
        }
    }

    fn a_hostile_guest_can_neither_fill_memory_nor_write_to_the_terminal() {
        let error = |call: Option<String>| wire::Error {
            kind: wire::ErrorKind::System,
            operation: "x".repeat(1 << 20),
            subject: "\u{1b}[2J".to_owned(),
            call: call.map(|call| (call, 5)),
            reason: "a\nb".to_owned(),
        };
        let came = Error::from(error(None));
        assert_eq!(came.operation.len(), LONGEST_TEXT);
        assert_eq!(came.subject, "\\u{1b}[2J");
        assert_eq!(came.cause, Cause::Reason("a\\nb".to_owned()));
        let odd = Error::from(error(Some("no call".to_owned())));
        assert_eq!(odd.cause, Cause::Reason("no call: EIO (i/O error)".to_owned()));
        for number in 0..2 * MOST_CALLS {
            let _ = Error::from(error(Some(format!("call{number}"))));
        }
        let many = Error::from(error(Some("one_more".to_owned())));
        assert_eq!(many.errno(), None, "{many}");
    }
}
