//! Podman as an ordinary user.

use std::os::unix::fs::chown;

use oci_tests::check::{Res, ensure, eq, has};
use oci_tests::process::Output;

use crate::clients::debian::{self, DEBIAN};
use crate::images::BOX;
use crate::scenario::{Client, Scenario, scenario};
use crate::stage::{Cmd, Stage};
use crate::terminal::Terminal;

/// Podman as the user 1000.
pub const CLIENT: Client = Client {
    name: "podman rootless",
    programs: &["podman", "conmon", "newuidmap", "slirp4netns"],
    scenarios,
    open,
    emptied: |_| Vec::new(),
};

const USER: u32 = 1000;

fn scenarios() -> Vec<Scenario> {
    let mut all = vec![
        scenario("run gives output and exit code", "F150 F153", run_code),
        scenario("the user's ids and those below it", "F145", ids),
        scenario("exec: output, exit code, user", "F150", exec_code),
        scenario("stop and kill", "F148 F150", stop),
        scenario("a terminal: size, resize, exit code", "F152 F154", terminal),
        scenario("another mapping, by --userns and --uidmap", "F145", mapped),
        scenario("volumes, read-only root, tmpfs", "F145", volumes),
        scenario("a network of slirp4netns", "F164", network),
        scenario("a pod with shared namespaces", "F144", pod),
        scenario(
            "missing programs: 127, not executable: 126, bad mount: 125",
            "F149 F150",
            mistakes,
        ),
        scenario("build with steps that run", "F150", build),
        scenario("init, seccomp, no new privileges", "F144", protected),
    ];
    all.extend(debian::with_options::<Podman>());
    all
}

/// Podman with an image of Debian.
struct Podman;

impl debian::Client for Podman {
    const TERMINAL: &'static [&'static str] = &["--tty", "--interactive"];
    const FREE: &'static [&'static str] = &[];
    const HELD: &'static [&'static str] = &["--security-opt", "no-new-privileges"];

    fn run<'s>(stage: &'s Stage, options: &[&str]) -> Res<Cmd<'s>> {
        // Its clean-up ends the process that holds the user's namespaces.
        let name = name(stage);
        let archive = debian::archive(stage)?;
        if podman(stage, &["image", "exists", DEBIAN]).output()?.code != Some(0) {
            podman(stage, &["load", "--quiet", "--input", &archive]).must()?;
        }
        let words = ["run", "--rm", "--network", "none", "--name", &name];
        Ok(podman(stage, &words).args(options).args(&[DEBIAN]))
    }
}

fn open(stage: &Stage) -> Res {
    crate::clients::add_user()?;
    for file in ["/etc/subuid", "/etc/subgid"] {
        std::fs::write(file, "tester:300000:65536\n")?;
    }
    super::configure(stage)?;
    std::fs::create_dir_all(stage.dir.join("xdg"))?;
    for name in ["home", "tmp", "xdg", "podman"] {
        chown(stage.dir.join(name), Some(USER), Some(USER))?;
    }
    stage.set_env("XDG_RUNTIME_DIR", stage.path("xdg"));
    stage.set_env("USER", "tester");
    for name in ["box.tar", "pause.tar"] {
        let archive = stage.images.join(name).display().to_string();
        podman(stage, &["load", "--quiet", "--input", &archive]).must()?;
    }
    Ok(())
}

/// `podman` as the user; the words `setpriv` start it, so that the clean-up can too.
fn podman<'s>(stage: &'s Stage, words: &[&str]) -> Cmd<'s> {
    stage.cmd(&AS_USER).args(&["podman"]).args(words)
}

const AS_USER: [&str; 5] =
    ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "--inh-caps=-all"];

fn later(stage: &Stage, words: &[&str]) {
    let mut all = AS_USER.to_vec();
    all.push("podman");
    all.extend_from_slice(words);
    stage.later(&all);
}

