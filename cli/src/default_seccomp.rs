//! The system call filter of containers that come without one.
//!
//! A list of what is allowed. Left out is what an application has no use for and what has opened kernels
//! before: modules, kexec, keyrings (shared with other containers of the user), `io_uring`,
//! `userfaultfd`, raw clocks, mounts and namespaces, relics of old kernels. Calls that a capability
//! makes useful come with that capability. What is left out fails with EPERM, and calls newer than
//! this list with ENOSYS, which is the runtime's doing.

use std::collections::HashSet;

use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator, LinuxSyscall,
};

/// The calling conventions of programs that may run. x32 is missing on purpose: nobody uses it, and it is
/// a second way into most of the kernel. Those of other machines mean nothing on this one.
const ARCHS: [Arch; 5] = [
    Arch::ScmpArchX86_64,
    Arch::ScmpArchX86,
    Arch::ScmpArchAarch64,
    Arch::ScmpArchArm,
    Arch::ScmpArchRiscv64,
];

/// Any process may make these calls.
#[rustfmt::skip]
const ALLOWED: &[&str] = &[
    "_llseek", "_newselect", "accept", "accept4", "access", "adjtimex", "alarm", "arch_prctl",
    "arm_fadvise64_64", "arm_sync_file_range", "bind", "breakpoint", "brk", "cacheflush",
    "cachestat", "capget", "capset", "chdir", "chmod", "chown", "chown32", "clock_adjtime",
    "clock_adjtime64", "clock_getres", "clock_getres_time64", "clock_gettime", "clock_gettime64",
    "clock_nanosleep", "clock_nanosleep_time64", "close", "close_range", "connect",
    "copy_file_range", "creat", "dup", "dup2", "dup3", "epoll_create", "epoll_create1",
    "epoll_ctl", "epoll_pwait", "epoll_pwait2", "epoll_wait", "eventfd", "eventfd2", "execve",
    "execveat", "exit", "exit_group", "faccessat", "faccessat2", "fadvise64", "fadvise64_64",
    "fallocate", "fanotify_mark", "fchdir", "fchmod", "fchmodat", "fchmodat2", "fchown",
    "fchown32", "fchownat", "fcntl", "fcntl64", "fdatasync", "fgetxattr", "file_getattr",
    "file_setattr", "flistxattr", "flock", "fork", "fremovexattr", "fsetxattr", "fstat", "fstat64",
    "fstatat64", "fstatfs", "fstatfs64", "fsync", "ftruncate", "ftruncate64", "futex",
    "futex_requeue", "futex_time64", "futex_wait", "futex_waitv", "futex_wake", "futimesat",
    "get_robust_list", "get_thread_area", "get_tls", "getcpu", "getcwd", "getdents", "getdents64",
    "getegid", "getegid32", "geteuid", "geteuid32", "getgid", "getgid32", "getgroups",
    "getgroups32", "getitimer", "getpeername", "getpgid", "getpgrp", "getpid", "getppid",
    "getpriority", "getrandom", "getresgid", "getresgid32", "getresuid", "getresuid32",
    "getrlimit", "getrusage", "getsid", "getsockname", "getsockopt", "gettid", "gettimeofday",
    "getuid", "getuid32", "getxattr", "getxattrat", "inotify_add_watch", "inotify_init",
    "inotify_init1", "inotify_rm_watch", "io_cancel", "io_destroy", "io_getevents",
    "io_pgetevents", "io_pgetevents_time64", "io_setup", "io_submit", "ioprio_get", "ioprio_set",
    "ipc", "kill", "landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self",
    "lchown", "lchown32", "lgetxattr", "link", "linkat", "listen", "listmount", "listxattr",
    "listxattrat", "llistxattr", "lremovexattr", "lseek", "lsetxattr", "lsm_get_self_attr",
    "lsm_list_modules", "lstat", "lstat64", "madvise", "map_shadow_stack", "membarrier",
    "memfd_create", "memfd_secret", "mincore", "mkdir", "mkdirat", "mknod", "mknodat", "mlock",
    "mlock2", "mlockall", "mmap", "mmap2", "modify_ldt", "mprotect", "mq_getsetattr", "mq_notify",
    "mq_open", "mq_timedreceive", "mq_timedreceive_time64", "mq_timedsend", "mq_timedsend_time64",
    "mq_unlink", "mremap", "mseal", "msgctl", "msgget", "msgrcv", "msgsnd", "msync", "munlock",
    "munlockall", "munmap", "name_to_handle_at", "nanosleep", "newfstatat", "nice", "open",
    "openat", "openat2", "pause", "pidfd_open", "pidfd_send_signal", "pipe", "pipe2", "pkey_alloc",
    "pkey_free", "pkey_mprotect", "poll", "ppoll", "ppoll_time64", "prctl", "pread64", "preadv",
    "preadv2", "prlimit64", "process_mrelease", "pselect6", "pselect6_time64", "pwrite64",
    "pwritev", "pwritev2", "read", "readahead", "readdir", "readlink", "readlinkat", "readv",
    "recv", "recvfrom", "recvmmsg", "recvmmsg_time64", "recvmsg", "remap_file_pages",
    "removexattr", "removexattrat", "rename", "renameat", "renameat2", "restart_syscall",
    "riscv_flush_icache", "riscv_hwprobe", "rmdir", "rseq", "rt_sigaction", "rt_sigpending",
    "rt_sigprocmask", "rt_sigqueueinfo", "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait",
    "rt_sigtimedwait_time64", "rt_tgsigqueueinfo", "sched_get_priority_max",
    "sched_get_priority_min", "sched_getaffinity", "sched_getattr", "sched_getparam",
    "sched_getscheduler", "sched_rr_get_interval", "sched_rr_get_interval_time64",
    "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler", "sched_yield",
    "seccomp", "select", "semctl", "semget", "semop", "semtimedop", "semtimedop_time64", "send",
    "sendfile", "sendfile64", "sendmmsg", "sendmsg", "sendto", "set_robust_list",
    "set_thread_area", "set_tid_address", "set_tls", "setfsgid", "setfsgid32", "setfsuid",
    "setfsuid32", "setgid", "setgid32", "setgroups", "setgroups32", "setitimer", "setpgid",
    "setpriority", "setregid", "setregid32", "setresgid", "setresgid32", "setresuid",
    "setresuid32", "setreuid", "setreuid32", "setrlimit", "setsid", "setsockopt", "setuid",
    "setuid32", "setxattr", "setxattrat", "shmat", "shmctl", "shmdt", "shmget", "shutdown",
    "sigaction", "sigaltstack", "signal", "signalfd", "signalfd4", "sigpending", "sigprocmask",
    "sigreturn", "sigsuspend", "socketpair", "splice", "stat", "stat64", "statfs", "statfs64",
    "statmount", "statx", "symlink", "symlinkat", "sync", "sync_file_range", "sync_file_range2",
    "syncfs", "sysinfo", "tee", "tgkill", "time", "timer_create", "timer_delete",
    "timer_getoverrun", "timer_gettime", "timer_gettime64", "timer_settime", "timer_settime64",
    "timerfd_create", "timerfd_gettime", "timerfd_gettime64", "timerfd_settime",
    "timerfd_settime64", "times", "tkill", "truncate", "truncate64", "ugetrlimit", "umask",
    "uname", "unlink", "unlinkat", "uprobe", "uretprobe", "utime", "utimensat", "utimensat_time64",
    "utimes", "vfork", "vmsplice", "wait4", "waitid", "waitpid", "write", "writev",
];

