//! The program `criu` as a worker (`criu swrk 3`), and the conversation with it.
//!
//! ```text
//!   we                    criu
//!   VERSION      ------>
//!                <------  VERSION
//!   DUMP         ------>
//!                <------  NOTIFY script   any number of these, each answered
//!   NOTIFY       ------>
//!                <------  DUMP            success, or errno and a log file
//! ```
//!
//! Every wait has a deadline, and ends when the worker ends. It is killed when this value is dropped, unless
//! it has ended by itself; a process that it was tracing then goes on.
//!
//! The worker makes the socket and sends us the other end. CRIU opens the directories that a request names by
//! numbers through `/proc/PID/fd` of the process that made it, and where the worker has a mount namespace of its
//! own, they have to be opened in that: it mounts in its work directory. So all numbers are the worker's own.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use prost::Message;

use super::rpc::{Request, Response, kind};
use crate::cgroup::Cgroup;
use crate::error::{Call, Context, Error, ErrorKind, Failure, Result, quote};
use crate::messages::send_message;
use crate::options::Parent;
use crate::process::channel::{Channel, FromChild};
use crate::sys;
use crate::sys::clone::{Cloned, SingleThreaded};

/// Number of the socket in the worker.
const SOCKET: i32 = 3;
/// Number of the first of [`Start::inherited`] in the worker.
pub(super) const INHERITED: i32 = SOCKET + 1;
/// How long the worker may take to execute, and to answer what needs no work.
const ANSWER: Duration = Duration::from_secs(30);
/// How long it may be silent while it works: the memory of a large container has to be written.
const WORK: Duration = Duration::from_secs(600);
/// How long it may wait for another machine, with lazy pages or a page server.
const OTHERS: Duration = Duration::from_secs(3600);
/// How long it has to end by itself after its last answer.
const END: Duration = Duration::from_secs(5);
/// Longest answer; they are short.
const LONGEST: usize = 64 * 1024;
/// CRIU starts `tar`, `ip` and `iptables-restore` by name.
const ENVIRONMENT: &[&std::ffi::CStr] =
    &[c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"];

/// Where the worker is started.
pub(super) struct Start<'a> {
    /// The program, an absolute path.
    pub program: &'a Path,
    /// What it works in: restored processes are born there.
    pub cgroup: Option<&'a Cgroup>,
    /// Whose child it is, and with `rst_sibling` the restored process too.
    pub parent: Parent,
    /// Namespaces to make around it.
    pub namespaces: i32,
    /// Whether it has the caller's standard streams: a terminal that processes were started from.
    pub streams: bool,
    /// Descriptors that it has as numbers from [`INHERITED`] on.
    pub inherited: &'a [BorrowedFd<'a>],
    /// What is done in the new process first; what it opens follows the inherited ones.
    pub surroundings: &'a dyn Fn() -> Result<Vec<OwnedFd>>,
}

/// What is done on a notification: the script's name, the process, and a descriptor that came along.
pub(super) type Notified<'a> = &'a mut dyn FnMut(&str, i32, Option<OwnedFd>) -> Result<()>;

/// A running worker.
#[derive(Debug)]
pub(super) struct Swrk {
    // Closed first: its end is the worker's sign to end.
    socket: OwnedFd,
    process: Process,
}

/// The worker's process, which ends with this value.
#[derive(Debug)]
struct Process {
    pid: i32,
    pidfd: OwnedFd,
    parent: Parent,
}

