//! What the caller must be allowed to do: namespaces, sysctls, limits, scheduling.

use std::path::Path;

use nix::errno::Errno;
use nix::unistd::Pid;

use super::{Findings, Subject};
use crate::caps;
use crate::error::{Error, ErrorKind, Failure};
use crate::sysctl::Sysctl;
use crate::{namespaces, netdev};

/// Namespaces to join, which are opened, and to make.
pub(super) fn namespaces(subject: &Subject<'_>, found: &mut Findings) {
    let plan = &subject.parts.namespaces;
    let joins_user = plan.joins(libc::CLONE_NEWUSER);
    for join in &plan.joined {
        let alone = namespaces::Plan { joined: vec![join.clone()], ..namespaces::Plan::default() };
        let field = format!("linux.namespaces[{}]", join.index);
        let opened = alone.open();
        let readable = opened.is_ok();
        found.note(&field, opened.map(drop));
        // Inside a user namespace that is joined first, power is what that one gives.
        if readable && !joins_user && subject.host.permitted & caps::SYS_ADMIN == 0 {
            let failure = Failure { call: "setns", errno: Errno::EPERM };
            let what = format!("{field} {}", crate::error::quote(&join.path));
            found.note(&field, Err(Error::system("join", what, failure)));
        }
    }
    for (kind, name) in namespaces::names() {
        if !plan.creates(kind) {
            continue;
        }
        if !Path::new("/proc/self/ns").join(name).exists() {
            let reason = format!("this kernel has no {name} namespaces");
            found.note("linux.namespaces", Err(unsupported(reason)));
        }
        if limit(name) == Some(0) {
            let failure = Failure { call: "clone3", errno: Errno::ENOSPC };
            let what = format!("linux.namespaces (user.max_{name}_namespaces is 0)");
            found.note("linux.namespaces", Err(Error::system("fork", what, failure)));
        }
    }
    let makes_user = plan.creates(libc::CLONE_NEWUSER);
    let powerless = subject.host.permitted & caps::SYS_ADMIN == 0;
    if plan.new != 0 && !makes_user && !joins_user && powerless {
        let failure = Failure { call: "clone3", errno: Errno::EPERM };
        let what = "linux.namespaces (without CAP_SYS_ADMIN it takes a new user namespace)";
        found.note("linux.namespaces", Err(Error::system("fork", what, failure)));
    }
    if makes_user && powerless {
        unprivileged_user_namespace(found);
    }
    if plan.joins(libc::CLONE_NEWNS) {
        found.warn("linux.namespaces: what is in the mount namespace to join was not looked at");
    }
}

/// The two switches that distributions add.
fn unprivileged_user_namespace(found: &mut Findings) {
    if number("/proc/sys/kernel/unprivileged_userns_clone") == Some(0) {
        let failure = Failure { call: "clone3", errno: Errno::EPERM };
        let what = "linux.namespaces (kernel.unprivileged_userns_clone is 0)";
        found.note("linux.namespaces", Err(Error::system("fork", what, failure)));
    }
    if number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1) {
        found.warn(
            "linux.namespaces: kernel.apparmor_restrict_unprivileged_userns is 1: unless an AppArmor \
             profile lets bulkhead make user namespaces, the first mount will be refused",
        );
    }
}

fn unsupported(reason: String) -> Error {
    Error::unsupported("make", "linux.namespaces", reason)
}

/// `user.max_*_namespaces`.
fn limit(name: &str) -> Option<u64> {
    number(&format!("/proc/sys/user/max_{name}_namespaces"))
}

/// The number in a file of the kernel.
pub(super) fn number(path: &str) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Network devices to move: whether they are there.
pub(super) fn devices(subject: &Subject<'_>, found: &mut Findings) {
    // Others are refused already.
    for device in subject.parts.net_devices.iter().filter(|_| subject.host.privileged()) {
        found.note(&device.field, netdev::find(device));
    }
}

