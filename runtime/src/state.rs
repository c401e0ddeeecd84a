//! The state directory: one directory per container below the state root.
//!
//! ```text
//! ROOT/ID/            0700, locked (flock) while a command changes the container
//!         state.json  the record below; written to a temporary name, then renamed
//!         config.json the configuration as it was at create; later edits of the bundle have no effect
//!         start.sock  the child waits here for `start`; refused connections mean that it went on
//!         notify/     mounted into a container whose creator has a service manager to notify; who
//!                     starts the container binds notify.sock in it
//! ```
//!
//! The record is written before the first side effect, so that whatever a killed `create` leaves is
//! described. Status is never stored: it follows from the pid's start time, the socket and the
//! freezer. There is no fsync: the state root is on a file system that does not survive a reboot, and
//! neither do containers.
//!
//! Everything is done through a descriptor of the directory: its path may be longer than a socket
//! address holds, and nothing can be swapped under a descriptor.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag};
use nix::unistd::{UnlinkatFlags, unlinkat};
use serde::{Deserialize, Serialize};

use crate::cgroup;
use crate::error::{Call, Context, Error, ErrorKind, Failure, Result, quote};
use crate::isolation::vm;
use crate::{rdt, sys};

const STATE: &str = "state.json";
const CONFIG: &str = "config.json";
/// What they are called until they are complete.
const NEW_STATE: &str = ".state.json.new";
const NEW_CONFIG: &str = ".config.json.new";
/// The start socket's name in the state directory.
pub(crate) const SOCKET: &str = "start.sock";

/// The directory of the socket for readiness.
const NOTIFY: &str = "notify";

/// How long a command waits for another one that holds the container's lock.
const LOCK_DEADLINE: Duration = Duration::from_secs(10);

/// Longest state or config file that is read back; what we write is far smaller.
const LONGEST: u64 = 64 << 20;

/// What is known about a container; `state.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Raised when a field changes its meaning. Unknown fields are ignored, so that a newer record
    /// can be read.
    pub version: u32,
    pub id: String,
    pub oci_version: String,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    /// RFC 3339 with nanoseconds, UTC.
    pub created: String,
    /// 0 until the process exists.
    pub pid: i32,
    /// Field 22 of /proc/PID/stat: with the pid, the identity of the process.
    pub start_time: u64,
    /// uid of the creator.
    pub owner: u32,
    pub annotations: BTreeMap<String, String>,
    pub cgroup: cgroup::Recorded,
    /// Of a container with `linux.intelRdt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rdt: Option<rdt::Recorded>,
    /// Of a container in a virtual machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<vm::Recorded>,
    pub options: Options,
}

/// What later commands must know of the `create` call and the configuration.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Options {
    /// The number in the name of the session keyring; absent when that is the creator's.
    pub keyring: Option<u64>,
    /// The unit of systemd's that the cgroup belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<cgroup::Unit>,
    /// It has no cgroup, by its creator's wish.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_cgroup: bool,
    /// Whether the init process is pid 1 of its own pid namespace.
    pub own_pid_namespace: bool,
    /// Its root is entered by `chroot`: no mount namespace of its own, or `--no-pivot`.
    pub chroot: bool,
    /// It is in a time namespace that the configuration does not list: CRIU has restored its clocks.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub time_namespace: bool,
}

impl Record {
    /// Removes the container's cgroup, whose processes are dead or dying; by its systemd, where it
    /// belongs to a unit. A systemd that cannot be asked forgets the unit by itself when the last
    /// process is gone, so that is a warning.
    pub(crate) fn delete_cgroup(&self, warnings: &mut Vec<String>) -> Result<()> {
        if let Some(Err(error)) = self.options.unit.as_ref().map(cgroup::Unit::stop) {
            warnings.push(error.to_string());
        }
        self.cgroup.delete()
    }

