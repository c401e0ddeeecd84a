//! What a container is told to be, seen from inside and outside.

use std::os::unix::fs::{MetadataExt, chown};

use oci_tests::check::{Res, cut, ensure, eq, has, skip};
use oci_tests::kind::Kind;
use serde_json::json;

use super::{exec, inspect, sh, sh_ok, shared, sleeping};
use crate::known::DEV_NULL;
use crate::scenario::{Scenario, scenario};
use crate::stage::Stage;

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("limits, inside and outside", "F141", shared::limits),
        scenario("a read-only root with tmpfs and shm size", "F145", shared::read_only),
        scenario("binds, read-only binds, volumes with the image's files", "F145", binds),
        scenario("a volume with mapped ids", "F145", idmapped),
        scenario("a user namespace of one's own", "F145", user_namespace).but_crun(DEV_NULL),
        scenario("capabilities are dropped and added", "F144", capabilities),
        scenario("seccomp: default, own profile, none", "F144", seccomp),
        scenario("user, groups, directory, hostname, environment", "F153", shared::process),
        scenario("ulimits, oom score, sysctls", "F144", knobs),
        scenario("devices and their rules", "F144", devices),
        scenario("namespaces of the host and of another container", "F144", shared::namespaces),
        scenario("a private cgroup namespace", "F144", shared::cgroup_namespace),
        scenario("no cgroups at all", "F107 F144", no_cgroups),
        scenario("a monitor without a cgroup; split cgroups", "F107 F144", other_modes),
        scenario("all privileges", "F144", privileged),
    ]
}

fn binds(stage: &Stage) -> Res {
    let dir = stage.path("bound");
    std::fs::create_dir_all(&dir)?;
    let (plain, read) = (format!("{dir}:/mnt"), format!("{dir}:/mnt:ro"));
    sh_ok(stage, &["--volume", &plain], "echo text > /mnt/file")?;
    eq("file on the host", &std::fs::read_to_string(format!("{dir}/file"))?.as_str(), &"text\n")?;
    let output = sh(stage, &["--volume", &read], "cat /mnt/file; touch /mnt/other")?;
    has("touch", &output.err, "Read-only file system")?;
    let volume = format!("v{}", stage.next());
    stage.later(&["podman", "volume", "rm", "--force", &volume]);
    let option = format!("{volume}:/data");
    let text = sh_ok(stage, &["--volume", &option], "cat /data/file; stat -c %u /data/file")?;
    eq("file of the image", &text.as_str(), &"of the image\n1000")?;
    let overlay = format!("{dir}:/mnt:O");
    let output = sh(stage, &["--volume", &overlay], "touch /mnt/temporary && ls /mnt")?;
    has(&output.brief(), &output.out, "temporary")?;
    ensure(
        !std::path::Path::new(&dir).join("temporary").exists(),
        "the overlay's file is in the directory",
    )
}

fn idmapped(stage: &Stage) -> Res {
    let dir = stage.path("idmapped");
    std::fs::create_dir_all(&dir)?;
    std::fs::write(format!("{dir}/file"), "")?;
    chown(format!("{dir}/file"), Some(0), Some(0))?;
    let option = format!("{dir}:/mnt:idmap");
    let options = ["--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536", "--volume", &option];
    let output = sh(stage, &options, "stat -c '%u %g' /mnt/file && touch /mnt/new")?;
    if output.code != Some(0) && stage.kind != Kind::Bulkhead {
        return skip(cut(&output.err));
    }
    eq(&output.brief(), &output.out.trim(), &"0 0")?;
    eq("owner on the host", &std::fs::metadata(format!("{dir}/new"))?.uid(), &0)
}

fn user_namespace(stage: &Stage) -> Res {
    let options = ["--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"];
    let text = sh_ok(
        stage,
        &options,
        "id -u; awk '{print $2, $3}' /proc/self/uid_map; touch /x && echo wrote",
    )?;
    eq("what it sees", &text.as_str(), &"0\n100000 65536\nwrote")?;
    let name = sleeping(stage, &options)?;
    let pid = inspect(stage, &name, "/State/Pid")?;
    eq("owner of the process", &std::fs::metadata(format!("/proc/{pid}"))?.uid(), &100_000)?;
    let output = exec(stage, &name, &["sh", "-c", "id -u; exit 6"])?;
    eq("exec", &(output.code, output.out.as_str()), &(Some(6), "0\n"))?;
    eq("owner of the host's /dev/null", &std::fs::metadata("/dev/null")?.uid(), &0)
}

