//! The systemd cgroup driver, decided: the name of a container's scope, its slice, its properties. Pure;
//! `super::scope` acts.
//!
//! On a host whose systemd is in charge of cgroups, engines name a container's cgroup
//! `slice:prefix:name` and expect a transient scope `prefix-name.scope` in that slice
//! ([the cgroup contract](https://systemd.io/CGROUP_DELEGATION/)). With `Delegate=yes` everything below
//! the scope's directory is ours; the directory's own files are systemd's, which writes what the unit's
//! properties say whenever it thinks fit: at `systemctl daemon-reload`, `set-property`, or when a
//! neighbour starts. So every limit that has a property is given to systemd as well as to the kernel.
//!
//! Device rules are not: a `DevicePolicy` of the unit would be a second filter beside ours, made of less
//! (no rule of a hook, no device that is not in /dev), which a reload puts in force. Without one systemd
//! attaches nothing, and detaches nothing that is not its own.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Linux;
use serde::{Deserialize, Serialize};

use super::layout::Unified;
use super::resources::{Knob, Value as Setting, cpu_max};
use super::{Recorded, RecordedGroup};
use crate::dbus::gvariant;
use crate::dbus::wire::Value;
use crate::error::{Error, Result};
use crate::service_manager::{ServiceManager, Socket};

/// Annotations that set a property of the scope begin with this.
pub(crate) const ANNOTATION: &str = "org.systemd.property.";

/// crun's annotation: the name of a cgroup below the scope, for the container's processes.
pub(crate) const SUBGROUP: &str = "run.oci.systemd.subgroup";

const FIELD: &str = "linux.cgroupsPath";

/// What the name of a scope begins with unless `cgroupsPath` says so.
const PREFIX: &str = "bulkhead";

/// `CPUQuotaPerSecUSec` is kept in whole percents.
const PERCENT: u64 = 10_000;

/// Microseconds.
const DEFAULT_PERIOD: u64 = 100_000;

/// CPUs and memory nodes above are none of this kernel's.
const MOST_CPUS: usize = 8192;

/// A property of a unit.
pub(crate) type Property = (String, Value);

/// A unit and the systemd that knows it, as the state file has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unit {
    pub name: String,
    pub manager: ServiceManager,
}

impl Unit {
    /// What is wrong with the unit of a state file, whose container has these directories: the unit is
    /// stopped, and its manager believed.
    pub(crate) fn fault(&self, groups: &Recorded) -> Option<String> {
        let name = &self.name;
        if check_name(name).is_err() || name.strip_suffix(".scope").is_none_or(str::is_empty) {
            return Some(format!("options.unit.name {name:?} is no name of a scope"));
        }
        let is_dir =
            |group: &RecordedGroup| group.path.file_name().is_some_and(|dir| dir == &**name);
        if groups.0.is_empty() || !groups.0.iter().all(is_dir) {
            return Some(format!("options.unit.name {name:?} is not that of its cgroup"));
        }
        let is_place = |path: &Path| {
            let is_abstract = path.as_os_str().as_encoded_bytes().starts_with(b"@");
            path.is_absolute() || is_abstract
        };
        let mut sockets = self.manager.sockets.iter().map(Socket::path);
        let odd = sockets.find(|path| !is_place(path))?;
        Some(format!("options.unit.manager has the socket {odd:?}, which is no absolute path"))
    }
}

/// The scope of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scope {
    pub unit: Unit,
    /// In the order in which systemd gets them; without the process.
    pub properties: Vec<Property>,
    /// The cgroup below that the processes are in.
    pub subgroup: Option<String>,
}

/// Where the scope of a container goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    slice: String,
    scope: String,
    /// The slice's directory, as systemd nests it.
    directory: PathBuf,
}

/// Whether the cgroup path is one for this driver.
pub(crate) fn is_scope(linux: &Linux) -> bool {
    let path = linux.cgroups_path().as_deref().unwrap_or(Path::new("")).as_os_str();
    let bytes = path.as_encoded_bytes();
    !bytes.contains(&b'/') && bytes.iter().filter(|byte| **byte == b':').count() == 2
}

