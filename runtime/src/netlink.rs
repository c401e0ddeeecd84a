//! Messages to the kernel's network configuration. rtnetlink(7), netlink(7).
//!
//! Three requests are all that is needed here (a link's move, the list of links, addresses read and
//! written again unchanged), so the format is written out instead of taken from a crate that knows all of
//! it: a crate's types would lose the attributes of an address that they do not know.
//!
//! ```text
//! message    length u32, type u16, flags u16, sequence u32, port u32    16 bytes
//!            a fixed header, by type: ifinfomsg 16 bytes, ifaddrmsg 8
//!            attributes
//! attribute  length u16 with these 4 bytes, type u16, payload, zeroes up to a multiple of 4
//! ```
//!
//! All numbers are in the byte order of the machine. The answer is a list of messages that ends with
//! `NLMSG_DONE`, or with `NLMSG_ERROR`, whose number is 0 for success. In a namespace that is joined
//! others may send to our socket too, so only what the kernel says (port 0) is heard.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recvfrom, send,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::error::{Call, Failure, Result};

/// The kernel answers while it takes the question; this is for a lock that somebody else has.
const DEADLINE: TimeVal = TimeVal::new(10, 0);

/// The kernel fills buffers of at most 32 KiB, and one message is far shorter.
const BUFFER: usize = 64 * 1024;

/// How often a list is asked for again that was changed while it was read.
const ATTEMPTS: u32 = 10;

/// Of every message.
const HEADER: usize = 16;

/// A message to send.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

impl Request {
    /// Changes something. `header` is the fixed header of this type.
    pub(crate) fn change(kind: u16, flags: i32, header: &[u8]) -> Self {
        Self::new(kind, flags | libc::NLM_F_ACK, header)
    }

    /// Asks for a list.
    pub(crate) fn list(kind: u16, header: &[u8]) -> Self {
        Self::new(kind, libc::NLM_F_DUMP, header)
    }

    /// Asks for one thing.
    pub(crate) fn one(kind: u16, header: &[u8]) -> Self {
        Self::new(kind, libc::NLM_F_ACK, header)
    }

    fn new(kind: u16, flags: i32, header: &[u8]) -> Self {
        let flags = u16::try_from(flags | libc::NLM_F_REQUEST).expect("flags have 16 bits");
        Self { kind, flags, body: header.to_vec() }
    }

    /// Adds an attribute.
    pub(crate) fn with(mut self, kind: u16, payload: &[u8]) -> Self {
        let length = u16::try_from(payload.len() + 4).expect("names and numbers are short");
        self.body.extend_from_slice(&length.to_ne_bytes());
        self.body.extend_from_slice(&kind.to_ne_bytes());
        self.body.extend_from_slice(payload);
        self.body.resize(self.body.len().next_multiple_of(4), 0);
        self
    }

    fn bytes(&self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(HEADER + self.body.len()).expect("messages are short");
        let mut bytes = Vec::with_capacity(HEADER + self.body.len());
        bytes.extend_from_slice(&length.to_ne_bytes());
        bytes.extend_from_slice(&self.kind.to_ne_bytes());
        bytes.extend_from_slice(&self.flags.to_ne_bytes());
        bytes.extend_from_slice(&sequence.to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.body);
        bytes
    }

    #[cfg(test)]
    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }

    fn is_list(&self) -> bool {
        i32::from(self.flags) & libc::NLM_F_DUMP == libc::NLM_F_DUMP
    }
}

/// A socket of the network namespace that it was opened in, which it keeps alive.
#[derive(Debug)]
pub(crate) struct Socket(OwnedFd);

impl Socket {
    /// Opens one in the caller's network namespace.
    pub(crate) fn open() -> Result<Self, Failure> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let protocol = SockProtocol::NetlinkRoute;
        socket(AddressFamily::Netlink, SockType::Raw, flags, protocol).call("socket").map(Self)
    }

    /// Takes one that another process has opened.
    pub(crate) fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Sends a request and returns the bodies of the answers; `call` names it in the error.
    pub(crate) fn ask(
        &self,
        request: &Request,
        call: &'static str,
    ) -> Result<Vec<Vec<u8>>, Failure> {
        setsockopt(&self.0, sockopt::ReceiveTimeout, &DEADLINE).call("setsockopt")?;
        for sequence in 1..=ATTEMPTS {
            send(self.0.as_raw_fd(), &request.bytes(sequence), MsgFlags::empty()).call("send")?;
            let mut answers = Answers::new(sequence);
            while !answers.complete {
                answers.read(&self.receive()?).map_err(|errno| Failure { call, errno })?;
            }
            if !(request.is_list() && answers.interrupted) {
                return Ok(answers.bodies);
            }
        }
        Err(Failure { call, errno: Errno::EAGAIN })
    }

    /// The kernel's next datagram.
    fn receive(&self) -> Result<Vec<u8>, Failure> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let (length, from) = match recvfrom::<NetlinkAddr>(self.0.as_raw_fd(), &mut buffer) {
                Err(Errno::EINTR) => continue,
                other => other.call("recvfrom")?,
            };
            if from.is_some_and(|from| from.pid() == 0) {
                buffer.truncate(length);
                return Ok(buffer);
            }
        }
    }
}

/// What was answered to one request.
#[derive(Debug, Default)]
struct Answers {
    sequence: u32,
    bodies: Vec<Vec<u8>>,
    complete: bool,
    /// The list changed while it was read.
    interrupted: bool,
}

impl Answers {
    fn new(sequence: u32) -> Self {
        Self { sequence, ..Self::default() }
    }

