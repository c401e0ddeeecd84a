//! Device nodes, the links of /dev, and the console.
//!
//! Everything is done on the descriptors of directories reached without links: where /dev of the
//! image is a link to a volume, nodes would otherwise be made in a folder of the host
//! (CVE-2026-41579, CVE-2026-47766). In a user namespace mknod(2) is not allowed and the host's node
//! is bound instead.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, major, makedev, mknodat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, symlinkat, unlinkat};
use oci_spec::runtime::{Linux, LinuxDevice, LinuxDeviceType};

use super::attach::{self, Links, Make, is};
use super::bind::quote_c;
use super::clean;
use crate::error::{Call, Context, Error, Failure, Result, quote};
use crate::sys::mount::{
    Depth, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, clone_tree, move_mount, set_attributes,
};

/// A node to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// The JSON path; absent for the nodes that every container has.
    pub field: Option<String>,
    /// Relative to the root, clean.
    pub path: CString,
    /// Character or block device, or FIFO.
    pub kind: SFlag,
    /// The device number; zero for a FIFO.
    pub device: u64,
    /// Permission bits.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

impl Node {
    fn subject(&self) -> String {
        let path = quote(std::path::Path::new("/").join(self.path.to_string_lossy().as_ref()));
        match &self.field {
            Some(field) => format!("{path} ({field})"),
            None => path,
        }
    }

    fn is(&self, stat: &FileStat) -> bool {
        is(stat, self.kind) && (self.kind == SFlag::S_IFIFO || stat.st_rdev == self.device)
    }
}

/// The nodes that config-linux.md asks for in every container; `/dev/ptmx` is a link and
/// `/dev/console` comes with a terminal.
const DEFAULTS: &[(&CStr, u64, u64)] = &[
    (c"dev/null", 1, 3),
    (c"dev/zero", 1, 5),
    (c"dev/full", 1, 7),
    (c"dev/random", 1, 8),
    (c"dev/urandom", 1, 9),
    (c"dev/tty", 5, 0),
];

/// The links in /dev, and what must exist on the host for each to make sense.
const LINKS: &[(&CStr, &CStr, Option<&CStr>)] = &[
    (c"fd", c"/proc/self/fd", None),
    (c"stdin", c"/proc/self/fd/0", None),
    (c"stdout", c"/proc/self/fd/1", None),
    (c"stderr", c"/proc/self/fd/2", None),
    (c"core", c"/proc/kcore", Some(c"/proc/kcore")),
];

/// Plans the default nodes and those of `linux.devices`, which win.
pub(super) fn plan(linux: Option<&Linux>) -> Result<Vec<Node>> {
    let mut nodes = Vec::new();
    for (index, device) in
        linux.and_then(|l| l.devices().as_ref()).into_iter().flatten().enumerate()
    {
        nodes.push(plan_node(&format!("linux.devices[{index}]"), device)?);
    }
    let is_new = |path: &CStr| !nodes.iter().any(|node: &Node| node.path.as_c_str() == path);
    let defaults: Vec<_> = DEFAULTS
        .iter()
        .filter(|(path, ..)| is_new(path))
        .map(|&(path, major, minor)| Node {
            field: None,
            path: path.to_owned(),
            kind: SFlag::S_IFCHR,
            device: makedev(major, minor),
            mode: 0o666,
            uid: 0,
            gid: 0,
        })
        .collect();
    nodes.splice(0..0, defaults);
    Ok(nodes)
}

