//! Frames and descriptors between creator and child.
//!
//! A `SOCK_SEQPACKET` pair: one frame is one message, so neither side parses lengths that the other
//! wrote (CVE-2021-43784 was a 16-bit length that wrapped). A frame is a tag byte and fields; strings
//! carry their own length, which is checked against the frame. Nothing from the container's files
//! is ever read from this socket: both ends are our code.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use crate::error::{Call, Cause, Context, Error, ErrorKind, Failure, Result};
use crate::messages::send_message;
use crate::sys;

/// Longest frame. An error's text is cut to fit.
const FRAME: usize = 64 * 1024;

/// What the child says to its creator.
#[derive(Debug)]
pub(crate) enum FromChild {
    /// Wants the root file system opened by the creator; answered by [`FromCreator::Descriptor`].
    Rootfs,
    /// Wants `mounts[n]`'s source opened by the creator; answered by [`FromCreator::Descriptor`].
    BindSource(u32),
    /// Wants a clone of `mounts[n]`'s source made by the creator; answered by
    /// [`FromCreator::Descriptor`].
    CloneSource(u32),
    /// Wants the ids of the detached tree that comes with this mapped as `mounts[n]` says; answered
    /// by [`FromCreator::Done`].
    Idmap(u32),
    /// May not set its own `oom_score_adj`; answered by [`FromCreator::Done`].
    OomScoreAdj,
    /// May not raise its own hard limits; answered by [`FromCreator::Done`].
    Rlimits,
    /// Namespaces and mounts are made, the root is not entered: the prestart and createRuntime hooks
    /// are due; answered by [`FromCreator::Done`].
    HooksDue,
    /// A netlink socket of the container's network namespace comes with this, for the devices that are to
    /// be moved there; answered by [`FromCreator::Done`].
    NetDevices,
    /// Has made its user namespace itself and wants the id maps written; answered by
    /// [`FromCreator::Done`].
    Maps,
    /// A second fork was needed; the descriptor that comes with this is the pidfd of the process that
    /// goes on, the number its pid in the creator's pid namespace.
    Reborn(i32),
    /// The context of a new procfs comes with this; see [`super::stripped`].
    Procfs,
    /// The terminal's master end comes with this.
    Terminal,
    /// About to install a filter whose listener will be descriptor `number` of the child. The child
    /// goes on when the word at `flag` in its memory is not zero.
    Listener { number: i32, flag: u64 },
    /// What the user should know all the same; of a guest's agent.
    Warning(String),
    /// Everything is built; waits for `start`.
    Ready,
    /// Gave up.
    Failed(Error),
}

/// What the creator says to the child.
#[derive(Debug)]
pub(crate) enum FromCreator {
    /// Id maps are written: go on.
    Go,
    /// The request is carried out.
    Done,
    /// The request is carried out; the descriptor comes with this.
    Descriptor,
    /// The request failed, for this reason.
    Failed(Error),
    /// Execute the program.
    Start,
    /// Let descriptors be copied, by becoming dumpable: the peer has no other way to the listener.
    Show,
}

/// One end of the pair.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

impl Channel {
    /// A connected pair, close-on-exec.
    pub(crate) fn pair() -> Result<(Self, Self)> {
        let (a, b) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .call("socketpair")
                .context("make", "the channel to the container's process")?;
        Ok((Self(a), Self(b)))
    }

