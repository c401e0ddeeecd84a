//! The guest's first process at work: one thread, one loop.
//!
//! It never waits for one connection and never makes a container itself. Each call is answered, and each process
//! kept, by a process that it forks; what these leave behind, it reaps.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::PollFlags;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, pipe2, read, write};
use runtime::{Call as _, Context, Error, ErrorKind, Forked, Parent, Result};
use serde::de::IgnoredAny;
use wire::{Answer, Notice, Opening};

use crate::arrivals::{Arrivals, Complete, DEADLINE, Twice};
use crate::connection::{self, Connection, Received};
use crate::keeper::{Keeper, Request};
use crate::{call, log, vsock};

/// How many connections may be without their process. More of them wait to be accepted.
const MOST: usize = 1024;
/// How many bytes of notices may wait for the host to read them.
const MOST_NOTICES: usize = 64 * 1024;
/// How long nobody is accepted after that has failed.
const PAUSE: Duration = Duration::from_millis(100);
/// How long killed processes may take to end.
const KILL_DEADLINE: Duration = Duration::from_secs(5);

/// Serves the host until it is gone, or a signal says that the machine is to end. Then nothing else runs any
/// more.
///
/// # Errors
/// What the loop itself is made of cannot be had.
pub fn serve(hello: Connection, listener: OwnedFd) -> Result<()> {
    let served = Server::new(hello, listener).and_then(|mut server| server.run());
    end_everything();
    served
}

/// A connection's owner before it is known to be of a process.
struct Candidate {
    connection: Connection,
    deadline: Instant,
}

struct Server {
    hello: Connection,
    /// Notices that the host has not read.
    told: Vec<u8>,
    listener: OwnedFd,
    accept_after: Option<Instant>,
    signals: SignalFd,
    /// Where keepers' notices come out, and where they go in.
    notices: (OwnedFd, OwnedFd),
    /// Those that have not said what they are.
    candidates: Vec<Candidate>,
    arrivals: Arrivals<(Connection, Request), OwnedFd>,
}

/// Who a poll entry belongs to.
#[derive(Clone, Copy)]
enum Source {
    Signals,
    Hello,
    Notices,
    Listener,
    Candidate(usize),
}

/// Whether to go on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    GoOn,
    End,
}

/// Whether a candidate has said what it is, and is none any more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Heard {
    All,
    NotAll,
}

