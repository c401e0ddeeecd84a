//! The container's half: from the clone to `execve`.
//!
//! This is ordinary Rust on a copy of a single-threaded process (see [`crate::sys::clone`]), under
//! four rules: it never returns to the creator's code, prints nothing, reads no environment, and
//! leaves by `execve` or `_exit`. What it cannot do for want of power over the host it asks of the
//! creator; see the picture in [`super`].

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::stat::{Mode, umask};

use crate::cgroup::{self, Cgroup};
use crate::error::{Call, Context, Error, ErrorKind, Failure, Result};
use crate::hooks::Kind;
use crate::mount;
use crate::namespaces::Open;
use crate::plan::Plan;
use crate::process::channel::{Channel, FromChild, FromCreator};
use crate::process::{join, program};
use crate::procfs::Procfs;
use crate::sys;
use crate::sys::clone::SingleThreaded;
use crate::sysctl;
use crate::tty;

/// What `/proc/PID/cmdline` of a waiting container shows.
const TITLE: &[u8] = b"bulkhead init";

/// What the child inherits by being forked.
#[derive(Debug)]
pub(crate) struct Inherited<'a> {
    pub plan: &'a Plan,
    pub channel: Channel,
    pub proc: &'a Procfs,
    /// What it joins by itself; `None` where systemd has put it in its scope.
    pub cgroup: Option<&'a Cgroup>,
    pub joined: Vec<Open>,
    pub waits: Waits,
    pub proof: SingleThreaded,
}

/// Where the child waits for `start`.
#[derive(Debug)]
pub(crate) enum Waits {
    /// On the channel: the creator starts it.
    Channel,
    /// On the listening start socket.
    Socket(OwnedFd),
}

/// Runs the child. A failure is told on whatever connection the caller listens to at that moment.
pub(crate) fn run(inherited: Inherited<'_>) -> ! {
    let Inherited { plan, channel, proc, cgroup, joined, waits, proof } = inherited;
    let mut kept = vec![channel.as_fd()];
    if let Waits::Socket(socket) = &waits {
        kept.push(socket.as_fd());
    }
    let built = build(plan, &channel, Outside { proc, cgroup, joined, kept }, &proof);
    let (program, path) = built.unwrap_or_else(|error| give_up(&channel, &error));
    report_ready(&channel);
    // `Go`: the creator has recorded this process. Without that nobody would know of it.
    wait_for_go(&channel).unwrap_or_else(|error| give_up(&channel, &error));
    let keep = plan.program.inherited_fds;
    let starter = match waits {
        Waits::Channel => {
            let closed = channel.alone(keep).context("close", "the runtime's files");
            closed.unwrap_or_else(|error| give_up(&channel, &error));
            wait_for_start(&channel);
            Ok(channel)
        }
        Waits::Socket(socket) => {
            sys::fd::close_all_but(&[socket.as_fd()], keep).and_then(|()| accept(&socket))
        }
    };
    let Ok(starter) = starter else { sys::clone::exit_now(1) };
    let error = start(plan, &program, &path, &starter);
    give_up(&starter, &error)
}

/// Says `Ready`, or why it could not be said.
pub(crate) fn report_ready(channel: &Channel) {
    let sent = channel.send(&FromChild::Ready, None).context("report to", "the creator");
    sent.unwrap_or_else(|error| give_up(channel, &error));
}

/// Waits for the creator's `Start`.
pub(crate) fn wait_for_start(channel: &Channel) {
    let told = wait_on(channel).context("wait for", "start");
    told.unwrap_or_else(|error| give_up(channel, &error));
}

/// What the child has of its creator while it builds.
pub(crate) struct Outside<'a> {
    pub proc: &'a Procfs,
    pub cgroup: Option<&'a Cgroup>,
    pub joined: Vec<Open>,
    /// What stays open until `start`.
    pub kept: Vec<BorrowedFd<'a>>,
}

/// Everything between the clone and `Ready`, in order.
fn build(
    plan: &Plan,
    channel: &Channel,
    outside: Outside<'_>,
    proof: &SingleThreaded,
) -> Result<(program::Program, CString)> {
    let Outside { proc, cgroup, joined, kept } = outside;
    let mut creator = Asker { channel };
    begin(plan, channel)?;
    let ahead = join::enter(&plan.order, &plan.namespaces, joined, proc, channel, proof)?;
    let goes_in = ahead.is_some();
    if !goes_in {
        make_session()?;
    }
    enter_cgroup(plan, cgroup)?;
    plan.uts.apply()?;
    plan.bring_loopback_up()?;
    get_network_devices(plan, channel)?;
    plan.join_keyring(proc)?;
    let mut root = mount::Root::open(&plan.mounts, &mut creator)?;
    let pids = ahead.as_ref().map_or(mount::Pids::Own, join::Ahead::pids);
    root.mount_all(&plan.mounts, pids, &mut creator)?;
    root.devices(&plan.mounts)?;
    sysctl::apply(proc, &plan.sysctls)?;
    hooks_due(plan, channel)?;
    let inside = root.enter(&plan.mounts)?;
    let mut program = plan.program.clone();
    program.make_cwd()?;
    take_terminal(plan, &inside, channel)?;
    if !goes_in {
        control_terminal(&program)?;
    }
    inside.finish(&plan.mounts)?;
    program.add_home();
    program.enter_limits(proc, &mut creator)?;
    let entered = program.step_into_cwd();
    // What a tenant of that namespace must not find in this process goes first.
    if let Some(ahead) = ahead {
        ahead.enter()?;
        let closed = sys::fd::close_all_but(&kept, program.inherited_fds);
        closed.context("close", "the runtime's files")?;
    }
    program.confine(&mut creator)?;
    program.enter_cwd(entered)?;
    let path = program.look_up()?;
    if goes_in {
        join::fork_again(channel, proof)?;
        begin_session(&program)?;
    }
    let path = path.inside(&program)?;
    Ok((program, path))
}

