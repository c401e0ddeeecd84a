//! A daemon from its start to its end.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use oci_tests::check::{Res, cut, fail};
use oci_tests::process::ends_within;

use crate::stage::{Running, Stage};

/// How long a daemon may take to end when it is asked to.
const PATIENCE: Duration = Duration::from_secs(20);

/// A daemon that runs.
pub struct Daemon {
    name: String,
    running: Running,
}

impl Daemon {
    /// Starts a daemon and waits until `ready` says yes.
    pub fn start(
        stage: &Stage,
        words: &[&str],
        envs: &[(&str, &str)],
        mut ready: impl FnMut() -> Res<bool>,
    ) -> Res<Self> {
        let mut cmd = stage.cmd(words);
        for (key, value) in envs {
            cmd = cmd.env(key, value);
        }
        let daemon = Self { name: words[0].to_owned(), running: cmd.spawn()? };
        loop {
            if !daemon.running.alive()? {
                return fail(format!("{} ended: {}", daemon.name, daemon.last_words()));
            }
            if ready()? {
                return Ok(daemon);
            }
            if stage.remaining().is_zero() {
                return fail(format!("{} does not answer: {}", daemon.name, daemon.last_words()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The process.
    pub fn pid(&self) -> i32 {
        self.running.pid()
    }

    /// The end of its log.
    fn last_words(&self) -> String {
        let log = self.running.complained();
        let lines: Vec<&str> = log.lines().rev().take(3).collect();
        cut(&lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
    }

    /// Asks it to end, and waits.
    pub fn stop(self) -> Res {
        self.running.signal(Signal::SIGTERM)?;
        if !ends_within(self.pid(), PATIENCE)? {
            let name = self.name.clone();
            self.running.kill();
            return fail(format!("{name} did not end on SIGTERM"));
        }
        Ok(())
    }

    /// Kills it.
    pub fn kill(self) {
        self.running.kill();
    }
}

/// Whether a socket takes connections.
pub fn answers(socket: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(socket).is_ok()
}
