//! config-linux.md, control groups where cgroup2 is all there is.
//!
//! The machine's cgroup2 hierarchy may hold few controllers; what needs one that is absent is skipped
//! by name.

use std::fs;

use serde_json::json;

use crate::check::{Res, Test, ensure, eq, has, same, skip, test};
use crate::lab::bundle::{mount, namespace};
use crate::lab::cgroups::v2;

/// Tests of this chapter.
pub fn tests() -> Vec<Test> {
    plain().into_iter().map(Test::on_v2).collect()
}

/// Skips unless the hierarchy's root has a controller.
pub(super) fn need(controller: &str) -> Res {
    let list = fs::read_to_string(v2("/")?.join("cgroup.controllers"))?;
    if list.split_whitespace().any(|word| word == controller) {
        Ok(())
    } else {
        skip(format!("the cgroup2 hierarchy of this machine has no {controller} controller"))
    }
}

fn plain() -> Vec<Test> {
    let unified = "config-linux#unified";
    let mut tests = vec![
        test(
            "config-linux#cgroups-path",
            "F29 F166",
            "the container is in the cgroup that cgroupsPath names",
            |lab| {
                let container = lab.create(&["pause"], |_| {})?;
                let text = fs::read_to_string(format!("/proc/{}/cgroup", container.pid()))?;
                has("membership", &text, &format!("0::{}", container.cgroup))?;
                container.end()
            },
        ),
        test(
            "config-linux#cgroups-path",
            "F166",
            "delete removes the cgroup and what the container made below it",
            |lab| {
                let mut container = lab.create(&["pause"], |_| {})?;
                container.start()?;
                container.ready()?;
                let dir = v2(&container.cgroup)?;
                fs::create_dir_all(dir.join("child/grandchild"))?;
                container.end()?;
                ensure(!dir.exists(), "the cgroup is still there")
            },
        ),
        test(
            "runtime#kill",
            "F166",
            "kill reaches a container whose program ignores everything but SIGKILL",
            |lab| {
                let container = lab.running(|_| {})?;
                container.kill("KILL")?;
                eq("end", &container.wait()?, &137)?;
                container.delete()
            },
        ),
        test("runtime-linux#cgroup", "F166", "pause and resume are the freezer's", |lab| {
            let container = lab.running(|_| {})?;
            let pause = container.call(&["pause"])?;
            eq("pause", &pause.code, &Some(0))?;
            container.expect("paused")?;
            let text = fs::read_to_string(v2(&container.cgroup)?.join("cgroup.events"))?;
            has("cgroup.events", &text, "frozen 1")?;
            eq("resume", &container.call(&["resume"])?.code, &Some(0))?;
            container.expect("running")?;
            container.end()
        }),
        test(unified, "F47", "a key of a controller is written to its file", |lab| {
            need("hugetlb")?;
            let container = lab.create(&["pause"], |spec| {
                spec["linux"]["resources"] = json!({ "unified": { "hugetlb.2MB.max": "4194304" } });
            })?;
            let value = fs::read_to_string(v2(&container.cgroup)?.join("hugetlb.2MB.max"))?;
            eq("hugetlb.2MB.max", &value.trim(), &"4194304")?;
            container.end()
        }),
        test(
            unified,
            "F47",
            "a key that the runtime does not know is written all the same",
            |lab| {
                let container = lab.create(&["pause"], |spec| {
                    spec["linux"]["resources"] =
                        json!({ "unified": { "cgroup.max.descendants": "17" } });
                })?;
                let value =
                    fs::read_to_string(v2(&container.cgroup)?.join("cgroup.max.descendants"))?;
                eq("cgroup.max.descendants", &value.trim(), &"17")?;
                container.end()
            },
        ),
        test(unified, "F47", "a key of a controller that is not there is an error", |lab| {
            lab.refused(|spec| {
                spec["linux"]["resources"] = json!({ "unified": { "nosuch.max": "5" } })
            })
            .map(drop)
        }),
        test(unified, "F47", "a value that the kernel refuses is an error", |lab| {
            lab.refused(|spec| {
                spec["linux"]["resources"] =
                    json!({ "unified": { "cgroup.max.descendants": "many" } });
            })
            .map(drop)
        }),
        test(unified, "F47", "a key with a slash is an error: no file outside the cgroup", |lab| {
            lab.refused(|spec| {
                spec["linux"]["resources"] =
                    json!({ "unified": { "../cgroup.max.descendants": "5" } });
            })
            .map(drop)
        }),
        test(
            "config-linux#huge-page-limits",
            "F43",
            "hugepageLimits limit reservations and use",
            |lab| {
                need("hugetlb")?;
                let container = lab.create(&["pause"], |spec| {
                spec["linux"]["resources"] = json!({ "hugepageLimits": [{ "pageSize": "2MB", "limit": 4_194_304 }] });
            })?;
                let dir = v2(&container.cgroup)?;
                eq("max", &fs::read_to_string(dir.join("hugetlb.2MB.max"))?.trim(), &"4194304")?;
                let rsvd = fs::read_to_string(dir.join("hugetlb.2MB.rsvd.max"))?;
                lab.quality(
                    rsvd.trim() == "4194304",
                    format!("hugetlb.2MB.rsvd.max is {}", rsvd.trim()),
                )?;
                container.end()
            },
        ),
        test("config#mounts", "F85", "a mount of type cgroup is the cgroup2 file system", |lab| {
            let seen = lab.probe(
                &["report", "read /sys/fs/cgroup/cgroup.controllers", "list /sys/fs/cgroup"],
                |spec| {
                    namespace(spec, "cgroup");
                    mount(
                        spec,
                        "/sys/fs/cgroup",
                        "cgroup",
                        "cgroup",
                        &["nosuid", "noexec", "nodev", "ro"],
                    );
                },
            )?;
            same(
                "type",
                &crate::check::mount_at(&seen["report"], "/sys/fs/cgroup")?["type"],
                json!("cgroup2"),
            )?;
            // In its own cgroup namespace the container sees its own cgroup, which has a cgroup.type.
            has("files", &seen["list /sys/fs/cgroup"].to_string(), "cgroup.type")
        }),
        test(
            "config#mounts",
            "F85",
            "without a cgroup namespace a cgroup mount shows the container's own cgroup",
            |lab| {
                need("pids")?;
                let seen = lab.probe(&["read /sys/fs/cgroup/pids.max"], |spec| {
                    spec["linux"]["resources"] = json!({ "pids": { "limit": 66 } });
                    mount(spec, "/sys/fs/cgroup", "cgroup", "cgroup", &["ro"]);
                })?;
                let value = &seen["read /sys/fs/cgroup/pids.max"];
                lab.quality(*value == "66\n", format!("pids.max at the mount's root is {value}"))
            },
        ),
        test("config#mounts", "F85", "a read-only cgroup mount cannot be written", |lab| {
            let seen = lab.probe(&["mkdir /sys/fs/cgroup/new"], |spec| {
                namespace(spec, "cgroup");
                mount(spec, "/sys/fs/cgroup", "cgroup", "cgroup", &["ro"]);
            })?;
            ensure(
                seen["mkdir /sys/fs/cgroup/new"]["errno"] == "EROFS",
                format!("mkdir gave {}", seen["mkdir /sys/fs/cgroup/new"]),
            )
        }),
        test(
            "config-linux#pids",
            "F45 F30",
            "with pids.limit 0 the program runs, in its cgroup, which its cgroup namespace shows",
            |lab| {
                need("pids")?;
                let seen = lab.probe(&["read /sys/fs/cgroup/pids.max", "report"], |spec| {
                    // Before 1.3 it means no limit.
                    spec["ociVersion"] = json!("1.3.0");
                    spec["linux"]["resources"] = json!({ "pids": { "limit": 0 } });
                    namespace(spec, "cgroup");
                    mount(spec, "/sys/fs/cgroup", "cgroup", "cgroup", &["ro"]);
                })?;
                let value = seen["read /sys/fs/cgroup/pids.max"].as_str().unwrap_or_default();
                ensure(!value.is_empty(), "the cgroup mount does not show the container's cgroup")?;
                lab.quality(value == "0\n", format!("pids.max is {value:?}"))
            },
        ),
        test(
            "contract#exec",
            "F30 F186",
            "exec works when the program has moved to a sub-cgroup and passes controllers on",
            |lab| {
                need("pids")?;
                let bundle = lab.bundle(
                    &[
                        "mkdir /sys/fs/cgroup/init",
                        "write /sys/fs/cgroup/init/cgroup.procs 0",
                        "write /sys/fs/cgroup/cgroup.subtree_control +pids",
                        "pause",
                    ],
                    |spec| {
                        namespace(spec, "cgroup");
                        mount(spec, "/sys/fs/cgroup", "cgroup", "cgroup", &["rw"]);
                    },
                )?;
                let mut container = lab.create_from(&bundle)?;
                container.start()?;
                let seen = container.ready()?;
                let step = "write /sys/fs/cgroup/cgroup.subtree_control +pids";
                same("passing controllers on", &seen[step], json!("ok"))?;
                container.exec(&[], &["report"])?;
                container.end()
            },
        ),
        test(
            "config-linux#cgroup-ownership",
            "F30",
            "without a writable cgroup mount the owner of the cgroup is not changed",
            |lab| {
                use std::os::unix::fs::MetadataExt;
                let container = lab.create(&["pause"], |spec| {
                    namespace(spec, "cgroup");
                    crate::lab::bundle::user_namespace(spec);
                })?;
                eq("owner", &fs::metadata(v2(&container.cgroup)?)?.uid(), &0)?;
                container.end()
            },
        ),
        test(
            "config-linux#cgroup-ownership",
            "F30",
            "with a writable one, only the files of /sys/kernel/cgroup/delegate change",
            |lab| {
                use std::os::unix::fs::MetadataExt;
                let bundle = lab.bundle(&["pause"], |spec| {
                    namespace(spec, "cgroup");
                    crate::lab::bundle::user_namespace(spec);
                    mount(
                        spec,
                        "/sys/fs/cgroup",
                        "cgroup",
                        "cgroup",
                        &["nosuid", "noexec", "nodev"],
                    );
                })?;
                // The container's root may not make directories in a root file system of the host's root.
                fs::create_dir_all(bundle.inside("/sys/fs/cgroup"))?;
                let container = lab.create_from(&bundle)?;
                let dir = v2(&container.cgroup)?;
                eq("owner of cgroup.freeze", &fs::metadata(dir.join("cgroup.freeze"))?.uid(), &0)?;
                let owner = fs::metadata(dir.join("cgroup.procs"))?.uid();
                lab.quality(owner == 100_000, format!("cgroup.procs belongs to {owner}"))?;
                container.end()
            },
        ),
    ];
    tests.push(test(
        "config-linux#control-groups",
        "F168",
        "a limit whose controller is not there is an error, not ignored",
        |lab| {
            if need("memory").is_ok() {
                return skip("the memory controller is there");
            }
            let refused = lab.refused(|spec| {
                spec["linux"]["resources"] = json!({ "memory": { "limit": 134_217_728 } })
            });
            lab.quality(refused.is_ok(), "a memory limit without the controller is ignored")
        },
    ));
    tests
}
