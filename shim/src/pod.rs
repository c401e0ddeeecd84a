//! The containers of one shim, and what happens to them.
//!
//! Every method is a call of the task service in terms of our own; [`crate::service`] translates. No
//! lock is held over anything that takes time: a create that hangs in a hook does not keep `State` of
//! another container from being answered.

mod checkpoint;
mod oom;

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use containerd_shim_protos::ttrpc::{self, Code};
use nix::libc::SIGKILL;
use runtime::Status;

use crate::announce::Events;
use crate::code::{self, status};
use crate::container::{Container, NewContainer};
use crate::log::Log;
use crate::process::{Exit, Phase, Process};
use crate::spawner::{Done, Spawner};
use crate::stdio::{self, Named, Owner};
use crate::terminal::Terminal;
use crate::work::{self, Name, Request};

/// How long a deletion waits for the end of a process that was killed, and for its last output.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The exit status of what could not be made, as under runc's shim.
const NEVER_RAN: u32 = 255;

/// Of threads that wait and do little.
const STACK: usize = 64 * 1024;

/// Everything that the shim knows.
#[derive(Debug)]
pub struct Pod {
    spawner: Spawner,
    events: Events,
    log: Log,
    namespace: String,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    containers: HashMap<String, Arc<Container>>,
    /// Ids whose container is being made.
    creating: HashSet<String>,
    /// Processes by pid, until they have ended.
    running: HashMap<i32, Arc<Process>>,
    /// Children that ended while a worker had not yet told whose they were.
    early: HashMap<i32, Exit>,
    /// Workers that may yet tell of a process.
    births: usize,
    /// A container was asked for.
    used: bool,
    /// The shim is about to end.
    closed: bool,
}

impl Table {
    fn is_empty(&self) -> bool {
        self.containers.is_empty() && self.creating.is_empty()
    }
}

impl Pod {
    /// A pod without containers.
    pub fn new(spawner: Spawner, events: Events, log: Log, namespace: String) -> Self {
        Self { spawner, events, log, namespace, table: Mutex::default() }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The shim's events.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Whether a container was ever asked for.
    pub fn was_used(&self) -> bool {
        self.table().used
    }

    /// Lets no container in any more, if there is none and none in the making. Whether this call did it.
    pub fn close_when_empty(&self) -> bool {
        let mut table = self.table();
        table.is_empty() && !std::mem::replace(&mut table.closed, true)
    }

    /// Lets no container in any more. Whether this call did it.
    pub fn close(&self) -> bool {
        !std::mem::replace(&mut self.table().closed, true)
    }

    /// A container.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn container(&self, id: &str) -> ttrpc::Result<Arc<Container>> {
        let found = self.table().containers.get(id).cloned();
        found.ok_or_else(|| code::not_found("container", id))
    }

