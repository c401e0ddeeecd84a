//! Ownership: a container that may write its cgroup2 mount gets its cgroup, but not its limits.
//!
//! `config-linux.md`, "Cgroup ownership": with a cgroup namespace of its own and a writable mount of
//! `cgroup` at /sys/fs/cgroup, the cgroup belongs to the host's user behind `process.user.uid`, so that
//! systemd inside can make sub-cgroups. What is safe to give away the kernel lists in
//! [/sys/kernel/cgroup/delegate](https://docs.kernel.org/admin-guide/cgroup-v2.html#model-of-delegation).
//! Every other file stays the creator's: whoever owns `memory.max` or `pids.max` has no limit.

use std::fs;
use std::io;
use std::os::fd::AsFd;

use nix::NixPath;
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::unistd::{Uid, fchownat};

use super::Cgroup;
use super::layout::Layout;
use crate::error::{Call, Context, Result, quote};
use crate::idmap::Maps;
use crate::mount::{Kind, Mount};

/// Since Linux 4.15.
const LIST: &str = "/sys/kernel/cgroup/delegate";

/// What the specification names for a kernel without [`LIST`].
const DEFAULT: &str = "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n";

/// The host's user who shall own the cgroup of a container with a new cgroup namespace and the
/// id maps `maps`, whose process is `uid` inside. Pure.
pub(crate) fn owner(layout: &Layout, mounts: &[Mount], maps: &Maps, uid: Uid) -> Option<Uid> {
    // On v1 a writable directory is a way to the host: its release_agent runs there (CVE-2022-0492).
    let only_v2 = layout.v1.is_empty() && layout.unified.is_some();
    if !only_v2 || !mounts.iter().any(is_writable_view) {
        return None;
    }
    maps.outside_uid(uid.as_raw()).map(Uid::from_raw)
}

/// Whether this is the mount that the specification describes.
fn is_writable_view(mount: &Mount) -> bool {
    mount.kind == Kind::Cgroup
        && mount.target.as_c_str() == c"sys/fs/cgroup"
        && mount.source.as_deref() == Some(c"cgroup")
        && !mount.options.readonly()
}

impl Cgroup {
    /// Gives the cgroup2 directory, and the files that the kernel lists as safe, to `owner`.
    ///
    /// An ordinary user may not give files away. The cgroup then stays its own, which is a warning:
    /// the specification makes the change optional, and nothing but making sub-cgroups needs it.
    pub fn delegate(&self, owner: Uid, warnings: &mut Vec<String>) -> Result<()> {
        let Some(group) = self.unified() else { return Ok(()) };
        let operation = "change the owner of";
        match give(group.home(), c"", owner, AtFlags::AT_EMPTY_PATH) {
            Err(Errno::EPERM) if !Uid::effective().is_root() => {
                let path = quote(&group.at.path);
                warnings.push(format!("cgroup {path} is not given to uid {owner}: EPERM"));
                return Ok(());
            }
            result => result.call("fchownat").context(operation, quote(&group.at.path))?,
        }
        for file in list()?.lines() {
            match give(group.home(), file, owner, AtFlags::AT_SYMLINK_NOFOLLOW) {
                // A file of a controller that this cgroup does not have.
                Err(Errno::ENOENT) => {}
                result => {
                    let subject = || format!("{file} of {}", quote(&group.at.path));
                    result.call("fchownat").context(operation, subject())?;
                }
            }
        }
        Ok(())
    }
}

fn give<P: ?Sized + NixPath>(dir: impl AsFd, name: &P, to: Uid, flags: AtFlags) -> nix::Result<()> {
    fchownat(dir, name, Some(to), None, flags)
}

fn list() -> Result<String> {
    match fs::read_to_string(LIST) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(DEFAULT.to_owned()),
        result => result.call("read").context("read", quote(LIST)),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::os::unix::fs::MetadataExt;
    use std::path::PathBuf;

    use super::super::layout::{Hierarchy, Unified};
    use super::super::tests::make;
    use super::*;
    use crate::idmap::Range;
    use crate::mount::options;

    fn layout(v1: bool) -> Layout {
        let hierarchy = Hierarchy {
            controllers: vec!["pids".to_owned()],
            name: None,
            mount_point: PathBuf::from("/sys/fs/cgroup/pids"),
            own: PathBuf::new(),
        };
        let unified = Unified { mount_point: PathBuf::from("/sys/fs/cgroup"), own: PathBuf::new() };
        Layout { v1: v1.then_some(hierarchy).into_iter().collect(), unified: Some(unified) }
    }

    fn view(kind: Kind, source: &str, target: &str, words: &[&str]) -> Mount {
        let words: Vec<String> = words.iter().map(|word| word.to_string()).collect();
        Mount {
            index: 0,
            target: CString::new(target).unwrap(),
            source: Some(CString::new(source).unwrap()),
            kind,
            options: options::parse("mounts[0]", &words).unwrap(),
            idmap: None,
            late_readonly: false,
        }
    }

    #[test]
    fn the_owner_is_who_may_write_the_mount() {
        let maps = Maps { uids: vec![Range { inside: 0, outside: 1000, size: 10 }], gids: vec![] };
        let of = |v1, mount: Mount, uid| {
            owner(&layout(v1), &[mount], &maps, Uid::from_raw(uid)).map(Uid::as_raw)
        };
        let (place, kind) = ("sys/fs/cgroup", || Kind::Cgroup);
        assert_eq!(of(false, view(kind(), "cgroup", place, &["nosuid"]), 0), Some(1000));
        assert_eq!(of(false, view(kind(), "cgroup", place, &["ro", "rw"]), 9), Some(1009));
        assert_eq!(of(false, view(kind(), "cgroup", place, &[]), 10), None, "no such id");
        assert_eq!(of(false, view(kind(), "cgroup", place, &["ro"]), 0), None);
        assert_eq!(of(false, view(kind(), "cgroup", place, &["rro"]), 0), None);
        assert_eq!(of(false, view(kind(), "other", place, &[]), 0), None);
        assert_eq!(of(false, view(kind(), "cgroup", "mnt", &[]), 0), None);
        assert_eq!(of(false, view(Kind::Sysfs, "cgroup", place, &[]), 0), None);
        assert_eq!(of(true, view(kind(), "cgroup", place, &[]), 0), None, "v1");
        assert_eq!(owner(&layout(false), &[], &maps, Uid::from_raw(0)), None);
    }

    #[test]
    fn only_listed_files_are_given_away() {
        let test = make("{}");
        let Some(group) = test.cgroup.unified() else { return };
        let mut warnings = Vec::new();
        test.cgroup.delegate(Uid::from_raw(54321), &mut warnings).unwrap();
        assert_eq!(warnings, [""; 0]);
        let given = list().unwrap();
        assert_eq!(fs::metadata(&group.at.path).unwrap().uid(), 54321);
        for entry in fs::read_dir(&group.at.path).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name();
            let listed = given.lines().any(|line| *line == *name);
            let expected = if listed { 54321 } else { 0 };
            assert_eq!(entry.metadata().unwrap().uid(), expected, "{name:?}");
        }
    }
}
