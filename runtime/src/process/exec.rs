//! A further process in a running container.
//!
//! The creator enters the container's pid namespace *for its children only* and clones into the
//! container's cgroup; the child joins the rest with one `setns` on the init's pidfd. Neither ever
//! runs a program of the container before it has the container's own limits: the steps are those of
//! [`Program`], the same as for init.
//!
//! The child is not dumpable from its first instruction, because processes of the container see it
//! as soon as it exists (CVE-2016-9962, CVE-2019-5736).

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use crate::cgroup::{self, Cgroup};
use crate::error::{Call, Context, Error, ErrorKind, Result};
use crate::keyring::Keyring;
use crate::plan;
use crate::process::channel::{Channel, FromChild};
use crate::process::child::{self, Asker};
use crate::process::join;
use crate::process::parent::Born;
use crate::process::program::Program;
use crate::procfs::Procfs;
use crate::sys;
use crate::sys::clone::{Cloned, Parent, SingleThreaded};
use crate::tty;

/// What `/proc/PID/cmdline` of the joining process shows.
const TITLE: &[u8] = b"bulkhead exec";

/// How to run a further process.
#[derive(Debug)]
pub(crate) struct Plan {
    pub program: Program,
    pub keyring: Option<Keyring>,
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

/// Clones the process. It goes on to execute its program without waiting for a word.
pub(crate) fn spawn(plan: &Plan, target: &Target, cgroup: &Cgroup, proc: &Procfs) -> Result<Born> {
    let root = plan.chroot.then(|| open_root(target.pid, proc)).transpose()?;
    let (ours, theirs) = Channel::pair()?;
    let proof = SingleThreaded::check().context("fork", "the process")?;
    sys::process::set_dumpable(false).context("set", "non-dumpable")?;
    let outside = PidNamespace::enter(plan, target, proc)?;
    let cloned = sys::clone::clone3(&proof, 0, Parent::Caller, cgroup.clone_target());
    match cloned.context("fork", "the process")? {
        Cloned::Child => {
            drop(ours);
            run(plan, target, cgroup, proc, root, theirs, outside.is_none())
        }
        Cloned::Parent { pid, pidfd } => {
            drop(theirs);
            let born = Born::new(pid, pidfd, ours);
            outside.map_or(Ok(()), PidNamespace::leave)?;
            Ok(born)
        }
    }
}

/// The creator's way into the container's pid namespace and back.
struct PidNamespace {
    own: OwnedFd,
}

impl PidNamespace {
    /// `None` when the creator may not: then the child joins with the others and forks again.
    fn enter(plan: &Plan, target: &Target, proc: &Procfs) -> Result<Option<Self>> {
        if plan.namespaces & libc::CLONE_NEWPID == 0 {
            return Ok(Some(Self { own: own_pid_namespace(proc)? }));
        }
        let own = own_pid_namespace(proc)?;
        match sys::process::setns(target.pidfd.as_fd(), libc::CLONE_NEWPID) {
            Ok(()) => Ok(Some(Self { own })),
            Err(failure) if failure.errno == Errno::EPERM => Ok(None),
            Err(failure) => Err(Error::system("join", "the container's pid namespace", failure)),
        }
    }

    fn leave(self) -> Result<()> {
        sys::process::setns(self.own.as_fd(), libc::CLONE_NEWPID)
            .context("return to", "the creator's pid namespace")
    }
}

fn own_pid_namespace(_proc: &Procfs) -> Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    nix::fcntl::open("/proc/self/ns/pid", flags, Mode::empty())
        .call("open")
        .context("open", "\"/proc/self/ns/pid\"")
}

fn open_root(pid: i32, _proc: &Procfs) -> Result<OwnedFd> {
    let path = format!("/proc/{pid}/root");
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    nix::fcntl::open(path.as_str(), flags, Mode::empty())
        .call("open")
        .context("open", format!("{path:?}"))
}

fn run(
    plan: &Plan,
    target: &Target,
    cgroup: &Cgroup,
    proc: &Procfs,
    root: Option<OwnedFd>,
    channel: Channel,
    fork_again: bool,
) -> ! {
    let prepared =
        prepare(plan, target, cgroup, proc, root.as_ref().map(AsFd::as_fd), &channel, fork_again);
    let (program, path) = prepared.unwrap_or_else(|error| child::give_up(&channel, &error));
    if channel.send(&FromChild::Ready, None).is_err() {
        sys::clone::exit_now(1);
    }
    let error = child::execute(&program, &path, &channel);
    child::give_up(&channel, &error)
}

/// Everything between the clone and the filter, in order.
fn prepare(
    plan: &Plan,
    target: &Target,
    cgroup: &Cgroup,
    proc: &Procfs,
    root: Option<BorrowedFd<'_>>,
    channel: &Channel,
    fork_again: bool,
) -> Result<(Program, CString)> {
    sys::process::reset_signals().context("reset", "signals")?;
    sys::process::overwrite_arguments(TITLE);
    cgroup.join()?;
    cgroup::reset_affinity()?;
    join_namespaces(plan, target, fork_again)?;
    if fork_again && plan.namespaces & libc::CLONE_NEWPID != 0 {
        join::fork_again(channel)?;
    }
    nix::unistd::setsid().call("setsid").context("make", "a session")?;
    if let Some(root) = root {
        enter_root(root)?;
    }
    plan::join_keyring(plan.keyring.as_ref(), &plan.program.labels, proc)?;
    let mut program = plan.program.clone();
    take_terminal(&program, channel)?;
    program.add_home();
    program.confine(proc, &mut Asker { channel })?;
    program.enter_cwd()?;
    let path = program.resolve()?;
    Ok((program, path))
}

fn join_namespaces(plan: &Plan, target: &Target, with_pid: bool) -> Result<()> {
    let mut kinds = plan.namespaces;
    if !with_pid {
        kinds &= !libc::CLONE_NEWPID;
    }
    if kinds == 0 {
        return Ok(());
    }
    sys::process::setns(target.pidfd.as_fd(), kinds)
        .context("join", "the container's namespaces")?;
    if kinds & libc::CLONE_NEWUSER != 0 { join::become_root() } else { Ok(()) }
}

fn enter_root(root: BorrowedFd<'_>) -> Result<()> {
    nix::unistd::fchdir(root).call("fchdir").context("enter", "the container's root")?;
    nix::unistd::chroot(".").call("chroot").context("enter", "the container's root")?;
    nix::unistd::chdir("/").call("chdir").context("enter", "the container's root")
}

fn take_terminal(program: &Program, channel: &Channel) -> Result<()> {
    let Some(size) = program.terminal else { return Ok(()) };
    let (master, slave) = tty::open_inside(size.rows, size.columns)?;
    channel.send(&FromChild::Terminal, Some(master.as_fd())).context("send", "the terminal")?;
    tty::take(slave)
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
