//! Whole machines with small guests, on the real /dev/kvm.

mod boot;
mod endings;
mod interrupts;
