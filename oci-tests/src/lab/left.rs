//! What a runtime may leave behind, and how to see it.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};

use super::{Lab, cgroups};
use crate::check::{Res, fail};

/// How long the kernel may take to let a killed process and its cgroup go.
const GRACE: Duration = Duration::from_millis(1000);

/// The mount points of this process's mount namespace, each with its id, so that a second mount on
/// the same place is seen too.
pub fn mount_points() -> BTreeSet<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            Some(format!("{} {}", fields.next()?, fields.nth(3)?))
        })
        .collect()
}

/// Fails when something of this test is left, after a grace period for the kernel.
pub fn check(lab: &Lab) -> Res {
    // What was reported once will not go away by waiting again.
    let grace = if lab.left_before.get() { Duration::ZERO } else { GRACE };
    let deadline = Instant::now() + grace;
    loop {
        let left = list(lab);
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            lab.left_before.set(true);
            let more = if left.len() > 3 {
                format!(" and {} more", left.len() - 3)
            } else {
                String::new()
            };
            return fail(format!("left behind: {}{more}", left[..left.len().min(3)].join(", ")));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Everything of this test that is left at this moment.
pub fn list(lab: &Lab) -> Vec<String> {
    reap();
    let mut left = Vec::new();
    left.extend(processes());
    let mounts = mount_points();
    left.extend(
        mounts.difference(&lab.mounts_before.borrow()).map(|mount| format!("mount {mount}")),
    );
    let cgroups = cgroups::named(&format!("{}-", lab.word));
    left.extend(cgroups.iter().map(|path| format!("cgroup {}", path.display())));
    for entry in fs::read_dir(&lab.state).into_iter().flatten().flatten() {
        // A lock file that serves all containers is not a container's.
        if entry.file_name().to_string_lossy().contains(lab.word.as_str()) {
            left.push(format!("state {}", entry.path().display()));
        }
    }
    left
}

/// Collects orphans that have ended; this process is pid 1 of its namespace.
pub fn reap() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            break;
        }
    }
}

/// Collects orphans that have ended, but not the process whose exit code a test wants.
pub fn reap_all_but(kept: i32) {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    while let Ok(status) = waitid(Id::All, flags) {
        match status.pid() {
            Some(pid) if pid.as_raw() != kept => {
                let _ = waitpid(pid, None);
            }
            _ => break,
        }
    }
}

/// The processes of this pid namespace that are not the suite's; of the machine's, only those that this
/// one is an ancestor of.
pub fn processes() -> Vec<String> {
    let own = std::process::id() as i32;
    let mut left = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
            continue;
        };
        let ours = pid == own || own != 1 && !descends_from(pid, own);
        if !ours && let Ok(name) = fs::read_to_string(entry.path().join("comm")) {
            left.push(format!("process {pid} ({})", name.trim()));
        }
    }
    left
}

fn descends_from(mut pid: i32, ancestor: i32) -> bool {
    while pid > 1 && pid != ancestor {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let behind_name = stat.rsplit(')').next().unwrap_or_default();
        pid = behind_name.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    }
    pid == ancestor
}

/// Kills the processes of this pid namespace that are not the suite's.
pub fn end_processes() {
    // As pid 1 this reaches everybody else, and only in this pid namespace.
    if std::process::id() == 1 {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(-1), nix::sys::signal::SIGKILL);
    }
}
