//! Kernels: which of the host's is the newest, and what a file is.
//!
//! Two forms boot, as `runtime/vmm/src/boot.rs` says: a bzImage (`Documentation/arch/x86/boot.rst`) and an ELF file
//! with a PVH entry. What is wrong with a file is found here, when the image is made, rather than when it is booted.

use std::cmp::Ordering;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use runtime::{Call, Context, Error, KernelFormat, Result, quote};

use super::elf::{Elf, find_all, u16_at, u32_at};

/// What a kernel says of itself.
#[derive(Debug, PartialEq, Eq)]
pub struct Kernel {
    pub format: KernelFormat,
    /// As `uname -r` says it.
    pub release: String,
}

/// The newest kernel in `directory`, by the numbers in the names `vmlinuz-RELEASE`.
///
/// # Errors
/// There is none.
pub fn newest(directory: &Path) -> Result<PathBuf> {
    const OPERATION: &str = "look for a kernel in";
    let mut found: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(directory).call("open").context(OPERATION, quote(directory))? {
        let entry = entry.call("getdents64").context(OPERATION, quote(directory))?;
        let is_kernel = entry.file_name().as_bytes().starts_with(b"vmlinuz-");
        if is_kernel && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            found.push(entry.path());
        }
    }
    found.sort_by(|a, b| versions(a.as_os_str().as_bytes(), b.as_os_str().as_bytes()));
    found.pop().ok_or_else(|| {
        let reason = "there is no regular file vmlinuz-*: name a kernel with --kernel";
        Error::unsupported(OPERATION, quote(directory), reason)
    })
}

/// Compares names so that 6.10 comes behind 6.9: digits as numbers, the rest as bytes.
fn versions(mut a: &[u8], mut b: &[u8]) -> Ordering {
    loop {
        let (first, second) = (digits(a), digits(b));
        if !first.is_empty() && !second.is_empty() {
            let number = |digits: &[u8]| digits.iter().skip_while(|d| **d == b'0').count();
            let order = number(first).cmp(&number(second)).then_with(|| {
                let value = |digits: &'_ [u8]| digits[digits.len() - number(digits)..].to_vec();
                value(first).cmp(&value(second))
            });
            if order != Ordering::Equal {
                return order;
            }
            (a, b) = (&a[first.len()..], &b[second.len()..]);
            continue;
        }
        match (a.split_first(), b.split_first()) {
            (Some((x, rest_a)), Some((y, rest_b))) if x == y => (a, b) = (rest_a, rest_b),
            (x, y) => return x.map(|(byte, _)| byte).cmp(&y.map(|(byte, _)| byte)),
        }
    }
}

fn digits(text: &[u8]) -> &[u8] {
    &text[..text.iter().take_while(|byte| byte.is_ascii_digit()).count()]
}

/// What the file is, or why it does not boot.
pub fn recognise(file: &[u8]) -> Result<Kernel, String> {
    if file.starts_with(b"\x7fELF") {
        elf(file)
    } else if file.get(0x202..0x206) == Some(b"HdrS") {
        bz_image(file)
    } else {
        Err(other(file).to_owned())
    }
}

/// Files that are often taken for a kernel.
fn other(file: &[u8]) -> &'static str {
    const COMPRESSED: [&[u8]; 4] =
        [b"\x1f\x8b", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"\x02\x21\x4c\x18"];
    if file.is_empty() {
        "is empty"
    } else if file.get(0x38..0x3c) == Some(b"ARM\x64") {
        "is a kernel for another processor (arm64)"
    } else if COMPRESSED.iter().any(|magic| file.starts_with(magic)) {
        "is a compressed file: unpack it"
    } else {
        "is no kernel: neither a bzImage nor an ELF file"
    }
}

