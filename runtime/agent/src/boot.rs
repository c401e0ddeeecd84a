//! From the kernel's first process to a place where containers can be made.
//!
//! The kernel starts us in its *rootfs*, which has no parent mount, and pivot_root(2) refuses to leave such a root
//! (`EINVAL`): in it no container could be made. So everything moves onto a tmpfs, as with `switch_root`, and the
//! initramfs is emptied, which gives its memory back. Our own program stays, unlinked, as long as it runs; while it
//! does, nobody can open it for writing (`ETXTBSY`), a container neither (CVE-2019-5736).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::statfs::{FsType, TMPFS_MAGIC, statfs};
use nix::unistd::{chdir, chroot, sethostname};
use runtime::{Call, Context, Failure, Result, quote};

use crate::modules;

/// `RAMFS_MAGIC` of <linux/magic.h>.
const RAMFS: FsType = FsType(0x8584_58f6);
/// Where the new root is before it is the root.
const NEW_ROOT: &str = "/root";
/// As many files as the kernel gives to one process without further ado (`fs.nr_open`).
const FILES: u64 = 1 << 20;
const HOSTNAME: &str = "bulkhead";

const NOSUID: MsFlags = MsFlags::MS_NOSUID;
const NODEV: MsFlags = MsFlags::MS_NODEV;
const NOEXEC: MsFlags = MsFlags::MS_NOEXEC;
const KERNEL: MsFlags = NOSUID.union(NODEV).union(NOEXEC);

/// What is mounted, in this order: file system, place, flags, options.
const MOUNTS: [(&str, &str, MsFlags, &str); 7] = [
    ("proc", "/proc", KERNEL, ""),
    ("sysfs", "/sys", KERNEL, ""),
    ("devtmpfs", "/dev", NOSUID, "mode=0755"),
    ("devpts", "/dev/pts", NOSUID.union(NOEXEC), "ptmxmode=0666,mode=0620,gid=5"),
    ("tmpfs", "/dev/shm", NOSUID.union(NODEV), "mode=1777"),
    ("tmpfs", "/run", NOSUID.union(NODEV), "mode=0755"),
    ("cgroup2", "/sys/fs/cgroup", KERNEL, ""),
];

/// Makes the guest ready. Returns what went wrong with modules, for whoever misses one.
///
/// # Errors
/// What failed, of that which every container needs.
pub fn prepare() -> (Vec<String>, Result<()>) {
    let faults = modules::load_all(Path::new("/modules"));
    (faults, enter_root().and_then(|()| mount_all()).and_then(|()| set_up()))
}

/// Moves from the rootfs to a tmpfs.
fn enter_root() -> Result<()> {
    let context = |done: Result<(), Failure>| done.context("make", "the guest's root");
    let is = statfs("/").call("statfs").context("look at", "\"/\"")?.filesystem_type();
    if is != RAMFS && is != TMPFS_MAGIC {
        // Another initramfs, or the disk of a root that it has, was before us.
        return Ok(());
    }
    empty(Path::new("/")).call("unlink").context("empty", "the initramfs")?;
    context(fs::create_dir_all(NEW_ROOT).call("mkdir"))?;
    let none = None::<&str>;
    let options = Some("mode=0755,size=16m");
    context(mount(Some("root"), NEW_ROOT, Some("tmpfs"), MsFlags::empty(), options).call("mount"))?;
    context(chdir(NEW_ROOT).call("chdir"))?;
    context(mount(Some("."), "/", none, MsFlags::MS_MOVE, none).call("mount(MS_MOVE)"))?;
    context(chroot(".").call("chroot"))?;
    context(chdir("/").call("chdir"))
}

/// Removes what is in a directory, and not on another file system.
fn empty(directory: &Path) -> std::io::Result<()> {
    let device = fs::symlink_metadata(directory)?.dev();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.dev() != device {
            continue;
        }
        if metadata.is_dir() {
            empty(&entry.path())?;
            // It holds what is mounted in it.
            let _ = fs::remove_dir(entry.path());
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn mount_all() -> Result<()> {
    for (filesystem, at, flags, options) in MOUNTS {
        let mounted = || -> Result<(), Failure> {
            fs::create_dir_all(at).call("mkdir")?;
            mount(Some(filesystem), at, Some(filesystem), flags, Some(options)).call("mount")
        };
        mounted().context("mount", format!("{} as {filesystem}", quote(at)))?;
    }
    Ok(())
}

fn set_up() -> Result<()> {
    let cgroup = Path::new("/sys/fs/cgroup");
    let all = cgroup.join("cgroup.controllers");
    let controllers = fs::read_to_string(&all).call("read").context("read", quote(&all))?;
    for controller in controllers.split_whitespace() {
        // What cannot be passed on is missed, by name, where a container needs it.
        let _ = fs::write(cgroup.join("cgroup.subtree_control"), format!("+{controller}"));
    }
    runtime::bring_loopback_up()?;
    setrlimit(Resource::RLIMIT_NOFILE, FILES, FILES)
        .call("setrlimit")
        .context("raise", "RLIMIT_NOFILE")?;
    sethostname(HOSTNAME).call("sethostname").context("set", "the guest's name")
}
