//! Buildah, as root and as an ordinary user: builds whose steps run in the runtime.

use std::os::unix::fs::chown;

use oci_tests::check::{Res, ensure, eq, has};
use oci_tests::process::Output;

use crate::images::BOX;
use crate::scenario::{Client, Scenario, scenario};
use crate::stage::{Cmd, Stage};
use crate::terminal::Terminal;

/// Buildah as root.
pub const CLIENT: Client = Client {
    name: "buildah",
    programs: &["buildah"],
    scenarios: || scenarios(true),
    open: |stage| open(stage, None),
    emptied: |_| ["bulkhead", "runc", "crun"].map(|name| format!("/run/{name}")).into(),
};

/// Buildah as the user 1000.
pub const ROOTLESS: Client = Client {
    name: "buildah rootless",
    programs: &["buildah", "newuidmap"],
    scenarios: || scenarios(false),
    open: |stage| open(stage, Some(1000)),
    emptied: |_| Vec::new(),
};

fn scenarios(root: bool) -> Vec<Scenario> {
    let mut all = vec![
        scenario("run: output, exit code, user, directory, environment", "F150 F153", run_code),
        scenario("standard input, and a terminal", "F152 F153", streams),
        scenario("a build with steps that run", "F150", build),
        scenario("a failing step ends the build with its exit code", "F150", failing),
        scenario("missing programs and bad mounts", "F147 F149", mistakes),
        scenario("volumes, capabilities, hostname", "F144 F145", options),
        scenario("twenty steps one after the other", "F136", many),
    ];
    if root {
        all.push(scenario("a step below a cgroup with limits", "F141", limits));
        all.push(scenario("a user namespace of one's own", "F145", user_namespace));
    }
    all
}

/// The words that make a command the user's.
fn prefix(stage: &Stage) -> Vec<String> {
    std::fs::read_to_string(stage.dir.join("prefix"))
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

fn open(stage: &Stage, user: Option<u32>) -> Res {
    let path = |name: &str| stage.path(&format!("buildah/{name}"));
    std::fs::create_dir_all(path(""))?;
    std::fs::create_dir_all(stage.dir.join("xdg"))?;
    let storage = format!(
        "[storage]\ndriver = \"overlay\"\ngraphroot = \"{}\"\nrunroot = \"{}\"\n",
        path("root"),
        path("run")
    );
    std::fs::write(path("storage.conf"), storage)?;
    stage.set_env("CONTAINERS_STORAGE_CONF", path("storage.conf"));
    std::fs::write(path("containers.conf"), "")?;
    stage.set_env("CONTAINERS_CONF", path("containers.conf"));
    stage.set_env("XDG_RUNTIME_DIR", stage.path("xdg"));
    let mut words = String::new();
    for file in ["/etc/subuid", "/etc/subgid"] {
        std::fs::write(file, "tester:300000:65536\nroot:400000:65536\n")?;
    }
    if let Some(uid) = user {
        super::add_user()?;
        words = format!("setpriv --reuid={uid} --regid={uid} --clear-groups --inh-caps=-all");
        for name in ["home", "tmp", "xdg", "buildah"] {
            chown(stage.dir.join(name), Some(uid), Some(uid))?;
        }
        stage.set_env("USER", "tester");
    }
    std::fs::write(stage.dir.join("prefix"), words)?;
    let archive = format!("docker-archive:{}", stage.images.join("box.tar").display());
    buildah(stage, &["pull", "--quiet", &archive]).must()?;
    Ok(())
}

fn buildah<'s>(stage: &'s Stage, words: &[&str]) -> Cmd<'s> {
    let mut all = prefix(stage);
    all.push("buildah".into());
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    stage.cmd(&all).args(words)
}

/// The options of every step that runs.
fn isolation(stage: &Stage) -> Vec<String> {
    let mut words: Vec<String> = ["--isolation", "oci", "--runtime"].map(str::to_owned).into();
    words.push(stage.runtime.display().to_string());
    words
}

