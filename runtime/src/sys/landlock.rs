//! [landlock(7)](https://man7.org/linux/man-pages/man7/landlock.7.html): rules on the file system that a
//! process lays upon itself. Linux 5.13.

use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::{Result, check};

/// Of `linux/landlock.h`.
const LANDLOCK_CREATE_RULESET_VERSION: u32 = 1;
const LANDLOCK_RULE_PATH_BENEATH: u32 = 1;

/// The part of `struct landlock_ruleset_attr` that every version has.
#[repr(C)]
struct RulesetAttr {
    handled_access_fs: u64,
}

#[repr(C, packed)]
struct PathBeneathAttr {
    allowed_access: u64,
    parent_fd: i32,
}

/// The kernel's version of the interface. Fails with EOPNOTSUPP where Landlock is off and with ENOSYS
/// where there is none.
pub(crate) fn version() -> Result<u32> {
    let attr: *const RulesetAttr = std::ptr::null();
    // SAFETY: with this flag the kernel reads no attributes.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            attr,
            0usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    };
    check("landlock_create_ruleset", version).map(|version| version as u32)
}

/// A rule set that denies the accesses in the mask but where a rule allows them.
pub(crate) fn create_ruleset(handled: u64) -> Result<OwnedFd> {
    let attr = RulesetAttr { handled_access_fs: handled };
    // SAFETY: the kernel reads the structure, whose size is passed.
    let value = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const attr,
            size_of::<RulesetAttr>(),
            0u32,
        )
    };
    let fd = check("landlock_create_ruleset", value)?;
    // SAFETY: the kernel returned a new descriptor, which is close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Allows accesses to a file, or to everything beneath a directory.
pub(crate) fn allow_beneath(
    ruleset: BorrowedFd<'_>,
    path: BorrowedFd<'_>,
    access: u64,
) -> Result<()> {
    let attr = PathBeneathAttr { allowed_access: access, parent_fd: path.as_raw_fd() };
    // SAFETY: the kernel reads the structure of this rule's type.
    let value = unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset.as_raw_fd(),
            LANDLOCK_RULE_PATH_BENEATH,
            &raw const attr,
            0u32,
        )
    };
    check("landlock_add_rule", value).map(drop)
}

/// Lays the rules upon the calling thread, for good. Needs `no_new_privs` or CAP_SYS_ADMIN.
pub(crate) fn restrict_self(ruleset: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: no memory is passed.
    let value =
        unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0u32) };
    check("landlock_restrict_self", value).map(drop)
}
