//! Rules of `linux` other than ids and limits.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use oci_spec::runtime::{
    Linux, LinuxDevice, LinuxDeviceType, LinuxIntelRdt, LinuxMemoryPolicy,
    LinuxNamespaceType as Kind, LinuxSeccomp, LinuxSeccompAction as Action,
    MemoryPolicyModeType as Mode,
};

use super::resources::{MAJOR, MINOR};
use super::{Namespaces, Origin, absolute, list, no_nul, resources, within};
use crate::error::{Error, Result};
use crate::faults::Faults;
use crate::{netdev, rdt, spec, sysctl};

/// `MAX_ERRNO` of the kernel.
const MAX_ERRNO: u32 = 4095;

/// What `rootfsPropagation` may be.
const PROPAGATION: [&str; 8] =
    ["private", "rprivate", "rshared", "rslave", "runbindable", "shared", "slave", "unbindable"];

pub(super) fn linux(
    linux: &Linux,
    namespaces: &Namespaces,
    faults: &mut Faults,
    warnings: &mut Vec<String>,
) -> Result<()> {
    for (name, paths) in
        [("maskedPaths", linux.masked_paths()), ("readonlyPaths", linux.readonly_paths())]
    {
        for (index, path) in list(paths).iter().enumerate() {
            faults.note(absolute(&format!("linux.{name}[{index}]"), Path::new(path)))?;
        }
        if !list(paths).is_empty() {
            faults.note(namespaces.need(Kind::Mount, &format!("linux.{name}")))?;
        }
    }
    if let Some(word) = linux.rootfs_propagation()
        && PROPAGATION.binary_search(&word.as_str()).is_err()
    {
        faults.note(Err(Error::invalid(
            "linux.rootfsPropagation",
            format!("{word:?} is none of {}", PROPAGATION.join(", ")),
        )))?;
    }
    if let Some(path) = linux.cgroups_path() {
        faults.note(no_nul("linux.cgroupsPath", path))?;
        // A path must not lead out of the hierarchy's part that its creator meant.
        if path.components().any(|part| part == Component::ParentDir) {
            let reason = format!("{path:?} contains ..");
            faults.note(Err(Error::invalid("linux.cgroupsPath", reason)))?;
        }
    }
    if let Some(label) = linux.mount_label() {
        faults.note(no_nul("linux.mountLabel", label))?;
    }
    check_sysctl(linux, namespaces, faults)?;
    for (index, device) in list(linux.devices()).iter().enumerate() {
        faults.note(check_device(&format!("linux.devices[{index}]"), device))?;
    }
    if let Some(seccomp) = linux.seccomp() {
        check_seccomp(seccomp, faults)?;
    }
    time_offsets(linux, namespaces, faults)?;
    net_devices(linux, namespaces, faults)?;
    if let Some(rdt) = linux.intel_rdt() {
        faults.note(intel_rdt(rdt))?;
    }
    if let Some(policy) = linux.memory_policy() {
        faults.note(memory_policy(policy))?;
    }
    if let Some(flags) = linux.personality().as_ref().and_then(|p| p.flags().as_ref())
        && !flags.is_empty()
    {
        warnings.push(format!("linux.personality.flags: {flags:?} are ignored"));
    }
    match linux.resources() {
        Some(limits) => resources(limits, "linux.resources.", faults),
        None => Ok(()),
    }
}

fn check_sysctl(linux: &Linux, namespaces: &Namespaces, faults: &mut Faults) -> Result<()> {
    let mut parameters: Vec<_> = linux.sysctl().iter().flatten().collect();
    parameters.sort_unstable();
    let mut seen: Vec<(String, &str)> = Vec::new();
    for (name, value) in parameters {
        let field = sysctl::field(name);
        faults.note(no_nul(&field, value))?;
        let invalid = |reason| Error::invalid(&field, reason);
        let owner = sysctl::owner(name).map_err(invalid);
        faults.note(owner.and_then(|owner| namespaces.need(owner, &field)))?;
        let Some(path) = faults.keep(sysctl::path_of(name).map_err(invalid))? else { continue };
        if let Some((_, other)) = seen.iter().find(|(known, _)| *known == path) {
            faults.note(Err(invalid(format!("is given twice, the other as {other:?}"))))?;
        }
        seen.push((path, name));
    }
    Ok(())
}

