//! The start socket: where the child of `create` waits for `start`.
//!
//! A `SOCK_SEQPACKET` socket in the state directory, which only the creator's user can enter. The
//! child keeps the listening end, close-on-exec: while a connection is accepted the program has not
//! been executed, and once connections are refused it has. A connection that closes without a word
//! only wanted to know that; the child goes on waiting.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket,
};
use nix::sys::stat::{Mode, fchmod};

use crate::error::{Call, Context, Error, ErrorKind, Failure, Result};
use crate::process::channel::Channel;
use crate::state::SOCKET;

const WHAT: &str = "the start socket";

/// The socket's address by the directory's descriptor: the directory's path may be longer than an
/// address holds.
fn address(dir: BorrowedFd<'_>) -> std::result::Result<UnixAddr, Errno> {
    UnixAddr::new(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd()).as_str())
}

fn unix_socket(flags: SockFlag) -> std::result::Result<OwnedFd, Failure> {
    socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC | flags, None)
        .call("socket")
}

/// Binds the socket and listens.
pub(crate) fn listen_in(dir: BorrowedFd<'_>) -> Result<OwnedFd> {
    let listening = || {
        let socket = unix_socket(SockFlag::empty())?;
        // The file gets the socket's mode, less the caller's umask.
        fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR).call("fchmod")?;
        bind(socket.as_raw_fd(), &address(dir).call("bind")?).call("bind")?;
        listen(&socket, Backlog::new(16).expect("16 is in range")).call("listen")?;
        Ok(socket)
    };
    listening().context("make", WHAT)
}

/// Connects to the waiting child.
///
/// # Errors
/// `WrongState` when nobody waits.
pub(crate) fn connect_in(dir: BorrowedFd<'_>) -> Result<Channel> {
    let connected = || {
        let socket = unix_socket(SockFlag::empty())?;
        connect(socket.as_raw_fd(), &address(dir).call("connect")?).call("connect")?;
        Ok(socket)
    };
    match connected() {
        Ok(socket) => Ok(Channel::from_socket(socket)),
        Err(Failure { errno: Errno::ECONNREFUSED | Errno::ENOENT, .. }) => Err(Error::new(
            ErrorKind::WrongState,
            "start",
            "the container",
            "cannot start an already running container",
        )),
        Err(failure) => Err(Error::system("connect to", WHAT, failure)),
    }
}

/// Whether a child still waits for `start`. Never blocks, also when the child is frozen.
pub(crate) fn somebody_waits(dir: BorrowedFd<'_>) -> Result<bool> {
    let asked = || {
        let socket = unix_socket(SockFlag::SOCK_NONBLOCK)?;
        let address = address(dir).call("connect")?;
        match connect(socket.as_raw_fd(), &address) {
            // EAGAIN: the backlog is full, so somebody listens.
            Ok(()) | Err(Errno::EAGAIN) => Ok(true),
            Err(Errno::ECONNREFUSED | Errno::ENOENT) => Ok(false),
            Err(errno) => Err(Failure { call: "connect", errno }),
        }
    };
    // To take a container that cannot be asked for one that runs would be a wrong answer.
    asked().context("connect to", WHAT)
}
