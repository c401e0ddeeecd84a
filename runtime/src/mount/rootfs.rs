//! The root file system: from the inherited mount namespace to a root of the container's own.
//!
//! The order is fixed by types. [`Root::open`] makes sure that nothing done here reaches the host and
//! attaches a private clone of the root file system; [`Root`] mounts on it; [`Root::enter`] leaves
//! the host's mounts behind; [`Inside::finish`] closes what must stay open until then.
//! <https://man7.org/linux/man-pages/man2/pivot_root.2.html>,
//! <https://docs.kernel.org/filesystems/sharedsubtree.html>

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::{Mode, SFlag, fstat, umask};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use nix::unistd::{chroot, fchdir, pivot_root, symlinkat};

use super::attach::{self, Links, Make, Target, is};
use super::bind::quote_c;
use super::mask::{self, Anchors, Covers};
use super::{Creator, Kind, Mount, Pids, Plan, bind, cgroupfs, dev, fs, procns};
use crate::error::{Call, Context, Error, Failure, Result};
use crate::sys::mount::{
    Depth, MOUNT_ATTR_ATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY, clone_tree, move_mount, place, set_attributes, set_propagation,
};

/// The root file system in the making.
#[derive(Debug)]
pub(crate) struct Root {
    fd: OwnedFd,
    rest: Rest,
}

/// A process whose root is the container's.
#[derive(Debug)]
pub(crate) struct Inside {
    fd: OwnedFd,
    rest: Rest,
}

/// What is carried to the end.
#[derive(Debug)]
struct Rest {
    umask: Mode,
    covers: Option<Covers>,
    anchors: Anchors,
    /// Mounts that become read-only at the end: one of /dev, and tmpfs with mounts in them.
    late_readonly: Vec<(String, OwnedFd)>,
}

const SLAVE: u64 = libc::MS_SLAVE;
const PRIVATE: u64 = libc::MS_PRIVATE;
const SHARED: u64 = libc::MS_SHARED;
const DIRECTORY: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

enum Stop {
    Failed(Failure),
    Explained(Error),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Cuts the inherited mounts off from the host. A slave still hears of the host's mounts, which is
/// the default; with `shared` the mounts stay shared, because a bind mount of the configuration can
/// only be shared with the host if its source is.
fn isolate(plan: &Plan) -> Result<()> {
    let propagation = match plan.propagation {
        Some((_, SHARED)) => return Ok(()),
        Some((_, PRIVATE | libc::MS_UNBINDABLE)) => PRIVATE,
        _ => SLAVE,
    };
    let root = openat(AT_FDCWD, c"/", DIRECTORY, Mode::empty())
        .call("openat")
        .context("set propagation of", "\"/\"")?;
    set_propagation(root.as_fd(), Depth::Recursive, propagation)
        .context("set propagation of", "\"/\"")
}

/// Attaches a clone of the root file system over itself: a mount that is a mount's root, has a
/// parent that is not shared as pivot_root(2) demands, and is ours to change.
fn attach_clone(plan: &Plan, directory: BorrowedFd<'_>, mut rest: Rest) -> Result<Root, Stop> {
    let shared = matches!(plan.propagation, Some((_, SHARED)));
    let clone = clone_tree(directory, c"", Depth::Recursive, true)?;
    if shared {
        // The clone would share with the host whatever is mounted in it; and the mount that holds
        // it would show the clone itself.
        set_propagation(clone.as_fd(), Depth::Recursive, PRIVATE)?;
        set_propagation(mount_root(directory)?.as_fd(), Depth::Top, PRIVATE)?;
    }
    if !plan.masks.masked.is_empty() {
        let covers = Covers::prepare(directory, plan.label.as_deref()).map_err(Stop::Explained)?;
        rest.covers = Some(covers);
    }
    move_mount(clone.as_fd(), directory)?;
    Ok(Root { fd: clone, rest })
}

/// The root of the mount that a directory is on.
fn mount_root(directory: BorrowedFd<'_>) -> Result<OwnedFd, Failure> {
    let mut here = openat(directory, c".", DIRECTORY, Mode::empty()).call("openat")?;
    while !place(here.as_fd())?.is_root {
        here = openat(&here, c"..", DIRECTORY, Mode::empty()).call("openat")?;
    }
    Ok(here)
}

impl Root {
    /// Opens the root file system, in the container's mount namespace.
    ///
    /// The umask is zero from here to [`Inside::finish`], so that modes are what the plan says.
    pub(crate) fn open(plan: &Plan, creator: &mut impl Creator) -> Result<Self> {
        let old_umask = umask(Mode::empty());
        let rest = Rest {
            umask: old_umask,
            covers: None,
            anchors: Anchors::default(),
            late_readonly: Vec::new(),
        };
        if plan.mount_namespace {
            isolate(plan)?;
        }
        let subject = || quote_c(&plan.rootfs);
        let directory = match openat(AT_FDCWD, plan.rootfs.as_c_str(), DIRECTORY, Mode::empty()) {
            Err(Errno::EACCES | Errno::EPERM) if plan.userns => creator.rootfs()?,
            other => other.call("openat").context("open root.path", subject())?,
        };
        if !plan.mount_namespace {
            return Ok(Self { fd: directory, rest });
        }
        attach_clone(plan, directory.as_fd(), rest).map_err(|failure| match failure {
            Stop::Failed(failure) => Error::system("mount root.path", subject(), failure),
            Stop::Explained(error) => error,
        })
    }

