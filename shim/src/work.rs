//! What a worker does: one request, by the library, in a process with one thread.
//!
//! See [`crate::spawner`] for where it comes from. It works in the bundle's directory with the
//! container's standard streams as its own, as the library wants it.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use containerd_shim_protos::protobuf::EnumOrUnknown;
use containerd_shim_protos::ttrpc;
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout};
use runtime::{
    Call, Console, Container, Context, CreateOptions, Error, ErrorKind, ExecOptions, Parent,
    Process, Start, quote,
};
use serde::{Deserialize, Serialize};

use crate::code;
use crate::criu::{Checkpoint, Prepare, Restore};
use crate::delete::PID_FILE;
use crate::logger::Logger;
use crate::rootfs::{self, Mount};

/// A request of the shim's.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Mounts the root file system and creates a container.
    Create(Create),
    /// Executes the program of a created container.
    Start(Name),
    /// Runs a further process.
    Exec(Exec),
    /// Kills and deletes a container, and unmounts its root file system.
    Delete(Delete),
    /// Saves a container.
    Checkpoint(Checkpoint),
    /// Mounts the root file system of a container that is to be restored.
    Prepare(Prepare),
    /// Restores a container.
    Restore(Restore),
    /// Starts a program that takes a process' output.
    Logger(Logger),
}

/// A container: its state root and id.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Name {
    /// State root.
    pub root: PathBuf,
    /// Id.
    pub id: String,
}

/// How to create a container.
#[derive(Debug, Serialize, Deserialize)]
pub struct Create {
    /// The container.
    pub name: Name,
    /// Bundle directory.
    pub bundle: PathBuf,
    /// What to mount at the bundle's `rootfs`, in order.
    pub rootfs: Vec<Mount>,
    /// Whether somebody relays the terminal that the configuration asks for.
    pub terminal: bool,
    /// As in [`CreateOptions`].
    pub no_pivot: bool,
    /// As in [`CreateOptions`].
    pub no_new_keyring: bool,
    /// Leave cgroups to the host's systemd.
    pub systemd_cgroup: bool,
}

/// How to run a further process.
#[derive(Debug, Serialize, Deserialize)]
pub struct Exec {
    /// The container.
    pub name: Name,
    /// The process, as JSON.
    pub process: String,
    /// Whether it gets a terminal, whatever `process` says.
    pub terminal: bool,
}

/// What to delete.
#[derive(Debug, Serialize, Deserialize)]
pub struct Delete {
    /// The container.
    pub name: Name,
    /// Bundle directory.
    pub bundle: PathBuf,
}

/// A worker's answer.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reply {
    /// The pid of a process that was made, or 0.
    pub outcome: Result<i32, Failed>,
    /// Warnings of the library.
    pub warnings: Vec<String>,
}

/// An error on its way to the caller.
#[derive(Debug, Serialize, Deserialize)]
pub struct Failed {
    code: i32,
    text: String,
}

impl Failed {
    fn new(error: &Error) -> Self {
        match code::answer(error) {
            ttrpc::Error::RpcStatus(status) => {
                Self { code: status.code.value(), text: status.message }
            }
            other => Self { code: ttrpc::Code::UNKNOWN as i32, text: other.to_string() },
        }
    }

    /// The error as the service returns it.
    pub fn into_rpc(self) -> ttrpc::Error {
        let mut status = ttrpc::Status::new();
        status.code = EnumOrUnknown::from_i32(self.code);
        status.message = self.text;
        ttrpc::Error::RpcStatus(status)
    }
}

/// Serves the one request on `connection`, and ends.
pub fn run(connection: UnixStream, stdio: [OwnedFd; 3]) -> ! {
    let mut warnings = Vec::new();
    let done = adopt(stdio)
        .and_then(|()| receive(&connection))
        .and_then(|request| perform(request, &mut warnings));
    let (outcome, process) = match done {
        Ok(Some(process)) => (Ok(process.pid), Some(process)),
        Ok(None) => (Ok(0), None),
        Err(error) => (Err(Failed::new(&error)), None),
    };
    let mut fds = Vec::new();
    if let Some(process) = &process {
        fds.push(process.pidfd.as_fd());
        fds.extend(process.terminal.as_ref().map(AsFd::as_fd));
    }
    let sent = reply(&connection, &Reply { outcome, warnings }, &fds);
    // Nobody knows of a process that could not be told of; a container is found by its state.
    if sent.is_err()
        && let Some(process) = &process
    {
        let _ = process.signal(nix::libc::SIGKILL);
    }
    runtime::leave(i32::from(sent.is_err()))
}

