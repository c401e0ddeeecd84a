//! Resource limits of the process (`process.rlimits`).
//!
//! See [getrlimit(2)](https://man7.org/linux/man-pages/man2/getrlimit.2.html). Raising a hard limit
//! needs `CAP_SYS_RESOURCE` in the *initial* user namespace. A child in a new user namespace does not
//! have it, so the creator sets the limits with `prlimit(2)` where there is one; otherwise the child
//! does it before it drops capabilities.
//!
//! `RLIMIT_AS` and `RLIMIT_DATA` apply at once to whoever still allocates: everything that is big,
//! such as a filter, must be built before.

use nix::errno::Errno;
use nix::unistd::Pid;
use oci_spec::runtime::{PosixRlimit, PosixRlimitType};

use crate::error::{Context, Result};
use crate::sys;

/// One limit to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rlimit {
    index: usize,
    kind: PosixRlimitType,
    soft: u64,
    hard: u64,
}

/// The limits of a validated process, in order.
pub(crate) fn plan(limits: Option<&[PosixRlimit]>) -> Vec<Rlimit> {
    let limits = limits.unwrap_or_default().iter().enumerate();
    let plan = |(index, limit): (usize, &PosixRlimit)| Rlimit {
        index,
        kind: limit.typ(),
        soft: limit.soft(),
        hard: limit.hard(),
    };
    limits.map(plan).collect()
}

/// Sets the limits of a process; of the caller when there is no pid. The error carries the errno: on
/// EPERM the child asks its creator.
pub(crate) fn apply(limits: &[Rlimit], pid: Option<Pid>) -> Result<()> {
    for &Rlimit { index, kind, soft, hard } in limits {
        let pid = pid.unwrap_or(Pid::from_raw(0));
        let result = sys::prlimit::set(pid, number(kind), soft, hard);
        let hint = match &result {
            Err(failure) if failure.errno != Errno::EPERM => "",
            _ if kind == PosixRlimitType::RlimitNofile => {
                "; raising a hard limit needs CAP_SYS_RESOURCE, above /proc/sys/fs/nr_open is none"
            }
            _ => "; raising a hard limit needs CAP_SYS_RESOURCE",
        };
        result.context(
            "set",
            format_args!("process.rlimits[{index}] ({kind} soft {soft} hard {hard}{hint})"),
        )?;
    }
    Ok(())
}

/// The kernel's number of a limit.
fn number(kind: PosixRlimitType) -> i32 {
    use PosixRlimitType as Kind;
    let number = match kind {
        Kind::RlimitCpu => libc::RLIMIT_CPU,
        Kind::RlimitFsize => libc::RLIMIT_FSIZE,
        Kind::RlimitData => libc::RLIMIT_DATA,
        Kind::RlimitStack => libc::RLIMIT_STACK,
        Kind::RlimitCore => libc::RLIMIT_CORE,
        Kind::RlimitRss => libc::RLIMIT_RSS,
        Kind::RlimitNproc => libc::RLIMIT_NPROC,
        Kind::RlimitNofile => libc::RLIMIT_NOFILE,
        Kind::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        Kind::RlimitAs => libc::RLIMIT_AS,
        Kind::RlimitLocks => libc::RLIMIT_LOCKS,
        Kind::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        Kind::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        Kind::RlimitNice => libc::RLIMIT_NICE,
        Kind::RlimitRtprio => libc::RLIMIT_RTPRIO,
        Kind::RlimitRttime => libc::RLIMIT_RTTIME,
    };
    // `__rlimit_resource_t` of glibc is unsigned, that of musl is not.
    number as i32
}

#[cfg(test)]
mod tests {
    use nix::sys::resource::{Resource, getrlimit};

    use super::*;
    use crate::testing::in_child;

    fn planned(json: &str) -> Vec<Rlimit> {
        let limits: Vec<PosixRlimit> = serde_json::from_str(json).unwrap();
        plan(Some(&limits))
    }

    #[test]
    fn limits_are_set_by_their_kernel_number() {
        in_child(|| {
            let limits = planned(
                r#"[{"type":"RLIMIT_CORE","soft":0,"hard":4096},
                    {"type":"RLIMIT_NOFILE","soft":77,"hard":88},
                    {"type":"RLIMIT_RTTIME","soft":1000000,"hard":18446744073709551615}]"#,
            );
            apply(&limits, None).unwrap();
            assert_eq!(getrlimit(Resource::RLIMIT_CORE), Ok((0, 4096)));
            assert_eq!(getrlimit(Resource::RLIMIT_NOFILE), Ok((77, 88)));
            assert_eq!(getrlimit(Resource::RLIMIT_RTTIME), Ok((1_000_000, u64::MAX)));
        });
    }

    #[test]
    fn raising_without_the_capability_says_so() {
        in_child(|| {
            apply(&planned(r#"[{"type":"RLIMIT_CORE","soft":0,"hard":0}]"#), None).unwrap();
            crate::sys::prctl::capset(0, 0, 0).unwrap();
            let limits = planned(r#"[{"type":"RLIMIT_CORE","soft":0,"hard":1}]"#);
            let error = apply(&limits, None).unwrap_err();
            assert_eq!(error.errno(), Some(Errno::EPERM));
            assert_eq!(
                error.to_string(),
                "set process.rlimits[0] (RLIMIT_CORE soft 0 hard 1; raising a hard limit needs \
                 CAP_SYS_RESOURCE): prlimit: EPERM (operation not permitted)"
            );
        });
    }
}
