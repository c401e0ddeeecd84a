//! exec: a second process is the container's as much as the first one.

use serde_json::{Value, json};

use crate::check::{Test, ensure, eq, has, same, test};
use crate::lab::bundle::{CAPABILITIES, capabilities, namespace, user_namespace};

/// The specification has no exec operation; what callers rely on is the contract.
const SECTION: &str = "contract#exec";

/// Tests of this chapter.
pub fn tests() -> Vec<Test> {
    let mut tests = inherited();
    tests.extend(given());
    tests
}

fn inherited() -> Vec<Test> {
    let equal = |rows: &'static str,
                 what: &'static str,
                 fields: &'static [&'static str],
                 edit: fn(&mut Value)| {
        test(SECTION, rows, format!("exec has the container's {what}"), move |lab| {
            let mut container = lab.create(&["report", "pause"], edit)?;
            container.start()?;
            let first = container.ready()?["report"].take();
            let second = container.exec(&[], &["report"])?["report"].take();
            for field in fields {
                let pick = |report: &Value| {
                    field.split('.').fold(report.clone(), |value, word| value[word].clone())
                };
                same(field, &pick(&second), pick(&first))?;
            }
            container.end()
        })
    };
    vec![
        equal(
            "F186",
            "namespaces",
            &["ns.pid", "ns.mnt", "ns.net", "ns.ipc", "ns.uts", "ns.cgroup", "ns.user"],
            |spec| {
                namespace(spec, "network");
                namespace(spec, "cgroup");
            },
        ),
        equal(
            "F186",
            "user namespace and ids in it",
            &["ns.user", "uids", "gids", "uid_map"],
            user_namespace,
        ),
        equal("F186", "cgroup", &["cgroup"], |_| {}),
        equal("F187", "user and groups", &["uids", "gids", "groups"], |spec| {
            spec["process"]["user"] =
                json!({ "uid": 12, "gid": 34, "additionalGids": [56], "umask": 0o27 });
        }),
        equal("F187", "working directory", &["cwd"], |spec| {
            spec["process"]["cwd"] = json!("/data")
        }),
        equal("F187", "environment", &["env"], |spec| {
            spec["process"]["env"] = json!(["PATH=/bin", "A=1", "HOME=/x"])
        }),
        equal(
            "F186",
            "capabilities",
            &["status.CapBnd", "status.CapEff", "status.CapInh", "status.CapAmb"],
            |spec| {
                capabilities(spec, &["bounding", "permitted", "effective"], &CAPABILITIES[..3]);
            },
        ),
        equal("F186", "no_new_privs", &["status.NoNewPrivs"], |spec| {
            spec["process"]["noNewPrivileges"] = json!(true)
        }),
        equal("F186", "limits", &["rlimits.RLIMIT_NOFILE"], |spec| {
            spec["process"]["rlimits"] =
                json!([{ "type": "RLIMIT_NOFILE", "soft": 99, "hard": 111 }]);
        }),
        equal("F186", "oom score", &["oom_score_adj"], |spec| {
            spec["process"]["oomScoreAdj"] = json!(500)
        }),
        equal("F188", "session keyring", &["keyring"], |_| {}),
        equal("F188", "session keyring in a user namespace", &["keyring", "keyring_id"], |spec| {
            crate::lab::bundle::user_namespace(spec)
        }),
        test(SECTION, "F4 F186", "a user starts in a directory that only root may enter", |lab| {
            let steps = ["mkdir /data/closed", "chmod /data/closed 700", "pause"];
            let mut container = lab.create(&steps, |_| {})?;
            container.start()?;
            container.ready()?;
            let seen =
                container.exec(&["--user", "1000:1000", "--cwd", "/data/closed"], &["report"])?;
            same("uids", &seen["report"]["uids"], json!([1000, 1000, 1000]))?;
            container.end()
        }),
        test(SECTION, "F186", "a process document without limits has the container's", |lab| {
            let container = lab.running(|spec| {
                spec["process"]["rlimits"] =
                    json!([{ "type": "RLIMIT_NOFILE", "soft": 77, "hard": 88 }]);
            })?;
            let output = container.exec_process(&json!({
                "user": { "uid": 0, "gid": 0 }, "cwd": "/", "args": ["/bin/probe", "report"],
            }))?;
            let seen: Value = serde_json::from_str(output.out.lines().next().unwrap_or_default())
                .unwrap_or_default();
            lab.quality(
                seen["report"]["rlimits"]["RLIMIT_NOFILE"] == json!([77, 88]),
                "the limits are the creator's",
            )?;
            container.end()
        }),
        equal("F186", "hostname", &["hostname"], |spec| {
            spec["hostname"] = json!("of-the-container")
        }),
        test(SECTION, "F187", "exec has the container's umask", |lab| {
            let container = lab.running(|spec| spec["process"]["user"]["umask"] = json!(0o27))?;
            let umask = container.exec(&[], &["report"])?["report"]["umask"].take();
            lab.quality(umask == json!(0o27), format!("umask is {umask}"))?;
            container.end()
        }),
        test(
            SECTION,
            "F188",
            "the session keyring is the container's own, not the caller's",
            |lab| {
                let seen = lab.report(|_| {})?;
                ensure(
                    seen["keyring_id"] != json!(crate::sys::session_keyring_id()),
                    "the session keyring is the caller's",
                )?;
                has("keyring", &seen["keyring"].to_string(), "_ses.")
            },
        ),
        test(SECTION, "F186", "only descriptors 0, 1 and 2 are open", |lab| {
            let container = lab.running(|_| {})?;
            let seen = container.exec(&[], &["links /proc/self/fd"])?;
            let fds = seen["links /proc/self/fd"].as_object();
            let open: Vec<&str> =
                fds.into_iter().flat_map(|fds| fds.keys().map(String::as_str)).collect();
            eq("descriptors", &open, &vec!["0", "1", "2"])?;
            container.end()
        }),
        test(SECTION, "F186", "the caller's supplementary groups are not kept", |lab| {
            for edit in [|_: &mut Value| {}, user_namespace] {
                let container = lab.running(edit)?;
                let output = lab
                    .call(&["exec", &container.id, "/bin/probe", "report"])
                    .shell("exec setpriv --groups 11,12 \"$@\"")
                    .output()?;
                let seen: Value = serde_json::from_str(&output.out).unwrap_or_default();
                let groups = &seen["report"]["groups"];
                let none = *groups == json!([]) || *groups == json!([0]);
                ensure(none, format!("groups are {groups}"))?;
                container.end()?;
            }
            Ok(())
        }),
    ]
}

