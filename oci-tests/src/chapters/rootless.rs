//! An ordinary user without subordinate ids: one id is mapped, no cgroup can be written.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::check::{Res, Test, ensure, eq, fail, has, refused_with, same, skip, test};
use crate::lab::Lab;
use crate::lab::agent::Agent;
use crate::lab::bundle::{Bundle, mount, namespace, push, without_namespace};
use crate::lab::call::{Call, Output};
use crate::sys;

const SECTION: &str = "rootless#single-map";
/// The ordinary user.
const USER: u32 = 12_345;

/// Tests of this chapter.
pub fn tests() -> Vec<Test> {
    vec![
        test(
            SECTION,
            "F25",
            "a container of an ordinary user runs, as root of its own user namespace",
            |lab| {
                let seen = seen(lab, &["report"], |_| {})?["report"].take();
                same("uids", &seen["uids"], json!([0, 0, 0]))?;
                let map: Vec<&str> =
                    seen["uid_map"].as_str().unwrap_or_default().split_whitespace().collect();
                eq("uid_map", &map, &vec!["0", "12345", "1"])
            },
        ),
        test(SECTION, "F25", "files that its root makes belong to the user", |lab| {
            let bundle = bundle(lab, &["write /data/x 1"], |_| {})?;
            run(lab, &bundle)?;
            let owner =
                std::os::unix::fs::MetadataExt::uid(&fs::metadata(bundle.inside("/data/x"))?);
            eq("owner", &owner, &USER)
        }),
        test(SECTION, "F25", "the default devices work, by bind mounts", |lab| {
            let seen = seen(lab, &["write /dev/null x", "open-r /dev/urandom"], |_| {})?;
            same("/dev/null", &seen["write /dev/null x"], json!("ok"))?;
            same("/dev/urandom", &seen["open-r /dev/urandom"], json!("ok"))
        }),
        test(
            SECTION,
            "F180",
            "limits that nobody asked for do not fail for want of cgroup rights",
            |lab| seen(lab, &["report"], |_| {}).map(drop),
        ),
        test(SECTION, "F25", "create, start, state, kill and delete work", |lab| {
            let bundle = bundle(lab, &["exit 0"], |_| {})?;
            for words in [
                vec!["create", "--bundle", bundle.path(), &bundle.id],
                vec!["state", &bundle.id],
                vec!["start", &bundle.id],
                vec!["delete", "--force", &bundle.id],
            ] {
                let output = call(lab, &words)?;
                excuse(&output)?;
                ensure(output.code == Some(0), format!("{}: {}", words[0], output.brief()))?;
            }
            Ok(())
        }),
        test(SECTION, "F25 F186", "exec enters the user's container, and nothing is said", |lab| {
            let bundle = bundle(lab, &["pause"], |_| {})?;
            let exec = ["exec", &bundle.id, "/bin/probe", "report"];
            for words in [
                &["run", "--detach", "--bundle", bundle.path(), &bundle.id][..],
                &exec,
                &["delete", "--force", &bundle.id],
            ] {
                let output = call(lab, words)?;
                excuse(&output)?;
                eq(words[0], &(output.code, output.err.as_str()), &(Some(0), ""))?;
                if words[0] == "exec" {
                    let seen: Value = serde_json::from_str(&output.out).unwrap_or_default();
                    same("uids", &seen["report"]["uids"], json!([0, 0, 0]))?;
                    ensure(seen["report"]["pid"] != json!(1), "exec is pid 1")?;
                }
            }
            Ok(())
        }),
        test(SECTION, "F13 F25", "oomScoreAdj is set where the kernel lets the user", |lab| {
            let bundle =
                bundle(lab, &["pause"], |spec| spec["process"]["oomScoreAdj"] = json!(333))?;
            let output = call(lab, &["run", "--detach", "--bundle", bundle.path(), &bundle.id])?;
            excuse(&output)?;
            eq("run", &output.code, &Some(0))?;
            lab.quality(output.err.is_empty(), format!("run said {}", output.err))?;
            let output = call(lab, &["state", &bundle.id])?;
            let state: Value = serde_json::from_str(&output.out).unwrap_or_default();
            let score = fs::read_to_string(format!("/proc/{}/oom_score_adj", state["pid"]))?;
            eq("of init", &score.as_str(), &"333\n")?;
            let document = lab.dir.join("process.json");
            let inherited = fs::read_to_string("/proc/self/oom_score_adj")?;
            for (asked, saw, said) in [(444, "444", false), (-500, inherited.trim(), true)] {
                let process = json!({
                    "cwd": "/", "args": ["/bin/probe", "report"], "env": ["PATH=/bin"],
                    "user": { "uid": 0, "gid": 0 }, "oomScoreAdj": asked,
                });
                fs::write(&document, process.to_string())?;
                let file = document.display().to_string();
                let output = call(lab, &["exec", "--process", &file, &bundle.id])?;
                let seen: Value = serde_json::from_str(&output.out).unwrap_or_default();
                same("of exec", &seen["report"]["oom_score_adj"], json!(saw))?;
                let warned = output.err.contains("oomScoreAdj");
                lab.quality(warned == said, format!("{asked}: exec said {:?}", output.err))?;
            }
            let output = call(lab, &["delete", "--force", &bundle.id])?;
            eq("delete", &output.code, &Some(0))
        }),
        test(
            SECTION,
            "F21 F25",
            "a container joins the user and pid namespaces of another one",
            |lab| {
                let other = bundle(lab, &["pause"], |_| {})?;
                let words = ["run", "--detach", "--bundle", other.path(), &other.id];
                let output = call(lab, &words)?;
                excuse(&output)?;
                eq("run", &output.code, &Some(0))?;
                let state: Value = serde_json::from_str(&call(lab, &["state", &other.id])?.out)
                    .unwrap_or_default();
                let seen = seen(lab, &["report", "status-of 1"], |spec| {
                    for kind in ["user", "pid"] {
                        without_namespace(spec, kind);
                        let path = format!("/proc/{}/ns/{kind}", state["pid"]);
                        push(
                            &mut spec["linux"]["namespaces"],
                            json!({ "type": kind, "path": path }),
                        );
                    }
                    spec["linux"]["uidMappings"] = json!([]);
                    spec["linux"]["gidMappings"] = json!([]);
                })?;
                same("the name of pid 1", &seen["status-of 1"]["Name"], json!("probe"))?;
                ensure(seen["report"]["pid"] != json!(1), "the pid is 1")?;
                same("uids", &seen["report"]["uids"], json!([0, 0, 0]))?;
                let output = call(lab, &["delete", "--force", &other.id])?;
                eq("delete", &output.code, &Some(0))
            },
        ),
        test(SECTION, "F85 F180", "a cgroup mount shows the creator's cgroup read-only", |lab| {
            let seen = seen(lab, &["list /sys/fs/cgroup", "create /sys/fs/cgroup/x"], |spec| {
                mount(spec, "/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "ro"])
            })?;
            ensure(seen["list /sys/fs/cgroup"].as_array().is_some_and(|l| !l.is_empty()), "empty")?;
            let refusals = ["EROFS", "EACCES", "EPERM"];
            refused_with("create", &seen["create /sys/fs/cgroup/x"], &refusals)
        }),
        test(
            SECTION,
            "F178",
            "a configuration without user namespace gets one with the user's ids",
            |lab| {
                let plain = |spec: &mut Value| {
                    without_namespace(spec, "user");
                    spec["linux"]["uidMappings"] = json!([]);
                    spec["linux"]["gidMappings"] = json!([]);
                };
                if lab.kind != crate::lab::Kind::Bulkhead && lab.kind != crate::lab::Kind::Crun {
                    return skip("this runtime wants the maps in the configuration");
                }
                let seen = seen(lab, &["report"], plain)?["report"].take();
                same("uids", &seen["uids"], json!([0, 0, 0]))?;
                let map: Vec<&str> =
                    seen["uid_map"].as_str().unwrap_or_default().split_whitespace().collect();
                eq("uid_map", &map, &vec!["0", "12345", "1"])
            },
        ),
        test(
            SECTION,
            "F180",
            "told that it is not rootless, the runtime says what it may not do",
            |lab| {
                let bundle = bundle(lab, &["report"], |_| {})?;
                let words = ["run", "--bundle", bundle.path(), &bundle.id];
                let output = command(lab, &words).global(&["--rootless=false"]).output()?;
                ensure(output.code != Some(0), "a user made a cgroup")?;
                has("words", &output.err, "cgroup")
            },
        ),
        test(SECTION, "F181", "run.oci.keep_original_groups keeps the caller's groups", |lab| {
            if lab.kind != crate::lab::Kind::Bulkhead && lab.kind != crate::lab::Kind::Crun {
                return skip("this runtime knows no run.oci.keep_original_groups");
            }
            // Of root, who could change them: a single map leaves them be in any case.
            for (value, kept) in [("1", true), ("0", false)] {
                let bundle = lab.bundle(&["report"], |spec| {
                    spec["annotations"] = json!({ "run.oci.keep_original_groups": value });
                })?;
                let words = ["run", "--bundle", bundle.path(), &bundle.id];
                let output = lab.call(&words).shell("setpriv --groups 777 \"$@\"").output()?;
                eq("run", &output.code, &Some(0))?;
                let seen: Value = serde_json::from_str(&output.out).unwrap_or_default();
                let groups = if kept { json!([777]) } else { json!([]) };
                same(value, &seen["report"]["groups"], groups)?;
            }
            let both = |spec: &mut Value| {
                spec["annotations"] = json!({ "run.oci.keep_original_groups": "1" });
                spec["process"]["user"]["additionalGids"] = json!([5]);
            };
            if lab.kind == crate::lab::Kind::Bulkhead {
                has("words", &lab.refused(both)?.err, "process.user.additionalGids")?;
            }
            Ok(())
        }),
        test(SECTION, "F182", "a user's container runs inside a container", |lab| {
            if lab.kind != crate::lab::Kind::Bulkhead {
                return skip("this runtime's libraries are not in the outer container");
            }
            let masked = |spec: &mut Value| {
                spec["linux"]["readonlyPaths"] = json!(["/proc/sys"]);
                spec["linux"]["maskedPaths"] = json!(["/proc/kcore"]);
            };
            let bound = |spec: &mut Value| {
                without_namespace(spec, "pid");
                spec["mounts"][0] = json!({ "destination": "/proc", "type": "bind",
                    "source": "/proc", "options": ["rbind"] });
            };
            for inner in [nested(lab, |_| {}, |_| {})?, nested(lab, masked, bound)?] {
                same("code of the inner run", &inner["code"], json!(0))?;
                let printed = inner["stdout"].as_str().unwrap_or_default();
                let seen: Value = serde_json::from_str(printed).unwrap_or_default();
                same("uids", &seen["report"]["uids"], json!([0, 0, 0]))?;
            }
            // The kernel shows no more of /proc than the outer container does.
            let inner = nested(lab, masked, |_| {})?;
            same("code with another procfs", &inner["code"], json!(1))
        }),
        test(SECTION, "F25", "a mapping of ids that the user does not own is an error", |lab| {
            let bundle = bundle(lab, &["report"], |spec| {
                spec["linux"]["uidMappings"] =
                    json!([{ "containerID": 0, "hostID": 0, "size": 1 }]);
            })?;
            let output = call(lab, &["run", "--bundle", bundle.path(), &bundle.id])?;
            ensure(output.code != Some(0), "a user mapped root")
        }),
        test(
            SECTION,
            "F25",
            "additional groups, which a single map cannot have, are an error or dropped, never the caller's",
            |lab| {
                let bundle = bundle(lab, &["report"], |spec| {
                    spec["process"]["user"]["additionalGids"] = json!([5])
                })?;
                let output = call(lab, &["run", "--bundle", bundle.path(), &bundle.id])?;
                if output.code == Some(0) {
                    let seen: Value = serde_json::from_str(&output.out).unwrap_or_default();
                    ensure(
                        !seen["report"]["groups"].to_string().contains('5'),
                        "the group is there",
                    )?;
                }
                Ok(())
            },
        ),
        test(
            SECTION,
            "F81",
            "a bind mount of what the user may read works, read-only is kept",
            |lab| {
                let seen = seen(lab, &["write /data/x 1", "list /data"], |spec| {
                    mount(spec, "/data", "bind", "/usr/share", &["rbind", "ro"])
                })?;
                refused_with("write", &seen["write /data/x 1"], &["EROFS", "EACCES"])
            },
        ),
        test(
            SECTION,
            "F25",
            "a default device that the configuration mounts itself stays",
            |lab| {
                let seen = seen(lab, &["write /dev/null x"], |spec| {
                    mount(spec, "/dev/null", "bind", "/dev/null", &["bind"])
                })?;
                same("/dev/null", &seen["write /dev/null x"], json!("ok"))
            },
        ),
        test(SECTION, "F25", "hostname, masked and read-only paths work", |lab| {
            let seen = seen(lab, &["report", "read /proc/version"], |spec| {
                spec["hostname"] = json!("rootless");
                spec["linux"]["maskedPaths"] = json!(["/proc/version"]);
                spec["linux"]["readonlyPaths"] = json!(["/proc/sys"]);
            })?;
            same("hostname", &seen["report"]["hostname"], json!("rootless"))?;
            same("masked", &seen["read /proc/version"], json!(""))
        }),
        test(SECTION, "F25", "a seccomp filter works", |lab| {
            let seen = seen(lab, &["syscall 140 0 0"], |spec| {
                spec["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [{ "names": ["getpriority"], "action": "SCMP_ACT_ERRNO" }] });
            })?;
            refused_with("getpriority", &seen["syscall 140 0 0"], &["EPERM"])
        }),
        test(SECTION, "F25 F56", "the agent of a filter that notifies gets its listener", |lab| {
            let agent = Agent::listen(&lab.dir.join("listener"))?;
            fs::set_permissions(agent.path(), fs::Permissions::from_mode(0o777))?;
            let bundle = bundle(lab, &["syscall 140 0 0"], |spec| {
                spec["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW",
                    "listenerPath": agent.path(),
                    "syscalls": [{ "names": ["getpriority"], "action": "SCMP_ACT_NOTIFY" }] });
            })?;
            let started = command(lab, &["run", "--bundle", bundle.path(), &bundle.id]).spawn()?;
            let delivery = agent.receive()?;
            let listener = delivery.fds[0].as_fd();
            let request = sys::seccomp_receive(listener)?;
            sys::seccomp_answer(listener, request.id, Some(Ok(77)))?;
            let output = started.wait()?;
            eq("run", &output.code, &Some(0))?;
            let seen: Value = serde_json::from_str(&output.out).unwrap_or_default();
            same("answer", &seen["syscall 140 0 0"]["value"], json!(77))
        }),
        test(SECTION, "F28", "the host's network devices are not the user's to move", |lab| {
            let bundle = bundle(lab, &["report"], |spec| {
                namespace(spec, "network");
                spec["linux"]["netDevices"] = json!({ "lo": { "name": "lo1" } });
            })?;
            let output = call(lab, &["create", "--bundle", bundle.path(), &bundle.id])?;
            ensure(output.code != Some(0), "create succeeded")?;
            lab.quality(output.err.contains("linux.netDevices"), output.brief())?;
            lab.nothing_left()
        }),
    ]
}

/// Runs a container in a container: as an ordinary user without capabilities, whose /proc is what `edit`
/// makes of it. What the inner call of the runtime came to.
fn nested(lab: &Lab, outer: impl FnOnce(&mut Value), inner: impl FnOnce(&mut Value)) -> Res<Value> {
    let step = "run /bin/runtime --root /tmp/state run --bundle /data/inner inner";
    let inner = bundle(lab, &["report"], inner)?;
    let bundle = lab.bundle(&[step], |spec| {
        spec["process"]["user"] = json!({ "uid": USER, "gid": USER });
        spec["process"]["capabilities"] = json!({});
        mount(spec, "/data/inner", "bind", inner.path(), &["rbind", "nodev", "nosuid"]);
        outer(spec);
    })?;
    fs::create_dir(bundle.inside("/data/inner"))?;
    fs::copy(&lab.runtime, bundle.inside("/bin/runtime"))?;
    Ok(lab.seen(&bundle)?[step].take())
}

/// A bundle of the user, with a user namespace that maps the user alone and no cgroup path.
fn bundle(lab: &Lab, steps: &[&str], edit: impl FnOnce(&mut Value)) -> Res<Bundle> {
    let bundle = lab.bundle(steps, |spec| {
        namespace(spec, "user");
        spec["linux"]["uidMappings"] = json!([{ "containerID": 0, "hostID": USER, "size": 1 }]);
        spec["linux"]["gidMappings"] = json!([{ "containerID": 0, "hostID": USER, "size": 1 }]);
        if let Some(linux) = spec["linux"].as_object_mut() {
            linux.remove("cgroupsPath");
        }
        edit(spec);
    })?;
    bundle.chown(USER, USER)?;
    fs::create_dir_all(&lab.state)?;
    fs::create_dir_all(lab.dir.join("run"))?;
    for path in [lab.state.clone(), lab.dir.join("run")] {
        std::os::unix::fs::chown(&path, Some(USER), Some(USER))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
    }
    Ok(bundle)
}

fn command<'l>(lab: &'l Lab, words: &[&str]) -> Call<'l> {
    let run = lab.dir.join("run").display().to_string();
    lab.call(words).user(USER).env("XDG_RUNTIME_DIR", &run).env("HOME", &run)
}

fn call(lab: &Lab, words: &[&str]) -> Res<Output> {
    command(lab, words).output()
}

/// Skips by name what a runtime cannot do without a session of systemd or without any cgroup.
fn excuse(output: &Output) -> Res {
    if output.code != Some(0)
        && ["sd-bus", "rootless needs", "cgroup"].iter().any(|word| output.err.contains(word))
    {
        return skip(format!(
            "this runtime needs cgroup rights for an ordinary user: {}",
            output.brief()
        ));
    }
    Ok(())
}

fn run(lab: &Lab, bundle: &Bundle) -> Res<Output> {
    let output = call(lab, &["run", "--bundle", bundle.path(), &bundle.id])?;
    if lab.kind != crate::lab::Kind::Bulkhead {
        excuse(&output)?;
    }
    if output.code == Some(0) {
        Ok(output)
    } else {
        fail(format!("run ended with {}", output.brief()))
    }
}

fn seen(lab: &Lab, steps: &[&str], edit: impl FnOnce(&mut Value)) -> Res<Value> {
    let output = run(lab, &bundle(lab, steps, edit)?)?;
    serde_json::from_str(&output.out)
        .or_else(|error| fail(format!("the probe printed no JSON: {error}")))
}
