//! Programs that were started: how they ended, and whether they have.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::check::{Res, cut, skip};
use crate::sys;

/// How a command ended and what it printed.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// Its exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Output {
    /// Skips when the runtime failed for want of a privilege that this machine's root does not have.
    pub fn excuse(&self) -> Res {
        if self.code != Some(0) && self.err.contains("RLIM_MEMLOCK") {
            return skip(
                "this runtime needs CAP_SYS_RESOURCE for device rules, which this machine lacks",
            );
        }
        Ok(())
    }

    /// One line for a failure's reason.
    pub fn brief(&self) -> String {
        format!("code {:?} signal {:?}: {}", self.code, self.signal, cut(&self.err))
    }
}

/// Whether a process ends before the deadline.
pub fn ends_within(pid: i32, deadline: Duration) -> Res<bool> {
    let pidfd = match sys::pidfd_open(pid) {
        Ok(pidfd) => pidfd,
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(true),
        Err(error) => return Err(error.into()),
    };
    Ok(readable(&pidfd, deadline)?)
}

/// Whether a descriptor becomes readable before the deadline.
pub fn readable(fd: &impl AsFd, deadline: Duration) -> nix::Result<bool> {
    let until = Instant::now() + deadline;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno),
            Ok(count) => return Ok(count > 0),
        }
    }
}
