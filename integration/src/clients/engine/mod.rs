//! What Docker's and Podman's command lines have in common: commands, and scenarios ([`shared`]).

pub mod shared;

use oci_tests::cgroups;
use oci_tests::check::{Res, fail};
use oci_tests::process::Output;
use serde_json::Value;

use crate::images::BOX;
use crate::stage::{Cmd, Stage};

/// One of the two.
pub struct Engine {
    program: &'static str,
    /// The command that removes a container, whatever state it is in.
    remove: &'static [&'static str],
    /// Options of a container that does not end by itself.
    endless: &'static [&'static str],
    /// Whether the parent of cgroups is an option of the container; else the daemon has it.
    names_parent: bool,
    /// What is before the id in a cgroup's name.
    prefix: &'static str,
    /// A working directory: one that it makes, or that is there already.
    directory: &'static str,
}

const DOCKER: Engine = Engine {
    program: "docker",
    remove: &["rm", "--force", "--volumes"],
    endless: &["--stop-timeout", "1"],
    names_parent: false,
    prefix: "",
    directory: "/new/dir",
};

const PODMAN: Engine = Engine {
    program: "podman",
    remove: &["rm", "--force", "--time", "0", "--volumes", "--ignore"],
    endless: &[],
    names_parent: true,
    prefix: "libpod-",
    directory: "/data",
};

impl Engine {
    /// The stage's.
    fn of(stage: &Stage) -> &'static Self {
        if super::ALL[stage.client].needs("dockerd") { &DOCKER } else { &PODMAN }
    }
}

/// A command of the engine.
pub fn call<'s>(stage: &'s Stage, words: &[&str]) -> Cmd<'s> {
    stage.cmd(&[Engine::of(stage).program]).args(words)
}

/// A fresh container name, removed after the scenario.
pub fn name(stage: &Stage) -> String {
    let engine = Engine::of(stage);
    let name = format!("c{}", stage.next());
    let mut words = vec![engine.program];
    words.extend(engine.remove);
    words.push(&name);
    stage.later(&words);
    name
}

/// `run OPTIONS box COMMAND`.
pub fn run<'s>(stage: &'s Stage, options: &[&str], command: &[&str]) -> Cmd<'s> {
    run_image(stage, options, BOX).args(command)
}

/// `run OPTIONS IMAGE` below this client's cgroup, without a network unless the options have one.
pub fn run_image<'s>(stage: &'s Stage, options: &[&str], image: &str) -> Cmd<'s> {
    let parent = format!("/{}", stage.word);
    let has = |word: &str| options.iter().any(|option| option.split('=').next() == Some(word));
    let mut words = vec!["run"];
    let chosen = has("--cgroup-parent") || has("--pod") || has("--cgroups");
    if Engine::of(stage).names_parent && !chosen {
        words.extend(["--cgroup-parent", &parent]);
    }
    if !has("--network") && !has("--pod") {
        words.extend(["--network", "none"]);
    }
    call(stage, &words).args(options).args(&[image])
}

/// `run --rm` of a shell line; answers how it ended.
pub fn sh(stage: &Stage, options: &[&str], line: &str) -> Res<Output> {
    let name = name(stage);
    let mut all = vec!["--rm", "--name", &name];
    all.extend_from_slice(options);
    run(stage, &all, &["sh", "-c", line]).output()
}

/// The same, which must end well; answers what it printed.
pub fn sh_ok(stage: &Stage, options: &[&str], line: &str) -> Res<String> {
    let output = sh(stage, options, line)?;
    match output.code {
        Some(0) => Ok(output.out.trim().to_owned()),
        _ => fail(format!("{line}: {} {}", output.brief(), output.out.trim())),
    }
}

/// A container that runs a command; answers its name.
pub fn running(stage: &Stage, options: &[&str], command: &[&str]) -> Res<String> {
    let name = name(stage);
    let mut all = vec!["--detach", "--name", &name];
    all.extend_from_slice(options);
    run(stage, &all, command).must()?;
    Ok(name)
}

/// A container that sleeps; answers its name.
pub fn sleeping(stage: &Stage, options: &[&str]) -> Res<String> {
    let all = [Engine::of(stage).endless, options].concat();
    running(stage, &all, &["sleep", "1000"])
}

/// Executes in a container.
pub fn exec(stage: &Stage, name: &str, command: &[&str]) -> Res<Output> {
    call(stage, &["exec", name]).args(command).output()
}

/// What `inspect` says at a JSON pointer.
pub fn inspect(stage: &Stage, name: &str, pointer: &str) -> Res<Value> {
    let text = call(stage, &["inspect", name]).must()?;
    let value: Value = serde_json::from_str(&text).unwrap_or_default();
    Ok(value[0].pointer(pointer).cloned().unwrap_or_default())
}

/// Waits until `inspect` says this at a JSON pointer.
pub fn until(stage: &Stage, name: &str, pointer: &str, wanted: impl Into<Value>) -> Res {
    let wanted = wanted.into();
    stage.until(&format!("{pointer} of {name} is {wanted}"), || {
        Ok(inspect(stage, name, pointer)? == wanted)
    })
}

/// A knob of a container's cgroup, by its names in v1 and v2.
pub fn knob(stage: &Stage, name: &str, controller: &str, files: [&str; 2]) -> Res<String> {
    let id = inspect(stage, name, "/Id")?;
    let prefix = Engine::of(stage).prefix;
    let path = format!("/{}/{prefix}{}", stage.word, id.as_str().unwrap_or_default());
    let dir = cgroups::either(controller, &path)?;
    let file = files.iter().map(|file| dir.join(file)).find(|file| file.exists());
    match file {
        Some(file) => Ok(std::fs::read_to_string(file)?.trim().to_owned()),
        None => fail(format!("{} has neither of {files:?}", dir.display())),
    }
}
