//! Removing a container's directories, at whatever depth it made its own.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::{Recorded, children, members, open_dir, open_path, rmdir, vanished};
use crate::error::{Call, Context, Error, ErrorKind, Failure, Result, quote};

/// A process that was killed leaves its cgroup when it has given its memory back.
const DEADLINE: Duration = Duration::from_secs(10);

impl Recorded {
    /// Removes the cgroup with all sub-cgroups from every hierarchy, and those ancestors that were
    /// made for it and hold nothing else. Processes must be dead or dying; none is moved.
    ///
    /// # Errors
    /// `WrongState` with the pids, when processes are still inside after ten seconds.
    pub fn delete(&self) -> Result<()> {
        let until = Instant::now() + DEADLINE;
        self.0.iter().try_for_each(super::RecordedGroup::check)?;
        for group in &self.0 {
            remove(&group.path, until)?;
            remove_ancestors(&group.ancestors)?;
        }
        Ok(())
    }
}

fn remove_ancestors(topmost_first: &[PathBuf]) -> Result<()> {
    for path in topmost_first.iter().rev() {
        match rmdir(path) {
            // Somebody else uses it: it stays, and so does everything above.
            Err(f) if matches!(f.errno, Errno::EBUSY | Errno::ENOTEMPTY | Errno::EACCES) => break,
            result => result.context("remove cgroup", quote(path))?,
        }
    }
    Ok(())
}

fn remove(path: &Path, until: Instant) -> Result<()> {
    let mut pause = Duration::from_micros(200);
    loop {
        let failure = match rmdir(path) {
            Ok(()) => return Ok(()),
            Err(f) if f.errno != Errno::EBUSY => {
                return Err(f).context("remove cgroup", quote(path));
            }
            Err(f) => f,
        };
        // A cgroup with children is as busy as one with processes. An emptied tree goes at once.
        match below(path) {
            Ok(true) if Instant::now() < until => continue,
            Err(f) if f.errno != Errno::EBUSY && !vanished(f.errno) => {
                return Err(f).context("remove cgroups below", quote(path));
            }
            _ => {}
        }
        if Instant::now() > until {
            return Err(still_busy(path, failure));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Removes everything below `path`, deepest first. Returns whether there was anything.
fn below(path: &Path) -> Result<bool, Failure> {
    let dir = open_path(path)?;
    empty(&dir)
}

fn empty(dir: &OwnedFd) -> Result<bool, Failure> {
    let names = children(dir)?;
    for name in &names {
        match unlinkat(dir, name.as_c_str(), UnlinkatFlags::RemoveDir) {
            Err(Errno::EBUSY) => {
                let child = OsStr::from_bytes(name.to_bytes());
                empty(&open_dir(dir, Path::new(child))?)?;
                match unlinkat(dir, name.as_c_str(), UnlinkatFlags::RemoveDir) {
                    Err(errno) if vanished(errno) => {}
                    result => result.call("rmdir")?,
                }
            }
            Err(errno) if vanished(errno) => {}
            result => result.call("rmdir")?,
        }
    }
    Ok(!names.is_empty())
}

fn still_busy(path: &Path, failure: Failure) -> Error {
    let mut pids = Default::default();
    let listed = open_path(path).and_then(|dir| members(&dir, &mut pids));
    if listed.is_err() || pids.is_empty() {
        return Error::system("remove cgroup", quote(path), failure);
    }
    let pids: Vec<String> = pids.iter().map(i32::to_string).collect();
    let reason = format!("it still holds the processes {}", pids.join(", "));
    Error::new(ErrorKind::WrongState, "remove cgroup", quote(path), reason)
}
