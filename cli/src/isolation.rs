//! Which wall a container gets, and where the parts of a virtual machine are.
//!
//! The flag decides, then the annotation `io.bulkhead.isolation`, then a section `vm` in the configuration.

use std::path::{Path, PathBuf};

use runtime::{Config, Isolation, MachineFiles, Wall, own_program};

use crate::program::Failure;

/// Where a package puts the programs that users do not call, unless they lie beside this one.
const PROGRAMS: &str = "/usr/libexec/bulkhead";

/// The wall that a flag names.
///
/// # Errors
/// It names none.
pub fn wall(word: Option<&str>) -> Result<Option<Wall>, Failure> {
    let Some(word) = word else { return Ok(None) };
    match Wall::named(word) {
        Some(wall) => Ok(Some(wall)),
        None => Err(Failure::message(format!(
            "invalid value {word:?} for --isolation: is neither namespaces nor vm"
        ))),
    }
}

/// The wall of a container: `asked` on the command line, or else by its configuration.
pub fn choose(asked: Option<Wall>, image: &Path, config: &Config) -> Result<Isolation, Failure> {
    let wall = match asked {
        Some(wall) => Some(wall),
        None => Wall::asked_by(config)?,
    };
    Ok(match wall {
        None | Some(Wall::Namespaces) => Isolation::Namespaces,
        Some(Wall::VirtualMachine) => Isolation::VirtualMachine(machine_files(image)),
    })
}

/// What a machine of this image is made from.
pub fn machine_files(image: &Path) -> MachineFiles {
    MachineFiles {
        image: image.to_owned(),
        monitor: program("bulkhead-vmm"),
        share_server: program("bulkhead-share"),
    }
}

/// A program of ours: beside this one, or where a package puts it.
pub fn program(name: &str) -> PathBuf {
    let beside = own_program().and_then(|own| Some(own.parent()?.join(name)));
    match beside {
        Some(path) if path.exists() => path,
        _ => Path::new(PROGRAMS).join(name),
    }
}