fn plan_node(field: &str, device: &LinuxDevice) -> Result<Node> {
    let path_field = format!("{field}.path");
    if !device.path().is_absolute() {
        return Err(Error::invalid(path_field, "is not an absolute path"));
    }
    let path = clean(device.path(), &path_field)?;
    if path.is_empty() {
        return Err(Error::invalid(path_field, "is the root itself"));
    }
    let kind = match device.typ() {
        LinuxDeviceType::B => SFlag::S_IFBLK,
        LinuxDeviceType::C | LinuxDeviceType::U => SFlag::S_IFCHR,
        LinuxDeviceType::P => SFlag::S_IFIFO,
        LinuxDeviceType::A => {
            return Err(Error::invalid(format!("{field}.type"), "\"a\" is not a type of node"));
        }
    };
    // The widths of the kernel's dev_t: a larger number would wrap to another device.
    let number = |name: &str, value: i64, bits: u32| {
        u64::try_from(value).ok().filter(|value| value >> bits == 0).ok_or_else(|| {
            Error::invalid(format!("{field}.{name}"), format!("{value} is out of range"))
        })
    };
    let device_number = match kind {
        SFlag::S_IFIFO => 0,
        _ => makedev(number("major", device.major(), 12)?, number("minor", device.minor(), 20)?),
    };
    Ok(Node {
        field: Some(field.to_owned()),
        path,
        kind,
        device: device_number,
        mode: device.file_mode().unwrap_or(0o666) & 0o7777,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
    })
}

/// Makes the nodes and links. The umask is zero.
pub(super) fn make(root: BorrowedFd<'_>, nodes: &[Node], userns: bool) -> Result<()> {
    let dev = attach::make_directory(root, c"dev", Links::Refuse).context("open", "\"/dev\"")?;
    for node in nodes {
        let (parent, name) = attach::split(&node.path);
        // The usual parent is open already.
        let other;
        let parent = match parent.as_bytes() {
            b"dev" => dev.as_fd(),
            _ => {
                other = attach::make_directory(root, &parent, Links::Refuse)
                    .context("create device", node.subject())?;
                other.as_fd()
            }
        };
        // A FIFO is no device and can be made in any user namespace.
        let bind = userns && node.kind != SFlag::S_IFIFO;
        if bind || !make_node(parent, &name, node).context("create device", node.subject())? {
            bind_node(parent, &name, node)?;
        }
    }
    for &(name, text, needs) in LINKS {
        if needs
            .is_none_or(|path| nix::unistd::access(path, nix::unistd::AccessFlags::F_OK).is_ok())
        {
            // One that is there already is the image's own affair: nobody but the container follows it.
            ignore(symlinkat(text, &dev, name), Errno::EEXIST)
                .call("symlinkat")
                .context("create link", format!("\"/dev/{}\"", name.to_string_lossy()))?;
        }
    }
    make_ptmx(dev.as_fd()).context("create link", "\"/dev/ptmx\"")
}

fn ignore(result: nix::Result<()>, errno: Errno) -> nix::Result<()> {
    match result {
        Err(e) if e == errno => Ok(()),
        other => other,
    }
}

/// Makes a node exactly as planned; false if mknod(2) is not permitted.
fn make_node(parent: BorrowedFd<'_>, name: &CStr, node: &Node) -> Result<bool, Failure> {
    let mode = Mode::from_bits_truncate(node.mode);
    let make = || mknodat(parent, name, node.kind, mode, node.device);
    match make() {
        Ok(()) => {}
        Err(Errno::EPERM) => return Ok(false),
        Err(Errno::EEXIST) => {
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let there = openat(parent, name, flags, Mode::empty()).call("openat")?;
            let stat = fstat(&there).call("fstat")?;
            let exact = stat.st_mode & 0o7777 == node.mode
                && (stat.st_uid, stat.st_gid) == (node.uid, node.gid);
            if node.is(&stat) && exact {
                return Ok(true);
            }
            // config-linux.md, "Devices": another file in the place of a device that the
            // configuration lists is an error. In the place of a default one it is the image's
            // leftover, which must not be taken for the device.
            if node.field.is_some() && !node.is(&stat) {
                return Err(Failure { call: "mknodat", errno: Errno::EEXIST });
            }
            match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
                // The configuration's own mount of the host's node: rootless `podman --privileged`.
                Err(Errno::EBUSY) if node.field.is_none() && node.is(&stat) => return Ok(true),
                other => other.call("unlinkat")?,
            }
            match make() {
                Err(Errno::EPERM) => return Ok(false),
                other => other.call("mknodat")?,
            }
        }
        Err(errno) => return Err(Failure { call: "mknodat", errno }),
    }
    if (node.uid, node.gid) != (0, 0) {
        let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
        fchownat(parent, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)
            .call("fchownat")?;
    }
    Ok(true)
}

