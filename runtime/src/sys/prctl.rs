//! Capability calls: [prctl(2)](https://man7.org/linux/man-pages/man2/prctl.2.html),
//! [capset(2)](https://man7.org/linux/man-pages/man2/capset.2.html).

use std::ffi::c_ulong;

use super::{Result, check};

/// `_LINUX_CAPABILITY_VERSION_3`: 64 bits in two structures.
const VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Effective, permitted and inheritable set of the calling thread.
pub(crate) fn capget() -> Result<(u64, u64, u64)> {
    let mut header = Header { version: VERSION, pid: 0 };
    let mut data = [Data::default(); 2];
    // SAFETY: the kernel reads one header and, at version 3, writes two data structures; both are
    // live, writable and laid out as in <linux/capability.h>.
    let value = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    check("capget", value)?;
    let join = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    Ok((
        join(data[0].effective, data[1].effective),
        join(data[0].permitted, data[1].permitted),
        join(data[0].inheritable, data[1].inheritable),
    ))
}

/// Replaces effective, permitted and inheritable set of the calling thread.
pub(crate) fn capset(effective: u64, permitted: u64, inheritable: u64) -> Result<()> {
    let mut header = Header { version: VERSION, pid: 0 };
    let half = |shift: u32| Data {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: the kernel reads one header and, at version 3, two data structures; both are live and
    // laid out as in <linux/capability.h>.
    let value = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) };
    check("capset", value).map(drop)
}

/// Drops one capability from the bounding set.
pub(crate) fn bounding_drop(capability: u32) -> Result<()> {
    prctl(libc::PR_CAPBSET_DROP, c_ulong::from(capability), 0).map(drop)
}

/// Whether the bounding set has the capability.
pub(crate) fn bounding_read(capability: u32) -> Result<bool> {
    prctl(libc::PR_CAPBSET_READ, c_ulong::from(capability), 0).map(|value| value == 1)
}

/// Empties the ambient set.
pub(crate) fn ambient_clear() -> Result<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as c_ulong, 0).map(drop)
}

/// Adds one capability to the ambient set.
pub(crate) fn ambient_raise(capability: u32) -> Result<()> {
    let raise = libc::PR_CAP_AMBIENT_RAISE as c_ulong;
    prctl(libc::PR_CAP_AMBIENT, raise, c_ulong::from(capability)).map(drop)
}

fn prctl(option: i32, second: c_ulong, third: c_ulong) -> Result<i64> {
    let unused: c_ulong = 0;
    // SAFETY: the options of this module take plain numbers; no argument is an address.
    let value = unsafe { libc::prctl(option, second, third, unused, unused) };
    check("prctl", value.into())
}
