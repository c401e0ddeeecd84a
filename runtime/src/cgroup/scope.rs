//! The systemd cgroup driver, acting: scopes are started around a process, changed, and stopped.
//!
//! A scope begins with a process, so the container's is born in its creator's cgroup and waits there
//! until systemd has moved it. Starting takes one exchange with systemd: the call, its answer and the end
//! of its job come on one connection.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::stat::{Mode, mkdirat};
use oci_spec::runtime::LinuxResources;

use super::create::{Made, recorded};
use super::resources::knobs;
use super::systemd::{Property, Scope, Unit, of_knob};
use super::{Cgroup, Group, Plan, knob, layout, open_dir, plan};
use crate::dbus::wire::Value;
use crate::dbus::{Connection, Refusal};
use crate::error::{Call, Context, Error, ErrorKind, Result, quote};

/// For everything that is said on one connection. A host that boots or reloads is slow.
const DEADLINE: Duration = Duration::from_secs(30);

/// How often a scope is started again whose name is still taken by one that has ended, and the pause
/// between.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(100);

const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";

impl Plan {
    /// Has systemd start the container's scope with the process `pid`. Returns the cgroup2 directory in
    /// which the process is afterwards, below the mount point.
    ///
    /// # Errors
    /// `Exists` when another unit has the name; what systemd says; that it did not answer in time; that
    /// the process is not in the scope. What runs in a scope of that name is not the container's then.
    pub fn start_scope(&self, pid: i32) -> Result<PathBuf> {
        let scope = self.scope.as_ref().expect("the caller has asked for the unit");
        scope.start(pid, DEADLINE)?;
        found(pid, &scope.unit)
    }

    /// Takes over the directory of the scope, which is where [`Plan::start_scope`] has found the process
    /// `pid`, and limits it.
    ///
    /// # Errors
    /// What [`Plan::create`] can fail with.
    pub fn enter_scope(
        &self,
        found: PathBuf,
        pid: i32,
        warnings: &mut Vec<String>,
    ) -> Result<Cgroup> {
        let mut target = self.targets[0].clone();
        target.relative = found;
        let subgroup = self.scope.as_ref().and_then(|scope| scope.subgroup.as_ref());
        let mut made = Made(Vec::new());
        let dir = self.make(&target, &mut made)?;
        let mut at = recorded(&target);
        at.subgroup = subgroup.cloned();
        // The unit was made for the container, and its directory with it.
        let made_of_unit = vec![at.path.clone()];
        let mut group = Group { at, dir, inner: None, procs: None, made: made_of_unit };
        group.move_inside(pid)?;
        self.limit(vec![group], made, warnings)
    }

    /// The unit that later commands tell of changes.
    pub fn unit(&self) -> Option<&Unit> {
        self.scope.as_ref().map(|scope| &scope.unit)
    }
}

/// The cgroup2 directory of the process, below the mount point. Where systemd has put it is looked at and
/// not believed: a process outside of its scope has no limits.
fn found(pid: i32, unit: &Unit) -> Result<PathBuf> {
    let file = format!("/proc/{pid}/cgroup");
    let text = std::fs::read(&file).call("read").context("read", quote(&file))?;
    let path = layout::lines(&text).find(|(names, _)| names.is_empty()).map(|(_, path)| path);
    match path {
        Some(path) if path.file_name().is_some_and(|name| *name == *unit.name) => Ok(path),
        path => {
            let path = path.unwrap_or_default();
            let reason =
                format!("its process is in {} afterwards", quote(Path::new("/").join(path)));
            Err(unit.error("start", ErrorKind::System, reason))
        }
    }
}

impl Group {
    /// Makes the directory for the container's processes, moves the first one there, and passes on what
    /// controllers there are: which a directory with processes of its own cannot.
    fn move_inside(&mut self, pid: i32) -> Result<()> {
        let Some(name) = self.at.subgroup.as_deref() else { return Ok(()) };
        let path = self.at.path.join(name);
        let mode = Mode::from_bits_truncate(0o755);
        mkdirat(&self.dir, name, mode).call("mkdirat").context("make cgroup", quote(&path))?;
        let inner = open_dir(&self.dir, Path::new(name)).context("open cgroup", quote(&path))?;
        knob::put(&inner, "cgroup.procs", &pid.to_string())
            .context("move the container's process to", quote(&path))?;
        let controllers = knob::read(&self.dir, "cgroup.controllers")
            .context("read controllers of", quote(&self.at.path))?;
        for controller in controllers.split_whitespace() {
            // What is not passed on is missing in the container; limits do not need it.
            let _ = knob::put(&self.dir, "cgroup.subtree_control", &format!("+{controller}"));
        }
        self.inner = Some(inner);
        Ok(())
    }
}

