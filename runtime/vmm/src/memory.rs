//! The guest's memory: one memfd, below and above the gap for devices.

use std::fs::File;

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use nix::sys::memfd::{MFdFlags, memfd_create};
use vm_memory::{
    Address, FileOffset, GuestAddress, GuestMemory, GuestMemoryMmap, GuestMemoryRegion,
};

use crate::error::{Error, Result};
use crate::layout::{GAP, GAP_END};

/// The smallest that a kernel and its initramfs can be put into.
const MINIMUM_MIB: u32 = 2;

/// The ranges that `bytes` of memory have in the guest.
pub(crate) fn ranges(bytes: u64) -> Vec<(GuestAddress, u64)> {
    let mut ranges = vec![(GuestAddress(0), bytes.min(GAP))];
    if bytes > GAP {
        ranges.push((GuestAddress(GAP_END), bytes - GAP));
    }
    ranges
}

/// Makes the memory. Pages come when they are touched; the file has no name and goes with the process.
pub(crate) fn create(mebibytes: u32) -> Result<GuestMemoryMmap> {
    let operation = || format!("make {mebibytes} MiB of guest memory");
    if mebibytes < MINIMUM_MIB {
        return Err(Error::new(operation(), format_args!("at least {MINIMUM_MIB} MiB are needed")));
    }
    let bytes = u64::from(mebibytes) << 20;
    let file = memfd_create(c"guest", MFdFlags::MFD_CLOEXEC)
        .map_err(|errno| Error::io(operation(), "memfd_create", &errno.into()))?;
    let file = File::from(file);
    file.set_len(bytes).map_err(|error| Error::io(operation(), "ftruncate", &error))?;
    let mut offset = 0;
    let mut parts = Vec::new();
    for (start, length) in ranges(bytes) {
        let file = file.try_clone().map_err(|error| Error::io(operation(), "dup", &error))?;
        parts.push((start, length as usize, Some(FileOffset::new(file, offset))));
        offset += length;
    }
    GuestMemoryMmap::from_ranges_with_files(parts).map_err(|error| Error::new(operation(), error))
}

/// The size of the guest's pages, and of the host's, in bytes.
pub(crate) const PAGE: u64 = 4096;

/// Makes the whole pages between `start` and `length` bytes further a hole of the memory's file, which reads as zeros.
/// What is not memory from end to end is left alone.
#[allow(unsafe_code)]
pub(crate) fn give_back(memory: &GuestMemoryMmap, start: GuestAddress, length: u64) {
    let whole =
        |start: u64, end: u64| Some((start.checked_next_multiple_of(PAGE)?, end & !(PAGE - 1)));
    let range = start.0.checked_add(length).and_then(|end| whole(start.0, end));
    let Some((first, end)) = range.filter(|(first, end)| first < end) else { return };
    let Ok(slice) = memory.get_slice(GuestAddress(first), (end - first) as usize) else { return };
    // SAFETY: the range lies in one mapping of guest memory, to which there are no references; the guest could
    // write zeros there as well. A failure leaves everything as it is.
    unsafe {
        libc::madvise(slice.ptr_guard_mut().as_ptr().cast(), slice.len(), libc::MADV_REMOVE);
    }
}

/// Whether KVM remembers the pages that processors write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Log {
    Off,
    On,
}

/// Gives the memory to the machine, or changes what is logged of it.
#[allow(unsafe_code)]
pub(crate) fn attach(vm: &VmFd, memory: &GuestMemoryMmap, log: Log) -> Result<()> {
    for (slot, region) in memory.iter().enumerate() {
        let host = memory
            .get_host_address(region.start_addr())
            .map_err(|error| Error::new("attach guest memory", error))?;
        let part = kvm_userspace_memory_region {
            slot: slot as u32,
            flags: if log == Log::On { KVM_MEM_LOG_DIRTY_PAGES } else { 0 },
            guest_phys_addr: region.start_addr().raw_value(),
            memory_size: region.len(),
            userspace_addr: host as u64,
        };
        // SAFETY: the range is a mapping that `Machine` keeps for longer than the machine's descriptor, and
        // regions do not overlap.
        unsafe { vm.set_user_memory_region(part) }.map_err(|error| {
            Error::kvm("attach guest memory", "KVM_SET_USER_MEMORY_REGION", error)
        })?;
    }
    Ok(())
}

/// The pages that processors have written since the log was switched on or read, by their addresses in the guest, in order.
/// Pages that devices have written are not in it: those are written by the monitor.
pub(crate) fn written(vm: &VmFd, memory: &GuestMemoryMmap) -> Result<Vec<u64>> {
    let mut pages = Vec::new();
    for (slot, region) in memory.iter().enumerate() {
        let log = vm.get_dirty_log(slot as u32, region.len() as usize).map_err(|error| {
            Error::kvm("read which memory was written", "KVM_GET_DIRTY_LOG", error)
        })?;
        let start = region.start_addr().raw_value();
        for (word, bits) in log.into_iter().enumerate() {
            let set = (0..64).filter(|bit| bits & (1 << bit) != 0);
            pages.extend(set.map(|bit| start + (word as u64 * 64 + bit) * PAGE));
        }
    }
    Ok(pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_leaves_the_gap_for_devices() {
        let at = |bytes| -> Vec<(u64, u64)> {
            ranges(bytes).into_iter().map(|(start, length)| (start.0, length)).collect()
        };
        assert_eq!(at(128 << 20), [(0, 128 << 20)]);
        assert_eq!(at(3 << 30), [(0, 3 << 30)]);
        assert_eq!(at(5 << 30), [(0, 3 << 30), (4 << 30, 2 << 30)]);
    }

    #[test]
    fn too_little_memory_is_refused_by_name() {
        let error = create(1).unwrap_err().to_string();
        assert_eq!(error, "make 1 MiB of guest memory: at least 2 MiB are needed");
    }
}
