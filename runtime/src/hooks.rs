//! Hooks: programs of the engine that run at points of a container's life.
//!
//! See `config.md` of the runtime specification. A hook gets the container's state as JSON on its
//! standard input, exactly the arguments and environment that the configuration gives (the caller's
//! environment must not leak into the container's namespaces), and at most its timeout.
//!
//! Hooks run in the creator and, for `createContainer` and `startContainer`, in the child, where no
//! thread may be made: one `poll(2)` loop watches the process and its output. The state is in a sealed
//! memory file rather than in a pipe, so that a hook which does not read it can neither block us nor
//! raise SIGPIPE. Output is kept, bounded, for the error message; a process that the hook leaves
//! behind with our pipe open does not keep us waiting.

use std::collections::VecDeque;
use std::ffi::{CStr, CString};
use std::io::{IoSliceMut, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::uio::readv;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, Whence, lseek, pipe2};
use oci_spec::runtime::Hook;

use crate::error::{Call, Error, ErrorKind, Failure, Result};
use crate::sys;

/// How much of the end of each output stream an error quotes.
const OUTPUT: usize = 2048;

/// When a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

impl Kind {
    /// The property's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Prestart => "prestart",
            Kind::CreateRuntime => "createRuntime",
            Kind::CreateContainer => "createContainer",
            Kind::StartContainer => "startContainer",
            Kind::Poststart => "poststart",
            Kind::Poststop => "poststop",
        }
    }
}

/// A hook with its strings as the kernel takes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Command {
    /// Of the errors: `hooks.createRuntime[0] "/bin/x"`.
    subject: String,
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
    timeout: Option<Duration>,
}

/// The commands of a list of hooks.
pub(crate) fn plan(kind: Kind, hooks: Option<&[Hook]>) -> Result<Vec<Command>> {
    let hooks = hooks.unwrap_or_default().iter().enumerate();
    hooks.map(|(index, hook)| command(&format!("hooks.{}[{index}]", kind.name()), hook)).collect()
}

fn command(field: &str, hook: &Hook) -> Result<Command> {
    let string = |name: &str, bytes: &[u8]| {
        CString::new(bytes)
            .map_err(|_| Error::invalid(format!("{field}.{name}"), "contains a NUL byte"))
    };
    let strings = |name: &str, list: &Option<Vec<String>>| {
        let list = list.iter().flatten().enumerate();
        list.map(|(index, text)| string(&format!("{name}[{index}]"), text.as_bytes()))
            .collect::<Result<Vec<_>>>()
    };
    let path = string("path", hook.path().as_os_str().as_bytes())?;
    let mut args = strings("args", hook.args())?;
    if args.is_empty() {
        // A program without even a name crashes, or worse (CVE-2021-4034).
        args.push(path.clone());
    }
    let timeout = match hook.timeout() {
        None => None,
        Some(seconds) => match u64::try_from(seconds) {
            Ok(seconds @ 1..) => Some(Duration::from_secs(seconds)),
            _ => {
                let reason = format!("{seconds} is not above 0");
                return Err(Error::invalid(format!("{field}.timeout"), reason));
            }
        },
    };
    let subject = format!("{field} {:?}", hook.path());
    Ok(Command { subject, path, args, env: strings("env", hook.env())?, timeout })
}

/// Runs hooks in order, up to the first that fails.
pub(crate) fn run(commands: &[Command], state: &[u8]) -> Result<()> {
    commands.iter().try_for_each(|command| command.run(state))
}

/// Runs every hook; failures are warnings, as the specification wants after `delete`.
pub(crate) fn run_all(commands: &[Command], state: &[u8], warnings: &mut Vec<String>) {
    let failed = commands.iter().filter_map(|command| command.run(state).err());
    warnings.extend(failed.map(|error| error.to_string()));
}

/// Why a hook that ran counts as failed.
enum Outcome {
    Ended(WaitStatus),
    TimedOut(Duration),
}

