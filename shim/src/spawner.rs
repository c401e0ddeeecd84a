//! The process that forks on the shim's behalf.
//!
//! The shim has threads, and a process with threads must not fork and go on as ordinary code. So
//! before its first thread it forks the *spawner*, which has one and keeps one. For each request the
//! spawner forks a *worker* with `CLONE_PARENT`, the shim's own child, and the worker calls the
//! library, which clones the container's process with `CLONE_PARENT` again: so that is the shim's
//! child too, and the shim gets its exit status. The worker answers and ends.
//!
//! A slow request (a hook that sleeps, a cold image) holds up no other, nothing of one container
//! stays in memory that the next one's worker has, and a worker that crashes is one failed request.
//!
//! ```text
//!    shim ── fork ──▶ spawner                       (once, before the shim's threads)
//!      │  connection, stdin, stdout, stderr ──▶ │
//!      │                                        └─ fork ──▶ worker
//!      │ ── request ───────────────────────────────────────▶ │ runtime::Container::...
//!      │ ◀─────────────────── reply, pidfd, terminal ─────── │
//! ```
//!
//! The spawner ends when the shim does: its socket is at its end.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use containerd_shim_protos::ttrpc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use runtime::{Call, Context, Forked, Parent};

use crate::code;
use crate::work::{self, Reply, Request};

/// A request goes with its connection and three standard streams.
const DESCRIPTORS: usize = 4;
/// The longest reply: an error's text and warnings.
const LONGEST_REPLY: u64 = 1 << 20;

/// The shim's end.
#[derive(Debug)]
pub struct Spawner {
    socket: OwnedFd,
}

/// What a worker has done.
#[derive(Debug)]
pub struct Done {
    /// The pid of a process that was made; 0 for requests that make none.
    pub pid: i32,
    /// Its pidfd, then its terminal.
    pub fds: Vec<OwnedFd>,
    /// Warnings of the library.
    pub warnings: Vec<String>,
}

impl Spawner {
    /// Forks the spawner. The calling process must have one thread yet.
    ///
    /// # Errors
    /// Those of `fork`.
    pub fn start() -> runtime::Result<Self> {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .call("socketpair")
                .context("make", "the spawner's socket")?;
        match runtime::fork(Parent::Caller)? {
            Forked::Child => {
                // The listener above all: a client could connect to it when the shim is gone.
                if runtime::close_all_but(&[theirs.as_fd()]).is_err() {
                    runtime::leave(1)
                }
                let _ = nix::sys::prctl::set_name(c"shim-spawner");
                serve(theirs)
            }
            Forked::Parent(..) => Ok(Self { socket: ours }),
        }
    }

    /// Has a worker carry out `request` with these standard streams.
    ///
    /// # Errors
    /// The worker's, with the code that callers know; `Unavailable` when it has died.
    pub fn call(&self, request: &Request, stdio: [BorrowedFd<'_>; 3]) -> ttrpc::Result<Done> {
        self.exchange(request, stdio).map_err(|error| code::answer(&error))?.outcome()
    }

    fn exchange(
        &self,
        request: &Request,
        [stdin, stdout, stderr]: [BorrowedFd<'_>; 3],
    ) -> runtime::Result<Received> {
        const WORKER: &str = "the shim's worker";
        let request = serde_json::to_vec(request).expect("requests have string keys");
        let (mut ours, theirs) = UnixStream::pair().call("socketpair").context("ask", WORKER)?;
        let fds = [theirs.as_fd(), stdin, stdout, stderr];
        runtime::send_message(self.socket.as_fd(), b"w", &fds).context("ask", WORKER)?;
        drop(theirs);
        // A worker that could not be forked reads nothing, and has said why.
        let _ = ours.write_all(&request);
        let _ = ours.shutdown(Shutdown::Write);
        let mut text = vec![0; 64 * 1024];
        let (length, fds) =
            runtime::receive_message(ours.as_fd(), &mut text).context("hear from", WORKER)?;
        text.truncate(length);
        ours.take(LONGEST_REPLY)
            .read_to_end(&mut text)
            .call("read")
            .context("hear from", WORKER)?;
        Ok(Received { text, fds })
    }
}

/// A worker's answer as it came.
struct Received {
    text: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Received {
    fn outcome(self) -> ttrpc::Result<Done> {
        let died = |reason: &str| {
            let text = format!("the shim's worker {reason}");
            code::status(ttrpc::Code::UNAVAILABLE, text)
        };
        if self.text.is_empty() {
            return Err(died("ended without an answer (killed, or out of memory?)"));
        }
        let reply: Reply =
            serde_json::from_slice(&self.text).map_err(|error| died(&error.to_string()))?;
        let Reply { outcome, warnings } = reply;
        let pid = outcome.map_err(work::Failed::into_rpc)?;
        Ok(Done { pid, fds: self.fds, warnings })
    }
}

/// Forks a worker for every message, until the shim is gone.
fn serve(socket: OwnedFd) -> ! {
    loop {
        let mut byte = [0];
        let Ok((1, fds)) = runtime::receive_message(socket.as_fd(), &mut byte) else {
            runtime::leave(0)
        };
        let Ok([connection, stdin, stdout, stderr]) = <[OwnedFd; DESCRIPTORS]>::try_from(fds)
        else {
            // The kernel had no room for them in our table; the connection is closed unanswered.
            continue;
        };
        let connection = UnixStream::from(connection);
        match runtime::fork(Parent::Callers) {
            Ok(Forked::Child) => {
                drop(socket);
                work::run(connection, [stdin, stdout, stderr])
            }
            Ok(Forked::Parent(..)) => {}
            Err(error) => work::refuse(&connection, &error),
        }
    }
}
