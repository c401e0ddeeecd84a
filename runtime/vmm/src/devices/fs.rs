//! A file system of the host (Virtual I/O Device 1.2, section 5.11), which another process serves.
//!
//! The monitor opens no file. A request of the guest's is one packet to the *share server*, over a `SOCK_SEQPACKET`
//! socket, and the answer is one packet; the server sees no memory of the guest. What is checked here is the envelope:
//! how long a message is, by what its header says and by what is there, how many are under way, and that an answer
//! belongs to a request. What the messages mean is the server's to check.
//!
//! Requests get numbers of our own on their way, and answers the guest's back: a guest that uses a number twice, or
//! that resets the device while answers are on their way, mixes up nothing.
//!
//! `FUSE_INTERRUPT` ends here. The server does requests one after the other and none of them waits for anything but
//! the host's disk; what it asked to interrupt is answered before the interruption could be read.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::sockopt::SockType as SocketType;
use nix::sys::socket::{MsgFlags, SockType, getsockopt, recv, send};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;

use crate::config::Share;
use crate::ending::{End, Ending};
use crate::error::{Error, Result};
use crate::virtio::{Broken, Chain, Device, Fate, Rings, Watch};

/// The queues: one for messages that do not wait behind others, one for requests.
const QUEUES: usize = 2;
const TAG: usize = 36;

/// The largest message either way: what the server tells the guest to be the largest piece of a file, and a page for
/// what is around it. A packet of this size fits the default buffer of a socket (`net.core.wmem_default`, 208 KiB).
pub(crate) const LARGEST: usize = (128 << 10) + 4096;
/// Requests that the server has, of all queues.
const UNDER_WAY: usize = 256;
/// Descriptors of a chain that are written to; further ones are no room.
const PARTS: usize = 256;
/// Answers before it is another device's turn.
const TURN: usize = 16;

/// Lengths of the headers of a request and of an answer.
const IN_HEADER: usize = 40;
const OUT_HEADER: usize = 16;

const FORGET: u32 = 2;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;

const SERVER: u32 = 0;

/// The file system device.
pub(crate) struct FileSystem {
    configuration: Vec<u8>,
    name: String,
    server: OwnedFd,
    end: End,
    /// By our number.
    under_way: BTreeMap<u64, Waiting>,
    next: u64,
    /// The first number since the driver has set the device up: older answers are nobody's.
    oldest: u64,
    stalled: Stalled,
    buffer: Vec<u8>,
}

/// Why chains are left in the queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stalled {
    No,
    /// The server has as much as it may.
    Full,
    /// The socket takes no more at present.
    Socket,
    /// The server ended, and so will the machine.
    Over,
}

/// A chain that waits for its answer.
struct Waiting {
    queue: usize,
    head: u16,
    /// The guest's number.
    unique: u64,
    room: Vec<(GuestAddress, u32)>,
}

impl FileSystem {
    /// A device of this share. When its server ends, so does the machine.
    pub(crate) fn new(share: Share, end: End) -> Result<Self> {
        let operation = || format!("make file system device {:?}", share.tag);
        if share.tag.is_empty() || share.tag.len() > TAG || share.tag.contains('\0') {
            let reason = format_args!("a tag has 1 to {TAG} bytes, and no NUL");
            return Err(Error::new(operation(), reason));
        }
        let kind = getsockopt(&share.server, SocketType)
            .map_err(|errno| Error::io(operation(), "getsockopt", &errno.into()))?;
        if kind != SockType::SeqPacket {
            return Err(Error::new(operation(), "its socket is not SOCK_SEQPACKET"));
        }
        // The tag, and the number of queues for requests.
        let mut configuration = share.tag.clone().into_bytes();
        configuration.resize(TAG, 0);
        configuration.extend(1_u32.to_le_bytes());
        Ok(Self {
            configuration,
            name: share.tag,
            server: share.server,
            end,
            under_way: BTreeMap::new(),
            next: 1,
            oldest: 1,
            stalled: Stalled::No,
            buffer: Vec::new(),
        })
    }

