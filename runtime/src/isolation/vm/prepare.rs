//! What the creator decides and opens before it forks: the machine's files, sockets and size.

use std::fs::{File, TryLockError};
use std::io::{Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::stat::Mode;
use oci_spec::runtime::Spec;

use super::guest::{self, Guest, Root};
use super::machine::{self, Size};
use super::session::{self, Connection};
use super::{Recorded, jail};
use crate::error::{Call, Context, Error, Result, quote};
use crate::faults::Faults;
use crate::guest_image::GuestImage;
use crate::host::Host;
use crate::isolation::MachineFiles;
use crate::mount;
use crate::options::CreateOptions;
use crate::state::StateDir;
use crate::validate;

/// A machine that is decided on, and whose files are open.
#[derive(Debug)]
pub(crate) struct Machine {
    /// How the jail is created.
    pub(crate) jail: CreateOptions,
    size: Size,
    guest: Guest,
    container: String,
    parameters: Vec<String>,
    files: Files,
    /// The user that the monitor is.
    user: u32,
}

/// What is executed, and what the monitor gets.
#[derive(Debug)]
struct Files {
    monitor: File,
    share_server: Option<File>,
    kvm: File,
    kernel: File,
    initramfs: File,
    null: File,
    disks: Vec<(File, bool)>,
    /// Of the root's image; empty without one.
    filesystem: &'static str,
}

/// Everything that the stand-in needs, inherited by being forked.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(super) monitor: File,
    pub(super) share_server: Option<File>,
    pub(super) null: File,
    /// What the monitor gets, with the number that it gets it under.
    pub(super) descriptors: Vec<(OwnedFd, i32)>,
    /// The share server's end of its socket to the monitor.
    pub(super) share: OwnedFd,
    /// Our end of the connection that the agent opens.
    pub(super) hello: Connection,
    /// Connected to the monitor; see [`Connection::reach`].
    pub(super) process: Connection,
    pub(super) streams: Vec<(wire::StreamName, Connection)>,
    pub(super) first: wire::First,
    pub(super) user: u32,
}

/// Users that nobody else has: above those that systemd gives to its containers, and below 2^31.
const USERS: u32 = 1_900_000_000;
const MANY_USERS: u64 = 100_000_000;

impl Machine {
    /// Decides on everything and opens what is not the container's own.
    ///
    /// # Errors
    /// `Unsupported` for what cannot cross to another kernel, by its field; what of the image, the programs or
    /// `/dev/kvm` cannot be used.
    pub(crate) fn plan(
        id: &str,
        directory: &Path,
        options: &CreateOptions,
        files: &MachineFiles,
        host: &Host,
        warnings: &mut Vec<String>,
    ) -> Result<Self> {
        let spec = &options.config.spec;
        validate::validate(spec, &mut Faults::First, warnings)?;
        options.config.hardware.as_ref().map_or(Ok(()), validate::vm_hardware)?;
        refuse(options, host)?;
        warn(spec, warnings);
        let size = Size::of(&options.config)?;
        let guest = guest::divide(&options.config, id, &options.bundle)?;
        let opened = Files::open(&options.config.spec, &guest, files)?;
        let jail = jail::options(options, &directory.join(super::JAIL), &guest.shares, size)?;
        let parameters = spec.vm().as_ref().and_then(|vm| vm.kernel().parameters().clone());
        let parameters = parameters.unwrap_or_default();
        Ok(Self {
            jail,
            size,
            guest,
            container: id.to_owned(),
            parameters,
            files: opened,
            user: USERS + u32::try_from(host.chance % MANY_USERS).expect("it is less than 2^32"),
        })
    }

    /// See [`jail::rename`].
    pub(crate) fn adapt(&self, plan: &mut mount::Plan) {
        jail::rename(plan, &self.guest.shares);
    }

    /// The root file system's path on the host, for the record.
    pub(crate) fn rootfs(&self) -> &Path {
        match &self.guest.root {
            Root::Image(path) => path,
            Root::Shared => &self.guest.shares[0].source,
        }
    }