    /// Makes all mounts in the configuration's order.
    pub(crate) fn mount_all(
        &mut self,
        plan: &Plan,
        pids: Pids<'_>,
        creator: &mut impl Creator,
    ) -> Result<()> {
        for mount in &plan.mounts {
            self.mount(plan, mount, pids, creator)?;
        }
        Ok(())
    }

    fn mount(
        &mut self,
        plan: &Plan,
        mount: &Mount,
        pids: Pids<'_>,
        creator: &mut impl Creator,
    ) -> Result<()> {
        let directory = || Ok(Make::Directory);
        let mounted = match &mount.kind {
            Kind::Bind(depth) => match self.bind(plan, mount, *depth, creator)? {
                Some(tree) => tree,
                None => return Ok(()),
            },
            Kind::Remount => {
                let links = self.links(mount);
                let target = attach::open(self.fd.as_fd(), &mount.target, links)
                    .context("remount", mount.subject())?;
                fs::remount(mount, target.as_fd())?;
                target
            }
            Kind::Proc => match pids {
                Pids::Own => self.kernel(plan, mount, c"proc", c"/proc", !plan.pid_namespace)?,
                other => self.procfs_of(mount, other)?,
            },
            Kind::Sysfs => self.kernel(plan, mount, c"sysfs", c"/sys", true)?,
            Kind::Cgroup => {
                let target = self.target(mount, directory)?;
                cgroupfs::mount(&plan.cgroups, mount, target.fd.as_fd())?
            }
            Kind::Filesystem(fstype) => {
                let target = self.target(mount, directory)?;
                fs::mount(plan, self.fd.as_fd(), mount, fstype, &target)?
            }
        };
        for &(depth, propagation) in &mount.options.propagation {
            // After attaching: in a shared parent the kernel makes every new mount shared.
            set_propagation(mounted.as_fd(), depth, propagation)
                .context("set propagation of", mount.subject())?;
        }
        match mount.target.to_bytes() {
            _ if mount.late_readonly => self.rest.late_readonly.push((mount.subject(), mounted)),
            b"proc" => self.rest.anchors.proc = Some(mounted),
            b"sys" => self.rest.anchors.sys = Some(mounted),
            _ => {}
        }
        Ok(())
    }

    fn links(&self, mount: &Mount) -> Links {
        match (mount.is_kernel_place(), mount.options.target_nofollow) {
            (true, _) => Links::Refuse,
            (false, true) => Links::FollowNotLast,
            (false, false) => Links::Follow,
        }
    }

    /// Opens the place of a mount, which is made if missing.
    fn target(
        &self,
        mount: &Mount,
        make: impl FnOnce() -> Result<Make, Failure>,
    ) -> Result<Target> {
        let target = attach::open_or_make(self.fd.as_fd(), &mount.target, self.links(mount), make)
            .map_err(|failure| match failure.errno {
                Errno::ELOOP if mount.is_kernel_place() => Error::new(
                    crate::error::ErrorKind::Invalid,
                    "mount",
                    mount.subject(),
                    "the destination is, or is below, a symbolic link",
                ),
                _ => Error::system("open the destination of", mount.subject(), failure),
            })?;
        if target.by_link {
            self.check_link(mount, &target)?;
        }
        Ok(target)
    }

