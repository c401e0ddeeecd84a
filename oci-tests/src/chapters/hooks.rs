//! config.md, hooks: when and where each kind runs, and what its failure does.

use std::fs;

use serde_json::{Value, json};

use crate::check::{Res, Test, ensure, eq, fail, has, same, test};
use crate::lab::Lab;
use crate::lab::bundle::{Bundle, mount, push};

const SECTION: &str = "config#posix-platform-hooks";
/// Hooks that run in the runtime's namespaces.
const OUTSIDE: [&str; 4] = ["prestart", "createRuntime", "poststart", "poststop"];
/// Hooks that run in the container's namespaces.
const INSIDE: [&str; 2] = ["createContainer", "startContainer"];
/// All, in the order of the life cycle.
const ALL: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// Tests of this chapter.
pub fn tests() -> Vec<Test> {
    let mut tests = Vec::new();
    for kind in ALL {
        tests.push(test(
            SECTION,
            "F15 F16 F164",
            format!("{kind}: gets the container's state on stdin"),
            move |lab| state(lab, kind),
        ));
        tests.push(test(
            SECTION,
            "F15 F16",
            format!("{kind}: args and env are as given, the env is not merged"),
            move |lab| arguments(lab, kind),
        ));
        tests.push(test(
            SECTION,
            "F15 F16",
            format!("{kind}: several run in the listed order"),
            move |lab| sequence(lab, kind),
        ));
        tests.push(test(SECTION, "F15 F16", format!("{kind}: a timeout ends it"), move |lab| {
            timeout(lab, kind)
        }));
    }
    tests.extend(namespaces());
    tests.extend(failures());
    tests.extend(shapes());
    tests
}

/// A shell hook; `line` sees the bundle's directory as `$1`.
fn shell(dir: &str, line: &str) -> Value {
    json!({ "path": "/bin/sh", "args": ["sh", "-c", line, "hook", dir], "env": ["PATH=/usr/bin:/bin"] })
}

/// A bundle with one kind of hook that appends to `log`; the paths are made to exist in the
/// container for the kinds that are executed there.
fn bundle(lab: &Lab, kind: &str, line: &str) -> Res<Bundle> {
    let mut bundle = lab.bundle(&["exit 0"], |_| {})?;
    let dir = bundle.path().to_owned();
    if kind == "startContainer" {
        // Executed after pivot_root: the program and the log are inside.
        fs::copy("/bin/busybox", bundle.inside("/bin/sh"))?;
        bundle.spec["hooks"] = json!({ kind: [shell("/log", line)] });
        fs::create_dir(bundle.inside("/log"))?;
    } else {
        bundle.spec["hooks"] = json!({ kind: [shell(&dir, line)] });
    }
    bundle.save()?;
    Ok(bundle)
}

fn log_of(bundle: &Bundle, kind: &str) -> String {
    let path =
        if kind == "startContainer" { bundle.inside("/log/log") } else { bundle.dir.join("log") };
    fs::read_to_string(path).unwrap_or_default()
}

/// create, start, wait, delete: all hooks have run after that.
fn whole_life(lab: &Lab, bundle: &Bundle) -> Res {
    let container = lab.create_from(bundle)?;
    container.start()?;
    container.wait()?;
    container.delete()
}

fn state(lab: &Lab, kind: &'static str) -> Res {
    let mut bundle = bundle(lab, kind, "cat > $1/log")?;
    bundle.spec["annotations"] = json!({ "org.example": "value" });
    bundle.save()?;
    whole_life(lab, &bundle)?;
    let text = log_of(&bundle, kind);
    let Ok(state) = serde_json::from_str::<Value>(&text) else {
        return fail(format!("stdin was {text:?}"));
    };
    same("id", &state["id"], json!(bundle.id))?;
    same("bundle", &state["bundle"], json!(bundle.path()))?;
    same("annotations", &state["annotations"], json!({ "org.example": "value" }))?;
    ensure(state["ociVersion"].is_string(), format!("no ociVersion in {text}"))?;
    let wanted: &[&str] = match kind {
        "poststop" => &["stopped"],
        "poststart" => &["running"],
        "startContainer" => &["created"],
        _ => &["creating", "created"],
    };
    let status = state["status"].as_str().unwrap_or_default();
    ensure(wanted.contains(&status), format!("status is {status:?}, not {wanted:?}"))?;
    // pid is REQUIRED for `created` and `running` only, and a createContainer hook runs while creating.
    if !["poststop", "createContainer"].contains(&kind) {
        ensure(
            state["pid"].as_i64().is_some_and(|pid| pid > 0),
            format!("pid is {}", state["pid"]),
        )?;
    }
    Ok(())
}

