//! Which pages a guest writes, as KVM tells.

use crate::ending::Ending;
use crate::machine::Machine;
use crate::testing::guest::{OFF, Step, config, elf, kvm, run, write};

const PAGES: [u64; 4] = [0x5000, 0x30_0000, 0x30_1000, 0x7f_f000];

#[test]
fn written_pages_are_known_once() {
    let Some(kvm) = kvm("written_pages_are_known_once") else { return };
    let mut machine = Machine::new(config(kvm, &elf(true))).unwrap();
    let error = machine.written().unwrap_err().to_string();
    assert_eq!(
        error,
        "read which memory was written: KVM_GET_DIRTY_LOG: ENOENT (No such file or directory)"
    );
    machine.log_writes().unwrap();
    let mut steps: Vec<Step> = PAGES.iter().map(|page| Step::Write(page + 8, 7)).collect();
    // What is read is not written.
    steps.extend([Step::Read(0x40_0000, PAGES[0]), OFF]);
    write(&machine, &steps);
    assert_eq!(machine.written().unwrap(), [0_u64; 0], "the guest has not run");
    assert_eq!(run(&mut machine), Ending::PowerOff);
    assert_eq!(machine.written().unwrap(), PAGES);
    assert_eq!(machine.written().unwrap(), [0_u64; 0], "it was told");
}
