//! Scheduling attributes, I/O priority and NUMA memory policy.

use std::mem::size_of;

use nix::unistd::Pid;

use super::{Result, check};

/// `struct sched_attr`, all of version 1. sched_setattr(2), Linux 3.14; the clamps since 5.3.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// Filled in by [`set_attributes`].
    pub(crate) size: u32,
    pub(crate) policy: u32,
    pub(crate) flags: u64,
    pub(crate) nice: i32,
    pub(crate) priority: u32,
    pub(crate) runtime: u64,
    pub(crate) deadline: u64,
    pub(crate) period: u64,
    pub(crate) clamp_min: u32,
    pub(crate) clamp_max: u32,
}

/// Sets the scheduling policy and attributes of a process.
pub(crate) fn set_attributes(pid: Pid, attributes: &Attributes) -> Result<()> {
    let attributes = Attributes { size: size_of::<Attributes>() as u32, ..*attributes };
    // SAFETY: the kernel reads the structure, whose size is in it.
    let value = unsafe {
        libc::syscall(libc::SYS_sched_setattr, pid.as_raw(), &raw const attributes, 0u32)
    };
    check("sched_setattr", value).map(drop)
}

/// Sets the I/O priority of a process, class and level. ioprio_set(2).
pub(crate) fn set_io_priority(pid: Pid, class: u16, level: u16) -> Result<()> {
    /// Of `linux/ioprio.h`.
    const IOPRIO_WHO_PROCESS: i32 = 1;
    const IOPRIO_CLASS_SHIFT: u32 = 13;
    let priority = i32::from(level) | i32::from(class) << IOPRIO_CLASS_SHIFT;
    // SAFETY: no memory is passed.
    let value =
        unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, pid.as_raw(), priority) };
    check("ioprio_set", value).map(drop)
}

/// Sets the caller's memory policy on the nodes of the mask. set_mempolicy(2).
pub(crate) fn set_memory_policy(mode: i32, nodes: &[u64]) -> Result<()> {
    // The kernel reads one bit less than it is told of.
    let bits = if nodes.is_empty() { 0 } else { nodes.len() * 64 + 1 };
    let mask = if nodes.is_empty() { std::ptr::null() } else { nodes.as_ptr() };
    // SAFETY: the kernel reads at most `bits - 1` bits, all of which are in `nodes`.
    let value = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits) };
    check("set_mempolicy", value).map(drop)
}

/// Gives the caller's process group a core scheduling cookie of its own. prctl(2), Linux 5.14.
pub(crate) fn create_core_cookie() -> Result<()> {
    /// `PIDTYPE_PGID` of the kernel's `enum pid_type`.
    const PROCESS_GROUP: libc::c_ulong = 2;
    let (itself, unused): (libc::c_ulong, libc::c_ulong) = (0, 0);
    // SAFETY: PR_SCHED_CORE_CREATE takes numbers only; the address argument is null.
    let value = unsafe {
        libc::prctl(libc::PR_SCHED_CORE, libc::PR_SCHED_CORE_CREATE, itself, PROCESS_GROUP, unused)
    };
    check("prctl(PR_SCHED_CORE)", value.into()).map(drop)
}

/// The core scheduling cookie of a thread (0: the caller), 0 for none. ENODEV: no core has two threads; EINVAL: the
/// kernel was built without it. prctl(2), Linux 5.14.
pub(crate) fn core_cookie(pid: Pid) -> Result<u64> {
    /// `PIDTYPE_PID` of the kernel's `enum pid_type`.
    const THREAD: libc::c_ulong = 0;
    let mut cookie = 0u64;
    let thread = libc::c_ulong::try_from(pid.as_raw()).unwrap_or_default();
    // SAFETY: the kernel writes eight bytes to the cookie, which outlives the call.
    let value = unsafe {
        libc::prctl(libc::PR_SCHED_CORE, libc::PR_SCHED_CORE_GET, thread, THREAD, &raw mut cookie)
    };
    check("prctl(PR_SCHED_CORE)", value.into()).map(|_| cookie)
}
