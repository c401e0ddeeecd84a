//! Namespaces: which to create, which to join, and in which order. namespaces(7).
//!
//! What is new is made by the one `clone3`, with two exceptions that decide the order below:
//!
//! - A new namespace is owned by the user namespace of its maker. When a user namespace is *joined*,
//!   the others must be made after joining it, by the child; a new pid namespace (or time offsets)
//!   then needs a second fork, because neither ever applies to its maker.
//! - A child that `clone3` puts into a *new* user namespace has no power over namespaces that the host
//!   owns. Those are entered by the creator, which inherits them to the child, and left again.
//!
//! Joining goes from the outside in: namespaces that the host owns first, while the child has the
//! creator's power, then the user namespace, then those that it owns.
//!
//! A *joined* pid namespace is different from all others: whoever is in it already sees the process
//! that comes. With CAP_SYS_PTRACE a tenant has all that a visible process has, `/proc/PID/root` first
//! (CVE-2016-9962). So nobody is born in it: the child builds the container outside, takes on its
//! credentials, and goes in by a last fork ([`Fork::Confined`]). The creator cannot enter it for the
//! child either, so beside it a new user namespace is made by the child, which has the creator's power
//! until then.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType};

use crate::error::{Call, Context, Error, Failure, Result, quote};
use crate::sys;

/// Kinds with their `CLONE_NEW*` flag and file name below `/proc/PID/ns`, in joining order. The
/// mount namespace comes late: joining it changes the root directory that paths are resolved from.
const KINDS: [(LinuxNamespaceType, i32, &str); 8] = [
    (LinuxNamespaceType::User, libc::CLONE_NEWUSER, "user"),
    (LinuxNamespaceType::Ipc, libc::CLONE_NEWIPC, "ipc"),
    (LinuxNamespaceType::Uts, libc::CLONE_NEWUTS, "uts"),
    (LinuxNamespaceType::Network, libc::CLONE_NEWNET, "net"),
    (LinuxNamespaceType::Time, libc::CLONE_NEWTIME, "time"),
    (LinuxNamespaceType::Cgroup, libc::CLONE_NEWCGROUP, "cgroup"),
    (LinuxNamespaceType::Mount, libc::CLONE_NEWNS, "mnt"),
    (LinuxNamespaceType::Pid, libc::CLONE_NEWPID, "pid"),
];

/// The `CLONE_NEW*` flag of a kind.
pub(crate) fn flag(kind: LinuxNamespaceType) -> i32 {
    KINDS.iter().find(|k| k.0 == kind).map_or(0, |k| k.1)
}

/// The file name of a kind below `/proc/PID/ns`.
pub(crate) fn file_name(flag: i32) -> &'static str {
    KINDS.iter().find(|k| k.1 == flag).map_or("?", |k| k.2)
}

/// The `CLONE_NEW*` flags with their file names below `/proc/PID/ns`.
pub(crate) fn names() -> impl Iterator<Item = (i32, &'static str)> {
    KINDS.iter().map(|k| (k.1, k.2))
}

/// The kinds with a file below `/proc/PID/ns`, for callers that record them.
pub(crate) fn kinds() -> impl Iterator<Item = LinuxNamespaceType> {
    KINDS.iter().map(|k| k.0)
}

/// Namespaces of a container as its configuration asks for them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// `CLONE_NEW*` of those to create.
    pub new: i32,
    /// Those to join, in joining order.
    pub joined: Vec<Join>,
    /// `/proc/self/timens_offsets` lines for a new time namespace.
    pub time_offsets: Option<String>,
}

/// A namespace to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Join {
    /// `CLONE_NEW*`.
    pub flag: i32,
    /// The namespace file.
    pub path: PathBuf,
    /// Index in `linux.namespaces`, for errors.
    pub index: usize,
}

impl Join {
    fn subject(&self) -> String {
        format!("linux.namespaces[{}] {}", self.index, quote(&self.path))
    }
}

