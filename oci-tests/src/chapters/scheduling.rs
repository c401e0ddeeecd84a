//! config.md: scheduler, I/O priority and CPU affinity; config-linux.md: memory policy.

use nix::libc;
use serde_json::{Value, json};

use crate::check::{Res, Test, ensure, eq, has, same, skip, test};
use crate::lab::Lab;

/// Tests of this chapter.
pub fn tests() -> Vec<Test> {
    let process = "config#linux-process";
    vec![
        test(process, "F62", "SCHED_BATCH with a nice value, in init and exec", |lab| {
            let steps =
                [call(libc::SYS_sched_getscheduler, &[0]), call(libc::SYS_getpriority, &[0, 0])];
            let steps = steps.each_ref().map(String::as_str);
            let container = lab.running(|spec| batch(&mut spec["process"]))?;
            // The kernel answers 20 minus the nice value.
            let asked = |seen: &Value| {
                same("policy", &seen[steps[0]]["value"], json!(libc::SCHED_BATCH))?;
                same("nice", &seen[steps[1]]["value"], json!(15))
            };
            asked(&container.exec(&[], &steps)?)?;
            asked(&lab.probe(&steps, |spec| batch(&mut spec["process"]))?)?;
            container.end()
        }),
        test(
            process,
            "F62",
            "a policy that the machine cannot give is an error by its name",
            |lab| {
                // More than all of a processor.
                let output = lab.refused(|spec| {
                    spec["process"]["scheduler"] = json!({ "policy": "SCHED_DEADLINE",
                    "runtime": 1u64 << 62, "deadline": 1u64 << 62, "period": 1u64 << 62 });
                })?;
                lab.quality(output.err.contains("process.scheduler"), output.brief())
            },
        ),
        scheduled("SCHED_IDLE", json!({ "policy": "SCHED_IDLE" }), &["SCHED_IDLE"]),
        scheduled("SCHED_OTHER", json!({ "policy": "SCHED_OTHER", "nice": -5 }), &["SCHED_OTHER"]),
        scheduled(
            "SCHED_FIFO with a priority, reset at a fork",
            json!({ "policy": "SCHED_FIFO", "priority": 7, "flags": ["SCHED_RESET_ON_FORK"] }),
            &["SCHED_FIFO|SCHED_RESET_ON_FORK", "priority: 7"],
        ),
        scheduled(
            "SCHED_RR with a priority",
            json!({ "policy": "SCHED_RR", "priority": 99 }),
            &["SCHED_RR", "priority: 99"],
        ),
        scheduled(
            "SCHED_DEADLINE with its times and flags",
            json!({ "policy": "SCHED_DEADLINE", "runtime": 1_000_000, "deadline": 20_000_000,
                "period": 40_000_000, "flags": ["SCHED_FLAG_RECLAIM", "SCHED_FLAG_DL_OVERRUN"] }),
            &["SCHED_DEADLINE", "1000000/20000000/40000000"],
        ),
        test(process, "F62", "a clamp of utilization is set, or an error by its name", |lab| {
            for flag in ["SCHED_FLAG_UTIL_CLAMP_MIN", "SCHED_FLAG_KEEP_PARAMS"] {
                let bundle = lab.bundle(&["exit 0"], |spec| {
                    spec["process"]["scheduler"] =
                        json!({ "policy": "SCHED_OTHER", "flags": [flag] });
                })?;
                let output = lab.run(&bundle)?;
                let named = output.err.contains("process.scheduler (SCHED_OTHER, flags ");
                lab.quality(output.code == Some(0) || named, output.brief())?;
            }
            Ok(())
        }),
        test(process, "F63", "the real-time and the idle class of I/O", |lab| {
            let step = call(libc::SYS_ioprio_get, &[1, 0]);
            for (class, number, level) in
                [("IOPRIO_CLASS_RT", 1, 3), ("IOPRIO_CLASS_BE", 2, 0), ("IOPRIO_CLASS_IDLE", 3, 7)]
            {
                let seen = lab.probe(&[&step], |spec| {
                    spec["process"]["ioPriority"] = json!({ "class": class, "priority": level });
                })?;
                same(class, &seen[&step]["value"], json!(number << 13 | level))?;
            }
            Ok(())
        }),
        test(
            process,
            "F62 F63",
            "process.json of exec has its own policy and I/O priority",
            |lab| {
                let container = lab.running(|spec| batch(&mut spec["process"]))?;
                let steps =
                    [call(libc::SYS_sched_getscheduler, &[0]), call(libc::SYS_ioprio_get, &[1, 0])];
                let output = container.exec_process(&json!({
                    "cwd": "/", "args": ["/bin/probe", steps[0], steps[1]], "env": ["PATH=/bin"],
                    "user": { "uid": 0, "gid": 0 },
                    "scheduler": { "policy": "SCHED_IDLE" },
                    "ioPriority": { "class": "IOPRIO_CLASS_IDLE" },
                }))?;
                let seen: Value = serde_json::from_str(&output.out).unwrap_or_default();
                same("policy", &seen[&steps[0]]["value"], json!(libc::SCHED_IDLE))?;
                same("I/O priority", &seen[&steps[1]]["value"], json!(3 << 13))?;
                container.end()
            },
        ),
        test(process, "F63", "an I/O priority of the best-effort class", |lab| {
            let step = call(libc::SYS_ioprio_get, &[1, 0]);
            let seen = lab.probe(&[&step], |spec| {
                spec["process"]["ioPriority"] =
                    json!({ "class": "IOPRIO_CLASS_BE", "priority": 6 });
            })?;
            same("class and level", &seen[&step]["value"], json!(2 << 13 | 6))
        }),
        test(
            process,
            "F64",
            "exec runs on the CPUs of execCPUAffinity.final, init on all",
            |lab| {
                if std::thread::available_parallelism()?.get() < 2 {
                    return skip("this machine has one CPU");
                }
                let container = lab.running(|spec| {
                    spec["process"]["execCPUAffinity"] = json!({ "initial": "0", "final": "1" });
                })?;
                let seen = container.exec(&[], &["status-of self"])?;
                same("exec", &seen["status-of self"]["Cpus_allowed_list"], json!("1"))?;
                let init = std::fs::read_to_string(format!("/proc/{}/status", container.pid()))?;
                ensure(!init.contains("Cpus_allowed_list:\t1\n"), "init is on the CPU of exec")?;
                container.end()
            },
        ),
        test(process, "F64", "process.json of exec has its own CPUs", |lab| {
            if std::thread::available_parallelism()?.get() < 2 {
                return skip("this machine has one CPU");
            }
            let container = lab.running(|spec| {
                spec["process"]["execCPUAffinity"] = json!({ "final": "0" });
            })?;
            let output = container.exec_process(&json!({
                "cwd": "/", "args": ["/bin/probe", "status-of self"], "env": ["PATH=/bin"],
                "user": { "uid": 0, "gid": 0 }, "execCPUAffinity": { "final": "1" },
            }))?;
            let seen: Value = serde_json::from_str(&output.out).unwrap_or_default();
            same("CPUs", &seen["status-of self"]["Cpus_allowed_list"], json!("1"))?;
            container.end()
        }),
        test(
            process,
            "F64",
            "with initial CPUs alone the kernel says which are the last (since Linux 6.2: those)",
            |lab| {
                if std::thread::available_parallelism()?.get() < 2 {
                    return skip("this machine has one CPU");
                }
                if older_than(6, 2)? {
                    return skip("Linux before 6.2 forgets them in a cgroup with cpuset");
                }
                let container = lab.running(|spec| {
                    spec["process"]["execCPUAffinity"] = json!({ "initial": "1" });
                })?;
                let seen = container.exec(&[], &["status-of self"])?;
                same("exec", &seen["status-of self"]["Cpus_allowed_list"], json!("1"))?;
                container.end()
            },
        ),
        test(
            process,
            "F64",
            "CPUs that the machine does not have are an error by their name",
            |lab| {
                let container = lab.running(|spec| {
                    spec["process"]["execCPUAffinity"] = json!({ "final": "1000" });
                })?;
                let output = container.exec_output(&[], &["report"])?;
                ensure(output.code != Some(0), "exec ran")?;
                lab.quality(output.err.contains("execCPUAffinity.final"), output.brief())?;
                lab.quality(output.err.contains("1000"), output.brief())?;
                container.end()
            },
        ),
        test("config-linux#memory-policy", "F50", "pages are bound to a node", |lab| {
            let mode = |lab: &Lab| -> Res<String> {
                let seen = lab.probe(&["read /proc/self/numa_maps"], |spec| {
                    spec["linux"]["memoryPolicy"] = json!({ "mode": "MPOL_BIND", "nodes": "0",
                        "flags": ["MPOL_F_STATIC_NODES"] });
                })?;
                Ok(seen["read /proc/self/numa_maps"].as_str().unwrap_or_default().to_owned())
            };
            if !std::path::Path::new("/proc/self/numa_maps").exists() {
                return skip("this kernel has no NUMA");
            }
            has("numa_maps", &mode(lab)?, "bind=static:0")
        }),
        test("config-linux#memory-policy", "F50", "every mode and flag, in init and exec", |lab| {
            if !std::path::Path::new("/proc/self/numa_maps").exists() {
                return skip("this kernel has no NUMA");
            }
            let mut cases = vec![
                (json!({ "mode": "MPOL_DEFAULT" }), "default"),
                (json!({ "mode": "MPOL_LOCAL" }), "local"),
                (json!({ "mode": "MPOL_PREFERRED", "nodes": "0" }), "prefer:0"),
                (json!({ "mode": "MPOL_PREFERRED_MANY", "nodes": "0" }), "prefer (many):0"),
                (json!({ "mode": "MPOL_INTERLEAVE", "nodes": "0-0" }), "interleave:0"),
                (
                    json!({ "mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_RELATIVE_NODES"] }),
                    "bind=relative:0",
                ),
            ];
            if !older_than(6, 9)? {
                let weighted = json!({ "mode": "MPOL_WEIGHTED_INTERLEAVE", "nodes": "0" });
                cases.push((weighted, "weighted interleave:0"));
            }
            for (asked, wanted) in cases {
                let container = lab.running(|spec| spec["linux"]["memoryPolicy"] = asked)?;
                let maps = std::fs::read_to_string(format!("/proc/{}/numa_maps", container.pid()))?;
                has("init", &maps, &format!(" {wanted} "))?;
                let seen = container.exec(&[], &["read /proc/self/numa_maps"])?;
                let maps = seen["read /proc/self/numa_maps"].as_str().unwrap_or_default();
                has("exec", maps, &format!(" {wanted} "))?;
                container.end()?;
            }
            Ok(())
        }),
        test(
            "config-linux#memory-policy",
            "F50",
            "a node beyond the first 1024 is an error by its number",
            |lab| {
                if !std::path::Path::new("/proc/self/numa_maps").exists() {
                    return skip("this kernel has no NUMA");
                }
                for node in ["1024", "5000", "0,65535"] {
                    let output = lab.refused(|spec| {
                        spec["linux"]["memoryPolicy"] =
                            json!({ "mode": "MPOL_BIND", "nodes": node });
                    })?;
                    lab.quality(output.err.contains("linux.memoryPolicy"), output.brief())?;
                    lab.quality(output.err.contains(node), output.brief())?;
                }
                Ok(())
            },
        ),
        test("config-linux#memory-policy", "F50", "a node that is not there is an error", |lab| {
            if !std::path::Path::new("/proc/self/numa_maps").exists() {
                return skip("this kernel has no NUMA");
            }
            let output = lab.refused(|spec| {
                spec["linux"]["memoryPolicy"] = json!({ "mode": "MPOL_BIND", "nodes": "900" });
            })?;
            eq("named", &output.err.contains("linux.memoryPolicy"), &true)
        }),
    ]
}

