//! Podman, as root and as an ordinary user.

mod configuration;
mod life;
mod mistakes;
mod pods;
mod rootless;

use std::path::PathBuf;

use oci_tests::cgroups;
use oci_tests::check::{Res, fail};
use oci_tests::process::Output;
use serde_json::Value;

use crate::images::{BOX, PAUSE};
use crate::scenario::Client;
use crate::stage::{Cmd, Stage};

/// Podman as root.
pub const CLIENT: Client = Client {
    name: "podman",
    programs: &["podman", "conmon"],
    scenarios: || {
        let mut all = life::scenarios();
        all.extend(configuration::scenarios());
        all.extend(pods::scenarios());
        all.extend(mistakes::scenarios());
        all
    },
    open: |stage| {
        configure(stage)?;
        load(stage)
    },
    emptied: |_| ["bulkhead", "runc", "crun"].map(|name| format!("/run/{name}")).into(),
};

pub use rootless::CLIENT as ROOTLESS;

/// Writes Podman's configuration and puts it into the environment.
fn configure(stage: &Stage) -> Res {
    let path = |name: &str| stage.path(&format!("podman/{name}"));
    std::fs::create_dir_all(path(""))?;
    let name = runtime_name(stage);
    // Podman decides by the runtime's name what it can do: this is what users of bulkhead write too.
    let engine = format!(
        "[containers]\ninit_path = \"/usr/bin/catatonit\"\n\
         [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n\
         infra_image = \"{PAUSE}\"\ntmp_dir = \"{}\"\nruntime = \"{name}\"\n\
         runtime_supports_json = [\"bulkhead\", \"crun\", \"runc\"]\n\
         runtime_supports_nocgroup = [\"bulkhead\", \"crun\"]\n\
         [engine.runtimes]\n{name} = [\"{}\"]\n\
         [network]\nnetwork_backend = \"cni\"\n",
        path("tmp"),
        stage.runtime.display(),
    );
    std::fs::write(path("containers.conf"), engine)?;
    let storage = format!(
        "[storage]\ndriver = \"overlay\"\ngraphroot = \"{}\"\nrunroot = \"{}\"\n",
        path("root"),
        path("run")
    );
    std::fs::write(path("storage.conf"), storage)?;
    stage.set_env("CONTAINERS_CONF", path("containers.conf"));
    stage.set_env("CONTAINERS_STORAGE_CONF", path("storage.conf"));
    Ok(())
}

/// The name under which Podman knows the runtime: its file's.
fn runtime_name(stage: &Stage) -> String {
    let name = stage.runtime.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn load(stage: &Stage) -> Res {
    for name in ["box.tar", "pause.tar"] {
        let archive = stage.images.join(name).display().to_string();
        podman(stage, &["load", "--quiet", "--input", &archive]).must()?;
    }
    Ok(())
}

fn podman<'s>(stage: &'s Stage, words: &[&str]) -> Cmd<'s> {
    stage.cmd(&["podman"]).args(words)
}

/// A fresh container name, removed after the scenario.
fn name(stage: &Stage) -> String {
    let name = format!("c{}", stage.next());
    stage.later(&["podman", "rm", "--force", "--time", "0", "--volumes", "--ignore", &name]);
    name
}

/// `podman run OPTIONS box COMMAND` below this client's cgroup, without a network.
fn run<'s>(stage: &'s Stage, options: &[&str], command: &[&str]) -> Cmd<'s> {
    let parent = format!("/{}", stage.word);
    let has = |word: &str| options.iter().any(|option| option.split('=').next() == Some(word));
    let mut words = vec!["run"];
    if !has("--cgroup-parent") && !has("--pod") && !has("--cgroups") {
        words.extend(["--cgroup-parent", &parent]);
    }
    if !has("--network") && !has("--pod") {
        words.extend(["--network", "none"]);
    }
    podman(stage, &words).args(options).args(&[BOX]).args(command)
}

/// `podman run --rm` of a shell line; answers how it ended.
fn sh(stage: &Stage, options: &[&str], line: &str) -> Res<Output> {
    let name = name(stage);
    let mut all = vec!["--rm", "--name", &name];
    all.extend_from_slice(options);
    run(stage, &all, &["sh", "-c", line]).output()
}

/// The same, which must end well; answers what it printed.
fn sh_ok(stage: &Stage, options: &[&str], line: &str) -> Res<String> {
    let output = sh(stage, options, line)?;
    match output.code {
        Some(0) => Ok(output.out.trim().to_owned()),
        _ => fail(format!("{line}: {} {}", output.brief(), output.out.trim())),
    }
}

/// A container that runs a command; answers its name.
fn running(stage: &Stage, options: &[&str], command: &[&str]) -> Res<String> {
    let name = name(stage);
    let mut all = vec!["--detach", "--name", &name];
    all.extend_from_slice(options);
    run(stage, &all, command).must()?;
    Ok(name)
}

/// A container that sleeps; answers its name.
fn sleeping(stage: &Stage, options: &[&str]) -> Res<String> {
    running(stage, options, &["sleep", "1000"])
}

fn exec(stage: &Stage, name: &str, command: &[&str]) -> Res<Output> {
    podman(stage, &["exec", name]).args(command).output()
}

/// What `podman inspect` says at a JSON pointer.
fn inspect(stage: &Stage, name: &str, pointer: &str) -> Res<Value> {
    let text = podman(stage, &["inspect", name]).must()?;
    let value: Value = serde_json::from_str(&text).unwrap_or_default();
    Ok(value[0].pointer(pointer).cloned().unwrap_or_default())
}

/// Waits until `podman inspect` says this at a JSON pointer.
fn until(stage: &Stage, name: &str, pointer: &str, wanted: impl Into<Value>) -> Res {
    let wanted = wanted.into();
    stage.until(&format!("{pointer} of {name} is {wanted}"), || {
        Ok(inspect(stage, name, pointer)? == wanted)
    })
}

/// A knob of a container's cgroup, by its names in v1 and v2.
fn knob(stage: &Stage, name: &str, controller: &str, files: [&str; 2]) -> Res<String> {
    let id = inspect(stage, name, "/Id")?;
    let path = format!("/{}/libpod-{}", stage.word, id.as_str().unwrap_or_default());
    let dir: PathBuf = cgroups::either(controller, &path)?;
    let file = files.iter().map(|file| dir.join(file)).find(|file| file.exists());
    match file {
        Some(file) => Ok(std::fs::read_to_string(file)?.trim().to_owned()),
        None => fail(format!("{} has neither of {files:?}", dir.display())),
    }
}
