//! The balloon: pages that go back to the host, and ranges that are not the guest's to give.

use std::os::unix::fs::MetadataExt;

use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, GuestMemoryRegion};

use crate::devices::balloon::Balloon;
use crate::ending::Ending;
use crate::layout::{VIRTIO, VIRTIO_SIZE};
use crate::machine::Machine;
use crate::testing::driver::{DATA, Driver, MEMORY, Part, readable, writable};
use crate::testing::guest::{OFF, Ring, Step, config, elf, kvm, run, set_up, write};

const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const REPORT: usize = 4;
const PAGE: u64 = 4096;
const MINE: u64 = DATA + 0x10_0000;

/// How many bytes of its file the memory takes.
fn taken(memory: &GuestMemoryMmap) -> u64 {
    let region = memory.find_region(GuestAddress(0)).unwrap();
    region.file_offset().unwrap().file().metadata().unwrap().blocks() * 512
}

/// A working device whose guest uses 16 pages from `MINE` on.
fn driver() -> (Driver, u64) {
    let driver = Driver::working(Balloon);
    driver.put(MINE, &[7; 16 * PAGE as usize]);
    driver.put(DATA, &[0; 20]);
    let taken = taken(&driver.memory);
    (driver, taken)
}

/// Which of the 16 pages still have what was written there.
fn kept(driver: &Driver) -> Vec<u64> {
    let page = |page: &u64| driver.peek(MINE + page * PAGE, PAGE as usize);
    for number in 0..16 {
        let page = page(&number);
        assert!(page.iter().all(|byte| *byte == page[0]), "page {number} is given back in part");
    }
    (0..16).filter(|number| page(number)[0] == 7).collect()
}

#[test]
fn the_device_is_found_and_wants_no_page() {
    let driver = Driver::new(Balloon);
    assert_eq!(driver.get(8), 5);
    driver.set(0x14, 0);
    assert_eq!(driver.get(0x10) & 0xff, 1 << 2 | 1 << 5);
    assert_eq!(driver.configuration(0, 16), [0; 16]);
}

#[test]
fn reported_pages_become_holes() {
    // 4 is the queue of the specification, 2 that of a driver that counts only those that it uses.
    for queue in [REPORT, 2] {
        let (mut driver, before) = driver();
        driver.offer(queue, &[writable(MINE, 4096), writable(MINE + 4 * PAGE, 8192)]);
        assert_eq!(driver.used(queue), [(0, 0)]);
        assert_eq!(before - taken(&driver.memory), 3 * PAGE);
        assert_eq!(kept(&driver), [1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
        // They are the guest's again when it writes there.
        driver.put(MINE, &[7; PAGE as usize]);
        assert_eq!(kept(&driver)[0], 0);
    }
}

#[test]
fn pages_in_the_balloon_become_holes() {
    let (mut driver, before) = driver();
    let page = |number: u64| ((MINE / PAGE + number) as u32).to_le_bytes();
    driver.put(DATA, &[page(3), page(1), page(2), page(9), page(9)].concat());
    driver.offer(INFLATE, &[readable(DATA, 12), readable(DATA + 12, 8)]);
    assert_eq!(before - taken(&driver.memory), 4 * PAGE);
    assert_eq!(kept(&driver), [0, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15]);
    driver.offer(DEFLATE, &[readable(DATA, 20)]);
    assert_eq!(driver.used(DEFLATE), [(0, 0)]);
    assert_eq!(taken(&driver.memory), before, "looked at: full of zeros");
}

#[test]
fn ranges_that_are_no_memory_are_left_alone() {
    let (mut driver, before) = driver();
    let whole = |address, length| Part { address, length, writable: true };
    for part in [
        whole(MEMORY, 4096),
        whole(MEMORY - PAGE, 8192),
        whole(0, u32::MAX),
        whole(u64::MAX, 1),
        whole(u64::MAX - 4095, 4096),
        whole(u64::MAX - 4094, 4095),
        whole(1 << 63, u32::MAX),
        whole(MINE, 0),
        // Less than a page, and not from end to end.
        whole(MINE, 4095),
        whole(MINE + 1, 4096),
        whole(MINE + 1, 8190),
        // The device does not write there.
        readable(MINE, 4096),
    ] {
        driver.offer(REPORT, &[part]);
        assert_eq!(driver.get(0x70), 15, "{:#x} {:#x}", part.address, part.length);
    }
    for number in [MEMORY / PAGE, u32::MAX.into(), u32::MAX as u64 - 1] {
        driver.put(DATA, &(number as u32).to_le_bytes());
        driver.offer(INFLATE, &[readable(DATA, 4)]);
    }
    // Half a number, none, and one that the device would have to write.
    driver.put(DATA, &((MINE / PAGE) as u32).to_le_bytes());
    driver.offer(INFLATE, &[readable(DATA, 3)]);
    driver.offer(INFLATE, &[writable(DATA, 4)]);
    driver.offer(INFLATE, &[readable(MEMORY - 2, 4)]);
    assert_eq!(driver.count(INFLATE), 6);
    assert_eq!((taken(&driver.memory), kept(&driver).len()), (before, 16));
    // A range that begins and ends within pages: those between.
    driver.offer(REPORT, &[writable(MINE + 100, 3 * 4096)]);
    assert_eq!(kept(&driver), [0, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
}

/// A guest that gives away its rings harms itself.
#[test]
fn a_guest_that_reports_all_it_has_loses_the_device_alone() {
    let (mut driver, _) = driver();
    driver.offer(REPORT, &[writable(0, MEMORY as u32)]);
    assert!(kept(&driver).is_empty());
    driver.set_up();
    driver.put(MINE, &[7; 16 * PAGE as usize]);
    driver.offer(REPORT, &[writable(MINE, 4096)]);
    assert_eq!(kept(&driver).len(), 15);
}

#[test]
fn a_machine_gives_back_what_its_guest_reports() {
    let Some(kvm) = kvm("a_machine_gives_back_what_its_guest_reports") else { return };
    const RING: Ring = Ring { table: 0x30_0000, available: 0x30_1000, used: 0x30_2000 };
    const FREE: u64 = 0x40_0000;
    let mut config = config(kvm, &elf(true));
    config.balloon = true;
    let mut machine = Machine::new(config).unwrap();
    let memory = machine.memory.clone();
    memory.write_slice(&[7; 0x20_0000], GuestAddress(FREE)).unwrap();
    memory.write_obj(FREE, GuestAddress(RING.table)).unwrap();
    memory.write_obj([0x20_0000_u32, 2], GuestAddress(RING.table + 8)).unwrap();
    memory.write_obj([0_u16, 1, 0], GuestAddress(RING.available)).unwrap();
    let balloon = VIRTIO + VIRTIO_SIZE;
    let mut steps = vec![Step::Read(balloon + 8, 0x5000), Step::Read(FREE + 0x1000, 0x5004)];
    steps.extend(set_up(balloon, REPORT as u32, RING));
    steps.extend([
        Step::Write(balloon + 0x50, REPORT as u32),
        Step::Wait(RING.used + 2, 1),
        // One page comes back, with zeros.
        Step::Read(FREE + 0x1000, 0x5008),
        OFF,
    ]);
    write(&machine, &steps);
    let before = taken(&memory);
    assert_eq!(run(&mut machine), Ending::PowerOff);
    let found: [u32; 3] = memory.read_obj(GuestAddress(0x5000)).unwrap();
    assert_eq!(found, [5, 0x0707_0707, 0]);
    let given = before - taken(&memory);
    assert!((0x1f_0000..0x20_0000).contains(&given), "{given:#x} bytes of 0x200000");
}
