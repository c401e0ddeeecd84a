//! `bulkhead-share NUMBER DIRECTORY`: serves DIRECTORY to the FUSE messages of the socket NUMBER, until its other end is
//! closed.
//!
//! The exit status is 0 for that, and 1 for everything else, with the reason on standard error in one line.

use std::ffi::OsString;
use std::io::{Write, stderr};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::process::ExitCode;

use share::{Server, close_others, raise_descriptor_limit};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            // The caller may have closed its end.
            let _ = stderr().write_all(format!("bulkhead-share: {reason}\n").as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let (number, directory) = arguments(std::env::args_os().skip(1).collect()).ok_or(
        "usage: bulkhead-share NUMBER DIRECTORY (NUMBER is the descriptor of a SOCK_SEQPACKET socket, \
         DIRECTORY an absolute path)",
    )?;
    let text = |error: share::Error| error.to_string();
    close_others(number).map_err(text)?;
    let socket = take(number)?;
    let limit = raise_descriptor_limit().map_err(text)?;
    let mut server = Server::open(&directory, limit).map_err(text)?;
    server.confine().map_err(text)?;
    server.serve(socket.as_fd()).map_err(text)
}

fn arguments(words: Vec<OsString>) -> Option<(RawFd, PathBuf)> {
    let [number, directory] = <[OsString; 2]>::try_from(words).ok()?;
    let number = number.to_str()?.parse().ok().filter(|&number| number > 2)?;
    let directory = PathBuf::from(directory);
    directory.is_absolute().then_some((number, directory))
}

#[allow(unsafe_code)]
fn take(number: RawFd) -> Result<OwnedFd, String> {
    // SAFETY: only for this call, which fails if it is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    let flags = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC);
    nix::fcntl::fcntl(borrowed, flags).map_err(|errno| {
        format!("take descriptor {number}: fcntl: {errno:?} ({})", errno.desc())
    })?;
    // SAFETY: it is open, the caller's to give, and taken once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
