//! The part of a guest's driver, without a guest: registers and rings, as hostile as a test wants them.

use std::sync::{Arc, Mutex};

use event_manager::{EventManager, MutEventSubscriber, SubscriberOps};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::bus::Registers;
use crate::virtio::{Device, Loop, Transport};

/// Entries of each queue.
pub(crate) const SIZE: u16 = 16;
/// Where tests put data.
pub(crate) const DATA: u64 = 0x10_0000;
pub(crate) const MEMORY: u64 = 0x40_0000;

/// One descriptor.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    pub(crate) address: u64,
    pub(crate) length: u32,
    /// The device writes it.
    pub(crate) writable: bool,
}

/// What the device reads.
pub(crate) fn readable(address: u64, length: u32) -> Part {
    Part { address, length, writable: false }
}

/// What the device writes.
pub(crate) fn writable(address: u64, length: u32) -> Part {
    Part { address, length, writable: true }
}

/// A driver and its device.
pub(crate) struct Driver {
    transport: Arc<Transport>,
    pub(crate) memory: GuestMemoryMmap,
    events: EventManager<Arc<Mutex<dyn MutEventSubscriber>>>,
    line: EventFd,
    /// It rings only when the device has asked for it (`EVENT_IDX`).
    pub(crate) event_index: bool,
    /// The next free descriptor of each queue, and how many chains were made available.
    descriptors: Vec<u16>,
    available: Vec<u16>,
}

fn table(queue: usize) -> u64 {
    0x1_0000 * (queue as u64 + 1)
}

fn available(queue: usize) -> u64 {
    table(queue) + 0x2000
}

fn used(queue: usize) -> u64 {
    table(queue) + 0x4000
}

impl Driver {
    pub(crate) fn new(device: impl Device + 'static) -> Self {
        let queues = device.queues();
        let memory = crate::memory::create((MEMORY >> 20) as u32).unwrap();
        let line = EventFd::new(EFD_NONBLOCK).unwrap();
        let transport =
            Transport::new(Box::new(device), memory.clone(), line.try_clone().unwrap()).unwrap();
        let transport = Arc::new(transport);
        let mut events = EventManager::new().unwrap();
        let part: Arc<Mutex<dyn MutEventSubscriber>> =
            Arc::new(Mutex::new(Loop(transport.clone())));
        events.add_subscriber(part);
        Self {
            transport,
            memory,
            events,
            line,
            event_index: false,
            descriptors: vec![0; queues],
            available: vec![0; queues],
        }
    }

    /// A driver whose device works.
    pub(crate) fn working(device: impl Device + 'static) -> Self {
        Self::working_with(device, false)
    }

    /// The same, with or without `EVENT_IDX`.
    pub(crate) fn working_with(device: impl Device + 'static, event_index: bool) -> Self {
        let mut driver = Self::new(device);
        driver.event_index = event_index;
        driver.set_up();
        assert_eq!(driver.get(0x70), 15);
        driver
    }

