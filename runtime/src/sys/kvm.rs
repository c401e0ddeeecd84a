//! [KVM](https://docs.kernel.org/virt/kvm/api.html): what there is, without making a machine.

use std::os::fd::{AsRawFd, BorrowedFd};

use super::{Result, check};

const KVM_GET_API_VERSION: libc::Ioctl = 0xae00;
const KVM_CHECK_EXTENSION: libc::Ioctl = 0xae03;

/// The version of the interface; 12 since 2007.
pub(crate) fn version(kvm: BorrowedFd<'_>) -> Result<i64> {
    // SAFETY: this request takes no argument.
    let version = unsafe { libc::ioctl(kvm.as_raw_fd(), KVM_GET_API_VERSION, 0) };
    check("ioctl(KVM_GET_API_VERSION)", version.into())
}

/// What the kernel says of an extension; 0 when there is none.
pub(crate) fn extension(kvm: BorrowedFd<'_>, number: i32) -> Result<i64> {
    // SAFETY: this request takes a number.
    let value = unsafe { libc::ioctl(kvm.as_raw_fd(), KVM_CHECK_EXTENSION, number) };
    check("ioctl(KVM_CHECK_EXTENSION)", value.into())
}
