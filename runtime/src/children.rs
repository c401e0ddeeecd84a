//! Children of the calling process: forked, and their exit statuses.

use std::os::fd::{BorrowedFd, OwnedFd};

use crate::error::{Context, Result};
use crate::options::Parent;
use crate::sys;
use crate::sys::clone::{Cloned, SingleThreaded};

/// The two returns of [`fork`].
#[derive(Debug)]
pub enum Forked {
    /// In the new process.
    Child,
    /// In the caller: the child's pid, and a pidfd of it.
    Parent(i32, OwnedFd),
}

/// Forks the calling process, which must have one thread: then ordinary code is safe in the child. The
/// child ends by [`leave`] or by executing a program, and not by returning to the parent's code.
///
/// # Errors
/// `EDEADLK` when there are more threads than one; otherwise those of clone(2).
pub fn fork(parent: Parent) -> Result<Forked> {
    const WHAT: &str = "a process";
    let proof = SingleThreaded::check().context("fork", WHAT)?;
    match sys::clone::clone3(&proof, 0, parent, None).context("fork", WHAT)? {
        Cloned::Child(_) => Ok(Forked::Child),
        Cloned::Parent { pid, pidfd } => Ok(Forked::Parent(pid, pidfd)),
    }
}

/// Closes every descriptor but the standard streams and `keep`. Only for a forked child, which never
/// drops what its parent's code owns.
///
/// # Errors
/// Those of close_range(2).
pub fn close_all_but(keep: &[BorrowedFd<'_>]) -> Result<()> {
    sys::fd::close_all_but(keep, 0).context("close", "the parent's files")
}

/// Ends the calling process at once: no destructors, no exit functions.
pub fn leave(status: i32) -> ! {
    sys::clone::exit_now(status)
}

/// Lets the processes of the calling process group, and those they fork, share processor cores with
/// nobody else (core scheduling).
///
/// # Errors
/// `ENODEV` without simultaneous multithreading, `EINVAL` before Linux 5.14 or when not built in.
pub fn share_cores_with_own_group() -> Result<()> {
    sys::sched::create_core_cookie().context("schedule by core", "process group")
}

/// What the process' first thread shares processor cores by: with all that have the same number. 0 is
/// the number of those that share with whoever asks for nothing.
///
/// # Errors
/// As [`share_cores_with_own_group`], and `ESRCH`.
pub fn cores_shared_by(pid: i32) -> Result<u64> {
    let cookie = sys::sched::core_cookie(nix::unistd::Pid::from_raw(pid));
    cookie.context("look at core scheduling of", pid.to_string())
}

/// Gives `SIGCHLD` its default action in the calling process. A caller that ignored it hands that on
/// through `execve`, and the kernel then reaps children unseen: no exit status, of hooks neither.
pub fn keep_child_statuses() -> Result<()> {
    sys::children::default_sigchld().context("reset", "SIGCHLD")
}

/// Reaps one ended child without waiting: its pid and its exit code, 128 + N when signal N ended it.
/// `None` when no child has ended.
pub fn reap_child() -> Result<Option<(i32, u8)>> {
    let reaped = sys::children::reap().context("wait for", "children")?;
    Ok(reaped.map(|(pid, status)| (pid, exit_code(status))))
}

/// The exit code of a raw wait status, as shells count.
fn exit_code(status: i32) -> u8 {
    let signal = (status & 0x7f) as u8;
    if signal == 0 { (status >> 8) as u8 } else { 128 + signal }
}

#[cfg(test)]
mod tests {
    use super::exit_code;

    #[test]
    fn codes() {
        for (status, code) in
            [(0, 0), (3 << 8, 3), (255 << 8, 255), (9, 137), (11 | 0x80, 139), (40, 168)]
        {
            assert_eq!(exit_code(status), code, "{status:#x}");
        }
    }
}
