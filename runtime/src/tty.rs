//! Pseudo-terminals of containers and the caller's own terminal.
//!
//! A container's terminal comes from the devpts of the container, so that its name means the same
//! inside. The slave end is never opened by name: `/dev/pts/N` inside is in the tenant's reach and
//! may have become a link to a host file (CVE-2025-52565). The kernel is asked for the other end of
//! the master instead (`TIOCGPTPEER`), and what comes back is checked to be a terminal.
//!
//! See [pty(7)] and [devpts](https://docs.kernel.org/filesystems/devpts.html).
//!
//! [pty(7)]: https://man7.org/linux/man-pages/man7/pty.7.html

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use nix::sys::stat::{SFlag, fstat, major, minor};
use nix::sys::statfs::{FsType, fstatfs};
use nix::sys::termios::{self, OutputFlags, SetArg, Termios};
use nix::unistd::{Uid, dup2_stderr, dup2_stdin, dup2_stdout, fchown};

use crate::error::{Call, Context, Error, ErrorKind, Failure, Result, quote};
use crate::sys;

/// Device number of every `ptmx` node (`Documentation/admin-guide/devices.txt`).
const PTMX: (u64, u64) = (5, 2);
/// `UNIX98_PTY_SLAVE_MAJOR` and the seven that follow it.
const SLAVE_MAJORS: std::ops::RangeInclusive<u64> = 136..=143;
/// `DEVPTS_SUPER_MAGIC` of `include/uapi/linux/magic.h`.
const DEVPTS: FsType = FsType(0x1cd1);
/// `sun_path` with its terminating zero, see unix(7).
const SOCKET_PATH: usize = 108;

/// The master end of a pseudo-terminal, unlocked.
#[derive(Debug)]
struct Pty {
    master: OwnedFd,
}

impl Pty {
    /// Opens a pair from `/dev/ptmx` of the calling process' own root.
    fn open() -> Result<Self> {
        Self::unlocked(open_ptmx(c"/dev/ptmx").context("open", "\"/dev/ptmx\"")?)
    }

    /// Makes a pair out of an opened `ptmx` of a devpts mount (`/dev/pts/ptmx` of a container).
    ///
    /// # Errors
    /// `Invalid` when the descriptor is not the multiplexer of a devpts.
    fn open_in(ptmx: OwnedFd) -> Result<Self> {
        let magic = fstatfs(&ptmx).call("fstatfs").context("check", "/dev/pts/ptmx")?;
        if magic.filesystem_type() != DEVPTS {
            return Err(Error::new(
                ErrorKind::Invalid,
                "open",
                "/dev/pts/ptmx",
                "is not on a devpts file system",
            ));
        }
        Self::unlocked(ptmx)
    }

    fn unlocked(master: OwnedFd) -> Result<Self> {
        if device(&master, "ptmx")? != PTMX {
            return Err(Error::new(
                ErrorKind::Invalid,
                "open",
                "ptmx",
                "is not the character device 5:2",
            ));
        }
        sys::tty::unlock(master.as_fd()).context("unlock", "pseudo-terminal")?;
        Ok(Self { master })
    }

    /// Opens the slave end, close-on-exec, without making it the controlling terminal.
    fn peer(&self) -> Result<OwnedFd> {
        let slave =
            sys::tty::open_peer(self.master.as_fd()).context("open", "pseudo-terminal slave")?;
        if !SLAVE_MAJORS.contains(&device(&slave, "pseudo-terminal slave")?.0) {
            return Err(Error::new(
                ErrorKind::Invalid,
                "open",
                "pseudo-terminal slave",
                "is not a pseudo-terminal",
            ));
        }
        Ok(slave)
    }

    fn set_size(&self, columns: u16, rows: u16) -> Result<()> {
        sys::tty::set_size(self.master.as_fd(), columns, rows).context("resize", "pseudo-terminal")
    }

    fn into_master(self) -> OwnedFd {
        self.master
    }
}

impl AsFd for Pty {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.master.as_fd()
    }
}

