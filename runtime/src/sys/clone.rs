//! `clone3(2)` with a pidfd, and the proof that the caller has one thread.
//!
//! After `clone3` without `CLONE_VM` the child owns a copy of one thread. If the parent had others,
//! a lock that one of them held (the allocator's, say) would stay locked for ever in the child.
//! [`SingleThreaded`] makes that a type: with it, ordinary Rust is safe in the child.

use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

use super::{Result, check};
use crate::error::{Call, Failure};
use crate::options::Parent;

/// Linux 5.7. libc's constant is an int, which cannot hold this bit.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Proof that the process had one thread when it was made.
#[derive(Debug)]
pub(crate) struct SingleThreaded(());

impl SingleThreaded {
    /// Asks procfs: the link count of `/proc/self/task` is two more than the number of threads.
    pub(crate) fn check() -> Result<Self> {
        let task = nix::sys::stat::stat("/proc/self/task").call("stat")?;
        if task.st_nlink == 3 {
            Ok(Self(()))
        } else {
            Err(Failure { call: "clone3", errno: Errno::EDEADLK })
        }
    }
}

/// The two returns of `clone3`.
#[derive(Debug)]
pub(crate) enum Cloned {
    /// In the new process, which has one thread by construction.
    Child(SingleThreaded),
    /// In the caller.
    Parent {
        /// The child's pid in the caller's pid namespace.
        pid: i32,
        /// Its pidfd.
        pidfd: OwnedFd,
    },
}

/// Forks with new namespaces (`CLONE_NEW*` in `flags`), into a cgroup2 directory when given.
/// clone(2), "CLONE_INTO_CGROUP" (Linux 5.7).
pub(crate) fn clone3(
    _proof: &SingleThreaded,
    flags: u64,
    parent: Parent,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Cloned> {
    let mut pidfd: RawFd = -1;
    let mut args = libc::clone_args {
        flags: flags | libc::CLONE_PIDFD as u64,
        pidfd: std::ptr::from_mut(&mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    };
    if parent == Parent::Callers {
        // The kernel takes the exit signal of the caller, and refuses another one.
        args.flags |= libc::CLONE_PARENT as u64;
        args.exit_signal = 0;
    }
    if let Some(dir) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = dir.as_raw_fd() as u64;
    }
    // SAFETY: `args` lives through the call and its size is passed. Without CLONE_VM the child
    // returns here on a copy of this stack, as after fork(2); the caller proved to have one thread.
    let pid = check("clone3", unsafe {
        libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>())
    })?;
    if pid == 0 {
        return Ok(Cloned::Child(SingleThreaded(())));
    }
    // SAFETY: the kernel stored a new descriptor that nobody else knows of.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Cloned::Parent { pid: pid as i32, pidfd })
}

/// Ends this process at once: no destructors, no exit functions. The only way out of the child of
/// [`clone3`] besides `execve`.
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: _exit does not touch memory of this process.
    unsafe { libc::_exit(status) }
}
