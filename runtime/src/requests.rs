//! What the creator does for a container's process, whose user namespace gives it too little power.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, geteuid};
use oci_spec::runtime::Spec;
use serde_json::json;

use crate::error::{Call, Context, Error, ErrorKind, Failure, Result};
use crate::hooks::Kind;
use crate::idmap;
use crate::mount::bind::{self, Wanted};
use crate::netdev;
use crate::oom_score;
use crate::plan::Plan;
use crate::process::program::Program;
use crate::procfs::Procfs;
use crate::report::Status;
use crate::rlimits;
use crate::seccomp::notify::{self, Notify};
use crate::state::Record;
use crate::sys::clone::SingleThreaded;

/// What a process asks while it takes on its limits.
pub(crate) trait Limits {
    /// Sets the process's oom_score_adj.
    fn oom_score_adj(&mut self, pid: i32) -> Result<()>;
    /// Raises the process's hard limits.
    fn rlimits(&mut self, pid: i32) -> Result<()>;
}

/// For a process that may ask for nothing.
#[derive(Debug)]
pub(crate) struct NoRequests;

impl Limits for NoRequests {
    fn oom_score_adj(&mut self, _: i32) -> Result<()> {
        Err(unasked())
    }

    fn rlimits(&mut self, _: i32) -> Result<()> {
        Err(unasked())
    }
}

fn unasked() -> Error {
    Error::new(ErrorKind::System, "answer", "the process", "it may ask for nothing")
}

/// Answers the process that enters a container.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    pub program: &'a Program,
    pub proc: &'a Procfs,
    pub warnings: &'a mut Vec<String>,
}

impl Limits for Entry<'_> {
    fn oom_score_adj(&mut self, pid: i32) -> Result<()> {
        let score = self.program.oom_score_adj.unwrap_or(0);
        match oom_score::write(self.proc, &pid.to_string(), score) {
            // An ordinary user may not lower it. As runc, go on, but say so.
            Err(Failure { errno: Errno::EACCES | Errno::EPERM, .. }) if !geteuid().is_root() => {
                let text = format!("process.oomScoreAdj {score} is not set: it takes privilege");
                self.warnings.push(text);
                Ok(())
            }
            other => other.context("set process.oomScoreAdj", score),
        }
    }

    fn rlimits(&mut self, pid: i32) -> Result<()> {
        rlimits::raise(&self.program.rlimits, Some(Pid::from_raw(pid)))
    }
}

/// Answers the process that builds a container.
#[derive(Debug)]
pub(crate) struct Creation<'a> {
    pub plan: &'a Plan,
    pub proc: &'a Procfs,
    /// The network devices that the container has got.
    pub moved: &'a mut Option<netdev::Moved>,
    pub warnings: &'a mut Vec<String>,
}

impl Creation<'_> {
    fn entry(&mut self) -> Entry<'_> {
        Entry { program: &self.plan.program, proc: self.proc, warnings: self.warnings }
    }

    /// Opens a path of the plan for the process `pid`.
    pub(crate) fn open(&self, wanted: Wanted, pid: i32) -> Result<OwnedFd> {
        bind::open_for_child(&self.plan.mounts, wanted, pid, self.proc.as_fd())
    }

    /// Clones the source of `mounts[n]`.
    pub(crate) fn clone_source(&self, mount: usize) -> Result<OwnedFd> {
        bind::clone_for_child(&self.plan.mounts, mount)
    }

    /// Maps the ids of the tree that becomes `mounts[n]`.
    pub(crate) fn idmap(&self, mount: usize, tree: OwnedFd, pid: i32) -> Result<()> {
        let mounts = &self.plan.mounts;
        let field = format!("mounts[{mount}]");
        let maps = mounts.mounts.iter().find(|m| m.index == mount);
        let userns = match maps.and_then(|m| m.idmap.as_ref()).and_then(|map| map.maps.as_ref()) {
            Some((uids, gids)) => {
                let maps = idmap::plan(uids, gids);
                let proof = SingleThreaded::check().context("fork for", &field)?;
                idmap::throwaway(&proof, self.proc.as_fd(), &maps, &field)?
            }
            None => {
                let path = format!("/proc/{pid}/ns/user");
                open(path.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
                    .call("open")
                    .context("open", format!("{path:?}"))?
            }
        };
        bind::idmap(mounts, mount, tree.as_fd(), userns.as_fd())
    }

    /// Writes the id maps of the process that has made its user namespace itself.
    pub(crate) fn maps(&self, pid: i32) -> Result<()> {
        match &self.plan.maps {
            Some((maps, writer)) => maps.write(self.proc.as_fd(), pid, *writer),
            None => Ok(()),
        }
    }

    /// Moves network devices to the process `pid`, in whose namespace `socket` was opened.
    pub(crate) fn net_devices(&mut self, socket: OwnedFd, pid: i32) -> Result<()> {
        *self.moved = Some(netdev::move_all(&self.plan.net_devices, socket, pid)?);
        Ok(())
    }

    /// Runs prestart and createRuntime hooks.
    pub(crate) fn hooks(&self, pid: i32) -> Result<()> {
        self.plan.hooks.run(Kind::Prestart, pid)?;
        self.plan.hooks.run(Kind::CreateRuntime, pid)
    }
}

impl Limits for Creation<'_> {
    fn oom_score_adj(&mut self, pid: i32) -> Result<()> {
        self.entry().oom_score_adj(pid)
    }

    fn rlimits(&mut self, pid: i32) -> Result<()> {
        self.entry().rlimits(pid)
    }
}

/// Whom the seccomp listener of a starting process goes to.
#[derive(Debug)]
pub(crate) struct Agent<'a> {
    pub spec: &'a Spec,
    pub record: &'a Record,
    /// Of the container, at this moment.
    pub status: Status,
}

impl Agent<'_> {
    /// Hands the listener of the process `pid` to the agent of the profile.
    pub(crate) fn give(&self, listener: OwnedFd, pid: i32) -> Result<()> {
        let profile = self.spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
        let notify = profile.and_then(Notify::of).ok_or_else(|| {
            let reason = "it has a listener, but linux.seccomp.listenerPath is not set";
            Error::new(ErrorKind::System, "start", "the container's process", reason)
        })?;
        let record = self.record;
        let state = json!({
            "ociVersion": record.oci_version,
            "id": record.id,
            "status": self.status,
            // Of the container's first process, which is not `pid` when this is a further one.
            "pid": record.pid,
            "bundle": record.bundle,
            "annotations": record.annotations,
        });
        notify::send(&notify, listener.as_fd(), state, pid)
    }
}
