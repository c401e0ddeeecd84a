//! Facts of this machine and of the creator, read once.

use std::hash::{BuildHasher, Hasher, RandomState};

use nix::unistd::{Gid, Uid, getegid, geteuid};

use crate::caps;
use crate::cgroup::layout::Layout;
use crate::error::Result;
use crate::lsm::Modules;
use crate::procfs::Procfs;

/// What planning needs to know besides the configuration.
#[derive(Debug)]
pub(crate) struct Host {
    pub uid: Uid,
    pub gid: Gid,
    /// Capabilities that the creator can hand on.
    pub permitted: u64,
    pub layout: Layout,
    /// Whether the creator is in the host's first user namespace.
    pub initial_user_namespace: bool,
    /// Security modules in force.
    pub modules: Modules,
    /// A number that nobody can guess, for names.
    pub chance: u64,
    /// The host's procfs.
    pub proc: Procfs,
}

impl Host {
    /// Reads them.
    pub(crate) fn read() -> Result<Self> {
        Ok(Self {
            uid: geteuid(),
            gid: getegid(),
            permitted: caps::permitted()?,
            layout: Layout::detect()?,
            initial_user_namespace: in_initial_user_namespace(),
            modules: Modules::probe(),
            // The standard library's hash keys come from getrandom(2).
            chance: RandomState::new().build_hasher().finish(),
            proc: Procfs::open()?,
        })
    }

    /// Whether the creator is the host's root: it has power over every namespace and cgroup.
    pub(crate) fn privileged(&self) -> bool {
        self.uid.is_root() && self.permitted & caps::SYS_ADMIN != 0 && self.initial_user_namespace
    }

    /// Whether the namespace file behind `path` is the creator's own of that kind.
    pub(crate) fn is_own_namespace(&self, path: &std::path::Path, name: &str) -> bool {
        let own = nix::sys::stat::stat(format!("/proc/self/ns/{name}").as_str());
        let other = nix::sys::stat::stat(path);
        matches!((own, other), (Ok(a), Ok(b)) if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
    }
}

fn in_initial_user_namespace() -> bool {
    /// `PROC_USER_INIT_INO` of `linux/proc_ns.h`.
    const INITIAL: &str = "user:[4026531837]";
    nix::fcntl::readlink("/proc/self/ns/user").is_ok_and(|link| link == INITIAL)
}

/// The name of a user in the host's /etc/passwd. Not `getpwuid(3)`: in a static binary it would load
/// the host's name service modules.
pub(crate) fn user_name(uid: u32) -> Option<String> {
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}
