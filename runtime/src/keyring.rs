//! The session keyring of a container.
//!
//! See [session-keyring(7)](https://man7.org/linux/man-pages/man7/session-keyring.7.html). Without one
//! of its own a container possesses the creator's session keyring and can read the keys in it. Each
//! container gets `_ses.ID.NUMBER`; `exec` joins the same one by name.
//!
//! The number cannot be guessed. Joining by name makes a keyring only if there is none of that name in
//! the user namespace: with the id alone, a container of the same id under another state root would
//! share its keys, and a tenant could have the keyring ready before its victim is created.
//!
//! Joining by name finds only keyrings of the caller's user namespace that the caller may search, and
//! the default permissions of a session keyring do not include it. The search bit is therefore added for
//! the owning user, which is root of the namespace, for init and `exec` alike.

use std::ffi::CString;

use nix::errno::Errno;

use crate::error::{Context, Error, ErrorKind, Failure, Result};
use crate::sys::keyring as sys;

/// `KEY_USR_SEARCH`.
const USER_SEARCH: u32 = 0x0008_0000;

/// The keyring to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Keyring {
    name: CString,
    /// In the name; the container's record keeps it.
    pub(crate) number: u64,
}

impl Keyring {
    /// The keyring of a container whose number is in its record; none without a number. A valid id
    /// has no NUL byte.
    pub(crate) fn plan(id: &str, number: Option<u64>) -> Result<Option<Self>> {
        let Some(number) = number else { return Ok(None) };
        let name = CString::new(format!("_ses.{id}.{number:016x}"))
            .map_err(|_| Error::invalid("container id", "contains a NUL byte"))?;
        Ok(Some(Self { name, number }))
    }

    /// Makes it the session keyring of this process. A kernel without keyrings has nothing to keep
    /// apart; everything else is an error, as the creator's keyring would stay.
    pub(crate) fn join(&self) -> Result<()> {
        let subject = format!("session keyring {:?}", self.name);
        let key = match sys::join_session_keyring(&self.name) {
            Err(Failure { errno: Errno::ENOSYS, .. }) => return Ok(()),
            Err(Failure { errno: Errno::EDQUOT, .. }) => {
                let reason = "keyctl: EDQUOT: the user's quota of keys is used up (see \
                              /proc/sys/kernel/keys/maxkeys and root_maxkeys, /proc/key-users)";
                return Err(Error::new(ErrorKind::System, "join", subject, reason));
            }
            other => other.context("join", &subject)?,
        };
        let description = sys::describe(key).context("describe", &subject)?;
        let Some(permissions) = permissions(&description) else {
            let reason = "its description has no permissions";
            return Err(Error::new(ErrorKind::System, "describe", subject, reason));
        };
        sys::set_permissions(key, permissions | USER_SEARCH).context("set permissions of", subject)
    }
}

/// The fourth field of `type;uid;gid;permissions;name`, in hexadecimal.
fn permissions(description: &[u8]) -> Option<u32> {
    let field = description.split(|byte| *byte == b';').nth(3)?;
    u32::from_str_radix(std::str::from_utf8(field).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::in_child;

    #[test]
    fn permissions_are_the_fourth_field() {
        assert_eq!(permissions(b"keyring;0;0;3f130000;_ses.a;b"), Some(0x3f13_0000));
        for odd in [&b""[..], b"keyring;0;0", b"keyring;0;0;xyz;a", b"keyring;0;0;;a"] {
            assert_eq!(permissions(odd), None);
        }
    }

    #[test]
    fn two_joins_by_name_are_one_keyring_and_another_name_is_another() {
        in_child(|| {
            let join = |name: &str| {
                Keyring::plan(name, Some(1)).unwrap().unwrap().join().unwrap();
                let name = CString::new(format!("_ses.{name}.{:016x}", 1)).unwrap();
                sys::join_session_keyring(&name).unwrap()
            };
            let id = format!("bulkhead-test-{}", std::process::id());
            let first = join(&id);
            // Again by name, from another one, as `exec` does.
            let other = join(&format!("{id}.other"));
            let again = Keyring::plan(&id, Some(1)).unwrap().unwrap();
            again.join().unwrap();
            let text = String::from_utf8(sys::describe(first).unwrap()).unwrap();
            assert!(text.contains(&id), "{text}");
            assert_eq!(permissions(text.as_bytes()).unwrap() & USER_SEARCH, USER_SEARCH);
            assert_eq!(first, other);
        });
    }
}
