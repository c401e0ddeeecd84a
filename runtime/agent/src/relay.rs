//! Copies one direction of a process' streams.
//!
//! A side is read only when the other has taken what was read before, so whoever does not read stops the
//! writer, as on a pipe, and nobody else. What was read is not lost: an end is passed on when everything
//! before it has been.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::PollFlags;
use nix::unistd::{read, write};

/// What is read at once, in bytes: what a pipe holds.
const CHUNK: usize = 64 * 1024;
/// More than a pseudo-terminal holds (64 KiB and a line).
const TERMINAL: usize = 128 * 1024;

/// What becomes of the reading side when nobody takes what it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unwanted {
    /// It is closed: a program that writes to a pipe is told, as everywhere.
    Close,
    /// It is read on: nobody may be stopped by a terminal that nobody looks at.
    Discard,
}

/// One direction. Both descriptors do not block.
#[derive(Debug)]
pub struct Relay {
    /// Nothing after its end.
    from: Option<OwnedFd>,
    /// Nothing when nobody takes anything.
    to: Option<OwnedFd>,
    unwanted: Unwanted,
    buffer: Vec<u8>,
    /// How much of the buffer was passed on.
    passed: usize,
    /// How much may still be read, once the process has ended.
    budget: Option<usize>,
}

impl Relay {
    /// From one descriptor to another.
    pub fn new(from: OwnedFd, to: OwnedFd, unwanted: Unwanted) -> Self {
        let (from, to) = (Some(from), Some(to));
        Self { from, to, unwanted, buffer: Vec::new(), passed: 0, budget: None }
    }

    /// What is read and goes nowhere.
    pub fn discarding(from: OwnedFd) -> Self {
        let unwanted = Unwanted::Discard;
        let from = Some(from);
        Self { from, to: None, unwanted, buffer: Vec::new(), passed: 0, budget: None }
    }

    fn holds(&self) -> bool {
        self.passed < self.buffer.len()
    }

    /// Whether everything was passed on, and there is no more.
    pub fn is_done(&self) -> bool {
        self.from.is_none() && !self.holds()
    }

    /// What to wait for.
    pub fn wanted(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        match (&self.from, &self.to) {
            (_, Some(to)) if self.holds() => Some((to.as_fd(), PollFlags::POLLOUT)),
            // Its rest is there: nothing to wait for.
            (Some(_), _) if self.budget.is_some() => None,
            (Some(from), _) => Some((from.as_fd(), PollFlags::POLLIN)),
            (None, _) => None,
        }
    }

    /// Passes on what there is.
    pub fn run(&mut self) {
        if self.holds() {
            self.write();
        } else if self.from.is_some() {
            self.read();
            // Most of the time there is room, and poll would say so.
            if self.holds() {
                self.write();
            }
        }
        if self.from.is_none() && !self.holds() {
            self.to = None;
        }
    }

    /// The process has ended: what it has written is passed on, and no more. Others may still write, so
    /// it is no more than the pipe or terminal can hold.
    pub fn end(&mut self) {
        let Some(from) = &self.from else { return };
        let pipe = fcntl(from, FcntlArg::F_GETPIPE_SZ).ok();
        self.budget = Some(pipe.and_then(|size| usize::try_from(size).ok()).unwrap_or(TERMINAL));
    }

    /// After [`Relay::end`]: takes what is left, as far as the other side has room for it.
    pub fn drain(&mut self) {
        while self.from.is_some() && !self.holds() {
            self.run();
        }
    }

    fn read(&mut self) {
        let Some(from) = &self.from else { return };
        let limit = self.budget.map_or(CHUNK, |budget| budget.min(CHUNK));
        self.buffer.resize(limit, 0);
        self.passed = 0;
        let length = match read(from, &mut self.buffer) {
            Ok(length) => length,
            Err(Errno::EINTR) => return self.buffer.clear(),
            Err(Errno::EAGAIN) if self.budget.is_none() => return self.buffer.clear(),
            // EIO of a terminal: nobody has its other end open, and everything written was read. What was
            // not there when the process had ended is not of it.
            Err(_) => 0,
        };
        self.buffer.truncate(length);
        if let Some(budget) = &mut self.budget {
            *budget -= length;
        }
        if length == 0 || self.budget == Some(0) {
            self.from = None;
        }
        if self.to.is_none() {
            self.buffer.clear();
        }
    }

