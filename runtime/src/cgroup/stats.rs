//! Figures of a container's cgroup, as `runc events --stats` prints them.
//!
//! The types serialise to the `data` object of an event, with runc's key names (`ioQueueRecursive` is
//! spelled so) and its rule on what is left out: callers decode it with Go types. Times are in
//! nanoseconds, unlimited is the largest number.
//!
//! A figure whose file does not exist is left out; no figure is an error.

mod whole;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Cgroup, Group, knob};

fn zero(value: &u64) -> bool {
    *value == 0
}

/// Figures of a container's cgroup, serialised as the `data` object of `events --stats`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// Processor time.
    pub cpu: Cpu,
    /// Processors and memory nodes, cgroup v1 only.
    pub cpuset: CpuSet,
    /// Memory use and limits.
    pub memory: Memory,
    /// Number of processes.
    pub pids: Pids,
    /// Disk transfers.
    pub blkio: BlockIo,
    /// Huge pages by size.
    pub hugetlb: BTreeMap<String, HugePages>,
    /// Cache and bandwidth allocation.
    pub intel_rdt: IntelRdt,
    /// Network interfaces; never filled, as in runc.
    pub network_interfaces: Option<Vec<()>>,
    /// RDMA handles and objects by device; not in the `data` object.
    #[serde(skip)]
    pub rdma: Vec<RdmaDevice>,
    /// Whether all figures are of cgroup v2; not in the `data` object.
    #[serde(skip)]
    pub unified: bool,
}

/// Processor time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cpu {
    /// Time used.
    pub usage: CpuUsage,
    /// Time withheld by the quota.
    pub throttling: Throttling,
    /// Pressure, where the kernel measures it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// Processor time used, in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuUsage {
    /// All of it.
    #[serde(skip_serializing_if = "zero")]
    pub total: u64,
    /// By processor.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu: Vec<u64>,
    /// By processor, in the kernel.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_kernel: Vec<u64>,
    /// By processor, in programs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_user: Vec<u64>,
    /// In the kernel.
    pub kernel: u64,
    /// In programs.
    pub user: u64,
}

/// Time withheld by the quota.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Throttling {
    /// Enforcement periods.
    #[serde(skip_serializing_if = "zero")]
    pub periods: u64,
    /// Periods that ran out of quota.
    #[serde(skip_serializing_if = "zero")]
    pub throttled_periods: u64,
    /// Nanoseconds withheld.
    #[serde(skip_serializing_if = "zero")]
    pub throttled_time: u64,
    /// Bursts above the quota, cgroup v2 only; not in the `data` object.
    #[serde(skip)]
    pub bursts: u64,
    /// Nanoseconds used in bursts; not in the `data` object.
    #[serde(skip)]
    pub burst_time: u64,
}

/// Processors and memory nodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct CpuSet {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cpus: Vec<u16>,
    pub cpu_exclusive: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mems: Vec<u16>,
    pub mem_hardwall: u64,
    pub mem_exclusive: u64,
    pub memory_migrate: u64,
    pub memory_spread_page: u64,
    pub memory_spread_slab: u64,
    pub memory_pressure: u64,
    pub sched_load_balance: u64,
    pub sched_relax_domain_level: i64,
}

/// Memory use and limits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// Bytes of page cache.
    #[serde(skip_serializing_if = "zero")]
    pub cache: u64,
    /// Memory.
    pub usage: MemoryUse,
    /// Memory and swap together.
    pub swap: MemoryUse,
    /// Kernel memory.
    pub kernel: MemoryUse,
    /// Kernel memory of TCP buffers.
    #[serde(rename = "kernelTCP")]
    pub kernel_tcp: MemoryUse,
    /// Everything of `memory.stat`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub raw: BTreeMap<String, u64>,
    /// Pressure, where the kernel measures it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
    /// Swap by itself, cgroup v2 only; not in the `data` object.
    #[serde(skip)]
    pub swap_only: MemoryUse,
    /// `memory.events` of cgroup v2, `memory.oom_control` of v1; not in the `data` object.
    #[serde(skip)]
    pub events: BTreeMap<String, u64>,
}

/// One kind of memory, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryUse {
    /// The limit.
    pub limit: u64,
    /// What is in use.
    #[serde(skip_serializing_if = "zero")]
    pub usage: u64,
    /// The most that was in use.
    #[serde(skip_serializing_if = "zero")]
    pub max: u64,
    /// How often the limit was hit.
    pub failcnt: u64,
}

