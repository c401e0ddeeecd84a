//! What the server knows, and which request is done where.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path as FilePath;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::socket::{MsgFlags, recv, send};
use nix::sys::stat::Mode;

use crate::calls;
use crate::confine;
use crate::error::{Error, Result};
use crate::identity::{Identity, Owner};
use crate::message::{LARGEST, Reply, Request, opcode};
use crate::nodes::{Nodes, Path, openable};
use crate::procfs::Descriptors;
use crate::sys::{self, Status};

/// What came of a request; what is told is in the reply.
pub(crate) type Outcome = std::result::Result<(), Errno>;

/// Descriptors for the moment, beside those of nodes and open files.
const SPARE: usize = 64;

/// A file that the guest has opened.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) node: u64,
    pub(crate) file: OwnedFd,
    pub(crate) directory: bool,
}

/// What the guest's kernel and the server have agreed on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Session {
    /// The guest has sent `FUSE_INIT`.
    pub(crate) begun: bool,
    /// Requests to set an attribute have flags of FUSE's own.
    pub(crate) long_setxattr: bool,
}

/// Serves one directory to one guest.
#[derive(Debug)]
pub struct Server {
    pub(crate) nodes: Nodes,
    pub(crate) files: BTreeMap<u64, Open>,
    next: u64,
    pub(crate) descriptors: Descriptors,
    pub(crate) identity: Identity,
    pub(crate) session: Session,
    /// Devices of the files seen, in the order of their being seen.
    devices: Vec<u64>,
    /// How many descriptors there may be.
    limit: usize,
    pub(crate) reply: Reply,
}

impl Server {
    /// Opens the directory, which is then reached by no path. It is to hold no more than `limit` descriptors, and the
    /// working directory of the calling thread becomes another.
    ///
    /// # Errors
    ///
    /// The directory cannot be opened; there is no procfs; the process cannot tell who it is.
    pub fn open(directory: &FilePath, limit: usize) -> Result<Self> {
        let operation = || format!("open directory {directory:?}");
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = openat(AT_FDCWD, directory, flags, Mode::empty())
            .map_err(|errno| Error::call(operation(), "openat", errno))?;
        let device = sys::statx(&root).map(|status| status.device());
        let device = device.map_err(|errno| Error::call(operation(), "statx", errno))?;
        let nodes = Nodes::new(root).map_err(|errno| Error::call(operation(), "statx", errno))?;
        let identity =
            Identity::own().map_err(|errno| Error::call("read capabilities", "capget", errno))?;
        Ok(Self {
            nodes,
            files: BTreeMap::new(),
            next: 1,
            descriptors: Descriptors::open()?,
            identity,
            session: Session::default(),
            devices: vec![device],
            limit: limit.saturating_sub(SPARE),
            reply: Reply::default(),
        })
    }

    /// Confines the calling thread to what requests need, for good: few capabilities, which no program can give it back,
    /// and few system calls, of which another one kills the process.
    ///
    /// # Errors
    ///
    /// The kernel refuses a part of it.
    pub fn confine(&mut self) -> Result<()> {
        self.identity.reduce(confine::confine()?);
        Ok(())
    }

    /// Serves the messages of a `SOCK_SEQPACKET` socket until its other end is closed.
    ///
    /// # Errors
    ///
    /// The socket fails, or has what is no message: the monitor has checked what the guest sent.
    pub fn serve(&mut self, socket: BorrowedFd<'_>) -> Result<()> {
        let mut packet = vec![0; LARGEST + 1];
        let failed = |call, errno| Error::call("serve the socket", call, errno);
        loop {
            let length = match recv(socket.as_raw_fd(), &mut packet, MsgFlags::empty()) {
                Ok(0) | Err(Errno::ECONNRESET) => return Ok(()),
                Ok(length) => length,
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(failed("recv", errno)),
            };
            let answer = self
                .answer(&packet[..length])
                .map_err(|()| Error::new("serve the socket", "it has what is no message"))?;
            let Some(answer) = answer else { continue };
            match send(socket.as_raw_fd(), answer, MsgFlags::MSG_NOSIGNAL) {
                Ok(_) => {}
                Err(Errno::EPIPE) => return Ok(()),
                Err(errno) => return Err(failed("send", errno)),
            }
        }
    }

    /// Does what a message asks for, and answers it, unless it is of the kind that is not answered.
    ///
    /// # Errors
    ///
    /// The packet is no message.
    #[expect(clippy::result_unit_err, reason = "there is nothing to say about it")]
    pub fn answer(&mut self, packet: &[u8]) -> std::result::Result<Option<&[u8]>, ()> {
        let request = Request::read(packet).filter(|_| packet.len() <= LARGEST).ok_or(())?;
        self.reply.begin();
        let outcome = match request.opcode {
            opcode::FORGET | opcode::BATCH_FORGET => {
                // One that is too short forgets nothing.
                let _ = calls::names::forget(self, request);
                return Ok(None);
            }
            // What it would interrupt is done.
            opcode::INTERRUPT => return Ok(None),
            opcode::INIT => calls::init::init(self, request),
            _ if !self.session.begun => Err(Errno::EPROTO),
            _ => self.perform(request),
        };
        Ok(Some(self.reply.end(request.unique, outcome)))
    }

