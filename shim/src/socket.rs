//! The socket of a group's shim: found or made, and removed when nobody answers there.
//!
//! A file, never an abstract name: those have no permissions, and every process of uid 0 in the host's
//! network namespace, in a container too, could call the shim (CVE-2020-15257). The directory is 0700
//! and the owner's, the file 0600.
//!
//! Two `start`s of one pod run at once, and a `delete` beside them. Between a look and the act on it
//! another one could act: a socket that is bound and not yet listened on looks like one that was left
//! behind, and a name that was left behind may meanwhile be a new socket's. So looking and acting are
//! done under a lock on the directory, flock(2). Nothing is waited for while it is held.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use containerd_shim_protos::ttrpc::security_extension::{
    AcceptHook, ConnectionData, HookError, HookOutput,
};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::libc;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, connect, getsockopt, socket,
};
use nix::sys::stat::{Mode, umask};
use nix::unistd::geteuid;
use runtime::{Call, Context, Error, ErrorKind, Failure, Result, quote};
use sha2::{Digest, Sha256};

/// Where containerd's own shims have theirs.
const DIRECTORY: &str = "/run/containerd/s";

const SCHEME: &str = "unix://";

/// How long the end of a process that exits is waited for.
const DYING: Duration = Duration::from_secs(1);

/// `sun_path` holds 108 bytes, one of them the NUL; Go's dialer wants one more.
const MAX_PATH: usize = 106;

/// The socket's path for a group of containers of one daemon.
///
/// # Errors
/// `Invalid` when the directory is relative or the path too long for an address.
pub fn path(
    directory: Option<&Path>,
    grpc_address: &str,
    namespace: &str,
    group: &str,
) -> Result<PathBuf> {
    // The first word keeps us from the socket of another runtime's shim: a group's name may be an
    // annotation that both understand.
    let mut hash = Sha256::new();
    for part in ["bulkhead", grpc_address, namespace, group] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let name: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let path = directory.unwrap_or(Path::new(DIRECTORY)).join(name);
    check(&path)?;
    Ok(path)
}

/// Whether a path can be a socket's address.
///
/// # Errors
/// `Invalid` when it is relative or too long.
pub fn check(path: &Path) -> Result<()> {
    let length = path.as_os_str().len();
    if !path.is_absolute() {
        return Err(invalid(path, "is not an absolute path"));
    }
    if length > MAX_PATH {
        return Err(invalid(path, &format!("has {length} bytes, more than {MAX_PATH}")));
    }
    Ok(())
}

/// The path as an address.
pub fn address(path: &Path) -> String {
    format!("{SCHEME}{}", path.display())
}

/// The path in an address of [`address`].
pub fn path_of(address: &str) -> Option<&Path> {
    address.strip_prefix(SCHEME).map(Path::new).filter(|path| path.is_absolute())
}

/// Listens at `path`; `None` when a shim does that already.
///
/// The process' umask is another one meanwhile: for a process with one thread.
///
/// # Errors
/// The directory is not ours alone, or what fails in making the socket.
pub fn listen(path: &Path) -> Result<Option<OwnedFd>> {
    let _lock = Lock::of(parent(path), Missing::Make)?;
    if answers(path)? {
        return Ok(None);
    }
    unlink(path)?;
    // The mode is there from the start: a directory that others may search is accepted.
    let caller = umask(Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(path);
    umask(caller);
    let listener = bound.call("bind").context("listen at", quote(path))?;
    Ok(Some(listener.into()))
}

/// Makes this process the one whom clients see at the other end: the kernel notes the caller of
/// listen(2), and that was the process that made the socket and has ended since.
pub fn take_over(listener: &OwnedFd) -> Result<()> {
    nix::sys::socket::listen(listener, Backlog::MAXALLOWABLE)
        .call("listen")
        .context("listen at", "the shim's socket")
}

/// Keeps every `start` from looking for a shim at `path`; `None` when there is not even a directory.
///
/// # Errors
/// The directory is not ours alone, or cannot be locked.
pub fn lock(path: &Path) -> Result<Option<Held<'_>>> {
    let lock = Lock::of(parent(path), Missing::Leave)?;
    Ok(lock.map(|lock| Held { path, _lock: lock }))
}

