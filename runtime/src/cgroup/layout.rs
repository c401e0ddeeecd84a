//! Where the host's cgroup hierarchies are mounted: v1, v2 or hybrid.
//!
//! On a pure v2 host that is one `statfs(2)` and one small file. Otherwise the mount points come
//! from /proc/self/mountinfo and the creator's own cgroups from /proc/self/cgroup: see
//! [cgroups(7)](https://man7.org/linux/man-pages/man7/cgroups.7.html). A container engine that itself
//! runs in a container may see a hierarchy through a bind mount of a sub-tree: the paths of
//! /proc/self/cgroup then start above what is mounted, and the mount's root is taken off them.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use nix::sys::stat::makedev;

use crate::error::{Call, Context, Result, quote};

/// Where every distribution mounts its hierarchies.
const MOUNTS: &str = "/sys/fs/cgroup";

/// A cgroup v1 hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    /// The controllers bound to it (`cpu`, `cpuacct`, ...); empty for a named hierarchy.
    pub controllers: Vec<String>,
    /// `systemd` for `name=systemd`.
    pub name: Option<String>,
    /// Where the host has it mounted, such as `/sys/fs/cgroup/cpu,cpuacct`.
    pub mount_point: PathBuf,
    /// The creator's own cgroup in it, relative to the mount point, without a leading slash.
    pub own: PathBuf,
}

/// The cgroup2 hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unified {
    /// `/sys/fs/cgroup` on v2, `/sys/fs/cgroup/unified` on hybrid.
    pub mount_point: PathBuf,
    /// The creator's own cgroup in it, relative to the mount point, without a leading slash.
    pub own: PathBuf,
}

/// The host's cgroup layout. Pure v2: `v1` is empty. Pure v1: `unified` is `None`. Hybrid: both.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Layout {
    /// v1 hierarchies in the order of /proc/self/mountinfo.
    pub v1: Vec<Hierarchy>,
    /// The cgroup2 mount.
    pub unified: Option<Unified>,
}

impl Layout {
    /// Reads the host's layout. A host without cgroups is an empty layout.
    pub fn detect() -> Result<Layout> {
        let cgroups = read("/proc/self/cgroup")?;
        let pure = match statfs(MOUNTS) {
            Ok(found) => found.filesystem_type() == CGROUP2_SUPER_MAGIC,
            Err(Errno::ENOENT) => false,
            Err(errno) => return Err(errno).call("statfs").context("look at", quote(MOUNTS)),
        };
        if pure {
            let own = own_of(&cgroups, "").unwrap_or_default();
            let unified = Unified { mount_point: PathBuf::from(MOUNTS), own };
            // The path is missing below a bind-mounted sub-tree; only then its root is looked up.
            if unified.own.as_os_str().is_empty() || Path::new(MOUNTS).join(&unified.own).exists() {
                return Ok(Layout { v1: Vec::new(), unified: Some(unified) });
            }
        }
        Ok(parse(&read("/proc/self/mountinfo")?, &cgroups, &is_visible))
    }

    /// Whether this host has no cgroups at all.
    pub fn is_empty(&self) -> bool {
        self.v1.is_empty() && self.unified.is_none()
    }
}

fn read(path: &str) -> Result<Vec<u8>> {
    std::fs::read(path).call("read").context("read", quote(path))
}

/// Whether the mount of this device is what a path leads to. mountinfo also lists mounts that another
/// mount covers, such as a tmpfs over all of /sys/fs/cgroup.
fn is_visible(point: &Path, device: u64) -> bool {
    nix::sys::stat::stat(point).is_ok_and(|stat| stat.st_dev == device)
}

