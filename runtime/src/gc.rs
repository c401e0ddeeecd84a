//! What dead containers and killed commands have left in a state root, and its removal.
//!
//! The record says what exists before it exists, and each cgroup carries a mark (`cgroup/mark.rs`), so
//! that nothing has to be guessed by its name. Nothing here kills: what still holds a process is kept and
//! told of, whoever the process belongs to. A directory is judged, and judged again under its lock before
//! it is removed; one whose lock somebody holds is in use.
//!
//! A container that has stopped is no garbage: its manager will delete it, and asks for its state until
//! then. Unless there is a sign that nobody can come back to it: `create` never ended, `delete` had begun,
//! or the machine was started since.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use serde::Serialize;

use crate::cgroup::{self, Cgroup, Recorded};
use crate::damaged;
use crate::error::{Call, Context, Error, ErrorKind, Result, quote};
use crate::hooks::Kind as HookKind;
use crate::lifecycle::Hooks;
use crate::spec;
use crate::state::{self, Record, StateDir};
use crate::validate;

/// By how much a clock may have been set while the machine ran.
const CLOCK: Duration = Duration::from_secs(60);

/// What becomes of something that was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It can go.
    Remove,
    /// Somebody has to look at it.
    Keep,
}

/// Something that was left.
#[derive(Clone, Debug, Serialize)]
pub struct Remains {
    /// The container's id.
    pub id: String,
    /// What becomes of it.
    pub verdict: Verdict,
    /// Why.
    pub reason: String,
    /// Its state directory, where there is one.
    pub state: Option<PathBuf>,
    /// Those of its cgroup's directories that exist.
    pub cgroups: Vec<PathBuf>,
    #[serde(skip)]
    recorded: Recorded,
}

/// Lists what was left in the state root, sorted by id. `stopped`: also containers that have stopped
/// and were created at least this long ago.
///
/// # Errors
/// The root, or the hierarchies, cannot be read.
pub fn remains(root: &Path, stopped: Option<Duration>) -> Result<Vec<Remains>> {
    let marks = Marks::of(root)?;
    let mut list = Vec::new();
    let ids = state::ids(root)?;
    for id in &ids {
        let found = match StateDir::open(root, id) {
            // A command that changes it holds the lock.
            Ok(dir) => match dir.try_lock()? {
                true if dir.exists()? => judge(&dir, id, stopped, &marks),
                _ => None,
            },
            // It went meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => Some(keep(id, error.to_string(), &Recorded::default())),
        };
        list.extend(found.map(|found| Remains { state: Some(root.join(id)), ..found }));
    }
    for (id, recorded) in &marks.0 {
        // The directory may have been made since they were listed.
        if !ids.contains(id) && !root.join(id).exists() {
            list.push(stateless(id, recorded));
        }
    }
    list.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(list)
}

/// The cgroups whose marks name this state root, by container.
struct Marks(Vec<(String, Recorded)>);

impl Marks {
    fn of(root: &Path) -> Result<Self> {
        let device = match nix::sys::stat::stat(root) {
            Err(Errno::ENOENT) => return Ok(Self(Vec::new())),
            other => {
                other.call("stat").context("find", format!("state root {}", quote(root)))?.st_dev
            }
        };
        let beginning = state::mark(device, &root.join(""));
        let mut found: Vec<(String, Recorded)> = Vec::new();
        for (group, mark) in cgroup::marks()? {
            let id =
                mark.strip_prefix(beginning.as_slice()).and_then(|id| std::str::from_utf8(id).ok());
            let Some(id) = id.filter(|id| validate::validate_id(id).is_ok()) else { continue };
            match found.iter_mut().find(|(known, _)| known == id) {
                Some((_, recorded)) => recorded.0.push(group),
                None => found.push((id.to_owned(), Recorded(vec![group]))),
            }
        }
        Ok(Self(found))
    }

    fn get(&self, id: &str) -> Recorded {
        let found = self.0.iter().find(|(known, _)| known == id);
        found.map(|(_, recorded)| recorded.clone()).unwrap_or_default()
    }
}

fn found(id: &str, verdict: Verdict, reason: String, recorded: &Recorded) -> Remains {
    let paths = recorded.0.iter().map(|group| group.path.clone());
    Remains {
        id: id.to_owned(),
        verdict,
        reason,
        state: None,
        cgroups: paths.filter(|path| path.exists()).collect(),
        recorded: recorded.clone(),
    }
}

fn keep(id: &str, reason: impl Into<String>, recorded: &Recorded) -> Remains {
    found(id, Verdict::Keep, reason.into(), recorded)
}

/// Something to remove, unless a process is in its cgroup.
fn unless_occupied(id: &str, reason: &str, recorded: &Recorded) -> Remains {
    match Cgroup::open(recorded).and_then(|cgroup| cgroup.population()) {
        Ok(0) => found(id, Verdict::Remove, reason.to_owned(), recorded),
        Ok(count) => {
            keep(id, format!("{reason}, but {count} processes are in its cgroup"), recorded)
        }
        Err(error) => keep(id, format!("{reason}, but {error}"), recorded),
    }
}

fn stateless(id: &str, recorded: &Recorded) -> Remains {
    unless_occupied(id, "the state of this cgroup's container is gone", recorded)
}

