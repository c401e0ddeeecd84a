//! The streams of a process: pipes, so that `/dev/stdout` can be opened, or a terminal.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, pipe2};
use runtime::{Call, Context, Process, Result};

use crate::connection::set_nonblocking;
use crate::relay::{Relay, Unwanted};

const STREAMS: &str = "the standard streams";

/// What is relayed to and from a process.
#[derive(Debug, Default)]
pub struct Relays {
    /// To the process.
    pub input: Option<Relay>,
    /// From the process.
    pub outputs: Vec<Relay>,
}

/// Makes a process with these streams, by `make`, and the relays between them and it.
///
/// # Errors
/// Those of `make`; a descriptor cannot be had.
pub fn around<T>(
    streams: [Option<OwnedFd>; 3],
    terminal: bool,
    make: impl FnOnce() -> Result<(T, Process)>,
) -> Result<(T, Process, Relays)> {
    let own = own_streams().context("keep", STREAMS)?;
    let mut relays = Relays::default();
    let [input, output, error] = streams;
    let (theirs, on_terminal) = if terminal {
        ([null()?, null()?, null()?], Some((input, output)))
    } else {
        let theirs = [read_end(input, &mut relays)?, write_end(output, &mut relays)?];
        let [stdin, stdout] = theirs;
        ([stdin, stdout, write_end(error, &mut relays)?], None)
    };
    adopt(&theirs).context("take", STREAMS)?;
    drop(theirs);
    let made = make();
    // Pipes end only when nobody has them any more.
    adopt(&own).context("give back", STREAMS)?;
    let (made, process) = made?;
    if let (Some((input, output)), Some(master)) = (on_terminal, &process.terminal) {
        set_nonblocking(master.as_fd()).context("set up", "the terminal")?;
        let copy = || master.try_clone().call("fcntl").context("set up", "the terminal");
        if let Some(input) = input {
            relays.input = Some(Relay::new(input, copy()?, Unwanted::Close));
        }
        relays.outputs.push(match output {
            Some(output) => Relay::new(copy()?, output, Unwanted::Discard),
            None => Relay::discarding(copy()?),
        });
    }
    Ok((made, process, relays))
}

fn read_end(input: Option<OwnedFd>, relays: &mut Relays) -> Result<OwnedFd> {
    let Some(input) = input else { return null() };
    let (read, write) = pipe()?;
    set_nonblocking(write.as_fd()).context("set up", STREAMS)?;
    relays.input = Some(Relay::new(input, write, Unwanted::Close));
    Ok(read)
}

fn write_end(output: Option<OwnedFd>, relays: &mut Relays) -> Result<OwnedFd> {
    let Some(output) = output else { return null() };
    let (read, write) = pipe()?;
    set_nonblocking(read.as_fd()).context("set up", STREAMS)?;
    relays.outputs.push(Relay::new(read, output, Unwanted::Close));
    Ok(write)
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    pipe2(OFlag::O_CLOEXEC).call("pipe2").context("make", STREAMS)
}

fn null() -> Result<OwnedFd> {
    let null = File::options().read(true).write(true).open("/dev/null");
    null.call("open").context("open", "\"/dev/null\"").map(OwnedFd::from)
}

fn own_streams() -> Result<[OwnedFd; 3], runtime::Failure> {
    let copy = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().call("fcntl");
    Ok([
        copy(std::io::stdin().as_fd())?,
        copy(std::io::stdout().as_fd())?,
        copy(std::io::stderr().as_fd())?,
    ])
}

fn adopt([stdin, stdout, stderr]: &[OwnedFd; 3]) -> Result<(), runtime::Failure> {
    dup2_stdin(stdin)
        .and_then(|()| dup2_stdout(stdout))
        .and_then(|()| dup2_stderr(stderr))
        .call("dup2")
}
