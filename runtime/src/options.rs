//! What callers say: how to create a container, run in it, and what they will do after.

use std::path::PathBuf;

use oci_spec::runtime::Process as ProcessSpec;

use crate::isolation::Isolation;
use crate::service_manager::ServiceManager;
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

/// Who gets the other end of a process' terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Console {
    /// Nobody: a process with a terminal is refused.
    Nobody,
    /// The caller, in [`crate::Process::terminal`], who shows it on a terminal or in a log of its own:
    /// that turns line feeds into new lines by itself, so `ONLCR` is off.
    Foreground,
    /// The caller, who passes it on to somebody with a raw terminal: the kernel's modes.
    Caller,
    /// Who listens on this Unix socket; a process without a terminal is refused.
    Socket(PathBuf),
}

/// Who becomes the parent of a process, gets its `SIGCHLD` and waits for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Parent {
    /// The caller.
    #[default]
    Caller,
    /// The caller's own parent (`CLONE_PARENT`, clone(2)), for a caller that ends before the process.
    Callers,
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
    /// See [`Console`].
    pub console: Console,
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
    /// The systemd that is asked for a scope in the place of a cgroup of ours.
    pub systemd_cgroup: Option<ServiceManager>,
    /// Make no cgroup: the container stays in its creator's. Nothing can be limited, paused or counted.
    pub no_cgroup: bool,
    /// See [`Rootless`].
    pub rootless: Rootless,
    /// See [`Start`].
    pub start: Start,
    /// See [`Parent`].
    pub parent: Parent,
    /// See [`Isolation`].
    pub isolation: Isolation,
}

impl CreateOptions {
    /// Nothing asked for beside the configuration.
    pub fn new(config: Config, bundle: PathBuf, start: Start) -> Self {
        Self {
            config,
            bundle,
            console: match start {
                Start::Later => Console::Nobody,
                Start::Here => Console::Foreground,
            },
            pid_file: None,
            pidfd_socket: None,
            no_pivot: false,
            no_new_keyring: false,
            preserve_fds: 0,
            listen_fds: 0,
            listen_names: None,
            notify_socket: None,
            systemd_cgroup: None,
            no_cgroup: false,
            rootless: Rootless::Auto,
            start,
            parent: Parent::Caller,
            isolation: Isolation::Namespaces,
        }
    }
}

/// How to run a further process in a container. Paths are absolute.
#[derive(Debug)]
pub struct ExecOptions {
    /// The process, already merged with the command line's flags.
    pub process: ProcessSpec,
    /// As in [`CreateOptions`].
    pub console: Console,
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
    /// As in [`CreateOptions`].
    pub parent: Parent,
}

/// What the caller of a container in the foreground does when that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Nothing more with the container.
    Leave,
    /// [`crate::Container::delete`].
    Delete,
}
