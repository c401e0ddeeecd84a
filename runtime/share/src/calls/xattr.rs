//! Extended attributes, and with them access control lists and file capabilities.
//!
//! The calls take a path: the name of a descriptor in the working directory, which is procfs. Which attributes may be
//! set is the host's kernel's to say, to a process with few capabilities: `trusted` ones are not among them. Labels of
//! security modules are the host's, and are refused here.

use nix::errno::Errno;

use crate::message::{Reply, Request};
use crate::procfs::Descriptors;
use crate::server::{Outcome, Server};
use crate::sys;

/// The longest value and the longest list, in bytes.
const LONGEST: usize = 64 << 10;

/// The group may not keep the set-group-ID bit of a file of which the list is set.
const ACL_KILL_SGID: u32 = 1 << 0;

pub(crate) fn setxattr(server: &mut Server, mut request: Request<'_>) -> Outcome {
    let body = &mut request.body;
    let (size, flags) = (body.u32()?, body.u32()?);
    let mut extra = 0;
    if server.session.long_setxattr {
        extra = body.u32()?;
        body.skip(4)?;
    }
    let name = body.text()?;
    let value = body.bytes(size as usize)?;
    settable(name)?;
    server.identity.clear_set_ids(extra & ACL_KILL_SGID != 0)?;
    let path = server.path(request.node)?;
    sys::setxattr(&Descriptors::name(&path), name, value, flags as i32)
}

/// Of the attributes of security modules the guest has those of its own kernel, which are capabilities.
fn settable(name: &std::ffi::CStr) -> Outcome {
    let name = name.to_bytes();
    match name.starts_with(b"security.") && name != b"security.capability" {
        true => Err(Errno::EPERM),
        false => Ok(()),
    }
}

pub(crate) fn getxattr(server: &mut Server, mut request: Request<'_>) -> Outcome {
    let size = request.body.u32()?;
    request.body.skip(4)?;
    let name = request.body.text()?;
    get(server, request.node, size, |path, buffer| sys::getxattr(path, name, buffer))
}

pub(crate) fn listxattr(server: &mut Server, mut request: Request<'_>) -> Outcome {
    let size = request.body.u32()?;
    get(server, request.node, size, sys::listxattr)
}

/// What there is, or how long it is if the guest has no room yet.
fn get(
    server: &mut Server,
    node: u64,
    size: u32,
    call: impl FnOnce(&std::ffi::CStr, &mut [u8]) -> Result<usize, Errno>,
) -> Outcome {
    let mut reply = std::mem::take(&mut server.reply);
    let result = server.path(node).and_then(|path| {
        let path = Descriptors::name(&path).into_boxed_c_str();
        read(&mut reply, size, |buffer| call(&path, buffer))
    });
    server.reply = reply;
    result
}

fn read(
    reply: &mut Reply,
    size: u32,
    call: impl FnOnce(&mut [u8]) -> Result<usize, Errno>,
) -> Outcome {
    if size == 0 {
        reply.u32(call(&mut [])? as u32);
        reply.u32(0);
        return Ok(());
    }
    reply.fill((size as usize).min(LONGEST), call)
}

pub(crate) fn removexattr(server: &mut Server, mut request: Request<'_>) -> Outcome {
    let name = request.body.text()?;
    settable(name)?;
    let path = server.path(request.node)?;
    sys::removexattr(&Descriptors::name(&path), name)
}
