//! config-linux.md, namespaces: new, joined, inherited.

use std::fs;
use std::os::fd::AsFd;

use serde_json::{Value, json};

use crate::check::{Res, Test, ensure, eq, refused_with, same, skip, test};
use crate::lab::Lab;
use crate::lab::bundle::{capabilities, namespace, push, user_namespace, without_namespace};
use crate::lab::container::Container;

const SECTION: &str = "config-linux#namespaces";
/// The specification's word and the name below /proc/PID/ns.
const KINDS: [(&str, &str); 8] = [
    ("pid", "pid"),
    ("network", "net"),
    ("mount", "mnt"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("user", "user"),
    ("cgroup", "cgroup"),
    ("time", "time"),
];

/// Tests of this chapter.
pub fn tests() -> Vec<Test> {
    let mut tests = Vec::new();
    for (kind, file) in KINDS {
        tests.push(test(
            SECTION,
            row(kind),
            format!("{kind} without a path is a new namespace"),
            move |lab| fresh(lab, kind, file),
        ));
        if kind != "mount" {
            tests.push(test(
                SECTION,
                row(kind),
                format!("{kind} not listed is the runtime's namespace"),
                move |lab| inherited(lab, kind, file),
            ));
        }
        tests.push(test(
            SECTION,
            row(kind),
            format!("{kind} listed twice is an error"),
            move |lab| {
                lab.refused(|spec| {
                    listed(spec, kind);
                    push(&mut spec["linux"]["namespaces"], json!({ "type": kind }));
                })
                .map(drop)
            },
        ));
        if !["mount", "user", "time"].contains(&kind) {
            tests.push(test(
                SECTION,
                row(kind),
                format!("{kind} with the path of another container's is that namespace"),
                move |lab| joined(lab, kind, file),
            ));
        }
        tests.push(test(
            SECTION,
            row(kind),
            format!("{kind} with the path of a namespace of another type is an error"),
            move |lab| {
                let wrong = if kind == "uts" { "ipc" } else { "uts" };
                lab.refused(|spec| join(spec, kind, &format!("/proc/self/ns/{wrong}"))).map(drop)
            },
        ));
        tests.push(test(
            SECTION,
            row(kind),
            format!("{kind} with a path that does not exist is an error"),
            move |lab| lab.refused(|spec| join(spec, kind, "/no/such/namespace")).map(drop),
        ));
    }
    tests.extend(others());
    tests
}

fn row(kind: &str) -> &'static str {
    match kind {
        "cgroup" => "F22",
        "time" => "F23",
        _ => "F21",
    }
}

/// Makes sure a kind is in the list once.
fn listed(spec: &mut Value, kind: &str) {
    without_namespace(spec, kind);
    match kind {
        "user" => user_namespace(spec),
        _ => namespace(spec, kind),
    }
}

fn join(spec: &mut Value, kind: &str, path: &str) {
    without_namespace(spec, kind);
    push(&mut spec["linux"]["namespaces"], json!({ "type": kind, "path": path }));
}

fn own(file: &str) -> Res<String> {
    Ok(fs::read_link(format!("/proc/self/ns/{file}"))?.display().to_string())
}

fn fresh(lab: &Lab, kind: &'static str, file: &'static str) -> Res {
    let seen = lab.report(|spec| {
        spec["ociVersion"] = json!("1.1.0");
        listed(spec, kind);
    })?;
    let namespace = seen["ns"][file].as_str().unwrap_or_default();
    ensure(
        !namespace.is_empty() && namespace != own(file)?,
        format!("{file} is {namespace}, the runtime's"),
    )
}

fn inherited(lab: &Lab, kind: &'static str, file: &'static str) -> Res {
    let seen = lab.report(|spec| without_namespace(spec, kind))?;
    same(file, &seen["ns"][file], json!(own(file)?))
}

fn joined(lab: &Lab, kind: &'static str, file: &'static str) -> Res {
    let other = lab.running(|spec| listed(spec, kind))?;
    let path = format!("/proc/{}/ns/{file}", other.pid());
    let wanted = fs::read_link(&path)?.display().to_string();
    let seen = lab.report(|spec| join(spec, kind, &path))?;
    same(file, &seen["ns"][file], json!(wanted))?;
    other.end()
}

/// A running container with a user namespace.
fn mapped(lab: &Lab) -> Res<Container<'_>> {
    lab.running(|spec| {
        user_namespace(spec);
        namespace(spec, "network");
    })
}

