//! containerd, driven by `ctr` and by its own gRPC interface.
//!
//! The scenarios are the same for containerd's own shim with the runtime as its `BinaryName`, and for
//! another shim.

mod api;
mod basics;
mod checkpoint;
mod configuration;
mod events;
mod faults;
mod host;
mod soak;

use std::path::PathBuf;
use std::time::Duration;

use oci_tests::cgroups;
use oci_tests::check::{Res, fail};
use oci_tests::process::Output;
use serde_json::Value;

use crate::clients::debian::{self, DEBIAN};
use crate::daemon::{self, Daemon};
use crate::grpc::{Channel, Reply};
use crate::images::{BOX, PAUSE};
use crate::scenario::Client;
use crate::stage::{Cmd, Running, Stage};
use crate::wire::Message;

/// containerd with `ctr`.
pub const CLIENT: Client = Client {
    name: "containerd",
    programs: &["containerd", "ctr"],
    scenarios: || {
        let mut all = basics::scenarios();
        all.extend(configuration::scenarios());
        all.extend(events::scenarios());
        all.extend(api::scenarios());
        all.extend(host::scenarios());
        all.extend(checkpoint::scenarios());
        all.extend(faults::scenarios());
        all.extend(debian::scenarios::<Ctr>());
        all.extend(soak::scenarios());
        all
    },
    open,
    emptied: |stage| {
        let run = socket(stage).with_file_name("");
        let task = ["io.containerd.runtime.v2.task", &stage.word];
        let mut dirs = vec![
            FIFOS.to_owned(),
            format!("/run/containerd/runc/{}", stage.word),
            run.join(task[0]).join(task[1]).display().to_string(),
        ];
        // containerd's own shim leaves its socket there when it is killed.
        dirs.extend(stage.shim.as_ref().map(|_| "/run/containerd/s".to_owned()));
        dirs
    },
};

/// Where `ctr` makes its fifos.
const FIFOS: &str = "/run/containerd/fifo";

/// Removes the fifos of clients that were killed, which they would have removed.
fn remove_fifos() -> Res {
    for entry in std::fs::read_dir(FIFOS)?.flatten() {
        std::fs::remove_dir_all(entry.path())?;
    }
    Ok(())
}

/// Where containerd listens.
pub fn socket(stage: &Stage) -> PathBuf {
    stage.dir.join("containerd/run/containerd.sock")
}

/// Starts containerd; `cri` is the configuration of its CRI plugin, none turns that off.
pub fn start(stage: &Stage, cri: Option<&str>) -> Res<Daemon> {
    let dir = stage.dir.join("containerd");
    std::fs::create_dir_all(&dir)?;
    let disabled = if cri.is_some() { "" } else { "\"io.containerd.grpc.v1.cri\"" };
    let base = dir.display();
    let config = format!(
        "version = 2\nroot = \"{base}/root\"\nstate = \"{base}/run\"\n\
         disabled_plugins = [{disabled}]\n\
         [grpc]\naddress = \"{base}/run/containerd.sock\"\n\
         [plugins.\"io.containerd.internal.v1.opt\"]\npath = \"{base}/opt\"\n{}",
        cri.unwrap_or_default()
    );
    let file = dir.join("config.toml");
    std::fs::write(&file, config)?;
    stage.set_env("CONTAINERD_ADDRESS", socket(stage).display().to_string());
    again(stage)
}

/// Starts containerd with the configuration that is there.
pub fn again(stage: &Stage) -> Res<Daemon> {
    let file = stage.path("containerd/config.toml");
    let ready = || {
        Ok(daemon::answers(&socket(stage))
            && stage.cmd(&["ctr", "version"]).output()?.code == Some(0))
    };
    Daemon::start(stage, &["containerd", "--config", &file], &[], ready)
}

fn open(stage: &Stage) -> Res {
    // The namespace is the first part of the cgroups' path too.
    stage.set_env("CONTAINERD_NAMESPACE", stage.word.clone());
    stage.keep(start(stage, None)?);
    load(stage)
}

