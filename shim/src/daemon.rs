//! From the process that containerd started to the daemon that stays.
//!
//! `start` must end before containerd goes on, and containerd waits until nobody holds its output any
//! more: both streams are one pipe, whose whole content is the answer. So the daemon is a forked child
//! in a session of its own, with /dev/null for standard streams and no descriptor but its listener.
//!
//! Everything about itself that may fail it does before `start` answers, and while it has one process
//! and one thread: what it forks later inherits cgroup, OOM score and scheduling cookie.

use std::fs::{self, File, OpenOptions};
use std::io::{PipeReader, Read, Write, pipe};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::unistd::{Pid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, setsid};
use runtime::{Call, Context, Error, ErrorKind, Forked, Parent, Result, quote};

use crate::bootstrap::Launch;

/// What shims are called in process lists, by those who look for them.
const NAME: &std::ffi::CStr = c"containerd-shim";

const OOM_SCORE: &str = "/proc/self/oom_score_adj";

/// The largest value of `oom_score_adj`.
const OOM_SCORE_MAX: i32 = 1000;

/// How long the daemon may take to become one: a few writes to /proc and the cgroup.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the daemon says when all went well; anything else is the text of an error.
const READY: &[u8] = b"\0";

/// The two returns of [`fork`].
#[derive(Debug)]
pub enum Side {
    /// In the daemon, which must not return to the caller's code: its listener.
    Daemon(OwnedFd),
    /// In the caller: the daemon is ready.
    Caller,
}

/// Forks the daemon.
///
/// # Errors
/// In the caller only: no daemon is left.
pub fn fork(launch: &Launch, listener: OwnedFd) -> Result<Side> {
    const WHAT: &str = "daemon";
    let score = oom_score(Path::new(OOM_SCORE))?;
    let (read, mut write) = pipe().call("pipe").context("start", WHAT)?;
    match runtime::fork(Parent::Caller)? {
        Forked::Parent(pid, pidfd) => {
            drop(write);
            hear(read).inspect_err(|_| end(pid, &pidfd))?;
            Ok(Side::Caller)
        }
        Forked::Child => {
            let become_one = || {
                detach(&launch.bundle)?;
                settle(launch, score)
            };
            match become_one() {
                Ok(()) => drop(write.write_all(READY)),
                Err(error) => {
                    // A caller that is gone needs no text.
                    let _ = write.write_all(error.to_string().as_bytes());
                    runtime::leave(1);
                }
            }
            drop((read, write));
            match runtime::close_all_but(&[listener.as_fd()]) {
                Ok(()) => Ok(Side::Daemon(listener)),
                Err(_) => runtime::leave(1),
            }
        }
    }
}

/// Kills a daemon that is none, and waits until it has let go of its listener.
fn end(pid: i32, pidfd: &OwnedFd) {
    // Not reaped before this process ends, so the pid is still its own.
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    let patience = PollTimeout::from(u16::MAX);
    while poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], patience) == Err(Errno::EINTR)
    {
    }
}

/// Waits for the daemon's word.
fn hear(mut daemon: PipeReader) -> Result<()> {
    let failed = |reason: &str| Err(Error::new(ErrorKind::System, "start", "daemon", reason));
    let mut word = Vec::new();
    let patience = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX);
    loop {
        match poll(&mut [PollFd::new(daemon.as_fd(), PollFlags::POLLIN)], patience) {
            Err(Errno::EINTR) => continue,
            Ok(0) => return failed("is not ready in time"),
            polled => polled.call("poll").context("wait for", "daemon")?,
        };
        let mut part = [0; 4096];
        let length = daemon.read(&mut part).call("read").context("wait for", "daemon")?;
        word.extend_from_slice(&part[..length]);
        if length == 0 || word == READY {
            break;
        }
    }
    match word.as_slice() {
        READY => Ok(()),
        [] => failed("ended before it was ready"),
        text => failed(&String::from_utf8_lossy(text)),
    }
}

/// Parts with the caller's terminal, streams, signals and directory.
fn detach(bundle: &Path) -> Result<()> {
    const WHAT: &str = "from the caller";
    setsid().call("setsid").context("detach", WHAT)?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
        .call("sigprocmask")
        .context("detach", WHAT)?;
    runtime::keep_child_statuses()?;
    chdir(bundle).call("chdir").context("change to bundle", quote(bundle))?;
    let null = OpenOptions::new().read(true).write(true).open("/dev/null");
    let null = null.call("open").context("open", "/dev/null")?;
    dup2_stdin(&null)
        .and_then(|()| dup2_stdout(&null))
        .and_then(|()| dup2_stderr(&null))
        .call("dup2")
        .context("detach", WHAT)?;
    nix::sys::prctl::set_name(NAME).call("prctl").context("set name of", "daemon")
}

