//! One container of a pod, and what is asked for to make one.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

use containerd_shim_protos::ttrpc::{self, Code};

use crate::code::status;
use crate::criu::{Restore, Saved};
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
    /// How it is made when it is started, where that is from a checkpoint.
    pub restore: Option<Restore>,
    handle: OnceLock<runtime::Container>,
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
    /// A container that was created just now; with `restore` all of it is made when it is started.
    pub fn new(name: Name, bundle: PathBuf, init: Arc<Process>, restore: Option<Restore>) -> Self {
        let (handle, others) = (OnceLock::new(), Mutex::default());
        Self { name, bundle, created: SystemTime::now(), init, restore, handle, others }
    }

    /// The library's container.
    ///
    /// # Errors
    /// `FailedPrecondition` for one that is to be restored and was not yet.
    pub fn handle(&self) -> ttrpc::Result<&runtime::Container> {
        self.handle.get().ok_or_else(|| {
            let id = &self.name.id;
            let text = format!("container {id:?} is restored when it is started: it is not there");
            status(Code::FAILED_PRECONDITION, text)
        })
    }

    /// The library's container is there now.
    pub fn made(&self, handle: runtime::Container) {
        // It is made once.
        let _ = self.handle.set(handle);
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
    /// The checkpoint that it goes on from.
    pub saved: Option<Saved>,
}
