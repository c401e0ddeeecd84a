//! One test in its own namespaces.
//!
//! `outer` makes the namespaces and keeps the deadline, `inner` is pid 1 in them and runs the test.
//! When `inner` ends, for whatever reason, the kernel kills every process of its pid namespace and
//! drops every mount of its mount namespace: nothing of a test outlives it but cgroups, which the
//! runner removes by name.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::chapters;
use crate::check::{Res, Stop, View};
use crate::lab::cgroups::{self, Layout};
use crate::lab::{Lab, call};

/// How long one test may take before it is killed: a few seconds, many times that under emulation.
const DEADLINE: Duration = Duration::from_secs(300);

/// The same with `INJECT` in the environment, see `chapters::injection`.
const PATIENT: Duration = Duration::from_secs(3600);

/// What a worker needs to know.
pub struct Job {
    /// The program under test.
    pub runtime: PathBuf,
    /// The test's place in `chapters::all`.
    pub index: usize,
    /// The run's directory, a tmpfs with the probe in it.
    pub base: PathBuf,
    /// The word in the names of everything this run makes.
    pub word: String,
    /// What the runtime sees at /sys/fs/cgroup, unless the test wants something else.
    pub layout: Layout,
}

impl Job {
    /// The arguments that `parse` reads.
    pub fn words(&self) -> Vec<String> {
        vec![
            self.runtime.display().to_string(),
            self.index.to_string(),
            self.base.display().to_string(),
            self.word.clone(),
            self.layout.word().to_owned(),
        ]
    }

    /// The word that only this test's ids contain.
    pub fn test_word(&self) -> String {
        format!("{}t{}", self.word, self.index)
    }

    fn parse(words: &[String]) -> Option<Self> {
        let [runtime, index, base, word, layout] = words else {
            return None;
        };
        Some(Self {
            runtime: runtime.into(),
            index: index.parse().ok()?,
            base: base.into(),
            word: word.clone(),
            layout: Layout::parse(layout)?,
        })
    }
}

/// Runs `inner` in new namespaces; answers the process's exit code.
pub fn outer(words: &[String]) -> i32 {
    match supervise(words) {
        Ok(()) => 0,
        Err(reason) => {
            report(&Err(reason), &[]);
            0
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn patient() -> bool {
    chapters::injection::verbose()
}

#[cfg(not(target_arch = "x86_64"))]
fn patient() -> bool {
    false
}

fn supervise(words: &[String]) -> Res {
    set_pdeathsig(Signal::SIGKILL)?;
    let mut namespaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWNET;
    if view(words) == Some(View::Systemd) {
        systemd_is_here()?;
        namespaces.remove(CloneFlags::CLONE_NEWPID);
    }
    unshare(namespaces)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    let mut child = Command::new(std::env::current_exe()?)
        .arg("worker-inner")
        .args(words)
        .stdin(Stdio::null())
        .spawn()?;
    let deadline = if patient() { PATIENT } else { DEADLINE };
    if !call::ends_within(child.id() as i32, deadline)? {
        child.kill()?;
        child.wait()?;
        return Err(Stop::Fail(format!("the test did not end within {deadline:?}")));
    }
    let status = child.wait()?;
    if status.success() {
        Ok(())
    } else {
        Err(Stop::Fail(format!("the test itself crashed: {status}")))
    }
}

fn view(words: &[String]) -> Option<View> {
    Some(chapters::all().get(Job::parse(words)?.index)?.view)
}

fn systemd_is_here() -> Res {
    if !Path::new("/run/systemd/system").is_dir() {
        return Err(Stop::Skip("systemd is not process 1 of this machine".into()));
    }
    if cgroups::hierarchies().iter().any(|hierarchy| !hierarchy.v2) {
        return Err(Stop::Skip("this machine has cgroup v1 hierarchies".into()));
    }
    Ok(())
}

/// Runs one test as pid 1 and prints its result as one line of JSON.
pub fn inner(words: &[String]) -> i32 {
    let Some(job) = Job::parse(words) else {
        return 2;
    };
    let tests = chapters::all();
    let Some(test) = tests.get(job.index) else {
        return 2;
    };
    let lab = match prepare(&job, test.view) {
        Ok(lab) => lab,
        Err(reason) => {
            report(&Err(reason), &[]);
            return 0;
        }
    };
    let mut result = (test.run)(&lab);
    let reported = lab.left_before.get();
    lab.delete_all();
    let left = lab.nothing_left();
    if result.is_ok() {
        result = left;
    } else if let (Err(Stop::Fail(reason)), false) = (left, reported) {
        lab.note(reason);
    }
    report(&result, &lab.notes());
    0
}

fn prepare(job: &Job, view: View) -> Res<Lab> {
    set_pdeathsig(Signal::SIGKILL)?;
    crate::sys::set_umask(0o022);
    if view == View::Systemd {
        // Orphans come to this process, as they do to pid 1.
        nix::sys::prctl::set_child_subreaper(true)?;
    } else {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>)?;
    }
    let word = job.test_word();
    let dir = job.base.join(&word);
    std::fs::create_dir(&dir)?;
    let layout = if view == View::V2 { Layout::V2 } else { job.layout };
    if view == View::V2 && !cgroups::hierarchies().iter().any(|h| h.v2) {
        return Err(Stop::Skip("this machine has no cgroup2 hierarchy".into()));
    }
    cgroups::show(layout, &dir.join("cgroup"))?;
    Lab::new(&job.runtime, &dir, &word, &format!("/{}", job.word), &job.base.join("probe"))
}

fn report(result: &Res, notes: &[String]) {
    let (word, reason): (&str, &str) = match result {
        Ok(()) => ("ok", ""),
        Err(Stop::Skip(reason)) => ("skip", reason),
        Err(Stop::Fail(reason)) => ("not ok", reason),
    };
    println!("{}", json!({ "result": word, "reason": reason, "notes": notes }));
}

/// Starts a worker for `job` and answers the line that it printed.
pub fn spawn(job: &Job) -> Value {
    let output = std::env::current_exe().and_then(|program| {
        Command::new(program)
            .arg("worker")
            .args(job.words())
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
    });
    let lines = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let last = lines.as_deref().unwrap_or_default().lines().next_back().unwrap_or_default();
    let value = serde_json::from_str(last).unwrap_or_else(
        |_| json!({ "result": "not ok", "reason": "the worker printed nothing", "notes": [] }),
    );
    cgroups::remove(&format!("{}-", job.test_word()));
    let _ = std::fs::remove_dir_all(Path::new(&job.base).join(job.test_word()));
    value
}
