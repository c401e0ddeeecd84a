//! Bytes between the standard streams of a process of the host and those of a process of the guest.
//!
//! The host's ends are the caller's, so nothing is changed about them (`O_NONBLOCK` would be everybody's): they are
//! read and written only when poll(2) says that it does not block, and written by `PIPE_BUF` bytes. A side is read
//! only when the other has taken what was read before.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{MsgFlags, Shutdown, send, shutdown};
use nix::unistd::{read, write};

/// A pipe that is ready takes this much without blocking, see pipe(7).
const HOST_CHUNK: usize = libc::PIPE_BUF;
/// Read from the guest at once.
const GUEST_CHUNK: usize = 16 * 1024;

/// What the caller types, to the guest.
#[derive(Debug)]
pub(crate) struct Input<'a> {
    host: Option<BorrowedFd<'a>>,
    guest: OwnedFd,
    bytes: Vec<u8>,
}

/// What the guest's process says, to the caller.
#[derive(Debug)]
pub(crate) struct Output<'a> {
    guest: Option<OwnedFd>,
    host: BorrowedFd<'a>,
    bytes: Vec<u8>,
}

impl<'a> Input<'a> {
    pub(crate) fn new(host: BorrowedFd<'a>, guest: OwnedFd) -> Self {
        Self { host: Some(host), guest, bytes: Vec::new() }
    }

    /// What to wait for; none when nothing can happen.
    pub(crate) fn wanted(&self) -> Option<PollFd<'_>> {
        if !self.bytes.is_empty() {
            return Some(PollFd::new(self.guest.as_fd(), PollFlags::POLLOUT));
        }
        self.host.map(|host| PollFd::new(host, PollFlags::POLLIN))
    }

    /// What was waited for has happened.
    pub(crate) fn serve(&mut self) {
        if self.bytes.is_empty() {
            self.read();
        }
        if self.bytes.is_empty() {
            return;
        }
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match send(self.guest.as_raw_fd(), &self.bytes, flags) {
            Ok(length) => drop(self.bytes.drain(..length)),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            // The process reads no more.
            Err(_) => {
                self.bytes.clear();
                self.host = None;
            }
        }
    }

    fn read(&mut self) {
        let Some(host) = self.host else { return };
        let mut chunk = [0; HOST_CHUNK];
        match read(host, &mut chunk) {
            Ok(length @ 1..) => self.bytes.extend_from_slice(&chunk[..length]),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            // EIO: the terminal is gone, or we are in the background.
            Ok(0) | Err(_) => {
                self.host = None;
                // ENOTCONN: nobody is there to be told.
                let _ = shutdown(self.guest.as_raw_fd(), Shutdown::Write);
            }
        }
    }
}

impl<'a> Output<'a> {
    pub(crate) fn new(guest: OwnedFd, host: BorrowedFd<'a>) -> Self {
        Self { guest: Some(guest), host, bytes: Vec::new() }
    }

    /// Everything was passed on.
    pub(crate) fn is_done(&self) -> bool {
        self.guest.is_none() && self.bytes.is_empty()
    }

    /// Whether it is the caller's turn to read.
    pub(crate) fn waits_for_reader(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// As [`Input::wanted`].
    pub(crate) fn wanted(&self) -> Option<PollFd<'_>> {
        if !self.bytes.is_empty() {
            return Some(PollFd::new(self.host, PollFlags::POLLOUT));
        }
        self.guest.as_ref().map(|guest| PollFd::new(guest.as_fd(), PollFlags::POLLIN))
    }

    /// As [`Input::serve`].
    pub(crate) fn serve(&mut self) {
        if self.bytes.is_empty() { self.read() } else { self.write() }
    }

    fn read(&mut self) {
        let Some(guest) = &self.guest else { return };
        self.bytes.resize(GUEST_CHUNK, 0);
        let length = match read(guest, &mut self.bytes) {
            Ok(0) => {
                self.guest = None;
                0
            }
            Ok(length) => length,
            Err(Errno::EAGAIN | Errno::EINTR) => 0,
            Err(_) => {
                self.guest = None;
                0
            }
        };
        self.bytes.truncate(length);
    }

    fn write(&mut self) {
        let length = self.bytes.len().min(HOST_CHUNK);
        match write(self.host, &self.bytes[..length]) {
            Ok(length) => drop(self.bytes.drain(..length)),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            // Nobody reads: the guest's process is to hear of it as of a broken pipe.
            Err(_) => {
                self.bytes.clear();
                self.guest = None;
            }
        }
    }
}
