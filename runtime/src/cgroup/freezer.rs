//! Freezing and thawing all processes of a cgroup.
//!
//! v2 freezes in the background and reports by `cgroup.events`
//! (<https://docs.kernel.org/admin-guide/cgroup-v2.html>). v1 may stay in `FREEZING` while processes
//! fork; writing `FROZEN` again makes it look again
//! (<https://docs.kernel.org/admin-guide/cgroup-v1/freezer-subsystem.html>). Whatever goes wrong, a
//! container is not left frozen: one that hangs for good is worse than one that was not paused.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Cgroup, Group, children, knob, open_dir, vanished};
use crate::error::{Call, Context, Error, ErrorKind, Failure, Result, quote};

/// A process in an uninterruptible wait holds a freeze up for as long as it waits.
const DEADLINE: Duration = Duration::from_secs(10);

/// How often is looked whether what is not frozen are kernel threads alone.
const LOOK: Duration = Duration::from_millis(50);

/// The group that freezes, and how.
enum Freezer<'a> {
    V1(&'a Group),
    V2(&'a Group),
}

impl Cgroup {
    fn freezer(&self) -> Option<Freezer<'_>> {
        let v1 = self.v1("freezer").map(Freezer::V1);
        v1.or_else(|| self.unified().map(Freezer::V2))
    }

    fn some_freezer(&self) -> Result<Freezer<'_>> {
        self.freezer().ok_or_else(|| {
            Error::unsupported("freeze", "container", "it has no cgroup that can be frozen")
        })
    }

    /// Freezes every process and waits for it. On failure everything is thawed again.
    pub fn freeze(&self) -> Result<()> {
        let freezer = self.some_freezer()?;
        let result = match &freezer {
            Freezer::V1(group) => freeze_v1(group),
            Freezer::V2(group) => set_v2(group, "1"),
        };
        result.inspect_err(|_| {
            // The error that is on its way out matters more.
            let _ = freezer.thaw();
        })
    }

    /// Thaws every process and waits for it.
    pub fn thaw(&self) -> Result<()> {
        self.some_freezer()?.thaw()
    }

    /// Lets those go that were sent SIGKILL, of which nothing frozen in cgroup v1 can die: also out of
    /// sub-cgroups that the container has frozen itself. In v2 the signal reaches them all the same.
    pub fn let_killed_go(&self) -> Result<()> {
        match self.v1("freezer") {
            Some(group) => {
                thaw_tree(&group.dir).context("thaw what is below", quote(&group.at.path))
            }
            None if self.is_frozen()? => self.thaw(),
            None => Ok(()),
        }
    }

    /// Whether the container is frozen, or on its way there. Without a freezer it never is.
    pub fn is_frozen(&self) -> Result<bool> {
        let (group, file) = match self.freezer() {
            None => return Ok(false),
            Some(Freezer::V1(group)) => (group, "freezer.state"),
            Some(Freezer::V2(group)) => (group, "cgroup.freeze"),
        };
        match knob::read(&group.dir, file) {
            Ok(text) => Ok(matches!(text.trim(), "FROZEN" | "FREEZING" | "1")),
            Err(f) if super::vanished(f.errno) => Ok(false),
            Err(f) => Err(f).context("read freezer of", quote(&group.at.path)),
        }
    }
}

impl Cgroup {
    /// Refuses a cgroup that is frozen, or below one that is: who enters it stops, and whoever waits for
    /// that one waits too.
    pub fn refuse_frozen(&self) -> Result<()> {
        // Both files tell of what is above as well.
        let (group, file) = match self.freezer() {
            None => return Ok(()),
            Some(Freezer::V1(group)) => (group, "freezer.state"),
            Some(Freezer::V2(group)) => (group, "cgroup.events"),
        };
        let text =
            knob::read(&group.dir, file).context("read freezer of", quote(&group.at.path))?;
        if !text.lines().any(|line| matches!(line, "frozen 1" | "FROZEN" | "FREEZING")) {
            return Ok(());
        }
        let reason = "it is frozen, or is below one that is";
        Err(Error::new(ErrorKind::WrongState, "use cgroup", quote(&group.at.path), reason))
    }
}

impl Freezer<'_> {
    fn thaw(&self) -> Result<()> {
        match self {
            Freezer::V1(group) => knob::put(&group.dir, "freezer.state", "THAWED")
                .context("thaw", quote(&group.at.path)),
            Freezer::V2(group) => set_v2(group, "0"),
        }
    }
}

