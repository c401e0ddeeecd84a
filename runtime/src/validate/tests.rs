//! A base configuration that is accepted, and one change each that is refused with its path.

use serde_json::{Value, json};

use super::*;
use crate::spec::{self, parse_config};

/// Has one of everything that a change below builds on.
fn base() -> Value {
    json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "h",
        "domainname": "d",
        "process": {
            "terminal": false,
            "consoleSize": {"height": 1, "width": 1},
            "user": {"uid": 0, "gid": 0, "umask": 18, "additionalGids": [1, 2]},
            "args": ["sh"],
            "env": ["PATH=/bin", "EMPTY="],
            "cwd": "/",
            "capabilities": {
                "bounding": ["CAP_KILL", "CAP_CHOWN"],
                "permitted": ["CAP_KILL"],
                "effective": ["CAP_KILL"],
                "inheritable": ["CAP_KILL"],
                "ambient": ["CAP_KILL"]
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20}],
            "noNewPrivileges": true,
            "oomScoreAdj": 100,
            "apparmorProfile": "p",
            "selinuxLabel": "l",
            "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4},
            "scheduler": {"policy": "SCHED_OTHER", "nice": 1},
            "execCPUAffinity": {"initial": "0-1, 3", "final": "2"}
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/data", "source": "/data", "options": ["rbind", "ro"]}
        ],
        "hooks": {
            "createRuntime": [{"path": "/h", "args": ["h"], "env": ["A=b"], "timeout": 5}],
            "poststop": [{"path": "/h"}]
        },
        "annotations": {"a.b": ""},
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"},
                {"type": "mount"}, {"type": "user"}, {"type": "time"},
                {"type": "cgroup", "path": "/proc/1/ns/cgroup"}
            ],
            "uidMappings": [
                {"containerID": 0, "hostID": 1000, "size": 10},
                {"containerID": 10, "hostID": 2000, "size": 4294965295_u32}
            ],
            "gidMappings": [{"containerID": 0, "hostID": 1000, "size": 10}],
            "timeOffsets": {"monotonic": {"secs": -5, "nanosecs": 999_999_999}},
            "netDevices": {"eth0": {"name": "in%d"}, "eth1": {}},
            "devices": [
                {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 438,
                 "uid": 0, "gid": 0},
                {"path": "/dev/fifo", "type": "p"}
            ],
            "sysctl": {"net.core.somaxconn": "256", "kernel.shmmax": "1", "user.max_uts_namespaces": "1"},
            "cgroupsPath": "/a/b",
            "resources": {
                "devices": [{"allow": false, "access": "rwm"},
                            {"allow": true, "type": "c", "major": 1, "minor": -1, "access": "r"}],
                "memory": {"limit": 1000, "reservation": -1, "swap": 1000, "kernel": -1,
                           "swappiness": 60, "disableOOMKiller": false},
                "cpu": {"shares": 2, "quota": -1, "period": 1, "burst": 1, "cpus": "0-1",
                        "mems": "0", "idle": 0},
                "pids": {"limit": 0},
                "blockIO": {"weight": 10, "weightDevice": [{"major": 8, "minor": 0, "weight": 500}],
                            "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 600}]},
                "hugepageLimits": [{"pageSize": "2MB", "limit": 18446744073709551615_u64}],
                "network": {"classID": 1, "priorities": [{"name": "eth0", "priority": 1}]},
                "rdma": {"mlx5_1": {"hcaHandles": 3}},
                "unified": {"memory.high": "1"}
            },
            "rootfsPropagation": "slave",
            "seccomp": {
                "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
                "architectures": ["SCMP_ARCH_X86_64"],
                "flags": ["SECCOMP_FILTER_FLAG_LOG"],
                "listenerPath": "/run/l", "listenerMetadata": "m",
                "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW",
                              "args": [{"index": 5, "value": 18446744073709551615_u64,
                                        "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]}]
            },
            "maskedPaths": ["/proc/kcore"],
            "readonlyPaths": ["/proc/sys"],
            "mountLabel": "m",
            "intelRdt": {"closID": "c", "schemata": ["L3:0=f"], "enableMonitoring": true},
            "memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0-1"},
            "personality": {"domain": "LINUX32", "flags": []}
        }
    })
}

/// Replaces or adds the value at a path such as `linux.devices[0].path`; nothing means remove.
fn change(root: &mut Value, path: &str, value: Option<Value>) {
    let pointer = format!("/{}", path.replace(['.', '['], "/").replace(']', ""));
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let mut at = root;
    for step in parent.split('/').skip(1) {
        at = match step.parse::<usize>() {
            Ok(index) => &mut at[index],
            Err(_) => &mut at[step],
        };
    }
    match (key.parse::<usize>(), value) {
        (Ok(index), Some(value)) => at[index] = value,
        (Err(_), Some(value)) => at[key] = value,
        (Err(_), None) => drop(at.as_object_mut().unwrap().remove(key).unwrap()),
        (Ok(_), None) => unreachable!(),
    }
}

