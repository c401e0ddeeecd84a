//! Commands of the runtime, each with a deadline.

use std::fs::{self, File};
use std::io::{PipeReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

pub use oci_tests::process::{Output, ends_within, readable};

use super::Lab;
use crate::check::{Res, cut, fail};

/// How long one command of a runtime may take; generous, since the machine is shared.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A command being put together.
pub struct Call<'l> {
    lab: &'l Lab,
    globals: Vec<String>,
    words: Vec<String>,
    shell: Option<String>,
    user: Option<u32>,
    envs: Vec<(String, String)>,
    directory: Option<String>,
    deadline: Duration,
    traced: bool,
}

impl<'l> Call<'l> {
    /// The runtime with `--root` and these words.
    pub fn new(lab: &'l Lab, words: &[&str]) -> Self {
        Self {
            lab,
            globals: vec!["--root".into(), lab.state.display().to_string()],
            words: words.iter().map(|word| (*word).to_owned()).collect(),
            shell: None,
            user: None,
            envs: Vec::new(),
            directory: None,
            deadline: DEADLINE,
            traced: false,
        }
    }

    /// Adds global options before the command.
    pub fn global(mut self, words: &[&str]) -> Self {
        self.globals.extend(words.iter().map(|word| (*word).to_owned()));
        self
    }

    /// Runs through `/bin/sh` with these redirections or prefixes: `"$@"` is the command.
    pub fn shell(mut self, line: &str) -> Self {
        self.shell = Some(line.to_owned());
        self
    }

    /// Runs as an ordinary user without groups.
    pub fn user(mut self, uid: u32) -> Self {
        self.user = Some(uid);
        self
    }

    /// Sets a variable.
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.envs.push((key.into(), value.into()));
        self
    }

    /// Runs in a directory.
    pub fn directory(mut self, path: &str) -> Self {
        self.directory = Some(path.to_owned());
        self
    }

    /// Stops it at its `execve`, for `ptrace::drive`.
    pub fn traced(mut self) -> Self {
        self.traced = true;
        self
    }

    /// Starts it with output to files.
    pub fn spawn(self) -> Res<Started> {
        let out = self.lab.dir.join(format!("out-{}", self.lab.next()));
        let err = self.lab.dir.join(format!("err-{}", self.lab.next()));
        let stdout = Stdio::from(File::create(&out)?);
        let stderr = Stdio::from(File::create(&err)?);
        let deadline = self.deadline;
        let child = self.command(stdout, stderr).spawn()?;
        Ok(Started { child, out: Some(out), err, deadline })
    }

    /// Starts it with a terminal as all three standard streams.
    pub fn on_terminal(self, terminal: &OwnedFd) -> Res<Started> {
        let deadline = self.deadline;
        let stream = || Ok::<_, std::io::Error>(Stdio::from(terminal.try_clone()?));
        let (stdin, stdout, stderr) = (stream()?, stream()?, stream()?);
        let err = self.lab.dir.join("no-separate-stderr");
        let child = self.command(stdout, stderr).stdin(stdin).spawn()?;
        Ok(Started { child, out: None, err, deadline })
    }

    /// Runs it to its end.
    pub fn output(self) -> Res<Output> {
        self.spawn()?.wait()
    }

    /// Runs it to its end with a pipe as standard output, which a container may keep open.
    pub fn piped(self) -> Res<(Output, Lines)> {
        let (started, lines) = self.spawn_piped()?;
        Ok((started.wait()?, lines))
    }

    /// Starts it with a pipe as standard output.
    pub fn spawn_piped(self) -> Res<(Started, Lines)> {
        let err = self.lab.dir.join(format!("err-{}", self.lab.next()));
        let (reader, writer) = std::io::pipe()?;
        let stderr = Stdio::from(File::create(&err)?);
        let deadline = self.deadline;
        let child = self.command(writer.into(), stderr).spawn()?;
        let started = Started { child, out: None, err, deadline };
        Ok((started, Lines { reader, buffer: Vec::new() }))
    }

    fn command(self, stdout: Stdio, stderr: Stdio) -> Command {
        let mut command = match &self.shell {
            None => Command::new(&self.lab.runtime),
            Some(line) => {
                let mut shell = Command::new("/bin/sh");
                shell.arg("-c").arg(line).arg("sh").arg(&self.lab.runtime);
                shell
            }
        };
        command.args(&self.globals).args(&self.words);
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.envs(self.envs.iter().map(|(key, value)| (key.as_str(), value.as_str())));
        command.current_dir(self.directory.as_deref().unwrap_or("/"));
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        if let Some(uid) = self.user {
            command.uid(uid).gid(uid);
        }
        #[cfg(target_arch = "x86_64")]
        if self.traced {
            crate::ptrace::trace_me(&mut command);
        }
        command
    }
}

/// A command that runs.
pub struct Started {
    /// The process.
    pub child: Child,
    out: Option<std::path::PathBuf>,
    err: std::path::PathBuf,
    deadline: Duration,
}

impl Started {
    /// Waits for its end; past the deadline it is killed and the test fails.
    pub fn wait(mut self) -> Res<Output> {
        if !ends_within(self.child.id() as i32, self.deadline)? {
            self.child.kill()?;
            self.child.wait()?;
            let text = fs::read_to_string(&self.err).unwrap_or_default();
            return fail(format!("the runtime hung for {:?}: {}", self.deadline, cut(&text)));
        }
        let status = self.child.wait()?;
        Ok(self.collected(status))
    }

    /// What it printed, for one whose end somebody else has waited for.
    pub fn collected(&self, status: ExitStatus) -> Output {
        let read = |path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
        Output {
            code: status.code(),
            signal: status.signal(),
            out: self.out.as_ref().map(read).unwrap_or_default(),
            err: read(&self.err),
        }
    }

    /// Kills it with SIGKILL and collects it.
    pub fn kill(mut self) -> Res {
        let _ = self.child.kill();
        self.child.wait()?;
        Ok(())
    }
}

/// The lines that a container prints.
pub struct Lines {
    reader: PipeReader,
    buffer: Vec<u8>,
}

impl Lines {
    /// The next line; fails at the deadline or the end.
    pub fn next(&mut self) -> Res<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if !readable(&self.reader, DEADLINE)? {
                return fail("the container printed nothing");
            }
            let mut block = [0u8; 65536];
            let count = self.reader.read(&mut block)?;
            if count == 0 {
                return fail(format!(
                    "the container's output ended: {}",
                    cut(&String::from_utf8_lossy(&self.buffer))
                ));
            }
            self.buffer.extend_from_slice(&block[..count]);
        }
    }
}
