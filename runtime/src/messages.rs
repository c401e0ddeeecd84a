//! Messages with descriptors over a Unix socket: unix(7), "SCM_RIGHTS".

use std::io::IoSlice;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::error::Failure;
use crate::sys;

/// The user of the process that connected the Unix socket with this number. A number, because that is
/// what a library that accepts connections for its caller hands out.
///
/// # Errors
/// It is no Unix socket.
pub fn peer_user(socket: RawFd) -> Result<u32, Failure> {
    sys::fd::peer_user(socket)
}

/// Accepts a connection of any family, close-on-exec.
///
/// # Errors
/// Those of accept(2).
pub fn accept(socket: BorrowedFd<'_>) -> Result<OwnedFd, Failure> {
    sys::fd::accept(socket)
}

/// Sends `bytes`, or as many of them as a stream takes, with copies of `fds`. Returns how many bytes
/// were sent. A peer that is gone is `EPIPE`, never a signal.
///
/// # Errors
/// Those of sendmsg(2).
pub fn send_message(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> Result<usize, Failure> {
    let numbers: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let control = if fds.is_empty() { &[][..] } else { &rights[..] };
    loop {
        let parts = [IoSlice::new(bytes)];
        match sendmsg::<()>(socket.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None) {
            Err(Errno::EINTR) => {}
            other => return other.map_err(|errno| Failure { call: "sendmsg", errno }),
        }
    }
}

/// Receives a message into `bytes`: how long it is, and the descriptors that came with it (at most
/// four, close-on-exec). Length 0 when the peer has closed the connection.
///
/// # Errors
/// Those of recvmsg(2).
pub fn receive_message(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
) -> Result<(usize, Vec<OwnedFd>), Failure> {
    sys::fd::receive(socket, bytes)
}
