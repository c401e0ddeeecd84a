//! Everything a process can learn about itself without an argument.

use std::fs;
use std::os::fd::AsFd;

use nix::sys::resource::{Resource, getrlimit};
use serde_json::{Map, Value, json};

use crate::sys;

const RESOURCES: [(&str, Resource); 16] = [
    ("RLIMIT_AS", Resource::RLIMIT_AS),
    ("RLIMIT_CORE", Resource::RLIMIT_CORE),
    ("RLIMIT_CPU", Resource::RLIMIT_CPU),
    ("RLIMIT_DATA", Resource::RLIMIT_DATA),
    ("RLIMIT_FSIZE", Resource::RLIMIT_FSIZE),
    ("RLIMIT_LOCKS", Resource::RLIMIT_LOCKS),
    ("RLIMIT_MEMLOCK", Resource::RLIMIT_MEMLOCK),
    ("RLIMIT_MSGQUEUE", Resource::RLIMIT_MSGQUEUE),
    ("RLIMIT_NICE", Resource::RLIMIT_NICE),
    ("RLIMIT_NOFILE", Resource::RLIMIT_NOFILE),
    ("RLIMIT_NPROC", Resource::RLIMIT_NPROC),
    ("RLIMIT_RSS", Resource::RLIMIT_RSS),
    ("RLIMIT_RTPRIO", Resource::RLIMIT_RTPRIO),
    ("RLIMIT_RTTIME", Resource::RLIMIT_RTTIME),
    ("RLIMIT_SIGPENDING", Resource::RLIMIT_SIGPENDING),
    ("RLIMIT_STACK", Resource::RLIMIT_STACK),
];

/// The whole report.
pub fn report() -> Value {
    let uts = nix::sys::utsname::uname().ok();
    let uts_word = |pick: fn(&nix::sys::utsname::UtsName) -> String| uts.as_ref().map(pick);
    let umask = sys::set_umask(0);
    sys::set_umask(umask);
    json!({
        "uids": nix::unistd::getresuid().ok().map(|r| [r.real.as_raw(), r.effective.as_raw(), r.saved.as_raw()]),
        "gids": nix::unistd::getresgid().ok().map(|r| [r.real.as_raw(), r.effective.as_raw(), r.saved.as_raw()]),
        "groups": groups(),
        "umask": umask,
        "pid": std::process::id(),
        "ppid": nix::unistd::getppid().as_raw(),
        "sid": nix::unistd::getsid(None).ok().map(|p| p.as_raw()),
        "args": std::env::args().collect::<Vec<_>>(),
        "env": std::env::vars_os().map(|(k, v)| format!("{}={}", k.to_string_lossy(), v.to_string_lossy())).collect::<Vec<_>>(),
        "cwd": nix::unistd::getcwd().ok(),
        "hostname": uts_word(|u| u.nodename().to_string_lossy().into_owned()),
        "domainname": uts_word(|u| u.domainname().to_string_lossy().into_owned()),
        "machine": uts_word(|u| u.machine().to_string_lossy().into_owned()),
        "rlimits": rlimits(),
        "status": status("/proc/self/status"),
        "ns": links("/proc/self/ns"),
        "fds": links("/proc/self/fd"),
        "mounts": mounts(),
        "cgroup": text("/proc/self/cgroup"),
        "oom_score_adj": text("/proc/self/oom_score_adj").trim(),
        "label": text("/proc/self/attr/current").trim_end_matches(['\0', '\n']),
        "uid_map": text("/proc/self/uid_map"),
        "gid_map": text("/proc/self/gid_map"),
        "timens_offsets": text("/proc/self/timens_offsets"),
        "boottime": nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).ok().map(|t| t.tv_sec()),
        "monotonic": nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).ok().map(|t| t.tv_sec()),
        "personality": sys::personality(),
        "keyring": sys::session_keyring().unwrap_or_else(|error| format!("error: {error}")),
        "keyring_id": sys::session_keyring_id(),
        "tty": tty(),
        "affinity": nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).ok().map(|set|
            (0..64).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect::<Vec<_>>()),
    })
}

fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn groups() -> Vec<u32> {
    let mut groups: Vec<u32> =
        nix::unistd::getgroups().unwrap_or_default().into_iter().map(|gid| gid.as_raw()).collect();
    groups.sort_unstable();
    groups
}

fn rlimits() -> Value {
    let limits = RESOURCES.iter().filter_map(|(name, resource)| {
        let (soft, hard) = getrlimit(*resource).ok()?;
        Some((name.to_string(), json!([soft, hard])))
    });
    Value::Object(limits.collect())
}

/// A `status` file of procfs as a map of strings.
pub fn status(path: &str) -> Value {
    let lines = text(path);
    let fields = lines.lines().filter_map(|line| line.split_once(':'));
    Value::Object(fields.map(|(key, value)| (key.into(), json!(value.trim()))).collect())
}

/// The symbolic links of a directory as a map.
pub fn links(path: &str) -> Value {
    let mut map = Map::new();
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        let target = fs::read_link(entry.path()).unwrap_or_default();
        let name = entry.file_name().to_string_lossy().into_owned();
        // The descriptor that reads this directory is the probe's own.
        if !target.to_string_lossy().ends_with(path.trim_start_matches("/proc/self"))
            || !path.ends_with("fd")
        {
            map.insert(name, json!(target));
        }
    }
    Value::Object(map)
}

/// `/proc/self/mountinfo`, one object per line.
pub fn mounts() -> Value {
    let table = text("/proc/self/mountinfo");
    let lines = table.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let left: Vec<&str> = left.split(' ').collect();
        let right: Vec<&str> = right.split(' ').collect();
        Some(json!({
            "id": left.first(), "parent": left.get(1), "dev": left.get(2), "root": left.get(3),
            "point": left.get(4), "options": left.get(5), "peers": left.get(6..).unwrap_or_default(),
            "type": right.first(), "source": right.get(1), "super": right.get(2),
        }))
    });
    Value::Array(lines.collect())
}

fn tty() -> Value {
    let sizes = [
        sys::window_size(std::io::stdin().as_fd()).ok(),
        sys::window_size(std::io::stdout().as_fd()).ok(),
        sys::window_size(std::io::stderr().as_fd()).ok(),
    ];
    let names = [
        nix::unistd::ttyname(std::io::stdin()).ok(),
        nix::unistd::ttyname(std::io::stdout()).ok(),
        nix::unistd::ttyname(std::io::stderr()).ok(),
    ];
    json!({ "sizes": sizes, "names": names, "controlling": fs::File::open("/dev/tty").is_ok() })
}