/// A socket's name, until this is dropped.
#[derive(Debug)]
pub struct Held<'a> {
    path: &'a Path,
    _lock: Lock,
}

impl Held<'_> {
    /// Removes a socket that this process listens at, before it stops to.
    pub fn remove(self) -> Result<()> {
        unlink(self.path)
    }
}

/// Removes a socket at which nobody listens.
pub fn remove_stale(path: &Path) -> Result<()> {
    let Some(_lock) = Lock::of(parent(path), Missing::Leave)? else { return Ok(()) };
    if answers(path)? { Ok(()) } else { unlink(path) }
}

/// Whom the server lets in: root and the shim's own user. The file's mode keeps others out already,
/// unless a descriptor of it was handed to them.
#[derive(Debug)]
pub struct Doorkeeper;

impl AcceptHook for Doorkeeper {
    fn on_accept(&self, connection: RawFd) -> std::result::Result<HookOutput, HookError> {
        match runtime::peer_user(connection) {
            Ok(user) if user == 0 || user == geteuid().as_raw() => {
                Ok(HookOutput { data: ConnectionData::default(), payload_transform: None })
            }
            Ok(user) => Err(HookError::Rejected(format!("user {user} may not call this shim"))),
            Err(failure) => Err(HookError::Rejected(failure.to_string())),
        }
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// Whether somebody listens at `path`. One who is too busy to accept does; one who is about to end does
/// not, and is waited for: a killed shim's connections are closed milliseconds before its socket, which
/// is all the time that containerd takes to call `delete`.
fn answers(path: &Path) -> Result<bool> {
    let deadline = Instant::now() + DYING;
    loop {
        match listener(path).context("look for a shim at", quote(path))? {
            None => return Ok(false),
            Some(pid) if is_exiting(pid) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Some(_) => return Ok(true),
        }
    }
}

/// Who listens at `path`; 0 when nobody knows.
fn listener(path: &Path) -> Result<Option<i32>, Failure> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None).call("socket")?;
    match connect(socket.as_raw_fd(), &UnixAddr::new(path).call("connect")?) {
        Ok(()) => Ok(Some(getsockopt(&socket, PeerCredentials).map_or(0, |peer| peer.pid()))),
        Err(Errno::EAGAIN) => Ok(Some(0)),
        Err(Errno::ENOENT | Errno::ECONNREFUSED) => Ok(None),
        Err(errno) => Err(errno).call("connect"),
    }
}

/// Whether a process has begun to exit: `PF_EXITING` in field 9 of its stat file, proc_pid_stat(5).
fn is_exiting(pid: i32) -> bool {
    const PF_EXITING: u64 = 4;
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // The name before it may hold anything.
    let fields = stat.rsplit_once(") ").map(|(_, fields)| fields.split(' '));
    let flags = fields.and_then(|mut fields| fields.nth(6)).and_then(|flags| flags.parse().ok());
    flags.is_some_and(|flags: u64| flags & PF_EXITING != 0)
}

/// Removes a socket, and nothing else.
fn unlink(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(invalid(path, "is not a socket"));
        }
        _ => {}
    }
    fs::remove_file(path).call("unlink").context("remove socket", quote(path))
}

/// What to do about a directory that is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Make,
    Leave,
}

/// The lock on a directory of sockets, until it is dropped.
#[derive(Debug)]
struct Lock {
    _held: Flock<File>,
}

