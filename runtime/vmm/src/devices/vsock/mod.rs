//! Sockets between host and guest (Virtual I/O Device 1.2, section 5.10), without the host's vsock.
//!
//! A program of the host connects to a Unix socket, writes `CONNECT PORT\n`, reads `OK NUMBER\n`, and is then
//! connected to that port of the guest: the convention of Firecracker and Cloud Hypervisor. The guest can connect to
//! those ports of the host alone that the description names, and once to each: the other end of such a connection is
//! there before the guest is, so a guest reaches nothing of the host that nobody has given it.
//!
//! A guest may send any packet. A packet belongs to a connection by its two ports, or is answered by a reset. What
//! one connection holds for a slow reader is bounded by the credit it gave, and so are connections and resets.

mod connection;

use std::collections::{BTreeMap, VecDeque};
use std::os::unix::net::{UnixListener, UnixStream};

use virtio_vsock::packet::VsockPacket;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::epoll::EventSet;

use self::connection::{After, BUFFER, Connection, Control};
use crate::config::Vsock;
use crate::error::{Error, Result};
use crate::virtio::{Broken, Chain, Device, Filled, Rings, Watch};

const RECEIVE: usize = 0;
const SEND: usize = 1;

const HOST: u64 = 2;
const STREAM: u16 = 1;
const HEADER: u32 = 44;

/// Connections at a time, whoever opened them, and resets that wait for the guest to take them.
const CONNECTIONS: usize = 256;
/// Packets of one connection before it is another's turn.
const TURN: usize = 16;
/// Ports that the guest can connect to.
const PORTS: usize = 16;
/// The host's port of connections that it opens, with their token; those below are for the guest to connect to.
const FIRST_PORT: u32 = 1 << 30;

const LISTENER: u32 = 0;

/// What a packet is for.
pub(crate) mod op {
    pub(crate) const REQUEST: u16 = 1;
    pub(crate) const RESPONSE: u16 = 2;
    pub(crate) const RESET: u16 = 3;
    pub(crate) const SHUTDOWN: u16 = 4;
    pub(crate) const DATA: u16 = 5;
    pub(crate) const CREDIT_UPDATE: u16 = 6;
    pub(crate) const CREDIT_REQUEST: u16 = 7;
}

/// The ports of a connection, as the host sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ports {
    host: u32,
    guest: u32,
}

/// A port that the guest can connect to.
enum Port {
    Waiting(UnixStream),
    /// The connection has this token, while it lasts.
    Joined(u32),
}

/// The socket device.
pub(crate) struct Socket {
    cid: u64,
    configuration: [u8; 8],
    listener: UnixListener,
    ports: BTreeMap<u32, Port>,
    /// By token.
    connections: BTreeMap<u32, Connection>,
    next: u32,
    resets: VecDeque<Ports>,
    /// The guest has no buffer for us.
    full: bool,
}

impl Socket {
    /// The guest's side has the address `vsock.cid`.
    pub(crate) fn new(vsock: Vsock) -> Result<Self> {
        if !(3..u32::MAX).contains(&vsock.cid) {
            return Err(Error::new(
                "make socket device",
                format_args!("{} is no address of a guest", vsock.cid),
            ));
        }
        vsock
            .listener
            .set_nonblocking(true)
            .map_err(|error| Error::io("make socket device", "ioctl", &error))?;
        let cid = u64::from(vsock.cid);
        Ok(Self {
            cid,
            configuration: cid.to_le_bytes(),
            listener: vsock.listener,
            ports: ports(vsock.ports)?,
            connections: BTreeMap::new(),
            next: LISTENER + 1,
            resets: VecDeque::new(),
            full: false,
        })
    }

    fn accept(&mut self, watch: &mut Watch<'_, '_>) {
        // Who is not accepted waits in the socket's queue, and is looked at again when one ends.
        while self.connections.len() + self.waiting() < CONNECTIONS {
            let Ok((stream, _)) = self.listener.accept() else { return };
            let token = self.free_token();
            if let Ok(connection) = Connection::new(stream, token, FIRST_PORT + token, watch) {
                self.connections.insert(token, connection);
            }
        }
        watch.modify(&self.listener, LISTENER, EventSet::empty());
    }

    /// Ports that the guest has not connected to yet. Each has a place among the connections from the beginning.
    fn waiting(&self) -> usize {
        self.ports.values().filter(|port| matches!(port, Port::Waiting(_))).count()
    }

