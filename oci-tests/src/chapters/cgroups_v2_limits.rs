//! config-linux.md, limits where cgroup2 is all there is: what the fields, which speak of cgroup v1, are
//! in the files of cgroup v2.

use std::fs;

use serde_json::{Value, json};

use super::cgroups_v2::need;
use crate::check::{Res, Test, ensure, eq, skip, test};
use crate::lab::cgroups::v2;

/// Section, row, what is asked for, the resources, and each file with a line that it must have.
type Limit =
    (&'static str, &'static str, &'static str, Value, &'static [(&'static str, &'static str)]);

/// Tests of this chapter.
pub fn tests() -> Vec<Test> {
    let plain = memory().into_iter().chain(cpu()).chain(rest()).map(limit);
    plain.chain(disks()).map(Test::on_v2).collect()
}

fn memory() -> Vec<Limit> {
    let section = "config-linux#memory";
    vec![
        (
            section,
            "F33",
            "memory.limit",
            json!({ "memory": { "limit": 134_217_728 } }),
            &[("memory.max", "134217728"), ("memory.swap.max", "max")],
        ),
        (
            section,
            "F33",
            "memory.limit -1",
            json!({ "memory": { "limit": -1 } }),
            &[("memory.max", "max"), ("memory.swap.max", "max")],
        ),
        (
            section,
            "F33",
            "memory.reservation",
            json!({ "memory": { "reservation": 67_108_864 } }),
            &[("memory.low", "67108864"), ("memory.max", "max")],
        ),
        (
            section,
            "F33",
            "memory.swap, memory plus swap in the configuration,",
            json!({ "memory": { "limit": 33_554_432, "swap": 100_663_296 } }),
            &[("memory.max", "33554432"), ("memory.swap.max", "67108864")],
        ),
        (
            section,
            "F33",
            "memory.swap equal to the limit",
            json!({ "memory": { "limit": 33_554_432, "swap": 33_554_432 } }),
            &[("memory.max", "33554432"), ("memory.swap.max", "0")],
        ),
        (
            section,
            "F33",
            "memory.swap -1",
            json!({ "memory": { "limit": 33_554_432, "swap": -1 } }),
            &[("memory.max", "33554432"), ("memory.swap.max", "max")],
        ),
    ]
}

fn cpu() -> Vec<Limit> {
    let section = "config-linux#cpu";
    vec![
        (
            section,
            "F37",
            "cpu.shares 1024, the default,",
            json!({ "cpu": { "shares": 1024 } }),
            &[("cpu.weight", "100")],
        ),
        (
            section,
            "F37",
            "cpu.shares 2, the least,",
            json!({ "cpu": { "shares": 2 } }),
            &[("cpu.weight", "1")],
        ),
        (
            section,
            "F37",
            "cpu.shares 262144, the most,",
            json!({ "cpu": { "shares": 262_144 } }),
            &[("cpu.weight", "10000")],
        ),
        (
            section,
            "F37",
            "cpu.quota",
            json!({ "cpu": { "quota": 45_000 } }),
            &[("cpu.max", "45000 100000")],
        ),
        (
            section,
            "F37",
            "cpu.quota -1",
            json!({ "cpu": { "quota": -1 } }),
            &[("cpu.max", "max 100000")],
        ),
        (
            section,
            "F37",
            "cpu.period alone",
            json!({ "cpu": { "period": 50_000 } }),
            &[("cpu.max", "max 50000")],
        ),
        (
            section,
            "F38",
            "cpu.burst",
            json!({ "cpu": { "quota": 50_000, "period": 100_000, "burst": 20_000 } }),
            &[("cpu.max", "50000 100000"), ("cpu.max.burst", "20000")],
        ),
        (section, "F40", "cpu.cpus", json!({ "cpu": { "cpus": "0" } }), &[("cpuset.cpus", "0")]),
        (section, "F40", "cpu.mems", json!({ "cpu": { "mems": "0" } }), &[("cpuset.mems", "0")]),
        (section, "F41", "cpu.idle", json!({ "cpu": { "idle": 1 } }), &[("cpu.idle", "1")]),
    ]
}