    pub(crate) fn get(&self, register: u64) -> u32 {
        let mut bytes = [0; 4];
        self.transport.read(register, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    pub(crate) fn set(&self, register: u64, value: u32) {
        self.transport.write(register, &value.to_le_bytes());
    }

    /// How many queues the device has.
    pub(crate) fn queues(&self) -> usize {
        self.available.len()
    }

    /// Reads and writes registers with any width.
    pub(crate) fn access(&self, offset: u64, bytes: &mut [u8]) {
        self.transport.read(offset, bytes);
        self.transport.write(offset, bytes);
    }

    /// The configuration space.
    pub(crate) fn configuration(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0x55; length];
        self.transport.read(0x100 + offset, &mut bytes);
        bytes
    }

    /// From a reset to the point where queues are set up.
    pub(crate) fn negotiate(&self) {
        let low = if self.event_index { 1 << 29 } else { 0 };
        for (register, value) in [
            (0x70, 0),
            (0x70, 1),
            (0x70, 3),
            (0x24, 0),
            (0x20, low),
            (0x24, 1),
            (0x20, 1),
            (0x70, 11),
        ] {
            self.set(register, value);
        }
    }

    /// Sets up one queue.
    pub(crate) fn set_queue(&self, queue: usize) {
        for (register, value) in [
            (0x30, queue as u64),
            (0x38, SIZE.into()),
            (0x80, table(queue)),
            (0x84, 0),
            (0x90, available(queue)),
            (0x94, 0),
            (0xa0, used(queue)),
            (0xa4, 0),
            (0x44, 1),
        ] {
            self.set(register, value as u32);
        }
    }

    /// Everything, as a good driver does it.
    pub(crate) fn set_up(&mut self) {
        self.negotiate();
        for queue in 0..self.available.len() {
            let zero = [0; 0x6000];
            self.memory.write_slice(&zero, GuestAddress(table(queue))).unwrap();
            (self.descriptors[queue], self.available[queue]) = (0, 0);
            self.set_queue(queue);
        }
        self.set(0x70, 15);
        self.turn();
    }

    /// Makes a chain available and rings the bell.
    pub(crate) fn offer(&mut self, queue: usize, parts: &[Part]) -> u16 {
        let head = self.descriptors[queue];
        for (index, part) in parts.iter().enumerate() {
            let number = (head + index as u16) % SIZE;
            let more = u16::from(index + 1 < parts.len());
            let flags = more | u16::from(part.writable) << 1;
            self.descriptor(queue, number, *part, flags, (number + 1) % SIZE);
        }
        self.descriptors[queue] = (head + parts.len() as u16) % SIZE;
        self.make_available(queue, head);
        head
    }

    /// Writes one descriptor.
    pub(crate) fn descriptor(&self, queue: usize, number: u16, part: Part, flags: u16, next: u16) {
        let at = GuestAddress(table(queue) + u64::from(number) * 16);
        let bytes = [
            &part.address.to_le_bytes()[..],
            &part.length.to_le_bytes(),
            &flags.to_le_bytes(),
            &next.to_le_bytes(),
        ]
        .concat();
        self.memory.write_slice(&bytes, at).unwrap();
    }

    /// Makes the chain that begins with `head` available, and rings the bell.
    pub(crate) fn make_available(&mut self, queue: usize, head: u16) {
        let slot = u64::from(self.available[queue] % SIZE);
        self.memory.write_obj(head, GuestAddress(available(queue) + 4 + slot * 2)).unwrap();
        self.available[queue] = self.available[queue].wrapping_add(1);
        self.set_available(queue, self.available[queue]);
    }

    /// Sets the index of the available ring, whatever it means, and rings the bell.
    pub(crate) fn set_available(&mut self, queue: usize, index: u16) {
        let at = GuestAddress(available(queue) + 2);
        let before: u16 = self.memory.read_obj(at).unwrap();
        self.memory.write_obj(index, at).unwrap();
        // Behind the entries of the used ring; section 2.7.10 of the specification.
        let asked = used(queue) + 4 + u64::from(SIZE) * 8;
        let asked: u16 = self.memory.read_obj(GuestAddress(asked)).unwrap();
        let crossed = index.wrapping_sub(asked).wrapping_sub(1) < index.wrapping_sub(before);
        if !self.event_index || crossed {
            self.set(0x50, queue as u32);
        }
        self.turn();
    }

    /// Lets the device work until nothing is ready.
    pub(crate) fn turn(&mut self) {
        for _ in 0..1000 {
            if self.events.run_with_timeout(0).unwrap() == 0 {
                return;
            }
        }
        panic!("the event loop has no rest");
    }

    /// Lets it work, and waits for something to do for up to a second.
    pub(crate) fn wait(&mut self) {
        self.events.run_with_timeout(1000).unwrap();
        self.turn();
    }

    /// How many chains the device has used.
    pub(crate) fn count(&self, queue: usize) -> u16 {
        self.memory.read_obj(GuestAddress(used(queue) + 2)).unwrap()
    }

    /// Head and length of the chain that was used as number `index`; the ring has the last `SIZE`.
    pub(crate) fn entry(&self, queue: usize, index: u16) -> (u32, u32) {
        let at = GuestAddress(used(queue) + 4 + u64::from(index % SIZE) * 8);
        let [id, length]: [u32; 2] = self.memory.read_obj(at).unwrap();
        (id, length)
    }

    /// The last chains that the device has used.
    pub(crate) fn used(&self, queue: usize) -> Vec<(u32, u32)> {
        let count = self.count(queue);
        (count.saturating_sub(SIZE)..count).map(|index| self.entry(queue, index)).collect()
    }

    /// How often the interrupt was raised since the last time.
    pub(crate) fn interrupts(&self) -> u64 {
        self.line.read().unwrap_or(0)
    }

    pub(crate) fn put(&self, at: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(at)).unwrap();
    }

    /// Writes what of it is memory.
    pub(crate) fn try_put(&self, at: u64, bytes: &[u8]) {
        let _ = self.memory.write(bytes, GuestAddress(at));
    }

    pub(crate) fn peek(&self, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }
}
