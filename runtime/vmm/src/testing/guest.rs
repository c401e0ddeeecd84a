//! A guest of a hundred instructions, which does what a list in its memory says: the part of a kernel.
//!
//! It runs on any `/dev/kvm`, also where the kernel's mode is emulated and slow.

use std::fs::{File, OpenOptions};
use std::time::Duration;

use vm_memory::{Bytes, GuestAddress};

use super::code::{code, handler_offset, long_code};
use super::file;
use crate::config::Config;
use crate::ending::Ending;
use crate::error::Error;
use crate::layout::{HIGH_MEMORY, KEYBOARD_PORT, POWER_PORT};
use crate::machine::Machine;

/// Where the list is; what it does not touch is the test's.
const STEPS: u64 = 0x20_0000;
const GDT: u64 = 0x2000;
const GDT_POINTER: u64 = 0x2100;
const IDT: u64 = 0x3000;
const IDT_POINTER: u64 = 0x2200;
/// How often the interrupt handler has run.
pub(crate) const INTERRUPTS: u64 = 0x4000;
/// The interrupt that the handler takes.
pub(crate) const VECTOR: u64 = 0x40;

/// What the guest does.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum Step {
    /// Writes the value to the address.
    Write(u64, u32) = 1,
    /// Reads from the first address, and writes it to the second.
    Read(u64, u64) = 2,
    /// Writes a byte to the port.
    Out(u16, u8) = 3,
    /// Reads a byte from the port, and writes it to the address.
    In(u16, u64) = 4,
    /// Waits until the 16 bits at the address are the value.
    Wait(u64, u16) = 5,
    /// Prints the command line on the serial port.
    PrintCommandLine = 6,
    /// Prints the initramfs, up to the first zero byte.
    PrintInitramfs = 7,
    /// Takes interrupts from now on.
    Interrupts = 8,
    /// Executes what is no instruction.
    Fault = 9,
}

impl Step {
    fn encode(self) -> [u32; 4] {
        let (number, a, b) = match self {
            Self::Write(address, value) => (1, address as u32, value),
            Self::Read(from, to) => (2, from as u32, to as u32),
            Self::Out(port, value) => (3, port.into(), value.into()),
            Self::In(port, to) => (4, port.into(), to as u32),
            Self::Wait(address, value) => (5, address as u32, value.into()),
            Self::PrintCommandLine => (6, 0, 0),
            Self::PrintInitramfs => (7, 0, 0),
            Self::Interrupts => (8, GDT_POINTER as u32, IDT_POINTER as u32),
            Self::Fault => (9, 0, 0),
        };
        [number, a, b, 0]
    }
}

/// Switches the machine off.
pub(crate) const OFF: Step = Step::Out(POWER_PORT, 5 << 2 | 1 << 5);
/// Resets it by the keyboard's controller.
pub(crate) const RESET: Step = Step::Out(KEYBOARD_PORT + 4, 0xfe);

/// An ELF file of the guest, with a PVH note if `pvh`.
pub(crate) fn elf(pvh: bool) -> Vec<u8> {
    let (entry, code, notes) = (HIGH_MEMORY, code(), 64 + 2 * 56);
    // name size, value size, type (18 is the PVH entry), name, value
    let kind = if pvh { 18_u32 } else { 1 };
    let note = [
        &4_u32.to_le_bytes()[..],
        &8_u32.to_le_bytes(),
        &kind.to_le_bytes(),
        b"Xen\0",
        &entry.to_le_bytes(),
    ]
    .concat();
    let mut elf = Vec::new();
    elf.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    elf.extend([2_u16, 62].iter().flat_map(|n| n.to_le_bytes()));
    elf.extend(1_u32.to_le_bytes());
    elf.extend([entry, 64, 0].iter().flat_map(|n: &u64| n.to_le_bytes()));
    elf.extend(0_u32.to_le_bytes());
    elf.extend([64_u16, 56, 2, 64, 0, 0].iter().flat_map(|n| n.to_le_bytes()));
    let mut segment = |kind: u32, offset: usize, address: u64, size: usize| {
        elf.extend([kind, 7].iter().flat_map(|n| n.to_le_bytes()));
        let size = size as u64;
        for number in [offset as u64, address, address, size, size, 4] {
            elf.extend(number.to_le_bytes());
        }
    };
    segment(1, notes + note.len(), entry, code.len());
    segment(4, notes, 0, note.len());
    elf.extend(note);
    elf.extend(code);
    elf
}

