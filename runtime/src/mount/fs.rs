//! New file systems, made by fsopen(2) from inside the namespaces that they show.
//!
//! All flags are set before the mount is visible to anybody. Errors carry what the kernel says in
//! the context's log (<https://docs.kernel.org/filesystems/mount_api.html>).

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::mount::MsFlags;
use nix::sys::stat::FileStat;

use super::{Mount, Plan, attach, copyup};
use crate::error::{Call, Context, Error, ErrorKind, Failure, Result};
use crate::sys::mount::{
    Depth, MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY, MOUNT_ATTR_STRICTATIME,
    fsconfig_create, fsconfig_flag, fsconfig_reconfigure, fsconfig_string, fsmount, fsopen, fspick,
    move_mount, place, set_attributes,
};

/// File systems of the kernel's own memory. Their instance may be shared with the host (sysfs,
/// mqueue, cgroup) or still to be filled (tmpfs), so `ro` is a matter of the mount alone.
const VIRTUAL: &[&CStr] =
    &[c"cgroup", c"cgroup2", c"devpts", c"mqueue", c"proc", c"ramfs", c"sysfs", c"tmpfs"];

/// File systems that do not take `linux.mountLabel`: their files are labelled by the policy.
const UNLABELLED: &[&CStr] = &[c"cgroup", c"cgroup2", c"mqueue", c"proc", c"sysfs"];

/// The longest value that fsconfig(2) takes.
const MAX_VALUE: usize = 255;

/// A new file system that is mounted nowhere yet, with the mount attributes `attributes`.
pub(super) fn detached(
    mount: &Mount,
    fstype: &CStr,
    attributes: u64,
    mode: Option<u32>,
    label: Option<&CStr>,
) -> Result<OwnedFd> {
    let fs = fsopen(fstype).map_err(|failure| explain_type(mount, fstype, failure))?;
    filled(mount, fstype, fs.as_fd(), attributes, mode, label)
}

/// The file system of an open context, as [`detached`].
pub(super) fn filled(
    mount: &Mount,
    fstype: &CStr,
    fs: BorrowedFd<'_>,
    attributes: u64,
    mode: Option<u32>,
    label: Option<&CStr>,
) -> Result<OwnedFd> {
    let logged = |failure| with_log(fs, failure, &mount.subject());
    if let Some(source) = &mount.source {
        fsconfig_string(fs, c"source", source).map_err(logged)?;
    }
    configure(mount, fstype, fs)?;
    if let Some(mode) = mode {
        let mode = std::ffi::CString::new(format!("{mode:o}")).expect("digits have no NUL byte");
        fsconfig_string(fs, c"mode", &mode).map_err(logged)?;
    }
    if let Some(label) = label.filter(|_| !UNLABELLED.contains(&fstype)) {
        fsconfig_string(fs, c"context", label).map_err(logged)?;
    }
    // Some file systems look at their options only here (devpts before Linux 6.10, overlay before 6.5).
    fsconfig_create(fs).map_err(|failure| with_log(fs, failure, &mount.subject_with_data()))?;
    fsmount(fs, attributes).map_err(logged)
}

/// Whether the kernel would take the options of a mount: they are given to a context that is dropped
/// before it becomes a file system. Takes the privilege to mount.
pub(crate) fn try_options(mount: &Mount, fstype: &CStr) -> Result<()> {
    if needs_mount2(mount) {
        return Ok(());
    }
    let fs = fsopen(fstype).map_err(|failure| explain_type(mount, fstype, failure))?;
    configure(mount, fstype, fs.as_fd())
}

/// Gives a context the flags and data of the mount's options.
fn configure(mount: &Mount, fstype: &CStr, fs: BorrowedFd<'_>) -> Result<()> {
    let options = &mount.options;
    let logged = |failure| with_log(fs, failure, &mount.subject());
    if options.readonly() && !VIRTUAL.contains(&fstype) {
        fsconfig_flag(fs, c"ro").map_err(logged)?;
    }
    for flag in &options.superblock {
        fsconfig_flag(fs, flag).map_err(logged)?;
    }
    for data in &options.data {
        let result = match &data.value {
            Some(value) => fsconfig_string(fs, &data.key, value),
            None => fsconfig_flag(fs, &data.key),
        };
        result.map_err(|failure| {
            let option = format!("{}.options[{}] {}", mount.field(), data.option, data.quoted());
            with_log(fs, failure, &format!("{} ({option})", mount.destination()))
        })?;
    }
    Ok(())
}

