//! `linux.resources` as knobs: which file gets which value. Pure.
//!
//! The configuration speaks of cgroup v1. Where a controller lives in cgroup v2 its values are
//! converted as [runc](https://github.com/opencontainers/runc/blob/main/docs/cgroup-v2.md) and crun
//! do, so that a workload gets the same share under any of them. Zero means *unset* for most
//! fields, as engines written in Go send it; `pids.limit` is the exception, 0 is a limit.
//!
//! Kernel: [v1](https://docs.kernel.org/admin-guide/cgroup-v1/),
//! [v2](https://docs.kernel.org/admin-guide/cgroup-v2.html).

use std::collections::BTreeMap;
use std::fmt::Display;

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxNetwork, LinuxRdma,
    LinuxResources, LinuxThrottleDevice,
};

use crate::error::{Error, Result};

/// The interface a controller is found behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// A hierarchy of its own.
    V1,
    /// The cgroup2 hierarchy.
    V2,
}

/// What a file gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// This text in one write.
    Text(String),
    /// Each line in a write of its own, as the kernel wants keyed files.
    Lines(String),
    /// A memory limit; with `check` one below the present use is refused.
    Memory { text: String, limit: i64, check: bool },
    /// `cpu.max`: what is `None` keeps the value that the file has.
    CpuMax { quota: Option<i64>, period: Option<u64> },
    /// `memory.swap.max` from memory and swap together, less the file `memory.max`.
    SwapTotal(i64),
}

/// What it means that none of a knob's files exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Absent {
    /// The request cannot be carried out.
    Error,
    /// The request goes unheard, with a warning.
    Warn,
    /// There is nothing to limit.
    Ignore,
}

/// One setting: the first of `choices` whose file exists is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Knob {
    /// The controller whose directory holds the file.
    pub controller: String,
    /// Where the controller is.
    pub version: Version,
    /// JSON path of the field this comes from.
    pub field: String,
    /// Files and values in order of preference.
    pub choices: Vec<(String, Value)>,
    /// See [`Absent`].
    pub absent: Absent,
}

impl Knob {
    /// Whether it lifts a limit and sets none.
    pub fn is_no_limit(&self) -> bool {
        self.choices.iter().all(|(_, value)| match value {
            Value::Text(text) => text == "max",
            Value::Memory { limit, .. } => *limit < 0,
            Value::SwapTotal(total) => *total < 0,
            Value::CpuMax { quota, .. } => quota.is_none_or(|quota| quota < 0),
            Value::Lines(_) => false,
        })
    }
}

/// The knobs of `resources` in the order in which they are written. `version` says where a
/// controller is, if anywhere. Devices are no knobs: see [`super::devices`].
///
/// # Errors
/// A field that needs a controller which is missing, or whose value makes no sense.
pub(crate) fn knobs(
    resources: &LinuxResources,
    version: &dyn Fn(&str) -> Option<Version>,
    warnings: &mut Vec<String>,
) -> Result<Vec<Knob>> {
    let mut list = List { version, knobs: Vec::new(), warnings };
    if let Some(cpu) = resources.cpu() {
        list.cpu(cpu)?;
        list.cpuset(cpu)?;
    }
    if let Some(memory) = resources.memory() {
        list.memory(memory)?;
    }
    if let Some(pids) = resources.pids() {
        let limit = Value::Text(or_max(pids.limit()));
        list.put("pids", "pids.limit", &[("pids.max", limit.clone())], &[("pids.max", limit)])?;
    }
    if let Some(io) = resources.block_io() {
        list.block_io(io)?;
    }
    for (i, limit) in resources.hugepage_limits().iter().flatten().enumerate() {
        list.hugepage(i, limit)?;
    }
    if let Some(network) = resources.network() {
        list.network(network)?;
    }
    // Sorted: the same configuration gives the same system calls.
    let rdma: BTreeMap<_, _> = resources.rdma().iter().flatten().collect();
    for (device, limit) in rdma {
        list.rdma(device, limit)?;
    }
    let unified: BTreeMap<_, _> = resources.unified().iter().flatten().collect();
    for (file, value) in unified {
        list.unified(file, value)?;
    }
    Ok(list.knobs)
}

