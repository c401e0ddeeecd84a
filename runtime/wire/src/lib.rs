//! What the host and the agent, which is the guest's first process, say to each other over vsock.
//!
//! This crate has the messages and the frames around them, and no I/O. Whoever reads takes the other side for
//! hostile: a frame has a bounded length, and one that is not a message ends the connection.
//!
//! ```text
//! agent                                   host
//!   | connects to the host's port HELLO      |      once, when the guest is up
//!   |  Hello -->                             |
//!   |                              <-- Welcome      time, entropy
//!   |  Serving -->                           |      listens on AGENT from now on
//!   |  Notice --> ...                        |      the connection lives as long as the guest
//!
//!   |                     connects to AGENT  |      one connection for each call, stream and process
//!   |                              <-- Opening
//! ```
//!
//! A connection is one of three, by its first frame, [`Opening`]:
//!
//! - A **call**: one [`Call`], one [`Answer`], and it ends.
//! - A **process**, the first of a container or a further one: the agent answers [`Answer::Created`] when it is ready
//!   to run; the host says [`Word::Start`] and the agent answers [`Answer::Started`]; [`Answer::Exited`] is the last
//!   frame, after the last byte of every stream was sent. [`Answer::Failed`] ends it at any time. When the host closes
//!   the connection whoever stood for the process is dead, and so is the process.
//! - A **stream** of a process, which the process' connection has announced by its token: after the first frame there
//!   are no frames any more but the stream's bytes. Whoever has no more to say shuts its side down.

mod frame;
mod messages;

pub use frame::{Broken, Frames, LONGEST, frame};
pub use messages::{
    Answer, Call, Disk, Error, ErrorKind, Exec, First, Hello, Notice, Opening, Root, Row, Size,
    StreamName, Streams, Token, Welcome, Word,
};

/// A literal, for [`VERSION`] and for text.
macro_rules! version {
    () => {
        1
    };
}

/// Version of the messages. Host and agent of different versions do not talk.
pub const VERSION: u32 = version!();
/// What the agent says of itself when it is run by hand; and, as it lies in the program's file, that by which
/// `bulkhead vm setup` tells an agent from other programs, and its version: behind the [`IDENTITY_MARK`] its own
/// version, a blank and that of the messages.
pub const IDENTITY: &str =
    concat!("bulkhead-agent: version ", env!("CARGO_PKG_VERSION"), " ", version!(), "\n");
/// How every [`IDENTITY`] begins.
pub const IDENTITY_MARK: &str = "bulkhead-agent: version ";
/// The host's port that the agent connects to.
pub const HELLO: u32 = 1;
/// The agent's port.
pub const AGENT: u32 = 1024;
/// The tag of the shared file system.
pub const SHARE_TAG: &str = "bulkhead";
/// Where the agent mounts the shared file system: the container's files are in directories `0`, `1` ... there.
pub const SHARES: &str = "/run/bulkhead/shares";
/// Where the agent mounts the disk with a container's root file system: the container's id below this.
pub const ROOTS: &str = "/run/bulkhead/roots";
