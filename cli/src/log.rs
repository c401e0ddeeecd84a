//! The log: one line for a failure, in the shape of logrus that callers of runc parse.
//!
//! containerd keeps the last error line of the file, conmon one read of standard error, podman the
//! first JSON object: so a failure is one line, and every line is one `write(2)`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use crate::program::Failure;

/// How a line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `time="..." level=error msg="..."`
    #[default]
    Text,
    /// `{"level":"error","msg":"...","time":"..."}`
    Json,
}

/// logrus' level words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Only with `--debug`.
    Debug,
    /// The command goes on.
    Warning,
    /// The command failed.
    Error,
}

/// Where lines go: standard error until a file is opened.
#[derive(Clone, Debug, Default)]
pub struct Log {
    file: Option<Arc<File>>,
    format: Format,
    debug: bool,
}

impl Log {
    /// Opens the log that the global flags ask for.
    ///
    /// # Errors
    /// An unknown format, or a file that cannot be opened.
    pub fn open(path: Option<&Path>, format: Option<&str>, debug: bool) -> Result<Self, Failure> {
        let format = match format {
            None | Some("text") => Format::Text,
            Some("json") => Format::Json,
            Some(other) => return Err(Failure::message(format!("invalid log-format: {other}"))),
        };
        // A second copy on standard error is for a log that is elsewhere.
        let file =
            path.map(open).transpose()?.filter(|file| !is_standard_error(file)).map(Arc::new);
        Ok(Self { file, format, debug })
    }

    /// A line that only `--debug` shows.
    pub fn debug(&self, message: &str) {
        self.write(Level::Debug, message);
    }

    /// A warning.
    pub fn warning(&self, message: &str) {
        self.write(Level::Warning, message);
    }

    /// The failure of the command; also on standard error when the log is a file.
    pub fn error(&self, message: &str) {
        self.write(Level::Error, message);
        if self.file.is_some() {
            send(&mut io::stderr(), &format!("{message}\n"));
        }
    }

    /// One line.
    pub fn write(&self, level: Level, message: &str) {
        if level == Level::Debug && !self.debug {
            return;
        }
        let line = line(self.format, level, message, &runtime::rfc3339(SystemTime::now()));
        match &self.file {
            Some(file) => send(&mut &**file, &line),
            None => send(&mut io::stderr(), &line),
        }
    }
}

/// Nobody is left to tell when the log itself cannot be written.
fn send(to: &mut dyn Write, line: &str) {
    let _ = to.write_all(line.as_bytes());
}

fn open(path: &Path) -> Result<File, Failure> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o644)
        .custom_flags(nix::libc::O_SYNC | nix::libc::O_NOCTTY)
        .open(path)
        .map_err(|error| Failure::from_io("open log", path, &error))
}

fn is_standard_error(file: &File) -> bool {
    let stderr = nix::sys::stat::fstat(io::stderr());
    match (file.metadata(), stderr) {
        (Ok(log), Ok(stderr)) => (log.dev(), log.ino()) == (stderr.st_dev, stderr.st_ino),
        _ => false,
    }
}

fn line(format: Format, level: Level, message: &str, time: &str) -> String {
    let level = match level {
        Level::Debug => "debug",
        Level::Warning => "warning",
        Level::Error => "error",
    };
    match format {
        Format::Text => format!("time={time:?} level={level} msg={}\n", quoted(message)),
        Format::Json => {
            let message = serde_json::Value::from(message);
            format!("{{\"level\":\"{level}\",\"msg\":{message},\"time\":\"{time}\"}}\n")
        }
    }
}

/// logrus quotes what is not made of letters, digits and a few marks.
fn quoted(message: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._/@^+".contains(c);
    if !message.is_empty() && message.chars().all(plain) {
        return message.to_owned();
    }
    let mut text = String::from("\"");
    for c in message.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            c if c.is_control() => text.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => text.push(c),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "2026-11-22T18:19:42Z";

    #[test]
    fn text_lines() {
        for (message, shown) in [
            ("container does not exist", "\"container does not exist\""),
            ("done", "done"),
            ("", "\"\""),
            ("a \"b\"\\\n\x1b[m ü", "\"a \\\"b\\\"\\\\\\n\\x1b[m ü\""),
        ] {
            assert_eq!(
                line(Format::Text, Level::Error, message, TIME),
                format!("time=\"{TIME}\" level=error msg={shown}\n")
            );
        }
    }

    #[test]
    fn json_lines() {
        assert_eq!(
            line(Format::Json, Level::Warning, "a\n\"b\"", TIME),
            format!("{{\"level\":\"warning\",\"msg\":\"a\\n\\\"b\\\"\",\"time\":\"{TIME}\"}}\n")
        );
    }

    #[test]
    fn unknown_formats_are_refused() {
        let failure = Log::open(None, Some("xml"), false).unwrap_err();
        assert_eq!(failure.text(), "invalid log-format: xml");
    }
}
