//! A further process in a container behind the wall: a stand-in that enters the jail, and the process in the guest.

use std::os::fd::{AsFd, OwnedFd};

use oci_spec::runtime::Process as ProcessSpec;
use wire::{Answer, Opening, StreamName, Token};

use super::attend::{self, Attached, End};
use super::session::{self, Connection};
use super::{Recorded, inside, prepare};
use crate::cgroup::Cgroup;
use crate::error::{Context, Error, Result};
use crate::options::Parent;
use crate::process::channel::{Channel, FromChild};
use crate::process::child::{self, give_up};
use crate::process::join;
use crate::process::parent::Born;
use crate::process::program::TerminalSize;
use crate::state::StateDir;
use crate::sys;
use crate::sys::clone::{Cloned, SingleThreaded, clone3};
use crate::tty;
use crate::watcher;

/// A process that the guest has made and that waits for its start.
#[derive(Debug)]
pub(crate) struct Waiting {
    process: Connection,
    streams: Vec<(StreamName, OwnedFd)>,
}

/// What `/proc/PID/cmdline` of the stand-in shows.
const TITLE: &[u8] = b"bulkhead vm exec";

/// Has the guest make a process in `container`.
pub(crate) fn create(
    dir: &StateDir,
    container: &str,
    process: &ProcessSpec,
    chance: u64,
    warnings: &mut Vec<String>,
) -> Result<Waiting> {
    let terminal = process.terminal().unwrap_or(false);
    let token = prepare::token(chance);
    let mut connection = session::connect_in(dir.fd())?;
    let streams = prepare::stream_names(terminal)
        .map(|name| Ok((name, session::connect_in(dir.fd())?)))
        .collect::<Result<Vec<_>>>()?;
    let mut process = process.clone();
    // The host's labels; see the container's own process.
    process.set_apparmor_profile(None).set_selinux_label(None);
    let process = serde_json::to_value(&process)
        .map_err(|error| Error::invalid("process", error.to_string()))?;
    connection.reach(session::ACCEPT)?;
    connection.send(&Opening::Exec(Box::new(wire::Exec {
        container: container.to_owned(),
        process,
        token: token.clone(),
        streams: prepare::streams_of(&streams),
    })))?;
    let streams = open_streams(streams, &token)?;
    warnings.extend(created(&mut connection)?);
    Ok(Waiting { process: connection, streams })
}

/// Connects the streams of the process with this token.
pub(super) fn open_streams(
    streams: Vec<(StreamName, Connection)>,
    token: &Token,
) -> Result<Vec<(StreamName, OwnedFd)>> {
    let open = |(name, mut stream): (StreamName, Connection)| {
        stream.reach(session::ACCEPT)?;
        stream.send(&Opening::Stream(token.clone(), name))?;
        Ok((name, stream.into_stream()))
    };
    streams.into_iter().map(open).collect()
}

/// Waits until the process is there; returns the agent's warnings.
pub(super) fn created(process: &mut Connection) -> Result<Vec<String>> {
    match process.receive(session::ANSWER)? {
        Answer::Created { warnings, .. } => Ok(session::warnings(warnings)),
        Answer::Failed(error) => Err(error.into()),
        other => Err(session::out_of_turn(&other)),
    }
}

/// The jail to enter.
#[derive(Debug)]
pub(crate) struct Target<'a> {
    pub(crate) pidfd: OwnedFd,
    pub(crate) cgroup: &'a Cgroup,
    pub(crate) recorded: &'a Recorded,
}

/// Clones the stand-in of the process. It waits for a word before it has the program executed.
pub(crate) fn spawn(
    waiting: Waiting,
    target: &Target<'_>,
    terminal: Option<TerminalSize>,
    parent: Parent,
) -> Result<Born> {
    let (ours, theirs) = Channel::pair()?;
    let proof = SingleThreaded::check().context("fork", "the process")?;
    sys::process::set_dumpable(false).context("set", "non-dumpable")?;
    let cloned = clone3(&proof, 0, parent, target.cgroup.clone_target());
    match cloned.context("fork", "the process")? {
        Cloned::Child(proof) => {
            drop(ours);
            run(waiting, target, terminal, &theirs, &proof)
        }
        Cloned::Parent { pid, pidfd } => Ok(Born::new(pid, pidfd, ours, parent)),
    }
}

fn run(
    waiting: Waiting,
    target: &Target<'_>,
    terminal: Option<TerminalSize>,
    channel: &Channel,
    proof: &SingleThreaded,
) -> ! {
    let slave = enter(target, terminal, channel);
    let slave = slave.unwrap_or_else(|error| give_up(channel, &error));
    join::go_on_in_child(channel, proof).unwrap_or_else(|error| give_up(channel, &error));
    child::wait_for_start(channel);
    let ready = stand_in(waiting, target.recorded.user, slave, channel);
    let (mut attached, signals) = ready.unwrap_or_else(|error| give_up(channel, &error));
    if let Err(error) = attend::start(&mut attached) {
        give_up(channel, &error);
    }
    sys::fd::close_in_child(channel.as_fd());
    match attend::attend(attached, &signals) {
        End::Exited(status) => sys::clone::exit_now(status.into()),
        // The jail's own stand-in says why.
        End::Lost => sys::clone::exit_now(inside::LOST),
    }
}

/// Joins what the jail has; its pid namespace is for the next fork.
fn enter(
    target: &Target<'_>,
    terminal: Option<TerminalSize>,
    channel: &Channel,
) -> Result<Option<OwnedFd>> {
    const JAIL: i32 = libc::CLONE_NEWNS
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWPID;
    sys::process::overwrite_arguments(TITLE);
    sys::process::reset_signals().context("reset", "signals")?;
    target.cgroup.join()?;
    let slave = match terminal {
        None => None,
        Some(size) => {
            let (master, slave) = tty::open_inside(size.rows, size.columns)?;
            let sent = channel.send(&FromChild::Terminal, Some(master.as_fd()));
            sent.context("send", "the terminal")?;
            Some(slave)
        }
    };
    sys::process::setns(target.pidfd.as_fd(), JAIL).context("join", "the jail")?;
    nix::unistd::chdir("/")
        .map_err(|errno| crate::error::Failure { call: "chdir", errno })
        .context("enter", "the jail's root")?;
    Ok(slave)
}

/// Takes on the terminal and gives up everything else.
fn stand_in(
    waiting: Waiting,
    user: u32,
    slave: Option<OwnedFd>,
    channel: &Channel,
) -> Result<(Attached, nix::sys::signalfd::SignalFd)> {
    let Waiting { process, streams } = waiting;
    child::make_session()?;
    let terminal = slave.is_some();
    if let Some(slave) = slave {
        inside::take_slave(slave)?;
    }
    let signals = attend::signals()?;
    let mut kept = vec![channel.as_fd(), process.as_fd(), signals.as_fd()];
    kept.extend(streams.iter().map(|(_, stream)| stream.as_fd()));
    sys::fd::close_all_but(&kept, 0).context("close", "the runtime's files")?;
    inside::become_user(user)?;
    watcher::confine(watcher::Duties::StandIn)?;
    Ok((Attached { process, streams, terminal }, signals))
}
