//! The life of a container: run, exec, signals, terminals, what Docker tells about it.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use oci_tests::check::{Res, ensure, eq, fail, has};

use super::{
    again, docker, exec, inspect, knob, name, run, running, sh, sh_ok, shared, sleeping, until,
};
use crate::scenario::{Scenario, scenario};
use crate::stage::Stage;
use crate::terminal::Terminal;

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("run gives output and exit code", "F150 F153", run_code),
        scenario("ten programs that end at once", "F136", early_exits),
        scenario("the daemon knows the runtime, and uses it", "F144", info),
        scenario("stop, kill, wait: exit codes 143, 137 and the program's", "F148 F150", stop),
        scenario("exec: output, exit code, user, directory, environment", "F150", exec_code),
        scenario("standard input of run and of exec", "F153", shared::stdin),
        scenario("a terminal: size, resize, exit code", "F152 F154", shared::terminal),
        scenario("a terminal of an exec: size, resize", "F152 F154", shared::exec_terminal),
        scenario("attach, and detach by keys", "F152", attach),
        scenario("logs keep both streams", "F153", logs),
        scenario("top shows the processes", "F139 F140", top),
        scenario("stats show memory and processes", "F141", stats),
        scenario("pause and unpause", "F137", pause),
        scenario("copy into and out of a paused container", "F137", copy_paused),
        scenario("update changes limits", "F141", update),
        scenario("a health check turns healthy, then unhealthy", "F150", health),
        scenario("events: create, start, exec, die, oom", "F142", events),
        scenario("memory that runs out is told", "F142", oom),
        scenario("restart on failure, and by command", "F150", restart),
        scenario("restart always, but not after stop", "F150", restart_always),
        scenario("start once more, rename, copy, diff, commit", "F136", others),
        scenario("init collects orphans", "F154", shared::init),
        scenario("a killed dockerd finds its containers again", "F160", live_restore),
        scenario("dockerd restarted: output, exec, what ended meanwhile", "F160", restarted_daemon),
        scenario("a killed shim: the container has ended", "F160", killed_shim),
    ]
}

fn run_code(stage: &Stage) -> Res {
    let output = sh(stage, &[], "echo to stdout; echo to stderr >&2; exit 7")?;
    eq("exit code", &output.code, &Some(7))?;
    eq("stdout", &output.out.as_str(), &"to stdout\n")?;
    eq("stderr", &output.err.as_str(), &"to stderr\n")?;
    let output = sh(stage, &[], "head -c 5000000 /dev/zero | tr '\\0' x")?;
    eq("bytes", &output.out.len(), &5_000_000)
}

fn early_exits(stage: &Stage) -> Res {
    for round in 0..10 {
        let output = sh(stage, &[], "true")?;
        eq(&format!("exit code of round {round}: {}", output.brief()), &output.code, &Some(0))?;
    }
    Ok(())
}

fn info(stage: &Stage) -> Res {
    let info =
        docker(stage, &["info", "--format", "{{json .Runtimes}} {{.DefaultRuntime}}"]).must()?;
    ensure(info.ends_with(super::NAME), &info)?;
    let name = sleeping(stage, &["--runtime", super::NAME])?;
    eq("runtime", &inspect(stage, &name, "/HostConfig/Runtime")?, &super::NAME.into())?;
    // What a runtime is that has no path, is not told.
    let shim = match &stage.shim {
        Some(_) => "containerd-shim-bulkhead-v2",
        None => {
            has("info", &info, &stage.runtime.display().to_string())?;
            "containerd-shim-runc-v2"
        }
    };
    let id = inspect(stage, &name, "/Id")?;
    let found = crate::left::find_process(shim, id.as_str().unwrap_or_default());
    ensure(found.is_some(), format!("no {shim} runs for the container"))
}

