//! What the host has for a task: figures and limits of its cgroup, AppArmor, the shim's own place.

use std::fs;
use std::path::Path;

use oci_tests::cgroups;
use oci_tests::check::{Res, Stop, ensure, eq, has, skip};
use serde_json::{Value, json};

use super::{cgroup, ctr, end, exec, pid, run, sh_ok, shim_of, sleeping};
use crate::scenario::{Scenario, scenario};
use crate::stage::Stage;
use crate::wire::Message;

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("metrics are those that containerd's own shim tells", "F215", metrics),
        scenario("update of every resource of cgroup v2", "F141", update),
        scenario("a frozen task makes no progress", "F137", frozen),
        scenario("the default AppArmor profile", "F144", default_profile),
        scenario("an AppArmor profile of one's own, for exec too", "F144", own_profile),
        scenario("the shim is in the cgroup of the options", "F212 F217", shim_cgroup),
    ]
}

/// Whether the host has cgroup v2 and nothing else.
fn unified() -> bool {
    cgroups::hierarchies().iter().all(|hierarchy| hierarchy.v2)
}

/// Figures that cannot be 0 after [`WORK`], in each version of the message.
const USED_V1: [&str; 5] = [
    "/pids/current",
    "/cpu/usage/total",
    "/memory/rss",
    "/memory/total_rss",
    "/memory/usage/usage",
];
const USED_V2: [&str; 10] = [
    "/pids/current",
    "/cpu/usage_usec",
    "/cpu/user_usec",
    "/cpu/system_usec",
    "/memory/anon",
    "/memory/inactive_anon",
    "/memory/slab",
    "/memory/pgfault",
    "/memory/usage",
    "/memory/usage_limit",
];
/// Figures that do not depend on what the program does.
const SAME: [&str; 6] = [
    "/pids/limit",
    "/memory/usage/limit",
    "/memory/swap/limit",
    "/memory/usage_limit",
    "/memory/swap_limit",
    "/memory_oom_control",
];

const WORK: &str = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo done; exec sleep 1000";

fn metrics(stage: &Stage) -> Res {
    if stage.shim.is_none() {
        return skip("containerd's own shim is the one under test");
    }
    let ours = worked(stage, &super::runtime_words(stage))?;
    // The same runtime, with containerd's shim.
    let binary = stage.runtime.display().to_string();
    let theirs = match worked(stage, &["--runc-binary".to_owned(), binary]) {
        // containerd 1.6 does not always find its cgroups on a hybrid host, be it with runc.
        Err(Stop::Fail(reason)) if reason.contains("no metrics received") && !unified() => {
            return skip("containerd's own shim has none on this host");
        }
        theirs => theirs?,
    };
    let used = if unified() { &USED_V2[..] } else { &USED_V1[..] };
    for figure in used {
        let number = |of: &Value| of.pointer(figure).and_then(Value::as_u64).unwrap_or_default();
        ensure(number(&theirs) > 0, format!("{figure} of containerd's own shim is 0: {theirs}"))?;
        ensure(number(&ours) > 0, format!("{figure} is 0: {ours}"))?;
    }
    for figure in SAME {
        eq(figure, &ours.pointer(figure), &theirs.pointer(figure))?;
    }
    let sizes = |of: &Value| {
        let list = of["hugetlb"].as_array().cloned().unwrap_or_default();
        let mut sizes: Vec<String> = list.iter().map(Value::to_string).collect();
        sizes.sort();
        sizes
    };
    eq("huge pages", &sizes(&ours), &sizes(&theirs))?;
    // Kinds that the host has nothing of may be there, and empty.
    let kinds = theirs.as_object().map(|all| all.keys().cloned().collect()).unwrap_or_default();
    let missing = |kind: &String| kind != "rdma" && ours[kind.as_str()].is_null();
    let missing: Vec<String> = Vec::into_iter(kinds).filter(missing).collect();
    eq("kinds of figures that are missing", &missing, &Vec::new())
}