/// Tells the shim that no worker could be made.
pub fn refuse(connection: &UnixStream, error: &Error) {
    let refusal = Reply { outcome: Err(Failed::new(error)), warnings: Vec::new() };
    // A shim that is gone needs no answer.
    let _ = reply(connection, &refusal, &[]);
}

fn reply(
    connection: &UnixStream,
    reply: &Reply,
    fds: &[BorrowedFd<'_>],
) -> Result<(), runtime::Failure> {
    let text = serde_json::to_vec(reply).expect("replies have string keys");
    let mut sent = runtime::send_message(connection.as_fd(), &text, fds)?;
    while sent < text.len() {
        sent += runtime::send_message(connection.as_fd(), &text[sent..], &[])?;
    }
    Ok(())
}

fn adopt([stdin, stdout, stderr]: [OwnedFd; 3]) -> runtime::Result<()> {
    dup2_stdin(&stdin)
        .and_then(|()| dup2_stdout(&stdout))
        .and_then(|()| dup2_stderr(&stderr))
        .call("dup2")
        .context("take", "the standard streams")
}

fn receive(mut connection: &UnixStream) -> runtime::Result<Request> {
    const REQUEST: &str = "the shim's request";
    let mut text = Vec::new();
    connection.read_to_end(&mut text).call("read").context("read", REQUEST)?;
    serde_json::from_slice(&text)
        .map_err(|error| Error::new(ErrorKind::System, "read", REQUEST, error.to_string()))
}

fn perform(request: Request, warnings: &mut Vec<String>) -> runtime::Result<Option<Process>> {
    match request {
        Request::Create(request) => create(&request, warnings).map(Some),
        Request::Start(name) => {
            Container::load(&name.root, &name.id)?.start()?;
            Ok(None)
        }
        Request::Exec(request) => exec(&request, warnings).map(Some),
        Request::Delete(request) => delete(&request, warnings).map(|()| None),
        Request::Checkpoint(request) => request.run().map(|()| None),
        Request::Prepare(request) => request.run().map(|()| None),
        Request::Restore(request) => request.run(warnings).map(Some),
        Request::Logger(request) => request.spawn().map(|()| None),
    }
}

fn create(request: &Create, warnings: &mut Vec<String>) -> runtime::Result<Process> {
    let bundle = request.bundle.as_path();
    enter(bundle)?;
    rootfs::mount_all(&request.rootfs, bundle)?;
    let created = create_mounted(request, warnings);
    if created.is_err() && !request.rootfs.is_empty() {
        // The first error is the one to tell.
        let _ = rootfs::unmount(bundle);
    }
    created
}

/// Goes to the bundle.
pub fn enter(bundle: &Path) -> runtime::Result<()> {
    nix::unistd::chdir(bundle).call("chdir").context("enter bundle", quote(bundle))
}

fn create_mounted(request: &Create, warnings: &mut Vec<String>) -> runtime::Result<Process> {
    let config = runtime::load_config(&request.bundle, warnings)?;
    let mut options = CreateOptions::new(config, request.bundle.clone(), Start::Later);
    options.console = console(request.terminal);
    options.no_pivot = request.no_pivot;
    options.no_new_keyring = request.no_new_keyring;
    options.systemd_cgroup = request.systemd_cgroup.then(runtime::ServiceManager::system);
    options.pid_file = Some(request.bundle.join(PID_FILE));
    options.parent = Parent::Callers;
    let (_, process) = Container::create(&request.name.root, &request.name.id, options, warnings)?;
    Ok(process)
}

fn exec(request: &Exec, warnings: &mut Vec<String>) -> runtime::Result<Process> {
    let mut process = runtime::parse_process(request.process.as_bytes(), warnings)?;
    process.set_terminal(Some(request.terminal));
    let options = ExecOptions {
        process,
        console: console(request.terminal),
        pid_file: None,
        pidfd_socket: None,
        preserve_fds: 0,
        ignore_paused: false,
        cgroups: Vec::new(),
        parent: Parent::Callers,
    };
    Container::load(&request.name.root, &request.name.id)?.exec(options, warnings)
}

/// Where a terminal goes: this process hands it to the shim.
pub fn console(terminal: bool) -> Console {
    if terminal { Console::Caller } else { Console::Nobody }
}

fn delete(request: &Delete, warnings: &mut Vec<String>) -> runtime::Result<()> {
    let deleted = Container::load(&request.name.root, &request.name.id)
        .and_then(|container| container.delete(true, warnings));
    match deleted {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        other => other?,
    }
    rootfs::unmount(&request.bundle)
}
