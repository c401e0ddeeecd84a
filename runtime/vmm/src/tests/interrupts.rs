//! A device end to end, with KVM's shortcuts: bells and interrupts that do not pass through the monitor's processors.

use vm_memory::{Bytes, GuestAddress};

use crate::ending::Ending;
use crate::layout::{IO_APIC, LOCAL_APIC, VIRTIO, VIRTIO_GSI};
use crate::machine::Machine;
use crate::testing::code::other_processor;
use crate::testing::guest::{
    INTERRUPTS, OFF, Ring, Step, VECTOR, config, elf, kvm, run, set_up, write,
};

const TABLE: u64 = 0x30_0000;
const AVAILABLE: u64 = 0x30_1000;
const USED: u64 = 0x30_2000;
const BUFFER: u64 = 0x30_3000;

/// Sends the device's interrupt to the handler.
fn route(gsi: u32) -> Vec<Step> {
    let io_apic = u64::from(IO_APIC);
    // The old controller is silent.
    let mut steps = vec![Step::Out(0x21, 0xff), Step::Out(0xa1, 0xff)];
    for (register, value) in [(0x10 + 2 * gsi, VECTOR as u32), (0x11 + 2 * gsi, 0)] {
        steps.push(Step::Write(io_apic, register));
        steps.push(Step::Write(io_apic + 0x10, value));
    }
    // The local controller is switched on by its spurious vector register.
    steps.push(Step::Write(u64::from(LOCAL_APIC) + 0xf0, 0x1ff));
    steps.push(Step::Interrupts);
    steps
}

#[test]
fn a_guest_gets_randomness_and_an_interrupt() {
    let Some(kvm) = kvm("a_guest_gets_randomness_and_an_interrupt") else { return };
    let mut machine = Machine::new(config(kvm, &elf(true))).unwrap();
    let memory = machine.memory.clone();
    // One descriptor of 64 bytes that the device writes.
    memory.write_obj(BUFFER, GuestAddress(TABLE)).unwrap();
    memory.write_obj([64_u32, 2], GuestAddress(TABLE + 8)).unwrap();
    memory.write_obj([0_u16, 1, 0], GuestAddress(AVAILABLE)).unwrap();

    let mut steps = vec![Step::Read(VIRTIO, 0x5000), Step::Read(VIRTIO + 8, 0x5004)];
    steps.extend(route(VIRTIO_GSI));
    let ring = Ring { table: TABLE, available: AVAILABLE, used: USED };
    steps.extend(set_up(VIRTIO, 0, ring));
    steps.extend([
        Step::Read(VIRTIO + 0x70, 0x5008),
        Step::Write(VIRTIO + 0x50, 0),
        Step::Wait(USED + 2, 1),
        Step::Wait(INTERRUPTS, 1),
        Step::Read(VIRTIO + 0x60, 0x500c),
        Step::Write(VIRTIO + 0x64, 1),
        Step::Read(VIRTIO + 0x60, 0x5010),
        OFF,
    ]);
    write(&machine, &steps);
    assert_eq!(run(&mut machine), Ending::PowerOff);
    let registers: [u32; 5] = memory.read_obj(GuestAddress(0x5000)).unwrap();
    assert_eq!(
        registers,
        [0x7472_6976, 4, 15, 1, 0],
        "magic, kind, status, interrupt, acknowledged"
    );
    let used: [u32; 3] = memory.read_obj(GuestAddress(USED)).unwrap();
    assert_eq!(used, [1 << 16, 0, 64]);
    let random: [u64; 8] = memory.read_obj(GuestAddress(BUFFER)).unwrap();
    assert_ne!(random, [0; 8]);
}

#[test]
fn another_processor_is_woken() {
    let Some(kvm) = kvm("another_processor_is_woken") else { return };
    let mut config = config(kvm, &elf(true));
    config.processors = 2;
    let mut machine = Machine::new(config).unwrap();
    machine.memory.write_slice(&other_processor(), GuestAddress(0x1000)).unwrap();
    let local = u64::from(LOCAL_APIC);
    let command = |low| [Step::Write(local + 0x310, 1 << 24), Step::Write(local + 0x300, low)];
    let mut steps = vec![Step::Write(local + 0xf0, 0x1ff)];
    steps.extend(command(0x4500)); // INIT
    steps.extend(command(0x4601)); // start at page 1
    steps.extend([Step::Wait(0x4004, 1), OFF]);
    write(&machine, &steps);
    assert_eq!(run(&mut machine), Ending::PowerOff);
}

#[test]
fn machines_leave_no_thread() {
    let Some(kvm) = kvm("machines_leave_no_thread") else { return };
    let threads = || {
        let names = std::fs::read_dir("/proc/self/task")
            .unwrap()
            .map(|task| task.unwrap().path().join("comm"));
        names
            .filter_map(|name| std::fs::read_to_string(name).ok())
            .filter(|name| name == "vcpu7\n")
            .count()
    };
    let mut config = config(kvm, &elf(true));
    config.processors = 8;
    let mut machine = Machine::new(config).unwrap();
    write(&machine, &[OFF]);
    assert_eq!(run(&mut machine), Ending::PowerOff);
    assert_eq!(threads(), 0);
}