    /// An accepted or connected socket of the same kind.
    pub(crate) fn from_socket(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Closes every descriptor from 3 on but `keep` inherited ones and this end. Only for a child that
    /// never runs the destructors of what its creator had open.
    pub(crate) fn alone(&self, keep: u32) -> std::result::Result<(), Failure> {
        sys::fd::close_all_but(&[self.0.as_fd()], keep)
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Sends one frame. A peer that is gone is an error, never a signal.
    pub(crate) fn send(
        &self,
        frame: &impl Frame,
        fd: Option<BorrowedFd<'_>>,
    ) -> std::result::Result<(), Failure> {
        let mut bytes = Vec::with_capacity(64);
        frame.write(&mut Writer(&mut bytes));
        send_message(self.0.as_fd(), &bytes, fd.as_slice()).map(drop)
    }

    /// Receives one frame; `None` when the peer closed its end.
    pub(crate) fn receive<F: Frame>(
        &self,
    ) -> std::result::Result<Option<(F, Option<OwnedFd>)>, Failure> {
        // Asking for the length is one call; a zeroed buffer for the longest frame is 16 page faults.
        let length = sys::fd::next_length(self.0.as_fd())?;
        let mut bytes = vec![0u8; length.min(FRAME)];
        let (length, fds) = sys::fd::receive(self.0.as_fd(), &mut bytes)?;
        if length == 0 {
            return Ok(None);
        }
        match F::read(&mut Reader(&bytes[..length])) {
            Some(frame) => Ok(Some((frame, fds.into_iter().next()))),
            None => Err(Failure { call: "recvmsg", errno: Errno::EBADMSG }),
        }
    }

    /// Waits until a frame or end of file is there, which is true, or the process behind `pidfd` has
    /// ended without either.
    pub(crate) fn wait_or_end(&self, pidfd: BorrowedFd<'_>) -> std::result::Result<bool, Failure> {
        loop {
            let mut polled = [
                PollFd::new(self.0.as_fd(), PollFlags::POLLIN),
                PollFd::new(pidfd, PollFlags::POLLIN),
            ];
            match nix::poll::poll(&mut polled, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(Failure { call: "poll", errno }),
                Ok(_) => return Ok(polled[0].any() != Some(false)),
            }
        }
    }

    /// Waits until a frame or end of file is there, or `milliseconds` have passed.
    pub(crate) fn wait(&self, milliseconds: u16) -> std::result::Result<bool, Failure> {
        loop {
            let mut polled = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            match nix::poll::poll(&mut polled, PollTimeout::from(milliseconds)) {
                Err(Errno::EINTR) => continue,
                other => return other.map(|ready| ready > 0).call("poll"),
            }
        }
    }
}

/// A message that can be written to and read from a frame.
pub(crate) trait Frame: Sized {
    fn write(&self, to: &mut Writer<'_>);
    fn read(from: &mut Reader<'_>) -> Option<Self>;
}

/// Appends fields.
pub(crate) struct Writer<'a>(&'a mut Vec<u8>);

impl Writer<'_> {
    fn tag(&mut self, tag: u8) {
        self.0.push(tag);
    }

    fn number(&mut self, n: i32) {
        self.0.extend_from_slice(&n.to_le_bytes());
    }

    fn address(&mut self, n: u64) {
        self.0.extend_from_slice(&n.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        const LONGEST: usize = FRAME / 4;
        let cut = (0..=text.len().min(LONGEST)).rev().find(|&n| text.is_char_boundary(n));
        let text = &text[..cut.unwrap_or(0)];
        self.number(text.len() as i32);
        self.0.extend_from_slice(text.as_bytes());
    }

    fn error(&mut self, error: &Error) {
        self.tag(error.kind() as u8);
        self.text(error.operation());
        self.text(error.subject());
        match error.cause() {
            Cause::Call(Failure { call, errno }) => {
                self.number(*errno as i32);
                self.text(call);
            }
            Cause::Reason(reason) => {
                self.number(0);
                self.text(reason);
            }
        }
    }
}

/// Takes fields off; `None` when the frame is too short or a value is out of range.
pub(crate) struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn tag(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn number(&mut self) -> Option<i32> {
        let (bytes, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(i32::from_le_bytes(*bytes))
    }

    fn address(&mut self) -> Option<u64> {
        let (bytes, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*bytes))
    }

    fn text(&mut self) -> Option<String> {
        let length = usize::try_from(self.number()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        String::from_utf8(bytes.to_vec()).ok()
    }

    fn error(&mut self) -> Option<Error> {
        let kind = ErrorKind::from_number(self.tag()?)?;
        let (operation, subject) = (self.text()?, self.text()?);
        Some(match self.number()? {
            0 => Error::new(kind, operation, subject, self.text()?),
            // The name is one of the crate's constants; the copy lives as long as the process, which
            // ends with this error.
            errno => Error::system(
                operation,
                subject,
                Failure { call: self.text()?.leak(), errno: Errno::from_raw(errno) },
            )
            .with_kind(kind),
        })
    }
}

impl Frame for FromChild {
    fn write(&self, to: &mut Writer<'_>) {
        match self {
            Self::Rootfs => to.tag(1),
            Self::BindSource(mount) => (to.tag(2), to.number(*mount as i32)).1,
            Self::CloneSource(mount) => (to.tag(3), to.number(*mount as i32)).1,
            Self::Idmap(mount) => (to.tag(4), to.number(*mount as i32)).1,
            Self::OomScoreAdj => to.tag(5),
            Self::Rlimits => to.tag(6),
            Self::HooksDue => to.tag(7),
            Self::Reborn(pid) => (to.tag(8), to.number(*pid)).1,
            Self::Terminal => to.tag(9),
            Self::Listener { number, flag } => {
                (to.tag(10), to.number(*number), to.address(*flag)).2
            }
            Self::Ready => to.tag(11),
            Self::Failed(error) => (to.tag(12), to.error(error)).1,
            Self::Maps => to.tag(13),
            Self::Procfs => to.tag(14),
            Self::NetDevices => to.tag(15),
            Self::Warning(text) => (to.tag(16), to.text(text)).1,
        }
    }

    fn read(from: &mut Reader<'_>) -> Option<Self> {
        Some(match from.tag()? {
            1 => Self::Rootfs,
            2 => Self::BindSource(from.number()?.try_into().ok()?),
            3 => Self::CloneSource(from.number()?.try_into().ok()?),
            4 => Self::Idmap(from.number()?.try_into().ok()?),
            5 => Self::OomScoreAdj,
            6 => Self::Rlimits,
            7 => Self::HooksDue,
            8 => Self::Reborn(from.number()?),
            9 => Self::Terminal,
            10 => Self::Listener { number: from.number()?, flag: from.address()? },
            11 => Self::Ready,
            12 => Self::Failed(from.error()?),
            13 => Self::Maps,
            14 => Self::Procfs,
            15 => Self::NetDevices,
            16 => Self::Warning(from.text()?),
            _ => return None,
        })
    }
}

impl Frame for FromCreator {
    fn write(&self, to: &mut Writer<'_>) {
        match self {
            Self::Go => to.tag(1),
            Self::Done => to.tag(2),
            Self::Descriptor => to.tag(3),
            Self::Failed(error) => (to.tag(4), to.error(error)).1,
            Self::Start => to.tag(5),
            Self::Show => to.tag(6),
        }
    }

    fn read(from: &mut Reader<'_>) -> Option<Self> {
        Some(match from.tag()? {
            1 => Self::Go,
            2 => Self::Done,
            3 => Self::Descriptor,
            4 => Self::Failed(from.error()?),
            5 => Self::Start,
            6 => Self::Show,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_crosses_unchanged() {
        let (a, b) = Channel::pair().unwrap();
        let errors = [
            Error::invalid("linux.namespaces[2]", "duplicate \"pid\""),
            Error::system(
                "mount",
                "\"/proc\"",
                Failure { call: "move_mount", errno: Errno::EBUSY },
            ),
            Error::new(ErrorKind::Exec, "exec", "\"sh\"", "ünïcode".repeat(20_000)),
        ];
        for error in errors {
            a.send(&FromChild::Failed(error.clone()), None).unwrap();
            let Some((FromChild::Failed(got), None)) = b.receive().unwrap() else { panic!() };
            assert_eq!(got.kind(), error.kind());
            assert!(
                error.to_string().starts_with(&got.to_string()[..40.min(got.to_string().len())])
            );
        }
    }

    #[test]
    fn the_last_words_of_a_peer_that_did_not_listen_are_heard() {
        let (a, b) = Channel::pair().unwrap();
        a.send(&FromCreator::Start, None).unwrap();
        b.send(&FromChild::Failed(Error::invalid("x", "y")), None).unwrap();
        drop(b);
        assert!(matches!(a.receive().unwrap(), Some((FromChild::Failed(_), None))));
        assert!(a.receive::<FromChild>().unwrap().is_none());
    }

    #[test]
    fn a_descriptor_comes_with_its_frame_and_closing_is_none() {
        let (a, b) = Channel::pair().unwrap();
        a.send(&FromChild::Reborn(7), Some(a.as_fd())).unwrap();
        let (frame, fd) = b.receive::<FromChild>().unwrap().unwrap();
        assert!(matches!(frame, FromChild::Reborn(7)));
        assert!(fd.is_some());
        drop((a, fd));
        assert!(b.receive::<FromChild>().unwrap().is_none());
        assert_eq!(
            b.send(&FromCreator::Go, None).unwrap_err().errno,
            Errno::EPIPE,
            "a vanished peer is an error, not a signal"
        );
    }

    #[test]
    fn a_short_or_unknown_frame_is_refused() {
        for bytes in [&[0u8][..], &[12], &[12, 0, 255, 255, 255, 255], &[2, 0], &[200]] {
            assert!(FromChild::read(&mut Reader(bytes)).is_none(), "{bytes:?}");
        }
    }
}
