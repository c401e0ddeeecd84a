//! Bad input, and programs that die at the wrong moment.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use oci_tests::check::{Res, ensure, eq, fail, has, skip};

use super::{
    again, ctr, end, events, exec, id, pid, run, shim_of, sleeping, task, topics, until_status,
};
use crate::images::BOX;
use crate::known::{MISSING, NO_SOURCE, NOT_EXECUTABLE};
use crate::scenario::{Scenario, scenario};
use crate::stage::Stage;

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("a program that is not there", "F149", missing).but_crun(MISSING),
        scenario("a program that cannot be executed", "F149", not_executable)
            .but_crun(NOT_EXECUTABLE),
        scenario("a mount whose source is not there", "F147", bad_mount).but_crun(NO_SOURCE),
        scenario("a root file system that is not there", "F147", bad_root),
        scenario("a root file system that cannot be mounted", "F147", broken_root),
        scenario("a runtime that is not there", "F147", no_runtime),
        scenario("a client that hangs up: the task goes on", "F158 F160", hang_up),
        scenario("a killed shim: exit 137, and nothing is left", "F160", killed_shim),
        scenario("a killed containerd finds its tasks again", "F160", restart),
        scenario("tasks that ended while containerd was away", "F160", away),
    ]
}

fn refused(stage: &Stage, options: &[&str], command: &[&str], words: &str) -> Res {
    let id = id(stage);
    let mut all = vec!["--rm"];
    all.extend_from_slice(options);
    let output = run(stage, &id, &all, command).output()?;
    ensure(output.code != Some(0), "run ended well")?;
    has("message", &output.err, words)?;
    // `ctr` deletes a task whose start failed only if its end is known by then.
    if task(stage, &id)?.is_some() {
        until_status(stage, &id, "STOPPED")?;
        ctr(stage, &["tasks", "delete", &id]).output()?;
    }
    eq("task", &task(stage, &id)?, &None)
}

fn missing(stage: &Stage) -> Res {
    refused(stage, &[], &["nosuchprogram"], "executable file not found in $PATH")?;
    refused(stage, &[], &["/no/such/program"], "no such file or directory")?;
    refused(stage, &[], &["/bin/broken"], "no such file or directory")
}

fn not_executable(stage: &Stage) -> Res {
    refused(stage, &[], &["/etc/plain"], "permission denied")?;
    refused(stage, &[], &["/etc"], "permission denied")
        .or_else(|_| refused(stage, &[], &["/etc"], "is a directory"))
}

fn bad_mount(stage: &Stage) -> Res {
    let mount = "type=bind,src=/no/such/source,dst=/mnt,options=rbind";
    refused(stage, &["--mount", mount], &["true"], "no such file or directory")
}

fn bad_root(stage: &Stage) -> Res {
    let id = id(stage);
    let output = super::run_at(stage, &id, "/no/such/root", &["true"]).output()?;
    ensure(output.code != Some(0), "run ended well")?;
    eq("task", &task(stage, &id)?, &None)
}

fn broken_root(stage: &Stage) -> Res {
    let id = sleeping(stage, &[])?;
    ctr(stage, &["tasks", "kill", "--signal", "KILL", &id]).must()?;
    until_status(stage, &id, "STOPPED")?;
    ctr(stage, &["tasks", "delete", &id]).output()?;
    // An overlay without a lower directory.
    let mount = |kind: &str| crate::wire::Message::new().text(1, kind).text(2, "nothing");
    for kind in ["overlay", "nosuchtype"] {
        let request = crate::wire::Message::new().text(1, &id).message(3, mount(kind));
        let reply = super::call(stage, "Create", &request)?;
        ensure(reply.code != 0, format!("a task with a root of type {kind} was created"))?;
        eq("task", &task(stage, &id)?, &None)?;
    }
    // The container itself is as good as before.
    ctr(stage, &["tasks", "start", "--detach", "--null-io", &id]).must()?;
    end(stage, &id)
}