/// The figures of a task that has done its work.
fn worked(stage: &Stage, runtime: &[String]) -> Res<Value> {
    let id = super::id(stage);
    stage.later(&["ctr", "snapshots", "rm", &id]);
    stage.later(&["ctr", "containers", "rm", &id]);
    stage.later(&["ctr", "tasks", "delete", "--force", &id]);
    let log = stage.path(&format!("{id}.log"));
    let uri = format!("file://{log}");
    let limits = ["--memory-limit", "67108864", "--cpus", "0.5", "--detach", "--log-uri", &uri];
    let image = [crate::images::BOX, &id, "sh", "-c", WORK];
    ctr(stage, &["run"]).args(runtime).args(&limits).args(&image).must()?;
    stage.until("the work is done", || {
        Ok(fs::read_to_string(&log).is_ok_and(|l| l.contains("done")))
    })?;
    let text = ctr(stage, &["tasks", "metrics", "--format", "json", &id]).must()?;
    end(stage, &id)?;
    Ok(serde_json::from_str(&text).unwrap_or_default())
}

fn update(stage: &Stage) -> Res {
    if !unified() {
        return skip("this host has cgroup v1");
    }
    let id = sleeping(stage, &["--memory-limit", "67108864"])?;
    let resources = json!({
        "memory": { "limit": 134_217_728, "reservation": 33_554_432, "swap": 201_326_592 },
        "cpu": {
            "shares": 512, "quota": 50_000, "period": 200_000, "burst": 10_000, "cpus": "0", "mems": "0",
        },
        "pids": { "limit": 77 },
        "blockIO": { "weight": 500 },
        "unified": { "memory.high": "100663296", "memory.oom.group": "1" },
    });
    let any = Message::new()
        .text(1, "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources")
        .text(2, resources.to_string());
    let request = Message::new().text(1, &id).message(2, any);
    super::call(stage, "Update", &request)?.ok("Update")?;
    let dir = cgroup(stage, "memory", &id)?;
    let wanted = [
        ("memory.max", "134217728"),
        ("memory.low", "33554432"),
        ("memory.swap.max", "67108864"),
        ("memory.high", "100663296"),
        ("memory.oom.group", "1"),
        ("cpu.max", "50000 200000"),
        ("cpu.max.burst", "10000"),
        ("cpuset.cpus", "0"),
        ("cpuset.mems", "0"),
        ("pids.max", "77"),
    ];
    for (file, value) in wanted {
        eq(file, &fs::read_to_string(dir.join(file))?.trim(), &value)?;
    }
    // The conversion from shares is the runtime's; half of the usual share is less than the usual weight.
    let weight: u32 =
        fs::read_to_string(dir.join("cpu.weight"))?.trim().parse().unwrap_or_default();
    ensure((1..100).contains(&weight), format!("cpu.weight is {weight}"))?;
    let weight = fs::read_to_string(dir.join("io.weight"))
        .or_else(|_| fs::read_to_string(dir.join("io.bfq.weight")));
    ensure(!weight?.contains("default 100\n"), "the weight of block I/O is the usual one")?;
    eq("exec after it", &exec(stage, &id, &["true"])?.code, &Some(0))?;
    end(stage, &id)
}

fn frozen(stage: &Stage) -> Res {
    let id = super::id(stage);
    let log = stage.path(&format!("{id}.log"));
    let options = ["--detach", "--log-uri", &format!("file://{log}")];
    let line = "while :; do echo tick; usleep 20000; done";
    run(stage, &id, &options, &["sh", "-c", line]).must()?;
    let size = || fs::metadata(&log).map_or(0, |file| file.len());
    stage.until("it ticks", || Ok(size() > 0))?;
    ctr(stage, &["tasks", "pause", &id]).must()?;
    let paused = size();
    let group = cgroup(stage, if unified() { "memory" } else { "freezer" }, &id)?;
    let v1 = fs::read_to_string(group.join("freezer.state"));
    match v1 {
        Ok(state) => eq("freezer.state", &state.trim(), &"FROZEN")?,
        Err(_) => {
            has("cgroup.events", &fs::read_to_string(group.join("cgroup.events"))?, "frozen 1")?
        }
    }
    eq("output of a frozen task", &size(), &paused)?;
    ctr(stage, &["tasks", "resume", &id]).must()?;
    stage.until("it ticks again", || Ok(size() > paused))?;
    end(stage, &id)
}