    /// The guest asks for a connection; false if the port is none that it can have.
    fn join(&mut self, ports: Ports, request: &VsockPacket<'_, ()>) -> bool {
        if !matches!(self.ports.get(&ports.host), Some(Port::Waiting(_))) {
            return false;
        }
        let token = self.free_token();
        let Some(Port::Waiting(stream)) = self.ports.insert(ports.host, Port::Joined(token)) else {
            return false;
        };
        self.connections.insert(token, Connection::accepted(stream, ports, request));
        true
    }

    /// The token of the connection that has these ports.
    fn token(&self, ports: Ports) -> Option<u32> {
        let token = match ports.host.checked_sub(FIRST_PORT) {
            Some(token) => token,
            None => match self.ports.get(&ports.host)? {
                Port::Joined(token) => *token,
                Port::Waiting(_) => return None,
            },
        };
        (self.connections.get(&token)?.ports() == Some(ports)).then_some(token)
    }

    /// A token in use by nobody; at most `CONNECTIONS` are.
    fn free_token(&mut self) -> u32 {
        loop {
            let token = self.next;
            self.next = if token == u32::MAX - FIRST_PORT { LISTENER + 1 } else { token + 1 };
            if !self.connections.contains_key(&token) {
                return token;
            }
        }
    }

    /// A packet of the guest's.
    fn receive(&mut self, packet: &VsockPacket<'_, ()>, watch: &mut Watch<'_, '_>) {
        let ports = Ports { host: packet.dst_port(), guest: packet.src_port() };
        if (packet.src_cid(), packet.dst_cid()) != (self.cid, HOST) {
            return;
        }
        let known = self.token(ports).filter(|_| packet.type_() == STREAM);
        let Some((token, connection)) =
            known.and_then(|token| Some((token, self.connections.get_mut(&token)?)))
        else {
            let asks = (packet.type_(), packet.op()) == (STREAM, op::REQUEST);
            if !(asks && self.join(ports, packet)) && packet.op() != op::RESET {
                self.reset(ports);
            }
            return;
        };
        let after = connection.receive(packet);
        self.follow(token, after, watch);
    }

    /// What comes of a connection after something happened to it.
    fn follow(&mut self, token: u32, after: After, watch: &mut Watch<'_, '_>) {
        if after == After::Stay {
            return;
        }
        let Some(mut connection) = self.connections.remove(&token) else { return };
        connection.forget(watch);
        if let (After::Reset, Some(ports)) = (after, connection.ports()) {
            self.reset(ports);
        }
        watch.modify(&self.listener, LISTENER, EventSet::IN);
    }

    fn reset(&mut self, ports: Ports) {
        if self.resets.len() < CONNECTIONS {
            self.resets.push_back(ports);
        }
    }

    /// Sends what is due and waits for what can be taken.
    fn settle(
        &mut self,
        rings: &mut Rings,
        watch: &mut Watch<'_, '_>,
    ) -> std::result::Result<(), Broken> {
        while let Some(ports) = self.resets.front().copied() {
            let header = Control { op: op::RESET, flags: 0, buf_alloc: 0, fwd_cnt: 0 };
            if !self.control(rings, ports, header)? {
                break;
            }
            self.resets.pop_front();
        }
        let tokens: Vec<u32> = self.connections.keys().copied().collect();
        for token in tokens {
            while let Some(connection) = self.connections.get(&token)
                && let (Some(header), Some(ports)) = (connection.due(), connection.ports())
                && self.control(rings, ports, header)?
            {
                if let Some(connection) = self.connections.get_mut(&token) {
                    connection.sent(header);
                }
            }
        }
        for (token, connection) in &mut self.connections {
            connection.watch(*token, self.full, watch);
        }
        Ok(())
    }

    /// Sends a packet without data; false if the guest has no buffer for it.
    fn control(
        &mut self,
        rings: &mut Rings,
        ports: Ports,
        header: Control,
    ) -> std::result::Result<bool, Broken> {
        if self.full {
            return Ok(false);
        }
        let cid = self.cid;
        let filled = rings.fill(RECEIVE, |memory, mut chain| {
            Some(packet(memory, &mut chain, cid, ports, header).map_or(0, |_| HEADER))
        })?;
        self.full = filled == Filled::Full;
        Ok(!self.full)
    }