/// The header's fields are at fixed places of the file; all but the last have been there since protocol 2.00.
fn bz_image(file: &[u8]) -> Result<Kernel, String> {
    /// The protocol that brought `xloadflags`.
    const PROTOCOL: u16 = 0x20c;
    /// There is a 64-bit entry.
    const XLF_KERNEL_64: u16 = 1;
    let truncated = || "is truncated".to_owned();
    let protocol = u16_at(file, 0x206).ok_or_else(truncated)?;
    let flags = u16_at(file, 0x236).ok_or_else(truncated)?;
    if protocol < PROTOCOL || flags & XLF_KERNEL_64 == 0 {
        return Err(
            "is a kernel for another processor, or too old: it has no 64-bit entry".to_owned()
        );
    }
    let sectors = match file[0x1f1] {
        0 => 4,
        count => u64::from(count),
    };
    let paragraphs = u32_at(file, 0x1f4).ok_or_else(truncated)?;
    let length = (sectors + 1) * 512 + u64::from(paragraphs) * 16;
    if (file.len() as u64) < length {
        return Err(format!("is truncated: {} bytes of {length}", file.len()));
    }
    let offset = usize::from(u16_at(file, 0x20e).ok_or_else(truncated)?);
    let text = file.get(0x200 + offset..).unwrap_or_default();
    let release = release(text).filter(|_| offset != 0);
    let release = release.ok_or("says no release (kernel_version)")?;
    Ok(Kernel { format: KernelFormat::BzImage, release })
}

fn elf(file: &[u8]) -> Result<Kernel, String> {
    const BANNER: &[u8] = b"Linux version ";
    let elf = Elf::read(file)?;
    if !has_pvh_entry(&elf)? {
        return Err("is an ELF file without a PVH entry (CONFIG_PVH)".to_owned());
    }
    // The banner; other texts that begin like it go on with a placeholder.
    let release = find_all(file, BANNER).find_map(|at| release(&file[at + BANNER.len()..]));
    let release = release.ok_or("is an ELF file without \"Linux version\": no kernel")?;
    Ok(Kernel { format: KernelFormat::Elf, release })
}

/// The note of type 18 of `xen/include/public/elfnote.h`.
fn has_pvh_entry(elf: &Elf<'_>) -> Result<bool, String> {
    const PT_NOTE: u32 = 4;
    const PHYS32_ENTRY: u32 = 18;
    for segment in elf.segments()? {
        let mut notes = segment.content;
        while segment.kind == PT_NOTE && notes.len() >= 12 {
            let field = |at| u32_at(notes, at).expect("there are 12 bytes") as usize;
            let (name_length, length, kind) = (field(0), field(4), field(8));
            let name = notes.get(12..12usize.saturating_add(name_length));
            if kind == PHYS32_ENTRY as usize && name == Some(b"Xen\0") {
                return Ok(true);
            }
            let padded = |length: usize| length.checked_next_multiple_of(4);
            let next = padded(name_length)
                .zip(padded(length))
                .and_then(|(name, length)| 12_usize.checked_add(name)?.checked_add(length));
            notes = next.and_then(|next| notes.get(next..)).unwrap_or_default();
        }
    }
    Ok(false)
}

