//! The socket device: a host's program on one side, a driver that is the guest on the other.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::config::{Port, Vsock};
use crate::devices::vsock::Socket;
use crate::devices::vsock::op;
use crate::testing::driver::{DATA, Driver, readable, writable};

pub(super) const CID: u64 = 3;
const RECEIVE: usize = 0;
const SEND: usize = 1;
pub(super) const HOST_PORT: u32 = (1 << 30) + 1;

/// A packet, as a guest sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) from: (u64, u32),
    pub(super) to: (u64, u32),
    pub(super) kind: u16,
    pub(super) op: u16,
    pub(super) flags: u32,
    pub(super) room: u32,
    pub(super) taken: u32,
    pub(super) data: Vec<u8>,
}

impl Packet {
    /// From the guest's port 1024 to the first connection's.
    pub(super) fn new(op: u16, data: &[u8]) -> Self {
        Self {
            from: (CID, 1024),
            to: (2, HOST_PORT),
            kind: 1,
            op,
            flags: 0,
            room: 1 << 20,
            taken: 0,
            data: data.to_vec(),
        }
    }

    fn header(&self) -> Vec<u8> {
        [
            &self.from.0.to_le_bytes()[..],
            &self.to.0.to_le_bytes(),
            &self.from.1.to_le_bytes(),
            &self.to.1.to_le_bytes(),
            &(self.data.len() as u32).to_le_bytes(),
            &self.kind.to_le_bytes(),
            &self.op.to_le_bytes(),
            &self.flags.to_le_bytes(),
            &self.room.to_le_bytes(),
            &self.taken.to_le_bytes(),
        ]
        .concat()
    }
}

pub(super) struct Guest {
    pub(super) driver: Driver,
    pub(super) path: PathBuf,
    /// How many buffers were given, and how many of them looked at.
    offered: u16,
    seen: u16,
    sent: u64,
}

impl Guest {
    fn new() -> Self {
        Self::with(false)
    }

    /// A guest whose driver rings always, or only when it is asked to.
    fn with(event_index: bool) -> Self {
        Self::with_ports(event_index, Vec::new())
    }

    /// A guest that can connect to `ports`.
    pub(super) fn with_ports(event_index: bool, ports: Vec<Port>) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("vmm-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        let listener = UnixListener::bind(&path).unwrap();
        let socket = Socket::new(Vsock { cid: CID as u32, listener, ports }).unwrap();
        Self {
            driver: Driver::working_with(socket, event_index),
            path,
            offered: 0,
            seen: 0,
            sent: 0,
        }
    }

    /// Sets the device up once more, with nothing sent or received.
    pub(super) fn set_up_again(&mut self) {
        (self.offered, self.seen) = (0, 0);
        self.driver.set_up();
    }

    /// Where buffer `number` is.
    fn place(number: u16) -> u64 {
        DATA + 0x2_0000 * u64::from(number % 8)
    }

    /// The next packet to the guest, if one has come.
    fn packet(&mut self) -> Option<Packet> {
        if self.driver.count(RECEIVE) == self.seen {
            return None;
        }
        let (_, length) = self.driver.entry(RECEIVE, self.seen);
        let at = Self::place(self.seen);
        self.seen += 1;
        assert!(length >= 44);
        let bytes = self.driver.peek(at, length as usize);
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!(u32_at(24) as usize, bytes.len() - 44, "length");
        Some(Packet {
            from: (u64_at(0), u32_at(16)),
            to: (u64_at(8), u32_at(20)),
            kind: u16::from_le_bytes([bytes[28], bytes[29]]),
            op: u16::from_le_bytes([bytes[30], bytes[31]]),
            flags: u32_at(32),
            room: u32_at(36),
            taken: u32_at(40),
            data: bytes[44..].to_vec(),
        })
    }

    /// The next packet, for which it gives a buffer unless the device has one.
    pub(super) fn next(&mut self) -> Option<Packet> {
        self.driver.turn();
        if self.driver.count(RECEIVE) == self.offered {
            let at = Self::place(self.offered);
            self.offered += 1;
            self.driver.offer(RECEIVE, &[writable(at, 44), writable(at + 44, 4096)]);
        }
        self.driver.turn();
        self.packet()
    }

    pub(super) fn send(&mut self, packet: &Packet) {
        let at = DATA + 0x20_0000 + 0x2_0000 * (self.sent % 4);
        self.sent += 1;
        self.driver.put(at, &packet.header());
        self.driver.put(at + 44, &packet.data);
        let mut parts = vec![readable(at, 44)];
        if !packet.data.is_empty() {
            parts.push(readable(at + 44, packet.data.len() as u32));
        }
        self.driver.offer(SEND, &parts);
    }