    /// The version this build writes and the newest it reads.
    pub(crate) const VERSION: u32 = 1;

    /// Whether the init process is there and not a zombie.
    ///
    /// # Errors
    /// Also for a process that is there and not to be seen in /proc (`hidepid`): to take it for one that
    /// has ended would lose it.
    pub(crate) fn alive(&self) -> Result<bool> {
        if self.pid == 0 {
            return Ok(false);
        }
        match process_identity(self.pid)? {
            None if sys::pidfd::open(self.pid)
                .is_ok_and(|process| !sys::pidfd::has_ended(process.as_fd())) =>
            {
                let reason = "the process is hidden in /proc (hidepid)";
                let pid = self.pid.to_string();
                Err(Error::new(ErrorKind::System, "look at process", pid, reason))
            }
            identity => Ok(identity == Some((self.start_time, true))),
        }
    }

    /// The record of the container `id` from its JSON text; `subject` names the text in errors.
    ///
    /// # Errors
    /// `Unsupported` for a newer version; otherwise what no build of ours can have written.
    pub(crate) fn parse(json: &[u8], id: &str, subject: &str) -> Result<Self> {
        let wrong = |reason: String| Error::new(ErrorKind::System, "read", subject, reason);
        let record: Self = serde_json::from_slice(json).map_err(|e| wrong(e.to_string()))?;
        if record.version > Self::VERSION {
            let reason = format!("version {} is newer than {}", record.version, Self::VERSION);
            return Err(Error::unsupported("read", subject, reason));
        }
        // What later commands do goes by these: signals by the pid, hooks and keyrings by the id.
        if record.version == 0 {
            return Err(wrong("version 0 does not exist".to_owned()));
        }
        if record.id != id {
            return Err(wrong(format!("is the record of container {:?}", record.id)));
        }
        if record.pid < 0 {
            return Err(wrong(format!("pid {} is below 0", record.pid)));
        }
        if !record.bundle.is_absolute() || !record.rootfs.is_absolute() {
            return Err(wrong("bundle and rootfs are not absolute paths".to_owned()));
        }
        let unit = record.options.unit.as_ref();
        if let Some(fault) = unit.and_then(|unit| unit.fault(&record.cgroup)) {
            return Err(wrong(fault));
        }
        Ok(record)
    }
}

/// A container's locked state directory.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    dir: OwnedFd,
}

fn subject(path: &Path) -> String {
    format!("state directory {}", quote(path))
}

impl StateDir {
    /// Makes the directory of a new container. The root is made when it is missing.
    pub(crate) fn make(root: &Path, id: &str) -> Result<Self> {
        let path = root.join(id);
        let mode = Mode::S_IRWXU;
        match nix::unistd::mkdir(&path, mode) {
            Err(Errno::ENOENT) => {
                // Never open to others, be it for a moment: what they put there would be a container.
                std::fs::DirBuilder::new()
                    .recursive(true)
                    .mode(mode.bits())
                    .create(root)
                    .call("mkdir")
                    .context("create", subject(root))?;
                nix::sys::stat::fchmodat(
                    nix::fcntl::AT_FDCWD,
                    root,
                    mode,
                    FchmodatFlags::FollowSymlink,
                )
                .call("fchmodat")
                .context("create", subject(root))?;
                nix::unistd::mkdir(&path, mode)
            }
            other => other,
        }
        .map_err(|errno| match errno {
            Errno::EEXIST => Error::new(
                ErrorKind::Exists,
                "create container",
                quote(id),
                "container with given ID already exists",
            ),
            errno => Error::system("create", subject(&path), Failure { call: "mkdir", errno }),
        })?;
        let made = Self::open_path(path.clone()).and_then(|dir| dir.lock().map(|()| dir));
        match made {
            // `gc`, or `delete --force`, took the empty directory for what a killed `create` has left.
            Ok(dir) if !dir.exists()? => Self::make(root, id),
            Ok(dir) => Ok(dir),
            // It went before it could be opened.
            Err(error) if error.errno() == Some(Errno::ENOENT) => Self::make(root, id),
            Err(error) => {
                // The error is already on its way; the empty directory is all there is to remove.
                let _ = std::fs::remove_dir(&path);
                Err(error)
            }
        }
    }

