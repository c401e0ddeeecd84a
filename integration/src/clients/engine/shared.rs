//! Scenarios that are the same with both.

use oci_tests::check::{Res, ensure, eq, has};

use super::{Engine, call, exec, inspect, knob, name, run, sh, sh_ok, sleeping};
use crate::stage::Stage;
use crate::terminal::Terminal;

/// The number of a line of /proc/PID/status.
pub fn bits(text: &str) -> u64 {
    let word = text.split_whitespace().next_back().unwrap_or_default();
    u64::from_str_radix(word, 16).unwrap_or_default()
}

fn link(pid: &str, name: &str) -> Res<String> {
    Ok(std::fs::read_link(format!("/proc/{pid}/ns/{name}"))?.display().to_string())
}

pub fn terminal(stage: &Stage) -> Res {
    let (mut ours, theirs) = Terminal::open((101, 37))?;
    let line = "tty; echo ready; while :; do \
                case $(stty size 2>/dev/null) in '33 90') echo now 33 90; exit 5;; esac; sleep 0.02; done";
    let name = name(stage);
    let options = ["--rm", "--tty", "--interactive", "--name", &name];
    let running = run(stage, &options, &["sh", "-c", line]).on_terminal(theirs).spawn()?;
    ours.until(stage, "/dev/pts/0")?;
    ours.until(stage, "ready")?;
    ours.resize_until(stage, (90, 33), "now 33 90")?;
    eq("exit code", &running.wait(stage)?.code, &Some(5))
}

pub fn exec_terminal(stage: &Stage) -> Res {
    let name = sleeping(stage, &[])?;
    let (mut ours, theirs) = Terminal::open((101, 37))?;
    let line = "tty; echo ready; read word; echo got $word; while :; do \
                case $(stty size 2>/dev/null) in '22 77') echo now 22 77; exit 6;; esac; sleep 0.02; done";
    let words = ["exec", "--tty", "--interactive", &name, "sh", "-c", line];
    let running = call(stage, &words).on_terminal(theirs).spawn()?;
    ours.until(stage, "ready")?;
    ours.write("word\n")?;
    ours.until(stage, "got word")?;
    ours.resize_until(stage, (77, 22), "now 22 77")?;
    eq("exit code", &running.wait(stage)?.code, &Some(6))
}

pub fn stdin(stage: &Stage) -> Res {
    let cmd = run(stage, &["--rm", "--interactive"], &["sh", "-c", "cat; echo end"]);
    eq("output", &cmd.input("one\ntwo\n").must()?.as_str(), &"one\ntwo\nend")?;
    let name = sleeping(stage, &[])?;
    let cmd = call(stage, &["exec", "--interactive", &name, "sh", "-c", "cat; echo end"]);
    eq("output of exec", &cmd.input("three\n").must()?.as_str(), &"three\nend")
}

pub fn init(stage: &Stage) -> Res {
    let name = sleeping(stage, &["--init"])?;
    let first = exec(stage, &name, &["cat", "/proc/1/comm"])?.out;
    let known = ["init", "tini", "catatonit"].iter().any(|word| first.contains(word));
    ensure(known, format!("pid 1 is {first}"))?;
    exec(stage, &name, &["sh", "-c", "(sleep 0.1 &)"])?;
    stage.until("no zombie", || {
        let text = exec(stage, &name, &["ps", "-o", "pid,stat,comm"])?.out;
        Ok(!text.contains(" Z"))
    })?;
    eq("exit code comes through", &sh(stage, &["--init"], "exit 11")?.code, &Some(11))
}

