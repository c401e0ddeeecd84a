//! What only cgroup v1 needs: cpusets are not inherited.
//!
//! A new v1 cpuset has no CPUs and no memory nodes and no process can join it
//! (<https://docs.kernel.org/admin-guide/cgroup-v1/cpusets.html>), so both are copied from the
//! nearest ancestor that has them, into every empty directory between.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;

use super::{knob, open_dir};
use crate::error::{Context, Failure, Result, quote};

/// The file and its name in a hierarchy mounted with `noprefix`.
const FILES: [[&str; 2]; 2] = [["cpuset.cpus", "cpus"], ["cpuset.mems", "mems"]];

/// Fills the empty cpusets from below the mount down to `relative`. Files of the last directory that
/// `set_later` names are left for a knob, because writing one rebuilds the scheduler's domains.
pub(super) fn inherit_cpuset(
    mount: &OwnedFd,
    relative: &Path,
    set_later: &dyn Fn(&str) -> bool,
) -> Result<()> {
    for names in FILES {
        let skip = set_later(names[0]);
        let from = if skip { relative.parent().unwrap_or(relative) } else { relative };
        fill(mount, from, names).context("inherit cpuset of", quote(relative))?;
    }
    Ok(())
}

/// The value of a directory's file, copied from the parent when it is empty.
fn fill(mount: &OwnedFd, relative: &Path, names: [&str; 2]) -> Result<String, Failure> {
    let dir = open_dir(mount, relative)?;
    let (file, value) = match knob::read(&dir, names[0]) {
        Err(f) if f.errno == Errno::ENOENT => (names[1], knob::read(&dir, names[1])?),
        result => (names[0], result?),
    };
    let value = value.trim().to_string();
    match relative.parent() {
        Some(parent) if value.is_empty() => {
            let value = fill(mount, parent, names)?;
            knob::put(dir.as_fd(), file, &value)?;
            Ok(value)
        }
        _ => Ok(value),
    }
}
