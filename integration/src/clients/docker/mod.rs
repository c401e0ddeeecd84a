//! Docker, driven by its command line.

mod builds;
mod configuration;
mod life;
mod mistakes;

use oci_tests::check::Res;
use serde_json::{Value, json};

use super::debian::{self, DEBIAN};
use super::engine::{
    call as docker, exec, inspect, knob, name, run, run_image, running, sh, sh_ok, shared,
    sleeping, until,
};
use crate::daemon::Daemon;
use crate::scenario::Client;
use crate::stage::{Cmd, Stage, search_path};

/// Docker with the runtime as its default.
pub const CLIENT: Client = Client {
    name: "docker",
    programs: &["dockerd", "docker", "iptables"],
    scenarios: || {
        let mut all = life::scenarios();
        all.extend(configuration::scenarios());
        all.extend(mistakes::scenarios());
        all.extend(builds::scenarios());
        all.extend(debian::with_options::<Docker>());
        all
    },
    open: |stage| open(stage, &[]),
    emptied,
};

/// Docker whose containers have a user namespace.
pub const REMAPPED: Client = Client {
    name: "docker with userns-remap",
    programs: &["dockerd", "docker", "iptables"],
    scenarios: configuration::remapped,
    open: |stage| {
        for file in ["/etc/subuid", "/etc/subgid"] {
            std::fs::write(file, "dockremap:200000:65536\n")?;
        }
        for (file, line) in [
            ("/etc/passwd", "dockremap:x:699:699::/:/bin/false\n"),
            ("/etc/group", "dockremap:x:699:\n"),
        ] {
            std::fs::write(file, std::fs::read_to_string(file)? + line)?;
        }
        open(stage, &["--userns-remap", "dockremap"])
    },
    emptied,
};

/// The name under which Docker knows the runtime.
const NAME: &str = "tested";

/// The name by which Docker finds the shim in PATH.
const SHIM: &str = "io.containerd.bulkhead.v2";

fn emptied(stage: &Stage) -> Vec<String> {
    let run = stage.dir.join("docker/exec");
    let names = [
        &format!("runtime-{NAME}/moby"),
        "runtime-runc/moby",
        "containerd/daemon/io.containerd.runtime.v2.task/moby",
    ];
    let mut dirs: Vec<String> =
        names.iter().map(|name| run.join(name).display().to_string()).collect();
    // containerd's own shim leaves its socket there when it is killed.
    if stage.shim.is_some() {
        dirs.extend(["/run/containerd/bulkhead/moby", "/run/containerd/s"].map(str::to_owned));
    }
    dirs
}

/// What daemon.json says of the runtime.
fn configuration(stage: &Stage) -> Value {
    let runtime = match &stage.shim {
        Some(_) => json!({ "runtimeType": SHIM }),
        None => json!({ "path": stage.runtime }),
    };
    json!({ "runtimes": { NAME: runtime }, "default-runtime": NAME })
}

fn open(stage: &Stage, options: &[&str]) -> Res {
    let dir = stage.dir.join("docker");
    std::fs::create_dir_all(dir.join("bin"))?;
    // BuildKit knows one name only, and looks it up in PATH.
    std::os::unix::fs::symlink(&stage.runtime, dir.join("bin/runc"))?;
    if let Some(shim) = &stage.shim {
        std::os::unix::fs::symlink(shim, dir.join("bin/containerd-shim-bulkhead-v2"))?;
    }
    stage.set_env("DOCKER_HOST", format!("unix://{}", dir.join("docker.sock").display()));
    std::fs::write(dir.join("daemon.json"), configuration(stage).to_string())?;
    std::fs::write(dir.join("options"), options.join("\n"))?;
    stage.keep(again(stage)?);
    let archive = stage.images.join("box.tar").display().to_string();
    docker(stage, &["load", "--quiet", "--input", &archive]).must()?;
    Ok(())
}

/// Starts dockerd with the configuration that is there.
fn again(stage: &Stage) -> Res<Daemon> {
    let path = |name: &str| stage.path(&format!("docker/{name}"));
    let options = std::fs::read_to_string(path("options"))?;
    let mut words: Vec<String> = [
        "dockerd",
        "--live-restore",
        "--experimental",
        "--storage-driver",
        "overlay2",
        "--bip",
        "10.98.0.1/24",
        "--cgroup-parent",
    ]
    .map(str::to_owned)
    .into();
    words.push(format!("/{}", stage.word));
    for (option, name) in [
        ("--config-file", "daemon.json"),
        ("--data-root", "data"),
        ("--exec-root", "exec"),
        ("--pidfile", "pid"),
    ] {
        words.extend([option.to_owned(), path(name)]);
    }
    words.extend(["--host".to_owned(), format!("unix://{}", path("docker.sock"))]);
    words.extend(options.lines().map(str::to_owned));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let search = format!("{}:{}", path("bin"), search_path(&stage.programs));
    let ready = || Ok(docker(stage, &["version"]).output()?.code == Some(0));
    Daemon::start(stage, &words, &[("PATH", &search)], ready)
}

/// Docker with an image of Debian.
struct Docker;

impl debian::Client for Docker {
    const TERMINAL: &'static [&'static str] = &["--tty", "--interactive"];
    const FREE: &'static [&'static str] = &[];
    const HELD: &'static [&'static str] = &["--security-opt", "no-new-privileges"];

    fn run<'s>(stage: &'s Stage, options: &[&str]) -> Res<Cmd<'s>> {
        let archive = debian::archive(stage)?;
        if docker(stage, &["image", "inspect", DEBIAN]).output()?.code != Some(0) {
            docker(stage, &["load", "--quiet", "--input", &archive]).must()?;
        }
        let name = name(stage);
        let all = [&["--rm", "--name", &name], options].concat();
        Ok(run_image(stage, &all, DEBIAN))
    }
}
