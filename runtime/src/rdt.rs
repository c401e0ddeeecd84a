//! `linux.intelRdt`: a share of cache and memory bandwidth, and the counters of both.
//!
//! A directory of the resctrl file system is a class of service: its file `schemata` has the share, a
//! process is in it by its number in `tasks`. Below `mon_groups` are directories that only count. Whatever
//! a class has is written while it is empty, as with cgroups; the container's process is put in when it
//! waits for `start`, and its children inherit. `exec` comes from outside, so it is put in as well.
//!
//! Without `closID` the class is the container's, named by its id, and goes with it. With one it belongs to
//! whoever made it: it is made if the configuration says how, compared if it is there, and never removed.
//!
//! `config-linux.md`, "IntelRdt"; <https://docs.kernel.org/filesystems/resctrl.html>.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use oci_spec::runtime::{Linux, LinuxIntelRdt};
use serde::{Deserialize, Serialize};

use crate::cgroup::{knob, layout, open_dir, open_path};
use crate::error::{Call, Context, Error, ErrorKind, Failure, Result, quote};

const FIELD: &str = "linux.intelRdt";
/// Directories that are there for other purposes.
const RESERVED: [&str; 3] = ["info", "mon_data", "mon_groups"];

/// Whether a name can be that of a class or a monitoring group.
pub(crate) fn is_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..")
        && !name.contains(['/', '\0', '\n'])
        && !RESERVED.contains(&name)
}

/// A container's directories, as the state file has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Recorded {
    /// Where resctrl is mounted.
    mount_point: PathBuf,
    /// The class's directory; empty for the root.
    class: String,
    /// Whether it is the container's and goes with it.
    own: bool,
    /// The monitoring group's directory below the class's `mon_groups`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    monitor: Option<String>,
}

/// A line to write to `schemata`, and the field that it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    field: String,
    text: String,
    /// A class that is there must have it already.
    compared: bool,
}

/// What will be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    at: Recorded,
    lines: Vec<Line>,
}

/// Plans the classes of a validated configuration. Reads the mount table if there is anything to plan.
///
/// # Errors
/// No resctrl is mounted.
pub(crate) fn plan(linux: &Linux, id: &str) -> Result<Option<Plan>> {
    let Some(asked) = linux.intel_rdt() else { return Ok(None) };
    const MOUNTS: &str = "/proc/self/mountinfo";
    let table = std::fs::read(MOUNTS).call("read").context("read", quote(MOUNTS))?;
    let mount_point = mounted(&table).ok_or_else(|| {
        Error::unsupported("apply", FIELD, "no resctrl file system is mounted on this host")
    })?;
    planned(asked, id, mount_point).map(Some)
}

/// Where the mount table has resctrl.
fn mounted(table: &[u8]) -> Option<PathBuf> {
    table.split(|&b| b == b'\n').find_map(|line| {
        let fields: Vec<&[u8]> = line.split(|&b| b == b' ').collect();
        let dash = fields.iter().position(|field| *field == b"-")?;
        let point = fields.get(4).filter(|_| dash > 4)?;
        (*fields.get(dash + 1)? == b"resctrl").then(|| layout::unescape(point))
    })
}

fn planned(asked: &LinuxIntelRdt, id: &str, mount_point: PathBuf) -> Result<Plan> {
    let class = asked.clos_id().as_deref().filter(|class| !class.is_empty());
    let monitor = asked.enable_monitoring().unwrap_or(false).then(|| id.to_owned());
    if (class.is_none() || monitor.is_some()) && !is_name(id) {
        let reason =
            format!("the container's id {id:?} is the name of another directory of resctrl");
        return Err(Error::invalid(FIELD, reason));
    }
    let name = class.map_or(id, |class| if class == "/" { "" } else { class });
    let at = Recorded { mount_point, class: name.to_owned(), own: class.is_none(), monitor };
    Ok(Plan { at, lines: lines(asked) })
}

/// In the order in which the specification wants them written.
fn lines(asked: &LinuxIntelRdt) -> Vec<Line> {
    let given = |name: &str, text: &Option<String>| {
        let text = text.as_ref().filter(|text| !text.is_empty())?;
        Some(Line { field: format!("{FIELD}.{name}"), text: text.clone(), compared: true })
    };
    let old = [("l3CacheSchema", asked.l3_cache_schema()), ("memBwSchema", asked.mem_bw_schema())];
    let all = asked.schemata().iter().flatten().enumerate().map(|(index, text)| Line {
        field: format!("{FIELD}.schemata[{index}]"),
        text: text.clone(),
        compared: false,
    });
    old.into_iter().filter_map(|(name, text)| given(name, text)).chain(all).collect()
}

