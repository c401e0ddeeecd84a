//! The creator's half of the protocol, as states. A method consumes its state and returns the next
//! one, so a frame that is legal in one state cannot be sent in another; see the picture in [`super`].
//!
//! Dropping a state that is not [`Running`] kills the process by its pidfd and reaps it: nothing
//! half-built survives an error.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::uio::{RemoteIoVec, process_vm_writev};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::caps;
use crate::error::{Call, Context, Error, ErrorKind, Failure, Result};
use crate::idmap::{Maps, Writer};
use crate::mount::bind::Wanted;
use crate::options::Parent;
use crate::process::channel::{Channel, FromChild, FromCreator};
use crate::procfs::Procfs;
use crate::requests::{Agent, Creation, Limits};
use crate::scheduler::Scheduling;
use crate::sys;

/// A process of ours that dies with this value, unless released.
#[derive(Debug)]
pub(super) struct Guard {
    pid: i32,
    pidfd: Option<OwnedFd>,
    parent: Parent,
}

impl Guard {
    pub(super) fn new(pid: i32, pidfd: OwnedFd, parent: Parent) -> Self {
        Self { pid, pidfd: Some(pidfd), parent }
    }

    fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_ref().expect("only release takes it").as_fd()
    }

    fn release(mut self) -> (i32, OwnedFd) {
        (self.pid, self.pidfd.take().expect("only release takes it"))
    }

    /// How it ended, when it has. Does not reap a process that runs.
    fn ended(&self) -> Option<WaitStatus> {
        // Descriptors close a moment before the process can be waited for.
        let mut polled = [PollFd::new(self.pidfd(), PollFlags::POLLIN)];
        let _ = nix::poll::poll(&mut polled, PollTimeout::from(1000u16));
        // Of another one's child (`Parent::Callers`) the kernel tells us no status.
        match waitpid(Pid::from_raw(self.pid), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(_) => None,
            Ok(status) => Some(status),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(pidfd) = &self.pidfd {
            // ESRCH: it is dead already, and perhaps reaped. There is nothing else to do in either case.
            let _ = sys::pidfd::send_signal(pidfd.as_fd(), libc::SIGKILL);
            match self.parent {
                Parent::Caller => drop(waitpid(Pid::from_raw(self.pid), None)),
                Parent::Callers => {
                    let mut polled = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
                    let _ = nix::poll::poll(&mut polled, PollTimeout::from(1000u16));
                }
            }
        }
    }
}

/// The process exists and may wait for its id maps.
#[derive(Debug)]
pub(crate) struct Born {
    guard: Guard,
    channel: Channel,
}

impl Born {
    pub(crate) fn new(pid: i32, pidfd: OwnedFd, channel: Channel, parent: Parent) -> Self {
        Self { guard: Guard::new(pid, pidfd, parent), channel }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.guard.pid
    }

    /// Writes id maps when there is a new user namespace, and lets the process go on that waits for
    /// that, or for its place in a scope.
    pub(crate) fn help(
        self,
        maps: Option<(&Maps, Writer)>,
        waits: bool,
        proc: &Procfs,
    ) -> Result<Building> {
        if let Some((maps, writer)) = maps {
            maps.write(proc.as_fd(), self.guard.pid, writer)?;
        }
        if waits {
            match self.channel.send(&FromCreator::Go, None) {
                // It gave up already, and why is the first thing that will be heard of it.
                Err(Failure { errno: Errno::EPIPE, .. }) => {}
                sent => sent.context("let go on", "the container's process")?,
            }
        }
        Ok(Building(self.unready()))
    }

    /// The process joins a container, and needs no help to begin.
    pub(crate) fn join(self) -> Joining {
        Joining(self.unready())
    }

    fn unready(self) -> Unready {
        Unready { guard: self.guard, former: None, channel: self.channel, terminal: None }
    }
}

/// The process builds the container.
#[derive(Debug)]
pub(crate) struct Building(Unready);

