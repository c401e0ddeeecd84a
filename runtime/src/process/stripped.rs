//! A process with nothing to lose, for what must be done inside a joined pid namespace.
//!
//! That is to open the context of its procfs, where the kernel has no option for it. It takes
//! CAP_SYS_ADMIN, and a tenant with CAP_SYS_PTRACE may take hold of any process the moment it is there.
//! So it is stripped before it goes in: an empty directory for a root, one end of a socket for its only
//! descriptor, that one capability, and a filter under which even a process that is traced can do
//! nothing but open contexts. What it hands out is not believed to be a procfs: see
//! [`crate::mount::rootfs`].
//!
//! ```text
//!   container's builder          stripped, outside          stripped, inside
//!     clone3 ─────────────────▶ setns, clone3 ───────────▶ wait
//!     ◀──────── Reborn(pidfd) ── exit                       │
//!     Go ─────────────────────────────────────────────────▶ fsopen
//!     ◀──────────────────────────────────────── Procfs(fd) ─ exit
//! ```

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompBuilder, LinuxSyscallBuilder,
};

use crate::caps;
use crate::error::{Call, Context, Error, ErrorKind, Result};
use crate::options::Parent;
use crate::process::channel::{Channel, FromChild, FromCreator};
use crate::process::parent::Guard;
use crate::process::{child, join};
use crate::seccomp::{self, Filter};
use crate::sys;
use crate::sys::clone::{Cloned, SingleThreaded};
use crate::sys::mount::{
    MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY, fsconfig_create,
    fsmount, fsopen,
};

const WHAT: &str = "a process to open a procfs in linux.namespaces[pid]";

/// How long each of its two lives may take. A tenant may stop it.
const DEADLINE: u16 = 10_000;

/// To fork, open a context and talk about it; the rest is the allocator's.
const CALLS: [&str; 13] = [
    "brk",
    "clone3",
    "close",
    "exit_group",
    "fsopen",
    "futex",
    "madvise",
    "mmap",
    "mremap",
    "munmap",
    "recvfrom",
    "recvmsg",
    "sendmsg",
];

/// The context of a new procfs that shows `namespace`.
pub(crate) fn open_procfs(namespace: BorrowedFd<'_>) -> Result<OwnedFd> {
    let filter = seccomp::plan(&profile()?, &mut Vec::new())?;
    let root = empty_directory().context("make", "an empty directory")?;
    let (ours, theirs) = Channel::pair()?;
    let proof = SingleThreaded::check().context("fork", WHAT)?;
    match sys::clone::clone3(&proof, 0, Parent::Caller, None).context("fork", WHAT)? {
        Cloned::Child(proof) => {
            drop(ours);
            let opened = strip(&theirs, namespace, root.as_fd(), &filter)
                .and_then(|()| join::fork_again(&theirs, &proof))
                .and_then(|()| fsopen(c"proc").context("open", "a procfs"));
            let sent = opened.and_then(|context| {
                theirs.send(&FromChild::Procfs, Some(context.as_fd())).context("send", "a procfs")
            });
            match sent {
                Ok(()) => sys::clone::exit_now(0),
                Err(error) => child::give_up(&theirs, &error),
            }
        }
        Cloned::Parent { pid, pidfd } => {
            drop(theirs);
            receive(&ours, Guard::new(pid, pidfd, Parent::Caller))
        }
    }
}

/// An empty file system that is mounted nowhere.
fn empty_directory() -> sys::Result<OwnedFd> {
    let context = fsopen(c"tmpfs")?;
    fsconfig_create(context.as_fd())?;
    let bare = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
    fsmount(context.as_fd(), bare)
}

/// Gives up all but what the next two calls take, for good.
fn strip(
    channel: &Channel,
    namespace: BorrowedFd<'_>,
    root: BorrowedFd<'_>,
    filter: &Filter,
) -> Result<()> {
    let stripped = || {
        sys::process::set_dumpable(false)?;
        nix::unistd::fchdir(root).call("fchdir")?;
        nix::unistd::chroot(c".").call("chroot")?;
        sys::process::setns(namespace, libc::CLONE_NEWPID)?;
        sys::fd::close_streams()?;
        channel.alone(0)?;
        sys::prctl::ambient_clear()?;
        sys::prctl::capset(caps::SYS_ADMIN, caps::SYS_ADMIN, 0)?;
        filter.install().map(drop)
    };
    stripped().context("confine", WHAT)
}

/// Hears of the process that is inside, lets it go on, and takes what it sends.
fn receive(channel: &Channel, outside: Guard) -> Result<OwnedFd> {
    let inside = match next(channel)? {
        (FromChild::Reborn(pid), Some(pidfd)) => Guard::new(pid, pidfd, Parent::Caller),
        (other, _) => return Err(unexpected(&format!("{other:?} out of turn"))),
    };
    drop(outside);
    channel.send(&FromCreator::Go, None).context("let go on", WHAT)?;
    let received = next(channel)?;
    drop(inside);
    match received {
        (FromChild::Procfs, Some(context)) => Ok(context),
        (other, _) => Err(unexpected(&format!("{other:?} out of turn"))),
    }
}

