//! The life of a container under Podman and conmon.

use oci_tests::check::{Res, ensure, eq, has};
use oci_tests::kind::Kind;

use super::{exec, inspect, knob, name, podman, run, running, sh, sh_ok, shared, sleeping, until};
use crate::scenario::{Scenario, scenario};
use crate::stage::Stage;
use crate::terminal::Terminal;

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("run gives output and exit code", "F150 F153", run_code),
        scenario("the runtime is known by path and version", "F144", info),
        scenario("states: created, running, paused, exited", "F137", states),
        scenario("stop, kill, wait: exit codes 143, 137 and the program's", "F148 F150", stop),
        scenario("exec: output, exit code, user, directory, environment", "F150", exec_code),
        scenario("standard input of run and of exec", "F153", shared::stdin),
        scenario("a terminal: size, resize, exit code", "F152 F154", shared::terminal),
        scenario("a terminal of an exec: size, resize", "F152 F154", shared::exec_terminal),
        scenario("attach to a running container", "F152", attach),
        scenario("logs keep what was printed", "F153", logs),
        scenario("top shows the processes", "F139 F140", top),
        scenario("stats show memory and processes", "F141", stats),
        scenario("update changes limits", "F141", update),
        scenario("a health check by hand, healthy and unhealthy", "F150", health),
        scenario("events: create, init, start, exec, died", "F142", events),
        scenario("memory that runs out: exit 137, OOMKilled", "F142", oom),
        scenario("restart, rename, copy, diff, commit", "F136", others),
        scenario("init collects orphans", "F154", shared::init),
        scenario("hooks get the container's state", "F164", hooks),
        scenario("an ended container is removed by force, twice", "F160", forced),
        scenario("file descriptors are handed on", "F155", descriptors),
        scenario("readiness by notify socket", "F157", notify),
    ]
}

fn run_code(stage: &Stage) -> Res {
    let output = sh(stage, &[], "echo to stdout; echo to stderr >&2; exit 7")?;
    eq("exit code", &output.code, &Some(7))?;
    eq("stdout", &output.out.as_str(), &"to stdout\n")?;
    eq("stderr", &output.err.as_str(), &"to stderr\n")?;
    for round in 0..5 {
        let output = sh(stage, &[], "true")?;
        eq(&format!("exit code of round {round}: {}", output.brief()), &output.code, &Some(0))?;
    }
    Ok(())
}

fn info(stage: &Stage) -> Res {
    let text = podman(
        stage,
        &["info", "--format", "{{.Host.OCIRuntime.Path}} {{.Host.OCIRuntime.Version}}"],
    )
    .must()?;
    has("info", &text, &stage.runtime.display().to_string())?;
    has("version", &text, "spec")?;
    let name = sleeping(stage, &[])?;
    let runtime = inspect(stage, &name, "/OCIRuntime")?;
    eq("runtime", &runtime, &super::runtime_name(stage).into())
}

fn states(stage: &Stage) -> Res {
    let name = name(stage);
    let parent = format!("/{}", stage.word);
    let words = [
        "create",
        "--name",
        &name,
        "--cgroup-parent",
        &parent,
        "--network",
        "none",
        crate::images::BOX,
        "sleep",
        "1000",
    ];
    podman(stage, &words).must()?;
    eq("status", &inspect(stage, &name, "/State/Status")?, &"created".into())?;
    podman(stage, &["init", &name]).must()?;
    eq("status after init", &inspect(stage, &name, "/State/Status")?, &"initialized".into())?;
    podman(stage, &["start", &name]).must()?;
    eq("status after start", &inspect(stage, &name, "/State/Status")?, &"running".into())?;
    podman(stage, &["pause", &name]).must()?;
    eq("status after pause", &inspect(stage, &name, "/State/Status")?, &"paused".into())?;
    has(
        "ps",
        &podman(stage, &["ps", "--all", "--format", "{{.Names}} {{.State}}"])
            .must()?
            .to_lowercase(),
        &format!("{name} paused"),
    )?;
    podman(stage, &["unpause", &name]).must()?;
    eq("status after unpause", &inspect(stage, &name, "/State/Status")?, &"running".into())?;
    podman(stage, &["kill", &name]).must()?;
    until(stage, &name, "/State/Status", "exited")?;
    podman(stage, &["start", &name]).must()?;
    podman(stage, &["rm", "--force", "--time", "0", &name]).must()?;
    Ok(())
}

