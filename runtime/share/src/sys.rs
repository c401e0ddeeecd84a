//! System calls that `nix` does not have, or has with other meaning: one each, without policy.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use nix::errno::Errno;

/// What statx(2) says of a file.
#[derive(Clone, Copy)]
pub(crate) struct Status(libc::statx);

/// Status of the file itself, also of a symbolic link.
pub(crate) fn statx(fd: impl AsFd) -> Result<Status, Errno> {
    let mut status = MaybeUninit::zeroed();
    let flags = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW;
    let mask = libc::STATX_BASIC_STATS | libc::STATX_MNT_ID;
    // SAFETY: the path is a constant, and the structure lives for longer than the call.
    let value = unsafe {
        libc::statx(fd.as_fd().as_raw_fd(), c"".as_ptr(), flags, mask, status.as_mut_ptr())
    };
    Errno::result(value)?;
    // SAFETY: it was zeroed, and all of its fields are integers.
    Ok(Status(unsafe { status.assume_init() }))
}

impl Status {
    pub(crate) fn get(&self) -> &libc::statx {
        &self.0
    }

    /// `S_IFMT` of the mode.
    pub(crate) fn kind(&self) -> u32 {
        u32::from(self.0.stx_mode) & libc::S_IFMT
    }

    /// The device that it is on.
    pub(crate) fn device(&self) -> u64 {
        libc::makedev(self.0.stx_dev_major, self.0.stx_dev_minor)
    }
}

/// The largest file handle, `MAX_HANDLE_SZ`.
const HANDLE_MAX: usize = 128;

/// The kernel's `struct file_handle`, with room for any.
#[repr(C)]
struct FileHandle {
    length: u32,
    kind: i32,
    bytes: [u8; HANDLE_MAX],
}

/// The file's handle: its type, then its bytes. `EOPNOTSUPP` on a file system that has none.
pub(crate) fn name_to_handle_at(fd: impl AsFd) -> Result<Box<[u8]>, Errno> {
    let mut handle = FileHandle { length: HANDLE_MAX as u32, kind: 0, bytes: [0; HANDLE_MAX] };
    let mut mount = 0_i32;
    // SAFETY: the kernel writes at most `length` bytes behind the two integers, and the mount's number.
    let value = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            fd.as_fd().as_raw_fd(),
            c"".as_ptr(),
            &raw mut handle,
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        )
    };
    Errno::result(value)?;
    let bytes = &handle.bytes[..(handle.length as usize).min(HANDLE_MAX)];
    Ok([&handle.kind.to_ne_bytes()[..], bytes].concat().into())
}

/// Opens the file of a handle, as `O_PATH`. `mount` is an open file of its file system.
pub(crate) fn open_by_handle_at(mount: impl AsFd, handle: &[u8]) -> Result<OwnedFd, Errno> {
    let (kind, bytes) = handle.split_first_chunk().ok_or(Errno::EINVAL)?;
    let mut handle = FileHandle {
        length: bytes.len() as u32,
        kind: i32::from_ne_bytes(*kind),
        bytes: [0; HANDLE_MAX],
    };
    handle.bytes.get_mut(..bytes.len()).ok_or(Errno::EINVAL)?.copy_from_slice(bytes);
    let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let mount = mount.as_fd().as_raw_fd();
    // SAFETY: the kernel reads the structure, which is complete.
    let value =
        unsafe { libc::syscall(libc::SYS_open_by_handle_at, mount, &raw const handle, flags) };
    let value = Errno::result(value)?;
    // SAFETY: the call has made the descriptor, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(value as i32) })
}

/// Fills the buffer with entries of an open directory; answers how much of it.
pub(crate) fn getdents64(directory: impl AsFd, buffer: &mut [u8]) -> Result<usize, Errno> {
    let fd = directory.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most the buffer's length.
    let value =
        unsafe { libc::syscall(libc::SYS_getdents64, fd, buffer.as_mut_ptr(), buffer.len()) };
    Errno::result(value).map(|length| length as usize)
}

/// Writes at an offset, with `RWF_*` flags.
pub(crate) fn pwritev2(
    file: impl AsFd,
    data: &[u8],
    offset: i64,
    flags: i32,
) -> Result<usize, Errno> {
    let part = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    // SAFETY: the kernel only reads what the one part points to.
    let value = unsafe { libc::pwritev2(file.as_fd().as_raw_fd(), &part, 1, offset, flags) };
    Errno::result(value).map(|length| length as usize)
}

/// Copies between two files at these offsets; answers how much.
pub(crate) fn copy_file_range(
    (source, mut source_at): (impl AsFd, i64),
    (target, mut target_at): (impl AsFd, i64),
    length: usize,
) -> Result<usize, Errno> {
    let (source, target) = (source.as_fd().as_raw_fd(), target.as_fd().as_raw_fd());
    let (from, to) = (&raw mut source_at, &raw mut target_at);
    // SAFETY: the kernel reads and writes both offsets, which live for longer than the call.
    let value = unsafe { libc::copy_file_range(source, from, target, to, length, 0) };
    Errno::result(value).map(|length| length as usize)
}

/// An extended attribute's value; with an empty buffer, how long it is. The last part of the path is followed.
pub(crate) fn getxattr(path: &CStr, name: &CStr, buffer: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: both are C strings, and the kernel writes at most the buffer's length.
    let value = unsafe {
        libc::getxattr(path.as_ptr(), name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len())
    };
    Errno::result(value).map(|length| length as usize)
}

