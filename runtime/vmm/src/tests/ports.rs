//! Connections that the guest opens, to ports that it was given and to others.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};

use super::sockets::{CID, Guest, HOST_PORT, Packet, ended, slow_reader};
use crate::config::{Port, Vsock};
use crate::devices::vsock::{Socket, op};

const PORT: u32 = 1;

/// A guest that can connect to `PORT`, and the other end of what is there.
fn guest(event_index: bool) -> (Guest, UnixStream) {
    let (stream, other) = UnixStream::pair().unwrap();
    other.set_nonblocking(true).unwrap();
    (Guest::with_ports(event_index, vec![Port { port: PORT, stream }]), other)
}

fn to_port(op: u16, data: &[u8]) -> Packet {
    Packet { to: (2, PORT), ..Packet::new(op, data) }
}

/// The guest connects to the port.
fn connect(guest: &mut Guest) {
    guest.send(&to_port(op::REQUEST, b""));
    let answer = guest.next().unwrap();
    assert_eq!(
        (answer.op, answer.from, answer.to, answer.room),
        (op::RESPONSE, (2, PORT), (CID, 1024), 64 << 10)
    );
}

#[test]
fn a_guest_that_connects_is_joined_to_what_is_there() {
    let (mut guest, mut stream) = guest(false);
    // What was written before the guest came is not lost, and comes behind the answer.
    stream.write_all(b"early").unwrap();
    guest.driver.turn();
    assert_eq!(guest.next(), None, "nobody has connected");
    connect(&mut guest);
    let packet = guest.next().unwrap();
    assert_eq!((packet.op, packet.from, &packet.data[..]), (op::DATA, (2, PORT), &b"early"[..]));
    guest.send(&to_port(op::DATA, b"to the host"));
    let mut bytes = [0; 11];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"to the host");

    // Each way ends by itself.
    guest.send(&Packet { flags: 2, ..to_port(op::SHUTDOWN, b"") });
    assert_eq!(stream.read(&mut bytes).unwrap(), 0, "no more is sent");
    stream.write_all(b"late").unwrap();
    guest.driver.wait();
    assert_eq!(guest.next().unwrap().data, b"late");
    stream.shutdown(Shutdown::Write).unwrap();
    guest.driver.wait();
    let packet = guest.next().unwrap();
    assert_eq!((packet.op, packet.flags), (op::SHUTDOWN, 2));
    guest.send(&Packet { flags: 3, ..to_port(op::SHUTDOWN, b"") });
    assert_eq!(guest.next().unwrap().op, op::RESET);
    assert!(ended(&mut stream));
}

#[test]
fn a_guest_gets_no_more_than_its_request_has_room_for() {
    let (mut guest, mut stream) = guest(true);
    stream.write_all(b"hello, guest").unwrap();
    guest.send(&Packet { room: 5, ..to_port(op::REQUEST, b"") });
    assert_eq!(guest.next().unwrap().op, op::RESPONSE);
    assert_eq!(guest.next().unwrap().data, b"hello");
    assert_eq!(guest.next(), None);
    guest.send(&Packet { room: 7, taken: 5, ..to_port(op::CREDIT_UPDATE, b"") });
    guest.driver.turn();
    assert_eq!(guest.next().unwrap().data, b", guest");
}

#[test]
fn a_slow_reader_holds_back_the_guest_that_connected() {
    for event_index in [false, true] {
        let (mut guest, stream) = guest(event_index);
        connect(&mut guest);
        slow_reader(&mut guest, stream, PORT);
    }
}

