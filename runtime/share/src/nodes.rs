//! The files that the guest knows, by numbers that are given once and never again.
//!
//! A number is all that a guest has of a file; one that it makes up is `ESTALE`. Behind a number is the file itself and
//! never a path: a file handle where its file system has them and they can be opened (`CAP_DAC_READ_SEARCH` in the first
//! user namespace), which costs memory only, or else a descriptor that names it (`O_PATH`). Descriptors are bounded: with
//! the last one that may be had, further files are `ENFILE` until the guest forgets some.
//!
//! A file that is seen through two mounts is two: they differ in what may be done.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use crate::procfs::Descriptors;
use crate::sys::{self, Status};

/// The number of the directory that is shared.
pub(crate) const ROOT: u64 = 1;
/// The most files that a guest can know at a time; each costs some 200 bytes.
const MOST: usize = 1 << 20;
/// The most mounts of which something is kept.
const MOUNTS: usize = 4096;

/// What makes two files the same.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Key {
    /// A file with a descriptor, which keeps the numbers from being used again.
    Inode { mount: u64, device: u64, inode: u64 },
    /// Handles of files are never used again.
    Handle { mount: u64, handle: Box<[u8]> },
}

#[derive(Debug)]
struct Node {
    key: Rc<Key>,
    descriptor: Option<OwnedFd>,
    kind: u32,
    /// How often the guest has been told of it.
    lookups: u64,
}

/// A descriptor of a file, as `O_PATH`.
#[derive(Debug)]
pub(crate) enum Path<'a> {
    Kept(BorrowedFd<'a>),
    Opened(OwnedFd),
}

impl AsFd for Path<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Kept(fd) => *fd,
            Self::Opened(fd) => fd.as_fd(),
        }
    }
}

/// A mount of which the guest knows a file.
#[derive(Debug)]
struct Mount {
    /// An open file of it.
    file: OwnedFd,
    /// Files of it can be opened by their handles.
    handles: bool,
}

/// All files that the guest knows.
#[derive(Debug)]
pub(crate) struct Nodes {
    nodes: HashMap<u64, Node>,
    numbers: HashMap<Rc<Key>, u64>,
    next: u64,
    /// By its number.
    mounts: HashMap<u64, Mount>,
    /// Descriptors that nodes have.
    descriptors: usize,
}

impl Nodes {
    /// Knows the root alone.
    pub(crate) fn new(root: OwnedFd) -> Result<Self, Errno> {
        let mut nodes = Self {
            nodes: HashMap::new(),
            numbers: HashMap::new(),
            next: ROOT + 1,
            mounts: HashMap::new(),
            descriptors: 0,
        };
        let status = sys::statx(&root)?;
        nodes.insert(ROOT, inode(&status), Some(root), status.kind());
        Ok(nodes)
    }

    /// Forgets all but the root. Numbers are not given again.
    pub(crate) fn clear(&mut self) {
        let root = self.nodes.remove(&ROOT);
        self.nodes.clear();
        self.numbers.clear();
        self.mounts.clear();
        self.descriptors = 0;
        if let Some(Node { key, descriptor, kind, .. }) = root {
            self.descriptors = 1;
            self.numbers.insert(key.clone(), ROOT);
            self.nodes.insert(ROOT, Node { key, descriptor, kind, lookups: u64::MAX });
        }
    }

    fn insert(&mut self, number: u64, key: Key, descriptor: Option<OwnedFd>, kind: u32) {
        self.descriptors += usize::from(descriptor.is_some());
        let key = Rc::new(key);
        let lookups = if number == ROOT { u64::MAX } else { 1 };
        self.numbers.insert(key.clone(), number);
        self.nodes.insert(number, Node { key, descriptor, kind, lookups });
    }

