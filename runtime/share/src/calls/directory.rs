//! Reading directories, with or without the files' attributes.

use std::ffi::CStr;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{Whence, lseek};

use crate::calls::attributes;
use crate::calls::content::opened;
use crate::message::{PAYLOAD, Request};
use crate::server::{Open, Outcome, Server};
use crate::sys;

/// A `linux_dirent64` and a `fuse_dirent`, without the name.
const HOST_ENTRY: usize = 19;
const ENTRY: usize = 24;
/// A `fuse_entry_out`.
const ATTRIBUTES: usize = 128;

pub(crate) fn opendir(server: &mut Server, request: Request<'_>) -> Outcome {
    if server.nodes.kind(request.node)? != libc::S_IFDIR {
        return Err(Errno::ENOTDIR);
    }
    let file = server.open_node(request.node, OFlag::O_RDONLY)?;
    let number = server.keep(Open { node: request.node, file, directory: true })?;
    opened(server, number);
    Ok(())
}

pub(crate) fn readdir(server: &mut Server, request: Request<'_>) -> Outcome {
    list(server, request, Style::Names)
}

pub(crate) fn readdirplus(server: &mut Server, request: Request<'_>) -> Outcome {
    list(server, request, Style::Attributes)
}

/// What is told of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Names,
    /// As if each had been looked up.
    Attributes,
}

/// An entry as the host's kernel tells it.
struct Entry<'a> {
    inode: u64,
    /// Where the next one is.
    next: u64,
    kind: u8,
    name: &'a CStr,
}

impl<'a> Entry<'a> {
    /// The first one of the buffer, and what is behind it.
    fn split(buffer: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let number = |at: usize| Some(u64::from_ne_bytes(*buffer.get(at..)?.first_chunk()?));
        let length = u16::from_ne_bytes(*buffer.get(16..)?.first_chunk()?);
        let (this, rest) = buffer.split_at_checked(length.into())?;
        let name = CStr::from_bytes_until_nul(this.get(HOST_ENTRY..)?).ok()?;
        let entry = Self { inode: number(0)?, next: number(8)?, kind: this[18], name };
        Some((entry, rest))
    }
}

fn list(server: &mut Server, mut request: Request<'_>, style: Style) -> Outcome {
    let body = &mut request.body;
    let (number, offset, size) = (body.u64()?, body.u64()?, body.u32()?);
    let size = (size as usize).min(PAYLOAD);
    let open = server.file(number, request.node)?;
    if !open.directory {
        return Err(Errno::ENOTDIR);
    }
    lseek(&open.file, offset as i64, Whence::SeekSet)?;
    // What does not fit is read again the next time.
    let mut buffer = vec![0; size];
    let length = sys::getdents64(&open.file, &mut buffer)?;
    let device = sys::statx(&open.file)?.device();
    let mut rest = &buffer[..length];
    while let Some((entry, behind)) = Entry::split(rest) {
        if !put(server, request.node, device, &entry, style, size) {
            break;
        }
        rest = behind;
    }
    Ok(())
}

/// Writes the entry; false if it has no room.
fn put(
    server: &mut Server,
    directory: u64,
    device: u64,
    entry: &Entry<'_>,
    style: Style,
    size: usize,
) -> bool {
    let name = entry.name.to_bytes();
    let attributes = if style == Style::Attributes { ATTRIBUTES } else { 0 };
    let before = server.reply.len();
    if before + attributes + (ENTRY + name.len()).next_multiple_of(8) > size {
        return false;
    }
    // A file that is gone by now, or that there is no room for, has a name and no number.
    if style == Style::Attributes && !look_up(server, directory, entry.name) {
        server.reply.bytes(&[0; ATTRIBUTES]);
    }
    let inode = server.shown_inode(device, entry.inode);
    let reply = &mut server.reply;
    reply.u64(inode);
    reply.u64(entry.next);
    reply.u32(name.len() as u32);
    reply.u32(entry.kind.into());
    reply.bytes(name);
    reply.pad();
    true
}

/// Tells the file's number and attributes, unless it is the directory itself or the one above.
fn look_up(server: &mut Server, directory: u64, name: &CStr) -> bool {
    if matches!(name.to_bytes(), b"." | b"..") {
        return false;
    }
    let found = server.child(directory, name).and_then(|fd| server.adopt(fd));
    if let Ok((node, status)) = &found {
        attributes::entry(server, *node, status);
    }
    found.is_ok()
}
