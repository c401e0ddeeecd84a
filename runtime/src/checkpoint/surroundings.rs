//! Where CRIU works: a mount namespace of its own, with a small tmpfs over the container's state directory.
//!
//! ```text
//! PLACE/cgroups/unified   the host's cgroup2, bound
//!       root              the root file system, a mount as CRIU wants it
//!       null, empty       what covers masked paths, read-only
//! ```
//!
//! The worker makes it. Nobody else sees it, and it goes away with the worker, however that ends. Mounts of
//! the host are slaves in it: none that is made here reaches them.
//!
//! The root file system stays a slave too: CRIU takes from it what the container's root was a slave of.
//!
//! CRIU would mount cgroup2 afresh, which in the first cgroup namespace takes `nsdelegate` and other options
//! from the host's own mount: so it is given one. Covers are mounts for the reason in `attributes`.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::fcntl::{AT_FDCWD, OFlag, open, openat};
use nix::sys::stat::{Mode, SFlag, fstat, makedev, mkdirat, mknodat, stat};

use crate::error::{Call, Context, Failure, Result, quote};
use crate::mount::attach::{self, Links, Make};
use crate::mount::{Kind, Plan, beneath};
use crate::sys::mount::{
    Depth, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY, clone_tree,
    fsconfig_create, fsconfig_string, fsmount, fsopen, move_mount, set_attributes, set_propagation,
};

/// The root file system's directory.
pub(super) const ROOT: &str = "root";
/// What covers directories.
pub(super) const EMPTY: &str = "empty";
/// What covers files.
pub(super) const NULL: &str = "null";
/// Hierarchies, each by the name that CRIU has for it.
pub(super) const CGROUPS: &str = "cgroups";
const UNIFIED: &str = "cgroups/unified";

/// The surroundings, in the mount namespace of the process that makes them.
pub(super) struct Surroundings {
    tmpfs: OwnedFd,
}

impl Surroundings {
    /// Makes them over the directory `place`. `cgroups` is where cgroup2 is mounted, on a host that has
    /// nothing else.
    pub(super) fn make(place: &Path, cgroups: Option<&Path>) -> Result<Self> {
        let made = || -> Result<_, Failure> {
            let top = open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).call("open")?;
            set_propagation(top.as_fd(), Depth::Recursive, libc::MS_SLAVE)?;
            let fs = fsopen(c"tmpfs")?;
            fsconfig_string(fs.as_fd(), c"mode", c"755")?;
            fsconfig_create(fs.as_fd())?;
            let tmpfs = fsmount(fs.as_fd(), MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC)?;
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let directory = open(place, flags, Mode::empty()).call("open")?;
            move_mount(tmpfs.as_fd(), directory.as_fd())?;
            Ok(Self { tmpfs })
        };
        let made = made().context("make surroundings for CRIU in", quote(place))?;
        if let Some(cgroups) = cgroups {
            made.bind_cgroups(cgroups).context("bind for CRIU", quote(cgroups))?;
        }
        Ok(made)
    }

    fn bind_cgroups(&self, mount_point: &Path) -> Result<(), Failure> {
        let path = CString::new(mount_point.as_os_str().as_bytes()).unwrap_or_default();
        let tree = clone_tree(AT_FDCWD, &path, Depth::Top, true)?;
        self.make_place(CGROUPS, Make::Directory)?;
        self.attach(tree.as_fd(), UNIFIED, Make::Directory)
    }

    fn make_place(&self, name: &str, kind: Make) -> Result<(), Failure> {
        let (directory, file) = (Mode::from_bits_truncate(0o755), Mode::from_bits_truncate(0o644));
        match kind {
            Make::Directory => mkdirat(&self.tmpfs, name, directory).call("mkdirat"),
            Make::File => mknodat(&self.tmpfs, name, SFlag::S_IFREG, file, 0).call("mknodat"),
        }
    }

    /// Mounts `tree` on a new place.
    fn attach(&self, tree: BorrowedFd<'_>, name: &str, kind: Make) -> Result<(), Failure> {
        self.make_place(name, kind)?;
        self.attach_at(tree, name)
    }

    fn attach_at(&self, tree: BorrowedFd<'_>, name: &str) -> Result<(), Failure> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let place = openat(&self.tmpfs, name, flags, Mode::empty()).call("openat")?;
        move_mount(tree, place.as_fd())
    }

    /// Adds what a container is restored from: root file system and covers.
    pub(super) fn add_sources(&self, plan: &Plan) -> Result<()> {
        self.add_covers().context("prepare", "linux.maskedPaths")?;
        let attached = || -> Result<_, Failure> {
            let tree = clone_tree(AT_FDCWD, &plan.rootfs, Depth::Recursive, true)?;
            self.attach(tree.as_fd(), ROOT, Make::Directory)?;
            Ok(tree)
        };
        let root = attached().context("mount root.path", quote(plan.rootfs()))?;
        make_mount_points(root.as_fd(), plan)
    }

    /// Our own null device and empty directory, as for a new container: see `mount::mask`.
    fn add_covers(&self) -> Result<(), Failure> {
        let attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC;
        let mode = Mode::from_bits_truncate(0o666);
        mknodat(&self.tmpfs, NULL, SFlag::S_IFCHR, mode, makedev(1, 3)).call("mknodat")?;
        self.make_place(EMPTY, Make::Directory)?;
        for (name, more) in [(NULL, 0), (EMPTY, MOUNT_ATTR_NODEV)] {
            let path = CString::new(name).expect("a constant without NUL");
            let tree = clone_tree(self.tmpfs.as_fd(), &path, Depth::Top, false)?;
            set_attributes(tree.as_fd(), Depth::Top, attributes | more, 0)?;
            self.attach_at(tree.as_fd(), name)?;
        }
        Ok(())
    }
}

/// Makes what is missing of the places that are mounted on, except on file systems that are mounted first:
/// CRIU brings their content, or they are the host's.
fn make_mount_points(root: BorrowedFd<'_>, plan: &Plan) -> Result<()> {
    let mut covered: Vec<&CStr> = Vec::new();
    for mount in plan.mounts.iter().filter(|mount| mount.kind != Kind::Remount) {
        let target = mount.target.as_c_str();
        let is_covered = covered.iter().any(|above| beneath(target.to_bytes(), above.to_bytes()));
        covered.push(target);
        if is_covered {
            continue;
        }
        let kind = || match (&mount.kind, &mount.source) {
            (Kind::Bind(_), Some(source)) => {
                stat(source.as_c_str()).call("stat").map(|stat| Make::like(&stat))
            }
            _ => Ok(Make::Directory),
        };
        attach::open_or_make(root, target, Links::Follow, kind)
            .context("make the mount point", mount.subject())?;
    }
    Ok(())
}

/// Whether the destination of a mask is a directory. Those of the kernel's own file systems are not there
/// until CRIU has mounted them, but are the same on the host.
pub(super) fn is_directory(plan: &Plan, destination: &str) -> bool {
    let path = Path::new(destination);
    if ["/proc", "/sys"].iter().any(|place| path.starts_with(place)) {
        return path.is_dir();
    }
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let Ok(root) = open(plan.rootfs.as_c_str(), flags, Mode::empty()) else { return true };
    let relative = path.strip_prefix("/").unwrap_or(path);
    let Ok(relative) = CString::new(relative.as_os_str().as_bytes()) else { return true };
    let Ok(file) = attach::open(root.as_fd(), &relative, Links::Follow) else { return true };
    fstat(&file).is_ok_and(|stat| attach::is(&stat, SFlag::S_IFDIR))
}