    /// Opens an existing container's directory, without a lock.
    pub(crate) fn open(root: &Path, id: &str) -> Result<Self> {
        Self::open_path(root.join(id)).map_err(|error| match error.errno() {
            Some(Errno::ENOENT | Errno::ENOTDIR) => not_found(id),
            _ => error,
        })
    }

    fn open_path(path: PathBuf) -> Result<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let dir = nix::fcntl::open(&path, flags, Mode::empty())
            .call("open")
            .context("open", subject(&path))?;
        Ok(Self { path, dir })
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// When the record was written; that of a container that was created, at its end of `create`.
    pub(crate) fn recorded_at(&self) -> Result<SystemTime> {
        let context = || quote(self.path.join(STATE));
        let stat = nix::sys::stat::fstatat(&self.dir, STATE, AtFlags::AT_SYMLINK_NOFOLLOW)
            .call("fstatat")
            .context("find", context())?;
        let seconds = u64::try_from(stat.st_mtime).unwrap_or(0);
        Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
    }

    /// Whether the stored configuration is there: it is written before the record and removed before it.
    pub(crate) fn has_config(&self) -> Result<bool> {
        self.has(CONFIG)
    }

    /// What marks the container's cgroups as its own: where its state is, on which file system.
    pub(crate) fn mark(&self) -> Result<Vec<u8>> {
        let stat = nix::sys::stat::fstat(&self.dir).call("fstat");
        let device = stat.context("inspect", subject(&self.path))?.st_dev;
        Ok(mark(device, &self.path))
    }

    /// Takes the lock unless somebody else has it. Whether it was taken.
    #[allow(deprecated, reason = "as in `lock`")]
    pub(crate) fn try_lock(&self) -> Result<bool> {
        use nix::fcntl::{FlockArg, flock};
        use std::os::fd::AsRawFd;
        match flock(self.dir.as_raw_fd(), FlockArg::LockExclusiveNonblock) {
            Err(Errno::EWOULDBLOCK) => Ok(false),
            other => other.call("flock").context("lock", subject(&self.path)).map(|()| true),
        }
    }

    /// Takes the lock, which lasts until this value is dropped. A forked child must drop its copy.
    #[allow(deprecated, reason = "nix's owning Flock would need the directory's only descriptor")]
    pub(crate) fn lock(&self) -> Result<()> {
        use nix::fcntl::{FlockArg, flock};
        use std::os::fd::AsRawFd;
        let deadline = Instant::now() + LOCK_DEADLINE;
        loop {
            match flock(self.dir.as_raw_fd(), FlockArg::LockExclusiveNonblock) {
                Err(Errno::EINTR) => {}
                Err(Errno::EWOULDBLOCK) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(Errno::EWOULDBLOCK) => {
                    return Err(Error::new(
                        ErrorKind::WrongState,
                        "lock",
                        subject(&self.path),
                        format!("another command has held it for {} s", LOCK_DEADLINE.as_secs()),
                    ));
                }
                other => return other.call("flock").context("lock", subject(&self.path)),
            }
        }
    }

    /// Gives the lock back while this value lives on.
    #[allow(deprecated, reason = "as in `lock`")]
    pub(crate) fn unlock(&self) {
        use nix::fcntl::{FlockArg, flock};
        use std::os::fd::AsRawFd;
        // Releasing fails only for what is no descriptor.
        let _ = flock(self.dir.as_raw_fd(), FlockArg::Unlock);
    }

    /// Closes the forked child's copy of the directory, with which it would hold the lock.
    pub(crate) fn forget_lock(&self) {
        crate::sys::fd::close_in_child(self.dir.as_fd());
    }

