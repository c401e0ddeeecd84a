//! What belongs to the host: mounts that the images do not have, and namespaces that were joined.
//!
//! CRIU saves such a mount under a name, and wants a place of the host for that name when it restores. The
//! names are the destinations, as under runc, so that each of the two restores what the other has saved.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::rpc::ExternalMount;
use super::surroundings::{EMPTY, NULL};
use crate::error::{Call, Context, Error, Failure, Result, quote};
use crate::mount::attach::{self, Links};
use crate::mount::{Kind, Plan, clean};
use crate::notify;
use crate::sys;
use crate::sys::mount::Depth;

/// A mount of the container that is the host's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct External {
    /// Its destination in the container, and its name in the images.
    pub destination: String,
    /// What is mounted there on restore: a path of the host, or a cover.
    pub source: Source,
}

/// What is mounted in an [`External`]'s place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// This path of the host.
    Host(String),
    /// Our own null device or empty directory, whichever the destination is like.
    Cover,
}

/// One line of a mountinfo file, see proc_pid_mountinfo(5).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    id: u64,
    point: PathBuf,
}

/// Every mount that is the host's, in the order of the configuration. `host` is the host's mount table,
/// for what is mounted below a source of `rbind`.
pub(super) fn list(plan: &Plan, host: &[u8]) -> Result<Vec<External>> {
    let mut list = Vec::new();
    for mount in &plan.mounts {
        let destination = inside(mount.target.to_bytes(), &mount.field())?;
        match (&mount.kind, &mount.source) {
            (Kind::Bind(depth), Some(source)) => {
                let source = text(source.to_bytes(), &mount.field())?;
                if *depth == Depth::Recursive {
                    list.extend(below(&destination, &source, host));
                }
                list.push(External { destination, source: Source::Host(source) });
            }
            (Kind::Cgroup, _) => {
                for (name, directory) in plan.cgroups.places() {
                    let path = Path::new(&destination).join(OsStr::from_bytes(name.to_bytes()));
                    let destination = path.to_string_lossy().trim_end_matches('/').to_owned();
                    let source = Source::Host(text(directory.to_bytes(), &mount.field())?);
                    list.push(External { destination, source });
                }
            }
            _ => {}
        }
    }
    // Where mknod(2) was not permitted, nodes of /dev are bind mounts of the host's.
    for node in plan.devices.iter().flatten() {
        let path = inside(node.path.to_bytes(), "linux.devices")?;
        list.push(External { destination: path.clone(), source: Source::Host(path) });
    }
    for path in &plan.masks.masked {
        let destination = inside(path.to_bytes(), "linux.maskedPaths")?;
        list.push(External { destination, source: Source::Cover });
    }
    list.push(External { destination: notify::INSIDE.to_owned(), source: Source::Cover });
    Ok(list)
}

/// What is mounted on the host below `source`, which `rbind` brings along.
fn below(destination: &str, source: &str, host: &[u8]) -> Vec<External> {
    let Ok(source) = std::fs::canonicalize(source) else { return Vec::new() };
    let mut found: Vec<External> = lines(host)
        .filter_map(|line| {
            let rest = line.point.strip_prefix(&source).ok()?;
            if rest.as_os_str().is_empty() {
                return None;
            }
            Some(External {
                destination: Path::new(destination).join(rest).to_str()?.to_owned(),
                source: Source::Host(line.point.to_str()?.to_owned()),
            })
        })
        .collect();
    found.dedup();
    found
}

fn inside(relative: &[u8], field: &str) -> Result<String> {
    text(relative, field).map(|path| format!("/{path}"))
}

fn text(bytes: &[u8], field: &str) -> Result<String> {
    // The messages' strings are UTF-8.
    String::from_utf8(bytes.to_vec())
        .map_err(|_| Error::unsupported("checkpoint", field, "CRIU takes paths in UTF-8 only"))
}

