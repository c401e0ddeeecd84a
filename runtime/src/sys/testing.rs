//! A plain fork, for tests.

use nix::unistd::{ForkResult, Pid};

/// Forks; nothing in the child.
pub(crate) fn fork() -> Option<Pid> {
    // SAFETY: glibc keeps its allocator usable in the child of a threaded process; what else the
    // child may do is up to the test, which has no other process to harm.
    match unsafe { nix::unistd::fork() }.unwrap() {
        ForkResult::Parent { child } => Some(child),
        ForkResult::Child => None,
    }
}

/// Ends the process without running the test harness's handlers.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Owns a descriptor that this process has just received.
pub(crate) fn adopt(fd: std::os::fd::RawFd) -> std::os::fd::OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: the kernel made the descriptor for the test that calls this and nothing else owns it.
    unsafe { std::os::fd::OwnedFd::from_raw_fd(fd) }
}
