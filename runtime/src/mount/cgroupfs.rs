//! The container's view of cgroups: mounts of type `cgroup`.
//!
//! On a cgroup2 host it is that file system. On v1 and hybrid hosts it is a tmpfs with a directory
//! per hierarchy. In a cgroup namespace the hierarchies are mounted afresh and show the container's
//! cgroup as their root; without one the container's own directories are bound, so nobody else's
//! cgroups show.
//!
//! The bind that stands in where the kernel refuses a fresh mount is read-only unless `rw` was asked
//! for: it may show cgroups that the caller owns outside the container (CVE-2023-25809).

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::symlinkat;

use super::attach::{self, Links};
use super::{Mount, fs};
use crate::cgroup::layout::{Hierarchy, Layout};
use crate::error::{Call, Context, Error, Result};
use crate::sys::mount::{
    Depth, MOUNT_ATTR_ATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY, clone_tree, fsconfig_create, fsconfig_flag, fsconfig_string, fsmount,
    fsopen, move_mount, set_attributes,
};

/// What a cgroup mount shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// Whether a cgroup namespace roots the hierarchies at the container's cgroup.
    namespace: bool,
    /// The v1 hierarchies; empty on a cgroup2 host.
    v1: Vec<Part>,
    /// The cgroup2 hierarchy.
    unified: Option<Place>,
}

/// The container's directory in a hierarchy of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    directory: CString,
    /// The creator's, where the container stays when an ordinary user may not make it one.
    own: CString,
}

impl Place {
    /// Whether the container has no directory of its own, and others are in the one that it shows.
    fn is_shared(&self) -> bool {
        self.directory == self.own
    }
}

/// A v1 hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    /// The name of its directory, as on the host.
    name: CString,
    /// The controllers, as mount options.
    controllers: Vec<CString>,
    /// The name of a hierarchy without controllers.
    named: Option<CString>,
    place: Place,
}

impl View {
    /// The directories of the host that the view shows, each with its place below the mount.
    pub(crate) fn places(&self) -> Vec<(&CStr, &CStr)> {
        let unified = if self.v1.is_empty() { c"" } else { c"unified" };
        let v1 = self.v1.iter().map(|part| (part.name.as_c_str(), part.place.directory.as_c_str()));
        v1.chain(self.unified.iter().map(|place| (unified, place.directory.as_c_str()))).collect()
    }
}

const VIEW_FLAGS: u64 = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;

/// Plans the view from the host's hierarchies and the container's directories, host paths. In a
/// hierarchy where it has none of its own the container stays in its creator's cgroup.
pub(super) fn plan(layout: &Layout, directories: &[PathBuf], namespace: bool) -> View {
    // A path with a NUL byte cannot come from the host's mount table.
    let string = |text: &[u8]| CString::new(text).unwrap_or_default();
    let path = |path: PathBuf| string(path.as_os_str().as_bytes());
    let place = |mount_point: &Path, own: &Path| {
        let found = directories.iter().find(|directory| directory.starts_with(mount_point));
        let own = mount_point.join(own);
        Place { directory: path(found.unwrap_or(&own).clone()), own: path(own) }
    };
    let part = |hierarchy: &Hierarchy| {
        let name = hierarchy.mount_point.file_name().unwrap_or_default();
        Part {
            name: string(name.as_bytes()),
            controllers: hierarchy.controllers.iter().map(|c| string(c.as_bytes())).collect(),
            named: hierarchy.name.as_ref().map(|name| string(name.as_bytes())),
            place: place(&hierarchy.mount_point, &hierarchy.own),
        }
    };
    let unified = layout.unified.as_ref().map(|u| place(&u.mount_point, &u.own));
    View { namespace, v1: layout.v1.iter().map(part).collect(), unified }
}

/// Mounts the view at `target`. Returns the mount's root.
pub(super) fn mount(view: &View, mount: &Mount, target: BorrowedFd<'_>) -> Result<OwnedFd> {
    match (view.v1.is_empty(), &view.unified) {
        (true, None) => {
            Err(Error::unsupported("mount", mount.subject(), "the host has no cgroups"))
        }
        (true, Some(place)) => {
            let tree = unified(view, mount, place)?;
            move_mount(tree.as_fd(), target).context("mount", mount.subject())?;
            Ok(tree)
        }
        (false, _) => hierarchies(view, mount, target),
    }
}

fn unified(view: &View, mount: &Mount, place: &Place) -> Result<OwnedFd> {
    // Without a namespace the mount would show the whole tree; and in the host's cgroup namespace
    // it would also reset the host's mount options, such as nsdelegate.
    if view.namespace {
        let data = Mount { source: Some(c"cgroup2".to_owned()), ..mount.clone() };
        match fs::detached(&data, c"cgroup2", fresh_attributes(mount, place), None, None) {
            Err(error) if is_refusal(error.errno()) => {}
            other => return other,
        }
    }
    bound(mount, place, view.namespace)
}

/// Whether the kernel refuses a fresh mount to a user namespace or to a hierarchy in use.
fn is_refusal(errno: Option<Errno>) -> bool {
    matches!(errno, Some(Errno::EPERM | Errno::EBUSY | Errno::EACCES))
}

