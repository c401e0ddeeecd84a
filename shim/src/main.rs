//! `containerd-shim-bulkhead-v2`: containerd's runtime shim over the `runtime` library.
// The task service, which is merged later, uses the rest.
#![allow(dead_code)]

mod args;
mod bootstrap;
mod code;
mod config;
mod events;
mod forward;
mod group;
mod input;
mod log;
mod metrics;
mod options;
mod socket;
#[cfg(test)]
mod testing;

fn main() {}
