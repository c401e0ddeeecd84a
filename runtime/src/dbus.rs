//! A connection to systemd, over its own socket or a message bus.
//!
//! It is for a process with one thread, once per container, on a host that may be too busy to answer: so
//! there is no thread, no event loop, and nothing waits past the connection's deadline. Why it is not a
//! crate is told in docs/decisions/0008.
//!
//! systemd's own socket (`/run/systemd/private`) speaks the protocol of a bus without being one: there is
//! no name to ask for, and signals come without being asked for. It is preferred, because many containers
//! that start at once would otherwise keep the machine's message bus busy.

pub(crate) mod gvariant;
pub(crate) mod wire;

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, getsockopt, recv, send, socket,
    sockopt,
};

use crate::error::{Call as _, Context, Error, ErrorKind, Failure, Result, quote};
use crate::service_manager::{ServiceManager, Socket};
use wire::{Call, Message, Value};

const MANAGER: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER_INTERFACE: &str = "org.freedesktop.systemd1.Manager";
const BUS: &str = "org.freedesktop.DBus";
const BUS_PATH: &str = "/org/freedesktop/DBus";

/// The kernel's credentials of the socket say who we are. An explicit uid would be that of our user
/// namespace, which the peer does not know.
const HANDSHAKE: &[u8] = b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n";

/// How long is waited for room in the queue of a socket, before it is looked at again.
const PAUSE: Duration = Duration::from_millis(5);

/// A refused call: the error's name and text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub name: String,
    pub text: String,
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
    /// The peer is systemd itself.
    direct: bool,
    place: String,
    deadline: Deadline,
    serial: u32,
    input: Vec<u8>,
}

/// When to give up.
#[derive(Clone, Copy, Debug)]
struct Deadline {
    at: Instant,
    allowed: Duration,
}

impl Deadline {
    fn after(allowed: Duration) -> Self {
        Self { at: Instant::now() + allowed, allowed }
    }

    /// For `poll(2)`; at least one millisecond, so that no wait becomes a spin.
    fn left(&self) -> Option<PollTimeout> {
        let left = self.at.checked_duration_since(Instant::now())?;
        let milliseconds = left.as_millis().clamp(1, i32::MAX as u128);
        PollTimeout::try_from(i32::try_from(milliseconds).unwrap_or(i32::MAX)).ok()
    }
}

impl Connection {
    /// Connects to the first of the manager's sockets that is there. `allowed` is for everything that
    /// is done with the connection.
    ///
    /// # Errors
    /// Every socket and why it is not used; that nobody answered in time.
    pub(crate) fn open(manager: &ServiceManager, allowed: Duration) -> Result<Self> {
        let deadline = Deadline::after(allowed);
        let mut tried = Vec::new();
        for place in &manager.sockets {
            match connect_to(place.path(), deadline) {
                Ok(socket) => return Self::greet(socket, place, deadline),
                Err(failure) => tried.push(format!("{}: {failure}", quote(place.path()))),
            }
        }
        let whose = if manager.user { "the user's systemd" } else { "systemd" };
        let hint = if manager.user {
            "; is there a session, or `loginctl enable-linger`?"
        } else {
            "; without systemd as process 1 the systemd cgroup driver cannot be used"
        };
        let reason = format!("{}{hint}", tried.join(", "));
        Err(Error::new(ErrorKind::Unsupported, "connect to", whose, reason))
    }

    fn greet(socket: OwnedFd, place: &Socket, deadline: Deadline) -> Result<Self> {
        let direct = matches!(place, Socket::Direct(_));
        let place = quote(place.path());
        let mut bus = Self { socket, direct, place, deadline, serial: 0, input: Vec::new() };
        bus.write(HANDSHAKE, "the handshake")?;
        loop {
            let line = bus.line()?;
            match line.split(' ').next() {
                Some("OK") => break,
                Some("DATA") => {}
                _ => return Err(bus.wrong(&format!("it refuses the handshake: {line:?}"))),
            }
        }
        if !direct {
            bus.send_to_bus("Hello", &[])?;
        }
        Ok(bus)
    }

    fn line(&mut self) -> Result<String> {
        loop {
            if let Some(end) = self.input.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.input.drain(..end + 2).take(end).collect();
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            if self.input.len() > 4096 {
                return Err(self.wrong("it speaks another protocol"));
            }
            self.fill("the handshake")?;
        }
    }

    /// Refuses a systemd that counts processes otherwise than the caller, who is in a pid namespace
    /// below: it would take the pids that it is told for those of others.
    pub(crate) fn check_pids(&self) -> Result<()> {
        let peer = getsockopt(&self.socket, sockopt::PeerCredentials)
            .call("getsockopt")
            .context("look at", self.subject())?;
        if peer.pid() != 0 {
            return Ok(());
        }
        let reason =
            "it is outside of this pid namespace and would move other processes than named";
        Err(Error::unsupported("use", self.subject(), reason))
    }