impl Building {
    /// Answers requests until the process is ready.
    pub(crate) fn wait(mut self, requests: &mut Creation<'_>) -> Result<Waiting> {
        while let Some((frame, fd)) = self.0.next(requests)? {
            let pid = self.0.guard.pid;
            let answer = match (frame, fd) {
                (FromChild::Rootfs, _) => requests.open(Wanted::Rootfs, pid).map(Some),
                (FromChild::BindSource(n), _) => {
                    requests.open(Wanted::Source(n as usize), pid).map(Some)
                }
                (FromChild::CloneSource(n), _) => requests.clone_source(n as usize).map(Some),
                (FromChild::Idmap(n), Some(tree)) => {
                    requests.idmap(n as usize, tree, pid).map(|()| None)
                }
                (FromChild::NetDevices, Some(socket)) => {
                    requests.net_devices(socket, pid).map(|()| None)
                }
                (FromChild::Maps, _) => requests.maps(pid).map(|()| None),
                (FromChild::HooksDue, _) => requests.hooks(pid).map(|()| None),
                (FromChild::Reborn(pid), Some(pidfd)) => {
                    self.0.let_go_on(pid, pidfd)?;
                    continue;
                }
                (other, _) => return Err(out_of_turn(&other)),
            };
            self.0.answer(answer)?;
        }
        Ok(self.0.ready())
    }
}

/// The process joins a running container.
#[derive(Debug)]
pub(crate) struct Joining(Unready);

impl Joining {
    /// Answers requests until the process is ready, or one that needs nothing but its start goes on
    /// from it.
    pub(crate) fn wait(mut self, requests: &mut impl Limits) -> Result<Waiting> {
        match self.0.next(requests)? {
            None => Ok(self.0.ready()),
            Some((FromChild::Reborn(pid), Some(pidfd))) => {
                self.0.reborn(pid, pidfd);
                Ok(self.0.ready())
            }
            Some((other, _)) => Err(out_of_turn(&other)),
        }
    }
}

/// What a process that is not ready and its creator say to each other, whichever way it goes in.
#[derive(Debug)]
struct Unready {
    guard: Guard,
    former: Option<Guard>,
    channel: Channel,
    terminal: Option<OwnedFd>,
}

impl Unready {
    /// Answers what every process may ask. Returns a frame that only some may send, or `None` when the
    /// process is ready.
    fn next(&mut self, requests: &mut impl Limits) -> Result<Option<(FromChild, Option<OwnedFd>)>> {
        loop {
            let Some((frame, fd)) = self.receive()? else { return Err(self.death()) };
            let pid = self.guard.pid;
            match (frame, fd) {
                (FromChild::Ready, _) => return Ok(None),
                (FromChild::Failed(error), _) => return Err(error),
                (FromChild::Terminal, Some(master)) => self.terminal = Some(master),
                (FromChild::OomScoreAdj, _) => {
                    self.answer(requests.oom_score_adj(pid).map(|()| None))?;
                }
                (FromChild::Rlimits, _) => self.answer(requests.rlimits(pid).map(|()| None))?,
                (other, fd) => return Ok(Some((other, fd))),
            }
        }
    }

    fn ready(self) -> Waiting {
        let Self { guard, former, channel, terminal } = self;
        Waiting { guard, _former: former, channel, terminal }
    }

    fn receive(&self) -> Result<Option<(FromChild, Option<OwnedFd>)>> {
        // A process that was killed while it forked again leaves one that waits to be made known, and
        // that keeps the channel open.
        self.channel
            .wait_or_end(self.guard.pidfd())
            .context("wait for", "the container's process")
            .and_then(|heard| if heard { Ok(()) } else { Err(self.death()) })?;
        self.channel.receive().context("hear from", "the container's process")
    }

    /// Tells the outcome of a request. A request that failed is told to the child, which ends with it
    /// and sends the same error back: one path for all errors.
    fn answer(&self, outcome: Result<Option<OwnedFd>>) -> Result<()> {
        let sent = match &outcome {
            Ok(Some(fd)) => self.channel.send(&FromCreator::Descriptor, Some(fd.as_fd())),
            Ok(None) => self.channel.send(&FromCreator::Done, None),
            Err(error) => self.channel.send(&FromCreator::Failed(error.clone()), None),
        };
        match (sent, outcome) {
            (Err(_), Err(error)) => Err(error),
            // It gave up meanwhile, and why is the next thing that it says.
            (Err(Failure { errno: Errno::EPIPE, .. }), _) => Ok(()),
            (sent, _) => sent.context("answer", "the container's process"),
        }
    }

