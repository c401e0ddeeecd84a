//! Properties that the specification calls REQUIRED: without them a configuration is invalid, which is an
//! error by config.md, valid values. And values that its text forbids and no type does.

use serde_json::{Value, json};

use crate::check::{Test, test};
use crate::lab::bundle::{push, user_namespace};

/// Tests of this chapter.
pub fn tests() -> Vec<Test> {
    incomplete().into_iter().map(refused).chain(mappings()).collect()
}

/// Section, row, what is missing, where, and what is there instead; null removes it.
type Case = (&'static str, &'static str, &'static str, &'static str, Value);

fn refused((section, rows, what, path, value): Case) -> Test {
    test(section, rows, format!("{what} is refused"), move |lab| {
        let output = lab.refused(|spec| put(spec, path, value.clone()))?;
        let field = path.rsplit('.').next().unwrap_or(path);
        let named = output.err.contains(field);
        lab.quality(named, format!("the error does not name {field}: {}", output.brief()))
    })
}

fn put(spec: &mut Value, path: &str, value: Value) {
    let (parent, key) = path.rsplit_once('.').unwrap_or(("", path));
    let mut place = spec;
    for word in parent.split('.').filter(|word| !word.is_empty()) {
        place = match word.parse::<usize>() {
            Ok(index) => &mut place[index],
            Err(_) => &mut place[word],
        };
    }
    match value {
        Value::Null => _ = place.as_object_mut().map(|object| object.remove(key)),
        value => place[key] = value,
    }
}

