//! Puts a kernel into memory, and says how the first processor enters it.
//!
//! Two forms: an ELF file with a PVH entry (`CONFIG_PVH`; the note of type 18 of `xen/include/public/elfnote.h`), in
//! 32-bit mode with a pointer to what it has to know; and a bzImage of the 64-bit boot protocol
//! (`Documentation/arch/x86/boot.rst`), in 64-bit mode with the "zero page". The file may be anything: the loader
//! checks it against the guest's memory, and a kernel that lies about itself harms its own machine.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use linux_loader::cmdline::Cmdline;
use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use linux_loader::loader::elf::PvhBootCapability;
use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use linux_loader::loader::{BzImage, Elf, KernelLoader, KernelLoaderResult, load_cmdline};
use vm_memory::{
    Address, ByteValued, Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, GuestMemoryRegion,
};

use crate::error::{Error, Result};
use crate::layout::{
    ACPI_TABLES, BIOS_RESET, BOOT_PARAMS, COMMAND_LINE, COMMAND_LINE_MAX, HIGH_MEMORY,
    LOW_MEMORY_END, PAGE_TABLES, POWER_PORT, PVH_MEMORY_MAP, PVH_MODULES, PVH_START_INFO,
};
use crate::ports::RESET_VALUE;

/// How the first processor begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// 32-bit mode without paging, `ebx` is the start info.
    Pvh(GuestAddress),
    /// 64-bit mode, `rsi` is the zero page.
    Long(GuestAddress),
}

/// What is booted.
pub(crate) struct Files<'a> {
    pub(crate) kernel: &'a mut File,
    pub(crate) initramfs: Option<&'a mut File>,
    pub(crate) command_line: &'a str,
}

/// Where the initramfs is.
#[derive(Clone, Copy, Default)]
struct Initramfs {
    address: u64,
    size: u64,
}

const E820_RAM: u32 = 1;
const PVH_MAGIC: u32 = 0x336e_c578;
/// No initramfs above this: the limit that kernels have had since boot protocol 2.03.
const INITRAMFS_MAX: u64 = 0x7fff_f000;
/// `xloadflags`: there is a 64-bit entry, 512 bytes behind the 32-bit one.
const XLF_KERNEL_64: u16 = 1;

/// What a BIOS does first, in real mode: here, to end the machine. Linux without EFI comes here to reset a machine
/// whose ACPI has no old hardware. `mov dx, POWER_PORT + 2; mov al, RESET_VALUE; out dx, al; hlt; jmp` back
const BIOS: [u8; 9] = {
    let [low, high] = (POWER_PORT + 2).to_le_bytes();
    [0xba, low, high, 0xb0, RESET_VALUE, 0xee, 0xf4, 0xeb, 0xfd]
};

