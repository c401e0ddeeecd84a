//! The block device, with requests that no good driver sends.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::config::Disk;
use crate::devices::block::Block;
use crate::testing::driver::{DATA, Driver, Part, readable, writable};
use crate::testing::file;

const STATUS: u64 = DATA + 0x1000;
const BUFFER: u64 = DATA + 0x2000;
const SECTORS: u64 = 8;

fn driver(read_only: bool) -> (Driver, File) {
    let content: Vec<u8> = (0..SECTORS * 512).map(|at| (at / 512 + 1) as u8).collect();
    let file = file(&content);
    let disk = Disk { file: file.try_clone().unwrap(), read_only };
    (Driver::working(Block::new(disk).unwrap()), file)
}

/// Sends a request; answers its status byte and how much was written.
fn request(driver: &mut Driver, kind: u32, sector: u64, parts: &[Part]) -> (u8, u32) {
    let header = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
    driver.put(DATA, &header);
    driver.put(STATUS, &[0xee]);
    let mut chain = vec![readable(DATA, 16)];
    chain.extend(parts);
    chain.push(writable(STATUS, 1));
    driver.offer(0, &chain);
    let (_, written) = *driver.used(0).last().unwrap();
    (driver.peek(STATUS, 1)[0], written)
}

#[test]
fn sectors_are_read_and_written() {
    let (mut driver, file) = driver(false);
    assert_eq!(driver.configuration(0, 8), SECTORS.to_le_bytes());
    let parts = [writable(BUFFER, 512), writable(BUFFER + 1024, 512)];
    assert_eq!(request(&mut driver, 0, 2, &parts), (0, 1025));
    assert_eq!(
        (driver.peek(BUFFER, 512), driver.peek(BUFFER + 1024, 512)),
        (vec![3; 512], vec![4; 512])
    );
    driver.put(BUFFER, &[9; 512]);
    assert_eq!(request(&mut driver, 1, 7, &[readable(BUFFER, 512)]), (0, 1));
    let mut last = [0; 512];
    file.read_exact_at(&mut last, 7 * 512).unwrap();
    assert_eq!(last, [9; 512]);
    assert_eq!(request(&mut driver, 4, 0, &[]), (0, 1));
    assert_eq!(request(&mut driver, 8, 0, &[writable(BUFFER, 20)]), (0, 10));
    assert_eq!(&driver.peek(BUFFER, 9), b"bulkhead\0");
}

#[test]
fn a_read_only_disk_is_not_written() {
    let (mut driver, file) = driver(true);
    driver.put(BUFFER, &[9; 512]);
    assert_eq!(request(&mut driver, 1, 0, &[readable(BUFFER, 512)]), (1, 1));
    let mut first = [0; 512];
    file.read_exact_at(&mut first, 0).unwrap();
    assert_eq!(first, [1; 512]);
    driver.set(0x14, 0);
    assert_eq!(driver.get(0x10) & (1 << 5), 1 << 5);
}

#[test]
fn requests_beyond_the_disk_or_without_sense_fail() {
    let (mut driver, file) = driver(false);
    let before = file.metadata().unwrap().len();
    let one = [writable(BUFFER, 512)];
    for (kind, sector, parts, expected) in [
        (0, SECTORS, &one[..], 1),
        (0, u64::MAX, &one[..], 1),
        (0, SECTORS - 1, &[writable(BUFFER, 1024)][..], 1),
        (0, 0, &[writable(BUFFER, 100)][..], 1),
        (1, SECTORS - 1, &[readable(BUFFER, 1024)][..], 1),
        (1, u64::MAX / 512, &[readable(BUFFER, 512)][..], 1),
        (1, 0, &[readable(BUFFER, 511)][..], 1),
        (8, 0, &[writable(BUFFER, 3)][..], 1),
        (77, 0, &one[..], 2),
    ] {
        let (status, _) = request(&mut driver, kind, sector, parts);
        assert_eq!(status, expected, "{kind} at {sector}");
    }
    assert_eq!(file.metadata().unwrap().len(), before);
    // More than a request may move, in parts that lie over each other.
    let over = [writable(BUFFER, 1 << 20); 5];
    assert_eq!(request(&mut driver, 0, 0, &over).0, 1);
    // No header, no status, nothing at all to write to.
    driver.offer(0, &[readable(DATA, 8), writable(STATUS, 1)]);
    assert_eq!(driver.peek(STATUS, 1), [1]);
    driver.offer(0, &[readable(DATA, 16)]);
    assert_eq!(driver.used(0).last().unwrap().1, 0);
    assert_eq!(request(&mut driver, 0, 0, &one), (0, 513), "it still works");
}

#[test]
fn a_file_that_shrinks_is_an_error_for_the_guest_alone() {
    let (mut driver, file) = driver(false);
    file.set_len(512).unwrap();
    assert_eq!(request(&mut driver, 0, 4, &[writable(BUFFER, 512)]).0, 1);
    assert_eq!(request(&mut driver, 0, 0, &[writable(BUFFER, 512)]), (0, 513));
}

#[test]
fn less_than_a_sector_is_no_disk() {
    let disk = Disk { file: file(&[0; 511]), read_only: true };
    let error = Block::new(disk).err().unwrap().to_string();
    assert_eq!(error, "measure disk: 511 bytes are less than a sector");
}