    fn perform(&mut self, request: Request<'_>) -> Outcome {
        match request.opcode {
            opcode::DESTROY => {
                self.clear();
                Ok(())
            }
            opcode::LOOKUP => calls::names::lookup(self, request),
            opcode::READLINK => calls::names::readlink(self, request),
            opcode::UNLINK => calls::names::unlink(self, request),
            opcode::RMDIR => calls::names::rmdir(self, request),
            opcode::RENAME => calls::names::rename(self, request),
            opcode::RENAME2 => calls::names::rename2(self, request),
            opcode::LINK => calls::names::link(self, request),
            opcode::SYMLINK => calls::create::symlink(self, request),
            opcode::MKNOD => calls::create::mknod(self, request),
            opcode::MKDIR => calls::create::mkdir(self, request),
            opcode::CREATE => calls::create::create(self, request),
            opcode::TMPFILE => calls::create::tmpfile(self, request),
            opcode::GETATTR => calls::attributes::getattr(self, request),
            opcode::SETATTR => calls::attributes::setattr(self, request),
            opcode::STATFS => calls::attributes::statfs(self, request),
            opcode::OPEN => calls::content::open(self, request),
            opcode::READ => calls::content::read(self, request),
            opcode::WRITE => calls::content::write(self, request),
            opcode::RELEASE | opcode::RELEASEDIR => calls::content::release(self, request),
            opcode::FSYNC | opcode::FSYNCDIR => calls::content::fsync(self, request),
            opcode::FALLOCATE => calls::content::fallocate(self, request),
            opcode::LSEEK => calls::content::lseek(self, request),
            opcode::COPY_FILE_RANGE => calls::content::copy_file_range(self, request),
            opcode::SYNCFS => calls::content::syncfs(self),
            opcode::OPENDIR => calls::directory::opendir(self, request),
            opcode::READDIR => calls::directory::readdir(self, request),
            opcode::READDIRPLUS => calls::directory::readdirplus(self, request),
            opcode::SETXATTR => calls::xattr::setxattr(self, request),
            opcode::GETXATTR => calls::xattr::getxattr(self, request),
            opcode::LISTXATTR => calls::xattr::listxattr(self, request),
            opcode::REMOVEXATTR => calls::xattr::removexattr(self, request),
            // Locks are the guest's own. FUSE_FLUSH has nothing to do, and is not asked for again.
            _ => Err(Errno::ENOSYS),
        }
    }

    /// Forgets what the guest knew.
    pub(crate) fn clear(&mut self) {
        self.files.clear();
        self.nodes.clear();
        self.session = Session::default();
    }

    /// The file of a number, as `O_PATH`. One whose handle does not open it any more, as it has no name left, may be
    /// open in the guest.
    pub(crate) fn path(&self, node: u64) -> std::result::Result<Path<'_>, Errno> {
        self.nodes.path(node).or_else(|errno| {
            let mut files = self.files.values();
            let open = files.find(|open| errno == Errno::ESTALE && open.node == node);
            open.map(|open| Path::Kept(open.file.as_fd())).ok_or(errno)
        })
    }

    /// The file in a directory, itself.
    pub(crate) fn child(
        &self,
        directory: u64,
        name: &std::ffi::CStr,
    ) -> std::result::Result<OwnedFd, Errno> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        openat(self.path(directory)?, name, flags, Mode::empty())
    }

    /// Gives the file a number, if it has none, that the guest is told.
    pub(crate) fn adopt(&mut self, fd: OwnedFd) -> std::result::Result<(u64, Status), Errno> {
        let status = sys::statx(&fd)?;
        let limit = self.limit.saturating_sub(self.files.len());
        let node = self.nodes.adopt(fd, &status, &self.descriptors, limit)?;
        Ok((node, status))
    }

    /// Opens the file of a number anew. Symbolic links are not followed, and what is neither a regular file nor a
    /// directory is not opened.
    pub(crate) fn open_node(&self, node: u64, flags: OFlag) -> std::result::Result<OwnedFd, Errno> {
        let kind = self.nodes.kind(node)?;
        if !openable(kind) {
            return Err(Errno::ENXIO);
        }
        let path = self.path(node)?;
        // Should a lease or a lock of the host's stand against it, the others' requests do not wait.
        let flags = flags | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        if kind == libc::S_IFDIR {
            return openat(path, c".", flags | OFlag::O_DIRECTORY, Mode::empty());
        }
        self.descriptors.reopen(&path, flags)
    }

    /// Keeps an open file; answers its number.
    ///
    /// # Errors
    ///
    /// `ENFILE`: there are as many descriptors as there may be.
    pub(crate) fn keep(&mut self, open: Open) -> std::result::Result<u64, Errno> {
        if self.files.len() + self.nodes.descriptors() >= self.limit {
            return Err(Errno::ENFILE);
        }
        let number = self.next;
        self.next += 1;
        self.files.insert(number, open);
        Ok(number)
    }

    /// The open file of this number, if it is of that node.
    pub(crate) fn file(&self, number: u64, node: u64) -> std::result::Result<&Open, Errno> {
        self.files.get(&number).filter(|open| open.node == node).ok_or(Errno::EBADF)
    }

    /// Whose a new file becomes.
    pub(crate) fn owner(request: &Request<'_>, umask: u32) -> Owner {
        Owner { uid: request.uid, gid: request.gid, umask }
    }

    /// The number that the guest shows for a file. Files of several file systems are of one in the guest, so those of
    /// further ones are told apart by bits that no file system's own numbers have in practice.
    pub(crate) fn shown_inode(&mut self, device: u64, inode: u64) -> u64 {
        let known = self.devices.iter().position(|&other| other == device);
        let index = known.unwrap_or_else(|| {
            self.devices.push(device);
            self.devices.len() - 1
        });
        inode ^ (index as u64 & 0xfff) << 48
    }
}
