//! The file system device, with drivers and servers that break the rules.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, recv, send, setsockopt, socketpair, sockopt,
};

use crate::config::Share;
use crate::devices::fs::{FileSystem, LARGEST};
use crate::ending::{End, Ending};
use crate::testing::driver::{DATA, Driver, MEMORY, Part, SIZE, readable, writable};

const REQUESTS: usize = 1;
const ANSWER: u64 = DATA + 0x1000;
const LOOKUP: u32 = 1;

/// A driver, the test's end of the socket, and where the machine would end.
struct Shared {
    driver: Driver,
    server: OwnedFd,
    end: End,
}

fn pair(kind: SockType) -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).unwrap()
}

fn shared(event_index: bool) -> Shared {
    let (device, server) = pair(SockType::SeqPacket);
    let end = End::new().unwrap();
    let share = Share { tag: "files".to_owned(), server: device };
    let device = FileSystem::new(share, end.clone()).unwrap();
    Shared { driver: Driver::working_with(device, event_index), server, end }
}

fn message(opcode: u32, unique: u64, body: &[u8]) -> Vec<u8> {
    let length = 40 + body.len() as u32;
    let mut message = [&length.to_le_bytes()[..], &opcode.to_le_bytes()].concat();
    message.extend(unique.to_le_bytes());
    message.extend([0; 24]);
    message.extend(body);
    message
}

fn answer(number: u64, body: &[u8]) -> Vec<u8> {
    let length = 16 + body.len() as u32;
    [&length.to_le_bytes()[..], &[0; 4], &number.to_le_bytes(), body].concat()
}

/// The error and the number that the guest is told.
fn refusal(driver: &Driver) -> (i32, u64) {
    let header = driver.peek(ANSWER, 16);
    let error = i32::from_le_bytes(*header[4..].first_chunk().unwrap());
    (error, u64::from_le_bytes(*header[8..].first_chunk().unwrap()))
}

impl Shared {
    fn ask(&mut self, message: &[u8], room: &[Part]) {
        self.driver.put(DATA, message);
        let mut chain = vec![readable(DATA, message.len() as u32)];
        chain.extend(room);
        self.driver.offer(REQUESTS, &chain);
    }

    /// What the server is sent.
    fn received(&self) -> Option<Vec<u8>> {
        let mut packet = vec![0; LARGEST + 1];
        match recv(self.server.as_raw_fd(), &mut packet, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => Some(packet[..length].to_vec()),
            Err(Errno::EAGAIN) => None,
            Err(errno) => panic!("{errno}"),
        }
    }

    /// The number under which the next message comes.
    fn number(&self) -> u64 {
        let packet = self.received().unwrap();
        u64::from_le_bytes(*packet[8..].first_chunk().unwrap())
    }

    fn reply(&mut self, packet: &[u8]) {
        send(self.server.as_raw_fd(), packet, MsgFlags::empty()).unwrap();
        self.driver.wait();
    }

    fn used(&self) -> Vec<(u32, u32)> {
        self.driver.used(REQUESTS)
    }

    fn reason(&self) -> Option<String> {
        self.end.reason().map(|ending| match ending {
            Ending::Failed(error) => error.to_string(),
            other => panic!("{other}"),
        })
    }
}

#[test]
fn the_driver_finds_the_tag_and_one_queue_for_requests() {
    let shared = shared(false);
    let mut expected = b"files".to_vec();
    expected.resize(36, 0);
    expected.extend([1, 0, 0, 0]);
    assert_eq!(shared.driver.configuration(0, 40), expected);
    assert_eq!(shared.driver.get(0x08), 26);
}