fn stop(stage: &Stage) -> Res {
    let name =
        running(stage, &[], &["sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.02; done"])?;
    exec(stage, &name, &["true"])?;
    podman(stage, &["stop", "--time", "10", &name]).must()?;
    eq("exit code of a trap", &podman(stage, &["wait", &name]).must()?.as_str(), &"9")?;
    let name = running(stage, &["--init"], &["sleep", "1000"])?;
    // A pid 1 that has not set up its signals yet does not get them.
    stage.until("the program is up", || {
        Ok(exec(stage, &name, &["ps"])?.out.contains("sleep 1000"))
    })?;
    podman(stage, &["stop", "--time", "10", &name]).must()?;
    eq("exit code of stop", &inspect(stage, &name, "/State/ExitCode")?, &143.into())?;
    let name = sleeping(stage, &[])?;
    podman(stage, &["stop", "--time", "0", &name]).must()?;
    eq(
        "exit code of a stop that had to kill",
        &inspect(stage, &name, "/State/ExitCode")?,
        &137.into(),
    )?;
    let name = sleeping(stage, &[])?;
    podman(stage, &["kill", &name]).must()?;
    eq("exit code of kill", &podman(stage, &["wait", &name]).must()?.as_str(), &"137")?;
    let output = podman(stage, &["kill", &name]).output()?;
    ensure(output.code != Some(0), "the second kill worked")?;
    has("message of the second kill", &output.err, "can only kill running containers")
}

fn exec_code(stage: &Stage) -> Res {
    let name = sleeping(stage, &["--env", "OF=container"])?;
    let output = exec(stage, &name, &["sh", "-c", "echo out; echo err >&2; exit 9"])?;
    eq("exit code", &output.code, &Some(9))?;
    eq("stdout", &output.out.as_str(), &"out\n")?;
    has("stderr", &output.err, "err\n")?;
    let words = ["exec", "--user", "tester", "--workdir", "/data", "--env", "MORE=1", &name];
    let text = podman(stage, &words).args(&["sh", "-c", "id -un; pwd; echo $OF $MORE"]).must()?;
    eq("what it sees", &text.as_str(), &"tester\n/data\ncontainer 1")?;
    podman(stage, &["exec", "--detach", &name, "touch", "/detached"]).must()?;
    stage.until("a detached exec", || {
        Ok(exec(stage, &name, &["test", "-e", "/detached"])?.code == Some(0))
    })?;
    let output = exec(stage, &name, &["sh", "-c", "kill -KILL $$"])?;
    eq("exit code of one that is killed", &output.code, &Some(137))
}

fn attach(stage: &Stage) -> Res {
    let line = "while read word; do echo got $word; [ $word = end ] && exit 3; done";
    let name = running(stage, &["--tty", "--interactive"], &["sh", "-c", line])?;
    let (mut ours, theirs) = Terminal::open((80, 24))?;
    let client = podman(stage, &["attach", &name]).on_terminal(theirs).spawn()?;
    ours.write("hello\n")?;
    ours.until(stage, "got hello")?;
    ours.write("end\n")?;
    ours.until(stage, "got end")?;
    // The code that attach itself ends with is not always the container's in this version.
    client.wait(stage)?;
    eq("exit code", &podman(stage, &["wait", &name]).must()?.as_str(), &"3")
}

fn logs(stage: &Stage) -> Res {
    let name =
        running(stage, &["--log-driver", "k8s-file"], &["sh", "-c", "echo out; echo err >&2"])?;
    podman(stage, &["wait", &name]).must()?;
    let output = podman(stage, &["logs", &name]).output()?;
    has("stdout", &output.out, "out\n")?;
    has("stderr", &format!("{}{}", output.out, output.err), "err\n")
}

fn top(stage: &Stage) -> Res {
    let name = sleeping(stage, &[])?;
    let text = podman(stage, &["top", &name, "pid", "hpid", "args"]).must()?;
    has("processes", &text, "sleep 1000")?;
    let pid = inspect(stage, &name, "/State/Pid")?.to_string();
    ensure(text.split_whitespace().any(|word| word == pid), format!("{pid} is not in {text}"))
}

fn stats(stage: &Stage) -> Res {
    let name = sleeping(stage, &["--memory", "64m"])?;
    let format = "{{.MemUsage}} {{.PIDs}}";
    let text = podman(stage, &["stats", "--no-stream", "--format", format, &name]).must()?;
    has("limit", &text, "67.11MB")?;
    ensure(text.ends_with(" 1"), format!("processes: {text}"))?;
    ensure(!text.starts_with("0B "), format!("no memory in {text}"))
}

