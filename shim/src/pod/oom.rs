//! Kills for want of memory, watched and told.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;

use runtime::OomKill;

use super::{Pod, STACK};
use crate::container::Container;

impl Pod {
    /// Tells of every kill by the kernel's OOM killer, from now on and for the life of the container.
    pub(super) fn watch_oom(self: &Arc<Self>, container: &Container) {
        let Ok(handle) = container.handle() else { return };
        // One that has ended already has no more to tell.
        let Ok(until) = handle.pidfd() else { return };
        let watch = match handle.watch_oom() {
            Ok(watch) => watch,
            Err(error) => return self.log.warn(&error.to_string()),
        };
        let pod = Arc::clone(self);
        let id = container.name.id.clone();
        let thread = thread::Builder::new().name("oom".to_owned()).stack_size(STACK);
        let spawned = thread.spawn(move || {
            let watched = watch.run(until.as_fd(), &mut |kill| pod.out_of_memory(&id, kill));
            if let Err(error) = watched {
                pod.log.warn(&error.to_string());
            }
        });
        if let Err(error) = spawned {
            let id = &container.name.id;
            self.log.warn(&format!("watch for OOM in container {id:?}: {error}"));
        }
    }

    fn out_of_memory(&self, id: &str, kill: OomKill) {
        if let Some(victim) = kill.victim {
            let others = if kill.group { " and all others of its cgroup" } else { "" };
            let (name, pid) = (victim.name, victim.pid);
            let text = format!("container {id:?}: out of memory: killed {name:?} ({pid}){others}");
            self.log.warn(&text);
        }
        self.events.oom(id);
    }
}
