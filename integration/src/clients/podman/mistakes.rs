//! Bad input: exit codes 125, 126 and 127, and the words that Podman maps to them.

use oci_tests::check::{Res, ensure, eq, has};

use super::{exec, name, run, sleeping};
use crate::scenario::{Scenario, scenario};
use crate::stage::Stage;

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("run of a missing program: 127", "F149 F150", missing),
        scenario("run of what cannot be executed: 126", "F149 F150", not_executable),
        scenario("exec of a missing program: 127; not executable: 126", "F149 F150", of_exec),
        scenario("a mount that cannot be: 125 or 126", "F147 F150", bad_mount),
        scenario("a missing user, a missing image: 125 and 126", "F150", bad_user),
        scenario("a sysctl of another namespace", "F147", bad_sysctl),
    ]
}

fn fails(stage: &Stage, options: &[&str], command: &[&str], code: i32, words: &str) -> Res {
    let name = name(stage);
    let mut all = vec!["--name", &name];
    all.extend_from_slice(options);
    let output = run(stage, &all, command).output()?;
    eq(&format!("exit code ({})", output.brief()), &output.code, &Some(code))?;
    has("message", &output.err.to_lowercase(), words)
}

fn missing(stage: &Stage) -> Res {
    fails(stage, &[], &["nosuchprogram"], 127, "not found in $path")?;
    fails(stage, &[], &["/no/such/program"], 127, "no such file or directory")?;
    fails(stage, &["--tty"], &["nosuchprogram"], 127, "not found in $path")?;
    fails(stage, &["--rm"], &["nosuchprogram"], 127, "not found in $path")
}

fn not_executable(stage: &Stage) -> Res {
    fails(stage, &[], &["/etc/plain"], 126, "permission denied")?;
    fails(stage, &[], &["/etc"], 126, "permission denied")
        .or_else(|_| fails(stage, &[], &["/etc"], 126, "is a directory"))
}

fn of_exec(stage: &Stage) -> Res {
    let name = sleeping(stage, &[])?;
    for (program, code, words) in [
        ("nosuchprogram", 127, "not found in $path"),
        ("/no/such/program", 127, "no such file or directory"),
        ("/etc/plain", 126, "permission denied"),
    ] {
        let output = exec(stage, &name, &[program])?;
        has("message", &output.err.to_lowercase(), words)?;
        eq(&format!("exit code of {program}"), &output.code, &Some(code))?;
    }
    eq("a good one", &exec(stage, &name, &["true"])?.code, &Some(0))
}

fn bad_mount(stage: &Stage) -> Res {
    fails(
        stage,
        &["--volume", "/no/such/source:/mnt"],
        &["true"],
        125,
        "no such file or directory",
    )?;
    let dir = stage.path("a-directory");
    std::fs::create_dir_all(&dir)?;
    let volume = format!("{dir}:/etc/plain");
    let name = name(stage);
    let output = run(stage, &["--name", &name, "--volume", &volume], &["true"]).output()?;
    ensure(matches!(output.code, Some(125..=127)), output.brief())?;
    has("message", &output.err.to_lowercase(), "not a directory")
}

fn bad_user(stage: &Stage) -> Res {
    fails(stage, &["--user", "nobodyatall"], &["true"], 125, "unable to find user").or_else(
        |_| fails(stage, &["--user", "nobodyatall"], &["true"], 126, "unable to find user"),
    )?;
    let output = super::podman(stage, &["run", "--pull", "never", "localhost/none:at-all", "true"])
        .output()?;
    eq("exit code of a missing image", &output.code, &Some(125))
}

fn bad_sysctl(stage: &Stage) -> Res {
    let name = name(stage);
    let options = ["--name", &name, "--sysctl", "net.no.such=1"];
    let output = run(stage, &options, &["true"]).output()?;
    ensure(matches!(output.code, Some(125..=127)), output.brief())?;
    has("message", &output.err.to_lowercase(), "no such file or directory")
}
