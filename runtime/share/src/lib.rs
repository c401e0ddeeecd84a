//! Serves a directory of the host to the guest of a virtual machine.
//!
//! The monitor's virtio-fs device hands each request of the guest's over a `SOCK_SEQPACKET` socket, as one packet, and
//! takes the answer back as one. The monitor opens no file, and this process sees no memory of the guest: who takes over
//! either has not the other.
//!
//! The guest is hostile. It names files by numbers that it was given, and by single names in directories; the server
//! follows no symbolic link and knows no path, opens regular files and directories alone, and holds no more
//! descriptors than it was allowed. Permission is the guest's kernel's to check: what its root may do to a file of
//! the share, the guest may. What the share is, the mounts below the directory say, which the server cannot change.
//!
//! One thread does requests one after the other; it waits for the host's disk, and for nothing that a guest could
//! hold up.
//!
//! Sources: `include/uapi/linux/fuse.h`, Virtual I/O Device 1.2 section 5.11, `Documentation/filesystems/fuse.rst`.

mod calls;
mod confine;
mod error;
mod identity;
mod message;
mod nodes;
mod procfs;
mod server;
mod sys;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use confine::{close_others, raise_descriptor_limit};
pub use error::{Error, Result};
pub use message::{LARGEST, PAYLOAD};
pub use server::Server;
