//! The `delete` action: cleans up after a shim that died, for one container.
//!
//! containerd calls it when the connection to a shim broke, with the bundle as the working directory
//! and five seconds of patience, and removes the bundle after it. So what fails here must be said by
//! the exit code: the bundle then stays, and containerd calls again when it is restarted. What is
//! absent already is fine, and so is being called twice.
//!
//! The root file system was the container's to write: it is unmounted from a descriptor of the bundle,
//! following no link, and detached, since what still holds it open is no reason to keep it.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use containerd_shim_protos::protobuf::{Message, MessageField};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, umount2};
use runtime::{Call, Container, Context, Error, ErrorKind, Failure, Result, quote};

use crate::args::Arguments;
use crate::options::Options;
use crate::start::ADDRESS_FILE;
use crate::{bootstrap, socket};

/// What containerd counts for a process that was killed: 128 and the number of SIGKILL.
const KILLED: u32 = 137;

/// Mounts may be stacked on one place; somebody who keeps mounting does not keep us here.
const MAX_MOUNTS: usize = 4096;

/// The root file system's directory in the bundle.
const ROOTFS: &str = "rootfs";

/// Where `Create` writes the pid of the container's process, as under runc's shim.
pub const PID_FILE: &str = "init.pid";

/// What there is to print.
#[derive(Debug, PartialEq, Eq)]
pub struct Deleted {
    /// For standard output: a protobuf `DeleteResponse`.
    pub response: Vec<u8>,
    /// For standard error: containerd logs them.
    pub warnings: Vec<String>,
}

/// Kills and deletes the container, unmounts its root file system, and removes the socket of its shim
/// if nobody answers there. Everything is tried, whatever of it fails.
///
/// # Errors
/// The first failure. What could be deleted is, and a second call goes on with the rest.
pub fn delete(arguments: &Arguments) -> Result<Deleted> {
    let bundle = match bootstrap::bundle(arguments) {
        // Nothing says where the container is recorded. It was deleted, or this is the wrong place.
        Err(error) if error.errno() == Some(Errno::ENOENT) => return Ok(deleted(0, Vec::new())),
        found => found?,
    };
    let mut warnings = Vec::new();
    let root = Options::load(&bundle)?.state_root(&arguments.namespace);
    let noted = pid_file(&bundle);
    let container = remove_container(&root, &arguments.id, &mut warnings);
    let rootfs = unmount(&bundle);
    let socket = remove_socket(&bundle);
    let pid = container?;
    rootfs?;
    if let Err(error) = socket {
        // The next `start` of the group takes its place.
        warnings.push(error.to_string());
    }
    Ok(deleted(if pid == 0 { noted } else { pid }, warnings))
}

fn deleted(pid: u32, warnings: Vec<String>) -> Deleted {
    let response = DeleteResponse {
        pid,
        exit_status: KILLED,
        exited_at: MessageField::some(Timestamp::from(SystemTime::now())),
        ..DeleteResponse::default()
    };
    let response = response.write_to_bytes().expect("a message in memory has no missing field");
    Deleted { response, warnings }
}

/// Kills and deletes the container; the pid of its process, 0 when that had ended.
fn remove_container(root: &Path, id: &str, warnings: &mut Vec<String>) -> Result<u32> {
    let absent = |error: Error| match error.kind() {
        ErrorKind::NotFound => Ok(0),
        _ => Err(error),
    };
    match Container::load(root, id) {
        Ok(container) => {
            // A container that cannot be looked at can still be killed by its cgroup.
            let pid = container.report().map_or(0, |report| report.pid.unsigned_abs());
            container.delete(true, warnings).map(|()| pid).or_else(absent)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
        // A record that cannot be read: of a shim that died while it created the container.
        Err(_) => Container::delete_remains(root, id).map(|()| 0).or_else(absent),
    }
}

/// The pid that was written when the container was created; 0 when it was not.
fn pid_file(bundle: &Path) -> u32 {
    let mut text = String::new();
    let read = File::open(bundle.join(PID_FILE))
        .and_then(|file| file.take(32).read_to_string(&mut text))
        .is_ok();
    if read { text.trim().parse().unwrap_or(0) } else { 0 }
}

/// Unmounts everything at and below the bundle's root file system.
fn unmount(bundle: &Path) -> Result<()> {
    let handle = open_beneath(bundle, Path::new("")).context("open", quote(bundle))?;
    let rootfs = bundle.join(ROOTFS);
    let context = |failure| Error::system("unmount", quote(&rootfs), failure);
    // Detaching a mount takes along what is mounted below it.
    detach_all(&handle, Path::new(ROOTFS)).map_err(context)?;
    // A root file system that is no mount may have mounts below it.
    let mounts =
        std::fs::read_to_string("/proc/thread-self/mountinfo").call("read").map_err(context)?;
    for place in mounts_below(&mounts, &rootfs) {
        let (Some(parent), Some(name)) = (place.parent(), place.file_name()) else { continue };
        let Ok(relative) = parent.strip_prefix(bundle) else { continue };
        match open_beneath(bundle, relative) {
            Ok(parent) => detach_all(&parent, Path::new(name)).map_err(context)?,
            // Went with another one.
            Err(Failure { errno: Errno::ENOENT, .. }) => {}
            Err(failure) => return Err(context(failure)),
        }
    }
    Ok(())
}

/// Opens a directory as a place, through no link below `base`.
fn open_beneath(base: &Path, relative: &Path) -> Result<OwnedFd, Failure> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let whole = OpenHow::new().flags(flags);
    let base = openat2(AT_FDCWD, base, whole).call("openat2")?;
    if relative.as_os_str().is_empty() {
        return Ok(base);
    }
    let inside = whole.resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    openat2(base, relative, inside).call("openat2")
}

