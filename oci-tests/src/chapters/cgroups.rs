//! config-linux.md, control groups: files of the v1 controllers that this machine has, and what limits
//! do, whichever hierarchy their controllers are in.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::check::{Res, Test, ensure, eq, has, same, skip, test};
use crate::lab::cgroups::{either, v1};

/// A limit: section, row, field below `resources`, value, controller, file, what the file then says.
type Knob =
    (&'static str, &'static str, &'static str, Value, &'static str, &'static str, &'static str);

/// Tests of this chapter.
pub fn tests() -> Vec<Test> {
    let mut tests: Vec<Test> = knobs().into_iter().map(knob).collect();
    tests.extend(enforced());
    tests
}

fn knobs() -> Vec<Knob> {
    let (memory, cpu, pids, block) =
        ("config-linux#memory", "config-linux#cpu", "config-linux#pids", "config-linux#block-io");
    vec![
        (
            memory,
            "F33",
            "memory.limit",
            json!(134_217_728),
            "memory",
            "memory.limit_in_bytes",
            "134217728",
        ),
        (
            memory,
            "F33",
            "memory.limit",
            json!(-1),
            "memory",
            "memory.limit_in_bytes",
            "9223372036854771712",
        ),
        (
            memory,
            "F33",
            "memory.reservation",
            json!(67_108_864),
            "memory",
            "memory.soft_limit_in_bytes",
            "67108864",
        ),
        (memory, "F35", "memory.swappiness", json!(33), "memory", "memory.swappiness", "33"),
        (memory, "F35", "memory.swappiness", json!(0), "memory", "memory.swappiness", "0"),
        (
            memory,
            "F35",
            "memory.disableOOMKiller",
            json!(true),
            "memory",
            "memory.oom_control",
            "oom_kill_disable 1",
        ),
        (
            memory,
            "F35",
            "memory.disableOOMKiller",
            json!(false),
            "memory",
            "memory.oom_control",
            "oom_kill_disable 0",
        ),
        (memory, "F35", "memory.useHierarchy", json!(true), "memory", "memory.use_hierarchy", "1"),
        (cpu, "F37", "cpu.shares", json!(333), "cpu", "cpu.shares", "333"),
        (cpu, "F37", "cpu.quota", json!(45_000), "cpu", "cpu.cfs_quota_us", "45000"),
        (cpu, "F37", "cpu.quota", json!(-1), "cpu", "cpu.cfs_quota_us", "-1"),
        (cpu, "F37", "cpu.period", json!(50_000), "cpu", "cpu.cfs_period_us", "50000"),
        (cpu, "F40", "cpu.cpus", json!("0"), "cpuset", "cpuset.cpus", "0"),
        (cpu, "F40", "cpu.mems", json!("0"), "cpuset", "cpuset.mems", "0"),
        (cpu, "F41", "cpu.idle", json!(1), "cpu", "cpu.idle", "1"),
        (pids, "F45", "pids.limit", json!(77), "pids", "pids.max", "77"),
        (pids, "F45", "pids.limit", json!(-1), "pids", "pids.max", "max"),
        (
            block,
            "F42",
            "blockIO.throttleReadBpsDevice",
            json!([{ "major": 254, "minor": 0, "rate": 1_048_576 }]),
            "blkio",
            "blkio.throttle.read_bps_device",
            "254:0 1048576",
        ),
        (
            block,
            "F42",
            "blockIO.throttleWriteBpsDevice",
            json!([{ "major": 254, "minor": 0, "rate": 1_048_576 }]),
            "blkio",
            "blkio.throttle.write_bps_device",
            "254:0 1048576",
        ),
        (
            block,
            "F42",
            "blockIO.throttleReadIOPSDevice",
            json!([{ "major": 254, "minor": 0, "rate": 700 }]),
            "blkio",
            "blkio.throttle.read_iops_device",
            "254:0 700",
        ),
        (
            block,
            "F42",
            "blockIO.throttleWriteIOPSDevice",
            json!([{ "major": 254, "minor": 0, "rate": 700 }]),
            "blkio",
            "blkio.throttle.write_iops_device",
            "254:0 700",
        ),
        (block, "F42", "blockIO.weight", json!(333), "blkio", "blkio.bfq.weight", "333"),
        (cpu, "F39", "cpu.realtimePeriod", json!(500_000), "cpu", "cpu.rt_period_us", "500000"),
        (cpu, "F38", "cpu.burst", json!(20_000), "cpu", "cpu.cfs_burst_us", "20000"),
    ]
}

