//! Figures of a container's cgroup as the messages of containerd's `cgroups` package.
//!
//! There are two: one for v1 (and hosts where both are mounted, since the controllers are v1's there)
//! and one for v2; clients tell them apart by the type's name. Units are the kernel's own: nanoseconds
//! in v1, microseconds in v2, and the largest number for "max". What a kernel does not have stays 0.

use std::collections::BTreeMap;
use std::fs;

use containerd_shim_protos::cgroups::metrics as v1;
use containerd_shim_protos::cgroups_v2::metrics as v2;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{MessageField, MessageFull};
use runtime::{BlockIoEntry, MemoryUse, Pressure, RdmaUse, Stall, Stats};

/// The answer to a request for the figures.
pub fn metrics(stats: &Stats) -> Any {
    if stats.unified {
        any(&unified(stats))
    } else {
        any(&legacy(
            stats,
            &device_names(&fs::read_to_string("/proc/partitions").unwrap_or_default()),
        ))
    }
}

/// Named as Go's `typeurl` names it.
fn any<M: MessageFull>(message: &M) -> Any {
    Any {
        type_url: M::descriptor().full_name().to_owned(),
        value: message.write_to_bytes().expect("a message in memory has no missing field"),
        ..Any::default()
    }
}

fn legacy(stats: &Stats, names: &BTreeMap<(u64, u64), String>) -> v1::Metrics {
    let hugetlb = stats.hugetlb.iter().map(|(size, pages)| v1::HugetlbStat {
        usage: pages.usage,
        max: pages.max,
        failcnt: pages.failcnt,
        pagesize: size.clone(),
        ..v1::HugetlbStat::default()
    });
    let pids = v1::PidsStat {
        current: stats.pids.current,
        limit: stats.pids.limit,
        ..v1::PidsStat::default()
    };
    let control = |key: &str| stats.memory.events.get(key).copied().unwrap_or_default();
    let oom = v1::MemoryOomControl {
        oom_kill_disable: control("oom_kill_disable"),
        under_oom: control("under_oom"),
        oom_kill: control("oom_kill"),
        ..v1::MemoryOomControl::default()
    };
    v1::Metrics {
        hugetlb: hugetlb.collect(),
        pids: MessageField::some(pids),
        cpu: MessageField::some(cpu_v1(stats)),
        memory: MessageField::some(memory_v1(stats)),
        blkio: MessageField::some(block_io_v1(stats, names)),
        rdma: MessageField::some(rdma_v1(stats)),
        memory_oom_control: MessageField::some(oom),
        ..v1::Metrics::default()
    }
}

fn cpu_v1(stats: &Stats) -> v1::CPUStat {
    let (usage, throttling) = (&stats.cpu.usage, &stats.cpu.throttling);
    v1::CPUStat {
        usage: MessageField::some(v1::CPUUsage {
            total: usage.total,
            kernel: usage.kernel,
            user: usage.user,
            per_cpu: usage.percpu.clone(),
            ..v1::CPUUsage::default()
        }),
        throttling: MessageField::some(v1::Throttle {
            periods: throttling.periods,
            throttled_periods: throttling.throttled_periods,
            throttled_time: throttling.throttled_time,
            ..v1::Throttle::default()
        }),
        ..v1::CPUStat::default()
    }
}

fn memory_v1(stats: &Stats) -> v1::MemoryStat {
    let memory = &stats.memory;
    let raw = |key: &str| memory.raw.get(key).copied().unwrap_or_default();
    let kind = |from: &MemoryUse| {
        MessageField::some(v1::MemoryEntry {
            limit: from.limit,
            usage: from.usage,
            max: from.max,
            failcnt: from.failcnt,
            ..v1::MemoryEntry::default()
        })
    };
    v1::MemoryStat {
        cache: raw("cache"),
        rss: raw("rss"),
        rss_huge: raw("rss_huge"),
        mapped_file: raw("mapped_file"),
        dirty: raw("dirty"),
        writeback: raw("writeback"),
        pg_pg_in: raw("pgpgin"),
        pg_pg_out: raw("pgpgout"),
        pg_fault: raw("pgfault"),
        pg_maj_fault: raw("pgmajfault"),
        inactive_anon: raw("inactive_anon"),
        active_anon: raw("active_anon"),
        inactive_file: raw("inactive_file"),
        active_file: raw("active_file"),
        unevictable: raw("unevictable"),
        hierarchical_memory_limit: raw("hierarchical_memory_limit"),
        hierarchical_swap_limit: raw("hierarchical_memsw_limit"),
        total_cache: raw("total_cache"),
        total_rss: raw("total_rss"),
        total_rss_huge: raw("total_rss_huge"),
        total_mapped_file: raw("total_mapped_file"),
        total_dirty: raw("total_dirty"),
        total_writeback: raw("total_writeback"),
        total_pg_pg_in: raw("total_pgpgin"),
        total_pg_pg_out: raw("total_pgpgout"),
        total_pg_fault: raw("total_pgfault"),
        total_pg_maj_fault: raw("total_pgmajfault"),
        total_inactive_anon: raw("total_inactive_anon"),
        total_active_anon: raw("total_active_anon"),
        total_inactive_file: raw("total_inactive_file"),
        total_active_file: raw("total_active_file"),
        total_unevictable: raw("total_unevictable"),
        usage: kind(&memory.usage),
        swap: kind(&memory.swap),
        kernel: kind(&memory.kernel),
        kernel_tcp: kind(&memory.kernel_tcp),
        ..v1::MemoryStat::default()
    }
}