fn arguments(lab: &Lab, kind: &'static str) -> Res {
    let mut bundle = bundle(lab, kind, "")?;
    let hook = &mut bundle.spec["hooks"][kind][0];
    let place = hook["args"][4].clone();
    hook["args"] =
        json!(["sh", "-c", "echo \"$0|$1|$2\" > $3/log; env >> $3/log", "a b", "", "c", place]);
    hook["env"] = json!(["ONLY=this", "PATH=/usr/bin:/bin"]);
    bundle.save()?;
    let container = lab.create_from(&bundle)?;
    let start = lab.call(&["start", &bundle.id]).env("OF_THE_CALLER", "1").output()?;
    eq("start", &start.code, &Some(0))?;
    container.wait()?;
    let delete = lab.call(&["delete", &bundle.id]).env("OF_THE_CALLER", "1").output()?;
    eq("delete", &delete.code, &Some(0))?;
    let log = log_of(&bundle, kind);
    has("arguments", &log, "a b||c")?;
    has("environment", &log, "ONLY=this")?;
    ensure(!log.contains("OF_THE_CALLER"), format!("the caller's environment is there: {log}"))
}

fn sequence(lab: &Lab, kind: &'static str) -> Res {
    let mut bundle = bundle(lab, kind, "")?;
    let hook = bundle.spec["hooks"][kind][0].clone();
    let numbered = |n: u32| {
        let mut hook = hook.clone();
        hook["args"][2] = json!(format!("echo {n} >> $1/log"));
        hook
    };
    bundle.spec["hooks"][kind] = json!([numbered(1), numbered(2), numbered(3)]);
    bundle.save()?;
    whole_life(lab, &bundle)?;
    eq("order", &log_of(&bundle, kind), &"1\n2\n3\n".to_owned())
}

fn timeout(lab: &Lab, kind: &'static str) -> Res {
    let mut bundle = bundle(lab, kind, "echo started > $1/log; exec sleep 60")?;
    bundle.spec["hooks"][kind][0]["timeout"] = json!(1);
    if kind == "startContainer" {
        bundle.spec["hooks"][kind][0]["args"][2] =
            json!("echo started > $1/log; while :; do :; done");
    }
    bundle.save()?;
    let begun = std::time::Instant::now();
    let create = lab.call(&["create", "--bundle", bundle.path(), &bundle.id]).output()?;
    let start = lab.call(&["start", &bundle.id]).output()?;
    lab.call(&["delete", "--force", &bundle.id]).output()?;
    eq("log", &log_of(&bundle, kind), &"started\n".to_owned())?;
    ensure(begun.elapsed().as_secs() < 15, "the timeout of one second did not end the hook")?;
    // A hook that was ended is a hook that failed: the lifecycle says that create or start MUST then
    // generate an error. For startContainer both Go and C runtimes answer `start` before the hook runs.
    match kind {
        "prestart" | "createRuntime" | "createContainer" => {
            ensure(create.code != Some(0), "create succeeded")
        }
        "startContainer" => ensure(start.code != Some(0), "start succeeded"),
        _ => Ok(()),
    }
}

