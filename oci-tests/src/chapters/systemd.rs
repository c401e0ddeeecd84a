//! The systemd cgroup driver beside a real systemd: scopes, what `systemctl` says of them, and what a
//! reload of systemd leaves of limits and device rules.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};

use crate::check::{Res, Test, ensure, eq, fail, has, ok, refused_with, same, test};
use crate::lab::Lab;
use crate::lab::bundle::{Bundle, namespace, push};
use crate::lab::container::Container;

const SECTION: &str = "config-linux#cgroups-path (systemd)";
const DRIVER: [&str; 1] = ["--systemd-cgroup"];

/// Tests of this chapter.
pub fn tests() -> Vec<Test> {
    let tests = scopes().into_iter().chain(limits()).chain(annotations()).chain(failures());
    tests.map(Test::on_systemd).collect()
}

fn scopes() -> Vec<Test> {
    vec![
        test(SECTION, "F171", "a scope in the named slice holds the container's process", |lab| {
            let (container, scope) = running(lab, |_| {})?;
            eq("cgroup.procs", &read(&scope.dir, "cgroup.procs")?, &container.pid().to_string())?;
            for (property, expected) in [
                ("ActiveState", "active"),
                ("Slice", scope.slice.as_str()),
                ("Delegate", "yes"),
                ("DefaultDependencies", "no"),
                ("TasksAccounting", "yes"),
                ("MemoryAccounting", "yes"),
            ] {
                eq(property, &show(&scope.unit, property)?.as_str(), &expected)?;
            }
            has("Description", &show(&scope.unit, "Description")?, &container.id)?;
            if lab.kind == crate::lab::Kind::Bulkhead {
                eq(
                    "CollectMode",
                    &show(&scope.unit, "CollectMode")?.as_str(),
                    &"inactive-or-failed",
                )?;
            }
            end(container)?;
            eq("LoadState", &show(&scope.unit, "LoadState")?.as_str(), &"not-found")
        }),
        test(SECTION, "F171", "without a path it is in system.slice, named after the id", |lab| {
            let bundle = lab.bundle(&["pause"], |spec| {
                if let Some(linux) = spec["linux"].as_object_mut() {
                    linux.remove("cgroupsPath");
                }
            })?;
            let container = Container::create_with(lab, &bundle, &DRIVER, &[])?;
            let cgroup = cgroup_of(container.pid())?;
            has("cgroup", &cgroup, &format!("/system.slice/{}-", prefix(lab)))?;
            has("cgroup", &cgroup, &format!("{}.scope", container.id))?;
            end(container)
        }),
        test(
            SECTION,
            "F171",
            "the root slice and nested slices are what systemd makes of them",
            |lab| {
                for (slice, nested) in
                    [("-.slice", ""), ("a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice")]
                {
                    let bundle = bundle(lab, &["pause"], slice, |_| {})?;
                    let container = Container::create_with(lab, &bundle, &DRIVER, &[])?;
                    let expected = format!("{nested}/oci-{}.scope", container.id);
                    eq("cgroup", &cgroup_of(container.pid())?, &expected)?;
                    end(container)?;
                }
                Ok(())
            },
        ),
        test(SECTION, "F171 F186", "exec, pause, ps and kill work in a scope", |lab| {
            let (container, scope) = running(lab, |_| {})?;
            let seen = exec(&container, &["report"])?;
            ensure(seen["report"]["pid"] != json!(1), "exec is pid 1")?;
            eq("pause", &container.call(&["pause"])?.code, &Some(0))?;
            has("cgroup.events", &read(&scope.dir, "cgroup.events")?, "frozen 1")?;
            container.expect("paused")?;
            eq("resume", &container.call(&["resume"])?.code, &Some(0))?;
            let ps = lab.call(&["ps", "--format", "json", &container.id]).output()?;
            has("ps", &ps.out, &container.pid().to_string())?;
            container.kill("KILL")?;
            eq("exit code", &container.wait()?, &137)?;
            container.delete()?;
            eq("LoadState", &show(&scope.unit, "LoadState")?.as_str(), &"not-found")
        }),
        test(SECTION, "F171 F26", "a cgroup namespace has the scope for its root", |lab| {
            let (container, _) = running(lab, |spec| namespace(spec, "cgroup"))?;
            let seen = exec(&container, &["read /proc/self/cgroup"])?;
            same("own cgroup", &seen["read /proc/self/cgroup"], json!("0::/\n"))?;
            end(container)
        }),
        test(SECTION, "F171", "a container in the foreground leaves no unit", |lab| {
            let bundle = bundle(lab, &["report"], &slice(lab), |_| {})?;
            let words = ["run", "--bundle", bundle.path(), &bundle.id];
            let output = lab.call(&words).global(&DRIVER).output()?;
            eq("run", &(output.code, output.err.as_str()), &(Some(0), ""))?;
            let unit = format!("oci-{}.scope", bundle.id);
            eq("LoadState", &show(&unit, "LoadState")?.as_str(), &"not-found")
        }),
        test(
            SECTION,
            "F171",
            "create and delete of one name, again and again, find it free",
            |lab| {
                let bundle = bundle(lab, &["pause"], &slice(lab), |_| {})?;
                for _ in 0..8 {
                    end(Container::create_with(lab, &bundle, &DRIVER, &[])?)?;
                }
                Ok(())
            },
        ),
        test(SECTION, "F171", "only create, update and delete speak with systemd", |lab| {
            let (container, _) = running(lab, |_| {})?;
            hide_systemd(lab)?;
            exec(&container, &["report"])?;
            for words in [&["state"][..], &["ps"], &["pause"], &["resume"], &["kill", "KILL"]] {
                let output = container.call(words)?;
                ensure(output.code == Some(0), format!("{}: {}", words[0], output.brief()))?;
            }
            container.wait()?;
            // The scope ends by itself; that systemd could not be asked is told.
            let output = container.call(&["delete"])?;
            eq("delete", &output.code, &Some(0))?;
            lab.quality(output.err.contains("systemd"), format!("delete said {:?}", output.err))
        }),
    ]
}

