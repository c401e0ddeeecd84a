//! What the server may do from the moment that it reads a guest's message.
//!
//! It can reach what is below its root directory and no other process or network. With `CAP_DAC_READ_SEARCH` a server
//! that a guest has taken over could also open any file of a file system of which a part is shared, by its handle:
//! whoever starts it chooses whether it has that. A call that is not on the list kills it, and with it ends the machine.

use std::collections::BTreeMap;
use std::os::fd::RawFd;

use nix::errno::Errno;
use nix::sys::prctl::set_no_new_privs;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

use crate::error::{Error, Result};
use crate::sys;

/// What of its capabilities the server keeps, by their numbers, and what each is for.
const KEPT: &[(u32, &str)] = &[
    (0, "CAP_CHOWN: chown, as the guest's kernel allows it to its own"),
    (1, "CAP_DAC_OVERRIDE: the guest's kernel has checked permissions"),
    (2, "CAP_DAC_READ_SEARCH: open_by_handle_at; without it files cost a descriptor each"),
    (3, "CAP_FOWNER: chmod, times and attributes of others' files"),
    (4, "CAP_FSETID: set-group-ID bits of files of other groups"),
    (6, "CAP_SETGID: the group of a new file"),
    (7, "CAP_SETUID: the owner of a new file"),
    (31, "CAP_SETFCAP: security.capability"),
];

/// Closes all descriptors but the standard streams and `number`.
///
/// # Errors
///
/// close_range(2) fails, as on kernels before 5.9.
pub fn close_others(number: RawFd) -> Result<()> {
    let number = number.unsigned_abs();
    let closed = if number > 3 { sys::close_range(3, number - 1) } else { Ok(()) };
    closed
        .and_then(|()| sys::close_range(number.saturating_add(1), u32::MAX))
        .map_err(|errno| Error::call("close descriptors", "close_range", errno))
}

/// The most descriptors that are of use; each takes kernel memory.
const DESCRIPTORS: u64 = 1 << 20;

/// Raises the limit of open descriptors as far as it goes; answers how many there may be.
///
/// # Errors
///
/// setrlimit(2) fails.
pub fn raise_descriptor_limit() -> Result<usize> {
    let failed =
        |call| move |errno: Errno| Error::call("raise the limit of open descriptors", call, errno);
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(failed("getrlimit"))?;
    let limit = hard.min(DESCRIPTORS);
    setrlimit(Resource::RLIMIT_NOFILE, limit, hard).map_err(failed("setrlimit"))?;
    Ok(limit as usize)
}

/// Confines the calling thread, for good: the least capabilities, no others by any program, few system calls. Answers
/// the capabilities.
pub(crate) fn confine() -> Result<sys::Capabilities> {
    // An ordinary user's namespace has no way to drop groups, and they are the user's own.
    match sys::clear_groups() {
        Ok(()) | Err(Errno::EPERM) => {}
        Err(errno) => return Err(Error::call("drop groups", "setgroups", errno)),
    }
    let failed = |call| move |errno| Error::call("reduce capabilities", call, errno);
    let before = sys::capget().map_err(failed("capget"))?;
    let kept = KEPT.iter().fold(0, |set, (number, _)| set | 1_u64 << number);
    let permitted = before.permitted & kept;
    // Without any there is nothing to keep when another user's file is made, which then fails.
    if permitted != 0 {
        sys::keep_capabilities_of_other_users().map_err(failed("prctl"))?;
    }
    let reduced = sys::Capabilities { effective: permitted, permitted };
    sys::capset(reduced).map_err(failed("capset"))?;
    set_no_new_privs().map_err(|errno| Error::call("set no_new_privs", "prctl", errno))?;
    apply_filter(&filter()?).map_err(|error| Error::new("install system call filter", error))?;
    Ok(reduced)
}

/// The calls of requests, and those of the language's runtime.
const CALLS: &[libc::c_long] = &[
    libc::SYS_brk,
    libc::SYS_capset,
    libc::SYS_close,
    libc::SYS_copy_file_range,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fallocate,
    libc::SYS_fchmodat,
    libc::SYS_fchownat,
    libc::SYS_fdatasync,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_futex,
    libc::SYS_getdents64,
    libc::SYS_getrandom,
    libc::SYS_getxattr,
    libc::SYS_linkat,
    libc::SYS_listxattr,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_openat,
    libc::SYS_pread64,
    libc::SYS_pwritev2,
    // The C library asks the kernel's policy on memory before it gives some of a thread's back.
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_recvfrom,
    libc::SYS_removexattr,
    libc::SYS_renameat2,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sendto,
    libc::SYS_setresgid,
    libc::SYS_setresuid,
    libc::SYS_setxattr,
    libc::SYS_sigaltstack,
    libc::SYS_statx,
    libc::SYS_symlinkat,
    libc::SYS_syncfs,
    libc::SYS_umask,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    libc::SYS_write,
];

fn filter() -> Result<BpfProgram> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        CALLS.iter().map(|&call| (call, Vec::new())).collect();
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        let executable = SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64);
        rules.insert(call, vec![rule(2, executable, 0)?]);
    }
    // The standard library asks before it closes, when it is built to check itself.
    rules.insert(libc::SYS_fcntl, vec![rule(1, SeccompCmpOp::Eq, libc::F_GETFD as u64)?]);
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(error)?;
    SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, arch)
        .and_then(TryInto::try_into)
        .map_err(error)
}

fn rule(argument: u8, compare: SeccompCmpOp, value: u64) -> Result<SeccompRule> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, compare, value)
        .and_then(|condition| SeccompRule::new(vec![condition]))
        .map_err(error)
}

fn error(error: impl std::fmt::Display) -> Error {
    Error::new("compile system call filter", error)
}
