//! Why the server could not begin, or go on: what was being done, and why it failed.
//!
//! ```text
//! open directory "/share": openat: ENOENT (No such file or directory)
//! ```
//!
//! What a guest's request meets is an errno, which the guest is told.

use std::fmt;

use nix::errno::Errno;

/// What this crate's functions return.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the server could not begin, or go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    operation: String,
    cause: String,
}

impl Error {
    /// An operation, as a verb phrase, and the reason for which it failed.
    pub(crate) fn new(operation: impl Into<String>, cause: impl fmt::Display) -> Self {
        Self { operation: operation.into(), cause: cause.to_string() }
    }

    /// A failed system call.
    pub(crate) fn call(operation: impl Into<String>, call: &str, errno: Errno) -> Self {
        Self::new(operation, format_args!("{call}: {errno:?} ({})", errno.desc()))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.operation, self.cause)
    }
}

impl std::error::Error for Error {}