    /// The number of the file that `fd` is (as `O_PATH`), which the guest is told once more.
    ///
    /// # Errors
    ///
    /// `ENFILE`: the guest knows too many, or there are `limit` descriptors.
    pub(crate) fn adopt(
        &mut self,
        fd: OwnedFd,
        status: &Status,
        descriptors: &Descriptors,
        limit: usize,
    ) -> Result<u64, Errno> {
        let handle = self.handle(&fd, status, descriptors);
        let key = match handle {
            Some(handle) => Key::Handle { mount: status.get().stx_mnt_id, handle },
            None => inode(status),
        };
        if let Some(number) = self.numbers.get(&key) {
            if let Some(node) = self.nodes.get_mut(number) {
                node.lookups = node.lookups.saturating_add(1);
            }
            return Ok(*number);
        }
        let descriptor = matches!(key, Key::Inode { .. }).then_some(fd);
        if self.nodes.len() >= MOST || descriptor.is_some() && self.descriptors() >= limit {
            return Err(Errno::ENFILE);
        }
        let number = self.next;
        self.next += 1;
        self.insert(number, key, descriptor, status.kind());
        Ok(number)
    }

    /// The handle of a file, if it can be opened by it.
    fn handle(
        &mut self,
        fd: &OwnedFd,
        status: &Status,
        descriptors: &Descriptors,
    ) -> Option<Box<[u8]>> {
        let mount = status.get().stx_mnt_id;
        if let Some(mount) = self.mounts.get(&mount) {
            return if mount.handles { sys::name_to_handle_at(fd).ok() } else { None };
        }
        if self.mounts.len() >= MOUNTS {
            return None;
        }
        // A file that cannot be opened says nothing about its mount.
        let file = open(fd, status, descriptors)?;
        let handle = sys::name_to_handle_at(fd).ok();
        let handle = handle.filter(|handle| sys::open_by_handle_at(&file, handle).is_ok());
        self.mounts.insert(mount, Mount { file, handles: handle.is_some() });
        handle
    }

    /// The file of this number.
    ///
    /// # Errors
    ///
    /// `ESTALE` if the guest does not know it, or it is gone.
    pub(crate) fn path(&self, number: u64) -> Result<Path<'_>, Errno> {
        let node = self.nodes.get(&number).ok_or(Errno::ESTALE)?;
        match (&node.descriptor, &*node.key) {
            (Some(fd), _) => Ok(Path::Kept(fd.as_fd())),
            (None, Key::Handle { mount, handle }) => {
                let mount = self.mounts.get(mount).ok_or(Errno::ESTALE)?;
                sys::open_by_handle_at(&mount.file, handle).map(Path::Opened)
            }
            (None, Key::Inode { .. }) => Err(Errno::ESTALE),
        }
    }

    /// `S_IFMT` of the file's mode, which does not change.
    pub(crate) fn kind(&self, number: u64) -> Result<u32, Errno> {
        self.nodes.get(&number).map(|node| node.kind).ok_or(Errno::ESTALE)
    }

    /// The guest has dropped `count` of the times that it was told.
    pub(crate) fn forget(&mut self, number: u64, count: u64) {
        if number == ROOT {
            return;
        }
        let Some(node) = self.nodes.get_mut(&number) else { return };
        node.lookups = node.lookups.saturating_sub(count);
        if node.lookups == 0
            && let Some(node) = self.nodes.remove(&number)
        {
            self.numbers.remove(&node.key);
            self.descriptors -= usize::from(node.descriptor.is_some());
        }
    }

    /// How many descriptors files and mounts have.
    pub(crate) fn descriptors(&self) -> usize {
        self.descriptors + self.mounts.len()
    }

    /// An open file of each mount.
    pub(crate) fn mounts(&self) -> impl Iterator<Item = &OwnedFd> {
        self.mounts.values().map(|mount| &mount.file)
    }
}

fn inode(status: &Status) -> Key {
    let (device, inode) = (status.device(), status.get().stx_ino);
    Key::Inode { mount: status.get().stx_mnt_id, device, inode }
}

/// Only regular files and directories are ever opened: a FIFO would make the server wait for its other end, and a
/// device is the host's.
pub(crate) fn openable(kind: u32) -> bool {
    matches!(kind, libc::S_IFREG | libc::S_IFDIR)
}

/// Opens what `fd` is, if that may be opened.
fn open(fd: &OwnedFd, status: &Status, descriptors: &Descriptors) -> Option<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    match status.kind() {
        libc::S_IFDIR => openat(fd, c".", flags | OFlag::O_DIRECTORY, Mode::empty()).ok(),
        libc::S_IFREG => descriptors.reopen(fd, flags).ok(),
        _ => None,
    }
}