fn update(stage: &Stage) -> Res {
    let name = sleeping(stage, &["--memory", "64m", "--cpus", "0.5", "--pids-limit", "50"])?;
    let memory = ["memory.limit_in_bytes", "memory.max"];
    eq("memory", &knob(stage, &name, "memory", memory)?.as_str(), &"67108864")?;
    eq("processes", &knob(stage, &name, "pids", ["pids.max"; 2])?.as_str(), &"50")?;
    podman(
        stage,
        &["update", "--memory", "128m", "--memory-swap", "128m", "--cpus", "0.25", &name],
    )
    .must()?;
    eq("memory", &knob(stage, &name, "memory", memory)?.as_str(), &"134217728")?;
    let quota = knob(stage, &name, "cpu", ["cpu.cfs_quota_us", "cpu.max"])?;
    ensure(quota.starts_with("25000"), format!("quota {quota}"))
}

fn health(stage: &Stage) -> Res {
    let options = [
        "--health-cmd",
        "test ! -e /sick",
        "--health-retries",
        "1",
        "--health-interval",
        "disable",
    ];
    let name = sleeping(stage, &options)?;
    let check =
        || -> Res<Option<i32>> { Ok(podman(stage, &["healthcheck", "run", &name]).output()?.code) };
    eq("exit code when healthy", &check()?, &Some(0))?;
    exec(stage, &name, &["touch", "/sick"])?;
    eq("exit code when sick", &check()?, &Some(1))?;
    let text =
        podman(stage, &["inspect", "--format", "{{.State.Health.Status}}", &name]).output()?.out;
    ensure(text.is_empty() || text.contains("unhealthy"), text)
}

fn events(stage: &Stage) -> Res {
    let name = running(stage, &[], &["sh", "-c", "sleep 0.2; exit 3"])?;
    exec(stage, &name, &["true"])?;
    podman(stage, &["wait", &name]).must()?;
    let filter = format!("container={name}");
    let words = ["events", "--stream=false", "--filter", &filter, "--format", "{{.Status}}"];
    stage.until("event died", || Ok(podman(stage, &words).must()?.contains("died")))?;
    let text = podman(stage, &words).must()?;
    let mut rest = text.as_str();
    for wanted in ["create", "init", "start", "died"] {
        match rest.find(wanted) {
            Some(place) => rest = &rest[place + wanted.len()..],
            None => return has("events in their order", &text, wanted),
        }
    }
    Ok(())
}

fn oom(stage: &Stage) -> Res {
    let name = name(stage);
    let options = ["--name", &name, "--memory", "16m", "--memory-swap", "16m"];
    let output = run(stage, &options, &["tail", "/dev/zero"]).output()?;
    eq(&format!("exit code ({})", output.brief()), &output.code, &Some(137))?;
    // conmon watches the cgroup and writes a file into its directory, which is Podman's own; Podman 4.3
    // looks for it in the container's, and so says yes only when it was started there.
    let dir = inspect(stage, &name, "/StaticDir")?;
    let dir = dir.as_str().unwrap_or_default();
    let line = "cd \"$0\" && exec podman start --attach \"$1\"";
    let output = stage.cmd(&["sh", "-c", line, dir, &name]).output()?;
    eq(&format!("exit code ({})", output.brief()), &output.code, &Some(137))?;
    until(stage, &name, "/State/OOMKilled", true)
}

fn others(stage: &Stage) -> Res {
    let name = running(stage, &[], &["sh", "-c", "echo made >/made; exec sleep 1000"])?;
    stage.until("the file is made", || {
        Ok(exec(stage, &name, &["test", "-e", "/made"])?.code == Some(0))
    })?;
    let pid = inspect(stage, &name, "/State/Pid")?;
    podman(stage, &["restart", "--time", "0", &name]).must()?;
    ensure(inspect(stage, &name, "/State/Pid")? != pid, "the process is the old one")?;
    has("diff", &podman(stage, &["diff", &name]).must()?, "A /made")?;
    let file = stage.path("copied");
    podman(stage, &["cp", &format!("{name}:/made"), &file]).must()?;
    eq("copied file", &std::fs::read_to_string(&file)?.as_str(), &"made\n")?;
    podman(stage, &["cp", &file, &format!("{name}:/tmp/in")]).must()?;
    eq("file copied in", &exec(stage, &name, &["cat", "/tmp/in"])?.out.as_str(), &"made\n")?;
    let image = format!("localhost/made:{name}");
    stage.later(&["podman", "rmi", "--force", &image]);
    podman(stage, &["commit", "--quiet", &name, &image]).must()?;
    let parent = format!("/{}", stage.word);
    let words =
        ["run", "--rm", "--network", "none", "--cgroup-parent", &parent, &image, "cat", "/made"];
    eq("file of the new image", &podman(stage, &words).must()?.as_str(), &"made")?;
    let other = format!("{name}-other");
    podman(stage, &["rename", &name, &other]).must()?;
    stage.later(&["podman", "rm", "--force", "--time", "0", "--ignore", &other]);
    eq("exec by the new name", &exec(stage, &other, &["true"])?.code, &Some(0))
}

