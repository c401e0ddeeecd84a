//! config-linux.md, namespaces: a pid namespace that is joined by path, with what else a configuration
//! asks for. Its processes must not see the container's one before that is the container's, so a
//! runtime has to build the container from outside.

use std::fs;

use serde_json::{Value, json};

use crate::check::{Res, Test, ensure, eq, has_option, mount_at, same, test};
use crate::lab::Lab;
use crate::lab::agent::Agent;
use crate::lab::bundle::{mount, push, user_namespace, without_namespace};
use crate::lab::container::Container;

const SECTION: &str = "config-linux#namespaces";

/// Puts a container into the namespaces of these kinds of another one.
pub fn join(spec: &mut Value, other: &Container<'_>, kinds: &[(&str, &str)]) {
    for (kind, file) in kinds {
        without_namespace(spec, kind);
        let path = format!("/proc/{}/ns/{file}", other.pid());
        push(&mut spec["linux"]["namespaces"], json!({ "type": kind, "path": path }));
    }
}

const PID: &[(&str, &str)] = &[("pid", "pid")];
const PID_AND_USER: &[(&str, &str)] = &[("pid", "pid"), ("user", "user")];

/// A link of the process, as the test sees it.
fn namespace_of(pid: i32, name: &str) -> Res<String> {
    Ok(fs::read_link(format!("/proc/{pid}/ns/{name}"))?.display().to_string())
}

/// Tests of this chapter.
pub fn tests() -> Vec<Test> {
    let mut tests = procfs();
    tests.extend(process());
    tests.extend(user_namespaces());
    tests
}

fn procfs() -> Vec<Test> {
    vec![test(
        SECTION,
        "F21 F25",
        "every procfs shows a joined pid namespace, with the options asked for",
        |lab| {
            let other = lab.running(|_| {})?;
            let steps =
                ["report", "status-of 1", "read /data/1/comm", "create /data/1/x", "list /data"];
            let seen = lab.probe(&steps, |spec| {
                join(spec, &other, PID);
                spec["mounts"][0]["options"] = json!(["ro", "nosuid", "noexec", "nodev"]);
                mount(spec, "/data", "proc", "second", &["noexec", "ro", "subset=pid"]);
                spec["linux"]["maskedPaths"] = json!(["/proc/kcore", "/proc/1"]);
                spec["linux"]["readonlyPaths"] = json!(["/proc/sys"]);
            })?;
            let first = mount_at(&seen["report"], "/proc")?;
            for word in ["ro", "nosuid", "noexec", "nodev"] {
                ensure(has_option(&first["options"], word), format!("no {word} in {first}"))?;
            }
            same("a masked directory", &seen["status-of 1"], json!({}))?;
            same("the name of pid 1", &seen["read /data/1/comm"], json!("probe\n"))?;
            let second = mount_at(&seen["report"], "/data")?;
            ensure(has_option(&second["super"], "subset=pid"), format!("it is {second}"))?;
            let names = seen["list /data"].to_string();
            ensure(!names.contains("meminfo"), format!("subset=pid shows {names}"))?;
            other.end()
        },
    )]
}

