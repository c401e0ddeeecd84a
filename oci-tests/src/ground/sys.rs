//! The system calls that nix lacks, as safe functions: the only `unsafe` of this crate.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Any system call with up to six plain numbers; answers (return value, errno or 0).
///
/// Pointers are passed as numbers too, so that the probe can try calls under a seccomp filter; it
/// passes only null or the address of a buffer that `scratch` leaked.
pub fn raw(number: i64, args: [u64; 6]) -> (i64, i32) {
    let [a, b, c, d, e, f] = args;
    // SAFETY: the arguments are numbers the suite chose for calls that do not write to memory, or the
    // address of a leaked buffer of 4096 bytes; no Rust object is reachable from them.
    let answer = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    (answer, if answer == -1 { io::Error::last_os_error().raw_os_error().unwrap_or(0) } else { 0 })
}

/// A descriptor that becomes readable when `pid` ends.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two numbers and touches no memory.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Makes the mount at `path` read-only, or writable again. mount_setattr(2).
pub fn set_read_only(path: &std::path::Path, read_only: bool) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    /// Of `linux/mount.h`.
    const MOUNT_ATTR_RDONLY: u64 = 1;
    let (set, clear) = if read_only { (MOUNT_ATTR_RDONLY, 0) } else { (0, MOUNT_ATTR_RDONLY) };
    let attributes =
        libc::mount_attr { attr_set: set, attr_clr: clear, propagation: 0, userns_fd: 0 };
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: path and attributes live through the call, and the size of the latter is passed.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            0u32,
            &raw const attributes,
            std::mem::size_of::<libc::mount_attr>(),
        )
    };
    if answer == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The columns and rows of the terminal behind `fd`.