impl Swrk {
    /// Starts a worker.
    ///
    /// # Errors
    /// What the new process could not do, executing the program among it.
    pub(super) fn start(start: &Start<'_>) -> Result<Self> {
        let what = format!("criu {}", quote(start.program));
        let (words, theirs_too) = Channel::pair()?;
        let child_words = Channel::from_socket(above(theirs_too.as_fd()).context("start", &what)?);
        drop(theirs_too);
        let program = CString::new(start.program.as_os_str().as_bytes())
            .map_err(|_| Error::invalid("--criu", "has a NUL byte"))?;
        let proof = SingleThreaded::check().context("start", &what)?;
        let target = start.cgroup.and_then(Cgroup::clone_target);
        let flags = start.namespaces as u64;
        match sys::clone::clone3(&proof, flags, start.parent, target).context("start", &what)? {
            Cloned::Child(_) => {
                let error = become_worker(start, &program, &child_words);
                // Nobody to tell means nobody who waits.
                let _ = child_words.send(&FromChild::Failed(error), None);
                sys::clone::exit_now(1)
            }
            Cloned::Parent { pid, pidfd } => {
                drop(child_words);
                let process = Process { pid, pidfd, parent: start.parent };
                let socket = executed(&words, &what)?;
                Ok(Self { socket, process })
            }
        }
    }

    /// Asks what is answered at once, and keeps the worker for more.
    pub(super) fn ask(&self, request: Request) -> Result<Response> {
        self.send(&Request { keep_open: Some(true), ..request })?;
        Ok(self.receive(Instant::now() + ANSWER, ANSWER)?.0)
    }

    /// Has the worker do `request`, with notifications, to its last answer. `others` is set when it waits
    /// for another machine. A notification whose error comes back makes CRIU give up.
    pub(super) fn work(
        &self,
        request: &Request,
        others: bool,
        notified: Notified<'_>,
    ) -> Result<Response> {
        self.send(request)?;
        let limit = if others { OTHERS } else { WORK };
        let mut failed = None;
        loop {
            let received = self.receive(Instant::now() + limit, limit);
            // Our own failure is why the rest failed.
            let (response, fd) = match (received, failed) {
                (Err(_), Some(first)) => return Err(first),
                (received, first) => {
                    failed = first;
                    received?
                }
            };
            if response.kind != kind::NOTIFY {
                return failed.map_or(Ok(response), Err);
            }
            let notify = response.notify.unwrap_or_default();
            let result = notified(notify.script(), notify.pid(), fd);
            let answer = Request {
                kind: kind::NOTIFY,
                notify_success: Some(result.is_ok()),
                ..Request::default()
            };
            failed = failed.or(result.err());
            match (self.send(&answer), failed.take()) {
                (Err(_), Some(first)) => return Err(first),
                (sent, first) => {
                    failed = first;
                    sent?;
                }
            }
        }
    }

    fn send(&self, request: &Request) -> Result<()> {
        let sent = send_message(self.socket.as_fd(), &request.encode_to_vec(), &[]);
        sent.map(drop).context("send", "a request to CRIU")
    }

    fn receive(&self, until: Instant, limit: Duration) -> Result<(Response, Option<OwnedFd>)> {
        const WHAT: &str = "the answer of CRIU";
        self.wait(until, limit)?;
        let mut bytes = vec![0; LONGEST];
        let (length, fds) =
            sys::fd::receive(self.socket.as_fd(), &mut bytes).context("receive", WHAT)?;
        if length == 0 {
            return Err(Error::new(ErrorKind::System, "receive", WHAT, "CRIU ended without one"));
        }
        let response = Response::decode(&bytes[..length])
            .map_err(|e| Error::new(ErrorKind::System, "receive", WHAT, e.to_string()))?;
        Ok((response, fds.into_iter().next()))
    }

