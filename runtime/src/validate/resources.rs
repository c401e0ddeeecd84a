//! Rules of `linux.resources`, for `create` and `update`.
//!
//! Go programs write "unlimited" as -1; any other negative number is a mistake that a cgroup file
//! would answer with a bare EINVAL, or take as unlimited.

use std::collections::BTreeMap;

use oci_spec::runtime::{
    LinuxBlockIo, LinuxDeviceCgroup, LinuxDeviceType, LinuxMemory, LinuxResources,
    LinuxThrottleDevice,
};

use super::{list, no_nul, within};
use crate::error::{Error, Result};
use crate::faults::Faults;

/// Device numbers as the kernel keeps them: 12 and 20 bits.
pub(super) const MAJOR: std::ops::RangeInclusive<i64> = 0..=0xfff;
pub(super) const MINOR: std::ops::RangeInclusive<i64> = 0..=0xf_ffff;

/// Checks limits. `prefix` is `linux.resources.`, or empty for a `resources.json`.
pub(crate) fn resources(
    resources: &LinuxResources,
    prefix: &str,
    faults: &mut Faults,
) -> Result<()> {
    let field = |name: &str| format!("{prefix}{name}");
    for (index, rule) in list(resources.devices()).iter().enumerate() {
        faults.note(device_rule(&format!("{prefix}devices[{index}]"), rule))?;
    }
    if let Some(memory) = resources.memory() {
        check_memory(&field("memory"), memory, faults)?;
    }
    if let Some(cpu) = resources.cpu() {
        for (name, value) in [("quota", cpu.quota()), ("realtimeRuntime", cpu.realtime_runtime())] {
            faults.note(at_least(&format!("{prefix}cpu.{name}"), value, -1))?;
        }
        if let Some(idle) = cpu.idle() {
            faults.note(within(field("cpu.idle"), idle, 0..=1))?;
        }
        for (name, cpus) in [("cpus", cpu.cpus()), ("mems", cpu.mems())] {
            let Some(text) = cpus else { continue };
            let known = |b: u8| b.is_ascii_digit() || b", -\n".contains(&b);
            if !text.bytes().all(known) {
                faults.note(Err(Error::invalid(
                    format!("{prefix}cpu.{name}"),
                    format!("{text:?} is not a list such as 0-3,7"),
                )))?;
            }
        }
    }
    if let Some(pids) = resources.pids() {
        faults.note(at_least(&field("pids.limit"), Some(pids.limit()), -1))?;
    }
    if let Some(io) = resources.block_io() {
        block_io(&field("blockIO"), io, faults)?;
    }
    for (index, huge) in list(resources.hugepage_limits()).iter().enumerate() {
        let field = format!("{prefix}hugepageLimits[{index}]");
        faults.note(at_least(&format!("{field}.limit"), Some(huge.limit()), 0))?;
        faults.note(page_size(&format!("{field}.pageSize"), huge.page_size()))?;
    }
    let priorities = resources.network().as_ref().and_then(|n| n.priorities().as_deref());
    for (index, priority) in priorities.unwrap_or_default().iter().enumerate() {
        faults.note(super::linux::interface_name(
            &format!("{prefix}network.priorities[{index}].name"),
            priority.name(),
        ))?;
    }
    let unified: BTreeMap<_, _> = resources.unified().iter().flatten().collect();
    for (key, value) in unified {
        let field = format!("{prefix}unified[{key:?}]");
        faults.note(no_nul(&field, value))?;
        // A key is a file name in the cgroup's directory and must stay in it.
        if key.is_empty() || key.contains('/') || key.contains('\0') || !key.contains('.') {
            faults.note(Err(Error::invalid(field, "is not the name of a cgroup file")))?;
        }
    }
    Ok(())
}

fn device_rule(field: &str, rule: &LinuxDeviceCgroup) -> Result<()> {
    let typ = rule.typ().unwrap_or_default();
    if matches!(typ, LinuxDeviceType::U | LinuxDeviceType::P) {
        return Err(Error::invalid(
            format!("{field}.type"),
            format!("\"{}\" is not a, b or c", typ.as_str()),
        ));
    }
    for (name, number, range) in [("major", rule.major(), MAJOR), ("minor", rule.minor(), MINOR)] {
        // -1 is "any", as in what runc prints.
        if let Some(number) = number.filter(|number| *number != -1) {
            within(format!("{field}.{name}"), number, range)?;
        }
    }
    let Some(access) = rule.access() else {
        return Ok(());
    };
    let letters = access.bytes().all(|b| b"rwm".contains(&b));
    if !letters || access.len() > 3 {
        return Err(Error::invalid(
            format!("{field}.access"),
            format!("{access:?} has other letters than r, w and m"),
        ));
    }
    Ok(())
}