    /// A place reached by a link must not be in procfs, which the plan guards by name, nor be the
    /// root, beneath which everything else would be mounted unseen.
    fn check_link(&self, mount: &Mount, target: &Target) -> Result<()> {
        let check = || -> Result<Option<&str>, Failure> {
            if fstatfs(&target.fd).call("fstatfs")?.filesystem_type() == PROC_SUPER_MAGIC {
                return Ok(Some("leads into /proc by a symbolic link"));
            }
            let stat = fstat(&target.fd).call("fstat")?;
            let root = fstat(&self.fd).call("fstat")?;
            let same = (stat.st_dev, stat.st_ino) == (root.st_dev, root.st_ino);
            Ok(same.then_some("leads to the root by a symbolic link"))
        };
        match check().context("check the destination of", mount.subject())? {
            None => Ok(()),
            Some(reason) => Err(Error::invalid(format!("{}.destination", mount.field()), reason)),
        }
    }

    fn bind(
        &self,
        plan: &Plan,
        mount: &Mount,
        depth: Depth,
        creator: &mut impl Creator,
    ) -> Result<Option<OwnedFd>> {
        if mount.options.copy_symlink && self.copy_symlink(mount)? {
            return Ok(None);
        }
        let tree = bind::tree(plan, mount, depth, creator)?;
        let target = self.target(mount, || Ok(Make::like(&fstat(&tree).call("fstat")?)))?;
        if mount.target.to_bytes() == b"proc" {
            check_procfs(mount, tree.as_fd())?;
        }
        move_mount(tree.as_fd(), target.fd.as_fd()).map_err(|failure| match failure.errno {
            // Docker looks for "not a directory" to explain what its user has mixed up.
            Errno::ENOTDIR | Errno::EINVAL => {
                let subject = format!(
                    "{}, one of source and destination is not a directory",
                    mount.subject()
                );
                Error::system("mount", subject, failure)
            }
            _ => Error::system("mount", mount.subject(), failure),
        })?;
        Ok(Some(tree))
    }

    /// `copy-symlink`: makes a link like the source, if that is one.
    fn copy_symlink(&self, mount: &Mount) -> Result<bool> {
        let source = mount.source.as_ref().expect("the plan gave each bind mount a source");
        let text = match nix::fcntl::readlinkat(AT_FDCWD, source.as_c_str()) {
            Err(Errno::EINVAL) => return Ok(false),
            other => other.call("readlinkat").context("copy link to", mount.subject())?,
        };
        let (parent, name) = attach::split(&mount.target);
        let parent = attach::make_directory(self.fd.as_fd(), &parent, self.links(mount))
            .context("copy link to", mount.subject())?;
        match symlinkat(text.as_os_str(), &parent, name.as_c_str()) {
            Err(Errno::EEXIST)
                if nix::fcntl::readlinkat(&parent, name.as_c_str()).is_ok_and(|t| t == text) => {}
            other => other.call("symlinkat").context("copy link to", mount.subject())?,
        }
        Ok(true)
    }

    /// Mounts procfs or sysfs on a real directory at exactly the path asked for. Where a user
    /// namespace may not, because it does not own what the file system shows, it gets the host's.
    fn kernel(
        &self,
        plan: &Plan,
        mount: &Mount,
        fstype: &CStr,
        host: &CStr,
        may_bind: bool,
    ) -> Result<OwnedFd> {
        let target = self.kernel_target(mount)?;
        match fs::mount(plan, self.fd.as_fd(), mount, fstype, &target) {
            Err(error) if plan.userns && may_bind && error.errno() == Some(Errno::EPERM) => {}
            other => return other,
        }
        let bound = || {
            let tree = clone_tree(AT_FDCWD, host, Depth::Recursive, true)?;
            // The stand-in is everything the real one would have been: read-only too, and below.
            // Access times stay the host's, which the user namespace locks.
            let asked = mount.options.initial() & !MOUNT_ATTR_ATIME;
            let safe = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
            set_attributes(tree.as_fd(), Depth::Recursive, asked | safe, 0)?;
            move_mount(tree.as_fd(), target.fd.as_fd())?;
            Ok(tree)
        };
        bound().context("mount", format!("{} from {}", mount.subject(), quote_c(host)))
    }

