//! Descriptors: ranges, inherited ones, and a peek into another process's table.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use std::io::IoSliceMut;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recv, recvmsg};

use super::{Result, check};
use crate::error::Failure;

/// First descriptor behind the standard streams.
pub(crate) const FIRST: u32 = 3;

/// Closes every descriptor from [`FIRST`] on but `keep` of them and `others`, which keep their numbers:
/// a limit on open files may be in force. Only for a forked child that never runs its creator's
/// destructors. close_range(2), Linux 5.9.
pub(crate) fn close_all_but(others: &[BorrowedFd<'_>], keep: u32) -> Result<()> {
    let mut numbers: Vec<u32> = others.iter().map(|fd| fd.as_raw_fd() as u32).collect();
    numbers.sort_unstable();
    let mut first = FIRST + keep;
    for number in numbers {
        if number > first {
            close_range(first, number - 1)?;
        }
        first = first.max(number + 1);
    }
    close_range(first, u32::MAX)
}

/// Closes the standard streams. Only for a forked child, as [`close_all_but`].
pub(crate) fn close_streams() -> Result<()> {
    close_range(0, FIRST - 1)
}

fn close_range(from: u32, to: u32) -> Result<()> {
    // SAFETY: no memory is passed; the numbers belong to code that is gone in the caller's process.
    check("close_range", unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) })?;
    Ok(())
}

/// Makes `number` a copy of `fd` that the next `execve` leaves open; what had the number is closed. Only
/// for a forked child, as [`close_all_but`]. dup2(2).
pub(crate) fn place(fd: BorrowedFd<'_>, number: RawFd) -> Result<()> {
    // SAFETY: no memory is passed; whoever owned the number is never dropped in this process.
    check("dup2", unsafe { libc::dup2(fd.as_raw_fd(), number) }.into())?;
    Ok(())
}

/// A copy of the caller's descriptor `number`, close-on-exec, with the first free number from `lowest` on.
/// fcntl(2).
pub(crate) fn copy_above(number: RawFd, lowest: RawFd) -> Result<OwnedFd> {
    // SAFETY: the argument is a number; a descriptor that is not open gives EBADF.
    let copy =
        check("fcntl", unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, lowest).into() })?;
    // SAFETY: the kernel returned a new descriptor that nobody else knows of.
    Ok(unsafe { OwnedFd::from_raw_fd(copy as RawFd) })
}

/// Whether `number` was open when this program was executed: it is, and does not close at the next
/// `execve`, as everything does that this program opens.
pub(crate) fn is_inherited(number: RawFd) -> bool {
    // SAFETY: F_GETFD takes no argument; a number that is not open gives EBADF.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    flags != -1 && flags & libc::FD_CLOEXEC == 0
}

/// The user of the process that connected the Unix socket `number`. unix(7), "SO_PEERCRED".
pub(crate) fn peer_user(number: RawFd) -> Result<u32> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: both pointers outlive the call, and `length` is the size of what the first points to; a
    // number that is no socket gives an error.
    let result = unsafe {
        let value = (&raw mut peer).cast();
        libc::getsockopt(number, libc::SOL_SOCKET, libc::SO_PEERCRED, value, &raw mut length)
    };
    check("getsockopt(SO_PEERCRED)", result.into())?;
    Ok(peer.uid)
}

/// A copy of descriptor `number` of the process behind `pidfd`. pidfd_getfd(2), Linux 5.6.
pub(crate) fn get_from(pidfd: BorrowedFd<'_>, number: RawFd) -> Result<OwnedFd> {
    // SAFETY: no memory is passed.
    let fd = check("pidfd_getfd", unsafe {
        libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0)
    })?;
    // SAFETY: the kernel returned a new descriptor, close-on-exec, that nobody else knows of.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Waits for a message and says how long it is; 0 when the peer has closed the connection and all it
/// said was received.
pub(crate) fn next_length(socket: BorrowedFd<'_>) -> Result<usize> {
    loop {
        // For packets, MSG_TRUNC makes this the length of the message, not of what was copied.
        match recv(socket.as_raw_fd(), &mut [], MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC) {
            Err(Errno::EINTR) => {}
            // The peer ended with something unread. That is told once, before what it said last.
            Err(Errno::ECONNRESET) => continue,
            other => return other.map_err(|errno| Failure { call: "recv", errno }),
        }
    }
}

/// Receives one message and the descriptors that come with it, at most four (others are closed).
/// A peer that has closed the connection gives length 0, after what it said last. recvmsg(2).
pub(crate) fn receive(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> Result<(usize, Vec<OwnedFd>)> {
    let mut control = nix::cmsg_space!([RawFd; 4]);
    loop {
        let mut parts = [IoSliceMut::new(bytes)];
        let received = recvmsg::<()>(
            socket.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::MSG_CMSG_CLOEXEC,
        );
        let message = match received {
            Err(Errno::EINTR) => continue,
            // As above.
            Err(Errno::ECONNRESET) => continue,
            Err(errno) => return Err(Failure { call: "recvmsg", errno }),
            Ok(message) => message,
        };
        let mut owned = Vec::new();
        for item in message.cmsgs().into_iter().flatten() {
            if let ControlMessageOwned::ScmRights(fds) = item {
                // SAFETY: the kernel made these descriptors for this message, close-on-exec; nobody
                // else knows of them.
                owned.extend(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        return Ok((message.bytes, owned));
    }
}

/// Accepts a connection, close-on-exec. accept(2).
pub(crate) fn accept(socket: BorrowedFd<'_>) -> Result<OwnedFd> {
    loop {
        // SAFETY: null address and length mean that the peer's address is not wanted.
        let fd = unsafe {
            libc::accept4(
                socket.as_raw_fd(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                libc::SOCK_CLOEXEC,
            )
        };
        match check("accept4", fd.into()) {
            Err(Failure { errno: Errno::EINTR, .. }) => continue,
            Err(failure) => return Err(failure),
            // SAFETY: the kernel returned a new descriptor that nobody else knows of.
            Ok(fd) => return Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }),
        }
    }
}

/// Closes a forked child's copy of a descriptor that the creator's code still owns by type. Only for
/// a child that never runs the owner's destructor.
pub(crate) fn close_in_child(fd: BorrowedFd<'_>) {
    // SAFETY: the child leaves by execve or _exit, so the owner is never dropped there and the number
    // is not used again through it.
    unsafe {
        libc::close(fd.as_raw_fd());
    }
}
