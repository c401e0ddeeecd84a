//! What [`Plan::create`] would fail with, seen without making or writing anything.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, faccessat};

use super::devices::Rules;
use super::layout::Layout;
use super::plan::Target;
use super::resources::{Absent, Knob, Value, Version};
use super::{Permission, Plan, children, knob, open_dir, open_path, v2};
use crate::error::{Call, Context, Error, Failure, Result, quote};
use crate::sys::bpf;

/// `PID_MAX_LIMIT` of the kernel.
const MOST_PIDS: u64 = 4 << 20;

/// Microseconds that the kernel takes for a period of the CPU controller.
const PERIODS: std::ops::RangeInclusive<u64> = 1_000..=1_000_000;

/// A directory of a hierarchy: the last on the way to a target that exists.
struct Nearest {
    dir: OwnedFd,
    path: PathBuf,
    /// It is the target itself.
    whole: bool,
}

impl Plan {
    /// Adds to `faults` what would fail, in the order of [`Plan::create`].
    pub(crate) fn check(&self, faults: &mut Vec<Error>, warnings: &mut Vec<String>) {
        let mut alive = Vec::new();
        for target in &self.targets {
            match self.check_target(target, warnings) {
                Ok(()) => alive.push(target),
                Err(error) if self.tolerates(&error) => {
                    faults.extend(self.without(target, &error).err());
                }
                Err(error) => faults.push(error),
            }
        }
        faults.extend(self.check_devices(&alive, warnings).err());
        for knob in &self.knobs {
            if let Some(target) = alive.iter().find(|target| target.has(knob)) {
                faults.extend(check_knob(target, knob, warnings).err());
            }
        }
    }

    fn check_target(&self, target: &Target, warnings: &mut Vec<String>) -> Result<()> {
        let context = || quote(target.path());
        let nearest = nearest(target).context("make cgroup", context())?;
        let access = AccessFlags::W_OK | AccessFlags::X_OK;
        faccessat(AT_FDCWD, &nearest.path, access, AtFlags::AT_EACCESS)
            .call("mkdirat")
            .context("make cgroup", context())?;
        if target.version == Version::V1 {
            return Ok(());
        }
        if !nearest.whole && is_full(&nearest) {
            let failure = Failure { call: "mkdirat", errno: Errno::EAGAIN };
            let text = format!("{} (cgroup.max.descendants or cgroup.max.depth)", context());
            return Err(Error::system("make cgroup", text, failure));
        }
        let knobs: Vec<&Knob> = self.knobs.iter().filter(|knob| target.has(knob)).collect();
        let mount = open_path(&target.mount_point).context("open", quote(&target.mount_point))?;
        let arriving =
            v2::arriving(&mount, &target.relative).context("read controllers of", context())?;
        let all = arriving.all;
        match knobs.iter().find(|knob| !v2::has(&arriving.present, &all, knob)) {
            None => {
                let lost: Vec<&String> = all.difference(&arriving.present).collect();
                if !lost.is_empty() && self.permission != Permission::Required {
                    warnings.push(format!(
                        "linux.cgroupsPath: {lost:?} are not delegated to {}: no limits of these can \
                         be set later",
                        context()
                    ));
                }
                Ok(())
            }
            Some(knob) => Err(v2::not_there(
                &target.mount_point,
                &target.relative,
                &all,
                knob,
                arriving.refusals.get(&knob.controller).map(String::as_str),
            )),
        }
    }

