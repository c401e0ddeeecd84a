//! Less power for the process of ours that stays beside a container: the caller of a foreground `run` or
//! `exec`, which copies a terminal, passes signals and notifications on, and in the end deletes the
//! container. What it reads for all that time is written by the container's program.
//!
//! So it keeps two capabilities, to kill processes of other users and to remove files that the container's
//! users own, and a list of system calls without any that execute, mount, trace, join namespaces or make
//! memory executable. Poststop hooks run with the caller's power: where a container has some, the filter
//! is left out, and root gets its capabilities back when it executes them (capabilities(7)).
//!
//! A shim stays as well, beside all containers of a pod, and leaves their making to workers that it does
//! not fork itself. It gives up all that only they need.

use std::os::fd::OwnedFd;

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompBuilder,
    LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};

use crate::caps;
use crate::error::{Call, Context, Error, Result};
use crate::landlock;
use crate::seccomp;
use crate::sys;

/// What a watcher may yet have to do.
#[derive(Debug)]
pub(crate) enum Duties {
    /// To change files beneath these directories: state and cgroups of a container to delete.
    Files(Vec<OwnedFd>),
    /// To run hooks as well.
    Hooks,
    /// To stand for a process of a guest: to copy streams that are open, and pass signals on.
    StandIn,
    /// To serve the callers of many containers, and have others make and delete them: a shim, whose
    /// calls its libraries choose. So it is said what it may *not* do.
    Serve,
}

/// Every call of the watcher, and those that the C library makes for them on one kernel or another.
const CALLS: [&str; 94] = [
    // Streams, terminals, sockets that are open.
    "close",
    "dup",
    "epoll_ctl",
    "epoll_pwait",
    "epoll_wait",
    "eventfd2",
    "fcntl",
    "ioctl",
    "lseek",
    "pipe2",
    "poll",
    "ppoll",
    "pread64",
    "read",
    "readv",
    "recvfrom",
    "recvmsg",
    "sendmsg",
    "sendto",
    "shutdown",
    "signalfd4",
    "write",
    "writev",
    "getsockopt",
    "setsockopt",
    // Readiness passed on to the caller's manager; whether a container waits for its start.
    "connect",
    "socket",
    "bind",
    // State, cgroups, /proc: looked at and removed.
    "access",
    "faccessat",
    "faccessat2",
    "fchdir",
    "flock",
    "fstat",
    "fstatfs",
    "fsync",
    "getcwd",
    "getdents64",
    "inotify_add_watch",
    "inotify_init1",
    "inotify_rm_watch",
    "newfstatat",
    "open",
    "openat",
    "openat2",
    "readlink",
    "readlinkat",
    "renameat",
    "renameat2",
    "rmdir",
    "stat",
    "statfs",
    "statx",
    "unlink",
    "unlinkat",
    "lstat",
    // Processes: signals and their end.
    "kill",
    "pidfd_open",
    "pidfd_send_signal",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "rt_sigtimedwait",
    "tgkill",
    "tkill",
    "pselect6",
    "wait4",
    "waitid",
    "restart_syscall",
    "sigaltstack",
    // Oneself.
    "brk",
    "clock_gettime",
    "clock_nanosleep",
    "exit",
    "exit_group",
    "futex",
    "getegid",
    "geteuid",
    "getgid",
    "getresgid",
    "getresuid",
    "prlimit64",
    "sched_getaffinity",
    "sysinfo",
    "uname",
    "getpid",
    "getrandom",
    "gettid",
    "getuid",
    "madvise",
    "mremap",
    "munmap",
    "nanosleep",
    "sched_yield",
];

/// Every call of a stand-in.
const STANDING_IN: [&str; 33] = [
    "accept4",
    "brk",
    "clock_gettime",
    "clock_nanosleep",
    "close",
    "exit",
    "exit_group",
    "fcntl",
    "futex",
    "getpid",
    "getrandom",
    "ioctl",
    "madvise",
    "mremap",
    "munmap",
    "nanosleep",
    "poll",
    "ppoll",
    "read",
    "readv",
    "recvfrom",
    "recvmsg",
    "restart_syscall",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sendmsg",
    "sendto",
    "setsockopt",
    "shutdown",
    "wait4",
    "write",
    "writev",
];