struct List<'a> {
    version: &'a dyn Fn(&str) -> Option<Version>,
    knobs: Vec<Knob>,
    warnings: &'a mut Vec<String>,
}

fn text(value: impl Display) -> Value {
    Value::Text(value.to_string())
}

fn or_max(value: i64) -> String {
    if value < 0 { "max".to_string() } else { value.to_string() }
}

/// Go engines send 0 for a field that was not given.
fn given<T: Default + PartialEq>(value: Option<T>) -> Option<T> {
    value.filter(|v| *v != T::default())
}

fn path(field: &str) -> String {
    format!("linux.resources.{field}")
}

impl List<'_> {
    /// Adds a knob with its v1 files or its v2 files, whichever interface the controller has. An
    /// empty list means that this interface cannot do it.
    fn put(
        &mut self,
        controller: &str,
        field: &str,
        v1: &[(&str, Value)],
        v2: &[(&str, Value)],
    ) -> Result<()> {
        self.put_absent(controller, field, v1, v2, Absent::Error)
    }

    fn put_absent(
        &mut self,
        controller: &str,
        field: &str,
        v1: &[(&str, Value)],
        v2: &[(&str, Value)],
        absent: Absent,
    ) -> Result<()> {
        let missing = |reason: String| Err(Error::unsupported("set", path(field), reason));
        let Some(version) = (self.version)(controller) else {
            return missing(format!("no cgroup hierarchy has the {controller} controller"));
        };
        let choices = if version == Version::V1 { v1 } else { v2 };
        if choices.is_empty() {
            return missing(format!("cgroup {version:?} has no such setting").to_lowercase());
        }
        self.knobs.push(Knob {
            controller: controller.to_string(),
            version,
            field: path(field),
            choices: choices.iter().map(|(f, v)| (f.to_string(), v.clone())).collect(),
            absent,
        });
        Ok(())
    }

    fn warn(&mut self, field: &str, reason: &str) {
        self.warnings.push(format!("{} {reason}", path(field)));
    }

    fn is_v2(&self, controller: &str) -> bool {
        (self.version)(controller) == Some(Version::V2)
    }

    fn cpu(&mut self, cpu: &LinuxCpu) -> Result<()> {
        if let Some(shares) = given(cpu.shares()) {
            let weight = text(weight_of_shares(shares));
            let field = "cpu.shares";
            self.put("cpu", field, &[("cpu.shares", text(shares))], &[("cpu.weight", weight)])?;
        }
        let (quota, period) = (given(cpu.quota()), given(cpu.period()));
        if self.is_v2("cpu") {
            if quota.is_some() || period.is_some() {
                let field = if quota.is_some() { "cpu.quota" } else { "cpu.period" };
                self.put("cpu", field, &[], &[("cpu.max", Value::CpuMax { quota, period })])?;
            }
        } else {
            if let Some(period) = period {
                self.put("cpu", "cpu.period", &[("cpu.cfs_period_us", text(period))], &[])?;
            }
            if let Some(quota) = quota {
                self.put("cpu", "cpu.quota", &[("cpu.cfs_quota_us", text(quota))], &[])?;
            }
        }
        if let Some(burst) = cpu.burst() {
            let burst = text(burst);
            let v1 = [("cpu.cfs_burst_us", burst.clone())];
            self.put("cpu", "cpu.burst", &v1, &[("cpu.max.burst", burst)])?;
        }
        // The kernel accepts a realtime budget only below a parent that has one. The parent belongs
        // to whoever made it, and giving it a budget takes time from the whole host.
        if let Some(period) = given(cpu.realtime_period()) {
            self.put("cpu", "cpu.realtimePeriod", &[("cpu.rt_period_us", text(period))], &[])?;
        }
        if let Some(runtime) = given(cpu.realtime_runtime()) {
            self.put("cpu", "cpu.realtimeRuntime", &[("cpu.rt_runtime_us", text(runtime))], &[])?;
        }
        if let Some(idle) = cpu.idle() {
            let idle = [("cpu.idle", text(idle))];
            self.put("cpu", "cpu.idle", &idle, &idle)?;
        }
        Ok(())
    }

    fn cpuset(&mut self, cpu: &LinuxCpu) -> Result<()> {
        for (field, value, file) in [
            ("cpu.cpus", cpu.cpus(), ["cpuset.cpus", "cpus"]),
            ("cpu.mems", cpu.mems(), ["cpuset.mems", "mems"]),
        ] {
            if let Some(value) = value.as_ref().filter(|v| !v.is_empty()) {
                // The second name is that of a hierarchy mounted with `noprefix`.
                let v1 = file.map(|f| (f, text(value)));
                self.put("cpuset", field, &v1, &v1[..1])?;
            }
        }
        Ok(())
    }

    fn memory(&mut self, memory: &LinuxMemory) -> Result<()> {
        let (limit, swap) = (given(memory.limit()), given(memory.swap()));
        if let (Some(limit @ 1..), Some(swap @ 1..)) = (limit, swap)
            && swap < limit
        {
            return Err(Error::invalid(
                path("memory.swap"),
                format!("{swap} is memory and swap together and below the memory limit {limit}"),
            ));
        }
        if let Some(limit) = limit {
            let check = memory.check_before_update() == Some(true);
            let value = |text| Value::Memory { text, limit, check };
            let v1 = [("memory.limit_in_bytes", value(limit.to_string()))];
            self.put("memory", "memory.limit", &v1, &[("memory.max", value(or_max(limit)))])?;
        }
        // An unlimited memory limit is refused while the sum with swap is limited.
        let implied = swap.is_none() && limit == Some(-1);
        if let Some(swap) = swap.or(implied.then_some(-1)) {
            let v1 = [("memory.memsw.limit_in_bytes", text(swap))];
            let v2 = match (swap, limit) {
                (..0, _) => text("max"),
                (_, Some(..0)) => {
                    return Err(Error::invalid(
                        path("memory.swap"),
                        "needs a memory limit: it is memory and swap together",
                    ));
                }
                (_, Some(limit)) => text(swap - limit),
                (_, None) => Value::SwapTotal(swap),
            };
            let absent = if implied || swap < 0 { Absent::Ignore } else { Absent::Warn };
            let v2 = [("memory.swap.max", v2)];
            self.put_absent("memory", "memory.swap", &v1, &v2, absent)?;
        }
        if let Some(low) = given(memory.reservation()) {
            let v1 = [("memory.soft_limit_in_bytes", text(low))];
            let v2 = [("memory.low", text(or_max(low)))];
            self.put("memory", "memory.reservation", &v1, &v2)?;
        }
        self.memory_v1(memory)
    }

    /// Fields that only cgroup v1 knows, or that no supported kernel knows any more.
    fn memory_v1(&mut self, memory: &LinuxMemory) -> Result<()> {
        #[allow(deprecated)]
        let kernel = memory.kernel();
        for (field, value) in [("kernel", kernel), ("kernelTCP", memory.kernel_tcp())] {
            if given(value).is_some() {
                self.warn(&format!("memory.{field}"), "is ignored: the kernel has no such limit");
            }
        }
        if memory.use_hierarchy() == Some(false) {
            self.warn("memory.useHierarchy", "is ignored: memory cgroups are hierarchical");
        }
        let v2 = self.is_v2("memory");
        if let Some(swappiness) = memory.swappiness() {
            if v2 {
                self.warn("memory.swappiness", "is ignored: cgroup v2 has no such setting");
            } else {
                let v1 = [("memory.swappiness", text(swappiness))];
                self.put("memory", "memory.swappiness", &v1, &[])?;
            }
        }
        if memory.disable_oom_killer() == Some(true) {
            if v2 {
                self.warn("memory.disableOOMKiller", "is ignored: cgroup v2 has no such setting");
            } else {
                let v1 = [("memory.oom_control", text(1))];
                self.put("memory", "memory.disableOOMKiller", &v1, &[])?;
            }
        }
        Ok(())
    }

    fn block_io(&mut self, io: &LinuxBlockIo) -> Result<()> {
        let controller = if self.is_v2("io") && (self.version)("blkio") != Some(Version::V1) {
            "io"
        } else {
            "blkio"
        };
        let checked = |field: &str, weight: u16| match weight {
            10..=1000 => Ok(u64::from(weight)),
            _ => Err(Error::invalid(path(field), format!("{weight} is not in 10 to 1000"))),
        };
        if let Some(weight) = given(io.weight()) {
            let field = "blockIO.weight";
            let weight = checked(field, weight)?;
            let v1 = ["blkio.bfq.weight", "blkio.weight"].map(|f| (f, text(weight)));
            let v2 = [
                ("io.bfq.weight", text(weight)),
                ("io.weight", text(format!("default {}", io_weight(weight)))),
            ];
            self.put(controller, field, &v1, &v2)?;
        }
        for (i, device) in io.weight_device().iter().flatten().enumerate() {
            let field = format!("blockIO.weightDevice[{i}].weight");
            if given(device.weight()).is_none() && given(device.leaf_weight()).is_none() {
                return Err(Error::invalid(path(&field), "is missing, and so is leafWeight"));
            }
            if let Some(weight) = given(device.weight()) {
                let weight = checked(&field, weight)?;
                let line = |w: u64| text(format!("{}:{} {w}", device.major(), device.minor()));
                let v1 =
                    ["blkio.bfq.weight_device", "blkio.weight_device"].map(|f| (f, line(weight)));
                let v2 = [("io.bfq.weight", line(weight)), ("io.weight", line(io_weight(weight)))];
                self.put(controller, &field, &v1, &v2)?;
            }
        }
        let leaf_device =
            io.weight_device().iter().flatten().any(|d| given(d.leaf_weight()).is_some());
        if given(io.leaf_weight()).is_some() || leaf_device {
            self.warn("blockIO.leafWeight", "is ignored: no supported kernel has leaf weights");
        }
        for (field, devices, v1, v2) in [
            ("throttleReadBpsDevice", io.throttle_read_bps_device(), "read_bps", "rbps"),
            ("throttleWriteBpsDevice", io.throttle_write_bps_device(), "write_bps", "wbps"),
            ("throttleReadIOPSDevice", io.throttle_read_iops_device(), "read_iops", "riops"),
            ("throttleWriteIOPSDevice", io.throttle_write_iops_device(), "write_iops", "wiops"),
        ] {
            for (i, device) in devices.iter().flatten().enumerate() {
                self.throttle(controller, &format!("blockIO.{field}[{i}]"), device, v1, v2)?;
            }
        }
        Ok(())
    }

    fn throttle(
        &mut self,
        controller: &str,
        field: &str,
        device: &LinuxThrottleDevice,
        v1: &str,
        v2: &str,
    ) -> Result<()> {
        let (major, minor, rate) = (device.major(), device.minor(), device.rate());
        // A rate of 0 lifts the limit in v1; v2 spells that out.
        let limit = if rate == 0 { "max".to_string() } else { rate.to_string() };
        let file = format!("blkio.throttle.{v1}_device");
        self.put(
            controller,
            field,
            &[(&file, text(format!("{major}:{minor} {rate}")))],
            &[("io.max", text(format!("{major}:{minor} {v2}={limit}")))],
        )
    }

    fn hugepage(&mut self, index: usize, limit: &LinuxHugepageLimit) -> Result<()> {
        let size = limit.page_size();
        // The size becomes part of a file name.
        let digits = size.trim_end_matches("B").trim_end_matches(['K', 'M', 'G']);
        let unit = &size[digits.len()..];
        let number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        if !number || !["KB", "MB", "GB"].contains(&unit) {
            return Err(Error::invalid(
                path(&format!("hugepageLimits[{index}].pageSize")),
                format!("{size:?} is not a size such as \"2MB\""),
            ));
        }
        let field = format!("hugepageLimits[{index}].limit");
        // Reservations first: a page that cannot be reserved gives ENOMEM from mmap, one that
        // cannot be faulted in kills by SIGBUS.
        for (part, absent) in [("rsvd.", Absent::Ignore), ("", Absent::Error)] {
            let v1 = format!("hugetlb.{size}.{part}limit_in_bytes");
            let v2 = format!("hugetlb.{size}.{part}max");
            let value = (text(limit.limit()), text(or_max(limit.limit())));
            self.put_absent("hugetlb", &field, &[(&v1, value.0)], &[(&v2, value.1)], absent)?;
        }
        Ok(())
    }

    fn network(&mut self, network: &LinuxNetwork) -> Result<()> {
        if let Some(class) = given(network.class_id()) {
            self.put("net_cls", "network.classID", &[("net_cls.classid", text(class))], &[])?;
        }
        for (i, priority) in network.priorities().iter().flatten().enumerate() {
            let line = text(format!("{} {}", priority.name(), priority.priority()));
            let field = format!("network.priorities[{i}]");
            self.put("net_prio", &field, &[("net_prio.ifpriomap", line)], &[])?;
        }
        Ok(())
    }

    fn rdma(&mut self, device: &str, limit: &LinuxRdma) -> Result<()> {
        let field = format!("rdma[{device:?}]");
        if limit.hca_handles().is_none() && limit.hca_objects().is_none() {
            return Err(Error::invalid(path(&field), "has neither hcaHandles nor hcaObjects"));
        }
        let mut line = device.to_string();
        for (key, value) in
            [("hca_handle", limit.hca_handles()), ("hca_object", limit.hca_objects())]
        {
            if let Some(value) = value {
                line.push_str(&format!(" {key}={value}"));
            }
        }
        let file = [("rdma.max", text(line))];
        self.put("rdma", &field, &file, &file)
    }

    fn unified(&mut self, file: &str, value: &str) -> Result<()> {
        let field = path(&format!("unified[{file:?}]"));
        let controller = match file.split_once('.') {
            Some((controller, rest)) if !controller.is_empty() && !rest.is_empty() => controller,
            _ => return Err(Error::invalid(field, "is not named CONTROLLER.PARAMETER")),
        };
        if file.contains(['/', '\0']) {
            return Err(Error::invalid(field, "is not a file name"));
        }
        // These move or kill processes, which the configuration could pick anywhere on the host.
        if ["cgroup.procs", "cgroup.threads", "cgroup.kill"].contains(&file) {
            return Err(Error::invalid(field, "is not a setting"));
        }
        match (self.version)(controller) {
            Some(Version::V2) => {}
            Some(Version::V1) => {
                return Err(Error::unsupported("set", field, "the controller is in cgroup v1"));
            }
            None => {
                let reason = format!("there is no controller {controller} in cgroup v2");
                return Err(Error::unsupported("set", field, reason));
            }
        }
        self.knobs.push(Knob {
            controller: controller.to_string(),
            version: Version::V2,
            field,
            choices: vec![(file.to_string(), Value::Lines(value.to_string()))],
            absent: Absent::Error,
        });
        Ok(())
    }
}