    /// Whether the directory is still there: a removed one has no link.
    pub(crate) fn exists(&self) -> Result<bool> {
        let stat = nix::sys::stat::fstat(&self.dir).call("fstat");
        Ok(stat.context("inspect", subject(&self.path))?.st_nlink > 0)
    }

    /// Replaces `state.json`.
    pub(crate) fn write_record(&self, record: &Record) -> Result<()> {
        let json = serde_json::to_vec(record).expect("a record has only string keys");
        self.write(STATE, &json)
    }

    /// Reads `state.json`.
    pub(crate) fn record(&self) -> Result<Record> {
        let bytes = self.read(STATE)?;
        let id = self.path.file_name().unwrap_or_default();
        Record::parse(&bytes, &id.to_string_lossy(), &quote(self.path.join(STATE)))
    }

    /// Where [`StateDir::make_notify`] will make its directory.
    pub(crate) fn notify_path(root: &Path, id: &str) -> PathBuf {
        root.join(id).join(NOTIFY)
    }

    /// Makes the directory of the socket for readiness. Anybody may pass it, whatever the creator's
    /// umask: on the host nobody else gets past the state directory.
    pub(crate) fn make_notify(&self) -> Result<()> {
        let context = || quote(self.path.join(NOTIFY));
        let mode = Mode::from_bits_truncate(0o755);
        nix::sys::stat::mkdirat(&self.dir, NOTIFY, mode)
            .call("mkdir")
            .context("create", context())?;
        nix::sys::stat::fchmodat(&self.dir, NOTIFY, mode, FchmodatFlags::FollowSymlink)
            .call("fchmodat")
            .context("create", context())
    }

    /// Removes a directory with all that is in it: that of the socket for readiness, where a container
    /// that may remount could write, or one that has come into a file's place.
    fn remove_tree(&self, name: &str) -> Result<()> {
        let path = self.path.join(name);
        std::fs::remove_dir_all(&path).call("rmdir").context("remove", quote(&path))
    }

    /// Makes the directory that becomes the root of a machine's jail.
    pub(crate) fn make_jail(&self) -> Result<()> {
        nix::sys::stat::mkdirat(&self.dir, vm::JAIL, Mode::S_IRWXU)
            .call("mkdir")
            .context("create", quote(self.path.join(vm::JAIL)))
    }

    /// Stores the configuration.
    pub(crate) fn write_config(&self, json: &[u8]) -> Result<()> {
        self.write(CONFIG, json)
    }

    /// The stored configuration.
    pub(crate) fn config(&self) -> Result<Vec<u8>> {
        self.read(CONFIG)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let context = || quote(self.path.join(name));
        let temporary = if name == STATE { NEW_STATE } else { NEW_CONFIG };
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_CLOEXEC;
        let file = openat(&self.dir, temporary, flags, Mode::S_IRUSR | Mode::S_IWUSR)
            .call("open")
            .context("write", context())?;
        std::fs::File::from(file).write_all(bytes).call("write").context("write", context())?;
        nix::fcntl::renameat(&self.dir, temporary, &self.dir, name)
            .call("rename")
            .context("write", context())
    }

