//! What the guest prints on its serial port: kept for error messages, and copied to a log.
//!
//! Containers do not write here, only the guest's kernel and agent. A guest that floods it fills neither the
//! host's disk nor its memory, and its bytes reach a person's terminal as printable characters in lines of bounded
//! length: what a terminal would obey, or show in another order than it was written, is shown as an escape. The log
//! has the bytes as they are.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use crate::error::{Error, Result};

/// How much of the end is kept, in bytes.
const KEPT: usize = 4096;
/// The longest line that is shown, in characters; what is longer is continued on the next.
const LINE: usize = 200;
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
        let mut lines: Vec<String> =
            kept.split(|&byte| byte == b'\n').flat_map(printable).collect();
        lines.drain(..lines.len().saturating_sub(count));
        lines
    }
}

/// A line without its end, as lines of at most `LINE` characters; none if there is nothing in it.
fn printable(line: &[u8]) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut room = LINE;
    let mut push = |text: &str| {
        let length = text.chars().count();
        if length > room {
            lines.push(String::new());
            room = LINE;
        }
        room -= length;
        lines.last_mut().expect("there is a first").push_str(text);
    };
    for chunk in line.trim_ascii_end().utf8_chunks() {
        for char in chunk.valid().chars() {
            match char {
                // What `escape_debug` would escape for the sake of a string literal.
                '\\' | '"' | '\'' => push(char.encode_utf8(&mut [0; 4])),
                '\t' => push(" "),
                _ => push(&char.escape_debug().to_string()),
            }
        }
        for byte in chunk.invalid() {
            push(&format!("\\x{byte:02x}"));
        }
    }
    lines.retain(|line| !line.is_empty());
    lines
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
    fn the_end_is_kept_as_printable_characters() {
        let tail = Tail::default();
        let mut console = Console::new(None, tail.clone()).unwrap();
        for number in 0..10_000 {
            write!(console, "line {number}\r\n").unwrap();
        }
        console.write_all(b"\x1b[31mred\x07\r\n\r\n\xff").unwrap();
        assert_eq!(tail.lines(3), ["line 9999", r"\u{1b}[31mred\u{7}", r"\xff"]);
        assert!(tail.lines(usize::MAX).len() < KEPT);
    }

    #[test]
    fn nothing_of_a_guest_is_obeyed_by_a_terminal() {
        for (bytes, expected) in [
            (&b""[..], &[][..]),
            (b"\r\n\n\r\n", &[]),
            (b"no newline", &["no newline"]),
            (b"C:\\ \"a\" it's\tso", &["C:\\ \"a\" it's so"]),
            (b"back\rover", &[r"back\rover"]),
            (b"\0\x7f\xc2\x9b2J", &[r"\0\u{7f}\u{9b}2J"]),
            ("gr\u{fc}n".as_bytes(), &["gr\u{fc}n"]),
            // Right to left, and a line separator.
            ("\u{202e}txt\u{2028}".as_bytes(), &[r"\u{202e}txt\u{2028}"]),
            // Cut short, and a character that was sent half before the first that is kept.
            (b"\xe2\x82", &[r"\xe2\x82"]),
        ] {
            let tail = Tail::default();
            Console::new(None, tail.clone()).unwrap().write_all(bytes).unwrap();
            assert_eq!(tail.lines(9), expected, "{bytes:?}");
        }
    }

    #[test]
    fn a_line_without_end_is_shown_in_pieces() {
        let tail = Tail::default();
        let mut console = Console::new(None, tail.clone()).unwrap();
        for _ in 0..100 {
            console.write_all(&[b'x'; 1000]).unwrap();
        }
        console.write_all(&[0x9b; 300]).unwrap();
        let lines = tail.lines(10);
        assert_eq!(lines.len(), 10);
        assert!(lines.iter().all(|line| line.chars().count() <= LINE), "{lines:?}");
        assert!(lines[9].ends_with(r"\x9b"));
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
