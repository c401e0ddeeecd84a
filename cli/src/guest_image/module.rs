//! Kernel modules.

use std::io::{self, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use lzma_rust2::XzReader;
use runtime::{Error, Result, quote};
use ruzstd::decoding::StreamingDecoder;

use super::elf::{Elf, find_all};
use super::source::read;

/// The longest module, packed or not: the largest driver of a distribution has 20 MiB.
const LONGEST: u64 = 128 << 20;
/// Of a decompressor, in KiB. Distributions pack with dictionaries of 1 or 2 MiB.
const XZ_MEMORY: u32 = 64 << 10;

/// A file to be linked, as modules are.
const ET_REL: u16 = 1;

/// An unpacked module.
#[derive(Debug)]
pub struct Module {
    /// Its file name, `virtio.ko`.
    pub name: String,
    pub content: Vec<u8>,
}

/// Reads a module of the kernel with this release, and unpacks it: so every kernel can load it, and it is unpacked
/// once rather than in every guest.
pub fn load(path: &Path, release: &str) -> Result<Module> {
    const OPERATION: &str = "read module";
    let refused = |reason: String| Error::unsupported(OPERATION, quote(path), reason);
    let packed = read(OPERATION, path, LONGEST)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let corrupt = |error: io::Error| refused(format!("is corrupt: {error}"));
    let (stem, content) = match name.rsplit_once('.') {
        Some((stem, "gz")) => (stem, unpack(MultiGzDecoder::new(&*packed)).map_err(corrupt)?),
        Some((stem, "xz")) => {
            let reader = XzReader::new_mem_limit(&*packed, true, XZ_MEMORY);
            (stem, unpack(reader).map_err(corrupt)?)
        }
        Some((stem, "zst")) => (stem, unzstd(&packed).map_err(corrupt)?),
        _ => (&*name, packed),
    };
    check(&content, release).map_err(refused)?;
    Ok(Module { name: stem.to_owned(), content })
}

/// What a reader gives, if it is not too long.
fn unpack(reader: impl Read) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    reader.take(LONGEST + 1).read_to_end(&mut content)?;
    if content.len() as u64 > LONGEST {
        return Err(io::Error::other(format!("unpacked it has more than {LONGEST} bytes")));
    }
    Ok(content)
}

/// The decoder compares no checksums by itself.
fn unzstd(packed: &[u8]) -> io::Result<Vec<u8>> {
    let mut decoder = StreamingDecoder::new(packed).map_err(io::Error::other)?;
    let content = unpack(&mut decoder)?;
    let stored = decoder.decoder.get_checksum_from_data();
    if stored.is_some() && stored != decoder.decoder.get_calculated_checksum() {
        return Err(io::Error::other("its checksum is wrong"));
    }
    Ok(content)
}

/// Whether this is a module of that kernel. The kernel would refuse others, when it is too late.
fn check(content: &[u8], release: &str) -> Result<(), String> {
    const VERSION: &[u8] = b"\0vermagic=";
    let elf = Elf::read(content)?;
    if elf.kind != ET_REL {
        return Err("is no module: an ELF file of another kind".to_owned());
    }
    elf.whole()?;
    let version = find_all(content, VERSION).next().map(|at| &content[at + VERSION.len()..]);
    let version = version.and_then(|text| text.split(|byte| matches!(byte, b' ' | 0)).next());
    match version {
        Some(version) if version == release.as_bytes() => Ok(()),
        Some(version) => {
            let version = String::from_utf8_lossy(version);
            Err(format!("is of kernel {version:?}, not of {release:?}"))
        }
        None => Err("is no module: it names no kernel (vermagic)".to_owned()),
    }
}