fn verdict(config: &Value) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    let parsed = parse_config(config.to_string().as_bytes(), &mut warnings)?;
    validate(&parsed.spec, &mut Faults::First, &mut warnings)?;
    parsed.hardware.as_ref().map_or(Ok(()), vm_hardware)?;
    Ok(warnings)
}

fn refused(path: &str, value: Option<Value>, expected: &str) {
    let mut config = base();
    let shown = value.clone();
    change(&mut config, path, value);
    let error = match verdict(&config) {
        Ok(_) => panic!("{path} = {shown:?} is accepted"),
        Err(error) => error,
    };
    assert_eq!(error.kind(), crate::error::ErrorKind::Invalid, "{error}");
    let text = error.to_string();
    let subject = error.subject();
    assert!(
        subject == expected || subject.starts_with(&format!("{expected}.")),
        "{path} = {shown:?} gives {text:?}, not a path {expected:?}"
    );
}

#[test]
fn the_base_is_accepted_without_a_warning() {
    assert_eq!(verdict(&base()), Ok(Vec::new()));
}

#[test]
fn required_properties_are_required() {
    let required = "ociVersion root root.path process process.cwd process.user process.user.uid \
        process.user.gid process.args process.consoleSize.height process.consoleSize.width \
        process.rlimits[0].type process.rlimits[0].soft process.rlimits[0].hard \
        process.ioPriority.class process.scheduler.policy mounts[0].destination mounts[1].source \
        hooks.createRuntime[0].path linux.namespaces[0].type linux.uidMappings linux.gidMappings \
        linux.uidMappings[0].containerID linux.uidMappings[0].hostID linux.uidMappings[0].size \
        linux.gidMappings[0].size linux.devices[0].path linux.devices[0].type \
        linux.resources.devices[0].allow linux.resources.hugepageLimits[0].pageSize \
        linux.resources.hugepageLimits[0].limit linux.resources.network.priorities[0].name \
        linux.resources.network.priorities[0].priority \
        linux.resources.blockIO.throttleReadBpsDevice[0].rate \
        linux.resources.blockIO.throttleReadBpsDevice[0].major \
        linux.resources.blockIO.weightDevice[0].minor linux.seccomp.defaultAction \
        linux.seccomp.syscalls[0].names linux.seccomp.syscalls[0].action \
        linux.seccomp.syscalls[0].args[0].index linux.seccomp.syscalls[0].args[0].value \
        linux.seccomp.syscalls[0].args[0].op linux.memoryPolicy.mode linux.personality.domain";
    for path in required.split_whitespace() {
        refused(path, None, path);
        refused(path, Some(Value::Null), path);
    }
}

/// Every property with a value of each other JSON type.
#[test]
fn wrong_types_are_refused() {
    let others =
        [json!("1G"), json!(1.5), json!(true), json!([]), json!({}), json!(-1), json!([[1]])];
    let kinds: [(&str, &[usize]); 4] = [
        // numbers
        (
            "process.user.uid process.user.umask process.oomScoreAdj process.rlimits[0].soft \
             linux.uidMappings[0].size linux.devices[0].major linux.devices[0].fileMode \
             linux.resources.memory.limit linux.resources.cpu.shares linux.resources.cpu.quota \
             linux.resources.pids.limit linux.resources.blockIO.weight linux.seccomp.defaultErrnoRet \
             linux.seccomp.syscalls[0].args[0].index linux.timeOffsets.monotonic.secs \
             hooks.createRuntime[0].timeout linux.resources.rdma.mlx5_1.hcaHandles \
             process.scheduler.nice process.ioPriority.priority",
            &[0, 1, 2, 3, 4],
        ),
        // strings
        (
            "ociVersion root.path process.cwd process.args[0] process.env[0] hostname domainname \
             process.apparmorProfile process.selinuxLabel process.rlimits[0].type \
             process.capabilities.bounding mounts[0].destination mounts[0].type mounts[1].options \
             linux.namespaces[0].type linux.devices[0].type linux.seccomp.defaultAction \
             linux.seccomp.architectures linux.seccomp.flags[0] linux.seccomp.syscalls[0].names[0] \
             linux.rootfsPropagation linux.cgroupsPath linux.maskedPaths[0] linux.mountLabel \
             linux.resources.unified.x linux.sysctl.x annotations.x linux.intelRdt.closID",
            &[1, 2, 4],
        ),
        // booleans
        (
            "root.readonly process.terminal process.noNewPrivileges linux.resources.devices[0].allow \
             linux.resources.memory.disableOOMKiller linux.intelRdt.enableMonitoring",
            &[0, 1, 3, 4, 5],
        ),
        // objects and arrays
        (
            "root process process.user process.capabilities hooks linux linux.resources \
             linux.resources.memory linux.resources.cpu linux.resources.pids linux.seccomp \
             linux.intelRdt linux.memoryPolicy linux.personality annotations linux.sysctl mounts[0] \
             linux.namespaces[0] hooks.poststop[0] linux.timeOffsets process.consoleSize",
            &[0, 1, 2, 5, 6],
        ),
    ];
    let mut count = 0;
    for (paths, wrong) in kinds {
        for path in paths.split_whitespace() {
            for index in wrong {
                refused(path, Some(others[*index].clone()), path);
                count += 1;
            }
        }
    }
    assert!(count >= 200, "{count}");
}