    /// Calls a method of systemd's manager, and returns the answer.
    pub(crate) fn call(
        &mut self,
        member: &str,
        body: &[Value],
    ) -> Result<Result<Message, Refusal>> {
        let serial = self.send_to_manager(MANAGER_INTERFACE, member, body)?;
        self.answer(serial, member)
    }

    /// As [`Self::call`], and returns only when systemd has also done what it puts off until it has
    /// answered: a second, empty call is sent along.
    pub(crate) fn call_settled(
        &mut self,
        member: &str,
        body: &[Value],
    ) -> Result<Result<Message, Refusal>> {
        let serial = self.send_to_manager(MANAGER_INTERFACE, member, body)?;
        let ping = self.send_to_manager("org.freedesktop.DBus.Peer", "Ping", &[])?;
        let answer = self.answer(serial, member)?;
        self.answer(ping, member)?.ok();
        Ok(answer)
    }

    /// Asks systemd's manager for a sign of life. Returns where it was asked.
    pub(crate) fn ping(&mut self) -> Result<Result<String, Refusal>> {
        let serial = self.send_to_manager("org.freedesktop.DBus.Peer", "Ping", &[])?;
        Ok(self.answer(serial, "Ping")?.map(|_| self.place.clone()))
    }

    /// Calls a method that begins a job of `unit`, and waits for the job's end. Returns its result,
    /// which is `done` when all went well.
    pub(crate) fn job(
        &mut self,
        unit: &str,
        member: &str,
        body: &[Value],
    ) -> Result<Result<String, Refusal>> {
        if !self.direct {
            // A bus passes on what was asked for. Only this unit's jobs: there may be many others.
            let rule = format!(
                "type='signal',sender='{MANAGER}',path='{MANAGER_PATH}',\
                 interface='{MANAGER_INTERFACE}',member='JobRemoved',arg2='{unit}'"
            );
            self.send_to_bus("AddMatch", &[Value::Text(rule)])?;
        }
        let serial = self.send_to_manager(MANAGER_INTERFACE, member, body)?;
        let mut job = None;
        // Any peer of a bus can send such a signal to us alone: it counts from who answers the call.
        let direct = self.direct;
        let named =
            |path: String, sender: String| (path, if direct { String::new() } else { sender });
        let mut ended: Vec<((String, String), String)> = Vec::new();
        loop {
            let message = self.receive(member)?;
            if message.reply_to == serial && message.kind == wire::ERROR {
                return Ok(Err(self.refusal(&message)?));
            } else if message.reply_to == serial && message.kind == wire::METHOD_RETURN {
                let path = self.words(&message)?.into_iter().next();
                job = path.map(|path| named(path, message.sender));
            } else if message.kind == wire::SIGNAL
                && message.interface == MANAGER_INTERFACE
                && message.member == "JobRemoved"
            {
                // Number, path, unit, result.
                if let [_, path, of, result] = self.words(&message)?.as_slice()
                    && of == unit
                {
                    ended.push((named(path.clone(), message.sender), result.clone()));
                }
            }
            if let Some((_, result)) = ended.iter().find(|(name, _)| Some(name) == job.as_ref()) {
                return Ok(Ok(result.clone()));
            }
        }
    }

    fn answer(&mut self, serial: u32, member: &str) -> Result<Result<Message, Refusal>> {
        loop {
            let message = self.receive(member)?;
            match message.kind {
                wire::METHOD_RETURN if message.reply_to == serial => return Ok(Ok(message)),
                wire::ERROR if message.reply_to == serial => {
                    return Ok(Err(self.refusal(&message)?));
                }
                _ => {}
            }
        }
    }

    fn refusal(&self, message: &Message) -> Result<Refusal> {
        let text = self.words(message)?.into_iter().next().unwrap_or_default();
        Ok(Refusal { name: message.error.clone(), text })
    }

    fn words(&self, message: &Message) -> Result<Vec<String>> {
        message.words().map_err(|_| self.wrong("it sent a malformed message"))
    }

    fn send_to_manager(&mut self, interface: &str, member: &str, body: &[Value]) -> Result<u32> {
        let destination = (!self.direct).then_some(MANAGER);
        self.send(&Call { destination, path: MANAGER_PATH, interface, member, body })
    }

    fn send_to_bus(&mut self, member: &str, body: &[Value]) -> Result<u32> {
        self.send(&Call { destination: Some(BUS), path: BUS_PATH, interface: BUS, member, body })
    }

