//! ELF files: as much as tells whether a file is for this processor, and whole. elf(5)

/// This processor.
const MACHINE: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };

/// The headers of a 64-bit ELF file.
pub struct Elf<'f> {
    file: &'f [u8],
    pub kind: u16,
}

/// A part of an ELF file that is loaded, or read by who loads it.
pub struct Segment<'f> {
    pub kind: u32,
    pub content: &'f [u8],
}

const TRUNCATED: &str = "is a truncated ELF file";

impl<'f> Elf<'f> {
    /// Takes a file for this processor.
    pub fn read(file: &'f [u8]) -> Result<Self, String> {
        const LITTLE_ENDIAN_64: &[u8] = b"\x7fELF\x02\x01";
        if !file.starts_with(b"\x7fELF") {
            return Err("is no ELF file".to_owned());
        }
        let machine = u16_at(file, 18).ok_or(TRUNCATED)?;
        if !file.starts_with(LITTLE_ENDIAN_64) || machine != MACHINE {
            return Err(format!("is for another processor (ELF machine {machine})"));
        }
        if file.len() < 64 {
            return Err(TRUNCATED.to_owned());
        }
        Ok(Self { file, kind: u16_at(file, 16).ok_or(TRUNCATED)? })
    }

    /// The segments, each of which is wholly there.
    pub fn segments(&self) -> Result<Vec<Segment<'f>>, String> {
        let headers = usize::try_from(u64_at(self.file, 32).ok_or(TRUNCATED)?).ok();
        let size = usize::from(u16_at(self.file, 54).ok_or(TRUNCATED)?);
        let count = usize::from(u16_at(self.file, 56).ok_or(TRUNCATED)?);
        let segment = |index: usize| {
            let at = headers?.checked_add(index.checked_mul(size)?)?;
            let start = usize::try_from(u64_at(self.file, at.checked_add(8)?)?).ok()?;
            let size = usize::try_from(u64_at(self.file, at.checked_add(32)?)?).ok()?;
            let end = start.checked_add(size)?;
            Some(Segment { kind: u32_at(self.file, at)?, content: self.file.get(start..end)? })
        };
        (0..count).map(|index| segment(index).ok_or_else(|| TRUNCATED.to_owned())).collect()
    }

    /// Whether the table of sections, the last thing in a module but its signature, is there.
    pub fn whole(&self) -> Result<(), String> {
        let start = u64_at(self.file, 40).ok_or(TRUNCATED)?;
        let size = u64::from(u16_at(self.file, 58).ok_or(TRUNCATED)?);
        let count = u64::from(u16_at(self.file, 60).ok_or(TRUNCATED)?);
        match start.checked_add(size * count) {
            Some(end) if start != 0 && end <= self.file.len() as u64 => Ok(()),
            _ => Err(TRUNCATED.to_owned()),
        }
    }
}

/// The little-endian number at `at`.
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

/// The little-endian number at `at`.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// The little-endian number at `at`.
pub fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// Where `word` occurs.
pub fn find_all(bytes: &[u8], word: &'static [u8]) -> impl Iterator<Item = usize> {
    let first = word[0];
    let starts = bytes.iter().enumerate().filter(move |(_, byte)| **byte == first);
    starts.map(|(at, _)| at).filter(move |at| bytes[*at..].starts_with(word))
}
