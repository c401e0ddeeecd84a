//! What the agent finds in the initramfs.
//!
//! ```text
//! /init                the agent
//! /modules/order       the kernel modules to load, one file name a line, each after those that it needs; empty or
//!                      missing when the kernel has everything built in
//! /modules/NAME.ko     the modules, unpacked: for finit_module(2) without flags
//! ```
//!
//! Every file is root's. Directories for mounts are made by the agent.

/// The first program: the agent.
pub const INIT: &str = "init";
/// The directory of the modules.
pub const MODULES: &str = "modules";
/// The file in it that lists them.
pub const ORDER: &str = "order";
