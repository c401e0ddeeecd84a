//! The mount API: trees and file system contexts as descriptors.
//!
//! mount_setattr(2), open_tree(2), move_mount(2), fsopen(2), fsconfig(2), fsmount(2), fspick(2),
//! statx(2). <https://man7.org/linux/man-pages/man2/mount_setattr.2.html>,
//! <https://github.com/brauner/man-pages-md>

use std::ffi::{CStr, c_int, c_long, c_uint, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use super::{Result, check};

/// Mount attributes of fsmount(2) and mount_setattr(2).
pub(crate) const MOUNT_ATTR_RDONLY: u64 = 0x0000_0001;
pub(crate) const MOUNT_ATTR_NOSUID: u64 = 0x0000_0002;
pub(crate) const MOUNT_ATTR_NODEV: u64 = 0x0000_0004;
pub(crate) const MOUNT_ATTR_NOEXEC: u64 = 0x0000_0008;
/// The field of the three access time modes; relatime is its zero.
pub(crate) const MOUNT_ATTR_ATIME: u64 = 0x0000_0070;
pub(crate) const MOUNT_ATTR_NOATIME: u64 = 0x0000_0010;
pub(crate) const MOUNT_ATTR_STRICTATIME: u64 = 0x0000_0020;
pub(crate) const MOUNT_ATTR_NODIRATIME: u64 = 0x0000_0080;
pub(crate) const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
/// Linux 5.14.
pub(crate) const MOUNT_ATTR_NOSYMFOLLOW: u64 = 0x0020_0000;

const OPEN_TREE_CLONE: c_uint = 1;
const OPEN_TREE_CLOEXEC: c_uint = libc::O_CLOEXEC as c_uint;
const MOVE_MOUNT_F_EMPTY_PATH: c_uint = 0x0000_0004;
const MOVE_MOUNT_T_EMPTY_PATH: c_uint = 0x0000_0040;
const FSOPEN_CLOEXEC: c_uint = 1;
const FSMOUNT_CLOEXEC: c_uint = 1;
const FSPICK_CLOEXEC: c_uint = 1;
const FSPICK_EMPTY_PATH: c_uint = 8;
const FSCONFIG_SET_FLAG: c_uint = 0;
const FSCONFIG_SET_STRING: c_uint = 1;
const FSCONFIG_SET_FD: c_uint = 5;
const FSCONFIG_CMD_CREATE: c_uint = 6;
const FSCONFIG_CMD_RECONFIGURE: c_uint = 7;

/// Whether an operation covers the mounts below as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// The mount alone.
    Top,
    /// The mount and all mounts below it.
    Recursive,
}

impl Depth {
    fn flag(self) -> c_uint {
        match self {
            Self::Top => 0,
            Self::Recursive => libc::AT_RECURSIVE as c_uint,
        }
    }
}

/// What mount_setattr(2) changes; laid out as the kernel's `struct mount_attr`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MountAttr {
    /// Attributes to set.
    pub set: u64,
    /// Attributes to clear, before `set`.
    pub clear: u64,
    /// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`, `MS_UNBINDABLE`, or zero to leave it.
    pub propagation: u64,
    /// The user namespace of `MOUNT_ATTR_IDMAP`.
    userns_fd: u64,
}

/// Where a file is, as far as mounts are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The id of the mount, as in /proc/self/mountinfo.
    pub mount: u64,
    /// Whether the file is the root of that mount.
    pub is_root: bool,
}

/// Takes ownership of the descriptor that a system call returned.
fn owned(value: c_long) -> OwnedFd {
    // SAFETY: `check` let `value` pass, so the kernel has just made this descriptor for this call
    // and nothing else in the process knows its number.
    unsafe { OwnedFd::from_raw_fd(value as RawFd) }
}

/// Clones the mount at `path` (an empty one: at `dir`) into a detached tree.
pub(crate) fn clone_tree(
    dir: BorrowedFd<'_>,
    path: &CStr,
    depth: Depth,
    follow: bool,
) -> Result<OwnedFd> {
    let mut flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | depth.flag();
    flags |= libc::AT_EMPTY_PATH as c_uint;
    if !follow {
        flags |= libc::AT_SYMLINK_NOFOLLOW as c_uint;
    }
    // SAFETY: `path` is NUL-terminated and outlives the call, which only reads it.
    let value =
        unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags) };
    check("open_tree", value).map(owned)
}

/// Attaches the tree `from` on the file `to`.
pub(crate) fn move_mount(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: both paths are NUL-terminated constants.
    let value = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            from.as_raw_fd(),
            c"".as_ptr(),
            to.as_raw_fd(),
            c"".as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        )
    };
    check("move_mount", value).map(drop)
}

/// Opens a context for a new file system of this type.
pub(crate) fn fsopen(fstype: &CStr) -> Result<OwnedFd> {
    // SAFETY: `fstype` is NUL-terminated and outlives the call, which only reads it.
    let value = unsafe { libc::syscall(libc::SYS_fsopen, fstype.as_ptr(), FSOPEN_CLOEXEC) };
    check("fsopen", value).map(owned)
}

