//! The container's cgroup: made with its limits while empty, joined, frozen, killed, deleted.
//!
//! `plan` decides without a system call which directories and which files get what. [`Plan::create`]
//! makes the directories below a descriptor of each hierarchy's mount, and writes limits and device
//! rules before any process is inside. A process is born in the cgroup2 directory
//! ([`Cgroup::clone_target`]) and joins v1 hierarchies by descriptors opened by its creator
//! ([`Cgroup::join`]). Later commands open what the state file recorded ([`Recorded`]).
//!
//! A container may have the run of its own cgroup: make sub-cgroups, move its processes among them,
//! freeze them, and with the host's privileges leave some hierarchies. So processes are looked for
//! in all hierarchies and at all depths, and no wait is without a deadline.
//!
//! See [cgroups(7)](https://man7.org/linux/man-pages/man7/cgroups.7.html).

mod check;
mod create;
pub(crate) mod delegate;
mod devices;
mod freezer;
mod kill;
pub(crate) mod knob;
pub(crate) mod layout;
mod mark;
mod none;
pub(crate) mod oom;
mod plan;
mod remove;
mod resources;
mod scope;
pub mod stats;
pub(crate) mod systemd;
#[cfg(test)]
mod tests;
mod v1;
mod v2;
pub mod victim;

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

pub(crate) use check::{delegated, device_programs, parse_list};
pub(crate) use mark::{marked, marks, unclaimed};
pub(crate) use none::{NO_CGROUP, NOWHERE, plan_none};
pub(crate) use plan::{Permission, Plan, plan, plan_scope, unified_alone};
pub(crate) use systemd::Unit;

use crate::error::{Call, Context, Error, ErrorKind, Failure, Result, quote};
use resources::{Knob, Version};

/// A container's directory in one hierarchy, as the state file has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RecordedGroup {
    /// Controllers of a v1 hierarchy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub controllers: Vec<String>,
    /// `systemd` for `name=systemd`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether this is the cgroup2 hierarchy.
    #[serde(default)]
    pub unified: bool,
    /// Where the hierarchy is mounted.
    pub mount_point: PathBuf,
    /// The directory's absolute path.
    pub path: PathBuf,
    /// Directories above it that did not exist, topmost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ancestors: Vec<PathBuf>,
    /// The directory below that holds the processes, where it is not this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subgroup: Option<String>,
}

/// A container's directories, as the state file has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Recorded(pub Vec<RecordedGroup>);

impl Recorded {
    /// The hierarchies that the directories are in.
    pub(crate) fn roots(&self) -> Result<Vec<OwnedFd>> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let open_root = |group: &RecordedGroup| {
            open(&group.mount_point, flags, Mode::empty())
                .call("open")
                .context("open cgroup hierarchy", quote(&group.mount_point))
        };
        self.0.iter().map(open_root).collect()
    }
}

/// The directory of one hierarchy.
#[derive(Debug)]
struct Group {
    at: RecordedGroup,
    /// Opened with `O_PATH`.
    dir: OwnedFd,
    /// The directory below that holds the processes.
    inner: Option<OwnedFd>,
    /// `cgroup.procs` of a hierarchy that a process must join by itself, opened for writing.
    procs: Option<OwnedFd>,
    /// What this process made: ancestors, then the directory itself.
    made: Vec<PathBuf>,
}

/// A container's cgroup in all hierarchies. Without any group it is that of a container that may
/// not have one: everything succeeds and does nothing.
#[derive(Debug)]
pub(crate) struct Cgroup {
    groups: Vec<Group>,
    /// Recorded directories that do not exist.
    gone: Vec<PathBuf>,
    /// Whether a child may be cloned into the cgroup2 directory.
    clone_into: bool,
}

/// Opens `relative` beneath `base`, as a place and not for reading.
pub(crate) fn open_dir(base: impl AsFd, relative: &Path) -> Result<OwnedFd, Failure> {
    let relative = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    openat2(base, relative, how).call("openat2")
}

pub(crate) fn open_path(path: &Path) -> Result<OwnedFd, Failure> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    open(path, flags, Mode::empty()).call("open")
}

