//! [openat2(2)](https://man7.org/linux/man-pages/man2/openat2.2.html).

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

use super::{Result, check};

/// Opens `path` below `dir` under the `RESOLVE_*` restrictions given. `O_CLOEXEC` is added.
///
/// EAGAIN means that a rename raced with the look-up; the caller decides whether to try again.
pub(crate) fn openat2(
    dir: BorrowedFd<'_>,
    path: &CStr,
    flags: i32,
    mode: u32,
    resolve: u64,
) -> Result<OwnedFd> {
    // SAFETY: `open_how` is plain integers, for which zeroes are valid.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = u64::from((flags | libc::O_CLOEXEC) as u32);
    how.mode = u64::from(mode);
    how.resolve = resolve;
    loop {
        // SAFETY: the string is NUL-terminated, `how` has the size given; both live through the call.
        let value = unsafe {
            libc::syscall(
                libc::SYS_openat2,
                dir.as_raw_fd(),
                path.as_ptr(),
                &raw const how,
                size_of::<libc::open_how>(),
            )
        };
        match check("openat2", value) {
            Err(failure) if failure.errno == Errno::EINTR => {}
            Err(failure) => return Err(failure),
            Ok(fd) => {
                let fd = i32::try_from(fd).expect("descriptors have 32 bits");
                // SAFETY: the kernel just made this descriptor and nothing else owns it.
                return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
    }
}
