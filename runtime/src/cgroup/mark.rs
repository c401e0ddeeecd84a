//! Marks: which container a cgroup was made for, told by the cgroup itself.
//!
//! A state directory may get lost while the cgroups that it tells of stay. So each directory that is made
//! for a container carries where its state is, as an extended attribute: `trusted.bulkhead`, which nobody
//! without power over the host can write, or `user.bulkhead` of an ordinary user. One system call for
//! each hierarchy; a file system that takes none does without.
//!
//! A container that owns its cgroup may write `user.bulkhead` below it, so for root only the trusted one
//! counts, and for an ordinary user those of directories that it owns.

use std::ffi::{CStr, OsStr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::geteuid;

use super::layout::Layout;
use super::{Cgroup, Recorded, RecordedGroup, children, open_dir, open_path, vanished};
use crate::error::{Context, Failure, Result, quote};
use crate::sys::xattr;

const TRUSTED: &CStr = c"trusted.bulkhead";
const USER: &CStr = c"user.bulkhead";

/// A device number, a blank, and a path.
const LONGEST: usize = 4096 + 24;

/// Deeper than any manager nests.
const DEEPEST: usize = 32;

impl Cgroup {
    /// Marks the directories that this process has made, or has had made by systemd. Without a mark everything
    /// works but finding them after their state was lost, so what cannot be marked is left.
    pub(crate) fn mark(&self, value: &[u8]) {
        let name = if geteuid().is_root() { TRUSTED } else { USER };
        for group in self.groups.iter().filter(|group| group.made.contains(&group.at.path)) {
            if xattr::set(&group.at.path, name, value).is_err() && name == TRUSTED {
                // Root of a user namespace.
                let _ = xattr::set(&group.at.path, USER, value);
            }
        }
    }
}

/// Every directory with a mark in the host's hierarchies, and the mark.
pub(crate) fn marks() -> Result<Vec<(RecordedGroup, Vec<u8>)>> {
    let layout = Layout::detect()?;
    let mut found = Vec::new();
    for group in hierarchies(&layout) {
        let top = open_path(&group.mount_point);
        let top = top.context("open cgroup hierarchy", quote(&group.mount_point))?;
        let context = || quote(&group.mount_point);
        search(&top, &group.mount_point, &group, 0, &mut found)
            .context("look through", context())?;
    }
    Ok(found)
}

/// The directories with this mark.
pub(crate) fn marked(value: &[u8]) -> Result<Recorded> {
    let same = |(group, mark): (RecordedGroup, Vec<u8>)| (mark == value).then_some(group);
    Ok(Recorded(marks()?.into_iter().filter_map(same).collect()))
}

/// Those of the directories, known by their names alone, that no mark gives to somebody else: neither their
/// own, nor one above or below. `unmarked`: also those without any mark.
pub(crate) fn unclaimed(named: Recorded, value: &[u8], unmarked: bool) -> Result<Recorded> {
    let marks = marks()?;
    let apart = |a: &Path, b: &Path| !a.starts_with(b) && !b.starts_with(a);
    let is_free = |group: &RecordedGroup| {
        // Root of a user namespace has only been able to set the second.
        let mut own = [TRUSTED, USER].into_iter().filter_map(|name| {
            match xattr::get(&group.path, name, LONGEST) {
                Ok(mark) => Some(mark == value),
                // Too long for one of ours.
                Err(failure) => (failure.errno == Errno::ERANGE).then_some(false),
            }
        });
        let own = own.try_fold(unmarked, |_, same| same.then_some(true)).unwrap_or(false);
        own && marks.iter().all(|(other, mark)| mark == value || apart(&other.path, &group.path))
    };
    Ok(Recorded(named.0.into_iter().filter(is_free).collect()))
}

/// A group for the top of each hierarchy.
fn hierarchies(layout: &Layout) -> Vec<RecordedGroup> {
    let unified = layout.unified.iter().map(|unified| RecordedGroup {
        controllers: Vec::new(),
        name: None,
        unified: true,
        mount_point: unified.mount_point.clone(),
        path: PathBuf::new(),
        ancestors: Vec::new(),
        subgroup: None,
    });
    let v1 = layout.v1.iter().map(|hierarchy| RecordedGroup {
        controllers: hierarchy.controllers.clone(),
        name: hierarchy.name.clone(),
        unified: false,
        mount_point: hierarchy.mount_point.clone(),
        path: PathBuf::new(),
        ancestors: Vec::new(),
        subgroup: None,
    });
    unified.chain(v1).collect()
}

fn search(
    dir: &OwnedFd,
    path: &Path,
    hierarchy: &RecordedGroup,
    depth: usize,
    found: &mut Vec<(RecordedGroup, Vec<u8>)>,
) -> Result<(), Failure> {
    for name in children(dir)? {
        let name = OsStr::from_bytes(name.to_bytes());
        let path = path.join(name);
        if let Some(mark) = mark_of(&path) {
            found.push((RecordedGroup { path: path.clone(), ..hierarchy.clone() }, mark));
            // What is below is the container's own, and goes with it.
            continue;
        }
        if depth == DEEPEST {
            continue;
        }
        match open_dir(dir, Path::new(name)) {
            Ok(child) => match search(&child, &path, hierarchy, depth + 1, found) {
                Err(failure) if vanished(failure.errno) || failure.errno == Errno::EACCES => {}
                other => other?,
            },
            Err(failure) if vanished(failure.errno) => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(())
}

/// The mark that counts for the caller.
fn mark_of(path: &Path) -> Option<Vec<u8>> {
    let user = geteuid();
    if user.is_root() {
        return xattr::get(path, TRUSTED, LONGEST).ok();
    }
    let own = path.symlink_metadata().is_ok_and(|directory| directory.uid() == user.as_raw());
    if own { xattr::get(path, USER, LONGEST).ok() } else { None }
}