    /// What later commands must know.
    pub(crate) fn recorded(&self) -> Recorded {
        let Size { processors, memory } = self.size;
        Recorded { user: self.user, processors, memory }
    }

    /// Makes the sockets, one of them in the container's state directory.
    pub(crate) fn open(self, dir: &StateDir, terminal: bool, chance: u64) -> Result<Opened> {
        use machine::numbers::{
            DESCRIPTION, DISKS, HELLO, INITRAMFS, KERNEL, KVM, LISTENER, SHARE,
        };
        let listener = session::listen_in(dir.fd())?;
        // Connected while the state directory can be reached, used when the guest is up.
        let process = session::connect_in(dir.fd())?;
        let streams = stream_names(terminal)
            .map(|name| Ok((name, session::connect_in(dir.fd())?)))
            .collect::<Result<Vec<_>>>()?;
        let (hello, guests) = pair(SockType::Stream)?;
        let (share, monitors) = pair(SockType::SeqPacket)?;
        let has_shares = self.files.share_server.is_some();
        let read_only: Vec<bool> =
            self.files.disks.iter().map(|(_, read_only)| *read_only).collect();
        let description = machine::description(self.size, &self.parameters, has_shares, &read_only);
        let mut descriptors = vec![
            (memory_file(&description)?, DESCRIPTION),
            (self.files.kvm.into(), KVM),
            (self.files.kernel.into(), KERNEL),
            (self.files.initramfs.into(), INITRAMFS),
            (listener, LISTENER),
            (guests, HELLO),
        ];
        if has_shares {
            descriptors.push((monitors, SHARE));
        }
        let disks = self.files.disks.into_iter().map(|(file, _)| OwnedFd::from(file));
        descriptors.extend(disks.zip(DISKS..));
        let first_disk = usize::from(self.guest.root != Root::Shared);
        let disks = self.guest.disks.iter().enumerate().map(|(number, disk)| wire::Disk {
            device: number32(disk.index),
            disk: number32(first_disk + number),
        });
        let first = wire::First {
            container: self.container,
            config: self.guest.config,
            root: match self.guest.root {
                Root::Shared => wire::Root::Shared,
                Root::Image(_) => {
                    wire::Root::Disk { disk: 0, filesystem: self.files.filesystem.to_owned() }
                }
            },
            disks: disks.collect(),
            token: token(chance),
            streams: streams_of(&streams),
        };
        Ok(Opened {
            monitor: self.files.monitor,
            share_server: self.files.share_server,
            null: self.files.null,
            descriptors,
            share,
            hello: Connection::new(hello),
            process,
            streams,
            first,
            user: self.user,
        })
    }
}

fn number32(number: usize) -> u32 {
    u32::try_from(number).expect("an index into a configuration")
}

/// The streams that cross: those of a terminal are two.
pub(super) fn stream_names(terminal: bool) -> impl Iterator<Item = wire::StreamName> {
    use wire::StreamName::{Stderr, Stdin, Stdout};
    [Stdin, Stdout, Stderr].into_iter().filter(move |name| !terminal || *name != Stderr)
}

pub(super) fn streams_of(streams: &[(wire::StreamName, Connection)]) -> wire::Streams {
    let has = |wanted| streams.iter().any(|(name, _)| *name == wanted);
    wire::Streams {
        stdin: has(wire::StreamName::Stdin),
        stdout: has(wire::StreamName::Stdout),
        stderr: has(wire::StreamName::Stderr),
    }
}

/// Names the streams of one process among those of this machine.
pub(super) fn token(chance: u64) -> wire::Token {
    wire::Token(format!("{chance:016x}"))
}

fn pair(kind: SockType) -> Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC)
        .call("socketpair")
        .context("make", "a socket of the machine")
}

/// The monitor's description, as a file.
fn memory_file(text: &str) -> Result<OwnedFd> {
    const WHAT: &str = "the machine's description";
    let memory = memfd_create(c"description", MFdFlags::MFD_CLOEXEC);
    let mut file = File::from(memory.call("memfd_create").context("make", WHAT)?);
    file.write_all(text.as_bytes())
        .and_then(|()| file.rewind())
        .call("write")
        .context("write", WHAT)?;
    Ok(file.into())
}

