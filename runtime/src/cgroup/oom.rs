//! Telling about processes killed because the cgroup ran out of memory.
//!
//! v2 counts kills in `memory.events`, whose changes end a `poll(2)`; the same poll on
//! `cgroup.events` tells when the last process is gone. v1 signals an eventfd registered in
//! `cgroup.event_control`, also when the cgroup is removed
//! (<https://docs.kernel.org/admin-guide/cgroup-v1/memory.html>, "OOM control").

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::uio::pread;

use super::victim::{KernelLog, Victim};
use super::{Cgroup, Group, knob};
use crate::error::{Call, Context, Error, Failure, Result, quote};

impl Cgroup {
    /// Calls `seen` for every kill by the kernel for lack of memory, until `until` becomes readable
    /// or the cgroup is empty or gone. A kill at that very moment is told.
    pub fn watch_oom(
        &self,
        until: BorrowedFd<'_>,
        seen: &mut dyn FnMut(Option<Victim>),
    ) -> Result<()> {
        let log = KernelLog::open();
        let (group, result) = if let Some(group) = self.v1("memory") {
            (group, watch_v1(group, until, &mut || seen(log.next(&group.at.path))))
        } else if let Some(group) = self.unified() {
            (group, watch_v2(group, until, &mut || seen(log.next(&group.at.path))))
        } else {
            return Err(Error::unsupported("watch memory of", "container", "it has no cgroup"));
        };
        match result {
            Err(f) if f.errno == Errno::ENODEV => Ok(()),
            result => result.context("watch memory of", quote(&group.at.path)),
        }
    }
}

fn watch_v1(group: &Group, until: BorrowedFd<'_>, seen: &mut dyn FnMut()) -> Result<(), Failure> {
    let event =
        EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).call("eventfd2")?;
    let control = knob::open(&group.dir, "memory.oom_control", OFlag::O_RDONLY)?;
    let line = format!("{} {}", event.as_fd().as_raw_fd(), control.as_raw_fd());
    knob::put(&group.dir, "cgroup.event_control", &line)?;
    loop {
        let ready = wait(&[event.as_fd()], PollFlags::POLLIN, until)?;
        let count = match event.read() {
            Err(Errno::EAGAIN) => 0,
            result => result.call("read")?,
        };
        // The removal of the cgroup is signalled as well.
        if pread(&control, &mut [0; 64], 0).is_err() {
            return Ok(());
        }
        (0..count).for_each(|_| seen());
        if ready.until {
            return Ok(());
        }
    }
}

fn watch_v2(group: &Group, until: BorrowedFd<'_>, seen: &mut dyn FnMut()) -> Result<(), Failure> {
    let memory = knob::open(&group.dir, "memory.events", OFlag::O_RDONLY)?;
    let cgroup = knob::open(&group.dir, "cgroup.events", OFlag::O_RDONLY)?;
    let mut before = counter(&memory, "oom_kill")?;
    let mut ended = false;
    loop {
        let populated = counter(&cgroup, "populated")?;
        let kills = counter(&memory, "oom_kill")?;
        (before..kills).for_each(|_| seen());
        before = kills;
        if populated == 0 || ended {
            return Ok(());
        }
        ended = wait(&[memory.as_fd(), cgroup.as_fd()], PollFlags::POLLPRI, until)?.until;
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