    /// A connection that both sides have accepted.
    pub(super) fn connect(&mut self) -> UnixStream {
        let mut stream = UnixStream::connect(&self.path).unwrap();
        stream.write_all(b"CONNECT 1024\n").unwrap();
        self.driver.wait();
        let request = self.next().unwrap();
        assert_eq!(
            (request.op, request.from, request.to),
            (op::REQUEST, (2, HOST_PORT), (CID, 1024))
        );
        self.send(&Packet::new(op::RESPONSE, b""));
        let mut answer = [0; 14];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"OK 1073741825\n");
        stream.set_nonblocking(true).unwrap();
        stream
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

pub(super) fn ended(stream: &mut UnixStream) -> bool {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

#[test]
fn data_goes_both_ways_and_each_way_ends_by_itself() {
    let mut guest = Guest::new();
    let mut stream = guest.connect();
    stream.write_all(b"to the guest").unwrap();
    guest.driver.wait();
    let packet = guest.next().unwrap();
    assert_eq!((packet.op, &packet.data[..]), (op::DATA, &b"to the guest"[..]));
    guest.send(&Packet::new(op::DATA, b"to the host"));
    let mut bytes = [0; 11];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"to the host");

    stream.shutdown(std::net::Shutdown::Write).unwrap();
    guest.driver.wait();
    let packet = guest.next().unwrap();
    assert_eq!((packet.op, packet.flags), (op::SHUTDOWN, 2), "no more is sent");
    guest.send(&Packet::new(op::DATA, b" last words"));
    guest.send(&Packet { flags: 2, ..Packet::new(op::SHUTDOWN, b"") });
    guest.send(&Packet { flags: 3, ..Packet::new(op::SHUTDOWN, b"") });
    assert_eq!(guest.next().unwrap().op, op::RESET);
    stream.set_nonblocking(false).unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, " last words");
}

#[test]
fn a_guest_gets_no_more_than_it_has_room_for() {
    let mut guest = Guest::new();
    let mut stream = guest.connect();
    guest.send(&Packet { room: 5, ..Packet::new(op::CREDIT_UPDATE, b"") });
    stream.write_all(b"hello, guest").unwrap();
    guest.driver.wait();
    let packet = guest.next().unwrap();
    assert_eq!(packet.data, b"hello");
    assert_eq!(guest.next(), None, "the rest waits");
    guest.send(&Packet { room: 5, taken: 5, ..Packet::new(op::CREDIT_UPDATE, b"") });
    guest.driver.turn();
    assert_eq!(guest.packet().unwrap().data, b", gue");
    // More taken than was ever sent: the guest's own loss.
    guest.send(&Packet { room: 5, taken: 500, ..Packet::new(op::CREDIT_UPDATE, b"") });
    guest.driver.turn();
}

#[test]
fn a_slow_reader_holds_back_the_guest_and_loses_nothing() {
    for event_index in [false, true] {
        let mut guest = Guest::with(event_index);
        let stream = guest.connect();
        slow_reader(&mut guest, stream, HOST_PORT);
    }
}

#[test]
fn a_guest_without_buffers_is_asked_to_ring_when_it_has_one() {
    let mut guest = Guest::with(true);
    let mut stream = guest.connect();
    for round in 0..40_u8 {
        stream.write_all(&[round]).unwrap();
        assert_eq!(guest.next().unwrap().data, [round]);
    }
}

/// The guest writes a MiB to the host's port `port`, whose stream is read in other pieces.
pub(super) fn slow_reader(guest: &mut Guest, mut stream: UnixStream, port: u32) {
    let to = (2, port);
    let (mut written, mut credit, mut read) = (0_usize, 64 << 10, Vec::new());
    let chunk: Vec<u8> = (0..8192_u32).map(|n| (n % 251) as u8).collect();
    while written < 1 << 20 {
        if credit >= chunk.len() {
            guest.send(&Packet { to, ..Packet::new(op::DATA, &chunk) });
            written += chunk.len();
            credit -= chunk.len();
            continue;
        }
        let mut part = [0; 5000];
        let count = stream.read(&mut part).unwrap();
        read.extend(&part[..count]);
        guest.driver.turn();
        while let Some(packet) = guest.next() {
            assert_eq!(packet.op, op::CREDIT_UPDATE);
            credit = packet.taken as usize + (64 << 10) - written;
        }
    }
    guest.send(&Packet { to, flags: 3, ..Packet::new(op::SHUTDOWN, b"") });
    stream.set_nonblocking(false).unwrap();
    let reader = std::thread::spawn(move || {
        stream.read_to_end(&mut read).unwrap();
        read
    });
    while !reader.is_finished() {
        guest.driver.wait();
    }
    let read = reader.join().unwrap();
    assert_eq!(read.len(), written);
    assert!(read.chunks(chunk.len()).all(|part| part == chunk));
}