/// The cgroup of every step that runs, which an ordinary user cannot choose.
fn parent(stage: &Stage) -> Vec<String> {
    match prefix(stage).is_empty() {
        true => vec!["--cgroup-parent".into(), format!("/{}", stage.word)],
        false => Vec::new(),
    }
}

/// A working container; answers its name.
fn from(stage: &Stage, options: &[&str]) -> Res<String> {
    let name = format!("b{}", stage.next());
    let mut undo = prefix(stage);
    undo.extend(["buildah", "rm", &name].map(str::to_owned));
    stage.later(&undo.iter().map(String::as_str).collect::<Vec<_>>());
    let words = ["from", "--pull-never", "--network", "none", "--name", &name];
    buildah(stage, &words).args(&parent(stage)).args(options).args(&[BOX]).must()?;
    Ok(name)
}

fn run<'s>(stage: &'s Stage, name: &str, options: &[&str], command: &[&str]) -> Cmd<'s> {
    let isolation = isolation(stage);
    let isolation: Vec<&str> = isolation.iter().map(String::as_str).collect();
    buildah(stage, &["run"]).args(&isolation).args(options).args(&[name, "--"]).args(command)
}

fn bud(stage: &Stage, tag: &str, steps: &str) -> Res<Output> {
    let dir = stage.path(&format!("home/build{}", stage.next()));
    std::fs::create_dir_all(&dir)?;
    std::fs::write(format!("{dir}/Dockerfile"), format!("FROM {BOX}\n{steps}"))?;
    std::fs::write(format!("{dir}/added"), "added\n")?;
    let isolation = isolation(stage);
    let isolation: Vec<&str> = isolation.iter().map(String::as_str).collect();
    buildah(stage, &["build", "--pull-never", "--network", "none"])
        .args(&parent(stage))
        .args(&isolation)
        .args(&["--tag", tag, &dir])
        .output()
}

fn run_code(stage: &Stage) -> Res {
    let name = from(stage, &[])?;
    let output =
        run(stage, &name, &[], &["sh", "-c", "echo out; echo err >&2; exit 7"]).output()?;
    eq(&output.brief(), &output.code, &Some(7))?;
    eq("stdout", &output.out.as_str(), &"out\n")?;
    has("stderr", &output.err, "err\n")?;
    let options = ["--user", "tester", "--workingdir", "/data", "--env", "ONE=1"];
    let text = run(stage, &name, &options, &["sh", "-c", "id -u; pwd; echo $ONE"]).must()?;
    eq("what it sees", &text.as_str(), &"1000\n/data\n1")
}

fn streams(stage: &Stage) -> Res {
    let name = from(stage, &[])?;
    let text = run(stage, &name, &[], &["sh", "-c", "cat; echo end"]).input("one\n").must()?;
    eq("output", &text.as_str(), &"one\nend")?;
    let (mut ours, theirs) = Terminal::open((80, 24))?;
    let command = ["sh", "-c", "tty; read word; echo got $word; exit 5"];
    let running = run(stage, &name, &["--terminal"], &command).on_terminal(theirs).spawn()?;
    ours.until(stage, "/dev/")?;
    ours.write("word\n")?;
    ours.until(stage, "got word")?;
    eq("exit code", &running.wait(stage)?.code, &Some(5))
}

fn build(stage: &Stage) -> Res {
    let steps = "COPY added /added\nRUN cat /added > /made && id -u >> /made\nUSER tester\n\
                 RUN id -u > /tmp/user; test ! -w /made\n";
    let output = bud(stage, "localhost/built:1", steps)?;
    eq(&output.brief(), &output.code, &Some(0))?;
    let name = format!("b{}", stage.next());
    let mut undo = prefix(stage);
    undo.extend(["buildah", "rm", &name].map(str::to_owned));
    stage.later(&undo.iter().map(String::as_str).collect::<Vec<_>>());
    let words = ["from", "--pull-never", "--network", "none", "--name", &name, "localhost/built:1"];
    buildah(stage, &words).must()?;
    let text = run(stage, &name, &[], &["cat", "/made", "/tmp/user"]).must()?;
    eq("what was built", &text.as_str(), &"added\n0\n1000")
}

