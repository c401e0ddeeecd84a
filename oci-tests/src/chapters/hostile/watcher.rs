//! The process of ours that stays beside a container and reads what the container writes. Should a
//! tenant take it over, it must be of little use: so the test takes it over.

use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::super::foreground::Seat;
use super::{outside, unchanged};
use crate::check::{Res, Test, ensure, eq, fail, skip, test};
use crate::lab::call::{Call, DEADLINE};
use crate::lab::{Kind, Lab};
use crate::ptrace::{self, Hold};
use crate::sys;

const SECTION: &str = "hostile#watcher";

pub(super) fn tests() -> Vec<Test> {
    vec![
        test(SECTION, "S11", "run in the foreground has little to lose, and still relays", |lab| {
            let bundle = lab.bundle(&["pause"], |_| {})?;
            relaying(lab, lab.call(&["run", "--bundle", bundle.path(), &bundle.id]))?;
            lab.nothing_left()
        }),
        test(SECTION, "S11", "run at a terminal has little to lose, and still relays", |lab| {
            let terminal = |spec: &mut serde_json::Value| spec["process"]["terminal"] = json!(true);
            let bundle = lab.bundle(&["pause"], terminal)?;
            at_a_terminal(lab, lab.call(&["run", "--bundle", bundle.path(), &bundle.id]))?;
            lab.nothing_left()
        }),
        test(
            SECTION,
            "S11",
            "exec in the foreground has little to lose, and still relays",
            |lab| {
                let container = lab.running(|_| {})?;
                relaying(lab, lab.call(&["exec", &container.id, "/bin/probe", "pause"]))?;
                let words = ["exec", "--tty", &container.id, "/bin/probe", "pause"];
                at_a_terminal(lab, lab.call(&words))?;
                container.end()
            },
        ),
        test(SECTION, "S11", "run with poststop hooks keeps no capability meanwhile", |lab| {
            own(lab)?;
            let mut bundle = lab.bundle(&["pause"], |_| {})?;
            let log = bundle.dir.join("log");
            let line = format!("grep CapEff /proc/self/status > {}", log.display());
            bundle.spec["hooks"] =
                json!({ "poststop": [{ "path": "/bin/sh", "args": ["sh", "-c", line] }] });
            bundle.save()?;
            let words = ["run", "--bundle", bundle.path(), &bundle.id];
            let (run, mut lines) = lab.call(&words).spawn_piped()?;
            lines.next()?;
            lines.next()?;
            until(run.child.id(), |status| excess(status) == 0)?;
            kill(Pid::from_raw(run.child.id() as i32), Signal::SIGUSR2)?;
            eq("exit code", &run.wait()?.code, &Some(42))?;
            // A hook is a program of the operator's, with the caller's power.
            let own = fs::read_to_string("/proc/self/status")?;
            let own = own.lines().find(|line| line.starts_with("CapEff")).map(str::to_owned);
            eq("the hook's", &fs::read_to_string(log)?.lines().next(), &own.as_deref())?;
            lab.nothing_left()
        }),
    ]
}

fn own(lab: &Lab) -> Res {
    if lab.kind == Kind::Bulkhead { Ok(()) } else { skip("only bulkhead promises this") }
}

fn relaying(lab: &Lab, call: Call<'_>) -> Res {
    own(lab)?;
    let (command, mut lines) = call.spawn_piped()?;
    lines.next()?;
    eq("the probe's second line", &lines.next()?, &"ready".to_owned())?;
    taken_over(lab, command.child.id())?;
    kill(Pid::from_raw(command.child.id() as i32), Signal::SIGUSR2)?;
    eq("exit code", &command.wait()?.code, &Some(42))
}

fn at_a_terminal(lab: &Lab, call: Call<'_>) -> Res {
    own(lab)?;
    let mut seat = Seat::take(call)?;
    seat.until("ready")?;
    taken_over(lab, seat.command.child.id())?;
    kill(Pid::from_raw(seat.command.child.id() as i32), Signal::SIGUSR2)?;
    eq("exit code", &seat.leave()?, &Some(42))
}

