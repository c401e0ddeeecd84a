//! Making files. What is made is the caller's from its first moment, by the call that makes it.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, SFlag, mkdirat, mknodat};
use nix::unistd::symlinkat;

use crate::calls::attributes::{decode_device, entry};
use crate::calls::content::{self, Opening};
use crate::calls::names::found;
use crate::message::Request;
use crate::server::{Open, Outcome, Server};

pub(crate) fn symlink(server: &mut Server, mut request: Request<'_>) -> Outcome {
    let (name, target) = (request.body.name()?, request.body.text()?);
    let owner = Server::owner(&request, 0);
    let directory = server.path(request.node)?;
    server.identity.create(owner, || symlinkat(target, &directory, name))?;
    drop(directory);
    found(server, request.node, name)
}

/// Not of devices, which would be the host's for whoever reaches the file there; but of the character device 0:0,
/// with which an overlay says that a file is not there.
pub(crate) fn mknod(server: &mut Server, mut request: Request<'_>) -> Outcome {
    let body = &mut request.body;
    let (mode, device, umask) = (body.u32()?, body.u32()?, body.u32()?);
    body.skip(4)?;
    let name = body.name()?;
    let kind = SFlag::from_bits_truncate(mode & libc::S_IFMT);
    let is_whiteout = kind == SFlag::S_IFCHR && device == 0;
    if kind == SFlag::S_IFBLK || kind == SFlag::S_IFCHR && !is_whiteout {
        return Err(Errno::EPERM);
    }
    let mode = Mode::from_bits_truncate(mode);
    let owner = Server::owner(&request, umask);
    server.identity.clear_set_ids(false)?;
    let directory = server.path(request.node)?;
    let device = decode_device(device);
    server.identity.create(owner, || mknodat(&directory, name, kind, mode, device))?;
    drop(directory);
    found(server, request.node, name)
}

pub(crate) fn mkdir(server: &mut Server, mut request: Request<'_>) -> Outcome {
    let (mode, umask) = (request.body.u32()?, request.body.u32()?);
    let name = request.body.name()?;
    let mode = Mode::from_bits_truncate(mode);
    let owner = Server::owner(&request, umask);
    server.identity.clear_set_ids(false)?;
    let directory = server.path(request.node)?;
    server.identity.create(owner, || mkdirat(&directory, name, mode))?;
    drop(directory);
    found(server, request.node, name)
}

/// A `fuse_create_in`.
struct Creation {
    flags: u32,
    opening: Opening,
    mode: Mode,
    umask: u32,
}

impl Creation {
    fn read(request: &mut Request<'_>) -> Result<Self, Errno> {
        let body = &mut request.body;
        let (flags, mode, umask, extra) = (body.u32()?, body.u32()?, body.u32()?, body.u32()?);
        let opening = Opening::from(flags, extra)?;
        Ok(Self { flags, opening, mode: Mode::from_bits_truncate(mode), umask })
    }

    /// As the flags say, and with those that keep a file of the host's from being opened in its place.
    fn make(&self, more: OFlag) -> OFlag {
        self.opening.flags | more | OFlag::O_NOFOLLOW | OFlag::O_NOCTTY | OFlag::O_CLOEXEC
    }
}

/// Makes a file and opens it, or opens the one that is there.
pub(crate) fn create(server: &mut Server, mut request: Request<'_>) -> Outcome {
    let creation = Creation::read(&mut request)?;
    let name = request.body.name()?;
    let owner = Server::owner(&request, creation.umask);
    server.identity.clear_set_ids(false)?;
    let directory = server.path(request.node)?;
    let flags = creation.make(OFlag::O_CREAT | OFlag::O_EXCL);
    let made = server.identity.create(owner, || openat(&directory, name, flags, creation.mode));
    drop(directory);
    match made {
        Ok(file) => opened(server, file),
        Err(Errno::EEXIST) if creation.flags & libc::O_EXCL as u32 == 0 => {
            let fd = server.child(request.node, name)?;
            let (node, status) = server.adopt(fd)?;
            entry(server, node, &status);
            content::open_file(server, node, creation.opening)
                .inspect_err(|_| server.nodes.forget(node, 1))
        }
        Err(errno) => Err(errno),
    }
}

/// Makes a file without a name.
pub(crate) fn tmpfile(server: &mut Server, mut request: Request<'_>) -> Outcome {
    let creation = Creation::read(&mut request)?;
    let owner = Server::owner(&request, creation.umask);
    if creation.opening.flags & OFlag::O_ACCMODE == OFlag::O_RDONLY {
        return Err(Errno::EINVAL);
    }
    server.identity.clear_set_ids(false)?;
    let directory = server.path(request.node)?;
    // With O_EXCL it can never get a name.
    let exclusive = OFlag::from_bits_truncate(creation.flags as i32) & OFlag::O_EXCL;
    let flags = creation.make(OFlag::O_TMPFILE | exclusive);
    let made = server.identity.create(owner, || openat(&directory, c".", flags, creation.mode))?;
    drop(directory);
    opened(server, made)
}

/// Tells of a file that was made and is open. Its number is of this very file, whatever has its name by now.
fn opened(server: &mut Server, file: OwnedFd) -> Outcome {
    let fd = server.descriptors.reopen(&file, OFlag::O_PATH)?;
    let (node, status) = server.adopt(fd)?;
    entry(server, node, &status);
    let number = server
        .keep(Open { node, file, directory: false })
        .inspect_err(|_| server.nodes.forget(node, 1))?;
    content::opened(server, number);
    Ok(())
}
