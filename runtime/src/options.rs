//! What callers say: how to create a container, run in it, and what they will do after.

use std::path::PathBuf;

use oci_spec::runtime::Process as ProcessSpec;

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
    /// By a later [`crate::Container::start`], from any process.
    Later,
    /// By [`crate::Container::start`] in this process: no start socket is made.
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

impl CreateOptions {
    /// Nothing asked for beside the configuration.
    pub fn new(config: Config, bundle: PathBuf, start: Start) -> Self {
        Self {
            config,
            bundle,
            console_socket: None,
            pid_file: None,
            pidfd_socket: None,
            no_pivot: false,
            no_new_keyring: false,
            preserve_fds: 0,
            listen_fds: 0,
            listen_names: None,
            notify_socket: None,
            systemd_cgroup: false,
            rootless: Rootless::Auto,
            start,
        }
    }
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

/// What the caller of a container in the foreground does when that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Nothing more with the container.
    Leave,
    /// [`crate::Container::delete`].
    Delete,
}