/// What a process needs to make containers, or to take others over, and none to serve them.
const MAKING: [&str; 48] = [
    // Programs.
    "execve",
    "execveat",
    // Namespaces and mounts.
    "chroot",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "mount",
    "mount_setattr",
    "move_mount",
    "open_by_handle_at",
    "open_tree",
    "pivot_root",
    "setns",
    "umount2",
    "unshare",
    "mknod",
    "mknodat",
    // Other processes.
    "kcmp",
    "perf_event_open",
    "pidfd_getfd",
    "process_madvise",
    "process_vm_readv",
    "process_vm_writev",
    "ptrace",
    // Identity.
    "setfsgid",
    "setfsuid",
    "setgid",
    "setgroups",
    "setregid",
    "setresgid",
    "setresuid",
    "setreuid",
    "setuid",
    // The kernel.
    "acct",
    "add_key",
    "bpf",
    "delete_module",
    "finit_module",
    "init_module",
    "io_uring_setup",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "reboot",
    "request_key",
    "swapon",
    "userfaultfd",
];

/// Memory is made, but never to be executed.
const MEMORY: [&str; 2] = ["mmap", "mprotect"];

const WHAT: &str = "the process that stays beside the container";

/// Gives up what the duties do not need, for good. What it may not do fails with EPERM or EACCES.
pub(crate) fn confine(duties: Duties) -> Result<()> {
    let (_, permitted, _) = sys::prctl::capget().context("confine", WHAT)?;
    let mut kept = permitted & (caps::KILL | caps::DAC_OVERRIDE);
    sys::prctl::ambient_clear().context("confine", WHAT)?;
    let (profile, directories) = match duties {
        Duties::Hooks => return sys::prctl::capset(kept, kept, 0).context("confine", WHAT),
        Duties::Files(directories) => (watching()?, Some(directories)),
        Duties::StandIn => (standing_in()?, None),
        Duties::Serve => {
            // For the names of whom the kernel has killed.
            kept |= permitted & caps::SYSLOG;
            (serving()?, None)
        }
    };
    let filter = seccomp::plan(&profile, &mut Vec::new())?;
    nix::sys::prctl::set_no_new_privs()
        .call("prctl(PR_SET_NO_NEW_PRIVS)")
        .context("confine", WHAT)?;
    if let Some(directories) = directories {
        landlock::write_only_beneath(directories).context("confine", WHAT)?;
    }
    sys::prctl::capset(kept, kept, 0).context("confine", WHAT)?;
    filter.install().context("confine", WHAT).map(drop)
}

/// Gives up, for good, what only the makers of containers need. For the first thread of a process that
/// has others make them; later threads have no more power than this one.
///
/// # Errors
/// The kernel refuses a part of it; the process then has what it had, or less.
pub fn confine_server() -> Result<()> {
    confine(Duties::Serve)
}

/// Allows what a watcher calls.
fn watching() -> Result<LinuxSeccomp> {
    let (allow, refuse) = (LinuxSeccompAction::ScmpActAllow, LinuxSeccompAction::ScmpActErrno);
    let rules = vec![rule(&CALLS, allow, None)?, rule(&MEMORY, allow, Some(executable(false)?))?];
    profile(refuse, rules)
}

/// Allows what a stand-in calls.
fn standing_in() -> Result<LinuxSeccomp> {
    let (allow, refuse) = (LinuxSeccompAction::ScmpActAllow, LinuxSeccompAction::ScmpActErrno);
    let rules =
        vec![rule(&STANDING_IN, allow, None)?, rule(&MEMORY, allow, Some(executable(false)?))?];
    profile(refuse, rules)
}

