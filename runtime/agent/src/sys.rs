//! The system call that `nix` lacks, as a safe function. The only `unsafe` of this crate.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

use runtime::Failure;

/// At most this many random bytes at once; the kernel's pool holds less.
const LONGEST: usize = 512;

/// `struct rand_pool_info` of <linux/random.h>.
#[repr(C)]
struct Entropy {
    /// How much is to be credited, in bits.
    bits: i32,
    /// Length of the bytes that count.
    length: i32,
    bytes: [u8; LONGEST],
}

nix::ioctl_write_ptr_bad!(add, nix::request_code_write!(b'R', 0x03, 2 * size_of::<i32>()), Entropy);

/// Mixes random bytes into the kernel's pool and credits them; what is beyond 512 of them is left out.
/// `RNDADDENTROPY`, random(4).
///
/// # Errors
/// Those of the ioctl.
pub fn add_entropy(random: BorrowedFd<'_>, bytes: &[u8]) -> Result<(), Failure> {
    let bytes = &bytes[..bytes.len().min(LONGEST)];
    let length = i32::try_from(bytes.len()).expect("LONGEST is less");
    let mut entropy = Entropy { bits: length * 8, length, bytes: [0; LONGEST] };
    entropy.bytes[..bytes.len()].copy_from_slice(bytes);
    // SAFETY: the kernel reads the two numbers and `length` bytes behind them, all within the structure.
    let added = unsafe { add(random.as_raw_fd(), &raw const entropy) };
    runtime::Call::call(added, "ioctl(RNDADDENTROPY)").map(drop)
}