/// Loads the images into the namespace of the environment.
pub fn load(stage: &Stage) -> Res {
    for name in ["box.tar", "pause.tar"] {
        let archive = stage.images.join(name).display().to_string();
        stage.cmd(&["ctr", "images", "import", &archive]).must()?;
    }
    let images = stage.cmd(&["ctr", "images", "list", "-q"]).must()?;
    match [BOX, PAUSE].iter().find(|image| !images.contains(**image)) {
        Some(image) => fail(format!("{image} was not imported: {images}")),
        None => Ok(()),
    }
}

fn ctr<'s>(stage: &'s Stage, words: &[&str]) -> Cmd<'s> {
    stage.cmd(&["ctr"]).args(words)
}

/// Options that choose the runtime for `ctr run` and `ctr container create`.
fn runtime_words(stage: &Stage) -> Vec<String> {
    match &stage.shim {
        Some(shim) => vec!["--runtime".into(), shim.display().to_string()],
        None => vec!["--runc-binary".into(), stage.runtime.display().to_string()],
    }
}

/// `ctr` with an image of Debian.
struct Ctr;

impl debian::Client for Ctr {
    const TERMINAL: &'static [&'static str] = &["--tty"];
    const FREE: &'static [&'static str] = &["--allow-new-privs"];
    const HELD: &'static [&'static str] = &[];

    fn run<'s>(stage: &'s Stage, options: &[&str]) -> Res<Cmd<'s>> {
        let archive = debian::archive(stage)?;
        if !ctr(stage, &["images", "list", "-q"]).must()?.contains(DEBIAN) {
            ctr(stage, &["images", "import", &archive]).must()?;
        }
        let mut all = vec!["--rm"];
        all.extend_from_slice(options);
        Ok(run_image(stage, &id(stage), &all, DEBIAN))
    }
}

/// `ctr run OPTIONS box ID COMMAND`.
fn run<'s>(stage: &'s Stage, id: &str, options: &[&str], command: &[&str]) -> Cmd<'s> {
    run_image(stage, id, options, BOX).args(command)
}

/// `ctr run OPTIONS IMAGE ID`; what is left of it is removed after the scenario.
fn run_image<'s>(stage: &'s Stage, id: &str, options: &[&str], image: &str) -> Cmd<'s> {
    stage.later(&["ctr", "snapshots", "rm", id]);
    stage.later(&["ctr", "containers", "rm", id]);
    stage.later(&["ctr", "tasks", "delete", "--force", id]);
    let chosen = runtime_words(stage);
    let chosen: Vec<&str> = chosen.iter().map(String::as_str).collect();
    ctr(stage, &["run"]).args(&chosen).args(options).args(&[image, id])
}

/// The same with a directory as root file system.
fn run_at<'s>(stage: &'s Stage, id: &str, root: &str, command: &[&str]) -> Cmd<'s> {
    stage.later(&["ctr", "containers", "rm", id]);
    let chosen = runtime_words(stage);
    let chosen: Vec<&str> = chosen.iter().map(String::as_str).collect();
    ctr(stage, &["run", "--rm", "--env", "PATH=/bin"])
        .args(&chosen)
        .args(&["--rootfs", root, id])
        .args(command)
}

/// A fresh container id.
fn id(stage: &Stage) -> String {
    format!("c{}", stage.next())
}

/// `ctr run --rm` of a shell line; answers how it ended.
fn sh(stage: &Stage, options: &[&str], line: &str) -> Res<Output> {
    let mut all = vec!["--rm"];
    all.extend_from_slice(options);
    run(stage, &id(stage), &all, &["sh", "-c", line]).output()
}

/// The same, which must end well; answers what it printed.
fn sh_ok(stage: &Stage, options: &[&str], line: &str) -> Res<String> {
    let mut all = vec!["--rm"];
    all.extend_from_slice(options);
    run(stage, &id(stage), &all, &["sh", "-c", line]).must()
}

/// A container whose task sleeps; answers its id.
fn sleeping(stage: &Stage, options: &[&str]) -> Res<String> {
    let id = id(stage);
    let mut all = vec!["--detach", "--null-io"];
    all.extend_from_slice(options);
    run(stage, &id, &all, &["sleep", "1000"]).must()?;
    Ok(id)
}

/// Executes in a task; answers how that ended.
fn exec(stage: &Stage, id: &str, command: &[&str]) -> Res<Output> {
    exec_cmd(stage, id, &[], command).output()
}

