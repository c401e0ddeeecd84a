//! cgroup
pub(crate) mod layout;
pub mod stats;