    /// The process forked again; the first one has ended or is about to.
    fn reborn(&mut self, pid: i32, pidfd: OwnedFd) {
        let next = Guard::new(pid, pidfd, self.guard.parent);
        self.former = Some(std::mem::replace(&mut self.guard, next));
    }

    /// As [`Self::reborn`], and lets the new one go on.
    fn let_go_on(&mut self, pid: i32, pidfd: OwnedFd) -> Result<()> {
        self.reborn(pid, pidfd);
        match self.channel.send(&FromCreator::Go, None) {
            // It gave up already, and why is the next thing that it says.
            Err(Failure { errno: Errno::EPIPE, .. }) => Ok(()),
            sent => sent.context("let go on", "the container's process"),
        }
    }

    /// The end of a process that said nothing.
    fn death(&self) -> Error {
        let fate = self.guard.ended().map_or_else(
            || "closed its channel".to_owned(),
            |status| match status {
                WaitStatus::Exited(_, code) => format!("exited with status {code}"),
                WaitStatus::Signaled(_, signal, _) => format!(
                    "was killed by {signal}{}",
                    if signal == nix::sys::signal::Signal::SIGKILL {
                        " (perhaps linux.resources.memory.limit is too low)"
                    } else {
                        ""
                    }
                ),
                other => format!("{other:?}"),
            },
        );
        Error::new(
            ErrorKind::System,
            "wait for",
            "the container's process",
            format!("it {fate} before it was ready"),
        )
    }
}

/// The process has built the container and waits for `start`.
#[derive(Debug)]
pub(crate) struct Waiting {
    guard: Guard,
    /// A process that this one goes on from, reaped when there is time: it is ending, and the tenants see
    /// this one.
    _former: Option<Guard>,
    channel: Channel,
    terminal: Option<OwnedFd>,
}

impl Waiting {
    pub(crate) fn pid(&self) -> i32 {
        self.guard.pid
    }

    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.guard.pidfd()
    }

    pub(crate) fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    /// Gives the process its share of processor and disk.
    pub(crate) fn schedule(&self, scheduling: &Scheduling) -> Result<()> {
        scheduling.apply(self.guard.pid)
    }

    /// Lets the process go on to wait: it is recorded, and will be found should we end here.
    pub(crate) fn recorded(&self) -> Result<()> {
        const WHAT: &str = "the container's process";
        let sent = self.channel.send(&FromCreator::Go, None);
        if matches!(sent, Err(Failure { errno: Errno::EPIPE, .. }))
            && let Ok(Some((FromChild::Failed(error), _))) = self.channel.receive()
        {
            return Err(error);
        }
        sent.context("let wait", WHAT)
    }

    /// Waits until the guest has the container. It is the stand-in that sees to it that this ends.
    pub(crate) fn wait_for_guest(&self, warnings: &mut Vec<String>) -> Result<()> {
        const WHAT: &str = "the virtual machine";
        loop {
            let heard = self.channel.wait_or_end(self.guard.pidfd()).context("wait for", WHAT)?;
            let frame =
                if heard { self.channel.receive().context("hear from", WHAT)? } else { None };
            match frame {
                Some((FromChild::Warning(text), _)) => warnings.push(text),
                Some((FromChild::Ready, _)) => return Ok(()),
                Some((FromChild::Failed(error), _)) => return Err(error),
                Some((other, _)) => return Err(out_of_turn(&other)),
                None => {
                    let reason = "the process that stands for it has ended";
                    return Err(Error::new(ErrorKind::System, "start", WHAT, reason));
                }
            }
        }
    }

    /// Executes the program of a process that nobody else starts (exec's).
    pub(crate) fn start(self, agent: &Agent<'_>) -> Result<Running> {
        start(&self.channel, self.guard.pid, self.guard.pidfd(), agent)?;
        Ok(self.into_parts().0)
    }

    /// Lets the process live without this value. It waits on the start socket, or on the channel.
    pub(crate) fn into_parts(self) -> (Running, Channel) {
        let Self { guard, channel, .. } = self;
        let (pid, pidfd) = guard.release();
        (Running { pid, pidfd }, channel)
    }
}

