//! Telling about processes killed because the cgroup ran out of memory.
//!
//! v2 counts kills in `memory.events`, whose changes end a `poll(2)`; the same poll on
//! `cgroup.events` tells when the last process is gone. v1 signals an eventfd registered in
//! `cgroup.event_control`, also when the cgroup is removed
//! (<https://docs.kernel.org/admin-guide/cgroup-v1/memory.html>, "OOM control").

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::uio::pread;

use super::victim::{KernelLog, Victim};
use super::{Cgroup, Group, knob};
use crate::error::{Call, Context, Error, Failure, Result, quote};

/// The kernel ended processes of a cgroup for lack of memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OomKill {
    /// Whom it chose, where the kernel log tells.
    pub victim: Option<Victim>,
    /// Whether all others of the cgroup went with it (`memory.oom.group`, cgroup v2).
    pub group: bool,
}

/// A watch on a cgroup, which counts kills from its making on.
#[derive(Debug)]
pub struct OomWatch {
    path: PathBuf,
    log: KernelLog,
    source: Source,
}

#[derive(Debug)]
enum Source {
    V1 { event: EventFd, control: OwnedFd },
    V2 { memory: OwnedFd, cgroup: OwnedFd, before: Counts },
}

/// Of `memory.events`.
#[derive(Clone, Copy, Debug)]
struct Counts {
    processes: u64,
    groups: u64,
}

impl Cgroup {
    /// Begins to watch; kills from now on are told by [`OomWatch::run`].
    pub fn watch_oom(&self) -> Result<OomWatch> {
        // Before the source: what that tells of is in the log then.
        let log = KernelLog::open();
        let (group, source) = if let Some(group) = self.v1("memory") {
            (group, watch_v1(group))
        } else if let Some(group) = self.unified() {
            (group, watch_v2(group))
        } else {
            return Err(Error::unsupported("watch memory of", "container", "it has no cgroup"));
        };
        let path = group.at.path.clone();
        Ok(OomWatch { source: source.context("watch memory of", quote(&path))?, path, log })
    }
}

impl OomWatch {
    /// What to poll, and for what: it is ready when there may have been a kill, and for a caller who does
    /// not want to wait in [`OomWatch::run`].
    pub fn polled(&self) -> (BorrowedFd<'_>, PollFlags) {
        match &self.source {
            Source::V1 { event, .. } => (event.as_fd(), PollFlags::POLLIN),
            Source::V2 { memory, .. } => (memory.as_fd(), PollFlags::POLLPRI),
        }
    }

    /// How many processes were killed since the last look.
    ///
    /// # Errors
    /// The cgroup's files cannot be read; `ENODEV` when it is gone.
    pub fn look(&mut self) -> Result<u64> {
        let count = match &mut self.source {
            Source::V1 { event, .. } => match event.read() {
                Err(Errno::EAGAIN) => Ok(0),
                result => result.call("read"),
            },
            Source::V2 { memory, before, .. } => Counts::read(memory).map(|now| {
                let processes = now.processes.saturating_sub(before.processes);
                *before = now;
                processes
            }),
        };
        count.context("watch memory of", quote(&self.path))
    }

    /// Calls `seen` for every kill, until `until` becomes readable or the cgroup is empty or gone. A kill
    /// at that very moment is told.
    ///
    /// # Errors
    /// The cgroup's files cannot be read.
    pub fn run(self, until: BorrowedFd<'_>, seen: &mut dyn FnMut(OomKill)) -> Result<()> {
        let Self { path, log, source } = self;
        let result = match source {
            Source::V1 { event, control } => {
                let mut seen = || seen(OomKill { victim: log.next(&path), group: false });
                run_v1(&event, &control, until, &mut seen)
            }
            Source::V2 { memory, cgroup, before } => {
                let mut seen = |group| seen(OomKill { victim: log.next(&path), group });
                run_v2(&memory, &cgroup, before, until, &mut seen)
            }
        };
        match result {
            Err(f) if f.errno == Errno::ENODEV => Ok(()),
            result => result.context("watch memory of", quote(&path)),
        }
    }
}

