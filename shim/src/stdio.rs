//! The standard streams of a process, as containerd names them.
//!
//! A stream is a FIFO (a plain path or `fifo://`), a file (`file://`), a program that takes the output
//! (`binary://`, which gets both streams), or nothing. FIFOs and files go straight to the process: no
//! byte passes through the shim. The shim keeps the *other* end of each FIFO open, so that a client may
//! go away and come back:
//!
//! - of standard output and error the end to read from, or the process would get SIGPIPE while
//!   containerd restarts;
//! - of standard input the end to write to, until `CloseIO`, or the process would see its end before a
//!   client has connected, and when containerd restarts.
//!
//! With a terminal the FIFOs belong to the relay, see [`crate::terminal`].

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::libc::{O_CLOEXEC, O_NOCTTY, O_NONBLOCK};
use runtime::{Call, Context, Error, ErrorKind, quote};

use crate::logger;
use crate::spawner::Spawner;

/// How long a client may take to open its end of a FIFO.
const CLIENT: Duration = Duration::from_secs(5);

/// What a request says of a process' streams.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// Standard input; empty for none.
    pub stdin: String,
    /// Standard output.
    pub stdout: String,
    /// Standard error; with a terminal there is none.
    pub stderr: String,
    /// Whether the process gets a terminal.
    pub terminal: bool,
}

/// Streams that are open for a process that is about to be made.
#[derive(Debug)]
pub struct Streams {
    /// What the process gets.
    pub given: [OwnedFd; 3],
    /// What the shim keeps.
    pub kept: Kept,
}

/// The shim's ends.
#[derive(Debug, Default)]
pub struct Kept {
    /// Keeps standard input from ending.
    input: Option<OwnedFd>,
    /// Keep writers of standard output and error from SIGPIPE.
    _outputs: Vec<OwnedFd>,
    /// Both ends of the relay, with a terminal.
    pub relayed: Option<Relayed>,
}

/// The FIFOs of a terminal.
#[derive(Debug)]
pub struct Relayed {
    /// What is typed.
    pub input: Option<OwnedFd>,
    /// What is shown.
    pub output: Option<OwnedFd>,
}

impl Kept {
    /// Lets standard input end when its last writer has gone.
    pub fn close_input(&mut self) {
        self.input = None;
    }
}

/// Whose streams are opened, and what that takes.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// containerd's namespace.
    pub namespace: &'a str,
    /// The container.
    pub container: &'a str,
    /// Starts logging programs.
    pub spawner: &'a Spawner,
}

/// Where a stream goes.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Nowhere,
    Path(PathBuf),
    File(PathBuf),
    Program(PathBuf, Vec<String>),
}

fn place(name: &str) -> runtime::Result<Place> {
    let Some((scheme, rest)) = name.split_once("://") else {
        return Ok(if name.is_empty() { Place::Nowhere } else { Place::Path(name.into()) });
    };
    match scheme {
        "fifo" => Ok(Place::Path(rest.into())),
        "file" => Ok(Place::File(rest.into())),
        "binary" => {
            let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
            let pairs = query.split('&').filter(|pair| !pair.is_empty());
            let args = pairs.flat_map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                [decoded(key), decoded(value)].into_iter().filter(|word| !word.is_empty())
            });
            Ok(Place::Program(decoded(path).into(), args.collect()))
        }
        _ => {
            let reason = "the scheme is none of fifo, file, binary";
            Err(Error::new(ErrorKind::Invalid, "open stream", format!("{name:?}"), reason))
        }
    }
}

/// Percent-decoding of a URI's part (RFC 3986, section 2.1); a plus is a space in a query.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let value = hex.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        rest = match (byte, value) {
            (b'%', Some(value)) => {
                bytes.push(value);
                &tail[2..]
            }
            (byte, _) => {
                bytes.push(if byte == b'+' { b' ' } else { byte });
                tail
            }
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Opens the streams of a process.
///
/// # Errors
/// Names the stream that cannot be opened.
pub fn open(named: &Named, owner: Owner<'_>) -> runtime::Result<Streams> {
    if named.terminal {
        let relayed = Relayed { input: input_fifo(&named.stdin)?, output: output(named, owner)? };
        let kept = Kept { relayed: Some(relayed), ..Kept::default() };
        return Ok(Streams { given: [null()?, null()?, null()?], kept });
    }
    let mut kept = Kept::default();
    let stdin = match place(&named.stdin)? {
        Place::Nowhere => null()?,
        Place::Path(path) if is_fifo(&path) => {
            // For reading first: without a reader the end to write to cannot be opened.
            let reader = opened(&path, OpenOptions::new().read(true).custom_flags(O_NONBLOCK))?;
            kept.input = Some(opened(&path, OpenOptions::new().write(true))?);
            blocking(&reader)?;
            reader
        }
        Place::Path(path) | Place::File(path) => opened(&path, OpenOptions::new().read(true))?,
        Place::Program(..) => {
            let reason = "a program cannot be standard input";
            let subject = format!("stream {:?}", named.stdin);
            return Err(Error::new(ErrorKind::Invalid, "open", subject, reason));
        }
    };
    if let Place::Program(path, args) = place(&named.stdout)? {
        let [stdout, stderr] = logger::start(&path, args, owner)?;
        return Ok(Streams { given: [stdin, stdout, stderr], kept });
    }
    let stdout = sink(&named.stdout, &mut kept)?;
    let stderr = if named.stderr == named.stdout {
        stdout.try_clone().call("dup").context("open stream", &named.stderr)?
    } else {
        sink(&named.stderr, &mut kept)?
    };
    Ok(Streams { given: [stdin, stdout, stderr], kept })
}

