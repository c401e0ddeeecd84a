//! FUSE messages, as `include/uapi/linux/fuse.h` has them: numbers in the machine's byte order, one after the other.
//!
//! A request is hostile. It is read from the front, each number and name with a check, so that one that is too short is
//! `EINVAL`; what is behind the last field that we know is left alone, as the protocol wants it for what newer
//! kernels add.

use std::ffi::CStr;

use nix::errno::Errno;

/// The largest piece of a file in one message, in bytes. A message with it fits the default buffer of a Unix
/// socket (`net.core.wmem_default`, 208 KiB), and so is one packet.
pub const PAYLOAD: usize = 128 << 10;
/// The largest message: a piece, and a page for what is around it.
pub const LARGEST: usize = PAYLOAD + 4096;

/// Lengths of the headers.
const IN_HEADER: usize = 40;
const OUT_HEADER: usize = 16;

/// The largest name of a file in its directory, in bytes.
const NAME_MAX: usize = 255;

/// What a request asks for. The numbers are the kernel's.
pub(crate) mod opcode {
    pub(crate) const LOOKUP: u32 = 1;
    pub(crate) const FORGET: u32 = 2;
    pub(crate) const GETATTR: u32 = 3;
    pub(crate) const SETATTR: u32 = 4;
    pub(crate) const READLINK: u32 = 5;
    pub(crate) const SYMLINK: u32 = 6;
    pub(crate) const MKNOD: u32 = 8;
    pub(crate) const MKDIR: u32 = 9;
    pub(crate) const UNLINK: u32 = 10;
    pub(crate) const RMDIR: u32 = 11;
    pub(crate) const RENAME: u32 = 12;
    pub(crate) const LINK: u32 = 13;
    pub(crate) const OPEN: u32 = 14;
    pub(crate) const READ: u32 = 15;
    pub(crate) const WRITE: u32 = 16;
    pub(crate) const STATFS: u32 = 17;
    pub(crate) const RELEASE: u32 = 18;
    pub(crate) const FSYNC: u32 = 20;
    pub(crate) const SETXATTR: u32 = 21;
    pub(crate) const GETXATTR: u32 = 22;
    pub(crate) const LISTXATTR: u32 = 23;
    pub(crate) const REMOVEXATTR: u32 = 24;
    pub(crate) const INIT: u32 = 26;
    pub(crate) const OPENDIR: u32 = 27;
    pub(crate) const READDIR: u32 = 28;
    pub(crate) const RELEASEDIR: u32 = 29;
    pub(crate) const FSYNCDIR: u32 = 30;
    pub(crate) const CREATE: u32 = 35;
    pub(crate) const INTERRUPT: u32 = 36;
    pub(crate) const DESTROY: u32 = 38;
    pub(crate) const BATCH_FORGET: u32 = 42;
    pub(crate) const FALLOCATE: u32 = 43;
    pub(crate) const READDIRPLUS: u32 = 44;
    pub(crate) const RENAME2: u32 = 45;
    pub(crate) const LSEEK: u32 = 46;
    pub(crate) const COPY_FILE_RANGE: u32 = 47;
    pub(crate) const SYNCFS: u32 = 50;
    pub(crate) const TMPFILE: u32 = 51;
}

/// A request's header, and what follows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    pub(crate) opcode: u32,
    pub(crate) unique: u64,
    /// The file that it is about, by the number that an answer of ours gave it.
    pub(crate) node: u64,
    /// Who asks, by the guest's ids.
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) body: Body<'a>,
}

impl<'a> Request<'a> {
    /// Reads the header; nothing if the packet is no message.
    pub(crate) fn read(packet: &'a [u8]) -> Option<Self> {
        let mut fields = Body(packet);
        let length = fields.u32().ok()?;
        if packet.len() < IN_HEADER || length as usize != packet.len() {
            return None;
        }
        Some(Self {
            opcode: fields.u32().ok()?,
            unique: fields.u64().ok()?,
            node: fields.u64().ok()?,
            uid: fields.u32().ok()?,
            gid: fields.u32().ok()?,
            body: Body(&packet[IN_HEADER..]),
        })
    }
}

