//! `create`: plan, prepare, clone once, record.
//!
//! Every side effect is described in the state directory before it happens and undone by [`Undo`]
//! when a later step fails, so an error leaves nothing and a SIGKILL leaves only what `delete` finds.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::SystemTime;

use crate::cgroup::{self, Cgroup};
use crate::error::{Call, Context, Error, ErrorKind, Result, quote};
use crate::hooks::Kind;
use crate::host::Host;
use crate::isolation::{Isolation, vm};
use crate::lifecycle::Hooks;
use crate::messages::send_message;
use crate::netdev;
use crate::oom_score;
use crate::options::{Console, CreateOptions, Parent, Start};
use crate::plan::{self, Plan};
use crate::process::channel::Channel;
use crate::process::child::{self, Inherited, Waits};
use crate::process::join::Around;
use crate::process::parent::{Born, Running, Waiting};
use crate::process::start;
use crate::rdt;
use crate::report::Process;
use crate::requests::Creation;
use crate::spec;
use crate::state::{self, Options, Record, StateDir};
use crate::sys;
use crate::sys::clone::{Cloned, SingleThreaded};
use crate::timestamp;
use crate::tty;

/// A created container.
#[derive(Debug)]
pub(crate) struct Created {
    pub dir: StateDir,
    pub record: Record,
    pub process: Process,
    pub here: Option<Channel>,
}

/// Takes back what an unfinished `create` has done. The process is killed by its own guard, which
/// is dropped first.
pub(crate) struct Undo<'a> {
    pub(crate) dir: Option<StateDir>,
    pub(crate) record: Record,
    /// The cgroup is made; one that is only planned may hold somebody else's processes.
    pub(crate) cgroup_made: bool,
    /// Hooks that must run because the container has existed.
    pub(crate) poststop: Option<&'a Hooks>,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        let Some(dir) = self.dir.take() else { return };
        // The error that brought us here is the one to tell. Should the cgroup resist, the state
        // directory stays, so that `delete` can try again.
        if let Some(hooks) = self.poststop {
            let _ = hooks.run(Kind::Poststop, 0);
        }
        if !self.cgroup_made || remove_cgroup(&self.record).is_ok() {
            let _ = dir.remove();
        }
    }
}

/// Kills what a recorded cgroup holds, and removes it.
fn remove_cgroup(record: &Record) -> Result<()> {
    Cgroup::open(&record.cgroup)?.kill(libc::SIGKILL)?;
    // A scope that is not stopped now ends with its process.
    record.delete_cgroup(&mut Vec::new())
}

/// Creates a container.
pub(crate) fn create(
    root: &Path,
    id: &str,
    options: &CreateOptions,
    warnings: &mut Vec<String>,
) -> Result<Created> {
    let host = Host::read()?;
    let notify = options.notify_socket.as_ref().map(|_| StateDir::notify_path(root, id));
    let machine = match &options.isolation {
        Isolation::Namespaces => None,
        Isolation::VirtualMachine(files) => {
            let directory = root.join(id);
            Some(vm::Machine::plan(id, &directory, options, files, &host, warnings)?)
        }
    };
    let planned = machine.as_ref().map_or(options, |machine| &machine.jail);
    let mut plan = plan::plan(id, planned, notify.as_deref(), &host, warnings)?;
    check_console(&plan, options)?;
    let dir = StateDir::make(root, id)?;
    let mut record = new_record(&plan, options, &host);
    if let Some(machine) = &machine {
        machine.adapt(&mut plan.mounts);
        record.rootfs = machine.rootfs().to_owned();
        record.machine = Some(machine.recorded());
    }
    let mut undo = Undo { dir: Some(dir), record, cgroup_made: false, poststop: None };
    // After the name is taken: whose process that is, is told by its name. Before anything is recorded.
    plan.cgroup.refuse_occupied()?;
    let dir = undo.dir.as_ref().expect("set above");
    if machine.is_some() {
        dir.make_jail()?;
    }
    dir.write_config(&stored_spec(options))?;
    dir.write_record(&undo.record)?;
    if notify.is_some() {
        dir.make_notify()?;
    }
    let socket = match options.start {
        Start::Later => Some(start::listen_in(dir.fd())?),
        Start::Here => None,
    };
    let cgroup = match plan.cgroup.unit() {
        None => Some(make_cgroup(&plan, &mut undo, warnings)?),
        Some(_) => None,
    };
    let rdt = plan.rdt.as_ref().map(rdt::Plan::create).transpose()?;
    let dir = undo.dir.as_ref().expect("set above");
    let terminal = plan.program.terminal.is_some();
    let opened = machine.map(|machine| machine.open(dir, terminal, host.chance)).transpose()?;
    let behind_wall = opened.is_some();
    let born = fork(&plan, &host, cgroup.as_ref(), dir, socket, options.parent, opened)?;
    undo.poststop = Some(&plan.hooks);
    if cgroup.is_none() {
        make_scope(&plan, &mut undo, born.pid(), warnings)?;
    }
    // Devices come back when what follows fails: the process is dead by then, its namespace is not.
    let mut moved = None;
    let mut waiting = build(&plan, &host, born, &mut moved, warnings)?;
    waiting.schedule(&plan.program.scheduling)?;
    if let Some(rdt) = &rdt {
        rdt.join(waiting.pid())?;
    }
    let (start_time, _) = state::process_identity(waiting.pid())?.ok_or_else(|| {
        Error::new(ErrorKind::System, "read", "/proc/PID/stat", "the process is gone")
    })?;
    undo.record.pid = waiting.pid();
    undo.record.start_time = start_time;
    undo.dir.as_ref().expect("set above").write_record(&undo.record)?;
    waiting.recorded()?;
    if behind_wall {
        waiting.wait_for_guest(warnings)?;
    }
    let terminal = hand_over(waiting.take_terminal(), &options.console)?;
    // The pid file is last: a create that fails leaves none.
    announce(
        waiting.pid(),
        waiting.pidfd(),
        options.pid_file.as_deref(),
        options.pidfd_socket.as_deref(),
    )?;
    let (Running { pid, pidfd }, channel) = waiting.into_parts();
    if let Some(moved) = moved {
        moved.keep();
    }
    if let Some(rdt) = rdt {
        rdt.keep();
    }
    let dir = undo.dir.take().expect("set above");
    let record = undo.record.clone();
    Ok(Created {
        dir,
        record,
        process: Process { pid, pidfd, terminal },
        here: (options.start == Start::Here).then_some(channel),
    })
}