#[test]
fn a_request_goes_to_the_server_and_its_answer_comes_back() {
    for event_index in [false, true] {
        let mut shared = shared(event_index);
        for round in 0..40_u64 {
            let unique = 0xabcd_0000 + round;
            let room = [writable(ANSWER, 20), writable(ANSWER + 100, 100)];
            shared.ask(&message(LOOKUP, unique, b"name\0"), &room);
            assert_eq!(shared.used().len(), round.min(SIZE.into()) as usize);
            let packet = shared.received().unwrap();
            assert_eq!((packet[40..].to_vec(), packet.len()), (b"name\0".to_vec(), 45));
            let number = u64::from_le_bytes(*packet[8..].first_chunk().unwrap());
            shared.reply(&answer(number, b"answered"));
            assert_eq!(shared.used().last().unwrap().1, 24);
            let told = [shared.driver.peek(ANSWER, 20), shared.driver.peek(ANSWER + 100, 4)];
            assert_eq!(told.concat(), answer(unique, b"answered"));
        }
        assert!(shared.driver.interrupts() > 0);
        assert_eq!(shared.reason(), None);
    }
}

#[test]
fn answers_come_in_any_order() {
    let mut shared = shared(false);
    // The same number twice is the guest's own trouble.
    for at in [ANSWER, ANSWER + 64] {
        shared.ask(&message(LOOKUP, 7, b"x\0"), &[writable(at, 64)]);
    }
    let (first, second) = (shared.number(), shared.number());
    assert_ne!(first, second);
    shared.reply(&answer(second, b"two"));
    shared.reply(&answer(first, b"one"));
    assert_eq!(shared.used(), [(2, 19), (0, 19)]);
    assert_eq!(shared.driver.peek(ANSWER, 19), answer(7, b"one"));
    assert_eq!(shared.driver.peek(ANSWER + 64, 19), answer(7, b"two"));
}

#[test]
fn messages_without_an_answer_are_given_back_at_once() {
    let mut shared = shared(false);
    for (opcode, forwarded) in [(2, true), (42, true), (36, false)] {
        shared.driver.put(DATA, &message(opcode, 9, &[0; 8]));
        shared.driver.offer(0, &[readable(DATA, 48)]);
        assert_eq!(shared.driver.used(0).last().unwrap().1, 0);
        assert_eq!(shared.received().is_some(), forwarded, "{opcode}");
    }
}

#[test]
fn what_is_no_message_is_refused_and_not_forwarded() {
    let mut shared = shared(false);
    let whole = message(LOOKUP, 5, b"name\0");
    let mut longer = whole.clone();
    longer[0] += 1;
    let mut shorter = whole.clone();
    shorter[0] -= 1;
    for (bytes, unique) in
        [(&whole[..44], 5), (&whole[..39], 5), (&whole[..12], 0), (&longer, 5), (&shorter, 5)]
    {
        shared.ask(bytes, &[writable(ANSWER, 100)]);
        assert_eq!(refusal(&shared.driver), (-22, unique), "{bytes:?}");
        assert_eq!(shared.used().last().unwrap().1, 16);
    }
    // Longer than a packet: parts that lie over each other.
    let mut large = message(LOOKUP, 6, &[0; 4056]);
    large[..4].copy_from_slice(&(40 * 4096_u32).to_le_bytes());
    shared.driver.put(DATA, &large);
    shared.driver.put(DATA + 4096, &[0; 16]);
    let mut chain = vec![readable(DATA, LARGEST as u32 + 1)];
    chain.push(writable(ANSWER, 100));
    shared.driver.offer(REQUESTS, &chain);
    assert_eq!(refusal(&shared.driver), (-22, 6));
    // Nothing to read, no memory, no room for an answer.
    shared.driver.offer(REQUESTS, &[writable(ANSWER, 100)]);
    assert_eq!(refusal(&shared.driver), (-22, 0));
    shared.driver.offer(REQUESTS, &[readable(MEMORY, 45), writable(ANSWER, 100)]);
    assert_eq!(shared.used().last().unwrap().1, 16);
    shared.ask(&whole[..44], &[writable(ANSWER, 15)]);
    assert_eq!(shared.used().last().unwrap().1, 0);
    assert_eq!(shared.received(), None);
    assert_eq!(shared.reason(), None);
}

