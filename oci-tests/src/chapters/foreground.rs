//! `run` and `exec` as their callers see them: at a terminal, under a service manager, among others.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::{fs, io};

use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};
use nix::unistd::Pid;
use serde_json::json;

use crate::check::{Res, Test, ensure, eq, fail, has, skip, test};
use crate::lab::agent::Agent;
use crate::lab::call::{Call, DEADLINE, Started, readable};
use crate::lab::{Kind, Lab};
use crate::sys;

/// Tests of this chapter.
pub fn tests() -> Vec<Test> {
    [at_a_terminal(), notified(), among_others(), thrown_away()].into_iter().flatten().collect()
}

/// A command at a terminal of its own.
pub(super) struct Seat {
    ours: fs::File,
    terminal: OwnedFd,
    before: Termios,
    pub(super) command: Started,
    seen: Vec<u8>,
}

impl Seat {
    pub(super) fn take(call: Call<'_>) -> Res<Self> {
        let pty = openpty(None, None)?;
        let (ours, terminal) = (fs::File::from(pty.master), pty.slave);
        sys::set_window_size(ours.as_fd(), (91, 31))?;
        let before = tcgetattr(&terminal)?;
        let command = call.on_terminal(&terminal)?;
        Ok(Self { ours, terminal, before, command, seen: Vec::new() })
    }

    /// Reads on to the end of `words`.
    pub(super) fn until(&mut self, words: &str) -> Res {
        loop {
            let found = self.seen.windows(words.len()).position(|part| part == words.as_bytes());
            if let Some(start) = found {
                self.seen.drain(..start + words.len());
                return Ok(());
            }
            if !readable(&self.ours, DEADLINE)? {
                let seen = String::from_utf8_lossy(&self.seen).into_owned();
                return fail(format!("the terminal does not show {words:?} but {seen:?}"));
            }
            let mut block = [0; 4096];
            let count = self.ours.read(&mut block)?;
            self.seen.extend_from_slice(&block[..count]);
        }
    }

    fn signal(&self, signal: Signal) -> Res {
        Ok(kill(Pid::from_raw(self.command.child.id() as i32), signal)?)
    }

    fn echoes(&self) -> Res<bool> {
        Ok(tcgetattr(&self.terminal)?.local_flags.contains(LocalFlags::ECHO))
    }

    /// Waits for the end; the terminal must be as it was.
    pub(super) fn leave(self) -> Res<Option<i32>> {
        let code = self.command.wait()?.code;
        ensure(tcgetattr(&self.terminal)? == self.before, "the terminal's modes are not restored")?;
        Ok(code)
    }
}

fn at_a_terminal() -> Vec<Test> {
    let section = "contract#foreground";
    fn run<'l>(lab: &'l Lab, steps: &[&str]) -> Res<Call<'l>> {
        let bundle = lab.bundle(steps, |spec| spec["process"]["terminal"] = json!(true))?;
        Ok(lab.call(&["run", "--bundle", bundle.path(), &bundle.id]))
    }
    vec![
        test(
            section,
            "F154",
            "run at a terminal: raw, resized, restored; the program's code",
            |lab| {
                let mut seat = Seat::take(run(lab, &["pause"])?)?;
                seat.until("ready")?;
                ensure(!seat.echoes()?, "the caller's terminal echoes beside the container's")?;
                sys::set_window_size(seat.ours.as_fd(), (120, 40))?;
                seat.signal(Signal::SIGWINCH)?;
                seat.until("size Ok((120, 40))")?;
                seat.signal(Signal::SIGUSR2)?;
                eq("exit code", &seat.leave()?, &Some(42))
            },
        ),
        test(section, "F154", "SIGTERM reaches the program and the terminal is restored", |lab| {
            let mut seat = Seat::take(run(lab, &["pause"])?)?;
            seat.until("ready")?;
            seat.signal(Signal::SIGTERM)?;
            eq("exit code", &seat.leave()?, &Some(0))
        }),
        test(section, "F154", "a typed interrupt is a signal for the program", |lab| {
            let mut seat = Seat::take(run(lab, &["pause"])?)?;
            seat.until("ready")?;
            seat.ours.write_all(b"\x03")?;
            seat.until("signal 2")?;
            seat.signal(Signal::SIGTERM)?;
            eq("exit code", &seat.leave()?, &Some(0))
        }),
        test(section, "F154 F116", "exec --tty has the size of the caller's terminal", |lab| {
            let container = lab.running(|_| {})?;
            let words = ["exec", "--tty", &container.id, "/bin/probe", "pause"];
            let mut seat = Seat::take(lab.call(&words))?;
            seat.until("ready")?;
            sys::set_window_size(seat.ours.as_fd(), (120, 40))?;
            seat.signal(Signal::SIGWINCH)?;
            seat.until("size Ok((120, 40))")?;
            seat.signal(Signal::SIGUSR2)?;
            eq("exit code", &seat.leave()?, &Some(42))?;
            container.end()
        }),
    ]
}

