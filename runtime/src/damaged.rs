//! What is known of a container whose record is damaged: the marks of its cgroups, and its stored configuration.

use std::path::Path;

use crate::cgroup::{self, Cgroup, Recorded};
use crate::error::Result;
use crate::host::Host;
use crate::service_manager::ServiceManager;
use crate::state::StateDir;
use crate::{rdt, spec};

/// Kills what runs in the cgroup of a container with a damaged record, and removes it, with what the stored
/// configuration names of resctrl.
pub(crate) fn end(dir: &StateDir, id: &str) -> Result<()> {
    let recorded = cgroups(dir, id)?;
    Cgroup::open(&recorded)?.kill(libc::SIGKILL)?;
    recorded.delete()?;
    rdt_class(dir, id).map_or(Ok(()), |rdt| rdt.remove())
}

/// What the stored configuration names of resctrl. Without resctrl there is nothing of it.
pub(crate) fn rdt_class(dir: &StateDir, id: &str) -> Option<rdt::Recorded> {
    let spec = dir.config().and_then(|json| spec::stored(&json)).ok()?;
    let plan = rdt::plan(spec.linux().as_ref()?, id).ok()??;
    Some(plan.recorded().clone())
}

/// The cgroup of a container with a damaged record: the directories with its mark. Without any, those that the
/// stored configuration names, unless they are another container's. The one that has the id for its name, as no
/// other was asked for, would have been made by us and marked: a stranger may have it meanwhile.
pub(crate) fn cgroups(dir: &StateDir, id: &str) -> Result<Recorded> {
    let mark = dir.mark()?;
    let marked = cgroup::marked(&mark)?;
    if !marked.0.is_empty() {
        return Ok(marked);
    }
    // As damaged as the record: then the directory is all that is known.
    let Ok(spec) = dir.config().and_then(|json| spec::stored(&json)) else {
        return Ok(Recorded::default());
    };
    let linux = spec.linux().clone().unwrap_or_default();
    if linux.cgroups_path().as_deref() == Some(Path::new(cgroup::NOWHERE)) {
        return Ok(Recorded::default());
    }
    let host = Host::read()?;
    let permission = cgroup::Permission::Tolerated;
    let mut ignored = Vec::new();
    let cgroup = if cgroup::systemd::is_scope(&linux) {
        // Only the scope's place is asked for, nothing of its manager.
        let manager = match host.uid.is_root() {
            true => ServiceManager::system(),
            false => ServiceManager { user: true, sockets: Vec::new() },
        };
        let manager = (&manager, host.uid.as_raw());
        let none = std::iter::empty();
        cgroup::plan_scope(&linux, id, &host.layout, manager, none, permission, &mut ignored)
    } else {
        cgroup::plan(&linux, id, &host.layout, permission, &mut ignored)
    };
    let is_named = linux.cgroups_path().as_ref().is_some_and(|path| !path.as_os_str().is_empty());
    cgroup::unclaimed(cgroup?.recorded(), &mark, is_named)
}
