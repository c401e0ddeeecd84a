//! A host with the package's daemons and no systemd: what the pages' commands find.
//!
//! /usr is writable for this job alone, so that `dpkg` installs as on any host. `systemctl` is a script that
//! restarts and reloads one daemon, which runs with its usual places and configuration. Images that
//! the pages pull are there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use oci_tests::check::{Res, fail, skip};
use oci_tests::kind::Kind;

use crate::sandbox;
use crate::stage::{Stage, search_path};

/// What pages call the image of the tests.
const IMAGE: &str = "docker.io/library/busybox:latest";

/// A daemon as its unit of systemd starts it.
pub struct Unit {
    /// The unit's name, which is in `systemctl restart NAME` too.
    pub name: &'static str,
    /// The command line.
    pub command: &'static str,
    /// Succeeds when the daemon answers.
    pub ready: &'static str,
}

/// containerd.
pub const CONTAINERD: Unit =
    Unit { name: "containerd", command: "containerd", ready: "ctr version" };

/// Docker.
pub const DOCKER: Unit = Unit { name: "docker", command: "dockerd", ready: "docker version" };

/// Puts the package beside the shell, and makes the machine one that it can be installed on.
pub fn prepare(stage: &Stage) -> Res {
    if stage.kind != Kind::Bulkhead {
        return skip("the pages are about Bulkhead's package, not about another runtime");
    }
    let package = package()?;
    sandbox::overlay(&stage.dir, "usr")?;
    let name = package.file_name().unwrap_or_default();
    fs::copy(&package, stage.dir.join("home").join(name))?;
    fs::create_dir(stage.dir.join("bin"))?;
    let path = format!("{}:{}", stage.path("bin"), search_path(&stage.programs));
    stage.set_env("PATH", path);
    Ok(())
}

/// The package: `$PACKAGE`, or what `scripts/package` made.
fn package() -> Res<PathBuf> {
    if let Some(path) = std::env::var_os("PACKAGE") {
        return Ok(path.into());
    }
    let own = std::env::current_exe()?;
    let target = own.ancestors().nth(3).unwrap_or(Path::new("/"));
    let entries = fs::read_dir(target.join("package")).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .collect();
    // Of several versions, the one that was made last.
    found.sort_by_key(|path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok());
    match found.pop() {
        Some(path) => Ok(path),
        None => skip("there is no package: scripts/package makes it, or PACKAGE names it"),
    }
}

/// Starts the daemon, and makes `systemctl` know it.
pub fn start(stage: &Stage, unit: &Unit) -> Res {
    let script = format!(
        "#!/bin/sh\n\
         # In the place of systemd, which the sandbox has not.\n\
         set -eu\n\
         pid={dir}/unit.pid\n\
         test \"$2\" = {name}\n\
         case $1 in\n\
         reload) kill -HUP \"$(cat $pid)\"; sleep 1; exit ;;\n\
         restart) ;;\n\
         *) exit 1 ;;\n\
         esac\n\
         if test -e $pid; then\n\
           kill \"$(cat $pid)\"\n\
           while test -e /proc/\"$(cat $pid)\"; do sleep 0.05; done\n\
         fi\n\
         setsid {command} </dev/null >>{dir}/unit.log 2>&1 &\n\
         echo $! >$pid\n\
         until {ready} >/dev/null 2>&1; do\n\
           test -e /proc/\"$(cat $pid)\" || {{ tail -n 3 {dir}/unit.log >&2; exit 1; }}\n\
           sleep 0.1\n\
         done\n",
        dir = stage.dir.display(),
        name = unit.name,
        command = unit.command,
        ready = unit.ready,
    );
    let path = stage.dir.join("bin/systemctl");
    fs::write(&path, script)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    stage.cmd(&["systemctl", "restart", unit.name]).must().map(drop)
}

/// The archive of an image of the tests.
fn archive(stage: &Stage, name: &str) -> String {
    stage.images.join(name).display().to_string()
}

/// Loads the image into a namespace of containerd.
pub fn containerd_image(stage: &Stage, namespace: &str) -> Res {
    let ctr = |words: &[&str]| stage.cmd(&["ctr", "--namespace", namespace]).args(words).must();
    ctr(&["images", "import", &archive(stage, "box.tar")])?;
    ctr(&["images", "tag", crate::images::BOX, IMAGE]).map(drop)
}

/// Loads what holds a pod under the name that containerd's configuration has.
pub fn pause_image(stage: &Stage) -> Res {
    let text = stage.cmd(&["containerd", "config", "dump"]).must()?;
    let image = text.lines().map(str::trim).find_map(|line| {
        // The second one is that of 2.x.
        line.strip_prefix("sandbox_image = ").or_else(|| line.strip_prefix("sandbox = "))
    });
    let Some(image) = image.map(|image| image.trim_matches(['"', '\''])) else {
        return fail("containerd's configuration names no image for sandboxes");
    };
    let ctr = |words: &[&str]| stage.cmd(&["ctr", "--namespace", "k8s.io"]).args(words).must();
    ctr(&["images", "import", &archive(stage, "pause.tar")])?;
    ctr(&["images", "tag", crate::images::PAUSE, image]).map(drop)
}

/// Loads the image into Docker.
pub fn docker_image(stage: &Stage) -> Res {
    stage.cmd(&["docker", "load", "--quiet", "--input", &archive(stage, "box.tar")]).must()?;
    stage.cmd(&["docker", "tag", crate::images::BOX, IMAGE]).must().map(drop)
}

/// Loads the image into Podman's storage.
pub fn podman_image(stage: &Stage) -> Res {
    let runtime = stage.runtime.display().to_string();
    let podman = |words: &[&str]| stage.cmd(&["podman", "--runtime", &runtime]).args(words).must();
    podman(&["load", "--quiet", "--input", &archive(stage, "box.tar")])?;
    podman(&["tag", crate::images::BOX, IMAGE]).map(drop)
}