fn capabilities(stage: &Stage) -> Res {
    let line = "grep CapEff /proc/self/status";
    eq("CAP_SYS_ADMIN", &(shared::bits(&sh_ok(stage, &[], line)?) >> 21 & 1), &0)?;
    let options = ["--cap-drop", "ALL", "--cap-add", "NET_ADMIN"];
    eq("one alone", &shared::bits(&sh_ok(stage, &options, line)?), &(1 << 12))?;
    eq("of a user", &shared::bits(&sh_ok(stage, &["--user", "1000"], line)?), &0)
}

fn seccomp(stage: &Stage) -> Res {
    let line = "grep '^Seccomp:' /proc/self/status; unshare -m true";
    let output = sh(stage, &[], line)?;
    has("mode", &output.out, "2")?;
    has("unshare", &output.err, "Operation not permitted")?;
    let output = sh(stage, &["--security-opt", "seccomp=unconfined"], line)?;
    has("mode without", &output.out, "0")?;
    let file = stage.path("profile.json");
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [
            { "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28, "args": [] },
        ],
    });
    std::fs::write(&file, profile.to_string())?;
    let option = format!("seccomp={file}");
    let output = sh(stage, &["--security-opt", &option], "mkdir /tmp/x")?;
    has("mkdir", &output.err, "No space left on device")
}

fn knobs(stage: &Stage) -> Res {
    let options = [
        "--ulimit",
        "nofile=100:200",
        "--ulimit",
        "nproc=1000:1000",
        "--ulimit",
        "core=0:0",
        "--oom-score-adj",
        "500",
        "--sysctl",
        "kernel.msgmax=4096",
    ];
    let line =
        "ulimit -Sn; ulimit -Hn; ulimit -c; cat /proc/self/oom_score_adj /proc/sys/kernel/msgmax";
    let text = sh_ok(stage, &options, line)?;
    eq("what it sees", &text.as_str(), &"100\n200\n0\n500\n4096")
}

fn devices(stage: &Stage) -> Res {
    let line = "head -c0 /dev/fuse && echo opened";
    has("device", &sh_ok(stage, &["--device", "/dev/fuse"], line)?, "opened")?;
    let output =
        sh(stage, &["--cap-add", "MKNOD"], "mknod /tmp/fuse c 10 229 && head -c0 /tmp/fuse")?;
    has("a device that was not given", &output.err, "Operation not permitted")
}

fn no_cgroups(stage: &Stage) -> Res {
    let output = sh(stage, &["--cgroups=disabled"], "echo ran")?;
    if output.err.contains("not compatible with NoCgroups") {
        return skip(cut(&output.err));
    }
    eq(&output.brief(), &output.out.trim(), &"ran")?;
    let name = sleeping(stage, &["--cgroups=disabled"])?;
    let pid = inspect(stage, &name, "/State/Pid")?.to_string();
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    ensure(!text.contains("libpod"), format!("it is in {text}"))?;
    eq("exec", &exec(stage, &name, &["sh", "-c", "exit 4"])?.code, &Some(4))?;
    for command in ["pause", "stats"] {
        let mut words = vec![command];
        words.extend((command == "stats").then_some("--no-stream"));
        let output = super::podman(stage, &words).args(&[&name]).output()?;
        ensure(output.code != Some(0), format!("podman {command} worked"))?;
        has(command, &output.err.to_lowercase(), "cgroup")?;
    }
    super::podman(stage, &["stop", "--time", "0", &name]).must()?;
    eq("exit code", &inspect(stage, &name, "/State/ExitCode")?, &137.into())
}

fn other_modes(stage: &Stage) -> Res {
    let parent = format!("--cgroup-parent=/{}", stage.word);
    has("no-conmon", &sh_ok(stage, &["--cgroups=no-conmon", &parent], "echo ran")?, "ran")?;
    let output = sh(stage, &["--cgroups=split"], "echo ran")?;
    // It wants cgroup v2 alone, and a unit whose processes Podman can move: it sees none outside of here.
    let reasons = ["split", "could not find cgroup mount", "is not delegated"];
    if reasons.iter().any(|reason| output.err.contains(reason)) {
        return skip(cut(&output.err));
    }
    eq(&output.brief(), &output.out.trim(), &"ran")
}

fn privileged(stage: &Stage) -> Res {
    let line = "grep '^Seccomp:' /proc/self/status; mount -t tmpfs x /mnt && echo mounted";
    let output = sh(stage, &["--privileged"], line)?;
    if output.code != Some(0) && stage.kind != Kind::Bulkhead {
        return skip(cut(&output.err));
    }
    has(&output.brief(), &output.out, "mounted")
}
