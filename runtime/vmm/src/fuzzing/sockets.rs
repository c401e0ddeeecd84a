//! The socket device, with hostile ends on both sides.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::atomic::{AtomicU32, Ordering};

use super::input::{Guest, Input};
use crate::config::{Port, Vsock};
use crate::devices::vsock::{Socket, op};
use crate::testing::driver::{DATA, Driver, readable, writable};

const RECEIVE: usize = 0;
const SEND: usize = 1;
const CID: u32 = 3;
/// Programs of the host at a time.
const STREAMS: usize = 8;

/// Sockets between host and guest.
pub fn vsock(data: &[u8]) {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let mut input = Input(data);
    let event_index = input.byte().is_some_and(|byte| byte & 1 != 0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let address =
        SocketAddr::from_abstract_name(format!("vmm-fuzz-{}-{number}", std::process::id()))
            .unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    let mut programs = Programs { address, streams: Vec::new() };
    let mut ports = Vec::new();
    for port in [1, 2] {
        let (stream, other) = UnixStream::pair().unwrap();
        programs.keep(other);
        ports.push(Port { port, stream });
    }
    let device = Socket::new(Vsock { cid: CID, listener, ports }).unwrap();
    let mut driver = Driver::working_with(device, event_index);
    Guest(&mut driver).follow(&mut input, &mut |driver, input| match input.byte()? % 8 {
        0..5 => programs.act(input),
        5 => {
            let at = DATA + 0x8000 * u64::from(input.byte()? % 8);
            driver.offer(RECEIVE, &[writable(at, 44), writable(at + 44, 0x4000)]);
            Some(())
        }
        _ => send(driver, input),
    });
    drop(programs);

    driver.set_up();
    for buffer in 0..8 {
        driver.offer(RECEIVE, &[writable(DATA + 0x1000 * (buffer + 1), 64)]);
    }
    driver.put(DATA, &packet((2, 99), op::REQUEST, 0, 0, 0, &[]));
    driver.offer(SEND, &[readable(DATA, 44)]);
    let refused = (0..driver.count(RECEIVE)).any(|index| {
        let (head, _) = driver.entry(RECEIVE, index);
        let header = driver.peek(DATA + 0x1000 * (u64::from(head) + 1), 44);
        header[16..20] == 99_u32.to_le_bytes() && header[30..32] == op::RESET.to_le_bytes()
    });
    assert!(refused, "a request to nobody's port is answered");
}

/// The host's programs.
struct Programs {
    address: SocketAddr,
    streams: Vec<UnixStream>,
}

impl Programs {
    fn keep(&mut self, stream: UnixStream) {
        stream.set_nonblocking(true).unwrap();
        self.streams.push(stream);
    }

    fn act(&mut self, input: &mut Input<'_>) -> Option<()> {
        let (choice, index) = (input.byte()? % 6, usize::from(input.byte()?));
        if choice == 0 || self.streams.is_empty() {
            if self.streams.len() < STREAMS {
                self.keep(UnixStream::connect_addr(&self.address).unwrap());
            }
            return Some(());
        }
        let index = index % self.streams.len();
        let stream = &mut self.streams[index];
        // Nobody has to be there, or to have room.
        match choice {
            1 => drop(stream.write_all(format!("CONNECT {}\n", input.u16()?).as_bytes())),
            2 => {
                let length = input.byte()?;
                let _ = stream.write(&input.bytes(length.into()));
            }
            3 => {
                let mut bytes = vec![0; input.u16()?.into()];
                let _ = stream.read(&mut bytes);
            }
            4 => drop(stream.shutdown(Shutdown::Write)),
            _ => drop(self.streams.swap_remove(index)),
        }
        Some(())
    }
}

/// A packet from the guest, to a port that there may be.
fn send(driver: &mut Driver, input: &mut Input<'_>) -> Option<()> {
    let port = match input.byte()? {
        0xff => input.u32()?,
        byte @ 0..4 => byte.into(),
        byte => (1 << 30) + u32::from(byte) - 3,
    };
    let from = if input.byte()? & 1 == 0 { 1024 } else { input.u16()?.into() };
    let (op, flags) = (input.byte()? % 9, input.byte()?);
    let (room, taken) = (input.u32()?, input.u32()?);
    let data = vec![0x33; input.u16()?.into()];
    let packet = packet((from, port), op.into(), flags.into(), room, taken, &data);
    let at = DATA + 0x10_0000;
    driver.put(at, &packet);
    driver.offer(SEND, &[readable(at, 44), readable(at + 44, data.len() as u32)]);
    Some(())
}

/// From and to these ports of the guest and the host.
fn packet(
    (from, to): (u32, u32),
    op: u16,
    flags: u32,
    room: u32,
    taken: u32,
    data: &[u8],
) -> Vec<u8> {
    [
        &u64::from(CID).to_le_bytes()[..],
        &2_u64.to_le_bytes(),
        &from.to_le_bytes(),
        &to.to_le_bytes(),
        &(data.len() as u32).to_le_bytes(),
        &1_u16.to_le_bytes(),
        &op.to_le_bytes(),
        &flags.to_le_bytes(),
        &room.to_le_bytes(),
        &taken.to_le_bytes(),
        data,
    ]
    .concat()
}