fn check_device(field: &str, device: &LinuxDevice) -> Result<()> {
    absolute(&format!("{field}.path"), device.path())?;
    match device.typ() {
        LinuxDeviceType::A => {
            Err(Error::invalid(format!("{field}.type"), "\"a\" is not b, c, u or p"))
        }
        // A FIFO has no numbers; what is written there means nothing.
        LinuxDeviceType::P => Ok(()),
        LinuxDeviceType::B | LinuxDeviceType::C | LinuxDeviceType::U => {
            within(format!("{field}.major"), device.major(), MAJOR)?;
            within(format!("{field}.minor"), device.minor(), MINOR)
        }
    }?;
    if let Some(mode) = device.file_mode() {
        // Some engines leave the bits of the file type in.
        within(format!("{field}.fileMode"), mode, 0..=0o177_777)?;
    }
    for (name, id) in [("uid", device.uid()), ("gid", device.gid())] {
        if id == Some(u32::MAX) {
            return Err(Error::invalid(
                format!("{field}.{name}"),
                format!("{} is not an id: it means no change", u32::MAX),
            ));
        }
    }
    Ok(())
}

/// What holds for every profile; the compiler of filters checks what it cannot express.
fn check_seccomp(seccomp: &LinuxSeccomp, faults: &mut Faults) -> Result<()> {
    let action = seccomp.default_action();
    if action == Action::ScmpActNotify {
        faults.note(Err(Error::invalid(
            "linux.seccomp.defaultAction",
            "SCMP_ACT_NOTIFY cannot be the default: the listener could not be handed over",
        )))?;
    }
    let number = seccomp.default_errno_ret();
    faults.note(errno("linux.seccomp.defaultErrnoRet", action, number))?;
    if let Some(path) = seccomp.listener_path() {
        faults.note(absolute("linux.seccomp.listenerPath", path))?;
    } else if seccomp.listener_metadata().is_some() {
        faults.note(Err(Error::invalid(
            "linux.seccomp.listenerMetadata",
            "needs linux.seccomp.listenerPath",
        )))?;
    }
    for (index, rule) in list(seccomp.syscalls()).iter().enumerate() {
        let field = format!("linux.seccomp.syscalls[{index}]");
        faults.note(errno(&format!("{field}.errnoRet"), rule.action(), rule.errno_ret()))?;
        for (index, name) in rule.names().iter().enumerate() {
            if name.is_empty() {
                let field = format!("{field}.names[{index}]");
                faults.note(Err(Error::invalid(field, "\"\" is empty")))?;
            }
        }
        if rule.action() == Action::ScmpActNotify && seccomp.listener_path().is_none() {
            faults.note(Err(Error::invalid(
                format!("{field}.action"),
                "SCMP_ACT_NOTIFY needs linux.seccomp.listenerPath",
            )))?;
        }
        for (index, arg) in list(rule.args()).iter().enumerate() {
            faults.note(within(format!("{field}.args[{index}].index"), arg.index(), 0..=5))?;
        }
    }
    Ok(())
}

fn errno(field: &str, action: Action, errno: Option<u32>) -> Result<()> {
    let Some(errno) = errno else { return Ok(()) };
    match action {
        Action::ScmpActErrno => within(field, errno, 0..=MAX_ERRNO),
        Action::ScmpActTrace => within(field, errno, 0..=u32::from(u16::MAX)),
        other => Err(Error::invalid(field, format!("{errno} means nothing to {other}"))),
    }
}

fn time_offsets(linux: &Linux, namespaces: &Namespaces, faults: &mut Faults) -> Result<()> {
    // In order: of two errors the same one is told every time.
    let offsets: BTreeMap<_, _> = linux.time_offsets().iter().flatten().collect();
    for (clock, offset) in offsets {
        if clock != "monotonic" && clock != "boottime" {
            let field = format!("linux.timeOffsets{}", spec::member(false, clock));
            faults.note(Err(Error::invalid(field, "is not monotonic or boottime")))?;
            continue;
        }
        let field = format!("linux.timeOffsets.{clock}");
        if let Some(nanoseconds) = offset.nanosecs() {
            faults.note(within(format!("{field}.nanosecs"), nanoseconds, 0..=999_999_999))?;
        }
        faults.note(namespaces.need(Kind::Time, &field))?;
        if namespaces.get(Kind::Time) == Origin::Joined {
            let reason = "cannot be set on a time namespace that is joined";
            faults.note(Err(Error::invalid(field, reason)))?;
        }
    }
    Ok(())
}