    /// Reads a file of ours. Whatever else has its name, a FIFO say, is an error at once.
    fn read(&self, name: &str) -> Result<Vec<u8>> {
        let context = || quote(self.path.join(name));
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let not_ours = || Error::new(ErrorKind::System, "read", context(), "is not a regular file");
        let file = match openat(&self.dir, name, flags, Mode::empty()) {
            // A symbolic link, a socket.
            Err(Errno::ELOOP | Errno::ENXIO) => return Err(not_ours()),
            opened => opened.call("open").context("read", context())?,
        };
        let stat = nix::sys::stat::fstat(&file).call("fstat").context("read", context())?;
        if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
            return Err(not_ours());
        }
        let mut bytes = Vec::new();
        std::fs::File::from(file)
            .take(LONGEST)
            .read_to_end(&mut bytes)
            .call("read")
            .context("read", context())?;
        Ok(bytes)
    }

    /// Removes the directory and what has the names of our files. Anything else in it is an error: it is not ours.
    pub(crate) fn remove(self) -> Result<()> {
        let context = || subject(&self.path);
        // The record goes last: until then `delete` finds it and can try again.
        for name in [SOCKET, vm::SOCKET, NOTIFY, vm::JAIL, NEW_CONFIG, CONFIG, NEW_STATE, STATE] {
            match unlinkat(&self.dir, name, UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(Errno::EISDIR) => self.remove_tree(name)?,
                other => other.call("unlink").context("remove", quote(self.path.join(name)))?,
            }
        }
        match nix::unistd::unlinkat(nix::fcntl::AT_FDCWD, &self.path, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            other => other.call("rmdir").context("remove", context()),
        }
    }

    /// The state root.
    pub(crate) fn root(&self) -> Result<OwnedFd> {
        let root = self.path.parent().unwrap_or(&self.path);
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        open(root, flags, Mode::empty()).call("open").context("open", subject(root))
    }

    /// Whether the start socket's file exists.
    pub(crate) fn has_socket(&self) -> Result<bool> {
        self.has(SOCKET)
    }

    fn has(&self, name: &str) -> Result<bool> {
        match nix::sys::stat::fstatat(&self.dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(errno).call("fstatat").context("find", quote(self.path.join(name))),
        }
    }

    /// Removes the start socket's file, once the program runs.
    pub(crate) fn remove_socket(&self) {
        // Nobody connects any more; `remove` would take the file anyway.
        let _ = unlinkat(&self.dir, SOCKET, UnlinkatFlags::NoRemoveDir);
    }
}

/// The names in a state root that a container may have, sorted. A missing root has none.
pub(crate) fn ids(root: &Path) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(root) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.call("open").context("list", format!("state root {}", quote(root)))?,
    };
    let mut ids = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type().is_ok_and(|kind| kind.is_dir())
            && crate::validate::validate_id(&name).is_ok()
        {
            ids.push(name);
        }
    }
    ids.sort();
    Ok(ids)
}

/// The text by which a cgroup names the container whose state is at `path`. The device tells a state root
/// from another of the same name in another mount namespace.
pub(crate) fn mark(device: u64, path: &Path) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt;
    [device.to_string().as_bytes(), b" ", path.as_os_str().as_bytes()].concat()
}

/// The words that callers know.
pub(crate) fn not_found(id: &str) -> Error {
    Error::new(ErrorKind::NotFound, "load container", quote(id), "container does not exist")
}

/// Field 22 of `/proc/PID/stat` and whether the process still runs, or `None` when there is no such
/// process. A zombie does not run, unless it is a leader whose other threads go on.
///
/// # Errors
/// The file cannot be read: nothing is known then, least of all that the process is gone.
pub(crate) fn process_identity(pid: i32) -> Result<Option<(u64, bool)>> {
    let path = format!("/proc/{pid}/stat");
    match std::fs::read(&path).call("read") {
        Ok(stat) => Ok(parse_identity(&stat)),
        // ESRCH: it ended between open and read.
        Err(failure) if matches!(failure.errno, Errno::ENOENT | Errno::ESRCH) => Ok(None),
        Err(failure) => Err(Error::system("read", quote(path), failure)),
    }
}