pub fn window_size(fd: BorrowedFd<'_>) -> io::Result<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one winsize, and `size` is one that outlives the call.
    match unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ, &mut size) } {
        0 => Ok((size.ws_col, size.ws_row)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives the terminal behind either end a size in columns and rows.
pub fn set_window_size(fd: BorrowedFd<'_>, (columns, rows): (u16, u16)) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize, and `size` is one that outlives the call.
    match unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSWINSZ, &size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The description of the session keyring: `type;uid;gid;perm;name`.
pub fn session_keyring() -> io::Result<String> {
    let mut text = [0u8; 256];
    // SAFETY: KEYCTL_DESCRIBE (6) writes at most the given length to the buffer, which outlives the
    // call; -3 is KEY_SPEC_SESSION_KEYRING.
    let length =
        unsafe { libc::syscall(libc::SYS_keyctl, 6, -3i64, text.as_mut_ptr(), text.len()) };
    if length < 0 {
        return Err(io::Error::last_os_error());
    }
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    Ok(String::from_utf8_lossy(&text[..end]).into_owned())
}

/// The id of the session keyring, which differs between two sessions of one name.
pub fn session_keyring_id() -> i64 {
    raw(libc::SYS_keyctl, [0, (-3i64) as u64, 0, 0, 0, 0]).0
}

/// The execution domain, unchanged.
pub fn personality() -> i32 {
    // SAFETY: 0xffffffff asks and changes nothing.
    unsafe { libc::personality(0xffff_ffff) }
}

/// Sets the umask and answers the one before.
pub fn set_umask(mask: u32) -> u32 {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(mask)).bits()
}

/// One request of a seccomp listener, as far as the tests need it.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// The cookie that the answer must carry.
    pub id: u64,
    /// The system call's number.
    pub number: i32,
    /// The caller in the listener's pid namespace.
    pub pid: u32,
}

#[repr(C)]
struct Notification {
    id: u64,
    pid: u32,
    flags: u32,
    number: i32,
    arch: u32,
    instruction: u64,
    args: [u64; 6],
}

#[repr(C)]
struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

const NOTIF_RECV: libc::c_ulong = 0xc050_2100;
const NOTIF_SEND: libc::c_ulong = 0xc018_2101;

/// The next request of a seccomp listener; blocks.
pub fn seccomp_receive(listener: BorrowedFd<'_>) -> io::Result<Request> {
    let mut notification =
        Notification { id: 0, pid: 0, flags: 0, number: 0, arch: 0, instruction: 0, args: [0; 6] };
    // SAFETY: SECCOMP_IOCTL_NOTIF_RECV writes one struct seccomp_notif (80 bytes, the size is part of
    // the request number) to the zeroed value, which outlives the call.
    match unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_RECV, &mut notification) } {
        0 => {
            Ok(Request { id: notification.id, number: notification.number, pid: notification.pid })
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// Answers a request: `Ok(value)` or a (positive) errno; `None` lets the call continue.
pub fn seccomp_answer(
    listener: BorrowedFd<'_>,
    id: u64,
    answer: Option<Result<i64, i32>>,
) -> io::Result<()> {
    let response = match answer {
        Some(Ok(value)) => Response { id, value, error: 0, flags: 0 },
        Some(Err(errno)) => Response { id, value: 0, error: -errno, flags: 0 },
        None => Response { id, value: 0, error: 0, flags: 1 },
    };
    // SAFETY: SECCOMP_IOCTL_NOTIF_SEND reads one struct seccomp_notif_resp (24 bytes).
    match unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_SEND, &response) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Takes ownership of a descriptor number received over a socket.
pub fn adopt(fd: i32) -> OwnedFd {
    // SAFETY: callers pass numbers that recvmsg(2) has just put into their SCM_RIGHTS message, which
    // nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Runs `action` in a forked child and answers its wait status; the caller has one thread.
pub fn forked(action: impl FnOnce() -> i32) -> io::Result<i32> {
    // SAFETY: the probe has one thread, so the child may run ordinary code; it leaves by _exit.
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let code = action();
            // SAFETY: _exit does not return and runs no destructor of the parent's state.
            unsafe { libc::_exit(code) }
        }
        _ => {
            let mut status = 0;
            // SAFETY: waitpid writes one int, and `status` outlives the call.
            match unsafe { libc::waitpid(pid, &mut status, 0) } {
                -1 => Err(io::Error::last_os_error()),
                _ => Ok(status),
            }
        }
    }
}

/// Forks a child that sleeps until it is killed; answers its pid.
pub fn sleeper() -> io::Result<i32> {
    // SAFETY: as in `forked`; the child only calls pause(2).
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => loop {
            // SAFETY: pause takes nothing.
            unsafe { libc::pause() };
        },
        pid => Ok(pid),
    }
}

/// Takes the read-only flag from the mount of a descriptor, if the kernel lets us.
pub fn make_writable(fd: &impl AsRawFd) -> io::Result<()> {
    // struct mount_attr: attr_set, attr_clr, propagation, userns_fd; MOUNT_ATTR_RDONLY is 1.
    let attributes: [u64; 4] = [0, 1, 0, 0];
    // SAFETY: the path is an empty C string, and mount_setattr reads the 32 bytes of `attributes`.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            attributes.as_ptr(),
            std::mem::size_of_val(&attributes),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A detached clone of what is behind a descriptor.
pub fn clone_tree(fd: &impl AsRawFd) -> io::Result<OwnedFd> {
    // OPEN_TREE_CLONE is 1.
    let flags = 1 | libc::AT_EMPTY_PATH | libc::O_CLOEXEC;
    // SAFETY: the path is an empty C string; nothing else is memory.
    let tree = unsafe { libc::syscall(libc::SYS_open_tree, fd.as_raw_fd(), c"".as_ptr(), flags) };
    if tree < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(tree as i32) })
}

/// Whether a file is in memory and sealed against writing.
pub fn is_sealed(fd: &impl AsRawFd) -> bool {
    // SAFETY: F_GET_SEALS takes no argument.
    let seals = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) };
    seals >= 0 && seals & libc::F_SEAL_WRITE != 0
}
