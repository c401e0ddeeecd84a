//! Standard input of an action: read to its end, bounded in length and in time.
//!
//! containerd closes it. Whoever starts the program by hand, or hands on a pipe that stays open, must
//! not make it wait for ever.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::read;
use runtime::{Call, Context, Error, ErrorKind, Result};

/// How long the caller may take.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Far more than any options; containerd's own shims stop at 10 MiB.
const MAX: usize = 1 << 20;

const WHAT: &str = "standard input";

/// Everything until the end. Nothing at all within `patience` counts as empty.
///
/// # Errors
/// `Invalid` when there is too much, or when something came and no end did: half a message may well
/// parse.
pub fn read_all(input: BorrowedFd<'_>, patience: Duration) -> Result<Vec<u8>> {
    let deadline = Instant::now() + patience;
    let mut all = Vec::new();
    let mut part = [0; 16 << 10];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up: a wait of less than a millisecond would be none.
        let left =
            PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(input, PollFlags::POLLIN)], left) {
            Err(Errno::EINTR) => continue,
            Ok(0) if all.is_empty() => return Ok(all),
            Ok(0) => return Err(invalid("was not closed in time")),
            polled => polled.call("poll").context("wait for", WHAT)?,
        };
        match read(input, &mut part) {
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            // Started without one.
            Err(Errno::EBADF) | Ok(0) => return Ok(all),
            length => all.extend_from_slice(&part[..length.call("read").context("read", WHAT)?]),
        }
        if all.len() > MAX {
            return Err(invalid("is too long"));
        }
    }
}

fn invalid(reason: &str) -> Error {
    Error::new(ErrorKind::Invalid, "read", WHAT, reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write;
    use std::os::fd::AsFd;

    #[test]
    fn ends_and_deadlines() {
        let short = Duration::from_millis(5);
        let (read, write) = std::io::pipe().unwrap();
        assert!(read_all(read.as_fd(), short).unwrap().is_empty());
        (&write).write_all(b"abc").unwrap();
        let error = read_all(read.as_fd(), short).unwrap_err().to_string();
        assert_eq!(error, "read standard input: was not closed in time");
        (&write).write_all(b"abc").unwrap();
        drop(write);
        assert_eq!(read_all(read.as_fd(), PATIENCE).unwrap(), b"abc");
        let null = File::open("/dev/null").unwrap();
        assert!(read_all(null.as_fd(), PATIENCE).unwrap().is_empty());
        let zero = File::open("/dev/zero").unwrap();
        let error = read_all(zero.as_fd(), PATIENCE).unwrap_err().to_string();
        assert_eq!(error, "read standard input: is too long");
    }
}