    fn send(&mut self, call: &Call<'_>) -> Result<u32> {
        self.serial += 1;
        self.write(&call.write(self.serial), call.member)?;
        Ok(self.serial)
    }

    fn receive(&mut self, what: &str) -> Result<Message> {
        loop {
            match Message::take(&mut self.input) {
                Ok(Some(message)) => return Ok(message),
                Ok(None) => self.fill(what)?,
                Err(_) => return Err(self.wrong("it sent a malformed message")),
            }
        }
    }

    fn write(&self, mut bytes: &[u8], what: &str) -> Result<()> {
        while !bytes.is_empty() {
            match send(self.socket.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => self.wait(PollFlags::POLLOUT, what)?,
                Err(errno) => return Err(errno).call("send").context("tell", self.subject()),
            }
        }
        Ok(())
    }

    /// Reads what there is; waits until there is something. A peer that never stops gets no more time
    /// than one that is silent.
    fn fill(&mut self, what: &str) -> Result<()> {
        if self.deadline.left().is_none() {
            return Err(self.late(what));
        }
        let mut bytes = [0; 4096];
        loop {
            match recv(self.socket.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
                Ok(0) => return Err(self.wrong(&format!("it closed the connection at {what}"))),
                Ok(count) => {
                    self.input.extend(&bytes[..count]);
                    return Ok(());
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => self.wait(PollFlags::POLLIN, what)?,
                Err(errno) => return Err(errno).call("recv").context("hear from", self.subject()),
            }
        }
    }

    fn wait(&self, flags: PollFlags, what: &str) -> Result<()> {
        let mut polled = [PollFd::new(self.socket.as_fd(), flags)];
        while let Some(left) = self.deadline.left() {
            match nix::poll::poll(&mut polled, left) {
                Ok(0) | Err(Errno::EINTR) => {}
                result => {
                    return result.map(drop).call("poll").context("wait for", self.subject());
                }
            }
        }
        Err(self.late(what))
    }

    fn late(&self, what: &str) -> Error {
        let seconds = self.deadline.allowed.as_secs_f32();
        self.wrong(&format!("no answer to {what} within {seconds} s"))
    }

    fn subject(&self) -> String {
        format!("systemd at {}", self.place)
    }

    fn wrong(&self, reason: &str) -> Error {
        Error::new(ErrorKind::System, "ask", self.subject(), reason)
    }
}

/// A connected socket that never blocks. `@` begins the name of an abstract one.
fn connect_to(path: &Path, deadline: Deadline) -> Result<OwnedFd, Failure> {
    let bytes = path.as_os_str().as_encoded_bytes();
    let address = match bytes.strip_prefix(b"@") {
        Some(name) => UnixAddr::new_abstract(name),
        None => UnixAddr::new(path),
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None).call("socket")?;
    let address = address.call("connect")?;
    loop {
        match connect(socket.as_raw_fd(), &address) {
            // Its queue is full of others.
            Err(Errno::EAGAIN) if deadline.left().is_some() => std::thread::sleep(PAUSE),
            Err(Errno::EINTR) => {}
            result => return result.call("connect").map(|()| socket),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::PathBuf;
    use std::thread;

    use super::*;

    const SHORT: Duration = Duration::from_millis(200);

    fn place(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("bulkhead-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        path
    }

    fn manager(sockets: Vec<Socket>) -> ServiceManager {
        ServiceManager { user: false, sockets }
    }

    /// Reads until the handshake's end, and agrees.
    fn accept(listener: &UnixListener) -> UnixStream {
        let (mut peer, _) = listener.accept().unwrap();
        let mut heard = vec![0; HANDSHAKE.len()];
        peer.read_exact(&mut heard).unwrap();
        assert_eq!(heard, HANDSHAKE);
        peer.write_all(b"DATA\r\nOK 0123\r\n").unwrap();
        peer
    }

    #[test]
    fn a_missing_socket_is_passed_over_and_all_are_named() {
        let (gone, there) = (place("dbus-gone"), place("dbus-there"));
        let listener = UnixListener::bind(&there).unwrap();
        let peer = thread::spawn(move || accept(&listener));
        let both = manager(vec![Socket::Direct(gone.clone()), Socket::Direct(there.clone())]);
        Connection::open(&both, SHORT).unwrap();
        peer.join().unwrap();
        std::fs::remove_file(&there).unwrap();
        let error = Connection::open(&both, SHORT).unwrap_err().to_string();
        for part in ["dbus-gone", "dbus-there", "ENOENT", "process 1"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn silence_ends_with_the_deadline_and_the_call() {
        let path = place("dbus-silent");
        let listener = UnixListener::bind(&path).unwrap();
        let silent = manager(vec![Socket::Direct(path.clone())]);
        let before = Instant::now();
        let error = Connection::open(&silent, SHORT).unwrap_err().to_string();
        assert!(error.contains("no answer to the handshake within 0.2 s"), "{error}");
        let (_unanswered, _) = listener.accept().unwrap();
        let peer = thread::spawn(move || accept(&listener));
        let mut bus = Connection::open(&silent, SHORT).unwrap();
        let _peer = peer.join().unwrap();
        let error = bus.call("GetUnit", &[]).unwrap_err().to_string();
        assert!(error.contains("no answer to GetUnit within 0.2 s"), "{error}");
        assert!(before.elapsed() < Duration::from_secs(5));
        std::fs::remove_file(path).unwrap();
    }

    /// Writes the same again and again, until the other end is gone.
    fn flood(mut peer: UnixStream, bytes: &[u8]) {
        while peer.write_all(bytes).is_ok() {}
    }

    fn job_removed(sender: &str, result: &str) -> Vec<u8> {
        let fields = vec![
            (1, Value::Path(MANAGER_PATH.to_owned())),
            (2, Value::text(MANAGER_INTERFACE)),
            (3, Value::text("JobRemoved")),
            (7, Value::text(sender)),
        ];
        let job = Value::Path("/job/1".to_owned());
        let body = [Value::U32(1), job, Value::text("x.scope"), Value::text(result)];
        wire::message(wire::SIGNAL, 9, fields, &body)
    }

    #[test]
    fn a_peer_that_never_stops_is_given_up_at_the_deadline() {
        let path = place("dbus-flood");
        let listener = UnixListener::bind(&path).unwrap();
        let there = manager(vec![Socket::Direct(path.clone())]);
        let peer = thread::spawn(move || {
            flood(listener.accept().unwrap().0, b"DATA\r\n");
            flood(accept(&listener), &job_removed(":1.1", "done"));
        });
        let before = Instant::now();
        let error = Connection::open(&there, SHORT).unwrap_err().to_string();
        assert!(error.contains("no answer to the handshake within 0.2 s"), "{error}");
        let mut bus = Connection::open(&there, SHORT).unwrap();
        let error = bus.job("x.scope", "StopUnit", &[]).unwrap_err().to_string();
        assert!(error.contains("no answer to StopUnit within 0.2 s"), "{error}");
        assert!(before.elapsed() < Duration::from_secs(10));
        drop(bus);
        peer.join().unwrap();
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn the_end_of_a_job_is_believed_from_systemd_alone() {
        let path = place("dbus-forged");
        let listener = UnixListener::bind(&path).unwrap();
        let result = |socket: Socket| {
            thread::scope(|scope| {
                let peer = scope.spawn(|| {
                    let mut peer = accept(&listener);
                    // On a bus two calls to the bus itself come before.
                    let serial = if matches!(socket, Socket::Bus(_)) { 3 } else { 1 };
                    let fields = vec![(5, Value::U32(serial)), (7, Value::text(":1.1"))];
                    let job = [Value::Path("/job/1".to_owned())];
                    peer.write_all(&job_removed(":1.66", "failed")).unwrap();
                    peer.write_all(&wire::message(wire::METHOD_RETURN, 8, fields, &job)).unwrap();
                    peer.write_all(&job_removed(":1.66", "failed")).unwrap();
                    peer.write_all(&job_removed(":1.1", "done")).unwrap();
                    peer
                });
                let allowed = Duration::from_secs(10);
                let mut bus = Connection::open(&manager(vec![socket.clone()]), allowed).unwrap();
                let _peer = peer.join().unwrap();
                bus.job("x.scope", "StopUnit", &[]).unwrap().unwrap()
            })
        };
        assert_eq!(result(Socket::Bus(path.clone())), "done");
        // Nobody else is at the other end of systemd's own socket.
        assert_eq!(result(Socket::Direct(path.clone())), "failed");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_refused_handshake_and_a_lost_connection_are_named() {
        let path = place("dbus-refusing");
        let listener = UnixListener::bind(&path).unwrap();
        let there = manager(vec![Socket::Direct(path.clone())]);
        let peer = thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            peer.write_all(b"REJECTED EXTERNAL\r\n").unwrap();
            drop(accept(&listener));
        });
        let error = Connection::open(&there, SHORT).unwrap_err().to_string();
        assert!(error.contains("REJECTED EXTERNAL"), "{error}");
        let mut bus = Connection::open(&there, SHORT).unwrap();
        peer.join().unwrap();
        let error = bus.call("GetUnit", &[]).unwrap_err().to_string();
        assert!(error.contains("closed the connection") || error.contains("EPIPE"), "{error}");
        std::fs::remove_file(path).unwrap();
    }
}