/// Makes the file system of `mount` and attaches it at `target`. Returns the mount's root.
pub(super) fn mount(
    plan: &Plan,
    root: BorrowedFd<'_>,
    mount: &Mount,
    fstype: &CStr,
    target: &attach::Target,
) -> Result<OwnedFd> {
    let options = &mount.options;
    let tmpfs = fstype == c"tmpfs";
    // As runc: a tmpfs over a directory of the image looks like it, unless told otherwise.
    let mode = match tmpfs && !target.made && !options.has(c"mode") {
        true => Some(mode_of(target, mount)?),
        false => None,
    };
    if needs_mount2(mount) {
        return classic(plan, root, mount, fstype, target, mode);
    }
    let mut attributes = options.initial();
    if mount.late_readonly || options.copy_up {
        attributes &= !MOUNT_ATTR_RDONLY;
    }
    let tree = detached(mount, fstype, attributes, mode, plan.label.as_deref())?;
    if options.copy_up && !target.made {
        copyup::copy(target.fd.as_fd(), tree.as_fd()).context("copy up", mount.subject())?;
    }
    if options.copy_up && options.readonly() && !mount.late_readonly {
        set_attributes(tree.as_fd(), Depth::Top, MOUNT_ATTR_RDONLY, 0)
            .context("mount", mount.subject())?;
    }
    move_mount(tree.as_fd(), target.fd.as_fd()).context("mount", mount.subject())?;
    Ok(tree)
}

fn mode_of(target: &attach::Target, mount: &Mount) -> Result<u32> {
    let stat: FileStat =
        nix::sys::stat::fstat(&target.fd).call("fstat").context("mount", mount.subject())?;
    Ok(stat.st_mode & 0o7777)
}

/// Whether the mount asks for what fsconfig(2) cannot express: a value of more than 255 bytes, as
/// overlay's `lowerdir` often is, or inode versions, a flag without a name.
pub(super) fn needs_mount2(mount: &Mount) -> bool {
    let options = &mount.options;
    let long = |text: &std::ffi::CString| text.as_bytes().len() > MAX_VALUE;
    options.inode_version
        || mount.source.as_ref().is_some_and(long)
        || options.data.iter().any(|data| data.value.as_ref().is_some_and(long))
}

/// Attributes and superblock flags as mount(2) has them.
const CLASSIC: &[(u64, MsFlags)] = &[
    (MOUNT_ATTR_RDONLY, MsFlags::MS_RDONLY),
    (MOUNT_ATTR_NOSUID, MsFlags::MS_NOSUID),
    (MOUNT_ATTR_NODEV, MsFlags::MS_NODEV),
    (MOUNT_ATTR_NOEXEC, MsFlags::MS_NOEXEC),
    (MOUNT_ATTR_NOATIME, MsFlags::MS_NOATIME),
    (MOUNT_ATTR_STRICTATIME, MsFlags::MS_STRICTATIME),
    (MOUNT_ATTR_NODIRATIME, MsFlags::MS_NODIRATIME),
    (MOUNT_ATTR_NOSYMFOLLOW, MsFlags::from_bits_retain(MS_NOSYMFOLLOW)),
];
/// Linux 5.10.
const MS_NOSYMFOLLOW: u64 = 0x100;
const CLASSIC_SUPERBLOCK: &[(&CStr, &CStr, MsFlags)] = &[
    (c"dirsync", c"", MsFlags::MS_DIRSYNC),
    (c"lazytime", c"nolazytime", MsFlags::MS_LAZYTIME),
    (c"mand", c"nomand", MsFlags::MS_MANDLOCK),
    (c"sync", c"async", MsFlags::MS_SYNCHRONOUS),
];