/// A process that lives on its own.
#[derive(Debug)]
pub(crate) struct Running {
    pub pid: i32,
    pub pidfd: OwnedFd,
}

/// Why a process that is gone gave up, if it said so.
pub(crate) fn last_words(channel: &Channel) -> Option<Error> {
    match channel.receive() {
        Ok(Some((FromChild::Failed(error), _))) => Some(error),
        _ => None,
    }
}

/// Says `Start` and waits until the program runs (end of file) or could not be executed.
pub(crate) fn start(
    channel: &Channel,
    pid: i32,
    pidfd: BorrowedFd<'_>,
    agent: &Agent<'_>,
) -> Result<()> {
    const WHAT: &str = "the container's process";
    match channel.send(&FromCreator::Start, None) {
        // It is gone; perhaps it has said why.
        Err(failure) if failure.errno == Errno::EPIPE => {
            watch(channel, pid, pidfd, agent)?;
            Err(gone(failure)).context("start", WHAT)
        }
        sent => {
            sent.context("start", WHAT)?;
            watch(channel, pid, pidfd, agent)
        }
    }
}

/// Waits for the outcome of an execution.
pub(crate) fn watch(
    channel: &Channel,
    pid: i32,
    pidfd: BorrowedFd<'_>,
    agent: &Agent<'_>,
) -> Result<()> {
    const WHAT: &str = "the container's process";
    loop {
        match channel.receive().context("hear from", WHAT)? {
            None => return Ok(()),
            Some((FromChild::Failed(error), _)) => return Err(error),
            Some((FromChild::Listener { number, flag }, _)) => {
                // Without that power it takes a dumpable process to copy a descriptor from.
                let traces = caps::permitted()? & caps::SYS_PTRACE != 0;
                let answer = if traces { FromCreator::Done } else { FromCreator::Show };
                channel.send(&answer, None).context("answer", WHAT)?;
                let listener = fetch_listener(channel, pidfd, number)?;
                agent.give(listener, pid)?;
                raise(pid, flag).context("release", WHAT)?;
            }
            Some((other, _)) => return Err(out_of_turn(&other)),
        }
    }
}

/// Copies the listener out of the process once its filter is in. The process cannot tell us when: its
/// own `sendmsg` may be one of the calls that wait for the listener. So we look, briefly and often.
fn fetch_listener(channel: &Channel, pidfd: BorrowedFd<'_>, number: i32) -> Result<OwnedFd> {
    const LOOKS: u32 = 20_000;
    const LISTENER: &str = "the seccomp listener";
    let mut last = Failure { call: "pidfd_getfd", errno: Errno::EBADF };
    for _ in 0..LOOKS {
        match sys::fd::get_from(pidfd, number) {
            // EPERM: it is not dumpable yet, as asked by `Show`.
            Err(failure) if matches!(failure.errno, Errno::EBADF | Errno::EPERM) => last = failure,
            other => return other.context("fetch", LISTENER),
        }
        // A frame or end of file here means that the filter was refused: the caller will read why.
        if channel.wait(0).context("wait for", LISTENER)? {
            if let Some(error) = last_words(channel) {
                return Err(error);
            }
            break;
        }
        std::thread::sleep(std::time::Duration::from_micros(500));
    }
    Err(Error::system("fetch", LISTENER, last))
}

/// Writes a one to the word at `flag` in the memory of `pid`. process_vm_writev(2).
fn raise(pid: i32, flag: u64) -> std::result::Result<(), Failure> {
    let one = 1u32.to_ne_bytes();
    let base = usize::try_from(flag)
        .map_err(|_| Failure { call: "process_vm_writev", errno: Errno::EFAULT })?;
    let there = [RemoteIoVec { base, len: one.len() }];
    process_vm_writev(Pid::from_raw(pid), &[IoSlice::new(&one)], &there)
        .call("process_vm_writev")
        .map(drop)
}

fn gone(failure: Failure) -> Failure {
    match failure.errno {
        Errno::EPIPE => Failure { errno: Errno::ESRCH, ..failure },
        _ => failure,
    }
}

fn out_of_turn(frame: &FromChild) -> Error {
    Error::new(
        ErrorKind::System,
        "hear from",
        "the container's process",
        format!("{frame:?} out of turn"),
    )
}