fn name(stage: &Stage) -> String {
    let name = format!("c{}", stage.next());
    // The process that holds the user's namespaces goes last.
    later(stage, &["system", "migrate"]);
    later(stage, &["rm", "--force", "--time", "0", "--volumes", "--ignore", &name]);
    name
}

fn run<'s>(stage: &'s Stage, options: &[&str], command: &[&str]) -> Cmd<'s> {
    let has = |word: &str| options.iter().any(|option| option.split('=').next() == Some(word));
    let network: &[&str] =
        if has("--network") || has("--pod") { &[] } else { &["--network", "none"] };
    podman(stage, &["run"]).args(network).args(options).args(&[BOX]).args(command)
}

fn sh(stage: &Stage, options: &[&str], line: &str) -> Res<Output> {
    let name = name(stage);
    let mut all = vec!["--rm", "--name", &name];
    all.extend_from_slice(options);
    run(stage, &all, &["sh", "-c", line]).output()
}

fn sh_ok(stage: &Stage, options: &[&str], line: &str) -> Res<String> {
    let output = sh(stage, options, line)?;
    eq(&output.brief(), &output.code, &Some(0))?;
    Ok(output.out.trim().to_owned())
}

fn sleeping(stage: &Stage, options: &[&str]) -> Res<String> {
    let name = name(stage);
    let mut all = vec!["--detach", "--name", &name];
    all.extend_from_slice(options);
    run(stage, &all, &["sleep", "1000"]).must()?;
    Ok(name)
}

fn exec(stage: &Stage, name: &str, command: &[&str]) -> Res<Output> {
    podman(stage, &["exec", name]).args(command).output()
}

fn run_code(stage: &Stage) -> Res {
    let output = sh(stage, &[], "echo to stdout; echo to stderr >&2; exit 7")?;
    eq(&output.brief(), &output.code, &Some(7))?;
    eq("stdout", &output.out.as_str(), &"to stdout\n")?;
    has("stderr", &output.err, "to stderr\n")?;
    for _ in 0..3 {
        eq("exit code of true", &sh(stage, &[], "true")?.code, &Some(0))?;
    }
    Ok(())
}

fn ids(stage: &Stage) -> Res {
    let text = sh_ok(
        stage,
        &[],
        "id -u; awk '{print $1, $2, $3}' /proc/self/uid_map; stat -c %u /data/file",
    )?;
    eq("what it sees", &text.as_str(), &"0\n0 1000 1\n1 300000 65536\n1000")
}

fn exec_code(stage: &Stage) -> Res {
    let name = sleeping(stage, &[])?;
    let output = exec(stage, &name, &["sh", "-c", "echo out; exit 9"])?;
    eq(&output.brief(), &(output.code, output.out.as_str()), &(Some(9), "out\n"))?;
    let text = podman(stage, &["exec", "--user", "tester", &name, "id", "-u"]).must()?;
    eq("user", &text.as_str(), &"1000")
}

fn stop(stage: &Stage) -> Res {
    let name = sleeping(stage, &[])?;
    podman(stage, &["kill", &name]).must()?;
    eq("exit code of kill", &podman(stage, &["wait", &name]).must()?.as_str(), &"137")?;
    podman(stage, &["start", &name]).must()?;
    podman(stage, &["stop", "--time", "0", &name]).must()?;
    let text = podman(stage, &["inspect", "--format", "{{.State.Status}}", &name]).must()?;
    eq("status", &text.as_str(), &"exited")
}