/// The configuration for later commands. Should the record be lost, `cgroupsPath` is where processes to
/// kill are looked for: without a cgroup it must name nobody else's.
fn stored_spec(options: &CreateOptions) -> Vec<u8> {
    if !options.no_cgroup {
        return spec::to_stored(&options.config);
    }
    let mut config = options.config.clone();
    let mut linux = config.spec.linux().clone().unwrap_or_default();
    linux.set_cgroups_path(Some(cgroup::NOWHERE.into()));
    config.spec.set_linux(Some(linux));
    spec::to_stored(&config)
}

/// Makes the cgroup that the container's process will be born in.
pub(crate) fn make_cgroup(
    plan: &Plan,
    undo: &mut Undo<'_>,
    warnings: &mut Vec<String>,
) -> Result<Cgroup> {
    let mut cgroup = plan.cgroup.create(warnings)?;
    undo.cgroup_made = true;
    cgroup.prepare_join()?;
    take_over(plan, &cgroup, undo, warnings)?;
    Ok(cgroup)
}

/// Has systemd make the cgroup around the container's process, which waits.
fn make_scope(
    plan: &Plan,
    undo: &mut Undo<'_>,
    pid: i32,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let found = plan.cgroup.start_scope(pid)?;
    undo.cgroup_made = true;
    let cgroup = plan.cgroup.enter_scope(found, pid, warnings)?;
    take_over(plan, &cgroup, undo, warnings)
}

fn take_over(
    plan: &Plan,
    cgroup: &Cgroup,
    undo: &mut Undo<'_>,
    warnings: &mut Vec<String>,
) -> Result<()> {
    cgroup.mark(&undo.dir.as_ref().expect("it was made before the cgroup").mark()?);
    if let Some(owner) = plan.cgroup_owner {
        cgroup.delegate(owner, warnings)?;
    }
    // What was tolerated not to be made must not be missed by later commands.
    undo.record.cgroup = cgroup.recorded();
    Ok(())
}

pub(crate) fn new_record(plan: &Plan, options: &CreateOptions, host: &Host) -> Record {
    let spec = &options.config.spec;
    Record {
        version: Record::VERSION,
        id: plan.id.clone(),
        oci_version: spec.version().clone(),
        bundle: options.bundle.clone(),
        rootfs: plan.rootfs.clone(),
        created: timestamp::rfc3339_nano(SystemTime::now()),
        pid: 0,
        start_time: 0,
        owner: host.uid.as_raw(),
        annotations: spec.annotations().clone().unwrap_or_default().into_iter().collect(),
        cgroup: plan.cgroup.recorded(),
        rdt: plan.rdt.as_ref().map(|rdt| rdt.recorded().clone()),
        machine: None,
        options: Options {
            keyring: plan.keyring.as_ref().map(|keyring| keyring.number),
            unit: plan.cgroup.unit().cloned(),
            no_cgroup: options.no_cgroup,
            own_pid_namespace: plan.namespaces.creates(libc::CLONE_NEWPID),
            chroot: options.no_pivot || !plan.namespaces.creates(libc::CLONE_NEWNS),
            time_namespace: false,
        },
    }
}