    /// Opens a real directory at exactly the path asked for.
    fn kernel_target(&self, mount: &Mount) -> Result<Target> {
        let target = self.target(mount, || Ok(Make::Directory))?;
        let stat = fstat(&target.fd).call("fstat").context("mount", mount.subject())?;
        if !is(&stat, SFlag::S_IFDIR) {
            let failure = Failure { call: "openat2", errno: Errno::ENOTDIR };
            return Err(Error::system("mount", mount.subject(), failure));
        }
        Ok(target)
    }

    /// Mounts the procfs of a pid namespace that this process is not in.
    fn procfs_of(&self, mount: &Mount, pids: Pids<'_>) -> Result<OwnedFd> {
        let target = self.kernel_target(mount)?;
        let tree = procns::detached(mount, pids)?;
        check_procfs(mount, tree.as_fd())?;
        move_mount(tree.as_fd(), target.fd.as_fd()).context("mount", mount.subject())?;
        Ok(tree)
    }

    /// Makes the device nodes and links, unless the configuration brings its own /dev.
    pub(crate) fn devices(&mut self, plan: &Plan) -> Result<()> {
        match &plan.devices {
            Some(nodes) => dev::make(self.fd.as_fd(), nodes, plan.userns),
            None => Ok(()),
        }
    }

    /// Makes this the root of the process and leaves the host's mounts behind.
    pub(crate) fn enter(self, plan: &Plan) -> Result<Inside> {
        let subject = quote_c(&plan.rootfs);
        let result = match (plan.mount_namespace, plan.no_pivot) {
            (false, _) => enter(self.fd.as_fd()),
            (true, false) => pivot(self.fd.as_fd(), plan),
            // For a host whose root is the initial ramfs, which cannot be pivoted away.
            (true, true) => move_root(self.fd.as_fd()),
        };
        result.context("change root to", subject)?;
        Ok(Inside { fd: self.fd, rest: self.rest })
    }
}

/// A bind over /proc must be a whole procfs, not a file tree that looks like one.
fn check_procfs(mount: &Mount, tree: BorrowedFd<'_>) -> Result<()> {
    /// PROC_ROOT_INO.
    const ROOT: u64 = 1;
    let stat = fstat(tree).call("fstat").context("check", mount.subject())?;
    let magic = fstatfs(tree).call("fstatfs").context("check", mount.subject())?;
    if magic.filesystem_type() == PROC_SUPER_MAGIC && stat.st_ino == ROOT {
        return Ok(());
    }
    Err(Error::invalid(
        format!("{}.source", mount.field()),
        "only a procfs can be mounted on /proc",
    ))
}

fn enter(root: BorrowedFd<'_>) -> Result<(), Failure> {
    fchdir(root).call("fchdir")?;
    chroot(c".").call("chroot")?;
    nix::unistd::chdir(c"/").call("chdir")
}

fn pivot(root: BorrowedFd<'_>, plan: &Plan) -> Result<(), Failure> {
    let old = match plan.propagation {
        Some((_, SHARED)) => Some(openat(AT_FDCWD, c"/", DIRECTORY, Mode::empty()).call("openat")?),
        _ => None,
    };
    fchdir(root).call("fchdir")?;
    // The old root lands on top of the new one, where no directory is needed for it.
    pivot_root(c".", c".").call("pivot_root")?;
    if let Some(old) = old {
        // Or the unmounts below would happen on the host as well.
        set_propagation(old.as_fd(), Depth::Recursive, SLAVE)?;
    }
    umount2(c".", MntFlags::MNT_DETACH).call("umount2")?;
    nix::unistd::chdir(c"/").call("chdir")
}

/// One line of /proc/self/mountinfo, as far as it is needed here.
struct Line {
    id: u64,
    parent: u64,
    is_whole: bool,
    point: Vec<u8>,
    fstype: String,
}

/// Moves the root over `/` and changes into it. The host's mounts stay in the namespace below it.
///
/// The kernel lets a user namespace mount a procfs or sysfs only if it sees one without covered
/// parts; the host's would count. So the whole ones are unmounted, or covered where that is not
/// permitted.
fn move_root(root: BorrowedFd<'_>) -> Result<(), Failure> {
    let text = std::fs::read("/proc/self/mountinfo").call("read")?;
    let lines: Vec<Line> = text.split(|&b| b == b'\n').filter_map(parse_line).collect();
    let ours = place(root)?.mount;
    let mut inside = vec![ours];
    // A mount's line may come before its parent's: repeat until nothing is added.
    loop {
        let before = inside.len();
        for line in &lines {
            if inside.contains(&line.parent) && !inside.contains(&line.id) {
                inside.push(line.id);
            }
        }
        if inside.len() == before {
            break;
        }
    }
    let reveals = |line: &&Line| {
        line.is_whole
            && matches!(line.fstype.as_str(), "proc" | "sysfs")
            && !inside.contains(&line.id)
    };
    for line in lines.iter().rev().filter(reveals) {
        let point = std::ffi::CString::new(line.point.clone()).unwrap_or_default();
        let Ok(top) = openat(AT_FDCWD, point.as_c_str(), DIRECTORY, Mode::empty()) else {
            continue;
        };
        match set_propagation(top.as_fd(), Depth::Recursive, SLAVE) {
            // Covered or already gone.
            Err(Failure { errno: Errno::EINVAL, .. }) => continue,
            other => other?,
        }
        match umount2(point.as_c_str(), MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::EPERM) => {
                let fs = crate::sys::mount::fsopen(c"tmpfs")?;
                crate::sys::mount::fsconfig_create(fs.as_fd())?;
                let cover = crate::sys::mount::fsmount(fs.as_fd(), MOUNT_ATTR_RDONLY)?;
                move_mount(cover.as_fd(), top.as_fd())?;
            }
            Err(errno) => return Err(Failure { call: "umount2", errno }),
        }
    }
    let slash = openat(AT_FDCWD, c"/", DIRECTORY, Mode::empty()).call("openat")?;
    set_propagation(slash.as_fd(), Depth::Top, SLAVE)?;
    move_mount(root, slash.as_fd())?;
    enter(root)
}

