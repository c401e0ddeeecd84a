//! When a shim comes to its end, and what must be so from then on.
//!
//! As soon as containerd has the answer to `Shutdown` it may start the next container of the group, of
//! the same name too. The `start` of that must not find this shim, nor may this one make a container
//! still: both would be gone a moment later. So the socket is removed before the answer, under the lock
//! under which `start` looks for a shim, and what comes over older connections is refused.

use std::path::PathBuf;
use std::sync::Arc;

use crossbeam_channel::Sender;

use crate::log::Log;
use crate::pod::Pod;
use crate::socket::{self, Held};

/// The end of one shim.
pub struct Ending {
    pod: Arc<Pod>,
    socket: PathBuf,
    log: Log,
    /// Tells the main thread that nothing is left to do.
    told: Sender<()>,
}

impl Ending {
    /// The end of the shim of `pod`, which listens at `socket`.
    pub fn new(pod: Arc<Pod>, socket: PathBuf, log: Log, told: Sender<()>) -> Self {
        Self { pod, socket, log, told }
    }

    /// Ends the shim, unless it has containers.
    pub fn when_empty(&self) {
        self.close(Pod::close_when_empty);
    }

    /// Ends the shim.
    pub fn now(&self) {
        self.close(Pod::close);
    }

    /// `close` says whether it was this call that closed the pod: a socket of that name may be another
    /// shim's after that.
    fn close(&self, close: fn(&Pod) -> bool) {
        let lock = socket::lock(&self.socket);
        if !close(&self.pod) {
            return;
        }
        if let Err(error) = lock.and_then(|lock| lock.map_or(Ok(()), Held::remove)) {
            self.log.warn(&error.to_string());
        }
        // A full channel has told it already.
        let _ = self.told.try_send(());
    }
}