fn asks_for_rw(mount: &Mount) -> bool {
    mount.options.attributes.clear & MOUNT_ATTR_RDONLY != 0
}

/// The attributes of a fresh mount: a cgroup that others are in is written only where that is asked for.
fn fresh_attributes(mount: &Mount, place: &Place) -> u64 {
    let protect = place.is_shared() && !asks_for_rw(mount);
    mount.options.initial() | if protect { MOUNT_ATTR_RDONLY } else { 0 }
}

/// A bind of the container's own directory with the attributes asked for.
fn bound(mount: &Mount, place: &Place, is_fallback: bool) -> Result<OwnedFd> {
    let subject = || format!("{} from {}", mount.subject(), super::bind::quote_c(&place.directory));
    let is_fallback = is_fallback || place.is_shared();
    let (tree, is_fallback) = match clone_tree(AT_FDCWD, &place.directory, Depth::Top, false) {
        Err(failure) if failure.errno == Errno::ENOENT => {
            (clone_tree(AT_FDCWD, &place.own, Depth::Top, false), true)
        }
        tree => (tree, is_fallback),
    };
    let tree = tree.context("mount", subject())?;
    // Access times stay the host's: cgroup files have none worth keeping.
    let mut set = mount.options.initial() & !MOUNT_ATTR_ATIME | VIEW_FLAGS;
    if is_fallback && !asks_for_rw(mount) {
        set |= MOUNT_ATTR_RDONLY;
    }
    let clear = mount.options.attributes.clear & !MOUNT_ATTR_ATIME & !set;
    set_attributes(tree.as_fd(), Depth::Top, set, clear).context("mount", subject())?;
    Ok(tree)
}

fn hierarchies(view: &View, mount: &Mount, target: BorrowedFd<'_>) -> Result<OwnedFd> {
    let subject = mount.subject();
    let fs = fsopen(c"tmpfs").context("mount", &subject)?;
    fsconfig_string(fs.as_fd(), c"mode", c"755").context("mount", &subject)?;
    fsconfig_create(fs.as_fd()).context("mount", &subject)?;
    let attributes = mount.options.initial() | VIEW_FLAGS;
    let tmpfs = fsmount(fs.as_fd(), attributes & !MOUNT_ATTR_RDONLY).context("mount", &subject)?;
    // First, because before Linux 6.15 nothing can be mounted in a tree that is mounted nowhere.
    move_mount(tmpfs.as_fd(), target).context("mount", &subject)?;
    let place = |name: &CStr| -> Result<OwnedFd> {
        mkdirat(&tmpfs, name, Mode::from_bits_truncate(0o755))
            .call("mkdirat")
            .context("mount", &subject)?;
        attach::open(tmpfs.as_fd(), name, Links::Refuse).context("mount", &subject)
    };
    for part in &view.v1 {
        let tree = hierarchy(view, mount, part)?;
        move_mount(tree.as_fd(), place(&part.name)?.as_fd()).context("mount", &subject)?;
        // cpu and cpuacct lead to cpu,cpuacct.
        for controller in part.controllers.iter().filter(|&c| *c != part.name) {
            match symlinkat(part.name.as_c_str(), &tmpfs, controller.as_c_str()) {
                Err(Errno::EEXIST) => {}
                other => other.call("symlinkat").context("mount", &subject)?,
            }
        }
    }
    if let Some(place_of) = &view.unified {
        let plain = Mount { options: plain_options(mount), ..mount.clone() };
        let tree = unified(view, &plain, place_of)?;
        move_mount(tree.as_fd(), place(c"unified")?.as_fd()).context("mount", &subject)?;
    }
    if attributes & MOUNT_ATTR_RDONLY != 0 {
        set_attributes(tmpfs.as_fd(), Depth::Top, MOUNT_ATTR_RDONLY, 0)
            .context("mount", &subject)?;
    }
    Ok(tmpfs)
}

/// The mount's attributes without data, which was for the tmpfs, and with the flags of a view.
fn plain_options(mount: &Mount) -> super::options::Options {
    let mut options = mount.options.clone();
    options.data.clear();
    options.superblock.clear();
    options.attributes.set |= VIEW_FLAGS;
    options.attributes.clear &= !VIEW_FLAGS;
    options
}

fn hierarchy(view: &View, mount: &Mount, part: &Part) -> Result<OwnedFd> {
    if !view.namespace {
        return bound(mount, &part.place, false);
    }
    let fresh = || {
        let fs = fsopen(c"cgroup")?;
        fsconfig_string(fs.as_fd(), c"source", c"cgroup")?;
        for controller in &part.controllers {
            fsconfig_flag(fs.as_fd(), controller)?;
        }
        if let Some(name) = &part.named {
            fsconfig_string(fs.as_fd(), c"name", name)?;
            if part.controllers.is_empty() {
                fsconfig_flag(fs.as_fd(), c"none")?;
            }
        }
        fsconfig_create(fs.as_fd())?;
        fsmount(fs.as_fd(), fresh_attributes(mount, &part.place) | VIEW_FLAGS)
    };
    match fresh() {
        Err(failure) if is_refusal(Some(failure.errno)) => bound(mount, &part.place, true),
        other => other.context("mount", format!("{} {:?}", mount.subject(), part.name)),
    }
}
