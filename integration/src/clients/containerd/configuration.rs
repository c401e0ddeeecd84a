//! What a container is told to be, seen from inside and outside.

use oci_tests::check::{Res, ensure, eq, has, skip};
use oci_tests::kind::Kind;

use super::{cgroup, end, exec, sh, sh_ok, shim_of, sleeping};
use crate::scenario::{Scenario, scenario};
use crate::stage::Stage;

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("limits of memory and processor, inside and outside", "F141", limits),
        scenario("a read-only root and a writable mount", "F145", read_only),
        scenario("user, environment, directory, hostname of the program", "F153", process),
        scenario("the default seccomp profile", "F144", seccomp),
        scenario("a seccomp profile of one's own", "F144", seccomp_profile),
        scenario("capabilities are dropped and added", "F144", capabilities),
        scenario("a user namespace with mapped ids", "F145", user_namespace),
        scenario("a namespace of another task is joined", "F144", join),
        scenario("a device of the host", "F144", device),
        scenario("the host's network", "F144", host_network),
        scenario("a root file system of one's own", "F144", own_root),
        scenario("a pod: two containers in one shim, sharing namespaces", "F161", pod),
        scenario("all privileges", "F144", privileged),
    ]
}

fn limits(stage: &Stage) -> Res {
    let options = ["--memory-limit", "67108864", "--cpus", "0.5", "--cpu-shares", "512"];
    let id = sleeping(stage, &options)?;
    let wanted = [
        ("memory", ["memory.limit_in_bytes", "memory.max"], ["67108864", "67108864"]),
        ("cpu", ["cpu.cfs_quota_us", "cpu.max"], ["50000", "50000 100000"]),
    ];
    for (controller, files, values) in wanted {
        let dir = cgroup(stage, controller, &id)?;
        let v2 = usize::from(!dir.join(files[0]).exists());
        let seen = std::fs::read_to_string(dir.join(files[v2]))?;
        eq(files[v2], &seen.trim(), &values[v2])?;
        let procs = std::fs::read_to_string(dir.join("cgroup.procs"))?;
        eq("processes in the cgroup", &procs.lines().count(), &1)?;
    }
    let inside = exec(stage, &id, &["cat", "/proc/1/cgroup"])?.out;
    // One line for all controllers is that of cgroup v2.
    let line = if inside.lines().count() == 1 { "0::/" } else { ":memory:/" };
    has("the cgroup as seen inside", &inside, line)?;
    end(stage, &id)
}

fn read_only(stage: &Stage) -> Res {
    let dir = stage.path("writable");
    std::fs::create_dir_all(&dir)?;
    let mount = format!("type=bind,src={dir},dst=/mnt,options=rbind:rw");
    let line = "touch /x; touch /mnt/x && echo written";
    let output = sh(stage, &["--read-only", "--mount", &mount], line)?;
    has("touch on the root", &output.err, "Read-only file system")?;
    has("touch on the mount", &output.out, "written")?;
    ensure(super::exists(&format!("{dir}/x")), "the file is not on the host")?;
    let mount = format!("type=bind,src={dir},dst=/mnt,options=rbind:ro");
    let output = sh(stage, &["--mount", &mount], "touch /mnt/y")?;
    has("touch on a read-only mount", &output.err, "Read-only file system")
}

fn process(stage: &Stage) -> Res {
    let options = ["--env", "ONE=1", "--cwd", "/data", "--hostname", "other"];
    let text =
        sh_ok(stage, &options[..4], "echo $ONE; pwd; id -u; grep NoNewPrivs /proc/self/status");
    eq("what it sees", &text?.as_str(), &"1\n/data\n0\nNoNewPrivs:\t1")
}

fn seccomp(stage: &Stage) -> Res {
    let line = "grep '^Seccomp:' /proc/self/status; unshare -m true";
    let output = sh(stage, &["--seccomp"], line)?;
    has("mode", &output.out, "2")?;
    has("unshare", &output.err, "Operation not permitted")
}

