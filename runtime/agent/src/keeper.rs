//! A process and its connection: one keeper for each, forked from the agent, the parent of what it keeps.
//!
//! ```text
//!   made ──▶ Created ── Start ──▶ Started ──▶ relayed ──▶ ended ──▶ drained ──▶ (deleted) ──▶ Exited
//! ```
//!
//! A host that goes away before the start has left something that nobody can start: it is taken back. After
//! the start the process goes on without it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::PollFlags;
use nix::unistd::write;
use runtime::{
    Console, Container, CreateOptions, Error, ErrorKind, ExecOptions, OomWatch, Parent, Process,
    Result, Start,
};
use wire::{Answer, Exec, First, Notice, Word};

use crate::bundle::Bundle;
use crate::connection::{self, Connection, Received};
use crate::relay::Relay;
use crate::stdio::{self, Relays};
use crate::{STATE, log};

/// How long the host may take to close a connection on which everything was said.
const LINGER: Duration = Duration::from_secs(10);
/// How long the last output waits for a reader when nobody waits for the exit status.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// What is to be made.
#[derive(Debug)]
pub enum Request {
    /// A container.
    First(Box<First>),
    /// A further process in one.
    Exec(Box<Exec>),
}

/// A keeper in the making.
#[derive(Debug)]
pub struct Keeper {
    /// The process' connection.
    pub connection: Connection,
    /// See [`Request`].
    pub request: Request,
    /// Standard input, output and error; those that are not there are `/dev/null`.
    pub streams: [Option<OwnedFd>; 3],
    /// Takes frames with notices, each in one write.
    pub notices: OwnedFd,
}

/// How it went.
enum Outcome {
    /// With this exit status.
    Ended(u8),
    /// The host has gone before the start.
    Abandoned,
}

impl Keeper {
    /// Keeps the process until its end, and ends.
    pub fn run(self) -> ! {
        let Self { mut connection, request, streams, notices } = self;
        let kept = match request {
            Request::First(first) => keep_first(*first, &mut connection, streams, notices),
            Request::Exec(exec) => keep_exec(&exec, &mut connection, streams),
        };
        let last = match kept {
            Ok(Outcome::Ended(status)) => Some(Answer::Exited { status }),
            Ok(Outcome::Abandoned) => None,
            Err(error) => Some(Answer::Failed((&error).into())),
        };
        // The host may have gone meanwhile.
        if last.is_some_and(|last| connection.send(&last).is_ok()) {
            connection.linger(LINGER);
        }
        runtime::leave(0)
    }
}

fn keep_first(
    first: First,
    connection: &mut Connection,
    streams: [Option<OwnedFd>; 3],
    notices: OwnedFd,
) -> Result<Outcome> {
    let mut warnings = Vec::new();
    let id = first.container.clone();
    let (bundle, config) = Bundle::make(first, &mut warnings)?;
    let mut options = CreateOptions::new(config, bundle.path.clone(), Start::Here);
    let process = options.config.spec.process().as_ref();
    let terminal = process.and_then(oci_spec::runtime::Process::terminal).unwrap_or(false);
    options.console = console(terminal);
    let (mut container, process, relays) = stdio::around(streams, terminal, || {
        Container::create(Path::new(STATE), &id, options, &mut warnings)
    })?;
    spare_oneself();
    // Without figures of kills the container is none the worse.
    let oom = container.watch_oom().ok().map(|watch| Oom { watch, id, untold: 0, notices });
    let mut start = || container.start();
    let watch = Watch::new(connection, process, relays, &mut start);
    let outcome = watch.run(oom, warnings);
    let mut warnings = Vec::new();
    if let Err(error) = container.delete(true, &mut warnings) {
        warnings.push(error.to_string());
    }
    warnings.iter().for_each(|warning| log::say(warning));
    drop(bundle);
    outcome
}

fn keep_exec(
    exec: &Exec,
    connection: &mut Connection,
    streams: [Option<OwnedFd>; 3],
) -> Result<Outcome> {
    let mut warnings = Vec::new();
    let text = serde_json::to_vec(&exec.process).expect("a JSON value is JSON");
    let process = runtime::parse_process(&text, &mut warnings)?;
    let terminal = process.terminal().unwrap_or(false);
    let options = ExecOptions {
        process,
        console: console(terminal),
        pid_file: None,
        pidfd_socket: None,
        preserve_fds: 0,
        ignore_paused: false,
        cgroups: Vec::new(),
        parent: Parent::Caller,
    };
    let container = Container::load(Path::new(STATE), &exec.container)?;
    let (prepared, process, relays) =
        stdio::around(streams, terminal, || container.prepare_exec(options, &mut warnings))?;
    spare_oneself();
    let mut prepared = Some(prepared);
    let mut start = || prepared.take().map_or(Ok(()), runtime::Prepared::start);
    Watch::new(connection, process, relays, &mut start).run(None, warnings)
}

fn console(terminal: bool) -> Console {
    if terminal { Console::Caller } else { Console::Nobody }
}

/// The kernel takes memory from containers, not from who keeps them. Not before the container's process is
/// there, which would inherit it.
fn spare_oneself() {
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
}

/// Kills by the kernel that the host is to hear of.
struct Oom {
    watch: OomWatch,
    id: String,
    untold: u64,
    notices: OwnedFd,
}

impl Oom {
    /// Whether there is anything more to come.
    fn look(&mut self) -> bool {
        let Ok(kills) = self.watch.look() else { return false };
        self.untold += kills;
        if self.untold > 0 {
            let notice = Notice::OutOfMemory { container: self.id.clone(), kills: self.untold };
            let frame = wire::frame(&notice).expect("an id is short");
            // A frame is shorter than PIPE_BUF, so all or nothing of it is written. Nothing: the agent has
            // no room for it, and hears of it with the next one.
            if write(&self.notices, &frame).is_ok() {
                self.untold = 0;
            }
        }
        true
    }
}

