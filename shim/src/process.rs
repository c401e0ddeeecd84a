//! One process of a task: its first one, or one that was added by `Exec`.
//!
//! ```text
//!   Added ──▶ Starting ──▶ Running ──▶ Stopped        (exec)
//!   Created ─▶ Starting ──▶ Running ──▶ Stopped       (init)
//! ```
//!
//! An end may be known before the call that makes the process has returned, and events have an order
//! that containerd relies on: an exit is told after the start, and the exit of an init after those of
//! all other processes of its container. So an exit that comes early is *held*, and told by whoever
//! held it.

use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crossbeam_channel::{Receiver, Sender, bounded};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::stdio::{Kept, Named};
use crate::terminal::Terminal;

/// How far a process has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Known, but nothing was made of it yet.
    Added,
    /// An init that waits for its start.
    Created,
    /// A start is under way.
    Starting,
    /// The program runs.
    Running,
    /// It has ended, and that was told.
    Stopped,
}

/// How and when a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// As shells count: 128 + N for signal N.
    pub status: u32,
    /// When that was seen.
    pub at: SystemTime,
}

/// A process of a task.
#[derive(Debug)]
pub struct Process {
    /// The container's id.
    pub container: String,
    /// The exec id; empty for the init.
    pub exec: String,
    /// Its streams by name.
    pub streams: Named,
    /// The process as JSON; empty for the init, which the bundle describes.
    specification: String,
    state: Mutex<State>,
    /// Disconnected when the end was told.
    ended: Receiver<()>,
}

/// What changes in the life of a process.
#[derive(Debug)]
pub struct State {
    /// See [`Phase`].
    pub phase: Phase,
    /// 0 until there is one.
    pub pid: i32,
    /// For signals, while it runs.
    pub handle: Option<runtime::Process>,
    /// The shim's ends of its streams.
    kept: Kept,
    /// Nothing more is to be typed.
    input_closed: bool,
    /// Its terminal, when it has one.
    pub terminal: Option<Terminal>,
    /// How it ended. Before [`Phase::Stopped`] only the shim knows.
    pub exit: Option<Exit>,
    /// How many hold the exit back.
    holds: usize,
    ending: Option<Sender<()>>,
}

impl Process {
    /// A process in its first phase.
    pub fn new(container: &str, exec: &str, streams: Named, phase: Phase) -> Self {
        let (ending, ended) = bounded(0);
        let state = State {
            phase,
            pid: 0,
            handle: None,
            kept: Kept::default(),
            input_closed: false,
            terminal: None,
            exit: None,
            holds: 0,
            ending: Some(ending),
        };
        Self {
            container: container.to_owned(),
            exec: exec.to_owned(),
            streams,
            specification: String::new(),
            state: Mutex::new(state),
            ended,
        }
    }

    /// The process with its description, as JSON.
    pub fn with_specification(self, specification: String) -> Self {
        Self { specification, ..self }
    }

    /// Its description, as JSON.
    pub fn specification(&self) -> &str {
        &self.specification
    }

    /// Its state, which is held for moments only, never over a call.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Disconnected once the end was told.
    pub fn ended(&self) -> &Receiver<()> {
        &self.ended
    }

    /// What events and requests call it: the exec id, or for an init the container's.
    pub fn id(&self) -> &str {
        if self.exec.is_empty() { &self.container } else { &self.exec }
    }

    /// Whether this is the container's first process.
    pub fn is_init(&self) -> bool {
        self.exec.is_empty()
    }
}

impl State {
    /// Whether the process has ended, by its own pidfd.
    pub fn has_ended(&self) -> bool {
        self.handle.as_ref().is_none_or(|process| {
            let mut polled = [PollFd::new(process.pidfd.as_fd(), PollFlags::POLLIN)];
            matches!(poll(&mut polled, PollTimeout::ZERO), Ok(1))
        })
    }

    /// Keeps the shim's ends of the streams.
    pub fn keep(&mut self, kept: Kept) {
        self.kept = kept;
        if self.input_closed {
            self.kept.close_input();
        }
    }

    /// Lets standard input end with its last writer. A client may be done before the process is there.
    pub fn close_input(&mut self) {
        self.input_closed = true;
        self.kept.close_input();
    }

    /// Holds the exit back until [`State::release`].
    pub fn hold(&mut self) {
        self.holds += 1;
    }

    /// Ends one hold. Whether an exit that came meanwhile is due now.
    pub fn release(&mut self) -> bool {
        self.holds -= 1;
        self.due()
    }

    /// Notes the exit. Whether it is due, and not held back.
    pub fn exited(&mut self, exit: Exit) -> bool {
        self.exit = Some(exit);
        if let Some(terminal) = &mut self.terminal {
            terminal.end();
        }
        self.due()
    }

    fn due(&self) -> bool {
        self.holds == 0 && self.exit.is_some() && self.phase != Phase::Stopped
    }

    /// Lets go whoever waits for a process that never came to be.
    pub fn fail(&mut self, status: u32) {
        self.exit = Some(Exit { status, at: SystemTime::now() });
        self.stop();
    }

    /// Tells whoever waits. Its streams are given back.
    pub fn stop(&mut self) {
        self.phase = Phase::Stopped;
        self.handle = None;
        self.kept = Kept::default();
        self.ending = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_that_comes_early_is_told_by_whoever_held_it() {
        let process = Process::new("c", "", Named::default(), Phase::Created);
        let exit = Exit { status: 3, at: SystemTime::UNIX_EPOCH };
        process.state().hold();
        process.state().hold();
        assert!(!process.state().exited(exit));
        assert!(!process.state().release());
        assert!(process.state().release(), "the last one tells it");
        assert!(process.ended().try_recv().is_err_and(|e| e.is_empty()), "still running");
        process.state().stop();
        assert!(process.ended().try_recv().is_err_and(|e| e.is_disconnected()));
    }
}
