//! What a driver may do in which order, and drivers that break the rules.

use crate::devices::entropy::Entropy;
use crate::testing::driver::{DATA, Driver, MEMORY, Part, SIZE, readable, writable};

const STATUS: u64 = 0x70;
const NEEDS_RESET: u32 = 64;

#[test]
fn a_driver_finds_the_device() {
    let driver = Driver::new(Entropy);
    assert_eq!([0, 4, 8].map(|at| driver.get(at)), [0x7472_6976, 2, 4]);
    driver.set(0x14, 1);
    assert_eq!(driver.get(0x10), 1, "VERSION_1");
    driver.set(0x14, 2);
    assert_eq!(driver.get(0x10), 0);
    assert_eq!(driver.get(0x34), 256);
    driver.set(0x30, 1);
    assert_eq!(driver.get(0x34), 0, "it has one queue");
    assert_eq!(driver.configuration(0, 8), [0; 8]);
    assert_eq!(driver.get(0xb0), u32::MAX);
}

#[test]
fn what_comes_out_of_order_is_ignored() {
    let driver = Driver::new(Entropy);
    let status = |steps: &[u32]| {
        driver.set(STATUS, 0);
        steps.iter().for_each(|step| driver.set(STATUS, *step));
        driver.get(STATUS)
    };
    assert_eq!(status(&[2]), 0, "DRIVER without ACKNOWLEDGE");
    assert_eq!(status(&[1, 3, 7]), 3, "DRIVER_OK without FEATURES_OK");
    assert_eq!(status(&[1, 3, 11]), 3, "without VERSION_1");
    assert_eq!(status(&[1, 3, 1]), 3, "a bit is not taken back");
    assert_eq!(status(&[128]), 128);
    assert_eq!(status(&[1, 3, NEEDS_RESET | 3]), 3, "the device's own bit");

    // A feature that was not offered.
    driver.set(STATUS, 0);
    for (register, value) in [(STATUS, 1), (STATUS, 3), (0x24, 1), (0x20, 3), (STATUS, 11)] {
        driver.set(register, value);
    }
    assert_eq!(driver.get(STATUS), 3);

    // Queues before the features, and after the device works.
    driver.set(STATUS, 0);
    driver.set_queue(0);
    assert_eq!(driver.get(0x44), 0);
    let driver = Driver::working(Entropy);
    driver.set(0x30, 0);
    driver.set(0x44, 0);
    assert_eq!(driver.get(0x44), 1);
    // Accesses of other widths, and a bell that is not there.
    driver.set(0x50, 1000);
    assert_eq!(driver.get(STATUS), 15);
}

#[test]
fn rings_outside_of_memory_break_the_device_until_it_is_reset() {
    for register in [0x80, 0x90, 0xa0] {
        for (low, high) in [(MEMORY, 0), (MEMORY - 16, 0), (0, 1), (0xffff_fff0, 0xffff_ffff)] {
            let mut driver = Driver::new(Entropy);
            driver.negotiate();
            driver.set_queue(0);
            driver.set(0x44, 0);
            driver.set(register, low as u32);
            driver.set(register + 4, high);
            driver.set(0x44, 1);
            driver.set(STATUS, 15);
            driver.turn();
            let status = driver.get(STATUS);
            if status & NEEDS_RESET == 0 {
                // Valid so far; what is used is looked at then.
                driver.offer(0, &[writable(DATA, 16)]);
                assert_eq!(
                    driver.get(STATUS) & NEEDS_RESET,
                    NEEDS_RESET,
                    "{register:#x} {low:#x} {high:#x}"
                );
            }
            assert_eq!(driver.get(0x60) & 2, 2);
            driver.set_up();
            assert_eq!(driver.get(STATUS), 15);
            driver.offer(0, &[writable(DATA, 16)]);
            assert_eq!(driver.used(0), [(0, 16)]);
        }
    }
}

#[test]
fn an_impossible_index_breaks_the_device() {
    let mut driver = Driver::working(Entropy);
    driver.set_available(0, SIZE + 1);
    assert_eq!(driver.get(STATUS), 15 | NEEDS_RESET);
    driver.offer(0, &[writable(DATA, 16)]);
    assert_eq!(driver.used(0), [], "it does nothing");
    driver.set_up();
    driver.offer(0, &[writable(DATA, 16)]);
    assert_eq!(driver.used(0), [(0, 16)]);
}

#[test]
fn broken_chains_are_given_back_empty() {
    let whole = |length| Part { address: DATA, length, writable: true };
    let mut driver = Driver::working(Entropy);
    // Outside of memory, longer than memory, an endless chain, a next that is no descriptor, an indirect table that is none.
    for (part, flags, next) in [
        (writable(MEMORY, 16), 2, 0),
        (writable(u64::MAX, 16), 2, 0),
        (whole(u32::MAX), 2, 0),
        (whole(16), 3, 0),
        (whole(16), 3, SIZE),
        (whole(16), 4, 0),
        (whole(15), 4 | 1, 0),
        (Part { address: MEMORY - 8, length: 32, writable: false }, 4, 0),
        (readable(DATA, 16), 0, 0),
        (whole(0), 2, 0),
    ] {
        driver.descriptor(0, 0, part, flags, next);
        driver.make_available(0, 0);
    }
    let written: Vec<u32> = driver.used(0).into_iter().map(|(_, length)| length).collect();
    assert_eq!(written.len(), 10);
    assert!(written.iter().all(|&length| length <= 16 * u32::from(SIZE)), "{written:?}");
    assert_eq!(driver.get(STATUS), 15);
    // A head that is no descriptor.
    driver.make_available(0, 0xffff);
    driver.set_up();
    driver.offer(0, &[writable(DATA, 16)]);
    assert_eq!(driver.used(0), [(0, 16)]);
}

#[test]
fn interrupts_are_told_and_acknowledged() {
    let mut driver = Driver::working(Entropy);
    driver.offer(0, &[writable(DATA, 16), writable(DATA + 64, 16)]);
    assert_eq!((driver.interrupts(), driver.get(0x60)), (1, 1));
    driver.set(0x64, 1);
    assert_eq!(driver.get(0x60), 0);
    assert_eq!(driver.used(0), [(0, 32)]);
    assert_ne!(driver.peek(DATA, 16), [0; 16]);
    assert_ne!(driver.peek(DATA + 64, 16), [0; 16]);
}
