//! A container between create and delete.

use std::time::{Duration, Instant};

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::Value;

use super::Lab;
use super::bundle::Bundle;
use super::call::{DEADLINE, Lines, Output, ends_within};
use crate::check::{Res, brief, cut, eq, fail};

/// A created container.
pub struct Container<'l> {
    lab: &'l Lab,
    /// Its id.
    pub id: String,
    /// Its bundle's directory.
    pub dir: String,
    /// Its cgroup as configured.
    pub cgroup: String,
    /// What its program prints.
    pub lines: Lines,
    pid: i32,
}

impl<'l> Container<'l> {
    /// Creates a container with options of the create command; it must work.
    pub fn create(lab: &'l Lab, bundle: &Bundle, options: &[&str]) -> Res<Self> {
        Self::create_with(lab, bundle, &[], options)
    }

    /// The same with global options too.
    pub fn create_with(
        lab: &'l Lab,
        bundle: &Bundle,
        globals: &[&str],
        options: &[&str],
    ) -> Res<Self> {
        Self::made(lab, globals, "create", bundle, options)
    }

    /// Restores a container with options of the restore command; it must work.
    pub fn restore(lab: &'l Lab, bundle: &Bundle, options: &[&str]) -> Res<Self> {
        let mut words = vec!["--detach"];
        words.extend_from_slice(options);
        Self::made(lab, &[], "restore", bundle, &words)
    }

    fn made(
        lab: &'l Lab,
        globals: &[&str],
        verb: &str,
        bundle: &Bundle,
        options: &[&str],
    ) -> Res<Self> {
        let mut words = vec![verb, "--bundle", bundle.path()];
        words.extend_from_slice(options);
        words.push(&bundle.id);
        let (output, lines) = lab.call(&words).global(globals).piped()?;
        output.excuse()?;
        if output.code != Some(0) {
            return fail(format!("{verb} ended with {}", output.brief()));
        }
        let mut container = Self {
            lab,
            id: bundle.id.clone(),
            dir: bundle.path().to_owned(),
            cgroup: bundle.cgroup().to_owned(),
            lines,
            pid: 0,
        };
        container.pid = container.state()?["pid"].as_i64().unwrap_or(0) as i32;
        Ok(container)
    }

    /// The process id that `state` gave after create.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Runs a command on this container.
    pub fn call(&self, words: &[&str]) -> Res<Output> {
        let mut all = vec![words[0], &self.id];
        all.extend_from_slice(&words[1..]);
        self.lab.call(&all).output()
    }

    /// Starts it; it must work.
    pub fn start(&self) -> Res {
        self.must(&["start"])
    }

    /// Sends a signal; it must work.
    pub fn kill(&self, signal: &str) -> Res {
        self.must(&["kill", signal])
    }

    /// Deletes it; it must work.
    pub fn delete(&self) -> Res {
        self.must(&["delete"])
    }

    fn must(&self, words: &[&str]) -> Res {
        let output = self.call(words)?;
        if output.code == Some(0) {
            Ok(())
        } else {
            fail(format!("{} ended with {}", words.join(" "), output.brief()))
        }
    }

    /// What `state` prints.
    pub fn state(&self) -> Res<Value> {
        let output = self.call(&["state"])?;
        if output.code != Some(0) {
            return fail(format!("state ended with {}", output.brief()));
        }
        match serde_json::from_str(&output.out) {
            Ok(value) => Ok(value),
            Err(error) => fail(format!("state printed no JSON ({error}): {}", cut(&output.out))),
        }
    }

    /// The status that `state` prints.
    pub fn status(&self) -> Res<String> {
        let state = self.state()?;
        match state["status"].as_str() {
            Some(status) => Ok(status.to_owned()),
            None => fail(format!("state has no status: {}", brief(&state))),
        }
    }

    /// Fails unless `state` gives this status.
    pub fn expect(&self, status: &str) -> Res {
        eq("status", &self.status()?, &status.to_owned())
    }

    /// The probe's JSON line.
    pub fn seen(&mut self) -> Res<Value> {
        let line = self.lines.next()?;
        serde_json::from_str(&line)
            .or_else(|error| fail(format!("the probe printed {} ({error})", cut(&line))))
    }

    /// Waits until a pausing probe has printed its JSON and said that it waits.
    pub fn ready(&mut self) -> Res<Value> {
        let seen = self.seen()?;
        eq("the probe's next line", &self.lines.next()?, &"ready".to_owned())?;
        Ok(seen)
    }

    /// Waits for the program's end and collects it: its exit code, or 128 plus its signal.
    pub fn wait(&self) -> Res<i32> {
        // Pid 1 of a namespace ends only after all others in it are collected, and processes that exec
        // put there are the suite's orphans.
        let until = Instant::now() + DEADLINE;
        while !ends_within(self.pid, Duration::from_millis(2))? {
            if Instant::now() > until {
                return fail("the container's process did not end");
            }
            super::left::reap_all_but(self.pid);
        }
        match waitpid(Pid::from_raw(self.pid), None) {
            Ok(WaitStatus::Exited(_, code)) => Ok(code),
            Ok(WaitStatus::Signaled(_, signal, _)) => Ok(128 + signal as i32),
            Ok(other) => fail(format!("the container's process is {other:?}")),
            Err(errno) => fail(format!("the container's process {}: {errno}", self.pid)),
        }
    }

    /// Whether the program is still there after its normal time to end.
    pub fn alive(&self) -> Res<bool> {
        Ok(!ends_within(self.pid, Duration::ZERO)?)
    }

    /// Kills, collects and deletes.
    pub fn end(&self) -> Res {
        self.kill("KILL")?;
        self.wait()?;
        self.delete()
    }

    /// Runs the probe's `steps` by `exec` with further options, and answers what it saw.
    pub fn exec(&self, options: &[&str], steps: &[&str]) -> Res<Value> {
        let output = self.exec_output(options, steps)?;
        if output.code != Some(0) {
            return fail(format!("exec ended with {}", output.brief()));
        }
        let line = output.out.lines().next().unwrap_or_default();
        serde_json::from_str(line)
            .or_else(|error| fail(format!("exec printed {} ({error})", cut(&output.out))))
    }

    /// Runs the probe by `exec` and answers how that ended.
    pub fn exec_output(&self, options: &[&str], steps: &[&str]) -> Res<Output> {
        let mut words = vec!["exec"];
        words.extend_from_slice(options);
        words.extend_from_slice(&[&self.id, "/bin/probe"]);
        words.extend_from_slice(steps);
        self.lab.call(&words).output()
    }

    /// Runs a process document by `exec --process`.
    pub fn exec_process(&self, process: &Value) -> Res<Output> {
        let path = self.lab.dir.join(format!("process-{}.json", self.lab.next()));
        std::fs::write(&path, process.to_string())?;
        self.lab.call(&["exec", "--process", &path.display().to_string(), &self.id]).output()
    }
}
