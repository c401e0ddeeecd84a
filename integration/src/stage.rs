//! What a scenario has at hand: commands with a deadline, names, waiting, clean-up.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use oci_tests::check::{Res, cut, fail};
use oci_tests::kind::Kind;
use oci_tests::process::{Output, ends_within};

use crate::daemon::Daemon;
use crate::job::Job;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How often a state that cannot be waited for with a descriptor is asked for.
const TICK: Duration = Duration::from_millis(20);

/// PATH with the other daemons and clients first; a package has its daemon beside them.
pub fn search_path(programs: &Option<PathBuf>) -> String {
    match programs {
        Some(dir) => format!("{0}:{0}/../sbin:{PATH}", dir.display()),
        None => PATH.to_owned(),
    }
}

/// One client's surroundings.
pub struct Stage {
    /// Place in `clients::ALL`.
    pub client: usize,
    /// The program under test.
    pub runtime: PathBuf,
    /// Which it is.
    pub kind: Kind,
    /// The shim under test, if any.
    pub shim: Option<PathBuf>,
    /// Where daemons and clients are that go before the machine's, if any.
    pub programs: Option<PathBuf>,
    /// The client's own directory, on a tmpfs.
    pub dir: PathBuf,
    /// Where the images are.
    pub images: PathBuf,
    /// A word in the names of this client's cgroups.
    pub word: String,
    until: Mutex<Instant>,
    slow: u32,
    count: AtomicU32,
    notes: Mutex<Vec<String>>,
    undo: Mutex<Vec<Vec<String>>>,
    envs: Mutex<BTreeMap<String, String>>,
    daemons: Mutex<Vec<Daemon>>,
}

impl Stage {
    /// The stage of a job, whose directory is prepared.
    pub fn new(job: &Job) -> Res<Self> {
        for name in ["home", "tmp", "out"] {
            fs::create_dir(job.dir.join(name))?;
        }
        let envs = [
            ("PATH", search_path(&job.programs)),
            ("HOME", job.dir.join("home").display().to_string()),
            ("TMPDIR", job.dir.join("tmp").display().to_string()),
            ("LC_ALL", "C.UTF-8".to_owned()),
        ];
        Ok(Self {
            client: job.client,
            runtime: job.runtime.clone(),
            kind: Kind::of(&job.runtime),
            shim: job.shim.clone(),
            programs: job.programs.clone(),
            dir: job.dir.clone(),
            images: job.images.clone(),
            word: job.word.clone(),
            until: Mutex::new(Instant::now()),
            slow: job.slow,
            count: AtomicU32::new(0),
            notes: Mutex::default(),
            undo: Mutex::default(),
            envs: Mutex::new(envs.map(|(key, value)| (key.to_owned(), value)).into()),
            daemons: Mutex::default(),
        })
    }

    /// Gives everything that follows this much time, and more on a slow machine.
    pub fn allow(&self, time: Duration) {
        let until = Instant::now() + time * self.slow;
        *self.until.lock().expect("no holder of this lock panics") = until;
    }

    /// What is left of the time.
    pub fn remaining(&self) -> Duration {
        let until = *self.until.lock().expect("no holder of this lock panics");
        until.saturating_duration_since(Instant::now())
    }

    /// Whether a newer containerd is asked.
    pub fn newer_containerd(&self) -> bool {
        self.programs.is_some()
    }

    /// Whether a newer containerd is asked with its own shim, which lets some things be that older ones do.
    pub fn newer_shim(&self) -> bool {
        self.programs.is_some() && self.shim.is_none()
    }

    /// Keeps a daemon until the client's last scenario is over.
    pub fn keep(&self, daemon: Daemon) {
        self.daemons.lock().expect("no holder of this lock panics").push(daemon);
    }

    /// The daemon that was started last, to be ended by the caller.
    pub fn take_daemon(&self) -> Option<Daemon> {
        self.daemons.lock().expect("no holder of this lock panics").pop()
    }

    /// A number that no earlier call answered.
    pub fn next(&self) -> u32 {
        self.count.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// A variable for all commands from now on.
    pub fn set_env(&self, key: &str, value: impl Into<String>) {
        let mut envs = self.envs.lock().expect("no holder of this lock panics");
        envs.insert(key.to_owned(), value.into());
    }

    /// Adds a comment to the scenario's result.
    pub fn note(&self, text: impl Into<String>) {
        self.notes.lock().expect("no holder of this lock panics").push(text.into());
    }

    /// The comments since the last call.
    pub fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut *self.notes.lock().expect("no holder of this lock panics"))
    }

    /// A command to run when the scenario is over, whatever comes of it.
    pub fn later(&self, words: &[&str]) {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        self.undo.lock().expect("no holder of this lock panics").push(words);
    }

    /// Runs the commands of `later`, the last one first.
    pub fn clean(&self) -> Res {
        let undo = std::mem::take(&mut *self.undo.lock().expect("no holder of this lock panics"));
        for words in undo.iter().rev() {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            self.cmd(&words).output()?;
        }
        Ok(())
    }

    /// A command: its program and words.
    pub fn cmd(&self, words: &[&str]) -> Cmd<'_> {
        Cmd {
            stage: self,
            words: words.iter().map(|word| (*word).to_owned()).collect(),
            envs: Vec::new(),
            input: None,
            terminal: None,
        }
    }

    /// A path in the client's directory, as text.
    pub fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// Asks until the answer is yes; fails at the deadline.
    pub fn until(&self, what: &str, mut fact: impl FnMut() -> Res<bool>) -> Res {
        while !fact()? {
            if self.remaining().is_zero() {
                return fail(format!("{what}: did not happen in time"));
            }
            std::thread::sleep(TICK);
        }
        Ok(())
    }
}

