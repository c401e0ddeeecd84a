//! Virtio devices: what each kind has to be able to do, and what it is given.

mod rings;
mod transport;

use std::io;
use std::os::fd::AsRawFd;

use event_manager::{EventOps, Events};
use vmm_sys_util::epoll::EventSet;

pub(crate) use self::rings::{Chain, Fate, Filled, Rings};
pub(crate) use self::transport::{Loop, NOTIFY, Transport};

/// Entries of each queue, at most.
pub(crate) const QUEUE_SIZE: u16 = 256;

/// What a kind of device does. All of it is called in the event loop, except for the first four.
pub(crate) trait Device: Send {
    /// Its number in section 5 of the specification.
    fn id(&self) -> u32;
    /// The features it offers, without those of all devices.
    fn features(&self) -> u64;
    /// How many queues it has.
    fn queues(&self) -> usize;
    /// Its configuration space.
    fn configuration(&self) -> &[u8];
    /// The driver has set it up, and takes what comes.
    fn begin(&mut self, _rings: &mut Rings, _watch: &mut Watch<'_, '_>) {}
    /// The driver rang the bell of `queue`.
    fn serve(
        &mut self,
        queue: usize,
        rings: &mut Rings,
        watch: &mut Watch<'_, '_>,
    ) -> Result<(), Broken>;
    /// A descriptor that it watches is ready.
    fn ready(
        &mut self,
        _token: u32,
        _rings: &mut Rings,
        _watch: &mut Watch<'_, '_>,
    ) -> Result<(), Broken> {
        Ok(())
    }
    /// The driver has reset it: it forgets what it knew, and watches nothing.
    fn end(&mut self, _watch: &mut Watch<'_, '_>) {}
}

/// The driver broke the rules in a way that leaves nothing to go on with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Broken;

impl From<virtio_queue::Error> for Broken {
    fn from(_: virtio_queue::Error) -> Self {
        Self
    }
}

/// The event loop, as a device sees it. Tokens are the device's own.
pub(crate) struct Watch<'a, 'b>(&'a mut EventOps<'b>);

/// Tokens of devices begin behind those of the transport: bells, then `CHANGED`.
const CHANGED: u32 = 64;
const TOKENS: u32 = 65;

impl Watch<'_, '_> {
    /// Begins to wait for `events` of a descriptor.
    pub(crate) fn add(
        &mut self,
        fd: &impl AsRawFd,
        token: u32,
        events: EventSet,
    ) -> io::Result<()> {
        self.0
            .add(Events::with_data(fd, token + TOKENS, events))
            .map_err(|_| io::Error::last_os_error())
    }

    /// Waits for other events of it.
    pub(crate) fn modify(&mut self, fd: &impl AsRawFd, token: u32, events: EventSet) {
        let _ = self.0.modify(Events::with_data(fd, token + TOKENS, events));
    }

    /// Waits for it no longer. To be called before the descriptor is closed.
    pub(crate) fn remove(&mut self, fd: &impl AsRawFd) {
        let _ = self.0.remove(Events::empty(fd));
    }
}
