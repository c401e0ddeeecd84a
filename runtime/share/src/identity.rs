//! Who the server is while it makes a file or writes to one.
//!
//! The guest's kernel has checked that its caller may do what it asks (`default_permissions`, which virtio-fs always
//! has), with groups and capabilities that are not in the message. So the server does not check again: it keeps its
//! capabilities, and takes the caller's ids only to give them to a new file, in the same call that makes it.
//!
//! `CAP_FSETID` is put down for calls that have to clear set-user-ID and set-group-ID bits (`FUSE_HANDLE_KILLPRIV_V2`):
//! without it the kernel clears them as it does for an ordinary user.

use nix::errno::Errno;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{getegid, geteuid};

use crate::sys;

const CAP_FSETID: u64 = 1 << 4;

/// The ids of a new file, and the umask for what has no default ACL above it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) umask: u32,
}

/// The calling thread's ids and capabilities.
#[derive(Debug)]
pub(crate) struct Identity {
    uid: u32,
    gid: u32,
    capabilities: sys::Capabilities,
}

impl Identity {
    /// As the thread has them.
    pub(crate) fn own() -> Result<Self, Errno> {
        umask(Mode::empty());
        let capabilities = sys::capget()?;
        Ok(Self { uid: geteuid().as_raw(), gid: getegid().as_raw(), capabilities })
    }

    /// The thread has these capabilities from here on.
    pub(crate) fn reduce(&mut self, capabilities: sys::Capabilities) {
        self.capabilities = capabilities;
    }

    /// Does `work` so that what it makes is the owner's.
    ///
    /// # Errors
    ///
    /// `EOVERFLOW` for an id that this user namespace does not have.
    pub(crate) fn create<T>(
        &self,
        owner: Owner,
        work: impl FnOnce() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let Owner { uid, gid, umask: mask } = owner;
        // -1 would mean that the id stays as it is.
        if uid == u32::MAX || gid == u32::MAX {
            return Err(Errno::EINVAL);
        }
        let unknown = |errno| if errno == Errno::EINVAL { Errno::EOVERFLOW } else { errno };
        if gid != self.gid {
            sys::set_effective_gid(gid).map_err(unknown)?;
        }
        let result = match (uid != self.uid).then(|| sys::set_effective_uid(uid)) {
            Some(Err(errno)) => Err(unknown(errno)),
            _ => {
                umask(Mode::from_bits_truncate(mask & 0o777));
                let result = work();
                umask(Mode::empty());
                result
            }
        };
        self.restore(owner);
        result
    }

    /// The real and saved ids are the server's own, and so this cannot fail; as somebody else it must not go on.
    fn restore(&self, owner: Owner) {
        let uid = (owner.uid != self.uid).then(|| sys::set_effective_uid(self.uid));
        let gid = (owner.gid != self.gid).then(|| sys::set_effective_gid(self.gid));
        if matches!((uid, gid), (Some(Err(_)), _) | (_, Some(Err(_)))) {
            std::process::abort();
        }
    }

    /// From here on, set-user-ID and set-group-ID bits are cleared by writing, or they are not.
    pub(crate) fn clear_set_ids(&mut self, clear: bool) -> Result<(), Errno> {
        let sys::Capabilities { effective, permitted } = self.capabilities;
        let wanted =
            if clear { effective & !CAP_FSETID } else { effective | permitted & CAP_FSETID };
        if wanted != effective {
            let capabilities = sys::Capabilities { effective: wanted, permitted };
            sys::capset(capabilities)?;
            self.capabilities = capabilities;
        }
        Ok(())
    }
}