/// The names of the directories in `dir`.
fn children(dir: impl AsFd) -> Result<Vec<CString>, Failure> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut names = Vec::new();
    for entry in Dir::openat(dir, ".", flags, Mode::empty()).call("openat")?.iter() {
        let entry = entry.call("getdents64")?;
        let name = entry.file_name();
        if entry.file_type() == Some(Type::Directory) && name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Whether a failure means that the cgroup went away meanwhile.
fn vanished(errno: Errno) -> bool {
    matches!(errno, Errno::ENOENT | Errno::ENODEV)
}

impl Group {
    /// The directory that the container's processes are in, and take for their root.
    fn home(&self) -> &OwnedFd {
        self.inner.as_ref().unwrap_or(&self.dir)
    }
}

impl RecordedGroup {
    /// The path of the directory that the container's processes are in.
    fn home(&self) -> PathBuf {
        self.subgroup.as_ref().map_or_else(|| self.path.clone(), |name| self.path.join(name))
    }

    fn version(&self) -> Version {
        if self.unified { Version::V2 } else { Version::V1 }
    }

    /// A state file is written by us and readable by others, and a path in it is deleted as root.
    pub(crate) fn check(&self) -> Result<()> {
        let plain = |p: &Path| p.components().all(|c| !matches!(c, Component::ParentDir));
        let inside =
            |p: &Path| p != self.mount_point && p.starts_with(&self.mount_point) && plain(p);
        if self.mount_point.is_absolute()
            && inside(&self.path)
            && self.ancestors.iter().all(|a| inside(a) && self.path.starts_with(a))
            && self.subgroup.as_ref().is_none_or(|name| !name.contains('/') && name != "..")
        {
            return Ok(());
        }
        let reason = "is not below its hierarchy's mount point";
        Err(Error::new(ErrorKind::Invalid, "open cgroup", quote(&self.path), reason))
    }
}

impl Cgroup {
    /// Opens what [`Cgroup::recorded`] gave. Directories that do not exist are left out.
    pub fn open(recorded: &Recorded) -> Result<Cgroup> {
        let mut cgroup = Cgroup { groups: Vec::new(), gone: Vec::new(), clone_into: true };
        for at in &recorded.0 {
            at.check()?;
            match open_path(&at.path) {
                Ok(dir) => {
                    let at = at.clone();
                    let inner = at.subgroup.as_ref().map(|name| open_dir(&dir, Path::new(name)));
                    // One that is gone has no processes, and the directory itself takes none.
                    let inner = inner.and_then(Result::ok);
                    cgroup.groups.push(Group { at, dir, inner, procs: None, made: Vec::new() });
                }
                Err(f) if vanished(f.errno) => cgroup.gone.push(at.path.clone()),
                Err(failure) => return Err(failure).context("open cgroup", quote(&at.path)),
            }
        }
        Ok(cgroup)
    }

    /// What the state file needs to open this cgroup again.
    pub fn recorded(&self) -> Recorded {
        Recorded(self.groups.iter().map(|g| g.at.clone()).collect())
    }

    /// Opens what [`Cgroup::join`] writes to: in the creator, for a process cloned afterwards.
    ///
    /// # Errors
    /// `WrongState` when a directory is gone: a process must not run outside of its limits.
    pub fn prepare_join(&mut self) -> Result<()> {
        if let Some(gone) = self.gone.first() {
            let reason = "the container's cgroup does not exist";
            return Err(Error::new(ErrorKind::WrongState, "join cgroup", quote(gone), reason));
        }
        let clone_into = self.clone_into;
        for group in self.groups.iter_mut().filter(|g| g.procs.is_none()) {
            if !(group.at.unified && clone_into) {
                // `tasks` moves one thread, which is all that the child has. `cgroup.procs` would lock
                // out every fork of the machine and wait for an RCU grace period: 4 to 17 ms.
                let file = if group.at.unified { "cgroup.procs" } else { "tasks" };
                let procs = knob::open(group.home(), file, OFlag::O_WRONLY);
                group.procs =
                    Some(procs.context("open", format!("{file} of {}", quote(&group.at.path)))?);
            }
        }
        Ok(())
    }

    /// The cgroup2 directory to clone the container's process into, if there is one.
    pub fn clone_target(&self) -> Option<BorrowedFd<'_>> {
        let unified = self.groups.iter().find(|g| g.at.unified)?;
        self.clone_into.then(|| unified.home().as_fd())
    }

    /// Moves the calling process into every hierarchy that it was not cloned into.
    ///
    /// The descriptors carry the credentials of who opened them, so this works after a clone into
    /// a new user namespace. CPU affinity stays that of the creator: see [`reset_affinity`].
    pub fn join(&self) -> Result<()> {
        for group in &self.groups {
            if let Some(procs) = &group.procs {
                knob::put_open(procs, "0").context("join cgroup", quote(&group.at.path))?;
            }
        }
        Ok(())
    }

    /// The sub-cgroups that a further process joins: `(controllers, path)`, empty controllers for all
    /// hierarchies. Hierarchies that are not named stay with the container's own directory.
    ///
    /// # Errors
    /// A path that leaves the container's cgroup or does not exist; an unknown controller.
    pub fn sub(&self, wanted: &[(Vec<String>, PathBuf)]) -> Result<Cgroup> {
        let mut chosen: Vec<&Path> = vec![Path::new(""); self.groups.len()];
        for (controllers, path) in wanted {
            let path = path.strip_prefix("/").unwrap_or(path);
            if path.components().any(|c| matches!(c, Component::ParentDir)) {
                return Err(Error::invalid(
                    "cgroup",
                    format!("{} leaves the container", quote(path)),
                ));
            }
            if controllers.is_empty() {
                chosen.fill(path);
            }
            for wanted in controllers {
                let has = |g: &Group| {
                    g.at.controllers.contains(wanted)
                        || g.at.name.as_ref().is_some_and(|n| format!("name={n}") == *wanted)
                        || g.at.unified && wanted.is_empty()
                };
                match self.groups.iter().position(has) {
                    Some(index) => chosen[index] = path,
                    None => {
                        let reason = format!("the container has no {wanted} cgroup");
                        return Err(Error::invalid("cgroup", reason));
                    }
                }
            }
        }
        let mut cgroup =
            Cgroup { groups: Vec::new(), gone: self.gone.clone(), clone_into: self.clone_into };
        for (group, below) in self.groups.iter().zip(chosen) {
            let mut at = group.at.clone();
            at.path = at.home();
            at.subgroup = None;
            at.path.extend(below.components().filter(|c| matches!(c, Component::Normal(_))));
            at.ancestors.clear();
            let dir = open_dir(group.home(), below).context("open cgroup", quote(&at.path))?;
            cgroup.groups.push(Group { at, dir, inner: None, procs: None, made: Vec::new() });
        }
        Ok(cgroup)
    }

    /// As [`Cgroup::sub`], with the sub-cgroup of the cgroup2 hierarchy that the process `pid` is in.
    /// `None` when that is the container's own directory, or not below it.
    pub fn sub_of(&self, pid: i32) -> Result<Option<Cgroup>> {
        let Some(group) = self.unified() else { return Ok(None) };
        let file = format!("/proc/{pid}/cgroup");
        let text = std::fs::read(&file).call("read").context("read", quote(&file))?;
        let home = group.at.home();
        let relative = home.strip_prefix(&group.at.mount_point).unwrap_or(&home);
        let line = layout::lines(&text).find(|(names, _)| names.is_empty());
        match line.as_ref().and_then(|(_, path)| path.strip_prefix(relative).ok()) {
            None => Ok(None),
            Some(below) if below.as_os_str().is_empty() => Ok(None),
            // The empty name is that of the cgroup2 hierarchy.
            Some(below) => self.sub(&[(vec![String::new()], below.to_owned())]).map(Some),
        }
    }

    /// Every process in the cgroup and its sub-cgroups, in any hierarchy, ascending.
    pub fn pids(&self) -> Result<Vec<i32>> {
        let mut pids = BTreeSet::new();
        for group in &self.groups {
            members(&group.dir, &mut pids).context("list processes of", quote(&group.at.path))?;
        }
        Ok(pids.into_iter().collect())
    }

    /// How many processes are in the cgroup and its sub-cgroups, with those that this pid namespace does not
    /// see. The hierarchy with most of them counts.
    pub fn population(&self) -> Result<usize> {
        let mut most = 0;
        for group in &self.groups {
            let count = count_processes(&group.dir);
            most = most.max(count.context("list processes of", quote(&group.at.path))?);
        }
        Ok(most)
    }

    /// Changes limits; what is not set keeps its value. Devices are not touched and nothing is
    /// frozen, so the container goes on and no failure leaves it stopped.
    pub fn update(&self, resources: &LinuxResources, warnings: &mut Vec<String>) -> Result<()> {
        let v1 = self.groups.iter().flat_map(|g| g.at.controllers.iter());
        let unified = self.groups.iter().any(|g| g.at.unified);
        let version = |controller: &str| plan::version_in(v1.clone(), unified, controller);
        let list = resources::knobs(resources, &version, warnings)?;
        knob::apply(&list, &|knob| self.dir_of(knob), warnings)
    }

    fn dir_of(&self, knob: &Knob) -> Result<BorrowedFd<'_>> {
        let has = |g: &&Group| {
            g.at.version() == knob.version
                && (g.at.unified || g.at.controllers.contains(&knob.controller))
        };
        self.groups.iter().find(has).map(|g| g.dir.as_fd()).ok_or_else(|| {
            let reason = format!("the container has no {} cgroup", knob.controller);
            Error::unsupported("set", &knob.field, reason)
        })
    }

    /// The group of a v1 controller.
    fn v1(&self, controller: &str) -> Option<&Group> {
        self.groups.iter().find(|g| g.at.controllers.iter().any(|c| c == controller))
    }

    /// The cgroup2 group.
    fn unified(&self) -> Option<&Group> {
        self.groups.iter().find(|g| g.at.unified)
    }
}

