//! Making a container's directories and writing its limits before any process is inside.
//!
//! Limits are in force when the first process arrives, so what the runtime itself allocates on the
//! way is not refused later: a container with 1 MiB starts. On failure exactly those directories
//! are removed that were made here; another container may already share an ancestor.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, mkdirat};

use super::plan::Target;
use super::resources::{Knob, Value, Version};
use super::{Cgroup, Group, Permission, Plan, Recorded, RecordedGroup};
use super::{count_processes, knob, open_dir, open_path, rmdir, v1, v2};
use crate::error::{Call, Context, Error, ErrorKind, Failure, Result, quote};
use crate::sys::bpf;

/// How often a directory is made again under an ancestor that another container's deletion removes.
const ATTEMPTS: u32 = 20;

/// For who may not make cgroups where it is.
const HOW_TO_GET_ONE: &str = "; have your systemd make it (--systemd-cgroup), or begin in a cgroup of \
                              your own: systemd-run --user --scope --property=Delegate=yes";

/// Directories to remove unless everything went well, in the order they were made.
pub(super) struct Made(pub(super) Vec<PathBuf>);

impl Drop for Made {
    fn drop(&mut self) {
        for path in self.0.iter().rev() {
            // The error that is on its way out matters more.
            let _ = rmdir(path);
        }
    }
}

impl Plan {
    /// What the state file records before [`Plan::create`]: with it everything that `create` makes
    /// can be removed, at whatever point it was killed.
    pub fn recorded(&self) -> Recorded {
        let mut all: Vec<RecordedGroup> = self.targets.iter().map(recorded).collect();
        if let Some(scope) = &self.scope {
            for group in &mut all {
                // Slices are systemd's to remove.
                group.ancestors.clear();
                group.subgroup.clone_from(&scope.subgroup);
            }
        }
        Recorded(all)
    }

    /// Refuses a cgroup that holds processes, be it below, before anything is recorded or made: they would share
    /// the limits, and die with the container.
    ///
    /// # Errors
    /// `WrongState` with the directory.
    pub fn refuse_occupied(&self) -> Result<()> {
        self.targets.iter().map(Target::path).try_for_each(|at| match open_path(&at) {
            Ok(dir) => refuse_occupied(&dir, &at),
            // Not there, or not ours to look at: making it will tell.
            Err(_) => Ok(()),
        })
    }

    /// Makes the directories, writes limits and device rules, and opens what joining needs. Warnings
    /// name what could not be limited.
    ///
    /// # Errors
    /// A frozen cgroup, the field whose limit could not be set, or the directory that could not be made.
    pub fn create(&self, warnings: &mut Vec<String>) -> Result<Cgroup> {
        let mut made = Made(Vec::new());
        let mut groups = Vec::new();
        for target in &self.targets {
            let before = made.0.len();
            match self.make(target, &mut made) {
                Ok(dir) => {
                    let made = made.0[before..].to_vec();
                    groups.push(Group {
                        at: recorded(target),
                        dir,
                        inner: None,
                        procs: None,
                        made,
                    });
                }
                Err(error) if self.tolerates(&error) => {
                    drop(Made(made.0.split_off(before)));
                    self.without(target, &error)?;
                }
                Err(error) => return Err(error),
            }
        }
        for group in &mut groups {
            let above = &group.made[..group.made.len().saturating_sub(1)];
            group.at.ancestors = above.to_vec();
        }
        self.limit(groups, made, warnings)
    }

    /// Writes limits and device rules, and opens what joining needs. Keeps what was `made`.
    pub(super) fn limit(
        &self,
        groups: Vec<Group>,
        mut made: Made,
        warnings: &mut Vec<String>,
    ) -> Result<Cgroup> {
        let clone_into = !self.no_births(Version::V2);
        let mut cgroup = Cgroup { groups, gone: Vec::new(), clone_into };
        cgroup.refuse_frozen()?;
        self.restrict_devices(&cgroup, warnings)?;
        knob::apply(&self.knobs, &|knob| cgroup.dir_of(knob), warnings)?;
        cgroup.prepare_join()?;
        made.0.clear();
        Ok(cgroup)
    }

    /// Whether a process joins a hierarchy after its birth.
    pub fn is_joined_late(&self) -> bool {
        self.targets.iter().any(|t| t.version == Version::V1)
            || self.no_births(Version::V2)
            || self.scope.is_some()
    }

    /// A pids limit of 0 forbids births in the cgroup, also the first; it does not forbid joining.
    fn no_births(&self, version: Version) -> bool {
        let zero = |v: &Value| matches!(v, Value::Text(t) | Value::Lines(t) if t.trim() == "0");
        self.knobs
            .iter()
            .filter(|k| k.version == version)
            .any(|k| k.choices.iter().any(|(file, value)| file == "pids.max" && zero(value)))
    }

    pub(super) fn tolerates(&self, error: &Error) -> bool {
        self.permission != Permission::Required
            && matches!(error.errno(), Some(Errno::EACCES | Errno::EPERM | Errno::EROFS))
    }