/// A limit: what it is, its resources, properties of the unit and files of its directory.
type Limit = (
    &'static str,
    Value,
    &'static [(&'static str, &'static str)],
    &'static [(&'static str, &'static str)],
);

fn table() -> Vec<Limit> {
    vec![
        (
            "memory",
            json!({ "memory": { "limit": 67_108_864, "swap": 100_663_296, "reservation": 1_048_576 } }),
            &[("MemoryMax", "67108864"), ("MemorySwapMax", "33554432"), ("MemoryLow", "1048576")],
            &[
                ("memory.max", "67108864"),
                ("memory.swap.max", "33554432"),
                ("memory.low", "1048576"),
            ],
        ),
        (
            "processes",
            json!({ "pids": { "limit": 77 } }),
            &[("TasksMax", "77")],
            &[("pids.max", "77")],
        ),
        (
            "processor time",
            json!({ "cpu": { "shares": 1024, "quota": 30_000, "period": 50_000, "cpus": "0", "mems": "0" } }),
            &[
                ("CPUQuotaPerSecUSec", "600ms"),
                ("CPUQuotaPeriodUSec", "50ms"),
                ("AllowedCPUs", "0"),
                ("AllowedMemoryNodes", "0"),
            ],
            &[("cpu.max", "30000 50000"), ("cpuset.cpus", "0"), ("cpuset.mems", "0")],
        ),
        (
            "what linux.resources.unified names",
            json!({ "unified": { "memory.high": "50331648", "memory.min": "4096", "cpu.weight": "77" } }),
            &[("MemoryHigh", "50331648"), ("MemoryMin", "4096"), ("CPUWeight", "77")],
            &[("memory.high", "50331648"), ("memory.min", "4096"), ("cpu.weight", "77")],
        ),
    ]
}