fn namespaces() -> Vec<Test> {
    let mut tests = Vec::new();
    for kind in OUTSIDE {
        tests.push(test(
            SECTION,
            "F16",
            format!("{kind}: runs in the runtime's namespaces"),
            move |lab| {
                let bundle =
                    bundle(lab, kind, "readlink /proc/self/ns/mnt /proc/self/ns/pid > $1/log")?;
                whole_life(lab, &bundle)?;
                let own = |name| {
                    fs::read_link(format!("/proc/self/ns/{name}"))
                        .map(|link| link.display().to_string())
                };
                eq(
                    "namespaces",
                    &log_of(&bundle, kind),
                    &format!("{}\n{}\n", own("mnt")?, own("pid")?),
                )
            },
        ));
    }
    for kind in INSIDE {
        tests.push(test(
            SECTION,
            "F16",
            format!("{kind}: runs in the container's namespaces"),
            move |lab| {
                let bundle = bundle(
                    lab,
                    kind,
                    "readlink /proc/self/ns/uts > $1/log; readlink /proc/self/ns/mnt >> $1/log",
                )?;
                let container = lab.create_from(&bundle)?;
                let theirs = |name| {
                    fs::read_link(format!("/proc/{}/ns/{name}", container.pid()))
                        .map(|l| l.display().to_string())
                };
                let wanted = format!("{}\n{}\n", theirs("uts")?, theirs("mnt")?);
                container.start()?;
                container.wait()?;
                container.delete()?;
                eq("namespaces", &log_of(&bundle, kind), &wanted)
            },
        ));
    }
    tests.push(test(
        SECTION,
        "F16",
        "createContainer: runs before pivot_root, its path is the runtime's",
        |lab| {
            let bundle = bundle(lab, "createContainer", "ls -d $1/rootfs > $1/log")?;
            whole_life(lab, &bundle)?;
            eq("log", &log_of(&bundle, "createContainer"), &format!("{}/rootfs\n", bundle.path()))
        },
    ));
    tests.push(test(
        SECTION,
        "F16",
        "createContainer: a mount made by it below the root is in the container",
        |lab| {
            let mut bundle = lab.bundle(&["list /data"], |_| {})?;
            let target = bundle.inside("/data").display().to_string();
            let line = format!("mount -t tmpfs none {target} && touch {target}/made");
            bundle.spec["hooks"] = json!({ "createContainer": [shell(bundle.path(), &line)] });
            bundle.save()?;
            same("/data", &lab.seen(&bundle)?["list /data"], json!(["made"]))
        },
    ));
    tests.push(test(SECTION, "F16", "the mounts of the configuration are there when createContainer runs", |lab| {
        let mut bundle = lab.bundle(&["exit 0"], |spec| mount(spec, "/data", "tmpfs", "of-config", &[]))?;
        bundle.spec["hooks"] = json!({ "createContainer": [shell(bundle.path(), "cat /proc/self/mountinfo > $1/log")] });
        bundle.save()?;
        whole_life(lab, &bundle)?;
        has("mount table", &log_of(&bundle, "createContainer"), "of-config")
    }));
    tests.push(test(
        "runtime#lifecycle",
        "F15 F16",
        "all kinds run in the order of the life cycle, each once",
        |lab| {
            let mut bundle = bundle(lab, "startContainer", "echo startContainer >> $1/log")?;
            let log = bundle.inside("/log").display().to_string();
            for kind in ["prestart", "createRuntime", "createContainer", "poststart", "poststop"] {
                bundle.spec["hooks"][kind] =
                    json!([shell(&log, &format!("echo {kind} >> $1/log"))]);
            }
            bundle.save()?;
            let container = lab.create_from(&bundle)?;
            eq(
                "after create",
                &log_of(&bundle, "startContainer"),
                &"prestart\ncreateRuntime\ncreateContainer\n".to_owned(),
            )?;
            container.start()?;
            container.wait()?;
            let started = log_of(&bundle, "startContainer");
            ensure(
                started.ends_with("startContainer\npoststart\n"),
                format!("after start: {started:?}"),
            )?;
            container.delete()?;
            eq(
                "after delete",
                &log_of(&bundle, "startContainer").replace('\n', " "),
                &(ALL.join(" ") + " "),
            )
        },
    ));
    tests
}

