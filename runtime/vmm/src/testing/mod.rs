//! What the tests of this crate share.

pub(crate) mod code;
pub(crate) mod driver;
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
