//! Connections to the agent in the guest.
//!
//! They go through a Unix socket of the monitor's in the state directory: who connects writes `CONNECT PORT` and
//! reads `OK NUMBER`. Everything that comes from there is the guest's, so it is bounded in length and in time.

use std::io::{ErrorKind as IoKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, setsockopt,
    socket, sockopt::SendTimeout,
};
use nix::sys::stat::{Mode, fchmod};
use nix::sys::time::{TimeVal, TimeValLike as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use wire::{Answer, Call as Question, Frames, Opening};

use crate::error::{Call, Context, Error, ErrorKind, Failure, Result, clean};

/// The socket's name in the state directory.
pub(crate) const SOCKET: &str = "vsock.sock";

/// How long the guest may take for an answer. It makes a container in a few milliseconds; on a processor that is
/// itself emulated, in seconds.
pub(crate) const ANSWER: Duration = Duration::from_secs(60);
/// How long it may take to accept a connection.
pub(super) const ACCEPT: Duration = Duration::from_secs(20);
const LATE: &str = "it has not answered in time";
/// Warnings of the agent's that are taken.
const WARNINGS: usize = 64;

pub(super) const AGENT: &str = "the guest's agent";

fn address(dir: BorrowedFd<'_>) -> std::result::Result<UnixAddr, Failure> {
    // The directory's path may be longer than an address holds.
    UnixAddr::new(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd()).as_str()).call("connect")
}

fn unix_socket() -> std::result::Result<OwnedFd, Failure> {
    socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).call("socket")
}

/// Binds the socket in the state directory and listens.
pub(crate) fn listen_in(dir: BorrowedFd<'_>) -> Result<OwnedFd> {
    let listening = || {
        let socket = unix_socket()?;
        fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR).call("fchmod")?;
        bind(socket.as_raw_fd(), &address(dir)?).call("bind")?;
        listen(&socket, Backlog::new(64).expect("64 is in range")).call("listen")?;
        Ok(socket)
    };
    listening().context("make", "the socket to the guest")
}

/// Connects to the monitor; the guest hears of it by [`Connection::reach`] only.
pub(crate) fn connect_in(dir: BorrowedFd<'_>) -> Result<Connection> {
    let connected = || {
        let socket = unix_socket()?;
        // A monitor that accepts nobody, because the guest holds all that it can serve, is not waited for.
        let patience = TimeVal::milliseconds(ACCEPT.as_millis() as i64);
        setsockopt(&socket, SendTimeout, &patience).call("setsockopt")?;
        connect(socket.as_raw_fd(), &address(dir)?).call("connect")?;
        Ok(socket)
    };
    let socket = connected().context("connect to", "the machine's monitor")?;
    Ok(Connection::new(socket))
}

/// A connection on which frames are exchanged.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: UnixStream,
    frames: Frames,
}

impl Connection {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket: socket.into(), frames: Frames::default() }
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The socket, for a stream that has no frames any more.
    pub(crate) fn into_stream(self) -> OwnedFd {
        self.socket.into()
    }

    /// Has the monitor connect to the agent, who must answer `within` this time.
    pub(crate) fn reach(&mut self, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        self.write(format!("CONNECT {}\n", wire::AGENT).as_bytes())?;
        self.socket.set_nonblocking(true).map_err(|error| gone("connect to", &error))?;
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            let mut byte = [0];
            if !self.wait(deadline)? {
                return Err(silent("connect to", LATE));
            }
            match self.socket.read(&mut byte) {
                Ok(1) if line.len() < 32 => line.push(byte[0]),
                Err(error) if retry(&error) => {}
                Ok(_) => return Err(silent("connect to", "it does not listen")),
                Err(error) => return Err(gone("connect to", &error)),
            }
        }
        if line.starts_with(b"OK ") { Ok(()) } else { Err(silent("connect to", "it was refused")) }
    }

    /// Sends a message.
    pub(crate) fn send(&mut self, message: &impl Serialize) -> Result<()> {
        let bytes = wire::frame(message).map_err(|broken| silent("speak to", &broken.0))?;
        self.write(&bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let context = |error| gone("speak to", &error);
        self.socket.set_nonblocking(false).map_err(context)?;
        self.socket.set_write_timeout(Some(ANSWER)).map_err(context)?;
        self.socket.write_all(bytes).map_err(context)
    }

    /// Waits for a message; an end of the connection is an error, and so is none in time.
    pub(crate) fn receive<T: DeserializeOwned>(&mut self, within: Duration) -> Result<T> {
        self.receive_within(within)?.ok_or_else(|| silent("hear from", LATE))
    }

    /// As [`Connection::receive`]; none when the time is over.
    pub(crate) fn receive_within<T: DeserializeOwned>(
        &mut self,
        within: Duration,
    ) -> Result<Option<T>> {
        let deadline = Instant::now() + within;
        loop {
            match self.take()? {
                Taken::Message(message) => return Ok(Some(message)),
                Taken::End => return Err(silent("hear from", "it has closed the connection")),
                Taken::Nothing if self.wait(deadline)? => {}
                Taken::Nothing => return Ok(None),
            }
        }
    }

    /// Takes what is there, without waiting.
    pub(crate) fn take<T: DeserializeOwned>(&mut self) -> Result<Taken<T>> {
        loop {
            let next = self.frames.take().map_err(|broken| silent("hear from", &broken.0))?;
            if let Some(message) = next {
                return Ok(Taken::Message(message));
            }
            let mut chunk = [0; 4096];
            let length = self.frames.wanted().min(chunk.len());
            let nonblocking = self.socket.set_nonblocking(true);
            nonblocking.map_err(|error| gone("hear from", &error))?;
            match self.socket.read(&mut chunk[..length]) {
                Ok(0) => return Ok(Taken::End),
                Ok(length) => self.frames.push(&chunk[..length]),
                Err(error) if error.kind() == IoKind::WouldBlock => return Ok(Taken::Nothing),
                Err(error) if error.kind() == IoKind::Interrupted => {}
                Err(error) if error.kind() == IoKind::ConnectionReset => return Ok(Taken::End),
                Err(error) => return Err(gone("hear from", &error)),
            }
        }
    }

    /// Waits until there may be something to read. False when the time is over.
    fn wait(&self, deadline: Instant) -> Result<bool> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let milliseconds = u16::try_from(left.as_millis() + 1).unwrap_or(u16::MAX);
        let mut polled = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut polled, PollTimeout::from(milliseconds)) {
            Ok(_) | Err(Errno::EINTR) => Ok(true),
            Err(errno) => Err(errno).call("poll").context("hear from", AGENT),
        }
    }
}

