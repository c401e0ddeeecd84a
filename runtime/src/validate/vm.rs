//! Rules of `vm`. Without the other wall the section is checked and kept, and has no effect.

use std::path::Path;

use oci_spec::runtime::VM;

use super::{absolute, list, no_nul};
use crate::error::{Error, Result};
use crate::spec::VmHardware;

/// What `vm.image.format` may be.
const FORMATS: [&str; 5] = ["qcow2", "raw", "vdi", "vhd", "vmdk"];

/// Checks the section. Go programs write the objects that they do not mean, with empty strings.
pub(super) fn vm(vm: &VM) -> Result<()> {
    let meant = |path: &Path| !path.as_os_str().is_empty();
    if let Some(hypervisor) = vm.hypervisor().as_ref().filter(|h| meant(h.path())) {
        absolute("vm.hypervisor.path", hypervisor.path())?;
        texts("vm.hypervisor.parameters", list(hypervisor.parameters()))?;
    }
    let kernel = vm.kernel();
    absolute("vm.kernel.path", kernel.path())?;
    texts("vm.kernel.parameters", list(kernel.parameters()))?;
    if let Some(initrd) = kernel.initrd().as_deref().filter(|path| !path.is_empty()) {
        absolute("vm.kernel.initrd", Path::new(initrd))?;
    }
    if let Some(image) = vm.image().as_ref().filter(|image| meant(image.path())) {
        absolute("vm.image.path", image.path())?;
        let format = image.format();
        if FORMATS.binary_search(&format.as_str()).is_err() {
            let reason = format!("{format:?} is none of {}", FORMATS.join(", "));
            return Err(Error::invalid("vm.image.format", reason));
        }
    }
    Ok(())
}

/// Checks `vm.hwConfig`.
pub(crate) fn vm_hardware(hardware: &VmHardware) -> Result<()> {
    let field = |name: &str| format!("vm.hwConfig.{name}");
    if let Some(tree) = &hardware.device_tree {
        no_nul(&field("deviceTree"), tree)?;
    }
    texts(&field("dtdevs"), &hardware.dtdevs)?;
    for (name, number) in [("vcpus", hardware.vcpus.map(u64::from)), ("memory", hardware.memory)] {
        if number == Some(0) {
            return Err(Error::invalid(field(name), "0 is not above 0"));
        }
    }
    for (index, range) in hardware.iomems.iter().enumerate() {
        let field = |name: &str| format!("vm.hwConfig.iomems[{index}].{name}");
        if range.frames == 0 {
            return Err(Error::invalid(field("nrMFNs"), "0 is not above 0"));
        }
        let firsts =
            [("firstMFN", Some(range.first_host_frame)), ("firstGFN", range.first_guest_frame)];
        for (name, first) in firsts {
            if first.is_some_and(|first| first.checked_add(range.frames).is_none()) {
                let frames = range.frames;
                let reason = format!("{frames} frames from there are more than there can be");
                return Err(Error::invalid(field(name), reason));
            }
        }
    }
    Ok(())
}

fn texts(field: &str, texts: &[String]) -> Result<()> {
    texts
        .iter()
        .enumerate()
        .try_for_each(|(index, text)| no_nul(&format!("{field}[{index}]"), text))
}