fn incomplete() -> Vec<Case> {
    let posix = "config#posix-process";
    let user = "config#posix-platform-user";
    let linux = "config#linux-process";
    let device = "config-linux#devices";
    let io = "config-linux#block-io";
    let network = "config-linux#network";
    let huge = "config-linux#huge-page-limits";
    let seccomp = "config-linux#seccomp";
    let limits = "process.rlimits";
    let devices = "linux.devices";
    let (memory, personality) = ("config-linux#memory-policy", "config-linux#personality");
    let call = |rule: Value| json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule] });
    let argument = |argument: Value| {
        json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls":
            [{ "names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "args": [argument] }] })
    };
    vec![
        ("config#root", "F2", "a root without path", "root.path", Value::Null),
        ("config#process", "F4", "a process without cwd", "process.cwd", Value::Null),
        (
            "config#mounts",
            "F68",
            "a mount without destination",
            "mounts.0.destination",
            Value::Null,
        ),
        (user, "F6", "a user without uid", "process.user", json!({ "gid": 0 })),
        (user, "F6", "a user without gid", "process.user", json!({ "uid": 0 })),
        (posix, "F8", "an rlimit without type", limits, json!([{ "soft": 9, "hard": 9 }])),
        (
            posix,
            "F8",
            "an rlimit without soft",
            limits,
            json!([{ "type": "RLIMIT_CORE", "hard": 9 }]),
        ),
        (
            posix,
            "F8",
            "an rlimit without hard",
            limits,
            json!([{ "type": "RLIMIT_CORE", "soft": 9 }]),
        ),
        (linux, "F62", "a scheduler without policy", "process.scheduler", json!({ "nice": 1 })),
        (
            linux,
            "F63",
            "an ioPriority without class",
            "process.ioPriority",
            json!({ "priority": 1 }),
        ),
        (
            "config#posix-platform-hooks",
            "F15",
            "a hook without path",
            "hooks",
            json!({ "createRuntime": [{ "args": ["x"] }] }),
        ),
        (
            "config-linux#namespaces",
            "F21",
            "a namespace without type",
            "linux.namespaces",
            json!([{ "type": "mount" }, { "path": "/proc/self/ns/uts" }]),
        ),
        (
            device,
            "F26",
            "a device without type",
            devices,
            json!([{ "path": "/dev/x", "major": 1, "minor": 3 }]),
        ),
        (
            device,
            "F26",
            "a device without path",
            devices,
            json!([{ "type": "c", "major": 1, "minor": 3 }]),
        ),
        (
            device,
            "F26",
            "a device without major",
            devices,
            json!([{ "path": "/dev/x", "type": "c", "minor": 3 }]),
        ),
        (
            device,
            "F26",
            "a device without minor",
            devices,
            json!([{ "path": "/dev/x", "type": "c", "major": 1 }]),
        ),
        (
            "config-linux#allowed-device-list",
            "F32",
            "a device rule without allow",
            "linux.resources",
            json!({ "devices": [{ "type": "c", "major": 1, "minor": 3, "access": "r" }] }),
        ),
        (
            io,
            "F42",
            "a weight without a device",
            "linux.resources",
            json!({ "blockIO": { "weightDevice": [{ "weight": 100 }] } }),
        ),
        (
            io,
            "F42",
            "a weighted device without a weight",
            "linux.resources",
            json!({ "blockIO": { "weightDevice": [{ "major": 254, "minor": 0 }] } }),
        ),
        (
            io,
            "F42",
            "a throttled device without a rate",
            "linux.resources",
            json!({ "blockIO": { "throttleReadBpsDevice": [{ "major": 254, "minor": 0 }] } }),
        ),
        (
            io,
            "F42",
            "a rate without a device",
            "linux.resources",
            json!({ "blockIO": { "throttleWriteIOPSDevice": [{ "rate": 1000 }] } }),
        ),
        (
            huge,
            "F43",
            "a huge page limit without size",
            "linux.resources",
            json!({ "hugepageLimits": [{ "limit": 4_194_304 }] }),
        ),
        (
            huge,
            "F43",
            "a huge page size without limit",
            "linux.resources",
            json!({ "hugepageLimits": [{ "pageSize": "2MB" }] }),
        ),
        (
            network,
            "F44",
            "a priority without an interface",
            "linux.resources",
            json!({ "network": { "priorities": [{ "priority": 1 }] } }),
        ),
        (
            network,
            "F44",
            "an interface without a priority",
            "linux.resources",
            json!({ "network": { "priorities": [{ "name": "lo" }] } }),
        ),
        (
            "config-linux#rdma",
            "F46",
            "an RDMA device without a limit",
            "linux.resources",
            json!({ "rdma": { "mlx5_1": {} } }),
        ),
        (
            seccomp,
            "F52",
            "a rule without names",
            "linux.seccomp",
            call(json!({ "action": "SCMP_ACT_ERRNO" })),
        ),
        (
            seccomp,
            "F52",
            "a rule with no name in its names",
            "linux.seccomp",
            call(json!({ "names": [], "action": "SCMP_ACT_ERRNO" })),
        ),
        (
            seccomp,
            "F52",
            "a rule without action",
            "linux.seccomp",
            call(json!({ "names": ["mkdir"] })),
        ),
        (
            seccomp,
            "F52",
            "a condition without index",
            "linux.seccomp",
            argument(json!({ "value": 1, "op": "SCMP_CMP_EQ" })),
        ),
        (
            seccomp,
            "F52",
            "a condition without value",
            "linux.seccomp",
            argument(json!({ "index": 1, "op": "SCMP_CMP_EQ" })),
        ),
        (
            seccomp,
            "F52",
            "a condition without operator",
            "linux.seccomp",
            argument(json!({ "index": 1, "value": 1 })),
        ),
        (
            seccomp,
            "F53",
            "defaultErrnoRet with a default action that has no errno",
            "linux.seccomp",
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 5, "syscalls": [] }),
        ),
        (
            personality,
            "F61",
            "a personality without domain",
            "linux.personality",
            json!({ "flags": [] }),
        ),
        (
            memory,
            "F50",
            "a memory policy without mode",
            "linux.memoryPolicy",
            json!({ "nodes": "0" }),
        ),
        (
            "config-linux#masked-paths",
            "F60",
            "a masked path that is not absolute",
            "linux.maskedPaths",
            json!(["proc/kcore"]),
        ),
        (
            "config-linux#readonly-paths",
            "F60",
            "a read-only path that is not absolute",
            "linux.readonlyPaths",
            json!(["proc/sys"]),
        ),
        (
            "config#annotations",
            "F18",
            "an annotation whose key is empty",
            "annotations",
            json!({ "": "value" }),
        ),
    ]
}

/// Each property of an id mapping, which needs a user namespace to be looked at.
fn mappings() -> Vec<Test> {
    let without = |key: &'static str| {
        test(
            "config-linux#user-namespace-mappings",
            "F24",
            format!("a mapping without {key} is refused"),
            move |lab| {
                lab.refused(|spec| {
                    user_namespace(spec);
                    let mut map = json!({ "containerID": 70_000, "hostID": 300_000, "size": 1 });
                    map.as_object_mut().map(|map| map.remove(key));
                    push(&mut spec["linux"]["uidMappings"], map);
                })
                .map(drop)
            },
        )
    };
    vec![without("containerID"), without("hostID"), without("size")]
}