fn terminal(stage: &Stage) -> Res {
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

fn mapped(stage: &Stage) -> Res {
    let line = "awk '{print $1, $2, $3}' /proc/self/uid_map; id -u";
    eq(
        "keep-id",
        &sh_ok(stage, &["--userns", "keep-id"], line)?.as_str(),
        &"0 1 1000\n1000 0 1\n1001 1001 64536\n1000",
    )?;
    let text = sh_ok(
        stage,
        &["--uidmap", "0:1:1000", "--gidmap", "0:1:1000"],
        "id -u; touch /x && echo wrote",
    )?;
    eq("uidmap", &text.as_str(), &"0\nwrote")
}

fn volumes(stage: &Stage) -> Res {
    let dir = stage.path("home/bound");
    std::fs::create_dir_all(&dir)?;
    chown(&dir, Some(USER), Some(USER))?;
    let option = format!("{dir}:/mnt");
    sh_ok(stage, &["--volume", &option], "echo text > /mnt/file")?;
    use std::os::unix::fs::MetadataExt;
    eq("owner", &std::fs::metadata(format!("{dir}/file"))?.uid(), &USER)?;
    let options = ["--read-only", "--tmpfs", "/scratch:size=1m"];
    let output = sh(stage, &options, "touch /x; touch /scratch/x && echo written")?;
    has("touch on the root", &output.err, "Read-only file system")?;
    has("touch on the tmpfs", &output.out, "written")
}

fn network(stage: &Stage) -> Res {
    let text = sh_ok(stage, &["--network", "slirp4netns"], "ip -4 addr show tap0")?;
    has("address", &text, "10.0.2.100")
}

fn pod(stage: &Stage) -> Res {
    let pod = format!("p{}", stage.next());
    later(stage, &["system", "migrate"]);
    later(stage, &["pod", "rm", "--force", "--time", "0", "--ignore", &pod]);
    podman(stage, &["pod", "create", "--name", &pod, "--network", "none"]).must()?;
    let first = sleeping(stage, &["--pod", &pod])?;
    let one = exec(stage, &first, &["readlink", "/proc/self/ns/ipc"])?.out;
    let two = sh_ok(stage, &["--pod", &pod], "readlink /proc/self/ns/ipc")?;
    ensure(!two.is_empty(), "no namespace")?;
    eq("ipc namespace", &one.trim(), &two.as_str())
}

fn mistakes(stage: &Stage) -> Res {
    for (options, program, code, words) in [
        (&[][..], "nosuchprogram", 127, "not found in $path"),
        (&[], "/no/such/program", 127, "no such file or directory"),
        (&[], "/etc/plain", 126, "permission denied"),
        (&["--volume", "/no/such/source:/mnt"], "true", 125, "no such file or directory"),
    ] {
        let name = name(stage);
        let mut all = vec!["--name", &name];
        all.extend_from_slice(options);
        let output = run(stage, &all, &[program]).output()?;
        eq(&format!("exit code of {program} ({})", output.brief()), &output.code, &Some(code))?;
        has("message", &output.err.to_lowercase(), words)?;
    }
    Ok(())
}

fn build(stage: &Stage) -> Res {
    let dir = stage.path("home/build");
    std::fs::create_dir_all(&dir)?;
    std::fs::write(
        format!("{dir}/Dockerfile"),
        format!("FROM {BOX}\nRUN id -u > /made; chown 1000 /made\n"),
    )?;
    later(stage, &["system", "migrate"]);
    later(stage, &["rmi", "--force", "localhost/built:1"]);
    podman(
        stage,
        &["build", "--isolation", "oci", "--network", "none", "--tag", "localhost/built:1", &dir],
    )
    .must()?;
    let text = podman(
        stage,
        &["run", "--rm", "--network", "none", "localhost/built:1", "stat", "-c", "%u", "/made"],
    )
    .must()?;
    eq("owner of what was built", &text.as_str(), &"1000")
}

fn protected(stage: &Stage) -> Res {
    let options = ["--security-opt", "no-new-privileges"];
    let text = sh_ok(stage, &options, "grep -E 'NoNewPrivs|^Seccomp:' /proc/self/status")?;
    eq("flags", &text.as_str(), &"NoNewPrivs:\t1\nSeccomp:\t2")?;
    eq("exit code by --init", &sh(stage, &["--init"], "exit 11")?.code, &Some(11))
}
