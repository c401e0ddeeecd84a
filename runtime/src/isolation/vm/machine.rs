//! How large a machine is, and its description for the monitor.

use oci_spec::runtime::{LinuxCpu, LinuxResources};
use serde_json::json;

use crate::error::{Error, Result};
use crate::spec::Config;

/// Annotation: processors of the machine.
pub(crate) const VCPUS: &str = "io.bulkhead.vm.vcpus";
/// Annotation: memory of the machine, in MiB.
pub(crate) const MEMORY: &str = "io.bulkhead.vm.memory";

/// Processors and memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) processors: u8,
    /// In MiB.
    pub(crate) memory: u32,
}

const MIB: u64 = 1 << 20;
/// Memory of a machine of which nothing is said, in MiB.
const DEFAULT_MEMORY: u64 = 512;
/// What kernel and agent need beside the container's own limit, in MiB, and one part in this many of the limit:
/// the kernel's table of pages is 1/64 of memory.
const GUEST_OVERHEAD: (u64, u64) = (64, 32);
/// The least in which the kernel boots, in MiB.
const LEAST_MEMORY: u64 = 96;
/// What the monitor and the share server may use beside the guest's memory, in bytes: threads, tables of the
/// guest's pages; and some 2 KiB of the kernel's for each file that the guest knows, which are [`super::inside::FILES`]
/// at most.
const MONITOR_OVERHEAD: u64 = (64 + 256) * MIB;
/// The monitor's limit.
const MOST_PROCESSORS: u64 = 32;

impl Size {
    /// The size for a container: of `vm.hwConfig`, the annotations, or what its limits need.
    pub(crate) fn of(config: &Config) -> Result<Self> {
        let resources = config.spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        Ok(Self { processors: processors(config, resources)?, memory: memory(config, resources)? })
    }

    /// The most memory that the whole sandbox may use on the host, in bytes.
    pub(crate) fn sandbox_memory(self) -> i64 {
        i64::try_from(u64::from(self.memory) * MIB + MONITOR_OVERHEAD).unwrap_or(i64::MAX)
    }
}

fn annotation(config: &Config, name: &str) -> Result<Option<u64>> {
    let value = config.spec.annotations().as_ref().and_then(|map| map.get(name));
    value
        .map(|text| match text.parse() {
            Ok(number) if number > 0 => Ok(number),
            _ => Err(Error::invalid(
                format!("annotations.{name}"),
                format!("{text:?} is no number above 0"),
            )),
        })
        .transpose()
}

fn processors(config: &Config, resources: Option<&LinuxResources>) -> Result<u8> {
    let hardware = config.hardware.as_ref().and_then(|hardware| hardware.vcpus);
    let (asked, field) = match (hardware, annotation(config, VCPUS)?) {
        (Some(number), _) => (u64::from(number), "vm.hwConfig.vcpus".to_owned()),
        (None, Some(number)) => (number, format!("annotations.{VCPUS}")),
        (None, None) => {
            let cpu = resources.and_then(|resources| resources.cpu().as_ref());
            (cpu.map_or(1, wanted).min(MOST_PROCESSORS), String::new())
        }
    };
    match u8::try_from(asked) {
        Ok(number) if u64::from(number) <= MOST_PROCESSORS => Ok(number),
        _ => Err(Error::unsupported(
            "make the machine",
            field,
            format!("{asked} processors; it can have {MOST_PROCESSORS}"),
        )),
    }
}

/// As many processors as the quota fills.
fn wanted(cpu: &LinuxCpu) -> u64 {
    /// The kernel's default, in microseconds.
    const PERIOD: u64 = 100_000;
    let period = cpu.period().filter(|&period| period > 0).unwrap_or(PERIOD);
    match cpu.quota().and_then(|quota| u64::try_from(quota).ok()).filter(|&quota| quota > 0) {
        Some(quota) => quota.div_ceil(period),
        None => 1,
    }
}

fn memory(config: &Config, resources: Option<&LinuxResources>) -> Result<u32> {
    let hardware = config.hardware.as_ref().and_then(|hardware| hardware.memory);
    let (asked, field) = match (hardware, annotation(config, MEMORY)?) {
        (Some(bytes), _) => (bytes.div_ceil(MIB), "vm.hwConfig.memory".to_owned()),
        (None, Some(number)) => (number, format!("annotations.{MEMORY}")),
        (None, None) => {
            let limit = resources.and_then(|resources| resources.memory().as_ref()?.limit());
            let limit =
                limit.and_then(|limit| u64::try_from(limit).ok()).filter(|&limit| limit > 0);
            let (fixed, share) = GUEST_OVERHEAD;
            let needed =
                limit.map(|limit| limit.div_ceil(MIB)).map(|mib| mib + mib / share + fixed);
            let needed = needed.unwrap_or(DEFAULT_MEMORY).max(LEAST_MEMORY);
            (needed, "linux.resources.memory.limit".to_owned())
        }
    };
    if asked < LEAST_MEMORY {
        let reason = format!("{asked} MiB; the guest's kernel needs {LEAST_MEMORY}");
        return Err(Error::unsupported("make the machine", field, reason));
    }
    u32::try_from(asked).map_err(|_| {
        Error::unsupported("make the machine", field, format!("{asked} MiB are too many"))
    })
}

/// The numbers under which the monitor finds its descriptors.
pub(crate) mod numbers {
    pub(crate) const DESCRIPTION: i32 = 3;
    pub(crate) const KVM: i32 = 4;
    pub(crate) const KERNEL: i32 = 5;
    pub(crate) const INITRAMFS: i32 = 6;
    pub(crate) const LISTENER: i32 = 7;
    pub(crate) const HELLO: i32 = 8;
    pub(crate) const SHARE: i32 = 9;
    /// The first of the disks.
    pub(crate) const DISKS: i32 = 10;
}

/// What the kernel is told besides what the monitor tells it: its last words go to the console, and a panic ends
/// the machine.
const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1";

/// The guest's address. The device is the monitor's own, so that all guests may have the same.
const CID: u32 = 3;

/// The monitor's description of the machine.
pub(crate) fn description(
    size: Size,
    parameters: &[String],
    shares: bool,
    disks: &[bool],
) -> String {
    use numbers::{DISKS, HELLO, INITRAMFS, KERNEL, KVM, LISTENER, SHARE};
    let command_line = [&[COMMAND_LINE.to_owned()], parameters].concat().join(" ");
    let disks: Vec<_> = (DISKS..)
        .zip(disks)
        .map(|(file, read_only)| json!({ "file": file, "readOnly": read_only }))
        .collect();
    let mut description = json!({
        "kvm": KVM,
        "processors": size.processors,
        "memory": size.memory,
        "kernel": KERNEL,
        "initramfs": INITRAMFS,
        "commandLine": command_line,
        "disks": disks,
        "balloon": true,
        "vsock": {
            "cid": CID,
            "listener": LISTENER,
            "ports": [{ "port": wire::HELLO, "stream": HELLO }],
        },
    });
    if shares {
        description["shares"] = json!([{ "tag": wire::SHARE_TAG, "server": SHARE }]);
    }
    description.to_string()
}