/// Sorts the configuration's list. `validate` has refused duplicates.
pub(crate) fn plan(list: &[LinuxNamespace], time_offsets: Option<String>) -> Plan {
    let mut plan = Plan { time_offsets, ..Plan::default() };
    for (index, namespace) in list.iter().enumerate() {
        let flag = flag(namespace.typ());
        match namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty()) {
            Some(path) => plan.joined.push(Join { flag, path: path.clone(), index }),
            None => plan.new |= flag,
        }
    }
    plan.joined.sort_by_key(|join| KINDS.iter().position(|k| k.1 == join.flag));
    plan
}

impl Plan {
    /// Whether the container has its own namespace of this kind, new or joined.
    pub(crate) fn has(&self, flag: i32) -> bool {
        self.new & flag != 0 || self.joins(flag)
    }

    /// Whether a namespace of this kind is created.
    pub(crate) fn creates(&self, flag: i32) -> bool {
        self.new & flag != 0
    }

    /// Whether a namespace of this kind is joined by path.
    pub(crate) fn joins(&self, flag: i32) -> bool {
        self.joined.iter().any(|join| join.flag == flag)
    }

    /// Opens the files of the joined namespaces and checks that each is of the kind it is listed as.
    pub(crate) fn open(&self) -> Result<Vec<Open>> {
        self.joined
            .iter()
            .map(|join| {
                // A fifo must not block the open; a namespace file ignores the flag.
                let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
                let fd = nix::fcntl::open(&join.path, flags, Mode::empty())
                    .call("open")
                    .context("open", join.subject())?;
                let kind = match sys::process::namespace_kind(fd.as_fd()) {
                    Err(Failure {
                        errno: Errno::ENOTTY | Errno::EINVAL | Errno::EBADF, ..
                    }) => {
                        return Err(Error::invalid(join.subject(), "is not a namespace file"));
                    }
                    kind => kind.context("open", join.subject())?,
                };
                if kind != join.flag {
                    return Err(Error::invalid(
                        join.subject(),
                        format!(
                            "is a {} namespace, the configuration says {}",
                            file_name(kind),
                            file_name(join.flag)
                        ),
                    ));
                }
                Ok(Open { join: join.clone(), fd })
            })
            .collect()
    }
}

/// A namespace file, open and of the right kind.
#[derive(Debug)]
pub(crate) struct Open {
    pub join: Join,
    fd: OwnedFd,
}

impl Open {
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Joins it. For pid and time this applies to later children only.
    pub(crate) fn enter(&self) -> Result<()> {
        sys::process::setns(self.fd(), self.join.flag).context("join", self.join.subject())
    }

    /// Whether its owner is the user namespace `user`, or one below that: whoever is root there has power
    /// over it.
    pub(crate) fn is_owned_within(&self, user: &Self) -> Result<bool> {
        let id = |fd: BorrowedFd<'_>| {
            let stat = nix::sys::stat::fstat(fd).call("fstat");
            stat.map(|stat| (stat.st_dev, stat.st_ino))
        };
        let within = || {
            let wanted = id(user.fd())?;
            let mut owner = sys::process::owner_of_namespace(self.fd())?;
            while let Some(at) = owner {
                if id(at.as_fd())? == wanted {
                    return Ok(true);
                }
                owner = sys::process::parent_of_namespace(at.as_fd())?;
            }
            Ok(false)
        };
        within().context("find the owner of", self.join.subject())
    }

    /// Whether joining worked; it did not for want of power over the namespace's owner.
    pub(crate) fn enter_if_permitted(&self) -> Result<bool> {
        match sys::process::setns(self.fd(), self.join.flag) {
            Ok(()) => Ok(true),
            Err(failure) if failure.errno == Errno::EPERM => Ok(false),
            Err(failure) => Err(Error::system("join", self.join.subject(), failure)),
        }
    }
}

