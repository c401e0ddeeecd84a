//! One verified handle on procfs.
//!
//! Labels, kernel parameters and scores are written through `/proc`. A file there may not be what its
//! name says: a container can mount over `/proc` or a file of it, or race to replace a parent, and the
//! write lands in another file of procfs, such as `sysrq-trigger`, or in an ordinary one, so that a
//! label is never applied (CVE-2019-16884, CVE-2019-19921, CVE-2025-52881). Therefore the creator
//! opens one handle in the host's mount namespace, checks that it is the root of a procfs, and every
//! access goes beneath it by `openat2(2)` without crossing into another mount, without magic links,
//! and without symbolic links except the kernel's own `self` and `thread-self`.
//!
//! The child keeps the handle over the fork and over `pivot_root`: names below `self` follow the task
//! that looks them up, and `sys` follows its namespaces.

use std::ffi::CString;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, fstat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

use crate::error::{Call, Context, Error, ErrorKind, Failure, Result};
use crate::sys;
use crate::sys::openat2::openat2;

/// `PROC_ROOT_INO` of the kernel.
const ROOT_INODE: u64 = 1;

/// Restrictions for every look-up.
const RESOLVE: u64 = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_XDEV | libc::RESOLVE_NO_MAGICLINKS;

/// A verified handle on the root of a procfs.
#[derive(Debug)]
pub(crate) struct Procfs(OwnedFd);

impl Procfs {
    /// Opens and checks `/proc` of this mount namespace.
    pub(crate) fn open() -> Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = open("/proc", flags, Mode::empty()).call("open").context("open", "/proc")?;
        Self::verify(fd)
    }

    /// Checks that `fd` is the root of a procfs: a bind mount of a directory inside one has the same
    /// file system type.
    pub(crate) fn verify(fd: OwnedFd) -> Result<Self> {
        let kind = fstatfs(&fd).call("fstatfs").context("check", "/proc")?.filesystem_type();
        let inode = fstat(&fd).call("fstat").context("check", "/proc")?.st_ino;
        if kind != PROC_SUPER_MAGIC || inode != ROOT_INODE {
            let reason = "is not the root of a procfs";
            return Err(Error::new(ErrorKind::System, "check", "/proc", reason));
        }
        Ok(Self(fd))
    }

    /// Opens a file below `/proc` (a path such as `self/attr/exec`), close-on-exec.
    pub(crate) fn try_open(&self, path: &str, flags: OFlag) -> sys::Result<OwnedFd> {
        // `self` and `thread-self` are the symbolic links that are followed, and only as the first
        // component; the rest is looked up in the directory they led to.
        let (dir, rest) = match path.split_once('/') {
            Some((first @ ("self" | "thread-self"), rest)) => {
                let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
                (Some(self.look_up(self.0.as_fd(), first, flags, RESOLVE)?), rest)
            }
            _ => (None, path),
        };
        let start = dir.as_ref().map_or(self.0.as_fd(), AsFd::as_fd);
        self.look_up(start, rest, flags, RESOLVE | libc::RESOLVE_NO_SYMLINKS)
    }

    fn look_up(
        &self,
        dir: BorrowedFd<'_>,
        path: &str,
        flags: OFlag,
        resolve: u64,
    ) -> sys::Result<OwnedFd> {
        let invalid = Failure { call: "openat2", errno: Errno::EINVAL };
        let path = CString::new(path).map_err(|_| invalid)?;
        openat2(dir, &path, flags.bits(), 0, resolve)
    }

    /// Writes `data` in one call, which is how the kernel wants its procfs files written.
    pub(crate) fn try_write(&self, path: &str, data: &[u8]) -> sys::Result<()> {
        let file = self.try_open(path, OFlag::O_WRONLY)?;
        let written = nix::unistd::write(&file, data).call("write")?;
        if written != data.len() {
            return Err(Failure { call: "write", errno: Errno::EIO });
        }
        Ok(())
    }

    /// [`Self::try_write`] with operation and subject in the error.
    pub(crate) fn write(
        &self,
        path: &str,
        data: &[u8],
        operation: &str,
        subject: impl fmt::Display,
    ) -> Result<()> {
        match self.try_write(path, data) {
            Err(Failure { errno: Errno::EXDEV | Errno::ELOOP, .. }) => {
                let reason =
                    format!("something is mounted over \"/proc/{path}\": refusing to write there");
                Err(Error::new(ErrorKind::System, operation, subject.to_string(), reason))
            }
            other => other.context(operation, subject),
        }
    }
}