/// What the command line asks for and cannot have.
fn refuse(options: &CreateOptions, host: &Host) -> Result<()> {
    const OPERATION: &str = "put into a virtual machine";
    let refused = |what: &str, reason: &str| Err(Error::unsupported(OPERATION, what, reason));
    if !host.privileged() {
        return refused("a container of an ordinary user", "it takes root to make the jail");
    }
    if options.no_cgroup {
        return refused(
            "a container without a cgroup",
            "the machine's memory must be accounted to one",
        );
    }
    if options.preserve_fds > 0 {
        return refused(
            "--preserve-fds",
            "a descriptor of the host means nothing to the guest's kernel",
        );
    }
    if options.listen_fds > 0 {
        return refused(
            "LISTEN_FDS",
            "a descriptor of the host means nothing to the guest's kernel",
        );
    }
    if options.notify_socket.is_some() {
        return refused("NOTIFY_SOCKET", "a socket of the host cannot be shared with the guest");
    }
    let hardware = options.config.hardware.clone().unwrap_or_default();
    let fields = [
        ("vm.hwConfig.deviceTree", hardware.device_tree.is_some()),
        ("vm.hwConfig.dtdevs", !hardware.dtdevs.is_empty()),
        ("vm.hwConfig.iomems", !hardware.iomems.is_empty()),
        ("vm.hwConfig.irqs", !hardware.irqs.is_empty()),
    ];
    match fields.iter().find(|(_, asked)| *asked) {
        Some((field, _)) => refused(field, "the machine has no hardware of the host's"),
        None => Ok(()),
    }
}

/// Labels of the host's security modules apply to what the host's kernel sees.
fn warn(spec: &Spec, warnings: &mut Vec<String>) {
    let Some(process) = spec.process() else { return };
    let labels = [
        ("process.apparmorProfile", process.apparmor_profile()),
        ("process.selinuxLabel", process.selinux_label()),
    ];
    for (field, label) in labels {
        if label.as_ref().is_some_and(|label| !label.is_empty()) {
            warnings.push(format!(
                "{field} has no effect in a virtual machine, whose kernel has no such policy"
            ));
        }
    }
}

impl Files {
    fn open(spec: &Spec, guest: &Guest, files: &MachineFiles) -> Result<Self> {
        let vm = spec.vm().clone().unwrap_or_default();
        let meant = |path: &Path| !path.as_os_str().is_empty();
        let monitor = match vm.hypervisor() {
            Some(hypervisor) if meant(hypervisor.path()) => {
                if hypervisor.parameters().as_ref().is_some_and(|list| !list.is_empty()) {
                    let reason = "the monitor takes none";
                    return Err(Error::unsupported(
                        "make the machine",
                        "vm.hypervisor.parameters",
                        reason,
                    ));
                }
                read("vm.hypervisor.path", hypervisor.path())?
            }
            _ => read("the monitor", &files.monitor)?,
        };
        let own_kernel = meant(vm.kernel().path());
        let initrd = vm.kernel().initrd().clone().filter(|path| !path.is_empty());
        let (kernel, initramfs) = match (own_kernel, initrd) {
            (true, Some(initrd)) => (
                read("vm.kernel.path", vm.kernel().path())?,
                read("vm.kernel.initrd", Path::new(&initrd))?,
            ),
            (own_kernel, initrd) => {
                let image = GuestImage::open(&files.image)?;
                let kernel = match own_kernel {
                    true => read("vm.kernel.path", vm.kernel().path())?,
                    false => image.kernel,
                };
                let initramfs = match initrd {
                    Some(initrd) => read("vm.kernel.initrd", Path::new(&initrd))?,
                    None => image.initramfs,
                };
                (kernel, initramfs)
            }
        };
        let share_server = match guest.shares.is_empty() {
            true => None,
            false => Some(read("the share server", &files.share_server)?),
        };
        let disks = disks(spec, guest)?;
        let filesystem = match (&guest.root, disks.first()) {
            (Root::Image(path), Some((image, _))) => filesystem(image, path)?,
            _ => "",
        };
        Ok(Self {
            monitor,
            share_server,
            kvm: kvm()?,
            kernel,
            initramfs,
            null: open_file("/dev/null", OFlag::O_RDWR, "the null device")?,
            disks,
            filesystem,
        })
    }
}

