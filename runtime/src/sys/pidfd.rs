//! [pidfd_open(2)](https://man7.org/linux/man-pages/man2/pidfd_open.2.html).

use std::os::fd::{FromRawFd, OwnedFd};

use nix::unistd::Pid;

use super::{Result, check};

/// A descriptor of the process, close-on-exec.
pub(crate) fn pidfd_open(pid: Pid) -> Result<OwnedFd> {
    // SAFETY: the arguments are plain numbers.
    let value = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let fd = i32::try_from(check("pidfd_open", value)?).expect("descriptors have 32 bits");
    // SAFETY: the kernel just made this descriptor and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
