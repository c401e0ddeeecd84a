//! Randomness from the host (Virtual I/O Device 1.2, section 5.4).

use std::io::Write;

use vm_memory::GuestMemoryMmap;

use crate::virtio::{Broken, Chain, Device, Rings, Watch};

/// The entropy device.
pub(crate) struct Entropy;

/// The most that one request gets; a driver asks again.
const LIMIT: usize = 4096;

impl Device for Entropy {
    fn id(&self) -> u32 {
        4
    }

    fn features(&self) -> u64 {
        0
    }

    fn queues(&self) -> usize {
        1
    }

    fn configuration(&self) -> &[u8] {
        &[]
    }

    fn serve(
        &mut self,
        queue: usize,
        rings: &mut Rings,
        _: &mut Watch<'_, '_>,
    ) -> Result<(), Broken> {
        rings.each(queue, fill)
    }
}

/// Fills the chain; 0 for one that cannot be written to.
fn fill(memory: &GuestMemoryMmap, chain: Chain<'_>) -> u32 {
    let Ok(mut writer) = chain.writer(memory) else { return 0 };
    let mut bytes = vec![0; writer.available_bytes().min(LIMIT)];
    getrandom::fill(&mut bytes).map_or(0, |()| writer.write(&bytes).unwrap_or(0) as u32)
}
