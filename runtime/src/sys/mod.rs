//! System calls that `nix` lacks, as safe functions.
//!
//! The only `unsafe` of this crate. A function here is one system call with Rust types: borrowed
//! descriptors in, `OwnedFd` out, close-on-exec from birth; no policy, no retry but EINTR, no log.
//! Every one returns [`crate::error::Failure`], which names the call.
#![allow(unsafe_code)]

pub(crate) mod bpf;
pub(crate) mod children;
pub(crate) mod clone;
pub(crate) mod fd;
pub(crate) mod keyring;
pub(crate) mod kvm;
pub(crate) mod landlock;
pub(crate) mod mount;
pub(crate) mod openat2;
pub(crate) mod pidfd;
pub(crate) mod prctl;
pub(crate) mod prlimit;
pub(crate) mod process;
pub(crate) mod sched;
pub(crate) mod seccomp;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod tty;
pub(crate) mod xattr;

use std::ffi::c_long;

use nix::errno::Errno;

use crate::error::Failure;

/// What a system call function of this module returns.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// Turns the return value of `libc::syscall` or a libc wrapper into a result.
fn check(call: &'static str, value: c_long) -> Result<c_long> {
    if value == -1 { Err(Failure { call, errno: Errno::last() }) } else { Ok(value) }
}
