//! Where the host's cgroup hierarchies are mounted: v1, v2 or hybrid.

use std::path::PathBuf;

/// A cgroup v1 hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    /// The controllers bound to it (`cpu`, `cpuacct`, ...); empty for a named hierarchy.
    pub controllers: Vec<String>,
    /// `systemd` for `name=systemd`.
    pub name: Option<String>,
    /// Where the host has it mounted, such as `/sys/fs/cgroup/cpu,cpuacct`.
    pub mount_point: PathBuf,
    /// The creator's own cgroup in it, relative to the mount point, without a leading slash.
    pub own: PathBuf,
}

/// The cgroup2 hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unified {
    /// `/sys/fs/cgroup` on v2, `/sys/fs/cgroup/unified` on hybrid.
    pub mount_point: PathBuf,
    /// The creator's own cgroup in it, relative to the mount point, without a leading slash.
    pub own: PathBuf,
}

/// The host's cgroup layout. Pure v2: `v1` is empty. Pure v1: `unified` is `None`. Hybrid: both.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Layout {
    /// v1 hierarchies in the order of /proc/self/mountinfo.
    pub v1: Vec<Hierarchy>,
    /// The cgroup2 mount.
    pub unified: Option<Unified>,
}