fn parse_line(line: &[u8]) -> Option<Line> {
    let fields: Vec<&[u8]> = line.split(|&b| b == b' ').collect();
    let dash = fields.iter().position(|field| *field == b"-")?;
    let number = |field: &[u8]| std::str::from_utf8(field).ok()?.parse().ok();
    Some(Line {
        id: number(fields.first()?)?,
        parent: number(fields.get(1)?)?,
        is_whole: *fields.get(3)? == b"/",
        point: unescape(fields.get(4)?),
        fstype: String::from_utf8_lossy(fields.get(dash + 1)?).into_owned(),
    })
}

/// Space, tab, newline and backslash are octal in mountinfo.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let code = tail.get(..3).filter(|_| first == b'\\');
        let code = code.and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    out
}

impl Inside {
    /// Mounts a terminal on /dev/console; see [`dev::console`].
    pub(crate) fn console(&self, slave: BorrowedFd<'_>) -> Result<()> {
        dev::console(self.fd.as_fd(), slave)
    }

    /// Masks, makes read-only what the plan says, sets the root's propagation, and gives the umask
    /// back.
    pub(crate) fn finish(mut self, plan: &Plan) -> Result<()> {
        let root = self.fd.as_fd();
        mask::make_readonly(root, &self.rest.anchors, &plan.masks.readonly)?;
        if let Some(covers) = &mut self.rest.covers {
            mask::mask(root, &self.rest.anchors, covers, &plan.masks.masked)?;
        }
        for (subject, mount) in &self.rest.late_readonly {
            set_attributes(mount.as_fd(), Depth::Top, MOUNT_ATTR_RDONLY, 0)
                .context("make read-only", subject)?;
        }
        if plan.readonly {
            set_attributes(root, Depth::Top, MOUNT_ATTR_RDONLY, 0)
                .context("make read-only", "\"/\" (root.readonly)")?;
        }
        if let (Some((_, propagation)), true) = (plan.propagation, plan.mount_namespace) {
            // The root alone: mounts of the configuration have their own.
            set_propagation(root, Depth::Top, propagation)
                .context("set propagation of", "\"/\" (linux.rootfsPropagation)")?;
        }
        umask(self.rest.umask);
        Ok(())
    }
}