/// A process document for `exec --process`.
fn process(edit: fn(&mut Value)) -> Value {
    let mut process = json!({
        "cwd": "/", "args": ["/bin/probe", "report"], "env": ["PATH=/bin"], "user": { "uid": 0, "gid": 0 },
    });
    edit(&mut process);
    process
}

fn given() -> Vec<Test> {
    vec![
        test(SECTION, "F116", "the exit code is the program's", |lab| {
            let container = lab.running(|_| {})?;
            eq("code", &container.exec_output(&[], &["exit 37"])?.code, &Some(37))?;
            container.end()
        }),
        test(
            SECTION,
            "F150",
            "the exit code is 128 + N for a program that signal N ended",
            |lab| {
                let container = lab.running(|_| {})?;
                eq("code", &container.exec_output(&[], &["kill 9"])?.code, &Some(137))?;
                container.end()
            },
        ),
        test(SECTION, "F150", "the exit code of a program that is not there is not 0", |lab| {
            let container = lab.running(|_| {})?;
            let output = lab.call(&["exec", &container.id, "/no/such/program"]).output()?;
            ensure(output.code.is_some_and(|code| code != 0), output.brief())?;
            // 255 is what callers of runc map to 126 and 127 by the message.
            lab.quality(
                output.code == Some(255),
                format!("the code is {:?}, not 255", output.code),
            )?;
            container.end()
        }),
        test(SECTION, "F116", "--user UID:GID, --cwd and --env are in force", |lab| {
            let container = lab.running(|_| {})?;
            let seen = container
                .exec(&["--user", "7:8", "--cwd", "/data", "--env", "B=2"], &["report"])?["report"]
                .take();
            same("uids", &seen["uids"], json!([7, 7, 7]))?;
            same("gids", &seen["gids"], json!([8, 8, 8]))?;
            same("cwd", &seen["cwd"], json!("/data"))?;
            has("environment", &seen["env"].to_string(), "B=2")?;
            container.end()
        }),
        // An id that is cut or taken for 0 is root: CVE-2026-30892.
        test(SECTION, "F116", "--user 4294967296, -1 and 1x are refused, never root", |lab| {
            let container = lab.running(|_| {})?;
            for user in ["4294967296", "-1", "1x", ":5"] {
                let output = container.exec_output(&["--user", user], &["report"])?;
                let seen: Value = serde_json::from_str(&output.out).unwrap_or_default();
                ensure(
                    seen["report"]["uids"] != json!([0, 0, 0]) || user == ":5",
                    format!("--user {user} became root"),
                )?;
                lab.quality(
                    output.code != Some(0) || user == ":5",
                    format!("--user {user} was accepted"),
                )?;
            }
            container.end()
        }),
        test(SECTION, "F186", "a process document's capabilities replace the container's", |lab| {
            let container = lab.running(|_| {})?;
            let output = container.exec_process(&process(|process| {
                let caps = json!(["CAP_KILL"]);
                process["capabilities"] =
                    json!({ "bounding": caps, "permitted": caps, "effective": caps });
            }))?;
            let seen: Value = serde_json::from_str(&output.out).unwrap_or_default();
            same("bounding", &seen["report"]["status"]["CapBnd"], json!("0000000000000020"))?;
            same("inheritable", &seen["report"]["status"]["CapInh"], json!("0000000000000000"))?;
            same("ambient", &seen["report"]["status"]["CapAmb"], json!("0000000000000000"))?;
            container.end()
        }),
        test(
            SECTION,
            "F186",
            "a process document with rlimits, umask and noNewPrivileges is in force",
            |lab| {
                let container = lab.running(|_| {})?;
                let output = container.exec_process(&process(|process| {
                    process["rlimits"] =
                        json!([{ "type": "RLIMIT_NOFILE", "soft": 50, "hard": 60 }]);
                    process["noNewPrivileges"] = json!(true);
                    process["user"]["umask"] = json!(0o77);
                }))?;
                let seen: Value = serde_json::from_str(&output.out).unwrap_or_default();
                same("limit", &seen["report"]["rlimits"]["RLIMIT_NOFILE"], json!([50, 60]))?;
                same("NoNewPrivs", &seen["report"]["status"]["NoNewPrivs"], json!("1"))?;
                same("umask", &seen["report"]["umask"], json!(0o77))?;
                container.end()
            },
        ),
        test(
            SECTION,
            "F190",
            "exec in a created container works or is refused, and does not start it",
            |lab| {
                let container = lab.create(&["pause"], |_| {})?;
                container.exec_output(&[], &["exit 0"])?;
                container.expect("created")?;
                container.end()
            },
        ),
        test(SECTION, "F190", "exec in a stopped container is an error", |lab| {
            let container = lab.create(&["exit 0"], |_| {})?;
            container.start()?;
            container.wait()?;
            let output = container.exec_output(&[], &["exit 0"])?;
            ensure(output.code.is_some_and(|code| code != 0), output.brief())?;
            container.delete()
        }),
        test(
            SECTION,
            "F4",
            "--cwd to a descriptor of the runtime does not reach the host (CVE-2024-21626)",
            |lab| {
                let container = lab.running(|_| {})?;
                for fd in 3..12 {
                    let cwd = format!("/proc/self/fd/{fd}");
                    let output = container.exec_output(&["--cwd", &cwd], &["report", "list ."])?;
                    let seen: Value = serde_json::from_str(&output.out).unwrap_or_default();
                    let names = seen["list ."].to_string();
                    ensure(
                        !names.contains("\"state\"") && !names.contains("cgroup.procs"),
                        format!("{cwd} lists {names}"),
                    )?;
                }
                container.end()
            },
        ),
        test(SECTION, "F120", "words after the command belong to the command", |lab| {
            let container = lab.running(|_| {})?;
            let output = lab
                .call(&["exec", &container.id, "/bin/probe", "--user", "5", "report"])
                .output()?;
            let seen: Value = serde_json::from_str(&output.out).unwrap_or_default();
            same("args", &seen["report"]["args"], json!(["/bin/probe", "--user", "5", "report"]))?;
            same("uids", &seen["report"]["uids"], json!([0, 0, 0]))?;
            container.end()
        }),
    ]
}
