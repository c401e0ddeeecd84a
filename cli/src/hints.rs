//! Where to look after a failed system call: the sysctl or setting that most often is behind it.

use nix::errno::Errno;

/// (what the call's name begins with, errno, advice)
const HINTS: [(&str, Errno, &str); 8] = [
    ("clone3", Errno::ENOSPC, "the limits in /proc/sys/user (max_*_namespaces) may be reached"),
    ("unshare", Errno::ENOSPC, "the limits in /proc/sys/user (max_*_namespaces) may be reached"),
    ("clone3", Errno::EAGAIN, "pids.max of the cgroup or `ulimit -u` may be reached"),
    (
        "clone3",
        Errno::EPERM,
        "user namespaces may be restricted: kernel.unprivileged_userns_clone, \
         kernel.apparmor_restrict_unprivileged_userns, user.max_user_namespaces",
    ),
    (
        "unshare",
        Errno::EPERM,
        "user namespaces may be restricted: kernel.unprivileged_userns_clone, \
         kernel.apparmor_restrict_unprivileged_userns, user.max_user_namespaces",
    ),
    ("clone3", Errno::EBUSY, "the cgroup has controllers enabled for its children"),
    (
        "fsmount",
        Errno::EPERM,
        "inside a container whose /proc or /sys has masked or read-only parts no other one can be \
         mounted: give the outer container unmasked ones, or bind its /proc and share its pid namespace",
    ),
    ("keyctl", Errno::EDQUOT, "the quotas in /proc/sys/kernel/keys may be reached"),
];

/// The advice for a failure, if there is any.
pub fn for_error(error: &runtime::Error) -> Option<&'static str> {
    let runtime::Cause::Call(failure) = error.cause() else {
        return None;
    };
    HINTS
        .iter()
        .find(|(call, errno, _)| failure.call.starts_with(call) && failure.errno == *errno)
        .map(|&(_, _, hint)| hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_namespaces_is_named() {
        let failure = runtime::Failure { call: "clone3", errno: Errno::ENOSPC };
        let error = runtime::Error::system("create", "container", failure);
        assert!(for_error(&error).unwrap().contains("max_*_namespaces"));
        assert_eq!(for_error(&runtime::Error::invalid("process.args", "is empty")), None);
    }
}