#[test]
fn numbers_do_not_wrap() {
    let cases = [
        ("process.user.uid", json!(-1)),
        ("process.user.uid", json!(4294967295_u32)),
        ("process.user.uid", json!(4294967296_u64)),
        ("process.user.gid", json!(4294967295_u32)),
        ("process.user.gid", json!(1e30)),
        ("process.user.additionalGids[0]", json!(-1)),
        ("process.user.additionalGids[1]", json!(4294967295_u32)),
        ("process.user.umask", json!(512)),
        ("process.user.umask", json!(-1)),
        ("process.consoleSize.height", json!(65536)),
        ("process.consoleSize.width", json!(-1)),
        ("process.oomScoreAdj", json!(1001)),
        ("process.oomScoreAdj", json!(-1001)),
        ("process.oomScoreAdj", json!(i64::MAX)),
        ("process.rlimits[0].hard", json!(-1)),
        ("process.rlimits[0].soft", json!(21)),
        ("process.ioPriority.priority", json!(8)),
        ("process.ioPriority.priority", json!(-1)),
        ("process.scheduler.nice", json!(20)),
        ("process.scheduler.nice", json!(-21)),
        ("process.scheduler.priority", json!(1)),
        ("process.scheduler.runtime", json!(1)),
        ("hooks.createRuntime[0].timeout", json!(0)),
        ("hooks.createRuntime[0].timeout", json!(-1)),
        ("hooks.createRuntime[0].timeout", json!(i64::MAX)),
        ("linux.uidMappings[0].containerID", json!(-1)),
        ("linux.uidMappings[0].hostID", json!(4294967296_u64)),
        ("linux.uidMappings[0].size", json!(0)),
        ("linux.uidMappings[1].size", json!(4294967295_u32)),
        ("linux.uidMappings[1].size", json!(4294965296_u32)),
        ("linux.gidMappings[0].size", json!(4294967295_u32)),
        ("linux.timeOffsets.monotonic.nanosecs", json!(1_000_000_000)),
        ("linux.timeOffsets.monotonic.nanosecs", json!(-1)),
        ("linux.devices[0].major", json!(-1)),
        ("linux.devices[0].major", json!(4096)),
        ("linux.devices[0].minor", json!(1048576)),
        ("linux.devices[0].fileMode", json!(1 << 16)),
        ("linux.devices[0].fileMode", json!(-1)),
        ("linux.devices[0].uid", json!(4294967295_u32)),
        ("linux.devices[0].gid", json!(-1)),
        ("linux.resources.devices[1].major", json!(-2)),
        ("linux.resources.devices[1].minor", json!(1_i64 << 40)),
        ("linux.resources.memory.limit", json!(-2)),
        ("linux.resources.memory.limit", json!(9223372036854775808_u64)),
        ("linux.resources.memory.reservation", json!(-2)),
        ("linux.resources.memory.swap", json!(-2)),
        ("linux.resources.memory.swap", json!(999)),
        ("linux.resources.memory.swappiness", json!(101)),
        ("linux.resources.memory.swappiness", json!(-1)),
        ("linux.resources.cpu.shares", json!(-1)),
        ("linux.resources.cpu.period", json!(-1)),
        ("linux.resources.cpu.quota", json!(-2)),
        ("linux.resources.cpu.burst", json!(-1)),
        ("linux.resources.cpu.idle", json!(2)),
        ("linux.resources.cpu.realtimeRuntime", json!(-2)),
        ("linux.resources.pids.limit", json!(-2)),
        ("linux.resources.blockIO.weight", json!(9)),
        ("linux.resources.blockIO.weight", json!(1001)),
        ("linux.resources.blockIO.leafWeight", json!(70000)),
        ("linux.resources.blockIO.weightDevice[0].weight", json!(1)),
        ("linux.resources.blockIO.weightDevice[0].major", json!(-1)),
        ("linux.resources.blockIO.throttleReadBpsDevice[0].rate", json!(-1)),
        ("linux.resources.blockIO.throttleReadBpsDevice[0].minor", json!(-1)),
        ("linux.resources.hugepageLimits[0].limit", json!(-1)),
        ("linux.resources.network.classID", json!(4294967296_u64)),
        ("linux.resources.network.priorities[0].priority", json!(-1)),
        ("linux.resources.rdma.mlx5_1.hcaHandles", json!(-1)),
        ("linux.seccomp.defaultErrnoRet", json!(4096)),
        ("linux.seccomp.defaultErrnoRet", json!(-1)),
        ("linux.seccomp.syscalls[0].errnoRet", json!(1)),
        ("linux.seccomp.syscalls[0].args[0].index", json!(6)),
        ("linux.seccomp.syscalls[0].args[0].index", json!(-1)),
        ("linux.seccomp.syscalls[0].args[0].value", json!(-1)),
    ];
    for (path, value) in cases {
        refused(path, Some(value), path);
    }
}

