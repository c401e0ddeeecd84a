//! The caller's side of a container in the foreground.
//!
//! One loop over a signalfd, the process' pidfd and, with a terminal, the pty's master and the
//! caller's standard streams. Signals are blocked before the container is made, so that none is lost
//! between; the library gives the container its own mask. What may not happen here: a signal that
//! waits behind a slow reader, a terminal left in raw mode, or last words of the program that are
//! not shown. Writes go to streams that poll says are ready, and at most `PIPE_BUF` bytes at a time:
//! the streams are the caller's, and setting `O_NONBLOCK` would change them for every other user.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{read, write};
use runtime::{Call, Context, Process, Terminal};

use crate::notify::Proxy;
use crate::program::Failure;

/// A pipe that is ready takes this much without blocking, see pipe(7).
const CHUNK: usize = nix::libc::PIPE_BUF;
/// More than a pty holds (64 KiB and a line): what is read beyond it after the program's end comes
/// from somebody else who still has the terminal open, and has no end.
const LAST_WORDS: usize = 128 * 1024;

/// Signals and orphans are taken care of from the moment this exists.
#[derive(Debug)]
pub struct Foreground {
    signals: SignalFd,
}

impl Foreground {
    /// Blocks signals, and adopts orphans of the container's processes when `subreaper` is set.
    /// Must come before the container.
    pub fn prepare(subreaper: bool) -> Result<Self, Failure> {
        runtime::keep_child_statuses()?;
        let mut signals = SigSet::all();
        // An ignored SIGPIPE is how a closed reader shows as EPIPE; SIGURG is noise.
        signals.remove(Signal::SIGPIPE);
        signals.remove(Signal::SIGURG);
        signals.thread_block().call("sigprocmask").context("block", "signals")?;
        let signals =
            SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
                .call("signalfd")
                .context("receive", "signals")?;
        if subreaper {
            nix::sys::prctl::set_child_subreaper(true)
                .call("prctl(PR_SET_CHILD_SUBREAPER)")
                .context("adopt", "orphans")?;
        }
        Ok(Self { signals })
    }

    /// Relays signals, the terminal and notifications until `process` has ended; returns its exit
    /// code, 128 + N when signal N ended it. `confine` is called once all that it takes is open.
    pub fn relay(
        &self,
        mut process: Process,
        proxy: Option<Proxy>,
        confine: impl FnOnce(),
    ) -> Result<u8, Failure> {
        let screen = process.terminal.take().map(Screen::new).transpose()?;
        confine();
        Relay { signals: &self.signals, process, proxy, screen, ended: None, hurry: false }.run()
    }
}

struct Relay<'a> {
    signals: &'a SignalFd,
    process: Process,
    proxy: Option<Proxy>,
    screen: Option<Screen>,
    ended: Option<u8>,
    /// A signal arrived after the program's end: nobody waits for the rest of its output.
    hurry: bool,
}

/// Who a poll entry belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Signals,
    Pidfd,
    Notify,
    Master,
    Input,
    Output,
}

