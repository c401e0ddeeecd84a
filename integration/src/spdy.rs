//! SPDY/3.1 over TCP, as far as `kubectl exec`, `attach` and `port-forward` use it.
//!
//! A request is upgraded; then the client opens streams, which have headers and carry bytes both ways, and each
//! side ends its half when it is done. <https://www.chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1/>.
//! Header blocks are a zlib stream: ours is made of stored blocks, the server's is not looked into, as it
//! says nothing. Windows are not kept: Kubernetes' implementation has none.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use oci_tests::check::{Res, cut, fail};

use crate::stage::Stage;

const SYN_STREAM: u8 = 1;
const RST_STREAM: u8 = 3;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

/// The flag of a frame that ends its sender's half of the stream.
const FIN: u8 = 1;

/// Begins a zlib stream that has the dictionary with this checksum, which is SPDY's.
const ZLIB_HEADER: [u8; 6] = [0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2];

/// An empty stored block: what came before it can be read now.
const ZLIB_FLUSH: [u8; 5] = [0, 0, 0, 0xff, 0xff];

/// How often the deadline is looked at while nothing comes.
const TICK: Duration = Duration::from_millis(100);

/// What has come of one stream.
#[derive(Clone, Debug, Default)]
pub struct Received {
    /// All bytes so far.
    pub bytes: Vec<u8>,
    /// Whether no more will come.
    pub ended: bool,
}

impl Received {
    /// The bytes as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// A connection that speaks SPDY.
pub struct Connection<'s> {
    stage: &'s Stage,
    socket: TcpStream,
    last: u32,
    streams: BTreeMap<u32, Received>,
    closed: bool,
}

impl<'s> Connection<'s> {
    /// Upgrades a request of this URL, without TLS, to one of Kubernetes' protocols of streams.
    pub fn open(stage: &'s Stage, url: &str, protocol: &str) -> Res<Self> {
        let place = url.strip_prefix("http://").and_then(|rest| rest.split_once('/'));
        let Some((host, path)) = place else {
            return fail(format!("not a URL of the streaming server: {url:?}"));
        };
        let mut socket = TcpStream::connect(host)?;
        socket.set_read_timeout(Some(TICK))?;
        socket.set_write_timeout(Some(stage.remaining().max(TICK)))?;
        let request = format!(
            "POST /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
             X-Stream-Protocol-Version: {protocol}\r\nContent-Length: 0\r\n\r\n"
        );
        socket.write_all(request.as_bytes())?;
        let mut new = Self { stage, socket, last: 0, streams: BTreeMap::new(), closed: false };
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match new.take::<1>()? {
                Some([byte]) => head.push(byte),
                None => break,
            }
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        if !head.starts_with("HTTP/1.1 101 ") || !head.contains(protocol) {
            return fail(format!("upgrade {url}: {}", cut(&head)));
        }
        Ok(new)
    }

    /// Opens a stream with these headers, whose names are in lower case.
    pub fn stream(&mut self, headers: &[(&str, &str)]) -> Res<u32> {
        let id = if self.last == 0 { 1 } else { self.last + 2 };
        let mut block = (headers.len() as u32).to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.extend((text.len() as u32).to_be_bytes());
            block.extend(text.as_bytes());
        }
        let mut body = id.to_be_bytes().to_vec();
        // No associated stream, the highest priority, no slot.
        body.extend([0; 6]);
        if self.last == 0 {
            body.extend(ZLIB_HEADER);
        }
        let length = block.len() as u16;
        body.push(0);
        body.extend(length.to_le_bytes());
        body.extend((!length).to_le_bytes());
        body.extend(block);
        body.extend(ZLIB_FLUSH);
        self.control(SYN_STREAM, &body)?;
        self.last = id;
        self.streams.insert(id, Received::default());
        Ok(id)
    }

    /// Sends bytes.
    pub fn send(&mut self, stream: u32, bytes: &[u8]) -> Res {
        for part in bytes.chunks(32 << 10) {
            self.data(stream, 0, part)?;
        }
        Ok(())
    }

    /// Ends our half of a stream.
    pub fn finish(&mut self, stream: u32) -> Res {
        self.data(stream, FIN, &[])
    }

    /// What has come so far.
    pub fn received(&self, stream: u32) -> Received {
        self.streams.get(&stream).cloned().unwrap_or_default()
    }

    /// Receives until the fact holds; fails at the deadline, and when the server has closed before.
    pub fn until(&mut self, what: &str, fact: impl Fn(&Self) -> bool) -> Res {
        while !fact(self) {
            if self.closed {
                return fail(format!("{what}: the server closed before: {:?}", self.brief()));
            }
            if !self.frame()? {
                return fail(format!("{what}: did not happen in time: {:?}", self.brief()));
            }
        }
        Ok(())
    }

    /// Receives until the server has closed the connection.
    pub fn until_closed(&mut self) -> Res {
        self.until("the server closes the connection", |own| own.closed)
    }

    fn brief(&self) -> Vec<String> {
        self.streams.iter().map(|(id, stream)| format!("{id}: {}", cut(&stream.text()))).collect()
    }

    fn control(&mut self, kind: u8, body: &[u8]) -> Res {
        let mut frame = vec![0x80, 3, 0, kind];
        frame.extend((body.len() as u32).to_be_bytes());
        frame.extend(body);
        Ok(self.socket.write_all(&frame)?)
    }

    fn data(&mut self, stream: u32, flags: u8, bytes: &[u8]) -> Res {
        let mut frame = stream.to_be_bytes().to_vec();
        frame.extend((u32::from(flags) << 24 | bytes.len() as u32).to_be_bytes());
        frame.extend(bytes);
        Ok(self.socket.write_all(&frame)?)
    }

    /// Reads one frame and takes note of it; not so when the time is over.
    fn frame(&mut self) -> Res<bool> {
        let Some(head) = self.take::<8>()? else {
            return Ok(self.closed);
        };
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]);
        let mut body = vec![0; length as usize];
        if !self.fill(&mut body)? {
            return Ok(self.closed);
        }
        let number = |bytes: &[u8]| {
            let bytes = bytes.first_chunk::<4>();
            bytes.map_or(0, |bytes| u32::from_be_bytes(*bytes))
        };
        if head[0] & 0x80 == 0 {
            let stream = self.streams.entry(number(&head)).or_default();
            stream.bytes.extend(body);
            stream.ended |= head[4] & FIN != 0;
            return Ok(true);
        }
        match head[3] {
            PING => self.control(PING, &body)?,
            RST_STREAM => self.streams.entry(number(&body)).or_default().ended = true,
            GOAWAY => self.closed = true,
            _ => {}
        }
        Ok(true)
    }

    /// The next bytes; none when the server has closed, or the time is over.
    fn take<const N: usize>(&mut self) -> Res<Option<[u8; N]>> {
        let mut bytes = [0; N];
        Ok(self.fill(&mut bytes)?.then_some(bytes))
    }

    fn fill(&mut self, mut space: &mut [u8]) -> Res<bool> {
        while !space.is_empty() {
            match self.socket.read(space) {
                Ok(count) if count > 0 => space = &mut space[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if self.stage.remaining().is_zero() {
                        return Ok(false);
                    }
                }
                Err(error) if error.kind() != ErrorKind::ConnectionReset => {
                    return Err(error.into());
                }
                Ok(_) | Err(_) => {
                    self.closed = true;
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}