    /// Takes the messages of one datagram.
    fn read(&mut self, mut datagram: &[u8]) -> std::result::Result<(), Errno> {
        while !datagram.is_empty() {
            let length = number(datagram, 0).ok_or(Errno::EBADMSG)? as usize;
            let message = datagram.get(..length).filter(|message| message.len() >= HEADER);
            let message = message.ok_or(Errno::EBADMSG)?;
            datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
            // Of an earlier request, whose list was left.
            if number(message, 8) == Some(self.sequence) {
                self.take(message)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, message: &[u8]) -> std::result::Result<(), Errno> {
        let half = |at: usize| {
            message.get(at..at + 2).and_then(|b| Some(u16::from_ne_bytes(b.try_into().ok()?)))
        };
        let kind = i32::from(half(4).ok_or(Errno::EBADMSG)?);
        let flags = i32::from(half(6).ok_or(Errno::EBADMSG)?);
        self.interrupted |= flags & libc::NLM_F_DUMP_INTR != 0;
        if kind == libc::NLMSG_ERROR || kind == libc::NLMSG_DONE {
            self.complete = true;
            // A list that ends well may lack the number.
            return match number(message, HEADER).unwrap_or(0) as i32 {
                0 => Ok(()),
                error => Err(Errno::from_raw(error.wrapping_neg())),
            };
        }
        self.bodies.push(message[HEADER..].to_vec());
        Ok(())
    }
}

/// The 32-bit number at a place, if there is one.
pub(crate) fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The attributes behind a fixed header of `header` bytes: type and payload. What is malformed ends the
/// list.
pub(crate) fn attributes(body: &[u8], header: usize) -> Vec<(u16, &[u8])> {
    /// Flags in the type, of `linux/netlink.h`.
    const NLA_TYPE_MASK: u16 = 0x3fff;
    let mut rest = body.get(header..).unwrap_or_default();
    let mut all = Vec::new();
    while let [a, b, c, d, ..] = *rest {
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let Some(payload) = rest.get(4..length) else { break };
        all.push((u16::from_ne_bytes([c, d]) & NLA_TYPE_MASK, payload));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_laid_out_as_the_kernel_reads_it() {
        let request = Request::change(0x1234, 0, &[9; 4]).with(3, b"eth0\0");
        let mut wanted = Vec::new();
        wanted.extend_from_slice(&(16u32 + 4 + 12).to_ne_bytes());
        wanted.extend_from_slice(&0x1234u16.to_ne_bytes());
        wanted.extend_from_slice(&5u16.to_ne_bytes());
        wanted.extend_from_slice(&7u32.to_ne_bytes());
        wanted.extend_from_slice(&[0, 0, 0, 0, 9, 9, 9, 9]);
        wanted.extend_from_slice(&9u16.to_ne_bytes());
        wanted.extend_from_slice(&3u16.to_ne_bytes());
        wanted.extend_from_slice(b"eth0\0\0\0\0");
        assert_eq!(request.bytes(7), wanted);
        assert_eq!(attributes(&wanted[16..], 4), [(3, &b"eth0\0"[..])]);
    }

    fn message(kind: i32, flags: i32, sequence: u32, body: &[u8]) -> Vec<u8> {
        let request = Request { kind: kind as u16, flags: flags as u16, body: body.to_vec() };
        let mut bytes = request.bytes(sequence);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn answers_end_with_done_or_an_error() {
        let mut answers = Answers::new(2);
        let first = [message(16, 2, 2, b"abcd"), message(16, 2, 1, b"old!")].concat();
        answers.read(&first).unwrap();
        assert!(!answers.complete);
        answers.read(&message(libc::NLMSG_DONE, 2, 2, &[0; 4])).unwrap();
        assert!(answers.complete && !answers.interrupted);
        assert_eq!(answers.bodies, [b"abcd".to_vec()]);
        let error = message(libc::NLMSG_ERROR, 0, 1, &(-19i32).to_ne_bytes());
        assert_eq!(Answers::new(1).read(&error), Err(Errno::ENODEV));
        let changed = message(16, libc::NLM_F_DUMP_INTR, 1, b"");
        let mut answers = Answers::new(1);
        answers.read(&changed).unwrap();
        assert!(answers.interrupted);
    }

    #[test]
    fn what_is_malformed_is_an_error_or_nothing() {
        let whole = message(16, 0, 1, b"abcd");
        for cut in 1..whole.len() {
            assert_eq!(Answers::new(1).read(&whole[..cut]), Err(Errno::EBADMSG), "{cut}");
        }
        let mut short = whole.clone();
        short[..4].copy_from_slice(&3u32.to_ne_bytes());
        assert_eq!(Answers::new(1).read(&short), Err(Errno::EBADMSG));
        for bytes in [&[][..], &[1], &[0; 4], &[255; 8], &[3, 0, 1, 0]] {
            assert_eq!(attributes(bytes, 0), [], "{bytes:?}");
        }
        assert_eq!(attributes(&[0; 2], 8), []);
    }

    #[test]
    fn the_kernel_answers() {
        let socket = Socket::open().unwrap();
        let links = socket.ask(&Request::list(libc::RTM_GETLINK, &[0; 16]), "RTM_GETLINK").unwrap();
        let is_lo =
            |body: &Vec<u8>| attributes(body, 16).contains(&(libc::IFLA_IFNAME, &b"lo\0"[..]));
        assert!(links.iter().any(is_lo), "{links:?}");
        let absent = Request::one(libc::RTM_GETLINK, &[0; 16]).with(libc::IFLA_IFNAME, b"nosuch\0");
        let failure = socket.ask(&absent, "RTM_GETLINK").unwrap_err();
        assert_eq!(failure, Failure { call: "RTM_GETLINK", errno: Errno::ENODEV });
    }
}
