//! What this host can do, and what does not work without it.
//!
//! One function for each facility. Nothing is made or changed: sockets are connected to and closed,
//! devices are opened and asked.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::Pid;
use serde::Serialize;

use super::identity::{find, has_power, loaded_profiles, subordinate};
use super::power::number;
use crate::dbus::Connection;
use crate::error::Result;
use crate::host::Host;
use crate::service_manager::ServiceManager;
use crate::{caps, cgroup, seccomp, sys};

/// How long systemd may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The oldest kernel that has all that is used.
const OLDEST: (u32, u32) = (5, 14);

/// How a facility stands on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// All there.
    Ok,
    /// Usable, but not for everything.
    Limited,
    /// Not there.
    Missing,
}

/// One facility of the host.
#[derive(Clone, Debug, Serialize)]
pub struct Facility {
    /// What it is called.
    pub name: &'static str,
    /// How it stands.
    pub standing: Standing,
    /// Whether no container starts without it.
    pub needed: bool,
    /// What was found.
    pub found: String,
    /// What does not work without it, and how to get it; empty when nothing is missing.
    pub advice: String,
}

impl Facility {
    pub(super) fn ok(name: &'static str, found: impl Into<String>) -> Self {
        let found = found.into();
        Self { name, standing: Standing::Ok, needed: false, found, advice: String::new() }
    }

    pub(super) fn limited(
        name: &'static str,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        let advice = advice.into();
        Self { standing: Standing::Limited, advice, ..Self::ok(name, found) }
    }

    pub(super) fn missing(
        name: &'static str,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        let advice = advice.into();
        Self { standing: Standing::Missing, advice, ..Self::ok(name, found) }
    }

    pub(super) fn needed(self) -> Self {
        Self { needed: true, ..self }
    }
}

/// Looks at the host. `search` is the caller's `PATH`, `manager` the systemd that makes its
/// scopes.
///
/// # Errors
/// The host cannot be read at all, for want of /proc say.
pub fn check_host(search: &OsStr, manager: &ServiceManager) -> Result<Vec<Facility>> {
    let host = Host::read()?;
    let (release, version) = kernel_version();
    Ok(vec![
        kernel(&release, version),
        layout(&host),
        controllers(&host),
        devices(&host),
        systemd(&host, manager),
        user_namespaces(&host),
        ids(&host, search),
        namespaces(),
        seccomp_filters(),
        seccomp_notify(),
        apparmor(&host),
        selinux(&host),
        landlock(),
        since(
            "idmapped mounts",
            version,
            (5, 12),
            "mounts[].uidMappings are refused; some file systems \
              (NFS, FUSE) refuse them on any kernel",
        ),
        since(
            "procfs of another pid namespace",
            version,
            (6, 17),
            "a container that joins a pid \
              namespace gets its /proc from a helper process; works all the same",
        ),
        keyrings(),
        core_scheduling(),
        super::vm::kvm(),
    ])
}

fn kernel_version() -> (String, (u32, u32)) {
    let name = nix::sys::utsname::uname();
    let release =
        name.map_or_else(|_| String::new(), |n| n.release().to_string_lossy().into_owned());
    let version = parse_version(&release);
    (release, version)
}

fn parse_version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn kernel(release: &str, version: (u32, u32)) -> Facility {
    let (major, minor) = OLDEST;
    if version >= OLDEST {
        return Facility::ok("kernel", format!("{release}, {major}.{minor} is needed")).needed();
    }
    let advice = format!("no container starts: install Linux {major}.{minor} or newer");
    Facility::missing("kernel", release, advice).needed()
}

fn since(name: &'static str, version: (u32, u32), needs: (u32, u32), advice: &str) -> Facility {
    let text = format!("since Linux {}.{}", needs.0, needs.1);
    if version >= needs { Facility::ok(name, text) } else { Facility::limited(name, text, advice) }
}