#[test]
fn words_are_known_or_refused() {
    let cases = [
        ("ociVersion", json!("2.0.0")),
        ("ociVersion", json!("0.9.0")),
        ("ociVersion", json!("1.0")),
        ("ociVersion", json!("1.0.0-")),
        ("ociVersion", json!("1.0.x")),
        ("ociVersion", json!("v1.0.0")),
        ("ociVersion", json!("1.0.0 ")),
        ("root.path", json!("")),
        ("root.path", json!("a\0b")),
        ("hostname", json!("x".repeat(65))),
        ("hostname", json!("a\0b")),
        ("domainname", json!("x".repeat(65))),
        ("process.cwd", json!("")),
        ("process.cwd", json!("relative")),
        ("process.cwd", json!("/a\0b")),
        ("process.args", json!([])),
        ("process.args[0]", json!("a\0b")),
        ("process.env[0]", json!("NOVALUE")),
        ("process.env[0]", json!("=x")),
        ("process.env[1]", json!("A=\0")),
        ("process.env[1]", json!("")),
        ("process.apparmorProfile", json!("a\0")),
        ("process.selinuxLabel", json!("a\0")),
        ("process.rlimits[0].type", json!("RLIMIT_FOO")),
        ("process.rlimits[0].type", json!("NOFILE")),
        ("process.ioPriority.class", json!("IOPRIO_CLASS_X")),
        ("process.scheduler.policy", json!("SCHED_X")),
        ("process.scheduler.flags", json!(["SCHED_FLAG_X"])),
        ("process.execCPUAffinity.initial", json!("a")),
        ("process.execCPUAffinity.final", json!("3-1")),
        ("process.execCPUAffinity.final", json!("1,,2")),
        ("process.capabilities.effective", json!(["CAP_CHOWN"])),
        ("process.capabilities.inheritable", json!(["CAP_SYS_ADMIN"])),
        ("mounts[0].destination", json!("")),
        ("mounts[0].destination", json!("/a\0b")),
        ("mounts[1].options", json!(["bind", "a\0"])),
        ("hooks.createRuntime[0].path", json!("relative")),
        ("hooks.createRuntime[0].path", json!("")),
        ("hooks.poststop[0].path", json!("./x")),
        ("linux.namespaces[0].type", json!("mnt")),
        ("linux.namespaces[0].type", json!("PID")),
        ("linux.namespaces[1].type", json!("pid")),
        ("linux.namespaces[7].path", json!("proc/1/ns/cgroup")),
        ("linux.devices[0].path", json!("dev/x")),
        ("linux.devices[0].type", json!("a")),
        ("linux.devices[0].type", json!("x")),
        ("linux.resources.devices[1].type", json!("p")),
        ("linux.resources.devices[1].type", json!("z")),
        ("linux.resources.devices[1].access", json!("rwx")),
        ("linux.resources.cpu.cpus", json!("a-b")),
        ("linux.resources.cpu.mems", json!("0;1")),
        ("linux.resources.hugepageLimits[0].pageSize", json!("3MB")),
        ("linux.resources.hugepageLimits[0].pageSize", json!("2M")),
        ("linux.resources.hugepageLimits[0].pageSize", json!("../x")),
        ("linux.resources.network.priorities[0].name", json!("a b")),
        ("linux.rootfsPropagation", json!("sharing")),
        ("linux.cgroupsPath", json!("/a/../../b")),
        ("linux.maskedPaths[0]", json!("proc/kcore")),
        ("linux.readonlyPaths[0]", json!("../x")),
        ("linux.intelRdt.closID", json!("..")),
        ("linux.intelRdt.closID", json!("a/b")),
        ("linux.intelRdt.closID", json!("info")),
        ("linux.intelRdt.l3CacheSchema", json!("L3:0=f\n")),
        ("linux.intelRdt.memBwSchema", json!("L3:0=f")),
        ("linux.intelRdt.schemata[0]", json!("")),
        ("linux.memoryPolicy.mode", json!("MPOL_X")),
        ("linux.memoryPolicy.flags", json!(["MPOL_F_X"])),
        ("linux.memoryPolicy.nodes", json!("x")),
        ("linux.memoryPolicy.nodes", json!("")),
        ("linux.personality.domain", json!("LINUX64")),
        ("linux.seccomp.defaultAction", json!("SCMP_ACT_X")),
        ("linux.seccomp.defaultAction", json!("SCMP_ACT_NOTIFY")),
        ("linux.seccomp.flags", json!(["SECCOMP_FILTER_FLAG_X"])),
        ("linux.seccomp.listenerPath", json!("run/l")),
        ("linux.seccomp.syscalls[0].names", json!([""])),
        ("linux.seccomp.syscalls[0].action", json!("SCMP_ACT_X")),
        ("linux.seccomp.syscalls[0].args[0].op", json!("SCMP_CMP_X")),
    ];
    for (path, value) in cases {
        let expected = match path {
            // The error names the item.
            "process.scheduler.flags" => "process.scheduler.flags[0]",
            "linux.memoryPolicy.flags" => "linux.memoryPolicy.flags[0]",
            "linux.seccomp.flags" => "linux.seccomp.flags[0]",
            "linux.seccomp.syscalls[0].names" => "linux.seccomp.syscalls[0].names[0]",
            "mounts[1].options" => "mounts[1].options[1]",
            other => other,
        };
        refused(path, Some(value), expected);
    }
}

