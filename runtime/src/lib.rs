//! OCI containers from namespaces, cgroups, mounts and seccomp.
//!
//! The library does what it is told, prints nothing and reads no environment; warnings are values
//! that it returns. Everything public is listed here. `docs/design.md` draws the whole.

mod caps;
mod cgroup;
mod check;
mod checkpoint;
mod children;
mod container;
mod create;
mod damaged;
mod dbus;
mod error;
mod faults;
mod features;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod gc;
mod guest_image;
mod hooks;
mod host;
mod idmap;
mod isolation;
mod keyring;
mod landlock;
mod lifecycle;
mod lsm;
mod messages;
mod mount;
mod namespaces;
mod netdev;
mod netlink;
mod notify;
mod oom_score;
mod options;
mod plan;
mod process;
mod procfs;
mod rdt;
mod report;
mod requests;
mod rlimits;
mod scheduler;
mod seal;
mod seccomp;
mod service_manager;
mod spec;
mod state;
mod sys;
mod sysctl;
#[cfg(test)]
mod testing;
mod timestamp;
mod tty;
mod uts;
mod validate;
mod watcher;

pub use cgroup::oom::{OomKill, OomWatch};
pub use cgroup::stats::{BlockIoEntry, MemoryUse, Pressure, RdmaUse, Stall, Stats};
pub use cgroup::victim::Victim;
pub use check::{Facility, Failing, Findings, Standing, check_bundle, check_host, check_vm};
pub use checkpoint::{
    CgroupMode, CheckpointOptions, CriuOptions, NetworkLock, RestoreOptions, criu_configuration,
    criu_program,
};
pub use children::{
    Forked, close_all_but, cores_shared_by, fork, keep_child_statuses, leave, reap_child,
    share_cores_with_own_group,
};
pub use container::{Container, GuestProcess, Prepared};
pub use error::{Call, Cause, Context, Error, ErrorKind, Failure, Result, quote};
pub use features::features;
pub use gc::{Remains, Verdict, remains};
pub use guest_image::{
    GuestAgent, GuestDrivers, GuestFile, GuestImage, GuestKernel, GuestManifest, KernelFormat,
    layout as guest_layout,
};
pub use isolation::{ANNOTATION, Isolation, MachineFiles, Wall};
pub use messages::{accept, peer_user, receive_message, send_message};
pub use netdev::bring_loopback_up;
pub use options::{Console, CreateOptions, ExecOptions, Parent, Rootless, Start, Then};
pub use report::{Listing, Process, Report, Status};
pub use rlimits::survive_file_size_limit;
pub use seal::{own_program, protect_own_binary};
pub use service_manager::{ServiceManager, Socket};
pub use spec::{
    Config, VmHardware, VmIoMemory, load_config, load_process, load_resources, parse_config,
    parse_process,
};
pub use timestamp::{rfc3339, rfc3339_nano};
pub use tty::{Terminal, copy_size, send_terminal, set_size};
pub use validate::validate_id;
pub use watcher::confine_server;