fn no_runtime(stage: &Stage) -> Res {
    let id = id(stage);
    stage.later(&["ctr", "snapshots", "rm", &id]);
    stage.later(&["ctr", "containers", "rm", &id]);
    let option = if stage.shim.is_some() { "--runtime" } else { "--runc-binary" };
    let words = ["run", "--rm", option, "/no/such/runtime", BOX, &id, "true"];
    let output = ctr(stage, &words).output()?;
    ensure(output.code != Some(0), "run ended well")?;
    has("message", &output.err, "no such file or directory")?;
    eq("task", &task(stage, &id)?, &None)
}

fn hang_up(stage: &Stage) -> Res {
    let id = id(stage);
    let line = "while :; do echo tick; sleep 0.02; done";
    let running = run(stage, &id, &[], &["sh", "-c", line]).spawn()?;
    running.until_printed(stage, "tick")?;
    running.kill();
    // Nobody reads its output any more; it must neither end nor hang whoever asks for it.
    for _ in 0..3 {
        until_status(stage, &id, "RUNNING")?;
        eq("exec", &exec(stage, &id, &["true"])?.code, &Some(0))?;
    }
    end(stage, &id)?;
    super::remove_fifos()
}

fn killed_shim(stage: &Stage) -> Res {
    let listener = events(stage)?;
    let id = sleeping(stage, &[])?;
    let pid = pid(stage, &id)?;
    kill(Pid::from_raw(shim_of(stage, &id)?), Signal::SIGKILL)?;
    stage.until("the task's process ends", || Ok(!super::exists(&format!("/proc/{pid}"))))?;
    let last = |topic: &str| topics(&listener, &id).into_iter().find(|(name, _)| name == topic);
    stage.until("the exit event", || Ok(last("/tasks/exit").is_some()))?;
    let status = last("/tasks/exit").and_then(|(_, event)| event["exit_status"].as_i64());
    eq("exit status", &status, &Some(137))?;
    stage.until("the task is gone", || Ok(task(stage, &id)?.is_none()))?;
    ctr(stage, &["containers", "delete", &id]).must()?;
    eq("run after it", &super::sh(stage, &[], "true")?.code, &Some(0))
}

fn restart(stage: &Stage) -> Res {
    let ids = [sleeping(stage, &[])?, sleeping(stage, &[])?];
    let pids = [pid(stage, &ids[0])?, pid(stage, &ids[1])?];
    restart_containerd(stage, || Ok(()))?;
    for (id, old) in ids.iter().zip(pids) {
        until_status(stage, id, "RUNNING")?;
        eq("pid", &pid(stage, id)?, &old)?;
        eq("exit code of an exec", &exec(stage, id, &["sh", "-c", "exit 5"])?.code, &Some(5))?;
    }
    let listener = events(stage)?;
    end(stage, &ids[0])?;
    let seen = topics(&listener, &ids[0]);
    ensure(
        seen.iter().any(|(topic, _)| topic == "/tasks/exit"),
        "no exit event after the restart",
    )?;
    end(stage, &ids[1])
}

fn away(stage: &Stage) -> Res {
    if stage.newer_shim() {
        return skip("containerd's own shim of this version does not answer after that");
    }
    let id = sleeping(stage, &[])?;
    let pid = pid(stage, &id)?;
    restart_containerd(stage, || {
        kill(Pid::from_raw(pid), Signal::SIGKILL)?;
        stage.until("the task ends", || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            Ok(stat.is_empty() || stat.contains(") Z"))
        })
    })?;
    if stage.newer_containerd() {
        // Since 1.7 containerd ends shims whose container has no process, when it comes back.
        stage.until("the task is gone", || Ok(task(stage, &id)?.is_none()))?;
    } else {
        until_status(stage, &id, "STOPPED")?;
        let reply = super::call(stage, "Delete", &crate::wire::Message::new().text(1, &id))?;
        eq("exit status", &reply.ok("Delete")?.number(3), &137)?;
    }
    ctr(stage, &["containers", "delete", &id]).must()?;
    Ok(())
}

fn restart_containerd(stage: &Stage, meanwhile: impl Fn() -> Res) -> Res {
    let Some(daemon) = stage.take_daemon() else {
        return fail("containerd does not run");
    };
    daemon.kill();
    let result = meanwhile();
    stage.keep(again(stage)?);
    result
}