/// Skips where AppArmor does not confine anybody.
fn apparmor() -> Res {
    let enabled = fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    if !enabled.is_ok_and(|word| word.starts_with('Y')) {
        return skip("AppArmor is not active on this machine");
    }
    ensure(Path::new("/sys/kernel/security/apparmor").exists(), "securityfs is not mounted")
}

/// Prints the profile of the process itself.
const OWN_PROFILE: [&str; 2] = ["cat", "/proc/self/attr/current"];

fn default_profile(stage: &Stage) -> Res {
    apparmor()?;
    let name = format!("{}-default", stage.word);
    stage.later(&["apparmor_parser", "--remove", &stage.path("default")]);
    fs::write(stage.path("default"), format!("profile {name} {{ }}\n"))?;
    let options = ["--apparmor-default-profile", &name];
    let text = sh_ok(stage, &options, &OWN_PROFILE.join(" "))?;
    eq("profile", &text.as_str(), &format!("{name} (enforce)").as_str())
}

fn own_profile(stage: &Stage) -> Res {
    apparmor()?;
    let name = format!("{}-own", stage.word);
    let file = stage.path("own");
    let rules = "file, capability, mount, umount, network, signal, ptrace, deny /data/file r,";
    let profile =
        format!("profile {name} flags=(attach_disconnected, mediate_deleted) {{ {rules} }}\n");
    fs::write(&file, profile)?;
    let missing = run(stage, &super::id(stage), &["--rm", "--apparmor-profile", &name], &["true"]);
    let refused = missing.output()?;
    ensure(refused.code != Some(0), "a profile that is not loaded was accepted")?;
    has("message", &refused.err, &name)?;
    stage.cmd(&["apparmor_parser", "--replace", "--skip-cache", &file]).must()?;
    stage.later(&["apparmor_parser", "--remove", &file]);
    let id = sleeping(stage, &["--apparmor-profile", &name])?;
    let wanted = format!("{name} (enforce)");
    let init = fs::read_to_string(format!("/proc/{}/attr/current", pid(stage, &id)?))?;
    eq("profile of the program", &init.trim(), &wanted.as_str())?;
    let added = exec(stage, &id, &OWN_PROFILE)?;
    eq("profile of an exec", &added.out.trim(), &wanted.as_str())?;
    let denied = exec(stage, &id, &["cat", "/data/file"])?;
    has("what the profile denies", &denied.err, "Permission denied")?;
    end(stage, &id)
}

fn shim_cgroup(stage: &Stage) -> Res {
    if stage.shim.is_none() {
        return skip("ctr has no option for it with containerd's own shim");
    }
    let name = format!("/{}-shims", stage.word);
    let all = cgroups::hierarchies();
    let place = all[0].point.join(&name[1..]);
    fs::create_dir(&place)?;
    let result = shim_in(stage, &name, &place);
    stage.until("the shim's cgroup is empty", || Ok(fs::remove_dir(&place).is_ok()))?;
    result
}

fn shim_in(stage: &Stage, name: &str, place: &Path) -> Res {
    let file = stage.path("options.toml");
    fs::write(&file, format!("ShimCgroup = \"{name}\"\n"))?;
    let id = sleeping(stage, &["--runtime-config-path", &file])?;
    let shim = shim_of(stage, &id)?;
    let procs = fs::read_to_string(place.join("cgroup.procs"))?;
    let init = pid(stage, &id)?.to_string();
    ensure(procs.lines().any(|pid| pid == shim.to_string()), format!("{shim} is not in {procs}"))?;
    ensure(procs.lines().all(|pid| pid != init), "the container is in the shim's cgroup")?;
    end(stage, &id)
}
