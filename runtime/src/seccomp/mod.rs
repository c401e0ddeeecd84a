//! System call filters: `linux.seccomp` to classic BPF, and its installation.
//!
//! Planning is pure: [`plan`] checks the profile (`profile`), finds numbers (`tables`), arranges them for
//! search (`tree`) and links one program (`link`). [`Filter::install`] then makes a single system call,
//! after which the child may only do what the profile allows. There is no `no_new_privs` in here: the
//! caller decides between it and `CAP_SYS_ADMIN`.
//!
//! Two answers are not in the profile. A calling convention that it does not list kills the process. A
//! call newer than every call that it names fails with ENOSYS unless the default action carries calls
//! out: the author cannot have meant EPERM for what did not exist, and C libraries fall back to an
//! older call on ENOSYS only.
//!
//! <https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#seccomp>,
//! <https://docs.kernel.org/userspace-api/seccomp_filter.html>

#[cfg(any(test, fuzzing))]
mod bpf;
#[cfg(any(test, fuzzing))]
pub(crate) mod compare;
#[cfg(any(test, fuzzing))]
mod expected;
mod link;
pub(crate) mod notify;
mod profile;
mod tables;
mod tree;

#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;

use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction};

use crate::error::Result;
use crate::sys;
use crate::sys::seccomp::{FilterFlags, Instruction};
pub(crate) use notify::Notify;
use profile::Profile;
use tables::{Abi, NATIVE};

/// A compiled filter.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    program: Vec<Instruction>,
    flags: FilterFlags,
    /// Where the listener goes, when a rule notifies.
    pub(crate) notify: Option<Notify>,
}

/// Compiles the profile for this machine. Errors name the field that cannot be accepted.
///
/// Names of system calls that no known architecture has are skipped; where that leaves a call allowed
/// that the profile wants to deny, a warning names them.
pub(crate) fn plan(seccomp: &LinuxSeccomp, warnings: &mut Vec<String>) -> Result<Filter> {
    plan_for(NATIVE, seccomp, warnings)
}

fn plan_for(native: Abi, seccomp: &LinuxSeccomp, warnings: &mut Vec<String>) -> Result<Filter> {
    let profile = Profile::from_oci(seccomp, native, warnings)?;
    let program = link::link(&profile)?;
    Ok(Filter { program, flags: profile.flags, notify: profile.notify })
}

impl Filter {
    /// Filters the calling thread from here on. Returns the listener when a rule notifies.
    ///
    /// Needs `no_new_privs` or `CAP_SYS_ADMIN` in the thread's user namespace. Makes one system call;
    /// the caller's next one is already filtered.
    pub(crate) fn install(&self) -> sys::Result<Option<OwnedFd>> {
        sys::seccomp::set_mode_filter(self.flags, &self.program)
    }
}

/// The actions that profiles may use on this kernel.
pub(crate) fn actions() -> Vec<LinuxSeccompAction> {
    use LinuxSeccompAction::*;
    [
        ScmpActAllow,
        ScmpActErrno,
        ScmpActKill,
        ScmpActKillProcess,
        ScmpActKillThread,
        ScmpActLog,
        ScmpActNotify,
        ScmpActTrace,
        ScmpActTrap,
    ]
    .into_iter()
    .filter(|action| sys::seccomp::action_is_available(action.as_u32(Some(0))))
    .collect()
}

/// The comparisons that profiles may use.
pub(crate) const OPERATORS: [&str; 7] = [
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
];

/// The architectures that profiles may name, whether or not this machine can run their programs.
pub(crate) const ARCHS: [Arch; 23] = [
    Arch::ScmpArchAarch64,
    Arch::ScmpArchArm,
    Arch::ScmpArchLoongarch64,
    Arch::ScmpArchM68k,
    Arch::ScmpArchMips,
    Arch::ScmpArchMips64,
    Arch::ScmpArchMips64n32,
    Arch::ScmpArchMipsel,
    Arch::ScmpArchMipsel64,
    Arch::ScmpArchMipsel64n32,
    Arch::ScmpArchParisc,
    Arch::ScmpArchParisc64,
    Arch::ScmpArchPpc,
    Arch::ScmpArchPpc64,
    Arch::ScmpArchPpc64le,
    Arch::ScmpArchRiscv64,
    Arch::ScmpArchS390,
    Arch::ScmpArchS390x,
    Arch::ScmpArchSh,
    Arch::ScmpArchSheb,
    Arch::ScmpArchX32,
    Arch::ScmpArchX86,
    Arch::ScmpArchX86_64,
];

/// The filter flags that profiles may use, each with what it takes to probe it.
const FLAGS: [(&str, FilterFlags); 4] = [
    ("SECCOMP_FILTER_FLAG_LOG", FilterFlags::LOG),
    ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", FilterFlags::SPEC_ALLOW),
    ("SECCOMP_FILTER_FLAG_TSYNC", FilterFlags::TSYNC),
    (
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
        FilterFlags::WAIT_KILLABLE_RECV.union(FilterFlags::NEW_LISTENER),
    ),
];

/// The names of all filter flags that profiles may use.
pub(crate) fn known_flags() -> Vec<&'static str> {
    FLAGS.iter().map(|flag| flag.0).collect()
}

/// The names of the filter flags that this kernel knows.
pub(crate) fn supported_flags() -> Vec<&'static str> {
    FLAGS.iter().filter(|flag| sys::seccomp::flags_are_known(flag.1)).map(|flag| flag.0).collect()
}
