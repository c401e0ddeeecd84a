//! What kinds of virtio device there are, one file each.

pub(crate) mod balloon;
pub(crate) mod block;
pub(crate) mod entropy;
pub(crate) mod fs;
pub(crate) mod vsock;

use crate::config::{Disk, Share, Vsock};
use crate::ending::End;
use crate::error::Result;
use crate::virtio::Device;

/// The devices of a machine, in the order of their places.
pub(crate) fn from(
    disks: Vec<Disk>,
    shares: Vec<Share>,
    vsock: Option<Vsock>,
    balloon: bool,
    end: &End,
) -> Result<Vec<Box<dyn Device>>> {
    let mut devices: Vec<Box<dyn Device>> = vec![Box::new(entropy::Entropy)];
    for disk in disks {
        devices.push(Box::new(block::Block::new(disk)?));
    }
    for share in shares {
        devices.push(Box::new(fs::FileSystem::new(share, end.clone())?));
    }
    if let Some(vsock) = vsock {
        devices.push(Box::new(vsock::Socket::new(vsock)?));
    }
    if balloon {
        devices.push(Box::new(balloon::Balloon));
    }
    Ok(devices)
}
