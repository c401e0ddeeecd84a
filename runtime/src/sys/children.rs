//! Exit statuses of children: signal(2), waitpid(2).

use nix::errno::Errno;

use super::{Result, check};
use crate::error::Failure;

/// Gives `SIGCHLD` its default action in the calling process.
pub(crate) fn default_sigchld() -> Result<()> {
    // SAFETY: SIG_DFL is a valid disposition and no old one is asked for.
    if unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) } == libc::SIG_ERR {
        return Err(Failure::last("rt_sigaction"));
    }
    Ok(())
}

/// Reaps one ended child of any kind without waiting: its pid and raw wait status. `nix` has the
/// call, but loses the status of a child that a real-time signal ended.
pub(crate) fn reap() -> Result<Option<(i32, i32)>> {
    let mut status = 0;
    // SAFETY: the status is written through a pointer that outlives the call.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::__WALL) };
    match check("waitpid", pid.into()) {
        Err(failure) if failure.errno == Errno::ECHILD => Ok(None),
        result => result.map(|pid| (pid != 0).then_some((pid as i32, status))),
    }
}
