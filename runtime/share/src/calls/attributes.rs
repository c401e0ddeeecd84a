//! Attributes of files and of file systems.

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{FchmodatFlags, Mode, UtimensatFlags, fchmodat, utimensat};
use nix::sys::statvfs::fstatvfs;
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat, ftruncate};

use crate::message::{Body, Reply, Request};
use crate::procfs::Descriptors;
use crate::server::{Outcome, Server};
use crate::sys::{self, Status};

/// For how many seconds the guest may believe a name and attributes without asking: so long a change that the host
/// makes can go unseen.
const VALID: u64 = 1;

const GETATTR_FH: u32 = 1 << 0;

const MODE: u32 = 1 << 0;
const UID: u32 = 1 << 1;
const GID: u32 = 1 << 2;
const SIZE: u32 = 1 << 3;
const ATIME: u32 = 1 << 4;
const MTIME: u32 = 1 << 5;
const FH: u32 = 1 << 6;
const ATIME_NOW: u32 = 1 << 7;
const MTIME_NOW: u32 = 1 << 8;
const KILL_SUIDGID: u32 = 1 << 11;

/// Writes a `fuse_entry_out`: the file's number, for how long that holds, its attributes.
pub(crate) fn entry(server: &mut Server, node: u64, status: &Status) {
    let inode = server.shown_inode(status.device(), status.get().stx_ino);
    let reply = &mut server.reply;
    reply.u64(node);
    reply.u64(0); // generation: a number is never given again
    reply.u64(VALID);
    reply.u64(VALID);
    reply.u64(0); // nanoseconds of both
    attributes(reply, inode, status);
}

/// Writes a `fuse_attr_out`.
fn attr(server: &mut Server, status: &Status) {
    let inode = server.shown_inode(status.device(), status.get().stx_ino);
    let reply = &mut server.reply;
    reply.u64(VALID);
    reply.u64(0);
    attributes(reply, inode, status);
}

fn attributes(reply: &mut Reply, inode: u64, status: &Status) {
    let status = status.get();
    let times = [status.stx_atime, status.stx_mtime, status.stx_ctime];
    reply.u64(inode);
    reply.u64(status.stx_size);
    reply.u64(status.stx_blocks);
    times.iter().for_each(|time| reply.u64(time.tv_sec as u64));
    times.iter().for_each(|time| reply.u32(time.tv_nsec));
    reply.u32(status.stx_mode.into());
    reply.u32(status.stx_nlink);
    reply.u32(status.stx_uid);
    reply.u32(status.stx_gid);
    reply.u32(encode_device(status.stx_rdev_major, status.stx_rdev_minor));
    reply.u32(status.stx_blksize);
    reply.u32(0);
}

/// The kernel's 32-bit form of a device's numbers, `new_encode_dev`.
fn encode_device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & 0xf_ff00) << 12
}

/// `new_decode_dev`.
pub(crate) fn decode_device(device: u32) -> libc::dev_t {
    libc::makedev((device & 0xf_ff00) >> 8, (device & 0xff) | (device >> 12 & 0xf_ff00))
}

pub(crate) fn getattr(server: &mut Server, request: Request<'_>) -> Outcome {
    let mut body = request.body;
    let flags = body.u32()?;
    body.skip(4)?;
    let status = match flags & GETATTR_FH {
        0 => sys::statx(server.path(request.node)?)?,
        _ => sys::statx(&server.file(body.u64()?, request.node)?.file)?,
    };
    attr(server, &status);
    Ok(())
}

/// A `fuse_setattr_in`.
struct Change {
    valid: u32,
    file: u64,
    size: u64,
    times: [(u64, u32); 2],
    mode: u32,
    uid: u32,
    gid: u32,
}

impl Change {
    fn read(mut body: Body<'_>) -> Result<Self, Errno> {
        let valid = body.u32()?;
        body.skip(4)?;
        let (file, size) = (body.u64()?, body.u64()?);
        body.skip(8)?; // lock_owner
        let seconds = [body.u64()?, body.u64()?];
        body.skip(8)?; // ctime
        let nanoseconds = [body.u32()?, body.u32()?];
        body.skip(4)?;
        let mode = body.u32()?;
        body.skip(4)?;
        let (uid, gid) = (body.u32()?, body.u32()?);
        let times = [(seconds[0], nanoseconds[0]), (seconds[1], nanoseconds[1])];
        Ok(Self { valid, file, size, times, mode, uid, gid })
    }

