//! What the guest prints on its serial port: kept for error messages, and copied to a log.
//!
//! Containers do not write here, only the guest's kernel and agent. A guest that floods it fills neither the
//! host's disk nor its memory, and its bytes reach a person's terminal without control characters.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use crate::error::{Error, Result};

/// How much of the end is kept, in bytes.
const KEPT: usize = 4096;
/// How much reaches the log, in bytes. A whole boot of a talkative kernel is a twentieth of it.
const LOGGED: usize = 1 << 20;

/// The end of what the guest printed. Clones are the same place.
#[derive(Clone, Default)]
pub(crate) struct Tail(Arc<Mutex<VecDeque<u8>>>);

impl Tail {
    fn push(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().expect("no holder panics");
        kept.extend(&bytes[bytes.len().saturating_sub(KEPT)..]);
        let surplus = kept.len().saturating_sub(KEPT);
        kept.drain(..surplus);
    }

    /// The last lines, at most `count`, fit for a terminal.
    pub(crate) fn lines(&self, count: usize) -> Vec<String> {
        let kept: Vec<u8> = self.0.lock().expect("no holder panics").iter().copied().collect();
        let text = String::from_utf8_lossy(&kept);
        let clean = |line: &str| line.chars().filter(|c| !c.is_control()).collect::<String>();
        let mut lines: Vec<String> =
            text.lines().map(clean).filter(|line| !line.is_empty()).collect();
        lines.drain(..lines.len().saturating_sub(count));
        lines
    }
}

/// The writing end, for the serial port.
pub(crate) struct Console {
    log: Option<File>,
    logged: usize,
    tail: Tail,
}

impl Console {
    /// A console that copies to `log`, if there is one.
    ///
    /// # Errors
    /// `log` is no regular file: whoever reads a pipe could hold up the guest's processors.
    pub(crate) fn new(log: Option<File>, tail: Tail) -> Result<Self> {
        if let Some(log) = &log {
            let kind = log.metadata().map_err(|error| Error::io("use console", "fstat", &error))?;
            if !kind.is_file() {
                return Err(Error::new("use console", "its log is no regular file"));
            }
        }
        Ok(Self { log, logged: 0, tail })
    }
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.tail.push(bytes);
        let part = &bytes[..bytes.len().min(LOGGED - self.logged)];
        if let Some(log) = &mut self.log
            && log.write_all(part).is_ok()
        {
            self.logged += part.len();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_kept_without_control_characters() {
        let tail = Tail::default();
        let mut console = Console::new(None, tail.clone()).unwrap();
        for number in 0..10_000 {
            write!(console, "line {number}\r\n").unwrap();
        }
        console.write_all(b"\x1b[31mred\x07\r\n\xff").unwrap();
        assert_eq!(tail.lines(3), ["line 9999", "[31mred", "\u{fffd}"]);
        assert!(tail.lines(usize::MAX).len() < KEPT);
    }

    #[test]
    fn a_flood_ends_in_the_log() {
        let file = tempfile();
        let mut console = Console::new(Some(file.try_clone().unwrap()), Tail::default()).unwrap();
        for _ in 0..300 {
            console.write_all(&[b'x'; 4096]).unwrap();
        }
        assert_eq!(file.metadata().unwrap().len(), LOGGED as u64);
    }

    #[test]
    fn a_pipe_is_no_log() {
        let (_reader, writer) = std::io::pipe().unwrap();
        let log = File::from(std::os::fd::OwnedFd::from(writer));
        let error = Console::new(Some(log), Tail::default()).err().unwrap().to_string();
        assert_eq!(error, "use console: its log is no regular file");
    }

    fn tempfile() -> File {
        use nix::sys::memfd::{MFdFlags, memfd_create};
        memfd_create(c"log", MFdFlags::MFD_CLOEXEC).unwrap().into()
    }
}