impl Place {
    /// Reads `cgroupsPath`: `slice:prefix:name`, or nothing.
    pub(super) fn parse(given: Option<&Path>, id: &str, user: bool) -> Result<Self> {
        let given = given.filter(|path| !path.as_os_str().is_empty());
        let text = given.map_or(Some(""), Path::to_str);
        let parts: Option<Vec<&str>> = text.map(|text| text.split(':').collect());
        let (slice, prefix, name) = match parts.as_deref() {
            Some([""]) => ("", PREFIX, id),
            Some([slice, prefix, name]) => (*slice, *prefix, *name),
            _ => {
                let shown = given.unwrap_or(Path::new("")).display();
                let reason = format!(
                    "expected \"slice:prefix:name\" for the systemd cgroup driver, got \"{shown}\""
                );
                return Err(Error::invalid(FIELD, reason));
            }
        };
        let default = if user { "user.slice" } else { "system.slice" };
        let slice = if slice.is_empty() { default } else { slice };
        if name.ends_with(".slice") {
            let reason = format!("{name:?} is a slice, which holds no process: name a scope");
            return Err(Error::invalid(FIELD, reason));
        }
        let scope = format!("{prefix}-{name}.scope");
        check_name(&scope)?;
        let directory = expand(slice)?;
        Ok(Self { slice: slice.to_owned(), scope, directory })
    }

    /// The scope's directory below the cgroup of its manager.
    pub(super) fn below(&self, manager: &Path) -> PathBuf {
        manager.join(&self.directory).join(&self.scope)
    }

    /// The scope with everything that systemd is to know of it.
    ///
    /// # Errors
    /// An annotation that is no property; a sub-cgroup that is no name.
    pub(super) fn scope<'a>(
        self,
        id: &str,
        manager: &ServiceManager,
        knobs: &[Knob],
        annotations: impl Iterator<Item = (&'a String, &'a String)>,
    ) -> Result<Scope> {
        let mut properties = self.fixed(id);
        for knob in knobs {
            properties.extend(of_knob(knob, &|setting| Ok(texts(setting)))?);
        }
        let mut subgroup = None;
        let mut named: Vec<(&String, &String)> = annotations.collect();
        named.sort();
        for (key, value) in named {
            if let Some(name) = key.strip_prefix(ANNOTATION) {
                properties.push(of_annotation(key, name, value)?);
            } else if key == SUBGROUP {
                subgroup = check_subgroup(value)?;
            }
        }
        let unit = Unit { name: self.scope, manager: manager.clone() };
        Ok(Scope { unit, properties: last_of_each(properties), subgroup })
    }

    fn fixed(&self, id: &str) -> Vec<Property> {
        let yes = |name: &str| (name.to_owned(), Value::Bool(true));
        let text = |name: &str, text: &str| (name.to_owned(), Value::text(text));
        vec![
            text("Description", &format!("bulkhead container {id}")),
            text("Slice", &self.slice),
            yes("Delegate"),
            yes("CPUAccounting"),
            yes("MemoryAccounting"),
            yes("IOAccounting"),
            yes("TasksAccounting"),
            // Without it a scope is stopped at shutdown before what needs it, and waits for the basic
            // system at boot.
            ("DefaultDependencies".to_owned(), Value::Bool(false)),
            // A failed scope would keep its name, and the next container of that name could not start.
            text("CollectMode", "inactive-or-failed"),
        ]
    }
}

/// The directory of a slice: `a-b.slice` lies in `a.slice`, `-.slice` is the root.
fn expand(slice: &str) -> Result<PathBuf> {
    let invalid = |reason: &str| Err(Error::invalid(FIELD, format!("slice {slice:?} {reason}")));
    let Some(name) = slice.strip_suffix(".slice") else {
        return invalid("does not end in \".slice\"");
    };
    check_name(slice)?;
    if name == "-" {
        return Ok(PathBuf::new());
    }
    if name.split('-').any(str::is_empty) {
        return invalid("has an empty part between dashes");
    }
    let ends = name.match_indices('-').map(|(at, _)| at).chain([name.len()]);
    Ok(ends.map(|end| format!("{}.slice", &name[..end])).collect())
}

/// What systemd takes for the name of a unit; it becomes part of a path and of a bus's match rule.
fn check_name(name: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    if name.len() < 256 && name.chars().all(allowed) {
        return Ok(());
    }
    Err(Error::invalid(FIELD, format!("{name:?} is no name of a systemd unit")))
}

fn check_subgroup(name: &str) -> Result<Option<String>> {
    let invalid = |reason: &str| Err(Error::invalid(format!("annotations[{SUBGROUP:?}]"), reason));
    match name {
        "" => Ok(None),
        "." | ".." => invalid("is no name"),
        _ if name.contains(['/', '\n', '\0']) => invalid("is not one name"),
        _ if name.len() > 255 => invalid("is too long"),
        _ => Ok(Some(name.to_owned())),
    }
}

/// A later setting takes the place of an earlier one: an annotation that of a default.
fn last_of_each(properties: Vec<Property>) -> Vec<Property> {
    let mut kept: Vec<Property> = Vec::new();
    for (name, value) in properties {
        match kept.iter_mut().find(|(known, _)| *known == name) {
            Some(known) => known.1 = value,
            None => kept.push((name, value)),
        }
    }
    kept
}