/// Opens a context to reconfigure the file system mounted at `mount`.
pub(crate) fn fspick(mount: BorrowedFd<'_>) -> Result<OwnedFd> {
    // SAFETY: the path is a NUL-terminated constant.
    let value = unsafe {
        libc::syscall(
            libc::SYS_fspick,
            mount.as_raw_fd(),
            c"".as_ptr(),
            FSPICK_CLOEXEC | FSPICK_EMPTY_PATH,
        )
    };
    check("fspick", value).map(owned)
}

fn fsconfig(
    fs: BorrowedFd<'_>,
    command: c_uint,
    key: Option<&CStr>,
    value: Option<&CStr>,
) -> Result<()> {
    let pointer = |text: Option<&CStr>| text.map_or(ptr::null(), CStr::as_ptr);
    // SAFETY: each pointer is null or a NUL-terminated string that outlives the call; the commands
    // used here take a string or nothing as value, and the kernel copies it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            fs.as_raw_fd(),
            command,
            pointer(key),
            pointer(value),
            0 as c_int,
        )
    };
    check("fsconfig", result).map(drop)
}

/// Sets a parameter that has no value.
pub(crate) fn fsconfig_flag(fs: BorrowedFd<'_>, key: &CStr) -> Result<()> {
    fsconfig(fs, FSCONFIG_SET_FLAG, Some(key), None)
}

/// Sets a parameter; the kernel takes at most 255 bytes.
pub(crate) fn fsconfig_string(fs: BorrowedFd<'_>, key: &CStr, value: &CStr) -> Result<()> {
    fsconfig(fs, FSCONFIG_SET_STRING, Some(key), Some(value))
}

/// Sets a parameter whose value is an open file.
pub(crate) fn fsconfig_file(fs: BorrowedFd<'_>, key: &CStr, file: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: `key` is NUL-terminated and outlives the call; this command takes no value but the
    // descriptor in the last argument, whose file the kernel takes a reference of.
    let result = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            fs.as_raw_fd(),
            FSCONFIG_SET_FD,
            key.as_ptr(),
            ptr::null::<c_void>(),
            file.as_raw_fd(),
        )
    };
    check("fsconfig", result).map(drop)
}

/// Makes the file system that the context describes.
pub(crate) fn fsconfig_create(fs: BorrowedFd<'_>) -> Result<()> {
    fsconfig(fs, FSCONFIG_CMD_CREATE, None, None)
}

/// Applies the context to its file system.
pub(crate) fn fsconfig_reconfigure(fs: BorrowedFd<'_>) -> Result<()> {
    fsconfig(fs, FSCONFIG_CMD_RECONFIGURE, None, None)
}

/// Makes a detached mount of the context's file system.
pub(crate) fn fsmount(fs: BorrowedFd<'_>, attributes: u64) -> Result<OwnedFd> {
    // SAFETY: the call takes integers only.
    let value = unsafe {
        libc::syscall(libc::SYS_fsmount, fs.as_raw_fd(), FSMOUNT_CLOEXEC, attributes as c_uint)
    };
    check("fsmount", value).map(owned)
}

fn setattr(mount: BorrowedFd<'_>, depth: Depth, attr: &MountAttr) -> Result<()> {
    // SAFETY: `attr` is the kernel's first version of the structure, its size is passed with it,
    // and the kernel only reads it.
    let value = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH as c_uint | depth.flag(),
            ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    };
    check("mount_setattr", value).map(drop)
}

/// Sets and clears attributes of a mount.
pub(crate) fn set_attributes(
    mount: BorrowedFd<'_>,
    depth: Depth,
    set: u64,
    clear: u64,
) -> Result<()> {
    setattr(mount, depth, &MountAttr { set, clear, ..MountAttr::default() })
}

/// Sets the propagation of a mount: one of the `MS_` constants.
pub(crate) fn set_propagation(mount: BorrowedFd<'_>, depth: Depth, propagation: u64) -> Result<()> {
    setattr(mount, depth, &MountAttr { propagation, ..MountAttr::default() })
}

/// Maps the ids of a detached tree by those of a user namespace.
pub(crate) fn idmap(tree: BorrowedFd<'_>, depth: Depth, userns: BorrowedFd<'_>) -> Result<()> {
    let attr = MountAttr {
        set: MOUNT_ATTR_IDMAP,
        userns_fd: userns.as_raw_fd() as u64,
        ..MountAttr::default()
    };
    setattr(tree, depth, &attr)
}

/// Tells on which mount an open file is.
pub(crate) fn place(file: BorrowedFd<'_>) -> Result<Place> {
    // SAFETY: all-zero bytes are a valid `statx`, a structure of integers.
    let mut data: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a NUL-terminated constant and `data` is writable for its whole size.
    let value = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_MNT_ID,
            &raw mut data,
        )
    };
    check("statx", c_long::from(value))?;
    Ok(Place {
        mount: data.stx_mnt_id,
        is_root: data.stx_attributes & libc::STATX_ATTR_MOUNT_ROOT as u64 != 0,
    })
}