impl Lock {
    /// `None` when the directory is missing and left so.
    fn of(directory: &Path, missing: Missing) -> Result<Option<Self>> {
        if missing == Missing::Make {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .call("mkdir")
                .context("make directory", quote(directory))?;
        }
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
            .open(directory);
        let directory_file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound && missing == Missing::Leave => {
                return Ok(None);
            }
            other => other.call("open").context("open directory", quote(directory))?,
        };
        let metadata =
            directory_file.metadata().call("fstat").context("inspect", quote(directory))?;
        // Who can write here can put a socket of his own in the place of ours.
        if metadata.uid() != geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
            return Err(invalid(directory, "is not this user's alone to write"));
        }
        let held = Flock::lock(directory_file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| errno)
            .call("flock")
            .context("lock", quote(directory))?;
        Ok(Some(Self { _held: held }))
    }
}

fn invalid(path: &Path, reason: &str) -> Error {
    Error::new(ErrorKind::Invalid, "use socket", quote(path), reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    #[test]
    fn names() {
        let name = |grpc, namespace, group| path(None, grpc, namespace, group).unwrap();
        let ours = name("/run/c.sock", "ns", "pod");
        assert_eq!(ours, name("/run/c.sock", "ns", "pod"));
        assert!(ours.starts_with(DIRECTORY) && ours.as_os_str().len() == 17 + 1 + 64);
        for other in [name("/run/d.sock", "ns", "pod"), name("/run/c.sock", "nsp", "od")] {
            assert_ne!(ours, other);
        }
        assert_eq!(path_of(&address(&ours)), Some(ours.as_path()));
        assert_eq!(path_of("/abstract"), None);
        let long = format!("/{}", "d".repeat(60));
        let error = path(Some(Path::new(&long)), "", "n", "g").unwrap_err().to_string();
        assert!(error.ends_with("has 126 bytes, more than 106"), "{error}");
        assert!(path(Some(Path::new("s")), "", "n", "g").is_err());
    }

    #[test]
    fn one_listens_and_the_rest_finds_it() {
        let top = crate::testing::directory("socket");
        let path = top.join("s/x");
        let listener = listen(&path).unwrap().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(parent(&path)), mode(&path)), (0o700, 0o600));
        assert!(listen(&path).unwrap().is_none());
        remove_stale(&path).unwrap();
        assert!(path.exists());
        let stream = UnixStream::connect(&path).unwrap();
        assert!(Doorkeeper.on_accept(stream.as_raw_fd()).is_ok());
        let file = File::open("/dev/null").unwrap();
        assert!(Doorkeeper.on_accept(file.as_raw_fd()).is_err(), "nobody is at the other end");
        drop(listener);
        // Nobody listens: the name is taken over, then removed.
        let listener = listen(&path).unwrap().unwrap();
        drop(listener);
        remove_stale(&path).unwrap();
        assert!(!path.exists());
        lock(&path).unwrap().unwrap().remove().unwrap();
        fs::remove_dir_all(top).unwrap();
    }

    #[test]
    fn only_sockets_in_safe_places() {
        let top = crate::testing::directory("socket");
        let path = top.join("x");
        fs::write(&path, "").unwrap();
        assert!(listen(&path).is_err());
        let error = lock(&path).unwrap().unwrap().remove().unwrap_err();
        assert!(error.to_string().contains("is not a socket"));
        fs::set_permissions(&top, Permissions::from_mode(0o777)).unwrap();
        let error = listen(&top.join("y")).unwrap_err().to_string();
        assert!(error.contains("is not this user's alone to write"), "{error}");
        assert!(lock(Path::new("/nonexistent/x")).unwrap().is_none());
        fs::remove_dir_all(top).unwrap();
    }

    #[test]
    fn many_at_once_bind_one() {
        let top = crate::testing::directory("socket");
        fs::set_permissions(&top, Permissions::from_mode(0o700)).unwrap();
        let path = top.join("x");
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let path = path.clone();
                std::thread::spawn(move || listen(&path).unwrap())
            })
            .collect();
        let bound: Vec<_> =
            threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect();
        assert_eq!(bound.len(), 1);
        fs::remove_dir_all(top).unwrap();
    }
}
