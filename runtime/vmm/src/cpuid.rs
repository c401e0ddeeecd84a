//! What a processor says of itself.
//!
//! The host's processor, as KVM can give it, without what is of no use in a container's machine or widens what it
//! can attack: virtualization inside, performance counters, enclaves, transactional memory.
//!
//! Sources: Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E; `Documentation/virt/kvm/x86/cpuid.rst`.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

/// The processor's place, and what KVM can do beyond its list.
#[derive(Clone, Copy)]
pub(crate) struct Processor {
    pub(crate) index: u8,
    pub(crate) count: u8,
    /// The local interrupt controller knows the deadline timer; KVM does not say so in its list.
    pub(crate) deadline_timer: bool,
}

/// Bits to clear: function, index (if it has one), register by name, mask.
const HIDDEN: &[(u32, u32, Register, u32)] = &[
    // DTES64, MONITOR, DS-CPL, VMX, SMX, EIST, TM2, PDCM
    (1, 0, Register::Ecx, 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 15),
    // DS, ACPI thermal, HTT (set again when there are several), TM, PBE
    (1, 0, Register::Edx, 1 << 21 | 1 << 22 | 1 << 28 | 1 << 29 | 1 << 31),
    // SGX, HLE, RTM, MPX, PT
    (7, 0, Register::Ebx, 1 << 2 | 1 << 4 | 1 << 11 | 1 << 14 | 1 << 25),
    // SGX_LC
    (7, 0, Register::Ecx, 1 << 30),
    // RTM_ALWAYS_ABORT, TSX_FORCE_ABORT
    (7, 0, Register::Edx, 1 << 11 | 1 << 13),
    // SVM, IBS, performance counters of the core, the north bridge and the cache
    (0x8000_0001, 0, Register::Ecx, 1 << 2 | 1 << 10 | 1 << 23 | 1 << 24 | 1 << 28),
];

/// Functions of which nothing is left: performance counters, SGX, PT, SVM, IBS, memory encryption, AMD's performance counters.
const EMPTY: &[u32] = &[0xa, 0x12, 0x14, 0x8000_000a, 0x8000_001b, 0x8000_001f, 0x8000_0022];

#[derive(Clone, Copy)]
enum Register {
    Ebx,
    Ecx,
    Edx,
}

/// `supported` as `processor` shows it.
pub(crate) fn filter(supported: &CpuId, processor: Processor) -> CpuId {
    let mut filtered = supported.clone();
    for entry in filtered.as_mut_slice() {
        hide(entry);
        place(entry, processor);
    }
    filtered
}

fn hide(entry: &mut kvm_cpuid_entry2) {
    if EMPTY.contains(&entry.function) {
        (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
    }
    for &(function, index, register, mask) in HIDDEN {
        if (entry.function, entry.index) == (function, index) {
            let register = match register {
                Register::Ebx => &mut entry.ebx,
                Register::Ecx => &mut entry.ecx,
                Register::Edx => &mut entry.edx,
            };
            *register &= !mask;
        }
    }
}

/// The processor's number and its neighbours: each is a core of one package.
fn place(entry: &mut kvm_cpuid_entry2, processor: Processor) {
    let (id, count) = (u32::from(processor.index), u32::from(processor.count));
    let width = count.next_power_of_two().trailing_zeros();
    match (entry.function, entry.index) {
        (1, _) => {
            entry.ebx = (entry.ebx & 0x0000_ffff) | (count << 16) | (id << 24);
            entry.ecx |= 1 << 31; // in a virtual machine
            set(&mut entry.ecx, 1 << 24, processor.deadline_timer);
            set(&mut entry.edx, 1 << 28, count > 1);
        }
        // Caches: shared by nobody; cores of the package.
        (4, _) if entry.eax & 0x1f != 0 => {
            entry.eax = (entry.eax & 0x3fff) | (((1 << width) - 1) << 26);
        }
        // Threads of a core, then cores of the package.
        (0xb | 0x1f, 0) => topology(entry, 0, 1, 1, id),
        (0xb | 0x1f, 1) => topology(entry, width, count, 2, id),
        (0xb | 0x1f, _) => topology(entry, 0, 0, 0, id),
        (0x8000_0008, _) => entry.ecx = (width << 12) | (count - 1),
        (0x8000_001d, _) => entry.eax &= 0x3fff,
        (0x8000_001e, _) => (entry.eax, entry.ebx, entry.ecx) = (id, id & 0xff, 0),
        _ => {}
    }
}

fn topology(entry: &mut kvm_cpuid_entry2, shift: u32, count: u32, kind: u32, id: u32) {
    (entry.eax, entry.ebx, entry.edx) = (shift, count, id);
    entry.ecx = entry.index | kind << 8;
}

fn set(register: &mut u32, bit: u32, on: bool) {
    *register = if on { *register | bit } else { *register & !bit };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_ones(functions: &[(u32, u32)]) -> CpuId {
        let entry = |&(function, index)| kvm_cpuid_entry2 {
            function,
            index,
            eax: u32::MAX,
            ebx: u32::MAX,
            ecx: u32::MAX,
            edx: u32::MAX,
            ..Default::default()
        };
        CpuId::from_entries(&functions.iter().map(entry).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn a_guest_cannot_virtualize_count_or_make_enclaves() {
        let host =
            all_ones(&[(1, 0), (7, 0), (7, 1), (0xa, 0), (0x8000_0001, 0), (0x8000_000a, 0)]);
        let guest = filter(&host, Processor { index: 0, count: 1, deadline_timer: true });
        let [one, seven, seven_one, counters, extended, svm] = guest.as_slice() else { panic!() };
        assert_eq!(one.ecx & (1 << 5), 0, "VMX");
        assert_eq!(extended.ecx & (1 << 2), 0, "SVM");
        assert_eq!(seven.ebx & (1 << 2 | 1 << 11), 0, "SGX, RTM");
        assert_eq!(seven_one.ebx, u32::MAX, "another index");
        for empty in [counters, svm] {
            assert_eq!((empty.eax, empty.ebx, empty.ecx, empty.edx), (0, 0, 0, 0));
        }
    }

    #[test]
    fn each_processor_has_its_own_number() {
        let host = all_ones(&[(1, 0), (4, 0), (0xb, 0), (0xb, 1), (0xb, 2), (0x8000_0008, 0)]);
        let guest = filter(&host, Processor { index: 2, count: 3, deadline_timer: false });
        let [one, cache, threads, cores, end, amd] = guest.as_slice() else { panic!() };
        assert_eq!((one.ebx >> 24, (one.ebx >> 16) & 0xff), (2, 3));
        assert_eq!((one.ecx & (1 << 31), one.ecx & (1 << 24)), (1 << 31, 0));
        assert_ne!(one.edx & (1 << 28), 0);
        assert_eq!(cache.eax, 0x3fff | 3 << 26);
        assert_eq!((threads.eax, threads.ebx, threads.ecx, threads.edx), (0, 1, 1 << 8, 2));
        assert_eq!((cores.eax, cores.ebx, cores.ecx, cores.edx), (2, 3, 1 | 2 << 8, 2));
        assert_eq!((end.ebx, end.ecx), (0, 2));
        assert_eq!(amd.ecx, 2 << 12 | 2);
    }
}