/// A service manager's end of sd_notify(3).
struct Manager {
    socket: UnixDatagram,
    path: String,
}

impl Manager {
    fn new(lab: &Lab) -> Res<Self> {
        let path = lab.dir.join("manager").display().to_string();
        Ok(Self { socket: UnixDatagram::bind(&path)?, path })
    }

    /// The next message. Without room for descriptors, the kernel closes a barrier's.
    fn hear(&self) -> Res<String> {
        if !readable(&self.socket, DEADLINE)? {
            return fail("the service manager hears nothing");
        }
        let mut block = [0; 4096];
        let count = self.socket.recv(&mut block)?;
        Ok(String::from_utf8_lossy(&block[..count]).trim_end().to_owned())
    }

    /// Readiness, the main process and the barrier, and no word of the container's own.
    fn hear_ready(&self, pid: i64) -> Res {
        eq("first message", &self.hear()?, &"READY=1".to_owned())?;
        eq("second message", &self.hear()?, &format!("MAINPID={pid}"))?;
        eq("third message", &self.hear()?, &"BARRIER=1".to_owned())
    }

    fn silent(&self) -> Res {
        self.socket.set_nonblocking(true)?;
        match self.socket.recv(&mut [0; 64]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            _ => fail("the service manager hears of a container that is not ready"),
        }
    }
}