/// Adds the processes of `dir` and of everything below it.
fn members(dir: &OwnedFd, pids: &mut BTreeSet<i32>) -> Result<(), Failure> {
    // 0 stands for a process that this pid namespace does not see.
    each_process(dir, &mut |pid| {
        if pid != 0 {
            pids.insert(pid);
        }
    })
}

/// The number of processes of `dir` and of everything below it, seen by this pid namespace or not.
fn count_processes(dir: &OwnedFd) -> Result<usize, Failure> {
    let mut count = 0;
    each_process(dir, &mut |_| count += 1)?;
    Ok(count)
}

/// Calls `found` for each process of `dir` and of everything below it, with 0 for those that this pid
/// namespace does not see.
fn each_process(dir: &OwnedFd, found: &mut dyn FnMut(i32)) -> Result<(), Failure> {
    match knob::read(dir, "cgroup.procs") {
        Ok(text) => text.lines().filter_map(|l| l.parse().ok()).for_each(&mut *found),
        // A threaded cgroup's processes are listed by the domain above it.
        Err(f) if f.errno == Errno::EOPNOTSUPP => {}
        Err(f) if vanished(f.errno) => return Ok(()),
        Err(f) => return Err(f),
    }
    for name in children(dir)? {
        match open_dir(dir, Path::new(OsStr::from_bytes(name.to_bytes()))) {
            Ok(child) => each_process(&child, found)?,
            Err(f) if vanished(f.errno) => {}
            Err(f) => return Err(f),
        }
    }
    Ok(())
}

/// Allows the calling process every CPU of its cpuset.
///
/// A process that joins a cpuset keeps the affinity that its creator was started with
/// (`sched_setaffinity(2)`): the container would be confined to the runtime's CPUs.
pub(crate) fn reset_affinity() -> Result<()> {
    let mut all = CpuSet::new();
    for cpu in 0..CpuSet::count() {
        all.set(cpu).call("CPU_SET").context("reset", "CPU affinity")?;
    }
    // The kernel cuts the set down to the CPUs of the cpuset.
    sched_setaffinity(Pid::from_raw(0), &all)
        .call("sched_setaffinity")
        .context("reset", "CPU affinity")
}

/// Removes a directory by its path; one that is gone is fine.
fn rmdir(path: &Path) -> Result<(), Failure> {
    use nix::unistd::{UnlinkatFlags, unlinkat};
    match unlinkat(AT_FDCWD, path, UnlinkatFlags::RemoveDir) {
        Err(errno) if vanished(errno) => Ok(()),
        result => result.call("rmdir"),
    }
}
