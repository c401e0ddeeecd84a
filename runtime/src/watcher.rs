//! Less power for the process of ours that stays beside a container: the caller of a foreground `run` or
//! `exec`, which copies a terminal, passes signals and notifications on, and in the end deletes the
//! container. What it reads for all that time is written by the container's program.
//!
//! So it keeps two capabilities, to kill processes of other users and to remove files that the container's
//! users own, and a list of system calls without any that execute, mount, trace, join namespaces or make
//! memory executable. Poststop hooks run with the caller's power: where a container has some, the filter
//! is left out, and root gets its capabilities back when it executes them (capabilities(7)).

use std::os::fd::OwnedFd;

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArgBuilder, LinuxSeccompBuilder,
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

/// Memory is made, but never to be executed.
const MEMORY: [&str; 2] = ["mmap", "mprotect"];

const WHAT: &str = "the process that stays beside the container";

/// Gives up what the duties do not need, for good. What it may not do fails with EPERM or EACCES.
pub(crate) fn confine(duties: Duties) -> Result<()> {
    let (_, permitted, _) = sys::prctl::capget().context("confine", WHAT)?;
    let kept = permitted & (caps::KILL | caps::DAC_OVERRIDE);
    sys::prctl::ambient_clear().context("confine", WHAT)?;
    let Duties::Files(directories) = duties else {
        return sys::prctl::capset(kept, kept, 0).context("confine", WHAT);
    };
    let filter = seccomp::plan(&profile()?, &mut Vec::new())?;
    nix::sys::prctl::set_no_new_privs()
        .call("prctl(PR_SET_NO_NEW_PRIVS)")
        .context("confine", WHAT)?;
    landlock::write_only_beneath(directories).context("confine", WHAT)?;
    sys::prctl::capset(kept, kept, 0).context("confine", WHAT)?;
    filter.install().context("confine", WHAT).map(drop)
}

fn profile() -> Result<LinuxSeccomp> {
    /// Of `sys/mman.h`: PROT_EXEC, in the third argument of both calls.
    const NOT_EXECUTABLE: (usize, u64) = (2, libc::PROT_EXEC as u64);
    let invalid = |error: oci_spec::OciSpecError| Error::invalid(WHAT, error.to_string());
    let (index, mask) = NOT_EXECUTABLE;
    let data = LinuxSeccompArgBuilder::default()
        .index(index)
        .value(mask)
        .value_two(0u64)
        .op(LinuxSeccompOperator::ScmpCmpMaskedEq)
        .build()
        .map_err(invalid)?;
    let rule = |names: &[&str]| {
        LinuxSyscallBuilder::default()
            .names(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>())
            .action(LinuxSeccompAction::ScmpActAllow)
    };
    let rules: Vec<LinuxSyscall> = vec![
        rule(&CALLS).build().map_err(invalid)?,
        rule(&MEMORY).args([data]).build().map_err(invalid)?,
    ];
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .default_errno_ret(libc::EPERM as u32)
        .syscalls(rules)
        .build()
        .map_err(invalid)
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
