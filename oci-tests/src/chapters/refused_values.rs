//! Values that the kernel refuses: the error names the field, the file written, and the value.

use serde_json::{Value, json};

use crate::check::{Res, Test, cut, ensure, fail, skip, test};
use crate::lab::Lab;
use crate::lab::bundle::mount;
use crate::lab::call::Output;
use crate::lab::cgroups::either;

/// Tests of this chapter.
pub fn tests() -> Vec<Test> {
    let mut tests: Vec<Test> = limits().into_iter().map(limit).collect();
    // The same with the files of cgroup v2.
    tests.extend(limits().into_iter().map(limit).map(Test::on_v2));
    tests.extend(options().into_iter().map(option));
    tests.push(below_use());
    tests
}

/// What an error says, without the log format's escapes.
fn told(output: &Output) -> String {
    output.err.replace("\\\"", "\"")
}

/// A quality of the message: it has all these words.
fn names(lab: &Lab, output: &Output, words: &[&str]) -> Res {
    let told = told(output);
    let missing: Vec<&&str> = words.iter().filter(|word| !told.contains(**word)).collect();
    lab.quality(missing.is_empty(), format!("no {missing:?} in: {}", cut(&told)))
}

/// A resource with a value that no kernel takes.
struct Limit {
    row: &'static str,
    /// Its controller, by its names in cgroup v1 and v2.
    controllers: [&'static str; 2],
    /// Below `linux.resources`, as an error names it.
    field: &'static str,
    resources: Value,
    /// The files of cgroup v1 and v2.
    files: [&'static str; 2],
    value: &'static str,
}

fn limits() -> Vec<Limit> {
    let one = |row, controller, field, resources, files, value| Limit {
        row,
        controllers: [controller, controller],
        field,
        resources,
        files,
        value,
    };
    let disk = |row, field, resources, files, value| Limit {
        controllers: ["blkio", "io"],
        ..one(row, "", field, resources, files, value)
    };
    let throttle =
        |name: &str| json!({ "blockIO": { name: [{ "major": 4000, "minor": 1, "rate": 5000 }] } });
    vec![
        one(
            "F37",
            "cpu",
            "cpu.quota",
            json!({ "cpu": { "quota": 5 } }),
            ["cpu.cfs_quota_us", "cpu.max"],
            "\"5",
        ),
        one(
            "F37",
            "cpu",
            "cpu.period",
            json!({ "cpu": { "period": 5 } }),
            ["cpu.cfs_period_us", "cpu.max"],
            "5\"",
        ),
        one(
            "F38",
            "cpu",
            "cpu.burst",
            json!({ "cpu": { "quota": 50_000, "burst": 60_000 } }),
            ["cpu.cfs_burst_us", "cpu.max.burst"],
            "\"60000\"",
        ),
        one(
            "F39",
            "cpu",
            "cpu.realtime",
            json!({ "cpu": { "realtimeRuntime": 2_000_000, "realtimePeriod": 1_000_000 } }),
            ["cpu.rt_runtime_us", "cgroup v2 has no"],
            "",
        ),
        one(
            "F40",
            "cpuset",
            "cpu.cpus",
            json!({ "cpu": { "cpus": "4000" } }),
            ["cpuset.cpus", "cpuset.cpus"],
            "\"4000\"",
        ),
        one(
            "F40",
            "cpuset",
            "cpu.mems",
            json!({ "cpu": { "mems": "900" } }),
            ["cpuset.mems", "cpuset.mems"],
            "\"900\"",
        ),
        one(
            "F45",
            "pids",
            "pids.limit",
            json!({ "pids": { "limit": 5_000_000 } }),
            ["pids.max", "pids.max"],
            "\"5000000\"",
        ),
        disk(
            "F42",
            "blockIO.weightDevice[0].weight",
            json!({ "blockIO": { "weightDevice": [{ "major": 4000, "minor": 1, "weight": 500 }] } }),
            ["weight_device", "weight"],
            "\"4000:1 ",
        ),
        disk(
            "F42",
            "blockIO.throttleReadBpsDevice[0]",
            throttle("throttleReadBpsDevice"),
            ["blkio.throttle.read_bps_device", "io.max"],
            "\"4000:1 ",
        ),
        disk(
            "F42",
            "blockIO.throttleWriteBpsDevice[0]",
            throttle("throttleWriteBpsDevice"),
            ["blkio.throttle.write_bps_device", "io.max"],
            "\"4000:1 ",
        ),
        disk(
            "F42",
            "blockIO.throttleReadIOPSDevice[0]",
            throttle("throttleReadIOPSDevice"),
            ["blkio.throttle.read_iops_device", "io.max"],
            "\"4000:1 ",
        ),
        disk(
            "F42",
            "blockIO.throttleWriteIOPSDevice[0]",
            throttle("throttleWriteIOPSDevice"),
            ["blkio.throttle.write_iops_device", "io.max"],
            "\"4000:1 ",
        ),
        one(
            "F43",
            "hugetlb",
            "hugepageLimits[0]",
            json!({ "hugepageLimits": [{ "pageSize": "512GB", "limit": 4096 }] }),
            ["hugetlb.512GB.limit_in_bytes", "hugetlb.512GB.max"],
            "",
        ),
        one(
            "F44",
            "net_prio",
            "network.priorities[0]",
            json!({ "network": { "priorities": [{ "name": "absent0", "priority": 3 }] } }),
            ["net_prio.ifpriomap", "net_prio.ifpriomap"],
            "\"absent0 3\"",
        ),
        one(
            "F46",
            "rdma",
            "rdma[\"absent0\"]",
            json!({ "rdma": { "absent0": { "hcaHandles": 3, "hcaObjects": 9 } } }),
            ["rdma.max", "rdma.max"],
            "\"absent0 hca_handle=3 hca_object=9\"",
        ),
        one(
            "F47",
            "pids",
            "unified[\"pids.max\"]",
            json!({ "unified": { "pids.max": "many" } }),
            ["the controller is in cgroup v1", "pids.max"],
            "",
        ),
        one(
            "F47",
            "memory",
            "unified[\"memory.high\"]",
            json!({ "unified": { "memory.high": "much" } }),
            ["the controller is in cgroup v1", "memory.high \"much\""],
            "",
        ),
    ]
}

fn limit(limit: Limit) -> Test {
    let Limit { row, controllers, field, resources, files, value } = limit;
    let text = format!("{field} = {resources}: the error names field, file and value");
    test("config-linux#control-groups", row, text, move |lab| {
        if !controllers.iter().any(|controller| either(controller, "/").is_ok()) {
            return skip(format!("no hierarchy of this machine has {}", controllers.join(" or ")));
        }
        let resources = resources.clone();
        let output = lab.refused(|spec| {
            spec["ociVersion"] = json!("1.3.0");
            spec["linux"]["resources"] = resources;
        })?;
        if told(&output).contains("the kernel has no") && row != "F43" {
            return skip(format!("this kernel lacks it: {}", cut(&output.err)));
        }
        names(lab, &output, &[&format!("linux.resources.{field}"), value])?;
        let file = files.iter().any(|file| told(&output).contains(file));
        lab.quality(file, format!("none of {files:?} in: {}", cut(&told(&output))))
    })
}

/// Type of the file system, and options of which the last is refused.
type Option = (&'static str, &'static [&'static str]);

fn options() -> Vec<Option> {
    vec![
        ("tmpfs", &["nosuid", "size=banana"]),
        ("tmpfs", &["mode=9"]),
        ("tmpfs", &["nodev", "ro", "nr_inodes=x"]),
        ("tmpfs", &["nr_blocks=x"]),
        ("tmpfs", &["uid=x"]),
        ("tmpfs", &["gid=-5"]),
        ("tmpfs", &["mpol=x"]),
        ("tmpfs", &["unknown=1"]),
        ("tmpfs", &["unknown"]),
        ("tmpfs", &["size=1m", "size="]),
        ("devpts", &["newinstance", "ptmxmode=9"]),
        ("devpts", &["max=x"]),
        ("devpts", &["gid=x"]),
        ("devpts", &["mode=9"]),
        ("mqueue", &["noexec", "unknown=1"]),
        ("overlay", &["lowerdir=/no/such/place"]),
        ("overlay", &["lowerdir=/tmp", "upperdir=/no/such/place"]),
        ("overlay", &["lowerdir=/tmp", "redirect_dir=x"]),
    ]
}

fn option((kind, words): Option) -> Test {
    let last = words.len() - 1;
    let text = format!("{} on {kind}: the error names the option and its value", words.join(","));
    test("config#mounts", "F68", text, move |lab| {
        let mut at = 0;
        let output = lab.refused(|spec| {
            at = spec["mounts"].as_array().map_or(0, Vec::len);
            mount(spec, "/data", kind, kind, words);
        })?;
        if told(&output).contains("ENODEV") {
            return skip(format!("this kernel has no {kind}"));
        }
        names(
            lab,
            &output,
            &[&format!("mounts[{at}].options[{last}]"), &format!("\"{}\"", words[last])],
        )
    })
}

/// The limit is one that the kernel takes until the memory is used.
fn below_use() -> Test {
    test(
        "contract#update",
        "F36",
        "a memory limit below what is used names field, file and value",
        |lab| {
            either("memory", "/")?;
            let container = lab.running(|_| {})?;
            let update = json!({ "memory": { "limit": 8192, "checkBeforeUpdate": true } });
            let file = lab.dir.join("resources.json");
            std::fs::write(&file, update.to_string())?;
            let path = file.display().to_string();
            let output = lab.call(&["update", "--resources", &path, &container.id]).output()?;
            ensure(output.code != Some(0), "update succeeded")?;
            names(lab, &output, &["linux.resources.memory.limit", "\"8192\"", "bytes in use"])?;
            let file = ["memory.limit_in_bytes", "memory.max"];
            let named = file.iter().any(|file| output.err.contains(file));
            if !named {
                return lab.quality(false, format!("no {file:?} in: {}", output.brief()));
            }
            match container.alive()? {
                true => container.end(),
                false => fail("the container is gone"),
            }
        },
    )
}
