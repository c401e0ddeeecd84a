//! The namespaces that a client's daemon and its containers live in.
//!
//! Mount, pid, network, uts and ipc namespace are new for every client: when pid 1 there ends, the
//! kernel kills every process and drops every mount, whatever a daemon or a runtime has done. What a
//! daemon writes outside of its own directories goes to overlays and tmpfs of that mount namespace, and
//! the machine's files are read-only beneath (`oci_tests::shield`). Only cgroups outlive it, which the
//! runner removes by name.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::sys::wait::{WaitStatus, wait};
use oci_tests::cgroups::{self, Layout};
use oci_tests::devices;
use oci_tests::kind::Kind;
use oci_tests::shield::Shield;

use crate::clients;
use crate::job::Job;

/// Directories that daemons write to, whatever their configuration says. containerd 1.6 has its shims'
/// sockets in /run/containerd/s; overlayfs cannot be the upper layer of another one.
const FRESH: [&str; 7] = [
    "/run",
    "/var/lib/containers",
    "/var/lib/containerd",
    "/var/lib/docker",
    "/var/lib/cni",
    "/etc/cni",
    "/etc/docker",
];

/// Starts `init` in new namespaces; answers the exit code.
pub fn outer(words: &[String]) -> i32 {
    finish("make namespaces", start_init(words))
}

fn start_init(words: &[String]) -> io::Result<i32> {
    set_pdeathsig(Signal::SIGKILL)?;
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWNET,
    )?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let status = Command::new(std::env::current_exe()?).arg("init").args(words).status()?;
    Ok(status.code().unwrap_or(1))
}

/// Pid 1: starts the worker and collects whoever ends, until the worker does.
pub fn init(words: &[String]) -> i32 {
    finish("be pid 1", start_worker(words))
}

fn start_worker(words: &[String]) -> io::Result<i32> {
    set_pdeathsig(Signal::SIGKILL)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>)?;
    let worker = Command::new(std::env::current_exe()?)
        .arg("worker")
        .args(words)
        .stdin(Stdio::null())
        .spawn()?;
    let pid = nix::unistd::Pid::from_raw(worker.id() as i32);
    loop {
        match wait() {
            Ok(WaitStatus::Exited(ended, code)) if ended == pid => return Ok(code),
            Ok(WaitStatus::Signaled(ended, ..)) if ended == pid => return Ok(1),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn finish(step: &str, result: io::Result<i32>) -> i32 {
    result.unwrap_or_else(|error| {
        eprintln!("integration: {step}: {error}");
        1
    })
}

/// Makes the job's own view of the machine: directory, devices, cgroups, network.
pub fn prepare(job: &Job) -> io::Result<Shield> {
    let none = None::<&str>;
    mount(Some("tmpfs"), &job.dir, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
    let hybrid = {
        let all = cgroups::hierarchies();
        all.iter().any(|h| h.v2) && all.iter().any(|h| !h.v2)
    };
    if clients::is_page(job.client) {
        cgroups::enter(&job.word)?;
        cgroups::show_below(Layout::V1, &job.word, &job.dir.join("root"))?;
    } else if hybrid && Kind::of(&job.runtime) == Kind::Crun {
        cgroups::show(Layout::V1, &job.dir.join("root"))?;
    }
    let mut programs = vec![job.runtime.clone()];
    programs.extend(job.shim.clone());
    let own = job.dir.parent().unwrap_or(&job.dir);
    let open = fs::File::open(own)?;
    let shield = Shield::raise(&job.dir, &programs)?;
    devices::private(&job.dir.join("dev"))?;
    mount(Some("tmpfs"), "/dev/shm", Some("tmpfs"), MsFlags::empty(), Some("mode=1777"))?;
    fs::create_dir("/dev/net")?;
    mknod("/dev/net/tun", SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(10, 200))?;
    fs::set_permissions("/dev/net/tun", fs::Permissions::from_mode(0o666))?;
    // runc and conmon use /tmp without asking; what this run has there comes back.
    mount(Some("tmpfs"), "/tmp", Some("tmpfs"), MsFlags::empty(), Some("mode=1777"))?;
    fs::create_dir_all(own)?;
    let source = format!("/proc/self/fd/{}", open.as_raw_fd());
    mount(Some(source.as_str()), own, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
    for top in ["etc", "var"] {
        overlay(&job.dir, top)?;
    }
    for fresh in FRESH {
        fs::create_dir_all(fresh)?;
        mount(Some("tmpfs"), fresh, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
    }
    fs::create_dir_all("/run/lock")?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SHARED, none)?;
    let status = Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
    if !status.success() {
        return Err(io::Error::other(format!("ip link set lo up: {status}")));
    }
    Ok(shield)
}

/// Makes /`top` writable for this job alone.
pub fn overlay(dir: &Path, top: &str) -> io::Result<()> {
    let (upper, work) = (dir.join(format!("{top}-upper")), dir.join(format!("{top}-work")));
    fs::create_dir(&upper)?;
    fs::create_dir(&work)?;
    let options =
        format!("lowerdir=/{top},upperdir={},workdir={}", upper.display(), work.display());
    let target = format!("/{top}");
    mount(Some("overlay"), target.as_str(), Some("overlay"), MsFlags::empty(), Some(&*options))?;
    Ok(())
}
