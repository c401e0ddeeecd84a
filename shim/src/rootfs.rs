//! The mounts of a container's root file system, as containerd's snapshotters describe them.
//!
//! They are mount(8)'s words: a type, a source and options, of which those in [`FLAGS`] are the
//! kernel's and the rest data for the file system. Everything here comes from containerd, which is
//! trusted; what lies on the file systems is not, so nothing is resolved below the mounted root, and
//! unmounting follows no link (CVE-2020-2024).
//!
//! mount(2) takes one page of data, and the layers of an overlay are often longer than that. Then the
//! mount is made from the layers' common directory with names relative to it; a worker is a process of
//! its own and may change its directory.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use containerd_shim_protos::types::mount::Mount as Message;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::chdir;
use runtime::{Call, Context, Error, Failure, Result, quote};
use serde::{Deserialize, Serialize};

/// Where the root file system is in a bundle.
pub const DIRECTORY: &str = "rootfs";

/// Data that mount(2) takes: a page, with the byte that ends it.
const LONGEST_DATA: usize = 4095;

/// Mounts may be stacked on one place; somebody who keeps mounting does not keep us here.
const MAX_MOUNTS: usize = 4096;

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// File system type, or `bind`.
    pub kind: String,
    /// Device, directory, or a word.
    pub source: String,
    /// Below the root file system's directory; empty for itself.
    pub target: String,
    /// Words of mount(8).
    pub options: Vec<String>,
}

impl Mount {
    /// As containerd's messages have it.
    pub fn from_message(message: Message) -> Self {
        let Message { type_, source, target, options, .. } = message;
        Self { kind: type_, source, target, options }
    }

    /// The message again, for an event.
    pub fn message(&self) -> Message {
        Message {
            type_: self.kind.clone(),
            source: self.source.clone(),
            target: self.target.clone(),
            options: self.options.clone(),
            ..Message::default()
        }
    }
}

/// Words for flags of mount(2): what they set, or clear.
const FLAGS: [(&str, MsFlags, bool); 26] = [
    ("async", MsFlags::MS_SYNCHRONOUS, false),
    ("atime", MsFlags::MS_NOATIME, false),
    ("bind", MsFlags::MS_BIND, true),
    ("defaults", MsFlags::empty(), true),
    ("dev", MsFlags::MS_NODEV, false),
    ("diratime", MsFlags::MS_NODIRATIME, false),
    ("dirsync", MsFlags::MS_DIRSYNC, true),
    ("exec", MsFlags::MS_NOEXEC, false),
    ("mand", MsFlags::MS_MANDLOCK, true),
    ("noatime", MsFlags::MS_NOATIME, true),
    ("nodev", MsFlags::MS_NODEV, true),
    ("nodiratime", MsFlags::MS_NODIRATIME, true),
    ("noexec", MsFlags::MS_NOEXEC, true),
    ("nomand", MsFlags::MS_MANDLOCK, false),
    ("norelatime", MsFlags::MS_RELATIME, false),
    ("nostrictatime", MsFlags::MS_STRICTATIME, false),
    ("nosuid", MsFlags::MS_NOSUID, true),
    ("rbind", MsFlags::MS_BIND.union(MsFlags::MS_REC), true),
    ("relatime", MsFlags::MS_RELATIME, true),
    ("remount", MsFlags::MS_REMOUNT, true),
    ("ro", MsFlags::MS_RDONLY, true),
    ("rw", MsFlags::MS_RDONLY, false),
    ("strictatime", MsFlags::MS_STRICTATIME, true),
    ("suid", MsFlags::MS_NOSUID, false),
    ("sync", MsFlags::MS_SYNCHRONOUS, true),
    // Kept for the caller by containerd's own mounts; no business of the kernel's.
    ("x-containerd.noop", MsFlags::empty(), true),
];

/// The kernel's part and the file system's part of a mount's options.
#[derive(Debug, PartialEq, Eq)]
struct Words {
    flags: MsFlags,
    data: Vec<String>,
}

fn words(options: &[String]) -> Words {
    let mut words = Words { flags: MsFlags::empty(), data: Vec::new() };
    for option in options {
        match FLAGS.iter().find(|(word, ..)| word == option) {
            Some(&(_, flags, on)) => words.flags.set(flags, on),
            None => words.data.push(option.clone()),
        }
    }
    words
}

/// Makes all mounts, each at its place below the bundle's root file system. Should one fail, none is
/// left.
///
/// # Errors
/// Names the mount and what mount(2) says.
pub fn mount_all(mounts: &[Mount], bundle: &Path) -> Result<()> {
    let target = bundle.join(DIRECTORY);
    for (index, mount) in mounts.iter().enumerate() {
        if let Err(error) = mount_one(index, mount, &target) {
            // The first error is the one to tell.
            let _ = unmount(bundle);
            return Err(error);
        }
    }
    Ok(())
}

fn mount_one(index: usize, described: &Mount, root: &Path) -> Result<()> {
    let Words { mut flags, data } = words(&described.options);
    if described.kind == "bind" {
        flags |= MsFlags::MS_BIND;
    }
    let place = root.join(described.target.trim_start_matches('/'));
    let subject = || {
        format!("rootfs[{index}] ({} {:?}) at {}", described.kind, described.source, quote(&place))
    };
    let source = Path::new(&described.source);
    let made = if flags.contains(MsFlags::MS_BIND) {
        bind(source, &place, flags)
    } else {
        new(source, &place, &described.kind, flags, &data)
    };
    made.call("mount").context("mount", subject())
}

