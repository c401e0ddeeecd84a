//! Whole machines with small guests, on the real /dev/kvm; and devices, with drivers of every kind.

mod boot;
mod disks;
mod endings;
mod interrupts;
mod shares;
mod sockets;
mod transport;
