//! Handing the listener of a filter to the agent that answers its notifications.
//!
//! The agent is a daemon of the host with a stream socket at `listenerPath`. It gets one message for each
//! connection: the container process state as JSON, and the descriptor beside its first byte.
//!
//! <https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#containerprocessstate>

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect,
    send as send_on, sendmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction};
use serde_json::{Value, json};

use crate::error::{Call, Context, Failure, Result, quote};

/// How long one step of the hand-over may take. An agent that does not accept must not hang the creation
/// of containers.
const DEADLINE_SECONDS: i64 = 10;

/// The agent that answers notifications.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notify {
    /// Its socket, in the creator's file system.
    pub(crate) path: PathBuf,
    /// `listenerMetadata`, which only the agent understands.
    pub(crate) metadata: Option<String>,
}

impl Notify {
    /// The agent of a profile that was planned before; `None` when no rule notifies.
    pub(crate) fn of(seccomp: &LinuxSeccomp) -> Option<Self> {
        let path = seccomp.listener_path().as_ref().filter(|path| !path.as_os_str().is_empty())?;
        let metadata = seccomp.listener_metadata().clone().filter(|text| !text.is_empty());
        notifies(seccomp).then(|| Self { path: path.clone(), metadata })
    }
}

/// Whether a rule of the profile notifies.
pub(super) fn notifies(seccomp: &LinuxSeccomp) -> bool {
    let rules = seccomp.syscalls().as_deref().unwrap_or_default();
    rules.iter().any(|rule| rule.action() == LinuxSeccompAction::ScmpActNotify)
}

/// Sends the listener of the process `pid` to the agent. `state` is the container's state as the `state`
/// command prints it, with the status that it has at this moment.
pub(crate) fn send(
    notify: &Notify,
    listener: BorrowedFd<'_>,
    state: Value,
    pid: i32,
) -> Result<()> {
    let message = message(notify, state, pid);
    let subject = || format!("linux.seccomp.listenerPath {}", quote(&notify.path));
    let agent = connect_to(notify).context("connect to", subject())?;
    send_all(&agent, &message, listener).context("send the listener to", subject())
}

/// The container process state.
fn message(notify: &Notify, state: Value, pid: i32) -> Vec<u8> {
    let mut message = json!({
        "ociVersion": state["ociVersion"],
        "fds": ["seccompFd"],
        "pid": pid,
        "state": state,
    });
    if let Some(metadata) = &notify.metadata {
        message["metadata"] = json!(metadata);
    }
    message.to_string().into_bytes()
}

fn connect_to(notify: &Notify) -> Result<OwnedFd, Failure> {
    let agent = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
        .call("socket")?;
    // On unix sockets this also limits how long connect waits for room in the agent's queue; a
    // non-blocking connect would fail at once instead. unix(7), socket(7).
    setsockopt(&agent, sockopt::SendTimeout, &TimeVal::seconds(DEADLINE_SECONDS))
        .call("setsockopt")?;
    let address = UnixAddr::new(&notify.path).call("connect")?;
    connect(agent.as_raw_fd(), &address).map_err(timed_out).call("connect")?;
    Ok(agent)
}

/// The whole message, the descriptor with its first part. MSG_NOSIGNAL: an agent that closes early is
/// an error of this operation and not the end of the runtime.
fn send_all(agent: &OwnedFd, message: &[u8], listener: BorrowedFd<'_>) -> Result<(), Failure> {
    let fds = [listener.as_raw_fd()];
    let mut sent = retry(|| {
        sendmsg::<()>(
            agent.as_fd().as_raw_fd(),
            &[IoSlice::new(message)],
            &[ControlMessage::ScmRights(&fds)],
            MsgFlags::MSG_NOSIGNAL,
            None,
        )
    })
    .call("sendmsg")?;
    while sent < message.len() {
        sent += retry(|| send_on(agent.as_raw_fd(), &message[sent..], MsgFlags::MSG_NOSIGNAL))
            .call("send")?;
    }
    Ok(())
}

fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            other => return other.map_err(timed_out),
        }
    }
}

/// A send that its deadline ended fails with EAGAIN, which tells an operator nothing.
fn timed_out(errno: Errno) -> Errno {
    if errno == Errno::EAGAIN { Errno::ETIMEDOUT } else { errno }
}

#[cfg(test)]
mod tests {
    use std::io::{IoSliceMut, Read};
    use std::os::unix::net::UnixListener;

    use nix::sys::socket::{ControlMessageOwned, recvmsg};

    use super::*;

    fn agent(name: &str) -> (Notify, UnixListener) {
        let path = std::env::temp_dir().join(format!("bh-notify-{}-{name}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        (Notify { path, metadata: Some("colour=blue".into()) }, listener)
    }

    #[test]
    fn the_agent_gets_state_and_descriptor() {
        let (notify, listener) = agent("get");
        let (mut reader, writer) = std::io::pipe().unwrap();
        let state = json!({"ociVersion": "1.2.0", "id": "c", "status": "creating", "pid": 7, "bundle": "/b"});
        send(&notify, writer.as_fd(), state.clone(), 7).unwrap();
        drop(writer);
        let (mut connection, _) = listener.accept().unwrap();
        let mut buffer = vec![0; 4096];
        let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
        let (read, fds) = {
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let received = recvmsg::<()>(
                connection.as_raw_fd(),
                &mut parts,
                Some(&mut space),
                MsgFlags::MSG_CMSG_CLOEXEC,
            )
            .unwrap();
            let fds: Vec<_> = received
                .cmsgs()
                .unwrap()
                .flat_map(|message| match message {
                    ControlMessageOwned::ScmRights(fds) => fds,
                    _ => Vec::new(),
                })
                .collect();
            (received.bytes, fds)
        };
        let mut rest = Vec::new();
        connection.read_to_end(&mut rest).unwrap();
        let text = [&buffer[..read], &rest[..]].concat();
        let value: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(
            value,
            json!({
                "ociVersion": "1.2.0",
                "fds": ["seccompFd"],
                "pid": 7,
                "metadata": "colour=blue",
                "state": state,
            })
        );
        assert_eq!(fds.len(), 1);
        // The received descriptor is the pipe's only writer: what is written there arrives.
        std::fs::write(format!("/proc/self/fd/{}", fds[0]), "x").unwrap();
        nix::unistd::close(fds[0]).unwrap();
        let mut byte = String::new();
        reader.read_to_string(&mut byte).unwrap();
        assert_eq!(byte, "x");
        std::fs::remove_file(&notify.path).unwrap();
    }

    #[test]
    fn a_missing_or_dead_agent_is_an_error() {
        let (notify, listener) = agent("dead");
        drop(listener);
        let (_, writer) = std::io::pipe().unwrap();
        let error = send(&notify, writer.as_fd(), json!({}), 1).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::ECONNREFUSED));
        std::fs::remove_file(&notify.path).unwrap();
        let error = send(&notify, writer.as_fd(), json!({}), 1).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::ENOENT));
        assert!(
            error.to_string().starts_with("connect to linux.seccomp.listenerPath \"/"),
            "{error}"
        );
    }
}