/// Mounts by mount(2) on the target's handle, for [`needs_mount2`].
fn classic(
    plan: &Plan,
    root: BorrowedFd<'_>,
    mount: &Mount,
    fstype: &CStr,
    target: &attach::Target,
    mode: Option<u32>,
) -> Result<OwnedFd> {
    let options = &mount.options;
    let mut attributes = options.initial();
    if mount.late_readonly || options.copy_up {
        attributes &= !MOUNT_ATTR_RDONLY;
    }
    let mut flags = MsFlags::MS_RELATIME;
    flags.set(MsFlags::MS_I_VERSION, options.inode_version);
    for &(attribute, flag) in CLASSIC {
        flags.set(flag, attributes & attribute != 0);
    }
    for &(on, off, flag) in CLASSIC_SUPERBLOCK {
        let last = options.superblock.iter().rfind(|&&name| name == on || name == off);
        flags.set(flag, last.is_some_and(|&name| name == on));
    }
    let mut data = Vec::new();
    let mut push = |key: &[u8], value: Option<&[u8]>| {
        if !data.is_empty() {
            data.push(b',');
        }
        data.extend_from_slice(key);
        if let Some(value) = value {
            data.push(b'=');
            data.extend_from_slice(value);
        }
    };
    for parameter in &options.data {
        push(parameter.key.as_bytes(), parameter.value.as_ref().map(|v| v.as_bytes()));
    }
    if let Some(mode) = mode {
        push(b"mode", Some(format!("{mode:o}").as_bytes()));
    }
    if let Some(label) = plan.label.as_ref().filter(|_| !UNLABELLED.contains(&fstype)) {
        push(b"context", Some(format!("\"{}\"", label.to_string_lossy()).as_bytes()));
    }
    let source = mount.source.as_deref().unwrap_or(fstype);
    let path = format!("/proc/self/fd/{}", target.fd.as_raw_fd());
    nix::mount::mount(Some(source), path.as_str(), Some(fstype), flags, Some(data.as_slice()))
        .call("mount")
        .context("mount", mount.subject_with_data())?;
    // The handle is below the new mount; the name, looked up again, ends on top. If somebody has
    // renamed the place since, it is mounted all the same, but not to be found.
    let top = attach::open(root, &mount.target, attach::Links::Follow)
        .context("mount", mount.subject())?;
    if !place(top.as_fd()).context("mount", mount.subject())?.is_root {
        let reason = "the destination was moved meanwhile";
        return Err(Error::new(ErrorKind::System, "mount", mount.subject(), reason));
    }
    if options.copy_up && !target.made {
        copyup::copy(target.fd.as_fd(), top.as_fd()).context("copy up", mount.subject())?;
    }
    if options.copy_up && options.readonly() && !mount.late_readonly {
        set_attributes(top.as_fd(), Depth::Top, MOUNT_ATTR_RDONLY, 0)
            .context("mount", mount.subject())?;
    }
    Ok(top)
}

/// Changes the options of what is mounted at `target`, the root of a mount.
pub(super) fn remount(mount: &Mount, target: BorrowedFd<'_>) -> Result<()> {
    let options = &mount.options;
    let readonly = [options.attributes, options.recursive]
        .iter()
        .find_map(|a| (a.set & MOUNT_ATTR_RDONLY != 0).then_some(c"ro"))
        .or_else(|| (options.attributes.clear & MOUNT_ATTR_RDONLY != 0).then_some(c"rw"));
    let superblock = !options.superblock.is_empty() || !options.data.is_empty();
    // With bind the mount alone is meant, without it the file system.
    if options.bind.is_none() && (superblock || readonly.is_some()) {
        let fs = fspick(target).context("remount", mount.subject())?;
        let fs = fs.as_fd();
        let logged = |failure| with_log(fs, failure, &mount.subject());
        if let Some(word) = readonly {
            fsconfig_flag(fs, word).map_err(logged)?;
        }
        configure(mount, c"tmpfs", fs)?;
        fsconfig_reconfigure(fs).map_err(logged)?;
    }
    super::bind::apply(mount, target)
}

/// An unknown type is an error of the configuration or a missing kernel module: say which type.
pub(crate) fn explain_type(mount: &Mount, fstype: &CStr, failure: Failure) -> Error {
    Error::system("mount", format!("{} of type {fstype:?}", mount.subject()), failure)
}

/// An error with the kernel's own messages from the context's log.
fn with_log(fs: BorrowedFd<'_>, failure: Failure, subject: &str) -> Error {
    let mut messages = Vec::new();
    let mut buffer = [0u8; 1024];
    // Each read(2) returns one message; the kernel keeps the last eight.
    for _ in 0..8 {
        match nix::unistd::read(fs, &mut buffer) {
            Ok(length) if length > 0 => {
                let text = String::from_utf8_lossy(&buffer[..length]);
                let text = text.trim_end();
                // A letter for the severity goes before: "e tmpfs: Unknown parameter 'x'".
                messages.push(text.get(2..).unwrap_or(text).to_owned());
            }
            _ => break,
        }
    }
    let subject = match messages.is_empty() {
        true => subject.to_owned(),
        false => format!("{subject} ({})", messages.join("; ")),
    };
    Error::system("mount", subject, failure)
}
