//! A virtual machine monitor for one container or pod.
//!
//! It is given descriptors and a description, and knows nothing of OCI. A kernel is booted by PVH (an
//! uncompressed ELF file) or by Linux' 64-bit protocol (a bzImage), with devices on virtio-mmio that ACPI
//! describes, so that a distribution's kernel finds them as well as a small one of our own.
//!
//! What the guest writes is hostile: registers, rings, descriptors and packets. Lengths are checked in the
//! device that reads them; a guest that breaks the rules of a device loses that device until it resets it.
//!
//! Threads: one for each processor, which runs the guest and serves its registers, and the one that called
//! [`Machine::run`], which serves queues and host descriptors.
//!
//! Sources: the KVM API (`Documentation/virt/kvm/api.rst`), Virtual I/O Device 1.2, ACPI 6.5, the PVH and
//! Linux/x86 boot protocols (`Documentation/arch/x86/boot.rst`).

mod acpi;
mod boot;
mod bus;
mod config;
mod console;
mod cpuid;
mod description;
mod devices;
mod ending;
mod error;
mod filter;
mod layout;
mod machine;
mod memory;
#[cfg(feature = "misbehave")]
mod misbehave;
mod ports;
mod vcpu;
mod virtio;

#[cfg(any(test, fuzzing))]
pub mod fuzzing;
#[cfg(any(test, fuzzing))]
mod testing;
#[cfg(test)]
mod tests;

pub use config::{Config, Disk, Port, Share, Vsock};
pub use ending::{Ending, end_when_told};
pub use error::{Error, Result};
pub use machine::Machine;