    /// A process of a container; its init for an empty `exec`.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn process(&self, id: &str, exec: &str) -> ttrpc::Result<Arc<Process>> {
        let container = self.container(id)?;
        if exec.is_empty() {
            return Ok(Arc::clone(&container.init));
        }
        let found = container.others().processes.get(exec).cloned();
        found.ok_or_else(|| code::not_found("process", exec))
    }

    /// Creates a container and returns its pid.
    ///
    /// # Errors
    /// `AlreadyExists`; `Unavailable` in a shim that ends; or what failed. Nothing is left then.
    pub fn create(self: &Arc<Self>, new: NewContainer) -> ttrpc::Result<i32> {
        {
            let mut table = self.table();
            if table.closed {
                let text = format!("create container {:?}: this shim is about to end", new.id);
                return Err(status(Code::UNAVAILABLE, text));
            }
            table.used = true;
            if table.containers.contains_key(&new.id) || !table.creating.insert(new.id.clone()) {
                return Err(code::exists("container", &new.id));
            }
        }
        let id = new.id.clone();
        let created = self.create_reserved(new);
        self.table().creating.remove(&id);
        created
    }

    fn create_reserved(self: &Arc<Self>, mut new: NewContainer) -> ttrpc::Result<i32> {
        if let Some(saved) = new.saved.take() {
            return self.prepare(new, saved);
        }
        let NewContainer { id, bundle, root, rootfs, streams, .. } = new;
        let name = Name { root, id };
        let request = Request::Create(work::Create {
            name: name.clone(),
            bundle: bundle.clone(),
            rootfs: rootfs.clone(),
            terminal: streams.terminal,
            no_pivot: new.no_pivot,
            no_new_keyring: new.no_new_keyring,
            systemd_cgroup: new.systemd_cgroup,
        });
        let init = Arc::new(Process::new(&name.id, "", streams, Phase::Created));
        self.bear(&init, &request)?;
        let pid = init.state().pid;
        let container = Container::new(name, bundle, Arc::clone(&init), None);
        let container = Arc::new(container);
        self.find(&container)?;
        self.watch_oom(&container);
        self.events.created(&container, &rootfs, pid);
        let id = container.name.id.clone();
        self.table().containers.insert(id, container);
        self.release(&init);
        Ok(pid)
    }

    /// Makes a process: opens its streams, has a worker make it, and knows it by its pid from then on.
    /// Its exit is held back; the caller releases it.
    fn bear(&self, process: &Arc<Process>, request: &Request) -> ttrpc::Result<()> {
        let owner = Owner {
            namespace: &self.namespace,
            container: &process.container,
            spawner: &self.spawner,
        };
        let streams = stdio::open(&process.streams, owner).map_err(|error| code::answer(&error))?;
        process.state().hold();
        self.table().births += 1;
        let [stdin, stdout, stderr] = &streams.given;
        let done = self.spawner.call(request, [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]);
        drop(streams.given);
        let adopted = done.and_then(|done| self.adopt(process, done, streams.kept));
        let mut table = self.table();
        table.births -= 1;
        if table.births == 0 {
            table.early.clear();
        }
        drop(table);
        if adopted.is_err() {
            process.state().release();
        }
        adopted
    }

    fn adopt(
        &self,
        process: &Arc<Process>,
        done: Done,
        mut kept: stdio::Kept,
    ) -> ttrpc::Result<()> {
        self.warn(&process.container, &done.warnings);
        let mut fds = done.fds.into_iter();
        let Some(pidfd) = fds.next() else {
            return Err(status(
                Code::INTERNAL,
                "the shim's worker sent no descriptor of the process",
            ));
        };
        let handle = runtime::Process { pid: done.pid, pidfd, terminal: None };
        let terminal = match (fds.next(), kept.relayed.take()) {
            (Some(master), Some(fifos)) => {
                let relayed = Terminal::relay(master, fifos).inspect_err(|_| {
                    // Without its terminal it is of no use to anybody.
                    let _ = handle.signal(SIGKILL);
                });
                Some(relayed.map_err(|error| code::answer(&error))?)
            }
            _ => None,
        };
        {
            let mut state = process.state();
            state.pid = done.pid;
            state.handle = Some(handle);
            state.keep(kept);
            state.terminal = terminal;
        }
        let mut table = self.table();
        match table.early.remove(&done.pid) {
            // A pid that was given out again while a slow create keeps early exits: another one's end.
            Some(exit) if process.state().has_ended() => {
                drop(table);
                process.state().exited(exit);
            }
            _ => drop(table.running.insert(done.pid, Arc::clone(process))),
        }
        Ok(())
    }

    /// Finds the container that a worker has made. It was there a moment ago: whoever deleted it has won.
    fn find(&self, container: &Container) -> ttrpc::Result<()> {
        let handle = runtime::Container::load(&container.name.root, &container.name.id);
        let handle = handle
            .map_err(|error| code::answer(&error))
            .inspect_err(|_| self.forget(&container.init))?;
        container.made(handle);
        Ok(())
    }

    fn warn(&self, container: &str, warnings: &[String]) {
        for warning in warnings {
            self.log.warn(&format!("container {container:?}: {warning}"));
        }
    }

    fn forget(&self, process: &Process) {
        let pid = process.state().pid;
        self.table().running.remove(&pid);
    }

    /// Ends a hold on the exit of `process`, and tells an exit that waited for it.
    fn release(self: &Arc<Self>, process: &Arc<Process>) {
        let due = process.state().release();
        if due {
            self.end(process);
        }
    }

    /// A child of the shim has ended.
    pub fn reaped(self: &Arc<Self>, pid: i32, status: u8) {
        let exit = Exit { status: u32::from(status), at: SystemTime::now() };
        let mut table = self.table();
        let Some(process) = table.running.remove(&pid) else {
            // A worker, an orphan, a logging program; or a process that nobody has told us of yet.
            if table.births > 0 {
                table.early.insert(pid, exit);
            }
            return;
        };
        drop(table);
        let due = process.state().exited(exit);
        if due {
            self.end(&process);
        }
    }

    /// Tells the end of a process, of an init after those of all others.
    fn end(self: &Arc<Self>, process: &Arc<Process>) {
        let container = self.table().containers.get(&process.container).cloned();
        let Some(container) = container else {
            self.tell(process);
            return;
        };
        if !process.is_init() {
            self.tell(process);
            self.buried(&container);
            return;
        }
        let waits = {
            let mut others = container.others();
            others.init_ended = true;
            others.live > 0
        };
        let own = container.handle().map(runtime::Container::has_own_pid_namespace);
        if !own.unwrap_or(true) {
            self.end_others(container, waits);
        } else if !waits {
            self.tell(process);
        }
    }

    /// Kills what an init left behind in a pid namespace that is not the container's own. In a thread of
    /// its own: that may wait for a freezer, and this one reaps.
    fn end_others(self: &Arc<Self>, container: Arc<Container>, waits: bool) {
        let pod = Arc::clone(self);
        let init = Arc::clone(&container.init);
        let thread = thread::Builder::new().name("remains".to_owned()).stack_size(STACK);
        let spawned = thread.spawn(move || {
            // Of one that was never restored nothing is left.
            if let Ok(Err(error)) = container.handle().map(|handle| handle.kill_all(SIGKILL)) {
                pod.log.warn(&error.to_string());
            }
            if !waits {
                pod.tell(&container.init);
            }
        });
        if let Err(error) = spawned {
            // They live until the container is deleted.
            self.log.warn(&format!("kill what container {:?} left: {error}", init.container));
            if !waits {
                self.tell(&init);
            }
        }
    }

    /// One process less beside the init.
    fn buried(&self, container: &Container) {
        let last = {
            let mut others = container.others();
            others.live -= 1;
            others.live == 0 && others.init_ended
        };
        if last {
            self.tell(&container.init);
        }
    }

    fn tell(&self, process: &Process) {
        let mut state = process.state();
        if state.phase == Phase::Stopped {
            return;
        }
        if let Some(exit) = state.exit {
            self.events.exited(process, state.pid, exit);
        }
        state.stop();
    }

    /// Starts a process and returns its pid.
    ///
    /// # Errors
    /// `FailedPrecondition` for one that was started before; what failed.
    pub fn start(self: &Arc<Self>, id: &str, exec: &str) -> ttrpc::Result<i32> {
        let container = self.container(id)?;
        let process = self.process(id, exec)?;
        let from = if process.is_init() { Phase::Created } else { Phase::Added };
        {
            let mut state = process.state();
            if state.phase != from {
                let text = format!(
                    "cannot start process {:?} of container {id:?}: it was started before",
                    process.id()
                );
                return Err(status(Code::FAILED_PRECONDITION, text));
            }
            state.phase = Phase::Starting;
            state.hold();
        }
        let started = if process.is_init() {
            self.start_init(&container)
        } else {
            self.start_exec(&container, &process)
        };
        {
            let mut state = process.state();
            match started {
                Ok(()) => state.phase = Phase::Running,
                // It has not failed for good.
                Err(_) if state.phase == Phase::Starting => state.phase = from,
                Err(_) => {}
            }
        }
        if started.is_ok() {
            let pid = process.state().pid;
            self.events.started(&process, pid);
        }
        self.release(&process);
        if started.is_err() && process.is_init() {
            // It gave up. A client that asks for its state next must find that it has ended: `ctr run`
            // deletes it then, and leaves it otherwise.
            let _ = process.ended().recv_timeout(LAST_WORDS);
        }
        started.map(|()| process.state().pid)
    }

    fn start_init(self: &Arc<Self>, container: &Arc<Container>) -> ttrpc::Result<()> {
        if let Some(restore) = &container.restore {
            return self.restore(container, restore);
        }
        let null = null()?;
        let request = Request::Start(container.name.clone());
        let done = self.spawner.call(&request, [null.as_fd(); 3])?;
        self.warn(&container.name.id, &done.warnings);
        Ok(())
    }

    fn start_exec(
        self: &Arc<Self>,
        container: &Arc<Container>,
        process: &Arc<Process>,
    ) -> ttrpc::Result<()> {
        container.others().live += 1;
        let request = Request::Exec(work::Exec {
            name: container.name.clone(),
            process: process.specification().to_owned(),
            terminal: process.streams.terminal,
        });
        let born = self.bear(process, &request);
        match &born {
            Ok(()) => self.release(process),
            Err(_) => {
                // Who waits for it is let go, as under runc's shim.
                process.state().fail(NEVER_RAN);
                self.buried(container);
            }
        }
        born
    }

    /// Adds a process, which `start` then makes.
    ///
    /// # Errors
    /// `AlreadyExists`; `FailedPrecondition` for a container whose init has ended.
    pub fn exec(&self, id: &str, exec: &str, json: String, streams: Named) -> ttrpc::Result<()> {
        let container = self.container(id)?;
        if container.init.state().phase == Phase::Stopped {
            let text = format!("cannot exec in container {id:?}: container not running");
            return Err(status(Code::FAILED_PRECONDITION, text));
        }
        let process = Process::new(id, exec, streams, Phase::Added).with_specification(json);
        {
            let mut others = container.others();
            if others.processes.contains_key(exec) {
                return Err(code::exists("process", exec));
            }
            others.processes.insert(exec.to_owned(), Arc::new(process));
        }
        self.events.exec_added(id, exec);
        Ok(())
    }

    /// Deletes a process that has ended or was never started, or with its init the container.
    /// Returns its pid and how it ended.
    ///
    /// # Errors
    /// `FailedPrecondition` while it runs; what failed, and then it can be tried again.
    pub fn delete(&self, id: &str, exec: &str) -> ttrpc::Result<(i32, Option<Exit>)> {
        let container = self.container(id)?;
        let process = self.process(id, exec)?;
        self.give_up(&container, &process);
        let phase = process.state().phase;
        if matches!(phase, Phase::Starting | Phase::Running) {
            let text =
                format!("cannot delete running process {:?} of container {id:?}", process.id());
            return Err(status(Code::FAILED_PRECONDITION, text));
        }
        if process.is_init() {
            self.delete_container(&container)?;
        } else {
            container.others().processes.remove(exec);
        }
        Self::await_output(&process);
        let state = process.state();
        let (pid, exit) = (state.pid, state.exit);
        drop(state);
        if process.is_init() {
            self.table().containers.remove(id);
            self.events.deleted(&process, pid, exit);
        }
        Ok((pid, exit))
    }

    fn delete_container(&self, container: &Container) -> ttrpc::Result<()> {
        let null = null()?;
        let name = container.name.clone();
        let request = Request::Delete(work::Delete { name, bundle: container.bundle.clone() });
        let done = self.spawner.call(&request, [null.as_fd(); 3])?;
        self.warn(&container.name.id, &done.warnings);
        // One that was only created has been killed just now.
        let _ = container.init.ended().recv_timeout(LAST_WORDS);
        Ok(())
    }

    fn await_output(process: &Process) {
        let done = process.state().terminal.as_ref().map(|terminal| terminal.done().clone());
        if let Some(done) = done {
            let _ = done.recv_timeout(LAST_WORDS);
        }
    }

    /// Sends a signal to a process, or to all of a container.
    ///
    /// # Errors
    /// `NotFound` (`process already finished`) when it has ended.
    pub fn kill(&self, id: &str, exec: &str, signal: i32, all: bool) -> ttrpc::Result<()> {
        let container = self.container(id)?;
        if exec.is_empty() {
            let stopped = container.init.state().phase == Phase::Stopped;
            let sent = match (all, container.handle()) {
                (false, _) | (true, Err(_)) if stopped => return Err(finished()),
                (true, handle) => handle?.kill_all(signal),
                (false, handle) => handle?.kill(signal),
            };
            return sent.map_err(|error| code::answer_to_kill(&error));
        }
        let process = self.process(id, exec)?;
        let state = process.state();
        match &state.handle {
            Some(handle) => handle.signal(signal).map_err(|error| code::answer_to_kill(&error)),
            None if state.phase == Phase::Stopped => Err(finished()),
            None => {
                let text = format!("process {exec:?} of container {id:?} was not started");
                Err(status(Code::FAILED_PRECONDITION, text))
            }
        }
    }

    /// The status of a process in containerd's sense.
    ///
    /// # Errors
    /// The container's cgroup cannot be looked at.
    pub fn status(&self, container: &Container, process: &Process) -> ttrpc::Result<TaskStatus> {
        let phase = process.state().phase;
        Ok(match phase {
            Phase::Added | Phase::Created => TaskStatus::Created,
            Phase::Stopped => TaskStatus::Stopped,
            // Until it is restored.
            Phase::Starting if container.handle().is_err() => TaskStatus::Created,
            Phase::Starting | Phase::Running => {
                let frozen = container.handle()?.status().map_err(|error| code::answer(&error))?;
                if frozen == Status::Paused { TaskStatus::Paused } else { TaskStatus::Running }
            }
        })
    }
}

/// The words of containerd's task API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskStatus {
    /// Not started.
    Created,
    /// Runs.
    Running,
    /// Has ended.
    Stopped,
    /// Its cgroup is frozen.
    Paused,
}

/// For a signal to a process that has ended; the words that callers know.
pub fn finished() -> ttrpc::Error {
    status(Code::NOT_FOUND, "process already finished: not found")
}

fn null() -> ttrpc::Result<std::fs::File> {
    let opened = std::fs::File::options().read(true).write(true).open("/dev/null");
    opened.map_err(|error| status(Code::UNAVAILABLE, format!("open \"/dev/null\": {error}")))
}
