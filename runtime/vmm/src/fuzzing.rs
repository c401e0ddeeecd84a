//! The door for fuzz/: one function per device, whose guest does what the input says.
//!
//! It exists under `cfg(fuzzing)` alone, and in unit tests, which run every target over its seeds. There is no KVM: a
//! driver without a guest writes registers, rings and descriptors in memory that is like a guest's, and the event loop
//! is the real one. Whatever the input says: nothing panics, the event loop comes to rest, and after a reset the
//! device works for a driver that keeps the rules.
//!
//! The input is a list of actions, each of a number and its arguments, integers in little endian; see `Guest::act`. The first
//! byte is for the device.

#![allow(clippy::unwrap_used, reason = "a fuzzer is to end there")]

mod input;
mod shares;
mod sockets;
#[cfg(test)]
mod tests;

use std::os::unix::fs::FileExt;

use self::input::{Guest, Input};
use crate::config::Disk;
use crate::devices::balloon::Balloon;
use crate::devices::block::Block;
use crate::devices::entropy::Entropy;
use crate::testing::driver::{DATA, Driver, readable, writable};
use crate::testing::file;

pub use self::shares::fs;
pub use self::sockets::vsock;

/// Registers, and rings before they are set up; the device is the simplest.
pub fn transport(data: &[u8]) {
    let mut input = Input(data);
    let event_index = input.byte().is_some_and(|byte| byte & 1 != 0);
    let mut driver = Driver::new(Entropy);
    driver.event_index = event_index;
    Guest(&mut driver).follow(&mut input, &mut |_, _| None);
    check_entropy(&mut driver);
}

/// The entropy device.
pub fn entropy(data: &[u8]) {
    let mut input = Input(data);
    let event_index = input.byte().is_some_and(|byte| byte & 1 != 0);
    let mut driver = Driver::working_with(Entropy, event_index);
    Guest(&mut driver).follow(&mut input, &mut |_, _| None);
    check_entropy(&mut driver);
}

fn check_entropy(driver: &mut Driver) {
    driver.set_up();
    driver.offer(0, &[writable(DATA, 16)]);
    assert_eq!(driver.used(0), [(0, 16)]);
}

/// A disk of eight sectors.
pub fn block(data: &[u8]) {
    const SECTORS: usize = 8;
    let content = [0x5a; SECTORS * 512];
    let mut input = Input(data);
    let options = input.byte().unwrap_or(0);
    let read_only = options & 2 != 0;
    let file = file(&content);
    let disk = Disk { file: file.try_clone().unwrap(), read_only };
    let mut driver = Driver::working_with(Block::new(disk).unwrap(), options & 1 != 0);
    Guest(&mut driver).follow(&mut input, &mut request);
    assert_eq!(file.metadata().unwrap().len(), content.len() as u64, "the disk keeps its size");
    let mut found = [0; SECTORS * 512];
    file.read_exact_at(&mut found, 0).unwrap();
    assert!(!read_only || found == content, "it is read-only");

    driver.set_up();
    driver.put(DATA, &[0; 16]);
    driver.put(DATA + 1024, &[0xee]);
    driver.offer(0, &[readable(DATA, 16), writable(DATA + 512, 512), writable(DATA + 1024, 1)]);
    assert_eq!(driver.used(0), [(0, 513)]);
    assert_eq!(driver.peek(DATA + 1024, 1), [0]);
    assert_eq!(driver.peek(DATA + 512, 512), found[..512]);
}

/// A request in the order in which drivers make them: kind, sector, and lengths of the parts between header and status.
fn request(driver: &mut Driver, input: &mut Input<'_>) -> Option<()> {
    let (kind, sector, parts) = (input.byte()?, input.u64()?, input.byte()?);
    let header = [&u32::from(kind).to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
    driver.put(DATA, &header);
    let mut chain = vec![readable(DATA, 16)];
    for part in 0..u64::from(parts % 8) {
        let at = DATA + 0x1000 * (part + 1);
        let length = input.u16()?.into();
        chain.push(if kind == 1 { readable(at, length) } else { writable(at, length) });
    }
    chain.push(writable(DATA + 0x100, 1));
    driver.offer(0, &chain);
    Some(())
}

/// The balloon.
pub fn balloon(data: &[u8]) {
    let mut input = Input(data);
    let event_index = input.byte().is_some_and(|byte| byte & 1 != 0);
    let mut driver = Driver::working_with(Balloon, event_index);
    Guest(&mut driver).follow(&mut input, &mut |driver, input| {
        // Numbers of pages for the balloon.
        let count = usize::from(input.byte()? % 32);
        let numbers = (0..count).map(|_| input.u32()).collect::<Option<Vec<_>>>()?;
        let bytes: Vec<u8> = numbers.into_iter().flat_map(u32::to_le_bytes).collect();
        driver.put(DATA, &bytes);
        driver.offer(0, &[readable(DATA, bytes.len() as u32)]);
        Some(())
    });
    driver.set_up();
    driver.put(DATA, &[7; 8192]);
    driver.offer(4, &[writable(DATA, 4096)]);
    assert_eq!(driver.peek(DATA, 4096), [0; 4096]);
    assert_eq!(driver.peek(DATA + 4096, 4096), [7; 4096]);
}
