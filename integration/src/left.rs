//! What a runtime may leave behind under a client, and how to see it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use oci_tests::cgroups;
use oci_tests::check::{Res, fail};

use crate::scenario::Client;
use crate::stage::Stage;

/// How long daemons, the kernel and shims may take to let things go.
const GRACE: Duration = Duration::from_secs(5);

/// Daemons, which scenarios kill and start again.
const DAEMONS: [&str; 2] = ["containerd", "dockerd"];

/// Everything that exists at one moment, each thing as a line.
pub struct Left(BTreeSet<String>);

impl Left {
    /// What exists now.
    pub fn now(stage: &Stage, client: &Client) -> Self {
        let mut all = processes();
        all.extend(mounts());
        all.extend(cgroups(stage));
        for dir in (client.emptied)(stage) {
            let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
            // crun has these for all containers together.
            let others = entries.filter(|entry| {
                ![".cache", ".empty-directory"].iter().any(|name| entry.file_name() == *name)
            });
            all.extend(others.map(|entry| format!("file {}", entry.path().display())));
        }
        Self(all)
    }

    /// Fails when there is something that was not there before, after a grace period.
    pub fn check(&self, stage: &Stage, client: &Client) -> Res {
        self.compare(|| Self::now(stage, client).0)
    }

    /// The same for processes and cgroups alone.
    pub fn check_processes(&self, stage: &Stage) -> Res {
        self.compare(|| {
            let mut all = processes();
            all.extend(cgroups(stage));
            all
        })
    }

    fn compare(&self, now: impl Fn() -> BTreeSet<String>) -> Res {
        let deadline = Instant::now() + GRACE;
        loop {
            let mut left: Vec<String> = now().difference(&self.0).cloned().collect();
            left.sort_by_key(|line| !line.starts_with("process"));
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                let more = match left.len() {
                    0..=4 => String::new(),
                    count => format!(" and {} more", count - 4),
                };
                return fail(format!(
                    "left behind: {}{more}",
                    left[..left.len().min(4)].join(", ")
                ));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The processes of this pid namespace but for daemons and ourselves.
fn processes() -> BTreeSet<String> {
    let own = std::process::id();
    let mut all = BTreeSet::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        if pid == 1 || pid == own {
            continue;
        }
        if let Ok(name) = fs::read_to_string(entry.path().join("comm"))
            && !DAEMONS.contains(&name.trim())
        {
            all.insert(format!("process {pid} ({})", name.trim()));
        }
    }
    all
}

/// The mount points of this mount namespace, with the mounts' numbers.
fn mounts() -> BTreeSet<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let point = |line: &str| {
        let mut fields = line.split(' ');
        Some(format!("mount {} {}", fields.next()?, fields.nth(3)?))
    };
    // Docker's own network namespace of the host, and the place of Podman's layers, stay once they are made.
    let stays =
        |line: &str| line.contains("/netns/default ") || line.contains("/podman/root/overlay ");
    let others = table.lines().filter(|line| !stays(line));
    others.filter_map(point).collect()
}

/// The cgroups below this client's own.
fn cgroups(stage: &Stage) -> BTreeSet<String> {
    let named = cgroups::named(&stage.word);
    // BuildKit's containers are one level deeper, Podman's monitors beside the containers; nobody but a
    // runtime would remove these levels.
    let names = [stage.word.as_str(), "buildkit", "conmon"];
    let shared = |path: &Path| names.iter().any(|name| path.ends_with(name));
    let below = named.iter().filter(|path| !shared(path));
    below.map(|path| format!("cgroup {}", path.display())).collect()
}

/// The process that runs a program of this name with these words in its command line.
pub fn find_process(name: &str, words: &str) -> Option<i32> {
    fs::read_dir("/proc").into_iter().flatten().flatten().find_map(|entry| {
        let pid = entry.file_name().to_string_lossy().parse::<i32>().ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let program = line.split(' ').next().unwrap_or_default();
        let program = Path::new(program).file_name()?.to_string_lossy().into_owned();
        (program.contains(name) && line.contains(words)).then_some(pid)
    })
}