/// `org.systemd.property.TimeoutStopUSec: "uint64 1000000"`. A name in seconds, which systemd's interface
/// does not have, is turned into the one in microseconds.
fn of_annotation(key: &str, name: &str, value: &str) -> Result<Property> {
    let field = format!("annotations[{key:?}]");
    if name.len() < 3 || !name.chars().all(|c| c.is_ascii_alphabetic()) {
        return Err(Error::invalid(field, "is no name of a property"));
    }
    // The processes are the container's, and the delegation is what the driver stands on.
    if ["PIDs", "Delegate"].contains(&name) {
        return Err(Error::invalid(field, "is the runtime's to set"));
    }
    if let Some(stem) = name.strip_suffix("Sec").filter(|stem| !stem.ends_with('U')) {
        let microseconds = seconds(value)
            .ok_or_else(|| Error::invalid(&field, format!("{value:?} is no number of seconds")))?;
        return Ok((format!("{stem}USec"), Value::U64(microseconds)));
    }
    match gvariant::parse(value) {
        Ok(value) => Ok((name.to_owned(), value)),
        Err(reason) => Err(Error::invalid(
            field,
            format!("{value:?} is no value in GVariant's text format: {reason}"),
        )),
    }
}

/// Seconds, whole or not, as microseconds.
fn seconds(value: &str) -> Option<u64> {
    const MILLION: u64 = 1_000_000;
    if let Ok(fraction) = value.trim().parse::<f64>() {
        let microseconds = fraction * MILLION as f64;
        return (0.0..u64::MAX as f64).contains(&microseconds).then_some(microseconds as u64);
    }
    let whole = match gvariant::parse(value).ok()? {
        Value::Byte(value) => value.into(),
        Value::U16(value) => value.into(),
        Value::U32(value) => value.into(),
        Value::U64(value) => value,
        Value::I16(value) => u64::try_from(value).ok()?,
        Value::I32(value) => u64::try_from(value).ok()?,
        Value::I64(value) => u64::try_from(value).ok()?,
        _ => return None,
    };
    whole.checked_mul(MILLION)
}

/// What a knob will write where nothing was written before.
fn texts(setting: &Setting) -> Vec<String> {
    match setting {
        Setting::Text(text) | Setting::Memory { text, .. } => vec![text.clone()],
        Setting::Lines(text) => text.lines().map(str::to_owned).collect(),
        Setting::CpuMax { quota, period } => vec![cpu_max(*quota, *period, "")],
        // Takes a memory limit; writing it will say so.
        Setting::SwapTotal(_) => Vec::new(),
    }
}

/// The properties that say the same as a knob; none for what systemd knows nothing of. `texts` gives
/// what is written.
pub(super) fn of_knob(
    knob: &Knob,
    texts: &dyn Fn(&Setting) -> Result<Vec<String>>,
) -> Result<Vec<Property>> {
    for (file, setting) in &knob.choices {
        let lines = texts(setting)?;
        let found: Vec<Property> =
            lines.iter().flat_map(|text| of_file(file, text.trim())).collect();
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Ok(Vec::new())
}

fn of_file(file: &str, text: &str) -> Vec<Property> {
    let one = |name: &str, value: Option<Value>| {
        value.map(|value| (name.to_owned(), value)).into_iter().collect()
    };
    match file {
        "cpu.weight" => one("CPUWeight", number(text)),
        "cpu.max" => quota(text).unwrap_or_default(),
        "cpuset.cpus" => one("AllowedCPUs", mask(text)),
        "cpuset.mems" => one("AllowedMemoryNodes", mask(text)),
        "memory.min" => one("MemoryMin", number(text)),
        "memory.low" => one("MemoryLow", number(text)),
        "memory.high" => one("MemoryHigh", number(text)),
        "memory.max" => one("MemoryMax", number(text)),
        "memory.swap.max" => one("MemorySwapMax", number(text)),
        // systemd has no limit of 0; the kernel gets it all the same.
        "pids.max" if text == "0" => one("TasksMax", Some(Value::U64(1))),
        "pids.max" => one("TasksMax", number(text)),
        "io.weight" => one("IOWeight", number(text.strip_prefix("default ").unwrap_or(text))),
        _ => Vec::new(),
    }
}

/// systemd's infinity is the largest number.
fn number(text: &str) -> Option<Value> {
    if text == "max" { Some(Value::U64(u64::MAX)) } else { text.parse().ok().map(Value::U64) }
}

/// `cpu.max`: a quota and a period in microseconds. The quota is rounded up to a whole percent, so that
/// what systemd writes is never below what is asked for.
fn quota(text: &str) -> Option<Vec<Property>> {
    let (quota, period) = text.split_once(' ').unwrap_or((text, "100000"));
    let period: u64 = period.trim().parse().ok().filter(|period| *period > 0)?;
    let per_second = match quota {
        "max" => u64::MAX,
        quota => {
            let used = u128::from(quota.parse::<u64>().ok()?) * 1_000_000 / u128::from(period);
            u64::try_from(used).ok()?.max(1).checked_next_multiple_of(PERCENT)?
        }
    };
    // systemd's own default is the kernel's, and is called infinity.
    let period = if period == DEFAULT_PERIOD { u64::MAX } else { period };
    Some(vec![
        ("CPUQuotaPeriodUSec".to_owned(), Value::U64(period)),
        ("CPUQuotaPerSecUSec".to_owned(), Value::U64(per_second)),
    ])
}

/// `0-2,7` as a bit for each, lowest first.
fn mask(list: &str) -> Option<Value> {
    let mut bytes = Vec::new();
    for range in list.split(',').map(str::trim).filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if last >= MOST_CPUS {
            return None;
        }
        for index in first..=last {
            bytes.resize(bytes.len().max(index / 8 + 1), 0);
            bytes[index / 8] |= 1u8 << (index % 8);
        }
    }
    (!bytes.is_empty()).then(|| Value::bytes(&bytes))
}

