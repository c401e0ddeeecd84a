//! What the tests of this crate share, and what the fuzzer uses of it.

#![allow(clippy::unwrap_used, reason = "a test, or a fuzzer, is to end there")]
#![cfg_attr(fuzzing, allow(dead_code))]

#[cfg(test)]
pub(crate) mod code;
pub(crate) mod driver;
#[cfg(test)]
pub(crate) mod guest;

use std::fs::File;
use std::io::Write;

use nix::sys::memfd::{MFdFlags, memfd_create};

/// A file without a name, with this content.
pub(crate) fn file(content: &[u8]) -> File {
    let mut file: File = memfd_create(c"test", MFdFlags::MFD_CLOEXEC).unwrap().into();
    file.write_all(content).unwrap();
    file
}
