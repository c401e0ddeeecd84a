use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use clap::Args;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use runtime::{Call, Container, Context, Status};
use serde::Serialize;

use crate::program::Failure;
use crate::session::Session;
use crate::{duration, output};

/// Print figures of a container at intervals, and every kill for want of memory
#[derive(Debug, Args)]
pub struct Events {
    /// Time between figures
    #[arg(long, value_name = "duration", default_value = "5s", value_parser = duration::parse)]
    interval: Duration,
    /// Print the figures once
    #[arg(long)]
    stats: bool,
    /// The container's name
    #[arg(value_name = "container-id")]
    id: String,
}

/// A line of output.
#[derive(Serialize)]
struct Event<'a, T> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<T>,
}

impl super::Command for Events {
    const NAME: &'static str = "events";

    fn run(self, session: &Session) -> Result<u8, Failure> {
        let container = session.container(&self.id)?;
        if self.interval.is_zero() {
            return Err(Failure::message("duration interval must be greater than 0"));
        }
        if container.status()? == Status::Stopped {
            let message = format!("container with id {} is not running", self.id);
            return Err(Failure::message(message));
        }
        if self.stats {
            stats(&container, &self.id)?;
            return Ok(0);
        }
        let pidfd = container.pidfd()?;
        let timeout = PollTimeout::try_from(self.interval).unwrap_or(PollTimeout::MAX);
        // Waiting for the kernel's word blocks, so it has a thread of its own; no process is made here.
        std::thread::scope(|scope| {
            let watch = scope.spawn(|| watch_oom(&container, &self.id, pidfd.as_fd()));
            let figures = loop {
                match ended(pidfd.as_fd(), timeout) {
                    Ok(true) => break Ok(()),
                    Ok(false) => {}
                    Err(failure) => break Err(failure),
                }
                // A container that ends while it is measured is no failure.
                if let Err(failure) = stats(&container, &self.id)
                    && !ended(pidfd.as_fd(), PollTimeout::ZERO)?
                {
                    break Err(failure);
                }
            };
            let oom = watch.join().unwrap_or(Ok(()));
            figures.and(oom)
        })?;
        Ok(0)
    }
}

fn stats(container: &Container, id: &str) -> Result<(), Failure> {
    print(&Event { kind: "stats", id, data: Some(container.stats()?) })
}

fn print(event: &impl Serialize) -> Result<(), Failure> {
    output::write(&(output::json(event)? + "\n"))
}

fn watch_oom(container: &Container, id: &str, until: BorrowedFd<'_>) -> Result<(), Failure> {
    let mut printed = Ok(());
    container.watch_oom()?.run(until, &mut |_| {
        let event = Event::<()> { kind: "oom", id, data: None };
        printed = print(&event);
    })?;
    printed
}

/// Waits for the end of the container, at most this long.
fn ended(pidfd: BorrowedFd<'_>, timeout: PollTimeout) -> Result<bool, Failure> {
    match poll(&mut [PollFd::new(pidfd, PollFlags::POLLIN)], timeout) {
        Err(Errno::EINTR) => Ok(false),
        result => Ok(result.call("poll").context("wait for", "container")? > 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let event = Event::<()> { kind: "oom", id: "c", data: None };
        assert_eq!(output::json(&event).unwrap(), r#"{"type":"oom","id":"c"}"#);
    }
}