    /// Goes on without a cgroup in this hierarchy, unless a limit was asked for. Without a word, as
    /// runc: it is the same for every container of this user.
    pub(super) fn without(&self, target: &Target, error: &Error) -> Result<()> {
        match self.knobs.iter().find(|k| target.has(k)) {
            Some(knob) => {
                let how = if target.version == Version::V2 { HOW_TO_GET_ONE } else { "" };
                Err(Error::unsupported("set", &knob.field, format!("no cgroup: {error}{how}")))
            }
            None => Ok(()),
        }
    }

    pub(super) fn make(&self, target: &Target, made: &mut Made) -> Result<OwnedFd> {
        let at = target.path();
        let mount = open_path(&target.mount_point).context("open", quote(&target.mount_point))?;
        make_dirs(&mount, target, made).context("make cgroup", quote(&at))?;
        let dir = open_dir(&mount, &target.relative).context("open cgroup", quote(&at))?;
        let knobs: Vec<&Knob> = self.knobs.iter().filter(|k| target.has(k)).collect();
        if target.version == Version::V2 {
            // Beside v1 the hierarchy rarely has controllers, and passing them on is asked for.
            if self.targets.len() == 1 || !knobs.is_empty() {
                v2::enable(&mount, &target.mount_point, &target.relative, &dir, &knobs)?;
            }
        } else if target.controllers.iter().any(|c| c == "cpuset") {
            let later = |file: &str| knobs.iter().any(|k| k.choices[0].0 == file);
            v1::inherit_cpuset(&mount, &target.relative, &later)?;
        }
        Ok(dir)
    }

    /// Writes v1 lines, or loads a program where there is no v1 devices hierarchy.
    fn restrict_devices(&self, cgroup: &Cgroup, warnings: &mut Vec<String>) -> Result<()> {
        const FIELD: &str = "linux.resources.devices";
        let result = if let Some(group) = cgroup.v1("devices") {
            write_v1(&self.devices.v1_lines()?, group)
        } else if let Some(group) = cgroup.unified() {
            bpf::load_device_program(&self.devices.program())
                .and_then(|p| bpf::attach_device_program(group.dir.as_fd(), p.as_fd()))
                .context("set", FIELD)
        } else if self.permission != Permission::Required {
            return Ok(());
        } else {
            Err(Error::unsupported("set", FIELD, "no hierarchy can restrict devices"))
        };
        match result {
            Err(error) if self.tolerates(&error) => {
                if self.permission == Permission::Tolerated {
                    warnings.push(format!("devices are not restricted: {error}"));
                }
                Ok(())
            }
            result => result,
        }
    }
}

fn write_v1(lines: &[(&'static str, String)], group: &Group) -> Result<()> {
    let open = |file| {
        knob::open(&group.dir, file, OFlag::O_WRONLY).context("set", "linux.resources.devices")
    };
    let (allow, deny) = (open("devices.allow")?, open("devices.deny")?);
    for (file, line) in lines {
        let opened = if *file == "devices.allow" { &allow } else { &deny };
        knob::put_open(opened, line)
            .context("set", format_args!("linux.resources.devices ({file} {line:?})"))?;
    }
    Ok(())
}

pub(super) fn recorded(target: &Target) -> RecordedGroup {
    let above: Vec<&Path> = target.relative.ancestors().skip(1).collect();
    let missing = above
        .into_iter()
        .filter(|p| !p.as_os_str().is_empty())
        .map(|p| target.mount_point.join(p))
        .take_while(|p| !p.exists());
    let mut ancestors: Vec<PathBuf> = missing.collect();
    ancestors.reverse();
    RecordedGroup {
        controllers: target.controllers.clone(),
        name: target.name.clone(),
        unified: target.version == Version::V2,
        mount_point: target.mount_point.clone(),
        path: target.path(),
        ancestors,
        subgroup: None,
    }
}

/// Makes the directory and what is missing above it. Returns whether the directory is new.
fn make_dirs(mount: &OwnedFd, target: &Target, made: &mut Made) -> Result<bool, Failure> {
    let mode = Mode::from_bits_truncate(0o755);
    let mut attempts = 0;
    loop {
        match mkdirat(mount, &target.relative, mode) {
            Ok(()) => {
                made.0.push(target.path());
                return Ok(true);
            }
            Err(Errno::EEXIST) => return Ok(false),
            Err(Errno::ENOENT) if attempts < ATTEMPTS => attempts += 1,
            Err(errno) => return Err(errno).call("mkdirat"),
        }
        let above: Vec<&Path> = target.relative.ancestors().skip(1).collect();
        for path in above.into_iter().rev().filter(|p| !p.as_os_str().is_empty()) {
            match mkdirat(mount, path, mode) {
                Ok(()) => made.0.push(target.mount_point.join(path)),
                // ENOENT: the ancestor just seen was removed; the next attempt makes it.
                Err(Errno::EEXIST | Errno::ENOENT) => {}
                Err(errno) => return Err(errno).call("mkdirat"),
            }
        }
    }
}

fn refuse_occupied(dir: &OwnedFd, at: &Path) -> Result<()> {
    let count = count_processes(dir).context("list processes of", quote(at))?;
    if count == 0 {
        return Ok(());
    }
    let reason = format!("holds {count} processes");
    Err(Error::new(ErrorKind::WrongState, "use cgroup", quote(at), reason))
}
