//! Each step of create made to fail: an error, one line that says what, and nothing left.

use std::fs;

use serde_json::{Value, json};

use crate::check::{Test, ensure, test};
use crate::lab::Lab;
use crate::lab::bundle::{Bundle, mount, namespace, push, user_namespace};

const SECTION: &str = "runtime#errors";

/// What goes wrong, how, and words of which a good error has one, parted by `|`.
type Case = (&'static str, fn(&mut Value), &'static str);

/// Cases that only need another configuration.
const CASES: [Case; 34] = [
    ("a missing root", |s| s["root"]["path"] = json!("no-such-root"), "no-such-root"),
    (
        "a missing bind source",
        |s| mount(s, "/data", "bind", "/no/such/source", &["bind"]),
        "/no/such/source",
    ),
    (
        "a mount option that the kernel refuses",
        |s| mount(s, "/data", "tmpfs", "tmpfs", &["size=lots"]),
        "/data",
    ),
    ("an unknown file system", |s| mount(s, "/data", "nosuchfs", "x", &[]), "nosuchfs"),
    (
        "a device number that is out of range",
        |s| device(s, json!({ "path": "/dev/x", "type": "c", "major": -5, "minor": 3 })),
        "/dev/x|devices",
    ),
    (
        "the last of many mounts failing",
        |s| {
            for n in 0..20 {
                mount(s, &format!("/data/{n}"), "tmpfs", "tmpfs", &[]);
            }
            mount(s, "/data/last", "bind", "/no/such/source", &["bind"]);
        },
        "/no/such/source",
    ),
    (
        "a CPU that does not exist",
        |s| s["linux"]["resources"] = json!({ "cpu": { "cpus": "4000" } }),
        "cpus",
    ),
    (
        "a CPU quota that the kernel refuses",
        |s| s["linux"]["resources"] = json!({ "cpu": { "quota": 5 } }),
        "quota",
    ),
    (
        "a prestart hook that is missing",
        |s| s["hooks"] = json!({ "prestart": [{ "path": "/no/such/hook" }] }),
        "/no/such/hook",
    ),
    (
        "a createRuntime hook that is missing",
        |s| s["hooks"] = json!({ "createRuntime": [{ "path": "/no/such/hook" }] }),
        "/no/such/hook",
    ),
    (
        "a createContainer hook that is missing",
        |s| s["hooks"] = json!({ "createContainer": [{ "path": "/no/such/hook" }] }),
        "/no/such/hook",
    ),
    (
        "a createRuntime hook that fails",
        |s| s["hooks"] = json!({ "createRuntime": [{ "path": "/bin/false" }] }),
        "/bin/false",
    ),
    (
        "a createContainer hook that fails",
        |s| s["hooks"] = json!({ "createContainer": [{ "path": "/bin/false" }] }),
        "/bin/false",
    ),
    (
        "the second createRuntime hook failing",
        |s| {
            s["hooks"] =
                json!({ "createRuntime": [{ "path": "/bin/true" }, { "path": "/bin/false" }] });
        },
        "/bin/false",
    ),
    ("a cwd that is a file", |s| s["process"]["cwd"] = json!("/etc/passwd"), "/etc/passwd"),
    (
        "an unknown seccomp action",
        |s| {
            s["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_MAYBE" });
        },
        "SCMP_ACT_MAYBE",
    ),
    ("a hostname that is too long", |s| s["hostname"] = json!("h".repeat(65)), "hostname"),
    (
        "id mappings that overlap",
        |s| {
            user_namespace(s);
            push(
                &mut s["linux"]["uidMappings"],
                json!({ "containerID": 5, "hostID": 300_000, "size": 5 }),
            );
        },
        "uid",
    ),
    (
        "id mappings of size 0",
        |s| {
            user_namespace(s);
            s["linux"]["uidMappings"][0]["size"] = json!(0);
        },
        "uid",
    ),
    (
        "more id mappings than the kernel takes",
        |s| {
            namespace(s, "user");
            let maps: Vec<Value> = (0..400)
                .map(|n| json!({ "containerID": n * 10, "hostID": 100_000 + n * 10, "size": 5 }))
                .collect();
            s["linux"]["uidMappings"] = json!(maps);
            s["linux"]["gidMappings"] = json!(maps);
        },
        "uid",
    ),
    (
        "a user that the mappings do not have",
        |s| {
            user_namespace(s);
            s["process"]["user"]["uid"] = json!(70_000);
        },
        "70000",
    ),
    (
        "a namespace path that is missing",
        |s| {
            push(
                &mut s["linux"]["namespaces"],
                json!({ "type": "network", "path": "/no/such/netns" }),
            )
        },
        "/no/such/netns",
    ),
    (
        "a namespace path of another type",
        |s| {
            push(
                &mut s["linux"]["namespaces"],
                json!({ "type": "network", "path": "/proc/self/ns/uts" }),
            )
        },
        "/proc/self/ns/uts",
    ),
    (
        "a sysctl that is the host's",
        |s| s["linux"]["sysctl"] = json!({ "vm.overcommit_memory": "1" }),
        "vm.overcommit_memory",
    ),
    (
        "a sysctl value that the kernel refuses",
        |s| {
            namespace(s, "network");
            s["linux"]["sysctl"] = json!({ "net.core.somaxconn": "many" });
        },
        "net",
    ),
    (
        "an rlimit with soft above hard",
        |s| {
            s["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 20, "hard": 10 }]);
        },
        "RLIMIT_NOFILE|rlimits",
    ),
    (
        "an rlimit of an unknown type",
        |s| {
            s["process"]["rlimits"] = json!([{ "type": "RLIMIT_JOY", "soft": 1, "hard": 1 }]);
        },
        "RLIMIT_JOY",
    ),
    (
        "an rlimit that this machine's root may not raise",
        |s| {
            s["process"]["rlimits"] =
                json!([{ "type": "RLIMIT_NOFILE", "soft": 1u64 << 30, "hard": 1u64 << 30 }]);
        },
        "RLIMIT_NOFILE",
    ),
    ("an oom score that is out of range", |s| s["process"]["oomScoreAdj"] = json!(5000), "oom"),
    (
        "a terminal without a console socket",
        |s| s["process"]["terminal"] = json!(true),
        "terminal|tty",
    ),
    (
        "intelRdt without a resctrl file system",
        |s| s["linux"]["intelRdt"] = json!({ "closID": "x", "l3CacheSchema": "L3:0=f" }),
        "intelRdt",
    ),
    (
        "a destination below a file of the image",
        |s| mount(s, "/etc/passwd/sub", "tmpfs", "tmpfs", &[]),
        "/etc/passwd",
    ),
    (
        "a hook that is killed",
        |s| {
            s["hooks"] = json!({ "createRuntime": [{ "path": "/bin/sh", "args": ["sh", "-c", "kill -9 $$"] }] });
        },
        "/bin/sh",
    ),
    ("a namespace that the kernel does not have", |s| namespace(s, "spirit"), "spirit"),
];

