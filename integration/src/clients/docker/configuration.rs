//! What a container is told to be, seen from inside and outside.

use std::os::unix::fs::MetadataExt;

use oci_tests::check::{Res, ensure, eq, has, skip};
use serde_json::json;

use super::{docker, exec, inspect, knob, name, run, sh, sh_ok, shared, sleeping, until};
use crate::known::{DEV_NULL, MISSING};
use crate::scenario::{Scenario, scenario};
use crate::stage::Stage;

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("limits, inside and outside", "F141", shared::limits),
        scenario("a read-only root with tmpfs and shm size", "F145", shared::read_only),
        scenario("binds, read-only binds, propagation", "F145", binds),
        scenario("a volume gets the image's files", "F145", volume),
        scenario("capabilities are dropped and added", "F144", capabilities),
        scenario("seccomp: default, own profile, none", "F144", seccomp),
        scenario("no new privileges, masked and read-only paths", "F144", protected),
        scenario("user, groups, directory, hostname, environment", "F153", shared::process),
        scenario("ulimits, oom score, sysctls", "F144", knobs),
        scenario("devices and their rules", "F144", devices),
        scenario("namespaces of the host and of another container", "F144", shared::namespaces),
        scenario("a private cgroup namespace", "F144", shared::cgroup_namespace),
        scenario("a network: addresses, names, a published port", "F164", network),
        scenario("all privileges", "F144", privileged),
        scenario("a cgroup parent of one's own", "F141", parent),
    ]
}

/// Scenarios of a daemon with `--userns-remap`.
pub fn remapped() -> Vec<Scenario> {
    vec![
        scenario("run and exec in a user namespace", "F145", remapped_run).but_crun(DEV_NULL),
        scenario("a volume's files belong to the mapped root", "F145", remapped_volume),
        scenario("one container with the host's user namespace", "F145", remapped_host),
        scenario("missing programs: 127, limits, terminal", "F149 F150", remapped_others)
            .but_crun(MISSING),
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
    has("cat", &output.out, "text")?;
    let slave = format!("type=bind,source={dir},target=/mnt,bind-propagation=rslave");
    let name = sleeping(stage, &["--mount", &slave])?;
    std::fs::create_dir_all(format!("{dir}/sub"))?;
    stage.cmd(&["mount", "-t", "tmpfs", "later", &format!("{dir}/sub")]).must()?;
    let seen = exec(stage, &name, &["grep", "/mnt/sub", "/proc/mounts"])?.out;
    stage.cmd(&["umount", &format!("{dir}/sub")]).must()?;
    has("a later mount of the host", &seen, "later")
}

fn volume(stage: &Stage) -> Res {
    let volume = format!("v{}", stage.next());
    stage.later(&["docker", "volume", "rm", "--force", &volume]);
    let option = format!("{volume}:/data");
    let text = sh_ok(
        stage,
        &["--volume", &option],
        "cat /data/file; stat -c %u /data/file; echo 1 > /data/new",
    )?;
    eq("file of the image", &text.as_str(), &"of the image\n1000")?;
    eq("file of the first", &sh_ok(stage, &["--volume", &option], "cat /data/new")?.as_str(), &"1")
}

fn capabilities(stage: &Stage) -> Res {
    let line = "grep CapEff /proc/self/status";
    eq("the usual set", &shared::bits(&sh_ok(stage, &[], line)?), &0xa804_25fb)?;
    let options = ["--cap-drop", "ALL", "--cap-add", "NET_ADMIN"];
    eq("one alone", &shared::bits(&sh_ok(stage, &options, line)?), &(1 << 12))?;
    let text = sh_ok(stage, &["--user", "1000"], "grep Cap /proc/self/status | head -3")?;
    for set in text.lines() {
        let wanted = if set.starts_with("CapInh") { shared::bits(set) } else { 0 };
        eq(set, &shared::bits(set), &wanted)?;
    }
    Ok(())
}

fn seccomp(stage: &Stage) -> Res {
    let line = "grep '^Seccomp:' /proc/self/status; unshare -U true";
    let output = sh(stage, &[], line)?;
    has("mode", &output.out, "2")?;
    has("unshare", &output.err, "Operation not permitted")?;
    let output = sh(stage, &["--security-opt", "seccomp=unconfined"], line)?;
    has("mode without", &output.out, "0")?;
    let file = stage.path("profile.json");
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "archMap": [
            { "architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"] },
        ],
        "syscalls": [
            { "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28, "args": [] },
            { "names": ["sethostname"], "action": "SCMP_ACT_KILL", "args": [] },
        ],
    });
    std::fs::write(&file, profile.to_string())?;
    let option = format!("seccomp={file}");
    let output = sh(stage, &["--security-opt", &option], "mkdir /tmp/x; hostname new; echo $?")?;
    has("mkdir", &output.err, "No space left on device")?;
    has("sethostname", &output.out, "159")
}

fn protected(stage: &Stage) -> Res {
    let line = "grep NoNewPrivs /proc/self/status; cat /proc/kcore | wc -c; ls /proc/acpi | wc -l; \
                echo 1 > /proc/sys/kernel/printk";
    let output = sh(stage, &["--security-opt", "no-new-privileges"], line)?;
    has("flag", &output.out, "NoNewPrivs:\t1")?;
    has("a masked file", &output.out, "\n0\n")?;
    has("a read-only path", &output.err, "Read-only file system")
}