    /// Takes one chain; called for each, until one has to wait.
    fn request(&mut self, queue: usize, memory: &GuestMemoryMmap, chain: Chain<'_>) -> Fate {
        if self.under_way.len() >= UNDER_WAY {
            self.stalled = Stalled::Full;
            return Fate::Later;
        }
        let (head, room) = (chain.head_index(), room(&chain));
        let header = match read(memory, chain, &mut self.buffer) {
            Ok(header) => header,
            Err(unique) => return Fate::Used(refuse(memory, &room, unique, Errno::EINVAL)),
        };
        if header.opcode == INTERRUPT {
            return Fate::Used(0);
        }
        let number = self.next;
        self.buffer[8..16].copy_from_slice(&number.to_le_bytes());
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match send(self.server.as_raw_fd(), &self.buffer, flags) {
            Ok(_) => self.next += 1,
            Err(Errno::EAGAIN) => {
                self.stalled = Stalled::Socket;
                return Fate::Later;
            }
            Err(errno) => {
                self.fail("send", errno);
                return Fate::Later;
            }
        }
        if matches!(header.opcode, FORGET | BATCH_FORGET) {
            return Fate::Used(0);
        }
        self.under_way.insert(number, Waiting { queue, head, unique: header.unique, room });
        Fate::Kept
    }

    fn forward(&mut self, queue: usize, rings: &mut Rings) -> std::result::Result<(), Broken> {
        if self.stalled == Stalled::No {
            rings.take(queue, |memory, chain| self.request(queue, memory, chain))?;
        }
        Ok(())
    }

    fn watch(&self, watch: &mut Watch<'_, '_>) {
        match self.stalled {
            Stalled::Over => watch.remove(&self.server),
            Stalled::Socket => watch.modify(&self.server, SERVER, EventSet::IN | EventSet::OUT),
            Stalled::No | Stalled::Full => watch.modify(&self.server, SERVER, EventSet::IN),
        }
    }

    /// Takes one answer off the socket; false if there is none.
    fn answer(&mut self, rings: &mut Rings) -> std::result::Result<bool, Broken> {
        self.buffer.resize(LARGEST + 1, 0);
        let length = match recv(self.server.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => {
                self.say("it ended");
                return Ok(false);
            }
            Ok(length) => length,
            Err(Errno::EAGAIN) => return Ok(false),
            Err(errno) => {
                self.fail("recv", errno);
                return Ok(false);
            }
        };
        let message = &mut self.buffer[..length];
        let told = out_header(message).filter(|&(told, _)| told == length && length <= LARGEST);
        let Some((_, number)) = told else {
            self.say("it sent what is no message");
            return Ok(false);
        };
        let Some(waiting) = self.under_way.remove(&number) else {
            // The driver has reset the device since.
            if (1..self.oldest).contains(&number) {
                return Ok(true);
            }
            self.say("it answered what was not asked");
            return Ok(false);
        };
        message[8..16].copy_from_slice(&waiting.unique.to_le_bytes());
        let fits = waiting.room.iter().map(|&(_, part)| part as usize).sum::<usize>() >= length;
        let written = match write(&rings.memory, &waiting.room, message) {
            Some(written) if fits => written,
            _ => refuse(&rings.memory, &waiting.room, waiting.unique, Errno::EIO),
        };
        rings.give_back(waiting.queue, waiting.head, written)?;
        Ok(true)
    }

    fn fail(&mut self, call: &str, errno: Errno) {
        match errno {
            Errno::EPIPE | Errno::ECONNRESET => self.say("it ended"),
            errno => self.over(Error::io(self.operation(), call, &errno.into())),
        }
    }

    fn say(&mut self, reason: &str) {
        self.over(Error::new(self.operation(), reason));
    }

    fn over(&mut self, error: Error) {
        self.stalled = Stalled::Over;
        self.end.say(Ending::Failed(error));
    }

    fn operation(&self) -> String {
        format!("use the share server of {:?}", self.name)
    }
}

/// What is of interest in a request's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    opcode: u32,
    unique: u64,
}