/// A bzImage whose 64-bit entry is the long guest.
pub(crate) fn bzimage() -> Vec<u8> {
    let mut image = vec![0; 1024];
    image[0x1f1] = 1; // sectors of setup code
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
    image[0x211] = 1; // loaded high
    image[0x214..0x218].copy_from_slice(&(HIGH_MEMORY as u32).to_le_bytes());
    image[0x236] = 1; // has a 64-bit entry
    image[0x260..0x264].copy_from_slice(&0x10_0000_u32.to_le_bytes()); // unpacks into 1 MiB
    // The header has these two at 0x202 and on; `HdrS` is at its place already.
    image.extend([0; 512]);
    image.extend(long_code());
    image
}

/// `/dev/kvm`, or a line that says that the test was skipped.
pub(crate) fn kvm(test: &str) -> Option<File> {
    match OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(kvm) => Some(kvm),
        Err(error) => {
            eprintln!("skipped {test}: /dev/kvm: {error}");
            None
        }
    }
}

/// A machine of one processor and 8 MiB with this kernel.
pub(crate) fn config(kvm: File, kernel: &[u8]) -> Config {
    Config {
        kvm,
        processors: 1,
        memory: 8,
        kernel: file(kernel),
        initramfs: None,
        command_line: String::new(),
        console: None,
        disks: Vec::new(),
        shares: Vec::new(),
        vsock: None,
        balloon: false,
    }
}

/// Writes the list into the machine's memory, and what interrupts need.
pub(crate) fn write(machine: &Machine, steps: &[Step]) {
    let put = |at: u64, bytes: &[u8]| machine.memory.write_slice(bytes, GuestAddress(at)).unwrap();
    let list: Vec<u8> =
        steps.iter().flat_map(|step| step.encode()).flat_map(u32::to_le_bytes).collect();
    put(STEPS, &list);
    let segments = [0_u64, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
    put(GDT, &segments.map(u64::to_le_bytes).concat());
    put(GDT_POINTER, &[&23_u16.to_le_bytes()[..], &(GDT as u32).to_le_bytes()].concat());
    let handler = HIGH_MEMORY + handler_offset();
    let gate = (handler & 0xffff) | 8 << 16 | 0x8e00 << 32 | (handler >> 16) << 48;
    put(IDT + VECTOR * 8, &gate.to_le_bytes());
    put(IDT_POINTER, &[&0x7ff_u16.to_le_bytes()[..], &(IDT as u32).to_le_bytes()].concat());
}

/// What a driver does until the device with these registers works, with one queue of four.
pub(crate) fn set_up(registers: u64, queue: u32, ring: Ring) -> Vec<Step> {
    let register = |offset, value| Step::Write(registers + offset, value);
    vec![
        register(0x70, 0),
        register(0x70, 1),
        register(0x70, 3),
        register(0x24, 1),
        register(0x20, 1), // VERSION_1
        register(0x70, 11),
        register(0x30, queue),
        register(0x38, 4),
        register(0x80, ring.table as u32),
        register(0x90, ring.available as u32),
        register(0xa0, ring.used as u32),
        register(0x44, 1),
        register(0x70, 15),
    ]
}

/// Where the three parts of a queue are.
#[derive(Clone, Copy)]
pub(crate) struct Ring {
    pub(crate) table: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
}

/// Runs the machine; one that has not ended after half a minute has failed.
pub(crate) fn run(machine: &mut Machine) -> Ending {
    let (end, (done, wait)) = (machine.end.clone(), std::sync::mpsc::channel::<()>());
    let watchdog = std::thread::spawn(move || {
        if wait.recv_timeout(Duration::from_secs(30))
            == Err(std::sync::mpsc::RecvTimeoutError::Timeout)
        {
            end.say(Ending::Failed(Error::new("run guest", "it did not end in time")));
        }
    });
    // A thread of its own, because the machine confines it.
    let ending = std::thread::scope(|scope| scope.spawn(|| machine.run()).join().unwrap());
    drop(done);
    watchdog.join().unwrap();
    ending
}

/// Runs a machine with the toy kernel through `steps`.
pub(crate) fn run_steps(kvm: File, steps: &[Step]) -> (Machine, Ending) {
    let mut machine = Machine::new(config(kvm, &elf(true))).unwrap();
    write(&machine, steps);
    let ending = run(&mut machine);
    (machine, ending)
}
