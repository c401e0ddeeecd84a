//! config.md, process: what the program is given.

use serde_json::json;

use crate::check::{Test, ensure, eq, fail, has, same, skip, test};
use crate::lab::bundle::mount;

/// Tests of this chapter.
pub fn tests() -> Vec<Test> {
    let mut tests = arguments();
    tests.extend(identity());
    tests
}

fn arguments() -> Vec<Test> {
    vec![
        test("config#process", "F5", "args are passed to the program as written", |lab| {
            let seen = lab.report(|spec| {
                spec["process"]["args"] =
                    json!(["/bin/probe", "report", "a b", "", "ünïcödé", "--flag=\"x\""]);
            })?;
            same(
                "args",
                &seen["args"],
                json!(["/bin/probe", "report", "a b", "", "ünïcödé", "--flag=\"x\""]),
            )
        }),
        test(
            "config#process",
            "F5",
            "args[0] without a slash is searched in the PATH of process.env",
            |lab| {
                let bundle = lab.bundle(&[], |spec| {
                    spec["process"]["args"] = json!(["probe-elsewhere", "report"]);
                    spec["process"]["env"] = json!(["PATH=/nowhere:/opt/tools"]);
                })?;
                std::fs::create_dir_all(bundle.inside("/opt/tools"))?;
                std::fs::hard_link(&lab.probe, bundle.inside("/opt/tools/probe-elsewhere"))?;
                let seen = lab.seen(&bundle)?;
                same("args[0]", &seen["report"]["args"][0], json!("probe-elsewhere"))
            },
        ),
        test("config#process", "F5", "at least one entry of args is required", |lab| {
            lab.refused(|spec| spec["process"]["args"] = json!([])).map(drop)
        }),
        test(
            "config#process",
            "F5",
            "the environment is exactly process.env, with HOME as the one possible addition",
            |lab| {
                let seen = lab.report(|spec| {
                    spec["process"]["env"] = json!(["PATH=/bin", "A=1", "B=", "C=x=y", "D=a b"])
                })?;
                let mut env: Vec<&str> = seen["env"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(|v| v.as_str())
                    .collect();
                env.retain(|entry| !entry.starts_with("HOME="));
                env.sort_unstable();
                eq("environment", &env, &vec!["A=1", "B=", "C=x=y", "D=a b", "PATH=/bin"])
            },
        ),
        test(
            "config#process",
            "F5",
            "nothing of the runtime's own environment reaches the program",
            |lab| {
                let bundle = lab.bundle(&["report"], |_| {})?;
                let output = lab
                    .call(&["run", "--bundle", bundle.path(), &bundle.id])
                    .env("SECRET_OF_THE_CALLER", "1")
                    .output()?;
                ensure(
                    !output.out.contains("SECRET_OF_THE_CALLER"),
                    "the caller's variable is in the container",
                )
            },
        ),
        test(
            "config#process",
            "F5",
            "an environment entry of 4 KiB and 200 entries arrive unchanged",
            |lab| {
                let long = format!("LONG={}", "x".repeat(4096));
                let mut env: Vec<String> = (0..200).map(|n| format!("N{n}=value {n}")).collect();
                env.push("PATH=/bin".into());
                env.push(long.clone());
                let wanted = env.clone();
                let seen = lab.report(move |spec| spec["process"]["env"] = json!(env))?;
                let seen: Vec<&str> = seen["env"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(|v| v.as_str())
                    .collect();
                let missing = wanted.iter().filter(|entry| !seen.contains(&entry.as_str())).count();
                eq("missing entries", &missing, &0)
            },
        ),
        test("config#process", "F4", "cwd is the program's working directory", |lab| {
            let seen = lab.report(|spec| spec["process"]["cwd"] = json!("/data"))?;
            same("cwd", &seen["cwd"], json!("/data"))
        }),
        test("config#process", "F4", "a cwd that is not absolute is an error", |lab| {
            lab.refused(|spec| spec["process"]["cwd"] = json!("data")).map(drop)
        }),
        test("config#process", "F4", "a cwd inside a mount of the configuration works", |lab| {
            let seen = lab.report(|spec| {
                mount(spec, "/data", "tmpfs", "tmpfs", &[]);
                spec["process"]["cwd"] = json!("/data");
            })?;
            same("cwd", &seen["cwd"], json!("/data"))
        }),
        test(
            "config#process",
            "F19",
            "a configuration without process can be created but not started",
            |lab| {
                let bundle = lab.bundle(&[], |spec| {
                    spec.as_object_mut().map(|spec| spec.remove("process"));
                })?;
                let output =
                    lab.call(&["create", "--bundle", bundle.path(), &bundle.id]).output()?;
                if output.code != Some(0) {
                    // process is REQUIRED only when start is called, but a runtime MAY validate the whole
                    // configuration at create.
                    return skip(
                        "this runtime wants process at create, which the specification allows",
                    );
                }
                let start = lab.call(&["start", &bundle.id]).output()?;
                ensure(start.code != Some(0), "start without process succeeded")
            },
        ),
    ]
}

fn identity() -> Vec<Test> {
    let user = "config#posix-platform-user";
    vec![
        test(user, "F6", "uid and gid are real, effective and saved ids of the program", |lab| {
            let seen =
                lab.report(|spec| spec["process"]["user"] = json!({ "uid": 1234, "gid": 4321 }))?;
            same("uids", &seen["uids"], json!([1234, 1234, 1234]))?;
            same("gids", &seen["gids"], json!([4321, 4321, 4321]))
        }),
        test(user, "F6", "the supplementary groups are additionalGids and no others", |lab| {
            let seen = lab.report(|spec| {
                spec["process"]["user"] =
                    json!({ "uid": 7, "gid": 8, "additionalGids": [5, 70000, 6] });
            })?;
            let mut groups: Vec<u64> = seen["groups"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|g| g.as_u64())
                .collect();
            // The kernel does not add the primary group by itself; a runtime may.
            groups.retain(|gid| *gid != 8);
            eq("groups", &groups, &vec![5, 6, 70000])
        }),
        test(user, "F6", "without additionalGids the caller's groups are not kept", |lab| {
            let bundle = lab.bundle(&["report"], |spec| {
                spec["process"]["user"] = json!({ "uid": 7, "gid": 8 })
            })?;
            let output = lab
                .call(&["run", "--bundle", bundle.path(), &bundle.id])
                .shell("exec setpriv --groups 11,12 \"$@\"")
                .output()?;
            if output.code != Some(0) {
                return fail(format!("run ended with {}", output.brief()));
            }
            let seen: serde_json::Value = serde_json::from_str(&output.out).unwrap_or_default();
            let groups = &seen["report"]["groups"];
            ensure(*groups == json!([]) || *groups == json!([8]), format!("groups are {groups}"))
        }),
        test(user, "F6", "an id of 4294967295 (-1) is refused", |lab| {
            lab.refused(|spec| {
                spec["process"]["user"] = json!({ "uid": 4_294_967_295u32, "gid": 0 })
            })
            .map(drop)
        }),
        test(user, "F6", "an id beyond 32 bits is refused, never cut to 0", |lab| {
            lab.refused(|spec| {
                spec["process"]["user"] = json!({ "uid": 4_294_967_296u64, "gid": 0 })
            })
            .map(drop)
        }),
        test(user, "F6", "a negative id is refused", |lab| {
            lab.refused(|spec| spec["process"]["user"] = json!({ "uid": -1, "gid": 0 })).map(drop)
        }),
        test(user, "F7", "umask is set when given", |lab| {
            let seen = lab.report(|spec| spec["process"]["user"]["umask"] = json!(0o027))?;
            same("umask", &seen["umask"], json!(0o027))
        }),
        test(user, "F7", "a umask of 0 is 0, which is not the same as absent", |lab| {
            let seen = lab.report(|spec| spec["process"]["user"]["umask"] = json!(0))?;
            same("umask", &seen["umask"], json!(0))
        }),
        test(
            user,
            "F5",
            "HOME comes from the container's /etc/passwd when process.env has none",
            |lab| {
                let bundle = lab.bundle(&["report"], |spec| {
                    spec["process"]["user"] = json!({ "uid": 1500, "gid": 1500 })
                })?;
                std::fs::write(
                    bundle.inside("/etc/passwd"),
                    "root:x:0:0::/root:/bin/sh\nsomeone:x:1500:1500::/home/someone:/bin/sh\n",
                )?;
                let seen = lab.seen(&bundle)?;
                let env = seen["report"]["env"].to_string();
                // The specification is silent; every mature runtime does it and images rely on it.
                lab.quality(
                    env.contains("HOME=/home/someone"),
                    format!("HOME is not set from /etc/passwd: {env}"),
                )
            },
        ),
        // Images built by Nix have a link there.
        test(user, "F5", "HOME comes from the file that a link at /etc/passwd leads to", |lab| {
            let bundle = lab.bundle(&["report"], |spec| {
                spec["process"]["env"] = json!(["PATH=/bin"]);
                spec["process"]["user"]["uid"] = json!(4242);
            })?;
            let passwd = bundle.inside("/etc/passwd");
            let _ = std::fs::remove_file(&passwd);
            std::fs::write(bundle.inside("/data/users"), "x:x:4242:0::/home/linked:/bin/sh\n")?;
            std::os::unix::fs::symlink("/data/users", passwd)?;
            let seen = lab.seen(&bundle)?;
            has("environment", &seen["report"]["env"].to_string(), "HOME=/home/linked")
        }),
        test(user, "F5", "HOME of process.env is kept", |lab| {
            let seen =
                lab.report(|spec| spec["process"]["env"] = json!(["PATH=/bin", "HOME=/mine"]))?;
            has("environment", &seen["env"].to_string(), "HOME=/mine")
        }),
        test("config#linux-process", "F13", "oomScoreAdj is set when given", |lab| {
            let seen = lab.report(|spec| spec["process"]["oomScoreAdj"] = json!(777))?;
            same("oom_score_adj", &seen["oom_score_adj"], json!("777"))
        }),
        test("config#linux-process", "F13", "oomScoreAdj is not touched when not given", |lab| {
            let bundle = lab.bundle(&["report"], |_| {})?;
            let output = lab
                .call(&["run", "--bundle", bundle.path(), &bundle.id])
                .shell("echo 345 > /proc/self/oom_score_adj; exec \"$@\"")
                .output()?;
            let seen: serde_json::Value = serde_json::from_str(&output.out).unwrap_or_default();
            same("oom_score_adj", &seen["report"]["oom_score_adj"], json!("345"))
        }),
        test("config#linux-process", "F10", "noNewPrivileges true sets the bit", |lab| {
            let seen = lab.report(|spec| spec["process"]["noNewPrivileges"] = json!(true))?;
            same("NoNewPrivs", &seen["status"]["NoNewPrivs"], json!("1"))
        }),
        test("config#linux-process", "F10", "noNewPrivileges absent leaves the bit clear", |lab| {
            let seen = lab.report(|_| {})?;
            same("NoNewPrivs", &seen["status"]["NoNewPrivs"], json!("0"))
        }),
        test(
            "config#linux-process",
            "F12",
            "a selinuxLabel that cannot be applied is an error, not ignored",
            |lab| {
                if std::path::Path::new("/sys/fs/selinux/enforce").exists() {
                    return skip("SELinux is enabled: the label would have to be valid");
                }
                let label = "system_u:system_r:container_t:s0:c1,c2";
                let output = lab.refused(|spec| spec["process"]["selinuxLabel"] = json!(label));
                lab.quality(output.is_ok(), "a label on a machine without SELinux is ignored")
            },
        ),
    ]
}
