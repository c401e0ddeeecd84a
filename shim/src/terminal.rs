//! Relays a container's terminal between its FIFOs and its master end.
//!
//! One thread a terminal, which ends with it; a pod without terminals has none. It never blocks on one
//! side: a side is read only when the other has taken what was read before, so a client that does not
//! read stops the program, as a slow terminal does, and nobody else.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;

use crossbeam_channel::{Receiver, bounded};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{pipe2, read, write};
use runtime::{Call, Context};

use crate::stdio::Relayed;

/// What is read at once.
const CHUNK: usize = 8 * 1024;
/// The thread needs little more than a chunk each way.
const STACK: usize = 64 * 1024;
/// How long a client that does not read may keep the last output from being passed on.
const LAST_WORDS: u16 = 10_000; // milliseconds

/// A terminal that is relayed.
#[derive(Debug)]
pub struct Terminal {
    master: OwnedFd,
    /// Closed when the process has ended.
    process: Option<OwnedFd>,
    /// Disconnected when everything was passed on.
    done: Receiver<()>,
}

impl Terminal {
    /// Begins to relay.
    ///
    /// # Errors
    /// A descriptor or a thread cannot be had.
    pub fn relay(master: OwnedFd, fifos: Relayed) -> runtime::Result<Self> {
        const TERMINAL: &str = "the terminal";
        let ends = [Some(&master), fifos.output.as_ref(), fifos.input.as_ref()];
        for fd in ends.into_iter().flatten() {
            let flags = fcntl(fd, FcntlArg::F_GETFL).call("fcntl").context("set up", TERMINAL)?;
            let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
            fcntl(fd, FcntlArg::F_SETFL(flags)).call("fcntl").context("set up", TERMINAL)?;
        }
        let copy = master.try_clone().call("dup").context("set up", TERMINAL)?;
        let pipe = pipe2(OFlag::O_CLOEXEC).call("pipe2").context("set up", TERMINAL)?;
        let (ended, process) = pipe;
        let (sender, done) = bounded::<()>(0);
        let Relayed { input, output } = fifos;
        let relay = Relay { master: copy, ended, input, output, typed: vec![], shown: vec![] };
        let thread = thread::Builder::new().name("terminal".to_owned()).stack_size(STACK);
        let spawned = thread.spawn(move || {
            relay.run();
            drop(sender);
        });
        spawned.call("clone").context("relay", TERMINAL)?;
        Ok(Self { master, process: Some(process), done })
    }

    /// The process has ended: what it has written is passed on, and no more.
    pub fn end(&mut self) {
        self.process = None;
    }

    /// Disconnected when all output has been passed on.
    pub fn done(&self) -> &Receiver<()> {
        &self.done
    }

    /// Changes the size of the window.
    ///
    /// # Errors
    /// Those of the ioctl.
    pub fn resize(&self, columns: u16, rows: u16) -> runtime::Result<()> {
        runtime::set_size(self.master.as_fd(), columns, rows)
    }
}

struct Relay {
    master: OwnedFd,
    /// At its end when the process is.
    ended: OwnedFd,
    input: Option<OwnedFd>,
    output: Option<OwnedFd>,
    /// Read from the input and not yet taken by the terminal.
    typed: Vec<u8>,
    /// Read from the terminal and not yet taken by the output.
    shown: Vec<u8>,
}

/// Whether there is anything more to come from a side.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Open,
    Ended,
}

impl Relay {
    fn run(mut self) {
        while self.wait() == Side::Open {}
        // Everything that the program wrote is in the terminal's buffer: read(2) on a master waits for
        // the kernel's worker that fills it.
        loop {
            if !self.shown.is_empty() {
                let Some(output) = &self.output else { return };
                let mut polled = [PollFd::new(output.as_fd(), PollFlags::POLLOUT)];
                if !matches!(poll(&mut polled, LAST_WORDS), Ok(1)) {
                    return;
                }
                self.show();
            } else if self.read_master() == Side::Ended || self.shown.is_empty() {
                return;
            }
        }
    }

    /// Waits for one side and serves it.
    fn wait(&mut self) -> Side {
        let mut wanted = vec![(self.ended.as_fd(), PollFlags::POLLIN)];
        let mut master = PollFlags::empty();
        master.set(PollFlags::POLLIN, self.shown.is_empty());
        master.set(PollFlags::POLLOUT, !self.typed.is_empty());
        // A hang-up cannot be masked: waiting for nothing would spin on it.
        let served = usize::from(!master.is_empty());
        if served == 1 {
            wanted.push((self.master.as_fd(), master));
        }
        let other = match (&self.output, &self.input) {
            (Some(output), _) if !self.shown.is_empty() => {
                Some((output.as_fd(), PollFlags::POLLOUT))
            }
            _ => None,
        };
        wanted.extend(other);
        let input = self.input.as_ref().filter(|_| self.typed.is_empty());
        wanted.extend(input.map(|fd| (fd.as_fd(), PollFlags::POLLIN)));
        let ready = match ready(&wanted) {
            Ok(ready) => ready,
            Err(Errno::EINTR) => return Side::Open,
            Err(_) => return Side::Ended,
        };
        if !ready[0].is_empty() {
            return Side::Ended;
        }
        let mut rest = ready[1..].iter();
        let mut next = |present: bool| {
            present.then(|| rest.next().copied()).flatten().unwrap_or(PollFlags::empty())
        };
        let (master, output, input) =
            (next(served == 1), next(other.is_some()), next(input.is_some()));
        if !output.is_empty() {
            self.show();
        }
        if !input.is_empty() {
            self.read_input();
        }
        if master.contains(PollFlags::POLLOUT) {
            self.type_in();
        }
        if self.shown.is_empty() && master.intersects(PollFlags::POLLIN | PollFlags::POLLHUP) {
            return self.read_master();
        }
        Side::Open
    }

    fn read_master(&mut self) -> Side {
        let mut chunk = [0; CHUNK];
        match read(&self.master, &mut chunk) {
            Ok(0) => Side::Ended,
            Ok(length) => {
                // Without anywhere to show it, it is read all the same: the program must not block.
                if self.output.is_some() {
                    self.shown.extend_from_slice(&chunk[..length]);
                }
                Side::Open
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Side::Open,
            // EIO: nobody has the other end open any more, and everything written has been read.
            Err(_) => Side::Ended,
        }
    }

    fn read_input(&mut self) {
        let Some(input) = &self.input else { return };
        let mut chunk = [0; CHUNK];
        match read(input, &mut chunk) {
            Ok(length @ 1..) => self.typed.extend_from_slice(&chunk[..length]),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Ok(0) | Err(_) => self.input = None,
        }
    }

    fn type_in(&mut self) {
        match write(&self.master, &self.typed) {
            Ok(length) => drop(self.typed.drain(..length)),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => self.typed.clear(),
        }
    }

    fn show(&mut self) {
        let Some(output) = &self.output else { return };
        match write(output, &self.shown) {
            Ok(length) => drop(self.shown.drain(..length)),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => {
                self.shown.clear();
                self.output = None;
            }
        }
    }
}

fn ready(wanted: &[(BorrowedFd<'_>, PollFlags)]) -> Result<Vec<PollFlags>, Errno> {
    let mut fds: Vec<PollFd<'_>> =
        wanted.iter().map(|&(fd, events)| PollFd::new(fd, events)).collect();
    poll(&mut fds, PollTimeout::NONE)?;
    Ok(fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())).collect())
}