fn knob((section, row, field, value, controller, file, wanted): Knob) -> Test {
    let shown = if value.is_array() { "a rate".to_owned() } else { value.to_string() };
    let text = format!("{field} = {shown} is {wanted} in {file}");
    test(section, row, text, move |lab| {
        let parent = v1(controller, "/")?;
        let has_file = parent.join(file).exists()
            || first_child(&parent).is_some_and(|child| child.join(file).exists());
        if !has_file {
            return skip(format!("this kernel has no {file}"));
        }
        if controller == "blkio" && value.is_array() && !disk(254, 0) {
            return skip("this machine has no disk 254:0");
        }
        let (outer, inner) = field.split_once('.').unwrap_or((field, ""));
        let container = lab.create(&["pause"], |spec| {
            spec["linux"]["resources"] = json!({ outer: { inner: value.clone() } });
            if inner == "burst" {
                spec["linux"]["resources"]["cpu"]["quota"] = json!(50_000);
            }
        })?;
        let text = fs::read_to_string(v1(controller, &container.cgroup)?.join(file))?;
        ensure(
            text.lines().any(|line| line.trim() == wanted),
            format!("{file} is {:?}, wanted {wanted}", text.trim()),
        )?;
        container.end()
    })
}

fn first_child(dir: &Path) -> Option<std::path::PathBuf> {
    fs::read_dir(dir).ok()?.flatten().find(|entry| entry.path().is_dir()).map(|entry| entry.path())
}

fn disk(major: u32, minor: u32) -> bool {
    Path::new(&format!("/sys/dev/block/{major}:{minor}")).exists()
}

