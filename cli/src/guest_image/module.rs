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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A module of nothing but its headers and what it says of itself, as gzip, `xz --check=crc32
    /// --lzma2=dict=1MiB` and `zstd -19` pack it.
    const GZ: &[u8] =
        b"\x1f\x8b\x08\0\0\0\0\0\x02\x03\xabw\xf5qcbdd\x80\x01F\x06;\x06l\xc0\x01\x8b\x08#\x03\x15\
        @YjQnbzf\xb2\xad\x99\x9e\xa1nIjq\x89B\xb0o\x80Bn~J|i^N~b\x8a\x02\x03\0lP\xe7;\xa3\0\0\0";
    const XZ: &[u8] =
        b"\xfd7zXZ\0\0\x01i\x22\xde6\x02\0!\x01\x10\0\0\0\xa8p\x8e\x86\xe0\0\xa2\0<]\0?\x91E\x84h=\
        \x89\xa6\xda\x9c\xa6\xacE7r:\xa0\xfa\xd0\x19&\xb3~\x82\x968_\x829\xca\x97\xa8-D\xa6-^\
        \x1d\xf4\x11S\x95x$\xbd\x85\xf8\xcd[v\xcc\xfb'R\xae\xde\xbdk\xb0\0\0lP\xe7;\0\x01T\xa3\
        \x01\0\0\0\x1f\x1cq\xdb>0\x0d\x8b\x02\0\0\0\0\x01YZ";
    const ZST: &[u8] =
        b"(\xb5/\xfd$\xa3\xfd\x01\0\x14\x03\x7fELF\x02\x01\x01\0\x01\0>\0@\x01\0vermagic=6.1-test \
        SMP mod_unload \0\x04\0\xe0\xa2X3a\x80\xe6\x17p\x01\xa6\xe5\x1a,";

    fn plain() -> Vec<u8> {
        let mut module = vec![0; 128];
        module[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        (module[16], module[18]) = (1, 62);
        (module[40], module[58], module[60]) = (64, 64, 1);
        module.extend(b"\0vermagic=6.1-test SMP mod_unload \0");
        module
    }

    /// What `load` makes of a file with this name and content.
    fn loaded(name: &str, content: &[u8], release: &str) -> Result<Module, String> {
        let directory = nix::unistd::mkdtemp(&std::env::temp_dir().join("module.XXXXXX")).unwrap();
        fs::write(directory.join(name), content).unwrap();
        let result = load(&directory.join(name), release);
        fs::remove_dir_all(&directory).unwrap();
        result.map_err(|error| error.to_string().replace(directory.to_str().unwrap(), "D"))
    }

    #[test]
    fn modules_are_unpacked_however_they_are_packed() {
        for (name, content) in
            [("m.ko", &*plain()), ("m.ko.gz", GZ), ("m.ko.xz", XZ), ("m.ko.zst", ZST)]
        {
            let module = loaded(name, content, "6.1-test").unwrap();
            assert_eq!((module.name.as_str(), module.content == plain()), ("m.ko", true), "{name}");
        }
    }

    #[test]
    fn damage_is_found() {
        for (name, content) in [("m.ko.gz", GZ), ("m.ko.xz", XZ), ("m.ko.zst", ZST)] {
            for end in 0..content.len() {
                let error = loaded(name, &content[..end], "6.1-test").unwrap_err();
                assert!(
                    error.starts_with(&format!("read module \"D/{name}\": is corrupt: ")),
                    "{end}: {error}"
                );
            }
            // Whether or not the bit is one that counts: never a module that differs.
            for at in 0..content.len() {
                let mut changed = content.to_vec();
                changed[at] ^= 0x10;
                if let Ok(module) = loaded(name, &changed, "6.1-test") {
                    assert_eq!(module.content, plain(), "{name} {at}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_module_of_this_kernel_is_named() {
        let (mut program, mut nameless) = (plain(), plain());
        program[16] = 2;
        nameless.truncate(128);
        let error = |content: &[u8], release| loaded("m.ko", content, release).unwrap_err();
        let read = "read module \"D/m.ko\": ";
        assert_eq!(
            error(&plain(), "6.1"),
            format!("{read}is of kernel \"6.1-test\", not of \"6.1\"")
        );
        assert_eq!(
            error(&program, "6.1"),
            format!("{read}is no module: an ELF file of another kind")
        );
        assert_eq!(
            error(&nameless, "6.1"),
            format!("{read}is no module: it names no kernel (vermagic)")
        );
        assert_eq!(error(&plain()[..100], "6.1"), format!("{read}is a truncated ELF file"));
        assert_eq!(error(b"", "6.1"), format!("{read}is no ELF file"));
    }
}