/// A command being put together.
pub struct Cmd<'s> {
    stage: &'s Stage,
    words: Vec<String>,
    envs: Vec<(String, String)>,
    input: Option<String>,
    terminal: Option<OwnedFd>,
}

impl Cmd<'_> {
    /// More words.
    pub fn args(mut self, words: &[impl AsRef<str>]) -> Self {
        self.words.extend(words.iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// Sets a variable.
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.envs.push((key.into(), value.into()));
        self
    }

    /// Gives it this text as standard input, and then the end.
    pub fn input(mut self, text: impl Into<String>) -> Self {
        self.input = Some(text.into());
        self
    }

    /// Gives it a terminal as its controlling one and all three standard streams.
    pub fn on_terminal(mut self, terminal: OwnedFd) -> Self {
        self.terminal = Some(terminal);
        self
    }

    /// Starts it with output to files.
    pub fn spawn(self) -> Res<Running> {
        let number = self.stage.next();
        let file = |name: &str| self.stage.dir.join("out").join(format!("{number}.{name}"));
        let (out, err) = (file("out"), file("err"));
        let mut words = self.words.iter().map(String::as_str).collect::<Vec<_>>();
        if self.terminal.is_some() {
            words.splice(0..0, ["setsid", "--ctty", "--wait"]);
        }
        let mut command = Command::new(words[0]);
        if let Some(terminal) = &self.terminal {
            command.stdin(Stdio::from(terminal.try_clone()?));
            command.stdout(Stdio::from(terminal.try_clone()?));
            command.stderr(Stdio::from(terminal.try_clone()?));
        } else {
            command.stdin(match &self.input {
                Some(text) => {
                    fs::write(file("in"), text)?;
                    Stdio::from(File::open(file("in"))?)
                }
                None => Stdio::null(),
            });
            command.stdout(File::create(&out)?).stderr(File::create(&err)?);
        }
        command.args(&words[1..]).env_clear().current_dir("/");
        let envs = self.stage.envs.lock().expect("no holder of this lock panics").clone();
        command.envs(&envs).envs(self.envs.iter().map(|(key, value)| (key, value)));
        let text = words.iter().take(6).copied().collect::<Vec<_>>().join(" ");
        match command.spawn() {
            Ok(child) => Ok(Running { child, text, out, err }),
            Err(error) => fail(format!("start {text}: {error}")),
        }
    }

    /// Runs it to its end.
    pub fn output(self) -> Res<Output> {
        let stage = self.stage;
        self.spawn()?.wait(stage)
    }

    /// Runs it to its end, which must be a good one; answers what it printed, trimmed.
    pub fn must(self) -> Res<String> {
        let text = self.words.iter().take(6).cloned().collect::<Vec<_>>().join(" ");
        let output = self.output()?;
        if output.code != Some(0) {
            return fail(format!("{text}: {}", output.brief()));
        }
        Ok(output.out.trim().to_owned())
    }
}

/// A command that runs.
pub struct Running {
    child: Child,
    text: String,
    out: PathBuf,
    err: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Whoever has been waited for is not killed: the standard library knows.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// What it has printed to standard output so far.
    pub fn printed(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.out).unwrap_or_default()).into_owned()
    }

    /// What it has printed to standard error so far.
    pub fn complained(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.err).unwrap_or_default()).into_owned()
    }

    /// Whether it has not ended.
    pub fn alive(&self) -> Res<bool> {
        Ok(!ends_within(self.pid(), Duration::ZERO)?)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Res {
        Ok(kill(Pid::from_raw(self.pid()), signal)?)
    }

    /// Waits until it has printed something.
    pub fn until_printed(&self, stage: &Stage, words: &str) -> Res {
        stage.until(
            &format!("{} prints {words:?} (printed {:?})", self.text, cut(&self.printed())),
            || Ok(self.printed().contains(words)),
        )
    }

    /// Waits for its end; past the deadline it is killed and the scenario fails.
    pub fn wait(mut self, stage: &Stage) -> Res<Output> {
        if !ends_within(self.pid(), stage.remaining())? {
            self.child.kill()?;
            self.child.wait()?;
            return fail(format!(
                "{} hung: {} {}",
                self.text,
                cut(&self.printed()),
                cut(&self.complained())
            ));
        }
        let status = self.child.wait()?;
        Ok(Output {
            code: status.code(),
            signal: status.signal(),
            out: self.printed(),
            err: self.complained(),
        })
    }

    /// Kills it with SIGKILL and collects it.
    pub fn kill(self) {
        drop(self);
    }
}