/// The names of all attributes, each with NUL; with an empty buffer, how long that is.
pub(crate) fn listxattr(path: &CStr, buffer: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: a C string, and the kernel writes at most the buffer's length.
    let value = unsafe { libc::listxattr(path.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) };
    Errno::result(value).map(|length| length as usize)
}

/// Sets an extended attribute.
pub(crate) fn setxattr(path: &CStr, name: &CStr, value: &[u8], flags: i32) -> Result<(), Errno> {
    // SAFETY: C strings, and the kernel reads the value's length.
    let result = unsafe {
        libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags)
    };
    Errno::result(result).map(drop)
}

/// Removes an extended attribute.
pub(crate) fn removexattr(path: &CStr, name: &CStr) -> Result<(), Errno> {
    // SAFETY: both are C strings.
    Errno::result(unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) }).map(drop)
}

/// The calling thread's effective user: the C library's function would change it for all threads.
pub(crate) fn set_effective_uid(uid: u32) -> Result<(), Errno> {
    // SAFETY: three integers; -1 leaves an id as it is.
    Errno::result(unsafe { libc::syscall(libc::SYS_setresuid, -1, uid, -1) }).map(drop)
}

/// The calling thread's effective group.
pub(crate) fn set_effective_gid(gid: u32) -> Result<(), Errno> {
    // SAFETY: three integers; -1 leaves an id as it is.
    Errno::result(unsafe { libc::syscall(libc::SYS_setresgid, -1, gid, -1) }).map(drop)
}

/// No supplementary groups, for the calling thread.
pub(crate) fn clear_groups() -> Result<(), Errno> {
    // SAFETY: a list of no groups is not read.
    let value = unsafe { libc::syscall(libc::SYS_setgroups, 0, ptr::null::<u32>()) };
    Errno::result(value).map(drop)
}

/// Sets of capabilities, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Capabilities {
    pub(crate) effective: u64,
    pub(crate) permitted: u64,
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// The calling thread's capabilities.
pub(crate) fn capget() -> Result<Capabilities, Errno> {
    let mut header = [CAPABILITY_VERSION_3, 0];
    let mut data = [0_u32; 6];
    // SAFETY: version 3 has two times three words, which the kernel writes.
    let value = unsafe { libc::syscall(libc::SYS_capget, header.as_mut_ptr(), data.as_mut_ptr()) };
    Errno::result(value)?;
    let set = |low: usize| u64::from(data[low]) | u64::from(data[low + 3]) << 32;
    Ok(Capabilities { effective: set(0), permitted: set(1) })
}

/// Sets them; none can be inherited.
pub(crate) fn capset(capabilities: Capabilities) -> Result<(), Errno> {
    let mut header = [CAPABILITY_VERSION_3, 0];
    let Capabilities { effective, permitted } = capabilities;
    let halves = |set: u64| (set as u32, (set >> 32) as u32);
    let ((e0, e1), (p0, p1)) = (halves(effective), halves(permitted));
    let data = [e0, p0, 0, e1, p1, 0];
    // SAFETY: version 3 has two times three words, which the kernel reads.
    let value = unsafe { libc::syscall(libc::SYS_capset, header.as_mut_ptr(), data.as_ptr()) };
    Errno::result(value).map(drop)
}

const SECBIT_NO_SETUID_FIXUP: u64 = 1 << 2;
const SECBIT_NO_SETUID_FIXUP_LOCKED: u64 = 1 << 3;

/// Capabilities stay as they are when the effective user changes. Needs `CAP_SETPCAP`.
pub(crate) fn keep_capabilities_of_other_users() -> Result<(), Errno> {
    let bits = SECBIT_NO_SETUID_FIXUP | SECBIT_NO_SETUID_FIXUP_LOCKED;
    // SAFETY: integers alone.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_SECUREBITS, bits, 0, 0, 0) }).map(drop)
}

/// Closes all descriptors from `first` to `last`.
pub(crate) fn close_range(first: u32, last: u32) -> Result<(), Errno> {
    // SAFETY: called before anything of this program is opened.
    Errno::result(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

/// A procfs without a place in any tree, of the caller's pid namespace.
pub(crate) fn detached_procfs() -> Result<OwnedFd, Errno> {
    const FSCONFIG_CMD_CREATE: u32 = 6;
    const CLOSE_ON_EXEC: u32 = 1;
    // SAFETY: constants; a call that succeeds makes a descriptor, which nobody else has.
    unsafe {
        let value = libc::syscall(libc::SYS_fsopen, c"proc".as_ptr(), CLOSE_ON_EXEC);
        let context = OwnedFd::from_raw_fd(Errno::result(value)? as i32);
        let (null, zero) = (ptr::null::<u8>(), 0);
        let raw = context.as_raw_fd();
        let create = FSCONFIG_CMD_CREATE;
        Errno::result(libc::syscall(libc::SYS_fsconfig, raw, create, null, null, zero))?;
        let value = libc::syscall(libc::SYS_fsmount, raw, CLOSE_ON_EXEC, 0);
        Ok(OwnedFd::from_raw_fd(Errno::result(value)? as i32))
    }
}
