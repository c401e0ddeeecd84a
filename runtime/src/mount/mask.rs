//! Masked and read-only paths.
//!
//! A mask over a file is /dev/null, over a directory one read-only tmpfs for all of them (a tmpfs
//! each made teardown slow on machines with many CPUs). The null is our own: one taken from the
//! container's /dev could be a link or a file of the image, and the mask would then expose what it
//! should hide (CVE-2025-31133, CVE-2025-62161).

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, ResolveFlag};
use nix::sys::stat::{Mode, SFlag, fstat, makedev, mkdirat, mknodat};
use oci_spec::runtime::Linux;

use super::attach::{is, openat2};
use super::{beneath, clean};
use crate::error::{Call, Context, Error, Failure, Result};
use crate::sys::mount::{
    Depth, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY, clone_tree,
    fsconfig_create, fsconfig_string, fsmount, fsopen, move_mount, set_attributes,
};

/// The paths of `linux.maskedPaths` and `linux.readonlyPaths`, relative to the root and clean.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Masks {
    /// To be hidden.
    pub masked: Vec<CString>,
    /// To be made read-only.
    pub readonly: Vec<CString>,
}

/// Plans the paths.
pub(super) fn plan(linux: Option<&Linux>) -> Result<Masks> {
    let paths = |name: &str, list: Option<&Vec<String>>, root: bool| -> Result<Vec<CString>> {
        let mut paths = Vec::new();
        for (index, path) in list.into_iter().flatten().enumerate() {
            let field = format!("linux.{name}[{index}]");
            if !path.starts_with('/') {
                return Err(Error::invalid(field, format!("{path:?} is not an absolute path")));
            }
            let path = clean(path.as_ref(), &field)?;
            if path.is_empty() && !root {
                return Err(Error::invalid(field, "is the root itself"));
            }
            paths.push(path);
        }
        Ok(paths)
    };
    let linux = |get: fn(&Linux) -> &Option<Vec<String>>| linux.and_then(|l| get(l).as_ref());
    Ok(Masks {
        masked: paths("maskedPaths", linux(Linux::masked_paths), false)?,
        readonly: paths("readonlyPaths", linux(Linux::readonly_paths), false)?,
    })
}

/// The roots of the container's procfs and sysfs, kept as handles. The paths below them are looked
/// up from there: a directory that another container renamed since cannot lead a mask elsewhere.
#[derive(Debug, Default)]
pub(super) struct Anchors {
    /// What is mounted on /proc.
    pub proc: Option<OwnedFd>,
    /// What is mounted on /sys.
    pub sys: Option<OwnedFd>,
}

impl Anchors {
    /// Opens a path of the plan; `None` if there is no such file.
    fn open(&self, root: BorrowedFd<'_>, path: &CStr) -> Result<Option<OwnedFd>, Failure> {
        let bytes = path.to_bytes_with_nul();
        let anchors = [(&b"proc"[..], &self.proc), (&b"sys"[..], &self.sys)];
        let anchor = anchors.iter().find_map(|&(name, fd)| {
            fd.as_ref().filter(|_| beneath(path.to_bytes(), name)).map(|fd| (name, fd))
        });
        let no_magic = ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let (dir, rest, resolve) = match anchor {
            Some((name, fd)) => {
                let rest = bytes.get(name.len() + 1..).filter(|rest| rest.len() > 1);
                (fd.as_fd(), rest.unwrap_or(b".\0"), ResolveFlag::RESOLVE_BENEATH)
            }
            None => (root, bytes, ResolveFlag::RESOLVE_IN_ROOT),
        };
        let rest = CStr::from_bytes_with_nul(rest).expect("a C string's tail is one");
        match openat2(dir, rest, nix::fcntl::OFlag::O_PATH, resolve | no_magic) {
            Err(Failure { errno: Errno::ENOENT | Errno::ENOTDIR, .. }) => Ok(None),
            other => other.map(Some),
        }
    }
}

/// A detached tree that is mounted any number of times. It is cloned from its first place, since
/// before Linux 6.15 a tree that is mounted nowhere cannot be cloned.
#[derive(Debug)]
struct Stamp {
    tree: OwnedFd,
    attached: bool,
}

impl Stamp {
    fn mount(&mut self, target: BorrowedFd<'_>) -> Result<(), Failure> {
        if !self.attached {
            move_mount(self.tree.as_fd(), target)?;
            self.attached = true;
            return Ok(());
        }
        let copy = clone_tree(self.tree.as_fd(), c"", Depth::Top, true)?;
        move_mount(copy.as_fd(), target)
    }
}