fn layout(host: &Host) -> Facility {
    const NAME: &str = "cgroups";
    let layout = &host.layout;
    let text = match (&layout.unified, layout.v1.is_empty()) {
        (None, true) => {
            let advice =
                "no limits; root's containers do not start: mount cgroup2 at /sys/fs/cgroup";
            let missing = Facility::missing(NAME, "none mounted", advice);
            return if host.privileged() { missing.needed() } else { missing };
        }
        (Some(unified), true) => format!("v2 at {}", unified.mount_point.display()),
        (unified, false) => {
            let kind = if unified.is_some() { "hybrid" } else { "v1" };
            let advice = "no unified limits, no delegation to users, no kill in one step: boot with \
                          systemd.unified_cgroup_hierarchy=1";
            let text = format!("{kind}, {} v1 hierarchies", layout.v1.len());
            return Facility::limited(NAME, text, advice);
        }
    };
    Facility::ok(NAME, text)
}

/// Controllers whose absence is felt.
const CONTROLLERS: [&str; 4] = ["cpu", "cpuset", "memory", "pids"];

fn controllers(host: &Host) -> Facility {
    const NAME: &str = "cgroup controllers";
    let delegated = match cgroup::delegated(&host.layout) {
        Ok(delegated) => delegated,
        Err(error) => return Facility::missing(NAME, error.to_string(), "no limits can be set"),
    };
    let mut present = delegated.controllers;
    // The v1 name of the same.
    if present.contains("blkio") {
        present.insert("io".to_owned());
    }
    let wanted: BTreeSet<&str> = CONTROLLERS.into_iter().chain(["io"]).collect();
    let lost: Vec<&str> = wanted.into_iter().filter(|name| !present.contains(*name)).collect();
    let list = |names: Vec<&str>| names.join(" ");
    let found = list(present.iter().map(String::as_str).collect());
    if lost.is_empty() {
        return Facility::ok(NAME, found);
    }
    let why = delegated.reasons.first().map(|reason| format!(" ({reason})")).unwrap_or_default();
    let how = if host.privileged() {
        "enable them in the kernel or in cgroup.subtree_control above"
    } else {
        "let systemd delegate: Delegate=yes for user@.service, and run below it \
         (systemd-run --user --scope -p Delegate=yes)"
    };
    let advice = format!("no limits of {}{why}: {how}", list(lost));
    match found.is_empty() {
        true => Facility::missing(NAME, "none for this caller", advice),
        false => Facility::limited(NAME, found, advice),
    }
}

fn devices(host: &Host) -> Facility {
    const NAME: &str = "device rules";
    let v1 =
        host.layout.v1.iter().any(|hierarchy| hierarchy.controllers.iter().any(|c| c == "devices"));
    if v1 {
        return Facility::ok(NAME, "cgroup v1 devices");
    }
    if !host.privileged() {
        let advice = "devices are restricted by file permissions alone, which is what an ordinary user \
                      has: run as root for more";
        return Facility::limited(NAME, "not for an ordinary user", advice);
    }
    match cgroup::device_programs() {
        Ok(()) => Facility::ok(NAME, "eBPF"),
        Err(failure) => {
            let advice = "root's containers do not start: CONFIG_CGROUP_BPF, and CAP_BPF or \
                          CAP_SYS_ADMIN, are needed";
            Facility::missing(NAME, failure.to_string(), advice).needed()
        }
    }
}

fn systemd(host: &Host, manager: &ServiceManager) -> Facility {
    const NAME: &str = "systemd";
    let advice = "--systemd-cgroup does not work; the cgroup driver of the caller must be cgroupfs";
    if !Path::new("/run/systemd/system").is_dir() {
        return Facility::missing(NAME, "is not the init of this host", advice);
    }
    let place = match Connection::open(manager, PATIENCE).and_then(|mut bus| bus.ping()) {
        Ok(Ok(place)) => place,
        Ok(Err(refusal)) => return Facility::missing(NAME, refusal.text, advice),
        Err(error) => return Facility::missing(NAME, error.to_string(), advice),
    };
    let found = format!("answers at {place}");
    match cgroup::unified_alone(&host.layout) {
        Ok(_) => Facility::ok(NAME, found),
        Err(error) => Facility::limited(NAME, found, format!("{advice}: {error}")),
    }
}