/// What keeps the node from being made that can be seen beforehand: in a user namespace the host's own
/// is bound, and must be there.
pub(crate) fn check(node: &Node, userns: bool) -> Result<()> {
    if !userns || node.kind == SFlag::S_IFIFO {
        return Ok(());
    }
    let host = std::path::Path::new("/").join(node.path.to_string_lossy().as_ref());
    let stat = nix::sys::stat::lstat(&host).call("open_tree");
    if node.is(&stat.context("bind device", node.subject())?) {
        return Ok(());
    }
    Err(another_device(node, &quote(host)))
}

fn another_device(node: &Node, host: &str) -> Error {
    let reason =
        format!("the host's {host} is another device, and a user namespace cannot make one");
    Error::unsupported("bind device", node.subject(), reason)
}

/// Binds the host's node, found under the same name and checked to be the device asked for.
fn bind_node(parent: BorrowedFd<'_>, name: &CStr, node: &Node) -> Result<()> {
    let host = [b"/", node.path.as_bytes()].concat();
    let host = CString::new(host).expect("the plan's paths have no NUL byte");
    let subject = node.subject();
    let tree = clone_tree(AT_FDCWD, &host, Depth::Top, false).context("bind device", &subject)?;
    let stat = fstat(&tree).call("fstat").context("bind device", &subject)?;
    if !node.is(&stat) {
        return Err(another_device(node, &quote_c(&host)));
    }
    set_attributes(tree.as_fd(), Depth::Top, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, 0)
        .context("bind device", &subject)?;
    let target = attach::open_or_make(parent, name, Links::Refuse, || Ok(Make::File))
        .context("bind device", &subject)?;
    move_mount(tree.as_fd(), target.fd.as_fd()).context("bind device", &subject)
}

/// `/dev/ptmx` always leads to the container's own devpts, whatever the image has there.
fn make_ptmx(dev: BorrowedFd<'_>) -> Result<(), Failure> {
    match symlinkat(c"pts/ptmx", dev, c"ptmx") {
        Err(Errno::EEXIST) => {}
        other => return other.call("symlinkat"),
    }
    if readlinkat(dev, c"ptmx").is_ok_and(|text| text == "pts/ptmx") {
        return Ok(());
    }
    unlinkat(dev, c"ptmx", UnlinkatFlags::NoRemoveDir).call("unlinkat")?;
    symlinkat(c"pts/ptmx", dev, c"ptmx").call("symlinkat")
}

/// Majors of the terminals of devpts, Documentation/admin-guide/devices.txt.
const PTY_MAJORS: std::ops::RangeInclusive<u64> = 136..=143;

/// Mounts a terminal on /dev/console of the container whose root is `root`.
///
/// `slave` is the handle that TIOCGPTPEER gave, so nobody could put another file under the
/// terminal's name in between (CVE-2025-52565); it must come from a devpts of this mount namespace.
pub(crate) fn console(root: BorrowedFd<'_>, slave: BorrowedFd<'_>) -> Result<()> {
    let subject = "\"/dev/console\"";
    let stat = fstat(slave).call("fstat").context("mount console", subject)?;
    if !is(&stat, SFlag::S_IFCHR) || !PTY_MAJORS.contains(&major(stat.st_rdev)) {
        let reason = "the terminal is not a pseudo-terminal of devpts";
        return Err(Error::new(crate::error::ErrorKind::Invalid, "mount console", subject, reason));
    }
    let target = attach::open_or_make(root, c"dev/console", Links::Refuse, || Ok(Make::File))
        .context("mount console", subject)?;
    let tree: OwnedFd =
        clone_tree(slave, c"", Depth::Top, true).context("mount console", subject)?;
    move_mount(tree.as_fd(), target.fd.as_fd()).context("mount console", subject)
}