#[test]
fn contradictions_are_refused() {
    let range = |c: u32, h: u32, s: u32| json!({"containerID": c, "hostID": h, "size": s});
    let without = |kind: &str| {
        let mut all = base()["linux"]["namespaces"].clone();
        all.as_array_mut().unwrap().retain(|namespace| namespace["type"] != kind);
        all
    };
    let many: Vec<Value> = (0..341).map(|i| range(i, i, 1)).collect();
    let mount = |more: Value| {
        let mut mount = json!({"destination": "/m", "source": "/s", "options": ["bind"]});
        mount.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        mount
    };
    let map = json!([range(0, 0, 1)]);
    let cases = [
        ("linux.namespaces", without("uts"), "hostname"),
        ("linux.namespaces", without("mount"), "linux.maskedPaths"),
        ("linux.namespaces", without("user"), "linux.sysctl[\"user.max_uts_namespaces\"]"),
        ("linux.namespaces", without("time"), "linux.timeOffsets.monotonic"),
        ("linux.namespaces", without("ipc"), "linux.sysctl[\"kernel.shmmax\"]"),
        ("linux.namespaces", without("network"), "linux.sysctl[\"net.core.somaxconn\"]"),
        (
            "linux.namespaces[6]",
            json!({"type": "time", "path": "/t"}),
            "linux.timeOffsets.monotonic",
        ),
        ("linux.timeOffsets", json!({"realtime": {"secs": 1}}), "linux.timeOffsets.realtime"),
        (
            "linux.sysctl",
            json!({"kernel.core_pattern": "x"}),
            "linux.sysctl[\"kernel.core_pattern\"]",
        ),
        ("linux.sysctl", json!({"kernel.hostname": "x"}), "linux.sysctl[\"kernel.hostname\"]"),
        ("linux.sysctl", json!({"net/../vm/x": "x"}), "linux.sysctl[\"net/../vm/x\"]"),
        ("linux.sysctl", json!({"": "x"}), "linux.sysctl[\"\"]"),
        ("linux.sysctl", json!({"net.a.b": "1", "net/a/b": "2"}), "linux.sysctl[\"net/a/b\"]"),
        ("linux.uidMappings", json!(many), "linux.uidMappings"),
        (
            "linux.uidMappings",
            json!([range(0, 0, 10), range(9, 100, 1)]),
            "linux.uidMappings[1].containerID",
        ),
        (
            "linux.gidMappings",
            json!([range(0, 5, 10), range(20, 0, 6)]),
            "linux.gidMappings[1].hostID",
        ),
        ("linux.uidMappings", json!([range(1, 0, 10)]), "linux.uidMappings"),
        ("linux.gidMappings", json!([]), "linux.gidMappings"),
        ("linux.gidMappings", json!([range(0, 0, 2)]), "process.user.additionalGids[1]"),
        ("process.user.gid", json!(77), "process.user.gid"),
        ("process.user.additionalGids", json!([3, 10]), "process.user.additionalGids[1]"),
        ("process.user.additionalGids", json!(vec![1; 65537]), "process.user.additionalGids"),
        (
            "process.rlimits",
            json!([{"type": "RLIMIT_CPU", "soft": 1, "hard": 1},
                   {"type": "RLIMIT_CPU", "soft": 1, "hard": 1}]),
            "process.rlimits[1].type",
        ),
        (
            "process.scheduler",
            json!({"policy": "SCHED_FIFO", "priority": 0}),
            "process.scheduler.priority",
        ),
        (
            "process.scheduler",
            json!({"policy": "SCHED_DEADLINE", "runtime": 5, "deadline": 4}),
            "process.scheduler",
        ),
        ("mounts[0]", mount(json!({"uidMappings": map})), "mounts[0].gidMappings"),
        ("mounts[0]", mount(json!({"gidMappings": map})), "mounts[0].uidMappings"),
        (
            "mounts[0]",
            mount(json!({"uidMappings": map, "gidMappings": map, "options": []})),
            "mounts[0].uidMappings",
        ),
        (
            "mounts[0]",
            mount(json!({"uidMappings": [range(0, 0, 0)], "gidMappings": map})),
            "mounts[0].uidMappings[0].size",
        ),
        ("mounts[0]", mount(json!({"options": ["idmap"]})), "mounts[0].options"),
        (
            "linux.seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}),
            "linux.seccomp.defaultErrnoRet",
        ),
        (
            "linux.seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "m"}),
            "linux.seccomp.listenerMetadata",
        ),
        (
            "linux.seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW",
                   "syscalls": [{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}]}),
            "linux.seccomp.syscalls[0].action",
        ),
        (
            "linux.memoryPolicy",
            json!({"mode": "MPOL_LOCAL", "nodes": "0"}),
            "linux.memoryPolicy.nodes",
        ),
        ("linux.netDevices", json!({"a/b": {}}), "linux.netDevices[\"a/b\"]"),
        ("linux.netDevices", json!({"e": {"name": "a%s"}}), "linux.netDevices[\"e\"].name"),
        ("linux.netDevices", json!({"e": {"name": "%d%d"}}), "linux.netDevices[\"e\"].name"),
        (
            "linux.netDevices",
            json!({"e": {"name": "x".repeat(16)}}),
            "linux.netDevices[\"e\"].name",
        ),
        (
            "linux.netDevices",
            json!({"e": {"name": "x"}, "f": {"name": "x"}}),
            "linux.netDevices[\"f\"].name",
        ),
        ("linux.resources.memory", json!({"limit": -1, "swap": 5}), "linux.resources.memory.swap"),
        ("linux.resources.unified", json!({"../x.y": "1"}), "linux.resources.unified[\"../x.y\"]"),
        ("linux.resources.unified", json!({"": "1"}), "linux.resources.unified[\"\"]"),
        ("annotations", json!({"": "1"}), "annotations[\"\"]"),
    ];
    for (path, value, expected) in cases {
        refused(path, Some(value), expected);
    }
    let mut config = base();
    change(&mut config, "linux.namespaces", Some(without("user")));
    change(&mut config, "linux.sysctl", Some(json!({})));
    assert_eq!(verdict(&config).unwrap_err().subject(), "linux.uidMappings");
    change(&mut config, "linux.uidMappings", Some(json!([])));
    change(&mut config, "linux.gidMappings", Some(json!([])));
    assert_eq!(verdict(&config), Ok(Vec::new()));
    change(&mut config, "mounts[1].options", Some(json!(["bind", "ridmap"])));
    assert_eq!(verdict(&config).unwrap_err().subject(), "mounts[1].uidMappings");
}