fn enforced() -> Vec<Test> {
    vec![
        test(
            "config-linux#memory",
            "F33",
            "a process that needs more than the limit is killed",
            |lab| {
                either("memory", "/")?;
                let seen = lab.probe(&["allocate 8", "allocate 100"], |spec| {
                    spec["linux"]["resources"] =
                        json!({ "memory": { "limit": 33_554_432, "swap": 33_554_432 } });
                })?;
                same("8 MiB", &seen["allocate 8"], json!({ "code": 0 }))?;
                same("100 MiB", &seen["allocate 100"], json!({ "signal": 9 }))
            },
        ),
        test(
            "config-linux#memory",
            "F33",
            "swap is memory plus swap, and equal to the limit allows no swap",
            |lab| {
                let dir = v1("memory", "/")?;
                if !dir.join("memory.memsw.limit_in_bytes").exists() {
                    return skip("this kernel has no swap accounting");
                }
                let container = lab.create(&["pause"], |spec| {
                    spec["linux"]["resources"] =
                        json!({ "memory": { "limit": 33_554_432, "swap": 67_108_864 } });
                })?;
                let file = v1("memory", &container.cgroup)?.join("memory.memsw.limit_in_bytes");
                eq("memsw", &fs::read_to_string(file)?.trim(), &"67108864")?;
                container.end()
            },
        ),
        test("config-linux#pids", "F45", "no more tasks than the limit can exist", |lab| {
            either("pids", "/")?;
            let seen = lab.probe(&["sleepers 30"], |spec| {
                spec["linux"]["resources"] = json!({ "pids": { "limit": 20 } })
            })?;
            let count = seen["sleepers 30"]["count"].as_u64().unwrap_or(0);
            ensure(
                (10..20).contains(&count),
                format!("{count} children were made under a limit of 20"),
            )
        }),
        test("config-linux#cpu", "F40", "the program runs on the CPUs of the set", |lab| {
            either("cpuset", "/")?;
            let seen =
                lab.report(|spec| spec["linux"]["resources"] = json!({ "cpu": { "cpus": "0" } }))?;
            same("affinity", &seen["affinity"], json!([0]))
        }),
        test(
            "config-linux#memory",
            "F34",
            "kernel memory limits, which kernels no longer have, are not fatal",
            |lab| {
                lab.report(|spec| {
                spec["linux"]["resources"] = json!({ "memory": { "limit": 134_217_728, "kernel": 67_108_864, "kernelTCP": 67_108_864 } });
            })
            .map(drop)
            },
        ),
        test("config-linux#control-groups", "F165", "several limits at once are all set", |lab| {
            let container = lab.create(&["pause"], |spec| {
                spec["linux"]["resources"] = json!({
                    "memory": { "limit": 134_217_728, "reservation": 67_108_864 },
                    "cpu": { "shares": 512, "quota": 40_000, "period": 80_000 },
                    "pids": { "limit": 50 },
                });
            })?;
            let value = |controller: &str, file: &str| -> Res<String> {
                Ok(fs::read_to_string(v1(controller, &container.cgroup)?.join(file))?
                    .trim()
                    .to_owned())
            };
            eq("limit", &value("memory", "memory.limit_in_bytes")?.as_str(), &"134217728")?;
            eq("shares", &value("cpu", "cpu.shares")?.as_str(), &"512")?;
            eq("quota", &value("cpu", "cpu.cfs_quota_us")?.as_str(), &"40000")?;
            eq("period", &value("cpu", "cpu.cfs_period_us")?.as_str(), &"80000")?;
            eq("pids", &value("pids", "pids.max")?.as_str(), &"50")?;
            container.end()
        }),
        test(
            "config-linux#control-groups",
            "F165",
            "limits hold before the program runs: it starts inside its cgroup",
            |lab| {
                let container = lab.create(&["pause"], |spec| {
                    spec["linux"]["resources"] = json!({ "pids": { "limit": 9 } })
                })?;
                let dir = either("pids", &container.cgroup)?;
                let procs = fs::read_to_string(dir.join("cgroup.procs"))?;
                ensure(
                    procs.lines().any(|pid| pid == container.pid().to_string()),
                    format!("cgroup.procs is {procs:?}"),
                )?;
                container.end()
            },
        ),
        test(
            "config#mounts",
            "F85",
            "a mount of type cgroup shows the hierarchies, read-only when asked",
            |lab| {
                v1("memory", "/")?;
                let seen = lab.probe(
                    &["list /sys/fs/cgroup", "mkdir /sys/fs/cgroup/memory/new", "report"],
                    |spec| {
                        crate::lab::bundle::mount(
                            spec,
                            "/sys/fs/cgroup",
                            "cgroup",
                            "cgroup",
                            &["nosuid", "noexec", "nodev", "relatime", "ro"],
                        );
                    },
                )?;
                has("hierarchies", &seen["list /sys/fs/cgroup"].to_string(), "memory")?;
                ensure(
                    seen["mkdir /sys/fs/cgroup/memory/new"]["errno"] == "EROFS",
                    format!("mkdir gave {}", seen["mkdir /sys/fs/cgroup/memory/new"]),
                )
            },
        ),
        test(
            "config#mounts",
            "F85",
            "a cgroup mount shows the container's own cgroup at its root, not the machine's",
            |lab| {
                v1("pids", "/")?;
                let seen = lab.probe(
                    &["read /sys/fs/cgroup/pids/pids.max", "read /sys/fs/cgroup/pids/cgroup.procs"],
                    |spec| {
                        spec["linux"]["resources"] = json!({ "pids": { "limit": 66 } });
                        crate::lab::bundle::mount(
                            spec,
                            "/sys/fs/cgroup",
                            "cgroup",
                            "cgroup",
                            &["ro"],
                        );
                    },
                )?;
                same("pids.max", &seen["read /sys/fs/cgroup/pids/pids.max"], json!("66\n"))
            },
        ),
    ]
}