/// Who does what, and when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Order {
    /// Flags of the clone.
    pub clone: i32,
    /// Kinds that the creator enters around the clone.
    pub creator: i32,
    /// Kinds that the creator makes for its child around the clone (time offsets).
    pub creator_new: i32,
    /// Kinds that the child makes after it has joined a user namespace.
    pub child_new: i32,
    /// When the child forks again.
    pub fork: Fork,
}

/// When the child goes on in a process that it forks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Fork {
    /// Never: the clone made everything.
    #[default]
    Never,
    /// After it has joined and made namespaces, some of which apply to its children only.
    Joined,
    /// After it has taken on the container's credentials: into a joined pid namespace.
    Confined,
}

impl Order {
    /// Whether the child makes its user namespace itself, and asks for the id maps then.
    pub(crate) fn child_makes_user_namespace(&self) -> bool {
        self.child_new & libc::CLONE_NEWUSER != 0
    }
}

impl Plan {
    /// Decides the order; see the module's text. `late_cgroup`: the child joins its cgroup itself
    /// (v1, and where births are forbidden), so that a new cgroup namespace must be made by the child
    /// after that, or its root would be the creator's cgroup. `privileged`: the creator has power over
    /// the namespaces to join and over its own, to which it returns. Root of a user namespace has none
    /// over the latter.
    pub(crate) fn order(&self, late_cgroup: bool, privileged: bool) -> Order {
        let mut order = self.order_without_pid(late_cgroup, privileged);
        if self.joins(libc::CLONE_NEWPID) {
            // Whatever else takes a fork is had by the last one too.
            order.fork = Fork::Confined;
        }
        order
    }

