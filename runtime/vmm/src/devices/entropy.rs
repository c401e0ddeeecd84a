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
    let count = random(&mut bytes);
    writer.write(&bytes[..count]).unwrap_or(0) as u32
}

/// Fills the buffer; answers how much of it. The crates for this open files where the C library is linked statically.
#[allow(unsafe_code)]
fn random(bytes: &mut [u8]) -> usize {
    // SAFETY: the kernel writes at most the slice's length.
    let count = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    usize::try_from(count).unwrap_or(0)
}