/// The end of an output stream.
struct Output {
    pipe: Option<OwnedFd>,
    tail: VecDeque<u8>,
}

impl Command {
    /// The JSON path and the program, as errors name the hook.
    pub(crate) fn subject(&self) -> &str {
        &self.subject
    }

    /// The program's path.
    pub(crate) fn path(&self) -> &CStr {
        &self.path
    }

    fn run(&self, state: &[u8]) -> Result<()> {
        let system = |failure: Failure| Error::system("run", &self.subject, failure);
        let stdin = state_file(state).map_err(system)?;
        let (out, out_writer) = pipe().map_err(system)?;
        let (err, err_writer) = pipe().map_err(system)?;
        let pid = self.spawn([&stdin, &out_writer, &err_writer]).map_err(system)?;
        drop((out_writer, err_writer));
        let mut output = [out, err].map(|pipe| Output { pipe: Some(pipe), tail: VecDeque::new() });
        let outcome = self.watch(pid, &mut output).map_err(system)?;
        let reason = match outcome {
            Outcome::Ended(WaitStatus::Exited(_, 0)) => return Ok(()),
            Outcome::Ended(WaitStatus::Exited(_, code)) => format!("exit status {code}"),
            Outcome::Ended(WaitStatus::Signaled(_, signal, _)) => format!("killed by {signal}"),
            Outcome::Ended(other) => format!("{other:?}"),
            Outcome::TimedOut(limit) => format!("killed after its timeout of {limit:?}"),
        };
        let quoted = ["stdout", "stderr"].into_iter().zip(&mut output).map(|(name, output)| {
            let text = String::from_utf8_lossy(output.tail.make_contiguous()).trim().to_owned();
            if text.is_empty() { text } else { format!(", {name}: {text}") }
        });
        let reason = reason + &quoted.collect::<String>();
        Err(Error::new(ErrorKind::System, "run", &self.subject, reason))
    }

    /// Starts the program in its own process group, with default signal dispositions and an empty
    /// mask: SIGPIPE is ignored in a Rust program, and that is inherited.
    fn spawn(&self, stdio: [&OwnedFd; 3]) -> Result<Pid, Failure> {
        let mut actions = PosixSpawnFileActions::init().call("posix_spawn_file_actions_init")?;
        for (target, fd) in (0..).zip(stdio) {
            actions.add_dup2(fd.as_raw_fd(), target).call("posix_spawn_file_actions_adddup2")?;
        }
        let mut attributes = PosixSpawnAttr::init().call("posix_spawnattr_init")?;
        let flags = PosixSpawnFlags::POSIX_SPAWN_SETPGROUP
            | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF
            | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK;
        attributes.set_flags(flags).call("posix_spawnattr_setflags")?;
        attributes.set_pgroup(Pid::from_raw(0)).call("posix_spawnattr_setpgroup")?;
        attributes
            .set_sigdefault(&sys::process::every_signal())
            .call("posix_spawnattr_setsigdefault")?;
        attributes.set_sigmask(&SigSet::empty()).call("posix_spawnattr_setsigmask")?;
        posix_spawn(self.path.as_c_str(), &actions, &attributes, &self.args, &self.env)
            .call("posix_spawn")
    }

    /// Waits for the end of the program or of its time, and collects output meanwhile.
    fn watch(&self, pid: Pid, output: &mut [Output; 2]) -> Result<Outcome, Failure> {
        let deadline = self.timeout.map(|timeout| Instant::now() + timeout);
        let result = match sys::pidfd::open(pid.as_raw()) {
            Ok(pidfd) => wait_or_deadline(&pidfd, deadline, output),
            Err(failure) => Err(failure),
        };
        if !matches!(result, Ok(true)) {
            // The group: a shell's children would run on. It may be gone, which is as good.
            let _ = killpg(pid, Signal::SIGKILL);
        }
        let status = loop {
            match waitpid(pid, None) {
                Err(Errno::EINTR) => {}
                other => break other.call("waitpid")?,
            }
        };
        for stream in output.iter_mut() {
            stream.drain()?;
        }
        match (result?, self.timeout) {
            (false, Some(limit)) => Ok(Outcome::TimedOut(limit)),
            _ => Ok(Outcome::Ended(status)),
        }
    }
}

