//! What a machine is made of.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};

/// The description of a machine. Everything that it opens is here, open: the monitor needs no path.
pub struct Config {
    /// `/dev/kvm`, opened for reading and writing.
    pub kvm: File,
    /// How many processors, 1 to 32.
    pub processors: u8,
    /// Memory, in MiB.
    pub memory: u32,
    /// An ELF file with a PVH entry, or a bzImage.
    pub kernel: File,
    /// A cpio archive that the kernel unpacks.
    pub initramfs: Option<File>,
    /// What the kernel is told, without those parts that the monitor adds itself.
    pub command_line: String,
    /// A regular file to which the guest's console is copied, at most 1 MiB.
    pub console: Option<File>,
    /// Block devices, in the order in which the guest names them.
    pub disks: Vec<Disk>,
    /// File systems of the host.
    pub shares: Vec<Share>,
    /// Sockets between host and guest.
    pub vsock: Option<Vsock>,
    /// The guest gives free memory back to the host.
    pub balloon: bool,
}

/// A block device: a file, or a block device of the host.
pub struct Disk {
    /// Opened for reading, and for writing unless it is read-only.
    pub file: File,
    /// The guest cannot write; the device refuses it, whatever the guest's driver thinks.
    pub read_only: bool,
}

/// A file system that another process serves.
pub struct Share {
    /// The name by which the guest mounts it, 1 to 36 bytes without NUL.
    pub tag: String,
    /// A `SOCK_SEQPACKET` socket: a packet is a FUSE message.
    pub server: OwnedFd,
}

/// The socket device.
pub struct Vsock {
    /// The guest's address, 3 or more.
    pub cid: u32,
    /// Who connects here and writes `CONNECT PORT\n` is connected to that port of the guest.
    pub listener: UnixListener,
    /// What the guest may connect to, at the host's address (2). Every other port is refused.
    pub ports: Vec<Port>,
}

/// A port of the host, which the guest can connect to once.
pub struct Port {
    /// 1 to 2^30 - 1.
    pub port: u32,
    /// A Unix stream that is connected already; the monitor joins the guest's connection to it.
    pub stream: UnixStream,
}
