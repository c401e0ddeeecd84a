//! Steps of a tenant who attacks: another container, the runtime while it is inside, or a partner on
//! the host's side of a shared volume. Each is a loop that ends when it is told to, and answers what
//! it got hold of: nothing, if the runtime is sound.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};

use super::report;
use crate::sys;

/// How many executables are held open to be tried again at the end.
const HELD: usize = 64;

/// Exchanges two paths until it is killed, or the suite's process ends.
pub fn swap(a: &str, b: &str) -> Value {
    let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
    loop {
        if let Err(errno) = renameat2(AT_FDCWD, a, AT_FDCWD, b, RenameFlags::RENAME_EXCHANGE) {
            return json!({ "errno": errno.to_string() });
        }
    }
}

/// The processes that this one sees, without itself and without those that it knows.
fn others(known: &BTreeSet<i32>) -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok());
    pids.filter(|pid| *pid != std::process::id() as i32 && !known.contains(pid)).collect()
}

/// What can be learnt of every other process.
pub fn look_around() -> Value {
    let mut seen = BTreeMap::new();
    for pid in others(&BTreeSet::new()) {
        let file = |name: &str| {
            let read = fs::read(format!("/proc/{pid}/{name}"));
            read.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
        };
        let fds = report::links(&format!("/proc/{pid}/fd"));
        seen.insert(
            pid.to_string(),
            json!({
                "cmdline": file("cmdline"), "environ": file("environ"), "fds": fds,
                "root": fs::read_dir(format!("/proc/{pid}/root/")).into_iter().flatten().flatten()
                    .map(|entry| entry.file_name().to_string_lossy().into_owned()).collect::<Vec<_>>(),
                "status": report::status(&format!("/proc/{pid}/status")),
            }),
        );
    }
    json!(seen)
}

/// Tries to open the program of every other process for writing, until `stop` exists.
pub fn besiege(stop: &str) -> Value {
    let mut siege = Siege::default();
    while !Path::new(stop).exists() {
        siege.round();
    }
    siege.end()
}

#[derive(Default)]
struct Siege {
    held: Vec<(String, OwnedFd)>,
    seen: BTreeSet<(u64, u64)>,
    names: BTreeSet<String>,
    opened: BTreeSet<String>,
}

impl Siege {
    fn round(&mut self) {
        let Ok(own) = fs::metadata("/proc/self/exe") else { return };
        for pid in others(&BTreeSet::new()) {
            let path = PathBuf::from(format!("/proc/{pid}/exe"));
            let Ok(found) = fs::metadata(&path) else { continue };
            let file = (found.dev(), found.ino());
            if file == (own.dev(), own.ino()) {
                continue;
            }
            let name = fs::read_link(&path).unwrap_or_default().display().to_string();
            self.attack(&path, &name);
            if self.seen.insert(file) {
                self.attack_maps(pid, file, &name);
            }
            self.names.insert(name);
        }
    }

    /// The link itself, as it is and after every way to make its mount writable. Only flags of mounts
    /// are asked for: the file system behind is the machine's, and stays as it is.
    fn attack(&mut self, path: &Path, name: &str) {
        self.note("open", name, File::options().write(true).open(path));
        let hold = File::options().read(true).custom_flags(libc::O_PATH).open(path);
        let Ok(hold) = hold.map(OwnedFd::from) else { return };
        let through = format!("/proc/self/fd/{}", hold.as_raw_fd());
        let none = None::<&str>;
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
        let _ = mount(none, through.as_str(), none, flags, none);
        let _ = sys::make_writable(&hold);
        if let Ok(tree) = sys::clone_tree(&hold) {
            let _ = sys::make_writable(&tree);
            let through = format!("/proc/self/fd/{}", tree.as_raw_fd());
            self.note("clone", name, File::options().write(true).open(through));
        }
        self.note("remount", name, File::options().write(true).open(&through));
        if self.held.len() < HELD {
            self.held.push((name.to_owned(), hold));
        }
    }

    /// The same file through the mappings of the process.
    fn attack_maps(&mut self, pid: i32, file: (u64, u64), name: &str) {
        let entries = fs::read_dir(format!("/proc/{pid}/map_files"));
        for entry in entries.into_iter().flatten().flatten() {
            let path = entry.path();
            if fs::metadata(&path).is_ok_and(|found| (found.dev(), found.ino()) == file) {
                self.note("map_files", name, File::options().write(true).open(path));
            }
        }
    }

    /// The processes are gone: "text file busy" protects nothing any more (CVE-2019-5736).
    fn end(mut self) -> Value {
        for (name, hold) in std::mem::take(&mut self.held) {
            let through = format!("/proc/self/fd/{}", hold.as_raw_fd());
            self.note("held", &name, File::options().write(true).open(through));
        }
        json!({ "programs": self.names, "opened": self.opened })
    }

    /// A memory file that is sealed against writing can be opened and not written.
    fn note(&mut self, way: &str, name: &str, opened: io::Result<File>) {
        if opened.is_ok_and(|file| !sys::is_sealed(&file)) {
            self.opened.insert(format!("{way}: {name}"));
        }
    }
}

/// Watches until `stop` exists which capabilities other processes hold that this one cannot have,
/// and whose roots can be entered.
pub fn watch(stop: &str) -> Value {
    let mask = |status: &Value, set: &str| {
        u64::from_str_radix(status[set].as_str().unwrap_or_default(), 16).unwrap_or(0)
    };
    let own = mask(&report::status("/proc/self/status"), "CapBnd");
    let known: BTreeSet<i32> = others(&BTreeSet::new()).into_iter().collect();
    let (mut excess, mut seen) = (0, 0u64);
    while !Path::new(stop).exists() {
        for pid in others(&known) {
            let permitted = mask(&report::status(&format!("/proc/{pid}/status")), "CapPrm");
            seen += 1;
            excess |= permitted & !own;
        }
    }
    json!({ "looks": seen, "excess": format!("{excess:016x}") })
}

/// Tries until `stop` exists to read a file of the host through the roots of other processes.
pub fn peep(stop: &str, secret: &str) -> Value {
    let mut seen = BTreeSet::new();
    while !Path::new(stop).exists() {
        for pid in others(&BTreeSet::new()) {
            for place in ["root", "cwd"] {
                if fs::metadata(format!("/proc/{pid}/{place}/{secret}")).is_ok() {
                    seen.insert(place);
                }
            }
        }
    }
    json!(seen)
}
