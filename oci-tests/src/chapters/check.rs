//! `check BUNDLE` beside `run` of the same bundle: what it calls fine runs, what it lists fails, the
//! first with the first. And `check` alone, which is about the host.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use serde_json::{Value, json};

use crate::check::{Res, Test, ensure, eq, fail, has, skip, test};
use crate::lab::bundle::{
    Bundle, capabilities, mount, namespace, push, user_namespace, without_namespace,
};
use crate::lab::call::Output;
use crate::lab::{Kind, Lab};

const SECTION: &str = "robustness#check";
const ROWS: &str = "F266";

/// A configuration that fails: what is wrong, how, the field that `check` names, and a word that both
/// its reason and the error of `run` have.
type Failing = (&'static str, fn(&mut Value), &'static str, &'static str);

const FAILING: [Failing; 44] = [
    (
        "a missing network device",
        |s| {
            namespace(s, "network");
            s["linux"]["netDevices"] = json!({ "absent": {} });
        },
        "linux.netDevices[\"absent\"]",
        "ENODEV",
    ),
    ("a missing root", |s| s["root"]["path"] = json!("nowhere"), "root.path", "nowhere"),
    (
        "a root that is a file",
        |s| s["root"]["path"] = json!("rootfs/etc/passwd"),
        "root.path",
        "ENOTDIR",
    ),
    ("no arguments", |s| s["process"]["args"] = json!([]), "process.args", "process.args"),
    ("a relative cwd", |s| s["process"]["cwd"] = json!("tmp"), "process.cwd", "process.cwd"),
    (
        "a cwd that is a file",
        |s| s["process"]["cwd"] = json!("/etc/passwd"),
        "process.cwd",
        "ENOTDIR",
    ),
    (
        "a missing program",
        |s| s["process"]["args"][0] = json!("/bin/none"),
        "process.args[0]",
        "/bin/none",
    ),
    (
        "a program that is not in PATH",
        |s| s["process"]["args"][0] = json!("none"),
        "process.args[0]",
        "not found in $PATH",
    ),
    (
        "a program that is a directory",
        |s| s["process"]["args"][0] = json!("/bin"),
        "process.args[0]",
        "EACCES",
    ),
    (
        "a program that is not executable",
        |s| s["process"]["args"][0] = json!("/etc/passwd"),
        "process.args[0]",
        "EACCES",
    ),
    (
        "a program without a format",
        |s| s["process"]["args"][0] = json!("/data/text"),
        "process.args[0]",
        "ENOEXEC",
    ),
    (
        "an empty program",
        |s| s["process"]["args"][0] = json!("/data/empty"),
        "process.args[0]",
        "ENOEXEC",
    ),
    (
        "a program of another machine",
        |s| s["process"]["args"][0] = json!("/data/foreign"),
        "process.args[0]",
        "ENOEXEC",
    ),
    (
        "a script without its interpreter",
        |s| s["process"]["args"][0] = json!("/data/script"),
        "process.args[0]",
        "ENOENT",
    ),
    (
        "a program behind a link out of the root",
        |s| s["process"]["args"][0] = json!("/data/out"),
        "process.args[0]",
        "ENOENT",
    ),
    (
        "a program hidden by a tmpfs",
        |s| mount(s, "/bin", "tmpfs", "tmpfs", &[]),
        "process.args[0]",
        "/bin/probe",
    ),
    (
        "a program on a bind mount with noexec",
        |s| {
            let bin = format!("{}/bin", s["root"]["path"].as_str().unwrap_or_default());
            mount(s, "/data", "bind", &bin, &["bind", "noexec"]);
            s["process"]["args"][0] = json!("/data/probe");
        },
        "process.args[0]",
        "EACCES",
    ),
    (
        "a missing bind source",
        |s| mount(s, "/data", "bind", "/no/such", &["bind"]),
        "mounts[3]",
        "/no/such",
    ),
    (
        "a file bound on a directory",
        |s| mount(s, "/data", "bind", "/etc/passwd", &["bind"]),
        "mounts[3]",
        "not a directory",
    ),
    (
        "a directory bound on a file",
        |s| mount(s, "/etc/passwd", "bind", "/etc", &["bind"]),
        "mounts[3]",
        "not a directory",
    ),
    (
        "a destination below a file",
        |s| mount(s, "/etc/passwd/x", "tmpfs", "tmpfs", &[]),
        "mounts[3]",
        "ENOTDIR",
    ),
    (
        "an unknown file system",
        |s| mount(s, "/data", "nosuchfs", "x", &[]),
        "mounts[3]",
        "nosuchfs",
    ),
    (
        "an option that the file system refuses",
        |s| mount(s, "/data", "tmpfs", "tmpfs", &["size=lots"]),
        "mounts[3].options[0]",
        "/data",
    ),
    (
        "a missing prestart hook",
        |s| s["hooks"] = json!({ "prestart": [{ "path": "/no/hook" }] }),
        "hooks.prestart[0]",
        "/no/hook",
    ),
    (
        "a missing createContainer hook",
        |s| s["hooks"] = json!({ "createContainer": [{ "path": "/no/hook" }] }),
        "hooks.createContainer[0]",
        "/no/hook",
    ),
    (
        "a hook that is not executable",
        |s| s["hooks"] = json!({ "createRuntime": [{ "path": "/etc/passwd" }] }),
        "hooks.createRuntime[0]",
        "EACCES",
    ),
    (
        "a missing startContainer hook",
        |s| s["hooks"] = json!({ "startContainer": [{ "path": "/no/hook" }] }),
        "hooks.startContainer[0]",
        "/no/hook",
    ),
    (
        "a missing poststart hook",
        |s| s["hooks"] = json!({ "poststart": [{ "path": "/no/hook" }] }),
        "hooks.poststart[0]",
        "/no/hook",
    ),
    (
        "a missing namespace",
        |s| push(&mut s["linux"]["namespaces"], json!({ "type": "network", "path": "/no/ns" })),
        "linux.namespaces[4]",
        "/no/ns",
    ),
    (
        "a namespace of another kind",
        |s| {
            let path = "/proc/self/ns/uts";
            push(&mut s["linux"]["namespaces"], json!({ "type": "network", "path": path }));
        },
        "linux.namespaces[4]",
        "is a uts namespace",
    ),
    (
        "a CPU that is not there",
        |s| s["linux"]["resources"] = json!({ "cpu": { "cpus": "4000" } }),
        "linux.resources.cpu.cpus",
        "cpu.cpus",
    ),
    (
        "a CPU quota below the kernel's least",
        |s| s["linux"]["resources"] = json!({ "cpu": { "quota": 5 } }),
        "linux.resources.cpu.quota",
        "quota",
    ),
    (
        "a limit of processes above the kernel's most",
        |s| s["linux"]["resources"] = json!({ "pids": { "limit": 5_000_000 } }),
        "linux.resources.pids.limit",
        "pids.limit",
    ),
    (
        "a controller that no kernel has",
        |s| s["linux"]["resources"] = json!({ "unified": { "spirit.max": "1" } }),
        "linux.resources.unified[\"spirit.max\"]",
        "unified",
    ),
    (
        "the cgroup of the runtime itself",
        |s| s["linux"]["cgroupsPath"] = json!("/"),
        "linux.cgroupsPath",
        "linux.cgroupsPath",
    ),
    (
        "a sysctl that is the host's",
        |s| s["linux"]["sysctl"] = json!({ "vm.overcommit_memory": "1" }),
        "linux.sysctl[\"vm.overcommit_memory\"]",
        "vm.overcommit_memory",
    ),
    (
        "a sysctl that is not there",
        |s| s["linux"]["sysctl"] = json!({ "fs.mqueue.spirit": "1" }),
        "linux.sysctl[\"fs.mqueue.spirit\"]",
        "fs.mqueue.spirit",
    ),
    (
        "a sysctl value that is no number",
        |s| s["linux"]["sysctl"] = json!({ "kernel.shmmni": "many" }),
        "linux.sysctl[\"kernel.shmmni\"]",
        "kernel.shmmni",
    ),
    (
        "a limit of files above the host's",
        |s| {
            s["process"]["rlimits"] =
                json!([{ "type": "RLIMIT_NOFILE", "soft": 1, "hard": 1u64 << 40 }])
        },
        "process.rlimits[0]",
        "RLIMIT_NOFILE",
    ),
    (
        "a user that is not mapped",
        |s| {
            user_namespace(s);
            s["process"]["user"]["uid"] = json!(70_000);
        },
        "process.user.uid",
        "70000",
    ),
    (
        "a device that the host does not have, in a user namespace",
        |s| {
            user_namespace(s);
            let device = json!({ "path": "/dev/none", "type": "c", "major": 1, "minor": 3 });
            s["linux"]["devices"] = json!([device]);
        },
        "linux.devices[0]",
        "/dev/none",
    ),
    (
        "a seccomp default that cannot be",
        |s| s["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_NOTIFY" }),
        "linux.seccomp.defaultAction",
        "SCMP_ACT_NOTIFY",
    ),
    (
        "intelRdt",
        |s| s["linux"]["intelRdt"] = json!({ "closID": "x" }),
        "linux.intelRdt",
        "linux.intelRdt",
    ),
    ("an unknown namespace", |s| namespace(s, "spirit"), "linux.namespaces[4].type", "spirit"),
];

