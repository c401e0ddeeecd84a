//! What only cgroup v2 needs: controllers are passed down level by level.
//!
//! A directory has the controllers that every directory above it lists in `cgroup.subtree_control`
//! (<https://docs.kernel.org/admin-guide/cgroup-v2.html#controlling-controllers>). A directory other
//! than the root that holds processes cannot pass on domain controllers, and one that belongs to
//! another user cannot be changed: the error names the directory that does not delegate.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::resources::Knob;
use super::{knob, open_dir};
use crate::error::{Context, Error, Failure, Result, quote};

/// For an ordinary user, whose cgroups are systemd's to give.
const HOW_TO_DELEGATE: &str = "; root delegates controllers to users by `systemctl edit user@.service`: \
                               [Service] Delegate=cpu cpuset io memory pids";

/// Those that make a directory "domain invalid" below a threaded one.
const THREADED: [&str; 4] = ["cpu", "cpuset", "perf_event", "pids"];

/// Passes every controller of the mount down to `relative`, so that later updates and figures have
/// them, and checks that those of `knobs` arrived.
pub(super) fn enable(
    mount: &OwnedFd,
    mount_point: &Path,
    relative: &Path,
    leaf: &OwnedFd,
    knobs: &[&Knob],
) -> Result<()> {
    let at = || quote(mount_point.join(relative));
    let all = words(mount, "cgroup.controllers").context("read controllers of", at())?;
    let mut present = words(leaf, "cgroup.controllers").context("read controllers of", at())?;
    let mut refusals = BTreeMap::new();
    if present != all {
        refusals = pass_down(mount, relative, &all).context("open", at())?;
        become_threaded(leaf, knobs).context("make threaded", at())?;
        present = words(leaf, "cgroup.controllers").context("read controllers of", at())?;
    }
    match knobs.iter().find(|knob| !has(&present, &all, knob)) {
        None => Ok(()),
        Some(knob) => {
            let why = refusals.get(&knob.controller).map(String::as_str);
            Err(not_there(mount_point, relative, &all, knob, why))
        }
    }
}

/// Whether a directory with the controllers `present`, in a hierarchy with `all`, has this knob.
pub(super) fn has(present: &BTreeSet<String>, all: &BTreeSet<String>, knob: &Knob) -> bool {
    present.contains(&knob.controller)
        || knob.controller == "cgroup"
        || !all.contains(&knob.controller) && is_core(knob)
}

/// Why a knob cannot be set: nobody has its controller, or it does not get as far as the directory.
pub(super) fn not_there(
    mount_point: &Path,
    relative: &Path,
    all: &BTreeSet<String>,
    knob: &Knob,
    why: Option<&str>,
) -> Error {
    let name = &knob.controller;
    let reason = match all.contains(name) {
        false => format!("{} has no {name} controller", quote(mount_point)),
        true => {
            let at = quote(mount_point.join(relative));
            let how = if nix::unistd::geteuid().is_root() { "" } else { HOW_TO_DELEGATE };
            let why = why.unwrap_or_default();
            format!("the {name} controller is not delegated to {at}{why}{how}")
        }
    };
    Error::unsupported("set", &knob.field, reason)
}

/// What [`enable`] would reach.
#[derive(Debug)]
pub(super) struct Arriving {
    /// Controllers of the hierarchy.
    pub all: BTreeSet<String>,
    /// Those that the directory would have.
    pub present: BTreeSet<String>,
    /// Why others would not arrive.
    pub refusals: BTreeMap<String, String>,
}

/// The controllers that the directory `relative` would have after [`enable`]. Nothing is written.
pub(super) fn arriving(mount: &OwnedFd, relative: &Path) -> Result<Arriving, Failure> {
    let all = words(mount, "cgroup.controllers")?;
    let mut present = all.clone();
    let mut refusals = BTreeMap::new();
    let above: Vec<&Path> = relative.ancestors().skip(1).collect();
    for path in above.into_iter().rev() {
        let dir = match open_dir(mount, path) {
            // A directory that is made passes everything on.
            Err(failure) if failure.errno == Errno::ENOENT => break,
            opened => opened?,
        };
        let passed = words(&dir, "cgroup.subtree_control")?;
        let lacking: Vec<String> = present.difference(&passed).cloned().collect();
        let top = path.as_os_str().is_empty();
        let why = match knob::open(&dir, "cgroup.subtree_control", OFlag::O_WRONLY) {
            Err(failure) => Some((failure, "")),
            Ok(_) if !top && !knob::read(&dir, "cgroup.procs").unwrap_or_default().is_empty() => {
                let failure = Failure { call: "write", errno: Errno::EBUSY };
                Some((failure, " (it holds processes)"))
            }
            Ok(_) => None,
        };
        if let Some((failure, text)) = why {
            for controller in lacking {
                let text =
                    format!(": write cgroup.subtree_control of {}{text}: {failure}", quote(path));
                present.remove(&controller);
                refusals.entry(controller).or_insert(text);
            }
        }
    }
    Ok(Arriving { all, present, refusals })
}

/// Pressure files need no controller.
fn is_core(knob: &Knob) -> bool {
    knob.choices.iter().all(|(file, _)| file.ends_with(".pressure"))
}

/// Writes `cgroup.subtree_control` of every directory above the last. Returns the
/// controllers that a directory would not pass on, and why; whether that matters is known at the end.
fn pass_down(
    mount: &OwnedFd,
    relative: &Path,
    wanted: &BTreeSet<String>,
) -> Result<BTreeMap<String, String>, Failure> {
    let mut refusals = BTreeMap::new();
    let above: Vec<&Path> = relative.ancestors().skip(1).collect();
    for path in above.into_iter().rev() {
        let dir = open_dir(mount, path)?;
        let has = words(&dir, "cgroup.subtree_control")?;
        let add: Vec<String> = wanted.difference(&has).map(|c| format!("+{c}")).collect();
        if add.is_empty() {
            continue;
        }
        let mut refuse = |controller: &str, why: &str, failure: Failure| {
            let text = format!(": write cgroup.subtree_control of {}{why}: {failure}", quote(path));
            refusals.entry(controller[1..].to_string()).or_insert(text);
        };
        match knob::put(&dir, "cgroup.subtree_control", &add.join(" ")) {
            Ok(()) => {}
            // Alone, a controller that can be threaded would be accepted, and would turn this
            // directory, which is not ours, into the root of a threaded tree.
            Err(failure) if failure.errno == Errno::EBUSY => {
                add.iter().for_each(|c| refuse(c, " (it holds processes)", failure));
            }
            // One refused controller refuses the whole line.
            Err(_) => {
                for controller in &add {
                    match knob::put(&dir, "cgroup.subtree_control", controller) {
                        Err(failure) if failure.errno != Errno::ENOENT => {
                            refuse(controller, "", failure);
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    Ok(refusals)
}

/// A new directory below a threaded one can only be used as a threaded one.
fn become_threaded(leaf: &OwnedFd, knobs: &[&Knob]) -> Result<(), Failure> {
    let invalid = knob::read(leaf, "cgroup.type")?.trim() == "domain invalid";
    if invalid && knobs.iter().all(|k| THREADED.contains(&k.controller.as_str())) {
        knob::put(leaf, "cgroup.type", "threaded")?;
    }
    Ok(())
}

fn words(dir: impl AsFd, file: &str) -> Result<BTreeSet<String>, Failure> {
    Ok(knob::read(dir, file)?.split_whitespace().map(str::to_string).collect())
}