#[test]
fn an_answer_without_room_becomes_an_error() {
    for (room, expected) in [
        (vec![writable(ANSWER, 30)], (16, -5)),
        (vec![writable(ANSWER, 16), writable(MEMORY, 100)], (16, -5)),
        (vec![writable(ANSWER, 4)], (0, 0)),
        (vec![], (0, 0)),
        (vec![writable(u64::MAX - 4, 100)], (0, 0)),
    ] {
        let mut shared = shared(false);
        shared.ask(&message(LOOKUP, 3, b"x\0"), &room);
        let number = shared.number();
        shared.reply(&answer(number, &[1; 40]));
        let written = shared.used().last().unwrap().1;
        assert_eq!(written, expected.0);
        if written > 0 {
            assert_eq!(refusal(&shared.driver), (expected.1, 3));
        }
        assert_eq!(shared.reason(), None);
    }
}

#[test]
fn a_server_that_is_slow_gets_what_fits_and_the_rest_later() {
    let mut shared = shared(true);
    setsockopt(&shared.server, sockopt::RcvBuf, &4096).unwrap();
    let big = message(LOOKUP, 1, &[7; 0x8_000 - 40]);
    shared.driver.put(DATA, &big);
    for _ in 0..SIZE / 2 {
        shared.driver.offer(REQUESTS, &[readable(DATA, 0x8000), writable(ANSWER, 100)]);
    }
    let mut packets = 0;
    while let Some(packet) = shared.received() {
        assert_eq!(packet.len(), 0x8000);
        packets += 1;
        let number = u64::from_le_bytes(*packet[8..].first_chunk().unwrap());
        shared.reply(&answer(number, b""));
    }
    assert_eq!((packets, shared.driver.count(REQUESTS)), (SIZE / 2, SIZE / 2));
    assert_eq!(shared.reason(), None);
}

#[test]
fn the_end_of_the_server_is_the_end_of_the_machine() {
    let name = "use the share server of \"files\": ";
    for (packet, reason) in [
        (None, "it ended"),
        (Some(vec![1; 15]), "it sent what is no message"),
        (Some(vec![0; 16]), "it sent what is no message"),
        (Some(answer(77, b"")), "it answered what was not asked"),
        (Some(vec![0; LARGEST + 1]), "it sent what is no message"),
    ] {
        let mut shared = shared(false);
        shared.ask(&message(LOOKUP, 1, b"x\0"), &[writable(ANSWER, 100)]);
        match packet {
            Some(packet) => shared.reply(&packet),
            None => {
                let (_, other) = pair(SockType::SeqPacket);
                drop(std::mem::replace(&mut shared.server, other));
                shared.driver.wait();
            }
        }
        assert_eq!(shared.reason().unwrap(), format!("{name}{reason}"));
        assert_eq!(shared.used(), []);
    }
    // It is gone before anything is sent.
    let mut shared = shared(false);
    drop(std::mem::replace(&mut shared.server, pair(SockType::SeqPacket).0));
    shared.ask(&message(LOOKUP, 1, b"x\0"), &[writable(ANSWER, 100)]);
    assert_eq!(shared.reason().unwrap(), format!("{name}it ended"));
}

#[test]
fn after_a_reset_old_answers_are_nobodys() {
    let mut shared = shared(false);
    shared.ask(&message(LOOKUP, 1, b"x\0"), &[writable(ANSWER, 100)]);
    let old = shared.number();
    shared.driver.set_up();
    shared.ask(&message(LOOKUP, 1, b"y\0"), &[writable(ANSWER, 100)]);
    let new = shared.number();
    shared.reply(&answer(old, b"old"));
    assert_eq!((shared.used(), shared.reason()), (vec![], None));
    shared.reply(&answer(new, b"new"));
    assert_eq!(shared.driver.peek(ANSWER, 19), answer(1, b"new"));
}

#[test]
fn a_share_that_is_none_is_refused() {
    let refuse = |tag: &str, kind| {
        let share = Share { tag: tag.to_owned(), server: pair(kind).0 };
        FileSystem::new(share, End::new().unwrap()).err().unwrap().to_string()
    };
    let long = "x".repeat(37);
    for tag in ["", "a\0b", &long] {
        let reason = "a tag has 1 to 36 bytes, and no NUL";
        assert_eq!(
            refuse(tag, SockType::SeqPacket),
            format!("make file system device {tag:?}: {reason}")
        );
    }
    let expected = "make file system device \"x\": its socket is not SOCK_SEQPACKET";
    assert_eq!(refuse("x", SockType::Stream), expected);
}