    fn has(&self, bits: u32) -> bool {
        self.valid & bits != 0
    }

    /// The new time of access or of modification.
    fn time(&self, which: usize, set: u32, now: u32) -> Result<TimeSpec, Errno> {
        let (seconds, nanoseconds) = self.times[which];
        match (self.has(now), self.has(set)) {
            (true, _) => Ok(TimeSpec::UTIME_NOW),
            (_, true) if nanoseconds < 1_000_000_000 => {
                Ok(TimeSpec::new(seconds as i64, nanoseconds.into()))
            }
            (_, true) => Err(Errno::EINVAL),
            _ => Ok(TimeSpec::UTIME_OMIT),
        }
    }
}

pub(crate) fn setattr(server: &mut Server, request: Request<'_>) -> Outcome {
    let change = Change::read(request.body)?;
    let node = request.node;
    server.identity.clear_set_ids(change.has(SIZE) && change.has(KILL_SUIDGID))?;
    // Owner before mode: the kernel clears set-user-ID when the owner changes.
    if change.has(UID | GID) {
        let uid = change.has(UID).then(|| Uid::from_raw(change.uid));
        let gid = change.has(GID).then(|| Gid::from_raw(change.gid));
        fchownat(server.path(node)?, c"", uid, gid, AtFlags::AT_EMPTY_PATH)?;
    }
    if change.has(MODE) {
        let mode = Mode::from_bits_truncate(change.mode);
        let path = server.path(node)?;
        let name = Descriptors::name(&path);
        let follow = FchmodatFlags::FollowSymlink;
        fchmodat(&server.descriptors, name.as_c_str(), mode, follow)?;
    }
    if change.has(SIZE) {
        truncate(server, node, &change)?;
    }
    if change.has(ATIME | MTIME | ATIME_NOW | MTIME_NOW) {
        let atime = change.time(0, ATIME, ATIME_NOW)?;
        let mtime = change.time(1, MTIME, MTIME_NOW)?;
        let path = server.path(node)?;
        let name = Descriptors::name(&path);
        let follow = UtimensatFlags::FollowSymlink;
        utimensat(&server.descriptors, name.as_c_str(), &atime, &mtime, follow)?;
    }
    let status = sys::statx(server.path(node)?)?;
    attr(server, &status);
    Ok(())
}

fn truncate(server: &Server, node: u64, change: &Change) -> Outcome {
    let size = i64::try_from(change.size).map_err(|_| Errno::EFBIG)?;
    if change.has(FH) {
        let open = server.file(change.file, node)?;
        return ftruncate(&open.file, size);
    }
    if server.nodes.kind(node)? == libc::S_IFDIR {
        return Err(Errno::EISDIR);
    }
    ftruncate(server.open_node(node, OFlag::O_WRONLY)?, size)
}

pub(crate) fn statfs(server: &mut Server, request: Request<'_>) -> Outcome {
    let status = fstatvfs(server.path(request.node)?)?;
    let reply = &mut server.reply;
    reply.u64(status.blocks());
    reply.u64(status.blocks_free());
    reply.u64(status.blocks_available());
    reply.u64(status.files());
    reply.u64(status.files_free());
    reply.u32(status.block_size() as u32);
    reply.u32(status.name_max() as u32);
    reply.u32(status.fragment_size() as u32);
    reply.bytes(&[0; 28]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_are_coded_as_the_kernel_does() {
        for (major, minor, code) in [
            (1, 3, 0x103),
            (8, 300, 0x0010_082c),
            (0xfff, 0xf_ffff, 0xffff_ffff),
            (259, 65536, 0x1001_0300),
        ] {
            assert_eq!(encode_device(major, minor), code);
            assert_eq!(decode_device(code), libc::makedev(major, minor));
        }
    }
}