fn stop(stage: &Stage) -> Res {
    let name =
        running(stage, &[], &["sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.02; done"])?;
    docker(stage, &["exec", &name, "true"]).must()?;
    docker(stage, &["stop", "--time", "10", &name]).must()?;
    eq("exit code of a trap", &docker(stage, &["wait", &name]).must()?.as_str(), &"9")?;
    let name = running(stage, &["--init"], &["sleep", "1000"])?;
    // A pid 1 that has not set up its signals yet does not get them.
    stage.until("the program is up", || {
        Ok(exec(stage, &name, &["ps"])?.out.contains("sleep 1000"))
    })?;
    docker(stage, &["stop", &name]).must()?;
    eq("exit code of stop", &inspect(stage, &name, "/State/ExitCode")?, &143.into())?;
    let name = sleeping(stage, &[])?;
    docker(stage, &["stop", "--time", "0", &name]).must()?;
    eq(
        "exit code of a stop that had to kill",
        &inspect(stage, &name, "/State/ExitCode")?,
        &137.into(),
    )?;
    let name = sleeping(stage, &[])?;
    docker(stage, &["kill", &name]).must()?;
    eq("exit code of kill", &docker(stage, &["wait", &name]).must()?.as_str(), &"137")?;
    let output = docker(stage, &["kill", &name]).output()?;
    has("message of the second kill", &output.err, "is not running")
}

fn exec_code(stage: &Stage) -> Res {
    let name = sleeping(stage, &["--env", "OF=container"])?;
    let output = exec(stage, &name, &["sh", "-c", "echo out; echo err >&2; exit 9"])?;
    eq("exit code", &output.code, &Some(9))?;
    eq("stdout", &output.out.as_str(), &"out\n")?;
    eq("stderr", &output.err.as_str(), &"err\n")?;
    let words = ["exec", "--user", "tester", "--workdir", "/data", "--env", "MORE=1", &name];
    let text =
        docker(stage, &words).args(&["sh", "-c", "id -un; pwd; echo $OF $MORE; id -G"]).must()?;
    eq("what it sees", &text.as_str(), &"tester\n/data\ncontainer 1\n1000 2000")?;
    let text =
        docker(stage, &["exec", "--privileged", &name, "grep", "CapEff", "/proc/self/status"])
            .output()?;
    if text.code == Some(0) {
        ensure(!text.out.contains("00000000a80425fb"), "exec --privileged has the usual set")?;
    }
    docker(stage, &["exec", "--detach", &name, "touch", "/detached"]).must()?;
    stage.until("a detached exec", || {
        Ok(exec(stage, &name, &["test", "-e", "/detached"])?.code == Some(0))
    })
}

fn attach(stage: &Stage) -> Res {
    let line = "while read word; do echo got $word; [ $word = end ] && exit 3; done";
    let name = running(stage, &["--tty", "--interactive"], &["sh", "-c", line])?;
    let (mut ours, theirs) = Terminal::open((80, 24))?;
    let client = docker(stage, &["attach", &name]).on_terminal(theirs).spawn()?;
    ours.write("hello\n")?;
    ours.until(stage, "got hello")?;
    ours.write("\x10\x11")?;
    ours.until(stage, "read escape sequence")?;
    client.wait(stage)?;
    eq("running after detach", &inspect(stage, &name, "/State/Running")?, &true.into())?;
    let (mut ours, theirs) = Terminal::open((80, 24))?;
    let client = docker(stage, &["attach", &name]).on_terminal(theirs).spawn()?;
    ours.write("end\n")?;
    ours.until(stage, "got end")?;
    eq("exit code of attach", &client.wait(stage)?.code, &Some(3))
}

fn logs(stage: &Stage) -> Res {
    let name = running(stage, &[], &["sh", "-c", "echo out; echo err >&2"])?;
    docker(stage, &["wait", &name]).must()?;
    let output = docker(stage, &["logs", &name]).output()?;
    eq("stdout", &output.out.as_str(), &"out\n")?;
    eq("stderr", &output.err.as_str(), &"err\n")
}