    fn order_without_pid(&self, late_cgroup: bool, privileged: bool) -> Order {
        const FOR_CHILDREN: i32 = libc::CLONE_NEWPID | libc::CLONE_NEWTIME;
        let joined = self.joined.iter().fold(0, |all, join| all | join.flag);
        let joined_time = joined & libc::CLONE_NEWTIME;
        let mut order = Order::default();
        let mut new = self.new;
        if late_cgroup {
            new &= !libc::CLONE_NEWCGROUP;
        }
        if joined & libc::CLONE_NEWUSER != 0 {
            order.child_new = new;
            if new & FOR_CHILDREN != 0 {
                order.fork = Fork::Joined;
            }
            if joined_time != 0 {
                if privileged && order.fork == Fork::Never {
                    order.creator = joined_time;
                } else {
                    order.fork = Fork::Joined;
                }
            }
            return order;
        }
        if new & libc::CLONE_NEWUSER != 0 {
            if joined & libc::CLONE_NEWPID != 0 {
                if privileged && self.time_offsets.is_some() {
                    order.creator_new = new & libc::CLONE_NEWTIME;
                }
                order.child_new = new & !order.creator_new;
                return order;
            }
            order.creator = joined & !libc::CLONE_NEWNS;
        } else if privileged {
            order.creator = joined_time;
        } else if joined_time != 0 {
            order.fork = Fork::Joined;
            order.child_new = new & FOR_CHILDREN;
            new &= !FOR_CHILDREN;
        }
        if new & libc::CLONE_NEWTIME != 0 && self.time_offsets.is_some() {
            new &= !libc::CLONE_NEWTIME;
            if privileged {
                order.creator_new = libc::CLONE_NEWTIME;
            } else {
                order.child_new = libc::CLONE_NEWTIME;
                order.fork = Fork::Joined;
                // The pid namespace must hold the process that goes on as its first.
                order.child_new |= new & libc::CLONE_NEWPID;
                new &= !libc::CLONE_NEWPID;
            }
        }
        order.clone = new;
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libc::{
        CLONE_NEWCGROUP as CGROUP, CLONE_NEWIPC as IPC, CLONE_NEWNET as NET, CLONE_NEWNS as MNT,
        CLONE_NEWPID as PID, CLONE_NEWTIME as TIME, CLONE_NEWUSER as USER,
    };

    fn of(new: i32, joined: &[i32], offsets: bool) -> Plan {
        Plan {
            new,
            joined: joined
                .iter()
                .enumerate()
                .map(|(index, &flag)| Join { flag, path: "/ns".into(), index })
                .collect(),
            time_offsets: offsets.then(|| "monotonic 1 0\n".into()),
        }
    }

    #[test]
    fn order_follows_ownership() {
        #[rustfmt::skip]
        let table = [
            // plan, late cgroup, privileged -> clone, creator, creator_new, child_new, fork
            (of(MNT | PID | CGROUP, &[], false), false, true, Order { clone: MNT | PID | CGROUP, ..Order::default() }),
            (of(MNT | PID | CGROUP, &[], false), true, true, Order { clone: MNT | PID, ..Order::default() }),
            (of(MNT, &[NET, PID], false), false, true, Order { clone: MNT, fork: Fork::Confined, ..Order::default() }),
            (of(MNT, &[NET, PID], false), false, false, Order { clone: MNT, fork: Fork::Confined, ..Order::default() }),
            (of(MNT, &[TIME, PID], false), false, true, Order { clone: MNT, creator: TIME, fork: Fork::Confined, ..Order::default() }),
            (of(USER | MNT, &[NET], false), false, true, Order { clone: USER | MNT, creator: NET, ..Order::default() }),
            (of(USER | MNT, &[NET, PID], false), false, true, Order { child_new: USER | MNT, fork: Fork::Confined, ..Order::default() }),
            (of(USER | MNT | TIME, &[PID], true), false, true, Order { child_new: USER | MNT, creator_new: TIME, fork: Fork::Confined, ..Order::default() }),
            (of(USER | MNT | TIME, &[PID], true), false, false, Order { child_new: USER | MNT | TIME, fork: Fork::Confined, ..Order::default() }),
            (of(MNT, &[USER, NET], false), false, true, Order { child_new: MNT, ..Order::default() }),
            (of(MNT | PID, &[USER, NET], false), false, true, Order { child_new: MNT | PID, fork: Fork::Joined, ..Order::default() }),
            (of(MNT, &[USER, PID], false), false, true, Order { child_new: MNT, fork: Fork::Confined, ..Order::default() }),
            (of(MNT | TIME, &[USER, PID], true), false, false, Order { child_new: MNT | TIME, fork: Fork::Confined, ..Order::default() }),
            (of(MNT, &[USER, TIME], false), false, false, Order { child_new: MNT, fork: Fork::Joined, ..Order::default() }),
            (of(MNT | TIME, &[], true), false, true, Order { clone: MNT, creator_new: TIME, ..Order::default() }),
            (of(MNT | PID | TIME | USER, &[], true), false, false, Order { clone: MNT | USER, child_new: TIME | PID, fork: Fork::Joined, ..Order::default() }),
            (of(MNT | TIME | IPC, &[], false), false, true, Order { clone: MNT | TIME | IPC, ..Order::default() }),
        ];
        for (plan, late, privileged, expected) in table {
            assert_eq!(plan.order(late, privileged), expected, "{plan:?}");
        }
    }

    #[test]
    fn a_file_of_the_wrong_kind_is_refused_by_index() {
        let wrong = Plan {
            joined: vec![Join { flag: NET, path: "/proc/self/ns/uts".into(), index: 3 }],
            ..Plan::default()
        };
        let message = wrong.open().unwrap_err().to_string();
        assert!(message.contains("linux.namespaces[3]"), "{message}");
        assert!(message.contains("is a uts namespace"), "{message}");
        let none = Plan {
            joined: vec![Join { flag: NET, path: "/dev/null".into(), index: 0 }],
            ..Plan::default()
        };
        assert!(none.open().unwrap_err().to_string().contains("not a namespace file"));
    }
}
