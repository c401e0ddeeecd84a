//! One connection: a Unix stream on the host's side, a port on the guest's.
//!
//! ```text
//! Greeting --"CONNECT PORT"--> Requested --RESPONSE--> Open --both have ended--> gone
//!                                 the guest's REQUEST --^
//! ```
//!
//! Each direction ends by itself, as that of a TCP connection: the end of the stream becomes a SHUTDOWN, the guest's
//! SHUTDOWN becomes the end of the stream once all before it has been written.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use virtio_vsock::packet::VsockPacket;
use vm_memory::{ReadVolatile, VolatileMemory, VolatileMemoryError, VolatileSlice};
use vmm_sys_util::epoll::EventSet;

use super::{Ports, op};
use crate::virtio::Watch;

/// How much of the guest's data waits for a slow reader, and the largest packet, in bytes.
pub(crate) const BUFFER: u32 = 64 << 10;
/// `CONNECT 4294967295\n` is shorter.
const GREETING: usize = 32;

const NO_RECEIVE: u32 = 1;
const NO_SEND: u32 = 2;

/// What is to be done with the connection after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// It goes on.
    Stay,
    /// It is over, and the guest is told.
    Reset,
    /// It is over, and the guest knows.
    Gone,
}

/// The fields of a packet that depend on the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Control {
    pub(super) op: u16,
    pub(super) flags: u32,
    pub(super) buf_alloc: u32,
    pub(super) fwd_cnt: u32,
}

enum Stage {
    /// The host's program says where it wants to.
    Greeting(Vec<u8>),
    /// The guest has been asked, or will be.
    Requested,
    Open,
}

/// A connection.
pub(super) struct Connection {
    stream: UnixStream,
    host_port: u32,
    guest_port: Option<u32>,
    stage: Stage,
    watched: Option<EventSet>,
    /// Bytes of the guest's that the stream has not taken yet.
    waiting: VecDeque<u8>,
    /// Bytes that the stream has taken, and what the guest knows of it.
    taken: u32,
    told: u32,
    /// Bytes sent to the guest; how many it can hold, and has taken.
    sent: u32,
    peer_room: u32,
    peer_taken: u32,
    /// What the guest will not do any more: `NO_RECEIVE`, `NO_SEND`.
    peer_ended: u32,
    /// What we will not, and what of it the guest has been told.
    ended: u32,
    ended_told: u32,
    /// The REQUEST or RESPONSE that the guest has to get before anything else.
    opening_due: Option<u16>,
    credit_due: bool,
}

