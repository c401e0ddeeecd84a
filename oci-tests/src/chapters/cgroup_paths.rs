//! config-linux.md, cgroups path, and limits that the kernel refuses.

use std::fs;

use serde_json::{Value, json};

use crate::check::{Res, Test, ensure, eq, fail, has, skip, test};
use crate::lab::Lab;
use crate::lab::cgroups::{either, hierarchies};

/// Tests of this chapter.
pub fn tests() -> Vec<Test> {
    let mut tests = paths();
    tests.extend(unfit());
    tests.extend(refused());
    tests
}

/// The cgroup of a process in the hierarchy of a controller, from the host's view.
fn membership(pid: i32, controller: &str) -> Res<String> {
    either(controller, "/")?;
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let of = |wanted: &str| {
        let line = text.lines().find(|line| {
            line.split(':').nth(1).is_some_and(|list| list.split(',').any(|c| c == wanted))
        });
        line.and_then(|line| line.splitn(3, ':').nth(2))
    };
    // The line of cgroup2 has an empty list.
    match of(controller).or_else(|| of("")) {
        Some(path) => Ok(path.to_owned()),
        None => fail(format!("process {pid} is in no cgroup: {text:?}")),
    }
}

/// Makes a cgroup of this test, in the hierarchy that freezes and others that the machine has.
fn make(path: &str) -> Res {
    for hierarchy in hierarchies() {
        let dir = hierarchy.point.join(path.trim_start_matches('/'));
        fs::create_dir_all(&dir)?;
    }
    Ok(())
}

/// Freezes a cgroup, or thaws it.
fn freeze(path: &str, frozen: bool) -> Res {
    let mut done = false;
    for hierarchy in hierarchies() {
        let dir = hierarchy.point.join(path.trim_start_matches('/'));
        let (v1, v2) = (dir.join("freezer.state"), dir.join("cgroup.freeze"));
        if v1.exists() {
            fs::write(v1, if frozen { "FROZEN" } else { "THAWED" })?;
            done = true;
        } else if v2.exists() {
            fs::write(v2, if frozen { "1" } else { "0" })?;
            done = true;
        }
    }
    if done { Ok(()) } else { skip("this machine has no freezer") }
}

/// `create` is refused for a cgroup that others use or have stopped, and leaves it alone.
fn unfit() -> Vec<Test> {
    let section = "config-linux#control-groups";
    vec![
        test(section, "F31", "a cgroup that holds processes is refused by name", |lab| {
            let first = lab.create(&["pause"], |_| {})?;
            let bundle =
                lab.bundle(&["report"], |spec| spec["linux"]["cgroupsPath"] = json!(first.cgroup))?;
            let output = lab.call(&["create", "--bundle", bundle.path(), &bundle.id]).output()?;
            lab.quality(output.code != Some(0), "create succeeded")?;
            lab.quality(output.err.contains(&first.cgroup), output.brief())?;
            first.expect("created")?;
            first.end()
        }),
        test(
            section,
            "F31",
            "a cgroup that holds processes in a cgroup below it is refused",
            |lab| {
                let first = lab.create(&["pause"], |spec| {
                    let path = format!(
                        "{}/below",
                        spec["linux"]["cgroupsPath"].as_str().unwrap_or_default()
                    );
                    spec["linux"]["cgroupsPath"] = json!(path);
                })?;
                let above = first.cgroup.trim_end_matches("/below").to_owned();
                let bundle =
                    lab.bundle(&["report"], |spec| spec["linux"]["cgroupsPath"] = json!(above))?;
                let output =
                    lab.call(&["create", "--bundle", bundle.path(), &bundle.id]).output()?;
                lab.quality(output.code != Some(0), "create succeeded")?;
                lab.quality(output.err.contains(&above), output.brief())?;
                first.expect("created")?;
                first.end()
            },
        ),
        test(section, "F31", "a frozen cgroup, and one below a frozen one, is refused", |lab| {
            let path = format!("{}/{}-frozen", lab.cgroup_parent, lab.word);
            for asked in [path.clone(), format!("{path}/below")] {
                make(&path)?;
                freeze(&path, true)?;
                let bundle =
                    lab.bundle(&["report"], |spec| spec["linux"]["cgroupsPath"] = json!(asked))?;
                let output = lab.call(&["create", "--bundle", bundle.path(), &bundle.id]).output();
                // Who went in must come out again.
                freeze(&path, false)?;
                crate::lab::cgroups::remove(&format!("{}-frozen", lab.word));
                let output = output?;
                lab.quality(output.code.is_some_and(|code| code != 0), "create did not refuse it")?;
                lab.quality(output.err.contains("frozen"), output.brief())?;
                lab.nothing_left()?;
            }
            Ok(())
        }),
        test("contract#exec", "F31", "exec below a frozen cgroup is an error, not a wait", |lab| {
            let path = format!("{}/{}-frozen", lab.cgroup_parent, lab.word);
            make(&path)?;
            let mut container = lab.create(&["pause"], |spec| {
                spec["linux"]["cgroupsPath"] = json!(format!("{path}/below"));
            })?;
            container.start()?;
            container.ready()?;
            freeze(&path, true)?;
            let output = lab.call(&["exec", &container.id, "/bin/probe", "report"]).output();
            freeze(&path, false)?;
            let output = output?;
            lab.quality(output.code.is_some_and(|code| code != 0), "exec did not refuse it")?;
            lab.quality(
                output.err.contains("frozen") || output.err.contains("paused"),
                output.brief(),
            )?;
            container.end()?;
            crate::lab::cgroups::remove(&format!("{}-frozen", lab.word));
            Ok(())
        }),
    ]
}