fn block_io_v1(stats: &Stats, names: &BTreeMap<(u64, u64), String>) -> v1::BlkIOStat {
    let entry = |entry: &BlockIoEntry| v1::BlkIOEntry {
        op: entry.op.clone(),
        device: names.get(&(entry.major, entry.minor)).cloned().unwrap_or_default(),
        major: entry.major,
        minor: entry.minor,
        value: entry.value,
        ..v1::BlkIOEntry::default()
    };
    let entries = |table: &[BlockIoEntry]| table.iter().map(entry).collect();
    let io = &stats.blkio;
    v1::BlkIOStat {
        io_service_bytes_recursive: entries(&io.io_service_bytes_recursive),
        io_serviced_recursive: entries(&io.io_serviced_recursive),
        io_queued_recursive: entries(&io.io_queued_recursive),
        io_service_time_recursive: entries(&io.io_service_time_recursive),
        io_wait_time_recursive: entries(&io.io_wait_time_recursive),
        io_merged_recursive: entries(&io.io_merged_recursive),
        io_time_recursive: entries(&io.io_time_recursive),
        sectors_recursive: entries(&io.sectors_recursive),
        ..v1::BlkIOStat::default()
    }
}

fn rdma_v1(stats: &Stats) -> v1::RdmaStat {
    let entry = |device: &str, of: RdmaUse| v1::RdmaEntry {
        device: device.to_owned(),
        hca_handles: of.handles,
        hca_objects: of.objects,
        ..v1::RdmaEntry::default()
    };
    v1::RdmaStat {
        current: stats.rdma.iter().map(|device| entry(&device.name, device.current)).collect(),
        limit: stats.rdma.iter().map(|device| entry(&device.name, device.limit)).collect(),
        ..v1::RdmaStat::default()
    }
}

/// `/dev` names by number, of /proc/partitions: `major minor blocks name` lines below a heading.
fn device_names(partitions: &str) -> BTreeMap<(u64, u64), String> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let number = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some((number, format!("/dev/{}", words.nth(1)?)))
    };
    partitions.lines().filter_map(line).collect()
}

fn unified(stats: &Stats) -> v2::Metrics {
    let hugetlb = stats.hugetlb.iter().map(|(size, pages)| v2::HugeTlbStat {
        current: pages.usage,
        max: pages.limit,
        pagesize: size.clone(),
        failcnt: pages.failcnt,
        ..v2::HugeTlbStat::default()
    });
    let pids = v2::PidsStat {
        current: stats.pids.current,
        // The library has 0 for none.
        limit: if stats.pids.limit == 0 { u64::MAX } else { stats.pids.limit },
        ..v2::PidsStat::default()
    };
    v2::Metrics {
        pids: MessageField::some(pids),
        cpu: MessageField::some(cpu_v2(stats)),
        memory: MessageField::some(memory_v2(stats)),
        rdma: MessageField::some(rdma_v2(stats)),
        io: MessageField::some(io_v2(stats)),
        hugetlb: hugetlb.collect(),
        memory_events: memory_events(&stats.memory.events),
        ..v2::Metrics::default()
    }
}

