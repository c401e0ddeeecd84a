//! The container's file system as its mounts will make it, looked up without making one of them.
//!
//! A path is walked name by name on descriptors, from the root file system into the sources of the
//! bind mounts that cover it on the way. It cannot leave them: a link is text that is walked from the
//! container's root, and `..` goes back to where the walk came from. Only attributes are read
//! (`O_PATH`), and permissions are judged for whoever will walk there, who is not us.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use nix::sys::statvfs::{FsFlags, fstatvfs};

use crate::idmap::Maps;
use crate::mount::attach::is;

/// As many links as the kernel follows.
const MAX_LINKS: usize = 40;

/// Bits of a file's mode, for one class of users.
pub(super) const EXECUTE: u32 = 1;
const WRITE: u32 = 2;

/// Whose permissions count. Ids are the host's.
#[derive(Clone, Debug)]
pub(super) struct Who {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    /// CAP_DAC_OVERRIDE.
    pub overrides: bool,
    /// The ids over which a capability has power; all of them where there are no maps.
    pub maps: Option<Maps>,
}

impl Who {
    /// Whether all of these bits of the mode are granted.
    pub(super) fn may(&self, stat: &FileStat, bits: u32) -> bool {
        let known = self.maps.as_ref().is_none_or(|maps| maps.holds(stat.st_uid, stat.st_gid));
        if self.overrides && known {
            // Nobody executes a file that nobody may execute.
            return is(stat, SFlag::S_IFDIR) || bits & EXECUTE == 0 || stat.st_mode & 0o111 != 0;
        }
        let class = if stat.st_uid == self.uid {
            stat.st_mode >> 6
        } else if stat.st_gid == self.gid || self.groups.contains(&stat.st_gid) {
            stat.st_mode >> 3
        } else {
            stat.st_mode
        };
        class & bits == bits
    }
}

/// What covers a place.
#[derive(Debug)]
pub(super) enum Layer {
    /// A file or directory of the host; whether programs in it cannot be executed.
    Bound { source: OwnedFd, noexec: bool },
    /// A new and empty directory.
    New { noexec: bool },
    /// A file system that shows what is not there yet.
    Opaque,
}

/// What a path leads to.
#[derive(Debug)]
pub(super) enum Place {
    /// This file of the host.
    There(File),
    /// A directory that a mount makes.
    Made,
    /// Nothing; whether it could be made there.
    Missing(Result<(), Errno>),
    /// Only the mounted container will tell.
    Unknown,
}

/// A file of the host that the container will have.
#[derive(Debug)]
pub(super) struct File {
    pub fd: OwnedFd,
    pub stat: FileStat,
    /// On a mount that forbids execution.
    pub noexec: bool,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Tree {
    root: Layer,
    /// In the order of mounting.
    layers: Vec<(PathBuf, Layer)>,
}

enum Node {
    File(File),
    New { noexec: bool },
    Opaque,
}

/// What one name of a path leads to.
enum Step {
    On(Node),
    End(Place),
}

impl Tree {
    /// A tree with the directory `root` and nothing mounted.
    pub(super) fn new(root: OwnedFd) -> Self {
        Self { root: Layer::Bound { source: root, noexec: false }, layers: Vec::new() }
    }

    /// Covers a place, given by its clean path without the leading slash.
    pub(super) fn cover(&mut self, path: PathBuf, layer: Layer) {
        self.layers.push((path, layer));
    }

    /// Walks `path`, relative to the root, as `who`.
    ///
    /// # Errors
    /// What the kernel would answer: ENOTDIR, ELOOP, EACCES.
    pub(super) fn look(&self, path: &Path, who: &Who, follow_last: bool) -> Result<Place, Errno> {
        let mut links = 0;
        let mut here: Vec<(OsString, Node)> = Vec::new();
        let mut rest = components(path.as_os_str());
        while let Some(name) = rest.pop_front() {
            if name == ".." {
                here.pop();
                continue;
            }
            let root;
            let parent = match here.last() {
                Some((_, node)) => node,
                None => {
                    root = node(&self.root)?;
                    &root
                }
            };
            let at: PathBuf = here.iter().map(|(name, _)| name).chain([&name]).collect();
            let next = match self.step(parent, &at, &name, who)? {
                Step::On(node) => node,
                Step::End(place) => return Ok(place),
            };
            if let Node::File(file) = &next
                && is(&file.stat, SFlag::S_IFLNK)
                && (follow_last || !rest.is_empty())
            {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::ELOOP);
                }
                let text = readlinkat(&file.fd, c"")?;
                if text.as_bytes().starts_with(b"/") {
                    here.clear();
                }
                for component in components(&text).into_iter().rev() {
                    rest.push_front(component);
                }
                continue;
            }
            here.push((name, next));
        }
        let last = match here.pop() {
            Some((_, node)) => node,
            None => node(&self.root)?,
        };
        Ok(match last {
            Node::File(file) => Place::There(file),
            Node::New { .. } => Place::Made,
            Node::Opaque => Place::Unknown,
        })
    }

    /// One name: what it leads to, or the end of the walk.
    fn step(&self, parent: &Node, at: &Path, name: &OsStr, who: &Who) -> Result<Step, Errno> {
        if let Some((_, layer)) = self.layers.iter().rfind(|(path, _)| path == at) {
            return node(layer).map(Step::On);
        }
        // Made for a mount below it.
        let made = self.layers.iter().any(|(path, _)| path.starts_with(at));
        match parent {
            Node::Opaque => Ok(Step::End(Place::Unknown)),
            Node::New { noexec } if made => Ok(Step::On(Node::New { noexec: *noexec })),
            Node::New { .. } => Ok(Step::End(Place::Missing(Ok(())))),
            Node::File(directory) => {
                if !is(&directory.stat, SFlag::S_IFDIR) {
                    return Err(Errno::ENOTDIR);
                }
                if !who.may(&directory.stat, EXECUTE) {
                    return Err(Errno::EACCES);
                }
                let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                match openat(&directory.fd, name, flags, Mode::empty()) {
                    Ok(fd) => file(fd, directory.noexec).map(|file| Step::On(Node::File(file))),
                    Err(Errno::ENOENT) if made => {
                        Ok(Step::On(Node::New { noexec: directory.noexec }))
                    }
                    Err(Errno::ENOENT) => Ok(Step::End(Place::Missing(writable(directory, who)))),
                    Err(errno) => Err(errno),
                }
            }
        }
    }
}