/// Opens a multiplexer by its name in the calling process' root, without magic links: where
/// `/dev/pts` is a link of the tenant to `/proc/1/root/dev/pts`, a container that shares the host's
/// pid namespace would get a terminal of the host's devpts.
fn open_ptmx(path: &std::ffi::CStr) -> sys::Result<OwnedFd> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let resolve = libc::RESOLVE_NO_MAGICLINKS;
    sys::openat2::openat2(nix::fcntl::AT_FDCWD, path, flags.bits(), 0, resolve)
}

/// Makes a terminal from the devpts of the calling process' root: the container's, after
/// `pivot_root`. Returns the master and the slave end; 0 by 0 leaves the size alone.
///
/// # Errors
/// `ENOENT` when `/dev/pts` has no devpts and there is no `/dev/ptmx` either.
pub(crate) fn open_inside(rows: u16, columns: u16) -> Result<(OwnedFd, OwnedFd)> {
    let pty = match open_ptmx(c"/dev/pts/ptmx") {
        Ok(ptmx) => Pty::open_in(ptmx)?,
        // A configuration without a devpts mount may still bring the host's /dev.
        Err(Failure { errno: Errno::ENOENT | Errno::ENOTDIR, .. }) => Pty::open()?,
        Err(failure) => {
            return Err(Error::system("open", "\"/dev/pts/ptmx\"", failure));
        }
    };
    if rows != 0 || columns != 0 {
        pty.set_size(columns, rows)?;
    }
    let slave = pty.peer()?;
    Ok((pty.into_master(), slave))
}

/// Gives `slave` to the container's user and makes it the standard streams.
pub(crate) fn connect(slave: OwnedFd, owner: Uid) -> Result<()> {
    // The group stays devpts's: `tty`, for programs that write to terminals.
    fchown(&slave, Some(owner), None).call("fchown").context("give away", "terminal")?;
    dup2_stdin(&slave).call("dup2").context("connect", "standard input")?;
    dup2_stdout(&slave).call("dup2").context("connect", "standard output")?;
    dup2_stderr(&slave).call("dup2").context("connect", "standard error")
}

/// Makes the terminal on standard input the controlling one of the calling session leader.
pub(crate) fn control() -> Result<()> {
    sys::tty::set_controlling(std::io::stdin().as_fd()).context("set", "controlling terminal")
}

fn device(fd: &OwnedFd, subject: &str) -> Result<(u64, u64)> {
    let stat = fstat(fd).call("fstat").context("check", subject)?;
    let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    // No character device has the number 0:0.
    Ok(if kind == SFlag::S_IFCHR { (major(stat.st_rdev), minor(stat.st_rdev)) } else { (0, 0) })
}

/// Connects to a console socket.
///
/// # Errors
/// `Invalid` for a path longer than a socket address, otherwise the failed call.
fn connect_console(path: &Path) -> Result<UnixStream> {
    if path.as_os_str().len() >= SOCKET_PATH {
        return Err(Error::new(
            ErrorKind::Invalid,
            "connect to console socket",
            quote(path),
            format!("is longer than {} bytes", SOCKET_PATH - 1),
        ));
    }
    UnixStream::connect(path).call("connect").context("connect to console socket", quote(path))
}

