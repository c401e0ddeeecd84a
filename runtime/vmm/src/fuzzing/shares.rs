//! The file system device, between a hostile driver and a server that answers anything.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, recv, send, setsockopt, socketpair, sockopt,
};

use super::input::{Guest, Input};
use crate::config::Share;
use crate::devices::fs::FileSystem;
use crate::ending::End;
use crate::testing::driver::{DATA, Driver, readable, writable};

const REQUESTS: usize = 1;

/// A file system of the host.
pub fn fs(data: &[u8]) {
    let mut input = Input(data);
    let event_index = input.byte().is_some_and(|byte| byte & 1 != 0);
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (server, other) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
    // A few requests are as much as it holds.
    setsockopt(&server, sockopt::SndBuf, &8192).unwrap();
    let end = End::new().unwrap();
    let share = Share { tag: "root".into(), server };
    let device = FileSystem::new(share, end.clone()).unwrap();
    let mut driver = Driver::working_with(device, event_index);
    Guest(&mut driver).follow(&mut input, &mut |driver, input| {
        let choice = input.byte()?;
        if choice & 1 == 0 { request(driver, input) } else { answer(&other, choice, input) }
    });
    driver.set_up();
    if end.reason().is_some() {
        return; // the server has ended the machine
    }
    while received(&other).is_some() {
        driver.turn();
    }
    driver.put(DATA, &message(40, 1, 77, &[0; 24]));
    driver.offer(REQUESTS, &[readable(DATA, 40), writable(DATA + 4096, 16)]);
    let request = received(&other).unwrap();
    let number = u64::from_le_bytes(request[8..16].try_into().unwrap());
    send(other.as_raw_fd(), &message(16, 0, number, &[]), MsgFlags::empty()).unwrap();
    driver.turn();
    assert_eq!(driver.used(REQUESTS), [(0, 16)]);
    assert_eq!(driver.peek(DATA + 4096, 16), message(16, 0, 77, &[]));
}

/// Length, opcode or error, number.
fn message(length: u32, code: u32, number: u64, rest: &[u8]) -> Vec<u8> {
    [&length.to_le_bytes()[..], &code.to_le_bytes(), &number.to_le_bytes(), rest].concat()
}

fn received(server: &OwnedFd) -> Option<Vec<u8>> {
    let mut packet = vec![0; 1 << 18];
    let length = recv(server.as_raw_fd(), &mut packet, MsgFlags::empty()).ok()?;
    packet.truncate(length);
    Some(packet)
}

/// A request with a header that may tell the truth.
fn request(driver: &mut Driver, input: &mut Input<'_>) -> Option<()> {
    let (opcode, number) = (input.byte()?, input.byte()?);
    let (wrong, body, room) = (input.byte()?, input.u16()?, input.u16()?);
    let length = 40 + u32::from(body) + u32::from(wrong.saturating_sub(0xf0));
    let rest = vec![0x11; 24 + usize::from(body)];
    driver.put(DATA, &message(length, opcode.into(), number.into(), &rest));
    let at = DATA + 0x10_0000;
    driver.offer(
        usize::from(wrong) % 2,
        &[readable(DATA, 16), readable(DATA + 16, 24 + u32::from(body)), writable(at, room.into())],
    );
    Some(())
}

/// The server reads, or answers what was asked, or something else.
fn answer(server: &OwnedFd, choice: u8, input: &mut Input<'_>) -> Option<()> {
    let packet = match choice >> 1 & 3 {
        0 => {
            received(server);
            return Some(());
        }
        1 => {
            let length = input.byte()?;
            input.bytes(length.into())
        }
        _ => {
            let number = match received(server) {
                Some(request) => u64::from_le_bytes(request[8..16].try_into().unwrap()),
                None => input.byte()?.into(),
            };
            let body = input.u16()?;
            let wrong = u32::from(input.byte()?.saturating_sub(0xf0));
            message(16 + u32::from(body) + wrong, 0, number, &vec![0x22; body.into()])
        }
    };
    // An empty packet would be the end, and a full socket is the server's own loss.
    if !packet.is_empty() {
        let _ = send(server.as_raw_fd(), &packet, MsgFlags::empty());
    }
    Some(())
}