    fn write(&mut self) {
        let Some(to) = &self.to else { return };
        match write(to, &self.buffer[self.passed..]) {
            Ok(length) => self.passed += length,
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => {
                self.buffer.clear();
                self.passed = 0;
                self.to = None;
                if self.unwanted == Unwanted::Close {
                    self.from = None;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use nix::fcntl::OFlag;
    use nix::unistd::pipe2;

    use super::*;
    use crate::connection::{set_nonblocking, wait};

    /// A pipe whose output goes to a socket: the writing end, the relay, the other end of the socket.
    fn pipe_to_socket() -> (std::fs::File, Relay, UnixStream) {
        let (read, write) = pipe2(OFlag::O_CLOEXEC).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        set_nonblocking(read.as_fd()).unwrap();
        set_nonblocking(ours.as_fd()).unwrap();
        (write.into(), Relay::new(read, ours.into(), Unwanted::Close), theirs)
    }

    #[test]
    fn a_slow_reader_stops_the_writer_and_loses_nothing() {
        let (mut writer, mut relay, mut reader) = pipe_to_socket();
        set_nonblocking(writer.as_fd()).unwrap();
        let mut sent = 0u64;
        // Until neither the pipe nor the buffer nor the socket has room.
        loop {
            match writer.write(&[b'x'; 4096]) {
                Ok(length) => sent += length as u64,
                Err(_) if relay.wanted().is_some_and(|(_, events)| events == PollFlags::POLLIN) => {
                }
                Err(_) => break,
            }
            relay.run();
        }
        assert!(relay.wanted().is_some_and(|(_, events)| events == PollFlags::POLLOUT));
        drop(writer);
        let mut seen = 0u64;
        let mut chunk = [0; 4096];
        while !relay.is_done() {
            seen += reader.read(&mut chunk).unwrap() as u64;
            relay.run();
        }
        seen += std::io::copy(&mut reader, &mut std::io::sink()).unwrap();
        assert_eq!(seen, sent);
    }

    #[test]
    fn the_end_comes_although_somebody_holds_the_pipe() {
        let (mut writer, mut relay, mut reader) = pipe_to_socket();
        writer.write_all(b"last word").unwrap();
        relay.end();
        relay.drain();
        assert!(relay.is_done());
        let mut seen = String::new();
        reader.read_to_string(&mut seen).unwrap();
        assert_eq!(seen, "last word");
        assert!(writer.write(b"x").is_err(), "the reading end is closed");
    }

    #[test]
    fn a_writer_without_end_does_not_keep_the_relay() {
        let (mut writer, mut relay, reader) = pipe_to_socket();
        let flood = std::thread::spawn(move || while writer.write_all(&[b'x'; 4096]).is_ok() {});
        let sink = std::thread::spawn(move || {
            std::io::copy(&mut &reader, &mut std::io::sink()).unwrap();
        });
        relay.end();
        while !relay.is_done() {
            relay.drain();
            if let Some(wanted) = relay.wanted() {
                wait(&[wanted], None).unwrap();
                relay.run();
            }
        }
        flood.join().unwrap();
        sink.join().unwrap();
    }

    #[test]
    fn whom_nobody_reads_is_told_on_a_pipe_and_not_on_a_terminal() {
        let (mut writer, mut relay, reader) = pipe_to_socket();
        drop(reader);
        writer.write_all(b"x").unwrap();
        relay.run();
        assert!(relay.is_done());
        assert!(writer.write(b"x").is_err());

        let (mut writer, mut relay, reader) = pipe_to_socket();
        relay.unwanted = Unwanted::Discard;
        drop(reader);
        for _ in 0..3 {
            writer.write_all(b"x").unwrap();
            relay.run();
        }
        assert!(!relay.is_done());
        drop(writer);
        relay.run();
        assert!(relay.is_done());
    }
}
