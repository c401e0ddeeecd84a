//! procfs of a pid namespace that its maker is not in.
//!
//! A procfs shows the pid namespace of the process that opens its context. The process that builds a
//! container stays out of a pid namespace that it was told to join, because the tenants there could
//! look through it at the host. Linux 6.17 has an option for that, `pidns`, which takes the namespace as
//! an open file: <https://docs.kernel.org/filesystems/proc.html>, "Mount Options". Before that somebody
//! goes in to open the context ([`stripped`]); all else is done from outside.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::{Mount, fs};
use crate::error::{Context, Error, ErrorKind, Failure, Result};
use crate::process::stripped;
use crate::sys::mount::{fsconfig_file, fsopen};

/// The pid namespace that a new procfs shows.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pids<'a> {
    /// That of the process itself.
    Own,
    /// Another one, over which the process has power.
    Joined(BorrowedFd<'a>),
    /// Another one, over which it has none.
    Foreign,
}

/// A procfs of another pid namespace, with the options of `mount`, that is mounted nowhere yet.
pub(super) fn detached(mount: &Mount, pids: Pids<'_>) -> Result<OwnedFd> {
    let refused = |reason: &str| Error::new(ErrorKind::System, "mount", mount.subject(), reason);
    let Pids::Joined(namespace) = pids else {
        let reason = "EPERM: its pid namespace belongs to another user namespace";
        return Err(refused(reason));
    };
    if fs::needs_mount2(mount) {
        // mount(2) would show this process's own pid namespace: the creator's.
        return Err(refused("a joined pid namespace: iversion, or a value of more than 255 bytes"));
    }
    let context = fsopen(c"proc").map_err(|failure| fs::explain_type(mount, c"proc", failure))?;
    let context = match fsconfig_file(context.as_fd(), c"pidns", namespace) {
        // No such option; or no such namespace, of which the other way tells as well.
        Err(Failure { errno: Errno::EINVAL, .. }) => stripped::open_procfs(namespace)?,
        result => result.context("mount", mount.subject()).map(|()| context)?,
    };
    fs::filled(mount, c"proc", context.as_fd(), mount.options.initial(), None, None)
}
