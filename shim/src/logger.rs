//! Programs that take a process' output: `binary://` streams.
//!
//! The program has the ends of two pipes to read from as descriptors 3 and 4, for standard output and
//! error, and closes descriptor 5 when it is ready. The shim itself executes nothing: it makes the pipes,
//! and a worker starts the program.

use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use containerd_shim_protos::ttrpc;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, poll};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::SigSet;
use nix::sys::stat::Mode;
use nix::unistd::pipe2;
use runtime::{Call, Context, Error, ErrorKind, Failure, Result, quote};
use serde::{Deserialize, Serialize};

use crate::stdio::Owner;
use crate::work::Request;

/// How long a program may take until it is ready, in milliseconds.
const DEADLINE: u16 = 10_000;

/// A program to start.
#[derive(Debug, Serialize, Deserialize)]
pub struct Logger {
    path: PathBuf,
    args: Vec<String>,
    env: Vec<String>,
}

/// Starts the program at `path` and returns the ends of its pipes to write standard output and error to.
///
/// # Errors
/// It cannot be started, or is not ready in time.
pub fn start(path: &Path, args: Vec<String>, owner: Owner<'_>) -> Result<[OwnedFd; 2]> {
    let subject = format!("logging program {}", quote(path));
    let pipe = || pipe2(OFlag::O_CLOEXEC).call("pipe2").context("start", &subject);
    let (stdout, stdout_end) = pipe()?;
    let (stderr, stderr_end) = pipe()?;
    let (ready, ready_end) = pipe()?;
    let env = vec![
        format!("CONTAINER_ID={}", owner.container),
        format!("CONTAINER_NAMESPACE={}", owner.namespace),
        format!("PATH={}", std::env::var("PATH").unwrap_or_default()),
    ];
    let request = Request::Logger(Logger { path: path.to_owned(), args, env });
    let fds = [stdout.as_fd(), stderr.as_fd(), ready_end.as_fd()];
    owner.spawner.call(&request, fds).map_err(|error| match error {
        ttrpc::Error::RpcStatus(status) => {
            Error::new(ErrorKind::Invalid, "open stream:", "", status.message)
        }
        other => Error::new(ErrorKind::System, "start", &subject, other.to_string()),
    })?;
    drop(ready_end);
    let mut polled = [PollFd::new(ready.as_fd(), PollFlags::POLLIN)];
    if poll(&mut polled, DEADLINE).call("poll").context("start", &subject)? == 0 {
        let reason = "was not ready within 10 s (it has to close descriptor 5)";
        return Err(Error::new(ErrorKind::System, "start", subject, reason));
    }
    // End of file or a byte: both say that it runs.
    let _ = File::from(ready).read(&mut [0]);
    Ok([stdout_end, stderr_end])
}

impl Logger {
    /// The worker's part: the pipes are its standard streams.
    pub fn spawn(&self) -> Result<()> {
        let subject = format!("logging program {}", quote(&self.path));
        let spawn = || -> std::result::Result<(), Failure> {
            let c_string = |text: &str| CString::new(text).map_err(|_| nix::errno::Errno::EINVAL);
            let program = c_string(&self.path.to_string_lossy()).call("posix_spawn")?;
            let strings = |list: &[String]| {
                list.iter().map(|text| c_string(text).call("posix_spawn")).collect()
            };
            let args: std::result::Result<Vec<_>, _> = strings(&self.args);
            let argv: Vec<_> = [program.clone()].into_iter().chain(args?).collect();
            let env: std::result::Result<Vec<_>, _> = strings(&self.env);
            let mut actions = PosixSpawnFileActions::init().call("posix_spawn")?;
            for (from, to) in [(0, 3), (1, 4), (2, 5)] {
                actions.add_dup2(from, to).call("posix_spawn")?;
                let null = actions.add_open(from, "/dev/null", OFlag::O_RDWR, Mode::empty());
                null.call("posix_spawn")?;
            }
            let mut attributes = PosixSpawnAttr::init().call("posix_spawn")?;
            let flags = PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF
                | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK
                | PosixSpawnFlags::POSIX_SPAWN_SETPGROUP;
            attributes.set_flags(flags).call("posix_spawn")?;
            attributes.set_sigdefault(&SigSet::all()).call("posix_spawn")?;
            attributes.set_sigmask(&SigSet::empty()).call("posix_spawn")?;
            posix_spawn(program.as_c_str(), &actions, &attributes, &argv, &env?)
                .call("posix_spawn")
                .map(drop)
        };
        spawn().context("start", subject)
    }
}
