//! Open files: reading, writing, and what else is done with their content.

use nix::errno::Errno;
use nix::fcntl::{self, FallocateFlags, OFlag};
use nix::sys::uio::pread;
use nix::unistd::{self, Whence};

use crate::message::{PAYLOAD, Request};
use crate::nodes::ROOT;
use crate::server::{Open, Outcome, Server};
use crate::sys;

const OPEN_KILL_SUIDGID: u32 = 1 << 0;
const WRITE_KILL_SUIDGID: u32 = 1 << 2;
const FSYNC_FDATASYNC: u32 = 1 << 0;

/// How a file is opened: with those of the guest's flags that say something to the host's kernel. Appending is said
/// with each write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening {
    pub(crate) flags: OFlag,
    /// Truncating it clears set-user-ID and set-group-ID bits.
    clear: bool,
}

impl Opening {
    /// From `open(2)`'s flags and FUSE's own.
    pub(crate) fn from(flags: u32, extra: u32) -> Result<Self, Errno> {
        let flags = OFlag::from_bits_truncate(flags as i32);
        if flags & OFlag::O_ACCMODE == OFlag::O_ACCMODE {
            return Err(Errno::EINVAL);
        }
        let kept =
            OFlag::O_ACCMODE | OFlag::O_TRUNC | OFlag::O_SYNC | OFlag::O_DSYNC | OFlag::O_NOATIME;
        Ok(Self { flags: flags & kept, clear: extra & OPEN_KILL_SUIDGID != 0 })
    }
}

pub(crate) fn open(server: &mut Server, mut request: Request<'_>) -> Outcome {
    let opening = Opening::from(request.body.u32()?, request.body.u32()?)?;
    open_file(server, request.node, opening)
}

/// Opens a file that has a number, and tells the number of the open file.
pub(crate) fn open_file(server: &mut Server, node: u64, opening: Opening) -> Outcome {
    if server.nodes.kind(node)? == libc::S_IFDIR {
        return Err(Errno::EISDIR);
    }
    server.identity.clear_set_ids(opening.clear)?;
    let file = server.open_node(node, opening.flags)?;
    let number = server.keep(Open { node, file, directory: false })?;
    opened(server, number);
    Ok(())
}

/// Writes a `fuse_open_out`.
pub(crate) fn opened(server: &mut Server, number: u64) {
    server.reply.u64(number);
    server.reply.u64(0); // no flags: pages of before are dropped
}

pub(crate) fn read(server: &mut Server, mut request: Request<'_>) -> Outcome {
    let body = &mut request.body;
    let (number, offset, size) = (body.u64()?, body.u64()?, body.u32()?);
    let offset = i64::try_from(offset).map_err(|_| Errno::EINVAL)?;
    let mut reply = std::mem::take(&mut server.reply);
    let result = regular(server, number, request.node).and_then(|open| {
        reply.fill((size as usize).min(PAYLOAD), |buffer| pread(&open.file, buffer, offset))
    });
    server.reply = reply;
    result
}

/// The open file, if it is no directory.
fn regular(server: &Server, number: u64, node: u64) -> Result<&Open, Errno> {
    server
        .file(number, node)
        .and_then(|open| if open.directory { Err(Errno::EISDIR) } else { Ok(open) })
}

pub(crate) fn write(server: &mut Server, mut request: Request<'_>) -> Outcome {
    let body = &mut request.body;
    let (number, offset) = (body.u64()?, body.u64()?);
    let (size, write_flags) = (body.u32()?, body.u32()?);
    body.skip(8)?; // lock_owner
    let flags = OFlag::from_bits_truncate(body.u32()? as i32);
    body.skip(4)?;
    let data = body.bytes(size as usize)?;
    let offset = i64::try_from(offset).map_err(|_| Errno::EINVAL)?;
    server.identity.clear_set_ids(write_flags & WRITE_KILL_SUIDGID != 0)?;
    let append = if flags.contains(OFlag::O_APPEND) { libc::RWF_APPEND } else { 0 };
    let sync = match flags & OFlag::O_SYNC {
        sync if sync == OFlag::O_SYNC => libc::RWF_SYNC,
        sync if sync == OFlag::O_DSYNC => libc::RWF_DSYNC,
        _ => 0,
    };
    let open = regular(server, number, request.node)?;
    let written = sys::pwritev2(&open.file, data, offset, append | sync)?;
    server.reply.u32(written as u32);
    server.reply.u32(0);
    Ok(())
}

pub(crate) fn release(server: &mut Server, mut request: Request<'_>) -> Outcome {
    let number = request.body.u64()?;
    server.file(number, request.node)?;
    server.files.remove(&number);
    Ok(())
}

pub(crate) fn fsync(server: &mut Server, mut request: Request<'_>) -> Outcome {
    let (number, flags) = (request.body.u64()?, request.body.u32()?);
    let file = &server.file(number, request.node)?.file;
    if flags & FSYNC_FDATASYNC != 0 { unistd::fdatasync(file) } else { unistd::fsync(file) }
}

/// Of all that the guest has seen.
pub(crate) fn syncfs(server: &mut Server) -> Outcome {
    let root = server.open_node(ROOT, OFlag::O_RDONLY)?;
    unistd::syncfs(&root)?;
    server.nodes.mounts().try_for_each(unistd::syncfs)
}

pub(crate) fn fallocate(server: &mut Server, mut request: Request<'_>) -> Outcome {
    let body = &mut request.body;
    let (number, offset, length) = (body.u64()?, body.u64()?, body.u64()?);
    let mode = FallocateFlags::from_bits(body.u32()? as i32).ok_or(Errno::EOPNOTSUPP)?;
    let signed = |number: u64| i64::try_from(number).map_err(|_| Errno::EFBIG);
    server.identity.clear_set_ids(true)?;
    let open = regular(server, number, request.node)?;
    fcntl::fallocate(&open.file, mode, signed(offset)?, signed(length)?)
}

/// Of holes and of data: the guest knows the other positions.
pub(crate) fn lseek(server: &mut Server, mut request: Request<'_>) -> Outcome {
    let body = &mut request.body;
    let (number, offset, whence) = (body.u64()?, body.u64()?, body.u32()?);
    let whence = match whence as i32 {
        libc::SEEK_DATA => Whence::SeekData,
        libc::SEEK_HOLE => Whence::SeekHole,
        _ => return Err(Errno::EINVAL),
    };
    let offset = i64::try_from(offset).map_err(|_| Errno::ENXIO)?;
    let open = regular(server, number, request.node)?;
    let found = unistd::lseek(&open.file, offset, whence)?;
    server.reply.u64(found as u64);
    Ok(())
}

/// At most this much in one request, in bytes, for others wait meanwhile.
const COPY: u64 = 16 << 20;

pub(crate) fn copy_file_range(server: &mut Server, mut request: Request<'_>) -> Outcome {
    let body = &mut request.body;
    let (from, from_offset) = (body.u64()?, body.u64()?);
    let (node, to, to_offset) = (body.u64()?, body.u64()?, body.u64()?);
    let (length, flags) = (body.u64()?, body.u64()?);
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let signed = |number: u64| i64::try_from(number).map_err(|_| Errno::EINVAL);
    let (from_offset, to_offset) = (signed(from_offset)?, signed(to_offset)?);
    server.identity.clear_set_ids(true)?;
    let source = &regular(server, from, request.node)?.file;
    let target = &regular(server, to, node)?.file;
    let length = length.min(COPY) as usize;
    let copied = sys::copy_file_range((source, from_offset), (target, to_offset), length)?;
    server.reply.u32(copied as u32);
    server.reply.u32(0);
    Ok(())
}