fn check_memory(field: &str, memory: &LinuxMemory, faults: &mut Faults) -> Result<()> {
    #[allow(deprecated)] // the specification still has it
    let kernel = memory.kernel();
    for (name, value) in [
        ("limit", memory.limit()),
        ("reservation", memory.reservation()),
        ("swap", memory.swap()),
        ("kernel", kernel),
        ("kernelTCP", memory.kernel_tcp()),
    ] {
        faults.note(at_least(&format!("{field}.{name}"), value, -1))?;
    }
    // `swap` is memory and swap together. 0 is "not set" to the engines that write it.
    if let (Some(limit), Some(swap)) = (memory.limit(), memory.swap()) {
        if swap > 0 && limit > 0 && swap < limit {
            faults.note(Err(Error::invalid(
                format!("{field}.swap"),
                format!("{swap} is below the memory limit {limit}, which it includes"),
            )))?;
        }
        if swap > 0 && limit == -1 {
            faults.note(Err(Error::invalid(
                format!("{field}.swap"),
                format!("{swap} cannot be kept with unlimited memory"),
            )))?;
        }
    }
    match memory.swappiness() {
        // What a Go -1 becomes: not set.
        None | Some(u64::MAX) => Ok(()),
        Some(swappiness) => faults.note(within(format!("{field}.swappiness"), swappiness, 0..=100)),
    }
}

fn block_io(field: &str, io: &LinuxBlockIo, faults: &mut Faults) -> Result<()> {
    let weight = |field: String, weight: Option<u16>| match weight {
        None | Some(0) => Ok(()),
        Some(weight) => within(field, weight, 10..=1000),
    };
    faults.note(weight(format!("{field}.weight"), io.weight()))?;
    faults.note(weight(format!("{field}.leafWeight"), io.leaf_weight()))?;
    for (index, device) in list(io.weight_device()).iter().enumerate() {
        let field = format!("{field}.weightDevice[{index}]");
        faults.note(within(format!("{field}.major"), device.major(), MAJOR))?;
        faults.note(within(format!("{field}.minor"), device.minor(), MINOR))?;
        faults.note(weight(format!("{field}.weight"), device.weight()))?;
        faults.note(weight(format!("{field}.leafWeight"), device.leaf_weight()))?;
    }
    let throttles: [(&str, &Option<Vec<LinuxThrottleDevice>>); 4] = [
        ("throttleReadBpsDevice", io.throttle_read_bps_device()),
        ("throttleWriteBpsDevice", io.throttle_write_bps_device()),
        ("throttleReadIOPSDevice", io.throttle_read_iops_device()),
        ("throttleWriteIOPSDevice", io.throttle_write_iops_device()),
    ];
    for (name, devices) in throttles {
        for (index, device) in list(devices).iter().enumerate() {
            let field = format!("{field}.{name}[{index}]");
            faults.note(within(format!("{field}.major"), device.major(), MAJOR))?;
            faults.note(within(format!("{field}.minor"), device.minor(), MINOR))?;
        }
    }
    Ok(())
}

/// Sizes are written as the kernel names its files: a power of two below 1024, and KB, MB or GB.
fn page_size(field: &str, size: &str) -> Result<()> {
    let number = ["KB", "MB", "GB"].iter().find_map(|unit| size.strip_suffix(unit));
    let power = |text: &str| {
        !text.starts_with('+') && text.parse::<u16>().is_ok_and(|n| n < 1024 && n.is_power_of_two())
    };
    if number.is_some_and(power) {
        return Ok(());
    }
    Err(Error::invalid(field, format!("{size:?} is not a page size such as 2MB")))
}

fn at_least(field: &str, value: Option<i64>, least: i64) -> Result<()> {
    match value {
        Some(value) if value < least => {
            Err(Error::invalid(field, format!("{value} is below {least}")))
        }
        _ => Ok(()),
    }
}