impl Relay<'_> {
    fn run(mut self) -> Result<u8, Failure> {
        loop {
            if let Some(code) = self.ended {
                let screen = self.screen.as_mut();
                if self.hurry || screen.is_none_or(Screen::drained) {
                    return Ok(code);
                }
            }
            for (source, ready) in self.wait()? {
                self.serve(source, ready)?;
            }
        }
    }

    fn wait(&self) -> Result<Vec<(Source, PollFlags)>, Failure> {
        let mut wanted = vec![(Source::Signals, self.signals.as_fd(), PollFlags::POLLIN)];
        if self.ended.is_none() {
            wanted.push((Source::Pidfd, self.process.pidfd.as_fd(), PollFlags::POLLIN));
            wanted.extend(
                self.proxy.as_ref().map(|p| (Source::Notify, p.as_fd(), PollFlags::POLLIN)),
            );
        }
        if let Some(screen) = &self.screen {
            screen.wanted(self.ended.is_none(), &mut wanted);
        }
        let mut fds: Vec<PollFd<'_>> =
            wanted.iter().map(|&(_, fd, events)| PollFd::new(fd, events)).collect();
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => return Ok(Vec::new()),
            result => result.call("poll").context("wait for", "container")?,
        };
        let ready = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        Ok(wanted
            .iter()
            .map(|&(source, ..)| source)
            .zip(ready)
            .filter(|(_, ready)| !ready.is_empty())
            .collect())
    }

    fn serve(&mut self, source: Source, ready: PollFlags) -> Result<(), Failure> {
        match (source, &mut self.screen) {
            (Source::Signals, _) => self.take_signals()?,
            (Source::Pidfd, _) => {
                self.reap()?;
                if self.ended.is_none() {
                    return Err(Failure::message("wait for container: its exit status is lost"));
                }
            }
            (Source::Notify, _) => {
                if let Some(proxy) = &self.proxy
                    && proxy.forward(std::process::id())?
                {
                    self.proxy = None;
                }
            }
            (Source::Master, Some(screen)) => screen.serve_master(ready, self.ended.is_some()),
            (Source::Input, Some(screen)) => screen.read_input(),
            (Source::Output, Some(screen)) => screen.write_output(),
            (Source::Master | Source::Input | Source::Output, None) => {}
        }
        Ok(())
    }

    fn take_signals(&mut self) -> Result<(), Failure> {
        while let Some(info) =
            self.signals.read_signal().call("read").context("receive", "signals")?
        {
            let signal = info.ssi_signo as i32;
            match (Signal::try_from(signal), &self.screen) {
                (Ok(Signal::SIGCHLD), _) => self.reap()?,
                (Ok(Signal::SIGWINCH), Some(screen)) => screen.resize(),
                (Ok(Signal::SIGWINCH), None) => {}
                _ if self.ended.is_some() => self.hurry = true,
                (known, screen) => {
                    if known == Ok(Signal::SIGCONT)
                        && let Some(raw) = screen.as_ref().and_then(|s| s.raw.as_ref())
                    {
                        // A terminal that has hung up ends the program by itself.
                        let _ = raw.reapply();
                    }
                    // A process that has just ended needs no signal.
                    let _ = self.process.signal(signal);
                }
            }
        }
        Ok(())
    }

    fn reap(&mut self) -> Result<(), Failure> {
        while let Some((pid, code)) = runtime::reap_child()? {
            if pid == self.process.pid {
                self.ended = Some(code);
            }
        }
        Ok(())
    }
}

/// The container's terminal between the caller's standard streams.
struct Screen {
    /// `None` after everybody else has closed it.
    master: Option<OwnedFd>,
    /// Bytes from standard input that the master has not taken; `None` after the end of input.
    input: Vec<u8>,
    input_open: bool,
    /// Bytes of the program that standard output has not taken.
    output: Vec<u8>,
    output_open: bool,
    /// How much may still be read after the program's end.
    budget: usize,
    /// The caller's terminal, when there is one.
    raw: Option<Terminal>,
}

impl Screen {
    fn new(master: OwnedFd) -> Result<Self, Failure> {
        let flags = fcntl(&master, FcntlArg::F_GETFL).call("fcntl").context("read", "terminal")?;
        let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
        fcntl(&master, FcntlArg::F_SETFL(flags)).call("fcntl").context("set up", "terminal")?;
        let raw = caller_terminal().map(|tty| Terminal::raw(tty.as_fd())).transpose()?;
        let screen = Self {
            master: Some(master),
            input: Vec::new(),
            input_open: true,
            output: Vec::new(),
            output_open: true,
            budget: LAST_WORDS,
            raw,
        };
        screen.resize();
        Ok(screen)
    }

    /// A caller without a window has no size to hand on.
    fn resize(&self) {
        if let (Some(raw), Some(master)) = (&self.raw, &self.master) {
            let _ = runtime::copy_size(raw.as_fd(), master.as_fd());
        }
    }

    /// What to wait for: a side is read only when the other has taken what was read before.
    fn wanted<'a>(&'a self, alive: bool, list: &mut Vec<(Source, BorrowedFd<'a>, PollFlags)>) {
        if let Some(master) = &self.master {
            let mut events = PollFlags::empty();
            events.set(PollFlags::POLLIN, self.output.is_empty());
            events.set(PollFlags::POLLOUT, alive && !self.input.is_empty());
            // A hang-up cannot be masked: waiting for nothing would spin on it.
            if !events.is_empty() {
                list.push((Source::Master, master.as_fd(), events));
            }
            if alive && self.input_open && self.input.is_empty() {
                list.push((Source::Input, stdin(), PollFlags::POLLIN));
            }
        }
        if !self.output.is_empty() {
            list.push((Source::Output, stdout(), PollFlags::POLLOUT));
        }
    }

