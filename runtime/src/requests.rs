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
use crate::plan::Plan;
use crate::process::parent::Requests;
use crate::process::program::{Program, write_oom_score};
use crate::procfs::Procfs;
use crate::rlimits;
use crate::seccomp::notify::{self, Notify};
use crate::state::Record;
use crate::sys::clone::SingleThreaded;

/// Answers requests from a plan. `start` has none any more; its process asks for nothing that
/// needs it.
pub(crate) struct Answers<'a> {
    spec: &'a Spec,
    record: &'a Record,
    plan: Option<&'a Plan>,
    program: Option<&'a Program>,
    proc: Option<&'a Procfs>,
    warnings: &'a mut Vec<String>,
}

impl<'a> Answers<'a> {
    /// For the process of `create`.
    pub(crate) fn for_create(
        spec: &'a Spec,
        record: &'a Record,
        plan: &'a Plan,
        proc: &'a Procfs,
        warnings: &'a mut Vec<String>,
    ) -> Self {
        let program = Some(&plan.program);
        Self { spec, record, plan: Some(plan), program, proc: Some(proc), warnings }
    }

    /// For a process of `exec`.
    pub(crate) fn for_exec(
        spec: &'a Spec,
        record: &'a Record,
        program: &'a Program,
        proc: &'a Procfs,
        warnings: &'a mut Vec<String>,
    ) -> Self {
        Self { spec, record, plan: None, program: Some(program), proc: Some(proc), warnings }
    }

    /// For `start`.
    pub(crate) fn for_start(
        spec: &'a Spec,
        record: &'a Record,
        warnings: &'a mut Vec<String>,
    ) -> Self {
        Self { spec, record, plan: None, program: None, proc: None, warnings }
    }

    fn plan(&self) -> Result<&'a Plan> {
        self.plan.ok_or_else(|| unexpected("what only create can give"))
    }

    fn program(&self) -> Result<(&'a Program, &'a Procfs)> {
        self.program.zip(self.proc).ok_or_else(|| unexpected("limits after they are set"))
    }
}

fn unexpected(what: &str) -> Error {
    Error::new(
        ErrorKind::System,
        "answer",
        "the container's process",
        format!("it asked for {what}"),
    )
}

impl Requests for Answers<'_> {
    fn open(&mut self, wanted: Wanted, pid: i32) -> Result<OwnedFd> {
        let (_, proc) = self.program()?;
        bind::open_for_child(&self.plan()?.mounts, wanted, pid, proc.as_fd())
    }

    fn clone_source(&mut self, mount: usize) -> Result<OwnedFd> {
        bind::clone_for_child(&self.plan()?.mounts, mount)
    }

    fn idmap(&mut self, mount: usize, tree: OwnedFd, pid: i32) -> Result<()> {
        let plan = self.plan()?;
        let (_, proc) = self.program()?;
        let field = format!("mounts[{mount}]");
        let maps = plan.mounts.mounts.iter().find(|m| m.index == mount);
        let userns = match maps.and_then(|m| m.idmap.as_ref()).and_then(|map| map.maps.as_ref()) {
            Some((uids, gids)) => {
                let maps = idmap::plan(uids, gids);
                let proof = SingleThreaded::check().context("fork for", &field)?;
                idmap::throwaway(&proof, proc.as_fd(), &maps, &field)?
            }
            None => {
                let path = format!("/proc/{pid}/ns/user");
                open(path.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
                    .call("open")
                    .context("open", format!("{path:?}"))?
            }
        };
        bind::idmap(&plan.mounts, mount, tree.as_fd(), userns.as_fd())
    }

    fn oom_score_adj(&mut self, pid: i32) -> Result<()> {
        let (program, proc) = self.program()?;
        let score = program.oom_score_adj.unwrap_or(0);
        match write_oom_score(proc, &pid.to_string(), score) {
            // An ordinary user may not lower it. As runc, go on, but say so.
            Err(Failure { errno: Errno::EACCES | Errno::EPERM, .. }) if !geteuid().is_root() => {
                self.warn(format!("process.oomScoreAdj {score} is not set: it takes privilege"));
                Ok(())
            }
            other => other.context("set process.oomScoreAdj", score),
        }
    }

    fn rlimits(&mut self, pid: i32) -> Result<()> {
        rlimits::apply(&self.program()?.0.rlimits, Some(Pid::from_raw(pid)))
    }

    fn hooks(&mut self, pid: i32) -> Result<()> {
        let hooks = &self.plan()?.hooks;
        hooks.run(Kind::Prestart, pid)?;
        hooks.run(Kind::CreateRuntime, pid)
    }

    fn listener(&mut self, listener: OwnedFd, pid: i32) -> Result<()> {
        let profile = self.spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
        let Some(notify) = profile.and_then(Notify::of) else {
            return Err(unexpected("a seccomp agent, but linux.seccomp.listenerPath is not set"));
        };
        let record = self.record;
        let state = json!({
            "ociVersion": record.oci_version,
            "id": record.id,
            "status": "creating",
            "pid": pid,
            "bundle": record.bundle,
            "annotations": record.annotations,
        });
        notify::send(&notify, listener.as_fd(), state, pid)
    }

    fn warn(&mut self, text: String) {
        self.warnings.push(text);
    }
}
