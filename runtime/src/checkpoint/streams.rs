//! Standard streams that lead out of the container: pipes, and files and FIFOs of the host.
//!
//! What they led to is written beside the images, in runc's form (`descriptors.json`: a list of three names
//! such as `pipe:[4711]`), and on restore each gets a stream of whoever restores.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::BorrowedFd;
use std::path::Path;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstat};

use crate::error::{Call, Context, Error, ErrorKind, Result, quote};

const NAME: &str = "descriptors.json";
/// Longest file that is read.
const LONGEST: u64 = 64 * 1024;

/// The standard streams of a container's process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Streams {
    /// What each leads to; empty for what is the container's own.
    pub names: [String; 3],
    /// Those that CRIU must be told of: `file[MOUNT:INODE]`.
    pub external: Vec<String>,
}

/// Looks at the streams of `pid`. `all` are the container's processes.
pub(super) fn of(pid: i32, all: &[i32]) -> Streams {
    let mut streams = Streams::default();
    let mounts = mount_ids(pid);
    let mut inner: Option<BTreeSet<String>> = None;
    for (number, name) in streams.names.iter_mut().enumerate() {
        let path = format!("/proc/{pid}/fd/{number}");
        let Ok(target) = std::fs::read_link(&path) else { continue };
        let Some(target) = target.to_str() else { continue };
        if target.starts_with("pipe:[") {
            // One whose two ends are in the container is its own affair.
            if !inner.get_or_insert_with(|| inner_pipes(all)).contains(target) {
                *name = target.to_owned();
            }
        } else if let Some(key) = foreign_file(pid, number, &path, &mounts) {
            name.clone_from(&key);
            streams.external.push(key);
        }
    }
    streams.external.dedup();
    streams
}

/// Pipes of which the processes hold both ends.
fn inner_pipes(all: &[i32]) -> BTreeSet<String> {
    let (mut read, mut written) = (BTreeSet::new(), BTreeSet::new());
    for pid in all {
        let directory = format!("/proc/{pid}/fd");
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            let Ok(target) = std::fs::read_link(entry.path()) else { continue };
            let Some(target) = target.to_str().filter(|t| t.starts_with("pipe:[")) else {
                continue;
            };
            let info = format!("/proc/{pid}/fdinfo/{}", entry.file_name().to_string_lossy());
            match field(&info, "flags:", 8).map(|flags| flags as i32 & libc::O_ACCMODE) {
                Some(libc::O_RDONLY) => drop(read.insert(target.to_owned())),
                Some(libc::O_WRONLY) => drop(written.insert(target.to_owned())),
                _ => {}
            }
        }
    }
    read.intersection(&written).cloned().collect()
}

/// The key of a file on a mount that the container does not have.
fn foreign_file(pid: i32, number: usize, path: &str, mounts: &BTreeSet<u64>) -> Option<String> {
    let stat = nix::sys::stat::stat(path).ok()?;
    let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    let mount = field(&format!("/proc/{pid}/fdinfo/{number}"), "mnt_id:", 10)?;
    // CRIU looks for a FIFO among regular files too.
    let foreign = matches!(kind, SFlag::S_IFREG | SFlag::S_IFIFO)
        || kind == SFlag::S_IFCHR && !is_terminal(stat.st_rdev);
    (foreign && !mounts.contains(&mount)).then(|| format!("file[{mount:x}:{:x}]", stat.st_ino))
}

/// Terminals are CRIU's own affair, and what `shell_job` is for.
fn is_terminal(device: u64) -> bool {
    matches!(nix::sys::stat::major(device), 4 | 5 | 136..=143)
}

fn mount_ids(pid: i32) -> BTreeSet<u64> {
    let table = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    table.lines().filter_map(|line| line.split(' ').next()?.parse().ok()).collect()
}

fn field(path: &str, name: &str, radix: u32) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    u64::from_str_radix(value.trim(), radix).ok()
}

/// Writes the names beside the images.
pub(super) fn write(images: BorrowedFd<'_>, path: &Path, streams: &Streams) -> Result<()> {
    let context = || quote(path.join(NAME));
    let flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = openat(images, NAME, flags, Mode::S_IRUSR | Mode::S_IWUSR)
        .call("open")
        .context("write", context())?;
    let json = serde_json::to_vec(&streams.names).expect("a list of strings is JSON");
    File::from(file).write_all(&json).call("write").context("write", context())
}

/// Reads the names that [`write()`], or runc, has written. Without the file there are none.
pub(super) fn read(images: BorrowedFd<'_>, path: &Path) -> Result<Vec<String>> {
    let context = || quote(path.join(NAME));
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = match openat(images, NAME, flags, Mode::empty()) {
        Err(nix::errno::Errno::ENOENT) => return Ok(Vec::new()),
        other => other.call("open").context("read", context())?,
    };
    let wrong = |reason: String| Error::new(ErrorKind::Invalid, "read", context(), reason);
    let stat = fstat(&file).call("fstat").context("read", context())?;
    if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
        return Err(wrong("is not a regular file".to_owned()));
    }
    let mut json = Vec::new();
    File::from(file)
        .take(LONGEST)
        .read_to_end(&mut json)
        .call("read")
        .context("read", context())?;
    let names: Vec<String> = serde_json::from_slice(&json).map_err(|e| wrong(e.to_string()))?;
    Ok(names.into_iter().take(3).collect())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn streams_that_lead_out_are_told_from_inner_ones() {
        let me = std::process::id() as i32;
        let (_reader, _writer) = std::io::pipe().unwrap();
        let inner = inner_pipes(&[me]);
        assert!(!inner.is_empty() && inner.iter().all(|name| name.starts_with("pipe:[")));
        assert!(inner_pipes(&[]).is_empty());
    }

    #[test]
    fn names_come_back_as_they_were_written() {
        let path = std::env::temp_dir().join(format!("bulkhead-streams-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        let directory = File::open(&path).unwrap();
        let images = directory.as_fd();
        assert_eq!(read(images, &path).unwrap(), Vec::<String>::new());
        let mut streams = Streams::default();
        streams.names[1] = "pipe:[7]".to_owned();
        write(images, &path, &streams).unwrap();
        assert_eq!(read(images, &path).unwrap(), ["", "pipe:[7]", ""]);
        std::fs::write(path.join(NAME), "{").unwrap();
        assert!(read(images, &path).unwrap_err().to_string().contains(NAME));
        std::fs::remove_dir_all(&path).unwrap();
    }
}