    /// Takes from a stream what the guest has room and credit for.
    fn forward(&mut self, token: u32, rings: &mut Rings) -> std::result::Result<After, Broken> {
        for _ in 0..TURN {
            let Some(connection) = self.connections.get_mut(&token) else { return Ok(After::Stay) };
            let (cid, Some(ports)) = (self.cid, connection.ports()) else {
                return Ok(After::Stay);
            };
            if self.full || !connection.can_send() {
                return Ok(After::Stay);
            }
            let header = connection.data_header();
            let mut after = After::Stay;
            let filled = rings.fill(RECEIVE, |memory, mut chain| {
                let Some(mut packet) = packet(memory, &mut chain, cid, ports, header) else {
                    return Some(0);
                };
                let room = *packet.data_slice()?;
                match connection.read(room) {
                    Ok(0) => None,
                    Ok(length) => {
                        packet.set_len(length);
                        Some(HEADER + length)
                    }
                    Err(()) => {
                        after = After::Reset;
                        None
                    }
                }
            })?;
            self.full = filled == Filled::Full;
            if filled != Filled::One || after != After::Stay {
                return Ok(after);
            }
        }
        Ok(After::Stay)
    }
}

/// The ports that a description names, each with a stream that does not block.
fn ports(given: Vec<crate::config::Port>) -> Result<BTreeMap<u32, Port>> {
    let mut ports = BTreeMap::new();
    for crate::config::Port { port, stream } in given {
        let error = |cause: &str| Error::new(format!("offer port {port} to the guest"), cause);
        let io = |call| {
            move |cause: std::io::Error| {
                Error::io(format!("offer port {port} to the guest"), call, &cause)
            }
        };
        if !(1..FIRST_PORT).contains(&port) {
            return Err(error("it is none of 1 to 1073741823"));
        }
        stream.peer_addr().map_err(io("getpeername"))?;
        stream.set_nonblocking(true).map_err(io("ioctl"))?;
        if ports.insert(port, Port::Waiting(stream)).is_some() {
            return Err(error("it is offered twice"));
        }
        if ports.len() > PORTS {
            return Err(error("a guest gets at most 16"));
        }
    }
    Ok(ports)
}

/// A packet to the guest in `chain`; none if the chain does not fit one.
fn packet<'a>(
    memory: &'a GuestMemoryMmap,
    chain: &mut Chain<'_>,
    cid: u64,
    ports: Ports,
    header: Control,
) -> Option<VsockPacket<'a, ()>> {
    let mut packet = VsockPacket::from_rx_virtq_chain(memory, chain, BUFFER).ok()?;
    packet
        .set_src_cid(HOST)
        .set_dst_cid(cid)
        .set_src_port(ports.host)
        .set_dst_port(ports.guest)
        .set_len(0)
        .set_type(STREAM)
        .set_op(header.op)
        .set_flags(header.flags)
        .set_buf_alloc(header.buf_alloc)
        .set_fwd_cnt(header.fwd_cnt);
    Some(packet)
}

impl Device for Socket {
    fn id(&self) -> u32 {
        19
    }

    fn features(&self) -> u64 {
        0
    }

    /// Receive, send, events (none of which happens).
    fn queues(&self) -> usize {
        3
    }

    fn configuration(&self) -> &[u8] {
        &self.configuration
    }

    fn begin(&mut self, _: &mut Rings, watch: &mut Watch<'_, '_>) {
        // Cannot fail but for want of kernel memory; then nobody is connected.
        let _ = watch.add(&self.listener, LISTENER, EventSet::IN);
    }

    fn serve(
        &mut self,
        queue: usize,
        rings: &mut Rings,
        watch: &mut Watch<'_, '_>,
    ) -> std::result::Result<(), Broken> {
        match queue {
            RECEIVE => self.full = false,
            SEND => rings.each(SEND, |memory, mut chain| {
                if let Ok(packet) = VsockPacket::from_tx_virtq_chain(memory, &mut chain, BUFFER) {
                    self.receive(&packet, watch);
                }
                0
            })?,
            _ => {}
        }
        self.settle(rings, watch)
    }

    fn ready(
        &mut self,
        token: u32,
        rings: &mut Rings,
        watch: &mut Watch<'_, '_>,
    ) -> std::result::Result<(), Broken> {
        if token == LISTENER {
            self.accept(watch);
        } else if let Some(connection) = self.connections.get_mut(&token) {
            let mut after = connection.ready();
            if after == After::Stay {
                after = self.forward(token, rings)?;
            }
            self.follow(token, after, watch);
        }
        self.settle(rings, watch)
    }

    fn end(&mut self, watch: &mut Watch<'_, '_>) {
        watch.remove(&self.listener);
        for connection in self.connections.values_mut() {
            connection.forget(watch);
        }
        self.connections.clear();
        self.resets.clear();
        self.full = false;
    }
}
