//! A container and its verbs: the crate's public surface.

mod machine;

use std::borrow::Cow;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use oci_spec::runtime::{LinuxIntelRdt, LinuxResources, Process as ProcessSpec, Spec};

use crate::cgroup::oom::OomWatch;
use crate::cgroup::stats::Stats;
use crate::cgroup::{self, Cgroup};
use crate::checkpoint::{self, CheckpointOptions, RestoreOptions};
use crate::create;
use crate::damaged;
use crate::error::{Call, Context, Error, ErrorKind, Result, quote};
use crate::faults::Faults;
use crate::hooks::Kind;
use crate::host::{self, Host};
use crate::keyring::Keyring;
use crate::lifecycle::Hooks;
use crate::options::{Console, CreateOptions, ExecOptions, Parent, Then};
use crate::plan;
use crate::process::channel::Channel;
use crate::process::parent::Waiting;
use crate::process::program::Inherit;
use crate::process::{exec, parent, start};
use crate::rdt;
use crate::report::{Listing, Process, Report, Status};
use crate::requests::{Agent, Entry};
use crate::scheduler;
use crate::spec;
use crate::state::{self, Record, StateDir};
use crate::sys;
use crate::validate;
use crate::watcher::{self, Duties};

/// A container that exists in a state root.
#[derive(Debug)]
pub struct Container {
    dir: StateDir,
    record: Record,
    /// The process waits on this channel instead of the start socket.
    here: Option<Channel>,
    /// The stored configuration, where it need not be read back.
    spec: Option<Spec>,
}

pub use machine::GuestProcess;

/// A further process of a container that is not started yet. It is killed when this is dropped.
#[derive(Debug)]
pub struct Prepared<'a> {
    waiting: Waiting,
    spec: Cow<'a, Spec>,
    record: &'a Record,
}

impl Prepared<'_> {
    /// Executes the program.
    ///
    /// # Errors
    /// `Exec` when it cannot be executed; the process is gone then.
    pub fn start(self) -> Result<()> {
        let Self { waiting, spec, record } = self;
        let agent = Agent { spec: &spec, record, status: Status::Running };
        waiting.start(&agent).map(drop)
    }
}

/// How long `delete --force` waits for killed processes.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

impl Container {
    /// Creates the container `id`. Its process waits for [`Container::start`]. Warnings are pushed
    /// to `warnings`. On failure nothing is left.
    ///
    /// # Errors
    /// `Exists` when the id is taken, `Invalid` with the JSON path for a configuration that cannot
    /// be accepted, otherwise what failed.
    pub fn create(
        root: &Path,
        id: &str,
        options: CreateOptions,
        warnings: &mut Vec<String>,
    ) -> Result<(Container, Process)> {
        validate::validate_id(id)?;
        let created = create::create(root, id, &options, warnings)?;
        let create::Created { dir, record, process, here } = created;
        Ok((Container { dir, record, here, spec: Some(options.config.spec) }, process))
    }

    /// Restores the container `id` from images that [`Container::checkpoint`] has made. Its processes run
    /// when this returns. Warnings are pushed to `warnings`. On failure nothing is left.
    ///
    /// # Errors
    /// As [`Container::create`]; `Unsupported` for what CRIU, or this version of it, cannot do; otherwise what
    /// failed, with the errors of CRIU's log.
    pub fn restore(
        root: &Path,
        id: &str,
        options: RestoreOptions,
        warnings: &mut Vec<String>,
    ) -> Result<(Container, Process)> {
        validate::validate_id(id)?;
        let created = checkpoint::restore(root, id, &options, warnings)?;
        let create::Created { dir, record, process, here } = created;
        dir.unlock();
        let spec = Some(options.create.config.spec);
        Ok((Container { dir, record, here, spec }, process))
    }