fn knobs(stage: &Stage) -> Res {
    let options = [
        "--ulimit",
        "nofile=100:200",
        "--ulimit",
        "core=0",
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
    let output = sh(stage, &[], "mknod /tmp/fuse c 10 229 && head -c0 /tmp/fuse")?;
    has("a device that was not given", &output.err, "Operation not permitted")?;
    let line = "mknod /tmp/fuse c 10 229; head -c0 /tmp/fuse && echo opened";
    has("a rule", &sh_ok(stage, &["--device-cgroup-rule", "c 10:229 rwm"], line)?, "opened")?;
    let options = ["--device", "/dev/zero:/dev/mine:r"];
    let output = sh(stage, &options, "head -c3 /dev/mine | wc -c; ls -l /dev/mine")?;
    has("a device by another name", &output.out, "3\n")
}

fn network(stage: &Stage) -> Res {
    let line = "mkdir /www; echo served > /www/index.html; httpd -f -p 80 -h /www";
    let options = ["--network", "bridge", "--publish", "127.0.0.1:8098:80"];
    let server = super::running(stage, &options, &["sh", "-c", line])?;
    let address = inspect(stage, &server, "/NetworkSettings/IPAddress")?;
    let address = address.as_str().unwrap_or_default().to_owned();
    ensure(address.starts_with("10.98."), format!("address {address:?}"))?;
    let get = format!("wget -q -O - http://{address}/");
    stage.until("it serves another container", || {
        Ok(sh(stage, &["--network", "bridge"], &get)?.out == "served\n")
    })?;
    let published =
        stage.cmd(&["busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:8098/"]).must()?;
    eq("the published port", &published.as_str(), &"served")?;
    let hosts = exec(stage, &server, &["cat", "/etc/hosts"])?.out;
    has("its own name", &hosts, &address)
}

fn lacks_resource() -> bool {
    let own = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    // CAP_SYS_RESOURCE is bit 24.
    own.lines()
        .find(|line| line.starts_with("CapBnd"))
        .is_some_and(|line| shared::bits(line) >> 24 & 1 == 0)
}

fn privileged(stage: &Stage) -> Res {
    let output = sh(
        stage,
        &["--privileged"],
        "ls /dev/fuse; grep '^Seccomp:' /proc/self/status; mount -t tmpfs x /mnt && echo mounted",
    )?;
    if output.code != Some(0) && lacks_resource() {
        return skip("this machine's root lacks CAP_SYS_RESOURCE, which --privileged asks for");
    }
    has("what it can", &output.out, "/dev/fuse")?;
    has("what it can", &output.out, "mounted")
}

fn parent(stage: &Stage) -> Res {
    let parent = format!("/{}/inner", stage.word);
    let name = sleeping(stage, &["--cgroup-parent", &parent])?;
    let id = inspect(stage, &name, "/Id")?;
    let inner = format!("{parent}/{}", id.as_str().unwrap_or_default());
    let dir = oci_tests::cgroups::either("memory", &inner)?;
    eq("processes", &std::fs::read_to_string(dir.join("cgroup.procs"))?.lines().count(), &1)?;
    docker(stage, &["rm", "--force", &name]).must()?;
    // Docker never removes a parent.
    for hierarchy in oci_tests::cgroups::hierarchies() {
        let _ = std::fs::remove_dir(hierarchy.point.join(parent.trim_start_matches('/')));
    }
    Ok(())
}

fn remapped_run(stage: &Stage) -> Res {
    let text = sh_ok(
        stage,
        &[],
        "id -u; awk '{print $1, $2, $3}' /proc/self/uid_map; touch /x && echo wrote",
    )?;
    eq("what it sees", &text.as_str(), &"0\n0 200000 65536\nwrote")?;
    let name = sleeping(stage, &[])?;
    let pid = inspect(stage, &name, "/State/Pid")?;
    let owner = std::fs::metadata(format!("/proc/{pid}"))?.uid();
    eq("owner of the process", &owner, &200_000)?;
    let output = exec(stage, &name, &["sh", "-c", "id -u; exit 6"])?;
    eq("exec", &(output.code, output.out.as_str()), &(Some(6), "0\n"))?;
    let null = std::fs::metadata("/dev/null")?.uid();
    eq("owner of the host's /dev/null", &null, &0)
}

fn remapped_volume(stage: &Stage) -> Res {
    let volume = format!("v{}", stage.next());
    stage.later(&["docker", "volume", "rm", "--force", &volume]);
    let option = format!("{volume}:/data");
    let text =
        sh_ok(stage, &["--volume", &option], "touch /data/new; stat -c %u /data/new /data/file")?;
    eq("owners inside", &text.as_str(), &"0\n1000")?;
    let point =
        docker(stage, &["volume", "inspect", "--format", "{{.Mountpoint}}", &volume]).must()?;
    eq("owner outside", &std::fs::metadata(format!("{point}/new"))?.uid(), &200_000)
}

fn remapped_host(stage: &Stage) -> Res {
    let text = sh_ok(stage, &["--userns", "host"], "awk '{print $2}' /proc/self/uid_map")?;
    eq("map", &text.as_str(), &"0")
}

fn remapped_others(stage: &Stage) -> Res {
    let name = name(stage);
    let output =
        run(stage, &["--name", &name, "--network", "none"], &["nosuchprogram"]).output()?;
    eq(&output.brief(), &output.code, &Some(127))?;
    let text = sh_ok(stage, &["--tty"], "tty; stty size")?;
    has("terminal", &text, "/dev/pts/0")?;
    let name = sleeping(stage, &["--memory", "64m", "--tmpfs", "/scratch", "--read-only"])?;
    until(stage, &name, "/State/Status", "running")?;
    let memory = ["memory.limit_in_bytes", "memory.max"];
    eq("memory", &knob(stage, &name, "memory", memory)?.as_str(), &"67108864")
}