/// Parameters that are not there, and texts where the kernel has numbers.
pub(super) fn sysctls(subject: &Subject<'_>, found: &mut Findings) {
    let joined = subject.parts.namespaces.joins(libc::CLONE_NEWNET);
    for Sysctl { name, path, value } in subject.parts.sysctls.iter().flatten() {
        let field = crate::sysctl::field(name);
        let fail = |call, errno| Err(Error::system("set", &field, Failure { call, errno }));
        let own = interface(path).is_some_and(|name| !["all", "default", "lo"].contains(&name));
        match std::fs::read_to_string(format!("/proc/{path}")) {
            _ if own && joined => {
                found.warn(format!("{field}: interfaces of a joined namespace were not looked at"));
            }
            _ if own => found.note(&field, fail("openat2", Errno::ENOENT)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                found.note(&field, fail("openat2", Errno::ENOENT));
            }
            Ok(present) if is_numbers(&present) && !is_numbers(value) => {
                found.note(&field, fail("write", Errno::EINVAL));
            }
            _ => {}
        }
    }
}

/// The network interface whose parameter this is.
fn interface(path: &str) -> Option<&str> {
    let mut parts = path.strip_prefix("sys/net/")?.split('/').skip(1);
    matches!(parts.next()?, "conf" | "neigh").then(|| parts.next())?
}

/// Whether a text is what the kernel's parser of integers takes.
fn is_numbers(text: &str) -> bool {
    let is_number = |word: &str| {
        let digits = word.trim_start_matches(['-', '+']);
        match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
            Some(hex) => !hex.is_empty() && hex.bytes().all(|b| b.is_ascii_hexdigit()),
            None => !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()),
        }
    };
    let mut words = text.split_whitespace().peekable();
    words.peek().is_some() && words.all(is_number)
}

/// Resource limits and the OOM score.
pub(super) fn limits(subject: &Subject<'_>, found: &mut Findings) {
    let Some(program) = &subject.parts.program else { return };
    let resource = subject.has(caps::SYS_RESOURCE);
    for (index, error) in crate::rlimits::refused(&program.rlimits, resource) {
        found.note(format!("process.rlimits[{index}]"), Err(error));
    }
    let Some(score) = program.oom_score_adj else { return };
    let present: i32 = std::fs::read_to_string("/proc/self/oom_score_adj")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0);
    // The kernel's floor is what somebody with the capability set last, which is not to be read.
    if score < present && !resource {
        let text = format!("process.oomScoreAdj {score} takes CAP_SYS_RESOURCE to be lowered to");
        match subject.host.uid.is_root() {
            true => found.warn(text + "; create may fail"),
            false => found.warn(text + "; it is not set"),
        }
    }
}

/// Scheduling that takes CAP_SYS_NICE, and nodes that memory is not on.
pub(super) fn scheduling(subject: &Subject<'_>, found: &mut Findings) {
    let Some(program) = &subject.parts.program else { return };
    let nice = subject.has(caps::SYS_NICE);
    if !nice && program.scheduling.takes_privilege(Pid::this()) {
        let failure = Failure { call: "sched_setattr", errno: Errno::EPERM };
        let error = Error::system("set", "process.scheduler (CAP_SYS_NICE is needed)", failure);
        found.note("process.scheduler", Err(error));
    }
    if let Some(policy) =
        subject.options.config.spec.linux().as_ref().and_then(|l| l.memory_policy().as_ref())
        && let Some(nodes) = policy.nodes().as_deref().filter(|nodes| !nodes.trim().is_empty())
        && let Some(online) = list_of("/sys/devices/system/node/has_memory")
        && let Some(asked) = crate::cgroup::parse_list(nodes)
        && asked.is_disjoint(&online)
    {
        let reason = format!("no memory on any of the nodes {nodes:?}");
        let error = Error::new(ErrorKind::System, "set", "linux.memoryPolicy", reason);
        found.note("linux.memoryPolicy", Err(error));
    }
}

fn list_of(path: &str) -> Option<std::collections::BTreeSet<u32>> {
    crate::cgroup::parse_list(std::fs::read_to_string(path).ok()?.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_takes_for_numbers() {
        for text in ["1", "-1", "0x1f", "32000\t1024000000 500\n"] {
            assert!(is_numbers(text), "{text:?}");
        }
        for text in ["", "many", "1 x", "0x", "-"] {
            assert!(!is_numbers(text), "{text:?}");
        }
    }

    #[test]
    fn interfaces_of_parameters() {
        assert_eq!(interface("sys/net/ipv4/conf/eth0/rp_filter"), Some("eth0"));
        assert_eq!(interface("sys/net/ipv6/neigh/default/x"), Some("default"));
        assert_eq!(interface("sys/net/ipv4/ip_forward"), None);
        assert_eq!(interface("sys/kernel/sem"), None);
    }
}