#[test]
fn more_than_the_credit_ends_the_guest_s_connection() {
    let (mut guest, mut stream) = guest(false);
    connect(&mut guest);
    for _ in 0..64 {
        guest.send(&to_port(op::DATA, &[b'x'; 60_000]));
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
fn every_other_port_and_a_second_time_are_refused() {
    let (mut guest, mut stream) = guest(false);
    let refused = |guest: &mut Guest, packet: Packet| {
        guest.send(&packet);
        let answer = guest.next().unwrap();
        assert_eq!((answer.op, answer.from, answer.to), (op::RESET, packet.to, packet.from));
        assert_eq!(guest.next(), None);
    };
    for port in [0, 2, 22, 1024, (1 << 30) - 1, 1 << 30, HOST_PORT, u32::MAX] {
        refused(&mut guest, Packet { to: (2, port), ..Packet::new(op::REQUEST, b"") });
    }
    // No stream, or nothing that opens one: the port stays free for who does it right.
    for (kind, op) in [
        (2, op::REQUEST),
        (0, op::REQUEST),
        (1, op::RESPONSE),
        (1, op::DATA),
        (1, op::SHUTDOWN),
        (1, op::CREDIT_REQUEST),
        (1, 0),
        (1, u16::MAX),
    ] {
        refused(&mut guest, Packet { kind, ..to_port(op, b"") });
    }
    // From or to another machine: as if it had not come.
    for packet in [
        Packet { from: (4, 1024), ..to_port(op::REQUEST, b"") },
        Packet { to: (1, PORT), ..to_port(op::REQUEST, b"") },
        Packet { to: (CID, PORT), ..to_port(op::REQUEST, b"") },
    ] {
        guest.send(&packet);
        assert_eq!(guest.next(), None);
    }
    connect(&mut guest);
    refused(&mut guest, Packet { from: (CID, 1025), ..to_port(op::REQUEST, b"") });
    refused(&mut guest, Packet { from: (CID, 1025), ..to_port(op::DATA, b"forged") });
    // The connection has a token, as those have that the host opens; it is no port.
    refused(&mut guest, Packet { to: (2, HOST_PORT), ..Packet::new(op::DATA, b"forged") });
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);

    // The same ports once more end the connection, and what has ended does not come back.
    guest.send(&to_port(op::REQUEST, b""));
    assert_eq!(guest.next().unwrap().op, op::RESET);
    stream.set_nonblocking(false).unwrap();
    assert!(ended(&mut stream));
    refused(&mut guest, to_port(op::REQUEST, b""));
}

#[test]
fn a_guest_that_never_connects_and_a_program_that_left_harm_nobody() {
    let (guest, mut stream) = guest(false);
    stream.write_all(b"anybody there?").unwrap();
    drop(guest);
    stream.set_nonblocking(false).unwrap();
    assert!(ended(&mut stream));

    let (mut guest, stream) = self::guest(false);
    drop(stream);
    connect(&mut guest);
    let packet = guest.next().unwrap();
    assert_eq!((packet.op, packet.flags), (op::SHUTDOWN, 2));
    guest.send(&to_port(op::DATA, b"anybody there?"));
    assert_eq!(guest.next().unwrap().op, op::RESET);
}

#[test]
fn a_reset_of_the_device_ends_what_is_connected_and_keeps_what_is_not() {
    let (first, mut joined) = UnixStream::pair().unwrap();
    let (second, mut waiting) = UnixStream::pair().unwrap();
    let ports = vec![Port { port: PORT, stream: first }, Port { port: 2, stream: second }];
    let mut guest = Guest::with_ports(false, ports);
    connect(&mut guest);
    guest.driver.set(0x70, 0);
    guest.driver.turn();
    assert!(ended(&mut joined));
    guest.set_up_again();
    guest.send(&to_port(op::REQUEST, b""));
    assert_eq!(guest.next().unwrap().op, op::RESET);
    guest.send(&Packet { to: (2, 2), ..Packet::new(op::REQUEST, b"") });
    assert_eq!(guest.next().unwrap().op, op::RESPONSE);
    waiting.write_all(b"still there").unwrap();
    guest.driver.wait();
    assert_eq!(guest.next().unwrap().data, b"still there");
}

/// The event loop comes to rest, though somebody waits at the door of a device that is given up.
#[test]
fn a_guest_that_gives_the_device_up_costs_nothing() {
    let (mut guest, mut joined) = guest(false);
    connect(&mut guest);
    guest.driver.set(0x70, 15 | 128);
    let _waiting = UnixStream::connect(&guest.path).unwrap();
    guest.driver.turn();
    joined.write_all(b"anybody there?").unwrap_err();
    guest.set_up_again();
    assert_eq!(guest.driver.get(0x70), 15);
}

/// 256 at a time, of which one is kept for the port.
#[test]
fn connections_are_bounded_whoever_opens_them() {
    let (mut guest, _stream) = guest(false);
    let mut streams: Vec<UnixStream> =
        (0..256).map(|_| UnixStream::connect(&guest.path).unwrap()).collect();
    guest.driver.turn();
    let greet = |stream: &mut UnixStream| stream.write_all(b"CONNECT 7\n").unwrap();
    greet(&mut streams[255]);
    guest.driver.turn();
    assert_eq!(guest.next(), None, "it is not accepted");
    connect(&mut guest);
    guest.driver.turn();
    assert_eq!(guest.next(), None, "still not");
    guest.send(&to_port(op::RESET, b""));
    guest.driver.turn();
    let packet = guest.next().unwrap();
    assert_eq!((packet.op, packet.to), (op::REQUEST, (CID, 7)), "a place is free");
}

#[test]
fn streams_that_cannot_be_joined_are_refused_by_name() {
    let path = std::env::temp_dir().join(format!("vmm-ports-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let error = |ports: Vec<(u32, UnixStream)>| {
        let ports = ports.into_iter().map(|(port, stream)| Port { port, stream }).collect();
        let listener = listener.try_clone().unwrap();
        let error = Socket::new(Vsock { cid: 3, listener, ports }).err().expect("it is refused");
        error.to_string()
    };
    let stream = || UnixStream::pair().unwrap().0;
    for port in [0, 1 << 30, u32::MAX] {
        assert_eq!(
            error(vec![(port, stream())]),
            format!("offer port {port} to the guest: it is none of 1 to 1073741823")
        );
    }
    assert_eq!(
        error(vec![(1, stream()), (1, stream())]),
        "offer port 1 to the guest: it is offered twice"
    );
    let many = (1..=17).map(|port| (port, stream())).collect();
    assert_eq!(error(many), "offer port 17 to the guest: a guest gets at most 16");
    let listening = OwnedFd::from(listener.try_clone().unwrap());
    assert_eq!(
        error(vec![(1, listening.into())]),
        "offer port 1 to the guest: getpeername: ENOTCONN (Transport endpoint is not connected)"
    );
    let pipe = OwnedFd::from(std::io::pipe().unwrap().0);
    assert_eq!(
        error(vec![(1, pipe.into())]),
        "offer port 1 to the guest: getpeername: ENOTSOCK (Socket operation on non-socket)"
    );
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let network = OwnedFd::from(TcpStream::connect(server.local_addr().unwrap()).unwrap());
    let message = error(vec![(1, network.into())]);
    assert!(message.starts_with("offer port 1 to the guest: getpeername: "), "{message}");
}
