//! Readiness notifications: from a container's socket to the service manager's.
//!
//! The library mounts the directory `notify` of the container's state at `/run/notify` and sets
//! `NOTIFY_SOCKET=/run/notify/notify.sock` inside; whoever starts the container binds the socket. Of
//! what the container says only `READY=1` is passed on: the manager trusts its own service's pid, so
//! the pid must be one of the host, and nothing else a tenant writes is to reach the manager.
//! See sd_notify(3).

use std::fs::{self, File, Permissions};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use runtime::{Call, Context, quote};

use crate::program::Failure;

/// How long the manager may take to say that it has read, in milliseconds.
const BARRIER: u16 = 30_000;

/// A bound socket of a container and the manager's address.
#[derive(Debug)]
pub struct Proxy {
    socket: UnixDatagram,
    path: PathBuf,
    host: PathBuf,
}

impl Proxy {
    /// Binds the socket of container `id`; `host` is the manager's address. `None` for a container
    /// that was created without a manager to notify: it has no directory for the socket.
    pub fn bind(root: &Path, id: &str, host: PathBuf) -> Result<Option<Self>, Failure> {
        let directory = root.join(id).join("notify");
        if !directory.exists() {
            return Ok(None);
        }
        let path = directory.join("notify.sock");
        let open = File::open(&directory).call("open").context("open", quote(&directory))?;
        // The path may be longer than an address holds; one by the directory's descriptor is not.
        let short = PathBuf::from(format!("/proc/self/fd/{}/notify.sock", open.as_raw_fd()));
        let socket = UnixDatagram::bind(&short).call("bind").context("bind", quote(&path))?;
        // The container's user is anybody; the directory is in reach of its mount namespace only.
        fs::set_permissions(&short, Permissions::from_mode(0o777))
            .call("chmod")
            .context("open up", quote(&path))?;
        Ok(Some(Self { socket, path, host }))
    }

    /// Passes a `READY=1` on, with `pid` as the service's main process. Returns whether it came.
    pub fn forward(&self, pid: u32) -> Result<bool, Failure> {
        let mut message = [0; 4096];
        let length =
            self.socket.recv(&mut message).call("recv").context("read", quote(&self.path))?;
        if !says_ready(&message[..length]) {
            return Ok(false);
        }
        let manager = connect(&self.host)?;
        manager.send(b"READY=1\n").call("send").context("notify", quote(&self.host))?;
        manager
            .send(format!("MAINPID={pid}").as_bytes())
            .call("send")
            .context("notify", quote(&self.host))?;
        barrier(&manager).call("sendmsg").context("notify", quote(&self.host))?;
        Ok(true)
    }

    /// Waits until the container is ready or has ended, which `pidfd` shows.
    pub fn wait(&self, pidfd: BorrowedFd<'_>, pid: u32) -> Result<(), Failure> {
        loop {
            let mut fds = [
                PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
                PollFd::new(pidfd, PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Err(nix::errno::Errno::EINTR) => continue,
                result => result.call("poll").context("wait for", "READY=1")?,
            };
            let [message, end] = fds.map(|fd| fd.any().unwrap_or(false));
            if (message && self.forward(pid)?) || (end && !message) {
                return Ok(());
            }
        }
    }
}

impl AsFd for Proxy {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn says_ready(message: &[u8]) -> bool {
    message.split(|&b| b == b'\n').any(|line| line == b"READY=1")
}

/// `@name` is an abstract address.
fn connect(address: &Path) -> Result<UnixDatagram, Failure> {
    let socket = UnixDatagram::unbound().call("socket").context("make", "socket")?;
    match address.as_os_str().as_bytes().strip_prefix(b"@") {
        Some(name) => {
            SocketAddr::from_abstract_name(name).and_then(|name| socket.connect_addr(&name))
        }
        None => socket.connect(address),
    }
    .call("connect")
    .context("notify", quote(address))?;
    Ok(socket)
}

/// Waits until the manager has read everything: it closes the pipe end that comes with `BARRIER=1`.
fn barrier(manager: &UnixDatagram) -> io::Result<()> {
    let (wait, sent) = io::pipe()?;
    let fds = [sent.as_raw_fd()];
    sendmsg::<UnixAddr>(
        manager.as_raw_fd(),
        &[IoSlice::new(b"BARRIER=1")],
        &[ControlMessage::ScmRights(&fds)],
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    drop(sent);
    let wait = File::from(std::os::fd::OwnedFd::from(wait));
    let mut fds = [PollFd::new(wait.as_fd(), PollFlags::POLLIN)];
    // A manager too old to know barriers closes nothing; it has the messages all the same.
    let _ = poll(&mut fds, PollTimeout::from(BARRIER));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_readiness_is_passed_on() {
        let root = std::env::temp_dir().join(format!("bulkhead-notify-{}", std::process::id()));
        fs::create_dir_all(root.join("c/notify")).unwrap();
        let host = root.join("host.sock");
        let manager = UnixDatagram::bind(&host).unwrap();
        assert!(Proxy::bind(&root, "other", host.clone()).unwrap().is_none());
        let proxy = Proxy::bind(&root, "c", host).unwrap().unwrap();
        let container = UnixDatagram::unbound().unwrap();
        container.connect(root.join("c/notify/notify.sock")).unwrap();

        container.send(b"STATUS=x\nMAINPID=1").unwrap();
        assert!(!proxy.forward(7).unwrap());
        container.send(b"STATUS=x\nREADY=1\n").unwrap();
        let reader = std::thread::spawn(move || {
            let mut seen = Vec::new();
            let mut buffer = [0; 64];
            for _ in 0..3 {
                // Received without room for descriptors, so the kernel closes the barrier's pipe.
                let n = manager.recv(&mut buffer).unwrap();
                seen.push(String::from_utf8(buffer[..n].to_vec()).unwrap());
            }
            seen
        });
        assert!(proxy.forward(7).unwrap());
        assert_eq!(reader.join().unwrap(), ["READY=1\n", "MAINPID=7", "BARRIER=1"]);
        fs::remove_dir_all(&root).unwrap();
    }
}
