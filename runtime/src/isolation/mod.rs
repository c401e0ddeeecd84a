//! Which wall a container is behind.
//!
//! The namespaces of the host's kernel are what the rest of this crate makes. A virtual machine is one more
//! container of that kind, the jail, in which a monitor runs a guest, and in the guest an agent runs the same
//! crate. Above, nothing can tell which wall it is: both leave a process of the host that stands for the
//! container, its pid, its end and its exit code.

pub(crate) mod vm;

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::spec::Config;

/// The wall around a container, and what it takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// Namespaces, cgroups and seccomp of the host's kernel.
    #[default]
    Namespaces,
    /// A virtual machine with a kernel of its own.
    VirtualMachine(MachineFiles),
}

/// What a virtual machine is made from. Paths are absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineFiles {
    /// The directory that `bulkhead vm setup` has made: kernel and initramfs.
    pub image: PathBuf,
    /// The monitor, `bulkhead-vmm`.
    pub monitor: PathBuf,
    /// The server of the shared file system, `bulkhead-share`.
    pub share_server: PathBuf,
}

/// A word for each wall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wall {
    /// See [`Isolation::Namespaces`].
    Namespaces,
    /// See [`Isolation::VirtualMachine`].
    VirtualMachine,
}

/// The annotation that names the wall of a container.
pub const ANNOTATION: &str = "io.bulkhead.isolation";

impl Wall {
    /// The wall of this name: `namespaces` or `vm`.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "namespaces" => Some(Self::Namespaces),
            "vm" => Some(Self::VirtualMachine),
            _ => None,
        }
    }

    /// The wall that a configuration asks for: by its annotation `io.bulkhead.isolation`, or else by having a
    /// section `vm`.
    ///
    /// # Errors
    /// The annotation has another value.
    pub fn asked_by(config: &Config) -> Result<Option<Self>> {
        let annotations = config.spec.annotations().as_ref();
        if let Some(word) = annotations.and_then(|map| map.get(ANNOTATION)) {
            let field = || format!("annotations.{ANNOTATION}");
            return match Self::named(word) {
                Some(wall) => Ok(Some(wall)),
                None => {
                    Err(Error::invalid(field(), format!("{word:?} is neither namespaces nor vm")))
                }
            };
        }
        let has_section = config.spec.vm().is_some() || config.hardware.is_some();
        Ok(has_section.then_some(Self::VirtualMachine))
    }
}