/// Number of processes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pids {
    /// Processes and threads inside.
    #[serde(skip_serializing_if = "zero")]
    pub current: u64,
    /// The limit; 0 is none.
    #[serde(skip_serializing_if = "zero")]
    pub limit: u64,
}

/// Disk transfers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct BlockIo {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_bytes_recursive: Vec<BlockIoEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_serviced_recursive: Vec<BlockIoEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty", rename = "ioQueueRecursive")]
    pub io_queued_recursive: Vec<BlockIoEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_time_recursive: Vec<BlockIoEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_wait_time_recursive: Vec<BlockIoEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_merged_recursive: Vec<BlockIoEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_time_recursive: Vec<BlockIoEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sectors_recursive: Vec<BlockIoEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// Transfers of one kind with one device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct BlockIoEntry {
    #[serde(skip_serializing_if = "zero")]
    pub major: u64,
    #[serde(skip_serializing_if = "zero")]
    pub minor: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub op: String,
    #[serde(skip_serializing_if = "zero")]
    pub value: u64,
}

/// Huge pages of one size, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct HugePages {
    #[serde(skip_serializing_if = "zero")]
    pub usage: u64,
    #[serde(skip_serializing_if = "zero")]
    pub max: u64,
    pub failcnt: u64,
    /// Cgroup v2 only; not in the `data` object.
    #[serde(skip)]
    pub limit: u64,
}

/// RDMA resources of one device: in use, and the limit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct RdmaDevice {
    pub name: String,
    pub current: RdmaUse,
    pub limit: RdmaUse,
}

/// RDMA handles and objects; the largest number is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct RdmaUse {
    pub handles: u32,
    pub objects: u32,
}

/// Cache and bandwidth allocation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct IntelRdt {}

/// Pressure stall information of one resource.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pressure {
    /// Some tasks waited.
    pub some: Stall,
    /// All tasks waited.
    pub full: Stall,
}

/// A share of time spent waiting.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Stall {
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
    /// Microseconds.
    pub total: u64,
}

const USER_HZ: u64 = 100;
const SECOND: u64 = 1_000_000_000;

/// Fills in the figures of one controller.
type Reader = fn(&Group, &mut Stats);

impl Cgroup {
    /// The figures of this cgroup.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        let v1: [(&str, Reader); 6] = [
            ("cpu", throttling_v1),
            ("cpuacct", cpu_v1),
            ("cpuset", cpuset_v1),
            ("memory", memory_v1),
            ("pids", pids),
            ("blkio", block_io_v1),
        ];
        for (controller, read) in v1 {
            if let Some(group) = self.v1(controller) {
                read(group, &mut stats);
            }
        }
        if let Some(group) = self.unified() {
            if self.v1("cpu").is_none() {
                cpu_v2(group, &mut stats);
            }
            if self.v1("memory").is_none() {
                memory_v2(group, &mut stats);
            }
            if self.v1("pids").is_none() {
                pids(group, &mut stats);
            }
            if self.v1("blkio").is_none() {
                block_io_v2(group, &mut stats);
            }
        }
        let huge = self.v1("hugetlb").or_else(|| self.unified());
        stats.hugetlb = huge.map(hugetlb).unwrap_or_default();
        let rdma_group = self.v1("rdma").or_else(|| self.unified());
        stats.rdma = rdma_group.map(rdma).unwrap_or_default();
        stats.unified = self.groups.iter().all(|group| group.at.unified);
        stats
    }
}

fn text(group: &Group, file: &str) -> String {
    knob::read(&group.dir, file).unwrap_or_default()
}

fn number(group: &Group, file: &str) -> u64 {
    knob::number(&group.dir, file).unwrap_or_default()
}