fn others() -> Vec<Test> {
    vec![
        test(
            SECTION,
            "F21",
            "the container's first process is pid 1 of a new pid namespace",
            |lab| {
                let seen = lab.report(|_| {})?;
                same("pid", &seen["pid"], json!(1))?;
                same("ppid", &seen["ppid"], json!(0))
            },
        ),
        test(
            SECTION,
            "F21",
            "a namespace path may be a file that a namespace is mounted on",
            |lab| {
                use nix::mount::{MsFlags, mount};
                let other = lab.running(|spec| namespace(spec, "network"))?;
                let file = lab.dir.join("netns");
                fs::write(&file, "")?;
                let source = format!("/proc/{}/ns/net", other.pid());
                mount(Some(source.as_str()), &file, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
                lab.own_mounts();
                let wanted = fs::read_link(&source)?.display().to_string();
                let seen = lab.report(|spec| join(spec, "network", &file.display().to_string()))?;
                same("net", &seen["ns"]["net"], json!(wanted))?;
                other.end()
            },
        ),
        test(SECTION, "F21", "a namespace path that is an ordinary file is an error", |lab| {
            let file = lab.dir.join("file");
            fs::write(&file, "")?;
            lab.refused(|spec| join(spec, "network", &file.display().to_string())).map(drop)
        }),
        test(SECTION, "F21", "a namespace path that is not absolute is an error", |lab| {
            let refused = lab.refused(|spec| join(spec, "network", "proc/self/ns/net"));
            lab.quality(refused.is_ok(), "a relative namespace path is accepted")
        }),
        test(
            SECTION,
            "F24",
            "a joined user namespace is that one, and the process has ids in it",
            |lab| {
                let other = mapped(lab)?;
                let path = format!("/proc/{}/ns/user", other.pid());
                let wanted = fs::read_link(&path)?.display().to_string();
                let seen = lab.report(|spec| join(spec, "user", &path))?;
                same("user", &seen["ns"]["user"], json!(wanted))?;
                same("uids", &seen["uids"], json!([0, 0, 0]))?;
                other.end()
            },
        ),
        test(
            SECTION,
            "F24",
            "joined user and network namespaces of one container work together",
            |lab| {
                let other = mapped(lab)?;
                let user = format!("/proc/{}/ns/user", other.pid());
                let net = format!("/proc/{}/ns/net", other.pid());
                let wanted = fs::read_link(&net)?.display().to_string();
                let seen = lab.report(|spec| {
                    join(spec, "network", &net);
                    join(spec, "user", &user);
                })?;
                same("net", &seen["ns"]["net"], json!(wanted))?;
                other.end()
            },
        ),
        test(
            "config-linux#sysctl",
            "F32",
            "what would be set in a namespace to join that is the runtime's own is refused",
            |lab| {
                let now = |file: &str| fs::read_to_string(file).map(|text| text.trim().to_owned());
                let value = now("/proc/sys/kernel/shmmni")?;
                // Values that the host has already: a runtime that takes them does no harm.
                let shared = lab.refused(|spec| {
                    join(spec, "ipc", "/proc/self/ns/ipc");
                    spec["linux"]["sysctl"] = json!({ "kernel.shmmni": value });
                });
                let name = now("/proc/sys/kernel/hostname")?;
                let named = lab.refused(|spec| {
                    join(spec, "uts", "/proc/self/ns/uts");
                    spec["hostname"] = json!(name);
                });
                lab.quality(shared.is_ok(), "a sysctl of the host's ipc namespace is written")?;
                lab.quality(named.is_ok(), "the host's name is written")
            },
        ),
        test(
            SECTION,
            "F21",
            "a container in a joined pid namespace sees the other's processes",
            |lab| {
                let other = lab.running(|_| {})?;
                let path = format!("/proc/{}/ns/pid", other.pid());
                let seen =
                    lab.probe(&["report", "status-of 1"], |spec| join(spec, "pid", &path))?;
                ensure(seen["report"]["pid"] != json!(1), "the pid is 1")?;
                same("the name of pid 1", &seen["status-of 1"]["Name"], json!("probe"))?;
                other.end()
            },
        ),
        test(SECTION, "F21", "a new network namespace has its loopback interface up", |lab| {
            let seen = lab.probe(
                &["read /sys/class/net/lo/operstate", "read /sys/class/net/lo/flags"],
                |spec| {
                    namespace(spec, "network");
                    crate::lab::bundle::mount(spec, "/sys", "sysfs", "sysfs", &["ro"]);
                },
            )?;
            let flags =
                seen["read /sys/class/net/lo/flags"].as_str().unwrap_or_default().trim().to_owned();
            // The specification does not say so; every runtime does it and programs bind to 127.0.0.1.
            lab.quality(flags == "0x9", format!("the flags of lo are {flags}"))
        }),
        test(
            SECTION,
            "F22",
            "a new cgroup namespace has its root at the container's cgroup",
            |lab| {
                let seen = lab.report(|spec| namespace(spec, "cgroup"))?;
                let lines: Vec<&str> =
                    seen["cgroup"].as_str().unwrap_or_default().lines().collect();
                let pids =
                    lines.iter().find(|line| line.contains(":pids:") || line.starts_with("0::"));
                ensure(
                    pids.is_some_and(|line| line.ends_with(":/")),
                    format!("cgroups are {lines:?}"),
                )
            },
        ),
        test(
            "config-linux#time-offsets",
            "F23",
            "timeOffsets shift the monotonic and the boot clock (since 1.1)",
            |lab| {
                let seen = lab.probe(&["report"], |spec| {
                spec["ociVersion"] = json!("1.1.0");
                namespace(spec, "time");
                spec["linux"]["timeOffsets"] = json!({ "monotonic": { "secs": 172_800, "nanosecs": 5 }, "boottime": { "secs": 604_800 } });
            })?;
                let own = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)?.tv_sec();
                let shift = seen["report"]["boottime"].as_i64().unwrap_or(0) - own;
                ensure(
                    (604_790..604_900).contains(&shift),
                    format!("the boot clock is shifted by {shift} s"),
                )?;
                let own = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?.tv_sec();
                let shift = seen["report"]["monotonic"].as_i64().unwrap_or(0) - own;
                ensure(
                    (172_790..172_900).contains(&shift),
                    format!("the monotonic clock is shifted by {shift} s"),
                )
            },
        ),
        test(
            "config-linux#time-offsets",
            "F23",
            "timeOffsets without a time namespace are an error",
            |lab| {
                let refused = lab.refused(|spec| {
                    spec["ociVersion"] = json!("1.1.0");
                    spec["linux"]["timeOffsets"] = json!({ "boottime": { "secs": 5 } });
                });
                lab.quality(refused.is_ok(), "offsets without a namespace are ignored")
            },
        ),
        test("config-linux#time-offsets", "F23", "an unknown clock is an error", |lab| {
            let refused = lab.refused(|spec| {
                spec["ociVersion"] = json!("1.1.0");
                namespace(spec, "time");
                spec["linux"]["timeOffsets"] = json!({ "lunar": { "secs": 5 } });
            });
            lab.quality(refused.is_ok(), "an unknown clock is ignored")
        }),
        test(
            "config-linux#user-namespace-mappings",
            "F24",
            "ids are mapped as configured, in several ranges",
            |lab| {
                let seen = lab.report(|spec| {
                    namespace(spec, "user");
                    spec["linux"]["uidMappings"] = json!([
                        { "containerID": 0, "hostID": 100_000, "size": 10 },
                        { "containerID": 10, "hostID": 300_000, "size": 5 },
                        { "containerID": 1000, "hostID": 200_000, "size": 1000 },
                    ]);
                    spec["linux"]["gidMappings"] = json!([
                        { "containerID": 0, "hostID": 500_000, "size": 10 },
                        { "containerID": 50, "hostID": 400_000, "size": 10 },
                    ]);
                })?;
                let map = |text: &Value| -> Vec<Vec<u64>> {
                    let lines = text.as_str().unwrap_or_default().lines();
                    lines
                        .map(|line| {
                            line.split_whitespace().filter_map(|word| word.parse().ok()).collect()
                        })
                        .collect()
                };
                eq(
                    "uid_map",
                    &map(&seen["uid_map"]),
                    &vec![vec![0, 100_000, 10], vec![10, 300_000, 5], vec![1000, 200_000, 1000]],
                )?;
                eq(
                    "gid_map",
                    &map(&seen["gid_map"]),
                    &vec![vec![0, 500_000, 10], vec![50, 400_000, 10]],
                )
            },
        ),
        test(
            "config-linux#user-namespace-mappings",
            "F24",
            "root of the user namespace is the mapped host id outside",
            |lab| {
                let container = mapped(lab)?;
                use std::os::unix::fs::MetadataExt;
                let owner = fs::metadata(format!("/proc/{}/ns", container.pid()))?.uid();
                eq("owner of the process", &owner, &100_000)?;
                container.end()
            },
        ),
        test(
            "config-linux#user-namespace-mappings",
            "F24",
            "process.user is an id of the container, not of the host",
            |lab| {
                let seen = lab.report(|spec| {
                    user_namespace(spec);
                    spec["process"]["user"] =
                        json!({ "uid": 1000, "gid": 2000, "additionalGids": [3000] });
                })?;
                same("uids", &seen["uids"], json!([1000, 1000, 1000]))?;
                same("gids", &seen["gids"], json!([2000, 2000, 2000]))
            },
        ),
        test(
            "config-linux#user-namespace-mappings",
            "F24",
            "the runtime does not change the owner of the root file system",
            |lab| {
                use std::os::unix::fs::MetadataExt;
                let bundle = lab.bundle(&["stat /bin"], user_namespace)?;
                let seen = lab.seen(&bundle)?;
                same("owner inside", &seen["stat /bin"]["uid"], json!(65534))?;
                eq("owner outside", &fs::metadata(bundle.inside("/bin"))?.uid(), &0)
            },
        ),
        test(
            "config-linux#user-namespace-mappings",
            "F24",
            "a user that the maps do not have is an error",
            |lab| {
                let output = lab.refused(|spec| {
                    user_namespace(spec);
                    spec["process"]["user"] = json!({ "uid": 70_000, "gid": 0 });
                })?;
                lab.quality(
                    output.err.contains("70000"),
                    format!("the error does not name the id: {}", output.brief()),
                )
            },
        ),
        test(
            "config-linux#user-namespace-mappings",
            "F24",
            "mappings that overlap are an error",
            |lab| {
                lab.refused(|spec| {
                    namespace(spec, "user");
                    let map = json!([
                        { "containerID": 0, "hostID": 100_000, "size": 10 },
                        { "containerID": 5, "hostID": 200_000, "size": 10 },
                    ]);
                    spec["linux"]["uidMappings"] = map.clone();
                    spec["linux"]["gidMappings"] = map;
                })
                .map(drop)
            },
        ),
        test(
            "config-linux#user-namespace-mappings",
            "F24",
            "a new user namespace without mappings is an error for root",
            |lab| {
                // The mappings are optional in the schema; a process without any would run as nobody.
                let refused = lab.refused(|spec| namespace(spec, "user"));
                lab.quality(refused.is_ok(), "a user namespace without mappings is accepted")
            },
        ),
        test(
            "config-linux#user-namespace-mappings",
            "F24",
            "mappings without a user namespace are an error",
            |lab| {
                let refused = lab.refused(|spec| {
                    spec["linux"]["uidMappings"] =
                        json!([{ "containerID": 0, "hostID": 100_000, "size": 10 }]);
                    spec["linux"]["gidMappings"] =
                        json!([{ "containerID": 0, "hostID": 100_000, "size": 10 }]);
                });
                lab.quality(refused.is_ok(), "mappings without a user namespace are ignored")
            },
        ),
        test(
            SECTION,
            "F24",
            "root of a user namespace cannot reach outside: no clock, no host devices",
            |lab| {
                let seen = lab.probe(&["mknod /tmp/x c 1 5", "syscall 227 0 0"], |spec| {
                    user_namespace(spec);
                    capabilities(
                        spec,
                        &["bounding", "permitted", "effective"],
                        &["CAP_MKNOD", "CAP_SYS_TIME", "CAP_SYS_ADMIN"],
                    );
                })?;
                refused_with(
                    "mknod",
                    &seen["mknod /tmp/x c 1 5"],
                    &["EPERM", "EACCES", "EOVERFLOW"],
                )?;
                ensure(seen["syscall 227 0 0"]["errno"].is_string(), "clock_settime succeeded")
            },
        ),
        test(
            SECTION,
            "F153",
            "a user namespace does not change the owner of the standard streams' device",
            |lab| {
                use std::os::unix::fs::MetadataExt;
                let null = fs::File::open("/dev/null")?;
                let before =
                    (null.metadata()?.uid(), null.metadata()?.gid(), null.metadata()?.mode());
                let bundle = lab.bundle(&["exit 0"], user_namespace)?;
                let _ = null.as_fd();
                lab.call(&["run", "--bundle", bundle.path(), &bundle.id])
                    .shell("exec \"$@\" </dev/null >/dev/null 2>&1")
                    .output()?;
                let after =
                    (null.metadata()?.uid(), null.metadata()?.gid(), null.metadata()?.mode());
                eq("owner and mode of /dev/null", &after, &before)
            },
        ),
        test(
            SECTION,
            "F21",
            "a configuration without a mount namespace works, or is refused by name",
            |lab| {
                let bundle = lab.bundle(&["report"], |spec| {
                    without_namespace(spec, "mount");
                    spec["mounts"] = json!([]);
                })?;
                let output = lab.run(&bundle)?;
                // Without an own table the root's mount can only stay where it was made.
                lab.own_mounts();
                if output.code != Some(0) {
                    return skip(format!("refused: {}", output.brief()));
                }
                Ok(())
            },
        ),
    ]
}