fn top(stage: &Stage) -> Res {
    let name = sleeping(stage, &[])?;
    let text = docker(stage, &["top", &name]).must()?;
    has("first line", text.lines().next().unwrap_or_default(), "PID")?;
    has("processes", &text, "sleep 1000")?;
    let text = docker(stage, &["top", &name, "-o", "pid,comm"]).must()?;
    let pid = inspect(stage, &name, "/State/Pid")?.to_string();
    ensure(text.split_whitespace().any(|word| word == pid), format!("{pid} is not in {text}"))
}

fn stats(stage: &Stage) -> Res {
    let name = sleeping(stage, &["--memory", "64m"])?;
    let format = "{{.MemUsage}} {{.PIDs}} {{.CPUPerc}}";
    let text = docker(stage, &["stats", "--no-stream", "--format", format, &name]).must()?;
    has("limit", &text, "/ 64MiB")?;
    has("processes", &text, " 1 ")?;
    ensure(!text.starts_with("0B "), format!("no memory in {text}"))
}

/// Writes a new number into /tick for as long as it runs.
const TICKING: &str = "n=0; while :; do n=$((n+1)); echo $n > /tick; sleep 0.02; done";

fn pause(stage: &Stage) -> Res {
    let name = running(stage, &[], &["sh", "-c", TICKING])?;
    docker(stage, &["pause", &name]).must()?;
    eq("status", &inspect(stage, &name, "/State/Status")?, &"paused".into())?;
    let refused = exec(stage, &name, &["true"])?;
    has("exec in a paused one", &refused.err, "is paused")?;
    docker(stage, &["unpause", &name]).must()?;
    eq("status", &inspect(stage, &name, "/State/Status")?, &"running".into())?;
    let before = exec(stage, &name, &["cat", "/tick"])?.out;
    stage.until("it ticks again", || Ok(exec(stage, &name, &["cat", "/tick"])?.out != before))
}

fn update(stage: &Stage) -> Res {
    let name = sleeping(stage, &["--memory", "64m", "--cpus", "0.5", "--pids-limit", "50"])?;
    let memory = ["memory.limit_in_bytes", "memory.max"];
    eq("memory", &knob(stage, &name, "memory", memory)?.as_str(), &"67108864")?;
    eq("processes", &knob(stage, &name, "pids", ["pids.max"; 2])?.as_str(), &"50")?;
    let words = [
        "update",
        "--memory",
        "128m",
        "--memory-swap",
        "-1",
        "--cpus",
        "0.25",
        "--pids-limit",
        "60",
        &name,
    ];
    docker(stage, &words).must()?;
    eq("memory", &knob(stage, &name, "memory", memory)?.as_str(), &"134217728")?;
    eq("processes", &knob(stage, &name, "pids", ["pids.max"; 2])?.as_str(), &"60")?;
    let quota = knob(stage, &name, "cpu", ["cpu.cfs_quota_us", "cpu.max"])?;
    ensure(quota.starts_with("25000"), format!("quota {quota}"))?;
    eq("exec after it", &exec(stage, &name, &["true"])?.code, &Some(0))
}

fn health(stage: &Stage) -> Res {
    let options =
        ["--health-cmd", "test ! -e /sick", "--health-interval", "200ms", "--health-retries", "1"];
    let name = sleeping(stage, &options)?;
    until(stage, &name, "/State/Health/Status", "healthy")?;
    exec(stage, &name, &["touch", "/sick"])?;
    until(stage, &name, "/State/Health/Status", "unhealthy")?;
    exec(stage, &name, &["rm", "/sick"])?;
    until(stage, &name, "/State/Health/Status", "healthy")
}

fn events(stage: &Stage) -> Res {
    let listener = docker(
        stage,
        &["events", "--since", "0s", "--format", "{{.Action}} {{json .Actor.Attributes}}"],
    )
    .spawn()?;
    let name = name(stage);
    run(
        stage,
        &["--network", "none", "--name", &name, "--memory", "16m"],
        &["sh", "-c", "head -c 100m /dev/zero | tail; exit 3"],
    )
    .output()?;
    listener.until_printed(stage, "die ")?;
    stage.until("an oom event", || {
        Ok(listener.printed().lines().any(|line| line.starts_with("oom ")))
    })?;
    let text = listener.printed();
    let of_ours: Vec<&str> =
        text.lines().filter(|line| line.contains(&format!("\"{name}\""))).collect();
    let names: Vec<&str> = of_ours
        .iter()
        .filter_map(|line| line.split(' ').next())
        .filter(|name| ["create", "start", "die"].contains(name))
        .collect();
    eq("actions", &names, &vec!["create", "start", "die"])?;
    let die = of_ours.iter().find(|line| line.starts_with("die")).copied().unwrap_or_default();
    has("die", die, "\"exitCode\":\"")
}