    /// Saves the container by CRIU. It has ended afterwards, unless it was to go on, and is still to be
    /// deleted.
    ///
    /// # Errors
    /// `WrongState` unless it runs or is paused; `Unsupported` for what CRIU cannot save; otherwise what
    /// failed, with the errors of CRIU's log. The container goes on then.
    pub fn checkpoint(&mut self, options: &CheckpointOptions, parent: Parent) -> Result<()> {
        self.lock()?;
        let status = self.status()?;
        let word = match status {
            Status::Running | Status::Paused => None,
            Status::Created => Some("created"),
            Status::Stopped => Some("stopped"),
        };
        if let Some(word) = word {
            let reason = format!("Container cannot be checkpointed in {word} state");
            return Err(self.wrong("checkpoint", &reason));
        }
        machine::refuse(&self.record, "checkpoint", "CRIU cannot save a virtual machine")?;
        let spec = self.stored_spec()?;
        let cgroup = self.cgroup()?;
        let paused = status == Status::Paused;
        let record = &self.record;
        let (cgroup, place) = (&cgroup, self.dir.path());
        let subject = checkpoint::Subject { record, spec: &spec, cgroup, place, paused, parent };
        let saved = checkpoint::dump(&subject, options);
        self.dir.unlock();
        saved
    }

    /// Opens an existing container.
    ///
    /// # Errors
    /// `NotFound` when there is none (its text contains `container does not exist`).
    pub fn load(root: &Path, id: &str) -> Result<Container> {
        validate::validate_id(id)?;
        let dir = StateDir::open(root, id)?;
        let record = dir.record().map_err(|error| match error.errno() {
            // Not recorded yet, or no longer.
            Some(Errno::ENOENT) => state::not_found(id),
            _ => error,
        })?;
        Ok(Container { dir, record, here: None, spec: None })
    }

    /// Every entry of the state root, sorted by id. A missing root is an empty list.
    pub fn list(root: &Path) -> Result<Vec<Listing>> {
        let ids = state::ids(root)?;
        Ok(ids
            .into_iter()
            .map(|id| {
                let report = Self::load(root, &id).and_then(|container| container.report());
                Listing { id, report }
            })
            .collect())
    }

    /// The container's id.
    pub fn id(&self) -> &str {
        &self.record.id
    }

    /// The container's status.
    pub fn status(&self) -> Result<Status> {
        if !self.record.alive()? {
            return Ok(Status::Stopped);
        }
        if self.cgroup()?.is_frozen()? {
            return Ok(Status::Paused);
        }
        if self.here.is_some() || (self.dir.has_socket()? && start::somebody_waits(self.dir.fd())?)
        {
            return Ok(Status::Created);
        }
        Ok(Status::Running)
    }

    /// The container's state.
    pub fn report(&self) -> Result<Report> {
        let status = self.status()?;
        let record = &self.record;
        Ok(Report {
            oci_version: record.oci_version.clone(),
            id: record.id.clone(),
            pid: if status == Status::Stopped { 0 } else { record.pid },
            status,
            bundle: record.bundle.clone(),
            rootfs: record.rootfs.clone(),
            created: record.created.clone(),
            annotations: record.annotations.clone(),
            owner: host::user_name(record.owner).unwrap_or_else(|| format!("#{}", record.owner)),
        })
    }

    /// The process of the stored configuration, which `exec` starts from.
    pub fn process(&self) -> Result<ProcessSpec> {
        let process = self.stored_spec()?.process().clone();
        process.ok_or_else(|| Error::invalid("process", "is not in the stored configuration"))
    }