/// Whether the file has what a line asks for: `L3:0=7f0;1=1f`, each number of the domains that it names.
fn has(file: &str, line: &str) -> bool {
    let Some((resource, domains)) = split(line) else { return false };
    let found = file.lines().filter_map(split).find(|(name, _)| *name == resource);
    found.is_some_and(|(_, there)| domains.iter().all(|domain| there.contains(domain)))
}

/// The resource of a line, and each domain with its value: a bit mask, or for bandwidth a number. The file
/// pads both with blanks and zeroes.
fn split(line: &str) -> Option<(&str, Vec<(u32, u64)>)> {
    let (resource, domains) = line.trim().split_once(':')?;
    let radix = if resource == "MB" || resource == "SMBA" { 10 } else { 16 };
    let domains = domains.split(';').map(|domain| {
        let (id, value) = domain.split_once('=')?;
        Some((id.trim().parse().ok()?, u64::from_str_radix(value.trim(), radix).ok()?))
    });
    Some((resource, domains.collect::<Option<_>>()?))
}

impl Recorded {
    fn class(&self) -> &Path {
        Path::new(&self.class)
    }

    fn monitor(&self) -> Option<PathBuf> {
        self.monitor.as_ref().map(|name| self.class().join("mon_groups").join(name))
    }

    fn shown(&self, below: &Path) -> String {
        quote(self.mount_point.join(below))
    }

    /// A state file is written by us and readable by others, and a path in it is removed as root.
    pub(crate) fn check(&self) -> Result<()> {
        let class = is_name(&self.class) || (self.class.is_empty() && !self.own);
        if self.mount_point.is_absolute() && class && self.monitor.as_deref().is_none_or(is_name) {
            return Ok(());
        }
        let reason = "is not a directory of resctrl";
        Err(Error::new(ErrorKind::Invalid, "open", self.shown(self.class()), reason))
    }

    /// The file system that the directories are in.
    pub(crate) fn root(&self) -> Result<OwnedFd> {
        open_path(&self.mount_point).context("open", quote(&self.mount_point))
    }

    /// Puts a process into the class, and then into the group that counts it.
    pub(crate) fn join(&self, pid: i32) -> Result<()> {
        let root = self.root()?;
        for below in [Some(self.class().to_owned()), self.monitor()].into_iter().flatten() {
            let put = || {
                let dir = open_dir(&root, &below)?;
                knob::put(&dir, "tasks", &pid.to_string())
            };
            put().context("join", format!("{} ({FIELD})", self.shown(&below.join("tasks"))))?;
        }
        Ok(())
    }

    /// Writes other schemas to the class of a container that exists.
    pub(crate) fn update(&self, asked: &LinuxIntelRdt) -> Result<()> {
        let root = self.root()?;
        let dir = open_dir(&root, self.class()).context("open", self.shown(self.class()))?;
        lines(asked).iter().try_for_each(|line| write(&root, &dir, line))
    }

    /// The directory that is the container's. Its monitoring group goes with a class.
    fn removable(&self) -> Option<PathBuf> {
        self.own.then(|| self.class().to_owned()).or_else(|| self.monitor())
    }

    /// As [`Recorded::remove`], of a container that may not have come to making them: a directory with a
    /// process in it is somebody else's, and stays.
    pub(crate) fn remove_unused(&self) -> Result<()> {
        self.check()?;
        let tasks =
            |below: &Path| knob::read(&open_dir(open_path(&self.mount_point)?, below)?, "tasks");
        match self.removable().map(|below| tasks(&below)) {
            Some(Ok(tasks)) if !tasks.trim().is_empty() => Ok(()),
            _ => self.remove(),
        }
    }

    /// Removes what is the container's; the rest is not its own.
    ///
    /// # Errors
    /// It is there and cannot be removed.
    pub(crate) fn remove(&self) -> Result<()> {
        self.check()?;
        let root = match open_path(&self.mount_point) {
            Err(failure) if failure.errno == Errno::ENOENT => return Ok(()),
            opened => opened.context("open", quote(&self.mount_point))?,
        };
        match self.removable() {
            Some(below) => match unlinkat(&root, &below, UnlinkatFlags::RemoveDir) {
                Err(Errno::ENOENT) => Ok(()),
                removed => removed.call("rmdir").context("remove", self.shown(&below)),
            },
            None => Ok(()),
        }
    }
}