/// Refuses what a server does not call.
fn serving() -> Result<LinuxSeccomp> {
    let (allow, refuse) = (LinuxSeccompAction::ScmpActAllow, LinuxSeccompAction::ScmpActErrno);
    let rules = vec![rule(&MAKING, refuse, None)?, rule(&MEMORY, refuse, Some(executable(true)?))?];
    profile(allow, rules)
}

fn invalid(error: oci_spec::OciSpecError) -> Error {
    Error::invalid(WHAT, error.to_string())
}

/// Whether the protection of new memory, the third argument of both calls, has `PROT_EXEC`.
fn executable(is: bool) -> Result<LinuxSeccompArg> {
    let mask = libc::PROT_EXEC as u64;
    LinuxSeccompArgBuilder::default()
        .index(2usize)
        .value(mask)
        .value_two(if is { mask } else { 0 })
        .op(LinuxSeccompOperator::ScmpCmpMaskedEq)
        .build()
        .map_err(invalid)
}

fn rule(
    names: &[&str],
    action: LinuxSeccompAction,
    condition: Option<LinuxSeccompArg>,
) -> Result<LinuxSyscall> {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let rule = LinuxSyscallBuilder::default().names(names).action(action);
    let rule = if action == LinuxSeccompAction::ScmpActErrno {
        rule.errno_ret(libc::EPERM as u32)
    } else {
        rule
    };
    match condition {
        Some(condition) => rule.args([condition]).build().map_err(invalid),
        None => rule.build().map_err(invalid),
    }
}

fn profile(default: LinuxSeccompAction, rules: Vec<LinuxSyscall>) -> Result<LinuxSeccomp> {
    let builder = LinuxSeccompBuilder::default().default_action(default).syscalls(rules);
    let builder = if default == LinuxSeccompAction::ScmpActErrno {
        builder.default_errno_ret(libc::EPERM as u32)
    } else {
        builder
    };
    builder.build().map_err(invalid)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use nix::errno::Errno;
    use nix::sched::{CloneFlags, unshare};

    use super::*;
    use crate::testing::in_child;

    #[test]
    fn it_changes_files_of_the_container_only_and_executes_nothing() {
        let base = std::env::temp_dir().join(format!("bh-watcher-{}", std::process::id()));
        std::fs::create_dir_all(base.join("state/id")).unwrap();
        std::fs::write(base.join("state/id/state.json"), "{}").unwrap();
        std::fs::write(base.join("other"), "x").unwrap();
        let state = OwnedFd::from(File::open(base.join("state")).unwrap());
        in_child(|| {
            confine(Duties::Files(vec![state])).unwrap();
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
                let line = status.lines().find(|line| line.starts_with(set)).unwrap();
                let mask = u64::from_str_radix(line.split_once(':').unwrap().1.trim(), 16).unwrap();
                assert_eq!(mask & !(caps::KILL | caps::DAC_OVERRIDE), 0, "{line}");
            }
            std::fs::remove_file(base.join("state/id/state.json")).unwrap();
            std::fs::remove_dir(base.join("state/id")).unwrap();
            if sys::landlock::version().is_ok() {
                let error = std::fs::write(base.join("other"), "y").unwrap_err();
                assert_eq!(error.raw_os_error(), Some(Errno::EACCES as i32));
            }
            let error = std::process::Command::new("/bin/true").status().unwrap_err();
            assert_eq!(error.raw_os_error(), Some(Errno::EPERM as i32));
            assert_eq!(unshare(CloneFlags::CLONE_NEWUSER), Err(Errno::EPERM));
            drop(vec![7u8; 8 << 20]);
        });
        std::fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn with_hooks_to_run_it_can_execute() {
        in_child(|| {
            confine(Duties::Hooks).unwrap();
            let (_, permitted, _) = sys::prctl::capget().unwrap();
            assert_eq!(permitted & !(caps::KILL | caps::DAC_OVERRIDE), 0);
            assert!(std::process::Command::new("/bin/true").status().unwrap().success());
        });
    }
}