/// Detaches every mount on `name` in the directory.
fn detach_all(directory: &OwnedFd, name: &Path) -> Result<(), Failure> {
    let path = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
    for _ in 0..MAX_MOUNTS {
        match umount2(&path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // No mount, or nothing there.
            Err(Errno::EINVAL | Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            Err(errno) => return Err(Failure { call: "umount2", errno }),
        }
    }
    Err(Failure { call: "umount2", errno: Errno::EBUSY })
}

/// Mount points below `top`, the deepest first.
fn mounts_below(mountinfo: &str, top: &Path) -> Vec<PathBuf> {
    let place = |line: &str| line.split(' ').nth(4).map(unescape);
    let below = |place: &PathBuf| place != top && place.starts_with(top);
    let mut places: Vec<_> = mountinfo.lines().filter_map(place).filter(below).collect();
    places.sort();
    places.reverse();
    places
}

/// A path of mountinfo: space, tab, newline and backslash are in octal.
fn unescape(text: &str) -> PathBuf {
    let mut path = text.to_owned();
    for (octal, plain) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        path = path.replace(octal, plain);
    }
    PathBuf::from(path)
}

/// Removes the socket of the container's shim unless somebody answers there: the shim of the other
/// containers of the pod.
fn remove_socket(bundle: &Path) -> Result<()> {
    let mut text = String::new();
    let read = File::open(bundle.join(ADDRESS_FILE))
        .and_then(|file| file.take(4096).read_to_string(&mut text));
    match (read, socket::path_of(text.trim())) {
        (Ok(_), Some(path)) => socket::remove_stale(path),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    use nix::unistd::geteuid;

    #[test]
    fn places() {
        let mountinfo = "1 0 8:1 / / rw - ext4 x rw\n2 1 0:1 / /b/rootfs rw - overlay o rw\n3 2 0:2 / /b/rootfs/proc rw - proc p rw\n4 3 0:3 / /b/rootfs/proc/a\\040b rw - tmpfs t rw\n5 1 0:4 / /b/rootfs2 rw - tmpfs t rw\n";
        let below = mounts_below(mountinfo, Path::new("/b/rootfs"));
        assert_eq!(below, ["/b/rootfs/proc/a b", "/b/rootfs/proc"].map(PathBuf::from));
    }

    #[test]
    fn absent_is_fine() {
        let bundle = crate::testing::directory("delete");
        let state = crate::testing::directory("delete-state");
        Options { root: Some(state.clone()), ..Options::default() }.store(&bundle).unwrap();
        std::fs::write(bundle.join(PID_FILE), "4711").unwrap();
        std::fs::write(bundle.join(ADDRESS_FILE), "unix:///nonexistent/s").unwrap();
        let arguments = Arguments {
            namespace: "ns".into(),
            id: "c1".into(),
            bundle: Some(bundle.clone()),
            ..Arguments::default()
        };
        for _ in 0..2 {
            let deleted = delete(&arguments).unwrap();
            let response = DeleteResponse::parse_from_bytes(&deleted.response).unwrap();
            assert_eq!((response.pid, response.exit_status), (4711, 137));
            assert!(response.exited_at.seconds > 0 && deleted.warnings.is_empty());
        }
        std::fs::write(bundle.join("options.json"), "").unwrap();
        assert!(delete(&arguments).is_err());
        std::fs::remove_dir_all(bundle).unwrap();
        assert!(delete(&arguments).is_ok());
        std::fs::remove_dir_all(state).unwrap();
    }

    #[test]
    fn mounts_go_and_links_are_not_followed() {
        // In a mount namespace of this thread's own, where there may be one.
        let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        let none: Option<&str> = None;
        if !geteuid().is_root()
            || unshare(CloneFlags::CLONE_NEWNS).is_err()
            || mount(none, "/", none, flags, none).is_err()
        {
            return;
        }
        let bundle = crate::testing::directory("delete");
        let (rootfs, kept) = (bundle.join(ROOTFS), bundle.join("kept"));
        std::fs::create_dir_all(rootfs.join("sub/deep")).unwrap();
        std::fs::create_dir(&kept).unwrap();
        let tmpfs =
            |place: &Path| mount(Some("none"), place, Some("tmpfs"), MsFlags::empty(), none);
        tmpfs(&kept).unwrap();
        // A mount below a root file system that is none, then stacked ones.
        tmpfs(&rootfs.join("sub/deep")).unwrap();
        unmount(&bundle).unwrap();
        for _ in 0..3 {
            tmpfs(&rootfs).unwrap();
        }
        std::fs::create_dir(rootfs.join("inner")).unwrap();
        tmpfs(&rootfs.join("inner")).unwrap();
        unmount(&bundle).unwrap();
        let count = || {
            let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            (mounts_below(&mounts, &bundle).len(), mounts.contains("rootfs"))
        };
        assert_eq!(count().0, 1);
        // The root file system as a link to something that is mounted elsewhere.
        std::fs::remove_dir_all(&rootfs).unwrap();
        std::os::unix::fs::symlink(&kept, &rootfs).unwrap();
        unmount(&bundle).unwrap();
        assert_eq!(count().0, 1);
        umount2(&kept, MntFlags::empty()).unwrap();
        std::fs::remove_dir_all(bundle).unwrap();
    }
}