    fn check_devices(&self, alive: &[&Target], warnings: &mut Vec<String>) -> Result<()> {
        const FIELD: &str = "linux.resources.devices";
        let is_v1 = |target: &&&Target| target.controllers.iter().any(|name| name == "devices");
        let result = if alive.iter().any(|target| is_v1(&target)) {
            self.devices.v1_lines().map(drop)
        } else if alive.iter().any(|target| target.version == Version::V2) {
            // The kernel's verifier judges the program; it is attached to nothing and gone at once.
            bpf::load_device_program(&self.devices.program()).context("set", FIELD).map(drop)
        } else if self.permission == Permission::Required && !self.targets.is_empty() {
            // Why there is no hierarchy is told already.
            Ok(())
        } else {
            return Ok(());
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

/// The controllers that a container without a `cgroupsPath` would have, and what keeps others away.
#[derive(Debug, Default)]
pub(crate) struct Delegated {
    pub controllers: BTreeSet<String>,
    /// Why a hierarchy or controller is not among them.
    pub reasons: Vec<String>,
}

/// What the caller may give a container.
pub(crate) fn delegated(layout: &Layout) -> Result<Delegated> {
    let linux = oci_spec::runtime::Linux::default();
    let plan =
        super::plan(&linux, "bulkhead-check", layout, Permission::Tolerated, &mut Vec::new())?;
    let mut found = Delegated::default();
    for target in &plan.targets {
        if let Err(error) = plan.check_target(target, &mut Vec::new()) {
            found.reasons.push(error.to_string());
            continue;
        }
        found.controllers.extend(target.controllers.iter().cloned());
        if target.version == Version::V2 {
            let context = || quote(target.path());
            let mount = open_path(&target.mount_point).context("open", context())?;
            let arriving = v2::arriving(&mount, &target.relative).context("read", context())?;
            found.controllers.extend(arriving.present);
            let reasons = arriving.refusals.into_iter();
            found.reasons.extend(reasons.map(|(name, reason)| format!("{name}{reason}")));
        }
    }
    Ok(found)
}

/// Whether the kernel takes a program that restricts devices.
pub(crate) fn device_programs() -> Result<(), Failure> {
    let rules = Rules::new(&oci_spec::runtime::Linux::default());
    let program = rules.map(|rules| rules.program()).unwrap_or_default();
    bpf::load_device_program(&program).map(drop)
}

fn nearest(target: &Target) -> Result<Nearest, Failure> {
    let mount = open_path(&target.mount_point)?;
    for relative in target.relative.ancestors() {
        match open_dir(&mount, relative) {
            Ok(dir) => {
                let path = target.mount_point.join(relative);
                return Ok(Nearest { dir, path, whole: relative == target.relative });
            }
            Err(failure) if failure.errno == Errno::ENOENT => {}
            Err(failure) => return Err(failure),
        }
    }
    Err(Failure { call: "openat2", errno: Errno::ENOENT })
}

/// Whether a limit of the directory forbids one more below it.
fn is_full(nearest: &Nearest) -> bool {
    let present = knob::read(&nearest.dir, "cgroup.stat").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("nr_descendants "))?;
        line.parse::<u64>().ok()
    });
    let most = knob::number(&nearest.dir, "cgroup.max.descendants");
    let none_below = knob::number(&nearest.dir, "cgroup.max.depth") == Some(0);
    none_below || matches!((present, most), (Some(present), Some(most)) if present >= most)
}

/// One limit: that its file is there, and that the value is one that the kernel can take.
fn check_knob(target: &Target, knob: &Knob, warnings: &mut Vec<String>) -> Result<()> {
    let nearest = nearest(target).context("set", &knob.field)?;
    let file = match like(&nearest, target, knob) {
        Some(file) => file,
        None => {
            let files: Vec<&str> = knob.choices.iter().map(|(file, _)| file.as_str()).collect();
            let reason = format!("the kernel has no {}", files.join(" nor "));
            match knob.absent {
                Absent::Ignore => {}
                Absent::Warn => warnings.push(format!("{} is ignored: {reason}", knob.field)),
                Absent::Error => return Err(Error::unsupported("set", &knob.field, reason)),
            }
            return Ok(());
        }
    };
    let value = &knob.choices.iter().find(|(name, _)| *name == file).expect("it is one of them").1;
    match refused(&nearest, &file, value) {
        None => Ok(()),
        Some(failure) => {
            let text = match value {
                Value::Text(text) | Value::Lines(text) | Value::Memory { text, .. } => text.clone(),
                Value::CpuMax { quota, period } => super::resources::cpu_max(*quota, *period, ""),
                Value::SwapTotal(total) => total.to_string(),
            };
            let subject = format!("{} ({file} {text:?})", knob.field);
            Err(Error::system("set", subject, failure))
        }
    }
}

/// The first of the knob's files that the new directory will have, seen at one that exists. Where
/// none can be seen it is taken for granted.
fn like(nearest: &Nearest, target: &Target, knob: &Knob) -> Option<String> {
    let has = |dir: &OwnedFd, file: &str| knob::exists(dir, file);
    let first = |dir: &OwnedFd| {
        knob.choices.iter().map(|(file, _)| file).find(|file| has(dir, file)).cloned()
    };
    // Files of a hierarchy's root are fewer, and those of a directory without the controller are none.
    if nearest.path != target.mount_point
        && let Some(file) = first(&nearest.dir)
    {
        return Some(file);
    }
    let mount = open_path(&target.mount_point).ok()?;
    let mut seen = nearest.path != target.mount_point && target.version == Version::V1;
    for name in children(&mount).unwrap_or_default() {
        use std::os::unix::ffi::OsStrExt;
        let name = Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()));
        let Ok(dir) = open_dir(&mount, name) else { continue };
        if let Some(file) = first(&dir) {
            return Some(file);
        }
        seen |= target.version == Version::V1;
    }
    (!seen).then(|| knob.choices[0].0.clone())
}