fn failures() -> Vec<Test> {
    let mut tests = Vec::new();
    for kind in ["prestart", "createRuntime", "createContainer"] {
        for (name, line) in [("exits with 3", "exit 3"), ("is killed", "kill -9 $$")] {
            tests.push(test(
                "runtime#lifecycle",
                "F15 F16",
                format!("{kind} that {name}: create fails, nothing is left"),
                move |lab| {
                    let bundle = bundle(lab, kind, line)?;
                    let output = lab.refused_from(&bundle)?;
                    lab.quality(
                        output.err.contains(kind) || output.err.contains("/bin/sh"),
                        format!("the error names neither kind nor path: {}", output.brief()),
                    )
                },
            ));
        }
    }
    tests.push(test(
        "runtime#lifecycle",
        "F16",
        "startContainer that fails: start fails and the program never ran",
        |lab| {
            let mut bundle = bundle(lab, "startContainer", "exit 3")?;
            bundle.spec["process"]["args"] = json!(["/bin/probe", "create /data/ran"]);
            bundle.save()?;
            // runtime.md, lifecycle step 8: "If any startContainer hook fails, the runtime MUST generate an
            // error, stop the container". A start that answers before the hook has run cannot keep that.
            let container = lab.create_from(&bundle)?;
            let output = container.call(&["start"])?;
            ensure(output.code != Some(0), "start succeeded")?;
            ensure(!bundle.inside("/data/ran").exists(), "the program ran")?;
            container.wait()?;
            container.expect("stopped")?;
            container.delete()
        },
    ));
    tests.push(test(
        "runtime#lifecycle",
        "F17",
        "poststart that fails: start fails and the container is stopped (1.3)",
        |lab| {
            let mut bundle = bundle(lab, "poststart", "exit 3")?;
            bundle.spec["process"]["args"] = json!(["/bin/probe", "die"]);
            bundle.save()?;
            let container = lab.create_from(&bundle)?;
            let output = container.call(&["start"])?;
            let alive = container.alive()?;
            // 1.2 and older wanted a warning only, 1.3 wants an error and a stopped container.
            let fact = output.code != Some(0) && !alive;
            lab.quality(
                fact,
                format!("start gave {:?}, the program is alive: {alive}", output.code),
            )
        },
    ));
    tests.push(test(
        "runtime#lifecycle",
        "F15",
        "poststop that fails: delete goes on, and the rest run",
        |lab| {
            let mut bundle = bundle(lab, "poststop", "exit 3")?;
            let again = shell(bundle.path(), "echo second > $1/log");
            push(&mut bundle.spec["hooks"]["poststop"], again);
            bundle.save()?;
            let container = lab.create_from(&bundle)?;
            container.start()?;
            container.wait()?;
            // runtime.md, lifecycle step 13: "If any poststop hook fails, the runtime MUST log a warning, but
            // the remaining hooks and lifecycle continue as if the hook had succeeded".
            container.call(&["delete"])?;
            lab.nothing_left()?;
            eq("log", &log_of(&bundle, "poststop"), &"second\n".to_owned())
        },
    ));
    tests.push(test(
        "runtime#lifecycle",
        "F15",
        "a hook that does not read its stdin and ends early is no failure",
        |lab| {
            let mut bundle = bundle(lab, "createRuntime", "exec 0<&-; exit 0")?;
            bundle.spec["annotations"] = json!({ "big": "x".repeat(200_000) });
            bundle.save()?;
            whole_life(lab, &bundle)
        },
    ));
    tests
}

fn shapes() -> Vec<Test> {
    vec![
        test(SECTION, "F15", "a hook whose path is not absolute is an error", |lab| {
            lab.refused(|spec| spec["hooks"] = json!({ "createRuntime": [{ "path": "true" }] }))
                .map(drop)
        }),
        test(SECTION, "F15", "a hook whose path does not exist is an error of create", |lab| {
            lab.refused(|spec| {
                spec["hooks"] = json!({ "createRuntime": [{ "path": "/no/such/hook" }] })
            })
            .map(drop)
        }),
        test(SECTION, "F15", "a timeout of 0 is an error", |lab| {
            let refused = lab.refused(|spec| {
                spec["hooks"] = json!({ "createRuntime": [{ "path": "/bin/true", "timeout": 0 }] })
            });
            lab.quality(refused.is_ok(), "a timeout that is not greater than zero is accepted")
        }),
        test(SECTION, "F15", "a hook without args gets its path as argv[0]", |lab| {
            let mut bundle = lab.bundle(&["exit 0"], |_| {})?;
            let script = bundle.dir.join("hook.sh");
            fs::write(
                &script,
                format!("#!/bin/sh\ntr '\\0' '|' < /proc/$$/cmdline > {}/log\n", bundle.path()),
            )?;
            fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
            bundle.spec["hooks"] =
                json!({ "createRuntime": [{ "path": script, "env": ["PATH=/usr/bin:/bin"] }] });
            bundle.save()?;
            whole_life(lab, &bundle)?;
            has("command line", &log_of(&bundle, "createRuntime"), "hook.sh")
        }),
        test(SECTION, "F15", "empty lists of hooks are legal", |lab| {
            let hooks: Value =
                Value::Object(ALL.iter().map(|kind| (kind.to_string(), json!([]))).collect());
            lab.report(move |spec| spec["hooks"] = hooks).map(drop)
        }),
        test(
            SECTION,
            "F16",
            "a createRuntime hook can enter the container's network namespace by the pid it gets",
            |lab| {
                let mut bundle =
                    lab.bundle(&["report"], |spec| crate::lab::bundle::namespace(spec, "network"))?;
                let line = "pid=$(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/' | tr -d '\\n'); readlink /proc/$pid/ns/net > $1/log";
                bundle.spec["hooks"] = json!({ "createRuntime": [shell(bundle.path(), line)] });
                bundle.save()?;
                let seen = lab.seen(&bundle)?;
                eq(
                    "network namespace",
                    &log_of(&bundle, "createRuntime").trim(),
                    &seen["report"]["ns"]["net"].as_str().unwrap_or_default(),
                )
            },
        ),
    ]
}