    fn stored_spec(&self) -> Result<Cow<'_, Spec>> {
        match &self.spec {
            Some(spec) => Ok(Cow::Borrowed(spec)),
            None => spec::stored(&self.dir.config()?).map(Cow::Owned),
        }
    }

    fn hooks(&self) -> Result<Hooks> {
        let spec = self.stored_spec()?;
        Hooks::plan(&spec, &self.record.id, &self.record.bundle)
    }

    fn cgroup(&self) -> Result<Cgroup> {
        Cgroup::open(&self.record.cgroup)
    }

    /// The cgroup, which an operation cannot do without.
    fn required_cgroup(&self, operation: &str) -> Result<Cgroup> {
        if self.record.options.no_cgroup {
            return Err(self.wrong_kind(ErrorKind::Unsupported, operation, cgroup::NO_CGROUP));
        }
        self.cgroup()
    }

    /// Executes the program of a created container and runs the poststart hooks.
    ///
    /// # Errors
    /// `WrongState` unless the container is created; `Exec` when the program cannot be executed.
    pub fn start(&mut self) -> Result<()> {
        let pidfd = match &self.here {
            Some(channel) => {
                self.pidfd().map_err(|gone| parent::last_words(channel).unwrap_or(gone))?
            }
            None => {
                self.lock()?;
                match self.status()? {
                    Status::Created => {}
                    // It could not answer.
                    Status::Paused => {
                        return Err(
                            self.wrong("start", "cannot start a container in the paused state")
                        );
                    }
                    Status::Stopped => {
                        return Err(
                            self.wrong("start", "cannot start a container that has stopped")
                        );
                    }
                    Status::Running => {
                        return Err(
                            self.wrong("start", "cannot start an already running container")
                        );
                    }
                }
                self.pidfd()?
            }
        };
        let channel = match self.here.take() {
            Some(channel) => channel,
            None => start::connect_in(self.dir.fd())?,
        };
        let spec = self.stored_spec()?;
        let agent = Agent { spec: &spec, record: &self.record, status: Status::Created };
        parent::start(&channel, self.record.pid, pidfd.as_fd(), &agent)?;
        self.dir.remove_socket();
        let hooks = Hooks::plan(&spec, &self.record.id, &self.record.bundle)?;
        // The specification (1.3): a failed poststart hook stops the container.
        hooks.run(Kind::Poststart, self.record.pid).inspect_err(|_| {
            // The hook's error is the one to tell; `delete` kills what this could not.
            let _ = self.end();
        })?;
        // Who started it may stay for all its life, and others may want to delete it.
        self.dir.unlock();
        Ok(())
    }

    /// Takes the container's lock.
    ///
    /// # Errors
    /// `NotFound` when whoever had it has deleted the container.
    fn lock(&mut self) -> Result<()> {
        self.dir.lock()?;
        if !self.dir.exists()? {
            return Err(state::not_found(&self.record.id));
        }
        // Whoever had the lock may have been creating the container.
        self.record = self.dir.record()?;
        Ok(())
    }

    /// A pidfd of the init process: readable when the container has ended.
    ///
    /// # Errors
    /// `NotRunning` when it has ended already.
    pub fn pidfd(&self) -> Result<OwnedFd> {
        let gone = || self.wrong_kind(ErrorKind::NotRunning, "signal", "container not running");
        let pidfd = match sys::pidfd::open(self.record.pid) {
            // EINVAL: no process was recorded.
            Err(failure) if matches!(failure.errno, Errno::ESRCH | Errno::EINVAL) => {
                return Err(gone());
            }
            opened => opened.context("open process", self.record.pid)?,
        };
        // The pid may have been reused before the pidfd pinned it.
        if self.record.alive()? { Ok(pidfd) } else { Err(gone()) }
    }

    fn wrong(&self, operation: &str, reason: &str) -> Error {
        self.wrong_kind(ErrorKind::WrongState, operation, reason)
    }

    fn wrong_kind(&self, kind: ErrorKind, operation: &str, reason: &str) -> Error {
        Error::new(kind, format!("{operation} container"), quote(&self.record.id), reason)
    }

    /// Runs a further process.
    ///
    /// # Errors
    /// `WrongState` in a paused container (unless ignored), `NotRunning` in a stopped one; `Exec` when the
    /// program cannot be executed.
    pub fn exec(&self, options: ExecOptions, warnings: &mut Vec<String>) -> Result<Process> {
        let (prepared, process) = self.prepare_exec(options, warnings)?;
        prepared.start()?;
        Ok(process)
    }

    /// Makes a further process, which waits for [`Prepared::start`].
    ///
    /// # Errors
    /// As [`Container::exec`].
    pub fn prepare_exec(
        &self,
        options: ExecOptions,
        warnings: &mut Vec<String>,
    ) -> Result<(Prepared<'_>, Process)> {
        match self.status()? {
            Status::Stopped => return Err(exec::not_running(&self.record.id)),
            Status::Paused if !options.ignore_paused => {
                return Err(self.wrong(
                    "exec in",
                    "cannot exec in a paused container (use --ignore-paused to override)",
                ));
            }
            _ => {}
        }
        let spec = self.stored_spec()?;
        let options = ExecOptions {
            process: with_limits_of(spec.process().as_ref(), options.process),
            ..options
        };
        validate::process(&options.process, "process.", &mut Faults::First)?;
        if let Some(recorded) = &self.record.machine {
            let waiting = self.exec_in_machine(recorded, &options, warnings)?;
            return self.make_known(waiting, spec, &options);
        }
        let host = Host::read()?;
        let listed = plan::listed(&spec);
        let inherit = Inherit { preserve_fds: options.preserve_fds, ..Inherit::default() };
        let in_user_namespace = listed & libc::CLONE_NEWUSER != 0;
        let program =
            plan::process(&options.process, &spec, &inherit, &host, in_user_namespace, warnings)?;
        if program.terminal.is_some() && options.console == Console::Nobody {
            return Err(create::no_console());
        }
        let record = &self.record;
        let target = exec::Target { pid: record.pid, pidfd: self.pidfd()? };
        let exec_plan = exec::Plan {
            program,
            keyring: Keyring::plan(&record.id, record.options.keyring)?,
            affinity: scheduler::affinity(&options.process)?,
            namespaces: self.foreign_namespaces(listed | self.restored_time(), &host),
            chroot: self.record.options.chroot,
        };
        let cgroup = match options.cgroups.is_empty() {
            true => self.cgroup()?,
            false => self.required_cgroup("join a cgroup of")?,
        };
        let mut cgroup = cgroup.sub(&options.cgroups)?;
        cgroup.prepare_join()?;
        if !options.ignore_paused {
            cgroup.refuse_frozen()?;
        }
        let born = exec::spawn(&exec_plan, &target, &cgroup, &host.proc, options.parent)?;
        let mut entry = Entry { program: &exec_plan.program, proc: &host.proc, warnings };
        let waiting = born.join().wait(&mut entry)?;
        waiting.schedule(&exec_plan.program.scheduling)?;
        if let Some(rdt) = &record.rdt {
            rdt.check()?;
            rdt.join(waiting.pid())?;
        }
        self.make_known(waiting, spec, &options)
    }

    /// Tells of a further process, and hands its terminal over.
    fn make_known<'a>(
        &'a self,
        mut waiting: Waiting,
        spec: Cow<'a, Spec>,
        options: &ExecOptions,
    ) -> Result<(Prepared<'a>, Process)> {
        let terminal = waiting.take_terminal();
        create::announce(
            waiting.pid(),
            waiting.pidfd(),
            options.pid_file.as_deref(),
            options.pidfd_socket.as_deref(),
        )?;
        let terminal = create::hand_over(terminal, &options.console)?;
        let pidfd =
            waiting.pidfd().try_clone_to_owned().call("fcntl").context("exec", "a pidfd")?;
        let process = Process { pid: waiting.pid(), pidfd, terminal };
        Ok((Prepared { waiting, spec, record: &self.record }, process))
    }

    /// The time namespace that CRIU has put the container in, as a `CLONE_NEW*` flag.
    fn restored_time(&self) -> i32 {
        if self.record.options.time_namespace { libc::CLONE_NEWTIME } else { 0 }
    }

    /// Of the listed namespaces, those that are not the caller's own: joining one's own user
    /// namespace is an error.
    fn foreign_namespaces(&self, listed: i32, host: &Host) -> i32 {
        let path = PathBuf::from(format!("/proc/{}/ns/user", self.record.pid));
        if listed & libc::CLONE_NEWUSER != 0 && host.is_own_namespace(&path, "user") {
            listed & !libc::CLONE_NEWUSER
        } else {
            listed
        }
    }

    /// Gives up, for good, what the calling process does not need while it only relays signals and a
    /// terminal, and for what comes after: see `runtime/src/watcher.rs`. Files that it is to write
    /// elsewhere must be open.
    ///
    /// # Errors
    /// The kernel refuses a part of it; the process then has what it had, or less.
    pub fn confine_caller(&self, then: Then) -> Result<()> {
        let duties = match then {
            Then::Delete if self.hooks()?.has(Kind::Poststop) => Duties::Hooks,
            Then::Delete => Duties::Files(
                [self.dir.root()?]
                    .into_iter()
                    .chain(self.record.cgroup.roots()?)
                    .chain(self.record.rdt.as_ref().map(rdt::Recorded::root).transpose()?)
                    .collect(),
            ),
            Then::Leave => Duties::Files(Vec::new()),
        };
        watcher::confine(duties)
    }

    /// Sends a signal to the init process, or to every process when there is no own pid namespace
    /// and the signal is SIGKILL.
    ///
    /// # Errors
    /// `NotRunning` (`container not running`) when the container is stopped.
    pub fn kill(&self, signal: i32) -> Result<()> {
        if self.record.machine.is_some() {
            return self.kill_in_machine(signal, false);
        }
        let whole = signal == libc::SIGKILL && !self.record.options.own_pid_namespace;
        if whole {
            // Works without init: what it left behind is killed too.
            let cgroup = self.cgroup()?;
            if !cgroup.pids()?.is_empty() {
                return cgroup.kill(signal);
            }
        }
        let pidfd = self.pidfd()?;
        sys::pidfd::send_signal(pidfd.as_fd(), signal)
            .context("signal container", quote(&self.record.id))?;
        if signal == libc::SIGKILL {
            // A frozen process of cgroup v1 dies when it is thawed.
            self.cgroup()?.let_killed_go()?;
        }
        Ok(())
    }

    /// Sends a signal to every process of the container, its init's end notwithstanding.
    ///
    /// # Errors
    /// The cgroup cannot be read or written.
    pub fn kill_all(&self, signal: i32) -> Result<()> {
        if self.record.machine.is_some() && self.record.alive()? {
            return self.kill_in_machine(signal, true);
        }
        self.cgroup()?.kill(signal)
    }

    /// Whether the kernel ends the others when the init ends: the pid namespace is the container's own.
    pub fn has_own_pid_namespace(&self) -> bool {
        self.record.options.own_pid_namespace
    }

    /// Removes a stopped or created container; with `force` a running one too. Runs the poststop
    /// hooks, whose failures are warnings.
    ///
    /// # Errors
    /// `WrongState` when the container runs and `force` is not set.
    pub fn delete(mut self, force: bool, warnings: &mut Vec<String>) -> Result<()> {
        self.lock()?;
        let status = self.status().or_else(|e| if force { Ok(Status::Running) } else { Err(e) })?;
        if !force && matches!(status, Status::Running | Status::Paused) {
            let word = if status == Status::Paused { "paused" } else { "running" };
            return Err(self
                .wrong("delete", &format!("cannot delete container that is not stopped: {word}")));
        }
        self.end()?;
        let cgroup = self.record.delete_cgroup(warnings);
        let rdt = self.record.rdt.as_ref().map_or(Ok(()), rdt::Recorded::remove);
        match self.hooks() {
            Ok(hooks) => hooks.run_all(Kind::Poststop, warnings),
            Err(error) => warnings.push(error.to_string()),
        }
        cgroup?;
        rdt?;
        self.dir.remove()
    }

    /// Kills what runs and waits for it.
    fn end(&self) -> Result<()> {
        let pidfd = match self.pidfd() {
            Ok(pidfd) => Some(pidfd),
            Err(error) if error.kind() == ErrorKind::NotRunning => None,
            // A process that was not killed must not lose its state directory.
            Err(error) => return Err(error),
        };
        if let Ok(cgroup) = self.cgroup() {
            cgroup.kill(libc::SIGKILL)?;
        }
        let Some(pidfd) = pidfd else { return Ok(()) };
        // ESRCH: it died of the first kill.
        let _ = sys::pidfd::send_signal(pidfd.as_fd(), libc::SIGKILL);
        let mut polled = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        let milliseconds = u16::try_from(KILL_DEADLINE.as_millis()).unwrap_or(u16::MAX);
        match nix::poll::poll(&mut polled, PollTimeout::from(milliseconds)) {
            Ok(0) => {
                Err(self.wrong("delete", "its init process did not die within 10 s of SIGKILL"))
            }
            _ => Ok(()),
        }
    }

    /// Removes whatever is left of `id` when [`Container::load`] cannot read it: the state directory,
    /// and with all that runs in it the cgroup that nobody could find afterwards: that of the stored
    /// configuration where the record is damaged, and those with the container's mark where it is missing.
    ///
    /// # Errors
    /// `WrongState` when the container can be loaded after all: whoever was creating it has finished.
    /// A record that is there but cannot be read at the moment, or is of a newer version, keeps its
    /// directory: processes and cgroups that it tells of could never be found without it.
    pub fn delete_remains(root: &Path, id: &str) -> Result<()> {
        validate::validate_id(id)?;
        let dir = StateDir::open(root, id)?;
        dir.lock()?;
        match dir.record() {
            Ok(_) => {
                return Err(Error::new(
                    ErrorKind::WrongState,
                    "delete what is left of",
                    quote(id),
                    "it has become a container meanwhile",
                ));
            }
            Err(error) if error.kind() == ErrorKind::Unsupported => return Err(error),
            // Before the record is written nothing is made. One that was lost has left marks.
            Err(error) if error.errno() == Some(Errno::ENOENT) => {
                let marked = cgroup::marked(&dir.mark()?)?;
                Cgroup::open(&marked)?.kill(libc::SIGKILL)?;
                marked.delete()?;
            }
            Err(error) if error.errno().is_some() => return Err(error),
            Err(_) => damaged::end(&dir, id)?,
        }
        dir.remove()
    }

    /// Freezes every process.
    pub fn pause(&self) -> Result<()> {
        match self.status()? {
            Status::Created | Status::Running => self.required_cgroup("pause")?.freeze(),
            _ => Err(self.wrong("pause", "container not running")),
        }
    }

    /// Thaws every process.
    pub fn resume(&self) -> Result<()> {
        match self.status()? {
            Status::Paused => self.cgroup()?.thaw(),
            _ => Err(self.wrong("resume", "container not paused")),
        }
    }

    /// Changes resource limits; what is not set keeps its value. Devices are never touched.
    pub fn update(&self, resources: &LinuxResources, warnings: &mut Vec<String>) -> Result<()> {
        if !self.record.alive()? {
            return Err(self.wrong_kind(ErrorKind::NotRunning, "update", "container not running"));
        }
        if let Some(recorded) = &self.record.machine {
            return self.update_machine(recorded, resources, warnings);
        }
        let cgroup = self.required_cgroup("update")?;
        cgroup.update_with(self.record.options.unit.as_ref(), resources, warnings)
    }

    /// Writes other schemas of Intel RDT to the container's class of service. What is not set keeps its value.
    ///
    /// # Errors
    /// `Unsupported` for a container that was made without `linux.intelRdt`; the field whose line the kernel
    /// refuses.
    pub fn update_rdt(&self, schemas: &LinuxIntelRdt) -> Result<()> {
        if !self.record.alive()? {
            return Err(self.wrong_kind(ErrorKind::NotRunning, "update", "container not running"));
        }
        let Some(rdt) = &self.record.rdt else {
            let reason = "the container was made without linux.intelRdt";
            return Err(Error::unsupported("update", "linux.intelRdt", reason));
        };
        validate::intel_rdt(schemas)?;
        rdt.check()?;
        rdt.update(schemas)
    }

    /// Figures of the cgroup.
    ///
    /// # Errors
    /// `Unsupported` when the container has none.
    pub fn stats(&self) -> Result<Stats> {
        if self.record.machine.is_some() && self.record.alive()? {
            return self.measure_machine();
        }
        Ok(self.required_cgroup("measure")?.stats())
    }

    /// Host pids of all processes in the container's cgroup, sub-cgroups included.
    ///
    /// # Errors
    /// `Unsupported` when the container has none.
    pub fn processes(&self) -> Result<Vec<i32>> {
        self.required_cgroup("list the processes of")?.pids()
    }

    /// Begins to watch for kills by the kernel's OOM killer in the cgroup.
    ///
    /// # Errors
    /// There is no cgroup, or it cannot be read.
    pub fn watch_oom(&self) -> Result<OomWatch> {
        self.required_cgroup("watch")?.watch_oom()
    }
}

/// The process with the container's limits and scheduling where it names none, as under runc.
fn with_limits_of(init: Option<&ProcessSpec>, mut process: ProcessSpec) -> ProcessSpec {
    let Some(init) = init else { return process };
    if process.rlimits().as_ref().is_none_or(Vec::is_empty) {
        process.set_rlimits(init.rlimits().clone());
    }
    if process.scheduler().is_none() {
        process.set_scheduler(init.scheduler().clone());
    }
    if process.io_priority().is_none() {
        process.set_io_priority(*init.io_priority());
    }
    if process.exec_cpu_affinity().is_none() {
        process.set_exec_cpu_affinity(init.exec_cpu_affinity().clone());
    }
    process
}
