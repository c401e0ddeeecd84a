//! The directory of an image, made or replaced in one step.
//!
//! The files are written to a directory beside it, which then takes its name: rename(2), or renameat2(2) with
//! `RENAME_EXCHANGE` where there was one before. Who opens the image finds the old one or the new one, whole. Signals
//! that end a program wait meanwhile; what a killed one has left is removed by the next.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, Flock, FlockArg, OFlag, RenameFlags, openat, renameat2};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{UnlinkatFlags, geteuid, mkdir, unlinkat};
use runtime::{Call, Context, Error, GuestImage, Result, quote};

const OPERATION: &str = "write guest image";
/// Everything that an image consists of.
const NAMES: [&str; 3] = [GuestImage::KERNEL, GuestImage::INITRAMFS, GuestImage::MANIFEST];

/// Puts these files in the place of the directory.
pub fn replace(directory: &Path, files: &[(&str, &[u8])]) -> Result<()> {
    let refused = |reason: &str| Err(Error::unsupported(OPERATION, quote(directory), reason));
    let (Some(parent), Some(name)) = (directory.parent(), directory.file_name()) else {
        return refused("has no name");
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let _held = Held::new()?;
    let made = Made::new(parent)?;
    let lock = File::open(parent).call("open").context(OPERATION, quote(parent))?;
    // Two at once would take each other's files for a dead one's.
    // Anybody who may read the directory can lock it, so nobody is waited for.
    let lock = match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
        Err((_, Errno::EWOULDBLOCK)) => {
            return refused("somebody else has locked its directory, perhaps to do the same");
        }
        locked => {
            locked.map_err(|(_, errno)| errno).call("flock").context(OPERATION, quote(parent))?
        }
    };
    let prefix = [b".", name.as_bytes(), b".new-"].concat();
    remove_left(parent, &prefix)?;
    let exists = is_image(directory)?;

    let name = [&*prefix, std::process::id().to_string().as_bytes()].concat();
    let fresh = Fresh::make(parent.join(OsStr::from_bytes(&name)))?;
    for (name, content) in files {
        fresh.write(name, content)?;
    }
    fresh.directory.sync_all().call("fsync").context(OPERATION, fresh.quoted())?;
    let flags = if exists { RenameFlags::RENAME_EXCHANGE } else { RenameFlags::RENAME_NOREPLACE };
    renameat2(AT_FDCWD, &fresh.path, AT_FDCWD, directory, flags)
        .call("renameat2")
        .context(OPERATION, quote(directory))?;
    made.keep();
    // What has the fresh one's name is the old image, or nothing: dropping it removes it.
    drop(fresh);
    lock.sync_all().call("fsync").context(OPERATION, quote(parent))
}

/// Whether there is an image to be replaced. A directory with something else in it is not ours to remove.
fn is_image(directory: &Path) -> Result<bool> {
    let refused = |reason: String| Err(Error::unsupported(OPERATION, quote(directory), reason));
    let metadata = match fs::symlink_metadata(directory).call("lstat") {
        Err(failure) if failure.errno == Errno::ENOENT => return Ok(false),
        metadata => metadata.context(OPERATION, quote(directory))?,
    };
    if !metadata.is_dir() {
        return refused("is there, and no directory".to_owned());
    }
    for entry in fs::read_dir(directory).call("open").context(OPERATION, quote(directory))? {
        let entry = entry.call("getdents64").context(OPERATION, quote(directory))?;
        let ours = NAMES.iter().any(|name| entry.file_name() == *name);
        if !ours || entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            return refused(format!(
                "has {} in it, which is of no image",
                quote(entry.file_name())
            ));
        }
    }
    Ok(true)
}

/// Removes the directories of those that were killed.
fn remove_left(parent: &Path, prefix: &[u8]) -> Result<()> {
    for entry in fs::read_dir(parent).call("open").context(OPERATION, quote(parent))? {
        let entry = entry.call("getdents64").context(OPERATION, quote(parent))?;
        if entry.file_name().as_bytes().starts_with(prefix) {
            remove(&entry.path());
        }
    }
    Ok(())
}

/// Removes an image's files and its directory. What is not an image's stays, and so does what somebody else has
/// made or a link leads to: in a directory like `/tmp` the name may be a stranger's.
fn remove(path: &Path) {
    let Ok(directory) = open_directory(path) else { return };
    let own = fstat(&directory).is_ok_and(|stat| stat.st_uid == geteuid().as_raw());
    if own {
        for name in NAMES {
            let _ = unlinkat(&directory, name, UnlinkatFlags::NoRemoveDir);
        }
        let _ = fs::remove_dir(path);
    }
}

fn open_directory(path: &Path) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    nix::fcntl::open(path, flags, Mode::empty())
}

/// A directory that is being filled, and removed when it has not become the image.
struct Fresh {
    path: PathBuf,
    directory: File,
}