/// Checks the schemas and the class of service.
pub(crate) fn intel_rdt(asked: &LinuxIntelRdt) -> Result<()> {
    let class = asked.clos_id().as_deref().unwrap_or_default();
    // A name of a directory below resctrl; "/" alone is its root (1.3).
    if !class.is_empty() && class != "/" && !rdt::is_name(class) {
        let reason = format!("{class:?} is not the name of a class of service");
        return Err(Error::invalid("linux.intelRdt.closID", reason));
    }
    let plain = |field: String, text: &str, prefix: &str| {
        let reason = match text {
            _ if text.contains(['\n', '\0']) => "is more than one line".to_owned(),
            _ if !text.contains(':') => "is not a line such as L3:0=7f".to_owned(),
            _ if !text.starts_with(prefix) => format!("does not begin with {prefix}"),
            _ => return Ok(()),
        };
        Err(Error::invalid(field, format!("{text:?} {reason}")))
    };
    for (name, text, prefix) in [
        ("l3CacheSchema", asked.l3_cache_schema(), "L3"),
        ("memBwSchema", asked.mem_bw_schema(), "MB:"),
    ] {
        if let Some(text) = text.as_deref().filter(|text| !text.is_empty()) {
            plain(format!("linux.intelRdt.{name}"), text, prefix)?;
        }
    }
    for (index, text) in list(asked.schemata()).iter().enumerate() {
        plain(format!("linux.intelRdt.schemata[{index}]"), text, "")?;
    }
    Ok(())
}

fn net_devices(linux: &Linux, namespaces: &Namespaces, faults: &mut Faults) -> Result<()> {
    let mut targets: Vec<&str> = Vec::new();
    let mut devices: Vec<_> = linux.net_devices().iter().flatten().collect();
    devices.sort_unstable_by_key(|(name, _)| *name);
    for (name, device) in devices {
        let field = format!("linux.netDevices[{name:?}]");
        faults.note(namespaces.need(Kind::Network, &field))?;
        faults.note(interface_name(&field, name))?;
        let target = netdev::target_name(device.name().as_deref(), name);
        faults.note(interface_name(&format!("{field}.name"), target))?;
        // As `dev_alloc_name()` of the kernel.
        if target.contains('%') && (!target.contains("%d") || target.matches('%').count() > 1) {
            let reason = format!("{target:?} has another template than one %d");
            faults.note(Err(Error::invalid(format!("{field}.name"), reason)))?;
        }
        // `%d` is a template: the kernel fills in the first free number.
        if targets.contains(&target) && !target.contains("%d") {
            faults.note(Err(Error::invalid(
                format!("{field}.name"),
                format!("{target:?} is given twice"),
            )))?;
        }
        targets.push(target);
    }
    Ok(())
}

/// As `dev_valid_name()` of the kernel.
pub(super) fn interface_name(field: &str, name: &str) -> Result<()> {
    let odd = |b: u8| b == b'/' || b == b':' || b == 0 || b.is_ascii_whitespace();
    if name.is_empty() || name.len() > 15 || name == "." || name == ".." || name.bytes().any(odd) {
        return Err(Error::invalid(field, format!("{name:?} is not the name of an interface")));
    }
    Ok(())
}

fn memory_policy(policy: &LinuxMemoryPolicy) -> Result<()> {
    let field = "linux.memoryPolicy.nodes";
    let nodes = policy.nodes().as_deref().unwrap_or_default().trim();
    if !nodes.bytes().all(|b| b.is_ascii_digit() || b",- ".contains(&b)) {
        return Err(Error::invalid(field, format!("{nodes:?} is not a list such as 0-3,7")));
    }
    let mode = policy.mode();
    match mode {
        Mode::MpolDefault | Mode::MpolLocal if !nodes.is_empty() => {
            Err(Error::invalid(field, format!("{nodes:?} means nothing to {mode}")))
        }
        Mode::MpolBind
        | Mode::MpolInterleave
        | Mode::MpolWeightedInterleave
        | Mode::MpolPreferredMany
            if nodes.is_empty() =>
        {
            Err(Error::invalid(field, format!("is required by {mode}")))
        }
        _ => Ok(()),
    }
}
