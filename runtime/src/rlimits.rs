//! Resource limits of the process (`process.rlimits`).
//!
//! See [getrlimit(2)](https://man7.org/linux/man-pages/man2/getrlimit.2.html). Raising a hard limit
//! needs `CAP_SYS_RESOURCE` in the *initial* user namespace, lowering needs nothing. So it is done in
//! three steps:
//!
//! 1. [`raise`] lifts hard limits, before the child drops its capabilities. A child in a new user
//!    namespace does not have that one; its creator does it with `prlimit(2)`.
//! 2. [`set_processes`] sets `RLIMIT_NPROC`, before the change of user: it is there that the kernel
//!    compares, and `execve` fails when the user has too many processes.
//! 3. [`set`] gives all limits their values, just before the filter. A low `RLIMIT_NOFILE`, `RLIMIT_AS`
//!    or `RLIMIT_DATA` is for the program, and would starve the runtime's own last steps.

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use oci_spec::runtime::{PosixRlimit, PosixRlimitType};

use crate::error::{Context, Error, Failure, Result};
use crate::sys;

/// Makes a write beyond the caller's own `RLIMIT_FSIZE` an error (`EFBIG`). It would be the end of the
/// calling process (SIGXFSZ), half-way through a `create`, say. Containers have the default again.
pub fn survive_file_size_limit() -> Result<()> {
    sys::process::ignore_signal(Signal::SIGXFSZ).context("ignore", "SIGXFSZ")
}

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

/// Lifts the hard limits of a process that are lower than asked for; of the caller when there is no
/// pid. The error carries the errno: on EPERM the child asks its creator.
pub(crate) fn raise(limits: &[Rlimit], pid: Option<Pid>) -> Result<()> {
    let pid = pid.unwrap_or(Pid::from_raw(0));
    limits.iter().try_for_each(|limit| {
        let raised = || {
            let (soft, hard) = sys::prlimit::get(pid, number(limit.kind))?;
            if hard >= limit.hard {
                return Ok(());
            }
            sys::prlimit::set(pid, number(limit.kind), soft, limit.hard)
        };
        limit.name(raised())
    })
}

/// Sets the caller's limit of processes, which was [raised](raise).
pub(crate) fn set_processes(limits: &[Rlimit]) -> Result<()> {
    limits
        .iter()
        .find(|limit| limit.kind == PosixRlimitType::RlimitNproc)
        .map_or(Ok(()), |limit| set(std::slice::from_ref(limit)))
}

/// Sets the caller's limits, which were [raised](raise).
pub(crate) fn set(limits: &[Rlimit]) -> Result<()> {
    limits.iter().try_for_each(|limit| {
        let own = Pid::from_raw(0);
        limit.name(sys::prlimit::set(own, number(limit.kind), limit.soft, limit.hard))
    })
}

/// The limits that [`raise`] could not lift, each with its index and error, for a creator that has
/// CAP_SYS_RESOURCE or not. Nothing is set.
pub(crate) fn refused(limits: &[Rlimit], privileged: bool) -> Vec<(usize, Error)> {
    let most = std::fs::read_to_string("/proc/sys/fs/nr_open");
    let most = most.ok().and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(u64::MAX);
    let refused = |limit: &Rlimit| {
        let (_, hard) = sys::prlimit::get(Pid::from_raw(0), number(limit.kind)).ok()?;
        let files = limit.kind == PosixRlimitType::RlimitNofile && limit.hard > most;
        if hard >= limit.hard || (privileged && !files) {
            return None;
        }
        let failure = Failure { call: "prlimit", errno: Errno::EPERM };
        limit.name(Err(failure)).err().map(|error| (limit.index, error))
    };
    limits.iter().filter_map(refused).collect()
}

impl Rlimit {
    fn name(&self, result: sys::Result<()>) -> Result<()> {
        let Self { index, kind, soft, hard } = self;
        let hint = match &result {
            Err(failure) if failure.errno != Errno::EPERM => "",
            _ if *kind == PosixRlimitType::RlimitNofile => {
                "; raising a hard limit needs CAP_SYS_RESOURCE, above /proc/sys/fs/nr_open is none"
            }
            _ => "; raising a hard limit needs CAP_SYS_RESOURCE",
        };
        result.context(
            "set",
            format_args!("process.rlimits[{index}] ({kind} soft {soft} hard {hard}{hint})"),
        )
    }
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
            raise(&limits, None).unwrap();
            set(&limits).unwrap();
            assert_eq!(getrlimit(Resource::RLIMIT_CORE), Ok((0, 4096)));
            assert_eq!(getrlimit(Resource::RLIMIT_NOFILE), Ok((77, 88)));
            assert_eq!(getrlimit(Resource::RLIMIT_RTTIME), Ok((1_000_000, u64::MAX)));
        });
    }

    #[test]
    fn raising_lowers_nothing() {
        in_child(|| {
            set(&planned(r#"[{"type":"RLIMIT_NOFILE","soft":50,"hard":60}]"#)).unwrap();
            raise(&planned(r#"[{"type":"RLIMIT_NOFILE","soft":3,"hard":3}]"#), None).unwrap();
            assert_eq!(getrlimit(Resource::RLIMIT_NOFILE), Ok((50, 60)));
        });
    }

    #[test]
    fn raising_without_the_capability_says_so() {
        in_child(|| {
            set(&planned(r#"[{"type":"RLIMIT_CORE","soft":0,"hard":0}]"#)).unwrap();
            crate::sys::prctl::capset(0, 0, 0).unwrap();
            let limits = planned(r#"[{"type":"RLIMIT_CORE","soft":0,"hard":1}]"#);
            let error = raise(&limits, None).unwrap_err();
            assert_eq!(error.errno(), Some(Errno::EPERM));
            assert_eq!(
                error.to_string(),
                "set process.rlimits[0] (RLIMIT_CORE soft 0 hard 1; raising a hard limit needs \
                 CAP_SYS_RESOURCE): prlimit: EPERM (operation not permitted)"
            );
        });
    }
}