fn next(channel: &Channel) -> Result<(FromChild, Option<OwnedFd>)> {
    if !channel.wait(DEADLINE).context("wait for", WHAT)? {
        return Err(unexpected("it took longer than 10 s"));
    }
    match channel.receive().context("hear from", WHAT)? {
        Some((FromChild::Failed(error), _)) => Err(error),
        Some(frame) => Ok(frame),
        None => Err(unexpected("it ended before it had one")),
    }
}

fn unexpected(reason: &str) -> Error {
    Error::new(ErrorKind::System, "hear from", WHAT, reason)
}

fn profile() -> Result<LinuxSeccomp> {
    let invalid = |error: oci_spec::OciSpecError| Error::invalid(WHAT, error.to_string());
    let allowed = LinuxSyscallBuilder::default()
        .names(CALLS.map(str::to_owned))
        .action(LinuxSeccompAction::ScmpActAllow)
        .build()
        .map_err(invalid)?;
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .default_errno_ret(libc::EPERM as u32)
        .syscalls(vec![allowed])
        .build()
        .map_err(invalid)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    use nix::errno::Errno;
    use nix::sched::{CloneFlags, setns, unshare};
    use nix::sys::signal::{Signal, kill};
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    use nix::unistd::{Pid, pause};

    use super::*;
    use crate::sys::mount::fsconfig_file;
    use crate::sys::testing::{exit, fork};
    use crate::testing::in_namespaces;

    /// Runs `test` beside another pid namespace, whose first process waits.
    fn beside(flags: CloneFlags, test: impl FnOnce(BorrowedFd<'_>)) {
        in_namespaces(flags | CloneFlags::CLONE_NEWNS, || {
            let own = File::open("/proc/self/ns/pid").unwrap();
            unshare(CloneFlags::CLONE_NEWPID).unwrap();
            let Some(first) = fork() else {
                pause();
                exit(0);
            };
            let other = File::open("/proc/self/ns/pid_for_children").unwrap();
            setns(own, CloneFlags::CLONE_NEWPID).unwrap();
            test(other.as_fd());
            kill(first, Signal::SIGKILL).unwrap();
            waitpid(first, None).unwrap();
        });
    }

    /// The processes in a procfs of this context.
    fn shown(context: BorrowedFd<'_>) -> Vec<String> {
        fsconfig_create(context).unwrap();
        let tree = fsmount(context, MOUNT_ATTR_RDONLY).unwrap();
        let names = std::fs::read_dir(format!("/proc/self/fd/{}", tree.as_raw_fd())).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(|c: char| c.is_ascii_digit())).collect()
    }

    #[test]
    fn a_procfs_opened_inside_shows_that_namespace() {
        for flags in [CloneFlags::empty(), CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWPID] {
            beside(flags, |namespace| {
                let context = open_procfs(namespace).unwrap();
                assert_eq!(shown(context.as_fd()), ["1"]);
                let ended = waitpid(None, Some(WaitPidFlag::WNOHANG));
                assert_eq!(ended, Ok(WaitStatus::StillAlive), "what went in is reaped");
            });
        }
    }

    #[test]
    fn the_kernels_own_way_shows_the_same() {
        beside(CloneFlags::empty(), |namespace| {
            let context = fsopen(c"proc").unwrap();
            match fsconfig_file(context.as_fd(), c"pidns", namespace) {
                // Before Linux 6.17.
                Err(failure) => assert_eq!(failure.errno, Errno::EINVAL),
                Ok(()) => assert_eq!(shown(context.as_fd()), ["1"]),
            }
        });
    }

    #[test]
    fn it_goes_in_with_nothing() {
        in_namespaces(CloneFlags::CLONE_NEWNS, || {
            let filter = seccomp::plan(&profile().unwrap(), &mut Vec::new()).unwrap();
            let root = empty_directory().unwrap();
            let (ours, theirs) = Channel::pair().unwrap();
            let namespace = File::open("/proc/self/ns/pid").unwrap();
            let proof = SingleThreaded::check().unwrap();
            let cloned = sys::clone::clone3(&proof, 0, Parent::Caller, None).unwrap();
            let Cloned::Parent { pid, pidfd } = cloned else {
                drop(ours);
                strip(&theirs, namespace.as_fd(), root.as_fd(), &filter).unwrap();
                theirs.send(&FromChild::Ready, None).unwrap();
                child::wait_for_go(&theirs).unwrap();
                let opened = File::open(".").map_err(|error| error.raw_os_error());
                exit(i32::from(!matches!(opened, Err(Some(libc::EPERM)))));
            };
            drop(theirs);
            assert!(matches!(ours.receive().unwrap(), Some((FromChild::Ready, None))));
            let of = |name: &str| format!("/proc/{pid}/{name}");
            let names = |dir: &str| std::fs::read_dir(of(dir)).unwrap().count();
            assert_eq!((names("fd"), names("root/")), (1, 0));
            let text = std::fs::read_to_string(of("status")).unwrap();
            for line in ["CapPrm:\t0000000000200000", "CapEff:\t0000000000200000", "Seccomp:\t2"] {
                assert!(text.contains(line), "{text}");
            }
            ours.send(&FromCreator::Go, None).unwrap();
            let ended = waitpid(Pid::from_raw(pid), None).unwrap();
            assert!(matches!(ended, WaitStatus::Exited(_, 0)), "{ended:?}");
            drop(pidfd);
        });
    }
}
