//! The queues of a device, of which the driver's half is hostile.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::Broken;

/// Chains of a queue before it is another's turn.
const TURN: usize = 16;

/// The reasons for an interrupt.
const USED: u32 = 1;
pub(super) const CONFIGURATION_CHANGED: u32 = 2;

/// A chain of descriptors that the driver made available.
pub(crate) type Chain<'a> = DescriptorChain<&'a GuestMemoryMmap>;

/// The queues of a device that is set up.
pub(crate) struct Rings {
    pub(crate) memory: GuestMemoryMmap,
    pub(super) queues: Vec<Queue>,
    pub(super) bells: Arc<Vec<EventFd>>,
    pub(super) interrupt: Arc<Interrupt>,
    /// Features that the driver has accepted.
    pub(crate) features: u64,
}

impl Rings {
    /// Lets `work` handle each available chain of `queue`; it answers how many bytes it wrote. After `TURN` of them it
    /// is the turn of others, and the bell rings once more.
    pub(crate) fn each(
        &mut self,
        queue: usize,
        mut work: impl FnMut(&GuestMemoryMmap, Chain<'_>) -> u32,
    ) -> Result<(), Broken> {
        for _ in 0..TURN {
            let Some(chain) = Self::pop(&mut self.queues[queue], &self.memory)? else {
                return self.finish(queue);
            };
            let head = chain.head_index();
            let written = work(&self.memory, chain);
            self.queues[queue].add_used(&self.memory, head, written)?;
        }
        let _ = self.bells[queue].write(1);
        self.notify(queue)
    }

    /// Fills one available chain of `queue`, unless there is none. `work` answers how many bytes it wrote, or that it
    /// has nothing for it: then the chain is still available.
    pub(crate) fn fill(
        &mut self,
        queue: usize,
        work: impl FnOnce(&GuestMemoryMmap, Chain<'_>) -> Option<u32>,
    ) -> Result<Filled, Broken> {
        let Some(chain) = Self::pop_or_wait(&mut self.queues[queue], &self.memory)? else {
            return Ok(Filled::Full);
        };
        let head = chain.head_index();
        match work(&self.memory, chain) {
            Some(written) => {
                self.queues[queue].add_used(&self.memory, head, written)?;
                self.notify(queue)?;
                Ok(Filled::One)
            }
            None => {
                self.queues[queue].go_to_previous_position();
                Ok(Filled::None)
            }
        }
    }

    /// Shows `work` each available chain of `queue`, of which it may keep some for later, or none more. After `TURN`
    /// of them it is the turn of others, and the bell rings once more.
    pub(crate) fn take(
        &mut self,
        queue: usize,
        mut work: impl FnMut(&GuestMemoryMmap, Chain<'_>) -> Fate,
    ) -> Result<(), Broken> {
        for _ in 0..TURN {
            let Some(chain) = Self::pop(&mut self.queues[queue], &self.memory)? else {
                return self.finish(queue);
            };
            let head = chain.head_index();
            match work(&self.memory, chain) {
                Fate::Used(written) => {
                    self.queues[queue].add_used(&self.memory, head, written)?;
                }
                Fate::Kept => {}
                Fate::Later => {
                    self.queues[queue].go_to_previous_position();
                    return self.notify(queue);
                }
            }
        }
        let _ = self.bells[queue].write(1);
        self.notify(queue)
    }

    /// Gives a kept chain back, in which `written` bytes were written.
    pub(crate) fn give_back(
        &mut self,
        queue: usize,
        head: u16,
        written: u32,
    ) -> Result<(), Broken> {
        self.queues[queue].add_used(&self.memory, head, written)?;
        self.notify(queue)
    }

    /// As `pop`; without a chain the next one will ring the bell, which with `EVENT_IDX` has to be asked for.
    fn pop_or_wait<'a>(
        queue: &mut Queue,
        memory: &'a GuestMemoryMmap,
    ) -> Result<Option<Chain<'a>>, Broken> {
        match Self::pop(queue, memory)? {
            None if queue.ready() && queue.enable_notification(memory)? => Self::pop(queue, memory),
            chain => Ok(chain),
        }
    }

    fn pop<'a>(
        queue: &mut Queue,
        memory: &'a GuestMemoryMmap,
    ) -> Result<Option<Chain<'a>>, Broken> {
        if !queue.ready() {
            return Ok(None);
        }
        Ok(queue.iter(memory)?.next())
    }

    /// Nothing is left: the next chain rings the bell. One may have come meanwhile, whose bell did not ring.
    fn finish(&mut self, queue: usize) -> Result<(), Broken> {
        if self.queues[queue].ready() && self.queues[queue].enable_notification(&self.memory)? {
            let _ = self.bells[queue].write(1);
        }
        self.notify(queue)
    }

    fn notify(&mut self, queue: usize) -> Result<(), Broken> {
        if self.queues[queue].ready() && self.queues[queue].needs_notification(&self.memory)? {
            self.interrupt.raise(USED);
        }
        Ok(())
    }
}

/// What came of [`Rings::fill`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Filled {
    /// A chain was used.
    One,
    /// There was nothing to put into it.
    None,
    /// The driver has made none available.
    Full,
}

/// What becomes of a chain that [`Rings::take`] has shown.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It goes back, with so many bytes written.
    Used(u32),
    /// It goes back by [`Rings::give_back`].
    Kept,
    /// It and those behind it stay available, and no bell tells of them: the device looks by itself.
    Later,
}

/// The interrupt line, and what it is raised for.
pub(super) struct Interrupt {
    pub(super) status: AtomicU32,
    pub(super) line: EventFd,
}

impl Interrupt {
    pub(super) fn raise(&self, reason: u32) {
        self.status.fetch_or(reason, Ordering::SeqCst);
        // Fails when the counter is full: then it is raised.
        let _ = self.line.write(1);
    }
}
