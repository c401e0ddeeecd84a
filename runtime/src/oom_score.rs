//! `oom_score_adj`: whom the kernel's OOM killer prefers. proc_pid_oom_score_adj(5).
//!
//! Everybody may make a process of his own a better victim; it takes CAP_SYS_RESOURCE to go below what
//! was inherited. But the file of a process that is not dumpable belongs to root, and ours never is. So
//! for an ordinary user the creator takes the value on itself, before it makes itself non-dumpable and
//! forks, and gives it back afterwards: the child inherits it.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::geteuid;

use crate::error::{Call, Context, Failure, Result};
use crate::procfs::Procfs;
use crate::sys;

/// The value of a creator that lends its child another one; put back on drop.
#[derive(Debug)]
pub(crate) struct Lent {
    file: OwnedFd,
    own: Vec<u8>,
}

/// Takes `score` on for the next fork. Nothing, where the child may set it itself, or nobody may.
pub(crate) fn lend(proc: &Procfs, score: Option<i32>) -> Result<Option<Lent>> {
    let Some(score) = score.filter(|_| !geteuid().is_root()) else { return Ok(None) };
    let lent = || {
        let file = proc.try_open("self/oom_score_adj", OFlag::O_RDWR | OFlag::O_CLOEXEC)?;
        let mut own = vec![0; 16];
        let length = nix::unistd::read(&file, &mut own).call("read")?;
        own.truncate(length);
        nix::unistd::write(&file, score.to_string().as_bytes()).call("write")?;
        Ok(Lent { file, own })
    };
    match lent() {
        Err(Failure { errno: Errno::EACCES | Errno::EPERM, .. }) => Ok(None),
        lent => lent.map(Some).context("set process.oomScoreAdj", score),
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // It was the process's own value, so the kernel has no reason to refuse it.
        let _ = nix::unistd::write(&self.file, &self.own);
    }
}

/// Sets the value of a process.
pub(crate) fn write(proc: &Procfs, process: &str, score: i32) -> sys::Result<()> {
    proc.try_write(&format!("{process}/oom_score_adj"), score.to_string().as_bytes())
}

/// Whether the calling process has this value.
pub(crate) fn has(proc: &Procfs, score: i32) -> bool {
    let read = || {
        let file = proc.try_open("self/oom_score_adj", OFlag::O_RDONLY | OFlag::O_CLOEXEC).ok()?;
        let mut text = [0; 16];
        let length = nix::unistd::read(&file, &mut text).ok()?;
        std::str::from_utf8(&text[..length]).ok()?.trim().parse().ok()
    };
    read() == Some(score)
}
