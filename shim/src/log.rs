//! The shim's log: lines to the `log` FIFO of the bundle, which containerd copies to its own.
//!
//! A line reads as logrus writes text, so that both programs' lines look alike:
//! `time="2026-01-02T15:04:05.678Z" level=info msg="..." id=... namespace=... runtime=...`.
//!
//! Logging never stops the shim. containerd may be gone (no reader: ENXIO, EPIPE), or too slow (the
//! FIFO is full: EAGAIN); then the line is lost. Once containerd is back it opens the same FIFO, and
//! the open end of ours writes to it again.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use nix::libc;

/// The name of this runtime in containerd.
pub const RUNTIME: &str = "io.containerd.bulkhead.v2";

/// `PIPE_BUF`: what is longer could be mixed with another writer's line.
const MAX_LINE: usize = 4096;

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Shown when containerd logs debugging messages.
    Debug,
    /// What happens.
    Info,
    /// What is not as it should be.
    Warning,
    /// What failed.
    Error,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Where lines go; its clones write to the same place.
#[derive(Clone, Debug)]
pub struct Log(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    least: Level,
    /// What ends every line.
    fields: String,
    fifo: Mutex<Option<File>>,
}

impl Log {
    /// The log of the shim whose first container is `id`. It need not be there yet.
    pub fn new(bundle: &Path, namespace: &str, id: &str, debug: bool) -> Self {
        let fields = format!(
            " id={} namespace={} runtime={RUNTIME}",
            quoted_if_needed(id),
            quoted_if_needed(namespace)
        );
        let least = if debug { Level::Debug } else { Level::Info };
        Self(Arc::new(Inner { path: bundle.join("log"), least, fields, fifo: Mutex::new(None) }))
    }

    /// Writes a line, or loses it.
    pub fn write(&self, level: Level, message: &str) {
        let inner = &*self.0;
        if level < inner.least {
            return;
        }
        let line = line(SystemTime::now(), level, message, &inner.fields);
        // A thread that panicked has left at worst a file that is open.
        let mut fifo = inner.fifo.lock().unwrap_or_else(PoisonError::into_inner);
        if fifo.is_none() {
            *fifo = open(&inner.path);
        }
        if let Some(mut file) = fifo.as_ref() {
            // See the module's text: every error is somebody else's absence.
            let _ = file.write(line.as_bytes());
        }
    }

    /// Writes a debugging message.
    pub fn debug(&self, message: &str) {
        self.write(Level::Debug, message);
    }

    /// Writes what is not as it should be.
    pub fn warn(&self, message: &str) {
        self.write(Level::Warning, message);
    }

    /// Writes what failed.
    pub fn error(&self, message: &str) {
        self.write(Level::Error, message);
    }
}

/// A file that is no FIFO would grow without bound; a link would choose one elsewhere.
fn open(path: &Path) -> Option<File> {
    let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW;
    let file = OpenOptions::new().write(true).custom_flags(flags).open(path).ok()?;
    file.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo()).then_some(file)
}

fn line(time: SystemTime, level: Level, message: &str, fields: &str) -> String {
    let time = runtime::rfc3339_nano(time);
    let start = format!("time=\"{time}\" level={} msg=", level.word());
    let room = MAX_LINE - start.len() - fields.len().min(MAX_LINE / 2) - 1;
    let mut message = quoted_if_needed(message);
    if message.len() > room {
        let mut end = room - 4;
        while !message.is_char_boundary(end) || message[..end].ends_with('\\') {
            end -= 1;
        }
        message.truncate(end);
        message.push_str("...\"");
    }
    format!("{start}{message}{fields}\n")
}

/// A value as logrus writes it: in quotes unless it is plain, and always in one line.
fn quoted_if_needed(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._/@^+".contains(c);
    // A long one is cut later, which leaves room for the closing quote only.
    if (1..MAX_LINE / 4).contains(&text.len()) && text.chars().all(plain) {
        return text.to_owned();
    }
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            // Escape sequences in a tenant's text must not reach an administrator's terminal.
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;
    use std::io::Read;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn lines() {
        let time = UNIX_EPOCH + Duration::from_millis(1500);
        for (message, expected) in [
            ("started", "started"),
            ("a b", "\"a b\""),
            ("say \"x\"\n\\", "\"say \\\"x\\\"\\n\\\\\""),
            ("\u{1b}[31m", "\"\\u001b[31m\""),
            ("", "\"\""),
        ] {
            assert_eq!(
                line(time, Level::Warning, message, " id=c"),
                format!("time=\"1970-01-01T00:00:01.5Z\" level=warning msg={expected} id=c\n")
            );
        }
        for part in ["\"é", "x"] {
            let long = line(time, Level::Info, &part.repeat(5000), " id=c");
            assert!(long.len() <= MAX_LINE && long.ends_with("...\" id=c\n"), "{long}");
            assert!(long.contains(" msg=\""));
        }
    }

    #[test]
    fn readers_come_and_go() {
        let bundle = crate::testing::directory("log");
        let log = Log::new(&bundle, "ns", "c 1", false);
        log.warn("nothing is there");
        let path = bundle.join("log");
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        log.warn("nobody reads");
        let reader =
            || OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
        let read = |mut file: &File| {
            let mut bytes = [0; 4096];
            let length = file.read(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes[..length]).into_owned()
        };
        let first = reader();
        log.warn("one");
        log.debug("not shown");
        let text = read(&first);
        assert!(text.contains("msg=one id=\"c 1\" namespace=ns runtime=io.containerd"), "{text}");
        assert_eq!(text.lines().count(), 1);
        drop(first);
        log.warn("lost");
        let second = reader();
        log.error("two");
        assert!(read(&second).contains("level=error msg=two"));
        // A full FIFO blocks nobody.
        (0..2000).for_each(|_| log.warn(&"x".repeat(100)));
        std::fs::remove_dir_all(bundle).unwrap();
    }

    #[test]
    fn only_a_fifo() {
        let bundle = crate::testing::directory("log");
        std::fs::write(bundle.join("log"), "").unwrap();
        Log::new(&bundle, "ns", "c", true).warn("x");
        assert_eq!(std::fs::read(bundle.join("log")).unwrap(), b"");
        std::fs::remove_dir_all(bundle).unwrap();
    }
}
