//! When standard input ends.
//!
//! The shim holds an end to write to every FIFO that is a standard input, or the process would see its
//! end before a client has connected (see [`crate::stdio`]). It lets go of it when the client says
//! `CloseIO`, or when a client closes the FIFO without a word, as `ctr task exec` does and one that was
//! killed: inotify(7) tells of that, as of every close of an end that could be written to. From then on
//! the input ends with its last writer.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use runtime::{Call, Context, quote};

/// The inputs of all processes.
#[derive(Clone, Debug)]
pub struct Inputs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    inotify: Inotify,
    held: Mutex<HashMap<WatchDescriptor, OwnedFd>>,
}

/// Keeps one input from ending, until it is dropped or a client has closed the FIFO.
#[derive(Debug)]
pub struct Held {
    inputs: Inputs,
    watch: WatchDescriptor,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.inputs.release(self.watch);
    }
}

impl Inputs {
    /// No inputs.
    ///
    /// # Errors
    /// Those of inotify_init1(2).
    pub fn new() -> runtime::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
            .call("inotify_init1")
            .context("watch", "standard inputs")?;
        Ok(Self(Arc::new(Inner { inotify, held: Mutex::default() })))
    }

    /// Opens the FIFO at `path` by `open`, which returns what the process gets and the end to hold.
    ///
    /// # Errors
    /// Those of `open` and inotify_add_watch(2).
    pub fn hold<T>(
        &self,
        path: &Path,
        open: impl FnOnce() -> runtime::Result<(T, OwnedFd)>,
    ) -> runtime::Result<(T, Held)> {
        // Before there is a reader: until then a client waits in open(2), and cannot close.
        let flags = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_ONESHOT;
        let watch = self
            .0
            .inotify
            .add_watch(path, flags)
            .call("inotify_add_watch")
            .context("watch", quote(path))?;
        let held = Held { inputs: self.clone(), watch };
        let (given, end) = open()?;
        self.held().insert(watch, end);
        Ok((given, held))
    }

    /// Lets go of the inputs that clients have closed. Call it when [`Inputs::as_fd`] is readable.
    pub fn attend(&self) {
        loop {
            match self.0.inotify.read_events() {
                Ok(events) => events.iter().for_each(|event| drop(self.held().remove(&event.wd))),
                Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }

    fn release(&self, watch: WatchDescriptor) {
        drop(self.held().remove(&watch));
        // EINVAL: it went with its event.
        let _ = self.0.inotify.rm_watch(watch);
    }

    fn held(&self) -> MutexGuard<'_, HashMap<WatchDescriptor, OwnedFd>> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Inputs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.inotify.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::os::unix::fs::OpenOptionsExt;

    use nix::poll::{PollFd, PollFlags, poll};

    use super::*;

    #[test]
    fn an_input_ends_with_its_client() {
        let directory = crate::testing::directory("stdin");
        let path = directory.join("in");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let inputs = Inputs::new().unwrap();
        let open = || {
            let mut reader = OpenOptions::new();
            reader.read(true).custom_flags(nix::libc::O_NONBLOCK);
            let reader = reader.open(&path).unwrap();
            Ok((reader, OwnedFd::from(OpenOptions::new().write(true).open(&path).unwrap())))
        };
        let (reader, held) = inputs.hold(&path, open).unwrap();
        let ended = || {
            let mut polled = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
            poll(&mut polled, 0u8).unwrap();
            polled[0].revents().unwrap().contains(PollFlags::POLLHUP)
        };
        inputs.attend();
        assert!(!ended(), "no client was there yet");
        let client = OpenOptions::new().write(true).open(&path).unwrap();
        inputs.attend();
        assert!(!ended(), "a client is there");
        drop(client);
        let mut polled = [PollFd::new(inputs.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut polled, 5000u16).unwrap(), 1);
        inputs.attend();
        assert!(ended());
        drop(held);
        std::fs::remove_dir_all(directory).unwrap();
    }
}
