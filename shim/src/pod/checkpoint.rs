//! Containers that are saved, and those that go on from what was saved.

use std::os::fd::AsFd;
use std::sync::Arc;

use containerd_shim_protos::ttrpc;

use super::{NEVER_RAN, Pod, null};
use crate::code;
use crate::container::{Container, NewContainer};
use crate::criu::{Checkpoint, Prepare, Restore, Saved, Wanted};
use crate::delete::KILLED;
use crate::process::{Phase, Process};
use crate::work::{Name, Request};

impl Pod {
    /// Saves a container, which goes on unless it was to exit.
    ///
    /// # Errors
    /// `FailedPrecondition` unless it runs; otherwise what failed, and then it goes on.
    pub fn checkpoint(&self, id: &str, path: &str, wanted: Wanted) -> ttrpc::Result<()> {
        let container = self.container(id)?;
        container.handle()?;
        let images = wanted.images(path).map_err(|error| code::answer(&error))?;
        if !wanted.image_path.is_empty() && images.as_os_str() != wanted.image_path.as_str() {
            let text = format!(
                "container {id:?}: option image_path {:?} is not used: the images are in {:?}",
                wanted.image_path, images
            );
            self.log.warn(&text);
        }
        let request = Request::Checkpoint(Checkpoint {
            name: container.name.clone(),
            bundle: container.bundle.clone(),
            images: images.clone(),
            wanted,
        });
        let null = null()?;
        let done = self.spawner.call(&request, [null.as_fd(); 3])?;
        self.warn(id, &done.warnings);
        self.events.checkpointed(id, &images);
        Ok(())
    }

    /// Makes all of a container but itself: that is restored when it is started.
    pub(super) fn prepare(&self, new: NewContainer, saved: Saved) -> ttrpc::Result<i32> {
        const NO_PROCESS: i32 = 0;
        let NewContainer { id, bundle, root, rootfs, streams, .. } = new;
        let prepare = Prepare { bundle: bundle.clone(), rootfs: rootfs.clone(), saved };
        let null = null()?;
        let restore = Restore {
            name: Name { root, id: id.clone() },
            bundle: bundle.clone(),
            saved: prepare.saved.clone(),
            terminal: streams.terminal,
            no_new_keyring: new.no_new_keyring,
            systemd_cgroup: new.systemd_cgroup,
        };
        let done = self.spawner.call(&Request::Prepare(prepare), [null.as_fd(); 3])?;
        self.warn(&id, &done.warnings);
        let init = Arc::new(Process::new(&id, "", streams, Phase::Created));
        let name = restore.name.clone();
        let container = Arc::new(Container::new(name, bundle, init, Some(restore)));
        self.events.created(&container, &rootfs, NO_PROCESS);
        self.table().containers.insert(id, container);
        Ok(NO_PROCESS)
    }

    /// Restores a container. One that could not be has ended: there is nothing to try again with.
    pub(super) fn restore(
        self: &Arc<Self>,
        container: &Arc<Container>,
        restore: &Restore,
    ) -> ttrpc::Result<()> {
        let init = &container.init;
        let restored = self.bear(init, &Request::Restore(restore.clone())).and_then(|()| {
            let found = self.find(container);
            self.watch_oom(container);
            self.release(init);
            found
        });
        if restored.is_err() {
            init.state().fail(NEVER_RAN);
        }
        restored
    }

    /// Ends one that waits to be restored, and is deleted instead.
    pub(super) fn give_up(&self, container: &Container, process: &Process) {
        if container.restore.is_none() || !process.is_init() {
            return;
        }
        let mut state = process.state();
        if state.phase == Phase::Created {
            state.fail(KILLED);
        }
    }
}