impl Connection {
    /// The host's side is there; waits for its greeting.
    pub(super) fn new(
        stream: UnixStream,
        token: u32,
        host_port: u32,
        watch: &mut Watch<'_, '_>,
    ) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        watch.add(&stream, token, EventSet::IN)?;
        let mut connection = Self::at(stream, host_port, Stage::Greeting(Vec::new()));
        connection.watched = Some(EventSet::IN);
        Ok(connection)
    }

    /// The guest has asked for it by `request`, and is to be answered. The stream does not block.
    pub(super) fn accepted(
        stream: UnixStream,
        ports: Ports,
        request: &VsockPacket<'_, ()>,
    ) -> Self {
        Self {
            guest_port: Some(ports.guest),
            peer_room: request.buf_alloc(),
            peer_taken: request.fwd_cnt(),
            opening_due: Some(op::RESPONSE),
            ..Self::at(stream, ports.host, Stage::Open)
        }
    }

    fn at(stream: UnixStream, host_port: u32, stage: Stage) -> Self {
        Self {
            stream,
            host_port,
            guest_port: None,
            stage,
            watched: None,
            waiting: VecDeque::new(),
            taken: 0,
            told: 0,
            sent: 0,
            peer_room: 0,
            peer_taken: 0,
            peer_ended: 0,
            ended: 0,
            ended_told: 0,
            opening_due: None,
            credit_due: false,
        }
    }

    /// Both ports, once the host's program has named the guest's.
    pub(super) fn ports(&self) -> Option<Ports> {
        self.guest_port.map(|guest| Ports { host: self.host_port, guest })
    }

    /// Waits for what can be dealt with now. A stream whose other end is closed is always ready, so one of which nothing
    /// is wanted is not waited for at all.
    pub(super) fn watch(&mut self, token: u32, guest_full: bool, watch: &mut Watch<'_, '_>) {
        let wanted = match self.stage {
            Stage::Greeting(_) => Some(EventSet::IN),
            Stage::Requested => Some(EventSet::empty()),
            Stage::Open => {
                let mut events = EventSet::empty();
                events.set(EventSet::IN, !guest_full && self.can_send());
                events.set(EventSet::OUT, !self.waiting.is_empty());
                (!events.is_empty()).then_some(events)
            }
        };
        match (self.watched, wanted) {
            (before, after) if before == after => return,
            (_, None) => watch.remove(&self.stream),
            (None, Some(events)) => drop(watch.add(&self.stream, token, events)),
            (Some(_), Some(events)) => watch.modify(&self.stream, token, events),
        }
        self.watched = wanted;
    }

    /// Is not waited for any more; the stream is closed when this is dropped.
    pub(super) fn forget(&mut self, watch: &mut Watch<'_, '_>) {
        if self.watched.take().is_some() {
            watch.remove(&self.stream);
        }
    }

    /// Whether the guest can be sent data.
    pub(super) fn can_send(&self) -> bool {
        matches!(self.stage, Stage::Open)
            && self.opening_due.is_none()
            && self.ended & NO_SEND == 0
            && self.peer_ended & NO_RECEIVE == 0
            && self.credit() > 0
    }

    /// How many bytes more the guest can hold. One that counts wrongly harms its own connection.
    fn credit(&self) -> u32 {
        self.peer_room.saturating_sub(self.sent.wrapping_sub(self.peer_taken))
    }

    fn control(&self, op: u16, flags: u32) -> Control {
        Control { op, flags, buf_alloc: BUFFER, fwd_cnt: self.taken }
    }

    /// The next packet without data that the guest has to get.
    pub(super) fn due(&self) -> Option<Control> {
        match self.stage {
            Stage::Greeting(_) => None,
            _ if let Some(op) = self.opening_due => Some(self.control(op, 0)),
            Stage::Requested => None,
            Stage::Open if self.credit_due => Some(self.control(op::CREDIT_UPDATE, 0)),
            Stage::Open if self.ended != self.ended_told => {
                Some(self.control(op::SHUTDOWN, self.ended))
            }
            Stage::Open => None,
        }
    }

    /// The guest has got it.
    pub(super) fn sent(&mut self, header: Control) {
        match header.op {
            op::REQUEST | op::RESPONSE => self.opening_due = None,
            op::CREDIT_UPDATE => self.credit_due = false,
            op::SHUTDOWN => self.ended_told = header.flags,
            _ => {}
        }
        self.told = header.fwd_cnt;
    }

    /// The header of a packet with data.
    pub(super) fn data_header(&self) -> Control {
        self.control(op::DATA, 0)
    }

    /// Reads from the stream into the guest's buffer, as far as it has credit. 0 if there is nothing, now or for ever.
    pub(super) fn read(&mut self, room: VolatileSlice<'_, ()>) -> Result<u32, ()> {
        let length = room.len().min(self.credit() as usize);
        let mut part = room.get_slice(0, length).map_err(drop)?;
        match self.stream.read_volatile(&mut part) {
            Ok(0) => {
                self.ended |= NO_SEND;
                Ok(0)
            }
            Ok(count) => {
                self.sent = self.sent.wrapping_add(count as u32);
                self.told = self.taken;
                Ok(count as u32)
            }
            Err(VolatileMemoryError::IOError(error)) if would_block(&error) => Ok(0),
            Err(_) => Err(()),
        }
    }

    /// The stream is ready for something.
    pub(super) fn ready(&mut self) -> After {
        match self.stage {
            Stage::Greeting(_) => self.greet(),
            // It has hung up before the guest answered, or was asked.
            Stage::Requested if self.opening_due.is_some() => After::Gone,
            Stage::Requested => After::Reset,
            Stage::Open => self.flush(),
        }
    }

    /// Byte by byte, because what follows the line is the guest's.
    fn greet(&mut self) -> After {
        let Stage::Greeting(line) = &mut self.stage else { return After::Stay };
        let mut byte = [0];
        while line.len() < GREETING {
            match (&self.stream).read(&mut byte) {
                Ok(1) if byte == *b"\n" => {
                    let port = std::str::from_utf8(line)
                        .ok()
                        .and_then(|line| line.strip_prefix("CONNECT "));
                    let Some(port) = port.and_then(|port| port.parse().ok()) else {
                        return After::Gone;
                    };
                    self.guest_port = Some(port);
                    self.stage = Stage::Requested;
                    self.opening_due = Some(op::REQUEST);
                    return After::Stay;
                }
                Ok(1) => line.push(byte[0]),
                Err(error) if would_block(&error) => return After::Stay,
                _ => return After::Gone,
            }
        }
        After::Gone
    }

    /// A packet of the guest's.
    pub(super) fn receive(&mut self, packet: &VsockPacket<'_, ()>) -> After {
        self.peer_room = packet.buf_alloc();
        self.peer_taken = packet.fwd_cnt();
        match (&self.stage, packet.op()) {
            (_, op::RESET) => After::Gone,
            (Stage::Requested, op::RESPONSE) => {
                self.stage = Stage::Open;
                let answer = format!("OK {}\n", self.host_port);
                // A new stream has room for a line.
                match self.stream.write_all(answer.as_bytes()) {
                    Ok(()) => After::Stay,
                    Err(_) => After::Reset,
                }
            }
            (Stage::Open, op::DATA) if self.peer_ended & NO_SEND == 0 => self.take(packet),
            (Stage::Open, op::CREDIT_UPDATE) => After::Stay,
            (Stage::Open, op::CREDIT_REQUEST) => {
                self.credit_due = true;
                After::Stay
            }
            (Stage::Open, op::SHUTDOWN) => {
                self.peer_ended |= packet.flags() & (NO_RECEIVE | NO_SEND);
                self.flush()
            }
            _ => After::Reset,
        }
    }

    fn take(&mut self, packet: &VsockPacket<'_, ()>) -> After {
        let Some(data) = packet.data_slice() else { return After::Stay };
        if self.waiting.len() + data.len() > BUFFER as usize {
            return After::Reset; // more than it has credit for
        }
        let mut bytes = vec![0; data.len()];
        data.copy_to(&mut bytes);
        self.waiting.extend(bytes);
        self.flush()
    }

    /// Writes what waits; ends the stream, and the connection, when all is written and the guest wants it.
    fn flush(&mut self) -> After {
        while !self.waiting.is_empty() {
            match self.stream.write(self.waiting.as_slices().0) {
                Ok(count) => {
                    self.waiting.drain(..count);
                    self.taken = self.taken.wrapping_add(count as u32);
                }
                Err(error) if would_block(&error) => break,
                Err(_) => return After::Reset,
            }
        }
        // The guest learns of room before it has none.
        if self.taken.wrapping_sub(self.told) >= BUFFER / 2 {
            self.credit_due = true;
        }
        if self.waiting.is_empty() && self.peer_ended & NO_SEND != 0 {
            let _ = self.stream.shutdown(Shutdown::Write);
            if self.peer_ended & NO_RECEIVE != 0 {
                return After::Reset;
            }
        }
        After::Stay
    }
}

fn would_block(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
