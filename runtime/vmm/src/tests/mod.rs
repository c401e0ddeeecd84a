//! Whole machines with small guests, on the real /dev/kvm; and devices, with drivers of every kind.

mod balloon;
mod boot;
mod disks;
mod endings;
mod interrupts;
mod ports;
mod sockets;
mod transport;
