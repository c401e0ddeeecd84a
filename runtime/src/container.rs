//! A container and its verbs: the crate's public surface.

use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxResources, Process as ProcessSpec};

use crate::cgroup::stats::Stats;
use crate::error::{Error, Result};
use crate::spec::Config;

/// Whether missing cgroup permissions are tolerated (`--rootless`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rootless {
    /// Tolerated when the creator is not privileged over the cgroup hierarchy.
    #[default]
    Auto,
    /// Tolerated.
    Yes,
    /// An error.
    No,
}

/// When the container's program is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// By a later [`Container::start`], from any process.
    Later,
    /// By [`Container::start`] in this process: no start socket is made.
    Here,
}

/// How to create a container. Paths are absolute.
#[derive(Debug)]
pub struct CreateOptions {
    /// The parsed configuration.
    pub config: Config,
    /// The bundle directory.
    pub bundle: PathBuf,
    /// Receives the terminal's master end; required when the configuration asks for a terminal and
    /// `start` is [`Start::Later`].
    pub console_socket: Option<PathBuf>,
    /// Written before `create` returns: decimal, no newline, by rename.
    pub pid_file: Option<PathBuf>,
    /// Receives a pidfd of the container's process.
    pub pidfd_socket: Option<PathBuf>,
    /// Enter the root file system by `MS_MOVE` and `chroot` instead of `pivot_root(2)`.
    pub no_pivot: bool,
    /// Keep the creator's session keyring.
    pub no_new_keyring: bool,
    /// Descriptors 3.. to hand to the container after those of socket activation.
    pub preserve_fds: u32,
    /// Descriptors of socket activation (`LISTEN_FDS`), from 3.
    pub listen_fds: u32,
    /// `LISTEN_FDNAMES` for the container.
    pub listen_names: Option<String>,
    /// `NOTIFY_SOCKET` of the creator, to be proxied into the container.
    pub notify_socket: Option<PathBuf>,
    /// Put the container's cgroup below systemd's control.
    pub systemd_cgroup: bool,
    /// See [`Rootless`].
    pub rootless: Rootless,
    /// See [`Start`].
    pub start: Start,
}

/// How to run a further process in a container. Paths are absolute.
#[derive(Debug)]
pub struct ExecOptions {
    /// The process, already merged with the command line's flags.
    pub process: ProcessSpec,
    /// As in [`CreateOptions`].
    pub console_socket: Option<PathBuf>,
    /// As in [`CreateOptions`].
    pub pid_file: Option<PathBuf>,
    /// As in [`CreateOptions`].
    pub pidfd_socket: Option<PathBuf>,
    /// As in [`CreateOptions`].
    pub preserve_fds: u32,
    /// Run although the container is paused (it will hang until resumed).
    pub ignore_paused: bool,
    /// Sub-cgroups below the container's: `(controllers, path)`; empty controllers mean all.
    pub cgroups: Vec<(Vec<String>, PathBuf)>,
    /// Whether the caller relays the terminal itself instead of a console socket.
    pub foreground: bool,
}

/// A process of a container, child of the caller.
#[derive(Debug)]
pub struct Process {
    /// Its pid in the caller's pid namespace.
    pub pid: i32,
    /// Becomes readable when it ends.
    pub pidfd: OwnedFd,
    /// The terminal's master end, when there is a terminal and no console socket.
    pub terminal: Option<OwnedFd>,
}

/// Status words of the runtime specification plus `paused`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Created, program not yet executed.
    Created,
    /// The program runs.
    Running,
    /// Its cgroup is frozen.
    Paused,
    /// The process is gone (a zombie counts as gone).
    Stopped,
}