#[test]
fn forged_packets_reach_nobody() {
    let mut guest = Guest::new();
    let mut stream = guest.connect();
    for packet in [
        Packet { from: (4, 1024), ..Packet::new(op::DATA, b"x") },
        Packet { to: (1, HOST_PORT), ..Packet::new(op::DATA, b"x") },
    ] {
        guest.send(&packet);
        assert_eq!(guest.next(), None);
    }
    for packet in [
        Packet { from: (CID, 1025), ..Packet::new(op::DATA, b"x") },
        Packet { to: (2, HOST_PORT + 1), ..Packet::new(op::DATA, b"x") },
        Packet { to: (2, 22), ..Packet::new(op::REQUEST, b"") },
        Packet { to: (2, 0), ..Packet::new(99, b"") },
    ] {
        guest.send(&packet);
        let answer = guest.next().unwrap();
        assert_eq!((answer.op, answer.from, answer.to), (op::RESET, packet.to, packet.from));
    }
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    // Resets that nobody takes do not pile up for ever.
    for _ in 0..1000 {
        guest.send(&Packet { to: (2, 22), ..Packet::new(op::REQUEST, b"") });
    }
    let mut resets = 0;
    while guest.next().is_some() {
        resets += 1;
    }
    assert!(resets <= 257, "{resets}");
}

#[test]
fn more_than_the_credit_ends_the_connection() {
    let mut guest = Guest::new();
    let mut stream = guest.connect();
    // The stream takes some by itself before it is full.
    let data = vec![b'x'; 60_000];
    for _ in 0..64 {
        guest.send(&Packet::new(op::DATA, &data));
    }
    let mut ops = Vec::new();
    while let Some(packet) = guest.next() {
        ops.push(packet.op);
    }
    assert!(ops.contains(&op::RESET), "{ops:?}");
    stream.set_nonblocking(false).unwrap();
    assert!(ended(&mut stream));
}

#[test]
fn what_is_no_greeting_is_hung_up_on() {
    for greeting in
        ["GET / HTTP/1.1\n", "CONNECT\n", "CONNECT x\n", "CONNECT 4294967296\n", &"x".repeat(40)]
    {
        let mut guest = Guest::new();
        let mut stream = UnixStream::connect(&guest.path).unwrap();
        stream.write_all(greeting.as_bytes()).unwrap();
        guest.driver.wait();
        assert!(ended(&mut stream), "{greeting}");
        assert_eq!(guest.next(), None);
    }
}

#[test]
fn a_program_that_hangs_up_takes_its_connection_with_it() {
    let mut guest = Guest::new();
    drop(guest.connect());
    guest.driver.wait();
    let packet = guest.next().unwrap();
    assert_eq!((packet.op, packet.flags), (op::SHUTDOWN, 2));
    guest.send(&Packet::new(op::DATA, b"anybody there?"));
    assert_eq!(guest.next().unwrap().op, op::RESET);

    // Before the guest has answered, and before it was asked.
    let mut guest = Guest::new();
    let ask = |guest: &mut Guest| {
        let mut stream = UnixStream::connect(&guest.path).unwrap();
        stream.write_all(b"CONNECT 5\n").unwrap();
        guest.driver.wait();
        stream
    };
    let stream = ask(&mut guest);
    assert_eq!(guest.next().unwrap().op, op::REQUEST);
    drop(stream);
    guest.driver.wait();
    assert_eq!(guest.next().unwrap().op, op::RESET);
    drop(ask(&mut guest));
    guest.driver.wait();
    assert_eq!(guest.next(), None);
}

#[test]
fn a_refusal_and_a_reset_of_the_device_end_connections() {
    let mut guest = Guest::new();
    let mut stream = UnixStream::connect(&guest.path).unwrap();
    stream.write_all(b"CONNECT 1024\n").unwrap();
    guest.driver.wait();
    assert_eq!(guest.next().unwrap().op, op::REQUEST);
    guest.send(&Packet::new(op::RESET, b""));
    assert!(ended(&mut stream));

    let mut guest = Guest::new();
    let mut stream = guest.connect();
    guest.driver.set(0x70, 0);
    guest.driver.turn();
    stream.set_nonblocking(false).unwrap();
    assert!(ended(&mut stream));
}

#[test]
fn addresses_that_are_no_guests_are_refused() {
    for cid in [0, 2, u32::MAX] {
        let listener = UnixListener::bind(
            std::env::temp_dir().join(format!("vmm-cid-{}-{cid}", std::process::id())),
        );
        let error = Socket::new(Vsock { cid, listener: listener.unwrap(), ports: Vec::new() })
            .err()
            .unwrap()
            .to_string();
        assert_eq!(error, format!("make socket device: {cid} is no address of a guest"));
        let _ = std::fs::remove_file(
            std::env::temp_dir().join(format!("vmm-cid-{}-{cid}", std::process::id())),
        );
    }
}
