//! A /dev of one's own.
//!
//! It is for the machine's sake: a runtime that gives the standard streams to the container's root
//! would otherwise change the owner of the machine's /dev/null.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

/// Mounts a tmpfs with the usual nodes at /dev, by way of the directory `dir`.
pub fn private(dir: &Path) -> io::Result<()> {
    const NODES: [(&str, u64, u64); 7] = [
        ("null", 1, 3),
        ("zero", 1, 5),
        ("full", 1, 7),
        ("random", 1, 8),
        ("urandom", 1, 9),
        ("tty", 5, 0),
        ("fuse", 10, 229),
    ];
    fs::create_dir(dir)?;
    mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::MS_NOSUID, Some("mode=755"))?;
    for (name, major, minor) in NODES {
        mknod(&dir.join(name), SFlag::S_IFCHR, Mode::empty(), makedev(major, minor))?;
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o666))?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ] {
        symlink(target, dir.join(name))?;
    }
    fs::create_dir(dir.join("pts"))?;
    let options = Some("newinstance,ptmxmode=0666,mode=0620");
    mount(Some("devpts"), &dir.join("pts"), Some("devpts"), MsFlags::empty(), options)?;
    fs::create_dir(dir.join("shm"))?;
    mount(Some(dir), "/dev", None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
    Ok(())
}