/// Sends a master end with its name as payload, in one message.
fn send_master(socket: BorrowedFd<'_>, master: BorrowedFd<'_>, name: &str) -> Result<()> {
    let payload = [IoSlice::new(name.as_bytes())];
    let fds = [master.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    loop {
        let sent = sendmsg::<UnixAddr>(
            socket.as_raw_fd(),
            &payload,
            &rights,
            MsgFlags::MSG_NOSIGNAL,
            None,
        );
        match sent {
            Err(Errno::EINTR) => {}
            result => return result.map(drop).call("sendmsg").context("send", "terminal"),
        }
    }
}

/// Sends a terminal's master end over the console socket at `socket_path` and closes the
/// connection. The payload is the terminal's name in its devpts; one descriptor comes with it.
pub fn send_terminal(socket_path: &Path, master: BorrowedFd<'_>) -> Result<()> {
    let socket = connect_console(socket_path)?;
    send_master(socket.as_fd(), master, &name(master)?)
}

/// Clears `ONLCR` of the terminal behind a master end that the runtime itself relays: the caller's
/// terminal turns line feeds into new lines, and a log of the output is not to have carriage returns
/// that the program did not write.
///
/// Not for a terminal that goes to a console socket: who relays it (docker, ctr) puts the caller's
/// terminal in fully raw mode and expects the kernel's defaults, or every line starts where the one
/// before it ended.
pub(crate) fn bare_line_feeds(master: BorrowedFd<'_>) -> Result<()> {
    let mut modes =
        termios::tcgetattr(master).call("tcgetattr").context("read", "terminal modes")?;
    modes.output_flags.remove(OutputFlags::ONLCR);
    termios::tcsetattr(master, SetArg::TCSANOW, &modes)
        .call("tcsetattr")
        .context("set", "terminal modes")
}

/// Makes a terminal pass bytes on as they are, both ways: what is behind it is another terminal.
pub(crate) fn make_transparent(terminal: BorrowedFd<'_>) -> Result<()> {
    let mut modes =
        termios::tcgetattr(terminal).call("tcgetattr").context("read", "terminal modes")?;
    termios::cfmakeraw(&mut modes);
    termios::tcsetattr(terminal, SetArg::TCSANOW, &modes)
        .call("tcsetattr")
        .context("set", "terminal modes")
}

/// The terminal's name in its devpts, `/dev/pts/N`.
fn name(master: BorrowedFd<'_>) -> Result<String> {
    let number = sys::tty::number(master).context("name", "pseudo-terminal")?;
    Ok(format!("/dev/pts/{number}"))
}

/// Gives the terminal behind a master end the window size of another terminal.
pub fn copy_size(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let (columns, rows) = sys::tty::size(from).context("read size of", "terminal")?;
    set_size(to, columns, rows)
}

/// Sets the window size of the terminal behind a master end.
pub fn set_size(master: BorrowedFd<'_>, columns: u16, rows: u16) -> Result<()> {
    sys::tty::set_size(master, columns, rows).context("resize", "pseudo-terminal")
}

/// The caller's terminal in raw mode; its modes are restored on drop.
#[derive(Debug)]
pub struct Terminal {
    terminal: OwnedFd,
    cooked: Termios,
}

impl Terminal {
    /// Puts the terminal behind `fd` in raw mode. Output stays processed: the container's terminal
    /// sends bare line feeds, see `bare_line_feeds`.
    ///
    /// # Errors
    /// The failed call; `ENOTTY` when `fd` is no terminal.
    pub fn raw(fd: BorrowedFd<'_>) -> Result<Self> {
        let terminal = fd.try_clone_to_owned().call("fcntl").context("copy", "terminal")?;
        let cooked =
            termios::tcgetattr(&terminal).call("tcgetattr").context("read", "terminal modes")?;
        let raw = Self { terminal, cooked };
        raw.reapply()?;
        Ok(raw)
    }

    /// Sets raw mode once more: a shell that stopped and continued the caller has put its own back.
    pub fn reapply(&self) -> Result<()> {
        let mut modes = self.cooked.clone();
        termios::cfmakeraw(&mut modes);
        modes.output_flags.insert(OutputFlags::OPOST);
        termios::tcsetattr(&self.terminal, SetArg::TCSANOW, &modes)
            .call("tcsetattr")
            .context("set", "terminal modes")
    }
}

impl AsFd for Terminal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.terminal.as_fd()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A terminal that hung up has no modes to restore; there is nobody to tell either.
        let _ = termios::tcsetattr(&self.terminal, SetArg::TCSANOW, &self.cooked);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{IoSliceMut, Read, Write};
    use std::os::fd::RawFd;

    use nix::sys::socket::{ControlMessageOwned, recvmsg};
    use nix::sys::termios::LocalFlags;

    use super::*;

    #[test]
    fn line_feeds_pass_unchanged_when_asked() {
        let pty = Pty::open().unwrap();
        let mut slave = File::from(pty.peer().unwrap());
        let mut master = File::from(pty.into_master());
        let mut seen = [0; 16];
        slave.write_all(b"a\nb\n").unwrap();
        let n = master.read(&mut seen).unwrap();
        assert_eq!(&seen[..n], b"a\r\nb\r\n");
        bare_line_feeds(master.as_fd()).unwrap();
        slave.write_all(b"a\nb\n").unwrap();
        let n = master.read(&mut seen).unwrap();
        assert_eq!(&seen[..n], b"a\nb\n");
    }

    #[test]
    fn the_name_is_a_number_of_devpts() {
        let pty = Pty::open().unwrap();
        let number = name(pty.as_fd()).unwrap().strip_prefix("/dev/pts/").unwrap().parse::<u32>();
        assert!(number.is_ok());
    }

    #[test]
    fn only_ptmx_of_a_devpts_is_a_ptmx() {
        for path in ["/dev/null", "/proc/self/status"] {
            let fd = OwnedFd::from(File::open(path).unwrap());
            assert_eq!(Pty::open_in(fd).unwrap_err().kind(), ErrorKind::Invalid, "{path}");
        }
        let ptmx = File::options()
            .read(true)
            .write(true)
            .open("/dev/pts/ptmx")
            .map(OwnedFd::from)
            .unwrap();
        assert!(Pty::open_in(ptmx).unwrap().peer().is_ok());
    }

    #[test]
    fn a_terminal_has_the_size_asked_for() {
        let (master, slave) = open_inside(24, 80).unwrap();
        assert_eq!(sys::tty::size(slave.as_fd()).unwrap(), (80, 24));
        drop(master);
    }

    #[test]
    fn raw_mode_ends_with_the_value() {
        let pty = Pty::open().unwrap();
        let slave = pty.peer().unwrap();
        let echo =
            |fd: &OwnedFd| termios::tcgetattr(fd).unwrap().local_flags.contains(LocalFlags::ECHO);
        assert!(echo(&slave));
        let raw = Terminal::raw(slave.as_fd()).unwrap();
        assert!(!echo(&slave));
        assert!(termios::tcgetattr(&slave).unwrap().output_flags.contains(OutputFlags::OPOST));
        drop(raw);
        assert!(echo(&slave));
        assert_eq!(
            Terminal::raw(File::open("/dev/null").unwrap().as_fd()).unwrap_err().errno(),
            Some(Errno::ENOTTY)
        );
    }

    #[test]
    fn sizes_are_copied() {
        let (from, to) = (Pty::open().unwrap(), Pty::open().unwrap());
        from.set_size(132, 43).unwrap();
        copy_size(from.as_fd(), to.as_fd()).unwrap();
        assert_eq!(sys::tty::size(to.as_fd()).unwrap(), (132, 43));
    }

    #[test]
    fn the_console_socket_gets_one_descriptor_and_the_name() {
        let (here, there) = UnixStream::pair().unwrap();
        let pty = Pty::open().unwrap();
        let name = name(pty.as_fd()).unwrap();
        send_master(here.as_fd(), pty.as_fd(), &name).unwrap();
        drop(here);
        let mut payload = [0; 64];
        let mut space = nix::cmsg_space!([RawFd; 4]);
        let mut slices = [IoSliceMut::new(&mut payload)];
        let message = recvmsg::<UnixAddr>(
            there.as_raw_fd(),
            &mut slices,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )
        .unwrap();
        let length = message.bytes;
        let fds: Vec<RawFd> = message
            .cmsgs()
            .unwrap()
            .filter_map(|c| match c {
                ControlMessageOwned::ScmRights(fds) => Some(fds),
                _ => None,
            })
            .flatten()
            .collect();
        assert_eq!(fds.len(), 1);
        assert_eq!(&payload[..length], name.as_bytes());
        nix::unistd::close(fds[0]).unwrap();
    }

    #[test]
    fn a_long_socket_path_is_named() {
        let path = format!("/tmp/{}", "x".repeat(120));
        let error = connect_console(Path::new(&path)).unwrap_err();
        assert!(error.to_string().contains("is longer than 107 bytes"), "{error}");
    }
}
