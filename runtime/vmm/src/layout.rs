//! Where things are in the guest's physical address space.
//!
//! ```text
//! 0x0000_0500  descriptor table for the 64-bit entry
//! 0x0000_6000  PVH: start info, module list, memory map
//! 0x0000_7000  64-bit entry: boot_params
//! 0x0000_9000  64-bit entry: page tables
//! 0x0002_0000  command line
//! 0x0009_fc00  end of low memory
//! 0x000e_0000  ACPI tables, where a kernel looks for them by itself
//! 0x000f_fff0  where a BIOS would begin after a reset
//! 0x0010_0000  kernel, then the rest of memory; the initramfs is at the end of it
//! 0xc000_0000  no memory: devices, interrupt controllers, what KVM needs
//! 0x1_0000_0000  more memory
//! ```

pub(crate) const BOOT_GDT: u64 = 0x500;
pub(crate) const PVH_START_INFO: u64 = 0x6000;
pub(crate) const PVH_MODULES: u64 = 0x6040;
pub(crate) const PVH_MEMORY_MAP: u64 = 0x6100;
pub(crate) const BOOT_PARAMS: u64 = 0x7000;
pub(crate) const BOOT_STACK: u64 = 0x8ff0;
pub(crate) const PAGE_TABLES: u64 = 0x9000;
pub(crate) const COMMAND_LINE: u64 = 0x2_0000;
/// With the terminating NUL; Linux' own limit on x86.
pub(crate) const COMMAND_LINE_MAX: usize = 2048;
pub(crate) const LOW_MEMORY_END: u64 = 0x9_fc00;
pub(crate) const ACPI_TABLES: u64 = 0xe_0000;
pub(crate) const ACPI_TABLES_END: u64 = BIOS_RESET;
pub(crate) const BIOS_RESET: u64 = 0xf_fff0;
pub(crate) const HIGH_MEMORY: u64 = 0x10_0000;

/// No memory from here to four gigabytes.
pub(crate) const GAP: u64 = 0xc000_0000;
pub(crate) const GAP_END: u64 = 0x1_0000_0000;

/// The first virtio device's registers; each has a page.
pub(crate) const VIRTIO: u64 = 0xd000_0000;
pub(crate) const VIRTIO_SIZE: u64 = 0x1000;
/// The first virtio device's interrupt; each has one. The interrupt controller has 24 inputs.
pub(crate) const VIRTIO_GSI: u32 = 5;
pub(crate) const GSI_END: u32 = 24;

pub(crate) const IO_APIC: u32 = 0xfec0_0000;
pub(crate) const LOCAL_APIC: u32 = 0xfee0_0000;
/// Three pages that KVM needs on Intel's processors, and one more.
pub(crate) const KVM_TSS: usize = 0xfffb_d000;
pub(crate) const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;

pub(crate) const SERIAL_PORT: u16 = 0x3f8;
pub(crate) const SERIAL_GSI: u32 = 4;
pub(crate) const KEYBOARD_PORT: u16 = 0x60;
pub(crate) const PANIC_PORT: u16 = 0x505;
/// Sleep control, sleep status and reset registers of ACPI, one byte each.
pub(crate) const POWER_PORT: u16 = 0x600;