fn user_namespaces(host: &Host) -> Facility {
    const NAME: &str = "user namespaces";
    let root = host.permitted & caps::SYS_ADMIN != 0;
    let close = |facility: Facility| if root { facility } else { facility.needed() };
    let (without, switch) = if root {
        ("containers with a user namespace do not start", "")
    } else {
        ("an ordinary user's containers do not start", ", or run as root")
    };
    let missing = |found: &str, how: &str| {
        close(Facility::missing(NAME, found, format!("{without}: {how}{switch}")))
    };
    if !Path::new("/proc/self/ns/user").exists() {
        return missing("not in this kernel", "CONFIG_USER_NS is needed");
    }
    let most = number("/proc/sys/user/max_user_namespaces");
    if most == Some(0) {
        return missing("user.max_user_namespaces is 0", "raise that sysctl");
    }
    if !root && number("/proc/sys/kernel/unprivileged_userns_clone") == Some(0) {
        return missing(
            "kernel.unprivileged_userns_clone is 0",
            "sysctl kernel.unprivileged_userns_clone=1",
        );
    }
    if !root && number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1) {
        let advice = "an ordinary user's containers may not start: an AppArmor profile for bulkhead with \
                      the rule `userns,`, or kernel.apparmor_restrict_unprivileged_userns=0";
        let found = "kernel.apparmor_restrict_unprivileged_userns is 1";
        return Facility::limited(NAME, found, advice);
    }
    let most = most.map_or("no limit".to_owned(), |most| format!("at most {most}"));
    close(Facility::ok(NAME, most))
}

fn ids(host: &Host, search: &OsStr) -> Facility {
    const NAME: &str = "subordinate ids";
    if host.uid.is_root() {
        return Facility::ok(NAME, "root maps any ids");
    }
    let limited = |found: String, how: &str| {
        let advice = format!("a container has one id, so images with several users fail: {how}");
        Facility::limited(NAME, found, advice)
    };
    for program in ["newuidmap", "newgidmap"] {
        match find(program, search) {
            None => return limited(format!("no {program}"), "install uidmap (shadow-utils)"),
            Some(path) if !has_power(&path) => {
                let found = format!("{} is not setuid root", path.display());
                return limited(found, "make it setuid root, or give it its capability");
            }
            Some(_) => {}
        }
    }
    let mut counts = Vec::new();
    for file in ["/etc/subuid", "/etc/subgid"] {
        let text = fs::read_to_string(file).unwrap_or_default();
        let ranges = subordinate(&text, host.uid.as_raw());
        let count: u64 = ranges.iter().map(|(_, count)| u64::from(*count)).sum();
        if count == 0 {
            let how = "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER";
            return limited(format!("none in {file}"), how);
        }
        counts.push(format!("{count} in {file}"));
    }
    Facility::ok(NAME, counts.join(", "))
}

fn namespaces() -> Facility {
    const NAME: &str = "namespaces";
    let lost: Vec<&str> = crate::namespaces::names()
        .map(|(_, name)| name)
        .filter(|name| !Path::new("/proc/self/ns").join(name).exists())
        .collect();
    match lost.as_slice() {
        [] => Facility::ok(NAME, "all eight kinds"),
        _ => {
            let advice = "configurations that ask for these are refused: another kernel is needed";
            Facility::limited(NAME, format!("no {}", lost.join(", ")), advice)
        }
    }
}

fn seccomp_filters() -> Facility {
    const NAME: &str = "seccomp";
    let actions = seccomp::actions();
    let advice = "engines' default profiles are refused: CONFIG_SECCOMP_FILTER is needed";
    match actions.len() {
        0 => Facility::missing(NAME, "no filters", advice),
        _ => {
            let flags = seccomp::supported_flags();
            let short = |name: &str| name.trim_start_matches("SECCOMP_FILTER_FLAG_").to_owned();
            let flags: Vec<String> = flags.into_iter().map(short).collect();
            let found = format!("{} actions, flags {}", actions.len(), flags.join(" "));
            Facility::ok(NAME, found)
        }
    }
}

