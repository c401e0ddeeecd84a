//! A guest's kernel, as far as the server sees it: messages over a socket.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};

use super::Directory;
use crate::message::{LARGEST, opcode};
use crate::server::Server;

/// What the tests' guest offers in `FUSE_INIT`.
const OFFERED: u32 = u32::MAX;

/// A message's body.
#[derive(Clone, Debug, Default)]
pub(crate) struct Words(pub(crate) Vec<u8>);

impl Words {
    pub(crate) fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    pub(crate) fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    /// With NUL.
    pub(crate) fn text(mut self, text: &str) -> Self {
        self.0.extend(text.as_bytes());
        self.0.push(0);
        self
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }
}

pub(crate) fn words() -> Words {
    Words::default()
}

/// An answer's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer(pub(crate) Vec<u8>);

impl Answer {
    pub(crate) fn u32(&self, at: usize) -> u32 {
        u32::from_ne_bytes(*self.0[at..].first_chunk().unwrap())
    }

    pub(crate) fn u64(&self, at: usize) -> u64 {
        u64::from_ne_bytes(*self.0[at..].first_chunk().unwrap())
    }

    /// Of a `fuse_entry_out`.
    pub(crate) fn node(&self) -> u64 {
        self.u64(0)
    }

    /// Inode, mode, links, owner and group of a `fuse_entry_out`.
    pub(crate) fn attributes(&self) -> (u64, u32, u32, u32, u32) {
        (self.u64(40), self.u32(100), self.u32(104), self.u32(108), self.u32(112))
    }
}

/// A guest, and the directory that it is served.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) directory: Directory,
    socket: Option<OwnedFd>,
    server: Option<JoinHandle<crate::Result<()>>>,
    unique: u64,
    /// Whom the requests are from.
    pub(crate) user: (u32, u32),
}

impl Client {
    /// Served by a confined thread, after `FUSE_INIT`.
    pub(crate) fn new() -> Self {
        Self::with_limit(100_000)
    }

    pub(crate) fn with_limit(limit: usize) -> Self {
        let mut client = Self::silent(limit);
        let answer = client.ask(opcode::INIT, 0, words().u32(7).u32(37).u32(1 << 20).u32(OFFERED));
        assert_eq!(answer.unwrap().u32(20), 128 << 10);
        client
    }

    /// Has said nothing yet.
    pub(crate) fn silent(limit: usize) -> Self {
        let directory = Directory::new();
        let flags = SockFlag::SOCK_CLOEXEC;
        let (socket, its) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
        let path = directory.path().to_owned();
        let server = std::thread::spawn(move || {
            // Umask and working directory are those of a process, and here of a thread.
            unshare(CloneFlags::CLONE_FS).unwrap();
            let mut server = Server::open(&path, limit)?;
            server.confine()?;
            server.serve(its.as_fd())
        });
        let (socket, server) = (Some(socket), Some(server));
        Self { directory, socket, server, unique: 1, user: (0, 0) }
    }

    fn header(&mut self, opcode: u32, node: u64, body: &[u8]) -> Vec<u8> {
        self.unique += 2;
        let (uid, gid) = self.user;
        let start = words().u32(40 + body.len() as u32).u32(opcode).u64(self.unique).u64(node);
        start.u32(uid).u32(gid).u64(0).bytes(body).0
    }

    /// Sends a message that is not answered.
    pub(crate) fn tell(&mut self, opcode: u32, node: u64, body: Words) {
        let packet = self.header(opcode, node, &body.0);
        send(self.fd(), &packet, MsgFlags::MSG_NOSIGNAL).unwrap();
    }

    fn fd(&self) -> i32 {
        self.socket.as_ref().unwrap().as_raw_fd()
    }

    /// Sends a request, and takes its answer.
    pub(crate) fn ask(&mut self, opcode: u32, node: u64, body: Words) -> Result<Answer, Errno> {
        self.tell(opcode, node, body);
        let mut packet = vec![0; LARGEST + 1];
        let length = recv(self.fd(), &mut packet, MsgFlags::empty()).unwrap();
        assert!((16..=LARGEST).contains(&length), "{opcode}: {length}");
        let header = Answer(packet[..16].to_vec());
        assert_eq!((header.u32(0), header.u64(8)), (length as u32, self.unique));
        match header.u32(4) as i32 {
            0 => Ok(Answer(packet[16..length].to_vec())),
            error => {
                assert_eq!(length, 16);
                Err(Errno::from_raw(-error))
            }
        }
    }

    /// Sends bytes, whatever they are.
    pub(crate) fn send(&self, packet: &[u8]) {
        let _ = send(self.fd(), packet, MsgFlags::MSG_NOSIGNAL);
    }

    /// Closes the socket; answers what the server ended with.
    pub(crate) fn end(&mut self) -> crate::Result<()> {
        self.socket = None;
        self.server.take().unwrap().join().unwrap()
    }

    pub(crate) fn lookup(&mut self, directory: u64, name: &str) -> Result<Answer, Errno> {
        self.ask(opcode::LOOKUP, directory, words().text(name))
    }

    /// Opens a file for `flags`; answers the number of the open file.
    pub(crate) fn open(&mut self, node: u64, flags: i32) -> Result<u64, Errno> {
        let body = words().u32(flags as u32).u32(0);
        self.ask(opcode::OPEN, node, body).map(|answer| answer.u64(0))
    }

    /// Makes a file and opens it; answers its numbers.
    pub(crate) fn create(
        &mut self,
        directory: u64,
        name: &str,
        flags: i32,
        mode: u32,
    ) -> Result<(u64, u64), Errno> {
        let body = words().u32(flags as u32).u32(mode).u32(0o022).u32(0).text(name);
        let answer = self.ask(opcode::CREATE, directory, body)?;
        Ok((answer.node(), answer.u64(128)))
    }

    pub(crate) fn read(
        &mut self,
        node: u64,
        file: u64,
        offset: u64,
        size: u32,
    ) -> Result<Vec<u8>, Errno> {
        let body = words().u64(file).u64(offset).u32(size).u32(0).u64(0).u64(0);
        self.ask(opcode::READ, node, body).map(|answer| answer.0)
    }

    pub(crate) fn write(
        &mut self,
        node: u64,
        file: u64,
        offset: u64,
        flags: u32,
        data: &[u8],
    ) -> Result<u32, Errno> {
        let body = words().u64(file).u64(offset).u32(data.len() as u32).u32(flags).u64(0).u64(0);
        self.ask(opcode::WRITE, node, body.bytes(data)).map(|answer| answer.u32(0))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if self.server.is_some() && !std::thread::panicking() {
            self.end().unwrap();
        }
    }
}