/// `key value` lines.
fn keyed(text: &str) -> BTreeMap<String, u64> {
    let pair = |line: &str| {
        let (key, value) = line.split_once(' ')?;
        Some((key.to_string(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

fn take(map: &BTreeMap<String, u64>, key: &str) -> u64 {
    map.get(key).copied().unwrap_or_default()
}

fn throttling_v1(group: &Group, stats: &mut Stats) {
    let map = keyed(&text(group, "cpu.stat"));
    stats.cpu.throttling = Throttling {
        periods: take(&map, "nr_periods"),
        throttled_periods: take(&map, "nr_throttled"),
        throttled_time: take(&map, "throttled_time"),
        ..Throttling::default()
    };
}

fn cpu_v1(group: &Group, stats: &mut Stats) {
    let usage = &mut stats.cpu.usage;
    usage.total = number(group, "cpuacct.usage");
    let map = keyed(&text(group, "cpuacct.stat"));
    usage.user = take(&map, "user") * (SECOND / USER_HZ);
    usage.kernel = take(&map, "system") * (SECOND / USER_HZ);
    usage.percpu = numbers(&text(group, "cpuacct.usage_percpu"));
    // A heading, then `cpu user system` per processor.
    for line in text(group, "cpuacct.usage_all").lines().skip(1) {
        if let [_, user, kernel] = numbers(line)[..] {
            usage.percpu_user.push(user);
            usage.percpu_kernel.push(kernel);
        }
    }
}

fn numbers(text: &str) -> Vec<u64> {
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

fn cpu_v2(group: &Group, stats: &mut Stats) {
    let map = keyed(&text(group, "cpu.stat"));
    let nanoseconds = |key: &str| take(&map, key) * 1000;
    stats.cpu.usage.total = nanoseconds("usage_usec");
    stats.cpu.usage.user = nanoseconds("user_usec");
    stats.cpu.usage.kernel = nanoseconds("system_usec");
    stats.cpu.throttling = Throttling {
        periods: take(&map, "nr_periods"),
        throttled_periods: take(&map, "nr_throttled"),
        throttled_time: nanoseconds("throttled_usec"),
        bursts: take(&map, "nr_bursts"),
        burst_time: nanoseconds("burst_usec"),
    };
    stats.cpu.psi = pressure(&text(group, "cpu.pressure"));
}

fn cpuset_v1(group: &Group, stats: &mut Stats) {
    // A hierarchy mounted with `noprefix` has the same files under shorter names.
    let read = |name: &str| {
        knob::read(&group.dir, &format!("cpuset.{name}"))
            .or_else(|_| knob::read(&group.dir, name))
            .unwrap_or_default()
    };
    let flag = |name: &str| read(name).trim().parse().unwrap_or_default();
    stats.cpuset = CpuSet {
        cpus: ranges(&read("cpus")),
        cpu_exclusive: flag("cpu_exclusive"),
        mems: ranges(&read("mems")),
        mem_hardwall: flag("mem_hardwall"),
        mem_exclusive: flag("mem_exclusive"),
        memory_migrate: flag("memory_migrate"),
        memory_spread_page: flag("memory_spread_page"),
        memory_spread_slab: flag("memory_spread_slab"),
        memory_pressure: flag("memory_pressure"),
        sched_load_balance: flag("sched_load_balance"),
        sched_relax_domain_level: read("sched_relax_domain_level")
            .trim()
            .parse()
            .unwrap_or_default(),
    };
}

/// `0-2,7` as `[0, 1, 2, 7]`.
fn ranges(text: &str) -> Vec<u16> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?)
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

fn memory_v1(group: &Group, stats: &mut Stats) {
    let kind = |part: &str| MemoryUse {
        limit: number(group, &format!("memory.{part}limit_in_bytes")),
        usage: number(group, &format!("memory.{part}usage_in_bytes")),
        max: number(group, &format!("memory.{part}max_usage_in_bytes")),
        failcnt: number(group, &format!("memory.{part}failcnt")),
    };
    let raw = keyed(&text(group, "memory.stat"));
    stats.memory = Memory {
        cache: take(&raw, "cache"),
        usage: kind(""),
        swap: kind("memsw."),
        kernel: kind("kmem."),
        kernel_tcp: kind("kmem.tcp."),
        raw,
        psi: None,
        swap_only: MemoryUse::default(),
        events: keyed(&text(group, "memory.oom_control")),
    };
}

fn memory_v2(group: &Group, stats: &mut Stats) {
    let raw = keyed(&text(group, "memory.stat"));
    let events = keyed(&text(group, "memory.events"));
    let usage = MemoryUse {
        limit: number(group, "memory.max"),
        usage: number(group, "memory.current"),
        max: number(group, "memory.peak"),
        failcnt: take(&events, "max"),
    };
    let swap_only = MemoryUse {
        limit: number(group, "memory.swap.max"),
        usage: number(group, "memory.swap.current"),
        max: number(group, "memory.swap.peak"),
        failcnt: 0,
    };
    // v1 counts memory and swap together, and callers expect that.
    let swap = MemoryUse {
        limit: swap_only.limit.saturating_add(usage.limit),
        usage: swap_only.usage + usage.usage,
        max: 0,
        failcnt: 0,
    };
    stats.memory = Memory {
        cache: take(&raw, "file"),
        usage,
        swap,
        raw,
        psi: pressure(&text(group, "memory.pressure")),
        swap_only,
        events,
        ..Memory::default()
    };
}

fn pids(group: &Group, stats: &mut Stats) {
    let limit = number(group, "pids.max");
    stats.pids = Pids {
        current: number(group, "pids.current"),
        limit: if limit == u64::MAX { 0 } else { limit },
    };
}

/// The first kind of file that has anything: the BFQ scheduler's, then those of throttling.
fn block_io_v1(group: &Group, stats: &mut Stats) {
    for [bytes, serviced] in [
        ["blkio.bfq.io_service_bytes_recursive", "blkio.bfq.io_serviced_recursive"],
        ["blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_serviced_recursive"],
        ["blkio.throttle.io_service_bytes", "blkio.throttle.io_serviced"],
    ] {
        let entries = block_io_lines(&text(group, serviced));
        if !entries.is_empty() {
            stats.blkio.io_serviced_recursive = entries;
            stats.blkio.io_service_bytes_recursive = block_io_lines(&text(group, bytes));
            return;
        }
    }
}

/// `8:0 Read 123` lines; the last line is a total without a device.
fn block_io_lines(text: &str) -> Vec<BlockIoEntry> {
    let entry = |line: &str| {
        let mut words = line.split_whitespace();
        let (major, minor) = words.next()?.split_once(':')?;
        Some(BlockIoEntry {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            op: words.next()?.to_string(),
            value: words.next()?.parse().ok()?,
        })
    };
    text.lines().filter_map(entry).collect()
}

fn block_io_v2(group: &Group, stats: &mut Stats) {
    let io = &mut stats.blkio;
    io.psi = pressure(&text(group, "io.pressure"));
    io_stat(&text(group, "io.stat"), io);
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0` lines.
fn io_stat(text: &str, io: &mut BlockIo) {
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let device = words.next().and_then(|d| d.split_once(':'));
        let Some((Ok(major), Ok(minor))) = device.map(|(a, b)| (a.parse(), b.parse())) else {
            continue;
        };
        for (key, value) in words.filter_map(|w| w.split_once('=')) {
            let (table, op) = match key {
                "rbytes" => (&mut io.io_service_bytes_recursive, "Read"),
                "wbytes" => (&mut io.io_service_bytes_recursive, "Write"),
                "rios" => (&mut io.io_serviced_recursive, "Read"),
                "wios" => (&mut io.io_serviced_recursive, "Write"),
                _ => continue,
            };
            let value = value.parse().unwrap_or_default();
            table.push(BlockIoEntry { major, minor, op: op.to_string(), value });
        }
    }
}

/// The sizes are those of the files that the kernel made.
fn hugetlb(group: &Group) -> BTreeMap<String, HugePages> {
    let v1 = !group.at.unified;
    let Ok(sizes) = std::fs::read_dir("/sys/kernel/mm/hugepages") else {
        return BTreeMap::new();
    };
    let sizes = sizes.filter_map(|entry| {
        let name = entry.ok()?.file_name();
        let kib = name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?;
        kib.parse::<u64>().ok().map(page_size)
    });
    let pages = |size: String| {
        let file = |rest: &str| format!("hugetlb.{size}.{rest}");
        let usage = file(if v1 { "usage_in_bytes" } else { "current" });
        let usage = knob::number(&group.dir, &usage)?;
        let failcnt = if v1 {
            number(group, &file("failcnt"))
        } else {
            take(&keyed(&text(group, &file("events"))), "max")
        };
        let max = if v1 { number(group, &file("max_usage_in_bytes")) } else { 0 };
        let limit = if v1 { 0 } else { number(group, &file("max")) };
        Some((size, HugePages { usage, max, failcnt, limit }))
    };
    sizes.filter_map(pages).collect()
}

/// A size as the kernel names its files: `64KB`, `2MB`, `1GB`.
fn page_size(kib: u64) -> String {
    match kib {
        1_048_576.. => format!("{}GB", kib >> 20),
        1024.. => format!("{}MB", kib >> 10),
        _ => format!("{kib}KB"),
    }
}

fn rdma(group: &Group) -> Vec<RdmaDevice> {
    let mut limits: BTreeMap<_, _> = rdma_lines(&text(group, "rdma.max")).into_iter().collect();
    let device = |(name, current): (String, RdmaUse)| {
        let limit = limits.remove(&name).unwrap_or_default();
        RdmaDevice { name, current, limit }
    };
    rdma_lines(&text(group, "rdma.current")).into_iter().map(device).collect()
}

/// `mlx4_0 hca_handle=2 hca_object=max` lines.
fn rdma_lines(text: &str) -> Vec<(String, RdmaUse)> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.next()?.to_string();
        let mut used = RdmaUse::default();
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let value = if value == "max" { u32::MAX } else { value.parse().unwrap_or_default() };
            match key {
                "hca_handle" => used.handles = value,
                "hca_object" => used.objects = value,
                _ => {}
            }
        }
        Some((name, used))
    };
    text.lines().filter_map(line).collect()
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0` and `full ...`.
fn pressure(text: &str) -> Option<Pressure> {
    let mut pressure = Pressure::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let stall = match words.next()? {
            "some" => &mut pressure.some,
            "full" => &mut pressure.full,
            _ => continue,
        };
        for (key, value) in words.filter_map(|w| w.split_once('=')) {
            match key {
                "avg10" => stall.avg10 = value.parse().ok()?,
                "avg60" => stall.avg60 = value.parse().ok()?,
                "avg300" => stall.avg300 = value.parse().ok()?,
                "total" => stall.total = value.parse().ok()?,
                _ => {}
            }
        }
    }
    (!text.is_empty()).then_some(pressure)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `runc events --stats` prints for a container about which nothing is known.
    #[test]
    fn keys() {
        let memory = r#"{"usage":{"limit":0,"failcnt":0},"swap":{"limit":0,"failcnt":0},"kernel":{"limit":0,"failcnt":0},"kernelTCP":{"limit":0,"failcnt":0}}"#;
        let cpuset = r#"{"cpu_exclusive":0,"mem_hardwall":0,"mem_exclusive":0,"memory_migrate":0,"memory_spread_page":0,"memory_spread_slab":0,"memory_pressure":0,"sched_load_balance":0,"sched_relax_domain_level":0}"#;
        let expected = format!(
            r#"{{"cpu":{{"usage":{{"kernel":0,"user":0}},"throttling":{{}}}},"cpuset":{cpuset},"memory":{memory},"pids":{{}},"blkio":{{}},"hugetlb":{{}},"intel_rdt":{{}},"network_interfaces":null}}"#
        );
        assert_eq!(serde_json::to_string(&Stats::default()).unwrap(), expected);
        let queue =
            BlockIo { io_queued_recursive: vec![BlockIoEntry::default()], ..BlockIo::default() };
        assert_eq!(serde_json::to_string(&queue).unwrap(), r#"{"ioQueueRecursive":[{}]}"#);
        let huge = HugePages { usage: 1, ..HugePages::default() };
        assert_eq!(serde_json::to_string(&huge).unwrap(), r#"{"usage":1,"failcnt":0}"#);
    }

    #[test]
    fn parsers() {
        assert_eq!(ranges("0-2,7\n"), [0, 1, 2, 7]);
        assert!(ranges("\n").is_empty());
        assert_eq!([64, 2048, 1 << 20, 16 << 20].map(page_size), ["64KB", "2MB", "1GB", "16GB"]);
        let lines = block_io_lines("8:0 Read 12\n8:0 Write 0\nTotal 12\n");
        let shown = serde_json::to_string(&lines).unwrap();
        assert_eq!(shown, r#"[{"major":8,"op":"Read","value":12},{"major":8,"op":"Write"}]"#);
        let mut io = BlockIo::default();
        io_stat("254:1 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5\n", &mut io);
        assert_eq!(
            (io.io_service_bytes_recursive.len(), io.io_serviced_recursive[1].value),
            (2, 4)
        );
        let psi = pressure("some avg10=0.50 avg60=0.00 avg300=1.25 total=7\n").unwrap();
        assert_eq!((psi.some.avg10, psi.some.avg300, psi.some.total), (0.5, 1.25, 7));
        assert!(pressure("").is_none());
        let used = rdma_lines("mlx4_0 hca_handle=2 hca_object=max\n");
        assert_eq!(used, [("mlx4_0".to_string(), RdmaUse { handles: 2, objects: u32::MAX })]);
    }
}