/// Directories that were made, which are removed with this value.
#[derive(Debug)]
pub(crate) struct Made {
    at: Recorded,
    root: OwnedFd,
    paths: Vec<PathBuf>,
}

impl Plan {
    /// What the state file records before [`Plan::create`].
    pub(crate) fn recorded(&self) -> &Recorded {
        &self.at
    }

    /// Makes the class and the monitoring group, and writes the share.
    ///
    /// # Errors
    /// A class that is the container's is there already; one that is not has another share, or is missing
    /// and nothing says what it should have. The field whose line the kernel refuses.
    pub(crate) fn create(&self) -> Result<Made> {
        let at = &self.at;
        let mut made = Made { at: at.clone(), root: at.root()?, paths: Vec::new() };
        let is_new = self.make_class(&mut made)?;
        let dir = open_dir(&made.root, at.class()).context("open", at.shown(at.class()))?;
        if !is_new {
            self.compare(&dir)?;
        }
        for line in self.lines.iter().filter(|line| is_new || !line.compared) {
            write(&made.root, &dir, line)?;
        }
        if let Some(monitor) = at.monitor() {
            made.make(&monitor).context("make", self.subject(&monitor, "enableMonitoring"))?;
        }
        Ok(made)
    }

    fn subject(&self, below: &Path, name: &str) -> String {
        format!("{} ({FIELD}.{name})", self.at.shown(below))
    }

    /// Whether the class is new.
    fn make_class(&self, made: &mut Made) -> Result<bool> {
        let class = self.at.class();
        if self.at.own {
            let subject = format!("{} ({FIELD})", self.at.shown(class));
            return made.make(class).context("make", subject).map(|()| true);
        }
        let is_there = open_dir(&made.root, class);
        match is_there {
            Ok(_) => Ok(false),
            Err(failure) if failure.errno == Errno::ENOENT && !self.lines.is_empty() => {
                made.make(class).context("make", self.subject(class, "closID")).map(|()| true)
            }
            Err(failure) => Err(Error::system("find", self.subject(class, "closID"), failure)),
        }
    }

    /// Refuses a class that has another share than asked for.
    fn compare(&self, dir: &OwnedFd) -> Result<()> {
        let class = self.at.class();
        let file = knob::read(dir, "schemata").context("read", self.subject(class, "closID"))?;
        match self.lines.iter().find(|line| line.compared && !has(&file, &line.text)) {
            None => Ok(()),
            Some(line) => {
                let there = file.lines().map(str::trim).collect::<Vec<_>>().join(", ");
                let reason =
                    format!("{:?} is not what {} has: {there}", line.text, self.at.shown(class));
                Err(Error::invalid(&line.field, reason))
            }
        }
    }
}

/// Writes one line, with the kernel's own words when it refuses.
fn write(root: &OwnedFd, dir: &OwnedFd, line: &Line) -> Result<()> {
    knob::put(dir, "schemata", &format!("{}\n", line.text)).map_err(|failure| {
        let info = open_dir(root, Path::new("info"));
        let said = info.and_then(|info| knob::read(info, "last_cmd_status")).unwrap_or_default();
        let said = match said.trim() {
            "" | "ok" => String::new(),
            said => format!(": {said}"),
        };
        Error::system("set", format!("{} (schemata {:?}{said})", line.field, line.text), failure)
    })
}

impl Made {
    fn make(&mut self, below: &Path) -> Result<(), Failure> {
        mkdirat(&self.root, below, Mode::from_bits_truncate(0o755)).call("mkdirat")?;
        self.paths.push(below.to_owned());
        Ok(())
    }

    /// Puts a process in.
    pub(crate) fn join(&self, pid: i32) -> Result<()> {
        self.at.join(pid)
    }

