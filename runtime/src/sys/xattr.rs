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

/// Sets an attribute of the file itself, were it a link.
pub(crate) fn set(path: &Path, name: &CStr, value: &[u8]) -> Result<()> {
    const CALL: &str = "lsetxattr";
    let path = string(CALL, path)?;
    // SAFETY: both strings end in NUL, the kernel reads as many bytes of the value as it has.
    let result = unsafe {
        libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
    };
    check(CALL, result.into()).map(drop)
}

/// The value of an attribute, at most `longest` bytes. ENODATA: there is none. ERANGE: it is longer.
pub(crate) fn get(path: &Path, name: &CStr, longest: usize) -> Result<Vec<u8>> {
    const CALL: &str = "lgetxattr";
    let path = string(CALL, path)?;
    let mut value = vec![0_u8; longest];
    // SAFETY: both strings end in NUL, the kernel writes no more than the buffer's length.
    let length = unsafe {
        libc::lgetxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len())
    };
    let length = check(CALL, length as libc::c_long)?;
    value.truncate(usize::try_from(length).unwrap_or(0));
    Ok(value)
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