fn rest() -> Vec<Limit> {
    vec![
        (
            "config-linux#pids",
            "F45",
            "pids.limit",
            json!({ "pids": { "limit": 77 } }),
            &[("pids.max", "77")],
        ),
        (
            "config-linux#pids",
            "F45",
            "pids.limit -1",
            json!({ "pids": { "limit": -1 } }),
            &[("pids.max", "max")],
        ),
        (
            "config-linux#control-groups",
            "F168",
            "each of several limits at once",
            json!({
                "memory": { "limit": 134_217_728, "reservation": 67_108_864 },
                "cpu": { "shares": 1024, "quota": 40_000, "period": 80_000 },
                "pids": { "limit": 50 },
            }),
            &[
                ("memory.max", "134217728"),
                ("memory.low", "67108864"),
                ("cpu.weight", "100"),
                ("cpu.max", "40000 80000"),
                ("pids.max", "50"),
            ],
        ),
    ]
}

fn limit((section, row, what, resources, files): Limit) -> Test {
    let lines: Vec<String> = files.iter().map(|(file, line)| format!("{line} in {file}")).collect();
    test(section, row, format!("{what} is {}", lines.join(", ")), move |lab| {
        for (file, _) in files {
            need(file.split('.').next().unwrap_or_default())?;
        }
        let resources = resources.clone();
        let container = lab.create(&["pause"], |spec| spec["linux"]["resources"] = resources)?;
        for (file, line) in files {
            let path = v2(&container.cgroup)?.join(file);
            if !path.exists() {
                return skip(format!("this kernel has no {file}"));
            }
            eq(file, &fs::read_to_string(path)?.trim(), line)?;
        }
        container.end()
    })
}

/// Some whole disk of this machine; throttles are refused for partitions.
fn disk() -> Res<(u32, u32)> {
    let mut names: Vec<_> =
        fs::read_dir("/sys/block")?.flatten().map(|entry| entry.path().join("dev")).collect();
    names.sort();
    let numbers = names.first().and_then(|path| fs::read_to_string(path).ok());
    let pair = numbers.as_deref().and_then(|text| text.trim().split_once(':'));
    match pair.and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?))) {
        Some(numbers) => Ok(numbers),
        None => skip("this machine has no disk"),
    }
}

fn disks() -> Vec<Test> {
    let section = "config-linux#block-io";
    vec![
        test(section, "F42", "the four throttles of a device are one line of io.max", |lab| {
            need("io")?;
            let (major, minor) = disk()?;
            let rate = |rate: u64| json!([{ "major": major, "minor": minor, "rate": rate }]);
            let container = lab.create(&["pause"], |spec| {
                spec["linux"]["resources"] = json!({ "blockIO": {
                    "throttleReadBpsDevice": rate(1_048_576),
                    "throttleWriteBpsDevice": rate(2_097_152),
                    "throttleReadIOPSDevice": rate(700),
                    "throttleWriteIOPSDevice": rate(800),
                } });
            })?;
            let text = fs::read_to_string(v2(&container.cgroup)?.join("io.max"))?;
            let wanted = format!("{major}:{minor} rbps=1048576 wbps=2097152 riops=700 wiops=800");
            eq("io.max", &text.trim(), &wanted.as_str())?;
            container.end()
        }),
        test(section, "F42", "blockIO.weight is io.bfq.weight or in proportion io.weight", |lab| {
            need("io")?;
            let container = lab.create(&["pause"], |spec| {
                spec["linux"]["resources"] = json!({ "blockIO": { "weight": 1000 } })
            })?;
            let read = |file: &str| -> Res<String> {
                Ok(fs::read_to_string(v2(&container.cgroup)?.join(file))?)
            };
            let found: Vec<String> = ["io.bfq.weight", "io.weight"]
                .into_iter()
                .filter_map(|file| read(file).ok())
                .collect();
            if found.is_empty() {
                return skip("this kernel has no io.weight");
            }
            let good = ["default 1000", "default 10000"];
            ensure(
                found.iter().any(|text| text.lines().any(|line| good.contains(&line))),
                format!("the weights are {found:?}"),
            )?;
            container.end()
        }),
    ]
}