/// Combines mountinfo and the creator's own cgroups. Of several mounts of a hierarchy the first
/// below /sys/fs/cgroup counts, or else the first.
fn parse(mountinfo: &[u8], cgroups: &[u8], visible: &dyn Fn(&Path, u64) -> bool) -> Layout {
    let mut layout = Layout::default();
    let mounts = mountinfo.split(|&b| b == b'\n').filter_map(Mount::parse);
    for mount in mounts.filter(|mount| visible(&mount.point, mount.device)) {
        if mount.cgroup2 {
            let own = beneath(&own_of(cgroups, "").unwrap_or_default(), &mount.root);
            let usual = |at: &Path| at.starts_with(MOUNTS);
            if layout.unified.as_ref().is_none_or(|u| !usual(&u.mount_point) && usual(&mount.point))
            {
                layout.unified = Some(Unified { mount_point: mount.point, own });
            }
        } else if let Some(found) = mount.hierarchy(cgroups) {
            let same = layout
                .v1
                .iter_mut()
                .find(|h| h.controllers == found.controllers && h.name == found.name);
            match same {
                None => layout.v1.push(found),
                Some(h)
                    if !h.mount_point.starts_with(MOUNTS)
                        && found.mount_point.starts_with(MOUNTS) =>
                {
                    *h = found;
                }
                Some(_) => {}
            }
        }
    }
    layout
}

/// One cgroup line of mountinfo.
struct Mount {
    device: u64,
    root: PathBuf,
    point: PathBuf,
    cgroup2: bool,
    /// Controllers, `name=...` and flags such as `rw`, `noprefix`, as the superblock shows them.
    options: Vec<String>,
}

impl Mount {
    /// `36 35 98:0 /root /point rw,noatime master:1 - cgroup cgroup rw,cpu,cpuacct`
    fn parse(line: &[u8]) -> Option<Mount> {
        let fields: Vec<&[u8]> = line.split(|&b| b == b' ').collect();
        let dash = fields.iter().position(|f| *f == b"-")?;
        let kind = *fields.get(dash + 1)?;
        if kind != b"cgroup" && kind != b"cgroup2" {
            return None;
        }
        let options = String::from_utf8_lossy(fields.get(dash + 3)?);
        let (major, minor) = std::str::from_utf8(fields.get(2)?).ok()?.split_once(':')?;
        Some(Mount {
            device: makedev(major.parse().ok()?, minor.parse().ok()?),
            root: unescape(fields.get(3)?),
            point: unescape(fields.get(4)?),
            cgroup2: kind == b"cgroup2",
            options: options.split(',').map(str::to_string).collect(),
        })
    }

    /// The hierarchy, when /proc/self/cgroup has a line whose controllers all are options here.
    fn hierarchy(self, cgroups: &[u8]) -> Option<Hierarchy> {
        let (names, path) = lines(cgroups).find(|(names, _)| {
            !names.is_empty() && names.split(',').all(|n| self.options.iter().any(|o| o == n))
        })?;
        let (named, controllers): (Vec<&str>, Vec<&str>) =
            names.split(',').partition(|n| n.starts_with("name="));
        Some(Hierarchy {
            controllers: controllers.iter().map(|c| c.to_string()).collect(),
            name: named.first().map(|n| n["name=".len()..].to_string()),
            own: beneath(&path, &self.root),
            mount_point: self.point,
        })
    }
}

/// The lines `ID:CONTROLLERS:/PATH` of a /proc/PID/cgroup file; the path without its first slash.
/// A path that starts with `/..` lies outside of the reader's cgroup namespace and counts as none.
pub(super) fn lines(cgroups: &[u8]) -> impl Iterator<Item = (String, PathBuf)> {
    cgroups.split(|&b| b == b'\n').filter_map(|line| {
        let mut fields = line.splitn(3, |&b| b == b':');
        let (_, names, path) = (fields.next()?, fields.next()?, fields.next()?);
        let path = path.strip_prefix(b"/").unwrap_or(path);
        let path = if path.starts_with(b"..") { &b""[..] } else { path };
        let names = String::from_utf8_lossy(names).into_owned();
        Some((names, PathBuf::from(OsString::from_vec(path.to_vec()))))
    })
}

fn own_of(cgroups: &[u8], names: &str) -> Option<PathBuf> {
    lines(cgroups).find(|(n, _)| n == names).map(|(_, path)| path)
}