fn cpu_v2(stats: &Stats) -> v2::CPUStat {
    /// The library counts in nanoseconds.
    const MICROSECOND: u64 = 1000;
    let (usage, throttling) = (&stats.cpu.usage, &stats.cpu.throttling);
    v2::CPUStat {
        usage_usec: usage.total / MICROSECOND,
        user_usec: usage.user / MICROSECOND,
        system_usec: usage.kernel / MICROSECOND,
        nr_periods: throttling.periods,
        nr_throttled: throttling.throttled_periods,
        throttled_usec: throttling.throttled_time / MICROSECOND,
        psi: pressure(stats.cpu.psi.as_ref()),
        nr_bursts: throttling.bursts,
        burst_usec: throttling.burst_time / MICROSECOND,
        ..v2::CPUStat::default()
    }
}

fn memory_v2(stats: &Stats) -> v2::MemoryStat {
    let memory = &stats.memory;
    let raw = |key: &str| memory.raw.get(key).copied().unwrap_or_default();
    // Linux 5.9 counts the two kinds of pages apart.
    let both = |key: &str| {
        let kinds = ["", "_anon", "_file"].map(|kind| raw(&format!("{key}{kind}")));
        kinds.iter().sum::<u64>()
    };
    v2::MemoryStat {
        anon: raw("anon"),
        file: raw("file"),
        kernel_stack: raw("kernel_stack"),
        slab: raw("slab"),
        sock: raw("sock"),
        shmem: raw("shmem"),
        file_mapped: raw("file_mapped"),
        file_dirty: raw("file_dirty"),
        file_writeback: raw("file_writeback"),
        anon_thp: raw("anon_thp"),
        inactive_anon: raw("inactive_anon"),
        active_anon: raw("active_anon"),
        inactive_file: raw("inactive_file"),
        active_file: raw("active_file"),
        unevictable: raw("unevictable"),
        slab_reclaimable: raw("slab_reclaimable"),
        slab_unreclaimable: raw("slab_unreclaimable"),
        pgfault: raw("pgfault"),
        pgmajfault: raw("pgmajfault"),
        workingset_refault: both("workingset_refault"),
        workingset_activate: both("workingset_activate"),
        workingset_nodereclaim: raw("workingset_nodereclaim"),
        pgrefill: raw("pgrefill"),
        pgscan: raw("pgscan"),
        pgsteal: raw("pgsteal"),
        pgactivate: raw("pgactivate"),
        pgdeactivate: raw("pgdeactivate"),
        pglazyfree: raw("pglazyfree"),
        pglazyfreed: raw("pglazyfreed"),
        thp_fault_alloc: raw("thp_fault_alloc"),
        thp_collapse_alloc: raw("thp_collapse_alloc"),
        usage: memory.usage.usage,
        usage_limit: memory.usage.limit,
        swap_usage: memory.swap_only.usage,
        swap_limit: memory.swap_only.limit,
        max_usage: memory.usage.max,
        swap_max_usage: memory.swap_only.max,
        psi: pressure(memory.psi.as_ref()),
        ..v2::MemoryStat::default()
    }
}

fn memory_events(events: &BTreeMap<String, u64>) -> MessageField<v2::MemoryEvents> {
    if events.is_empty() {
        return MessageField::none();
    }
    let count = |key: &str| events.get(key).copied().unwrap_or_default();
    MessageField::some(v2::MemoryEvents {
        low: count("low"),
        high: count("high"),
        max: count("max"),
        oom: count("oom"),
        oom_kill: count("oom_kill"),
        oom_group_kill: count("oom_group_kill"),
        ..v2::MemoryEvents::default()
    })
}

/// One entry a device, in the order of their numbers.
fn io_v2(stats: &Stats) -> v2::IOStat {
    let mut devices: BTreeMap<(u64, u64), v2::IOEntry> = BTreeMap::new();
    let mut device = |of: &BlockIoEntry, set: fn(&mut v2::IOEntry, bool, u64)| {
        let entry = devices.entry((of.major, of.minor)).or_default();
        (entry.major, entry.minor) = (of.major, of.minor);
        set(entry, of.op == "Read", of.value);
    };
    for bytes in &stats.blkio.io_service_bytes_recursive {
        device(bytes, |entry, read, value| {
            *(if read { &mut entry.rbytes } else { &mut entry.wbytes }) = value;
        });
    }
    for transfers in &stats.blkio.io_serviced_recursive {
        device(transfers, |entry, read, value| {
            *(if read { &mut entry.rios } else { &mut entry.wios }) = value;
        });
    }
    v2::IOStat {
        usage: devices.into_values().collect(),
        psi: pressure(stats.blkio.psi.as_ref()),
        ..v2::IOStat::default()
    }
}

