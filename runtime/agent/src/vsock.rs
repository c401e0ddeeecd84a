//! Sockets between the guest and its host. vsock(7).

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, VsockAddr, bind, connect,
    getpeername, listen, socket,
};
use runtime::{Call, Context, Failure, Result};

/// `VMADDR_CID_HOST`
const HOST: u32 = 2;
/// `VMADDR_CID_ANY`
const ANY: u32 = u32::MAX;

fn new() -> Result<OwnedFd, Failure> {
    socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).call("socket")
}

/// Connects to a port of the host. The kernel waits two seconds for its answer.
///
/// # Errors
/// Those of socket(2) and connect(2): `EAFNOSUPPORT` and `ENODEV` where the kernel has no such sockets or no
/// device for them.
pub fn connect_to_host(port: u32) -> Result<OwnedFd> {
    let connected = new().and_then(|socket| {
        connect(socket.as_raw_fd(), &VsockAddr::new(HOST, port)).call("connect")?;
        Ok(socket)
    });
    connected.context("connect to", format!("port {port} of the host"))
}

/// Whether a connection is not one that a process of the guest has made, by an address of its own machine: containers
/// have sockets of this kind, for which there are no namespaces.
pub fn is_from_host(connection: BorrowedFd<'_>) -> bool {
    let peer = getpeername::<SockaddrStorage>(connection.as_raw_fd());
    peer.is_ok_and(|peer| peer.as_vsock_addr().is_none_or(|address| address.cid() == HOST))
}

/// Listens on a port of the guest.
///
/// # Errors
/// Those of socket(2), bind(2) and listen(2).
pub fn listen_on(port: u32) -> Result<OwnedFd> {
    let listening = new().and_then(|socket| {
        bind(socket.as_raw_fd(), &VsockAddr::new(ANY, port)).call("bind")?;
        listen(&socket, Backlog::MAXCONN).call("listen")?;
        Ok(socket)
    });
    listening.context("listen on", format!("port {port}"))
}
