//! Finding and making the places to mount on, beneath a root that tenants may be changing.
//!
//! A path is looked up once, from the root's descriptor, by openat2(2) with `RESOLVE_IN_ROOT` and
//! without magic links. What comes back is a handle, and everything after is done to the handle, so
//! a link swapped in by another container that shares the volume changes nothing (CVE-2021-30465).
//! Missing components are made one at a time, on the descriptor of the directory before
//! (CVE-2024-45310).

use std::collections::VecDeque;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::{OFlag, ResolveFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, mkdirat, mknodat};

use crate::error::{Call, Failure};
use crate::sys;

/// What to do at a symbolic link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Links {
    /// Follow, with `/` meaning the root.
    Follow,
    /// Follow, except in the last component.
    FollowNotLast,
    /// Fail with ELOOP.
    Refuse,
}

/// What to make where there is nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Make {
    /// A directory.
    Directory,
    /// An empty file.
    File,
}

impl Make {
    /// The kind on which a file of this type can be mounted.
    pub(crate) fn like(stat: &FileStat) -> Self {
        if is(stat, SFlag::S_IFDIR) { Self::Directory } else { Self::File }
    }
}

/// Whether a file is of the given type.
pub(crate) fn is(stat: &FileStat, kind: SFlag) -> bool {
    stat.st_mode & SFlag::S_IFMT.bits() == kind.bits()
}

/// A place to mount on.
#[derive(Debug)]
pub(crate) struct Target {
    /// The place, opened with `O_PATH`.
    pub fd: OwnedFd,
    /// Whether it was missing.
    pub made: bool,
    /// Whether the way there led through a symbolic link, or may have.
    pub by_link: bool,
}

/// As many links as the kernel follows.
const MAX_LINKS: usize = 40;
/// Makes and opens of one component before somebody who keeps removing it wins.
const MAX_RACES: usize = 128;
/// How often EAGAIN is taken for a rename somewhere on the machine that crossed our lookup. A tenant
/// that renames without pause must not keep us here for ever.
const MAX_RETRIES: usize = 128;
const DIRECTORY_MODE: Mode = Mode::from_bits_truncate(0o755);
const FILE_MODE: Mode = Mode::from_bits_truncate(0o644);

/// Opens `path` beneath `root` with `O_PATH`; the path is relative and clean, empty for the root.
pub(crate) fn open(root: BorrowedFd<'_>, path: &CStr, links: Links) -> Result<OwnedFd, Failure> {
    let mut resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let mut flags = OFlag::O_PATH;
    match links {
        Links::Follow => {}
        Links::FollowNotLast => flags |= OFlag::O_NOFOLLOW,
        Links::Refuse => resolve |= ResolveFlag::RESOLVE_NO_SYMLINKS,
    }
    openat2(root, if path.is_empty() { c"." } else { path }, flags, resolve)
}

/// openat2(2), again while it says that a rename crossed the lookup.
pub(super) fn openat2(
    dir: BorrowedFd<'_>,
    path: &CStr,
    flags: OFlag,
    resolve: ResolveFlag,
) -> Result<OwnedFd, Failure> {
    let mut tries = 0;
    loop {
        match sys::openat2::openat2(dir, path, flags.bits(), 0, resolve.bits()) {
            Err(failure) if failure.errno == Errno::EAGAIN && tries < MAX_RETRIES => tries += 1,
            other => return other,
        }
    }
}

/// Opens `path` beneath `root`, and makes what is missing of it; `make` decides the last component.
///
/// Two system calls at most when the place exists: the first forbids links, so its success also
/// says that the place is where its name says.
pub(crate) fn open_or_make(
    root: BorrowedFd<'_>,
    path: &CStr,
    links: Links,
    make: impl FnOnce() -> Result<Make, Failure>,
) -> Result<Target, Failure> {
    let missing = |failure: &Failure| failure.errno == Errno::ENOENT;
    match open(root, path, Links::Refuse) {
        Ok(fd) => return Ok(Target { fd, made: false, by_link: false }),
        Err(failure) if missing(&failure) => {}
        Err(failure) if failure.errno == Errno::ELOOP && links != Links::Refuse => {
            match open(root, path, links) {
                Ok(fd) => return Ok(Target { fd, made: false, by_link: true }),
                Err(failure) if missing(&failure) => {}
                Err(failure) => return Err(failure),
            }
        }
        Err(failure) => return Err(failure),
    }
    let mut walk = Walk { root, path: Vec::new(), links: 0, made: false };
    walk.run(path, links, make()?)?;
    let fd = match walk.path.pop() {
        Some(fd) => fd,
        None => open(root, c"", Links::Refuse)?,
    };
    Ok(Target { fd, made: walk.made, by_link: walk.links > 0 })
}