impl Server {
    fn new(hello: Connection, listener: OwnedFd) -> Result<Self> {
        runtime::keep_child_statuses()?;
        let signals: SigSet =
            [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
        signals.thread_block().call("sigprocmask").context("block", "signals")?;
        let signals =
            SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
                .call("signalfd")
                .context("receive", "signals")?;
        let notices = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
            .call("pipe2")
            .context("make", "the way for notices")?;
        connection::set_nonblocking(listener.as_fd()).context("set up", "the listening socket")?;
        let told = wire::frame(&Notice::Serving).expect("it is short");
        let (candidates, arrivals) = (Vec::new(), Arrivals::new());
        let accept_after = None;
        Ok(Self { hello, told, listener, accept_after, signals, notices, candidates, arrivals })
    }

    fn run(&mut self) -> Result<()> {
        loop {
            let now = Instant::now();
            self.expire(now);
            let mut heard = Vec::new();
            for (source, ready) in self.wait(now)? {
                match source {
                    Source::Signals if self.take_signals()? == Then::End => return Ok(()),
                    Source::Hello if self.serve_hello(ready) == Then::End => return Ok(()),
                    Source::Signals | Source::Hello => {}
                    Source::Notices => self.take_notices(),
                    Source::Listener => self.accept(),
                    Source::Candidate(index) => heard.push(index),
                }
            }
            // In the order in which they came: of two that want one place the first gets it.
            let mut gone = 0;
            for index in heard {
                if self.hear(index - gone) == Heard::All {
                    gone += 1;
                }
            }
        }
    }

    fn waiting(&self) -> usize {
        self.candidates.len() + self.arrivals.len()
    }

    fn wait(&self, now: Instant) -> Result<Vec<(Source, PollFlags)>> {
        const IN: PollFlags = PollFlags::POLLIN;
        let mut hello = IN;
        hello.set(PollFlags::POLLOUT, !self.told.is_empty());
        let mut wanted: Vec<(Source, (BorrowedFd<'_>, PollFlags))> = vec![
            (Source::Signals, (self.signals.as_fd(), IN)),
            (Source::Hello, (self.hello.as_fd(), hello)),
        ];
        if self.told.len() < MOST_NOTICES {
            wanted.push((Source::Notices, (self.notices.0.as_fd(), IN)));
        }
        let paused = self.accept_after.filter(|end| *end > now);
        if paused.is_none() && self.waiting() < MOST {
            wanted.push((Source::Listener, (self.listener.as_fd(), IN)));
        }
        for (index, candidate) in self.candidates.iter().enumerate() {
            wanted.push((Source::Candidate(index), (candidate.connection.as_fd(), IN)));
        }
        let deadlines = self.candidates.iter().map(|candidate| candidate.deadline);
        let end = deadlines.chain(self.arrivals.next_deadline()).chain(paused).min();
        let polled: Vec<_> = wanted.iter().map(|&(_, polled)| polled).collect();
        let ready = connection::wait(&polled, end)
            .map_err(|failure| Error::system("wait for", "the host", failure))?;
        let ready = wanted.iter().map(|&(source, _)| source).zip(ready);
        Ok(ready.filter(|(_, ready)| !ready.is_empty()).collect())
    }

    fn take_signals(&mut self) -> Result<Then> {
        while let Some(info) =
            self.signals.read_signal().call("read").context("receive", "signals")?
        {
            if info.ssi_signo != Signal::SIGCHLD as u32 {
                return Ok(Then::End);
            }
        }
        // One signal may stand for many.
        while runtime::reap_child()?.is_some() {}
        Ok(Then::GoOn)
    }

    fn serve_hello(&mut self, ready: PollFlags) -> Then {
        if ready.contains(PollFlags::POLLOUT) {
            match write(&self.hello, &self.told) {
                Ok(length) => drop(self.told.drain(..length)),
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(_) => return Then::End,
            }
        }
        if ready.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
            // It has nothing more to say: whatever comes is the end.
            match self.hello.receive::<IgnoredAny>() {
                Ok(Received::Nothing) => {}
                Ok(Received::Closed | Received::Message(_)) | Err(_) => return Then::End,
            }
        }
        Then::GoOn
    }

    fn take_notices(&mut self) {
        let mut chunk = [0; 4096];
        if let Ok(length) = read(&self.notices.0, &mut chunk) {
            self.told.extend_from_slice(&chunk[..length]);
        }
    }

    fn accept(&mut self) {
        while self.waiting() < MOST {
            let accepted = match runtime::accept(self.listener.as_fd()) {
                Ok(fd) if !vsock::is_from_host(fd.as_fd()) => continue,
                Ok(fd) => Connection::new(fd),
                Err(failure) if failure.errno == Errno::EAGAIN => return,
                Err(failure) if failure.errno == Errno::ECONNABORTED => continue,
                Err(failure) => Err(Error::system("accept", "a connection", failure)),
            };
            match accepted {
                Ok(connection) => {
                    let deadline = Instant::now() + DEADLINE;
                    self.candidates.push(Candidate { connection, deadline });
                }
                Err(error) => {
                    log::say(&error.to_string());
                    self.accept_after = Some(Instant::now() + PAUSE);
                    return;
                }
            }
        }
    }

    fn hear(&mut self, index: usize) -> Heard {
        match self.candidates[index].connection.receive() {
            Ok(Received::Nothing) => return Heard::NotAll,
            Ok(Received::Closed) => drop(self.candidates.remove(index)),
            Ok(Received::Message(opening)) => {
                let connection = self.candidates.remove(index).connection;
                self.open(opening, connection);
            }
            Err(broken) => {
                let connection = self.candidates.remove(index).connection;
                let error = Error::new(ErrorKind::Invalid, "hear from", "the host", broken.0);
                refuse(&connection, &error);
            }
        }
        Heard::All
    }

    fn open(&mut self, opening: Opening, connection: Connection) {
        let now = Instant::now();
        let (token, streams, request) = match opening {
            Opening::Call(call) => return answer(call, &connection),
            Opening::Stream(token, name) => {
                let stream = connection.into_fd();
                // A second one is closed.
                if let Ok(Some(complete)) = self.arrivals.stream(token, name, stream, now) {
                    self.keep(complete);
                }
                return;
            }
            Opening::First(first) => (first.token.clone(), first.streams, Request::First(first)),
            Opening::Exec(exec) => (exec.token.clone(), exec.streams, Request::Exec(exec)),
        };
        match self.arrivals.process(token, streams, (connection, request), now) {
            Ok(Some(complete)) => self.keep(complete),
            Ok(None) => {}
            Err(Twice((connection, _))) => {
                let reason = "another process waits under its token";
                let error = Error::new(ErrorKind::Invalid, "make", "a process", reason);
                refuse(&connection, &error);
            }
        }
    }

    /// Forks the keeper of a process.
    fn keep(&self, complete: Complete<(Connection, Request), OwnedFd>) {
        let Complete { process: (connection, request), streams } = complete;
        let notices = self.notices.1.as_fd();
        match runtime::fork(Parent::Caller) {
            Ok(Forked::Child) => {
                let mut kept = vec![connection.as_fd(), notices];
                kept.extend(streams.iter().flatten().map(AsFd::as_fd));
                let alone = alone(c"agent-keeper", &kept);
                let notices = notices.try_clone_to_owned().call("fcntl").context("keep", "a pipe");
                match alone.and(notices) {
                    Ok(notices) => Keeper { connection, request, streams, notices }.run(),
                    Err(error) => {
                        refuse(&connection, &error);
                        runtime::leave(1)
                    }
                }
            }
            Ok(Forked::Parent(..)) => {}
            Err(error) => refuse(&connection, &error),
        }
    }

    fn expire(&mut self, now: Instant) {
        self.candidates.retain(|candidate| candidate.deadline > now);
        for (connection, _) in self.arrivals.expire(now) {
            let reason = "not all of its streams have come";
            refuse(&connection, &Error::new(ErrorKind::System, "make", "a process", reason));
        }
    }
}

/// Forks the process that answers a call.
fn answer(question: wire::Call, connection: &Connection) {
    match runtime::fork(Parent::Caller) {
        Ok(Forked::Child) => match alone(c"agent-call", &[connection.as_fd()]) {
            Ok(()) => call::run(question, connection),
            Err(error) => {
                refuse(connection, &error);
                runtime::leave(1)
            }
        },
        Ok(Forked::Parent(..)) => {}
        Err(error) => refuse(connection, &error),
    }
}

/// In a forked child: closes what is the server's, above all other connections.
fn alone(name: &std::ffi::CStr, kept: &[BorrowedFd<'_>]) -> Result<()> {
    // For whoever looks at the guest's processes.
    let _ = nix::sys::prctl::set_name(name);
    runtime::close_all_but(kept)
}

fn refuse(connection: &Connection, error: &Error) {
    // Whoever is gone needs no answer.
    let _ = connection.send(&Answer::Failed(error.into()));
}

/// Kills every process but this one, and waits for them.
fn end_everything() {
    let end = Instant::now() + KILL_DEADLINE;
    // ESRCH: there is nobody else.
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
            Err(Errno::ECHILD) => return,
            Ok(nix::sys::wait::WaitStatus::StillAlive) => {
                if Instant::now() >= end {
                    return log::say("processes did not end within 5 s of SIGKILL");
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            _ => {}
        }
    }
}
