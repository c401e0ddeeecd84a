//! Entering the namespaces of a plan: the creator's part around the clone, and the child's.

use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, setresgid, setresuid};

use crate::error::{Call, Context, Error, Result};
use crate::mount::Pids;
use crate::namespaces::{self, Fork, Open, Order, Plan};
use crate::options::Parent;
use crate::process::channel::{Channel, FromChild};
use crate::process::child::{self, Asker};
use crate::procfs::Procfs;
use crate::sys;
use crate::sys::clone::{Cloned, SingleThreaded};

/// Namespaces that the creator has entered, or prepared for its children; left again on drop.
#[derive(Debug, Default)]
pub(crate) struct Around {
    /// The creator's own, to go back to.
    back: Vec<(i32, OwnedFd)>,
}

impl Around {
    /// Enters what `order` says the creator enters.
    pub(crate) fn enter(order: &Order, plan: &Plan, open: &[Open], proc: &Procfs) -> Result<Self> {
        let mut around = Self::default();
        for namespace in open.iter().filter(|ns| order.creator & ns.join.flag != 0) {
            around.remember(namespace.join.flag)?;
            namespace.enter()?;
        }
        if order.creator_new & libc::CLONE_NEWTIME != 0 {
            around.remember(libc::CLONE_NEWTIME)?;
            new_time_namespace(plan, proc)?;
        }
        Ok(around)
    }

    fn remember(&mut self, flag: i32) -> Result<()> {
        // A new time namespace is for children only; the process's own is what they got before.
        let path = format!("/proc/self/ns/{}", namespaces::file_name(flag));
        let own =
            nix::fcntl::open(path.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
                .call("open")
                .context("open", &path)?;
        self.back.push((flag, own));
        Ok(())
    }

    /// Goes back.
    pub(crate) fn leave(mut self) -> Result<()> {
        self.go_back()
    }

    fn go_back(&mut self) -> Result<()> {
        while let Some((flag, own)) = self.back.pop() {
            sys::process::setns(own.as_fd(), flag)
                .context("return to the creator's namespace", namespaces::file_name(flag))?;
        }
        Ok(())
    }
}

impl Drop for Around {
    fn drop(&mut self) {
        // Only on the way out with an error, which matters more than this one.
        let _ = self.go_back();
    }
}

/// Makes a time namespace for later children and sets its clocks while it is empty.
/// time_namespaces(7).
fn new_time_namespace(plan: &Plan, proc: &Procfs) -> Result<()> {
    sys::process::unshare(libc::CLONE_NEWTIME).context("make", "a time namespace")?;
    if let Some(offsets) = &plan.time_offsets {
        let subject = format!("linux.timeOffsets {offsets:?}");
        proc.write("self/timens_offsets", offsets.as_bytes(), "set", subject)?;
    }
    Ok(())
}

/// A pid namespace that the container is to be in, while the process that builds it is outside.
#[derive(Debug)]
pub(crate) struct Ahead {
    namespace: Open,
    /// Children of this process are born in it already.
    entered: bool,
}

impl Ahead {
    /// Which processes a new procfs is to show.
    pub(crate) fn pids(&self) -> Pids<'_> {
        match self.entered {
            false => Pids::Joined(self.namespace.fd()),
            true => Pids::Foreign,
        }
    }

    /// Lets later children be born in it.
    pub(crate) fn enter(self) -> Result<()> {
        if self.entered { Ok(()) } else { self.namespace.enter() }
    }
}

/// Sets a joined pid namespace apart. It is entered after everything else, while the process still has
/// power over its owner: that is at the end, when the owner is the user namespace that the container is
/// in. If it is another one, that power ends at the user namespace, and children of this process (hooks
/// of the container's namespaces) are born there; to mount its procfs takes the same power.
fn set_apart(open: &mut Vec<Open>, plan: &Plan) -> Result<Option<Ahead>> {
    let at = open.iter().position(|ns| ns.join.flag == libc::CLONE_NEWPID);
    let Some(namespace) = at.map(|at| open.remove(at)) else { return Ok(None) };
    let user = open.iter().find(|ns| ns.join.flag == libc::CLONE_NEWUSER);
    let entered = match user {
        Some(user) => !namespace.is_owned_within(user)?,
        None => plan.creates(libc::CLONE_NEWUSER),
    };
    if entered {
        namespace.enter()?;
    }
    Ok(Some(Ahead { namespace, entered }))
}