/// What the kernel answers to a value that it cannot take.
fn refused(nearest: &Nearest, file: &str, value: &Value) -> Option<Failure> {
    let fails = |errno| Some(Failure { call: "write", errno });
    let number = |text: &str| text.trim().parse::<i64>().ok();
    match (file, value) {
        ("cpu.cfs_quota_us", Value::Text(text)) => match number(text) {
            Some(quota) if (0..1_000).contains(&quota) => fails(Errno::EINVAL),
            _ => None,
        },
        ("cpu.cfs_period_us", Value::Text(text)) => match text.trim().parse::<u64>() {
            Ok(period) if !PERIODS.contains(&period) => fails(Errno::EINVAL),
            _ => None,
        },
        (_, Value::CpuMax { quota, period }) => {
            let short = quota.is_some_and(|quota| (1..1_000).contains(&quota));
            let odd = period.is_some_and(|period| period != 0 && !PERIODS.contains(&period));
            if short || odd { fails(Errno::EINVAL) } else { None }
        }
        ("pids.max", Value::Text(text)) => match text.trim().parse::<u64>() {
            Ok(most) if most > MOST_PIDS => fails(Errno::EINVAL),
            _ => None,
        },
        ("cpuset.cpus" | "cpuset.mems" | "cpus" | "mems", Value::Text(text)) => {
            let asked = parse_list(text.trim())?;
            let outside = match list_at(&nearest.dir, file) {
                // v1: a child has no more than its parent.
                Some(above) if !above.is_empty() && !v2_style(&nearest.dir) => {
                    !asked.is_subset(&above)
                }
                _ => asked.last() > possible(file)?.last(),
            };
            if outside { fails(Errno::EINVAL) } else { None }
        }
        _ => None,
    }
}

fn v2_style(dir: &OwnedFd) -> bool {
    knob::exists(dir, "cgroup.controllers")
}

fn list_at(dir: &OwnedFd, file: &str) -> Option<BTreeSet<u32>> {
    parse_list(knob::read(dir, file).ok()?.trim())
}

fn possible(file: &str) -> Option<BTreeSet<u32>> {
    let file = if file.ends_with("cpus") {
        "/sys/devices/system/cpu/possible"
    } else {
        "/sys/devices/system/node/possible"
    };
    parse_list(std::fs::read_to_string(file).ok()?.trim())
}

/// The numbers of a list such as `0-3,7`; none for what is no list.
pub(crate) fn parse_list(text: &str) -> Option<BTreeSet<u32>> {
    /// More CPUs than the kernel can be built for.
    const MOST: u32 = 1 << 16;
    let mut numbers = BTreeSet::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if last >= MOST {
            numbers.insert(last);
        } else {
            numbers.extend(first..=last);
        }
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        let of = |text| parse_list(text).map(|set| set.into_iter().collect::<Vec<_>>());
        assert_eq!(of("0-2,5"), Some(vec![0, 1, 2, 5]));
        assert_eq!(of(""), Some(vec![]));
        assert_eq!(of("x"), None);
        assert_eq!(of("0-4294967295"), Some(vec![u32::MAX]));
    }

    #[test]
    fn values_that_the_kernel_refuses() {
        let dir = open_path(Path::new("/proc")).unwrap();
        let nearest = Nearest { dir, path: PathBuf::new(), whole: false };
        let text = |text: &str| Value::Text(text.to_owned());
        let cpu_max = |quota, period| Value::CpuMax { quota, period };
        for (file, value, fine) in [
            ("cpu.cfs_quota_us", text("5"), false),
            ("cpu.cfs_quota_us", text("-1"), true),
            ("cpu.cfs_quota_us", text("1000"), true),
            ("cpu.cfs_period_us", text("999"), false),
            ("cpu.max", cpu_max(Some(5), None), false),
            ("cpu.max", cpu_max(Some(-1), Some(100_000)), true),
            ("cpu.max", cpu_max(None, Some(2_000_000)), false),
            ("pids.max", text("4194304"), true),
            ("pids.max", text("4194305"), false),
            ("pids.max", text("max"), true),
            ("cpuset.cpus", text("0"), true),
            ("cpuset.cpus", text("4000"), false),
            ("memory.max", text("1"), true),
        ] {
            assert_eq!(refused(&nearest, file, &value).is_none(), fine, "{file} {value:?}");
        }
    }
}
