//! Memory that the guest does not need goes back to the host (Virtual I/O Device 1.2, section 5.5).
//!
//! The guest reports its free pages by itself (`VIRTIO_BALLOON_F_PAGE_REPORTING`), and may put pages into the balloon,
//! whose size nobody asks to be more than nothing. Either way the pages become holes of the memory's file, which are
//! filled with zeros when they are touched again. So nothing has to be remembered, and a guest that reports what
//! it uses has lost its own data.
//!
//! Ranges come from the guest: those that are not memory are left alone.

use std::io::Read;

use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::memory::{self, PAGE};
use crate::virtio::{Broken, Chain, Device, Rings, Watch};

const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const QUEUES: usize = 5;

const F_DEFLATE_ON_OOM: u64 = 1 << 2;
const F_PAGE_REPORTING: u64 = 1 << 5;

/// Page numbers, and ranges, that one chain is looked at for. Linux sends 256, and 32.
const NUMBERS: usize = 1024;
const RANGES: usize = 256;

/// The balloon. Its configuration, with the size that it is to have, is all zeros.
pub(crate) struct Balloon;

impl Device for Balloon {
    fn id(&self) -> u32 {
        5
    }

    /// Without a queue for statistics or hints.
    fn features(&self) -> u64 {
        F_DEFLATE_ON_OOM | F_PAGE_REPORTING
    }

    fn queues(&self) -> usize {
        QUEUES
    }

    fn configuration(&self) -> &[u8] {
        &[0; 16]
    }

    fn serve(
        &mut self,
        queue: usize,
        rings: &mut Rings,
        _: &mut Watch<'_, '_>,
    ) -> Result<(), Broken> {
        match queue {
            INFLATE => rings.each(queue, |memory, chain| {
                inflate(memory, chain);
                0
            }),
            // The guest may touch them, and takes its time to say so.
            DEFLATE => rings.each(queue, |_, _| 0),
            // Reports come by queue 4. Drivers of Linux do not count queues that they do not use, and take 2.
            _ => rings.each(queue, |memory, chain| {
                report(memory, chain);
                0
            }),
        }
    }
}

/// The chain has numbers of pages, 32 bits each.
fn inflate(memory: &GuestMemoryMmap, chain: Chain<'_>) {
    let Ok(mut reader) = chain.reader(memory) else { return };
    let mut bytes = vec![0; reader.available_bytes().min(NUMBERS * 4)];
    if reader.read_exact(&mut bytes).is_err() {
        return;
    }
    let (numbers, _) = bytes.as_chunks::<4>();
    let mut numbers: Vec<u64> = numbers.iter().map(|n| u32::from_le_bytes(*n).into()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    for run in numbers.chunk_by(|a, b| a + 1 == *b) {
        memory::give_back(memory, GuestAddress(run[0] * PAGE), run.len() as u64 * PAGE);
    }
}

/// The chain is made of the free ranges themselves.
fn report(memory: &GuestMemoryMmap, chain: Chain<'_>) {
    for range in chain.writable().take(RANGES) {
        memory::give_back(memory, range.addr(), range.len().into());
    }
}