fn failing(stage: &Stage) -> Res {
    let output = bud(stage, "localhost/failing:1", "RUN echo before; exit 37\n")?;
    eq(&output.brief(), &output.code, &Some(37))?;
    has("output", &output.out, "before")?;
    has("message", &output.err, "exit status 37")
}

fn mistakes(stage: &Stage) -> Res {
    let name = from(stage, &[])?;
    for (program, words) in [
        ("nosuchprogram", "not found in $path"),
        ("/no/such/program", "no such file or directory"),
        ("/etc/plain", "permission denied"),
    ] {
        let output = run(stage, &name, &[], &[program]).output()?;
        ensure(output.code != Some(0), format!("{program} ran"))?;
        has("message", &output.err.to_lowercase(), words)?;
    }
    let volume = ["--volume", "/no/such/source:/mnt"];
    let output = run(stage, &name, &volume, &["true"]).output()?;
    ensure(output.code != Some(0), "a missing source was mounted")?;
    has("message", &output.err, "no such file or directory")?;
    run(stage, &name, &[], &["true"]).must()?;
    Ok(())
}

fn options(stage: &Stage) -> Res {
    let name = from(stage, &[])?;
    let dir = stage.path("home/bound");
    std::fs::create_dir_all(&dir)?;
    std::fs::write(format!("{dir}/file"), "of the host\n")?;
    let volume = format!("{dir}:/mnt:ro");
    let options = ["--volume", &volume, "--cap-drop", "CAP_CHOWN", "--hostname", "other"];
    let line = "cat /mnt/file; touch /mnt/x; hostname; grep CapEff /proc/self/status";
    let output = run(stage, &name, &options, &["sh", "-c", line]).output()?;
    has("file", &output.out, "of the host")?;
    has("touch", &output.err, "Read-only file system")?;
    has("hostname", &output.out, "other")?;
    let set = output.out.split_whitespace().next_back().unwrap_or_default();
    let set = u64::from_str_radix(set, 16).unwrap_or(1);
    eq("CAP_CHOWN", &(set & 1), &0)
}

fn many(stage: &Stage) -> Res {
    let name = from(stage, &[])?;
    for round in 0..20 {
        let output = run(stage, &name, &[], &["sh", "-c", "echo x >> /x"]).output()?;
        eq(&format!("exit code of step {round}: {}", output.brief()), &output.code, &Some(0))?;
    }
    eq("lines", &run(stage, &name, &[], &["wc", "-l", "/x"]).must()?.as_str(), &"20 /x")
}

fn limits(stage: &Stage) -> Res {
    let name = from(stage, &["--memory", "64m", "--memory-swap", "64m", "--cpu-shares", "512"])?;
    let line = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max";
    let output = run(stage, &name, &[], &["sh", "-c", line]).output()?;
    has(&output.brief(), &output.out, "67108864")?;
    let output = run(stage, &name, &[], &["tail", "/dev/zero"]).output()?;
    ensure(output.code != Some(0), "memory did not run out")
}

fn user_namespace(stage: &Stage) -> Res {
    let maps = ["--userns-uid-map", "0:100000:65536", "--userns-gid-map", "0:100000:65536"];
    let name = from(stage, &maps)?;
    let line = "id -u; awk '{print $2}' /proc/self/uid_map; touch /tmp/x && echo wrote";
    let output = run(stage, &name, &[], &["sh", "-c", line]).output()?;
    eq(&output.err.clone(), &output.out.as_str(), &"0\n100000\nwrote\n")
}