/// Takes the place among the host's processes that was asked for.
fn settle(launch: &Launch, score: i32) -> Result<()> {
    if launch.sched_core {
        // The session made this a process group of one: nobody else is moved.
        runtime::share_cores_with_own_group()?;
    }
    if !launch.options.shim_cgroup.is_empty() {
        join_cgroup(Path::new("/proc/self/mountinfo"), &launch.options.shim_cgroup)?;
    }
    set_oom_score(Path::new(OOM_SCORE), score)
}

/// What the daemon's OOM score is to be: one above its caller's, so that containerd outlives it. The
/// caller handed its own on to this process.
fn oom_score(path: &Path) -> Result<i32> {
    let text = fs::read_to_string(path).call("read").context("read", quote(path))?;
    let score: i32 = text.trim().parse().map_err(|_| {
        Error::new(ErrorKind::System, "read", quote(path), format!("is no number: {text:?}"))
    })?;
    Ok((score + 1).min(OOM_SCORE_MAX))
}

fn set_oom_score(path: &Path, score: i32) -> Result<()> {
    match fs::write(path, score.to_string()) {
        // Lowering needs CAP_SYS_RESOURCE, which a user namespace does not give.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(()),
        written => written.call("write").context("write", quote(path)),
    }
}

/// Joins the cgroup in every hierarchy that has it.
///
/// # Errors
/// `NotFound` when none has.
fn join_cgroup(mountinfo: &Path, cgroup: &str) -> Result<()> {
    let relative = Path::new(cgroup.trim_start_matches('/'));
    if relative.components().any(|part| part == Component::ParentDir) {
        let reason = "leads out of the hierarchy";
        return Err(Error::new(ErrorKind::Invalid, "join cgroup", quote(cgroup), reason));
    }
    let mounts = fs::read_to_string(mountinfo).call("read").context("read", quote(mountinfo))?;
    let mut joined = false;
    for hierarchy in hierarchies(&mounts) {
        let procs = hierarchy.join(relative).join("cgroup.procs");
        match OpenOptions::new().write(true).open(&procs) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            opened => {
                let write = |mut file: File| file.write_all(b"0");
                opened.and_then(write).call("write").context("join cgroup", quote(&procs))?;
                joined = true;
            }
        }
    }
    if joined {
        return Ok(());
    }
    let reason = "is in no hierarchy";
    Err(Error::new(ErrorKind::NotFound, "join cgroup", quote(cgroup), reason))
}

/// Where cgroup hierarchies are mounted with their roots.
fn hierarchies(mountinfo: &str) -> Vec<PathBuf> {
    let place = |line: &str| {
        let (mount, file_system) = line.split_once(" - ")?;
        let kind = file_system.split(' ').next()?;
        let mut fields = mount.split(' ').skip(3);
        let (root, place) = (fields.next()?, fields.next()?);
        (matches!(kind, "cgroup" | "cgroup2") && root == "/").then(|| PathBuf::from(place))
    };
    mountinfo.lines().filter_map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores() {
        let directory = crate::testing::directory("daemon");
        let path = directory.join("oom_score_adj");
        for (callers, expected) in [("-999\n", -998), ("0\n", 1), ("1000\n", 1000)] {
            fs::write(&path, callers).unwrap();
            assert_eq!(oom_score(&path).unwrap(), expected);
        }
        assert!(oom_score(&directory.join("none")).is_err());
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn cgroups() {
        let top = crate::testing::directory("daemon");
        let place = |name: &str| top.join(name).display().to_string();
        let mounts = format!(
            "30 1 0:26 / {} rw,nosuid shared:9 - cgroup2 cgroup2 rw\n31 1 0:27 / {} rw - cgroup cgroup rw,memory\n32 1 0:27 /a {} rw - cgroup cgroup rw\n33 1 8:1 / / rw - ext4 /dev/x rw\n",
            place("unified"),
            place("memory"),
            place("bound")
        );
        assert_eq!(hierarchies(&mounts), [top.join("unified"), top.join("memory")]);
        let file = top.join("mountinfo");
        fs::write(&file, mounts).unwrap();
        let group = top.join("memory/sys/shims");
        fs::create_dir_all(&group).unwrap();
        fs::write(group.join("cgroup.procs"), "").unwrap();
        join_cgroup(&file, "/sys/shims").unwrap();
        assert_eq!(fs::read(group.join("cgroup.procs")).unwrap(), b"0");
        let error = |cgroup| join_cgroup(&file, cgroup).unwrap_err().to_string();
        assert_eq!(error("/none"), "join cgroup \"/none\": is in no hierarchy");
        assert_eq!(error("/a/../../b"), "join cgroup \"/a/../../b\": leads out of the hierarchy");
        fs::remove_dir_all(top).unwrap();
    }

    #[test]
    fn words() {
        for (word, expected) in [
            (READY, Ok(())),
            (b"", Err("start daemon: ended before it was ready")),
            (b"chdir: ENOENT", Err("start daemon: chdir: ENOENT")),
        ] {
            let (read, mut write) = pipe().unwrap();
            write.write_all(word).unwrap();
            drop(write);
            let heard = hear(read).map_err(|error| error.to_string());
            assert_eq!(heard, expected.map_err(str::to_owned));
        }
    }
}