/// What `state` and `list` print.
#[derive(Debug, serde::Serialize)]
pub struct Report {
    /// The configuration's `ociVersion`.
    #[serde(rename = "ociVersion")]
    pub oci_version: String,
    /// The container's id.
    pub id: String,
    /// 0 when stopped.
    pub pid: i32,
    /// See [`Status`].
    pub status: Status,
    /// The bundle directory.
    pub bundle: PathBuf,
    /// The root file system's absolute path.
    pub rootfs: PathBuf,
    /// RFC 3339 with nanoseconds, UTC.
    pub created: String,
    /// The configuration's annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Name of the user that owns the state directory, empty when unknown.
    pub owner: String,
}

/// A directory entry of the state root: a container, or why it could not be read.
#[derive(Debug)]
pub struct Listing {
    /// The directory's name.
    pub id: String,
    /// Its report.
    pub report: Result<Report>,
}

/// A container that exists in a state root.
#[derive(Debug)]
pub struct Container {
    #[allow(dead_code)]
    root: PathBuf,
}

fn later<T>() -> Result<T> {
    Err(Error::unsupported("call", "", "is being written"))
}

impl Container {
    /// Creates the container `id`. Its process waits for [`Container::start`]. Warnings are pushed
    /// to `warnings`. On failure nothing is left.
    ///
    /// # Errors
    /// `Exists` when the id is taken, `Invalid` with the JSON path for a configuration that cannot
    /// be accepted, otherwise what failed.
    pub fn create(
        _root: &Path,
        _id: &str,
        _options: CreateOptions,
        _warnings: &mut Vec<String>,
    ) -> Result<(Container, Process)> {
        later()
    }

    /// Opens an existing container.
    ///
    /// # Errors
    /// `NotFound` when there is none (its text contains `container does not exist`).
    pub fn load(_root: &Path, _id: &str) -> Result<Container> {
        later()
    }

    /// Every entry of the state root, sorted by id. A missing root is an empty list.
    pub fn list(_root: &Path) -> Result<Vec<Listing>> {
        later()
    }

    /// The container's state.
    pub fn report(&self) -> Result<Report> {
        later()
    }

    /// The process of the stored configuration, which `exec` starts from.
    pub fn process(&self) -> Result<ProcessSpec> {
        later()
    }

    /// Executes the program of a created container and runs the poststart hooks.
    pub fn start(&mut self, _warnings: &mut Vec<String>) -> Result<()> {
        later()
    }

    /// Runs a further process.
    pub fn exec(&self, _options: ExecOptions, _warnings: &mut Vec<String>) -> Result<Process> {
        later()
    }

    /// Sends a signal to the init process, or to every process when there is no own pid namespace.
    pub fn kill(&self, _signal: i32) -> Result<()> {
        later()
    }

    /// Removes a stopped container; with `force` kills it first. Runs the poststop hooks.
    pub fn delete(self, _force: bool, _warnings: &mut Vec<String>) -> Result<()> {
        later()
    }

    /// Removes whatever is left of `id` when [`Container::load`] cannot read it (an aborted create).
    pub fn delete_remains(_root: &Path, _id: &str) -> Result<()> {
        later()
    }

    /// Freezes every process.
    pub fn pause(&self) -> Result<()> {
        later()
    }

    /// Thaws every process.
    pub fn resume(&self) -> Result<()> {
        later()
    }

    /// Changes resource limits; what is not set keeps its value. Devices are never touched.
    pub fn update(&self, _resources: &LinuxResources, _warnings: &mut Vec<String>) -> Result<()> {
        later()
    }

    /// Figures of the cgroup.
    pub fn stats(&self) -> Result<Stats> {
        later()
    }

    /// Host pids of all processes in the container's cgroup, sub-cgroups included.
    pub fn processes(&self) -> Result<Vec<i32>> {
        later()
    }

    /// Calls `seen` for every kill by the kernel's OOM killer in the cgroup, until `until` becomes
    /// readable or the cgroup is gone.
    pub fn watch_oom(&self, _until: BorrowedFd<'_>, _seen: &mut dyn FnMut()) -> Result<()> {
        later()
    }
}