fn notified() -> Vec<Test> {
    let section = "contract#notify";
    const STEPS: [&str; 3] = ["notify STATUS=tenant\nMAINPID=1", "notify READY=1", "pause"];
    fn pid(lab: &Lab, id: &str) -> Res<i64> {
        let state: serde_json::Value =
            serde_json::from_str(&lab.call(&["state", id]).output()?.out).unwrap_or_default();
        Ok(state["pid"].as_i64().unwrap_or_default())
    }
    vec![
        test(section, "F157", "run in the foreground is itself the main process", |lab| {
            let manager = Manager::new(lab)?;
            let bundle = lab.bundle(&STEPS, |_| {})?;
            let (run, mut lines) = lab
                .call(&["run", "--bundle", bundle.path(), &bundle.id])
                .env("NOTIFY_SOCKET", &manager.path)
                .spawn_piped()?;
            manager.hear_ready(i64::from(run.child.id()))?;
            // The kernel drops what an init has neither blocked nor a handler for.
            lines.next()?;
            eq("the probe's second line", &lines.next()?, &"ready".to_owned())?;
            lab.call(&["kill", &bundle.id, "TERM"]).output()?;
            eq("exit code", &run.wait()?.code, &Some(0))?;
            lab.nothing_left()
        }),
        test(section, "F157", "run --detach returns when the container is ready", |lab| {
            let manager = Manager::new(lab)?;
            let bundle = lab.bundle(&STEPS, |_| {})?;
            let run = lab
                .call(&["run", "--detach", "--bundle", bundle.path(), &bundle.id])
                .env("NOTIFY_SOCKET", &manager.path)
                .spawn()?;
            eq("first message", &manager.hear()?, &"READY=1".to_owned())?;
            let pid = pid(lab, &bundle.id)?;
            eq("second message", &manager.hear()?, &format!("MAINPID={pid}"))?;
            eq("third message", &manager.hear()?, &"BARRIER=1".to_owned())?;
            eq("exit code", &run.wait()?.code, &Some(0))?;
            eq("delete", &lab.call(&["delete", "-f", &bundle.id]).output()?.code, &Some(0))
        }),
        test(section, "F157", "create makes the directory and start notifies", |lab| {
            let manager = Manager::new(lab)?;
            let steps = ["stat /run/notify/notify.sock", "create /run/notify/x", STEPS[1], "pause"];
            // An umask must not lock the container's user out.
            let bundle = lab.bundle(&steps, |spec| spec["process"]["user"]["uid"] = json!(1234))?;
            let create = ["create", "--bundle", bundle.path(), &bundle.id];
            let (output, mut lines) = lab
                .call(&create)
                .env("NOTIFY_SOCKET", &manager.path)
                .shell("umask 077; exec \"$@\"")
                .piped()?;
            eq("create", &output.code, &Some(0))?;
            manager.silent()?;
            manager.socket.set_nonblocking(false)?;
            let pid = pid(lab, &bundle.id)?;
            let start =
                lab.call(&["start", &bundle.id]).env("NOTIFY_SOCKET", &manager.path).spawn()?;
            manager.hear_ready(pid)?;
            eq("start", &start.wait()?.code, &Some(0))?;
            let seen = lines.next()?;
            has("the directory", &seen, "EROFS")?;
            has("the socket", &seen, "\"mode\":511")?;
            let exec = ["exec", &bundle.id, "/bin/probe", "notify READY=1"];
            let output = lab.call(&exec).output()?;
            ensure(!output.out.contains("ok"), "a further process speaks for the service")?;
            eq("delete", &lab.call(&["delete", "-f", &bundle.id]).output()?.code, &Some(0))
        }),
        test(section, "F157", "a container that ends without a word is not ready", |lab| {
            let manager = Manager::new(lab)?;
            let bundle = lab.bundle(&["report"], |_| {})?;
            let run = lab
                .call(&["run", "--detach", "--bundle", bundle.path(), &bundle.id])
                .env("NOTIFY_SOCKET", &manager.path)
                .output()?;
            eq("exit code", &run.code, &Some(0))?;
            manager.silent()?;
            eq("delete", &lab.call(&["delete", "-f", &bundle.id]).output()?.code, &Some(0))
        }),
    ]
}

fn among_others() -> Vec<Test> {
    vec![
        test("contract#log", "F9 F101", "with --log a warning is in the log alone", |lab| {
            let log = lab.dir.join("log").display().to_string();
            let container = lab.running(|spec| {
                spec["process"]["capabilities"]["inheritable"] = json!(["CAP_CHOWN"]);
                spec["process"]["capabilities"]["ambient"] = json!(["CAP_KILL"]);
            })?;
            let words = ["exec", &container.id, "/bin/probe", "report"];
            let output = lab.call(&words).global(&["--log", &log]).output()?;
            eq("exec", &(output.code, output.err.as_str()), &(Some(0), ""))?;
            let text = fs::read_to_string(&log)?;
            lab.quality(
                text.contains("CAP_KILL"),
                "the log has no warning of the lost capability",
            )?;
            container.end()
        }),
        test(
            "contract#foreground",
            "F123 F154",
            "delete --force of a container that run stays with",
            |lab| {
                let agent = Agent::listen(&lab.dir.join("pidfd"))?;
                let bundle = lab.bundle(&["pause"], |_| {})?;
                let run = lab
                    .call(&[
                        "run",
                        "--pidfd-socket",
                        agent.path(),
                        "--bundle",
                        bundle.path(),
                        &bundle.id,
                    ])
                    .spawn()?;
                agent.receive()?;
                let delete = lab.call(&["delete", "--force", &bundle.id]).output()?;
                eq("delete", &(delete.code, delete.err.as_str()), &(Some(0), ""))?;
                let output = run.wait()?;
                eq("run", &(output.code, output.err.as_str()), &(Some(137), ""))?;
                lab.nothing_left()
            },
        ),
    ]
}