/// Whether this kernel is older than a version.
fn older_than(major: u32, minor: u32) -> Res<bool> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split(['.', '-']).map(|n| n.trim().parse::<u32>().unwrap_or(0));
    Ok((numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < (major, minor))
}

/// The policy of init, as chrt(1) tells of it.
fn scheduled(name: &'static str, asked: Value, wanted: &'static [&'static str]) -> Test {
    test("config#linux-process", "F62", format!("{name} is what the program has"), move |lab| {
        let bundle = lab.bundle(&["pause"], |spec| spec["process"]["scheduler"] = asked.clone())?;
        let output = lab.call(&["create", "--bundle", bundle.path(), &bundle.id]).output()?;
        let real_time = wanted[0].starts_with("SCHED_FIFO") || wanted[0].starts_with("SCHED_RR");
        if real_time && output.err.contains("EPERM") && crate::lab::cgroups::v1("cpu", "/").is_ok()
        {
            lab.quality(output.err.contains("process.scheduler (SCHED_"), output.brief())?;
            return skip("a cgroup of this machine has no real-time bandwidth");
        }
        ensure(output.code == Some(0), output.brief())?;
        let state = lab.call(&["state", &bundle.id]).output()?;
        let state: Value = serde_json::from_str(&state.out).unwrap_or_default();
        let told = std::process::Command::new("chrt")
            .args(["--all-tasks", "--pid", &state["pid"].to_string()])
            .output()?;
        let told = String::from_utf8_lossy(&told.stdout).into_owned();
        for word in wanted {
            has("chrt", &told, word)?;
        }
        lab.call(&["delete", "--force", &bundle.id]).output().map(drop)
    })
}

fn call(number: i64, args: &[u64]) -> String {
    let args: Vec<String> = args.iter().map(u64::to_string).collect();
    format!("syscall {number} {}", args.join(" "))
}

fn batch(process: &mut Value) {
    process["scheduler"] = json!({ "policy": "SCHED_BATCH", "nice": 5 });
}
