//! The terminal ioctls that `nix` lacks, see [ioctl_tty(2)].
//!
//! [ioctl_tty(2)]: https://man7.org/linux/man-pages/man2/ioctl_tty.2.html

use std::ffi::{c_int, c_long};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::{Result, check};

/// `TIOCGPTPEER` (Linux 4.13): opens the slave end that belongs to a master end, without a path.
pub(crate) fn open_peer(master: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: the argument of TIOCGPTPEER is an integer; the kernel reads no memory of ours.
    let fd = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    let fd = check("ioctl(TIOCGPTPEER)", c_long::from(fd))?;
    // SAFETY: the call succeeded, so its result is a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as c_int) })
}

/// `TIOCSPTLCK`: lets the slave end be opened.
pub(crate) fn unlock(master: BorrowedFd<'_>) -> Result<()> {
    let unlocked: c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int through the pointer, which outlives the call.
    let result = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) };
    check("ioctl(TIOCSPTLCK)", c_long::from(result)).map(drop)
}

/// `TIOCGPTN`: the number of the slave end in its devpts, N of `/dev/pts/N`.
pub(crate) fn number(master: BorrowedFd<'_>) -> Result<u32> {
    let mut number: libc::c_uint = 0;
    // SAFETY: TIOCGPTN writes one unsigned int through the pointer, which outlives the call.
    let result = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &raw mut number) };
    check("ioctl(TIOCGPTN)", c_long::from(result))?;
    Ok(number)
}

/// `TIOCSCTTY` without stealing: makes a terminal the controlling one of a session leader.
pub(crate) fn set_controlling(slave: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: the argument of TIOCSCTTY is an integer; the kernel reads no memory of ours.
    let result = unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0) };
    check("ioctl(TIOCSCTTY)", c_long::from(result)).map(drop)
}

/// `TIOCGWINSZ`: columns and rows.
pub(crate) fn size(terminal: BorrowedFd<'_>) -> Result<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one winsize through the pointer, which outlives the call.
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    check("ioctl(TIOCGWINSZ)", c_long::from(result))?;
    Ok((size.ws_col, size.ws_row))
}

/// `TIOCSWINSZ`: columns and rows.
pub(crate) fn set_size(terminal: BorrowedFd<'_>, columns: u16, rows: u16) -> Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize through the pointer, which outlives the call.
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    check("ioctl(TIOCSWINSZ)", c_long::from(result)).map(drop)
}
