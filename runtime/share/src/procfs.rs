//! `/proc/self/fd`, by which a descriptor that only names a file (`O_PATH`) becomes one that reads and writes it, and
//! by which calls that know paths alone reach it.
//!
//! The directory is opened once, before anything of a guest is read, from a procfs: that of the process' root, or one
//! without a place where there is none. It is also the working directory, for the calls on extended attributes that
//! take no directory. A name in it is a number of ours, and leads to what the descriptor is, be it a symbolic link.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::Mode;
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use nix::unistd::fchdir;

use crate::error::{Error, Result};
use crate::sys;

/// The directory of the process' own descriptors.
#[derive(Debug)]
pub(crate) struct Descriptors(OwnedFd);

impl Descriptors {
    /// Opens it, and makes it the calling thread's working directory.
    pub(crate) fn open() -> Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let open = |path| openat(AT_FDCWD, path, flags, Mode::empty());
        let directory = open(c"/proc/thread-self/fd").or_else(|_| {
            let procfs = sys::detached_procfs()?;
            openat(procfs, c"thread-self/fd", flags, Mode::empty())
        });
        let operation = "open /proc/thread-self/fd";
        let directory = directory.map_err(|errno| Error::call(operation, "openat", errno))?;
        match fstatfs(&directory) {
            Ok(status) if status.filesystem_type() == PROC_SUPER_MAGIC => {}
            _ => return Err(Error::new(operation, "it is not on a procfs")),
        }
        fchdir(&directory).map_err(|errno| Error::call(operation, "fchdir", errno))?;
        Ok(Self(directory))
    }

    /// The name of a descriptor in the directory.
    pub(crate) fn name(fd: &impl AsFd) -> CString {
        CString::new(fd.as_fd().as_raw_fd().to_string()).expect("digits have no NUL")
    }

    /// Opens once more what `fd` is, which stays open: its number must not become another file's meanwhile.
    pub(crate) fn reopen(
        &self,
        fd: &impl AsFd,
        flags: OFlag,
    ) -> std::result::Result<OwnedFd, Errno> {
        let name = Self::name(fd);
        openat(&self.0, name.as_c_str(), flags | OFlag::O_CLOEXEC, Mode::empty())
    }
}

impl AsFd for Descriptors {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}
