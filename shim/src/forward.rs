//! One connection to containerd's event service, as a client.
//!
//! ttrpc is a frame of ten bytes (length, stream, kind, flags) around a protobuf request or response.
//! The crate's client runs two threads and wakes every ten milliseconds for as long as it exists; a
//! shim lives as long as its pod and has an event now and then. One blocking exchange on one socket
//! needs neither.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::ttrpc::proto::{
    Code, KeyValue, MESSAGE_LENGTH_MAX, MESSAGE_TYPE_REQUEST, MESSAGE_TYPE_RESPONSE, Request,
    Response,
};

/// How long containerd may take for an event, as with its own shims.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where ttrpc carries containerd's namespace.
const NAMESPACE: &str = "containerd-namespace-ttrpc";

/// Why an event was not taken.
#[derive(Debug)]
pub enum Failure {
    /// The connection is of no more use; another one may do.
    Lost(io::Error),
    /// containerd does not want this event, now or later.
    Refused(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Lost(error)
    }
}

/// A connection that was made.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    /// Odd, for a client, and growing.
    next_stream: u32,
}

impl Connection {
    /// Connects to a ttrpc address: a path, with or without `unix://`.
    pub fn open(address: &str) -> io::Result<Self> {
        let path = Path::new(address.strip_prefix("unix://").unwrap_or(address));
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream, next_stream: 1 })
    }

    /// Hands over one event and waits until containerd has it.
    ///
    /// # Errors
    /// After [`Failure::Lost`] the connection must be dropped: what is read next could be the answer to
    /// this request.
    pub fn forward(&mut self, envelope: &Envelope) -> Result<(), Failure> {
        let stream = self.next_stream;
        // Wrapping would take a new connection; 2^31 events are more than a shim sends.
        self.next_stream = stream.wrapping_add(2);
        self.stream.write_all(&frame(stream, &request(envelope)?)?)?;
        loop {
            let mut header = [0; 10];
            self.stream.read_exact(&mut header)?;
            let [a, b, c, d, e, f, g, h, kind, _flags] = header;
            let length = u32::from_be_bytes([a, b, c, d]) as usize;
            if length > MESSAGE_LENGTH_MAX {
                return Err(bad("the answer is too long").into());
            }
            let mut body = vec![0; length];
            self.stream.read_exact(&mut body)?;
            if kind == MESSAGE_TYPE_RESPONSE && u32::from_be_bytes([e, f, g, h]) == stream {
                return read_answer(&body);
            }
        }
    }
}

fn request(envelope: &Envelope) -> io::Result<Request> {
    let mut forward = ForwardRequest::new();
    forward.set_envelope(envelope.clone());
    let namespace = KeyValue {
        key: NAMESPACE.to_owned(),
        value: envelope.namespace.clone(),
        ..KeyValue::default()
    };
    Ok(Request {
        service: "containerd.services.events.ttrpc.v1.Events".to_owned(),
        method: "Forward".to_owned(),
        payload: forward.write_to_bytes().map_err(io::Error::other)?,
        timeout_nano: PATIENCE.as_nanos() as i64,
        metadata: vec![namespace],
        ..Request::default()
    })
}

fn frame(stream: u32, request: &Request) -> io::Result<Vec<u8>> {
    let body = request.write_to_bytes().map_err(io::Error::other)?;
    if body.len() > MESSAGE_LENGTH_MAX {
        return Err(bad("the event is too long"));
    }
    let length = (body.len() as u32).to_be_bytes();
    Ok([&length[..], &stream.to_be_bytes(), &[MESSAGE_TYPE_REQUEST, 0], &body].concat())
}

fn read_answer(body: &[u8]) -> Result<(), Failure> {
    let response = Response::parse_from_bytes(body).map_err(io::Error::other)?;
    let Some(status) = response.status.as_ref() else { return Ok(()) };
    match status.code() {
        Code::OK => Ok(()),
        Code::UNAVAILABLE | Code::DEADLINE_EXCEEDED => {
            Err(io::Error::other(status.message.clone()).into())
        }
        _ => Err(Failure::Refused(status.message.clone())),
    }
}

fn bad(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// What a daemon would have to be broken, or not containerd at all, to answer.
    #[test]
    fn answers_that_are_none() {
        let directory = crate::testing::directory("forward");
        let path = directory.join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let endless = [&[0xff; 4][..], &[0, 0, 0, 1, MESSAGE_TYPE_RESPONSE, 0]].concat();
        let garbage = [&[0, 0, 0, 1, 0, 0, 0, 1, MESSAGE_TYPE_RESPONSE, 0][..], &[0xff]].concat();
        for answer in [endless, garbage, vec![0; 4]] {
            let address = format!("unix://{}", path.display());
            let mut connection = Connection::open(&address).unwrap();
            let (mut daemon, _) = listener.accept().unwrap();
            daemon.write_all(&answer).unwrap();
            daemon.shutdown(std::net::Shutdown::Write).unwrap();
            let result = connection.forward(&Envelope::default());
            assert!(matches!(result, Err(Failure::Lost(_))), "{result:?}");
        }
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn another_streams_answer_is_passed_over() {
        let directory = crate::testing::directory("forward");
        let path = directory.join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let mut connection = Connection::open(&path.display().to_string()).unwrap();
        let (mut daemon, _) = listener.accept().unwrap();
        for stream in [7, 1] {
            daemon.write_all(&[0, 0, 0, 0, 0, 0, 0, stream, MESSAGE_TYPE_RESPONSE, 0]).unwrap();
        }
        connection.forward(&Envelope::default()).unwrap();
        std::fs::remove_dir_all(directory).unwrap();
    }
}
