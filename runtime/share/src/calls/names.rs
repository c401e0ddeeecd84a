//! Names in directories: looking them up, taking them away, giving a file another.

use std::ffi::CStr;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, RenameFlags, readlinkat, renameat2};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

use crate::calls::attributes;
use crate::message::{Body, Request};
use crate::procfs::Descriptors;
use crate::server::{Outcome, Server};

/// `RENAME_NOREPLACE`, `RENAME_EXCHANGE`, `RENAME_WHITEOUT`.
const RENAME_FLAGS: u32 = 1 | 2 | 4;

pub(crate) fn lookup(server: &mut Server, mut request: Request<'_>) -> Outcome {
    let name = request.body.name()?;
    found(server, request.node, name)
}

/// Tells the guest of a file in a directory.
pub(crate) fn found(server: &mut Server, directory: u64, name: &CStr) -> Outcome {
    let fd = server.child(directory, name)?;
    let (node, status) = server.adopt(fd)?;
    attributes::entry(server, node, &status);
    Ok(())
}

/// Of one file, or of as many as the message has.
pub(crate) fn forget(server: &mut Server, request: Request<'_>) -> Outcome {
    let mut body = request.body;
    if request.opcode == crate::message::opcode::FORGET {
        server.nodes.forget(request.node, body.u64()?);
        return Ok(());
    }
    let count = body.u32()?;
    body.skip(4)?;
    for _ in 0..count {
        let (node, count) = (body.u64()?, body.u64()?);
        server.nodes.forget(node, count);
    }
    Ok(())
}

pub(crate) fn readlink(server: &mut Server, request: Request<'_>) -> Outcome {
    use std::os::unix::ffi::OsStrExt;
    if server.nodes.kind(request.node)? != libc::S_IFLNK {
        return Err(Errno::EINVAL);
    }
    let target = readlinkat(server.path(request.node)?, c"")?;
    server.reply.bytes(target.as_bytes());
    Ok(())
}

pub(crate) fn unlink(server: &mut Server, mut request: Request<'_>) -> Outcome {
    let name = request.body.name()?;
    unlinkat(server.path(request.node)?, name, UnlinkatFlags::NoRemoveDir)
}

pub(crate) fn rmdir(server: &mut Server, mut request: Request<'_>) -> Outcome {
    let name = request.body.name()?;
    unlinkat(server.path(request.node)?, name, UnlinkatFlags::RemoveDir)
}

pub(crate) fn rename(server: &mut Server, mut request: Request<'_>) -> Outcome {
    let to = request.body.u64()?;
    change_name(server, request.node, to, request.body, 0)
}

pub(crate) fn rename2(server: &mut Server, mut request: Request<'_>) -> Outcome {
    let (to, flags) = (request.body.u64()?, request.body.u32()?);
    request.body.skip(4)?;
    change_name(server, request.node, to, request.body, flags)
}

fn change_name(server: &Server, from: u64, to: u64, mut names: Body<'_>, flags: u32) -> Outcome {
    let (old, new) = (names.name()?, names.name()?);
    if flags & !RENAME_FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    let flags = RenameFlags::from_bits_truncate(flags);
    renameat2(server.path(from)?, old, server.path(to)?, new, flags)
}

/// Another name for a file. The link in procfs leads to the file itself, also if that is a symbolic link; unlike an
/// empty path it needs no capability.
pub(crate) fn link(server: &mut Server, mut request: Request<'_>) -> Outcome {
    let (file, name) = (request.body.u64()?, request.body.name()?);
    {
        let path = server.path(file)?;
        let own = Descriptors::name(&path);
        let directory = server.path(request.node)?;
        linkat(&server.descriptors, own.as_c_str(), directory, name, AtFlags::AT_SYMLINK_FOLLOW)?;
    }
    found(server, request.node, name)
}