/// What masks are made of.
#[derive(Debug)]
pub(super) struct Covers {
    null: Stamp,
    directory: Stamp,
}

impl Covers {
    /// Prepares the covers. `scratch` is a directory of the old root, on a mount that is private or
    /// a slave: the tmpfs behind the covers is attached there and goes away with the old root.
    pub(super) fn prepare(scratch: BorrowedFd<'_>, label: Option<&CStr>) -> Result<Self> {
        let subject = "linux.maskedPaths";
        Self::try_prepare(scratch, label).context("prepare", subject).and_then(|covers| {
            // The node that hides secrets is verified on the handle that will be mounted.
            let stat = fstat(&covers.null.tree).call("fstat").context("prepare", subject)?;
            if is(&stat, SFlag::S_IFCHR) && stat.st_rdev == makedev(1, 3) {
                return Ok(covers);
            }
            Err(Error::unsupported(
                "prepare",
                subject,
                "the host's /dev/null is not the null device",
            ))
        })
    }

    fn try_prepare(scratch: BorrowedFd<'_>, label: Option<&CStr>) -> Result<Self, Failure> {
        let fs = fsopen(c"tmpfs")?;
        fsconfig_string(fs.as_fd(), c"mode", c"755")?;
        if let Some(label) = label {
            fsconfig_string(fs.as_fd(), c"context", label)?;
        }
        fsconfig_create(fs.as_fd())?;
        let tmpfs = fsmount(fs.as_fd(), MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC)?;
        mkdirat(&tmpfs, c"empty", Mode::from_bits_truncate(0o755)).call("mkdirat")?;
        let mode = Mode::from_bits_truncate(0o666);
        // A node of our own, so that a container's root that changes the mode of its mask does not
        // change the host's /dev/null. A user namespace may not make one and gets the host's.
        let own = match mknodat(&tmpfs, c"null", SFlag::S_IFCHR, mode, makedev(1, 3)) {
            Ok(()) => true,
            Err(Errno::EPERM) => false,
            Err(errno) => return Err(Failure { call: "mknodat", errno }),
        };
        move_mount(tmpfs.as_fd(), scratch)?;
        let null = match own {
            true => clone_tree(tmpfs.as_fd(), c"null", Depth::Top, false)?,
            false => clone_tree(AT_FDCWD, c"/dev/null", Depth::Top, true)?,
        };
        let directory = clone_tree(tmpfs.as_fd(), c"empty", Depth::Top, false)?;
        let attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC;
        set_attributes(null.as_fd(), Depth::Top, attributes, 0)?;
        set_attributes(directory.as_fd(), Depth::Top, attributes | MOUNT_ATTR_NODEV, 0)?;
        let stamp = |tree| Stamp { tree, attached: false };
        Ok(Self { null: stamp(null), directory: stamp(directory) })
    }
}

fn shown(path: &CStr, list: &str, index: usize) -> String {
    format!("\"/{}\" (linux.{list}[{index}])", path.to_bytes().escape_ascii())
}

/// Masks the paths that exist. Any other failure is fatal: a mask is never silently left out.
pub(super) fn mask(
    root: BorrowedFd<'_>,
    anchors: &Anchors,
    covers: &mut Covers,
    paths: &[CString],
) -> Result<()> {
    for (index, path) in paths.iter().enumerate() {
        let mut one = || -> Result<(), Failure> {
            let Some(target) = anchors.open(root, path)? else { return Ok(()) };
            let stat = fstat(&target).call("fstat")?;
            match is(&stat, SFlag::S_IFDIR) {
                true => covers.directory.mount(target.as_fd()),
                false => covers.null.mount(target.as_fd()),
            }
        };
        one().context("mask", shown(path, "maskedPaths", index))?;
    }
    Ok(())
}

/// Makes the paths that exist read-only, with all mounts below them.
pub(super) fn make_readonly(
    root: BorrowedFd<'_>,
    anchors: &Anchors,
    paths: &[CString],
) -> Result<()> {
    for (index, path) in paths.iter().enumerate() {
        let one = || -> Result<(), Failure> {
            let Some(target) = anchors.open(root, path)? else { return Ok(()) };
            let tree = clone_tree(target.as_fd(), c"", Depth::Recursive, true)?;
            set_attributes(tree.as_fd(), Depth::Recursive, MOUNT_ATTR_RDONLY, 0)?;
            move_mount(tree.as_fd(), target.as_fd())
        };
        one().context("make read-only", shown(path, "readonlyPaths", index))?;
    }
    Ok(())
}
