//! Every way in which a guest ends.

use crate::ending::Ending;
use crate::layout::{PANIC_PORT, POWER_PORT, SERIAL_PORT};
use crate::ports::RESET_VALUE;
use crate::testing::guest::{OFF, RESET, Step, kvm, run_steps};
use vm_memory::{Bytes, GuestAddress};

#[test]
fn a_guest_ends_as_it_says() {
    let Some(kvm) = kvm("a_guest_ends_as_it_says") else { return };
    for (step, expected) in [
        (OFF, Ending::PowerOff),
        (RESET, Ending::Reset),
        (Step::Out(POWER_PORT + 2, RESET_VALUE), Ending::Reset),
        (Step::Out(PANIC_PORT, 1), Ending::Panic),
        (Step::Fault, Ending::TripleFault),
    ] {
        let steps = [Step::Out(SERIAL_PORT, b'!'), step, OFF];
        let (machine, ending) = run_steps(kvm.try_clone().unwrap(), &steps);
        assert_eq!(ending, expected);
        assert_eq!(machine.last_lines(1), ["!"]);
    }
}

#[test]
fn what_nobody_answers_reads_as_ones_and_harms_nobody() {
    let Some(kvm) = kvm("what_nobody_answers_reads_as_ones") else { return };
    const TO: u64 = 0x5000;
    let steps = [
        Step::In(0x1234, TO),
        Step::Out(0x1234, 1),
        Step::Read(0xd0ff_f000, TO + 4),
        Step::Write(0xd0ff_f000, 1),
        // Registers that are there, in ways that no driver uses.
        Step::Out(POWER_PORT, 0xff),
        Step::Out(POWER_PORT + 2, 0),
        Step::Out(PANIC_PORT, 0xfe),
        OFF,
    ];
    let (machine, ending) = run_steps(kvm, &steps);
    assert_eq!(ending, Ending::PowerOff);
    let found: [u8; 8] = machine.memory.read_obj(GuestAddress(TO)).unwrap();
    assert_eq!(found, [0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
}