fn node(layer: &Layer) -> Result<Node, Errno> {
    Ok(match layer {
        Layer::Opaque => Node::Opaque,
        Layer::New { noexec } => Node::New { noexec: *noexec },
        Layer::Bound { source, noexec } => {
            Node::File(file(source.try_clone().map_err(io)?, *noexec)?)
        }
    })
}

fn io(error: std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

/// A file with what its mount forbids; `noexec` is what the mount before it forbids, in the same tree.
fn file(fd: OwnedFd, noexec: bool) -> Result<File, Errno> {
    let stat = fstat(&fd)?;
    let noexec = noexec || fstatvfs(&fd)?.flags().contains(FsFlags::ST_NOEXEC);
    Ok(File { fd, stat, noexec })
}

fn writable(directory: &File, who: &Who) -> Result<(), Errno> {
    if fstatvfs(directory.fd.as_fd())?.flags().contains(FsFlags::ST_RDONLY) {
        return Err(Errno::EROFS);
    }
    if who.may(&directory.stat, WRITE | EXECUTE) { Ok(()) } else { Err(Errno::EACCES) }
}

fn components(path: &OsStr) -> VecDeque<OsString> {
    path.as_bytes()
        .split(|&byte| byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(|part| OsStr::from_bytes(part).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn open(path: &Path) -> OwnedFd {
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        nix::fcntl::open(path, flags, Mode::empty()).unwrap()
    }

    fn who(overrides: bool) -> Who {
        Who { uid: 54321, gid: 54321, groups: Vec::new(), overrides, maps: None }
    }

    #[test]
    fn a_walk_stays_inside_and_enters_what_will_be_mounted() {
        let base = std::env::temp_dir().join(format!("bulkhead-tree-{}", std::process::id()));
        let (root, other) = (base.join("root"), base.join("other"));
        fs::create_dir_all(root.join("a")).unwrap();
        fs::create_dir_all(other.join("inner")).unwrap();
        fs::write(root.join("file"), "").unwrap();
        fs::write(other.join("seen"), "").unwrap();
        symlink("../../../../../etc", root.join("up")).unwrap();
        symlink("/a/../vol/seen", root.join("link")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let mut tree = Tree::new(open(&root));
        tree.cover("vol".into(), Layer::Bound { source: open(&other), noexec: true });
        tree.cover("new".into(), Layer::New { noexec: false });
        tree.cover("new/deep/bound".into(), Layer::Bound { source: open(&other), noexec: false });
        tree.cover("proc".into(), Layer::Opaque);
        let look = |path: &str| match tree.look(Path::new(path), &who(true), true) {
            Ok(Place::There(file)) => format!("there {}", file.noexec),
            Ok(Place::Made) => "made".to_owned(),
            Ok(Place::Missing(made)) => format!("missing {made:?}"),
            Ok(Place::Unknown) => "unknown".to_owned(),
            Err(errno) => format!("{errno:?}"),
        };
        for (path, expected) in [
            ("", "there false"),
            ("a/../file", "there false"),
            ("up/passwd", "missing Ok(())"),
            ("link", "there true"),
            ("loop", "ELOOP"),
            ("file/x", "ENOTDIR"),
            ("vol/inner/nothing", "missing Ok(())"),
            ("new", "made"),
            ("new/deep", "made"),
            ("new/deep/bound/seen", "there false"),
            ("new/nothing", "missing Ok(())"),
            ("proc/self/exe", "unknown"),
            ("nothing", "missing Ok(())"),
        ] {
            assert_eq!(look(path), expected, "{path:?}");
        }
        let weak = |path: &str| tree.look(Path::new(path), &who(false), true);
        assert!(matches!(weak("nothing"), Ok(Place::Missing(Err(Errno::EACCES)))));
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(root.join("a"), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(matches!(weak("a/b"), Err(Errno::EACCES)));
        fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn power_over_files_ends_with_the_mapped_ids() {
        use crate::idmap::Range;
        let stat = nix::sys::stat::stat("/").unwrap();
        let map = |outside| vec![Range { inside: 0, outside, size: 10 }];
        let with = |outside| Who {
            maps: Some(Maps { uids: map(outside), gids: map(outside) }),
            ..who(true)
        };
        assert!(with(0).may(&stat, WRITE), "root's directory, mapped");
        assert!(!with(100_000).may(&stat, WRITE), "root's directory, not mapped");
    }
}
