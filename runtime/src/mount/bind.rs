//! Bind mounts: detached clones, their attributes, and what the creator does for them.
//!
//! A bind mount is cloned by the container's process, in its own mount namespace. In a namespace of
//! another user namespace the kernel has locked the flags of the host's mounts, and clones keep the
//! locks: a volume that the host has read-only cannot be remounted writable from inside. A clone
//! made in the creator's namespace would have no locks. So the creator only opens what the
//! container's root user may not reach, in the *container's* mount namespace, and sends the handle.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, ResolveFlag};
use nix::sys::statvfs::{FsFlags, fstatvfs};

use super::attach::openat2;
use super::options::Attributes;
use super::{Creator, Mount, Plan};
use crate::error::{Call, Context, Error, ErrorKind, Failure, Result, quote};
use crate::sys::mount::{
    self as sys, Depth, MOUNT_ATTR_ATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY, clone_tree, set_attributes,
};

/// A path that the creator opens for the container's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The root file system.
    Rootfs,
    /// The source of the mount with this index.
    Source(usize),
}

/// The creator's half of [`Creator::rootfs`] and [`Creator::bind_source`]: opens a path of the plan
/// with the creator's privileges below `child_root`.
///
/// The lookup begins at the child's root and so stays in the child's mount namespace, which is
/// still a copy of the host's; the handle it returns can be cloned by the child. `proc` is the
/// creator's handle of procfs; `pid` is the creator's own child and waits for the answer.
pub(crate) fn open_for_child(
    plan: &Plan,
    wanted: Wanted,
    pid: i32,
    proc: BorrowedFd<'_>,
) -> Result<OwnedFd> {
    let link = format!("{pid}/root");
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let child_root = nix::fcntl::openat(proc, link.as_str(), flags, nix::sys::stat::Mode::empty())
        .call("openat")
        .context("open the root of", format!("process {pid}"))?;
    open_beneath(plan, wanted, child_root.as_fd())
}

fn open_beneath(plan: &Plan, wanted: Wanted, child_root: BorrowedFd<'_>) -> Result<OwnedFd> {
    let (path, subject, follow) = match wanted {
        Wanted::Rootfs => (plan.rootfs.as_c_str(), "root.path".to_owned(), true),
        Wanted::Source(index) => {
            let (mount, source) = source_of(plan, index)?;
            (source, mount.subject(), !mount.options.source_nofollow)
        }
    };
    let flags = OFlag::O_PATH | if follow { OFlag::empty() } else { OFlag::O_NOFOLLOW };
    openat2(child_root, path, flags, ResolveFlag::RESOLVE_IN_ROOT)
        .context("open for", format!("{subject} {}", quote_c(path)))
}

/// The creator's half of [`Creator::clone_source`]: the source of `mounts[index]` without the mounts
/// below it. In the child's user namespace the kernel locks those to the mount that they cover, and
/// refuses to bind it alone; the creator has made them and may uncover it.
///
/// # Errors
/// The source's mount is restricted on the host. A clone made here would carry the restriction
/// without the lock, and the container could lift it.
pub(crate) fn clone_for_child(plan: &Plan, index: usize) -> Result<OwnedFd> {
    let (mount, source) = source_of(plan, index)?;
    let subject = || format!("{} from {}", mount.subject(), quote_c(source));
    let tree = clone_tree(AT_FDCWD, source, Depth::Top, !mount.options.source_nofollow)
        .context("mount", subject())?;
    let restrictions =
        FsFlags::ST_RDONLY | FsFlags::ST_NOSUID | FsFlags::ST_NODEV | FsFlags::ST_NOEXEC;
    let flags = fstatvfs(&tree).call("fstatfs").context("inspect", subject())?.flags();
    if flags.intersects(restrictions) {
        let reason = "the source holds other mounts and is itself mounted with restrictions, which \
                      a user namespace could lift: rbind is needed";
        return Err(Error::unsupported("mount", subject(), reason));
    }
    Ok(tree)
}

fn source_of(plan: &Plan, index: usize) -> Result<(&Mount, &CStr)> {
    let mount = plan.mounts.iter().find(|mount| mount.index == index);
    mount
        .and_then(|mount| mount.source.as_deref().map(|source| (mount, source)))
        .ok_or_else(|| Error::invalid(format!("mounts[{index}]"), "is no bind mount"))
}