/// The kernel ignores all other flags of a new bind mount: they take a second call.
fn bind(source: &Path, place: &Path, flags: MsFlags) -> Result<(), Errno> {
    let kind = flags & (MsFlags::MS_BIND | MsFlags::MS_REC);
    mount(Some(source), place, None::<&str>, kind, None::<&str>)?;
    if flags == kind {
        return Ok(());
    }
    let again = flags.difference(MsFlags::MS_REC) | MsFlags::MS_REMOUNT;
    mount(None::<&str>, place, None::<&str>, again, None::<&str>)
}

fn new(
    source: &Path,
    place: &Path,
    kind: &str,
    flags: MsFlags,
    data: &[String],
) -> Result<(), Errno> {
    let text = data.join(",");
    if text.len() <= LONGEST_DATA {
        return mount(Some(source), place, Some(kind), flags, Some(text.as_str()));
    }
    let Some((directory, data)) = shortened(data) else { return Err(Errno::E2BIG) };
    let text = data.join(",");
    if text.len() > LONGEST_DATA {
        return Err(Errno::E2BIG);
    }
    let home = std::env::current_dir().map_err(|_| Errno::ENOENT)?;
    chdir(&directory)?;
    let made = mount(Some(source), place, Some(kind), flags, Some(text.as_str()));
    chdir(&home)?;
    made
}

/// The options of an overlay with its lower layers relative to a directory that they have in common.
fn shortened(data: &[String]) -> Option<(PathBuf, Vec<String>)> {
    const LOWER: &str = "lowerdir=";
    let (index, lower) =
        data.iter().enumerate().find_map(|(i, word)| Some((i, word.strip_prefix(LOWER)?)))?;
    let layers: Vec<&Path> = lower.split(':').map(Path::new).collect();
    let mut common = layers.first()?.parent()?;
    while !layers.iter().all(|layer| layer.starts_with(common)) {
        common = common.parent()?;
    }
    let names: Option<Vec<&str>> = layers
        .iter()
        .map(|layer| layer.strip_prefix(common).ok()?.to_str().filter(|name| !name.is_empty()))
        .collect();
    let mut data = data.to_vec();
    data[index] = format!("{LOWER}{}", names?.join(":"));
    Some((common.to_owned(), data))
}

/// Unmounts everything at and below the bundle's root file system; nothing mounted there is fine.
///
/// The root file system was the container's to write: it is unmounted from a descriptor of the bundle,
/// following no link, and detached, since what still holds it open is no reason to keep it.
///
/// # Errors
/// Names the place and the failed call.
pub fn unmount(bundle: &Path) -> Result<()> {
    let handle = open_beneath(bundle, Path::new("")).context("open", quote(bundle))?;
    let rootfs = bundle.join(DIRECTORY);
    let context = |failure| Error::system("unmount", quote(&rootfs), failure);
    // Detaching a mount takes along what is mounted below it.
    detach_all(&handle, Path::new(DIRECTORY)).map_err(context)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn flags_and_data() {
        assert!(FLAGS.is_sorted_by_key(|(word, ..)| *word));
        for (options, flags, data) in [
            (
                &["ro", "rbind"][..],
                MsFlags::MS_RDONLY | MsFlags::MS_BIND | MsFlags::MS_REC,
                &[][..],
            ),
            (&["ro", "rw"], MsFlags::empty(), &[]),
            (&["lowerdir=/a:/b", "nodev"], MsFlags::MS_NODEV, &["lowerdir=/a:/b"]),
        ] {
            let expected = Words { flags, data: strings(data) };
            assert_eq!(words(&strings(options)), expected, "{options:?}");
        }
    }

    #[test]
    fn layers_become_relative_to_what_they_have_in_common() {
        let data = strings(&["index=off", "lowerdir=/s/9/fs:/s/10/fs", "upperdir=/s/11/fs"]);
        let (directory, short) = shortened(&data).unwrap();
        assert_eq!(directory, Path::new("/s"));
        assert_eq!(short, strings(&["index=off", "lowerdir=9/fs:10/fs", "upperdir=/s/11/fs"]));
        let one = shortened(&strings(&["lowerdir=/s/9/fs"])).unwrap();
        assert_eq!(one.1, strings(&["lowerdir=fs"]));
        assert!(shortened(&strings(&["upperdir=/s"])).is_none());
    }

    #[test]
    fn places() {
        let mountinfo = "1 0 8:1 / / rw - ext4 x rw\n2 1 0:1 / /b/rootfs rw - overlay o rw\n3 2 0:2 / /b/rootfs/proc rw - proc p rw\n4 3 0:3 / /b/rootfs/proc/a\\040b rw - tmpfs t rw\n5 1 0:4 / /b/rootfs2 rw - tmpfs t rw\n";
        let below = mounts_below(mountinfo, Path::new("/b/rootfs"));
        assert_eq!(below, ["/b/rootfs/proc/a b", "/b/rootfs/proc"].map(PathBuf::from));
    }

    #[test]
    fn mounts_go_and_links_are_not_followed() {
        // In a mount namespace of this thread's own, where there may be one.
        let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        let none: Option<&str> = None;
        if !nix::unistd::geteuid().is_root()
            || nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).is_err()
            || mount(none, "/", none, flags, none).is_err()
        {
            return;
        }
        let bundle = crate::testing::directory("delete");
        let (rootfs, kept) = (bundle.join(DIRECTORY), bundle.join("kept"));
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