/// `cpu.shares` (2 to 262144, default 1024) as `cpu.weight` (1 to 10000, default 100).
///
/// The curve goes through both ends and through both defaults. A straight line between the ends would
/// give a container with the default share 39 of 10000, less than a plain sibling's 100.
fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        ..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let l = (shares as f64).log2();
            let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
            10f64.powf(exponent).ceil() as u64
        }
    }
}

/// A v1 weight (10 to 1000) as `io.weight` (1 to 10000).
fn io_weight(weight: u64) -> u64 {
    1 + (weight - 10) * 9999 / 990
}

/// The text for `cpu.max`, given what the file holds.
pub(super) fn cpu_max(quota: Option<i64>, period: Option<u64>, current: &str) -> String {
    let mut words = current.split_whitespace();
    let (old_quota, old_period) = (words.next().unwrap_or("max"), words.next().unwrap_or("100000"));
    let quota = quota.map_or(old_quota.to_string(), or_max);
    let period = period.map_or(old_period.to_string(), |p| p.to_string());
    format!("{quota} {period}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(knob: &Knob) -> String {
        let choices: Vec<String> = knob
            .choices
            .iter()
            .map(|(file, value)| match value {
                Value::Text(t) | Value::Lines(t) => format!("{file}={t}"),
                Value::Memory { text, check, .. } => {
                    format!("{file}={text}{}", if *check { "!" } else { "" })
                }
                other => format!("{file}={other:?}"),
            })
            .collect();
        choices.join("|")
    }

    fn on(version: Option<Version>, json: &str) -> std::result::Result<Vec<String>, String> {
        let resources: LinuxResources = serde_json::from_str(json).unwrap();
        let mut warnings = Vec::new();
        // v1 knows blkio, v2 calls it io.
        let find = |controller: &str| {
            let other = if version == Some(Version::V1) { "io" } else { "blkio" };
            version.filter(|_| controller != other)
        };
        let list = knobs(&resources, &find, &mut warnings).map_err(|e| e.to_string())?;
        Ok(list.iter().map(shown).chain(warnings.into_iter().map(|w| format!("W {w}"))).collect())
    }

    #[track_caller]
    fn both(json: &str, v1: &[&str], v2: &[&str]) {
        assert_eq!(on(Some(Version::V1), json).unwrap(), v1, "v1 {json}");
        assert_eq!(on(Some(Version::V2), json).unwrap(), v2, "v2 {json}");
    }

    #[test]
    fn values() {
        both(r#"{"cpu":{"shares":1024}}"#, &["cpu.shares=1024"], &["cpu.weight=100"]);
        both(
            r#"{"cpu":{"quota":-1,"period":50000}}"#,
            &["cpu.cfs_period_us=50000", "cpu.cfs_quota_us=-1"],
            &["cpu.max=CpuMax { quota: Some(-1), period: Some(50000) }"],
        );
        both(
            r#"{"cpu":{"quota":0,"shares":0,"burst":0,"idle":1}}"#,
            &["cpu.cfs_burst_us=0", "cpu.idle=1"],
            &["cpu.max.burst=0", "cpu.idle=1"],
        );
        both(
            r#"{"cpu":{"cpus":"0-1","mems":""}}"#,
            &["cpuset.cpus=0-1|cpus=0-1"],
            &["cpuset.cpus=0-1"],
        );
        both(
            r#"{"memory":{"limit":100,"swap":300,"reservation":50,"checkBeforeUpdate":true}}"#,
            &[
                "memory.limit_in_bytes=100!",
                "memory.memsw.limit_in_bytes=300",
                "memory.soft_limit_in_bytes=50",
            ],
            &["memory.max=100!", "memory.swap.max=200", "memory.low=50"],
        );
        both(
            r#"{"memory":{"limit":-1}}"#,
            &["memory.limit_in_bytes=-1", "memory.memsw.limit_in_bytes=-1"],
            &["memory.max=max", "memory.swap.max=max"],
        );
        both(
            r#"{"memory":{"limit":7,"swap":7}}"#,
            &["memory.limit_in_bytes=7", "memory.memsw.limit_in_bytes=7"],
            &["memory.max=7", "memory.swap.max=0"],
        );
        both(r#"{"memory":{"limit":0,"swap":0,"disableOOMKiller":false}}"#, &[], &[]);
        both(r#"{"pids":{"limit":0}}"#, &["pids.max=0"], &["pids.max=0"]);
        both(r#"{"pids":{"limit":-1}}"#, &["pids.max=max"], &["pids.max=max"]);
        both(
            r#"{"blockIO":{"weight":1000,"weightDevice":[{"major":8,"minor":0,"weight":10}]}}"#,
            &[
                "blkio.bfq.weight=1000|blkio.weight=1000",
                "blkio.bfq.weight_device=8:0 10|blkio.weight_device=8:0 10",
            ],
            &["io.bfq.weight=1000|io.weight=default 10000", "io.bfq.weight=8:0 10|io.weight=8:0 1"],
        );
        both(
            r#"{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":1,"rate":9}],"throttleWriteIOPSDevice":[{"major":8,"minor":1,"rate":0}]}}"#,
            &["blkio.throttle.read_bps_device=8:1 9", "blkio.throttle.write_iops_device=8:1 0"],
            &["io.max=8:1 rbps=9", "io.max=8:1 wiops=max"],
        );
        both(
            r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4096}]}"#,
            &["hugetlb.2MB.rsvd.limit_in_bytes=4096", "hugetlb.2MB.limit_in_bytes=4096"],
            &["hugetlb.2MB.rsvd.max=4096", "hugetlb.2MB.max=4096"],
        );
        both(
            r#"{"rdma":{"mlx5_1":{"hcaHandles":3,"hcaObjects":9}}}"#,
            &["rdma.max=mlx5_1 hca_handle=3 hca_object=9"],
            &["rdma.max=mlx5_1 hca_handle=3 hca_object=9"],
        );
    }

    #[test]
    fn one_version_only() {
        let ignored = "W linux.resources.memory.";
        let v1 = on(
            Some(Version::V1),
            r#"{"memory":{"swappiness":0,"disableOOMKiller":true,"kernel":5,"useHierarchy":true}}"#,
        );
        let kernel = format!("{ignored}kernel is ignored: the kernel has no such limit");
        assert_eq!(v1.unwrap(), ["memory.swappiness=0", "memory.oom_control=1", &kernel]);
        let v2 = on(Some(Version::V2), r#"{"memory":{"swappiness":0,"disableOOMKiller":true}}"#);
        assert!(v2.unwrap().iter().all(|w| w.starts_with(ignored)));
        let rt = r#"{"cpu":{"realtimePeriod":1000000,"realtimeRuntime":950000}}"#;
        let files = ["cpu.rt_period_us=1000000", "cpu.rt_runtime_us=950000"];
        assert_eq!(on(Some(Version::V1), rt).unwrap(), files);
        let error = on(Some(Version::V2), rt).unwrap_err();
        assert!(error.contains("linux.resources.cpu.realtimePeriod: cgroup v2 has no"), "{error}");
        let unified = r#"{"unified":{"memory.high":"5","cpu.max":"1 2\n"}}"#;
        assert_eq!(on(Some(Version::V2), unified).unwrap(), ["cpu.max=1 2\n", "memory.high=5"]);
        assert!(on(Some(Version::V1), unified).is_err());
    }

    #[test]
    fn refused() {
        for (version, json, part) in [
            (None, r#"{"memory":{"limit":5}}"#, "linux.resources.memory.limit: no cgroup"),
            (None, r#"{"pids":{"limit":5}}"#, "linux.resources.pids.limit"),
            (Some(Version::V1), r#"{"memory":{"limit":5,"swap":4}}"#, "memory.swap"),
            (Some(Version::V2), r#"{"memory":{"limit":-1,"swap":4}}"#, "needs a memory limit"),
            (Some(Version::V2), r#"{"blockIO":{"weight":9}}"#, "blockIO.weight: 9"),
            (Some(Version::V2), r#"{"network":{"classID":9}}"#, "network.classID"),
            (Some(Version::V2), r#"{"unified":{"../memory.max":"1"}}"#, "unified"),
            (Some(Version::V2), r#"{"unified":{"memory/x.max":"1"}}"#, "not a file name"),
            (Some(Version::V2), r#"{"unified":{"cgroup.procs":"1"}}"#, "not a setting"),
            (Some(Version::V2), r#"{"unified":{"memory":"1"}}"#, "CONTROLLER"),
            (Some(Version::V1), r#"{"hugepageLimits":[{"pageSize":"../2MB","limit":1}]}"#, "size"),
            (Some(Version::V1), r#"{"hugepageLimits":[{"pageSize":"MB","limit":1}]}"#, "size"),
        ] {
            let error = on(version, json).unwrap_err();
            assert!(error.contains(part), "{json}: {error}");
        }
    }

    #[test]
    fn shares_to_weight() {
        let table =
            [(1, 1), (2, 1), (1024, 100), (262_144, 10_000), (1 << 40, 10_000), (4096, 303)];
        for (shares, weight) in table {
            assert_eq!(weight_of_shares(shares), weight, "{shares}");
        }
        assert!(
            (2..262_144).step_by(997).all(|s| weight_of_shares(s) <= weight_of_shares(s + 997))
        );
    }

    #[test]
    fn merged_cpu_max() {
        for (quota, period, current, expected) in [
            (Some(5), Some(7), "max 100000\n", "5 7"),
            (Some(5), None, "max 100000\n", "5 100000"),
            (None, Some(7), "50 100000\n", "50 7"),
            (Some(-1), None, "50 9\n", "max 9"),
        ] {
            assert_eq!(cpu_max(quota, period, current), expected);
        }
    }
}