    fn serve_master(&mut self, ready: PollFlags, last: bool) {
        if !self.input.is_empty() && ready.contains(PollFlags::POLLOUT) {
            self.write_input();
        }
        if self.output.is_empty() && ready.intersects(PollFlags::POLLIN | PollFlags::POLLHUP) {
            self.read_output(last);
        }
    }

    /// Reads what is there. After the end of the program the first "nothing yet" is the end.
    fn read_output(&mut self, last: bool) {
        let Some(master) = &self.master else { return };
        let mut chunk = [0; CHUNK];
        let done = match read(master, &mut chunk) {
            Ok(0) => true,
            Ok(n) => {
                if self.output_open {
                    self.output.extend_from_slice(&chunk[..n]);
                }
                self.budget = if last { self.budget.saturating_sub(n) } else { LAST_WORDS };
                self.budget == 0
            }
            Err(Errno::EINTR) => false,
            Err(Errno::EAGAIN) => last,
            // EIO: nobody has the other end open any more, and everything written has been read.
            Err(_) => true,
        };
        if done {
            self.master = None;
        }
    }

    fn write_input(&mut self) {
        let Some(master) = &self.master else { return };
        match write(master, &self.input) {
            Ok(n) => drop(self.input.drain(..n)),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => self.input.clear(),
        }
    }

    /// The end of input ends nothing else: the program may go on to write.
    fn read_input(&mut self) {
        let mut chunk = [0; CHUNK];
        match read(stdin(), &mut chunk) {
            Ok(0) => self.input_open = false,
            Ok(n) => self.input.extend_from_slice(&chunk[..n]),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            // EIO: the caller is in the background and may not read the terminal.
            Err(_) => self.input_open = false,
        }
    }

    /// A reader that has gone away gets no more, and the program is not to block for it.
    fn write_output(&mut self) {
        match write(stdout(), &self.output) {
            Ok(n) => drop(self.output.drain(..n)),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => {
                self.output.clear();
                self.output_open = false;
            }
        }
    }

    /// Takes what is left after the end of the program; whether everything has been shown.
    fn drained(&mut self) -> bool {
        while self.output.is_empty() && self.master.is_some() {
            self.read_output(true);
        }
        self.output.is_empty()
    }
}

fn stdin() -> BorrowedFd<'static> {
    // The descriptor of a handle that is never closed.
    static STDIN: std::sync::LazyLock<io::Stdin> = std::sync::LazyLock::new(io::stdin);
    STDIN.as_fd()
}

fn stdout() -> BorrowedFd<'static> {
    static STDOUT: std::sync::LazyLock<io::Stdout> = std::sync::LazyLock::new(io::stdout);
    STDOUT.as_fd()
}

/// The terminal that the caller sits at, from the stream that is most often left alone.
fn caller_terminal() -> Option<OwnedFd> {
    let is_terminal = |fd: BorrowedFd<'_>| nix::unistd::isatty(fd).unwrap_or(false);
    let stderr = io::stderr();
    [stdin(), stdout(), stderr.as_fd()]
        .into_iter()
        .find(|&fd| is_terminal(fd))
        .and_then(|fd| fd.try_clone_to_owned().ok())
        .or_else(|| File::options().read(true).write(true).open("/dev/tty").ok().map(OwnedFd::from))
}

/// The rule for terminals that runc's callers know: a terminal needs somebody who holds its other
/// end, and a socket needs a terminal to send.
pub fn check_terminal(detach: bool, terminal: bool, socket: bool) -> Result<(), Failure> {
    let complaint = match (detach, terminal, socket) {
        (true, true, false) => {
            "cannot allocate tty if bulkhead will detach without setting console socket"
        }
        (false, _, true) | (_, false, true) => {
            "cannot use console socket if bulkhead will not detach or allocate tty"
        }
        _ => return Ok(()),
    };
    Err(Failure::message(complaint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_for_terminals() {
        for (detach, terminal, socket, fine) in [
            (false, false, false, true),
            (false, true, false, true),
            (true, false, false, true),
            (true, true, true, true),
            (true, true, false, false),
            (true, false, true, false),
            (false, true, true, false),
            (false, false, true, false),
        ] {
            let result = check_terminal(detach, terminal, socket);
            assert_eq!(result.is_ok(), fine, "{detach} {terminal} {socket}");
        }
    }
}