fn paths() -> Vec<Test> {
    let section = "config-linux#cgroups-path";
    vec![
        test(
            section,
            "F29 F165",
            "an absolute path is relative to the mount point of every hierarchy",
            |lab| {
                let container = lab.create(&["pause"], |_| {})?;
                for controller in ["memory", "pids", "cpu"] {
                    eq(controller, &membership(container.pid(), controller)?, &container.cgroup)?;
                }
                container.end()
            },
        ),
        test(
            section,
            "F167",
            "the program is in the cgroup of each hierarchy that is mounted",
            |lab| {
                let container = lab.create(&["pause"], |_| {})?;
                let all = hierarchies();
                // Beside v1 hierarchies, cgroup2 may be left out.
                let alone = all.iter().all(|h| h.v2);
                for hierarchy in all.iter().filter(|h| alone || !h.v2) {
                    let path = hierarchy
                        .point
                        .join(container.cgroup.trim_start_matches('/'))
                        .join("cgroup.procs");
                    let procs = fs::read_to_string(&path).unwrap_or_default();
                    ensure(
                        procs.lines().any(|line| line == container.pid().to_string()),
                        format!("{} is {procs:?}", path.display()),
                    )?;
                }
                container.end()
            },
        ),
        test(section, "F29", "a relative path gives the same place for the same value", |lab| {
            let relative = format!("{}-relative", lab.word);
            let mut places = Vec::new();
            for _ in 0..2 {
                let container =
                    lab.create(&["pause"], |spec| spec["linux"]["cgroupsPath"] = json!(relative))?;
                places.push(membership(container.pid(), "pids")?);
                container.end()?;
            }
            eq("places", &places[0], &places[1])?;
            has("place", &places[0], &relative)
        }),
        test(section, "F29", "without a path the runtime chooses a place of its own", |lab| {
            let container = lab.create(&["pause"], |spec| {
                spec["linux"].as_object_mut().map(|linux| linux.remove("cgroupsPath"));
            })?;
            let place = membership(container.pid(), "pids")?;
            ensure(
                place != membership(1, "pids")?,
                format!("the container is in the runtime's cgroup {place}"),
            )?;
            container.end()
        }),
        test(section, "F29", "a path with .. does not leave the hierarchy", |lab| {
            let bundle = lab.bundle(&["pause"], |spec| {
                let path = format!(
                    "/../../..{}",
                    spec["linux"]["cgroupsPath"].as_str().unwrap_or_default()
                );
                spec["linux"]["cgroupsPath"] = json!(path);
            })?;
            let output = lab.call(&["create", "--bundle", bundle.path(), &bundle.id]).output()?;
            if output.code != Some(0) {
                return Ok(());
            }
            let state = lab.call(&["state", &bundle.id]).output()?;
            let state: Value = serde_json::from_str(&state.out).unwrap_or_default();
            let place = membership(state["pid"].as_i64().unwrap_or(0) as i32, "pids")?;
            ensure(!place.contains(".."), format!("the cgroup is {place}"))
        }),
        test(section, "F29", "missing parents are made and cpuset works in them", |lab| {
            let container = lab.create(&["pause"], |spec| {
                let path =
                    format!("{}/a/b/c", spec["linux"]["cgroupsPath"].as_str().unwrap_or_default());
                spec["linux"]["cgroupsPath"] = json!(path);
                spec["linux"]["resources"] = json!({ "cpu": { "cpus": "0" } });
            })?;
            let cpus =
                fs::read_to_string(either("cpuset", &container.cgroup)?.join("cpuset.cpus"))?;
            eq("cpuset.cpus", &cpus.trim(), &"0")?;
            container.end()?;
            // Parents are not the container's; they are removed here so that nothing is left.
            for path in crate::lab::cgroups::named(&lab.word).iter().rev() {
                let _ = fs::remove_dir(path);
            }
            Ok(())
        }),
        test(
            section,
            "F29",
            "a cgroup that exists is used, and not removed while others are in it",
            |lab| {
                let path = format!("{}/{}-shared", lab.cgroup_parent, lab.word);
                let dir = either("pids", &path)?;
                fs::create_dir(&dir)?;
                let container = lab.create(&["pause"], |spec| {
                    spec["linux"]["cgroupsPath"] = json!(path.clone())
                })?;
                eq("place", &membership(container.pid(), "pids")?, &path)?;
                container.end()?;
                let _ = fs::remove_dir(&dir);
                Ok(())
            },
        ),
        test(
            "config-linux#cpu",
            "F40",
            "the program's affinity is its cpuset, not the runtime's own affinity",
            |lab| {
                let bundle = lab.bundle(&["report"], |_| {})?;
                let plain = lab.seen(&bundle)?["report"]["affinity"].clone();
                if plain.as_array().is_none_or(|cpus| cpus.len() < 2) {
                    return skip("one CPU is not enough to tell");
                }
                let bundle = lab.bundle(&["report"], |spec| {
                    spec["linux"]["resources"] = json!({ "cpu": { "cpus": "0-1" } })
                })?;
                let output = lab
                    .call(&["run", "--bundle", bundle.path(), &bundle.id])
                    .shell("exec taskset 1 \"$@\"")
                    .output()?;
                let seen: Value = serde_json::from_str(&output.out).unwrap_or_default();
                // cpuset.cpus is what the container asked for: "list of CPUs the container will run in".
                lab.quality(
                    seen["report"]["affinity"] == plain,
                    format!("affinity is {}", seen["report"]["affinity"]),
                )
            },
        ),
    ]
}