/// These calls come with a capability.
#[rustfmt::skip]
const WITH_CAPABILITY: &[(Capability, &[&str])] = &[
    (Capability::Bpf, &[
        "bpf",
    ]),
    (Capability::DacReadSearch, &[
        "open_by_handle_at",
    ]),
    (Capability::Perfmon, &[
        "perf_event_open",
    ]),
    (Capability::SysAdmin, &[
        "bpf", "clone3", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick",
        "lookup_dcookie", "mount", "mount_setattr", "move_mount", "open_tree", "open_tree_attr",
        "perf_event_open", "pivot_root", "quotactl", "quotactl_fd", "setdomainname", "sethostname",
        "setns", "syslog", "umount", "umount2", "unshare",
    ]),
    (Capability::SysBoot, &[
        "reboot",
    ]),
    (Capability::SysChroot, &[
        "chroot",
    ]),
    (Capability::SysModule, &[
        "delete_module", "finit_module", "init_module",
    ]),
    (Capability::SysNice, &[
        "get_mempolicy", "mbind", "migrate_pages", "move_pages", "set_mempolicy",
        "set_mempolicy_home_node",
    ]),
    (Capability::SysPacct, &[
        "acct",
    ]),
    (Capability::SysPtrace, &[
        "kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev",
        "ptrace",
    ]),
    (Capability::SysRawio, &[
        "ioperm", "iopl",
    ]),
    (Capability::SysTime, &[
        "clock_settime", "clock_settime64", "settimeofday", "stime",
    ]),
    (Capability::SysTtyConfig, &[
        "vhangup",
    ]),
    (Capability::Syslog, &[
        "syslog",
    ]),
];

/// `CLONE_NEW*` of sched.h that `clone` accepts.
const NAMESPACE_FLAGS: u64 = 0x7e02_0000;

/// Execution domains and flags: the default, `UNAME26`, `PER_LINUX32`, both, and the question for the
/// present one. `ADDR_NO_RANDOMIZE` and `READ_IMPLIES_EXEC` are not among them.
const PERSONALITIES: [u64; 5] = [0, 0x2_0000, 0x8, 0x2_0008, 0xffff_ffff];

/// Families of `socket`: unix, inet, inet6, netlink, packet. Others load kernel modules that are seldom
/// used and seldom reviewed (AF_ALG: CVE-2019-8912), or leave the network namespace (AF_VSOCK).
const FAMILIES: [u64; 5] = [1, 2, 10, 16, 17];