/// The creator's half of [`Creator::idmap`]: maps the ids of the detached tree that becomes
/// `mounts[index]`, by those of a user namespace.
///
/// The tree is the child's own clone, so the locks of its flags stay.
pub(crate) fn idmap(
    plan: &Plan,
    index: usize,
    tree: BorrowedFd<'_>,
    userns: BorrowedFd<'_>,
) -> Result<()> {
    let field = || format!("mounts[{index}]");
    let mount = plan.mounts.iter().find(|mount| mount.index == index);
    let Some((mount, idmap)) = mount.and_then(|m| m.idmap.as_ref().map(|idmap| (m, idmap))) else {
        return Err(Error::invalid(field(), "is not idmapped"));
    };
    match sys::idmap(tree, idmap.depth, userns) {
        Err(Failure { errno: Errno::EINVAL, .. }) => Err(Error::unsupported(
            "map ids of",
            mount.subject(),
            "the file system of the source, or of a mount below it, cannot be idmapped",
        )),
        other => other.context("map ids of", mount.subject()),
    }
}

/// The source of a bind mount as a detached tree with all its attributes, but no propagation.
pub(super) fn tree(
    plan: &Plan,
    mount: &Mount,
    depth: Depth,
    creator: &mut impl Creator,
) -> Result<OwnedFd> {
    let source = mount.source.as_ref().expect("the plan gave each bind mount a source");
    let follow = !mount.options.source_nofollow;
    let tree = match clone_tree(AT_FDCWD, source, depth, follow) {
        Err(Failure { errno: Errno::EACCES | Errno::EPERM, .. }) if plan.userns => {
            let handle = creator.bind_source(mount.index)?;
            clone_tree(handle.as_fd(), c"", depth, follow)
        }
        Err(Failure { errno: Errno::EINVAL, .. }) if plan.userns && depth == Depth::Top => {
            Ok(creator.clone_source(mount.index)?)
        }
        other => other,
    };
    let tree = tree.map_err(|failure| explain_clone(mount, source, depth, failure))?;
    apply(mount, tree.as_fd())?;
    if mount.idmap.is_some() {
        creator.idmap(mount.index, tree.as_fd())?;
    }
    Ok(tree)
}

/// Why a source could not be cloned.
pub(crate) fn explain_clone(mount: &Mount, source: &CStr, depth: Depth, failure: Failure) -> Error {
    let subject = format!("{} from {}", mount.subject(), quote_c(source));
    match (failure.errno, depth) {
        (Errno::EINVAL, Depth::Top) => Error::new(
            ErrorKind::System,
            "mount",
            subject,
            "open_tree: EINVAL: the source is unbindable, or mounts of the host below it are locked \
             by the user namespace and need rbind",
        ),
        _ => Error::system("mount", subject, failure),
    }
}

/// Applies the attributes of a mount's options: to all mounts below first, then to itself.
pub(crate) fn apply(mount: &Mount, tree: BorrowedFd<'_>) -> Result<()> {
    let options = &mount.options;
    for (depth, attributes) in
        [(Depth::Recursive, options.recursive), (Depth::Top, options.attributes)]
    {
        if attributes.is_empty() {
            continue;
        }
        match set_attributes(tree, depth, attributes.set, attributes.clear) {
            Err(failure) if failure.errno == Errno::EPERM => {
                return Err(explain_locked(mount, tree, attributes, failure));
            }
            other => other.context("mount", mount.subject())?,
        }
    }
    Ok(())
}

/// Attributes whose locks have words in statvfs(2) and as options.
const LOCKABLE: &[(u64, FsFlags, &str)] = &[
    (MOUNT_ATTR_RDONLY, FsFlags::ST_RDONLY, "rw"),
    (MOUNT_ATTR_NOSUID, FsFlags::ST_NOSUID, "suid"),
    (MOUNT_ATTR_NODEV, FsFlags::ST_NODEV, "dev"),
    (MOUNT_ATTR_NOEXEC, FsFlags::ST_NOEXEC, "exec"),
];

/// Says which option contradicts a flag that the host's mount has and the user namespace locks.
fn explain_locked(
    mount: &Mount,
    tree: BorrowedFd<'_>,
    asked: Attributes,
    failure: Failure,
) -> Error {
    let has = fstatvfs(tree).map(|stat| stat.flags()).unwrap_or(FsFlags::empty());
    let mut words: Vec<&str> = LOCKABLE
        .iter()
        .filter(|&&(attribute, flag, _)| asked.clear & attribute != 0 && has.contains(flag))
        .map(|&(_, _, word)| word)
        .collect();
    if (asked.set | asked.clear) & (MOUNT_ATTR_ATIME | MOUNT_ATTR_NODIRATIME) != 0 {
        words.push("the access time option");
    }
    if words.is_empty() {
        return Error::system("mount", mount.subject(), failure);
    }
    let reason = format!(
        "mount_setattr: EPERM: {} contradicts how the host has mounted the source, which a user \
         namespace cannot change",
        words.join(", ")
    );
    Error::new(ErrorKind::System, "mount", mount.subject(), reason)
}

/// A path of the plan in quotes.
pub(super) fn quote_c(path: &CStr) -> String {
    use std::os::unix::ffi::OsStrExt;
    quote(std::ffi::OsStr::from_bytes(path.to_bytes()))
}
