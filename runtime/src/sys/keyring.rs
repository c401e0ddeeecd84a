//! Keyrings: [keyctl(2)](https://man7.org/linux/man-pages/man2/keyctl.2.html).

use std::ffi::CStr;

use super::{Result, check};

/// A key's serial number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key(i32);

/// Makes the named keyring the session keyring, creating it if there is none of this name.
pub(crate) fn join_session_keyring(name: &CStr) -> Result<Key> {
    // SAFETY: the argument is a NUL-terminated string that lives through the call.
    let value = unsafe {
        libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr())
    };
    // 0 when it is the session keyring already, which then has its special number.
    let serial = match check("keyctl", value)? {
        0 => libc::KEY_SPEC_SESSION_KEYRING.into(),
        serial => serial,
    };
    Ok(Key(i32::try_from(serial).expect("the kernel's serial numbers have 32 bits")))
}

/// The key's description, `type;uid;gid;permissions;name`, cut off at the buffer's length.
pub(crate) fn describe(key: Key) -> Result<Vec<u8>> {
    let mut buffer = vec![0_u8; 4096];
    // SAFETY: the kernel writes at most the length given, which is the buffer's.
    let value = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            libc::KEYCTL_DESCRIBE,
            key.0,
            buffer.as_mut_ptr(),
            buffer.len(),
        )
    };
    let length = check("keyctl", value)?;
    // The length counts the NUL, and is the needed one when the buffer is too short.
    let length = usize::try_from(length).unwrap_or(0).min(buffer.len());
    buffer.truncate(length.saturating_sub(1));
    Ok(buffer)
}

/// Replaces the key's permission mask.
pub(crate) fn set_permissions(key: Key, permissions: u32) -> Result<()> {
    // SAFETY: the arguments are plain numbers.
    let value =
        unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_SETPERM, key.0, permissions) };
    check("keyctl", value).map(drop)
}
