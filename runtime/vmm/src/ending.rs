//! How a machine comes to its end: the first thread that has a reason says it, and the others stop.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};

use nix::sys::signal::{
    SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, pthread_sigmask, sigaction,
};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::error::{Error, Result};

/// Why the machine does not run any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The guest switched itself off.
    PowerOff,
    /// The guest asked for a reset: what Linux does after a panic with `panic=-1`, or a reboot.
    Reset,
    /// The guest's kernel said that it panics.
    Panic,
    /// A processor met an exception while it handled another, twice over.
    TripleFault,
    /// The monitor itself could not go on.
    Failed(Error),
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => f.write_str("the guest switched itself off"),
            Self::Reset => f.write_str("the guest asked for a reset"),
            Self::Panic => f.write_str("the guest's kernel panicked"),
            Self::TripleFault => f.write_str("the guest died of a triple fault"),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

/// Lets SIGTERM end the process at once, with exit status 143, whatever its threads do.
///
/// Without this it would do nothing in a process that is the first of its pid namespace, which the monitor's is, and
/// as little where whoever started it has blocked the signal.
///
/// # Errors
///
/// The signal's action cannot be set.
#[allow(unsafe_code)]
pub fn end_when_told() -> Result<()> {
    extern "C" fn end(signal: libc::c_int) {
        // SAFETY: it may be called in a handler, and does not return.
        unsafe { libc::_exit(128 + signal) }
    }
    let error =
        |call| move |errno: nix::Error| Error::io("prepare to be told to end", call, &errno.into());
    let action = SigAction::new(SigHandler::Handler(end), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler touches nothing of the process.
    unsafe { sigaction(Signal::SIGTERM, &action) }.map_err(error("sigaction"))?;
    let signals = SigSet::from(Signal::SIGTERM);
    pthread_sigmask(SigmaskHow::SIG_UNBLOCK, Some(&signals), None).map_err(error("sigprocmask"))
}

/// Where threads say that the machine ends. Clones are the same place.
#[derive(Clone)]
pub(crate) struct End {
    reason: Arc<Mutex<Option<Ending>>>,
    event: Arc<EventFd>,
}

impl End {
    pub(crate) fn new() -> io::Result<Self> {
        let event = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
        Ok(Self { reason: Arc::default(), event: Arc::new(event) })
    }

    /// Ends the machine for `reason`, unless another was first.
    pub(crate) fn say(&self, reason: Ending) {
        self.reason.lock().expect("no holder panics").get_or_insert(reason);
        // Fails when the counter is full, that is, when it has been said.
        let _ = self.event.write(1);
    }

    /// The reason, once there is one.
    pub(crate) fn reason(&self) -> Option<Ending> {
        self.reason.lock().expect("no holder panics").clone()
    }

    /// Readable from the moment that there is a reason.
    pub(crate) fn event(&self) -> &EventFd {
        &self.event
    }
}