impl AsFd for Procfs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};

    use super::*;
    use crate::testing::{in_child, in_namespaces};

    fn in_mounts(body: impl FnOnce()) {
        in_namespaces(CloneFlags::CLONE_NEWNS, body);
    }

    fn read(procfs: &Procfs, path: &str) -> sys::Result<Vec<u8>> {
        use std::io::Read;
        let mut text = Vec::new();
        let mut file = std::fs::File::from(procfs.try_open(path, OFlag::O_RDONLY)?);
        file.read_to_end(&mut text).call("read")?;
        Ok(text)
    }

    #[test]
    fn files_are_read_and_written_as_oneself() {
        in_child(|| {
            let procfs = Procfs::open().unwrap();
            procfs.write("self/comm", b"bulkhead-test", "name", "this").unwrap();
            assert_eq!(read(&procfs, "thread-self/comm").unwrap(), b"bulkhead-test\n");
            assert!(read(&procfs, "sys/kernel/osrelease").unwrap().ends_with(b"\n"));
        });
    }

    #[test]
    fn nothing_leads_out_of_the_procfs() {
        let procfs = Procfs::open().unwrap();
        for path in [
            "../etc/passwd",
            "self/root/etc/passwd",
            "self/cwd",
            "self/exe",
            "thread-self/../../../etc",
            "self/fd/0",
            "mounts",
            "/etc/passwd",
            "sys/../../etc/passwd",
            "",
            "self/",
            "sys/kernel/\0",
        ] {
            assert!(procfs.try_open(path, OFlag::O_RDONLY).is_err(), "{path}");
        }
    }

    #[test]
    fn a_file_mounted_over_another_is_refused() {
        in_mounts(|| {
            let none = None::<&str>;
            let bind = |from: &str, to: &str| {
                mount(Some(from), to, none, MsFlags::MS_BIND, none).unwrap();
            };
            bind("/proc/version", "/proc/sys/kernel/hostname");
            bind("/proc/sys/net", "/proc/sys/vm");
            let procfs = Procfs::open().unwrap();
            for path in ["sys/kernel/hostname", "sys/vm/core/somaxconn"] {
                assert_eq!(read(&procfs, path).unwrap_err().errno, Errno::EXDEV);
                let error = procfs.write(path, b"x", "set", "it").unwrap_err().to_string();
                assert!(error.contains("something is mounted over"), "{error}");
            }
            assert!(read(&procfs, "sys/kernel/osrelease").is_ok());
        });
    }

    #[test]
    fn what_is_not_the_root_of_a_procfs_is_refused() {
        in_mounts(|| {
            let none = None::<&str>;
            let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
            for path in ["/", "/proc/sys", "/proc/self"] {
                assert!(Procfs::verify(open(path, flags, Mode::empty()).unwrap()).is_err());
            }
            mount(Some("/proc/sys"), "/proc", none, MsFlags::MS_BIND, none).unwrap();
            assert!(Procfs::open().is_err());
            mount(Some("none"), "/proc", Some("tmpfs"), MsFlags::empty(), none).unwrap();
            let error = Procfs::open().unwrap_err().to_string();
            assert_eq!(error, "check /proc: is not the root of a procfs");
        });
    }

    #[test]
    fn parameters_reach_the_namespace_of_the_writer() {
        in_child(|| {
            let procfs = Procfs::open().unwrap();
            let before = read(&procfs, "sys/kernel/shmmni").unwrap();
            unshare(CloneFlags::CLONE_NEWIPC).unwrap();
            let map = [("kernel/shmmni".to_owned(), "123".to_owned())].into();
            let list = crate::sysctl::plan(Some(&map)).unwrap();
            crate::sysctl::apply(&procfs, &list).unwrap();
            assert_eq!(read(&procfs, "sys/kernel/shmmni").unwrap(), b"123\n");
            assert_ne!(before, b"123\n");
            let map = [("kernel.nothing.here".to_owned(), "1".to_owned())].into();
            let list = crate::sysctl::plan(Some(&map)).unwrap();
            let error = crate::sysctl::apply(&procfs, &list).unwrap_err().to_string();
            assert!(
                error.starts_with("set linux.sysctl[\"kernel.nothing.here\"]: openat2: ENOENT"),
                "{error}"
            );
        });
    }
}