/// The header of a request, if the message is as long as it says.
pub(crate) fn in_header(message: &[u8]) -> Option<Header> {
    let number = |at: usize| Some(u32::from_le_bytes(*message.get(at..)?.first_chunk()?));
    let unique = u64::from_le_bytes(*message.get(8..)?.first_chunk()?);
    let whole = message.len() >= IN_HEADER && number(0)? as usize == message.len();
    whole.then_some(Header { opcode: number(4)?, unique })
}

/// The length that an answer says it has, and its number.
fn out_header(message: &[u8]) -> Option<(usize, u64)> {
    let length = u32::from_le_bytes(*message.first_chunk()?);
    let number = u64::from_le_bytes(*message.get(8..OUT_HEADER)?.first_chunk()?);
    Some((length as usize, number))
}

/// Reads the message of the chain; one that is none is told with its number, so far as it has one.
fn read(
    memory: &GuestMemoryMmap,
    chain: Chain<'_>,
    buffer: &mut Vec<u8>,
) -> std::result::Result<Header, u64> {
    use std::io::Read;
    let Ok(mut reader) = chain.reader(memory) else { return Err(0) };
    let length = reader.available_bytes();
    buffer.resize(length.min(LARGEST), 0);
    let complete = reader.read_exact(buffer).is_ok() && length <= LARGEST;
    match in_header(buffer) {
        Some(header) if complete => Ok(header),
        _ => Err(out_header(buffer).map_or(0, |(_, unique)| unique)),
    }
}

/// Where the answer goes.
fn room(chain: &Chain<'_>) -> Vec<(GuestAddress, u32)> {
    chain.clone().writable().take(PARTS).map(|part| (part.addr(), part.len())).collect()
}

/// Writes the message into the room; answers how long it is, or nothing if a part is no memory.
fn write(memory: &GuestMemoryMmap, room: &[(GuestAddress, u32)], message: &[u8]) -> Option<u32> {
    let mut rest = message;
    for &(address, length) in room {
        let (part, behind) = rest.split_at(rest.len().min(length as usize));
        memory.write_slice(part, address).ok()?;
        rest = behind;
    }
    rest.is_empty().then_some(message.len() as u32)
}

/// Answers that the request failed, where there is room for that.
fn refuse(
    memory: &GuestMemoryMmap,
    room: &[(GuestAddress, u32)],
    unique: u64,
    errno: Errno,
) -> u32 {
    let error = -(errno as i32);
    let header =
        [&(OUT_HEADER as u32).to_le_bytes()[..], &error.to_le_bytes(), &unique.to_le_bytes()];
    write(memory, room, &header.concat()).unwrap_or(0)
}

impl Device for FileSystem {
    fn id(&self) -> u32 {
        26
    }

    fn features(&self) -> u64 {
        0
    }

    fn queues(&self) -> usize {
        QUEUES
    }

    fn configuration(&self) -> &[u8] {
        &self.configuration
    }

    fn begin(&mut self, _: &mut Rings, watch: &mut Watch<'_, '_>) {
        if let Err(error) = watch.add(&self.server, SERVER, EventSet::IN) {
            self.over(Error::io(self.operation(), "epoll_ctl", &error));
        }
    }

    fn serve(
        &mut self,
        queue: usize,
        rings: &mut Rings,
        watch: &mut Watch<'_, '_>,
    ) -> std::result::Result<(), Broken> {
        self.forward(queue, rings)?;
        self.watch(watch);
        Ok(())
    }

    fn ready(
        &mut self,
        _: u32,
        rings: &mut Rings,
        watch: &mut Watch<'_, '_>,
    ) -> std::result::Result<(), Broken> {
        for _ in 0..TURN {
            if !self.answer(rings)? {
                break;
            }
        }
        if self.stalled != Stalled::Over {
            self.stalled = Stalled::No;
        }
        for queue in 0..QUEUES {
            self.forward(queue, rings)?;
        }
        self.watch(watch);
        Ok(())
    }

    fn end(&mut self, watch: &mut Watch<'_, '_>) {
        watch.remove(&self.server);
        self.under_way.clear();
        self.oldest = self.next;
        if self.stalled != Stalled::Over {
            self.stalled = Stalled::No;
        }
    }
}
