//! What callers say about a checkpoint and a restore.

use std::os::fd::RawFd;
use std::path::PathBuf;

use crate::options::CreateOptions;

/// What CRIU does about cgroups (its `--manage-cgroups`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupMode {
    /// Sub-cgroups are made, and get their properties when they did not exist.
    #[default]
    Soft,
    /// They get their properties in any case.
    Full,
    /// They must not exist.
    Strict,
    /// Nothing: every process is in the container's own cgroup.
    Ignore,
}

/// How CRIU keeps packets away while a container with TCP connections is saved (its `--network-lock`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkLock {
    /// By `iptables-restore`.
    Iptables,
    /// By nftables.
    Nftables,
    /// Not at all.
    Skip,
}

/// What checkpoint and restore have in common. Paths are absolute.
#[derive(Debug)]
pub struct CriuOptions {
    /// The program.
    pub program: PathBuf,
    /// Directory of the images.
    pub images: PathBuf,
    /// Directory of logs and work files; that of the images when absent.
    pub work: Option<PathBuf>,
    /// A file with options for CRIU, unless the annotation `org.criu.config` names one.
    pub configuration: Option<PathBuf>,
    /// Save and restore open TCP connections.
    pub tcp_established: bool,
    /// Close TCP connections.
    pub tcp_close: bool,
    /// Allow Unix sockets whose other end is outside.
    pub ext_unix_sk: bool,
    /// Allow processes that belong to a terminal's session outside.
    pub shell_job: bool,
    /// Save and restore file locks.
    pub file_locks: bool,
    /// Leave memory out that an earlier image has.
    pub auto_dedup: bool,
    /// Bring memory when it is used.
    pub lazy_pages: bool,
    /// Keep files that were deleted while open by a link beside them.
    pub link_remap: bool,
    /// See [`CgroupMode`].
    pub cgroups: CgroupMode,
    /// Restore the network namespace empty, for somebody else to fill.
    pub empty_network: bool,
    /// See [`NetworkLock`].
    pub network_lock: Option<NetworkLock>,
}

impl CriuOptions {
    /// The defaults.
    pub fn new(program: PathBuf, images: PathBuf) -> Self {
        Self {
            program,
            images,
            work: None,
            configuration: None,
            tcp_established: false,
            tcp_close: false,
            ext_unix_sk: false,
            shell_job: false,
            file_locks: false,
            auto_dedup: false,
            lazy_pages: false,
            link_remap: false,
            cgroups: CgroupMode::default(),
            empty_network: false,
            network_lock: None,
        }
    }
}

/// How to save a container.
#[derive(Debug)]
pub struct CheckpointOptions {
    /// See [`CriuOptions`].
    pub criu: CriuOptions,
    /// The container goes on afterwards.
    pub leave_running: bool,
    /// Save memory alone, for a later checkpoint whose `parent_images` this is. The container goes on.
    pub pre_dump: bool,
    /// Images of an earlier pre-dump, relative to those of this one.
    pub parent_images: Option<PathBuf>,
    /// Leave out TCP connections that are being made.
    pub tcp_skip_in_flight: bool,
    /// An open descriptor of the caller's that is written to, a byte 0, when memory can be asked for ([`CriuOptions::lazy_pages`]).
    pub status: Option<RawFd>,
    /// Address and port of a page server that gets the memory, or where it can be asked for.
    pub page_server: Option<(String, u16)>,
}

/// How to restore a container.
#[derive(Debug)]
pub struct RestoreOptions {
    /// See [`CriuOptions`].
    pub criu: CriuOptions,
    /// The new container. Of its configuration those parts count that are outside of the container: names,
    /// hooks, cgroup and limits, joined namespaces, sources of bind mounts. All else is in the images.
    pub create: CreateOptions,
    /// Security profile of the processes, `TYPE:NAME`.
    pub lsm_profile: Option<String>,
    /// SELinux context of mounts.
    pub lsm_mount_context: Option<String>,
}