fn refused() -> Vec<Test> {
    let bad = |name: &'static str, resources: Value| {
        test(
            "config-linux#control-groups",
            "F168",
            format!("{name} is an error, nothing is left"),
            move |lab: &Lab| {
                let resources = resources.clone();
                let output = lab.refused(move |spec| spec["linux"]["resources"] = resources)?;
                let named = ["memory", "cpu", "pids", "blkio", "blockIO"]
                    .iter()
                    .any(|word| output.err.contains(word));
                lab.quality(named, format!("the error names no file or field: {}", output.brief()))
            },
        )
    };
    vec![
        bad("a CPU that does not exist", json!({ "cpu": { "cpus": "4000" } })),
        bad("a CPU list that is no list", json!({ "cpu": { "cpus": "zero" } })),
        bad("a memory node that does not exist", json!({ "cpu": { "mems": "900" } })),
        bad("a CPU quota below the kernel's least", json!({ "cpu": { "quota": 5 } })),
        bad(
            "a CPU period below the kernel's least",
            json!({ "cpu": { "period": 5, "quota": 1000 } }),
        ),
        bad("a swappiness beyond 200", json!({ "memory": { "swappiness": 900 } })),
        bad(
            "a swap limit below the memory limit",
            json!({ "memory": { "limit": 67_108_864, "swap": 33_554_432 } }),
        ),
        bad(
            "a throttled device that does not exist",
            json!({ "blockIO": { "throttleReadBpsDevice": [{ "major": 4000, "minor": 1, "rate": 5000 }] } }),
        ),
        test(
            "config-linux#pids",
            "F45",
            "pids.limit 0 is a real limit or refused by name (valid since 1.3)",
            |lab| {
                let bundle = lab.bundle(&["sleepers 5"], |spec| {
                    spec["ociVersion"] = json!("1.3.0");
                    spec["linux"]["resources"] = json!({ "pids": { "limit": 0 } });
                })?;
                let output = lab.run(&bundle)?;
                if output.code != Some(0) {
                    return Ok(());
                }
                let seen: Value = serde_json::from_str(&output.out).unwrap_or_default();
                match seen["sleepers 5"]["count"].as_u64() {
                    Some(0) => Ok(()),
                    Some(count) => {
                        lab.quality(false, format!("{count} children were made under a limit of 0"))
                    }
                    None => fail(format!("the probe printed {}", output.out)),
                }
            },
        ),
    ]
}