/// Makes the directory `path` beneath `root` and those above it, unless they exist, and opens it.
pub(crate) fn make_directory(
    root: BorrowedFd<'_>,
    path: &CStr,
    links: Links,
) -> Result<OwnedFd, Failure> {
    let target = open_or_make(root, path, links, || Ok(Make::Directory))?;
    let stat = fstat(&target.fd).call("fstat")?;
    if !is(&stat, SFlag::S_IFDIR) {
        return Err(Failure { call: "mkdirat", errno: Errno::ENOTDIR });
    }
    Ok(target.fd)
}

/// A lookup in user space, for paths whose end is missing. It cannot leave the root: a link is read
/// and its text looked up from the root or from a directory already reached, and `..` goes back to
/// the descriptor we came from, never to whatever the kernel thinks is the parent by then.
struct Walk<'a> {
    root: BorrowedFd<'a>,
    /// What was reached so far, the root excluded.
    path: Vec<OwnedFd>,
    links: usize,
    made: bool,
}

impl Walk<'_> {
    fn run(&mut self, path: &CStr, links: Links, last: Make) -> Result<(), Failure> {
        let mut rest = components(OsStr::from_bytes(path.to_bytes()));
        while let Some(name) = rest.pop_front() {
            if name.as_bytes() == b".." {
                self.path.pop();
                continue;
            }
            let make = if rest.is_empty() { last } else { Make::Directory };
            let (fd, stat) = self.step(&name, make)?;
            let keep = links == Links::FollowNotLast && rest.is_empty();
            if !is(&stat, SFlag::S_IFLNK) || keep {
                self.path.push(fd);
                continue;
            }
            self.links += 1;
            if links == Links::Refuse || self.links > MAX_LINKS {
                return Err(Failure { call: "openat", errno: Errno::ELOOP });
            }
            let text = readlinkat(&fd, c"").call("readlinkat")?;
            if text.as_bytes().starts_with(b"/") {
                self.path.clear();
            }
            for component in components(&text).into_iter().rev() {
                rest.push_front(component);
            }
        }
        Ok(())
    }

    /// Opens one component, which is made when missing.
    fn step(&mut self, name: &OsStr, make: Make) -> Result<(OwnedFd, FileStat), Failure> {
        let here = self.path.last().map_or(self.root, AsFd::as_fd);
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        for _ in 0..MAX_RACES {
            match openat(here, name, flags, Mode::empty()) {
                Ok(fd) => {
                    let stat = fstat(&fd).call("fstat")?;
                    return Ok((fd, stat));
                }
                Err(Errno::ENOENT) => {}
                Err(errno) => return Err(Failure { call: "openat", errno }),
            }
            let result = match make {
                Make::Directory => mkdirat(here, name, DIRECTORY_MODE).call("mkdirat"),
                Make::File => mknodat(here, name, SFlag::S_IFREG, FILE_MODE, 0).call("mknodat"),
            };
            match result {
                Ok(()) => self.made = true,
                Err(failure) if failure.errno == Errno::EEXIST => {}
                Err(failure) => return Err(failure),
            }
        }
        Err(Failure { call: "openat", errno: Errno::ENOENT })
    }
}

fn components(path: &OsStr) -> VecDeque<OsString> {
    path.as_bytes()
        .split(|&byte| byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(|part| OsStr::from_bytes(part).to_owned())
        .collect()
}

/// The directory part and the last name of a clean relative path.
pub(crate) fn split(path: &CStr) -> (CString, CString) {
    let bytes = path.to_bytes();
    let (parent, name) = match bytes.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (&bytes[..0], bytes),
    };
    let string = |part: &[u8]| CString::new(part).expect("a part of a C string has no NUL byte");
    (string(parent), string(name))
}