/// Forks the container's process with its namespaces around it.
fn fork(
    plan: &Plan,
    host: &Host,
    cgroup: Option<&Cgroup>,
    dir: &StateDir,
    socket: Option<OwnedFd>,
    parent: Parent,
    machine: Option<vm::Opened>,
) -> Result<Born> {
    const WHAT: &str = "the container's process";
    let joined = plan.namespaces.open()?;
    let (ours, theirs) = Channel::pair()?;
    let proof = SingleThreaded::check().context("fork", WHAT)?;
    let _lent = oom_score::lend(&host.proc, plan.program.oom_score_adj)?;
    // An unprivileged creator must write the id maps through /proc/PID, which a non-dumpable process
    // gives to root; that child drops it itself, before anything of the container runs.
    sys::process::set_dumpable(plan.maps.is_some() && !host.privileged())
        .context("set", "non-dumpable")?;
    let around = Around::enter(&plan.order, &plan.namespaces, &joined, &host.proc)?;
    let target = cgroup.and_then(Cgroup::clone_target);
    let cloned = sys::clone::clone3(&proof, plan.order.clone as u64, parent, target);
    match cloned.context("fork", WHAT) {
        Ok(Cloned::Child(proof)) => {
            drop(ours);
            dir.forget_lock();
            let waits = socket.map_or(Waits::Channel, Waits::Socket);
            let proc = &host.proc;
            let inherited = Inherited { plan, channel: theirs, proc, cgroup, joined, waits, proof };
            match machine {
                None => child::run(inherited),
                Some(machine) => vm::inside::run(inherited, machine),
            }
        }
        Ok(Cloned::Parent { pid, pidfd }) => {
            let born = Born::new(pid, pidfd, ours, parent);
            around.leave()?;
            Ok(born)
        }
        Err(error) => Err(error),
    }
}

/// Helps and answers the child until it is ready.
fn build(
    plan: &Plan,
    host: &Host,
    born: Born,
    moved: &mut Option<netdev::Moved>,
    warnings: &mut Vec<String>,
) -> Result<Waiting> {
    let maps = plan.maps.as_ref().filter(|_| plan.has_maps_of_creator());
    let maps = maps.map(|(maps, writer)| (maps, *writer));
    let mut requests = Creation { plan, proc: &host.proc, moved, warnings };
    born.help(maps, plan.waits_for_creator(), &host.proc)?.wait(&mut requests)
}

pub(crate) fn check_console(plan: &Plan, options: &CreateOptions) -> Result<()> {
    match (plan.program.terminal, &options.console) {
        (Some(_), Console::Nobody) => Err(no_console()),
        (None, Console::Socket(_)) => Err(Error::invalid(
            "--console-socket",
            "cannot use console socket if runc will not detach or allocate tty",
        )),
        _ => Ok(()),
    }
}

/// The words that callers know.
pub(crate) fn no_console() -> Error {
    Error::invalid(
        "--console-socket",
        "cannot allocate tty if runc will detach without setting console socket",
    )
}

/// Tells the pid: by file, and by pidfd over a socket.
pub(crate) fn announce(
    pid: i32,
    pidfd: BorrowedFd<'_>,
    file: Option<&Path>,
    socket: Option<&Path>,
) -> Result<()> {
    if let Some(path) = socket {
        send_pidfd(path, pidfd)?;
    }
    file.map_or(Ok(()), |path| write_pid_file(path, pid))
}

/// Hands a terminal over, or back to the caller.
pub(crate) fn hand_over(terminal: Option<OwnedFd>, console: &Console) -> Result<Option<OwnedFd>> {
    match (terminal, console) {
        (Some(master), Console::Socket(path)) => {
            tty::send_terminal(path, master.as_fd()).map(|()| None)
        }
        (Some(master), Console::Foreground) => {
            tty::bare_line_feeds(master.as_fd()).map(|()| Some(master))
        }
        (terminal, _) => Ok(terminal),
    }
}

/// Decimal, no newline; by rename, so that a reader sees all or nothing.
fn write_pid_file(path: &Path, pid: i32) -> Result<()> {
    let context = || format!("pid file {}", quote(path));
    let name = path.file_name().ok_or_else(|| Error::invalid("--pid-file", "names no file"))?;
    let temporary =
        path.with_file_name(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    // A name that is there already may be a link that somebody else has put in a shared directory.
    let mut options = std::fs::OpenOptions::new();
    // Who can write it chooses what others signal, so an open umask does not count.
    let file = options.write(true).create_new(true).mode(0o644).open(&temporary);
    let mut file = file.call("open").context("write", context())?;
    let written = file
        .write_all(pid.to_string().as_bytes())
        .call("write")
        .and_then(|()| std::fs::rename(&temporary, path).call("rename"));
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written.context("write", context())
}

fn send_pidfd(path: &Path, pidfd: BorrowedFd<'_>) -> Result<()> {
    let context = || format!("pidfd to {}", quote(path));
    let socket = UnixStream::connect(path).call("connect").context("send", context())?;
    send_message(socket.as_fd(), b"pidfd", &[pidfd]).context("send", context()).map(drop)
}