/// Whether the process ended before the deadline.
fn wait_or_deadline(
    pidfd: &OwnedFd,
    deadline: Option<Instant>,
    output: &mut [Output; 2],
) -> Result<bool, Failure> {
    loop {
        let timeout = match deadline {
            None => PollTimeout::NONE,
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Ok(false);
                }
                // Rounded up, or the last millisecond would be spent turning.
                let millis = i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX);
                PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
            }
        };
        let mut fds = vec![PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        let pipes = output.iter().filter_map(|stream| stream.pipe.as_ref());
        fds.extend(pipes.map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => continue,
            other => other.call("poll")?,
        };
        if fds[0].any() == Some(true) {
            return Ok(true);
        }
        for stream in output.iter_mut() {
            stream.drain()?;
        }
    }
}

impl Output {
    /// Reads what is there, without waiting, and keeps the last of it.
    fn drain(&mut self) -> Result<(), Failure> {
        let mut buffer = [0_u8; 4096];
        // Bounded: a process left behind could write as fast as we read.
        for _ in 0..64 {
            let Some(pipe) = &self.pipe else {
                return Ok(());
            };
            match readv(pipe, &mut [IoSliceMut::new(&mut buffer)]) {
                Ok(0) => self.pipe = None,
                Ok(length) => {
                    self.tail.extend(&buffer[..length]);
                    let excess = self.tail.len().saturating_sub(OUTPUT);
                    self.tail.drain(..excess);
                }
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => {
                    return Err(Failure { call: "read", errno });
                }
            }
        }
        Ok(())
    }
}

/// A pipe whose read end does not block.
fn pipe() -> Result<(OwnedFd, OwnedFd), Failure> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).call("pipe2")?;
    fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).call("fcntl")?;
    Ok((reader, writer))
}

