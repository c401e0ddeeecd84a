//! Installing system call filters and asking what the kernel knows of them.
//!
//! <https://man7.org/linux/man-pages/man2/seccomp.2.html>

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use bitflags::bitflags;
use nix::errno::Errno;

use super::{Result, check};
use crate::error::Failure;

/// One instruction of classic BPF.
pub(crate) type Instruction = libc::sock_filter;

bitflags! {
    /// Flags of `SECCOMP_SET_MODE_FILTER`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct FilterFlags: u32 {
        /// Apply the filter to every thread of the process.
        const TSYNC = 1 << 0;
        /// Log what is not allowed. Linux 4.14.
        const LOG = 1 << 1;
        /// Leave speculative store bypass alone. Linux 4.17.
        const SPEC_ALLOW = 1 << 2;
        /// Return a descriptor that receives notifications. Linux 5.0.
        const NEW_LISTENER = 1 << 3;
        /// Report a thread that cannot follow as ESRCH, which makes `TSYNC` and `NEW_LISTENER`
        /// compatible. Linux 5.7.
        const TSYNC_ESRCH = 1 << 4;
        /// Only a fatal signal interrupts a call whose notification was received. Linux 5.19.
        const WAIT_KILLABLE_RECV = 1 << 5;
    }
}

const CALL: &str = "seccomp";

/// Filters the calling thread's system calls from here on; with `NEW_LISTENER` returns the listener,
/// which the kernel makes close-on-exec.
///
/// Makes exactly one system call: the next one is subject to the filter.
pub(crate) fn set_mode_filter(
    flags: FilterFlags,
    program: &[Instruction],
) -> Result<Option<OwnedFd>> {
    let len =
        u16::try_from(program.len()).map_err(|_| Failure { call: CALL, errno: Errno::EINVAL })?;
    // The kernel does not write through this pointer; its type is not const for historical reasons.
    let fprog = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: `fprog` and the `len` instructions that it points to live until the call returns, and
    // the kernel copies both; it checks the program itself.
    let value = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags.bits(),
            &raw const fprog,
        )
    };
    let value = check(CALL, value)?;
    if !flags.contains(FilterFlags::NEW_LISTENER) {
        // Without TSYNC_ESRCH a positive value is the thread that could not follow.
        return if value == 0 {
            Ok(None)
        } else {
            Err(Failure { call: CALL, errno: Errno::ESRCH })
        };
    }
    let fd = RawFd::try_from(value).expect("a descriptor is an int");
    // SAFETY: with NEW_LISTENER a successful call returns a new descriptor that nobody else owns.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Whether the kernel knows a filter's return action (`SECCOMP_RET_*`).
pub(crate) fn action_is_available(action: u32) -> bool {
    // SAFETY: the kernel reads one u32 through the pointer, which is valid for the call.
    let value = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action)
    };
    value == 0
}

/// Whether the kernel knows all these filter flags. It checks them before it reads the program, so
/// that a null program ends in EFAULT when they are known and in EINVAL when not.
pub(crate) fn flags_are_known(flags: FilterFlags) -> bool {
    // SAFETY: the null pointer is what is asked about: the kernel cannot read a program from it and
    // returns an error without installing anything.
    let value = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags.bits(),
            std::ptr::null::<libc::sock_fprog>(),
        )
    };
    value == -1 && Errno::last() == Errno::EFAULT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_tell_known_from_unknown() {
        assert!(action_is_available(libc::SECCOMP_RET_USER_NOTIF));
        assert!(!action_is_available(0x7ffe_0000));
        assert!(flags_are_known(FilterFlags::LOG | FilterFlags::SPEC_ALLOW));
        assert!(!flags_are_known(FilterFlags::from_bits_retain(1 << 30)));
    }

    #[test]
    fn an_empty_program_is_refused() {
        let failure = set_mode_filter(FilterFlags::empty(), &[]).unwrap_err();
        assert_eq!(failure, Failure { call: "seccomp", errno: Errno::EINVAL });
    }
}
