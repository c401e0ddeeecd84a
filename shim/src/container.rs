//! One container of a pod, and what is asked for to make one.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::process::Process;
use crate::rootfs::Mount;
use crate::stdio::Named;
use crate::work::Name;

/// One container.
#[derive(Debug)]
pub struct Container {
    /// Its state root and id.
    pub name: Name,
    /// Bundle directory.
    pub bundle: PathBuf,
    /// When it was created.
    pub created: SystemTime,
    /// Its first process.
    pub init: Arc<Process>,
    /// The library's container.
    pub handle: runtime::Container,
    others: Mutex<Others>,
}

/// The processes that were added to a container.
#[derive(Debug, Default)]
pub struct Others {
    /// By exec id.
    pub processes: HashMap<String, Arc<Process>>,
    /// How many of them have begun and not been told to have ended.
    pub live: usize,
    /// The init's exit waits for them.
    pub init_ended: bool,
}

impl Container {
    /// A container that was created just now.
    pub fn new(
        name: Name,
        bundle: PathBuf,
        init: Arc<Process>,
        handle: runtime::Container,
    ) -> Self {
        let created = SystemTime::now();
        Self { name, bundle, created, init, handle, others: Mutex::default() }
    }

    /// Its other processes; held for moments only, never over a call.
    pub fn others(&self) -> MutexGuard<'_, Others> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The exec id of a pid, where one has it.
    pub fn exec_of(&self, pid: i32) -> Option<String> {
        let others = self.others();
        let found = others.processes.values().find(|process| process.state().pid == pid);
        found.map(|process| process.exec.clone())
    }
}

/// How to create a container.
#[derive(Debug)]
pub struct NewContainer {
    /// Its id.
    pub id: String,
    /// Bundle directory.
    pub bundle: PathBuf,
    /// State root.
    pub root: PathBuf,
    /// What to mount for its root file system.
    pub rootfs: Vec<Mount>,
    /// Its streams.
    pub streams: Named,
    /// Use `MS_MOVE` instead of `pivot_root(2)`.
    pub no_pivot: bool,
    /// Keep the shim's session keyring.
    pub no_new_keyring: bool,
    /// Leave cgroups to systemd.
    pub systemd_cgroup: bool,
}
