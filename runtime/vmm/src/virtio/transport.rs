//! virtio-mmio: the registers by which a guest's driver finds, sets up and rings a device.
//!
//! Virtual I/O Device 1.2, sections 2.1 (status), 3.1 (the order of setting up) and 4.2 (registers). The driver is
//! hostile: what comes out of order is ignored, a ring outside of memory or with an impossible index breaks the
//! device, and a broken device does nothing until the driver resets it.
//!
//! Two threads meet here. A processor reads and writes registers; the event loop hears the bells, which KVM rings
//! without leaving the guest, and lets the device work. They share `State` under its lock; the interrupt's
//! status, which the guest reads at each interrupt, is beside it, so that nobody waits for a disk to read it.
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use event_manager::{EventOps, Events, MutEventSubscriber};
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::rings::{CONFIGURATION_CHANGED, Interrupt, Rings};
use super::{Broken, CHANGED, Device, QUEUE_SIZE, TOKENS, Watch};
use crate::bus::Registers;

/// The register that rings a queue's bell.
pub(crate) const NOTIFY: u64 = 0x50;

const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
const VENDOR: u32 = u32::from_le_bytes(*b"BLKH");
const CONFIGURATION: u64 = 0x100;

const F_INDIRECT_DESC: u64 = 1 << 28;
const F_EVENT_IDX: u64 = 1 << 29;
const F_VERSION_1: u64 = 1 << 32;

const ACKNOWLEDGE: u32 = 1;
const DRIVER: u32 = 2;
const DRIVER_OK: u32 = 4;
const FEATURES_OK: u32 = 8;
const NEEDS_RESET: u32 = 64;
const FAILED: u32 = 128;

/// A device on the bus.
pub(crate) struct Transport {
    state: Mutex<State>,
    interrupt: Arc<Interrupt>,
    bells: Arc<Vec<EventFd>>,
    /// The driver has set the device up, or reset it.
    changed: EventFd,
}

struct State {
    device: Box<dyn Device>,
    status: u32,
    /// Which half of the features is read and written.
    feature_halves: [u32; 2],
    queue: usize,
    rings: Rings,
    /// The device works, as the event loop has seen it.
    working: bool,
    /// The driver has reset it while it worked.
    reset: bool,
}

impl Transport {
    /// Registers for `device`, which interrupts by `line`.
    pub(crate) fn new(
        device: Box<dyn Device>,
        memory: GuestMemoryMmap,
        line: EventFd,
    ) -> io::Result<Self> {
        let event = || EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK);
        let bells = (0..device.queues()).map(|_| event()).collect::<io::Result<Vec<_>>>()?;
        let (bells, interrupt) =
            (Arc::new(bells), Arc::new(Interrupt { status: AtomicU32::new(0), line }));
        let queue = || Queue::new(QUEUE_SIZE).expect("the size is a power of two");
        let queues = (0..device.queues()).map(|_| queue()).collect();
        let rings = Rings {
            memory,
            queues,
            bells: bells.clone(),
            interrupt: interrupt.clone(),
            features: 0,
        };
        let state = State {
            device,
            status: 0,
            feature_halves: [0; 2],
            queue: 0,
            rings,
            working: false,
            reset: false,
        };
        Ok(Self { state: Mutex::new(state), interrupt, bells, changed: event()? })
    }

    /// The bells of its queues, in their order.
    pub(crate) fn bells(&self) -> &[EventFd] {
        &self.bells
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    fn read_register(&self, offset: u64) -> u32 {
        if offset == 0x60 {
            return self.interrupt.status.load(Ordering::SeqCst);
        }
        let state = self.state();
        match offset {
            0x00 => MAGIC,
            0x04 => VERSION,
            0x08 => state.device.id(),
            0x0c => VENDOR,
            0x10 => half(state.offered(), state.feature_halves[0]),
            0x34 => state.selected().map_or(0, |queue| queue.max_size().into()),
            0x44 => state.selected().map_or(0, |queue| queue.ready().into()),
            0x70 => state.status,
            // No shared memory: its length reads as ones.
            0xb0..=0xbc => u32::MAX,
            _ => 0,
        }
    }

    fn write_register(&self, offset: u64, value: u32) {
        if offset == 0x64 {
            self.interrupt.status.fetch_and(!value, Ordering::SeqCst);
            return;
        }
        let mut state = self.state();
        match offset {
            0x14 => state.feature_halves[0] = value,
            0x20 => state.accept(value),
            0x24 => state.feature_halves[1] = value,
            0x30 => state.queue = value as usize,
            0x50 => {
                // KVM rings the bells; only what it could not match comes here.
                if let Some(bell) = self.bells.get(value as usize) {
                    let _ = bell.write(1);
                }
            }
            0x70 => {
                if state.set_status(value, &self.interrupt) {
                    let _ = self.changed.write(1);
                }
            }
            _ => state.set_queue(offset, value),
        }
    }
}

impl State {
    fn offered(&self) -> u64 {
        self.device.features() | F_VERSION_1 | F_EVENT_IDX | F_INDIRECT_DESC
    }

    fn selected(&self) -> Option<&Queue> {
        self.rings.queues.get(self.queue)
    }

    fn accept(&mut self, value: u32) {
        if self.status & (DRIVER | FEATURES_OK) == DRIVER {
            let features = &mut self.rings.features;
            match self.feature_halves[1] {
                0 => *features = (*features & !0xffff_ffff) | u64::from(value),
                1 => *features = (*features & 0xffff_ffff) | u64::from(value) << 32,
                _ => {}
            }
        }
    }

