//! The fixture: what one test has to itself.
//!
//! Each test runs as pid 1 of its own pid, mount, uts, ipc and network namespace (see `worker`) with
//! its own directory, state root and container ids. Whatever process, mount, cgroup or state entry
//! exists after the last `delete` was left behind by the runtime, and fails the test.

pub mod agent;
pub mod bundle;
pub mod call;
pub mod container;
mod left;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::check::{Res, cut, fail};
use bundle::Bundle;
use call::{Call, Output};
use container::Container;

pub use oci_tests::cgroups;
pub use oci_tests::kind::Kind;

/// One test's surroundings.
pub struct Lab {
    /// The program under test.
    pub runtime: PathBuf,
    /// Which it is.
    pub kind: Kind,
    /// This test's directory, on a tmpfs.
    pub dir: PathBuf,
    /// `--root` of the runtime.
    pub state: PathBuf,
    /// A word that only this test's ids and cgroups contain.
    pub word: String,
    /// The cgroup directory, relative to each hierarchy, below which this run's cgroups are.
    pub cgroup_parent: String,
    /// The static probe on the same file system.
    pub probe: PathBuf,
    /// Whether something left behind was reported already.
    pub left_before: Cell<bool>,
    count: Cell<u32>,
    ids: RefCell<Vec<String>>,
    notes: RefCell<Vec<String>>,
    mounts_before: RefCell<BTreeSet<String>>,
}

impl Lab {
    /// A lab in the empty directory `dir`.
    pub fn new(
        runtime: &Path,
        dir: &Path,
        word: &str,
        cgroup_parent: &str,
        probe: &Path,
    ) -> Res<Self> {
        fs::create_dir_all(dir)?;
        let state = dir.join("state");
        Ok(Self {
            runtime: runtime.to_owned(),
            kind: Kind::of(runtime),
            dir: dir.to_owned(),
            state,
            word: word.to_owned(),
            cgroup_parent: cgroup_parent.to_owned(),
            probe: probe.to_owned(),
            left_before: Cell::new(false),
            count: Cell::new(0),
            ids: RefCell::default(),
            notes: RefCell::default(),
            mounts_before: RefCell::new(left::mount_points()),
        })
    }

    /// A number that no earlier call in this test answered.
    pub fn next(&self) -> u32 {
        self.count.set(self.count.get() + 1);
        self.count.get()
    }

    /// A fresh container id.
    pub fn id(&self) -> String {
        let id = format!("{}-{}", self.word, self.next());
        self.remember(&id);
        id
    }

    /// Makes the clean-up delete `id` as well.
    pub fn remember(&self, id: &str) {
        self.ids.borrow_mut().push(id.to_owned());
    }

    /// Takes the mounts that exist at this moment for the test's own.
    pub fn own_mounts(&self) {
        *self.mounts_before.borrow_mut() = left::mount_points();
    }

    /// Adds a comment to the test's result.
    pub fn note(&self, text: impl Into<String>) {
        self.notes.borrow_mut().push(text.into());
    }

    /// The comments so far.
    pub fn notes(&self) -> Vec<String> {
        self.notes.borrow().clone()
    }

    /// Something the specification leaves open and Bulkhead promises: a failure for it, a comment
    /// for the others.
    pub fn quality(&self, fact: bool, text: impl Into<String>) -> Res {
        let text = text.into();
        match (fact, self.kind) {
            (true, _) => Ok(()),
            (false, Kind::Bulkhead) => fail(text),
            (false, _) => {
                self.note(format!("quality: {text}"));
                Ok(())
            }
        }
    }

    /// A command of the runtime.
    pub fn call(&self, words: &[&str]) -> Call<'_> {
        Call::new(self, words)
    }

    /// A bundle whose program does the probe's `steps`, with the specification changed by `edit`.
    pub fn bundle(&self, steps: &[&str], edit: impl FnOnce(&mut Value)) -> Res<Bundle> {
        Bundle::new(self, steps, edit)
    }

    /// Runs a bundle in the foreground.
    pub fn run(&self, bundle: &Bundle) -> Res<Output> {
        self.call(&["run", "--bundle", bundle.path(), &bundle.id]).output()
    }

    /// Runs a bundle, which must work, and answers what the probe saw.
    pub fn seen(&self, bundle: &Bundle) -> Res<Value> {
        let output = self.run(bundle)?;
        output.excuse()?;
        if output.code != Some(0) {
            return fail(format!("run ended with {}", output.brief()));
        }
        match serde_json::from_str(output.out.lines().next().unwrap_or_default()) {
            Ok(value) => Ok(value),
            Err(error) => {
                fail(format!("the probe's output is not JSON ({error}): {}", cut(&output.out)))
            }
        }
    }

    /// Runs the probe's `steps` in a container with the specification changed by `edit`.
    pub fn probe(&self, steps: &[&str], edit: impl FnOnce(&mut Value)) -> Res<Value> {
        self.seen(&self.bundle(steps, edit)?)
    }

    /// What `report` says in a container with the specification changed by `edit`.
    pub fn report(&self, edit: impl FnOnce(&mut Value)) -> Res<Value> {
        Ok(self.probe(&["report"], edit)?["report"].take())
    }

    /// Creates a container that waits to be started.
    pub fn create(&self, steps: &[&str], edit: impl FnOnce(&mut Value)) -> Res<Container<'_>> {
        self.create_from(&self.bundle(steps, edit)?)
    }

    /// Creates a container from a bundle, which must work.
    pub fn create_from(&self, bundle: &Bundle) -> Res<Container<'_>> {
        Container::create(self, bundle, &[])
    }

    /// Creates and starts a container and waits for the probe's `ready` after its JSON.
    pub fn running(&self, edit: impl FnOnce(&mut Value)) -> Res<Container<'_>> {
        let mut container = self.create(&["pause"], edit)?;
        container.start()?;
        container.ready()?;
        Ok(container)
    }

    /// `create` must fail and leave nothing behind.
    pub fn refused(&self, edit: impl FnOnce(&mut Value)) -> Res<Output> {
        let bundle = self.bundle(&["report"], edit)?;
        self.refused_from(&bundle)
    }

    /// As `refused`, with a bundle that the test has prepared.
    pub fn refused_from(&self, bundle: &Bundle) -> Res<Output> {
        let output = self.call(&["create", "--bundle", bundle.path(), &bundle.id]).output()?;
        output.excuse()?;
        if output.code == Some(0) {
            return fail("create succeeded");
        }
        if output.code.is_none() {
            return fail(format!("create died: {}", output.brief()));
        }
        self.nothing_left()?;
        Ok(output)
    }

    /// Deletes whatever the test left in containers, so that what remains is the runtime's.
    pub fn delete_all(&self) {
        for id in self.ids.borrow().iter() {
            if self.state.join(id).exists() {
                let _ = self.call(&["delete", "--force", id]).output();
            }
        }
    }

    /// Fails when a process, mount, cgroup or state entry of this test exists.
    pub fn nothing_left(&self) -> Res {
        left::check(self)
    }

    /// What exists of this test at this moment, without a grace period.
    pub fn left(&self) -> Vec<String> {
        left::list(self)
    }

    /// Kills every process of this test but its own.
    pub fn end_processes(&self) {
        left::end_processes();
    }
}

/// Collects orphans that have ended.
pub fn reap_orphans() {
    left::reap();
}

/// Processes of this test other than its own.
pub fn processes_left() -> Vec<String> {
    left::processes()
}