/// What a state directory, which is locked, tells.
fn judge(dir: &StateDir, id: &str, stopped: Option<Duration>, marks: &Marks) -> Option<Remains> {
    let record = match dir.record() {
        Ok(record) => record,
        Err(error) if error.errno() == Some(Errno::ENOENT) => {
            let reason = "state.json is missing: create was killed, or the file was lost";
            return Some(unless_occupied(id, reason, &marks.get(id)));
        }
        Err(error) if error.kind() == ErrorKind::Unsupported || error.errno().is_some() => {
            return Some(keep(id, error.to_string(), &Recorded::default()));
        }
        Err(error) => {
            let reason = format!("its state is damaged: {error}");
            return Some(match damaged::cgroups(dir, id) {
                Ok(recorded) => unless_occupied(id, &reason, &recorded),
                Err(more) => keep(id, format!("{reason}; {more}"), &Recorded::default()),
            });
        }
    };
    match record.alive() {
        Ok(true) => None,
        Ok(false) => dead(dir, &record, stopped),
        Err(error) => Some(keep(id, error.to_string(), &record.cgroup)),
    }
}

/// A container without its process.
fn dead(dir: &StateDir, record: &Record, stopped: Option<Duration>) -> Option<Remains> {
    let (id, recorded) = (&record.id, &record.cgroup);
    if let Some(wrong) = recorded.0.iter().find_map(|group| group.check().err()) {
        return Some(keep(id, wrong.to_string(), &Recorded::default()));
    }
    let reason = if record.pid == 0 {
        "create was killed"
    } else if dir.has_config().is_ok_and(|there| !there) {
        "delete was killed"
    } else if was_before_boot(dir) {
        "it was created before this machine was started"
    } else if record.options.unit.is_none() && recorded.0.iter().any(|group| !group.path.exists()) {
        "its process and its cgroup are gone"
    } else if stopped.is_some_and(|age| is_older(dir, age)) {
        "it has stopped"
    } else {
        return None;
    };
    Some(unless_occupied(id, reason, recorded))
}

fn is_older(dir: &StateDir, age: Duration) -> bool {
    let made = dir.recorded_at().ok();
    made.and_then(|made| made.elapsed().ok()).is_some_and(|passed| passed >= age)
}

fn was_before_boot(dir: &StateDir) -> bool {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let boot = stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok());
    let (Some(boot), Ok(made)) = (boot, dir.recorded_at()) else { return false };
    made + CLOCK < SystemTime::UNIX_EPOCH + Duration::from_secs(boot)
}

impl Remains {
    /// Removes it, after looking once more under the lock. Runs the poststop hooks of a container that was
    /// recorded; their failures are warnings. Returns whether it was there and could still go.
    ///
    /// # Errors
    /// What could not be removed. The state directory stays then, for the next time.
    pub fn remove(
        &self,
        root: &Path,
        stopped: Option<Duration>,
        warnings: &mut Vec<String>,
    ) -> Result<bool> {
        if self.verdict == Verdict::Keep {
            return Ok(false);
        }
        if self.state.is_none() {
            let again = stateless(&self.id, &self.recorded);
            if again.verdict == Verdict::Keep || root.join(&self.id).exists() {
                return Ok(false);
            }
            refuse_occupied(&self.recorded)?;
            return self.recorded.delete().map(|()| true);
        }
        let dir = match StateDir::open(root, &self.id) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            opened => opened?,
        };
        if !dir.try_lock()? || !dir.exists()? {
            return Ok(false);
        }
        let again = judge(&dir, &self.id, stopped, &Marks::of(root)?);
        let Some(again) = again.filter(|again| again.verdict == Verdict::Remove) else {
            return Ok(false);
        };
        refuse_occupied(&again.recorded)?;
        let record = dir.record().ok();
        again.delete_cgroup(record.as_ref(), warnings)?;
        delete_rdt(&dir, &self.id, record.as_ref())?;
        if let Some(record) = &record {
            run_hooks(&dir, record, warnings);
        }
        dir.remove().map(|()| true)
    }

    fn delete_cgroup(&self, record: Option<&Record>, warnings: &mut Vec<String>) -> Result<()> {
        match record {
            Some(record) if !self.cgroups.is_empty() => record.delete_cgroup(warnings),
            // A unit whose directory is gone may be somebody else's by now.
            _ => self.recorded.delete(),
        }
    }
}

/// Removes what is the container's of resctrl. Before its process was recorded it may not have been made.
fn delete_rdt(dir: &StateDir, id: &str, record: Option<&Record>) -> Result<()> {
    match record {
        Some(Record { rdt, pid: 1.., .. }) => rdt.as_ref().map_or(Ok(()), |rdt| rdt.remove()),
        Some(record) => record.rdt.as_ref().map_or(Ok(()), |rdt| rdt.remove_unused()),
        None => damaged::rdt_class(dir, id).map_or(Ok(()), |rdt| rdt.remove_unused()),
    }
}

/// As `delete` does; a container that is as good as never made has none.
fn run_hooks(dir: &StateDir, record: &Record, warnings: &mut Vec<String>) {
    let Ok(spec) = dir.config().and_then(|json| spec::stored(&json)) else { return };
    match Hooks::plan(&spec, &record.id, &record.bundle) {
        Ok(hooks) => hooks.run_all(HookKind::Poststop, warnings),
        Err(error) => warnings.push(error.to_string()),
    }
}

/// Refuses what processes have come into meanwhile.
fn refuse_occupied(recorded: &Recorded) -> Result<()> {
    match Cgroup::open(recorded)?.population()? {
        0 => Ok(()),
        count => {
            let reason = format!("{count} processes have come into its cgroup");
            Err(Error::new(ErrorKind::WrongState, "remove", "cgroup", reason))
        }
    }
}
