//! On the real kernel: cgroups named `bulkhead-test-PID-N`, on v1, hybrid and v2 hosts.

use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::unistd::pipe;
use oci_spec::runtime::Linux;

use super::*;
use crate::sys::bpf;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A cgroup that is killed and removed at the end of its test.
pub(super) struct Test {
    top: PathBuf,
    plan: Plan,
    pub(super) cgroup: Cgroup,
}

impl Drop for Test {
    fn drop(&mut self) {
        let _ = self.cgroup.kill(libc::SIGKILL);
        self.cgroup.recorded().delete().unwrap();
        for path in self.plan.paths() {
            assert!(!path.parent().unwrap().exists(), "{path:?} is left");
        }
    }
}

fn planned(resources: &str) -> (PathBuf, Plan) {
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let top = PathBuf::from(format!("/bulkhead-test-{}-{n}", std::process::id()));
    let text = format!(r#"{{"cgroupsPath":"{}/inner","resources":{resources}}}"#, top.display());
    let linux: Linux = serde_json::from_str(&text).unwrap();
    let layout = layout::Layout::detect().unwrap();
    let plan = plan(&linux, "id", &layout, Permission::Required, &mut Vec::new()).unwrap();
    (top, plan)
}

pub(super) fn make(resources: &str) -> Test {
    let (top, plan) = planned(resources);
    let mut warnings = Vec::new();
    let cgroup = plan.create(&mut warnings).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    Test { top, plan, cgroup }
}

impl Test {
    fn file(&self, v1: (&str, &str), v2: &str) -> String {
        let (group, file) = match self.cgroup.v1(v1.0) {
            Some(group) => (group, v1.1),
            None => (self.cgroup.unified().unwrap(), v2),
        };
        knob::read(&group.dir, file).unwrap().trim().to_string()
    }

    /// A shell that is inside before it runs `script`.
    fn run(&self, script: &str) -> Child {
        let mut child = shell(script);
        attach(&self.cgroup, child.id());
        go(&mut child);
        child
    }
}

/// Moves a process into every hierarchy.
fn attach(cgroup: &Cgroup, pid: u32) {
    for group in &cgroup.groups {
        knob::put(&group.dir, "cgroup.procs", &pid.to_string()).unwrap();
    }
}

/// A shell that waits for a line.
fn shell(script: &str) -> Child {
    Command::new("sh")
        .args(["-c", &format!("read go; {script}")])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn go(child: &mut Child) {
    child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
}

#[test]
fn limits_are_written_and_everything_goes_away() {
    let test = make(
        r#"{"pids":{"limit":17},"memory":{"limit":67108864,"reservation":33554432,"swap":67108864},
            "cpu":{"shares":2048,"quota":50000,"period":100000,"cpus":"0"}}"#,
    );
    assert_eq!(test.file(("pids", "pids.max"), "pids.max"), "17");
    let limit = test.file(("memory", "memory.limit_in_bytes"), "memory.max");
    assert_eq!(limit, "67108864");
    let low = test.file(("memory", "memory.soft_limit_in_bytes"), "memory.low");
    assert_eq!(low, "33554432");
    assert_eq!(test.file(("cpuset", "cpuset.cpus"), "cpuset.cpus"), "0");
    let v1 = test.cgroup.v1("cpu").is_some();
    let shares = test.file(("cpu", "cpu.shares"), "cpu.weight");
    assert_eq!(shares, if v1 { "2048" } else { "174" });
    let quota = test.file(("cpu", "cpu.cfs_quota_us"), "cpu.max");
    assert_eq!(quota, if v1 { "50000" } else { "50000 100000" });
    if v1 {
        let mems = test.file(("cpuset", "cpuset.mems"), "");
        assert!(!mems.is_empty(), "memory nodes are inherited");
        let devices = test.file(("devices", "devices.list"), "");
        assert!(devices.contains("c 1:3 rwm") && !devices.contains("a *:* rwm"), "{devices}");
    }
    let recorded = test.cgroup.recorded();
    let text = serde_json::to_string(&recorded).unwrap();
    assert_eq!(serde_json::from_str::<Recorded>(&text).unwrap(), recorded);
    assert!(
        recorded
            .0
            .iter()
            .all(|g| g.ancestors == [g.mount_point.join(test.top.strip_prefix("/").unwrap())])
    );
}

#[test]
fn one_mebibyte_starts() {
    let test = make(r#"{"memory":{"limit":1048576}}"#);
    let mut child = test.run("exit 7");
    assert_eq!(child.wait().unwrap().code(), Some(7));
}

#[test]
fn a_failed_create_leaves_nothing_of_its_own() {
    let (_, plan) = planned(r#"{"cpu":{"cpus":"99999"}}"#);
    let error = plan.create(&mut Vec::new()).unwrap_err().to_string();
    assert!(error.starts_with("set linux.resources.cpu.cpus (cpuset.cpus \"99999\")"), "{error}");
    for path in plan.paths() {
        assert!(!path.parent().unwrap().exists(), "{path:?}");
    }
}

#[test]
fn a_killed_create_is_removed_by_what_was_recorded_before() {
    let (_, plan) = planned("{}");
    let recorded = plan.recorded();
    assert!(recorded.0.iter().all(|g| g.ancestors.len() == 1));
    std::mem::forget(plan.create(&mut Vec::new()).unwrap());
    recorded.delete().unwrap();
    recorded.delete().unwrap();
    assert!(plan.paths().iter().all(|p| !p.parent().unwrap().exists()));
}

#[test]
fn undo_keeps_what_was_there() {
    let (_, plan) = planned("{}");
    let paths = plan.paths();
    let top = paths[0].parent().unwrap().to_path_buf();
    std::fs::create_dir(&top).unwrap();
    let cgroup = plan.create(&mut Vec::new()).unwrap();
    cgroup.recorded().delete().unwrap();
    assert!(top.exists() && !paths[0].exists());
    std::fs::remove_dir(&top).unwrap();
    assert!(paths.iter().all(|p| !p.parent().unwrap().exists()));
}

#[test]
fn members_are_found_verified_and_killed() {
    let test = make("{}");
    let mut child = test.run("exec sleep 1000");
    let pid = child.id() as i32;
    assert_eq!(test.cgroup.pids().unwrap(), [pid]);
    test.cgroup.kill(libc::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
    assert!(test.cgroup.pids().unwrap().is_empty());
}

#[test]
fn processes_in_sub_cgroups_and_one_hierarchy_only() {
    let test = make("{}");
    let mut nested = test.run("exec sleep 1000");
    let mut alone = shell("exec sleep 1000");
    go(&mut alone);
    // One process in a sub-cgroup of every hierarchy; another in a single hierarchy's sub-cgroup.
    for (i, group) in test.cgroup.groups.iter().enumerate() {
        let deep = group.at.path.join("a/b");
        std::fs::create_dir_all(&deep).unwrap();
        if group.at.controllers.iter().any(|c| c == "cpuset") {
            let below = PathBuf::from("inner/a/b");
            let relative = test.top.strip_prefix("/").unwrap().join(below);
            v1::inherit_cpuset(&open_path(&group.at.mount_point).unwrap(), &relative, &|_| false)
                .unwrap();
        }
        std::fs::write(deep.join("cgroup.procs"), nested.id().to_string()).unwrap();
        if i == test.cgroup.groups.len() - 1 {
            std::fs::write(deep.join("cgroup.procs"), alone.id().to_string()).unwrap();
        }
    }
    let mut pids = [nested.id() as i32, alone.id() as i32];
    pids.sort();
    assert_eq!(test.cgroup.pids().unwrap(), pids);
    test.cgroup.kill(libc::SIGKILL).unwrap();
    assert_eq!(nested.wait().unwrap().signal(), Some(libc::SIGKILL));
    assert_eq!(alone.wait().unwrap().signal(), Some(libc::SIGKILL));
}

#[test]
fn processes_of_v1_hierarchies_only_are_killed() {
    let test = make("{}");
    let mut child = shell("exec sleep 1000");
    for group in test.cgroup.groups.iter().filter(|g| !g.at.unified) {
        knob::put(&group.dir, "cgroup.procs", &child.id().to_string()).unwrap();
    }
    if test.cgroup.v1("pids").is_some() {
        test.cgroup.kill(libc::SIGKILL).unwrap();
        assert!(!test.cgroup.is_frozen().unwrap());
    } else {
        child.kill().unwrap();
    }
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
}

#[test]
fn freeze_thaw_and_kill_while_frozen() {
    let test = make("{}");
    let mut child = test.run("while :; do :; done");
    assert!(!test.cgroup.is_frozen().unwrap());
    test.cgroup.freeze().unwrap();
    assert!(test.cgroup.is_frozen().unwrap());
    test.cgroup.kill(libc::SIGTERM).unwrap();
    assert!(test.cgroup.is_frozen().unwrap(), "a paused container stays paused");
    test.cgroup.thaw().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));

    let mut child = test.run("while :; do sh -c :; done");
    test.cgroup.freeze().unwrap();
    test.cgroup.kill(libc::SIGKILL).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
}

#[test]
fn an_empty_cgroup_freezes() {
    let test = make("{}");
    test.cgroup.freeze().unwrap();
    test.cgroup.thaw().unwrap();
    assert!(!test.cgroup.is_frozen().unwrap());
}

/// As a container may that has its cgroups mounted writable: on v1 nothing frozen dies.
#[test]
fn sigkill_reaches_what_the_container_has_frozen_itself() {
    let test = make("{}");
    let Some(freezer) = test.cgroup.v1("freezer") else { return };
    let mut child = test.run("read end");
    let nested = freezer.at.path.join("a");
    std::fs::create_dir_all(nested.join("b")).unwrap();
    std::fs::write(nested.join("b/cgroup.procs"), child.id().to_string()).unwrap();
    std::fs::write(nested.join("freezer.state"), "FROZEN").unwrap();
    test.cgroup.kill(libc::SIGKILL).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
}

#[test]
fn only_listed_devices_open() {
    // full (1:7) is a default, kmsg (1:11) is not, and fuse is allowed here for reading only.
    let test = make(
        r#"{"devices":[{"allow":false,"access":"rwm"},
            {"allow":true,"type":"c","major":1,"minor":11,"access":"w"}]}"#,
    );
    let script = "head -c1 /dev/full >/dev/null || exit 1; head -c1 /dev/kmsg && exit 2; \
        : >>/dev/kmsg || exit 3; d=$(mktemp -d); mknod $d/n c 1 1 || exit 4; head -c1 $d/n && exit 5; \
        rm -r $d; exit 0";
    let mut child = test.run(script);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// The device program works in any cgroup2 directory, also one without controllers.
#[test]
fn the_device_program_on_any_cgroup2() {
    let test = make("{}");
    let Some(group) = test.cgroup.unified() else {
        return;
    };
    let program = bpf::load_device_program(&test.plan.devices.program()).unwrap();
    bpf::attach_device_program(group.dir.as_fd(), program.as_fd()).unwrap();
    let mut child =
        shell("head -c1 /dev/zero >/dev/null || exit 1; head -c1 /dev/kmsg && exit 2; exit 0");
    knob::put(&group.dir, "cgroup.procs", &child.id().to_string()).unwrap();
    go(&mut child);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

fn update(test: &Test, json: &str) -> Result<()> {
    test.cgroup.update(&serde_json::from_str(json).unwrap(), &mut Vec::new())
}

#[test]
fn updates_keep_what_is_not_given() {
    let test = make(
        r#"{"cpu":{"quota":20000,"period":50000},"memory":{"limit":67108864,"swap":134217728}}"#,
    );
    let v1 = test.cgroup.v1("cpu").is_some();
    let cpu = |test: &Test| {
        if v1 {
            let quota = test.file(("cpu", "cpu.cfs_quota_us"), "");
            format!("{quota} {}", test.file(("cpu", "cpu.cfs_period_us"), ""))
        } else {
            test.file(("cpu", ""), "cpu.max")
        }
    };
    update(&test, r#"{"cpu":{"quota":30000}}"#).unwrap();
    assert_eq!(cpu(&test), "30000 50000");
    update(&test, r#"{"cpu":{"period":100000}}"#).unwrap();
    assert_eq!(cpu(&test), "30000 100000");
    let unlimited = if v1 { "-1 100000" } else { "max 100000" };
    update(&test, r#"{"cpu":{"quota":-1}}"#).unwrap();
    assert_eq!(cpu(&test), unlimited);
    // Larger and smaller, where each must be written first in turn.
    for (limit, swap) in [(256u64 << 20, 512u64 << 20), (16 << 20, 32 << 20), (64 << 20, 64 << 20)]
    {
        let json = format!(r#"{{"memory":{{"limit":{limit},"swap":{swap}}}}}"#);
        update(&test, &json).unwrap();
        let shown = test.file(("memory", "memory.limit_in_bytes"), "memory.max");
        assert_eq!(shown, limit.to_string());
        let total = test.file(("memory", "memory.memsw.limit_in_bytes"), "memory.swap.max");
        assert_eq!(total, if v1 { swap } else { swap - limit }.to_string());
    }
    update(&test, r#"{"memory":{"limit":-1}}"#).unwrap();
    update(&test, r#"{"pids":{"limit":0},"cpu":{"shares":512}}"#).unwrap();
    assert_eq!(test.file(("pids", "pids.max"), "pids.max"), "0");
    let error = update(&test, r#"{"cpu":{"cpus":"77777"}}"#).unwrap_err().to_string();
    assert!(error.contains("cpuset.cpus \"77777\""), "{error}");
}

#[test]
fn a_limit_below_what_is_used_is_refused() {
    let test = make("{}");
    // Anonymous memory, which cannot be reclaimed without swap.
    let mut child =
        test.run("x=$(head -c 30000000 /dev/zero | tr '\\0' x); echo; exec sleep 1000 <&-");
    let used = || test.cgroup.stats().memory.usage.usage;
    while used() < 20_000_000 {
        std::thread::yield_now();
    }
    let json = r#"{"memory":{"limit":4096,"checkBeforeUpdate":true}}"#;
    let error = update(&test, json).unwrap_err().to_string();
    assert!(error.starts_with("set linux.resources.memory.limit (memory."), "{error}");
    test.cgroup.kill(libc::SIGKILL).unwrap();
    child.wait().unwrap();
}

#[test]
fn figures() {
    let test = make(r#"{"pids":{"limit":9},"memory":{"limit":67108864}}"#);
    let mut child =
        test.run("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo done; read end");
    let stats = loop {
        let stats = test.cgroup.stats();
        if stats.cpu.usage.total > 1_000_000 {
            break stats;
        }
    };
    assert_eq!((stats.pids.limit, stats.memory.usage.limit), (9, 67_108_864));
    assert!(
        stats.pids.current >= 1 && stats.memory.usage.usage > 0 && !stats.memory.raw.is_empty()
    );
    go(&mut child);
    child.wait().unwrap();
}

#[test]
fn kills_for_lack_of_memory_are_seen() {
    let test = make(r#"{"memory":{"limit":8388608,"swap":8388608}}"#);
    let (end, _hold) = pipe().unwrap();
    let mut child = shell("exec tail /dev/zero");
    attach(&test.cgroup, child.id());
    let (told, hear) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let end = &end;
        let watch = test.cgroup.watch_oom().unwrap();
        // From here on kills are seen, whenever somebody comes to look.
        go(&mut child);
        let watch =
            scope.spawn(move || watch.run(end.as_fd(), &mut |kill| told.send(kill).unwrap()));
        let kill = hear.recv().unwrap();
        let victim = kill.victim.expect("root may read the kernel log");
        assert!(!kill.group);
        assert_eq!((victim.pid, victim.name.as_str()), (child.id() as i32, "tail"));
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
        drop(_hold);
        watch.join().unwrap().unwrap();
    });
}

#[test]
fn sub_cgroups_stay_inside() {
    let test = make("{}");
    let cgroup = Cgroup::open(&test.cgroup.recorded()).unwrap();
    for bad in ["..", "a/../../x", "/../x"] {
        assert!(cgroup.sub(&[(vec![], PathBuf::from(bad))]).is_err(), "{bad}");
    }
    assert!(cgroup.sub(&[(vec![], PathBuf::from("missing"))]).is_err());
    assert!(cgroup.sub(&[(vec!["nothing".to_string()], PathBuf::from(""))]).is_err());
    for group in &cgroup.groups {
        std::fs::create_dir(group.at.path.join("s")).unwrap();
    }
    let all = cgroup.sub(&[(vec![], PathBuf::from("/s"))]).unwrap();
    assert!(all.groups.iter().all(|g| g.at.path.ends_with("inner/s")));
    if cgroup.v1("pids").is_some() {
        let one = cgroup.sub(&[(vec!["pids".to_string()], PathBuf::from("s"))]).unwrap();
        assert!(one.v1("pids").unwrap().at.path.ends_with("inner/s"));
        assert!(one.v1("cpu").unwrap().at.path.ends_with("inner"));
    }
}

#[test]
fn a_process_joins_by_descriptors() {
    let test = make("{}");
    let mut cgroup = Cgroup::open(&test.cgroup.recorded()).unwrap();
    cgroup.clone_into = false;
    cgroup.prepare_join().unwrap();
    crate::testing::in_child(|| {
        cgroup.join().unwrap();
        reset_affinity().unwrap();
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let joined = own.lines().filter(|line| line.ends_with("/inner")).count();
        assert_eq!(joined, cgroup.groups.len(), "{own}");
    });
}

#[test]
fn a_cgroup_that_is_gone_is_not_joined() {
    let (_, plan) = planned("{}");
    let mut cgroup = Cgroup::open(&plan.recorded()).unwrap();
    assert_eq!(cgroup.prepare_join().unwrap_err().kind(), ErrorKind::WrongState);
    cgroup.kill(libc::SIGKILL).unwrap();
    cgroup.recorded().delete().unwrap();
}

#[test]
fn recorded_paths_are_checked() {
    let group = |path: &str, ancestors: &[&str]| RecordedGroup {
        controllers: vec![],
        name: None,
        unified: true,
        mount_point: PathBuf::from("/sys/fs/cgroup/unified"),
        path: PathBuf::from(path),
        ancestors: ancestors.iter().map(PathBuf::from).collect(),
        subgroup: None,
    };
    for bad in [
        group("/sys/fs/cgroup/unified", &[]),
        group("/sys/fs/cgroup/unified/../cpu/x", &[]),
        group("/etc", &[]),
        group("/sys/fs/cgroup/unified/a", &["/etc"]),
        group("/sys/fs/cgroup/unified/a/b", &["/sys/fs/cgroup/unified/c"]),
    ] {
        assert!(Cgroup::open(&Recorded(vec![bad.clone()])).is_err(), "{bad:?}");
        assert!(Recorded(vec![bad.clone()]).delete().is_err(), "{bad:?}");
    }
}

#[test]
fn no_births_at_a_pids_limit_of_zero() {
    let test = make(r#"{"pids":{"limit":0}}"#);
    assert!(test.plan.is_joined_late());
    assert_eq!(test.cgroup.clone_target().is_some(), test.cgroup.v1("pids").is_some());
    let mut child = test.run("exit 3");
    assert_eq!(child.wait().unwrap().code(), Some(3));
}

#[test]
fn the_sub_cgroup_of_a_process_is_found() {
    let test = make("{}");
    let Some(group) = test.cgroup.unified() else { return };
    let mut child = test.run("exec sleep 1000");
    let pid = child.id() as i32;
    assert!(test.cgroup.sub_of(pid).unwrap().is_none(), "the container's own directory");
    assert!(test.cgroup.sub_of(1).unwrap().is_none(), "not below it");
    let below = group.at.path.join("a/b");
    std::fs::create_dir_all(&below).unwrap();
    std::fs::write(below.join("cgroup.procs"), pid.to_string()).unwrap();
    let found = test.cgroup.sub_of(pid).unwrap().unwrap();
    assert_eq!(found.unified().unwrap().at.path, below);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn occupied_cgroups_are_not_shared_on_v2() {
    let test = make("{}");
    if test.cgroup.unified().is_none() {
        return;
    }
    let mut child = test.run("exec sleep 1000");
    let error = test.plan.refuse_occupied().unwrap_err().to_string();
    assert!(error.contains("holds 1 processes"), "{error}");
    child.kill().unwrap();
    child.wait().unwrap();
}

const ORDINARY: &str = "BULKHEAD_TEST_ORDINARY";

/// Runs itself as an ordinary user, who may not make cgroups.
#[test]
fn an_ordinary_user_goes_without_unless_limits_are_asked_for() {
    if std::env::var(ORDINARY).is_err() {
        let status = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "cgroup::tests::an_ordinary_user_goes_without_unless_limits_are_asked_for",
            ])
            .env(ORDINARY, "1")
            .uid(54321)
            .gid(54321)
            .stdout(Stdio::null())
            .status()
            .unwrap();
        return assert!(status.success());
    }
    let (_, mut plan) = planned("{}");
    let error = plan.create(&mut Vec::new()).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::EACCES), "{error}");
    plan.permission = Permission::Lacking;
    let mut warnings = Vec::new();
    let cgroup = plan.create(&mut warnings).unwrap();
    assert!(cgroup.groups.is_empty() && cgroup.clone_target().is_none());
    assert_eq!(warnings, Vec::<String>::new());
    cgroup.join().unwrap();
    cgroup.kill(libc::SIGKILL).unwrap();
    cgroup.recorded().delete().unwrap();
    let (_, mut plan) = planned(r#"{"memory":{"limit":4096}}"#);
    plan.permission = Permission::Lacking;
    let error = plan.create(&mut Vec::new()).unwrap_err().to_string();
    assert!(error.starts_with("set linux.resources.memory.limit: no cgroup: "), "{error}");
}

#[test]
fn a_parent_with_processes_passes_no_controllers_on() {
    let (top, plan) = planned(r#"{"memory":{"limit":67108864}}"#);
    let layout = layout::Layout::detect().unwrap();
    let (true, Some(unified)) = (layout.v1.is_empty(), &layout.unified) else {
        return;
    };
    let parent = unified.mount_point.join(top.strip_prefix("/").unwrap());
    std::fs::create_dir(&parent).unwrap();
    let mut child = shell("exec sleep 1000");
    std::fs::write(parent.join("cgroup.procs"), child.id().to_string()).unwrap();
    let error = plan.create(&mut Vec::new()).unwrap_err().to_string();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!plan.paths()[0].exists());
    std::fs::remove_dir(&parent).unwrap();
    assert!(
        error.contains("linux.resources.memory.limit: the memory controller is not"),
        "{error}"
    );
    assert!(error.contains("it holds processes"), "{error}");
}

#[test]
fn unified_settings() {
    if !layout::Layout::detect().unwrap().v1.is_empty() {
        return;
    }
    let test =
        make(r#"{"unified":{"memory.high":"33554432","pids.max":"11","cgroup.max.depth":"3"}}"#);
    assert_eq!(test.file(("", ""), "memory.high"), "33554432");
    assert_eq!(test.file(("", ""), "pids.max"), "11");
    assert_eq!(test.file(("", ""), "cgroup.max.depth"), "3");
    let (_, plan) = planned(r#"{"unified":{"memory.nonsense":"1"}}"#);
    let error = plan.create(&mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("the kernel has no memory.nonsense"), "{error}");
}
