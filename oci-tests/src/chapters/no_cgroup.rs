//! `--cgroup-manager`, crun's option: who makes the cgroup, and a container without one.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use oci_tests::cgroups::hierarchies;
use serde_json::{Value, json};

use crate::check::{Res, Test, ensure, eq, fail, has, skip, test};
use crate::lab::bundle::{self, Bundle};
use crate::lab::container::Container;
use crate::lab::{Kind, Lab};

const SECTION: &str = "contract#cgroup-manager";
const DISABLED: [&str; 2] = ["--cgroup-manager", "disabled"];

/// Tests of this chapter.
pub fn tests() -> Vec<Test> {
    vec![
        test(SECTION, "F107", "disabled: the container stays in its creator's cgroups", stays),
        test(SECTION, "F107", "disabled: what needs a cgroup says that there is none", needs_one),
        test(SECTION, "F107", "disabled: a limit is refused by its field", limits),
        test(
            SECTION,
            "F107",
            "disabled: without a pid namespace only the first process is killed, as create says",
            first_only,
        ),
        test(
            SECTION,
            "F107 F168",
            "disabled: delete of a damaged record kills nobody in the cgroup of that path",
            damaged,
        ),
        test(SECTION, "F107", "disabled: the view of its creator's cgroups is read-only", view),
        test(SECTION, "F104 F107", "cgroupfs is the default; nonsense and contradictions", others),
    ]
}

/// Others have no such option, or say less.
fn own(lab: &Lab) -> Res {
    if lab.kind == Kind::Bulkhead { Ok(()) } else { skip("what Bulkhead says of its own option") }
}

fn created<'l>(lab: &'l Lab, bundle: &Bundle) -> Res<Container<'l>> {
    Container::create_with(lab, bundle, &DISABLED, &[])
}

fn running(lab: &Lab, edit: impl FnOnce(&mut Value)) -> Res<Container<'_>> {
    let mut container = created(lab, &lab.bundle(&["pause"], edit)?)?;
    container.start()?;
    container.ready()?;
    Ok(container)
}

fn no_directories(container: &Container<'_>) -> Res {
    for hierarchy in hierarchies() {
        let path = hierarchy.point.join(container.cgroup.trim_start_matches('/'));
        ensure(!path.exists(), format!("{} was made", path.display()))?;
    }
    Ok(())
}

fn stays(lab: &Lab) -> Res {
    if lab.kind == Kind::Other {
        return skip("the runtime has no option --cgroup-manager");
    }
    let container = running(lab, |_| {})?;
    let of = |pid: &str| fs::read_to_string(format!("/proc/{pid}/cgroup"));
    eq("its cgroups", &of(&container.pid().to_string())?, &of("self")?)?;
    no_directories(&container)?;
    container.expect("running")?;
    eq("exec", &container.exec_output(&[], &["exit 3"])?.code, &Some(3))?;
    container.end()
}

fn needs_one(lab: &Lab) -> Res {
    own(lab)?;
    let container = running(lab, |_| {})?;
    for words in [
        &["pause"][..],
        &["update", "--memory", "64m"],
        &["events", "--stats"],
        &["ps"],
        &["exec", "--cgroup", "/below", "/bin/probe"],
    ] {
        let mut all = vec![words[0]];
        all.extend(&words[1..]);
        let place = if words[0] == "exec" { 3 } else { all.len() };
        all.insert(place, &container.id);
        let output = lab.call(&all).output()?;
        ensure(output.code.is_some_and(|code| code != 0), format!("{words:?} worked"))?;
        has(words[0], &output.err, "without a cgroup (--cgroup-manager disabled)")?;
        container.expect("running")?;
    }
    container.end()
}

fn limits(lab: &Lab) -> Res {
    own(lab)?;
    let bundle = lab.bundle(&["pause"], |spec| {
        spec["linux"]["resources"]["memory"] = json!({ "limit": 64 << 20 });
    })?;
    let call = lab.call(&["create", "--bundle", bundle.path(), &bundle.id]).global(&DISABLED);
    let output = call.output()?;
    eq("exit code", &output.code, &Some(1))?;
    has("message", &output.err, "linux.resources.memory.limit: there is no cgroup to limit")
}