/// What [`Connection::take`] found.
#[derive(Debug)]
pub(crate) enum Taken<T> {
    Message(T),
    /// Nothing yet.
    Nothing,
    /// The other side is gone.
    End,
}

fn retry(error: &std::io::Error) -> bool {
    matches!(error.kind(), IoKind::WouldBlock | IoKind::Interrupted)
}

/// The reason may have words of the guest's in it.
fn silent(operation: &str, reason: &str) -> Error {
    Error::new(ErrorKind::System, operation, AGENT, clean(reason))
}

fn gone(operation: &str, error: &std::io::Error) -> Error {
    let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    Error::system(operation, AGENT, Failure { call: "vsock", errno })
}

/// Asks the agent of the container whose state directory this is.
pub(crate) fn ask(dir: BorrowedFd<'_>, question: Question, within: Duration) -> Result<Answer> {
    let mut connection = connect_in(dir)?;
    connection.reach(within.min(ACCEPT))?;
    connection.send(&Opening::Call(question))?;
    match connection.receive(within)? {
        Answer::Failed(error) => Err(error.into()),
        answer => Ok(answer),
    }
}

/// Warnings of the agent's, bounded and without control characters.
pub(super) fn warnings(said: Vec<String>) -> Vec<String> {
    said.iter().take(WARNINGS).map(|text| clean(text)).collect()
}

/// An answer that does not fit what was asked.
pub(crate) fn out_of_turn(answer: &Answer) -> Error {
    silent("hear from", &format!("{answer:?} out of turn"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(50);

    fn connection() -> (Connection, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Connection::new(ours.into()), theirs)
    }

    #[test]
    fn a_guest_that_does_not_answer_is_not_waited_for() {
        let begun = Instant::now();
        let (mut ours, _theirs) = connection();
        let error = ours.reach(SHORT).unwrap_err().to_string();
        assert_eq!(error, "connect to the guest's agent: it has not answered in time");
        let error = ours.receive::<Answer>(SHORT).unwrap_err().to_string();
        assert_eq!(error, "hear from the guest's agent: it has not answered in time");
        assert!(begun.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a_guest_that_speaks_otherwise_is_told_of_without_its_bytes() {
        let (mut ours, mut theirs) = connection();
        theirs.write_all(&wire::frame(&"\u{1b}[2J").unwrap()).unwrap();
        let error = ours.receive::<Answer>(SHORT).unwrap_err().to_string();
        assert!(error.starts_with("hear from the guest's agent: no message"), "{error}");
        assert!(!error.contains('\u{1b}'), "{error:?}");
        let (mut ours, theirs) = connection();
        drop(theirs);
        assert!(ours.reach(SHORT).is_err());
    }

    #[test]
    fn warnings_are_few_and_printable() {
        let said = vec!["a\nb".to_owned(); 2 * WARNINGS];
        let taken = warnings(said);
        assert_eq!((taken.len(), taken[0].as_str()), (WARNINGS, "a\\nb"));
    }
}
