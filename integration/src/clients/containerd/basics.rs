//! The life of a task: run, exec, signals, standard streams, terminals.

use nix::sys::signal::Signal;
use oci_tests::check::{Res, ensure, eq, has};

use super::{ctr, delete, end, exec, exec_cmd, id, pid, run, sh, sleeping, task, until_status};
use crate::known::MISSING;
use crate::scenario::{Scenario, scenario};
use crate::stage::Stage;
use crate::terminal::Terminal;
use crate::wire::Message;

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("run gives output and exit code", "F150 F153", run_code),
        scenario("twenty programs that end at once", "F136 F150", early_exits),
        scenario("a task ended by a signal has exit code 137", "F150", killed),
        scenario("SIGTERM reaches the program, its exit code comes back", "F148 F150", trapped),
        scenario("exec gives output and exit code", "F150", exec_code),
        scenario("exec with user, directory and environment", "F153", exec_options),
        scenario("exec of a missing program, then the task goes on", "F149 F150", exec_missing)
            .but_crun(MISSING),
        scenario("exec after the task's end is refused", "F148", exec_late),
        scenario("standard input ends when the client's does", "F153", stdin),
        scenario("standard input of an exec ends too", "F153", exec_stdin),
        scenario("ten megabytes of output arrive", "F153", much_output),
        scenario("output goes to a log file", "F153", log_file),
        scenario("a terminal: size, resize, exit code", "F152 F154", terminal),
        scenario("a terminal of an exec: size, resize, exit code", "F152 F154", exec_terminal),
        scenario("attach to a task with a terminal", "F152", attach),
        scenario("pause and resume", "F137", pause),
        scenario("one container has one task after another", "F137", created),
        scenario("ps shows the processes, metrics the memory", "F139 F141", ps_metrics),
        scenario("kill --all ends all processes of a shared pid namespace", "F148", kill_all),
        scenario("a pid file", "F151", pid_file),
    ]
}

fn run_code(stage: &Stage) -> Res {
    let output = sh(stage, &[], "echo to stdout; echo to stderr >&2; exit 7")?;
    eq("exit code", &output.code, &Some(7))?;
    eq("stdout", &output.out.as_str(), &"to stdout\n")?;
    has("stderr", &output.err, "to stderr")?;
    eq("exit code of true", &sh(stage, &[], "true")?.code, &Some(0))
}

fn early_exits(stage: &Stage) -> Res {
    for round in 0..20 {
        let output = run(stage, &id(stage), &["--rm"], &["true"]).output()?;
        eq(&format!("exit code of round {round}: {}", output.brief()), &output.code, &Some(0))?;
    }
    Ok(())
}

fn killed(stage: &Stage) -> Res {
    let id = id(stage);
    let running = run(stage, &id, &["--rm"], &["sh", "-c", "echo up; exec sleep 1000"]).spawn()?;
    running.until_printed(stage, "up")?;
    ctr(stage, &["tasks", "kill", "--signal", "SIGKILL", &id]).must()?;
    eq("exit code", &running.wait(stage)?.code, &Some(137))
}

fn trapped(stage: &Stage) -> Res {
    let id = id(stage);
    let line = "trap 'exit 42' TERM; echo ready; while :; do sleep 0.02; done";
    let running = run(stage, &id, &["--rm"], &["sh", "-c", line]).spawn()?;
    running.until_printed(stage, "ready")?;
    ctr(stage, &["tasks", "kill", "--signal", "SIGTERM", &id]).must()?;
    let output = running.wait(stage)?;
    eq("exit code", &output.code, &Some(42))
}

fn exec_code(stage: &Stage) -> Res {
    let id = sleeping(stage, &[])?;
    let output = exec(stage, &id, &["sh", "-c", "echo out; echo err >&2; exit 9"])?;
    eq("exit code", &output.code, &Some(9))?;
    eq("stdout", &output.out.as_str(), &"out\n")?;
    has("stderr", &output.err, "err")?;
    let output = exec(stage, &id, &["sh", "-c", "kill -KILL $$"])?;
    eq("exit code of one that is killed", &output.code, &Some(137))?;
    for round in 0..10 {
        let output = exec(stage, &id, &["true"])?;
        eq(&format!("exit code of exec {round}: {}", output.brief()), &output.code, &Some(0))?;
    }
    end(stage, &id)
}

fn exec_options(stage: &Stage) -> Res {
    let id = sleeping(stage, &["--env", "OF=task"])?;
    let line = "id -u; id -g; pwd; echo $OF";
    let options = ["--user", "1000:1000", "--cwd", "/data"];
    let text = exec_cmd(stage, &id, &options, &["sh", "-c", line]).must()?;
    eq("user, group, directory, environment", &text.as_str(), &"1000\n1000\n/data\ntask")?;
    end(stage, &id)
}