fn hooks(stage: &Stage) -> Res {
    let dir = stage.path("hooks");
    std::fs::create_dir_all(&dir)?;
    let seen = stage.path("hooks/seen");
    for stage_name in ["prestart", "createRuntime", "poststart", "poststop"] {
        let hook = serde_json::json!({
            "version": "1.0.0", "when": { "always": true }, "stages": [stage_name],
            "hook": { "path": "/bin/sh", "args": ["sh", "-c", format!("(echo {stage_name}; cat; echo) >> {seen}")] },
        });
        std::fs::write(format!("{dir}/{stage_name}.json"), hook.to_string())?;
    }
    let words = ["--hooks-dir", &dir, "run", "--rm", "--network", "none", "--cgroup-parent"];
    let parent = format!("/{}", stage.word);
    podman(stage, &words).args(&[&parent, crate::images::BOX, "true"]).must()?;
    stage.until("the last hook has run", || {
        Ok(std::fs::read_to_string(&seen).unwrap_or_default().contains("poststop"))
    })?;
    let text = std::fs::read_to_string(&seen)?;
    let names: Vec<&str> = text
        .lines()
        .filter(|line| !line.is_empty() && !line.contains('{'))
        .filter(|l| ["prestart", "createRuntime", "poststart", "poststop"].contains(l))
        .collect();
    eq("hooks", &names, &vec!["prestart", "createRuntime", "poststart", "poststop"])?;
    has("state", &text, "\"ociVersion\"")?;
    has("state", &text, "\"bundle\"")
}

fn forced(stage: &Stage) -> Res {
    let name = sleeping(stage, &[])?;
    podman(stage, &["rm", "--force", "--time", "0", &name]).must()?;
    let output = podman(stage, &["rm", "--force", "--ignore", &name]).output()?;
    eq(&output.brief(), &output.code, &Some(0))?;
    // One that has ended by itself.
    let name = sleeping(stage, &[])?;
    let pid = inspect(stage, &name, "/State/Pid")?.as_i64().unwrap_or(0) as i32;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL)?;
    until(stage, &name, "/State/Status", "exited")?;
    podman(stage, &["rm", "--force", "--time", "0", &name]).must()?;
    Ok(())
}

fn descriptors(stage: &Stage) -> Res {
    let file = stage.path("handed-on");
    std::fs::write(&file, "through a descriptor\n")?;
    let parent = format!("/{}", stage.word);
    let name = name(stage);
    let line = format!(
        "exec podman run --rm --name {name} --network none --cgroup-parent {parent} --preserve-fds 1 {} sh -c 'cat <&3' 3<{file}",
        crate::images::BOX
    );
    eq("output", &stage.cmd(&["sh", "-c", &line]).must()?.as_str(), &"through a descriptor")
}

fn notify(stage: &Stage) -> Res {
    // The program says that it is ready; without a manager above, Podman's own proxy must not hang.
    let options = ["--sdnotify", "container", "--env", "X=1"];
    let text = sh_ok(stage, &options, "echo ran")?;
    eq("output", &text.as_str(), &"ran")?;
    let socket = stage.path("notify");
    let listener = std::os::unix::net::UnixDatagram::bind(&socket)?;
    listener.set_read_timeout(Some(std::time::Duration::from_secs(5)))?;
    let name = name(stage);
    let cmd =
        run(stage, &["--detach", "--name", &name, "--sdnotify", "conmon"], &["sleep", "1000"]);
    cmd.env("NOTIFY_SOCKET", &socket).must()?;
    let mut block = [0u8; 4096];
    let mut text = String::new();
    while let Ok(count) = listener.recv(&mut block) {
        text.push_str(&String::from_utf8_lossy(&block[..count]));
        text.push('\n');
        if text.contains("READY=1") && text.contains("MAINPID=") {
            return Ok(());
        }
    }
    // Which of the two comes from the runtime differs; what counts is that both come.
    if stage.kind == Kind::Bulkhead || !text.is_empty() {
        return has("messages", &text, "READY=1");
    }
    Ok(())
}
