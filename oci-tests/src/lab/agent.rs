//! The suite's ends of sockets: a console receiver and a seccomp agent.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use super::call::{DEADLINE, readable};
use crate::check::{Res, fail};
use crate::sys;

/// A listening unix socket.
pub struct Agent {
    listener: UnixListener,
    path: PathBuf,
}

/// What one connection sent until its end.
pub struct Delivery {
    /// The payload of all messages.
    pub payload: Vec<u8>,
    /// The descriptors, in order.
    pub fds: Vec<OwnedFd>,
    /// How many messages carried descriptors.
    pub with_fds: usize,
}

impl Agent {
    /// Listens at `path`.
    pub fn listen(path: &Path) -> Res<Self> {
        Ok(Self { listener: UnixListener::bind(path)?, path: path.to_owned() })
    }

    /// Where it listens.
    pub fn path(&self) -> &str {
        self.path.to_str().unwrap_or_default()
    }

    /// Whether somebody connects without delay.
    pub fn called(&self) -> Res<bool> {
        Ok(readable(&self.listener, std::time::Duration::ZERO)?)
    }

    /// Accepts one connection and reads it to its end, with deadlines.
    pub fn receive(&self) -> Res<Delivery> {
        if !readable(&self.listener, DEADLINE)? {
            return fail(format!("nobody connected to {}", self.path()));
        }
        let (stream, _) = self.listener.accept()?;
        let mut delivery = Delivery { payload: Vec::new(), fds: Vec::new(), with_fds: 0 };
        loop {
            if !readable(&stream, DEADLINE)? {
                return fail("the connection was not closed after the message");
            }
            let mut block = [0u8; 65536];
            let mut space = nix::cmsg_space!([i32; 32]);
            let mut parts = [IoSliceMut::new(&mut block)];
            let message = recvmsg::<()>(
                stream.as_raw_fd(),
                &mut parts,
                Some(&mut space),
                MsgFlags::MSG_CMSG_CLOEXEC,
            )?;
            let count = message.bytes;
            let mut got = Vec::new();
            for control in message.cmsgs()? {
                if let ControlMessageOwned::ScmRights(fds) = control {
                    got.extend(fds.into_iter().map(sys::adopt));
                }
            }
            delivery.with_fds += usize::from(!got.is_empty());
            delivery.fds.extend(got);
            if count == 0 {
                return Ok(delivery);
            }
            delivery.payload.extend_from_slice(&block[..count]);
        }
    }
}
