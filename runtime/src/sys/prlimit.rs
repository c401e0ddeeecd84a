//! [prlimit(2)](https://man7.org/linux/man-pages/man2/prlimit.2.html) on another process.

use nix::unistd::Pid;

use super::{Result, check};

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
