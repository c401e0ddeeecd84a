//! What callers are told: a process that was made, and the state of a container.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use crate::error::{Context, Result};

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

impl Process {
    /// Sends a signal by its number; real-time signals too.
    pub fn signal(&self, signal: i32) -> Result<()> {
        crate::sys::pidfd::send_signal(self.pidfd.as_fd(), signal)
            .context("signal process", self.pid)
    }
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
    /// Name of the user that owns the state directory, `#` and the uid when it has none.
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
