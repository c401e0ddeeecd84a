//! The one error type of this crate.
//!
//! An error says what was being done, to what, and why it failed:
//!
//! ```text
//! mount "/proc" (mounts[0]): move_mount: EBUSY (device or resource busy)
//! ```
//!
//! The operation is a verb phrase; the subject is a path or the JSON path of a field; the cause is
//! the failed system call and its errno, or a reason of our own. The function that knows the subject
//! adds the context, once; layers above pass the error on. A child's error crosses the fork as these
//! fields (see `process::channel`) and comes out as the same `Error`.

mod wire;

pub(crate) use wire::clean;

use std::fmt;
use std::path::Path;

use nix::errno::Errno;

/// What a caller may branch on. Text is for people and is never parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ErrorKind {
    /// No such container.
    NotFound,
    /// The container id is taken.
    Exists,
    /// The container is not in a state that allows the operation.
    WrongState,
    /// The container's process is gone.
    NotRunning,
    /// The configuration or an argument is not valid.
    Invalid,
    /// Valid, but this host or this build cannot do it.
    Unsupported,
    /// The program of the container could not be executed.
    Exec,
    /// A system call failed.
    System,
}

impl ErrorKind {
    /// The kind with this discriminant, as it crosses the fork.
    pub(crate) fn from_number(number: u8) -> Option<Self> {
        use ErrorKind::{
            Exec, Exists, Invalid, NotFound, NotRunning, System, Unsupported, WrongState,
        };
        [NotFound, Exists, WrongState, NotRunning, Invalid, Unsupported, Exec, System]
            .into_iter()
            .find(|&kind| kind as u8 == number)
    }
}

/// Why an operation failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A system call failed with an errno.
    Call(Failure),
    /// A reason of our own.
    Reason(String),
}

/// A failed system call: its name and errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The system call's name as in its man page.
    pub call: &'static str,
    /// What it failed with.
    pub errno: Errno,
}

impl Failure {
    /// The failure of `call` with the calling thread's errno.
    pub fn last(call: &'static str) -> Self {
        Self { call, errno: Errno::last() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.call, Described(self.errno))
    }
}

/// An errno as `EBUSY (device or resource busy)`: the name for operators, the words for callers that
/// map runc's messages.
struct Described(Errno);

impl fmt::Display for Described {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = self.0.desc();
        let mut chars = words.chars();
        let first = chars.next().map(|c| c.to_ascii_lowercase()).unwrap_or_default();
        write!(f, "{:?} ({first}{})", self.0, chars.as_str())
    }
}

/// A failed operation. See the module's text for how it reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    operation: String,
    subject: String,
    cause: Cause,
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error with a reason of our own.
    pub fn new(
        kind: ErrorKind,
        operation: impl Into<String>,
        subject: impl Into<String>,
        reason: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            operation: operation.into(),
            subject: subject.into(),
            cause: Cause::Reason(reason.into()),
        }
    }

    /// A field of the configuration that cannot be accepted; `field` is its JSON path.
    pub fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, "check", field, reason)
    }

    /// A valid request that this host or this build cannot carry out.
    pub fn unsupported(
        operation: impl Into<String>,
        subject: impl Into<String>,
        reason: impl Into<String>,
    ) -> Self {
        Self::new(ErrorKind::Unsupported, operation, subject, reason)
    }

    /// A failed system call.
    pub fn system(
        operation: impl Into<String>,
        subject: impl Into<String>,
        failure: Failure,
    ) -> Self {
        Self {
            kind: ErrorKind::System,
            operation: operation.into(),
            subject: subject.into(),
            cause: Cause::Call(failure),
        }
    }

    /// The same error under another kind.
    #[must_use]
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.kind = kind;
        self
    }

    /// What a caller may branch on.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The verb phrase.
    pub fn operation(&self) -> &str {
        &self.operation
    }

    /// The path or field that the operation was done to; empty when there is none.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Why it failed.
    pub fn cause(&self) -> &Cause {
        &self.cause
    }

    /// The errno, when a system call failed.
    pub fn errno(&self) -> Option<Errno> {
        match &self.cause {
            Cause::Call(failure) => Some(failure.errno),
            Cause::Reason(_) => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.operation)?;
        if !self.subject.is_empty() {
            write!(f, " {}", self.subject)?;
        }
        match &self.cause {
            Cause::Call(failure) => write!(f, ": {failure}"),
            Cause::Reason(reason) => write!(f, ": {reason}"),
        }
    }
}

impl std::error::Error for Error {}

/// Names the system call behind a bare errno.
pub trait Call<T> {
    /// Turns an errno into a [`Failure`] of `call`.
    fn call(self, call: &'static str) -> Result<T, Failure>;
}

impl<T> Call<T> for Result<T, Errno> {
    fn call(self, call: &'static str) -> Result<T, Failure> {
        self.map_err(|errno| Failure { call, errno })
    }
}

impl<T> Call<T> for std::io::Result<T> {
    fn call(self, call: &'static str) -> Result<T, Failure> {
        self.map_err(|e| Failure {
            call,
            errno: e.raw_os_error().map_or(Errno::EIO, Errno::from_raw),
        })
    }
}

/// Adds operation and subject to a failed system call.
pub trait Context<T> {
    /// The subject is anything printable; paths go through [`quote`].
    fn context(self, operation: &str, subject: impl fmt::Display) -> Result<T>;
}

impl<T> Context<T> for Result<T, Failure> {
    fn context(self, operation: &str, subject: impl fmt::Display) -> Result<T> {
        self.map_err(|failure| Error::system(operation, subject.to_string(), failure))
    }
}

/// A path in double quotes with control characters escaped, as errors show it.
pub fn quote(path: impl AsRef<Path>) -> String {
    format!("{:?}", path.as_ref())
}