/// A change to an ordinary user's configuration; of one that fails the field, and a word of the error.
type Ordinary = (fn(&mut Value), &'static str, &'static str);

/// A configuration that runs, and more of its bundle.
type Fine = (&'static str, fn(&mut Value), fn(&Bundle) -> Res);

const FINE: [Fine; 24] = [
    ("the smallest configuration", |_| {}, nothing),
    ("a program in PATH", |s| s["process"]["args"][0] = json!("probe"), nothing),
    ("a cwd to be made", |s| s["process"]["cwd"] = json!("/data/new/deep"), nothing),
    ("a read-only root", |s| s["root"]["readonly"] = json!(true), nothing),
    ("a new user namespace", user_namespace, nothing),
    (
        "a program that another user owns",
        |s| s["process"]["user"] = json!({ "uid": 7, "gid": 7 }),
        nothing,
    ),
    (
        "a program behind links inside the root",
        |s| s["process"]["args"][0] = json!("/data/probe-a"),
        |bundle| {
            symlink("/data/b", bundle.inside("/data/probe-a"))?;
            Ok(symlink("../../../bin/probe", bundle.inside("/data/b"))?)
        },
    ),
    (
        "a program through a bind mount",
        |s| {
            let bin = format!("{}/bin", s["root"]["path"].as_str().unwrap_or_default());
            mount(s, "/data/deep/bin", "bind", &bin, &["bind", "ro"]);
            s["process"]["args"][0] = json!("/data/deep/bin/probe");
        },
        nothing,
    ),
    (
        "a bind mount inside a tmpfs",
        |s| {
            mount(s, "/data", "tmpfs", "tmpfs", &["size=1m"]);
            mount(s, "/data/x/y", "bind", "/etc", &["rbind", "ro"]);
        },
        nothing,
    ),
    (
        "a file that is to be made",
        |s| mount(s, "/data/f", "bind", "/etc/passwd", &["bind"]),
        nothing,
    ),
    ("a root without /proc mounted", |s| s["mounts"] = json!([]), nothing),
    ("a tmpfs that copies up", |s| mount(s, "/etc", "tmpfs", "tmpfs", &["tmpcopyup"]), nothing),
    (
        "mqueue and sysfs",
        |s| {
            namespace(s, "network");
            mount(s, "/sys", "sysfs", "sysfs", &["ro"]);
            mount(s, "/dev/mqueue", "mqueue", "mqueue", &[]);
        },
        nothing,
    ),
    (
        "a view of cgroups",
        |s| {
            namespace(s, "cgroup");
            mount(s, "/sys/fs/cgroup", "cgroup", "cgroup", &["ro"]);
        },
        nothing,
    ),
    (
        "limits",
        |s| {
            s["linux"]["resources"] = json!({
                "cpu": { "shares": 100, "quota": 50_000, "period": 100_000, "cpus": "0" },
                "memory": { "limit": 100_000_000 }, "pids": { "limit": 50 },
                "devices": [{ "allow": false, "access": "rwm" }],
            });
        },
        nothing,
    ),
    (
        "hooks",
        |s| {
            let hook = json!([{ "path": "/bin/true" }]);
            s["hooks"] = json!({ "prestart": hook, "createRuntime": hook, "createContainer": hook,
            "poststart": hook, "poststop": hook,
            "startContainer": [{ "path": "/bin/probe", "args": ["probe", "exit 0"] }] });
        },
        nothing,
    ),
    (
        "a missing poststop hook",
        |s| s["hooks"] = json!({ "poststop": [{ "path": "/no/hook" }] }),
        nothing,
    ),
    (
        "sysctls",
        |s| {
            namespace(s, "network");
            s["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": "1", "kernel.shmmni": "0x1000" });
        },
        nothing,
    ),
    (
        "lower limits",
        |s| {
            s["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 64, "hard": 64 }]);
        },
        nothing,
    ),
    (
        "namespaces joined",
        |s| {
            for kind in ["ipc", "uts"] {
                without_namespace(s, kind);
                let path = format!("/proc/self/ns/{kind}");
                push(&mut s["linux"]["namespaces"], json!({ "type": kind, "path": path }));
            }
        },
        nothing,
    ),
    (
        "no mount namespace",
        |s| {
            without_namespace(s, "mount");
            s["mounts"] = json!([]);
        },
        nothing,
    ),
    (
        "no capabilities, another user",
        |s| {
            capabilities(s, &[], &[]);
            s["process"]["user"] = json!({ "uid": 1000, "gid": 1000, "additionalGids": [5] });
        },
        nothing,
    ),
    (
        "a seccomp profile",
        |s| {
            s["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            { "names": ["mount"], "action": "SCMP_ACT_ERRNO" }] });
        },
        nothing,
    ),
    (
        "devices in a user namespace",
        |s| {
            user_namespace(s);
            s["linux"]["devices"] =
                json!([{ "path": "/dev/null", "type": "c", "major": 1, "minor": 3 }]);
        },
        nothing,
    ),
];

fn nothing(_: &Bundle) -> Res {
    Ok(())
}

/// Tests of this chapter.
pub fn tests() -> Vec<Test> {
    let failing = FAILING.into_iter().map(|(name, edit, field, word)| {
        test(SECTION, ROWS, format!("{name}: check lists it, and run fails with it"), move |lab| {
            only_bulkhead(lab)?;
            let bundle = bundle(lab, edit)?;
            let document = fails(lab, &bundle)?;
            let first = &document["failures"][0];
            eq("field", &first["field"].as_str().unwrap_or_default(), &field)?;
            has("check", first["error"].as_str().unwrap_or_default(), word)?;
            let output = lab.run(&bundle)?;
            ensure(output.code != Some(0), "run succeeded")?;
            has("run", &output.err, word)
        })
    });
    let fine = FINE.into_iter().map(|(name, edit, more)| {
        test(SECTION, ROWS, format!("{name}: check finds nothing, and run works"), move |lab| {
            only_bulkhead(lab)?;
            let bundle = bundle(lab, edit)?;
            more(&bundle)?;
            let (output, document) = check(lab, &bundle)?;
            if output.code != Some(0) || document["starts"] != true {
                return fail(format!("check ended with {}", output.brief()));
            }
            let output = lab.run(&bundle)?;
            ensure(output.code == Some(0), format!("run ended with {}", output.brief()))
        })
    });
    failing.chain(fine).chain(others()).collect()
}

fn others() -> Vec<Test> {
    vec![
        test(SECTION, ROWS, "everything that fails is listed, in the order of create", |lab| {
            only_bulkhead(lab)?;
            let bundle = bundle(lab, |s| {
                s["process"]["cwd"] = json!("relative");
                s["process"]["env"] = json!(["NOVALUE", "A=1", "=x"]);
                s["hostname"] = json!("h".repeat(65));
                mount(s, "/data/a", "bind", "/no/such/a", &["bind"]);
                mount(s, "/data/b", "nosuchfs", "x", &[]);
                mount(s, "/proc/x", "tmpfs", "tmpfs", &[]);
                mount(s, "/data/c", "bind", "/no/such/c", &["bind"]);
                s["hooks"] = json!({ "prestart": [{ "path": "/no/1" }], "poststart": [{ "path": "/no/2" }] });
                s["process"]["args"][0] = json!("/bin/none");
                s["linux"]["sysctl"] = json!({ "vm.swappiness": "1", "kernel.shmmni": "x" });
            })?;
            let document = fails(lab, &bundle)?;
            let list = document["failures"].as_array().into_iter().flatten();
            let fields: Vec<&str> = list.filter_map(|failure| failure["field"].as_str()).collect();
            let wanted = vec![
                "process.cwd",
                "process.env[0]",
                "process.env[2]",
                "hostname",
                "linux.sysctl[\"vm.swappiness\"]",
                "mounts[5].destination",
                "mounts[3]",
                "mounts[4]",
                "mounts[6]",
                "linux.sysctl[\"kernel.shmmni\"]",
                "hooks.prestart[0]",
                "process.args[0]",
                "hooks.poststart[0]",
            ];
            eq("fields", &fields, &wanted)
        }),
        test(
            SECTION,
            ROWS,
            "a configuration that is no JSON, or missing, is a failure of its own",
            |lab| {
                only_bulkhead(lab)?;
                let bundle = lab.bundle(&["report"], |_| {})?;
                bundle.write_config("{")?;
                let document = fails(lab, &bundle)?;
                has("error", &document["failures"][0]["error"].to_string(), "config.json")?;
                fs::remove_file(bundle.dir.join("config.json"))?;
                let document = fails(lab, &bundle)?;
                has("error", &document["failures"][0]["error"].to_string(), "ENOENT")?;
                let output = lab.call(&["check", "/no/such/bundle"]).output()?;
                eq("exit code", &output.code, &Some(1))?;
                has("error", &output.err, "/no/such/bundle")
            },
        ),
        test(SECTION, ROWS, "a cgroup that holds processes is a failure", |lab| {
            only_bulkhead(lab)?;
            let container = lab.running(|_| {})?;
            let cgroup = container.cgroup.clone();
            let bundle = bundle(lab, move |s| s["linux"]["cgroupsPath"] = json!(cgroup))?;
            let (_, document) = check(lab, &bundle)?;
            eq("field", &document["failures"][0]["field"], &json!("linux.cgroupsPath"))?;
            has("reason", &document["failures"][0]["error"].to_string(), "holds")?;
            let output = lab.run(&bundle)?;
            has("run", &output.err, "holds")?;
            container.end()
        }),
        test(SECTION, ROWS, "a state root that is a file is a failure", |lab| {
            only_bulkhead(lab)?;
            fs::write(&lab.state, "")?;
            let bundle = bundle(lab, |_| {})?;
            let document = fails(lab, &bundle)?;
            has("reason", &document["failures"][0]["error"].to_string(), "ENOTDIR")?;
            let output = lab.run(&bundle)?;
            has("run", &output.err, "ENOTDIR")
        }),
        test(SECTION, ROWS, "an ordinary user: what its power does not reach is listed", |lab| {
            only_bulkhead(lab)?;
            let user = 12_345;
            let own = json!([{ "containerID": 0, "hostID": user, "size": 1 }]);
            let rootless = |edit: fn(&mut Value)| {
                let own = own.clone();
                let bundle = bundle(lab, move |s| {
                    namespace(s, "user");
                    s["linux"]["uidMappings"] = own.clone();
                    s["linux"]["gidMappings"] = own;
                    s["linux"].as_object_mut().map(|linux| linux.remove("cgroupsPath"));
                    edit(s);
                })?;
                bundle.chown(user, user)?;
                fs::create_dir_all(&lab.state)?;
                std::os::unix::fs::chown(&lab.state, Some(user), Some(user))?;
                Ok::<_, crate::check::Stop>(bundle)
            };
            let call = |bundle: &Bundle, words: &[&str]| {
                let mut all = words.to_vec();
                all.push(if words[0] == "run" { &bundle.id } else { bundle.path() });
                lab.call(&all).user(user).output()
            };
            let cases: [Ordinary; 7] = [
                (|_| {}, "", ""),
                // `run` adds the namespace.
                (
                    |s| {
                        without_namespace(s, "user");
                        s["linux"]["uidMappings"] = json!([]);
                        s["linux"]["gidMappings"] = json!([]);
                    },
                    "",
                    "",
                ),
                (
                    |s| s["process"]["user"]["additionalGids"] = json!([0]),
                    "process.user.additionalGids",
                    "setgroups",
                ),
                (
                    |s| {
                        s["process"]["rlimits"] =
                            json!([{ "type": "RLIMIT_NOFILE", "soft": 1, "hard": 1u64 << 29 }])
                    },
                    "process.rlimits[0]",
                    "RLIMIT_NOFILE",
                ),
                (
                    |s| s["linux"]["resources"] = json!({ "pids": { "limit": 5 } }),
                    "linux.resources.pids.limit",
                    "pids.limit",
                ),
                (|s| without_namespace(s, "user"), "", ""),
                (|s| s["linux"]["uidMappings"][0]["size"] = json!(2), "linux.uidMappings", ""),
            ];
            for (index, (edit, field, word)) in cases.into_iter().enumerate() {
                let bundle = rootless(edit)?;
                let output = call(&bundle, &["check", "--format", "json"])?;
                let document: Value = serde_json::from_str(&output.out)
                    .or_else(|error| fail(format!("{error}: {}", output.brief())))?;
                let run = call(&bundle, &["run", "--bundle", bundle.path()])?;
                let fine = document["starts"] == true;
                ensure(
                    fine == (run.code == Some(0)),
                    format!("case {index}: check: {document}, run: {}", run.brief()),
                )?;
                ensure(fine == (index < 2), format!("case {index}: {document}"))?;
                if !fine && !field.is_empty() {
                    eq("field", &document["failures"][0]["field"], &json!(field))?;
                    has("run", &run.err, word)?;
                }
            }
            Ok(())
        }),
        test(
            SECTION,
            ROWS,
            "the table names each field, its result and the reason, on one line each",
            |lab| {
                only_bulkhead(lab)?;
                let bundle = bundle(lab, |s| {
                    mount(s, "/data", "bind", "/no/\u{1b}[2J", &["bind"]);
                    s["hooks"] = json!({ "poststop": [{ "path": "/no/hook" }] });
                })?;
                let output = lab.call(&["check", bundle.path()]).output()?;
                eq("exit code", &output.code, &Some(1))?;
                let lines: Vec<&str> = output.out.lines().collect();
                eq("lines", &lines.len(), &4)?;
                ensure(!output.out.contains('\u{1b}'), "an escape sequence came through")?;
                has("header", lines[0], "FIELD")?;
                ensure(lines[1].starts_with("mounts[3]"), lines[1])?;
                has("warning", lines[2], "/no/hook")?;
                has("verdict", lines[3], "no container would start")
            },
        ),
        test(
            SECTION,
            ROWS,
            "check without a bundle tells how each facility of the host stands",
            |lab| {
                only_bulkhead(lab)?;
                for user in [None, Some(12_345)] {
                    let call = lab.call(&["check", "--format", "json"]);
                    let output = match user {
                        None => call,
                        Some(uid) => call.user(uid),
                    }
                    .output()?;
                    let document: Value = serde_json::from_str(&output.out)
                        .or_else(|error| fail(format!("{error}: {}", output.brief())))?;
                    eq("exit code", &output.code, &Some(0))?;
                    eq("starts", &document["starts"], &json!(true))?;
                    let list = document["host"].as_array().cloned().unwrap_or_default();
                    let names: Vec<&str> = list.iter().filter_map(|f| f["name"].as_str()).collect();
                    for name in [
                        "kernel",
                        "cgroups",
                        "user namespaces",
                        "seccomp",
                        "AppArmor",
                        "KVM",
                        "CRIU",
                    ] {
                        ensure(names.contains(&name), format!("no {name}"))?;
                    }
                    for facility in &list {
                        let fine = facility["standing"] == "ok";
                        let silent = facility["advice"] == "";
                        ensure(fine == silent, format!("{facility}"))?;
                    }
                }
                let table = lab.call(&["check"]).output()?;
                has("header", table.out.lines().next().unwrap_or_default(), "FACILITY")?;
                let odd = lab.call(&["check", "--format", "yaml"]).output()?;
                eq("exit code", &odd.code, &Some(1))
            },
        ),
        #[cfg(target_arch = "x86_64")]
        test(SECTION, ROWS, "check of a bundle makes, mounts, forks and removes nothing", |lab| {
            only_bulkhead(lab)?;
            if !crate::ptrace::available()? {
                return skip("this machine does not let a process be traced");
            }
            let bundle = bundle(lab, |s| {
                user_namespace(s);
                mount(s, "/data/new", "tmpfs", "tmpfs", &["size=1m"]);
                s["process"]["cwd"] = json!("/data/cwd");
                s["hooks"] = json!({ "prestart": [{ "path": "/bin/true" }] });
                s["linux"]["resources"] = json!({ "pids": { "limit": 5 } });
            })?;
            let started = lab.call(&["check", bundle.path()]).traced().spawn()?;
            let pid = started.child.id() as i32;
            let trace = crate::ptrace::drive(pid, None, crate::lab::call::DEADLINE)?;
            const MAKING: [&str; 30] = [
                "mkdir",
                "mkdirat",
                "mknodat",
                "symlink",
                "symlinkat",
                "unlink",
                "unlinkat",
                "rmdir",
                "rename",
                "renameat",
                "renameat2",
                "mount",
                "umount2",
                "move_mount",
                "open_tree",
                "fsmount",
                "mount_setattr",
                "clone",
                "clone3",
                "fork",
                "vfork",
                "unshare",
                "setns",
                "pivot_root",
                "chroot",
                "kill",
                "chmod",
                "fchmod",
                "fchownat",
                "ftruncate",
            ];
            for site in &trace.sites {
                let name = super::syscalls::name(site.number);
                ensure(!MAKING.contains(&name.as_str()), format!("check calls {name}"))?;
            }
            ensure(!trace.sites.is_empty(), "nothing was traced")?;
            ensure(!lab.state.exists(), "the state root was made")?;
            ensure(!bundle.inside("/data/cwd").exists(), "the cwd was made")?;
            lab.nothing_left()
        }),
    ]
}

fn only_bulkhead(lab: &Lab) -> Res {
    if lab.kind == Kind::Bulkhead { Ok(()) } else { skip("this runtime has no such command") }
}

/// A bundle with an absolute root, and programs in /data that are none.
fn bundle(lab: &Lab, edit: impl FnOnce(&mut Value)) -> Res<Bundle> {
    let mut bundle = lab.bundle(&["report"], |_| {})?;
    let root = bundle.inside("").display().to_string();
    bundle.spec["root"]["path"] = json!(root.trim_end_matches('/'));
    edit(&mut bundle.spec);
    bundle.save()?;
    let mut foreign = b"\x7fELF\x02\x01\x01".to_vec();
    foreign.resize(64, 0);
    (foreign[16], foreign[18]) = (2, 22);
    let files: [(&str, &[u8]); 4] = [
        ("text", b"some text\n"),
        ("empty", b""),
        ("foreign", &foreign),
        ("script", b"#!/no/such/interpreter\n"),
    ];
    for (name, bytes) in files {
        let path = bundle.inside("/data").join(name);
        fs::write(&path, bytes)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    // There outside, and not in the container.
    symlink("/usr/bin/env", bundle.inside("/data/out"))?;
    Ok(bundle)
}

fn check(lab: &Lab, bundle: &Bundle) -> Res<(Output, Value)> {
    let output = lab.call(&["check", "--format", "json", bundle.path()]).output()?;
    let document = serde_json::from_str(&output.out)
        .or_else(|error| fail(format!("check printed no JSON ({error}): {}", output.brief())))?;
    Ok((output, document))
}

/// What `check` prints of a bundle that fails.
fn fails(lab: &Lab, bundle: &Bundle) -> Res<Value> {
    let (output, document) = check(lab, bundle)?;
    if output.code != Some(1) || document["starts"] != false {
        return fail(format!("check finds nothing wrong: {}", output.brief()));
    }
    lab.nothing_left()?;
    Ok(document)
}