#[test]
fn what_the_specification_tolerates_is_accepted() {
    let cases = [
        ("ociVersion", json!("1.0.0"), 0),
        ("ociVersion", json!("1.0.2-dev"), 0),
        ("ociVersion", json!("1.3.0-rc.1"), 0),
        ("ociVersion", json!("1.99.7+build"), 0),
        ("unknown", json!({"x": [1, 2.5, null]}), 0),
        ("linux.unknown", json!("x"), 0),
        ("hostname", json!(""), 0),
        ("hostname", json!("x".repeat(64)), 0),
        ("process.capabilities.bounding", json!(["CAP_KILL", "CAP_FROBNICATE", "KILL"]), 2),
        ("process.capabilities", Value::Null, 0),
        ("linux.seccomp.architectures", json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_NEW"]), 1),
        ("linux.resources.pids", json!({}), 0),
        ("linux.resources.memory.swappiness", json!(u64::MAX), 0),
        ("linux.intelRdt.closID", json!("/"), 0),
        ("mounts[0].destination", json!("proc"), 1),
        ("linux.personality.flags", json!(["X"]), 1),
        ("process.scheduler.flags", json!(["SCHED_FLAG_DL_OVERRUN"]), 0),
        ("process.user.additionalGids", json!([]), 0),
        ("hooks", json!({"prestart": null, "poststart": []}), 0),
        ("linux.namespaces[7].path", json!(""), 0),
        ("Hostname", json!("x"), 1),
        (
            "vm",
            json!({"hypervisor": {"path": ""}, "kernel": {"path": "/k"}, "image": {"path": "", "format": ""}}),
            0,
        ),
    ];
    for (path, value, warnings) in cases {
        let mut config = base();
        change(&mut config, path, Some(value.clone()));
        let found = verdict(&config).unwrap_or_else(|error| panic!("{path} = {value}: {error}"));
        assert_eq!(found.len(), warnings, "{path} = {value}: {found:?}");
    }
}

#[test]
fn every_prefix_of_a_configuration_is_refused() {
    let text = base().to_string();
    for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)) {
        let mut warnings = Vec::new();
        assert!(parse_config(&text.as_bytes()[..end], &mut warnings).is_err(), "{end}");
    }
}