/// Put characters into the input of the terminal. In a container that shares its caller's terminal they
/// would run commands in the caller's shell (CVE-2017-5226). `TIOCSTI`, `TIOCLINUX` of ioctls.h.
const TERMINAL_INJECTION: [u64; 2] = [0x5412, 0x541c];

const ENOSYS: u32 = 38;
const EAFNOSUPPORT: u32 = 97;

/// The profile for a process with these capabilities in its bounding set.
pub fn default_seccomp(capabilities: &HashSet<Capability>) -> LinuxSeccomp {
    let mut syscalls = vec![rule(LinuxSeccompAction::ScmpActAllow, ALLOWED)];
    for (capability, names) in WITH_CAPABILITY {
        if capabilities.contains(capability) {
            syscalls.push(rule(LinuxSeccompAction::ScmpActAllow, names));
        }
    }
    if capabilities.contains(&Capability::SysAdmin) {
        syscalls.push(rule(LinuxSeccompAction::ScmpActAllow, &["clone"]));
    } else {
        syscalls.push(allow_if("clone", masked(0, NAMESPACE_FLAGS, 0)));
        // Its flags are in memory, where no filter sees them; C libraries fall back to clone.
        syscalls.push(errno(rule(LinuxSeccompAction::ScmpActErrno, &["clone3"]), ENOSYS));
    }
    syscalls.extend(PERSONALITIES.map(|value| allow_if("personality", low_half(0, value))));
    syscalls.extend(FAMILIES.map(|family| allow_if("socket", low_half(0, family))));
    syscalls.push(errno(deny_if("socket", always()), EAFNOSUPPORT));
    syscalls.extend(TERMINAL_INJECTION.map(|request| deny_if("ioctl", low_half(1, request))));
    syscalls.push(allow_if("ioctl", always()));
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(LinuxSeccompAction::ScmpActErrno)
        .set_architectures(Some(ARCHS.to_vec()))
        .set_syscalls(Some(syscalls));
    profile
}

fn rule(action: LinuxSeccompAction, names: &[&str]) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.iter().map(ToString::to_string).collect()).set_action(action);
    rule
}

fn errno(mut rule: LinuxSyscall, errno: u32) -> LinuxSyscall {
    rule.set_errno_ret(Some(errno));
    rule
}

fn allow_if(name: &str, condition: LinuxSeccompArg) -> LinuxSyscall {
    let mut rule = rule(LinuxSeccompAction::ScmpActAllow, &[name]);
    rule.set_args(Some(vec![condition]));
    rule
}

fn deny_if(name: &str, condition: LinuxSeccompArg) -> LinuxSyscall {
    let mut rule = rule(LinuxSeccompAction::ScmpActErrno, &[name]);
    rule.set_args(Some(vec![condition]));
    rule
}

fn masked(index: usize, mask: u64, value: u64) -> LinuxSeccompArg {
    LinuxSeccompArgBuilder::default()
        .index(index)
        .op(LinuxSeccompOperator::ScmpCmpMaskedEq)
        .value(mask)
        .value_two(value)
        .build()
        .expect("no field is required")
}

/// Compares an argument that the kernel takes as a 32-bit number. It ignores the upper half, so that a
/// comparison of all 64 bits would let a forbidden value through (CVE-2019-10063).
fn low_half(index: usize, value: u64) -> LinuxSeccompArg {
    masked(index, 0xffff_ffff, value)
}

/// Holds for every call. A rule without conditions would come before those with conditions.
fn always() -> LinuxSeccompArg {
    masked(0, 0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(capabilities: &[Capability]) -> HashSet<String> {
        let profile = default_seccomp(&capabilities.iter().copied().collect());
        let rules = profile.syscalls().clone().unwrap();
        rules
            .iter()
            .filter(|rule| rule.action() == LinuxSeccompAction::ScmpActAllow)
            .flat_map(|rule| rule.names().clone())
            .collect()
    }

    #[test]
    fn names_are_sorted_and_unique() {
        assert!(ALLOWED.is_sorted_by(|a, b| a < b));
        for (_, names) in WITH_CAPABILITY {
            assert!(names.is_sorted_by(|a, b| a < b));
            assert!(names.iter().all(|name| !ALLOWED.contains(name)));
        }
    }

    #[test]
    fn capabilities_bring_calls() {
        let none = names(&[]);
        for name in ["mount", "ptrace", "unshare", "clone3", "bpf", "io_uring_setup", "keyctl"] {
            assert!(!none.contains(name), "{name}");
        }
        for name in ["read", "futex", "clone", "execve", "capset", "socket", "ioctl"] {
            assert!(none.contains(name), "{name}");
        }
        let admin = names(&[Capability::SysAdmin]);
        assert!(["mount", "unshare", "clone3", "bpf"].iter().all(|name| admin.contains(*name)));
        assert!(!admin.contains("ptrace"));
    }
}