fn parse_identity(stat: &[u8]) -> Option<(u64, bool)> {
    // The process chooses the command in parentheses: it may hold parentheses, spaces, no text at all.
    let end = stat.iter().rposition(|&b| b == b')')?;
    let mut fields = std::str::from_utf8(&stat[end + 1..]).ok()?.split_ascii_whitespace();
    let state = fields.next()?;
    let threads: u64 = fields.nth(20 - 4)?.parse().ok()?;
    let start = fields.nth(22 - 21)?.parse().ok()?;
    Some((start, threads > 1 || !matches!(state, "Z" | "X" | "x")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_is_read_behind_a_hostile_name() {
        let line = |state: &str| {
            format!("7 (x) Z 1 (1) {state} 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 1 21 4711 23")
                .into_bytes()
        };
        assert_eq!(parse_identity(&line("S")), Some((4711, true)));
        assert_eq!(parse_identity(&line("Z")), Some((4711, false)));
        assert_eq!(parse_identity(b"7 (x"), None);
        let mut no_text = line("S");
        no_text[3] = 0xff;
        assert_eq!(parse_identity(&no_text), Some((4711, true)));
        let threads = String::from_utf8(line("Z")).unwrap().replace(" 19 1 ", " 19 2 ");
        assert_eq!(parse_identity(threads.as_bytes()), Some((4711, true)));
        let me = process_identity(std::process::id() as i32).unwrap().unwrap();
        assert!(me.1);
    }

    #[test]
    fn a_unit_is_the_scope_of_its_cgroup() {
        let parse = |name: &str, path: &str, socket: &str| {
            let manager = serde_json::json!({ "user": false, "sockets": [{ "bus": socket }] });
            let group = serde_json::json!({ "unified": true, "mountPoint": "/c", "path": path });
            let record = serde_json::json!({
                "version": 1, "id": "c1", "oci_version": "1.0.0", "bundle": "/b", "rootfs": "/r",
                "created": "", "pid": 0, "start_time": 0, "owner": 0, "annotations": {},
                "cgroup": if path.is_empty() { vec![] } else { vec![group] },
                "options": {
                    "keyring": null, "own_pid_namespace": true, "chroot": false,
                    "unit": { "name": name, "manager": manager },
                },
            });
            let read = Record::parse(record.to_string().as_bytes(), "c1", "state.json");
            read.map(drop).map_err(|error| error.to_string())
        };
        let (scope, path) = ("a-b.scope", "/c/system.slice/a-b.scope");
        assert_eq!(parse(scope, path, "/run/bus"), Ok(()));
        assert_eq!(parse(scope, path, "@/run/bus"), Ok(()));
        for (name, path, socket, said) in [
            ("sshd.service", "/c/sshd.service", "/run/bus", "is no name of a scope"),
            (".scope", "/c/.scope", "/run/bus", "is no name of a scope"),
            ("a'b.scope", "/c/a'b.scope", "/run/bus", "is no name of a scope"),
            (scope, "/c/system.slice/other.scope", "/run/bus", "is not that of its cgroup"),
            (scope, "", "/run/bus", "is not that of its cgroup"),
            (scope, path, "run/bus", "\"run/bus\", which is no absolute path"),
            (scope, path, "", "\"\", which is no absolute path"),
        ] {
            let error = parse(name, path, socket).unwrap_err();
            assert!(error.starts_with("read state.json: ") && error.contains(said), "{error}");
        }
    }

    #[test]
    fn one_of_two_creators_wins() {
        let root = std::env::temp_dir().join(format!("bulkhead-state-{}", std::process::id()));
        let first = StateDir::make(&root, "a").unwrap();
        let second = StateDir::make(&root, "a").unwrap_err();
        assert_eq!(second.kind(), ErrorKind::Exists);
        assert_eq!(StateDir::open(&root, "b").unwrap_err().kind(), ErrorKind::NotFound);
        first.write(STATE, b"null").unwrap();
        assert!(first.record().unwrap_err().to_string().contains("state.json"));
        first.make_notify().unwrap();
        std::fs::write(StateDir::notify_path(&root, "a").join("tenant"), "x").unwrap();
        first.remove().unwrap();
        std::fs::remove_dir(&root).unwrap();
    }
}
