//! Bad input: exit codes 125, 126 and 127, and the words that callers match.

use oci_tests::check::{Res, eq, has};

use super::{exec, inspect, name, run, sleeping};
use crate::known::{MISSING, NOT_EXECUTABLE, SYSCTL};
use crate::scenario::{Scenario, scenario};
use crate::stage::Stage;

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("run of a missing program: 127", "F149 F150", missing).but_crun(MISSING),
        scenario("run of what cannot be executed: 126", "F149 F150", not_executable)
            .but_crun(NOT_EXECUTABLE),
        scenario("exec of a missing program: 127; not executable: 126", "F149 F150", of_exec)
            .but_crun(MISSING),
        scenario("a mount that cannot be: 125", "F147 F150", bad_mount),
        scenario("a mount over a file of the image: its error says so", "F147", bad_target),
        scenario("a user that is not there: 125 and 126", "F150", bad_user),
        scenario("a limit below what is possible", "F147", bad_limit),
        scenario("a sysctl of another namespace", "F147", bad_sysctl).but_crun(SYSCTL),
        scenario("a failed start can be started again", "F160", again).but_crun(MISSING),
    ]
}

fn fails(stage: &Stage, options: &[&str], command: &[&str], code: i32, words: &str) -> Res {
    let name = name(stage);
    let mut all = vec!["--network", "none", "--name", &name];
    all.extend_from_slice(options);
    let output = run(stage, &all, command).output()?;
    eq(&format!("exit code ({})", output.brief()), &output.code, &Some(code))?;
    has("message", &output.err, words)?;
    let state = inspect(stage, &name, "/State/ExitCode")?;
    if code != 125 {
        eq("exit code in the state", &state, &code.into())?;
    }
    Ok(())
}

fn missing(stage: &Stage) -> Res {
    fails(stage, &[], &["nosuchprogram"], 127, "executable file not found in $PATH")?;
    fails(stage, &[], &["/no/such/program"], 127, "no such file or directory")?;
    fails(stage, &["--tty"], &["nosuchprogram"], 127, "executable file not found in $PATH")
}

fn not_executable(stage: &Stage) -> Res {
    fails(stage, &[], &["/etc/plain"], 126, "permission denied")?;
    fails(stage, &[], &["/etc"], 126, "")
}

fn of_exec(stage: &Stage) -> Res {
    let name = sleeping(stage, &[])?;
    for (program, code, words) in [
        ("nosuchprogram", 126, "executable file not found in $PATH"),
        ("/no/such/program", 126, "no such file or directory"),
        ("/etc/plain", 126, "permission denied"),
    ] {
        let output = exec(stage, &name, &[program])?;
        let text = format!("{}{}", output.out, output.err);
        has("message", &text, words)?;
        // Docker 20.10 gives 126 for all of them, later ones 127 where the words say so.
        let good = output.code == Some(code) || output.code == Some(127) && program != "/etc/plain";
        oci_tests::check::ensure(good, format!("{program}: {}", output.brief()))?;
    }
    eq("a good one", &exec(stage, &name, &["true"])?.code, &Some(0))
}

fn bad_mount(stage: &Stage) -> Res {
    let name = name(stage);
    let mount = "type=bind,source=/no/such/source,target=/mnt";
    let options = ["--name", &name, "--network", "none", "--mount", mount];
    let output = run(stage, &options, &["true"]).output()?;
    eq("exit code", &output.code, &Some(125))?;
    has("message", &output.err, "bind source path does not exist")?;
    fails(stage, &["--tmpfs", "/mnt:size=wrong"], &["true"], 125, "")
}

fn bad_target(stage: &Stage) -> Res {
    let dir = stage.path("a-directory");
    std::fs::create_dir_all(&dir)?;
    let volume = format!("{dir}:/etc/plain");
    let name = name(stage);
    let options = ["--name", &name, "--network", "none", "--volume", &volume];
    let output = run(stage, &options, &["true"]).output()?;
    // Docker adds these words of its own when the runtime says "not a directory".
    has("message", &output.err, "Are you trying to mount a directory onto a file")?;
    eq("exit code in the state", &inspect(stage, &name, "/State/ExitCode")?, &127.into())
}

fn bad_user(stage: &Stage) -> Res {
    let output = super::sh(stage, &["--user", "nobodyatall"], "true")?;
    eq("exit code", &output.code, &Some(125))?;
    has("message", &output.err, "unable to find user")?;
    let name = sleeping(stage, &[])?;
    let output =
        super::docker(stage, &["exec", "--user", "nobodyatall", &name, "true"]).output()?;
    has("message", &format!("{}{}", output.out, output.err), "unable to find user")
}

fn bad_limit(stage: &Stage) -> Res {
    let output = super::sh(stage, &["--memory", "1m"], "true")?;
    eq("exit code", &output.code, &Some(125))?;
    has("message", &output.err, "Minimum memory limit")?;
    let output = super::sh(stage, &["--cpuset-cpus", "4000"], "true")?;
    eq("exit code of a missing processor", &output.code, &Some(125))
}

fn bad_sysctl(stage: &Stage) -> Res {
    let output = super::sh(stage, &["--sysctl", "net.no.such=1"], "true")?;
    eq(&output.brief(), &output.code, &Some(127))
        .or_else(|_| eq(&output.brief(), &output.code, &Some(125)))?;
    has("message", &output.err, "no such file or directory")
        .or_else(|_| has("message", &output.err, "net.no.such"))
}

fn again(stage: &Stage) -> Res {
    let name = name(stage);
    let dir = stage.path("comes-later");
    let volume = format!("{dir}:/program");
    std::fs::create_dir_all(&dir)?;
    let options = ["--name", &name, "--network", "none", "--volume", &volume];
    let output = run(stage, &options, &["/program/it"]).output()?;
    eq(&output.brief(), &output.code, &Some(127))?;
    stage.cmd(&["cp", "/bin/busybox", &format!("{dir}/it")]).must()?;
    std::fs::write(format!("{dir}/it"), "#!/bin/sh\necho it runs\n")?;
    let output = super::docker(stage, &["start", "--attach", &name]).output()?;
    eq("output", &output.out.as_str(), &"it runs\n")
}