/// The cgroup in which a user's systemd makes its slices, from that of the caller: it is the caller's
/// ancestor, or where logind puts it.
pub(super) fn root_of_user(unified: &Unified, uid: u32) -> PathBuf {
    let mut names = Vec::new();
    for name in unified.own.components() {
        names.push(name);
        let text = name.as_os_str().to_string_lossy();
        if text.starts_with("user@") && text.ends_with(".service") {
            return names.into_iter().collect();
        }
    }
    PathBuf::from(format!("user.slice/user-{uid}.slice/user@{uid}.service"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use oci_spec::runtime::LinuxResources;

    use super::super::resources::{Version, knobs};
    use super::*;

    fn place(path: &str, user: bool) -> std::result::Result<String, String> {
        let place = Place::parse(Some(Path::new(path)), "ID", user).map_err(|e| e.to_string())?;
        Ok(format!("{} {}", place.slice, place.below(Path::new("")).display()))
    }

    #[test]
    fn places() {
        for (path, user, expected) in [
            ("", false, "system.slice system.slice/bulkhead-ID.scope"),
            ("", true, "user.slice user.slice/bulkhead-ID.scope"),
            (":p:n", false, "system.slice system.slice/p-n.scope"),
            ("-.slice:p:n", false, "-.slice p-n.scope"),
            ("a-b-c.slice:p:n", false, "a-b-c.slice a.slice/a-b.slice/a-b-c.slice/p-n.scope"),
            (
                "kubepods-besteffort-pod1_2.slice:cri-containerd:f00",
                false,
                "kubepods-besteffort-pod1_2.slice kubepods.slice/kubepods-besteffort.slice/\
                 kubepods-besteffort-pod1_2.slice/cri-containerd-f00.scope",
            ),
        ] {
            assert_eq!(place(path, user).as_deref(), Ok(expected), "{path}");
        }
        for (path, part) in [
            ("/a/b", "expected \"slice:prefix:name\""),
            ("a.slice:b", "got \"a.slice:b\""),
            ("a.slice:b:c:d", "expected"),
            ("a:b:c", "does not end"),
            ("a--b.slice:b:c", "empty part"),
            ("-a.slice:b:c", "empty part"),
            (".slice:b:c", "empty part"),
            ("a/b.slice:b:c", "no name of a systemd unit"),
            ("a.slice:b:../c", "no name of a systemd unit"),
            ("a.slice:b:c'", "no name of a systemd unit"),
            ("a.slice:b:c.slice", "is a slice"),
        ] {
            let error = place(path, false).unwrap_err();
            assert!(error.contains(part), "{path}: {error}");
        }
    }

    fn scope(json: &str, annotations: &[(&str, &str)]) -> Result<Scope> {
        let resources: LinuxResources = serde_json::from_str(json).unwrap();
        let version = |_: &str| Some(Version::V2);
        let knobs = knobs(&resources, &version, &mut Vec::new()).unwrap();
        let owned = |(key, value): &(&str, &str)| (key.to_string(), value.to_string());
        let annotations: BTreeMap<String, String> = annotations.iter().map(owned).collect();
        let place = Place::parse(None, "ID", false).unwrap();
        place.scope("ID", &ServiceManager::system(), &knobs, annotations.iter())
    }

    #[test]
    fn limits_become_properties() {
        let of = |json| scope(json, &[]).unwrap().properties.split_off(9);
        let number = |name: &str, value| (name.to_owned(), Value::U64(value));
        for (json, expected) in [
            ("{}", vec![]),
            (r#"{"pids":{"limit":17}}"#, vec![number("TasksMax", 17)]),
            (r#"{"pids":{"limit":-1}}"#, vec![number("TasksMax", u64::MAX)]),
            (r#"{"pids":{"limit":0}}"#, vec![number("TasksMax", 1)]),
            (
                r#"{"memory":{"limit":100,"swap":300,"reservation":50}}"#,
                vec![
                    number("MemoryMax", 100),
                    number("MemorySwapMax", 200),
                    number("MemoryLow", 50),
                ],
            ),
            (
                r#"{"cpu":{"shares":1024,"quota":33333,"period":50000}}"#,
                vec![
                    number("CPUWeight", 100),
                    number("CPUQuotaPeriodUSec", 50_000),
                    number("CPUQuotaPerSecUSec", 670_000),
                ],
            ),
            (
                r#"{"cpu":{"quota":-1}}"#,
                vec![
                    number("CPUQuotaPeriodUSec", u64::MAX),
                    number("CPUQuotaPerSecUSec", u64::MAX),
                ],
            ),
            (
                r#"{"cpu":{"cpus":"0-1,9","mems":"0"}}"#,
                vec![
                    ("AllowedCPUs".to_owned(), Value::bytes(&[3, 2])),
                    ("AllowedMemoryNodes".to_owned(), Value::bytes(&[1])),
                ],
            ),
            (r#"{"blockIO":{"weight":1000}}"#, vec![number("IOWeight", 10_000)]),
            (
                r#"{"unified":{"memory.high":"5","memory.oom.group":"1","pids.max":"max"}}"#,
                vec![number("MemoryHigh", 5), number("TasksMax", u64::MAX)],
            ),
        ] {
            assert_eq!(of(json), expected, "{json}");
        }
    }

    #[test]
    fn annotations_are_properties() {
        let property = |name: &str, value: &str| {
            let key = format!("{ANNOTATION}{name}");
            let scope = scope("{}", &[(&key, value)]).map_err(|error| error.to_string())?;
            Ok::<_, String>(scope.properties)
        };
        for (name, text, expected, value) in [
            ("TimeoutStopSec", "1.5", "TimeoutStopUSec", Value::U64(1_500_000)),
            ("TimeoutStopSec", "uint32 2", "TimeoutStopUSec", Value::U64(2_000_000)),
            ("TimeoutStopUSec", "uint64 7", "TimeoutStopUSec", Value::U64(7)),
            ("After", "['a.service']", "After", Value::texts(["a.service"])),
            ("CollectMode", "'inactive'", "CollectMode", Value::text("inactive")),
        ] {
            let found = property(name, text).unwrap();
            let same: Vec<_> = found.iter().filter(|(name, _)| name == expected).collect();
            assert_eq!(same, [&(expected.to_owned(), value)], "{name}");
        }
        for (name, text, part) in [
            ("PIDs", "@au []", "the runtime's"),
            ("Ab", "1", "no name"),
            ("Exec_Start", "1", "no name"),
            ("After", "a.service", "GVariant"),
            ("TimeoutStopSec", "-1", "seconds"),
            ("TimeoutStopSec", "'x'", "seconds"),
        ] {
            let error = property(name, text).unwrap_err();
            assert!(error.contains(part) && error.contains(name), "{error}");
        }
    }

    #[test]
    fn subgroups_are_one_name() {
        let of = |name| scope("{}", &[(SUBGROUP, name)]).map(|scope| scope.subgroup);
        assert_eq!(of("container").unwrap().as_deref(), Some("container"));
        assert_eq!(of("").unwrap(), None);
        for name in ["a/b", "..", "a\nb"] {
            assert!(of(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_users_scopes_are_below_its_systemd() {
        let unified = |own: &str| Unified { mount_point: "/sys/fs/cgroup".into(), own: own.into() };
        let usual = "user.slice/user-7.slice/user@7.service";
        for (own, expected) in [
            (format!("{usual}/app.slice/run-1.scope"), usual),
            ("user.slice/user-7.slice/session-1.scope".to_owned(), usual),
            ("a/user@9.service/b".to_owned(), "a/user@9.service"),
        ] {
            assert_eq!(root_of_user(&unified(&own), 7), Path::new(expected));
        }
    }
}