    /// Follows the driver; answers whether the event loop has to look.
    fn set_status(&mut self, value: u32, interrupt: &Interrupt) -> bool {
        if value == 0 {
            return self.reset(interrupt);
        }
        // Bits are only added, and each after those before it.
        let added = value & !self.status;
        if value & self.status & !NEEDS_RESET != self.status & !NEEDS_RESET {
            return false;
        }
        match added {
            FAILED | ACKNOWLEDGE => self.status |= added,
            DRIVER if self.status & ACKNOWLEDGE != 0 => self.status |= added,
            FEATURES_OK if self.status & DRIVER != 0 => {
                let accepted = self.rings.features;
                if accepted & !self.offered() == 0 && accepted & F_VERSION_1 != 0 {
                    self.status |= added;
                }
            }
            DRIVER_OK if self.status & FEATURES_OK != 0 => {
                self.status |= added;
                return self.begin(interrupt);
            }
            _ => {}
        }
        false
    }

    fn begin(&mut self, interrupt: &Interrupt) -> bool {
        let Rings { queues, memory, features, .. } = &mut self.rings;
        for queue in queues.iter_mut().filter(|queue| queue.ready()) {
            if !queue.is_valid(memory) {
                self.break_down(interrupt);
                return false;
            }
            queue.set_event_idx(*features & F_EVENT_IDX != 0);
        }
        true
    }

    fn reset(&mut self, interrupt: &Interrupt) -> bool {
        self.status = 0;
        self.feature_halves = [0; 2];
        self.queue = 0;
        self.rings.features = 0;
        self.rings.queues.iter_mut().for_each(QueueT::reset);
        interrupt.status.store(0, Ordering::SeqCst);
        self.reset = self.working;
        self.reset
    }

    /// Section 2.1.2: the device tells that it cannot go on.
    fn break_down(&mut self, interrupt: &Interrupt) {
        self.status |= NEEDS_RESET;
        interrupt.raise(CONFIGURATION_CHANGED);
    }

    /// A queue is set up between `FEATURES_OK` and `DRIVER_OK`.
    fn set_queue(&mut self, offset: u64, value: u32) {
        if self.status & (FEATURES_OK | DRIVER_OK | FAILED | NEEDS_RESET) != FEATURES_OK {
            return;
        }
        let Some(queue) = self.rings.queues.get_mut(self.queue) else { return };
        match offset {
            // The crate keeps the old value when the new one is none.
            0x38 => queue.set_size(u16::try_from(value).unwrap_or(0)),
            0x44 => queue.set_ready(value == 1),
            0x80 => queue.set_desc_table_address(Some(value), None),
            0x84 => queue.set_desc_table_address(None, Some(value)),
            0x90 => queue.set_avail_ring_address(Some(value), None),
            0x94 => queue.set_avail_ring_address(None, Some(value)),
            0xa0 => queue.set_used_ring_address(Some(value), None),
            0xa4 => queue.set_used_ring_address(None, Some(value)),
            _ => {}
        }
    }

    fn set_up(&self) -> bool {
        self.status & (DRIVER_OK | NEEDS_RESET | FAILED) == DRIVER_OK
    }
}

fn half(features: u64, which: u32) -> u32 {
    match which {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

impl Registers for Transport {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some(at) = offset.checked_sub(CONFIGURATION) {
            let state = self.state();
            let space = state.device.configuration();
            for (index, byte) in data.iter_mut().enumerate() {
                *byte = space.get(at as usize + index).copied().unwrap_or(0);
            }
        } else if data.len() == 4 {
            data.copy_from_slice(&self.read_register(offset).to_le_bytes());
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        // No device has configuration that a driver may write.
        if let (true, Ok(value)) = (offset < CONFIGURATION, data.try_into()) {
            self.write_register(offset, u32::from_le_bytes(value));
        }
    }
}

/// A device's part of the event loop.
pub(crate) struct Loop(pub(crate) Arc<Transport>);

impl MutEventSubscriber for Loop {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let add = |ops: &mut EventOps<'_>, event: &EventFd, token| {
            ops.add(Events::with_data(event, token, EventSet::IN))
                .expect("a new event can be waited for");
        };
        for (index, bell) in self.0.bells().iter().enumerate() {
            add(ops, bell, index as u32);
        }
        add(ops, &self.0.changed, CHANGED);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        let (transport, watch) = (&self.0, &mut Watch(ops));
        let mut state = transport.state();
        let State { device, working, reset, .. } = &mut *state;
        // The driver may have set it up anew since; what it was before ends first.
        if std::mem::take(reset) {
            device.end(watch);
            *working = false;
        }
        let token = events.data();
        if token <= CHANGED {
            let event = transport.bells.get(token as usize).unwrap_or(&transport.changed);
            let _ = event.read();
        }
        if !state.set_up() {
            // The driver has given it up. What it waits for stays ready, and would be heard of for ever.
            if std::mem::take(&mut state.working) {
                state.device.end(watch);
            }
            return;
        }
        let State { device, rings, working, .. } = &mut *state;
        if !std::mem::replace(working, true) {
            device.begin(rings, watch);
        }
        let result = match token {
            CHANGED => Ok(()),
            TOKENS.. => device.ready(token - TOKENS, rings, watch),
            queue => device.serve(queue as usize, rings, watch),
        };
        if result == Err(Broken) {
            device.end(watch);
            *working = false;
            state.break_down(&transport.interrupt);
        }
    }
}
