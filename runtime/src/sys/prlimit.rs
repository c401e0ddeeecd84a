//! [prlimit(2)](https://man7.org/linux/man-pages/man2/prlimit.2.html) on another process.

use nix::unistd::Pid;

use super::{Result, check};

/// Both limits, soft and hard, of `resource`, a `RLIMIT_*` number, of the process; 0 is the caller.
pub(crate) fn get(pid: Pid, resource: i32) -> Result<(u64, u64)> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    let new: *const libc::rlimit64 = std::ptr::null();
    // SAFETY: the kernel writes one `rlimit64`, which lives through the call, and reads nothing when
    // the place of the new limits is null.
    let value =
        unsafe { libc::syscall(libc::SYS_prlimit64, pid.as_raw(), resource, new, &raw mut limit) };
    check("prlimit", value).map(|_| (limit.rlim_cur, limit.rlim_max))
}

/// Sets both limits of `resource`, a `RLIMIT_*` number, of the process; 0 is the caller.
pub(crate) fn set(pid: Pid, resource: i32, soft: u64, hard: u64) -> Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    let old: *mut libc::rlimit64 = std::ptr::null_mut();
    // SAFETY: the kernel reads one `rlimit64`, which lives through the call, and writes nothing when
    // the place for the old limits is null.
    let value = unsafe {
        libc::syscall(libc::SYS_prlimit64, pid.as_raw(), resource, &raw const limit, old)
    };
    check("prlimit", value).map(drop)
}