fn oom(stage: &Stage) -> Res {
    let name = name(stage);
    let options = ["--network", "none", "--name", &name, "--memory", "16m", "--memory-swap", "16m"];
    let output = run(stage, &options, &["tail", "/dev/zero"]).output()?;
    eq("exit code", &output.code, &Some(137))?;
    until(stage, &name, "/State/OOMKilled", true)
}

fn restart(stage: &Stage) -> Res {
    let name = running(stage, &["--restart", "on-failure:2"], &["sh", "-c", "exit 1"])?;
    stage.until("two restarts", || Ok(inspect(stage, &name, "/RestartCount")? == 2))?;
    until(stage, &name, "/State/Status", "exited")?;
    let name = sleeping(stage, &[])?;
    let pid = inspect(stage, &name, "/State/Pid")?;
    docker(stage, &["restart", "--time", "0", &name]).must()?;
    eq("status", &inspect(stage, &name, "/State/Status")?, &"running".into())?;
    ensure(inspect(stage, &name, "/State/Pid")? != pid, "the process is the old one")
}

fn restart_always(stage: &Stage) -> Res {
    let name = sleeping(stage, &["--restart", "always"])?;
    let pid = inspect(stage, &name, "/State/Pid")?;
    let first = pid.as_i64().and_then(|pid| i32::try_from(pid).ok()).unwrap_or_default();
    kill(Pid::from_raw(first), Signal::SIGKILL)?;
    stage.until("it runs again", || {
        let now = inspect(stage, &name, "/State")?;
        Ok(now["Running"] == true && now["Pid"] != pid && now["Pid"] != 0)
    })?;
    eq("restarts", &inspect(stage, &name, "/RestartCount")?, &1.into())?;
    docker(stage, &["stop", "--time", "0", &name]).must()?;
    eq("status after stop", &inspect(stage, &name, "/State/Status")?, &"exited".into())?;
    eq("restarts after stop", &inspect(stage, &name, "/RestartCount")?, &1.into())
}

fn copy_paused(stage: &Stage) -> Res {
    let name = running(stage, &[], &["sh", "-c", TICKING])?;
    docker(stage, &["pause", &name]).must()?;
    let file = stage.path("into-paused");
    std::fs::write(&file, "copied while paused\n")?;
    docker(stage, &["cp", &file, &format!("{name}:/tmp/in")]).must()?;
    let out = stage.path("out-of-paused");
    docker(stage, &["cp", &format!("{name}:/tmp/in"), &out]).must()?;
    eq("copied out", &std::fs::read_to_string(&out)?.as_str(), &"copied while paused\n")?;
    eq("status", &inspect(stage, &name, "/State/Status")?, &"paused".into())?;
    docker(stage, &["unpause", &name]).must()?;
    let seen = exec(stage, &name, &["cat", "/tmp/in"])?.out;
    eq("seen inside", &seen.as_str(), &"copied while paused\n")
}