    /// Leaves the directories for the container's life.
    pub(crate) fn keep(mut self) {
        self.paths.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for path in self.paths.iter().rev() {
            // The error that is on its way out matters more.
            let _ = unlinkat(self.root.as_fd(), path, UnlinkatFlags::RemoveDir);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(json: &str) -> LinuxIntelRdt {
        serde_json::from_str(json).unwrap()
    }

    fn plan_of(json: &str, id: &str) -> Result<Plan> {
        planned(&asked(json), id, "/sys/fs/resctrl".into())
    }

    #[test]
    fn the_class_is_the_containers_or_is_named() {
        let paths = |json: &str| {
            let at = plan_of(json, "c1").unwrap().at;
            let monitor = at.monitor().map(|path| path.display().to_string());
            (at.class.clone(), at.own, monitor.unwrap_or_default())
        };
        let own = |class: &str, own, monitor: &str| (class.to_owned(), own, monitor.to_owned());
        assert_eq!(paths("{}"), own("c1", true, ""));
        assert_eq!(paths(r#"{"closID":""}"#), own("c1", true, ""));
        assert_eq!(paths(r#"{"enableMonitoring":true}"#), own("c1", true, "c1/mon_groups/c1"));
        assert_eq!(paths(r#"{"closID":"gold"}"#), own("gold", false, ""));
        assert_eq!(paths(r#"{"closID":"/"}"#), own("", false, ""));
        let monitored = r#"{"closID":"/","enableMonitoring":true}"#;
        assert_eq!(paths(monitored), own("", false, "mon_groups/c1"));
    }

    #[test]
    fn an_id_that_resctrl_needs_itself_is_refused() {
        let error = plan_of("{}", "mon_groups").unwrap_err().to_string();
        assert!(
            error.starts_with("check linux.intelRdt: the container's id \"mon_groups\""),
            "{error}"
        );
        assert!(plan_of(r#"{"closID":"gold"}"#, "info").is_ok());
        assert!(plan_of(r#"{"closID":"gold","enableMonitoring":true}"#, "info").is_err());
    }

    #[test]
    fn lines_are_written_in_the_order_of_the_specification() {
        let asked = asked(
            r#"{"schemata":["L2:0=f","MB:0=20"],"memBwSchema":"MB:0=50","l3CacheSchema":"L3:0=f"}"#,
        );
        let lines = lines(&asked);
        let shown: Vec<_> = lines.iter().map(|l| (&*l.field, &*l.text, l.compared)).collect();
        assert_eq!(
            shown,
            [
                ("linux.intelRdt.l3CacheSchema", "L3:0=f", true),
                ("linux.intelRdt.memBwSchema", "MB:0=50", true),
                ("linux.intelRdt.schemata[0]", "L2:0=f", false),
                ("linux.intelRdt.schemata[1]", "MB:0=20", false),
            ]
        );
    }

    #[test]
    fn shares_are_compared_as_numbers() {
        // As the kernel prints it.
        let file = "    MB:0= 20;1=100\n    L3:0=007f0;1=0001f\nL3CODE:0=3\n";
        for line in ["L3:0=7f0;1=1f", "L3:1=1F", "MB:0=20", "MB:1=100;0=20", "L3CODE:0=0003"] {
            assert!(has(file, line), "{line}");
        }
        for line in
            ["L3:0=7f1", "L3:2=1f", "MB:0=32", "L2:0=7f0", "L3", "L3:", "L3:0", "L3:x=1", ""]
        {
            assert!(!has(file, line), "{line}");
        }
    }

    #[test]
    fn resctrl_is_found_in_the_mount_table() {
        let table = b"21 1 0:5 / /proc rw - proc proc rw\n\
            30 1 0:9 / /sys/fs/res\\040ctrl rw,nosuid shared:3 - resctrl resctrl rw\n";
        assert_eq!(mounted(table), Some("/sys/fs/res ctrl".into()));
        assert_eq!(mounted(b"21 1 0:5 / /resctrl rw - tmpfs resctrl rw\n"), None);
        assert_eq!(mounted(b"\n- resctrl"), None);
    }

    #[test]
    fn a_record_cannot_lead_elsewhere() {
        let at = |mount_point: &str, class: &str, own, monitor: Option<&str>| {
            let (mount_point, class) = (mount_point.into(), class.to_owned());
            Recorded { mount_point, class, own, monitor: monitor.map(str::to_owned) }
                .check()
                .is_ok()
        };
        assert!(at("/r", "c1", true, Some("c1")) && at("/r", "", false, None));
        assert!(!at("r", "c1", true, None) && !at("/r", "", true, None));
        assert!(!at("/r", "..", true, None) && !at("/r", "a/b", false, None));
        assert!(!at("/r", "c1", true, Some("../../x")) && !at("/r", "info", false, None));
    }
}
