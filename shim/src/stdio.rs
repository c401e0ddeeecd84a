//! The standard streams of a process, as containerd names them.
//!
//! A stream is a FIFO (a plain path or `fifo://`), a file (`file://`), a program that takes the output
//! (`binary://`, which gets both streams), or nothing. FIFOs and files go straight to the process: no
//! byte passes through the shim. The shim keeps the *other* end of each FIFO open, so that a client may
//! go away and come back:
//!
//! - of standard output and error the end to read from, or the process would get SIGPIPE while
//!   containerd restarts;
//! - of standard input the end to write to, or the process would see its end before a client has
//!   connected; see [`crate::stdin`] for how long.
//!
//! With a terminal the FIFOs belong to the relay, see [`crate::terminal`].

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc::{O_CLOEXEC, O_NOCTTY, O_NONBLOCK};
use nix::poll::{PollFd, PollFlags};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::SigSet;
use nix::unistd::pipe2;
use runtime::{Call, Context, Error, ErrorKind, quote};

use crate::stdin::{Held, Inputs};

/// How long a logging program may take until it is ready.
const LOGGER_DEADLINE: u16 = 10_000; // milliseconds

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
    input: Option<Held>,
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

/// Whose logs a logging program gets.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// containerd's namespace.
    pub namespace: &'a str,
    /// The container.
    pub container: &'a str,
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

/// Opens the streams of a process; `inputs` keeps its standard input from ending.
///
/// # Errors
/// Names the stream that cannot be opened.
pub fn open(named: &Named, owner: Owner<'_>, inputs: &Inputs) -> runtime::Result<Streams> {
    if named.terminal {
        let relayed = Relayed { input: input_fifo(&named.stdin)?, output: output(named, owner)? };
        let kept = Kept { relayed: Some(relayed), ..Kept::default() };
        return Ok(Streams { given: [null()?, null()?, null()?], kept });
    }
    let mut kept = Kept::default();
    let stdin = match place(&named.stdin)? {
        Place::Nowhere => null()?,
        Place::Path(path) if is_fifo(&path) => {
            let (reader, held) = inputs.hold(&path, || {
                // For reading first: without a reader the end to write to cannot be opened.
                let mut options = OpenOptions::new();
                let reader = opened(&path, options.read(true).custom_flags(O_NONBLOCK))?;
                let writer = opened(&path, OpenOptions::new().write(true))?;
                blocking(&reader)?;
                Ok((reader, writer))
            })?;
            kept.input = Some(held);
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
        let [stdout, stderr] = logger(&path, &args, owner)?;
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
            // For reading too: the relay then never sees a FIFO without a reader.
            let both =
                OpenOptions::new().read(true).write(true).custom_flags(O_NONBLOCK).to_owned();
            opened(&path, &both).map(Some)
        }
        Place::Path(path) | Place::File(path) => file(&path).map(Some),
        Place::Program(path, args) => {
            let [stdout, _] = logger(&path, &args, owner)?;
            Ok(Some(stdout))
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

/// Starts a logging program and returns the ends of its pipes for standard output and error. The
/// program has them as descriptors 3 and 4, and closes 5 when it is ready.
fn logger(path: &Path, args: &[String], owner: Owner<'_>) -> runtime::Result<[OwnedFd; 2]> {
    let subject = format!("logging program {}", quote(path));
    let start = || -> Result<_, runtime::Failure> {
        let pipe = || pipe2(nix::fcntl::OFlag::O_CLOEXEC).call("pipe2");
        let (stdout, stdout_end) = pipe()?;
        let (stderr, stderr_end) = pipe()?;
        let (ready, ready_end) = pipe()?;
        spawn(path, args, owner, [stdout.as_fd(), stderr.as_fd(), ready_end.as_fd()])?;
        drop(ready_end);
        let mut polled = [PollFd::new(ready.as_fd(), PollFlags::POLLIN)];
        let heard = nix::poll::poll(&mut polled, LOGGER_DEADLINE).call("poll")?;
        Ok((heard != 0, File::from(ready), [stdout_end, stderr_end]))
    };
    let (heard, mut ready, ends) = start().context("start", &subject)?;
    if !heard {
        let reason = "was not ready within 10 s (it has to close descriptor 5)";
        return Err(Error::new(ErrorKind::System, "start", subject, reason));
    }
    // End of file or a byte: both say that it runs.
    let _ = ready.read(&mut [0]);
    Ok(ends)
}

fn spawn(
    path: &Path,
    args: &[String],
    owner: Owner<'_>,
    fds: [BorrowedFd<'_>; 3],
) -> Result<(), runtime::Failure> {
    let c_string = |text: &[u8]| CString::new(text).map_err(|_| nix::errno::Errno::EINVAL);
    let program = c_string(path.as_os_str().as_bytes()).call("posix_spawn")?;
    let mut argv = vec![program.clone()];
    for arg in args {
        argv.push(c_string(arg.as_bytes()).call("posix_spawn")?);
    }
    let variables = [
        format!("CONTAINER_ID={}", owner.container),
        format!("CONTAINER_NAMESPACE={}", owner.namespace),
        format!("PATH={}", std::env::var("PATH").unwrap_or_default()),
    ];
    let mut env = Vec::new();
    for variable in &variables {
        env.push(c_string(variable.as_bytes()).call("posix_spawn")?);
    }
    // First out of the way of the numbers that they are to have.
    let mut high = Vec::new();
    for fd in fds {
        use nix::fcntl::{FcntlArg, fcntl};
        let number = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(16)).call("fcntl")?;
        high.push(number);
    }
    let spawned = (|| {
        let mut actions = PosixSpawnFileActions::init().call("posix_spawn")?;
        for (target, &number) in (3..).zip(&high) {
            actions.add_dup2(number, target).call("posix_spawn")?;
        }
        let mut attributes = PosixSpawnAttr::init().call("posix_spawn")?;
        let flags = PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF
            | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK
            | PosixSpawnFlags::POSIX_SPAWN_SETPGROUP;
        attributes.set_flags(flags).call("posix_spawn")?;
        attributes.set_sigdefault(&SigSet::all()).call("posix_spawn")?;
        attributes.set_sigmask(&SigSet::empty()).call("posix_spawn")?;
        posix_spawn(program.as_c_str(), &actions, &attributes, &argv, &env)
            .call("posix_spawn")
            .map(drop)
    })();
    for number in high {
        let _ = nix::unistd::close(number);
    }
    spawned
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
