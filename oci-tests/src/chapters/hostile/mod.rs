//! Tenants that attack: one test for each property that a known hole of a container runtime asks
//! for. docs/threat-model.md has the table of properties, what holds them, and their tests.
//!
//! Properties that another chapter tests as a rule of the specification are not tested again here:
//! devices and their rules (`devices`), seccomp in `exec` (`seccomp`), capabilities (`limits`), ids
//! of `exec --user`, what `exec` inherits (`exec`), links at /proc and /dev (`mounts`), the mask's
//! source (`paths`), `..` in cgroup paths (`cgroup_paths`), `delete --force ../victim`
//! (`lifecycle`), kills and failures at any call (`sigkill`, `injection`).
//!
//! The runtimes under test fail some of these, as root on somebody's machine. So no test stakes
//! anything of the machine: what stands for the host is a directory of the test, no sysctl is asked
//! for that no namespace has, no link leads to a file of procfs that keeps modes, no file makes a
//! reader take more memory than any machine has, and what a tenant makes in a cgroup file system has
//! the test's name. `shield` is the second wall, and not to be leaned on.

mod binary;
mod exec;
mod fields;
mod host;
mod paths;
mod races;
mod state;
#[cfg(target_arch = "x86_64")]
mod watcher;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::check::{Res, Test, eq};
use crate::lab::Lab;
use crate::lab::agent::Agent;
use crate::lab::bundle::{Bundle, push, without_namespace};
use crate::lab::call::Output;
use crate::lab::container::Container;

/// Tests of this chapter.
pub fn tests() -> Vec<Test> {
    let parts = [
        binary::tests,
        paths::tests,
        races::tests,
        host::tests,
        exec::tests,
        fields::tests,
        state::tests,
    ];
    let tests = parts.iter().flat_map(|part| part());
    #[cfg(target_arch = "x86_64")]
    let tests = tests.chain(watcher::tests());
    tests.collect()
}

/// Every capability but CAP_SYS_RESOURCE, which this machine's root does not have.
const CAPABILITIES: [&str; 40] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// Gives the program these capabilities and no others.
fn give(spec: &mut Value, capabilities: &[&str]) {
    crate::lab::bundle::capabilities(spec, &["bounding", "permitted", "effective"], capabilities);
}

/// A loop of the probe inside a container, which ends when the test says so.
struct Attacker<'l> {
    container: Container<'l>,
}

/// Where the attacker's loops look for the word to stop.
const STOP: &str = "/data/stop";

impl<'l> Attacker<'l> {
    /// Starts a container that does `step` until [`Self::end`].
    fn start(lab: &'l Lab, step: &str, edit: impl FnOnce(&mut Value)) -> Res<Self> {
        let container = lab.create(&["write /data/started 1", step, "pause"], edit)?;
        container.start()?;
        let started = format!("{}/rootfs/data/started", container.dir);
        let until = std::time::Instant::now() + crate::lab::call::DEADLINE;
        while fs::metadata(&started).is_err() {
            if std::time::Instant::now() > until {
                return crate::check::fail("the attacker did not start");
            }
            std::thread::yield_now();
        }
        Ok(Self { container })
    }

    /// Puts a container into this one's pid namespace.
    fn invite(&self, spec: &mut Value) {
        without_namespace(spec, "pid");
        let path = format!("/proc/{}/ns/pid", self.container.pid());
        push(&mut spec["linux"]["namespaces"], json!({ "type": "pid", "path": path }));
    }

    /// Stops the loop; answers what it got.
    fn end(mut self, step: &str) -> Res<Value> {
        fs::write(format!("{}/rootfs{STOP}", self.container.dir), "")?;
        let seen = self.container.ready()?[step].take();
        self.container.end()?;
        Ok(seen)
    }
}

/// A process on the host that keeps exchanging two paths of a folder which a tenant can write.
struct Partner(Child);

impl Partner {
    fn swapping(lab: &Lab, a: &Path, b: &Path) -> Res<Self> {
        let step = format!("swap {} {}", a.display(), b.display());
        let child = Command::new(&lab.probe).arg(step).stdout(Stdio::null()).spawn()?;
        Ok(Self(child))
    }
}

impl Drop for Partner {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Creates a container, whose creation may be refused; answers whether it was made. What was made
/// is deleted.
fn create_and_delete(lab: &Lab, bundle: &Bundle) -> Res<bool> {
    let output = lab.call(&["create", "--bundle", bundle.path(), &bundle.id]).output()?;
    let _ = lab.call(&["delete", "--force", &bundle.id]).output()?;
    Ok(output.code == Some(0))
}

/// Creates a container with a terminal, whose creation may be refused.
fn create_on_console(lab: &Lab, bundle: &Bundle, socket: &str) -> Res<(Output, Agent)> {
    let agent = Agent::listen(&lab.dir.join(socket))?;
    let words = ["create", "--console-socket", agent.path(), "--bundle", bundle.path(), &bundle.id];
    Ok((lab.call(&words).output()?, agent))
}

/// Runs a container whose image has a link at `link` to a directory of the host, by its own path or
/// beneath `way`: the directory stays as it is, whether the container runs or not.
fn run_with_link(lab: &Lab, link: &str, way: &str, edit: impl FnOnce(&mut Value)) -> Res<Output> {
    let outside = outside(lab)?;
    let bundle = lab.bundle(&["list ."], edit)?;
    symlink(format!("{way}{}", outside.display()), bundle.inside(link))?;
    let output = lab.run(&bundle)?;
    unchanged(&outside)?;
    Ok(output)
}

/// Leaves the container in the pid namespace of the test, which stands for the host's.
fn share_pids(spec: &mut Value) {
    without_namespace(spec, "pid");
}

/// Leaves /dev to the image: the suite's configuration without its mounts there.
fn image_dev(spec: &mut Value) {
    if let Some(mounts) = spec["mounts"].as_array_mut() {
        mounts.retain(|mount| mount["destination"] == "/proc");
    }
}

/// A directory that stands for the host's, with one file whose name and text no container has.
fn outside(lab: &Lab) -> Res<PathBuf> {
    let path = lab.dir.join("outside");
    fs::create_dir(&path)?;
    fs::write(path.join("of-the-host"), "of the host")?;
    Ok(path)
}

fn unchanged(outside: &Path) -> Res {
    eq("the host's directory", &names(outside)?, &vec!["of-the-host".to_owned()])?;
    let text = fs::read_to_string(outside.join("of-the-host"))?;
    eq("the host's file", &text.as_str(), &"of the host")
}

/// The names in a directory.
fn names(path: &Path) -> Res<Vec<String>> {
    let entries = fs::read_dir(path)?.flatten();
    Ok(entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}