fn pressure(pressure: Option<&Pressure>) -> MessageField<v2::PSIStats> {
    let stall = |stall: &Stall| {
        MessageField::some(v2::PSIData {
            avg10: stall.avg10,
            avg60: stall.avg60,
            avg300: stall.avg300,
            total: stall.total,
            ..v2::PSIData::default()
        })
    };
    let both = pressure.map(|pressure| v2::PSIStats {
        some: stall(&pressure.some),
        full: stall(&pressure.full),
        ..v2::PSIStats::default()
    });
    MessageField::from_option(both)
}

fn rdma_v2(stats: &Stats) -> v2::RdmaStat {
    let entry = |device: &str, of: RdmaUse| v2::RdmaEntry {
        device: device.to_owned(),
        hca_handles: of.handles,
        hca_objects: of.objects,
        ..v2::RdmaEntry::default()
    };
    v2::RdmaStat {
        current: stats.rdma.iter().map(|device| entry(&device.name, device.current)).collect(),
        limit: stats.rdma.iter().map(|device| entry(&device.name, device.limit)).collect(),
        ..v2::RdmaStat::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use containerd_shim_protos::protobuf::Message;

    fn stats() -> Stats {
        let mut stats = Stats::default();
        stats.cpu.usage.total = 5_000_000;
        stats.cpu.usage.percpu = vec![2_000_000, 3_000_000];
        stats.cpu.throttling.throttled_time = 7_000;
        stats.memory.usage = MemoryUse { limit: u64::MAX, usage: 4096, max: 8192, failcnt: 3 };
        stats.memory.swap_only = MemoryUse { limit: 10, usage: 1, ..MemoryUse::default() };
        stats.memory.raw = [
            ("rss", 11),
            ("anon", 12),
            ("workingset_refault_anon", 1),
            ("workingset_refault_file", 2),
        ]
        .map(|(k, v)| (k.to_owned(), v))
        .into();
        stats.memory.events = [("oom_kill".to_owned(), 2)].into();
        stats.pids.current = 4;
        let entry = |op: &str, value| BlockIoEntry { major: 8, minor: 0, op: op.into(), value };
        stats.blkio.io_service_bytes_recursive = vec![entry("Read", 100), entry("Write", 200)];
        stats.blkio.io_serviced_recursive = vec![entry("Read", 1), entry("Write", 2)];
        stats
    }

    #[test]
    fn of_v1() {
        let names = device_names("major minor  #blocks  name\n\n   8        0  100 sda\n");
        let metrics = legacy(&stats(), &names);
        assert_eq!((metrics.cpu.usage.total, metrics.cpu.usage.per_cpu[1]), (5_000_000, 3_000_000));
        assert_eq!((metrics.memory.rss, metrics.memory.usage.failcnt), (11, 3));
        assert_eq!((metrics.memory_oom_control.oom_kill, metrics.pids.limit), (2, 0));
        let io = &metrics.blkio.io_service_bytes_recursive[1];
        assert_eq!((io.op.as_str(), io.device.as_str(), io.value), ("Write", "/dev/sda", 200));
        let any = super::metrics(&stats());
        assert_eq!(any.type_url, "io.containerd.cgroups.v1.Metrics");
        v1::Metrics::parse_from_bytes(&any.value).unwrap();
    }

    #[test]
    fn of_v2() {
        let mut stats = stats();
        stats.unified = true;
        stats.cpu.psi = Some(Pressure::default());
        let any = super::metrics(&stats);
        assert_eq!(any.type_url, "io.containerd.cgroups.v2.Metrics");
        let metrics = v2::Metrics::parse_from_bytes(&any.value).unwrap();
        assert_eq!((metrics.cpu.usage_usec, metrics.cpu.throttled_usec), (5000, 7));
        assert_eq!((metrics.memory.usage_limit, metrics.memory.swap_limit), (u64::MAX, 10));
        assert_eq!((metrics.memory.anon, metrics.memory_events.oom_kill), (12, 2));
        assert_eq!(metrics.memory.workingset_refault, 3);
        assert_eq!(metrics.pids.limit, u64::MAX);
        assert!(metrics.cpu.psi.is_some() && metrics.memory.psi.is_none());
        let [io] = &metrics.io.usage[..] else { panic!("{:?}", metrics.io) };
        assert_eq!((io.rbytes, io.wbytes, io.rios, io.wios), (100, 200, 1, 2));
    }
}
