//! What the kernel would execute a file as: an ELF program for this machine, or a script.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// As much of a file as execve(2) looks at to choose a format.
const HEAD: usize = 256;

/// The longest interpreter path that the kernel takes.
const LONGEST_PATH: u64 = 4096;

/// What a file is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Runs with this interpreter: that of a script, or the dynamic linker.
    With(PathBuf),
    /// Runs by itself.
    Alone,
    /// ENOEXEC, for this reason.
    Refused(String),
    /// Only what is registered with binfmt_misc may know it.
    Foreign(String),
}

/// `e_machine` of what this machine runs, besides itself.
#[cfg(target_arch = "x86_64")]
const MACHINES: [u16; 2] = [62, 3];
#[cfg(target_arch = "aarch64")]
const MACHINES: [u16; 2] = [183, 40];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const MACHINES: [u16; 0] = [];

/// The format of a file, by its first bytes.
pub(super) fn format(file: &File) -> std::io::Result<Format> {
    let mut head = Vec::new();
    file.take(HEAD as u64).read_to_end(&mut head)?;
    if head.is_empty() {
        return Ok(Format::Refused("it is empty".to_owned()));
    }
    if let Some(line) = head.strip_prefix(b"#!") {
        return Ok(script(line));
    }
    if !head.starts_with(b"\x7fELF") {
        return Ok(Format::Foreign("it is neither an ELF program nor a script".to_owned()));
    }
    elf(file, &head)
}

fn script(line: &[u8]) -> Format {
    use std::os::unix::ffi::OsStrExt;
    let line = line.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let mut words = line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
    match words.next() {
        Some(path) => {
            let path = path.split(|&byte| byte == 0).next().unwrap_or_default();
            Format::With(Path::new(std::ffi::OsStr::from_bytes(path)).to_owned())
        }
        None => Format::Refused("its first line names no interpreter".to_owned()),
    }
}

fn elf(file: &File, head: &[u8]) -> std::io::Result<Format> {
    const PT_INTERP: u64 = 3;
    let wide = head.get(4) == Some(&2);
    let little = head.get(5) == Some(&1);
    let number = |bytes: &[u8], at: usize, length: usize| -> Option<u64> {
        let field = bytes.get(at..at.checked_add(length)?)?;
        let add = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        Some(if little { field.iter().rev().fold(0, add) } else { field.iter().fold(0, add) })
    };
    let bad = || Ok(Format::Refused("its ELF header is damaged".to_owned()));
    let Some(machine) = number(head, 18, 2).and_then(|n| u16::try_from(n).ok()) else {
        return bad();
    };
    if !little || !(MACHINES.is_empty() || MACHINES.contains(&machine)) {
        let own = std::env::consts::ARCH;
        return Ok(Format::Foreign(format!("it is for ELF machine {machine}, this one is {own}")));
    }
    // Offset, size of an entry and number of the program headers; then, in an entry, offset and size.
    let (at, each, count, offset, size, word) = match wide {
        true => (32, 54, 56, 8, 32, 8),
        false => (28, 42, 44, 4, 16, 4),
    };
    let (Some(table), Some(each), Some(count)) =
        (number(head, at, word), number(head, each, 2), number(head, count, 2))
    else {
        return bad();
    };
    for index in 0..count {
        let mut entry = [0_u8; 56];
        let Some(place) = table.checked_add(index * each) else { return bad() };
        let length = file.read_at(&mut entry, place)?;
        let entry = &entry[..length];
        if number(entry, 0, 4) != Some(PT_INTERP) {
            continue;
        }
        let (Some(offset), Some(size)) = (number(entry, offset, word), number(entry, size, word))
        else {
            return bad();
        };
        if !(2..=LONGEST_PATH).contains(&size) {
            return bad();
        }
        let mut path = vec![0_u8; usize::try_from(size).unwrap_or(0)];
        file.read_exact_at(&mut path, offset)?;
        path.truncate(path.iter().position(|&byte| byte == 0).unwrap_or(path.len()));
        use std::os::unix::ffi::OsStringExt;
        return Ok(Format::With(PathBuf::from(std::ffi::OsString::from_vec(path))));
    }
    Ok(Format::Alone)
}

/// Whether a handler for foreign formats is registered and switched on.
pub(super) fn has_handlers() -> bool {
    let list = std::fs::read_dir("/proc/sys/fs/binfmt_misc");
    list.into_iter().flatten().flatten().any(|entry| {
        !matches!(entry.file_name().to_str(), Some("register" | "status"))
            && std::fs::read_to_string(entry.path()).is_ok_and(|text| text.starts_with("enabled"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> Format {
        let name = format!("bulkhead-image-{}-{}", std::process::id(), bytes.len());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, bytes).unwrap();
        let found = format(&File::open(&path).unwrap()).unwrap();
        std::fs::remove_file(path).unwrap();
        found
    }

    #[test]
    fn formats() {
        assert_eq!(of(b"#! /bin/sh -e\nx"), Format::With("/bin/sh".into()));
        assert!(matches!(of(b"#!\n"), Format::Refused(_)));
        assert!(matches!(of(b""), Format::Refused(_)));
        assert!(matches!(of(b"text"), Format::Foreign(_)));
        assert!(matches!(of(b"\x7fELF\x02\x01"), Format::Refused(_)));
        let mut other = b"\x7fELF\x02\x01".to_vec();
        other.resize(64, 0);
        other[18] = 22;
        assert!(matches!(of(&other), Format::Foreign(_)), "s390");
        let own = format(&File::open("/proc/self/exe").unwrap()).unwrap();
        assert!(matches!(own, Format::Alone | Format::With(_)), "{own:?}");
    }
}
