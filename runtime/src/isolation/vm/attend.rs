//! What the stand-in does once the guest's process is there: waits for its start, then copies streams and passes
//! signals and sizes on until the process has ended.

use std::io::{stderr, stdin, stdout};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use wire::{Answer, Size, StreamName, Word};

use super::session::{self, Connection, Taken};
use super::streams::{Input, Output};
use crate::error::{Call, Context, Result};
use crate::sys;

/// The process and its streams.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) process: Connection,
    pub(crate) streams: Vec<(StreamName, OwnedFd)>,
    /// The standard streams are a terminal.
    pub(crate) terminal: bool,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With this exit code.
    Exited(u8),
    /// The guest is gone, or says what it should not.
    Lost,
}

/// How long the guest may take to send the last output. A caller who does not read is waited for, as the container's
/// own process would be.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Every signal comes through the descriptor from now on.
pub(crate) fn signals() -> Result<SignalFd> {
    const WHAT: &str = "signals";
    let mut all = sys::process::every_signal();
    // A fault of our own must end us.
    for fault in
        [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGSYS, libc::SIGABRT]
    {
        all.remove(nix::sys::signal::Signal::try_from(fault).expect("it is a signal"));
    }
    all.thread_set_mask().call("rt_sigprocmask").context("block", WHAT)?;
    SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .call("signalfd")
        .context("receive", WHAT)
}

/// What came first to a process that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum First {
    /// Somebody who may want it to start.
    Starter,
    /// Its end.
    End(End),
}

/// Waits until `start` is readable, or the process or its guest has ended.
pub(crate) fn wait_for_start(
    attached: &mut Attached,
    signals: &SignalFd,
    start: BorrowedFd<'_>,
) -> First {
    loop {
        let mut polled = [
            PollFd::new(start, PollFlags::POLLIN),
            PollFd::new(attached.process.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut polled, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(_) => return First::End(End::Lost),
        }
        let [starts, speaks, signalled] = polled.map(|fd| fd.any() != Some(false));
        if speaks {
            match attached.process.take() {
                Ok(Taken::Nothing) => {}
                // It was killed.
                Ok(Taken::Message(Answer::Exited { status })) => {
                    return First::End(End::Exited(status));
                }
                _ => return First::End(End::Lost),
            }
        }
        if signalled {
            // Nobody is there yet who could take them.
            while let Ok(Some(_)) = signals.read_signal() {}
        }
        if starts {
            return First::Starter;
        }
    }
}

/// Has the guest execute the program.
pub(crate) fn start(attached: &mut Attached) -> Result<()> {
    attached.process.send(&Word::Start)?;
    match attached.process.receive(session::ANSWER)? {
        Answer::Started => Ok(()),
        Answer::Failed(error) => Err(error.into()),
        other => Err(session::out_of_turn(&other)),
    }
}

/// Copies, and passes on, until the end.
pub(crate) fn attend(attached: Attached, signals: &SignalFd) -> End {
    let Attached { mut process, streams, terminal } = attached;
    let (stdin, stdout, stderr) = (stdin(), stdout(), stderr());
    let mut input = None;
    let mut outputs = Vec::new();
    for (name, stream) in streams {
        match name {
            StreamName::Stdin => input = Some(Input::new(stdin.as_fd(), stream)),
            StreamName::Stdout => outputs.push(Output::new(stream, stdout.as_fd())),
            StreamName::Stderr => outputs.push(Output::new(stream, stderr.as_fd())),
        }
    }
    if terminal {
        let _ = resize(&mut process);
    }
    let mut ended: Option<(End, Instant)> = None;
    loop {
        outputs.retain(|output| !output.is_done());
        if let Some((_, since)) = &mut ended
            && outputs.iter().any(Output::waits_for_reader)
        {
            *since = Instant::now();
        }
        if let Some((end, since)) = ended
            && (outputs.is_empty() || since.elapsed() > LAST_WORDS)
        {
            return end;
        }
        let mut polled = Vec::with_capacity(5);
        polled.push(PollFd::new(signals.as_fd(), PollFlags::POLLIN));
        if ended.is_none() {
            polled.push(PollFd::new(process.as_fd(), PollFlags::POLLIN));
        }
        let first_output = polled.len();
        polled.extend(outputs.iter().filter_map(Output::wanted));
        let after_outputs = polled.len();
        polled.extend(input.as_ref().filter(|_| ended.is_none()).and_then(Input::wanted));
        let patience = if ended.is_none() { PollTimeout::NONE } else { PollTimeout::from(1000u16) };
        match poll(&mut polled, patience) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(_) => return End::Lost,
        }
        let ready: Vec<bool> = polled.iter().map(|fd| fd.any() != Some(false)).collect();
        // Each output that is not done waits for something.
        let served = outputs.iter_mut().zip(&ready[first_output..after_outputs]);
        served.filter(|(_, ready)| **ready).for_each(|(output, _)| output.serve());
        if let Some(input) = &mut input
            && ready.get(after_outputs) == Some(&true)
        {
            input.serve();
        }
        if ready[0] {
            pass_on(signals, &mut process, terminal);
        }
        if ended.is_none() && ready[1] {
            let end = match process.take::<Answer>() {
                Ok(Taken::Nothing) => continue,
                Ok(Taken::Message(Answer::Exited { status })) => End::Exited(status),
                _ => End::Lost,
            };
            ended = Some((end, Instant::now()));
        }
    }
}

/// Signals that were sent to us are meant for the process in the guest.
fn pass_on(signals: &SignalFd, process: &mut Connection, terminal: bool) {
    while let Ok(Some(signal)) = signals.read_signal() {
        let number = signal.ssi_signo as i32;
        // The guest that hears of it no more is found to be gone by its connection.
        let _ = match number {
            libc::SIGCHLD | libc::SIGPIPE => Ok(()),
            libc::SIGWINCH if terminal => resize(process),
            _ => process.send(&Word::Signal(number)),
        };
    }
}

fn resize(process: &mut Connection) -> Result<()> {
    let size = sys::tty::size(stdin().as_fd()).context("read size of", "terminal")?;
    match size {
        (0, 0) => Ok(()),
        (columns, rows) => process.send(&Word::Resize(Size { columns, rows })),
    }
}
