//! Whole machines with small guests, on the real /dev/kvm; and devices, with drivers of every kind.

mod balloon;
mod boot;
mod disks;
mod endings;
mod interrupts;
mod memory;
#[cfg(feature = "misbehave")]
mod misbehave;
mod ports;
mod shares;
mod sockets;
mod transport;