/// `own` as seen through a mount of `root`; the mount's top when it lies outside.
fn beneath(own: &Path, root: &Path) -> PathBuf {
    let root = root.strip_prefix("/").unwrap_or(root);
    own.strip_prefix(root).map(Path::to_path_buf).unwrap_or_default()
}

/// Undoes the octal escapes of mountinfo (`\040` is a space).
pub(crate) fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let digits = tail.get(..3).filter(|d| d.iter().all(|b| (b'0'..=b'7').contains(b)));
        match digits {
            Some(d) if first == b'\\' => {
                out.push(((d[0] & 3) << 6) | ((d[1] & 7) << 3) | (d[2] & 7));
                rest = &tail[3..];
            }
            _ => {
                out.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `controllers|name|mount point|own` per hierarchy, `2|mount point|own` for cgroup2.
    fn show(mountinfo: &str, cgroups: &str) -> Vec<String> {
        let layout = parse(mountinfo.as_bytes(), cgroups.as_bytes(), &|_, _| true);
        let mut out: Vec<String> = layout
            .v1
            .iter()
            .map(|h| {
                let name = h.name.clone().unwrap_or_default();
                let (at, own) = (h.mount_point.display(), h.own.display());
                format!("{}|{name}|{at}|{own}", h.controllers.join(","))
            })
            .collect();
        if let Some(u) = &layout.unified {
            out.push(format!("2|{}|{}", u.mount_point.display(), u.own.display()));
        }
        out
    }

    #[test]
    fn layouts() {
        let v1 = "30 24 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
            31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
            32 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
            33 30 0:29 / /dev/cpuset rw - cgroup none rw,cpuset,noprefix,release_agent=/sbin/x\n";
        let own = "4:cpuset:/\n3:name=systemd:/user.slice/a.scope\n2:cpu,cpuacct:/user.slice\n";
        assert_eq!(
            show(v1, own),
            [
                "cpu,cpuacct||/sys/fs/cgroup/cpu,cpuacct|user.slice",
                "|systemd|/sys/fs/cgroup/systemd|user.slice/a.scope",
                "cpuset||/dev/cpuset|",
            ]
        );
        let hybrid = format!("{v1}40 30 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
        let owned = format!("{own}0::/x\n");
        assert_eq!(show(&hybrid, &owned)[3], "2|/sys/fs/cgroup/unified|x");
        let v2 = "31 24 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(show(v2, "0::/user.slice/s.scope\n"), ["2|/sys/fs/cgroup|user.slice/s.scope"]);
        assert!(show("22 1 0:21 / / rw - ext4 /dev/vda rw\n", "0::/\n").is_empty());
        assert!(show("", "").is_empty());
    }

    #[test]
    fn sub_tree_mounts_and_namespaces() {
        let bound = "31 24 0:27 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n\
            32 24 0:28 /docker/abc /sys/fs/cgroup/pi\\040ds ro - cgroup cgroup rw,pids\n";
        let own = "2:memory:/docker/abc\n1:pids:/docker/abc/inner\n";
        assert_eq!(
            show(bound, own),
            ["memory||/sys/fs/cgroup/memory|", "pids||/sys/fs/cgroup/pi ds|inner"]
        );
        let outside = "31 24 0:27 /.. /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        assert_eq!(show(outside, "2:memory:/../x\n"), ["memory||/sys/fs/cgroup/memory|"]);
    }

    #[test]
    fn one_of_several_mounts() {
        let twice = "1 0 0:9 / /mnt/memory rw - cgroup cgroup rw,memory\n\
            2 0 0:9 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            3 0 0:9 / /other rw - cgroup cgroup rw,memory\n\
            4 0 0:8 / /mnt/two rw - cgroup2 none rw\n\
            5 0 0:8 / /sys/fs/cgroup/unified rw - cgroup2 none rw\n";
        assert_eq!(
            show(twice, "1:memory:/\n0::/\n"),
            ["memory||/sys/fs/cgroup/memory|", "2|/sys/fs/cgroup/unified|"]
        );
    }

    #[test]
    fn this_host_has_cgroups() {
        assert!(!Layout::detect().unwrap().is_empty());
    }
}