fn kvm() -> Result<File> {
    open_file("/dev/kvm", OFlag::O_RDWR, "the host's virtualization").map_err(|error| {
        let hint = "`bulkhead vm check` tells what this host lacks";
        Error::new(error.kind(), "open", "\"/dev/kvm\"", format!("{}; {hint}", cause(&error)))
    })
}

fn cause(error: &Error) -> String {
    match error.cause() {
        crate::error::Cause::Call(failure) => failure.to_string(),
        crate::error::Cause::Reason(reason) => reason.clone(),
    }
}

fn read(what: &str, path: &Path) -> Result<File> {
    open_file(path, OFlag::O_RDONLY, what)
}

fn open_file(path: impl AsRef<Path>, flags: OFlag, what: &str) -> Result<File> {
    let path = path.as_ref();
    let opened =
        open(path, flags | OFlag::O_CLOEXEC | OFlag::O_NOCTTY | OFlag::O_NONBLOCK, Mode::empty());
    opened.call("open").context("open", format!("{what} {}", quote(path))).map(File::from)
}

/// The file system that an image begins with, by its magic number.
fn filesystem(image: &File, path: &Path) -> Result<&'static str> {
    const KNOWN: [(&str, u64, &[u8]); 2] =
        [("erofs", 1024, &[0xe2, 0xe1, 0xf5, 0xe0]), ("ext4", 1024 + 56, &[0x53, 0xef])];
    for (name, offset, magic) in KNOWN {
        let mut bytes = vec![0; magic.len()];
        if image.read_exact_at(&mut bytes, offset).is_ok() && bytes == magic {
            return Ok(name);
        }
    }
    let reason = "it holds neither erofs nor ext4";
    Err(Error::unsupported("use vm.image.path", quote(path), reason))
}

/// Takes an image for this machine alone, or for those that only read it, as long as the monitor has it open: two
/// kernels that write one file system destroy it.
fn lock(image: &File, read_only: bool) -> std::result::Result<(), String> {
    let metadata = image.metadata().map_err(|error| format!("fstat: {error}"))?;
    if !metadata.is_file() {
        return Err("it is no regular file".to_owned());
    }
    let locked = if read_only { image.try_lock_shared() } else { image.try_lock() };
    match locked {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            Err("another machine has it, and one of the two writes".to_owned())
        }
        Err(TryLockError::Error(error)) => Err(format!("flock: {error}")),
    }
}

/// The disks in their order: the root's image, then the block devices of the configuration.
fn disks(spec: &Spec, guest: &Guest) -> Result<Vec<(File, bool)>> {
    let mut disks = Vec::new();
    if let Root::Image(path) = &guest.root {
        let read_only = spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false);
        let flags = if read_only { OFlag::O_RDONLY } else { OFlag::O_RDWR };
        let image = open_file(path, flags, "vm.image.path")?;
        lock(&image, read_only)
            .map_err(|reason| Error::unsupported("use vm.image.path", quote(path), reason))?;
        disks.push((image, read_only));
    }
    for disk in &guest.disks {
        let what = format!("linux.devices[{}]", disk.index);
        // By its number: the path is one in the container.
        let path = format!("/dev/block/{}:{}", disk.major, disk.minor);
        let flags = if disk.read_only { OFlag::O_RDONLY } else { OFlag::O_RDWR };
        let file = open_file(&path, flags, &what)?;
        let metadata = file.metadata().call("fstat").context("open", &what)?;
        if !metadata.file_type().is_block_device() {
            return Err(Error::invalid(what, format!("{path:?} is no block device")));
        }
        disks.push((file, disk.read_only));
    }
    Ok(disks)
}