/// What is not yet read of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    pub(crate) fn u32(&mut self) -> Result<u32, Errno> {
        let (first, rest) = self.0.split_first_chunk().ok_or(Errno::EINVAL)?;
        self.0 = rest;
        Ok(u32::from_ne_bytes(*first))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Errno> {
        let (first, rest) = self.0.split_first_chunk().ok_or(Errno::EINVAL)?;
        self.0 = rest;
        Ok(u64::from_ne_bytes(*first))
    }

    /// Passes over fields of so many bytes.
    pub(crate) fn skip(&mut self, length: usize) -> Result<(), Errno> {
        self.bytes(length).map(drop)
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Result<&'a [u8], Errno> {
        let (first, rest) = self.0.split_at_checked(length).ok_or(Errno::EINVAL)?;
        self.0 = rest;
        Ok(first)
    }

    /// Text that ends with NUL.
    pub(crate) fn text(&mut self) -> Result<&'a CStr, Errno> {
        let text = CStr::from_bytes_until_nul(self.0).map_err(|_| Errno::EINVAL)?;
        self.0 = &self.0[text.to_bytes_with_nul().len()..];
        Ok(text)
    }

    /// The name of a file in its directory. One that would lead elsewhere is none.
    pub(crate) fn name(&mut self) -> Result<&'a CStr, Errno> {
        let name = self.text()?;
        match name.to_bytes() {
            b"" | b"." | b".." => Err(Errno::EINVAL),
            bytes if bytes.contains(&b'/') => Err(Errno::EINVAL),
            bytes if bytes.len() > NAME_MAX => Err(Errno::ENAMETOOLONG),
            _ => Ok(name),
        }
    }
}

/// An answer that is being written. The buffer stays from one to the next.
#[derive(Debug, Default)]
pub(crate) struct Reply(Vec<u8>);

impl Reply {
    /// Begins an answer.
    pub(crate) fn begin(&mut self) {
        self.0.clear();
        self.0.resize(OUT_HEADER, 0);
    }

    /// Completes it with its header; what was written of one that failed is taken back.
    pub(crate) fn end(&mut self, unique: u64, outcome: Result<(), Errno>) -> &[u8] {
        let error = match outcome {
            Ok(()) => 0,
            Err(errno) => {
                self.0.truncate(OUT_HEADER);
                -(errno as i32)
            }
        };
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0[4..8].copy_from_slice(&error.to_ne_bytes());
        self.0[8..16].copy_from_slice(&unique.to_ne_bytes());
        &self.0
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.0.extend(value.to_ne_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.0.extend(value.to_ne_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.0.extend(value.to_ne_bytes());
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
    }

    /// Zeros up to a multiple of eight.
    pub(crate) fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(8), 0);
    }

    /// How much is written behind the header.
    pub(crate) fn len(&self) -> usize {
        self.0.len() - OUT_HEADER
    }

    /// Lets `fill` write up to `length` bytes; it answers how many it wrote.
    pub(crate) fn fill(
        &mut self,
        length: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, Errno>,
    ) -> Result<(), Errno> {
        let at = self.0.len();
        self.0.resize(at + length, 0);
        let written = fill(&mut self.0[at..])?;
        self.0.truncate(at + written.min(length));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let long = [b'x'; 256];
        for (name, expected) in [
            (&b"a\0"[..], Ok(())),
            (b"...\0", Ok(())),
            (b"\xff\n\0", Ok(())),
            (b"\0", Err(Errno::EINVAL)),
            (b".\0", Err(Errno::EINVAL)),
            (b"..\0", Err(Errno::EINVAL)),
            (b"a/b\0", Err(Errno::EINVAL)),
            (b"/\0", Err(Errno::EINVAL)),
            (b"../a\0", Err(Errno::EINVAL)),
            (b"no end", Err(Errno::EINVAL)),
            (b"", Err(Errno::EINVAL)),
            (&[&long[..], b"\0"].concat(), Err(Errno::ENAMETOOLONG)),
            (&[&long[1..], b"\0"].concat(), Ok(())),
        ] {
            assert_eq!(Body(name).name().map(drop), expected, "{name:?}");
        }
    }

    #[test]
    fn a_packet_is_as_long_as_it_says() {
        let mut packet = vec![0; 44];
        for (says, message) in [(44_u32, true), (43, false), (45, false), (0, false)] {
            packet[..4].copy_from_slice(&says.to_ne_bytes());
            assert_eq!(Request::read(&packet).is_some(), message, "{says}");
        }
        for length in 0..40_u32 {
            let mut packet = vec![0; length as usize];
            packet.iter_mut().zip(length.to_ne_bytes()).for_each(|(byte, value)| *byte = value);
            assert!(Request::read(&packet).is_none(), "{length}");
        }
    }

    #[test]
    fn a_failed_answer_has_its_header_alone() {
        let mut reply = Reply::default();
        reply.begin();
        reply.u64(7);
        let bytes = reply.end(3, Err(Errno::ENOENT)).to_vec();
        let expected = [16_u32.to_ne_bytes(), (-2_i32).to_ne_bytes()].concat();
        assert_eq!(bytes, [&expected[..], &3_u64.to_ne_bytes()].concat());
    }
}
