//! `vm.hwConfig`, for which `oci-spec` 0.10 has no type. `config-vm.md` of runtime-spec 1.3.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The hardware of a virtual machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VmHardware {
    /// The device tree to pass to the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_tree: Option<PathBuf>,
    /// How many processors the guest has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<u32>,
    /// The guest's most memory, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Nodes of the host's device tree that the guest gets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dtdevs: Vec<String>,
    /// Pages of the host's I/O memory that the guest gets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub iomems: Vec<VmIoMemory>,
    /// The host's interrupts that the guest gets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub irqs: Vec<u32>,
}

/// A range of I/O memory, in page frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct VmIoMemory {
    /// The guest's first frame; that of the host when absent.
    #[serde(default, rename = "firstGFN", skip_serializing_if = "Option::is_none")]
    pub first_guest_frame: Option<u64>,
    /// The host's first frame.
    #[serde(rename = "firstMFN")]
    pub first_host_frame: u64,
    /// How many frames.
    #[serde(rename = "nrMFNs")]
    pub frames: u64,
}

/// The path to the type, for errors.
#[derive(Deserialize)]
pub(super) struct Section {
    pub(super) vm: Inner,
}

/// As [`Section`].
#[derive(Deserialize)]
pub(super) struct Inner {
    #[serde(rename = "hwConfig")]
    pub(super) hardware: VmHardware,
}
