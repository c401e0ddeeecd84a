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
                lab.quality(output.err.contains("execCPUAffinity"), output.brief())?;
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

fn call(number: i64, args: &[u64]) -> String {
    let args: Vec<String> = args.iter().map(u64::to_string).collect();
    format!("syscall {number} {}", args.join(" "))
}

fn batch(process: &mut Value) {
    process["scheduler"] = json!({ "policy": "SCHED_BATCH", "nice": 5 });
}
