//! A disk: a file or block device of the host (Virtual I/O Device 1.2, section 5.2).
//!
//! Requests are done one after the other, through a buffer, in the event loop. That is enough for an image which the
//! guest caches; a container's data comes by the shared file system.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use vm_memory::{ByteValued, GuestMemoryMmap};

use crate::config::Disk;
use crate::error::{Error, Result};
use crate::virtio::{Broken, Chain, Device, Rings, Watch};

const SECTOR: u64 = 512;
const BUFFER: usize = 64 << 10;
/// The largest part of a request, and how many: what a request moves is bounded, for others wait meanwhile.
const PART: u32 = 64 << 10;
const PARTS: u32 = 62;

const F_SIZE_MAX: u64 = 1 << 1;
const F_SEG_MAX: u64 = 1 << 2;
const F_READ_ONLY: u64 = 1 << 5;
const F_FLUSH: u64 = 1 << 9;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;

/// The status byte at the end of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Status {
    Ok = 0,
    Error = 1,
    Unsupported = 2,
}

/// The block device.
pub(crate) struct Block {
    file: File,
    read_only: bool,
    sectors: u64,
    configuration: Vec<u8>,
}

impl Block {
    /// A device of the whole sectors that the file has.
    pub(crate) fn new(disk: Disk) -> Result<Self> {
        let mut file = disk.file;
        let size = file
            .seek(SeekFrom::End(0))
            .map_err(|error| Error::io("measure disk", "lseek", &error))?;
        if size < SECTOR {
            return Err(Error::new(
                "measure disk",
                format_args!("{size} bytes are less than a sector"),
            ));
        }
        let sectors = size / SECTOR;
        // capacity, size_max, seg_max
        let mut configuration = sectors.to_le_bytes().to_vec();
        configuration.extend(PART.to_le_bytes());
        configuration.extend(PARTS.to_le_bytes());
        Ok(Self { file, read_only: disk.read_only, sectors, configuration })
    }

    /// Does the request; answers how many bytes were written to the guest.
    fn request(&self, memory: &GuestMemoryMmap, chain: Chain<'_>) -> u32 {
        let (Ok(mut reader), Ok(mut writer)) = (chain.clone().reader(memory), chain.writer(memory))
        else {
            return 0;
        };
        // The status is the last byte that can be written; without it there is nobody to answer to.
        let Some(room) = writer.available_bytes().checked_sub(1) else { return 0 };
        let Ok(mut status) = writer.split_at(room) else { return 0 };
        let result = match reader.read_obj::<Header>() {
            Ok(header) => self.perform(header, &mut reader, &mut writer),
            Err(_) => Err(Status::Error),
        };
        let outcome = result.err().unwrap_or(Status::Ok);
        match status.write_all(&[outcome as u8]) {
            Ok(()) => writer.bytes_written() as u32 + 1,
            Err(_) => 0,
        }
    }

    fn perform(
        &self,
        header: Header,
        reader: &mut Reader<'_>,
        writer: &mut Writer<'_>,
    ) -> std::result::Result<(), Status> {
        match u32::from_le(header.kind) {
            IN => {
                let (at, length) = self.range(header.sector, writer.available_bytes())?;
                self.read(at, length, writer).map_err(|_| Status::Error)
            }
            OUT if self.read_only => Err(Status::Error),
            OUT => {
                let (at, length) = self.range(header.sector, reader.available_bytes())?;
                self.write(at, length, reader).map_err(|_| Status::Error)
            }
            FLUSH if self.read_only => Ok(()),
            FLUSH => self.file.sync_data().map_err(|_| Status::Error),
            GET_ID => writer.write_all(b"bulkhead\0").map_err(|_| Status::Error),
            _ => Err(Status::Unsupported),
        }
    }

    /// The bytes of the file, if all of them are within it.
    fn range(&self, sector: u64, length: usize) -> std::result::Result<(u64, usize), Status> {
        let count = length as u64 / SECTOR;
        let sector = u64::from_le(sector);
        let inside = sector.checked_add(count).is_some_and(|end| end <= self.sectors);
        let allowed = length <= PART as usize * PARTS as usize;
        if inside && allowed && (length as u64).is_multiple_of(SECTOR) {
            Ok((sector * SECTOR, length))
        } else {
            Err(Status::Error)
        }
    }

    fn read(&self, mut at: u64, length: usize, writer: &mut Writer<'_>) -> io::Result<()> {
        let mut buffer = vec![0; length.min(BUFFER)];
        let mut left = length;
        while left > 0 {
            let part = &mut buffer[..left.min(BUFFER)];
            self.file.read_exact_at(part, at)?;
            writer.write_all(part)?;
            at += part.len() as u64;
            left -= part.len();
        }
        Ok(())
    }

    fn write(&self, mut at: u64, length: usize, reader: &mut Reader<'_>) -> io::Result<()> {
        let mut buffer = vec![0; length.min(BUFFER)];
        let mut left = length;
        while left > 0 {
            let part = &mut buffer[..left.min(BUFFER)];
            reader.read_exact(part)?;
            self.file.write_all_at(part, at)?;
            at += part.len() as u64;
            left -= part.len();
        }
        Ok(())
    }
}

type Reader<'a> = virtio_queue::Reader<'a>;
type Writer<'a> = virtio_queue::Writer<'a>;

/// What a request begins with, in little endian.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Header {
    kind: u32,
    reserved: u32,
    sector: u64,
}

#[allow(unsafe_code)]
// SAFETY: three integers without padding; all bit patterns are values.
unsafe impl ByteValued for Header {}

impl Device for Block {
    fn id(&self) -> u32 {
        2
    }

    fn features(&self) -> u64 {
        F_SIZE_MAX | F_SEG_MAX | F_FLUSH | if self.read_only { F_READ_ONLY } else { 0 }
    }

    fn queues(&self) -> usize {
        1
    }

    fn configuration(&self) -> &[u8] {
        &self.configuration
    }

    fn serve(
        &mut self,
        queue: usize,
        rings: &mut Rings,
        _: &mut Watch<'_, '_>,
    ) -> std::result::Result<(), Broken> {
        rings.each(queue, |memory, chain| self.request(memory, chain))
    }
}
