//! Which cgroup file systems a test sees, and the cgroups that a container made in them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::check::{Res, skip};

/// What /sys/fs/cgroup shows to the runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// What the machine has.
    Host,
    /// The v1 hierarchies without the cgroup2 one.
    V1,
    /// The cgroup2 hierarchy alone.
    V2,
}

impl Layout {
    /// The layout's word on the command line.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "host" => Some(Self::Host),
            "v1" => Some(Self::V1),
            "v2" => Some(Self::V2),
            _ => None,
        }
    }

    /// The inverse of `parse`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

/// One mounted hierarchy.
#[derive(Clone, Debug)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub point: PathBuf,
    /// Whether it is the cgroup2 one.
    pub v2: bool,
    /// Controllers of a v1 hierarchy, from its mount options.
    pub controllers: Vec<String>,
}

/// The hierarchies mounted in this mount namespace.
pub fn hierarchies() -> Vec<Hierarchy> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in table.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let right: Vec<&str> = right.split(' ').collect();
        let v2 = right[0] == "cgroup2";
        if !v2 && right[0] != "cgroup" {
            continue;
        }
        let point = PathBuf::from(left.split(' ').nth(4).unwrap_or_default());
        // A hierarchy that another mount hides is not there for anybody.
        if found.iter().any(|h| h.point == point) || !point.join("cgroup.procs").exists() {
            continue;
        }
        let options = right.get(2).copied().unwrap_or_default();
        let controllers =
            options.split(',').filter(|o| !v2 && *o != "rw").map(str::to_owned).collect();
        found.push(Hierarchy { point, v2, controllers });
    }
    found
}

/// Moves this process to a root whose /sys/fs/cgroup shows only the hierarchies of `layout`.
///
/// The root is put together from binds of what is mounted now, so that the mount table has no trace of
/// the other hierarchies: a runtime that reads it must find the layout that it is to believe in.
/// Nothing below the machine's /sys/fs/cgroup is unmounted or moved; the old root goes as a whole, in
/// this mount namespace, where nothing propagates.
pub fn show(layout: Layout, scratch: &Path) -> io::Result<()> {
    show_below(layout, "", scratch)
}

/// The same, with the cgroup `top` for the root of each hierarchy: after [`enter`].
pub fn show_below(layout: Layout, top: &str, scratch: &Path) -> io::Result<()> {
    if layout == Layout::Host {
        return Ok(());
    }
    let none = None::<&str>;
    let bind = |from: &Path, to: &Path| mount(Some(from), to, none, MsFlags::MS_BIND, none);
    let all = hierarchies();
    fs::create_dir_all(scratch)?;
    bind(Path::new("/"), scratch)?;
    let inside = |path: &Path| scratch.join(path.strip_prefix("/").unwrap_or(path));
    for point in mount_points() {
        let covered = ["/proc", "/sys"].iter().any(|top| point.starts_with(top));
        if !covered && point != Path::new("/") && point != scratch {
            // A mount that another one hides cannot be reached, nor missed.
            let _ = bind(&point, &inside(&point));
        }
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), &scratch.join("proc"), Some("proc"), flags, none)?;
    mount(Some("sysfs"), &scratch.join("sys"), Some("sysfs"), flags, none)?;
    let target = scratch.join("sys/fs/cgroup");
    match layout {
        Layout::V2 => {
            let Some(unified) = all.iter().find(|h| h.v2) else {
                return Err(io::Error::other("no cgroup2 hierarchy is mounted"));
            };
            bind(&unified.point.join(top), &target)?;
        }
        Layout::V1 | Layout::Host => {
            mount(Some("tmpfs"), &target, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
            for hierarchy in all.iter().filter(|h| !h.v2) {
                let Some(name) = hierarchy.point.file_name() else { continue };
                fs::create_dir(target.join(name))?;
                bind(&hierarchy.point.join(top), &target.join(name))?;
            }
        }
    }
    nix::unistd::chdir(scratch)?;
    nix::unistd::pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    nix::unistd::chdir("/")?;
    Ok(())
}

/// Makes the cgroup `name` in every hierarchy and moves this process there, in a cgroup namespace with it
/// for its root.
pub fn enter(name: &str) -> io::Result<()> {
    for hierarchy in hierarchies() {
        let dir = hierarchy.point.join(name);
        fs::create_dir(&dir)?;
        for knob in ["cpuset.cpus", "cpuset.mems"] {
            // Of a v1 cpuset, which takes nobody in before both are set.
            if !hierarchy.v2 && dir.join(knob).exists() {
                fs::write(dir.join(knob), fs::read(hierarchy.point.join(knob))?)?;
            }
        }
        fs::write(dir.join("cgroup.procs"), "0")?;
    }
    Ok(nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP)?)
}

/// The mount points of this mount namespace, in the order of the table.
fn mount_points() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect()
}

/// All cgroup directories whose name contains `word`, innermost last.
pub fn named(word: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for hierarchy in hierarchies() {
        search(&hierarchy.point, word, 0, false, &mut found);
    }
    found
}

fn search(dir: &Path, word: &str, depth: usize, inside: bool, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let matches = inside || entry.file_name().to_string_lossy().contains(word);
        if matches {
            found.push(entry.path());
        }
        if depth < 6 {
            search(&entry.path(), word, depth + 1, matches, found);
        }
    }
}

/// Removes the cgroups whose name contains `word`, which only this suite's containers have.
pub fn remove(word: &str) {
    let mut paths = named(word);
    paths.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    for path in paths {
        let procs = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
        for pid in procs.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0) {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
        }
        for _ in 0..100 {
            if fs::remove_dir(&path).is_ok() || !path.exists() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

/// The directory of `cgroups_path` in the v1 hierarchy of `controller`; skips where there is none.
pub fn v1(controller: &str, cgroups_path: &str) -> Res<PathBuf> {
    let all = hierarchies();
    match all.iter().find(|h| h.controllers.iter().any(|c| c == controller)) {
        Some(hierarchy) => Ok(hierarchy.point.join(cgroups_path.trim_start_matches('/'))),
        None => skip(format!("this machine has no v1 controller {controller}")),
    }
}

/// The directory of `cgroups_path` in the cgroup2 hierarchy; skips where there is none.
pub fn v2(cgroups_path: &str) -> Res<PathBuf> {
    match hierarchies().iter().find(|h| h.v2) {
        Some(hierarchy) => Ok(hierarchy.point.join(cgroups_path.trim_start_matches('/'))),
        None => skip("this machine has no cgroup2 hierarchy"),
    }
}

/// The directory of `cgroups_path` in the hierarchy of `controller`, be it v1 or v2; skips where no
/// hierarchy has it.
pub fn either(controller: &str, cgroups_path: &str) -> Res<PathBuf> {
    let inner = cgroups_path.trim_start_matches('/');
    let has = |h: &&Hierarchy| {
        let list = fs::read_to_string(h.point.join("cgroup.controllers")).unwrap_or_default();
        h.controllers.iter().any(|c| c == controller)
            || h.v2 && list.split_whitespace().any(|c| c == controller)
    };
    match hierarchies().iter().find(has) {
        Some(hierarchy) => Ok(hierarchy.point.join(inner)),
        None => skip(format!("no hierarchy of this machine has the controller {controller}")),
    }
}