/// What the new process must get rid of first, and its id maps.
fn begin(plan: &Plan, channel: &Channel) -> Result<()> {
    sys::process::reset_signals().context("reset", "signals")?;
    sys::process::overwrite_arguments(TITLE);
    if plan.waits_for_creator() {
        wait_for_go(channel)?;
    }
    if plan.has_maps_of_creator() {
        sys::process::set_dumpable(false).context("set", "non-dumpable")?;
        join::become_root()?;
    }
    Ok(())
}

pub(crate) fn make_session() -> Result<()> {
    nix::unistd::setsid().call("setsid").context("make", "a session").map(drop)
}

fn control_terminal(program: &program::Program) -> Result<()> {
    if program.terminal.is_some() { tty::control() } else { Ok(()) }
}

/// Makes a session, whose terminal is that of the program. A process that ends takes the terminal from
/// its session, so this is for the one that stays.
pub(crate) fn begin_session(program: &program::Program) -> Result<()> {
    make_session()?;
    control_terminal(program)
}

pub(crate) fn wait_for_go(channel: &Channel) -> Result<()> {
    match reply(channel)? {
        (FromCreator::Go, _) => Ok(()),
        other => Err(out_of_turn(&other.0)),
    }
}

pub(crate) fn enter_cgroup(plan: &Plan, cgroup: Option<&Cgroup>) -> Result<()> {
    cgroup.map_or(Ok(()), Cgroup::join)?;
    cgroup::reset_affinity()?;
    if plan.late_cgroup_namespace() {
        sys::process::unshare(libc::CLONE_NEWCGROUP).context("make", "a cgroup namespace")?;
    }
    Ok(())
}

/// Lets the creator move network devices in.
fn get_network_devices(plan: &Plan, channel: &Channel) -> Result<()> {
    let Some(socket) = plan.network_socket()? else { return Ok(()) };
    channel.send(&FromChild::NetDevices, Some(socket.as_fd())).context("ask", "the creator")?;
    done(channel)
}

/// Lets the creator run its hooks, then runs those of the container's namespaces.
pub(crate) fn hooks_due(plan: &Plan, channel: &Channel) -> Result<()> {
    if !plan.hooks.before_pivot() {
        return Ok(());
    }
    channel.send(&FromChild::HooksDue, None).context("report to", "the creator")?;
    done(channel)?;
    // The mount code works with none; a hook gets the usual one.
    let none = umask(Mode::from_bits_truncate(program::DEFAULT_UMASK));
    let ran = plan.hooks.run(Kind::CreateContainer, std::process::id() as i32);
    umask(none);
    ran
}

/// Makes the terminal from the container's own devpts and takes it as standard streams.
fn take_terminal(plan: &Plan, inside: &mount::Inside, channel: &Channel) -> Result<()> {
    let Some(size) = plan.program.terminal else { return Ok(()) };
    let (master, slave) = tty::open_inside(size.rows, size.columns)?;
    channel.send(&FromChild::Terminal, Some(master.as_fd())).context("send", "the terminal")?;
    // Without a mount namespace of its own a mount would be the host's.
    if plan.namespaces.creates(libc::CLONE_NEWNS) {
        inside.console(slave.as_fd())?;
    }
    tty::connect(slave, plan.program.uid)
}

/// After `start`: hooks, filter, program. Returns only an error.
fn start(plan: &Plan, program: &program::Program, path: &CString, starter: &Channel) -> Error {
    if let Err(error) = plan.hooks.run(Kind::StartContainer, std::process::id() as i32) {
        return error;
    }
    execute(program, path, starter)
}

/// Takes on the last limits, installs the filter and executes. Nothing but `execve` runs under the filter, unless that fails.
pub(crate) fn execute(program: &program::Program, path: &CString, starter: &Channel) -> Error {
    if let Err(error) = program.restrict() {
        return error;
    }
    let notifies = program.seccomp.as_ref().is_some_and(|filter| filter.notify.is_some());
    if notifies && let Err(error) = announce_listener(starter) {
        return error;
    }
    match program.install_filter() {
        Ok(None) => program.execute(path),
        Ok(Some(listener)) => {
            if !wait_for_release() {
                sys::clone::exit_now(1);
            }
            let error = program.execute(path);
            drop(listener);
            error
        }
        Err(error) => error,
    }
}

