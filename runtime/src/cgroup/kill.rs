//! Signalling every process of a cgroup.
//!
//! SIGKILL goes by `cgroup.kill` (Linux 5.14), which cannot be outrun by forking, to what is in the
//! cgroup2 directory. The rest, and other signals, take a freeze: nothing forks while the
//! processes are listed and signalled. A signal goes through a pidfd whose process is seen in the
//! cgroup *after* the pidfd was opened, so a pid taken over by another process is never signalled.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;

use super::{Cgroup, knob, members, vanished};
use crate::error::{Context, Result, quote};
use crate::sys::pidfd;

/// Rounds against processes that fork where no freezer reaches them.
const ROUNDS: u32 = 100;

impl Cgroup {
    /// Sends `signal` to every process, sub-cgroups included. A paused container is resumed by
    /// SIGKILL, which it could not die of otherwise, and stays paused with any other signal.
    pub fn kill(&self, signal: i32) -> Result<()> {
        if signal != libc::SIGKILL {
            return self.signal_frozen(signal);
        }
        self.kill_unified()?;
        if self.groups.iter().all(|g| g.at.unified) {
            return Ok(());
        }
        if !self.rest()?.is_empty() {
            return self.kill_frozen();
        }
        // cgroup.kill marks what the v1 freezer holds; it dies when it is let go.
        self.let_killed_go()
    }

    fn kill_unified(&self) -> Result<()> {
        let Some(group) = self.unified() else {
            return Ok(());
        };
        match knob::put(&group.dir, "cgroup.kill", "1") {
            Err(f) if vanished(f.errno) => Ok(()),
            // A threaded cgroup has no cgroup.kill of its own kind; its processes are signalled.
            Err(f) if f.errno == Errno::EOPNOTSUPP => self.kill_frozen(),
            result => result.context("kill", quote(&group.at.path)),
        }
    }

    /// Processes that are in a v1 hierarchy only. Read in this order, one that dies in between
    /// counts as such and is signalled once more, which does no harm.
    fn rest(&self) -> Result<BTreeSet<i32>> {
        let mut rest = BTreeSet::new();
        for group in self.groups.iter().filter(|g| !g.at.unified) {
            members(&group.dir, &mut rest).context("list processes of", quote(&group.at.path))?;
        }
        let mut dying = BTreeSet::new();
        if let Some(group) = self.unified() {
            members(&group.dir, &mut dying).context("list processes of", quote(&group.at.path))?;
        }
        Ok(rest.difference(&dying).copied().collect())
    }

    /// Kills by signals until no process is left that has not had one.
    fn kill_frozen(&self) -> Result<()> {
        // Best effort: a process that will not freeze is killed all the same.
        let _ = self.freeze();
        let mut result = Ok(());
        let mut signalled = BTreeSet::new();
        for _ in 0..ROUNDS {
            let before = signalled.len();
            result = self.signal_all(libc::SIGKILL, &mut signalled);
            if result.is_err() || signalled.len() == before {
                break;
            }
        }
        // A frozen process of v1 dies when it is thawed. Thaw also after an error.
        result.and(self.let_killed_go())
    }

    fn signal_frozen(&self, signal: i32) -> Result<()> {
        let paused = self.is_frozen()?;
        let frozen = paused || self.freeze().is_ok();
        let result = self.signal_all(signal, &mut BTreeSet::new());
        let thawed = if frozen && !paused { self.thaw() } else { Ok(()) };
        result.and(thawed)
    }

    /// Signals every process that is not yet in `signalled`, and adds it.
    fn signal_all(&self, signal: i32, signalled: &mut BTreeSet<i32>) -> Result<()> {
        let mut opened: Vec<(i32, OwnedFd)> = Vec::new();
        for pid in self.pids()?.into_iter().filter(|pid| !signalled.contains(pid)) {
            match pidfd::open(pid) {
                Ok(fd) => opened.push((pid, fd)),
                Err(f) if f.errno == Errno::ESRCH => {}
                Err(f) => return Err(f).context("open process", pid),
            }
        }
        let present: BTreeSet<i32> = self.pids()?.into_iter().collect();
        for (pid, fd) in opened.iter().filter(|(pid, _)| present.contains(pid)) {
            match pidfd::send_signal(fd.as_fd(), signal) {
                Err(f) if f.errno == Errno::ESRCH => {}
                result => result.context("signal process", pid)?,
            }
            signalled.insert(*pid);
        }
        Ok(())
    }
}