impl Scope {
    fn start(&self, pid: i32, allowed: Duration) -> Result<()> {
        let mut bus = Connection::open(&self.unit.manager, allowed)?;
        bus.check_pids()?;
        let pid = Value::U32(u32::try_from(pid).expect("a pid is positive"));
        let pids = ("PIDs".to_owned(), Value::Array("u".to_owned(), vec![pid]));
        let properties: Vec<Property> = self.properties.iter().cloned().chain([pids]).collect();
        let body = [
            Value::text(&self.unit.name),
            Value::text("fail"),
            list(&properties),
            Value::Array("(sa(sv))".to_owned(), Vec::new()),
        ];
        let mut attempts = 0;
        loop {
            let refusal = match bus.job(&self.unit.name, "StartTransientUnit", &body)? {
                Ok(result) if result == "done" => return Ok(()),
                Ok(result) => {
                    let name = &self.unit.name;
                    let reason = format!("its job ended with {result:?}; see journalctl -u {name}");
                    return Err(self.unit.error("start", ErrorKind::System, reason));
                }
                Err(refusal) => refusal,
            };
            attempts += 1;
            if refusal.name != UNIT_EXISTS || attempts == ATTEMPTS {
                return Err(self.unit.refused("start", &refusal));
            }
            // One that has failed keeps its name until it is reset; one that has just ended, for a moment.
            if attempts > 1 {
                std::thread::sleep(PAUSE);
            }
            let _ = bus.call("ResetFailedUnit", &[Value::text(&self.unit.name)])?;
        }
    }
}

impl Unit {
    /// Stops the unit and waits until systemd has done so. One that is gone is fine.
    ///
    /// # Errors
    /// As [`Plan::start_scope`].
    pub fn stop(&self) -> Result<()> {
        let mut bus = Connection::open(&self.manager, DEADLINE)?;
        let body = [Value::text(&self.name), Value::text("replace")];
        match bus.job(&self.name, "StopUnit", &body)? {
            // Another job may take this one's place: that of whoever stops it as well.
            Ok(result) if ["done", "canceled"].contains(&result.as_str()) => {}
            Ok(result) => {
                let reason = format!("its job ended with {result:?}");
                return Err(self.error("stop", ErrorKind::System, reason));
            }
            Err(refusal) if refusal.name == NO_SUCH_UNIT => return Ok(()),
            Err(refusal) => return Err(self.refused("stop", &refusal)),
        }
        // With another `CollectMode` a failed scope stays, and the next one could not have its name.
        let _ = bus.call("ResetFailedUnit", &[Value::text(&self.name)])?;
        Ok(())
    }

    /// Changes properties until the unit ends, and waits until systemd has written what they say.
    ///
    /// # Errors
    /// As [`Plan::start_scope`].
    fn set(&self, properties: &[Property]) -> Result<()> {
        if properties.is_empty() {
            return Ok(());
        }
        let mut bus = Connection::open(&self.manager, DEADLINE)?;
        let body = [Value::text(&self.name), Value::Bool(true), list(properties)];
        match bus.call_settled("SetUnitProperties", &body)? {
            Ok(_) => Ok(()),
            Err(refusal) => Err(self.refused("change", &refusal)),
        }
    }

    fn refused(&self, operation: &str, refusal: &Refusal) -> Error {
        let kind = match refusal.name.as_str() {
            UNIT_EXISTS => ErrorKind::Exists,
            NO_SUCH_UNIT => ErrorKind::NotRunning,
            _ => ErrorKind::System,
        };
        self.error(operation, kind, format!("{} ({})", refusal.text, refusal.name))
    }

    fn error(&self, operation: &str, kind: ErrorKind, reason: String) -> Error {
        let subject = format!("systemd unit {:?}", self.name);
        Error::new(kind, operation, subject, reason)
    }
}

impl Cgroup {
    /// As [`Cgroup::update`], of a cgroup that systemd keeps. systemd is told first: what it writes is
    /// then replaced by what was asked for, to the last digit.
    pub fn update_with(
        &self,
        unit: Option<&Unit>,
        resources: &LinuxResources,
        warnings: &mut Vec<String>,
    ) -> Result<()> {
        if let Some(unit) = unit {
            let version = |controller: &str| plan::version_in([].iter(), true, controller);
            // Warnings come with the second look.
            let list = knobs(resources, &version, &mut Vec::new())?;
            let mut properties = Vec::new();
            for knob in &list {
                let dir = self.dir_of(knob)?;
                let found = of_knob(knob, &|setting| knob::texts(dir, knob, setting))?;
                properties.extend(found);
            }
            unit.set(&properties)?;
        }
        self.update(resources, warnings)
    }
}

fn list(properties: &[Property]) -> Value {
    let pair = |(name, value): &Property| {
        Value::Struct(vec![Value::text(name), Value::Variant(Box::new(value.clone()))])
    };
    Value::Array("(sv)".to_owned(), properties.iter().map(pair).collect())
}