fn device(spec: &mut Value, device: Value) {
    spec["linux"]["devices"] = json!([device]);
}

/// Tests of this chapter.
pub fn tests() -> Vec<Test> {
    let mut tests: Vec<Test> = CASES.into_iter().map(one).collect();
    tests.push(test(
        SECTION,
        "F5 F149",
        "a missing program: create or start fails, the message is the one callers know",
        |lab| {
            let bundle =
                lab.bundle(&[], |spec| spec["process"]["args"] = json!(["no-such-program"]))?;
            let create = lab.call(&["create", "--bundle", bundle.path(), &bundle.id]).output()?;
            let output = if create.code == Some(0) {
                lab.call(&["start", &bundle.id]).output()?
            } else {
                create
            };
            ensure(output.code.is_some_and(|code| code != 0), "create and start succeeded")?;
            lab.quality(
                output.err.contains("executable file not found in $PATH"),
                format!("the error is {}", output.brief()),
            )
        },
    ));
    tests.push(test(SECTION, "F162", "a state root that is a file is an error", |lab| {
        fs::write(&lab.state, "")?;
        refused(lab, &lab.bundle(&["pause"], |_| {})?)
    }));
    tests.push(test(SECTION, "F162", "a broken state file is an error, never a crash", |lab| {
        let container = lab.running(|_| {})?;
        let mut files: Vec<_> = fs::read_dir(lab.state.join(&container.id))?
            .flatten()
            .map(|entry| entry.path())
            .collect();
        files.retain(|path| path.is_file());
        let kept: Vec<(std::path::PathBuf, Vec<u8>)> = files
            .iter()
            .map(|path| Ok((path.clone(), fs::read(path)?)))
            .collect::<std::io::Result<_>>()?;
        let mut tries = ["", "null", "[]", "{", "{\"id\": 5}", "\u{0}\u{0}"].into_iter();
        let result = tries.try_for_each(|wrong| {
            files.iter().try_for_each(|path| fs::write(path, wrong))?;
            let output = container.call(&["state"])?;
            // The exit code of a Go panic is 2, of a Rust abort a signal.
            ensure(
                output.code.is_some() && !output.err.contains("goroutine"),
                format!("{wrong:?}: {}", output.brief()),
            )?;
            lab.quality(output.code != Some(0), format!("{wrong:?} is a valid state"))
        });
        kept.iter().try_for_each(|(path, bytes)| fs::write(path, bytes))?;
        container.end()?;
        result
    }));
    tests.push(test(
        SECTION,
        "F175",
        "twenty failing creates in a row leave nothing, and the id still works",
        |lab| {
            let mut bundle = lab.bundle(&["exit 0"], |spec| {
                mount(spec, "/data", "bind", "/no/such/source", &["bind"])
            })?;
            for _ in 0..20 {
                refused(lab, &bundle)?;
            }
            bundle.spec["mounts"].as_array_mut().map(Vec::pop);
            bundle.save()?;
            lab.seen(&bundle).map(drop)
        },
    ));
    tests
}

fn refused(lab: &Lab, bundle: &Bundle) -> crate::check::Res {
    lab.refused_from(bundle).map(drop)
}

fn one((name, edit, word): Case) -> Test {
    test(
        SECTION,
        "F147 F168 F175",
        format!("{name}: create fails and leaves nothing"),
        move |lab| {
            let output = lab.refused(edit)?;
            let lines = output.err.lines().filter(|line| !line.trim().is_empty()).count();
            lab.quality(lines == 1, format!("{lines} error lines: {}", output.brief()))?;
            lab.quality(
                word.split('|').any(|word| output.err.contains(word)),
                format!("the error does not name {word}: {}", output.brief()),
            )
        },
    )
}