/// Of `list`, the mounts that the container of process `pid` has, by where they are and under what name
/// they are saved.
pub(super) fn to_save(list: &[External], pid: i32) -> Result<Vec<ExternalMount>> {
    let path = format!("/proc/{pid}/mountinfo");
    let table = std::fs::read(&path).call("read").context("read", quote(&path))?;
    let root_path = format!("/proc/{pid}/root");
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = open(root_path.as_str(), flags, Mode::empty())
        .call("open")
        .context("open", quote(&root_path))?;
    let mut found = Vec::new();
    for external in list {
        let relative = clean(Path::new(&external.destination), "mounts")?;
        // What the container has unmounted or moved is not there; links lead to where it really is.
        let Ok(file) = attach::open(root.as_fd(), &relative, Links::Follow) else { continue };
        let place = sys::mount::place(file.as_fd())
            .context("look at the mount", quote(&external.destination))?;
        let point = lines(&table).find(|line| line.id == place.mount).map(|line| line.point);
        let Some(key) = point.filter(|_| place.is_root) else { continue };
        let value = external.destination.clone();
        found.push(ExternalMount { key: key.to_string_lossy().into_owned(), value });
    }
    found.sort_by(|a, b| a.key.cmp(&b.key));
    found.dedup_by(|a, b| a.key == b.key);
    Ok(found)
}

/// Every mount of `list` with what is to be mounted there; covers are in the surroundings at `place`.
/// `is_directory` tells what a destination in the new root is.
pub(super) fn to_restore(
    list: &[External],
    place: &str,
    is_directory: &dyn Fn(&str) -> bool,
) -> Vec<ExternalMount> {
    list.iter()
        .map(|external| {
            let value = match &external.source {
                Source::Host(path) => path.clone(),
                Source::Cover if is_directory(&external.destination) => format!("{place}/{EMPTY}"),
                Source::Cover => format!("{place}/{NULL}"),
            };
            ExternalMount { key: external.destination.clone(), value }
        })
        .collect()
}

fn lines(table: &[u8]) -> impl Iterator<Item = Line> {
    table.split(|&byte| byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|&byte| byte == b' ');
        let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
        Some(Line { id, point: unescape(fields.nth(3)?) })
    })
}

/// Takes the kernel's `\\040` and its like for the bytes that they stand for.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let digits = (first == b'\\').then(|| after.get(..3)).flatten();
        let octal = digits.and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 8).ok());
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsStr::from_bytes(&bytes))
}

/// The inode of a file such as `/proc/PID/ns/net`.
pub(super) fn inode(path: &Path) -> Result<u64, Failure> {
    nix::sys::stat::stat(path).call("stat").map(|stat| stat.st_ino)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_with_their_escapes() {
        let table =
            b"12 1 0:3 / /a\\040b rw - tmpfs none rw\n13 12 0:4 / /c rw - x y z\n\nbroken\n";
        let points: Vec<_> = lines(table).map(|line| (line.id, line.point)).collect();
        assert_eq!(points, [(12, PathBuf::from("/a b")), (13, PathBuf::from("/c"))]);
        assert_eq!(unescape(b"a\\9\\134"), PathBuf::from("a\\9\\"));
    }

    #[test]
    fn mounts_below_a_recursive_bind_are_the_hosts_too() {
        let table = b"1 0 0:1 / / rw - a b c\n2 1 0:2 / /proc rw - a b c\n3 2 0:3 / /proc/sys/x rw - a b c\n";
        let found = below("/data", "/proc", table);
        let source = Source::Host("/proc/sys/x".into());
        assert_eq!(found, [External { destination: "/data/sys/x".into(), source }]);
        assert_eq!(to_restore(&found, "/run/x", &|_| true)[0].value, "/proc/sys/x");
        assert_eq!(below("/data", "/no/such/place", table), []);
    }

    #[test]
    fn covers_are_like_what_they_cover() {
        let list = ["/proc/kcore", "/proc/acpi"]
            .map(|path| External { destination: path.into(), source: Source::Cover });
        let mounts = to_restore(&list, "/run/x", &|path| path.ends_with("acpi"));
        let values: Vec<_> = mounts.iter().map(|mount| mount.value.as_str()).collect();
        assert_eq!(values, ["/run/x/null", "/run/x/empty"]);
    }
}