fn exec_cmd<'s>(stage: &'s Stage, id: &str, options: &[&str], command: &[&str]) -> Cmd<'s> {
    let exec = format!("e{}", stage.next());
    ctr(stage, &["tasks", "exec", "--exec-id", &exec]).args(options).args(&[id]).args(command)
}

/// The pid and status of a task as `ctr tasks list` shows them.
fn task(stage: &Stage, id: &str) -> Res<Option<(i32, String)>> {
    let list = ctr(stage, &["tasks", "list"]).must()?;
    Ok(list.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        if words.next() != Some(id) {
            return None;
        }
        Some((words.next()?.parse().ok()?, words.next()?.to_owned()))
    }))
}

/// The pid of a task.
fn pid(stage: &Stage, id: &str) -> Res<i32> {
    match task(stage, id)? {
        Some((pid, _)) => Ok(pid),
        None => fail(format!("there is no task {id}")),
    }
}

/// Fails unless the task gets this status.
fn until_status(stage: &Stage, id: &str, wanted: &str) -> Res {
    stage.until(&format!("task {id} is {wanted}"), || {
        Ok(task(stage, id)?.is_some_and(|(_, status)| status == wanted))
    })
}

/// Kills and deletes a task, and its container.
fn end(stage: &Stage, id: &str) -> Res {
    ctr(stage, &["tasks", "kill", "--signal", "KILL", id]).must()?;
    until_status(stage, id, "STOPPED")?;
    delete(stage, id)
}

/// Deletes a task that has ended, and its container.
fn delete(stage: &Stage, id: &str) -> Res {
    // The exit code is the task's own.
    let output = ctr(stage, &["tasks", "delete", id]).output()?;
    if task(stage, id)?.is_some() {
        return fail(format!("tasks delete: {}", output.brief()));
    }
    ctr(stage, &["containers", "delete", id]).must()?;
    Ok(())
}

/// The process id of the shim that serves a container.
fn shim_of(stage: &Stage, id: &str) -> Res<i32> {
    // Any shim has the namespace and the id of the first of its containers in its command line.
    match crate::left::find_process("shim", &format!("-id {id} ")) {
        Some(pid) => Ok(pid),
        None => fail(format!("no shim of {id} in namespace {}", stage.word)),
    }
}

/// A connection to containerd's own interface.
fn channel(stage: &Stage) -> Res<Channel> {
    Channel::connect(&socket(stage), &[("containerd-namespace", &stage.word)])
}

/// Calls a method of the tasks service.
fn call(stage: &Stage, method: &str, message: &Message) -> Res<Reply> {
    let method = format!("/containerd.services.tasks.v1.Tasks/{method}");
    channel(stage)?.call(&method, message, stage.remaining())
}

/// `ctr events`, from now on.
fn events(stage: &Stage) -> Res<Running> {
    let running = ctr(stage, &["events"]).spawn()?;
    // It prints nothing before the first event, and has to be subscribed before it.
    let marker = format!("localhost/marker:{}", stage.next());
    stage.until("ctr events listens", || {
        ctr(stage, &["images", "tag", BOX, &marker]).must()?;
        ctr(stage, &["images", "remove", &marker]).must()?;
        std::thread::sleep(Duration::from_millis(50));
        Ok(running.printed().contains(&marker))
    })?;
    Ok(running)
}

/// The topics of the events that name this container, in their order, and what they say.
fn topics(running: &Running, id: &str) -> Vec<(String, Value)> {
    let text = running.printed();
    let events = text.lines().filter(|line| line.contains(&format!("\"{id}\"")));
    let split = events.filter_map(|line| {
        let (head, json) = line.split_once(" {")?;
        let topic = head.split_whitespace().next_back()?.to_owned();
        Some((topic, serde_json::from_str(&format!("{{{json}")).ok()?))
    });
    split.filter(|(topic, _)| topic.starts_with("/tasks/")).collect()
}

/// The directory of a container's cgroup for a controller.
fn cgroup(stage: &Stage, controller: &str, id: &str) -> Res<PathBuf> {
    cgroups::either(controller, &format!("/{}/{id}", stage.word))
}

/// Whether a path is there.
fn exists(path: &str) -> bool {
    std::path::Path::new(path).exists()
}
