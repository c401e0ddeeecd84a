//! The stand-in, from the clone to its end: it builds the jail, starts the share server and the monitor, and has the
//! agent make the container.
//!
//! It is pid 1 of the jail, so nothing in there outlives it. Each of the three has less than the one before: the
//! share server keeps the jail's tree and the capabilities that serving files takes; the monitor has an empty root,
//! no capability, a user of its own and the descriptors that its description names; the stand-in has the same, the
//! container's standard streams, and a filter.

use std::ffi::CStr;
use std::fs::File;
use std::io::{Read, Write, stderr, stdin};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant, SystemTime};

use nix::fcntl::{AT_FDCWD, FcntlArg, OFlag, fcntl, openat};
use nix::mount::{MntFlags, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{
    Gid, Pid, Uid, chdir, fchdir, pipe2, pivot_root, setgroups, setresgid, setresuid,
};
use wire::{Hello, Notice, Opening, Welcome};

use super::attend::{self, Attached, End, First};
use super::prepare::Opened;
use super::session;
use crate::caps::Capabilities;
use crate::error::{Call, Context, Error, ErrorKind, Failure, Result, clean};
use crate::mount::{self, Pids};
use crate::options::Parent;
use crate::plan::Plan;
use crate::process::channel::{Channel, FromChild};
use crate::process::child::{self, Asker, Inherited, Waits, give_up};
use crate::process::join;
use crate::sys;
use crate::sys::clone::{Cloned, SingleThreaded, clone3};
use crate::sys::mount::{
    Depth, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY,
    fsconfig_create, fsmount, fsopen, move_mount, set_propagation,
};
use crate::tty;
use crate::watcher;

/// How long a guest may take from the start of its monitor until its agent serves. Tens of milliseconds on a
/// processor, seconds on an emulated one.
const BOOT: Duration = Duration::from_secs(120);
/// How long the monitor may take to end once the guest is gone.
const ENDING: Duration = Duration::from_secs(5);
/// The exit code when the guest is lost.
pub(super) const LOST: i32 = 255;
/// How much of what the monitor says is shown, in bytes.
const WORDS: usize = 8 * 1024;
/// As much as a pipe holds, see pipe(7).
const PIPE: u64 = 64 * 1024;
/// Random bytes for the guest.
const ENTROPY: usize = 64;

/// What `/proc/PID/cmdline` of the stand-in shows.
const TITLE: &[u8] = b"bulkhead vm";

/// How many files of the host's a guest may know at a time; each pins memory of the host's kernel.
pub(super) const FILES: u64 = 128 << 10;

/// What the share server may do: serve files as root of the guest would have them.
/// CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETGID, SETUID, SETFCAP; and SETPCAP, with which it gives up what it
/// finds that it does not need, that one too. Not DAC_READ_SEARCH: a server that the guest has taken over could open
/// every file of a file system by its handle, whatever its mounts show. So it keeps a descriptor of each file that the
/// guest knows.
const SERVING: u64 = 1 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 31;

/// Runs the stand-in. A failure is told on whatever connection the caller listens to at that moment.
pub(crate) fn run(inherited: Inherited<'_>, opened: Opened) -> ! {
    let Inherited { plan, channel, proc, cgroup, joined, waits, proof } = inherited;
    let outside = child::Outside { proc, cgroup, joined, kept: Vec::new() };
    let terminal = build(plan, &channel, outside, &proof);
    let terminal = terminal.unwrap_or_else(|error| give_up(&channel, &error));
    child::report_ready(&channel);
    // `Go`: the creator has recorded this process.
    child::wait_for_go(&channel).unwrap_or_else(|error| give_up(&channel, &error));
    let (attached, machine, signals) = boot(opened, &channel, &waits, terminal, &proof)
        .unwrap_or_else(|error| give_up(&channel, &error));
    child::report_ready(&channel);
    stay(attached, machine, &signals, channel, waits)
}

/// As a container's own process builds its root. Whether the standard streams are a terminal.
fn build(
    plan: &Plan,
    channel: &Channel,
    outside: child::Outside<'_>,
    proof: &SingleThreaded,
) -> Result<bool> {
    let child::Outside { proc, cgroup, joined, .. } = outside;
    let mut creator = Asker { channel };
    sys::process::reset_signals().context("reset", "signals")?;
    sys::process::overwrite_arguments(TITLE);
    if plan.waits_for_creator() {
        child::wait_for_go(channel)?;
    }
    join::enter(&plan.order, &plan.namespaces, joined, proc, channel, proof)?;
    child::make_session()?;
    child::enter_cgroup(plan, cgroup)?;
    plan.join_keyring(proc)?;
    // The guest never sees this terminal: the host's own devpts will do.
    let terminal = take_terminal(plan, channel)?;
    let mut root = mount::Root::open(&plan.mounts, &mut creator)?;
    root.mount_all(&plan.mounts, Pids::Own, &mut creator)?;
    child::hooks_due(plan, channel)?;
    root.enter(&plan.mounts)?.finish(&plan.mounts)?;
    plan.program.enter_limits(proc, &mut creator)?;
    Ok(terminal)
}

fn take_terminal(plan: &Plan, channel: &Channel) -> Result<bool> {
    let Some(size) = plan.program.terminal else { return Ok(false) };
    let (master, slave) = tty::open_inside(size.rows, size.columns)?;
    channel.send(&FromChild::Terminal, Some(master.as_fd())).context("send", "the terminal")?;
    take_slave(slave)?;
    Ok(true)
}

/// Makes the terminal that of this process, which passes on what is typed and shown: the guest's own does the rest.
pub(super) fn take_slave(slave: OwnedFd) -> Result<()> {
    // Nobody else has it open. A terminal that is ready takes a part only of what is written to it.
    let flags = fcntl(&slave, FcntlArg::F_GETFL).call("fcntl").context("set up", "the terminal")?;
    let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
    fcntl(&slave, FcntlArg::F_SETFL(flags)).call("fcntl").context("set up", "the terminal")?;
    tty::connect(slave, Uid::from_raw(0))?;
    tty::control()?;
    tty::make_transparent(stdin().as_fd())
}

/// The processes of the host that the machine is.
#[derive(Debug)]
struct Machine {
    monitor: Pid,
    /// What the monitor and the share server say on standard error.
    words: OwnedFd,
    /// Open as long as the guest is to live.
    _hello: Option<session::Connection>,
}

/// Starts everything and has the container made.
fn boot(
    opened: Opened,
    channel: &Channel,
    waits: &Waits,
    terminal: bool,
    proof: &SingleThreaded,
) -> Result<(Attached, Machine, nix::sys::signalfd::SignalFd)> {
    let (words, said) = pipe2(OFlag::O_CLOEXEC).call("pipe2").context("make", "a pipe")?;
    let Opened {
        monitor,
        share_server,
        null,
        descriptors,
        share,
        mut hello,
        mut process,
        streams,
        first,
        user,
    } = opened;
    let around = Around { null: null.as_fd(), words: said.as_fd(), proof };
    let shares = share_server.is_some();
    if let Some(program) = share_server {
        let arguments = [c"bulkhead-share", c"3", c"/shares"];
        around.spawn(&program, &arguments, &[(share.as_fd(), 3)], keep_serving)?;
    }
    leave_tree()?;
    let given = descriptors.iter().map(|(fd, number)| (fd.as_fd(), *number)).collect::<Vec<_>>();
    let arguments = [c"bulkhead-vmm", c"3"];
    let started = around.spawn(&monitor, &arguments, &given, || become_user(user))?;
    drop(given);
    drop((descriptors, monitor, share, null, said));
    let signals = attend::signals()?;
    let mut kept =
        vec![channel.as_fd(), hello.as_fd(), process.as_fd(), words.as_fd(), signals.as_fd()];
    kept.extend(streams.iter().map(|(_, stream)| stream.as_fd()));
    if let Waits::Socket(socket) = waits {
        kept.push(socket.as_fd());
    }
    sys::fd::close_all_but(&kept, 0).context("close", "the runtime's files")?;
    become_user(user)?;
    watcher::confine(watcher::Duties::StandIn)?;
    let machine = Machine { monitor: started, words, _hello: None };
    let served = greet(&mut hello, shares).and_then(|()| {
        process.reach(session::ACCEPT)?;
        process.send(&Opening::First(Box::new(first.clone())))?;
        let streams = super::exec::open_streams(streams, &first.token)?;
        let warnings = super::exec::created(&mut process)?;
        Ok((streams, warnings))
    });
    let (streams, warnings) = served.map_err(|error| machine.explain(error))?;
    for warning in warnings {
        channel.send(&FromChild::Warning(warning), None).context("report to", "the creator")?;
    }
    Ok((
        Attached { process, streams, terminal },
        Machine { _hello: Some(hello), ..machine },
        signals,
    ))
}

/// Hears that the guest is up, tells it what it cannot know, and waits until it serves.
fn greet(hello: &mut session::Connection, shares: bool) -> Result<()> {
    const WHAT: &str = "the virtual machine";
    let begun = Instant::now();
    let refused = |reason: String| Error::new(ErrorKind::System, "start", WHAT, reason);
    let late = || refused(format!("its agent has not come up within {} s", BOOT.as_secs()));
    let first: Hello = hello.receive_within(BOOT)?.ok_or_else(late)?;
    if first.version != wire::VERSION {
        return Err(refused(format!(
            "its agent {} speaks version {}, and this is version {}; `bulkhead vm setup` makes a new image",
            clean(&first.agent),
            first.version,
            wire::VERSION
        )));
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let entropy = sys::process::random(ENTROPY).context("get", "random bytes for the guest")?;
    let (seconds, nanoseconds) = (now.as_secs(), now.subsec_nanos());
    hello.send(&Welcome { seconds, nanoseconds, entropy, shares })?;
    let left = BOOT.saturating_sub(begun.elapsed());
    match hello.receive_within(left)?.ok_or_else(late)? {
        Notice::Serving => Ok(()),
        Notice::Failed(error) => Err(error.into()),
        Notice::OutOfMemory { .. } => Err(refused("its agent speaks out of turn".to_owned())),
    }
}

impl Machine {
    /// Why the guest is gone, when it is: what the monitor said.
    fn ending(&self) -> Option<String> {
        let deadline = Instant::now() + ENDING;
        loop {
            match waitpid(self.monitor, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Ok(WaitStatus::StillAlive) | Err(_) => return None,
                Ok(status) => return Some(self.words(status)),
            }
        }
    }

    fn words(&self, status: WaitStatus) -> String {
        let mut text = String::new();
        if let Ok(copy) = self.words.try_clone() {
            // Its other ends may be open in the share server: what is there, and no more.
            let _ = fcntl(&copy, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
            let mut bytes = Vec::new();
            // No more than a pipe holds; the monitor's reason is what comes last.
            let _ = File::from(copy).take(PIPE).read_to_end(&mut bytes);
            let last = bytes.len().saturating_sub(WORDS);
            text = String::from_utf8_lossy(&bytes[last..]).trim_end().to_owned();
        }
        match (status, text.is_empty()) {
            (WaitStatus::Signaled(_, signal, _), _) => {
                let hint = match signal {
                    nix::sys::signal::Signal::SIGKILL => {
                        " (perhaps for want of memory in its cgroup)"
                    }
                    _ => "",
                };
                format!("its monitor was killed by {signal}{hint}\n{text}").trim_end().to_owned()
            }
            (WaitStatus::Exited(_, 0), true) => "the guest switched itself off".to_owned(),
            (WaitStatus::Exited(_, code), true) => format!("its monitor ended with status {code}"),
            (_, false) => text,
            (other, true) => format!("its monitor ended: {other:?}"),
        }
    }

    /// The error, or the machine's end when that was the reason.
    fn explain(&self, error: Error) -> Error {
        // A guest that answered is not gone.
        if error.subject() != session::AGENT {
            return error;
        }
        match self.ending() {
            Some(reason) => Error::new(ErrorKind::System, "run", "the virtual machine", reason),
            None => error,
        }
    }
}

/// Waits for the start, attends, and ends as the container does.
fn stay(
    mut attached: Attached,
    machine: Machine,
    signals: &nix::sys::signalfd::SignalFd,
    channel: Channel,
    waits: Waits,
) -> ! {
    let starter = match waits {
        Waits::Channel => {
            if let First::End(end) = attend::wait_for_start(&mut attached, signals, channel.as_fd())
            {
                finish(end, &machine, attached.terminal);
            }
            child::wait_for_start(&channel);
            channel
        }
        Waits::Socket(socket) => {
            drop(channel);
            loop {
                let first = attend::wait_for_start(&mut attached, signals, socket.as_fd());
                if let First::End(end) = first {
                    finish(end, &machine, attached.terminal);
                }
                if let Ok(Some(starter)) = child::accept_one(&socket) {
                    break starter;
                }
            }
        }
    };
    if let Err(error) = attend::start(&mut attached) {
        give_up(&starter, &machine.explain(error));
    }
    drop(starter);
    let terminal = attached.terminal;
    finish(attend::attend(attached, signals), &machine, terminal)
}

/// Ends as the container did.
fn finish(end: End, machine: &Machine, terminal: bool) -> ! {
    match end {
        End::Exited(status) => sys::clone::exit_now(status.into()),
        End::Lost => lost(machine, terminal),
    }
}

/// Says why the guest is gone where the container's own last words would be.
fn lost(machine: &Machine, terminal: bool) -> ! {
    let reason =
        machine.ending().unwrap_or_else(|| "its agent has closed the connection".to_owned());
    let mut text = format!("bulkhead: the virtual machine has ended: {reason}\n");
    if terminal {
        text = text.replace('\n', "\r\n");
    }
    let stderr = stderr();
    // Whoever does not read must not keep a dead container alive.
    let mut polled = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    if matches!(poll(&mut polled, PollTimeout::from(1000u16)), Ok(1)) {
        let _ = stderr.lock().write_all(&text.as_bytes()[..text.len().min(libc::PIPE_BUF)]);
    }
    sys::clone::exit_now(LOST)
}

/// What both programs get.
struct Around<'a> {
    null: BorrowedFd<'a>,
    words: BorrowedFd<'a>,
    proof: &'a SingleThreaded,
}

impl Around<'_> {
    /// Executes a program with these descriptors and no other, after `confine`.
    fn spawn(
        &self,
        program: &File,
        arguments: &[&CStr],
        descriptors: &[(BorrowedFd<'_>, RawFd)],
        confine: impl FnOnce() -> Result<()>,
    ) -> Result<Pid> {
        let name = arguments[0].to_string_lossy().into_owned();
        match clone3(self.proof, 0, Parent::Caller, None).context("fork", &name)? {
            Cloned::Parent { pid, .. } => Ok(Pid::from_raw(pid)),
            Cloned::Child(_) => {
                let error = self.execute(program, arguments, descriptors, confine);
                let _ = stderr().write_all(format!("{name}: {error}\n").as_bytes());
                sys::clone::exit_now(127)
            }
        }
    }

    fn execute(
        &self,
        program: &File,
        arguments: &[&CStr],
        descriptors: &[(BorrowedFd<'_>, RawFd)],
        confine: impl FnOnce() -> Result<()>,
    ) -> Error {
        let placed = || -> Result<OwnedFd, Failure> {
            // Out of the way of the numbers that are to be taken.
            let above = |fd: BorrowedFd<'_>| sys::fd::copy_above(fd.as_raw_fd(), 256);
            let program = above(program.as_fd())?;
            let (null, words) = (above(self.null)?, above(self.words)?);
            let sources = descriptors
                .iter()
                .map(|(fd, number)| Ok((above(*fd)?, *number)))
                .collect::<Result<Vec<_>, Failure>>()?;
            sys::fd::place(null.as_fd(), 0)?;
            sys::fd::place(null.as_fd(), 1)?;
            sys::fd::place(words.as_fd(), 2)?;
            for (source, number) in &sources {
                sys::fd::place(source.as_fd(), *number)?;
            }
            // What the numbers between hold is our caller's.
            let last = descriptors.iter().map(|(_, number)| *number).max().unwrap_or(2);
            for number in (3..=last).filter(|&n| descriptors.iter().all(|&(_, taken)| taken != n)) {
                sys::fd::place(null.as_fd(), number)?;
            }
            sys::fd::close_all_but(&[program.as_fd()], u32::try_from(last - 2).unwrap_or(0))?;
            std::mem::forget((null, words, sources));
            Ok(program)
        };
        let program = match placed().context("hand over", "descriptors") {
            Ok(program) => program,
            Err(error) => return error,
        };
        if let Err(error) =
            sys::process::reset_signals().context("reset", "signals").and_then(|()| confine())
        {
            return error;
        }
        let arguments: Vec<_> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        Error::system("execute", "it", sys::process::execveat(program.as_fd(), &arguments, &[]))
    }
}

/// The share server stays root, with what it needs.
fn keep_serving() -> Result<()> {
    let set = Capabilities {
        bounding: SERVING,
        effective: SERVING,
        permitted: SERVING,
        inheritable: 0,
        ambient: 0,
    };
    let (_, hard) =
        getrlimit(Resource::RLIMIT_NOFILE).call("getrlimit").context("limit", "descriptors")?;
    let files = hard.min(FILES);
    setrlimit(Resource::RLIMIT_NOFILE, files, files)
        .call("setrlimit")
        .context("limit", "descriptors")?;
    set.drop_bounding()?;
    set.set(0)?;
    no_new_privileges()
}

/// Gives up every capability, for a user that owns nothing.
pub(super) fn become_user(user: u32) -> Result<()> {
    const WHAT: &str = "the machine's user";
    let nothing =
        Capabilities { bounding: 0, effective: 0, permitted: 0, inheritable: 0, ambient: 0 };
    nothing.drop_bounding()?;
    let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
    setgroups(&[]).call("setgroups").context("become", WHAT)?;
    setresgid(gid, gid, gid).call("setresgid").context("become", WHAT)?;
    setresuid(uid, uid, uid).call("setresuid").context("become", WHAT)?;
    nothing.set(0)?;
    no_new_privileges()?;
    sys::process::set_dumpable(false).context("become", WHAT)
}

fn no_new_privileges() -> Result<()> {
    nix::sys::prctl::set_no_new_privs()
        .call("prctl(PR_SET_NO_NEW_PRIVS)")
        .context("give up", "privileges")
}

/// Leaves the jail's tree to the share server, for an empty root that nothing can be written to.
fn leave_tree() -> Result<()> {
    let left = || -> Result<(), Failure> {
        sys::process::unshare(libc::CLONE_NEWNS)?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let old = openat(AT_FDCWD, c"/", flags, Mode::empty()).call("openat")?;
        set_propagation(old.as_fd(), Depth::Recursive, libc::MS_PRIVATE)?;
        let context = fsopen(c"tmpfs")?;
        fsconfig_create(context.as_fd())?;
        let attributes =
            MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
        let empty = fsmount(context.as_fd(), attributes)?;
        move_mount(empty.as_fd(), old.as_fd())?;
        fchdir(&empty).call("fchdir")?;
        pivot_root(c".", c".").call("pivot_root")?;
        umount2(c".", MntFlags::MNT_DETACH).call("umount2")?;
        chdir(c"/").call("chdir")
    };
    left().context("leave", "the jail's tree")
}