/// Thaws a cgroup of v1 and all below it. What vanishes meanwhile holds nobody.
fn thaw_tree(dir: &OwnedFd) -> Result<(), Failure> {
    match knob::put(dir, "freezer.state", "THAWED") {
        Err(f) if vanished(f.errno) => return Ok(()),
        result => result?,
    }
    for name in children(dir)? {
        let child = Path::new(OsStr::from_bytes(name.to_bytes()));
        match open_dir(dir, child) {
            Err(f) if vanished(f.errno) => {}
            opened => thaw_tree(&opened?)?,
        }
    }
    Ok(())
}

fn freeze_v1(group: &Group) -> Result<()> {
    let until = Instant::now() + DEADLINE;
    let mut pause = Duration::from_micros(10);
    for round in 1.. {
        knob::put(&group.dir, "freezer.state", "FROZEN")
            .context("freeze", quote(&group.at.path))?;
        let state = knob::read(&group.dir, "freezer.state");
        if state.context("freeze", quote(&group.at.path))?.trim() == "FROZEN" {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(late(group, "freeze"));
        }
        // A vfork parent waits, unfreezable, for a child that may be frozen already: only letting
        // all go for a moment resolves that.
        if round % 50 == 0 {
            knob::put(&group.dir, "freezer.state", "THAWED")
                .context("thaw", quote(&group.at.path))?;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
    Ok(())
}

fn late(group: &Group, what: &str) -> Error {
    let reason = format!("not all processes did within {} seconds", DEADLINE.as_secs());
    Error::new(ErrorKind::System, what, quote(&group.at.path), reason)
}

/// Writes `cgroup.freeze` and waits until `cgroup.events` says the same.
fn set_v2(group: &Group, value: &str) -> Result<()> {
    let what = if value == "1" { "freeze" } else { "thaw" };
    let reached = write_and_wait(group, value).context(what, quote(&group.at.path))?;
    if reached { Ok(()) } else { Err(late(group, what)) }
}

fn write_and_wait(group: &Group, value: &str) -> Result<bool, Failure> {
    let until = Instant::now() + DEADLINE;
    let wanted = format!("frozen {value}");
    let events = knob::open(&group.dir, "cgroup.events", OFlag::O_RDONLY)?;
    knob::put(&group.dir, "cgroup.freeze", value)?;
    let mut buffer = [0u8; 256];
    loop {
        // A read re-arms the descriptor, so a change after it ends the poll.
        let count = nix::sys::uio::pread(&events, &mut buffer, 0).call("pread")?;
        let text = String::from_utf8_lossy(&buffer[..count]);
        // A cgroup without processes never reports itself frozen while an ancestor's state differs.
        if text.lines().any(|l| l == wanted) {
            return Ok(true);
        }
        if value == "1" && only_kernel_threads_run(group)? {
            return Ok(true);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let timeout = PollTimeout::try_from(left.min(LOOK)).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLPRI)], timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).call("poll"),
        }
    }
}

/// Whether the cgroup holds kernel threads and everything else in it is frozen. KVM has a thread in the cgroup of a
/// machine that recovers large pages; the kernel freezes no thread of its own, and with one in it never says that
/// a cgroup is frozen.
fn only_kernel_threads_run(group: &Group) -> Result<bool, Failure> {
    /// `PF_KTHREAD` of <linux/sched.h>.
    const KERNEL: u64 = 0x0020_0000;
    /// Where a frozen thread waits (proc(5), wchan); the compiler may put the first into the second.
    const FROZEN: [&str; 2] = ["do_freezer_trap", "get_signal"];
    if !children(&group.dir)?.is_empty() {
        // There is more to look at than such a machine has.
        return Ok(false);
    }
    let threads = knob::read(&group.dir, "cgroup.threads")?;
    let mut found = false;
    for thread in threads.lines() {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{thread}/stat")) else { continue };
        // The name may hold anything, so fields count from its closing parenthesis: the ninth is the seventh there.
        let flags = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(6));
        let flags = flags.and_then(|flags| flags.parse::<u64>().ok());
        if flags.is_some_and(|flags| flags & KERNEL != 0) {
            found = true;
            continue;
        }
        let place = std::fs::read_to_string(format!("/proc/{thread}/wchan"));
        if !place.is_ok_and(|place| FROZEN.contains(&place.trim_end_matches('\0'))) {
            return Ok(false);
        }
    }
    Ok(found)
}