fn first_only(lab: &Lab) -> Res {
    own(lab)?;
    let bundle = lab.bundle(&["sleepers 2", "pause"], |spec| {
        bundle::without_namespace(spec, "pid");
    })?;
    let words = ["run", "--detach", "--bundle", bundle.path(), &bundle.id];
    let (output, mut lines) = lab.call(&words).global(&DISABLED).piped()?;
    eq(&output.brief(), &output.code, &Some(0))?;
    has("warning", &output.err, "only the container's first process is killed")?;
    let seen: Value = serde_json::from_str(&lines.next()?).unwrap_or_default();
    let pids = seen["sleepers 2"]["pids"].as_array().cloned().unwrap_or_default();
    eq("sleepers", &pids.len(), &2)?;
    let end = |command: &[&str]| -> Res {
        let output = lab.call(command).output()?;
        eq(&output.brief(), &output.code, &Some(0))
    };
    end(&["kill", &bundle.id, "KILL"])?;
    end(&["delete", "--force", &bundle.id])?;
    for pid in &pids {
        let pid = Pid::from_raw(pid.as_i64().unwrap_or(0) as i32);
        // Signal 0 asks whether the process is there.
        if pid.as_raw() == 0 || kill(pid, None).is_err() {
            return fail(format!("sleeper {pid} is gone"));
        }
        kill(pid, Signal::SIGKILL)?;
    }
    Ok(())
}

fn damaged(lab: &Lab) -> Res {
    own(lab)?;
    let neighbour = lab.running(|_| {})?;
    let bundle = lab.bundle(&["pause"], |spec| {
        spec["linux"]["cgroupsPath"] = json!(neighbour.cgroup);
    })?;
    let container = created(lab, &bundle)?;
    fs::write(lab.state.join(&bundle.id).join("state.json"), "{")?;
    let output = lab.call(&["delete", "--force", &bundle.id]).output()?;
    eq(&output.brief(), &output.code, &Some(0))?;
    neighbour.expect("running")?;
    // Nobody knows its process any more.
    kill(Pid::from_raw(container.pid()), Signal::SIGKILL)?;
    container.wait()?;
    neighbour.end()
}

fn view(lab: &Lab) -> Res {
    own(lab)?;
    for namespace in [true, false] {
        let container = running(lab, |spec| {
            bundle::mount(spec, "/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid"]);
            if namespace {
                bundle::namespace(spec, "cgroup");
            }
        })?;
        let table = fs::read_to_string(format!("/proc/{}/mountinfo", container.pid()))?;
        let of_cgroups: Vec<&str> =
            table.lines().filter(|line| line.contains(" - cgroup")).collect();
        ensure(!of_cgroups.is_empty(), "there is no cgroup mount")?;
        for line in of_cgroups {
            let options = line.split(' ').nth(5).unwrap_or_default();
            ensure(options.split(',').any(|option| option == "ro"), line)?;
        }
        container.end()?;
    }
    Ok(())
}

fn others(lab: &Lab) -> Res {
    own(lab)?;
    let bundle = lab.bundle(&["pause"], |_| {})?;
    let container = Container::create_with(lab, &bundle, &["--cgroup-manager", "cgroupfs"], &[])?;
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", container.pid()))?;
    has("its cgroups", &cgroups, &container.cgroup)?;
    container.end()?;
    for (globals, words) in [
        (&["--systemd-cgroup", "--cgroup-manager", "disabled"][..], "contradicts"),
        (&["--cgroup-manager", "nonsense"], "nonsense"),
    ] {
        let call = lab.call(&["create", "--bundle", bundle.path(), &bundle.id]).global(globals);
        let output = call.output()?;
        eq("exit code", &output.code, &Some(1))?;
        has("message", &output.err, words)?;
    }
    Ok(())
}
