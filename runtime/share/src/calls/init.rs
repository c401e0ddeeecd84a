//! What the guest's kernel and the server agree on at the beginning.

use nix::errno::Errno;

use crate::message::{PAYLOAD, Request};
use crate::server::{Outcome, Server, Session};

const MAJOR: u32 = 7;
/// What we speak (Linux 6.1), and what the guest has to (Linux 5.4, the first with virtio-fs).
const MINOR: u32 = 37;
const OLDEST: u32 = 31;

const ASYNC_READ: u32 = 1 << 0;
const ATOMIC_O_TRUNC: u32 = 1 << 3;
const BIG_WRITES: u32 = 1 << 5;
/// The guest sends its umask along, which must not apply below a default ACL.
const DONT_MASK: u32 = 1 << 6;
/// Cached pages are dropped when size or time of the file differ.
const AUTO_INVAL_DATA: u32 = 1 << 12;
const DO_READDIRPLUS: u32 = 1 << 13;
const READDIRPLUS_AUTO: u32 = 1 << 14;
const ASYNC_DIO: u32 = 1 << 15;
const PARALLEL_DIROPS: u32 = 1 << 18;
const POSIX_ACL: u32 = 1 << 20;
const MAX_PAGES: u32 = 1 << 22;
/// The server clears set-user-ID and set-group-ID bits, and `security.capability`.
const HANDLE_KILLPRIV_V2: u32 = 1 << 28;
const SETXATTR_EXT: u32 = 1 << 29;

/// What is used if the guest has it.
///
/// Not there: `POSIX_LOCKS` and `FLOCK_LOCKS`, so that locks are the guest's own; `WRITEBACK_CACHE`, so that what is
/// written is in the host's file when the call returns; `CACHE_SYMLINKS`, for the host may change one.
const WANTED: u32 = ASYNC_READ
    | ATOMIC_O_TRUNC
    | BIG_WRITES
    | DONT_MASK
    | AUTO_INVAL_DATA
    | DO_READDIRPLUS
    | READDIRPLUS_AUTO
    | ASYNC_DIO
    | PARALLEL_DIROPS
    | POSIX_ACL
    | MAX_PAGES
    | HANDLE_KILLPRIV_V2
    | SETXATTR_EXT;

const PAGE: usize = 4096;

/// A guest that begins anew knows nothing of before.
pub(crate) fn init(server: &mut Server, request: Request<'_>) -> Outcome {
    let mut body = request.body;
    let (major, minor) = (body.u32()?, body.u32()?);
    let (readahead, offered) = (body.u32()?, body.u32()?);
    if major < MAJOR || major == MAJOR && minor < OLDEST {
        return Err(Errno::EPROTO);
    }
    server.clear();
    let flags = offered & WANTED;
    server.session = Session { begun: true, long_setxattr: flags & SETXATTR_EXT != 0 };
    let reply = &mut server.reply;
    reply.u32(MAJOR);
    reply.u32(MINOR);
    reply.u32(readahead.min(PAYLOAD as u32));
    reply.u32(flags);
    // max_background and congestion_threshold: the guest's own.
    reply.u16(0);
    reply.u16(0);
    reply.u32(PAYLOAD as u32); // max_write
    reply.u32(1); // time_gran, in nanoseconds
    reply.u16((PAYLOAD / PAGE) as u16); // max_pages
    reply.u16(0); // map_alignment
    reply.bytes(&[0; 32]);
    Ok(())
}
