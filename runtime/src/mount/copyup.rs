//! `tmpcopyup`: a tmpfs that begins with the contents of the directory that it covers.
//!
//! The directory belongs to the image, so its size, depth and file types are hostile. Data passes
//! through one buffer, the depth is limited, links are copied and never followed, and a device node
//! is not carried over: nodes come from `linux.devices` alone.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{
    FileStat, Mode, SFlag, UtimensatFlags, fchmod, fstat, mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat, read, symlinkat, write};

use super::attach::is;
use crate::error::{Call, Failure};

/// One directory of each side is open per level.
const MAX_DEPTH: usize = 128;
const BUFFER: usize = 128 * 1024;

/// Copies what is in the directory `from` into the directory `to`.
pub(super) fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Failure> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let from = openat(from, c".", flags, Mode::empty()).call("openat")?;
    let to = openat(to, c".", flags, Mode::empty()).call("openat")?;
    directory(from, to.as_fd(), &mut vec![0; BUFFER], 0)
}

fn directory(
    from: OwnedFd,
    to: BorrowedFd<'_>,
    buffer: &mut [u8],
    depth: usize,
) -> Result<(), Failure> {
    if depth == MAX_DEPTH {
        return Err(Failure { call: "openat", errno: Errno::ENAMETOOLONG });
    }
    let handle = from.try_clone().call("fcntl")?;
    let mut entries = Dir::from_fd(from).call("fdopendir")?;
    for entry in entries.iter() {
        let entry = entry.call("readdir")?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        // Not to block at a FIFO and not to touch a device, a file is opened for what it was.
        let flags = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let flags = match entry.file_type() {
            Some(Type::Directory) => flags | OFlag::O_DIRECTORY,
            Some(Type::File) => flags,
            _ => flags | OFlag::O_PATH,
        };
        let source = openat(&handle, name, flags, Mode::empty()).call("openat")?;
        let stat = fstat(&source).call("fstat")?;
        let mode = Mode::from_bits_truncate(stat.st_mode);
        if is(&stat, SFlag::S_IFDIR) && flags.contains(OFlag::O_DIRECTORY) {
            mkdirat(to, name, Mode::S_IRWXU).call("mkdirat")?;
            let inner = openat(
                to,
                name,
                OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
                Mode::empty(),
            )
            .call("openat")?;
            directory(source, inner.as_fd(), buffer, depth + 1)?;
            own(to, name, &stat)?;
            fchmod(&inner, mode).call("fchmod")?;
        } else if is(&stat, SFlag::S_IFREG) && !flags.contains(OFlag::O_PATH) {
            let create = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
            let copy = openat(to, name, create, Mode::S_IRUSR | Mode::S_IWUSR).call("openat")?;
            contents(&source, &copy, buffer)?;
            own(to, name, &stat)?;
            // After the owner, whose change takes set-user-ID bits away.
            fchmod(&copy, mode).call("fchmod")?;
        } else if is(&stat, SFlag::S_IFLNK) {
            let text = readlinkat(&source, c"").call("readlinkat")?;
            symlinkat(text.as_os_str(), to, name).call("symlinkat")?;
            own(to, name, &stat)?;
        } else if is(&stat, SFlag::S_IFIFO) {
            mknodat(to, name, SFlag::S_IFIFO, mode, 0).call("mknodat")?;
            own(to, name, &stat)?;
        } else {
            continue;
        }
        times(to, name, &stat)?;
    }
    Ok(())
}

fn contents(from: &OwnedFd, to: &OwnedFd, buffer: &mut [u8]) -> Result<(), Failure> {
    loop {
        let length = match read(from, buffer) {
            Err(Errno::EINTR) => continue,
            other => other.call("read")?,
        };
        let mut rest = &buffer[..length];
        if rest.is_empty() {
            return Ok(());
        }
        while !rest.is_empty() {
            match write(to, rest) {
                Err(Errno::EINTR) => {}
                other => rest = &rest[other.call("write")?..],
            }
        }
    }
}

fn own(to: BorrowedFd<'_>, name: &std::ffi::CStr, stat: &FileStat) -> Result<(), Failure> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    fchownat(to, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW).call("fchownat")
}

fn times(to: BorrowedFd<'_>, name: &std::ffi::CStr, stat: &FileStat) -> Result<(), Failure> {
    let access = TimeSpec::new(stat.st_atime, stat.st_atime_nsec);
    let change = TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec);
    utimensat(to, name, &access, &change, UtimensatFlags::NoFollowSymlink).call("utimensat")
}