/// Noise in the text: any answer, but an answer.
#[test]
fn a_damaged_configuration_never_panics() {
    let text = base().to_string().into_bytes();
    let mut state = 1_u64;
    let mut next = |limit: usize| {
        // Knuth's MMIX generator: repeatable, and good enough for noise.
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        usize::try_from(state >> 33).unwrap() % limit
    };
    let tokens: [&[u8]; 8] = [b"null", b"-1", b"{", b"]", b"\"\"", b"1e99", b"\\u0000", b"\xff"];
    let mut accepted = 0;
    for _ in 0..4000 {
        let mut damaged = text.clone();
        for _ in 0..=next(3) {
            let (at, length) = (next(damaged.len()), next(12));
            let end = (at + length).min(damaged.len());
            damaged.splice(at..end, tokens[next(tokens.len())].iter().copied());
        }
        let mut warnings = Vec::new();
        let result = parse_config(&damaged, &mut warnings)
            .and_then(|config| validate(&config.spec, &mut Faults::First, &mut warnings));
        accepted += usize::from(result.is_ok());
    }
    assert!(accepted < 4000);
}

/// All of `config-vm.md`.
fn virtual_machine() -> Value {
    json!({
        "hypervisor": {"path": "/bin/hv", "parameters": ["a=b"]},
        "kernel": {"path": "/k", "parameters": ["a"], "initrd": "/i"},
        "image": {"path": "/r.img", "format": "raw"},
        "hwConfig": {
            "deviceTree": "/tree.dtb", "vcpus": 2, "memory": 1 << 30, "dtdevs": ["/soc/x"],
            "iomems": [{"firstGFN": 1, "firstMFN": 2, "nrMFNs": 3}, {"firstMFN": 0, "nrMFNs": 1}],
            "irqs": [11, 112]
        }
    })
}

#[test]
fn a_virtual_machine_is_checked() {
    let with = |path: &str, value: Value| {
        let mut config = base();
        change(&mut config, "vm", Some(virtual_machine()));
        change(&mut config, path, Some(value));
        verdict(&config).unwrap_err().to_string()
    };
    let cases = [
        ("vm.hypervisor.path", json!("hv"), "vm.hypervisor.path"),
        ("vm.hypervisor.parameters", json!("a"), "vm.hypervisor.parameters"),
        ("vm.kernel", json!({}), "vm.kernel.path"),
        ("vm.kernel.path", json!(""), "vm.kernel.path"),
        ("vm.kernel.path", json!("k"), "vm.kernel.path"),
        ("vm.kernel.initrd", json!("i"), "vm.kernel.initrd"),
        ("vm.image.path", json!("x"), "vm.image.path"),
        ("vm.image.format", json!("iso"), "vm.image.format"),
        ("vm.hwConfig", json!([]), "vm.hwConfig"),
        ("vm.hwConfig.vcpus", json!(0), "vm.hwConfig.vcpus"),
        ("vm.hwConfig.vcpus", json!(1_u64 << 32), "vm.hwConfig.vcpus"),
        ("vm.hwConfig.memory", json!(-1), "vm.hwConfig.memory"),
        ("vm.hwConfig.memory", json!(0), "vm.hwConfig.memory"),
        ("vm.hwConfig.dtdevs[0]", json!(1), "vm.hwConfig.dtdevs[0]"),
        ("vm.hwConfig.iomems[0].firstMFN", json!(u64::MAX), "vm.hwConfig.iomems[0].firstMFN"),
        ("vm.hwConfig.iomems[0].firstGFN", json!(u64::MAX), "vm.hwConfig.iomems[0].firstGFN"),
        ("vm.hwConfig.iomems[1].nrMFNs", json!(0), "vm.hwConfig.iomems[1].nrMFNs"),
        ("vm.hwConfig.iomems[1]", json!({"firstMFN": 1}), "vm.hwConfig.iomems[1].nrMFNs"),
        ("vm.hwConfig.irqs[1]", json!(-1), "vm.hwConfig.irqs[1]"),
    ];
    for (path, value, field) in cases {
        let error = with(path, value.clone());
        let named = [" ", ":"].iter().any(|end| error.contains(&format!("{field}{end}")));
        assert!(named, "{path} = {value}: {error}");
    }
}

