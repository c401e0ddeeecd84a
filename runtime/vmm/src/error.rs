//! The one error type of this crate: what was being done, and why it failed.
//!
//! ```text
//! create processor 1: KVM_CREATE_VCPU: EEXIST
//! load kernel: no ELF file and no bzImage
//! ```

use std::fmt;
use std::io;

use nix::errno::Errno;

/// What this crate's functions return.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the machine could not be made or kept running.
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

    /// A failed call of KVM.
    pub(crate) fn kvm(operation: impl Into<String>, call: &str, error: kvm_ioctls::Error) -> Self {
        Self::new(operation, format_args!("{call}: {}", name(error.errno())))
    }

    /// A failed system call.
    pub(crate) fn io(operation: impl Into<String>, call: &str, error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(number) => Self::new(operation, format_args!("{call}: {}", name(number))),
            None => Self::new(operation, format_args!("{call}: {error}")),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.operation, self.cause)
    }
}

impl std::error::Error for Error {}

/// `ENOMEM (Cannot allocate memory)`.
fn name(number: i32) -> String {
    let errno = Errno::from_raw(number);
    format!("{errno:?} ({})", errno.desc())
}
