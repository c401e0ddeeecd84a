//! The verbs of a container in a virtual machine, where they differ.

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use oci_spec::runtime::{LinuxResources, Process as ProcessSpec};

use super::Container;
use crate::cgroup::stats::Stats;
use crate::error::{Call, Context, Error, ErrorKind, Result, quote};
use crate::host::Host;
use crate::isolation::vm::{Recorded, calls, exec, outside};
use crate::options::{Console, ExecOptions};
use crate::process::parent::Waiting;
use crate::requests::NoRequests;
use crate::state::Record;
use crate::{create, sys};

/// How long a process that was killed in the guest may be there, in milliseconds.
const KILLED: u16 = 5000;

/// A process of a container in a virtual machine, as its guest sees it.
pub use wire::Row as GuestProcess;

impl Container {
    /// Makes a further process, which waits for its start.
    pub(super) fn exec_in_machine(
        &self,
        recorded: &Recorded,
        options: &ExecOptions,
        warnings: &mut Vec<String>,
    ) -> Result<Waiting> {
        if options.process.terminal().unwrap_or(false) && options.console == Console::Nobody {
            return Err(create::no_console());
        }
        let refused = |what: &str, reason: &str| {
            Err(Error::unsupported("exec in a virtual machine", what, reason))
        };
        if options.preserve_fds > 0 {
            return refused(
                "--preserve-fds",
                "a descriptor of the host means nothing to the guest's kernel",
            );
        }
        if !options.cgroups.is_empty() {
            return refused("--cgroup", "the container's cgroups are the guest's");
        }
        if self.cgroup()?.is_frozen()? {
            return Err(self.paused("exec in"));
        }
        let chance = Host::read()?.chance;
        let terminal =
            options.process.terminal().unwrap_or(false).then(|| terminal_size(&options.process));
        let made = exec::create(&self.dir, &self.record.id, &options.process, chance, warnings)?;
        let mut cgroup = self.cgroup()?;
        cgroup.prepare_join()?;
        let target = exec::Target { pidfd: self.pidfd()?, cgroup: &cgroup, recorded };
        exec::spawn(made, &target, terminal, options.parent)?.join().wait(&mut NoRequests)
    }

    /// Signals the first process. What SIGKILL cannot do in the guest it does to the machine.
    pub(super) fn kill_in_machine(&self, signal: i32, all: bool) -> Result<()> {
        let pidfd = self.pidfd()?;
        let cgroup = self.cgroup()?;
        let signalled = match cgroup.is_frozen()? {
            true => Err(self.paused("signal")),
            false => calls::signal(self.dir.fd(), &self.record.id, signal, all),
        };
        if signal != libc::SIGKILL {
            return signalled;
        }
        // That it was done is the guest's word.
        if signalled.is_ok() && ends_within(pidfd.as_fd(), KILLED)? {
            return Ok(());
        }
        sys::pidfd::send_signal(pidfd.as_fd(), signal)
            .context("signal container", quote(&self.record.id))?;
        cgroup.let_killed_go()
    }

    /// Figures of the container's cgroup in the guest.
    pub(super) fn measure_machine(&self) -> Result<Stats> {
        if self.cgroup()?.is_frozen()? {
            return Err(self.paused("measure"));
        }
        calls::stats(self.dir.fd(), &self.record.id)
    }

    /// Changes limits in the guest, and those of the whole sandbox that follow from them.
    pub(super) fn update_machine(
        &self,
        recorded: &Recorded,
        resources: &LinuxResources,
        warnings: &mut Vec<String>,
    ) -> Result<()> {
        let cgroup = self.cgroup()?;
        if cgroup.is_frozen()? {
            return Err(self.paused("update"));
        }
        let outer = outside(recorded, resources)?;
        calls::update(self.dir.fd(), &self.record.id, resources, warnings)?;
        cgroup.update_with(self.record.options.unit.as_ref(), &outer, warnings)
    }

    /// The processes as the guest sees them; none for a container that is not in a virtual machine.
    ///
    /// # Errors
    /// `NotRunning` when it has ended; the guest does not answer.
    pub fn guest_processes(&self) -> Result<Option<Vec<GuestProcess>>> {
        if self.record.machine.is_none() {
            return Ok(None);
        }
        self.pidfd()?;
        if self.cgroup()?.is_frozen()? {
            return Err(self.paused("list the processes of"));
        }
        calls::processes(self.dir.fd(), &self.record.id).map(Some)
    }

    /// A frozen machine cannot answer.
    fn paused(&self, operation: &str) -> Error {
        self.wrong(operation, "container is paused, and its virtual machine with it")
    }
}

/// Whether a process ends within so many milliseconds.
fn ends_within(pidfd: BorrowedFd<'_>, milliseconds: u16) -> Result<bool> {
    let mut polled = [PollFd::new(pidfd, PollFlags::POLLIN)];
    match poll(&mut polled, PollTimeout::from(milliseconds)) {
        Ok(ready) => Ok(ready > 0),
        // The machine is killed a little early.
        Err(Errno::EINTR) => Ok(false),
        Err(errno) => Err(errno).call("poll").context("wait for", "the container"),
    }
}

/// What cannot be done to a container in a machine.
pub(super) fn refuse(record: &Record, operation: &str, reason: &str) -> Result<()> {
    match record.machine {
        None => Ok(()),
        Some(_) => {
            let operation = format!("{operation} container");
            Err(Error::new(ErrorKind::Unsupported, operation, quote(&record.id), reason))
        }
    }
}

fn terminal_size(process: &ProcessSpec) -> crate::process::program::TerminalSize {
    let cell = |n: u64| u16::try_from(n).unwrap_or(u16::MAX);
    process.console_size().as_ref().map_or_else(Default::default, |size| {
        crate::process::program::TerminalSize {
            rows: cell(size.height()),
            columns: cell(size.width()),
        }
    })
}