impl Fresh {
    fn make(path: PathBuf) -> Result<Self> {
        let context = || quote(&path);
        mkdir(&path, Mode::S_IRWXU).call("mkdir").context(OPERATION, context())?;
        let opened = open_directory(&path).call("open").context(OPERATION, context());
        let directory = opened.inspect_err(|_| drop(fs::remove_dir(&path)))?.into();
        let fresh = Self { path, directory };
        // Whatever the caller's umask.
        let mode = Permissions::from_mode(0o755);
        fresh.directory.set_permissions(mode).call("fchmod").context(OPERATION, fresh.quoted())?;
        Ok(fresh)
    }

    fn quoted(&self) -> String {
        quote(&self.path)
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        let context = || quote(self.path.join(name));
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let file = openat(&self.directory, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)
            .call("openat")
            .context(OPERATION, context())?;
        let mut file = File::from(file);
        file.write_all(content).call("write").context(OPERATION, context())?;
        let mode = Permissions::from_mode(0o644);
        file.set_permissions(mode).call("fchmod").context(OPERATION, context())?;
        // So that a power failure leaves it whole too.
        file.sync_all().call("fsync").context(OPERATION, context())
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Parents that were made, and are removed unless they are used.
struct Made(Vec<PathBuf>);

impl Made {
    fn new(directory: &Path) -> Result<Self> {
        let mut made = Self(Vec::new());
        let missing: Vec<&Path> =
            directory.ancestors().take_while(|path| fs::symlink_metadata(path).is_err()).collect();
        for path in missing.into_iter().rev().filter(|path| !path.as_os_str().is_empty()) {
            DirBuilder::new()
                .mode(0o755)
                .create(path)
                .call("mkdir")
                .context(OPERATION, quote(path))?;
            made.0.push(path.to_owned());
        }
        Ok(made)
    }

    fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for path in self.0.iter().rev() {
            let _ = fs::remove_dir(path);
        }
    }
}

/// Signals that end a program, held back until this is dropped.
struct Held(SigSet);

impl Held {
    fn new() -> Result<Self> {
        let ending = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM];
        let before = ending
            .into_iter()
            .collect::<SigSet>()
            .thread_swap_mask(SigmaskHow::SIG_BLOCK)
            .call("sigprocmask")
            .context("hold back", "signals")?;
        Ok(Self(before))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.thread_set_mask();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory for a test.
    struct Place(PathBuf);

    impl Place {
        fn new() -> Self {
            Self(nix::unistd::mkdtemp(&std::env::temp_dir().join("image.XXXXXX")).unwrap())
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0).unwrap();
            let mut names: Vec<_> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }

        fn error(&self, name: &str, files: &[(&str, &[u8])]) -> String {
            let error = replace(&self.0.join(name), files).unwrap_err().to_string();
            error.replace(self.0.to_str().unwrap(), "P")
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    const FILES: [(&str, &[u8]); 2] = [("kernel", b"new"), ("image.json", b"{}")];

    #[test]
    fn an_image_is_made_and_replaced() {
        let place = Place::new();
        let image = place.0.join("a/b/vm");
        replace(&image, &[("kernel", b"old"), ("initramfs", b"old")]).unwrap();
        assert_eq!(fs::read(image.join("initramfs")).unwrap(), b"old");
        replace(&image, &FILES).unwrap();
        assert_eq!(fs::read(image.join("kernel")).unwrap(), b"new");
        assert!(!image.join("initramfs").exists());
        let inside = fs::read_dir(place.0.join("a/b")).unwrap().count();
        assert_eq!(inside, 1);
        let mode = fs::metadata(&image).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o755);
    }

    #[test]
    fn what_is_no_image_stays() {
        let place = Place::new();
        fs::create_dir(place.0.join("home")).unwrap();
        fs::write(place.0.join("home/letter"), "dear").unwrap();
        let error = "write guest image \"P/home\": has \"letter\" in it, which is of no image";
        assert_eq!(place.error("home", &FILES), error);
        fs::write(place.0.join("file"), "").unwrap();
        assert_eq!(
            place.error("file", &FILES),
            "write guest image \"P/file\": is there, and no directory"
        );
        assert_eq!(place.names(), ["file", "home"]);
    }

    #[test]
    fn what_a_killed_one_left_is_removed() {
        let place = Place::new();
        let left = place.0.join(".vm.new-1");
        fs::create_dir(&left).unwrap();
        fs::write(left.join("kernel"), "half").unwrap();
        replace(&place.0.join("vm"), &FILES).unwrap();
        assert_eq!(place.names(), ["vm"]);
    }

    #[test]
    fn a_failure_leaves_what_was_there() {
        let place = Place::new();
        replace(&place.0.join("vm"), &FILES).unwrap();
        let error = place.error("vm", &[("kernel", b"x"), ("no/such", b"y")]);
        assert!(
            error.ends_with("no/such\": openat: ENOENT (no such file or directory)"),
            "{error}"
        );
        assert_eq!(fs::read(place.0.join("vm/kernel")).unwrap(), b"new");
        let error = place.error("new/vm", &[("no/such", b"y")]);
        assert!(error.contains("ENOENT"), "{error}");
        assert_eq!(place.names(), ["vm"]);
    }
}