fn limits() -> Vec<Test> {
    let mut tests: Vec<Test> = table()
        .into_iter()
        .map(|(what, resources, properties, files)| {
            let text = format!("systemd knows the limits of {what}, and a reload keeps them");
            test("config-linux#control-groups (systemd)", "F171", text, move |lab| {
                let (container, scope) =
                    running(lab, |spec| spec["linux"]["resources"] = resources.clone())?;
                scope.expect(properties, files)?;
                reload()?;
                scope.expect(properties, files)?;
                end(container)
            })
        })
        .collect();
    tests.extend([
        test("config-linux#control-groups (systemd)", "F171", "what update changes, a reload keeps", |lab| {
            let (container, scope) = running(lab, |spec| {
                spec["linux"]["resources"] = json!({
                    "memory": { "limit": 67_108_864 }, "pids": { "limit": 77 },
                    "cpu": { "quota": 50_000, "period": 100_000 },
                });
            })?;
            let words = ["update", "--memory", "33554432", "--pids-limit", "9", "--cpu-quota", "20000"];
            let output = container.call(&words)?;
            ensure(output.code == Some(0), format!("update: {}", output.brief()))?;
            for _ in 0..2 {
                scope.expect(
                    &[("MemoryMax", "33554432"), ("TasksMax", "9"), ("CPUQuotaPerSecUSec", "200ms")],
                    &[("memory.max", "33554432"), ("pids.max", "9"), ("cpu.max", "20000 100000")],
                )?;
                reload()?;
            }
            end(container)
        }),
        test("config-linux#allowed-device-list (systemd)", "F173", "device rules are the same after a reload", |lab| {
            let (container, scope) = running(lab, |spec| {
                // Behind all denials: a default device is taken away, another one given.
                spec["linux"]["resources"] = json!({ "devices": [
                    { "allow": false, "access": "rwm" },
                    { "allow": true, "type": "c", "major": 1, "minor": 11, "access": "rwm" },
                    { "allow": false, "type": "c", "major": 1, "minor": 9, "access": "rwm" },
                ]});
                spec["linux"]["devices"] =
                    json!([{ "path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11, "fileMode": 438 }]);
                // The kernel's own condition for reading it.
                for set in ["bounding", "effective", "permitted"] {
                    push(&mut spec["process"]["capabilities"][set], json!("CAP_SYSLOG"));
                }
            })?;
            let steps = ["open-r /dev/kmsg", "open-r /dev/zero", "open-r /dev/urandom"];
            let look = || {
                let seen = exec(&container, &steps)?;
                same(steps[0], &seen[steps[0]], ok())?;
                same(steps[1], &seen[steps[1]], ok())?;
                refused_with(steps[2], &seen[steps[2]], &["EPERM"])
            };
            look()?;
            reload()?;
            look()?;
            run(&["systemctl", "set-property", "--runtime", &scope.unit, "CPUWeight=77"])?;
            look()?;
            reload()?;
            look()?;
            end(container)
        }),
    ]);
    tests
}

fn annotations() -> Vec<Test> {
    let section = "annotations (systemd)";
    let key = |name: &str| format!("org.systemd.property.{name}");
    vec![
        test(section, "F172", "annotations set properties, seconds as well", move |lab| {
            let (container, scope) = running(lab, |spec| {
                spec["annotations"] = json!({
                    key("TimeoutStopSec"): "7", key("After"): "['basic.target', 'swap.target']",
                    key("CollectMode"): "'inactive'", key("RuntimeMaxUSec"): "uint64 3600000000",
                });
            })?;
            scope.expect(
                &[("TimeoutStopUSec", "7s"), ("CollectMode", "inactive"), ("RuntimeMaxUSec", "1h")],
                &[],
            )?;
            let after = show(&scope.unit, "After")?;
            ensure(
                ["basic.target", "swap.target"].iter().all(|unit| after.contains(unit)),
                &after,
            )?;
            end(container)
        }),
        test(
            section,
            "F172",
            "an annotation that is no property is an error that names it",
            move |lab| {
                for (name, value) in [
                    ("TimeoutStopSec", "soon"),
                    ("After", "basic.target"),
                    ("No-Name", "true"),
                    ("Unheard", "true"),
                ] {
                    let bundle = bundle(lab, &["report"], &slice(lab), |spec| {
                        spec["annotations"] = json!({ key(name): value });
                    })?;
                    let said = refused(lab, &bundle)?;
                    lab.quality(said.contains(name), format!("{name}: {said}"))?;
                }
                Ok(())
            },
        ),
        test(section, "F174", "a subgroup holds the processes, below the limits", |lab| {
            if lab.kind != crate::lab::Kind::Bulkhead && lab.kind != crate::lab::Kind::Crun {
                return crate::check::skip("this runtime knows no run.oci.systemd.subgroup");
            }
            let (container, scope) = running(lab, |spec| {
                namespace(spec, "cgroup");
                spec["annotations"] = json!({ "run.oci.systemd.subgroup": "inner" });
                spec["linux"]["resources"] = json!({ "pids": { "limit": 77 } });
            })?;
            let inner = scope.dir.join("inner");
            eq("cgroup.procs", &read(&inner, "cgroup.procs")?, &container.pid().to_string())?;
            eq("cgroup.procs of the scope", &read(&scope.dir, "cgroup.procs")?, &String::new())?;
            scope.expect(&[("TasksMax", "77")], &[("pids.max", "77")])?;
            has("controllers", &read(&inner, "cgroup.controllers")?, "memory")?;
            let seen = exec(&container, &["read /proc/self/cgroup"])?;
            same("cgroup of exec", &seen["read /proc/self/cgroup"], json!("0::/\n"))?;
            eq("pause", &container.call(&["pause"])?.code, &Some(0))?;
            has("cgroup.events", &read(&inner, "cgroup.events")?, "frozen 1")?;
            eq("resume", &container.call(&["resume"])?.code, &Some(0))?;
            end(container)
        }),
        test(section, "F174", "a subgroup that is no name is an error", |lab| {
            for name in ["..", "a/b"] {
                let bundle = bundle(lab, &["report"], &slice(lab), |spec| {
                    spec["annotations"] = json!({ "run.oci.systemd.subgroup": name });
                })?;
                if lab.kind == crate::lab::Kind::Bulkhead {
                    has("words", &refused(lab, &bundle)?, "run.oci.systemd.subgroup")?;
                }
            }
            Ok(())
        }),
    ]
}

fn failures() -> Vec<Test> {
    vec![
        test(SECTION, "F171", "a path of another form is an error", |lab| {
            for path in ["/a/b", "a.slice:b", "a:b:c", "a--b.slice:c:d", "a.slice:b:../../c"] {
                let bundle = lab.bundle(&["report"], |spec| {
                    spec["linux"]["cgroupsPath"] = json!(path);
                })?;
                let said = refused(lab, &bundle)?;
                lab.quality(said.contains("linux.cgroupsPath"), format!("{path}: {said}"))?;
            }
            Ok(())
        }),
        test(SECTION, "F171", "a unit that has failed gives its name to the container", |lab| {
            let bundle = bundle(lab, &["pause"], &slice(lab), |_| {})?;
            let unit = format!("oci-{}.scope", bundle.id);
            // It ends by a timeout, which is a failure, and is not collected.
            let argument = format!("--unit={unit}");
            let _ = Command::new("systemd-run")
                .args(["--quiet", "--scope", "--property=RuntimeMaxSec=1", &argument])
                .args(["/bin/busybox", "sleep", "60"])
                .status()?;
            eq("ActiveState before", &show(&unit, "ActiveState")?.as_str(), &"failed")?;
            let container = Container::create_with(lab, &bundle, &DRIVER, &[])?;
            eq("ActiveState", &show(&unit, "ActiveState")?.as_str(), &"active")?;
            end(container)
        }),
        test(SECTION, "F171", "a unit that runs keeps its name and its processes", |lab| {
            let bundle = bundle(lab, &["report"], &slice(lab), |_| {})?;
            let unit = format!("oci-{}.scope", bundle.id);
            // In another slice, so that only its name is in the way.
            let mut other = Command::new("systemd-run")
                .args(["--quiet", "--scope", &format!("--unit={unit}")])
                .args(["/bin/busybox", "sleep", "60"])
                .spawn()?;
            until(|| Ok(show(&unit, "ActiveState")? == "active"))?;
            let words = ["create", "--bundle", bundle.path(), &bundle.id];
            let output = lab.call(&words).global(&DRIVER).output()?;
            let alive = other.try_wait()?.is_none();
            let active = show(&unit, "ActiveState")?;
            run(&["systemctl", "stop", &unit])?;
            other.wait()?;
            ensure(output.code != Some(0), "create took the name of a running unit")?;
            has("words", &output.err, &unit)?;
            ensure(alive && active == "active", "the other unit was hurt")?;
            lab.nothing_left()
        }),
        test(
            SECTION,
            "F171",
            "without systemd create fails, names the sockets and leaves nothing",
            |lab| {
                let bundle = bundle(lab, &["report"], &slice(lab), |_| {})?;
                hide_systemd(lab)?;
                let said = refused(lab, &bundle)?;
                lab.quality(said.contains("/run/systemd/private"), said)
            },
        ),
        test(
            SECTION,
            "F171",
            "the message bus does where systemd's own socket is missing",
            |lab| {
                let (file, socket) = (lab.dir.join("file"), Path::new("/run/systemd/private"));
                fs::write(&file, "")?;
                mount(Some(&file), socket, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
                lab.own_mounts();
                let (container, scope) = running(lab, |_| {})?;
                let output = container.call(&["update", "--pids-limit", "9"])?;
                ensure(output.code == Some(0), format!("update: {}", output.brief()))?;
                scope.expect(&[("TasksMax", "9")], &[("pids.max", "9")])?;
                end(container)
            },
        ),
        test(
            SECTION,
            "F171",
            "from inside a pid namespace no process of the host is moved",
            |lab| {
                let bundle = bundle(lab, &["report"], &slice(lab), |_| {})?;
                let words = ["create", "--bundle", bundle.path(), &bundle.id];
                let call = lab.call(&words).global(&DRIVER);
                let output = call.shell("unshare --pid --fork --mount-proc \"$@\"").output()?;
                ensure(output.code != Some(0), "create succeeded")?;
                lab.quality(output.err.contains("pid namespace"), output.err.clone())?;
                lab.nothing_left()
            },
        ),
        test(SECTION, "F171", "what fails after the scope was started takes it along", |lab| {
            let bundle = bundle(lab, &["report"], &slice(lab), |spec| {
                spec["linux"]["resources"] = json!({ "unified": { "memory.oom.group": "x" } });
            })?;
            let unit = format!("oci-{}.scope", bundle.id);
            has("words", &refused(lab, &bundle)?, "memory.oom.group")?;
            eq("LoadState", &show(&unit, "LoadState")?.as_str(), &"not-found")
        }),
    ]
}

/// A unit and its directory.
struct Scope {
    unit: String,
    slice: String,
    dir: PathBuf,
}

impl Scope {
    fn expect(&self, properties: &[(&str, &str)], files: &[(&str, &str)]) -> Res {
        for (property, expected) in properties {
            eq(property, &show(&self.unit, property)?.as_str(), expected)?;
        }
        for (file, expected) in files {
            eq(file, &read(&self.dir, file)?.as_str(), expected)?;
        }
        Ok(())
    }
}

/// The slice of a test's containers, which ends with them.
fn slice(lab: &Lab) -> String {
    format!("{}.slice", lab.word)
}

/// What the runtime puts before a container's id.
fn prefix(lab: &Lab) -> &'static str {
    match lab.kind {
        crate::lab::Kind::Crun => "crun",
        crate::lab::Kind::Bulkhead => "bulkhead",
        _ => "runc",
    }
}

fn bundle(lab: &Lab, steps: &[&str], slice: &str, edit: impl FnOnce(&mut Value)) -> Res<Bundle> {
    let mut bundle = lab.bundle(steps, edit)?;
    bundle.spec["linux"]["cgroupsPath"] = json!(format!("{slice}:oci:{}", bundle.id));
    bundle.save()?;
    Ok(bundle)
}

fn running(lab: &Lab, edit: impl FnOnce(&mut Value)) -> Res<(Container<'_>, Scope)> {
    let slice = slice(lab);
    let bundle = bundle(lab, &["pause"], &slice, edit)?;
    let mut container = Container::create_with(lab, &bundle, &DRIVER, &[])?;
    container.start()?;
    container.ready()?;
    let unit = format!("oci-{}.scope", bundle.id);
    let dir = Path::new("/sys/fs/cgroup").join(&slice).join(&unit);
    Ok((container, Scope { unit, slice, dir }))
}

fn exec(container: &Container<'_>, steps: &[&str]) -> Res<Value> {
    let mut words = vec!["exec", "/bin/probe"];
    words.extend(steps);
    let output = container.call(&words)?;
    ensure(output.code == Some(0), format!("exec: {}", output.brief()))?;
    serde_json::from_str(&output.out).or_else(|error| fail(format!("no JSON: {error}")))
}

fn end(container: Container<'_>) -> Res {
    let output = container.call(&["delete", "--force"])?;
    eq("delete", &(output.code, output.err.as_str()), &(Some(0), ""))
}

/// `create` must fail and leave nothing; what it said.
fn refused(lab: &Lab, bundle: &Bundle) -> Res<String> {
    let words = ["create", "--bundle", bundle.path(), &bundle.id];
    let output = lab.call(&words).global(&DRIVER).output()?;
    ensure(output.code.is_some_and(|code| code != 0), "create succeeded")?;
    lab.nothing_left()?;
    Ok(output.err)
}

/// In this test's mount namespace there is no systemd.
fn hide_systemd(lab: &Lab) -> Res {
    for place in ["/run/systemd", "/run/dbus"] {
        mount(Some("tmpfs"), place, Some("tmpfs"), MsFlags::MS_RDONLY, None::<&str>)?;
    }
    lab.own_mounts();
    Ok(())
}

fn show(unit: &str, property: &str) -> Res<String> {
    let argument = format!("--property={property}");
    Ok(run(&["systemctl", "show", "--value", &argument, unit])?.trim().to_owned())
}

fn reload() -> Res {
    run(&["systemctl", "daemon-reload"]).map(drop)
}

fn run(words: &[&str]) -> Res<String> {
    let output = Command::new(words[0]).args(&words[1..]).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure(output.status.success(), format!("{}: {said}", words.join(" ")))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn read(dir: &Path, file: &str) -> Res<String> {
    match fs::read_to_string(dir.join(file)) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) => fail(format!("{}: {error}", dir.join(file).display())),
    }
}

/// The cgroup2 path of a process.
fn cgroup_of(pid: i32) -> Res<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    Ok(text.trim().trim_start_matches("0::").to_owned())
}

fn until(fact: impl Fn() -> Res<bool>) -> Res {
    for _ in 0..1000 {
        if fact()? {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    fail("it did not happen within 10 s")
}
