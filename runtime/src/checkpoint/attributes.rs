//! The attributes of the root and of bind mounts, set once more after CRIU.
//!
//! CRIU (3.17) restores a read-only root writable, and of several mounts from one place it sets the attributes
//! of the first alone: so would a read-only volume be. The processes are restored and do not run yet when this is done, by a process of
//! ours in the container's mount namespace.

use std::os::fd::{AsFd, BorrowedFd};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::error::{Call, Context, Error, ErrorKind, Result};
use crate::mount::attach::{self, Links};
use crate::mount::{Kind, Plan, bind};
use crate::options::Parent;
use crate::process::channel::{Channel, FromChild};
use crate::sys;
use crate::sys::clone::{Cloned, SingleThreaded};
use crate::sys::mount::{Depth, MOUNT_ATTR_RDONLY, set_attributes};

const WHAT: &str = "the attributes of restored mounts";
/// How long it may take, in milliseconds.
const DEADLINE: u16 = 30_000;

/// Sets them in the mount namespace of the process behind `pidfd`.
pub(super) fn set(plan: &Plan, pidfd: BorrowedFd<'_>) -> Result<()> {
    if !plan.mount_namespace {
        return Ok(());
    }
    let (ours, theirs) = Channel::pair()?;
    let proof = SingleThreaded::check().context("set", WHAT)?;
    let cloned = sys::clone::clone3(&proof, 0, Parent::Caller, None).context("set", WHAT)?;
    let (child, child_pidfd) = match cloned {
        Cloned::Child(_) => {
            let word = match enter_and_set(plan, pidfd) {
                Ok(()) => FromChild::Ready,
                Err(error) => FromChild::Failed(error),
            };
            sys::clone::exit_now(i32::from(theirs.send(&word, None).is_err()))
        }
        Cloned::Parent { pid, pidfd } => (pid, pidfd),
    };
    drop(theirs);
    let in_time = ours.wait(DEADLINE).context("set", WHAT)?;
    if !in_time {
        let _ = sys::pidfd::send_signal(child_pidfd.as_fd(), libc::SIGKILL);
    }
    let word = ours.receive::<FromChild>().context("set", WHAT);
    let _ = waitpid(Pid::from_raw(child), None);
    match word? {
        Some((FromChild::Ready, _)) => Ok(()),
        Some((FromChild::Failed(error), _)) => Err(error),
        _ => Err(Error::new(ErrorKind::System, "set", WHAT, "the process that does it has ended")),
    }
}

fn enter_and_set(plan: &Plan, pidfd: BorrowedFd<'_>) -> Result<()> {
    sys::process::setns(pidfd, libc::CLONE_NEWNS).context("enter", "the restored mounts")?;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = open("/", flags, Mode::empty()).call("open").context("set", WHAT)?;
    if plan.readonly {
        set_attributes(root.as_fd(), Depth::Top, MOUNT_ATTR_RDONLY, 0)
            .context("set", "root.readonly")?;
    }
    for mount in plan.mounts.iter().filter(|mount| matches!(mount.kind, Kind::Bind(_))) {
        // What the container had unmounted has not come back.
        let Ok(place) = attach::open(root.as_fd(), &mount.target, Links::Follow) else { continue };
        if !sys::mount::place(place.as_fd()).context("look at", mount.subject())?.is_root {
            continue;
        }
        bind::apply(mount, place.as_fd())?;
        if mount.late_readonly {
            set_attributes(place.as_fd(), Depth::Top, MOUNT_ATTR_RDONLY, 0)
                .context("mount", mount.subject())?;
        }
    }
    Ok(())
}