fn exec_missing(stage: &Stage) -> Res {
    let id = sleeping(stage, &[])?;
    let output = exec(stage, &id, &["/no/such/program"])?;
    ensure(output.code != Some(0), "exec of a missing program ended well")?;
    has("message", &output.err, "no such file or directory")?;
    let output = exec(stage, &id, &["nosuchprogram"])?;
    has("message", &output.err, "executable file not found in $PATH")?;
    let output = exec(stage, &id, &["/etc/plain"])?;
    has("message", &output.err, "permission denied")?;
    eq("exit code of a good one", &exec(stage, &id, &["true"])?.code, &Some(0))?;
    end(stage, &id)
}

fn exec_late(stage: &Stage) -> Res {
    let id = sleeping(stage, &[])?;
    ctr(stage, &["tasks", "kill", "--signal", "KILL", &id]).must()?;
    until_status(stage, &id, "STOPPED")?;
    let output = exec(stage, &id, &["true"])?;
    ensure(output.code != Some(0), "exec in a stopped task ended well")?;
    delete(stage, &id)
}

fn stdin(stage: &Stage) -> Res {
    let id = id(stage);
    let cmd = run(stage, &id, &["--rm"], &["sh", "-c", "cat; echo end"]);
    let running = cmd.input("one\ntwo\n").spawn()?;
    running.until_printed(stage, "two")?;
    // `ctr run` of 1.6 does not do this at the end of its input.
    let request = Message::new().text(1, &id).number(3, 1);
    super::call(stage, "CloseIO", &request)?.ok("CloseIO")?;
    let output = running.wait(stage)?;
    eq("output", &output.out.as_str(), &"one\ntwo\nend\n")
}

fn exec_stdin(stage: &Stage) -> Res {
    let id = sleeping(stage, &[])?;
    let cmd = exec_cmd(stage, &id, &[], &["sh", "-c", "cat; echo end"]);
    eq("output", &cmd.input("three\n").must()?.as_str(), &"three\nend")?;
    end(stage, &id)
}

fn much_output(stage: &Stage) -> Res {
    let line = "head -c 10485760 /dev/zero | tr '\\0' x; echo; echo end";
    let output = sh(stage, &[], line)?;
    eq("exit code", &output.code, &Some(0))?;
    eq("bytes", &output.out.len(), &(10_485_760 + 5))?;
    ensure(output.out.ends_with("x\nend\n"), "the end of the output is missing")
}

fn log_file(stage: &Stage) -> Res {
    let id = id(stage);
    let log = stage.path(&format!("{id}.log"));
    let options = ["--detach", "--log-uri", &format!("file://{log}")];
    run(stage, &id, &options, &["sh", "-c", "echo logged; echo too >&2; sleep 0.5"]).must()?;
    until_status(stage, &id, "STOPPED")?;
    stage.until("the log has both lines", || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        Ok(text.contains("logged") && text.contains("too"))
    })?;
    delete(stage, &id)
}

fn terminal(stage: &Stage) -> Res {
    let (mut ours, theirs) = Terminal::open((101, 37))?;
    let line = "tty; echo ready; while :; do \
                case $(stty size 2>/dev/null) in '33 90') echo now 33 90; exit 5;; esac; sleep 0.02; done";
    let cmd = run(stage, &id(stage), &["--rm", "--tty"], &["sh", "-c", line]);
    let running = cmd.on_terminal(theirs).spawn()?;
    ours.until(stage, "/dev/pts/0")?;
    ours.until(stage, "ready")?;
    ours.resize_until(stage, (90, 33), "now 33 90")?;
    eq("exit code", &running.wait(stage)?.code, &Some(5))
}

fn exec_terminal(stage: &Stage) -> Res {
    let id = sleeping(stage, &[])?;
    let (mut ours, theirs) = Terminal::open((101, 37))?;
    let line = "tty; echo ready; read word; echo got $word; while :; do \
                case $(stty size 2>/dev/null) in '22 77') echo now 22 77; exit 6;; esac; sleep 0.02; done";
    let cmd = exec_cmd(stage, &id, &["--tty"], &["sh", "-c", line]);
    let running = cmd.on_terminal(theirs).spawn()?;
    ours.until(stage, "/dev/pts/0")?;
    ours.until(stage, "ready")?;
    ours.write("word\n")?;
    ours.until(stage, "got word")?;
    ours.resize_until(stage, (77, 22), "now 22 77")?;
    eq("exit code", &running.wait(stage)?.code, &Some(6))?;
    end(stage, &id)
}