/// The first word, when it can be a release: it becomes part of a path.
fn release(text: &[u8]) -> Option<String> {
    let end = text.iter().position(|byte| matches!(byte, b' ' | 0))?;
    let word = &text[..end];
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-+~".contains(byte);
    let sound = word.first()?.is_ascii_digit() && word.len() <= 64 && word.iter().all(plain);
    sound.then(|| String::from_utf8_lossy(word).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bzImage with nothing in it.
    pub fn bz_image_of(release: &str) -> Vec<u8> {
        let mut file = vec![0; 5 * 512 + 32];
        file[0x1f1] = 4;
        file[0x1f4] = 2;
        file[0x202..0x206].copy_from_slice(b"HdrS");
        file[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
        file[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
        file[0x236] = 1;
        let text = format!("{release} (somebody) #1 SMP\0");
        file[0x300..0x300 + text.len()].copy_from_slice(text.as_bytes());
        file
    }

    /// An ELF file of one segment of notes, with a banner behind it.
    fn elf_of(machine: u16, note: &[u8], banner: &str) -> Vec<u8> {
        let mut file = vec![0; 64 + 56];
        file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        file[16] = 2;
        file[18..20].copy_from_slice(&machine.to_le_bytes());
        file[32] = 64;
        file[54] = 56;
        file[56] = 1;
        file[64] = 4;
        file[64 + 8] = 120;
        file[64 + 32] = u8::try_from(note.len()).unwrap();
        file.extend(note);
        file.extend(banner.as_bytes());
        file
    }

    const X86_64: u16 = 62;
    const PVH: &[u8] = b"\x04\0\0\0\x04\0\0\0\x12\0\0\0Xen\0\0\0\0\x01";

    #[test]
    fn both_forms_say_their_release() {
        let kernel = recognise(&bz_image_of("6.1.0-49-cloud-amd64")).unwrap();
        let release = "6.1.0-49-cloud-amd64".to_owned();
        assert_eq!(kernel, Kernel { format: KernelFormat::BzImage, release });
        let file = elf_of(X86_64, PVH, "Linux version %s\0Linux version 6.1.9-own (me@here) #2\0");
        let kernel = recognise(&file).unwrap();
        assert_eq!(kernel, Kernel { format: KernelFormat::Elf, release: "6.1.9-own".to_owned() });
    }

    #[test]
    fn what_does_not_boot_is_named() {
        let mut old = bz_image_of("2.4.0");
        old[0x236] = 0;
        let mut unnamed = bz_image_of("6.1");
        unnamed[0x20e..0x210].fill(0);
        let mut arm = vec![0; 64];
        arm[0x38..0x3c].copy_from_slice(b"ARM\x64");
        let whole = bz_image_of("6.1");
        let other_note = b"\x04\0\0\0\0\0\0\0\x11\0\0\0Xen\0";
        let endless = b"\xff\xff\xff\xff\xff\xff\xff\xff\x12\0\0\0Xen\0";
        for (file, reason) in [
            (Vec::new(), "is empty"),
            (b"#!/bin/sh\n".to_vec(), "is no kernel: neither a bzImage nor an ELF file"),
            (b"\x1f\x8b\x08".to_vec(), "is a compressed file: unpack it"),
            (arm, "is a kernel for another processor (arm64)"),
            (whole[..2000].to_vec(), "is truncated: 2000 bytes of 2592"),
            (whole[..0x207].to_vec(), "is truncated"),
            (old, "is a kernel for another processor, or too old: it has no 64-bit entry"),
            (unnamed, "says no release (kernel_version)"),
            (bz_image_of("../../etc"), "says no release (kernel_version)"),
            (elf_of(183, PVH, ""), "is for another processor (ELF machine 183)"),
            (elf_of(X86_64, PVH, "")[..90].to_vec(), "is a truncated ELF file"),
            (elf_of(X86_64, PVH, "")[..130].to_vec(), "is a truncated ELF file"),
            (elf_of(X86_64, b"", ""), "is an ELF file without a PVH entry (CONFIG_PVH)"),
            (elf_of(X86_64, other_note, ""), "is an ELF file without a PVH entry (CONFIG_PVH)"),
            (elf_of(X86_64, endless, ""), "is an ELF file without a PVH entry (CONFIG_PVH)"),
            (elf_of(X86_64, PVH, ""), "is an ELF file without \"Linux version\": no kernel"),
        ] {
            assert_eq!(recognise(&file), Err(reason.to_owned()));
        }
    }

    /// A hostile file ends in an error, never in a panic.
    #[test]
    fn any_prefix_and_any_byte_is_survived() {
        for file in [bz_image_of("6.1"), elf_of(X86_64, PVH, "Linux version 6.1 ")] {
            for end in 0..file.len() {
                let _ = recognise(&file[..end]);
            }
            for at in 0..file.len() {
                let mut changed = file.clone();
                changed[at] = 0xff;
                let _ = recognise(&changed);
            }
        }
    }

    #[test]
    fn ten_is_newer_than_nine() {
        let mut names = ["6.9.0-1", "6.10.0-1", "6.1.0-49", "6.1.0-5", "6.1.0-49-cloud", "5.18"];
        names.sort_by(|a, b| versions(a.as_bytes(), b.as_bytes()));
        assert_eq!(names, ["5.18", "6.1.0-5", "6.1.0-49", "6.1.0-49-cloud", "6.9.0-1", "6.10.0-1"]);
    }
}