fn thrown_away() -> Vec<Test> {
    let section = "bulkhead#try";
    fn own(lab: &Lab) -> Res {
        if lab.kind == Kind::Bulkhead { Ok(()) } else { skip("only bulkhead has this command") }
    }
    /// Every directory of a `try` from this pid namespace below the hierarchies.
    fn cgroups() -> Res<Vec<String>> {
        use std::os::unix::fs::MetadataExt;
        let word = format!("try-{}-", fs::metadata("/proc/self/ns/pid")?.ino());
        let mut left = Vec::new();
        let mut ahead = vec![std::path::PathBuf::from("/sys/fs/cgroup")];
        while let Some(directory) = ahead.pop() {
            // Others' cgroups come and go meanwhile.
            for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    if entry.file_name().to_string_lossy().contains(&word) {
                        left.push(entry.path().display().to_string());
                    }
                    ahead.push(entry.path());
                }
            }
        }
        Ok(left)
    }
    /// Waits until no process is left; then nothing else may be.
    fn gone(lab: &Lab) -> Res {
        let until = std::time::Instant::now() + DEADLINE;
        let never = std::io::pipe()?;
        while !crate::lab::processes_left().is_empty() {
            if std::time::Instant::now() > until {
                return fail(format!("still there: {:?}", crate::lab::processes_left()));
            }
            readable(&never.0, std::time::Duration::from_millis(5))?;
            crate::lab::reap_orphans();
        }
        eq("cgroups left", &cgroups()?, &Vec::new())?;
        let mut left = fs::read_dir("/tmp")?.chain(fs::read_dir("/run")?).flatten();
        let left = left.find(|entry| entry.file_name().to_string_lossy().contains("try"));
        ensure(left.is_none(), format!("left behind: {left:?}"))?;
        lab.nothing_left()
    }
    fn killed(lab: &Lab, user: Option<u32>) -> Res {
        own(lab)?;
        let call = lab.call(&["try", "--", "/bin/sh", "-c", "echo u''p; sleep 1000 & sleep 1000"]);
        let call = match user {
            Some(uid) => call.user(uid),
            None => call,
        };
        let mut seat = Seat::take(call)?;
        seat.until("up")?;
        seat.command.kill()?;
        gone(lab)
    }
    vec![
        test(section, "", "try runs a program, forgets its changes and answers its code", |lab| {
            own(lab)?;
            let words = ["try", "--", "/bin/sh", "-c", "echo x > /usr/try-x && id -u; exit 6"];
            for call in [lab.call(&words), lab.call(&words).user(4711)] {
                let output = call.output()?;
                eq("code", &(output.code, output.err.as_str()), &(Some(6), ""))?;
                eq("output", &output.out, &"0\n".to_owned())?;
                gone(lab)?;
            }
            ensure(!std::path::Path::new("/usr/try-x").exists(), "the host's /usr has changed")
        }),
        test(section, "", "try of root leaves nothing when it is killed", |lab| killed(lab, None)),
        test(section, "", "try of an ordinary user leaves nothing when it is killed", |lab| {
            killed(lab, Some(4711))
        }),
        test(section, "", "try starts where the caller may not look", |lab| {
            own(lab)?;
            let words = ["try", "--", "/bin/pwd"];
            // In the mount namespace of the call: the machine's own /opt is read-only.
            let line = "mount -t tmpfs none /opt && mkdir -p /opt/try/in && cd /opt/try/in && \
                        chmod 700 /opt/try && \
                        exec setpriv --reuid 4711 --regid 4711 --clear-groups \"$@\"";
            let output =
                lab.call(&words).shell(&format!("exec unshare -m sh -c '{line}' sh \"$@\""));
            eq("output", &output.output()?.out, &"/\n".to_owned())
        }),
    ]
}