#[test]
fn the_stored_copy_is_the_configuration() {
    let mut config = base();
    let flags = json!(["SCHED_FLAG_DL_OVERRUN", "SCHED_RESET_ON_FORK"]);
    change(&mut config, "process.scheduler.flags", Some(flags));
    change(&mut config, "vm", Some(virtual_machine()));
    let mut warnings = Vec::new();
    let first = parse_config(config.to_string().as_bytes(), &mut warnings).unwrap();
    let stored = spec::to_stored(&first);
    let second = parse_config(&stored, &mut warnings).unwrap();
    assert_eq!(first, second);
    assert_eq!(second.hardware.as_ref().unwrap().iomems[1].first_guest_frame, None);
    let kept: Value = serde_json::from_slice(&stored).unwrap();
    assert_eq!(kept["vm"], virtual_machine());
    let second = second.spec;
    assert_eq!(warnings, Vec::<String>::new());
    let process = second.process().as_ref().unwrap();
    let affinity = process.exec_cpu_affinity().as_ref().unwrap();
    assert_eq!(affinity.initial().as_deref(), Some("0-1,3"));
    assert_eq!(process.user().umask(), Some(18));
    let hook = &second.hooks().as_ref().unwrap().create_runtime().as_ref().unwrap()[0];
    assert_eq!(hook.timeout(), Some(5));
    let offsets = second.linux().as_ref().unwrap().time_offsets().as_ref().unwrap();
    assert_eq!(offsets["monotonic"].secs(), Some(-5));
}

/// What the types would lose shows up as a difference between the texts.
#[test]
fn no_property_is_lost() {
    fn compare(path: &str, given: &Value, kept: &Value, lost: &mut Vec<String>) {
        match (given, kept) {
            (Value::Object(a), Value::Object(b)) => {
                for (key, value) in a {
                    compare(
                        &format!("{path}.{key}"),
                        value,
                        b.get(key).unwrap_or(&Value::Null),
                        lost,
                    );
                }
            }
            // Capabilities are sets: any order.
            (Value::Array(a), Value::Array(b))
                if path.contains("capabilities")
                    && a.len() == b.len()
                    && a.iter().all(|item| b.contains(item)) => {}
            (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
                for (index, (a, b)) in a.iter().zip(b).enumerate() {
                    compare(&format!("{path}[{index}]"), a, b, lost);
                }
            }
            (a, b) if a != b => lost.push(format!("{path}: {a} became {b}")),
            _ => {}
        }
    }
    let parsed = parse_config(base().to_string().as_bytes(), &mut Vec::new()).unwrap();
    let mut lost = Vec::new();
    compare("", &base(), &serde_json::to_value(&parsed.spec).unwrap(), &mut lost);
    let known = [
        // Spaces are taken out.
        ".process.execCPUAffinity.initial: \"0-1, 3\" became \"0-1,3\"",
        // Before 1.3 a limit of 0 was none.
        ".linux.resources.pids: {\"limit\":0} became null",
        // Unsigned in the specification, signed in oci-spec: as good as unlimited.
        ".linux.resources.hugepageLimits[0].limit: 18446744073709551615 became 9223372036854775807",
    ];
    lost.retain(|line| !known.contains(&line.as_str()));
    assert_eq!(lost, Vec::<String>::new());
}

#[test]
fn ids_stay_file_names() {
    for id in ["a", "A_b+c-d.e", "..a", "-", "0", &"x".repeat(255)] {
        assert!(validate_id(id).is_ok(), "{id}");
    }
    for id in ["", ".", "..", "a/b", "../x", "a b", "a\0", "é", "a\n", "a:b", &"x".repeat(256)] {
        let error = validate_id(id).unwrap_err().to_string();
        assert!(error.contains("invalid container ID format"), "{error}");
    }
}

#[test]
fn a_process_file_and_a_resources_file_name_their_own_paths() {
    let text = br#"{"user":{"uid":0,"gid":0},"cwd":"x","args":["a"]}"#;
    let spec: oci_spec::runtime::Process = serde_json::from_slice(text).unwrap();
    assert_eq!(process(&spec, "", &mut Faults::First).unwrap_err().subject(), "cwd");
    let text = br#"{"memory":{"limit":-7}}"#;
    let limits = crate::spec::load_resources(text, &mut Vec::new()).unwrap();
    assert_eq!(resources(&limits, "", &mut Faults::First).unwrap_err().subject(), "memory.limit");
    let text = br#"{"memory":{"limit":"1G"}}"#;
    let error = crate::spec::load_resources(text, &mut Vec::new()).unwrap_err().to_string();
    assert!(
        error.starts_with("parse memory.limit: invalid type: string \"1G\", expected an integer"),
        "{error}"
    );
}