fn others(stage: &Stage) -> Res {
    let name = running(stage, &[], &["sh", "-c", "echo made >/made"])?;
    docker(stage, &["wait", &name]).must()?;
    docker(stage, &["start", "--attach", &name]).must()?;
    has("diff", &docker(stage, &["diff", &name]).must()?, "A /made")?;
    let file = stage.path("copied");
    docker(stage, &["cp", &format!("{name}:/made"), &file]).must()?;
    eq("copied file", &std::fs::read_to_string(&file)?.as_str(), &"made\n")?;
    let image = format!("localhost/made:{name}");
    stage.later(&["docker", "rmi", &image]);
    docker(stage, &["commit", &name, &image]).must()?;
    let text =
        docker(stage, &["run", "--rm", "--network", "none", &image, "cat", "/made"]).must()?;
    eq("file of the new image", &text.as_str(), &"made")?;
    let sleeper = sleeping(stage, &[])?;
    docker(stage, &["cp", &file, &format!("{sleeper}:/tmp/in")]).must()?;
    eq("file copied in", &exec(stage, &sleeper, &["cat", "/tmp/in"])?.out.as_str(), &"made\n")?;
    let other = format!("{sleeper}-other");
    docker(stage, &["rename", &sleeper, &other]).must()?;
    stage.later(&["docker", "rm", "--force", &other]);
    eq("exec by the new name", &exec(stage, &other, &["true"])?.code, &Some(0))
}

fn live_restore(stage: &Stage) -> Res {
    let name = sleeping(stage, &[])?;
    let pid = inspect(stage, &name, "/State/Pid")?;
    let Some(daemon) = stage.take_daemon() else {
        return fail("dockerd does not run");
    };
    daemon.kill();
    stage.keep(again(stage)?);
    eq("pid", &inspect(stage, &name, "/State/Pid")?, &pid)?;
    eq("exit code of an exec", &exec(stage, &name, &["sh", "-c", "exit 5"])?.code, &Some(5))?;
    docker(stage, &["kill", &name]).must()?;
    eq("exit code", &docker(stage, &["wait", &name]).must()?.as_str(), &"137")?;
    has("a new one", &sh_ok(stage, &[], "echo new")?, "new")
}

fn restarted_daemon(stage: &Stage) -> Res {
    let writer = running(
        stage,
        &["--interactive"],
        &["sh", "-c", "n=0; while :; do n=$((n+1)); echo $n | tee /tick; sleep 0.02; done"],
    )?;
    let dir = stage.path("meanwhile");
    std::fs::create_dir_all(&dir)?;
    let volume = format!("{dir}:/mnt");
    let line = "until test -e /mnt/go; do sleep 0.02; done; touch /mnt/gone; exit 7";
    let ender = running(stage, &["--volume", &volume], &["sh", "-c", line])?;
    let pid = inspect(stage, &writer, "/State/Pid")?;
    let Some(daemon) = stage.take_daemon() else {
        return fail("dockerd does not run");
    };
    daemon.stop()?;
    std::fs::write(format!("{dir}/go"), "")?;
    stage.until("a container goes on without dockerd", || {
        Ok(std::path::Path::new(&format!("{dir}/gone")).exists())
    })?;
    stage.keep(again(stage)?);
    until(stage, &ender, "/State/Status", "exited")?;
    // containerd 2.x takes a shim of its own for a leaked one when no process of the container is left.
    let code = if stage.newer_shim() { 255 } else { 7 };
    eq("exit code of what ended", &inspect(stage, &ender, "/State/ExitCode")?, &code.into())?;
    eq("pid of the other", &inspect(stage, &writer, "/State/Pid")?, &pid)?;
    let ticks = exec(stage, &writer, &["cat", "/tick"])?.out;
    stage.until("output after the restart", || {
        let logs = docker(stage, &["logs", "--tail", "1", &writer]).must()?;
        Ok(number(&logs) > number(&ticks))
    })?;
    docker(stage, &["stop", "--time", "0", &writer]).must()?;
    eq("exit code", &inspect(stage, &writer, "/State/ExitCode")?, &137.into())
}

fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or_default()
}

fn killed_shim(stage: &Stage) -> Res {
    let name = sleeping(stage, &[])?;
    let id = inspect(stage, &name, "/Id")?;
    let id = id.as_str().unwrap_or_default();
    let Some(shim) = crate::left::find_process("containerd-shim", id) else {
        return fail("no shim");
    };
    kill(Pid::from_raw(shim), Signal::SIGKILL)?;
    until(stage, &name, "/State/Status", "exited")?;
    eq("exit code", &inspect(stage, &name, "/State/ExitCode")?, &137.into())
}