fn attach(stage: &Stage) -> Res {
    let id = id(stage);
    let (_mine, first) = Terminal::open((80, 24))?;
    let line = "while read word; do echo got $word; [ $word = end ] && exit 3; done";
    let options = ["--tty", "--detach"];
    let cmd = run(stage, &id, &options, &["sh", "-c", line]).on_terminal(first);
    eq("exit code of run --detach", &cmd.output()?.code, &Some(0))?;
    let (mut ours, theirs) = Terminal::open((80, 24))?;
    let running = ctr(stage, &["tasks", "attach", &id]).on_terminal(theirs).spawn()?;
    ours.write("hello\n")?;
    ours.until(stage, "got hello")?;
    ours.write("end\n")?;
    ours.until(stage, "got end")?;
    eq("exit code of attach", &running.wait(stage)?.code, &Some(3))
}

fn pause(stage: &Stage) -> Res {
    let id = id(stage);
    let log = stage.path(&format!("{id}.log"));
    let options = ["--detach", "--log-uri", &format!("file://{log}")];
    run(stage, &id, &options, &["sh", "-c", "while :; do echo tick; sleep 0.02; done"]).must()?;
    let length = || std::fs::metadata(&log).map(|data| data.len()).unwrap_or(0);
    stage.until("it ticks", || Ok(length() > 0))?;
    ctr(stage, &["tasks", "pause", &id]).must()?;
    eq("status", &task(stage, &id)?.map(|(_, status)| status), &Some("PAUSED".to_owned()))?;
    std::thread::sleep(std::time::Duration::from_millis(100));
    let before = length();
    std::thread::sleep(std::time::Duration::from_millis(200));
    eq("bytes printed by a paused task", &(length() - before), &0)?;
    ctr(stage, &["tasks", "resume", &id]).must()?;
    stage.until("it ticks again", || Ok(length() > before))?;
    until_status(stage, &id, "RUNNING")?;
    end(stage, &id)
}

fn created(stage: &Stage) -> Res {
    let id = sleeping(stage, &[])?;
    for _ in 0..3 {
        until_status(stage, &id, "RUNNING")?;
        ctr(stage, &["tasks", "kill", "--signal", "KILL", &id]).must()?;
        until_status(stage, &id, "STOPPED")?;
        ctr(stage, &["tasks", "delete", &id]).output()?;
        eq("task after delete", &task(stage, &id)?, &None)?;
        ctr(stage, &["tasks", "start", "--detach", "--null-io", &id]).must()?;
    }
    end(stage, &id)
}

fn ps_metrics(stage: &Stage) -> Res {
    let id = sleeping(stage, &[])?;
    let running = exec_cmd(stage, &id, &[], &["sh", "-c", "echo up; sleep 1000"]).spawn()?;
    running.until_printed(stage, "up")?;
    let ps = ctr(stage, &["tasks", "ps", &id]).must()?;
    let first = pid(stage, &id)?.to_string();
    let pids: Vec<&str> = ps.lines().skip(1).filter_map(|l| l.split_whitespace().next()).collect();
    ensure(pids.contains(&first.as_str()), format!("{first} is not in {ps}"))?;
    ensure(pids.len() >= 2, format!("the exec is not in {ps}"))?;
    let metrics = ctr(stage, &["tasks", "metrics", "--format", "json", &id]).must()?;
    let value: serde_json::Value = serde_json::from_str(&metrics).unwrap_or_default();
    let used = value["memory"]["usage"]["usage"].as_u64().or(value["memory"]["usage"].as_u64());
    ensure(used.is_some_and(|used| used > 0), format!("no memory in {metrics}"))?;
    let count = value["pids"]["current"].as_u64();
    ensure(count.is_some_and(|count| count >= 2), format!("no processes in {metrics}"))?;
    ctr(stage, &["tasks", "kill", "--signal", "KILL", &id]).must()?;
    eq("exit code of the exec when its task is killed", &running.wait(stage)?.code, &Some(137))?;
    until_status(stage, &id, "STOPPED")?;
    delete(stage, &id)
}

fn kill_all(stage: &Stage) -> Res {
    let id = sleeping(stage, &["--with-ns", "pid:/proc/self/ns/pid"])?;
    let running = exec_cmd(stage, &id, &[], &["sh", "-c", "echo up; exec sleep 1000"]).spawn()?;
    running.until_printed(stage, "up")?;
    ctr(stage, &["tasks", "kill", "--all", "--signal", "KILL", &id]).must()?;
    eq("exit code of the exec", &running.wait(stage)?.code, &Some(137))?;
    until_status(stage, &id, "STOPPED")?;
    delete(stage, &id)
}

fn pid_file(stage: &Stage) -> Res {
    let file = stage.path("pid");
    let id = sleeping(stage, &["--pid-file", &file])?;
    let text = std::fs::read_to_string(&file)?;
    eq("pid file", &text.trim(), &pid(stage, &id)?.to_string().as_str())?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid(stage, &id)?), Signal::SIGKILL)?;
    until_status(stage, &id, "STOPPED")?;
    delete(stage, &id)
}