/// Executes the program.
type Begin<'a> = &'a mut dyn FnMut() -> Result<()>;

struct Watch<'a> {
    connection: &'a mut Connection,
    process: Process,
    relays: Relays,
    /// Until it has started.
    start: Option<Begin<'a>>,
    /// Whether the host may still say something.
    open: bool,
    ended: Option<u8>,
    /// For the last output.
    deadline: Option<Instant>,
}

/// Who a poll entry belongs to.
#[derive(Clone, Copy)]
enum Source {
    Host,
    Process,
    Oom,
    Input,
    Output(usize),
}

impl<'a> Watch<'a> {
    fn new(
        connection: &'a mut Connection,
        process: Process,
        relays: Relays,
        start: Begin<'a>,
    ) -> Self {
        let start = Some(start);
        Self { connection, process, relays, start, open: true, ended: None, deadline: None }
    }

    fn run(mut self, mut oom: Option<Oom>, warnings: Vec<String>) -> Result<Outcome> {
        self.connection.send(&Answer::Created { pid: self.process.pid, warnings })?;
        loop {
            if let Some(status) = self.ended {
                self.relays.outputs.iter_mut().for_each(Relay::drain);
                self.relays.outputs.retain(|output| !output.is_done());
                if self.relays.outputs.is_empty() || self.given_up() {
                    if let Some(oom) = &mut oom {
                        oom.look();
                    }
                    return Ok(Outcome::Ended(status));
                }
            }
            if !self.open && self.start.is_some() {
                return Ok(Outcome::Abandoned);
            }
            for source in self.wait(oom.as_ref())? {
                match source {
                    Source::Host => self.hear()?,
                    Source::Process => self.reap()?,
                    Source::Oom => oom = oom.take_if(|oom| oom.look()),
                    Source::Input => self.input(),
                    Source::Output(index) => self.relays.outputs[index].run(),
                }
            }
            if self.ended.is_none() {
                self.relays.outputs.retain(|output| !output.is_done());
            }
        }
    }

    fn given_up(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }

    fn wait(&self, oom: Option<&Oom>) -> Result<Vec<Source>> {
        let mut wanted: Vec<(Source, (BorrowedFd<'_>, PollFlags))> = Vec::new();
        if self.open {
            wanted.push((Source::Host, (self.connection.as_fd(), PollFlags::POLLIN)));
        }
        if self.ended.is_none() {
            wanted.push((Source::Process, (self.process.pidfd.as_fd(), PollFlags::POLLIN)));
            wanted.extend(oom.map(|oom| (Source::Oom, oom.watch.polled())));
        }
        let input = self.relays.input.as_ref().and_then(Relay::wanted);
        wanted.extend(input.map(|polled| (Source::Input, polled)));
        for (index, output) in self.relays.outputs.iter().enumerate() {
            wanted.extend(output.wanted().map(|polled| (Source::Output(index), polled)));
        }
        let polled: Vec<_> = wanted.iter().map(|&(_, polled)| polled).collect();
        let ready = connection::wait(&polled, self.deadline)
            .map_err(|failure| Error::system("wait for", "the container", failure))?;
        let ready = wanted.iter().zip(ready).filter(|(_, ready)| !ready.is_empty());
        Ok(ready.map(|(&(source, _), _)| source).collect())
    }

    fn hear(&mut self) -> Result<()> {
        match self.connection.receive() {
            Ok(Received::Message(Word::Start)) => self.begin()?,
            Ok(Received::Message(Word::Resize(size))) => {
                if let Some(terminal) = &self.process.terminal {
                    // A terminal that hung up has no size.
                    let _ = runtime::set_size(terminal.as_fd(), size.columns, size.rows);
                }
            }
            Ok(Received::Message(Word::Signal(signal))) => {
                // A process that has just ended needs none.
                let _ = self.process.signal(signal);
            }
            Ok(Received::Nothing) => {}
            Ok(Received::Closed) => self.close(),
            Err(broken) if self.start.is_some() => {
                let reason = broken.0;
                return Err(Error::new(ErrorKind::System, "hear from", "the host", reason));
            }
            Err(_) => self.close(),
        }
        Ok(())
    }

    /// Nobody stands for the process any more: it ends, as one does whose pid is killed.
    fn close(&mut self) {
        self.open = false;
        if self.start.is_none() && self.ended.is_none() {
            let _ = self.process.signal(nix::libc::SIGKILL);
        }
        if self.ended.is_some() {
            self.deadline = Some(Instant::now() + LAST_WORDS);
        }
    }

    fn begin(&mut self) -> Result<()> {
        // A second time it has no meaning.
        let Some(start) = self.start.take() else { return Ok(()) };
        start()?;
        if self.connection.send(&Answer::Started).is_err() {
            self.close();
        }
        Ok(())
    }

    fn reap(&mut self) -> Result<()> {
        while let Some((pid, status)) = runtime::reap_child()? {
            if pid == self.process.pid {
                self.ended = Some(status);
            }
        }
        if self.ended.is_none() {
            let reason = "its exit status is lost";
            return Err(Error::new(ErrorKind::System, "wait for", "the container", reason));
        }
        // It reads no more, and what it has written is all there.
        self.start = None;
        self.relays.input = None;
        self.relays.outputs.iter_mut().for_each(Relay::end);
        if !self.open {
            self.deadline = Some(Instant::now() + LAST_WORDS);
        }
        Ok(())
    }

    fn input(&mut self) {
        if let Some(input) = &mut self.relays.input {
            input.run();
            if input.is_done() {
                self.relays.input = None;
            }
        }
    }
}