/// The child's part: joins and makes what the clone could not, becomes root of its user namespace,
/// and forks again where the order says so. Returns the pid namespace that is yet to be entered.
pub(crate) fn enter(
    order: &Order,
    plan: &Plan,
    mut open: Vec<Open>,
    proc: &Procfs,
    channel: &Channel,
    proof: &SingleThreaded,
) -> Result<Option<Ahead>> {
    let ahead = set_apart(&mut open, plan)?;
    let by_child = |ns: &&Open| order.creator & ns.join.flag == 0;
    let is_user = |ns: &&Open| ns.join.flag == libc::CLONE_NEWUSER;
    let user = open.iter().find(is_user);
    let mut later = Vec::new();
    for namespace in open.iter().filter(by_child).filter(|ns| !is_user(ns)) {
        if user.is_none() {
            namespace.enter()?;
        } else if !namespace.enter_if_permitted()? {
            later.push(namespace);
        }
    }
    if let Some(user) = user {
        user.enter()?;
        become_root()?;
        for namespace in later {
            namespace.enter()?;
        }
    }
    if order.child_makes_user_namespace() {
        make_user_namespace(channel)?;
    }
    if order.child_new & libc::CLONE_NEWTIME != 0 {
        new_time_namespace(plan, proc)?;
    }
    let new = order.child_new & !(libc::CLONE_NEWTIME | libc::CLONE_NEWUSER);
    if new != 0 {
        sys::process::unshare(new).context("make", "namespaces in linux.namespaces")?;
    }
    drop(open);
    if order.fork == Fork::Joined {
        fork_again(channel, proof)?;
    }
    Ok(ahead)
}

/// Makes a user namespace and becomes its root, once the creator has written the maps.
fn make_user_namespace(channel: &Channel) -> Result<()> {
    sys::process::unshare(libc::CLONE_NEWUSER).context("make", "a user namespace")?;
    Asker { channel }.ask(&FromChild::Maps)?;
    sys::process::set_dumpable(false).context("set", "non-dumpable")?;
    become_root()
}

/// Continues in a new process whose parent is the creator, and tells the creator about it.
pub(crate) fn fork_again(channel: &Channel, proof: &SingleThreaded) -> Result<()> {
    go_on_in_child(channel, proof)?;
    // The creator must know of this process before it says anything itself.
    child::wait_for_go(channel)
}

/// As [`fork_again`], for a new process that says nothing before the creator does.
pub(crate) fn go_on_in_child(channel: &Channel, proof: &SingleThreaded) -> Result<()> {
    let context = "the container's process, again";
    match sys::clone::clone3(proof, 0, Parent::Callers, None).context("fork", context)? {
        Cloned::Child(_) => Ok(()),
        Cloned::Parent { pid, pidfd } => {
            // The pid is right for the creator: this process is still in the creator's pid namespace.
            let sent = channel.send(&FromChild::Reborn(pid), Some(pidfd.as_fd()));
            match sent.context("make known", context) {
                Ok(()) => sys::clone::exit_now(0),
                Err(error) => child::give_up(channel, &error),
            }
        }
    }
}

/// Becomes uid 0 and gid 0 of the current user namespace, with all capabilities in it.
pub(crate) fn become_root() -> Result<()> {
    let root = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(root.1, root.1, root.1).call("setresgid").map_err(unmapped)?;
    setresuid(root.0, root.0, root.0).call("setresuid").map_err(unmapped)
}

fn unmapped(failure: crate::error::Failure) -> Error {
    Error::system("become root of the user namespace", "(linux.uidMappings, gidMappings)", failure)
}
