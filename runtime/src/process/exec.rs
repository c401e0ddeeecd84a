//! A further process in a running container.
//!
//! The steps are those of [`Program`], the same as for init, so that the second way in cannot be
//! weaker than the first. Their order is forced by who can see the process (CVE-2016-9962,
//! CVE-2019-5736): it is cloned into the container's cgroup, but outside of its pid namespace; there it
//! joins every other namespace by one `setns` on the init's pidfd, takes root and working directory
//! inside, closes every descriptor of the host, and takes on its credentials. Only then it enters the pid
//! namespace, which takes a second fork, and becomes visible: not dumpable, with nothing of the host to
//! be found and no power that the container does not have (but the one capability that
//! [`crate::process::program`] tells of). It is visible for a short time: what the container's files could
//! make slow comes before, and what comes after is one word of the creator, who must know the pid.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use crate::cgroup::{self, Cgroup};
use crate::error::{Call, Context, Error, ErrorKind, Result};
use crate::keyring::Keyring;
use crate::oom_score;
use crate::options::Parent;
use crate::plan;
use crate::process::channel::{Channel, FromChild};
use crate::process::child::{self, Asker};
use crate::process::join;
use crate::process::parent::Born;
use crate::process::program::{Executable, Program};
use crate::procfs::Procfs;
use crate::scheduler::Affinity;
use crate::sys;
use crate::sys::clone::{Cloned, SingleThreaded};
use crate::tty;

/// What `/proc/PID/cmdline` of the joining process shows.
const TITLE: &[u8] = b"bulkhead exec";

/// How to run a further process.
#[derive(Debug)]
pub(crate) struct Plan {
    pub program: Program,
    pub keyring: Option<Keyring>,
    pub affinity: Affinity,
    /// `CLONE_NEW*` of the namespaces that the container does not share with its creator.
    pub namespaces: i32,
    /// The container is entered by `chroot`: it has no mount namespace, or was made with `--no-pivot`.
    pub chroot: bool,
}

/// The container to join.
#[derive(Debug)]
pub(crate) struct Target {
    pub pid: i32,
    pub pidfd: OwnedFd,
}

/// Clones the process. It waits for a word before it executes its program.
pub(crate) fn spawn(
    plan: &Plan,
    target: &Target,
    cgroup: &Cgroup,
    proc: &Procfs,
    parent: Parent,
) -> Result<Born> {
    let root = plan.chroot.then(|| open_root(target)).transpose()?;
    let (ours, theirs) = Channel::pair()?;
    let proof = SingleThreaded::check().context("fork", "the process")?;
    let home = plan.affinity.enter()?;
    let lent = oom_score::lend(proc, plan.program.oom_score_adj)?;
    sys::process::set_dumpable(false).context("set", "non-dumpable")?;
    let mut cloned = sys::clone::clone3(&proof, 0, parent, cgroup.clone_target());
    // Once systemd inside has passed controllers on, the container's own directory takes no more
    // processes ("no internal processes", cgroups(7)); where its init went, others may go.
    let nested = match &cloned {
        // Should that fail too, the first failure is the one to tell.
        Err(failure) if failure.errno == Errno::EBUSY => {
            beside_init(target, cgroup).unwrap_or_default()
        }
        _ => None,
    };
    let cgroup = nested.as_ref().unwrap_or(cgroup);
    if nested.is_some() {
        cloned = sys::clone::clone3(&proof, 0, parent, cgroup.clone_target());
    }
    match cloned.context("fork", "the process")? {
        Cloned::Child(proof) => {
            drop(ours);
            run(plan, Outside { target, cgroup, proc, root }, theirs, &proof)
        }
        Cloned::Parent { pid, pidfd } => {
            drop((theirs, home, lent));
            Ok(Born::new(pid, pidfd, ours, parent))
        }
    }
}

/// The sub-cgroup that the container's init is in.
fn beside_init(target: &Target, cgroup: &Cgroup) -> Result<Option<Cgroup>> {
    let mut nested = cgroup.sub_of(target.pid)?;
    if let Some(cgroup) = &mut nested {
        cgroup.prepare_join()?;
    }
    Ok(nested)
}

/// The root directory of a container without a mount namespace of its own.
fn open_root(target: &Target) -> Result<OwnedFd> {
    let path = format!("/proc/{}/root", target.pid);
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = nix::fcntl::open(path.as_str(), flags, Mode::empty())
        .call("open")
        .context("open", format!("{path:?}"))?;
    // The pid may have been reused, but not while the process behind the pidfd lives.
    sys::pidfd::send_signal(target.pidfd.as_fd(), 0).context("open", format!("{path:?}"))?;
    Ok(root)
}