fn seccomp_notify() -> Facility {
    const NAME: &str = "seccomp notify";
    let actions = seccomp::actions();
    if actions.iter().any(|action| action.to_string() == "SCMP_ACT_NOTIFY") {
        return Facility::ok(NAME, "SCMP_ACT_NOTIFY");
    }
    Facility::missing(
        NAME,
        "no SCMP_ACT_NOTIFY",
        "profiles with an agent (listenerPath) are refused",
    )
}

fn apparmor(host: &Host) -> Facility {
    const NAME: &str = "AppArmor";
    if host.modules.apparmor {
        let profiles = loaded_profiles().map(|list| format!("{} profiles loaded", list.len()));
        return Facility::ok(NAME, profiles.unwrap_or_else(|| "enabled".to_owned()));
    }
    let advice = "process.apparmorProfile is refused: boot with apparmor=1 security=apparmor";
    Facility::missing(NAME, "not enabled", advice)
}

fn selinux(host: &Host) -> Facility {
    const NAME: &str = "SELinux";
    if !host.modules.selinux {
        let advice = "process.selinuxLabel and linux.mountLabel are refused: boot with selinux=1";
        return Facility::missing(NAME, "not enabled", advice);
    }
    match number("/sys/fs/selinux/enforce") {
        Some(1) => Facility::ok(NAME, "enforcing"),
        _ => Facility::limited(NAME, "permissive", "labels confine nothing: setenforce 1"),
    }
}

fn landlock() -> Facility {
    const NAME: &str = "Landlock";
    match sys::landlock::version() {
        Ok(version) => Facility::ok(NAME, format!("version {version}")),
        Err(failure) => {
            let advice =
                "the annotation io.bulkhead.landlock is refused: boot with landlock in lsm=";
            Facility::missing(NAME, failure.to_string(), advice)
        }
    }
}

fn keyrings() -> Facility {
    const NAME: &str = "session keyrings";
    if Path::new("/proc/keys").exists() {
        return Facility::ok(NAME, "one for each container");
    }
    Facility::limited(
        NAME,
        "none",
        "containers have no keyrings of their own: CONFIG_KEYS is needed",
    )
}

fn core_scheduling() -> Facility {
    const NAME: &str = "core scheduling";
    match sys::sched::core_cookie(Pid::from_raw(0)) {
        Ok(_) => Facility::ok(NAME, "available"),
        Err(failure) => {
            let found = match failure.errno {
                Errno::ENODEV => "no processor core here has two threads".to_owned(),
                Errno::EINVAL => "not in this kernel".to_owned(),
                _ => failure.to_string(),
            };
            let advice = "containers that share a core can watch each other through it, where cores have \
                          two threads: CONFIG_SCHED_CORE is needed";
            if failure.errno == Errno::ENODEV {
                return Facility::ok(NAME, found);
            }
            Facility::missing(NAME, found, advice)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_kernels() {
        for (release, version) in [
            ("6.18.44-fc", (6, 18)),
            ("5.14.0-427.el9.x86_64", (5, 14)),
            ("5.4", (5, 4)),
            ("", (0, 0)),
        ] {
            assert_eq!(parse_version(release), version, "{release:?}");
        }
        assert_eq!(kernel("5.10.0", (5, 10)).standing, Standing::Missing);
    }

    #[test]
    fn every_lack_has_advice() {
        for facility in check_host(OsStr::new("/usr/bin:/bin"), &ServiceManager::system()).unwrap()
        {
            assert!(!facility.found.is_empty(), "{facility:?}");
            assert_eq!(
                facility.standing == Standing::Ok,
                facility.advice.is_empty(),
                "{facility:?}"
            );
        }
    }
}
