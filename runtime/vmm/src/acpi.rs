//! The tables by which a kernel finds processors, interrupts and devices.
//!
//! ACPI without the old hardware ("hardware reduced"): no timer, no interrupt of its own, only registers for sleep
//! and reset. Each virtio device is an `LNRO0005`, the name under which Linux' virtio-mmio driver looks for them.

use acpi_tables::aml::{
    Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, ResourceTemplate, Scope, ZERO,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, aml};

use crate::error::{Error, Result};
use crate::layout::{
    ACPI_TABLES, ACPI_TABLES_END, IO_APIC, LOCAL_APIC, PANIC_PORT, POWER_PORT, SERIAL_GSI,
    SERIAL_PORT, VIRTIO_SIZE,
};
use crate::ports::RESET_VALUE;

const OEM: [u8; 6] = *b"BLKHD ";
const TABLE: [u8; 8] = *b"BULKHEAD";
const REVISION: u32 = 1;

/// Boot architecture flags: a kernel that looks for an old clock waits for its answer.
const NO_VGA_NO_CLOCK: u16 = 1 << 2 | 1 << 5;

/// A virtio device's registers and interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) address: u64,
    pub(crate) gsi: u32,
}

/// The bytes to put at `ACPI_TABLES`; the root pointer is the first of them.
pub(crate) fn tables(processors: u8, slots: &[Slot]) -> Result<Vec<u8>> {
    let mut tables = Tables { bytes: vec![0; Rsdp::len()] };
    let dsdt = tables.add(&dsdt(slots));
    let fadt = tables.add(&fadt(dsdt));
    let madt = tables.add(&madt(processors));
    let mut xsdt = XSDT::new(OEM, TABLE, REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = tables.add(&xsdt);
    let root = bytes(&Rsdp::new(OEM, xsdt));
    tables.bytes[..root.len()].copy_from_slice(&root);
    if ACPI_TABLES + tables.bytes.len() as u64 > ACPI_TABLES_END {
        return Err(Error::new("write ACPI tables", "they do not fit"));
    }
    Ok(tables.bytes)
}

/// Tables one after the other, as they will be in the guest.
struct Tables {
    bytes: Vec<u8>,
}

impl Tables {
    /// Adds a table; answers its address in the guest.
    fn add(&mut self, table: &dyn Aml) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(16), 0);
        let address = ACPI_TABLES + self.bytes.len() as u64;
        self.bytes.extend(bytes(table));
        address
    }
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn fadt(dsdt: u64) -> impl Aml {
    let register = |offset| {
        GAS::new(
            AddressSpace::SystemIo,
            8,
            0,
            AccessSize::ByteAccess,
            u64::from(POWER_PORT) + offset,
        )
    };
    let mut fadt = FADTBuilder::new(OEM, TABLE, REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.iapc_boot_arch = NO_VGA_NO_CLOCK.into();
    fadt.sleep_control_reg = register(0);
    fadt.sleep_status_reg = register(1);
    fadt.reset_reg = register(2);
    fadt.reset_value = RESET_VALUE;
    fadt.finalize()
}

fn madt(processors: u8) -> MADT {
    let mut madt = MADT::new(OEM, TABLE, REVISION, LocalInterruptController::Address(LOCAL_APIC));
    for index in 0..processors {
        madt.add_structure(ProcessorLocalApic::new(index, index, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(processors, IO_APIC, 0));
    madt
}

fn dsdt(slots: &[Slot]) -> Sdt {
    let mut devices = Vec::new();
    for (index, slot) in slots.iter().enumerate() {
        virtio(index, *slot).to_aml_bytes(&mut devices);
    }
    serial(&mut devices);
    panic_device(&mut devices);
    let mut table = Sdt::new(*b"DSDT", 36, 6, OEM, TABLE, REVISION);
    table.append_slice(&bytes(&Scope::new("_SB_".into(), vec![&Encoded(devices)])));
    // The type of S5 is what the sleep register gets; see `ports.rs`.
    table.append_slice(&bytes(&Name::new(
        "_S5_".into(),
        &Package::new(vec![&5_u8, &ZERO, &ZERO, &ZERO]),
    )));
    table
}

/// AML that is made already.
struct Encoded(Vec<u8>);

impl Aml for Encoded {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

fn virtio(index: usize, slot: Slot) -> Encoded {
    Encoded(bytes(&Device::new(
        format!("V{index:03X}").as_str().into(),
        vec![
            &Name::new("_HID".into(), &"LNRO0005"),
            &Name::new("_UID".into(), &(index as u32)),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &Memory32Fixed::new(true, slot.address as u32, VIRTIO_SIZE as u32),
                    &edge(slot.gsi),
                ]),
            ),
        ],
    )))
}

fn serial(devices: &mut Vec<u8>) {
    Device::new(
        "COM1".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0501")),
            &Name::new("_UID".into(), &ZERO),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &IO::new(SERIAL_PORT, SERIAL_PORT, 1, 8),
                    &edge(SERIAL_GSI),
                ]),
            ),
        ],
    )
    .to_aml_bytes(devices);
}

fn panic_device(devices: &mut Vec<u8>) {
    Device::new(
        "PEVT".into(),
        vec![
            &Name::new("_HID".into(), &"QEMU0001"),
            &Name::new("_STA".into(), &0xb_u8),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![&IO::new(PANIC_PORT, PANIC_PORT, 1, 1)]),
            ),
        ],
    )
    .to_aml_bytes(devices);
}

fn edge(gsi: u32) -> aml::Interrupt {
    Interrupt::new(true, true, false, false, gsi)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    /// Follows the pointers as a kernel does.
    #[test]
    fn a_kernel_finds_every_table_and_their_sums_are_right() {
        let slots = [Slot { address: 0xd000_0000, gsi: 5 }, Slot { address: 0xd000_1000, gsi: 6 }];
        let bytes = tables(2, &slots).unwrap();
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let local = |address: u64| (address - ACPI_TABLES) as usize;
        assert_eq!(&bytes[..8], b"RSD PTR ");
        assert_eq!((sum(&bytes[..20]), sum(&bytes[..36])), (0, 0));
        let xsdt = local(u64_at(24));
        let table = |at: usize| &bytes[at..at + u32_at(at + 4) as usize];
        let fadt = local(u64_at(xsdt + 36));
        let madt = local(u64_at(xsdt + 44));
        let dsdt = local(u64_at(fadt + 140));
        for (at, name) in [(xsdt, b"XSDT"), (fadt, b"FACP"), (madt, b"APIC"), (dsdt, b"DSDT")] {
            assert_eq!(&table(at)[..4], name);
            assert_eq!(sum(table(at)), 0, "{}", String::from_utf8_lossy(name));
        }
        let found =
            |name: &[u8]| table(dsdt).windows(name.len()).filter(|part| *part == name).count();
        assert_eq!((found(b"LNRO0005"), found(b"QEMU0001"), found(b"_S5_")), (2, 1, 1));
    }
}