/// What belongs to the host and must be gone before a process of the container can look.
struct Outside<'a> {
    target: &'a Target,
    cgroup: &'a Cgroup,
    proc: &'a Procfs,
    root: Option<OwnedFd>,
}

fn run(plan: &Plan, outside: Outside<'_>, channel: Channel, proof: &SingleThreaded) -> ! {
    if let Err(error) = join(plan, &outside, &channel) {
        child::give_up(&channel, &error);
    }
    let keep = plan.program.inherited_fds;
    let closed = channel.alone(keep).context("close", "the runtime's files");
    closed.unwrap_or_else(|error| child::give_up(&channel, &error));
    let prepared = prepare(plan, &channel);
    let (program, path) = prepared.unwrap_or_else(|error| child::give_up(&channel, &error));
    if plan.namespaces & libc::CLONE_NEWPID != 0 {
        join::go_on_in_child(&channel, proof)
            .unwrap_or_else(|error| child::give_up(&channel, &error));
    } else {
        child::report_ready(&channel);
    }
    child::wait_for_start(&channel);
    let error = match child::begin_session(&program).and_then(|()| path.inside(&program)) {
        Ok(path) => child::execute(&program, &path, &channel),
        Err(error) => error,
    };
    child::give_up(&channel, &error)
}

/// Joins everything, as a process that the container cannot see: its pid namespace applies to
/// children only. Afterwards root and working directory lie inside, and limits and labels are the
/// container's.
fn join(plan: &Plan, outside: &Outside<'_>, channel: &Channel) -> Result<()> {
    sys::process::overwrite_arguments(TITLE);
    sys::process::reset_signals().context("reset", "signals")?;
    outside.cgroup.join()?;
    plan.affinity.finish().unwrap_or_else(cgroup::reset_affinity)?;
    let mut creator = Asker { channel };
    plan.program.enter_limits(outside.proc, &mut creator)?;
    let pidfd = outside.target.pidfd.as_fd();
    let subject = "the container's namespaces";
    let first = plan.namespaces & !libc::CLONE_NEWPID;
    if first != 0 {
        sys::process::setns(pidfd, first).context("join", subject)?;
    }
    if first & libc::CLONE_NEWUSER != 0 {
        join::become_root()?;
    }
    // Keyrings are found by name within a user namespace.
    plan::join_keyring(plan.keyring.as_ref(), &plan.program.labels, outside.proc)?;
    if plan.namespaces & libc::CLONE_NEWPID != 0 {
        sys::process::setns(pidfd, libc::CLONE_NEWPID).context("join", subject)?;
    }
    match &outside.root {
        Some(root) => enter_root(root.as_fd()),
        None => nix::unistd::chdir("/").call("chdir").context("enter", "the container's root"),
    }
}

/// Takes on all that a process of the container has, but for its pid. The other way round its processes
/// would see one that holds all of the creator's capabilities.
fn prepare(plan: &Plan, channel: &Channel) -> Result<(Program, Executable)> {
    let mut program = plan.program.clone();
    connect_terminal(&program, channel)?;
    program.add_home();
    let entered = program.step_into_cwd();
    program.confine(&mut Asker { channel })?;
    program.enter_cwd(entered)?;
    let path = program.look_up()?;
    Ok((program, path))
}

fn enter_root(root: BorrowedFd<'_>) -> Result<()> {
    nix::unistd::fchdir(root).call("fchdir").context("enter", "the container's root")?;
    nix::unistd::chroot(".").call("chroot").context("enter", "the container's root")?;
    nix::unistd::chdir("/").call("chdir").context("enter", "the container's root")
}

fn connect_terminal(program: &Program, channel: &Channel) -> Result<()> {
    let Some(size) = program.terminal else { return Ok(()) };
    let (master, slave) = tty::open_inside(size.rows, size.columns)?;
    channel.send(&FromChild::Terminal, Some(master.as_fd())).context("send", "the terminal")?;
    tty::connect(slave, program.uid)
}

/// An error for a container that cannot be joined.
pub(crate) fn not_running(id: &str) -> Error {
    Error::new(
        ErrorKind::NotRunning,
        "exec in container",
        format!("{id:?}"),
        "cannot exec in a stopped container: container not running",
    )
}