fn sink(name: &str, kept: &mut Kept) -> runtime::Result<OwnedFd> {
    match place(name)? {
        Place::Nowhere => null(),
        Place::Path(path) if is_fifo(&path) => {
            // Open until ours is: the client would take a moment without a writer for the end.
            let _first = await_reader(&path)?;
            let reader = opened(&path, OpenOptions::new().read(true).custom_flags(O_NONBLOCK))?;
            let writer = opened(&path, OpenOptions::new().write(true))?;
            kept._outputs.push(reader);
            Ok(writer)
        }
        Place::Path(path) => opened(&path, OpenOptions::new().append(true)),
        Place::File(path) => file(&path),
        Place::Program(..) => {
            let reason = "a program takes standard output and error together, as stdout";
            Err(Error::new(ErrorKind::Invalid, "open", format!("stream {name:?}"), reason))
        }
    }
}

/// What a terminal shows goes to one place, and the relay must never block on it.
fn output(named: &Named, owner: Owner<'_>) -> runtime::Result<Option<OwnedFd>> {
    match place(&named.stdout)? {
        Place::Nowhere => Ok(None),
        Place::Path(path) if is_fifo(&path) => {
            let _first = await_reader(&path)?;
            // For reading too: the relay then never sees a FIFO without a reader.
            let both =
                OpenOptions::new().read(true).write(true).custom_flags(O_NONBLOCK).to_owned();
            opened(&path, &both).map(Some)
        }
        Place::Path(path) | Place::File(path) => file(&path).map(Some),
        Place::Program(path, args) => {
            let [stdout, _] = logger::start(&path, args, owner)?;
            Ok(Some(stdout))
        }
    }
}

/// Waits until a client has opened a FIFO to read it. One that is late would wait for a writer for ever
/// when the process has ended by then, and containerd opens its end while it makes the request. A client
/// that does not come at all keeps no process from being made. Returns the end to write to that the
/// client has seen first, if it came.
fn await_reader(path: &Path) -> runtime::Result<Option<OwnedFd>> {
    let deadline = Instant::now() + CLIENT;
    let mut pause = Duration::from_micros(200);
    loop {
        // fifo(7): ENXIO without a reader.
        match OpenOptions::new().write(true).custom_flags(O_NONBLOCK).open(path) {
            Err(error)
                if error.raw_os_error() == Some(nix::libc::ENXIO) && Instant::now() < deadline =>
            {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(10));
            }
            Err(error) if error.raw_os_error() == Some(nix::libc::ENXIO) => return Ok(None),
            other => {
                let file = other.call("open").context("open stream", quote(path))?;
                return Ok(Some(file.into()));
            }
        }
    }
}

fn input_fifo(name: &str) -> runtime::Result<Option<OwnedFd>> {
    match place(name)? {
        Place::Nowhere => Ok(None),
        Place::Path(path) | Place::File(path) => {
            // For writing too: a client that goes away is not the end of what is typed.
            let both =
                OpenOptions::new().read(true).write(true).custom_flags(O_NONBLOCK).to_owned();
            opened(&path, &both).map(Some)
        }
        Place::Program(..) => {
            let reason = "a program cannot be standard input";
            Err(Error::new(ErrorKind::Invalid, "open", format!("stream {name:?}"), reason))
        }
    }
}

fn is_fifo(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo())
}

fn opened(path: &Path, options: &OpenOptions) -> runtime::Result<OwnedFd> {
    let file = options.open(path).call("open").context("open stream", quote(path))?;
    Ok(file.into())
}

fn file(path: &Path) -> runtime::Result<OwnedFd> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).call("mkdir").context("create", quote(directory))?;
    }
    let mut options = OpenOptions::new();
    opened(path, options.append(true).create(true).mode(0o644).custom_flags(O_NOCTTY))
}

fn null() -> runtime::Result<OwnedFd> {
    let file = File::options().read(true).write(true).custom_flags(O_CLOEXEC).open("/dev/null");
    Ok(file.call("open").context("open stream", "\"/dev/null\"")?.into())
}

/// A FIFO that was opened without waiting for its other end is for a program that reads it in the
/// usual way.
fn blocking(fd: &OwnedFd) -> runtime::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    fcntl(fd, FcntlArg::F_SETFL(OFlag::empty()))
        .call("fcntl")
        .context("set up", "standard input")
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        for (name, expected) in [
            ("", Place::Nowhere),
            ("/run/x", Place::Path("/run/x".into())),
            ("fifo:///run/x", Place::Path("/run/x".into())),
            ("file:///var/log/a.log", Place::File("/var/log/a.log".into())),
            (
                "binary:///bin/l%20g?id=a+b&flag=",
                Place::Program("/bin/l g".into(), vec!["id".into(), "a b".into(), "flag".into()]),
            ),
        ] {
            assert_eq!(place(name).unwrap(), expected, "{name}");
        }
        assert!(place("http://x").is_err());
    }
}