/// Writes everything that the kernel needs to begin.
pub(crate) fn load(memory: &GuestMemoryMmap, files: Files<'_>) -> Result<Entry> {
    write_command_line(memory, files.command_line)?;
    memory
        .write_slice(&BIOS, GuestAddress(BIOS_RESET))
        .map_err(|error| Error::new("write reset vector", error))?;
    let kind = kind(files.kernel)?;
    let kernel = match kind {
        Kind::Elf => Elf::load(memory, None, files.kernel, Some(GuestAddress(HIGH_MEMORY))),
        Kind::BzImage => BzImage::load(memory, None, files.kernel, Some(GuestAddress(HIGH_MEMORY))),
    }
    .map_err(|error| Error::new("load kernel", error))?;
    let end = kernel_end(&kernel);
    let initramfs = match files.initramfs {
        Some(file) => load_initramfs(memory, file, end)?,
        None => Initramfs::default(),
    };
    match kind {
        Kind::Elf => pvh(memory, &kernel, files.command_line, initramfs),
        Kind::BzImage => long(memory, kernel, files.command_line, initramfs, end),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Elf,
    BzImage,
}

fn kind(kernel: &mut File) -> Result<Kind> {
    let mut head = Vec::new();
    kernel
        .rewind()
        .and_then(|()| kernel.take(0x206).read_to_end(&mut head))
        .map_err(|error| Error::io("load kernel", "read", &error))?;
    if head.starts_with(b"\x7fELF") {
        Ok(Kind::Elf)
    } else if head.get(0x202..) == Some(b"HdrS") {
        Ok(Kind::BzImage)
    } else {
        Err(Error::new("load kernel", "it is no ELF file and no bzImage"))
    }
}

/// The first address behind the kernel; for a bzImage behind the memory in which it unpacks itself.
fn kernel_end(kernel: &KernelLoaderResult) -> u64 {
    match kernel.setup_header {
        Some(header) => kernel.kernel_load.raw_value() + u64::from(header.init_size),
        None => kernel.kernel_end,
    }
}

fn write_command_line(memory: &GuestMemoryMmap, text: &str) -> Result<()> {
    let error = |error: &dyn std::fmt::Display| Error::new("write kernel command line", error);
    let mut line = Cmdline::new(COMMAND_LINE_MAX).map_err(|cause| error(&cause))?;
    line.insert_str(text).map_err(|cause| error(&cause))?;
    load_cmdline(memory, GuestAddress(COMMAND_LINE), &line).map_err(|cause| error(&cause))
}

/// At the end of the memory below the gap, where the kernel does not unpack itself.
fn load_initramfs(memory: &GuestMemoryMmap, file: &mut File, kernel_end: u64) -> Result<Initramfs> {
    let io = |error| Error::io("load initramfs", "read", &error);
    let size = file.seek(SeekFrom::End(0)).map_err(io)?;
    file.rewind().map_err(io)?;
    let first = memory.iter().next().expect("a machine has memory");
    let end = first.len().min(INITRAMFS_MAX);
    let address = end.saturating_sub(size) & !0xfff;
    if address < kernel_end.max(HIGH_MEMORY) {
        return Err(Error::new(
            "load initramfs",
            format_args!(
                "its {size} bytes do not fit between the kernel's end at {kernel_end:#x} and {end:#x}: \
                the machine needs more memory"
            ),
        ));
    }
    let mut read = 0;
    // A file system may give less than was asked for at a time.
    while read < size {
        let left = (size - read) as usize;
        let part = memory.read_volatile_from(GuestAddress(address + read), file, left);
        match part.map_err(|error| Error::new("load initramfs", error))? {
            0 => return Err(Error::new("load initramfs", "it became shorter meanwhile")),
            part => read += part as u64,
        }
    }
    Ok(Initramfs { address, size })
}

/// What is memory for the kernel: address and length. ACPI's tables lie in the hole.
fn usable(memory: &GuestMemoryMmap) -> Vec<(u64, u64)> {
    let mut ranges = vec![(0, LOW_MEMORY_END)];
    for region in memory.iter() {
        let start = region.start_addr().raw_value().max(HIGH_MEMORY);
        ranges.push((start, region.last_addr().raw_value() + 1 - start));
    }
    ranges
}

fn pvh(
    memory: &GuestMemoryMmap,
    kernel: &KernelLoaderResult,
    command_line: &str,
    initramfs: Initramfs,
) -> Result<Entry> {
    let PvhBootCapability::PvhEntryPresent(entry) = kernel.pvh_boot_cap else {
        return Err(Error::new("load kernel", "the ELF file has no PVH entry (CONFIG_PVH)"));
    };
    let map: Vec<_> = usable(memory)
        .into_iter()
        .map(|(addr, size)| hvm_memmap_table_entry { addr, size, type_: E820_RAM, reserved: 0 })
        .collect();
    let modules: Vec<_> = (initramfs.size > 0)
        .then_some(hvm_modlist_entry {
            paddr: initramfs.address,
            size: initramfs.size,
            ..Default::default()
        })
        .into_iter()
        .collect();
    let info = hvm_start_info {
        magic: PVH_MAGIC,
        version: 1,
        cmdline_paddr: if command_line.is_empty() { 0 } else { COMMAND_LINE },
        rsdp_paddr: ACPI_TABLES,
        nr_modules: modules.len() as u32,
        modlist_paddr: if modules.is_empty() { 0 } else { PVH_MODULES },
        memmap_paddr: PVH_MEMORY_MAP,
        memmap_entries: map.len() as u32,
        ..Default::default()
    };
    let mut params = BootParams::new(&info, GuestAddress(PVH_START_INFO));
    params.set_sections(&map, GuestAddress(PVH_MEMORY_MAP));
    if !modules.is_empty() {
        params.set_modules(&modules, GuestAddress(PVH_MODULES));
    }
    PvhBootConfigurator::write_bootparams(&params, memory)
        .map_err(|error| Error::new("write PVH start info", error))?;
    Ok(Entry::Pvh(entry))
}

fn long(
    memory: &GuestMemoryMmap,
    kernel: KernelLoaderResult,
    command_line: &str,
    initramfs: Initramfs,
    end: u64,
) -> Result<Entry> {
    let header = kernel.setup_header.expect("a bzImage has a header");
    if header.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(Error::new("load kernel", "the bzImage has no 64-bit entry"));
    }
    if !memory.address_in_range(GuestAddress(end.saturating_sub(1))) {
        return Err(Error::new(
            "load kernel",
            format_args!("it unpacks itself up to {end:#x}: the machine needs more memory"),
        ));
    }
    let mut zero = boot_params { hdr: header, ..Default::default() };
    zero.hdr.type_of_loader = 0xff; // one without a number
    zero.hdr.cmd_line_ptr = COMMAND_LINE as u32;
    zero.hdr.cmdline_size = command_line.len() as u32;
    zero.hdr.ramdisk_image = initramfs.address as u32;
    zero.hdr.ramdisk_size = initramfs.size as u32;
    zero.acpi_rsdp_addr = ACPI_TABLES;
    let usable = usable(memory);
    for (entry, (addr, size)) in zero.e820_table.iter_mut().zip(&usable) {
        *entry = boot_e820_entry { addr: *addr, size: *size, type_: E820_RAM };
    }
    zero.e820_entries = usable.len() as u8;
    LinuxBootConfigurator::write_bootparams(
        &BootParams::new(&zero, GuestAddress(BOOT_PARAMS)),
        memory,
    )
    .map_err(|error| Error::new("write boot parameters", error))?;
    write_page_tables(memory)?;
    Ok(Entry::Long(kernel.kernel_load.unchecked_add(0x200)))
}

/// Four gigabytes, each address its own, in pages of two megabytes.
fn write_page_tables(memory: &GuestMemoryMmap) -> Result<()> {
    const PRESENT_WRITABLE: u64 = 0b11;
    const HUGE: u64 = 1 << 7;
    let (directory_pointers, directories) = (PAGE_TABLES + 0x1000, PAGE_TABLES + 0x2000);
    let mut entries = vec![(PAGE_TABLES, directory_pointers | PRESENT_WRITABLE)];
    for gigabyte in 0..4 {
        let directory = directories + gigabyte * 0x1000;
        entries.push((directory_pointers + gigabyte * 8, directory | PRESENT_WRITABLE));
        for page in 0..512 {
            let address = (gigabyte << 30) | (page << 21);
            entries.push((directory + page * 8, address | PRESENT_WRITABLE | HUGE));
        }
    }
    for (at, entry) in entries {
        write(memory, at, entry)?;
    }
    Ok(())
}

/// Writes a value where the layout says.
pub(crate) fn write(memory: &GuestMemoryMmap, at: u64, value: impl ByteValued) -> Result<()> {
    memory
        .write_obj(value, GuestAddress(at))
        .map_err(|error| Error::new(format!("write guest memory at {at:#x}"), error))
}
