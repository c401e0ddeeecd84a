//! config.md, process: capabilities and resource limits.

use serde_json::json;

use crate::check::{Test, allowed, ensure, eq, refused_with, same, test};
use crate::lab::bundle::capabilities;

/// Tests of this chapter.
pub fn tests() -> Vec<Test> {
    let mut tests = limits();
    tests.extend(rlimit_types());
    tests
}

fn limits() -> Vec<Test> {
    let caps = "config#linux-process";
    vec![
        test(caps, "F9", "the five capability sets are as given", |lab| {
            let seen = lab.report(|spec| {
                spec["process"]["capabilities"] = json!({
                    "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_NET_RAW"],
                    "permitted": ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID"],
                    "inheritable": ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID"],
                    "effective": ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID"],
                    "ambient": ["CAP_KILL"],
                });
            })?;
            // uid 0 gains what it is bounded by plus what it inherits at execve: the rule of capabilities(7).
            same("bounding", &seen["status"]["CapBnd"], json!("00000000000020a1"))?;
            same("inheritable", &seen["status"]["CapInh"], json!("00000000000000a1"))?;
            same("ambient", &seen["status"]["CapAmb"], json!("0000000000000020"))
        }),
        test(
            caps,
            "F9",
            "an ordinary user has its ambient capabilities after execve, and only those",
            |lab| {
                let seen = lab.report(|spec| {
                    spec["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
                    let sets = ["bounding", "permitted", "inheritable", "effective", "ambient"];
                    capabilities(spec, &sets, &["CAP_NET_BIND_SERVICE", "CAP_KILL"]);
                })?;
                for set in ["CapPrm", "CapEff", "CapAmb", "CapBnd"] {
                    same(set, &seen["status"][set], json!("0000000000000420"))?;
                }
                Ok(())
            },
        ),
        test(caps, "F9", "the inheritable and ambient sets are empty when not asked for", |lab| {
            let seen = lab.report(|_| {})?;
            same("inheritable", &seen["status"]["CapInh"], json!("0000000000000000"))?;
            same("ambient", &seen["status"]["CapAmb"], json!("0000000000000000"))
        }),
        test(caps, "F9", "an absent capabilities object gives none", |lab| {
            let seen = lab.report(|spec| {
                spec["process"].as_object_mut().map(|process| process.remove("capabilities"));
                spec["process"]["user"] = json!({ "uid": 0, "gid": 0 });
            })?;
            same("effective", &seen["status"]["CapEff"], json!("0000000000000000"))?;
            same("bounding", &seen["status"]["CapBnd"], json!("0000000000000000"))
        }),
        test(
            caps,
            "F9",
            "an effective set smaller than the bounding one is kept by an ordinary user",
            |lab| {
                let seen = lab.report(|spec| {
                    spec["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
                })?;
                same("effective", &seen["status"]["CapEff"], json!("0000000000000000"))
            },
        ),
        test(
            caps,
            "F9",
            "a capability that the kernel does not have is not fatal (since 1.1: log a warning)",
            |lab| {
                let seen = lab.probe(&["report"], |spec| {
                    spec["ociVersion"] = json!("1.1.0");
                    let sets = ["bounding", "permitted", "effective"];
                    capabilities(spec, &sets, &["CAP_CHOWN", "CAP_OF_THE_FUTURE"]);
                })?;
                same("bounding", &seen["report"]["status"]["CapBnd"], json!("0000000000000001"))
            },
        ),
        test(caps, "F9", "a process without CAP_SYS_ADMIN cannot mount", |lab| {
            let seen = lab.probe(&["mount-tmpfs /data"], |_| {})?;
            refused_with("mount", &seen["mount-tmpfs /data"], &["EPERM"])
        }),
        test(caps, "F9", "CAP_SYS_ADMIN given is CAP_SYS_ADMIN had", |lab| {
            let seen = lab.probe(&["mount-tmpfs /data"], |spec| {
                capabilities(spec, &["bounding", "permitted", "effective"], &["CAP_SYS_ADMIN"]);
            })?;
            allowed("mount", &seen["mount-tmpfs /data"])
        }),
        test("config#posix-process", "F8", "an unknown rlimit type is an error", |lab| {
            lab.refused(|spec| {
                spec["process"]["rlimits"] =
                    json!([{ "type": "RLIMIT_NONSENSE", "soft": 1, "hard": 1 }]);
            })
            .map(drop)
        }),
        test("config#posix-process", "F8", "two rlimits of one type are an error", |lab| {
            lab.refused(|spec| {
                spec["process"]["rlimits"] = json!([
                    { "type": "RLIMIT_NOFILE", "soft": 100, "hard": 200 },
                    { "type": "RLIMIT_NOFILE", "soft": 100, "hard": 100 },
                ]);
            })
            .map(drop)
        }),
        test("config#posix-process", "F8", "a soft limit above the hard one is an error", |lab| {
            lab.refused(|spec| {
                spec["process"]["rlimits"] =
                    json!([{ "type": "RLIMIT_NOFILE", "soft": 200, "hard": 100 }]);
            })
            .map(drop)
        }),
        test(
            "config#posix-process",
            "F8",
            "a tiny address space limit does not disturb the runtime itself",
            |lab| {
                let seen = lab.report(|spec| {
                spec["process"]["rlimits"] = json!([{ "type": "RLIMIT_AS", "soft": 33_554_432, "hard": 33_554_432 }]);
            })?;
                same("RLIMIT_AS", &seen["rlimits"]["RLIMIT_AS"], json!([33_554_432, 33_554_432]))
            },
        ),
        test(
            "config#posix-process",
            "F8",
            "three open files are enough to be started with",
            |lab| {
                // The limit is the process's, "rlim.rlim_cur MUST match": that a runtime needs descriptors of
                // its own after it has set the limit is not the configuration's fault.
                let bundle = lab.bundle(&["exit 6"], |spec| {
                    spec["process"]["rlimits"] =
                        json!([{ "type": "RLIMIT_NOFILE", "soft": 3, "hard": 3 }]);
                })?;
                let output = lab.run(&bundle)?;
                eq("exit code", &output.code, &Some(6))
            },
        ),
        test("config#posix-process", "F8", "a user with too many processes gets no more", |lab| {
            let limited = |spec: &mut serde_json::Value| {
                spec["process"]["user"] = json!({ "uid": 54_321, "gid": 54_321 });
                spec["process"]["rlimits"] =
                    json!([{ "type": "RLIMIT_NPROC", "soft": 1, "hard": 1 }]);
            };
            // The kernel compares before it counts: the limit and one more may be there.
            let (first, second) = (lab.running(limited)?, lab.running(limited)?);
            let output = lab.run(&lab.bundle(&["exit 0"], limited)?)?;
            ensure(output.code != Some(0), "a third process of the user started")?;
            lab.quality(output.err.contains("EAGAIN"), output.brief())?;
            first.end()?;
            second.end()
        }),
        test(
            "config#posix-process",
            "F8",
            "three open files are enough for create and start",
            |lab| {
                let container = lab.create(&["exit 6"], |spec| {
                    spec["process"]["rlimits"] =
                        json!([{ "type": "RLIMIT_NOFILE", "soft": 3, "hard": 3 }]);
                })?;
                container.start()?;
                eq("exit code", &container.wait()?, &6)?;
                container.delete()
            },
        ),
    ]
}

/// Limits that can be lowered without a privilege, each alone.
fn rlimit_types() -> Vec<Test> {
    const TYPES: [(&str, u64, u64); 14] = [
        ("RLIMIT_AS", 4 << 30, 8 << 30),
        ("RLIMIT_CORE", 0, 1000),
        ("RLIMIT_CPU", 1000, 2000),
        ("RLIMIT_DATA", 1 << 30, 2 << 30),
        ("RLIMIT_FSIZE", 1 << 30, 2 << 30),
        ("RLIMIT_LOCKS", 100, 200),
        ("RLIMIT_MEMLOCK", 4096, 8192),
        ("RLIMIT_MSGQUEUE", 1000, 2000),
        ("RLIMIT_NOFILE", 100, 200),
        ("RLIMIT_NPROC", 1000, 2000),
        ("RLIMIT_RSS", 1 << 30, 2 << 30),
        ("RLIMIT_RTTIME", 1000, 2000),
        ("RLIMIT_SIGPENDING", 100, 200),
        ("RLIMIT_STACK", 1 << 20, 8 << 20),
    ];
    let one = |(name, soft, hard): (&'static str, u64, u64)| {
        test(
            "config#posix-process",
            "F8",
            format!("{name}: getrlimit answers soft and hard as configured"),
            move |lab| {
                let seen = lab.report(|spec| {
                    spec["process"]["rlimits"] =
                        json!([{ "type": name, "soft": soft, "hard": hard }]);
                })?;
                same(name, &seen["rlimits"][name], json!([soft, hard]))
            },
        )
    };
    TYPES.into_iter().map(one).collect()
}