fn seccomp_profile(stage: &Stage) -> Res {
    let file = stage.path("profile.json");
    let profile = serde_json::json!({
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [
            { "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28 },
        ],
    });
    std::fs::write(&file, profile.to_string())?;
    let output = sh(stage, &["--seccomp", "--seccomp-profile", &file], "mkdir /tmp/x")?;
    has("mkdir", &output.err, "No space left on device")
}

fn capabilities(stage: &Stage) -> Res {
    let options = ["--cap-drop", "CAP_CHOWN", "--cap-add", "CAP_SYS_TIME"];
    let text = sh_ok(stage, &options, "grep CapEff /proc/self/status")?;
    let set = text.split_whitespace().next_back().unwrap_or_default();
    let set = u64::from_str_radix(set, 16).unwrap_or_default();
    eq("CAP_CHOWN", &(set & 1), &0)?;
    eq("CAP_SYS_TIME", &(set >> 25 & 1), &1)
}

fn user_namespace(stage: &Stage) -> Res {
    let options = ["--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"];
    let output = sh(stage, &options, "id -u; cat /proc/self/uid_map; touch /tmp/x && echo wrote")?;
    if output.err.contains("not support") {
        return skip(oci_tests::check::cut(&output.err));
    }
    let words: Vec<&str> = output.out.split_whitespace().collect();
    eq(
        &format!("user and map ({})", output.brief()),
        &words,
        &vec!["0", "0", "100000", "65536", "wrote"],
    )
}

fn join(stage: &Stage) -> Res {
    let id = sleeping(stage, &[])?;
    let pid = super::pid(stage, &id)?;
    let (ipc, pids) = (format!("ipc:/proc/{pid}/ns/ipc"), format!("pid:/proc/{pid}/ns/pid"));
    let line = "readlink /proc/self/ns/ipc; readlink /proc/self/ns/pid; cat /proc/1/cmdline";
    let text = sh_ok(stage, &["--with-ns", &ipc, "--with-ns", &pids], line)?;
    for name in ["ipc", "pid"] {
        let link = std::fs::read_link(format!("/proc/{pid}/ns/{name}"))?;
        has("namespaces", &text, &link.display().to_string())?;
    }
    has("pid 1", &text, "sleep")?;
    end(stage, &id)
}

fn device(stage: &Stage) -> Res {
    let line = "ls -l /dev/fuse && head -c0 /dev/fuse && echo opened";
    has("device", &sh_ok(stage, &["--device", "/dev/fuse"], line)?, "opened")?;
    let output = sh(stage, &[], "mknod /tmp/fuse c 10 229; head -c0 /tmp/fuse")?;
    ensure(output.code != Some(0), "a device that was not given can be opened")
}

fn host_network(stage: &Stage) -> Res {
    let link = std::fs::read_link("/proc/self/ns/net")?.display().to_string();
    eq("with", &sh_ok(stage, &["--net-host"], "readlink /proc/self/ns/net")?, &link)?;
    ensure(sh_ok(stage, &[], "readlink /proc/self/ns/net")? != link, "without: the host's too")
}

fn own_root(stage: &Stage) -> Res {
    let root = stage.path("own-root");
    let from = stage.images.join("rootfs").display().to_string();
    stage.cmd(&["cp", "-a", &from, &root]).must()?;
    let id = super::id(stage);
    let line = "touch /made; cat /data/file";
    let text = super::run_at(stage, &id, &root, &["sh", "-c", line]).must()?;
    eq("file", &text.as_str(), &"of the image")?;
    ensure(super::exists(&format!("{root}/made")), "the root is not the directory")
}

fn pod(stage: &Stage) -> Res {
    let name = super::id(stage);
    let sandbox = |kind: &str| {
        [
            format!("io.kubernetes.cri.container-type={kind}"),
            format!("io.kubernetes.cri.sandbox-id={name}"),
        ]
    };
    let [kind, of] = sandbox("sandbox");
    let options = ["--detach", "--null-io", "--annotation", &kind, "--annotation", &of];
    super::run(stage, &name, &options, &["sleep", "1000"]).must()?;
    let pid = super::pid(stage, &name)?;
    let (ipc, net) = (format!("ipc:/proc/{pid}/ns/ipc"), format!("network:/proc/{pid}/ns/net"));
    let [kind, of] = sandbox("container");
    let options =
        ["--annotation", &kind, "--annotation", &of, "--with-ns", &ipc, "--with-ns", &net];
    let members = [sleeping(stage, &options)?, sleeping(stage, &options)?];
    let shim = shim_of(stage, &name)?;
    for member in &members {
        ensure(shim_of(stage, member).is_err(), "a member of the pod has a shim of its own")?;
        let link = exec(stage, member, &["readlink", "/proc/self/ns/net"])?.out;
        let wanted = std::fs::read_link(format!("/proc/{pid}/ns/net"))?.display().to_string();
        eq("network namespace", &link.trim(), &wanted.as_str())?;
    }
    for member in &members {
        end(stage, member)?;
        ensure(super::exists(&format!("/proc/{shim}")), "the pod's shim ended with a member")?;
        eq("exec in the sandbox", &exec(stage, &name, &["true"])?.code, &Some(0))?;
    }
    end(stage, &name)
}

fn privileged(stage: &Stage) -> Res {
    let output = sh(stage, &["--privileged"], "grep CapEff /proc/self/status")?;
    // CAP_SYS_RESOURCE is bit 24.
    let own = std::fs::read_to_string("/proc/self/status")?;
    let lacks = own.lines().find(|line| line.starts_with("CapBnd")).is_some_and(|line| {
        let set = line.split_whitespace().next_back().unwrap_or_default();
        u64::from_str_radix(set, 16).unwrap_or_default() >> 24 & 1 == 0
    });
    if lacks && output.code != Some(0) {
        return skip("this machine's root lacks CAP_SYS_RESOURCE");
    }
    if lacks && stage.kind != Kind::Bulkhead {
        return Ok(());
    }
    eq(&output.brief(), &output.code, &Some(0))
}
