//! [Extended attributes](https://man7.org/linux/man-pages/man7/xattr.7.html).

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;

use super::{Result, check};
use crate::error::Failure;

fn string(call: &'static str, path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Failure { call, errno: Errno::EINVAL })
}

/// The length of an attribute's value.
pub(crate) fn length(path: &Path, name: &CStr) -> Result<usize> {
    const CALL: &str = "lgetxattr";
    let path = string(CALL, path)?;
    // SAFETY: both strings end in NUL; with a length of zero nothing is written.
    let length = unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), std::ptr::null_mut(), 0) };
    let length = check(CALL, length as libc::c_long)?;
    Ok(usize::try_from(length).unwrap_or(0))
}