/// The bits of all sets beyond CAP_KILL and CAP_DAC_OVERRIDE.
fn excess(status: &BTreeMap<String, String>) -> u64 {
    const KEPT: u64 = 1 << 5 | 1 << 1;
    let sets = ["CapInh", "CapPrm", "CapEff", "CapAmb"].iter();
    let bits = sets.map(|set| u64::from_str_radix(&status[*set], 16).unwrap_or(u64::MAX));
    bits.fold(0, |all, bits| all | bits) & !KEPT
}

/// Waits until the status of a process is as it must be: the program runs a moment before.
fn until(pid: u32, good: impl Fn(&BTreeMap<String, String>) -> bool) -> Res {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        let status = lines.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect();
        if good(&status) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return fail(format!("the status of the process that relays stays {text}"));
        }
        std::thread::yield_now();
    }
}

/// Makes the process do what whoever has taken it over would try.
fn taken_over(lab: &Lab, pid: u32) -> Res {
    until(pid, |status| {
        excess(status) == 0 && status["NoNewPrivs"] == "1" && status["Seccomp"] == "2"
    })?;
    if !ptrace::available()? {
        return skip("ptrace is not permitted here");
    }
    let secret = outside(lab)?;
    let hold = Hold::take(pid as i32)?;
    eq("its own pid", &hold.call(libc::SYS_getpid, &[])?, &i64::from(pid))?;
    let refused = |what: &str, number: i64, arguments: &[u64], errno: i32| -> Res {
        let result = hold.call(number, arguments)?;
        ensure(result == -i64::from(errno), format!("{what} gave {result}, not {}", -errno))
    };
    const HERE: u64 = libc::AT_FDCWD as u64;
    let exec = libc::PROT_READ | libc::PROT_EXEC;
    let memory = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
    let user = libc::CLONE_NEWUSER as u64;
    for (what, number, arguments) in [
        ("execve", libc::SYS_execve, &[hold.text("/bin/true")?, 0, 0][..]),
        ("execveat", libc::SYS_execveat, &[HERE, hold.text("/bin/true")?, 0, 0, 0]),
        ("fork", libc::SYS_fork, &[]),
        ("unshare", libc::SYS_unshare, &[user]),
        ("setns", libc::SYS_setns, &[0, 0]),
        ("ptrace", libc::SYS_ptrace, &[u64::from(libc::PTRACE_ATTACH), 1]),
        ("process_vm_writev", libc::SYS_process_vm_writev, &[1]),
        ("chroot", libc::SYS_chroot, &[hold.text("/")?]),
        ("fsopen", libc::SYS_fsopen, &[hold.text("tmpfs")?]),
        ("bpf", libc::SYS_bpf, &[]),
        ("io_uring_setup", libc::SYS_io_uring_setup, &[1]),
        ("executable memory", libc::SYS_mmap, &[0, 4096, exec as u64, memory, u64::MAX, 0]),
    ] {
        refused(what, number, arguments, libc::EPERM)?;
    }
    if landlocked() {
        let path = |name: &str| secret.join(name).display().to_string();
        let write = libc::O_WRONLY as u64;
        let make = (libc::O_WRONLY | libc::O_CREAT) as u64;
        let file = hold.text(&path("of-the-host"))?;
        refused("to write a file", libc::SYS_openat, &[HERE, file, write], libc::EACCES)?;
        let file = hold.text(&path("new"))?;
        refused("to make a file", libc::SYS_openat, &[HERE, file, make, 0o600], libc::EACCES)?;
        let file = hold.text(&path("of-the-host"))?;
        refused("to remove a file", libc::SYS_unlinkat, &[HERE, file, 0], libc::EACCES)?;
    }
    drop(hold);
    unchanged(&secret)?;
    Ok(fs::remove_dir_all(secret)?)
}

/// Whether this kernel has Landlock, which holds the files.
fn landlocked() -> bool {
    const VERSION: u64 = 1;
    sys::raw(libc::SYS_landlock_create_ruleset, [0, 0, VERSION, 0, 0, 0]).0 > 0
}