fn watch_v1(group: &Group) -> Result<Source, Failure> {
    let event =
        EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).call("eventfd2")?;
    let control = knob::open(&group.dir, "memory.oom_control", OFlag::O_RDONLY)?;
    let line = format!("{} {}", event.as_fd().as_raw_fd(), control.as_raw_fd());
    knob::put(&group.dir, "cgroup.event_control", &line)?;
    Ok(Source::V1 { event, control })
}

fn run_v1(
    event: &EventFd,
    control: &OwnedFd,
    until: BorrowedFd<'_>,
    seen: &mut dyn FnMut(),
) -> Result<(), Failure> {
    loop {
        let ready = wait(&[event.as_fd()], PollFlags::POLLIN, until)?;
        let count = match event.read() {
            Err(Errno::EAGAIN) => 0,
            result => result.call("read")?,
        };
        // The removal of the cgroup is signalled as well.
        if pread(control, &mut [0; 64], 0).is_err() {
            return Ok(());
        }
        (0..count).for_each(|_| seen());
        if ready.until {
            return Ok(());
        }
    }
}

fn watch_v2(group: &Group) -> Result<Source, Failure> {
    let memory = knob::open(&group.dir, "memory.events", OFlag::O_RDONLY)?;
    let cgroup = knob::open(&group.dir, "cgroup.events", OFlag::O_RDONLY)?;
    let before = Counts::read(&memory)?;
    Ok(Source::V2 { memory, cgroup, before })
}

fn run_v2(
    memory: &OwnedFd,
    cgroup: &OwnedFd,
    mut before: Counts,
    until: BorrowedFd<'_>,
    seen: &mut dyn FnMut(bool),
) -> Result<(), Failure> {
    let mut ended = false;
    loop {
        let populated = counter(cgroup, "populated")?;
        let now = Counts::read(memory)?;
        // A group's kill counts each of its processes, and the log names the one it began with.
        let groups = now.groups.saturating_sub(before.groups);
        let processes = now.processes.saturating_sub(before.processes);
        if groups > 0 {
            (0..groups).for_each(|_| seen(true));
        } else {
            (0..processes).for_each(|_| seen(false));
        }
        before = now;
        if populated == 0 || ended {
            return Ok(());
        }
        ended = wait(&[memory.as_fd(), cgroup.as_fd()], PollFlags::POLLPRI, until)?.until;
    }
}

impl Counts {
    fn read(memory: &OwnedFd) -> Result<Self, Failure> {
        Ok(Self {
            processes: counter(memory, "oom_kill")?,
            groups: counter(memory, "oom_group_kill")?,
        })
    }
}

struct Ready {
    until: bool,
}

fn wait(on: &[BorrowedFd<'_>], flags: PollFlags, until: BorrowedFd<'_>) -> Result<Ready, Failure> {
    let mut fds: Vec<PollFd<'_>> = vec![PollFd::new(until, PollFlags::POLLIN)];
    fds.extend(on.iter().map(|fd| PollFd::new(*fd, flags)));
    loop {
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            result => {
                result.call("poll")?;
                return Ok(Ready { until: fds[0].any() == Some(true) });
            }
        }
    }
}

/// The number behind `key` in a flat keyed file. Reading re-arms a poll for changes.
fn counter(file: &OwnedFd, key: &str) -> Result<u64, Failure> {
    let mut buffer = [0u8; 1024];
    let count = pread(file, &mut buffer, 0).call("pread")?;
    let text = String::from_utf8_lossy(&buffer[..count]);
    let words = text.lines().filter_map(|line| line.split_once(' '));
    Ok(words.filter(|(k, _)| *k == key).find_map(|(_, v)| v.parse().ok()).unwrap_or(0))
}