    /// Waits until there is a message, or the end of the connection.
    fn wait(&self, until: Instant, limit: Duration) -> Result<()> {
        const WHAT: &str = "CRIU";
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut polled = [
                PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.process.pidfd.as_fd(), PollFlags::POLLIN),
            ];
            match nix::poll::poll(&mut polled, timeout) {
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno).call("poll").context("wait for", WHAT),
                Ok(0) => return Err(late("wait for", WHAT, limit)),
                Ok(_) if polled[0].any() == Some(true) => return Ok(()),
                // A process that it has forked may hold the other end of the socket.
                Ok(_) => {
                    return Err(Error::new(ErrorKind::System, "wait for", WHAT, "it has ended"));
                }
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut polled = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        let mut ended = |limit: Duration| {
            let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
            nix::poll::poll(&mut polled, timeout).is_ok_and(|ready| ready > 0)
        };
        // Its last answer comes a moment before its end.
        if !ended(END) {
            let _ = sys::pidfd::send_signal(self.pidfd.as_fd(), libc::SIGKILL);
            ended(END);
        }
        if self.parent == Parent::Caller {
            let _ = waitpid(Pid::from_raw(self.pid), Some(WaitPidFlag::WNOHANG));
        }
    }
}

fn late(operation: &str, what: &str, limit: Duration) -> Error {
    let reason = format!("no answer within {} s", limit.as_secs());
    Error::new(ErrorKind::System, operation, what, reason)
}

/// Waits until the program runs, and returns the socket to speak with it. The channel is close-on-exec: its
/// end says that.
fn executed(words: &Channel, what: &str) -> Result<OwnedFd> {
    let milliseconds = u16::try_from(ANSWER.as_millis()).unwrap_or(u16::MAX);
    let mut socket = None;
    loop {
        if !words.wait(milliseconds).context("start", what)? {
            return Err(late("start", what, ANSWER));
        }
        match (words.receive::<FromChild>().context("start", what)?, socket.take()) {
            (Some((FromChild::Failed(error), _)), _) => return Err(error),
            (Some((_, sent)), _) => socket = sent,
            (None, Some(socket)) => return Ok(socket),
            (None, None) => {
                return Err(Error::new(ErrorKind::System, "start", what, "it has ended"));
            }
        }
    }
}

/// The new process: makes the surroundings and executes the program. Returns why it could not.
fn become_worker(start: &Start<'_>, program: &CString, words: &Channel) -> Error {
    let prepare = || -> Result<()> {
        if let Some(cgroup) = start.cgroup {
            cgroup.join()?;
        }
        let opened = (start.surroundings)()?;
        sys::process::reset_signals().context("start", "criu")?;
        arrange(start, opened, words).context("pass on", "descriptors to criu")
    };
    if let Err(error) = prepare() {
        return error;
    }
    let arguments = [c"criu", c"swrk", c"3"].map(std::ffi::CStr::to_owned);
    let environment: Vec<CString> = ENVIRONMENT.iter().map(|&e| e.to_owned()).collect();
    let failure = sys::process::execve(program, &arguments, &environment);
    Error::system("execute", quote(start.program), failure)
}

/// Gives descriptors their numbers, and closes all others but the channel.
fn arrange(start: &Start<'_>, opened: Vec<OwnedFd>, words: &Channel) -> Result<(), Failure> {
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .call("socketpair")?;
    words.send(&FromChild::Ready, Some(theirs.as_fd()))?;
    let mut wanted = vec![ours.as_fd()];
    wanted.extend_from_slice(start.inherited);
    wanted.extend(opened.iter().map(AsFd::as_fd));
    let copies: Vec<OwnedFd> = wanted.into_iter().map(above).collect::<Result<_, _>>()?;
    if !start.streams {
        let null = nix::fcntl::open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty());
        let null = above(null.call("open")?.as_fd())?;
        (0..SOCKET).try_for_each(|number| sys::fd::place(null.as_fd(), number))?;
    }
    for (number, copy) in (SOCKET..).zip(&copies) {
        sys::fd::place(copy.as_fd(), number)?;
    }
    let closed = words.alone(copies.len() as u32);
    // Their numbers are closed, or another's by now: nothing may close them once more.
    std::mem::forget((ours, theirs, copies, opened));
    closed
}

/// A copy with a number above all that are given out here.
fn above(fd: BorrowedFd<'_>) -> Result<OwnedFd, Failure> {
    const HIGH: i32 = 64;
    sys::fd::copy_above(fd.as_raw_fd(), HIGH)
}