fn process() -> Vec<Test> {
    vec![
        test(
            SECTION,
            "F21 F2",
            "the pid in state is that of the program in a joined pid namespace, and works for exec and kill",
            |lab| {
                let other = lab.running(|_| {})?;
                let mut container =
                    lab.create(&["report", "pause"], |spec| join(spec, &other, PID))?;
                eq(
                    "its pid namespace",
                    &namespace_of(container.pid(), "pid")?,
                    &namespace_of(other.pid(), "pid")?,
                )?;
                container.expect("created")?;
                container.start()?;
                let seen = container.ready()?;
                let status = fs::read_to_string(format!("/proc/{}/status", container.pid()))?;
                let inside = seen["report"]["pid"].as_i64().unwrap_or_default();
                let own = status.lines().find(|line| line.starts_with("NSpid:"));
                let own = own.and_then(|line| line.split_whitespace().last());
                eq("pid", &own, &Some(inside.to_string().as_str()))?;
                same("session", &seen["report"]["sid"], json!(inside))?;
                same("parent", &seen["report"]["ppid"], json!(0))?;
                let exec = container.exec(&[], &["report"])?;
                same(
                    "pid namespace of exec",
                    &exec["report"]["ns"]["pid"],
                    seen["report"]["ns"]["pid"].clone(),
                )?;
                container.end()?;
                other.expect("running")?;
                other.end()
            },
        ),
        test(
            SECTION,
            "F21 F152",
            "a program in a joined pid namespace has its terminal for its session",
            |lab| {
                let other = lab.running(|_| {})?;
                let agent = Agent::listen(&lab.dir.join("console"))?;
                let bundle = lab.bundle(&["report", "write /data/report 1", "pause"], |spec| {
                    join(spec, &other, PID);
                    spec["process"]["terminal"] = json!(true);
                })?;
                let container =
                    Container::create(lab, &bundle, &["--console-socket", agent.path()])?;
                let terminal = agent.receive()?;
                container.start()?;
                // Field 7: the controlling terminal; 34816 and up are pseudo-terminals.
                let stat = fs::read_to_string(format!("/proc/{}/stat", container.pid()))?;
                let device =
                    stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(4));
                ensure(
                    device.and_then(|n| n.parse::<u32>().ok()).is_some_and(|n| n >= 136 << 8),
                    format!("no controlling terminal in {stat}"),
                )?;
                container.end()?;
                drop(terminal);
                other.end()
            },
        ),
        test(
            "config#posix-platform-hooks",
            "F16 F21",
            "hooks see the namespaces of a container in a joined pid namespace by the pid of the state",
            |lab| {
                let other = lab.running(|_| {})?;
                let mut bundle = lab.bundle(&["pause"], |spec| join(spec, &other, PID))?;
                let line = "pid=$(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/'); \
                            readlink /proc/$pid/ns/mnt /proc/$pid/ns/uts > $1/$2; :";
                let hook = |name: &str| {
                    json!([{ "path": "/bin/sh", "env": ["PATH=/usr/bin:/bin"],
                             "args": ["sh", "-c", line, "hook", bundle.path(), name] }])
                };
                let hooks = json!({ "createRuntime": hook("runtime"), "createContainer": hook("container") });
                bundle.spec["hooks"] = hooks;
                bundle.save()?;
                let container = lab.create_from(&bundle)?;
                let pid = container.pid();
                let wanted =
                    format!("{}\n{}\n", namespace_of(pid, "mnt")?, namespace_of(pid, "uts")?);
                eq("createRuntime", &fs::read_to_string(bundle.dir.join("runtime"))?, &wanted)?;
                let seen = fs::read_to_string(bundle.dir.join("container"))?;
                lab.quality(seen == wanted, format!("createContainer saw {seen:?}"))?;
                container.end()?;
                other.end()
            },
        ),
    ]
}

fn user_namespaces() -> Vec<Test> {
    /// A container in a user namespace, to be joined.
    fn owner(lab: &Lab) -> Res<Container<'_>> {
        let bundle = lab.bundle(&["pause"], user_namespace)?;
        bundle.chown(100_000, 100_000)?;
        let mut container = lab.create_from(&bundle)?;
        container.start()?;
        container.ready()?;
        Ok(container)
    }
    vec![
        test(
            SECTION,
            "F21 F19",
            "joined user and pid namespaces of one container work together, with a procfs",
            |lab| {
                let other = owner(lab)?;
                let bundle = lab
                    .bundle(&["report", "status-of 1"], |spec| join(spec, &other, PID_AND_USER))?;
                bundle.chown(100_000, 100_000)?;
                let seen = lab.seen(&bundle)?;
                same("the name of pid 1", &seen["status-of 1"]["Name"], json!("probe"))?;
                same("uids", &seen["report"]["uids"], json!([0, 0, 0]))?;
                for name in ["pid", "user"] {
                    same(
                        name,
                        &seen["report"]["ns"][name],
                        json!(namespace_of(other.pid(), name)?),
                    )?;
                }
                other.end()
            },
        ),
        test(
            SECTION,
            "F21 F24",
            "a new user namespace and a joined pid namespace work together, without a procfs of it",
            |lab| {
                let other = lab.running(|_| {})?;
                let edit = |spec: &mut Value| {
                    join(spec, &other, PID);
                    user_namespace(spec);
                };
                // procfs takes power over the pid namespace, which the container does not have.
                let bundle = lab.bundle(&["exit 0"], edit)?;
                bundle.chown(100_000, 100_000)?;
                let output =
                    lab.call(&["create", "--bundle", bundle.path(), &bundle.id]).output()?;
                lab.quality(
                    output.code != Some(0) && output.err.contains("/proc"),
                    format!("create with a procfs: {}", output.brief()),
                )?;
                if output.code == Some(0) {
                    lab.call(&["delete", "--force", &bundle.id]).output()?;
                }
                let bundle = lab.bundle(&["stat /data", "pause"], |spec| {
                    edit(spec);
                    spec["mounts"] = json!([]);
                })?;
                bundle.chown(100_000, 100_000)?;
                let mut container = lab.create_from(&bundle)?;
                container.start()?;
                let seen = container.ready()?;
                same("owner of /data", &seen["stat /data"]["uid"], json!(0))?;
                eq(
                    "pid namespace",
                    &namespace_of(container.pid(), "pid")?,
                    &namespace_of(other.pid(), "pid")?,
                )?;
                ensure(
                    namespace_of(container.pid(), "user")? != namespace_of(other.pid(), "user")?,
                    "no user namespace",
                )?;
                container.end()?;
                other.end()
            },
        ),
    ]
}
