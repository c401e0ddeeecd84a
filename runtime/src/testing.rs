//! Running a test on the real kernel without leaving anything on the host.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::panic::{self, AssertUnwindSafe};

use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, alarm, pipe2};

use crate::sys::testing::{exit, fork};

/// Seconds after which a hanging test is killed.
const LIMIT: u32 = 60;

/// Runs `test` in a child process with these namespaces of its own, and panics with its message.
///
/// With `CLONE_NEWUSER` the child is root of a namespace that maps the ids below 65536 to
/// themselves; with `CLONE_NEWPID` the closure runs as pid 1. Mounts do not propagate to the host.
pub(crate) fn in_namespaces(flags: CloneFlags, test: impl FnOnce()) {
    in_mapped_namespaces(flags, "0 0 65536", test);
}

/// Runs `test` in a child process, which it may change for good.
pub(crate) fn in_child(test: impl FnOnce()) {
    in_namespaces(CloneFlags::empty(), test);
}

/// Like [`in_namespaces`], with the given line as uid and gid map of a user namespace.
pub(crate) fn in_mapped_namespaces(flags: CloneFlags, map: &str, test: impl FnOnce()) {
    let (mut reports, report) = files(pipe().unwrap());
    let (mut unshared, tell_unshared) = files(pipe().unwrap());
    let (go, mut tell_go) = files(pipe().unwrap());
    let Some(child) = fork() else {
        drop((reports, unshared, tell_go));
        let status = caught(report, || child(flags, tell_unshared, go, test));
        exit(status);
    };
    drop((report, tell_unshared, go));
    if unshared.read(&mut [0]).unwrap() == 1 {
        if flags.contains(CloneFlags::CLONE_NEWUSER) {
            fs::write(format!("/proc/{child}/uid_map"), map).unwrap();
            fs::write(format!("/proc/{child}/gid_map"), map).unwrap();
        }
        tell_go.write_all(b"g").unwrap();
    }
    let mut message = String::new();
    reports.read_to_string(&mut message).unwrap();
    let status = waitpid(child, None).unwrap();
    assert!(message.is_empty(), "in the child: {message}");
    assert_eq!(status, WaitStatus::Exited(child, 0));
}

/// Close-on-exec: programs that other tests start at the same time must not hold it open.
fn pipe() -> nix::Result<(OwnedFd, OwnedFd)> {
    pipe2(OFlag::O_CLOEXEC)
}

fn files((read, write): (OwnedFd, OwnedFd)) -> (fs::File, fs::File) {
    (read.into(), write.into())
}

fn child(flags: CloneFlags, mut unshared: fs::File, mut go: fs::File, test: impl FnOnce()) {
    alarm::set(LIMIT);
    unshare(flags).unwrap();
    unshared.write_all(b"u").unwrap();
    go.read_exact(&mut [0]).unwrap();
    drop((unshared, go));
    if flags.contains(CloneFlags::CLONE_NEWUSER) {
        nix::unistd::setgid(0.into()).unwrap();
        nix::unistd::setuid(0.into()).unwrap();
    }
    if flags.contains(CloneFlags::CLONE_NEWNS) {
        let flags = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
        nix::mount::mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).unwrap();
    }
    if !flags.contains(CloneFlags::CLONE_NEWPID) {
        return test();
    }
    // Only children are in the new pid namespace.
    let (mut reports, report) = files(pipe().unwrap());
    let Some(inner) = fork() else {
        drop(reports);
        alarm::set(LIMIT);
        exit(caught(report, test));
    };
    drop(report);
    let mut message = String::new();
    reports.read_to_string(&mut message).unwrap();
    expect_success(inner, &message);
}

fn expect_success(child: Pid, message: &str) {
    let status = waitpid(child, None).unwrap();
    assert!(message.is_empty(), "{message}");
    assert_eq!(status, WaitStatus::Exited(child, 0));
}

/// Runs `test` and writes the message of its panic, with the place, to `report`.
fn caught(report: fs::File, test: impl FnOnce()) -> i32 {
    let shared = std::sync::Mutex::new(report);
    panic::set_hook(Box::new(move |info| {
        if let Ok(mut report) = shared.lock() {
            let _ = write!(report, "{info}");
        }
    }));
    match panic::catch_unwind(AssertUnwindSafe(test)) {
        Ok(()) => 0,
        Err(_) => 1,
    }
}