pub fn limits(stage: &Stage) -> Res {
    let options = [
        "--memory",
        "64m",
        "--memory-reservation",
        "32m",
        "--cpus",
        "0.5",
        "--cpu-shares",
        "512",
        "--cpuset-cpus",
        "0",
        "--pids-limit",
        "20",
    ];
    let name = sleeping(stage, &options)?;
    for (controller, files, wanted) in [
        ("memory", ["memory.limit_in_bytes", "memory.max"], "67108864"),
        ("memory", ["memory.soft_limit_in_bytes", "memory.low"], "33554432"),
        ("cpu", ["cpu.cfs_quota_us", "cpu.max"], "50000"),
        ("cpuset", ["cpuset.cpus"; 2], "0"),
        ("pids", ["pids.max"; 2], "20"),
    ] {
        let seen = knob(stage, &name, controller, files)?;
        ensure(seen.starts_with(wanted), format!("{}: wanted {wanted}, saw {seen}", files[0]))?;
    }
    let inside = "/sys/fs/cgroup/memory/memory.limit_in_bytes";
    let seen =
        exec(stage, &name, &["sh", "-c", &format!("cat {inside} /sys/fs/cgroup/memory.max")])?;
    has("inside", &seen.out, "67108864")?;
    eq("processors", &exec(stage, &name, &["nproc"])?.out.trim(), &"1")?;
    let line = "i=0; while [ $i -lt 40 ]; do sleep 5 & i=$((i+1)); done";
    let output = exec(stage, &name, &["sh", "-c", line])?;
    has("more processes than allowed", &output.err, "can't fork")
}

pub fn read_only(stage: &Stage) -> Res {
    let options = ["--read-only", "--tmpfs", "/scratch:size=1m,mode=700", "--shm-size", "2m"];
    let line =
        "touch /x; touch /scratch/x && echo written; df -k /scratch /dev/shm | awk '{print $2}'";
    let output = sh(stage, &options, line)?;
    has("touch on the root", &output.err, "Read-only file system")?;
    has("touch on the tmpfs", &output.out, "written")?;
    has("sizes", &output.out, "1024\n2048")
}

pub fn process(stage: &Stage) -> Res {
    let directory = Engine::of(stage).directory;
    let options = [
        "--user",
        "tester",
        "--group-add",
        "3000",
        "--workdir",
        directory,
        "--hostname",
        "other",
        "--env",
        "ONE=1",
    ];
    let text = sh_ok(stage, &options, "id -u; id -G; pwd; hostname; echo $ONE; cat /etc/hostname")?;
    let wanted = format!("1000\n1000 2000 3000\n{directory}\nother\n1\nother");
    eq("what it sees", &text, &wanted)
}

pub fn namespaces(stage: &Stage) -> Res {
    let line = "for n in pid ipc uts net; do readlink /proc/self/ns/$n; done";
    let options = ["--pid", "host", "--ipc", "host", "--uts", "host", "--network", "host"];
    let text = sh_ok(stage, &options, line)?;
    let own: Vec<String> =
        ["pid", "ipc", "uts", "net"].iter().map(|n| link("self", n)).collect::<Res<_>>()?;
    eq("the host's", &text.lines().map(str::to_owned).collect(), &own)?;
    let name = sleeping(stage, &["--ipc", "shareable"])?;
    let pid = inspect(stage, &name, "/State/Pid")?.to_string();
    let of = format!("container:{name}");
    let text = sh_ok(stage, &["--pid", &of, "--ipc", &of, "--network", &of], line)?;
    let lines: Vec<&str> = text.lines().collect();
    for (place, kind) in [(0, "pid"), (1, "ipc"), (3, "net")] {
        eq(kind, &lines[place], &link(&pid, kind)?.as_str())?;
    }
    // Podman shares it together with the network.
    let shared = lines[2] == link(&pid, "uts")?;
    ensure(!shared || Engine::of(stage).program == "podman", "the uts namespace is shared too")
}

pub fn cgroup_namespace(stage: &Stage) -> Res {
    let line = "cat /proc/self/cgroup";
    let text = sh_ok(stage, &["--cgroupns", "private"], line)?;
    ensure(text.lines().all(|line| line.ends_with(":/")), text)?;
    has("with the host's", &sh_ok(stage, &["--cgroupns", "host"], line)?, &stage.word)
}
