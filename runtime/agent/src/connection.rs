//! A connection that frames go over. Reading never blocks, sending only for so long.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{read, write};
use runtime::{Call, Context, Error, ErrorKind, Failure};
use serde::Serialize;
use serde::de::DeserializeOwned;
use wire::{Broken, Frames};

/// What is read at once, in bytes.
const CHUNK: usize = 64 * 1024;
/// How long a peer may take to read what was sent.
const SEND_DEADLINE: Duration = Duration::from_secs(10);
const CONNECTION: &str = "the host";

/// One connection with the host.
#[derive(Debug)]
pub struct Connection {
    fd: OwnedFd,
    frames: Frames,
}

/// What has come.
#[derive(Debug)]
pub enum Received<T> {
    /// A message.
    Message(T),
    /// Nothing, or not all of a message.
    Nothing,
    /// The end.
    Closed,
}

impl Connection {
    /// Takes a connected stream socket.
    ///
    /// # Errors
    /// Those of fcntl(2).
    pub fn new(fd: OwnedFd) -> runtime::Result<Self> {
        set_nonblocking(fd.as_fd()).context("set up", CONNECTION)?;
        Ok(Self { fd, frames: Frames::default() })
    }

    /// The bare stream; nothing behind the last message was read.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// The next message, as far as it has come.
    ///
    /// # Errors
    /// What came is none.
    pub fn receive<T: DeserializeOwned>(&mut self) -> Result<Received<T>, Broken> {
        let mut chunk = Vec::new();
        loop {
            if let Some(message) = self.frames.take()? {
                return Ok(Received::Message(message));
            }
            chunk.resize(self.frames.wanted().min(CHUNK), 0);
            match read(&self.fd, &mut chunk) {
                Ok(0) => return Ok(Received::Closed),
                Ok(length) => self.frames.push(&chunk[..length]),
                Err(Errno::EAGAIN) => return Ok(Received::Nothing),
                Err(Errno::EINTR) => {}
                Err(_) => return Ok(Received::Closed),
            }
        }
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// There is none within `limit`, or what came is none.
    pub fn expect<T: DeserializeOwned>(&mut self, limit: Duration) -> runtime::Result<T> {
        let unheard = |why: &str| Error::new(ErrorKind::System, "hear from", CONNECTION, why);
        let end = Instant::now() + limit;
        loop {
            match self.receive().map_err(|broken| unheard(&broken.0))? {
                Received::Message(message) => return Ok(message),
                Received::Closed => return Err(unheard("it has closed the connection")),
                Received::Nothing => {}
            }
            let waited = wait_one(self.fd.as_fd(), PollFlags::POLLIN, Some(end));
            if !waited.context("hear from", CONNECTION)? {
                return Err(unheard("it said nothing in time"));
            }
        }
    }

    /// Sends a message.
    ///
    /// # Errors
    /// The peer is gone or does not read, or the message is too long.
    pub fn send(&self, message: &impl Serialize) -> runtime::Result<()> {
        let frame = wire::frame(message)
            .map_err(|broken| Error::new(ErrorKind::System, "answer", CONNECTION, broken.0))?;
        let end = Instant::now() + SEND_DEADLINE;
        let mut rest = &frame[..];
        while !rest.is_empty() {
            match write(&self.fd, rest) {
                Ok(length) => rest = &rest[length..],
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    let waited = wait_one(self.fd.as_fd(), PollFlags::POLLOUT, Some(end));
                    if !waited.context("answer", CONNECTION)? {
                        let reason = "it does not read";
                        return Err(Error::new(ErrorKind::System, "answer", CONNECTION, reason));
                    }
                }
                Err(errno) => return Err(errno).call("write").context("answer", CONNECTION),
            }
        }
        Ok(())
    }

    /// Waits until the peer has closed the connection, but not longer than `limit`.
    pub fn linger(&self, limit: Duration) {
        let end = Instant::now() + limit;
        let mut ignored = [0; 512];
        loop {
            match read(&self.fd, &mut ignored) {
                Ok(0) => return,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => match wait_one(self.fd.as_fd(), PollFlags::POLLIN, Some(end))
                {
                    Ok(true) => {}
                    Ok(false) | Err(_) => return,
                },
                Err(_) => return,
            }
            if Instant::now() >= end {
                return;
            }
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Makes reading and writing return `EAGAIN` in the place of waiting.
///
/// # Errors
/// Those of fcntl(2).
pub fn set_nonblocking(fd: BorrowedFd<'_>) -> Result<(), Failure> {
    let flags = fcntl(fd, FcntlArg::F_GETFL).call("fcntl")?;
    let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
    fcntl(fd, FcntlArg::F_SETFL(flags)).call("fcntl").map(drop)
}

/// Waits for one of the descriptors, until `end` at the latest: what each is ready for.
///
/// # Errors
/// Those of poll(2).
pub fn wait(
    wanted: &[(BorrowedFd<'_>, PollFlags)],
    end: Option<Instant>,
) -> Result<Vec<PollFlags>, Failure> {
    let mut polled: Vec<PollFd<'_>> =
        wanted.iter().map(|&(fd, events)| PollFd::new(fd, events)).collect();
    loop {
        match poll(&mut polled, timeout(end)) {
            Err(Errno::EINTR) => {}
            result => {
                result.call("poll")?;
                let ready = polled.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
                return Ok(ready.collect());
            }
        }
    }
}

fn wait_one(fd: BorrowedFd<'_>, events: PollFlags, end: Option<Instant>) -> Result<bool, Failure> {
    Ok(wait(&[(fd, events)], end)?.iter().any(|ready| !ready.is_empty()))
}

/// Until `end`, rounded up: whoever wakes up too early looks again at once, and that without end.
fn timeout(end: Option<Instant>) -> PollTimeout {
    let Some(end) = end else { return PollTimeout::NONE };
    let left = end.saturating_duration_since(Instant::now());
    let left = left.as_micros().div_ceil(1000);
    PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
}