/// Not zero once the peer has the listener.
static RELEASED: AtomicU32 = AtomicU32::new(0);

/// Waits until the peer has taken its copy of the listener, by `pidfd_getfd`, and has written to
/// [`RELEASED`]. No system call can be used for that: the filter may hold any of them until the
/// listener answers, and the listener closes at `execve`. Returns whether it happened within some
/// ten seconds of looking.
fn wait_for_release() -> bool {
    const LOOKS: u32 = 500_000_000;
    for _ in 0..LOOKS {
        if RELEASED.load(Ordering::Acquire) != 0 {
            return true;
        }
        std::hint::spin_loop();
    }
    false
}

/// Tells the peer which number the listener will have: the lowest that is free.
fn announce_listener(starter: &Channel) -> Result<()> {
    let number = {
        let probe =
            nix::unistd::dup(starter.as_fd()).call("dup").context("find", "a free number")?;
        probe.as_raw_fd()
    };
    starter
        .send(&FromChild::Listener { number, flag: RELEASED.as_ptr() as u64 }, None)
        .context("announce", "the seccomp listener")?;
    match reply(starter)? {
        (FromCreator::Done, _) => Ok(()),
        // Nothing is left in this process that those who may trace the program must not see.
        (FromCreator::Show, _) => sys::process::set_dumpable(true).context("set", "dumpable"),
        (other, _) => Err(out_of_turn(&other)),
    }
}

fn wait_on(channel: &Channel) -> std::result::Result<(), Failure> {
    match channel.receive::<FromCreator>()? {
        Some((FromCreator::Start, _)) => Ok(()),
        _ => Err(Failure { call: "recvmsg", errno: nix::errno::Errno::EPIPE }),
    }
}

/// Waits for a connection that says `Start`. Others only looked whether somebody waits here.
fn accept(socket: &OwnedFd) -> std::result::Result<Channel, Failure> {
    loop {
        if let Some(starter) = accept_one(socket)? {
            return Ok(starter);
        }
    }
}

/// As [`accept`], one connection: none when it only looked.
pub(crate) fn accept_one(socket: &OwnedFd) -> std::result::Result<Option<Channel>, Failure> {
    let connection = Channel::from_socket(sys::fd::accept(socket.as_fd())?);
    Ok(wait_on(&connection).is_ok().then_some(connection))
}

/// The child's requests to its creator.
pub(crate) struct Asker<'a> {
    pub channel: &'a Channel,
}

impl Asker<'_> {
    fn descriptor(&self, request: &FromChild) -> Result<OwnedFd> {
        self.channel.send(request, None).context("ask", "the creator")?;
        match reply(self.channel)? {
            (FromCreator::Descriptor, Some(fd)) => Ok(fd),
            (other, _) => Err(out_of_turn(&other)),
        }
    }

    pub(crate) fn ask(&self, request: &FromChild) -> Result<()> {
        self.channel.send(request, None).context("ask", "the creator")?;
        done(self.channel)
    }
}

impl mount::Creator for Asker<'_> {
    fn rootfs(&mut self) -> Result<OwnedFd> {
        self.descriptor(&FromChild::Rootfs)
    }

    fn bind_source(&mut self, mount: usize) -> Result<OwnedFd> {
        self.descriptor(&FromChild::BindSource(mount as u32))
    }

    fn clone_source(&mut self, mount: usize) -> Result<OwnedFd> {
        self.descriptor(&FromChild::CloneSource(mount as u32))
    }

    fn idmap(&mut self, mount: usize, tree: BorrowedFd<'_>) -> Result<()> {
        self.channel
            .send(&FromChild::Idmap(mount as u32), Some(tree))
            .context("ask", "the creator")?;
        done(self.channel)
    }
}

impl program::Creator for Asker<'_> {
    fn set_oom_score_adj(&mut self) -> Result<()> {
        self.ask(&FromChild::OomScoreAdj)
    }

    fn raise_rlimits(&mut self) -> Result<()> {
        self.ask(&FromChild::Rlimits)
    }
}

fn done(channel: &Channel) -> Result<()> {
    match reply(channel)? {
        (FromCreator::Done, _) => Ok(()),
        (other, _) => Err(out_of_turn(&other)),
    }
}

fn reply(channel: &Channel) -> Result<(FromCreator, Option<OwnedFd>)> {
    match channel.receive().context("hear from", "the creator")? {
        Some((FromCreator::Failed(error), _)) => Err(error),
        Some(frame) => Ok(frame),
        // Nobody is left to be told.
        None => sys::clone::exit_now(1),
    }
}

fn out_of_turn(frame: &FromCreator) -> Error {
    Error::new(ErrorKind::System, "hear from", "the creator", format!("{frame:?} out of turn"))
}

/// Tells the error and ends.
pub(crate) fn give_up(channel: &Channel, error: &Error) -> ! {
    // When the other side is gone too, the exit status is all that is left to say.
    let _ = channel.send(&FromChild::Failed(error.clone()), None);
    sys::clone::exit_now(1)
}