/// A sealed memory file with the state, at its start.
fn state_file(state: &[u8]) -> Result<OwnedFd, Failure> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let fd = memfd_create(c"state", flags).call("memfd_create")?;
    let mut file = std::fs::File::from(fd);
    file.write_all(state).call("write")?;
    let fd = OwnedFd::from(file);
    lseek(&fd, 0, Whence::SeekSet).call("lseek")?;
    fcntl(&fd, FcntlArg::F_ADD_SEALS(SealFlag::all())).call("fcntl")?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(kind: Kind, json: &str) -> Vec<Command> {
        let hooks: Vec<Hook> = serde_json::from_str(json).unwrap();
        plan(kind, Some(&hooks)).unwrap()
    }

    fn shell(script: &str, timeout: Option<i64>) -> Vec<Command> {
        let timeout = timeout.map_or(String::new(), |t| format!(r#","timeout":{t}"#));
        let script = serde_json::to_string(script).unwrap();
        let hook = format!(r#"[{{"path":"/bin/sh","args":["sh","-c",{script}]{timeout}}}]"#);
        commands(Kind::CreateRuntime, &hook)
    }

    fn failure(script: &str, timeout: Option<i64>) -> String {
        run(&shell(script, timeout), b"{}").unwrap_err().to_string()
    }

    #[test]
    fn a_hook_gets_its_state_arguments_and_environment_only() {
        let hook = r#"[{"path":"/bin/sh","args":["a name","-c",
            "cat >&2; echo \"[$0]\"; [ \"$A\" = b ] && env | grep -qv -e ^A= -e ^PWD= -e ^_= -e ^SHLVL= || exit 3; exit 4"],
            "env":["A=b"]}]"#;
        let error = run(&commands(Kind::Poststart, hook), b"{\"id\":\"x\"}").unwrap_err();
        assert_eq!(
            error.to_string(),
            "run hooks.poststart[0] \"/bin/sh\": exit status 3, stdout: [a name], \
             stderr: {\"id\":\"x\"}"
        );
    }

    #[test]
    fn arguments_default_to_the_path_and_environment_to_nothing() {
        let planned = commands(Kind::Poststop, r#"[{"path":"/bin/true"}]"#);
        assert_eq!(planned[0].args, [c"/bin/true".to_owned()]);
        assert!(planned[0].env.is_empty());
        run(&planned, b"{}").unwrap();
        let hooks: Vec<Hook> = serde_json::from_str(r#"[{"path":"/x","timeout":0}]"#).unwrap();
        let error = plan(Kind::Poststop, Some(&hooks)).unwrap_err().to_string();
        assert_eq!(error, "check hooks.poststop[0].timeout: 0 is not above 0");
        assert_eq!(plan(Kind::Poststop, None), Ok(Vec::new()));
    }

    #[test]
    fn errors_say_which_hook_and_what_it_printed() {
        assert_eq!(
            failure("echo why >&2; exit 7", None),
            "run hooks.createRuntime[0] \"/bin/sh\": exit status 7, stderr: why"
        );
        assert_eq!(
            failure("kill -9 $$", None),
            "run hooks.createRuntime[0] \"/bin/sh\": killed by SIGKILL"
        );
        let missing = commands(Kind::Prestart, r#"[{"path":"/bin/true"},{"path":"/no/such"}]"#);
        assert_eq!(
            run(&missing, b"").unwrap_err().to_string(),
            "run hooks.prestart[1] \"/no/such\": posix_spawn: \
             ENOENT (no such file or directory)"
        );
    }

    #[test]
    fn the_first_failure_ends_the_list_but_not_after_delete() {
        let list = commands(
            Kind::Poststop,
            r#"[{"path":"/bin/false"},{"path":"/bin/true"},{"path":"/bin/false"}]"#,
        );
        let error = run(&list, b"{}").unwrap_err().to_string();
        assert_eq!(error, "run hooks.poststop[0] \"/bin/false\": exit status 1");
        let mut warnings = Vec::new();
        run_all(&list, b"{}", &mut warnings);
        assert_eq!(warnings.len(), 2);
        assert!(warnings[1].starts_with("run hooks.poststop[2] "), "{warnings:?}");
    }

    #[test]
    fn a_hook_that_reads_nothing_or_prints_too_much_is_no_trouble() {
        let state = vec![b' '; 1 << 20];
        run(&shell("exec 0<&-", None), &state).unwrap();
        run(&shell("head -c 1000000 /dev/zero; echo done >&2", None), &state).unwrap();
        let error = failure("yes | head -c 300000; echo END; exit 1", None);
        assert!(error.ends_with("END") && error.len() < OUTPUT + 200, "{}", error.len());
        run(&shell("[ $(wc -c) = 1048576 ]", None), &state).unwrap();
    }

    #[test]
    fn time_ends_the_whole_group() {
        // The child of the shell would hold the pipe for a minute.
        let begin = Instant::now();
        let error = failure("echo begun; sleep 60 & sleep 60", Some(1));
        assert_eq!(
            error,
            "run hooks.createRuntime[0] \"/bin/sh\": killed after its timeout of 1s, stdout: begun"
        );
        assert!(begin.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_process_left_behind_does_not_keep_us_waiting() {
        let begin = Instant::now();
        run(&shell("sleep 3 & exit 0", Some(30)), b"{}").unwrap();
        assert!(begin.elapsed() < Duration::from_millis(2900));
    }

    #[test]
    fn signals_are_as_a_new_program_expects_them() {
        // Rust ignores SIGPIPE; a shell cannot reset what it inherited as ignored.
        let script = "grep -q '^SigIgn:\t0*\\(180000000\\)\\?$' /proc/self/status && \
                      grep -q '^SigBlk:\t0*$' /proc/self/status";
        run(&shell(script, None), b"{}").unwrap();
    }
}
