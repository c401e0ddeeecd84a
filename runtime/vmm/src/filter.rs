//! What system calls each thread may make from the moment that the guest runs.
//!
//! A guest that takes over a thread finds no way to open, execute, connect, trace or signal another process: such a
//! call kills the monitor. Memory can be had, but none that is executable.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

use crate::error::{Error, Result};

/// `_IO(KVMIO, 0x80)`
const KVM_RUN: u64 = 0xae80;
const FIONBIO: u64 = libc::FIONBIO;
const PROT_EXEC: u64 = libc::PROT_EXEC as u64;

/// Both threads: memory, locks, what they were given open, and their end.
const BOTH: &[libc::c_long] = &[
    libc::SYS_brk,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_read,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_sigaltstack,
    libc::SYS_write,
];

/// The event loop: files and sockets that are open, and stopping the processors.
const EVENT_LOOP: &[libc::c_long] = &[
    libc::SYS_accept4,
    libc::SYS_clock_nanosleep,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_fdatasync,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_shutdown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
];

/// The filters of a machine's threads.
pub(crate) struct Filters {
    pub(crate) processor: BpfProgram,
    pub(crate) event_loop: BpfProgram,
}

impl Filters {
    /// Compiles both.
    pub(crate) fn new() -> Result<Self> {
        let own = i64::from(std::process::id());
        Ok(Self {
            processor: compile(&[], vec![(libc::SYS_ioctl, only(1, KVM_RUN)?)])?,
            event_loop: compile(
                EVENT_LOOP,
                vec![
                    (libc::SYS_ioctl, only(1, FIONBIO)?),
                    (libc::SYS_tgkill, only(0, own as u64)?),
                ],
            )?,
        })
    }
}

/// Installs a filter for the calling thread.
pub(crate) fn install(filter: &BpfProgram) -> Result<()> {
    apply_filter(filter).map_err(|error| Error::new("install system call filter", error))
}

fn compile(
    calls: &[libc::c_long],
    conditional: Vec<(libc::c_long, SeccompRule)>,
) -> Result<BpfProgram> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        BOTH.iter().chain(calls).map(|&call| (call, Vec::new())).collect();
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![rule(2, SeccompCmpOp::MaskedEq(PROT_EXEC), 0)?]);
    }
    // The standard library asks before it closes, when it is built to check itself.
    rules.insert(libc::SYS_fcntl, vec![only(1, libc::F_GETFD as u64)?]);
    for (call, rule) in conditional {
        rules.entry(call).or_default().push(rule);
    }
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(error)?;
    SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, arch)
        .and_then(TryInto::try_into)
        .map_err(error)
}

fn only(argument: u8, value: u64) -> Result<SeccompRule> {
    rule(argument, SeccompCmpOp::Eq, value)
}

fn rule(argument: u8, compare: SeccompCmpOp, value: u64) -> Result<SeccompRule> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, compare, value)
        .and_then(|condition| SeccompRule::new(vec![condition]))
        .map_err(error)
}

fn error(error: impl std::fmt::Display) -> Error {
    Error::new("compile system call filter", error)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    #[cfg(feature = "misbehave")]
    impl Filters {
        /// Filters that allow everything, to show that it is the others that forbid.
        pub(crate) fn none() -> Self {
            let arch = TargetArch::try_from(std::env::consts::ARCH).unwrap();
            let filter = SeccompFilter::new(
                BTreeMap::new(),
                SeccompAction::Allow,
                SeccompAction::KillProcess,
                arch,
            );
            let program: BpfProgram = filter.unwrap().try_into().unwrap();
            Self { processor: program.clone(), event_loop: program }
        }
    }

    /// What a guest would do that has taken over a thread. The calls fail by themselves, if they are allowed.
    #[allow(unsafe_code)]
    fn misbehave(call: &str) {
        let null = std::ptr::null::<libc::c_char>();
        // SAFETY: no call has an argument that the kernel could write to or read sense from.
        unsafe {
            match call {
                "open" => libc::syscall(libc::SYS_openat, -1, null, 0),
                "exec" => libc::syscall(libc::SYS_execve, null, null, null),
                "socket" => libc::syscall(libc::SYS_socket, -1, 0, 0),
                "connect" => libc::syscall(libc::SYS_connect, -1, null, 0),
                "ptrace" => libc::syscall(libc::SYS_ptrace, -1, 0, null, null),
                "kill" => libc::syscall(libc::SYS_kill, 0, 0),
                "tgkill" => libc::syscall(libc::SYS_tgkill, 1, 1, 0),
                "clone" => libc::syscall(libc::SYS_clone, -1, null, null, null, 0),
                "ioctl" => libc::syscall(libc::SYS_ioctl, -1, 0xae01, 0),
                "executable" => libc::syscall(libc::SYS_mmap, null, 0, libc::PROT_EXEC, 0, -1, 0),
                "protect" => libc::syscall(libc::SYS_mprotect, null, 0, libc::PROT_EXEC),
                "unshare" => libc::syscall(libc::SYS_unshare, 0),
                _ => panic!("{call}"),
            };
        }
    }

    const CALLS: &[&str] = &[
        "open",
        "exec",
        "socket",
        "connect",
        "ptrace",
        "kill",
        "tgkill",
        "clone",
        "ioctl",
        "executable",
        "protect",
        "unshare",
    ];

    /// The test program runs itself as the thread that misbehaves.
    #[test]
    fn a_thread_that_is_taken_over_gets_nothing() {
        if let (Ok(thread), Ok(call)) = (std::env::var("VMM_THREAD"), std::env::var("VMM_CALL")) {
            let filters = Filters::new().unwrap();
            install(if thread == "processor" { &filters.processor } else { &filters.event_loop })
                .unwrap();
            if call != "nothing" {
                misbehave(&call);
            }
            std::process::exit(7);
        }
        for thread in ["processor", "event loop"] {
            for call in CALLS {
                let status = child(thread, call);
                assert_eq!(status.signal(), Some(libc::SIGSYS), "{thread}: {call}: {status}");
            }
            assert_eq!(child(thread, "nothing").code(), Some(7));
        }
    }

    fn child(thread: &str, call: &str) -> std::process::ExitStatus {
        Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "filter::tests::a_thread_that_is_taken_over_gets_nothing",
                "--test-threads=1",
            ])
            .env("VMM_THREAD", thread)
            .env("VMM_CALL", call)
            .output()
            .unwrap()
            .status
    }
}
